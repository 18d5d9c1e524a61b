"""Measures the parts of a run and merges the results into one state for each panel and step. It knows no drawing.

Logits are read once. Panels with a second pass get the derived rows of the first, some 100 bytes each. Parts whose
states are in the cache are not read.
"""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Never

import pyarrow as pa

from predboard.errors import DamagedError
from predboard.evaluation.cache import CACHE_MAX_BYTES, CacheLookup, StateCache, part_key
from predboard.evaluation.cache_entry import CachedRows, CacheEntry, EntryWriter
from predboard.evaluation.state_versions import DERIVED_ROWS
from predboard.panels import LastStepOnly, Panel, TwoPass, TwoPassPanel, choose
from predboard.parallel.executor import Executor
from predboard.predictions.derived_rows import DERIVE_ROWS_COLUMNS, DerivedRows
from predboard.predictions.digests import MANIFEST_COLUMNS
from predboard.predictions.tasks import rows_of
from predboard.state import merge_all
from predboard.storage.parts import PartFile, read_batches, read_part_schema
from predboard.storage.paths import is_remote, map_files
from predboard.storage.rows import DerivedRowsWriter, read_derived_rows, unify_derived_schemas
from predboard.storage.runs import Step, release_memory

States = dict[str, Any]
"""The state of each panel, by the panel's name."""

RowSink = Callable[[DerivedRows], object]
"""Takes derived rows: those of all steps, in their order."""

CONCURRENT_PARTS = 4
"""Parts in object storage that a process reads at a time: it waits for one as long as it measures it, or longer."""

ROW_COST_LOGITS = 150
"""Cost of a row beside its logits, in logits."""


@dataclass(frozen=True)
class MeasureSettings:
    """Sizes of tasks, and limits for caching states. Time and memory depend on them, and the states do not."""

    task_min_rows: int = 4096
    """Rows that a process measures before it answers; neighbouring smaller parts share a task."""
    task_max_rows: int = 262_144
    """Most rows of a task on a cluster and from object storage: their derived rows, 40 MB, are sent together."""
    entry_min_rows: int = 131_072
    """Rows of a cache entry: loading one takes as long as measuring some thousand rows."""
    parallel_min_logits: int = 40_000_000
    """Logits from which other processes help: measuring so many takes more than a second, starting a process half."""
    cache_min_logits: int = 400_000_000
    """Logits from which states are cached by default: measuring so many takes two processes more than five seconds."""
    cache_max_bytes: int = CACHE_MAX_BYTES


DEFAULT_SETTINGS = MeasureSettings()


def preload() -> None:
    """Import what another process needs to measure. What draws is imported when it first draws."""
    choose(())


PRELOAD = f"{__name__}:{preload.__name__}"
"""How a pool's processes name it."""


def count_logits(parts: Iterable[PartFile]) -> int:
    """Return how much work it is to measure some parts, in logits."""
    return sum(part.rows * (len(part.run.classes) + ROW_COST_LOGITS) for part in parts)


def measure_part(
    part: PartFile, panels: Mapping[str, Panel], step: int = 0, with_rows: bool = False
) -> tuple[States, list[DerivedRows]]:
    """Return the states of one part, and its derived rows if they are wanted.

    Reads only the columns that the panels name, and a bounded number of rows at a time.
    """
    columns = MANIFEST_COLUMNS.union(*(panel.columns for panel in panels.values()))  # so that labels are verified
    states: States | None = None
    rows = []
    for batch in read_batches(part, columns | (DERIVE_ROWS_COLUMNS if with_rows else set())):
        measured = {name: panel.measure(part.run, batch) for name, panel in panels.items()}
        states = measured if states is None else merge_all(states, measured)
        if with_rows:
            rows.append(rows_of(part.run).derive(part.run, step, batch))
    return states or {name: panel.zero(part.run) for name, panel in panels.items()}, rows


def measure_run(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    executor: Executor,
    rows_file: Path,
    keep_rows: bool = False,
    progress: Callable[[int], object] = lambda _: None,
    cache: StateCache | None = None,
    settings: MeasureSettings = DEFAULT_SETTINGS,
) -> dict[int, States]:
    """Return the states of each step; those of panels with a second pass are `TwoPass`.

    Args:
        steps, panels, executor, progress, cache, settings: as for `measure_steps`.
        rows_file: where the derived rows are written, if they are kept or a panel has a second pass.
        keep_rows: whether they are kept.
    """
    if not keep_rows and not any(isinstance(panel, TwoPassPanel) for panel in panels.values()):
        return measure_steps(steps, panels, executor, progress, cache=cache, settings=settings)
    info, schema = {"classes": steps[0].run.classes}, _derived_schema(steps)
    with contextlib.closing(DerivedRowsWriter(rows_file, info, schema)) as writer:
        states = measure_steps(steps, panels, executor, progress, writer.write, cache, settings)
    return run_second_pass(steps, panels, states, read_derived_rows(rows_file))


