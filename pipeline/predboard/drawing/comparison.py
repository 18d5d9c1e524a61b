"""Differences and words -> RGB pictures: the card of a comparison, its tiles, what moved, intervals around 0.

Knows no metrics and no files. Blue is better and vermillion worse, as right and wrong are elsewhere.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard.drawing.canvas import (
    FAINT,
    HEIGHT_PX,
    INK,
    PAPER,
    RIGHT,
    TEXT_LEFT_PX,
    TEXT_WIDTH_PX,
    TRACK,
    UNKNOWN,
    WIDTH_PX,
    WRONG,
    Canvas,
    Colour,
    begin_tile,
    write_upright,
)
from predboard.formatting import compact, percent, signed
from predboard.summaries import Pixels

PALE: Colour = (246, 246, 246)
"""Of a cell that nothing is in."""


@dataclass(frozen=True)
class SidePrediction:
    """What one of two steps says of a picture."""

    who: str
    """Name of the step."""
    predicted: str
    confidence: float


@dataclass(frozen=True)
class PairTileText:
    """What a tile says of its picture."""

    verdict: str
    true: str
    old: SidePrediction
    new: SidePrediction
    name: str
    """Of the image."""


def draw_pair_tile(picture: Image.Image | None, words: PairTileText) -> Image.Image:
    """A fitted picture on the left, the truth and what both steps say on the right, the old one above the new.

    -> 350 × 215 pixels, RGB; the frame's colour says whether the new one is right.
    """
    colour, mark = (RIGHT, "✓") if words.new.predicted == words.true else (WRONG, "✗")
    said = ((19, f"{mark} {words.verdict}", 13, colour, True), (37, "true", 10, FAINT, False))
    canvas, left, width = begin_tile(picture, colour, said), TEXT_LEFT_PX, TEXT_WIDTH_PX
    canvas.text((left, 52), words.true, width, 13, INK, bold=True)
    for top, says in ((76, words.old), (128, words.new)):
        right = says.predicted == words.true
        number = canvas.text((left + width, top), percent(says.confidence), 60, 11, INK, bold=True, anchor="rs")
        canvas.text((left, top), says.who, width - number - 5, 10, FAINT)
        canvas.text((left, top + 16), says.predicted, width, 12, RIGHT if right else WRONG, bold=True)
        canvas.bar(left, top + 21, width, 6, says.confidence, RIGHT if right else WRONG)
    canvas.text((left, 207), words.name.rpartition("/")[2], width, 10, FAINT)
    return canvas.image


@dataclass(frozen=True)
class DifferenceLine:
    """One line of `draw_differences`: a difference with its interval."""

    name: str
    value: float
    lower: float
    upper: float
    note: str = ""
    """What stands at the end of the line."""

    @property
    def colour(self) -> Colour:
        """Grey where the interval does not tell."""
        return RIGHT if self.lower > 0 else WRONG if self.upper < 0 else UNKNOWN


def draw_differences(title: str, lines: Sequence[DifferenceLine], note: str, cut: int = 0) -> Pixels:
    """Differences in points as dots with their intervals, one below the other, around a line at 0.

    Args:
        title: of all of them.
        lines: at most twelve; numbers are shares.
        note: what stands above the notes of the lines.
        cut: before which line some were left out; 0 if none were.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, right, top, bottom = 138, WIDTH_PX - 124, 40, HEIGHT_PX - 6
    low = min([0.0, *(line.lower for line in lines)])
    high = max([0.0, *(line.upper for line in lines)])
    wide = max(high - low, 1e-9)

    def at(value: float) -> float:
        return left + 4 + (value - low) / wide * (right - left - 8)

    canvas.text((8, 15), title, WIDTH_PX - 16, 11, FAINT)
    canvas.text((at(0), 33), "0", 40, 10, FAINT, anchor="ms")
    canvas.text((WIDTH_PX - 76, 33), "points", 44, 10, FAINT, anchor="rs")
    canvas.text((WIDTH_PX - 6, 33), note, 68, 10, FAINT, anchor="rs")
    height = min((bottom - top) / max(len(lines), 1), 24)
    canvas.draw.line((at(0), 37, at(0), top + len(lines) * height), fill=(170, 170, 170))
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * height
        if cut and i == cut:
            canvas.draw.line((8, y - height / 2, left - 12, y - height / 2), fill=TRACK)
        canvas.text((left - 8, y + 4), line.name, left - 14, 11, INK, anchor="rs")
        canvas.draw.line((at(line.lower), y, at(line.upper), y), fill=line.colour, width=2)
        canvas.draw.ellipse((at(line.value) - 4, y - 4, at(line.value) + 4, y + 4), fill=line.colour)
        canvas.text((WIDTH_PX - 76, y + 4), signed(100 * line.value, 1), 44, 11, INK, bold=True, anchor="rs")
        canvas.text((WIDTH_PX - 6, y + 4), line.note, 68, 10, FAINT, anchor="rs")
    return canvas.pixels


