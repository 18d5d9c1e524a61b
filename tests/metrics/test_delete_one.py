"""Intervals of what ranks rows: against leaving out each row by scikit-learn, and around its exact values, always."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from predboard.metrics import score_histograms
from predboard.metrics.classification import FEW_IMAGES, class_auroc, class_average_precision
from predboard.metrics.delete_one import aurc_half_width, auroc_half_width, average_precision_half_width
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import overall_metrics
from predboard.predictions.derive import to_log_probabilities
from predboard.predictions.schema import Run
from tests import toy

Floats = NDArray[np.float64]


def slow_aurc(wrong: NDArray[np.bool_], score: Floats) -> float:
    order = np.argsort(-score)
    return float((np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)).mean())


def slow_half_width(metric: Callable[[Any, Any], float], true: NDArray[np.bool_], score: Floats) -> float:
    without = np.array([metric(np.delete(true, i), np.delete(score, i)) for i in range(len(true))])
    return float(1.959964 * np.sqrt((len(true) - 1) / len(true) * ((without - without.mean()) ** 2).sum()))


@pytest.mark.parametrize("rows", [4, 60])
def test_with_a_row_in_each_bin_half_widths_are_those_of_leaving_out_each_row(rows: int) -> None:
    random = np.random.default_rng(rows)
    true, score = np.arange(rows) % 2 == 0, random.permutation(rows).astype(np.float64)
    counts = np.stack([np.bincount(score[which].astype(int), minlength=rows) for which in (true, ~true)])
    every = counts.sum(axis=0)
    assert float(auroc_half_width(counts[0], every)) == pytest.approx(slow_half_width(roc_auc_score, true, score))
    assert float(average_precision_half_width(counts[0], every)) == pytest.approx(
        slow_half_width(average_precision_score, true, score)
    )
    assert float(aurc_half_width(counts)) == pytest.approx(slow_half_width(slow_aurc, true, score))


def test_one_row_of_a_class_gives_it_no_interval() -> None:
    true, every = np.array([[0, 1, 0], [1, 1, 0]]), np.array([[2, 3, 2], [2, 3, 2]])
    for half in (auroc_half_width, average_precision_half_width):
        assert np.isnan(half(true, every)).tolist() == [True, False]
    assert np.isnan(aurc_half_width(np.array([[0, 1], [0, 0]])))


SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "as they are": lambda p: p,
    "two decimals": lambda p: np.round(p, 2),
    "one decimal": lambda p: np.round(p, 1),
    "eighths": lambda p: np.round(8 * p) / 8,
    "bytes": lambda p: np.round(255 * p) / 255,
    "two decimals, not summing to 1": lambda p: np.round(p, 2),
    "single precision": lambda p: (p**9 / (p**9).sum(axis=1, keepdims=True)).astype(np.float32).astype(np.float64),
    "one-hot": lambda p: np.where(p == p.max(axis=1, keepdims=True), 1.0, 0.0),
    "hard": lambda p: np.where(p == p.max(axis=1, keepdims=True), 0.9, 0.1 / (p.shape[1] - 1)),
    "nearly constant": lambda p: 1 / p.shape[1] + 1e-5 * (p - 1 / p.shape[1]),
    "constant": lambda p: np.full_like(p, 1 / p.shape[1]),
    "half of it": lambda p: np.where(p == p.max(axis=1, keepdims=True), 0.5, p * 0.5 / (1 - p.max(axis=1))[:, None]),
}


def shaped(seed: int, classes: int, rows: int, shape: str) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities of some shape that sum to 1, whose last class takes what rounding leaves, and labels."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    logits = (
        random.normal(0, random.choice([0.1, 1, 5]), (rows, classes)) + 2 * random.random() * np.eye(classes)[label]
    )
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = SHAPES[shape](p / p.sum(axis=1, keepdims=True))
    if shape in ("two decimals, not summing to 1", "single precision"):
        return p, label
    over = np.maximum(p[:, :-1].sum(axis=1) - 1, 0)
    p[np.arange(rows), p[:, :-1].argmax(axis=1)] -= over
    p[:, -1] = np.maximum(1 - p[:, :-1].sum(axis=1), 0)
    return np.round(p, 15), label


def state_of(p: Floats, label: NDArray[np.int64], scores: str = "log_probabilities") -> MetricState:
    run = Run(classes=tuple(f"class{i}" for i in range(p.shape[1])), model="toy.py:build", scores=scores)
    return MetricState.measure(run, toy.predictions(run, to_log_probabilities(p)[0], label))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 7]), st.integers(2, 90), st.sampled_from(sorted(SHAPES)))
@example(1, 3, 90, "half of it")
@example(2, 2, 90, "hard")
@example(3, 7, 90, "nearly constant")
def test_the_exact_value_is_within_bound_and_interval_whatever_the_scores(
    seed: int, classes: int, rows: int, shape: str
) -> None:
    p, label = shaped(seed, classes, rows, shape)
    state = state_of(p, label)
    for metric, exact in (
        (class_auroc(state), roc_auc_score),
        (class_average_precision(state), average_precision_score),
    ):
        for c in np.unique(label).tolist():
            if (label == c).all():
                continue
            value = exact(label == c, p[:, c])
            assert abs(metric.value[c] - value) <= metric.bound[c] + 1e-9
            if not np.isnan(metric.lower[c]):
                assert metric.lower[c] - 1e-9 <= value <= metric.upper[c] + 1e-9


def test_hard_scores_have_wide_intervals_over_all_classes_and_none_of_a_class() -> None:
    p, label = shaped(0, 3, 400, "hard")
    state = state_of(p, label)
    overall = overall_metrics(state)
    exact = {
        "auroc_macro": np.mean([roc_auc_score(label == c, p[:, c]) for c in range(3)]),
        "average_precision_macro": np.mean([average_precision_score(label == c, p[:, c]) for c in range(3)]),
    }
    for name, value in exact.items():
        metric = overall[name]
        assert metric.interval is not None
        assert metric.bound is not None
        assert metric.bound > 0.1
        assert metric.interval[0] <= min(max(metric.value - metric.bound, 0), value)
        assert metric.interval[1] >= max(min(metric.value + metric.bound, 1), value)
    assert np.isnan(class_average_precision(state).lower).all()
    aurc = overall["aurc"]
    wrong = p.argmax(axis=1) != label
    assert aurc.interval is not None
    for worst in (wrong, ~wrong):  # rows of equal confidence come in any order
        assert aurc.interval[0] <= slow_aurc(wrong, worst.astype(np.float64)) <= aurc.interval[1]


@pytest.mark.parametrize(("classes", "rows"), [(10, 1500), (1000, 3000), (150, 6000)])
def test_intervals_of_classes_are_within_a_tenth_of_leaving_out_each_row(classes: int, rows: int) -> None:
    random = np.random.default_rng(classes)
    label = random.integers(0, classes, rows)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), label] += random.normal(2.5, 1, rows)
    logits *= 2
    run = Run(classes=tuple(f"class{i}" for i in range(classes)), model="toy.py:build")
    batch = toy.predictions(run, logits, label)
    metric = class_average_precision(MetricState.measure(run, batch))
    shown = np.flatnonzero((metric.lower > 0) | (metric.upper < 1))  # one end is not cut
    images = np.bincount(label, minlength=classes)
    assert len(shown) > 0.3 * (images > 1).sum()  # one is missing, or both ends are cut
    assert not np.isnan(metric.lower[images >= FEW_IMAGES]).any()
    for c in shown[:: max(len(shown) // 5, 1)]:
        score = batch.labelled.probabilities[:, c].astype(np.float64)
        half = one_by_one(label == c, score)
        shown_half = max(metric.upper[c] - metric.value[c], metric.value[c] - metric.lower[c])
        assert shown_half == pytest.approx(half, rel=0.1)


def one_by_one(true: NDArray[np.bool_], score: Floats) -> float:
    """Half width of the average precision of scores that all differ, by cumulative sums over the sorted rows."""
    hit = true[np.argsort(-score)].astype(np.float64)
    tp, rank = np.cumsum(hit), np.arange(1, len(hit) + 1)
    whole, less = hit * tp / rank, np.maximum(rank - 1, 1)
    no_hit, no_miss = hit * (tp - 1) / less, hit * tp / less
    below = [x.sum() - np.cumsum(x) for x in (no_hit, no_miss)]
    above = np.cumsum(whole) - whole
    without = np.where(hit > 0, (above + below[0]) / (tp[-1] - 1), (above + whole + below[1]) / tp[-1])
    return float(1.959964 * np.sqrt((len(hit) - 1) / len(hit) * ((without - without.mean()) ** 2).sum()))


def test_leaving_out_one_by_one_by_sums_is_what_scikit_learn_gives() -> None:
    random = np.random.default_rng(0)
    true, score = random.random(40) < 0.3, random.random(40)
    assert one_by_one(true, score) == pytest.approx(slow_half_width(average_precision_score, true, score))


def test_the_bins_of_one_half_take_what_rounding_leaves_of_ties() -> None:
    random = np.random.default_rng(0)
    p = np.concatenate([np.full((500, 1), 0.5), random.dirichlet(np.ones(4), 500) / 2], axis=1)
    state = state_of(p, np.zeros(500, np.int64), "logits")
    assert np.count_nonzero(state.histograms.every[0]) == 1
    assert score_histograms.score_of_probability(np.array([0.5, 0.500001], np.float32)).max() < 0
