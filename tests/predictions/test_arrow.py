"""Conversions between Python, NumPy and Arrow against Arrow's own, which import pandas."""

from typing import Any

import pyarrow as pa
import pytest

from predboard.predictions.arrow import from_values


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (["a", None, "", "ö€😀"], pa.string()),
        ([b"\0x", None, b""], pa.binary()),
        ([None, None], pa.string()),
        ([], pa.string()),
        ([], pa.int32()),
        ([2**31 - 1, None, -(2**31)], pa.int32()),
        ([2**63 - 1, -(2**63), None], pa.int64()),
        ([0.1, None, float("inf")], pa.float32()),
        ([None], pa.float32()),
        ([True, None], pa.bool_()),
        ([["a"], None], pa.list_(pa.string())),
    ],
)
def test_values_become_what_arrow_makes_of_them(values: list[Any], type_: pa.DataType) -> None:
    ours, theirs = from_values(values, type_), pa.array(values, type_)
    ours.validate(full=True)
    assert ours.type == type_
    assert ours.equals(theirs)
    assert ours.null_count == theirs.null_count


def test_values_that_do_not_fit_are_refused_as_by_arrow() -> None:
    with pytest.raises(OverflowError):
        from_values([2**31], pa.int32())
    with pytest.raises(UnicodeEncodeError) as caught:
        from_values(["fine", "bad\udcff"], pa.string())
    assert caught.value.object == "bad\udcff"
