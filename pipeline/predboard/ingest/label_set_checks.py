"""Check the scores of images that may have several labels, and compare them with the labels. It knows no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.inference import label_diagnostics, label_order
from predboard.inference.diagnostics import MIN_LABELLED, Diagnosis
from predboard.ingest.validation import ScoreArray, ScoreCheck, to_stored_logits, usable_rows
from predboard.predictions.label_sets import LabelSets, MultiLabels

_ORDER_ROWS = 2_000
"""Rows on which the order of the classes is judged."""


@dataclass
class LabelScoreCheck(ScoreCheck):
    """Checks all scores of one step, as `ScoreCheck` does, and counts the labels that they predict."""

    exclusive: bool = False

    def __post_init__(self) -> None:
        """Begin to count."""
        super().__post_init__()
        self.images = np.zeros(self.classes, np.int64)
        """[classes] rows for which each label is predicted."""
        self.logits = np.zeros((0, self.classes), np.float32)
        """[some rows, classes] logits of the first usable rows."""
        self.places = np.zeros(0, np.int64)
        """[some rows] which rows these are."""
        self._weights = np.random.default_rng(0).random(self.classes)
        self._sums: list[NDArray[np.float64]] = []

    @property
    def sums_of_sets(self) -> NDArray[np.float64]:
        """[rows] a number that is the same for the same set of predicted labels; NaN where a score is not finite."""
        return np.concatenate(self._sums) if self._sums else np.zeros(0)

    def sum_of(self, sets: LabelSets) -> NDArray[np.float64]:
        """Return that number for sets of labels, [rows]."""
        return np.bincount(sets.row, self._weights[sets.label], len(sets)).astype(np.float64, copy=False)

    def add(self, block: ScoreArray) -> None:
        """Take in the next rows, [some rows, classes]."""
        at = self.rows
        super().add(block)
        usable = usable_rows(self.kind, block)
        more = np.flatnonzero(usable)[: _ORDER_ROWS - len(self.places)]
        if len(more):
            some = (
                np.clip(block[more], 0, 1) if self.kind == "probabilities" else block[more]
            )  # `finish` refuses others
            logits, _ = to_stored_logits(self.kind, some, exclusive=False)
            self.logits, self.places = np.concatenate([self.logits, logits]), np.concatenate([self.places, at + more])
        with np.errstate(invalid="ignore"):
            sets = LabelSets.from_mask((block > (0.5 if self.kind == "probabilities" else 0)) & usable[:, None])
        self.images += np.bincount(sets.label, minlength=self.classes)
        self._sums.append(np.where(usable, self.sum_of(sets), np.nan))


def diagnose_label_sets(labels: MultiLabels, check: LabelScoreCheck, names: Sequence[str]) -> Iterator[Diagnosis]:
    """Run the checks of the preflight that need no model.

    Args:
        labels: of all rows.
        check: what is known of their scores.
        names: the classes.
    """
    outputs = []
    if check.kind == "logits" and check.sample is not None and (check.is_normalised or not check.images.any()):
        outputs = [*label_diagnostics.check_label_outputs(check.sample.astype(np.float32))]
    yield from outputs
    predicted = check.sums_of_sets
    known = labels.labelled & ~np.isnan(predicted) & (labels.unknown.size == 0)
    if known.sum() >= MIN_LABELLED and (check.sum_of(labels.labels) == predicted)[known].all() and check.images.any():
        yield Diagnosis(
            "label_is_prediction",
            "the labels are those with a probability above 1/2 in every row, as if they were the predictions: see "
            "--label-column",
        )
    if not outputs:
        rows = np.flatnonzero(labels.labelled[check.places])
        known = labels[check.places[rows]]
        if (other := label_order.diagnose_label_order(check.logits[rows], known, names)) is not None:
            yield other[0]
        yield from label_diagnostics.check_predicted_share(check.images, labels, check.rows - check.failed)
