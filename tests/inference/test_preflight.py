"""The preflight as a whole: what it says of silent mistakes on real files, what it leaves, what it leaves alone."""

import dataclasses
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from predboard import InferConfig, InputError, VisualizeConfig, infer, open_predictions, visualize
from predboard.cli.main import parse
from predboard.images import preprocessing
from predboard.inference import diagnostics, preflight
from predboard.metrics.intervals import sign_test
from predboard.storage.runs import delete_part, list_step_numbers, part_path, preflight_path

from tests import toy

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

_NET = """
import torch
from torch.nn import functional

COLOURS = torch.tensor([[.8, .3, .2], [.3, .7, .2], [.1, .3, .9], [.5, .5, .5]])
MEAN, STD = torch.tensor([.4, .5, .6]), torch.tensor([.2, .3, .1])


class Nearest(torch.nn.Module):
    \"\"\"Names the class whose colour, scaled as in training, is nearest to the picture's mean.\"\"\"

    def __init__(self, kind="plain"):
        super().__init__()
        self.kind = kind
        self.norm = torch.nn.BatchNorm2d(3, affine=False)
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        if self.kind == "batch":
            x = functional.batch_norm(x, None, None, training=True)
        z = -10 * torch.cdist(x.mean((2, 3)), (COLOURS - MEAN) / STD) ** 2 + self.place
        if self.kind == "softmax":
            return z.softmax(1)
        if self.kind == "dropout":
            return functional.dropout(z, 0.2, training=True)
        if self.kind == "small" and x.shape[-1] != 6:
            return z[:, [1, 0, 2, 3]]
        if self.kind == "rigid":
            if x.shape[-1] != 12:
                raise ValueError(f"12 pixels, not {x.shape[-1]}")
            return z[:, [1, 0, 2, 3]] if len(x) > 1 else z
        if self.kind == "nan":
            return torch.where(z.argmax(1, keepdim=True) == 2, torch.nan, z)
        return z


class Stubborn(Nearest):
    \"\"\"Stays in train mode.\"\"\"

    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return super().forward(self.norm(x))


class Floats(torch.utils.data.Dataset):
    classes = ["blue", "grey", "green", "red"]

    def __len__(self):
        return 200

    def __getitem__(self, i):
        colour = COLOURS[[2, 3, 1, 0][i % 4]]
        noise = 0.05 * torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(i))
        return (colour[:, None, None] + noise).clamp(0, 1), i % 4


def floats():
    return Floats()
"""

COLOURS = {"a": (0.8, 0.3, 0.2), "b": (0.3, 0.7, 0.2), "c": (0.1, 0.3, 0.9), "d": (0.5, 0.5, 0.5)}
RIGHT: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures in four classes, each of one colour with noise, and the model that knows them."""
    folder = tmp_path_factory.mktemp("colours")
    (folder / "net.py").write_text(_NET)
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "data" / name).mkdir(parents=True)
        for i in range(50):
            pixels = np.clip(np.array(colour) + random.normal(0, 0.05, (6, 6, 3)), 0, 1) * 255
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "data" / name / f"{i:03}.png")
    return folder


def run(folder: Path, out: Path, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """Infer. -> what was said, the preflight's report."""
    said: list[str] = []
    kind = {"data": str(folder / "data"), "model": f"{folder / 'net.py'}:Nearest", "out": out, **RIGHT}
    done = infer(InferConfig(**{**kind, **options}), said.append)
    assert done.complete
    (report,) = sorted((out / "_preflight").glob("*.json"))[-1:]
    return said, json.loads(report.read_text("utf-8"))


def warned(said: list[str]) -> list[str]:
    return [line.strip() for line in said if line.strip().startswith(("warning: ", "note: "))]


