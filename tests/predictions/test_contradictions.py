"""Rows that contradict themselves: each kind is refused with its row, and what others may write is not."""

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from predboard.predictions.contradictions import refuse_contradictions
from predboard.predictions.schema import part_schema
from predboard.predictions.table import Predictions
from tests import toy

RUN = dataclasses.replace(toy.RUN, classes=("a", "b", "c"))
LOGITS = [[2.0, 1.0, 0.0], [0.0, 3.0, 3.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
"""Row 2 has no label, row 3 is a failed one."""


def _rows(change: dict[str, tuple[int, Any]], *without: str) -> Predictions:
    """The rows with other values, each at one row, and without some columns."""
    good = toy.predictions(RUN, np.array(LOGITS, np.float32), np.array([0, 2, -1, 0]), 7, failed=frozenset({3})).batch
    columns = {}
    for field in part_schema(RUN):
        values = good.column(field.name).to_pylist()
        if field.name in change:
            at, values[at] = change[field.name]
        if field.name not in without:
            columns[field.name] = pa.array(values, field.type)
    return Predictions(pa.record_batch(columns))


def test_good_rows_pass_whatever_is_read() -> None:
    refuse_contradictions(_rows({}), 3)
    for name in part_schema(RUN).names:
        refuse_contradictions(_rows({}, name), 3)
    refuse_contradictions(Predictions(_rows({}).batch.slice(0, 0)), 3)


@pytest.mark.parametrize(
    ("column", "at", "value"),
    [
        ("loss", 3, math.nan),  # NaN for null
        ("loss", 2, math.nan),
        ("confidence", 3, math.nan),
        ("loss", 0, 0.40762),  # 0.40760596 in float64
        ("confidence", 0, 0.6653),  # 0.66524096
        ("error", 2, None),
    ],
)
def test_what_another_program_may_write_is_no_contradiction(column: str, at: int, value: Any) -> None:
    refuse_contradictions(_rows({column: (at, value)}), 3)


NUMBER = "a number exactly where there are logits"


@pytest.mark.parametrize(
    ("column", "at", "value", "message"),
    [
        *(("loss", 1, value, f"loss of row 8 is {value}, expected {NUMBER}") for value in (None, math.nan)),
        ("loss", 1, -math.inf, "loss of row 8 is -inf, expected a number from 0"),
        ("loss", 1, math.inf, "loss of row 8 is inf"),
        ("loss", 1, -0.5, "loss of row 8 is -0.5"),
        ("loss", 2, 0.5, f"loss of row 9 is 0.5, expected {NUMBER}"),  # there is no label
        ("loss", 3, 0.5, f"loss of row 10 is 0.5, expected {NUMBER}"),
        ("loss", 0, 0.2, "loss of row 7 is 0.2, expected what follows from its logits"),
        ("confidence", 0, 1.5, "confidence of row 7 is 1.5, expected a number from 0 to 1"),
        ("confidence", 0, 0.9, "confidence of row 7 is 0.9, expected what follows"),
        ("confidence", 0, None, f"confidence of row 7 is None, expected {NUMBER}"),
        ("margin", 0, -0.1, "margin of row 7 is -0.1"),
        ("entropy", 2, 1.2, "entropy of row 9 is 1.2, expected a number from 0 to 1.099"),  # ln 3
        ("predicted", 0, 1, "predicted of row 7 is 1, expected the index of the highest logit"),
        ("predicted", 1, 2, "predicted of row 8 is 2"),  # equal to the highest, which 1 is first
        ("predicted", 0, None, f"predicted of row 7 is None, expected {NUMBER}"),
        ("predicted", 3, 0, f"predicted of row 10 is 0, expected {NUMBER}"),
        ("predicted", 0, 3, "predicted is 2 to 3|predicted is -1 to 3, of 3 classes"),
        ("label", 0, -2, "label is -2 to 2, of 3 classes"),
        ("error", 0, "lost", "error of row 7 is 'lost', expected null where there are logits"),
        ("logits", 0, None, f"of row 7 is .*, expected {NUMBER}"),
        *(("logits", 0, [2.0, z, 0.0], "logits of row 7 are not all finite") for z in (math.nan, -math.inf, math.inf)),
    ],
)
def test_a_row_that_contradicts_itself_is_named(column: str, at: int, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_contradictions(_rows({column: (at, value)}), 3)


def test_ranges_and_nulls_are_checked_without_logits() -> None:
    for column, value in (
        ("loss", None),
        ("loss", -1.0),
        ("confidence", math.nan),
        ("entropy", 2.0),
        ("predicted", None),
    ):
        with pytest.raises(ValueError, match=f"{column if column != 'predicted' else ''} of row 7"):
            refuse_contradictions(_rows({column: (0, value)}, "logits"), 3)
