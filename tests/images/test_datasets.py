"""Torch datasets as data: items of every form against a plain loop, manifests, errors, resuming, other processes."""

import dataclasses
import io
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from predboard import InferConfig, VisualizeConfig, infer, open_predictions, visualize
from predboard.errors import InputError
from predboard.images import datasets
from predboard.images import loader as loading
from predboard.images.datasets import to_content
from predboard.images.loading_processes import LoadingProcesses
from predboard.images.manifest import SourceOptions
from predboard.images.sources import open_source
from predboard.predictions.schema import hash_refs
from predboard.storage.inspection import inspect
from tests import toy

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

RANDOM_WEIGHTS = (
    "warning: random weights: there is no --checkpoint, and tiles.py:Net makes conv.weight, conv.bias, head.weight "
    "and 1 more at random"
)

_CODE = '''
import numpy as np
import torch
from PIL import Image


class Net(torch.nn.Module):
    """Sensitive to the place and the channel of every pixel."""

    def __init__(self, channels=3, classes=3, side=8):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 6, 3, padding=1)
        self.head = torch.nn.Linear(6 * side * side, classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


def numbers(index, channels=3):
    return np.random.default_rng(index).integers(0, 256, (8, 8, channels), np.uint8)


def pillow(index):
    return Image.fromarray(numbers(index))


def array(index):
    return numbers(index)


def tensor(index):
    return torch.from_numpy(numbers(index)).permute(2, 0, 1)


def floats(index):
    return tensor(index).float() / 255


def wide_floats(index):
    return (tensor(index).double() / 255).requires_grad_()


def bands(index):
    return torch.from_numpy(numbers(index, 13)).permute(2, 0, 1).float() * 10


def byte_bands(index):
    return torch.from_numpy(numbers(index, 5)).permute(2, 0, 1)


class Tiles(torch.utils.data.Dataset):
    def __init__(self, image, rows=10):
        self.image, self.rows = image, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        if not 0 <= index < self.rows:
            raise IndexError(index)
        return self.image(index), index % 3


class Named(Tiles):
    classes = ["a", "b", "c"]


def of_pillow():
    return Named(pillow)


def of_array():
    return Named(array)


of_tensor = Named(tensor)
of_floats = Named(floats)
of_wide_floats = Named(wide_floats)
of_bands = Named(bands)
of_byte_bands = Named(byte_bands)
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tiles.py").write_text(_CODE)
    return tmp_path / "tiles.py"


def _scope(file: Path) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "tiles"}
    exec(file.read_text(), scope)
    return scope


def _config(file: Path, name: str, **options: Any) -> InferConfig:
    given = {"data": f"{file}:{name}", "model": f"{file}:Net", "out": file.parent / "out", **options}
    return InferConfig(**given)


def _frame(out: Path, step: int | None = None) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out, step).to_pandas()
    return frame


def _logits(frame: pd.DataFrame) -> Any:
    return np.stack(frame["logits"].to_list())


def _add(file: Path, code: str) -> None:
    file.write_text(f"{file.read_text()}\n\n{code}\n")


# --- what goes into the model ---


@pytest.mark.parametrize(
    ("name", "channels", "flags"),
    [
        ("of_pillow", 3, {}),
        ("of_array", 3, {}),
        ("of_tensor", 3, {"mean": (0.1, 0.2, 0.3), "std": (0.5,)}),
        ("of_floats", 3, {}),
        ("of_wide_floats", 3, {}),
        ("of_bands", 13, {}),
        ("of_byte_bands", 5, {"mean": (0.1, 0.2, 0.3, 0.4, 0.5)}),
    ],
)
def test_logits_are_those_of_a_plain_loop(file: Path, name: str, channels: int, flags: dict[str, Any]) -> None:
    outcome = infer(_config(file, name, model_args={"channels": channels}, batch_size=4, shard_size=7, **flags))
    assert outcome.complete and not outcome.failed
    frame = _frame(file.parent / "out")
    scope = _scope(file)
    torch.manual_seed(0)
    net = scope["Net"](channels=channels).eval()
    mean = torch.tensor(flags.get("mean", (0.0,))).reshape(-1, 1, 1)
    for i, logits in enumerate(_logits(frame)):
        x = torch.from_numpy(scope["numbers"](i, channels)).permute(2, 0, 1).float()
        x = x * 10 if name == "of_bands" else (x / 255 - mean) / flags.get("std", (1.0,))[0]
        with torch.no_grad():
            np.testing.assert_allclose(logits, net(x[None])[0].numpy(), rtol=1e-4, atol=1e-4)
    assert frame["label"].tolist() == [i % 3 for i in range(10)]
    assert frame["image"].tolist() == [f"{name}#{i}" for i in range(10)]
    assert frame["key"].tolist() == hash_refs(frame["image"]).tolist()
    assert set(zip(frame["width"], frame["height"], strict=True)) == {(8, 8)}
    assert frame["digest"].nunique() == 10
    step = open_predictions(file.parent / "out").step
    assert step.run.classes == ("a", "b", "c")
    assert step.run.transform["dataset"] == f"tiles.py:{name}"
    assert step.run.transform["size"] == [8, 8, channels]


def test_pictures_of_a_dataset_are_resized_and_cropped_as_files_are(file: Path) -> None:
    _add(
        file,
        "big = Named(lambda i: Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 20, 3), np.uint8)))\n"
        "big_array = Named(lambda i: np.asarray(big[i][0]))\n"
        "grey = Named(lambda i: big[i][0].convert('L'))\n",
    )
    flags: dict[str, Any] = {"resize": 9, "crop": 8, "interpolation": "bicubic"}
    folder = file.parent / "files"
    folder.mkdir()
    scope = _scope(file)
    for i in range(10):
        scope["big"][i][0].save(folder / f"{i}.png")
    infer(_config(file, "big", data=str(folder), out=file.parent / "expected", **flags))
    expected = _logits(_frame(file.parent / "expected"))
    for name in ("big", "big_array"):
        infer(_config(file, name, out=file.parent / name, **flags))
        np.testing.assert_array_equal(_logits(_frame(file.parent / name)), expected)
    infer(_config(file, "grey", out=file.parent / "grey", channels="gray", model_args={"channels": 1}, **flags))
    assert not _frame(file.parent / "grey")["error"].notna().any()


@pytest.mark.parametrize(
    ("image", "shape", "dtype"),
    [
        (np.zeros((4, 5), np.uint8), (4, 5, 1), "uint8"),
        (np.zeros((4, 5, 3), np.uint8), (4, 5, 3), "uint8"),
        (np.zeros((3, 4, 5), np.float64), (3, 4, 5), "float32"),
        (np.zeros((3, 4, 5), np.float16), (3, 4, 5), "float32"),
        (torch.zeros((4, 5), dtype=torch.uint8), (4, 5, 1), "uint8"),
        (torch.zeros((13, 4, 5), dtype=torch.uint8), (4, 5, 13), "uint8"),
        (torch.zeros((13, 4, 5), dtype=torch.bfloat16), (13, 4, 5), "float32"),
    ],
)
def test_forms_of_an_image(image: Any, shape: tuple[int, ...], dtype: str) -> None:
    found = to_content(image)
    assert isinstance(found, np.ndarray)
    assert (found.shape, str(found.dtype)) == (shape, dtype)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5), np.float32), r"float32 of shape \[4, 5\]; expected .* \[channels, height, width\]"),
        (np.zeros((4, 5, 3), np.uint16), r"uint16 of shape \[4, 5, 3\]"),
        (torch.zeros((2, 3, 4, 5)), r"float32 of shape \[2, 3, 4, 5\]"),
        (torch.zeros((3, 4, 5), dtype=torch.int64), r"int64 of shape"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 of shape \[0, 5, 3\]"),
        ("picture.png", "image is a str"),
        (None, "image is a NoneType"),
    ],
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_content(image)


def test_flags_that_cannot_change_floats_are_refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"--crop, --mean: the dataset gives floats"):
        infer(_config(file, "of_floats", crop=4, mean=(0.5,)))
    with pytest.raises(InputError, match=r"--mean has 2 numbers \(from flags\); expected 1 or 5"):
        infer(_config(file, "of_byte_bands", mean=(0.5, 0.5), model_args={"channels": 5}))
    with pytest.raises(InputError, match=r"images with 5 channels can be neither resized nor cropped here"):
        infer(_config(file, "of_byte_bands", crop=4))


# --- items and labels ---


def _item(
    item: Any, classes: tuple[str, ...] = ("a", "b"), own: tuple[str, ...] = (), **keys: Any
) -> datasets.DatasetItem:
    return datasets.DatasetSource([item], "list", own_classes=own, classes=classes, **keys).load_item(0)


_PICTURE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (1, 1),
        (np.int64(1), 1),
        (np.array([1]), 1),
        (torch.tensor(1), 1),
        (torch.tensor([1]), 1),
        (1.0, 1),
        (torch.tensor(1.0), 1),
        (True, 1),
        ("b", 1),
        ("other", -1),
        (-1, -1),
        (-7, -1),
        (2**40, -1),
        (None, None),
    ],
)
def test_forms_of_a_label(label: Any, expected: int | None) -> None:
    assert _item((_PICTURE, label)).label == expected
    assert _item([_PICTURE, label, "path", {}]).label == expected
    assert _item({"image": _PICTURE, "label": label}).label == expected
    assert _item({"pixel_values": _PICTURE, "labels": label}).label == expected


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (1.5, r"label is a float \(1\.5\); expected the index"),
        (torch.zeros(10), r"label is a Tensor of shape \[10\]"),
        ([1, 0], r"label is a list \(\[1, 0\]\)"),
    ],
)
def test_what_is_no_label(label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _item((_PICTURE, label))


def test_forms_of_an_item() -> None:
    assert _item(_PICTURE).label is None
    assert _item((_PICTURE,)).label is None
    assert _item({"image": _PICTURE}).label is None
    assert _item({"tile": _PICTURE, "kind": 1}, image_key="tile", label_key="kind").label == 1
    assert _item({"image": _PICTURE, "preview": _PICTURE[:, :, :1]}).preview is not None
    with pytest.raises(ValueError, match=r"has no 'image'; it has tile, kind: name the key .* --image-column"):
        _item({"tile": _PICTURE, "kind": 1})
    with pytest.raises(ValueError, match="has no 'kind'"):
        _item({"image": _PICTURE, "label": 1}, label_key="kind")
    with pytest.raises(ValueError, match="empty item"):
        _item(())
    with pytest.raises(ValueError, match="name 'a', but the dataset has no classes: see --classes"):
        _item((_PICTURE, "a"), classes=())


def test_labels_count_through_the_classes_that_were_asked_for() -> None:
    assert [_item((_PICTURE, i), ("c", "a"), ("a", "b", "c")).label for i in range(-1, 5)] == [-1, 1, -1, 0, -1, -1]


def test_labels_without_an_output_missing_and_minus_one_are_rows_without_label(file: Path) -> None:
    _add(
        file, "class Odd(Tiles):\n    def __getitem__(self, i):\n        return pillow(i), [0, 2, 3, -1, None, 99][i]\n"
    )
    _add(file, "odd = Odd(None, 6)")
    outcome = infer(_config(file, "odd"))
    assert outcome.steps[0].unlabelled == 4
    frame = _frame(file.parent / "out")
    assert frame["label"].fillna(-1).tolist() == [0, 2, -1, -1, -1, -1]
    assert open_predictions(file.parent / "out").run.classes == ("0", "1", "2")


def test_a_row_that_raises_is_an_error_row_with_its_reason(file: Path) -> None:
    _add(
        file,
        "class Broken(Named):\n"
        "    targets = [0, 1, 2, 0, 1, 2]\n\n"
        "    def __getitem__(self, i):\n"
        "        if i == 1:\n            raise RuntimeError('tile 1 is under water\\nand more')\n"
        "        if i == 2:\n            return floats(i), 0\n"
        "        if i == 3:\n            return numbers(i)[:4], 0\n"
        "        if i == 4:\n            return numbers(i, 4), 0\n"
        "        return array(i), [2, 1, 0, 0, 0, None][i]\n\n\n"
        "broken = Broken(None, 6)",
    )
    outcome = infer(_config(file, "broken"))
    assert (outcome.failed, outcome.complete) == (4, True)
    frame = _frame(file.parent / "out")
    assert frame["error"].fillna("").tolist() == [
        "",
        "RuntimeError: tile 1 is under water",
        "ValueError: image is float32, the first is uint8; expected one type",
        "ValueError: image is 4×8 (height×width), the first is 8×8: use --resize HxW, or --resize N with --crop N",
        "ValueError: image has 4 channels, the first has 3; expected one number",
        "",
    ]
    # What the item says counts; where it says nothing or cannot be loaded, what the dataset says.
    assert frame["label"].tolist() == [2, 1, 0, 0, 0, 2]


def test_all_rows_failing_is_one_line(file: Path) -> None:
    _add(file, "def missing(index):\n    raise FileNotFoundError(2, 'x')\n\n\nlost = Named(missing)")
    with pytest.raises(
        InputError, match=r"none of the 10 images can be read; the first error is lost#0: FileNotFoundError: No"
    ):
        infer(_config(file, "lost"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("it = 7", r"tiles\.py:it is a int; expected a map-style"),
        ("it = []", r"tiles\.py:it is empty"),
        ("def it():\n    raise OSError('no disk')", r"tiles\.py:it raised OSError: no disk"),
        (
            "class it(torch.utils.data.IterableDataset):\n    def __iter__(self):\n        yield 1",
            r"is a it; expected a map-style",
        ),
        ("def it():\n    return None", r"is a NoneType; expected a map-style"),
        ("", r"has no 'it'; it has: Net, numbers"),
    ],
)
def test_what_is_no_dataset_is_one_line(file: Path, code: str, message: str) -> None:
    _add(file, code)
    with pytest.raises(InputError, match=message) as raised:
        infer(_config(file, "it"))
    assert "\n" not in str(raised.value)


def test_flags_of_lists_are_refused_or_name_keys(file: Path) -> None:
    with pytest.raises(InputError, match=r"--key-column is for lists of images, but tiles\.py:of_array is a dataset"):
        infer(_config(file, "of_array", key_column="id"))
    _add(
        file,
        "class Map(Named):\n    def __getitem__(self, i):\n        return {'tile': array(i), 'kind': 2, 'label': 0}",
    )
    _add(file, "mapped = Map(None)")
    infer(_config(file, "mapped", image_column="tile", label_column="kind"))
    assert _frame(file.parent / "out")["label"].unique().tolist() == [2]


# --- the manifest ---


class Folder:
    """As torchvision's ImageFolder has it."""

    def __init__(self, root: Path | str) -> None:
        self.root = root
        found = sorted(Path(root).glob("*/*.png"))
        self.classes = sorted({path.parent.name for path in found})
        self.samples = [(str(path), self.classes.index(path.parent.name)) for path in found]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return Image.open(self.samples[index][0]), self.samples[index][1]


class Subset:
    def __init__(self, dataset: Any, indices: Any) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


def _manifest(data: Any, **options: Any) -> Any:
    return datasets.make_manifest(datasets.DatasetSource(data, type(data).__name__), SourceOptions(**options))


def test_a_dataset_of_files_has_the_refs_keys_and_labels_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    expected = open_source(str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / "data", "data"):
        found = _manifest(Folder(root))
        assert (found.root, found.classes) == (expected.root, expected.classes)
        assert found.image.to_pylist() == expected.image.to_pylist()
        np.testing.assert_array_equal(found.key, expected.key)
        np.testing.assert_array_equal(found.label, expected.label)
        assert found.digest(0, len(found)) == expected.digest(0, len(found))
    named = _manifest(Folder("data"), classes=("c", "b"))
    assert toy.class_labels(named) == [-1] * 4 + [1] * 4 + [0] * 4


def test_a_subset_has_the_refs_and_labels_of_the_whole(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    whole = _manifest(Folder(tmp_path / "data"))
    subset = Subset(Subset(Folder(tmp_path / "data"), [11, 4, 7, 2]), torch.tensor([3, 0, 1]))
    found = _manifest(subset)
    assert found.image.to_pylist() == [whole.image[i].as_py() for i in (2, 11, 4)]
    assert toy.class_labels(found) == [0, 2, 1]
    assert found.root == whole.root
    loader = loading.Loader(found)
    assert [loader.load(i, None).label for i in range(3)] == [0, 2, 1]
    plain_subset = _manifest(Subset([(_PICTURE, 0)] * 5, [4, 2]))
    assert plain_subset.image.to_pylist() == ["list#4", "list#2"]


def test_paths_that_several_rows_share_do_not_name_them(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=1, each=2)
    folder = Folder(tmp_path / "data")
    folder.samples = [folder.samples[0]] * 3
    found = _manifest(folder)
    assert found.image.to_pylist() == ["Folder#0", "Folder#1", "Folder#2"]
    assert toy.class_labels(found) == [0, 0, 0]


def test_paths_outside_of_the_root_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", classes=1, each=2)
    monkeypatch.chdir(tmp_path)
    folder = Folder("data")
    folder.root = tmp_path / "elsewhere"
    found = _manifest(folder)
    assert (found.root, found.image.to_pylist()) == (str(tmp_path), ["data/a/000.png", "data/a/001.png"])
    absolute = Folder(tmp_path / "data")
    absolute.root = tmp_path / "elsewhere"
    assert _manifest(absolute).image.to_pylist() == [f"{tmp_path}/data/a/000.png", f"{tmp_path}/data/a/001.png"]


@pytest.mark.parametrize("targets", [[2, 0, 1], np.array([2, 0, 1]), torch.tensor([2, 0, 1])])
def test_targets_are_labels(targets: Any) -> None:
    class Data(list[Any]):
        pass

    data = Data([(_PICTURE, 0)] * 3)
    data.targets = targets  # type: ignore[attr-defined]  # as torchvision's datasets have it
    assert toy.class_labels(_manifest(data)) == [2, 0, 1]
    data.targets = [[1, 0]] * 3  # type: ignore[attr-defined]  # of several labels, or boxes
    assert toy.class_labels(_manifest(data)) == [-1, -1, -1]
    data.targets = [1]  # type: ignore[attr-defined]  # of something else
    assert toy.class_labels(_manifest(data)) == [-1, -1, -1]


class Mapped(list[Any]):
    """As Hugging Face has it: mappings, and the names in its features."""

    class Names:
        names = ("cat", "dog")

    features = {"pixels": object(), "image": object(), "label": Names(), "other": Names()}  # noqa: RUF012  as it is there


def test_class_names_are_found_in_features() -> None:
    data = Mapped([{"image": _PICTURE, "label": 1, "other": 0}])
    assert _manifest(data).classes == ("cat", "dog")
    assert _manifest(data, label_column="other").classes == ("cat", "dog")
    assert _manifest(data, label_column="image").classes == ()
    assert _manifest(data, classes=("dog", "cat")).dataset.load_item(0).label == 0


def test_torchvisions_own_datasets_are_read(tmp_path: Path) -> None:
    tv = pytest.importorskip("torchvision", reason="reads torchvision's own datasets")
    toy.pictures(tmp_path / "data")
    folder = tv.datasets.ImageFolder(tmp_path / "data", transform=tv.transforms.ToTensor())
    expected = open_source(str(tmp_path / "data"))
    found = _manifest(folder)
    assert found.image.to_pylist() == expected.image.to_pylist()
    assert (found.root, found.classes) == (expected.root, expected.classes)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.key, expected.key)
    item = found.dataset.load_item(5)
    assert (item.image.shape, str(item.image.dtype), item.label) == ((3, 8, 8), "float32", 1)
    part = _manifest(torch.utils.data.Subset(folder, [7, 0]))
    assert part.image.to_pylist() == ["b/003.png", "a/000.png"]
    fake = _manifest(tv.datasets.FakeData(4, (3, 8, 8), 2))
    assert fake.image.to_pylist() == [f"FakeData#{i}" for i in range(4)]
    assert fake.dataset.load_item(1).label in (0, 1)  # a tensor


# --- resuming ---


def test_a_dataset_is_resumed_grows_and_is_refused_when_its_file_changed(file: Path) -> None:
    (file.parent / "net.py").write_text(_CODE)
    config = _config(file, "of_array", model=f"{file.parent / 'net.py'}:Net", shard_size=4)
    assert infer(config).written == 10
    assert infer(config).written == 0
    before = _frame(file.parent / "out")
    code = file.read_text()
    _add(file, "of_array = Named(array, 14)")
    with pytest.raises(InputError, match=r"made with another transform\.dataset_code .*--overwrite"):
        infer(config)
    file.write_text(code.replace("rows=10", "rows=__import__('os').path.getsize(__file__[:-8] + 'rows')"))
    (file.parent / "rows").write_bytes(b"-" * 10)
    grown = InferConfig(**{**config.__dict__, "out": file.parent / "grown"})
    assert infer(grown).written == 10
    (file.parent / "rows").write_bytes(b"-" * 14)
    assert infer(grown).written == 6  # the last, shorter part again and one more
    frame = _frame(file.parent / "grown")
    np.testing.assert_array_equal(_logits(frame)[:10], _logits(before))


def test_a_limit_takes_the_same_rows_with_their_own_items(file: Path) -> None:
    infer(_config(file, "of_array"))
    infer(_config(file, "of_array", limit=4, out=file.parent / "few"))
    whole, few = (_frame(file.parent / name).set_index("image") for name in ("out", "few"))
    assert len(few) == 4
    assert few["label"].tolist() == whole["label"].loc[few.index].tolist()
    np.testing.assert_allclose(_logits(few), np.stack(whole["logits"].loc[few.index].to_list()), rtol=1e-5, atol=1e-5)


def test_items_that_failed_are_tried_again_with_their_labels(file: Path) -> None:
    _add(
        file,
        "class Flaky(Tiles):\n"
        "    def __getitem__(self, i):\n"
        "        if i % 4 == 1 and not __import__('os').path.exists(__file__ + '.there'):\n"
        "            raise OSError('the disk is away')\n"
        "        return super().__getitem__(i)\n\n\n"
        "flaky = Flaky(array)",
    )
    config = _config(file, "flaky", shard_size=4)
    assert infer(config).failed == 3
    assert _frame(file.parent / "out")["label"].isna().sum() == 3  # only the items know
    Path(f"{file}.there").touch()
    assert infer(dataclasses.replace(config, retry_errors=True)).failed == 0
    assert _frame(file.parent / "out")["label"].tolist() == [i % 3 for i in range(10)]


# --- pictures ---


def _thumbnail(frame: pd.DataFrame, row: int) -> Any:
    with Image.open(io.BytesIO(frame["thumbnail"][row])) as picture:
        return np.asarray(picture).astype(int)


def test_stage_two_shows_what_the_dataset_gave(file: Path) -> None:
    _add(
        file,
        "class Shown(Named):\n"
        "    def __getitem__(self, i):\n"
        "        return {'image': bands(i), 'label': i % 3, 'preview': Image.new('RGB', (40, 20), (250, 0, 0))}\n\n\n"
        "shown = Shown(None)",
    )
    infer(_config(file, "shown", model_args={"channels": 13}))
    assert np.abs(_thumbnail(_frame(file.parent / "out"), 3) - [250, 0, 0]).max() < 5
    (written,) = visualize(VisualizeConfig((file.parent / "out",), file.parent / "logs"))
    assert written.missing_pictures == 0
    values = toy.read_values(written.event_file)
    pages = b"".join(v.tensor.string_val[0] for (tag, _), v in values.items() if tag.startswith("report/"))
    assert b"`tiles.py:shown`" in pages
    assert "data tiles.py:shown" in inspect(file.parent / "out").lines()
    with Image.open(io.BytesIO(values["2_mistakes/confident", 0].tensor.string_val[2])) as tile:
        assert np.abs(np.asarray(tile.convert("RGB"))[107, 100].astype(int) - [250, 0, 0]).max() < 6
    infer(_config(file, "shown", model_args={"channels": 13}, thumbnails=0, out=file.parent / "bare"))
    (written,) = visualize(VisualizeConfig((file.parent / "bare",), file.parent / "logs"))
    assert written.missing_pictures == 10


def test_thumbnails_of_bands_show_the_chosen_ones(file: Path) -> None:
    infer(_config(file, "of_bands", model_args={"channels": 13}, preview_bands=(9, 0, 5)))
    shown = np.stack([_scope(file)["numbers"](i, 13)[:, :, [9, 0, 5]].astype(float) for i in range(10)])
    low, high = np.percentile(shown, [2, 98])
    own = np.percentile(shown[4], [2, 98])
    low, high = min(low, own[0]), max(high, own[1])
    expected = np.clip((shown[4] - low) / (high - low) * 255, 0, 255)
    found = _thumbnail(_frame(file.parent / "out"), 4)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95  # JPEG of noise
    with pytest.raises(InputError, match=r"no band 13 in 13 channels, counted from 0: see --preview-bands"):
        infer(_config(file, "of_bands", preview_bands=(13,), out=file.parent / "none"))


def test_a_preview_counts_more_than_the_file_and_has_its_own_range(file: Path) -> None:
    toy.pictures(file.parent / "data", classes=1, each=2)
    ramp = "torch.linspace(0, 1, 64).reshape(1, 8, 8)"
    _add(
        file,
        f"root = {str(file.parent / 'data')!r}\n\n\n"
        "class Shown(Named):\n"
        "    root, samples = root, [(root + '/a/000.png', 0), (root + '/a/001.png', 0)]\n\n"
        "    def __getitem__(self, i):\n"
        f"        return {{'image': floats(i) * 1000, 'preview': {ramp}}}\n\n\n"
        "shown = Shown(None, 2)",
    )
    infer(_config(file, "shown", out=file.parent / "run"))
    frame = _frame(file.parent / "run")
    assert frame["image"].tolist() == ["a/000.png", "a/001.png"]
    np.testing.assert_allclose(_thumbnail(frame, 0).ravel()[[0, 63]], [0, 255], atol=9)
    (written,) = visualize(VisualizeConfig((file.parent / "run",), file.parent / "logs"))
    values = toy.read_values(written.event_file)
    tag = next(tag for tag, _ in values if tag.startswith("predictions/"))
    with Image.open(io.BytesIO(values[tag, 0].tensor.string_val[2])) as tile:
        shown = np.asarray(tile.convert("RGB"))[60:160, 60:160].astype(int)
    assert np.abs(shown - shown.mean(axis=2, keepdims=True)).max() < 4  # the grey ramp, not the coloured file


def test_a_dark_picture_looks_dark_beside_the_others(file: Path) -> None:
    _add(file, "steps = Named(lambda i: floats(i) * 0.01 + i / 10)")
    infer(_config(file, "steps"))
    frame = _frame(file.parent / "out")
    brightness = [_thumbnail(frame, i).mean() for i in range(10)]
    np.testing.assert_allclose(brightness, np.linspace(0, 255, 10), atol=8)


# --- the same item each time ---


def test_a_random_transform_is_warned_of(file: Path) -> None:
    _add(file, "shaken = Named(lambda i: np.random.default_rng().integers(0, 256, (8, 8, 3), np.uint8))")
    said: list[str] = []
    infer(_config(file, "shaken"), said.append)
    warning = next(line for line in said if line.startswith("warning"))
    assert re.search(r"item shaken#\d differs each time it is loaded: a random transform", warning)
    carried = open_predictions(file.parent / "out").step.parts[0].part.provenance["warnings"]
    assert warning.removeprefix("warning: ") in carried
    said.clear()
    infer(_config(file, "of_array", out=file.parent / "steady"), said.append)
    assert [line for line in said if line.startswith("warning")] == [RANDOM_WEIGHTS]


def test_a_dataset_that_shares_a_file_among_threads_is_refused(file: Path) -> None:
    _add(
        file,
        "class Shared(Named):\n"
        "    at = 0\n\n"
        "    def __getitem__(self, i):\n"
        "        self.at = i  # as seek does\n"
        "        __import__('time').sleep(0.01)\n"
        "        return numbers(self.at), 0  # as read does\n\n\n"
        "shared = Shared(None)",
    )
    with pytest.raises(
        InputError, match=r"item shared#\d differs when 3 threads load the dataset, .* use --processes 3, or"
    ):
        infer(_config(file, "shared", workers=3))
    said: list[str] = []
    infer(_config(file, "shared", workers=1), said.append)
    assert [line for line in said if line.startswith("warning")] == [RANDOM_WEIGHTS]
    infer(_config(file, "of_array", out=file.parent / "expected"))
    expected, found = (_logits(_frame(file.parent / name)) for name in ("expected", "out"))
    np.testing.assert_array_equal(found, expected)


# --- other processes ---


def _loaded(sent: bytes) -> list[tuple[Any, Any]]:
    loader = pickle.loads(sent)
    return [(row.pixels, row.label) for row in loader.load_rows(range(len(loader.manifest)), None)]


def test_a_loader_works_in_a_spawned_process(file: Path) -> None:
    _add(file, "unpicklable = Named(lambda i: array(i))")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name in ("unpicklable", "of_pillow"):
            config = _config(file, name)
            loader = loading.make_loader(config, loading.open_manifest(config))
            found = pool.apply(_loaded, (pickle.dumps(loader),))
            assert [label for _, label in found] == [i % 3 for i in range(10)]
            for i, (pixels, _) in enumerate(found):
                np.testing.assert_array_equal(pixels, _scope(file)["numbers"](i))


_ALONE = """
import multiprocessing
import os
import signal
import time

import numpy as np
from PIL import Image

class Slow:
    classes = ["a", "b", "c"]
    at = None

    def __len__(self):
        return 40

    def __getitem__(self, i):
        if i == 7:
            raise KeyError("no tile 7")
        if i == 23 and multiprocessing.parent_process() is not None:
            self.trouble()
        return Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)), i % 3

    def trouble(self):
        pass


class Killed(Slow):
    def trouble(self):
        os._exit(1)


class Hangs(Slow):
    def trouble(self):
        time.sleep(600)


class Orphaned(Slow):
    def trouble(self):
        signal.alarm(90)  # if nothing else ends it
        os.kill(os.getppid(), signal.SIGKILL)


def turned(picture):
    return picture.rotate(180)
"""


def test_processes_load_what_threads_do(file: Path) -> None:
    (file.parent / "alone.py").write_text(_ALONE)
    data = f"{file.parent / 'alone.py'}:Slow"
    options: dict[str, Any] = {"data": data, "batch_size": 16, "transform": f"{file.parent / 'alone.py'}:turned"}
    infer(_config(file, "", **options))
    infer(_config(file, "", processes=2, out=file.parent / "processes", **options))
    expected, found = _frame(file.parent / "out"), _frame(file.parent / "processes")
    assert found["error"][7] == "KeyError: 'no tile 7'"
    pd.testing.assert_frame_equal(found, expected)


def test_a_loading_process_that_dies_is_one_line_and_nothing_is_lost(file: Path) -> None:
    (file.parent / "alone.py").write_text(_ALONE)
    options: dict[str, Any] = {"data": f"{file.parent / 'alone.py'}:Killed", "batch_size": 8, "shard_size": 8}
    with pytest.raises(
        InputError, match=r"was killed, possibly for lack of memory: use fewer --processes, .* resumes where"
    ):
        infer(_config(file, "", processes=1, **options))
    there = sum(
        open_predictions(file.parent / "out").step.rows for _ in range(any(file.parent.glob("out/*/*.parquet")))
    )
    assert infer(_config(file, "", **options)).written == 40 - there
    assert len(_frame(file.parent / "out")) == 40


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_loads_ends_with_the_command_that_is_killed(file: Path) -> None:
    (file.parent / "alone.py").write_text(_ALONE)
    flags = ["--data", "alone.py:Orphaned", "--model", f"{file.name}:Net", "--out", "out", "--processes", "1"]
    done = subprocess.run(  # it has ended when nobody holds its output any more, which its processes do as well
        [sys.executable, "-m", "predboard", "infer", *flags],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_windows_has_no_tracker_of_resources_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "_posixsubprocess", None)  # importing it fails, as there
    monkeypatch.setattr(resource_tracker, "ensure_running", resource_tracker.ResourceTracker().ensure_running)
    LoadingProcesses(list, 1).end()  # nothing is loaded


def test_a_row_that_hangs_in_a_process_is_tried_here_and_the_process_is_ended(file: Path) -> None:
    (file.parent / "alone.py").write_text(_ALONE)
    data = f"{file.parent / 'alone.py'}:Hangs"
    done = infer(_config(file, "", data=data, processes=1, timeout=3.0))  # in which the process starts as well
    assert (done.written, done.failed) == (40, 1)
    assert multiprocessing.active_children() == []


def test_processes_load_a_dataset_of_the_callers_own_script(file: Path) -> None:
    (file.parent / "script.py").write_text(
        "import numpy as np\n"
        "import predboard\n"
        "import torch\n"
        "from PIL import Image\n\n\n"
        "class Mine:\n"
        "    def __len__(self):\n"
        "        return 5\n\n"
        "    def __getitem__(self, i):\n"
        "        return Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)), i % 3\n\n\n"
        "if __name__ == '__main__':\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))\n"
        "    predboard.infer(model, Mine(), 'out', processes=1, preflight=0)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    frame = _frame(file.parent / "out")
    assert frame["label"].tolist() == [0, 1, 2, 0, 1]
    assert frame["error"].isna().all()
