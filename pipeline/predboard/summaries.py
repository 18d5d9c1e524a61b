"""What a panel may ask to be drawn: a closed set of plain values. Knows nothing of TensorBoard or its encoding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.table import TileRows

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
    """A drawing, made when it is asked for: at steps whose pictures TensorBoard would drop it is not."""

    tag: str
    draw: Callable[[], Pixels]
    description: str = ""

    @cached_property
    def pixels(self) -> Pixels:
        """[height, width, 3]. They are encoded without loss."""
        return self.draw()


@dataclass(frozen=True)
class Tiles:
    """Source pictures with their words, one sample a row. A panel names the rows; `visualize` finds the pictures."""

    tag: str
    rows: TileRows
    description: str = ""


@dataclass(frozen=True)
class EncodedImages:
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


@dataclass(frozen=True)
class PrCurve:
    """Precision over recall. TensorBoard labels points by thresholds 0, 1/(n-1), … 1, whatever the true ones are."""

    tag: str
    tp: NDArray[np.float64]  # [points] counts, thresholds ascending, so recall descending
    fp: NDArray[np.float64]  # [points]
    tn: NDArray[np.float64]  # [points]
    fn: NDArray[np.float64]  # [points]
    description: str = ""


@dataclass(frozen=True)
class LineChart:
    """A chart of Custom Scalars: the curves of all scalars whose tag fits one of the patterns."""

    tag: str
    """`category/title` of the chart."""
    patterns: tuple[str, ...]
    """Regular expressions, matched from the tag's beginning."""
    description: str = ""


@dataclass(frozen=True)
class BandChart:
    """A chart of Custom Scalars: a curve with its interval. The three are tags of scalars."""

    tag: str
    """`category/title` of the chart."""
    value: str
    lower: str
    upper: str
    description: str = ""


@dataclass(frozen=True)
class HParams:
    """The run's line in the table of runs."""

    tag: str
    name: str
    """Of the run."""
    settings: Mapping[str, str | float | bool]
    """What the run was made with."""
    metrics: Mapping[str, str]
    """Tags of scalars to show beside, and how they are called there."""
    description: str = ""


@dataclass(frozen=True)
class Metric:
    """A number with what one must know to judge it."""

    value: float
    interval: tuple[float, float] | None = None
    """Ends of the 95 % interval."""
    definition: str = ""
    method: str = ""
    """How the interval was made."""
    bound: float | None = None
    """How far the exact value may be away; None if this is it."""
    rows: int | None = None
    """Images that it rests on; None of a number that is itself a count."""


@dataclass(frozen=True)
class Metrics:
    """Numbers for `summary.json`, by name. Not shown by TensorBoard; of a scalar by the name of its tag."""

    tag: str
    metrics: Mapping[str, Metric]
    description: str = ""


@dataclass(frozen=True)
class File:
    """A file for other tools, beside the event file. Not shown by TensorBoard."""

    tag: str
    """Its name in the run's log folder, `/` between folders."""
    content: bytes
    description: str = ""


@dataclass(frozen=True)
class Projector:
    """Points in many dimensions with their words and pictures, for TensorBoard's Projector. One for a run."""

    tag: str
    vectors: NDArray[np.float32]  # [points, dims]
    metadata: Mapping[str, Sequence[str]]
    """Columns of [points] each; the first two are what TensorBoard labels and colours by."""
    rows: TileRows
    """Of the pictures, [points] each."""
    description: str = ""


Summary = (
    Scalar
    | Picture
    | Tiles
    | EncodedImages
    | Histogram
    | Text
    | PrCurve
    | LineChart
    | BandChart
    | HParams
    | Metrics
    | File
    | Projector
)
