"""The preflight of models of several labels: silent mistakes on real files are named, sound runs are left alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from predboard import InferConfig, infer, open_predictions

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

_NET = """
import torch
from torch.nn import functional

MEAN, STD = torch.tensor([.4, .5, .6]), torch.tensor([.2, .3, .1])


class Bright(torch.nn.Module):
    \"\"\"Names the channels that are brighter than one half, from inputs that are scaled as in training.\"\"\"

    def __init__(self, kind="plain"):
        super().__init__()
        self.kind = kind
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        z = 20 * (x.mean((2, 3)) * STD + MEAN - 0.5) + self.place
        if self.kind == "sigmoid":
            return (1 / (1 + torch.exp(-z))).clone()
        if self.kind == "softmax":
            e = torch.exp(z)
            return e / e.sum(1, keepdim=True)
        if self.kind == "dropout":
            return functional.dropout(z, 0.2, training=True)
        if self.kind == "rigid":
            if x.shape[-1] != 12:
                raise ValueError(f"12 pixels, not {x.shape[-1]}")
            return z[:, [1, 0, 2]] if len(x) > 1 else z
        if self.kind == "nothing":
            return z - 50
        if self.kind == "everything":
            return z + 50
        return z
"""
NAMES = ("red", "green", "blue")
RIGHT: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures whose channels are bright or dark, each by itself, and the list of those that are bright."""
    folder = tmp_path_factory.mktemp("channels")
    (folder / "net.py").write_text(_NET)
    random = np.random.default_rng(0)
    lines = ["image,labels"]
    for i in range(200):
        bright = random.random(3) < (0.3, 0.5, 0.2)
        pixels = np.clip(np.where(bright, 0.75, 0.25) + random.normal(0, 0.1, (6, 6, 3)), 0, 1) * 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
        lines.append(f"{i:03}.png,{'|'.join(np.array(NAMES)[bright]) or '-'}")
    (folder / "list.csv").write_text("\n".join(lines))
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder


def run(folder: Path, out: Path, kind: str = "plain", **options: Any) -> tuple[list[str], dict[str, Any]]:
    """Infer. -> the warnings of the preflight, its report."""
    lines: list[str] = []
    config = {
        **{"data": str(folder / "list.csv"), "model": f"{folder / 'net.py'}:Bright", "classes": folder / "names.txt"},
        **{"task": "multi-label", "label_separator": "|", "none": "-", "model_args": {"kind": kind}, "out": out},
        **RIGHT,
    }
    assert infer(InferConfig(**{**config, **options}), lines.append).complete
    (report,) = (out / "_preflight").glob("*.json")
    assert (out / "_preflight" / "step=00000000.png").stat().st_size > 1_000
    warned = [line.strip() for line in lines if line.strip().startswith(("warning: ", "note: "))]
    return warned, {**json.loads(report.read_text("utf-8")), "lines": lines}


def test_a_sound_run_is_described_without_warnings(folder: Path, tmp_path: Path) -> None:
    warned, report = run(folder, tmp_path / "out")
    assert warned == []
    line = next(line for line in report["lines"] if line.startswith("preflight"))
    assert line == (
        "preflight of step 0: 200 images chosen by hash; exact 100 % on 200 labelled (95 % interval 98.1 to 100.0)"
    )
    assert (report["measure"], report["right"], report["doubts"]) == ("exact", 200, [])


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("sigmoid", {}, "as after a sigmoid, which would be applied twice"),
        ("softmax", {}, "as after a softmax for one label of many"),
        ("dropout", {}, "a second pass over the same images gives different logits"),
        ("nothing", {}, "no label is predicted for any of 200 images"),
        ("everything", {}, "100 % of all labels of 200 images are predicted"),
        ("plain", {"mean": (0.0,), "std": (1.0,)}, "the calibrated loss of 100 % of 200 images would be lower"),
        ("plain", {"channels": "bgr"}, "with channels in RGB order: --channels rgb, if the model was trained that way"),
    ],
)
def test_a_silent_mistake_is_named(
    kind: str, options: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    warned, report = run(folder, tmp_path / "out", kind, **options)
    assert words in warned[0]
    assert warned[0].startswith("warning: ")
    carried = open_predictions(tmp_path / "out").step.parts[0].part.provenance.get("warnings", [])
    assert carried == [d["text"] for d in report["doubts"] if d["warning"] and not d["again"]]


def test_a_model_that_rejects_other_sizes_gets_no_advice_on_size(folder: Path, tmp_path: Path) -> None:
    warned, report = run(folder, tmp_path / "out", "rigid", resize=12)
    assert not [line for line in warned if "pictures" in line]
    assert [t["loss"] for t in report["tried"] if t["name"].startswith("pictures")] == [1e9, 1e9]


def test_images_without_labels_are_checked_as_far_as_possible(folder: Path, tmp_path: Path) -> None:
    warned, report = run(folder, tmp_path / "out", "nothing", label_column="none", label_separator=None, none="")
    assert (report["labelled"], report["tried"]) == (0, [])
    (line,) = [line for line in warned if line.startswith("warning: ")]
    assert line.startswith("warning: no label is predicted for any of 200 images")


def test_sorted_names_are_noted_and_an_order_that_fits_is_reported(folder: Path, tmp_path: Path) -> None:
    text = (folder / "list.csv").read_text()
    for name, other in zip(NAMES, ("m", "a", "z"), strict=True):
        text = text.replace(name, other)
    (folder / "renamed.csv").write_text(text)
    warned, report = run(folder, tmp_path / "out", classes=None, data=str(folder / "renamed.csv"))
    assert "which are taken in sorted order (a, m, z): if the model's outputs are in another" in warned[0]
    assert "with the class names in another order: a is m, m is a; --classes FILE names the outputs" in warned[1]
    assert report["order"] == ["m", "a", "z"]
