"""Formats columns as lines of a CSV file. It does not know what they mean."""

import csv
import math
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


def _cells(column: CsvColumn, digits: int) -> Sequence[object]:
    if isinstance(column, TextCodes):
        return ["" if code < 0 else column.texts[code] for code in column.codes.tolist()]
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind == "f":
        return ["" if math.isnan(number) else f"{number:.{digits}g}" for number in column.tolist()]
    numbers: list[int] = column.tolist()
    return numbers
