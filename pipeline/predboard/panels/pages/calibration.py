"""The page on how far to trust a probability. It knows no image, only what the calibration panel has measured."""

from collections.abc import Mapping

from predboard.drawing.plots import ReliabilityBin
from predboard.formatting import escape_markdown, markdown_table, percent, plural
from predboard.metrics import registry
from predboard.metrics.calibration import Calibration, CalibrationEvidence, ConformalSets
from predboard.metrics.grouped import group_column, hash_of
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.reliability import BINS, Reliability
from predboard.metrics.temperature import TemperatureFit
from predboard.metrics.threshold_tables import class_threshold_table, confidence_table, micro_table
from predboard.metrics.values import calibration_metrics
from predboard.state import FIXED_UNIT
from predboard.summaries import Metric


def calibration_page(state: MetricState, measured: CalibrationEvidence, names: tuple[str, ...], classes: int) -> str:
    """Write the page.

    Args:
        state: what all metrics of the step follow from; it has labelled images.
        measured: what its calibration metrics follow from.
        names: of the classes.
        classes: how many classes have a table row of thresholds.
    """
    c, histograms = measured.calibration, state.histograms
    if not c.has_scores:
        title = "# How far to trust a probability"
        reason = f"There is no temperature, no prediction set and no Brier score: {registry.NO_SCORES}."
        known = [title, _verdict(c), reason, _bins(c), confidence_table(histograms.confidence)]
        return "\n\n".join([*known, _metrics(calibration_metrics(measured))])
    blocks = [
        "# How far to trust a probability",
        _verdict(c),
        _temperature(c, c.tempered),
        _sets(measured.sets),
        _bins(c),
        confidence_table(histograms.confidence),
        micro_table(histograms),
        class_threshold_table(histograms, state.metrics, names, state.metrics.most_errors(classes)),
        _brier(state, c),
        _metrics(calibration_metrics(measured)),
    ]
    return "\n\n".join(block for block in blocks if block)


def reliability_bins(c: Reliability) -> list[ReliabilityBin]:
    """Return the bins of the reliability diagram that contain images."""
    bins = []
    for i, (rows, right, confidence) in enumerate(zip(*(column.tolist() for column in c.bins), strict=True)):
        if rows:
            left, end = i / BINS, (i + 1) / BINS
            interval = wilson_interval(right, rows)
            bins.append(ReliabilityBin(left, end, confidence / rows, right / rows, *interval, rows))
    return bins


def confidence_and_accuracy(c: Reliability) -> tuple[float, float, tuple[float, float]]:
    """Return the mean confidence, the accuracy, and the 95 % interval of the accuracy."""
    rows, right, confidence = (column.sum() for column in c.bins)
    return float(confidence / rows), float(right / rows), wilson_interval(int(right), int(rows))


def confidence_kind(c: Reliability) -> str:
    """Return whether the mean confidence is above, below or inside the interval of the accuracy, in words."""
    mean, _, (lower, upper) = confidence_and_accuracy(c)
    if mean > upper:
        return "over-confident"
    return "under-confident" if mean < lower else "neither over- nor under-confident"


def _verdict(c: Calibration) -> str:
    mean, accuracy, ends = confidence_and_accuracy(c)
    interval = "" if c.ece_interval is None else f", 95 % interval {_percents(c.ece_interval)}"
    gaps = {b: abs(b.accuracy - b.confidence) * b.rows for b in reliability_bins(c)}
    worst = max(gaps, key=gaps.__getitem__)
    share = percent(gaps[worst] / (sum(gaps.values()) or 1))
    return "\n".join(
        [
            f"**The model is {confidence_kind(c)}**: its mean confidence is {percent(mean)}, and it is right on "
            f"{percent(accuracy)} of {plural(c.rows, 'image')} (95 % interval {_percents(ends)}).",
            "",
            f"- Confidence and accuracy differ by {percent(c.ece)} on average (ECE{interval}). With this many images, "
            f"chance alone would cause about {percent(c.by_chance)} even if every confidence were correct.",
            f"- The largest part, {share} of it, comes from {plural(worst.rows, 'image')} with confidence "
            f"{worst.left:.2f} to {worst.right:.2f}: mean confidence {percent(worst.confidence)}, accuracy "
            f"{percent(worst.accuracy)}.",
        ]
    )


