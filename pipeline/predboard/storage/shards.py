"""The pure plan of stage one: rows of a manifest -> ranges of parts. Does no I/O and never sees a number of workers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """A contiguous range of manifest rows, start <= row < stop: one part file."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @property
    def ids(self) -> range:
        """All of its rows."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class Share:
    """Every n-th part, for several jobs that make one run side by side: number 1 to `of`."""

    number: int = 1
    of: int = 1

    def holds(self, index: int) -> bool:
        """Whether the part of that number is in it."""
        return index % self.of == self.number - 1

    def overlaps(self, other: "Share") -> bool:
        """Whether some part can be in both (Chinese remainder theorem).

        >>> Share(3, 8).overlaps(Share(1, 8)), Share(3, 8).overlaps(Share(1, 2)), Share(3, 8).overlaps(Share())
        (False, True, True)
        """
        return (self.number - other.number) % math.gcd(self.of, other.of) == 0

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE_RUN = Share()
"""All parts of a run."""


def plan_shards(rows: int, size: int) -> tuple[Shard, ...]:
    """Ranges of `size` rows, the last one shorter.

    The range of a shard depends on its index alone, so a manifest that grows at its end changes only the last.

    >>> [(s.start, s.stop) for s in plan_shards(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return tuple(Shard(i, start, min(start + size, rows)) for i, start in enumerate(range(0, rows, size)))


@dataclass(frozen=True)
class Task:
    """One part to make, for all steps that lack it: what a device is given at a time."""

    shard: Shard
    steps: tuple[int, ...]
    together: tuple[int, ...]
    """The steps whose models are in memory at the time; `steps` is among them."""
    ids: range | tuple[int, ...]
    """Rows of the manifest to infer: all of the part's as a range, or those that failed before."""

    @property
    def rows(self) -> int:
        """Rows to infer, over all steps."""
        return len(self.ids) * len(self.steps)


def plan_tasks(lacking: Mapping[int, Mapping[Shard, range | tuple[int, ...]]], together: int) -> tuple[Task, ...]:
    """What steps lack, each part once for all its steps that lack the same rows; at most `together` models at a time.

    >>> a, b = plan_shards(4, 2)
    >>> missing = {1: {a: a.ids, b: b.ids}, 2: {b: b.ids, a: (1,)}, 3: {}}
    >>> [(t.shard.index, t.steps, t.ids) for t in plan_tasks(missing, 2)]
    [(0, (1,), range(0, 2)), (0, (2,), (1,)), (1, (1, 2), range(2, 4))]
    """
    found = []
    numbers = [step for step, of_step in lacking.items() if of_step]
    for at in range(0, len(numbers), together):
        group = tuple(numbers[at : at + together])
        wanted: dict[tuple[Shard, range | tuple[int, ...]], list[int]] = {}
        for step in group:
            for which in lacking[step].items():
                wanted.setdefault(which, []).append(step)
        for shard, ids in sorted(wanted, key=lambda which: which[0].start):
            found.append(Task(shard, tuple(wanted[shard, ids]), group, ids))
    return tuple(found)
