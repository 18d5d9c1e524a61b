"""Shows how well the scores rank images: precision–recall, ROC and risk–coverage. It knows no image.

All curves follow from histograms of scores: each of their points is an edge between two bins, and exact.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from predboard.metrics import counts, score_histograms
from predboard.metrics.counts import Counts
from predboard.metrics.score_histograms import ScoreHistograms
from predboard.panels import RunInfo
from predboard.panels.pages.curves import RankedClasses, draw_risk_coverage, draw_roc, precision_recall
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import Picture, Summary


@dataclass(frozen=True)
class State:
    """Counts and histograms that other panels share."""

    tally: Counts
    ranking: ScoreHistograms


@dataclass(frozen=True)
class Panel:
    """PR curves: micro, macro and by class (at most 20). Pictures: ROC and risk–coverage curves."""

    classes: int = 20
    drawn: int = 4
    """Classes in the ROC picture: those with the smallest area under the curve."""
    columns: frozenset[str] = counts.COLUMNS | score_histograms.COLUMNS
    without_scores: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(Counts.zero(run), ScoreHistograms.zero(run))

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        return State(Counts.measure(run, batch), ScoreHistograms.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield curves and pictures for each step with labels."""
        names = info.run.classes
        states = {step: state for step, state in states.items() if state.ranking.confidence.any()}
        if not states:
            return
        chosen = states[max(states)].tally.metrics.most_errors(self.classes)
        for step, state in states.items():
            r = state.ranking
            ranked = RankedClasses(r.true, r.every, r.given.sum(axis=0), r.any_class.sum(axis=0))
            if len(names) > 1 and r.every.any():  # else only the highest scores are known
                yield from ((step, curve) for curve in precision_recall(ranked, names, chosen))
                area = state.ranking.auroc.value
                if not np.isnan(area).all():  # a class has both images and others
                    roc = functools.partial(draw_roc, ranked, area, names, self.drawn)
                    description = (
                        f"ROC curves of one class against all others: the {self.drawn} with the smallest area."
                    )
                    yield step, Picture("curves/roc", roc, description)
            risk = functools.partial(draw_risk_coverage, state.ranking.confidence)
            yield step, Picture("curves/risk_coverage", risk, "Error rate if the least confident images are left out.")
