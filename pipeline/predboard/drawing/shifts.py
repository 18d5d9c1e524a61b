"""Draws how shares move from one value to another, each with its interval. It knows no metrics, only their values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX, Canvas
from predboard.drawing.palette import FAINT, INK, RIGHT, TRACK, UNKNOWN, WRONG
from predboard.summaries import Pixels


@dataclass(frozen=True)
class Shift:
    """A share before and after."""

    name: str
    before: float
    after: float
    lower: float
    upper: float
    """Ends of the interval of `after`."""
    note: str = ""
    """Written at the end of the line."""


def draw_shifts(title: str, shifts: Sequence[Shift], before: str, after: str, note: str = "") -> Pixels:
    """Draw each share as a grey dot, and where it moves to as a dot with its interval: blue if up, else vermillion.

    Args:
        title: of the picture.
        shifts: at most 14, from the top.
        before, after: what the two dots are.
        note: what `Shift.note` is.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, right, top = 136, WIDTH_PX - 78, 34
    end = math.ceil(10 * max([0.1, *(max(s.upper, s.before) for s in shifts)])) / 10

    def x(share: float) -> float:
        return left + share / end * (right - left)

    canvas.text((8, 14), title, WIDTH_PX - 16, 11, FAINT)
    canvas.draw.ellipse((8, 21, 14, 27), fill=UNKNOWN)
    used = canvas.text((18, 28), before, 110, 10, FAINT)
    canvas.draw.ellipse((18 + used + 10, 20, 18 + used + 18, 28), fill=RIGHT)
    canvas.text((18 + used + 22, 28), after, WIDTH_PX - used - 130, 10, FAINT)
    canvas.text((WIDTH_PX - 6, 28), note, 70, 10, FAINT, anchor="rs")
    height = min((HEIGHT_PX - top - 6) / max(len(shifts), 1), 22)
    for i, shift in enumerate(shifts):
        y = top + (i + 0.5) * height
        colour = RIGHT if shift.after >= shift.before else WRONG
        canvas.draw.line((left, y, right, y), fill=TRACK)
        canvas.text((left - 8, y + 4), shift.name, left - 12, 11, INK, anchor="rs")
        canvas.dot_with_interval(x(shift.after), y, x(shift.lower), x(shift.upper), colour)
        at = x(shift.before)
        canvas.draw.ellipse((at - 3, y - 3, at + 3, y + 3), fill=UNKNOWN)
        canvas.text((WIDTH_PX - 42, y + 4), f"{shift.after:.2f}", 34, 11, INK, bold=True, anchor="rs")
        canvas.text((WIDTH_PX - 6, y + 4), shift.note, 34, 10, FAINT, anchor="rs")
    return canvas.pixels
