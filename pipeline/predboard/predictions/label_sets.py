"""Holds a set of labels for each row, as lists of Arrow lie in memory. It knows no run and no logits.

All sets of some rows are two arrays, a sparse matrix in compressed rows: where each row's labels start, and the labels
of all rows one after another. So what is counted is counted over the labels that are there, and not over all classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard.predictions.arrow import as_arrow, as_booleans, as_numpy
from predboard.predictions.schema import LABEL_LIST

RowSelection = slice | NDArray[Any] | list[int]
"""Some rows: a slice, bool [rows], or indices in any order."""


@dataclass(frozen=True)
class LabelSets:
    """Sets of labels, one for each row, in compressed sparse rows.

    >>> sets = LabelSets.from_lists([[0, 2], [], [1]])
    >>> sets.start.tolist(), sets.label.tolist(), sets.row.tolist(), sets.size.tolist()
    ([0, 2, 2, 3], [0, 2, 1], [0, 0, 2], [2, 0, 1])
    """

    start: NDArray[np.int64]
    """[rows + 1] where the labels of each row start in `label`, and where those of the last row end."""
    label: NDArray[np.int64]
    """[labels] of all rows one after another, ascending within a row."""

    @classmethod
    def empty(cls, rows: int) -> Self:
        """Return `rows` empty sets."""
        return cls(np.zeros(rows + 1, np.int64), np.zeros(0, np.int64))

    @classmethod
    def from_lists(cls, lists: Iterable[Iterable[int]]) -> Self:
        """Return the sets of lists of labels, which may be in any order and name a label twice."""
        sets = [sorted(set(labels)) for labels in lists]
        start = np.cumsum([0, *map(len, sets)], dtype=np.int64)
        return cls(start, np.array([label for labels in sets for label in labels], np.int64))

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_]) -> Self:
        """Return the sets of the labels where `mask` [rows, classes] is true."""
        row, label = np.nonzero(mask)
        return cls(_starts(row, len(mask)), label.astype(np.int64))

    @classmethod
    def from_pairs(cls, row: NDArray[np.integer[Any]], label: NDArray[np.integer[Any]], rows: int) -> Self:
        """Return `rows` sets of pairs of a row and a label [pairs], in any order; a pair that repeats counts once."""
        classes = int(label.max(initial=0)) + 1
        code = np.sort(row.astype(np.int64) * classes + label)  # a tenth of the time of np.unique, which hashes
        code = code[np.append(True, code[1:] != code[:-1])[: len(code)]]
        return cls(_starts(code // classes, rows), code % classes)

    @classmethod
    def from_arrow(cls, lists: pa.Array) -> Self:
        """Return the sets of an Arrow array of lists of ascending labels, [rows]; null is empty."""
        length = as_numpy(pc.list_value_length(lists), 0)
        return cls(np.cumsum([0, *length], dtype=np.int64), as_numpy(lists.flatten()).astype(np.int64))

    def to_arrow(self, valid: NDArray[np.bool_] | None = None) -> pa.ListArray:
        """Return an Arrow array of lists of int32, [rows], null where `valid` is false."""
        mask = None if valid is None or valid.all() else as_booleans(~valid)
        start, label = as_arrow(self.start, pa.int32()), as_arrow(self.label, pa.int32())
        return pa.ListArray.from_arrays(start, label, type=LABEL_LIST, mask=mask)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.start) - 1

    @cached_property
    def size(self) -> NDArray[np.int64]:
        """Number of labels of each row, int64 [rows]."""
        return np.diff(self.start)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """Row of each label, int64 [labels]."""
        return np.repeat(np.arange(len(self)), self.size)

    def codes(self, classes: int) -> NDArray[np.int64]:
        """Return row * classes + label of each label, int64 [labels] ascending: the sets as one set of numbers."""
        return self.row * classes + self.label

    def mask(self, classes: int) -> NDArray[np.bool_]:
        """Return whether each row has each label, bool [rows, classes]."""
        mask = np.zeros((len(self), classes), bool)
        mask[self.row, self.label] = True
        return mask

    def __getitem__(self, rows: RowSelection) -> Self:
        """Return the sets of some rows."""
        chosen = np.arange(len(self))[rows]
        size = self.size[chosen]
        start = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        at = np.arange(start[-1]) + np.repeat(self.start[:-1][chosen] - start[:-1], size)
        return type(self)(start, self.label[at])

    def subset(self, keep: NDArray[np.bool_]) -> Self:
        """Return the sets with the labels where `keep` [labels] is true."""
        return type(self)(_starts(self.row[keep], len(self)), self.label[keep])

    def contains(self, other: "LabelSets") -> NDArray[np.bool_]:
        """Return which labels of `other`, of the same rows, are in these sets, bool [labels of other]."""
        classes = 1 + max(int(self.label.max(initial=0)), int(other.label.max(initial=0)))
        return contained(other.codes(classes), self.codes(classes))

    def minus(self, other: "LabelSets") -> Self:
        """Return the sets without the labels of `other`, of the same rows."""
        return self.subset(~other.contains(self)) if len(other.label) else self

    def equals(self, other: "LabelSets") -> NDArray[np.bool_]:
        """Return in which rows both sets are the same, bool [rows]."""
        equal = np.equal(self.size, other.size)
        both = np.flatnonzero(equal)
        mine, theirs = self[both], other[both]
        differing = mine.row[mine.label != theirs.label]
        equal[both[differing]] = False
        return equal


def _starts(row: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return where each row starts, int64 [rows + 1], from the row of each label [labels]."""
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)