def test_a_sound_run_is_described_and_not_warned_of(folder: Path, tmp_path: Path) -> None:
    said, report = run(folder, tmp_path / "out")
    assert warned(said) == []
    start = next(i for i, line in enumerate(said) if line.startswith("preflight"))
    assert said[start] == (
        "preflight of step 0: 200 images by hash; accuracy 100.0 % of 200 labelled (95 % interval 98.1 to 100.0)"
    )
    assert said[start + 1].startswith(
        "  the model gets rgb -> 3×6×6 (from flags); x/255, mean 0.4 0.5 0.6, std 0.2 0.3 0.1; inputs: mean "
    )
    assert "images/s: about 1 s for 200 rows" in said[start + 2]
    pictures = np.stack([np.asarray(Image.open(f)) for f in (folder / "data").glob("*/*.png")]) / 255
    expected = (pictures - RIGHT["mean"]) / RIGHT["std"]
    np.testing.assert_allclose(report["input_mean"], expected.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(report["input_std"], expected.std((0, 1, 2)), atol=1e-9)
    assert (report["images"], report["labelled"], report["right"], report["failed"]) == (200, 200, 200, 0)
    assert report["doubts"] == report["tried"] == report["order"] == []  # with no error nothing could be better
    assert "warnings" not in open_predictions(tmp_path / "out").step.parts[0].part.provenance


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": "bgr"}, "with channels in RGB order: --channels rgb, if the model was trained so"),
        ({"mean": (102.0, 127.5, 153.0), "std": (51.0, 76.5, 25.5)}, "with mean and std over 255: --mean 0.4,0.5,0.6 "),
        ({"model": "Nearest", "model_args": {"kind": "softmax"}}, "the outputs are probabilities, not logits"),
        ({"model_args": {"kind": "dropout"}}, "the same images give other logits the second time"),
        ({"model_args": {"kind": "batch"}}, "an image's logits depend on the others in its batch: batch"),
        ({"model": "Stubborn"}, "in its batch (the model itself, norm in train mode)"),
        ({"model_args": {"kind": "nan"}}, "the logits of 50 of 200 images are not finite"),
        (
            {"crop": 24},  # of 6×6: 1 - 36 / 576
            "the crop of 24 is larger than most pictures (6×6), so 93.8 % of what the model sees is black: --resize "
            "first",
        ),
        (
            {"resize": 12, "crop": 24},
            "the crop of 24 is larger than most pictures (12×12), so 75.0 % of what the model sees is black: a "
            "--resize of at least 24",
        ),
    ],
)
def test_a_silent_mistake_is_named_and_reaches_the_predictions(
    folder: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    options = {**options, "model": f"{folder / 'net.py'}:{options.get('model', 'Nearest')}"}
    said, report = run(folder, tmp_path / "out", **options)
    lines = warned(said)
    assert words in lines[0]
    assert lines[0].startswith("warning: ")
    assert [f"{'warning' if d['warning'] else 'note'}: {d['text']}" for d in report["doubts"]] == lines
    kept = open_predictions(tmp_path / "out").step.parts[0].part.provenance["warnings"]
    assert kept == [d["text"] for d in report["doubts"] if d["warning"] and not d["again"]]
    assert kept[0] == lines[0].removeprefix("warning: ")


def test_the_remedy_that_is_named_works(folder: Path, tmp_path: Path) -> None:
    said, _ = run(folder, tmp_path / "wrong", mean=(0.0,), std=(1.0,), channels="bgr")
    (line,) = [line for line in warned(said) if " would be " in line]
    flags = (
        line.split(": ")[2].removesuffix(", if the model was trained so").replace(" or the training images' own", "")
    )
    arguments = ["--data", f"{folder / 'data'}", "--model", f"{folder / 'net.py'}:Nearest", "--preflight", "0"]
    done = infer(parse("infer", InferConfig, [*arguments, "--out", f"{tmp_path / 'right'}", *flags.split()]))
    promised = line.partition("would be ")[2].partition(" %")[0]
    assert done.steps[0].accuracy == pytest.approx(float(promised) / 100, abs=6e-4)


def test_names_in_another_order_are_noticed_and_the_order_that_fits_is_left(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("b\na\nc\nd\n")
    said, report = run(folder, tmp_path / "out", classes=tmp_path / "names.txt")
    (line,) = warned(said)
    assert (
        "accuracy of 200 images would be 100.0 %, not 50.0 %, with the class names in plain alphabetical order: "
        in line
    )
    assert report["order"] == ["a", "b", "c", "d"]
    (tmp_path / "names.txt").write_text("\n".join(report["order"]))
    said, _ = run(folder, tmp_path / "right", classes=tmp_path / "names.txt")
    assert warned(said) == []


def test_a_resize_that_the_model_was_not_trained_with_is_named(folder: Path, tmp_path: Path) -> None:
    said, report = run(folder, tmp_path / "out", model_args={"kind": "small"}, resize=12)
    assert warned(said)[0] == (
        "warning: accuracy of 200 images would be 100.0 %, not 50.0 %, with pictures of the size that they have, "
        "6×6: --resize none --crop none, if the model was trained so"
    )
    own, usual = (t for t in report["tried"] if t["name"].startswith("pictures"))
    assert (own["images"], own["right"]) == (200, 200)
    assert usual["images"] == 32  # given up at the first look


def test_a_model_that_takes_no_other_size_is_not_said_to_want_one(folder: Path, tmp_path: Path) -> None:
    said, report = run(folder, tmp_path / "out", model_args={"kind": "rigid"}, resize=12, batch_size=64)
    assert report["right"] < 150
    assert not [line for line in warned(said) if "pictures of" in line]
    assert [t["right"] for t in report["tried"] if t["name"].startswith("pictures")] == [0, 0]


def test_strict_stops_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^the preflight warns, and --strict stops before the long run: accuracy of 200 images would"
    ):
        run(folder, tmp_path / "out", channels="bgr", strict=True)
    assert list_step_numbers(tmp_path / "out") == []
    assert sorted(p.name for p in (tmp_path / "out" / "_preflight").iterdir()) == [
        "step=00000000.json",
        "step=00000000.png",
    ]
    run(folder, tmp_path / "out", strict=True)


def test_the_sheet_shows_the_pictures_as_the_model_gets_them_and_stage_two_shows_the_sheet(
    folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path / "out", channels="bgr")
    sheet = Image.open(preflight_path(tmp_path / "out", 0, ".png"))
    assert sheet.width == 350
    shown = np.asarray(sheet)
    found = {tuple(pixel) for row in shown[::3, ::3] for pixel in row.tolist()}
    everything = [np.asarray(Image.open(f)) for f in sorted((folder / "data").glob("*/*.png"))]
    whole = [p for p in everything if {tuple(v) for v in p.reshape(-1, 3).tolist()} <= found]
    assert len(whole) == 20
    (written,) = visualize(VisualizeConfig((tmp_path / "out",), tmp_path / "logs", panels=("glance", "report")))
    values = toy.read_values(written.event_file)
    content = values["report/what_the_model_sees", 0].tensor.string_val[2]
    assert (np.asarray(Image.open(io.BytesIO(content))) == shown).all()
    page = values["report/summary", 0].tensor.string_val[0].decode()
    assert (
        "- **Warning:** accuracy of 200 images would be 100.0 %, not 50.0 %, with channels in RGB order: --ch" in page
    )


def test_images_without_labels_are_looked_at_as_far_as_that_goes(folder: Path, tmp_path: Path) -> None:
    said, report = run(folder, tmp_path / "out", data=str(folder / "data" / "a"), mean=(0.0,), std=(1.0,))
    assert any(line.endswith("; no labels") for line in said)
    assert (report["labelled"], report["tried"]) == (0, [])
    assert [line.partition(" of ")[0] for line in warned(said)] == ["warning: 100.0 %", "note: the model gets inputs"]


def test_inputs_that_are_floats_already(folder: Path, tmp_path: Path) -> None:
    given = {"data": f"{folder / 'net.py'}:floats", "mean": None, "std": None}
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\ngrey\n")
    said, report = run(folder, tmp_path / "out", classes=tmp_path / "names.txt", **given)
    assert any("(from the dataset); floats as they are; inputs: mean " in line for line in said)
    (line,) = [line for line in warned(said) if " would be " in line]
    assert "what --mean" in line
    assert "in your own transform" in line
    assert report["labelled"] == 200
    with Image.open(preflight_path(tmp_path / "out", 0, ".png")) as sheet:
        assert sheet.width == 350


def test_the_last_of_several_checkpoints_stands_for_all(folder: Path, tmp_path: Path) -> None:
    files = []
    for epoch in (1, 2, 3):
        files.append(tmp_path / f"net_epoch{epoch}.pt")
        state = {"place": torch.full((1,), float(epoch)), "norm.running_mean": torch.zeros(3)}
        torch.save({**state, "norm.running_var": torch.ones(3)}, files[-1])
    said, report = run(folder, tmp_path / "out", checkpoint=tuple(files[:2]), channels="bgr")
    assert report["step"] == 2
    assert sum(line.startswith("preflight") for line in said) == 1
    assert [p.name for p in (tmp_path / "out" / "_preflight").glob("*.json")] == ["step=00000002.json"]
    for step in (1, 2):
        assert open_predictions(tmp_path / "out", step).step.parts[0].part.provenance["warnings"]

    said, _ = run(folder, tmp_path / "out", checkpoint=tuple(files[:2]), channels="bgr")
    assert not any(line.startswith("preflight") for line in said)  # there is nothing to do
    said, report = run(folder, tmp_path / "out", checkpoint=tuple(files), channels="bgr")
    assert report["step"] == 3
    run(folder, tmp_path / "out", checkpoint=(files[2],), preflight=0, overwrite=True)
    assert not preflight_path(tmp_path / "out", 3, ".json").exists()
    assert not preflight_path(tmp_path / "out", 3, ".png").exists()
    assert preflight_path(tmp_path / "out", 2, ".png").exists()


def test_the_rows_are_the_same_with_and_without_it(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "with", channels="bgr", batch_size=7)
    config = InferConfig(
        str(folder / "data"), f"{folder / 'net.py'}:Nearest", out=tmp_path / "without", channels="bgr", batch_size=7,
        preflight=0, **RIGHT
    )  # fmt: skip
    infer(config)
    assert not (tmp_path / "without" / "_preflight").exists()
    parts = [open_predictions(tmp_path / name).step.parts[0].part for name in ("with", "without")]
    assert parts[0].content_digest == parts[1].content_digest
    assert infer(dataclasses.replace(config, out=tmp_path / "with")).written == 0


def test_pictures_that_cannot_be_read_are_counted(folder: Path, tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", each=4)
    for i in (0, 2):
        (tmp_path / "data" / "b" / f"{i:03}.png").write_bytes(b"broken")
    net = toy.model_file(tmp_path)
    said, report = run(folder, tmp_path / "out", data=str(tmp_path / "data"), model=net)
    assert any("preflight of step 0: 10 images by hash, 2 more cannot be read; accuracy" in line for line in said)
    assert (report["images"], report["failed"]) == (10, 2)


def test_what_it_costs_is_bounded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, report = run(folder, tmp_path / "few", channels="bgr", preflight=100)
    assert report["images"] == 100
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MAX_BYTES", 6 * 6 * 3 * 60)
    said, report = run(folder, tmp_path / "large", channels="bgr")
    assert report["images"] == 60
    assert any("warning: accuracy of " in line for line in said)
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MAX_BYTES", 2**28)
    monkeypatch.setattr("predboard.inference.preflight.TRIALS_MIN_SECONDS", 0.0)  # as of a model that takes long
    _, report = run(folder, tmp_path / "slow", channels="bgr")
    assert {tried["images"] for tried in report["tried"]} <= {32, 64}
    assert sign_test(0, 20) < 1e-5  # which is still enough for a mistake that costs a third


def test_a_report_that_is_there_is_said_again_and_not_made_again(folder: Path, tmp_path: Path) -> None:
    said, report = run(folder, tmp_path / "out", channels="bgr", shard_size=50)
    delete_part(part_path(tmp_path / "out", 0, 2))
    before = preflight_path(tmp_path / "out", 0, ".json").stat().st_mtime_ns
    again, same = run(folder, tmp_path / "out", channels="bgr", shard_size=50)
    assert preflight_path(tmp_path / "out", 0, ".json").stat().st_mtime_ns == before
    assert warned(again) == warned(said) != []
    assert same == report
    parts = open_predictions(tmp_path / "out").step.parts
    assert len({tuple(part.part.provenance["warnings"]) for part in parts}) == 1
    delete_part(part_path(tmp_path / "out", 0, 2))
    _, other = run(folder, tmp_path / "out", channels="bgr", shard_size=50, preflight=150)
    assert other["images"] == 150


def test_what_the_models_library_would_do_otherwise_is_named() -> None:
    recipe = preprocessing.Recipe("timm:net", resize=235, crop=224, mean=(0.5,), std=(0.5, 0.5, 0.5))
    same = {"resize": 235, "crop": 224, "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5]}
    assert preprocessing.describe_differences(same, recipe) == []
    other = {**same, "resize": None, "mean": [0.0]}
    assert preprocessing.describe_differences(other, recipe) == ["resize none, not 235", "mean 0 0 0, not 0.5 0.5 0.5"]
    assert preprocessing.describe_differences({"floats": True}, recipe) == ["by your own code"]
    for own_weights in (True, False):
        doubt = diagnostics.diagnose_recipe(
            preprocessing.describe_differences(other, recipe), recipe.source, own_weights
        )
        assert doubt.warning == own_weights
        assert doubt.text.startswith(
            "pictures are not prepared as timm:net says: resize none, not 235, mean 0 0 0, not"
        )


def test_of_outputs_without_a_number_nothing_else_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nan.py").write_text(
        "import torch\n\nclass Nan(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x.new_full((len(x), 4), torch.nan)\n"
    )
    _, report = run(folder, tmp_path / "out", model=f"{tmp_path / 'nan.py'}:Nan")
    names = {doubt["name"] for doubt in report["doubts"]}
    assert "not_finite" in names
    assert "sigmoid" not in names


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (["cuda"], "about 8 min"),  # 100,000 decoded at 200 a second; the model would take 100 s
        (["cuda", "cuda:1", "cuda:2", "cuda:3"], "about 2 min"),  # each with threads of its own
        (["cpu"], "about 10 min"),  # one after the other
        (["cpu", "cpu"], "about 5 min"),
    ],
)
def test_how_long_it_will_take_is_for_all_devices_together(devices: list[str], expected: str) -> None:
    found = preflight.PreflightReport(
        *("", 0, 512, 0, 0, 0, {"size": [8, 8, 3], "channels": "rgb", "mean": [0], "std": [1], "source": "flags"}),
        *((0.0,), (1.0,), 200.0, 1000.0, 1.0, (), ()),
    )
    line = list(found.lines(100_000, 100_000, [torch.device(name) for name in devices]))[2]
    assert line == f"  decodes 200 and infers 1,000 images/s: {expected} for 100,000 rows"
