"""Rows of a manifest -> decoded pictures, each with its error if there is one. Knows no model and no runs on disk."""

import os
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline import images, sources, workers
from pipeline.errors import InputError, first_line
from pipeline.predictions import hash64

X = TypeVar("X")


@dataclass(frozen=True)
class Loaded:
    """One row of a manifest, read and decoded."""

    pixels: NDArray[np.uint8] | None  # [height, width, channels], None if there is an error
    error: str | None
    seconds: float
    digest: int | None = None
    length: int | None = None
    properties: images.Properties | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Loader:
    """Reads rows of one manifest; safe on several threads."""

    manifest: sources.Manifest
    shape: images.Shape
    thumbnail: int = 0
    """Longest side of the thumbnails, 0 for none."""
    timeout: float = 60.0
    """Seconds that one row may take."""

    def first(self) -> NDArray[np.uint8]:
        """The first picture that can be read, whose size all must have. Raises InputError if none can be read."""
        error = ""
        one_by_one = ((row, [row]) for row in range(len(self.manifest)))  # it is nearly always the first
        for row, (loaded,) in self.stream(one_by_one, None, threads=1, ahead=1):
            if loaded.pixels is not None:
                return loaded.pixels
            error = error or f"{self.manifest.image[row]}: {loaded.error}"
        raise InputError(f"none of the {len(self.manifest)} images can be read; the first, {error}")

    def stream(
        self, chunks: Iterable[tuple[X, Sequence[int]]], size: tuple[int, ...] | None, threads: int, ahead: int
    ) -> Generator[tuple[X, list[Loaded]], None, None]:
        """`load` on threads, in order, a few rows at a time; each few have a name to find them by.

        A row that takes longer than `timeout` is an error. The few that it is among are tried again one at a time, so
        that neither its neighbours nor the rows of a process that was stopped for a while are lost with it.
        """

        def load(chunk: tuple[X, Sequence[int]]) -> tuple[X, list[Loaded]]:
            name, rows = chunk
            return name, self.chunk(rows, size)

        def again(chunk: tuple[X, Sequence[int]]) -> tuple[X, list[Loaded]]:
            name, rows = chunk
            late = Loaded(None, f"TimeoutError: not read within {self.timeout:g} seconds", self.timeout)
            patience = workers.Patience[int, Loaded](self.timeout, lambda _: late)
            return name, list(workers.in_order(lambda row: self.load(row, size), rows, 1, patience=patience))

        return workers.in_order(load, chunks, threads, ahead, workers.Patience(self.timeout, again))

    def chunk(self, rows: Sequence[int], size: tuple[int, ...] | None) -> list[Loaded]:
        """`load` of each of these rows."""
        return [self.load(row, size) for row in rows]

    def load(self, row: int, size: tuple[int, ...] | None) -> Loaded:
        """Read and decode one image; whatever is wrong with it, and another size than `size`, becomes its error."""
        began = time.perf_counter()
        digest = length = found = small = None
        try:
            encoded = sources.read(self.manifest.root, self.manifest.image[row].as_py())
            digest, length = hash64(encoded), len(encoded)
            picture = images.open_image(encoded, self.shape.channels, self.shape.exif)
            found = images.properties(picture)
            if self.thumbnail:
                small = images.jpeg(picture, self.thumbnail)
            pixels = images.pixels(images.resized(picture, self.shape))
            if size is not None and pixels.shape != size:
                raise ValueError(
                    f"picture is {pixels.shape[0]}×{pixels.shape[1]} (height×width), the first is {size[0]}×{size[1]}: "
                    "use --resize HxW, or --resize N with --crop N"
                )
        except (
            Exception
        ) as error:  # a picture file is untrusted, and Pillow's decoders raise no closed set of exceptions
            return Loaded(None, reason(error), time.perf_counter() - began, digest, length, found, small)
        return Loaded(pixels, None, time.perf_counter() - began, digest, length, found, small)


def reason(error: Exception) -> str:
    """Why an image could not be read: the same words on every machine, without paths or addresses."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__}: {os.strerror(error.errno)}"
    if type(error).__name__ == "UnidentifiedImageError":
        return "UnidentifiedImageError: not a picture that Pillow can read"
    return f"{type(error).__name__}: {first_line(error)}"
