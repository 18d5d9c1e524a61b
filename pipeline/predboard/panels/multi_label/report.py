"""Measures what the report needs, and writes its pages. It knows no single image; its words are in `pages`.

`report/summary` is for everyone, `report/run` for whoever must repeat the run, and `report/tabs` for those who are new
to TensorBoard. The last is made from what the other panels wrote.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from predboard.metrics.multi_label import label_state
from predboard.metrics.multi_label.label_pairs import LabelPairs
from predboard.metrics.multi_label.label_state import LabelState
from predboard.panels import RunInfo
from predboard.panels.pages.label_report import label_summary_page
from predboard.panels.pages.report import report_pages
from predboard.predictions.multi_label import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.summaries import Summary


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
        last = max(states)
        metrics = {step: state.metrics for step, state in states.items()}
        yield from report_pages(
            info, last, label_summary_page(info, metrics, states[last].pairs), thresholds="report/thresholds"
        )
