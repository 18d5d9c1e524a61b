"""The preflight as a whole: silent mistakes on real files are named, sound runs are left alone, the report is kept."""

import dataclasses
import io
import json
import shutil
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from predboard import InferConfig, InputError, VisualizeConfig, infer, open_predictions, visualize
from predboard.cli.parser import parse
from predboard.images import decode, preprocessing
from predboard.images.loader import Loader
from predboard.inference import diagnostics
from predboard.inference.preflight_report import PreflightReport, write_report
from predboard.parallel import threads
from predboard.storage.runs import delete_part, list_step_numbers, part_path, preflight_path
from tests import toy

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

from predboard.inference import preflight, preflight_probe
from predboard.inference.forward import compute_outputs

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
        if self.kind == "blind":
            return torch.frac(1000 * x.abs().sum((1, 2, 3)))[:, None].mul(torch.tensor([[1, -1, 7, 3]])).sin()
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
    """Infer. -> the lines logged, the preflight's report."""
    lines: list[str] = []
    kind = {"data": str(folder / "data"), "model": f"{folder / 'net.py'}:Nearest", "out": out, **RIGHT}
    done = infer(InferConfig(**{**kind, **options}), lines.append)
    assert done.complete
    (report,) = sorted((out / "_preflight").glob("*.json"))[-1:]
    return lines, json.loads(report.read_text("utf-8"))


def warned(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip().startswith(("warning: ", "note: "))]


