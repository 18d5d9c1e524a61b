"""The plan of parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predboard.storage.part_plan import PartRange, plan_parts


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [
        (0, 3, []),
        (1, 3, [(0, 0, 1)]),
        (3, 3, [(0, 0, 3)]),
        (7, 3, [(0, 0, 3), (1, 3, 6), (2, 6, 7)]),
        (2, 1, [(0, 0, 1), (1, 1, 2)]),
    ],
)
def test_plan_by_hand(rows: int, size: int, expected: list[tuple[int, int, int]]) -> None:
    assert [(s.index, s.start, s.stop) for s in plan_parts(rows, size)] == expected


@given(st.integers(0, 500), st.integers(1, 600))
def test_every_row_is_in_one_part(rows: int, size: int) -> None:
    shards = plan_parts(rows, size)
    assert [row for s in shards for row in range(s.start, s.stop)] == list(range(rows))
    assert [s.index for s in shards] == list(range(len(shards)))
    assert all(len(s) == size for s in shards[:-1])
    assert all(1 <= len(s) <= size for s in shards)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 100))
def test_growing_at_the_end_changes_only_the_last_part(rows: int, more: int, size: int) -> None:
    full = [s for s in plan_parts(rows, size) if len(s) == size]
    assert list(plan_parts(rows + more, size)[: len(full)]) == full


def test_a_part_knows_its_length() -> None:
    assert len(PartRange(2, 10, 14)) == 4
