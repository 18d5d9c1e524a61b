"""Runs on disk or in storage: publish, list, verify, read, lock. Knows Parquet, and not what a column means.

    predictions/<run>/step=00000012/part-00000.parquet

A part that exists is complete: it is written beside, read back, then renamed; for storage it is written on this
machine, read back, then put by one write. Every other file or folder starts with `.` or `_`, so that pandas, DuckDB,
Polars and Spark open the folder as it is.
"""

import contextlib
import ctypes
import functools
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from predboard.errors import DamagedError, InputError, first_line
from predboard.formatting import plural
from predboard.parallel import pool
from predboard.predictions.table import (
    ALL_MANIFEST_COLUMNS,
    COLUMNS,
    Part,
    Predictions,
    Run,
    as_arrow,
    as_numpy,
    encode_footer,
    part_schema,
    read_footer,
    scatter,
)
from predboard.storage import paths as places
from predboard.storage.paths import AnyPath, P, RemotePath
from predboard.storage.shards import WHOLE_RUN, Share

X = TypeVar("X")
Y = TypeVar("Y")

_LOCK_WAIT_SECONDS = 30.0
"""Seconds that a process waits for others to take or give back their shares."""

ROW_GROUP_MAX_ROWS = 8192
ROW_GROUP_MAX_BYTES = 32 * 2**20
"""A row group holds at most this many rows and bytes of logits; it is what a reader holds in memory at once."""


