"""Reads chosen rows of a step in ascending order, each part once. It knows nothing of what the rows are for."""

from collections.abc import Collection, Generator, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.predictions.table import Predictions
from predboard.storage.parts import read_batches
from predboard.storage.runs import Step


class RowCursor:
    """Reads rows of a step, ever further on: each call asks for rows behind those of the last one.

    Parts of which no row is asked for are not read, and of the others a batch at a time is in memory.
    """

    def __init__(
        self, step: Step, columns: Collection[str] | None, schema: pa.Schema | None = None, most_rows: int | None = None
    ) -> None:
        """Begin before the first row.

        Args:
            step: what to read.
            columns: names, as of `read_batches`; all if None, else `id` is needed.
            schema: columns of the result, in its types; null where a part lacks one. Default: as they are read.
            most_rows: of a batch; None for as many as `read_batches` reads.
        """
        self._parts = iter(step.parts)
        self._columns, self._schema, self._most_rows = columns, schema, most_rows
        self._batches: Iterator[Predictions] = iter(())
        self._part_stop = self._start = self._stop = 0
        self._batch: pa.RecordBatch | None = None
        self._name = ""

    def take(self, ids: NDArray[np.int64]) -> pa.RecordBatch | None:
        """Return the rows with these ids, ascending; None if there are none.

        Raises InputError if a part is damaged, or if a column is of another type than in other parts.
        """
        pieces = []
        at = 0
        while at < len(ids):
            batch = self._advance(int(ids[at]))
            end = at + int(np.searchsorted(ids[at:], self._stop))
            chosen = ids[at:end] - self._start
            if chosen[-1] - chosen[0] == len(chosen) - 1:
                pieces.append(batch.slice(int(chosen[0]), len(chosen)))
            else:
                pieces.append(batch.take(pa.array(chosen)))
            at = end
        return concat_rows(pieces)

    def close(self) -> None:
        """Close the part that is being read."""
        if isinstance(self._batches, Generator):
            self._batches.close()

    def _advance(self, row: int) -> pa.RecordBatch:
        """Read on to the batch that holds a row."""
        while self._batch is None or row >= self._stop:
            if row >= self._part_stop:
                self._batch = None
                self.close()
                file = next(part for part in self._parts if part.part.stop > row)
                self._part_stop, self._name = file.part.stop, file.name
                self._batches = read_batches(file, self._columns, most_rows=self._most_rows)
                self._stop = file.part.start
            rows = next(self._batches)
            self._start, self._stop = self._stop, self._stop + len(rows)
            self._batch = rows.batch if self._schema is None else conformed(rows.batch, self._schema, self._name)
            if self._stop == self._part_stop:
                next(self._batches, None)  # compares the digest of what was read to the end
        return self._batch


def concat_rows(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the rows of batches with the same columns in one batch; None if there are none."""
    if len(batches) <= 1:
        return batches[0] if batches else None
    schema = batches[0].schema
    columns = [pa.concat_arrays([batch.column(i) for batch in batches]) for i in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def conformed(batch: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """Return the rows with the columns of `schema`: null where they are not there, and in its types.

    Raises InputError, naming the column of `where`, for values that its type does not hold.
    """
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        if field.name not in batch.schema.names:
            columns.append(pa.nulls(len(batch), field.type))
            continue
        column = batch.column(field.name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowException as error:
            raise InputError(
                f"column {field.name} of {where} is {column.type} and {field.type} elsewhere: give it one type, or "
                "leave it out of the data"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def plain_fields(schema: pa.Schema) -> pa.Schema:
    """Return the fields with plain values in place of dictionaries."""
    return pa.schema(
        [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in schema]
    )
