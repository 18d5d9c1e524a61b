"""How well each class is told from the others. Knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, percent, unique_names
from predboard.metrics import classification, counts
from predboard.metrics.classification import OF_A_CLASS, CountState, MetricState, class_metrics
from predboard.panels import Direction, RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import File, LineChart, Metric, Metrics, Scalar, Summary, Text

CURVES = ("precision", "recall", "f1", "average_precision")

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

    def zero(self, run: Run) -> CountState | MetricState:
        """No rows."""
        return self.evidence.zero(run)

    def measure(self, run: Run, batch: Predictions) -> CountState | MetricState:
        """These rows alone."""
        return self.evidence.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, CountState | MetricState]) -> Iterator[tuple[int, Summary]]:
        """Curves over the steps, one chart for each figure; of the last step with labelled rows a table and a file."""
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.scores.counted}
        if not counted:
            return
        last = max(counted)
        chosen = counted[last].scores.most_errors(self.count).tolist()
        drawn = set()
        for step, state in counted.items():
            for c, found in zip(chosen, class_metrics(chosen, state.by_class), strict=True):
                for figure in CURVES:
                    if figure in found:
                        drawn.add(figure)
                        said = f"{names[c]}: {OF_A_CLASS[figure]}"
                        yield step, Scalar(f"classes/{figure}/{names[c]}", found[figure].value, said)
        for figure in CURVES:
            if figure in drawn:
                yield last, LineChart(f"classes/{figure}", (f"classes/{figure}/",), OF_A_CLASS[figure])
        yield last, Text("report/classes", _table(counted[last], info.run.classes), "All classes, worst first.")
        yield last, File("classes.csv", _csv(counted, info.run.classes), "All classes at every step.")
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Of all but a number of images more is better."""
        of_a_class: dict[str, Direction] = {f"classes/*/{name}": "more" for name in OF_A_CLASS}
        return {"classes/*/support": "neither", **of_a_class}

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Without logits where nothing is wanted that needs them."""
        light = {name.rpartition("/")[2] for name in wanted} <= {"support", *classification.WITHOUT_LOGITS}
        return replace(self, evidence=CountState, columns=counts.COLUMNS) if light else self

    def metrics(self, info: RunInfo, states: Mapping[int, CountState | MetricState]) -> Iterator[tuple[int, Metrics]]:
        """All figures of all classes, of many classes at the last step alone."""
        names = unique_names(info.run.classes)
        counted = {step: state for step, state in states.items() if state.scores.counted}
        for step, state in counted.items():
            if step == max(counted) or len(names) <= EACH_STEP:
                yield step, Metrics("classes", dict(_figures(state, names)))


def _figures(state: CountState | MetricState, names: tuple[str, ...]) -> Iterator[tuple[str, Metric]]:
    support, every = state.scores.support.tolist(), class_metrics(range(len(names)), state.by_class)
    for name, images, found in zip(names, support, every, strict=True):
        yield f"classes/{name}/support", Metric(images, definition="Images of the class that count.")
        for figure, value in found.items():
            yield f"classes/{name}/{figure}", value


def _table(state: CountState | MetricState, names: tuple[str, ...]) -> str:
    s = state.scores
    shown = s.worst_first[(s.support + s.predictions > 0)[s.worst_first]]
    lines = [
        "| class | images | recall | 95 % | precision | 95 % | F1 | AP | most often taken for |",
        "|---|---:|---:|---|---:|---|---:|---:|---|",
    ]
    other, times = s.mistaken_for
    worst = shown[:ROWS].tolist()
    for c, found in zip(worst, class_metrics(worst, state.by_class), strict=True):
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


def _csv(states: Mapping[int, CountState | MetricState], names: tuple[str, ...]) -> bytes:
    """A line for each step and class; what is not defined is empty."""
    ends = ("", "_lower", "_upper")
    header = [*("step", "class", "name", "support", "predicted", "hits"), *(f + e for f in OF_A_CLASS for e in ends)]
    written = [f"{','.join([*header, 'taken_for', 'taken_for_images'])}\n".encode()]
    every, none = np.arange(len(names)), np.full(len(names), np.nan)
    for step, state in states.items():
        s = state.scores
        columns: list[csv_lines.CsvColumn] = [np.full(len(names), step), every, names, s.support, s.predictions, s.hits]
        for figure in OF_A_CLASS:
            found = state.by_class.get(figure)
            columns += [none] * 3 if found is None else [found.value, found.lower, found.upper]
        other, times = s.mistaken_for
        taken = [str(n) if n else "" for n in times.tolist()]
        written.append(csv_lines.format_csv_lines([*columns, TextCodes(names, other), taken], DIGITS))
    return b"".join(written)
