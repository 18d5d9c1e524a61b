"""Loads the rows of a manifest: reads, decodes and preprocesses images, each with its error if there is one.

It knows nothing of models, or of runs on disk.
"""

import functools
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard import user_code
from predboard.config import DataConfig, InferConfig
from predboard.errors import InputError, first_line
from predboard.images import datasets, decode, sources
from predboard.images.class_names import read_classes
from predboard.images.decode import Content, ImageProperties
from predboard.images.label_items import ItemLabels
from predboard.images.label_lists import LabelOptions
from predboard.images.loading_processes import LoadingProcesses
from predboard.images.manifest import Manifest, SourceOptions
from predboard.images.preprocessing import Preprocessing, Recipe, resolve
from predboard.parallel.threads import ItemTimeout, ordered_map
from predboard.predictions.schema import hash64
from predboard.storage.file_systems import StorageError
from predboard.storage.paths import MAX_READ_GB
from predboard.user_code import UserObject

X = TypeVar("X")

_NICE = 2
"""Threads that load give way to the one of the model by so much: it cannot catch up, and they wait whenever they are
far enough ahead of it."""

THUMBNAIL_PIXELS = 196
"""Longest side of a dataset's thumbnails by default: the size of a tile of stage two."""


@dataclass(frozen=True)
class LoadedImage:
    """Holds one row of a manifest, read and decoded. A row that fails has whatever was known before it failed."""

    pixels: NDArray[Any] | None = None
    """uint8 [height, width, channels], or float32 [channels, height, width] ready for the model; None if there is an
    error."""
    error: str | None = None
    seconds: float = 0.0
    processor_seconds: float = 0.0
    """What of these the thread was at work, not waiting for files, storage or other threads."""
    digest: int | None = None
    """64-bit hash of the encoded bytes, or of a dataset's image."""
    length: int | None = None
    """Bytes of the encoded image; None for a dataset."""
    properties: ImageProperties | None = None
    thumbnail: bytes | None = None
    """A JPEG file."""
    label: int | ItemLabels | None = None
    """The label that a dataset's item gives, -1 if it is none of the classes; None where only the manifest has one."""


@dataclass(frozen=True)
class Thumbnails:
    """Says how thumbnails are made."""

    longest: int = 0
    """Pixels of the longest side; 0 for no thumbnails."""
    bands: tuple[int, ...] = ()
    """Channels that are red, green and blue; by default see `decode.select_bands`."""
    value_range: tuple[float, float] | None = None
    """Floats that are drawn black and white; an image with more extreme values widens it. None for each its own."""