def _derived_schema(steps: Sequence[Step]) -> pa.Schema | None:
    """Return the columns of the derived rows of several steps; None for one step, whose parts have the same."""
    if len(steps) == 1:
        return None
    return unify_derived_schemas(rows_of(s.run).derived_schema(s.run, read_part_schema(s.parts[0])) for s in steps)


def run_second_pass(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    states: Mapping[int, States],
    rows: Iterable[tuple[int, DerivedRows]],
) -> dict[int, States]:
    """Return the states, in which panels with a second pass have a `TwoPass` of both.

    Args:
        steps, panels: as for `measure_steps`.
        states: from `measure_steps`.
        rows: step and derived rows, of all steps.
    """
    two_pass = {name: panel for name, panel in panels.items() if isinstance(panel, TwoPassPanel)}
    runs = {step.step: step.run for step in steps}
    second = {s: {n: p.zero_second(runs[s], states[s][n]) for n, p in two_pass.items()} for s in states}
    for step, batch in rows if two_pass else ():
        measured = {n: p.measure_second(runs[step], states[step][n], batch) for n, p in two_pass.items()}
        second[step] = merge_all(second[step], measured)
    return {
        step: {**first, **{name: TwoPass(first[name], state) for name, state in second[step].items()}}
        for step, first in states.items()
    }


def measure_steps(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    executor: Executor,
    progress: Callable[[int], object] = lambda _: None,
    sink: RowSink | None = None,
    cache: StateCache | None = None,
    settings: MeasureSettings = DEFAULT_SETTINGS,
) -> dict[int, States]:
    """Return the states of each step, after one pass over its logits.

    Args:
        steps: of one run, in order.
        panels: by name.
        executor: where parts are measured, if there is enough to do.
        progress: takes the row count of each part that is finished.
        sink: takes the derived rows; without it they are not made.
        cache: what is in it is not measured; what is measured is added.
        settings: sizes of the pieces of work.
    """
    plans = _plan(steps, panels, sink is not None, cache)
    tasks = [task for plan in plans for task in plan.tasks(executor, settings)]
    is_large = count_logits(part for task in tasks for part in task.parts.values()) >= settings.parallel_min_logits
    processes = min(executor.max_processes, len(tasks)) if is_large else 1
    states = {plan.step.step: dict(plan.cached.states) for plan in plans}

    def add(more: Mapping[int, States]) -> None:
        for step, measured in more.items():
            states[step] = merge_all(states[step], measured)

    with contextlib.closing(_RowFeed(plans, sink, progress)) as feed:
        # While all processes measure their first task, this one passes on what comes from the cache.
        queue = itertools.chain(tasks[:processes], _call_when_reached(feed.advance), tasks[processes:])
        measurer = _Measurer(cache, settings, is_large)
        for result in executor.fold(measurer, queue, processes, add, _step_of, _merge_steps):
            add(result.finished)
            feed.add(result)
            feed.advance()
        feed.advance()
    if is_large:
        executor.broadcast(release_memory)
    return {
        plan.step.step: {
            name: measured[name] if name in measured else panel.zero(plan.step.run) for name, panel in panels.items()
        }
        for plan in plans
        for measured in [states[plan.step.step]]
    }


def _call_when_reached(action: Callable[[], object]) -> Iterator[Never]:
    """Yield nothing, but call the action when the items after it are asked for."""
    action()
    yield from ()


# --- the plan: what must be measured ---


@dataclass(frozen=True)
class _Task:
    """Neighbouring parts of a step, which a process measures before it answers."""

    step: int
    parts: Mapping[str, PartFile]
    """Parts by key, in order."""
    panels: Mapping[str, Panel]
    with_rows: bool
    """Whether the derived rows are wanted."""


