"""Fills the landing page: one picture and three curves that show how good the model is. It knows no single image."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan

from predboard.drawing import report_card
from predboard.drawing.report_card import ReportCard
from predboard.formatting import percent, plural
from predboard.metrics.class_groups import NO_GROUPS, ClassGroups
from predboard.metrics.classification import f1_macro
from predboard.metrics.counts import CountMetrics, Counts, CountsPanel
from predboard.metrics.data_warnings import data_warnings
from predboard.metrics.group_counts import grouped_counts
from predboard.panels import RunInfo
from predboard.summaries import Picture, Pixels, Scalar, Summary


@dataclass(frozen=True)
class Panel(CountsPanel):
    """Picture: report card with accuracy, counts, worst classes, most frequent confusions, warnings. Three scalars."""

    groups: ClassGroups = NO_GROUPS
    """Of the finest level the card has the accuracy."""

    def render(self, info: RunInfo, states: Mapping[int, Counts]) -> Iterator[tuple[int, Summary]]:
        """Yield a card and a point of each curve for each step; the card has the accuracy of all steps as a curve."""
        scores = {step: state.metrics for step, state in states.items()}
        trend = [
            (step, metrics.accuracy, *metrics.accuracy_interval) for step, metrics in scores.items() if metrics.counted
        ]
        for step, metrics in scores.items():
            if metrics.counted:
                macro = f1_macro(metrics.margins)
                for name, value, description in (
                    ("accuracy", metrics.accuracy, "Share of images whose highest logit belongs to the true class."),
                    ("f1_macro", float(macro), "Mean F1 of the classes that occur or were predicted."),
                    ("nll", metrics.nll, "Mean negative log-likelihood of the true class, nats."),
                ):
                    if not isnan(value):
                        yield step, Scalar(f"1_glance/{name}", value, description)
            card = functools.partial(_report_card, info, step, metrics, trend, self.groups)
            yield step, Picture("1_glance/report_card", card, "Start here.")


def _report_card(
    info: RunInfo,
    step: int,
    scores: CountMetrics,
    trend: list[tuple[int, float, float, float]],
    groups: ClassGroups,
) -> Pixels:
    names, known = info.run.classes, info.steps[step]
    stage_one = [warning.partition(": ")[0] for warning in known.warnings]  # the report says what to do
    warnings = data_warnings(scores, names, known.rows, known.manifest_rows, stage_one)
    if known.rows < known.manifest_rows:
        warnings[0] = warnings[0].partition(": ")[0]
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
    corrected = known.new_labels and plural(known.new_labels.replaced, "corrected label")
    card = ReportCard(
        title="  ·  ".join(filter(None, (info.name, f"step {step}", corrected))),
        accuracy=(scores.accuracy, *scores.accuracy_interval) if scores.counted else None,
        facts=facts,
        worst=[
            (names[c], float(scores.recall[c]), f"{scores.hits[c]:,} of {scores.support[c]:,}")
            for c in scores.worst(3).tolist()
        ],
        pairs=[(names[t], names[p], f"{n:,}") for t, p, n in scores.pairs(4)],
        warnings=warnings,
        trend=trend,
        step=step,
    )
    return report_card.draw_report_card(card)
