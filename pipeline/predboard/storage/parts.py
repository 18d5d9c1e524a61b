"""Writes, opens, verifies and reads part files. It knows Parquet and not what a column means.

    predictions/<run>/step=00000012/part-00000.parquet

A part that exists is complete: it is written to a staging file, read back, and then renamed; for object storage the
staging file is on this machine and is uploaded by one write.
"""

import contextlib
import hashlib
import itertools
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from predboard.errors import DamagedError, InputError, UnreadableError, first_line
from predboard.predictions.amendments import Amendment
from predboard.predictions.arrow import scatter
from predboard.predictions.digests import MANIFEST_COLUMNS, ContentDigest, digests_of, refuse_foreign_keys
from predboard.predictions.footer import encode_footer, read_footer
from predboard.predictions.schema import (
    ALL_MANIFEST_COLUMNS,
    MADE_BY,
    Part,
    Run,
    columns_of,
    part_schema,
    reserved_columns,
    stored_columns,
)
from predboard.predictions.table import Predictions
from predboard.predictions.tasks import rows_of
from predboard.storage import paths
from predboard.storage.parquet_sizes import decoded_size
from predboard.storage.paths import AnyPath, explain_write_errors

ROW_GROUP_MAX_ROWS = 8192
ROW_GROUP_MAX_BYTES = 32 * 2**20
"""Largest number of rows and bytes of logits in a row group, which a reader holds in memory at once."""

_FOOTER_READ_BYTES = 2**17
"""Number of bytes at the end of an object that are read for its footer; a longer one takes a second request."""


