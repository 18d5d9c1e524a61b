"""The panel `predictions`: which images of a class are shown."""

import numpy as np

from predboard.predictions.schema import Run
from tests import toy
from tests.panels.test_panels import drawn, ids, mixed, named


def test_each_true_class_shows_six_of_its_images_the_same_at_every_step() -> None:
    run = named(3)
    (a, label), (b, _) = toy.table(run, 100, 1), toy.table(run, 100, 2)
    label[label == 2] = 0
    label[:4] = 2
    found = drawn("predictions", run, step1=toy.predictions(run, a, label), step2=toy.predictions(run, b, label))
    assert {tag for tag, _ in found} == {f"predictions/{name}" for name in run.classes}
    for true, expected in ((0, 6), (1, 6), (2, 4)):
        chosen = ids(found[f"predictions/{run.classes[true]}", 1])
        assert len(set(chosen)) == expected
        assert (label[chosen] == true).all()
        assert chosen == ids(found[f"predictions/{run.classes[true]}", 2])


def test_the_samples_of_a_class_do_not_depend_on_what_the_model_says() -> None:
    run = named(2)
    label = np.zeros(60, np.int64)
    shown = [
        ids(
            drawn("predictions", run, step0=toy.predictions(run, toy.table(run, 60, s)[0], label))[
                "predictions/class0000", 0
            ]
        )
        for s in range(3)
    ]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0] != list(range(6))


def test_no_two_classes_share_a_gallery() -> None:
    run = Run(classes=("x\ny", "x y", "X y", "a/b|c", " "), model="toy.py:build")
    tags = {tag for tag, _ in drawn("predictions", run, step0=mixed(run, 300))}
    assert tags == {f"predictions/{name}" for name in ("x y", "x y (2)", "X y", "a/b|c", "unnamed")}
