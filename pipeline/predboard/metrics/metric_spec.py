"""Defines one row of the tables of metrics: what a metric is called and means, how sure it is. It knows no metric."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from predboard.metrics.counts import MarginMetric

Direction = Literal["more", "less", "neither"]
"""Direction in which a metric is better."""

Group = Literal[
    "images",
    "overall",
    "positive",
    "nothing",
    "calibration",
    "thresholds",
    "classes",
    "slices",
    "groups",
    "label_issues",
]


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One row of the table: everything about a metric but its value."""

    name: str
    """Name in `summary.json`, with `*` in place of a class or slice: `f1_macro`, `classes/*/recall`."""
    label: str
    """Its usual name: `macro F1`."""
    definition: str
    """One sentence, for `summary.json`, captions and tables."""
    compute: Callable[..., Any] | None = None
    """Returns the value from what its group is computed from (see `metrics.values`); None if a panel does."""
    margins: MarginMetric | None = None
    """Instead of `compute`, a function of the margins of the confusion matrix: intervals then follow by bootstrap."""
    formula: str = ""
    source: str = ""
    """The paper or library that defines it."""
    unit: str = ""
    """Empty for a share or another pure number."""
    range: tuple[float, float] = (0.0, 1.0)
    """The lowest and highest value there can be."""
    better: Direction = "more"
    needs_labels: bool = True
    needs_logits: bool = False
    """Whether it needs all logits of a row, and not only its predicted class, confidence and loss."""
    from_confidence: bool = False
    """Whether the predicted class and its confidence are enough, without loss and logits."""
    interval: str = ""
    """Method of its 95 % interval; empty if it has none."""
    paired: str = ""
    """Method of the interval of its difference over the same images; empty if differences are not paired."""
    precision: str = ""
    """Accuracy of the value, for a metric of single-precision or fitted numbers."""
    curve: bool = True
    """Whether it is drawn over the steps."""
    band: bool = False
    """Whether its interval is drawn as well."""
    column: str = ""
    """Heading in the leaderboard and HParams; empty if it has no column there."""
    suggested: bool = False
    """Whether `predboard gate --suggest` makes a rule of it."""

    @property
    def needs_scores(self) -> bool:
        """Whether the predicted class and its confidence are not enough: it needs the loss, or all logits."""
        return self.short == "nll" or (self.needs_logits and not self.from_confidence)

    @property
    def group(self) -> Group:
        """Data it is computed from: all images, labelled images, probabilities, one class, one slice, labels."""
        first, slash, _ = self.name.partition("/")
        return first if slash or first == "images" else "overall"  # type: ignore[return-value]  # test_registry checks

    @property
    def short(self) -> str:
        """The name without its group: `recall`, `ece`."""
        return self.name.rpartition("/")[2]

    @property
    def tag(self) -> str:
        """Tag of its curve."""
        return f"metrics/{self.name}" if self.group == "overall" else self.name

    @property
    def label_with_unit(self) -> str:
        """The label, and the unit if there is one: `NLL, nats`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


def count_metric(name: str, label: str, definition: str, count: Callable[[Any, int], int]) -> MetricSpec:
    """Return the row of a number of images. `count` gets the counts of a step and the rows of its manifest."""
    return MetricSpec(
        name=name, label=label, definition=definition, compute=count, range=(0, inf), unit="images",
        better="neither", needs_labels=False, curve=False,
    )  # fmt: skip
