"""Labels, columns and groups that change as rows are read, against rows that were written so from the beginning."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from predboard import InputError
from predboard.evaluation.cache import part_key
from predboard.panels import SCORE_COLUMNS
from predboard.predictions.amendments import Amendment, check_group_column
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, COLUMNS, hash_refs
from predboard.storage.parts import PartFile, open_part, read_batches, read_part_schema, verify_manifest, verify_part
from tests import toy

ROWS, REPLACED = 40, np.array([3, 17, 18, 39])
COUNTRY = pa.array([["NO", "SE", None][i % 3] for i in range(ROWS)])
NO_LOGITS = sorted(COLUMNS.keys() - {"logits", "embedding", "thumbnail"})


def amended(folder: Path, labels: list[int | None], **changes: Any) -> PartFile:
    """A part of rows in groups of 16, one of them failed, with other labels in the rows REPLACED."""
    logits, label = toy.table(toy.RUN, ROWS)
    toy.write_run(folder, logits, label, group=16, failed=frozenset({17}))
    changes = {"rows": REPLACED, "labels": {"label": pa.array(labels, pa.int32())}, **changes} if labels else changes
    amendment = dataclasses.replace(Amendment(), **changes)
    return dataclasses.replace(open_part(folder / "step=00000000/part-00000.parquet"), amendment=amendment)


@pytest.mark.parametrize("columns", [None, NO_LOGITS, ["loss"], ["label"], ["id", "logits", "loss", "label"]])
def test_rows_are_as_if_they_had_been_written_with_the_new_labels(tmp_path: Path, columns: list[str] | None) -> None:
    file = amended(tmp_path / "amended", [0, 1, None, 9])
    logits, label = toy.table(toy.RUN, ROWS)
    label[REPLACED] = [0, 1, -1, 9]
    toy.write_run(tmp_path / "written", logits, label, group=16, failed=frozenset({17}))
    written = open_part(tmp_path / "written/step=00000000/part-00000.parquet")
    pairs = zip(read_batches(file, columns), read_batches(written, columns), strict=True)
    assert all(a.batch.equals(b.batch) for a, b in pairs)
    assert not file.run.difference(written.run)


def test_the_part_itself_is_what_it_was(tmp_path: Path) -> None:
    file = amended(tmp_path, [0, 1, None, 9], columns=pa.record_batch([COUNTRY], names=["country"]))
    verify_part(file)
    verify_manifest(file)


def test_of_a_run_without_scores_the_label_alone_changes(tmp_path: Path) -> None:
    run = dataclasses.replace(toy.RUN, scores="confidence")
    scores = np.array([[1, 0.75], [2, 0.5]], np.float32)
    toy.write_run(tmp_path, scores, np.array([1, 1]), run)
    amendment = Amendment(np.array([1]), {"label": pa.array([2], pa.int32())})
    part = dataclasses.replace(open_part(tmp_path / "step=00000000/part-00000.parquet"), amendment=amendment)
    (rows,) = read_batches(part, {"label", "predicted", "loss"})
    assert rows.label.tolist() == [1, 2]
    assert np.isnan(rows.loss).all()


def test_further_columns_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    file = amended(tmp_path, [], columns=pa.record_batch([COUNTRY], names=["country"]))
    assert read_part_schema(file).names[-1] == "country"
    for columns in (None, {"country"}, {"id", ALL_MANIFEST_COLUMNS}):
        found = [value for rows in read_batches(file, columns) for value in rows.column("country").to_pylist()]
        assert found == COUNTRY.to_pylist()
    assert all(rows.batch.schema.names == ["id"] for rows in read_batches(file, {"id"}))


def test_rows_of_one_value_are_in_one_group_and_one_without_stands_for_itself(tmp_path: Path) -> None:
    file = amended(tmp_path, [], columns=pa.record_batch([COUNTRY], names=["country"]), group="country")
    groups, keys = [], []
    for rows in read_batches(file, {"key"}):
        assert rows.manifest_columns == []
        assert rows.group_column == "country"
        assert (rows.take(np.arange(len(rows)) < 5).group_key == rows.group_key[:5]).all()
        groups += rows.jackknife_group.tolist()
        keys += rows.key.tolist()
    texts = COUNTRY.to_pylist()
    expected = [key if text is None else hash_refs([text])[0] for key, text in zip(keys, texts, strict=True)]
    assert groups == jackknife_group(np.array(expected)).tolist()


@pytest.mark.parametrize("column", [pa.array(range(ROWS)), pa.array([0.5 * i for i in range(ROWS)])])
def test_numbers_are_groups_as_well_and_lists_are_not(tmp_path: Path, column: pa.Array) -> None:
    halves = pa.record_batch([pa.array(column.to_pylist()[:20] * 2, column.type)], names=["scene"])
    file = amended(tmp_path, [], columns=halves, group="scene")
    groups = np.concatenate([rows.group_key for rows in read_batches(file, {"key"})])
    assert (groups[:20] == groups[20:]).all()
    assert len(set(groups.tolist())) == 20
    with pytest.raises(InputError, match="'scene' has list<item: int64>, by which rows cannot be told apart"):
        check_group_column(pa.field("scene", pa.list_(pa.int64())))


def test_each_change_makes_another_key_of_the_cache(tmp_path: Path) -> None:
    changes = (
        amended(tmp_path, [0, 1, None, 9]),
        amended(tmp_path, [0, 1, None, 8]),
        amended(tmp_path, [], columns=pa.record_batch([COUNTRY], names=["country"])),
        amended(tmp_path, [], columns=pa.record_batch([COUNTRY], names=["country"]), group="country"),
        amended(tmp_path, [], columns=pa.record_batch([COUNTRY.fill_null("FI")], names=["country"])),
    )
    keys = {part_key(change) for change in (*changes, dataclasses.replace(changes[0], amendment=None))}
    assert len(keys) == 6
    assert part_key(amended(tmp_path / "again", [0, 1, None, 9])) in keys


def test_every_column_that_needs_all_scores_is_known_here() -> None:
    """A label changes the loss and no other of them; a new one has to be thought about."""
    assert {"logits", "loss", "margin", "entropy"} == SCORE_COLUMNS
