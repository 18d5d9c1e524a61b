"""Mergeable histograms of how rows rank by the probability of a class, and their metrics. It knows no drawing.

AUROC, average precision, precision–recall and ROC curves, risk–coverage, equal-mass calibration and conformal sets all
ask only in which order rows come. Equal bins of the probability would lose that order, because most probabilities are
close to 0 or 1; equal bins of the log-odds keep it (200 bins: macro AUROC of CIFAR-10 models .98249 where .98251 is
exact, against .959 from bins of the probability). What a histogram cannot tell is bounded by its own counts.

The score is u(p) = ln p + p up to p = 1/2 (and a little more, because many rows are there, give or take the rounding
of a softmax, and must not be told apart) and -u(1 - p) above: it rises with p, is within .2 of the log-odds, and
costs one logarithm less. Bins are equal in u from -32 to 32; the outermost take what lies beyond.

Scores of logits are computed in single precision, and bounds hold for their order. Against the order of exact
probabilities, a row that is within 1/2000 of a bin's width of an edge (8e-6 of the probability) may be in the next bin.
Probabilities that were saved as such are ranked as saved: equal ones are in one bin.

Rows belong to one of 20 groups by the hash of their key, or of the column that says which belong together. Leaving out
one group after the other gives intervals of averages over classes (delete-a-group jackknife); even groups are fold 0,
where things are fitted, odd ones fold 1, where they are reported.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.class_bins import count_bins, count_into, empty_bins
from predboard.metrics.grouped import no_groups
from predboard.metrics.intervals import Floats, grouped_jackknife
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import Run
from predboard.predictions.table import PredictionRows, Predictions
from predboard.state import StatesByName, summed

FINE_BINS = 4096
"""Bins of a histogram that exists once and not for each class."""

_BLOCK = 2**18
"""Numbers that are worked on at once: 1 MB, what a processor's core has beside it."""

MAX_SCORE = 32.0
"""Bins cover scores from -MAX_SCORE to MAX_SCORE."""

_HALF = np.float32(0.5 + 2**-18)
"""Up to here u(p) is ln p + p."""

COLUMNS = frozenset({"key", "label", "predicted", "confidence", "logits"})
"""Columns that `ScoreHistograms.measure` reads."""


