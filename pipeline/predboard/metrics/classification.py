"""Mergeable state of the classification metrics, and each metric computed from it. It knows no drawing and no files.

Proportions have Wilson's interval. Metrics that average over classes are resampled from the confusion matrix
(`metrics.bootstrap`). Means over rows have the interval of their standard error, from the sum and the sum of squares.
Metrics based on ranking rows have jackknife intervals. Names, definitions and sources are in
`metrics.registry`; the functions here return a `Metric` without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import counts, score_histograms
from predboard.metrics.bootstrap import ClassSums, poisson_resamples
from predboard.metrics.counts import CountMetrics, Counts, MarginMetric, Margins
from predboard.metrics.intervals import Ends, jaccard_to_f1, jackknife, mean_interval, wilson_interval, wilson_intervals
from predboard.metrics.score_histograms import Estimate, ScoreHistograms, mean_of_defined
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import FIXED_UNIT, fixed, summed
from predboard.summaries import Metric

COLUMNS = counts.COLUMNS | score_histograms.COLUMNS
"""Columns that `MetricState.measure` reads; `CountState.measure` reads those of `metrics.counts`."""

TOP_KS = (2, 5)
"""Numbers of highest classes among which the true one is looked for."""

MAX_SQUARE = 2.0**16
"""Squares are cut here: a loss above 256 nats counts as 256 in the width of the interval, so that no sum overflows."""


@dataclass(frozen=True)
class ClassMetric:
    """One metric of all classes: [classes] each, nan where a class has none."""

    value: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    bound: NDArray[np.float64]
    """Largest distance from the exact value; nan where it is exact."""
    rows: NDArray[np.int64]
    """Images that it rests on: of the class, predicted as it (precision), or either (F1)."""


@dataclass(frozen=True)
class CountState:
    """Mergeable state of the metrics that need no logits."""

    counts: Counts
    loss_squares: np.int64 = summed()  # nats², each cut at MAX_SQUARE

    @classmethod
    def zero(cls, run: Run) -> "CountState":
        """Return the state of no rows."""
        return cls(Counts.zero(run), np.int64(0))

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "CountState":
        """Return the state of these rows alone, measured once for all panels that share it."""

        def count() -> CountState:
            squares = np.minimum(np.square(batch.labelled.loss, dtype=np.float64), MAX_SQUARE)
            return cls(Counts.measure(run, batch), fixed(squares))

        return batch.memoize(CountState, count)

    @property
    def count_state(self) -> "CountState":
        """Return this state itself, as `MetricState.count_state` does."""
        return self

    @property
    def metrics(self) -> CountMetrics:
        """Counts by class and the metrics that follow from them."""
        return self.counts.metrics

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Results computed from this state, so that panels that share it compute them once."""
        return {}


