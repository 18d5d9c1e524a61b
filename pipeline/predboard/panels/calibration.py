"""Measures how far probabilities can be trusted, and draws the reliability diagram. It knows no image.

The metrics are those of `metrics.calibration`, and the words are in `pages.calibration`.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from predboard.drawing import plots
from predboard.formatting import percent
from predboard.metrics import calibration, metric_state, registry
from predboard.metrics.calibration import Calibration, CalibrationEvidence
from predboard.metrics.metric_spec import Direction
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import calibration_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.calibration import (
    calibration_page,
    confidence_and_accuracy,
    confidence_kind,
    reliability_bins,
)
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import Metrics, Picture, Pixels, Scalar, Summary, Text


@dataclass(frozen=True)
class State:
    """The state that other panels share, and the sums that only calibration needs."""

    metrics: MetricState
    calibration: Calibration

    @cached_property
    def joint(self) -> CalibrationEvidence:
        """Return the state that all calibration metrics follow from."""
        return CalibrationEvidence(self.calibration, self.metrics.histograms)


@dataclass(frozen=True)
class Panel:
    """Scalars: calibration errors. Picture: reliability. Text: temperature, prediction sets, thresholds, Brier."""

    classes: int = 20
    """Classes with a row in the table of thresholds."""
    columns: frozenset[str] = metric_state.COLUMNS | calibration.COLUMNS
    without_scores: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(MetricState.zero(run), Calibration.zero(run))

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        return State(MetricState.measure(run, batch), Calibration.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield metrics and the diagram for each step with labels, and the page of the last of these steps."""
        states = {step: state for step, state in states.items() if state.calibration.rows}
        if not states:
            return
        last = max(states)
        if len(info.run.classes) == 1:
            yield last, Text("report/calibration", "There is only one class; its probability is always 1.")
            return
        for step, metrics in self.metrics(info, states):
            for spec in registry.rows("calibration"):
                if spec.curve and spec.name in metrics.metrics:
                    metric = metrics.metrics[spec.name]
                    yield step, Scalar(spec.tag, metric.value, metric.definition)
            yield step, metrics
            draw = functools.partial(_draw_reliability, states[step].calibration)
            yield step, Picture("calibration/reliability", draw, "Accuracy of images with similar confidence.")
        page = calibration_page(states[last].metrics, states[last].joint, info.run.classes, self.classes)
        yield last, Text("report/calibration", page, "How far to trust a probability, and which ones to accept.")

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better; a temperature is neither."""
        return registry.directions("calibration")

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all come from one state
        """Return the same panel: fewer metrics need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Metrics]]:
        """Yield all metrics of steps with labels; a single class has none."""
        for step, state in states.items():
            if state.calibration.rows and len(info.run.classes) > 1:
                yield step, Metrics("calibration", calibration_metrics(state.joint))


def card_facts(c: Calibration) -> list[tuple[str, str]]:
    """Return what stands beside the diagram, in pairs of a name and a number; a temperature only if it helps."""
    mean, accuracy, _ = confidence_and_accuracy(c)
    facts = [
        ("confidence", percent(mean)),
        ("accuracy", percent(accuracy)),
        ("ECE", percent(c.ece)),
        ("ECE by chance", f"~ {percent(c.by_chance)}"),
        ("largest (MCE)", percent(c.mce)),
    ]
    if c.tempered is not None and c.tempered.helps:
        facts.append(("temperature", f"{c.tempered.temperature:.2f}"))
        facts.append(("ECE with it", percent(c.tempered.ece[1])))
    return facts


def _draw_reliability(c: Calibration) -> Pixels:
    kind = confidence_kind(c)
    return plots.draw_reliability(
        reliability_bins(c), card_facts(c), "matches on average" if kind.startswith("neither") else kind
    )
