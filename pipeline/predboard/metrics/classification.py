"""Computes each classification metric from its state: one function each. It knows no drawing and no files.

Proportions have Wilson's interval. Metrics that average over classes take the margins of the confusion matrix, and are
resampled from it (`metrics.bootstrap`). Means over rows have the interval of their standard error, from the sum and the
sum of squares. Metrics based on ranking rows have jackknife intervals, which the histogram's bound widens. Names,
definitions and sources are in `metrics.registry`; the functions here return values without them.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import score_histograms
from predboard.metrics.counts import CountMetrics, Margins
from predboard.metrics.delete_one import aurc_half_width, auroc_half_width, average_precision_half_width
from predboard.metrics.grouped import grouped_ends, grouped_interval
from predboard.metrics.intervals import (
    OF_CLASS,
    WIDENED,
    Ends,
    Floats,
    grouped_method,
    jaccard_to_f1,
    mean_interval,
    wilson_interval,
    wilson_intervals,
)
from predboard.metrics.metric_state import AnyState, ClassMetric, MetricState
from predboard.metrics.score_histograms import Estimate, mean_of_defined
from predboard.state import FIXED_UNIT
from predboard.summaries import Metric

MAX_BOUND_SHARE, MAX_BOUND_SHARE_OF_FEW, FEW_IMAGES = 0.3, 0.03, 20
"""A class has no interval if the histogram's bound is a greater share of its half width; with fewer images than
`FEW_IMAGES` the second. So no interval is more than 10 % too wide or too narrow (docs/decisions/metrics.md)."""

# Metrics of all classes together. Each needs at least one labelled row.


def accuracy(state: AnyState) -> Metric:
    """Return the share of rows whose highest logit is the true class."""
    m = state.metrics
    share = _share(float(m.hits.sum()), m.counted)
    return _by_group(share, m.group_column, lambda: m.accuracy_without)


def accuracy_top2(state: MetricState) -> Metric | None:
    """Return the share of rows whose true class is among the 2 highest; None if there are no more classes."""
    return _top_share(state, state.top2, 0) if state.metrics.classes > 2 else None


def accuracy_top5(state: MetricState) -> Metric | None:
    """Return the share of rows whose true class is among the 5 highest; None if there are no more classes."""
    return _top_share(state, state.top5, 1) if state.metrics.classes > 5 else None


def balanced_accuracy(m: Margins) -> Floats:
    """Return the mean recall over classes with images."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(m.recall.sum(axis=-1) / (m.support > 0).sum(axis=-1))


def precision_macro(m: Margins) -> Floats:
    """Return the mean precision over classes with images or predictions."""
    return np.asarray(m.precision.sum(axis=-1) / m.present)


def recall_macro(m: Margins) -> Floats:
    """Return the mean recall over classes with images or predictions."""
    return np.asarray(m.recall.sum(axis=-1) / m.present)


def f1_macro(m: Margins) -> Floats:
    """Return the mean F1 over classes with images or predictions."""
    return np.asarray(m.f1.sum(axis=-1) / m.present)


def f1_micro(m: Margins) -> Floats:
    """Return F1 of all decisions on labels together; 0 without a true and a predicted one."""
    both = m.support.sum(axis=-1) + m.predictions.sum(axis=-1)
    return np.asarray(2 * m.hits.sum(axis=-1) / np.maximum(both, 1))


