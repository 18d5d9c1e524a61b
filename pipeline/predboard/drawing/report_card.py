"""The report card: one picture that says how good a model is. It knows no metrics, only the numbers it is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from predboard.drawing.canvas import HEIGHT_PX, SUPERSAMPLING, WIDTH_PX, Canvas
from predboard.drawing.palette import FAINT, INK, PAPER, RIGHT, RIGHT_BAND, TRACK, UNKNOWN, WRONG
from predboard.formatting import percent
from predboard.summaries import Pixels

_LEFT_PX, _SPLIT_PX = 8, 128
"""Left edge of the first column, and where the second one begins."""


@dataclass(frozen=True)
class ReportCard:
    """The content of a report card."""

    title: str
    accuracy: tuple[float, float, float] | None
    """Point, lower and upper end of the 95 % interval of the headline, a share; None without labelled images."""
    facts: Sequence[tuple[str, str]]
    """(name, value)."""
    worst: Sequence[tuple[str, float, str]]
    """(class, the share by which it is among the worst, such as its recall, and a count)."""
    pairs: Sequence[tuple[str, str, str]]
    """(true class, predicted class, images)."""
    warnings: Sequence[str]
    trend: Sequence[tuple[int, float, float, float]] = ()
    """Accuracy over the steps: step, point, lower and upper end; drawn if there are two or more."""
    step: int = 0
    """The step of this card, which is marked in the trend."""
    headline: str = "accuracy"
    """Name of the headline."""
    worst_title: str = "worst classes, by recall"
    no_worst: str = "no class was missed"
    """Title where `worst` is empty."""
    pairs_title: str = "most confused: true → predicted"
    no_headline: str = "no labels"
    """Written in place of the headline where there is none."""


def draw_report_card(card: ReportCard) -> Pixels:
    """Draw the card: accuracy and counts on the left, worst classes and confusions on the right, a warning below.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    canvas.text((_LEFT_PX, 15), card.title, WIDTH_PX - 2 * _LEFT_PX, 11, FAINT)
    _draw_numbers(canvas, card)
    canvas.draw.line((_SPLIT_PX - 4, 24, _SPLIT_PX - 4, 184), fill=TRACK)
    _draw_classes(canvas, card)
    canvas.warn(card.warnings)
    return canvas.pixels


def _draw_numbers(canvas: Canvas, card: ReportCard) -> None:
    left, width = _LEFT_PX, _SPLIT_PX - _LEFT_PX
    if card.accuracy is None:
        canvas.text((left, 48), card.no_headline, width - 8, 20, UNKNOWN, bold=True)
    else:
        point, lower, upper = card.accuracy
        canvas.text((left, 48), percent(point), width - 8, 25, INK, bold=True)
        canvas.text((left, 62), f"{card.headline}, {100 * lower:.1f}–{100 * upper:.1f}", width - 6, 10, FAINT)
        canvas.bar(left, 68, width - 14, 6, point, RIGHT, WRONG)
    has_trend = len(card.trend) > 1
    baseline, row_height = (93, 15) if has_trend else (96, 17)
    for name, value in card.facts:
        canvas.text((left, baseline), name, 62, 10, FAINT)
        canvas.text((_SPLIT_PX - 14, baseline), value, 62, 10, INK, anchor="rs")
        baseline += row_height
    if has_trend:
        first_step, first_accuracy, *_ = card.trend[0]
        canvas.text((left, 152), f"from {percent(first_accuracy)} at step {first_step}", width - 14, 10, FAINT)
        _draw_trend(canvas, card, left, 158, width - 46, 27)


def _draw_classes(canvas: Canvas, card: ReportCard) -> None:
    x, width = _SPLIT_PX + 4, WIDTH_PX - _SPLIT_PX - 10
    if card.accuracy is not None:
        canvas.text((x, 33), card.worst_title if card.worst else card.no_worst, width, 10, FAINT)
    baseline = 47
    for name, recall, count in card.worst:
        used = canvas.text((x + width, baseline), count, 105, 10, FAINT, anchor="rs")
        used += canvas.text((x + width - used - 6, baseline), percent(recall), 50, 11, INK, bold=True, anchor="rs") + 6
        canvas.text((x, baseline), name, width - used - 8, 11, INK)
        canvas.bar(x, baseline + 3, width, 4, recall, RIGHT, WRONG)
        baseline += 21
    if card.pairs:
        baseline = max(baseline + 7, 117)
        canvas.text((x, baseline), card.pairs_title, width, 10, FAINT)
    for true, predicted, count in card.pairs:
        baseline += 15
        canvas.transition((x, baseline), width, true, predicted, count, 90)


def _draw_trend(canvas: Canvas, card: ReportCard, left: int, top: int, width: int, height: int) -> None:
    """Draw accuracy over the steps with its band, a dot at the card's step, and the last value at the curve's end."""
    steps, points, lower, upper = (np.array(column, float) for column in zip(*card.trend, strict=True))
    lowest, highest = float(lower.min()), float(upper.max())
    x = (steps - steps[0]) / (steps[-1] - steps[0]) * (width - 6) + 3

    def y(share: NDArray[np.float64]) -> NDArray[np.float64]:
        return (highest - share) / max(highest - lowest, 1e-9) * (height - 6) + 3

    large = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), PAPER)
    drawing = ImageDraw.Draw(large)
    band = [*zip(x, y(upper), strict=True), *zip(x[::-1], y(lower)[::-1], strict=True)]
    drawing.polygon([(float(a) * SUPERSAMPLING, float(b) * SUPERSAMPLING) for a, b in band], fill=RIGHT_BAND)
    line = [(float(a) * SUPERSAMPLING, float(b) * SUPERSAMPLING) for a, b in zip(x, y(points), strict=True)]
    drawing.line(line, fill=RIGHT, width=round(1.6 * SUPERSAMPLING), joint="curve")
    for (a, b), step in zip(line, steps.tolist(), strict=True):
        if step == card.step:
            drawing.ellipse((a - 11, b - 11, a + 11, b + 11), fill=INK)
    canvas.image.paste(large.reduce(SUPERSAMPLING), (left, top))
    label_y = min(max(top + float(y(points)[-1]) + 4, top + 9), top + height)
    canvas.text((left + width + 3, label_y), percent(points[-1]).removesuffix(" %"), 32, 10, RIGHT, bold=True)
