"""How good the model is, in standard numbers, over the steps. Knows no single image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline import ranking, tally
from pipeline.panels import Subject
from pipeline.predictions import Predictions, Run
from pipeline.ranking import Ranking, mean_defined
from pipeline.state import UNIT, fixed, summed
from pipeline.summaries import Scalar, Summary
from pipeline.tally import Scores, Tally

TOP = 5


@dataclass(frozen=True)
class State:
    """Shared counts, and how often the true class is among the five highest logits."""

    tally: Tally
    ranking: Ranking
    top: np.int64 = summed()  # fixed point


@dataclass(frozen=True)
class Panel:
    """Scalars: accuracy, top-5 accuracy, balanced accuracy, macro precision, recall and F1, negative log-likelihood."""

    columns: frozenset[str] = tally.COLUMNS | ranking.COLUMNS

    def zero(self, run: Run) -> State:
        """No rows."""
        return State(Tally.zero(), Ranking.zero(run), np.int64(0))

    def measure(self, run: Run, batch: Predictions) -> State:
        """These rows alone."""
        above, same = batch.labelled.rivals
        # Expected hit when equal logits are ordered at random: k - g of the e + 1 tied places lie inside the top k.
        inside = np.clip((TOP - above) / (same + 1), 0, 1)
        return State(Tally.measure(run, batch), Ranking.measure(run, batch), fixed(inside))

    def render(self, subject: Subject, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """One point of each curve for each step that has labelled rows."""
        classes = len(subject.run.classes)
        for step, state in states.items():
            scores = Scores(state.tally, classes)
            if not scores.counted:
                continue
            yield (
                step,
                Scalar("metrics/accuracy", scores.accuracy, "Share of images whose highest logit is the true class."),
            )
            if classes > TOP:
                top = float(state.top * UNIT / scores.counted)
                yield (
                    step,
                    Scalar("metrics/accuracy_top5", top, "Share of images whose true class is among the 5 highest."),
                )
            mean = "Mean over classes with images or predictions; division by zero counts 0."
            yield (
                step,
                Scalar("metrics/balanced_accuracy", scores.balanced_accuracy, "Mean recall of classes with images."),
            )
            yield step, Scalar("metrics/precision_macro", scores.precision_macro, mean)
            yield step, Scalar("metrics/recall_macro", scores.recall_macro, mean)
            yield step, Scalar("metrics/f1_macro", scores.f1_macro, mean)
            yield step, Scalar("metrics/nll", scores.nll, "Mean negative log-likelihood of the true class, nats.")
            counts = state.ranking.true, state.ranking.every
            for name, value, description in (
                (
                    "auroc_macro",
                    mean_defined(ranking.auroc(*counts).value),
                    "Area under ROC curves, mean over classes.",
                ),
                (
                    "average_precision_macro",
                    mean_defined(ranking.average_precision(*counts).value),
                    "Average precision, mean over classes.",
                ),
                (
                    "aurc",
                    float(ranking.aurc(state.ranking.confidence.sum(axis=0)).value),
                    "Area under the risk–coverage curve.",
                ),
            ):
                if not np.isnan(value):
                    yield step, Scalar(f"metrics/{name}", value, description)
