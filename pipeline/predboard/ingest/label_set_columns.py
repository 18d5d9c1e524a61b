"""Find the labels of saved rows where an image may have several. It knows no scores and no run, and reads no label.

They are in columns of a table, or in an array of rows and classes; which ones is decided by names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.columns import find_usual
from predboard.images.label_lists import LabelOptions
from predboard.images.label_masks import LabelSetColumns, choose_label_columns
from predboard.images.unread_labels import NO_COLUMN, refuse_unread_sets
from predboard.ingest import array_files, columns, table_files
from predboard.ingest.saved_scores import SavedLabelSets, flat_array, flat_columns
from predboard.ingest.table_files import TableFile


def find_in_table(
    file: Path, table: TableFile, names: Sequence[str], options: LabelOptions, classes: Sequence[str], needed: bool
) -> SavedLabelSets | None:
    """Return the labels that are in columns of a table; None if no column is named so.

    Args:
        file: for messages.
        table: the table.
        names: its columns that may be labels.
        options: what the user says.
        classes: names of the classes; empty if they are not known.
        needed: whether a table without such a column is refused if others could be the labels by their values.

    Raises InputError if a column that the user names is missing, or if it is not clear which one is meant.
    """
    if options.column == NO_COLUMN and NO_COLUMN not in names:
        return None
    usual = columns.LABEL_COLUMN_NAMES
    chosen = choose_label_columns(names, options.column, options.none, classes, usual, file) if needed else None
    if chosen is None:
        if needed:
            free = [name for name in names if not table_files.is_bytes(table.types[name])]
            refuse_unread_sets(table.read_as_written(free) if free else pa.table({}), classes, file)
        return None
    return SavedLabelSets(file.name, chosen, table.read_as_written(chosen.columns))


def find_in_arrays(
    file: Path,
    arrays: Mapping[str, NDArray[Any]],
    rows: int,
    options: LabelOptions,
    classes: Sequence[str],
    needed: bool,
) -> SavedLabelSets | None:
    """Return the labels that are in arrays of so many rows; None if no array is named so. See `find_in_table`.

    Without a usual name it is the only array of rows and classes that has 0, 1 and −1 alone.
    """
    if not needed or (options.column == NO_COLUMN and NO_COLUMN not in arrays):
        return None
    in_rows = {name: array for name, array in arrays.items() if len(array.shape) in (1, 2) and len(array) == rows}
    usual = columns.LABEL_COLUMN_NAMES
    if options.column is not None and options.column not in in_rows:
        _refuse_shape(file, arrays, options.column, rows)
    chosen = choose_label_columns(list(in_rows), options.column, options.none, classes, usual, file)
    if chosen is None:
        numbers = [name for name, array in arrays.items() if name not in in_rows and array.dtype.kind in "biuf"]
        _refuse_shape(file, arrays, find_usual(numbers, usual), rows)
        fitting = [name for name, array in in_rows.items() if array.ndim == 2 and has_marks(array)]
        if len(fitting) != 1:
            flat = flat_columns({name: array for name, array in in_rows.items() if array.ndim == 1}, rows)
            refuse_unread_sets(flat, classes, file, fitting)
            return None
        chosen = LabelSetColumns((fitting[0],))
    wide = [name for name in chosen.columns if in_rows[name].ndim == 2]
    if wide and len(chosen.columns) > 1:
        raise InputError(
            f"--label-column {options.column} names {columns.abbreviate(chosen.columns)} of {file}, of which "
            f"{wide[0]!r} has all labels by itself: name one array"
        )
    if not wide:
        table = flat_columns({name: in_rows[name] for name in chosen.columns}, rows)
        if lacking := [name for name in chosen.columns if name not in table.column_names]:
            raise InputError(f"{lacking[0]!r} of {file} is {in_rows[lacking[0]].dtype}; expected labels")
        return SavedLabelSets(file.name, chosen, table)
    return SavedLabelSets(file.name, LabelSetColumns((wide[0],)), pa.table({}), in_rows[wide[0]])


def _refuse_shape(file: Path, arrays: Mapping[str, NDArray[Any]], name: str | None, rows: int) -> None:
    """Raise InputError if there is an array of labels that does not have a label, or some, for each row."""
    if name is not None and name in arrays:
        shape = "×".join(map(str, arrays[name].shape)) or "a single value"
        raise InputError(
            f"{file} has {rows:,} rows of scores, but {name!r} has shape {shape}; expected as many rows of labels, or "
            f"--label-column {NO_COLUMN} if it has none"
        )


def has_marks(array: NDArray[Any]) -> bool:
    """Return whether an array has 0, 1, −1 and NaN alone."""
    if array.dtype.kind not in "biuf":
        return False
    with np.errstate(invalid="ignore"):
        return bool((np.isin(array, (-1, 0, 1)) | (array != array)).all())


def read_label_file(
    file: Path, options: LabelOptions, classes: Sequence[str], max_read_gb: float
) -> tuple[SavedLabelSets, list[Any] | None]:
    """Return the labels in a file of their own, and the path of each row's image if it has them.

    Raises InputError if it is not clear which of its columns are the labels.
    """
    table_files.check_kind(file)
    images: list[Any] | None = None
    if file.suffix.lower() in array_files.ARRAY_SUFFIXES:
        arrays = {n: flat_array(array) for n, array in array_files.read_arrays(file, max_read_gb).items()}
        image = find_usual([n for n, a in arrays.items() if a.dtype.kind in "US"], columns.IMAGE_COLUMN_NAMES)
        rest = {name: array for name, array in arrays.items() if name != image}
        rows = max((len(array) for array in rest.values() if array.ndim), default=0)
        alone = replace(options, column="") if list(rest) == [""] else options
        label_sets = find_in_arrays(file, rest, rows, alone, classes, needed=True)
        images = None if image is None else flat_columns({image: arrays[image]}).column(0).to_pylist()
    else:
        table = table_files.open_table(file, max_read_gb)
        named = find_usual(table.names, columns.IMAGE_COLUMN_NAMES)
        image = named if len(table.names) > 1 else None
        names = [name for name in table.names if name != image]
        alone = replace(options, column=names[0]) if len(names) == 1 and options.column is None else options
        label_sets = find_in_table(file, table, names, alone, classes, needed=True)
        images = None if image is None else table.read_as_written([image]).column(0).to_pylist()
    if label_sets is None:
        raise InputError(f"{file} has no column that is surely the labels: name it with --label-column")
    return label_sets, images
