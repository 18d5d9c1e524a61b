"""Stage one with a model that has one output for two classes."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

import predboard
from predboard import InferConfig, InputError, infer
from predboard.cli import main
from predboard.predictions.derive import MIN_PROBABILITY
from tests.inference.nets import read_frame, stack_logits

pytestmark = pytest.mark.slow

SINGLE = """
import torch


class Net(torch.nn.Module):
    \"\"\"One output: how bright a picture is, 0 at 96 of 255.\"\"\"

    def __init__(self, shape="rows,1", end="", sign=1.0):
        super().__init__()
        self.head = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.head.weight, sign * 85 / 16)
        torch.nn.init.constant_(self.head.bias, sign * -6.0)
        self.shape, self.end = shape, end

    def forward(self, x):
        z = self.head(x.mean((2, 3)))
        if self.end:
            z = getattr(torch, self.end)(z) if self.end == "sigmoid" else getattr(torch.nn.functional, self.end)(z)
        return {"rows,1": z, "rows": z[:, 0], "squeezed": z.squeeze(), "map": z[:, :, None, None]}[self.shape]
"""

GREYS = {"cat": range(0, 120, 2), "dog": range(80, 200, 2)}
"""Brightness of the pictures of each class, 60 of each; at 96 the output is 0."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, greys in GREYS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for grey in greys:
            Image.new("RGB", (4, 4), (grey,) * 3).save(tmp_path / "data" / name / f"{grey:03d}.png")
    (tmp_path / "net.py").write_text(SINGLE)
    return tmp_path


def run(place: Path, out: str = "out", **options: Any) -> Any:
    options = {"preflight": 0, **options}
    model = options.pop("model", f"{place / 'net.py'}:Net")
    infer(InferConfig(str(place / "data"), model, out=place / out, **options), lambda _: None)
    return read_frame(place / out)


def expected() -> NDArray[np.float32]:
    """The output for each picture, in the order of the rows."""
    greys = np.array([grey for of_class in GREYS.values() for grey in of_class], np.float32)
    return (greys / 255 * 85 / 16 * 3 - 6).astype(np.float32)


@pytest.mark.parametrize("shape", ["rows,1", "rows", "squeezed", "map"])
@pytest.mark.parametrize("batch_size", [7, 17])  # the last batch has one picture, or several
def test_an_output_of_any_shape_is_stored_as_two_logits(shape: str, batch_size: int, place: Path) -> None:
    frame = run(place, model_args={"shape": shape}, batch_size=batch_size)
    logits = stack_logits(frame)
    assert np.all(logits[:, 0] == 0)
    np.testing.assert_allclose(logits[:, 1], expected(), atol=1e-5)
    assert frame["predicted"].tolist() == (logits[:, 1] > 0).astype(int).tolist()
    assert frame["label"].tolist() == [0] * 60 + [1] * 60
    p = 1 / (1 + np.exp(-logits[:, 1].astype(float)))
    np.testing.assert_allclose(frame["confidence"], np.maximum(p, 1 - p), rtol=1e-6)


def test_an_output_of_exactly_0_is_the_class_of_the_lower_index(place: Path) -> None:
    (place / "net.py").write_text(SINGLE.replace("sign * 85 / 16", "0.0").replace("sign * -6.0", "0.0"))
    assert set(run(place)["predicted"]) == {0}
    assert set(run(place, "other", positive="cat")["predicted"]) == {0}


def test_probabilities_become_both_logarithms_in_double_precision(place: Path) -> None:
    for end, scores in (("sigmoid", "probabilities"), ("logsigmoid", "log_probabilities")):
        logits = stack_logits(run(place, end, model_args={"end": end}, scores=scores)).astype(float)
        z = expected().astype(float)
        np.testing.assert_allclose(logits[:, 1], -np.log1p(np.exp(-z)), rtol=1e-4)  # a sigmoid near 1 is rounded
        np.testing.assert_allclose(logits[:, 0], -np.log1p(np.exp(z)), rtol=1e-4)
    (place / "net.py").write_text(SINGLE.replace("-6.0", "40.0"))  # whose sigmoid is exactly 1 in single precision
    sure = stack_logits(run(place, "sure", model_args={"end": "sigmoid"}, scores="probabilities"))
    np.testing.assert_allclose(sure, [[np.log(MIN_PROBABILITY), 0]] * 120)


def test_the_positive_class_may_be_the_first_and_decides_whether_parts_are_valid(place: Path) -> None:
    run(place, model_args={"sign": -1.0}, positive="cat")
    logits = stack_logits(read_frame(place / "out"))
    assert np.all(logits[:, 1] == 0)
    np.testing.assert_allclose(logits[:, 0], -expected(), atol=1e-5)
    (step,) = (place / "out").glob("step=*")
    before = [part.stat().st_mtime_ns for part in sorted(step.glob("*.parquet"))]
    run(place, model_args={"sign": -1.0}, positive="cat")
    assert [part.stat().st_mtime_ns for part in sorted(step.glob("*.parquet"))] == before
    for other in (None, "dog"):
        with pytest.raises(InputError, match=r"was made with another positive \(cat, now dog\)"):
            run(place, model_args={"sign": -1.0}, positive=other)
    run(place, "default")
    run(place, "default", positive="dog")  # which is the default


def test_two_outputs_may_name_the_positive_class_too(place: Path) -> None:
    two = SINGLE.replace("z = self.head(x.mean((2, 3)))", "z = self.head(x.mean((2, 3))); return torch.cat([-z, z], 1)")
    (place / "net.py").write_text(two)
    plain, named = stack_logits(run(place)), stack_logits(run(place, "named", positive="cat"))
    np.testing.assert_array_equal(plain, named)
    predboard.visualize(place / "named", logdir=place / "logs", panels=("two_classes",), workers=1)
    assert json.loads((place / "logs" / "named" / "summary.json").read_text())["positive"] == "cat"


