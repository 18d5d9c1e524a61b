"""Copies rows of saved runs into a new step: other numbers, refs or keys, and everything else to the last bit.

It knows nothing of why these rows were chosen.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from predboard.composition.inputs import NamedStep
from predboard.composition.new_step import CompositionResult, NewStep, RowGroup, count_rows
from predboard.composition.row_cursor import RowCursor, plain_fields
from predboard.errors import InputError
from predboard.predictions.arrow import as_arrow, as_matrix
from predboard.predictions.derive import to_log_probabilities
from predboard.predictions.schema import Run, columns_of, hash_refs, part_schema
from predboard.predictions.tasks import rows_of
from predboard.storage.locks import lock_folder
from predboard.storage.part_plan import PartRange
from predboard.storage.parts import read_part_schema, row_group_size


@dataclass(frozen=True)
class SourceRows:
    """Rows of a step that are copied, in ascending order."""

    source: NamedStep
    ids: NDArray[np.int64]
    rename: Callable[[str], str] | None = None
    """Returns the new ref of a ref; None to keep them."""
    new_keys: bool = False
    """Whether keys become those of the new refs."""


def unify_columns(inputs: Sequence[NamedStep]) -> pa.Schema:
    """Return the further columns of all steps, by name, in types that hold all of their values.

    Raises InputError for a column that is of types which no type holds.
    """
    types: dict[str, tuple[pa.DataType, str]] = {}
    for one in inputs:
        run_columns = columns_of(one.step.run)
        for file in one.step.parts[:1]:
            for field in plain_fields(read_part_schema(file)):
                if field.name in run_columns:
                    continue
                known, where = types.get(field.name, (field.type, one.name))
                types[field.name] = _common_type(field.name, (known, where), (field.type, one.name)), where
    return pa.schema([pa.field(name, type_) for name, (type_, _) in types.items()])


def _common_type(name: str, one: tuple[pa.DataType, str], other: tuple[pa.DataType, str]) -> pa.DataType:
    schemas = [pa.schema([pa.field(name, type_)]) for type_, _ in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException as error:
        raise InputError(
            f"column {name} is {one[0]} in {one[1]} and {other[0]} in {other[1]}: give it one type, or another name"
        ) from error


class CopiedRows:
    """Gives the rows of all sources, one source after the other, as row groups of the new step."""

    def __init__(self, new: NewStep, sources: Sequence[SourceRows]) -> None:
        """Begin before the first row."""
        self._run, self._schema, self._sources = new.run, part_schema(new.run, new.columns), sources
        self._starts = np.cumsum([0, *(len(source.ids) for source in sources)]).tolist()
        self._cursors = [RowCursor(source.source.step, None, self._schema) for source in sources]

    def close(self) -> None:
        """Close the parts that are being read."""
        for cursor in self._cursors:
            cursor.close()

    def groups(self, part_range: PartRange) -> Iterator[RowGroup]:
        """Yield the rows of a part, behind those of the part before."""
        size = row_group_size(len(self._run.classes))
        for start in range(part_range.start, part_range.stop, size):
            stop = min(start + size, part_range.stop)
            pieces = []
            for number, (first, last) in enumerate(itertools.pairwise(self._starts)):
                a, b = max(start, first), min(stop, last)
                if a < b:
                    batch = self._cursors[number].take(self._sources[number].ids[a - first : b - first])
                    if batch is not None:
                        pieces.append(_renamed(batch, self._sources[number]))
            table = pa.Table.from_batches(pieces, pieces[0].schema).combine_chunks()
            (batch,) = table.to_batches()
            numbered = _replaced(batch, "id", as_arrow(np.arange(start, stop), pa.int64()))
            rows = rows_of(self._run).predictions(numbered, has_scores=self._run.has_scores)
            yield rows, _count_clipped(numbered, self._run)


def _replaced(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    at = batch.schema.get_field_index(name)
    return batch.set_column(at, batch.schema.field(at), column)


def _renamed(batch: pa.RecordBatch, source: SourceRows) -> pa.RecordBatch:
    if source.rename is None:
        return batch
    refs = [None if ref is None else source.rename(ref) for ref in batch.column("image").to_pylist()]
    batch = _replaced(batch, "image", pa.array(refs, pa.string()))
    return _replaced(batch, "key", pa.array(hash_refs(map(str, refs)))) if source.new_keys else batch


def _count_clipped(batch: pa.RecordBatch, run: Run) -> int:
    """Return how many probabilities are as low as those that were raised."""
    if run.scores != "log_probabilities":
        return 0
    lowest = to_log_probabilities(np.zeros((1, 1)))[0][0, 0]
    column = batch.column("logits")
    return int(np.count_nonzero(as_matrix(column.drop_null() if column.null_count else column) <= lowest))


def write_copies(
    steps: Sequence[tuple[NewStep, Sequence[SourceRows]]], overwrite: bool, command: str, log: Callable[[str], None]
) -> CompositionResult:
    """Write all steps of a new run, part by part, but for the parts that are there already.

    Args:
        steps: what each step is, and where its rows are from.
        overwrite: replace steps that were made of something else.
        command: its name, for the progress.
        log: takes a line of progress for a person.

    Raises InputError for what is there and may not be replaced, before anything is written.
    """
    out = steps[0][0].out
    with lock_folder(out):
        todo = [new.missing(overwrite, log) for new, _ in steps]
        parts = sum(len(new.plan) for new, _ in steps)
        if valid := parts - sum(map(len, todo)):
            log(f"{valid} of {parts} parts in {out} are there already and valid")
        written = sum(len(part_range) for ranges in todo for part_range in ranges)
        with tqdm(total=written, unit=" rows", desc=command, disable=None, file=sys.stderr) as bar:
            for (new, sources), ranges in zip(steps, todo, strict=True):
                if ranges:
                    with contextlib.closing(CopiedRows(new, sources)) as copied:
                        for part_range in ranges:
                            new.write(part_range, copied.groups(part_range), bar.update)
        counts = {new.run.step: count_rows(out, new.run.step) for new, _ in steps}
        return CompositionResult(out, steps[0][0].rows, counts, written)