def row_group_size(classes: int) -> int:
    """Rows of one row group."""
    return max(1, min(ROW_GROUP_MAX_ROWS, ROW_GROUP_MAX_BYTES // (4 * classes)))


@dataclass(frozen=True)
class PartFile:
    """One valid-looking part: its footer was read and fits its digest."""

    path: AnyPath
    run: Run
    part: Part
    rows: int
    of: int
    """Rows of the whole manifest, as far as any part of its step knows: it may have grown since this one was made."""

    @property
    def name(self) -> str:
        """For messages: step folder and file."""
        return f"{self.path.parent.name}/{self.path.name}"


def missing_ranges(parts: Iterable[PartFile], rows: int) -> tuple[tuple[int, int], ...]:
    """Ranges of rows 0 to `rows` that no part holds; the parts come in the order of their rows."""
    found, at = [], 0
    for p in parts:
        if p.part.start > at:
            found.append((at, p.part.start))
        at = max(at, p.part.stop)
    return (*found, (at, rows)) if at < rows else tuple(found)


@dataclass(frozen=True)
class Step:
    """All parts of one step, in the order of their rows."""

    step: int
    run: Run
    parts: tuple[PartFile, ...]

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return sum(p.rows for p in self.parts)

    @property
    def manifest_rows(self) -> int:
        """Rows that there should be, as far as any part knows."""
        return max(p.of for p in self.parts)

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """Ranges of manifest rows that no part holds."""
        return missing_ranges(self.parts, self.manifest_rows)

    @property
    def finished(self) -> float:
        """When inference of the newest part ended, seconds since 1970."""
        return max(p.part.finished for p in self.parts)


def step_folder(run: P, step: int) -> P:
    """Folder of one step."""
    return cast(P, run / f"step={step:08d}")


def part_path(run: P, step: int, index: int) -> P:
    """File of one part."""
    return cast(P, step_folder(run, step) / f"part-{index:05d}.parquet")


def preflight_path(run: P, step: int, suffix: str) -> P:
    """File of what stage one found before the long run, `.json`, and of what the model saw, `.png`."""
    return cast(P, run / "_preflight" / f"{step_folder(run, step).name}{suffix}")


def write_file(path: AnyPath, content: bytes) -> None:
    """Write a small file whole or not at all. Raises InputError if that is impossible."""
    if isinstance(path, RemotePath):
        with explain_write_errors(path.parent):
            path.write_bytes(content)
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with explain_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def list_step_numbers(run: AnyPath) -> list[int]:
    """Steps that have a folder with at least one part, ascending."""
    return sorted(
        int(folder.name.removeprefix("step="))
        for folder in run.glob("step=*")
        if re.fullmatch(r"step=\d+", folder.name) and any(folder.glob("part-*.parquet"))
    )


def list_part_paths(run: P, step: int) -> list[P]:
    """Part files of one step, by name."""
    parts = cast(Iterable[P], step_folder(run, step).glob("part-*.parquet"))
    return sorted(parts, key=lambda p: (len(p.name), p.name))


def map_files(
    function: Callable[[X], Y], items: Sequence[X], where: AnyPath, threads: int = places.MAX_CONNECTIONS
) -> Iterator[Y]:
    """What a function gives for each item, in order; on several threads where each has to ask storage."""
    if isinstance(where, RemotePath):
        return pool.ordered_map(function, items, min(threads, len(items)))
    return map(function, items)


def _parquet(path: AnyPath, whole: bool) -> pq.ParquetFile:
    """A part for reading: from storage all of it at once, or in few and large pieces what is asked for."""
    far = isinstance(path, RemotePath)
    return pq.ParquetFile(places.arrow_source(path, whole), page_checksum_verification=True, pre_buffer=far)


def _wrong(path: AnyPath, where: str, error: Exception) -> InputError:
    """What to say of a part that could not be read: the storage is to blame, or what is in the file."""
    if fault := places.storage_fault(path, error):
        return fault
    return _damaged(where, error)


def _damaged(where: str, error: Exception) -> DamagedError:
    return DamagedError(f"{where} is damaged ({first_line(error)}): run the command that made it again")


def open_part(path: AnyPath) -> PartFile:
    """Read a part's footer. Raises InputError if it cannot be read, or does not fit."""
    where = f"{path.parent.name}/{path.name}"
    try:
        with _footer_file(path) as raw, pq.ParquetFile(raw) as file:
            metadata = file.metadata
            run, part = read_footer(metadata.metadata, where)
            columns = file.schema_arrow
            if not _sealed(raw, metadata.metadata):
                raise DamagedError(
                    f"{where} is damaged (its footer does not fit its seal): run the command that made it again"
                )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _wrong(path, where, error) from error
    for field in part_schema(run):  # of a file that is not sealed, names and types of columns have no checksum
        at = columns.get_field_index(field.name)
        if at < 0 or not _alike(columns.field(at).type, field):
            was = f"is {columns.field(at).type}" if at >= 0 else "is missing"
            raise DamagedError(
                f"{where} is damaged (its column {field.name} {was}): run the command that made it again"
            )
    if metadata.num_rows != part.stop - part.start:
        raise DamagedError(f"{where} is damaged ({metadata.num_rows} rows, its footer says {part.stop - part.start})")
    return PartFile(path, run, part, metadata.num_rows, part.manifest_rows)


_SEAL = "predboard.seal"
_UNSEALED = f"{0:010d}:{'0' * 32}"
"""Length of the footer and a hash of it with this in the seal's place."""


_END = 2**17
"""What is read of an object for its footer; of a longer one, the rest by another request."""


def _footer_file(path: AnyPath) -> BinaryIO:
    """A file whose end is that of the part."""
    if isinstance(path, Path):
        return path.open("rb")
    end = path.read_end(_END)
    if (length := int.from_bytes(end[-8:-4], "little") + 8) > len(end):
        end = path.read_end(length)
    return io.BytesIO(end)


def _footer_of(file: BinaryIO) -> tuple[int, bytes]:
    """Where a Parquet file's footer begins, and its bytes. Its length is in four of the last eight."""
    end = file.seek(-8, os.SEEK_END)
    start = end - int.from_bytes(file.read(4), "little")
    file.seek(max(start, 0))
    return start, file.read(end - start)


def _sealed(file: BinaryIO, metadata: Mapping[bytes, bytes]) -> bool:
    """Whether a footer fits its seal; one that has none, or that another program wrote again, is not asked."""
    seal = metadata.get(_SEAL.encode())
    if seal is None:
        return True
    _, content = _footer_of(file)
    length, _, digest = seal.partition(b":")
    if not length.isdigit():
        return False
    if int(length) != len(content):  # a program that copied the metadata into a file of its own
        return True
    return digest == _footer_digest(content.replace(seal, _UNSEALED.encode()))


def _footer_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _seal(path: Path) -> None:
    """Put the seal where `_UNSEALED` was written: Parquet has checksums for pages, but none for its footer."""
    with path.open("r+b") as file:
        start, content = _footer_of(file)
        at = content.rindex(_UNSEALED.encode())
        file.seek(start + at)
        file.write(b"%010d:%s" % (len(content), _footer_digest(content)))
        file.flush()
        os.fsync(file.fileno())


_KINDS: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_integer,
    pa.types.is_floating,
    lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t),
    lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t),
)


