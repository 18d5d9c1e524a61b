"""Whether scores are what they are said to be: what softmax leaves in each precision passes, what is none does not."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predboard import config
from predboard.errors import InputError
from predboard.ingest import validation
from predboard.ingest.validation import ScoreCheck


def softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def looked(kind: config.ScoreKind, *blocks: Any) -> ScoreCheck:
    found = ScoreCheck(kind, blocks[0].shape[1])
    for block in blocks:
        found.add(block)
    return found


def bfloat16(x: Any) -> Any:
    """The float32 nearest to each number of those with a mantissa of 7 bits."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def digits(x: Any, places: int) -> Any:
    return np.array([[float(f"{v:.{places - 1}e}") for v in row] for row in x])


SAVED: dict[str, Any] = {
    "fp32": lambda p: p.astype(np.float32),
    "fp16": lambda p: p.astype(np.float16).astype(np.float32),
    "bf16": bfloat16,
    "4 decimals": lambda p: np.round(p, 4),
    "6 decimals": lambda p: np.round(p.astype(np.float32), 6),
    "3 digits": lambda p: digits(p, 3),
}
"""How probabilities are kept, by the name of their precision."""


@pytest.mark.parametrize("name", SAVED)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([2, 3, 10, 200]), scale=st.floats(0.1, 10))
def test_what_softmax_gives_passes_in_every_precision(name: str, seed: int, classes: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(60, classes)) * scale
    found = looked("probabilities", SAVED[name](softmax(logits)))
    assert found.finish("x") is not None
    if classes > 2 and name in ("fp32", "fp16", "bf16"):
        assert found.precision == name  # few numbers of 6 decimals are also of 6 digits


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "4 decimals"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), classes=st.sampled_from([2, 10, 200]), scale=st.floats(0.1, 10))
def test_and_so_do_their_logarithms(name: str, seed: int, classes: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(60, classes)) * scale
    saved = SAVED[name](np.log(softmax(logits)))
    assert looked("log_probabilities", saved).finish("x") is not None


def test_softmax_computed_in_half_precision_passes() -> None:
    torch = pytest.importorskip("torch", reason="computes in half precision")
    logits = torch.randn(500, 1000, generator=torch.Generator().manual_seed(0)) * 4
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        found = looked("probabilities", logits.to(dtype).softmax(1).float().numpy())
        assert found.precision == name
        assert all("warning" not in line for line in found.finish("x"))


GOOD = softmax(np.random.default_rng(0).normal(size=(30, 4)))


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [
        (
            7,
            [0.5, 0.5, 0.5, 0.5],
            "of 30 rows, 1 row does not sum to 1 within 1e-06 (as fp32 allows); the first is row 7, with",
        ),
        (
            3,
            [1.2, -0.2, 0, 0],
            "of 30 rows, 1 row has numbers outside 0 to 1 (as fp32 allows); the first is row 3, with sum 1",
        ),
        (0, [0.25, 0.25, 0.25, 0.2499], "the first is row 0, with sum 0.9999: see --scores"),
        (29, [-1, -2, -3, -4], "the first is row 29, with sum -10"),
    ],
)
def test_a_row_that_is_no_probability_is_refused_and_named(row: int, value: list[float], words: str) -> None:
    rows = GOOD.copy()
    rows[row] = value
    found = looked("probabilities", rows[:11], rows[11:])
    with pytest.raises(InputError, match=re.escape(words)):
        found.finish("x.npy")


def test_each_contradiction_is_counted() -> None:
    rows = GOOD.astype(np.float32)
    rows[[2, 5, 6]] /= 2
    rows[9, 0] = -3
    with pytest.raises(
        InputError, match=r"of 30 rows, 1 row has numbers outside 0 to 1 and 3 rows do not sum to 1"
    ) as raised:
        looked("probabilities", rows).finish("x")
    assert "row 2, with sum 0.5:" in str(raised.value)


