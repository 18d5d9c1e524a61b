"""Shows the single images most worth looking at, the surest wrong decisions first. It knows no rates and no totals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from predboard.panels import RunInfo
from predboard.panels.pages.followed import follow
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TILE_COLUMNS
from predboard.predictions.tasks import no_tile_rows
from predboard.state import Lowest
from predboard.summaries import Summary, Tiles


@dataclass(frozen=True)
class State:
    """A few rows of each gallery."""

    wrongly_predicted: Lowest
    missed: Lowest
    highest_loss: Lowest
    least_certain: Lowest
    random: Lowest
    confident_right: Lowest
    sample: Lowest  # the same images at each step; those to follow are chosen from them


GALLERIES = {
    "wrongly_predicted": (
        "2_mistakes/wrongly_predicted",
        "Labels that are wrongly predicted, the most probable first.",
    ),
    "missed": ("2_mistakes/missed", "Labels that are missed, the least probable first."),
    "highest_loss": ("examples/highest_loss", "Images whose labels got the lowest probability, all of them together."),
    "least_certain": ("examples/least_certain", "Images with a label whose probability is closest to 1/2."),
    "random": ("examples/random", "Chosen by the hash of the image's name; the same images at every step."),
    "confident_right": ("examples/confident_right", "Images whose labels are all found and no other, surest first."),
}
"""Tag and description of each gallery, by its name in `State`."""


@dataclass(frozen=True)
class Panel:
    """Galleries: surest labels wrongly predicted and missed, highest loss, least certain, random, right, over time."""

    per_gallery: int = 12
    """Images in a gallery: one page of TensorBoard."""
    sampled: int = 400
    """Images from which those to follow over the steps are chosen."""
    columns: frozenset[str] = TILE_COLUMNS | {"margin"}

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = Lowest(self.per_gallery, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(run))
        return State(none, none, none, none, none, none, replace(none, limit=self.sampled))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:  # noqa: ARG002  the rows say all
        """Return the state of these rows alone."""
        rows = batch.scored
        labelled, everything = rows.is_labelled, np.ones(len(rows), bool)

        def lowest(among: NDArray[np.bool_], value: NDArray[np.floating], count: int = self.per_gallery) -> Lowest:
            candidates = np.flatnonzero(among)
            return Lowest.of_tiles(count, rows, candidates, value[candidates])

        wrong, missed = rows.wrongly_predicted, rows.missed
        p_wrong = rows.predicted_probability[wrong.contains(rows.predicted_labels)]
        p_missed = rows.label_probability[missed.contains(rows.labels)]
        return State(
            wrongly_predicted=lowest(wrong.size > 0, _least(wrong, -p_wrong)),
            missed=lowest(missed.size > 0, _least(missed, p_missed)),
            highest_loss=lowest(labelled, -rows.loss),
            least_certain=lowest(everything, rows.margin),
            random=lowest(everything, mix(rows.key, Salt.RANDOM_EXAMPLES).astype(np.float64)),
            confident_right=lowest(rows.right & (rows.labels.size > 0), -rows.confidence),
            sample=lowest(labelled, mix(rows.key, Salt.FOLLOWED_EXAMPLES).astype(np.float64), self.sampled),
        )

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:  # noqa: ARG002
        """Yield the galleries of each step, except for empty ones, and followed images if there are several steps."""
        for step, rows in follow({step: state.sample for step, state in states.items()}, self.per_gallery).items():
            description = "The same images at every step: some forgotten, some never right, some learned late."
            yield step, Tiles("examples/followed", rows, description)
        for step, state in states.items():
            for name, (tag, description) in GALLERIES.items():
                gallery: Lowest = getattr(state, name)
                if len(gallery.score):
                    yield step, Tiles(tag, gallery.rows, description)


def _least(sets: LabelSets, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the least value of the labels of each row, [rows]; inf where there are none. `values` are [labels]."""
    least = np.full(len(sets), np.inf)
    np.minimum.at(least, sets.row, values.astype(np.float64))
    return least
