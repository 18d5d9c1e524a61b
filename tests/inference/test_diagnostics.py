"""The checks against models that are good, weak or broken in a known way, and inputs that are scaled wrongly."""

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from predboard.inference import diagnostics
from predboard.inference.diagnostics import Diagnosis


def names_of(diagnoses: Iterable[Diagnosis]) -> list[str]:
    return [diagnosis.name for diagnosis in diagnoses]


def model(
    classes: int, rows: int, accuracy: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], np.random.Generator]:
    """Predicted and label [rows] of a model that is right that often and otherwise random."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    predicted = np.where(random.random(rows) < accuracy, label, random.integers(0, classes, rows))
    return predicted, label, random


# The outputs alone


def test_logits_that_are_not_finite_are_counted() -> None:
    logits = np.zeros((6, 3), np.float32)
    assert not list(diagnostics.check_finite(logits))
    logits[2, 1], logits[4, 0] = np.nan, -np.inf
    (diagnosis,) = diagnostics.check_finite(logits)
    assert diagnosis.text.startswith("the logits of 2 of 6 images are NaN or infinite")


def test_a_softmax_over_the_outputs_is_noticed_and_logits_are_not_taken_for_one() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    (diagnosis,) = diagnostics.check_normalised(p)
    assert diagnosis.name == "softmax"
    assert "--scores probabilities" in diagnosis.text
    assert names_of(diagnostics.check_normalised(p.astype(np.float16).astype(np.float32))) == ["softmax"]
    assert names_of(diagnostics.check_normalised((1 / (1 + np.exp(-logits))).astype(np.float32))) == ["sigmoid"]
    one_row_off = p.copy()
    one_row_off[3] = logits[3]
    for fine in (logits, np.log(p), p * 3, one_row_off, np.ones((4, 1), np.float32)):
        assert not list(diagnostics.check_normalised(fine))


def test_a_model_that_is_not_in_eval_mode_is_noticed_by_what_it_does() -> None:
    random = np.random.default_rng(0)
    once = random.normal(size=(16, 4)).astype(np.float32)
    jitter = (1e-5 * random.normal(size=once.shape)).astype(np.float32)
    stable = list(diagnostics.check_nondeterministic(once, once + jitter, once[:4] + jitter[:4], ("bn",), 1e-3))
    assert stable == []  # a flag that has no effect is no reason
    noisy = once + random.normal(size=once.shape).astype(np.float32)
    (diagnosis,) = diagnostics.check_nondeterministic(once, noisy, once[:4], ("drop",), 1e-3)
    assert diagnosis.name == "nondeterministic"
    assert "(drop in train mode)" in diagnosis.text
    (diagnosis,) = diagnostics.check_nondeterministic(once, once, noisy[:4], (), 1e-3)
    assert (diagnosis.name, "in train mode" in diagnosis.text) == ("batch_dependence", False)
    assert names_of(diagnostics.check_nondeterministic(once * 100, once * 100 + 0.01, once[:4] * 100, (), 1e-3)) == []


# Predictions and labels


@pytest.mark.parametrize(("accuracy", "expected"), [(0.0, ["chance"]), (0.05, ["chance"]), (0.3, []), (0.95, [])])
def test_accuracy_near_chance(accuracy: float, expected: list[str]) -> None:
    predicted, label, _ = model(10, 400, accuracy)
    found = list(diagnostics.check_chance(predicted, label, 10))
    assert names_of(found) == expected
    assert all(diagnosis.again for diagnosis in found)
    assert not list(diagnostics.check_chance(predicted[:49], label[:49], 10))  # too few to tell
    assert not list(diagnostics.check_chance(predicted, np.zeros(400, np.int64), 10))  # nothing to confuse


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    label = np.repeat([0, 1], [360, 40])
    assert names_of(diagnostics.check_chance(np.zeros(400, np.int64), label, 2)) == ["chance"]
    assert not list(diagnostics.check_chance(label, label, 2))


def test_one_class_that_gets_most_predictions() -> None:
    predicted, label, random = model(5, 300, 0.9)
    most = np.where(random.random(300) < 0.8, 3, predicted)
    (diagnosis,) = diagnostics.check_dominant_class(most, label, 5, "abcde")
    assert " one class, d:" in diagnosis.text
    assert not list(diagnostics.check_dominant_class(predicted, label, 5, "abcde"))
    assert not list(
        diagnostics.check_dominant_class(np.where(label == 3, 3, predicted), np.full(300, 3), 5, "abcde")
    )  # they all are
    unknown = np.full(300, -1)
    assert not list(diagnostics.check_dominant_class(most, unknown, 5, "abcde"))  # there may be so many of them
    (diagnosis,) = diagnostics.check_dominant_class(np.full(300, 3), unknown, 5, "abcde")
    assert not diagnosis.again


# The inputs


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.1, 1.0, []),
        (-0.6, 0.6, []),
        (0.45, 0.25, [False]),
        (-2.1, 0.004, [False]),
        (120, 60, [True]),
        (2, 1, [False]),
    ],
)
def test_inputs_far_from_zero_mean_and_unit_deviation_are_reported(
    mean: float, std: float, expected: list[bool]
) -> None:
    found = list(diagnostics.check_input_range(np.full(3, mean), np.full(3, std)))
    assert [diagnosis.warning for diagnosis in found] == expected
    assert all(": " in diagnosis.text for diagnosis in found)


def test_a_crop_is_reported_where_most_pictures_are_smaller_and_much_is_black() -> None:
    (found,) = diagnostics.check_padding([(64, 64), (64, 64), (300, 300)], 224, resized=False)
    assert found.text == (  # 1 - (2 · 64² + 224²) / (3 · 224²)
        "the crop of 224 is larger than most pictures (64×64), so 61.2 % of the model's input is black "
        "padding: add --resize"
    )
    (wide,) = diagnostics.check_padding([(100, 50)], 100, resized=True)
    assert "(50×100), so 50.0 % of the" in wide.text  # height first, as everywhere
    for sizes in ([(64, 64), (300, 300)], [(224, 224)] * 3, [(222, 224)] * 3, []):
        assert not list(diagnostics.check_padding(sizes, 224, resized=False))
