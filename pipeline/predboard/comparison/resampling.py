"""Resamples the counts of two steps together, and recodes them. It knows no metric by name, no files and no drawing."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from predboard.comparison.paired_counts import CALIBRATION_BINS
from predboard.metrics.bootstrap import ClassSums, poisson_resamples
from predboard.metrics.counts import CountMetrics, MarginMetric, Margins
from predboard.metrics.grouped import GroupedSums
from predboard.metrics.reliability import PROBABILITY_UNIT


def recode_cells(place: NDArray[np.int64], groups: int, classes: int, cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return cells (label, old, new) of classes as cells of groups of classes.

    Args:
        place: [classes] group of each class.
        groups, classes: how many there are.
        cell: [cells] (label * classes + old) * classes + new.
    """
    label, old, new = place[cell // classes**2], place[cell // classes % classes], place[cell % classes]
    return np.asarray((label * groups + old) * groups + new)


def bootstrap_differences(
    cells: tuple[NDArray[np.int64], ...],
    before: CountMetrics,
    now: CountMetrics,
    seed: bytes,
    functions: Mapping[str, MarginMetric],
) -> dict[str, NDArray[np.float64]]:
    """Return bootstrap draws of differences of metrics that follow from margins of the confusion matrix.

    Each cell (label, old, new) of n rows is replaced by Poisson(n), again and again.

    Args:
        cells: label, old prediction, new prediction and count, [cells] each.
        before, now: counts of both steps.
        seed: bytes of the cells.
        functions: the metrics by name.

    Returns:
        [draws] for each metric, nan where it is undefined.
    """
    *joint, count = cells
    present = before.support + before.predictions + now.predictions > 0
    place, classes = np.cumsum(present) - 1, int(present.sum())
    label, old, new = (place[column] for column in joint)
    by_label = ClassSums(label, classes)
    sides = [(ClassSums(np.where(p == label, label, -1), classes), ClassSums(p, classes)) for p in (old, new)]
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in functions}
    most = int(max(n.max() for n in (before.support, before.predictions, now.predictions)))
    for n in poisson_resamples(count, seed, classes, most):
        support = by_label(n).T
        was, is_ = (Margins(hits(n).T, support, predictions(n).T) for hits, predictions in sides)
        for name, function in functions.items():
            draws[name].append(function(is_) - function(was))
    return {name: np.concatenate(values) for name, values in draws.items()}


def calibration_draws(counts: NDArray[np.int64], compared: int) -> tuple[tuple[float, float], NDArray[np.float64]]:
    """Return the calibration errors before and now, and bootstrap draws of their difference, [draws].

    Args:
        counts: `PairedCounts.calibration`.
        compared: how many rows there are.
    """
    rows, *confidence = counts.astype(np.float64)
    filled = np.flatnonzero(rows)
    bins = filled // 4 // CALIBRATION_BINS, filled // 4 % CALIBRATION_BINS
    right = filled // 2 % 2, filled % 2
    gaps = [r * rows[filled] - c[filled] * PROBABILITY_UNIT for r, c in zip(right, confidence, strict=True)]
    whole = [np.bincount(b, gap, CALIBRATION_BINS) for b, gap in zip(bins, gaps, strict=True)]
    ece = [float(np.abs(gap).sum() / rows.sum()) for gap in whole]
    weighed = [
        (ClassSums(b, CALIBRATION_BINS), (gap / rows[filled])[:, None]) for b, gap in zip(bins, gaps, strict=True)
    ]
    draws = []
    for n in poisson_resamples(counts[0, filled], counts[1:].tobytes(), CALIBRATION_BINS, compared):
        drawn = [np.abs(of_bins(n * weight)).sum(axis=0) for of_bins, weight in weighed]
        draws.append((drawn[1] - drawn[0]) / np.maximum(n.sum(axis=0), 1))
    return (ece[0], ece[1]), np.concatenate(draws)


def grouped_ece(grouped: GroupedSums) -> NDArray[np.float64]:
    """Return the calibration errors before and now without each group of rows that belong together, [groups, 2]."""
    gaps = np.abs(grouped.without * PROBABILITY_UNIT).sum(axis=-1)
    return np.asarray(gaps / np.maximum(grouped.rows_without, 1)[:, None])
