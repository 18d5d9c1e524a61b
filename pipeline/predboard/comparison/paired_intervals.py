"""Computes paired intervals of the differences of single classes, from counts. It knows no files and no groups."""

import math

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.counts import CountMetrics
from predboard.metrics.intervals import (
    Ends,
    jaccard_to_f1,
    overlap_correlation,
    square_and_add,
    wilson_intervals,
)


def precision_ends(old: CountMetrics, new: CountMetrics, both: NDArray[np.int64], wrongly: NDArray[np.int64]) -> Ends:
    """Return intervals of the differences of precision (Zou & Donner 2008).

    Args:
        old, new: counts of both steps over the same images.
        both: [classes] images of each class that both predict as it.
        wrongly: [classes] images not of the class that both predict as it.
    """
    p = old.precision, new.precision
    products = both * (1 - p[0]) * (1 - p[1]) + wrongly * p[0] * p[1]
    return square_and_add(
        p[1], p[0],
        wilson_intervals(new.hits, new.predictions), wilson_intervals(old.hits, old.predictions),
        overlap_correlation(products, p[1], p[0], new.predictions, old.predictions),
    )  # fmt: skip  # by pairs


def f1_ends(old: CountMetrics, new: CountMetrics, both: NDArray[np.int64], wrongly: NDArray[np.int64]) -> Ends:
    """Return intervals of the differences of F1, by way of the Jaccard index; arguments as for `precision_ends`."""
    support = old.support
    neither = support - old.hits - new.hits + both
    union = [support + s.predictions - s.hits for s in (old, new)]
    j = [s.hits / np.maximum(u, 1) for s, u in zip((old, new), union, strict=True)]
    products = (
        both * (1 - j[0]) * (1 - j[1])
        - (new.hits - both) * j[0] * (1 - j[1])
        - (old.hits - both) * (1 - j[0]) * j[1]
        + (neither + wrongly) * j[0] * j[1]
    )
    return square_and_add(
        new.f1, old.f1,
        jaccard_to_f1(wilson_intervals(new.hits, union[1])), jaccard_to_f1(wilson_intervals(old.hits, union[0])),
        overlap_correlation(products, j[1], j[0], union[1], union[0]),
    )  # fmt: skip


def known_ends(lower: float, upper: float) -> tuple[float, float] | None:
    """Return the ends of an interval; None if they are nan."""
    return None if math.isnan(lower) else (lower, upper)
