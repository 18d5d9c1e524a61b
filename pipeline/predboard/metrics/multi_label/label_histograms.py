"""Mergeable histograms of how images rank by the logit of each label. It knows no drawing and no set of labels.

A label's logit says in which order images come, so it is binned as it is: no softmax, and no logarithm. Bins are equal
from -16 to 16, where a sigmoid is within 1.2e-7 of 0 and 1; the outermost take what lies beyond. With half that reach
they would be twice as fine and with twice half as fine: at 1,000 labels the average precision is 7e-4 off on average.

The edges of the bins are exact in float32, so what follows at an edge, such as precision and recall at a threshold, is
exact. Images belong to one of 20 groups; even groups are fold 0, where thresholds are found, odd ones fold 1.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.class_bins import count_bins, count_into, empty_bins
from predboard.metrics.grouped import no_groups
from predboard.metrics.intervals import Floats
from predboard.metrics.multi_label.known_sets import KnownSets
from predboard.metrics.score_histograms import (
    FINE_BINS,
    Estimate,
    GroupedHistograms,
    auroc,
    average_precision,
    bin_index,
    bins_per_class,
    coarse_bins_per_class,
    score_of_probability,
)
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import Run
from predboard.state import StatesByName, summed

MAX_LOGIT = 16.0
"""Bins cover logits from -MAX_LOGIT to MAX_LOGIT."""

COLUMNS = frozenset({"key", "label", "predicted", "confidence", "logits"})
"""Columns that `LabelHistograms.measure` reads."""

_BLOCK = 2**18
"""Numbers that are worked on at once: 1 MB, what a processor's core has beside it."""


def logit_edges(bins: int) -> Floats:
    """Return the logits where the bins begin, [bins]: -16 for the first, which has all that are lower."""
    return np.linspace(-MAX_LOGIT, MAX_LOGIT, bins + 1)[:-1]


