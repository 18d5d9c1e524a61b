"""Reads several labels of an image from one column of a table, as sets of classes. It knows no files and no scores.

It is the one reading of label sets for the lists of `infer` and for `import`. Labels stand in one column, separated or
as lists, or in one column for each class (see `label_masks`). What could be meant in two ways is refused with the flag
that decides, and nothing is left out without a word.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard.config import EmptyCell
from predboard.errors import InputError
from predboard.formatting import did_you_mean, plural
from predboard.images.label_masks import (
    LabelSetColumns,
    MultiLabelReading,
    meaning_of_empty,
    read_columns,
    read_mask,
    some,
)
from predboard.images.label_values import (
    BLANK_WORDS,
    LabelNames,
    SeveralNames,
    find_several,
    label_text,
    parse_names,
    plain_column,
    respell,
)
from predboard.predictions.arrow import as_numpy
from predboard.predictions.label_sets import LabelSets, MultiLabels

_BITS: dict[Any, int] = {0: 0, 1: 1, -1: -1, "0": 0, "1": 1, "-1": -1, "0.0": 0, "1.0": 1, "-1.0": -1}
_BITS |= {"0.": 0, "1.": 1, "-1.": -1, "False": 0, "True": 1, "false": 0, "true": 1}
"""Values of a list that has one for each class: whether the label applies, −1 if that is unknown."""
_PRINTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_BETWEEN = re.compile(r"\s*[,;|]\s*|\s+")
_NOTHING = re.compile(r"(no|none|nothing|normal|negative|healthy|background|n/?a)\b.*", re.IGNORECASE)
"""Names that may say that no label applies."""
_SHOWN = 6
"""Names that a message lists."""


@dataclass(frozen=True)
class LabelOptions:
    """What the user says of the labels; the fields are flags."""

    column: str | None = None
    """Name of a column, a pattern such as label_*, or several names joined by commas."""
    separator: str | None = None
    empty: EmptyCell | None = None
    none: str = ""
    """Name that says that no label applies."""


@dataclass(frozen=True)
class _Lists:
    """Labels as they are written: for each row a list of places in a vocabulary."""

    start: NDArray[np.int64]
    """[rows + 1] where each row's labels start in `code`."""
    code: NDArray[np.int64]
    """[labels] place in the vocabulary, −1 for null."""
    vocabulary: list[Any]
    given: NDArray[np.bool_]
    """[rows] whether the row has a list or text at all."""

    @property
    def row(self) -> NDArray[np.int64]:
        """Row of each label, int64 [labels]."""
        return np.repeat(np.arange(len(self.given)), np.diff(self.start))


def read_label_sets(
    table: pa.Table, chosen: LabelSetColumns, options: LabelOptions, classes: Sequence[str], file: str
) -> MultiLabelReading:
    """Return the labels of each row of a table, and how they were read.

    Args:
        table: has the chosen columns.
        chosen: what `label_masks.choose_label_columns` returned for it.
        options: what the user says.
        classes: names of the classes in the order of the scores; empty if they are not known.
        file: for messages.

    Raises:
        InputError: for names that are no classes, with their counts; for empty cells whose meaning `options` does not
            say; and for what could be read in two ways.
    """
    if options.none and options.none in classes:
        raise InputError(f"--none is {options.none!r}, which is one of the classes: leave the flag out")
    if chosen.names:
        if options.separator is not None:
            raise InputError(
                f"{file} has one column for each label ({some(chosen.columns)}), which --label-separator does not "
                "apply to: leave the flag out, or name another column with --label-column"
            )
        return read_columns(table, chosen, options.empty, options.none, classes, file)
    (name,) = chosen.columns
    what = f"column {name!r} of {file}" if name else file
    column = plain_column(table.column(name))
    _check_one_column(column, name, options, classes, what)
    if not pa.types.is_nested(column.type):
        if len(classes) == 1 and options.separator is None and _has_bits(column, classes):
            return read_columns(
                table, LabelSetColumns(chosen.columns, tuple(classes)), options.empty, "", classes, file
            )
        return _read_cells(column, options, classes, what)
    return _read_lists(_arrow_lists(column, what), options, classes, what, pa.types.is_boolean(column.type.value_type))


