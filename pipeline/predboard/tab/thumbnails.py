"""Encodes the picture of a row in a size: from the stored thumbnails, else from its source. It knows no query.

A picture is decoded and encoded again by us, or was when `visualize` wrote it. Only a small one that is nothing but a
plain JPEG or PNG is passed on as it is, so a row that names another kind of file shows nothing.
"""

import functools
import io
import threading

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray
from PIL import Image

from predboard.errors import reading
from predboard.predictions.arrow import as_numpy
from predboard.storage.paths import AnyPath
from predboard.tab.columns import ColumnCache, StepRows
from predboard.tab.log_runs import LogRun
from predboard.tab.pairs import match_keys
from predboard.visualization.source_images import SourceImages
from predboard.visualization.thumbnails import THUMBNAILS_FILE

SIDES = (64, 128, 256, 1024, 2048)
"""Longest sides of pictures that can be asked for, pixels."""

CACHE_BYTES = 64 * 2**20
"""Bytes of encoded pictures in memory."""

MAX_DECODERS = 4
"""Pictures that are decoded at once."""

MAX_PNG_SIDE = 64
"""Pictures up to this size are small as PNG too, which shows their own pixels."""

JPEG_QUALITY = 85

PNG_START = b"\x89PNG"
JPEG_START = b"\xff\xd8\xff"


class ThumbnailFile:
    """The thumbnails that `visualize` wrote, in a file that is mapped into memory."""

    def __init__(self, path: AnyPath) -> None:
        """Open the file. Raises InputError if it cannot be read."""
        with reading(path):
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            self.side = int(file.schema.metadata[b"side"])
            self._batches = [file.get_batch(i) for i in range(file.num_record_batches)]
            for batch in self._batches:  # a damaged file must not lead outside of it
                batch.validate(full=True)
            self._ends = np.cumsum([len(batch) for batch in self._batches])
            keys = [as_numpy(batch.column("key")) for batch in self._batches]
            self.keys: NDArray[np.int64] = np.concatenate(keys) if keys else np.zeros(0, np.int64)

    def get(self, place: int) -> bytes:
        """Return a thumbnail, empty if the image has none, or if what is there is not one."""
        batch = int(np.searchsorted(self._ends, place, side="right"))
        start = int(self._ends[batch]) - len(self._batches[batch])
        content = self._batches[batch].column("thumbnail")[place - start].as_py() or b""
        return content if content.startswith((JPEG_START, PNG_START)) else b""


class Pictures:
    """The pictures of all runs, with the latest ones in memory."""

    def __init__(self) -> None:
        """Hold no picture yet."""
        self._cache = ColumnCache(CACHE_BYTES)
        self._decoders = threading.BoundedSemaphore(MAX_DECODERS)
        self._sources = functools.lru_cache(16)(_open_sources)
        self._files = functools.lru_cache(16)(_open_thumbnails)

    def encode(self, run: LogRun, step: StepRows, row: int, side: int) -> bytes:
        """Return the picture of a row as PNG or JPEG, its longest side at most `side`; empty if there is none."""
        thumbnails = self._files(run)
        if thumbnails is not None and side <= thumbnails.side:
            name = ("place of thumbnails", run.version)
            places = step.derived(name, lambda: match_keys(step.numbers("key"), thumbnails.keys))
            if places[row] >= 0 and (stored := thumbnails.get(int(places[row]))):
                return stored
        key = (run.name, run.version, step.step, row, side)
        return self._cache.get(key, lambda: self._draw(run, step, row, side))

    def _draw(self, run: LogRun, step: StepRows, row: int, side: int) -> bytes:
        sources = self._sources(run)
        if sources is None or step.step not in run.predictions:
            return b""
        if step.step in run.changed and "dataset" in run.predictions[step.step].run.transform:
            return b""  # its images have no names that would tell whether this is still the same one
        place, ref = int(step.numbers("id")[row]), step.value("image", row) or ""
        with self._decoders:
            picture = sources.open_image(step.step, place, ref, enough=side)
            return b"" if picture is None else encode_picture(picture, side)


def encode_picture(picture: Image.Image, side: int) -> bytes:
    """Return a picture as PNG or JPEG, reduced so that its longest side is at most `side` pixels."""
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    if max(picture.size) <= MAX_PNG_SIDE:
        picture.save(encoded, "PNG")
    else:
        picture.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def _open_sources(run: LogRun) -> SourceImages | None:
    steps = tuple(run.predictions.values())
    return SourceImages(steps, run.image_root) if steps else None


def _open_thumbnails(run: LogRun) -> ThumbnailFile | None:
    path = run.folder / THUMBNAILS_FILE
    return ThumbnailFile(path) if path.is_file() else None