@dataclass(frozen=True)
class MetricState:
    """Mergeable state of all classification metrics."""

    count_state: CountState
    histograms: ScoreHistograms
    top2: np.int64 = summed()  # expected hits among the 2 highest, fixed point
    top5: np.int64 = summed()
    brier: np.int64 = summed()  # sum of each row's Brier score, fixed point
    brier_squares: np.int64 = summed()

    @classmethod
    def zero(cls, run: Run) -> "MetricState":
        """Return the state of no rows."""
        none = np.int64(0)
        return cls(CountState.zero(run), ScoreHistograms.zero(run), none, none, none, none)

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "MetricState":
        """Return the state of these rows alone, measured once for all panels that share it."""
        return batch.memoize(MetricState, lambda: cls._measured(run, batch))

    @classmethod
    def _measured(cls, run: Run, batch: Predictions) -> "MetricState":
        rows = batch.labelled
        above, same = rows.rank, rows.ties
        # Expected hit when equal logits are ordered at random: k - g of the e + 1 tied places lie inside the top k.
        top2, top5 = (fixed(np.clip((k - above) / (same + 1), 0, 1)) for k in TOP_KS)
        p = rows.probabilities  # [rows, classes]
        true = p[np.arange(len(rows)), rows.label].astype(np.float64)
        brier = np.maximum(np.einsum("ij,ij->i", p, p) - 2 * true + 1, 0)  # sum of (p - y)² over the classes
        state = CountState.measure(run, batch)
        return cls(state, ScoreHistograms.measure(run, batch), top2, top5, fixed(brier), fixed(brier**2))

    @property
    def counts(self) -> Counts:
        """Counts of rows."""
        return self.count_state.counts

    @property
    def metrics(self) -> CountMetrics:
        """Counts by class and the metrics that follow from them."""
        return self.count_state.metrics

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Results computed from this state, so that panels that share it compute them once."""
        return {}

    @cached_property
    def aurc(self) -> Estimate:
        """Area under the risk–coverage curve."""
        return score_histograms.aurc(self.histograms.confidence.sum(axis=0))

    @cached_property
    def half_widths(self) -> dict[str, NDArray[np.float64]]:
        """Half widths of intervals: of the mean over classes, then of each class; of AURC the one there is."""
        grouped = self.histograms.true_grouped, self.histograms.every_grouped

        def mean_first(estimate: Estimate) -> NDArray[np.float64]:
            return np.concatenate([[mean_of_defined(estimate.value)], estimate.value])

        return {
            "auroc": jackknife(grouped, lambda *of_groups: mean_first(score_histograms.auroc(*of_groups))),
            "average_precision": jackknife(
                grouped, lambda t, e: mean_first(score_histograms.average_precision(t, e, bounded=False))
            ),
            "aurc": jackknife(
                (self.histograms.confidence,), lambda of_groups: score_histograms.aurc(of_groups).value[None]
            ),
        }


AnyState = CountState | MetricState


# Metrics of all classes together. Each needs at least one labelled row.


def accuracy(state: AnyState) -> Metric:
    """Return the share of rows whose highest logit is the true class."""
    return _share(float(state.metrics.hits.sum()), state.metrics.counted)


def nll(state: AnyState) -> Metric:
    """Return the mean negative log-likelihood of the true class, nats."""
    return _mean(state.counts.loss, state.count_state.loss_squares, state.metrics.counted)


def accuracy_top2(state: MetricState) -> Metric | None:
    """Return the share of rows whose true class is among the 2 highest; None if there are no more classes."""
    return _share(float(state.top2 * FIXED_UNIT), state.metrics.counted) if state.metrics.classes > 2 else None


def accuracy_top5(state: MetricState) -> Metric | None:
    """Return the share of rows whose true class is among the 5 highest; None if there are no more classes."""
    return _share(float(state.top5 * FIXED_UNIT), state.metrics.counted) if state.metrics.classes > 5 else None


def brier(state: MetricState) -> Metric:
    """Return the mean Brier score, summed over classes (Brier 1950)."""
    return _mean(state.brier, state.brier_squares, state.metrics.counted)


def auroc_macro(state: MetricState) -> Metric | None:
    """Return the mean AUROC over the classes that have it."""
    return _mean_of_classes(state, "auroc", state.histograms.auroc)


def average_precision_macro(state: MetricState) -> Metric | None:
    """Return the mean average precision over the classes that have it."""
    return _mean_of_classes(state, "average_precision", state.histograms.average_precision)


def aurc(state: MetricState) -> Metric | None:
    """Return the area under the risk–coverage curve."""
    return _estimated(float(state.aurc.value), state.half_widths["aurc"][0], float(state.aurc.bound), state)


def _share(hits: float, n: int) -> Metric:
    return Metric(hits / n, wilson_interval(hits, n), rows=n)


def _mean(total: np.int64, squares: np.int64, n: int) -> Metric:
    """Return the mean of `n` numbers, none below 0, from their sum and that of their squares in `FIXED_UNIT`s."""
    mean = float(total * FIXED_UNIT / n)
    ends = mean_interval(mean, max(float(squares * FIXED_UNIT / n) - mean**2, 0.0), n)
    return Metric(mean, ends and (max(ends[0], 0.0), ends[1]), rows=n)


def _mean_of_classes(state: MetricState, name: str, of_classes: Estimate) -> Metric | None:
    value, bound = mean_of_defined(of_classes.value), mean_of_defined(of_classes.bound)
    return _estimated(value, state.half_widths[name][0], bound, state)


def _estimated(value: float, half: np.float64, bound: float, state: MetricState) -> Metric | None:
    if np.isnan(value):
        return None
    ends = None if np.isnan(half) else (max(value - float(half), 0.0), min(value + float(half), 1.0))
    return Metric(value, ends, bound=bound, rows=state.metrics.counted)


def bootstrap_margins(m: CountMetrics, metrics: Mapping[str, MarginMetric]) -> dict[str, NDArray[np.float64]]:
    """Return bootstrap draws of metrics that follow from the margins of the confusion matrix.

    Each cell of n rows is replaced by Poisson(n), again and again; all metrics see the same draws.

    Returns:
        [draws] for each metric, nan where it is undefined.
    """
    true, predicted, count = m.cells
    present = m.support + m.predictions > 0
    place, classes = np.cumsum(present) - 1, int(present.sum())
    sums = [
        ClassSums(class_of, classes)
        for class_of in (np.where(true == predicted, place[true], -1), place[true], place[predicted])
    ]
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    most = int(max(m.support.max(), m.predictions.max()))
    for n in poisson_resamples(count, true.tobytes() + predicted.tobytes(), classes, most):
        margins = Margins(*(by_class(n).T for by_class in sums))  # [draws, classes] each
        for name, metric in metrics.items():
            draws[name].append(metric(margins))
    return {name: np.concatenate(values) for name, values in draws.items()}


# Metrics of single classes.


def class_precision(state: AnyState) -> ClassMetric:
    """Return the precision of each class."""
    m = state.metrics
    return _exact(m.precision, wilson_intervals(m.hits, m.predictions), m.predictions)


def class_recall(state: AnyState) -> ClassMetric:
    """Return the recall of each class."""
    m = state.metrics
    return _exact(m.recall, wilson_intervals(m.hits, m.support), m.support)


def class_f1(state: AnyState) -> ClassMetric:
    """Return the F1 of each class."""
    m = state.metrics
    union = m.support + m.predictions - m.hits  # rows of the class or predicted as it; F1 = 2 J / (1 + J)
    return _exact(m.f1, jaccard_to_f1(wilson_intervals(m.hits, union)), union)


def class_average_precision(state: MetricState) -> ClassMetric:
    """Return the average precision of each class against the rest."""
    return _one_against_rest(state, "average_precision", state.histograms.average_precision)


def class_auroc(state: MetricState) -> ClassMetric:
    """Return the AUROC of each class against the rest."""
    return _one_against_rest(state, "auroc", state.histograms.auroc)


def _one_against_rest(state: MetricState, name: str, estimate: Estimate) -> ClassMetric:
    half = state.half_widths[name][1:]
    ends = np.clip([estimate.value - half, estimate.value + half], 0, 1)
    return ClassMetric(estimate.value, ends[0], ends[1], estimate.bound, state.metrics.support)


def _exact(value: NDArray[np.float64], ends: Ends, rows: NDArray[np.int64]) -> ClassMetric:
    """Return a metric without a bound, nan for classes where it rests on no rows."""
    value, lower, upper = (np.where(rows > 0, column, np.nan) for column in (value, *ends))
    return ClassMetric(value, lower, upper, np.full(len(rows), np.nan), rows)
