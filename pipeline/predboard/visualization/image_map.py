"""Places all images of a step on a plane, similar ones together, in a file for the tab Predictions. It draws nothing.

The plane is spanned by the first two principal components of the embeddings, or of the logits, or by two columns that
the user brought along, such as a UMAP of their own. The components are computed from a sample before all rows are read,
so that the images are placed in the same pass that measures them. It knows nothing of what is drawn there.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.parallel.threads import ordered_map
from predboard.predictions.arrow import as_arrow
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import StatesByName
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.runs import Step
from predboard.summaries import Summary

MAP_FILE = "map.arrow"

NO_PLACE = int(np.iinfo(np.int16).min)
"""Coordinate of an image without a place: its row failed, or its columns are empty."""

REACH = 32_000
"""Largest coordinate; the images farthest out lie on the edge."""

_OUTSIDE = 0.001
"""Share of images at either end of an axis that are moved to the edge, so that a few do not squeeze the rest."""

SAMPLE_ROWS = 10_000
SAMPLE_NUMBERS = 4_000_000
"""Rows from which the axes are computed, and numbers of them all: 4,000 rows of 1,000 classes."""

LEAST_SAMPLE_ROWS = 2000
"""Rows that are taken in any case, however many numbers each has."""

SAMPLE_PARTS = 16
SAMPLE_EVERY = 2
"""Parts of a step that are read for it at most, and that every second row is taken where there are enough: images of a
class often lie side by side."""

_BLOCK_NUMBERS = 2**17
"""Numbers that are projected at a time, so that they stay in the processor's cache."""

_SCATTER_DIMENSIONS = 2048
"""Up to so many dimensions the sums of products, 32 MB at most, are computed once: a third of the time of going through
the sample twice in each iteration."""

_ITERATIONS = 30
_VECTORS = 8
"""Of the subspace iteration."""


@dataclass(frozen=True)
class PlacedRows:
    """Keys and places of neighbouring rows of a step."""

    key: NDArray[np.int64]  # [rows]
    place: NDArray[np.float64]  # [rows, 2], NaN without a vector


@dataclass(frozen=True)
class ImagePlaces:
    """Mergeable places of rows."""

    batches: StatesByName
    """Rows of each batch, `PlacedRows` by the id of the first one: in the order of the manifest."""


