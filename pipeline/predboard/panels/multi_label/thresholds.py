"""Shows from which probability to accept each label: found on one half of the images, tested on the other.

It knows no image. The thresholds are those of `metrics.multi_label.label_thresholds`, the words in
`pages.label_thresholds`.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from predboard.drawing.shifts import Shift, draw_shifts
from predboard.formatting import unique_names
from predboard.metrics import registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label import label_counts, label_histograms
from predboard.metrics.multi_label.label_counts import LabelCounts
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.metrics.multi_label.label_thresholds import EACH, HALF, LabelThresholds, find_thresholds
from predboard.metrics.multi_label.label_values import threshold_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.label_thresholds import thresholds_json, thresholds_page
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.summaries import File, Metrics, Picture, Pixels, Scalar, Summary, Text

DRAWN = 14
"""Labels in the picture."""


@dataclass(frozen=True)
class State:
    """Counts of decisions and histograms that other panels share."""

    counts: LabelCounts
    histograms: LabelHistograms

    @property
    def column(self) -> str:
        """Name of the column whose equal values make images belong together; empty without one."""
        return self.counts.metrics.group_column

    @functools.cached_property
    def thresholds(self) -> LabelThresholds | None:
        """The thresholds; None if they cannot be found and tested."""
        return find_thresholds(self.counts, self.histograms)


@dataclass(frozen=True)
class Panel:
    """Text, picture, file: a threshold for each label, and one for all, tested on other images; their gain in F1."""

    columns: frozenset[str] = label_counts.COLUMNS | label_histograms.COLUMNS
    needs_half: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(LabelCounts.zero(run), LabelHistograms.zero(run))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        return State(LabelCounts.measure(run, batch), LabelHistograms.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield figures and a picture for each step, and the page and the file of the last step that has thresholds."""
        every = {step: state.thresholds for step, state in states.items()}
        known = {step: thresholds for step, thresholds in every.items() if thresholds is not None}
        for step, thresholds in known.items():
            for name, metric in threshold_metrics(thresholds, states[step].column).items():
                yield step, Scalar(name, metric.value, metric.definition)
            draw = functools.partial(_draw, thresholds, info.run.classes)
            words = "F1 of labels on images on which their thresholds were not chosen: at 1/2 and at their own."
            yield step, Picture("thresholds/f1", draw, words)
        yield from self.metrics(info, states)
        if known:
            last = max(known)
            page = thresholds_page(known[last], info.run.classes, states[last].column)
            yield last, Text("report/thresholds", page, "From which probability to accept a label.")
            names = unique_names(info.run.classes)
            content = thresholds_json(known[last], names, info.name, last, info.run.fingerprint, states[last].column)
            yield last, File("thresholds.json", content, "Thresholds, and what they do on the other half.")

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better."""
        return registry.directions("thresholds", task=MULTI_LABEL)

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all come from one state
        """Return the same panel: fewer metrics need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Metrics]]:  # noqa: ARG002
        """Yield macro and micro F1 at each kind of threshold, for each step that has thresholds."""
        for step, state in states.items():
            if state.thresholds is not None:
                yield step, Metrics("thresholds", threshold_metrics(state.thresholds, state.column))


def _draw(thresholds: LabelThresholds, names: tuple[str, ...]) -> Pixels:
    """Draw F1 of the labels with the most images, those that gain most first."""
    half, each = thresholds.tested[HALF], thresholds.tested[EACH]
    lower, upper = each.f1_ends
    chosen = np.argsort(-each.support, kind="stable")[:DRAWN]
    chosen = chosen[each.support[chosen] > 0]
    order = chosen[np.argsort(half.f1[chosen] - each.f1[chosen], kind="stable")]
    shifts = [
        Shift(names[c], float(half.f1[c]), float(each.f1[c]), float(lower[c]), float(upper[c]), f"{each.support[c]:,}")
        for c in order.tolist()
    ]
    before, after = half.averages["f1_macro"], each.averages["f1_macro"]
    title = f"F1 on the other half: macro {before:.3f} → {after:.3f}"
    return draw_shifts(title, shifts, "at 1/2", "at the label's own threshold", "images")
