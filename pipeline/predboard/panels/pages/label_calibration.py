"""The page on how far to trust the probabilities of labels and of sets. It knows no image, only what was measured."""

from collections.abc import Mapping, Sequence

import numpy as np

from predboard.drawing.plots import ReliabilityBin
from predboard.formatting import escape_markdown, markdown_table, percent, plural
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.metrics.multi_label.label_temperature import LabelCalibrationEvidence
from predboard.metrics.reliability import BINS
from predboard.panels.pages.calibration import confidence_and_accuracy, confidence_kind, reliability_bins
from predboard.summaries import Metric

TABLE_LABELS = 200
"""Rows of the table of labels."""


def label_reliability_bins(c: LabelCalibration) -> list[ReliabilityBin]:
    """Return the bins of the reliability diagram of all decisions that contain some."""
    bins = []
    for i, (rows, hits, total) in enumerate(zip(*(column.tolist() for column in c.pooled), strict=True)):
        if rows:
            ends = wilson_interval(hits, rows)
            bins.append(ReliabilityBin(i / BINS, (i + 1) / BINS, total / rows, hits / rows, *ends, rows))
    return bins


def label_calibration_page(
    evidence: LabelCalibrationEvidence, metrics: Mapping[str, Metric], names: Sequence[str]
) -> str:
    """Write the page; `metrics` are those of calibration by name."""
    parts = ["# How far to trust a probability", _labels(evidence), _temperature(evidence)]
    if evidence.calibration.sets.rows:
        parts += [_sets(evidence), _bins(reliability_bins(evidence.calibration.sets), "images", "right")]
    parts += ["### Of all decisions", _bins(label_reliability_bins(evidence.calibration), "decisions", "apply")]
    parts += ["### Each label", _each(evidence.calibration, names), _metrics(metrics)]
    return "\n\n".join(part for part in parts if part)


def _labels(evidence: LabelCalibrationEvidence) -> str:
    c = evidence.calibration
    rows, hits, total = (float(column.sum()) for column in c.pooled)
    return (
        f"Over {rows:,.0f} decisions the probabilities add up to {total:,.1f} labels, and {hits:,.0f} apply. "
        f"Probability and share of labels that apply differ by {percent(c.ece_pooled)} on average over all decisions, "
        f"and by {percent(evidence.values['ece_classwise'][0])} label by label (class-wise ECE). Most decisions are "
        "easy, so both look small where labels are rare: see the bins of higher probabilities below."
    )


def _temperature(evidence: LabelCalibrationEvidence) -> str:
    fit = evidence.tempered
    if fit is None:
        return "No temperature was fitted: its best value is out of range, or too many logits are beyond ±16."
    (before, after), (ece, ece_after) = fit.bce, fit.ece
    cure = "" if fit.helps else " So no temperature is a cure here."
    return (
        f"**Dividing all logits by {fit.temperature:.3f}** changes the cross-entropy from {before:.4f} to {after:.4f} "
        f"nats and the pooled calibration error from {percent(ece)} to {percent(ece_after)}. It changes no prediction "
        f"at 1/2.{cure} A temperature above 1 makes a model less confident. It was fitted on one half of the images, "
        "and the numbers are those of the other."
    )


def _sets(evidence: LabelCalibrationEvidence) -> str:
    sets = evidence.calibration.sets
    mean, exact, (lower, upper) = confidence_and_accuracy(sets)
    return (
        "### Of whole sets\n\n"
        f"The probability of a predicted set is the product of its labels' probabilities. It is {percent(mean)} on "
        f"average, and {percent(exact)} of {plural(sets.rows, 'set')} are exactly right (95 % interval "
        f"{percent(lower)} to {percent(upper)}): the model is **{confidence_kind(sets)}**. They differ by "
        f"{percent(sets.ece)} on average (ECE); with this many images, chance alone would cause about "
        f"{percent(sets.by_chance)}."
    )


def _bins(bins: Sequence[ReliabilityBin], what: str, right: str) -> str:
    rows = [
        (
            f"{b.left:.2f} to {b.right:.2f}",
            f"{b.rows:,}",
            percent(b.confidence),
            percent(b.accuracy),
            f"{percent(b.lower)} to {percent(b.upper)}",
            f"{100 * (b.confidence - b.accuracy):+.1f}",
        )
        for b in bins
    ]
    titles = ("probability", what, "mean probability", right, "95 % interval", "too high by, points")
    return markdown_table(titles, "lrrrlr", rows)


def _each(c: LabelCalibration, names: Sequence[str]) -> str:
    n, hits, total = c.rows.sum(axis=1), c.hits.sum(axis=1), c.sums.sum(axis=1)
    order = np.lexsort((np.arange(len(names)), -np.nan_to_num(c.ece)))[:TABLE_LABELS]
    rows = [
        (
            escape_markdown(names[k]),
            percent(hits[k] / n[k]),
            percent(total[k] / n[k]),
            f"{100 * (total[k] - hits[k]) / n[k]:+.2f}",
            f"{c.ece[k]:.4f}",
        )
        for k in order.tolist()
        if n[k]
    ]
    rest = len(names) - len(order)
    more = f"\n\nThe {TABLE_LABELS} labels with the greatest error; {rest:,} more are not listed." if rest else ""
    titles = ("label", "images that have it", "mean probability", "too high by, points", "ECE")
    return markdown_table(titles, "lrrrr", rows) + more


def _metrics(metrics: Mapping[str, Metric]) -> str:
    rows = [(f"`{name}`", f"{metric.value:.6g}", metric.definition) for name, metric in metrics.items()]
    note = "Intervals of decisions take them as independent, which the labels of one image are not."
    return f"### All metrics\n\n{markdown_table(('metric', 'value', 'definition'), 'lrl', rows)}\n\n{note}"