def _temperature(c: Calibration, fit: TemperatureFit | None) -> str:
    if fit is None:
        return (
            "No temperature could be fitted between 1/16 and 16: there are too few images, all predictions are right, "
            "or the logits say nothing about the labels."
        )
    (nll, nll_after), (ece, ece_after) = fit.nll, fit.ece
    gain = nll - nll_after
    effect = (
        "would make the loss worse"
        if gain < 0
        else "would make the calibration error worse"
        if ece_after >= ece
        else "would change the loss by less than 1 %"
        if gain < 0.01 * nll
        else f"would reduce the loss by {percent(gain / nll)}"
    )
    cure = "" if fit.helps else " So no temperature is a cure here."
    used = fit.fitted + fit.tried
    drawn = "" if used == c.rows else f" of {used:,} images drawn from {c.rows:,}"
    return (
        f"**Dividing all logits by {fit.temperature:.3f} {effect}** and change no prediction: NLL {nll:.4f} → "
        f"{nll_after:.4f} nats, ECE {percent(ece)} → {percent(ece_after)}.{cure} A temperature above 1 makes a model "
        f"less confident. It was fitted on {plural(fit.fitted, 'image')} and tested on {fit.tried:,} others{drawn}; "
        f"{escape_markdown(hash_of(group_column(c.gaps_by_group)))} decides which."
    )


def _sets(sets: ConformalSets | None) -> str:
    if sets is None:
        return "Prediction sets need at least nine labelled images in one half of the images, and some in the other."
    ends = wilson_interval(sets.coverage * sets.tried, sets.tried)
    empty = ", some are empty" if sets.size < 1 else ""
    return (
        f"**Prediction sets** (classes with p ≥ {sets.threshold:.4g}) contain the true class for "
        f"{percent(sets.coverage)} of {plural(sets.tried, 'image')} (95 % interval {_percents(ends)}; target 90 %); "
        f"mean size {sets.size:.2f}{empty}. The threshold comes from {sets.fitted:,} other images."
    )


def _bins(c: Calibration) -> str:
    rows = [
        (
            f"{b.left:.2f} to {b.right:.2f}",
            f"{b.rows:,}",
            percent(b.confidence),
            percent(b.accuracy),
            _percents((b.lower, b.upper)),
            f"{100 * (b.confidence - b.accuracy):+.1f}",
        )
        for b in reliability_bins(c)
    ]
    titles = ("confidence", "images", "mean confidence", "accuracy", "95 % interval", "over-confident by, points")
    return markdown_table(titles, "lrrrlr", rows)


def _brier(state: MetricState, c: Calibration) -> str:
    reliability, resolution, uncertainty = c.brier_decomposition
    brier = float(state.brier * FIXED_UNIT / c.rows)
    rest = brier - (reliability - resolution + uncertainty)
    sign = "−" if rest < 0 else "+"
    return (
        f"**Brier score {brier:.4f}** = {uncertainty:.4f} (uncertainty: the score of always predicting the class "
        f"frequencies) − {resolution:.4f} (resolution: gained by telling images apart) + {reliability:.4f} "
        f"(reliability: what calibration would remove) {sign} {abs(rest):.4f} (differences inside the bins). Each "
        "class's probability has 15 bins of equal width, and all terms are summed over the classes."
    )


def _metrics(metrics: Mapping[str, Metric]) -> str:
    rows = [
        (f"`{name}`", f"{metric.value:.6g}", _precision(name, metric), metric.definition)
        for name, metric in metrics.items()
    ]
    return f"### All metrics\n\n{markdown_table(('metric', 'value', 'accurate to', 'definition'), 'lrll', rows)}"


def _precision(name: str, metric: Metric) -> str:
    """Say how far a value may be from the exact one."""
    spec = registry.find(name)
    if metric.bound is None:
        return "" if spec is None else spec.precision
    return (
        f"{metric.bound:.1g}, {'measured; of the sample' if spec and spec.precision.endswith('sample') else 'proved'}"
    )


def _percents(ends: tuple[float, float]) -> str:
    return f"{percent(ends[0])} to {percent(ends[1])}"
