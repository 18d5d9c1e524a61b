"""What histograms of scores say, against scikit-learn and plain loops; and that their bounds hold, always."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from predboard.metrics import class_bins, intervals, score_histograms
from predboard.metrics.score_histograms import FINE_BINS, MAX_SCORE, Estimate, ScoreHistograms
from predboard.predictions.sampling import JACKKNIFE_GROUPS, jackknife_group
from predboard.predictions.schema import Run
from tests import toy

ROUNDING = 1e-12
"""Of sums of float64."""


def named(classes: int) -> Run:
    return Run(classes=tuple(f"class{i}" for i in range(classes)), model="toy.py:build")


# Counts alone: rows lie somewhere in a bin, and the exact number is that of their places.

rows_in_bins = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), min_size=1, max_size=40)
"""(bin, place in it, whether it is of the class): places that are equal are ties."""

Rows = list[tuple[int, int, bool]]


def columns(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    bin_, place, true = zip(*rows, strict=True)
    return np.array(bin_), 10 * np.array(bin_) + np.array(place), np.array(true)


def counted(bin_: NDArray[np.int64], true: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.bincount(bin_[true], minlength=8), np.bincount(bin_, minlength=8)


def holds(found: Estimate, exact: float) -> None:
    assert float(found.bound) >= 0
    assert abs(exact - float(found.value)) <= float(found.bound) + ROUNDING


def slow_auroc(score: NDArray[Any], true: NDArray[np.bool_]) -> float:
    wins = [(a > b) + (a == b) / 2 for a in score[true].tolist() for b in score[~true].tolist()]
    return float(np.mean(wins))


def slow_aurc(order: list[bool]) -> float:
    """Of rows by falling confidence, whether each is wrong."""
    return math.fsum(sum(order[:i]) / i for i in range(1, len(order) + 1)) / len(order)


@given(rows_in_bins)
@example([(0, 0, True), (0, 1, False)])
@example([(0, 1, True), (0, 0, False)])
def test_the_bound_of_auroc_holds_whatever_the_order_inside_the_bins(rows: Rows) -> None:
    bin_, score, true = columns(rows)
    found = score_histograms.auroc(*counted(bin_, true))
    if true.all() or not true.any():
        assert np.isnan(found.value)
        assert np.isnan(found.bound)
        return
    holds(found, roc_auc_score(true, score))
    assert roc_auc_score(true, score) == pytest.approx(slow_auroc(score, true))
    assert float(found.value) == pytest.approx(roc_auc_score(true, bin_))  # rows of one bin are ties


def test_the_bound_of_auroc_is_reached_by_the_best_and_the_worst_order() -> None:
    true, every = np.array([0, 2, 1, 0]), np.array([1, 5, 4, 0])
    found = score_histograms.auroc(true, every)
    high = [0, 12, 12, 11, 11, 11, 22, 21, 21, 21]  # those of the class first in their bins
    low = [0, 11, 11, 12, 12, 12, 21, 22, 22, 22]
    of_class = np.array([0, 1, 1, 0, 0, 0, 1, 0, 0, 0], bool)
    assert roc_auc_score(of_class, high) == pytest.approx(float(found.value + found.bound))
    assert roc_auc_score(of_class, low) == pytest.approx(float(found.value - found.bound))


@given(rows_in_bins)
@example([(0, 0, True), (0, 1, False)])
@example([(0, 1, True), (0, 0, False), (0, 0, False)])
def test_the_bound_of_average_precision_holds_whatever_the_order_inside_the_bins(rows: Rows) -> None:
    bin_, score, true = columns(rows)
    found = score_histograms.average_precision(*counted(bin_, true))
    if not true.any():
        assert np.isnan(found.value)
        return
    holds(found, average_precision_score(true, score))
    for place in (0, 1):  # all of the class first in each bin, and last
        holds(found, average_precision_score(true, 100 * bin_ + 50 * (true == place) + np.arange(len(rows))))


def test_average_precision_is_exact_where_no_bin_is_mixed_and_near_it_where_rows_are_evenly_mixed() -> None:
    rows = [(b, 0, b in (1, 4, 5)) for b in range(6)]
    bin_, score, true = columns(rows)
    found = score_histograms.average_precision(*counted(bin_, true))
    assert float(found.value) == pytest.approx(average_precision_score(true, score))
    assert float(found.bound) == 0
    turns = np.arange(400)
    found = score_histograms.average_precision(np.array([100]), np.array([400]))
    assert float(found.value) == pytest.approx(average_precision_score(turns % 4 == 2, -turns), abs=0.01)


@given(rows_in_bins, st.randoms(use_true_random=False))
@example([(0, 0, True), (0, 1, False)], None)
def test_the_bound_of_aurc_holds_whatever_the_order_inside_the_bins(rows: Rows, random: Any) -> None:
    bin_, _, wrong = columns(rows)
    found = score_histograms.aurc(np.stack([counted(bin_, wrong)[0], counted(bin_, ~wrong)[0]]))
    ways: tuple[Callable[[int], float], ...] = (
        lambda i: wrong[i],  # wrong ones last of their bin, of falling confidence
        lambda i: not wrong[i],
        lambda _: random.random() if random else 0,
    )
    exact = [
        slow_aurc([bool(wrong[i]) for i in sorted(range(len(rows)), key=lambda i: (-bin_[i], way(i)))]) for way in ways
    ]
    for value in exact:
        holds(found, value)
    reach = max(abs(value - float(found.value)) for value in exact[:2])
    assert float(found.bound) == pytest.approx(reach, abs=1e-12)  # it is as small as it can be


def test_aurc_of_one_bin_is_the_mean_of_all_orders() -> None:
    orders = [[a in (i, j) for a in range(5)] for i in range(5) for j in range(i)]
    found = score_histograms.aurc(np.array([[2], [3]]))
    assert float(found.value) == pytest.approx(np.mean([slow_aurc(order) for order in orders]))


def test_aurc_of_no_rows_is_not_defined() -> None:
    assert np.isnan(score_histograms.aurc(np.zeros((2, 4), np.int64)).value)


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 11, 100, 127, 128, 129, 1000, 100_000])
def test_harmonic_numbers(n: int) -> None:
    (found,) = score_histograms._harmonic(np.array([float(n)]))
    exact = math.fsum(1 / i for i in range(1, n + 1))
    assert float(found) + 0.5772156649015329 == pytest.approx(exact, abs=1e-14)


def test_many_classes_at_once_are_each_class_alone() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 5, (3, 6))
    every = true + random.integers(0, 9, (3, 6))
    for metric in (score_histograms.auroc, score_histograms.average_precision):
        whole = metric(true, every)
        for c in range(3):
            alone = metric(true[c], every[c])
            assert whole.value[c] == alone.value
            assert whole.bound[c] == alone.bound


# The score


@given(st.floats(1e-14, 0.5))
def test_the_probability_of_a_score_is_the_one_it_came_from(p: float) -> None:
    u = np.log(p) + p
    low, high = score_histograms.probability_of_score(np.array([u, -u]))
    assert low == pytest.approx(p, rel=1e-12, abs=0)
    assert high == pytest.approx(1 - p, abs=1e-15)


def test_the_score_by_hand() -> None:
    p = np.array([0, 0.25, 0.5, 0.75, 1], np.float32)
    expected = [-np.inf, np.log(0.25) + 0.25, np.log(0.5) + 0.5, -np.log(0.25) - 0.25, np.inf]
    assert score_histograms.score_of_probability(p).tolist() == pytest.approx(expected)
    near = score_histograms.score_of_probability(
        np.ones(2, np.float32), np.array([1e-12, 1e-20], np.float32)
    )  # 1 - p would be 0
    assert near == pytest.approx([12 * np.log(10), 20 * np.log(10)], rel=1e-6)


def test_the_score_is_within_a_fifth_of_the_log_odds_and_rises() -> None:
    p = np.linspace(0.001, 0.999, 999).astype(np.float32)
    u = score_histograms.score_of_probability(p)
    assert (np.diff(u) > 0).all()
    assert np.abs(u - np.log(p / (1 - p))).max() < 0.2


@pytest.mark.parametrize("bins", [64, 512, FINE_BINS])
def test_the_edges_are_where_rows_go_into_the_next_bin(bins: int) -> None:
    edges = score_histograms.bin_edges(bins)
    assert len(edges) == bins + 1
    assert (edges[0], edges[-1]) == (0, 1)
    assert (np.diff(edges) >= 0).all()
    shift = int(np.log2(FINE_BINS // bins))
    first = np.flatnonzero((edges > 0) & (edges < 0.49))  # from -0.19 to 0.19 there is no score
    small = edges[first]
    for off, below in ((1 - 1e-5, 1), (1 + 1e-5, 0)):
        p = (small * off).astype(np.float32)
        assert ((score_histograms.bin_index(score_histograms.score_of_probability(p)) >> shift) == first - below).all()
        mirrored = score_histograms.score_of_probability(1 - p, p)
        assert ((score_histograms.bin_index(mirrored) >> shift) == bins - first - (1 - below)).all()
    assert edges[::-1] == pytest.approx(1 - edges, abs=1e-15)


def test_scores_beyond_all_bins_are_in_the_outermost() -> None:
    u = np.array(
        [-np.inf, -200, -MAX_SCORE, -MAX_SCORE + 1e-3, 0, MAX_SCORE - 1e-3, MAX_SCORE, 200, np.inf], np.float32
    )
    assert score_histograms.bin_index(u).tolist() == [
        0,
        0,
        0,
        0,
        FINE_BINS // 2,
        FINE_BINS - 1,
        FINE_BINS - 1,
        FINE_BINS - 1,
        FINE_BINS - 1,
    ]


def test_bins_halve_as_classes_double() -> None:
    assert [score_histograms.bins_per_class(k) for k in (1, 128, 129, 256, 1000, 8192, 10**6)] == [
        4096,
        4096,
        2048,
        2048,
        512,
        64,
        64,
    ]
    assert [score_histograms.coarse_bins_per_class(k) for k in (1, 10, 1000, 10**6)] == [4096, 2048, 32, 16]
    for k in (1, 10, 1000, 50_000):
        assert score_histograms.bins_per_class(k) % score_histograms.coarse_bins_per_class(k) == 0
        assert FINE_BINS % score_histograms.bins_per_class(k) == 0


# Rows


def wide(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities and what each lacks to 1, in float64, small ones exact. -> two of [rows, classes]"""
    z = logits.astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    without = np.stack([np.delete(e, k, axis=1).sum(axis=1) for k in range(e.shape[1])], axis=1)
    return e / e.sum(axis=1, keepdims=True), without / e.sum(axis=1, keepdims=True)


