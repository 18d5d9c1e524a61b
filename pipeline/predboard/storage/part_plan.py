"""Plans the parts of a run: rows of a manifest -> ranges, shares and tasks. It does no I/O and never sees a worker."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PartRange:
    """A range of manifest rows, start <= row < stop, that makes one part file."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.stop - self.start

    @property
    def ids(self) -> range:
        """All rows of the part."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class Share:
    """Every `count`-th part, for jobs that make one run side by side; `number` counts from 1.

    >>> [index for index in range(20) if Share(3, 8).holds(index)]
    [2, 10, 18]
    """

    number: int = 1
    count: int = 1

    def holds(self, index: int) -> bool:
        """Return whether the part with this index belongs to the share."""
        return index % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE_RUN = Share()
"""All parts of a run."""


def plan_parts(rows: int, size: int) -> tuple[PartRange, ...]:
    """Divide rows into ranges of `size` rows, of which the last may be shorter.

    The range of a part depends on its index alone, so that a manifest that grows at its end changes only the last.

    >>> [(s.start, s.stop) for s in plan_parts(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    return tuple(PartRange(i, start, min(start + size, rows)) for i, start in enumerate(range(0, rows, size)))


@dataclass(frozen=True)
class Task:
    """One part to infer, for all steps that lack it: the unit of work of a device."""

    part_range: PartRange
    steps: tuple[int, ...]
    loaded_steps: tuple[int, ...]
    """Steps whose models are in memory at the time, including `steps`."""
    ids: range | tuple[int, ...]
    """Rows of the manifest to infer: all of the part as a range, or those that failed before."""

    @property
    def rows(self) -> int:
        """Number of rows to infer, over all steps."""
        return len(self.ids) * len(self.steps)


def plan_tasks(lacking: Mapping[int, Mapping[PartRange, range | tuple[int, ...]]], max_models: int) -> tuple[Task, ...]:
    """Plan a task for each part, shared by the steps that lack the same rows of it.

    Args:
        lacking: for each step, the rows to infer of each part.
        max_models: largest number of models in memory at a time.

    >>> a, b = plan_parts(4, 2)
    >>> tasks = plan_tasks({1: {a: a.ids, b: b.ids}, 2: {b: b.ids, a: (1,)}, 3: {}}, 2)
    >>> [(task.part_range.index, task.steps, task.ids) for task in tasks]
    [(0, (1,), range(0, 2)), (0, (2,), (1,)), (1, (1, 2), range(2, 4))]
    """
    tasks = []
    numbers = [step for step, rows in lacking.items() if rows]
    for at in range(0, len(numbers), max_models):
        group = tuple(numbers[at : at + max_models])
        steps_of: dict[tuple[PartRange, range | tuple[int, ...]], list[int]] = {}
        for step in group:
            for range_and_ids in lacking[step].items():
                steps_of.setdefault(range_and_ids, []).append(step)
        for part_range, ids in sorted(steps_of, key=lambda range_and_ids: range_and_ids[0].start):
            tasks.append(Task(part_range, tuple(steps_of[part_range, ids]), group, ids))
    return tuple(tasks)
