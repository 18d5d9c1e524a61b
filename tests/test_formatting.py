"""How numbers, names and tables are written; most of it is in the examples of the docstrings."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predboard.formatting import markdown_table, percent


@given(st.floats(0, 1) | st.floats(0, 1e-3) | st.floats(1 - 1e-3, 1))
@example(0.99951)
@example(0.00049)
def test_percent_never_says_all_or_nothing_unless_it_is(share: float) -> None:
    text = percent(share)
    assert (text == "100 %") == (share == 1)
    assert (text == "0 %") == (share == 0)
    assert text not in ("100.0 %", "0.0 %")
    if "<" not in text and ">" not in text:
        assert float(text.removesuffix(" %")) == pytest.approx(100 * share, abs=0.0501)


def test_a_table_without_rows_is_its_head_and_an_empty_title_is_one_space() -> None:
    assert markdown_table(("", "n"), "lr", []) == "| | n |\n|---|---:|"
