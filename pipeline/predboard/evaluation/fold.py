"""Parts of predictions -> one state for each panel and step, and the derived rows. Knows no drawing and no TensorBoard.

All of it is one pass over the logits. Panels that look again get the rows of that pass, which are some 100 bytes each.
What is kept of an earlier time is not read again.
"""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never

from predboard.errors import DamagedError
from predboard.evaluation.cache import DERIVED_ROWS, CacheEntry, RowSpool, StateCache, part_key
from predboard.panels import LastStepOnly, Panel, TwoPass, TwoPassPanel
from predboard.parallel.executor import Executor
from predboard.predictions.derived_rows import DERIVE_ROWS_COLUMNS, DerivedRows, derive_rows
from predboard.state import merge_all
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.paths import is_remote, map_files
from predboard.storage.rows import DerivedRowsWriter, read_derived_rows
from predboard.storage.runs import Step, release_memory

States = dict[str, Any]
"""A state for each panel, by its name."""

TASK_MIN_ROWS = 4096
"""Rows that a process measures before it answers, at least, where there are several parts of fewer."""

TASK_MAX_ROWS = 262_144
"""Rows that a process of a cluster measures before it answers, at most: the derived ones, 40 MB, come back together."""

CONCURRENT_PARTS = 4
"""Parts in storage that a process asks for at a time: it waits for each as long as it measures, or longer."""

CACHE_BLOCK_ROWS = 131_072
"""Rows that are kept together, at least: to take up their states costs as much as to measure some thousand rows."""

ROW_COST_LOGITS = 150
"""What a row costs beside its logits, in logits."""

CACHE_MIN_LOGITS = 400_000_000
"""Logits from which states are kept: reading and measuring them takes two processes more than five seconds."""

POOL_MIN_LOGITS = 40_000_000
"""Logits from which processes pay: reading and measuring them takes one more than a second, starting some a half."""

RowSink = Callable[[DerivedRows], object]
"""Takes the derived rows of all steps in their order."""


def measure_part(
    part: PartFile, panels: Mapping[str, Panel], step: int = 0, rows: bool = False
) -> tuple[States, list[DerivedRows]]:
    """States of one part, and its derived rows if they are wanted.

    Reads only the columns that the panels name, a bounded number of rows at a time.
    """
    columns: set[str] = set().union(*(panel.columns for panel in panels.values()), DERIVE_ROWS_COLUMNS if rows else ())
    states: States | None = None
    derived = []
    for batch in read_batches(part, columns):
        measured = {name: panel.measure(part.run, batch) for name, panel in panels.items()}
        states = measured if states is None else merge_all(states, measured)
        if rows:
            derived.append(derive_rows(part.run, step, batch))
    return states or {name: panel.zero(part.run) for name, panel in panels.items()}, derived


def count_logits(parts: Iterable[PartFile]) -> int:
    """How much there is to read, in logits."""
    return sum(part.rows * (len(part.run.classes) + ROW_COST_LOGITS) for part in parts)


def fold_steps(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    executor: Executor,
    done: Callable[[int], object] = lambda _: None,
    sink: RowSink | None = None,
    kept: StateCache | None = None,
) -> dict[int, States]:
    """Return the states of each step: parts are measured by the executor, and folded in their order.

    Args:
        steps: of one run.
        panels: by name.
        executor: where parts are measured, if there is enough to do.
        done: told the rows of every few parts that are finished.
        sink: takes the derived rows; without it they are not made.
        kept: what it has is not measured again, and what is measured it gets.
    """
    every = {n: p for n, p in panels.items() if not (isinstance(p, LastStepOnly) and p.last_step_only)}
    of_step = {step.step: panels if step is steps[-1] else every for step in steps}
    wanted = {step: frozenset([*of, *([] if sink is None else [DERIVED_ROWS])]) for step, of in of_step.items()}
    parts = {s.step: {part.path.name if kept is None else part_key(part): part for part in s.parts} for s in steps}
    found = (kept or StateCache()).find(
        {step: {k: p.rows for k, p in of.items()} for step, of in parts.items()}, wanted
    )
    states = {step: dict(of.states) for step, of in found.items()}
    portions = [
        _Portion(
            step.step, keys, {n: of_step[step.step][n] for n in sorted(names - {DERIVED_ROWS})}, DERIVED_ROWS in names
        )
        for step in steps
        for keys, names in _portions(
            parts[step.step],
            found[step.step].missing,
            executor.batch_rows(step.rows, _portion(step), TASK_MIN_ROWS, TASK_MAX_ROWS),
        )
    ]
    to_read = count_logits(part for portion in portions for part in portion.parts.values())
    much = to_read >= POOL_MIN_LOGITS
    processes = 1 if not much else min(executor.max_processes, len(portions))

    def add(more: Mapping[int, States]) -> None:
        for step, measured in more.items():
            states[step] = merge_all(states[step], measured)

    waiting = deque((step, key) for step, of in parts.items() for key in of)
    made: dict[tuple[int, str], list[DerivedRows]] = {}

    def hand_over() -> None:
        """The rows of the next parts, as far as they are there."""
        while waiting and (waiting[0] in made or not found[waiting[0][0]].missing[waiting[0][1]]):
            step, key = waiting.popleft()
            part, rows = parts[step][key], made.pop((step, key), [])
            if sink is not None:
                for batch in rows or _kept_rows(found[step].rows.get(key), key, part, step):
                    sink(batch)
            done(part.rows)

    begun = itertools.chain(portions[:processes], _after(hand_over), portions[processes:])
    measuring = _Measuring(kept, much)
    answers = executor.fold(measuring, begun, processes, add, lambda portion: portion.step, _merge_steps)
    for step, finished, derived in answers:
        add(finished)
        made |= {(step, key): rows for key, rows in derived.items()}
        hand_over()
    hand_over()
    if much:
        executor.broadcast(release_memory)
    return {
        step.step: {name: of[name] if name in of else panel.zero(step.run) for name, panel in panels.items()}
        for step in steps
        for of in [states[step.step]]
    }


