"""Writes a small picture of every image of a step to one file, which the tab Predictions maps into memory.

It knows nothing of tiles and event files.
"""

import functools
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from PIL import Image

from predboard.drawing.tiles import fit_picture
from predboard.parallel.threads import ordered_map
from predboard.predictions.arrow import as_arrow, as_booleans, as_numpy
from predboard.predictions.derived_rows import DerivedRows
from predboard.visualization.source_images import TASK_IMAGES, ReadImage, SourceImages

THUMBNAILS_FILE = "thumbnails.arrow"

SIDE_PIXELS = 128
"""Longest side of a thumbnail; smaller images keep their size."""

JPEG_QUALITY = 85

SMALL_SIDE_PIXELS = 64
"""Images up to this size are shown enlarged, so their colours are not subsampled."""

OWN_BYTES = 8192
"""An image whose file is no larger, or has no more bytes than pixels, is its own thumbnail: made anew, such a JPEG has
half the bytes, and costs as much as decoding it. It must have been decoded somewhere, because browsers show what there
is of a damaged one, and everything else here calls it missing."""

AUTO_MAX_IMAGES = 50_000
AUTO_MAX_PIXELS = 2_000_000_000
"""Images, and pixels of all their sources, up to which thumbnails are drawn by default: a minute on two processors."""

_BATCH_ROWS = 1024
_PROBES = 32
"""Images that are tried first: if none of them is found, none of the others is looked for."""


class _Point(NamedTuple):
    """A row whose thumbnail is written."""

    row: int
    key: int
    ref: str
    was_decoded: bool
    """Whether stage one has decoded the image; of imported predictions nobody has."""


def _points(rows: DerivedRows) -> Iterator[_Point]:
    refs = rows.column("image").to_pylist()
    measured, intact = rows.column("width").is_valid().to_pylist(), rows.column("error").is_null().to_pylist()
    for row, key, ref, *decoded in zip(rows.id.tolist(), rows.key.tolist(), refs, measured, intact, strict=True):
        yield _Point(row, key, str(ref or ""), all(decoded))


def is_small(rows: Iterable[DerivedRows]) -> bool:
    """Return whether thumbnails of the rows of a step are drawn by default."""
    images, pixels = 0, 0
    for batch in rows:
        images += len(batch)
        width, height = (as_numpy(batch.column(name), 0).astype(np.int64) for name in ("width", "height"))
        pixels += int((width * height).sum())
    return images <= AUTO_MAX_IMAGES and pixels <= AUTO_MAX_PIXELS


class DrawnThumbnails:
    """The thumbnails of a step that were drawn while its images were open for something else."""

    def __init__(self, step: int) -> None:
        """Begin without any."""
        self._step = step
        self.by_row: dict[int, bytes | None] = {}
        """None for an image that could not be read."""

    def enough(self, image: ReadImage) -> int:
        """Return how many pixels of the shorter side a thumbnail needs: none of an image that is its own."""
        return 0 if is_thumbnail(image) else SIDE_PIXELS

    def take(self, step: int, row: int, image: ReadImage, pixels: Image.Image) -> None:
        """Keep the thumbnail of an image."""
        if step == self._step:
            self.by_row[row] = image.content if is_thumbnail(image) else _encode(pixels)

    def fail(self, step: int, row: int) -> None:
        """Note that an image could not be read."""
        if step == self._step:
            self.by_row[row] = None


def is_thumbnail(image: ReadImage) -> bool:
    """Return whether the bytes of an intact image are its thumbnail as they are: small, plain, and with few bytes."""
    bytes_ = len(image.content)
    if bytes_ > SIDE_PIXELS**2 or image.plain is None:
        return False
    width, height = image.plain.width, image.plain.height
    return max(width, height) <= SIDE_PIXELS and bytes_ <= max(OWN_BYTES, width * height)


def write_thumbnails(
    path: Path,
    step: int,
    rows: Iterable[DerivedRows],
    images: SourceImages,
    threads: int,
    drawn: Mapping[int, bytes | None] | None = None,
) -> bool:
    """Write the thumbnails of a step's rows, and return whether there are any; without one there is no file.

    Args:
        path: of the file.
        step: number of the step.
        rows: its rows.
        images: opens the images.
        threads: how many draw.
        drawn: thumbnails that are there already, by row; None of an image that cannot be read.
    """
    drawn = drawn or {}
    points = [point for batch in rows for point in _points(batch)]
    draw = functools.partial(_draw, images, step, drawn)
    probes = [points[i] for i in np.linspace(0, len(points) - 1, min(_PROBES, len(points))).astype(int).tolist()]
    if not any(drawn.values()) and not any(ordered_map(draw, probes, threads)):
        return False
    schema = pa.schema(
        [pa.field("key", pa.int64(), nullable=False), pa.field("thumbnail", pa.binary())],
        {"side": str(SIDE_PIXELS), "step": str(step)},
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        groups = (points[start : start + TASK_IMAGES] for start in range(0, len(points), TASK_IMAGES))

        def draw_group(group: list[_Point]) -> list[bytes | None]:
            return [draw(point) for point in group]

        encoded = ordered_map(
            draw_group,
            groups,
            threads,
            at_once=lambda group: draw_group(group) if all(point.row in drawn for point in group) else None,
        )
        for batch in _batches(points, itertools.chain.from_iterable(encoded), schema):
            writer.write_batch(batch)
    return True


def _batches(points: list[_Point], thumbnails: Iterator[bytes | None], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(points), _BATCH_ROWS):
        chosen = points[start : start + _BATCH_ROWS]
        keys = np.array([point.key for point in chosen], np.int64)
        encoded = [next(thumbnails) for _ in chosen]
        yield pa.RecordBatch.from_arrays([as_arrow(keys, pa.int64()), _binary(encoded)], schema=schema)


def _binary(values: Sequence[bytes | None]) -> pa.Array:
    """Return values as Arrow has them; its own conversion would import pandas."""
    ends = np.cumsum([0, *(len(value or b"") for value in values)], dtype=np.int32)
    valid = as_booleans(np.array([value is not None for value in values])).buffers()[1]
    content = pa.py_buffer(b"".join(value or b"" for value in values))
    return pa.Array.from_buffers(pa.binary(), len(values), [valid, pa.py_buffer(ends), content])


def _draw(images: SourceImages, step: int, drawn: Mapping[int, bytes | None], point: _Point) -> bytes | None:
    if point.row in drawn:
        return drawn[point.row]

    def reduce(image: ReadImage) -> bytes:
        is_own = is_thumbnail(image)
        if is_own and point.was_decoded:
            return image.content
        pixels = image.decode(SIDE_PIXELS)
        return image.content if is_own else _encode(pixels)

    return images.use_image(step, point.row, point.ref, reduce)


def _encode(image: Image.Image) -> bytes:
    if max(image.size) > SIDE_PIXELS:
        image, _ = fit_picture(image, SIDE_PIXELS)
    encoded = io.BytesIO()
    subsampling = 0 if max(image.size) <= SMALL_SIDE_PIXELS else 2
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
    return encoded.getvalue()
