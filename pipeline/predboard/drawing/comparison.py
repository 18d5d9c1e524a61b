"""Two steps side by side: the card of a comparison, tiles, differences with intervals. It knows no metrics.

Blue means better and vermillion means worse, as right and wrong do elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX, Canvas
from predboard.drawing.card_matrix import MatrixCell, draw_card_matrix
from predboard.drawing.fonts import MIN_SIZE_PX, measure_text, wrap_text
from predboard.drawing.palette import (
    FAINT,
    INK,
    REFERENCE_LINE,
    RIGHT,
    TRACK,
    UNKNOWN,
    WRONG,
    Colour,
)
from predboard.drawing.tiles import TEXT_LEFT_PX, TEXT_WIDTH_PX, begin_tile, write_name
from predboard.formatting import percent, shorten, signed
from predboard.summaries import Pixels

_UNDECIDED_CELL: Colour = (205, 205, 205)
"""A pair of sides whose difference may be chance."""


@dataclass(frozen=True)
class SidePrediction:
    """The prediction of one of two steps for an image."""

    side: str
    """Name of the step."""
    predicted: str
    confidence: float


@dataclass(frozen=True)
class PairTileText:
    """The text beside a picture that two steps have predicted."""

    verdict: str
    true: str
    old: SidePrediction
    new: SidePrediction
    name: str
    """Name of the image."""
    shared: int = 0
    """Characters at the beginning of the name that all names beside it have."""


def draw_pair_tile(picture: Image.Image | None, text: PairTileText) -> Image.Image:
    """Draw a fitted picture and, to its right, the true class and both predictions, the old one above the new.

    The frame is blue if the new prediction is right, and vermillion if it is wrong.

    Returns:
        RGB, 350 × 215 pixels.
    """
    colour, mark = (RIGHT, "✓") if text.new.predicted == text.true else (WRONG, "✗")
    headings = ((19, f"{mark} {text.verdict}", 13, colour, True), (37, "true", 10, FAINT, False))
    canvas, left, width = begin_tile(picture, colour, headings), TEXT_LEFT_PX, TEXT_WIDTH_PX
    canvas.text((left, 52), text.true, width, 13, INK, bold=True)
    for top, prediction in ((76, text.old), (128, text.new)):
        colour = RIGHT if prediction.predicted == text.true else WRONG
        confidence = percent(prediction.confidence)
        number = canvas.text((left + width, top), confidence, 60, 11, INK, bold=True, anchor="rs")
        canvas.text((left, top), prediction.side, width - number - 5, 10, FAINT)
        canvas.text((left, top + 16), prediction.predicted, width, 12, colour, bold=True)
        canvas.bar(left, top + 21, width, 6, prediction.confidence, colour)
    write_name(canvas, text.name.rpartition("/")[2], text.shared - text.name.rfind("/") - 1, 195)
    return canvas.image


@dataclass(frozen=True)
class DifferenceLine:
    """A difference with its interval, one line of `draw_differences`."""

    name: str
    value: float
    lower: float
    upper: float
    note: str = ""
    """Written at the end of the line."""

    @property
    def colour(self) -> Colour:
        """Blue if it is better for certain, vermillion if it is worse, grey if its interval has 0 or no width."""
        if self.lower == self.upper:
            return UNKNOWN
        return RIGHT if self.lower > 0 else WRONG if self.upper < 0 else UNKNOWN


def draw_differences(title: str, lines: Sequence[DifferenceLine], note: str, cut: int = 0) -> Pixels:
    """Draw differences in percentage points as dots with their intervals, one below the other, around a line at 0.

    Args:
        title: of the picture.
        lines: at most twelve; numbers are shares.
        note: heading of the notes of the lines.
        cut: the line above which others were left out; 0 if none were.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, right, top, bottom = 138, WIDTH_PX - 124, 40, HEIGHT_PX - 6
    low = min([0.0, *(line.lower for line in lines)])
    high = max([0.0, *(line.upper for line in lines)])
    extent = max(high - low, 1e-9)

    def x(value: float) -> float:
        return left + 4 + (value - low) / extent * (right - left - 8)

    canvas.text((8, 15), title, WIDTH_PX - 16, 11, FAINT)
    canvas.text((x(0), 33), "0", 40, 10, FAINT, anchor="ms")
    canvas.text((WIDTH_PX - 76, 33), "points", 44, 10, FAINT, anchor="rs")
    canvas.text((WIDTH_PX - 6, 33), note, 68, 10, FAINT, anchor="rs")
    height = min((bottom - top) / max(len(lines), 1), 24)
    canvas.draw.line((x(0), 37, x(0), top + len(lines) * height), fill=REFERENCE_LINE)
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * height
        if cut and i == cut:
            canvas.draw.line((8, y - height / 2, left - 12, y - height / 2), fill=TRACK)
        canvas.text((left - 8, y + 4), line.name, left - 14, 11, INK, anchor="rs")
        canvas.dot_with_interval(x(line.value), y, x(line.lower), x(line.upper), line.colour)
        canvas.text((WIDTH_PX - 76, y + 4), signed(100 * line.value, 1), 44, 11, INK, bold=True, anchor="rs")
        canvas.text((WIDTH_PX - 6, y + 4), line.note, 68, 10, FAINT, anchor="rs")
    return canvas.pixels


