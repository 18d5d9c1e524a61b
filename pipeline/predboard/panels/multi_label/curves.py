"""Shows how well logits rank images: precision–recall and ROC of labels, risk–coverage of sets. It knows no image."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from predboard.metrics.multi_label import label_counts, label_histograms
from predboard.metrics.multi_label.label_counts import LabelCounts
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.panels import RunInfo
from predboard.panels.pages.curves import RankedClasses, draw_risk_coverage, draw_roc, precision_recall
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.summaries import Picture, Summary


@dataclass(frozen=True)
class State:
    """Counts and histograms that other panels share."""

    counts: LabelCounts
    histograms: LabelHistograms


@dataclass(frozen=True)
class Panel:
    """PR curves: micro, macro and by label (at most 20). Pictures: ROC curves of labels, risk–coverage of sets."""

    classes: int = 20
    drawn: int = 4
    """Labels in the ROC picture: those with the smallest area under the curve."""
    columns: frozenset[str] = label_counts.COLUMNS | label_histograms.COLUMNS

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(LabelCounts.zero(run), LabelHistograms.zero(run))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        return State(LabelCounts.measure(run, batch), LabelHistograms.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield curves and pictures for each step whose images have labels."""
        names = info.run.classes
        known = {step: state for step, state in states.items() if state.histograms.true.any()}
        if not known:
            return
        chosen = known[max(known)].counts.metrics.most_errors(self.classes)
        for step, state in known.items():
            h = state.histograms
            ranked = RankedClasses(h.true, h.every, h.any_true.sum(axis=0), h.any_label.sum(axis=0))
            some = chosen[h.true[chosen].any(axis=1)]
            curves = precision_recall(ranked, names, some, "report/thresholds")
            yield from ((step, curve) for curve in curves)
            area = h.auroc.value
            if not np.isnan(area).all():
                description = f"ROC curves of labels: the {self.drawn} with the smallest area."
                yield (
                    step,
                    Picture("curves/roc", functools.partial(draw_roc, ranked, area, names, self.drawn), description),
                )
            if h.confidence.any():
                risk = functools.partial(draw_risk_coverage, h.confidence)
                yield (
                    step,
                    Picture("curves/risk_coverage", risk, "Share of wrong sets if the least confident are left out."),
                )