def f1_weighted(m: Margins) -> Floats:
    """Return the mean F1 over classes, weighted by their images."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((m.support * m.f1).sum(axis=-1) / m.rows)


def mcc(m: Margins) -> Floats:
    """Return the Matthews correlation coefficient of several classes, R_K (Gorodkin 2004).

    It is nan where all labels or all predictions are one class, because nothing can be told from chance then.
    """
    total = m.hits.sum(axis=-1)
    chance = (m.support * m.predictions).sum(axis=-1)
    spread = (m.rows**2 - (m.predictions**2).sum(axis=-1)) * (m.rows**2 - (m.support**2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(spread > 0, (total * m.rows - chance) / np.sqrt(spread), np.nan))


def nll(state: AnyState) -> Metric | None:
    """Return the mean negative log-likelihood of the true class, nats; None if a loss is beyond what is summed."""
    squares = float(state.count_state.loss_squares * FIXED_UNIT + state.count_state.large_loss_squares)
    if state.counts.cut_losses:
        return None
    m = state.metrics
    return _by_group(_mean(m.nll, squares, m.counted), m.group_column, lambda: m.nll_without, math.inf)


def brier(state: MetricState) -> Metric:
    """Return the mean Brier score, summed over classes (Brier 1950)."""
    n, column = state.metrics.counted, state.metrics.group_column
    mean = _mean(float(state.brier * FIXED_UNIT / n), float(state.brier_squares * FIXED_UNIT), n)
    return _by_group(mean, column, lambda: state.means_without[:, 2], 2.0)


def auroc_macro(state: MetricState) -> Metric | None:
    """Return the mean AUROC over the classes that have it."""
    return _mean_of_classes(state, "auroc", state.histograms.auroc)


def average_precision_macro(state: MetricState) -> Metric | None:
    """Return the mean average precision over the classes that have it."""
    return _mean_of_classes(state, "average_precision", state.histograms.average_precision)


def aurc(state: MetricState) -> Metric | None:
    """Return the area under the risk–coverage curve."""
    half, method = float(aurc_half_width(state.histograms.confidence)), ""
    if column := state.metrics.group_column:
        half, method = state.histograms.by_group.states[column].aurc_half_width, grouped_method(column, WIDENED)
    return _estimated(float(state.aurc.value), half, float(state.aurc.bound), state, method)


# Metrics of single classes.


def class_precision(state: AnyState) -> ClassMetric:
    """Return the precision of each class."""
    m = state.metrics
    return _exact(m, m.precision, wilson_intervals(m.hits, m.predictions), "precision")


def class_recall(state: AnyState) -> ClassMetric:
    """Return the recall of each class."""
    m = state.metrics
    return _exact(m, m.recall, wilson_intervals(m.hits, m.support), "recall")


def class_f1(state: AnyState) -> ClassMetric:
    """Return the F1 of each class."""
    m = state.metrics
    union = m.support + m.predictions - m.hits  # rows of the class or predicted as it; F1 = 2 J / (1 + J)
    return _exact(m, m.f1, jaccard_to_f1(wilson_intervals(m.hits, union)), "f1")


def class_average_precision(state: MetricState) -> ClassMetric:
    """Return the average precision of each class against the rest."""
    metric = functools.partial(score_histograms.average_precision, bounded=False)
    return _one_against_rest(state, state.histograms.average_precision, metric, average_precision_half_width)


def class_auroc(state: MetricState) -> ClassMetric:
    """Return the AUROC of each class against the rest."""
    return _one_against_rest(state, state.histograms.auroc, score_histograms.auroc, auroc_half_width)


def _one_against_rest(
    state: MetricState,
    estimate: Estimate,
    metric: Callable[[NDArray[np.int64], NDArray[np.int64]], Estimate],
    half_width: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats],
) -> ClassMetric:
    """Return an estimate of each class with its interval.

    `metric` computes it where whole groups of rows are left out; `half_width` is that of rows that are independent.
    """
    if column := state.metrics.group_column:
        half, method = state.histograms.by_group.states[column].half_widths(metric), grouped_method(column, OF_CLASS)
    else:
        half, method = half_width(state.histograms.true, state.histograms.every), ""
    images = state.metrics.support
    share = np.where(images < FEW_IMAGES, MAX_BOUND_SHARE_OF_FEW, MAX_BOUND_SHARE)
    wide = np.where(estimate.bound <= share * half, np.hypot(half, estimate.bound), np.nan)
    ends = np.clip([estimate.value - wide, estimate.value + wide], 0, 1)
    return ClassMetric(estimate.value, ends[0], ends[1], estimate.bound, images, method)


def _exact(m: CountMetrics, value: NDArray[np.float64], ends: Ends, name: str) -> ClassMetric:
    """Return a metric without a bound, nan for classes where it rests on no rows.

    `ends` are of rows that are independent; `name` is the metric's in `Margins`.
    """
    rows = m.margins.rows_of(name).astype(np.int64)
    method = grouped_method(m.group_column) if m.group_column else ""
    if m.group_column:
        without = m.margins_without
        ends = grouped_ends(value, getattr(without, name), without.rows_of(name) < rows)
    value, lower, upper = (np.where(rows > 0, column, np.nan) for column in (value, *ends))
    return ClassMetric(value, lower, upper, np.full(len(rows), np.nan), rows, method)


def _share(hits: float, n: int) -> Metric:
    return Metric(hits / n, wilson_interval(hits, n), rows=n)


def _top_share(state: MetricState, hits: np.int64, place: int) -> Metric:
    share = _share(float(hits * FIXED_UNIT), state.metrics.counted)
    return _by_group(share, state.metrics.group_column, lambda: state.means_without[:, place])


def _by_group(metric: Metric, column: str, without: Callable[[], Floats], highest: float = 1.0) -> Metric:
    """Return the metric, where rows belong together with the interval that leaves out whole groups of them.

    Args:
        metric: as if rows were independent.
        column: whose equal values make rows belong together; empty if each stands for itself.
        without: returns the values without each group, [groups].
        highest: value there can be.
    """
    if not column:
        return metric
    return replace(
        metric, interval=grouped_interval(metric.value, without(), 0.0, highest), method=grouped_method(column)
    )


def _mean(mean: float, squares: float, n: int) -> Metric:
    """Return the mean of `n` numbers, none below 0, with its interval from the sum of their squares."""
    ends = mean_interval(mean, max(squares / n - mean**2, 0.0), n)
    return Metric(mean, ends and (max(ends[0], 0.0), ends[1]), rows=n)


def _mean_of_classes(state: MetricState, name: str, of_classes: Estimate) -> Metric | None:
    value, bound = mean_of_defined(of_classes.value), mean_of_defined(of_classes.bound)
    column = state.metrics.group_column
    method = grouped_method(column, WIDENED) if column else ""
    return _estimated(value, state.half_widths[name], bound, state, method)


def _estimated(value: float, half: float, bound: float, state: MetricState, method: str = "") -> Metric | None:
    """Return a metric with its interval. The bound is added to it in squares, so the exact value is always inside."""
    if np.isnan(value):
        return None
    wide = math.hypot(half, bound)
    ends = None if np.isnan(wide) else (max(value - wide, 0.0), min(value + wide, 1.0))
    return Metric(value, ends, method=method, bound=bound, rows=state.metrics.counted)
