"""A table of numbers on a card keeps every number whole."""

from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.card_matrix import MatrixCell, draw_card_matrix
from predboard.drawing.comparison import DifferenceLine, draw_all_pairs
from predboard.drawing.palette import RIGHT, WRONG
from predboard.formatting import shorter, signed


@pytest.mark.parametrize("n", [1, 2, 5, 8, 10, 13])
@pytest.mark.parametrize("number", [7, 123, 99_999, 1_000_000, -8, -12_345])
def test_no_number_is_cut_and_none_is_made_smaller_than_can_be_read(
    n: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[float, str, Any]] = []
    text = ImageDraw.ImageDraw.text

    def recorded(draw: ImageDraw.ImageDraw, at: tuple[float, float], words: str, **named: Any) -> None:
        if words in shorter(number):
            written.append((at[0], words, named["font"]))
        text(draw, at, words, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    cell = MatrixCell(shorter(number), WRONG)
    made = draw_card_matrix("heading", [f"eurosat step {i}" for i in range(n)], [[cell] * n for _ in range(n)])
    assert made.shape == (HEIGHT_PX, WIDTH_PX, 3)
    without_room = n == 13 and number in (99_999, -12_345)
    assert len(written) == (0 if without_room else n * n)
    assert len({words for _, words, _ in written}) <= 1
    columns = sorted({x for x, *_ in written})
    for _, words, font in written:
        assert font.getlength(words) <= min(np.diff(columns), default=60) - 2
        assert font.size >= 8


@pytest.mark.parametrize("number", [408, -408])
def test_ten_classes_have_room_for_the_changes_of_hundreds(number: int) -> None:
    names = ["HerbaceousVegetation"] * 10
    one = [[MatrixCell([signed(number)], (255, 255, 255)) if i == j else None for j in range(10)] for i in range(10)]
    none = [[MatrixCell([" "], (255, 255, 255)) if i == j else None for j in range(10)] for i in range(10)]
    assert (draw_card_matrix("", names, one)[30:] != draw_card_matrix("", names, none)[30:]).any(axis=2).sum() > 10 * 40


def test_a_minus_is_drawn_in_every_cell_that_has_one() -> None:
    plus, minus = DifferenceLine("", 0.083, 0.05, 0.1), DifferenceLine("", -0.083, -0.1, -0.05)
    n = 5
    names = [f"eurosat step {i}" for i in range(n)]
    cells = [[None if i == j else (plus if i < j else minus) for j in range(n)] for i in range(n)]
    pixels = draw_all_pairs(names, cells)
    for colour, count in ((RIGHT, 10), (WRONG, 10)):
        assert (pixels[29:200, 100:] == colour).all(axis=2).sum() > count * 300
    ink = []  # of +8.3 in the first row and −8.3 in the last, which differ by the upright of the plus alone
    for colour, top in ((RIGHT, 29), (WRONG, 29 + 4 * 28)):
        cells_of_row = (pixels[top : top + 27] == colour).all(axis=2)
        _, columns = np.nonzero(cells_of_row)
        ink.append(int((~cells_of_row[:, columns.min() : columns.max()]).sum()))
    assert ink[0] - 4 * 15 < ink[1] < ink[0]
