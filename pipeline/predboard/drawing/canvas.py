"""A picture to write and draw on, at the size at which TensorBoard shows it. It knows nothing of classes or metrics.

TensorBoard enlarges and reduces pictures without smoothing, so everything is drawn at its final size.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from predboard.drawing.fonts import MIN_SIZE_PX, fit_text, measure_text, set_line, wrap_text
from predboard.drawing.palette import FAINT, INK, PAPER, TRACK, WARNING_INK, WARNING_PAPER, Colour
from predboard.summaries import Pixels

WIDTH_PX, HEIGHT_PX = 350, 215
"""Size of a tile and of a card: Time Series shows every picture 215 pixels high, Images shows it 350 wide."""

SUPERSAMPLING = 4
"""Curves are drawn this many times as large and then reduced, because Pillow's own lines are not smooth."""


class Canvas:
    """A picture to write and draw on."""

    def __init__(self, width: int, height: int, background: Image.Image | None = None) -> None:
        """Start with white paper, or with a copy of `background`, which has the same size."""
        self.image = Image.new("RGB", (width, height), PAPER) if background is None else background.copy()
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        width: float,
        size: int = 11,
        colour: Colour = INK,
        bold: bool = False,
        anchor: str = "ls",
    ) -> float:
        """Write one line, fitted to a width.

        Args:
            at: x and y of the anchor, pixels.
            text: any text; line breaks become spaces.
            width: how wide the line may be, pixels.
            size: height of the font, pixels.
            colour: of the letters.
            bold: whether to use the bold font.
            anchor: Pillow's text anchor, such as `ls` for the left end of the baseline.

        Returns:
            The width of the line, pixels.
        """
        fitted, font = fit_text(text, width, size, bold)
        (left, x), (top, y) = math.modf(at[0]), math.modf(at[1])
        letters, offset = set_line(fitted, font, anchor, (left, top))
        # What `ImageDraw.text` does in the end, without a sixth of a tile's time for its many options.
        core = self.draw.draw
        core.draw_bitmap((int(x) + offset[0], int(y) + offset[1]), letters, core.draw_ink(colour))
        return float(font.getlength(fitted))

    def bar(
        self, left: float, top: float, width: float, height: float, share: float, colour: Colour, rest: Colour = TRACK
    ) -> None:
        """Draw a bar that is filled to a share from 0 to 1; any share above 0 is at least one pixel wide."""
        self.draw.rectangle((left, top, left + width - 1, top + height - 1), fill=rest)
        if share > 0:
            self.draw.rectangle((left, top, left + max(round(share * width), 1) - 1, top + height - 1), fill=colour)

    def transition(
        self, at: tuple[float, float], width: float, true: str, predicted: str, count: str, count_width: float
    ) -> None:
        """Write "true → predicted" on one line that ends in a count, the classes fitted to the room between."""
        (x, y), used = at, self.text((at[0] + width, at[1]), count, count_width, 10, FAINT, anchor="rs")
        room = width - used - 8
        first = self.text((x, y), true, room * 0.5 - 8, 11, INK)
        self.text((x + first + 3, y), f"→ {predicted}", room - first - 3, 11, INK)

    def dot_with_interval(
        self, x: float, y: float, start: float, end: float, colour: Colour, thickness: int = 2
    ) -> None:
        """Draw a dot at a point, on a horizontal line from `start` to `end`."""
        self.draw.line((start, y, end, y), fill=colour, width=thickness)
        self.draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)

    def warn(self, warnings: Sequence[str]) -> None:
        """Write the first warning on a strip along the bottom, and how many more are in the report."""
        if warnings:
            width, height = self.image.size
            more = f"  (+{len(warnings) - 1} more in report)" if len(warnings) > 1 else ""
            lines, size, fits = [f"! {warnings[0]}{more}"], 11, False
            if measure_text(lines[0], MIN_SIZE_PX, bold=True) > width - 16:
                lines, size, fits = wrap_text(f"! {warnings[0]}{more}", width - 16, 10, 2, bold=True)
            if len(lines) > 1 and not fits:
                lines, size, _ = wrap_text(f"! {warnings[0]}{more}", width - 16, 10, 2)
            top = height - 25 if len(lines) == 1 else height - 29
            self.draw.rectangle((0, top, width, height), fill=WARNING_PAPER)
            for i, line in enumerate(lines):
                at = height - 9 if len(lines) == 1 else height - 17 + 12 * i
                self.text((8, at), line, width - 16, size, WARNING_INK, bold=fits or len(lines) == 1)

    @property
    def pixels(self) -> Pixels:
        """The picture as it is now, [height, width, 3] uint8."""
        return np.asarray(self.image)


def write_upright(canvas: Canvas, text: str, x: int, bottom: int, length: int, size: int) -> None:
    """Write a label that reads upwards, centred on `x` and ending above `bottom`, at most `length` pixels long."""
    fitted, font = fit_text(text, length, size, False)
    box = Image.new("RGB", (int(font.getlength(fitted)) + 2, size + 6), PAPER)
    ImageDraw.Draw(box).text((0, size), fitted, fill=INK, font=font, anchor="ls")
    turned = box.rotate(90, expand=True)
    canvas.image.paste(turned, (x - turned.width // 2 - 1, bottom - turned.height))
