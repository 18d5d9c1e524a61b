"""Plots: shares with their intervals, curves, and the reliability diagram. It knows no metrics, only their values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from predboard.drawing.canvas import HEIGHT_PX, SUPERSAMPLING, WIDTH_PX, Canvas
from predboard.drawing.palette import (
    FAINT,
    INK,
    PAPER,
    REFERENCE_LINE,
    RIGHT,
    RIGHT_PALE,
    TRACK,
    UNKNOWN,
    WRONG,
    WRONG_PALE,
    Colour,
)
from predboard.formatting import percent
from predboard.summaries import Pixels


@dataclass(frozen=True)
class IntervalLine:
    """A share with its interval, one line of `draw_intervals`."""

    name: str
    point: float
    lower: float
    upper: float
    note: str = ""
    """Written at the end of the line, such as the number of images."""


def draw_intervals(title: str, lines: Sequence[IntervalLine], reference: float, reference_name: str = "all") -> Pixels:
    """Draw shares as points with their intervals, one below the other, against a reference line.

    A line is vermillion where its whole interval is below the reference, blue where it is above, and grey otherwise, or
    if the interval has no width.
    The axis starts at the lowest lower end, rounded down to a tenth.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, right, top, bottom = 152, WIDTH_PX - 84, 40, HEIGHT_PX - 6  # room for "brightness 0.0586 to 0.0611"
    start = math.floor(10 * min([reference, *(line.lower for line in lines)])) / 10
    end = 1.0

    def x(share: float) -> float:
        return left + (share - start) / (end - start) * (right - left) if end > start else left

    canvas.text((8, 15), title, WIDTH_PX - 16, 11, FAINT)
    canvas.text((x(reference), 33), f"{reference_name} {percent(reference)}", 80, 10, FAINT, anchor="ms")
    height = min((bottom - top) / max(len(lines), 1), 24)
    canvas.draw.line((x(reference), 37, x(reference), top + len(lines) * height), fill=REFERENCE_LINE)
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * height
        colour = WRONG if line.upper < reference else RIGHT if line.lower > reference else UNKNOWN
        colour = UNKNOWN if line.lower == line.upper else colour
        canvas.text((left - 8, y + 4), line.name, left - 14, 11, INK, anchor="rs")
        canvas.dot_with_interval(x(line.point), y, x(line.lower), x(line.upper), colour)
        canvas.text((WIDTH_PX - 44, y + 4), percent(line.point), 44, 11, INK, bold=True, anchor="rs")
        canvas.text((WIDTH_PX - 6, y + 4), line.note, 36, 10, FAINT, anchor="rs")
    return canvas.pixels


@dataclass(frozen=True)
class Axis:
    """An axis of a plot."""

    title: str
    ticks: Sequence[tuple[float, str]]
    """(position from 0 to 1, label)."""


@dataclass(frozen=True)
class Curve:
    """A curve of a plot, and what is written beside its beginning."""

    x: NDArray[np.float64]
    """[points] positions from 0 to 1, ascending."""
    y: NDArray[np.float64]
    """[points] positions; what is beyond 0 to 1 is cut off."""
    name: str
    value: str
    colour: Colour
    thick: bool = False


