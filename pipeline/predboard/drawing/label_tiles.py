"""Source pictures with their decisions beside them: labels missed, wrongly predicted and right. It knows no metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from predboard.drawing.canvas import Canvas
from predboard.drawing.palette import FAINT, INK, RIGHT, UNKNOWN, WRONG, Colour
from predboard.drawing.tiles import TEXT_LEFT_PX, TEXT_WIDTH_PX, begin_tile, write_name
from predboard.formatting import percent, plural

Decisions = Sequence[tuple[str, float]]
"""Labels with their probabilities."""

LOWEST_BASELINE_PX = 170
"""Decisions are written down to here."""


@dataclass(frozen=True)
class LabelTileText:
    """The text beside a picture with several labels."""

    missed: Decisions
    """The first labels that are missed, the least probable first; `missed_count` says how many there are."""
    wrong: Decisions
    """The first labels that are wrongly predicted, the most probable first."""
    right: Decisions
    """The first labels that are predicted and true, the most probable first; without labels: those predicted."""
    missed_count: int
    wrong_count: int
    right_count: int
    is_labelled: bool
    name: str
    """Name of the image, such as its path."""
    id: int
    """Row of the image in the predictions."""
    loss: float | None = None
    """Binary cross-entropy, mean over labels, nats; None if it is unknown."""
    confidence: float | None = None
    """Probability of just this set of labels."""
    shared: int = 0
    """Characters at the beginning of the name that all names beside it have."""


def draw_label_tile(picture: Image.Image | None, text: LabelTileText) -> Image.Image:
    """Draw a fitted picture and, to its right, what was missed, what was wrongly predicted, and what is right.

    The frame is blue if the set of labels is right, vermillion if a label is missed or wrongly predicted, and grey
    without labels.

    Returns:
        RGB, 350 × 215 pixels.
    """
    errors = text.missed_count + text.wrong_count
    colour, verdict = (
        (UNKNOWN, "no labels")
        if not text.is_labelled
        else (WRONG, f"✗ {plural(errors, 'error')}")
        if errors
        else (RIGHT, "✓ right")
    )
    canvas = begin_tile(picture, colour, ((19, verdict, 13, colour, True),))
    baseline = 35
    right_heading = "right" if text.is_labelled else "predicted"
    groups = [
        ("missed", text.missed, text.missed_count, WRONG),
        ("wrongly predicted", text.wrong, text.wrong_count, WRONG),
        (right_heading, text.right, text.right_count, RIGHT if text.is_labelled else UNKNOWN),
    ]
    shown = [group for group in groups if group[2]]
    if not shown:
        empty = "none, and none predicted" if text.is_labelled else "none predicted"
        canvas.text((TEXT_LEFT_PX, baseline + 8), empty, TEXT_WIDTH_PX, 11, FAINT)
    for i, (heading, decisions, count, of_bar) in enumerate(shown):
        room = (LOWEST_BASELINE_PX - baseline) - 44 * (len(shown) - 1 - i)  # the other groups need this much
        baseline = _draw_group(canvas, baseline, room, heading, decisions, count, of_bar)
    lines = write_name(canvas, text.name, text.shared, 194)
    row, loss = f"row {text.id}", "" if text.loss is None else f"loss {text.loss:.2f}"
    if text.confidence is not None and lines == 1:
        loss = f"{loss} · set p {text.confidence:.2f}".removeprefix(" · ")
    if lines > 1:
        canvas.text((TEXT_LEFT_PX, 181), f"{loss} · {row}" if loss else row, TEXT_WIDTH_PX, 10, FAINT)
    else:
        canvas.text((TEXT_LEFT_PX, 181), loss, TEXT_WIDTH_PX, 10, FAINT)
        canvas.text((TEXT_LEFT_PX, 194), row, TEXT_WIDTH_PX, 10, FAINT)
    return canvas.image


def _draw_group(
    canvas: Canvas, baseline: int, room: int, heading: str, decisions: Decisions, count: int, colour: Colour
) -> int:
    """Write a heading and as many decisions below it as have room, each with its bar; return the next baseline."""
    left, width = TEXT_LEFT_PX, TEXT_WIDTH_PX
    fitting = decisions[: max((room - 14) // 23, 1)]
    more = count - len(fitting)
    number = canvas.text((left + width, baseline), f"+{more:,}" if more else "", 60, 10, FAINT, anchor="rs")
    canvas.text((left, baseline), heading, width - number - 4, 10, FAINT)
    for name, p in fitting:
        baseline += 14
        number = canvas.text((left + width, baseline), percent(p), 50, 11, INK, bold=True, anchor="rs")
        canvas.text((left, baseline), name, width - number - 5, 11, INK, bold=colour == WRONG)
        canvas.bar(left, baseline + 3, width, 4, p, colour)
        baseline += 9
    return baseline + 14
