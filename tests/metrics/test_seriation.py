"""The order and the groups of `seriation` against SciPy's average linkage, and what holds for any graph."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from predboard.metrics.seriation import MIN_GROUP_CONTRAST, Seriation, seriate

Graph = tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def graph(n: int, pairs: int, seed: int) -> Graph:
    random = np.random.default_rng(seed)
    a = random.integers(0, n, pairs)
    b = (a + random.integers(1, n, pairs)) % n if n > 1 else a
    return n, a, b, random.random(pairs) * (a != b)


def groups_of(order: Seriation) -> set[frozenset[int]]:
    return {frozenset(order.items[start:stop].tolist()) for start, stop in order.groups}


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 120), st.integers(0, 2**32 - 1))
def test_every_thing_is_there_once_and_groups_are_pieces_of_the_order(n: int, pairs: int, seed: int) -> None:
    order = seriate(*graph(n, pairs if n > 1 else 0, seed))
    assert sorted(order.items.tolist()) == list(range(n))
    flat = [end for span in order.groups for end in span]
    assert flat == sorted(flat)
    assert all(stop - start >= 2 for start, stop in order.groups)


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(0, 90), st.integers(0, 2**32 - 1))
def test_neither_the_order_of_the_pairs_nor_their_direction_matters(n: int, pairs: int, seed: int) -> None:
    n, a, b, similarity = graph(n, pairs, seed)
    mixed = np.random.default_rng(seed).permutation(pairs)
    turned = np.arange(pairs) % 2 == 0
    first = seriate(n, a, b, similarity)
    second = seriate(n, np.where(turned, a, b)[mixed], np.where(turned, b, a)[mixed], similarity[mixed])
    assert first.items.tolist() == second.items.tolist()
    assert first.groups == second.groups


def test_similarities_that_no_float_holds_are_added_as_whole_numbers() -> None:
    a, b = np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])
    huge = np.array([2.0**14, 0, 2.0**14, 2.0**-40])  # the second pair is more alike by one in 2**54
    assert set(seriate(4, a, b, huge).items[:2].tolist()) == {2, 3}


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_those_of_scipys_average_linkage_and_its_branches_stay_in_one_piece(seed: int) -> None:
    hierarchy: Any = pytest.importorskip("scipy.cluster.hierarchy", reason="SciPy computes it independently")
    n, a, b, similarity = graph(25, 90, seed)
    dense = np.zeros((n, n))
    np.add.at(dense, (a, b), similarity)
    dense += dense.T
    far = dense.max() + 1
    linkage = hierarchy.linkage((far - dense)[np.triu_indices(n, 1)], "average")
    order = seriate(n, a, b, similarity)
    height = far - MIN_GROUP_CONTRAST * dense.sum() / (n * (n - 1))
    labels = hierarchy.fcluster(linkage, height, "distance")
    expected = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels)}
    assert groups_of(order) == {group for group in expected if len(group) > 1}
    place = np.argsort(order.items)
    branches = {i: [i] for i in range(n)}
    for i, (left, right, distance, _) in enumerate(linkage):
        branches[n + i] = branches[int(left)] + branches[int(right)]
        if distance < far - 1e-9:  # linked at all
            assert np.ptp(place[branches[n + i]]) == len(branches[n + i]) - 1


def test_a_chain_is_laid_out_as_a_chain() -> None:
    along = np.random.default_rng(3).permutation(12)
    order = seriate(12, along[:-1], along[1:], np.linspace(1, 2, 11))
    steps = np.abs(np.diff(np.argsort(along)[order.items]))
    assert np.count_nonzero(steps == 1) >= 9  # of eleven


def test_things_without_similarity_come_last_in_their_order() -> None:
    order = seriate(6, np.array([1]), np.array([4]), np.array([0.5]))
    assert set(order.items[:2].tolist()) == {1, 4}
    assert order.items[2:].tolist() == [0, 2, 3, 5]
    assert order.groups == ((0, 2),)
    none = np.zeros(0, np.int64)
    assert seriate(3, none, none, np.zeros(0)).items.tolist() == [0, 1, 2]


def test_what_is_most_similar_comes_first() -> None:
    order = seriate(7, np.array([0, 2, 4]), np.array([1, 3, 5]), np.array([0.2, 0.9, 0.5]))
    assert [frozenset(order.items[i : i + 2].tolist()) for i in (0, 2, 4)] == [{2, 3}, {4, 5}, {0, 1}]
