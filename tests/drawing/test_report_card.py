"""The report card, pixel by pixel."""

import numpy as np
import pytest

from predboard.drawing.report_card import ReportCard, draw_report_card
from tests.drawing.pixels import BLUE, NAMES, VERMILLION, longest_run, where

FULL = ReportCard(
    title="digits · step 3",
    accuracy=(0.75, 0.6, 0.85),
    facts=[(f"fact {i}", str(i)) for i in range(6)],
    worst=[("cat", 0.1, "1 of 10"), ("dog", 0.5, "5 of 10"), ("eel", 0.9, "9 of 10")],
    pairs=[("cat", "dog", "9"), ("dog", "eel", "5"), ("eel", "cat", "1"), ("eel", "dog", "1")],
    warnings=["something is wrong", "and more"],
)
EMPTY = ReportCard("digits · step 3", None, [], [], [], [])


def test_a_card_is_as_large_as_a_tile() -> None:
    for card in (FULL, EMPTY):
        made = draw_report_card(card)
        assert made.shape == (215, 350, 3)
        assert made.dtype == np.uint8


def test_a_card_without_labels_has_no_bar_and_claims_nothing() -> None:
    made = draw_report_card(EMPTY)
    assert not (where(made, BLUE) | where(made, VERMILLION)).any()
    assert (made[26:-1, 132:] == 255).all()  # nothing of classes
    assert (made[-25:] == 255).all()  # no warning
    assert (made[28:52, :120] != 255).any()  # but that there are no labels


def test_the_cards_bar_shows_the_accuracy() -> None:
    bars = draw_report_card(FULL)[60:80, :124]
    right, wrong = longest_run(where(bars, BLUE)), longest_run(where(bars, VERMILLION))
    assert right == round(0.75 * (right + wrong))
    perfect = draw_report_card(ReportCard("x", (1.0, 0.9, 1.0), [], [], [], []))
    assert not where(perfect, VERMILLION).any()


def test_a_card_shows_its_warnings_in_a_band_at_its_foot() -> None:
    with_, without = draw_report_card(FULL), draw_report_card(ReportCard(**{**FULL.__dict__, "warnings": []}))
    assert not where(with_, (255, 255, 255))[-20:].any()
    assert where(without, (255, 255, 255))[-20:].all()
    assert np.array_equal(with_[:-30], without[:-30])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_card_says_stays_in_its_column(name: str) -> None:
    text = NAMES[name]
    card = ReportCard(
        title=text,
        accuracy=FULL.accuracy,
        facts=FULL.facts,
        worst=[(text, 0.1, "12,345 of 1,234,567")] * 3,
        pairs=[(text, text, "1,234,567")] * 4,
        warnings=[text],
    )
    made, plain = draw_report_card(card), draw_report_card(FULL)
    assert np.array_equal(made[26:-30, :128], plain[26:-30, :128])  # the left column
    assert (made[:-29, 346:] == 255).all()
    assert (made[:2] == 255).all()
    band = made[-25:]
    assert (band == band[0, 0]).all(axis=2)[:, [*range(8), *range(343, 350)]].all()


def test_large_facts_stay_in_the_left_column() -> None:
    facts = [("a fact with a long name", "123,456,789,012,345")] * 6
    made = draw_report_card(ReportCard(**{**FULL.__dict__, "facts": facts}))
    assert np.array_equal(made[:, 115:], draw_report_card(FULL)[:, 115:])
    assert (made[80:180, :8] == 255).all()


def test_drawing_twice_gives_the_same_pixels() -> None:
    assert np.array_equal(draw_report_card(FULL), draw_report_card(FULL))
