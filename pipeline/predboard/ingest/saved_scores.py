"""Hold rows that another program saved: scores in blocks, labels, and every other column with one value in each row.

It knows no files, and not what a score means.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.label_lists import LabelOptions, read_label_sets
from predboard.images.label_masks import LabelSetColumns, MultiLabelReading, read_mask
from predboard.images.label_values import numbers_of
from predboard.ingest import table_files
from predboard.ingest.columns import abbreviate
from predboard.ingest.validation import ScoreArray


@dataclass(frozen=True)
class SavedLabelSets:
    """Labels of saved rows, as they are written."""

    file: str
    """Name of the file that they are from."""
    columns: LabelSetColumns
    table: pa.Table
    """[rows] the columns; empty where they are an array."""
    array: NDArray[Any] | None = None
    """[rows, classes]"""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.table) if self.array is None else len(self.array)

    def read(self, options: LabelOptions, classes: Sequence[str]) -> MultiLabelReading:
        """Return the labels, whose classes are these if they are known. Raises InputError as `read_label_sets` does."""
        if self.array is None:
            return read_label_sets(self.table, self.columns, options, classes, self.file)
        if options.separator is not None or options.none:
            flag = "--none" if options.none else "--label-separator"
            raise InputError(f"{self.words} has 0 and 1 for each class, which {flag} does not apply to: leave it out")
        return read_mask(self.array, options.empty, classes, self.words)

    @property
    def words(self) -> str:
        """The columns and the file, for people."""
        named = [name for name in self.columns.columns if name]
        return f"{named[0]!r} of {self.file}" if len(named) == 1 else self.file

    def extended(self, others: Sequence["SavedLabelSets"]) -> "SavedLabelSets":
        """Return these rows and those of other files of the same columns after them."""
        tables = [self.table, *(other.table for other in others)]
        arrays = [part.array for part in (self, *others) if part.array is not None]
        array = np.concatenate(arrays) if arrays else None
        return replace(self, table=pa.concat_tables(tables, promote_options="permissive"), array=array)


@dataclass(frozen=True)
class SavedScores:
    """Rows that another program saved, in their order."""

    rows: int
    classes: int
    names: tuple[str, ...]
    """The classes, where the score columns or another array name them; else empty."""
    used: tuple[str, ...]
    """Arrays or columns that the scores come from."""
    blocks: Callable[[], Iterator[ScoreArray]]
    """Gives the scores from the start, [some rows, classes] at a time; NaN stands for a missing score."""
    columns: pa.Table
    """[rows] everything else that has one plain value in each row."""
    label: str | None
    """Name in `columns` of the true class."""
    image: str | None
    """Name in `columns` of the image's path."""
    written: pa.Table
    """[rows] label, image and key, as far as they are here, with numbers in text files as they are written."""
    names_from: str = ""
    """Source of the names of the classes, in words, if they are of neither the score columns nor another array."""
    left_out: tuple[str, ...] = ()
    """Columns that are named like those of scores, and are no classes."""
    label_sets: SavedLabelSets | None = None
    """The labels, where an image may have several and the file has them."""
    is_single: bool = False
    """Whether there is one score in each row, [some rows, 1]: of two classes the positive one's."""
    is_flat: bool = False
    """Whether these are a column of numbers, and no array of [rows, 1]."""

    @property
    def is_numbered(self) -> bool:
        """Whether the names of the classes are numbered, as of `prob_0` or `prob_class_0`: these may be no names."""
        numbered_columns = len(self.used) > 1 and numbers_of(self.names)
        return bool(numbered_columns) or (bool(self.names) and all(map(str.isdigit, self.names)))

    def ordered(self, classes: tuple[str, ...]) -> "SavedScores":
        """Return the same rows with their scores in the order of these classes, where the columns have these names."""
        if self.names == classes or set(self.names) != set(classes) or self.names_from:
            return self
        order = np.array([self.names.index(name) for name in classes], np.intp)

        def blocks() -> Iterator[ScoreArray]:
            for block in self.blocks():
                yield block[:, order]

        used = tuple(self.used[i] for i in order) if len(self.used) == len(order) else self.used
        return replace(self, names=classes, used=used, blocks=blocks)


def flat_array(array: NDArray[Any]) -> NDArray[Any]:
    """Return [rows, 1] as [rows]."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def flat_columns(arrays: Mapping[str, NDArray[Any]], rows: int | None = None) -> pa.Table:
    """Return the one-dimensional arrays of text, numbers and booleans as a table."""
    table = {}
    for name, array in arrays.items():
        flat = flat_array(array)
        if flat.ndim == 1 and flat.dtype.kind == "S":
            table[name] = pa.array([value.decode("utf-8", "replace") for value in flat.tolist()], pa.string())
        elif flat.ndim == 1 and flat.dtype.kind == "U":
            table[name] = pa.array(flat.tolist(), pa.string())
        elif flat.ndim == 1 and flat.dtype.kind in "biuf":
            native = flat.dtype.newbyteorder("=") if flat.dtype.itemsize <= 8 else np.float64
            table[name] = pa.array(np.ascontiguousarray(flat, native))
    if rows is None and len({len(column) for column in table.values()}) > 1:
        raise InputError(f"{abbreviate(list(table))} have different lengths; expected one value per row")
    return pa.table(table)


def fitting_columns(table: pa.Table, names: Sequence[str], classes: int, image: str | None) -> list[str]:
    """Return the columns whose values could be labels: names of the classes, or indices of them.

    Args:
        table: columns with one value in each row.
        names: those of the classes, empty if they have none.
        classes: number of the classes.
        image: the column of the images, which has no labels.
    """
    fitting = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name == image or not (table_files.is_discrete(column.type) or pa.types.is_floating(column.type)):
            continue
        distinct = {value for value in column.unique().to_pylist() if value is not None and value == value}
        if not 1 < len(distinct) <= classes or len(distinct) == len(column):
            continue
        texts = {str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in distinct}
        are_indices = all(text.isdecimal() and int(text) < classes for text in texts)
        are_names = texts <= set(names) or (not names and table_files.is_text(column.type) and len(texts) == classes)
        if are_indices or are_names:
            fitting.append(name)
    return fitting
