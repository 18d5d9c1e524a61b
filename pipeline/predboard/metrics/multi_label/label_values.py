"""Computes every metric of several labels from the table in `label_registry`. It knows no metric by name."""

from collections.abc import Iterable
from dataclasses import replace

from predboard.metrics.intervals import grouped_method, independent_method
from predboard.metrics.metric_spec import Group, MetricSpec
from predboard.metrics.metric_state import ClassMetric
from predboard.metrics.multi_label.label_registry import JACKKNIFE
from predboard.metrics.multi_label.label_state import LabelCountState, LabelState
from predboard.metrics.multi_label.label_temperature import LabelCalibrationEvidence
from predboard.metrics.multi_label.label_thresholds import LabelThresholds
from predboard.metrics.registry import rows
from predboard.predictions.schema import MULTI_LABEL
from predboard.summaries import Metric


def label_specs(*groups: Group) -> tuple[MetricSpec, ...]:
    """Return the rows of some groups of the table of several labels, in its order."""
    return rows(*groups, task=MULTI_LABEL)


def all_label_metrics(state: LabelCountState) -> dict[str, Metric]:
    """Return the metrics of all labels together by name, each computed once for a state.

    Those that are undefined are left out, and without logits (`LabelCountState`) those that need them.
    """
    if "overall" not in state.memo:
        state.memo["overall"] = _computed(state, label_specs("overall", "nothing")) if state.metrics.counted else {}
    metrics: dict[str, Metric] = state.memo["overall"]
    return metrics


def _computed(state: LabelCountState, specs: Iterable[MetricSpec]) -> dict[str, Metric]:
    known = [spec for spec in specs if spec.compute and (isinstance(state, LabelState) or not spec.needs_logits)]
    every = {spec.name: (spec, spec.compute(state)) for spec in known if spec.compute}
    column = state.metrics.group_column
    return {name: _described(spec, metric, column) for name, (spec, metric) in every.items() if metric is not None}


def label_calibration_metrics(evidence: LabelCalibrationEvidence, column: str = "") -> dict[str, Metric]:
    """Return the calibration metrics by name; `column` says which images belong together, if any do."""
    every = {spec.name: (spec, spec.compute(evidence)) for spec in label_specs("calibration") if spec.compute}
    return {name: _described(spec, metric, column) for name, (spec, metric) in every.items() if metric is not None}


def threshold_metrics(thresholds: LabelThresholds, column: str = "") -> dict[str, Metric]:
    """Return the metrics at each kind of threshold by name; `column` says which images belong together."""
    every = {spec.name: (spec, spec.compute(thresholds)) for spec in label_specs("thresholds") if spec.compute}
    return {name: _described(spec, metric, column) for name, (spec, metric) in every.items()}


def _described(spec: MetricSpec, metric: Metric, column: str) -> Metric:
    """Return the metric with its words; `column` says which images belong together, if any do."""
    method = ""
    if metric.interval is not None:
        by_group = grouped_method(column) + spec.interval.removeprefix(JACKKNIFE) if column else spec.interval
        of_groups = spec.interval.startswith(JACKKNIFE)
        method = metric.method or (by_group if of_groups else independent_method(spec.interval, column))
    return replace(metric, definition=spec.definition, method=method)


def label_columns(state: LabelCountState) -> dict[str, ClassMetric]:
    """Return the metrics of single labels by their short name, each computed once for a state."""
    if "classes" not in state.memo:
        logits = isinstance(state, LabelState)
        specs = [spec for spec in label_specs("classes") if spec.compute and logits >= spec.needs_logits]
        every = {spec.short: spec.compute(state) for spec in specs if spec.compute}
        if column := state.metrics.group_column:
            methods = {spec.short: independent_method(spec.interval, column) for spec in specs}
            every = {name: replace(c, method=c.method or methods[name]) for name, c in every.items()}
        state.memo["classes"] = every
    columns: dict[str, ClassMetric] = state.memo["classes"]
    return columns
