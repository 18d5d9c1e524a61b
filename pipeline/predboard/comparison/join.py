"""Joins the rows of two steps by the images' keys. It does not know what is compared.

Rows are joined by `key`, never by their order; of several rows of one key in a step the first goes with the first of
the other step, the second with the second. Where both steps have the same parts of the same manifest, which is when one
list of images went through two models, rows already lie side by side and stream through. Otherwise the old step's rows
are held in memory, some 150 bytes for each image, and the new ones look up theirs.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.comparison.class_mapping import ClassMapping, moved_scores, moved_sets, settled_rows
from predboard.errors import InputError
from predboard.predictions.arrow import as_numpy
from predboard.predictions.digests import MANIFEST_COLUMNS
from predboard.predictions.schema import (
    ALL_MANIFEST_COLUMNS,
    COLUMNS,
    GROUP_PREFIX,
    LABEL_LIST,
    ROW_NUMBERS,
    hash_refs,
    reserved_columns,
    stored_columns,
)
from predboard.predictions.table import Predictions
from predboard.predictions.tasks import rows_of
from predboard.storage.parts import read_batches, read_part_schema
from predboard.storage.runs import Step

PORTION_ROWS = 2**18
"""Rows that are handed on at a time: some 24 MB of each step."""

PORTION_SCORES = 2**23
"""Scores of classes in such a portion, where they are read: 32 MB of each step."""

MAX_AMBIGUOUS_SHARE = 0.01
"""Share of a step's rows that may have the key of another row with another label: more do not tell images apart."""

REQUIRED_COLUMNS = frozenset({"id", "key", "label", "predicted"})
"""Columns that are always read."""


@dataclass(frozen=True)
class JoinedRows:
    """A portion of the rows of two steps."""

    old: Predictions
    new: Predictions
    """The same images as `old`, row by row."""
    only_old: Predictions
    only_new: Predictions
    """Rows whose image is missing from the other step."""
    repeated: tuple[int, int] = (0, 0)
    """Rows of each step that share their key with another of its rows; only one portion has the counts."""


def refuse_row_numbers(old: Step, new: Step, called: tuple[str, str]) -> None:
    """Raise InputError if the keys of either step are numbers of its rows, which say nothing about another run's rows.

    Steps of one run are of one list of images, so that their rows are the same.
    """
    if old.parts[0].path.parent.parent == new.parts[0].path.parent.parent:
        return
    for step, name in ((old, called[0]), (new, called[1])):
        if has_row_numbers(step):
            raise InputError(
                f"the images of {name} have no names, only the numbers of its rows, and nothing says that rows of the "
                "same number are the same image: import it again with --images LIST or --key-column COLUMN"
            )


def has_row_numbers(step: Step) -> bool:
    """Return whether the keys of a step are numbers of its rows: an import found neither images nor keys."""
    provenance = step.parts[0].part.provenance
    if "imported" not in provenance or "keys" in provenance:
        return provenance.get("keys") == ROW_NUMBERS
    rows = next(read_batches(step.parts[0], {"id", "key", "image"}), None)  # of an import that did not record it
    if rows is None or rows.column("image").null_count < len(rows):
        return False
    return bool(np.array_equal(rows.key, hash_refs(map(str, rows.id.tolist()))))


def join_rows(
    old: Step,
    new: Step,
    classes: ClassMapping,
    columns: tuple[Collection[str], Collection[str]],
    zipped: bool = True,
) -> Iterator[JoinedRows]:
    """Yield all rows of two steps, a bounded number at a time.

    Where rows lie side by side, and where few are sorted in memory, they come in the order of the new step's ids.

    Args:
        old, new: the steps.
        classes: from `match_classes`; `label` and `predicted` are places in its names.
        columns: what to read of each besides `REQUIRED_COLUMNS`; `ALL_MANIFEST_COLUMNS` stands for what the manifest
            brought along, but for
            lists and bytes.
        zipped: take rows that lie side by side as they are, instead of sorting them all the same.

    Raises InputError if a part is damaged, or the folder cannot be written to.
    """
    rows = _portion_rows(columns, max(len(old.run.classes), len(new.run.classes)))
    sides = _Side(old, columns[0], classes.old, rows), _Side(new, columns[1], classes.new, rows)
    if zipped and (repeated := _alike(old, new)) is not None:
        yield from _zipped(*sides, repeated)
    else:
        yield from _sorted(*sides)


