"""Sums rows by slice: by the manifest's columns and the images' properties. It knows nothing of images or files.

A slice is one value of a column, or a quarter of the rows by a number. The values are only known when all rows are, so
sums of each value are kept, and for a column with too many numbers sums of rounded ones. Numbers are cut at the user's
edges instead, if there are any. A crossed slice has one value of each of several columns; as quarters are not known
before all rows are, crossed numbers must be few, or have edges. Where rows belong together, the sums of each value are
followed by those of each of the 20 groups of the jackknife.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import unique_names
from predboard.metrics.grouped import grouped_interval
from predboard.metrics.intervals import Floats, mean_interval, wilson_interval
from predboard.metrics.slice_crosses import CROSS, Crosses, Edges, split_crosses
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, IMAGE_PROPERTIES
from predboard.predictions.table import Predictions
from predboard.state import FIXED_UNIT, Groups, StatesByName
from predboard.summaries import Metric

MAX_TEXTS = 1000
"""Distinct texts of a column; one with more is an identifier rather than a kind of image."""

MAX_EXACT_NUMBERS = 20
"""Distinct numbers that are slices of their own; a column with more is cut into quarters."""

MAX_NUMBERS = 16_384
"""Distinct numbers from which quarters are cut; those of a column with more are rounded."""

MAX_LOSS = 100.0
"""Nats at which a loss is cut in the mean and variance of a slice, so that one absurd row is not all that counts."""

BINARY_DIGITS = (53, 16, 8)
"""Significant binary digits of numbers: all there are, and those to which they are rounded where they are too many."""

COLUMNS = frozenset({ALL_MANIFEST_COLUMNS, *IMAGE_PROPERTIES})
"""Columns that define slices."""


@dataclass(frozen=True)
class SliceSums:
    """Mergeable sums over the rows of each column and value."""

    texts: StatesByName
    numbers: StatesByName
    rounded: StatesByName  # to the second of DIGITS
    rough: StatesByName  # to the third
    crossed: StatesByName  # by the columns, joined by CROSS
    cut: StatesByName  # numbers of columns with edges, by the names of their ranges


@dataclass(frozen=True)
class Slice:
    """The rows that have one value of a column, or a range of values."""

    column: str
    value: str
    """A value with `=` before it, or a range."""
    every: NDArray[np.int64]  # [1 or 1 + GROUPS, sums] of all rows, then of those of each group if they belong together
    crossed: bool = False
    """Whether it is of several columns; its value is then its name."""

    @property
    def sums(self) -> NDArray[np.int64]:
        """[sums] the first of ones, the second of how many are right."""
        return np.asarray(self.every[0])

    @property
    def is_grouped(self) -> bool:
        """Whether rows belong together."""
        return len(self.every) > 1

    @property
    def present(self) -> NDArray[np.bool_]:
        """[GROUPS] whether the slice has rows of a group; empty if each row stands for itself."""
        return np.asarray(self.every[1:, 0] > 0)

    @property
    def without(self) -> NDArray[np.int64]:
        """[present groups, sums] sums without each group of rows."""
        return np.asarray(self.every[0] - self.every[1:][self.present])

    @property
    def name(self) -> str:
        """Its name in tags: country=NO, brightness ≤ 0.2, country=NO & season=winter."""
        if self.crossed:
            return self.value
        return f"{self.column}{'' if self.value.startswith('=') else ' '}{self.value}"

    @property
    def rows(self) -> int:
        """Number of its rows."""
        return int(self.sums[0])

    @property
    def accuracy(self) -> float:
        """Share of its rows that are right."""
        return float(self.sums[1] / self.sums[0])


def mean_loss(s: Slice) -> float:
    """Return the mean loss of a slice, nats, each cut at `MAX_LOSS`; `s.sums` has 1, right, loss and loss²."""
    return float(mean_of(s.sums, 2, FIXED_UNIT))


def loss_variance(s: Slice) -> float:
    """Return the variance of its loss, nats²."""
    return max(float(s.sums[3] * FIXED_UNIT / s.sums[0]) - mean_loss(s) ** 2, 0.0)


def mean_of(sums: NDArray[np.int64], place: int, unit: float = 1.0) -> Floats:
    """Return means over rows, [...], from [..., sums] of which the first are of ones; nan without rows."""
    rows = sums[..., 0]
    return np.asarray(np.where(rows > 0, sums[..., place] * unit / np.maximum(rows, 1), np.nan))


def slice_accuracy(s: Slice) -> Metric:
    """Return the share of the slice's rows that are right."""
    ends = grouped_interval(s.accuracy, mean_of(s.without, 1)) if s.is_grouped else wilson_interval(s.sums[1], s.rows)
    return Metric(s.accuracy, ends, rows=s.rows)


