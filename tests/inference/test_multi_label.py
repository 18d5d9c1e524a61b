"""Stage one where an image may have several labels: every door of labels and models, and what is refused."""

import io
import json
import tarfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

import predboard
from predboard import InferConfig, InputError, infer, open_predictions
from predboard.storage.runs import open_run
from tests import toy

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

NAMES = ("cloud", "river", "road")
SETS = [[0, 2], [], [1], [0, 1, 2], None, [2], [1, 2], [0], [], [0, 1], [2], [1]]
"""The labels of each picture; None is not labelled."""
MASK = np.array([[label in (labels or ()) for label in range(3)] for labels in SETS])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures in one folder, and a file of class names."""
    toy.pictures(tmp_path / "by_class", classes=3, each=4)
    (tmp_path / "photos").mkdir()
    for i, file in enumerate(sorted((tmp_path / "by_class").glob("*/*.png"))):
        file.rename(tmp_path / "photos" / f"{i:02d}.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return tmp_path


END = {"sigmoid": "z.sigmoid()", "logsigmoid": "torch.nn.functional.logsigmoid(z)", "softmax": "z.softmax(1)"}


def net(folder: Path, end: str = "", outputs: int = 3) -> str:
    """A model file whose outputs go through `end`."""
    file = folder / f"net{end}.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.head = torch.nn.Linear(192, {outputs})\n"
        "    def forward(self, x):\n"
        f"        z = 6 * self.head(x.flatten(1))\n"
        f"        return {END.get(end, 'z')}\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Net()\n"
    )
    return f"{file}:build"


def run(photos: Path, data: Path | str, out: str = "out", **options: Any) -> Any:
    """The rows of a run, as a pandas frame."""
    settings = {"classes": photos / "names.txt", "preflight": 0, "workers": 1, "task": "multi-label", **options}
    model = settings.pop("model", None) or net(photos)
    lines: list[str] = []
    infer(InferConfig(str(data), model, out=photos / out, **settings), lines.append)
    run.lines = lines  # type: ignore[attr-defined]
    return open_predictions(photos / out).to_pandas()


def sets(frame: Any, column: str = "labels") -> list[list[int] | None]:
    return [None if labels is None else list(labels) for labels in frame[column]]


def refs() -> list[str]:
    return [f"photos/{i:02d}.png" for i in range(12)]


def names_of(labels: list[int] | None, mark: str) -> str:
    return mark.join(NAMES[i] for i in labels or ())


def test_logits_labels_and_derived_columns_of_a_separated_list(photos: Path) -> None:
    rows = {"image": refs(), "labels": [names_of(s, "|") if s else "No Finding" if s == [] else "" for s in SETS]}
    pd.DataFrame(rows).to_csv(photos / "list.csv", index=False)
    frame = run(photos, photos / "list.csv", label_separator="|", none="No Finding", empty="unknown", shard_size=5)
    assert sets(frame) == SETS
    torch.manual_seed(0)
    module = torch.nn.Linear(192, 3)
    for i, logits in enumerate(frame["logits"]):
        pixels = np.asarray(Image.open(photos / "photos" / f"{i:02d}.png").convert("RGB"), np.float32) / 255
        expected = 6 * module(torch.tensor(pixels).permute(2, 0, 1).reshape(1, -1))[0]
        np.testing.assert_allclose(logits, expected.detach().numpy(), 1e-4, 1e-4)
        assert frame["predicted_labels"][i].tolist() == np.flatnonzero(np.array(logits) > 0).tolist()
    (step,) = open_run(photos / "out")
    assert (step.run.task, step.run.scores, step.run.format, step.run.classes) == ("multi-label", "logits", 2, NAMES)


def lists(photos: Path, form: str) -> tuple[str, dict[str, Any]]:
    """A list of the pictures in one form, with the options that it needs."""
    file = photos / f"list.{'csv' if form in ('columns', 'text') else form.partition('-')[0]}"
    if form == "columns":
        values = np.where([[s is None] * 3 for s in SETS], -1, MASK.astype(int))
        frame = pd.DataFrame(values, columns=[f"label_{name}" for name in NAMES])
        frame.insert(0, "image", refs())
        frame.to_csv(file, index=False)
        return str(file), {"label_column": "label_*"}
    if form == "jsonl":
        rows = [
            {"image": r, "labels": None if s is None else [NAMES[i] for i in s]}
            for r, s in zip(refs(), SETS, strict=True)
        ]
        file.write_text("\n".join(map(json.dumps, rows)))
        return str(file), {}
    if form == "parquet-names":
        labels = [None if s is None else [NAMES[i] for i in s] for s in SETS]
        pq.write_table(pa.table({"image": refs(), "labels": labels}), file := photos / "list.parquet")
        return str(file), {}
    if form == "parquet-indices":
        labels = pa.array(SETS, pa.list_(pa.int64()))
        pq.write_table(pa.table({"image": refs(), "labels": labels}), file := photos / "list.parquet")
        return str(file), {}
    if form == "txt":
        lines = [f"{r} {names_of(s, ',')}" for r, s in zip(refs(), SETS, strict=True)]
        (file := photos / "list.txt").write_text("\n".join(lines))
        return str(file), {"label_separator": ",", "empty": "absent"}
    encoded = [(photos / ref).read_bytes() for ref in refs()]
    features = {"image": {"_type": "Image"}, "labels": [{"names": list(NAMES), "_type": "ClassLabel"}]}
    table = pa.table({"image": [{"bytes": b, "path": None} for b in encoded], "labels": SETS})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), file := photos / "hf.parquet")
    return str(file), {"classes": None}


@pytest.mark.parametrize("form", ["columns", "jsonl", "parquet-names", "parquet-indices", "txt", "hugging face"])
def test_every_form_of_a_list_gives_the_same_labels(photos: Path, form: str) -> None:
    data, options = lists(photos, form)
    frame = run(photos, data, **options)
    expected = [[] if labels is None and options.get("empty") == "absent" else labels for labels in SETS]
    assert sets(frame) == expected
    assert open_run(photos / "out")[0].run.classes == NAMES
    assert any("labels in" in line for line in run.lines)  # type: ignore[attr-defined]


def test_columns_of_the_list_stay_and_a_name_of_the_format_is_moved(photos: Path) -> None:
    data, options = lists(photos, "columns")
    table = pd.read_csv(data)
    table["season"], table["predicted"], table["labels"] = "winter", 1, "x"
    table.to_csv(data, index=False)
    frame = run(photos, data, **options)
    assert set(frame["season"]) == {"winter"}
    assert set(frame["manifest_predicted"]) == {1}
    assert set(frame["manifest_labels"]) == {"x"}


def dataset(photos: Path, item: str, more: str = "") -> str:
    file = photos / "data.py"
    file.write_text(
        "import numpy as np, torch\n"
        f"SETS = {SETS!r}\n"
        f"NAMES = {NAMES!r}\n"
        "class Photos:\n"
        f"    {more or 'pass'}\n"
        "    def __len__(self): return 12\n"
        "    def __getitem__(self, i):\n"
        "        s = SETS[i]\n"
        "        return np.full((8, 8, 3), 20 * i, np.uint8), None if s is None else " + item + "\n"
    )
    return f"{file}:Photos"


@pytest.mark.parametrize(
    "item",
    [
        "torch.tensor([float(k in s) for k in range(3)])",
        "np.array([k in s for k in range(3)])",
        "[NAMES[k] for k in s]",
        "sorted(s, reverse=True)",
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_dataset_gives_multi_hot_or_lists(photos: Path, item: str, listed: bool) -> None:
    more = f"targets = [None if s is None else {item} for s in SETS]; classes = NAMES"
    frame = run(photos, dataset(photos, item, more if listed else ""), shard_size=5)
    assert sets(frame) == SETS


def test_classes_in_another_order_move_a_datasets_labels(photos: Path) -> None:
    (photos / "names.txt").write_text("road\ncloud\nriver")
    frame = run(photos, dataset(photos, "np.array([k in s for k in range(3)])", "classes = NAMES"))
    moved = [None if s is None else sorted((1, 2, 0)[k] for k in s) for s in SETS]
    assert sets(frame) == moved


def test_items_with_unknown_labels_and_nan(photos: Path) -> None:
    item = "np.array([1.0, np.nan, -1.0])"
    frame = run(photos, dataset(photos, item), empty="unknown")
    assert sets(frame)[:2] == [[0], [0]]
    assert sets(frame, "unknown")[:2] == [[1, 2], [1, 2]]
    frame = run(photos, dataset(photos, item), "absent", empty="absent")
    assert sets(frame, "unknown")[0] == [2]


def test_an_odd_item_is_a_row_with_its_error(photos: Path) -> None:
    item = "np.array([1, 0, 1, 0]) if i == 3 else np.array([k in s for k in range(3)])"
    frame = run(photos, dataset(photos, item))
    assert frame["error"].notna().tolist() == [i == 3 for i in range(12)]
    assert "label [1 0 1 0] could be indices, or 0 and 1 for each of 3 classes" in frame["error"][3]


def test_probabilities_are_stored_as_log_odds(photos: Path) -> None:
    data, options = lists(photos, "columns")
    plain = np.stack(run(photos, data, "logits", **options)["logits"])
    sigmoid = run(photos, data, "sigmoid", model=net(photos, "sigmoid"), scores="probabilities", **options)
    np.testing.assert_allclose(np.stack(sigmoid["logits"]), plain, 1e-3, 1e-3)
    logarithm = run(photos, data, "log", model=net(photos, "logsigmoid"), scores="log_probabilities", **options)
    np.testing.assert_allclose(np.stack(logarithm["logits"]), plain, 1e-3, 1e-3)
    assert open_run(photos / "sigmoid")[0].run.scores == "log_odds"
    np.testing.assert_allclose(sigmoid["confidence"], np.maximum(expit(plain), expit(-plain)).prod(axis=1), 1e-4)


def test_a_tar_has_lists_in_json_or_separated_text(photos: Path) -> None:
    with tarfile.open(photos / "a.tar", "w") as lists, tarfile.open(photos / "b.tar", "w") as texts:
        for i, labels in enumerate(SETS):
            written = json.dumps({"labels": labels}).encode()
            for archive, end, content in (
                (lists, "json", written),
                (texts, "cls", "|".join(map(str, labels or ())).encode()),
            ):
                picture = (photos / "photos" / f"{i:02d}.png").read_bytes()
                for name, data in ((f"{i:02d}.png", picture), (f"{i:02d}.{end}", content)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    assert sets(run(photos, photos / "a.tar", "a")) == SETS
    frame = run(photos, photos / "b.tar", "b", label_separator="|", empty="absent")
    assert sets(frame) == [labels or [] for labels in SETS]


def test_features_of_a_list_of_labels_name_the_classes(photos: Path) -> None:
    names = types.SimpleNamespace(names=list(NAMES))
    pictures = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(12)]

    class Data:
        features: ClassVar[dict[str, Any]] = {"image": None, "labels": types.SimpleNamespace(feature=names)}

        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> Any:
            return {"image": pictures[i], "labels": SETS[i]}

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    predboard.infer(module, Data(), photos / "out", task="multi-label", preflight=0, workers=1)
    assert open_run(photos / "out")[0].run.classes == NAMES
    assert sets(open_predictions(photos / "out").to_pandas()) == SETS


def test_failed_rows_are_tried_again_and_fewer_rows_are_chosen(photos: Path) -> None:
    data, options = lists(photos, "jsonl")
    picture = (photos / "photos" / "03.png").read_bytes()
    (photos / "photos" / "03.png").write_bytes(b"no picture")
    frame = run(photos, data, shard_size=5, **options)
    assert frame["error"].notna().tolist() == [i == 3 for i in range(12)]
    assert (list(frame["labels"][3]), frame["predicted_labels"][3]) == ([0, 1, 2], None)
    (photos / "photos" / "03.png").write_bytes(picture)
    again = run(photos, data, shard_size=5, retry_errors=True, **options)
    assert again["error"].isna().all()
    assert sets(again) == SETS
    few = run(photos, data, "few", limit=4, **options)
    assert sets(few) == [SETS[int(Path(ref).stem)] for ref in few["image"]]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_write_the_same_parts(photos: Path) -> None:
    data, options = lists(photos, "columns")
    run(photos, data, "one", shard_size=3, **options)
    run(photos, data, "two", shard_size=3, device="cpu,cpu", **options)
    assert open_run(photos / "one")[0].digest == open_run(photos / "two")[0].digest


def test_one_label_is_a_run_of_one_label(photos: Path) -> None:
    (photos / "names.txt").write_text("cloud")
    rows = {"image": refs(), "label_cloud": MASK[:, 0].astype(int)}
    pd.DataFrame(rows).to_csv(photos / "list.csv", index=False)
    frame = run(photos, photos / "list.csv", model=net(photos, outputs=1), label_column="label_*")
    assert np.stack(frame["logits"]).shape == (12, 1)
    assert [list(s) for s in frame["labels"]] == [[0] if true else [] for true in MASK[:, 0]]


def test_a_run_is_resumed_updated_and_refused(photos: Path) -> None:
    data, options = lists(photos, "jsonl")
    first = run(photos, data, shard_size=5, **options)
    lines = Path(data).read_text().splitlines()
    (photos / "out/step=00000000/part-00001.parquet").unlink()
    pd.testing.assert_frame_equal(run(photos, data, shard_size=5, **options), first)
    changed = json.loads(lines[7]) | {"labels": ["road"]}
    Path(data).write_text("\n".join([*lines[:7], json.dumps(changed), *lines[8:]]))
    with pytest.raises(InputError, match="--update"):
        run(photos, data, shard_size=5, **options)
    updated = run(photos, data, shard_size=5, update=True, **options)
    assert sets(updated)[7] == [2]
    assert np.stack(updated["logits"]).tolist() == np.stack(first["logits"]).tolist()
    with pytest.raises(
        InputError, match=r"was made with another task \(multi-label, now single-label\): name another --out"
    ):
        run(photos, photos / "photos", shard_size=5, task="single-label")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "softmax"},
            "ends in a softmax, so it gives an image one label of all; .*leave --task multi-label out",
        ),
        ({"model": "sigmoid"}, "ends in a sigmoid, so it gives probabilities: use --scores probabilities"),
        ({"model": "", "scores": "probabilities"}, "a probability of a label is .*; expected values from 0 to 1"),
        (
            {"model": "sigmoid", "task": "single-label"},
            "--task multi-label takes all of them, with --scores probabilities",
        ),
    ],
)
def test_models_of_another_kind_are_refused(photos: Path, options: dict[str, Any], message: str) -> None:
    data, more = lists(photos, "columns")
    if options.get("task"):
        data, more = str(photos / "photos"), {}
    with pytest.raises(InputError, match=message):
        run(photos, data, **{**more, **options, "model": net(photos, options["model"])})


def test_what_cannot_say_several_labels_is_refused(photos: Path) -> None:
    toy.pictures(photos / "folders", classes=3, each=2)
    with pytest.raises(InputError, match=r"says one class for each image, by its folders .*with --task multi-label"):
        run(photos, photos / "folders")
    frame = run(photos, photos / "photos")
    assert sets(frame) == [None] * 12  # a flat folder says nothing


def test_several_labels_without_the_task_name_the_flag(photos: Path) -> None:
    data, options = lists(photos, "jsonl")
    with pytest.raises(InputError, match="--task multi-label takes all of them"):
        run(photos, data, task="single-label", **options)
    with pytest.raises(InputError, match="several labels of an image are for --task multi-label"):
        data = dataset(photos, "np.array([k in s for k in range(3)])")
        source = (
            (photos / "data.py").read_text().replace("None if s is None else ", "").replace("in s ", "in (s or ()) ")
        )
        (photos / "data.py").write_text(source)
        run(photos, data, task="single-label")
    with pytest.raises(InputError, match=r"has several labels in line 1: .*--task multi-label"):
        (photos / "list.txt").write_text("photos/00.png 1 2\n")
        run(photos, photos / "list.txt", task="single-label")


def test_names_that_are_no_class_and_empty_cells_are_refused(photos: Path) -> None:
    rows = {"image": refs(), "labels": [names_of(s, "|") for s in SETS]}
    rows["labels"][0] = "cloud|raod"
    pd.DataFrame(rows).to_csv(photos / "list.csv", index=False)
    with pytest.raises(InputError, match="--empty absent or --empty unknown"):
        run(photos, photos / "list.csv", label_separator="|")
    with pytest.raises(InputError, match=r"1 label that is no class: 'raod' \(1\)"):
        run(photos, photos / "list.csv", label_separator="|", empty="absent")


def test_objects_of_a_training_loop(photos: Path) -> None:
    pictures = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(12)]
    marks: list[NDArray[np.float64]] = [row.astype(float) for row in MASK]
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    data = list(zip(pictures, marks, strict=True))

    class Data:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, i: int) -> Any:
            return data[i]

    options: dict[str, Any] = {"task": "multi-label", "classes": NAMES, "preflight": 0, "workers": 1}
    predboard.infer(module, Data(), photos / "out", step=3, **options)
    frame = open_predictions(photos / "out").to_pandas()
    assert sets(frame) == [s or [] for s in SETS]
