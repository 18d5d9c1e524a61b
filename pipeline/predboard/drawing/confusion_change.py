"""Draws how a confusion matrix changed between steps: an overview, and one with numbers. It knows no metrics.

Blue means better (more on the diagonal, fewer beside it) and vermillion means worse.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX, Canvas, write_upright
from predboard.drawing.card_matrix import CARD_CLASSES, MatrixCell, draw_card_matrix
from predboard.drawing.confusion import (
    MATRIX_LEFT_PX,
    MATRIX_SIDE_PX,
    MATRIX_TOP_PX,
    cell_edges,
    draw_grid,
    mix_colours,
)
from predboard.drawing.fonts import measure_text
from predboard.drawing.palette import EMPTY_CELL, FAINT, INK, PAPER, RIGHT, WRONG, blend
from predboard.formatting import compact, shorter, signed
from predboard.summaries import Pixels

NAMED_CLASSES_MAX = 16
"""Up to this many classes the overview has their names; with more, it lists the greatest changes."""

_LISTED_CHANGES = 6
_NUMBERS_MIN_CELL_PX = 18
"""Cells of the overview hold numbers from this size on."""

_MIN_FULL_STRENGTH = 0.02
"""A change of this share of a class or less never has its full colour: few changes should look few."""


@dataclass(frozen=True)
class MatrixChange:
    """The change of each cell of a confusion matrix."""

    true: NDArray[np.int64]
    """[cells] position of the true class, from 0."""
    predicted: NDArray[np.int64]
    """[cells] position of the predicted class."""
    change: NDArray[np.int64]
    """[cells] images more than before; negative if there are fewer."""
    total: NDArray[np.int64]
    """[classes] images of each class."""
    names: Sequence[str]
    """[classes]."""

    @property
    def better(self) -> NDArray[np.int64]:
        """[cells] images by which matters improved: more on the diagonal, fewer beside it."""
        return np.where(self.true == self.predicted, self.change, -self.change)

    @property
    def shares(self) -> NDArray[np.float64]:
        """[cells] size of the change as a share of the true class."""
        return np.asarray(np.abs(self.change) / np.maximum(self.total[self.true], 1))


def draw_change_overview(change: MatrixChange) -> Pixels:
    """Draw what changed in the confusion matrix in the size of a card, for any number of classes.

    A cell's colour is stronger the larger its share of the true class is; of few classes with the square root of the
    share. With many classes single images come and go in many cells, and what stands out should be more than that.
    Where there are more classes than pixels, a pixel adds up several. Beside the matrix stands the change of each
    class's recall, or of many classes the greatest changes.

    Returns:
        [215, 350, 3] uint8.
    """
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    left, top, side = MATRIX_LEFT_PX, MATRIX_TOP_PX, MATRIX_SIDE_PX
    classes, shares = len(change.total), change.shares
    few = classes <= NAMED_CLASSES_MAX
    largest = float(np.quantile(shares, 0.98 if few else 1)) if len(shares) else 0.0
    strongest = max(_MIN_FULL_STRENGTH, largest)
    title = f"{classes:,} class{'es' * (classes != 1)}, true ↓ predicted →"
    x = left + canvas.text((left, 11), title, 170, 10, FAINT)
    for colour, word in ((RIGHT, "better"), (WRONG, "worse")):
        canvas.draw.rectangle((x + 8, 3, x + 15, 10), fill=colour)
        x += 18 + canvas.text((x + 18, 11), word, 60, 10, FAINT)
    canvas.text((WIDTH_PX - 4, 11), "recall" if few else "images", 60, 10, FAINT, anchor="rs")
    canvas.image.paste(Image.fromarray(_colour_cells(change, side, strongest)), (left, top))
    edges = cell_edges(classes, side)
    draw_grid(canvas, edges)
    if side // max(classes, 1) >= _NUMBERS_MIN_CELL_PX:
        _write_numbers(canvas, change, edges, left, top, strongest)
    if few:
        _write_recall_changes(canvas, change, edges, left + side, top)
    else:
        _write_greatest(canvas, change, left + side + 8, top)
    return canvas.pixels


def draw_change_matrix(change: MatrixChange) -> Pixels:
    """Draw what changed with numbers in the cells and names on both sides. -> [height, width, 3] uint8."""
    n = len(change.total)
    strongest = max(_MIN_FULL_STRENGTH, float(change.shares.max(initial=0)))
    if n <= CARD_CLASSES:
        return _draw_on_card(change, strongest)
    cell, size = 34 if n <= 22 else 30, 10
    label = min(max([int(measure_text(name, size)) for name in [*change.names, "true ↓"]]) + 8, 150)
    left, top = label + 16, label + 34
    canvas = Canvas(left + n * cell + 8, top + n * cell + 8)
    canvas.text((left + n * cell / 2, 14), "predicted →", max(n * cell, 80), 12, FAINT, anchor="ms")
    canvas.text((8, top - 8), "true ↓", label, 12, FAINT)
    for i, name in enumerate(change.names):
        canvas.text((left - 8, top + i * cell + cell / 2 + size / 3), name, label, size, INK, anchor="rs")
        write_upright(canvas, name, left + i * cell + cell // 2, top - 6, label, size)
        for j in range(n):
            x, y = left + j * cell, top + i * cell
            canvas.draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=EMPTY_CELL)
    cells = (change.true.tolist(), change.predicted.tolist(), change.better.tolist(), change.shares.tolist())
    for t, p, better, share in zip(*cells, strict=True):
        if better:
            colour = blend(RIGHT if better > 0 else WRONG, min(share / strongest, 1) ** 0.5)
            x, y = left + p * cell, top + t * cell
            canvas.draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=colour)
    _write_numbers(canvas, change, [i * cell for i in range(n + 1)], left, top, strongest, size)
    return canvas.pixels


def _draw_on_card(change: MatrixChange, strongest: float) -> Pixels:
    n = len(change.total)
    cells: list[list[MatrixCell | None]] = [[None] * n for _ in range(n)]
    columns = (change.true, change.predicted, change.change, change.better, change.shares)
    for t, p, images, better, share in zip(*(column.tolist() for column in columns), strict=True):
        if better:
            colour = blend(RIGHT if better > 0 else WRONG, min(share / strongest, 1) ** 0.5)
            cells[t][p] = MatrixCell([f"{'+' * (images > 0)}{text}" for text in shorter(images)], colour)
    key = ((RIGHT, "better"), (WRONG, "worse"))
    return draw_card_matrix("true ↓ predicted →   images more or fewer than before", change.names, cells, key)


def _write_recall_changes(canvas: Canvas, change: MatrixChange, edges: Sequence[int], right: int, top: int) -> None:
    """Write the name of each class and the change of its recall, in points, beside its row."""
    hits = np.zeros(len(change.total), np.int64)  # [classes] more than before
    diagonal = change.true == change.predicted
    np.add.at(hits, change.true[diagonal], change.change[diagonal])
    for i, name in enumerate(change.names):
        y = top + (edges[i] + edges[i + 1]) / 2 + 4
        gain = hits[i] / max(change.total[i], 1)
        colour = RIGHT if hits[i] > 0 else WRONG if hits[i] < 0 else FAINT
        text = signed(100 * gain, 1) if change.total[i] else "–"
        number = canvas.text((WIDTH_PX - 4, y), text, 60, 10, colour, bold=True, anchor="rs")
        canvas.text((right + 6, y), name, WIDTH_PX - right - 14 - number, 10, INK)


def _write_greatest(canvas: Canvas, change: MatrixChange, left: int, top: int) -> None:
    """List the greatest changes beside the diagonal in pairs of lines, the true class above the predicted one."""
    confused = np.flatnonzero(change.true != change.predicted)
    keys = (change.predicted[confused], change.true[confused], -np.abs(change.change[confused]))
    y = top + 11
    for i in confused[np.lexsort(keys)][:_LISTED_CHANGES].tolist():
        images = int(change.change[i])
        colour = WRONG if images > 0 else RIGHT
        number = canvas.text((WIDTH_PX - 4, y), signed(images), 50, 11, colour, bold=True, anchor="rs")
        canvas.text((left, y), change.names[change.true[i]], WIDTH_PX - left - number - 10, 11, INK)
        canvas.text((left, y + 13), f"→ {change.names[change.predicted[i]]}", WIDTH_PX - left - 6, 11, FAINT)
        y += 33


def _write_numbers(
    canvas: Canvas, change: MatrixChange, edges: Sequence[int], left: int, top: int, strongest: float, size: int = 10
) -> None:
    """Write the change into each cell; none at all if there is no room for one of them."""
    texts = [("+" if images > 0 else "−") + compact(abs(images)) for images in change.change.tolist()]
    room = min((b - a for a, b in itertools.pairwise(edges)), default=0) - 1
    if max((measure_text(text, 9) for text in texts), default=0) > room:
        return
    cells = (texts, change.true.tolist(), change.predicted.tolist(), change.shares.tolist())
    for text, t, p, share in zip(*cells, strict=True):
        x, y = left + (edges[p] + edges[p + 1]) / 2 - 0.5, top + (edges[t] + edges[t + 1]) / 2 + size / 3
        strength = min(share / strongest, 1) ** 0.5
        canvas.text((x, y), text, room, size, PAPER if strength > 0.6 else INK, anchor="ms")


def _colour_cells(change: MatrixChange, side: int, strongest: float) -> Pixels:
    """Colour the cells of the overview, [side, side, 3] uint8."""
    classes = len(change.total)
    cells = min(max(classes, 1), side)
    position = np.arange(classes) * cells // max(classes, 1)  # [classes] of each class, in cells
    total = np.maximum(np.bincount(position, change.total, cells), 1)[:, None]  # [cells, 1]
    improved, worsened = np.zeros((cells, cells)), np.zeros((cells, cells))
    better = change.better
    for sums, chosen in ((improved, better > 0), (worsened, better < 0)):
        where = (position[change.true[chosen]], position[change.predicted[chosen]])
        np.add.at(sums, where, np.abs(better[chosen]))
    both = improved + worsened
    strength = np.minimum(both / total / strongest, 1)[..., None]
    if classes <= NAMED_CLASSES_MAX:
        strength = np.sqrt(strength)
    return mix_colours((improved / np.maximum(both, 1e-9))[..., None], strength, both[..., None] > 0, side)
