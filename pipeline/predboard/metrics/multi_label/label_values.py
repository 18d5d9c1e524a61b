"""Computes every metric of several labels from the table in `label_registry`. It knows no metric by name."""

from collections.abc import Iterable
from dataclasses import replace

from predboard.metrics.intervals import grouped_method, independent_method
from predboard.metrics.metric_spec import MetricSpec
from predboard.metrics.metric_state import ClassMetric
from predboard.metrics.multi_label.label_registry import JACKKNIFE
from predboard.metrics.multi_label.label_state import LabelCountState, LabelState
from predboard.metrics.multi_label.label_temperature import LabelCalibrationEvidence
from predboard.metrics.multi_label.label_thresholds import LabelThresholds
from predboard.metrics.registry import rows
from predboard.metrics.values import columns_of_table
from predboard.predictions.schema import MULTI_LABEL
from predboard.summaries import Metric


def all_label_metrics(state: LabelCountState) -> dict[str, Metric]:
    """Return the metrics of all labels together by name, each computed once for a state.

    Those that are undefined are left out, and without logits (`LabelCountState`) those that need them.
    """
    if "overall" not in state.memo:
        logits = isinstance(state, LabelState)
        specs = [spec for spec in rows("overall", "nothing", task=MULTI_LABEL) if logits >= spec.needs_logits]
        m = state.metrics
        state.memo["overall"] = _computed(specs, state, m.group_column) if m.counted else {}
    metrics: dict[str, Metric] = state.memo["overall"]
    return metrics


def label_calibration_metrics(evidence: LabelCalibrationEvidence, column: str) -> dict[str, Metric]:
    """Return the calibration metrics by name; `column` says which images belong together, if any do."""
    return _computed(rows("calibration", task=MULTI_LABEL), evidence, column)


def threshold_metrics(thresholds: LabelThresholds, column: str) -> dict[str, Metric]:
    """Return the metrics at each kind of threshold by name; `column` says which images belong together."""
    return _computed(rows("thresholds", task=MULTI_LABEL), thresholds, column)


def _computed(
    specs: Iterable[MetricSpec], evidence: LabelCountState | LabelCalibrationEvidence | LabelThresholds, column: str
) -> dict[str, Metric]:
    every = ((spec, spec.compute(evidence)) for spec in specs if spec.compute)
    return {spec.name: _described(spec, metric, column) for spec, metric in every if metric is not None}


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
    return columns_of_table(state, rows("classes", task=MULTI_LABEL), isinstance(state, LabelState))
