"""Computes every metric of a state from the table in `metrics.registry`. It knows no metric by name, and no drawing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan

from predboard.metrics.bootstrap import bias_corrected_interval, bootstrap_margins
from predboard.metrics.calibration import CalibrationEvidence
from predboard.metrics.class_groups import ALL_LEVELS, ClassGroups
from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.group_counts import GroupCounts, height_evidence, level_evidence, mistake_height
from predboard.metrics.grouped import grouped_interval
from predboard.metrics.intervals import grouped_method, independent_method
from predboard.metrics.metric_spec import MetricSpec
from predboard.metrics.metric_state import AnyState, ClassMetric, CountState, MetricState
from predboard.metrics.multi_label.label_counts import LabelCounts
from predboard.metrics.multi_label.label_state import LabelCountState
from predboard.metrics.registry import rows
from predboard.metrics.slices import Slice
from predboard.predictions.schema import SINGLE_LABEL
from predboard.summaries import BandChart, Metric, Scalar, Summary


def count_images(counted: Counts | LabelCounts, manifest_rows: int, task: str = SINGLE_LABEL) -> dict[str, Metric]:
    """Return how many images there are of each kind, by name. `counted` are counts of the task."""
    return {
        spec.name: Metric(spec.compute(counted, manifest_rows), definition=spec.definition)
        for spec in rows("images", task=task)
        if spec.compute is not None
    }


def overall_metrics(state: AnyState) -> dict[str, Metric]:
    """Return the metrics of all classes together by name, each computed once for a state.

    Those that are undefined are left out, and without logits (`CountState`) those that need them.
    """
    if "overall" not in state.memo:
        state.memo["overall"] = _overall(state) if state.metrics.counted else {}
    metrics: dict[str, Metric] = state.memo["overall"]
    return metrics


def _overall(state: AnyState) -> dict[str, Metric]:
    if isinstance(state, MetricState):
        light = overall_metrics(state.count_state)
        needing = [s for s in rows("overall") if s.needs_logits and (state.has_scores or not s.needs_scores)]
        column = state.metrics.group_column
        heavy = {s.name: _described(s, s.compute(state), column) for s in needing if s.compute}
        every: Mapping[str, Metric | None] = light | heavy
    else:
        every = _without_logits(state)
    return {spec.name: metric for spec in rows("overall") if (metric := every.get(spec.name)) is not None}


def _without_logits(state: CountState) -> dict[str, Metric | None]:
    m = state.metrics
    specs = [spec for spec in rows("overall") if not spec.needs_logits]
    metrics: dict[str, Metric | None] = {}
    for spec in specs:
        if spec.margins is None:
            absent = spec.compute is None or (spec.needs_scores and not state.counts.losses)
            described = spec.compute and _described(spec, spec.compute(state), m.group_column)
            metrics[spec.name] = None if absent or described is None else described
    return metrics | {spec.name: metric for spec, metric in _of_margins(m, specs)}


def _of_margins(m: CountMetrics, specs: Sequence[MetricSpec]) -> Iterator[tuple[MetricSpec, Metric]]:
    """Yield the metrics that follow from the margins of a confusion matrix, unless they are undefined."""
    functions = {spec.name: spec.margins for spec in specs if spec.margins is not None}
    draws = bootstrap_margins(m, functions) if functions and not m.group_column else {}
    for spec in specs:
        if spec.margins is None or isnan(value := float(spec.margins(m.margins))):
            continue
        if m.group_column:
            ends = grouped_interval(value, spec.margins(m.margins_without), *spec.range)
            yield spec, Metric(value, ends, spec.definition, grouped_method(m.group_column), rows=m.counted)
        else:
            drawn = draws[spec.name]
            method = spec.interval.format(len(drawn))
            yield spec, Metric(value, bias_corrected_interval(value, drawn), spec.definition, method, rows=m.counted)


def positive_metrics(state: AnyState, positive: int) -> dict[str, Metric]:
    """Return the metrics of the class `positive` of two by name; undefined ones are left out."""
    logits = isinstance(state, MetricState) and state.has_scores
    known = [spec for spec in rows("positive") if spec.compute and logits >= spec.needs_logits]
    column = state.metrics.group_column
    every = {spec.name: _described(spec, spec.compute(state, positive), column) for spec in known if spec.compute}
    return {name: metric for name, metric in every.items() if metric is not None}


def calibration_metrics(evidence: CalibrationEvidence) -> dict[str, Metric]:
    """Return the calibration metrics by name; those that are undefined are left out."""
    known = [s for s in rows("calibration") if evidence.calibration.has_scores or not s.needs_scores]
    column = evidence.group_column
    every = {spec.name: _described(spec, spec.compute(evidence), column) for spec in known if spec.compute}
    return {name: metric for name, metric in every.items() if metric is not None}


def class_columns(state: AnyState) -> dict[str, ClassMetric]:
    """Return the metrics of single classes by their short name, each computed once for a state."""
    return columns_of_table(state, rows("classes"), isinstance(state, MetricState) and state.has_scores)


def columns_of_table(
    state: AnyState | LabelCountState, table: Sequence[MetricSpec], logits: bool
) -> dict[str, ClassMetric]:
    """Return what `class_columns` does, of the classes or labels that a table is of; `logits` if they are known."""
    if "classes" not in state.memo:
        specs = [spec for spec in table if logits >= spec.needs_logits]
        every = {spec.short: spec.compute(state) for spec in specs if spec.compute}
        if column := state.metrics.group_column:
            methods = {spec.short: independent_method(spec.interval, column) for spec in specs}
            every = {name: replace(c, method=c.method or methods[name]) for name, c in every.items()}
        state.memo["classes"] = every
    columns: dict[str, ClassMetric] = state.memo["classes"]
    return columns


def class_metrics(
    chosen: Sequence[int], columns: Mapping[str, ClassMetric], specs: Sequence[MetricSpec] = ()
) -> list[dict[str, Metric]]:
    """Return the metrics of each chosen class by short name, from `class_columns`; undefined ones are left out.

    `specs` are the rows of these metrics, by default those of one label.
    """
    by_class: list[dict[str, Metric]] = [{} for _ in chosen]
    by_name = {spec.short: spec for spec in specs or rows("classes")}
    for name, c in columns.items():
        spec, numbers = by_name[name], (c.value, c.lower, c.upper, c.bound, c.rows)
        each = (number[chosen].tolist() for number in numbers)
        for of_class, value, lower, upper, bound, images in zip(by_class, *each, strict=True):
            if not isnan(value):
                ends = None if isnan(lower) else (lower, upper)
                near = None if isnan(bound) else bound
                of_class[name] = Metric(value, ends, spec.definition, c.method or spec.interval, near, images)
    return by_class


def slice_metrics(s: Slice, column: str, task: str) -> dict[str, Metric]:
    """Return the metrics of a slice by short name; `column` says which rows belong together, if any do."""
    metrics: dict[str, Metric] = {}
    for spec in rows("slices", task=task):
        if spec.compute and (metric := spec.compute(s)) is not None:
            method = grouped_method(column) if column and spec.interval else spec.interval
            metrics[spec.short] = replace(metric, definition=spec.definition, method=method)
    return metrics


def metric_curves(
    specs: Sequence[MetricSpec], values: Mapping[int, Mapping[str, Metric]]
) -> Iterator[tuple[int, Summary]]:
    """Yield a point of each metric's curve at each step, and the bands of the intervals.

    Args:
        specs: rows of the table.
        values: metrics by name, by step; those that are missing are left out.
    """
    banded: dict[MetricSpec, int] = {}
    for step, metrics in values.items():
        for spec in specs:
            metric = metrics.get(spec.name)
            if metric is None or not spec.curve:
                continue
            yield step, Scalar(spec.tag, metric.value, metric.definition)
            if spec.band and metric.interval is not None:
                banded[spec] = step
                for end, value in zip(("lower", "upper"), metric.interval, strict=True):
                    description = f"{end.capitalize()} end of the 95 % interval of {spec.tag}: {metric.method}."
                    yield step, Scalar(f"intervals/{spec.name}/{end}", value, description)
    for spec, step in banded.items():
        chart = f"intervals/{spec.name}"
        words = f"{spec.tag} with its 95 % interval."
        yield step, BandChart(chart, spec.tag, f"{chart}/lower", f"{chart}/upper", words)


def group_metrics(state: GroupCounts, groups: ClassGroups) -> dict[str, Metric]:
    """Return the metrics of each level of groups by name; undefined ones are left out."""
    metrics: dict[str, Metric] = {}
    column = state.counts.metrics.group_column
    for evidence in level_evidence(state, groups):
        prefix = f"groups/{evidence.level.name}"
        for spec in rows("groups"):
            if spec.compute is None or spec.compute is mistake_height:
                continue
            if metric := _described(spec, spec.compute(evidence), column):
                metrics[f"{prefix}/{spec.short}"] = metric
        for counts, summed in ((evidence.predicted, False), (evidence.summed, True)):
            if counts is not None and counts.counted:
                specs = [spec for spec in rows("groups") if spec.margins and spec.needs_logits == summed]
                independent = "" if counts.group_column else column
                for spec, metric in _of_margins(counts, specs):
                    method = independent_method(metric.method, independent)
                    metrics[f"{prefix}/{spec.short}"] = replace(metric, method=method)
    height = mistake_height(height_evidence(state, groups)) if groups.nested else None
    for spec in rows("groups"):
        if spec.compute is mistake_height and (metric := _described(spec, height, column)):
            metrics[f"groups/{ALL_LEVELS}/{spec.short}"] = metric
    return metrics


def _described(spec: MetricSpec, metric: Metric | None, column: str) -> Metric | None:
    """Return the metric with its words; `column` says which rows belong together, if any do."""
    method = metric and (metric.method or independent_method(spec.interval, column))
    return metric and replace(metric, definition=spec.definition, method=method or "")