class _Plot:
    """The rectangle of a plot, with smooth lines in it and crisp text around it."""

    def __init__(self, left: int, top: int, width: int, height: int) -> None:
        self.left, self.top, self.width, self.height = left, top, width, height
        self._large = Image.new("RGB", (WIDTH_PX * SUPERSAMPLING, HEIGHT_PX * SUPERSAMPLING), PAPER)
        self._draw = ImageDraw.Draw(self._large)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a position; both run from 0 to 1, y upwards."""
        return self.left + x * self.width, self.top + (1 - y) * self.height

    def line(self, pixels: Sequence[tuple[float, float]], colour: Colour, width: float = 1.0) -> None:
        points = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in pixels]
        self._draw.line(points, fill=colour, width=round(width * SUPERSAMPLING), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Draw a filled rectangle; its corners are pixels."""
        start = (round(left * SUPERSAMPLING), round(top * SUPERSAMPLING))
        end = (round(right * SUPERSAMPLING) - 1, round(bottom * SUPERSAMPLING) - 1)
        if end[0] >= start[0] and end[1] >= start[1]:
            self._draw.rectangle((*start, *end), fill=colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        corners = (x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse([corner * SUPERSAMPLING for corner in corners], fill=colour)

    def grid(self, x: Axis, y: Axis) -> None:
        for position, _ in x.ticks:
            self.line([self.pixel(position, 0), self.pixel(position, 1)], TRACK)
        for position, _ in y.ticks:
            self.line([self.pixel(0, position), self.pixel(1, position)], TRACK)

    def with_axes(self, x: Axis, y: Axis, y_on_right: bool) -> Canvas:
        """Reduce what was drawn to its final size, and write the labels and titles of both axes around it."""
        canvas = Canvas(WIDTH_PX, HEIGHT_PX)
        canvas.image.paste(self._large.reduce(SUPERSAMPLING))
        end = self.left + self.width
        for position, label in x.ticks:
            anchor = "rs" if position == 1 and not y_on_right else "ms"
            at = (self.pixel(position, 0)[0], self.top + self.height + 13)
            canvas.text(at, label, 50, 10, FAINT, anchor=anchor)
        middle = self.left + self.width / 2
        canvas.text((middle, HEIGHT_PX - 8), x.title, 2 * min(middle, WIDTH_PX - middle) - 8, 10, FAINT, anchor="ms")
        for position, label in y.ticks:
            place = (end + 5 if y_on_right else self.left - 5, self.pixel(0, position)[1] + 4)
            room = WIDTH_PX - end - 5 if y_on_right else self.left
            canvas.text(place, label, room, 10, FAINT, anchor="ls" if y_on_right else "rs")
        canvas.text((end, self.top - 7), y.title, self.width, 10, FAINT, anchor="rs")
        return canvas


def draw_curves(title: str, x: Axis, y: Axis, curves: Sequence[Curve], mark: float | None = None) -> Pixels:
    """Draw curves, each with its name and number to the left of where it begins.

    Args:
        title: heading of the numbers.
        x: the horizontal axis.
        y: the vertical axis, which is written on the right.
        curves: at most eight; the first is drawn last, above the others.
        mark: position on the horizontal axis of an upright line.

    Returns:
        [215, 350, 3] uint8.
    """
    plot = _Plot(128, 25, 184, 148)
    plot.grid(x, y)
    if mark is not None:
        plot.line([plot.pixel(mark, 0), plot.pixel(mark, 1)], REFERENCE_LINE)
    starts = [plot.pixel(0, min(max(float(c.y[0]), 0.0), 1.0))[1] for c in curves]
    labels = _spread_apart(starts, 15, plot.top + 2, plot.top + plot.height - 2)
    for curve, label, start in reversed(list(zip(curves, labels, starts, strict=True))):
        width = 2.2 if curve.thick else 1.4
        plot.line([(plot.left - 9, label), (plot.left - 1, start)], curve.colour, width)
        points = zip(curve.x.clip(0, 1).tolist(), curve.y.clip(0, 1).tolist(), strict=True)
        plot.line([plot.pixel(*point) for point in points], curve.colour, width)
    canvas = plot.with_axes(x, y, y_on_right=True)
    right = plot.left - 12
    canvas.text((right, plot.top - 7), title, right - 4, 10, FAINT, anchor="rs")
    for curve, label in zip(curves, labels, strict=True):
        number = canvas.text((right, label + 4), curve.value, 60, 11, INK, bold=True, anchor="rs")
        canvas.text((right - number - 5, label + 4), curve.name, right - number - 9, 11, INK, anchor="rs")
    return canvas.pixels


def _spread_apart(wanted: Sequence[float], gap: float, lowest: float, highest: float) -> list[float]:
    """Return positions as near the wanted ones as possible, no two of them nearer to each other than a gap.

    >>> _spread_apart([10, 30, 12], 6, 0, 100), _spread_apart([99, 98], 6, 0, 100)
    ([8.0, 30.0, 14.0], [100, 94])
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    blocks: list[tuple[float, list[int]]] = []  # position of the first, and those that follow it at the smallest gap
    for i in order:
        members = [i]
        while True:
            first = sum(wanted[m] - gap * k for k, m in enumerate(members)) / len(members)
            first = max(min(first, highest - gap * (len(members) - 1)), lowest)
            if not blocks or blocks[-1][0] + gap * len(blocks[-1][1]) <= first:
                break
            members = blocks.pop()[1] + members
        blocks.append((first, members))
    positions = {m: first + gap * k for first, members in blocks for k, m in enumerate(members)}
    return [positions[i] for i in range(len(wanted))]


@dataclass(frozen=True)
class ReliabilityBin:
    """Images of about the same confidence."""

    left: float
    right: float
    """Edges of the bin, confidence from 0 to 1."""
    confidence: float
    """Mean over the images."""
    accuracy: float
    lower: float
    upper: float
    """Ends of the 95 % interval of the accuracy."""
    rows: int


def draw_reliability(
    bins: Sequence[ReliabilityBin],
    facts: Sequence[tuple[str, str]],
    verdict: str,
    words: tuple[str, str, str] = ("confidence", "accuracy", "images"),
) -> Pixels:
    """Draw accuracy over confidence with intervals, a histogram of the images below it, and numbers beside it.

    A bar runs from the mean confidence to the accuracy: vermillion where the confidence is too high, else blue.

    Args:
        bins: those that contain images.
        facts: (name, value), at most eight.
        verdict: the heading of the numbers, such as "over-confident".
        words: what the axes are, and what is counted.

    Returns:
        [215, 350, 3] uint8.
    """
    plot = _Plot(36, 25, 156, 122)
    ticks = [(0.0, "0"), (0.25, ""), (0.5, "50"), (0.75, ""), (1.0, "100 %")]
    x, y = Axis(words[0], ticks), Axis(words[1], [*ticks[:-1], (1.0, "100")])
    plot.grid(Axis("", ticks), y)
    plot.line([plot.pixel(0, 0), plot.pixel(1, 1)], FAINT)
    most_rows, histogram_top = max((b.rows for b in bins), default=1), plot.top + plot.height + 17
    for b in bins:
        too_sure = b.confidence > b.accuracy
        colour, pale = (WRONG, WRONG_PALE) if too_sure else (RIGHT, RIGHT_PALE)
        left, right = plot.pixel(b.left, 0)[0] + 1, plot.pixel(b.right, 0)[0] - 1
        middle = plot.pixel(b.confidence, 0)[0]
        plot.box(left, plot.pixel(0, b.upper)[1], right, plot.pixel(0, b.lower)[1], pale)
        plot.line([plot.pixel(b.confidence, b.confidence), plot.pixel(b.confidence, b.accuracy)], colour, 1.5)
        plot.dot(middle, plot.pixel(0, b.accuracy)[1], 3, colour)
        height = max(20 * float(np.sqrt(b.rows / most_rows)), 1)
        plot.box(left, histogram_top + 20 - height, right, histogram_top + 20, UNKNOWN)
    canvas = plot.with_axes(x, y, y_on_right=False)
    left, width = 212, WIDTH_PX - 212 - 6
    canvas.text((left, 18), verdict, width, 12, INK, bold=True)
    for i, (name, value) in enumerate(facts):
        number = canvas.text((left + width, 40 + 17 * i), value, 70, 11, INK, bold=True, anchor="rs")
        canvas.text((left, 40 + 17 * i), name, width - number - 5, 11, FAINT)
    canvas.text((left, histogram_top + 11), f"{words[2]}, up to {most_rows:,}", width, 10, FAINT)
    canvas.text((left, histogram_top + 23), "(square-root scale)", width, 10, FAINT)
    return canvas.pixels