@dataclass(frozen=True)
class ImageMap:
    """Places images by principal components. It is measured as panels are, and draws nothing."""

    source: str
    """What the map shows, in words."""
    axes: NDArray[np.float64]  # [2, dimensions]
    origin: NDArray[np.float64]  # [2] place of the centre, which becomes 0
    digest: str
    """Digest of the numbers, by which a cached state is known to be of the same map."""
    columns: frozenset[str]
    last_step_only: bool = True

    @classmethod
    def by_components(cls, step: Step, threads: int) -> "ImageMap":
        """Compute the axes from a sample of a step: of the embeddings, or of the logits where there are none."""
        numbers = step.run.embedding or len(step.run.classes)
        rows = min(SAMPLE_ROWS, max(SAMPLE_NUMBERS // numbers, LEAST_SAMPLE_ROWS))
        count = min(len(step.parts), SAMPLE_PARTS)
        parts = [step.parts[i] for i in np.linspace(0, len(step.parts) - 1, count).astype(int).tolist()]
        samples = ordered_map(functools.partial(_sample, each=-(-rows // count)), parts, threads)
        centre, axes = principal_axes(np.concatenate(list(samples)))
        what = "embeddings" if step.run.embedding else "logits"
        return cls(
            f"PCA of the {what} at step {step.step}",
            np.ascontiguousarray(axes.T),
            np.einsum("ij,j->i", axes.T, centre),
            hashlib.blake2b(centre.tobytes() + axes.tobytes(), digest_size=8).hexdigest(),
            _columns(step.run),
        )

    def zero(self, run: Run) -> ImagePlaces:  # noqa: ARG002  as of all states
        """Return the places of no rows."""
        return ImagePlaces(StatesByName({}))

    def measure(self, run: Run, batch: Predictions) -> ImagePlaces:
        """Return the places of these rows."""
        if not len(batch):
            return self.zero(run)
        rows, size = batch.scored, max(_BLOCK_NUMBERS // self.axes.shape[1], 1)
        place = np.empty((len(rows), 2))
        for start in range(0, len(rows), size):  # not a product of matrices, whose last bits depend on their size
            np.einsum("ij,kj->ik", _vectors(rows, run, slice(start, start + size)), self.axes, out=place[start:][:size])
        places = np.full((len(batch), 2), np.nan)
        places[batch.is_scored] = place - self.origin
        return ImagePlaces(StatesByName({f"{batch.id[0]:019d}": PlacedRows(batch.key.copy(), places)}))

    def render(self, info: object, states: object) -> Iterator[tuple[int, Summary]]:  # noqa: ARG002  as of all panels
        """Yield nothing."""
        return iter(())

    def write(self, path: Path, places: ImagePlaces) -> None:
        """Write the map of all rows of the step."""
        batches = places.batches.states.values()
        keys = np.concatenate([np.zeros(0, np.int64), *(batch.key for batch in batches)])
        _write(path, self.source, keys, np.concatenate([np.zeros((0, 2)), *(batch.place for batch in batches)]))


def map_by_columns(path: Path, rows: Iterable[DerivedRows], columns: tuple[str, str]) -> None:
    """Write a map by two columns of numbers. Raises InputError if there are no such columns."""
    keys, places = [np.zeros(0, np.int64)], [np.zeros((0, 2))]
    for batch in rows:
        numbers = []
        for name in columns:
            column = batch.numbers(name) if name in batch.batch.schema.names else None
            if column is None:
                raise InputError(f"--map names {name!r}, but the images have no such column of numbers")
            numbers.append(column)
        keys.append(batch.key)
        places.append(np.stack(numbers, axis=1))
    _write(path, f"{columns[0]} and {columns[1]}", np.concatenate(keys), np.concatenate(places))


def _sample(part: PartFile, each: int) -> NDArray[np.float64]:
    """Return the vectors of some rows at the beginning of a part, float64 [rows, dimensions]."""
    every = max(min(SAMPLE_EVERY, part.rows // each), 1)
    pieces, rows = [np.zeros((0, part.run.embedding or len(part.run.classes)))], 0
    for batch in read_batches(part, _columns(part.run), most_rows=every * each):  # what comes after them is not decoded
        pieces.append(_vectors(batch.scored, part.run, slice(0, every * (each - rows), every)))
        rows += len(pieces[-1])
        if rows >= each:
            break
    return np.concatenate(pieces)


def read_vectors(part: PartFile) -> Iterator[tuple[Predictions, NDArray[np.float64]]]:
    """Yield the rows of a part and what tells images apart, by rows that have it: [scored rows, dimensions].

    That is the embedding, else the logits less their mean; in float64, because logits may be as large as a float32 can.
    """
    for batch in read_batches(part, _columns(part.run)):
        yield batch, _vectors(batch.scored, part.run)


def _columns(run: Run) -> frozenset[str]:
    return frozenset({"id", "key", "predicted", "embedding" if run.embedding else "logits"})


def _vectors(scored: Predictions, run: Run, some: slice = slice(None)) -> NDArray[np.float64]:
    vectors = (scored.embedding if run.embedding else scored.logits)[some].astype(np.float64)
    if not run.embedding:  # what is added to all logits of a row changes nothing
        vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors


def principal_axes(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [dimensions] and the first two principal components [dimensions, 2] of some vectors.

    By subspace iteration (Halko, Martinsson, Tropp 2011) from fixed vectors, so that the same data give the same axes;
    the largest component of each axis is positive.
    """
    dimensions = vectors.shape[1]
    if not len(vectors):
        return np.zeros(dimensions), np.zeros((dimensions, 2))
    centre = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - centre
    count = min(_VECTORS, dimensions)
    space = np.linalg.qr(np.random.default_rng(0).normal(size=(dimensions, count)))[0]
    scatter = centred.T @ centred if dimensions <= _SCATTER_DIMENSIONS else None
    for _ in range(_ITERATIONS):
        space = np.linalg.qr(centred.T @ (centred @ space) if scatter is None else scatter @ space)[0]
    values, turns = np.linalg.eigh((centred @ space).T @ (centred @ space))
    axes = np.zeros((dimensions, 2))
    best = (space @ turns[:, np.argsort(-values, kind="stable")])[:, :2]
    axes[:, : best.shape[1]] = best
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(2)])
    return centre, axes * np.where(signs == 0, 1, signs)


def _write(path: Path, source: str, keys: NDArray[np.int64], places: NDArray[np.float64]) -> None:
    finite = np.isfinite(places).all(axis=1)
    coordinates = np.full(places.shape, NO_PLACE, np.int16)
    if finite.any():
        low, high = np.quantile(places[finite], [_OUTSIDE, 1 - _OUTSIDE], axis=0)
        half = np.maximum((high - low) / 2, np.finfo(np.float32).tiny)
        scaled = np.clip((places[finite] - (low + high) / 2) / half, -1, 1) * REACH
        coordinates[finite] = np.rint(scaled).astype(np.int16)
    fields = [pa.field("key", pa.int64(), nullable=False)]
    fields += [pa.field(name, pa.int16(), nullable=False) for name in ("x", "y")]
    columns = [as_arrow(keys, pa.int64()), *(as_arrow(axis, pa.int16()) for axis in coordinates.T)]
    schema = pa.schema(fields, {"source": source})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
