"""Reads labels that are given class by class: a column of 0 and 1 for each, or an array. It knows no files.

1 is a label that applies, 0 one that does not, −1 one of which that is not known. An empty cell is read as the user
says: the same file is taken both ways, and the figures differ.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.config import EmptyCell
from predboard.errors import InputError
from predboard.formatting import did_you_mean, plural
from predboard.images.label_values import BLANK_WORDS, numbers_of, plain_column
from predboard.predictions.arrow import as_numpy
from predboard.predictions.label_sets import LabelSets, MultiLabels

_BLANK = 2
"""Stands for an empty cell beside 1, 0 and −1."""
_WORDS: Mapping[str, int] = {"true": 1, "yes": 1, "y": 1, "t": 1, "false": 0, "no": 0, "n": 0, "f": 0}
_NUMBER = re.compile(r"([+-]?\d{1,9})(?:\.0*)?")
_SHOWN = 6
_MIN_SIGNED = 20
"""Where so many rows have 1 and −1 but no 0, −1 is taken to mean that a label does not apply."""


@dataclass(frozen=True)
class LabelSetColumns:
    """The columns that hold the labels of an image."""

    columns: tuple[str, ...]
    names: tuple[str, ...] = ()
    """The class that each column is for; empty where one column has all labels."""


@dataclass(frozen=True)
class MultiLabelReading:
    """The labels of some rows, and how they were read."""

    labels: MultiLabels
    classes: tuple[str, ...]
    """Class names in the order of the labels; empty if labels are indices and nothing names them."""
    reading: str
    """How the labels are written, in words."""
    notes: tuple[str, ...] = ()
    """Lines for the user where something could be meant in another way."""
    is_sorted: bool = False
    """Whether the classes are the labels' names in alphabetical order, because nothing else names them."""

    @property
    def words(self) -> str:
        """Say how labels were read, and what came of it."""
        return ", ".join(filter(None, (self.reading, count_labels(self.labels))))


def count_labels(labels: MultiLabels) -> str:
    """Count labels, images without any, and what is not known.

    >>> sets = LabelSets.from_lists([[0, 2], [], []])
    >>> count_labels(MultiLabels(sets, LabelSets.empty(3), np.array([True, True, False])))
    '2 labels in 2 images, 1 of them with none, 1 image unlabelled'
    """
    labelled = int(labels.labelled.sum())
    counts = [f"{plural(len(labels.labels.label), 'label')} in {plural(labelled, 'image')}"]
    if none := int((labels.labelled & (labels.labels.size == 0)).sum()):
        counts.append(f"{none:,} of them with none")
    if unknown := len(labels.unknown.label):
        counts.append(f"{plural(unknown, 'label')} unknown")
    if missing := len(labels) - labelled:
        counts.append(f"{plural(missing, 'image')} unlabelled")
    return ", ".join(counts)


def meaning_of_empty(count: int, cells: int, empty: EmptyCell | None, what: str, unit: str = "cell") -> str:
    """Say what empty cells mean. Raises InputError if there are some and the user does not say it.

    Args:
        count: empty cells.
        cells: all cells.
        empty: what the user says.
        what: the column or file, for the message.
        unit: what is empty: a cell, or a row.
    """
    if not count:
        return ""
    if empty is None:
        none = "the image has no label" if unit == "row" else "the label does not apply"
        raise InputError(
            f"{what} has {plural(count, f'empty {unit}')} of {cells:,}, which can mean that {none}, or that it is not "
            "known: give --empty absent or --empty unknown"
        )
    return f"{plural(count, f'empty {unit}')} as {empty}"


# --- which columns ---


def choose_label_columns(
    names: Sequence[str],
    asked: str | None,
    none: str,
    classes: Sequence[str],
    usual: Sequence[str],
    file: object,
) -> LabelSetColumns | None:
    """Return the column that has all labels, or the columns that have one each; None if none is named so.

    Args:
        names: all columns that may be labels.
        asked: value of --label-column: a name, a pattern such as label_*, or names joined by commas.
        none: name that says that no label applies, which may be a column's.
        classes: names of the classes, which columns may have; empty if they are not known.
        usual: names of a column of labels; where each label has a column, a word such as label may begin its name.
        file: for messages.

    Raises InputError if there is no such column.

    >>> choose_label_columns(["label_cat", "label_ant", "x"], "label_*", "", (), (), "a.csv")
    LabelSetColumns(columns=('label_cat', 'label_ant'), names=('cat', 'ant'))
    """
    more = (none,) if none in names and none not in classes else ()
    if asked is not None and asked not in names:
        before, star, after = asked.partition("*")
        like = re.compile(f"{re.escape(before)}(.+){re.escape(after)}", re.DOTALL)
        parts = [part.strip() for part in asked.split(",")]
        if star and (ends := {name: match[1] for name in names if (match := like.fullmatch(name))}):
            return _ordered(ends, classes)
        if len(parts) > 1 and set(parts) <= set(names):
            return _ordered({part: part for part in (*parts, *more)}, classes)
        what = f"column like {asked!r}" if star else f"column {asked!r}"
        near = did_you_mean(asked, names)
        raise InputError(f"{file} has no {what}; it has {some(names)}: see --label-column{near}")
    if asked is not None:
        return LabelSetColumns((asked,))
    if classes and set(classes) <= set(names):
        return LabelSetColumns((*classes, *more), (*classes, *more))
    for word in usual if len(classes) > 1 else ():
        begins = re.compile(rf"{re.escape(word)}[_.\- ](.+)", re.IGNORECASE)
        ends = {name: match[1] for name in names if (match := begins.fullmatch(name))}
        if set(classes) <= set(ends.values()):
            return _ordered({name: end for name, end in ends.items() if end in (*classes, none)}, classes)
    plain = {re.sub(r"[\W_]+", "", name.casefold()): name for name in reversed(names)}
    named = [plain[word] for name in usual if (word := re.sub(r"[\W_]+", "", name.casefold())) in plain]
    return LabelSetColumns((named[0],)) if named else None


