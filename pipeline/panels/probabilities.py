"""How the probabilities of the true and of the predicted class are spread. Knows no image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import tally
from pipeline.panels import Subject
from pipeline.predictions import Predictions, Run
from pipeline.state import summed
from pipeline.summaries import Histogram, Summary
from pipeline.tally import Scores, Tally

BINS = 30
"""What TensorBoard draws, whatever it is given."""


@dataclass(frozen=True)
class State:
    """Counts of equal bins from 0 to 1."""

    tally: Tally
    true: NDArray[np.int64] = summed()  # [classes, bins] probability of the true class, by true class
    confidence: NDArray[np.int64] = summed()  # [3, bins] of wrong, right and unlabelled rows


@dataclass(frozen=True)
class Panel:
    """Histograms: probability of the true class for each class (at most 20); confidence of all, right, wrong."""

    classes: int = 20
    columns: frozenset[str] = tally.COLUMNS | {"confidence"}

    def zero(self, run: Run) -> State:
        """No rows."""
        return State(Tally.zero(), np.zeros((len(run.classes), BINS), np.int64), np.zeros((3, BINS), np.int64))

    def measure(self, run: Run, batch: Predictions) -> State:
        """These rows alone."""
        labelled, scored = batch.labelled, batch.scored
        kind = np.where(scored.label < 0, 2, scored.right)
        return State(
            Tally.measure(run, batch),
            _counts(labelled.label, np.exp(-labelled.loss.astype(np.float64)), len(run.classes)),
            _counts(kind.astype(np.int64), scored.confidence.astype(np.float64), 3),
        )

    def render(self, subject: Subject, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Histograms for each step; an empty one is left out."""
        edges = np.linspace(0, 1, BINS + 1)
        chosen = Scores(states[max(states)].tally, len(subject.run.classes)).worth_seeing(self.classes).tolist()
        for step, state in states.items():
            for tag, counts, description in (
                ("confidence", state.confidence.sum(axis=0), "Probability of the predicted class, all images."),
                ("confidence_right", state.confidence[1], "Probability of the predicted class where it is right."),
                ("confidence_wrong", state.confidence[0], "Probability of the predicted class where it is wrong."),
                *(
                    (
                        _tag(subject.run.classes[c]),
                        state.true[c],
                        f"Probability given to {subject.run.classes[c]} on its images.",
                    )
                    for c in chosen
                ),
            ):
                if counts.sum():
                    yield step, Histogram(f"probabilities/{tag}", edges, counts, description)


def _tag(name: str) -> str:
    """A class's name, told apart from the tags that are there already."""
    return f"{name} (class)" if name in ("confidence", "confidence_right", "confidence_wrong") else name


def _counts(group: NDArray[np.int64], p: NDArray[np.float64], groups: int) -> NDArray[np.int64]:
    """[groups, bins] counts of probabilities; 1 belongs to the last bin."""
    place = group * BINS + np.minimum((p * BINS).astype(np.int64), BINS - 1)
    return np.bincount(place, minlength=groups * BINS).reshape(groups, BINS).astype(np.int64)
