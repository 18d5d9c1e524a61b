"""Shows how well the positive one of two classes is found, and at which threshold to accept it. It knows no image.

It draws nothing of runs with more classes. The numbers are those of `metrics.two_classes`, and the words are in
`pages.two_classes`.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from predboard.drawing import plots
from predboard.drawing.palette import CURVE_COLOURS, RIGHT, WRONG
from predboard.drawing.plots import Axis, Curve
from predboard.metrics import counts, metric_state, registry, two_classes
from predboard.metrics.metric_spec import Direction
from predboard.metrics.metric_state import AnyState, CountState, MetricState
from predboard.metrics.values import metric_curves, positive_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.two_classes import points_csv, points_json, two_classes_page
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import File, Metrics, Picture, Pixels, Summary, Text

LEAST_SHARE, MOST_SHARE = 0.005, 0.9995
"""The axis of thresholds begins and ends where the scores of these shares of all images do."""

TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


@dataclass(frozen=True)
class Panel:
    """Of two classes alone: precision, recall, specificity, F1, AP, AUROC of the positive one; thresholds for it."""

    two_classes: bool = False
    """Whether the run has two classes; nothing is drawn otherwise."""
    state: type[CountState] | type[MetricState] = MetricState
    columns: frozenset[str] = metric_state.COLUMNS
    without_scores: bool = True

    @property
    def is_set(self) -> bool:
        """Whether the run has two classes."""
        return self.two_classes

    def zero(self, run: Run) -> AnyState:
        """Return the state of no rows."""
        return self.state.zero(run)

    def measure(self, run: Run, batch: Predictions) -> AnyState:
        """Return the state of these rows alone."""
        return self.state.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Summary]]:
        """Yield curves over the steps, the picture of each step, and the page and files of the last step."""
        measured = dict(self.metrics(info, states))
        yield from metric_curves(registry.rows("positive"), {step: m.metrics for step, m in measured.items()})
        if not measured:
            return
        positive = info.run.positive_index
        for step, metrics in measured.items():
            yield step, metrics
            state = states[step]
            if isinstance(state, MetricState) and "positive/auroc" in metrics.metrics:
                draw = functools.partial(_draw_thresholds, state, positive)
                words = f"What accepting {info.run.classes[positive]} from some probability on does, of all images."
                yield step, Picture("positive/thresholds", draw, words)
        last = max(measured)
        state, metrics = states[last], measured[last]
        points = two_classes.operating_points(state.histograms, positive) if isinstance(state, MetricState) else {}
        page = two_classes_page(info.run.classes, positive, metrics.metrics, state, points)
        yield last, Text("report/two_classes", page, "The positive class, and thresholds to accept it at.")
        if points:
            halves = points_json(info.name, last, info.run.classes[positive], points, state.metrics.group_column)
            yield last, File("operating_points.json", halves, "Thresholds, and what they do on the other half.")
            yield last, File("operating_points.csv", points_csv(points), "The same as a table.")

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better."""
        return registry.directions("positive")

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Return a panel that reads no logits if nothing wanted needs them."""
        return self if registry.need_logits(wanted) else replace(self, state=CountState, columns=counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, AnyState]) -> Iterator[tuple[int, Metrics]]:
        """Yield the metrics of the positive class at steps with labelled images; none unless there are two classes."""
        for step, state in states.items():
            if len(info.run.classes) == 2 and state.metrics.counted:
                yield step, Metrics("positive", positive_metrics(state, info.run.positive_index))


def _draw_thresholds(state: MetricState, positive: int) -> Pixels:
    """Draw precision, recall, specificity and F1 over the threshold; beside them their values as predicted."""
    curves = two_classes.curves_by_threshold(state.histograms, positive)
    below = np.cumsum(state.histograms.every[positive]) / state.histograms.every[positive].sum()
    first, last = int(np.searchsorted(below, LEAST_SHARE)), int(np.searchsorted(below, MOST_SHARE))
    p = np.clip(curves["threshold"], 1e-12, 1 - 1e-12)
    position = np.log(p) - np.log1p(-p)
    start, end = min(float(position[first]), -0.5), max(float(position[min(last + 1, len(p) - 1)]), 0.5)
    x = (position - start) / (end - start)
    inside = (x >= 0) & (x <= 1)
    values = positive_metrics(state, positive)
    lines = []
    names = ("precision", "recall", "specificity", "f1")
    for name, colour in zip(names, (RIGHT, WRONG, CURVE_COLOURS[1], CURVE_COLOURS[0]), strict=True):
        drawn = inside & ~np.isnan(curves[name])
        value = values.get(f"positive/{name}")
        number = "–" if value is None else f"{value.value:.3f}"
        label = {"f1": "F1"}.get(name, name)
        lines.append(Curve(x[drawn], curves[name][drawn], label, number, colour, thick=name in ("precision", "recall")))
    ticks = [
        (float(at), _tick(t)) for t in TICKS if 0 <= (at := (np.log(t) - np.log1p(-t) - start) / (end - start)) <= 1
    ]
    shown = [
        tick for tick in ticks if tick[1] == "50 %" or len(ticks) <= 6 or ticks.index(tick) % 2 == _half(ticks) % 2
    ]
    half = -start / (end - start)
    shares = [(0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")]
    axis = Axis("taken as positive from this probability on", shown)
    return plots.draw_curves("at 50 %", axis, Axis("", shares), lines, mark=half)


def _half(ticks: list[tuple[float, str]]) -> int:
    return [label for _, label in ticks].index("50 %")


def _tick(p: float) -> str:
    """Format a probability as a share, to its last digit.

    >>> _tick(0.001), _tick(0.9999)
    ('0.1 %', '99.99 %')
    """
    return f"{100 * p:.6g} %"
