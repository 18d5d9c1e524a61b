"""Measures what the report needs, and writes its pages. It knows no single image; its words are in `pages`.

`report/summary` is for everyone, `report/run` for whoever must repeat the run, and `report/tabs` for those who are new
to TensorBoard. The last is made from what the other panels wrote.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from predboard.metrics.multi_label.label_state import LabelPairPanel, LabelPairState
from predboard.panels import RunInfo
from predboard.panels.pages.label_report import label_summary_page
from predboard.panels.pages.report import report_pages
from predboard.summaries import Summary


@dataclass(frozen=True)
class Panel(LabelPairPanel):
    """Text: metrics with intervals, what to look at next, how the run was made, how to read the tabs; model inputs."""

    renders_last: bool = True

    def render(self, info: RunInfo, states: Mapping[int, LabelPairState]) -> Iterator[tuple[int, Summary]]:
        """Yield the model's inputs, at the steps for which stage one drew them, and the pages, at the last step."""
        last = max(states)
        metrics = {step: state.metrics for step, state in states.items()}
        yield from report_pages(
            info, last, label_summary_page(info, metrics, states[last].pairs), thresholds="report/thresholds"
        )
