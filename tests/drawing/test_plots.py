"""Curves, intervals and the reliability diagram, pixel by pixel."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predboard.drawing.palette import Colour
from predboard.drawing.plots import (
    Axis,
    Curve,
    IntervalLine,
    ReliabilityBin,
    _spread_apart,
    draw_curves,
    draw_intervals,
    draw_reliability,
)
from tests.drawing.pixels import BLUE, GREY, NAMES, VERMILLION, near

TICKS = Axis("share", [(0, "0 %"), (0.5, "50 %"), (1, "100 %")])
PLOT = (slice(25, 174), slice(128, 313))
"""Where a graph's curves are."""


def straight(y0: float, y1: float, name: str = "cat", colour: Colour = BLUE) -> Curve:
    return Curve(np.array([0.0, 1.0]), np.array([y0, y1]), name, "0.1234", colour)


def test_a_curve_is_where_its_points_are() -> None:
    pixels = draw_curves("area", TICKS, TICKS, [straight(0.25, 0.75), straight(1, 1, colour=VERMILLION)])
    assert pixels.shape == (215, 350, 3)
    blue = near(pixels, BLUE)
    for x in (0.1, 0.5, 0.9):
        (rows,) = np.nonzero(blue[:, round(128 + 184 * x)])
        assert rows.mean() == pytest.approx(25 + 148 * (1 - (0.25 + 0.5 * x)), abs=1)
    (rows,) = np.nonzero(near(pixels, VERMILLION)[:, 220])
    assert rows.mean() == pytest.approx(25, abs=1)


def test_what_is_beyond_the_axis_is_cut() -> None:
    pixels = draw_curves("area", TICKS, TICKS, [straight(-3, 7)])
    assert not near(pixels, BLUE)[:22].any()
    assert not near(pixels, BLUE)[177:].any()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_curves_stay_beside_the_plot(name: str) -> None:
    bare = draw_curves("area", TICKS, TICKS, [straight(0.5, 0.5, "") for _ in range(7)])
    pixels = draw_curves("area", TICKS, TICKS, [straight(0.5, 0.5, NAMES[name]) for _ in range(7)])
    assert (pixels[:, 118:] == bare[:, 118:]).all()
    assert (pixels[:, :3] == 255).all()


@given(st.lists(st.floats(0, 100), max_size=6))
@example([50.0] * 6)
@example([100.0, 100.0, 0.0])
def test_labels_are_apart_in_their_order_and_where_they_should_be_if_there_is_room(wanted: list[float]) -> None:
    found = _spread_apart(wanted, 15, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [found[i] for i in order]
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(places))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in places)
    if all(wanted[b] - wanted[a] >= 15 for a, b in itertools.pairwise(order)):
        assert found == pytest.approx(wanted)


def calibrated(rows: Sequence[int] = (10, 1000), accuracy: float = 0.5) -> list[ReliabilityBin]:
    return [
        ReliabilityBin(0.2 + 0.4 * i, 0.4 + 0.4 * i, 0.3 + 0.4 * i, accuracy, 0.4, 0.6, n) for i, n in enumerate(rows)
    ]


def test_too_sure_is_vermillion_and_not_sure_enough_is_blue() -> None:
    pixels = draw_reliability(calibrated(), [("ECE", "4.0 %")], "over-confident")
    assert pixels.shape == (215, 350, 3)
    blue, vermillion = near(pixels[:150], BLUE), near(pixels[:150], VERMILLION)
    for found, confidence in ((blue, 0.3), (vermillion, 0.7)):
        (rows, columns) = np.nonzero(found)
        assert columns.mean() == pytest.approx(36 + 156 * confidence, abs=1.5)
        ends = sorted(25 + 122 * (1 - y) for y in (confidence, 0.5))
        assert (rows.min(), rows.max()) == pytest.approx(ends, abs=4)


def test_counts_are_drawn_as_square_roots() -> None:
    pixels = draw_reliability(calibrated((250, 1000)), [], "")
    grey = near(pixels[150:190, 36:192], GREY, 20)
    heights = grey.sum(axis=0)
    assert heights[round(156 * 0.3)] == pytest.approx(10, abs=1)
    assert heights[round(156 * 0.7)] == pytest.approx(20, abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_figures_beside_a_reliability_diagram_stay_there(name: str) -> None:
    bare = draw_reliability(calibrated(), [], "")
    pixels = draw_reliability(calibrated(), [(NAMES[name], "100 %")] * 8, NAMES[name])
    assert (pixels[:, :210] == bare[:, :210]).all()
    assert (pixels[:, 347:] == 255).all()


def test_both_ends_of_a_range_have_room_beside_the_intervals() -> None:
    # Where the middle of a name is left out, names that differ there look the same.
    def picture(name: str) -> bytes:
        return draw_intervals("t", [IntervalLine(name, 0.5, 0.4, 0.6, "9")], 0.7).tobytes()

    assert picture("brightness 0.0586 to 0.0611") != picture("brightness 0.1586 to 0.0611")
    assert picture("brightness 0.0586 to 0.0611 and more of it") == picture(
        "brightness 0.0586 to 0.0999 and more of it"
    )
