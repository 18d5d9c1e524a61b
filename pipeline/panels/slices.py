"""On which kinds of images the model is worse: by the manifest's columns and the pictures' properties. Knows no image.

A kind is one value of a column, or a quarter of the rows by a number.
"""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline import draw
from pipeline.panels import Subject
from pipeline.predictions import FURTHER, PROPERTIES, Predictions, Run
from pipeline.state import UNIT, Groups, Named, summed
from pipeline.summaries import File, Picture, Scalar, Summary, Text, cell, unlike
from pipeline.tally import wilson

TEXTS = 1000
"""Distinct texts of a column; one with more is an identifier rather than a kind of image."""

NUMBERS = 20
"""Distinct numbers that are slices of their own; a column with more is cut into quarters."""

CODES = 16_384
"""Distinct numbers from which quarters are cut; those of a column with more are rounded."""

DIGITS = (53, 16, 8)
"""Significant binary digits of numbers: all there are, and those to which they are rounded where they are too many."""

CUT = 100.0
"""Nats at which a loss is cut in the mean and variance of a slice, so that one absurd row is not all that counts."""

LEAST = 20
"""Rows in a slice and outside it, below which the two are not compared."""

FALSE_DISCOVERIES = 0.05


@dataclass(frozen=True)
class State:
    """For each column and value the sums over its labelled rows of: 1, right, loss, loss²."""

    texts: Named
    numbers: Named
    rounded: Named  # to the second of DIGITS
    rough: Named  # to the third
    whole: NDArray[np.int64] = summed()  # [4] of all labelled rows


@dataclass(frozen=True)
class Slice:
    """The labelled rows that have one value, or a range of them."""

    column: str
    value: str
    """A value with `=` before it, or a range."""
    sums: NDArray[np.int64]  # [4]

    @property
    def name(self) -> str:
        """As tags say it: country=NO, brightness ≤ 0.2."""
        return f"{self.column}{'' if self.value.startswith('=') else ' '}{self.value}"

    @property
    def rows(self) -> int:
        """How many."""
        return int(self.sums[0])

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return float(self.sums[1] / self.sums[0])

    @property
    def nll(self) -> float:
        """Mean loss, nats, each cut at CUT."""
        return float(self.sums[2] * UNIT / self.sums[0])

    @property
    def variance(self) -> float:
        """Of the loss."""
        mean = self.nll
        return max(float(self.sums[3] * UNIT / self.sums[0]) - mean**2, 0.0)


@dataclass(frozen=True)
class Compared:
    """A slice against all other rows."""

    slice: Slice
    effect: float
    """Difference of the mean losses over the root of the mean variance (Chung et al. 2019, Slice Finder)."""
    p: float
    """Of Welch's test that the slice is no worse, one-sided, by the normal distribution."""
    worse: bool
    """Whether it is worse at a false discovery rate of 5 % over all slices (Benjamini & Hochberg 1995)."""