def wide_score(p: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.where(p <= rest, np.log(p) + p, -np.log(rest) - rest)


def spread(rows: int, classes: int, seed: int, ties: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits from nearly equal to hundreds apart, and labels."""
    logits, label = toy.table(named(classes), rows, seed, ties)
    random = np.random.default_rng(seed)
    return logits * (10 ** random.uniform(-2, 2.3, (rows, 1))).astype(np.float32), label


cases = st.builds(
    spread, st.integers(1, 80), st.sampled_from([2, 3, 10]), seed=st.integers(0, 2**32 - 1), ties=st.booleans()
)
Case = tuple[NDArray[np.float32], NDArray[np.int64]]


@given(cases)
@example(spread(80, 10, 1, ties=True))
def test_every_row_is_in_the_bin_of_its_exact_score_unless_that_is_on_an_edge(case: Case) -> None:
    logits, label = case
    rows, classes = logits.shape
    run = named(classes)
    state = ScoreHistograms.measure(run, toy.predictions(run, logits, label))
    u = np.clip(wide_score(*wide(logits)), -MAX_SCORE, MAX_SCORE)
    at = (u + MAX_SCORE) * (FINE_BINS / (2 * MAX_SCORE))  # [rows, classes] in bins
    edge = np.abs(at - np.rint(at)) < 5e-4
    at = np.clip(np.floor(at), 0, FINE_BINS - 1).astype(np.int64)
    true = at[np.arange(rows), label]
    for found, expected, sure in (
        *((state.every[c], at[:, c], ~edge[:, c]) for c in range(classes)),
        *((state.true[c], true[label == c], ~edge[label == c, c]) for c in range(classes)),
    ):
        least = np.bincount(expected[sure], minlength=FINE_BINS)
        assert found.sum() == len(expected)
        assert (found - least).min() >= 0
        assert (found - least).sum() == (~sure).sum()  # these are elsewhere by one bin


def test_the_bounds_hold_for_rows_against_scikit_learn() -> None:
    for seed, classes, ties in ((0, 10, False), (1, 10, True), (2, 3, False), (3, 200, False)):
        logits, label = spread(600, classes, seed, ties)
        run = named(classes)
        state = ScoreHistograms.measure(run, toy.predictions(run, logits, label))
        u = np.clip(wide_score(*wide(logits)), -1000, 1000)
        area, precision = (
            score_histograms.auroc(state.true, state.every),
            score_histograms.average_precision(state.true, state.every),
        )
        for c in np.unique(label).tolist():
            exact = roc_auc_score(label == c, u[:, c]), average_precision_score(label == c, u[:, c])
            for found, value in zip((area, precision), exact, strict=True):
                holds(Estimate(found.value[c], found.bound[c]), value)


def test_a_row_that_is_almost_sure_keeps_its_place_among_such() -> None:
    run = named(3)
    gap = np.arange(1, 31, dtype=np.float32)  # 1 - p goes down to 1e-13, of which float32 has nothing left
    logits = np.stack([gap, 0 * gap, 0 * gap - 50], axis=1)
    state = ScoreHistograms.measure(run, toy.predictions(run, logits, np.zeros(30, np.int64)))
    assert np.count_nonzero(state.every[0]) == 30


def test_probabilities_of_zero_and_one_are_in_the_outermost_bins() -> None:
    run = named(3)
    logits = np.array([[0, -1000, -1000], [0, -3e38, -3e38]], np.float32)
    with np.errstate(over="ignore"):
        state = ScoreHistograms.measure(run, toy.predictions(run, logits, np.array([0, 1])))
    assert (state.every[0, -1], state.every[1, 0], state.every[2, 0]) == (2, 2, 2)
    assert state.given.sum(axis=0)[[0, -1]].tolist() == [1, 1]


@pytest.mark.parametrize("at_once", [1, 2, 10])
def test_the_tables_agree_with_one_another(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_bins, "_BLOCK", 610 * at_once + 1)  # a quarter of the classes that are counted at a time
    run = named(10)
    logits, label = toy.table(run, 700)
    label[:50] = -1
    batch = toy.predictions(run, logits, label, failed=frozenset(range(40, 90)))
    state = ScoreHistograms.measure(run, batch)
    known = batch.labelled
    n, coarse = len(known), score_histograms.coarse_bins_per_class(10)
    assert n == 700 - 90
    assert state.every.sum(axis=1).tolist() == [n] * 10
    assert state.true.sum(axis=1).tolist() == np.bincount(known.label, minlength=10).tolist()
    for whole, grouped in ((state.every, state.every_grouped), (state.true, state.true_grouped)):
        assert (grouped.sum(axis=0) == whole.reshape(10, coarse, -1).sum(axis=2)).all()
    groups = jackknife_group(known.key)
    for g in range(JACKKNIFE_GROUPS):
        assert state.every_grouped[g].sum() == 10 * (groups == g).sum()
    assert state.confidence.sum(axis=1).tolist() == [int((~known.right).sum()), int(known.right.sum())]
    folds = groups % 2
    assert state.given.sum(axis=1).tolist() == [int((folds == 0).sum()), int((folds == 1).sum())]
    assert (state.any_class.sum(axis=0) == state.every.sum(axis=0)).all()  # at ten classes the bins are the same
    assert (state.given.sum(axis=0) == state.true.sum(axis=0)).all()
    assert state.any_class.sum(axis=1).tolist() == [10 * int((folds == f).sum()) for f in (0, 1)]


def test_confidence_is_by_the_highest_probability() -> None:
    run = named(10)
    batch = toy.predictions(run, *toy.table(run, 300))
    state = ScoreHistograms.measure(run, batch)
    at = score_histograms.bin_index(score_histograms.score_of_probability(batch.confidence))
    for right in (False, True):
        found = state.confidence[int(right)]
        expected = np.bincount(at[batch.right == right], minlength=FINE_BINS)
        assert np.abs(found - expected).sum() <= 2  # a row on an edge counts twice


def test_groups_are_twenty_of_equal_size_by_the_key_alone() -> None:
    key = np.random.default_rng(0).integers(-(2**63), 2**63, 40_000)
    group = jackknife_group(key)
    counts = np.bincount(group)
    assert len(counts) == JACKKNIFE_GROUPS
    assert np.abs(counts - 2000).max() < 5 * math.sqrt(2000)
    assert (jackknife_group(key[::-1]) == group[::-1]).all()


# Intervals


def test_the_jackknife_of_a_mean_is_the_interval_of_twenty_group_means() -> None:
    random = np.random.default_rng(0)
    hits = random.integers(300, 700, JACKKNIFE_GROUPS)
    counts = np.stack([1000 - hits, hits], axis=1)
    half = intervals.jackknife((counts,), lambda c: c[1] / c.sum())
    means = hits / 1000
    # Of equal groups it is the textbook's: t sd / sqrt(G), with 19 degrees of freedom.
    assert float(half) == pytest.approx(2.093024 * means.std(ddof=1) / math.sqrt(JACKKNIFE_GROUPS), rel=1e-6)


def test_the_jackknife_of_auroc_is_as_wide_as_many_draws_say() -> None:
    random = np.random.default_rng(0)
    halves, values = [], []
    for _ in range(60):
        true = random.integers(0, 2, (JACKKNIFE_GROUPS, 50)).astype(bool)
        bin_ = np.clip(random.normal(3 + true, 1), 0, 7).astype(np.int64)
        grouped = [np.array([counted(b, t)[i] for b, t in zip(bin_, true, strict=True)]) for i in (0, 1)]
        halves.append(
            float(intervals.jackknife((grouped[0], grouped[1]), lambda t, e: score_histograms.auroc(t, e).value))
        )
        values.append(float(score_histograms.auroc(grouped[0].sum(axis=0), grouped[1].sum(axis=0)).value))
    assert np.mean(halves) == pytest.approx(2.093 * np.std(values), rel=0.25)


def test_an_interval_that_needs_a_group_that_is_not_there_is_not_defined() -> None:
    counts = np.zeros((JACKKNIFE_GROUPS, 4), np.int64)
    counts[3] = [0, 1, 2, 1]
    assert np.isnan(intervals.jackknife((counts, 2 * counts), lambda t, e: score_histograms.auroc(t, e).value))


def test_a_mean_leaves_out_what_is_not_defined() -> None:
    assert score_histograms.mean_of_defined(np.array([0.5, np.nan, 1.0])) == 0.75
    assert np.isnan(score_histograms.mean_of_defined(np.array([np.nan])))
