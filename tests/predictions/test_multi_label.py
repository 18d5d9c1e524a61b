"""Multi-label predictions: sets of labels, what follows from their logits, and rows that contradict themselves."""

import dataclasses
import hashlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import log_loss

from predboard.errors import DamagedError, InputError
from predboard.predictions import digests, footer, schema
from predboard.predictions.label_sets import LabelSets, MultiLabels, contained, product
from predboard.predictions.multi_label.contradictions import refuse_multi_label_contradictions
from predboard.predictions.multi_label.derive import (
    MAX_PROBABILITY,
    derive_label_sets,
    predict_labels,
    sigmoid,
    to_log_odds,
)
from predboard.predictions.multi_label.derived_rows import MultiLabelDerivedRows
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.row_count import RowCount
from predboard.predictions.schema import Run, part_schema
from predboard.predictions.tasks import no_tile_rows, rows_of, wrap_derived_rows
from predboard.storage.parts import open_part, read_batches, verify_manifest, verify_part
from predboard.storage.rows import DerivedRowsWriter, read_derived_rows
from predboard.storage.runs import part_path
from tests import toy

RUN = toy.MULTI_LABEL_RUN
LOGITS = np.array(
    [[2.0, -1.0, 0.0, 3.0, -2.0], [-1, -1, -1, -1, -1], [1, 1, 1, 1, 1], [0, 1, -3, 2, 4], [9, 9, 9, 9, 9]], np.float32
)
KNOWN = MultiLabels(
    LabelSets.from_lists([[0, 1], [], [], [1, 3], [2]]),
    LabelSets.from_lists([[], [], [], [4], []]),
    np.array([True, True, False, True, True]),
)
"""Row 1 has no label that applies, row 2 is not labelled, of row 3 label 4 is unknown; row 4 fails."""


def _rows() -> MultiLabelPredictions:
    rows = toy.predictions(RUN, LOGITS, KNOWN, 7, failed=frozenset({4}))
    assert isinstance(rows, MultiLabelPredictions)
    return rows


# --- sets ---


def _random_sets(seed: int, rows: int = 200, classes: int = 12) -> tuple[LabelSets, NDArray[np.bool_]]:
    mask = np.random.default_rng(seed).random((rows, classes)) < 0.2
    mask[::5] = False
    return LabelSets.from_mask(mask), mask


def test_sets_do_what_masks_do() -> None:
    (a, in_a), (b, in_b) = _random_sets(1), _random_sets(2)
    np.testing.assert_array_equal(a.mask(12), in_a)
    np.testing.assert_array_equal(a.minus(b).mask(12), in_a & ~in_b)
    np.testing.assert_array_equal(b.contains(a), in_b[a.row, a.label])
    np.testing.assert_array_equal(a.equals(b), (in_a == in_b).all(axis=1))
    np.testing.assert_array_equal(a.size, in_a.sum(axis=1))
    order = np.random.default_rng(3).permutation(200)[:70]
    for rows in (order, slice(3, 90, 4), in_a[:, 0], slice(0, 0), np.zeros(200, bool)):
        np.testing.assert_array_equal(a[rows].mask(12), in_a[rows])
    shuffled = np.random.default_rng(4).permutation(len(a.label))
    twice = np.concatenate([shuffled, shuffled[:9]])
    same = LabelSets.from_pairs(a.row[twice], a.label[twice], 200)
    assert (same.start.tolist(), same.label.tolist()) == (a.start.tolist(), a.label.tolist())
    assert LabelSets.from_lists([[3, 1, 3], []]).label.tolist() == [1, 3]
    assert not LabelSets.empty(3).equals(LabelSets.from_lists([[], [1], []]))[1]
    assert contained(np.array([1, 2]), np.zeros(0, np.int64)).tolist() == [False, False]


def test_a_product_has_every_pair_of_a_row() -> None:
    (a, in_a), (b, in_b) = _random_sets(5), _random_sets(6)
    expected = []
    for row in range(200):
        left, right = np.flatnonzero(in_a[row]).tolist(), np.flatnonzero(in_b[row]).tolist()
        if left or right:
            expected += [i * 13 + j for i in left or [12] for j in right or [12]]
    assert product(a, b, 12).tolist() == expected
    assert product(LabelSets.empty(2), LabelSets.empty(2), 3).tolist() == []


