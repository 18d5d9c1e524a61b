"""Precision–recall, ROC, risk–coverage and thresholds against scikit-learn and the rows themselves."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, roc_auc_score, roc_curve

from predboard.drawing.plots import Axis, Curve
from predboard.panels.pages.curves import MIN_FALSE_POSITIVE_RATE, POINTS
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import PrCurve, Summary
from tests import toy
from tests.panels.test_panels import drawn, mixed, named

Drawn = dict[tuple[str, int], Summary]


def sized(run: Run, rows: int, seed: int = 0) -> tuple[Predictions, NDArray[np.float64], NDArray[np.int64]]:
    """Rows, their probabilities and labels; the later a class, the fewer images it has and the harder they are."""
    random = np.random.default_rng(seed)
    classes = len(run.classes)
    label = np.minimum(random.geometric(0.25, rows) - 1, classes - 1)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), label] += (4 - 3 * label / classes + random.normal(size=rows)).astype(np.float32)
    return toy.predictions(run, logits, label), softmax(logits), label


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    e = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def curve(found: Drawn, tag: str) -> PrCurve:
    summary = found[f"curves/pr/{tag}", 0]
    assert isinstance(summary, PrCurve)
    return summary


def area(curve: PrCurve) -> float:
    """Average precision of the points: precision times the step in recall, as scikit-learn's."""
    precision, recall = curve.tp / np.maximum(curve.tp + curve.fp, 1e-9), curve.tp / (curve.tp + curve.fn)
    return float((precision * (recall - np.append(recall[1:], 0))).sum())


def test_points_of_a_curve_are_counts_of_the_rows_at_thresholds_chosen_by_recall() -> None:
    run = named(5)
    batch, p, label = sized(run, 3000)
    found = drawn("curves", run, step0=batch)
    truth = {"micro": (np.eye(5)[label].reshape(-1), p.reshape(-1))}
    truth |= {run.classes[c]: (label == c, p[:, c]) for c in range(5)}
    for tag, (true, score) in truth.items():
        points = curve(found, tag)
        order = np.argsort(-score)
        tp = np.append(0, np.cumsum(true[order]))
        at = (points.tp + points.fp).astype(int)
        assert np.count_nonzero(tp[at] != points.tp) <= 2  # a threshold that is within rounding of a row
        assert (points.tp + points.fn == true.sum()).all()
        assert (points.fp + points.tn == (1 - true).sum()).all()
        assert (points.tp[0], points.tn[0]) == (true.sum(), 0)  # all rows
        recall = points.tp / true.sum()
        assert len(recall) == POINTS == 201
        assert (np.diff(recall) <= 0).all()
        wanted = np.linspace(1, 0.005, 200)
        assert (recall[1:] >= wanted - 1e-9).all()
        assert (recall[1:] - wanted).max() < 0.02 + 1 / true.sum()
        assert area(points) == pytest.approx(average_precision_score(true, score), abs=0.01)


def test_the_macro_curve_is_the_mean_precision_of_classes_at_equal_recall() -> None:
    run = named(6)
    batch, _, label = sized(run, 2000)
    label = np.where(label == 5, 0, label)  # a class without images is in no mean
    logits = np.asarray(batch.logits)
    found = drawn("curves", run, step0=toy.predictions(run, logits, label))
    macro, p = curve(found, "macro"), softmax(logits)
    precision = macro.tp / (macro.tp + macro.fp)
    prevalence = np.bincount(label)[:5] / 2000
    assert precision[0] == pytest.approx(prevalence.mean(), rel=1e-6)
    assert (macro.tp + macro.fn).tolist() == [1000] * POINTS
    expected = np.mean([average_precision_score(label == c, p[:, c]) for c in range(5)])
    assert area(macro) == pytest.approx(expected, abs=0.01)
    by_class = [curve(found, run.classes[c]) for c in range(5)]
    for i in (1, 50, 150, 200):
        mean = np.mean([c.tp[i] / (c.tp[i] + c.fp[i]) for c in by_class])
        assert precision[i] == pytest.approx(mean, rel=1e-5)


def test_the_twenty_classes_with_most_errors_have_a_curve_of_as_many_points_at_each_step() -> None:
    run = named(50)
    label = np.repeat(np.arange(50), 4)
    said = label.copy()
    bad = list(range(0, 40, 2))
    for true in bad:
        said[label == true] = 49  # which has more errors than any
    logits = np.eye(50, dtype=np.float32)[said] * 5
    steps = {"step0": toy.predictions(run, logits, label), "step3": toy.predictions(run, logits[::-1], label[::-1])}
    found = drawn("curves", run, **steps)
    for step in (0, 3):
        shown = {tag.removeprefix("curves/pr/") for tag, s in found if s == step and tag.startswith("curves/pr/")}
        assert shown == {"micro", "macro", *(run.classes[c] for c in (*bad[:19], 49))}
    assert {len(s.tp) for s in found.values() if isinstance(s, PrCurve)} == {POINTS}


