"""The pure plan of stage one: rows of a manifest -> ranges of parts. Does no I/O and never sees a number of workers."""

from collections.abc import Mapping, Sequence
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


def plan(rows: int, size: int) -> tuple[Shard, ...]:
    """Ranges of `size` rows, the last one shorter.

    The range of a shard depends on its index alone, so a manifest that grows at its end changes only the last.

    >>> [(s.start, s.stop) for s in plan(5, 2)]
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

    @property
    def ids(self) -> range:
        """Rows of the manifest to infer."""
        return range(self.shard.start, self.shard.stop)

    @property
    def rows(self) -> int:
        """Rows to write, over all steps."""
        return len(self.ids) * len(self.steps)


def tasks(lacking: Mapping[int, Sequence[Shard]], together: int) -> tuple[Task, ...]:
    """The parts that steps lack, each once for all its steps; models of at most `together` steps at a time.

    >>> a, b = plan(4, 2)
    >>> [(t.shard.index, t.steps) for t in tasks({1: [a, b], 2: [b], 3: []}, 2)]
    [(0, (1,)), (1, (1, 2))]
    """
    found = []
    numbers = [step for step, of_step in lacking.items() if of_step]
    for at in range(0, len(numbers), together):
        group = tuple(numbers[at : at + together])
        wanted: dict[Shard, list[int]] = {}
        for step in group:
            for shard in lacking[step]:
                wanted.setdefault(shard, []).append(step)
        found += [Task(s, tuple(wanted[s]), group) for s in sorted(wanted, key=lambda shard: shard.start)]
    return tuple(found)
