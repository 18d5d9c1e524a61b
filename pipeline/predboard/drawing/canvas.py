"""Arrays and words -> RGB pictures: tiles, the report card, the confusion matrix. Knows no metrics and no files.

Everything is drawn at the size at which TensorBoard shows it, because TensorBoard resizes without smoothing.
Right is blue and wrong is vermillion everywhere (Okabe and Ito's palette, distinct in every common colour blindness).
"""

import bisect
import functools
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from predboard.formatting import compact, percent
from predboard.summaries import Pixels

WIDTH_PX, HEIGHT_PX = 350, 215
"""Of a tile and of the report card, pixels: Time Series shows every picture 215 high, Images 350 wide."""

PICTURE_SIDE_PX = 196
"""Side of the square that a tile's picture fills: 7 × 28, and close to 3 × 64 and 6 × 32."""

MIN_SOURCE_SIDE_PX = 2 * PICTURE_SIDE_PX
"""A source picture whose sides are no shorter loses nothing that its tile would show; see `images.open_image`."""

_KEPT = 4096
"""Lines of text that are kept as drawn, 1 kB each: most words recur, and letters were half of a tile's time."""

Colour = tuple[int, int, int]
RIGHT: Colour = (0, 114, 178)
WRONG: Colour = (213, 94, 0)
UNKNOWN: Colour = (110, 110, 110)
INK: Colour = (25, 25, 25)
FAINT: Colour = (105, 105, 105)
PAPER: Colour = (255, 255, 255)
TRACK: Colour = (228, 228, 228)

# Where a system keeps a font for scripts that DejaVu Sans lacks (Chinese, Japanese, Korean, Thai, Devanagari, …).
_WIDE_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "C:/Windows/Fonts/msyh.ttc",
)


@functools.cache
def _dejavu(bold: bool) -> Path:
    """DejaVu Sans, which matplotlib carries; found without importing matplotlib, which takes 0.4 s."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("matplotlib, whose fonts are drawn with, is not installed: pip install matplotlib")
    return Path(spec.origin).parent / "mpl-data/fonts/ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@functools.cache
def _sized(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)  # the same everywhere, unlike Raqm


@functools.cache
def _covered() -> frozenset[int]:
    from fontTools.ttLib import TTFont  # comes with matplotlib; takes 50 ms, and most names never need it

    with TTFont(_dejavu(False)) as font:
        return frozenset(font.getBestCmap())


def _font(text: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text, if this machine has one."""
    if not text.isascii() and not all(ord(c) in _covered() for c in text):
        wide = next((Path(p) for p in _WIDE_FONTS if Path(p).exists()), None)
        if wide is not None:
            return _sized(wide, size)
    return _sized(_dejavu(bold), size)


def _pieces(text: str) -> list[str]:
    """What a line is put together from: most numbers and file names are new, their digits and words are not.

    DejaVu Sans kerns no digit, and all it has of ASCII is whole pixels wide: the line is the same as drawn at once.
    """
    return re.findall(r"[0-9]|[^0-9]+", text) if text.isascii() else [text]


@functools.lru_cache(_KEPT)
def _long(text: str, font: ImageFont.FreeTypeFont) -> float:
    """How wide a line is, pixels."""
    pieces = _pieces(text)
    return sum(_long(piece, font) for piece in pieces) if len(pieces) > 1 else float(font.getlength(text))


