"""Computes each metric of several labels from its state: one function each. It knows no drawing and no files.

Metrics of decisions and of sets take margins (`LabelMargins`), of all images or of all but one group of them. Metrics
that rank take the state. Names, definitions and sources are in `multi_label.label_registry`.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.delete_one import aurc_half_width
from predboard.metrics.intervals import WIDENED, Floats, grouped_half_width, grouped_method, wilson_interval
from predboard.metrics.multi_label.label_counts import EMPTY, EXACT, F1, IMAGES, JACCARD, KNOWN, LOSS, LabelMargins
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.metrics.multi_label.label_ranks import BRIER, COVERAGE, LRAP, ONE_ERROR, RANKABLE, RANKING_LOSS
from predboard.metrics.multi_label.label_state import LabelCountState, LabelState
from predboard.metrics.multi_label.label_temperature import LabelCalibrationEvidence
from predboard.metrics.multi_label.label_thresholds import LabelThresholds
from predboard.metrics.score_histograms import Estimate, aurc, auroc, average_precision, mean_of_defined
from predboard.summaries import Metric

# Metrics of decisions and sets, from margins: [...] each, nan where it is undefined.


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / whole)


def precision_micro(m: LabelMargins) -> Floats:
    """Return the share of right ones among all predicted labels; 0 without any."""
    return np.asarray(m.hits.sum(axis=-1) / np.maximum(m.predictions.sum(axis=-1), 1))


def recall_micro(m: LabelMargins) -> Floats:
    """Return the share of predicted ones among all true labels; 0 without any."""
    return np.asarray(m.hits.sum(axis=-1) / np.maximum(m.support.sum(axis=-1), 1))


def hamming(m: LabelMargins) -> Floats:
    """Return the share of wrong decisions."""
    wrong = m.support.sum(axis=-1) + m.predictions.sum(axis=-1) - 2 * m.hits.sum(axis=-1)
    return _ratio(wrong, m.known.sum(axis=-1))


def jaccard(m: LabelMargins) -> Floats:
    """Return the mean over images of the Jaccard index of the two sets; 1 where both are empty."""
    return _ratio(m.sums[..., JACCARD], m.images)


def f1_images(m: LabelMargins) -> Floats:
    """Return the mean over images of F1 of the two sets; 1 where both are empty."""
    return _ratio(m.sums[..., F1], m.images)


def mean_loss(m: LabelMargins) -> Floats:
    """Return the mean binary cross-entropy over decisions, nats."""
    return _ratio(m.sums[..., LOSS], m.known.sum(axis=-1))


def labels_per_image(m: LabelMargins) -> Floats:
    """Return the mean number of labels of an image."""
    return _ratio(m.support.sum(axis=-1), m.images)


def predicted_per_image(m: LabelMargins) -> Floats:
    """Return the mean number of predicted labels of an image."""
    return _ratio(m.predictions.sum(axis=-1), m.images)


def nothing_exact(m: LabelMargins) -> Floats:
    """Return the share of images that have no label: what predicting nothing would get right."""
    return _ratio(m.sums[..., EMPTY], m.images)


def nothing_hamming(m: LabelMargins) -> Floats:
    """Return the share of decisions on labels that the image has: what predicting nothing would get wrong."""
    return _ratio(m.support.sum(axis=-1), m.known.sum(axis=-1))


def exact(state: LabelCountState) -> Metric:
    """Return the share of images whose set of labels is right."""
    hits, n = int(state.counts.sums[:, EXACT].sum()), state.metrics.counted
    if column := state.metrics.group_column:
        m = state.metrics.margins_without
        half = float(grouped_half_width(m.sums[..., EXACT] / np.maximum(m.images, 1)))
        return Metric(hits / n, _ends(hits / n, half), method=grouped_method(column), rows=n)
    return Metric(hits / n, wilson_interval(hits, n), rows=n)


def bce(state: LabelCountState) -> Metric | None:
    """Return the mean binary cross-entropy over decisions, nats; None if a loss is beyond what is summed."""
    return None if state.counts.cut_losses else of_margins(state, mean_loss, math.inf)


def of_margins(state: LabelCountState, function: Callable[[LabelMargins], Floats], highest: float) -> Metric | None:
    """Return a metric of margins with its jackknife interval, cut at 0 and `highest`; None where it is undefined.

    It has no interval where leaving out no group changes it, as where all decisions are right: that would be no width.
    """
    m = state.metrics
    value = float(function(m.margins))
    if math.isnan(value):
        return None
    return Metric(value, _ends(value, float(grouped_half_width(function(m.margins_without))), highest), rows=m.counted)


def _ends(value: float, half: float, highest: float = 1.0) -> tuple[float, float] | None:
    return (max(value - half, 0.0), min(value + half, highest)) if half > 0 else None  # nan is not above 0


def at_thresholds(thresholds: LabelThresholds, way: str, average: str) -> Metric:
    """Return an average over the labels on the half of the images where the thresholds were not found."""
    decided = thresholds.tested[way]
    value = decided.averages[average]
    return Metric(value, _ends(value, thresholds.half_widths[way][average]), rows=thresholds.tested_images)


def calibration_metric(evidence: LabelCalibrationEvidence, name: str) -> Metric | None:
    """Return a calibration metric by its short name; None where it is undefined."""
    value, interval = evidence.values[name]
    return None if math.isnan(value) else Metric(value, interval, rows=evidence.images)


# Metrics that rank the labels of each image.


def lrap(state: LabelState) -> Metric | None:
    """Return the label ranking average precision (Schapire & Singer 2000)."""
    return _of_ranks(state, LRAP)


def ranking_loss(state: LabelState) -> Metric | None:
    """Return the share of pairs of a true label and another that are in the wrong order."""
    return _of_ranks(state, RANKING_LOSS)


def one_error(state: LabelState) -> Metric | None:
    """Return the share of images whose highest label is not true."""
    return _of_ranks(state, ONE_ERROR)


def coverage(state: LabelState) -> Metric | None:
    """Return how far down the ranking all true labels are found, mean over images."""
    return _of_sums(state, state.ranks.values[:, COVERAGE], state.counts.sums[:, IMAGES].astype(np.float64), math.inf)


def brier(state: LabelState) -> Metric | None:
    """Return the mean squared distance of the probability from the truth over decisions (Brier 1950)."""
    known = state.counts.decisions[:, KNOWN].sum(axis=-1).astype(np.float64)
    metric = _of_sums(state, state.ranks.values[:, BRIER], known)
    return metric and Metric(metric.value, metric.interval, rows=state.metrics.counted)


def _of_ranks(state: LabelState, place: int) -> Metric | None:
    values = state.ranks.values
    return _of_sums(state, values[:, place], values[:, RANKABLE])


def _of_sums(state: LabelState, part: Floats, whole: Floats, highest: float = 1.0) -> Metric | None:
    """Return the ratio of two sums with its jackknife interval; `part`, `whole`: [groups]."""
    total = float(whole.sum())
    if not total:
        return None
    present = state.metrics.present
    without = _ratio(part.sum() - part[present], total - whole[present])
    value = float(part.sum() / total)
    return Metric(value, _ends(value, float(grouped_half_width(without)), highest), rows=int(total))


# Metrics that rank the images.


def set_aurc(state: LabelState) -> Metric | None:
    """Return the area under the risk–coverage curve of sets; None without an image of which all labels are known."""
    confidence = state.histograms.confidence
    if not confidence.any():
        return None
    estimate = aurc(confidence)
    half, method = float(aurc_half_width(confidence)), ""
    if column := state.metrics.group_column:
        half, method = state.histograms.by_group.states[column].aurc_half_width, grouped_method(column, WIDENED)
    value, bound = float(estimate.value), float(estimate.bound)
    ends = _ends(value, math.hypot(half, bound))
    return Metric(value, ends, method=method, bound=bound, rows=int(confidence.sum()))


def auroc_macro(state: LabelState) -> Metric | None:
    """Return the mean AUROC over the labels that some images have and some have not."""
    return _mean_of_labels(state, "auroc", state.histograms.auroc)


def average_precision_macro(state: LabelState) -> Metric | None:
    """Return the mean average precision over the labels that some images have and some have not."""
    return _mean_of_labels(state, "average_precision", state.histograms.average_precision_of_both_kinds)


def auroc_micro(state: LabelState) -> Metric | None:
    """Return the AUROC of all decisions together."""
    return _pooled(state, "auroc", state.histograms.auroc_micro)


def average_precision_micro(state: LabelState) -> Metric | None:
    """Return the average precision of all decisions together."""
    return _pooled(state, "average_precision", state.histograms.average_precision_micro)


def _rankings(name: str, true: NDArray[np.int64], every: NDArray[np.int64]) -> Floats:
    """Return AUROC or average precision, [...], nan for labels that no image has or all have."""
    if name == "auroc":
        return auroc(true, every).value
    value = average_precision(true, every, bounded=False).value
    return np.where(true.sum(axis=-1) < every.sum(axis=-1), value, np.nan)


def _mean_of_labels(state: LabelState, name: str, of_labels: Estimate) -> Metric | None:
    without = macro_without(state.histograms, state.metrics.present, name)
    return _estimated(state, mean_of_defined(of_labels.value), mean_of_defined(of_labels.bound), without)


def _pooled(state: LabelState, name: str, estimate: Estimate) -> Metric | None:
    without = micro_without(state.histograms, state.metrics.present, name)
    return _estimated(state, float(estimate.value), float(estimate.bound), without)


def macro_without(histograms: LabelHistograms, present: NDArray[np.bool_], name: str) -> Floats:
    """Return `auroc` or `average_precision`, mean over labels, without each of the groups present, [present]."""
    true, every = histograms.grouped
    t, e = true.sum(axis=0, dtype=np.int64), every.sum(axis=0, dtype=np.int64)
    groups = np.flatnonzero(present).tolist()
    return np.array([mean_of_defined(_rankings(name, t - true[g], e - every[g])) for g in groups])


def micro_without(histograms: LabelHistograms, present: NDArray[np.bool_], name: str) -> Floats:
    """Return `auroc` or `average_precision` of all decisions without each of the groups present, [present]."""
    true, every = (grouped.sum(axis=1, dtype=np.int64) for grouped in histograms.grouped)  # [groups, coarse]
    return _rankings(name, true.sum(axis=0) - true[present], every.sum(axis=0) - every[present])


def _estimated(state: LabelState, value: float, bound: float, without: Floats) -> Metric | None:
    """Return a metric of histograms. The bound is added to its interval in squares, so the exact value is inside."""
    if math.isnan(value):
        return None
    wide = math.hypot(float(grouped_half_width(without)), bound)
    return Metric(value, _ends(value, wide), bound=bound, rows=state.metrics.counted)
