"""Two steps -> the rows of the same images, side by side. Knows keys, and not what is compared.

Rows are joined by `key`, never by their order; of several rows of one key in a step the first goes with the first of
the other step, the second with the second. Where both steps have the same parts of the same manifest, which is when one
list of images went through two models, rows already lie side by side. Otherwise both are dealt into buckets by a hash
of the key, each small enough to be sorted: in memory where there are few rows, else in files.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import store
from pipeline.errors import InputError
from pipeline.predictions import COLUMNS, FURTHER, Predictions, Run, as_numpy, mix
from pipeline.store import Step, unwritable

PORTION = 2**17
"""Rows that are handed on at a time: some 12 MB of each step."""

MEMORY = 2**28
"""Bytes of both steps that are held in memory; more are dealt into files."""

BUCKET = 2**26
"""Bytes of both steps in one bucket, where they are dealt into files."""

BUCKETS = 200
"""Files of a step that may be open at once."""

KEYS = 2**23
"""Keys in memory at a time while those that are there twice are counted."""

SALT = 11
"""Of the hash that deals rows into buckets."""

NEEDED = frozenset({"id", "key", "label", "predicted"})
"""Columns that are read in any case."""


@dataclass(frozen=True)
class Classes:
    """What the classes of two steps are called together, and where those of each are among them."""

    names: tuple[str, ...]
    old: NDArray[np.int64] | None = None  # [classes of the old step] places in `names`; None: as they are
    new: NDArray[np.int64] | None = None

    @property
    def mapped(self) -> bool:
        """Whether the two lists differ."""
        return self.old is not None


@dataclass(frozen=True)
class Joined:
    """Some rows of two steps."""

    old: Predictions
    new: Predictions
    """Row by row the same images as `old`."""
    only_old: Predictions
    only_new: Predictions
    """Rows whose image the other step lacks."""
    repeated: tuple[int, int] = (0, 0)
    """Rows of each step whose key another row of it has too, counted once for all rows."""


def classes_of(old: Run, new: Run, called: tuple[str, str], by_name: bool = False) -> Classes:
    """The classes of two steps.

    Args:
        old, new: what the footers say.
        called: what to call the two in a message.
        by_name: map different lists by their names: those of the new step, then what only the old one has.

    Raises InputError if the lists differ and are not to be mapped, or cannot be because a name is there twice.
    """
    if old.classes == new.classes:
        return Classes(new.classes)
    if not by_name:
        both = enumerate(itertools.zip_longest(old.classes, new.classes))
        at, (a, b) = next((i, pair) for i, pair in both if pair[0] != pair[1])
        said = [f"{'none' if name is None else repr(name)} in {of}" for name, of in ((a, called[0]), (b, called[1]))]
        raise InputError(
            f"the classes differ: class {at} is {said[0]} and {said[1]} ({len(old.classes):,} and "
            f"{len(new.classes):,} classes); --map-classes goes by their names"
        )
    for run, of in ((old, called[0]), (new, called[1])):
        if twice := next((name for name in run.classes if run.classes.count(name) > 1), None):
            raise InputError(f"two classes of {of} are called {twice!r}, so --map-classes cannot tell them apart")
    names = tuple(dict.fromkeys([*new.classes, *old.classes]))
    place = {name: i for i, name in enumerate(names)}
    old_at, new_at = (np.array([place[name] for name in run.classes], np.int64) for run in (old, new))
    return Classes(names, old_at, new_at)


def joined(
    old: Step,
    new: Step,
    classes: Classes,
    columns: tuple[Collection[str], Collection[str]],
    folder: Path | None = None,
    zipped: bool = True,
) -> Iterator[Joined]:
    """All rows of two steps, a bounded number at a time.

    Where rows lie side by side, and where few are sorted in memory, they come in the order of the new step's ids.

    Args:
        old, new: the steps.
        classes: from `classes_of`; `label` and `predicted` are places in its names.
        columns: what to read of each besides `NEEDED`; `FURTHER` stands for what the manifest brought along, but for
            lists and bytes.
        folder: where files of rows may lie for a while; by default where the system keeps such files.
        zipped: take rows that lie side by side as they are, instead of sorting them all the same.

    Raises InputError if a part is damaged, or the folder cannot be written to.
    """
    sides = _Side(old, columns[0], classes.old), _Side(new, columns[1], classes.new)
    if zipped and (found := _alike(old, new)) is not None:
        yield from _zipped(*sides, found)
    else:
        yield from _sorted(*sides, folder)


class _Side:
    """The rows of one step, in the order of their ids."""

    def __init__(self, step: Step, columns: Collection[str], place: NDArray[np.int64] | None) -> None:
        self.step, self._place = step, place
        there = store.columns_of(step.parts[0])
        wanted = {*columns, *NEEDED}
        self._names = [
            f.name for f in there if f.name in wanted or (FURTHER in wanted and f.name not in COLUMNS and _plain(f))
        ]
        self.schema = pa.schema([_flat(there.field(name)) for name in self._names])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As they lie in the parts."""
        for part in self.step.parts:
            for rows in store.batches(part, self._names):
                yield self._conformed(rows.batch, part.name)

    def portions(self) -> Iterator[pa.RecordBatch]:
        """`PORTION` rows each, but for the last."""
        return portioned(self.batches(), self.schema)

    def _conformed(self, batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
        columns = []
        for field in self.schema:
            if field.name not in batch.schema.names:
                raise InputError(f"{where} lacks the column {field.name}, which other parts have: make it again")
            column = batch.column(field.name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            if field.name in ("label", "predicted") and self._place is not None and len(self._place):
                at = as_numpy(column, -1)
                column = pa.array(self._place[at].astype(np.int32), pa.int32(), mask=at < 0)
            if column.type != field.type:
                raise InputError(
                    f"column {field.name} of {where} is {column.type} and {field.type} in other parts: make it again"
                )
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _plain(field: pa.Field) -> bool:
    """Whether a column of the manifest can tell kinds of images apart."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return not (pa.types.is_nested(kind) or binary or pa.types.is_fixed_size_binary(kind))


def _flat(field: pa.Field) -> pa.Field:
    """The column with its values in place of a dictionary and of places in it."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if field.name in COLUMNS:
        kind = COLUMNS[field.name][0]
    return pa.field(field.name, kind)


def one(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """All rows in one batch."""
    if len(batches) == 1:
        return batches[0]
    columns = [pa.concat_arrays([batch.column(i) for batch in batches]) for i in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def nothing(schema: pa.Schema) -> pa.RecordBatch:
    """No rows."""
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def portioned(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The same rows, `PORTION` at a time but for the last, however they come."""
    kept: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        kept.append(batch)
        rows += len(batch)
        while rows >= PORTION:
            whole = one(kept, schema)
            yield whole.slice(0, PORTION)
            kept, rows = [whole.slice(PORTION)], rows - PORTION
    if rows:
        yield one(kept, schema)


def _rows(batch: pa.RecordBatch) -> Predictions:
    return Predictions(batch)


def _keys(step: Step) -> Iterator[NDArray[np.int64]]:
    for part in step.parts:
        for rows in store.batches(part, ["key"]):
            yield rows.key


def _alike(old: Step, new: Step) -> int | None:
    """How many rows share their key, if both steps have the same rows in the same order; None if they do not.

    The digests of the manifest's rows say that; the keys are compared nevertheless, because they may be of different
    columns. They are gone through as often as it takes to hold few of them at a time.
    """
    parts = [[(p.part.start, p.part.stop, p.part.manifest_digest) for p in step.parts] for step in (old, new)]
    if parts[0] != parts[1]:
        return None
    looks = -(-old.rows // KEYS)
    found = 0
    for look in range(looks):
        kept: list[NDArray[np.int64]] = []
        for a, b in _side_by_side(_keys(old), _keys(new)) if look == 0 else ((key, key) for key in _keys(new)):
            if not np.array_equal(a, b):
                return None
            kept.append(b if looks == 1 else b[mix(b, SALT).view(np.uint64) % np.uint64(looks) == look])
        found += repeated(np.concatenate(kept))
    return found


def _side_by_side(
    a: Iterator[NDArray[np.int64]], b: Iterator[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pieces of equal length of two streams of equal length, however each comes in pieces."""
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


def repeated(key: NDArray[np.int64]) -> int:
    """How many rows share their key with another.

    >>> repeated(np.array([5, 7, 5, 5, 8, 7]))
    5
    """
    ordered = np.sort(key)
    same = ordered[1:] == ordered[:-1]
    return int(np.count_nonzero(np.append(same, False) | np.append(False, same)))


def _zipped(old: _Side, new: _Side, found: int) -> Iterator[Joined]:
    """Rows that lie side by side."""
    none = _rows(nothing(old.schema)), _rows(nothing(new.schema))
    for a, b in zip(old.portions(), new.portions(), strict=True):
        yield Joined(_rows(a), _rows(b), *none, (found, found))
        found = 0


def _sorted(old: _Side, new: _Side, folder: Path | None) -> Iterator[Joined]:
    """Rows in any order, bucket by bucket."""
    with contextlib.ExitStack() as stack:
        buckets = [Buckets(side.schema, by_key) for side in (old, new)]
        for side, into in zip((old, new), buckets, strict=True):
            for batch in side.batches():
                if into.files is None and sum(each.bytes for each in buckets) + batch.nbytes > MEMORY:
                    here = stack.enter_context(aside(folder))
                    count = files_for((old.step.rows + new.step.rows) * batch.nbytes // len(batch))
                    for number, each in enumerate(buckets):
                        each.deal(here / str(number), count)
                into.add(batch)
        for number in range(buckets[0].count):
            yield from _matched(buckets[0].take(number), buckets[1].take(number))


@contextlib.contextmanager
def aside(folder: Path | None) -> Iterator[Path]:
    """A hidden folder for files of rows, gone afterwards; by default where the system keeps such files."""
    with unwritable(folder or Path(tempfile.gettempdir())):
        made = tempfile.TemporaryDirectory(prefix=".predboard-", dir=folder)
    with made as name:
        yield Path(name)


def files_for(size: int) -> int:
    """Into how many files so many bytes are dealt."""
    return min(-(-size // BUCKET), BUCKETS)


def by_key(batch: pa.RecordBatch, count: int) -> NDArray[np.int64]:
    """Which of so many buckets each row belongs to, by a hash of its key. -> [rows]."""
    return (mix(as_numpy(batch.column("key")), SALT).view(np.uint64) % np.uint64(count)).astype(np.int64)


class Buckets:
    """Rows of a table, together in memory, or dealt into files."""

    def __init__(self, schema: pa.Schema, bucket_of: Callable[[pa.RecordBatch, int], NDArray[np.int64]]) -> None:
        """No rows, one bucket. `bucket_of` says which of so many each row belongs to."""
        self.schema, self._bucket_of = schema, bucket_of
        self.bytes, self.count = 0, 1
        self.files: list[pa.RecordBatchFileWriter] | None = None
        self._folder = Path()
        self._kept: list[pa.RecordBatch] = []
        self._rows = 0

    def deal(self, folder: Path, count: int) -> None:
        """Go on in so many files of a new folder, with what is there."""
        self._folder, self.count = folder, count
        with unwritable(folder.parent):
            folder.mkdir()
            self.files = [pa.ipc.new_file(str(folder / str(i)), self.schema) for i in range(count)]

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in some rows."""
        self.bytes += batch.nbytes
        self._rows += len(batch)
        self._kept.append(batch)
        if self.files is not None and self._rows >= PORTION:
            self._write(self.files)

    def _write(self, files: Sequence[pa.RecordBatchFileWriter]) -> None:
        """Deal what is in memory, many rows at a time: a file gets few of each."""
        kept, self._kept, self._rows = self._kept, [], 0
        for batch in portioned(kept, self.schema):
            bucket = self._bucket_of(batch, self.count)
            order = np.argsort(bucket, kind="stable")
            ends = np.searchsorted(bucket[order], np.arange(self.count + 1))
            dealt = batch.take(pa.array(order))
            with unwritable(self._folder):
                for file, start, stop in zip(files, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                    if start < stop:
                        file.write_batch(dealt.slice(start, stop - start))

    def take(self, number: int) -> pa.RecordBatch:
        """All rows of one bucket, in the order in which they came; they are gone from here. No rows come after."""
        if self.files is None:
            kept, self._kept = self._kept, []
        else:
            self._write(self.files)
            with unwritable(self._folder):
                self.files[number].close()
                with pa.OSFile(str(self._folder / str(number))) as opened, pa.ipc.open_file(opened) as file:
                    kept = [file.get_batch(i) for i in range(file.num_record_batches)]
                (self._folder / str(number)).unlink()
        return one(kept, self.schema) if kept else nothing(self.schema)


def _matched(old: pa.RecordBatch, new: pa.RecordBatch) -> Iterator[Joined]:
    """The rows of one bucket, each step's in the order of its ids."""
    keys = as_numpy(old.column("key")), as_numpy(new.column("key"))
    at_old, at_new = match(*keys)
    alone = [_rest(len(key), at) for key, at in zip(keys, (at_old, at_new), strict=True)]
    only = [_rows(batch.take(pa.array(at))) for batch, at in zip((old, new), alone, strict=True)]
    more = repeated(keys[0]), repeated(keys[1])
    for start in range(0, max(len(at_new), 1), PORTION):
        a, b = (_taken(batch, at[start : start + PORTION]) for batch, at in ((old, at_old), (new, at_new)))
        yield Joined(_rows(a), _rows(b), only[0], only[1], more)
        only, more = [_rows(old.slice(0, 0)), _rows(new.slice(0, 0))], (0, 0)


def _taken(batch: pa.RecordBatch, at: NDArray[np.int64]) -> pa.RecordBatch:
    """Rows at ascending or any other places; neighbours are not copied."""
    if len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
        return batch.slice(int(at[0]), len(at))
    return batch.take(pa.array(at))


def match(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the rows of the same keys, the i-th of a key with the i-th, in the order of the new ones.

    >>> match(np.array([5, 7, 5, 8]), np.array([8, 5, 6, 5, 5]))
    (array([3, 0, 2]), array([0, 1, 3]))
    """
    (order_old, key_old, many_old), (order_new, key_new, many_new) = _by_key(old), _by_key(new)
    there = np.searchsorted(key_old, key_new)
    if many_old or many_new:
        there += np.arange(len(new)) - np.searchsorted(key_new, key_new)
    same = there < len(old)
    same[same] = key_old[there[same]] == key_new[same]
    at = np.full(len(new), -1, np.int64)  # of each new row, its place among the old ones
    at[order_new[same]] = order_old[there[same]]
    at_new = np.flatnonzero(at >= 0)
    return at[at_new], at_new


def _by_key(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Places of the keys in their order, equal ones as they come; the keys in it; whether some are equal."""
    order = np.argsort(key)
    ordered = key[order]
    equal = bool((ordered[1:] == ordered[:-1]).any())
    return np.argsort(key, kind="stable") if equal else order, ordered, equal  # stable takes three times as long


def _rest(count: int, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places below `count` that are not in `at`."""
    rest = np.ones(count, bool)
    rest[at] = False
    return np.flatnonzero(rest)
