"""Counts how well groups of classes are told apart, and computes what follows. It knows no drawing and no files.

Two decisions are counted: the group of the predicted class, which follows from the confusion matrix alone, and the
group of the highest summed probability, which needs all logits and can be another one.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.class_groups import ClassGroups, GroupLevel
from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.grouped import no_groups, recount
from predboard.metrics.intervals import grouped_method, mean_interval, wilson_interval
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import Counted, StatesByName
from predboard.summaries import Metric

COLUMNS = frozenset({"label", "predicted", "loss"})
"""Columns that `GroupCounts.measure` reads; with summed probabilities `logits` too."""

_BLOCK_NUMBERS = 2**16
"""Probabilities that are worked on at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class GroupCounts:
    """Mergeable counts of rows by class, and by group of highest summed probability."""

    counts: Counts
    summed: Counted
    """Of the labelled rows, for each level behind one another: true group * groups + group of highest sum."""

    @classmethod
    def zero(cls, run: Run) -> "GroupCounts":
        """Return the counts of no rows."""
        return cls(Counts.zero(run), Counted.from_values(np.zeros(0, np.int64)))

    @classmethod
    def measure(cls, run: Run, batch: Predictions, groups: ClassGroups, sum_up: bool) -> "GroupCounts":
        """Return the counts of these rows alone; the second kind only to `sum_up` where there are logits."""
        counts = Counts.measure(run, batch)
        rows = batch.labelled
        codes = [np.zeros(0, np.int64)]
        if sum_up and rows.has_scores and len(rows):
            for start, level in zip(_starts(groups), groups.levels, strict=True):
                highest = _highest_group(rows.probabilities, level)
                codes.append(start + level.place[rows.label] * len(level.groups) + highest)
        return cls(counts, Counted.from_values(np.concatenate(codes)))


def _starts(groups: ClassGroups) -> list[int]:
    """Return where the codes of each level begin."""
    return list(itertools.accumulate((len(level.groups) ** 2 for level in groups.levels), initial=0))[:-1]


def _highest_group(p: NDArray[np.float32], level: GroupLevel) -> NDArray[np.int64]:
    """Return the group of highest summed probability of [rows, classes], the first of equal ones."""
    order = np.argsort(level.place, kind="stable")
    starts = np.searchsorted(level.place[order], np.arange(len(level.groups)))
    size, highest = max(_BLOCK_NUMBERS // p.shape[1], 1), np.empty(len(p), np.int64)
    for start in range(0, len(p), size):
        block = p[start : start + size, order].astype(np.float64)
        highest[start : start + size] = np.add.reduceat(block, starts, axis=1).argmax(axis=1)
    return highest


@dataclass(frozen=True)
class LevelEvidence:
    """Everything that the metrics of a level follow from."""

    level: GroupLevel
    predicted: CountMetrics
    """Counts by group, of the group of the predicted class."""
    summed: CountMetrics | None
    """Counts by group, of the group of highest summed probability; None without logits."""
    errors: int
    """Images whose predicted class is not the true one."""
    inside: int
    """Of these, images whose predicted class is in the true group."""


@dataclass(frozen=True)
class HeightEvidence:
    """How far up the tree of groups true and predicted classes meet, of the wrong predictions."""

    errors: int
    heights: int
    """Sum."""
    squares: int
    """Sum of the squares."""


def level_evidence(state: GroupCounts, groups: ClassGroups) -> list[LevelEvidence]:
    """Return what the metrics of each level follow from."""
    scores = state.counts.metrics
    true, predicted, count = scores.cells
    evidence = []
    for start, level in zip(_starts(groups), groups.levels, strict=True):
        size = len(level.groups)
        by_class = grouped_counts(level, true, predicted, count, state.counts.cells_by_group)
        inside = (state.summed.value >= start) & (state.summed.value < start + size**2)
        summed = Counted(state.summed.value[inside] - start, state.summed.count[inside])
        wrong = true != predicted
        same = wrong & (level.place[true] == level.place[predicted])
        evidence.append(
            LevelEvidence(
                level,
                by_class,
                _counts(summed, size).metrics if inside.any() else None,
                int(count[wrong].sum()),
                int(count[same].sum()),
            )
        )
    return evidence


def grouped_counts(
    level: GroupLevel,
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    count: NDArray[np.int64],
    cells_by_group: StatesByName | None = None,
) -> CountMetrics:
    """Return the counts by group of cells of the confusion matrix of classes, [cells] each.

    `cells_by_group` are as in `Counts`, of rows that belong together.
    """
    size, classes = len(level.groups), len(level.place)

    def recode(cell: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(level.place[cell // classes] * size + level.place[cell % classes])

    code, where = np.unique(level.place[true] * size + level.place[predicted], return_inverse=True)
    total = np.zeros(len(code), np.int64)
    np.add.at(total, where, count)
    together = recount(cells_by_group or no_groups(), recode, size**2)
    return replace(_counts(Counted(code.astype(np.int64), total), size), cells_by_group=together).metrics


def _counts(confusion: Counted, size: int) -> Counts:
    none = np.int64(0)
    return Counts(confusion, np.int64(size), np.int64(confusion.count.sum()), none, none, none, none, none)


def height_evidence(state: GroupCounts, groups: ClassGroups) -> HeightEvidence:
    """Return what the mean height of mistakes follows from."""
    true, predicted, count = state.counts.metrics.confusions
    height = groups.heights(true, predicted)
    return HeightEvidence(int(count.sum()), int((count * height).sum()), int((count * height**2).sum()))


# Metrics, each of its evidence.


def accuracy(evidence: LevelEvidence) -> Metric | None:
    """Return the share of images whose predicted class is in the true group."""
    return _share(evidence.predicted)


def accuracy_summed(evidence: LevelEvidence) -> Metric | None:
    """Return the share of images whose true group has the highest summed probability."""
    return None if evidence.summed is None else _share(evidence.summed)


def errors_inside(evidence: LevelEvidence) -> Metric | None:
    """Return the share of the errors that stay inside the true group; None without errors."""
    n = evidence.errors
    return Metric(evidence.inside / n, wilson_interval(evidence.inside, n), rows=n) if n else None


def mistake_height(evidence: HeightEvidence) -> Metric | None:
    """Return the mean height of the lowest group that joins true and predicted class, over the errors.

    The hierarchical distance of a mistake of Bertinetto et al. 2020 (Making Better Mistakes, CVPR).
    """
    n = evidence.errors
    if not n:
        return None
    mean = evidence.heights / n
    return Metric(mean, mean_interval(mean, max(evidence.squares / n - mean**2, 0.0), n), rows=n)


def _share(counts: CountMetrics) -> Metric | None:
    if not counts.counted:
        return None
    method = grouped_method(counts.group_column) if counts.group_column else ""
    return Metric(counts.accuracy, counts.accuracy_interval, method=method, rows=counts.counted)
