"""Measures how far the probabilities of labels and of sets can be trusted, and draws them. It knows no image.

The metrics are those of `metrics.multi_label`, and the words are in `pages.label_calibration`.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from predboard.drawing import plots
from predboard.formatting import percent
from predboard.metrics import registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label import label_calibration, label_counts, label_histograms
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.metrics.multi_label.label_counts import LabelCounts
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.metrics.multi_label.label_temperature import LabelCalibrationEvidence
from predboard.metrics.multi_label.label_values import label_calibration_metrics
from predboard.metrics.values import metric_curves
from predboard.panels import RunInfo
from predboard.panels.pages.calibration import confidence_and_accuracy, confidence_kind, reliability_bins
from predboard.panels.pages.label_calibration import label_calibration_page, label_reliability_bins
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.summaries import Metrics, Picture, Pixels, Summary, Text


@dataclass(frozen=True)
class State:
    """States that other panels share."""

    counts: LabelCounts
    calibration: LabelCalibration
    histograms: LabelHistograms

    @cached_property
    def evidence(self) -> LabelCalibrationEvidence:
        """Return the state that all calibration metrics follow from."""
        return LabelCalibrationEvidence(self.calibration, self.histograms)


@dataclass(frozen=True)
class Panel:
    """Scalars: calibration errors. Pictures: reliability of labels and of sets. Text: temperature, bins, each label."""

    columns: frozenset[str] = label_counts.COLUMNS | label_calibration.COLUMNS | label_histograms.COLUMNS

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(LabelCounts.zero(run), LabelCalibration.zero(run), LabelHistograms.zero(run))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        counts = LabelCounts.measure(run, batch)
        return State(counts, LabelCalibration.measure(run, batch), LabelHistograms.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield metrics and diagrams for each step with labels, and the page of the last of these steps."""
        measured = dict(self.metrics(info, states))
        yield from metric_curves(
            registry.rows("calibration", task=MULTI_LABEL), {step: m.metrics for step, m in measured.items()}
        )
        for step, metrics in measured.items():
            yield step, metrics
            c = states[step].calibration
            words = "Share of decisions of similar probability whose label applies."
            yield step, Picture("calibration/labels", functools.partial(_draw_labels, states[step].evidence), words)
            if c.sets.rows:
                words = "Share of sets of similar probability that are exactly right."
                yield step, Picture("calibration/sets", functools.partial(_draw_sets, c), words)
        if measured:
            last = max(measured)
            page = label_calibration_page(states[last].evidence, measured[last].metrics, info.run.classes)
            yield last, Text("report/calibration", page, "How far to trust a probability.")

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better; a temperature is neither."""
        return registry.directions("calibration", task=MULTI_LABEL)

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all come from one state
        """Return the same panel: fewer metrics need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Metrics]]:  # noqa: ARG002
        """Yield all metrics of steps with labels."""
        for step, state in states.items():
            if state.calibration.rows.any():
                column = state.counts.metrics.group_column
                yield step, Metrics("calibration", label_calibration_metrics(state.evidence, column))


def _draw_labels(evidence: LabelCalibrationEvidence) -> Pixels:
    c, fit = evidence.calibration, evidence.tempered
    rows, hits, total = (float(column.sum()) for column in c.pooled)
    facts = [
        ("mean", percent(total / rows)),
        ("share", percent(hits / rows)),
        ("pooled ECE", percent(c.ece_pooled)),
        ("class-wise", percent(evidence.values["ece_classwise"][0])),
    ]
    if fit is not None and fit.helps:
        facts += [("temperature", f"{fit.temperature:.2f}"), ("ECE with it", percent(fit.ece[1]))]
    bins, words = label_reliability_bins(c), ("probability", "labels that apply", "decisions")
    return plots.draw_reliability(bins, facts, "each label", words)


def _draw_sets(c: LabelCalibration) -> Pixels:
    mean, exact, _ = confidence_and_accuracy(c.sets)
    facts = [
        ("mean", percent(mean)),
        ("exactly right", percent(exact)),
        ("ECE", percent(c.sets.ece)),
        ("by chance", f"~ {percent(c.sets.by_chance)}"),
    ]
    kind = confidence_kind(c.sets)
    verdict = "matches on average" if kind.startswith("neither") else kind
    words = ("probability of the set", "sets that are right", "images")
    return plots.draw_reliability(reliability_bins(c.sets), facts, verdict, words)
