"""Finds the images that a model sees as most similar to one, by its embeddings or logits. It knows no picture.

The vectors are those of the predictions. Up to `HELD_BYTES` of them stay in memory; more are read each time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.storage.parts import PartFile
from predboard.storage.runs import Step
from predboard.tab.columns import StepRows
from predboard.tab.log_runs import LogRun
from predboard.tab.row_classes import FAILED, RIGHT
from predboard.visualization.image_map import read_vectors

HELD_BYTES = 256 * 2**20
"""Bytes of the vectors of a step up to which they stay in memory."""

OF_CLASS = 6
"""Right images of the true and of the predicted class that are shown."""


@dataclass(frozen=True)
class Neighbours:
    """Rows that are most similar to one, the most similar first."""

    by: str
    """What was compared: `embedding` or `logits`."""
    similarity: NDArray[np.float32]  # [rows of the step] cosine, NaN for rows without a vector
    rows: NDArray[np.int64]
    of_true: NDArray[np.int64]
    """Right ones of the row's true class."""
    of_predicted: NDArray[np.int64]
    """Right ones of the class that is predicted for the row."""


def can_compare(predictions: Step | None) -> bool:
    """Return whether the predictions have what images are compared by."""
    return predictions is not None and (predictions.run.has_scores or predictions.run.embedding > 0)


def find_neighbours(run: LogRun, step: StepRows, row: int, limit: int) -> Neighbours:
    """Find the rows that are most similar to one by the cosine of their vectors.

    Raises InputError if the predictions are not in their place, or are others now, or the row failed.
    """
    predictions = run.predictions.get(step.step)
    if predictions is None:
        raise InputError(
            f"the predictions of {run.name} are not in their place, and similar images are found by them: move them "
            "back, or run predboard visualize on them again"
        )
    if step.step in run.changed or predictions.rows != step.rows:
        raise InputError(
            f"the predictions of {run.name} have changed since these logs were drawn: run predboard visualize again"
        )
    if not can_compare(predictions):
        raise InputError("the predictions have neither embeddings nor the scores of all classes to compare images by")
    if step.verdict[row] == FAILED:
        raise InputError("the image has no prediction, and nothing it could be compared by")
    similarity = _similarity(predictions, step, row)
    others = np.isfinite(similarity)
    others[row] = False
    right = others & (step.verdict == RIGHT)
    true, predicted = (step.classes.codes(role, step.file.classes) for role in ("true", "predicted"))
    return Neighbours(
        "embedding" if predictions.run.embedding else "logits",
        similarity,
        _nearest(similarity, others, limit),
        _nearest(similarity, right & (true == true[row]), OF_CLASS),
        _nearest(similarity, right & (true == predicted[row]), OF_CLASS),
    )


def _nearest(similarity: NDArray[np.float32], among: NDArray[np.bool_], limit: int) -> NDArray[np.int64]:
    rows = np.flatnonzero(among)
    values = -similarity[rows]
    if limit < len(rows):
        near = values <= np.partition(values, limit - 1)[limit - 1]
        rows, values = rows[near], values[near]
    return rows[np.argsort(values, kind="stable")][:limit]


def _similarity(predictions: Step, step: StepRows, row: int) -> NDArray[np.float32]:
    """Return the cosine of the angle between the vectors of a row and of each other, float32 [rows]."""
    parts, width = predictions.parts, predictions.run.embedding or len(predictions.run.classes)
    own: Iterable[Vectors]
    pieces: Iterable[Vectors]
    if 4 * step.rows * width <= HELD_BYTES:
        own = pieces = [step.derived("vectors", lambda: _join(list(_unit_vectors(parts, step))))]
    else:
        number = int(step.numbers("id")[row])
        own = _unit_vectors([part for part in parts if part.part.start <= number < part.part.stop], step)
        pieces = _unit_vectors(parts, step)
    vector = next(vectors[places == row][0] for places, vectors in own if row in places)
    similarity = np.full(step.rows, np.nan, np.float32)
    for places, vectors in pieces:
        similarity[places] = vectors @ vector
    return similarity


Vectors = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows, ascending, and the vector of each, of length 1, [rows, dimensions]."""


def _join(pieces: list[Vectors]) -> Vectors:
    return np.concatenate([places for places, _ in pieces]), np.concatenate([vectors for _, vectors in pieces])


def _unit_vectors(parts: Sequence[PartFile], step: StepRows) -> Iterator[Vectors]:
    ids = step.numbers("id")
    for part in parts:
        for batch, vectors in read_vectors(part):
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            unit = (vectors / np.where(length > 0, length, 1)).astype(np.float32)
            yield np.searchsorted(ids, batch.id[batch.is_scored]), unit
