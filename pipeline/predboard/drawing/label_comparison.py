"""Pictures with the decisions on their labels that two steps made differently. It knows no metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from predboard.drawing.palette import FAINT, INK, RIGHT, WRONG, Colour
from predboard.drawing.tiles import TEXT_LEFT_PX, TEXT_WIDTH_PX, begin_tile, write_name
from predboard.formatting import percent

_GROUPS: tuple[tuple[str, str, Colour], ...] = (
    ("lost", "missed now", WRONG),
    ("added", "wrongly predicted now", WRONG),
    ("gained", "found now", RIGHT),
    ("dropped", "no longer predicted", RIGHT),
    ("still_missed", "missed by both", INK),
    ("still_wrong", "wrongly predicted by both", INK),
)
"""Sets of labels in their order, with the heading and colour of each."""

_LOWEST_PX = 150
"""Labels are written down to here."""


@dataclass(frozen=True)
class LabelPairText:
    """The text beside a picture on whose labels two steps have decided."""

    verdict: str
    is_right: bool
    """Whether the new step's set is right."""
    sets: Mapping[str, tuple[list[str], int]]
    """Names of the first labels of each set, and how many it has."""
    sides: tuple[tuple[str, float], tuple[str, float]]
    """Name of each step, and its probability of just the set that it predicts."""
    name: str
    """Name of the image."""
    shared: int = 0
    """Characters at the beginning of the name that all names beside it have."""


def draw_label_pair_tile(picture: Image.Image | None, text: LabelPairText) -> Image.Image:
    """Draw a fitted picture and, to its right, which decisions changed, and how probable each step's set is.

    The frame is blue if the new set is right, and vermillion if it is wrong.

    Returns:
        RGB, 350 × 215 pixels.
    """
    colour, mark = (RIGHT, "✓") if text.is_right else (WRONG, "✗")
    canvas = begin_tile(picture, colour, ((19, f"{mark} {text.verdict}", 13, colour, True),))
    left, width, baseline = TEXT_LEFT_PX, TEXT_WIDTH_PX, 36
    shown = [group for group in _GROUPS if text.sets[group[0]][1]]
    for i, (name, heading, ink) in enumerate(shown):
        names, count = text.sets[name]
        room = _LOWEST_PX - baseline - 28 * (len(shown) - 1 - i)  # the other groups need this much
        fitting = names[: max((room - 2) // 13, 1)]
        more = count - len(fitting)
        number = canvas.text((left + width, baseline), f"+{more:,}" if more else "", 60, 10, FAINT, anchor="rs")
        canvas.text((left, baseline), heading, width - number - 4, 10, FAINT)
        for label in fitting:
            baseline += 13
            canvas.text((left, baseline), label, width, 11, ink, bold=ink != INK)
        baseline += 15
    for top, (side, confidence) in zip((166, 179), text.sides, strict=True):
        number = canvas.text((left + width, top), f"set p {percent(confidence)}", 80, 10, FAINT, anchor="rs")
        canvas.text((left, top), side, width - number - 5, 10, FAINT)
    write_name(canvas, text.name.rpartition("/")[2], text.shared - text.name.rfind("/") - 1, 195)
    return canvas.image