def _has_bits(column: pa.ChunkedArray, classes: Sequence[str]) -> bool:
    """Return whether a column has 0, 1 and −1 alone, which are not all names of classes."""
    values = [value for value in column.unique().to_pylist() if value is not None and value == value and value != ""]
    names = {str(value) for value in values}
    return bool(values) and all(_bit(value) is not None for value in values) and not names <= set(classes)


def _check_one_column(
    column: pa.ChunkedArray, name: str, options: LabelOptions, classes: Sequence[str], what: str
) -> None:
    """Raise InputError for a column that cannot hold all labels of an image."""
    if name in classes:
        raise InputError(
            f"{what} is named like one of the {len(classes):,} classes; expected a column with all labels of an image, "
            "or columns for all classes: leave --label-column out, or give a pattern such as 'label_*'"
        )
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null, pa.types.is_binary)
    if options.separator is not None and not any(is_kind(column.type) for is_kind in kinds):
        kind = "lists" if pa.types.is_nested(column.type) else str(column.type)
        raise InputError(f"{what} has {kind}, which --label-separator does not apply to: leave the flag out")


# --- one column of text ---


def _read_cells(column: pa.ChunkedArray, options: LabelOptions, classes: Sequence[str], what: str) -> MultiLabelReading:
    encoded = column.combine_chunks().dictionary_encode()
    texts = [label_text(value, what) for value in encoded.dictionary.to_pylist()]
    texts = [None if text and text.lower() in BLANK_WORDS and text not in classes else text for text in texts]
    cell = as_numpy(encoded.indices, len(texts)).astype(np.int64)
    given = np.array([*(text is not None for text in texts), False])[cell]
    filled = [text for text in texts if text is not None]
    if options.separator is None and filled and all(text[0] in "[(" and text[-1] in "])" for text in filled):
        parts = [[] if text is None else _parse_printed(text) for text in texts]
        return _read_lists(_lists_of(parts, cell, given), options, classes, what, is_boolean=False)
    if options.separator is None:
        parts, how = [[] if text is None else [text] for text in texts], "one label in each row"
    else:
        mark = options.separator.strip() or None
        parts = [[] if text is None else [p for part in text.split(mark) if (p := part.strip())] for text in texts]
        how = "separated by white space" if mark is None else f"separated by {mark!r}"
    lists = _lists_of(parts, cell, given)
    _refuse_separated(lists.vocabulary, options, classes, what)
    meaning = meaning_of_empty(int((~given).sum()), len(given), options.empty, what, "row")
    return _resolve(lists, options, classes, what, ", ".join(filter(None, (how, meaning))))


def _lists_of(parts: Sequence[Sequence[str]], cell: NDArray[np.int64], given: NDArray[np.bool_]) -> _Lists:
    """Return the lists of rows whose cells have these parts, by the place of each row's text; beyond them no parts."""
    vocabulary = list(dict.fromkeys(part for of_text in parts for part in of_text))
    place = {part: i for i, part in enumerate(vocabulary)}
    sizes = np.array([*map(len, parts), 0], np.int64)
    starts = np.cumsum(sizes) - sizes
    flat = np.array([place[part] for of_text in parts for part in of_text], np.int64)
    size = sizes[cell]
    start = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    at = np.arange(start[-1]) + np.repeat(starts[cell] - start[:-1], size)
    return _Lists(start, flat[at], vocabulary, given)