@dataclass(frozen=True)
class Panel:
    """Slices: accuracy and loss by the manifest's columns and by size, brightness and contrast of the pictures."""

    curves: int = 2
    """Slices that have curves: TensorBoard shows 150 tags well, all panels together."""
    shown: int = 10
    """Slices in the picture."""
    listed: int = 100
    """Rows of the table."""
    columns: frozenset[str] = frozenset({"label", "predicted", "loss", FURTHER, *PROPERTIES})

    def zero(self, run: Run) -> State:  # noqa: ARG002  the rows say which columns there are
        """No rows."""
        return State(Named({}), Named({}), Named({}), Named({}), np.zeros(4, np.int64))

    def measure(self, run: Run, batch: Predictions) -> State:  # noqa: ARG002  as above
        """These rows alone."""
        rows = batch.labelled
        loss = np.minimum(rows.loss.astype(np.float64), CUT)
        summands = np.stack([np.ones(len(rows)), rows.right, loss / UNIT, loss**2 / UNIT], axis=1)  # [rows, 4]
        each = np.rint(summands).astype(np.int64)
        texts: dict[str, Groups] = {}
        levels: tuple[dict[str, Groups], ...] = ({}, {}, {})  # of DIGITS
        for name in (*rows.further, *PROPERTIES):
            if (found := rows.texts(name)) is not None:
                values, index = np.array([*found[0], None], object), found[1]
                known = index >= 0
                if known.any():
                    texts[name] = Groups.of(TEXTS, values[index[known]], each[known])
            elif (number := rows.numbers(name)) is not None:
                known = np.isfinite(number)
                if known.any():
                    value = number[known] + 0.0  # no negative zero
                    for level, digits in zip(levels, DIGITS, strict=True):
                        level[name] = Groups.of(CODES, _rounded(value, digits), each[known])
        numbers, rounded, rough = map(_sorted, levels)
        return State(_sorted(texts), numbers, rounded, rough, each.sum(axis=0))

    def render(self, subject: Subject, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:  # noqa: ARG002
        """A table and a picture of the last step, and curves of its worst slices."""
        last = max(states)
        found = slices(states[last])
        compared = compare(found)
        worse = [c for c in compared if c.worse]
        tags = _tags([c.slice for c in worse[: self.curves]])
        for step, state in states.items():
            at_step = {(s.column, s.value): s for s in slices(state, like=states[last])}
            for tag, s in tags.items():
                if (s.column, s.value) in at_step:
                    description = f"Accuracy where {s.name}; overall it was better at the last step."
                    yield step, Scalar(tag, at_step[s.column, s.value].accuracy, description)
        if not found:
            return
        if compared:
            lines = [_line(c.slice) for c in (worse or compared)[: self.shown]]
            title = "worst slices, by accuracy" if worse else "no slice is clearly worse"
            overall = float(states[last].whole[1] / states[last].whole[0])
            yield last, Picture("slices/worst", draw.intervals(title, lines, overall), "Bars: 95 % intervals (Wilson).")
        yield last, Text("report/slices", self._page(states[last], compared, worse), "Accuracy by kind of image.")
        yield last, File("slices.csv", _table(compared))

    def _page(self, state: State, compared: list[Compared], worse: list[Compared]) -> str:
        left_out = [n for of in (state.texts, state.rough) for n, groups in of.states.items() if groups.over]
        parts = [
            f"{len(worse)} of {len(compared)} slices with at least {LEAST} labelled images in them and outside are "
            "worse than the rest (Welch's test on the loss, false discovery rate 5 %). The effect is the difference of "
            "the mean losses in units of their spread: .2 is small, .5 medium, .8 large."
        ]
        if compared:
            parts.append("| slice | images | accuracy | 95 % interval | NLL, nats | effect | worse |")
            parts[-1] += "\n|---|---:|---:|---|---:|---:|---|"
            for c in compared[: self.listed]:
                s = c.slice
                low, high = wilson(int(s.sums[1]), s.rows)
                parts[-1] += (
                    f"\n| {cell(s.name)} | {s.rows:,} | {s.accuracy:.4f} | {low:.4f} to {high:.4f} | {s.nll:.4f} "
                    f"| {c.effect:+.2f} | {'**yes**' if c.worse else ''} |"
                )
            if len(compared) > self.listed:
                parts.append(f"{len(compared) - self.listed:,} more are in `slices.csv`.")
        if left_out:
            parts.append(f"Left out, for too many different values: {', '.join(map(cell, left_out))}.")
        return "\n\n".join(parts)


def _sorted(states: dict[str, Groups]) -> Named:
    return Named(dict(sorted(states.items())))


def _rounded(value: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Each number with so many significant binary digits; float64 has 53."""
    if digits == 53:
        return value
    mantissa, exponent = np.frexp(value)
    with np.errstate(over="ignore"):  # the largest number there is, rounded up
        rounded = np.ldexp(np.rint(np.ldexp(mantissa, digits)), exponent - digits)
    return np.asarray(np.nan_to_num(rounded))


def slices(state: State, like: State | None = None) -> list[Slice]:
    """All slices of a state; those of numbers are cut where they are in the state `like`."""
    like = like or state
    found = []
    for column, groups in state.texts.states.items():
        if len(groups.value) > 1:
            found += [Slice(column, f"={v}", s) for v, s in zip(groups.value, groups.sums, strict=True)]
    for column in state.numbers.states:
        for mine, model in zip(_levels(state, column), _levels(like, column) or _levels(state, column), strict=True):
            if not model.over:
                found += _of_numbers(column, mine, model)
                break
    return found


def _levels(state: State, column: str) -> tuple[Groups, ...]:
    """A column's numbers by falling precision; nothing if it has none."""
    levels = (state.numbers, state.rounded, state.rough)
    return tuple(level.states[column] for level in levels if column in level.states)


def _of_numbers(column: str, groups: Groups, model: Groups) -> list[Slice]:
    """A slice for each of few numbers, else four of about equal size; fewer where one number is frequent."""
    if len(model.value) < 2:
        return []
    if len(model.value) <= NUMBERS:
        words = dict(zip(model.value.tolist(), printed(model.value, 6), strict=True))
        seen = zip(groups.value.tolist(), groups.sums, strict=True)
        return [Slice(column, f"={words[v]}", s) for v, s in seen if v in words]
    rank = np.cumsum(model.sums[:, 0]) / model.sums[:, 0].sum()
    ends = model.value[np.unique(np.minimum(np.searchsorted(rank, (0.25, 0.5, 0.75)), len(rank) - 2))]
    place = np.searchsorted(ends, groups.value)  # value <= end belongs to the quarter that ends there
    said = printed(ends, 3)
    names = [f"≤ {said[0]}", *(f"{low} to {high}" for low, high in itertools.pairwise(said)), f"> {said[-1]}"]
    sums = [groups.sums[place == i].sum(axis=0) for i in range(len(names))]
    return [Slice(column, name, s) for name, s in zip(names, sums, strict=True) if s[0]]


def printed(values: NDArray[np.float64], digits: int) -> list[str]:
    """Numbers by as few digits, but no fewer than these, as tell them apart and are less than a half off.

    >>> printed(np.array([0.19921875, 0.25]), 3), printed(np.array([20240115.0, 20240116.0]), 6)
    (['0.199', '0.25'], ['20240115', '20240116'])
    """
    for more in range(digits, 18):
        found = [f"{v:.{more}g}" for v in values.tolist()]
        off = np.abs(np.array(found, np.float64) - values)
        if len(set(found)) == len(found) and (off < 0.5).all():
            break
    return found


def compare(found: list[Slice]) -> list[Compared]:
    """Every slice that can be compared with the other rows of its column, the largest effect first."""
    whole: dict[str, NDArray[np.int64]] = {}
    for s in found:
        whole[s.column] = whole.get(s.column, np.zeros(4, np.int64)) + s.sums
    compared = []
    for s in found:
        rest = replace(s, sums=whole[s.column] - s.sums)
        if min(s.rows, rest.rows) < LEAST:
            continue
        spread = math.sqrt((s.variance + rest.variance) / 2)
        error = math.sqrt(s.variance / s.rows + rest.variance / rest.rows)
        difference = s.nll - rest.nll
        p = 0.5 * math.erfc(difference / error / math.sqrt(2)) if error else 0.0 if difference > 0 else 1.0
        compared.append(Compared(s, difference / spread if spread else 0.0, p, worse=False))
    order = sorted(range(len(compared)), key=lambda i: compared[i].p)
    passed = [k for k, i in enumerate(order, 1) if compared[i].p <= FALSE_DISCOVERIES * k / len(compared)]
    worse = set(order[: max(passed, default=0)])
    marked = [replace(c, worse=i in worse) for i, c in enumerate(compared)]
    return sorted(marked, key=lambda c: (-c.effect, c.slice.name))


def _line(s: Slice) -> draw.Interval:
    low, high = wilson(int(s.sums[1]), s.rows)
    return draw.Interval(s.name, s.accuracy, low, high, f"{s.rows:,}")


def _tags(found: list[Slice]) -> dict[str, Slice]:
    """Slices by their tags, no two alike."""
    return dict(zip(unlike([f"slices/{s.name}" for s in found]), found, strict=True))


def _table(compared: list[Compared]) -> bytes:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["column", "value", "rows", "right", "accuracy", "lower", "upper", "nll", "effect", "p", "worse"])
    for c in compared:
        s = c.slice
        low, high = wilson(int(s.sums[1]), s.rows)
        numbers = (s.accuracy, low, high, s.nll, c.effect, c.p)
        table.writerow(
            [s.column, s.value.removeprefix("="), s.rows, int(s.sums[1]), *(f"{x:.6g}" for x in numbers), int(c.worse)]
        )
    return written.getvalue().encode()
