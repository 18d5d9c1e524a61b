"""Runs on disk: encodings, other programs' readers and writers, damage, publishing, locks."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predboard import open_predictions
from predboard.errors import DamagedError, InputError
from predboard.predictions.schema import COLUMNS, Part, Run, encode_footer, part_schema, read_footer
from predboard.predictions.table import Predictions
from predboard.storage.inspection import inspect
from predboard.storage.locks import lock_folder
from predboard.storage.parts import PartWriter, open_part, read_batches, row_group_size, verify_part
from predboard.storage.runs import (
    delete_part,
    delete_step,
    list_part_paths,
    list_step_numbers,
    open_step,
    part_path,
    preflight_path,
    read_values,
)

from tests import toy

RUN = dataclasses.replace(toy.RUN, classes=("a", "b", "c"))


def _run(folder: Path, rows: int = 50, run: Run = RUN, **options: Any) -> pd.DataFrame:
    """Write a run, and what must be read from it."""
    logits, label = toy.table(run, rows)
    label[::7] = -1
    toy.write_run(folder, logits, label, run, failed=frozenset({3, 11}), **options)
    frame: pd.DataFrame = toy.predictions(run, logits, label, failed=frozenset({3, 11})).batch.to_pandas()
    return frame


def _only_part(folder: Path, step: int = 0) -> Path:
    (path,) = list_part_paths(folder, step)
    return path


def _table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:  # pq.read_table would make a column of the step
        return file.read()


def _content(path: Path) -> tuple[Run, Part, pa.Table]:
    file = open_part(path)
    verify_part(file)
    return file.run, file.part, pa.Table.from_batches([rows.batch for rows in read_batches(file)])


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 40), shard=st.integers(1, 50), group=st.integers(1, 50), classes=st.integers(1, 5))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: int, shard: int, group: int, classes: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    run = dataclasses.replace(RUN, classes=tuple(map(str, range(classes))))
    expected = _run(folder, rows, run, shard_size=shard, group=group)
    found = open_predictions(folder)
    pd.testing.assert_frame_equal(found.to_pandas(), expected)
    assert [file.part.start for file in found.step.parts] == list(range(0, rows, shard))
    assert found.step.missing == ()
    for file in found.step.parts:
        verify_part(file)
    assert inspect(folder).complete


def test_a_part_is_encoded_as_the_format_says(tmp_path: Path) -> None:
    classes = tuple(map(str, range(20)))
    run = dataclasses.replace(RUN, classes=classes, embedding=2, thumbnails=8)
    writer = PartWriter(part_path(tmp_path, 0, 0), run)
    rows = 10_000
    logits, label = toy.table(run, rows)
    made = toy.predictions(dataclasses.replace(run, embedding=0, thumbnails=0), logits, label)
    further = {
        "embedding": pa.array([[1.0, 2.0]] * rows, part_schema(run).field("embedding").type),
        "thumbnail": pa.array([b"jpeg"] * rows),
    }
    columns = [further.get(f.name) or made.column(f.name) for f in part_schema(run)]
    writer.write(Predictions(pa.RecordBatch.from_arrays(columns, schema=part_schema(run))))
    writer.publish(Part(0, rows, "d", rows, ""))

    with pq.ParquetFile(writer.path) as file:
        metadata, arrow = file.metadata, file.schema_arrow
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8192, rows - 8192]
    assert arrow.field("logits").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 20)
    assert not arrow.field("logits").type.value_field.nullable
    chunks = {c.path_in_schema: c for c in map(metadata.row_group(0).column, range(metadata.num_columns))}
    assert {c.compression for c in chunks.values()} == {"ZSTD"}
    logits_chunk = chunks["logits.list.element"]
    assert "BYTE_STREAM_SPLIT" in logits_chunk.encodings
    assert not logits_chunk.has_dictionary_page
    assert logits_chunk.statistics is None
    assert chunks["thumbnail"].statistics is None
    assert (chunks["id"].statistics.min, chunks["id"].statistics.max) == (0, 8191)
    assert {name for name, chunk in chunks.items() if chunk.has_dictionary_page} == {"error"}


def _damage(path: Path, column: int) -> None:
    """Flip a bit in the first page of a column, which its header and the footer know nothing of."""
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(column)
    raw = bytearray(path.read_bytes())
    raw[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(raw)


def test_every_column_has_page_checksums(tmp_path: Path) -> None:
    _run(tmp_path, 200)
    path = _only_part(tmp_path)
    raw = path.read_bytes()
    for i in range(len(COLUMNS) - 2):
        path.write_bytes(raw)
        _damage(path, i)
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(path, page_checksum_verification=True).read()


@pytest.mark.parametrize(
    ("classes", "rows"), [(1, 8192), (10, 8192), (1000, 8192), (1024, 8192), (2048, 4096), (21841, 384), (10**8, 1)]
)
def test_a_row_group_holds_at_most_8192_rows_and_32_mib(classes: int, rows: int) -> None:
    assert row_group_size(classes) == rows


def _as_read(frame: pd.DataFrame) -> list[list[Any]]:
    """Rows as plain values in the order of ids, so that no program's types matter."""
    frame = frame.sort_values("id")
    cells = []
    for row in frame.itertuples(index=False):
        plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in row]
        cells.append([None if v is None or (not isinstance(v, list) and pd.isna(v)) else v for v in plain])
    return cells


