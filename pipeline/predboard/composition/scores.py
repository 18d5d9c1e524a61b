"""Averages the scores of several models for the same rows, and reads the scores in the order of those rows.

It knows nothing of runs' names or of files to be written.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.composition.row_cursor import RowCursor
from predboard.predictions.arrow import as_matrix, as_numpy
from predboard.predictions.derive import to_log_probabilities
from predboard.predictions.multi_label.derive import sigmoid, to_log_odds
from predboard.predictions.schema import MULTI_LABEL
from predboard.storage.parts import read_batches
from predboard.storage.paths import explain_write_errors
from predboard.storage.runs import Step

COLUMNS = frozenset({"id", "logits"})
"""Columns that are read. Their pages have checksums; the digest of all rows would take as long as reading them."""

BLOCK_BYTES = 2**18
"""Bytes of float64 that are worked on at a time: two such arrays stay in a core's cache."""

READ_BYTES = 2**22
"""Bytes of a model's scores that are read at a time. Memory of large pieces, held for long, is new to the process each
time, and the system takes as long to give it as decoding takes."""


@dataclass(frozen=True)
class Average:
    """How scores are averaged."""

    weights: tuple[float, ...]
    """For each model, at least 0; together 1."""
    by: Literal["probabilities", "logits"]
    task: str
    classes: int
    places: tuple[NDArray[np.int64] | None, ...]
    """For each model the places of its classes among the common ones; None if they are the same."""

    def __call__(self, scores: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], int]:
        """Average the scores of rows, in float64.

        Args:
            scores: for each model [rows, classes of the model], logits or logarithms of probabilities.

        Returns:
            float32 [rows, classes]: the logarithm of the weighted mean of the softmax probabilities (of several
            labels the log-odds of the mean of the sigmoids), or the weighted mean of the logits; and how many
            probabilities were moved to what can be stored. A class that a model does not have has probability 0
            there.
        """
        averaged = np.empty((len(scores[0]), self.classes), np.float32)
        size = max(1, BLOCK_BYTES // (8 * self.classes))
        raised = 0
        for start in range(0, len(averaged), size):
            rows = min(size, len(averaged) - start)
            total = np.zeros((rows, self.classes))
            for values, weight, place in zip(scores, self.weights, self.places, strict=True):
                part = self._weighted(values[start : start + size], weight)  # [block, classes of the model]
                if place is None:
                    total += part
                else:
                    total[:, place] += part
            block: NDArray[Any] = total
            if self.by == "probabilities":
                block, moved = to_log_odds(total) if self.task == MULTI_LABEL else to_log_probabilities(total)
                raised += moved
            averaged[start : start + size] = block
        return averaged, raised

    def _weighted(self, values: NDArray[np.float32], weight: float) -> NDArray[np.float64]:
        """Return scores [rows, classes] as summands of the mean, in float64."""
        if self.by == "logits":
            part = values.astype(np.float64)
        elif self.task == MULTI_LABEL:
            part = sigmoid(values.astype(np.float64))
        else:
            part = _softmax(values)
        part *= weight
        return part


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities of logits [rows, classes], computed in float64."""
    part: NDArray[np.float64] = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    np.exp(part, out=part)
    part /= part.sum(axis=1, keepdims=True)
    return part


def rows_at_a_time(classes: int) -> int:
    """Return how many rows of scores are read and averaged together."""
    return max(1, READ_BYTES // (4 * classes))


class ScoreReader(Protocol):
    """Scores of one model in the order of the new rows."""

    def close(self) -> None:
        """Let go of what it holds."""
        ...

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the scores of rows start to stop, behind those of the last call; any numbers where there are none."""
        ...


def open_scores(step: Step, place: NDArray[np.int64], rows: int, folder: Path) -> ScoreReader:
    """Return a reader of the scores of a step, in the order of the new rows.

    Where the order is the same but for gaps, scores stream through. Otherwise they are first written in that order to a
    file without a name in `folder`, which is as large as they are and is gone when it is closed, however that happens.

    Args:
        step: its scores.
        place: the new row of each of its rows, [rows of the step].
        rows: number of new rows.
        folder: a folder on this machine.
    """
    if (np.diff(place) > 0).all():
        return _InOrder(step, place)
    return _Spooled(step, place, rows, folder)


class _InOrder:
    def __init__(self, step: Step, place: NDArray[np.int64]) -> None:
        self._cursor = RowCursor(step, COLUMNS, most_rows=rows_at_a_time(len(step.run.classes)))
        self._place, self._classes = place, len(step.run.classes)

    def close(self) -> None:
        self._cursor.close()

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        first, last = np.searchsorted(self._place, [start, stop])
        batch = self._cursor.take(np.arange(first, last))
        if batch is not None and len(batch) == stop - start and not batch.column("logits").null_count:
            return _logits(batch)[1]
        scores = np.zeros((stop - start, self._classes), np.float32)
        if batch is not None:
            at, logits = _logits(batch)
            scores[self._place[first:last][at] - start] = logits
        return scores


class _Spooled:
    def __init__(self, step: Step, place: NDArray[np.int64], rows: int, folder: Path) -> None:
        self._row_bytes = 4 * len(step.run.classes)
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as the reader
            self._file.truncate(rows * self._row_bytes)
            for file in step.parts:
                for batch in read_batches(file, COLUMNS):
                    at, logits = _logits(batch.batch)
                    self._write(place[batch.id[at]], logits)
            self._file.flush()  # a full disk is noticed now

    def close(self) -> None:
        self._file.close()

    def _write(self, place: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        order = np.argsort(place)
        place, logits = place[order], logits[order]
        starts = [0, *(np.flatnonzero(np.diff(place) != 1) + 1).tolist(), len(place)]
        for start, stop in itertools.pairwise(starts):
            if stop > start:
                self._file.seek(int(place[start]) * self._row_bytes)
                self._file.write(logits[start:stop].data)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        self._file.seek(start * self._row_bytes)
        content = self._file.read((stop - start) * self._row_bytes)
        return np.frombuffer(content, np.float32).reshape(stop - start, -1)


def _logits(batch: pa.RecordBatch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which rows have logits, and the logits, [rows with logits, classes]."""
    column = batch.column("logits")
    if not column.null_count:
        return np.arange(len(batch)), as_matrix(column)
    at = np.flatnonzero(as_numpy(column.is_valid().cast(pa.uint8())))
    return at, as_matrix(column.drop_null())
