"""Part files: encodings, other programs' readers and writers, damage, publishing."""

import dataclasses
import hashlib
import random
import resource
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predboard import open_predictions
from predboard.errors import DamagedError, InputError
from predboard.predictions.footer import encode_footer
from predboard.predictions.schema import COLUMNS, Part, Run, part_schema
from predboard.predictions.table import Predictions
from predboard.storage.inspection import inspect
from predboard.storage.locks import lock_folder
from predboard.storage.parts import PartWriter, open_part, read_batches, row_group_size, verify_part
from predboard.storage.runs import (
    list_part_paths,
    list_step_numbers,
    part_path,
    read_values,
)
from tests import toy
from tests.storage.small_runs import RUN, write_small_run


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


@settings(max_examples=25)
@given(rows=st.integers(1, 40), part_range=st.integers(1, 50), group=st.integers(1, 50), classes=st.integers(1, 5))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: int, part_range: int, group: int, classes: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    run = dataclasses.replace(RUN, classes=tuple(map(str, range(classes))))
    expected = write_small_run(folder, rows, run, shard_size=part_range, group=group)
    found = open_predictions(folder)
    pd.testing.assert_frame_equal(found.to_pandas(), expected)
    assert [file.part.start for file in found.step.parts] == list(range(0, rows, part_range))
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
    written = Predictions(pa.RecordBatch.from_arrays(columns, schema=part_schema(run)))
    writer.write(written)
    writer.publish(Part(0, rows, toy.manifest_digest(written), rows, ""))

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
    write_small_run(tmp_path, 200)
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
    expected = write_small_run(tmp_path / "ours")
    ours = _table(_only_part(tmp_path / "ours"))
    part = Part(0, 50, toy.manifest_digest(Predictions(ours.to_batches()[0])), 50, _content_digest(expected), 1.0, 2.0)

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
    duckdb.connect().execute(f"copy plain to '{by_duckdb}' (format parquet, kv_metadata {{{records}}})")

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
        (lambda t: t.set_column(0, "id", pa.array([None, *range(1, 50)], pa.int64())), "id is null in a row"),
        (lambda t: t.set_column(4, "logits", pa.array([[1.0, 2.0]] * 50, pa.list_(pa.float32()))), "damaged"),
        (
            lambda t: t.set_column(4, "logits", pa.array([[1.0] * 2] * 50, pa.list_(pa.float32(), 2))),
            "logits has type fixed",
        ),
        (
            lambda t: t.set_column(5, "error", pc.replace_substring(t["error"], "broken", "lost")),
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
    write_small_run(tmp_path)
    path = _only_part(tmp_path)
    table = _table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DamagedError, match=message) as raised:
        _content(path)
    assert str(raised.value).startswith("step=00000000/part-00000.parquet")


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
    write_small_run(tmp_path, 300)
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
    write_small_run(tmp_path, 30)
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
    written = Predictions(pa.RecordBatch.from_arrays(columns, schema=writer.schema))
    writer.write(written)
    writer.publish(Part(0, 20, toy.manifest_digest(written), 20, ""))
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
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="snappy")
    pd.testing.assert_frame_equal(open_predictions(tmp_path).to_pandas(), before)
    verify_part(open_part(path))
    pq.write_table(table.drop_columns(["cloud"]).replace_schema_metadata(metadata), path)
    with pytest.raises(DamagedError, match="further columns do not match its manifest_digest"):
        verify_part(open_part(path))


def test_a_truncated_part_is_damaged(tmp_path: Path) -> None:
    write_small_run(tmp_path, 30)
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
    write_small_run(tmp_path, 100)
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
    writer.publish(Part(0, 10, toy.manifest_digest(toy.predictions(RUN, *toy.table(RUN, 10))), 10, ""))
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


def test_two_models_that_begin_at_once_meet_at_their_first_part(tmp_path: Path) -> None:
    """Each has a share of its own, and there was no part yet when they began."""
    writers, digests = [], []
    for index, weights in enumerate(("one", "two")):
        run = dataclasses.replace(RUN, weights=weights, shard_size=10)
        writers.append(PartWriter(part_path(tmp_path, 0, index), run))
        rows = toy.predictions(run, *toy.table(run, 10), start=10 * index)
        writers[-1].write(rows)
        digests.append(toy.manifest_digest(rows))
    writers[0].publish(Part(0, 10, digests[0], 20, ""))
    with pytest.raises(InputError, match=r"another job writes to .* with another weights \(one, here two\)"):
        writers[1].publish(Part(10, 20, digests[1], 20, ""))
    writers[1].abandon()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["part-00000.parquet"]


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
