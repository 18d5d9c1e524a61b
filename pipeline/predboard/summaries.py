"""Defines what a panel may ask to be shown: a closed set of plain values. It knows nothing of TensorBoard's encoding.

Each kind declares in its class line where it goes, which tab shows it, and whether it has pictures. Nothing else has a
list of kinds but the encoder, which raises for one that it does not know.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.table import TileRows

Pixels = NDArray[np.uint8]
"""A picture, [height, width, 3]."""


class Tab(enum.Enum):
    """TensorBoard's tabs, in the order in which the report describes them."""

    SCALARS = "Scalars"
    CUSTOM_SCALARS = "Custom Scalars"
    IMAGES = "Images"
    HISTOGRAMS = "Histograms, Distributions"
    PR_CURVES = "PR Curves"
    HPARAMS = "HParams"
    PROJECTOR = "Projector"
    TEXT = "Text"


class Output(enum.Flag):
    """The place to which stage two writes a summary."""

    EVENTS = enum.auto()
    """The event file."""
    SUMMARY_JSON = enum.auto()
    FILE = enum.auto()
    """A file of its own beside the event file."""


class Summary:
    """Base of all kinds of summaries. A kind that does not say where it goes is an error where it is defined.

    >>> class Sound(Summary):
    ...     pass
    Traceback (most recent call last):
    TypeError: Summary.__init_subclass__() missing 2 required keyword-only arguments: 'output' and 'tab'
    """

    tag: str
    description: str

    output: ClassVar[Output]
    tab: ClassVar[Tab | None]
    """The tab that shows it; None if TensorBoard does not."""
    has_pictures: ClassVar[bool]
    """Whether it consists of pictures, which TensorBoard keeps for ten steps only."""

    def __init_subclass__(cls, *, output: Output, tab: Tab | None, has_pictures: bool = False) -> None:
        """Set what the class line declares."""
        super().__init_subclass__()
        cls.output, cls.tab, cls.has_pictures = output, tab, has_pictures

    @property
    def source_rows(self) -> TileRows | None:
        """The rows whose source images it needs; None if it needs none."""
        return None


@dataclass(frozen=True)
class Scalar(Summary, output=Output.EVENTS | Output.SUMMARY_JSON, tab=Tab.SCALARS):
    """A number: one point of a curve over the steps."""

    tag: str
    value: float
    description: str = ""


@dataclass(frozen=True)
class Picture(Summary, output=Output.EVENTS, tab=Tab.IMAGES, has_pictures=True):
    """A drawing. It is drawn when it is asked for, so that no work goes into pictures that TensorBoard would drop."""

    tag: str
    draw: Callable[[], Pixels]
    description: str = ""

    @cached_property
    def pixels(self) -> Pixels:
        """The drawing, [height, width, 3] uint8; it is encoded without loss."""
        return self.draw()


@dataclass(frozen=True)
class Tiles(Summary, output=Output.EVENTS, tab=Tab.IMAGES, has_pictures=True):
    """Source images with text beside them, one for each row. A panel names the rows; stage two finds the images."""

    tag: str
    rows: TileRows
    description: str = ""
    sheet: str = ""
    """Title of the one picture that has all of them; empty for a picture of each."""

    @property
    def source_rows(self) -> TileRows:
        """The rows of all of them."""
        return self.rows


@dataclass(frozen=True)
class EncodedImages(Summary, output=Output.EVENTS, tab=Tab.IMAGES, has_pictures=True):
    """Images of one size, already encoded as PNG or JPEG, as `Picture` and `Tiles` become."""

    tag: str
    width: int
    height: int
    samples: tuple[bytes, ...]
    description: str = ""


@dataclass(frozen=True)
class Histogram(Summary, output=Output.EVENTS, tab=Tab.HISTOGRAMS):
    """Counts in equal bins."""

    tag: str
    edges: NDArray[np.float64]  # [bins + 1] ascending
    counts: NDArray[np.int64]  # [bins]
    description: str = ""


@dataclass(frozen=True)
class Text(Summary, output=Output.EVENTS, tab=Tab.TEXT):
    """A page of Markdown: tables and lists, no HTML."""

    tag: str
    markdown: str
    description: str = ""


@dataclass(frozen=True)
class PrCurve(Summary, output=Output.EVENTS, tab=Tab.PR_CURVES):
    """Precision over recall. TensorBoard labels the points 0, 1/(n-1), … 1, whatever their thresholds are."""

    tag: str
    tp: NDArray[np.float64]  # [points] counts; thresholds ascend, so recall descends
    fp: NDArray[np.float64]  # [points]
    tn: NDArray[np.float64]  # [points]
    fn: NDArray[np.float64]  # [points]
    description: str = ""


@dataclass(frozen=True)
class LineChart(Summary, output=Output.EVENTS, tab=Tab.CUSTOM_SCALARS):
    """A chart with the curves of all scalars whose tag matches one of the patterns."""

    tag: str
    """`category/title` of the chart."""
    patterns: tuple[str, ...]
    """Regular expressions, matched from the beginning of a tag."""
    description: str = ""


@dataclass(frozen=True)
class BandChart(Summary, output=Output.EVENTS, tab=Tab.CUSTOM_SCALARS):
    """A chart with a curve and its interval; all three are tags of scalars."""

    tag: str
    """`category/title` of the chart."""
    value: str
    lower: str
    upper: str
    description: str = ""


@dataclass(frozen=True)
class HParams(Summary, output=Output.EVENTS, tab=Tab.HPARAMS):
    """The run's row in the table of runs."""

    tag: str
    name: str
    """Name of the run."""
    settings: Mapping[str, str | float | bool]
    """The settings of the run."""
    metrics: Mapping[str, str]
    """Tags of the scalars to show, and their column headings."""
    description: str = ""


@dataclass(frozen=True)
class Metric:
    """A number, and what one must know to judge it."""

    value: float
    interval: tuple[float, float] | None = None
    """Ends of the 95 % interval."""
    definition: str = ""
    method: str = ""
    """Method of the interval."""
    bound: float | None = None
    """Largest distance from the exact value; None if this is the exact value."""
    rows: int | None = None
    """Images that the number rests on; None if the number is itself a count."""


@dataclass(frozen=True)
class Metrics(Summary, output=Output.SUMMARY_JSON, tab=None):
    """Numbers for `summary.json`, by name. A number that is also a `Scalar` has the same name as its tag."""

    tag: str
    metrics: Mapping[str, Metric]
    description: str = ""


@dataclass(frozen=True)
class File(Summary, output=Output.FILE, tab=None):
    """A file for other tools, beside the event file."""

    tag: str
    """Its path in the run's log folder, `/` between folders."""
    content: bytes
    description: str = ""


@dataclass(frozen=True)
class Projector(Summary, output=Output.FILE, tab=Tab.PROJECTOR):
    """Points in many dimensions, with text and images, for the Projector. A run has one at most."""

    tag: str
    vectors: NDArray[np.float32]  # [points, dims]
    metadata: Mapping[str, Sequence[str]]
    """Columns of [points] each. TensorBoard labels the points by the first, and colours them by the second."""
    rows: TileRows
    """Rows of the images, [points] each."""
    description: str = ""

    @property
    def source_rows(self) -> TileRows:
        """The rows of all of them."""
        return self.rows