def _alike(found: pa.DataType, wanted: pa.Field) -> bool:
    """Whether a column, as any program may have written it, can be read as the one that is wanted."""
    if pa.types.is_fixed_size_list(wanted.type):
        if pa.types.is_fixed_size_list(found) and found.list_size != wanted.type.list_size:
            return False
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return bool(lists and pa.types.is_floating(found.value_type))
    if pa.types.is_null(found):  # what pandas makes of a column without a value
        return bool(wanted.nullable)
    return any(kind(found) and kind(wanted.type) for kind in _KINDS)


def verify_part(file: PartFile) -> None:
    """Read all of a part with its page checksums. Raises InputError if a bit is wrong or a row is missing."""
    expected = file.part.start
    digest = ContentDigest()
    for batch in read_batches(file):
        ids = batch.id
        if not np.array_equal(ids, np.arange(expected, expected + len(ids))):
            raise DamagedError(f"{file.name} is damaged (its ids are not {file.part.start} to {file.part.stop - 1})")
        expected += len(ids)
        digest.add(batch)
    if expected != file.part.stop or digest.hexdigest() != file.part.content_digest:
        raise DamagedError(
            f"{file.name} is damaged (its rows do not fit its digest): run the command that made it again"
        )


def holds_part(path: AnyPath, run: Run, part: Part) -> bool:
    """Whether there is a whole part of this run and of these rows of the same data already."""
    try:
        there = open_part(path)
        verify_part(there)
    except InputError:  # none, or a damaged one
        return False
    same = (there.part.start, there.part.stop, there.part.manifest_digest)
    return same == (part.start, part.stop, part.manifest_digest) and not there.run.difference(run)


class ContentDigest:
    """Digest of ids, errors and logits of rows that are added in order, however they are batched."""

    def __init__(self) -> None:
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in range(3)]  # one a column, so that no batch edge shows

    def add(self, rows: Predictions) -> None:
        """Take in the next rows."""
        ids, errors, logits = self._hashes
        ids.update(rows.id.tobytes())
        errors.update("".join(f"{e or ''}\0" for e in rows.column("error").to_pylist()).encode())
        logits.update(as_numpy(rows.column("logits").flatten()).astype(np.float32, copy=False).tobytes())

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.blake2b(b"".join(h.digest() for h in self._hashes), digest_size=16).hexdigest()


def read_part_schema(file: PartFile) -> pa.Schema:
    """Names and types of a part's columns, as its writer declared them. Raises InputError if it cannot be read."""
    try:
        with _footer_file(file.path) as raw:
            return pq.read_schema(raw)
    except (pa.ArrowException, OSError) as error:
        raise _wrong(file.path, file.name, error) from error


def read_batches(file: PartFile, columns: Iterable[str] | None = None) -> Iterator[Predictions]:
    """The rows of a part in order, a bounded number at a time; only `columns` if given (`ALL_MANIFEST_COLUMNS` stands
    for several).

    Page checksums are verified. Raises InputError that names the part if it is damaged.
    """
    try:
        with _parquet(file.path, whole=columns is None) as parquet:
            wanted = None if columns is None else set(columns)
            there = parquet.schema_arrow.names
            names = wanted and [
                n for n in there if n in wanted or (ALL_MANIFEST_COLUMNS in wanted and n not in COLUMNS)
            ]
            size = row_group_size(len(file.run.classes))
            for batch in parquet.iter_batches(size, columns=names, use_threads=False):
                rows = Predictions(_conformed(batch, file.run), file.of)
                _check_classes(rows, len(file.run.classes))
                yield rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _wrong(file.path, file.name, error) from error


