"""Shows the single images most worth looking at, errors first. It knows no rates and no totals of classes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from predboard.panels import RunInfo
from predboard.panels.pages.followed import follow
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TILE_COLUMNS, Predictions
from predboard.predictions.tasks import no_tile_rows
from predboard.state import Lowest
from predboard.summaries import Summary, Tiles


@dataclass(frozen=True)
class State:
    """A few rows of each gallery."""

    confident: Lowest
    highest_loss: Lowest
    least_certain: Lowest
    random: Lowest
    confident_right: Lowest
    sample: Lowest  # the same images at each step; those to follow are chosen from them


@dataclass(frozen=True)
class Panel:
    """Galleries: most confident errors, highest loss, least certain, random, most confident hits, some over time."""

    per_gallery: int = 12
    """Images in a gallery: one page of TensorBoard."""
    sampled: int = 400
    """Images from which those to follow over the steps are chosen."""
    columns: frozenset[str] = TILE_COLUMNS | {"margin"}
    without_scores: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = Lowest(self.per_gallery, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(run))
        return State(none, none, none, none, none, replace(none, limit=self.sampled))

    def measure(self, run: Run, batch: Predictions) -> State:  # noqa: ARG002  the rows say all
        """Return the state of these rows alone."""
        scored = batch.scored
        labelled = scored.label >= 0
        right, wrong = labelled & scored.right, labelled & ~scored.right

        def lowest(among: NDArray[np.bool_], value: NDArray[np.floating], count: int = self.per_gallery) -> Lowest:
            candidates = np.flatnonzero(among)
            return Lowest.of_tiles(count, scored, candidates, value[candidates])

        everything = np.ones(len(scored), bool)
        known = everything & scored.has_scores  # else no loss and no margin
        return State(
            confident=lowest(wrong, -scored.confidence),
            highest_loss=lowest(labelled & known, -scored.loss),
            least_certain=lowest(known, scored.margin),
            random=lowest(everything, mix(scored.key, Salt.RANDOM_EXAMPLES).astype(np.float64)),
            confident_right=lowest(right, -scored.confidence),
            sample=lowest(labelled, mix(scored.key, Salt.FOLLOWED_EXAMPLES).astype(np.float64), self.sampled),
        )

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:  # noqa: ARG002
        """Yield five galleries for each step, except for empty ones, and followed images if there are several steps."""
        for step, rows in follow({step: state.sample for step, state in states.items()}, self.per_gallery).items():
            description = "The same images at every step: some forgotten, some never right, some learned late."
            yield step, Tiles("examples/followed", rows, description)
        for step, state in states.items():
            for tag, gallery, description in (
                ("2_mistakes/confident", state.confident, "Wrong predictions, the most confident first."),
                ("examples/highest_loss", state.highest_loss, "Images whose true class got the lowest probability."),
                (
                    "examples/least_certain",
                    state.least_certain,
                    "Images whose two highest probabilities are closest to each other.",
                ),
                (
                    "examples/random",
                    state.random,
                    "Chosen by the hash of the image's name; the same images at every step.",
                ),
                ("examples/confident_right", state.confident_right, "Right predictions, the most confident first."),
            ):
                if len(gallery.score):
                    yield step, Tiles(tag, gallery.rows, description)
