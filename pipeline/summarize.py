"""Parts of predictions -> one state for each panel and step, and the derived rows. Knows no drawing and no TensorBoard.

All of it is one pass over the logits. Panels that look again get the rows of that pass, which are some 100 bytes each.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import cluster, store, workers
from pipeline.panels import LooksAgain, OfLastStep, Panel, Twice
from pipeline.places import Remote
from pipeline.predictions import ROW_COLUMNS, Predictions, derived_rows
from pipeline.state import merge_all
from pipeline.store import PartFile, Step

States = dict[str, Any]
"""A state for each panel, by its name."""

PORTION = 4096
"""Rows that a process measures before it answers, at least, where there are several parts of fewer."""

MOST = 262_144
"""Rows that a process of a cluster measures before it answers, at most: the derived ones, 40 MB, come back together."""

AT_ONCE = 4
"""Parts in storage that a process asks for at a time: it waits for each as long as it measures, or longer."""

PER_ROW = 150
"""What a row costs beside its logits, in logits."""

WORTH = 40_000_000
"""Logits from which processes pay: reading and measuring them takes one more than a second, starting some a half."""

Sink = Callable[[Predictions], object]
"""Takes the derived rows of all steps in their order."""


def summarize_part(
    part: PartFile, panels: Mapping[str, Panel], step: int = 0, rows: bool = False
) -> tuple[States, list[Predictions]]:
    """States of one part, and its derived rows if they are wanted.

    Reads only the columns that the panels name, a bounded number of rows at a time.
    """
    columns: set[str] = set().union(*(panel.columns for panel in panels.values()), ROW_COLUMNS if rows else ())
    states: States | None = None
    derived = []
    for batch in store.batches(part, columns):
        measured = {name: panel.measure(part.run, batch) for name, panel in panels.items()}
        states = measured if states is None else merge_all(states, measured)
        if rows:
            derived.append(derived_rows(part.run, step, batch))
    return states or {name: panel.zero(part.run) for name, panel in panels.items()}, derived


def summarize(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    count: int,
    done: Callable[[int], object] = lambda _: None,
    sink: Sink | None = None,
    on_ray: bool = False,
) -> dict[int, States]:
    """States of each step; parts are measured here, on processes or on Ray, and folded in their order.

    Args:
        steps: of one run.
        panels: by name.
        count: processes to use where there is enough to do.
        done: told the rows of every few parts that are finished.
        sink: takes the derived rows; without it they are not made.
        on_ray: measure and fold on the cluster that this process is connected to.
    """
    states: dict[int, States] = {}
    every = {n: p for n, p in panels.items() if not (isinstance(p, OfLastStep) and p.last_step_only)}
    portions = [
        _Portion(step.step, parts, panels if step is steps[-1] else every)
        for step in steps
        for parts in _portions(step.parts, cluster.portion(step.rows, PORTION, MOST) if on_ray else _portion(step))
    ]
    numbers = sum(step.rows * (len(step.run.classes) + PER_ROW) for step in steps)
    processes = 1 if numbers < WORTH else min(count, len(portions))

    def add(more: Mapping[int, States]) -> None:
        for step, measured in more.items():
            states[step] = merge_all(states[step], measured) if step in states else measured

    answers = (
        _on_ray(portions, sink is not None, add)
        if on_ray
        else workers.in_processes(_Measuring(sink is not None), portions, processes, add)
    )
    for rows, finished, derived in answers:
        add(finished)
        for batch in derived:
            sink(batch)  # type: ignore[misc]  # there are derived rows only where there is a sink
        done(rows)
    return {
        step.step: {name: of_step[name] if name in of_step else panel.zero(step.run) for name, panel in panels.items()}
        for step in steps
        for of_step in [states.get(step.step, {})]
    }


@dataclass(frozen=True)
class _Portion:
    """What one process does at a time."""

    step: int
    parts: tuple[PartFile, ...]
    panels: Mapping[str, Panel]


def _portion(step: Step) -> int:
    """Rows of a portion, at least: so many that parts in storage can be asked for ahead."""
    far = isinstance(step.parts[0].path, Remote)
    return max(PORTION, min(4 * AT_ONCE * step.parts[0].rows, MOST)) if far else PORTION


def _portions(parts: Sequence[PartFile], least: int) -> Iterator[tuple[PartFile, ...]]:
    """Neighbouring parts, together at least so many rows."""
    taken: list[PartFile] = []
    for part in parts:
        taken.append(part)
        if sum(p.rows for p in taken) >= least:
            yield tuple(taken)
            taken = []
    if taken:
        yield tuple(taken)


class _Measuring:
    """Measures portions, and keeps the states of what it was given of a step: 20 MB at 1,000 classes, sent once."""

    def __init__(self, rows: bool) -> None:
        self._rows = rows
        self._states: dict[int, States] = {}

    def __call__(self, portion: _Portion) -> tuple[int, dict[int, States], list[Predictions]]:
        """-> how many rows, the states of a step that is done with, and the derived rows."""
        finished = {step: states for step, states in self._states.items() if step != portion.step}
        so_far = self._states.get(portion.step)
        derived = []
        measure = functools.partial(summarize_part, panels=portion.panels, step=portion.step, rows=self._rows)
        for measured, more in store.each(measure, portion.parts, portion.parts[0].path, AT_ONCE):
            so_far = measured if so_far is None else merge_all(so_far, measured)
            derived += more
        self._states = {portion.step: so_far or {}}
        return sum(part.rows for part in portion.parts), finished, derived

    def rest(self) -> dict[int, States]:
        """The states of the last step."""
        return self._states


def _measure(portion: _Portion, rows: bool) -> tuple[States, list[Predictions]]:
    """States and derived rows of one portion."""
    measuring = _Measuring(rows)
    _, _, derived = measuring(portion)
    return measuring.rest()[portion.step], derived


def _joined(*states: States) -> States:
    return functools.reduce(merge_all, states)


def _on_ray(
    portions: Sequence[_Portion], rows: bool, add: Callable[[Mapping[int, States]], None]
) -> Iterator[tuple[int, Mapping[int, States], list[Predictions]]]:
    """As `workers.in_processes` gives them; the states are joined on the cluster, and only those of steps come here."""
    measure = functools.partial(_measure, rows=rows)
    for portion, derived in cluster.fold(
        measure, portions, lambda portion: portion.step, _joined, lambda step, states: add({step: states})
    ):
        yield sum(part.rows for part in portion.parts), {}, derived


def measured(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    count: int,
    rows: Path,
    keep: bool = False,
    done: Callable[[int], object] = lambda _: None,
    on_ray: bool = False,
) -> dict[int, States]:
    """States of each step, those of a second look among them.

    Args:
        steps, panels, count, done, on_ray: as for `summarize`.
        rows: file that the derived rows are written to, if they are to be kept or a panel looks again.
        keep: whether they are.
    """
    if not keep and not any(isinstance(panel, LooksAgain) for panel in panels.values()):
        return summarize(steps, panels, count, done, on_ray=on_ray)
    writer = store.RowsWriter(rows)
    try:
        states = summarize(steps, panels, count, done, writer.write, on_ray)
    finally:
        writer.close()
    return look_again(steps, panels, states, store.read_rows(rows))


def look_again(
    steps: Sequence[Step],
    panels: Mapping[str, Panel],
    states: Mapping[int, States],
    rows: Iterable[tuple[int, Predictions]],
) -> dict[int, States]:
    """The states, with the second ones of the panels that look again.

    Args:
        steps, panels: as for `summarize`.
        states: from `summarize`.
        rows: (step, derived rows) of all steps.
    """
    again = {name: panel for name, panel in panels.items() if isinstance(panel, LooksAgain)}
    runs = {step.step: step.run for step in steps}
    seconds = {s: {n: p.zero_again(runs[s], states[s][n]) for n, p in again.items()} for s in states}
    for number, batch in rows if again else ():
        measured = {n: p.measure_again(runs[number], states[number][n], batch) for n, p in again.items()}
        seconds[number] = merge_all(seconds[number], measured)
    return {
        s: {**of_step, **{name: Twice(of_step[name], second) for name, second in seconds[s].items()}}
        for s, of_step in states.items()
    }
