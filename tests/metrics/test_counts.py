"""Counts and the metrics that follow from them, against scikit-learn and by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics

from predboard.metrics.classification import balanced_accuracy, f1_macro, precision_macro, recall_macro
from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.data_warnings import data_warnings
from predboard.metrics.intervals import sign_test, wilson_interval
from predboard.predictions.schema import Run
from predboard.state import Counted, merge
from tests import toy


def named(classes: int) -> Run:
    return Run(classes=tuple(f"class{i}" for i in range(classes)), model="toy.py:build")


def scores_of(
    logits: NDArray[np.float32], label: NDArray[np.int64], failed: frozenset[int] = frozenset()
) -> CountMetrics:
    run = named(logits.shape[1])
    return Counts.measure(run, toy.predictions(run, logits, label, failed=failed)).metrics


def scores_of_matrix(matrix: list[list[int]], failed: int = 0, unlabelled: int = 0) -> CountMetrics:
    """Scores with these counts; row: true class, column: predicted class."""
    counts = np.array(matrix)
    pairs = np.repeat(np.arange(counts.size), counts.ravel())
    rows = len(pairs) + failed + unlabelled
    classes, none = np.int64(len(counts)), np.int64(0)
    return Counts(
        Counted.from_values(pairs), classes, np.int64(rows), np.int64(failed), np.int64(unlabelled), none, none, none
    ).metrics


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, 12),
    rows=st.integers(1, 80),
    present=st.integers(1, 12),
    predictable=st.integers(1, 12),
)
def test_metrics_agree_with_scikit_learn_also_where_classes_are_absent(
    seed: int, classes: int, rows: int, present: int, predictable: int
) -> None:
    random = np.random.default_rng(seed)
    label = random.permutation(classes)[:present][random.integers(0, min(present, classes), rows)]
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[:, random.permutation(classes)[predictable:]] -= 50  # never predicted
    found = scores_of(logits, label)
    predicted = logits.argmax(axis=1)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(label, predicted), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some predicted classes have no images
        balanced = metrics.balanced_accuracy_score(label, predicted)
    assert float(balanced_accuracy(found.margins)) == pytest.approx(balanced, abs=1e-12)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        label, predicted, labels=np.union1d(label, predicted), average="macro", zero_division=0
    )
    assert float(precision_macro(found.margins)) == pytest.approx(precision, abs=1e-12)
    assert float(recall_macro(found.margins)) == pytest.approx(recall, abs=1e-12)
    assert float(f1_macro(found.margins)) == pytest.approx(f1, abs=1e-12)
    p = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = metrics.log_loss(label, p, labels=np.arange(classes))
    if (p[np.arange(rows), label] > 1e-12).all():  # scikit-learn cuts smaller ones
        assert found.nll == pytest.approx(loss, rel=1e-6, abs=2e-6)  # float32 losses, in units of 2**-20
    matrix = metrics.confusion_matrix(label, predicted, labels=np.arange(classes))
    assert found.matrix(np.arange(classes)).tolist() == matrix.tolist()


def test_metrics_of_three_classes_by_hand() -> None:
    # true 0: 3 of 4 found; true 1: 0 of 2; class 2 has no images but is predicted once.
    found = scores_of_matrix([[3, 1, 0], [1, 0, 1], [0, 0, 0]])
    assert found.counted == 6
    assert found.support.tolist() == [4, 2, 0]
    assert found.predictions.tolist() == [4, 1, 1]
    assert found.hits.tolist() == [3, 0, 0]
    assert found.recall.tolist() == [0.75, 0, 0]
    assert found.precision.tolist() == [0.75, 0, 0]
    assert found.f1.tolist() == [0.75, 0, 0]
    assert found.accuracy == 0.5
    assert float(balanced_accuracy(found.margins)) == 0.375  # over the two classes with images
    assert float(f1_macro(found.margins)) == 0.25  # over the three with images or predictions


def test_a_class_without_images_and_predictions_is_in_no_mean() -> None:
    found = scores_of_matrix([[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    for metric in (f1_macro, recall_macro, precision_macro, balanced_accuracy):
        assert float(metric(found.margins)) == 1


def test_nll_is_the_mean_loss_in_nats() -> None:
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    assert scores_of(logits, np.array([0, 1])).nll == pytest.approx((np.log(4) + np.log(2)) / 2, abs=1e-6)


def test_failed_and_unlabelled_rows_are_counted_and_in_no_metric() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 0]]
    found = scores_of(logits, np.array([0, 1, 0, -1, -1]), failed=frozenset({1, 4}))
    assert [int(n) for n in (found.counts.rows, found.counts.failed, found.counts.unlabelled)] == [5, 2, 2]
    assert found.counted == 2
    assert found.accuracy == 0.5
    assert found.counts.confusion.value.tolist() == [0, 2]  # 0 as 0 and 0 as 2, of three classes


def test_tallies_add_up() -> None:
    run, (logits, label) = named(4), toy.table(named(4), 30)
    parts = [Counts.measure(run, toy.predictions(run, logits[a:b], label[a:b])) for a, b in ((0, 11), (11, 30))]
    assert merge(*parts).metrics.matrix(np.arange(4)).tolist() == scores_of(logits, label).matrix(np.arange(4)).tolist()


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_the_binomial_test(lost: int, won: int) -> None:
    expected = binomtest(won, lost + won, 0.5, "greater").pvalue if lost + won else 1.0
    assert sign_test(lost, won) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("lost", "won"), [(2000, 2300), (2300, 2000), (400_000, 402_000), (0, 900), (5000, 0)])
def test_the_sign_test_of_thousands_of_pairs(lost: int, won: int) -> None:
    assert sign_test(lost, won) == pytest.approx(binomtest(won, lost + won, 0.5, "greater").pvalue, rel=1e-7)


def test_wilson_by_hand() -> None:
    # 9 of 10: (9 + 3.8415/2) / 13.8415 = .78899, ± 1.95996 / 13.8415 · sqrt(9 · 1 / 10 + 3.8415 / 4) = .19314
    assert wilson_interval(9, 10) == pytest.approx((0.59585, 0.98212), abs=5e-6)
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 10) == pytest.approx((0, 1.959964**2 / (10 + 1.959964**2)), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + 1.959964**2), 1), abs=1e-6)


@given(st.integers(1, 10**7), st.floats(0, 1))
def test_wilson_ends_are_where_the_score_test_rejects(rows: int, share: float) -> None:
    hits = round(share * rows)
    lower, upper = wilson_interval(hits, rows)
    assert 0 <= lower <= hits / rows + 1e-12
    assert hits / rows - 1e-12 <= upper <= 1
    for end in (lower, upper):  # |p̂ - p| = z sqrt(p (1 - p) / n)
        assert (hits / rows - end) ** 2 == pytest.approx(
            1.959963984540054**2 * end * (1 - end) / rows, rel=1e-6, abs=1e-14
        )


def test_worst_classes_are_those_whose_recall_is_surely_low() -> None:
    # recall 0 of 1 might still be .79; 10 of 100 is at most .17; all found and no images are no news.
    matrix = np.diag([10, 0, 5, 0, 60])
    matrix[0, 4], matrix[1, 4], matrix[4, 0] = 90, 1, 40
    found = scores_of_matrix(matrix.tolist())
    assert found.support.tolist() == [100, 1, 5, 0, 100]
    assert found.worst(9).tolist() == [0, 4, 1]
    assert found.worst(1).tolist() == [0]


def test_worst_classes_that_tie_come_in_their_order() -> None:
    assert scores_of_matrix([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).worst(3).tolist() == [0, 1, 2]


def test_pairs_are_the_most_frequent_confusions_then_the_larger_share_then_by_class() -> None:
    found = scores_of_matrix([[9, 2, 0], [3, 9, 2], [2, 0, 9]])
    assert found.pairs(9) == [(1, 0, 3), (0, 1, 2), (2, 0, 2), (1, 2, 2)]  # 2 of 11, 2 of 11, 2 of 14
    assert found.pairs(2) == [(1, 0, 3), (0, 1, 2)]
    assert scores_of_matrix([[5, 0], [0, 5]]).pairs(9) == []


def test_classes_worth_seeing_have_images_and_most_errors() -> None:
    matrix = np.diag([9, 9, 9, 0, 9])
    matrix[2, 0] = 4  # an error of class 2 and of class 0
    matrix[4, 3] = 2  # and of 4; class 3 has no images
    found = scores_of_matrix(matrix.tolist())
    assert found.most_errors(2).tolist() == [0, 2]  # four errors each
    assert found.most_errors(3).tolist() == [0, 2, 4]
    assert found.most_errors(9).tolist() == [0, 1, 2, 4]
    assert scores_of_matrix([[0, 0], [0, 0]]).most_errors(9).tolist() == []


def test_of_classes_with_equal_errors_the_larger_is_seen() -> None:
    assert scores_of_matrix([[1, 0, 0], [0, 5, 0], [0, 0, 3]]).most_errors(2).tolist() == [1, 2]


def test_a_matrix_of_some_classes_has_the_others_in_its_last_row_and_column() -> None:
    matrix = np.arange(16).reshape(4, 4)
    found = scores_of_matrix(matrix.tolist())
    assert found.matrix(np.arange(4)).tolist() == matrix.tolist()
    assert found.matrix(np.array([1, 3])).tolist() == [
        [5, 7, 4 + 6],
        [13, 15, 12 + 14],
        [1 + 9, 3 + 11, 0 + 2 + 8 + 10],
    ]


GOOD = [[50, 0], [0, 50]]


@pytest.mark.parametrize(
    ("scores", "manifest_rows", "expected"),
    [
        (scores_of_matrix(GOOD), 100, []),
        (
            scores_of_matrix(GOOD),
            1200,
            [
                "1,100 of 1,200 rows are missing, possibly whole classes: rows are stored in the "
                "manifest's order; re-run the command that wrote the others"
            ],
        ),
        (scores_of_matrix(GOOD, failed=3), 103, ["3 of 103 images failed and are in no metric"]),
        (scores_of_matrix(GOOD, unlabelled=3), 103, ["3 of 103 images have no label"]),
        (
            scores_of_matrix(GOOD, failed=1, unlabelled=1),
            102,
            ["1 of 102 images failed and is in no metric", "1 of 102 images has no label"],
        ),
        (scores_of_matrix([[0, 0], [0, 0]], unlabelled=3), 3, ["3 of 3 images have no label"]),
        (scores_of_matrix([[7]]), 7, []),  # of one class nothing is confused
        (
            scores_of_matrix([[80, 0], [18, 2]]),  # 82 % right, and 80 % are of class a
            100,
            ["accuracy is not clearly better than always predicting a (80 %)"],
        ),
        (
            scores_of_matrix([[30, 0, 0], [25, 25, 0], [25, 5, 20]]),
            130,
            ["62 % of predictions are a, but only 23 % of images are"],
        ),
        (
            scores_of_matrix([[90, 0, 0, 0], [1, 0, 0, 0], [1, 0, 80, 0], [1, 0, 0, 0]]),
            173,
            ["2 of 4 classes are never predicted: b, d"],
        ),
        (scores_of_matrix(np.diag([9, 9, 9, 9, 9, 0]).tolist()), 45, []),  # nor does f have images
    ],
)
def test_warnings_say_what_to_know_before_believing(
    scores: CountMetrics, manifest_rows: int, expected: list[str]
) -> None:
    names = tuple("abcdef"[: scores.classes])
    assert data_warnings(scores, names, int(scores.counts.rows), manifest_rows) == expected


def test_the_gravest_warning_comes_first() -> None:
    found = data_warnings(scores_of_matrix([[9, 0], [9, 0]], failed=1, unlabelled=1), ("a", "b"), 20, 30)
    assert [line.split()[0] for line in found] == ["10", "1", "1", "accuracy", "1"]
    assert "missing" in found[0]
    assert "never predicted: b" in found[-1]


def test_what_stage_one_warned_of_comes_after_missing_rows_alone() -> None:
    found = data_warnings(scores_of_matrix([[9, 0], [0, 9]], failed=1), ("a", "b"), 20, 30, ("first", "second"))
    assert [line.split()[0] for line in found] == ["10", "first", "second", "1"]


def test_a_long_list_of_classes_never_predicted_is_cut() -> None:
    matrix = np.zeros((6, 6), int)
    matrix[:, 0] = 1
    matrix[0, 0] = 100
    (line,) = data_warnings(scores_of_matrix(matrix.tolist()), tuple("abcdef"), 105, 105)[-1:]
    assert line == "5 of 6 classes are never predicted: b, c, d"
