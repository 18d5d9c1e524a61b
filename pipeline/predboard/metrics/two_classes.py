"""Computes how well one class of two is found: its metrics, and the thresholds at which to accept it.

It knows no drawing and no files, and not which of the two classes is the positive one. All follows from states that
other metrics share. At an edge between two bins of `score_histograms` the counts are exact, so a threshold is one.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import classification
from predboard.metrics.intervals import jaccard_to_f1, wilson_interval
from predboard.metrics.metric_state import AnyState, ClassMetric, MetricState
from predboard.metrics.score_histograms import ScoreHistograms, bin_edges, positives_by_threshold
from predboard.summaries import Metric

Figure = Literal["f1", "precision", "recall", "fpr", "youden"]

_BinCounts = NDArray[np.int64]


# --- metrics, without their names and definitions, which `metrics.registry` has ---


def precision(state: AnyState, positive: int) -> Metric | None:
    """Return the precision of the class `positive`; None if no image is predicted as it."""
    return _of_class(classification.class_precision(state), positive)


def recall(state: AnyState, positive: int) -> Metric | None:
    """Return the recall of the class `positive`; None if it has no images."""
    return _of_class(classification.class_recall(state), positive)


def specificity(state: AnyState, positive: int) -> Metric | None:
    """Return the recall of the other class; None if that has no images."""
    return _of_class(classification.class_recall(state), 1 - positive)


def f1(state: AnyState, positive: int) -> Metric | None:
    """Return the F1 of the class `positive`; None if no image is of it or predicted as it."""
    return _of_class(classification.class_f1(state), positive)


def average_precision(state: MetricState, positive: int) -> Metric | None:
    """Return the average precision of the class `positive`; None if it has no images."""
    return _of_class(classification.class_average_precision(state), positive)


def auroc(state: MetricState, positive: int) -> Metric | None:
    """Return the area under the ROC curve; None without images of both classes."""
    return _of_class(classification.class_auroc(state), positive)


def _of_class(metric: ClassMetric, c: int) -> Metric | None:
    value, lower, upper, bound = (float(n[c]) for n in (metric.value, metric.lower, metric.upper, metric.bound))
    if math.isnan(value):
        return None
    ends = None if math.isnan(lower) else (lower, upper)
    near = None if math.isnan(bound) else bound
    return Metric(value, ends, method=metric.method, bound=near, rows=int(metric.rows[c]))


def ranks_well(state: AnyState, positive: int) -> bool:
    """Return whether two classes are told apart: the interval of the AUROC is above one half."""
    area = auroc(state, positive) if isinstance(state, MetricState) and state.has_scores else None
    return area is not None and area.interval is not None and area.interval[0] > 0.5


# --- thresholds ---


@dataclass(frozen=True)
class Outcome:
    """Counts of images if those from some probability on are taken as positive.

    >>> outcome = Outcome(hits=3, false_alarms=1, misses=2, rejections=4)
    >>> outcome.precision, outcome.recall, outcome.fpr, round(outcome.f1, 4)
    (0.75, 0.6, 0.2, 0.6667)
    """

    hits: int
    """Positive images that are taken as positive."""
    false_alarms: int
    """Other images that are taken as positive."""
    misses: int
    rejections: int
    """Other images that are not taken as positive."""

    @property
    def precision(self) -> float:
        """Share of the images taken as positive that are; nan if none is taken."""
        return _share(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        """Share of the positive images that are taken as such."""
        return _share(self.hits, self.hits + self.misses)

    @property
    def fpr(self) -> float:
        """False positive rate: share of the other images that are taken as positive; 1 - specificity."""
        return _share(self.false_alarms, self.false_alarms + self.rejections)

    @property
    def f1(self) -> float:
        """2 hits / (taken + positive)."""
        return _share(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def youden(self) -> float:
        """Youden's J, recall - FPR (Youden 1950)."""
        return self.recall - self.fpr

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals by name: Wilson's, and of F1 that of the Jaccard index; none where nothing was counted."""
        union = self.hits + self.false_alarms + self.misses
        counts = {
            "precision": (self.hits, self.hits + self.false_alarms),
            "recall": (self.hits, self.hits + self.misses),
            "fpr": (self.false_alarms, self.false_alarms + self.rejections),
            "f1": (self.hits, union),
        }
        ends = {name: wilson_interval(*of_name) for name, of_name in counts.items() if of_name[1]}
        if "f1" in ends:
            low, high = jaccard_to_f1(tuple(np.array(end) for end in ends["f1"]))
            ends["f1"] = float(low), float(high)
        return ends


