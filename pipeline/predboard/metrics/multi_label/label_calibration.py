"""Mergeable state of how far the probability of each label, and of a whole set, can be trusted. It knows no drawing.

The probability of a set is the product of its labels' probabilities, `confidence` in the predictions: that all labels
are right, if they were independent of one another.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import Floats
from predboard.metrics.multi_label.known_sets import KnownSets
from predboard.metrics.reliability import BINS, PROBABILITY_UNIT, ReliabilityCounts, equal_width_bin
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.state import summed

COLUMNS = frozenset({"key", "label", "predicted", "confidence", "logits"})
"""Columns that `LabelCalibration.measure` reads."""

_BLOCK_NUMBERS = 2**17
"""Probabilities that are worked on at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class LabelCalibration:
    """Counts of decisions by the probability of the label, and of rows by that of their set, in 15 equal-width bins."""

    rows: NDArray[np.int64] = summed()  # [classes, BINS]
    hits: NDArray[np.int64] = summed()  # [classes, BINS] those that have the label
    total: NDArray[np.int64] = summed()  # [classes, BINS] sum of the probability, PROBABILITY_UNIT
    of_sets: NDArray[np.int64] = summed()  # [4, BINS] rows; right ones; sum of confidence and of squared gap

    @classmethod
    def zero(cls, run: Run) -> "LabelCalibration":
        """Return the state of no rows."""
        of_label = (len(run.classes), BINS)
        return cls(*(np.zeros(shape, np.int64) for shape in (of_label, of_label, of_label, (4, BINS))))

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelCalibration":
        """Return the state of these rows alone, measured once for all panels that share it."""
        return batch.memoize(LabelCalibration, lambda: cls._measured(KnownSets.measure(run, batch), batch.labelled))

    @classmethod
    def _measured(cls, sets: KnownSets, rows: MultiLabelPredictions) -> "LabelCalibration":
        p, k = rows.probabilities, sets.classes  # [rows, classes]
        total, counts, sums = np.zeros(k), np.zeros(k * BINS, np.int64), np.zeros(k * BINS, np.int64)
        for start in range(0, len(p), max(_BLOCK_NUMBERS // k, 1)):
            block = p[start : start + max(_BLOCK_NUMBERS // k, 1)]
            # Whole numbers: their sum is exact in float64, in any order.
            total += np.rint(block * np.float32(1 / PROBABILITY_UNIT)).sum(axis=0, dtype=np.float64)
            where = np.flatnonzero(block.reshape(-1) >= np.float32(1 / BINS))  # the others are what remains of the sum
            some = block.reshape(-1)[where].astype(np.float64)
            place = (where % k) * BINS + equal_width_bin(some)
            counts += np.bincount(place, minlength=k * BINS)
            sums += np.bincount(place, np.rint(some / PROBABILITY_UNIT), k * BINS).astype(np.int64)
        decisions, totals = counts.reshape(k, BINS), sums.reshape(k, BINS)
        decisions[:, 0] += len(p) - decisions.sum(axis=1)
        totals[:, 0] += total.astype(np.int64) - totals.sum(axis=1)
        unknown = p[sets.unknown.row, sets.unknown.label].astype(np.float64)
        of_unknown = sets.unknown.label, equal_width_bin(unknown)
        np.subtract.at(decisions, of_unknown, 1)
        np.subtract.at(totals, of_unknown, np.rint(unknown / PROBABILITY_UNIT).astype(np.int64))
        hits = np.zeros((k, BINS), np.int64)
        true = p[sets.true.row, sets.true.label].astype(np.float64)
        np.add.at(hits, (sets.true.label, equal_width_bin(true)), 1)
        return cls(decisions, hits, totals, _of_sets(sets, rows))

    @cached_property
    def sums(self) -> Floats:
        """[classes, BINS] sum of the probability of each label."""
        return np.asarray(self.total * PROBABILITY_UNIT, np.float64)

    @cached_property
    def sets(self) -> ReliabilityCounts:
        """How far the confidence in whole sets is from the share of them that are right."""
        return ReliabilityCounts(self.of_sets)

    @cached_property
    def pooled(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """[BINS] decisions by probability, those on labels that apply, and sum of the probability."""
        return self.rows.sum(axis=0), self.hits.sum(axis=0), self.sums.sum(axis=0)

    @property
    def ece(self) -> Floats:
        """[classes] calibration error of each label; nan where no decision is known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.abs(self.hits - self.sums).sum(axis=1) / self.rows.sum(axis=1))

    @property
    def ece_pooled(self) -> float:
        """Calibration error of all decisions in common bins."""
        rows, hits, sums = self.pooled
        return float(np.abs(hits - sums).sum() / rows.sum()) if rows.any() else np.nan


def _of_sets(sets: KnownSets, rows: MultiLabelPredictions) -> NDArray[np.int64]:
    """Count the rows of which all labels are known: the confidence is that of a whole set."""
    whole = sets.unknown.size == 0
    confidence, right = rows.confidence[whole].astype(np.float64), rows.right[whole]
    place = equal_width_bin(confidence)
    weights = np.ones(len(place)), right, confidence / PROBABILITY_UNIT, (right - confidence) ** 2 / PROBABILITY_UNIT
    return np.stack([np.bincount(place, np.rint(w), BINS).astype(np.int64) for w in weights])
