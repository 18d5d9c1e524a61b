"""The panel `confusion` against scikit-learn and pandas and by hand, and what its pictures show."""

import csv
import dataclasses
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.confusion import ConfusionOverview
from predboard.drawing.palette import RIGHT, WRONG, Colour
from predboard.metrics.counts import Counts
from predboard.metrics.intervals import wilson_interval
from predboard.panels.pages import confusion as pages
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import Counted
from predboard.summaries import File, Picture, Tiles
from tests import toy
from tests.panels.test_panels import drawn, frame, ids, mixed, named, text

SAVED = toy.SHARED / "cifar10_saved_predictions"


def said(run: Run, label: Any, predicted: Any, confidence: float | NDArray[np.float64] = 5.0) -> Predictions:
    """Rows that say `predicted`, with this logit and all others 0."""
    logits = np.eye(len(run.classes), dtype=np.float32)[np.asarray(predicted)]
    return toy.predictions(run, (logits.T * confidence).T.astype(np.float32), np.asarray(label))


def table(run: Run, **steps: Predictions) -> pd.DataFrame:
    """`pairs.csv` of the steps."""
    found = [s for s in drawn("confusion", run, **steps).values() if isinstance(s, File)]
    assert [file.tag for file in found] == ["pairs.csv"]
    return pd.read_csv(io.BytesIO(found[0].content))


def pictured(monkeypatch: pytest.MonkeyPatch, what: str, run: Run, **steps: Predictions) -> list[tuple[Any, ...]]:
    """What a function of `draw` was asked for, at each step."""
    seen: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> NDArray[np.uint8]:
        seen.append(arguments)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(f"predboard.drawing.confusion.{what}", note)
    drawn("confusion", run, **steps)
    return seen


def dense(of: ConfusionOverview) -> NDArray[np.int64]:
    counts = np.zeros((len(of.total), len(of.total)), np.int64)
    np.add.at(counts, (of.true, of.predicted), of.count)
    return counts


# Counts


def test_both_pictures_have_the_counts_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    run = named(10)
    batch = mixed(run, 600)
    known = frame(batch).dropna(subset=["label"])
    expected = confusion_matrix(known.label, known.predicted)
    ((matrix, names, total, others, _),) = pictured(monkeypatch, "draw_confusion_matrix", run, step0=batch)
    assert matrix.tolist() == expected.tolist()
    assert names == list(run.classes)
    assert total == expected.sum(axis=1).tolist()
    assert others is False
    ((seen,),) = pictured(monkeypatch, "draw_confusion_overview", run, step0=batch)
    order = [run.classes.index(name) for name in seen.names]
    assert sorted(order) == list(range(10))
    assert dense(seen).tolist() == expected[np.ix_(order, order)].tolist()
    assert seen.total.tolist() == expected.sum(axis=1)[order].tolist()


def test_pairs_csv_is_what_pandas_counts() -> None:
    run = named(12)
    steps = {"step1": mixed(run, 400, 1), "step4": mixed(run, 400, 2)}
    found = table(run, **steps)
    for step, batch in zip((1, 4), steps.values(), strict=True):
        known = frame(batch).dropna(subset=["label"]).astype({"label": int, "predicted": int})
        counts = known.value_counts(["label", "predicted"]).to_dict()
        here = found[found.step == step]
        pairs = list(zip(here.true_class, here.predicted_class, strict=True))
        assert dict(zip(pairs, here.images, strict=True)) == {p: n for p, n in counts.items() if p[0] != p[1]}
        assert (np.diff(here.images) <= 0).all()
        for (true, predicted), row in zip(pairs, here.itertuples(), strict=True):
            n, of, predictions = (
                counts[true, predicted],
                (known.label == true).sum(),
                (known.predicted == predicted).sum(),
            )
            assert (row.label_name, row.predicted_name) == (run.classes[true], run.classes[predicted])
            assert (row.support, row.predictions, row.reverse) == (of, predictions, counts.get((predicted, true), 0))
            expected = n / of, wilson_interval(n, of)[0], n / predictions, n * len(known) / (of * predictions)
            assert (row.share, row.share_lower, row.share_of_predicted, row.lift) == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(not SAVED.is_dir(), reason="needs published predictions, which are not distributed with this")