def _parse_printed(text: str) -> list[str]:
    r"""Return the labels of a list or array that was printed as text, as pandas writes it into CSV.

    >>> _parse_printed("['red ant', \"bee's\"]"), _parse_printed("[0 1 0]"), _parse_printed("(red ant, bee)")
    (['red ant', "bee's"], ['0', '1', '0'], ['red ant', 'bee'])
    """
    if "'" in text or '"' in text:
        return [re.sub(r"\\(.)", r"\1", a or b).strip() for a, b in _PRINTED.findall(text)]
    inside = text.strip("[()] \n")
    return [part.strip() for part in (inside.split(",") if "," in inside else inside.split()) if part.strip()]


def _refuse_separated(texts: Sequence[str], options: LabelOptions, classes: Sequence[str], what: str) -> None:
    """Raise InputError if cells look like several labels: no separator is guessed, as names may have commas in them."""
    strange = [text for text in texts if text not in classes and text != options.none]
    names = [*classes, *filter(None, (options.none,))] if classes else texts
    several = find_several(strange, names, bool(classes), _BETWEEN if options.separator is None else None)
    if several is None and options.separator is None:
        several = next((SeveralNames(text, ()) for text in strange if _is_joined(text, names)), None)
    if several is not None:
        asked = "is not given" if options.separator is None else f"is {options.separator!r}"
        raise InputError(
            f"{what} seems to have several labels in a row ({several.label[:60]!r}), but --label-separator {asked}: "
            f"--label-separator {_mark_in(several.label)!r} splits them, or list such names with --classes"
        )


def _is_joined(text: str, names: Collection[str]) -> bool:
    """Return whether a text has a mark that names do not have, or commas between what are names at least in part."""
    parts = text.split(",")
    return bool(re.search("[|;]", text)) or (len(parts) > 1 and any(part.strip() in names for part in parts))


def _mark_in(label: str) -> str:
    """Return what separates the names in a label."""
    return next((mark for mark in "|;," if mark in label), " ")


# --- lists ---


def _arrow_lists(column: pa.ChunkedArray, what: str) -> _Lists:
    lists = column.combine_chunks()
    if pa.types.is_struct(lists.type) or pa.types.is_map(lists.type) or pa.types.is_nested(lists.type.value_type):
        raise InputError(f"{what} has {lists.type}; expected lists of names, of indices, or of 0 and 1 for each class")
    given = np.array(lists.is_valid())
    size = np.where(given, as_numpy(pc.list_value_length(lists), 0), 0)
    encoded = plain_column(pa.chunked_array([lists.flatten()])).combine_chunks().dictionary_encode()
    vocabulary = encoded.dictionary.to_pylist()
    null = np.array([*(value != value for value in vocabulary), True])
    code = as_numpy(encoded.indices, len(vocabulary)).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return _Lists(start, np.where(null[code], -1, code), vocabulary, given)


def _read_lists(
    lists: _Lists, options: LabelOptions, classes: Sequence[str], what: str, is_boolean: bool
) -> MultiLabelReading:
    """Read lists of names, of indices, or of 0 and 1 for each class; a row without one is unlabelled unless absent."""
    if (bits := _as_bits(lists, classes, what, is_boolean)) is not None:
        return read_mask(bits, options.empty, classes, what)
    if nulls := int((lists.code < 0).sum()):
        row = int(lists.row[int(np.argmax(lists.code < 0))])
        raise InputError(f"{what} has {plural(nulls, 'label')} null in lists, the first in row {row}: leave them out")
    missing = int((~lists.given).sum())
    words = f"{plural(missing, 'row')} without a list as {'no label' if options.empty == 'absent' else 'unlabelled'}"
    return _resolve(lists, options, classes, what, f"lists, {words}" if missing else "lists")


