"""Pictures of comparisons: their size, and that colours and marks are where the numbers are."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.comparison import (
    ComparisonCard,
    DifferenceLine,
    PairTileText,
    SidePrediction,
    draw_all_pairs,
    draw_comparison_card,
    draw_differences,
    draw_pair_tile,
)
from predboard.drawing.confusion_change import MatrixChange, draw_change_matrix, draw_change_overview
from predboard.drawing.palette import RIGHT, UNKNOWN, WRONG

LONG = "a very long name of a class that no picture has room for, 猫科动物"


def count(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(axis=2).sum())


def words(old: str, new: str, true: str = "River") -> PairTileText:
    return PairTileText(
        "broken", true, SidePrediction("before", old, 0.25), SidePrediction("after", new, 0.9), "a/b/c.jpg"
    )


@pytest.mark.parametrize("picture", [None, Image.new("RGB", (196, 100), "green")])
def test_a_tile_has_the_colour_of_the_new_verdict_and_two_bars(picture: Image.Image | None) -> None:
    broken = np.asarray(draw_pair_tile(picture, words("River", "Forest")))
    fixed = np.asarray(draw_pair_tile(picture, words("Forest", "River")))
    assert broken.shape == fixed.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert broken[6, 100].tolist() == list(WRONG)
    assert fixed[6, 100].tolist() == list(RIGHT)
    right = slice(217, None)  # beside the picture
    rows = [np.flatnonzero((p[:, right] == c).all(axis=2).sum(axis=1) > 20) for p, c in _bars(broken, fixed)]
    assert all(len(of) == 6 for of in rows)
    first, second, third, fourth = (int(of[0]) for of in rows)
    assert (first, second) == (third, fourth)
    assert first < second


def _bars(broken: NDArray[np.uint8], fixed: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], tuple[int, int, int]]]:
    return [(broken, RIGHT), (broken, WRONG), (fixed, WRONG), (fixed, RIGHT)]


def test_a_difference_is_coloured_only_where_its_interval_leaves_out_zero() -> None:
    assert [DifferenceLine("", 0.1, *ends).colour for ends in ((0.05, 0.2), (-0.1, 0.2), (-0.3, -0.1), (0.0, 0.0))] == [
        RIGHT,
        UNKNOWN,
        WRONG,
        UNKNOWN,
    ]


def test_dots_are_in_the_order_of_their_values_around_zero() -> None:
    lines = [
        DifferenceLine("worse", -0.2, -0.3, -0.1),
        DifferenceLine("better", 0.1, 0.05, 0.15),
        DifferenceLine(LONG, 0.0, -0.1, 0.1, "+1 −2"),
    ]
    pixels = draw_differences("title", lines, "images", 2)
    assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
    plot = pixels[40:, 138 : WIDTH_PX - 130]
    at = {name: np.argwhere((plot == c).all(axis=2)) for name, c in (("worse", WRONG), ("better", RIGHT))}
    assert at["worse"][:, 1].max() < at["better"][:, 1].min()
    assert at["worse"][:, 0].mean() < at["better"][:, 0].mean()
    line = np.flatnonzero((plot[:60] == (170, 170, 170)).all(axis=2).sum(axis=0) > 20)
    assert at["worse"][:, 1].max() < line[0] < at["better"][:, 1].min() + 4


def of(matrix: list[list[int]], total: int = 100) -> MatrixChange:
    """How the cells of a matrix changed."""
    change = np.array(matrix)
    true, predicted = np.nonzero(change)
    names = [f"class {i}" for i in range(len(change))]
    return MatrixChange(true, predicted, change[true, predicted], np.full(len(change), total), names)


def cell(pixels: NDArray[np.uint8], row: int, column: int, classes: int) -> list[int]:
    """Colour in the corner of a cell of the overview."""
    side = 196 / classes
    return [int(c) for c in pixels[int(16 + row * side + 3), int(4 + column * side + 3)]]


def blue(colour: list[int]) -> bool:
    return colour[2] > colour[0] + 30


def orange(colour: list[int]) -> bool:
    return colour[0] > colour[2] + 30


def test_what_moved_is_blue_where_better_and_vermillion_where_worse() -> None:
    pixels = draw_change_overview(of([[5, -5, 0], [4, -8, 4], [0, 0, 0]]))
    assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert blue(cell(pixels, 0, 0, 3))  # more on the diagonal
    assert blue(cell(pixels, 0, 1, 3))  # fewer beside it
    assert orange(cell(pixels, 1, 0, 3))
    assert orange(cell(pixels, 1, 1, 3))
    assert cell(pixels, 2, 2, 3) == [246, 246, 246]
    assert cell(pixels, 0, 2, 3) == [246, 246, 246]


@pytest.mark.parametrize("classes", [1, 3, 16, 17, 100, 1000])
def test_any_number_of_classes_has_its_picture(classes: int) -> None:
    random = np.random.default_rng(0)
    n = min(3 * classes, 400)
    cells = np.unique(random.integers(0, classes, (n, 2)), axis=0)
    names = [LONG if i == 0 else f"n{i}" for i in range(classes)]
    moved = MatrixChange(cells[:, 0], cells[:, 1], random.integers(1, 9, len(cells)), np.full(classes, 50), names)
    assert draw_change_overview(moved).shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_of_many_classes_a_cell_that_changed_most_stands_out() -> None:
    classes = 200
    label = np.arange(classes)
    change = np.ones(classes, int)
    change[100] = 20
    moved = MatrixChange(label, (label + 1) % classes, change, np.full(classes, 40), [f"n{i}" for i in label])
    square = draw_change_overview(moved)[16:212, 4:200].astype(int)
    darkness = 255 - square[..., 2]
    peak = np.unravel_index(darkness.argmax(), darkness.shape)
    assert abs(int(peak[0]) - 98) <= 1
    assert darkness.max() > 5 * np.median(darkness[darkness > 9])


def test_the_matrix_grows_with_the_classes() -> None:
    small, large = (
        draw_change_matrix(of([[1, -1], [0, 0]])),
        draw_change_matrix(of(np.eye(20, dtype=int).tolist())),
    )
    assert small.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert large.shape[0] > small.shape[0]


def card(**more: object) -> NDArray[np.uint8]:
    usual: dict[str, object] = {
        "sentence": "new is better than old by 1.2 points of accuracy (0.4 to 2.0): 58 fixed, 31 broken of 5,400.",
        "accuracy": DifferenceLine("accuracy", 0.012, 0.004, 0.02),
        "sides": (("old", 0.91), (LONG, 0.922)),
        "fixed": 58,
        "broken": 31,
        "facts": [("changed", "3.1 %"), ("images", "5,400")],
        "worst": [(LONG, "+1 −20", DifferenceLine("", -0.1, -0.15, -0.02))],
        "moves": [("a", LONG, "12")],
        "notes": [],
    }
    return draw_comparison_card(ComparisonCard(**{**usual, **more}))  # type: ignore[arg-type]  # by name


def test_the_card_has_the_colour_of_the_verdict_and_its_flips_as_a_bar() -> None:
    better, even = card(), card(accuracy=DifferenceLine("accuracy", 0.012, -0.004, 0.02))
    assert better.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert count(better[:90, :138], RIGHT) > 100
    assert count(even[:90, :138], RIGHT) == 0
    bars = [row for row in better[90:, 8:138] if (row == RIGHT).all(axis=1).sum() > 60]
    assert len(bars) == 8
    assert (bars[0] == RIGHT).all(axis=1).sum() == round(58 / 89 * 130)
    assert (bars[0] == WRONG).all(axis=1).sum() == 130 - round(58 / 89 * 130)
    noted = card(notes=["3 images failed", "more"])
    assert count(noted[-25:], (253, 236, 224)) > 3000
    assert card(accuracy=None, sides=None, worst=[], moves=[]).shape == better.shape


def test_a_sentence_of_any_length_has_at_most_three_lines() -> None:
    short, long = card(sentence="short"), card(sentence="word " * 100)
    number = [int(np.flatnonzero((p[:120, :60] == RIGHT).all(axis=2).any(axis=1))[0]) for p in (short, long)]
    assert number[1] - number[0] == 2 * 13


def test_all_pairs_are_blue_above_and_vermillion_below() -> None:
    better, worse, even = (
        DifferenceLine("", 0.1, 0.05, 0.2),
        DifferenceLine("", -0.1, -0.2, -0.05),
        DifferenceLine("", 0.1, -0.05, 0.2),
    )
    pixels = draw_all_pairs(
        ["best", "second", LONG], [[None, better, even], [worse, None, better], [even, worse, None]]
    )
    assert min(pixels.shape[:2]) >= HEIGHT_PX
    at = {name: np.argwhere((pixels[:-20] == c).all(axis=2)).mean(axis=0) for name, c in _three()}
    assert at["better"][0] < at["worse"][0]
    assert at["better"][1] > at["worse"][1]


def _three() -> list[tuple[str, tuple[int, int, int]]]:
    return [("better", RIGHT), ("worse", WRONG)]