def _conformed(batch: pa.RecordBatch, run: Run) -> pa.RecordBatch:
    """The batch with the format's own types: a writer other than Arrow does not declare lists of fixed size."""
    wanted = part_schema(run)
    for i, found in enumerate(batch.schema):
        field = wanted.field(found.name) if found.name in wanted.names else found
        if found.equals(field):
            continue
        column = batch.column(i)
        if found.type == field.type:
            pass
        elif pa.types.is_fixed_size_list(field.type):
            ok = np.asarray(column.is_valid())
            lengths = set(pc.unique(pc.list_value_length(column).drop_null()).to_pylist())
            if lengths - {field.type.list_size}:
                raise ValueError(f"a row of {field.name} has {min(lengths)} or {max(lengths)} numbers")
            values = np.asarray(column.flatten()).reshape(ok.sum(), field.type.list_size)
            column = scatter(values, ok, field.type)
        else:
            column = column.cast(field.type)
        batch = batch.set_column(i, field, column)
    return batch


def _check_classes(rows: Predictions, classes: int) -> None:
    """Raise ValueError if a row is of a class that the footer does not name, as another program may have written it."""
    for name in {"label", "predicted"} & set(rows.batch.schema.names):
        index = as_numpy(rows.column(name), -1)
        if len(index) and not -1 <= index.min() <= index.max() < classes:
            raise ValueError(f"{name} is {index.min()} to {index.max()}, of {classes} classes")


def read_values(step: Step, ids: Iterable[int], column: str) -> dict[int, Any]:
    """Values of one column for a few rows by id, reading only the row groups that hold them."""
    wanted = np.unique(np.fromiter(ids, np.int64))
    found: dict[int, Any] = {}
    for file in step.parts:
        here = wanted[(wanted >= file.part.start) & (wanted < file.part.stop)] - file.part.start
        if not len(here):
            continue
        try:
            with _parquet(file.path, whole=False) as parquet:
                if column not in parquet.schema_arrow.names:
                    continue
                first = 0
                for group in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(group).num_rows
                    inside = here[(here >= first) & (here < first + rows)]
                    if len(inside):
                        column_here = parquet.read_row_group(group, [column]).column(0)
                        values = column_here.take(as_arrow(inside - first, pa.int64()))
                        found.update(zip((inside + file.part.start).tolist(), values.to_pylist(), strict=True))
                    first += rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _wrong(file.path, file.name, error) from error
    return found


def open_step(run: AnyPath, step: int, damaged: Callable[[AnyPath, DamagedError], None] | None = None) -> Step | None:
    """All parts of one step; None if there are none.

    A damaged part raises InputError, or is handed to `damaged` and left out. Parts of different runs, or with rows in
    common, raise InputError in any case.
    """

    def opened(path: AnyPath) -> PartFile | DamagedError:
        try:
            return open_part(path)
        except DamagedError as error:
            return error

    files = []
    paths = list_part_paths(run, step)
    for path, file in zip(paths, map_files(opened, paths, run), strict=True):
        if isinstance(file, PartFile):
            files.append(file)
        elif damaged is None:
            raise file
        else:
            damaged(path, file)
    files.sort(key=lambda f: f.part.start)
    for a, b in itertools.pairwise(files):
        if difference := a.run.difference(b.run):
            name, here, there = difference
            raise InputError(f"{run} mixes two runs: {name} is {here} in {a.name} and {there} in {b.name}")
        if b.part.start < a.part.stop:
            raise InputError(f"{run} holds rows twice: {a.name} and {b.name} both have row {b.part.start}")
    of = max((f.of for f in files), default=0)
    return Step(step, files[0].run, tuple(replace(f, of=of) for f in files)) if files else None


def open_run(run: AnyPath, damaged: Callable[[AnyPath, DamagedError], None] | None = None) -> tuple[Step, ...]:
    """All steps of a run, ascending. Raises InputError if the folder is missing, holds none, or mixes runs."""
    if not run.is_dir():
        what = f"{run} is a file" if run.is_file() else f"no folder {run}"
        raise InputError(f"{what}: expected a folder of predictions that `predboard infer` wrote")
    steps = [s for number in list_step_numbers(run) if (s := open_step(run, number, damaged)) is not None]
    if not steps:
        below: Iterable[AnyPath] = run.iterdir()
        if inside := sorted((path for path in below if path.is_dir() and list_step_numbers(path)), key=str):
            raise InputError(
                f"{run} holds no predictions but {plural(len(inside), 'run')}: name one of them, "
                f"{inside[0]} for example"
            )
        if run.name.startswith("step="):
            raise InputError(f"{run} is a step of a run: name the run, {run.parent}")
        raise InputError(f"{run} holds no predictions (no step=*/part-*.parquet): run `predboard infer` first")
    for step in steps[1:]:
        if step.run.classes != steps[0].run.classes:
            raise InputError(
                f"{run} mixes class lists: step {step.step} and step {steps[0].step} have different classes"
            )
    return tuple(steps)