def test_pandas_and_duckdb_open_the_folder_as_it_is(tmp_path: Path) -> None:
    names = list(COLUMNS)[:-2]
    one = _run(tmp_path, 50, shard_size=20)
    two = _run(tmp_path, 50, dataclasses.replace(RUN, step=12), shard_size=20)
    with lock_folder(tmp_path):  # which leaves a file behind that is no part
        pass
    preflight_path(tmp_path, 12, ".png").parent.mkdir()
    preflight_path(tmp_path, 12, ".png").write_bytes(b"a picture")
    assert len(list(tmp_path.glob("*/*.parquet"))) == 6

    by_pandas = pd.read_parquet(tmp_path)
    assert sorted(by_pandas["step"].astype(int).unique()) == [0, 12]
    pattern = f"{tmp_path}/**/*.parquet"
    by_duckdb = duckdb.execute(f"select * from read_parquet('{pattern}', hive_partitioning = true)").df()
    for step, expected in ((0, one), (12, two)):
        for found in (by_pandas, by_duckdb):
            here = found[found["step"].astype(int) == step]
            assert _as_read(here[names]) == _as_read(expected[names])
    accuracy = duckdb.execute(
        f"select avg((predicted = label)::int) from read_parquet('{pattern}', hive_partitioning = true) where step = 12"
    ).fetchone()
    assert accuracy == (
        pytest.approx((two["predicted"] == two["label"])[two["label"].notna() & two["error"].isna()].mean()),
    )


def _content_digest(frame: pd.DataFrame) -> str:
    """As docs/format.md says it, without our code."""
    parts = (
        frame["id"].to_numpy("<i8").tobytes(),
        "".join(("" if e is None or pd.isna(e) else e) + "\0" for e in frame["error"]).encode(),
        b"".join(np.asarray(z, "<f4").tobytes() for z in frame["logits"] if z is not None),
    )
    digests = b"".join(hashlib.blake2b(p, digest_size=16).digest() for p in parts)
    return hashlib.blake2b(digests, digest_size=16).hexdigest()