def _as_bits(lists: _Lists, classes: Sequence[str], what: str, is_boolean: bool) -> NDArray[np.float64] | None:
    """Return lists of 0 and 1 for each class, float64 [rows, classes] with NaN for null; None for lists of labels.

    Raises InputError if they could be either.
    """
    bit = list(map(_bit, lists.vocabulary))
    code, row = lists.code, lists.row
    is_used = np.bincount(code[code >= 0], minlength=len(bit)) > 0
    if not len(code) or None in itertools.compress(bit, is_used):
        return None
    sizes = np.unique(np.diff(lists.start)[lists.given])
    width = int(sizes[-1])
    texts = {str(value) for value in lists.vocabulary}
    if texts & {*classes} and (len(sizes) > 1 or width != len(classes) or (width == 1 and texts <= {*classes})):
        return None  # 0 and 1 are names of classes
    pairs = np.sort(row * (len(bit) + 1) + code + 1)
    certain = is_boolean or bool((pairs[1:] == pairs[:-1]).any()) or -1 in bit or bool((code < 0).any())
    if certain and (len(sizes) > 1 or len(classes) not in (0, width)):
        expected = plural(len(classes), "value") if classes else "as many in each row"
        raise InputError(
            f"{what} has lists of 0 and 1 with {_range(sizes)} values; expected {expected}, one for each class"
        )
    if not certain and len(classes) == 1:
        certain = len(sizes) == 1 and width == 1
    if not certain and len(sizes) == 1 and width > 1 and len(classes) in (0, width):
        raise InputError(
            f"{what} has {width} numbers in each row that could be indices, or 0 and 1 for each class: write true and "
            "false for each class, or the names of the labels"
        )
    if not certain:
        return None
    bits = np.full((len(lists.given), width), np.nan)
    bits[lists.given] = np.array([*bit, np.nan], np.float64)[code].reshape(-1, width)
    return bits


def _bit(value: Any) -> int | None:
    """Return 1, 0 or −1 for what a cell or a list has for a class; None if that is something else."""
    return _BITS.get(value if isinstance(value, bool | int | float) else str(value))


def _range(sizes: NDArray[np.int64]) -> str:
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


# --- names and indices ---


def _resolve(lists: _Lists, options: LabelOptions, classes: Sequence[str], what: str, how: str) -> MultiLabelReading:
    """Return the classes that labels name or number; rows that are not given are unlabelled unless --empty absent."""
    vocabulary = [label_text(value, what) or "" for value in lists.vocabulary]
    counts: dict[str, int] = dict.fromkeys(vocabulary, 0)
    for text, count in zip(vocabulary, np.bincount(lists.code, minlength=len(vocabulary)).tolist(), strict=True):
        counts[text] += count
    empty_names = counts.pop("", 0)
    counts.pop(options.none, None)
    parsed = parse_names(set(counts), classes, what)
    spelled, respelled = respell(list(parsed.values.values()), classes)
    note = "; ".join(filter(None, (parsed.note, respelled)))
    parsed = replace(parsed, values=dict(zip(parsed.values, spelled, strict=True)), note=note)
    names = tuple(classes) or tuple(sorted({value for value in parsed.values.values() if isinstance(value, str)}))
    place: dict[int | str, int] = {name: i for i, name in enumerate(names)}
    index = {text: place.get(value, -1) if isinstance(value, str) else value for text, value in parsed.values.items()}
    if strange := [
        text for text in counts if text not in index or (isinstance(parsed.values[text], str) and index[text] < 0)
    ]:
        raise _strange({text: counts[text] for text in strange}, options, classes, what)
    _check_indices(lists, [index.get(text, 0) for text in vocabulary], classes, what)

    is_none = np.array([bool(text) and text == options.none for text in vocabulary], bool)[lists.code]
    applies = np.array([text in index for text in vocabulary], bool)[lists.code]
    of_code = np.array([index.get(text, -1) for text in vocabulary], np.int64)
    row = lists.row
    sets = LabelSets.from_pairs(row[applies], of_code[lists.code[applies]], len(lists.given))
    none_rows = np.unique(row[is_none])
    if parsed.reading:
        how = f"{how}, {parsed.reading}"
    if options.none:
        how = f"{how}, {options.none!r} as no label ({plural(len(none_rows), 'image')})"
    notes = [*_notes(lists, options, parsed, sets, none_rows, what)]
    if twice := int(applies.sum()) - len(sets.label):
        notes.append(f"{what} has {plural(twice, 'label')} twice in a row; each counts once")
    if empty_names:
        notes.append(f"{what} has {plural(empty_names, 'empty name')} in its lists, which count as no label")
    if not classes and not options.none:
        notes += _doubt_nothing(names, sets)
    labelled = np.ones(len(lists.given), bool) if options.empty == "absent" else lists.given
    labels = MultiLabels(sets, LabelSets.empty(len(lists.given)), labelled)
    return MultiLabelReading(labels, names, how, tuple(notes), is_sorted=bool(names) and not classes)


