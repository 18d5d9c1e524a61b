"""Confusion matrices: one with numbers, and an overview for any number of classes. It knows no metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX, Canvas, write_upright
from predboard.drawing.card_matrix import CARD_CLASSES, MatrixCell, draw_card_matrix
from predboard.drawing.fonts import measure_text
from predboard.drawing.palette import (
    EMPTY_CELL,
    FAINT,
    INK,
    PAPER,
    RIGHT,
    UNKNOWN,
    WRONG,
    Colour,
    blend,
)
from predboard.formatting import compact, percent, shorter
from predboard.summaries import Pixels

MATRIX_LEFT_PX, MATRIX_TOP_PX, MATRIX_SIDE_PX = 4, 16, 196
"""Place and size of the matrix in an overview."""

MAX_GROUPS = 7
"""Groups that an overview has room to describe."""

AXES = ("true", "predicted")
"""Meaning of rows and columns."""

_GRID_MIN_CELL_PX = 8
"""White lines separate cells of at least this size."""


def draw_confusion_matrix(
    counts: NDArray[np.int64],
    names: Sequence[str],
    total: Sequence[int],
    others: bool = False,
    axes: tuple[str, str] = AXES,
) -> Pixels:
    """Draw a confusion matrix with numbers and labels, of few classes in the size of a card.

    Right cells are blue and wrong ones vermillion, both stronger with the square root of the share, so that small
    confusions are seen.

    Args:
        counts: [classes, classes] images; row: true class, column: predicted class.
        names: [classes].
        total: [classes] images of each true class; the strength of a cell is its share of them.
        others: whether the last row and column stand for several classes. Their common cell is grey then, because
            right and wrong are mixed in it.
        axes: meaning of rows and columns.

    Returns:
        [height, width, 3] uint8.
    """
    n = len(counts)

    def colour(i: int, j: int) -> Colour:
        base = WRONG if i != j else UNKNOWN if others and i == n - 1 else RIGHT
        return blend(base, float(np.sqrt(counts[i, j] / total[i] if total[i] else 0.0)))

    if n <= CARD_CLASSES + others:
        cells = [
            [MatrixCell(shorter(int(counts[i, j])), colour(i, j)) if counts[i, j] else None for j in range(n)]
            for i in range(n)
        ]
        return draw_card_matrix(f"{axes[0]} ↓ {axes[1]} →   images; blue is right", names, cells)
    cell, size = 34 if n <= 22 else 28, 10
    label = min(max(int(measure_text(name, size)) for name in [*names, f"{axes[0]} ↓"]) + 8, 150)
    totals_width = 44
    left, top = label + 16, label + 34
    canvas = Canvas(left + n * cell + totals_width + 6, top + n * cell + 8)
    canvas.text((left + n * cell / 2, 14), f"{axes[1]} →", max(n * cell, 80), 12, FAINT, anchor="ms")
    canvas.text((8, top - 8), f"{axes[0]} ↓", label, 12, FAINT)
    canvas.text((left + n * cell + totals_width, top - 8), "rows", totals_width, 10, FAINT, anchor="rs")
    for i in range(n):
        y = top + i * cell
        canvas.text((left - 8, y + cell / 2 + size / 3), names[i], label, size, INK, anchor="rs")
        rows = f"{total[i]:,}" if total[i] < 100_000 else compact(total[i])
        end = left + n * cell + totals_width
        canvas.text((end, y + cell / 2 + 4), rows, totals_width - 4, 10, FAINT, anchor="rs")
        write_upright(canvas, names[i], left + i * cell + cell // 2, top - 6, label, size)
        for j in range(n):
            _draw_cell(canvas, left + j * cell, y, cell, size, int(counts[i, j]), colour(i, j))
    return canvas.pixels


def draw_counts(heading: str, counts: NDArray[np.int64], names: Sequence[str], total: Sequence[int]) -> Pixels:
    """Draw counts of pairs that are neither right nor wrong, in the size of a card, the diagonal in grey.

    Args:
        heading: what is counted.
        counts: [classes, classes], at most `CARD_CLASSES` + 1.
        names: [classes].
        total: [classes] count of which a row's cells are shares; the stronger a cell, the larger its share.

    Returns:
        [215, 350, 3] uint8.
    """

    def cell(i: int, j: int) -> MatrixCell | None:
        share = float(np.sqrt(counts[i, j] / total[i])) if total[i] else 0.0
        colour = blend(UNKNOWN if i == j else RIGHT, share * (0.5 if i == j else 1.0))
        return MatrixCell(shorter(int(counts[i, j])), colour) if counts[i, j] else None

    return draw_card_matrix(heading, names, [[cell(i, j) for j in range(len(names))] for i in range(len(names))])


def _draw_cell(canvas: Canvas, x: int, y: int, cell: int, size: int, count: int, colour: Colour) -> None:
    canvas.draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=colour if count else EMPTY_CELL)
    if count:
        red, green, blue = colour
        ink = PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK  # by luminance (ITU-R BT.601)
        canvas.text((x + cell / 2 - 1, y + cell / 2 + size / 3), compact(count), cell - 3, size, ink, anchor="ms")


@dataclass(frozen=True)
class ConfusionGroup:
    """Neighbouring classes of an overview that are confused with one another."""

    start: int
    stop: int
    """Position of the first class, and after the last."""
    true: str
    predicted: str
    """The most frequent confusion inside."""
    errors: int
    """Images that were confused inside."""


@dataclass(frozen=True)
class ConfusionOverview:
    """A confusion matrix without numbers, its classes ordered so that similar ones are neighbours."""

    true: NDArray[np.int64]
    """[cells] position of the true class, from 0."""
    predicted: NDArray[np.int64]
    """[cells] position of the predicted class."""
    count: NDArray[np.int64]
    """[cells] images."""
    total: NDArray[np.int64]
    """[classes] images of each class."""
    strongest: float
    """Share of a true class at which a wrong cell reaches its full colour."""
    names: Sequence[str] = ()
    """[classes] written beside the rows; empty where there is no room, and then the groups are described instead."""
    groups: Sequence[ConfusionGroup] = ()
    """In the order of their positions, at most `MAX_GROUPS`."""
    axes: tuple[str, str] = AXES
    """Meaning of rows and columns."""
    title: str = ""
    """Instead of the number of classes and the axes."""
    noun: str = "class"
    """Word for one of the classes."""
    without_recall: str = ""
    """A name among `names` that stands for no class, and so has no recall."""


def draw_confusion_overview(overview: ConfusionOverview) -> Pixels:
    """Draw a confusion matrix in the size of a card, for any number of classes.

    Blue is right and vermillion wrong, stronger with the square root of the share of the true class. Where there are
    more classes than pixels, a pixel holds the images of several classes and mixes the two colours.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, top, side = MATRIX_LEFT_PX, MATRIX_TOP_PX, MATRIX_SIDE_PX
    classes = len(overview.total)
    edges = cell_edges(classes, side)
    _draw_header(canvas, overview)
    canvas.image.paste(Image.fromarray(_colour_cells(overview, 0, classes, side)), (left, top))
    draw_grid(canvas, edges)
    for group in overview.groups:
        a, b = edges[group.start], max(edges[group.stop], edges[group.start] + 1)
        canvas.draw.rectangle((left + a - 1, top + a - 1, left + b - 1, top + b - 1), outline=INK)
    if overview.names:
        _write_recalls(canvas, overview, edges)
    else:
        _describe_groups(canvas, overview, edges, left + side + 1, top)
    return canvas.pixels