@dataclass(frozen=True)
class ComparisonCard:
    """The content of a comparison's card."""

    sentence: str
    """The result in one sentence."""
    accuracy: DifferenceLine | None
    """Difference of the accuracies; None without images that can be compared."""
    sides: tuple[tuple[str, float], tuple[str, float]] | None
    """Name and accuracy of the old step and of the new one."""
    fixed: int
    broken: int
    facts: Sequence[tuple[str, str]]
    """(name, value)."""
    worst: Sequence[tuple[str, str, DifferenceLine]]
    """(class, fixed and broken, change of its recall), the greatest loss first."""
    moves: Sequence[tuple[str, str, str]]
    """(true class, class predicted now, images), the most frequent new confusions."""
    notes: Sequence[str]
    headline: str = "accuracy"
    """Name of the metric of `accuracy`."""
    worst_heading: str = "classes, the worst first"
    moves_heading: str = "broken most often: true → now"


_LEFT_PX, _SPLIT_PX = 8, 150
"""Left edge of the card's first column, and where the second one begins."""


def draw_comparison_card(card: ComparisonCard) -> Pixels:
    """Draw the one picture of a comparison that a busy reader needs.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    top = _write_sentence(canvas, card, _LEFT_PX, WIDTH_PX - 2 * _LEFT_PX)
    _draw_accuracy(canvas, card, top + 28)
    canvas.draw.line((_SPLIT_PX - 4, top + 6, _SPLIT_PX - 4, 184), fill=TRACK)
    _write_changes(canvas, card, top + 14)
    canvas.warn(card.notes)
    return canvas.pixels


def _draw_accuracy(canvas: Canvas, card: ComparisonCard, y: int) -> None:
    """Draw the first column: the difference, both accuracies, fixed and broken images, facts."""
    left, width = _LEFT_PX, _SPLIT_PX - _LEFT_PX - 12
    if card.accuracy is None or card.sides is None:
        canvas.text((left, y), "nothing to compare", width, 16, UNKNOWN, bold=True)
    else:
        accuracy = card.accuracy
        used = canvas.text((left, y), signed(100 * accuracy.value, 1), width, 23, accuracy.colour, bold=True)
        canvas.text((left + used + 4, y), "points", width - used, 11, FAINT)
        ends = f"{signed(100 * accuracy.lower, 1)} to {signed(100 * accuracy.upper, 1)}"
        both = f"{card.headline}, {ends}"
        canvas.text((left, y + 13), both if measure_text(both, MIN_SIZE_PX) <= width else ends, width, 10, FAINT)
        _draw_ruler(canvas, accuracy, left, y + 23, width)
        for baseline, (name, share) in zip((y + 42, y + 55), card.sides, strict=True):
            number = canvas.text((left + width, baseline), percent(share), 50, 10, INK, bold=True, anchor="rs")
            canvas.text((left, baseline), name, width - number - 5, 10, FAINT)
        _draw_flips(canvas, card, left, y + 62, width)
        y += 82
    for name, value in card.facts:
        y += 14
        canvas.text((left, y), name, 74, 10, FAINT)
        canvas.text((left + width, y), value, 70, 10, INK, anchor="rs")


def _write_changes(canvas: Canvas, card: ComparisonCard, y: int) -> None:
    """Write the second column: the classes that lost most, and the most frequent new confusions."""
    x, width = _SPLIT_PX + 4, WIDTH_PX - _SPLIT_PX - 10
    if card.worst:
        canvas.text((x, y), card.worst_heading, width - 60, 10, FAINT)
        canvas.text((x + width, y), "points", 55, 10, FAINT, anchor="rs")
    for name, flips, change in card.worst:
        y += 14
        points = signed(100 * change.value, 1)
        number = canvas.text((x + width, y), points, 44, 11, change.colour, bold=True, anchor="rs")
        used = canvas.text((x + width - 46, y), flips, 60, 10, FAINT, anchor="rs")
        canvas.text((x, y), name, width - 50 - max(used, number) - 4, 11, INK)
    if card.moves:
        y += 20
        canvas.text((x, y), card.moves_heading, width, 10, FAINT)
    for true, now, images in card.moves:
        y += 14
        canvas.transition((x, y), width, true, now, images, 50)


def _write_sentence(canvas: Canvas, card: ComparisonCard, left: int, width: int) -> int:
    """Write the sentence on at most three lines, and return the baseline of the last one. Names give way to numbers."""
    for limit in (200, *range(40, 4, -4)):
        text = card.sentence
        for name, _ in sorted(card.sides or (), key=lambda side: -len(side[0])):
            text = text.replace(name, shorten(name, limit))
        lines, size, fits = wrap_text(text, width, 11, 3)
        if fits:
            break
    for i, line in enumerate(lines):
        canvas.text((left, 14 + 13 * i), line, width, size, INK)
    return 1 + 13 * len(lines)


def _draw_ruler(canvas: Canvas, line: DifferenceLine, left: int, y: int, width: int) -> None:
    """Draw the interval of a difference on a line that includes 0."""
    low, high = min(line.lower, 0.0), max(line.upper, 0.0)
    extent = max(high - low, 1e-9)

    def x(value: float) -> float:
        return left + 5 + (value - low) / extent * (width - 10)

    canvas.draw.line((left, y, left + width, y), fill=TRACK)
    canvas.draw.line((x(0), y - 5, x(0), y + 5), fill=INK)
    canvas.dot_with_interval(x(line.value), y, x(line.lower), x(line.upper), line.colour, thickness=3)


def _draw_flips(canvas: Canvas, card: ComparisonCard, left: int, top: int, width: int) -> None:
    """Draw fixed and broken images as the two parts of a bar, with their numbers below."""
    total = card.fixed + card.broken
    share = card.fixed / total if total else 0.0
    canvas.bar(left, top, width, 8, share, RIGHT, WRONG if total else TRACK)
    canvas.text((left, top + 20), f"{card.fixed:,} fixed", width / 2, 10, RIGHT, bold=True)
    canvas.text((left + width, top + 20), f"{card.broken:,} broken", width / 2, 10, WRONG, bold=True, anchor="rs")


def draw_all_pairs(
    names: Sequence[str], changes: Sequence[Sequence[DifferenceLine | None]], more: str = "", words: str = "accuracy"
) -> Pixels:
    """Draw every side against every other: a metric of the row minus that of the column, in percentage points.

    A cell is blue where the row is better for certain, vermillion where it is worse, and grey where the interval
    contains 0.

    Args:
        names: of the sides, the most accurate first.
        changes: [sides, sides]; None where there is nothing to compare, and on the diagonal.
        more: which sides these are, at the beginning of the heading.
        words: name of the metric.

    Returns:
        [215, 350, 3] uint8.
    """

    def cell(change: DifferenceLine | None) -> MatrixCell | None:
        if change is None:
            return None
        points = 100 * change.value
        colour = _UNDECIDED_CELL if change.colour == UNKNOWN else change.colour
        return MatrixCell([signed(points, 1), signed(points) if round(points) else "0"], colour)

    key = ((RIGHT, "better"), (WRONG, "worse"), (_UNDECIDED_CELL, "not distinguishable"))
    cells = [[cell(change) for change in row] for row in changes]
    return draw_card_matrix(f"{more}{words} of the row minus that of the column, in points", names, cells, key)
