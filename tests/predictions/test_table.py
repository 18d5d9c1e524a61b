"""Rows as columns: failed and unlabelled rows, ranks, tiles."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest

from predboard.predictions import table
from predboard.predictions.schema import (
    Run,
    hash_refs,
    part_schema,
)
from predboard.predictions.table import Predictions
from predboard.predictions.tasks import no_tile_rows
from tests import toy

LN = math.log


def test_failed_rows_have_no_logits_and_no_derived_values() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b"))
    logits = np.array([[0, LN(3)], [9, 9], [np.nan, 0], [0, np.inf]], np.float32)
    rows = toy.predictions(run, logits, np.array([0, 1, 1, -1]), failed=frozenset({1}))
    frame = rows.batch.to_pandas()
    derived = ["logits", "predicted", "confidence", "loss", "margin", "entropy"]
    assert frame[derived].notna().to_numpy().tolist() == [[True] * 6, *[[False] * 6] * 3]
    not_finite = "the model gave logits that are not finite"
    assert rows.column("error").to_pylist() == [None, "broken", not_finite, not_finite]
    assert rows.column("label").to_pylist() == [0, 1, 1, None]
    assert rows.predicted.tolist() == [1, -1, -1, -1]
    assert np.isnan(rows.loss).tolist() == [False, True, True, True]


def test_a_row_without_label_has_logits_and_no_loss() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b"))
    rows = toy.predictions(run, np.array([[0, LN(3)], [1, 0]], np.float32), np.array([-1, 0]))
    assert rows.column("label").to_pylist() == [None, 0]
    assert rows.column("loss").to_pylist()[0] is None
    assert rows.column("confidence").to_pylist()[0] == pytest.approx(0.75)
    assert len(rows.scored) == 2
    assert rows.labelled.id.tolist() == [1]
    assert rows.label.tolist() == [-1, 0]


def test_scored_and_labelled_leave_out_what_cannot_be_counted() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b"))
    logits = np.array([[2, 1], [1, 2], [1, 2], [2, 1]], np.float32)
    rows = toy.predictions(run, logits, np.array([0, 0, -1, 1]), start=10, failed=frozenset({3}))
    assert rows.scored.id.tolist() == [10, 11, 12]
    assert rows.labelled.id.tolist() == [10, 11]
    assert rows.labelled.right.tolist() == [True, False]
    np.testing.assert_array_equal(rows.scored.logits, logits[:3])
    with pytest.raises(ValueError, match="1 failed rows have no logits"):
        _ = rows.logits
    with pytest.raises(KeyError, match="'embedding' was not read"):
        rows.column("embedding")


def test_rank_and_ties_count_higher_and_equal_logits() -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple("abcd"))
    logits = np.array([[3, 1, 2, 0], [1, 1, 1, 1], [5, 2, 5, 2], [0, 0, 7, 0]], np.float32)
    rows = toy.predictions(run, logits, np.array([2, 3, 1, 2]))
    assert rows.rank.tolist() == [1, 0, 2, 0]
    assert rows.ties.tolist() == [0, 3, 1, 0]


@pytest.mark.parametrize("kinds", [2, 4, 40])
def test_ranks_and_ties_beyond_the_highest_are_counted_too(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine classes of few distinct logits, 30 rows at a time, against plain loops."""
    monkeypatch.setattr(table, "_BLOCK_NUMBERS", 30 * 9)
    run = dataclasses.replace(toy.RUN, classes=tuple("abcdefghi"))
    random = np.random.default_rng(0)
    logits, label = random.integers(0, kinds, (200, 9)).astype(np.float32), random.integers(0, 9, 200)
    rows = toy.predictions(run, logits, label)
    for z, true, top, rank, ties in zip(logits.tolist(), label, rows.top.tolist(), rows.rank, rows.ties, strict=True):
        assert top == sorted(range(9), key=lambda c: (-z[c], c))[:5]
        assert rank == sum(each > z[true] for each in z)
        assert ties == (z.count(z[true]) - 1 if rank < 5 else 0)


def test_rows_for_tiles_by_hand() -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple("abcd"))
    logits = np.log(np.array([[1, 2, 4, 1], [1, 1, 1, 1], [5, 1, 1, 3]], np.float32))
    rows = toy.predictions(run, logits, np.array([2, -1, 3]), start=7).tile_rows(np.array([2, 0, 1]))
    assert rows["id"].tolist() == [9, 7, 8]
    assert rows["image"].tolist() == ["000009.png", "000007.png", "000008.png"]
    assert rows["key"].tolist() == hash_refs(["000009.png", "000007.png", "000008.png"]).tolist()
    assert rows["label"].tolist() == [3, 2, -1]
    assert rows["predicted"].tolist() == [0, 2, 0]
    assert rows["top_class"].tolist() == [[0, 3, 1], [2, 1, 0], [0, 1, 2]]
    np.testing.assert_allclose(
        rows["top_probability"], [[0.5, 0.3, 0.1], [0.5, 0.25, 0.125], [0.25, 0.25, 0.25]], rtol=1e-6
    )
    np.testing.assert_allclose(rows["confidence"], [0.5, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(rows["loss"], [LN(10 / 3), LN(2), np.nan], rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_nothing_chosen_looks_like_no_rows(classes: int) -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple(map(str, range(classes))))
    rows = toy.predictions(run, *toy.table(run, 3)).tile_rows(np.zeros(0, np.int64))
    empty = no_tile_rows(run)
    assert {n: (v.shape, v.dtype) for n, v in rows.items()} == {n: (v.shape, v.dtype) for n, v in empty.items()}


RUN = Run(
    classes=("cat", "dög"),
    model="nets.py:build",
    step=12,
    model_args={"depth": 20, "widths": (1, 2), "block": {"kind": "a"}},
    code="c0de",
    weights="0123456789abcdef",
    transform={"resize": (256, 224), "crop": None, "mean": [0.5, 0.25, 0.1], "std": [1.0]},
    root="/data/ünï",
)


def test_embeddings_and_further_columns_are_built_with_nulls_in_failed_rows() -> None:
    run = dataclasses.replace(RUN, embedding=2)
    found = Predictions.build(
        part_schema(run, pa.schema([pa.field("site", pa.string())])),
        id=np.arange(2),
        key=np.arange(2),
        image=pa.array(["a", None], pa.string()),
        label=np.array([0, 1]),
        logits=np.array([[1, 0], [0, 1]], np.float32),
        error=[None, "no"],
        more={
            "embedding": np.array([[1, 2], [3, 4]], np.float16),
            "site": ["north", "south"],
            **{n: [None, None] for n in ("digest", "width", "height", "bytes", "brightness", "contrast")},
        },
    )
    assert found.column("embedding").to_pylist() == [[1, 2], None]
    assert found.column("site").to_pylist() == ["north", "south"]
    assert found.column("image").to_pylist() == ["a", None]
