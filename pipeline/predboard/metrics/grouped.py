"""Sums by group of rows, so that intervals leave out rows that belong together as a whole. It knows no metric.

Rows of one patient or scene are alike, and an interval that takes them as independent is too narrow. All rows of one
value of the column that the user names are in one of 20 groups, by its hash; leaving out one group after the other
gives an interval of any metric (delete-a-group jackknife, Kott 2001). Without such a column there are no sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import Floats, grouped_half_width
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.table import PredictionRows
from predboard.state import Counted, StatesByName


@dataclass(frozen=True)
class GroupedSums:
    """Mergeable sums of whole numbers by group."""

    rows: NDArray[np.int64]  # [GROUPS]
    sums: NDArray[np.int64]  # [GROUPS, ...]

    def merge(self, other: "GroupedSums") -> "GroupedSums":
        """Return a new value; neither argument changes."""
        return GroupedSums(self.rows + other.rows, self.sums + other.sums)

    @cached_property
    def without(self) -> NDArray[np.int64]:
        """[present, ...] sums without each group that has rows."""
        return np.asarray(self.sums.sum(axis=0) - self.sums[self.rows > 0])

    @cached_property
    def rows_without(self) -> NDArray[np.int64]:
        """[present] rows without each group that has rows."""
        return np.asarray(self.rows.sum() - self.rows[self.rows > 0])


@dataclass(frozen=True)
class GroupedCells:
    """Mergeable counts of cells, such as those of a confusion matrix, by group."""

    cells: Counted  # of group * `limit` + cell
    limit: np.int64  # cells there can be

    def merge(self, other: "GroupedCells") -> "GroupedCells":
        """Return a new value; neither argument changes."""
        return GroupedCells(self.cells.merge(other.cells), self.limit)

    @cached_property
    def present(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Cells and their counts, of each group that has rows."""
        group, cell = np.divmod(self.cells.value, self.limit)
        starts = np.searchsorted(group, np.arange(JACKKNIFE_GROUPS + 1))
        pieces = (slice(a, b) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True) if a < b)
        return [(cell[piece], self.cells.count[piece]) for piece in pieces]


def sum_by_group(rows: PredictionRows, summands: Callable[[], NDArray[np.int64]]) -> StatesByName:
    """Return the sums of [rows, ...] whole numbers by the name of the column of groups; nothing without one."""
    if not rows.group_column:
        return StatesByName({})
    group, numbers = rows.jackknife_group, summands()
    sums = np.zeros((JACKKNIFE_GROUPS, *numbers.shape[1:]), np.int64)
    np.add.at(sums, group, numbers)
    return StatesByName({rows.group_column: GroupedSums(np.bincount(group, minlength=JACKKNIFE_GROUPS), sums)})


def cells_by_group(rows: PredictionRows, cell: NDArray[np.int64], limit: int) -> StatesByName:
    """Return the counts of [rows] cells, 0 to `limit` - 1, by the name of the column of groups; nothing without one."""
    if not rows.group_column:
        return StatesByName({})
    counted = Counted.from_values(rows.jackknife_group * limit + cell)
    return StatesByName({rows.group_column: GroupedCells(counted, np.int64(limit))})


def recount(
    grouped: StatesByName, recode: Callable[[NDArray[np.int64]], NDArray[np.int64]], limit: int
) -> StatesByName:
    """Return the counts of `cells_by_group` by other cells, 0 to `limit` - 1: `recode` takes and returns [n] cells."""
    states = {}
    for name, of_cells in grouped.states.items():
        group, cell = np.divmod(of_cells.cells.value, of_cells.limit)
        value, where = np.unique(group * limit + recode(cell), return_inverse=True)
        count = np.zeros(len(value), np.int64)
        np.add.at(count, where, of_cells.cells.count)
        states[name] = GroupedCells(Counted(value, count), np.int64(limit))
    return StatesByName(states)


def no_groups() -> StatesByName:
    """Return the sums of no rows."""
    return StatesByName({})


def group_column(grouped: StatesByName) -> str:
    """Return the name of the column of groups; empty without one."""
    return next(iter(grouped.states), "")


def hash_of(column: str) -> str:
    """Return what decides on which half of the images something is fitted, in words.

    >>> hash_of("patient"), hash_of("")
    ('a hash of patient', 'a hash of their keys')
    """
    return f"a hash of {column}" if column else "a hash of their keys"


def grouped_interval(
    value: float, without: NDArray[np.float64], lowest: float = 0.0, highest: float = 1.0
) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric from its values without each group; None if there is no telling.

    Args:
        value: of all rows.
        without: [present] values.
        lowest, highest: that the metric can be.
    """
    half = float(grouped_half_width(without))
    if half == 0 and value in (lowest, highest):  # 0 of 260 in every group: how near it is to 0 cannot be told
        return None
    return None if np.isnan(half) else (max(value - half, lowest), min(value + half, highest))


def grouped_ends(value: Floats, without: Floats, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the ends of `grouped_interval` for many shares at once: [...]; nan where undefined.

    Args:
        value: [...] of all rows.
        without: [groups, ...] without each group.
        present: [groups, ...] whether each group has rows that the value rests on.
    """
    half = grouped_half_width(without, present)
    half = np.where((half == 0) & ((value == 0) | (value == 1)), np.nan, half)
    return np.clip(value - half, 0, 1), np.clip(value + half, 0, 1)
