"""Merges states whose fields declare how: a panel never writes a merge itself. It knows nothing of panels.

For all states a, b, c of one panel
    merge(zero, a) == a == merge(a, zero)
    merge(a, b) == merge(b, a)
    merge(a, merge(b, c)) == merge(merge(a, b), c)
to the last bit, so rows may be measured anywhere, in any grouping and order. Float sums do not obey these laws; sum
`fixed` integers instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.table import PredictionRows, TileRows

FIXED_UNIT = 2**-20
"""Unit of `fixed` numbers. The sum of 2**43 rows of mean 1 fits into an int64."""

FIXED_LIMIT = 2.0**16
"""`fixed` cuts numbers at ±65,536: a model with such losses is broken, and 130 million of them still add up."""

_MANY_ROWS = 2048
"""Rows from which two sorts take a third of the time of one by two keys."""

S = TypeVar("S")


def fixed(values: NDArray[np.floating[Any]]) -> np.int64:
    """Return the sum of the values in units of 2**-20, each cut at `FIXED_LIMIT` and rounded first: exact in any order.

    >>> int(fixed(np.array([0.5, 0.25]))), float(fixed(np.array([0.5, 0.25])) * FIXED_UNIT)
    (786432, 0.75)
    """
    return np.int64(fixed_each(values).sum())


def fixed_each(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return each value in units of 2**-20, cut at `FIXED_LIMIT` and rounded, int64 of the same shape."""
    cut = np.clip(values.astype(np.float64), -FIXED_LIMIT, FIXED_LIMIT)
    return np.rint(cut / FIXED_UNIT).astype(np.int64)


def fixed_squares(values: NDArray[np.floating[Any]]) -> tuple[np.int64, np.int64]:
    """Return the sum of the squares in two parts, exact in any order: small ones in units of 2**-20, large ones of 1.

    >>> fixed_squares(np.array([0.5, 300.0]))
    (np.int64(262144), np.int64(90000))
    """
    squares = np.square(np.clip(values.astype(np.float64), -FIXED_LIMIT, FIXED_LIMIT))
    large = squares > FIXED_LIMIT
    return fixed(squares[~large]), np.int64(np.rint(squares[large]).astype(np.int64).sum())


def _add(a: Any, b: Any) -> Any:
    total = np.add(a, b)
    if not np.issubdtype(total.dtype, np.integer):
        raise TypeError(f"a summed field holds {total.dtype}; float sums depend on the order, use state.fixed")
    return total


def summed() -> Any:
    """Declare a field of integers that add up."""
    return field(metadata={"merge": _add})


def least() -> Any:
    """Declare a field whose smaller value stays."""
    return field(metadata={"merge": np.minimum})


def greatest() -> Any:
    """Declare a field whose greater value stays."""
    return field(metadata={"merge": np.maximum})


class Mergeable(Protocol):
    """A value that merges itself: a field that has the method needs no declaration."""

    def merge(self, other: Any) -> Any:
        """Return a new value; neither argument changes."""
        ...


@dataclass(frozen=True)
class Counted:
    """Counts of whole numbers. A confusion matrix of 10,000 classes takes only the pairs that were seen.

    >>> a, b = Counted.from_values(np.array([3, 1, 3])), Counted.from_values(np.array([3, 7]))
    >>> a.merge(b)
    Counted(value=array([1, 3, 7]), count=array([1, 3, 1]))
    """

    value: NDArray[np.int64]  # [distinct] ascending
    count: NDArray[np.int64]  # [distinct] above 0

    @classmethod
    def from_values(cls, values: NDArray[np.int64]) -> Self:
        """Count [rows] whole numbers."""
        value, count = np.unique(values, return_counts=True)
        return cls(value.astype(np.int64), count.astype(np.int64))

    def merge(self, other: Self) -> Self:
        """Return a new value; neither argument changes."""
        value, where = np.unique(np.concatenate([self.value, other.value]), return_inverse=True)
        count = np.zeros(len(value), np.int64)
        np.add.at(count, where, np.concatenate([self.count, other.count]))
        return type(self)(value, count)


