"""The confusion matrix, pixel by pixel."""

import numpy as np
import pytest

from predboard.drawing.confusion import draw_confusion_matrix
from predboard.summaries import Pixels
from tests.drawing.pixels import BLUE, NAMES, VERMILLION, where


def cells(pixels: Pixels, n: int) -> list[list[tuple[int, ...]]]:
    """The colour of each cell, read at its upper left corner."""
    high, wide = 28, 28 if n == 30 else 60
    rows, columns = np.nonzero(where(pixels, BLUE))
    top, left = int(rows.min()), int(columns.min())  # the first cell is blue in every test
    return [[tuple(pixels[top + i * high + 1, left + j * wide + 1].tolist()) for j in range(n)] for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_perfect_matrix_is_blue_on_its_diagonal_and_pale_elsewhere(n: int) -> None:
    made = draw_confusion_matrix(np.eye(n, dtype=np.int64) * 5, [f"class {i}" for i in range(n)], [5] * n)
    assert cells(made, n) == [[BLUE if i == j else (246, 246, 246) for j in range(n)] for i in range(n)]
    assert not where(made, VERMILLION).any()


def test_a_cell_is_as_strong_as_the_root_of_its_share_of_the_true_class() -> None:
    counts = np.array([[100, 0, 0], [25, 75, 0], [1, 99, 0]])
    found = cells(draw_confusion_matrix(counts, ["a", "b", "c"], [100, 100, 100]), 3)

    def mixed(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
        return tuple(round(255 + (channel - 255) * share**0.5) for channel in colour)

    assert found == [
        [BLUE, (246, 246, 246), (246, 246, 246)],
        [mixed(VERMILLION, 0.25), mixed(BLUE, 0.75), (246, 246, 246)],
        [mixed(VERMILLION, 0.01), mixed(VERMILLION, 0.99), (246, 246, 246)],
    ]


def test_of_several_classes_together_right_and_wrong_are_not_claimed() -> None:
    counts = np.array([[9, 0, 0], [0, 9, 0], [300, 0, 300]])
    for others in (True, False):
        found = cells(draw_confusion_matrix(counts, ["a", "b", "7 others"], [9, 9, 600], others), 3)
        assert found[1][1] == BLUE
        red, green, blue = found[2][0]
        assert red > green > blue  # vermillion
        red, green, blue = found[2][2]
        assert red == green == blue if others else red < green < blue


def test_a_row_without_images_is_drawn() -> None:
    made = draw_confusion_matrix(np.array([[3, 0], [0, 0]]), ["a", "b"], [3, 0])
    assert cells(made, 2)[1] == [(246, 246, 246)] * 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_labels_of_a_matrix_stay_outside_its_cells_and_inside_the_picture(n: int, name: str) -> None:
    made = draw_confusion_matrix(np.eye(n, dtype=np.int64) * 10**6, [NAMES[name]] * n, [10**6] * n)
    assert max(made.shape) <= 150 + 50 + 50 + 46 * min(n, 12) + 28 * max(n - 12, 0) + 100
    rows, columns = np.nonzero(where(made, BLUE))
    top, left = int(rows.min()), int(columns.min())
    assert (made[top:, left - 6 : left] == 255).all()  # between the labels and the cells
    assert (made[top - 4 : top, left:-50] == 255).all()
    for edge in (made[:2], made[-2:], made[:, -2:]):
        assert (edge == 255).all()


def test_every_cell_has_its_number_in_ink_that_can_be_read() -> None:
    counts = np.array([[100, 0], [3, 97]])
    made = draw_confusion_matrix(counts, ["a", "b"], [100, 100])
    rows, columns = np.nonzero(where(made, BLUE))
    top, left = int(rows.min()), int(columns.min())
    for i in range(2):
        for j in range(2):
            cell = made[top + 28 * i : top + 28 * i + 27, left + 60 * j : left + 60 * j + 59].astype(int)
            luma = cell @ [0.299, 0.587, 0.114]
            contrast = np.abs(luma - luma[0, 0]).max()
            assert (contrast > 80) == (counts[i, j] > 0)