def test_a_part_of_another_program_is_read_the_same(tmp_path: Path) -> None:
    expected = _run(tmp_path / "ours")
    ours = _table(_only_part(tmp_path / "ours"))
    part = Part(0, 50, "digest", 50, _content_digest(expected), 1.0, 2.0)

    types = {"logits": pa.list_(pa.float32()), "label": pa.int64(), "loss": pa.float64()}
    plain = pa.table(
        {n: pa.array(ours[n].to_pylist(), types.get(n, ours.schema.field(n).type)) for n in ours.schema.names}
    )
    path = part_path(tmp_path / "pyarrow", 0, 0)
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, plain.schema, store_schema=False) as writer:
        writer.write_table(plain)
        writer.add_key_value_metadata(encode_footer(RUN, part))
    assert pa.types.is_list(pq.read_schema(path).field("logits").type)

    by_duckdb = part_path(tmp_path / "duckdb", 0, 0)
    by_duckdb.parent.mkdir(parents=True)
    records = ", ".join(f"'{k}': '{v}'" for k, v in encode_footer(RUN, part).items())
    duckdb.execute(f"copy plain to '{by_duckdb}' (format parquet, kv_metadata {{{records}}})")

    for folder in (tmp_path / "pyarrow", tmp_path / "duckdb"):
        run, read_part, table = _content(_only_part(folder))
        assert (run, read_part) == (RUN, part)
        assert table.schema.types == ours.schema.types
        assert table.schema.names == ours.schema.names
        pd.testing.assert_frame_equal(open_predictions(folder).to_pandas(), expected)


def test_columns_without_any_value_may_have_no_type(tmp_path: Path) -> None:
    logits, label = toy.table(RUN, 10)
    toy.write_run(tmp_path, logits, label, RUN)
    table = _table(_only_part(tmp_path))
    metadata = table.schema.metadata
    table = table.set_column(table.schema.get_field_index("error"), "error", pa.nulls(10))
    pq.write_table(table.replace_schema_metadata(metadata), _only_part(tmp_path))
    assert _content(_only_part(tmp_path))[2]["error"].to_pylist() == [None] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["loss"]), "column loss is missing"),
        (lambda t: t.set_column(0, "id", pa.array(map(str, range(50)))), "column id has type string"),
        (lambda t: t.set_column(4, "logits", pa.array([[1.0, 2.0]] * 50, pa.list_(pa.float32()))), "damaged"),
        (
            lambda t: t.set_column(4, "logits", pa.array([[1.0] * 2] * 50, pa.list_(pa.float32(), 2))),
            "logits has type fixed",
        ),
        (
            lambda t: t.set_column(4, "logits", pa.array([[1.0, 2.0, 3.0]] * 50, pa.list_(pa.float32()))),
            "match its digest",
        ),
        (
            lambda t: t.set_column(4, "logits", pa.array([[1.0, 2.0], [1.0] * 4] * 25, pa.list_(pa.float32()))),
            "a row of logits has 2 or 4 numbers",
        ),
        (lambda t: t.set_column(3, "label", pa.array([0, 3] * 25, pa.int32())), "label is 0 to 3, of 3 classes"),
        (lambda t: t.set_column(3, "label", pa.array([0, -2] * 25, pa.int64())), "label is -2 to 0, of 3 classes"),
        (lambda t: t.slice(0, 49), "49 rows, its footer says 50"),
        (lambda t: t.take(pa.array([1, 0, *range(2, 50)])), "ids are not 0 to 49"),
    ],
)
def test_a_part_that_does_not_hold_what_its_footer_says_is_damaged(tmp_path: Path, change: Any, message: str) -> None:
    _run(tmp_path)
    path = _only_part(tmp_path)
    table = _table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DamagedError, match=message) as raised:
        _content(path)
    assert str(raised.value).startswith("step=00000000/part-00000.parquet")


