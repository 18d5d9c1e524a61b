"""Confidence intervals and tests, in closed form. It knows nothing of images, metrics or files.

Every interval is a 95 % interval. `metrics.bootstrap` has the intervals that are drawn at random.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.sampling import JACKKNIFE_GROUPS

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]
"""Lower and upper ends of intervals, arrays of one shape."""

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

T95 = 2.093024054408263
"""Quantile .975 of Student's t with JACKKNIFE_GROUPS - 1 degrees of freedom."""

_T975 = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139),
    *(2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024),
)
"""Quantiles .975 of Student's t with 1 to 19 degrees of freedom."""

# How intervals are made, in the words of `summary.json` and `compare.json`.
WILSON = "Wilson score"
JACCARD = "Wilson score of the Jaccard index J, of which F1 is 2 J / (1 + J)"
MEAN = "mean ± 1.96 standard errors"
JACKKNIFE = "jackknife over 20 groups of images, t with 19 degrees of freedom; the bound is added in squares"
JACKKNIFE_OF_GROUPS = "jackknife over the up to 20 groups that have images, t with a degree of freedom less"
DELETE_ONE = "delete-one jackknife, ± 1.96 standard errors"
WIDENED = "; the bound is added in squares"
OF_CLASS = f"{WIDENED}, and none is shown where it is too large"
DELETE_ONE_WIDENED = f"{DELETE_ONE}{WIDENED}"
DELETE_ONE_OF_CLASS = f"{DELETE_ONE}{OF_CLASS}"
NEWCOMBE = "square-and-add of Wilson's intervals, with the correlation of the two (Newcombe 1998, method 10)"
ZOU = "square-and-add of Wilson's intervals, with the correlation of the two (Zou & Donner 2008)"
INDEPENDENT = "square-and-add of both intervals, as if the images were different ones (Newcombe 1998, method 10)"
BOOTSTRAP = "bias-corrected bootstrap of the confusion cells, {:,} draws"
PAIRED_BOOTSTRAP = "bias-corrected bootstrap of the cells (label, old, new), {:,} draws"
PAIRED_MEAN = "mean of the rows' differences ± 1.96 standard errors"


def grouped_method(column: str, widened: str = "") -> str:
    """Return how intervals are made that leave out rows with one value of a column together, and how widened."""
    return (
        f"jackknife over up to 20 groups of images, all images of one {column} in the same; t with one degree of "
        f"freedom less than groups{widened}"
    )


def independent_method(method: str, column: str) -> str:
    """Return a method with the words that it takes images as independent, where a column says that they are not."""
    return f"{method}; takes images as independent, also those of one {column}" if column and method else method


