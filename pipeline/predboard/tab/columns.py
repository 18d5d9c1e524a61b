"""Reads the columns of `rows.parquet` as NumPy arrays when they are first asked for, and holds them up to a limit.

It knows nothing of queries and of what a column means, but for the few that every run has.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.errors import InputError, reading
from predboard.formatting import did_you_mean
from predboard.predictions.arrow import as_arrow, as_numpy, as_texts
from predboard.predictions.label_sets import LabelSets
from predboard.storage.paths import AnyPath, open_source
from predboard.storage.rows import INFO_KEY, MAX_VALUES
from predboard.tab.row_classes import FAILED, UNLABELLED, WRONG, OneClass, RowClasses, classes_of_rows
from predboard.tab.texts import Texts

T = TypeVar("T")

Key = tuple[object, ...]

CACHE_BYTES = 2**30
"""Bytes of columns in memory, of all runs and steps; those that were not used for longest are read again."""

UNUSUAL = {"failed": FAILED, "unlabelled": UNLABELLED}
"""Verdicts that not every run has."""

_NULLS = {"label": -1, "predicted": -1, "digest": 0}
"""Whole numbers that stand for null, so that these columns stay whole."""

_BY_FLAGS = {
    **dict.fromkeys(("label", "true", "class"), "; --true asks for true classes"),
    **dict.fromkeys(("predicted", "prediction"), "; --predicted asks for predicted classes"),
}
"""What a query asks of an image's classes by flags of their own, by the names under which people look for it."""

_HIDDEN = frozenset({"step", "id", "key", "digest", "error"}) | OneClass.hidden
"""Columns that have a place of their own in the tab."""


@dataclass(frozen=True)
class ColumnInfo:
    """A column by which rows can be filtered or sorted, or which is only shown."""

    name: str
    kind: str
    """`number`, `category` (at most `MAX_VALUES` values) or `text`."""
    values: tuple[str, ...] = ()
    """Of a category."""
    low: float | None = None
    high: float | None = None
    """Range of the numbers of all steps; None if there are none or it is not known."""


class ColumnCache:
    """Columns in memory, the least recently used ones dropped beyond a limit."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Start empty.

        Args:
            limit: bytes that are held.
        """
        self._limit, self._bytes = limit, 0
        self.made = 0
        """Bytes of all values that were ever made."""
        self._values: OrderedDict[Key, tuple[object, int]] = OrderedDict()
        self._making: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], T]) -> T:
        """Return the value of a key; it is made if it is not in memory, once for all who ask at the same time."""
        with self._lock:
            if key in self._values:
                return cast(T, self._use(key))
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return cast(T, self._use(key))
            value = make()
            with self._lock:
                self._values[key] = value, _size(value)
                self._bytes += _size(value)
                self.made += _size(value)
                while self._bytes > self._limit and len(self._values) > 1:
                    _, (_, dropped) = self._values.popitem(last=False)
                    self._bytes -= dropped
                self._making.pop(key, None)
        return value

    def holds(self, key: Key) -> bool:
        """Return whether the value of a key is in memory."""
        return key in self._values

    def _use(self, key: Key) -> object:
        self._values.move_to_end(key)
        return self._values[key][0]