def cell_edges(classes: int, side: int) -> list[int]:
    """Return where each class begins, and where the last one ends, on a line of `side` pixels: [classes + 1]."""
    edges: list[int] = np.rint(np.arange(classes + 1) * side / max(classes, 1)).astype(int).tolist()
    return edges


def draw_grid(canvas: Canvas, edges: Sequence[int]) -> None:
    """Draw white lines between the cells of an overview, if they are large enough."""
    left, top, side = MATRIX_LEFT_PX, MATRIX_TOP_PX, MATRIX_SIDE_PX
    if side // max(len(edges) - 1, 1) >= _GRID_MIN_CELL_PX:
        for edge in edges[1:-1]:
            canvas.draw.line((left + edge - 1, top, left + edge - 1, top + side - 1), fill=PAPER)
            canvas.draw.line((left, top + edge - 1, left + side - 1, top + edge - 1), fill=PAPER)


def _draw_header(canvas: Canvas, overview: ConfusionOverview) -> None:
    classes = len(overview.total)
    title = overview.title or f"{classes:,} class{'es' * (classes != 1)}, {overview.axes[0]} ↓ {overview.axes[1]} →"
    x = MATRIX_LEFT_PX + canvas.text((MATRIX_LEFT_PX, 11), title, 190, 10, FAINT) + 12
    canvas.draw.rectangle((x, 3, x + 7, 10), fill=WRONG)
    canvas.text((x + 11, 11), f"≥ {percent(overview.strongest)} of a {overview.noun}", 125, 10, FAINT)
    heading = "recall" if overview.names else "errors" if overview.groups else ""
    canvas.text((WIDTH_PX - 4, 11), heading, 60, 10, FAINT, anchor="rs")