def test_rows_are_of_the_manifest_that_any_part_of_the_step_knows(tmp_path: Path) -> None:
    logits, label = toy.table(RUN, 40)
    toy.write_run(tmp_path, logits, label, RUN, shard_size=10)  # of 40
    before = part_path(tmp_path, 0, 0)
    table = _table(before)
    run, part = read_footer(table.schema.metadata, "")
    shorter = encode_footer(run, dataclasses.replace(part, manifest_rows=10))
    pq.write_table(table.replace_schema_metadata(shorter), before)  # made before the manifest grew
    step = open_step(tmp_path, 0)
    assert step is not None
    assert [file.part.manifest_rows for file in step.parts] == [10, 40, 40, 40]
    assert {rows.manifest_rows for file in step.parts for rows in read_batches(file)} == {40}
    assert step.manifest_rows == 40


def _noticed(path: Path, raw: bytearray, expected: tuple[Run, Part, pa.Table]) -> bool:
    path.write_bytes(raw)
    try:
        found = _content(path)
    except InputError:
        return True
    assert found[:2] == expected[:2]
    assert found[2].equals(expected[2])
    return False


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    _run(tmp_path, 300)
    path = _only_part(tmp_path)
    raw, expected = path.read_bytes(), _content(path)
    chosen = random.Random(0)
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
    inside = [c.data_page_offset + chosen.randrange(c.total_compressed_size) for c in chunks for _ in range(2)]
    anywhere = [chosen.randrange(len(raw)) for _ in range(60)]
    noticed = 0
    for at in [*anywhere, *inside]:
        damaged = bytearray(raw)
        damaged[at] ^= 1 << chosen.randrange(8)
        noticed += _noticed(path, damaged, expected)
    assert noticed > 60  # the others hit statistics, or a header's length of something that is not read


def test_a_flipped_bit_in_a_columns_name_is_noticed(tmp_path: Path) -> None:
    _run(tmp_path, 30)
    path = _only_part(tmp_path)
    raw, expected = path.read_bytes(), _content(path)
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for name in list(COLUMNS)[:-2]:
        at = (
            raw.index(bytes([0x18, len(name)]) + name.encode(), start) + 2
        )  # Thrift's compact form of field 4, a string
        damaged = bytearray(raw)
        damaged[at] ^= 2
        assert _noticed(path, damaged, expected), name


def _with_further_columns(folder: Path) -> Path:
    further = pa.schema([("sensor", pa.string()), ("cloud", pa.float64())])
    writer = PartWriter(part_path(folder, 0, 0), RUN, further)
    rows = toy.predictions(RUN, *toy.table(RUN, 20)).batch
    columns = [*rows.columns, pa.array([f"s{i}" for i in range(20)]), pa.array([i / 8 for i in range(20)])]
    writer.write(Predictions(pa.RecordBatch.from_arrays(columns, schema=writer.schema)))
    writer.publish(Part(0, 20, "digest", 20, ""))
    return _only_part(folder)


def test_a_flipped_bit_in_the_footer_is_noticed_further_columns_and_statistics_included(tmp_path: Path) -> None:
    path = _with_further_columns(tmp_path)
    raw = path.read_bytes()
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    chosen = random.Random(0)
    seal = raw.index(b"predboard.seal", start)
    sure = [raw.index(name, start) + i for name in (b"sensor", b"cloud", b"s0") for i in range(len(name))]
    others = [
        at for at in chosen.sample(range(start, len(raw)), 300) if not seal <= at < seal + len("predboard.seal") + 12
    ]
    for at in [*sure, *others]:
        damaged = bytearray(raw)
        damaged[at] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            verify_part(open_part(path))


def test_a_part_that_another_program_wrote_again_with_its_metadata_is_no_damage(tmp_path: Path) -> None:
    path = _with_further_columns(tmp_path)
    before = open_predictions(tmp_path).to_pandas()
    with pq.ParquetFile(path) as file:
        table, metadata = file.read(), file.metadata.metadata
    assert b"predboard.seal" in metadata
    pq.write_table(table.drop_columns(["cloud"]).replace_schema_metadata(metadata), path)
    after = open_predictions(tmp_path).to_pandas()
    pd.testing.assert_frame_equal(after, before.drop(columns="cloud"))
    verify_part(open_part(path))


