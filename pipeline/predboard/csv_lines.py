"""Columns -> lines of a CSV file, a column at a time. Knows not what they mean.

Of some thousand lines each distinct number is written once. What is quoted, and how, is up to Python's own `csv`.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard.predictions.arrow import arrow_bytes, as_arrow


@dataclass(frozen=True)
class TextCodes:
    """A text for each row, one of a few."""

    texts: Sequence[str]
    at: NDArray[np.integer]
    """[rows] which of them, -1 for an empty one."""

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, at=self.at[rows])


BLOCK = 16_384
"""Lines that are made at a time: as texts they take ten times what their numbers do."""

CsvColumn = NDArray[np.integer | np.floating] | TextCodes | Sequence[str]
"""[rows] whole numbers, numbers of which nan is empty, or texts."""


def format_csv_lines(columns: Sequence[CsvColumn], digits: int = 6) -> bytes:
    r"""A line for each row, floats with so many significant digits. UTF-8, but for names of files that are no text.

    >>> format_csv_lines([np.array([1, 2]), np.array([2 / 3, np.nan]), TextCodes(["a,b"], np.array([0, -1]))])
    b'1,0.666667,"a,b"\n2,,\n'
    """
    blocks = (slice(start, start + BLOCK) for start in range(0, len(columns[0]), BLOCK))
    return b"".join(_block([column[block] for column in columns], digits) for block in blocks)


def _block(columns: Sequence[CsvColumn], digits: int) -> pa.Buffer:
    written = [_written(column, digits) for column in columns]
    comma, end, nothing = arrow_bytes([b",", b"\n", b""])
    ended = pc.binary_join_element_wise(pc.binary_join_element_wise(*written, comma), end, nothing)
    _, ends, text = ended.buffers()
    return text.slice(0, np.frombuffer(ends, np.int64)[len(ended)])


def _written(column: CsvColumn, digits: int) -> pa.Array:
    if not isinstance(column, TextCodes | np.ndarray):
        return _quoted(column)
    numbers = column.at if isinstance(column, TextCodes) else column
    each = as_arrow(numbers, pa.from_numpy_dtype(numbers.dtype)).dictionary_encode()
    distinct = each.dictionary.to_pylist()
    if isinstance(column, TextCodes):
        return _quoted(["" if at < 0 else column.texts[at] for at in distinct]).take(each.indices)
    if numbers.dtype.kind == "f":
        distinct = ["" if math.isnan(number) else f"{number:.{digits}g}" for number in distinct]
    return arrow_bytes([str(number).encode() for number in distinct]).take(each.indices)


def _quoted(texts: Sequence[str]) -> pa.Array:
    written: list[str] = []
    csv.writer(SimpleNamespace(write=written.append), lineterminator="\r\n").writerows(("", text) for text in texts)
    return arrow_bytes([line[1:-2].encode("utf-8", "surrogateescape") for line in written])