def lie_side_by_side(old: Step, new: Step) -> bool:
    """Return whether the parts of two steps are of the same rows of one manifest, so that they need not be sorted."""
    parts = [[(p.part.start, p.part.stop, p.part.manifest_digest) for p in step.parts] for step in (old, new)]
    return parts[0] == parts[1]


def _portion_rows(columns: tuple[Collection[str], Collection[str]], classes: int) -> int:
    """Return how many rows are handed on at a time: fewer where scores of many classes are read."""
    if not any("logits" in of_side for of_side in columns):
        return PORTION_ROWS
    return min(PORTION_ROWS, max(PORTION_SCORES // classes, 2**10))


def refuse_ambiguous_keys(key: NDArray[np.int64], label: NDArray[np.integer[Any]], step: Step) -> None:
    """Raise InputError if many rows have the key of a row of another label, so that keys are no names of images."""
    order = np.lexsort((label, key))
    key, label = key[order], label[order]
    of_key = np.cumsum(np.append(False, key[1:] != key[:-1]))
    clash = np.unique(of_key[1:][(key[1:] == key[:-1]) & (label[1:] != label[:-1])])
    if (count := int(np.isin(of_key, clash).sum())) > MAX_AMBIGUOUS_SHARE * len(key):
        raise InputError(
            f"{count:,} of {len(key):,} rows of {step.parts[0].path.parent.parent} share their name with a row of "
            "another label, so names do not say which image is which: infer or import with --key-column COLUMN"
        )


class _Side:
    """The rows of one step, in the order of their ids."""

    def __init__(
        self, step: Step, columns: Collection[str], place: NDArray[np.int64] | None, portion_rows: int
    ) -> None:
        self.step, self._place, self._portion_rows = step, place, portion_rows
        schema = read_part_schema(step.parts[0])
        wanted, reserved = stored_columns(step.run, {*columns, *REQUIRED_COLUMNS}), reserved_columns(step.run.task)
        self.of_labels = sorted(stored_columns(step.run, {"key", "label"}))
        self._names = [
            f.name
            for f in schema
            if f.name in wanted
            or f.name.startswith(GROUP_PREFIX)
            or (ALL_MANIFEST_COLUMNS in wanted and f.name not in reserved and _plain(f))
        ]
        self.schema = pa.schema([_flat(schema.field(name), self._order) for name in self._names])

    def rows(self, batch: pa.RecordBatch) -> Predictions:
        """Return a batch as rows of the step's task."""
        return rows_of(self.step.run).predictions(batch)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as they lie in the parts."""
        for part in self.step.parts:
            for rows in read_batches(part, {*self._names, *MANIFEST_COLUMNS}):  # so that labels are verified
                yield self._conformed(rows.batch, part.name)

    def portions(self) -> Iterator[pa.RecordBatch]:
        """Yield as many rows at a time as the constructor was given, fewer at the end."""
        return rebatch(self.batches(), self.schema, self._portion_rows)

    @property
    def _order(self) -> NDArray[np.int64] | None:
        """Which of the step's classes is at each place of the shared names, [names]; None: as they are."""
        if self._place is None:
            return None
        return np.argsort(self._place)[int((self._place < 0).sum()) :]

    def _conformed(self, batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
        if self._place is None and batch.schema.equals(self.schema):
            return batch
        columns, order = [], self._order
        for field in self.schema:
            if field.name not in batch.schema.names:
                raise InputError(
                    f"{where} lacks the column {field.name}, which other parts have: re-run the command that wrote it"
                )
            column = batch.column(field.name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            if field.name in ("label", "predicted") and self._place is not None and len(self._place):
                at = as_numpy(column, -1)
                column = pa.array(self._place[at].astype(np.int32), pa.int32(), mask=at < 0)
            elif field.type == LABEL_LIST and self._place is not None:
                column = moved_sets(column, self._place)
            elif field.name == "logits" and order is not None:
                column = moved_scores(column, order, field.type)
            if column.type != field.type:
                raise InputError(
                    f"column {field.name} of {where} is {column.type} and {field.type} in other parts: re-run the "
                    "command that wrote it"
                )
            columns.append(column)
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        if self._place is None or (self._place >= 0).all():
            return batch
        return settled_rows(batch, int((self._place >= 0).sum()))


def _plain(field: pa.Field) -> bool:
    """Return whether a column of the manifest can define slices: no lists and no bytes."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return not (pa.types.is_nested(kind) or binary or pa.types.is_fixed_size_binary(kind))


def _flat(field: pa.Field, order: NDArray[np.int64] | None = None) -> pa.Field:
    """Return the field with plain values instead of a dictionary, and scores of as many classes as `order` has."""
    if field.name == "logits" and order is not None:
        return pa.field("logits", pa.list_(pa.float32(), len(order)))
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if field.name in COLUMNS and not pa.types.is_nested(kind):  # lists of logits have the length of this run
        kind, nullable, _ = COLUMNS[field.name]
        return pa.field(field.name, kind, nullable)
    return pa.field(field.name, kind)


def concat_batches(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """Return all rows in one batch."""
    if not batches:
        return empty_batch(schema)
    if len(batches) == 1:
        return batches[0]
    columns = [pa.concat_arrays([batch.column(i) for batch in batches]) for i in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch without rows."""
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def rebatch(batches: Iterable[pa.RecordBatch], schema: pa.Schema, portion_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the same rows, so many at a time and fewer at the end."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        while rows >= portion_rows:
            whole = concat_batches(held, schema)
            yield whole.slice(0, portion_rows)
            held, rows = [whole.slice(portion_rows)], rows - portion_rows
    if rows:
        yield concat_batches(held, schema)


def _keys(step: Step) -> Iterator[NDArray[np.int64]]:
    for part in step.parts:
        for rows in read_batches(part, ["key"]):
            yield rows.key


def _alike(old: Step, new: Step) -> int | None:
    """Return how many rows share their key if both steps have the same rows in the same order, else None.

    The digests of the manifest's rows tell; the keys are compared nevertheless, because they may be of different
    columns.
    """
    if not lie_side_by_side(old, new):
        return None
    keys = [np.zeros(0, np.int64)]
    for a, b in _side_by_side(_keys(old), _keys(new)):
        if not np.array_equal(a, b):
            return None
        keys.append(b)
    return count_repeated(np.concatenate(keys))


def _side_by_side(
    a: Iterator[NDArray[np.int64]], b: Iterator[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut two streams of equal length into pieces of equal length."""
    none = np.zeros(0, np.int64)
    left, right = none, none
    while True:
        left = left if len(left) else next(a, none)
        right = right if len(right) else next(b, none)
        n = min(len(left), len(right))
        if not n:
            return
        yield left[:n], right[:n]
        left, right = left[n:], right[n:]


def count_repeated(key: NDArray[np.int64]) -> int:
    """Return how many rows share their key with another.

    >>> count_repeated(np.array([5, 7, 5, 5, 8, 7]))
    5
    """
    ordered = np.sort(key)
    same = ordered[1:] == ordered[:-1]
    return int(np.count_nonzero(np.append(same, False) | np.append(False, same)))


def _zipped(old: _Side, new: _Side, repeated: int) -> Iterator[JoinedRows]:
    """Yield rows that lie side by side."""
    none = old.rows(empty_batch(old.schema)), new.rows(empty_batch(new.schema))
    for a, b in zip(old.portions(), new.portions(), strict=True):
        yield JoinedRows(old.rows(a), new.rows(b), *none, (repeated, repeated))
        repeated = 0


def _sorted(old: _Side, new: _Side) -> Iterator[JoinedRows]:
    """Yield rows in any order: those of the old step are held, and the new ones look up theirs."""
    index = KeyIndex(_all_rows(old))
    if index.repeated:
        _check_keys(index.rows, old)
    yield from _join_by_key(index, old, new, new.portions())


def _check_keys(batch: pa.RecordBatch, side: _Side) -> None:
    rows = side.rows(batch)
    refuse_ambiguous_keys(rows.key, rows.label_code, side.step)


def _all_rows(side: _Side) -> pa.RecordBatch:
    """Return all rows of a step in one batch; those that it was made from are let go on return."""
    batches = [widen_texts(batch) for batch in side.batches()]
    return concat_batches(batches, batches[0].schema if batches else side.schema)


def widen_texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows with texts that may be more than 2 GB together, which Arrow's plain strings may not."""
    fields = [
        pa.field(f.name, pa.large_string() if pa.types.is_string(f.type) else f.type, f.nullable) for f in batch.schema
    ]
    return batch.cast(pa.schema(fields))


class KeyIndex:
    """The rows of the old step by their keys; it remembers which were found."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        """Index rows, which come in the order of their ids; none is found yet."""
        self.rows = rows
        key = as_numpy(rows.column("key"))
        self._order, self._key, equal = _by_key(key)
        self.repeated = count_repeated(key) if equal else 0
        self._used = np.zeros(len(key) + 1, np.int64)  # of each key, at its first place: how many were found
        self._free = np.ones(len(key), bool)

    def find(self, key: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each key, the i-th row of a key for the i-th request; -1 where none is left.

        >>> rows = pa.RecordBatch.from_pydict({"key": pa.array([5, 7, 5, 8], pa.int64())})
        >>> index = KeyIndex(rows)
        >>> index.find(np.array([8, 5, 6])), index.find(np.array([5, 5])), index.left()
        (array([ 3,  0, -1]), array([ 2, -1]), array([1]))
        """
        order, ordered, equal = _by_key(key)
        first = np.searchsorted(self._key, ordered)  # ascending ones are found faster
        place = first + self._used[first]
        if equal:
            place += np.arange(len(key)) - np.searchsorted(ordered, ordered)
        same = place < len(self._key)
        same[same] = self._key[place[same]] == ordered[same]
        np.add.at(self._used, first[same], 1)
        rows = np.full(len(key), -1, np.int64)
        rows[order[same]] = self._order[place[same]]
        self._free[self._order[place[same]]] = False
        return rows

    def left(self) -> NDArray[np.int64]:
        """Return the rows that were not found."""
        return np.flatnonzero(self._free)


def _by_key(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Return the stable order of the keys, the sorted keys, and whether some are equal."""
    order = np.argsort(key)
    ordered = key[order]
    equal = bool((ordered[1:] == ordered[:-1]).any())
    return np.argsort(key, kind="stable") if equal else order, ordered, equal  # stable takes three times as long


def _join_by_key(index: KeyIndex, old: _Side, new: _Side, portions: Iterable[pa.RecordBatch]) -> Iterator[JoinedRows]:
    """Yield the new rows with their old ones, and at the end the old rows that were not found."""
    no_old, no_new = index.rows.slice(0, 0), empty_batch(new.schema)
    names = pa.schema([new.schema.field(name) for name in new.of_labels])
    named = [empty_batch(names)]
    for batch in portions:
        key = as_numpy(batch.column("key"))
        named.append(batch.select(names.names))
        at = index.find(key)
        matched = at >= 0
        pair, alone = (batch, no_new) if matched.all() else (_where(batch, matched), _where(batch, ~matched))
        yield JoinedRows(old.rows(_taken(index.rows, at[matched])), new.rows(pair), old.rows(no_old), new.rows(alone))
    every = concat_batches(named, names)
    if repeated := count_repeated(as_numpy(every.column("key"))):
        _check_keys(every, new)
    more = index.repeated, repeated
    rest = index.rows.take(pa.array(index.left()))
    yield JoinedRows(old.rows(no_old), new.rows(no_new), old.rows(rest), new.rows(no_new), more)


def _where(batch: pa.RecordBatch, keep: NDArray[np.bool_]) -> pa.RecordBatch:
    return batch.take(pa.array(np.flatnonzero(keep)))


def _taken(batch: pa.RecordBatch, at: NDArray[np.int64]) -> pa.RecordBatch:
    """Take rows at any places; texts stay references into all of them until they are read."""
    where = pa.array(at)
    columns = [
        pa.DictionaryArray.from_arrays(where, column) if pa.types.is_large_string(column.type) else column.take(where)
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