@dataclass(frozen=True)
class Loader:
    """Loads rows of one manifest; safe on several threads if the user's own code is."""

    manifest: Manifest
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    timeout: float = 60.0
    """Seconds that one row may take."""
    processes: int = 0
    """Processes that load instead of threads, for user code that holds Python's lock."""
    max_read_gb: float = MAX_READ_GB
    """Gigabytes that an encoded image, or what has to be read with it, may take in memory."""
    ready: dict[int, LoadedImage] = field(default_factory=dict, compare=False, repr=False)
    """Rows that were loaded before, by this loader or an equal one; each is handed out once."""

    def without_thumbnails(self) -> "Loader":
        """Return a loader of the same rows that makes no thumbnails."""
        return replace(self, thumbnails=replace(self.thumbnails, longest=0))

    def record(self) -> dict[str, Any]:
        """Return what decides the pixels, as the predictions' footer stores it."""
        record = {**asdict(self.preprocessing.decoding), "source": self.preprocessing.source}
        if self.manifest.is_dataset:
            record |= {"dataset": self.manifest.dataset.name, "dataset_code": self.manifest.dataset.code}
        if function := self.preprocessing.function:
            record |= {"function": function.name, "function_code": function.code}
        return record

    def stream(
        self, chunks: Iterable[tuple[X, Sequence[int]]], like: NDArray[Any] | None, workers: int, ahead: int
    ) -> Generator[tuple[X, list[LoadedImage]], None, None]:
        """Load chunks of rows on threads or processes, in order.

        A row that takes longer than `timeout` becomes an error. The other rows of its chunk are loaded again one at a
        time, so that they are not lost with it, nor with a process that was stopped for a while.

        Args:
            chunks: (name, rows); the name comes back with the loaded rows.
            like: pixels that all rows must agree with in shape and type; None for any.
            workers: threads that load; with `processes`, as many threads wait for these instead.
            ahead: chunks that are begun before their turn.
        """

        def load(chunk: tuple[X, Sequence[int]]) -> tuple[X, list[LoadedImage]]:
            name, rows = chunk
            if pool is None or pool.hung == self.processes:
                return name, self.load_rows(rows, like)
            return name, pool.load_rows(rows)

        def load_slowly(chunk: tuple[X, Sequence[int]]) -> tuple[X, list[LoadedImage]]:
            name, rows = chunk
            if pool is not None:
                pool.hung = min(pool.hung + 1, self.processes)
            late = LoadedImage(error=f"TimeoutError: not read within {self.timeout:g} seconds", seconds=self.timeout)
            patience = ItemTimeout[int, LoadedImage](self.timeout, lambda _: late)
            return name, list(ordered_map(lambda row: self.load(row, like), rows, 1, timeout=patience))

        load_rows = functools.partial(self.load_rows, like=like)
        pool = LoadingProcesses(load_rows, self.processes) if self.processes else None
        try:
            with decode.silence_pillow():
                patience = ItemTimeout(self.timeout, load_slowly)
                yield from ordered_map(load, chunks, self.processes or workers, ahead, patience, nice=_NICE)
        finally:
            if pool is not None:
                pool.end()

    def load_rows(self, rows: Sequence[int], like: NDArray[Any] | None) -> list[LoadedImage]:
        """Load each of these rows, see `load`."""
        return [self.load(row, like) for row in rows]

    def load(self, row: int, like: NDArray[Any] | None) -> LoadedImage:
        """Load one row; whatever is wrong with it is its error, and so is another shape or type than that of `like`."""
        if (ready := self.ready.pop(row, None)) is not None:
            return ready
        began, at_work = time.perf_counter(), time.thread_time()
        loaded = LoadedImage()
        try:
            for loaded in self._load_in_stages(row):  # noqa: B007  the last stage that was reached is the result
                pass
            if like is not None and loaded.pixels is not None:
                _check_like(loaded.pixels, like)
        except Exception as error:  # untrusted files and the user's own code may raise anything
            loaded = replace(loaded, pixels=None, error=describe_failure(error))
        seconds, processor_seconds = time.perf_counter() - began, time.thread_time() - at_work
        return replace(loaded, seconds=seconds, processor_seconds=processor_seconds)

    def _load_in_stages(self, row: int) -> Iterator[LoadedImage]:
        """Yield what is known of a row after each stage, so that a row that fails keeps what came before."""
        content: Content
        decoding = self.preprocessing.decoding
        if not self.manifest.is_dataset:
            encoded = sources.read(self.manifest.root, self.manifest.image[row].as_py(), self.max_read_gb)
            loaded = LoadedImage(digest=hash64(encoded), length=len(encoded))
            yield loaded
            content = shown = decode.decode_image(encoded, decoding.channels, decoding.exif)
        else:
            assert self.manifest.dataset_index is not None  # noqa: S101  every dataset's manifest has it
            item = self.manifest.dataset.load_item(int(self.manifest.dataset_index[row]))
            content, shown = item.image, item.image if item.preview is None else item.preview
            loaded = LoadedImage(digest=hash64(np.ascontiguousarray(content).data), label=item.label)
            yield loaded
        loaded = replace(loaded, properties=decode.measure_properties(content))
        yield loaded
        if self.thumbnails.longest:
            # a preview that the dataset made itself may have any range
            limits = self.thumbnails.value_range if shown is content else None
            preview = decode.make_preview(shown, self.thumbnails.bands, limits)
            loaded = replace(loaded, thumbnail=decode.encode_jpeg(preview, self.thumbnails.longest))
            yield loaded
        yield replace(loaded, pixels=decode.to_pixels(self._call_function(content), decoding))

    def _call_function(self, content: Content) -> Content:
        """Return what the user's or the library's function makes of an image; the image itself without one."""
        function, channels = self.preprocessing.function, self.preprocessing.decoding.channels
        if function is None:
            return content
        if self.preprocessing.function_of_library:
            if not isinstance(content, Image.Image):
                if content.dtype != np.uint8:  # ready for the model
                    return content
                if content.shape[2] not in (1, 3):
                    raise ValueError(f"{function.name} takes images of 1 or 3 channels, not of {content.shape[2]}")
            content = decode.make_preview(content)
        elif not isinstance(content, Image.Image):
            raise ValueError("--transform takes Pillow pictures, but the dataset gives arrays or tensors")
        return datasets.to_content(function.value(decode.convert_mode(content, channels)))