def test_published_predictions_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = np.load(SAVED / "verified_calibration_vgg16_probs.npz")
    probabilities, label = saved["predictions"], saved["ground_truth"].astype(np.int64)
    run = named(10)
    batch = toy.predictions(run, np.log(np.maximum(probabilities, 1e-38)).astype(np.float32), label)
    expected = confusion_matrix(label, probabilities.argmax(axis=1))
    assert np.trace(expected) == 9359
    ((matrix, *_),) = pictured(monkeypatch, "draw_confusion_matrix", run, step0=batch)
    assert matrix.tolist() == expected.tolist()
    assert table(run, step0=batch).images.sum() == 641


# Table


def test_the_table_of_pairs_by_hand() -> None:
    run = Run(classes=("a|b", "c\n d", "e"), model="toy.py:build")
    label, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([1, 1, 1, 0, 0, 1, 2])
    found = drawn("confusion", run, step0=said(run, label, predicted))
    assert text(found["confusion/pairs", 0]).split("\n")[:6] == [
        "| true | predicted | count | share | at least | of predicted | lift | reverse |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        "| a\\|b | c d | 3 | 75.0 % | 30.1 % | 75.0 % | 1.3 | 1 |",  # 3 · 7 / (4 · 4)
        "| c d | a\\|b | 1 | 50.0 % | 9.5 % | 50.0 % | 1.8 | 3 |",  # 1 · 7 / (2 · 2)
        "",
        "The table has 4 of 4 errors.",
    ]


def test_a_long_table_of_pairs_is_cut_and_says_so() -> None:
    run = named(1000)
    label = np.arange(1000)
    found = drawn("confusion", run, step0=said(run, label, (label + 1) % 1000))
    lines = text(found["confusion/pairs", 0]).split("\n")
    assert lines[2 + 100 : 2 + 100 + 2] == [
        "",
        "The table has 100 of 1,000 errors; `pairs.csv` beside the event file has all of them.",
    ]


def test_of_equally_frequent_pairs_the_larger_share_comes_first() -> None:
    run = named(3)
    found = table(run, step0=said(run, [0, 0, 0, 1, 2, 2, 2], [1, 1, 0, 2, 0, 2, 2]))
    assert list(zip(found.true_class, found.predicted_class, strict=True)) == [(0, 1), (1, 2), (2, 0)]


def test_without_errors_the_table_says_so() -> None:
    run, label = named(3), np.arange(9) % 3
    found = drawn("confusion", run, step0=said(run, label, label))
    assert text(found["confusion/pairs", 0]) == "There are no confusions: all 9 labelled images are right."
    assert table(run, step0=said(run, label, label)).empty


def test_class_names_come_back_whole_from_the_csv() -> None:
    run = Run(classes=('a,"b"', "两\n行"), model="toy.py:build")
    file = drawn("confusion", run, step0=said(run, [0, 1], [1, 0]))["pairs.csv", 0]
    assert isinstance(file, File)
    rows = list(csv.DictReader(io.StringIO(file.content.decode(), newline="")))
    assert [(row["label_name"], row["predicted_name"]) for row in rows] == [run.classes, run.classes[::-1]]


# Matrix of many classes


def test_the_matrix_of_many_classes_shows_the_most_confused_and_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    run = named(1000)
    label = np.arange(1000)
    predicted = label.copy()
    predicted[100:145] = 500
    predicted[900] = 901
    (_, card, *_), (matrix, names, total, others, _) = pictured(
        monkeypatch, "draw_confusion_matrix", run, step0=said(run, label, predicted)
    )
    assert sorted(card[:-1]) == [run.classes[c] for c in [*range(100, 111), 500]]
    assert card[-1] == "988 others"
    assert sorted(names[:-1]) == [run.classes[c] for c in [*range(100, 139), 500]]  # of equal pairs the first
    assert names[-1] == "960 others"
    assert others is True
    at = {name: i for i, name in enumerate(names)}
    assert matrix.shape == (41, 41)
    assert matrix.sum() == 1000
    assert [matrix[at[run.classes[c]], at[run.classes[500]]] for c in range(100, 139)] == [1] * 39
    assert matrix[40, at[run.classes[500]]] == 6  # classes 139 to 144, which are among the others
    assert matrix[40, 40] == 954
    assert total == [1] * 40 + [960]


