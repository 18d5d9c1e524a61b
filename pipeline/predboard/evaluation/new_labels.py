"""Reads the corrected labels of a table, of one label for an image or of several. It knows no rows of predictions."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.formatting import did_you_mean, plural
from predboard.images.columns import IMAGE_COLUMNS, LABEL_COLUMNS, TRUTH_COLUMNS, find_usual
from predboard.images.label_lists import LabelOptions, read_label_sets
from predboard.images.label_masks import choose_label_columns
from predboard.images.label_values import UNKNOWN_WORDS, parse_labels
from predboard.images.row_tables import KEY_COLUMNS, RELABEL_COLUMN, ROW_COLUMNS, find_label_column
from predboard.predictions.label_sets import Labels
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.storage.paths import AnyPath

_SHOWN = 3
"""Names that a message lists."""

_NO_LABEL = frozenset({"", *UNKNOWN_WORDS}) - {"none"}
"""What cells have that say nothing; `none` and -1 take a label away."""

_FLAGS = {"--label-separator": "--labels-separator", "--label-column": "--labels-column", "--none": "--labels-none"}
"""Flags of `infer` and `import` for labels, and what they are called for corrected ones."""
_ELSEWHERE = re.compile(r", or ((list such names|name all classes) with --classes|leave cells empty and .*)")
"""Advice that names flags which there are not for corrected labels."""


def read_new_labels(
    table: pa.Table, run: Run, options: LabelOptions, file: AnyPath
) -> tuple[pa.Table, Labels, tuple[str, ...]]:
    """Return the rows of a table that say a label, what they say, and what could be meant otherwise, for the user.

    An empty cell leaves the label as it is.

    Args:
        table: of a file of labels.
        run: whose labels they are.
        options: what the user says of the columns.
        file: for messages.

    Raises InputError for labels that are no classes, and if it is not certain which column they are in.
    """
    if run.task != MULTI_LABEL:
        for flag, value in (("--labels-separator", options.separator), ("--labels-none", options.none)):
            if value:
                raise InputError(f"{flag} is for several labels of an image, but the run has one: leave it out")
        name = find_label_column(table, options.column, file)
        table = _filled(table, name, file, _NO_LABEL - {name.lower() for name in run.classes})
        return table, *_read_classes(table.column(name), run.classes, f"{name!r} of {file}")
    try:
        return _read_sets(table, run, options, file)
    except InputError as error:
        text = re.sub("|".join(_FLAGS), lambda flag: _FLAGS[flag[0]], str(error))
        raise InputError(_ELSEWHERE.sub("", text)) from error


def _read_sets(
    table: pa.Table, run: Run, options: LabelOptions, file: AnyPath
) -> tuple[pa.Table, Labels, tuple[str, ...]]:
    """Do what `read_new_labels` does for several labels of an image; errors name the flags of `infer`."""
    usual = (RELABEL_COLUMN, *LABEL_COLUMNS, *TRUTH_COLUMNS)
    naming = {find_usual(table.column_names, names) for names in (IMAGE_COLUMNS, KEY_COLUMNS, ROW_COLUMNS)}
    names = [name for name in table.column_names if name not in naming]
    chosen = choose_label_columns(names, options.column, options.none, run.classes, usual, file)
    if chosen is None:
        lacking = [name for name in run.classes if name not in names]
        if len(lacking) < len(run.classes):
            raise InputError(
                f"{file} has columns of some classes, but none of {', '.join(map(repr, lacking[:_SHOWN]))}"
            )
        raise InputError(f"{file} has no column of labels; it has {', '.join(names[:12])}: name it by --label-column")
    for name in chosen.columns if chosen.names else ():
        if empty := table.num_rows - int(np.sum(_given(table.column(name)).to_numpy(zero_copy_only=False))):
            raise InputError(
                f"{file} has {plural(empty, 'empty cell')} in column {name!r}: expected 1, 0, or -1 for unknown"
            )
    if not chosen.names:
        table = _filled(table, chosen.columns[0], file)
    read = read_label_sets(table, chosen, options, run.classes, str(file))
    return table, read.labels, read.notes


def _read_classes(
    column: pa.ChunkedArray, classes: Sequence[str], what: str
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return the index of each label among the classes, -1 for one that is said to be unknown, and what is in doubt."""
    parsed = parse_labels(column, classes, what)
    index = parsed.index(classes)
    strange = Counter(
        str(value)
        for value, i in zip(parsed.values, index.tolist(), strict=True)
        if (value != -1 and i < 0) or i >= len(classes)
    )
    if strange:
        shown = ", ".join(f"{name!r} ({count:,})" for name, count in strange.most_common(_SHOWN))
        more = f" and {len(strange) - _SHOWN:,} more" if len(strange) > _SHOWN else ""
        near = did_you_mean(next(iter(strange)), classes)
        raise InputError(
            f"{strange.total():,} of {len(index):,} labels in {what} are none of the "
            f"{plural(len(classes), 'class', 'classes')}: {shown}{more}{near}"
        )
    return index, (parsed.note,) if parsed.note else ()


def _filled(table: pa.Table, name: str, file: AnyPath, words: Collection[str] = ("",)) -> pa.Table:
    """Return the rows whose cell says something. Raises InputError if none does."""
    filled = table.filter(_given(table.column(name), words))
    if not len(filled):
        raise InputError(f"{file} gives no image a label: {name!r} is empty in all of its {plural(len(table), 'row')}")
    return filled


def _given(column: pa.ChunkedArray, words: Collection[str] = ("",)) -> pa.BooleanArray:
    """Return which cells say something, other than these words in lower case."""
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pa.array(
        [value is not None and not (texts and value.strip().lower() in words) for value in column.to_pylist()],
        pa.bool_(),
    )