def _notes(
    lists: _Lists, options: LabelOptions, parsed: LabelNames, sets: LabelSets, none_rows: NDArray[np.int64], what: str
) -> Iterator[str]:
    if parsed.note:
        yield parsed.note
    if beside := int((sets.size[none_rows] > 0).sum()):
        has = "has" if beside == 1 else "have"
        yield f"{plural(beside, 'row')} of {what} {has} {options.none!r} beside other labels, which are kept"
    if options.none and not len(none_rows):
        near = did_you_mean(options.none, [str(value) for value in lists.vocabulary])
        yield f"no row of {what} has {options.none!r}, which --none names{near}"


def _doubt_nothing(names: Sequence[str], sets: LabelSets) -> Iterator[str]:
    """Note a class that is always alone and may mean that no label applies; the labels alone name the classes."""
    beside = set(sets.label[sets.size[sets.row] > 1].tolist())
    for i, name in enumerate(names):
        if _NOTHING.fullmatch(name) and i not in beside:
            yield f"{name!r} counts as a class and is always alone: --none {name!r} says that it means no label"


def _strange(counts: dict[str, int], options: LabelOptions, classes: Sequence[str], what: str) -> InputError:
    """Return the error of names that are no classes, with their counts and what may be meant."""
    ordered = sorted(counts, key=lambda text: (-counts[text], text))
    shown = ", ".join(f"{text[:60]!r} ({counts[text]:,})" for text in ordered[:_SHOWN])
    whole = [name for name in classes if options.separator is not None and options.separator in name]
    hints = [f"the class {whole[0]!r} has the separator in its name"] if whole else []
    near = [(text, did_you_mean(text, classes, 0.6)) for text in ordered[:3] if not whole]
    hints += [f"{text[:60]!r}: {meant[2:]}" for text, meant in near if meant]
    hints += [f"--none {text!r} says that it means no label" for text in ordered if _NOTHING.fullmatch(text)][:1]
    if several := find_several(ordered, classes, bool(classes)):
        hints.append(f"--label-separator {_mark_in(several.label)!r} splits {several.label[:60]!r}")
    total = sum(counts.values())
    return InputError(
        f"{what} has {plural(total, 'label')} that {'is' if total == 1 else 'are'} no class: {shown}"
        f"{' …' if len(ordered) > _SHOWN else ''}; expected {some(classes)}; "
        f"{'; '.join([*hints, 'else correct them, or name all classes with --classes'])}"
    )


def _check_indices(lists: _Lists, index: Sequence[int], classes: Sequence[str], what: str) -> None:
    """Raise InputError for an index that is negative or beyond the classes, with its row."""
    bad = np.array([i < 0 or (bool(classes) and i >= len(classes)) for i in index], bool)[lists.code]
    if not bad.any():
        return
    value = index[int(lists.code[int(bad.argmax())])]
    expected = f"0 to {len(classes) - 1}" if classes else "indices from 0"
    why = (
        "leave unknown labels out of a list" if value < 0 else "do the labels count from 1, or belong to other classes?"
    )
    raise InputError(f"{what} has label {value} in row {lists.row[int(bad.argmax())]}; expected {expected}: {why}")