def test_with_few_confusions_the_matrix_is_filled_with_classes_that_have_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, label = named(50), np.arange(50)
    predicted = np.where(label == 7, 49, label)
    _, (_, names, *_) = pictured(monkeypatch, "draw_confusion_matrix", run, step0=said(run, label, predicted))
    assert set(names) == {"class0007", "class0049", "10 others", *(run.classes[c] for c in [*range(39)])}


def test_classes_that_nobody_saw_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    run = named(1000)
    batch = said(run, [5, 5, 700, 9], [5, 9, 700, 9])
    ((matrix, names, total, others, _),) = pictured(monkeypatch, "draw_confusion_matrix", run, step0=batch)
    assert names == ["class0005", "class0009", "class0700"]
    assert (matrix.tolist(), total, others) == ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], [2, 1, 1], False)
    ((seen,),) = pictured(monkeypatch, "draw_confusion_overview", run, step0=batch)
    assert seen.total.sum() == 4
    assert sorted(seen.names) == names


def test_the_last_step_decides_which_classes_are_shown_in_which_order(monkeypatch: pytest.MonkeyPatch) -> None:
    run, label = named(60), np.repeat(np.arange(60), 3)
    early, late = np.where(label < 30, 59 - label, label), np.where(label >= 30, 59 - label, label)
    steps = {"step1": said(run, label, early), "step2": said(run, label, late)}
    first, large, second, again = (
        names for _, names, *_ in pictured(monkeypatch, "draw_confusion_matrix", run, **steps)
    )
    assert (first, large) == (second, again)
    (a,), (b,) = pictured(monkeypatch, "draw_confusion_overview", run, **steps)
    assert a.total.tolist() == b.total.tolist() == [3] * 60
    assert dense(a).sum() == dense(b).sum() == 180


# Overview


def blocks(classes: int, rows: int, size: int) -> tuple[Counts, NDArray[np.int64]]:
    """Counts of classes that are confused inside secret blocks of `size`, and each class's block."""
    random = np.random.default_rng(1)
    secret = random.permutation(classes)  # place -> class
    block = np.argsort(secret) // size
    label = random.integers(0, classes, rows)
    inside = secret[block[label] * size + random.integers(0, size, rows)]
    kind = random.random(rows)
    predicted = np.where(kind < 0.7, label, np.where(kind < 0.95, inside, random.integers(0, classes, rows)))
    none = np.int64(0)
    return Counts(
        Counted.from_values(label * classes + predicted),
        np.int64(classes),
        np.int64(rows),
        none,
        none,
        none,
        none,
        none,
    ), block


@pytest.mark.parametrize(("classes", "rows", "size"), [(40, 4000, 5), (100, 10_000, 10), (1000, 50_000, 20)])
def test_confused_classes_stand_together_and_are_framed(
    classes: int, rows: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, block = blocks(classes, rows, size)
    order = pages.order_classes(counts.metrics)
    of_place = block[order.items]
    assert np.count_nonzero(np.diff(of_place)) == classes // size - 1  # each block in one piece
    whole = {(start, start + size) for start in range(0, classes, size)}
    assert len(whole & set(order.groups)) >= 0.9 * len(whole)
    shown: list[ConfusionOverview] = []
    monkeypatch.setattr("predboard.drawing.confusion.draw_confusion_overview", shown.append)
    pages.confusion_overview(counts.metrics, order, 0.1, named(classes).classes)
    (seen,) = shown
    assert len(seen.groups) == 7
    errors = {g: sum_inside(dense(seen), *g) for g in order.groups}
    assert sorted(group.errors for group in seen.groups) == sorted(sorted(errors.values())[-7:])
    for group in seen.groups:
        assert group.errors == errors[group.start, group.stop]
        most = np.bincount(of_place[group.start : group.stop]).argmax()
        assert {block[named(classes).classes.index(name)] for name in (group.true, group.predicted)} == {most}


def sum_inside(counts: NDArray[np.int64], start: int, stop: int) -> int:
    inside = counts[start:stop, start:stop]
    return int(inside.sum() - np.trace(inside))


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 17, 100, 196, 197, 1000])
def test_the_overview_fits_a_card_and_its_colours_say_what_is_right(classes: int) -> None:
    run, label = named(classes), np.arange(classes)

    def pixels(predicted: NDArray[np.int64]) -> NDArray[np.int64]:
        picture = drawn("confusion", run, step0=said(run, label, predicted))["confusion/0_overview", 0]
        assert isinstance(picture, Picture)
        assert picture.pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
        return picture.pixels[16:212, 4:200].astype(np.int64)

    def share(of: NDArray[np.int64], colour: Colour) -> float:
        return float((of == colour).all(axis=2).mean())

    right = pixels(label)
    assert share(right, RIGHT) == pytest.approx(1 / min(classes, 196), rel=0.35)  # the lines between cells
    assert share(right, WRONG) == 0
    if classes > 1:
        wrong = pixels((label + 1) % classes)
        assert share(wrong, RIGHT) == 0
        assert share(wrong, WRONG) > 0