def _size(value: object) -> int:
    """Return the bytes of a picture, or of arrays, alone or in a tuple or a dataclass; others count as nothing."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, tuple):
        return sum(map(_size, value))
    return int(getattr(value, "nbytes", 0))


class RowsFile:
    """A `rows.parquet`, opened: its steps, its class names, and which columns it has."""

    def __init__(self, path: AnyPath, version: str = "", cache: ColumnCache | None = None) -> None:
        """Read the footer.

        Args:
            path: of the file.
            version: a text that changes when the file does.
            cache: shared with other files.

        Raises:
            InputError: if it cannot be read, or has no row.
        """
        self.path, self.version = path, version
        with reading(path):
            # It stays open: when visualize puts another file in its place, this one can still be read.
            self._source = open_source(path)
            file = self._open(None)
            self._metadata: pq.FileMetaData = file.metadata
            self.schema: pa.Schema = file.schema_arrow
            self._leaves = {file.schema.column(i).path: i for i in range(len(file.schema))}
            groups = _groups_of_steps(self._metadata, self._leaves["step"])
        if not groups:
            raise InputError(f"{path} has no rows")
        cache = cache or ColumnCache()
        self.steps = {step: StepRows(self, step, groups[step], cache) for step in sorted(groups)}
        self.info: Mapping[str, Any] = json.loads((self._metadata.metadata or {}).get(INFO_KEY, b"{}"))

    def _open(self, metadata: pq.FileMetaData | None) -> pq.ParquetFile:
        """Return a new reader: no reading waits for another, and what a reader has buffered goes with it."""
        return pq.ParquetFile(self._source, metadata=metadata, pre_buffer=True, page_checksum_verification=True)

    @property
    def last(self) -> "StepRows":
        """The last step."""
        return self.steps[max(self.steps)]

    def read(self, groups: list[int], column: str) -> pa.ChunkedArray:
        """Return a column of some row groups."""
        return self.read_table(groups, [column]).column(0)

    def read_table(self, groups: list[int], columns: Sequence[str]) -> pa.Table:
        """Return some columns of some row groups."""
        with reading(self.path):
            return self._open(self._metadata).read_row_groups(
                groups, columns=list(columns), use_threads=len(groups) > 1
            )

    def group_rows(self, group: int) -> int:
        """Return the number of rows of a row group."""
        return int(self._metadata.row_group(group).num_rows)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        if "classes" in self.info:
            return tuple(self.info["classes"])
        names: dict[int, str] = {}
        for step in self.steps.values():  # logs of an older version
            for column in ("label", "predicted"):
                if f"{column}_name" in self.schema.names:
                    codes, words = step.category(f"{column}_name")
                    index, at = np.unique(step.numbers(column), return_index=True)
                    names |= {i: words[codes[a]] for i, a in zip(index.tolist(), at, strict=True) if i >= 0}
        return tuple(names.get(i, str(i)) for i in range(max(names, default=0) + 1))

    @cached_property
    def columns(self) -> tuple[ColumnInfo, ...]:
        """The columns that can be shown, in the order of the file."""
        kinds: Mapping[str, Any] = self.info.get("columns", {})
        infos = []
        for field in self.schema:
            if field.name in _HIDDEN or pa.types.is_nested(field.type) or _is_binary(field.type):
                continue
            if field.name == "image":
                infos.append(ColumnInfo("image", "text"))
            elif _is_number(field.type):
                infos.append(ColumnInfo(field.name, "number", (), *self._range(field.name)))
            elif field.name in kinds:
                values = kinds[field.name]
                infos.append(ColumnInfo(field.name, "category" if values is not None else "text", tuple(values or ())))
            else:
                infos.append(self._find_kind(field.name))
        return tuple(infos)

    def column(self, name: str, *kinds: str) -> ColumnInfo:
        """Return a column by its name. Raises InputError if there is none of that name, or it is of no such kind."""
        info = next((column for column in self.columns if column.name == name), None)
        if info is None:
            names = [column.name for column in self.columns]
            near = _BY_FLAGS.get(name) or did_you_mean(name, names)
            raise InputError(f"there is no column {name!r}: expected one of {', '.join(names)}{near}")
        if kinds and info.kind not in kinds:
            raise InputError(f"the column {name!r} is a {info.kind}: expected a {' or a '.join(kinds)}")
        return info

    def count_nulls(self, groups: list[int], name: str) -> int:
        """Return how many rows of some row groups have no value in a column, from the statistics of the file."""
        return sum(self._metadata.row_group(i).column(self._leaves[name]).statistics.null_count for i in groups)

    @property
    def has_labels(self) -> bool:
        """Whether any row has a label."""
        if "label" in self.schema.names:
            return self._range("label")[0] is not None
        return any(bool((step.verdict <= WRONG).any()) for step in self.steps.values())

    def _range(self, name: str) -> tuple[float | None, float | None]:
        """Return the lowest and highest number of a column, from the statistics of the file."""
        metadata = self._metadata
        chunks = [metadata.row_group(i).column(self._leaves[name]) for i in range(metadata.num_row_groups)]
        stats = [chunk.statistics for chunk in chunks if chunk.is_stats_set and chunk.statistics.has_min_max]
        if not stats:
            return None, None
        return float(min(s.min for s in stats)), float(max(s.max for s in stats))

    def _find_kind(self, name: str) -> ColumnInfo:
        values: set[str] = set()
        for step in self.steps.values():
            values.update(step.category(name)[1])
        if len(values) > MAX_VALUES:
            return ColumnInfo(name, "text")
        return ColumnInfo(name, "category", tuple(sorted(values)))


def _groups_of_steps(metadata: pq.FileMetaData, leaf: int) -> dict[int, list[int]]:
    """Return the row groups of each step; each group has rows of one step, whose number is column `leaf`."""
    groups: dict[int, list[int]] = {}
    for group in range(metadata.num_row_groups):
        groups.setdefault(int(metadata.row_group(group).column(leaf).statistics.min), []).append(group)
    return groups


def _is_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_))


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_dictionary(type_))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


class StepRows:
    """The rows of one step, in the order of the data; a row is named by its place, from 0."""

    def __init__(self, file: RowsFile, step: int, groups: list[int], cache: ColumnCache) -> None:
        """Note where the rows are; none is read."""
        self.file, self.step, self._groups, self._cache = file, step, groups, cache
        self._sizes = [file.group_rows(group) for group in groups]
        self.rows = sum(self._sizes)

    def derived(self, name: object, make: Callable[[], T]) -> T:
        """Return an array that is made of columns, which is held in memory as they are."""
        return self._cache.get(self._key(name), make)

    def _key(self, name: object) -> Key:
        return str(self.file.path), self.file.version, self.step, name

    def has(self, name: str) -> bool:
        """Return whether there is a column of that name."""
        return name in self.file.schema.names

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of numbers, [rows]; nulls are NaN, -1 in `label` and `predicted`, 0 in `digest`."""
        return self.derived(name, lambda: self._read_numbers(name))

    def _read_numbers(self, name: str) -> NDArray[Any]:
        chunked = self.file.read(self._groups, name)
        if name in _NULLS:
            return _join([as_numpy(chunk, _NULLS[name]) for chunk in chunked.chunks])
        if pa.types.is_integer(chunked.type) and chunked.null_count:
            chunked = chunked.cast(pa.float64(), safe=False)
        if pa.types.is_float16(chunked.type):
            chunked = chunked.cast(pa.float32())
        return _join([as_numpy(chunk, np.nan) for chunk in chunked.chunks])

    def texts(self, name: str) -> Texts:
        """Return a column of texts, [rows]."""
        return self.derived(f"text {name}", lambda: Texts(partial(self._read_texts, name, i) for i in self._groups))

    def _read_texts(self, name: str, group: int) -> pa.ChunkedArray:
        texts: pa.ChunkedArray = as_texts(self.file.read([group], name))
        return texts

    def category(self, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Return the codes of a column of few values, int32 [rows], -1 for null, and the value of each code."""
        return self.derived(f"category {name}", lambda: self._read_category(name))

    def _read_category(self, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        chunked = self.file.read(self._groups, name)
        if not pa.types.is_dictionary(chunked.type):
            chunked = pc.dictionary_encode(as_texts(chunked))
        chunked = chunked.unify_dictionaries()
        codes = _join([as_numpy(chunk.indices, -1) for chunk in chunked.chunks]).astype(np.int32)
        values = chunked.chunk(0).dictionary.cast(pa.string()).to_pylist()
        return codes, tuple(str(value) for value in values)

    def value(self, name: str, row: int) -> Any:
        """Return one value of any column, as Python has it; None for null."""
        return self.few(name, np.array([row]))[0]

    def record(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return the values of a row in some columns, as Python has them, by one read of its row group.

        Columns that there are not are None.
        """
        ends = np.cumsum(self._sizes)
        at = int(np.searchsorted(ends, row, side="right"))
        group, first = self._groups[at], int(ends[at]) - self._sizes[at]
        names = [name for name in columns if self.has(name)]
        table = self.derived(("group", tuple(names), group), lambda: self.file.read_table([group], names))
        return dict.fromkeys(columns) | dict(table.slice(row - first, 1).to_pylist()[0])

    def few(self, name: str, rows: NDArray[np.integer[Any]]) -> list[Any]:
        """Return the values of some rows of any column, from only those row groups that hold them."""
        values: dict[int, Any] = {}
        first = 0
        is_text = len(self._groups) > 1 and _is_text(self.file.schema.field(name).type)
        # All texts are read for some where most groups hold one, and are in memory then.
        if is_text and (len(rows) > len(self._groups) or self._cache.holds(self._key(f"text {name}"))):
            return list(self.texts(name).take(rows))
        for group, size in zip(self._groups, self._sizes, strict=True):
            inside = np.unique(rows[(rows >= first) & (rows < first + size)])
            if len(inside):
                at = as_arrow(inside - first, pa.int64())
                taken = self._group(name, group).take(at).to_pylist()
                values.update(zip(inside.tolist(), taken, strict=True))
            first += size
        return [values[row] for row in rows.tolist()]

    def _group(self, name: str, group: int) -> pa.ChunkedArray:
        return self.derived(("group", name, group), lambda: self.file.read([group], name))

    def sets(self, name: str) -> tuple[LabelSets, NDArray[np.bool_]]:
        """Return a column of lists of classes, [rows], empty for null; and which rows are not null, bool [rows]."""

        def make() -> tuple[LabelSets, NDArray[np.bool_]]:
            lists = self.file.read(self._groups, name).combine_chunks()
            return LabelSets.from_arrow(lists), as_numpy(lists.is_valid().cast(pa.uint8())).astype(bool)

        return self.derived(f"sets {name}", make)

    def numbers_of_sets(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the numbers beside a column of lists of classes, float32 [labels of rows that have them].

        Also which rows have them, bool [rows].
        """
        lists = self.file.read(self._groups, name).combine_chunks()
        return as_numpy(lists.flatten()), as_numpy(lists.is_valid().cast(pa.uint8())).astype(bool)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return self.file.classes

    @cached_property
    def classes(self) -> RowClasses:
        """True and predicted classes of the rows."""
        return classes_of_rows(self)

    @property
    def verdict(self) -> NDArray[np.uint8]:
        """RIGHT, WRONG, UNLABELLED or FAILED, uint8 [rows]."""
        return self.classes.verdict

    def count_unusual(self) -> dict[str, int]:
        """Return the number of failed and of unlabelled rows, without reading any row where that is possible."""
        if self.has("label"):
            failed, unlabelled = (self.file.count_nulls(self._groups, name) for name in ("predicted", "label"))
            if not (failed and unlabelled):
                return {"failed": failed, "unlabelled": unlabelled}
        return {state: int((self.verdict == verdict).sum()) for state, verdict in UNUSUAL.items()}

    def sorted_by(self, name: str, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the rows in ascending order of whole numbers, equal ones in their order, int32 [rows].

        Args:
            name: of the numbers, by which their order is held in memory.
            keys: the numbers, [rows].
        """
        return self.derived(f"sorted by {name}", lambda: np.argsort(keys, kind="stable").astype(np.int32))


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
