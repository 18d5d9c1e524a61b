"""Small multi-label data that tests make for themselves: rows from plain arrays, with ties and unknown labels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.label_sets import LabelSets, MultiLabels
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import MULTI_LABEL, Run, hash_refs, part_schema
from tests import toy

CHEXNET = toy.SHARED / "chexnet" / "chexnet.npz"
"""22,433 images, 14 probabilities and labels of each."""


def run_of(classes: int) -> Run:
    """A run of labels `label0`, `label1`, …"""
    return Run(tuple(f"label{i}" for i in range(classes)), "toy.py:build", task=MULTI_LABEL)


def rows(
    run: Run,
    logits: NDArray[np.floating],
    labels: NDArray[np.bool_],
    unknown: NDArray[np.bool_] | None = None,
    labelled: NDArray[np.bool_] | None = None,
    failed: frozenset[int] = frozenset(),
    image: list[str] | None = None,
) -> MultiLabelPredictions:
    """Rows of arrays [rows, classes]; rows in `failed` (by position) have an error, those not `labelled` no labels."""
    n = len(logits)
    unknown = np.zeros(labels.shape, bool) if unknown is None else unknown
    labelled = np.ones(n, bool) if labelled is None else labelled
    image = image or [f"{i:06d}.png" for i in range(n)]
    known = MultiLabels(
        LabelSets.from_mask(labels & ~unknown & labelled[:, None]),
        LabelSets.from_mask(unknown & labelled[:, None]),
        labelled,
    )
    return MultiLabelPredictions.build(
        part_schema(run),
        id=np.arange(n),
        key=hash_refs(image),
        image=pa.array(image, pa.string()),
        label=known.settled(len(run.classes)),
        logits=logits.astype(np.float32),
        error=["broken" if i in failed else None for i in range(n)],
        more={
            "digest": [1] * n, "bytes": [1] * n, "width": [8] * n, "height": [8] * n,
            "brightness": [i % 8 / 8 for i in range(n)], "contrast": [0.1] * n,
        },
    )  # fmt: skip


def table(
    n: int, classes: int, seed: int = 0, mean: float = 2.0, ties: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Logits and labels [rows, classes], some labels much rarer than others; with ties, whole numbers."""
    random = np.random.default_rng(seed)
    weight = random.lognormal(0, 1.2, classes)
    share = np.minimum(weight / weight.sum() * mean, 0.9)
    labels = random.random((n, classes)) < share
    logits = random.normal(size=(n, classes)) * 1.5 + np.log(share / (1 - share))
    logits += labels * random.normal(4, 1, (n, classes))
    return (np.round(logits) if ties else logits).astype(np.float32), labels


def chexnet(path: Path = CHEXNET) -> tuple[Run, NDArray[np.float32], NDArray[np.bool_], list[str]]:
    """The run, logits and labels [rows, classes] and names of the images of CheXNet."""
    with np.load(path) as saved:
        p, labels = saved["prob"].astype(np.float64), saved["label"].astype(bool)
        names, images = saved["names"].tolist(), saved["image"].tolist()
    run = Run(tuple(map(str, names)), "chexnet", task=MULTI_LABEL)
    return run, np.log(p / (1 - p)).astype(np.float32), labels, list(map(str, images))
