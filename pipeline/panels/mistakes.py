"""The single images most worth looking at: errors first. Knows no rates and no classes' totals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.panels import Subject
from pipeline.predictions import ROWS_NEED, Predictions, Run, mix, no_rows
from pipeline.state import Lowest
from pipeline.summaries import Summary, Tiles

SALT = 2
"""Of the hash that draws the random examples."""


@dataclass(frozen=True)
class State:
    """A few rows for each gallery."""

    confident: Lowest
    highest_loss: Lowest
    least_certain: Lowest
    random: Lowest
    confident_right: Lowest


@dataclass(frozen=True)
class Panel:
    """Galleries: the most confident errors, highest loss, least certain, a random draw, most confident hits."""

    count: int = 12
    """Pictures in a gallery: one page of TensorBoard."""
    columns: frozenset[str] = ROWS_NEED | {"margin"}

    def zero(self, run: Run) -> State:
        """No rows."""
        none = Lowest(self.count, np.zeros(0, np.int64), np.zeros(0), no_rows(len(run.classes)))
        return State(none, none, none, none, none)

    def measure(self, run: Run, batch: Predictions) -> State:  # noqa: ARG002  the rows say all
        """These rows alone."""
        scored = batch.scored
        labelled = scored.label >= 0
        right, wrong = labelled & scored.right, labelled & ~scored.right

        def lowest(among: NDArray[np.bool_], value: NDArray[np.floating]) -> Lowest:
            candidates = np.flatnonzero(among)
            score = value[candidates].astype(np.float64)
            group = np.zeros(len(candidates), np.int64)
            stay = Lowest.choose(self.count, group, score, scored.key[candidates], scored.id[candidates])
            return Lowest(self.count, group[stay], score[stay], scored.rows(candidates[stay]))

        everything = np.ones(len(scored), bool)
        return State(
            confident=lowest(wrong, -scored.confidence),
            highest_loss=lowest(labelled, -scored.loss),
            least_certain=lowest(everything, scored.margin),
            random=lowest(everything, mix(scored.key, SALT).astype(np.float64)),
            confident_right=lowest(right, -scored.confidence),
        )

    def render(self, subject: Subject, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:  # noqa: ARG002
        """Five galleries for each step; an empty one is left out."""
        for step, state in states.items():
            for tag, gallery, description in (
                ("2_mistakes/confident", state.confident, "Wrong predictions, the most confident first."),
                ("examples/highest_loss", state.highest_loss, "Images whose true class got the least probability."),
                ("examples/least_certain", state.least_certain, "The two highest probabilities are closest together."),
                (
                    "examples/random",
                    state.random,
                    "Drawn by the hash of the image's name; the same images at each step.",
                ),
                ("examples/confident_right", state.confident_right, "Right predictions, the most confident first."),
            ):
                if len(gallery.score):
                    yield step, Tiles(tag, gallery.rows, description)
