"""Formats columns as lines of a CSV file. It does not know what they mean."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

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
    lines: list[str] = []
    # With \r\n as its line end the writer quotes a lone \r as well.
    writer = csv.writer(SimpleNamespace(write=lambda line: lines.append(line[:-2])), lineterminator="\r\n")
    writer.writerows(zip(*(_cells(column, digits) for column in columns), strict=True))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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


def _cells(column: CsvColumn, digits: int) -> Sequence[object]:
    if isinstance(column, TextCodes):
        texts = [*map(harmless_cell, column.texts), ""]
        return [texts[code] for code in column.codes.tolist()]
    if not isinstance(column, np.ndarray):
        return list(map(harmless_cell, column))
    if column.dtype.kind == "f":
        return ["" if math.isnan(number) else f"{number:.{digits}g}" for number in column.tolist()]
    numbers: list[int] = column.tolist()
    return numbers