def test_the_same_error_is_allowed_in_half_precision_and_not_in_single() -> None:
    half = GOOD.astype(np.float16).astype(np.float32)
    off = np.abs(half.astype(np.float64).sum(axis=1) - 1).max()
    assert off > 1e-4
    assert looked("probabilities", half).finish("x") == []
    with pytest.raises(InputError, match="as fp32 allows"):
        looked("probabilities", half, GOOD.astype(np.float32)).finish("x")


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        ("log_probabilities", GOOD, r"rows have numbers above 0"),
        ("log_probabilities", np.log(GOOD) - 1, r"30 rows do not sum to 1 within .*with sum 0\.367879"),
        ("probabilities", np.log(GOOD), r"30 rows have numbers outside 0 to 1"),
        ("probabilities", np.full((30, 3), np.nan), r"none of the 30 rows in x has finite scores"),
    ],
)
def test_another_kind_of_scores_is_refused(kind: config.ScoreKind, rows: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        looked(kind, rows).finish("x")


def test_logits_between_0_and_1_in_every_row_are_noticed() -> None:
    assert looked("logits", GOOD).is_normalised
    assert not looked("logits", np.log(GOOD)).is_normalised
    assert not looked("logits", GOOD, GOOD * 3).is_normalised
    assert not looked("probabilities", GOOD).is_normalised


def test_the_class_with_the_highest_score_is_kept_of_every_row() -> None:
    rows = np.array([[0.2, 0.8], [np.nan, 0.5], [0.5, 0.5]])
    assert looked("probabilities", rows[:1], rows[1:]).predicted.tolist() == [1, -1, 0]


def test_rows_that_are_not_finite_fail_and_zeros_are_counted() -> None:
    rows = GOOD.copy()
    rows[4, 1] = np.nan
    rows[5] = np.inf
    rows[6] = [1, 0, 0, 0]
    rows[7] = [0.5, 0.5 - 1e-9, 1e-9, -1e-12]
    rows[8] = [0.5, 0.5, 1e-40, 2e-38]
    told = looked("probabilities", rows).finish("x")
    assert told == [
        "warning: 2 rows in x have scores that are not finite; they become failed rows",
        "5 probabilities below 1.2e-38 in x were raised to that, a loss of 87.3 nats",
    ]
    assert validation.usable_rows("probabilities", rows).tolist() == [i not in (4, 5) for i in range(30)]
    logs = np.log(np.maximum(rows[6:8], 0), where=rows[6:8] > 0, out=np.full((2, 4), -np.inf))
    assert validation.usable_rows("log_probabilities", logs).all()
    assert not validation.usable_rows("logits", logs).any()
    assert not validation.usable_rows("log_probabilities", -logs).any()
    expected = [[0, *[-126 * np.log(2)] * 3], [np.log(0.5), np.log(0.5), np.log(1e-9), -126 * np.log(2)]]
    for kind, saved in (("probabilities", rows[6:8]), ("log_probabilities", logs)):
        np.testing.assert_allclose(validation.to_stored_logits(kind, saved)[0], expected, rtol=1e-6)  # type: ignore[arg-type]  # a literal


def test_logits_are_kept_to_the_last_bit() -> None:
    logits = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(validation.to_stored_logits("logits", logits)[0], logits)
    assert validation.usable_rows("logits", np.array([[1e300, 0.0], [3e38, -3e38], [np.nan, 0]])).tolist() == [
        False,
        True,
        False,
    ]


def test_lists_of_the_highest_scores_are_no_columns_of_classes() -> None:
    falling = -np.sort(-GOOD, axis=1)
    with pytest.raises(InputError, match="fall from first to last, so they are each row's highest scores"):
        looked("probabilities", falling).finish("x")
    assert looked("probabilities", falling, GOOD).finish("x") == []
    assert looked("probabilities", falling[:19]).finish("x") == []
    assert looked("probabilities", np.array([[0.9, 0.1]] * 30)).finish("x") == []
    assert looked("probabilities", np.full((30, 4), 0.25)).finish("x") == []