@dataclass(frozen=True)
class _StepPlan:
    """The cached states of a step, and the parts that must be measured."""

    step: Step
    panels: Mapping[str, Panel]
    """Those that look at this step."""
    parts: Mapping[str, PartFile]
    """Parts by key, in order."""
    cached: CacheLookup

    def tasks(self, executor: Executor, settings: MeasureSettings) -> Iterator[_Task]:
        """Cut what must be measured into tasks of neighbouring parts that are measured for the same panels."""
        path, rows = self.step.parts[0].path, settings.task_min_rows
        if is_remote(path):  # enough parts to read ahead
            rows = max(rows, min(4 * CONCURRENT_PARTS * self.step.parts[0].rows, settings.task_max_rows))
        rows = executor.batch_rows(self.step.rows, rows, settings.task_min_rows, settings.task_max_rows)
        for names, keys in itertools.groupby(self.parts, self.cached.missing.__getitem__):
            panels = {name: self.panels[name] for name in sorted(names - {DERIVED_ROWS})}
            for parts in self._neighbours(keys, rows) if names else ():
                yield _Task(self.step.step, parts, panels, DERIVED_ROWS in names)

    def _neighbours(self, keys: Iterable[str], min_rows: int) -> Iterator[dict[str, PartFile]]:
        """Yield groups of the parts in order, each of at least `min_rows` rows but for the last."""
        group: dict[str, PartFile] = {}
        for key in keys:
            group[key] = self.parts[key]
            if sum(part.rows for part in group.values()) >= min_rows:
                yield group
                group = {}
        if group:
            yield group


def _plan(
    steps: Sequence[Step], panels: Mapping[str, Panel], with_rows: bool, cache: StateCache | None
) -> list[_StepPlan]:
    """Look up what is cached. Panels that draw the last step alone need no rows of the others."""
    every = {name: p for name, p in panels.items() if not (isinstance(p, LastStepOnly) and p.last_step_only)}
    chosen = {step.step: panels if step is steps[-1] else every for step in steps}
    wanted = {step: frozenset([*names, *([DERIVED_ROWS] if with_rows else [])]) for step, names in chosen.items()}
    parts = {s.step: {part.path.name if cache is None else part_key(part): part for part in s.parts} for s in steps}
    rows = {step: {key: part.rows for key, part in of_step.items()} for step, of_step in parts.items()}
    if cache is None:
        cached = {step: CacheLookup({}, dict.fromkeys(rows[step], wanted[step]), {}) for step in rows}
    else:
        cached = cache.find(rows, wanted)
    return [_StepPlan(s, chosen[s.step], parts[s.step], cached[s.step]) for s in steps]


class _RowFeed:
    """Passes the derived rows of all parts on in their order, as soon as they are measured or from the cache."""

    def __init__(self, plans: Iterable[_StepPlan], sink: RowSink | None, progress: Callable[[int], object]) -> None:
        self._sink = sink
        self._progress = progress
        self._waiting = deque((plan, key) for plan in plans for key in plan.parts)
        self._measured: dict[tuple[int, str], list[DerivedRows]] = {}
        self._cached = CachedRows({key: entry for plan in plans for key, entry in plan.cached.rows.items()})

    def add(self, result: "TaskResult") -> None:
        """Take the rows of a task."""
        self._measured |= {(result.step, key): rows for key, rows in result.rows.items()}

    def advance(self) -> None:
        """Pass on the rows of the next parts, up to the first that is not measured yet."""
        while self._waiting:
            plan, key = self._waiting[0]
            measured = self._measured.pop((plan.step.step, key), None)
            if measured is None and plan.cached.missing[key]:
                return
            self._waiting.popleft()
            part = plan.parts[key]
            if self._sink is not None:
                for rows in measured or self._cached_rows(part, key, plan.step.step):
                    self._sink(rows)
            self._progress(part.rows)

    def _cached_rows(self, part: PartFile, key: str, step: int) -> list[DerivedRows]:
        """Read rows from the cache, or derive them again if they are damaged by now."""
        rows = self._cached.read(key)
        return measure_part(part, {}, step, with_rows=True)[1] if rows is None else rows

    def close(self) -> None:
        """Close the cache."""
        self._cached.close()


# --- measuring: what each process does ---


class TaskResult(NamedTuple):
    """The answer to a task."""

    step: int
    finished: Mapping[int, States]
    """States of steps that this process is done with."""
    rows: Mapping[str, list[DerivedRows]]
    """Derived rows of each part, by key."""


