"""How far probabilities are what they say: mergeable state, and the calibration figures that follow. Knows no drawing.

Calibration error in equal-width bins is exact, that of the predicted class and that of each class. Of a row's
probabilities at most 15 are above 1/15, so the bins of each class are counted from those few; the lowest bin is what is
left of the class's sum.

Temperature needs all logits at temperatures that are not known before. So some rows, drawn by the hash of their key,
keep what 17 inverse temperatures make of them: L(β) = ln Σ_j exp(-β (z_max - z_j)), and its first two derivatives.
Between two of those L is the polynomial of degree 5 through all six numbers (Hermite). From L follow a row's
confidence, exp(-L), and its loss, β (z_max - z_y) + L.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import score_histograms
from predboard.metrics.intervals import JACKKNIFE_GROUPS, jackknife, wilson_interval
from predboard.metrics.score_histograms import FINE_BINS, Estimate, ScoreHistograms
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions, TileRows
from predboard.state import FIXED_LIMIT, Lowest, summed
from predboard.summaries import Metric

BINS = 15
"""Equal-width bins [i/15, (i + 1)/15), the last with 1."""

PROBABILITY_UNIT = 2.0**-30
"""Of sums of probabilities: 8 billion rows fit into an int64."""

EQUAL_MASS_BINS = 2**16
"""Bins of the log-odds for calibration error by equal mass: few rows share one, so little depends on their order."""

SAMPLE_ROWS = 8192
"""Rows on which a temperature is fitted and tried, about half of them each."""

BETAS = 2.0 ** (np.arange(17) / 2 - 4)
"""Inverse temperatures from 1/16 to 16, each the square root of 2 above the last."""

MAX_LOGIT_GAP = 2000.0
"""Logits that are further below the highest count as so far: exp(-2000/16) is below all float32."""

CONFORMAL_ALPHA = 0.1
"""Share of images whose true class conformal sets may lack."""

COLUMNS = frozenset({"id", "key", "label", "predicted", "confidence", "logits"})
"""Columns that `Calibration.measure` reads."""

_BLOCK = 2**17
"""Probabilities at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Calibration:
    """Counts of the labelled rows, sums of probabilities in `PROBABILITY_UNIT`s, and a sample of rows."""

    sample: Lowest  # right, gap = z_max - z_y, and curve = L, L', L'' of each row
    top: NDArray[np.int64] = summed()  # [GROUPS, rows and right and confidence, BINS] by confidence
    fine: NDArray[np.int64] = summed()  # [rows and right and confidence, ORDERED] by confidence
    above: NDArray[np.int64] = summed()  # [rows and sum, classes, BINS] by each class's probability; bin 0 is empty
    hits: NDArray[np.int64] = summed()  # [classes, BINS] rows of a class by the probability of it
    total: NDArray[np.int64] = summed()  # [classes] sum of its probability

    @classmethod
    def zero(cls, run: Run) -> "Calibration":
        """No rows."""
        k, none = len(run.classes), np.zeros(0, np.int64)
        rows: TileRows = {
            "key": none,
            "id": none,
            "right": np.zeros(0, np.bool_),
            "gap": np.zeros(0),
            "curve": np.zeros((0, 3, len(BETAS)), np.float32),
        }
        return cls(
            sample=Lowest(SAMPLE_ROWS, none, np.zeros(0), rows),
            top=np.zeros((JACKKNIFE_GROUPS, 3, BINS), np.int64),
            fine=np.zeros((3, EQUAL_MASS_BINS), np.int64),
            above=np.zeros((2, k, BINS), np.int64),
            hits=np.zeros((k, BINS), np.int64),
            total=np.zeros(k, np.int64),
        )

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "Calibration":
        """These rows alone, measured once for all panels that share it."""
        return batch.memoize(Calibration, lambda: cls._measured(len(run.classes), batch.labelled))

    @classmethod
    def _measured(cls, classes: int, rows: Predictions) -> "Calibration":
        p, confidence = rows.probabilities, rows.confidence.astype(np.float64)
        bin_ = equal_width_bin(confidence)
        group = score_histograms.jackknife_group(rows.key)
        at = score_histograms.bin_index(score_histograms.score_of_probability(rows.confidence), EQUAL_MASS_BINS).astype(
            np.int64
        )
        total, above = np.zeros(classes), np.zeros((2, classes * BINS), np.int64)
        each = max(_BLOCK // classes, 1)
        for start in range(0, len(p), each):
            block = p[start : start + each]
            # Whole numbers: their sum is exact in float64, in any order.
            total += np.rint(block * np.float32(1 / PROBABILITY_UNIT)).sum(axis=0, dtype=np.float64)
            where = np.flatnonzero(block.reshape(-1) >= np.float32(1 / BINS))
            some = block.reshape(-1)[where].astype(np.float64)
            above += _sums((where % classes) * BINS + equal_width_bin(some), (some,), classes * BINS)
        true = p[np.arange(len(rows)), rows.label].astype(np.float64)
        hits = _sums(rows.label * BINS + equal_width_bin(true), (), classes * BINS)
        weights = rows.right.astype(np.float64) * PROBABILITY_UNIT, confidence
        return cls(
            sample=_sampled(rows.take(rows.sample_mask(SAMPLE_ROWS, Salt.CALIBRATION))),
            top=_sums(group * BINS + bin_, weights, JACKKNIFE_GROUPS * BINS)
            .reshape(3, JACKKNIFE_GROUPS, BINS)
            .swapaxes(0, 1)
            .copy(),
            fine=_sums(at, weights, EQUAL_MASS_BINS),
            above=above.reshape(2, classes, BINS),
            hits=hits.reshape(classes, BINS),
            total=total.astype(np.int64),
        )

    @cached_property
    def rows(self) -> int:
        """Rows with logits and a label."""
        return int(self.top[:, 0].sum())

    @cached_property
    def bins(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """[BINS] rows, right ones, and sum of their confidence."""
        rows, right, confidence = self.top.sum(axis=0)
        return rows, right, confidence * PROBABILITY_UNIT

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini 2015): |accuracy - confidence| of a bin, mean over the rows."""
        return float(_ece(self.top.sum(axis=0)))

    @cached_property
    def ece_interval(self) -> tuple[float, float] | None:
        """95 % interval of it by leaving out one of 20 groups of rows after the other; None if there are too few."""
        half = float(jackknife((self.top,), _ece))
        return None if np.isnan(half) else (max(self.ece - half, 0.0), min(self.ece + half, 1.0))

    @property
    def by_chance(self) -> float:
        """About what the calibration error of so many rows would be if every confidence were right.

        Each bin's accuracy is off by a normal deviation of variance c (1 - c) / n; the mean of its absolute value.
        """
        rows, _, confidence = self.bins
        mean = confidence / np.maximum(rows, 1)
        return float(np.sqrt(2 / np.pi * rows * mean * (1 - mean)).sum() / self.rows)

    @property
    def mce(self) -> float:
        """Maximum calibration error: largest |accuracy - confidence| of a bin that has rows."""
        rows, right, confidence = self.bins
        return float((np.abs(right - confidence)[rows > 0] / rows[rows > 0]).max())

    @cached_property
    def ece_equal_mass(self) -> Estimate:
        """Calibration error in 15 bins of equally many rows by ascending confidence (Nixon 2019).

        The first N mod 15 bins have a row more. A border between two of them that cuts a bin of the histogram takes
        its rows as evenly mixed. The bound is by the worst order of its right and wrong rows.
        """
        rows, right, confidence = (n.astype(np.float64) for n in self.fine)
        n, gap = self.rows, np.append(0, np.cumsum(right - confidence * PROBABILITY_UNIT))
        ends = np.append(0, np.cumsum(rows))
        cuts = np.cumsum([n // BINS + (i < n % BINS) for i in range(BINS)])
        value = np.abs(np.diff(np.interp(np.append(0, cuts), *_rising(ends, gap)))).sum() / n
        at = np.minimum(np.searchsorted(ends, cuts[:-1], side="right") - 1, EQUAL_MASS_BINS - 1)
        part, whole, good = cuts[:-1] - ends[at], rows[at], right[at]
        share = part / np.maximum(whole, 1)
        most = np.minimum(part, good) - share * good
        least = share * good - np.maximum(part - (whole - good), 0)
        width = np.diff(score_histograms.bin_edges(EQUAL_MASS_BINS))[at] * part * (1 - share)
        # What one of two neighbours wins the other loses.
        return Estimate(np.asarray(value), np.asarray(2 * (np.maximum(most, least) + width).sum() / n))

    @cached_property
    def by_class(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """[classes, BINS] rows by the probability of each class, rows of the class among them, sum of it."""
        rows, sums = self.above[0].astype(np.float64), self.above[1] * PROBABILITY_UNIT
        rows[:, 0] = self.rows - rows[:, 1:].sum(axis=1)
        sums[:, 0] = np.maximum(self.total * PROBABILITY_UNIT - sums[:, 1:].sum(axis=1), 0)
        return rows, self.hits.astype(np.float64), sums

    @property
    def ece_classwise(self) -> float:
        """Mean over all classes of the calibration error of "is it this class" (Kull 2019; Nixon 2019 call it SCE)."""
        _, hits, sums = self.by_class
        return float(np.abs(hits - sums).sum() / self.rows / len(hits))

    @cached_property
    def brier_decomposition(self) -> tuple[float, float, float]:
        """Reliability, resolution, uncertainty (Murphy 1973) in each class's 15 equal-width bins, summed over classes.

        Reliability - resolution + uncertainty is the Brier score but for the spread of probabilities inside a bin.
        """
        rows, hits, sums = self.by_class
        share = hits.sum(axis=1, keepdims=True) / self.rows
        n = np.maximum(rows, 1)
        reliability = ((sums - hits) ** 2 / n).sum() / self.rows
        resolution = (rows * (hits / n - share) ** 2).sum() / self.rows
        return float(reliability), float(resolution), float((share * (1 - share)).sum())

    @cached_property
    def tempered(self) -> "TemperatureFit | None":
        """What dividing logits by one number does; None if no number from 1/16 to 16 is best, or half the sample is
        missing.
        """
        rows = self.sample.rows
        fold = score_histograms.jackknife_group(rows["key"]) % 2
        if not (fold == 0).any() or not (fold == 1).any():
            return None
        loss = _loss(rows["gap"][fold == 0], rows["curve"][fold == 0]).mean(axis=0)  # [3, betas]
        slope = loss[1]
        if slope[0] >= 0 or slope[-1] <= 0:
            return None
        i = int(np.flatnonzero(slope < 0)[-1])  # the loss is convex: there it still falls, and from i + 1 on it rises
        low, high = 0.0, 1.0
        for _ in range(100):
            a, b = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, b) if _between(loss, i, a) < _between(loss, i, b) else (a, high)
        u = (low + high) / 2
        beta = float(BETAS[i] * (BETAS[i + 1] / BETAS[i]) ** u)
        here = {name: column[fold == 1] for name, column in rows.items()}
        after = _between(_in_log(here["curve"]), i, u)  # L at the temperature found, of each row
        one = int(np.flatnonzero(BETAS == 1)[0])
        before = here["curve"][:, 0, one].astype(np.float64)
        return TemperatureFit(
            1 / beta,
            int((fold == 0).sum()),
            int((fold == 1).sum()),
            (float((here["gap"] + before).mean()), float((beta * here["gap"] + after).mean())),
            (_ece_of(np.exp(-before), here["right"]), _ece_of(np.exp(-after), here["right"])),
        )


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and what it does to rows that it was not fitted on."""

    temperature: float
    fitted: int
    """Rows of fold 0, where it was fitted."""
    tried: int
    """Rows of fold 1, of which the rest speaks."""
    nll: tuple[float, float]
    """Mean negative log-likelihood before and after, nats."""
    ece: tuple[float, float]
    """Calibration error in 15 equal-width bins before and after."""


@dataclass(frozen=True)
class ConformalSets:
    """Conformal sets of classes."""

    threshold: float
    """Least probability of a class in a set."""
    coverage: float
    """Share of rows whose true class is in their set."""
    size: float
    """Classes in a set, mean."""
    fitted: int
    tried: int
    spare: float
    """At most so much of the coverage comes from rounding the threshold down to the edge of a bin."""


def conformal_sets(state: ScoreHistograms) -> ConformalSets | None:
    """Sets of all classes whose probability is high enough (LAC: Sadinle, Lei & Wasserman 2019).

    The threshold is the ⌊(n + 1) / 10⌋-th lowest probability of the true class in fold 0, that is the quantile
    ⌈(n + 1)(1 - α)⌉ / n of 1 - p, rounded down to the edge of a bin: sets are never smaller than they should be.
    Coverage and size are those of fold 1, exact for this threshold. None if fold 0 has less than nine rows or fold 1
    none.
    """
    fitted, tried = (int(n) for n in state.given.sum(axis=1))
    lowest = int((fitted + 1) * CONFORMAL_ALPHA + 1e-9)
    if not lowest or not tried:
        return None
    at = int(np.searchsorted(np.cumsum(state.given[0]), lowest))
    held, classes = state.given[1, at:].sum(), state.any_class[1, at:].sum()
    return ConformalSets(
        float(score_histograms.bin_edges(FINE_BINS)[at]),
        float(held / tried),
        float(classes / tried),
        fitted,
        tried,
        float(state.given[1, at] / tried),
    )


@dataclass(frozen=True)
class CalibrationEvidence:
    """The two states from which all calibration metrics follow."""

    calibration: Calibration
    histograms: ScoreHistograms

    @cached_property
    def sets(self) -> ConformalSets | None:
        """Conformal prediction sets; None if there are too few rows."""
        return conformal_sets(self.histograms)


# Metrics without their names and definitions, which `metrics.registry` has. Each needs at least one labelled row.


def ece(evidence: CalibrationEvidence) -> Metric:
    """Return the expected calibration error."""
    c = evidence.calibration
    return Metric(c.ece, c.ece_interval, rows=c.rows)


def ece_equal_mass(evidence: CalibrationEvidence) -> Metric:
    """Return the calibration error in bins of equally many rows."""
    c = evidence.calibration
    return Metric(float(c.ece_equal_mass.value), bound=float(c.ece_equal_mass.bound), rows=c.rows)


def ece_classwise(evidence: CalibrationEvidence) -> Metric:
    """Return the class-wise calibration error."""
    return Metric(evidence.calibration.ece_classwise, rows=evidence.calibration.rows)


def mce(evidence: CalibrationEvidence) -> Metric:
    """Return the maximum calibration error."""
    return Metric(evidence.calibration.mce, rows=evidence.calibration.rows)


def brier_reliability(evidence: CalibrationEvidence) -> Metric:
    """Return the reliability term of the Brier score."""
    return Metric(evidence.calibration.brier_decomposition[0], rows=evidence.calibration.rows)


def brier_resolution(evidence: CalibrationEvidence) -> Metric:
    """Return the resolution term of the Brier score."""
    return Metric(evidence.calibration.brier_decomposition[1], rows=evidence.calibration.rows)


def brier_uncertainty(evidence: CalibrationEvidence) -> Metric:
    """Return the uncertainty term of the Brier score."""
    return Metric(evidence.calibration.brier_decomposition[2], rows=evidence.calibration.rows)


def temperature(evidence: CalibrationEvidence) -> Metric | None:
    """Return the temperature that fits best; None if there is none."""
    fit = evidence.calibration.tempered
    return None if fit is None else Metric(fit.temperature, rows=fit.fitted)


def nll_before(evidence: CalibrationEvidence) -> Metric | None:
    """Return the mean negative log-likelihood on the held-out half of the sample, nats."""
    fit = evidence.calibration.tempered
    return None if fit is None else Metric(fit.nll[0], rows=fit.tried)


def nll_after(evidence: CalibrationEvidence) -> Metric | None:
    """Return the same with logits divided by the temperature."""
    fit = evidence.calibration.tempered
    return None if fit is None else Metric(fit.nll[1], rows=fit.tried)


def ece_before(evidence: CalibrationEvidence) -> Metric | None:
    """Return the expected calibration error on the held-out half of the sample."""
    fit = evidence.calibration.tempered
    return None if fit is None else Metric(fit.ece[0], rows=fit.tried)


def ece_after(evidence: CalibrationEvidence) -> Metric | None:
    """Return the same with logits divided by the temperature."""
    fit = evidence.calibration.tempered
    return None if fit is None else Metric(fit.ece[1], rows=fit.tried)


def conformal_coverage(evidence: CalibrationEvidence) -> Metric | None:
    """Return the share of rows whose prediction set has the true class."""
    sets = evidence.sets
    if sets is None:
        return None
    return Metric(sets.coverage, wilson_interval(sets.coverage * sets.tried, sets.tried), rows=sets.tried)


def conformal_size(evidence: CalibrationEvidence) -> Metric | None:
    """Return the mean number of classes in a prediction set."""
    sets = evidence.sets
    return None if sets is None else Metric(sets.size, rows=sets.tried)


def equal_width_bin(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which equal-width bin each probability is in."""
    return np.minimum((p * BINS).astype(np.int64), BINS - 1)


def _sums(at: NDArray[np.int64], weights: tuple[NDArray[np.float64], ...], bins: int) -> NDArray[np.int64]:
    """[1 + weights, bins] rows and sums of weights in `PROBABILITY_UNIT`s, each rounded first."""
    found = [np.bincount(at, minlength=bins)]
    found += [np.bincount(at, np.rint(w / PROBABILITY_UNIT), bins).astype(np.int64) for w in weights]
    return np.stack(found).astype(np.int64)


def _ece(top: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of [rows and right and confidence, BINS]."""
    gaps = np.abs(top[1] - top[2] * PROBABILITY_UNIT)
    n = top[0].sum()
    return np.asarray(gaps.sum() / n if n else np.nan)


def _ece_of(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    gaps = np.bincount(equal_width_bin(confidence), right - confidence, BINS)
    return float(np.abs(gaps).sum() / len(right))


def _rising(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points without those that stay where the last one was."""
    there = np.append(True, np.diff(x) > 0)
    return x[there], y[there]


def _sampled(rows: Predictions) -> Lowest:
    """What temperatures do to these rows."""
    logits, predicted = rows.logits, rows.predicted
    curve = np.empty((len(rows), 3, len(BETAS)), np.float32)
    each = max(_BLOCK // max(logits.shape[1], 1), 1)
    for start in range(0, len(rows), each):
        here = slice(start, start + each)
        curve[here] = _tempered(logits[here], predicted[here])
    at = np.arange(len(rows))
    gap = logits[at, predicted].astype(np.float64) - logits[at, rows.label]
    columns: TileRows = {
        "key": rows.key,
        "id": rows.id,
        "right": rows.right,
        "gap": np.minimum(gap, FIXED_LIMIT),
        "curve": curve,
    }
    group, score = np.zeros(len(rows), np.int64), mix(rows.key, Salt.CALIBRATION).view(np.uint64).astype(np.float64)
    stay = Lowest.choose(SAMPLE_ROWS, group, score, rows.key, rows.id)
    return Lowest(SAMPLE_ROWS, group[stay], score[stay], {name: column[stay] for name, column in columns.items()})


def _tempered(logits: NDArray[np.float32], predicted: NDArray[np.int64]) -> NDArray[np.float32]:
    """L and its first two derivatives by β at each of `BETAS`: -E[g] and Var[g], where g = z_max - z has the
    probabilities at that temperature. -> [rows, 3, betas]
    """
    each = np.arange(len(logits))
    with np.errstate(over="ignore"):  # logits that are further apart than the largest float
        gap = logits[each, predicted][:, None] - logits  # [rows, classes]
    np.minimum(gap, np.float32(MAX_LOGIT_GAP), out=gap)
    gap[each, predicted] = MAX_LOGIT_GAP  # left out of the sums: ln(1 + rest) keeps the digits of an almost sure row
    found = np.empty((len(logits), 3, len(BETAS)), np.float32)
    e, weighed = np.empty_like(gap), np.empty_like(gap)
    for first in (0, 1):
        for i in range(first, len(BETAS), 2):
            if i in (first, first + 8):  # afresh, because squaring doubles the error
                np.exp(gap * np.float32(-BETAS[i]), out=e)
            else:
                np.multiply(e, e, out=e)  # twice the last β but one
            rest = e.sum(axis=1)
            np.multiply(gap, e, out=weighed)
            mean = weighed.sum(axis=1) / (1 + rest)
            found[:, 0, i] = np.log1p(rest)
            found[:, 1, i] = -mean
            found[:, 2, i] = np.einsum("ij,ij->i", gap, weighed) / (1 + rest) - mean**2
    return found


def _in_log(curve: NDArray[np.float32]) -> NDArray[np.float64]:
    """Derivatives by ln β of [rows, 3, betas] values with derivatives by β."""
    value, first, second = curve.astype(np.float64).swapaxes(0, 1)
    return np.stack([value, BETAS * first, BETAS * first + BETAS**2 * second], axis=1)


def _loss(gap: NDArray[np.float64], curve: NDArray[np.float32]) -> NDArray[np.float64]:
    """[rows, 3, betas] loss β gap + L, with its derivatives by ln β."""
    return _in_log(curve) + (gap[:, None] * BETAS)[:, None]


def _between(values: NDArray[np.float64], i: int, u: float) -> NDArray[np.float64]:
    """Quintic Hermite polynomial a share u of the way from the i-th β to the next, in ln β.

    Args:
        values: [..., 3, betas] value, first and second derivative.
    """
    h = float(np.log(BETAS[i + 1] / BETAS[i]))
    of_value = 1 - u**3 * (10 - 15 * u + 6 * u**2)
    of_slope = u - u**3 * (6 - 8 * u + 3 * u**2)
    of_curve = u**2 * (1 - u) ** 3 / 2
    v = 1 - u  # the right end is the left one of the mirror image
    to_slope = -(v - v**3 * (6 - 8 * v + 3 * v**2))
    to_curve = v**2 * (1 - v) ** 3 / 2
    left, right = values[..., i], values[..., i + 1]
    return np.asarray(
        of_value * left[..., 0]
        + (1 - of_value) * right[..., 0]
        + h * (of_slope * left[..., 1] + to_slope * right[..., 1])
        + h**2 * (of_curve * left[..., 2] + to_curve * right[..., 2])
    )
