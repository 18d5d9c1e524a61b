"""How probabilities and losses are spread, right and wrong apart. Knows no image."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
"""What TensorBoard draws, whatever it is given."""

LOSS = 10.0
"""Nats, e^-10 = 0.00005 for the true class: greater losses are in the last bin. The same for all runs, so that they can
be compared."""

WRONG, RIGHT, UNLABELLED = range(3)

KINDS = (
    ("", (WRONG, RIGHT, UNLABELLED), "all images"),
    ("_right", (RIGHT,), "images that are right"),
    ("_wrong", (WRONG,), "images that are wrong"),
)
"""End of a tag, of which rows, and in words."""

MEASURES = {
    "confidence": "Probability of the predicted class",
    "margin": "Probability of the predicted class less that of the runner-up",
    "entropy": "Entropy of the probabilities in nats, from 0 (certain) to ln(classes) (all alike)",
    "loss": f"Negative log-likelihood of the true class in nats; {LOSS:g} and more are in the last bin",
}
"""By column: what it is."""

TAGS = tuple(f"{measure}{end}" for measure in MEASURES for end, *_ in KINDS)
"""That no class's histogram may be called."""


@dataclass(frozen=True)
class State:
    """Counts of equal bins; of the measures [3, bins] of wrong, right and unlabelled rows."""

    tally: Counts
    true: NDArray[np.int64] = summed()  # [classes, bins] probability of the true class, by true class
    confidence: NDArray[np.int64] = summed()
    margin: NDArray[np.int64] = summed()
    entropy: NDArray[np.int64] = summed()
    loss: NDArray[np.int64] = summed()  # no unlabelled rows


@dataclass(frozen=True)
class Panel:
    """Histograms: confidence, margin, entropy, loss of all, right, wrong; probability of the true class, by class."""

    classes: int = 20
    columns: frozenset[str] = tally.COLUMNS | frozenset(MEASURES)

    def zero(self, run: Run) -> State:
        """No rows."""
        none = np.zeros((3, BINS), np.int64)
        return State(Counts.zero(run), np.zeros((len(run.classes), BINS), np.int64), none, none, none, none)

    def measure(self, run: Run, batch: Predictions) -> State:
        """These rows alone."""
        labelled, scored = batch.labelled, batch.scored
        kind = np.where(scored.label < 0, UNLABELLED, scored.right)  # right is 1, as RIGHT is
        return State(
            Counts.measure(run, batch),
            _counts(labelled.label, np.exp(-labelled.loss.astype(np.float64)), 1.0, len(run.classes)),
            _counts(kind, scored.confidence, 1.0, 3),
            _counts(kind, scored.margin, 1.0, 3),
            _counts(kind, scored.entropy, _most_entropy(run), 3),
            _counts(labelled.right.astype(np.int64), labelled.loss, LOSS, 3),
        )

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Histograms for each step; an empty one is left out."""
        run = info.run
        ends = {"entropy": _most_entropy(run), "loss": LOSS}
        chosen = states[max(states)].tally.metrics.most_errors(self.classes).tolist()
        tags = unique_names(run.classes, TAGS)
        for step, state in states.items():
            for measure, words in MEASURES.items():
                edges = np.linspace(0, ends.get(measure, 1.0), BINS + 1)
                for end, kinds, of in KINDS:
                    counts = getattr(state, measure)[list(kinds)].sum(axis=0)
                    if counts.any():
                        yield step, Histogram(f"probabilities/{measure}{end}", edges, counts, f"{words}: {of}.")
            for c in chosen:
                if state.true[c].any():
                    description = f"Probability given to {run.classes[c]} on its images."
                    yield (
                        step,
                        Histogram(f"probabilities/{tags[c]}", np.linspace(0, 1, BINS + 1), state.true[c], description),
                    )


def _most_entropy(run: Run) -> float:
    """ln(classes), nats; of one class, whose entropy is always 0, that of two."""
    return math.log(max(len(run.classes), 2))


def _counts(group: NDArray[np.int64], value: NDArray[np.floating], most: float, groups: int) -> NDArray[np.int64]:
    """[groups, bins] counts of values of at least 0 in equal bins up to `most`, which with all above is in the last."""
    place = (np.minimum(value.astype(np.float64) / most, 1.0) * BINS).astype(np.int64)
    place = group * BINS + np.minimum(place, BINS - 1)
    return np.bincount(place, minlength=groups * BINS).reshape(groups, BINS).astype(np.int64)
