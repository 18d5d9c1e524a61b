"""Measures stage two beside torchmetrics with SummaryWriter and beside scikit-learn, on the same predictions.

    python -m benchmarks.peer_metrics RUN OUT

is a program of scikit-learn that reads a run and writes its figures to the JSON file OUT. Its parent is peers.py; it
knows nothing of stage one.
"""

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from benchmarks import bench_visualize
from benchmarks.measuring import Cost, Report, run, take, timed
from tests import toy

SAME = ("metrics", "curves", "confusion", "calibration", "probabilities")
"""Panels that hold what `usual` writes, and more."""

SIZES = ((10_000, 100), (50_000, 1000))


def read(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [rows, classes] and labels [rows] of a run, by Arrow alone."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(folder, format="parquet").to_table(columns=["logits", "label"])
    logits: pa.FixedSizeListArray = table["logits"].combine_chunks()
    return np.asarray(logits.flatten()).reshape(len(table), -1), table["label"].to_numpy().astype(np.int64)


def compared(ours: Mapping[str, float], theirs: Mapping[str, float], tolerance: float = 1e-4) -> str:
    """Raise ValueError unless both have the same figures; return how near they are."""
    off = {name: abs(ours[name] - theirs[name]) for name in theirs}
    if wrong := {name: (ours[name], theirs[name]) for name, value in off.items() if not value <= tolerance}:
        raise ValueError(f"ours and theirs differ: {wrong}")
    return ", ".join(f"{name} {ours[name]:.4f} (within {value:.0e})" for name, value in off.items())


NAMES = {
    "accuracy": "accuracy",
    "top5": "accuracy_top5",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "f1": "f1_macro",
    "ece": "calibration/ece",
    "auroc": "auroc_macro",
}
"""Ours, of the same figures."""


def usual(logs: Path, run: Path, photos: list[Path]) -> dict[str, float]:
    """What people write: torchmetrics and SummaryWriter, over the same predictions and pictures on disk."""
    import torch
    from torch.utils.tensorboard import SummaryWriter
    from torchmetrics import MetricCollection
    from torchmetrics import classification as c

    logits, label = map(torch.tensor, read(run))
    rows, classes = logits.shape
    metrics = MetricCollection(
        {
            "accuracy": c.MulticlassAccuracy(classes, average="micro"),
            "top5": c.MulticlassAccuracy(classes, top_k=5, average="micro"),
            "precision": c.MulticlassPrecision(classes),
            "recall": c.MulticlassRecall(classes),
            "f1": c.MulticlassF1Score(classes),
            "confusion": c.MulticlassConfusionMatrix(classes),
            "ece": c.MulticlassCalibrationError(classes, 15),
            "auroc": c.MulticlassAUROC(classes),
        }
    )
    p = logits.softmax(1)
    for start in range(0, rows, 512):
        metrics.update(p[start : start + 512], label[start : start + 512])
    found = metrics.compute()
    with SummaryWriter(str(logs)) as writer:
        for name, value in found.items():
            if value.ndim == 0:
                writer.add_scalar(name, value)
        writer.add_image("confusion", found["confusion"][None] / found["confusion"].max())
        for k in range(classes):
            writer.add_pr_curve(f"pr/{k}", label == k, p[:, k])
            writer.add_histogram(f"probability/{k}", p[label == k, k])
        for i, photo in enumerate(photos):
            writer.add_image(f"picture/{i}", np.asarray(Image.open(photo).convert("RGB")), dataformats="HWC")
    return {NAMES[name]: float(value) for name, value in found.items() if name in NAMES}


def noise(folder: Path, names: list[str]) -> None:
    """JPEG pictures of 224×224, as large as what many models take, and as hard to pack as any."""
    if not folder.exists():
        folder.mkdir()
        random = np.random.default_rng(0)
        for name in names:
            Image.fromarray(random.integers(0, 256, (224, 224, 3), np.uint8)).save(folder / name, "JPEG")


def torchmetrics(folder: Path, report: Report) -> None:
    """The same work as people do it, with 500 pictures, which ours fits and writes words beside."""
    import predboard

    sizes = [(report.size(rows, 10 * classes), classes) for rows, classes in SIZES]
    kinds: Mapping[str, Callable[[Path, list[str]], object]] = {"photographs": toy.photographs, "noise": noise}
    for (rows, classes), (kind, pictures) in itertools.product(sizes, kinds.items()):
        count = report.size(500, 10)
        every = rows // count
        root = folder / f"usual-{rows}-{classes}-{kind}"
        pictures(root, [f"{i:06d}.png" for i in range(0, rows, every)])
        run = bench_visualize.write(folder / f"usual-{rows}-{classes}", rows, classes)
        logs = folder / f"usual-{rows}-{classes}-logs"
        figures = dict[str, float]()

        def ours(run: Path = run, logs: Path = logs, root: Path = root, every: int = every) -> Cost:
            shutil.rmtree(logs, ignore_errors=True)
            config = predboard.VisualizeConfig(
                predictions=(run,), logdir=logs, panels=SAME, log_every=every, image_root=root
            )
            return timed(lambda: predboard.visualize(config))

        def theirs(run: Path = run, logs: Path = logs, root: Path = root) -> Cost:
            return timed(lambda: figures.update(usual(logs / "theirs", run, sorted(root.iterdir()))))  # noqa: B023

        costs = take({"theirs": theirs, "ours": ours}, report.turns)
        ours()
        (step,) = json.loads(next(logs.rglob("summary.json")).read_text("utf-8"))["steps"].values()
        metrics = {name: metric["value"] for name, metric in step.items()}
        with Image.open(next(root.iterdir())) as photo:
            size = "×".join(map(str, photo.size))
        claim = f"visualize, {rows:,} × {classes:,}, {count} {kind} of {size}"
        print(f"{claim}: {compared(metrics, figures)}", flush=True)
        claim += ", faster than torchmetrics and SummaryWriter"
        report.compare(claim, costs["ours"], costs["theirs"], at_least=20)


BOUNDS = dict.fromkeys(("accuracy", "accuracy_top5", "f1_macro", "auroc_macro"), "min = 0") | {"nll": "max = 1e9"}
"""Rules that every run passes, for the metrics of which scikit-learn is asked as well."""


def scikit_learn(folder: Path, report: Report) -> None:
    """The whole of scikit-learn's figures as a program, against `predboard gate` with rules for the same."""
    rules = folder / "rules.toml"
    rules.write_text("".join(f'[[rule]]\nmetric = "{name}"\n{bound}\n' for name, bound in BOUNDS.items()))
    for whole, classes in SIZES:
        rows = report.size(whole, 10 * classes)
        predictions = bench_visualize.write(folder / f"usual-{rows}-{classes}", rows, classes)
        mine, other = folder / "gate.json", folder / "scikit-learn.json"
        words: list[str | Path] = [sys.executable, "-m", "benchmarks.peer_metrics", predictions, other]
        actions = {
            "ours": lambda: bench_visualize.predboard("gate", predictions, "--rules", rules, "--json", mine),  # noqa: B023
            "theirs": lambda: run(words, bench_visualize.environment(), toy.ROOT),  # noqa: B023  at once
        }
        costs = take(actions, report.turns)
        findings = [found for rule in json.loads(mine.read_text())["rules"] for found in rule["findings"]]
        figures = {found["metric"]: found["value"] for found in findings}
        print(f"gate, {rows:,} × {classes:,}: {compared(figures, json.loads(other.read_text()))}", flush=True)
        claim = f"gate, {rows:,} × {classes:,}, faster than scikit-learn's report"
        report.compare(claim, costs["ours"], costs["theirs"], at_least=1)


def _figures(folder: Path) -> dict[str, float]:
    """What a notebook computes of saved logits: scikit-learn's report, AUROC, log loss, the confusion matrix."""
    from scipy.special import softmax
    from sklearn import metrics

    logits, label = read(folder)
    p = softmax(logits.astype(np.float64), axis=1)
    predicted, classes = logits.argmax(1), np.arange(logits.shape[1])
    text = metrics.classification_report(label, predicted, labels=classes, output_dict=True, zero_division=0)
    metrics.confusion_matrix(label, predicted, labels=classes)
    return {
        "accuracy": metrics.accuracy_score(label, predicted),
        "accuracy_top5": metrics.top_k_accuracy_score(label, logits, k=5, labels=classes),
        "f1_macro": text["macro avg"]["f1-score"],
        "auroc_macro": metrics.roc_auc_score(label, p, multi_class="ovr", average="macro", labels=classes),
        "nll": metrics.log_loss(label, p, labels=classes),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(_figures(Path(sys.argv[1]))))