@dataclass
class _Block:
    """The parts of a step that a process measured for one cache entry."""

    step: int
    panels: Mapping[str, Panel]
    with_rows: bool
    writer: EntryWriter | None
    """None if nothing is cached."""
    parts: dict[str, PartFile] = field(default_factory=dict)
    states: States = field(default_factory=dict)
    """Merged over the parts."""

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts.values())

    def serves(self, task: _Task) -> bool:
        """Return whether the parts of a task may be added."""
        return (self.step, self.panels.keys(), self.with_rows) == (task.step, task.panels.keys(), task.with_rows)

    def add(self, key: str, part: PartFile, states: States, rows: Sequence[DerivedRows]) -> None:
        """Add a measured part."""
        self.parts[key] = part
        self.states = merge_all(self.states, states)
        if self.writer is not None:
            self.writer.add_part(key, part.rows, rows)

    def reload(self, entry: CacheEntry, packages: frozenset[str]) -> States:
        """Return the states from the entry that was written; measure the parts again if it is damaged or gone."""
        with contextlib.suppress(DamagedError):
            return entry.load(self.panels, packages)
        return functools.reduce(merge_all, (measure_part(p, self.panels, self.step)[0] for p in self.parts.values()))


class _Measurer:
    """Measures tasks on one process, and accumulates one state for each step.

    States have 30 MB at 1,000 classes, so they are sent once, when the process is done with a step, and not with each
    answer. Where the cache is on this machine, states that were written to it are not held in memory meanwhile, but
    loaded in the end.
    """

    def __init__(self, cache: StateCache | None, settings: MeasureSettings, release: bool) -> None:
        """Add what is measured to `cache`. `release` memory that is not in use before more is needed, where there is
        much to measure; where there is little, to get it anew would take longer than to measure.
        """
        self._cache = cache
        self._settings = settings
        self._release = release
        self._block: _Block | None = None
        self._written: dict[int, list[tuple[_Block, CacheEntry]]] = {}
        self._states: dict[int, States] = {}

    def __call__(self, task: _Task) -> TaskResult:
        """Measure a task."""
        block = self._block
        if block is None or not block.serves(task):
            self._end_block()
            writer = None if self._cache is None else self._cache.begin_entry(task.with_rows)
            block = self._block = _Block(task.step, task.panels, task.with_rows, writer)
        finished = self._take_states(task.step)
        rows = {}
        measure = functools.partial(measure_part, panels=task.panels, step=task.step, with_rows=task.with_rows)
        parts = list(task.parts.values())
        measured = map_files(measure, parts, parts[0].path, CONCURRENT_PARTS)
        for (key, part), (states, rows[key]) in zip(task.parts.items(), measured, strict=True):
            block.add(key, part, states, rows[key])
        if self._cache is not None and block.rows >= self._settings.entry_min_rows:
            self._end_block(more_follow=True)
            release_memory()
        return TaskResult(task.step, finished, rows)

    def drain(self) -> dict[int, States]:
        """Return the states that no answer had."""
        self._end_block()
        if self._release:
            release_memory()
        states = self._take_states()
        if self._release:
            release_memory()
        return states

    def _end_block(self, more_follow: bool = False) -> None:
        """Write the entry of the block. If more blocks follow, its states are dropped, and loaded again in the end."""
        block, self._block = self._block, None
        if block is None:
            return
        entry = None
        if self._cache is not None and block.writer is not None:
            entry = block.writer.finish(block.states, self._cache.free_bytes())
        if more_follow and entry is not None and not is_remote(entry.path):
            block.states, block.writer = {}, None
            self._written.setdefault(block.step, []).append((block, entry))
        else:
            self._states[block.step] = merge_all(self._states.get(block.step, {}), block.states)

    def _take_states(self, current: int | None = None) -> dict[int, States]:
        """Remove and return the states of all steps but the current one."""
        packages = frozenset[str]() if self._cache is None else self._cache.packages
        return {
            step: functools.reduce(
                lambda states, written: merge_all(states, written[0].reload(written[1], packages)),
                self._written.pop(step, ()),
                self._states.pop(step, {}),
            )
            for step in sorted((self._states.keys() | self._written.keys()) - {current})
        }


def _step_of(task: _Task) -> int:
    return task.step


def _merge_steps(*folded: Mapping[int, States]) -> dict[int, States]:
    """Merge what several processes accumulated of the same steps."""
    return {step: functools.reduce(merge_all, (states[step] for states in folded)) for step in folded[0]}
