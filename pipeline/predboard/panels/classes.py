"""Shows how well each class is told apart from the others. It knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, markdown_table, percent, plural, unique_names
from predboard.metrics import counts, metric_state, registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.metric_state import AnyState, CountState, MetricState
from predboard.metrics.values import class_columns, class_metrics
from predboard.panels import RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import File, LineChart, Metric, Metrics, Scalar, Summary, Text

TABLE_CLASSES = 200
"""Rows of the table; TensorBoard slows down above that."""

DIGITS = 9
"""Significant digits in `classes.csv`."""

ALL_STEPS_MAX_CLASSES = 100
"""With more classes, `summary.json` has the metrics of classes at the last step only."""


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
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        if not counted:
            return
        last = max(counted)
        chosen = counted[last].metrics.most_errors(self.count).tolist()
        curves = [spec for spec in registry.rows("classes") if spec.curve]
        drawn = set()
        for step, state in counted.items():
            for c, metrics in zip(chosen, class_metrics(chosen, class_columns(state)), strict=True):
                for spec in curves:
                    if spec.short in metrics:
                        drawn.add(spec.short)
                        description = f"{names[c]}: {spec.definition}"
                        yield step, Scalar(f"classes/{spec.short}/{names[c]}", metrics[spec.short].value, description)
        for spec in curves:
            if spec.short in drawn:
                yield last, LineChart(f"classes/{spec.short}", (f"classes/{spec.short}/",), spec.definition)
        yield last, Text("report/classes", _table(counted[last], info.run.classes), "All classes, the worst first.")
        yield last, File("classes.csv", _csv(counted, info.run.classes), "All classes at every step.")
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
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        for step, state in counted.items():
            if step == max(counted) or len(names) <= ALL_STEPS_MAX_CLASSES:
                yield step, Metrics("classes", dict(_metrics(state, names)))


def _metrics(state: AnyState, names: tuple[str, ...]) -> Iterator[tuple[str, Metric]]:
    definition = registry.require("classes/*/support").definition
    support, every = state.metrics.support.tolist(), class_metrics(range(len(names)), class_columns(state))
    for name, images, metrics in zip(names, support, every, strict=True):
        yield f"classes/{name}/support", Metric(images, definition=definition)
        for metric, value in metrics.items():
            yield f"classes/{name}/{metric}", value


def _table(state: AnyState, names: tuple[str, ...]) -> str:
    s = state.metrics
    shown = s.worst_first[(s.support + s.predictions > 0)[s.worst_first]]
    other, times = s.mistaken_for
    worst = shown[:TABLE_CLASSES].tolist()
    rows = []
    for c, metrics in zip(worst, class_metrics(worst, class_columns(state)), strict=True):
        row = [escape_markdown(names[c]), f"{s.support[c]:,}"]
        for name in ("recall", "precision"):
            row += _with_interval(metrics.get(name))
        row += [f"{metrics[name].value:.3f}" if name in metrics else "–" for name in ("f1", "average_precision")]
        row.append(f"{escape_markdown(names[other[c]])} ({times[c]:,})" if times[c] else "–")
        rows.append(row)
    titles = ("class", "images", "recall", "95 %", "precision", "95 %", "F1", "AP", "most often mistaken for")
    notes = [
        "The worst classes come first, by the upper end of the recall's interval, so that no class is the worst just "
        "because it has few images."
    ]
    if len(shown) > TABLE_CLASSES:
        rest = f"The table has the worst {TABLE_CLASSES} of {len(shown):,} classes"
        notes.append(f"{rest}; `classes.csv` beside the event file has all of them.")
    if absent := s.classes - len(shown):
        occur = "occurs" if absent == 1 else "occur"
        notes.append(f"{absent:,} of {plural(s.classes, 'class', 'classes')} {occur} in no image and no prediction.")
    return f"{markdown_table(titles, 'lrrlrlrrl', rows)}\n\n{' '.join(notes)}"


def _with_interval(metric: Metric | None) -> tuple[str, str]:
    if metric is None or metric.interval is None:
        return "–", "–"
    lower, upper = metric.interval
    return percent(metric.value), f"{100 * lower:.1f} to {100 * upper:.1f}"


def _csv(states: Mapping[int, AnyState], names: tuple[str, ...]) -> bytes:
    """Write `classes.csv`: a line for each step and class; undefined metrics are empty."""
    ends = ("", "_lower", "_upper")
    measured = [spec.short for spec in registry.rows("classes") if spec.compute is not None]
    header = [
        *("step", "class", "name", "support", "predicted", "hits"),
        *(n + e for n in measured for e in ends),
    ]
    written = [f"{','.join([*header, 'taken_for', 'taken_for_images'])}\n".encode()]
    every, none = np.arange(len(names)), np.full(len(names), np.nan)
    for step, state in states.items():
        s = state.metrics
        columns: list[csv_lines.CsvColumn] = [np.full(len(names), step), every, names, s.support, s.predictions, s.hits]
        for name in measured:
            metric = class_columns(state).get(name)
            columns += [none] * 3 if metric is None else [metric.value, metric.lower, metric.upper]
        other, times = s.mistaken_for
        taken = [str(n) if n else "" for n in times.tolist()]
        written.append(csv_lines.format_csv_lines([*columns, TextCodes(names, other), taken], DIGITS))
    return b"".join(written)
