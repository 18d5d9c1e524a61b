"""Measures what the report needs, and writes its pages. It knows no single image; its words are in `pages`.

`report/summary` is for everyone, `report/run` for whoever must repeat the run, and `report/tabs` for those who are new
to TensorBoard. The last is made from what the other panels wrote.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from predboard.metrics.multi_label import label_state
from predboard.metrics.multi_label.label_pairs import LabelPairs
from predboard.metrics.multi_label.label_state import LabelState
from predboard.panels import RunInfo, WrittenTag
from predboard.panels.pages.label_report import label_summary_page
from predboard.panels.pages.labels import corrected_labels
from predboard.panels.pages.report import run_page, tabs_page
from predboard.predictions.multi_label import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.summaries import Picture, Summary, Text


@dataclass(frozen=True)
class State:
    """The shared state, and the errors between labels."""

    metrics: LabelState
    pairs: LabelPairs


@dataclass(frozen=True)
class Panel:
    """Text: metrics with intervals, what to look at next, how the run was made, how to read the tabs; model inputs."""

    columns: frozenset[str] = label_state.COLUMNS
    renders_last: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(LabelState.zero(run), LabelPairs.zero(run))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        return State(LabelState.measure(run, batch), LabelPairs.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield the model's inputs, at the steps for which stage one drew them, and the pages, at the last step."""
        own = [*self._own(info, states)]
        yield from own
        if info.written:
            written = (*info.written, *{s.tag: WrittenTag(s.tag, type(s), s.description) for _, s in own}.values())
            page = tabs_page(written, thresholds="report/thresholds")
            yield max(states), Text("report/tabs", page, "How to read the tabs, and what is in them.")

    def _own(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        sheets = {step: known.sheet for step, known in info.steps.items() if known.sheet is not None}
        for step in sheets:
            draw = functools.partial(sheets.__getitem__, step)
            description = "Some images as the model received them, before the long run."
            yield step, Picture("report/what_the_model_sees", draw, description)
        last = max(states)
        yield from corrected_labels(info)
        metrics = {step: state.metrics for step, state in states.items()}
        yield last, Text("report/summary", label_summary_page(info, metrics, states[last].pairs), "Start here.")
        yield last, Text("report/run", run_page(info, last), "How the run was made, for whoever must repeat it.")
