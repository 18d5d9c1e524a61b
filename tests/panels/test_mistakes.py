"""Images followed over the steps (the other galleries are in test_panels)."""

import numpy as np
from numpy.typing import NDArray

from predboard.panels import RunInfo, StepInfo, mistakes
from predboard.predictions.table import Predictions
from predboard.summaries import Summary, Tiles
from tests import toy


def at_step(label: NDArray[np.int64], right: NDArray[np.bool_], sure: NDArray[np.float32]) -> Predictions:
    """Rows that are right or wrong as told; `sure` is the logit of what is predicted."""
    logits = np.zeros((len(label), 10), np.float32)
    logits[np.arange(len(label)), np.where(right, label, (label + 1) % 10)] = sure
    return toy.predictions(toy.RUN, logits, label)


def followed(panel: mistakes.Panel, *steps: Predictions) -> dict[int, Tiles]:
    states = {step: panel.measure(toy.RUN, batch) for step, batch in enumerate(steps)}
    subject = RunInfo("toy", toy.RUN, {step: StepInfo(1, 1) for step in states})
    found: dict[int, Summary] = {step: s for step, s in panel.render(subject, states) if s.tag == "examples/followed"}
    return {step: s for step, s in found.items() if isinstance(s, Tiles)}


# Row by row over three steps: forgotten, never right, late, right from the beginning.
RIGHT = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
SURE = np.array([3, 3, 3, 3, 5, 5, 3, 3], np.float32)
LABEL = np.arange(8)


def test_forgotten_images_come_first_then_never_right_ones_then_late_ones() -> None:
    steps = [at_step(LABEL, RIGHT[:, s], SURE) for s in range(3)]
    found = followed(mistakes.Panel(per_gallery=6), *steps)
    assert set(found) == {0, 1, 2}
    for tiles in found.values():  # the same images in the same order
        assert tiles.rows["id"].tolist() == [4, 0, 5, 1, 2, 6]
    for step, tiles in found.items():
        assert (tiles.rows["predicted"] == tiles.rows["label"]).tolist() == RIGHT[[4, 0, 5, 1, 2, 6], step].tolist()


def test_what_is_missing_of_one_kind_is_filled_with_the_others() -> None:
    never = np.zeros((8, 3), bool)
    found = followed(mistakes.Panel(per_gallery=6), *(at_step(LABEL, never[:, s], SURE) for s in range(3)))
    assert len(found[0].rows["id"]) == 6


def test_one_step_has_nothing_to_follow_and_an_empty_one_does_not_count() -> None:
    panel = mistakes.Panel()
    full, none = at_step(LABEL, RIGHT[:, 0], SURE), at_step(LABEL[:0], RIGHT[:0, 0], SURE[:0])
    assert followed(panel, full) == {}
    assert followed(panel, full, none) == {}
    assert set(followed(panel, full, none, full)) == {0, 2}


def test_only_images_that_are_at_every_step_are_followed() -> None:
    steps = [at_step(LABEL, RIGHT[:, s], SURE) for s in range(3)]
    fewer = steps[1].take(LABEL != 4)
    found = followed(mistakes.Panel(per_gallery=6), steps[0], fewer, steps[2])
    assert 4 not in found[0].rows["id"]
    assert len({tuple(tiles.rows["id"].tolist()) for tiles in found.values()}) == 1


def test_the_sample_is_the_same_whatever_the_model_says() -> None:
    panel = mistakes.Panel(sampled=20)
    logits, label = toy.table(toy.RUN, 300)
    other, _ = toy.table(toy.RUN, 300, seed=9)
    a, b = (panel.measure(toy.RUN, toy.predictions(toy.RUN, z, label)).sample.rows["id"] for z in (logits, other))
    assert a.tolist() == b.tolist()
    assert len(a) == 20
