"""Columns -> lines of a CSV file, a column at a time. Knows not what they mean.

Of numbers each distinct one is written once. What is quoted, and how, is up to Python's own `csv`.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.predictions import arrow_bytes, as_arrow


@dataclass(frozen=True)
class Named:
    """A text for each row, one of a few."""

    texts: Sequence[str]
    at: NDArray[np.integer]
    """[rows] which of them, -1 for an empty one."""


Column = NDArray[np.integer | np.floating] | Named | Sequence[str]
"""[rows] whole numbers, numbers of which nan is empty, or texts."""


def lines(columns: Sequence[Column], digits: int = 6) -> bytes:
    r"""A line for each row, floats with so many significant digits. UTF-8, but for names of files that are no text.

    >>> lines([np.array([1, 2]), np.array([2 / 3, np.nan]), Named(["a,b"], np.array([0, -1]))])
    b'1,0.666667,"a,b"\n2,,\n'
    """
    written = [_written(column, digits) for column in columns]
    comma, end, nothing = arrow_bytes([b",", b"\n", b""])
    joined = pc.binary_join_element_wise(*written, comma)
    return b"".join(pc.binary_join_element_wise(joined, end, nothing).to_pylist())


def _written(column: Column, digits: int) -> pa.Array:
    if isinstance(column, Named):
        every = _quoted([*column.texts, ""])
        return every.take(as_arrow(np.where(column.at < 0, len(every) - 1, column.at), pa.int64()))
    if not isinstance(column, np.ndarray):
        return _quoted(column)
    each = as_arrow(column, pa.from_numpy_dtype(column.dtype)).dictionary_encode()
    numbers = each.dictionary.to_pylist()
    if column.dtype.kind == "f":
        numbers = ["" if math.isnan(number) else f"{number:.{digits}g}" for number in numbers]
    return arrow_bytes([str(number).encode() for number in numbers]).take(each.indices)


def _quoted(texts: Sequence[str]) -> pa.Array:
    written: list[str] = []
    csv.writer(SimpleNamespace(write=written.append), lineterminator="\r\n").writerows(("", text) for text in texts)
    return arrow_bytes([line[1:-2].encode("utf-8", "surrogateescape") for line in written])