def logit_bin(z: NDArray[np.float32], bins: int = FINE_BINS) -> NDArray[np.int16]:
    """Return the bin of each logit, int16 of the same shape; with half as many bins it is this shifted right by one."""
    at = z * np.float32(bins / (2 * MAX_LOGIT))
    np.floor(at, out=at)  # before the sum, which would round a logit just below an edge up to it
    at += np.float32(bins // 2)
    np.clip(at, 0, bins - 1, out=at)
    return at.astype(np.int16)


@dataclass(frozen=True)
class LabelHistograms:
    """Histograms of the labelled rows by the logits of their known labels. Bins ascend with the logit."""

    every_by_fold: NDArray[np.int32] = summed()  # [folds, classes, bins] images by the logit of each label
    true_by_fold: NDArray[np.int32] = summed()  # [folds, classes, bins] those that have the label
    every_grouped: NDArray[np.int32] = summed()  # [groups, classes, coarse] as `every_by_fold`
    true_grouped: NDArray[np.int32] = summed()  # [groups, classes, coarse] as `true_by_fold`
    any_label: NDArray[np.int64] = summed()  # [folds, FINE_BINS] all decisions
    any_true: NDArray[np.int64] = summed()  # [folds, FINE_BINS] those on labels that the image has
    confidence: NDArray[np.int64] = summed()  # [wrong and right, FINE_BINS] sets of known labels by their probability
    by_group: StatesByName = field(default_factory=no_groups)  # `GroupedHistograms`, where images belong together

    @classmethod
    def zero(cls, run: Run) -> "LabelHistograms":
        """Return the histograms of no rows."""
        k = len(run.classes)
        fine, coarse = (2, k, bins_per_class(k)), (JACKKNIFE_GROUPS, k, coarse_bins_per_class(k))
        tables: tuple[Any, ...] = tuple(np.zeros(shape, np.int32) for shape in (fine, fine, coarse, coarse))
        return cls(*tables, *(np.zeros((2, FINE_BINS), np.int64) for _ in range(3)))

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelHistograms":
        """Return the histograms of these rows alone, measured once for all panels that share them."""
        return batch.memoize(LabelHistograms, lambda: cls._measured(run, KnownSets.measure(run, batch), batch.labelled))

    @classmethod
    def _measured(cls, run: Run, sets: KnownSets, labelled: MultiLabelPredictions) -> "LabelHistograms":
        state, k, logits = cls.zero(run), len(run.classes), labelled.logits  # [rows, classes]
        bins, coarse = state.every_by_fold.shape[2], state.every_grouped.shape[2]
        shift, shorter = (int(np.log2(FINE_BINS // n)) for n in (bins, coarse))
        group, fold = sets.group, sets.group % 2
        at = empty_bins(*logits.shape)  # [rows, classes]
        size = max(_BLOCK // k, 1)
        for start in range(0, len(at), size):
            at[start : start + size, :k] = logit_bin(logits[start : start + size])

        def places(row: NDArray[np.int64], label: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
            """Return the places of decisions in the tables by fold, by group and of any label."""
            given = at[row, label].astype(np.int64)
            by_fold = (fold[row] * k + label) * bins + (given >> shift)
            return by_fold, (group[row] * k + label) * coarse + (given >> shorter), fold[row] * FINE_BINS + given

        tables: tuple[NDArray[Any], ...] = (state.true_by_fold, state.true_grouped, state.any_true)
        for table, place in zip(tables, places(sets.true.row, sets.true.label), strict=True):
            count_into(table, place)
        unknown = places(sets.unknown.row, sets.unknown.label)
        whole = sets.unknown.size == 0
        place = bin_index(score_of_probability(labelled.confidence)).astype(np.int64) + labelled.right * FINE_BINS
        count_into(state.confidence, place[whole])
        state = replace(state, by_group=_by_group(labelled, at[:, :k], sets, np.where(whole, place, -1)))
        count_bins(at, group, state.every_by_fold, state.every_grouped, state.any_label)
        counted: tuple[NDArray[Any], ...] = (state.every_by_fold, state.every_grouped, state.any_label)
        for of_unknown, place in zip(counted, unknown, strict=True):
            np.subtract.at(of_unknown.reshape(-1), place, of_unknown.dtype.type(1))
        return state

    @cached_property
    def every(self) -> NDArray[np.int64]:
        """[classes, bins] images by the logit of each label."""
        return np.asarray(self.every_by_fold.sum(axis=0, dtype=np.int64))

    @cached_property
    def true(self) -> NDArray[np.int64]:
        """[classes, bins] those that have the label."""
        return np.asarray(self.true_by_fold.sum(axis=0, dtype=np.int64))

    @cached_property
    def auroc(self) -> Estimate:
        """[classes] area under each label's ROC curve; nan for a label that no image has, or all have."""
        return auroc(self.true, self.every)

    @cached_property
    def average_precision(self) -> Estimate:
        """[classes] average precision of each label; nan for a label that no image has."""
        return average_precision(self.true, self.every)

    @property
    def average_precision_of_both_kinds(self) -> Estimate:
        """[classes] average precision of each label; nan where no image has it or all have."""
        ap, some = self.average_precision, ~np.isnan(self.auroc.value)
        return Estimate(np.where(some, ap.value, np.nan), np.where(some, ap.bound, np.nan))

    @cached_property
    def auroc_micro(self) -> Estimate:
        """Area under the ROC curve of all decisions."""
        return auroc(self.any_true.sum(axis=0), self.any_label.sum(axis=0))

    @cached_property
    def average_precision_micro(self) -> Estimate:
        """Average precision of all decisions."""
        return average_precision(self.any_true.sum(axis=0), self.any_label.sum(axis=0))

    @property
    def grouped(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """True and every, [groups, classes, coarse] each."""
        return self.true_grouped, self.every_grouped


def _by_group(
    rows: MultiLabelPredictions, at: NDArray[np.int16], sets: KnownSets, confidence: NDArray[np.int64]
) -> StatesByName:
    """Return `GroupedHistograms` of decisions that are known; arguments as there."""
    if rows.group_column:
        at = at.copy()
        at[sets.unknown.row, sets.unknown.label] = -1
    return GroupedHistograms.count(rows, at, (sets.true.row, sets.true.label), confidence)
