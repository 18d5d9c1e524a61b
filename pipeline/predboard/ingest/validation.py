"""Whether saved scores are what they are said to be, and how precise; -> the column `logits`. Knows no files.

Probabilities are at least 0 and sum to 1 in every row, as near as their precision allows; log-probabilities are at most
0 and their exponentials sum to 1. The precision is not that of the file but the coarsest that all its numbers fit in:
what a network computed in float16 may well be saved as float32, or rounded and printed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard import config
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.predictions.table import MIN_PROBABILITY, to_log_probabilities

ScoreArray = NDArray[np.floating[Any]]

MAX_SUM_ERROR = 0.1
"""However coarse the numbers, a row whose sum is further than this from 1 is not of probabilities."""

MIN_SORTED_ROWS = 20
"""So many rows that all fall from first to last are lists of the highest scores, not one column for each class."""


@dataclass(frozen=True)
class SavedPrecision:
    """One that numbers may have: whether they fit in it, and how far off 1 a row's sum may be in it."""

    name: str
    fits: Callable[[ScoreArray], bool]
    bound: Callable[[config.ScoreKind, int], float]


def _of_floats(name: str, fits: Callable[[ScoreArray], bool], epsilon: float) -> SavedPrecision:
    # Half an epsilon from rounding each number, whatever their count; the rest for the softmax's own sum, whose error
    # grows as the square root of its length.
    return SavedPrecision(name, fits, lambda _, classes: epsilon * (8 + classes**0.5))


def _is_half(block: ScoreArray) -> bool:
    with np.errstate(over="ignore"):
        return bool((block.astype(np.float16) == block).all())


def _is_bfloat(block: ScoreArray) -> bool:
    single = np.ascontiguousarray(block, np.float32)
    return bool((single == block).all() and not (single.view(np.uint32) & 0xFFFF).any())


def _decimals(places: int) -> SavedPrecision:
    half = 0.5 * 10.0**-places

    def bound(kind: config.ScoreKind, classes: int) -> float:
        return half * (classes if kind == "probabilities" else 1.1)

    def fits(block: ScoreArray) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):  # NumPy multiplies first; what overflows does not fit
            return bool((np.round(block, places) == block).all())

    return SavedPrecision(f"{places} decimals", fits, bound)


def _digits(places: int) -> SavedPrecision:
    """Of rounding to so many significant digits."""
    half = 0.5 * 10.0 ** (1 - places)

    def fits(block: ScoreArray) -> bool:
        x = np.abs(block[block != 0].astype(np.float64))
        unit = 10.0 ** (np.floor(np.log10(x)) - places + 1)
        return bool((np.abs(np.round(x / unit) * unit - x) <= 1e-7 * x).all()) if places < 7 else False

    return SavedPrecision(
        f"{places} digits", fits, lambda kind, _: half * (1 if kind == "probabilities" else -np.log(MIN_PROBABILITY))
    )


SAVED_PRECISIONS = (
    _of_floats("bf16", _is_bfloat, 2.0**-7),
    _of_floats("fp16", _is_half, 2.0**-10),
    *(_decimals(places) for places in range(1, 9)),
    *(_digits(places) for places in range(2, 7)),
    _of_floats("fp32", lambda _: True, 2.0**-23),  # what is kept in float64 was mostly computed in float32
)


@dataclass
class _Found:
    """Rows that contradict a precision so far."""

    bound: float
    negative: int = 0
    off: int = 0
    first: int = -1
    alive: bool = True