def test_sets_are_arrows_lists_with_null_for_unlabelled_rows() -> None:
    labels, unknown = KNOWN.to_arrow()
    assert labels.to_pylist() == [[0, 1], [], None, [1, 3], [2]]
    assert unknown.to_pylist() == [None, None, None, [4], None]
    assert labels.type == schema.LABEL_LIST
    for start, stop in ((0, 5), (1, 4), (2, 3), (0, 0)):  # slices of Arrow have offsets that do not begin at 0
        back = MultiLabels.from_arrow(labels.slice(start, stop - start), unknown.slice(start, stop - start))
        assert back.labels.mask(5).tolist() == KNOWN.labels.mask(5)[start:stop].tolist()
        assert back.unknown.mask(5).tolist() == KNOWN.unknown.mask(5)[start:stop].tolist()
        assert back.labelled.tolist() == KNOWN.labelled[start:stop].tolist()


def test_a_row_of_which_nothing_is_known_is_not_labelled() -> None:
    given = MultiLabels(
        LabelSets.from_lists([[], [1], [0]]), LabelSets.from_lists([[0, 1], [], [1]]), np.array([True, False, True])
    )
    labels, unknown = given.settled(2).to_arrow()
    assert (labels.to_pylist(), unknown.to_pylist()) == ([None, None, [0]], [None, None, [1]])


# --- what follows from the logits ---


def test_derived_columns_are_those_of_scipy_and_scikit_learn() -> None:
    logits, known = toy.multi_label_table(RUN, 500, 1)
    predicted, derived = derive_label_sets(logits, known)
    p = expit(logits.astype(np.float64))
    np.testing.assert_array_equal(predicted.mask(5), p > 0.5)
    np.testing.assert_allclose(derived["confidence"], np.maximum(p, 1 - p).prod(axis=1), 1e-6)
    np.testing.assert_allclose(derived["margin"], np.abs(2 * p - 1).min(axis=1), 1e-6, 1e-9)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(derived["entropy"], entropy, 1e-6)
    true, hidden = known.labels.mask(5), known.unknown.mask(5)
    for row in range(500):
        there = ~hidden[row]
        if known.labelled[row]:
            assert derived["loss"][row] == pytest.approx(log_loss(true[row, there], p[row, there], labels=[0, 1]), 1e-6)
        else:
            assert math.isnan(derived["loss"][row])


def test_rows_derive_the_same_to_the_last_bit_whatever_rows_are_beside_them() -> None:
    run = dataclasses.replace(RUN, classes=tuple(map(str, range(700))))
    logits, known = toy.multi_label_table(run, 2000, 2)
    whole_labels, whole = derive_label_sets(logits, known)
    part_labels, part = derive_label_sets(logits[1234:1300], known[1234:1300])
    assert part_labels.label.tolist() == whole_labels[1234:1300].label.tolist()
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][1234:1300])


def test_sure_rows_keep_their_small_losses_and_wrong_ones_their_large_ones() -> None:
    logits = np.array([[40, -40], [-90, 0], [3e38, -3e38]], np.float32)
    known = toy.multi_labels(np.array([[True, False], [True, True], [False, True]]))
    _, derived = derive_label_sets(logits, known)
    assert derived["loss"][0] == pytest.approx(math.exp(-40), 1e-6)
    assert derived["loss"][1] == pytest.approx((90 + math.log(2)) / 2, 1e-6)
    assert derived["loss"][2] == np.float32(3e38)
    assert derived["confidence"].tolist() == pytest.approx([1, 0.5, 1])
    assert derived["margin"].tolist() == [1, 0, 1]
    assert derived["entropy"][2] == 0


def test_a_logit_of_zero_predicts_nothing() -> None:
    assert predict_labels(np.array([[0.0, 1e-30, -1e-30]], np.float32)).label.tolist() == [1]


def test_the_sigmoid_of_log_odds_gives_probabilities_back() -> None:
    p = np.concatenate([10.0 ** np.arange(-37, 0), 1 - 2.0 ** np.arange(-24, -1)])[None]
    odds, moved = to_log_odds(p)
    assert moved == 0
    np.testing.assert_allclose(expit(odds.astype(np.float64)), p, 4e-6)
    np.testing.assert_allclose(sigmoid(odds), p, 5e-6)
    odds, moved = to_log_odds(np.array([[0.0, 1.0, 1.01, -0.01, 1e-45, 0.5, math.nan]]))
    assert moved == 5
    low, high = math.log(schema_tiny := 2.0**-126) - math.log1p(-schema_tiny), math.log(MAX_PROBABILITY / 2.0**-24)
    assert odds[0, :6].tolist() == pytest.approx([low, high, high, low, low, 0])
    assert math.isnan(odds[0, 6])
    with pytest.raises(InputError, match=r"a probability of a label is 3; expected values from 0 to 1"):
        to_log_odds(np.array([[0.1, 3.0]]))


