"""Mergeable state of the calibration metrics, and each metric computed from it. It knows no drawing.

Calibration error in equal-width bins is exact, for the predicted class and for each class. At most 15 of a row's
probabilities are above 1/15, so the bins of each class are counted from those few; the lowest bin is what remains of
the class's sum. Temperature scaling is in `metrics.temperature`, names and definitions in `metrics.registry`.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import score_histograms
from predboard.metrics.grouped import group_column, grouped_interval, no_groups, sum_by_group
from predboard.metrics.intervals import grouped_method, wilson_interval
from predboard.metrics.reliability import BINS, PROBABILITY_UNIT, Reliability, equal_width_bin
from predboard.metrics.score_histograms import FINE_BINS, Estimate, ScoreHistograms
from predboard.metrics.temperature import (
    INVERSE_TEMPERATURES,
    SAMPLE_ROWS,
    TemperatureFit,
    fit_temperature,
    sample_curves,
)
from predboard.predictions.sampling import Salt
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions, TileRows
from predboard.state import Lowest, StatesByName, summed
from predboard.summaries import Metric

EQUAL_MASS_BINS = 2**16
"""Bins of the log-odds for calibration error by equal mass: few rows share one, so little depends on their order."""

CONFORMAL_ALPHA = 0.1
"""Share of images whose true class may be missing from their prediction set."""

COLUMNS = frozenset({"id", "key", "label", "predicted", "confidence", "logits"})
"""Columns that `Calibration.measure` reads."""

_BLOCK_NUMBERS = 2**17
"""Probabilities that are worked on at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Calibration(Reliability):
    """Counts of the labelled rows, sums of probabilities in `PROBABILITY_UNIT`s, and a sample of rows."""

    sample: Lowest  # right, gap = z_max - z_y, and curve = L, L', L'' of each row
    top: NDArray[np.int64] = summed()  # [rows and right and confidence and squared gap, BINS] by confidence
    fine: NDArray[np.int64] = summed()  # [rows and right and confidence, EQUAL_MASS_BINS] by confidence
    above: NDArray[np.int64] = summed()  # [rows and sum, classes, BINS] by each class's probability; bin 0 is empty
    hits: NDArray[np.int64] = summed()  # [classes, BINS] rows of a class by the probability of it
    total: NDArray[np.int64] = summed()  # [classes] sum of its probability
    gaps_by_group: StatesByName = field(default_factory=no_groups)  # [GROUPS, BINS] right - confidence

    @classmethod
    def zero(cls, run: Run) -> "Calibration":
        """Return the state of no rows."""
        k, none = len(run.classes), np.zeros(0, np.int64)
        rows: TileRows = {
            "key": none,
            "id": none,
            "fold": none,
            "right": np.zeros(0, np.bool_),
            "gap": np.zeros(0),
            "curve": np.zeros((0, 3, len(INVERSE_TEMPERATURES)), np.float32),
        }
        return cls(
            sample=Lowest(SAMPLE_ROWS, none, np.zeros(0), rows),
            top=np.zeros((4, BINS), np.int64),
            fine=np.zeros((3, EQUAL_MASS_BINS), np.int64),
            above=np.zeros((2, k, BINS), np.int64),
            hits=np.zeros((k, BINS), np.int64),
            total=np.zeros(k, np.int64),
        )

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "Calibration":
        """Return the state of these rows alone, measured once for all panels that share it."""
        return batch.memoize(Calibration, lambda: cls._measured(run, batch.labelled))

    @classmethod
    def _measured(cls, run: Run, rows: Predictions) -> "Calibration":
        classes = len(run.classes)
        confidence = rows.confidence.astype(np.float64)
        bin_ = equal_width_bin(confidence)
        at = score_histograms.bin_index(score_histograms.score_of_probability(rows.confidence), EQUAL_MASS_BINS).astype(
            np.int64
        )
        weights = rows.right.astype(np.float64) * PROBABILITY_UNIT, confidence

        def gaps() -> NDArray[np.int64]:
            """Return right - confidence of each row in its bin, [rows, BINS] `PROBABILITY_UNIT`s."""
            each = np.rint(rows.right / PROBABILITY_UNIT) - np.rint(confidence / PROBABILITY_UNIT)
            return np.asarray(each.astype(np.int64)[:, None] * (bin_[:, None] == np.arange(BINS)))

        of_predicted: dict[str, Any] = {
            "gaps_by_group": sum_by_group(rows, gaps),
            "top": _sums(bin_, (*weights, (rows.right - confidence) ** 2), BINS),
            "fine": _sums(at, weights, EQUAL_MASS_BINS),
        }
        if not rows.has_scores:
            return replace(cls.zero(run), **of_predicted)
        p = rows.probabilities
        total, high = np.zeros(classes), [np.zeros(0, np.int64)]
        each = max(_BLOCK_NUMBERS // classes, 1)
        for start in range(0, len(p), each):
            block = p[start : start + each]
            # Whole numbers: their sum is exact in float64, in any order.
            total += np.rint(block * np.float32(1 / PROBABILITY_UNIT)).sum(axis=0, dtype=np.float64)
            high.append(np.flatnonzero(block.reshape(-1) >= np.float32(1 / BINS)) + start * classes)
        where = np.concatenate(high)
        some = p.reshape(-1)[where].astype(np.float64)
        above = _sums((where % classes) * BINS + equal_width_bin(some), (some,), classes * BINS)
        true = p[np.arange(len(rows)), rows.label].astype(np.float64)
        hits = _sums(rows.label * BINS + equal_width_bin(true), (), classes * BINS)
        return cls(
            sample=sample_curves(rows.take(rows.sample_mask(SAMPLE_ROWS, Salt.CALIBRATION))),
            **of_predicted,
            above=above.reshape(2, classes, BINS),
            hits=hits.reshape(classes, BINS),
            total=total.astype(np.int64),
        )

    @property
    def has_scores(self) -> bool:
        """Whether the probabilities of all classes were known."""
        return bool(self.total.any())

    @cached_property
    def ece_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval; where rows belong together, by leaving out whole groups of them instead of single ones."""
        if column := group_column(self.gaps_by_group):
            grouped = self.gaps_by_group.states[column]
            gaps = np.abs(grouped.without * PROBABILITY_UNIT).sum(axis=-1)
            return grouped_interval(self.ece, gaps / np.maximum(grouped.rows_without, 1))
        return self.independent_ece_interval

    @cached_property
    def ece_equal_mass(self) -> Estimate:
        """Calibration error in 15 bins of equally many rows by ascending confidence (Nixon 2019).

        The first N mod 15 bins have one row more. Where a border between two of them cuts a bin of the histogram, its
        rows are taken as evenly mixed. The bound assumes the worst order of its right and wrong rows.
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
        """Reliability, resolution and uncertainty (Murphy 1973) in 15 equal-width bins a class, summed over classes.

        Reliability - resolution + uncertainty is the Brier score except for the spread of probabilities inside a bin.
        """
        rows, hits, sums = self.by_class
        share = hits.sum(axis=1, keepdims=True) / self.rows
        n = np.maximum(rows, 1)
        reliability = ((sums - hits) ** 2 / n).sum() / self.rows
        resolution = (rows * (hits / n - share) ** 2).sum() / self.rows
        return float(reliability), float(resolution), float((share * (1 - share)).sum())

    @cached_property
    def tempered(self) -> TemperatureFit | None:
        """The temperature that fits best, and what it does; None if there is none."""
        return fit_temperature(self.sample, _ece_of)


@dataclass(frozen=True)
class ConformalSets:
    """Conformal prediction sets: for each image the classes that are likely enough."""

    threshold: float
    """Lowest probability of a class in a set."""
    coverage: float
    """Share of rows whose true class is in their set."""
    size: float
    """Mean number of classes in a set."""
    fitted: int
    tried: int
    spare: float
    """At most this much of the coverage comes from rounding the threshold down to the edge of a bin."""


def conformal_sets(state: ScoreHistograms) -> ConformalSets | None:
    """Return the sets of all classes whose probability is high enough (LAC: Sadinle, Lei & Wasserman 2019).

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

    @property
    def group_column(self) -> str:
        """Name of the column whose equal values make rows belong together; empty if each image stands for itself."""
        return group_column(self.calibration.gaps_by_group)

    @cached_property
    def sets(self) -> ConformalSets | None:
        """Conformal prediction sets; None if there are too few rows."""
        return conformal_sets(self.histograms)


# Metrics without their names and definitions, which `metrics.registry` has. Each needs at least one labelled row.


def ece(evidence: CalibrationEvidence) -> Metric:
    """Return the expected calibration error."""
    c, column = evidence.calibration, evidence.group_column
    return Metric(c.ece, c.ece_interval, method=grouped_method(column) if column else "", rows=c.rows)


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
    return None if fit is None else Metric(fit.ece[1], bound=fit.ece_error, rows=fit.tried)


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


def _sums(at: NDArray[np.int64], weights: tuple[NDArray[np.float64], ...], bins: int) -> NDArray[np.int64]:
    """Return [1 + weights, bins] rows and sums of weights in `PROBABILITY_UNIT`s, each rounded first."""
    sums = [np.bincount(at, minlength=bins)]
    sums += [np.bincount(at, np.rint(w / PROBABILITY_UNIT), bins).astype(np.int64) for w in weights]
    return np.stack(sums).astype(np.int64)


def _ece_of(confidence: NDArray[np.float64], right: NDArray[np.bool_], error: float = 0.0) -> tuple[float, float]:
    """Return the calibration error, and how far it is off if rows within `error` of an edge are in the next bin."""
    gap = right - confidence
    value = np.abs(np.bincount(equal_width_bin(confidence), gap, BINS)).sum() / len(right)
    inner = np.clip(np.rint(confidence * BINS), 1, BINS - 1) / BINS
    near = np.abs(confidence - inner) <= error
    return float(value), float(2 * np.abs(gap[near]).sum() / len(right)) if error else 0.0


def _rising(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points without those whose x is that of the one before."""
    rises = np.append(True, np.diff(x) > 0)
    return x[rises], y[rises]
