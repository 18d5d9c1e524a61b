"""The positive class of two: its metrics against scikit-learn, and its thresholds against the rows themselves."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from predboard.metrics import two_classes
from predboard.metrics.metric_state import CountState, MetricState
from predboard.metrics.score_histograms import bin_edges
from predboard.metrics.two_classes import CRITERIA, Criterion, Outcome, operating_points
from predboard.metrics.values import positive_metrics
from predboard.predictions.derive import to_log_probabilities
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from tests import toy

RUN = Run(classes=("cat", "dog"), model="toy.py:build")


def scored(z: NDArray[np.float64], label: NDArray[np.int64]) -> Predictions:
    """Rows of a model whose single output is z."""
    return toy.predictions(RUN, np.stack([np.zeros(len(z)), z], axis=1).astype(np.float32), label)


def imbalanced(rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One in ten positive; their scores overlap with the others'."""
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.1).astype(np.int64)
    return random.normal(-2 + 2.2 * label, 1.5), label


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=40), st.sampled_from([0, 1]))
@example([(0, True), (0, False)], 1)  # the output 0 is the other class
@example([(1, True)], 1)
def test_metrics_are_those_of_scikit_learn(rows: list[tuple[int, bool]], positive: int) -> None:
    z, label = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], np.int64)
    metrics = positive_metrics(MetricState.measure(RUN, scored(z, label)), positive)
    true, score = label == positive, z if positive else -z
    predicted = (z > 0) == positive
    expected = {
        "precision": precision_score(true, predicted, zero_division=np.nan),
        "recall": recall_score(true, predicted, zero_division=np.nan),
        "specificity": recall_score(~true, ~predicted, zero_division=np.nan),
        "f1": f1_score(true, predicted, zero_division=np.nan),
        "average_precision": average_precision_score(true, score) if true.any() else np.nan,
        "auroc": roc_auc_score(true, score) if true.any() and not true.all() else np.nan,
    }
    assert set(metrics) == {f"positive/{name}" for name, value in expected.items() if not math.isnan(value)}
    for name, metric in metrics.items():
        assert abs(metric.value - expected[name.removeprefix("positive/")]) <= (metric.bound or 0) + 1e-12
        assert metric.interval is None or metric.interval[0] <= metric.value <= metric.interval[1]
    light = positive_metrics(CountState.measure(RUN, scored(z, label)), positive)
    assert light == {name: metric for name, metric in metrics.items() if metric.bound is None}


def chosen_by_hand(criterion: Criterion, p: NDArray[np.float64], true: NDArray[np.bool_]) -> float | None:
    """The edge that a loop over all edges chooses: the best figure first, then the highest edge."""
    best: tuple[float, float] | None = None
    for edge in bin_edges(4096)[:-1].tolist():
        taken = p >= edge
        if not (tp := int((taken & true).sum())):
            continue
        precision, recall, fpr = tp / taken.sum(), tp / true.sum(), (taken & ~true).sum() / (~true).sum()
        if criterion.figure == "f1":
            value = 2 * tp / (taken.sum() + true.sum())
        elif criterion.figure == "youden":
            value = round(recall - fpr, 12)
        elif criterion.figure == "recall":
            value = -math.inf if recall < (criterion.target or 0) - 1e-12 else 0.0
        else:
            target = criterion.target or 0.0
            met = precision >= target - 1e-12 if criterion.figure == "precision" else fpr <= target + 1e-12
            value = recall if met else -math.inf
        if value > -math.inf and (best is None or (value, edge) > best):
            best = value, edge
    return best and best[1]