def _write_recalls(canvas: Canvas, overview: ConfusionOverview, edges: Sequence[int]) -> None:
    """Write the name and the recall of each class beside its row."""
    right = MATRIX_LEFT_PX + MATRIX_SIDE_PX
    for i, name in enumerate(overview.names):
        y = MATRIX_TOP_PX + (edges[i] + edges[i + 1]) / 2 + 4
        rows = int(overview.total[i])
        hits = int(overview.count[(overview.true == i) & (overview.predicted == i)].sum())
        recall = percent(hits / rows) if rows else "no images"
        recall = "" if name == overview.without_recall else recall
        number = canvas.text((WIDTH_PX - 4, y), recall, 60, 10, INK, anchor="rs")
        canvas.text((right + 6, y), name, WIDTH_PX - right - 14 - number, 10, INK)


def _describe_groups(canvas: Canvas, overview: ConfusionOverview, edges: Sequence[int], left: int, top: int) -> None:
    """Draw each group enlarged and named, beside its rows or as near to them as there is room."""
    side, pitch = 26, 28
    x = left + 14
    y = top
    for i, group in enumerate(overview.groups):
        a, b = top + edges[group.start], top + max(edges[group.stop], edges[group.start] + 1)
        lowest = top + pitch * (MAX_GROUPS - len(overview.groups) + i)
        y = min(max(y, (a + b - side) // 2), lowest)
        canvas.draw.line((left, a, left, b - 1), fill=INK)
        canvas.draw.line((left + 1, (a + b) // 2, x - 2, y + side // 2), fill=UNKNOWN)
        canvas.image.paste(Image.fromarray(_colour_cells(overview, group.start, group.stop, side)), (x, y))
        canvas.draw.rectangle((x - 1, y - 1, x + side, y + side), outline=INK)
        number = canvas.text((WIDTH_PX - 4, y + 11), f"{group.errors:,}", 50, 10, INK, bold=True, anchor="rs")
        canvas.text((x + side + 4, y + 11), group.true, WIDTH_PX - x - side - 14 - number, 10, INK)
        more = group.stop - group.start - 2
        number = canvas.text((WIDTH_PX - 4, y + 23), f"+{more:,}" if more else "", 40, 10, FAINT, anchor="rs")
        canvas.text((x + side + 4, y + 23), f"→ {group.predicted}", WIDTH_PX - x - side - 12 - number, 10, INK)
        y += pitch


def _colour_cells(overview: ConfusionOverview, start: int, stop: int, side: int) -> Pixels:
    """Colour the cells of the classes from `start` to `stop` as a square, [side, side, 3] uint8."""
    cells = min(stop - start, side)
    position = np.arange(stop - start) * cells // (stop - start)  # [classes] of each class, in cells
    inside = (overview.true >= start) & (overview.true < stop)
    inside &= (overview.predicted >= start) & (overview.predicted < stop)
    true, predicted = overview.true[inside] - start, overview.predicted[inside] - start
    count = overview.count[inside]
    right, wrong = np.zeros((cells, cells)), np.zeros((cells, cells))
    same = true == predicted
    for counts, chosen in ((right, same), (wrong, ~same)):
        np.add.at(counts, (position[true[chosen]], position[predicted[chosen]]), count[chosen])
    total = np.maximum(np.bincount(position, overview.total[start:stop], cells), 1)[:, None]  # [cells, 1]
    right, wrong = right / total, np.minimum(wrong / (total * overview.strongest), 1)
    both = (right + wrong)[..., None]
    strength = np.sqrt(np.minimum(both, 1))
    return mix_colours(right[..., None] / np.maximum(both, 1e-9), strength, both > 0, side)


def mix_colours(
    right: NDArray[np.float64], strength: NDArray[np.float64], filled: NDArray[np.bool_], side: int
) -> Pixels:
    """Colour square cells between wrong and right, and enlarge them to a picture.

    Args:
        right: [cells, cells, 1] share of right in the mixture, 0 to 1.
        strength: [cells, cells, 1] of the colour, 0 (white) to 1.
        filled: [cells, cells, 1] whether there is anything in a cell; else it is pale grey.
        side: of the picture, pixels.

    Returns:
        [side, side, 3] uint8.
    """
    mixture = np.array(WRONG) + (np.array(RIGHT) - np.array(WRONG)) * right
    colour = np.where(filled, 255 + (mixture - 255) * strength, EMPTY_CELL[0])
    pixel = np.repeat(np.arange(len(colour)), np.diff(cell_edges(len(colour), side)))  # [side] cell of each pixel
    return np.rint(colour).astype(np.uint8)[pixel][:, pixel]
