"""Shared states -> every figure by name, with its interval, definition and bound. Knows no drawing and no files.

Proportions have Wilson's interval. Figures that weigh classes are drawn anew from the confusion cells: a cell of n rows
becomes Poisson(n), which is what drawing each row Poisson(1) times does to it. Means over rows go by their sum and sum
of squares; what asks for the order of rows by leaving out one of 20 groups after the other (`ranking.jackknife`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import counts as tally
from predboard.metrics import score_histograms
from predboard.metrics.bootstrap import ClassSums, bias_corrected_interval, poisson_resamples
from predboard.metrics.counts import CountMetrics, Counts, confusion_metrics
from predboard.metrics.intervals import (
    JACCARD,
    JACKKNIFE,
    MEAN,
    WILSON,
    jaccard_to_f1,
    jackknife,
    mean_interval,
    wilson_interval,
    wilson_intervals,
)
from predboard.metrics.score_histograms import Estimate, ScoreHistograms, mean_of_defined
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import FIXED_UNIT, fixed, greatest, summed
from predboard.summaries import Metric

COLUMNS = tally.COLUMNS | score_histograms.COLUMNS
"""Columns that `Evidence.measure` reads; `Basis.measure` reads those of the tally."""

TOP_KS = (2, 5)
"""Numbers of highest classes among which the true one is looked for."""

MAX_SQUARE = 2.0**16
"""Squares are cut here: a loss above 256 nats counts as 256 in the width of the interval, so that no sum overflows."""

DEFINITIONS = {
    "accuracy": "Share of images whose highest logit is the true class.",
    "accuracy_top2": "Share of images whose true class is among the 2 highest logits; of ties the expected share.",
    "accuracy_top5": "Share of images whose true class is among the 5 highest logits; of ties the expected share.",
    "balanced_accuracy": "Mean recall over classes with images.",
    "precision_macro": "Mean precision over classes with images or predictions; division by zero counts 0.",
    "recall_macro": "Mean recall over classes with images or predictions; division by zero counts 0.",
    "f1_macro": "Mean F1 over classes with images or predictions; division by zero counts 0.",
    "f1_weighted": "Mean F1 over classes, weighed by their images.",
    "mcc": "Matthews correlation coefficient of several classes (Gorodkin's R_K): 1 perfect, 0 as good as chance.",
    "nll": "Mean negative log-likelihood of the true class, nats.",
    "brier": "Mean of the squared distances of all probabilities from 0 and 1, summed over classes: 0 best, 2 worst.",
    "auroc_macro": "Area under the ROC curve, one class against the rest, mean over classes with images.",
    "average_precision_macro": "Average precision (step sum), a class against the rest, mean over classes with images.",
    "aurc": "Area under the risk–coverage curve: mean error rate of the most confident images, over all shares kept.",
}
WITHOUT_LOGITS = frozenset(
    [
        *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_weighted", "mcc", "nll"),
        *("precision", "recall", "f1"),
    ]
)
"""Figures of all classes and of a class that `CountState` has."""

LESS_IS_BETTER = frozenset({"nll", "brier", "aurc"})
"""Of `DEFINITIONS`; of the others more is better."""

OF_A_CLASS = {
    "precision": "Share of the images predicted as the class that are of it.",
    "recall": "Share of the images of the class that are predicted as it.",
    "f1": "Harmonic mean of precision and recall.",
    "average_precision": "Average precision (step sum) of the class against the rest.",
    "auroc": "Area under the ROC curve of the class against the rest.",
}
HOW_OF_A_CLASS = {
    **dict.fromkeys(("precision", "recall"), WILSON),
    "f1": JACCARD,
    **dict.fromkeys(("average_precision", "auroc"), JACKKNIFE),
}


@dataclass(frozen=True)
class ClassMetric:
    """One figure of all classes: [classes] each, nan where a class has none."""

    value: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    bound: NDArray[np.float64]
    """How far the exact value may be away; nan where it is exact."""
    rows: NDArray[np.int64]
    """Images that it rests on: of the class, predicted as it (precision), or either (F1)."""


@dataclass(frozen=True)
class CountState:
    """Mergeable state from which the figures follow that need no logits."""

    tally: Counts
    classes: np.int64 = greatest()  # how many there are
    loss_squares: np.int64 = summed()  # nats², each cut at SQUARE

    @classmethod
    def zero(cls, run: Run) -> "CountState":
        """No rows."""
        return cls(Counts.zero(), np.int64(len(run.classes)), np.int64(0))

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "CountState":
        """These rows alone, measured once for all panels that share it."""

        def count() -> CountState:
            squares = np.minimum(np.square(batch.labelled.loss, dtype=np.float64), MAX_SQUARE)
            return cls(Counts.measure(run, batch), np.int64(len(run.classes)), fixed(squares))

        return batch.memoize(CountState, count)

    @cached_property
    def scores(self) -> CountMetrics:
        """Counts by class and what follows from them."""
        return self.tally.scores(int(self.classes))

    @cached_property
    def overall(self) -> dict[str, Metric]:
        """Figures of all classes together by name; what is not defined is left out."""
        scores, n = self.scores, self.scores.counted
        if not n:
            return {}
        found = {"accuracy": _share("accuracy", float(scores.hits.sum()), n)}
        draws = resample_confusion(scores)
        for name, value in scores.means.items():
            how = f"bias-corrected bootstrap of the confusion cells, {len(draws[name]):,} draws"
            found[name] = Metric(value, bias_corrected_interval(value, draws[name]), DEFINITIONS[name], how, rows=n)
        found["nll"] = _mean("nll", self.tally.loss, self.loss_squares, n)
        return found

    @cached_property
    def by_class(self) -> dict[str, ClassMetric]:
        """Figures of single classes, in the order of `OF_A_CLASS`."""
        s = self.scores
        union = s.support + s.predictions - s.hits  # rows of the class or predicted as it; F1 = 2 J / (1 + J)
        return {
            "precision": _exact(s.precision, wilson_intervals(s.hits, s.predictions), s.predictions),
            "recall": _exact(s.recall, wilson_intervals(s.hits, s.support), s.support),
            "f1": _exact(s.f1, jaccard_to_f1(wilson_intervals(s.hits, union)), union),
        }


@dataclass(frozen=True)
class MetricState:
    """Mergeable state from which all figures follow."""

    basis: CountState
    ranking: ScoreHistograms
    top2: np.int64 = summed()  # expected hits among the 2 highest, fixed point
    top5: np.int64 = summed()
    brier: np.int64 = summed()  # sum of each row's Brier score, fixed point
    brier_squares: np.int64 = summed()

    @classmethod
    def zero(cls, run: Run) -> "MetricState":
        """No rows."""
        none = np.int64(0)
        return cls(CountState.zero(run), ScoreHistograms.zero(run), none, none, none, none)

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "MetricState":
        """These rows alone, measured once for all panels that share it."""
        return batch.memoize(MetricState, lambda: cls._measured(run, batch))

    @classmethod
    def _measured(cls, run: Run, batch: Predictions) -> "MetricState":
        rows = batch.labelled
        above, same = rows.rank, rows.ties
        # Expected hit when equal logits are ordered at random: k - g of the e + 1 tied places lie inside the top k.
        top2, top5 = (fixed(np.clip((k - above) / (same + 1), 0, 1)) for k in TOP_KS)
        p = rows.probabilities
        true = p[np.arange(len(rows)), rows.label].astype(np.float64)
        brier = np.maximum(np.einsum("ij,ij->i", p, p) - 2 * true + 1, 0)  # sum of (p - y)² over the classes
        basis = CountState.measure(run, batch)
        return cls(basis, ScoreHistograms.measure(run, batch), top2, top5, fixed(brier), fixed(brier**2))

    @property
    def tally(self) -> Counts:
        """Counts of rows."""
        return self.basis.tally

    @property
    def scores(self) -> CountMetrics:
        """Counts by class and what follows from them."""
        return self.basis.scores

    @cached_property
    def overall(self) -> dict[str, Metric]:
        """Every figure of all classes together, in the order of `DEFINITIONS`; what is not defined is left out."""
        n = self.scores.counted
        if not n:
            return {}
        found = dict(self.basis.overall)
        for k, hits in zip(TOP_KS, (self.top2, self.top5), strict=True):
            if k < self.scores.classes:
                found[f"accuracy_top{k}"] = _share(f"accuracy_top{k}", float(hits * FIXED_UNIT), n)
        found["brier"] = _mean("brier", self.brier, self.brier_squares, n)
        ranked = self._ranked
        for name, value, half, bound in (
            *(
                (f"{name}_macro", mean_of_defined(of.value), self._half[name][0], mean_of_defined(of.bound))
                for name, of in ranked.items()
            ),
            ("aurc", float(self._aurc.value), self._half["aurc"][0], float(self._aurc.bound)),
        ):
            if not np.isnan(value):
                ends = None if np.isnan(half) else (max(value - float(half), 0.0), min(value + float(half), 1.0))
                found[name] = Metric(value, ends, DEFINITIONS[name], JACKKNIFE, bound, n)
        return {name: found[name] for name in DEFINITIONS if name in found}

    @cached_property
    def by_class(self) -> dict[str, ClassMetric]:
        """Every figure of single classes, in the order of `OF_A_CLASS`."""
        found = dict(self.basis.by_class)
        for name in ("average_precision", "auroc"):
            of, half = self._ranked[name], self._half[name][1:]
            ends = np.clip([of.value - half, of.value + half], 0, 1)
            found[name] = ClassMetric(of.value, ends[0], ends[1], of.bound, self.scores.support)
        return found

    @property
    def _ranked(self) -> dict[str, Estimate]:
        return {"auroc": self.ranking.auroc, "average_precision": self.ranking.average_precision}

    @cached_property
    def _aurc(self) -> Estimate:
        return score_histograms.aurc(self.ranking.confidence.sum(axis=0))

    @cached_property
    def _half(self) -> dict[str, NDArray[np.float64]]:
        """Half widths of intervals: of the mean over classes, then of each class."""
        grouped = self.ranking.true_grouped, self.ranking.every_grouped

        def mean_first(of: Estimate) -> NDArray[np.float64]:
            return np.concatenate([[mean_of_defined(of.value)], of.value])

        return {
            "auroc": jackknife(grouped, lambda *counts: mean_first(score_histograms.auroc(*counts))),
            "average_precision": jackknife(
                grouped, lambda t, e: mean_first(score_histograms.average_precision(t, e, bounded=False))
            ),
            "aurc": jackknife((self.ranking.confidence,), lambda counts: score_histograms.aurc(counts).value[None]),
        }


def _share(name: str, hits: float, n: int) -> Metric:
    """That of `hits` of `n` rows."""
    return Metric(hits / n, wilson_interval(hits, n), DEFINITIONS[name], WILSON, rows=n)


def _mean(name: str, total: np.int64, squares: np.int64, n: int) -> Metric:
    """That of the mean of `n` numbers, none below 0, from their sum and that of their squares in `FIXED_UNIT`s."""
    mean = float(total * FIXED_UNIT / n)
    ends = mean_interval(mean, max(float(squares * FIXED_UNIT / n) - mean**2, 0.0), n)
    return Metric(mean, ends and (max(ends[0], 0.0), ends[1]), DEFINITIONS[name], MEAN, rows=n)


def _exact(value: NDArray[np.float64], ends: Sequence[NDArray[np.float64]], rows: NDArray[np.int64]) -> ClassMetric:
    """Without a bound, and nan for a class where it rests on no rows."""
    value, lower, upper = (np.where(rows > 0, of, np.nan) for of in (value, *ends))
    return ClassMetric(value, lower, upper, np.full(len(rows), np.nan), rows)


def class_metrics(chosen: Sequence[int], by_class: Mapping[str, ClassMetric]) -> list[dict[str, Metric]]:
    """The figures of each chosen class by name; what is not defined is left out."""
    found: list[dict[str, Metric]] = [{} for _ in chosen]
    for name, column in by_class.items():
        columns = (column.value, column.lower, column.upper, column.bound, column.rows)
        for of, value, lower, upper, bound, rows in zip(found, *(c[chosen].tolist() for c in columns), strict=True):
            if not math.isnan(value):
                ends = None if math.isnan(lower) else (lower, upper)
                near = None if math.isnan(bound) else bound
                of[name] = Metric(value, ends, OF_A_CLASS[name], HOW_OF_A_CLASS[name], near, rows)
    return found


def resample_confusion(scores: CountMetrics) -> dict[str, NDArray[np.float64]]:
    """The figures of `tally.means` with each confusion cell of n rows replaced by Poisson(n), again and again.

    -> [draws] each, nan where not defined.
    """
    true, predicted, count = scores.cells
    there = scores.support + scores.predictions > 0
    place, classes = np.cumsum(there) - 1, int(there.sum())
    right = ClassSums(np.where(true == predicted, place[true], -1), classes)
    by_true, by_predicted = ClassSums(place[true], classes), ClassSums(place[predicted], classes)
    found: dict[str, list[NDArray[np.float64]]] = {}
    most = int(max(scores.support.max(), scores.predictions.max()))
    for n in poisson_resamples(count, true.tobytes() + predicted.tobytes(), classes, most):
        for name, values in confusion_metrics(*(of(n).T for of in (right, by_true, by_predicted))).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}
