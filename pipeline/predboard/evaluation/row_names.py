"""Finds the rows of a step that the rows of a table name: by path, by key, by number, or by a column that both have.

It knows nothing of what the table says of them. Names are compared as 64-bit hashes: 8 bytes a row.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.formatting import did_you_mean
from predboard.images.columns import IMAGE_COLUMNS, find_usual
from predboard.images.manifest import canonical_member, canonical_refs, split_ref
from predboard.images.row_tables import KEY_COLUMNS, ROW_COLUMNS
from predboard.predictions.amendments import check_group_column, hash_values, number_of_text, number_text
from predboard.predictions.schema import hash_refs
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.paths import AnyPath, map_files
from predboard.storage.runs import Step, list_manifest_columns, list_numeric_columns

_NEAR_ROWS = 2_000
"""Rows of a step among whose names the one that was meant is looked for."""

_MEMBER = "member"
"""Stands for the part of a ref that names an image inside an archive."""

_LIMITS = np.iinfo(np.int64)


@dataclass(frozen=True)
class _Names:
    """One way in which a table names rows."""

    column: str
    """Column of the table."""
    of_rows: str
    """What it is compared with: `key`, `id`, `image`, `_MEMBER`, or a further column of the predictions."""
    texts: Sequence[str]
    hashes: NDArray[np.int64]  # [rows of the table]
    as_number: Callable[[str], str] | None = None
    """Makes numbers of the texts of the predictions, where the table has numbers; None to compare them as they are."""


@dataclass(frozen=True)
class Match:
    """Which rows of a step each row of a table names."""

    column: str
    """Column of the table by which they were found."""
    of_rows: str
    """What it was compared with."""
    name_columns: frozenset[str]
    """Columns of the table that name rows, and say nothing else."""
    is_known: NDArray[np.bool_]  # [rows of the table]
    _texts: Sequence[str]
    _first: NDArray[np.int64]  # [rows of the table] the first row of the same name
    _parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

    def of_part(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places in a part of the rows that were found, ascending, and the row of the table of each."""
        return self._parts[place]

    @property
    def repeated(self) -> bool:
        """Whether the table names an image twice."""
        return bool((self._first != np.arange(len(self._first))).any())

    def refuse_contradictions(self, values: Sequence[Any], what: str) -> None:
        """Raise InputError if two rows of one name have different values; `what` there are then, for the message."""
        again = np.flatnonzero(self._first != np.arange(len(self._first))).tolist()
        other = [row for row in again if values[row] != values[self._first[row]]]
        if other:
            more = f", and so have {len(other) - 1:,} others" if len(other) > 1 else ""
            raise InputError(f"{self._texts[other[0]]!r} has {what}{more}: leave one in")

    def describe_lacking(self, step: Step) -> str:
        """Name some rows that were not found, and what may have been meant."""
        lacking = [self._texts[row] for row in np.flatnonzero(~self.is_known)[:3].tolist()]
        name = "image" if self.of_rows in ("key", "id", _MEMBER) else self.of_rows
        rows = next(read_batches(step.parts[0], {name}), None)
        known = [] if rows is None else [str(text) for text in rows.column(name).to_pylist()[:_NEAR_ROWS] if text]
        example = f"; the first of the run is {known[0]!r}" if known else ""
        return ", ".join(map(repr, lacking)) + (did_you_mean(lacking[0], known) or example)


def find_rows(step: Step, table: pa.Table, file: AnyPath, by: str | None = None) -> Match:
    """Return the rows of a step that a table names, in the way by which most are found.

    Args:
        step: of a run.
        table: has a column of paths, keys or numbers of rows.
        file: of the table, for messages.
        by: a column of the table and of the predictions that names rows instead.

    Raises InputError if there is no such column.
    """
    usual = (IMAGE_COLUMNS, KEY_COLUMNS, ROW_COLUMNS)
    naming = (by,) if by is not None else tuple(find_usual(table.column_names, names) for names in usual)
    name_columns = frozenset(name for name in naming if name is not None)
    best: Match | None = None
    for way in _ways(step, table, file, by):
        match = _match(step, way, name_columns)
        if best is None or match.is_known.sum() > best.is_known.sum():
            best = match
        if best.is_known.all():
            return best
    if best is None:
        listed = ", ".join(table.column_names[:12])
        raise InputError(f"{file} has no column of images or keys; it has {listed}: call one image, path or key")
    return best