@pytest.mark.parametrize("rows", [60, 1500])
def test_thresholds_are_chosen_on_one_half_and_tested_on_the_other(rows: int) -> None:
    z, label = imbalanced(rows)
    batch = scored(z, label)
    points = operating_points(MetricState.measure(RUN, batch).histograms, 1)
    assert list(points) == list(CRITERIA)
    p, true = 1 / (1 + np.exp(-z.astype(np.float32).astype(np.float64))), label == 1
    half = jackknife_group(batch.key) % 2 == 0
    for criterion, point in points.items():
        edge = chosen_by_hand(criterion, p[half], true[half])
        if point is None:
            assert edge is None
            continue
        assert point.threshold == edge
        for outcome, rows_of in ((point.fitted, half), (point.tested, ~half)):
            taken = p[rows_of] >= edge
            is_true = true[rows_of]
            assert outcome == Outcome(
                int((taken & is_true).sum()),
                int((taken & ~is_true).sum()),
                int((~taken & is_true).sum()),
                int((~taken & ~is_true).sum()),
            )
        assert point.logit == pytest.approx(math.log(edge / (1 - edge)) if edge else None)


def test_what_cannot_be_reached_has_no_threshold() -> None:
    random = np.random.default_rng(3)
    label = (random.random(400) < 0.3).astype(np.int64)
    z = np.where(random.random(400) < 0.5, 5.0, -5.0)  # says nothing of the label
    points = operating_points(MetricState.measure(RUN, scored(z, label)).histograms, 1)
    absent = {criterion.name for criterion, point in points.items() if point is None}
    assert absent == {"precision ≥ 0.9", "precision ≥ 0.95", "precision ≥ 0.99", "FPR ≤ 1 %", "FPR ≤ 0.1 %"}
    every = points[Criterion("recall", 0.99)]
    assert every is not None
    assert every.tested.recall == 1
    assert every.logit == pytest.approx(-5, abs=0.02)


def test_there_are_no_thresholds_without_both_classes_in_each_half() -> None:
    z, label = imbalanced(300)
    one = np.zeros_like(label)
    one[0] = 1
    for labels in (one, np.ones_like(label)):
        assert operating_points(MetricState.measure(RUN, scored(z, labels)).histograms, 1) == {}


def test_a_target_holds_fails_or_stays_unsure() -> None:
    def verdict(hits: int, false_alarms: int) -> str:
        outcome = Outcome(hits, false_alarms, 10, 10_000)
        return two_classes.OperatingPoint(0.5, outcome, outcome).verdict(Criterion("precision", 0.9))

    assert [verdict(990, 10), verdict(90, 10), verdict(500, 500), verdict(0, 0)] == ["yes", "unsure", "no", ""]
    alarms = Outcome(5, 5, 5, 9_995)
    assert two_classes.OperatingPoint(0.5, alarms, alarms).verdict(Criterion("fpr", 0.01)) == "yes"


CHEXNET = toy.SHARED / "chexnet" / "chexnet.npz"


@pytest.mark.skipif(not CHEXNET.exists(), reason=f"needs {CHEXNET}: real probabilities of 22,433 chest X-rays")
def test_pneumothorax_of_chexnet() -> None:
    """Values of scikit-learn, and the AUROC that the authors of the reproduction published."""
    with np.load(CHEXNET) as saved:
        column = saved["names"].tolist().index("Pneumothorax")
        p, label = saved["prob"][:, column].astype(np.float64), saved["label"][:, column].astype(np.int64)
    run = Run(classes=("absent", "Pneumothorax"), model="chexnet", scores="log_probabilities")
    logits, _ = to_log_probabilities(np.stack([1 - p, p], axis=1))
    metrics = positive_metrics(MetricState.measure(run, toy.predictions(run, logits, label)), 1)
    expected = {"precision": 0.52304, "recall": 0.17723, "f1": 0.26475, "average_precision": 0.34218, "auroc": 0.87761}
    for name, value in expected.items():
        metric = metrics[f"positive/{name}"]
        assert abs(metric.value - value) <= (metric.bound or 0) + 5e-6
    assert abs(metrics["positive/auroc"].value - 0.8776145) <= (metrics["positive/auroc"].bound or 0)
