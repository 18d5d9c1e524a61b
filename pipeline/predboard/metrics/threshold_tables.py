"""Which probability to accept: histograms of scores -> tables in Markdown. Knows no panel and no files."""

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import escape_markdown, percent
from predboard.metrics import score_histograms
from predboard.metrics.counts import CountMetrics
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.score_histograms import ScoreHistograms, positives_by_threshold

CountArray = NDArray[np.int64]


def confidence_table(confidence: CountArray) -> str:
    """Confidence below which to send an image to a person. `confidence`: [wrong and right, bins]."""
    right, wrong = positives_by_threshold(confidence[1], confidence.sum(axis=0))
    rows, edge = right + wrong, score_histograms.bin_edges(score_histograms.FINE_BINS)[-2::-1]
    total = int(rows[-1])

    def line(first: str, i: int) -> str:
        n, hits = int(rows[i]), int(right[i])
        lower, upper = wilson_interval(hits, n)
        return (
            f"| {first} | {_digits(edge[i])} | {percent(n / total)} ({n:,}) | {percent(hits / n)} "
            f"| {percent(lower)} to {percent(upper)} | {n - hits:,} |"
        )

    shares = (1.0, 0.95, 0.9, 0.8, 0.5)
    keep = [line(f"{100 * s:.0f} %", int(np.searchsorted(rows, np.ceil(s * total - 1e-9)))) for s in shares]
    reach = []
    for target in (0.9, 0.95, 0.99, 0.999):
        enough = np.flatnonzero((rows > 0) & (right >= target * rows - 1e-9))
        first = f"{100 * target:g} %"
        # The fewest bins of the most rows: below them there may be empty ones.
        reach.append(
            line(first, int(np.searchsorted(rows, rows[enough[-1]])))
            if len(enough)
            else f"| {first} | – | not reached | – | – | – |"
        )
    head = "confidence at least | kept | accuracy | 95 % interval | errors left |\n|---:|---:|---:|---:|---|---:|"
    return "\n".join(
        [
            "### Which images to decide by themselves, by confidence",
            "",
            f"| to keep | {head}",
            *keep,
            "",
            f"| for accuracy | {head}",
            *reach,
            "",
            f"Of {total:,} labelled images. Confidence is the probability of the predicted class. An accuracy that was "
            "aimed at was found on these same images: expect a little less on others. Intervals are Wilson's.",
        ]
    )


def micro_table(state: ScoreHistograms) -> str:
    """Where the points of the micro curve are."""
    tp, fp = positives_by_threshold(state.given.sum(axis=0), state.any_class.sum(axis=0))
    edge = score_histograms.bin_edges(score_histograms.FINE_BINS)[-2::-1]
    lines = []
    for recall in (0.99, 0.95, 0.9, 0.8, 0.5):
        i = int(np.searchsorted(tp, np.ceil(recall * tp[-1] - 1e-9)))
        lines.append(
            f"| {percent(tp[i] / tp[-1])} | {_digits(edge[i])} | {percent(tp[i] / (tp[i] + fp[i]))} "
            f"| {tp[i]:,} | {fp[i]:,} |"
        )
    return "\n".join(
        [
            "### Precision and recall, every class of every image a decision (micro)",
            "",
            "| recall | probability at least | precision | right | wrong |",
            "|---:|---:|---:|---:|---:|",
            *lines,
            "",
            "TensorBoard labels the points of PR curves with thresholds from 0 to 1 in equal steps whatever they were. "
            "These points are at equal steps of recall, and the true thresholds are here.",
        ]
    )


def class_threshold_table(
    state: ScoreHistograms, scores: CountMetrics, names: tuple[str, ...], chosen: NDArray[np.int64]
) -> str:
    """Threshold of greatest F1 for each chosen class against all others; empty if none is chosen."""
    every = state.every
    edge = score_histograms.bin_edges(every.shape[1])[-2::-1]
    lines = []
    for c in sorted(chosen.tolist(), key=lambda c: (scores.f1[c], c)):
        tp, fp = positives_by_threshold(state.true[c], every[c])
        f1 = 2 * tp / (tp + fp + tp[-1])
        i = int(f1.argmax())
        precision = score_histograms.average_precision(state.true[c], every[c])
        lines.append(
            f"| {escape_markdown(names[c])} | {scores.support[c]:,} | {float(precision.value):.4f} | "
            f"{scores.f1[c]:.4f} "
            f"| {f1[i]:.4f} | {_digits(edge[i])} | {percent(tp[i] / (tp[i] + fp[i]))} | {percent(tp[i] / tp[-1])} |"
        )
    if not lines:
        return ""
    return "\n".join(
        [
            "### Each class against all others",
            "",
            "| class | images | average precision | F1 | best F1 | at probability | precision | recall |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            "F1 is of the predictions as they are. The best one accepts a class at its own probability, found on these "
            f"same images. Average precision is within {_bound(state, chosen)} of the exact one.",
        ]
    )


def _bound(state: ScoreHistograms, chosen: NDArray[np.int64]) -> str:
    bound = score_histograms.average_precision(state.true[chosen], state.every[chosen]).bound
    return f"{np.nanmax(bound):.1g}"


def _digits(p: float) -> str:
    """A probability with three digits of what it is above 0 or lacks to 1.

    >>> _digits(0.25), _digits(0.9999876), _digits(1.234e-7), _digits(0.0)
    ('0.2500', '0.9999876', '1.234e-07', '0')
    """
    if 0.5 < p < 1:
        return f"{p:.{max(4, 3 - int(np.floor(np.log10(1 - p))) - 1)}f}"
    return f"{p:.4f}" if 0.1 <= p <= 0.5 else f"{p:.4g}"