def _ways(step: Step, table: pa.Table, file: AnyPath, by: str | None) -> Iterator[_Names]:
    names = table.column_names
    if by is not None:
        for where, columns in ((file, names), ("the predictions", list_manifest_columns(step))):
            if by not in columns:
                listed = ", ".join(columns) or "none"
                near = did_you_mean(by, columns)
                raise InputError(f"--columns-by: no column {by!r} in {where}{near}; there are {listed}")
        # Where one of the two has numbers, both are compared as numbers, so that 007 is 7; two texts are as they are.
        texts, type_ = _texts(table.column(by)), table.column(by).type
        if by in list_numeric_columns(step):
            yield _Names(by, by, texts, hash_refs(map(number_of_text, texts)))
        elif pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
            written = list(map(number_of_text, texts))
            yield _Names(by, by, texts, hash_refs(written), _UniqueNumbers(by, file, set(written)))
        else:
            yield _Names(by, by, texts, hash_refs(texts))
        return
    image, key, row = (find_usual(names, usual) for usual in (IMAGE_COLUMNS, KEY_COLUMNS, ROW_COLUMNS))
    if image is not None:
        texts = _texts(table.column(image))
        refs = [_relative(ref, step.run.root) for ref in canonical_refs(pa.chunked_array([texts], pa.string()))]
        yield _Names(image, "key" if _keys_are_refs(step) else "image", texts, hash_refs(refs))
        yield _Names(image, _MEMBER, texts, hash_refs(map(canonical_member, texts)))
    if key is not None:
        texts = _texts(table.column(key))
        if (numbers := _whole_numbers(texts)) is not None:
            yield _Names(key, "key", texts, numbers)
        yield _Names(key, "key", texts, hash_refs(texts))  # of --key-column, whose hashes are the keys
    if row is not None and not any(any(_texts(table.column(name))) for name in (image, key) if name is not None):
        # Any numbers are those of some rows: where images have names, a column `id` may count anything.
        texts = _texts(table.column(row))
        if (numbers := _whole_numbers(texts)) is not None:
            yield _Names(row, "id", texts, numbers)


def _match(step: Step, names: _Names, name_columns: frozenset[str]) -> Match:
    distinct, first, inverse = np.unique(names.hashes, return_index=True, return_inverse=True)

    def of_part(part: PartFile) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        hashes = np.concatenate([np.zeros(0, np.int64), *_hashes_of(part, names)])
        place = np.minimum(np.searchsorted(distinct, hashes), len(distinct) - 1)
        at = np.flatnonzero(distinct[place] == hashes)
        return at, place[at]

    none = np.zeros(0, np.int64), np.zeros(0, np.int64)
    parts = list(map_files(of_part, step.parts, step.parts[0].path)) if len(distinct) else [none] * len(step.parts)
    seen = np.zeros(len(distinct), bool)
    for _, place in parts:
        seen[place] = True
    rows = [(at, first[place]) for at, place in parts]
    return Match(names.column, names.of_rows, name_columns, seen[inverse], names.texts, first[inverse], rows)


def _hashes_of(part: PartFile, names: _Names) -> Iterator[NDArray[np.int64]]:
    """Yield what rows of a part are named, as hashes or as they are; 0 where a row has no name."""
    column = names.of_rows
    for rows in read_batches(part, {"image" if column == _MEMBER else column, "key", "id"}):
        if column in ("key", "id"):
            yield rows.key if column == "key" else rows.id
        elif column in ("image", _MEMBER):
            refs = (ref or "" for ref in rows.column("image").to_pylist())
            yield hash_refs(refs if column == "image" else (split_ref(ref)[1] for ref in refs))
        else:
            check_group_column(rows.batch.schema.field(column))
            yield hash_values(rows, column, np.zeros(len(rows), np.int64), names.as_number)


@dataclass(frozen=True)
class _UniqueNumbers:
    """Makes numbers of texts, and refuses two texts of one number that a table names: it cannot tell 007 from 7."""

    column: str
    file: AnyPath
    wanted: Collection[str]
    """Numbers that the table names."""
    texts: dict[str, str] = field(default_factory=dict)
    """Text of each number so far."""

    def __call__(self, text: str) -> str:
        """Return the number. Raises InputError if another text was the same one."""
        number = number_of_text(text)
        if number in self.wanted and (other := self.texts.setdefault(number, text)) != text:
            raise InputError(
                f"--columns-by {self.column}: the predictions have {other!r} and {text!r}, and the numbers in "
                f"{self.file} do not tell them apart: save that column as text"
            )
        return number


def _keys_are_refs(step: Step) -> bool:
    """Return whether the keys of a step are hashes of its refs, as far as its first rows tell."""
    rows = next(read_batches(step.parts[0], {"key", "image"}), None)
    refs = [] if rows is None else rows.column("image").to_pylist()
    return bool(refs) and None not in refs and bool((hash_refs(refs) == rows.key).all())  # type: ignore[union-attr]


def _relative(ref: str, root: str) -> str:
    """Return a path below the run's root as a ref; another as it is."""
    start = f"{root.rstrip('/')}/"
    return ref[len(start) :] if root and ref.startswith(start) else ref


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Return names as text: numbers as the predictions' numbers are compared."""
    return ["" if v is None else number_text(v) if isinstance(v, float) else str(v) for v in column.to_pylist()]


def _whole_numbers(texts: Sequence[str]) -> NDArray[np.int64] | None:
    try:
        numbers = list(map(int, texts))
    except ValueError:
        return None
    return np.array(numbers, np.int64) if all(_LIMITS.min <= n <= _LIMITS.max for n in numbers) else None
