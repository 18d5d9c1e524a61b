"""Writes Markdown tables that say which probability to accept, from histograms of scores. It knows no panel."""

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import escape_markdown, markdown_table, percent
from predboard.metrics import score_histograms
from predboard.metrics.counts import CountMetrics
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.score_histograms import ScoreHistograms, positives_by_threshold

CountArray = NDArray[np.int64]

KEPT_SHARES = (1.0, 0.95, 0.9, 0.8, 0.5)
TARGET_ACCURACIES = (0.9, 0.95, 0.99, 0.999)
RECALLS = (0.99, 0.95, 0.9, 0.8, 0.5)


def confidence_table(confidence: CountArray) -> str:
    """Write which images to decide automatically: the confidence to ask for, and what it costs.

    Args:
        confidence: labelled images by confidence, [wrong and right, bins].
    """
    right, wrong = positives_by_threshold(confidence[1], confidence.sum(axis=0))
    rows, edge = right + wrong, score_histograms.bin_edges(score_histograms.FINE_BINS)[-2::-1]
    total = int(rows[-1])

    def line(first: str, i: int) -> list[str]:
        n, hits = int(rows[i]), int(right[i])
        lower, upper = wilson_interval(hits, n)
        coverage, interval = f"{percent(n / total)} ({n:,})", f"{percent(lower)} to {percent(upper)}"
        return [first, format_threshold(edge[i]), coverage, percent(hits / n), interval, f"{n - hits:,}"]

    by_share = [line(f"{100 * s:.0f} %", int(np.searchsorted(rows, np.ceil(s * total - 1e-9)))) for s in KEPT_SHARES]
    by_accuracy = []
    for target in TARGET_ACCURACIES:
        enough = np.flatnonzero((rows > 0) & (right >= target * rows - 1e-9))
        first = f"{100 * target:g} %"
        # The fewest bins with the most rows: below them there may be empty ones.
        by_accuracy.append(
            line(first, int(np.searchsorted(rows, rows[enough[-1]])))
            if len(enough)
            else [first, "–", "not reached", "–", "–", "–"]
        )
    titles = ("confidence at least", "kept", "accuracy", "95 % interval", "errors left")
    return "\n\n".join(
        [
            "### Which images to decide automatically, by confidence",
            markdown_table(("share to keep", *titles), "rrrrlr", by_share),
            markdown_table(("accuracy to reach", *titles), "rrrrlr", by_accuracy),
            f"Of {total:,} labelled images. Confidence is the probability of the predicted class. The thresholds for "
            "an accuracy were chosen on these same images, so expect slightly less on others. Intervals: Wilson.",
        ]
    )


def micro_table(state: ScoreHistograms) -> str:
    """Write the thresholds, precision and counts at some recalls of the micro curve."""
    tp, fp = positives_by_threshold(state.given.sum(axis=0), state.any_class.sum(axis=0))
    edge = score_histograms.bin_edges(score_histograms.FINE_BINS)[-2::-1]
    rows = []
    for recall in RECALLS:
        i = int(np.searchsorted(tp, np.ceil(recall * tp[-1] - 1e-9)))
        precision = percent(tp[i] / (tp[i] + fp[i]))
        rows.append([percent(tp[i] / tp[-1]), format_threshold(edge[i]), precision, f"{tp[i]:,}", f"{fp[i]:,}"])
    return "\n\n".join(
        [
            "### Precision and recall, each class of each image as one decision (micro)",
            markdown_table(("recall", "probability at least", "precision", "right", "wrong"), "rrrrr", rows),
            "TensorBoard labels the points of PR curves with evenly spaced thresholds from 0 to 1, whatever the true "
            "ones are. Our points are evenly spaced in recall; this table has their true thresholds.",
        ]
    )


def class_threshold_table(
    state: ScoreHistograms, scores: CountMetrics, names: tuple[str, ...], chosen: NDArray[np.int64]
) -> str:
    """Write the threshold with the highest F1 for each of the chosen classes; empty if none is chosen.

    Args:
        state: histograms of the scores of each class.
        scores: metrics of the predictions as they are.
        names: of the classes.
        chosen: classes, [chosen].
    """
    every = state.every
    edge = score_histograms.bin_edges(every.shape[1])[-2::-1]
    rows = []
    for c in sorted(chosen.tolist(), key=lambda c: (scores.f1[c], c)):
        tp, fp = positives_by_threshold(state.true[c], every[c])
        f1 = 2 * tp / (tp + fp + tp[-1])
        i = int(f1.argmax())
        average_precision = score_histograms.average_precision(state.true[c], every[c])
        row = [escape_markdown(names[c]), f"{scores.support[c]:,}", f"{float(average_precision.value):.4f}"]
        row += [f"{scores.f1[c]:.4f}", f"{f1[i]:.4f}", format_threshold(edge[i])]
        rows.append([*row, percent(tp[i] / (tp[i] + fp[i])), percent(tp[i] / tp[-1])])
    if not rows:
        return ""
    titles = ("class", "images", "average precision", "F1", "best F1", "at probability", "precision", "recall")
    return "\n\n".join(
        [
            "### Each class against all others",
            markdown_table(titles, "lrrrrrrr", rows),
            "*F1* is that of the predictions as they are. *Best F1* accepts a class at a probability of its own, "
            f"chosen on these same images. Average precision is within {_bound(state, chosen)} of the exact value.",
        ]
    )


def _bound(state: ScoreHistograms, chosen: NDArray[np.int64]) -> str:
    bound = score_histograms.average_precision(state.true[chosen], state.every[chosen]).bound
    return f"{np.nanmax(bound):.1g}"


def format_threshold(p: float) -> str:
    """Format a probability with three digits of its distance to 0 or to 1.

    >>> format_threshold(0.25), format_threshold(0.9999876), format_threshold(1.234e-7), format_threshold(0.0)
    ('0.2500', '0.9999876', '1.234e-07', '0')
    """
    if 0.5 < p < 1:
        return f"{p:.{max(4, 3 - int(np.floor(np.log10(1 - p))) - 1)}f}"
    return f"{p:.4f}" if 0.1 <= p <= 0.5 else f"{p:.4g}"