def test_an_overview_of_a_thousand_classes_fills_a_card() -> None:
    scores = blocks(1000, 50_000, 20)[0].metrics
    pixels = pages.confusion_overview(scores, pages.order_classes(scores), 0.1, named(1000).classes)
    assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert (pixels[40:, 215:] != 255).any()  # the groups are described beside it


# Galleries


def test_galleries_have_the_most_confident_images_of_the_most_frequent_pairs_at_the_last_step() -> None:
    run = named(6)
    batch = mixed(run, 500)
    rows = frame(batch).dropna(subset=["label"]).astype({"label": int, "predicted": int})
    found = drawn("confusion", run, step1=mixed(run, 300, 7), step2=batch)
    pairs = table(run, step2=batch).head(6)
    expected = {}
    for true, predicted in zip(pairs.true_class, pairs.predicted_class, strict=True):
        here = rows[(rows.label == true) & (rows.predicted == predicted)]
        here = here.sort_values(["confidence", "key", "id"], ascending=[False, True, True])
        expected[f"confusion/{run.classes[true]} as {run.classes[predicted]}", 2] = here.id[:12].tolist()
    assert {at: ids(s) for at, s in found.items() if isinstance(s, Tiles)} == expected
    assert len(expected) == 6


def test_a_gallery_shows_of_each_image_what_the_model_said() -> None:
    run = named(4)
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.1, 0.7, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1]], np.float32))
    found = drawn("confusion", run, step0=toy.predictions(run, logits, np.array([0, 0, 0])))
    tiles = found["confusion/class0000 as class0001", 0]
    assert isinstance(tiles, Tiles)
    assert ids(tiles) == [1, 0]
    assert tiles.rows["top_class"].tolist() == [[1, 0, 2], [1, 3, 2]]
    assert tiles.rows["top_probability"][1] == pytest.approx([0.4, 0.3, 0.2])
    assert tiles.description.startswith("2 of 2 images of class0000 predicted as class0001")


def test_whatever_classes_are_called_no_two_galleries_share_a_tag() -> None:
    names = ("a", "b as c", "a as b", "c", "A", "x/y", "x\ny", "x y")
    run = Run(classes=names, model="toy.py:build")
    label, predicted = np.array([0, 2, 4, 5, 6, 7]), np.array([1, 3, 1, 6, 7, 6])
    found = drawn("confusion", run, step0=said(run, label, predicted))
    tags = [s.tag for s in found.values() if isinstance(s, Tiles)]
    assert sorted(tags) == [
        "confusion/A as b as c",
        *("confusion/a as b as c", "confusion/a as b as c (2)"),
        *("confusion/x y as x y", "confusion/x y as x y (2)"),
        "confusion/x/y as x y",
    ]


def test_a_step_without_labelled_rows_is_passed_over() -> None:
    run = named(3)
    full = mixed(run, 60)
    none = dataclasses.replace(full, batch=full.batch.slice(0, 0))
    found = drawn("confusion", run, step1=full, step2=none)
    assert {step for _, step in found} == {1}
    assert any(isinstance(s, Tiles) for s in found.values())
