"""The mergeable state that all classification metrics are computed from. It knows no metric by name, and no drawing."""

import functools
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import counts, score_histograms
from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.grouped import no_groups, sum_by_group
from predboard.metrics.intervals import Floats, grouped_jackknife, jackknife
from predboard.metrics.score_histograms import Estimate, ScoreHistograms, mean_of_defined
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import FIXED_UNIT, StatesByName, fixed, fixed_each, fixed_squares, summed

COLUMNS = counts.COLUMNS | score_histograms.COLUMNS
"""Columns that `MetricState.measure` reads; `CountState.measure` reads those of `metrics.counts`."""

TOP_KS = (2, 5)
"""Numbers of highest classes among which the true one is looked for."""


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
    method: str = ""
    """Method of the interval, if it is not that of the metric's row in the table."""


@dataclass(frozen=True)
class CountState:
    """Mergeable state of the metrics that need no logits."""

    counts: Counts
    loss_squares: np.int64 = summed()  # nats², of losses up to 256 nats, fixed point
    large_loss_squares: np.int64 = summed()  # nats², of the others

    @classmethod
    def zero(cls, run: Run) -> "CountState":
        """Return the state of no rows."""
        return cls(Counts.zero(run), np.int64(0), np.int64(0))

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "CountState":
        """Return the state of these rows alone, measured once for all panels that share it."""

        def count() -> CountState:
            loss = batch.labelled.loss if batch.has_scores else np.zeros(0)
            return cls(Counts.measure(run, batch), *fixed_squares(loss))

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
    by_group: StatesByName = field(default_factory=no_groups)  # [GROUPS, 3] of top2, top5 and brier

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
        if not rows.has_scores:
            return replace(
                cls.zero(run),
                count_state=CountState.measure(run, batch),
                histograms=ScoreHistograms.measure(run, batch),
            )
        above, same = rows.rank, rows.ties
        # Expected hit when equal logits are ordered at random: k - g of the e + 1 tied places lie inside the top k.
        top2, top5 = (fixed_each(np.clip((k - above) / (same + 1), 0, 1)) for k in TOP_KS)
        p = rows.probabilities  # [rows, classes]
        true = p[np.arange(len(rows)), rows.label].astype(np.float64)
        brier = np.maximum(np.einsum("ij,ij->i", p, p) - 2 * true + 1, 0)  # sum of (p - y)² over the classes
        state, each = CountState.measure(run, batch), fixed_each(brier)
        grouped = sum_by_group(rows, lambda: np.stack([top2, top5, each], axis=1))
        sums = top2.sum(), top5.sum(), each.sum(), fixed(brier**2)
        return cls(state, ScoreHistograms.measure(run, batch), *sums, grouped)

    @property
    def counts(self) -> Counts:
        """Counts of rows."""
        return self.count_state.counts

    @property
    def has_scores(self) -> bool:
        """Whether the scores of all classes were known."""
        return bool(self.histograms.every.any())

    @property
    def metrics(self) -> CountMetrics:
        """Counts by class and the metrics that follow from them."""
        return self.count_state.metrics

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Results computed from this state, so that panels that share it compute them once."""
        return {}

    @property
    def means_without(self) -> Floats:
        """[groups, 3] top-2 and top-5 accuracy and Brier score without each group of rows that belong together."""
        grouped = self.by_group.states.get(self.metrics.group_column)
        if grouped is None:
            return np.zeros((0, 3))
        return np.asarray(grouped.without * FIXED_UNIT / np.maximum(grouped.rows_without, 1)[:, None])

    @cached_property
    def aurc(self) -> Estimate:
        """Area under the risk–coverage curve."""
        return score_histograms.aurc(self.histograms.confidence)

    @cached_property
    def half_widths(self) -> dict[str, float]:
        """Half widths of intervals of AUROC and average precision, mean over classes, without the histogram's bound."""
        grouped = self.histograms.true_grouped, self.histograms.every_grouped
        metrics = {
            "auroc": score_histograms.auroc,
            "average_precision": functools.partial(score_histograms.average_precision, bounded=False),
        }
        half_width = grouped_jackknife if self.metrics.group_column else jackknife
        return {
            name: float(half_width(grouped, lambda t, e, metric=metric: np.array(mean_of_defined(metric(t, e).value))))
            for name, metric in metrics.items()
        }


AnyState = CountState | MetricState
