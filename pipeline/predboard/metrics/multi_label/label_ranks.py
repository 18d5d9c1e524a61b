"""Measures how each image's labels rank among one another, and the Brier score. It knows no threshold and no drawing.

Labels that are unknown rank nowhere: their logits are taken as -inf.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import Floats
from predboard.metrics.multi_label.known_sets import KnownSets
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import Run
from predboard.state import FIXED_UNIT, summed

RANKABLE, LRAP, RANKING_LOSS, ONE_ERROR, COVERAGE, BRIER = range(6)
"""Places in `LabelRanks.sums`: images with a label and a label that they lack; fixed-point sums over them of average
precision, ranking loss and one-error; over all images of how far down the ranking all true labels are found; and over
all decisions of the squared distance of the probability."""

_UNIT_SUM_MARGIN = 1e-3
"""Distance of a sum of probabilities from 1 that rounding explains."""

_BLOCK = 2**17
"""Logits that are compared at once: they stay in the processor's cache."""

SORT_FROM = 64
"""Comparisons of a row's true labels with all labels from which sorting its logits is quicker."""


@dataclass(frozen=True)
class LabelRanks:
    """Mergeable sums of what the ranking of each image's labels tells."""

    sums: NDArray[np.int64] = summed()  # [groups, 6] RANKABLE, …, BRIER
    unit_sums: np.int64 = summed()  # rows whose probabilities sum to 1, as those of one label do

    @classmethod
    def zero(cls, run: Run) -> "LabelRanks":  # noqa: ARG003  as of all states
        """Return the sums of no rows."""
        return cls(np.zeros((JACKKNIFE_GROUPS, 6), np.int64), np.int64(0))

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelRanks":
        """Return the sums of these rows alone, measured once for all panels that share them."""
        return batch.memoize(LabelRanks, lambda: cls._measured(run, batch))

    @classmethod
    def _measured(cls, run: Run, batch: MultiLabelPredictions) -> "LabelRanks":
        sets, rows = KnownSets.measure(run, batch), batch.labelled
        z, p = rows.logits, rows.probabilities  # [rows, classes]
        if len(sets.unknown.label):
            at = sets.unknown.row, sets.unknown.label
            z, p = z.copy(), p.copy()
            z[at], p[at] = -np.inf, 0
        each = row_ranks(z, sets.true, sets.known)
        of_true = np.bincount(sets.true.row, p[sets.true.row, sets.true.label], len(sets))
        brier = np.maximum(np.einsum("ij,ij->i", p, p).astype(np.float64) - 2 * of_true + sets.true.size, 0)
        whole = each.rankable.astype(np.int64)
        fixed = (each.average_precision, each.ranking_loss, each.one_error, each.coverage, brier)
        columns = [whole, *(np.rint(values / FIXED_UNIT).astype(np.int64) for values in fixed)]
        sums = np.zeros((JACKKNIFE_GROUPS, len(columns)), np.int64)
        np.add.at(sums, sets.group, np.stack(columns, axis=1))
        return cls(sums, np.int64((np.abs(rows.probabilities.sum(axis=1) - 1) < _UNIT_SUM_MARGIN).sum()))

    @property
    def values(self) -> Floats:
        """[groups, 6] the sums in whole units."""
        return np.asarray(self.sums * np.array([1.0, *[FIXED_UNIT] * 5]))


@dataclass(frozen=True)
class RowRanks:
    """What the ranking of each row's labels tells, [rows] each; 0 where the row is not rankable, but for `coverage`."""

    rankable: NDArray[np.bool_]
    """Whether the row has a label and lacks one."""
    average_precision: Floats
    """Mean over the true labels of the share of true ones among those ranked at least as high."""
    ranking_loss: Floats
    """Share of pairs of a true label and another that are in the wrong order; ties are wrong."""
    one_error: Floats
    """Whether the highest label is not true; of ties the share that is not."""
    coverage: Floats
    """Labels ranked at least as high as the lowest true one; 0 without a label."""


def row_ranks(z: NDArray[np.float32], true: LabelSets, known: NDArray[np.int64]) -> RowRanks:
    """Rank the labels of each row: Tsoumakas, Katakis & Vlahavas 2010; scikit-learn's ranking metrics.

    Args:
        z: [rows, classes] logits, -inf where it is not known whether the label applies.
        true: [rows] true labels, none of them at -inf.
        known: [rows] number of known labels.
    """
    row, rows = true.row, len(z)
    rank = _ranks(z, true)
    among = _ranks_among(z[row, true.label], true)
    rankable = (true.size > 0) & (true.size < known)
    pairs = np.maximum(true.size * (known - true.size), 1)

    def mean(values: Floats, by: NDArray[np.int64]) -> Floats:
        return np.where(rankable, np.bincount(row, values, rows) / np.maximum(by, 1), 0.0)

    highest = z.max(axis=1, initial=-np.inf)
    share = np.where(z[row, true.label] == highest[row], 1 / np.maximum(rank, 1), 0.0)  # of the tied highest ones
    coverage = np.zeros(rows)
    np.maximum.at(coverage, row, rank)
    return RowRanks(
        rankable,
        mean(among / np.maximum(rank, 1), true.size),
        mean((rank - among).astype(np.float64), pairs),
        np.where(rankable, 1 - np.bincount(row, share, rows), 0.0),
        coverage,
    )


def _ranks(z: NDArray[np.float32], true: LabelSets) -> NDArray[np.int64]:
    """Return for each true label how many labels of its row have at least its logit, itself among them, [labels]."""
    rank = np.empty(len(true.label), np.int64)
    many = np.flatnonzero(true.size > SORT_FROM)
    for row in many.tolist():
        ascending = np.sort(z[row])
        inside = slice(true.start[row], true.start[row + 1])
        rank[inside] = z.shape[1] - np.searchsorted(ascending, z[row, true.label[inside]])
    few = np.flatnonzero(true.size[true.row] <= SORT_FROM)
    step = max(_BLOCK // z.shape[1], 1)
    for start in range(0, len(few), step):
        at = few[start : start + step]
        of_row = true.row[at]
        above = z[of_row] >= z[of_row, true.label[at]][:, None]
        rank[at] = above.sum(axis=1, dtype=np.int32)  # in a quarter of the time of `count_nonzero`
    return rank


def _ranks_among(z: NDArray[np.float32], true: LabelSets) -> NDArray[np.int64]:
    """Return for each true label how many true ones of its row have at least its logit; `z` and the result [labels]."""
    order = np.lexsort((-z, true.row))
    row, falling = true.row[order], z[order]
    place = np.arange(len(z)) - true.start[row] + 1
    new = np.ones(len(z), bool)
    new[1:] = (row[1:] != row[:-1]) | (falling[1:] != falling[:-1])
    ends = np.append(np.flatnonzero(new)[1:], len(z)) - 1  # of each run of equal ones
    among = np.empty(len(z), np.int64)
    among[order] = np.repeat(place[ends], np.diff(np.append(np.flatnonzero(new), len(z)))) if len(z) else 0
    return among