# --- rows ---


def test_rows_answer_by_sets() -> None:
    rows = _rows()
    assert rows.is_scored.tolist() == [True, True, True, True, False]
    assert rows.is_labelled.tolist() == [True, True, False, True, True]
    assert rows.predicted_labels.to_arrow(rows.is_scored).to_pylist() == [[0, 3], [], [0, 1, 2, 3, 4], [1, 3, 4], None]
    assert rows.missed.to_arrow().to_pylist() == [[1], [], [], [], []]
    assert rows.wrongly_predicted.to_arrow().to_pylist() == [[3], [], [], [], []]
    assert rows.right.tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]  # label 4 of row 3 is unknown: it counts for nothing
    assert rows.labelled.id.tolist() == [7, 8, 10]
    assert RowCount().add_batch(rows) == RowCount(
        rows=5, failed=1, unlabelled=1, counted=3, right=2, right_share="exact"
    )
    sure = expit(LOGITS[0].astype(np.float64))
    assert rows.labelled.label_probability[:2].tolist() == pytest.approx([sure[0], sure[1]])
    assert rows.labelled.predicted_probability[:2].tolist() == pytest.approx([sure[0], sure[3]])
    assert np.isnan(rows.label_probability).tolist() == [False, False, False, False, True]
    np.testing.assert_allclose(rows.scored.probabilities, expit(LOGITS[:4].astype(np.float64)), 1e-6)
    assert rows.scored.top[0].tolist() == [3, 0, 2, 1, 4]
    for name in ("label", "predicted"):
        with pytest.raises(KeyError):
            getattr(rows, name)


def test_rows_survive_pickling_taking_and_replacing() -> None:
    rows = _rows()
    copy = pickle.loads(pickle.dumps(rows))
    assert type(copy) is MultiLabelPredictions
    assert copy.batch.equals(rows.batch)
    assert rows.take(np.array([False, True, False, True, False])).right.tolist() == [True, True]
    fresh = toy.predictions(RUN, -LOGITS[4:], KNOWN[4:], 11)
    replaced = rows.replace_rows(fresh)
    assert replaced.is_scored.all()
    assert replaced.batch.slice(0, 4).equals(rows.batch.slice(0, 4))
    assert rows.memoize("a", lambda: 3) == 3
    with pytest.raises(TypeError, match="cannot be built from sets"):
        toy.predictions(toy.RUN, np.zeros((5, 10), np.float32), KNOWN)


def test_tile_rows_have_few_labels_and_their_numbers() -> None:
    logits = np.array([[-3, -1, -2, -4, 5, 1, 2, 3, 4, 6], [-1] * 9 + [2]], np.float32)
    run = dataclasses.replace(RUN, classes=tuple("abcdefghij"))
    known = MultiLabels(LabelSets.from_lists([[0, 1, 2, 3, 4], []]), LabelSets.empty(2), np.array([True, False]))
    tiles = toy.predictions(run, logits, known).tile_rows(np.array([1, 0]))
    assert tiles["right"].tolist() == [-1, 0]
    assert tiles["missed_count"].tolist() == [0, 4]
    assert tiles["missed"].tolist() == [[-1, -1, -1], [3, 0, 2]]  # surest first
    assert tiles["wrongly_predicted_count"].tolist() == [0, 5]
    assert tiles["wrongly_predicted"].tolist() == [[-1, -1, -1], [9, 8, 7]]
    assert tiles["wrongly_predicted_probability"][1].tolist() == pytest.approx(expit([6.0, 4.0, 3.0]).tolist())
    assert tiles["hit_count"].tolist() == [0, 1]
    assert tiles["true_count"].tolist() == [0, 5]
    assert tiles["is_labelled"].tolist() == [False, True]
    assert tiles["hit"].tolist() == [[-1, -1, -1], [4, -1, -1]]
    assert tiles["top_class"].tolist() == [[9, 0, 1], [9, 4, 8]]
    none = no_tile_rows(run)
    assert {name: (a.dtype, a.shape[1:]) for name, a in none.items()} == {
        name: (a.dtype, a.shape[1:]) for name, a in tiles.items()
    }