@functools.lru_cache(_KEPT)
def _fitted(text: str, width: float, size: int, bold: bool, least: int = 9) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text, smaller if need be, and then with its middle left out, so that it is at most `width` pixels wide."""
    text = " ".join(text.split())
    for smaller in range(size, least - 1, -1):
        font = _font(text, smaller, bold)
        if _long(text, font) <= width:
            return text, font

    def short(kept: int) -> str:
        return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"

    fitting = bisect.bisect_right(range(2, len(text)), width, key=lambda kept: font.getlength(short(kept)))
    return short(fitting + 1) if fitting else "…", font


@functools.lru_cache(_KEPT)
def _written(
    text: str, font: ImageFont.FreeTypeFont, anchor: str, start: tuple[float, float]
) -> tuple[Image.Image, int, int, float]:
    """A line of text as a mask, how far its corner is from where it is written, and its width.

    Args:
        text, font, anchor: as Pillow takes them.
        start: fraction of a pixel at which it is written.
    """
    pieces, long = _pieces(text), _long(text, font)
    if len(pieces) > 1 and anchor in ("ls", "rs") and start == (0, 0):
        back = round(long) if anchor == "rs" else 0
        return *_joined([_written(piece, font, "ls", start) for piece in pieces], back), long
    left, top, right, bottom = (math.floor(edge) for edge in font.getbbox(text, anchor=anchor))
    mask = Image.new("L", (right - left + 3, bottom - top + 3))  # room for a fraction and for what is rounded up
    ImageDraw.Draw(mask).text((start[0] - left + 1, start[1] - top + 1), text, fill=255, font=font, anchor=anchor)
    return mask, left - 1, top - 1, long


def _joined(pieces: Sequence[tuple[Image.Image, int, int, float]], back: int) -> tuple[Image.Image, int, int]:
    """Pieces of a line side by side, moved to the left: mask, left, top."""
    begin, boxes = 0.0, []
    for mask, left, top, long in pieces:
        x = left + round(begin) - back
        boxes.append((x, top, x + mask.width, top + mask.height))
        begin += long
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    left, top = min(lefts), min(tops)
    whole = Image.new("L", (max(rights) - left, max(bottoms) - top))
    for (mask, *_), (x, y, right, bottom) in zip(pieces, boxes, strict=True):
        whole.paste(255, (x - left, y - top, right - left, bottom - top), mask)
    return whole, left, top


class Canvas:
    """A picture to write and draw on."""

    def __init__(self, width: int, height: int, begun: Image.Image | None = None) -> None:
        """White paper, or a copy of what was begun, which has that size."""
        self.image = Image.new("RGB", (width, height), PAPER) if begun is None else begun.copy()
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
        """Write one line with its baseline (`s`) at a point, fitted to a width. -> its width."""
        fitted, font = _fitted(text, width, size, bold)
        (dx, x), (dy, y) = map(math.modf, at)
        mask, left, top, long = _written(fitted, font, anchor, (dx, dy))
        self.image.paste(colour, (int(x) + left, int(y) + top), mask)
        return long

    def bar(
        self, left: float, top: float, width: float, height: float, share: float, colour: Colour, rest: Colour = TRACK
    ) -> None:
        """A bar and its rest; a share above 0 is at least one pixel."""
        self.draw.rectangle((left, top, left + width - 1, top + height - 1), fill=rest)
        if share > 0:
            self.draw.rectangle((left, top, left + max(round(share * width), 1) - 1, top + height - 1), fill=colour)

    @property
    def pixels(self) -> Pixels:
        """What is on it so far, [height, width, 3] uint8."""
        return np.asarray(self.image)


@dataclass(frozen=True)
class TileText:
    """What a tile says of its picture."""

    true: str | None
    """Name of the true class, None if unknown."""
    top: Sequence[tuple[str, float]]
    """Classes with the highest probabilities, highest first; the first is the prediction."""
    name: str
    """Of the image."""
    id: int
    loss: float | None = None


def fit_picture(picture: Image.Image, room: int = PICTURE_SIDE_PX) -> tuple[Image.Image, bool]:
    """A picture as large as a square of side `room` takes, and whether it was enlarged.

    Small ones grow by a whole factor without smoothing, so that their own pixels are seen; large ones are reduced.
    """
    longest = max(picture.size)
    if longest <= room:
        factor = room // longest
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST), True
    scale = room / longest
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0), False


_FRAME, _MARGIN = 4, 5
"""Width of the frame around a tile's picture, and of the paper around the frame."""

TEXT_LEFT_PX = _MARGIN + 2 * _FRAME + PICTURE_SIDE_PX + 7
"""Where the words of a tile begin, pixels from its left side."""

TEXT_WIDTH_PX = WIDTH_PX - TEXT_LEFT_PX - 4
"""Width of a tile's words."""

TileLine = tuple[int, str, int, Colour, bool]
"""Baseline, text, size, colour and whether it is bold."""


@functools.lru_cache(32)  # of 300 kB
def _begun(colour: Colour, lines: tuple[TileLine, ...], missing: bool) -> Image.Image:
    """What many tiles have in common: the frame, which waits for its picture or says that there is none, and words."""
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    inner, end = _MARGIN + _FRAME, _MARGIN + _FRAME + PICTURE_SIDE_PX
    canvas.draw.rectangle((_MARGIN, _MARGIN, end + _FRAME - 1, end + _FRAME - 1), fill=colour)
    canvas.draw.rectangle((inner, inner, end - 1, end - 1), fill=(240, 240, 240))
    if missing:
        middle = inner + PICTURE_SIDE_PX / 2
        canvas.text((middle, middle), "picture not found", PICTURE_SIDE_PX, 12, FAINT, anchor="ms")
    for baseline, text, size, ink, bold in lines:
        canvas.text((TEXT_LEFT_PX, baseline), text, TEXT_WIDTH_PX, size, ink, bold)
    return canvas.image


