"""How well each class is told from the others. Knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, percent, unique_names
from predboard.metrics import classification, counts, registry
from predboard.metrics.classification import AnyState, CountState, MetricState
from predboard.metrics.registry import Direction
from predboard.metrics.values import class_columns, class_metrics
from predboard.panels import RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import File, LineChart, Metric, Metrics, Scalar, Summary, Text

ROWS = 200
"""Rows of the table: TensorBoard slows down above."""

DIGITS = 9
"""Significant digits in `classes.csv`."""

EACH_STEP = 100
"""With more classes `summary.json` has the figures of classes at the last step alone."""


@dataclass(frozen=True)
class Panel:
    """Precision, recall, F1 and average precision of classes: curves (at most 20 classes), a table, classes.csv."""

    count: int = 20
    """Classes with curves: those with most errors at the last step."""
    evidence: type[CountState] | type[MetricState] = MetricState
    columns: frozenset[str] = classification.COLUMNS

    def zero(self, run: Run) -> AnyState:
        """No rows."""
        return self.evidence.zero(run)

    def measure(self, run: Run, batch: Predictions) -> AnyState:
        """These rows alone."""
        return self.evidence.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Summary]]:
        """Curves over the steps, one chart for each figure; of the last step with labelled rows a table and a file."""
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        if not counted:
            return
        last = max(counted)
        chosen = counted[last].metrics.most_errors(self.count).tolist()
        curves = [spec for spec in registry.rows("classes") if spec.curve]
        drawn = set()
        for step, state in counted.items():
            for c, found in zip(chosen, class_metrics(chosen, class_columns(state)), strict=True):
                for spec in curves:
                    if spec.short in found:
                        drawn.add(spec.short)
                        words = f"{names[c]}: {spec.definition}"
                        yield step, Scalar(f"classes/{spec.short}/{names[c]}", found[spec.short].value, words)
        for spec in curves:
            if spec.short in drawn:
                yield last, LineChart(f"classes/{spec.short}", (f"classes/{spec.short}/",), spec.definition)
        yield last, Text("report/classes", _table(counted[last], info.run.classes), "All classes, worst first.")
        yield last, File("classes.csv", _csv(counted, info.run.classes), "All classes at every step.")
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Which of two values is better; a number of images has no better and worse."""
        return registry.directions("classes")

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Without logits where nothing is wanted that needs them."""
        return self if registry.need_logits(wanted) else replace(self, evidence=CountState, columns=counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Metrics]]:
        """All figures of all classes, of many classes at the last step alone."""
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.metrics.counted}
        for step, state in counted.items():
            if step == max(counted) or len(names) <= EACH_STEP:
                yield step, Metrics("classes", dict(_figures(state, names)))


def _figures(state: AnyState, names: tuple[str, ...]) -> Iterator[tuple[str, Metric]]:
    definition = registry.require("classes/*/support").definition
    support, every = state.metrics.support.tolist(), class_metrics(range(len(names)), class_columns(state))
    for name, images, found in zip(names, support, every, strict=True):
        yield f"classes/{name}/support", Metric(images, definition=definition)
        for figure, value in found.items():
            yield f"classes/{name}/{figure}", value


def _table(state: AnyState, names: tuple[str, ...]) -> str:
    s = state.metrics
    shown = s.worst_first[(s.support + s.predictions > 0)[s.worst_first]]
    lines = [
        "| class | images | recall | 95 % | precision | 95 % | F1 | AP | most often taken for |",
        "|---|---:|---:|---|---:|---|---:|---:|---|",
    ]
    other, times = s.mistaken_for
    worst = shown[:ROWS].tolist()
    for c, found in zip(worst, class_metrics(worst, class_columns(state)), strict=True):
        taken = f"{escape_markdown(names[other[c]])} ({times[c]:,})" if times[c] else "–"
        cells = [escape_markdown(names[c]), f"{s.support[c]:,}"]
        for figure in ("recall", "precision"):
            cells += _with_interval(found.get(figure))
        cells += [f"{found[figure].value:.3f}" if figure in found else "–" for figure in ("f1", "average_precision")]
        lines.append(f"| {' | '.join([*cells, taken])} |")
    notes = ["Worst first, by the upper end of the recall's interval, so that few images do not make a class worst."]
    if len(shown) > ROWS:
        notes.append(f"The worst {ROWS} of {len(shown):,} classes; all are in `classes.csv` beside the event file.")
    if absent := s.classes - len(shown):
        notes.append(f"{absent:,} of {s.classes:,} classes have no images and were never predicted.")
    return "\n".join([*lines, "", " ".join(notes)])


def _with_interval(figure: Metric | None) -> tuple[str, str]:
    if figure is None or figure.interval is None:
        return "–", "–"
    lower, upper = figure.interval
    return percent(figure.value), f"{100 * lower:.1f} to {100 * upper:.1f}"


def _csv(states: Mapping[int, AnyState], names: tuple[str, ...]) -> bytes:
    """A line for each step and class; what is not defined is empty."""
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
        for figure in measured:
            found = class_columns(state).get(figure)
            columns += [none] * 3 if found is None else [found.value, found.lower, found.upper]
        other, times = s.mistaken_for
        taken = [str(n) if n else "" for n in times.tolist()]
        written.append(csv_lines.format_csv_lines([*columns, TextCodes(names, other), taken], DIGITS))
    return b"".join(written)
