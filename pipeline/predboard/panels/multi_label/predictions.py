"""Shows a random sample of each label with its predictions. It knows nothing of which images are interesting."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import unique_names
from predboard.panels import RunInfo
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TILE_COLUMNS
from predboard.predictions.tasks import no_tile_rows
from predboard.state import Lowest, summed
from predboard.summaries import Summary, Tiles


@dataclass(frozen=True)
class State:
    """A few rows that have each label, and the wrong decisions about it, which choose the labels."""

    samples: Lowest
    errors: NDArray[np.int64] = summed()  # [classes] images in which the label was missed or wrongly predicted


@dataclass(frozen=True)
class Panel:
    """Galleries: a random sample of the images of each true label (at most 20), the same ones at each step."""

    per_gallery: int = 6
    """Images of a label."""
    classes: int = 20
    columns: frozenset[str] = TILE_COLUMNS

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = Lowest(self.per_gallery, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(run))
        return State(none, np.zeros(len(run.classes), np.int64))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        rows = batch.labelled
        wrong = np.concatenate([rows.missed.label, rows.wrongly_predicted.label])
        row, label = rows.labels.row, rows.labels.label  # [labels] a row for each label that it has
        score = mix(rows.key, Salt.CLASS_SAMPLES).astype(np.float64)[row]
        samples = Lowest.of_tiles(self.per_gallery, rows, row, score, label)
        return State(samples, np.bincount(wrong, minlength=len(run.classes)))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield a gallery for each step and each of the labels with the most errors at the last step."""
        errors = states[max(states)].errors
        tags = unique_names(info.run.classes)
        for label in np.lexsort((np.arange(len(errors)), -errors))[: self.classes].tolist():
            name = info.run.classes[label]
            for step, state in states.items():
                rows = state.samples.rows_of_group(label)
                if len(rows["id"]):
                    description = f"Images that have {name}, chosen by the hash of their names."
                    yield step, Tiles(f"predictions/{tags[label]}", rows, description)