def test_a_truncated_part_is_damaged(tmp_path: Path) -> None:
    _run(tmp_path, 30)
    path = _only_part(tmp_path)
    raw = path.read_bytes()
    for length in (0, 1, 4, 8, 100, len(raw) // 2, len(raw) - 9, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(
            DamagedError, match=r"step=00000000/part-00000.parquet is damaged .*re-run the command that wrote it"
        ):
            open_part(path)
        with pytest.raises(DamagedError):
            open_predictions(tmp_path)


def test_damage_below_the_footer_is_named_on_reading(tmp_path: Path) -> None:
    _run(tmp_path, 100)
    path = _only_part(tmp_path)
    _damage(path, column=4)
    opened = open_predictions(tmp_path)
    with pytest.raises(DamagedError, match=r"step=00000000/part-00000.parquet is damaged"):
        opened.to_pandas()
    with pytest.raises(DamagedError, match=r"step=00000000/part-00000.parquet is damaged"):
        read_values(opened.step, [5], "logits")
    assert len(open_predictions(tmp_path, columns=("id", "label")).to_pandas()) == 100


def _aside(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".parquet")]


def _part_writer(folder: Path, rows: int = 10) -> PartWriter:
    writer = PartWriter(part_path(folder, 0, 0), RUN)
    writer.write(toy.predictions(RUN, *toy.table(RUN, rows)))
    return writer


def test_nothing_appears_before_it_is_published_and_nothing_stays_when_abandoned(tmp_path: Path) -> None:
    writer = _part_writer(tmp_path)
    assert len(_aside(tmp_path)) == 1
    assert _aside(tmp_path)[0].startswith(".")
    assert list_step_numbers(tmp_path) == []
    writer.abandon()
    assert _aside(tmp_path) == []
    writer = _part_writer(tmp_path)
    writer.publish(Part(0, 10, "d", 10, ""))
    assert _aside(tmp_path) == []
    assert list_step_numbers(tmp_path) == [0]


def test_what_cannot_be_read_back_is_not_published(tmp_path: Path) -> None:
    writer = _part_writer(tmp_path, 2000)
    (aside,) = tmp_path.rglob(".part-*.tmp")
    writer._file.flush()
    raw = bytearray(aside.read_bytes())
    raw[len(raw) // 2] ^= 1  # as a failing disk would
    with aside.open("r+b") as file:
        file.write(raw)
    with pytest.raises(DamagedError):
        writer.publish(Part(0, 2000, "d", 2000, ""))
    writer.abandon()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    writer = _part_writer(tmp_path)
    with pytest.raises(DamagedError, match="10 rows, its footer says 11"):
        writer.publish(Part(0, 11, "d", 11, ""))
    writer.abandon()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_missing_parts_are_gaps(tmp_path: Path) -> None:
    _run(tmp_path, 50, shard_size=10)
    assert open_predictions(tmp_path).step.missing == ()
    for index in (0, 2, 3):
        part_path(tmp_path, 0, index).unlink()
    step = open_predictions(tmp_path).step
    assert step.missing == ((0, 10), (20, 40))
    assert (step.rows, step.manifest_rows) == (20, 50)
    part_path(tmp_path, 0, 4).unlink()
    assert open_predictions(tmp_path).step.missing == ((0, 10), (20, 50))
    found = inspect(tmp_path)
    assert not found.complete
    assert "step 0 lacks rows 20 to 49" in found.lines()


def test_inspection_counts_and_names_what_is_damaged(tmp_path: Path) -> None:
    frame = _run(tmp_path, 50, shard_size=10)
    facts = inspect(tmp_path).facts
    (step,) = facts["steps"]
    counted = frame[frame["error"].isna() & frame["label"].notna()]
    assert step["accuracy"] == pytest.approx((counted["predicted"] == counted["label"]).mean())
    assert (step["rows"], step["failed"], step["unlabelled"], step["parts"]) == (
        50,
        2,
        int(frame["label"].isna().sum()),
        5,
    )
    assert facts["bytes"] == sum(p.stat().st_size for p in tmp_path.rglob("*.parquet"))
    assert json.loads(json.dumps(facts)) == facts

    path = part_path(tmp_path, 0, 1)
    _damage(path, column=0)  # the footer is whole
    part_path(tmp_path, 0, 4).write_bytes(b"PAR1")
    found = inspect(tmp_path)
    assert not found.complete
    assert list(found.facts["damaged"]) == ["step=00000000/part-00004.parquet", "step=00000000/part-00001.parquet"]
    assert found.facts["steps"][0]["missing_rows"] == 20
    assert found.facts["steps"][0]["missing"] == [[10, 20], [40, 50]]
    assert sum(line.startswith("damaged: step=00000000/part-0000") for line in found.lines()) == 2
    for p in list_part_paths(tmp_path, 0):
        p.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="holds only damaged parts: step=00000000/part-0000"):
        inspect(tmp_path)


