"""Derived columns and logits of probabilities, by hand and against torch."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predboard.errors import InputError
from predboard.predictions.derive import MIN_PROBABILITY, derive, to_log_probabilities, to_logits
from predboard.predictions.schema import (
    COLUMNS,
)

LN = math.log


def test_derived_columns_by_hand() -> None:
    logits = np.array([[0, LN(3)], [LN(6), LN(2)], [0, 0]], np.float32)
    found = derive(logits, np.array([0, 0, -1]))
    np.testing.assert_array_equal(found["predicted"], [1, 0, 0])
    np.testing.assert_allclose(found["confidence"], [0.75, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], [LN(4), -LN(0.75), np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["margin"], [0.5, 0.5, 0.0], rtol=1e-6)
    quarter = 0.25 * LN(4) + 0.75 * LN(4 / 3)
    np.testing.assert_allclose(found["entropy"], [quarter, quarter, LN(2)], rtol=1e-6)
    assert {name: str(values.dtype) for name, values in found.items()} == {
        name: str(COLUMNS[name][0]).replace("float", "float32") for name in found
    }


def test_of_equal_logits_the_lowest_class_is_predicted() -> None:
    found = derive(np.array([[1, 5, 5, 5], [2, 2, 2, 2]], np.float32), np.array([3, 1]))
    assert found["predicted"].tolist() == [1, 0]
    assert found["margin"].tolist() == [0, 0]
    np.testing.assert_allclose(found["confidence"], [1 / (3 + math.exp(-4)), 0.25], rtol=1e-6)


def test_one_class_is_certain() -> None:
    found = derive(np.array([[-7.0], [3.0]], np.float32), np.array([0, -1]))
    assert found["confidence"].tolist() == found["margin"].tolist() == [1, 1]
    assert found["entropy"].tolist() == [0, 0]
    assert found["loss"][0] == 0
    assert np.isnan(found["loss"][1])


def test_log_probabilities_by_hand() -> None:
    found, raised = to_log_probabilities(np.array([[0.25, 0.75, 0.0], [1.0, 1e-60, 1e-39]]))
    least = 126 * LN(2)
    np.testing.assert_allclose(found, [[-LN(4), LN(0.75), -least], [0, -least, -least]], rtol=1e-7)
    assert (str(found.dtype), raised) == ("float32", 3)
    assert np.isnan(to_log_probabilities(np.array([[np.nan, 1]]))[0]).tolist() == [[True, False]]


@settings(max_examples=50)
@given(arrays.arrays(np.float64, (5, 4), elements=st.floats(1e-30, 1)))
def test_softmax_of_log_probabilities_is_the_probabilities(weights: Any) -> None:
    p = weights / weights.sum(axis=1, keepdims=True)
    found, raised = to_log_probabilities(p)
    assert raised == 0
    again = np.exp(found.astype(np.float64))
    np.testing.assert_allclose(again / again.sum(axis=1, keepdims=True), p, rtol=1e-5)


def test_no_rows_derive_to_no_rows() -> None:
    found = derive(np.zeros((0, 5), np.float32), np.zeros(0, np.int64))
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(found, (0,))


def test_confident_rows_keep_their_tiny_losses() -> None:
    logits = np.array([[30, 0], [80, 0], [1e4, -1e4], [1e4, -1e4], [-1e4, -1e4]], np.float32)
    found = derive(logits, np.array([0, 0, 0, 1, 0]))
    np.testing.assert_allclose(found["loss"], [math.exp(-30), math.exp(-80), 0, 2e4, LN(2)], rtol=1e-6)
    np.testing.assert_allclose(found["margin"], [1, 1, 1, 1, 0], rtol=1e-6)
    assert found["entropy"][0] == pytest.approx(31 * math.exp(-30), rel=1e-5)
    assert (found["entropy"] >= 0).all()


def test_the_widest_logits_give_finite_columns() -> None:
    most = np.finfo(np.float32).max
    found = derive(np.array([[most, -most], [-most, most]], np.float32), np.array([1, 1]))
    assert found["loss"].tolist() == [most, 0]
    assert all(np.isfinite(values).all() for values in found.values())


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(2, 12)),
        elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 1.0, 1e4]),
    ),
    st.randoms(use_true_random=False),
)
def test_derived_columns_are_those_of_torch_in_double_precision(logits: Any, random: Any) -> None:
    torch = pytest.importorskip("torch", reason="the reference is torch.log_softmax")
    label = np.array([random.randrange(logits.shape[1]) for _ in logits])
    found = derive(logits, label)
    log_p = torch.log_softmax(torch.from_numpy(logits).double(), 1)
    p = log_p.exp()
    top = p.sort(descending=True).values
    np.testing.assert_array_equal(found["predicted"], logits.argmax(1))
    np.testing.assert_allclose(found["confidence"], top[:, 0], rtol=1e-6)
    np.testing.assert_allclose(
        found["loss"], -log_p[torch.arange(len(p)), torch.from_numpy(label)], rtol=2e-6, atol=2e-12
    )
    np.testing.assert_allclose(found["margin"], top[:, 0] - top[:, 1], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found["entropy"], -(p * log_p).sum(1), rtol=1e-6, atol=1e-12)


def test_probabilities_become_logarithms_by_hand() -> None:
    p = np.array([[0.25, 0.75, 0], [1e-45, 1, 0], [0.5, 0.25, 0.25]], np.float32)
    ln_least = LN(2.0**-126)
    expected = [[LN(0.25), LN(0.75), ln_least], [ln_least, 0, ln_least], [LN(0.5), LN(0.25), LN(0.25)]]
    for kind, scores in (("probabilities", p), ("log_probabilities", np.log(p, where=p > 0, out=p * 0 - np.inf))):
        logits, raised = to_logits(scores, kind)
        np.testing.assert_allclose(logits, expected, rtol=1e-6)
        assert raised == 3
        assert logits.dtype == np.float32
    assert MIN_PROBABILITY == 2.0**-126 == np.finfo(np.float32).tiny
    logits = np.array([[5.0, -300.0]], np.float32)
    assert to_logits(logits, "logits")[0] is logits
    assert to_logits(logits, "logits")[1] == 0
    assert to_logits(np.zeros((0, 3)), "probabilities")[0].shape == (0, 3)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (
            [2.0, -1.0],
            "probabilities",
            r"a row of probabilities sums to 1, with values from -1 to 2; expected values from 0 to 1",
        ),
        ([0.9, 0.8], "probabilities", r"sums to 1\.7, with values from 0\.8 to 0\.9; .*is the model multi-label"),
        ([0.4, 0.5], "probabilities", r"sums to 0\.9, "),
        ([0.0, -0.1], "log_probabilities", r"a row of log probabilities sums to 1\.905, .* after exp; expected"),
        ([900.0, -900.0], "log_probabilities", r"a row of log probabilities sums to "),
    ],
)
def test_what_is_no_probabilities_is_one_line(row: list[float], kind: str, message: str) -> None:
    good = [0.5, 0.5] if kind == "probabilities" else [LN(0.5)] * 2
    with pytest.raises(InputError, match=message) as raised:
        to_logits(np.array([good, [np.nan, 3], row], np.float32), kind)
    assert "\n" not in str(raised.value)


def test_rows_that_are_not_numbers_stay_so_and_half_precision_is_close_enough() -> None:
    halves = np.array([[0.3335, 0.3333, 0.3335], [np.nan, 0, 1]], np.float16)
    logits, raised = to_logits(halves, "probabilities")
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1, 0])
    assert raised == 1
