"""What panels' fields are made of: exact sums, sparse counts, short lists of lowest rows."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from predboard import state
from predboard.state import Counted, Groups, Lowest, fixed, greatest, least, merge, merge_all, summed


@dataclass(frozen=True)
class Extremes:
    total: NDArray[np.int64] = summed()
    low: NDArray[np.float64] = least()
    high: NDArray[np.float64] = greatest()


def lowest(limit: int, rows: list[tuple[int, float, int, int]]) -> Lowest:
    """From (group, score, key, id)."""
    group, score, key, id_ = (np.array(column) for column in zip(*rows, strict=True))
    stay = Lowest.choose(limit, group, score.astype(np.float64), key, id_)
    columns = {"key": key[stay], "id": id_[stay]}
    return Lowest(limit, group[stay], score[stay].astype(np.float64), columns)


def test_fixed_counts_in_units_of_two_to_the_minus_twenty() -> None:
    assert fixed(np.array([1.0, 0.5, -0.25])) == (1 + 0.5 - 0.25) * 2**20
    assert fixed(np.array([0.4 * 2**-20])) == 0
    assert fixed(np.array([0.6 * 2**-20] * 3)) == 3  # each is rounded before the sum
    assert fixed(np.zeros(0)) == 0
    assert fixed(np.zeros(0, np.float32)).dtype == np.int64


def test_fixed_sums_absurd_values_without_overflow() -> None:
    assert fixed(np.array([1e30, 3.0])) == (state.FIXED_LIMIT + 3) * 2**20
    assert fixed(np.array([np.float32(-np.inf)])) == -state.FIXED_LIMIT * 2**20
    million = fixed(np.full(2**20, 1e30))
    assert million == 2 ** (16 + 20 + 20)
    assert np.full(2**7 - 1, million).sum() == (2**7 - 1) * 2**56  # 133 million of them still fit


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.randoms(use_true_random=False), st.integers(0, 30))
def test_fixed_of_any_split_in_any_order_is_the_same(values: list[float], random: Any, cut: int) -> None:
    whole = fixed(np.array(values))
    random.shuffle(values)
    assert fixed(np.array(values[:cut])) + fixed(np.array(values[cut:])) == whole


def test_each_field_merges_as_it_says() -> None:
    a = Extremes(np.array([1, 2]), np.array([1.0, 5.0]), np.array([1.0, 5.0]))
    b = Extremes(np.array([10, 20]), np.array([2.0, 4.0]), np.array([2.0, 4.0]))
    both = merge(a, b)
    assert both.total.tolist() == [11, 22]
    assert both.low.tolist() == [1, 4]
    assert both.high.tolist() == [2, 5]


def test_a_float_sum_is_refused() -> None:
    a = Extremes(np.array([0.5]), np.zeros(1), np.zeros(1))
    with pytest.raises(TypeError, match=r"float64.*state\.fixed"):
        merge(a, a)


def test_states_of_two_panels_are_not_merged() -> None:
    with pytest.raises(TypeError, match="Counted with Extremes"):
        merge(Counted.from_values(np.array([1])), Extremes(np.zeros(1, int), np.zeros(1), np.zeros(1)))


def test_merge_all_merges_panel_by_panel() -> None:
    a, b = Counted.from_values(np.array([1])), Counted.from_values(np.array([2, 2]))
    merged = merge_all({"one": _Held(a), "two": _Held(b)}, {"two": _Held(a), "one": _Held(b)})
    assert list(merged) == ["one", "two"]
    assert merged["one"].counted.value.tolist() == [1, 2]
    assert merged["two"].counted.count.tolist() == [1, 2]


@dataclass(frozen=True)
class _Held:
    counted: Counted


def test_counted_keeps_only_what_was_seen() -> None:
    one = Counted.from_values(np.array([7, 3, 7]))
    assert (one.value.tolist(), one.count.tolist()) == ([3, 7], [1, 2])
    both = one.merge(Counted.from_values(np.array([7, 10**12])))
    assert (both.value.tolist(), both.count.tolist()) == ([3, 7, 10**12], [1, 3, 1])


@given(st.lists(st.integers(-5, 5), max_size=20), st.lists(st.integers(-5, 5), max_size=20))
def test_counted_merged_is_counted_at_once(a: list[int], b: list[int]) -> None:
    both = Counted.from_values(np.array(a, np.int64)).merge(Counted.from_values(np.array(b, np.int64)))
    assert dict(zip(both.value.tolist(), both.count.tolist(), strict=True)) == {v: (a + b).count(v) for v in {*a, *b}}
    assert both.value.dtype == both.count.dtype == np.int64


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(-9, 9)), max_size=30), st.data())
def test_groups_are_sums_by_value_or_too_many_whatever_the_split(rows: list[tuple[int, int]], data: Any) -> None:
    parts = [data.draw(st.integers(0, 3)) for _ in rows]

    def of(chosen: list[tuple[int, int]]) -> Groups:
        values = np.array([f"v{v}" for v, _ in chosen], object)
        return Groups.from_rows(5, values, np.array([[n, 1] for _, n in chosen], np.int64).reshape(-1, 2))

    whole = of(rows)
    split = (of([row for row, at in zip(rows, parts, strict=True) if at == i]) for i in range(4))
    merged = functools.reduce(Groups.merge, split)
    expected = {f"v{v}": [sum(n for w, n in rows if w == v), sum(w == v for w, _ in rows)] for v, _ in rows}
    for groups in (whole, merged):
        assert groups.over == (len(expected) > 5)
        found = dict(zip(groups.value.tolist(), groups.sums.tolist(), strict=True))
        assert found == ({} if groups.over else expected)


def test_lowest_orders_by_score_then_key_then_id() -> None:
    kept = lowest(3, [(0, 1.0, 9, 1), (0, 1.0, 8, 5), (0, 1.0, 8, 2), (0, 0.0, 99, 7), (0, 2.0, 0, 0)])
    assert kept.rows["id"].tolist() == [7, 2, 5]
    assert kept.score.tolist() == [0, 1, 1]


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([-1.0, 0.0, 0.5, np.inf, np.nan]), st.integers(0, 2)), max_size=30
    ),
    st.integers(0, 6),
    st.booleans(),
    st.sampled_from([1, 2048]),
)
def test_lowest_chooses_as_a_sort_of_all_rows_does(
    rows: list[tuple[int, float, int]], limit: int, one_group: bool, many: int
) -> None:
    group, key = (np.array([row[i] for row in rows], np.int64) for i in (0, 2))
    score, id_ = np.array([row[1] for row in rows]), np.arange(len(rows))
    group = group * (not one_group)
    order = sorted(range(len(rows)), key=lambda i: (group[i], np.isnan(score[i]), np.nan_to_num(score[i]), key[i], i))
    expected = [i for g in (0, 1) for i in [j for j in order if group[j] == g][:limit]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "_MANY_ROWS", many)
        assert Lowest.choose(limit, group, score, key, id_).tolist() == expected
        assert Lowest.choose(limit, group + 2**15 - 1, score, key, id_).tolist() == expected  # beyond 16 bits


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), max_size=12), st.integers(0, 12), st.integers(1, 5))
def test_rows_stay_with_their_vectors_and_texts_when_lowest_merge(
    rows: list[tuple[int, int]], cut: int, limit: int
) -> None:
    group, key = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    id_ = np.arange(len(rows))
    columns = {
        "key": key,
        "id": id_,
        "vector": np.stack([id_ * 2.0, id_], 1),
        "text": np.array(list(map(str, id_)), object),
    }

    def of(at: slice) -> Lowest:
        return Lowest(limit, group[at], key[at] / 2, {name: column[at] for name, column in columns.items()})

    merged = of(slice(cut)).merge(of(slice(cut, None)))
    expected = Lowest.choose(limit, group, key / 2, key, id_)
    assert merged.group.tolist() == group[expected].tolist()
    for name, column in columns.items():
        assert merged.rows[name].tolist() == column[expected].tolist()
        assert merged.rows[name].dtype == column.dtype


def test_lowest_keeps_so_many_of_each_group() -> None:
    kept = lowest(2, [(4, 3.0, 0, 0), (1, 2.0, 0, 1), (4, 1.0, 0, 2), (4, 2.0, 0, 3), (1, 9.0, 0, 4)])
    assert kept.rows_of_group(4)["id"].tolist() == [2, 3]
    assert kept.rows_of_group(1)["id"].tolist() == [1, 4]
    assert kept.rows_of_group(0)["id"].tolist() == []


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2)), min_size=2, max_size=9),
    st.data(),
)
def test_lowest_is_the_same_for_every_split_and_order(
    limit: int, rows: list[tuple[int, float, int]], data: st.DataObject
) -> None:
    numbered = [(*row, i) for i, row in enumerate(rows)]
    expected = [
        id_ for g in range(3) for *_, id_ in sorted((s, k, i) for group, s, k, i in numbered if group == g)[:limit]
    ]
    mixed = data.draw(st.permutations(numbered))
    cut = data.draw(st.integers(1, len(mixed) - 1))
    for a, b in itertools.permutations([lowest(limit, mixed[:cut]), lowest(limit, mixed[cut:])]):
        assert a.merge(b).rows["id"].tolist() == expected
