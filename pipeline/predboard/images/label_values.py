"""Reads the labels of a column as names of classes or as indices. It knows no files, no scores and no pixels.

It is the one reading of labels for the lists of `infer` and for `import`: the distinct values are read, and each row
gets what its value became.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.predictions.arrow import without_views

RawLabels = list[int | str]
"""[rows] labels as they are given: an index, -1 if unknown, or a name."""

_WHOLE = re.compile(r"([+-]?\d{1,20})(?:\.0*)?")
_FRACTION = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")
_ZERO_PADDED = re.compile(r"0\d+")
UNKNOWN_WORDS = frozenset({"nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "none"})
"""Words for a missing number in text, in lower case."""
BLANK_WORDS = frozenset({"nan", "<na>"})
"""Those of them that no class is called, in lower case."""
_ANSWERS = {"false": 0, "true": 1, "no": 0, "yes": 1}
_BETWEEN = re.compile(r"\s*[,;|]\s*")
_EXAMPLES = 3
_HIGHEST = 2**31 - 1
"""The highest index, which stands for those above it as well, that no class has."""
_NUMBER = re.compile(r"([0-9]{1,18})")
_MANY_UNKNOWN = 4
"""Where one of so many labels is negative, that may mean a class."""


@dataclass(frozen=True)
class ParsedLabels:
    """Labels, and how they were read."""

    values: RawLabels
    reading: str = ""
    """Reading of labels that are no plain names: `indices from 0`, for example."""
    note: str = ""
    """One line for the user where labels could be read in another way; empty if there is only one."""
    names: tuple[str, ...] = ()
    """Names of the classes 0 and 1 where the labels are true and false, or yes and no."""
    from_minus_1: bool = False
    """Whether the labels are the whole numbers from −1 on, which may be the first class."""

    def index(self, classes: Sequence[str]) -> NDArray[np.int32]:
        """Return the index of each label among the classes, int32 [rows]; -1 if it is unknown."""
        place = {name: i for i, name in enumerate(classes)}
        index = [place.get(v, -1) if isinstance(v, str) else v for v in self.values]
        return np.array([min(max(i, -1), _HIGHEST) for i in index], np.int32)

    @property
    def distinct_names(self) -> tuple[str, ...]:
        """The names among the labels, sorted."""
        return tuple(sorted({value for value in self.values if isinstance(value, str)}))


def parse_labels(column: pa.ChunkedArray, classes: Sequence[str], what: str) -> ParsedLabels:
    """Read the labels of a column as names of classes if all of them are, else as indices if all are whole numbers.

    Numbers that are padded with zeros are names where the classes are not known. Rows of a one-hot list are indices.

    Args:
        column: text, bytes, numbers, booleans, decimals or lists of one of them, dictionary-encoded or not.
        classes: names of the classes in the order of the scores; empty if they are not known.
        what: the column, for a message.

    Raises:
        InputError: if a label is neither text nor a whole number, or a row has several labels.

    >>> parse_labels(pa.chunked_array([[1, 2, 5, None]]), ("1", "2", "5"), "y").values
    ['1', '2', '5', -1]
    >>> parse_labels(pa.chunked_array([["0", "2.0", "NaN"]]), (), "y").values
    [0, 2, -1]
    """
    column = plain_column(column)
    if pa.types.is_nested(column.type):
        return _parse_lists(column.to_pylist(), classes, what)
    encoded = column.combine_chunks().dictionary_encode()
    distinct, codes = encoded.dictionary.to_pylist(), encoded.indices.to_pylist()
    texts = [label_text(value, what) for value in distinct]
    if (given := [t for t in texts if t is not None]) and all(t[0] in "[(" and t[-1] in "])" for t in given):
        lists = [None if text is None else re.findall(r"[^][()\s,'\"]+", text) for text in texts]
        return _parse_lists([None if code is None else lists[code] for code in codes], classes, what)
    known = {text for text in texts if text is not None}
    if not known <= set(classes):
        known = {text for text in known if text in classes or text.lower() not in BLANK_WORDS}
    of_text = parse_names(known, classes, what, one=True)
    of_code = [of_text.values.get(text, -1) if text is not None else -1 for text in texts]
    values = [-1 if code is None else of_code[code] for code in codes]
    note = of_text.note or _note_negative(texts, codes, of_text.values, classes, what)
    numbers = set(of_text.values.values())
    from_minus_1 = numbers == set(range(-1, len(numbers) - 1))
    if from_minus_1 and classes:
        refuse_from_minus_1(len(numbers) - 1, len(classes), what)
    return ParsedLabels(values, of_text.reading, note, of_text.names, from_minus_1)


def refuse_from_minus_1(indices: int, classes: int, what: str) -> None:
    """Raise InputError for labels −1, 0, … of which so many are indices, if with −1 they are as many as the classes."""
    if indices + 1 == classes > 2:
        raise InputError(
            f"labels of {what} are −1 to {classes - 2}, of {classes} classes: do they count from −1? Add 1 to each, "
            "and leave labels that are not known empty"
        )


def _note_negative(
    texts: Sequence[str | None],
    codes: Sequence[int | None],
    of_text: dict[str, int | str],
    classes: Sequence[str],
    what: str,
) -> str:
    """Return a note if negative labels count as unknown and may be a class by their share or by the other labels."""
    below = {text for text, value in of_text.items() if isinstance(value, int) and value < 0}
    negative = {i for i, text in enumerate(texts) if text in below}
    given = [code for code in codes if code is not None and texts[code] in of_text]
    count = sum(code in negative for code in given)
    if not count or (_MANY_UNKNOWN * count < len(given) and len(of_text) != len(classes)):
        return ""
    return (
        f"{count:,} of {len(given):,} labels of {what} are {_some(below)} and count as unknown: if that is a class, "
        "list the classes as the labels write them with --classes"
    )


def numbers_of(names: Sequence[str]) -> list[int]:
    """Return the numbers of names that differ in one number alone, as `class_1` and `class_10`; [] for others.

    >>> numbers_of(["class_10", "class_9"]), numbers_of(["p[1]", "p[01]"]), numbers_of(["cat", "class_9"])
    ([10, 9], [], [])
    """
    pieces = [_NUMBER.split(name) for name in names]
    if len(set(map(len, pieces))) != 1:
        return []
    differing = [i for i, column in enumerate(zip(*pieces, strict=True)) if len(set(column)) > 1]
    numbers = [int(piece[i]) for piece in pieces for i in differing if i % 2]  # every second piece is a number
    return numbers if len(differing) == 1 and len(set(numbers)) == len(names) else []


def check_labels(label: Sequence[int] | NDArray[np.integer[Any]], classes: int, where: Callable[[int], str]) -> None:
    """Raise InputError if an index is beyond the classes. `where` names a row: "row 3 of y.csv has"."""
    row = int(np.argmax(label)) if len(label) else 0
    if len(label) and (highest := label[row]) >= classes == 1:
        raise InputError(
            f"{where(row)} label {highest}, but there is one class: name it with --classes FILE if 0 and 1 say whether "
            "it applies"
        )
    if len(label) and highest >= classes:
        raise InputError(
            f"{where(row)} label {highest}, but there are {classes:,} classes, 0 to {classes - 1}: do the labels count "
            "from 1, or belong to other classes?"
        )


def describe_strange(values: RawLabels, classes: Sequence[str], source: str) -> tuple[str, bool]:
    """Describe names that are not among the classes: a sentence, empty if all are, and whether any label fits."""
    strange = {value for value in values if isinstance(value, str)}.difference(classes)
    if not strange:
        return "", True
    count = sum(value in strange for value in values)
    fits = count < sum(value != -1 for value in values)
    hint = f"; {alike}" if (alike := describe_alike(strange, classes)) else ""
    if not fits:
        return f"none of the labels ({_some(strange)}) in {source} is among the classes ({_some(classes)}){hint}", False
    are, they = ("is", "it counts") if count == 1 else ("are", "they count")
    some = f"{count:,} {'label' if count == 1 else 'labels'} in {source} {are} not among the classes ({_some(strange)})"
    return f"{some}; {they} as unknown{hint}", True


def respell(values: RawLabels, classes: Sequence[str]) -> tuple[RawLabels, str]:
    """Return labels with names as the classes spell them, and a note of those that were spelled otherwise.

    A name is a class if they differ in case, spaces, punctuation or zeros only, and no other label and no other class
    does: `red ant` is `red_ant` where no label is called `red_ant`.

    >>> respell(["red ant", "bee", -1], ["red_ant", "bee"])[0], respell(["A", "a"], ["A"])
    (['red_ant', 'bee', -1], (['A', 'a'], ''))
    """
    given = {value for value in values if isinstance(value, str)}
    strange, free = given.difference(classes), set(classes) - given
    if not strange or not free:
        return values, ""
    count = Counter(_spelling(name) for names in (given, set(classes) - given) for name in names)
    by_spelling = {_spelling(name): name for name in free}
    meant = {n: by_spelling[s] for n in sorted(strange) if (s := _spelling(n)) in by_spelling and count[s] == 2}
    if not meant:
        return values, ""
    pairs = [f"{name} as {known}" for name, known in meant.items()]
    note = f"labels are read as the class that is spelled alike: {', '.join(pairs[:_EXAMPLES])}"
    return [meant.get(value, value) if isinstance(value, str) else value for value in values], note


def describe_alike(names: Iterable[str], others: Iterable[str]) -> str:
    """Name pairs that are the same but for their spelling; empty if there are none.

    >>> describe_alike(["Red-Ant", "bee", "01"], ["red ant", "1"])
    '01 and 1, Red-Ant and red ant differ in case, spaces, punctuation or zeros only'
    """
    alike = {_spelling(name): name for name in others}
    pairs = [f"{name} and {alike[_spelling(name)]}" for name in sorted(names) if _spelling(name) in alike]
    return f"{', '.join(pairs[:_EXAMPLES])} differ in case, spaces, punctuation or zeros only" if pairs else ""


def _spelling(name: str) -> str:
    plain = re.sub(r"[\W_]+", "", name.casefold())
    return plain.lstrip("0") or "0" if plain.isdigit() else plain


@dataclass(frozen=True)
class LabelNames:
    """Distinct labels as they are written, and what each is: an index, or the name of a class."""

    values: dict[str, int | str]
    reading: str = ""
    note: str = ""
    names: tuple[str, ...] = ()


def parse_names(labels: set[str], classes: Sequence[str], what: str, one: bool = False) -> LabelNames:
    """Read distinct labels as names of classes if all of them are, else as indices if all are whole numbers.

    Args:
        labels: as they are written.
        classes: names of the classes; empty if they are not known.
        what: the column, for a message.
        one: whether they are all labels of rows that have one each, which may be yes and no, or −1 and 1.
    """
    as_names: dict[str, int | str] = {label: label for label in labels}
    numbers = {label for label in labels if label.lower() not in UNKNOWN_WORDS}
    are_whole = all(map(_WHOLE.fullmatch, numbers))
    if labels <= set(classes):
        reading = "class names, not indices" if numbers and are_whole and not _is_identity(classes) else ""
        return LabelNames(as_names, reading, _both_fit(labels, classes, what))
    whole = {label: int(m[1]) for label in numbers if (m := _WHOLE.fullmatch(label))}
    name_of = dict(zip(numbers_of(classes), classes, strict=False))
    known = sorted(i for i in whole.values() if i >= 0)
    if are_whole and known and list(name_of) != list(range(len(classes))) and name_of.keys() >= set(known):
        reading = f"the numbers of the classes, {known[0]} for {name_of[known[0]]}"
        of_number = {label: name_of.get(i, -1) for label, i in whole.items()}
        return LabelNames(of_number, reading, _both_fit({str(i) for i in known}, classes, what))
    if one and set(whole.values()) == {-1, 1} and are_whole and len(classes) in (0, 2):
        names = (next(n for n in numbers if whole[n] < 0), next(n for n in sorted(numbers) if whole[n] > 0))
        return _of_two({label: int(i > 0) for label, i in whole.items()}, names, classes, what)
    if are_whole and (classes or not any(map(_ZERO_PADDED.fullmatch, numbers))):
        mixed = numbers & set(classes)
        note = (
            f"labels of {what} are read as indices from 0, because not all of them are class names "
            f"({_some(numbers - mixed)})"
        )
        reading = "indices from 0" if numbers else ""
        reading += ", negative ones as unknown" if any(i < 0 for i in whole.values()) else ""
        return LabelNames({**whole}, reading, note if mixed and not _is_identity(classes) else "")
    if not are_whole and all(_WHOLE.fullmatch(n) or _FRACTION.fullmatch(n) for n in numbers):
        raise _neither(what, next(n for n in sorted(numbers) if not _WHOLE.fullmatch(n)))
    if not one:
        return LabelNames(as_names)
    answers = {label: _ANSWERS[label.lower()] for label in numbers if label.lower() in _ANSWERS}
    if len(answers) == len(numbers) and not labels & set(classes):
        no, yes = (next((text for text in sorted(answers) if answers[text] == i), "") for i in (0, 1))
        return _of_two(answers, (no, yes), classes, what)
    if several := find_several(labels - set(classes), classes or labels, bool(classes)):
        raise _several(what, f"{several.label!r} are {', '.join(several.parts[:_EXAMPLES])}")
    return LabelNames(as_names)


def _of_two(index: dict[str, int], names: tuple[str, str], classes: Sequence[str], what: str) -> LabelNames:
    """Return labels of two classes that have an order, as no and yes. A name is empty if no label has it."""
    reading = f"1 for {names[1] or 'none'} and 0 for {names[0] or 'none'}"
    note = f"labels of {what} are read as {reading}" if classes else ""
    return LabelNames({**index}, reading, note, names if all(names) else ())


# --- several labels in a row ---


def _parse_lists(rows: Sequence[Any], classes: Sequence[str], what: str) -> ParsedLabels:
    """Read lists of one label each, or one-hot lists. Raises InputError if a row has several labels."""
    if strange := [row for row in rows if row is not None and not isinstance(row, list)]:
        raise InputError(f"{what} has {strange[0]!r}; expected one label in each row")
    given = [row for row in rows if row]
    if all(len(row) == 1 for row in given):
        return parse_labels(pa.chunked_array([[row[0] if row else None for row in rows]]), classes, what)
    lengths = {len(row) for row in given}
    bits = [[str(value) in ("1", "1.0", "1.", "True") for value in row] for row in given]
    is_binary = all(str(v) in ("0", "1", "0.0", "1.0", "0.", "1.", "True", "False") for row in given for v in row)
    if len(lengths) == 1 and is_binary and all(sum(row) == 1 for row in bits):
        place = iter(row.index(True) for row in bits)
        return ParsedLabels([next(place) if row else -1 for row in rows], "one-hot lists")
    lists = [i for i, row in enumerate(rows) if row and len(row) > 1]
    at = next((i for i in lists if not (is_binary and sum(map(bool, rows[i])) == 1)), lists[0])
    raise _several(what, f"row {at} has {', '.join(map(str, rows[at][:_EXAMPLES]))}")


@dataclass(frozen=True)
class SeveralNames:
    """One text that is several names, as `cat,dog` and `3 5` are."""

    label: str
    parts: tuple[str, ...]


def find_several(
    strange: Collection[str], names: Collection[str], certain: bool, between: re.Pattern[str] | None = None
) -> SeveralNames | None:
    """Return the first label that is several names; None if none is.

    Args:
        strange: labels that are no names of classes.
        names: those of the classes, else all labels.
        certain: whether `names` are those of the classes.
        between: matches what may stand between two names; by default commas, semicolons and |.
    """
    known = set(names)
    parts = {label: [part for part in (between or _BETWEEN).split(label) if part] for label in strange}
    compound = {label: of_label for label, of_label in parts.items() if len(of_label) > 1}
    in_labels = Counter(part for of_label in parts.values() for part in set(of_label))
    shared = sum(in_labels[part] > 1 for of_label in compound.values() for part in of_label)
    every = sum(map(len, compound.values()))
    for label in sorted(strange):
        words = compound.get(label) or (label.split() if certain else [])
        several = len(words) > 1 and (known.issuperset(words) or all(map(str.isdigit, words)))
        if several or (label in compound and not certain and len(compound) > 1 and 2 * shared > every):
            return SeveralNames(label, tuple(words))
    return None


def _several(what: str, example: str) -> InputError:
    return InputError(
        f"{what} has several labels for an image ({example}), but a prediction here has one class: --task multi-label "
        "takes all of them; else leave one label in each row, or list such names as they are written with --classes"
    )


# --- single values ---


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in a type that Arrow can look for distinct values in."""
    if isinstance(column.type, pa.ExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = without_views(pa.table([column], names=["label"])).column(0)
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def label_text(value: Any, what: str) -> str | None:
    """Return a label as it is written, None if there is none. Raises InputError for a number that is not whole."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.strip() or None
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | Decimal) and value % 1 == 0:
        return str(int(value))
    raise _neither(what, value)


def _neither(what: str, value: Any) -> InputError:
    return InputError(f"{what} has label {value}; expected names of classes or whole numbers, not regression")


def _is_identity(classes: Sequence[str]) -> bool:
    return all(name == str(i) for i, name in enumerate(classes))


def _both_fit(distinct: set[str], classes: Sequence[str], what: str) -> str:
    indices = {str(i) for i in range(len(classes))}
    if not distinct or not distinct <= indices or _is_identity(classes):
        return ""
    return f"labels of {what} are read as class names; they would also fit as indices 0 to {len(classes) - 1}"


def _some(names: Iterable[str]) -> str:
    shown = list(names) if isinstance(names, tuple) else sorted(names)
    return ", ".join(shown[:12]) + ("…" if len(shown) > 12 else "")
