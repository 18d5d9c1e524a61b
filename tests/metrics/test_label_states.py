"""States of several labels beside their metrics: pairs of labels, calibration, histograms, ranks of many labels."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from predboard.metrics.intervals import grouped_half_width, grouped_method
from predboard.metrics.multi_label import label_pairs, label_ranks
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.metrics.multi_label.label_histograms import LabelHistograms, logit_bin, logit_edges
from predboard.metrics.multi_label.label_pairs import LabelPairs, PairCounts
from predboard.metrics.multi_label.label_state import LabelState
from predboard.metrics.multi_label.label_values import all_label_metrics, label_columns
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import hash_refs
from predboard.state import merge
from tests import label_sets

Mask = NDArray[np.bool_]


def errors(labels: Mask, predicted: Mask) -> NDArray[np.int64]:
    """Pairs of missed and wrongly predicted labels in plain loops, [classes + 1, classes + 1]."""
    k = labels.shape[1]
    table = np.zeros((k + 1, k + 1), np.int64)
    for y, s in zip(labels, predicted, strict=True):
        missed, wrong = np.flatnonzero(y & ~s).tolist(), np.flatnonzero(s & ~y).tolist()
        if missed or wrong:
            for i in missed or [k]:
                for j in wrong or [k]:
                    table[i, j] += 1
    return table


def dense(counts: PairCounts) -> NDArray[np.int64]:
    table = np.zeros((counts.size, counts.size), np.int64)
    first, second, count = counts.cells
    table[first, second] = count
    return table


def test_pairs_are_those_of_plain_loops() -> None:
    logits, labels = label_sets.table(300, 9, 0)
    unknown = np.random.default_rng(0).random(labels.shape) < 0.1
    run = label_sets.run_of(9)
    pairs = LabelPairs.measure(run, label_sets.rows(run, logits, labels, unknown))
    y, s = labels & ~unknown, (logits > 0) & ~unknown
    assert np.array_equal(dense(pairs.errors), errors(y, s))
    assert np.array_equal(dense(pairs.together)[:9, :9], y.astype(int).T @ y.astype(int))
    assert np.array_equal(dense(pairs.predicted_together)[:9, :9], s.astype(int).T @ s.astype(int))
    assert pairs.errors.table[9, 9] == 0


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_pairs_are_the_same_counted_by_codes_by_a_product_of_matrices_or_sparsely(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    masks = [random.random((200, 40)) < share for _ in range(2)]
    masks[0][:20], masks[1][10:30] = False, False
    first, second = (LabelSets.from_mask(mask) for mask in masks)
    found = []
    for per_cell in (0, np.inf):
        monkeypatch.setattr(label_pairs, "_PAIRS_PER_CELL", per_cell)
        found.append(dense(PairCounts.from_sets(first, second, 40)))
    monkeypatch.setattr(label_pairs, "DENSE_LABELS", 39)
    sparse = PairCounts.from_sets(first[:90], second[:90], 40).merge(PairCounts.from_sets(first[90:], second[90:], 40))
    assert not len(sparse.table)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], dense(sparse))


def test_calibration_is_that_of_a_plain_loop() -> None:
    logits, labels = label_sets.table(500, 6, 2)
    unknown = np.random.default_rng(2).random(labels.shape) < 0.1
    run = label_sets.run_of(6)
    rows = label_sets.rows(run, logits, labels, unknown)
    state = LabelCalibration.measure(run, rows)
    p = (1 / (1 + np.exp(-logits))).astype(np.float64)

    def ece(p: NDArray[np.float64], y: Mask) -> float:
        at = np.minimum((p * 15).astype(int), 14)
        return float(np.abs(np.bincount(at, y - p, 15)).sum() / len(p))

    for c in range(6):
        known = ~unknown[:, c]
        assert state.ece[c] == pytest.approx(ece(p[known, c], labels[known, c]), abs=1e-7)
    assert state.ece_pooled == pytest.approx(ece(p[~unknown], labels[~unknown]), abs=1e-7)
    whole = ~unknown.any(axis=1)
    confidence = np.maximum(p, 1 - p).prod(axis=1)[whole]
    right = (labels == (logits > 0)).all(axis=1)[whole]
    count, hits, total, _ = state.of_sets
    assert count.sum() == whole.sum()
    assert hits.sum() == right.sum()
    assert total.sum() * 2.0**-30 == pytest.approx(confidence.sum(), abs=1e-4)


def test_a_bin_begins_exactly_at_its_edge() -> None:
    for bins in (64, 512, 4096):
        edge = logit_edges(bins)[1:].astype(np.float32)
        assert np.array_equal(logit_bin(edge, bins), np.arange(1, bins))
        below = np.nextafter(edge, np.float32(-np.inf))
        assert np.array_equal(logit_bin(below, bins), np.arange(bins - 1))
        assert logit_bin(np.array([-99, -16, 16, 99], np.float32), bins).tolist() == [0, 0, bins - 1, bins - 1]
    z = np.random.default_rng(0).normal(scale=5, size=1000).astype(np.float32)
    assert np.array_equal(logit_bin(z) >> 3, logit_bin(z, 512))


def test_histograms_by_fold_group_and_of_any_label_count_the_same_decisions() -> None:
    logits, labels = label_sets.table(400, 5, 3)
    unknown = np.random.default_rng(3).random(labels.shape) < 0.2
    run = label_sets.run_of(5)
    h = LabelHistograms.measure(run, label_sets.rows(run, logits, labels, unknown))
    known, true = (~unknown).sum(axis=0), (labels & ~unknown).sum(axis=0)
    assert h.every.sum(axis=1).tolist() == h.every_grouped.sum(axis=(0, 2)).tolist() == known.tolist()
    assert h.true.sum(axis=1).tolist() == h.true_grouped.sum(axis=(0, 2)).tolist() == true.tolist()
    assert h.any_label.sum() == known.sum()
    assert h.any_true.sum() == true.sum()
    assert h.every_by_fold[0].sum() == h.every_grouped[::2].sum() == h.any_label[0].sum()


def test_intervals_of_labels_leave_out_whole_groups_as_scikit_learn_does() -> None:
    run = label_sets.run_of(3)
    logits, labels = label_sets.table(900, 3, 3)
    unknown = np.random.default_rng(3).random(labels.shape) < 0.1
    rows, patient = label_sets.rows(run, logits, labels, unknown), hash_refs([f"{i // 5}" for i in range(900)])
    state = LabelState.measure(
        run, MultiLabelPredictions(rows.batch.append_column("group:patient", pa.array(patient, pa.int64())))
    )
    group, columns = jackknife_group(patient), label_columns(state)
    for name, function in (("average_precision", average_precision_score), ("auroc", roc_auc_score)):
        for c in range(3):
            at = [~unknown[:, c] & (group != g) for g in sorted(set(group.tolist()))]
            without = np.array([function(labels[rows, c], logits[rows, c]) for rows in at])
            k = len(set(group[labels[:, c] & ~unknown[:, c]].tolist()))  # groups that have the label
            half = stats.t.ppf(0.975, k - 1) * np.sqrt((k - 1) / k * ((without - without.mean()) ** 2).sum())
            half = np.hypot(half, columns[name].bound[c])
            assert columns[name].value[c] - columns[name].lower[c] == pytest.approx(half, rel=0.04)
            known = ~unknown[:, c]
            exact = function(labels[known, c], logits[known, c])
            assert columns[name].value[c] == pytest.approx(exact, abs=columns[name].bound[c] + 1e-9)
    whole = ~unknown.any(axis=1)
    right, p = ((logits > 0) == labels).all(axis=1), np.maximum(expit(logits), expit(-logits)).prod(axis=1)

    def risk(at: Any) -> float:
        wrong = ~right[at][np.argsort(-p[at], kind="stable")]
        return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())

    half = float(grouped_half_width(np.array([risk(whole & (group != g)) for g in sorted(set(group.tolist()))])))
    aurc = all_label_metrics(state)["aurc"]
    assert aurc.interval is not None
    assert aurc.value == pytest.approx(risk(whole), abs=1e-3)
    assert aurc.interval[1] - aurc.value == pytest.approx(half, rel=0.03)
    assert aurc.method.startswith(grouped_method("patient"))


def test_ranks_of_rows_with_many_true_labels_are_those_of_rows_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = label_sets.table(80, 30, 4, 9.0, ties=True)
    true, known = LabelSets.from_mask(labels), np.full(80, 30)
    found = []
    for limit in (0, 1000):
        monkeypatch.setattr(label_ranks, "SORT_FROM", limit)
        found.append(label_ranks.row_ranks(logits, true, known))
    for name in ("average_precision", "ranking_loss", "one_error", "coverage"):
        assert np.array_equal(getattr(found[0], name), getattr(found[1], name))


def test_half_of_the_rows_and_the_other_half_are_all_rows() -> None:
    logits, labels = label_sets.table(100, 7, 5)
    run = label_sets.run_of(7)
    rows = label_sets.rows(run, logits, labels)
    half = np.arange(100) < 37
    for state in (LabelPairs, LabelCalibration, LabelHistograms):
        whole = state.measure(run, rows)
        merged = merge(state.measure(run, rows.take(half)), state.measure(run, rows.take(~half)))
        for name, value in vars(whole).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, getattr(merged, name)), name
