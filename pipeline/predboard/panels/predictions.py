"""Shows a random sample of each class with its predictions. It knows nothing of which images are interesting."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from predboard.formatting import unique_names
from predboard.metrics import counts
from predboard.metrics.counts import Counts
from predboard.panels import RunInfo
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TILE_COLUMNS, Predictions
from predboard.predictions.tasks import no_tile_rows
from predboard.state import Lowest
from predboard.summaries import Summary, Tiles


@dataclass(frozen=True)
class State:
    """The shared counts, which choose the classes, and a few rows of each true class."""

    tally: Counts
    samples: Lowest


@dataclass(frozen=True)
class Panel:
    """Galleries: a random sample of the images of each true class (at most 20), the same ones at each step."""

    per_gallery: int = 6
    """Images of a class."""
    classes: int = 20
    columns: frozenset[str] = TILE_COLUMNS | counts.COLUMNS
    without_scores: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = Lowest(self.per_gallery, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(run))
        return State(Counts.zero(run), none)

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        labelled = batch.labelled
        score = mix(labelled.key, Salt.CLASS_SAMPLES).astype(np.float64)
        samples = Lowest.of_tiles(self.per_gallery, labelled, np.arange(len(labelled)), score, labelled.label)
        return State(Counts.measure(run, batch), samples)

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield a gallery for each step and each of the classes with the most errors at the last step."""
        last = states[max(states)]
        tags = unique_names(info.run.classes)
        for true in last.tally.metrics.most_errors(self.classes).tolist():
            name = info.run.classes[true]
            for step, state in states.items():
                rows = state.samples.rows_of_group(true)
                if len(rows["id"]):
                    yield (
                        step,
                        Tiles(
                            f"predictions/{tags[true]}", rows, f"Images of {name}, chosen by the hash of their names."
                        ),
                    )
