"""The order of the classes: the assignment against SciPy, orders that are found, and weak models left alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from predboard.inference import class_order
from tests.inference.test_diagnostics import model


@given(st.integers(0, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_assignment_is_as_good_as_scipys(n: int, largest: int, random: Any) -> None:
    gain = np.array([[random.randint(-1, largest) for _ in range(n)] for _ in range(n)], np.int64).reshape(n, n)
    column = class_order.assign(gain)
    assert sorted(column.tolist()) == list(range(n))
    best = gain[linear_sum_assignment(gain, maximize=True)].sum() if n else 0
    assert gain[np.arange(n), column].sum() == best


def test_an_assignment_of_a_thousand_classes_is_exact() -> None:
    random = np.random.default_rng(0)
    gain = random.integers(0, 10**6, (1000, 1000))
    column = class_order.assign(gain)
    assert gain[np.arange(1000), column].sum() == gain[linear_sum_assignment(gain, maximize=True)].sum()


def test_a_fitted_order_moves_no_more_than_it_must() -> None:
    predicted, label = np.array([0, 0, 1, 5, 5, 5]), np.array([1, 1, 0, 5, 5, 7])
    assert class_order.fit_order(predicted, label, 9).tolist() == [1, 0, 2, 3, 4, 5, 6, 7, 8]


# Orders that are found


def order_found(
    predicted: NDArray[np.int64], label: NDArray[np.int64], names: Sequence[str], known: float = 0.0
) -> Any:
    return class_order.diagnose_order(predicted, label, names, known)


@pytest.mark.parametrize(("classes", "accuracy"), [(3, 0.9), (10, 0.9), (10, 0.4), (100, 0.7)])
def test_a_permuted_order_is_found(classes: int, accuracy: float) -> None:
    predicted, label, random = model(classes, 512, accuracy)
    order = random.permutation(classes) if classes > 3 else np.array([1, 0, 2])  # output -> class
    place = np.argsort(order)
    diagnosis, found = order_found(place[predicted], label, [f"n{i}" for i in range(classes)])
    assert (found == order).mean() > 0.95
    assert (found[place[predicted]] == label).mean() == pytest.approx((predicted == label).mean(), abs=0.02)
    assert " with the class names in another order: n" in diagnosis.text
    assert "--classes FILE" in diagnosis.text


def test_two_classes_that_changed_places_are_found() -> None:
    predicted, label, _ = model(10, 512, 0.9)
    swap = np.arange(10)
    swap[[3, 5]] = 5, 3
    diagnosis, found = order_found(swap[predicted], label, "abcdefghij")
    assert found.tolist() == swap.tolist()
    assert "another order: d is f, f is d;" in diagnosis.text.replace("f is d, d is f", "d is f, f is d")
    assert order_found(swap[predicted], label, "abcdefghij", known=0.95) is None  # something else explains more


def test_an_order_that_fits_better_than_a_usual_one_is_named() -> None:
    label = np.tile([0, 1, 2, 2, 2, 3, 4], 60)
    order = np.array([2, 0, 1, 4, 3])  # output -> class; "labels plus one" would put three of five right
    diagnosis, found = order_found(np.argsort(order)[label], label, "abcde")
    assert found.tolist() == order.tolist()
    assert (
        "accuracy on 420 images would be 100 % instead of 0 % with the class names in another order" in diagnosis.text
    )


def test_numbered_names_in_plain_order_are_recognised_among_a_thousand() -> None:
    numbered = [str(i) for i in range(1000)]
    names = sorted(numbered)  # 0, 1, 10, 100, …
    predicted, label, _ = model(1000, 512, 0.7)
    by_number = np.array([names.index(name) for name in numbered])  # output -> class
    diagnosis, found = order_found(np.argsort(by_number)[predicted], label, names)
    assert found.tolist() == by_number.tolist()
    assert "with the class names in numerical order: 0, 1, 2, …;" in diagnosis.text


@pytest.mark.parametrize(("turn", "words"), [(-1, "labels less one"), (1, "labels plus one")])
def test_labels_off_by_one_are_recognised_among_a_thousand(turn: int, words: str) -> None:
    predicted, label, _ = model(1000, 512, 0.7)
    diagnosis, _ = order_found((predicted + turn) % 1000, label, [f"n{i:04}" for i in range(1000)])
    assert f"with {words}: " in diagnosis.text


@pytest.mark.slow
@pytest.mark.parametrize("classes", [3, 10, 100, 1000])
@pytest.mark.parametrize("kind", ["weak", "weaker", "chance", "one class", "blurred"])
def test_a_model_that_is_merely_weak_gets_no_other_order(classes: int, kind: str) -> None:
    names = [f"n{i}" for i in range(classes)]
    for seed in range(12):
        predicted, label, random = model(classes, 512, {"weak": 0.5, "weaker": 0.2}.get(kind, 0.0), seed)
        if kind == "one class":  # which is not the most frequent one
            label = np.where(random.random(512) < 0.6, 0, label)
            predicted = np.full(512, classes - 1)
        elif kind == "blurred":  # a third of each class goes to the next, most images stay
            predicted = np.where(random.random(512) < 0.33, (label + 1) % classes, label)
        assert order_found(predicted, label, names) is None


def test_names_that_sort_the_same_way_give_no_other_orders() -> None:
    assert class_order.candidate_orders(["bird", "cat", "dog"]) == {}
    assert list(class_order.candidate_orders(["Cat", "bird"])) == ["the class names in case-insensitive order"]
    assert [o.tolist() for o in class_order.candidate_orders(["c10", "c2"]).values()] == [[1, 0]]
    assert class_order.candidate_orders(["a", "a"]) == {}
