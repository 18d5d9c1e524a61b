"""What a panel may ask to be drawn: a closed set of plain values. Knows nothing of TensorBoard or its encoding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.predictions import Rows

Pixels = NDArray[np.uint8]
"""A picture, [height, width, 3]."""


@dataclass(frozen=True)
class Scalar:
    """A number, one point of a curve over the steps."""

    tag: str
    value: float
    description: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing. It is encoded without loss."""

    tag: str
    pixels: Pixels
    description: str = ""


@dataclass(frozen=True)
class Tiles:
    """Source pictures with their words, one sample a row. A panel names the rows; `visualize` finds the pictures."""

    tag: str
    rows: Rows
    description: str = ""


@dataclass(frozen=True)
class Encoded:
    """Pictures of one size, already encoded as PNG or JPEG: what `Tiles` become."""

    tag: str
    width: int
    height: int
    samples: tuple[bytes, ...]
    description: str = ""


@dataclass(frozen=True)
class Histogram:
    """Counts of equal bins."""

    tag: str
    edges: NDArray[np.float64]  # [bins + 1] ascending
    counts: NDArray[np.int64]  # [bins]
    description: str = ""


@dataclass(frozen=True)
class Text:
    """Markdown: tables and lists, no HTML."""

    tag: str
    markdown: str
    description: str = ""


Summary = Scalar | Picture | Tiles | Encoded | Histogram | Text


def cell(text: str) -> str:
    """A text that cannot break a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
