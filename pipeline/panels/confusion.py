"""Which classes are taken for which. Knows no image and no probability."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline import draw
from pipeline.panels import Subject
from pipeline.summaries import Picture, Summary, Text, cell
from pipeline.tally import Counting, Scores, Tally

PAIRS = 100
"""Rows of the table: TensorBoard slows down above 200."""


@dataclass(frozen=True)
class Panel(Counting):
    """The confusion matrix with numbers and labels, and a table of the most frequent confusions."""

    block: int = 30
    """Classes in the picture; with more, those with most errors, and one row and column for all others."""

    def render(self, subject: Subject, states: Mapping[int, Tally]) -> Iterator[tuple[int, Summary]]:
        """A picture and a table for each step; the picture's classes are those of the last step."""
        names = subject.run.classes
        last = Scores(states[max(states)], len(names))
        chosen = np.arange(len(names)) if len(names) <= self.block else last.worth_seeing(self.block)
        for step, state in states.items():
            scores = Scores(state, len(names))
            if not scores.counted:
                continue
            counts = scores.matrix(chosen)
            others = len(names) - len(chosen)
            shown = [names[c] for c in chosen] + [f"{others:,} others"] * (others > 0)
            pixels = draw.confusion(counts, shown, counts.sum(axis=1).tolist(), others > 0)
            yield (
                step,
                Picture("confusion/matrix", pixels, "Rows: true class; columns: predicted class; strength: share."),
            )
            yield step, Text("confusion/pairs", _table(scores, names), "The most frequent confusions.")


def _table(scores: Scores, names: tuple[str, ...]) -> str:
    pairs = scores.pairs(PAIRS)
    if not pairs:
        return f"No confusions: all {scores.counted:,} labelled images are right."
    lines = ["| true | predicted | images | of the true class | of the predicted |", "|---|---|---:|---:|---:|"]
    for true, predicted, count in pairs:
        shares = [draw.percent(count / n) for n in (scores.support[true], scores.predictions[predicted])]
        lines.append(f"| {cell(names[true])} | {cell(names[predicted])} | {count:,} | {' | '.join(shares)} |")
    errors = scores.counted - int(scores.hits.sum())
    shown = sum(count for *_, count in pairs)
    return "\n".join([*lines, "", f"{shown:,} of {errors:,} errors are in this table."])