@dataclass
class ScoreCheck:
    """Looks at all scores of one step, block by block, before anything is written."""

    kind: config.ScoreKind
    classes: int
    rows: int = 0
    failed: int = 0
    """Rows with a number that is not finite."""
    raised: int = 0
    """Probabilities below `MIN_PROBABILITY`."""
    sums: dict[int, float] = field(default_factory=dict)
    """Of rows that contradict something: what their probabilities sum to."""

    def __post_init__(self) -> None:
        """One record for each precision, the coarsest first."""
        bounds = [(min(p.bound(self.kind, self.classes), MAX_SUM_ERROR), p) for p in SAVED_PRECISIONS]
        self._found = {p.name: _Found(bound) for bound, p in sorted(bounds, key=lambda pair: -pair[0])}
        self._fits = {p.name: p.fits for p in SAVED_PRECISIONS}
        self._like_probabilities = self._sorted = True

    @property
    def precision(self) -> str:
        """Name of the coarsest that all numbers fit in."""
        return next(name for name, found in self._found.items() if found.alive)

    def add(self, block: ScoreArray) -> None:
        """Take in the next rows, [some rows, classes]."""
        ok = usable_rows(self.kind, block)
        good = block if ok.all() else block[ok]
        at = self.rows + np.flatnonzero(ok)
        self.rows += len(block)
        self.failed += len(block) - len(good)
        if not len(good):
            return
        for name, found in self._found.items():
            plain = good if self.kind != "log_probabilities" else np.where(np.isneginf(good), 0, good)
            found.alive = found.alive and self._fits[name](plain)
        falls = (good[:, 1:] <= good[:, :-1]).all() and (good[:, 0] > good[:, -1]).all()
        self._sorted = self._sorted and bool(falls)
        with np.errstate(over="ignore"):  # of what is no logarithm of a probability
            p = np.exp(good.astype(np.float64)) if self.kind == "log_probabilities" else good.astype(np.float64)
        total = p.sum(axis=1)
        beyond = np.maximum(-p.min(axis=1), p.max(axis=1) - 1)  # [rows] how far outside 0 to 1
        if self.kind == "logits":
            self._like_probabilities &= bool((beyond <= 0).all() and (np.abs(total - 1) <= 0.01).all())
            return
        self.raised += int((p < MIN_PROBABILITY).sum())
        for found in self._found.values():
            outside, off = beyond > found.bound, np.abs(total - 1) > found.bound
            found.negative += int(outside.sum())
            found.off += int((off & ~outside).sum())
            if found.first < 0 and (wrong := outside | off).any():
                found.first = int(at[wrong.argmax()])
                self.sums[found.first] = float(total[wrong.argmax()])

    def finish(self, file: str) -> list[str]:
        """What to tell of these scores. Raises InputError if they contradict what they are said to be."""
        if self.failed == self.rows:
            raise InputError(f"none of the {self.rows:,} rows in {file} has finite scores")
        found = self._found[self.precision]
        if found.first >= 0:
            outside = {"probabilities": "have numbers outside 0 to 1", "log_probabilities": "have numbers above 0"}
            wrong = [f"{found.negative:,} {outside[self.kind]}"] * bool(found.negative)
            wrong += [f"{found.off:,} do not sum to 1 within {found.bound:.1g}"] * bool(found.off)
            raise InputError(
                f"{file} holds no {self.kind}: of {self.rows:,} rows {' and '.join(wrong)} (what {self.precision} "
                f"allows); the first is row {found.first}, of sum {self.sums[found.first]:.6g}: see --scores"
            )
        if self._sorted and self.classes > 2 and self.rows - self.failed >= MIN_SORTED_ROWS:
            raise InputError(
                f"the scores of every row in {file} fall from first to last: those are the highest of each row, "
                "without their classes; expected all scores in the order of the classes (timm: --topk 0)"
            )
        told = []
        if self.kind == "logits" and self._like_probabilities and self.classes > 1:
            told.append(f"warning: the scores in {file} are at least 0 and sum to 1: are they --scores probabilities?")
        if self.failed:
            have, they = ("has", "it is a failed row") if self.failed == 1 else ("have", "they are failed rows")
            told.append(f"warning: {plural(self.failed, 'row')} in {file} {have} scores that are not finite; {they}")
        if self.raised:
            told.append(
                f"{plural(self.raised, 'probability', 'probabilities')} below {MIN_PROBABILITY:.1e} in {file} "
                f"{'counts' if self.raised == 1 else 'count'} as that, {-np.log(MIN_PROBABILITY):.1f} nats"
            )
        return told


def usable_rows(kind: config.ScoreKind, block: ScoreArray) -> NDArray[np.bool_]:
    """[rows] whether all scores are finite as float32, or the logarithm of 0."""
    if kind == "log_probabilities":
        return np.asarray((block < np.inf).all(axis=1) & ~np.isnan(block).any(axis=1))
    return np.asarray((np.abs(block) <= np.finfo(np.float32).max).all(axis=1))


def to_stored_logits(kind: config.ScoreKind, block: ScoreArray) -> tuple[NDArray[np.float32], int]:
    """The column `logits` of usable scores, [rows, classes], and how many probabilities were raised.

    What rounding left below 0 counts as 0.
    """
    if kind == "probabilities":
        return to_log_probabilities(np.maximum(block, 0))
    if kind == "log_probabilities":
        least = np.log(MIN_PROBABILITY)
        return np.maximum(block.astype(np.float64), least).astype(np.float32), int((block < least).sum())
    return block.astype(np.float32), 0
