"""A square table of numbers that is legible at the size of a card. It knows nothing of what the numbers mean.

TensorBoard reduces a larger picture by leaving out rows of pixels, and with one of them goes the minus of "−8.3".
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX, Canvas
from predboard.drawing.fonts import MIN_SIZE_PX, choose_font, measure_text
from predboard.drawing.palette import EMPTY_CELL, FAINT, INK, PAPER, Colour
from predboard.summaries import Pixels

CARD_CLASSES = 12
"""Rows for which a card has room, with one more for all others."""

_LEFT_PX, _TOP_PX = 4, 29
_LABEL_WIDTHS_PX = (134, 110, 84, 60)
_MIN_NUMBER_PX = 8
"""Digits can still be read in a size that is too small for words."""

_MAX_CELL_PX, _MAX_ROW_PX = 60, 28


@dataclass(frozen=True)
class MatrixCell:
    """A number and its colour."""

    texts: Sequence[str]
    """The number, written ever shorter; all cells of a table are written in one way. A number without room is left out
    whole, never in part."""
    colour: Colour


def draw_card_matrix(
    heading: str,
    names: Sequence[str],
    cells: Sequence[Sequence[MatrixCell | None]],
    key: Sequence[tuple[Colour, str]] = (),
) -> Pixels:
    """Draw a table with the same names for rows and columns.

    Where the names have no room above the columns, rows and columns have numbers, and the rows the names as well.

    Args:
        heading: what rows and columns are.
        names: [rows], at most `CARD_CLASSES` + 1.
        cells: [rows, rows]; None where there is nothing to show.
        key: colours and what they mean, on a line below.

    Returns:
        [215, 350, 3] uint8.
    """
    n = len(names)
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    labels = [f"{i} {name}" for i, name in enumerate(names, 1)]
    wide = (WIDTH_PX - 2 * _LEFT_PX - _label_width(names)) // n
    named = all(measure_text(name, MIN_SIZE_PX) <= min(wide, _MAX_CELL_PX) - 3 for name in names)
    rows, columns = (names, names) if named else (labels, [str(i) for i in range(1, n + 1)])
    height = min((HEIGHT_PX - _TOP_PX - (16 if key else 3)) // n, _MAX_ROW_PX)
    for longest, smallest in itertools.product(_LABEL_WIDTHS_PX, (MIN_SIZE_PX, _MIN_NUMBER_PX)):
        label = min(_label_width(rows), longest)  # names are shortened before numbers are left out
        width = min((WIDTH_PX - 2 * _LEFT_PX - label) // n, _MAX_CELL_PX)
        form, size, fits = _choose_form([cell for row in cells for cell in row if cell], width - 2, height, smallest)
        if fits:
            break
    canvas.text((_LEFT_PX, 11), heading, WIDTH_PX - 2 * _LEFT_PX, 10, FAINT)
    left = _LEFT_PX + label
    for i in range(n):
        y, x = _TOP_PX + i * height, left + i * width
        canvas.text((_LEFT_PX, y + height / 2 + 3), rows[i], label - 6, 10, INK)
        canvas.text((x + width / 2 - 1, _TOP_PX - 4), columns[i], width - 2, 10, INK, anchor="ms")
        for j, cell in enumerate(cells[i]):
            x = left + j * width
            colour = cell.colour if cell else EMPTY_CELL
            canvas.draw.rectangle((x, y, x + width - 2, y + height - 2), fill=colour)
            if cell and measure_text(_text(cell, form), size) <= width - 2:
                red, green, blue = colour
                ink = PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK  # ITU-R BT.601
                at = (x + width / 2 - 1, y + height / 2 + size * 0.36 - 1)
                text = _text(cell, form)
                canvas.draw.text(at, text, fill=ink, font=choose_font(text, size), anchor="ms")
    at_key = float(_LEFT_PX)
    for colour, meaning in key:
        canvas.draw.rectangle((at_key, HEIGHT_PX - 12, at_key + 8, HEIGHT_PX - 4), fill=colour)
        at_key += 24 + canvas.text((at_key + 12, HEIGHT_PX - 4), meaning, 150, 10, FAINT)
    return canvas.pixels


def _label_width(labels: Sequence[str]) -> int:
    return min(max((int(measure_text(label, 10)) for label in labels), default=0) + 8, _LABEL_WIDTHS_PX[0])


def _text(cell: MatrixCell, form: int) -> str:
    return cell.texts[min(form, len(cell.texts) - 1)]


def _choose_form(cells: Sequence[MatrixCell], width: int, height: int, smallest: int) -> tuple[int, int, bool]:
    """Return which of a cell's texts is written, in which size, and whether it has room in all cells."""
    forms = max((len(cell.texts) for cell in cells), default=1)
    for form in range(forms):
        for size in range(min(11, height - 2), smallest - 1, -1):
            if all(measure_text(_text(cell, form), size) <= width for cell in cells):
                return form, size, True
    return forms - 1, smallest, False
