"""Formats columns as lines of a CSV file. It does not know what they mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TextCodes:
    """A column of texts, each of which is one of a few."""

    texts: Sequence[str]
    codes: NDArray[np.integer]
    """[rows] places in `texts`, -1 for an empty text."""

    def __len__(self) -> int:
        return len(self.codes)


CsvColumn = NDArray[np.integer | np.floating] | TextCodes | Sequence[str]
"""[rows] whole numbers, floats (nan is written as nothing), or texts."""


def format_csv_lines(columns: Sequence[CsvColumn], digits: int = 6) -> bytes:
    r"""Return a line for each row, in UTF-8; bytes of a file name that are not text come back as they were.

    A text that a spreadsheet would run as a formula gets a `'` in front, which spreadsheets take for the mark of a text
    (OWASP, CSV injection): one that begins with =, +, -, @, a tab or a line break and is no number.

    Args:
        columns: of equal length.
        digits: significant digits of floats.

    >>> format_csv_lines([np.array([1, 2]), np.array([2 / 3, np.nan]), TextCodes(["a,b"], np.array([0, -1]))])
    b'1,0.666667,"a,b"\n2,,\n'
    """
    cells = [_cells(column, digits) for column in columns]
    lines = map(",".join, zip(*cells, strict=True)) if len(cells) > 1 else (text or '""' for text in cells[0])
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


_QUOTE, _QUOTED = '"', re.compile('[",\r\n]')

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def harmless_cell(text: str) -> str:
    """Return a text with a `'` in front if a spreadsheet would run it as a formula, which a number is not.

    >>> [harmless_cell(text) for text in ("=1+1", "@SUM(A1)", "-1.5", "-x", "cat", "'")]
    ["'=1+1", "'@SUM(A1)", '-1.5', "'-x", 'cat', "'"]
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def original_text(cell: str) -> str:
    """Return the text of which `harmless_cell` made a cell."""
    return cell[1:] if cell.startswith("'") and harmless_cell(cell[1:]) == cell else cell


def _cells(column: CsvColumn, digits: int) -> Sequence[str]:
    """Return the cells of a column, as they stand in the file (RFC 4180)."""
    if isinstance(column, TextCodes):
        texts = [*map(_text_cell, column.texts), ""]
        return [texts[code] for code in column.codes.tolist()]
    if not isinstance(column, np.ndarray):
        return list(map(_text_cell, column))
    # Formatted together, which takes half as long as one by one.
    cells = ((f"%.{digits}g\n" if column.dtype.kind == "f" else "%d\n") * len(column) % (*column.tolist(),)).split("\n")
    if column.dtype.kind == "f":
        for row in np.flatnonzero(np.isnan(column)).tolist():
            cells[row] = ""
    return cells[: len(column)]


def _text_cell(text: str) -> str:
    text = harmless_cell(text)
    return f'"{text.replace(_QUOTE, 2 * _QUOTE)}"' if _QUOTED.search(text) else text
