"""Shows how probabilities, losses and numbers of labels are distributed. It knows no image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import unique_names
from predboard.metrics import reliability
from predboard.metrics.multi_label import label_calibration, label_counts
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.metrics.multi_label.label_counts import SIZES, LabelCounts
from predboard.panels import RunInfo
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.state import summed
from predboard.summaries import Histogram, Summary

BINS = 30
"""TensorBoard draws 30 bins, whatever it is given."""

LOSS_CAP_NATS = 2.0
"""Greater losses, the mean over an image's labels, are in the last bin."""

MEASURES = {
    "confidence": "Probability of the predicted set of labels, taken as independent",
    "margin": "How far the least certain label is from 1/2: the least of |2 p - 1|",
    "loss": f"Binary cross-entropy, mean over the labels, nats; {LOSS_CAP_NATS:g} and more are in the last bin",
}
"""Description of each column."""

KINDS = (("", (0, 1), "all images"), ("_right", (1,), "right sets"), ("_wrong", (0,), "wrong sets"))
"""End of a tag, the kinds of rows that it counts, and their description."""

RESERVED_NAMES = (
    *(f"{measure}{end}" for measure in MEASURES for end, *_ in KINDS),
    *("true_labels", "other_labels", "labels_per_image", "predicted_per_image"),
)
"""Names that no label's histogram may have."""


@dataclass(frozen=True)
class State:
    """Counts that other panels share, and of the measures in equal bins, [2, BINS] for wrong and right rows."""

    counts: LabelCounts
    calibration: LabelCalibration
    confidence: NDArray[np.int64] = summed()
    margin: NDArray[np.int64] = summed()
    loss: NDArray[np.int64] = summed()


@dataclass(frozen=True)
class Panel:
    """Histograms: probability of labels that apply and of others; confidence, margin, set loss; labels per image."""

    classes: int = 20
    columns: frozenset[str] = label_counts.COLUMNS | label_calibration.COLUMNS | {"margin"}

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        of_rows = (np.zeros((2, BINS), np.int64) for _ in range(3))
        return State(LabelCounts.zero(run), LabelCalibration.zero(run), *of_rows)

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        rows = batch.labelled
        kind = rows.right.astype(np.int64)
        measures = (_counts(kind, getattr(rows, name), LOSS_CAP_NATS if name == "loss" else 1.0) for name in MEASURES)
        return State(LabelCounts.measure(run, batch), LabelCalibration.measure(run, batch), *measures)

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield histograms for each step, except for empty ones."""
        names, edges = info.run.classes, np.linspace(0, 1, BINS + 1)
        chosen = states[max(states)].counts.metrics.most_errors(self.classes).tolist()
        tags = unique_names(names, RESERVED_NAMES)
        for step, state in states.items():
            (every, given, _), by_label = state.calibration.pooled, np.linspace(0, 1, reliability.BINS + 1)
            drawn: list[tuple[str, NDArray[Any], NDArray[np.int64], str]] = [
                ("true_labels", by_label, given, "Probability of the labels that images have."),
                ("other_labels", by_label, every - given, "Probability of the labels that images do not have."),
            ]
            for measure, words in MEASURES.items():
                ends = edges * (LOSS_CAP_NATS if measure == "loss" else 1.0)
                for end, kinds, images in KINDS:
                    counts = getattr(state, measure)[list(kinds)].sum(axis=0)
                    drawn.append((f"{measure}{end}", ends, counts, f"{words}: {images}."))
            sizes, most = state.counts.sizes, min(SIZES, len(names) + 1)
            numbers = np.arange(most + 1) - 0.5
            words = f"labels of an image; {SIZES - 1} and more are in the last bin."
            drawn += [
                ("labels_per_image", numbers, sizes.sum(axis=1)[:most], f"Number of {words}"),
                ("predicted_per_image", numbers, sizes.sum(axis=0)[:most], f"Number of predicted {words}"),
                *(
                    (tags[c], by_label, state.calibration.hits[c], f"Probability of {names[c]} on images that have it.")
                    for c in chosen
                ),
            ]
            for tag, at, counts, description in drawn:
                if counts.any():
                    yield step, Histogram(f"probabilities/{tag}", at, counts, description)


def _counts(group: NDArray[np.int64], value: NDArray[np.floating], most: float) -> NDArray[np.int64]:
    """Count values in equal bins from 0 to `most`, [2, BINS]; greater values are in the last bin."""
    known = ~np.isnan(value)
    place = (np.minimum(value[known].astype(np.float64) / most, 1.0) * BINS).astype(np.int64)
    place = group[known] * BINS + np.minimum(place, BINS - 1)
    return np.bincount(place, minlength=2 * BINS).reshape(2, BINS).astype(np.int64)
