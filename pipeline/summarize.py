"""Parts of predictions -> one state for each panel and step. Knows no drawing and no TensorBoard."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import store, workers
from pipeline.panels import Panel
from pipeline.state import merge_all
from pipeline.store import PartFile, Step

States = dict[str, Any]
"""A state for each panel, by its name."""


def zeros(step: Step, panels: Mapping[str, Panel]) -> States:
    """The states of no rows."""
    return {name: panel.zero(step.run) for name, panel in panels.items()}


def summarize_part(part: PartFile, panels: Mapping[str, Panel]) -> States:
    """States of one part. Reads only the columns that the panels name, a bounded number of rows at a time."""
    columns: set[str] = set().union(*(panel.columns for panel in panels.values()))
    states: States | None = None
    for batch in store.batches(part, columns):
        measured = {name: panel.measure(part.run, batch) for name, panel in panels.items()}
        states = measured if states is None else merge_all(states, measured)
    return states or {name: panel.zero(part.run) for name, panel in panels.items()}


def summarize(
    steps: Sequence[Step], panels: Mapping[str, Panel], threads: int, done: Callable[[int], object] = lambda _: None
) -> dict[int, States]:
    """States of each step; parts are measured on threads and folded in their order.

    Args:
        steps: of one run.
        panels: by name.
        threads: how many parts are measured at once.
        done: told the rows of every part that is finished.
    """
    states = {step.step: zeros(step, panels) for step in steps}
    parts = [(step.step, part) for step in steps for part in step.parts]
    measure = functools.partial(_measure, panels=panels)
    for number, rows, measured in workers.in_order(measure, parts, threads):
        states[number] = merge_all(states[number], measured)
        done(rows)
    return states


def _measure(at: tuple[int, PartFile], panels: Mapping[str, Panel]) -> tuple[int, int, States]:
    number, part = at
    return number, part.rows, summarize_part(part, panels)