def test_a_sound_run_is_described_without_warnings(folder: Path, tmp_path: Path) -> None:
    lines, report = run(folder, tmp_path / "out")
    assert warned(lines) == []
    start = next(i for i, line in enumerate(lines) if line.startswith("preflight"))
    assert lines[start] == (
        "preflight of step 0: 200 images chosen by hash; accuracy 100 % on 200 labelled (95 % interval 98.1 to 100.0)"
    )
    assert lines[start + 1].startswith(
        "  model input: rgb -> 3×6×6 (from flags); (x/255 - mean) / std with mean 0.4 0.5 0.6, std 0.2 0.3 0.1; "
        "inputs: mean "
    )
    assert "images/s, about 1 s for 200 rows" in lines[start + 2]
    pictures = np.stack([np.asarray(Image.open(f)) for f in (folder / "data").glob("*/*.png")]) / 255
    expected = (pictures - RIGHT["mean"]) / RIGHT["std"]
    np.testing.assert_allclose(report["input_mean"], expected.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(report["input_std"], expected.std((0, 1, 2)), atol=1e-9)
    assert (report["images"], report["labelled"], report["right"], report["failed"]) == (200, 200, 200, 0)
    assert report["doubts"] == report["tried"] == report["order"] == []  # with no error nothing could be better
    assert "warnings" not in open_predictions(tmp_path / "out").step.parts[0].part.provenance


def test_a_run_without_mean_and_std_says_what_the_model_gets(folder: Path, tmp_path: Path) -> None:
    lines, _ = run(folder, tmp_path / "out", mean=None, std=None)
    assert "preprocessing: none (no --mean/--std given); the model gets x/255" in lines
    assert any("rgb -> 3×6×6 (from flags); x/255, no mean or std; inputs: mean 0." in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": "bgr"}, "with channels in RGB order: --channels rgb, if the model was trained that way"),
        ({"mean": (102.0, 127.5, 153.0), "std": (51.0, 76.5, 25.5)}, "with mean and std over 255: --mean 0.4,0.5,0.6 "),
        ({"model": "Nearest", "model_args": {"kind": "softmax"}}, "the outputs are probabilities, not logits"),
        ({"model_args": {"kind": "dropout"}}, "a second pass over the same images gives different logits"),
        ({"model_args": {"kind": "batch"}}, "the logits of an image depend on the other images in its batch: batch"),
        ({"model": "Stubborn"}, "in its batch (the model itself, norm in train mode)"),
        ({"model_args": {"kind": "nan"}}, "the logits of 50 of 200 images are NaN or infinite"),
        (
            {"crop": 24},  # of 6×6: 1 - 36 / 576
            "the crop of 24 is larger than most pictures (6×6), so 93.8 % of the model's input is black "
            "padding: add --resize",
        ),
        (
            {"resize": 12, "crop": 24},
            "the crop of 24 is larger than most pictures (12×12), so 75.0 % of the model's input is black "
            "padding: use --resize 24 or more",
        ),
    ],
)
def test_a_silent_mistake_is_named_and_reaches_the_predictions(
    folder: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    options = {**options, "model": f"{folder / 'net.py'}:{options.get('model', 'Nearest')}"}
    lines, report = run(folder, tmp_path / "out", **options)
    warnings = warned(lines)
    assert words in warnings[0]
    assert warnings[0].startswith("warning: ")
    assert [f"{'warning' if d['warning'] else 'note'}: {d['text']}" for d in report["doubts"]] == warnings
    carried = open_predictions(tmp_path / "out").step.parts[0].part.provenance["warnings"]
    assert carried == [d["text"] for d in report["doubts"] if d["warning"] and not d["again"]]
    assert carried[0] == warnings[0].removeprefix("warning: ")


def test_random_weights_are_one_warning_which_the_predictions_carry(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\n"
        "def build():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))\n"
    )
    lines, report = run(folder, tmp_path / "out", model=f"{tmp_path / 'net.py'}:build")
    warning = "random weights: there is no --checkpoint, and net.py:build makes 2.weight, 2.bias at random"
    assert warned(lines) == [f"warning: {warning}"]  # nothing about chance, another order or other inputs
    assert report["doubts"] == report["tried"] == []
    assert open_predictions(tmp_path / "out").step.parts[0].part.provenance["warnings"] == [warning]


def test_the_remedy_that_is_named_works(folder: Path, tmp_path: Path) -> None:
    lines, _ = run(folder, tmp_path / "wrong", mean=(0.0,), std=(1.0,), channels="bgr")
    (line,) = [line for line in warned(lines) if " would be " in line]
    flags = (
        line.split(": ")[2]
        .removesuffix(", if the model was trained that way")
        .replace(" or the training images' own", "")
    )
    arguments = ["--data", f"{folder / 'data'}", "--model", f"{folder / 'net.py'}:Nearest", "--preflight", "0"]
    done = infer(parse("infer", InferConfig, [*arguments, "--out", f"{tmp_path / 'right'}", *flags.split()]))
    promised = line.partition("would be ")[2].partition(" %")[0]
    assert done.steps[0].accuracy == pytest.approx(float(promised) / 100, abs=6e-4)


def test_names_in_another_order_are_noticed_and_the_fitting_order_is_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("b\na\nc\nd\n")
    lines, report = run(folder, tmp_path / "out", classes=tmp_path / "names.txt")
    (line,) = warned(lines)
    assert (
        "accuracy on 200 images would be 100 % instead of 50.0 % with the class names in plain alphabetical order: "
        in line
    )
    assert report["order"] == ["a", "b", "c", "d"]
    (tmp_path / "names.txt").write_text("\n".join(report["order"]))
    lines, _ = run(folder, tmp_path / "right", classes=tmp_path / "names.txt")
    assert warned(lines) == []


def test_a_resize_unlike_that_of_training_is_named(folder: Path, tmp_path: Path) -> None:
    lines, report = run(folder, tmp_path / "out", model_args={"kind": "small"}, resize=12)
    assert warned(lines)[0] == (
        "warning: accuracy on 200 images would be 100 % instead of 50.0 % with pictures at their own size, "
        "6×6: --resize none --crop none, if the model was trained that way"
    )
    own, usual = (t for t in report["tried"] if t["name"].startswith("pictures"))
    assert (own["images"], own["right"]) == (200, 200)
    assert usual["images"] == 64  # given up at the first look: right for none of some 30 errors


def test_a_model_that_rejects_other_sizes_gets_no_advice_on_size(folder: Path, tmp_path: Path) -> None:
    lines, report = run(folder, tmp_path / "out", model_args={"kind": "rigid"}, resize=12, batch_size=64)
    assert report["right"] < 150
    assert not [line for line in warned(lines) if "pictures of" in line]
    assert [t["right"] for t in report["tried"] if t["name"].startswith("pictures")] == [0, 0]


def test_strict_stops_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"^the preflight has a warning, and --strict stops before the long run: accuracy on 200 images would",
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
        "- **Warning:** accuracy on 200 images would be 100 % instead of 50.0 % with channels in RGB order: --ch"
        in page
    )


def test_images_without_labels_are_checked_as_far_as_possible(folder: Path, tmp_path: Path) -> None:
    lines, report = run(folder, tmp_path / "out", data=str(folder / "data" / "a"), mean=(0.0,), std=(1.0,))
    assert any(line.endswith("; no labels") for line in lines)
    assert (report["labelled"], report["tried"]) == (0, [])
    (dominant, inputs) = warned(lines)
    assert dominant.startswith("warning: 100 % of the predictions are one class, ")
    assert inputs.startswith("note: the model's inputs have mean ")


