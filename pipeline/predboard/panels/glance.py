"""The landing page: one picture and three curves that say how good the model is. Knows no single image."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from predboard.drawing import report_card
from predboard.drawing.report_card import ReportCard
from predboard.metrics import counts
from predboard.metrics.counts import CountMetrics, Counts, CountsPanel
from predboard.metrics.intervals import wilson_interval
from predboard.panels import RunInfo
from predboard.summaries import Picture, Pixels, Scalar, Summary


@dataclass(frozen=True)
class Panel(CountsPanel):
    """The report card: accuracy with its interval, counts, the worst classes, the top confusions, warnings."""

    def render(self, info: RunInfo, states: Mapping[int, Counts]) -> Iterator[tuple[int, Summary]]:
        """A card and a point of each curve for each step; the card has the accuracy of all steps as a small curve."""
        scores = {step: state.metrics for step, state in states.items()}
        trend = [
            (step, of.accuracy, *wilson_interval(int(of.hits.sum()), of.counted))
            for step, of in scores.items()
            if of.counted
        ]
        for step, of in scores.items():
            if of.counted:
                for name, value, description in (
                    ("accuracy", of.accuracy, "Share of images whose highest logit is the true class."),
                    ("f1_macro", of.f1_macro, "Mean F1 over classes with images or predictions."),
                    ("nll", of.nll, "Mean negative log-likelihood of the true class, nats."),
                ):
                    yield step, Scalar(f"1_glance/{name}", value, description)
            card = functools.partial(_report_card, info, step, of, trend)
            yield step, Picture("1_glance/report_card", card, "Start here.")


def _report_card(
    info: RunInfo, step: int, scores: CountMetrics, trend: list[tuple[int, float, float, float]]
) -> Pixels:
    names, known = info.run.classes, info.steps[step]
    before = [warning.partition(": ")[0] for warning in known.warnings]  # the report says what to do
    warnings = counts.data_warnings(scores, names, known.rows, known.manifest_rows, before)
    if known.rows < known.manifest_rows:
        warnings[0] = warnings[0].partition(": ")[0]
    hits = int(scores.hits.sum())
    facts = [("images", f"{scores.counts.rows:,}"), ("classes", f"{len(names):,}")]
    if len(trend) < 2:  # otherwise the curve needs their place, and a warning says so if there are any
        facts[1:1] = [("failed", f"{scores.counts.failed:,}"), ("unlabelled", f"{scores.counts.unlabelled:,}")]
    if scores.counted:
        facts += [("macro F1", f"{scores.f1_macro:.3f}"), ("NLL", f"{scores.nll:.3f}")]
    card = ReportCard(
        title=f"{info.name}  ·  step {step}",
        accuracy=(scores.accuracy, *wilson_interval(hits, scores.counted)) if scores.counted else None,
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
