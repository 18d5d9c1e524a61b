"""Shows how probabilities and losses are distributed, separately for right and wrong predictions. It knows no image."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import unique_names
from predboard.metrics import counts as tally
from predboard.metrics.counts import Counts
from predboard.panels import RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import summed
from predboard.summaries import Histogram, Summary

BINS = 30
"""TensorBoard draws 30 bins, whatever it is given."""

LOSS_CAP_NATS = 10.0
"""Greater losses, with a probability of the true class below e^-10 = 0.00005, are in the last bin. It is the same for
all runs, so that they can be compared."""

WRONG, RIGHT, UNLABELLED = range(3)

KINDS = (
    ("", (WRONG, RIGHT, UNLABELLED), "all images"),
    ("_right", (RIGHT,), "right predictions"),
    ("_wrong", (WRONG,), "wrong predictions"),
)
"""End of a tag, the kinds of rows that it counts, and their description."""

MEASURES = {
    "confidence": "Probability of the predicted class",
    "margin": "Probability of the predicted class minus that of the runner-up",
    "entropy": "Entropy of the probabilities in nats, from 0 (certain) to ln(classes) (all equal)",
    "loss": f"Negative log-likelihood of the true class in nats; {LOSS_CAP_NATS:g} and more are in the last bin",
}
"""Description of each column."""

RESERVED_NAMES = tuple(f"{measure}{end}" for measure in MEASURES for end, *_ in KINDS)
"""Names that no class's histogram may have."""


@dataclass(frozen=True)
class State:
    """Counts in equal bins; of the measures [3, bins] for wrong, right and unlabelled rows."""

    tally: Counts
    true: NDArray[np.int64] = summed()  # [classes, bins] probability of the true class, by true class
    confidence: NDArray[np.int64] = summed()
    margin: NDArray[np.int64] = summed()
    entropy: NDArray[np.int64] = summed()
    loss: NDArray[np.int64] = summed()  # no unlabelled rows


@dataclass(frozen=True)
class Panel:
    """Histograms: confidence, margin, entropy and loss (all, right, wrong); probability of the true class by class."""

    classes: int = 20
    columns: frozenset[str] = tally.COLUMNS | frozenset(MEASURES)
    without_scores: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = np.zeros((3, BINS), np.int64)
        return State(Counts.zero(run), np.zeros((len(run.classes), BINS), np.int64), none, none, none, none)

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        labelled, scored = batch.labelled, batch.scored
        if not batch.has_scores:
            kind = np.where(scored.label < 0, UNLABELLED, scored.right)
            return replace(
                self.zero(run), tally=Counts.measure(run, batch), confidence=_counts(kind, scored.confidence, 1.0, 3)
            )
        kind = np.where(scored.label < 0, UNLABELLED, scored.right)  # True is 1, as RIGHT is
        return State(
            Counts.measure(run, batch),
            _counts(labelled.label, np.exp(-labelled.loss.astype(np.float64)), 1.0, len(run.classes)),
            _counts(kind, scored.confidence, 1.0, 3),
            _counts(kind, scored.margin, 1.0, 3),
            _counts(kind, scored.entropy, _most_entropy(run), 3),
            _counts(labelled.right.astype(np.int64), labelled.loss, LOSS_CAP_NATS, 3),
        )

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield histograms for each step, except for empty ones."""
        run = info.run
        ends = {"entropy": _most_entropy(run), "loss": LOSS_CAP_NATS}
        chosen = states[max(states)].tally.metrics.most_errors(self.classes).tolist()
        tags = unique_names(run.classes, RESERVED_NAMES)
        for step, state in states.items():
            for measure, words in MEASURES.items():
                edges = np.linspace(0, ends.get(measure, 1.0), BINS + 1)
                for end, kinds, images in KINDS:
                    counts = getattr(state, measure)[list(kinds)].sum(axis=0)
                    if counts.any():
                        yield step, Histogram(f"probabilities/{measure}{end}", edges, counts, f"{words}: {images}.")
            for c in chosen:
                if state.true[c].any():
                    description = f"Probability of {run.classes[c]} on its own images."
                    yield (
                        step,
                        Histogram(f"probabilities/{tags[c]}", np.linspace(0, 1, BINS + 1), state.true[c], description),
                    )


def _most_entropy(run: Run) -> float:
    """Return the highest entropy, ln(classes), in nats; of a single class, whose entropy is always 0, that of two."""
    return math.log(max(len(run.classes), 2))


def _counts(group: NDArray[np.int64], value: NDArray[np.floating], most: float, groups: int) -> NDArray[np.int64]:
    """Count values in equal bins from 0 to `most`, [groups, bins]; greater values are in the last bin."""
    place = (np.minimum(value.astype(np.float64) / most, 1.0) * BINS).astype(np.int64)
    place = group * BINS + np.minimum(place, BINS - 1)
    return np.bincount(place, minlength=groups * BINS).reshape(groups, BINS).astype(np.int64)