def test_a_class_called_micro_has_a_tag_of_its_own() -> None:
    run = dataclasses.replace(toy.RUN, classes=("micro", "macro", "x"))
    found = drawn("curves", run, step0=toy.predictions(run, *toy.table(run, 60)))
    tags = {tag.removeprefix("curves/pr/") for tag, _ in found if tag.startswith("curves/pr/")}
    assert tags == {"micro", "macro", "micro (class)", "macro (class)", "x"}


def graphs(monkeypatch: pytest.MonkeyPatch, run: Run, batch: Predictions) -> list[tuple[str, Axis, Axis, list[Curve]]]:
    """What the panel asks to be drawn."""
    seen: list[Any] = []

    def graph(*given: Any) -> NDArray[np.uint8]:
        seen.append(given)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("predboard.drawing.plots.draw_curves", graph)
    drawn("curves", run, step0=batch)
    return seen


def test_roc_curves_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    run = named(8)
    batch, p, label = sized(run, 4000)
    (title, _, _, curves), _ = graphs(monkeypatch, run, batch)
    assert title == "AUROC, 4 of 8"
    areas = [roc_auc_score(label == c, p[:, c]) for c in range(8)]
    worst = sorted(range(8), key=lambda c: areas[c])[:4]
    assert [c.name for c in curves] == ["macro", "micro", *(run.classes[c] for c in worst), "chance"]
    truth = np.eye(8)[label]
    expected = [np.mean(areas), roc_auc_score(truth.reshape(-1), p.reshape(-1)), *(areas[c] for c in worst), 0.5]
    assert [float(c.value) for c in curves] == pytest.approx(expected, abs=2e-4)
    rate = np.geomspace(MIN_FALSE_POSITIVE_RATE, 1, 185)
    by_class = [np.interp(rate, *roc_curve(label == c, p[:, c], drop_intermediate=False)[:2]) for c in range(8)]
    micro = np.interp(rate, *roc_curve(truth.reshape(-1), p.reshape(-1), drop_intermediate=False)[:2])
    for found, y in zip(curves, [np.mean(by_class, axis=0), micro, *(by_class[c] for c in worst), rate], strict=True):
        assert len(found.x) == 185
        assert np.abs(found.y - y).max() < 0.03  # the rows of one bin
        assert np.abs(found.y - y).mean() < 2e-3


def test_the_risk_coverage_curve_is_the_error_rate_of_the_most_confident_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    run = named(4)
    batch, p, label = sized(run, 1500)
    _, (title, x, y, (model, random, ideal)) = graphs(monkeypatch, run, batch)
    wrong = (p.argmax(axis=1) != label)[np.argsort(-p.max(axis=1))]
    risk = np.cumsum(wrong) / np.arange(1, 1501)
    top = next(float(label.removesuffix(" %")) / 100 for place, label in y.ticks if place == 1)
    at = np.rint(model.x * 1500).astype(int)
    assert np.abs(model.y[1:] * top - risk[at[1:] - 1]).max() < 2e-3
    assert model.x[0] == 0
    assert model.x[-1] == 1
    assert risk[75:].max() <= top
    assert float(model.value) == pytest.approx(risk.mean(), abs=1e-4)
    assert random.y * top == pytest.approx([risk[-1]] * 2)
    assert float(random.value) == pytest.approx(risk[-1], abs=5e-5)
    best = np.cumsum(np.sort(wrong)) / np.arange(1, 1501)
    assert float(ideal.value) == pytest.approx(best.mean(), abs=5e-5)
    assert np.interp(0.9, ideal.x, ideal.y) * top == pytest.approx(best[1349], abs=2e-3)
    assert title == "area under curve"
    assert x.ticks[-1] == (1, "100 %")


def test_one_class_has_no_curve_against_others_and_no_labels_have_nothing() -> None:
    one = drawn("curves", named(1), step0=toy.predictions(named(1), np.zeros((9, 1), np.float32), np.zeros(9, int)))
    assert {tag for tag, _ in one} == {"curves/risk_coverage"}
    run = named(3)
    logits, label = toy.table(run, 30)
    assert drawn("curves", run, step0=toy.predictions(run, logits, np.full_like(label, -1))) == {}
    same = drawn("curves", run, step0=toy.predictions(run, logits, np.zeros_like(label)))  # no class has others
    assert ("curves/roc", 0) not in same
    assert ("curves/pr/micro", 0) in same


def test_steps_without_labelled_rows_are_passed_over() -> None:
    run = named(3)
    logits, label = toy.table(run, 30)
    steps = {"step1": mixed(run, 80), "step2": toy.predictions(run, logits, np.full_like(label, -1))}
    found = drawn("curves", run, **steps)
    assert {step for _, step in found} == {1}


def test_the_area_under_a_drawn_roc_curve_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    run = named(8)
    batch, _, _ = sized(run, 4000)
    (_, _, _, curves), _ = graphs(monkeypatch, run, batch)
    rate = np.geomspace(MIN_FALSE_POSITIVE_RATE, 1, 185)
    for found in curves:
        assert auc(np.append(0, rate), np.append(found.y[0] / 2, found.y)) == pytest.approx(
            float(found.value), abs=2e-3
        )