def wilson_interval(hits: float, rows: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927); (0, 1) if there are no rows.

    >>> [round(end, 4) for end in wilson_interval(9, 10)]
    [0.5958, 0.9821]
    """
    lower, upper = wilson_intervals(np.array(hits), np.array(rows))
    return float(lower), float(upper)


def wilson_intervals(hits: NDArray[Any], rows: NDArray[np.int64]) -> Ends:
    """Return the ends of `wilson_interval` for arrays of one shape."""
    n, zz = np.maximum(rows, 1).astype(np.float64), Z95**2
    p = hits / n
    centre, half = p + zz / (2 * n), Z95 * np.sqrt(p * (1 - p) / n + zz / (4 * n**2))
    lower = np.where(rows == 0, 0.0, np.clip((centre - half) / (1 + zz / n), 0.0, p))
    return lower, np.where(rows == 0, 1.0, np.clip((centre + half) / (1 + zz / n), p, 1.0))


def jaccard_to_f1(ends: Sequence[Floats]) -> Ends:
    """Turn an interval of the Jaccard index J into one of F1 = 2 J / (1 + J), which rises with J."""
    lower, upper = ends
    return 2 * lower / (1 + lower), 2 * upper / (1 + upper)


def mean_interval(mean: float, variance: float, rows: int) -> tuple[float, float] | None:
    """Return mean ± 1.96 standard errors; None for fewer than two rows.

    Args:
        mean: mean of the rows' values.
        variance: mean of their squares less the square of their mean (a divisor of n, not n - 1).
        rows: how many values there are.
    """
    if rows < 2:
        return None
    half = Z95 * math.sqrt(variance / (rows - 1))
    return mean - half, mean + half


def jackknife(grouped: tuple[NDArray[np.integer], ...], metric: Callable[..., Floats]) -> Floats:
    """Return the half width of the 95 % interval of a metric, from its values without each group of rows.

    Delete-a-group jackknife (Kott 2001): variance (G - 1) / G · sum (value without g - their mean)², Student's t with
    G - 1 degrees of freedom.

    Args:
        grouped: arrays of counts, [JACKKNIFE_GROUPS, ...] each.
        metric: takes such counts without the first axis; returns [...] values.

    Returns:
        [...] half widths; nan where the metric is undefined without some group.
    """
    totals = [counts.sum(axis=0, dtype=np.int64) for counts in grouped]
    groups = range(JACKKNIFE_GROUPS)
    without = np.array([metric(*(t - c[g] for t, c in zip(totals, grouped, strict=True))) for g in groups])
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(T95 * np.sqrt((JACKKNIFE_GROUPS - 1) / JACKKNIFE_GROUPS * spread))


def grouped_half_width(without: NDArray[Any], present: NDArray[np.bool_] | None = None) -> Floats:
    """Return the half width of the 95 % interval of a metric, as `jackknife` does, from groups that may be few.

    Args:
        without: [groups, ...] values without each group that has rows.
        present: [groups, ...] whether each group has rows of what the value is of, such as a class; where few have, the
            quantile is that of fewer degrees of freedom. Without it all have.

    Returns:
        [...] half widths with Student's t of groups - 1 degrees of freedom; nan for fewer than two groups, or where the
        metric is undefined without some group.

    >>> round(float(grouped_half_width(np.array([0.4, 0.6]))), 4)  # 12.706 · √(1/2 · 0.02)
    1.2706
    """
    if len(without) < 2:
        return np.full(without.shape[1:], np.nan)
    groups = np.full(without.shape[1:], len(without)) if present is None else present.sum(axis=0)
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    quantile = np.array([np.nan, np.nan, *_T975])[groups]
    return np.asarray(quantile * np.sqrt((groups - 1) / np.maximum(groups, 1) * spread))


def grouped_jackknife(
    grouped: tuple[NDArray[np.integer], ...],
    metric: Callable[..., Floats],
    of_value: NDArray[np.bool_] | None = None,
) -> Floats:
    """Return what `jackknife` does, from groups that may be few: those without rows do not count.

    `of_value` [JACKKNIFE_GROUPS, ...] says which groups have rows of what each value is of, see `grouped_half_width`.
    """
    totals = [counts.sum(axis=0, dtype=np.int64) for counts in grouped]
    present = [g for g in range(len(grouped[0])) if any(counts[g].any() for counts in grouped)]
    without = np.array([metric(*(t - c[g] for t, c in zip(totals, grouped, strict=True))) for g in present])
    return grouped_half_width(without, None if of_value is None else of_value[present])


def sign_test(lost: int, won: int) -> float:
    """Return the probability of at least `won` of lost + won pairs if both outcomes were equally likely.

    This is the exact one-sided binomial test, which McNemar's test of discordant pairs (1947) approximates.

    >>> round(sign_test(1, 3), 12), sign_test(0, 0), sign_test(3, 0)
    (0.3125, 1.0, 1.0)
    """
    if won <= lost:  # sums from the small end, so that nothing is lost
        return 1 - sign_test(won - 1, lost + 1) if won else 1.0
    n = lost + won
    log = math.lgamma(n + 1) - math.lgamma(won + 1) - math.lgamma(lost + 1) - n * math.log(2)  # of exactly `won`
    k = np.arange(lost, 0, -1)
    return math.exp(log) * float(1 + np.cumprod(k / (n - k + 1)).sum())  # each term over the one before


def mcnemar_p(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's exact two-sided test that gains and losses are equally likely.

    >>> round(mcnemar_p(3, 1), 12), mcnemar_p(0, 0), mcnemar_p(4, 4)
    (0.625, 1.0, 1.0)
    """
    return min(2 * sign_test(*sorted((gained, lost))), 1.0)


