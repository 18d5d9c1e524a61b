"""The pure plan of stage one: rows of a manifest -> ranges of parts. Does no I/O and never sees a number of workers."""

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
