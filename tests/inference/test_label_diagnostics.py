"""What a preflight says of a model of several labels: of its outputs, its predictions and other preprocessing."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from predboard.inference.label_diagnostics import check_label_outputs, check_predicted_share
from predboard.inference.label_order import diagnose_label_order, fit_label_order
from predboard.inference.preflight_judges import LabelSetJudge, judge_of
from predboard.inference.preprocessing_trials import (
    MIN_LOSS,
    LossTrial,
    best_trial,
    can_improve,
    diagnose_scaling,
    run_trials,
)
from predboard.inference.row_losses import WORST_LOSS, calibrated_losses
from predboard.predictions.label_sets import LabelSets, MultiLabels
from tests import toy

RUN = dataclasses.replace(toy.MULTI_LABEL_RUN, classes=("cat", "dog", "owl"))
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(-0.5, 2, (200, 3)).astype(np.float32)


def softmax(z: Any) -> Any:
    p = np.exp(z)
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (LOGITS, None),
        (1 / (1 + np.exp(-LOGITS)), "sigmoid"),
        (softmax(LOGITS), "softmax"),
        (softmax(LOGITS).astype(np.float16), "softmax"),
        (np.log(softmax(LOGITS)), "log_softmax"),
        (np.log(1 / (1 + np.exp(-LOGITS))), None),  # log-sigmoids: nothing is predicted, which another check says
        (LOGITS[:, :1], None),
    ],
)
def test_a_sigmoid_and_a_softmax_at_the_end_are_told_apart(outputs: Any, name: str | None) -> None:
    assert [d.name for d in check_label_outputs(outputs.astype(np.float32))] == [name][: name is not None]


def labelled(sets: list[list[int]], rows: int = 60) -> MultiLabels:
    labels = LabelSets.from_lists(sets[i % len(sets)] for i in range(rows))
    return MultiLabels(labels, LabelSets.empty(rows), np.ones(rows, bool))


@pytest.mark.parametrize(
    ("predicted", "labels", "images", "name"),
    [
        ([0, 0, 0], labelled([[0], []]), 60, "nothing_predicted"),
        ([0, 0, 0], labelled([[]]), 60, None),  # there is nothing to predict
        ([0, 0, 0], MultiLabels.none(60), 60, "nothing_predicted"),
        ([1, 0, 0], labelled([[0], []]), 60, None),
        ([60, 60, 58], labelled([[0], []]), 60, "everything_predicted"),
        ([60, 60, 58], labelled([[0, 1, 2]]), 60, None),
        ([60, 60, 30], labelled([[0], []]), 60, None),
        ([0, 0, 0], labelled([[0]], 49), 49, None),  # too few to tell
    ],
)
def test_nothing_and_everything_predicted_are_noticed(
    predicted: list[int], labels: MultiLabels, images: int, name: str | None
) -> None:
    assert [d.name for d in check_predicted_share(np.array(predicted), labels, images)] == [name][: name is not None]


TRUE = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
UNKNOWN = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
LABELS = toy.multi_labels(TRUE, UNKNOWN, np.array([True, True, True, False]))
SCORES = np.array([[2, -1, 1], [-1, 3, -2], [1, -1, -1], [9, 9, 9]], np.float32)


def test_a_row_is_right_where_its_sets_are_equal_as_far_as_they_are_known() -> None:
    judge = judge_of(LABELS, RUN)
    assert isinstance(judge, LabelSetJudge)
    assert judge.labelled.tolist() == [0, 1, 2]
    assert judge.right(SCORES).tolist() == [True, True, False]
    assert judge.captions(SCORES) == [
        ("cat, owl", "cat, owl", 1),
        ("no label", "dog", 1),  # of which it is not known whether it applies
        ("cat, dog", "cat", 0),
        (None, "cat, dog, owl", -1),
    ]


def test_losses_are_calibrated_as_scikit_learn_does_it() -> None:
    rng = np.random.default_rng(1)
    mask, unknown = rng.random((300, 3)) < 0.3, rng.random((300, 3)) < 0.1
    logits = (3 * (mask + rng.normal(0, 1, mask.shape)) - 40).astype(np.float32)
    labels = toy.multi_labels(mask & ~unknown, unknown, np.ones(300, bool))
    losses = calibrated_losses(logits, labels)
    z = (logits[~unknown] - logits[~unknown].mean()) / logits[~unknown].std()
    model = LogisticRegression(C=1 / (1e-4 * len(z))).fit(z[:, None], mask[~unknown])
    p = np.zeros(mask.shape)
    p[~unknown] = model.predict_proba(z[:, None])[:, 1]
    for row in range(0, 300, 7):
        known = ~unknown[row]
        if known.any():
            assert losses[row] == pytest.approx(log_loss(mask[row, known], p[row, known], labels=[0, 1]), abs=2e-4)
    assert np.allclose(calibrated_losses(logits * 255 + 7, labels), losses, atol=1e-4)  # surer is not better
    assert calibrated_losses(np.where(np.arange(300)[:, None] == 5, np.nan, logits), labels)[5] == WORST_LOSS
    assert (calibrated_losses(np.full_like(logits, np.nan), labels) == WORST_LOSS).all()
    assert calibrated_losses(np.where(mask, 9, -9).astype(np.float32), labels).max() < MIN_LOSS


def test_a_better_scaling_is_found_by_the_losses_of_rows_and_not_by_those_that_are_right() -> None:
    given = -RNG.uniform(0.5, 1, 200)
    losses = {"half": given * 0.5, "none": given - 0.01, "a little": given * 0.97, "one outlier": given.copy()}
    losses["one outlier"][0] = 0
    assert can_improve(given)
    assert not can_improve(given[:40])
    trials = run_trials(list(losses), given, lambda name, start, stop: losses[name][start:stop])
    by_name = {trial.name: trial for trial in trials}
    better = best_trial(trials)
    assert better is by_name["half"]
    assert isinstance(better, LossTrial)
    assert (better.images, better.given, better.right) == (200, 0, 200)
    assert better.errors_explained == 0.5
    assert by_name["none"].images < 200  # given up early
    assert best_trial([by_name["a little"], by_name["one outlier"]]) is None  # 3 % of the loss; one row of 200
    text = diagnose_scaling(better, "--mean 0.5").text
    mean = -given.mean()
    assert text == (
        f"the calibrated loss of 100 % of 200 images would be lower, and its mean {mean / 2:.3g} instead of {mean:.3g}"
        ", with half: --mean 0.5, if the model was trained that way"
    )


def ranked(rows: int, classes: int, strength: float, seed: int = 0) -> tuple[Any, MultiLabels]:
    """Logits that rank their labels, which get rarer, and the labels."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, classes)) < 0.4 / np.sqrt(np.arange(classes) + 1)
    logits = strength * mask + rng.normal(0, 1, mask.shape) - np.arange(classes) / 3
    return logits.astype(np.float32), toy.multi_labels(mask, np.zeros_like(mask), np.ones(rows, bool))


def test_an_order_of_the_classes_that_fits_is_found_on_the_other_half() -> None:
    logits, labels = ranked(300, 8, 3)
    names = [*"abcdefgh"]
    assert fit_label_order(logits, labels).tolist() == [*range(8)]
    assert diagnose_label_order(logits, labels, names) is None
    turn = np.array([3, 1, 2, 0, 4, 6, 7, 5])
    found = diagnose_label_order(logits[:, turn], labels, names)
    assert found is not None
    assert found[1].tolist() == turn.tolist()
    assert found[0].text.endswith(
        "with the class names in another order: a is d, d is a, f is g, g is h and 1 more; --classes FILE names the "
        "outputs in their order"
    )
    assert diagnose_label_order(logits[:40, turn], labels[np.arange(40)], names) is None  # too few to tell


@pytest.mark.parametrize("strength", [0, 0.3, 1, 3])
def test_no_order_is_made_up(strength: float) -> None:
    for seed in range(5):
        logits, labels = ranked(120, 30, strength, seed)
        assert diagnose_label_order(logits, labels, [str(i) for i in range(30)]) is None
