"""Parse the labels of a column into class names or indices. It knows no files and no scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from predboard.errors import InputError
from predboard.ingest.columns import abbreviate

RawLabels = list[int | str]
"""[rows] labels as they are given: an index, -1 if unknown, or a name."""

_WHOLE = re.compile(r"(-?\d+)(?:\.0*)?")
_UNKNOWN = frozenset({"nan", "na", "n/a", "null", "none"})
"""Words for a missing number in text, in lower case."""
_ANSWERS = {"false": 0, "true": 1, "no": 0, "yes": 1}


@dataclass(frozen=True)
class ParsedLabels:
    """Labels, and how they were read where that could be doubted."""

    values: RawLabels
    note: str = ""
    """One line for the user, empty if there is only one way to read them."""


def parse_labels(column: pa.ChunkedArray, classes: Sequence[str], what: str) -> ParsedLabels:
    """Read the labels of a column as names of classes if all of them are, else as indices if all are whole numbers.

    Args:
        column: text, bytes, numbers, booleans or decimals, dictionary-encoded or not.
        classes: names of the classes in the order of the scores; empty if they have none.
        what: the column, for a message.

    Raises:
        InputError: if a label is neither text nor a whole number.

    >>> parse_labels(pa.chunked_array([[1, 2, 5, None]]), ("1", "2", "5"), "y").values
    ['1', '2', '5', -1]
    >>> parse_labels(pa.chunked_array([["0", "2.0", "NaN"]]), (), "y").values
    [0, 2, -1]
    """
    texts = [_text(value, row, what) for row, value in enumerate(column.to_pylist())]
    distinct = {text for text in texts if text is not None}
    if distinct <= set(classes):
        return ParsedLabels([-1 if text is None else text for text in texts], _both_fit(distinct, classes))
    values: RawLabels
    numbers = {text for text in distinct if text.lower() not in _UNKNOWN}
    if all(map(_WHOLE.fullmatch, numbers)):
        mixed = numbers & set(classes)
        note = (
            f"labels of {what} are read as indices from 0, because not all of them are class names "
            f"({abbreviate(sorted(numbers - mixed))})"
        )
        values = [int(m[1]) if text is not None and (m := _WHOLE.fullmatch(text)) else -1 for text in texts]
        return ParsedLabels(values, note if mixed and not _is_identity(classes) else "")
    if {text.lower() for text in distinct} <= set(_ANSWERS):
        values = [-1 if text is None else _ANSWERS[text.lower()] for text in texts]
        return ParsedLabels(values, f"labels of {what} are read as 1 for {max(distinct)} and 0 for {min(distinct)}")
    return ParsedLabels([-1 if text is None else text for text in texts])


def _text(value: Any, row: int, what: str) -> str | None:
    """Return a label as it is written, None if there is none."""
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
    raise InputError(f"the label in row {row} of {what} is {value!r}; expected names or whole numbers")


def _is_identity(classes: Sequence[str]) -> bool:
    return all(name == str(i) for i, name in enumerate(classes))


def _both_fit(distinct: set[str], classes: Sequence[str]) -> str:
    indices = {str(i) for i in range(len(classes))}
    if not distinct or not distinct <= indices or _is_identity(classes):
        return ""
    return f"labels are read as class names; they would also fit as indices 0 to {len(classes) - 1}"
