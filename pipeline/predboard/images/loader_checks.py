"""Loads a few rows before a run: the first image, the range of floats, and whether a dataset repeats itself.

It knows nothing of models, or of runs on disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images import decode
from predboard.images.loader import LoadedImage, Loader
from predboard.predictions.sampling import Salt, mix

REPEATED_ROWS = 8
"""Rows of a dataset that are loaded twice, to see whether they are the same each time."""

RANGE_ROWS = 32
"""Rows that the range of floats is taken from."""

MAX_STORAGE_ERRORS = 20
"""Images that storage may refuse before none is tried any more: each takes a round trip."""


def load_first(loader: Loader) -> NDArray[Any]:
    """Return the pixels of the first image that can be read; all others must have their shape and type.

    Raises InputError if no image can be read.
    """
    error, refused = "", 0
    rows = range(len(loader.manifest))  # nearly always the first one can be read
    for row, loaded in _load_one_by_one(replace(loader, processes=0), rows, threads=1, ahead=1):
        if loaded.pixels is not None:
            return np.array(loaded.pixels)  # a dataset's array may be read-only, or a view that runs backwards
        error = error or f"{loader.manifest.image[row]}: {loaded.error}"
        refused += str(loaded.error).startswith("StorageError")
        if refused == MAX_STORAGE_ERRORS:
            raise InputError(f"the first {MAX_STORAGE_ERRORS} images cannot be read; the first error is {error}")
    none = f"none of the {len(loader.manifest)} images can be read; the first error is {error}"
    if loader.manifest.dataset is None and ": FileNotFoundError:" in error:  # a list's paths begin in another folder
        none += f"; they are looked for in {loader.manifest.root}: --image-root names another folder"
    raise InputError(none)


def with_value_range(loader: Loader, threads: int) -> Loader:
    """Return the loader with the value range that thumbnails of floats share, measured over a sample of rows.

    Stretched by itself, a dark image would not look dark.
    """
    rows = _choose_rows(loader, RANGE_ROWS)
    loaded = _load_one_by_one(_pixels_only(loader), rows, threads, RANGE_ROWS)
    floats = [row.pixels for _, row in loaded if row.pixels is not None and row.pixels.dtype != np.uint8]
    if not floats:
        return loader
    values = np.concatenate([decode.select_bands(pixels, loader.thumbnails.bands).ravel() for pixels in floats])
    return replace(loader, thumbnails=replace(loader.thumbnails, value_range=decode.value_range(values)))


def check_repeatable(loader: Loader, threads: int) -> str:
    """Load a sample of a dataset twice. Return a warning if an item differs from one time to the next, else "".

    Raises InputError if items are the same each time, but not where several threads load them.
    """
    rows = _choose_rows(loader, REPEATED_ROWS)

    def digests(threads: int) -> list[int | None]:
        return [row.digest for _, row in _load_one_by_one(_pixels_only(loader), rows * 2, threads, 2 * len(rows))]

    alone = digests(1)
    changed = next((row for row, a, b in zip(rows, alone, alone[len(rows) :], strict=False) if a != b), None)
    if changed is not None:
        return (
            f"item {loader.manifest.image[changed]} differs each time it is loaded: a random transform, as for "
            "training? Give the dataset the transform of validation"
        )
    if loader.processes or threads == 1:
        return ""
    together = digests(threads)
    if together != alone:
        wrong = next(row for row, a, b in zip(rows * 2, alone, together, strict=True) if a != b)
        raise InputError(
            f"item {loader.manifest.image[wrong]} differs when {threads} threads load the dataset, which may share a "
            f"file or a buffer: open it in __getitem__, or use --processes {threads}, or --workers 1"
        )
    return ""


def _choose_rows(loader: Loader, rows: int) -> list[int]:
    return list(map(int, np.argsort(mix(loader.manifest.key, Salt.LOADER_CHECK), kind="stable")[:rows]))


def _pixels_only(loader: Loader) -> Loader:
    """Return a loader that makes no thumbnails and uses this process."""
    return replace(loader.without_thumbnails(), processes=0)


def _load_one_by_one(
    loader: Loader, rows: Sequence[int], threads: int, ahead: int
) -> Iterator[tuple[int, LoadedImage]]:
    for row, (loaded,) in loader.stream(((row, [row]) for row in rows), None, threads, ahead):
        yield row, loaded
