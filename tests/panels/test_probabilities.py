"""The panel `probabilities` against numpy's histograms and by hand."""

import math

import numpy as np
import pytest

from predboard.predictions.schema import Run
from predboard.summaries import Histogram
from tests import toy
from tests.panels.test_panels import counts, drawn, frame, mixed, named


@pytest.mark.parametrize("classes", [2, 10])
def test_histograms_count_as_numpy_does(classes: int) -> None:
    run = named(classes)
    batch = mixed(run, 500)
    rows = frame(batch)
    known = rows.dropna(subset=["label"])
    right, wrong = known[known.predicted == known.label], known[known.predicted != known.label]
    expected = {run.classes[c]: (np.exp(-known.loss[known.label == c].astype(float)), 1.0) for c in range(classes)}
    for name, most in (("confidence", 1.0), ("margin", 1.0), ("entropy", math.log(classes)), ("loss", 10.0)):
        for end, of in (("", known if name == "loss" else rows), ("_right", right), ("_wrong", wrong)):
            expected[name + end] = np.minimum(of[name].astype(float), most), most
    found = drawn("probabilities", run, step0=batch)
    assert {tag for tag, _ in found} == {f"probabilities/{name}" for name in expected}
    for name, (values, most) in expected.items():
        histogram = found[f"probabilities/{name}", 0]
        assert isinstance(histogram, Histogram)
        assert histogram.edges == pytest.approx(np.linspace(0, most, 31))
        assert counts(histogram) == np.histogram(values, bins=30, range=(0, most))[0].tolist(), name


def test_what_lies_on_an_end_or_beyond_is_in_the_first_or_the_last_bin() -> None:
    run = named(2)
    logits = np.array([[500, -500], [500, -500], [-500, 500], [3, 3]], np.float32)
    found = drawn("probabilities", run, step0=toy.predictions(run, logits, np.array([0, 1, 1, 0])))
    assert counts(found["probabilities/confidence", 0]) == [0] * 15 + [1] + [0] * 13 + [3]
    assert counts(found["probabilities/margin", 0]) == [1] + [0] * 28 + [3]
    assert counts(found["probabilities/entropy", 0]) == [3] + [0] * 28 + [1]  # ln 2 is the most there can be
    assert counts(found["probabilities/loss", 0]) == [2, 0, 1] + [0] * 26 + [1]  # 0, ln 2, 1000
    assert counts(found["probabilities/loss_wrong", 0]) == [0] * 29 + [1]
    assert counts(found["probabilities/class0000", 0]) == [0] * 14 + [1] + [0] * 14 + [1]  # float32(ln 2) > ln 2
    assert counts(found["probabilities/class0001", 0]) == [1] + [0] * 28 + [1]


def test_the_cut_of_the_loss_is_said() -> None:
    run = named(3)
    found = drawn("probabilities", run, step0=mixed(run, 50))
    assert "10 and more are in the last bin" in found["probabilities/loss", 0].description


def test_images_without_labels_are_among_all_and_have_no_loss() -> None:
    run = named(2)
    logits = np.array([[9, 0], [0, 9], [9, 0]], np.float32)
    found = drawn("probabilities", run, step0=toy.predictions(run, logits, np.array([0, 0, -1])))

    def rows(measure: str) -> list[int]:
        return [sum(counts(found[f"probabilities/{measure}{kind}", 0])) for kind in ("", "_right", "_wrong")]

    assert [rows(measure) for measure in ("confidence", "margin", "entropy", "loss")] == [[3, 1, 1]] * 3 + [[2, 1, 1]]


def test_the_entropy_of_one_class_is_drawn_at_zero() -> None:
    run = named(1)
    found = drawn("probabilities", run, step0=toy.predictions(run, np.zeros((4, 1), np.float32), np.zeros(4, np.int64)))
    assert counts(found["probabilities/entropy", 0]) == [4] + [0] * 29


def test_no_class_takes_the_tag_of_another_histogram() -> None:
    names = ("confidence", "loss_wrong", "confidence (2)", "x\ny", "x y")
    run = Run(classes=names, model="toy.py:build")
    tags = [tag for tag, _ in drawn("probabilities", run, step0=mixed(run, 200))]
    assert len(set(tags)) == len(tags) == 12 + 5
    assert {
        *("probabilities/confidence", "probabilities/confidence (2)", "probabilities/confidence (2) (2)"),
        *("probabilities/loss_wrong (2)", "probabilities/x y", "probabilities/x y (2)"),
    } <= set(tags)