def _check_like(pixels: NDArray[Any], like: NDArray[Any]) -> None:
    if pixels.dtype != like.dtype:
        raise ValueError(f"image is {pixels.dtype}, the first is {like.dtype}; expected one type")
    if pixels.shape == like.shape:
        return
    (height, width, channels), first = image_size(pixels), image_size(like)
    if (height, width) == first[:2]:
        raise ValueError(f"image has {channels} channels, the first has {first[2]}; expected one number")
    raise ValueError(
        f"image is {height}×{width} (height×width), the first is {first[0]}×{first[1]}: use --resize HxW, or "
        "--resize N with --crop N"
    )


def image_size(pixels: NDArray[Any]) -> tuple[int, int, int]:
    """Return height, width and channels of uint8 [height, width, channels] or floats [channels, height, width]."""
    shape = pixels.shape if pixels.dtype == np.uint8 else (*pixels.shape[1:], pixels.shape[0])
    return shape[0], shape[1], shape[2]


def open_manifest(
    config: DataConfig,
    dataset: datasets.DatasetSource | None = None,
    classes: tuple[str, ...] = (),
    sets: LabelOptions | None = None,
) -> Manifest:
    """Return the manifest of what --data names, or of a dataset.

    Args:
        config: the flags.
        dataset: a dataset object, in place of --data.
        classes: class names, used if --classes names no file.
        sets: how several labels of an image are written; None where each image has one label.

    Raises InputError if the data cannot be read.
    """
    options = SourceOptions(
        config.image_column,
        config.label_column,
        config.key_column,
        config.image_root,
        classes if config.classes is None else read_classes(config.classes),
        config.max_read_gb,
        sets,
    )
    if dataset is None and user_code.names_an_object(config.data):
        dataset = datasets.open_dataset(config.data)
    if dataset is None:
        return sources.open_source(config.data, options).limit(config.limit)
    return datasets.make_manifest(dataset, options).limit(config.limit)


def make_loader(config: InferConfig, manifest: Manifest, recipe: Recipe | None = None) -> Loader:
    """Return the loader that flags and the library's recipe ask for.

    Args:
        config: the flags, which come first.
        manifest: the rows.
        recipe: the model library's recommendation.

    Raises InputError if --transform names no function, or for flags that cannot be combined with the recipe.
    """
    preprocessing = resolve(config, recipe)
    if config.transform is not None:
        preprocessing = replace(preprocessing, function=_open_transform(config.transform))
    longest = config.thumbnails
    if longest is None:
        longest = THUMBNAIL_PIXELS if manifest.is_dataset else 0
    thumbnails = Thumbnails(longest, config.preview_bands)
    return Loader(manifest, preprocessing, thumbnails, config.timeout, config.processes, config.max_read_gb)


def _open_transform(spec: str) -> UserObject:
    function = user_code.load_object(
        spec, "transform", "FILE.py:FUNCTION, a function of a Pillow picture, for example my_data.py:prepare"
    )
    if not callable(function.value):
        raise InputError(f"{function.name} is a {type(function.value).__name__}; expected a function of a picture")
    return function


def describe_failure(error: Exception) -> str:
    """Return why an image could not be read, in words that are the same on every machine: no paths, no addresses."""
    if isinstance(error, StorageError):
        return f"StorageError: {error.reason}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__}: {os.strerror(error.errno)}"
    if type(error).__name__ == "UnidentifiedImageError":
        return "UnidentifiedImageError: not an image that Pillow can read"
    return f"{type(error).__name__}: {first_line(error)}"