@pytest.mark.parametrize("kind", ["pt2", "pt2-fixed", "torchscript", "data-parallel", "embeddings", "processes"])
def test_programs_checkpoints_and_workers(kind: str, place: Path) -> None:
    scope: dict[str, Any] = {}
    exec((place / "net.py").read_text(), scope)
    module = scope["Net"](shape="rows").eval()
    options: dict[str, Any] = {}
    if kind.startswith("pt2"):
        rows = torch.export.Dim("rows", min=1, max=64)
        shapes = None if kind.endswith("fixed") else {"x": {0: rows}}
        sample = torch.rand(6, 3, 4, 4)
        torch.export.save(torch.export.export(module, (sample,), dynamic_shapes=shapes), place / "net.pt2")
        options["model"] = str(place / "net.pt2")
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
            trace: Any = torch.jit.trace
            trace(module, torch.rand(2, 3, 4, 4)).save(place / "net.pt")
        options["model"] = str(place / "net.pt")
    elif kind == "data-parallel":
        torch.save({"state_dict": torch.nn.DataParallel(module).state_dict()}, place / "net.pth")
        options["checkpoint"] = (place / "net.pth",)
    elif kind == "embeddings":
        options["embeddings"] = True
    else:
        options["device"] = "cpu,cpu"
    frame = run(place, **options)
    np.testing.assert_allclose(stack_logits(frame)[:, 1], expected(), atol=1e-5)
    if kind == "embeddings":
        assert len(frame["embedding"][0]) == 3


def test_a_row_that_fails_and_is_retried(place: Path) -> None:
    broken = place / "data" / "cat" / "000.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"broken")
    assert run(place)["logits"].isna().sum() == 1
    broken.write_bytes(whole)
    np.testing.assert_allclose(stack_logits(run(place, retry_errors=True))[:, 1], expected(), atol=1e-5)


def refused(place: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    command = ["infer", "--data", str(place / "data"), "--model", f"{place / 'net.py'}:Net", "--out", str(place / "o")]
    assert main.run([*command, *arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = ["--model-args", "end=sigmoid"]
    assert refused(place, capsys, *end).endswith(
        "a single output and ends in a sigmoid, so it gives probabilities: use --scores probabilities"
    )
    assert "ends in a sigmoid" in refused(place, capsys, *end, "--scores", "log_probabilities")
    assert "which is no probability: is it a logit?" in refused(place, capsys, "--scores", "probabilities")
    assert refused(place, capsys, "--positive", "dogs").endswith("expected cat or dog; did you mean dog?")
    (place / "classes.txt").write_text("ant\ncat\ndog\n")
    assert "has 3 classes; expected two" in refused(place, capsys, "--classes", str(place / "classes.txt"))
    (place / "list.csv").write_text("image,label\n" + "".join(f"cat/{g:03d}.png,{g / 7:.3f}\n" for g in GREYS["cat"]))
    listed = ["--image-root", str(place / "data"), "--data", str(place / "list.csv")]
    assert "regression" in refused(place, capsys, *listed)
    (place / "list.csv").write_text("image\n" + "".join(f"cat/{g:03d}.png\n" for g in GREYS["cat"]))
    assert "has no classes by name; expected two: name them with --classes" in refused(place, capsys, *listed)


def test_labels_0_and_1_name_the_classes(place: Path) -> None:
    rows = [f"{name}/{grey:03d}.png,{label}\n" for label, (name, greys) in enumerate(GREYS.items()) for grey in greys]
    (place / "list.csv").write_text("image,label\n" + "".join(rows))
    config = InferConfig(
        str(place / "list.csv"), f"{place / 'net.py'}:Net", image_root=place / "data", out=place / "o", preflight=0
    )
    infer(config, lambda _: None)
    np.testing.assert_allclose(stack_logits(read_frame(place / "o"))[:, 1], expected(), atol=1e-5)


def preflight(place: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Lines of the preflight's findings."""
    command = ["infer", "--data", str(place / "data"), "--model", f"{place / 'net.py'}:Net", "--out", str(place / "p")]
    assert main.run([*command, "--overwrite", *arguments]) == 0
    lines = capsys.readouterr().err.splitlines()
    return [line.strip() for line in lines if re.match("  (warning|note): ", line)]


def test_the_preflight_finds_the_other_class(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight(place, capsys) == []
    swapped = ["--model-args", "sign=-1.0"]
    (found,) = preflight(place, capsys, *swapped)
    area = roc_auc_score([0] * 60 + [1] * 60, -expected())
    assert f"the output speaks for cat, not dog: the AUROC of 120 labelled images is {area:.3f} (95 % interval" in found
    assert found.endswith("surely below one half: use --positive cat")
    assert preflight(place, capsys, *swapped, "--positive", "cat") == []


def test_the_preflight_finds_probabilities_that_autograd_cannot_see(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "net.py").write_text(SINGLE.replace("(z) if", "(z).detach() if"))
    end = ["--model-args", "end=sigmoid"]
    (found, *_) = preflight(place, capsys, *end)
    assert "outputs all lie between 0 and 1, as probabilities do" in found
    assert "use --scores probabilities" in found
    assert preflight(place, capsys, *end, "--scores", "probabilities") == []


def test_a_rare_class_is_no_reason_to_doubt_a_model_that_ranks_well(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for grey in [g for g in GREYS["dog"] if g % 8]:
        (place / "data" / "dog" / f"{grey:03d}.png").unlink()
    (place / "net.py").write_text(SINGLE.replace("-6.0", "-5.0"))  # accuracy is no better than always saying cat
    assert preflight(place, capsys) == []