def bins_per_class(classes: int) -> int:
    """Bins for each class: 4,096 up to 128 classes, 512 at 1,000; the table stays at 4 MB up to 8,192 classes.

    >>> bins_per_class(10), bins_per_class(1000), bins_per_class(100_000)
    (4096, 512, 64)
    """
    return _power_of_two(2**19 // classes, 64, FINE_BINS)


def coarse_bins_per_class(classes: int) -> int:
    """Bins for each class and group, for intervals of averages alone: 2,048 at 10 classes, 32 at 1,000."""
    return _power_of_two(2**15 // classes, 16, FINE_BINS)


def grouped_bins_per_class(classes: int) -> int:
    """Bins for each class and group of rows that belong together, for intervals of single classes: 128 at 1,000.

    With a quarter of them the half width of a class's average precision was .6 to 1.26 of what it should be there.
    """
    return min(4 * coarse_bins_per_class(classes), bins_per_class(classes))


def _power_of_two(most: int, least: int, limit: int) -> int:
    return min(max(1 << (max(most, 1).bit_length() - 1), least), limit)


def score_of_probability(p: NDArray[np.float32], rest: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """u(p), see above. `rest` is 1 - p where that is known better than the difference would tell.

    -> float32 of the same shape; -inf at 0, inf where the rest is 0.
    """
    rest = 1 - p if rest is None else rest
    low = p <= _HALF
    small = np.where(low, p, rest)
    with np.errstate(divide="ignore"):
        u = np.log(small) + small
    return np.where(low, u, -u)


def probability_of_score(u: NDArray[np.floating]) -> NDArray[np.float64]:
    """Invert u(p) by Newton's method: return the probability of a finite score. -> float64 of the same shape."""
    u = np.asarray(u, np.float64)
    low = -np.abs(u)
    p = np.exp(low - np.exp(low))  # never above the root
    for _ in range(8):  # twice as many digits each time
        p = p - (np.log(p) + p - low) / (1 / p + 1)
    p = np.clip(p, 0.0, 0.5)
    return np.asarray(np.where(u <= 0, p, 1 - p))


def bin_edges(bins: int) -> NDArray[np.float64]:
    """Return the probabilities at the edges of the bins, [bins + 1], ascending from 0 to 1."""
    inner = probability_of_score(np.linspace(-MAX_SCORE, MAX_SCORE, bins + 1)[1:-1])
    return np.concatenate([[0.0], inner, [1.0]])


def bin_index(u: NDArray[np.float32], bins: int = FINE_BINS) -> NDArray[np.int32]:
    """Return the bin of each score, int32 of the same shape; with half as many bins it is this shifted right by one."""
    return _bin_position(u, bins).astype(np.int32)


def _bin_position(
    u: NDArray[np.float32], bins: int = FINE_BINS, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return the bin of each score with a fraction, float32 of the same shape, in the array `out` if it is given."""
    at = np.multiply(u, np.float32(bins / (2 * MAX_SCORE)), out=out)
    at += np.float32(bins / 2)
    return np.clip(at, 0, bins - 1, out=at)


@dataclass(frozen=True)
class GroupedHistograms:
    """Histograms of each group of rows that belong together, for intervals of single classes and of AURC."""

    every: NDArray[np.int32] = summed()  # [GROUPS, classes, grouped_bins_per_class] as in `ScoreHistograms`
    true: NDArray[np.int32] = summed()
    confidence: NDArray[np.int64] = summed()  # [GROUPS, wrong and right, FINE]

    @classmethod
    def count(
        cls,
        rows: PredictionRows,
        at: NDArray[np.int16],
        true: tuple[NDArray[np.int64], NDArray[np.int64]],
        confidence: NDArray[np.int64],
    ) -> StatesByName:
        """Count rows by the name of the column that says which belong together; nothing without one.

        Args:
            rows: the rows.
            at: [rows, classes] which of FINE_BINS each score is in; -1 counts nowhere.
            true: row and class of each label.
            confidence: [rows] right * FINE_BINS + bin; -1 counts nowhere.
        """
        if not rows.group_column:
            return no_groups()
        group, (row, label), k = rows.jackknife_group, true, at.shape[1]
        bins = grouped_bins_per_class(k)
        shift = int(np.log2(FINE_BINS // bins))
        state = cls(
            np.zeros((JACKKNIFE_GROUPS, k, bins), np.int32),
            np.zeros((JACKKNIFE_GROUPS, k, bins), np.int32),
            np.zeros((JACKKNIFE_GROUPS, 2, FINE_BINS), np.int64),
        )
        count_into(state.true, (group[row] * k + label) * bins + (at[row, label] >> shift))
        known = confidence >= 0
        count_into(state.confidence, (group * 2 * FINE_BINS + confidence)[known])
        width = max(_BLOCK // 4 // max(len(at), 1), 1)
        for start in range(0, k, width):
            columns = at[:, start : start + width].T.astype(np.int64, order="C")  # [classes, rows]
            place = (np.arange(len(columns))[:, None] + start + group * k) * bins + (columns >> shift)
            count_into(state.every, place[columns >= 0])
        return StatesByName({rows.group_column: state})

    def half_widths(self, metric: Callable[..., "Estimate"]) -> Floats:
        """Return half widths of intervals of `auroc` or `average_precision` of each class, [classes]."""
        return grouped_jackknife(
            (self.true, self.every), lambda t, e: metric(t, e).value, np.asarray(self.true.any(axis=-1))
        )

    @property
    def aurc_half_width(self) -> float:
        """Half width of the interval of `aurc`."""
        return float(grouped_jackknife((self.confidence,), lambda c: aurc(c).value))


@dataclass(frozen=True)
class ScoreHistograms:
    """Histograms of the labelled rows by their probabilities. Bins ascend with the probability."""

    every: NDArray[np.int64] = summed()  # [classes, bins] all rows, by the probability of each class
    true: NDArray[np.int64] = summed()  # [classes, bins] rows of a class, by the probability of it
    every_grouped: NDArray[np.int32] = summed()  # [GROUPS, classes, coarse] as `every`
    true_grouped: NDArray[np.int32] = summed()  # [GROUPS, classes, coarse] as `true`
    confidence: NDArray[np.int64] = summed()  # [wrong and right, FINE] by the highest probability
    given: NDArray[np.int64] = summed()  # [folds, FINE] by the probability of the true class
    any_class: NDArray[np.int64] = summed()  # [folds, FINE] as often as there are classes, by each one's probability
    by_group: StatesByName = field(default_factory=no_groups)  # `GroupedHistograms`, where rows belong together

    @cached_property
    def auroc(self) -> "Estimate":
        """[classes] each class against the rest."""
        return auroc(self.true, self.every)

    @cached_property
    def average_precision(self) -> "Estimate":
        """[classes] each class against the rest."""
        return average_precision(self.true, self.every)

    @classmethod
    def zero(cls, run: Run) -> "ScoreHistograms":
        """Return the histograms of no rows."""
        k, coarse = len(run.classes), coarse_bins_per_class(len(run.classes))
        return cls(
            every=np.zeros((k, bins_per_class(k)), np.int64),
            true=np.zeros((k, bins_per_class(k)), np.int64),
            every_grouped=np.zeros((JACKKNIFE_GROUPS, k, coarse), np.int32),
            true_grouped=np.zeros((JACKKNIFE_GROUPS, k, coarse), np.int32),
            confidence=np.zeros((2, FINE_BINS), np.int64),
            given=np.zeros((2, FINE_BINS), np.int64),
            any_class=np.zeros((2, FINE_BINS), np.int64),
        )

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "ScoreHistograms":
        """Return the histograms of these rows alone, measured once for all panels that share them."""
        return batch.memoize(ScoreHistograms, lambda: cls._measured(run, batch.labelled))

    @classmethod
    def _measured(cls, run: Run, rows: Predictions) -> "ScoreHistograms":
        if not rows.has_scores:
            place = rows.right * FINE_BINS + bin_index(score_of_probability(rows.confidence)).astype(np.int64)
            nowhere = np.zeros((len(rows), 0), np.int16), (np.zeros(0, np.int64), np.zeros(0, np.int64))
            state = replace(cls.zero(run), by_group=GroupedHistograms.count(rows, *nowhere, place))
            count_into(state.confidence, place)
            return state
        k, bins, coarse = len(run.classes), bins_per_class(len(run.classes)), coarse_bins_per_class(len(run.classes))
        group, label, predicted = rows.jackknife_group, rows.label, rows.predicted
        # [rows, classes]
        at = _places(rows.probabilities, predicted) if run.scores == "logits" else _saved_places(rows.logits)
        each = np.arange(len(rows))
        top, given = at[each, predicted].astype(np.int64), at[each, label].astype(np.int64)
        shift, shorter = (int(np.log2(FINE_BINS // n)) for n in (bins, coarse))
        place = (predicted == label) * FINE_BINS + top
        state = replace(cls.zero(run), by_group=GroupedHistograms.count(rows, at[:, :k], (each, label), place))
        count_into(state.true, label * bins + (given >> shift))
        count_into(state.true_grouped, (group * k + label) * coarse + (given >> shorter))
        count_into(state.confidence, place)
        count_into(state.given, (group % 2) * FINE_BINS + given)
        count_bins(at, group, state.every[None], state.every_grouped, state.any_class)
        return state


def _places(probabilities: NDArray[np.float32], predicted: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return which of FINE_BINS each probability is in, as `empty_bins`."""
    at = empty_bins(*probabilities.shape)
    size = max(_BLOCK // probabilities.shape[1], 1)
    low, u = np.empty((2, min(size, len(at)), probabilities.shape[1]), np.float32)
    for start in range(0, len(at), size):  # blocks that stay in the processor's cache
        block = probabilities[start : start + size]
        each, highest = np.arange(len(block)), predicted[start : start + size]
        low, u = low[: len(block)], u[: len(block)]
        np.copyto(low, block)
        low[each, highest] = 0
        rest = low.sum(axis=1)  # 1 - top, to its last digits: of an almost sure row the difference would be 0
        np.clip(low, 0, 0.5, out=low)  # rounding; two bounds take a quarter of the time of one
        with np.errstate(divide="ignore"):
            np.log(low, out=u)
        u += low
        u[each, highest] = score_of_probability(block[each, highest], rest)
        np.copyto(at[start : start + size, : u.shape[1]], _bin_position(u, out=u), casting="unsafe")  # whole bins
    return at


def _saved_places(logarithms: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return which of FINE_BINS each probability is in that was saved as such, as `empty_bins`.

    It depends on the saved number alone, and not on what a softmax of the row would make of it, so that rows with equal
    numbers are in one bin and the order is that of the file: a row of rounded ones may sum to .98, and of single
    precision ones some are exactly 1.
    """
    at = empty_bins(*logarithms.shape)
    size = max(_BLOCK // logarithms.shape[1], 1)
    for start in range(0, len(at), size):
        z = np.minimum(logarithms[start : start + size], 0)
        at[start : start + size, : z.shape[1]] = bin_index(score_of_probability(np.exp(z), -np.expm1(z)))
    return at


def positives_by_threshold(
    true: NDArray[np.integer], every: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return true and false positives if rows of the highest 1, 2, … bins are taken, [..., bins] each."""
    tp = np.cumsum(true[..., ::-1], axis=-1, dtype=np.int64)
    return tp, np.cumsum(every[..., ::-1], axis=-1, dtype=np.int64) - tp


@dataclass(frozen=True)
class Estimate:
    """A number computed from a histogram, and how far the exact one can be away, as the counts prove."""

    value: NDArray[np.float64]
    bound: NDArray[np.float64]


def auroc(true: NDArray[np.integer], every: NDArray[np.integer]) -> Estimate:
    """Area under the ROC curve, one class against the rest (Mann–Whitney, ties count half).

    Args:
        true, every: [..., bins] counts by ascending score: rows of the class, and all rows.

    Returns:
        [...] values and bounds, |exact - value| <= bound = 1/2 sum_b pos_b neg_b / (P N); nan where the class has no
        rows or all of them.
    """
    positive, negative = true.astype(np.float64), (every - true).astype(np.float64)
    below = np.cumsum(negative, axis=-1) - negative
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    pairs = np.where(pairs > 0, pairs, np.nan)
    tied = (positive * negative).sum(axis=-1)
    return Estimate(((positive * below).sum(axis=-1) + tied / 2) / pairs, tied / 2 / pairs)


def average_precision(true: NDArray[np.integer], every: NDArray[np.integer], bounded: bool = True) -> Estimate:
    """Average precision: the sum over falling thresholds of precision times the step in recall, as scikit-learn's.

    Rows of one bin are taken to be evenly mixed. The bound compares with the best and the worst order inside every bin.

    Args:
        true, every: [..., bins] as for `auroc`.
        bounded: whether the bound is wanted, which takes as long as the value.

    Returns:
        [...] values and bounds, nan if they are not wanted; nan where the class has no rows.
    """
    positive = true[..., ::-1].astype(np.float64)
    negative = (every - true)[..., ::-1].astype(np.float64)
    tp, fp = np.cumsum(positive, axis=-1), np.cumsum(negative, axis=-1)
    total = np.where(tp[..., -1] > 0, tp[..., -1], np.nan)
    middle = tp - (positive - 1) / 2  # hits when the middle one of a bin's rows of the class is reached
    precision = middle / np.maximum(middle + fp - negative / 2, 0.5)
    value = (positive * precision).sum(axis=-1) / total
    if not bounded:
        return Estimate(value, np.full_like(value, np.nan))
    best = tp / np.maximum(tp + fp - negative, 1)  # at most: all rows of the class come first
    first = tp - positive + 1
    worst = first / np.maximum(first + fp, 1)  # at least: all of them come last
    above = (positive * (best - precision)).sum(axis=-1) / total
    below = (positive * (precision - worst)).sum(axis=-1) / total
    return Estimate(value, np.maximum(above, below))


def aurc(confidence: NDArray[np.integer]) -> Estimate:
    """Area under the risk–coverage curve (Geifman & El-Yaniv 2017): mean error rate of the most confident rows, over
    every number of rows that could be kept.

    Args:
        confidence: [..., wrong and right, bins] counts by ascending confidence.

    Returns:
        [...] values, rows of one bin taken in the mean of all their orders, and bounds by the best and worst order.
    """
    wrong = confidence[..., 0, ::-1].astype(np.float64)
    n = confidence.sum(axis=-2)[..., ::-1].astype(np.float64)
    rows, errors = np.cumsum(n, axis=-1), np.cumsum(wrong, axis=-1)
    total = np.where(rows[..., -1] > 0, rows[..., -1], np.nan)
    before, failed = rows - n, errors - wrong
    value = aurc_terms(n, wrong, before, failed).sum(axis=-1) / total
    harmonic = _harmonic(rows) - _harmonic(before)
    late = _harmonic(rows) - _harmonic(rows - wrong)  # the wrong ones last: i = n - w + 1 … n
    least = failed * harmonic + wrong - (rows - wrong) * late
    early = _harmonic(before + wrong) - _harmonic(before)  # the wrong ones first: i = 1 … w
    most = failed * harmonic + wrong - before * early + wrong * (harmonic - early)
    low, high = least.sum(axis=-1) / total, most.sum(axis=-1) / total
    return Estimate(value, np.maximum(value - low, high - value))


def aurc_terms(n: Floats, wrong: Floats, before: Floats, failed: Floats) -> Floats:
    """Return the sum of the error rates at each of a bin's n rows, in the mean of all their orders, [...].

    It is the sum over i = 1 … n of (failed + i·wrong/n) / (before + i), with sum 1 / (before + i) = H(before + n) -
    H(before).

    Args:
        n, wrong: [...] rows of a bin, and the wrong ones among them; none where n is not above 0.
        before, failed: [...] more confident rows, and the wrong ones among them.
    """
    n = np.maximum(n, 0)
    rate = np.maximum(wrong, 0) / np.maximum(n, 1)
    return np.asarray(rate * n + (failed - rate * before) * (_harmonic(before + n) - _harmonic(before)))


def _harmonic(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """H(n) = 1 + 1/2 + … + 1/n less Euler's constant, to 1e-15 (Euler–Maclaurin above 128; its next term is 1e-20)."""
    large = np.maximum(n, 128.0)
    far = np.log(large) + 1 / (2 * large) - 1 / (12 * large**2) + 1 / (120 * large**4) - 1 / (252 * large**6)
    near = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 129))]) - 0.5772156649015329
    return np.where(n > 128, far, near[np.minimum(n, 128).astype(np.int64)])


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Return the mean over the classes for which a value is defined; nan if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
