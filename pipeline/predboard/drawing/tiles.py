"""Source pictures with words beside them: tiles, the contact sheet, the Projector's sprite. It knows no metrics."""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX, Canvas
from predboard.drawing.fonts import break_name
from predboard.drawing.palette import EMPTY_FRAME, FAINT, INK, PAPER, RIGHT, TRACK, UNKNOWN, WRONG, Colour
from predboard.formatting import percent
from predboard.summaries import Pixels

PICTURE_SIDE_PX = 196
"""Side of the square that a tile's picture fills: 7 × 28, and close to 3 × 64 and 6 × 32."""

MIN_SOURCE_SIDE_PX = 2 * PICTURE_SIDE_PX
"""A source picture decoded to at least this size loses nothing that its tile would show."""

SHEET_COLUMNS = 4
"""Pictures side by side in a contact sheet of the width of a card."""

SHEET_PICTURE_PX = 76
"""Side of the square that a picture of a contact sheet fills."""

_FRAME_PX, _MARGIN_PX = 4, 5
"""Width of the frame around a tile's picture, and of the white margin around the frame."""

TEXT_LEFT_PX = _MARGIN_PX + 2 * _FRAME_PX + PICTURE_SIDE_PX + 7
"""Distance of a tile's text from its left side."""

TEXT_WIDTH_PX = WIDTH_PX - TEXT_LEFT_PX - 4

TileLine = tuple[int, str, int, Colour, bool]
"""Baseline, text, size, colour and whether it is bold."""


@dataclass(frozen=True)
class TileText:
    """The text beside a picture: the true class, and what the model predicted."""

    true: str | None
    """Name of the true class; None if it is unknown."""
    top: Sequence[tuple[str, float]]
    """Classes with the highest probabilities, highest first; the first is the prediction."""
    name: str
    """Name of the image, such as its path."""
    id: int
    """Row of the image in the predictions."""
    loss: float | None = None
    """Negative log-likelihood of the true class, nats; None if it is unknown."""
    shared: int = 0
    """Characters at the beginning of the name that all names beside it have."""


def fit_picture(picture: Image.Image, side: int = PICTURE_SIDE_PX) -> tuple[Image.Image, bool]:
    """Enlarge or reduce a picture to fit a square.

    Small pictures grow by a whole factor without smoothing, so that their own pixels are seen; large ones are reduced
    with smoothing.

    Args:
        picture: RGB, of any size.
        side: of the square, pixels.

    Returns:
        The fitted picture, and whether it has the original's own pixels (enlarged, or left as it was).
    """
    longest = max(picture.size)
    if longest <= side:
        factor = side // longest
        if factor == 1:
            return picture, True
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST), True
    scale = side / longest
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0), False


@functools.lru_cache(32)  # of 300 kB each
def _background(colour: Colour, lines: tuple[TileLine, ...], missing: bool) -> Image.Image:
    """Draw what many tiles share: the frame, empty or with the note that the picture is missing, and fixed lines."""
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    inner, end = _MARGIN_PX + _FRAME_PX, _MARGIN_PX + _FRAME_PX + PICTURE_SIDE_PX
    outer = (_MARGIN_PX, _MARGIN_PX, end + _FRAME_PX - 1, end + _FRAME_PX - 1)
    canvas.draw.rectangle(outer, fill=colour)
    canvas.draw.rectangle((inner, inner, end - 1, end - 1), fill=EMPTY_FRAME)
    if missing:
        middle = inner + PICTURE_SIDE_PX / 2
        canvas.text((middle, middle), "picture not found", PICTURE_SIDE_PX, 12, FAINT, anchor="ms")
    for baseline, text, size, ink, bold in lines:
        canvas.text((TEXT_LEFT_PX, baseline), text, TEXT_WIDTH_PX, size, ink, bold)
    return canvas.image


