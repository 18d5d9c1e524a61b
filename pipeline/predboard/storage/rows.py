"""Writes and reads `rows.parquet`, the derived rows of all steps. It knows nothing of how they are derived."""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from predboard.parallel.threads import ordered_map
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import LABEL_LIST
from predboard.predictions.tasks import wrap_derived_rows
from predboard.storage.paths import AnyPath

DERIVED_GROUP_ROWS = 2**14
"""Smallest number of rows in a row group of `rows.parquet`, where a step has as many; readers hold one in memory."""

INFO_KEY = b"predboard.rows"
"""Key in the footer under which a JSON object says what the rows alone do not: `columns` has the values of each text
column of the manifest, null where there are more than `MAX_VALUES`; the rest is up to the writer."""

MAX_VALUES = 1000
"""Distinct texts of a column by which rows can be filtered; one with more is an identifier."""


class DerivedRowsWriter:
    """Writes `rows.parquet`: a line for every row of every step, about 100 bytes each.

    A row group has rows of one step; it is written on a thread while the next one is collected.
    """

    def __init__(
        self, path: AnyPath, info: Mapping[str, object] | None = None, schema: pa.Schema | None = None
    ) -> None:
        """Prepare to write; the file is created with the first rows.

        Args:
            path: of the file.
            info: more for the JSON object in the footer.
            schema: columns of all steps, see `unify_derived_schemas`; those of the first rows if None.
        """
        self._path, self._info, self._schema = path, info or {}, schema
        self._values: dict[str, set[str] | None] = {}
        """Of each text column of the manifest, None if there are too many."""
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None
        """The last group, which may still be being written."""

    def write(self, rows: DerivedRows) -> None:
        """Write the rows of a part; all rows of a step before those of the next."""
        if not len(rows):
            return
        batch = rows.batch
        if self._schema is None:
            self._schema = batch.schema
        if batch.schema != self._schema:
            batch = _with_columns(batch, self._schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path,
                batch.schema,
                compression="zstd",
                use_dictionary=[f.name for f in batch.schema if f.name != "image" and _is_text(f.type)],
                column_encoding=dict.fromkeys(_delta_columns(batch.schema), "DELTA_BINARY_PACKED"),
                write_statistics=[
                    f.name for f in batch.schema if not (pa.types.is_nested(f.type) or pa.types.is_dictionary(f.type))
                ],
                write_page_checksum=True,
            )
        if self._waiting and _step_number(batch) != _step_number(self._waiting[0]):
            self._flush()
        self._waiting.append(batch)
        if sum(map(len, self._waiting)) >= DERIVED_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._finish_group()
        if self._writer is not None and waiting:
            table = pa.Table.from_batches(waiting)
            self._note_values(table)
            self._written = self._thread.submit(self._writer.write_table, table, row_group_size=len(table))

    def _note_values(self, table: pa.Table) -> None:
        for field in table.schema:
            values = self._values.setdefault(field.name, set())
            if values is not None and _is_category(field):
                values.update(value for value in pc.unique(table[field.name]).to_pylist() if value is not None)
                if len(values) > MAX_VALUES:
                    self._values[field.name] = None

    def _finish_group(self) -> None:
        """Wait until the last group is written; raises what writing it raised."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Finish the file."""
        try:
            self._flush()
            self._finish_group()
        finally:
            self._thread.shutdown()
            if self._writer is not None:
                columns = {
                    field.name: (values := self._values.get(field.name, set())) and sorted(values)
                    for field in self._writer.schema
                    if _is_category(field)
                }
                text = json.dumps({**self._info, "columns": columns})
                self._writer.add_key_value_metadata({INFO_KEY: text.encode("ascii")})
                self._writer.close()


def unify_derived_schemas(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the columns of the derived rows of all steps, whose manifests may have other ones.

    A column whose types differ gets one that holds the values of both, in the end text; a list keeps its first type.
    """
    types: dict[str, pa.DataType] = {}
    for field in itertools.chain(*schemas):
        known = types.setdefault(field.name, field.type)
        if known != field.type and not pa.types.is_nested(known):
            types[field.name] = _common_type(known, field.type)
    return pa.schema(types.items())


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    try:
        schemas = [pa.schema([("", type_)]) for type_ in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()


def _with_columns(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the columns of a schema: null where they have none, or lists of another kind."""
    columns = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        column = pa.nulls(len(batch), field.type) if at < 0 else batch.column(at)
        if column.type != field.type:
            nested = pa.types.is_nested(column.type) or pa.types.is_nested(field.type)
            column = pa.nulls(len(batch), field.type) if nested else column.cast(field.type)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _step_number(batch: pa.RecordBatch) -> int:
    return int(batch.column("step")[0].as_py())


def _is_category(field: pa.Field) -> bool:
    """Return whether a column has texts of the manifest."""
    return _is_text(field.type) and field.name not in ("image", "error", "label_name", "predicted_name")


def _is_text(type_: pa.DataType) -> bool:
    """Return whether a column has texts, which may repeat; dictionaries of numbers are slower and no smaller."""
    return bool(pa.types.is_dictionary(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _delta_columns(schema: pa.Schema) -> list[str]:
    """Return the integer columns but hashes, which as differences are a fifth smaller and faster to write."""
    return [
        *(f"{f.name}.list.element" for f in schema if f.name == "top_class" or f.type == LABEL_LIST),
        *(f.name for f in schema if pa.types.is_integer(f.type) and f.name not in ("key", "digest")),
    ]


def read_derived_rows(path: AnyPath, step: int | None = None) -> Iterator[tuple[int, DerivedRows]]:
    """Iterate over (step, rows) in the order of the file, a bounded number of rows at a time.

    Nothing comes of a file that does not exist, because no rows were written to it.

    Args:
        path: of the file.
        step: the only one whose rows are read; all if None.
    """
    if not path.exists():
        return
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        read = functools.partial(file.read_row_group, use_threads=False)
        groups: Iterable[int] = range(file.num_row_groups)  # each has rows of one step
        if step is not None:
            leaf = file.schema.names.index("step")
            groups = [i for i in groups if file.metadata.row_group(i).column(leaf).statistics.min == step]
        for table in ordered_map(read, groups, 1):
            for batch in table.to_batches():
                yield _step_number(batch), wrap_derived_rows(batch)