@dataclass(frozen=True)
class Criterion:
    """What a threshold is chosen for: the highest value of a figure, or the best other one at a value of it."""

    figure: Figure
    target: float | None = None
    """The least value, of the false positive rate the greatest; None for the highest there is."""

    @property
    def name(self) -> str:
        """The criterion in words.

        >>> Criterion("f1").name, Criterion("recall", 0.95).name, Criterion("fpr", 0.001).name
        ('best F1', 'recall ≥ 0.95', 'FPR ≤ 0.1 %')
        """
        if self.target is None:
            return {"f1": "best F1", "youden": "best Youden's J"}[self.figure]
        return f"FPR ≤ {100 * self.target:g} %" if self.figure == "fpr" else f"{self.figure} ≥ {self.target:g}"

    def choose(self, tp: _BinCounts, fp: _BinCounts) -> int | None:
        """Return how many of the highest bins to take, less one; of equally good numbers the smallest.

        Args:
            tp, fp: true and false positives if the highest 1, 2, … bins are taken, [bins]; some of both in the end.

        Returns:
            None if no number of bins meets the target.
        """
        positives, negatives = int(tp[-1]), int(fp[-1])
        if self.figure == "f1":
            return int((2 * tp / (tp + fp + positives)).argmax())
        if self.figure == "youden":
            return int((tp * negatives - fp * positives).argmax())
        target = self.target or 0.0
        if self.figure == "recall":  # with the fewest false alarms
            return int(np.searchsorted(tp, np.ceil(target * positives - 1e-9)))
        meets = fp <= target * negatives + 1e-9 if self.figure == "fpr" else tp >= target * (tp + fp) - 1e-9
        hits = np.where(meets, tp, 0)  # with the most hits
        return int(hits.argmax()) if hits.any() else None


CRITERIA = (
    Criterion("f1"),
    *(Criterion("precision", target) for target in (0.9, 0.95, 0.99)),
    *(Criterion("recall", target) for target in (0.9, 0.95, 0.99)),
    *(Criterion("fpr", target) for target in (0.01, 0.001)),
    Criterion("youden"),
)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold that was chosen on one half of the images, and what it does on the other half."""

    threshold: float
    """Take an image as positive if the probability of the positive class is at least this."""
    fitted: Outcome
    """On the half on which it was chosen."""
    tested: Outcome
    """On the other half."""

    @property
    def logit(self) -> float | None:
        """The threshold for the log-odds ln(p / (1 - p)), as the output of a model with a single one; None for 0."""
        return math.log(self.threshold) - math.log1p(-self.threshold) if self.threshold else None

    def verdict(self, criterion: Criterion) -> str:
        """Say whether the other half meets the target: `yes`, `no`, or `unsure` where its interval has the target.

        Empty without a target, and where the figure is undefined.
        """
        if criterion.target is None or criterion.figure not in self.tested.intervals:
            return ""
        low, high = self.tested.intervals[criterion.figure]
        if criterion.figure == "fpr":
            return "yes" if high <= criterion.target else "no" if low > criterion.target else "unsure"
        return "yes" if low >= criterion.target else "no" if high < criterion.target else "unsure"


def fold_counts(histograms: ScoreHistograms, positive: int) -> tuple[tuple[_BinCounts, _BinCounts], ...]:
    """Return `positives_by_threshold` of the half on which thresholds are chosen, and of the other half.

    Only for two classes, whose groups have as many bins as the whole.
    """
    halves = []
    for fold in (0, 1):
        true, every = (
            grouped[fold::2, positive].sum(axis=0, dtype=np.int64)
            for grouped in (histograms.true_grouped, histograms.every_grouped)
        )
        halves.append(positives_by_threshold(true, every))
    return tuple(halves)


def operating_points(histograms: ScoreHistograms, positive: int) -> dict[Criterion, OperatingPoint | None]:
    """Choose a threshold for each criterion on half of the images, and apply it to the other half.

    The halves are by a hash of the images' keys. None stands for a criterion that no threshold meets; there are none at
    all if a half lacks one of the classes.
    """
    (tp, fp), (tested_tp, tested_fp) = fold_counts(histograms, positive)
    if not all(counts[-1] for counts in (tp, fp, tested_tp, tested_fp)):
        return {}
    edge = bin_edges(len(tp))[-2::-1]

    def outcome(hits: _BinCounts, false_alarms: _BinCounts, i: int) -> Outcome:
        counts = int(hits[i]), int(false_alarms[i])
        return Outcome(*counts, int(hits[-1]) - counts[0], int(false_alarms[-1]) - counts[1])

    points: dict[Criterion, OperatingPoint | None] = {}
    for criterion in CRITERIA:
        i = criterion.choose(tp, fp)
        points[criterion] = (
            i if i is None else OperatingPoint(float(edge[i]), outcome(tp, fp, i), outcome(tested_tp, tested_fp, i))
        )
    return points


def highest_precision(histograms: ScoreHistograms, positive: int) -> float:
    """Return the highest precision at any threshold on the half on which thresholds are chosen."""
    tp, fp = fold_counts(histograms, positive)[0]
    return float((tp / np.maximum(tp + fp, 1)).max())


def curves_by_threshold(histograms: ScoreHistograms, positive: int) -> dict[str, NDArray[np.float64]]:
    """Return precision, recall, specificity and F1 by threshold, from all images.

    Returns:
        [bins] each, and `threshold` [bins], rising; the precision is nan where no image is taken.
    """
    tp, fp = (n[::-1] for n in positives_by_threshold(histograms.true[positive], histograms.every[positive]))
    positives, negatives = tp[0], fp[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "threshold": bin_edges(len(tp))[:-1],
            "precision": tp / (tp + fp),
            "recall": tp / positives,
            "specificity": 1 - fp / negatives,
            "f1": 2 * tp / (tp + fp + positives),
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
