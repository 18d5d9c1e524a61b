"""Writes what the panels of classes show of each: curves, metrics and a file. It knows no image and no state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.csv_lines import CsvColumn
from predboard.formatting import percent, plural, unique_names
from predboard.metrics.metric_spec import MetricSpec
from predboard.metrics.metric_state import ClassMetric
from predboard.metrics.values import class_metrics
from predboard.summaries import File, LineChart, Metric, Metrics, Scalar, Summary, Text

ALL_STEPS_MAX_CLASSES = 100
"""With more classes, `summary.json` has the metrics of classes at the last step only."""

TABLE_CLASSES = 200
"""Rows of the table; TensorBoard slows down above that."""

DIGITS = 9
"""Significant digits in `classes.csv`."""

S = TypeVar("S")


@dataclass(frozen=True)
class ClassesAtStep:
    """Counts and metrics of all classes at a step, [classes] each."""

    support: NDArray[np.int64]
    predictions: NDArray[np.int64]
    hits: NDArray[np.int64]
    columns: Mapping[str, ClassMetric]
    """Metrics by short name."""
    more: Mapping[str, CsvColumn] = field(default_factory=dict)
    """Further columns of the file, by heading."""


def show_classes(
    specs: Sequence[MetricSpec],
    classes: Sequence[str],
    chosen: Sequence[int],
    steps: Mapping[int, ClassesAtStep],
    table: str,
    word: str,
) -> Iterator[tuple[int, Summary]]:
    """Yield curves over the steps, a chart for each metric, and the table and file of the last step.

    Args:
        specs: rows of the metrics of classes.
        classes: names of all classes.
        chosen: classes with curves.
        steps: what is known at each step, ascending; one at least.
        table: page of the last step.
        word: what the classes are called: classes or labels.
    """
    yield from _class_curves(specs, unique_names(classes), chosen, steps)
    last = max(steps)
    yield last, Text("report/classes", table, f"All {word}, the worst first.")
    yield last, File("classes.csv", _classes_csv(specs, classes, steps), f"All {word} at every step.")


def class_figures(
    specs: Sequence[MetricSpec], classes: Sequence[str], steps: Mapping[int, S], at_step: Callable[[S], ClassesAtStep]
) -> Iterator[tuple[int, Metrics]]:
    """Yield all metrics of all classes, which `at_step` gets from a state; of many classes at the last step only."""
    for step, state in steps.items():
        if step == max(steps) or len(classes) <= ALL_STEPS_MAX_CLASSES:
            yield step, Metrics("classes", _class_summary(specs, unique_names(classes), at_step(state)))


def left_out(shown: int, classes: int, one: str, many: str) -> list[str]:
    """Return sentences on the classes that the table does not have, of which `shown` occur."""
    notes = []
    if shown > TABLE_CLASSES:
        rest = f"The table has the worst {TABLE_CLASSES} of {shown:,} {many}"
        notes.append(f"{rest}; `classes.csv` beside the event file has all of them.")
    if absent := classes - shown:
        occur = "occurs" if absent == 1 else "occur"
        notes.append(f"{absent:,} of {plural(classes, one, many)} {occur} in no image and no prediction.")
    return notes


def _class_curves(
    specs: Sequence[MetricSpec], names: Sequence[str], chosen: Sequence[int], steps: Mapping[int, ClassesAtStep]
) -> Iterator[tuple[int, Summary]]:
    curves = [spec for spec in specs if spec.curve]
    drawn = set()
    for step, classes in steps.items():
        for c, metrics in zip(chosen, class_metrics(chosen, classes.columns, specs), strict=True):
            for spec in curves:
                if spec.short in metrics:
                    drawn.add(spec.short)
                    description = f"{names[c]}: {spec.definition}"
                    yield step, Scalar(f"classes/{spec.short}/{names[c]}", metrics[spec.short].value, description)
    for spec in curves:
        if spec.short in drawn:
            yield max(steps), LineChart(f"classes/{spec.short}", (f"classes/{spec.short}/",), spec.definition)


def _class_summary(specs: Sequence[MetricSpec], names: Sequence[str], classes: ClassesAtStep) -> dict[str, Metric]:
    """Return the support and all metrics of all classes, by the names in `summary.json`."""
    (support,) = (spec for spec in specs if spec.short == "support")
    every = class_metrics(range(len(names)), classes.columns, specs)
    metrics = {}
    for name, images, of_class in zip(names, classes.support.tolist(), every, strict=True):
        metrics[f"classes/{name}/support"] = Metric(images, definition=support.definition)
        metrics |= {f"classes/{name}/{metric}": value for metric, value in of_class.items()}
    return metrics


def with_interval(metric: Metric | None) -> tuple[str, str]:
    """Return the cells of a share and of its interval, in percent."""
    if metric is None or metric.interval is None:
        return "–", "–"
    lower, upper = metric.interval
    return percent(metric.value), f"{100 * lower:.1f} to {100 * upper:.1f}"


def _classes_csv(specs: Sequence[MetricSpec], names: Sequence[str], steps: Mapping[int, ClassesAtStep]) -> bytes:
    """Return `classes.csv`: a line for each step and class; undefined metrics are empty."""
    ends = ("", "_lower", "_upper")
    measured = [spec.short for spec in specs if spec.compute is not None]
    more = next(iter(steps.values())).more
    header = [
        *("step", "class", "name", "support", "predicted", "hits"),
        *(n + e for n in measured for e in ends),
        *more,
    ]
    written = [f"{','.join(header)}\n".encode()]
    every, none = np.arange(len(names)), np.full(len(names), np.nan)
    for step, s in steps.items():
        columns: list[CsvColumn] = [np.full(len(names), step), every, names, s.support, s.predictions, s.hits]
        for name in measured:
            metric = s.columns.get(name)
            columns += [none] * 3 if metric is None else [metric.value, metric.lower, metric.upper]
        written.append(csv_lines.format_csv_lines([*columns, *s.more.values()], DIGITS))
    return b"".join(written)