def _after(action: Callable[[], object]) -> Iterator[Never]:
    """No items, but something is done when they are asked for: what is kept is written while all processes measure."""
    action()
    yield from ()


@dataclass(frozen=True)
class _Portion:
    """What one process does at a time."""

    step: int
    parts: Mapping[str, PartFile]
    panels: Mapping[str, Panel]
    rows: bool
    """Whether the derived rows are wanted."""


def _portion(step: Step) -> int:
    """Rows of a portion, at least: so many that parts in storage can be asked for ahead."""
    far = is_remote(step.parts[0].path)
    return max(TASK_MIN_ROWS, min(4 * CONCURRENT_PARTS * step.parts[0].rows, TASK_MAX_ROWS)) if far else TASK_MIN_ROWS


TaskResult = tuple[int, Mapping[int, States], Mapping[str, list[DerivedRows]]]
"""A portion's step, the states of steps that are done with, and the derived rows of each part."""


def _portions(
    parts: Mapping[str, PartFile], missing: Mapping[str, frozenset[str]], least: int
) -> Iterator[tuple[dict[str, PartFile], frozenset[str]]]:
    """Neighbouring parts that must be read for the same, together at least so many rows; and for what."""
    for names, keys in itertools.groupby(parts, missing.__getitem__):
        taken: dict[str, PartFile] = {}
        for key in keys if names else ():
            taken[key] = parts[key]
            if sum(part.rows for part in taken.values()) >= least:
                yield taken, names
                taken = {}
        if taken:
            yield taken, names


def _kept_rows(entry: CacheEntry | None, key: str, part: PartFile, step: int) -> list[DerivedRows]:
    """The derived rows of a part whose states are known: as they were kept, or made again if that is damaged by now."""
    with contextlib.suppress(DamagedError):
        if entry is not None:
            return entry.rows_of(key)
    return measure_part(part, {}, step, rows=True)[1]