def newcombe_interval(both: NDArray[Any], new: NDArray[Any], old: NDArray[Any], rows: NDArray[Any]) -> Ends:
    """Return the 95 % interval of the difference of two proportions of the same rows (Newcombe 1998, method 10).

    Wilson's intervals of both, squared and added with the correlation phi of the pairs, which is corrected for
    continuity towards 0.

    Args:
        both, new, old, rows: [...] how many are right both times, now, and before, and how many there are.

    Returns:
        [...] lower and upper ends of new - old; (-1, 1) where there are no rows.

    >>> [round(float(end), 4) for end in newcombe_interval(*map(np.array, (20, 32, 22, 50)))]
    [0.0562, 0.3292]
    """
    a, n = both.astype(np.float64), np.maximum(rows, 1).astype(np.float64)
    b, c = new - a, old - a
    d = rows - a - b - c
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    product = a * d - b * c
    product = np.where(product > 0, np.maximum(product - n / 2, 0), product)
    phi = np.where(margins > 0, product / np.sqrt(np.maximum(margins, 1)), 0)
    lower, upper = square_and_add(new / n, old / n, wilson_intervals(new, rows), wilson_intervals(old, rows), phi)
    return np.where(rows > 0, lower, -1.0), np.where(rows > 0, upper, 1.0)


def square_and_add(new: Floats, old: Floats, new_ends: Ends, old_ends: Ends, correlation: Floats) -> Ends:
    """Return the interval of new - old from the intervals of both and their correlation (Zou & Donner 2008)."""
    (low_new, high_new), (low_old, high_old) = new_ends, old_ends

    def half(a: Floats, b: Floats) -> Floats:
        return np.sqrt(np.maximum(a**2 - 2 * correlation * a * b + b**2, 0))

    gain = new - old
    return gain - half(new - low_new, high_old - old), gain + half(high_new - new, old - low_old)


def independent_interval(
    new: float, old: float, new_ends: tuple[float, float], old_ends: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval of new - old as if the two were of different images (Newcombe 1998, method 10, phi = 0).

    It is wider than it need be where they are of the same images.
    """
    lower = new - old - math.hypot(new - new_ends[0], old_ends[1] - old)
    return lower, new - old + math.hypot(new_ends[1] - new, old - old_ends[0])


def overlap_correlation(
    products: Floats, new: Floats, old: Floats, rows_new: NDArray[np.int64], rows_old: NDArray[np.int64]
) -> Floats:
    """Return the correlation of two proportions whose rows overlap.

    Args:
        products: [...] sums of (hit - p) of the one times that of the other, over the rows of both.
        new, old: [...] the proportions.
        rows_new, rows_old: [...] rows of each.
    """
    spread = np.sqrt(new * (1 - new) * rows_new * old * (1 - old) * rows_old)
    return np.asarray(np.where(spread > 0, np.clip(products / np.maximum(spread, 1e-12), -1, 1), 0))


def welch_p(difference: float, standard_error: float) -> float:
    """Return the one-sided p-value of Welch's test that a mean is not above another, by the normal distribution."""
    if not standard_error:
        return 0.0 if difference > 0 else 1.0
    return 0.5 * math.erfc(difference / standard_error / math.sqrt(2))


def grouped_p(difference: float, without: Floats) -> float:
    """Return the one-sided p-value that a difference is not above 0, from its values without each group of rows.

    The standard error is that of `grouped_half_width`, the distribution Student's t with groups - 1 degrees of freedom;
    1 if there is no telling.

    Args:
        difference: of all rows.
        without: [groups] values.
    """
    half = float(grouped_half_width(without))
    if not half > 0:  # nor if it is nan
        return 1.0
    freedom = len(without) - 1
    return student_p(difference / half * _T975[freedom - 1], freedom)


def student_p(t: float, freedom: int) -> float:
    """Return the probability that Student's t with whole degrees of freedom is above `t`.

    The finite series of Abramowitz & Stegun 26.7.3 and 26.7.4.

    >>> round(student_p(2.0930240544, 19), 9), student_p(0.0, 4)
    (0.025, 0.5)
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cos2, odd = math.cos(angle) ** 2, freedom % 2
    terms, term = 0.0, math.cos(angle) if odd else 1.0
    for k in range(1 + odd, freedom, 2):
        terms += term
        term *= cos2 * k / (k + 1)
    inside = math.sin(angle) * terms
    if odd:
        inside = 2 / math.pi * (angle + inside)
    return 0.5 - inside / 2


def benjamini_hochberg(p: Sequence[float], rate: float) -> set[int]:
    """Return the places of the hypotheses rejected at a false discovery rate (Benjamini & Hochberg 1995).

    >>> sorted(benjamini_hochberg([0.01, 0.9, 0.02, 0.04], 0.05))
    [0, 2]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    passed = [k for k, i in enumerate(order, 1) if p[i] <= rate * k / len(p)]
    return set(order[: max(passed, default=0)])
