"""Check that saved scores are what --scores says, measure their precision, and convert them to stored logits.

Probabilities are at least 0 and sum to 1 in every row, as closely as their precision allows; log-probabilities are at
most 0 and their exponentials sum to 1. Where an image may have several labels, each has a probability of its own, and
no sum is expected. The precision is not that of the file but the coarsest that all its numbers fit in: what a network
computed in float16 is often saved as float32, or rounded and printed. The module knows no files.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.config import ImportedKind, ScoreKind
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.predictions.derive import MIN_PROBABILITY, to_log_probabilities
from predboard.predictions.multi_label.derive import MAX_PROBABILITY, to_log_odds

_SAMPLE_ROWS = 512
"""Rows that are kept to be looked at together."""

ScoreArray = NDArray[np.floating[Any]]
"""[rows, classes] of any float type."""

MAX_SUM_ERROR = 0.1
"""A row whose sum is further than this from 1 does not hold probabilities, however coarse its numbers."""

_ONE_SUM = 0.01
"""How far the sum of a row of a softmax may be from 1 by rounding."""

MIN_SORTED_ROWS = 20
"""When at least so many rows all fall from first to last, they list the highest scores, not one score per class."""


@dataclass(frozen=True)
class SavedPrecision:
    """A precision that numbers may have been saved in.

    >>> half = next(p for p in SAVED_PRECISIONS if p.name == "fp16")
    >>> half.fits(np.array([[0.25, 0.75]])), half.fits(np.array([[0.1, 0.9]]))
    (True, False)
    """

    name: str
    fits: Callable[[ScoreArray], bool]
    """Whether all numbers are exact in this precision."""
    bound: Callable[[ScoreKind, int], float]
    """Return how far the sum of a row of this many classes may be from 1."""


def _floats(name: str, fits: Callable[[ScoreArray], bool], epsilon: float) -> SavedPrecision:
    # Half an epsilon from rounding each number, whatever their count; the rest for the softmax's own sum, whose error
    # grows with the square root of its length.
    return SavedPrecision(name, fits, lambda _, classes: epsilon * (8 + classes**0.5))


def _is_half(block: ScoreArray) -> bool:
    with np.errstate(over="ignore"):
        return bool((block.astype(np.float16) == block).all())


def _is_bfloat(block: ScoreArray) -> bool:
    single = np.ascontiguousarray(block, np.float32)
    return bool((single == block).all() and not (single.view(np.uint32) & 0xFFFF).any())


def _decimals(places: int) -> SavedPrecision:
    """Rounding to this many digits after the point."""
    half = 0.5 * 10.0**-places

    def bound(kind: ScoreKind, classes: int) -> float:
        return half * (classes if kind == "probabilities" else 1.1)

    def fits(block: ScoreArray) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):  # NumPy multiplies first; what overflows does not fit
            return bool((np.round(block, places) == block).all())

    return SavedPrecision(f"{places} decimals", fits, bound)


def _digits(places: int) -> SavedPrecision:
    """Rounding to this many significant digits."""
    half = 0.5 * 10.0 ** (1 - places)

    def fits(block: ScoreArray) -> bool:
        x = np.abs(block[block != 0].astype(np.float64))
        unit = 10.0 ** (np.floor(np.log10(x)) - places + 1)
        return bool((np.abs(np.round(x / unit) * unit - x) <= 1e-7 * x).all())

    return SavedPrecision(
        f"{places} digits", fits, lambda kind, _: half * (1 if kind == "probabilities" else -np.log(MIN_PROBABILITY))
    )


SAVED_PRECISIONS = (
    _floats("bf16", _is_bfloat, 2.0**-7),
    _floats("fp16", _is_half, 2.0**-10),
    *(_decimals(places) for places in range(1, 9)),
    *(_digits(places) for places in range(2, 7)),
    _floats("fp32", lambda _: True, 2.0**-23),  # what is saved as float64 was mostly computed in float32
)


@dataclass
class _Contradictions:
    """Rows so far that contradict the kind of scores, if the numbers have one precision."""

    bound: float
    outside: int = 0
    """Rows with a number outside 0 to 1."""
    wrong_sum: int = 0
    """Other rows that do not sum to 1."""
    first_row: int = -1
    fits: bool = True
    """Whether all numbers so far fit in the precision."""


@dataclass
class ScoreCheck:
    """Check all scores of one step, block by block, before anything is written.

    >>> check = ScoreCheck("probabilities", classes=2)
    >>> check.add(np.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> check.finish("a.npy"), check.precision
    ([], 'bf16')
    """

    kind: ImportedKind
    classes: int
    single: int | None = None
    """The class whose scores alone were saved, of two; None if those of all were."""
    exclusive: bool = True
    """Whether an image has one class, so that its probabilities sum to 1; else each label has one by itself."""
    rows: int = 0
    failed: int = 0
    """Rows with a number that is not finite."""
    raised: int = 0
    """Probabilities below `MIN_PROBABILITY`; of labels by themselves also those above `MAX_PROBABILITY`."""
    sums: dict[int, float] = field(default_factory=dict)
    """Sum of the probabilities, by row, of rows that contradict a precision first."""
    sample: ScoreArray | None = None
    """The first usable scores, [some rows, classes]."""

    def __post_init__(self) -> None:
        """Begin one record for each precision, the coarsest first."""
        kind: ScoreKind = "probabilities" if self.kind == "confidence" else self.kind
        summed = self.classes if self.exclusive else 1
        bounds = [(min(p.bound(kind, summed), MAX_SUM_ERROR), p) for p in SAVED_PRECISIONS]
        ordered = sorted(bounds, key=lambda pair: -pair[0])
        self._precisions = [(p, _Contradictions(bound)) for bound, p in ordered]
        self._in_unit = self._sorted = self._sums_to_one = True
        self._predicted: list[NDArray[np.int32]] = []
        self._single: list[NDArray[np.float64]] = []

    @property
    def _coarsest(self) -> tuple[SavedPrecision, _Contradictions]:
        return next(pair for pair in self._precisions if pair[1].fits)

    @property
    def precision(self) -> str:
        """Name of the coarsest precision that all numbers fit in."""
        return self._coarsest[0].name

    @property
    def predicted(self) -> NDArray[np.int32]:
        """[rows] class with the highest score, the first of several; -1 where a score is not finite."""
        return np.concatenate(self._predicted) if self._predicted else np.zeros(0, np.int32)

    @property
    def score(self) -> NDArray[np.float64]:
        """[rows] the scores of the class whose scores alone were saved; none if those of all were."""
        return np.concatenate(self._single) if self._single else np.zeros(0)

    @property
    def is_normalised(self) -> bool:
        """Whether logits are all between 0 and 1, as if a softmax or a sigmoid had been over them."""
        return self.kind == "logits" and self._in_unit and self.classes > 1

    def add(self, block: ScoreArray) -> None:
        """Take in the next rows, [some rows, classes]."""
        usable = usable_rows(self.kind, block)
        good = block if usable.all() else block[usable]
        at = self.rows + np.flatnonzero(usable)
        self.rows += len(block)
        self.failed += len(block) - len(good)
        predicted = np.full(len(block), -1, np.int32)
        predicted[usable] = good[:, 0] if self.kind == "confidence" else good.argmax(axis=1)
        self._predicted.append(predicted)
        if self.single is not None:
            self._single.append(block[:, self.single].astype(np.float64))
        if not len(good):
            return
        if self.sample is None:
            self.sample = good[:_SAMPLE_ROWS].copy()
        if self.kind == "confidence":
            good = good[:, 1:]  # beside the predicted class
        saved = good if self.single is None else good[:, self.single : self.single + 1]
        # -inf is the logarithm of 0, which every precision holds.
        numbers = saved if self.kind != "log_probabilities" else np.where(np.isneginf(saved), 0, saved)
        for precision, contradictions in self._precisions:
            contradictions.fits = contradictions.fits and precision.fits(numbers)
        falls = (good[:, 1:] <= good[:, :-1]).all() and (good[:, 0] > good[:, -1]).all()
        self._sorted = self._sorted and bool(falls)
        with np.errstate(over="ignore"):  # where the numbers are not logarithms of probabilities
            p = np.exp(good.astype(np.float64)) if self.kind == "log_probabilities" else good.astype(np.float64)
        total = p.sum(axis=1)
        beyond = np.maximum(-p.min(axis=1), p.max(axis=1) - 1)  # [rows] how far outside 0 to 1
        if self.kind in ("logits", "confidence"):
            self._in_unit &= bool((beyond <= 0).all())
            return
        self.raised += int(((p < MIN_PROBABILITY) | ((p > MAX_PROBABILITY) & (not self.exclusive))).sum())
        self._sums_to_one &= bool((np.abs(total - 1) < _ONE_SUM).all())
        for _, contradictions in self._precisions:
            outside, off = beyond > contradictions.bound, np.abs(total - 1) > contradictions.bound
            off &= self.exclusive
            contradictions.outside += int(outside.sum())
            contradictions.wrong_sum += int((off & ~outside).sum())
            if contradictions.first_row < 0 and (wrong := outside | off).any():
                contradictions.first_row = int(at[wrong.argmax()])
                self.sums[contradictions.first_row] = float(total[wrong.argmax()])

    def finish(self, file: str) -> list[str]:
        """Return warnings and notes for the user. Raises InputError if the scores are not what they are said to be."""
        if self.failed == self.rows:
            raise InputError(f"none of the {self.rows:,} rows in {file} has finite scores; expected numbers")
        self._raise_contradictions(file)
        if (
            self._sorted
            and self.kind != "confidence"
            and self.classes > 2
            and self.rows - self.failed >= MIN_SORTED_ROWS
        ):
            raise InputError(
                f"the scores of every row in {file} fall from first to last, so they are each row's highest scores "
                "without their classes; expected all scores in the order of the classes (timm: --topk 0)"
            )
        lines = []
        if self.failed:
            has = "has" if self.failed == 1 else "have"
            become = "it becomes a failed row" if self.failed == 1 else "they become failed rows"
            lines.append(f"warning: {plural(self.failed, 'row')} in {file} {has} scores that are not finite; {become}")
        if not self.exclusive and self.kind != "logits" and self._sums_to_one and self.classes > 1:
            lines.append(
                f"warning: the probabilities of every row in {file} sum to 1, as after a softmax: are these "
                "single-label? Then leave --task multi-label out"
            )
        if self.raised and not self.exclusive:
            lines.append(
                f"{plural(self.raised, 'probability', 'probabilities')} of 0 or 1 in {file} became "
                f"{MIN_PROBABILITY:.1e} or {MAX_PROBABILITY:.8f}, whose log-odds are finite"
            )
        elif self.raised:
            was = "was" if self.raised == 1 else "were"
            lines.append(
                f"{plural(self.raised, 'probability', 'probabilities')} below {MIN_PROBABILITY:.1e} in {file} "
                f"{was} raised to that, a loss of {-np.log(MIN_PROBABILITY):.1f} nats"
            )
        return lines

    def _raise_contradictions(self, file: str) -> None:
        precision, worst = self._coarsest
        if worst.first_row < 0:
            return
        outside = {"probabilities": "numbers outside 0 to 1", "log_probabilities": "numbers above 0"}
        wrong = [f"{plural(worst.outside, 'row has', 'rows have')} {outside[self.kind]}"] * bool(worst.outside)
        if worst.wrong_sum:
            wrong.append(f"{plural(worst.wrong_sum, 'row does', 'rows do')} not sum to 1 within {worst.bound:.1g}")
        where, remedy = f"row {worst.first_row}", "see --scores"
        if self.exclusive:
            where += f", with sum {self.sums[worst.first_row]:.6g}"
        if self.kind == "probabilities" and worst.wrong_sum and not worst.outside:
            remedy += ", or add --task multi-label if each class has a sigmoid of its own"
        raise InputError(
            f"{file} does not hold {self.kind}: of {self.rows:,} rows, {' and '.join(wrong)} (as {precision.name} "
            f"allows); the first is {where}: {remedy}"
        )


def usable_rows(kind: ImportedKind, block: ScoreArray) -> NDArray[np.bool_]:
    """Tell which rows have only scores that are finite as float32, or the logarithm of 0: [rows] bool."""
    if kind == "log_probabilities":
        return np.asarray((block < np.inf).all(axis=1) & ~np.isnan(block).any(axis=1))
    return np.asarray((np.abs(block) <= np.finfo(np.float32).max).all(axis=1))


def to_stored_logits(kind: ImportedKind, block: ScoreArray, exclusive: bool = True) -> tuple[NDArray[np.float32], int]:
    """Return the column `logits` for usable scores, [rows, classes], and how many probabilities were raised.

    Probabilities below `MIN_PROBABILITY` are raised to it, so that their logarithms are finite. What rounding left
    below 0 counts as 0. Probabilities of labels by themselves, not `exclusive`, become log-odds.
    """
    if kind == "probabilities" and not exclusive:
        return to_log_odds(block)
    if kind == "log_probabilities" and not exclusive:
        return to_log_odds(np.exp(block.astype(np.float64)))  # which loses no digit that a logarithm has
    if kind == "probabilities":
        return to_log_probabilities(np.maximum(block, 0))
    if kind == "log_probabilities":
        least = np.log(MIN_PROBABILITY)
        return np.maximum(block.astype(np.float64), least).astype(np.float32), int((block < least).sum())
    return block.astype(np.float32), 0
