"""Labels of a column: names stay as they are written, numbers are names where all are, and every type is read."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from predboard import InputError
from predboard.ingest.label_values import parse_labels

NUMBERED = ("1", "2", "5")


def chunked(values: Any, type_: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, type_)])


@pytest.mark.parametrize(
    ("values", "type_", "classes", "expected"),
    [
        (["cat", "", None, " dog "], None, (), ["cat", -1, -1, "dog"]),
        (["1e3", "00012"], None, ("00012", "1e3"), ["1e3", "00012"]),
        (["1", "10", "-1"], None, (), [1, 10, -1]),
        (["1", "2"], None, NUMBERED, ["1", "2"]),
        ([1, 5, None], pa.int64(), NUMBERED, ["1", "5", -1]),
        ([0, 1, 2], pa.int8(), NUMBERED, [0, 1, 2]),
        ([2**40, 1], pa.uint64(), (), [2**40, 1]),
        ([1.0, float("nan"), None], pa.float32(), (), [1, -1, -1]),
        (["1.0", "NaN", "2."], None, (), [1, -1, 2]),
        ([Decimal("1.00"), Decimal("0")], None, (), [1, 0]),
        ([True, False], pa.bool_(), (), [1, 0]),
        (["no", "yes", ""], None, (), [0, 1, -1]),
        (["no", "yes"], None, ("yes", "no"), ["no", "yes"]),
        ([b"cat", b"dog"], pa.binary(), (), ["cat", "dog"]),
        (["cat", "dog"], pa.dictionary(pa.int8(), pa.string()), (), ["cat", "dog"]),
        (["cat", "dog"], pa.string_view(), (), ["cat", "dog"]),
        (["cat", "dog"], pa.large_string(), (), ["cat", "dog"]),
    ],
)
def test_labels_of_every_type(values: Any, type_: Any, classes: tuple[str, ...], expected: list[Any]) -> None:
    assert parse_labels(chunked(values, type_), classes, "y").values == expected


@pytest.mark.parametrize(
    ("values", "classes", "note"),
    [
        ([1, 2], NUMBERED, "labels are read as class names; they would also fit as indices 0 to 2"),
        ([0, 1], NUMBERED, "labels of y are read as indices from 0, because not all of them are class names (0)"),
        (["yes", "no"], (), "labels of y are read as 1 for yes and 0 for no"),
        ([1, 5], NUMBERED, ""),
        ([0, 1], ("0", "1"), ""),
        ([0, 1], ("cat", "dog"), ""),
    ],
)
def test_a_reading_that_could_be_doubted_is_noted(values: Any, classes: tuple[str, ...], note: str) -> None:
    assert parse_labels(chunked(values), classes, "y").note == note


@pytest.mark.parametrize("values", [[0.5], [[1, 2]], [{"a": 1}], [Decimal("0.5")]])
def test_what_is_neither_a_name_nor_a_whole_number_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"the label in row 0 of y is .*; expected names or whole numbers"):
        parse_labels(chunked(values), (), "y")
