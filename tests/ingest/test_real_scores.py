"""Real predictions, saved by other people's code: published figures come out."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from predboard import open_predictions
from predboard.cli import main
from predboard.metrics.classification import f1_macro, precision_macro, recall_macro
from predboard.metrics.counts import CountMetrics, Counts
from predboard.predictions.schema import hash64
from predboard.state import merge
from predboard.storage.parts import read_batches
from predboard.storage.runs import open_run
from tests import toy

CIFAR = toy.SHARED / "cifar10_saved_predictions"
EUROSAT = toy.SHARED / "eurosat_rgb"


def real(folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip(f"needs the real predictions in {folder}")


def imported(tmp_path: Path, *arguments: str | Path) -> CountMetrics:
    """The scores of a run that the command imported."""
    assert main.run(["import", *map(str, arguments), "--out", str(tmp_path / "out")]) == 0
    [step] = open_run(tmp_path / "out")
    tallies = [Counts.measure(step.run, batch) for part in step.parts for batch in read_batches(part)]
    whole = tallies[0]
    for tally in tallies[1:]:
        whole = merge(whole, tally)
    return whole.metrics


@pytest.mark.parametrize(
    ("name", "labels", "accuracy", "nll"),
    [
        ("netcal_wideresnet-16-4-cifar-10.npz", "", 0.9109, None),
        ("netcal_lenet-5-cifar-10.npz", "", 0.5308, None),
        ("verified_calibration_vgg16_probs.npz", "", 0.9359, 0.2571),
        ("labelerrors_pyx_float64.npy", "labels_test10000_official_order.npy", 0.9294, None),
    ],
)
def test_saved_softmax_outputs_of_cifar(
    name: str, labels: str, accuracy: float, nll: float | None, tmp_path: Path
) -> None:
    real(CIFAR)
    flags = ("--labels", CIFAR / labels) if labels else ()
    scores = imported(tmp_path, CIFAR / name, "--scores", "probabilities", *flags)
    assert scores.accuracy == accuracy
    loaded = np.load(CIFAR / name)
    p, y = (loaded, np.load(CIFAR / labels)) if labels else (loaded["predictions"], loaded["ground_truth"])
    p = np.maximum(p.astype(np.float64), np.finfo(np.float32).tiny)
    expected = -np.log(p[np.arange(len(y)), y] / p.sum(axis=1)).mean()
    assert scores.nll == pytest.approx(expected, abs=2e-6)
    if nll is not None:
        assert round(scores.nll, 4) == nll


def test_a_published_classification_report_comes_out_to_the_last_digit(tmp_path: Path) -> None:
    real(EUROSAT)
    saved = EUROSAT / "saved_outputs"
    scores = imported(
        tmp_path,
        saved / "B_36c5744_test_logits.pt",
        *("--scores", "logits", "--images", saved / "B_36c5744_test.txt", "--labels-from-folders", "--no-pictures"),
    )
    report = json.loads((saved / "B_36c5744_report.json").read_text())
    assert scores.accuracy == report["accuracy"] == 0.9246277506917907
    classes = open_predictions(tmp_path / "out").run.classes
    assert len(classes) == 10
    for i, name in enumerate(classes):
        found = (scores.precision[i], scores.recall[i], scores.f1[i], scores.support[i])
        assert found == tuple(report[name][k] for k in ("precision", "recall", "f1-score", "support")), name
    macro = report["macro avg"]
    for metric, name in ((precision_macro, "precision"), (recall_macro, "recall"), (f1_macro, "f1-score")):
        assert float(metric(scores.margins)) == pytest.approx(macro[name], abs=1e-15), name


@pytest.mark.slow
def test_logits_of_eurosat_find_their_pictures_in_a_zip(tmp_path: Path) -> None:
    real(EUROSAT)
    scores = imported(
        tmp_path,
        EUROSAT / "saved_outputs/A_rgb_test_logits.pt",
        *("--scores", "logits", "--images", EUROSAT / "splits/test.txt"),
        *("--image-root", EUROSAT / "eurosat_rgb_test5400.zip"),
    )
    assert (round(scores.accuracy, 5), round(scores.nll, 4)) == (0.98167, 0.0628)
    frame = open_predictions(tmp_path / "out").to_pandas()
    assert frame["width"].eq(64).all() and frame["digest"].notna().all()
    with zipfile.ZipFile(EUROSAT / "eurosat_rgb_test5400.zip") as archive:
        member = frame["image"][17].partition("#")[2]
        assert frame["digest"][17] == hash64(archive.read(member))
    names = (EUROSAT / "saved_outputs/A_rgb_test_filenames.txt").read_text().split()
    assert [ref.rpartition("/")[2] for ref in frame["image"]] == names


def test_confidences_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real(CIFAR)
    file = CIFAR / "nncal_probs_resnet110_c10_logits.csv"
    assert main.run(["import", str(file), "--scores", "probabilities", "--out", str(tmp_path / "out")]) == 2
    assert "holds only one number per row, in 'confidence'" in capsys.readouterr().err