@dataclass(frozen=True)
class Groups:
    """Sums for each distinct value of a column. With more than `limit` values only the fact that there are too many.

    >>> of_country = Groups.from_rows(2, np.array(["NO", "SE", "NO"], object), np.array([[1], [1], [1]]))
    >>> of_country.value.tolist(), of_country.sums.tolist()
    (['NO', 'SE'], [[2], [1]])
    >>> merged = of_country.merge(Groups.from_rows(2, np.array(["FI"], object), np.array([[1]])))
    >>> merged.over, merged.value.tolist()
    (True, [])
    """

    limit: int
    value: NDArray[Any]  # [distinct] ascending: float64, or texts as objects; empty if there are too many
    sums: NDArray[np.int64]  # [distinct, sums]
    over: bool = False
    """Whether there are more than `limit` values."""

    @classmethod
    def from_rows(cls, limit: int, values: NDArray[Any], summands: NDArray[np.int64]) -> Self:
        """Sum [rows, sums] summands by [rows] values."""
        distinct, where = np.unique(values, return_inverse=True)
        if len(distinct) > limit:
            return cls(limit, values[:0], summands[:0], over=True)
        sums = np.zeros((len(distinct), summands.shape[1]), np.int64)
        np.add.at(sums, where, summands)
        return cls(limit, distinct, sums)

    def merge(self, other: Self) -> Self:
        """Return a new value; neither argument changes."""
        if self.over or other.over:
            return self if self.over else other
        return self.from_rows(
            self.limit, np.concatenate([self.value, other.value]), np.concatenate([self.sums, other.sums], axis=0)
        )


@dataclass(frozen=True)
class StatesByName:
    """States by name, for names that only the rows tell, such as the columns of a manifest."""

    states: Mapping[str, Any]

    def merge(self, other: Self) -> Self:
        """Return a new value; neither argument changes."""
        both = {**self.states, **other.states}
        return type(self)(
            {
                name: _merged(self.states[name], other.states[name])
                if name in self.states and name in other.states
                else both[name]
                for name in sorted(both)
            }
        )


@dataclass(frozen=True)
class Lowest:
    """The `limit` rows of lowest (score, key, id) in each group.

    Key and id break ties, so which rows stay does not depend on the order of arrival, and an image that is inserted
    into the data moves no other.

    >>> def state(score, key):
    ...     rows = {"key": np.array(key), "id": np.array(key)}
    ...     return Lowest(2, np.zeros(len(key), np.int64), np.array(score), rows)
    >>> state([0.1, 0.9], [11, 12]).merge(state([0.5], [13])).rows["key"].tolist()
    [11, 13]
    """

    limit: int
    group: NDArray[np.int64]  # [n]
    score: NDArray[np.float64]  # [n]
    rows: TileRows  # [n] each, with key and id

    @classmethod
    def of_tiles(
        cls,
        limit: int,
        rows: PredictionRows,
        at: NDArray[np.int64],
        score: NDArray[np.floating[Any]],
        group: NDArray[np.int64] | None = None,
    ) -> Self:
        """Return the lowest of some rows of a batch, with what their tiles need.

        Args:
            limit: rows that stay in each group.
            rows: the batch.
            at: [candidates] index of each in the batch.
            score: [candidates].
            group: [candidates]; one group without it.
        """
        if group is None:
            group = np.zeros(len(at), np.int64)
        stay = cls.choose(limit, group, score, rows.key[at], rows.id[at])
        return cls(limit, group[stay], score[stay].astype(np.float64), rows.tile_rows(at[stay]))

    @staticmethod
    def choose(
        limit: int,
        group: NDArray[np.int64],
        score: NDArray[np.floating[Any]],
        key: NDArray[np.int64],
        id: NDArray[np.int64],  # noqa: A002  the column's name
    ) -> NDArray[np.int64]:
        """Return the indices of the rows that stay, by group, score, key and id."""
        among = np.arange(len(group))
        if len(group) > limit > 0 and (group == group[0]).all():  # only what can stay is sorted
            among = np.flatnonzero(~(score > np.partition(score, limit - 1)[limit - 1]))  # nan is the highest
        order = among[_order_pairs(group[among], score[among])]
        by_group, ascending = group[order], score[order]
        if ((by_group[1:] == by_group[:-1]) & ~(ascending[1:] > ascending[:-1])).any():  # else keys decide nothing
            order = among[np.lexsort((id[among], key[among], score[among], group[among]))]
        places = np.arange(len(order))
        first = np.append(True, by_group[1:] != by_group[:-1])[: len(order)]
        rank = places - np.maximum.accumulate(np.where(first, places, 0))  # of each row in its group
        return order[rank < limit].astype(np.int64)

    def merge(self, other: Self) -> Self:
        """Return a new value; neither argument changes."""
        group, score = np.concatenate([self.group, other.group]), np.concatenate([self.score, other.score])
        key, id_ = (np.concatenate([self.rows[name], other.rows[name]]) for name in ("key", "id"))
        stay = self.choose(self.limit, group, score, key, id_)
        rows = {name: _picked(column, other.rows[name], stay) for name, column in self.rows.items()}
        return type(self)(self.limit, group[stay], score[stay], rows)

    def rows_of_group(self, group: int) -> TileRows:
        """Return the rows of one group, lowest first."""
        return {name: column[self.group == group] for name, column in self.rows.items()}