class _Measuring:
    """Measures portions, and holds the states of what it was given of a step: 30 MB at 1,000 classes, sent once.

    What is kept is not held meanwhile.
    """

    def __init__(self, kept: StateCache | None, much: bool = False) -> None:
        """Whenever states are of `CACHE_BLOCK_ROWS` rows, or there are no more, `kept` gets them.

        Where there is `much` to read, memory that is not used any more is given back, before more is needed. Of little
        it is used again, and to have it anew would take longer than to read.
        """
        self._kept = kept
        self._much = much
        self._states: dict[int, States] = {}
        self._written: dict[int, list[tuple[CacheEntry, Mapping[str, Panel], list[PartFile]]]] = {}
        self._block = _Block()

    def __call__(self, portion: _Portion) -> TaskResult:
        if (self._block.step, self._block.panels.keys()) != (portion.step, portion.panels.keys()):
            self._end_block()
            self._block = _Block(portion.step, portion.panels)
        finished = self._taken({portion.step})
        derived = {}
        measure = functools.partial(measure_part, panels=portion.panels, step=portion.step, rows=portion.rows)
        parts = list(portion.parts.values())
        each = map_files(measure, parts, parts[0].path, CONCURRENT_PARTS)
        for key, (measured, rows) in zip(portion.parts, each, strict=True):
            derived[key] = rows
            if self._kept is not None and portion.rows:
                self._block.rows = self._block.rows or self._kept.aside()
                self._block.rows.add(key, rows)
            self._block.states = merge_all(self._block.states, measured)
            self._block.parts[key] = portion.parts[key]
        if self._kept is not None and sum(part.rows for part in self._block.parts.values()) >= CACHE_BLOCK_ROWS:
            self._end_block(more=True)
            release_memory()
        return portion.step, finished, derived

    def _end_block(self, more: bool = False) -> None:
        """Of a step of which `more` will come, what is kept is let go; it is read again in the end."""
        block, self._block = self._block, _Block(self._block.step, self._block.panels)
        if block.parts:
            entry = None
            if self._kept is not None:
                rows = {key: part.rows for key, part in block.parts.items()}
                entry = self._kept.write(rows, block.states, block.rows or ())
            if entry is not None and more:
                self._written.setdefault(block.step, []).append((entry, block.panels, list(block.parts.values())))
            else:
                self._states[block.step] = merge_all(self._states.get(block.step, {}), block.states)

    def _taken(self, but: Set[int]) -> dict[int, States]:
        """The states of all steps but these, of which nothing stays here."""
        steps = (self._states.keys() | self._written.keys()) - but
        return {
            step: functools.reduce(
                lambda states, written: merge_all(states, _of_entry(step, *written)),
                self._written.pop(step, ()),
                self._states.pop(step, {}),
            )
            for step in sorted(steps)
        }

    def drain(self) -> dict[int, States]:
        """The states of what was not told so far."""
        self._end_block()
        if self._much:
            release_memory()
        states = self._taken(set())
        if self._much:
            release_memory()
        return states


def _of_entry(step: int, entry: CacheEntry, panels: Mapping[str, Panel], parts: Iterable[PartFile]) -> States:
    """The states that were kept of some parts, measured again if they are gone or damaged by now."""
    with contextlib.suppress(DamagedError):
        return entry.states(entry.panels)
    return _joined(*(measure_part(part, panels, step)[0] for part in parts))


@dataclass
class _Block:
    """What was measured since states were kept the last time."""

    step: int = 0
    panels: Mapping[str, Panel] = field(default_factory=dict)
    states: States = field(default_factory=dict)
    parts: dict[str, PartFile] = field(default_factory=dict)
    """By key."""
    rows: RowSpool | None = None
    """The derived ones, where they are kept."""


def _merge_steps(*folded: Mapping[int, States]) -> dict[int, States]:
    """Merge what several copies of `_Measuring` hold of the same steps."""
    return {step: _joined(*(states[step] for states in folded)) for step in folded[0]}


def _joined(*states: States) -> States:
    return functools.reduce(merge_all, states)


def measure_run(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    executor: Executor,
    rows: Path,
    keep: bool = False,
    done: Callable[[int], object] = lambda _: None,
    kept: StateCache | None = None,
) -> dict[int, States]:
    """States of each step, those of a second look among them.

    Args:
        steps, panels, executor, done, kept: as for `fold_steps`.
        rows: file that the derived rows are written to, if they are to be kept or a panel looks again.
        keep: whether they are.
    """
    if not keep and not any(isinstance(panel, TwoPassPanel) for panel in panels.values()):
        return fold_steps(steps, panels, executor, done, kept=kept)
    writer = DerivedRowsWriter(rows)
    try:
        states = fold_steps(steps, panels, executor, done, writer.write, kept)
    finally:
        writer.close()
    return run_second_pass(steps, panels, states, read_derived_rows(rows))


def run_second_pass(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    states: Mapping[int, States],
    rows: Iterable[tuple[int, DerivedRows]],
) -> dict[int, States]:
    """The states, with the second ones of the panels that look again.

    Args:
        steps, panels: as for `fold_steps`.
        states: from `fold_steps`.
        rows: (step, derived rows) of all steps.
    """
    again = {name: panel for name, panel in panels.items() if isinstance(panel, TwoPassPanel)}
    runs = {step.step: step.run for step in steps}
    seconds = {s: {n: p.zero_second(runs[s], states[s][n]) for n, p in again.items()} for s in states}
    for number, batch in rows if again else ():
        measured = {n: p.measure_second(runs[number], states[number][n], batch) for n, p in again.items()}
        seconds[number] = merge_all(seconds[number], measured)
    return {
        s: {**of_step, **{name: TwoPass(of_step[name], second) for name, second in seconds[s].items()}}
        for s, of_step in states.items()
    }
