"""Whatever a parser raises is one line that names the file."""

import datetime
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from predboard.errors import MESSAGE_LENGTH, DamagedError, InputError, reading

PARSERS: dict[str, tuple[Callable[[], object], str]] = {
    "deep": (lambda: json.loads("[" * 100_000), "RecursionError: maximum recursion depth exceeded"),
    "digits": (lambda: json.loads("1" * 5_000), "Exceeds the limit (4300 digits)"),
    "mixed": (lambda: pa.array([1, {}]), "cannot mix struct"),
    "date": (
        lambda: pa.array([datetime.date.max]).cast(pa.timestamp("ns")).to_pylist(),
        "would result in out of bounds",
    ),
    "wide": (lambda: np.array([2**64 - 1]).astype(object)[0].to_bytes(2, "big"), "OverflowError: "),
    "nothing": (lambda: np.array(None).item().shape, "AttributeError: 'NoneType' object has no attribute 'shape'"),
}


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_a_parser_raises_is_one_line_that_names_the_file(name: str) -> None:
    parse, why = PARSERS[name]
    with pytest.raises(InputError) as raised, reading("a/b.json, line 3"):
        parse()
    assert str(raised.value).startswith("cannot read a/b.json, line 3: ")
    assert why in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_one_line_already_stays_and_the_type_is_the_caller_s_choice() -> None:
    with pytest.raises(InputError, match=r"^as it is$"), reading("a.json", DamagedError):
        raise InputError("as it is")
    with pytest.raises(DamagedError, match=r"^cannot read part: "), reading("part", DamagedError):
        json.loads("")


def test_a_parser_that_quotes_the_whole_file_is_cut() -> None:
    with pytest.raises(InputError) as raised, reading("a.csv"):
        raise ValueError("x" * 10_000)
    assert len(str(raised.value)) < MESSAGE_LENGTH + 50
