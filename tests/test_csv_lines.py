"""Lines of CSV against those of Python's `csv.writer`, row by row."""

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predboard.csv_lines import CsvColumn, TextCodes, format_csv_lines, harmless_cell, original_text

TEXTS = ["", "plain", "a,b", 'say "so"', "two\nlines", " spaces ", "'", "ž — 地", "\udce9t\udce9", "=1+1"]

Row = tuple[str, str, int, float]


def by_rows(*columns: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\r")),
            st.sampled_from(TEXTS),
            st.integers(-(2**63), 2**63 - 1),
            st.floats() | st.sampled_from([0.0, -0.0, 0.1, 1 / 3, math.nan]),
        )
    ),
)
def test_it_is_what_a_writer_of_rows_writes(rows: list[Row]) -> None:
    texts, few = [row[0] for row in rows], [row[1] for row in rows]
    cells, few_cells = ([harmless_cell(text) for text in column] for column in (texts, few))
    assert [original_text(cell) for cell in few_cells] == few
    whole, numbers = [row[2] for row in rows], [row[3] for row in rows]
    columns: list[CsvColumn] = [
        texts,
        np.array(whole, np.int64),
        np.array(numbers, np.float64),
        TextCodes(TEXTS, np.array([TEXTS.index(text) for text in few], int)),
    ]
    for digits in (6, 9):
        rounded: list[object] = ["" if math.isnan(x) else f"{x:.{digits}g}" for x in numbers]
        assert format_csv_lines(columns, digits) == by_rows([*cells], [*whole], rounded, [*few_cells])


def test_a_text_with_any_kind_of_line_break_comes_back_whole() -> None:
    texts = ["a\rb", "a\r\nb", "a\nb", 'a"\r,']
    written = format_csv_lines([texts, ["x"] * len(texts)]).decode()
    assert list(csv.reader(io.StringIO(written, newline=""))) == [[text, "x"] for text in texts]


def test_no_cell_of_a_text_is_a_formula() -> None:
    texts = ["=1+1", "+x", "-x.png", "@x", "\tx", "\rx", "-1", "+1.5e3", "-.5", "-", "a=1", "'=1"]
    cells = ["'=1+1", "'+x", "'-x.png", "'@x", "'\tx", "'\rx", "-1", "+1.5e3", "-.5", "'-", "a=1", "'=1"]
    for column in (texts, TextCodes(texts, np.arange(12))):
        written = io.StringIO(format_csv_lines([column, np.full(12, -2)]).decode(), newline="")
        assert list(csv.reader(written)) == [[cell, "-2"] for cell in cells]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.int64])
def test_whole_numbers_of_any_kind(kind: type[np.integer]) -> None:
    assert format_csv_lines([np.array([0, 7, 7, 100], kind)]) == b"0\n7\n7\n100\n"


def test_single_precision_has_the_digits_of_its_value() -> None:
    values = np.array([0.1, 1 / 3, 1e-30, 0.0, -0.0], np.float32)
    assert format_csv_lines([values], 9) == "".join(f"{float(x):.9g}\n" for x in values).encode()


def test_no_rows_are_no_lines_and_no_name_is_empty() -> None:
    assert format_csv_lines([np.zeros(0), [], TextCodes(["a"], np.zeros(0, np.int64))]) == b""
    assert format_csv_lines([np.array([5, 6]), TextCodes([], np.array([-1, -1]))]) == b"5,\n6,\n"