# --- parts and rows.parquet ---


def test_parts_and_derived_rows_keep_everything(tmp_path: Path) -> None:
    logits, known = toy.multi_label_table(RUN, 300, 3)
    toy.write_run(tmp_path / "run", logits, known, RUN, shard_size=300, group=70, failed=frozenset({5, 299}))
    part = open_part(part_path(tmp_path / "run", 0, 0))
    assert (part.run.task, part.run.format) == ("multi-label", 2)
    verify_part(part)
    verify_manifest(part)
    whole = list(read_batches(part))
    rows = whole[0]
    assert isinstance(rows, MultiLabelPredictions)
    assert rows.labels.mask(5).tolist() == known.labels.mask(5).tolist()
    assert rows.unknown.mask(5).tolist() == known.unknown.mask(5).tolist()
    assert rows.is_labelled.tolist() == known.labelled.tolist()
    by_role = next(iter(read_batches(part, {"id", "label", "predicted"})))  # as a panel asks that serves every task
    assert by_role.batch.schema.names == ["id", "labels", "unknown", "predicted_labels"]
    assert by_role.right.tolist() == rows.right.tolist()
    derived = rows_of(RUN).derive(RUN, 0, rows)
    writer = DerivedRowsWriter(tmp_path / "rows.parquet")
    writer.write(derived)
    writer.close()
    [(step, back)] = read_derived_rows(tmp_path / "rows.parquet")
    assert step == 0
    assert isinstance(back, MultiLabelDerivedRows)
    assert isinstance(wrap_derived_rows(pickle.loads(pickle.dumps(back)).batch), MultiLabelDerivedRows)
    np.testing.assert_array_equal(back.right, rows.right)
    np.testing.assert_array_equal(back.label_probability, rows.label_probability)
    np.testing.assert_array_equal(back.predicted_probability, rows.predicted_probability)
    np.testing.assert_array_equal(back.labelled.missed.label, rows.labelled.missed.label)
    chosen = np.array([200, 3, 5])
    for name, values in rows.scored.tile_rows(chosen).items():
        np.testing.assert_array_equal(back.scored.tile_rows(chosen)[name], values, name)
    lines = back.batch.to_pylist()
    assert lines[5]["missed"] is None
    assert lines[5]["predicted_names"] is None
    for line, row in zip(lines, range(300), strict=True):
        if known.labelled[row]:
            assert line["label_names"] == [RUN.classes[i] for i in np.flatnonzero(known.labels.mask(5)[row])]
        else:
            assert (
                line["label_names"] is line["missed"] is line["wrongly_predicted"] is line["label_probability"] is None
            )


def test_the_digests_cover_labels_and_unknown_ones() -> None:
    image = pa.array(list("abcde"), pa.string())
    given = digests.digest_manifest(image, KNOWN)
    lines = [["a", [0, 1], None], ["b", [], None], ["c", None, None], ["d", [1, 3], [4]], ["e", [2], None]]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    assert given == hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# --- contradictions ---


def _changed(change: dict[str, tuple[int, Any]], *without: str) -> MultiLabelPredictions:
    good = _rows().batch
    columns = {}
    for field in part_schema(RUN):
        values = good.column(field.name).to_pylist()
        if field.name in change:
            at, values[at] = change[field.name]
        if field.name not in without:
            columns[field.name] = pa.array(values, field.type)
    return MultiLabelPredictions(pa.record_batch(columns))