def test_inputs_that_are_already_floats(folder: Path, tmp_path: Path) -> None:
    given = {"data": f"{folder / 'net.py'}:floats", "mean": None, "std": None}
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\ngrey\n")
    lines, report = run(folder, tmp_path / "out", classes=tmp_path / "names.txt", **given)
    assert any("(from the dataset); floats, unchanged; inputs: mean " in line for line in lines)
    (line,) = [line for line in warned(lines) if " would be " in line]
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
    lines, report = run(folder, tmp_path / "out", checkpoint=tuple(files[:2]), channels="bgr")
    assert report["step"] == 2
    assert sum(line.startswith("preflight") for line in lines) == 1
    assert [p.name for p in (tmp_path / "out" / "_preflight").glob("*.json")] == ["step=00000002.json"]
    for step in (1, 2):
        assert open_predictions(tmp_path / "out", step).step.parts[0].part.provenance["warnings"]

    lines, _ = run(folder, tmp_path / "out", checkpoint=tuple(files[:2]), channels="bgr")
    assert not any(line.startswith("preflight") for line in lines)  # there is nothing to do
    lines, report = run(folder, tmp_path / "out", checkpoint=tuple(files), channels="bgr")
    assert report["step"] == 3
    run(folder, tmp_path / "out", checkpoint=(files[2],), preflight=0, overwrite=True)
    assert not preflight_path(tmp_path / "out", 3, ".json").exists()
    assert not preflight_path(tmp_path / "out", 3, ".png").exists()
    assert preflight_path(tmp_path / "out", 2, ".png").exists()


def test_the_rows_are_the_same_with_and_without_a_preflight(folder: Path, tmp_path: Path) -> None:
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
    lines, report = run(folder, tmp_path / "out", data=str(tmp_path / "data"), model=net)
    assert any(
        "preflight of step 0: 10 images chosen by hash, 2 more cannot be read; accuracy" in line for line in lines
    )
    assert (report["images"], report["failed"]) == (10, 2)


def test_the_cost_is_bounded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, report = run(folder, tmp_path / "few", channels="bgr", preflight=100)
    assert report["images"] == 100
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MAX_BYTES", 6 * 6 * 3 * 60)
    lines, report = run(folder, tmp_path / "large", channels="bgr")
    assert report["images"] == 60
    assert any("warning: accuracy on " in line for line in lines)
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MAX_BYTES", 2**28)
    monkeypatch.setattr("predboard.inference.preflight.TRIALS_MIN_SECONDS", 0.0)  # as of a model that takes long
    lines, report = run(folder, tmp_path / "slow", channels="bgr")
    assert {tried["images"] for tried in report["tried"]} <= {16, 32, 64}
    assert any("channels in RGB order" in line for line in lines)  # which is still enough for what costs a third
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MIN_SECONDS", 0.0)
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MAX_SHARE", 0.4)
    _, report = run(folder, tmp_path / "slower", channels="bgr")
    assert report["images"] == 80  # of 200
    monkeypatch.setattr("predboard.inference.preflight.SAMPLE_MAX_SHARE", 0.1)
    lines, report = run(folder, tmp_path / "slowest", channels="bgr")
    assert report["images"] == 64  # at least
    assert any("channels in RGB order" in line for line in lines)