def _order_pairs(group: NDArray[np.int64], score: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the indices of rows by group and score, [rows]; those of equal rows in any order."""
    if len(group) < _MANY_ROWS or not -(2**15) <= group.min() <= group.max() < 2**15:
        return np.lexsort((score, group))
    order = np.argsort(score)
    return order[np.argsort(group[order].astype(np.int16), kind="stable")]  # which counts numbers of 16 bits


def _picked(a: NDArray[Any], b: NDArray[Any], at: NDArray[np.int64]) -> NDArray[Any]:
    """Pick rows from two arrays as if they were one, without making it: vectors of some thousand rows are large."""
    if not len(a):
        return b[at]
    picked = a.take(np.minimum(at, len(a) - 1), axis=0).astype(np.result_type(a, b), copy=False)
    others = at >= len(a)
    picked[others] = b[at[others] - len(a)]
    return picked


def merge(a: S, b: S, *, done: dict[tuple[int, int], Any] | None = None) -> S:
    """Return the merged state; neither `a` nor `b` changes. Raises TypeError for states of two different panels.

    `done` has the states that are merged already, by the identities of both: a state that several panels share is
    merged once and stays shared.
    """
    done = {} if done is None else done
    if (id(a), id(b)) in done:
        return cast(S, done[id(a), id(b)])
    if type(a) is not type(b):
        raise TypeError(f"cannot merge {type(a).__name__} with {type(b).__name__}")
    merged = {}
    for f in fields(a):  # type: ignore[arg-type]  # every state is a dataclass; Python's types cannot say so
        x, y = getattr(a, f.name), getattr(b, f.name)
        if "merge" in f.metadata:
            merged[f.name] = f.metadata["merge"](x, y)
        elif hasattr(x, "merge"):  # `isinstance` of a protocol takes twenty times as long
            own: Mergeable = x
            merged[f.name] = own.merge(y)
        else:
            merged[f.name] = merge(x, y, done=done)
    done[id(a), id(b)] = type(a)(**merged)
    return cast(S, done[id(a), id(b)])


def _merged(x: Any, y: Any) -> Any:
    return x.merge(y) if hasattr(x, "merge") else merge(x, y)


def merge_all(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the states of each panel, by the panels' names; a state that only one side has stays as it is.

    What several panels share is merged once.
    """
    done: dict[tuple[int, int], Any] = {}
    return {**a, **{name: merge(a[name], state, done=done) if name in a else state for name, state in b.items()}}