def contained(codes: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of some codes are among others, bool [codes]; `among` ascends.

    >>> contained(np.array([1, 4, 9]), np.array([0, 4, 8])).tolist()
    [False, True, False]
    """
    if not len(among):
        return np.zeros(len(codes), bool)
    at = np.minimum(np.searchsorted(among, codes), len(among) - 1)
    return np.asarray(among[at] == codes)


def product(a: LabelSets, b: LabelSets, classes: int) -> NDArray[np.int64]:
    """Return every pair of a label of `a` and a label of `b` in the same row, as a * (classes + 1) + b, int64 [pairs].

    Where only one of the two sets is empty, `classes` stands for its label; a row where both are empty has no pair.

    >>> codes = product(LabelSets.from_lists([[0, 2], [1], []]), LabelSets.from_lists([[1], [], []]), 3)
    >>> [divmod(code, 4) for code in codes.tolist()]
    [(0, 1), (2, 1), (1, 3)]
    """
    width = np.maximum(b.size, 1)
    pairs = np.where((a.size > 0) | (b.size > 0), np.maximum(a.size, 1) * width, 0)  # [rows]
    row = np.repeat(np.arange(len(a)), pairs)
    number = np.arange(len(row)) - np.repeat(np.cumsum(pairs) - pairs, pairs)  # of the pair in its row
    first, second = number // width[row], number % width[row]
    return _at(a, row, first, classes) * (classes + 1) + _at(b, row, second, classes)


def _at(sets: LabelSets, row: NDArray[np.int64], number: NDArray[np.int64], missing: int) -> NDArray[np.int64]:
    """Return the label of each number in its row, `missing` where the row has none."""
    label = np.append(sets.label, missing)
    return label[np.where(sets.size[row] > 0, sets.start[row] + number, len(sets.label))]


@dataclass(frozen=True)
class MultiLabels:
    """What is known of the labels of some rows: the columns `labels` and `unknown` of multi-label predictions."""

    labels: LabelSets
    """[rows] the labels that apply; empty for a row that is not labelled."""
    unknown: LabelSets
    """[rows] labels of which it is not known whether they apply; none of them is in `labels`."""
    labelled: NDArray[np.bool_]
    """[rows] whether the row has labels at all. A labelled row without any has none that applies."""

    @classmethod
    def none(cls, rows: int) -> Self:
        """Return `rows` unlabelled rows."""
        return cls(LabelSets.empty(rows), LabelSets.empty(rows), np.zeros(rows, bool))

    @classmethod
    def from_arrow(cls, labels: pa.Array, unknown: pa.Array) -> Self:
        """Return what the two columns say, each an Arrow array of lists of int32, [rows]."""
        labelled = as_numpy(labels.is_valid().cast(pa.uint8())).astype(bool)
        return cls(LabelSets.from_arrow(labels), LabelSets.from_arrow(unknown), labelled)

    def to_arrow(self) -> tuple[pa.ListArray, pa.ListArray]:
        """Return the two columns; `labels` is null for an unlabelled row, `unknown` where nothing is unknown."""
        return self.labels.to_arrow(self.labelled), self.unknown.to_arrow(self.unknown.size > 0)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labelled)

    def settled(self, classes: int) -> Self:
        """Return the rows in their one form: of an unlabelled row nothing is listed, nor of one known by nothing."""
        labelled = self.labelled & (self.unknown.size < classes)
        labels, unknown = (sets.subset(labelled[sets.row]) for sets in (self.labels, self.unknown))
        return type(self)(labels, unknown, labelled)

    def __getitem__(self, rows: RowSelection) -> Self:
        """Return some rows."""
        return type(self)(self.labels[rows], self.unknown[rows], self.labelled[rows])


Labels = NDArray[np.integer[Any]] | MultiLabels
"""What is known of the labels of some rows: the true class of each, -1 where unknown; or several of each."""


def label_values(labels: Labels) -> Iterable[tuple[Any, ...]]:
    """Return the labels of each row as plain values: (class,), or (labels or None, unknown labels or None).

    >>> labels, unknown = LabelSets.from_lists([[0], []]), LabelSets.from_lists([[1, 2], []])
    >>> known = MultiLabels(labels, unknown, np.array([True, False]))
    >>> list(label_values(known)), list(label_values(np.array([3, -1])))
    ([([0], [1, 2]), (None, None)], [(3,), (-1,)])
    """
    if isinstance(labels, MultiLabels):
        return zip(*(column.to_pylist() for column in labels.to_arrow()), strict=True)
    return zip(labels.tolist(), strict=True)