def slice_nll(s: Slice) -> Metric:
    """Return the mean loss of the slice's rows, nats."""
    mean = mean_loss(s)
    if s.is_grouped:
        return Metric(mean, grouped_interval(mean, mean_of(s.without, 2, FIXED_UNIT), highest=MAX_LOSS), rows=s.rows)
    ends = mean_interval(mean, loss_variance(s), s.rows)
    return Metric(mean, ends and (max(ends[0], 0.0), ends[1]), rows=s.rows)


def slice_jaccard(s: Slice) -> Metric:
    """Return the mean Jaccard index of the slice's rows; `s.sums` has those of the indices and of their squares last.

    Where all rows have the same it has no interval, which would be of no width.
    """
    mean = float(mean_of(s.sums, 4, FIXED_UNIT))
    if s.is_grouped:
        return Metric(mean, grouped_interval(mean, mean_of(s.without, 4, FIXED_UNIT)), rows=s.rows)
    variance = max(float(mean_of(s.sums, 5, FIXED_UNIT)) - mean**2, 0.0)
    ends = mean_interval(mean, variance, s.rows) if variance > FIXED_UNIT else None
    return Metric(mean, ends and (max(ends[0], 0.0), min(ends[1], 1.0)), rows=s.rows)


def slice_images(s: Slice) -> Metric:
    """Return how many labelled rows the slice has."""
    return Metric(s.rows)


def empty_slices() -> SliceSums:
    """Return the sums of no rows; only rows tell which columns there are."""
    return SliceSums(*(StatesByName({}) for _ in range(6)))


def measure_slices(rows: Predictions, summands: NDArray[np.int64], crosses: Crosses = ()) -> SliceSums:
    """Sum rows by the values of each column.

    Args:
        rows: with the columns of `COLUMNS` that there are.
        summands: [rows, sums], at most 20.
        crosses: columns whose values are crossed, where there are all of them, and edges of numbers.
    """
    summands = _with_groups(rows, summands)
    columns, edges = split_crosses(crosses)
    texts: dict[str, Groups] = {}
    levels: tuple[dict[str, Groups], ...] = ({}, {}, {})  # of DIGITS
    cut = {name: groups for name in edges if (groups := _of_ranges(rows, name, edges[name], summands)) is not None}
    for name in (*rows.manifest_columns, *IMAGE_PROPERTIES):
        if name in edges:
            continue
        if (encoded := rows.texts(name)) is not None:
            known = encoded[1] >= 0
            if known.any():
                texts[name] = _of_texts(encoded[0], encoded[1][known], summands[known])
        elif (number := rows.numbers(name)) is not None:
            known = np.isfinite(number)
            if known.any():
                some = (number, summands) if known.all() else (number[known], summands[known])
                at_levels = _of_values(some[0] + 0.0, some[1])  # no negative zero
                for level, groups in zip(levels, at_levels, strict=True):
                    level[name] = groups
    numbers, rounded, rough = map(_sorted, levels)
    every = {CROSS.join(cross): _of_cross(rows, cross, summands, edges) for cross in columns}
    crossed = {name: groups for name, groups in every.items() if groups is not None}
    return SliceSums(_sorted(texts), numbers, rounded, rough, _sorted(crossed), _sorted(cut))