def begin_tile(picture: Image.Image | None, colour: Colour, lines: tuple[TileLine, ...]) -> Canvas:
    """Draw a tile's framed picture, and beside it the lines that it shares with many other tiles.

    Args:
        picture: fitted; None if it was not found.
        colour: of the frame.
        lines: text that many tiles have in common, which is drawn once for all of them.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX, _background(colour, lines, picture is None))
    if picture is not None:
        inner = _MARGIN_PX + _FRAME_PX
        left, top = (inner + (PICTURE_SIDE_PX - side) // 2 for side in picture.size)
        canvas.image.paste(picture, (left, top))
    return canvas


def draw_tile(picture: Image.Image | None, text: TileText) -> Image.Image:
    """Draw a fitted picture and, to its right, the true class and the predictions.

    The frame is blue if the prediction is right, vermillion if it is wrong, and grey without a label.

    Returns:
        RGB, 350 × 215 pixels.
    """
    predicted = text.top[0][0] if text.top else None
    right = None if text.true is None else predicted == text.true
    colour, verdict = (UNKNOWN, "no label") if right is None else (RIGHT, "✓ right") if right else (WRONG, "✗ wrong")
    headings = (
        (19, verdict, 13, colour, True),
        (36, "true", 10, FAINT, False),
        (73, "predicted", 10, FAINT, False),
    )
    canvas, left, width = begin_tile(picture, colour, headings), TEXT_LEFT_PX, TEXT_WIDTH_PX
    canvas.text((left, 51), text.true or "unknown", width, 13, INK if text.true else FAINT, bold=True)
    baseline = 88
    for rank, (name, p) in enumerate(text.top):
        bar = RIGHT if name == text.true else colour if rank == 0 else UNKNOWN
        number = canvas.text((left + width, baseline), percent(p), 60, 11, INK, bold=rank == 0, anchor="rs")
        canvas.text((left, baseline), name, width - number - 5, 12 if rank == 0 else 11, INK, bold=rank == 0)
        canvas.bar(left, baseline + 4, width, 6, p, bar)
        baseline += 29
    # The folder is usually the class, which is written above: it is the first to go.
    lines = write_name(canvas, text.name, text.shared, 194)
    row, loss = f"row {text.id}", "" if text.loss is None else f"loss {text.loss:.2f}"
    if lines > 1:
        canvas.text((left, 181), f"{loss} · {row}" if loss else row, width, 10, FAINT)
    else:
        canvas.text((left, 181), f"{loss} nats" if loss else "", width, 10, FAINT)
        canvas.text((left, 194), row, width, 10, FAINT)
    return canvas.image


def write_name(canvas: Canvas, name: str, shared: int, first_baseline: int) -> int:
    """Write the name of a tile's image on its last line or the last two, and return on how many."""
    lines = break_name(name, shared, TEXT_WIDTH_PX, 10)
    for baseline, line in zip((first_baseline, 207)[-len(lines) :], lines, strict=True):
        canvas.text((TEXT_LEFT_PX, baseline), line, TEXT_WIDTH_PX, 10, FAINT)
    return len(lines)


def draw_contact_sheet(
    pictures: Sequence[tuple[Image.Image | None, str | None, str, int]],
    title: str,
    lines: Sequence[str],
    columns: int = SHEET_COLUMNS,
) -> Pixels:
    """Draw several pictures in a grid, each with its prediction below.

    Args:
        pictures: (picture or None if it was not found, true class or None, predicted class, 1 if that is right, 0 if it
            is wrong, -1 without label).
        title: of the sheet.
        lines: what to know about all of them, in small letters below the title.
        columns: pictures side by side.

    Returns:
        [height, width, 3] uint8; four columns are as wide as a card, 350 pixels. In a wider sheet the title is as much
        larger, so that it is legible when the sheet is shown at the size of a card.
    """
    picture_side, frame, gap, left = SHEET_PICTURE_PX, 3, 4, 3
    width = WIDTH_PX * columns // SHEET_COLUMNS
    scale = width / WIDTH_PX
    side = picture_side + 2 * frame
    pitch, row_height = side + gap, side + gap + 26
    heading = round(24 * scale)
    top = heading + 13 * len(lines)
    canvas = Canvas(width, top + row_height * -(-len(pictures) // columns))
    canvas.text((left, round(15 * scale)), title, width - 2 * left, round(12 * scale), INK, bold=True)
    for i, line in enumerate(lines):
        canvas.text((left, heading + 5 + 13 * i), line, width - 2 * left, 10, FAINT)
    for i, (picture, true, predicted, right) in enumerate(pictures):
        x, y = left + i % columns * pitch, top + i // columns * row_height
        colour = (WRONG, RIGHT, UNKNOWN)[right]
        canvas.draw.rectangle((x, y, x + side - 1, y + side - 1), fill=colour)
        inner = (x + frame, y + frame, x + frame + picture_side - 1, y + frame + picture_side - 1)
        canvas.draw.rectangle(inner, fill=EMPTY_FRAME)
        if picture is None:
            canvas.text((x + side / 2, y + side / 2), "not found", picture_side, 10, FAINT, anchor="ms")
        else:
            fitted, _ = fit_picture(picture, picture_side)
            canvas.image.paste(fitted, (x + (side - fitted.width) // 2, y + (side - fitted.height) // 2))
        mark = ("✗ ", "✓ ", "")[right]
        canvas.text((x, y + side + 11), f"{mark}{predicted}", side, 10, colour, bold=True)
        if right == 0:
            canvas.text((x, y + side + 22), f"true {true}", side, 10, INK)
    return canvas.pixels


def draw_sprite(pictures: Iterable[Image.Image | None], count: int, side: int) -> Image.Image | None:
    """Put pictures of at most `side` × `side` pixels into a square grid, row by row; grey where there is none.

    Each is pasted as it comes, so that no more than the grid is in memory. Returns None if there is no picture at all.
    """
    grid = math.ceil(math.sqrt(count))
    sprite, missing = None, []
    for i, picture in enumerate(pictures):
        left, top = i % grid * side, i // grid * side
        if picture is None:
            missing.append((left, top, left + side, top + side))
            continue
        if sprite is None:
            sprite = Image.new("RGB", (grid * side, grid * side), PAPER)
        sprite.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    if sprite is not None:
        for box in missing:
            sprite.paste(TRACK, box)
    return sprite
