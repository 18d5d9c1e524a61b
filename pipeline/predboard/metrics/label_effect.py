"""Counts what new labels do to the accuracy of a step, image by image. It knows nothing of where labels come from."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import percent, plural, signed
from predboard.metrics.intervals import mcnemar_p, newcombe_interval

Bits = NDArray[np.bool_]
Moves = Iterable[tuple[int, int]]

MAX_MOVES = 10_000
"""Pairs of an old and a new class that are counted."""


@dataclass(frozen=True)
class LabelEffect:
    """What new labels did to one step. Two effects, of different rows, add up."""

    file: str
    named: int = 0
    """Rows that the file names."""
    replaced: int = 0
    """Those of them that had another label."""
    rows_before: int = 0
    """Rows with logits and a label, before."""
    rows_after: int = 0
    right_before: int = 0
    right_after: int = 0
    both: int = 0
    """Rows that have a label before and after, and logits."""
    both_before: int = 0
    """Those of them that were right."""
    both_after: int = 0
    both_right: int = 0
    """Those that were right before and are right after."""
    moves: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Replaced labels by old and new class, -1 for none; of several labels for an image nothing."""
    figure: str = "accuracy"
    """Share of rows that are right: `accuracy`, and of several labels `exact`."""

    def __add__(self, other: "LabelEffect") -> "LabelEffect":
        """Add the effects on other rows of the same step."""
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return replace(self, **numbers, moves=self.moves + other.moves)

    @property
    def figure_label(self) -> str:
        """The figure in words."""
        return "exact match" if self.figure == "exact" else self.figure

    @property
    def before(self) -> float | None:
        """Accuracy with the labels as they were; None without any."""
        return self.right_before / self.rows_before if self.rows_before else None

    @property
    def after(self) -> float | None:
        """Accuracy with the new labels."""
        return self.right_after / self.rows_after if self.rows_after else None

    @property
    def difference(self) -> float:
        """Accuracy after minus before, over the rows that have a label both times, of which there must be one."""
        return (self.both_after - self.both_before) / self.both

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference over the rows that have a label both times (Newcombe 1998, method 10)."""
        counts = self.both_right, self.both_after, self.both_before, self.both
        lower, upper = newcombe_interval(*map(np.array, counts))
        return float(lower), float(upper)

    @property
    def gained(self) -> int:
        """Rows that the new labels made right."""
        return self.both_after - self.both_right

    @property
    def lost(self) -> int:
        """Rows that the new labels made wrong."""
        return self.both_before - self.both_right

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test that gained and lost rows are equally likely."""
        return mcnemar_p(self.gained, self.lost)

    def record(self) -> dict[str, Any]:
        """Return the figures for summary.json and other files of JSON."""
        return {
            "file": self.file,
            "named": self.named,
            "replaced": self.replaced,
            "figure": self.figure,
            "before": self.before,
            "after": self.after,
            "difference": self.difference if self.both else None,
            "lower": self.interval[0],
            "upper": self.interval[1],
            "rows": self.both,
            "gained": self.gained,
            "lost": self.lost,
            "mcnemar_p": self.p,
        }

    def sentence(self) -> str:
        """Say what was replaced, and what that did."""
        what = f"{plural(self.replaced, 'label')} replaced, of {plural(self.named, 'image')} that {self.file} names"
        if self.before is None or self.after is None or not self.both:
            return f"{what}; there is no {self.figure_label} to compare"
        gain = signed(100 * self.difference, 2)
        ends = " to ".join(signed(100 * end, 2) for end in self.interval)
        return (
            f"{what}: {self.figure_label} {percent(self.before)} before, {percent(self.after)} after ({gain} points, "
            f"95 % interval {ends}; {plural(self.gained, 'image')} became right, {self.lost:,} wrong)"
        )


_NUMBERS = (
    *("named", "replaced", "rows_before", "rows_after", "right_before", "right_after"),
    *("both", "both_before", "both_after", "both_right"),
)


def measure_effect(
    file: str, named: int, replaced: int, counted: Sequence[Bits], right: Sequence[Bits], moves: Moves, figure: str
) -> LabelEffect:
    """Return what new labels did to some rows.

    Args:
        file: where they come from, for people.
        named, replaced: how many rows the file names, and how many of them had another label.
        counted: [rows] each, before and after: rows with logits and a label.
        right: [rows] each: those of them that are right.
        moves: old and new class of each replaced label.
        figure: as in `LabelEffect`.
    """
    both = counted[0] & counted[1]
    return LabelEffect(
        file,
        named,
        replaced,
        rows_before=int(counted[0].sum()),
        rows_after=int(counted[1].sum()),
        right_before=int(right[0].sum()),
        right_after=int(right[1].sum()),
        both=int(both.sum()),
        both_before=int((right[0] & both).sum()),
        both_after=int((right[1] & both).sum()),
        both_right=int((right[0] & right[1]).sum()),
        moves=Counter(dict(Counter(moves).most_common(MAX_MOVES))),
        figure=figure,
    )