class PartWriter:
    """Writes one part beside its place; `publish` makes it appear whole, `abandon` leaves nothing."""

    def __init__(self, path: AnyPath, run: Run, further: pa.Schema | None = None) -> None:
        """Open a hidden file beside `path`. Raises InputError if that is impossible."""
        self.path, self.run = path, run
        self.schema = part_schema(run, further)
        folder = places.staging_dir(path.parent.parent) / path.parent.name
        self._aside = folder / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        self._digest = ContentDigest()
        floats = [f"{n}.list.element" for n in ("logits",) if n in self.schema.names]
        plain = [f.name for f in self.schema if not pa.types.is_nested(f.type) and f.name != "thumbnail"]
        with explain_write_errors(path.parent):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._aside.open("wb")
            self._writer = pq.ParquetWriter(
                self._file,
                self.schema,
                compression="zstd",
                use_dictionary=[n for n in ("error",) if n in self.schema.names],
                use_byte_stream_split=floats,
                write_statistics=plain,
                write_page_checksum=True,
            )

    def write(self, rows: Predictions) -> None:
        """Write row groups, one if the rows fit."""
        self._digest.add(rows)
        with explain_write_errors(self.path.parent):
            table = pa.Table.from_batches([rows.batch], self.schema)
            self._writer.write_table(table, row_group_size=row_group_size(len(self.run.classes)))

    @property
    def content_digest(self) -> str:
        """Of the rows so far."""
        return self._digest.hexdigest()

    def publish(self, part: Part) -> None:
        """Finish with this record (its content digest is filled in), read back, and put it in its place."""
        with explain_write_errors(self.path.parent):
            records = encode_footer(self.run, replace(part, content_digest=self.content_digest))
            self._writer.add_key_value_metadata({**records, _SEAL: _UNSEALED})
            self._writer.close()
            self._file.close()
            _seal(self._aside)
            verify_part(open_part(self._aside))
            places.publish_file(self._aside, self.path)
            if isinstance(self.path, Path):
                _sync_folder(self.path.parent)

    def abandon(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError, pa.ArrowException, ValueError):  # it failed already: only tidy up
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._aside.unlink(missing_ok=True)


DERIVED_GROUP_ROWS = 2**14
"""Rows of a row group of `rows.parquet`, at least, where a step has them: what is looked at again at once."""


class DerivedRowsWriter:
    """Writes `rows.parquet`: one line for every row of every step, with all that is derived from its logits but not the
    logits; some 100 bytes each. A row group has rows of one step, and is written while the next one is gathered.
    """

    def __init__(self, path: AnyPath) -> None:
        """The file is created with its first rows, which say what columns the manifest brought along."""
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None
        """The last group, which may be on its way."""

    def write(self, rows: Predictions) -> None:
        """Write what `derived_rows` made, step by step."""
        if not len(rows):
            return
        batch = rows.batch
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path,
                batch.schema,
                compression="zstd",
                use_dictionary=[f.name for f in batch.schema if f.name != "image" and _texts(f.type)],
                column_encoding=dict.fromkeys(_whole_numbers(batch.schema), "DELTA_BINARY_PACKED"),
                write_statistics=[
                    f.name for f in batch.schema if not (pa.types.is_nested(f.type) or pa.types.is_dictionary(f.type))
                ],
                write_page_checksum=True,
            )
        elif batch.schema != self._writer.schema:  # of another step, made with other columns
            columns = [
                batch.column(f.name) if f in list(batch.schema) else pa.nulls(len(batch), f.type)
                for f in self._writer.schema
            ]
            batch = pa.RecordBatch.from_arrays(columns, schema=self._writer.schema)
        if self._waiting and _step_of(batch) != _step_of(self._waiting[0]):
            self._flush()
        self._waiting.append(batch)
        if sum(map(len, self._waiting)) >= DERIVED_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._end_group()
        if self._writer is not None and waiting:
            table = pa.Table.from_batches(waiting)
            self._written = self._thread.submit(self._writer.write_table, table, row_group_size=len(table))

    def _end_group(self) -> None:
        """Wait for the last group, and raise what its writing raised."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Finish the file."""
        try:
            self._flush()
            self._end_group()
        finally:
            self._thread.shutdown()
            if self._writer is not None:
                self._writer.close()


