"""Shows which labels occur together, in the images and in the predictions. It knows no image and no missed label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predboard.drawing.card_matrix import CARD_CLASSES
from predboard.drawing.confusion import draw_counts
from predboard.formatting import escape_markdown, markdown_table
from predboard.metrics.multi_label.label_counts import LabelCountMetrics
from predboard.panels.pages.confusion import format_lift
from predboard.summaries import Pixels

TABLE_PAIRS = 60
"""Rows of the table."""

LabelPairCells = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""First label, second label and count of each pair, [cells] each."""


def draw_together(cells: LabelPairCells, of_label: NDArray[np.int64], names: Sequence[str]) -> Pixels:
    """Draw how often pairs of labels occur together, of the most frequent labels if there are many.

    Args:
        cells: of all pairs; pairs of a label with itself are its images.
        of_label: images of each label, [classes].
        names: [classes].
    """
    chosen = np.sort(np.argsort(-of_label, kind="stable")[:CARD_CLASSES])
    chosen = chosen[of_label[chosen] > 0]
    place = np.full(len(names), -1)
    place[chosen] = np.arange(len(chosen))
    first, second, count = cells
    inside = (first < len(names)) & (second < len(names))
    a, b, n = place[first[inside]], place[second[inside]], count[inside]
    counts = np.zeros((len(chosen), len(chosen)), np.int64)
    both = (a >= 0) & (b >= 0)
    counts[a[both], b[both]] = n[both]
    title = "images with both labels" if len(chosen) == np.count_nonzero(of_label) else "images, most frequent labels"
    return draw_counts(title, counts, [names[c] for c in chosen], of_label[chosen].tolist())


def together_page(
    true: LabelPairCells, predicted: LabelPairCells, metrics: LabelCountMetrics, names: Sequence[str]
) -> str:
    """Return a table of the labels that occur together most often, and how often they are predicted together."""
    first, second, count = true
    pairs = first < second
    first, second, count = first[pairs], second[pairs], count[pairs]
    if not len(count):
        return "No image has two labels."
    order = np.lexsort((second, first, -count))[:TABLE_PAIRS]
    both = {(i, j): n for i, j, n in zip(*(column.tolist() for column in predicted), strict=True)}
    support, n = metrics.support, metrics.counted
    rows = []
    for i, j, images in zip(first[order].tolist(), second[order].tolist(), count[order].tolist(), strict=True):
        lift = images * n / (support[i] * support[j])
        rows.append(
            (
                escape_markdown(names[i]),
                escape_markdown(names[j]),
                f"{images:,}",
                format_lift(lift),
                f"{both.get((i, j), 0):,}",
            )
        )
    rest = f" The most frequent {len(order)} of {len(count):,} pairs." if len(count) > len(order) else ""
    table = markdown_table(("label", "and", "images", "lift", "predicted together"), "llrrr", rows)
    return (
        f"{table}\n\n*Lift*: the count divided by what it would be if the labels were independent of each other: above "
        f"1 they attract, below 1 they exclude each other.{rest}"
    )
