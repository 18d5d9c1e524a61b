"""Counts the decisions on labels for all panels: right, predicted, true. It knows no drawing, no files and no logits.

Counts are kept for each of the 20 groups of images, so that leaving out a group leaves out all labels of its images:
labels of one image are not independent, and counting them as if they were would make intervals too narrow.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.confusions import most_errors
from predboard.metrics.counts import Margins
from predboard.metrics.grouped import group_column, no_groups, sum_by_group
from predboard.metrics.intervals import Floats, wilson_intervals
from predboard.metrics.multi_label import known_sets
from predboard.metrics.multi_label.known_sets import KnownSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import Run
from predboard.state import FIXED_LIMIT, FIXED_UNIT, StatesByName, summed

COLUMNS = known_sets.COLUMNS | {"loss"}
"""Columns that `LabelCounts.measure` reads."""

HITS, PREDICTED, TRUE, KNOWN = range(4)
"""Places in `LabelCounts.decisions`."""

IMAGES, EXACT, EMPTY, JACCARD, F1, LOSS = range(6)
"""Places in `LabelCounts.sums`: images, those whose set is right, those without a label; fixed-point sums of the
Jaccard index and F1 of the images, and of the cross-entropies of all decisions, nats."""

SIZES = 33
"""Numbers of labels of an image that are told apart: 32 and more are counted together."""


@dataclass(frozen=True)
class LabelCounts:
    """Mergeable counts of rows and decisions."""

    decisions: NDArray[np.int64] = summed()  # [groups, 4, classes] HITS, PREDICTED, TRUE, KNOWN
    sums: NDArray[np.int64] = summed()  # [groups, 6] IMAGES, …, LOSS
    sizes: NDArray[np.int64] = summed()  # [SIZES, SIZES] images by number of true and of predicted labels
    rows: np.int64 = summed()
    failed: np.int64 = summed()  # rows without logits
    unlabelled: np.int64 = summed()  # rows of which no label is known, failed or not
    partly: np.int64 = summed()  # rows that count, but for labels that are unknown
    cut_losses: np.int64 = summed()  # rows whose loss is above FIXED_LIMIT
    by_group: StatesByName = field(default_factory=no_groups)  # images by group, where rows belong together

    @classmethod
    def zero(cls, run: Run) -> "LabelCounts":
        """Return the counts of no rows."""
        none = np.int64(0)
        return cls(
            np.zeros((JACKKNIFE_GROUPS, 4, len(run.classes)), np.int64),
            np.zeros((JACKKNIFE_GROUPS, 6), np.int64),
            np.zeros((SIZES, SIZES), np.int64),
            none, none, none, none, none,
        )  # fmt: skip

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelCounts":
        """Return the counts of these rows alone, counted once for all panels that share them."""
        return batch.memoize(LabelCounts, lambda: cls._measured(run, batch))

    @classmethod
    def _measured(cls, run: Run, batch: MultiLabelPredictions) -> "LabelCounts":
        sets, rows, k = KnownSets.measure(run, batch), batch.labelled, len(run.classes)
        decisions = np.zeros((JACKKNIFE_GROUPS, 4, k), np.int64)
        hit = sets.predicted.subset(sets.is_hit)
        for place, labels in ((HITS, hit), (PREDICTED, sets.predicted), (TRUE, sets.true), (KNOWN, sets.unknown)):
            code = sets.group[labels.row] * k + labels.label
            decisions[:, place] = np.bincount(code, minlength=JACKKNIFE_GROUPS * k).reshape(-1, k)
        images = np.bincount(sets.group, minlength=JACKKNIFE_GROUPS)
        decisions[:, KNOWN] = images[:, None] - decisions[:, KNOWN]
        counted = sets.counted
        loss = np.where(counted, rows.loss.astype(np.float64), 0.0)
        unlabelled = int((~batch.is_labelled).sum() + (batch.unknown.size == k).sum())
        return cls(
            decisions,
            _sums(sets, np.minimum(loss, FIXED_LIMIT) * sets.known),
            _sizes(sets),
            np.int64(len(batch)),
            np.int64((~batch.is_scored).sum()),
            np.int64(unlabelled),
            np.int64((counted & (sets.unknown.size > 0)).sum()),
            np.int64((loss > FIXED_LIMIT).sum()),
            sum_by_group(rows, lambda: np.ones((len(rows), 1), np.int64)),
        )

    @cached_property
    def metrics(self) -> "LabelCountMetrics":
        """The metrics that follow: the same object for all who ask, so that each is computed once."""
        return LabelCountMetrics(self)


def _sums(sets: KnownSets, loss: Floats) -> NDArray[np.int64]:
    """Return `LabelCounts.sums`; `loss` [rows] is the sum over the decisions of each row, nats."""
    counted = sets.counted
    exact = counted & (sets.hits == sets.predicted.size) & (sets.hits == sets.true.size)
    whole = [counted, exact, counted & (sets.true.size == 0)]
    fixed = [np.where(counted, sets.jaccard, 0), np.where(counted, sets.f1, 0), loss]
    columns = [*(w.astype(np.int64) for w in whole), *(np.rint(f / FIXED_UNIT).astype(np.int64) for f in fixed)]
    sums = np.zeros((JACKKNIFE_GROUPS, len(columns)), np.int64)
    np.add.at(sums, sets.group, np.stack(columns, axis=1))
    return sums


def _sizes(sets: KnownSets) -> NDArray[np.int64]:
    true, predicted = (np.minimum(labels.size, SIZES - 1)[sets.counted] for labels in (sets.true, sets.predicted))
    return np.bincount(true * SIZES + predicted, minlength=SIZES**2).reshape(SIZES, SIZES).astype(np.int64)


@dataclass(frozen=True)
class LabelMargins(Margins):
    """Margins of all decisions, or of many selections of images at once: what metrics of sets follow from."""

    known: Floats  # [..., classes] decisions on each label
    sums: Floats  # [..., 6] as `LabelCounts.sums`, in whole images and nats

    @property
    def images(self) -> Floats:
        """[...] images."""
        return np.asarray(self.sums[..., IMAGES])


@dataclass(frozen=True)
class LabelCountMetrics:
    """Counts by label, and the metrics that follow from them without an interval."""

    counts: LabelCounts

    @cached_property
    def _total(self) -> NDArray[np.int64]:
        return np.asarray(self.counts.decisions.sum(axis=0))

    @property
    def classes(self) -> int:
        """Number of labels that there are."""
        return int(self._total.shape[1])

    @cached_property
    def counted(self) -> int:
        """Images with logits of which some label is known: the denominator of `exact`."""
        return int(self.counts.sums[:, IMAGES].sum())

    @property
    def hits(self) -> NDArray[np.int64]:
        """[classes] images that have the label and are predicted to."""
        return np.asarray(self._total[HITS])

    @property
    def predictions(self) -> NDArray[np.int64]:
        """[classes] images predicted to have the label."""
        return np.asarray(self._total[PREDICTED])

    @property
    def support(self) -> NDArray[np.int64]:
        """[classes] images that have the label."""
        return np.asarray(self._total[TRUE])

    @property
    def known(self) -> NDArray[np.int64]:
        """[classes] images of which it is known whether they have the label."""
        return np.asarray(self._total[KNOWN])

    @property
    def recall(self) -> Floats:
        """[classes] hits / support."""
        return self.margins.recall

    @property
    def precision(self) -> Floats:
        """[classes] hits / predictions."""
        return self.margins.precision

    @property
    def f1(self) -> Floats:
        """[classes] harmonic mean of precision and recall."""
        return self.margins.f1

    @cached_property
    def margins(self) -> LabelMargins:
        """Margins of all images."""
        return _margins(self._total, self.counts.sums.sum(axis=0))

    @property
    def group_column(self) -> str:
        """Name of the column whose equal values make images belong together; empty without one."""
        return group_column(self.counts.by_group)

    @cached_property
    def margins_without(self) -> LabelMargins:
        """Margins without each group that has images, [groups, …]."""
        present = self.present
        decisions, sums = self.counts.decisions[present], self.counts.sums[present]
        return _margins(self._total - decisions, self.counts.sums.sum(axis=0) - sums)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """[groups] whether the group has images."""
        return self.counts.sums[:, IMAGES] > 0

    @cached_property
    def worst_first(self) -> NDArray[np.int64]:
        """[classes] all labels, by the upper end of F1's interval, so that 0 of 1 comes after 10 of 100.

        F1 and not recall: a label that is predicted everywhere is never missed. Those without images come last.
        """
        _, upper = wilson_intervals(self.hits, self.support + self.predictions - self.hits)
        none = self.support == 0
        order = np.lexsort((np.arange(self.classes), -self.predictions * none, -self.support, upper, none))
        return order.astype(np.int64)

    def worst(self, limit: int) -> NDArray[np.int64]:
        """Return the labels that have images and mistakes, worst first."""
        wrong = (self.support > 0) & (self.support + self.predictions > 2 * self.hits)
        return self.worst_first[wrong[self.worst_first]][:limit]

    def most_errors(self, limit: int) -> NDArray[np.int64]:
        """Return the labels with most wrong decisions (missed or wrongly predicted) of those with images, ascending."""
        return most_errors(self.support, self.predictions, self.hits, limit)


def _margins(decisions: NDArray[np.int64], sums: NDArray[np.int64]) -> LabelMargins:
    hits, predicted, true, known = (decisions[..., place, :].astype(np.float64) for place in range(4))
    unit = np.array([1.0, 1.0, 1.0, FIXED_UNIT, FIXED_UNIT, FIXED_UNIT])
    return LabelMargins(hits, true, predicted, known, sums * unit)


@dataclass(frozen=True)
class LabelCountsPanel:
    """Base of a panel whose state is `LabelCounts` and nothing else."""

    columns: frozenset[str] = COLUMNS

    def zero(self, run: Run) -> LabelCounts:
        """Return the counts of no rows."""
        return LabelCounts.zero(run)

    def measure(self, run: Run, batch: Any) -> LabelCounts:
        """Return the counts of these rows alone."""
        return LabelCounts.measure(run, batch)
