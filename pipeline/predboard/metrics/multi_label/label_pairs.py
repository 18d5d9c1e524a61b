"""Counts which labels are missed while which others are wrongly predicted, and which occur together. It knows no image.

A confusion matrix of several labels would have to say which wrong label stands for which missed one, and nothing tells.
So a pair (i, j) counts the images in which i is missed and j is wrongly predicted. It does not depend on the order of
the labels, and what is right is in no error, unlike in the multi-label confusion matrix of Heydarian et al. (2022).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.multi_label.known_sets import KnownSets
from predboard.predictions.label_sets import LabelSets, product
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.state import Counted

COLUMNS = frozenset({"key", "label", "predicted"})
"""Columns that `LabelPairs.measure` reads."""

DENSE_LABELS = 2048
"""Up to this many labels a table of all pairs, 16 MB at most, is added up in less time than sorted codes are merged."""

_PAIRS_PER_CELL = 1 / 64
"""Pairs of a row and cell of the table from which a matrix product counts them in less time, and in less memory."""

_BLOCK = 2**22
"""Numbers of a matrix that is multiplied at once."""


@dataclass(frozen=True)
class PairCounts:
    """Counts of pairs of numbers below `size`: a table, or of very many labels the codes first * size + second alone.

    >>> counts = PairCounts.from_sets(LabelSets.from_lists([[0], [1]]), LabelSets.from_lists([[1], []]), 2)
    >>> [column.tolist() for column in counts.merge(counts).cells]
    [[0, 1], [1, 2], [2, 2]]
    """

    size: int
    table: NDArray[np.int32]  # [size, size]; [0, 0] where the codes are counted
    codes: Counted

    @classmethod
    def zero(cls, size: int) -> "PairCounts":
        """Return no pairs."""
        side = size if size <= DENSE_LABELS + 1 else 0
        return cls(size, np.zeros((side, side), np.int32), Counted.from_values(np.zeros(0, np.int64)))

    @classmethod
    def from_sets(cls, first: LabelSets, second: LabelSets, classes: int) -> "PairCounts":
        """Count the pairs of a label of `first` and one of `second` in a row, as `label_sets.product` gives them.

        The size is classes + 1: where only one of the two sets is empty, `classes` stands for its label.
        """
        zero = cls.zero(classes + 1)
        width = np.maximum(first.size, 1) * np.maximum(second.size, 1)
        pairs = int(width[(first.size > 0) | (second.size > 0)].sum())
        if len(zero.table) and pairs > _PAIRS_PER_CELL * len(first) * len(zero.table) ** 2:
            return cls(zero.size, _multiplied(first, second, classes), zero.codes)
        code = product(first, second, classes)
        if not len(zero.table):
            return cls(zero.size, zero.table, Counted.from_values(code))
        table = np.bincount(code, minlength=zero.size**2).reshape(zero.table.shape)
        return cls(zero.size, table.astype(np.int32), zero.codes)

    def merge(self, other: "PairCounts") -> "PairCounts":
        """Return a new value; neither argument changes."""
        return PairCounts(self.size, self.table + other.table, self.codes.merge(other.codes))

    @cached_property
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """First and second number and count of each pair that was seen, ascending: [cells] each."""
        if not len(self.table):
            first, second = np.divmod(self.codes.value, self.size)
            return first, second, self.codes.count
        first, second = np.nonzero(self.table)
        return first, second, self.table[first, second].astype(np.int64)


def _multiplied(first: LabelSets, second: LabelSets, classes: int) -> NDArray[np.int32]:
    """Count the pairs by a product of matrices of 0 and 1, which float32 adds up exactly, as a block has few rows."""
    table = np.zeros((classes + 1, classes + 1), np.int32)
    step = max(_BLOCK // (classes + 1), 1)
    for start in range(0, len(first), step):
        rows = slice(start, min(start + step, len(first)))
        a, b = first[rows], second[rows]
        some = (a.size > 0) | (b.size > 0)
        left, right = (np.zeros((len(a), classes + 1), np.float32) for _ in range(2))
        for sets, matrix in ((a, left), (b, right)):
            matrix[sets.row, sets.label] = 1
            matrix[some & (sets.size == 0), classes] = 1
        table += (left.T @ right).astype(np.int32)
    return table


@dataclass(frozen=True)
class LabelPairs:
    """Mergeable counts of pairs of labels of the same image."""

    errors: PairCounts  # missed and wrongly predicted; the number of classes stands for "none"
    together: PairCounts  # two labels of one image; twice the same: images that have it
    predicted_together: PairCounts

    @classmethod
    def zero(cls, run: Run) -> "LabelPairs":
        """Return the counts of no rows."""
        size = len(run.classes) + 1
        return cls(PairCounts.zero(size), PairCounts.zero(size), PairCounts.zero(size))

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> "LabelPairs":
        """Return the counts of these rows alone, counted once for all panels that share them."""

        def count() -> LabelPairs:
            sets, k = KnownSets.measure(run, batch), len(run.classes)
            return cls(
                PairCounts.from_sets(sets.missed, sets.wrong, k),
                PairCounts.from_sets(sets.true, sets.true, k),
                PairCounts.from_sets(sets.predicted, sets.predicted, k),
            )

        return batch.memoize(LabelPairs, count)
