"""Holds a metric of two steps side by side, and what was fixed and broken. It knows no metric by name."""

from collections.abc import Iterable
from dataclasses import dataclass

IDENTICAL_METHOD = "both say the same of every image, so there is no difference to be uncertain of"


@dataclass(frozen=True)
class Difference:
    """A metric of two steps over the same images."""

    old: float
    new: float
    difference: float
    """New minus old."""
    interval: tuple[float, float] | None
    """Ends of the 95 % interval of the difference."""
    rows: int
    """Images that it rests on; for a class's precision those predicted as it by the step that did so less often."""
    definition: str = ""
    method: str = ""
    """Method of the interval."""


@dataclass(frozen=True)
class Flips:
    """Counts of fixed and broken images of one class or slice."""

    name: str
    rows: int
    fixed: int
    broken: int
    interval: tuple[float, float] | None
    """95 % interval of `share`: Newcombe's, or without groups of images that belong together; None if they tell
    nothing, being fewer than two or all alike."""

    @property
    def net(self) -> int:
        """Fixed images minus broken ones."""
        return self.fixed - self.broken

    @property
    def share(self) -> float:
        """Net change as a share: the difference of the accuracies."""
        return self.net / self.rows


@dataclass(frozen=True)
class ClassChange:
    """How one class changed: what was fixed and broken, and a metric with its interval."""

    name: str
    fixed: int
    broken: int
    change: Difference | Flips

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the 95 % interval; the change itself twice if there is none."""
        value = self.change.share if isinstance(self.change, Flips) else self.change.difference
        return self.change.interval or (value, value)


def worst_first(flips: Iterable[Flips]) -> list[Flips]:
    """Return flips by the upper end of the interval, so that 1 of 1 does not come before 10 of 100."""
    return sorted(flips, key=lambda f: (f.share if f.interval is None else f.interval[1], f.net))