def _ordered(ends: Mapping[str, str], classes: Sequence[str]) -> LabelSetColumns:
    """Return columns by what each is for, in the order of their numbers where they are numbered."""
    numbers = numbers_of(list(ends.values())) if not classes else []
    order = [name for _, name in sorted(zip(numbers, ends, strict=True))] if numbers else list(ends)
    return LabelSetColumns(tuple(order), tuple(ends[name] for name in order))


# --- reading ---


def read_columns(
    table: pa.Table,
    chosen: LabelSetColumns,
    empty: EmptyCell | None,
    none: str,
    classes: Sequence[str],
    file: str,
) -> MultiLabelReading:
    """Return the labels of columns that have one each.

    A row that is empty in all of them is unlabelled, unless empty cells are absent or the column of `none` has a 1.

    Args:
        table: with the chosen columns.
        chosen: the columns, and the class that each is for.
        empty: what an empty cell means.
        none: name of the column that says that no label applies, which is no class.
        classes: names of the classes in the order of the scores; empty if they are not known.
        file: for messages.

    Raises:
        InputError: for other values than 0, 1, −1 and nothing, for columns that are no class or lack one, and for empty
            cells whose meaning is not given.
    """
    column_of = dict(zip(chosen.names, chosen.columns, strict=True))
    says_none = column_of.pop(none, None)
    names = tuple(classes) or tuple(column_of)
    _check_names(column_of, names, "" if says_none else none, file)

    def values(name: str) -> NDArray[np.int8]:
        return _read_column(table.column(name), f"column {name!r} of {file}")

    is_none = values(says_none) == 1 if says_none else np.zeros(len(table), bool)
    reading = _read_each([column_of[name] for name in names], values, len(table), empty, is_none, file)
    how = f"{plural(len(names), 'column')} of 0 and 1 ({some([column_of[name] for name in names])})"
    notes = list(reading.notes)
    if says_none:
        how += f", {says_none!r} as no label ({plural(int(is_none.sum()), 'image')})"
        if beside := int((is_none & (reading.labels.labels.size > 0)).sum()):
            verb = "has" if beside == 1 else "have"
            notes.append(f"{plural(beside, 'row')} of {file} {verb} {says_none!r} beside other labels, which are kept")
    words = ", ".join(filter(None, (how, reading.reading)))
    return MultiLabelReading(reading.labels, names, words, tuple(notes))


def read_mask(array: NDArray[Any], empty: EmptyCell | None, classes: Sequence[str], what: str) -> MultiLabelReading:
    """Return the labels of an array with 1, 0 or −1 for each class, [rows, classes]; NaN is an empty cell.

    Raises InputError for other values, for another number of columns than of classes, and for NaN whose meaning is not
    given.
    """
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        shape = "×".join(map(str, array.shape))
        raise InputError(f"{what} is {array.dtype} of shape {shape}; expected 0, 1 or −1, [rows, classes]")
    rows, width = array.shape
    if classes and width != len(classes):
        raise InputError(
            f"{what} has {width:,} values in each row and there are {len(classes):,} classes; expected as many"
        )

    def values(column: str) -> NDArray[np.int8]:
        return _as_marks(array[:, int(column)], f"{what}, column {column},")

    reading = _read_each(list(map(str, range(width))), values, rows, empty, np.zeros(rows, bool), what)
    how = "0 and 1 for each class"
    words = ", ".join(filter(None, (how, reading.reading)))
    return MultiLabelReading(reading.labels, tuple(classes), words, reading.notes)


