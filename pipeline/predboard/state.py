"""Mergeable state: a panel declares how each field merges and never writes a merge. Knows nothing of panels.

For all states a, b, c of one panel
    merge(zero, a) == a == merge(a, zero)
    merge(a, b) == merge(b, a)
    merge(a, merge(b, c)) == merge(merge(a, b), c)
to the last bit, so that rows may be measured anywhere, in any grouping and order. Float sums do not obey this; sum
`fixed` integers instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.table import TileRows

FIXED_UNIT = 2**-20
"""Of `fixed` numbers. 2**43 rows of mean 1 fit into an int64."""

FIXED_LIMIT = 2.0**16
"""`fixed` numbers are cut at ±65,536: a model that gives such losses is broken, and 130 million of them add up."""

S = TypeVar("S")


def fixed(values: NDArray[np.floating[Any]]) -> np.int64:
    """Sum of the values in units of 2**-20, each cut at `FIXED_LIMIT` and rounded first: exact in any order."""
    cut = np.clip(values.astype(np.float64), -FIXED_LIMIT, FIXED_LIMIT)
    return np.int64(np.rint(cut / FIXED_UNIT).astype(np.int64).sum())


def _add(a: Any, b: Any) -> Any:
    total = np.add(a, b)
    if not np.issubdtype(total.dtype, np.integer):
        raise TypeError(f"a summed field holds {total.dtype}; float sums depend on the order, use state.fixed")
    return total


def summed() -> Any:
    """A field of integers that add up."""
    return field(metadata={"merge": _add})


def least() -> Any:
    """A field whose smaller value stays."""
    return field(metadata={"merge": np.minimum})


def greatest() -> Any:
    """A field whose greater value stays."""
    return field(metadata={"merge": np.maximum})


@runtime_checkable
class Mergeable(Protocol):
    """A field that merges itself."""

    def merge(self, other: Any) -> Any:
        """A new value; neither argument changes."""
        ...


@dataclass(frozen=True)
class Counted:
    """How often each whole number was seen. Sparse: a confusion matrix of 10,000 classes costs what was seen of it."""

    value: NDArray[np.int64]  # [distinct] ascending
    count: NDArray[np.int64]  # [distinct] above 0

    @classmethod
    def of(cls, values: NDArray[np.int64]) -> Self:
        """Counts of [rows] whole numbers."""
        value, count = np.unique(values, return_counts=True)
        return cls(value.astype(np.int64), count.astype(np.int64))

    def merge(self, other: Self) -> Self:
        """A new value; neither argument changes."""
        value, where = np.unique(np.concatenate([self.value, other.value]), return_inverse=True)
        count = np.zeros(len(value), np.int64)
        np.add.at(count, where, np.concatenate([self.count, other.count]))
        return type(self)(value, count)


@dataclass(frozen=True)
class Groups:
    """Sums for each distinct value; nothing but that there are too many where there are more than `limit` values."""

    limit: int
    value: NDArray[Any]  # [distinct] ascending: float64, or texts as objects; empty if there are too many
    sums: NDArray[np.int64]  # [distinct, sums]
    over: bool = False
    """Whether there are more than `limit` values."""

    @classmethod
    def of(cls, limit: int, values: NDArray[Any], summands: NDArray[np.int64]) -> Self:
        """Sums over [rows] values of [rows, sums] summands."""
        distinct, where = np.unique(values, return_inverse=True)
        if len(distinct) > limit:
            return cls(limit, values[:0], summands[:0], over=True)
        sums = np.zeros((len(distinct), summands.shape[1]), np.int64)
        np.add.at(sums, where, summands)
        return cls(limit, distinct, sums)

    def merge(self, other: Self) -> Self:
        """A new value; neither argument changes."""
        if self.over or other.over:
            return self if self.over else other
        return self.of(
            self.limit, np.concatenate([self.value, other.value]), np.concatenate([self.sums, other.sums], axis=0)
        )


@dataclass(frozen=True)
class StatesByName:
    """States by name, where the names are only known from the rows."""

    states: Mapping[str, Any]

    def merge(self, other: Self) -> Self:
        """A new value; neither argument changes."""
        both = {**self.states, **other.states}
        return type(self)(
            {
                name: self.states[name].merge(other.states[name])
                if name in self.states and name in other.states
                else both[name]
                for name in sorted(both)
            }
        )


@dataclass(frozen=True)
class Lowest:
    """In each group the `limit` rows of lowest (score, key, id).

    Key and id break ties, so which rows stay depends on no order of arrival, and an image that was inserted into the
    data moves no other.
    """

    limit: int
    group: NDArray[np.int64]  # [n]
    score: NDArray[np.float64]  # [n]
    rows: TileRows  # [n] each, with key and id

    @staticmethod
    def choose(
        limit: int,
        group: NDArray[np.int64],
        score: NDArray[np.float64],
        key: NDArray[np.int64],
        id: NDArray[np.int64],  # noqa: A002  the column's name
    ) -> NDArray[np.int64]:
        """Indices of the rows that stay, by group, score, key and id."""
        among = np.arange(len(group))
        if len(group) > limit > 0 and (group == group[0]).all():  # only what can stay is sorted
            among = np.flatnonzero(~(score > np.partition(score, limit - 1)[limit - 1]))  # nan is the highest
        order = among[np.lexsort((id[among], key[among], score[among], group[among]))]
        by_group = group[order]
        rank = np.arange(len(order)) - np.searchsorted(by_group, by_group)  # of each row in its group
        return order[rank < limit].astype(np.int64)

    def merge(self, other: Self) -> Self:
        """A new value; neither argument changes."""
        group, score = np.concatenate([self.group, other.group]), np.concatenate([self.score, other.score])
        key, id_ = (np.concatenate([self.rows[name], other.rows[name]]) for name in ("key", "id"))
        stay = self.choose(self.limit, group, score, key, id_)
        rows = {name: _picked(column, other.rows[name], stay) for name, column in self.rows.items()}
        return type(self)(self.limit, group[stay], score[stay], rows)

    def of_group(self, group: int) -> TileRows:
        """The rows of one group, lowest first."""
        return {name: column[self.group == group] for name, column in self.rows.items()}


def _picked(a: NDArray[Any], b: NDArray[Any], at: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of two arrays, as of one array that has both, which is not made: vectors of some thousand rows are large."""
    if not len(a):
        return b[at]
    found = a.take(np.minimum(at, len(a) - 1), axis=0).astype(np.result_type(a, b), copy=False)
    others = at >= len(a)
    found[others] = b[at[others] - len(a)]
    return found


def merge(a: S, b: S, *, done: dict[tuple[int, int], Any] | None = None) -> S:
    """A new state; neither `a` nor `b` changes. Raises TypeError for states of two panels.

    `done` holds the states that were merged already by the identities of the two: what several panels share in both is
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
        elif isinstance(x, Mergeable):
            merged[f.name] = x.merge(y)
        else:
            merged[f.name] = merge(x, y, done=done)
    done[id(a), id(b)] = type(a)(**merged)
    return cast(S, done[id(a), id(b)])


def merge_all(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two states of each panel, merged by the panel's name; one without another stays, and what panels share is merged
    once.
    """
    done: dict[tuple[int, int], Any] = {}
    return {**a, **{name: merge(a[name], of, done=done) if name in a else of for name, of in b.items()}}