@dataclass(frozen=True)
class MatrixChange:
    """How the confusion matrix changed."""

    true: NDArray[np.int64]
    """[cells] place of the true class, from 0."""
    predicted: NDArray[np.int64]
    """[cells] place of the predicted class."""
    change: NDArray[np.int64]
    """[cells] images more there than before."""
    total: NDArray[np.int64]
    """[classes] images of each class."""
    names: Sequence[str]
    """[classes]."""

    @property
    def better(self) -> NDArray[np.int64]:
        """[cells] images by which matters improved: more on the diagonal, fewer beside it."""
        return np.where(self.true == self.predicted, self.change, -self.change)


NAMED_CLASSES_MAX = 16
"""With no more classes than that, the overview has their names; with more, the greatest changes in words."""

LISTED = 12


def draw_change_overview(of: MatrixChange) -> Pixels:
    """What moved in the confusion matrix, for any number of classes.

    Blue is better (more on the diagonal, fewer beside it) and vermillion worse, stronger with the share of the true
    class, of few classes with its square root: in the cells of many classes single images come and go, and what stands
    out should be more than that. Where there are more classes than pixels, a pixel adds up several. Beside it the
    recall's change of each class, or of many classes the greatest changes.

    -> [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, top, side = 4, 16, 196
    classes, right = len(of.total), left + side
    share = np.abs(of.change) / np.maximum(of.total[of.true], 1)
    strongest = max(0.02, float(np.quantile(share, 0.98 if classes <= NAMED_CLASSES_MAX else 1)) if len(share) else 0.0)
    x = left + canvas.text((left, 11), f"{classes:,} class{'es' * (classes != 1)}, true ↓ predicted →", 170, 10, FAINT)
    for colour, word in ((RIGHT, "better"), (WRONG, "worse")):
        canvas.draw.rectangle((x + 8, 3, x + 15, 10), fill=colour)
        x += 18 + canvas.text((x + 18, 11), word, 60, 10, FAINT)
    canvas.text((WIDTH_PX - 4, 11), "recall" if classes <= NAMED_CLASSES_MAX else "images", 60, 10, FAINT, anchor="rs")
    canvas.image.paste(Image.fromarray(_diverging(of, side, strongest)), (left, top))
    edges = np.rint(np.arange(classes + 1) * side / max(classes, 1)).astype(int).tolist()
    if side // max(classes, 1) >= 8:
        for edge in edges[1:-1]:
            canvas.draw.line((left + edge - 1, top, left + edge - 1, top + side - 1), fill=PAPER)
            canvas.draw.line((left, top + edge - 1, right - 1, top + edge - 1), fill=PAPER)
    if side // max(classes, 1) >= 18:
        _numbers(canvas, of, edges, left, top, strongest)
    if classes <= NAMED_CLASSES_MAX:
        own = np.zeros(classes, np.int64)
        np.add.at(own, of.true[of.true == of.predicted], of.change[of.true == of.predicted])
        for place, name in enumerate(of.names):
            y = top + (edges[place] + edges[place + 1]) / 2 + 4
            gain = own[place] / max(of.total[place], 1)
            said = signed(100 * gain, 1) if of.total[place] else "–"
            colour = RIGHT if own[place] > 0 else WRONG if own[place] < 0 else FAINT
            number = canvas.text((WIDTH_PX - 4, y), said, 60, 10, colour, bold=True, anchor="rs")
            canvas.text((right + 6, y), name, WIDTH_PX - right - 14 - number, 10, INK)
    else:
        _greatest(canvas, of, right + 8, top)
    return canvas.pixels


def _greatest(canvas: Canvas, of: MatrixChange, left: int, top: int) -> None:
    """The greatest changes beside the diagonal, in words: in pairs of lines, true class above predicted class."""
    beside = np.flatnonzero(of.true != of.predicted)
    order = beside[np.lexsort((of.predicted[beside], of.true[beside], -np.abs(of.change[beside])))][: LISTED // 2]
    y = top + 11
    for i in order.tolist():
        change = int(of.change[i])
        said = signed(change)
        number = canvas.text((WIDTH_PX - 4, y), said, 50, 11, WRONG if change > 0 else RIGHT, bold=True, anchor="rs")
        canvas.text((left, y), of.names[of.true[i]], WIDTH_PX - left - number - 10, 11, INK)
        canvas.text((left, y + 13), f"→ {of.names[of.predicted[i]]}", WIDTH_PX - left - 6, 11, FAINT)
        y += 33


def _numbers(
    canvas: Canvas, of: MatrixChange, edges: Sequence[int], left: int, top: int, strongest: float, size: int = 10
) -> None:
    """The change in each cell; none if there is no room for all of them."""
    said = [("+" if change > 0 else "−") + compact(abs(change)) for change in of.change.tolist()]
    room = min((b - a for a, b in itertools.pairwise(edges)), default=0) - 1
    if max((measure_text(text, 9) for text in said), default=0) > room:
        return
    for text, t, p, change in zip(said, of.true.tolist(), of.predicted.tolist(), of.change.tolist(), strict=True):
        x, y = left + (edges[p] + edges[p + 1]) / 2 - 0.5, top + (edges[t] + edges[t + 1]) / 2 + size / 3
        strength = min(abs(change) / max(int(of.total[t]), 1) / strongest, 1) ** 0.5
        canvas.text((x, y), text, room, size, PAPER if strength > 0.6 else INK, anchor="ms")


def _diverging(of: MatrixChange, side: int, strongest: float) -> Pixels:
    """-> [side, side, 3] uint8."""
    classes = len(of.total)
    cells = min(max(classes, 1), side)
    place = np.arange(classes) * cells // max(classes, 1)  # of each class
    total = np.maximum(np.bincount(place, of.total, cells), 1)[:, None]
    good, bad = np.zeros((cells, cells)), np.zeros((cells, cells))
    better = of.better
    for sums, those in ((good, better > 0), (bad, better < 0)):
        np.add.at(sums, (place[of.true[those]], place[of.predicted[those]]), np.abs(better[those]))
    both = good + bad
    mix = np.array(WRONG) + (np.array(RIGHT) - np.array(WRONG)) * (good / np.maximum(both, 1e-9))[..., None]
    strength = np.minimum(both / total / strongest, 1)[..., None]
    if classes <= NAMED_CLASSES_MAX:
        strength = np.sqrt(strength)
    colour = np.where(both[..., None] > 0, 255 + (mix - 255) * strength, 246)
    pixel = np.repeat(np.arange(cells), np.diff(np.rint(np.arange(cells + 1) * side / cells).astype(int)))
    return np.rint(colour).astype(np.uint8)[pixel][:, pixel]


def draw_change_matrix(of: MatrixChange) -> Pixels:
    """The same with numbers in the cells and names on both sides, as large as it takes. -> [height, width, 3] uint8."""
    n = len(of.total)
    cell = 46 if n <= 12 else 34 if n <= 22 else 30
    size = 12 if n <= 12 else 10
    label = min(max([int(measure_text(name, size)) for name in [*of.names, "true ↓"]]) + 8, 150)
    left, top = label + 16, label + 34
    canvas = Canvas(left + n * cell + 8, top + n * cell + 8)
    canvas.text((left + n * cell / 2, 14), "predicted →", max(n * cell, 80), 12, FAINT, anchor="ms")
    canvas.text((8, top - 8), "true ↓", label, 12, FAINT)
    share = np.abs(of.change) / np.maximum(of.total[of.true], 1)
    strongest = max(0.02, float(share.max(initial=0)))
    edges = [i * cell for i in range(n + 1)]
    for i in range(n):
        canvas.text((left - 8, top + i * cell + cell / 2 + size / 3), of.names[i], label, size, INK, anchor="rs")
        write_upright(canvas, of.names[i], left + i * cell + cell // 2, top - 6, label, size)
        for j in range(n):
            canvas.draw.rectangle(
                (left + j * cell, top + i * cell, left + (j + 1) * cell - 2, top + (i + 1) * cell - 2), fill=PALE
            )
    for t, p, better in zip(of.true.tolist(), of.predicted.tolist(), of.better.tolist(), strict=True):
        if better:
            strength = min(abs(better) / max(int(of.total[t]), 1) / strongest, 1) ** 0.5
            r, g, b = (round(255 + (channel - 255) * strength) for channel in (RIGHT if better > 0 else WRONG))
            x, y = left + p * cell, top + t * cell
            canvas.draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=(r, g, b))
    _numbers(canvas, of, edges, left, top, strongest, size)
    return canvas.pixels


def measure_text(text: str, size: int) -> float:
    """Pixels that a text takes."""
    return Canvas(1, 1).text((0, 0), text, 1e9, size)


@dataclass(frozen=True)
class ComparisonCard:
    """What the card of a comparison says."""

    sentence: str
    """All of it in one."""
    accuracy: DifferenceLine | None
    """Difference of the accuracies; None without images that can be compared."""
    sides: tuple[tuple[str, float], tuple[str, float]] | None
    """Name and accuracy of the old and of the new one."""
    fixed: int
    broken: int
    facts: Sequence[tuple[str, str]]
    """(name, value)."""
    worst: Sequence[tuple[str, str, DifferenceLine]]
    """(class, fixed and broken, change of its accuracy), those that lost most first."""
    moves: Sequence[tuple[str, str, str]]
    """(true class, what it is taken for now, images) of the most frequent changes for the worse."""
    notes: Sequence[str]


def draw_comparison_card(card: ComparisonCard) -> Pixels:
    """The one picture a busy person needs of a comparison. -> [215, 350, 3] uint8."""
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, split = 8, 150
    width = split - left - 12
    top = _sentence(canvas, card.sentence, left, WIDTH_PX - 2 * left)
    y = top + 28
    if card.accuracy is None or card.sides is None:
        canvas.text((left, y), "nothing to compare", width, 16, UNKNOWN, bold=True)
    else:
        a = card.accuracy
        used = canvas.text((left, y), signed(100 * a.value, 1), width, 23, a.colour, bold=True)
        canvas.text((left + used + 4, y), "points", width - used, 11, FAINT)
        ends = f"accuracy, {signed(100 * a.lower, 1)} to {signed(100 * a.upper, 1)}"
        canvas.text((left, y + 13), ends, width, 10, FAINT)
        _ruler(canvas, a, left, y + 23, width)
        for line, (name, accuracy) in zip((y + 42, y + 55), card.sides, strict=True):
            number = canvas.text((left + width, line), percent(accuracy), 50, 10, INK, bold=True, anchor="rs")
            canvas.text((left, line), name, width - number - 5, 10, FAINT)
        _flips(canvas, card, left, y + 62, width)
        y += 82
    for name, value in card.facts:
        y += 14
        canvas.text((left, y), name, 74, 10, FAINT)
        canvas.text((left + width, y), value, 70, 10, INK, anchor="rs")

    canvas.draw.line((split - 4, top + 6, split - 4, 184), fill=TRACK)
    x, width = split + 4, WIDTH_PX - split - 10
    y = top + 14
    if card.worst:
        canvas.text((x, y), "classes, the worst first", width - 60, 10, FAINT)
        canvas.text((x + width, y), "points", 55, 10, FAINT, anchor="rs")
    for name, flips, change in card.worst:
        y += 14
        points = signed(100 * change.value, 1)
        number = canvas.text((x + width, y), points, 44, 11, change.colour, bold=True, anchor="rs")
        used = canvas.text((x + width - 46, y), flips, 60, 10, FAINT, anchor="rs")
        canvas.text((x, y), name, width - 50 - max(used, number) - 4, 11, INK)
    if card.moves:
        y += 20
        canvas.text((x, y), "broken most often: true → now", width, 10, FAINT)
    for true, now, images in card.moves:
        y += 14
        used = canvas.text((x + width, y), images, 50, 10, FAINT, anchor="rs")
        room = width - used - 8
        first = canvas.text((x, y), true, room * 0.5 - 8, 11, INK)
        canvas.text((x + first + 3, y), f"→ {now}", room - first - 3, 11, INK)
    if card.notes:
        more = f"  (+{len(card.notes) - 1} more in report)" if len(card.notes) > 1 else ""
        canvas.draw.rectangle((0, HEIGHT_PX - 25, WIDTH_PX, HEIGHT_PX), fill=(253, 236, 224))
        canvas.text((left, HEIGHT_PX - 9), f"! {card.notes[0]}{more}", WIDTH_PX - 2 * left, 11, (150, 60, 0), bold=True)
    return canvas.pixels


def _sentence(canvas: Canvas, text: str, left: int, width: int, lines: int = 3) -> int:
    """Write a sentence on at most three lines. -> where the last one ends."""
    words, y = text.split(), 1
    for line in range(lines):
        count = len(words)
        while line < lines - 1 and count > 1 and measure_text(" ".join(words[:count]), 11) > width:
            count -= 1
        y += 13
        canvas.text((left, y), " ".join(words[:count]), width, 11, INK)
        words = words[count:]
        if not words:
            break
    return y


def _ruler(canvas: Canvas, a: DifferenceLine, left: int, y: int, width: int) -> None:
    """The interval on a line with 0 in it."""
    low, high = min(a.lower, 0.0), max(a.upper, 0.0)
    wide = max(high - low, 1e-9)

    def at(value: float) -> float:
        return left + 5 + (value - low) / wide * (width - 10)

    canvas.draw.line((left, y, left + width, y), fill=TRACK)
    canvas.draw.line((at(0), y - 5, at(0), y + 5), fill=INK)
    canvas.draw.line((at(a.lower), y, at(a.upper), y), fill=a.colour, width=3)
    canvas.draw.ellipse((at(a.value) - 4, y - 4, at(a.value) + 4, y + 4), fill=a.colour)


def _flips(canvas: Canvas, card: ComparisonCard, left: int, top: int, width: int) -> None:
    """Fixed and broken as the two parts of a bar, with their numbers below."""
    total = card.fixed + card.broken
    share = card.fixed / total if total else 0.0
    canvas.bar(left, top, width, 8, share, RIGHT, WRONG if total else TRACK)
    canvas.text((left, top + 20), f"{card.fixed:,} fixed", width / 2, 10, RIGHT, bold=True)
    canvas.text((left + width, top + 20), f"{card.broken:,} broken", width / 2, 10, WRONG, bold=True, anchor="rs")


def draw_all_pairs(names: Sequence[str], changes: Sequence[Sequence[DifferenceLine | None]]) -> Pixels:
    """Every side against every other: accuracy of the row less that of the column, in points.

    Args:
        names: of the sides, the most accurate first.
        changes: [sides, sides]; None where there is nothing to compare, and on the diagonal.

    Returns:
        [height, width, 3] uint8; blue where the row is better for sure, vermillion where it is worse, grey where the
        interval does not tell.
    """
    n = len(names)
    wide, tall, size = 42, 24, 11
    label = min(max(int(measure_text(name, size)) for name in names) + 8, 150)
    left, top = label + 12, min(label, 110) + 40
    width = max(left + n * wide + 8, WIDTH_PX)
    canvas = Canvas(width, max(top + n * tall + 24, HEIGHT_PX))
    canvas.text((8, 15), "accuracy of the row less that of the column, in points", width - 16, 11, FAINT)
    for i, name in enumerate(names):
        y = top + i * tall
        canvas.text((left - 8, y + tall / 2 + 4), name, label, size, INK, anchor="rs")
        write_upright(canvas, name, left + i * wide + wide // 2, top - 6, min(label, 110), size)
        for j, change in enumerate(changes[i]):
            x = left + j * wide
            colour = PALE if change is None else change.colour if change.colour != UNKNOWN else (205, 205, 205)
            canvas.draw.rectangle((x, y, x + wide - 2, y + tall - 2), fill=colour)
            if change is not None:
                ink = INK if change.colour == UNKNOWN else PAPER
                at = (x + wide / 2 - 1, y + tall / 2 + 4)
                canvas.text(at, signed(100 * change.value, 1), wide - 4, size, ink, bold=True, anchor="ms")
    y, at_x = top + n * tall + 15, 8.0
    for colour, word in ((RIGHT, "better"), (WRONG, "worse"), ((205, 205, 205), "cannot be told apart")):
        canvas.draw.rectangle((at_x, y - 8, at_x + 8, y), fill=colour)
        at_x += 24 + canvas.text((at_x + 12, y), word, 150, 10, FAINT)
    return canvas.pixels
