"""Measures what the report needs, and writes its pages. It knows no single image; its words are in `pages.report`.

Three pages of text: `report/summary` for everyone, `report/run` for whoever must repeat the run, and `report/tabs` for
those who are new to TensorBoard. The last is made from what the other panels wrote.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from predboard.metrics import metric_state
from predboard.metrics.metric_state import MetricState
from predboard.panels import RunInfo
from predboard.panels.pages.report import report_pages, summary_page
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import Lowest
from predboard.summaries import Summary

CONFIDENT_MISTAKES = 30
"""Most confident mistakes among which a common confusion is looked for."""


@dataclass(frozen=True)
class State:
    """The state that all metrics follow from, and the classes of the most confident mistakes."""

    metrics: MetricState
    mistakes: Lowest


@dataclass(frozen=True)
class Panel:
    """Text: metrics with intervals, what to look at next, how the run was made, how to read the tabs; model inputs."""

    columns: frozenset[str] = metric_state.COLUMNS | {"id", "confidence"}
    without_scores: bool = True
    renders_last: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = np.zeros(0, np.int64)
        rows = dict.fromkeys(("id", "key", "label", "predicted"), none)
        return State(MetricState.zero(run), Lowest(CONFIDENT_MISTAKES, none, np.zeros(0), rows))

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        rows = batch.labelled
        wrong = np.flatnonzero(~rows.right)
        score, group = -rows.confidence[wrong].astype(np.float64), np.zeros(len(wrong), np.int64)
        chosen = Lowest.choose(CONFIDENT_MISTAKES, group, score, rows.key[wrong], rows.id[wrong])
        columns = {name: getattr(rows, name)[wrong[chosen]] for name in ("id", "key", "label", "predicted")}
        mistakes = Lowest(CONFIDENT_MISTAKES, group[chosen], score[chosen], columns)
        return State(MetricState.measure(run, batch), mistakes)

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield the model's inputs, at the steps for which stage one drew them, and the pages, at the last step."""
        last = max(states)
        metrics = {step: state.metrics for step, state in states.items()}
        yield from report_pages(info, last, summary_page(info, metrics, states[last].mistakes.rows))
