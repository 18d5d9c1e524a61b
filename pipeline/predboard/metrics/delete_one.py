"""Computes delete-one jackknife intervals of what ranks rows, from histograms of scores. It knows no names.

The rows of one bin change a metric alike when one of them is left out, so the values without each row follow from the
bins in closed form: no row is needed again, and no random groups. Rows of one bin are taken as evenly mixed, as
`score_histograms` does. Averages over classes are not there, because a row counts in all of their histograms.
"""

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import Z95, Floats
from predboard.metrics.score_histograms import aurc_terms


def half_width(counts: tuple[Floats, ...], without: tuple[Floats, ...]) -> Floats:
    """Return the half width of the 95 % interval from the values of a metric without each of its rows.

    The variance is (n - 1) / n · sum (value without a row - their mean)² (Efron & Stein 1981).

    Args:
        counts: arrays of [..., bins] rows.
        without: [..., bins] values each, without one row of the bin; what stands where there are no rows is not read.

    Returns:
        [...] half widths; nan where the metric is undefined without some row.
    """
    some = [np.where(c > 0, value, 0) for c, value in zip(counts, without, strict=True)]
    n = np.sum([c.sum(axis=-1) for c in counts], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.sum([(c * v).sum(axis=-1) for c, v in zip(counts, some, strict=True)], axis=0) / n
        spread = [(c * (v - mean[..., None]) ** 2).sum(axis=-1) for c, v in zip(counts, some, strict=True)]
        return np.asarray(Z95 * np.sqrt((n - 1) / n * np.sum(spread, axis=0)))


def auroc_half_width(true: NDArray[np.integer], every: NDArray[np.integer]) -> Floats:
    """Return the half width of `auroc`, [...]; nan with fewer than two rows of the class or of others.

    Args:
        true, every: [..., bins] counts by ascending score: rows of the class, and all rows.
    """
    positive, negative = true.astype(np.float64), (every - true).astype(np.float64)
    p, n = positive.sum(axis=-1, keepdims=True), negative.sum(axis=-1, keepdims=True)
    won = np.cumsum(negative, axis=-1) - negative / 2  # by a row of the class in this bin
    lost = p - np.cumsum(positive, axis=-1) + positive / 2  # by another in this bin
    total = (positive * won).sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return half_width((positive, negative), ((total - won) / ((p - 1) * n), (total - lost) / (p * (n - 1))))


def average_precision_half_width(true: NDArray[np.integer], every: NDArray[np.integer]) -> Floats:
    """Return the half width of `average_precision`, [...]; nan with fewer than two rows of the class."""
    positive = true[..., ::-1].astype(np.float64)
    negative = (every - true)[..., ::-1].astype(np.float64)
    tp, fp = np.cumsum(positive, axis=-1), np.cumsum(negative, axis=-1)
    p, hits, misses = tp[..., -1:], tp - (positive - 1) / 2, fp - negative / 2  # at the middle one of a bin's positives

    def summed(rows: Floats, fewer_hits: float, fewer_misses: float) -> Floats:
        """Sum the precision at the rows of each bin, of which some hits or misses are missing."""
        right, wrong = np.maximum(hits - fewer_hits, 0), np.maximum(misses - fewer_misses, 0)
        return np.asarray(rows * right / np.maximum(right + wrong, 0.5))

    whole = np.cumsum(summed(positive, 0, 0), axis=-1) - summed(positive, 0, 0)  # of the bins above
    one_hit = _below(summed(positive, 1, 0)) + whole + summed(np.maximum(positive - 1, 0), 0.5, 0)
    one_miss = _below(summed(positive, 0, 1)) + whole + summed(positive, 0, 0.5)
    with np.errstate(invalid="ignore", divide="ignore"):
        return half_width((positive, negative), (one_hit / (p - 1), one_miss / p))


def aurc_half_width(confidence: NDArray[np.integer]) -> Floats:
    """Return the half width of `aurc`, [...]; nan with fewer than two rows. `confidence`: as for `aurc`."""
    wrong, right = (confidence[..., i, ::-1].astype(np.float64) for i in (0, 1))
    n = wrong + right
    before, failed = np.cumsum(n, axis=-1) - n, np.cumsum(wrong, axis=-1) - wrong
    above = np.cumsum(aurc_terms(n, wrong, before, failed), axis=-1) - aurc_terms(n, wrong, before, failed)
    rows, one_less = n.sum(axis=-1, keepdims=True), np.maximum(before - 1, 0)
    no_right = above + aurc_terms(n - 1, wrong, before, failed) + _below(aurc_terms(n, wrong, one_less, failed))
    no_wrong = above + aurc_terms(n - 1, wrong - 1, before, failed) + _below(aurc_terms(n, wrong, one_less, failed - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return half_width((right, wrong), (no_right / (rows - 1), no_wrong / (rows - 1)))


def _below(values: Floats) -> Floats:
    """Sum over the bins after each one, where bins are by falling score."""
    return np.asarray(values.sum(axis=-1, keepdims=True) - np.cumsum(values, axis=-1))