def _read_each(
    columns: Sequence[str],
    values: Callable[[str], NDArray[np.int8]],
    rows: int,
    empty: EmptyCell | None,
    is_none: NDArray[np.bool_],
    what: str,
) -> MultiLabelReading:
    """Return the labels of columns that are read one at a time; `is_none` [rows] tells where none applies."""
    label_rows, unknown_rows = [], []
    blanks, signs = np.zeros(rows, np.int64), set[int]()
    for name in columns:
        marks = values(name)
        signs |= set(np.unique(marks).tolist())
        blank = (marks == _BLANK) & ~is_none
        blanks += blank
        label_rows.append(np.flatnonzero(marks == 1))
        unknown_rows.append(np.flatnonzero((marks == -1) | (blank & (empty == "unknown"))))
    if {-1, 1} <= signs and 0 not in signs:
        refuse_signed(rows, what)
    is_blank = (blanks == len(columns)) & (len(columns) > 0)
    # A row without any value is unlabelled unless the user says otherwise, which needs no word.
    meaning = meaning_of_empty(int(blanks[~is_blank].sum()), rows * len(columns), empty, what)
    labels, unknown = _sets(label_rows, rows), _sets(unknown_rows, rows)
    labelled = ~is_blank | (empty == "absent")
    words = [meaning]
    if count := int(is_blank.sum()):
        words.append(f"{plural(count, 'row')} without any value as {'no label' if empty == 'absent' else 'unlabelled'}")
    read = MultiLabels(labels, unknown, labelled).settled(len(columns))
    return MultiLabelReading(read, (), ", ".join(filter(None, words)))


def refuse_signed(rows: int, what: str) -> None:
    """Raise InputError for rows, unless they are few, in which some labels are 1, others −1, and none 0."""
    if rows >= _MIN_SIGNED:
        raise InputError(
            f"{what} has 1 and −1 for each class and no 0, but −1 is for a label that is not known: write 0 where one "
            "does not apply, or leave cells empty and give --empty unknown if no label is known not to apply"
        )


def _sets(rows_of: Sequence[NDArray[np.int64]], rows: int) -> LabelSets:
    """Return the sets of labels, from the rows that have each label."""
    label = np.repeat(np.arange(len(rows_of)), [len(of_label) for of_label in rows_of])
    row = np.concatenate([np.zeros(0, np.int64), *rows_of])
    order = np.argsort(row, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)
    return LabelSets(start, label[order].astype(np.int64))


def _check_names(column_of: Mapping[str, str], names: Sequence[str], none: str, file: str) -> None:
    """Raise InputError if columns are for something that is no class, or a class has no column."""
    if none:
        near = did_you_mean(none, list(column_of))
        raise InputError(f"{file} has no column of labels for --none {none!r}; it has {some(list(column_of))}{near}")
    if strange := [name for name in column_of if name not in set(names)]:
        near = did_you_mean(strange[0], [name for name in names if name not in column_of], 0.6)
        remedy = (
            f"--none {strange[0]!r} if it says that no label applies, else name the columns with --label-column A,B,C"
        )
        raise InputError(
            f"{file} has {plural(len(strange), 'column')} of labels for no class ({some(strange)}); expected "
            f"{some(names)}{near}: {'name columns and classes alike' if near else remedy}"
        )
    if missing := [name for name in names if name not in column_of]:
        near = did_you_mean(missing[0], list(column_of), 0.6)
        raise InputError(
            f"{file} has no column of labels for {plural(len(missing), 'class', 'classes')} ({some(missing)}){near}"
        )


def _read_column(column: pa.ChunkedArray, what: str) -> NDArray[np.int8]:
    """Return 1, 0, −1 or `_BLANK` for each cell of a column, int8 [rows]."""
    column = plain_column(column)
    type_ = column.type
    if pa.types.is_null(type_):
        return np.full(len(column), _BLANK, np.int8)
    if pa.types.is_boolean(type_):
        column = column.cast(pa.int8())
    elif pa.types.is_nested(type_) or pa.types.is_temporal(type_):
        raise InputError(f"{what} has {type_}; expected 0, 1 or −1 in each row")
    encoded = column.combine_chunks().dictionary_encode()
    marks = [_mark(value, what) for value in encoded.dictionary.to_pylist()]
    return np.asarray(np.array([*marks, _BLANK], np.int8)[as_numpy(encoded.indices, -1)])


def _mark(value: Any, what: str) -> int:
    """Return 1, 0, −1 or `_BLANK` for a value. Raises InputError for any other."""
    number: Any = value
    if isinstance(value, bytes | str):
        text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value).strip().lower()
        if not text or text in BLANK_WORDS:
            return _BLANK
        match = _NUMBER.fullmatch(text)
        number = int(match[1]) if match else _WORDS.get(text)
    elif value is None or value != value:
        return _BLANK
    if isinstance(number, int | float | Decimal) and number in (-1, 0, 1):
        return int(number)
    raise _no_mark(what, value)


def _no_mark(what: str, value: Any) -> InputError:
    return InputError(
        f"{what} has {str(value)[:60]!r}; expected 1, 0, −1 for an unknown label, or nothing: degrees of a label are "
        "not read"
    )


def _as_marks(values: NDArray[Any], what: str) -> NDArray[np.int8]:
    """Return 1, 0, −1 or `_BLANK` for each value of an array, int8 [rows]. Raises InputError for any other."""
    blank = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    good = blank | (values == 0) | (values == 1)
    if values.dtype.kind in "if":
        good |= values == -1
    if not good.all():
        raise _no_mark(what, values[int(np.argmin(good))])
    marks = np.full(len(values), _BLANK, np.int8)
    marks[~blank] = values[~blank]
    return marks


def some(names: Sequence[str]) -> str:
    """Return the first names, for a message."""
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
