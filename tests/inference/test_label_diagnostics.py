"""What a preflight says of a model of several labels: of its outputs, its predictions and other preprocessing."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from predboard.inference.label_diagnostics import check_label_outputs, check_predicted_share
from predboard.inference.preflight_judges import LabelSetJudge, judge_of
from predboard.inference.preprocessing_trials import LossTrial, best_trial, can_improve, diagnose_scaling, run_trials
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


def test_the_merit_of_a_row_is_its_cross_entropy_as_scikit_learn_has_it() -> None:
    judge = judge_of(LABELS, RUN)
    merit = judge.merit(SCORES[[0, 1, 2]], 0, 3)
    p = 1 / (1 + np.exp(-SCORES.astype(np.float64)))
    for row in range(3):
        known = ~UNKNOWN[row]
        assert merit[row] == pytest.approx(-log_loss(TRUE[row, known], p[row, known], labels=[0, 1]), rel=1e-6)
    assert (judge.merit(SCORES[[1, 2]], 1, 3) == merit[1:]).all()
    assert judge.merit(np.full((1, 3), np.nan, np.float32), 0, 1)[0] < -1e300


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
        f"the loss of 100 % of 200 images would be lower, and the mean {mean / 2:.3g} instead of {mean:.3g}, with half"
        ": --mean 0.5, if the model was trained that way"
    )
