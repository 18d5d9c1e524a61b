"""Fills the landing page: one picture and three curves that show how good the model is. It knows no single image."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan, nan

from predboard.drawing import report_card
from predboard.drawing.report_card import ReportCard
from predboard.formatting import percent, plural
from predboard.metrics import metric_state, registry, two_classes
from predboard.metrics.class_groups import NO_GROUPS, ClassGroups
from predboard.metrics.classification import f1_macro
from predboard.metrics.counts import CountMetrics, Counts, CountsPanel
from predboard.metrics.data_warnings import data_warnings
from predboard.metrics.group_counts import grouped_counts
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import positive_metrics
from predboard.panels import RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import Picture, Pixels, Scalar, Summary


@dataclass(frozen=True)
class Panel(CountsPanel):
    """Picture: report card with accuracy, counts, worst classes, most frequent confusions, warnings. Three scalars."""

    groups: ClassGroups = NO_GROUPS
    """Of the finest level the card has the accuracy."""
    two_classes: bool = False
    """Whether the run has two classes: the card is then of the positive one, and needs the scores."""

    def __post_init__(self) -> None:
        """Read the scores of two classes."""
        if self.two_classes:
            object.__setattr__(self, "columns", self.columns | metric_state.COLUMNS)

    def zero(self, run: Run) -> Counts | MetricState:  # type: ignore[override]  # of two classes also their scores
        """Return the state of no rows."""
        return MetricState.zero(run) if self.two_classes else Counts.zero(run)

    def measure(self, run: Run, batch: Predictions) -> Counts | MetricState:  # type: ignore[override]  # as above
        """Return the state of these rows alone."""
        return MetricState.measure(run, batch) if self.two_classes else Counts.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, Counts | MetricState]) -> Iterator[tuple[int, Summary]]:
        """Yield a card and a point of each curve for each step; the card has the accuracy of all steps as a curve."""
        scores = {step: state.metrics for step, state in states.items()}
        trend = [
            (step, metrics.accuracy, *metrics.accuracy_interval) for step, metrics in scores.items() if metrics.counted
        ]
        for step, metrics in scores.items():
            if metrics.counted:
                yield from ((step, scalar) for scalar in self._curves(info, metrics))
            card = functools.partial(_report_card, info, step, metrics, trend, self.groups)
            if self.two_classes:
                scored = {n: state for n, state in states.items() if isinstance(state, MetricState)}
                card = functools.partial(_two_class_card, info, step, scored)
            yield step, Picture("1_glance/report_card", card, "Start here.")

    def _curves(self, info: RunInfo, metrics: CountMetrics) -> Iterator[Scalar]:
        """Yield a point of each curve; of two classes F1 is that of the positive one."""
        f1 = ("f1_macro", float(f1_macro(metrics.margins)), "Mean F1 of the classes that occur or were predicted.")
        if self.two_classes:
            c = info.run.positive_index
            value = float(metrics.f1[c]) if metrics.support[c] + metrics.predictions[c] else nan
            f1 = ("positive/f1", value, registry.require("positive/f1").definition)
        for name, value, description in (
            ("accuracy", metrics.accuracy, "Share of images whose highest logit belongs to the true class."),
            f1,
            ("nll", metrics.nll, "Mean negative log-likelihood of the true class, nats."),
        ):
            if not isnan(value):
                yield Scalar(f"1_glance/{name}", value, description)


def _two_class_card(info: RunInfo, step: int, states: Mapping[int, MetricState]) -> Pixels:
    """Draw the card of two classes: F1 of the positive one and its course, and beside it the other figures of it."""
    positive, known = info.run.positive_index, info.steps[step]
    figures = {n: positive_metrics(state, positive) for n, state in states.items() if state.metrics.counted}
    of_step, m = figures.get(step, {}), states[step].metrics
    trend = [
        (n, f1.value, *(f1.interval or (f1.value,) * 2)) for n, own in figures.items() if (f1 := own.get("positive/f1"))
    ]
    counts = f"{m.hits[positive]:,} of"
    share = m.support[positive] / max(m.counted, 1)
    notes = {
        "precision": f"{counts} {m.predictions[positive]:,}",
        "recall": f"{counts} {m.support[positive]:,}",
        "specificity": f"{m.hits[1 - positive]:,} of {m.support[1 - positive]:,}",
        "average_precision": f"{percent(share)} by chance",
        "auroc": "50 % by chance",
    }
    rows = [
        (
            registry.require(f"positive/{name}").label.removesuffix(" (positive)"),
            of_step[f"positive/{name}"].value,
            note,
        )
        for name, note in notes.items()
        if f"positive/{name}" in of_step
    ]
    warnings = _warnings(info, step, m, two_classes.ranks_well(states[step], positive))
    facts = [("images", f"{m.counts.rows:,}"), ("positive", percent(share))]
    if len(trend) < 2:
        facts[1:1] = [("failed", f"{m.counts.failed:,}"), ("unlabelled", f"{m.counts.unlabelled:,}")]
    facts += (
        [("accuracy", percent(m.accuracy)), ("NLL", "unknown" if isnan(m.nll) else f"{m.nll:.3f}")] if m.counted else []
    )
    headline = next((point[1:] for point in trend if point[0] == step), None)
    name = info.run.positive_class
    corrected = plural(known.new_labels.replaced, "corrected label") if known.new_labels else ""
    return report_card.draw_report_card(
        ReportCard(
            title="  ·  ".join(filter(None, (info.name, f"step {step}", corrected))),
            accuracy=headline,
            facts=facts,
            worst=rows,
            pairs=[],
            warnings=warnings,
            trend=trend,
            step=step,
            headline="F1",
            worst_title=f"positive class: {name}",
            no_worst=f"positive class: {name}",
            no_headline="no labels" if not m.counted else "no F1",
        )
    )


def _warnings(info: RunInfo, step: int, scores: CountMetrics, ranks_well: bool = False) -> list[str]:
    known = info.steps[step]
    stage_one = [warning.partition(": ")[0] for warning in known.warnings]  # the report says what to do
    warnings = data_warnings(scores, info.run.classes, known.rows, known.manifest_rows, stage_one, ranks_well)
    if known.rows < known.manifest_rows:
        warnings[0] = warnings[0].partition(": ")[0]
    return warnings


def _report_card(
    info: RunInfo,
    step: int,
    scores: CountMetrics,
    trend: list[tuple[int, float, float, float]],
    groups: ClassGroups,
) -> Pixels:
    names, known = info.run.classes, info.steps[step]
    facts = [("images", f"{scores.counts.rows:,}"), ("classes", f"{len(names):,}")]
    if groups.levels and scores.counted:
        level = groups.levels[0]
        right = grouped_counts(level, *scores.cells).hits.sum() / scores.counted
        facts[1] = (f"by {level.name}", percent(float(right)))  # in the place of a line, of which there are no more
    if len(trend) < 2:  # otherwise the curve needs the room, and a warning mentions them if there are any
        facts[1:1] = [("failed", f"{scores.counts.failed:,}"), ("unlabelled", f"{scores.counts.unlabelled:,}")]
    if scores.counted:
        facts.append(("macro F1", f"{f1_macro(scores.margins):.3f}"))
        facts.append(("NLL", "unknown" if isnan(scores.nll) else f"{scores.nll:.3f}"))
    corrected = plural(known.new_labels.replaced, "corrected label") if known.new_labels else ""
    card = ReportCard(
        title="  ·  ".join(filter(None, (info.name, f"step {step}", corrected))),
        accuracy=(scores.accuracy, *scores.accuracy_interval) if scores.counted else None,
        facts=facts,
        worst=[
            (names[c], float(scores.recall[c]), f"{scores.hits[c]:,} of {scores.support[c]:,}")
            for c in scores.worst(3).tolist()
        ],
        pairs=[(names[t], names[p], f"{n:,}") for t, p, n in scores.pairs(4)],
        warnings=_warnings(info, step, scores),
        trend=trend,
        step=step,
    )
    return report_card.draw_report_card(card)
