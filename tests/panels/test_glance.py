"""The report card over several steps."""

from typing import Any

import numpy as np
import pytest

from predboard import panels
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.report_card import ReportCard, draw_report_card
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import positive_metrics
from predboard.predictions.schema import Run
from tests import toy
from tests.metrics.test_two_classes import imbalanced, scored
from tests.panels.test_panels import drawn, mixed, named

RUN = Run(classes=("cat", "dog"), model="toy.py:build")


def cards(monkeypatch: pytest.MonkeyPatch, run: Run, **batches: Any) -> list[ReportCard]:
    seen: list[ReportCard] = []

    def keep(card: ReportCard) -> Any:
        seen.append(card)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("predboard.drawing.report_card.draw_report_card", keep)
    drawn("glance", run, **batches)
    return seen


def test_each_card_has_the_accuracy_of_all_steps_that_have_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.array([0, 1] * 10)
    batches = {
        f"step{step}": toy.predictions(
            RUN, np.eye(2, dtype=np.float32)[np.where(np.arange(20) < wrong, 1 - label, label)], label
        )
        for step, wrong in ((1, 8), (4, 5), (9, 2))
    }
    batches["step6"] = toy.predictions(RUN, np.eye(2, dtype=np.float32)[label], np.full(20, -1))
    batches = {f"step{step}": batches[f"step{step}"] for step in (1, 4, 6, 9)}
    seen = cards(monkeypatch, RUN, **batches)
    trend = [(step, right / 20, *wilson_interval(right, 20)) for step, right in ((1, 12), (4, 15), (9, 18))]
    assert [card.trend for card in seen] == [trend] * 4
    assert [card.step for card in seen] == [1, 4, 6, 9]
    assert [card.accuracy is None for card in seen] == [False, False, True, False]
    assert [name for name, _ in seen[0].facts] == ["images", "classes", "macro F1", "NLL"]


def binary(monkeypatch: pytest.MonkeyPatch, run: Run, **batches: Any) -> list[ReportCard]:
    """Cards as `visualize` sets up the panel for two classes."""
    (panel,) = panels.configure({"glance": panels.load("glance")}, two_classes=True).values()
    monkeypatch.setattr(panels, "load", lambda _: panel)
    return cards(monkeypatch, run, **batches)


def test_a_card_of_two_classes_leads_with_the_positive_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = scored(*imbalanced(500))
    metrics = positive_metrics(MetricState.measure(RUN, batch), 1)
    (card,) = binary(monkeypatch, RUN, step3=batch)
    f1 = metrics["positive/f1"]
    assert (card.headline, card.accuracy) == ("F1", (f1.value, *(f1.interval or ())))
    assert card.worst_title == "positive class: dog"
    assert [name for name, *_ in card.worst] == ["precision", "recall", "specificity", "AP", "AUROC"]
    shown = ["precision", "recall", "specificity", "average_precision", "auroc"]
    assert [value for _, value, _ in card.worst] == [metrics[f"positive/{name}"].value for name in shown]
    assert not any("macro" in name for name, _ in card.facts)
    assert card.warnings == []  # its accuracy is no better than never saying dog, but it ranks well
    assert draw_report_card(card).shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_a_card_of_two_classes_has_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    z, label = imbalanced(40)
    batches = {
        "step1": scored(z, np.full(40, -1)),
        "step2": scored(-abs(z) - 1, np.zeros(40, np.int64)),
        "step3": scored(z, label),
        "step4": scored(z, label),
    }
    seen = binary(monkeypatch, RUN, **batches)
    assert [card.no_headline for card in seen[:2]] == ["no labels", "no F1"]
    assert [card.accuracy is None for card in seen] == [True, True, False, False]
    assert [[step for step, *_ in card.trend] for card in seen] == [[3, 4]] * 4
    assert [name for name, *_ in seen[1].worst] == ["specificity"]


def test_a_card_of_one_step_has_the_counts_of_what_is_missing_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    (card,) = cards(monkeypatch, named(10), step3=mixed(named(10), 80))
    assert len(card.trend) == 1
    assert [name for name, _ in card.facts] == ["images", "failed", "unlabelled", "classes", "macro F1", "NLL"]


def test_a_card_of_a_part_of_the_rows_says_that_whole_classes_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = panels.StepInfo(80, 100, warnings=("logits are odd: see them",))
    monkeypatch.setattr("tests.panels.test_panels.StepInfo", lambda *_: facts)
    (card,) = cards(monkeypatch, named(10), step0=mixed(named(10), 80))
    assert card.warnings[:2] == ["20 of 100 rows are missing, possibly whole classes", "logits are odd"]


def test_the_landing_page_reads_no_logits() -> None:
    assert panels.load("glance").columns == {"label", "predicted", "loss"}


def picture(trend: list[tuple[int, float, float, float]], step: int) -> Any:
    card = ReportCard("t", (0.5, 0.4, 0.6), [("images", "5")], [], [], [], trend, step)
    return draw_report_card(card).astype(int)


def test_the_curve_rises_with_the_accuracy_and_the_dot_is_at_the_step() -> None:
    rising = [(1, 0.5, 0.45, 0.55), (5, 0.7, 0.65, 0.75), (9, 0.9, 0.85, 0.95)]
    found = {step: picture(rising, step) for step in (1, 5, 9)}
    place = np.s_[158:185, 8:90]
    dots = {}
    for step, pixels in found.items():
        assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
        dark = np.argwhere(pixels[place].max(axis=2) < 60)
        dots[step] = dark.mean(axis=0)
    assert dots[1][1] < dots[5][1] < dots[9][1]  # to the right
    assert dots[1][0] > dots[5][0] > dots[9][0]  # and upwards
    elsewhere = picture(rising, 7)[place]
    assert (elsewhere.max(axis=2) >= 60).all()  # no dot
    blue = np.argwhere(elsewhere[..., 2] - elsewhere[..., 0] > 120)
    assert blue[blue[:, 1] < 20][:, 0].mean() > blue[blue[:, 1] > 60][:, 0].mean()


def test_a_curve_without_height_and_steps_far_apart_can_be_drawn() -> None:
    for trend in (
        [(0, 1.0, 1.0, 1.0), (10**8, 1.0, 1.0, 1.0)],
        [(1, 0.0, 0.0, 0.1), (2, 0.0, 0.0, 0.1), (10**6, 1.0, 0.9, 1.0)],
    ):
        assert picture(trend, trend[0][0]).shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert (picture([(1, 0.5, 0.4, 0.6)], 1)[158:185, 8:90] == 255).all()  # one step has no curve