def begin_tile(picture: Image.Image | None, colour: Colour, lines: tuple[TileLine, ...]) -> Canvas:
    """A tile with its fitted picture in a frame on the left, and beside it those lines that many tiles have."""
    canvas = Canvas(WIDTH_PX, HEIGHT_PX, _begun(colour, lines, picture is None))
    if picture is not None:
        inner = _MARGIN + _FRAME
        canvas.image.paste(
            picture, (inner + (PICTURE_SIDE_PX - picture.width) // 2, inner + (PICTURE_SIDE_PX - picture.height) // 2)
        )
    return canvas


def draw_tile(picture: Image.Image | None, words: TileText) -> Image.Image:
    """A fitted picture on the left, what the model says on the right; the frame's colour says whether it is right.

    -> 350 × 215 pixels, RGB.
    """
    predicted = words.top[0][0] if words.top else None
    right = None if words.true is None else predicted == words.true
    colour, verdict = (UNKNOWN, "no label") if right is None else (RIGHT, "✓ right") if right else (WRONG, "✗ wrong")
    said = (
        (19, verdict, 13, colour, True),
        (36, "true", 10, FAINT, False),
        (73, "predicted", 10, FAINT, False),
    )
    canvas, left, width = begin_tile(picture, colour, said), TEXT_LEFT_PX, TEXT_WIDTH_PX
    canvas.text((left, 51), words.true or "unknown", width, 13, INK if words.true else FAINT, bold=True)
    baseline = 88
    for rank, (name, p) in enumerate(words.top):
        of_bar = RIGHT if name == words.true else colour if rank == 0 else UNKNOWN
        number = canvas.text((left + width, baseline), percent(p), 60, 11, INK, bold=rank == 0, anchor="rs")
        canvas.text((left, baseline), name, width - number - 5, 12 if rank == 0 else 11, INK, bold=rank == 0)
        canvas.bar(left, baseline + 4, width, 6, p, of_bar)
        baseline += 29
    if words.loss is not None:
        canvas.text((left, 181), f"loss {words.loss:.2f} nats", width, 10, FAINT)
    canvas.text((left, 194), f"row {words.id}", width, 10, FAINT)
    short = words.name.rpartition("/")[2]  # the folder is most often the class, which is said already
    canvas.text(
        (left, 207), words.name if _long(words.name, _font(words.name, 10)) <= width else short, width, 10, FAINT
    )
    return canvas.image


SHEET_COLUMNS = 4


def draw_contact_sheet(
    pictures: Sequence[tuple[Image.Image, str | None, str]], title: str, lines: Sequence[str]
) -> Pixels:
    """Some pictures with what the model says of each, 350 pixels wide, as Images shows it.

    Args:
        pictures: (picture, true class or None, predicted class).
        title: of all of them.
        lines: what to know about them, small.

    Returns:
        [height, 350, 3] uint8.
    """
    box, frame, apart, left = 76, 3, 4, 3
    cell = 2 * frame + box + apart  # wide
    tall = cell + 26
    top = 24 + 13 * len(lines)
    canvas = Canvas(WIDTH_PX, top + tall * -(-len(pictures) // SHEET_COLUMNS))
    canvas.text((left, 15), title, WIDTH_PX - 2 * left, 12, INK, bold=True)
    for i, line in enumerate(lines):
        canvas.text((left, 29 + 13 * i), line, WIDTH_PX - 2 * left, 10, FAINT)
    for i, (picture, true, predicted) in enumerate(pictures):
        x, y = left + i % SHEET_COLUMNS * cell, top + i // SHEET_COLUMNS * tall
        colour = UNKNOWN if true is None else RIGHT if true == predicted else WRONG
        side = box + 2 * frame
        canvas.draw.rectangle((x, y, x + side - 1, y + side - 1), fill=colour)
        canvas.draw.rectangle((x + frame, y + frame, x + frame + box - 1, y + frame + box - 1), fill=(240, 240, 240))
        fitted, _ = fit_picture(picture, box)
        canvas.image.paste(fitted, (x + (side - fitted.width) // 2, y + (side - fitted.height) // 2))
        mark = "" if true is None else "✓ " if true == predicted else "✗ "
        canvas.text((x, y + side + 11), f"{mark}{predicted}", side, 10, colour, bold=True)
        if true is not None and true != predicted:
            canvas.text((x, y + side + 22), f"true {true}", side, 10, INK)
    return canvas.pixels


@dataclass(frozen=True)
class ReportCard:
    """What the report card says."""

    title: str
    accuracy: tuple[float, float, float] | None
    """Point, lower and upper end of the 95 % interval; None without labelled rows."""
    facts: Sequence[tuple[str, str]]
    """(name, value)."""
    worst: Sequence[tuple[str, float, str]]
    """(class, recall, hits of support)."""
    pairs: Sequence[tuple[str, str, str]]
    """(true, predicted, count)."""
    warnings: Sequence[str]
    trend: Sequence[tuple[int, float, float, float]] = ()
    """Accuracy over the steps: step, point, lower and upper end; drawn if there are two or more."""
    step: int = 0
    """Which of them the card is of."""


def draw_report_card(card: ReportCard) -> Pixels:
    """The one picture a busy person needs. -> [215, 350, 3] uint8."""
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, split = 8, 128
    canvas.text((left, 15), card.title, WIDTH_PX - 2 * left, 11, FAINT)
    if card.accuracy is None:
        canvas.text((left, 48), "no labels", split - left - 8, 20, UNKNOWN, bold=True)
    else:
        point, lower, upper = card.accuracy
        canvas.text((left, 48), percent(point), split - left - 8, 25, INK, bold=True)
        canvas.text((left, 62), f"accuracy, {100 * lower:.1f}–{100 * upper:.1f}", split - left - 6, 10, FAINT)
        canvas.bar(left, 68, split - left - 14, 6, point, RIGHT, WRONG)
    curve = len(card.trend) > 1
    baseline, row = (93, 15) if curve else (96, 17)
    for name, value in card.facts:
        canvas.text((left, baseline), name, 62, 10, FAINT)
        canvas.text((split - 14, baseline), value, 62, 10, INK, anchor="rs")
        baseline += row
    if curve:
        begin, at_first, *_ = card.trend[0]
        canvas.text((left, 152), f"from {percent(at_first)} at step {begin}", split - left - 14, 10, FAINT)
        _trend(canvas, card, left, 158, split - left - 46, 27)

    canvas.draw.line((split - 4, 24, split - 4, 184), fill=TRACK)
    x, width = split + 4, WIDTH_PX - split - 10
    if card.accuracy is not None:
        canvas.text((x, 33), "worst classes, by recall" if card.worst else "no class was missed", width, 10, FAINT)
    baseline = 47
    for name, recall, count in card.worst:
        used = canvas.text((x + width, baseline), count, 105, 10, FAINT, anchor="rs")
        used += canvas.text((x + width - used - 6, baseline), percent(recall), 50, 11, INK, bold=True, anchor="rs") + 6
        canvas.text((x, baseline), name, width - used - 8, 11, INK)
        canvas.bar(x, baseline + 3, width, 4, recall, RIGHT, WRONG)
        baseline += 21
    if card.pairs:
        baseline = max(baseline + 7, 117)
        canvas.text((x, baseline), "most confused: true → predicted", width, 10, FAINT)
        baseline += 15
        for true, predicted, count in card.pairs:
            used = canvas.text((x + width, baseline), count, 90, 10, FAINT, anchor="rs")
            room = width - used - 8
            first = canvas.text((x, baseline), true, room * 0.5 - 8, 11, INK)
            canvas.text((x + first + 3, baseline), f"→ {predicted}", room - first - 3, 11, INK)
            baseline += 15
    if card.warnings:
        more = f"  (+{len(card.warnings) - 1} more in report)" if len(card.warnings) > 1 else ""
        canvas.draw.rectangle((0, HEIGHT_PX - 25, WIDTH_PX, HEIGHT_PX), fill=(253, 236, 224))
        canvas.text(
            (left, HEIGHT_PX - 9), f"! {card.warnings[0]}{more}", WIDTH_PX - 2 * left, 11, (150, 60, 0), bold=True
        )
    return canvas.pixels


def _trend(canvas: Canvas, card: ReportCard, left: int, top: int, width: int, height: int) -> None:
    """Accuracy over the steps with its band, a dot at the step of the card, and the last value beside its end."""
    steps, points, lower, upper = (np.array(column, float) for column in zip(*card.trend, strict=True))
    least, most = float(lower.min()), float(upper.max())
    x = (steps - steps[0]) / (steps[-1] - steps[0]) * (width - 6) + 3

    def y(share: NDArray[np.float64]) -> NDArray[np.float64]:
        return (most - share) / max(most - least, 1e-9) * (height - 6) + 3

    large = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
    drawing = ImageDraw.Draw(large)
    band = [*zip(x, y(upper), strict=True), *zip(x[::-1], y(lower)[::-1], strict=True)]
    drawing.polygon([(float(a) * _FINE, float(b) * _FINE) for a, b in band], fill=(191, 220, 236))
    line = [(float(a) * _FINE, float(b) * _FINE) for a, b in zip(x, y(points), strict=True)]
    drawing.line(line, fill=RIGHT, width=round(1.6 * _FINE), joint="curve")
    for (a, b), step in zip(line, steps.tolist(), strict=True):
        if step == card.step:
            drawing.ellipse((a - 11, b - 11, a + 11, b + 11), fill=INK)
    canvas.image.paste(large.reduce(_FINE), (left, top))
    at = min(max(top + float(y(points)[-1]) + 4, top + 9), top + height)
    canvas.text((left + width + 3, at), percent(points[-1]).removesuffix(" %"), 32, 10, RIGHT, bold=True)


def draw_confusion_matrix(
    counts: NDArray[np.int64], names: Sequence[str], total: Sequence[int], others: bool = False
) -> Pixels:
    """A confusion matrix with numbers and labels.

    Args:
        counts: [n, n]; row: true class, column: predicted class.
        names: [n].
        total: [n] rows of each true class: a cell's strength is its share of them.
        others: the last row and column stand for several classes.

    Returns:
        [height, width, 3] uint8; right cells blue, wrong ones vermillion, both stronger with the square root of the
        share, so that small confusions are seen. The last cell is grey with `others`: right and wrong are mixed in it.
    """
    n = len(counts)
    cell = 46 if n <= 12 else 34 if n <= 22 else 28
    size = 12 if n <= 12 else 10
    label = min(max(int(_font(name, size).getlength(name)) for name in [*names, "true ↓"]) + 8, 150)
    numbers = 44
    left, top = label + 16, label + 34
    canvas = Canvas(left + n * cell + numbers + 6, top + n * cell + 8)
    canvas.text((left + n * cell / 2, 14), "predicted →", max(n * cell, 80), 12, FAINT, anchor="ms")
    canvas.text((8, top - 8), "true ↓", label, 12, FAINT)
    canvas.text((left + n * cell + numbers, top - 8), "rows", numbers, 10, FAINT, anchor="rs")
    for i in range(n):
        y = top + i * cell
        canvas.text((left - 8, y + cell / 2 + size / 3), names[i], label, size, INK, anchor="rs")
        rows = f"{total[i]:,}" if total[i] < 100_000 else compact(total[i])
        canvas.text((left + n * cell + numbers, y + cell / 2 + 4), rows, numbers - 4, 10, FAINT, anchor="rs")
        write_upright(canvas, names[i], left + i * cell + cell // 2, top - 6, label, size)
        for j in range(n):
            share = counts[i, j] / total[i] if total[i] else 0.0
            strength = float(np.sqrt(share))
            base = WRONG if i != j else UNKNOWN if others and i == n - 1 else RIGHT
            r, g, b = (round(255 + (channel - 255) * strength) for channel in base)
            x = left + j * cell
            canvas.draw.rectangle(
                (x, y, x + cell - 2, y + cell - 2), fill=(r, g, b) if counts[i, j] else (246, 246, 246)
            )
            if counts[i, j]:
                ink = PAPER if 0.299 * r + 0.587 * g + 0.114 * b < 140 else INK
                number = compact(int(counts[i, j]))
                canvas.text((x + cell / 2 - 1, y + cell / 2 + size / 3), number, cell - 3, size, ink, anchor="ms")
    return canvas.pixels


@dataclass(frozen=True)
class ConfusionGroup:
    """Classes that are confused with one another, side by side in an `ConfusionOverview`."""

    start: int
    stop: int
    """Place of the first class, and after the last."""
    true: str
    predicted: str
    """The most frequent confusion inside."""
    errors: int
    """Images that were confused inside."""


@dataclass(frozen=True)
class ConfusionOverview:
    """A confusion matrix without numbers, its classes in an order in which similar ones stand together."""

    true: NDArray[np.int64]
    """[cells] place of the true class, from 0."""
    predicted: NDArray[np.int64]
    """[cells] place of the predicted class."""
    count: NDArray[np.int64]
    """[cells] images."""
    total: NDArray[np.int64]
    """[classes] images of each class."""
    strongest: float
    """Share of a true class from which on a wrong cell has its full colour."""
    names: Sequence[str] = ()
    """[classes] written beside the rows; empty if there is no room, and then the groups are described there."""
    groups: Sequence[ConfusionGroup] = ()
    """In the order of their places, at most 7."""


def draw_confusion_overview(of: ConfusionOverview) -> Pixels:
    """A confusion matrix at the size at which TensorBoard shows it, for any number of classes.

    Blue is right and vermillion wrong, stronger with the square root of the share of the true class; where there are
    more classes than pixels, a pixel has the images of several and mixes the two colours.

    -> [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, top, side = 4, 16, 196
    classes, right = len(of.total), left + side
    edges = np.rint(np.arange(classes + 1) * side / classes).astype(int).tolist()  # of each class, pixels
    x = (
        left
        + canvas.text((left, 11), f"{classes:,} class{'es' * (classes != 1)}, true ↓ predicted →", 190, 10, FAINT)
        + 12
    )
    canvas.draw.rectangle((x, 3, x + 7, 10), fill=WRONG)
    canvas.text((x + 11, 11), f"≥ {percent(of.strongest)} of a class", 125, 10, FAINT)
    canvas.text((WIDTH_PX - 4, 11), "recall" if of.names else "errors" if of.groups else "", 60, 10, FAINT, anchor="rs")
    canvas.image.paste(Image.fromarray(_heat(of, 0, classes, side)), (left, top))
    if side // classes >= 8:
        for edge in edges[1:-1]:
            canvas.draw.line((left + edge - 1, top, left + edge - 1, top + side - 1), fill=PAPER)
            canvas.draw.line((left, top + edge - 1, right - 1, top + edge - 1), fill=PAPER)
    for group in of.groups:
        a, b = edges[group.start], max(edges[group.stop], edges[group.start] + 1)
        canvas.draw.rectangle((left + a - 1, top + a - 1, left + b - 1, top + b - 1), outline=INK)
    for place, name in enumerate(of.names):
        y = top + (edges[place] + edges[place + 1]) / 2 + 4
        rows = int(of.total[place])
        hits = int(of.count[(of.true == place) & (of.predicted == place)].sum())
        number = canvas.text((WIDTH_PX - 4, y), percent(hits / rows) if rows else "no images", 60, 10, INK, anchor="rs")
        canvas.text((right + 6, y), name, WIDTH_PX - right - 14 - number, 10, INK)
    if not of.names:
        _describe(canvas, of, edges, right + 1, top)
    return canvas.pixels


def _describe(canvas: Canvas, of: ConfusionOverview, edges: Sequence[int], left: int, top: int) -> None:
    """Each group, enlarged and named, beside its rows, or as near as there is room."""
    side, pitch = 26, 28
    x = left + 14
    y = top
    for i, group in enumerate(of.groups):
        a, b = top + edges[group.start], top + max(edges[group.stop], edges[group.start] + 1)
        latest = top + pitch * (7 - len(of.groups) + i)
        y = min(max(y, (a + b - side) // 2), latest)
        canvas.draw.line((left, a, left, b - 1), fill=INK)
        canvas.draw.line((left + 1, (a + b) // 2, x - 2, y + side // 2), fill=UNKNOWN)
        canvas.image.paste(Image.fromarray(_heat(of, group.start, group.stop, side)), (x, y))
        canvas.draw.rectangle((x - 1, y - 1, x + side, y + side), outline=INK)
        number = canvas.text((WIDTH_PX - 4, y + 11), f"{group.errors:,}", 50, 10, INK, bold=True, anchor="rs")
        canvas.text((x + side + 4, y + 11), group.true, WIDTH_PX - x - side - 14 - number, 10, INK)
        more = group.stop - group.start - 2
        number = canvas.text((WIDTH_PX - 4, y + 23), f"+{more:,}" if more else "", 40, 10, FAINT, anchor="rs")
        canvas.text((x + side + 4, y + 23), f"→ {group.predicted}", WIDTH_PX - x - side - 12 - number, 10, INK)
        y += pitch


def _heat(of: ConfusionOverview, start: int, stop: int, side: int) -> Pixels:
    """The cells of some classes as a square. -> [side, side, 3] uint8."""
    cells = min(stop - start, side)
    place = np.arange(stop - start) * cells // (stop - start)  # of each class
    here = (of.true >= start) & (of.true < stop) & (of.predicted >= start) & (of.predicted < stop)
    true, predicted, count = of.true[here] - start, of.predicted[here] - start, of.count[here]
    right, wrong = np.zeros((cells, cells)), np.zeros((cells, cells))
    same = true == predicted
    for counts, those in ((right, same), (wrong, ~same)):
        np.add.at(counts, (place[true[those]], place[predicted[those]]), count[those])
    total = np.maximum(np.bincount(place, of.total[start:stop], cells), 1)[:, None]  # [cells, 1]
    right, wrong = right / total, np.minimum(wrong / (total * of.strongest), 1)
    both = (right + wrong)[..., None]
    mix = np.array(WRONG) + (np.array(RIGHT) - np.array(WRONG)) * right[..., None] / np.maximum(both, 1e-9)
    colour = np.where(both > 0, 255 + (mix - 255) * np.sqrt(np.minimum(both, 1)), 246)
    pixel = np.repeat(np.arange(cells), np.diff(np.rint(np.arange(cells + 1) * side / cells).astype(int)))
    return np.rint(colour).astype(np.uint8)[pixel][:, pixel]


def write_upright(canvas: Canvas, text: str, x: int, bottom: int, length: int, size: int) -> None:
    """Write a label that reads upwards, centred on x, ending above `bottom`."""
    fitted, font = _fitted(text, length, size, False)
    box = Image.new("RGB", (int(font.getlength(fitted)) + 2, size + 6), PAPER)
    ImageDraw.Draw(box).text((0, size), fitted, fill=INK, font=font, anchor="ls")
    turned = box.rotate(90, expand=True)
    canvas.image.paste(turned, (x - turned.width // 2 - 1, bottom - turned.height))


@dataclass(frozen=True)
class IntervalLine:
    """A share with its interval, one line of `draw_intervals`."""

    name: str
    point: float
    lower: float
    upper: float
    note: str = ""
    """What stands at the end of the line: of how many."""


def draw_intervals(title: str, lines: Sequence[IntervalLine], reference: float, called: str = "all") -> Pixels:
    """Shares as points with their intervals, one below the other, against a line at the share of all.

    -> [215, 350, 3] uint8; the axis begins at the lowest lower end, in steps of .1.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, right, top, bottom = 152, WIDTH_PX - 84, 40, HEIGHT_PX - 6  # room for "brightness 0.0586 to 0.0611"
    start = math.floor(10 * min([reference, *(line.lower for line in lines)])) / 10
    end = 1.0

    def at(share: float) -> float:
        return left + (share - start) / (end - start) * (right - left) if end > start else left

    canvas.text((8, 15), title, WIDTH_PX - 16, 11, FAINT)
    canvas.text((at(reference), 33), f"{called} {percent(reference)}", 80, 10, FAINT, anchor="ms")
    height = min((bottom - top) / max(len(lines), 1), 24)
    canvas.draw.line((at(reference), 37, at(reference), top + len(lines) * height), fill=(170, 170, 170))
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * height
        colour = WRONG if line.upper < reference else RIGHT if line.lower > reference else UNKNOWN
        canvas.text((left - 8, y + 4), line.name, left - 14, 11, INK, anchor="rs")
        canvas.draw.line((at(line.lower), y, at(line.upper), y), fill=colour, width=2)
        canvas.draw.ellipse((at(line.point) - 4, y - 4, at(line.point) + 4, y + 4), fill=colour)
        canvas.text((WIDTH_PX - 44, y + 4), percent(line.point), 44, 11, INK, bold=True, anchor="rs")
        canvas.text((WIDTH_PX - 6, y + 4), line.note, 36, 10, FAINT, anchor="rs")
    return canvas.pixels


def draw_sprite(pictures: Sequence[Image.Image | None], side: int) -> Image.Image:
    """Pictures of at most side × side pixels in a square grid, row by row; grey where there is none."""
    grid = math.ceil(math.sqrt(len(pictures)))
    whole = Image.new("RGB", (grid * side, grid * side), PAPER)
    for i, picture in enumerate(pictures):
        left, top = i % grid * side, i // grid * side
        if picture is None:
            whole.paste(TRACK, (left, top, left + side, top + side))
        else:
            whole.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    return whole


CURVE_COLOURS: tuple[Colour, ...] = ((0, 158, 115), (230, 159, 0), (204, 121, 167), (86, 180, 233))
"""Colours of curves that are neither right nor wrong, from the same palette."""

_FINE = 4
"""Curves are drawn so many times as large and then reduced: Pillow's own lines have steps."""


@dataclass(frozen=True)
class Axis:
    """An axis of a graph."""

    title: str
    ticks: Sequence[tuple[float, str]]
    """(place from 0 to 1, label)."""


@dataclass(frozen=True)
class Curve:
    """A curve of a graph and what is written beside its beginning."""

    x: NDArray[np.float64]
    """[points] places from 0 to 1, ascending."""
    y: NDArray[np.float64]
    """[points] places; what is beyond 0 to 1 is cut."""
    name: str
    value: str
    colour: Colour
    thick: bool = False


class _Plot:
    """The rectangle of a graph, with smooth lines in it and crisp words around it."""

    def __init__(self, left: int, top: int, width: int, height: int) -> None:
        self.left, self.top, self.width, self.height = left, top, width, height
        self._large = Image.new("RGB", (WIDTH_PX * _FINE, HEIGHT_PX * _FINE), PAPER)
        self._draw = ImageDraw.Draw(self._large)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a place, both from 0 to 1, upwards."""
        return self.left + x * self.width, self.top + (1 - y) * self.height

    def line(self, pixels: Sequence[tuple[float, float]], colour: Colour, width: float = 1.0) -> None:
        self._draw.line(
            [(x * _FINE, y * _FINE) for x, y in pixels], fill=colour, width=round(width * _FINE), joint="curve"
        )

    def box(self, x: float, y: float, right: float, bottom: float, colour: Colour) -> None:
        """A rectangle between pixels."""
        edges = (round(x * _FINE), round(y * _FINE), round(right * _FINE) - 1, round(bottom * _FINE) - 1)
        if edges[2] >= edges[0] and edges[3] >= edges[1]:
            self._draw.rectangle(edges, fill=colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self._draw.ellipse([c * _FINE for c in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    def grid(self, x: Axis, y: Axis) -> None:
        for place, _ in x.ticks:
            self.line([self.at(place, 0), self.at(place, 1)], TRACK)
        for place, _ in y.ticks:
            self.line([self.at(0, place), self.at(1, place)], TRACK)

    def words(self, x: Axis, y: Axis, right: bool) -> Canvas:
        """What was drawn so far, reduced, with the axes' words: those of y to the right of the plot or to its left."""
        canvas = Canvas(WIDTH_PX, HEIGHT_PX)
        canvas.image.paste(self._large.reduce(_FINE))
        end = self.left + self.width
        for place, label in x.ticks:
            anchor = "rs" if place == 1 and not right else "ms"
            canvas.text((self.at(place, 0)[0], self.top + self.height + 13), label, 50, 10, FAINT, anchor=anchor)
        middle = self.left + self.width / 2
        canvas.text((middle, HEIGHT_PX - 8), x.title, 2 * min(middle, WIDTH_PX - middle) - 8, 10, FAINT, anchor="ms")
        for place, label in y.ticks:
            at = (end + 5 if right else self.left - 5, self.at(0, place)[1] + 4)
            canvas.text(
                at, label, WIDTH_PX - end - 5 if right else self.left, 10, FAINT, anchor="ls" if right else "rs"
            )
        canvas.text((end, self.top - 7), y.title, self.width, 10, FAINT, anchor="rs")
        return canvas


def draw_curves(title: str, x: Axis, y: Axis, curves: Sequence[Curve]) -> Pixels:
    """Curves, each with its name and number to the left of where it begins.

    Args:
        title: of the numbers.
        x, y: axes; that of y is written on the right.
        curves: at most eight; the first is drawn last, above the others.

    Returns:
        [215, 350, 3] uint8.
    """
    plot = _Plot(128, 25, 184, 148)
    plot.grid(x, y)
    begin = [plot.at(0, min(max(float(c.y[0]), 0.0), 1.0))[1] for c in curves]
    beside = _apart(begin, 15, plot.top + 2, plot.top + plot.height - 2)
    for curve, from_, to in reversed(list(zip(curves, beside, begin, strict=True))):
        width = 2.2 if curve.thick else 1.4
        plot.line([(plot.left - 9, from_), (plot.left - 1, to)], curve.colour, width)
        places = zip(curve.x.clip(0, 1).tolist(), curve.y.clip(0, 1).tolist(), strict=True)
        plot.line([plot.at(*place) for place in places], curve.colour, width)
    canvas = plot.words(x, y, right=True)
    right = plot.left - 12
    canvas.text((right, plot.top - 7), title, right - 4, 10, FAINT, anchor="rs")
    for curve, middle in zip(curves, beside, strict=True):
        number = canvas.text((right, middle + 4), curve.value, 60, 11, INK, bold=True, anchor="rs")
        canvas.text((right - number - 5, middle + 4), curve.name, right - number - 9, 11, INK, anchor="rs")
    return canvas.pixels


def _apart(wanted: Sequence[float], gap: float, least: float, most: float) -> list[float]:
    """Places as near the wanted ones as can be, none nearer to another than a gap.

    >>> _apart([10, 30, 12], 6, 0, 100), _apart([99, 98], 6, 0, 100)
    ([8.0, 30.0, 14.0], [100, 94])
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    blocks: list[tuple[float, list[int]]] = []  # where the first is, and who stands there shoulder to shoulder
    for i in order:
        members = [i]
        while True:
            first = sum(wanted[m] - gap * k for k, m in enumerate(members)) / len(members)
            first = max(min(first, most - gap * (len(members) - 1)), least)
            if not blocks or blocks[-1][0] + gap * len(blocks[-1][1]) <= first:
                break
            members = blocks.pop()[1] + members
        blocks.append((first, members))
    places = {m: first + gap * k for first, members in blocks for k, m in enumerate(members)}
    return [places[i] for i in range(len(wanted))]


@dataclass(frozen=True)
class ReliabilityBin:
    """Images of about the same confidence."""

    left: float
    right: float
    confidence: float
    """Their mean."""
    accuracy: float
    lower: float
    upper: float
    """Ends of the interval of the accuracy."""
    rows: int


def draw_reliability(bins: Sequence[ReliabilityBin], facts: Sequence[tuple[str, str]], verdict: str) -> Pixels:
    """Accuracy over confidence with intervals, how many images there are below it, and figures beside.

    Args:
        bins: those that have images.
        facts: (name, value), at most eight.
        verdict: what the figures come to.

    Returns:
        [215, 350, 3] uint8; a bar from the mean confidence to the accuracy is vermillion where confidence is too high
        and blue where it is not.
    """
    plot = _Plot(36, 25, 156, 122)
    share = [(0.0, "0"), (0.25, ""), (0.5, "50"), (0.75, ""), (1.0, "100 %")]
    x, y = Axis("confidence", share), Axis("accuracy", [*share[:-1], (1.0, "100")])
    plot.grid(Axis("", share), y)
    plot.line([plot.at(0, 0), plot.at(1, 1)], FAINT)
    most, under = max((b.rows for b in bins), default=1), plot.top + plot.height + 17
    for b in bins:
        colour = WRONG if b.confidence > b.accuracy else RIGHT
        left, right = plot.at(b.left, 0)[0] + 1, plot.at(b.right, 0)[0] - 1
        middle = plot.at(b.confidence, 0)[0]
        pale: Colour = (250, 223, 204) if colour == WRONG else (204, 227, 240)
        plot.box(left, plot.at(0, b.upper)[1], right, plot.at(0, b.lower)[1], pale)
        plot.line([plot.at(b.confidence, b.confidence), plot.at(b.confidence, b.accuracy)], colour, 1.5)
        plot.dot(middle, plot.at(0, b.accuracy)[1], 3, colour)
        height = max(20 * float(np.sqrt(b.rows / most)), 1)
        plot.box(left, under + 20 - height, right, under + 20, UNKNOWN)
    canvas = plot.words(x, y, right=False)
    left, width = 212, WIDTH_PX - 212 - 6
    canvas.text((left, 18), verdict, width, 12, INK, bold=True)
    for i, (name, value) in enumerate(facts):
        number = canvas.text((left + width, 40 + 17 * i), value, 70, 11, INK, bold=True, anchor="rs")
        canvas.text((left, 40 + 17 * i), name, width - number - 5, 11, FAINT)
    canvas.text((left, under + 11), f"images, up to {most:,}", width, 10, FAINT)
    canvas.text((left, under + 23), "(as square roots)", width, 10, FAINT)
    return canvas.pixels
