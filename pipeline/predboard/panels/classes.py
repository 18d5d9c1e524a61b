"""Shows how well each class is told apart from the others. It knows no single image."""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.csv_lines import CsvColumn, TextCodes
from predboard.formatting import escape_markdown, markdown_table
from predboard.metrics import counts, metric_state, registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.metric_state import AnyState, CountState, MetricState
from predboard.metrics.values import class_columns, class_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.classes import (
    TABLE_CLASSES,
    ClassesAtStep,
    class_figures,
    left_out,
    show_classes,
    with_interval,
)
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import Metrics, Summary


@dataclass(frozen=True)
class Panel:
    """Scalars, text: precision, recall, F1 and average precision of each class; curves of the 20 with most errors."""

    count: int = 20
    """Classes with curves: those with the most errors at the last step."""
    state: type[CountState] | type[MetricState] = MetricState
    columns: frozenset[str] = metric_state.COLUMNS
    without_scores: bool = True

    def zero(self, run: Run) -> AnyState:
        """Return the state of no rows."""
        return self.state.zero(run)

    def measure(self, run: Run, batch: Predictions) -> AnyState:
        """Return the state of these rows alone."""
        return self.state.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Summary]]:
        """Yield curves over the steps, a chart for each metric, and the table and file of the last step with labels."""
        classes = info.run.classes
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        if not counted:
            return
        last = counted[max(counted)]
        chosen = last.metrics.most_errors(self.count).tolist()
        steps = {step: _at_step(state, classes) for step, state in counted.items()}
        yield from show_classes(registry.rows("classes"), classes, chosen, steps, _table(last, classes), "classes")
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better; a number of images has no better and worse."""
        return registry.directions("classes")

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Return a panel that reads no logits if none of the wanted metrics needs them."""
        return self if registry.need_logits(wanted) else replace(self, state=CountState, columns=counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Metrics]]:
        """Yield all metrics of all classes; of many classes at the last step only."""
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        at_step = functools.partial(_at_step, names=info.run.classes)
        yield from class_figures(registry.rows("classes"), info.run.classes, counted, at_step)


def _at_step(state: AnyState, names: tuple[str, ...]) -> ClassesAtStep:
    s = state.metrics
    other, times = s.mistaken_for
    more: dict[str, CsvColumn] = {
        "taken_for": TextCodes(names, other),
        "taken_for_images": [str(n) if n else "" for n in times.tolist()],
    }
    return ClassesAtStep(s.support, s.predictions, s.hits, class_columns(state), more)


def _table(state: AnyState, names: tuple[str, ...]) -> str:
    s = state.metrics
    shown = s.worst_first[(s.support + s.predictions > 0)[s.worst_first]]
    other, times = s.mistaken_for
    worst = shown[:TABLE_CLASSES].tolist()
    rows = []
    for c, metrics in zip(worst, class_metrics(worst, class_columns(state)), strict=True):
        row = [escape_markdown(names[c]), f"{s.support[c]:,}"]
        for name in ("recall", "precision"):
            row += with_interval(metrics.get(name))
        row += [f"{metrics[name].value:.3f}" if name in metrics else "–" for name in ("f1", "average_precision")]
        row.append(f"{escape_markdown(names[other[c]])} ({times[c]:,})" if times[c] else "–")
        rows.append(row)
    titles = ("class", "images", "recall", "95 %", "precision", "95 %", "F1", "AP", "most often mistaken for")
    notes = [
        "The worst classes come first, by the upper end of the recall's interval, so that no class is the worst just "
        "because it has few images.",
        *left_out(len(shown), s.classes, "class", "classes"),
    ]
    return f"{markdown_table(titles, 'lrrlrlrrl', rows)}\n\n{' '.join(notes)}"