def _with_groups(rows: Predictions, summands: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return summands, followed by those of each group if rows belong together, [rows, sums * (1 + GROUPS)]."""
    if not rows.group_column:
        return summands
    wide = np.zeros((len(rows), 1 + JACKKNIFE_GROUPS, summands.shape[1]), np.int64)
    wide[:, 0] = summands
    wide[np.arange(len(rows)), 1 + rows.jackknife_group] = summands
    return wide.reshape(len(rows), wide.shape[1] * wide.shape[2])  # not -1: there may be no rows


def _slice(column: str, value: str, sums: NDArray[np.int64], crossed: bool = False) -> Slice:
    """Return a slice from the sums of a value, which those of groups may follow."""
    width = len(sums) // (1 + JACKKNIFE_GROUPS) or len(sums)  # sums are 20 at most
    return Slice(column, value, sums.reshape(-1, width), crossed)


def _ranges(rows: Predictions, name: str, edges: tuple[float, ...]) -> tuple[list[str], NDArray[np.int64]] | None:
    """Return the names of the ranges between edges, and the range of each row, -1 for no number.

    A range has its lower edge and not its upper one, but for the last, which has both, as NumPy's histogram does. None
    if the column is absent, or holds neither numbers nor texts of digits.
    """
    number = digits_as_numbers(rows, name) if name in rows.batch.schema.names else None
    if number is None:
        return None
    words = format_distinct(np.array(edges), 6)
    names = [f"< {words[0]}", *(f"{low} to {high}" for low, high in itertools.pairwise(words)), f"> {words[-1]}"]
    with np.errstate(invalid="ignore"):
        place = np.searchsorted(edges, number, side="right")
        place[number == edges[-1]] = len(edges) - 1
    return names, np.where(np.isfinite(number), place, -1)


def digits_as_numbers(rows: Predictions, name: str) -> NDArray[np.float64] | None:
    """Return a column of numbers, or of texts of digits such as 06, float64 [rows], NaN where there is none.

    None if the column holds anything else.
    """
    if (encoded := rows.texts(name)) is None:
        return rows.numbers(name)
    if not all(text.isdecimal() for text in encoded[0] if text):
        return None
    values = np.array([float(text) if text else np.nan for text in encoded[0]] + [np.nan])
    return np.asarray(values[encoded[1]])  # -1, of null, is the last


def _of_ranges(rows: Predictions, name: str, edges: tuple[float, ...], summands: NDArray[np.int64]) -> Groups | None:
    """Sum rows by the ranges between edges; None if no row has a number."""
    cut = _ranges(rows, name, edges)
    if cut is None or not (known := cut[1] >= 0).any():
        return None
    return _of_texts(cut[0], cut[1][known], summands[known])


def _of_cross(rows: Predictions, cross: tuple[str, ...], summands: NDArray[np.int64], edges: Edges) -> Groups | None:
    """Sum rows by the values that they have in several columns; None if no row has all of them."""
    known, parts = np.ones(len(rows), bool), []
    for name in cross:
        if name not in rows.batch.schema.names:
            return None
        if name in edges and (cut := _ranges(rows, name, edges[name])) is not None:
            values, index = np.array([f"{name} {text}" for text in cut[0]], object), cut[1]
        elif (encoded := rows.texts(name)) is not None:
            values, index = np.array([f"{name}={text}" for text in encoded[0]], object), encoded[1]
        elif (number := rows.numbers(name)) is not None:
            distinct, inverse = np.unique(number + 0.0, return_inverse=True)  # no negative zero
            values = np.array([f"{name}={v:.17g}" for v in distinct.tolist()], object)
            index = np.where(np.isfinite(number), inverse, -1)
        else:
            return None
        known &= index >= 0
        parts.append((values, index))
    if not known.any():
        return None
    code = np.zeros(len(rows), np.int64)
    for values, index in parts:  # renumbered at each column, so that no product overflows
        _, code = np.unique(code * (len(values) + 1) + index + 1, return_inverse=True)
    first, inverse = np.unique(code[known], return_index=True, return_inverse=True)[1:]
    if len(first) > MAX_TEXTS:
        return Groups(MAX_TEXTS, np.zeros(0, object), summands[:0], over=True)
    names = [CROSS.join(values[index[known][i]] for values, index in parts) for i in first.tolist()]
    return _of_texts(names, inverse, summands[known])


def _of_texts(distinct: list[str], index: NDArray[np.int64], summands: NDArray[np.int64]) -> Groups:
    """Sum rows by their text; `index` has the text of each row."""
    present = np.unique(index)
    order = sorted(present.tolist(), key=distinct.__getitem__)
    if len(order) > MAX_TEXTS:
        return Groups(MAX_TEXTS, np.zeros(0, object), summands[:0], over=True)
    place = np.zeros(len(distinct), np.int64)
    place[order] = np.arange(len(order))
    sums = np.zeros((len(order), summands.shape[1]), np.int64)
    np.add.at(sums, place[index], summands)
    return Groups(MAX_TEXTS, np.array([distinct[i] for i in order], object), sums)


def _of_values(value: NDArray[np.float64], summands: NDArray[np.int64]) -> list[Groups]:
    """Sum rows by their number, at each of `BINARY_DIGITS`. One sort does for all, as rounding keeps the order."""
    if (value == value[0]).all():  # the size of the pictures is often one
        ordered, sums = value[:1], summands.sum(axis=0, keepdims=True)
    else:
        order = np.argsort(value)
        ordered, sums = value[order], summands.take(order, axis=0)
    levels = []
    for digits in BINARY_DIGITS:
        rounded = _rounded(ordered, digits)
        first = np.flatnonzero(np.append(True, rounded[1:] != rounded[:-1]))
        if len(first) > MAX_NUMBERS:
            levels.append(Groups(MAX_NUMBERS, value[:0], summands[:0], over=True))
            continue
        groups = Groups(MAX_NUMBERS, rounded[first], np.add.reduceat(sums, first, axis=0))
        levels.append(groups)
        if digits == BINARY_DIGITS[0]:  # exact, so that the others follow from these
            ordered, sums = groups.value, groups.sums
    return levels


def _sorted(states: dict[str, Groups]) -> StatesByName:
    return StatesByName(dict(sorted(states.items())))


def _rounded(value: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Round numbers to this many significant binary digits; float64 has 53."""
    if digits == 53:
        return value
    mantissa, exponent = np.frexp(value)
    with np.errstate(over="ignore"):  # the largest number there is, rounded up
        rounded = np.ldexp(np.rint(np.ldexp(mantissa, digits)), exponent - digits)
    return np.asarray(np.nan_to_num(rounded))


def list_slices(kinds: SliceSums, like: SliceSums | None = None, alone: bool = False) -> list[Slice]:
    """Return all slices; those of numbers are cut where they are in `like`.

    A column with one value is a slice only if `alone`: there are no other rows to compare with.
    """
    like = like or kinds
    slices = []
    for column, groups in kinds.texts.states.items():
        if alone or len(groups.value) > 1:
            slices += [_slice(column, f"={v}", s) for v, s in zip(groups.value, groups.sums, strict=True)]
    for column in kinds.numbers.states:
        for mine, model in zip(_levels(kinds, column), _levels(like, column) or _levels(kinds, column), strict=True):
            if not model.over:
                slices += _of_numbers(column, mine, model, alone)
                break
    for column, groups in kinds.cut.states.items():
        if alone or len(groups.value) > 1:
            slices += [_slice(column, v, s) for v, s in zip(groups.value, groups.sums, strict=True)]
    for columns, groups in kinds.crossed.states.items():
        if alone or len(groups.value) > 1:
            slices += [_slice(columns, v, s, crossed=True) for v, s in zip(groups.value, groups.sums, strict=True)]
    return slices


def slice_names(slices: list[Slice]) -> dict[tuple[str, str], str]:
    """Return unique names such as `slices/country=NO` by column and value, those of slices with most rows first."""
    ordered = sorted(slices, key=lambda s: (s.column, s.value))
    names = zip(ordered, unique_names([f"slices/{s.name}" for s in ordered]), strict=True)
    return {(s.column, s.value): name for s, name in sorted(names, key=lambda pair: -pair[0].rows)}


def skipped_columns(kinds: SliceSums) -> list[str]:
    """Return the columns that have too many different values."""
    every = (kinds.texts, kinds.rough, kinds.crossed)
    return [name for by_column in every for name, groups in by_column.states.items() if groups.over]


def _levels(kinds: SliceSums, column: str) -> tuple[Groups, ...]:
    """Return the sums of a column's numbers by falling precision; nothing if it has none."""
    levels = (kinds.numbers, kinds.rounded, kinds.rough)
    return tuple(level.states[column] for level in levels if column in level.states)


def _of_numbers(column: str, groups: Groups, model: Groups, alone: bool) -> list[Slice]:
    """Return a slice for each of few numbers, else four of about equal size, fewer if one number is frequent."""
    if len(model.value) < 2 - alone:
        return []
    if len(model.value) <= MAX_EXACT_NUMBERS:
        words = dict(zip(model.value.tolist(), format_distinct(model.value, 6), strict=True))
        seen = zip(groups.value.tolist(), groups.sums, strict=True)
        return [_slice(column, f"={words[v]}", s) for v, s in seen if v in words]
    rank = np.cumsum(model.sums[:, 0]) / model.sums[:, 0].sum()
    ends = model.value[np.unique(np.minimum(np.searchsorted(rank, (0.25, 0.5, 0.75)), len(rank) - 2))]
    place = np.searchsorted(ends, groups.value)  # value <= end belongs to the quarter that ends there
    edges = format_distinct(ends, 3)
    names = [f"≤ {edges[0]}", *(f"{low} to {high}" for low, high in itertools.pairwise(edges)), f"> {edges[-1]}"]
    sums = [groups.sums[place == i].sum(axis=0) for i in range(len(names))]
    return [_slice(column, name, s) for name, s in zip(names, sums, strict=True) if s[0]]


def format_distinct(values: NDArray[np.float64], digits: int) -> list[str]:
    """Write numbers with as few digits, but at least these, as tell them apart and are less than a half off.

    >>> format_distinct(np.array([0.19921875, 0.25]), 3), format_distinct(np.array([20240115.0, 20240116.0]), 6)
    (['0.199', '0.25'], ['20240115', '20240116'])
    """
    for more in range(digits, 18):
        texts = [f"{v:.{more}g}" for v in values.tolist()]
        off = np.abs(np.array(texts, np.float64) - values)
        if len(set(texts)) == len(texts) and (off < 0.5).all():
            break
    return texts