def test_other_programs_do_not_change_what_is_tried(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []
    for slowness in (1, 20):
        with monkeypatch.context() as patch:
            _Clock(patch, 0.0001, 0.001, slowness)  # 64 images take 1.3 s by the clock
            reports.append(run(folder, tmp_path / str(slowness), channels="bgr")[1])
    assert reports[0]["tried"] == reports[1]["tried"] and reports[0]["images"] == reports[1]["images"] == 200


def test_an_existing_report_is_logged_again_but_not_made_again(folder: Path, tmp_path: Path) -> None:
    lines, report = run(folder, tmp_path / "out", channels="bgr", shard_size=50)
    delete_part(part_path(tmp_path / "out", 0, 2))
    before = preflight_path(tmp_path / "out", 0, ".json").stat().st_mtime_ns
    again, same = run(folder, tmp_path / "out", channels="bgr", shard_size=50)
    assert preflight_path(tmp_path / "out", 0, ".json").stat().st_mtime_ns == before
    assert warned(again) == warned(lines) != []
    assert same == report
    parts = open_predictions(tmp_path / "out").step.parts
    assert len({tuple(part.part.provenance["warnings"]) for part in parts}) == 1
    delete_part(part_path(tmp_path / "out", 0, 2))
    _, other = run(folder, tmp_path / "out", channels="bgr", shard_size=50, preflight=150)
    assert other["images"] == 150


def test_pictures_that_were_written_again_have_a_report_of_their_own(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "own")

    def exchange_red_and_blue() -> None:
        for file in (tmp_path / "own" / "data").glob("*/*.png"):
            Image.fromarray(np.asarray(Image.open(file))[..., ::-1].copy()).save(file)

    exchange_red_and_blue()
    with pytest.raises(InputError, match="--channels bgr"):
        run(tmp_path / "own", tmp_path / "out", strict=True)
    exchange_red_and_blue()
    lines, _ = run(tmp_path / "own", tmp_path / "out", strict=True)
    assert warned(lines) == []


def test_preprocessing_unlike_the_library_is_named() -> None:
    recipe = preprocessing.Recipe("timm:net", resize=235, crop=224, mean=(0.5,), std=(0.5, 0.5, 0.5))
    same = {"resize": 235, "crop": 224, "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5]}
    assert preprocessing.describe_differences(same, recipe) == []
    other = {**same, "resize": None, "mean": [0.0]}
    assert preprocessing.describe_differences(other, recipe) == ["resize none, not 235", "mean 0 0 0, not 0.5 0.5 0.5"]
    assert preprocessing.describe_differences({"floats": True}, recipe) == ["by your own code"]
    for own_weights in (True, False):
        diagnosis = diagnostics.diagnose_recipe(
            preprocessing.describe_differences(other, recipe), recipe.source, own_weights
        )
        assert diagnosis.warning == own_weights
        assert diagnosis.text.startswith(
            "the preprocessing differs from timm:net: resize none, not 235, mean 0 0 0, not"
        )


def test_outputs_that_are_all_nan_get_no_other_diagnosis(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nan.py").write_text(
        "import torch\n\nclass Nan(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x.new_full((len(x), 4), torch.nan)\n"
    )
    _, report = run(folder, tmp_path / "out", model=f"{tmp_path / 'nan.py'}:Nan")
    names = {d["name"] for d in report["doubts"]}
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
def test_the_forecast_is_for_all_devices_together(devices: list[str], expected: str) -> None:
    found = PreflightReport(
        *("", 0, 512, 0, 0, 0, {"size": [8, 8, 3], "channels": "rgb", "mean": [0], "std": [1], "source": "flags"}),
        *((0.0,), (1.0,), 200.0, 1000.0, 1.0, (), ()),
    )
    line = list(found.lines(100_000, 100_000, [torch.device(name) for name in devices]))[2]
    assert line == f"  speed: decodes 200 and infers 1,000 images/s, {expected} for 100,000 rows"


def test_the_forecast_is_of_decoding_and_model_at_once_where_that_was_measured(folder: Path, tmp_path: Path) -> None:
    lines, report = run(folder, tmp_path / "out", preflight=64, batch_size=16)
    assert report["together_per_second"] > 0
    (line,) = [line for line in lines if line.startswith("  speed: ")]
    assert f", both at once {report['together_per_second']:,.0f}, about " in line
    # 50 images/s make 2,000 s of 100,000; two further steps at 1,000 images/s another 200 s.
    described = PreflightReport(
        *("", 0, 512, 0, 0, 0, {"size": [8, 8, 3], "channels": "rgb", "mean": [0], "std": [1], "source": "flags"}),
        *((0.0,), (1.0,), 200.0, 1000.0, 1.0, (), ()),
        together_per_second=50.0,
    )
    assert (
        "both at once 50, about 37 min for 300,000" in list(described.lines(100_000, 300_000, [torch.device("cpu")]))[2]
    )
    assert run(folder, tmp_path / "all")[1]["together_per_second"] == 0  # the run is no longer than the preflight


def test_the_trial_of_the_forecast_writes_a_part_of_its_own_share(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, staged = tmp_path / "out", list[str]()

    def watched(*given: Any, **options: Any) -> Any:
        staged.extend(path.name for path in out.rglob("*.tmp"))
        return threads.ordered_map(*given, **options)

    monkeypatch.setattr(preflight_probe, "ordered_map", watched)
    run(folder, out, preflight=32, shard_size=50, part=(3, 4))
    # which the next process of this share removes if this one is killed
    assert [name[:19] for name in staged] == [".part-00002.parquet"]


class _Clock:
    """Seconds that pass only while pictures are decoded or go through the model, so many for each.

    By the clock all takes so many times as much, as beside other programs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, decode: float, infer: float, slowness: float = 1) -> None:
        self.now, self.decoded, self.inferred = 0.0, 0, 0
        stream, outputs = Loader.stream, compute_outputs

        def slow_stream(loader: Loader, chunks: Any, *rest: Any) -> Any:
            for task, rows in stream(loader, chunks, *rest):
                self.now += decode * len(rows)
                self.decoded += len(rows)
                yield task, rows

        def slow_outputs(networks: Any, prepare: Any, pictures: Any, limit: Any) -> Any:
            self.now += infer * len(pictures)
            self.inferred += len(pictures)
            return outputs(networks, prepare, pictures, limit)

        monkeypatch.setattr(Loader, "stream", slow_stream)
        monkeypatch.setattr(preflight_probe, "compute_outputs", slow_outputs)
        for module in (preflight, preflight_probe):
            monkeypatch.setattr(
                module,
                "time",
                types.SimpleNamespace(perf_counter=lambda: slowness * self.now, process_time=lambda: self.now),
            )


@pytest.mark.parametrize(
    ("decode", "infer_", "least"), [(1e-6, 0.5, 16), (1.0, 0.01, 16), (0.1, 0.1, 64), (1e-6, 0.001, 200)]
)
@pytest.mark.parametrize("options", [{}, {"channels": "bgr"}, {"model_args": {"kind": "small"}, "resize": 12}])
def test_it_ends_in_time_however_slow_the_images_and_the_model_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decode: float, infer_: float, least: int,
    options: dict[str, Any],
) -> None:  # fmt: skip
    clock, ended = _Clock(monkeypatch, decode, infer_), list[float]()

    def write(*given: Any) -> None:
        ended.append(clock.now)
        write_report(*given)

    monkeypatch.setattr(preflight, "write_report", write)
    _, report = run(folder, tmp_path / "out", **options)
    assert ended[0] <= preflight.MAX_SECONDS
    assert report["images"] >= least


def test_a_sound_model_is_judged_by_half_the_sample_and_a_doubtful_one_by_all_of_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "FIRST_IMAGES", 80)
    monkeypatch.setattr(preflight, "FIRST_PORTION", 8)
    _, sound = run(folder, tmp_path / "sound")
    _, doubtful = run(folder, tmp_path / "doubtful", channels="bgr")
    assert (sound["images"], doubtful["images"]) == (80, 200)


def test_a_model_at_chance_is_judged_by_the_first_images_where_no_other_way_stands_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "FIRST_IMAGES", 80)
    monkeypatch.setattr(preflight, "FIRST_PORTION", 8)
    _, report = run(folder, tmp_path / "blind", model_args={"kind": "blind"})
    assert report["images"] == 80
    assert "chance" in {d["name"] for d in report["doubts"]}
    assert len(report["tried"]) == 14 and not any(tried["images"] > 80 for tried in report["tried"])


def test_images_of_the_preflight_are_not_decoded_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, decode_image = list[int](), decode.decode_image

    def count(encoded: bytes, *rest: Any) -> Any:
        decoded.append(len(encoded))
        return decode_image(encoded, *rest)

    monkeypatch.setattr(decode, "decode_image", count)
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "FIRST_IMAGES", 80)
        patch.setattr(preflight, "FIRST_PORTION", 8)
        _, report = run(folder, tmp_path / "half", thumbnails=4)
    assert (report["images"], len(decoded)) == (
        80,
        1 + 200 + 200,
    )  # for the size, for preflight and run together, for the forecast
    config = InferConfig(
        str(folder / "data"), f"{folder / 'net.py'}:Nearest", out=tmp_path / "none", thumbnails=4, preflight=0, **RIGHT
    )
    infer(config)
    parts = [open_predictions(tmp_path / name).step.parts[0].part for name in ("half", "none")]
    assert parts[0].content_digest == parts[1].content_digest
    decoded.clear()
    run(folder, tmp_path / "out", preflight=150)
    assert len(decoded) == 1 + 150 + 200  # for the size of the input, for the preflight, for its forecast and the run
    delete_part(part_path(tmp_path / "out", 0, 0))
    decoded.clear()
    run(folder, tmp_path / "out", preflight=150)  # whose report is there
    assert len(decoded) == 1 + 200


def test_the_first_images_of_a_sound_model_cost_little_more_than_one_pass(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock(monkeypatch, 0.001, 0.001)
    run(folder, tmp_path / "out")
    assert clock.decoded == 1 + 200 + 200  # for the size of the input, for the preflight, for the run
    assert clock.inferred == 200 + 16 + 16  # a second pass over the first portion, and one in other company