def test_rows_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    _run(tmp_path, 30, shard_size=10)
    path = part_path(tmp_path, 0, 1)
    path.with_name("part-00009.parquet").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"contains rows twice: .*part-00001.* and .*part-00009.* both have row 10"):
        open_predictions(tmp_path)


def test_parts_of_two_runs_are_refused_by_the_field_that_differs(tmp_path: Path) -> None:
    _run(tmp_path / "one", 30, shard_size=10)
    _run(tmp_path / "two", 30, dataclasses.replace(RUN, weights="other"), shard_size=10)
    part_path(tmp_path / "two", 0, 1).replace(part_path(tmp_path / "one", 0, 1))
    with pytest.raises(InputError, match=r"mixes two runs: weights is  in .*part-00000.* and other in .*part-00001"):
        open_predictions(tmp_path / "one")


def test_steps_of_different_classes_are_refused(tmp_path: Path) -> None:
    _run(tmp_path)
    _run(tmp_path, run=dataclasses.replace(RUN, step=2, classes=("a", "b", "d")))
    with pytest.raises(InputError, match="step 2 and step 0 have different classes"):
        open_predictions(tmp_path)


def test_steps_are_ascending_and_the_last_is_the_default(tmp_path: Path) -> None:
    for number in (12, 3, 100_000_000_000):
        _run(tmp_path, 10 + number % 7, dataclasses.replace(RUN, step=number))
    opened = open_predictions(tmp_path)
    assert opened.steps == (3, 12, 100_000_000_000)
    assert opened.run.step == 100_000_000_000
    assert len(open_predictions(tmp_path, step=3, columns=["id"]).to_pandas()) == 13
    assert open_predictions(tmp_path, columns=["label", "id"]).to_pandas().columns.tolist() == ["id", "label"]
    with pytest.raises(InputError, match="no step 4; expected one of 3, 12, 100000000000"):
        open_predictions(tmp_path, step=4)


@pytest.mark.parametrize("name", ["missing", "empty", "file", "empty/step=00000001"])
def test_a_folder_without_predictions_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty" / "step=00000001").mkdir(parents=True)
    (tmp_path / "file").touch()
    words = {
        "missing": "no folder .*missing: expected",
        "empty": "contains no predictions",
        "file": "file is a file: expected",
        "empty/step=00000001": r"step=00000001 is one step of a run; name the run, .*empty$",
    }
    with pytest.raises(InputError, match=words[name]) as raised:
        open_predictions(tmp_path / name)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=words[name]):
        inspect(tmp_path / name)