def row_group_size(classes: int) -> int:
    """Return the number of rows in a row group."""
    return max(1, min(ROW_GROUP_MAX_ROWS, ROW_GROUP_MAX_BYTES // (4 * classes)))


@dataclass(frozen=True)
class PartFile:
    """A part file whose footer was read and matches its digest; its rows are not verified yet."""

    path: AnyPath
    run: Run
    part: Part
    rows: int
    manifest_rows: int
    """Rows of the whole manifest as far as any part of the step knows: it may have grown since this one was written."""
    amendment: Amendment | None = None
    """Changes that `read_batches` makes to the rows; None leaves them as they are in the file."""

    @property
    def name(self) -> str:
        """Step folder and file name, for messages."""
        return f"{self.path.parent.name}/{self.path.name}"


def part_index(path: AnyPath) -> int:
    """Return the number of a part, also of an unfinished one.

    >>> part_index(Path("step=00000001/part-00012.parquet")), part_index(Path(".part-00003.parquet.5e0a.tmp"))
    (12, 3)
    """
    match = re.search(r"part-(\d+)\.parquet", path.name)
    return int(match[1]) if match else -1


# --- reading ---


def _damaged(where: str, what: str) -> DamagedError:
    return DamagedError(f"{where} is damaged ({what}): re-run the command that wrote it")


def explain_read_error(path: AnyPath, where: str, error: Exception) -> InputError:
    """Return the error for a part that could not be read: of the storage if it is to blame, else of a damaged file."""
    return paths.storage_fault(path, error) or _damaged(where, first_line(error))


def open_parquet(path: AnyPath, whole: bool) -> pq.ParquetFile:
    """Open a part for reading; in storage all of it by one request, or what is needed in few, large pieces."""
    return pq.ParquetFile(
        paths.arrow_source(path, whole), page_checksum_verification=True, pre_buffer=paths.is_remote(path)
    )


def open_part(path: AnyPath) -> PartFile:
    """Read the footer of a part.

    Raises:
        InputError: if it cannot be read or is no part.
        DamagedError: if the footer is damaged or does not match the columns and rows.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        with _open_footer(path) as raw, pq.ParquetFile(raw) as file:
            metadata = file.metadata
            run, part = read_footer(metadata.metadata, where)
            columns = file.schema_arrow
            if not _seal_matches(raw, metadata.metadata):
                raise _damaged(where, "its footer does not match its seal")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise explain_read_error(path, where, error) from error
    if odd := (reserved_columns(run.task) - columns_of(run).keys()).intersection(columns.names):
        raise _damaged(where, f"its column {min(odd)} is of another task than {run.task}")
    for field in part_schema(run):  # without a seal, nothing else protects the names and types of columns
        at = columns.get_field_index(field.name)
        if at < 0:
            raise _damaged(where, f"its column {field.name} is missing")
        if not _is_readable_as(columns.field(at).type, field):
            raise _damaged(where, f"its column {field.name} has type {columns.field(at).type}")
    if metadata.num_rows != part.stop - part.start:
        raise _damaged(where, f"it has {metadata.num_rows} rows, its footer says {part.stop - part.start}")
    return PartFile(path, run, part, metadata.num_rows, part.manifest_rows)


def _open_footer(path: AnyPath) -> BinaryIO:
    """Open a file whose end is that of the part, with its whole footer."""
    file = paths.open_tail(path, _FOOTER_READ_BYTES)
    size = file.seek(0, os.SEEK_END)
    if paths.is_remote(path) and size == _FOOTER_READ_BYTES:
        file.seek(-8, os.SEEK_END)
        if (length := int.from_bytes(file.read(4), "little") + 8) > size:
            return paths.open_tail(path, length)
    return file


_KINDS: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_integer,
    pa.types.is_floating,
    lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t),
    lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t),
)


def _is_readable_as(type_: pa.DataType, field: pa.Field) -> bool:
    """Return whether a column, as any program may have written it, can be read as a field of the format."""
    if pa.types.is_fixed_size_list(field.type):
        if pa.types.is_fixed_size_list(type_) and type_.list_size != field.type.list_size:
            return False
        return _is_list(type_) and bool(pa.types.is_floating(type_.value_type))
    if pa.types.is_list(field.type) and _is_list(type_):  # null where no row of a writer's has a label
        return bool(pa.types.is_integer(type_.value_type) or pa.types.is_null(type_.value_type))
    if pa.types.is_null(type_):  # how pandas writes a column without a value
        return bool(field.nullable)
    return any(kind(type_) and kind(field.type) for kind in _KINDS)


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def read_part_schema(file: PartFile) -> pa.Schema:
    """Return the names and types of a part's columns, as its writer declared them, and of those that are added."""
    try:
        with _open_footer(file.path) as raw:
            schema = pq.read_schema(raw)
    except (pa.ArrowException, OSError) as error:
        raise explain_read_error(file.path, file.name, error) from error
    return schema if file.amendment is None else file.amendment.extend_schema(schema)


def read_batches(
    file: PartFile,
    columns: Iterable[str] | None = None,
    check: Callable[[Predictions], object] = lambda _: None,
    most_rows: int | None = None,
) -> Iterator[Predictions]:
    """Read the rows of a part in order, a bounded number at a time, and verify the page checksums.

    Where the columns of a digest are read to the end, they are compared with it. An amendment is made after all checks.

    Args:
        file: the part.
        columns: names to read, all if None; `ALL_MANIFEST_COLUMNS` stands for the further columns of the manifest.
        check: raises ValueError for rows that cannot be, besides the checks of all.
        most_rows: fewer rows to read at a time, for a caller that stops early: what comes after them is not decoded.

    Raises:
        InputError: naming the part, if it is damaged or the storage fails.
    """
    try:
        with open_parquet(file.path, whole=columns is None) as parquet:
            asked = wanted = None if columns is None else stored_columns(file.run, columns)
            if wanted is not None and file.amendment is not None:
                wanted = stored_columns(file.run, file.amendment.columns_to_read(wanted))
            reserved = reserved_columns(file.run.task)
            names = wanted and [
                name
                for name in parquet.schema_arrow.names
                if name in wanted or (ALL_MANIFEST_COLUMNS in wanted and name not in reserved)
            ]
            size = row_group_size(len(file.run.classes))
            size = size if most_rows is None else min(size, most_rows)
            _refuse_large_texts(file, parquet, names, size)
            at, task, digests = file.part.start, rows_of(file.run), digests_of(file.run, file.part, wanted)
            for batch in parquet.iter_batches(size, columns=names, use_threads=False):
                rows = task.predictions(_conform(batch, file.run), file.manifest_rows, file.run.has_scores)
                if "id" in batch.schema.names and not np.array_equal(rows.id, np.arange(at, at + len(rows))):
                    raise ValueError(f"its ids are not {file.part.start} to {file.part.stop - 1}")
                task.refuse_contradictions(rows, len(file.run.classes))
                check(rows)
                for of_rows in digests:
                    of_rows.digest.add_rows(rows)
                at += len(rows)
                amended = file.amendment and file.amendment.apply(rows, at - len(rows) - file.part.start, asked)
                yield amended or rows
            if at != file.part.stop:
                raise ValueError(
                    f"it has {at - file.part.start} rows, its footer says {file.part.stop - file.part.start}"
                )
            for of_rows in digests:
                if of_rows.digest.hexdigest() != of_rows.expected:
                    raise ValueError(of_rows.fault)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise explain_read_error(file.path, file.name, error) from error


def _refuse_large_texts(file: PartFile, parquet: pq.ParquetFile, names: Collection[str] | None, size: int) -> None:
    """Raise UnreadableError for texts of which `size` rows, as they are read at once, take more than `MAX_READ_GB`."""
    wanted = parquet.schema_arrow.names if names is None else names
    known = columns_of(file.run)
    texts = [name for name in wanted if name not in known or known[name][0] in (pa.string(), pa.binary())]
    for group in range(parquet.num_row_groups) if texts else ():
        most = paths.MAX_READ_GB * 1e9 * max(1, parquet.metadata.row_group(group).num_rows / size)
        if decoded_size(file.path, parquet, texts, most, [group]) > most:
            longest = max(texts, key=lambda name: decoded_size(file.path, parquet, [name], most, [group]))
            raise UnreadableError(
                f"{size:,} rows of its column {longest} take more than {paths.MAX_READ_GB:g} GB of memory: write the "
                "predictions again without it"
            )


def _conform(batch: pa.RecordBatch, run: Run) -> pa.RecordBatch:
    """Convert columns to the types of the format: writers other than Arrow do not declare lists of fixed size."""
    schema = part_schema(run)
    for i, actual in enumerate(batch.schema):
        field = schema.field(actual.name) if actual.name in schema.names else actual
        if actual.equals(field):
            continue
        column = batch.column(i)
        if column.null_count and not field.nullable:
            raise ValueError(f"{field.name} is null in a row")
        if actual.type == field.type:
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


# --- verifying ---


def verify_part(file: PartFile) -> None:
    """Read a whole part with its page checksums. Raises DamagedError if a bit is wrong or a row is missing."""
    for _ in read_batches(replace(file, amendment=None)):  # which compares the rows with their digest
        pass


def verify_manifest(file: PartFile) -> None:
    """Compare the refs, labels, keys and further columns of a part with what it was written from.

    Raises DamagedError if they are others.
    """
    check = (lambda _: None) if MADE_BY in file.part.provenance else refuse_foreign_keys
    for _ in read_batches(replace(file, amendment=None), MANIFEST_COLUMNS, check):
        pass


def holds_part(path: AnyPath, run: Run, part: Part) -> bool:
    """Return whether an intact part of this run and of these rows of the same data is already there."""
    if not path.exists():
        return False
    try:
        existing = open_part(path)
        verify_part(existing)
    except DamagedError:
        return False
    same = (existing.part.start, existing.part.stop, existing.part.manifest_digest)
    return same == (part.start, part.stop, part.manifest_digest) and not existing.run.difference(run)


# --- seal of the footer ---

_SEAL = "predboard.seal"
_UNSEALED = f"{0:010d}:{'0' * 32}"
"""Length of the footer and hash of the footer with this text in place of the seal."""


def _read_footer_bytes(file: BinaryIO) -> tuple[int, bytes]:
    """Return the position and the bytes of a Parquet footer, whose length is in the first four of the last eight."""
    end = file.seek(-8, os.SEEK_END)
    start = end - int.from_bytes(file.read(4), "little")
    file.seek(max(start, 0))
    return start, file.read(end - start)


def _seal_matches(file: BinaryIO, metadata: Mapping[bytes, bytes]) -> bool:
    """Return whether a footer matches its seal, if it has one that was written for this file."""
    seal = metadata.get(_SEAL.encode())
    if seal is None:
        return True
    _, content = _read_footer_bytes(file)
    length, _, digest = seal.partition(b":")
    if not length.isdigit():
        return False
    if int(length) != len(content):  # another program copied the metadata into a file of its own
        return True
    return digest == _footer_digest(content.replace(seal, _UNSEALED.encode()))


def _footer_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _seal(path: Path) -> None:
    """Replace `_UNSEALED` by the seal: Parquet has checksums for pages, but none for its footer."""
    with path.open("r+b") as file:
        start, content = _read_footer_bytes(file)
        at = content.rindex(_UNSEALED.encode())
        file.seek(start + at)
        file.write(b"%010d:%s" % (len(content), _footer_digest(content)))
        file.flush()
        os.fsync(file.fileno())


# --- writing ---


class PartWriter:
    """Writes one part to a staging file; `publish` makes it appear whole, `abandon` removes it."""

    def __init__(self, path: AnyPath, run: Run, manifest_columns: pa.Schema | None = None) -> None:
        """Open the staging file. Raises InputError if that is impossible."""
        self.path, self.run = path, run
        self.schema = part_schema(run, manifest_columns)
        folder = paths.staging_dir(path.parent.parent) / path.parent.name
        self._staged = folder / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        self._digest = ContentDigest()
        floats = [f"{n}.list.element" for n in ("logits",) if n in self.schema.names]
        plain = [f.name for f in self.schema if not pa.types.is_nested(f.type) and f.name != "thumbnail"]
        paths.refuse_link(path.parent)
        with explain_write_errors(path.parent):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._staged.open("wb")
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
        """Write rows as one row group, or several if they do not fit."""
        self._digest.add_rows(rows)
        with explain_write_errors(self.path.parent):
            table = pa.Table.from_batches([rows.batch], self.schema)
            self._writer.write_table(table, row_group_size=row_group_size(len(self.run.classes)))

    @property
    def content_digest(self) -> str:
        """Digest of the rows written so far."""
        return self._digest.hexdigest()

    def publish(self, part: Part) -> None:
        """Finish the file with this record and its content digest, read it back, and move it to its final path."""
        with explain_write_errors(self.path.parent):
            records = encode_footer(self.run, replace(part, content_digest=self.content_digest))
            self._writer.add_key_value_metadata({**records, _SEAL: _UNSEALED})
            self._writer.close()
            self._file.close()
            _seal(self._staged)
            verify_part(open_part(self._staged))
            self._refuse_other_run()
            paths.publish_file(self._staged, self.path)
            paths.sync_folder(self.path.parent)

    def _refuse_other_run(self) -> None:
        """Raise InputError if the step has a part of another run, which a job that began at the same time has written.

        One other part is looked at; in object storage it would take two more requests for each part.
        """
        if isinstance(folder := self.path.parent, Path):
            for path in itertools.islice((p for p in folder.glob("part-*.parquet") if p != self.path), 1):
                with contextlib.suppress(DamagedError):
                    if difference := open_part(path).run.difference(self.run):
                        name, theirs, mine = difference
                        raise InputError(
                            f"another job writes to {folder} with another {name} ({theirs}, here {mine}): end one of "
                            "the two, and name another --out"
                        )

    def abandon(self) -> None:
        """Remove the staging file."""
        with contextlib.suppress(OSError, pa.ArrowException, ValueError):  # writing has failed already
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._staged.unlink(missing_ok=True)