def test_good_rows_pass_whatever_is_read() -> None:
    refuse_multi_label_contradictions(_rows(), 5)
    for name in part_schema(RUN).names:
        refuse_multi_label_contradictions(_changed({}, name), 5)
    refuse_multi_label_contradictions(MultiLabelPredictions(_rows().batch.slice(0, 0)), 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": (0, [0, 5])}, r"labels of row 7 is \[0, 5\], expected indices of 5 classes"),
        ({"labels": (0, [-1, 0])}, r"labels of row 7 is \[-1, 0\], expected indices of 5 classes"),
        ({"labels": (0, [1, 0])}, r"labels of row 7 is \[1, 0\], expected ascending indices, each once"),
        ({"unknown": (3, [4, 4])}, r"unknown of row 10 is \[4, 4\], expected ascending indices, each once"),
        ({"unknown": (3, [3])}, r"unknown of row 10 is \[3\], expected no label that labels has too"),
        ({"unknown": (2, [3])}, r"unknown of row 9 is \[3\], expected null where labels is null"),
        ({"unknown": (1, [0, 1, 2, 3, 4])}, r"labels of row 8 is \[\], expected null where all labels are unknown"),
        ({"predicted_labels": (4, [])}, r"predicted_labels of row 11 is \[\], expected a list exactly where logits"),
        ({"predicted_labels": (1, None)}, r"predicted_labels of row 8 is None, expected a list exactly where logits"),
        ({"predicted_labels": (0, [0, 2])}, r"predicted_labels of row 7 is \[0, 2\], expected the labels with a logit"),
        ({"predicted_labels": (0, [0])}, r"predicted_labels of row 7 is \[0\], expected the labels with a logit"),
        ({"error": (0, "x")}, "error of row 7 is 'x', expected null where there are logits"),
        ({"loss": (0, None)}, "loss of row 7 is None, expected a number exactly where there are logits"),
        ({"loss": (2, 1.0)}, "loss of row 9 is 1, expected a number exactly where there are logits"),
        ({"margin": (4, 0.5)}, "margin of row 11 is 0.5, expected a number exactly where there are logits"),
        ({"entropy": (0, 0.8)}, "entropy of row 7 is 0.8, expected a number from 0 to 0.6931"),
        ({"confidence": (1, 0.3)}, "confidence of row 8 is 0.3, expected what follows from its logits"),
        ({"logits": (1, [math.inf, 0, 0, 0, 0])}, "logits of row 8 are not all finite"),
    ],
)
def test_each_contradiction_is_refused_with_its_row(change: dict[str, tuple[int, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_multi_label_contradictions(_changed(change), 5)


# --- footer ---


def test_single_label_runs_have_no_task_in_their_record() -> None:
    run = Run(("a", "b"), "m")
    assert "task" not in run.record()
    assert run.format == 1
    usual = {k: v for k, v in dataclasses.asdict(run).items() if k not in ("task", "positive")}
    assert run.fingerprint == schema.digest_records(usual)
    multi = dataclasses.replace(run, task="multi-label")
    assert multi.record()["task"] == "multi-label"
    assert multi.format == 2
    assert run.difference(multi) == ("task", "single-label", "multi-label")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "segmentation"}, "task is 'segmentation', expected 'single-label' or 'multi-label'"),
        (
            {"task": "multi-label", "scores": "confidence"},
            "scores is 'confidence', expected 'logits' or 'log_odds' of a",
        ),
        ({"scores": "log_odds"}, "scores is 'log_odds', expected 'logits' or 'log_probabilities' or 'confidence' of a"),
        ({"task": "multi-label", "format": 1}, "format is 1, expected 2 of a multi-label run"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    record = {**Run(("a", "b"), "m").record(), **({"format": 2} if "task" in change else {}), **change}
    part = dataclasses.asdict(schema.Part(0, 1, "", 1, ""))
    texts = [schema.canonical_json(r) for r in (record, part)]
    metadata = {
        b"predboard.run": texts[0].encode(),
        b"predboard.part": texts[1].encode(),
        b"predboard.digest": schema.digest_records(record, part).encode(),
    }
    with pytest.raises(InputError, match=message):
        footer.read_footer(metadata, "here")


def test_names_of_both_tasks_are_reserved_in_multi_label_runs() -> None:
    assert schema.rename_reserved_columns(["labels", "label", "city"], "single-label") == [
        "labels",
        "manifest_label",
        "city",
    ]
    renamed = schema.rename_reserved_columns(["labels", "label", "city"], "multi-label")
    assert renamed == ["manifest_labels", "manifest_label", "city"]


def test_a_column_of_another_task_is_refused(tmp_path: Path) -> None:
    logits, known = toy.multi_label_table(RUN, 20, 3)
    toy.write_run(tmp_path / "run", logits, known, RUN)
    path = part_path(tmp_path / "run", 0, 0)
    footer = {k: v for k, v in pq.read_metadata(path).metadata.items() if k.startswith(b"predboard.")}
    table = pq.ParquetFile(path).read().append_column("label", pa.nulls(20, pa.int32()))
    pq.write_table(table.replace_schema_metadata(footer), path)
    with pytest.raises(DamagedError, match="its column label is of another task than multi-label"):
        open_part(path)