def _step_of(batch: pa.RecordBatch) -> int:
    return int(batch.column("step")[0].as_py())


def _texts(type_: pa.DataType) -> bool:
    """Whether a column holds texts, of which few may differ; numbers in a dictionary are slower and not smaller."""
    return bool(pa.types.is_dictionary(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _whole_numbers(schema: pa.Schema) -> list[str]:
    """Columns that are a fifth smaller and quicker to write as differences; hashes are not."""
    return [
        "top_class.list.element",
        *(f.name for f in schema if pa.types.is_integer(f.type) and f.name not in ("key", "digest")),
    ]


def read_derived_rows(path: AnyPath) -> Iterator[tuple[int, Predictions]]:
    """(step, rows) of a file by `DerivedRowsWriter`, in its order, a bounded number of rows at a time; none if it "
    "got none.
    """
    if not path.exists():
        return
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        read = functools.partial(file.read_row_group, use_threads=False)
        for table in pool.ordered_map(read, range(file.num_row_groups), 1):  # each has rows of one step
            for batch in table.to_batches():
                yield _step_of(batch), Predictions(batch, derived=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened; a rename is durable without it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def explain_write_errors(where: AnyPath) -> Iterator[None]:
    """Turn an operating system's refusal to write into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error).removeprefix(f"{where}: ")
        raise InputError(
            f"cannot write to {where}: {reason}; what was already published is safe, run the same command again when "
            "that is mended"
        ) from error


@contextlib.contextmanager
def lock_folder(
    folder: AnyPath,
    flag: str = "--out",
    unfinished: str = "step=*/.part-*.tmp",
    share: Share = WHOLE_RUN,
    runs: Iterable[Run] = (),
    wait_seconds: float = 0,
) -> Iterator[None]:
    """Keep other processes from writing to a folder, or to a share of its parts, and remove what is `unfinished`.

    `.lock` is held by who has the whole folder, and for a moment by who takes or gives back a share; `.share-3-of-8` by
    who has that share. A second file beside it says what `runs` are being made, so that two shares are never of
    different models. The operating system frees the locks of a process that dies. Storage has no locks: for a folder
    there they are in its workshop, where they keep the processes of this machine apart.

    Raises InputError if another process has the folder and does not give it back in `wait_seconds`, has a share with
    parts in common, or makes other runs.
    """
    here = places.staging_dir(folder)
    with explain_write_errors(folder):
        here.mkdir(parents=True, exist_ok=True)
        gate = filelock.FileLock(here / ".lock")
        try:
            gate.acquire(timeout=wait_seconds if share == WHOLE_RUN else _LOCK_WAIT_SECONDS)
        except filelock.Timeout as error:
            raise InputError(f"another process is writing to {folder}: wait for it, or name another {flag}") from error
    own = None
    try:
        for other in _shares_at_work(here):
            if share.overlaps(other):
                raise InputError(
                    f"another process is at work on share {other} of {folder}: wait for it, or name another {flag}"
                )
            _same_runs(folder, other, runs)
        if share != WHOLE_RUN:
            with explain_write_errors(folder):
                _runs_file(here, share).write_text(json.dumps([asdict(run) for run in runs]))
                own = filelock.FileLock(_share_file(here, share))
                own.acquire(timeout=0)
            gate.release()
        _tidy(here, unfinished, share)
        yield
    finally:
        if own is not None:
            with contextlib.suppress(filelock.Timeout, OSError):  # then the next process that has the gate tidies up
                gate.acquire(timeout=_LOCK_WAIT_SECONDS)
                _runs_file(here, share).unlink(missing_ok=True)
                own.release()
                _share_file(here, share).unlink(missing_ok=True)
            own.release()
        with contextlib.suppress(OSError):  # what is left is tidied up by the next
            _tidy(here, unfinished, share)
        gate.release()


def _share_file(folder: Path, share: Share) -> Path:
    return folder / f".share-{share.number}-of-{share.of}"


def _runs_file(folder: Path, share: Share) -> Path:
    return folder / f".share-{share.number}-of-{share.of}.json"


def _shares_at_work(folder: Path) -> list[Share]:
    """Shares that living processes have; what dead ones left is removed. Only for who has the gate."""
    found = []
    for path in sorted(folder.glob(".share-*")):
        if not (named := re.fullmatch(r"\.share-(\d+)-of-(\d+)", path.name)):
            continue
        share = Share(int(named[1]), int(named[2]))
        probe = filelock.FileLock(path)
        try:
            probe.acquire(timeout=0)
        except filelock.Timeout:
            found.append(share)
        else:
            probe.release()
            path.unlink(missing_ok=True)
            _runs_file(folder, share).unlink(missing_ok=True)
    return found


def _same_runs(folder: AnyPath, other: Share, runs: Iterable[Run]) -> None:
    """Raise InputError if the process that has another share makes another run of the same step."""
    theirs = {
        record["step"]: record for record in json.loads(_runs_file(places.staging_dir(folder), other).read_text())
    }
    for run in runs:
        if run.step in theirs:
            record = theirs[run.step]
            if difference := run.difference(Run(**{**record, "classes": tuple(record["classes"])})):
                name, now, then = difference
                raise InputError(
                    f"{folder} step {run.step} is being made with another {name} ({then}, now {now}) by share {other}: "
                    "name another --out"
                )


def _tidy(folder: Path, unfinished: str, share: Share) -> None:
    """Remove what a process left that did not come to its end; nobody else can be writing these files now."""
    for stale in folder.glob(unfinished):
        if stale.is_dir():
            shutil.rmtree(stale)
        elif share == WHOLE_RUN or share.holds(part_index(stale)):
            stale.unlink(missing_ok=True)


def part_index(path: AnyPath) -> int:
    """Number of a part, also of an unfinished one.

    >>> part_index(Path("step=00000001/part-00012.parquet")), part_index(Path(".part-00003.parquet.5e0a.tmp"))
    (12, 3)
    """
    found = re.search(r"part-(\d+)\.parquet", path.name)
    return int(found[1]) if found else -1


def delete_part(path: AnyPath) -> None:
    """Remove a part file."""
    with explain_write_errors(path.parent):
        path.unlink()


def delete_step(run: AnyPath, step: int) -> None:
    """Remove all parts of a step, and what its preflight found."""
    with explain_write_errors(run):
        places.remove_tree(step_folder(run, step))
        for suffix in (".json", ".png"):
            preflight_path(run, step, suffix).unlink(missing_ok=True)


class RunReader:
    """One step of a run for reading: iterate over it for record batches, or take it as a pandas frame."""

    def __init__(self, steps: Sequence[Step], step: int | None, columns: Sequence[str] | None) -> None:
        """Take one of the steps, the last one if `step` is None."""
        by_number = {s.step: s for s in steps}
        number = steps[-1].step if step is None else step
        if number not in by_number:
            raise InputError(f"no step {number}; there are {', '.join(map(str, by_number))}")
        self.step, self.steps, self._columns = by_number[number], tuple(by_number), columns

    @property
    def run(self) -> Run:
        """What the footer says: classes, model, transform."""
        return self.step.run

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Record batches in the order of the manifest, a bounded number of rows at a time."""
        for file in self.step.parts:
            for rows in read_batches(file, self._columns):
                yield rows.batch

    def to_pandas(self) -> Any:
        """All rows as a pandas frame."""
        return pa.Table.from_batches(list(self)).to_pandas()


def release_memory() -> None:
    """Give memory that was used and is not any more back to the system: after a long pass Arrow holds 100 MB of it, and
    glibc 70 between what is in use.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def open_predictions(path: str | AnyPath, step: int | None = None, columns: Sequence[str] | None = None) -> RunReader:
    """Open a run for reading.

    Args:
        path: folder that `predboard infer` wrote, or its URI.
        step: which step; the last one if None.
        columns: only these; all if None.

    Raises:
        InputError: if there are no predictions, or a part is damaged.
    """
    return RunReader(open_run(places.parse_path(path)), step, columns)