def test_picking_reads_values_by_id(tmp_path: Path) -> None:
    expected = _run(tmp_path, 100, shard_size=40, group=15).set_index("id")
    step = open_predictions(tmp_path).step
    ids = [99, 0, 39, 40, 41, 14, 15, 3, 0, 1000, -1]
    for column in ("key", "image", "error", "loss"):
        found = read_values(step, ids, column)
        assert sorted(found) == [0, 3, 14, 15, 39, 40, 41, 99]
        for at, value in found.items():
            assert value == expected[column][at] or (value is None and pd.isna(expected[column][at]))
    assert read_values(step, [7], "logits") == {7: expected["logits"][7].tolist()}
    assert read_values(step, ids, "thumbnail") == {}
    assert read_values(step, [], "key") == {}


@contextlib.contextmanager
def _holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a run and is in the middle of writing a part."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from predboard.storage.locks import lock_folder\n"
        "from predboard.storage.parts import PartWriter\n"
        "from predboard.storage.runs import part_path\n"
        "from tests import toy\n"
        "folder = Path(sys.argv[1])\n"
        "with lock_folder(folder):\n"
        "    writer = PartWriter(part_path(folder, 0, 0), toy.RUN)\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": toy.PYTHONPATH}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_the_lock_of_a_killed_one_is_free(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        with pytest.raises(
            InputError, match=r"another process is writing to .*: wait until it finishes, or name another --out"
        ):
            lock_folder(tmp_path).__enter__()
        assert len(list(tmp_path.rglob(".part-*.tmp"))) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(tmp_path.rglob(".part-*.tmp"))) == 1
        with lock_folder(tmp_path):
            assert list(tmp_path.rglob(".part-*.tmp")) == []
    with lock_folder(tmp_path):
        pass


def test_a_lock_does_not_touch_files_of_others(tmp_path: Path) -> None:
    _run(tmp_path)
    mine = tmp_path / "step=00000000" / "notes.tmp"
    mine.write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    with lock_folder(tmp_path):
        pass
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(InputError, match=r"cannot write to .*file.*; everything published so far is safe"):
            lock_folder(folder).__enter__()
        with pytest.raises(InputError, match="cannot write to"):
            PartWriter(part_path(folder, 0, 0), RUN)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    logits, label = toy.table(RUN, 20_000)
    writer = PartWriter(part_path(tmp_path, 0, 0), RUN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing more than that into a file fails
    try:
        with pytest.raises(InputError, match=r"cannot write to .*File too large"):
            writer.write(toy.predictions(RUN, logits, label))
            writer.publish(Part(0, 20_000, "d", 20_000, ""))
        writer.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_deleting_takes_what_belongs_and_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    _run(tmp_path, 20, shard_size=10)
    delete_part(part_path(tmp_path, 0, 1))
    assert [p.name for p in list_part_paths(tmp_path, 0)] == ["part-00000.parquet"]
    with pytest.raises(InputError, match="cannot write to"):
        delete_part(part_path(tmp_path, 0, 1))
    sheets = [preflight_path(tmp_path, step, ".png") for step in (0, 1)]
    sheets[0].parent.mkdir()
    for sheet in sheets:
        sheet.write_bytes(b"a picture")
    delete_step(tmp_path, 0)
    assert list_step_numbers(tmp_path) == []
    assert [sheet.exists() for sheet in sheets] == [False, True]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_what_is_released_goes_back_to_the_system() -> None:
    """In a process of its own: what others left between would decide how much it is."""
    script = (
        "import re, numpy as np\n"
        "from pathlib import Path\n"
        "from predboard.storage.runs import release_memory\n"
        "resident = lambda: int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1000\n"
        "arrays = [np.ones(10_000) for _ in range(1000)]\n"  # 80 MB, each below what glibc takes from the system alone
        "last, full = arrays.pop(), resident()\n"
        "del arrays\n"
        "before = resident()\n"
        "release_memory()\n"
        "print(full - before, full - resident())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=toy.ROOT, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    before, after = map(int, done.stdout.split())
    assert before < 20 < 60 < after
