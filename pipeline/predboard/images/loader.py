"""Rows of a manifest -> decoded pictures, each with its error if there is one. Knows no model and no runs on disk."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard import user_code
from predboard.config import InferConfig
from predboard.errors import InputError, first_line
from predboard.images import datasets, decode, sources
from predboard.images.preprocessing import Recipe, resolve
from predboard.parallel.threads import ItemTimeout, ordered_map
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import hash64
from predboard.storage.remote import StorageError

X = TypeVar("X")

STEADY, SEEN = 8, 32
"""Rows of a dataset that are loaded again, to see whether they stay the same; those that say what is black and what is
white in floats; and by which hash both are chosen."""

REFUSED = 20
"""Images that storage refuses, after which no other is tried for the first picture: each takes a round trip."""

THUMBNAIL = 196
"""Longest side of a dataset's thumbnails, where nothing else was asked for: what a tile of stage two shows."""


@dataclass(frozen=True)
class LoadedImage:
    """One row of a manifest, read and decoded."""

    pixels: NDArray[Any] | None
    """uint8 [height, width, channels], or float32 [channels, height, width] ready for the model; None if there is an
    error."""
    error: str | None
    seconds: float
    digest: int | None = None
    length: int | None = None
    properties: decode.ImageProperties | None = None
    thumbnail: bytes | None = None
    label: int | None = None
    """What a dataset's item says, -1 if that is no class; None where only the manifest says it."""


@dataclass(frozen=True)
class Loader:
    """Reads rows of one manifest; safe on several threads if the user's own code is."""

    manifest: sources.Manifest
    shape: decode.DecodeOptions
    thumbnail: int = 0
    """Longest side of the thumbnails, 0 for none."""
    timeout: float = 60.0
    """Seconds that one row may take."""
    transform: user_code.UserObject | None = None
    """The user's own function of a decoded picture."""
    bands: tuple[int, ...] = ()
    """Channels that a thumbnail shows."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """What a batch of uint8 is normalised by, as x/255."""
    source: str = ""
    """Where the shape and these come from."""
    own: user_code.UserObject | None = None
    """The function of the model's library, of a picture, where a shape cannot say the same."""
    processes: int = 0
    """That load instead of threads, for code that holds Python's lock."""
    limits: tuple[float, float] | None = None
    """What is black and what is white on thumbnails of floats, or darker and brighter where one needs it."""

    def record(self) -> dict[str, Any]:
        """What decides the pixels, as the predictions say it."""
        found = {**asdict(self.shape), "source": self.source}
        if self.manifest.dataset is not None:
            found |= {"dataset": self.manifest.dataset.name, "dataset_code": self.manifest.dataset.code}
        if function := self.transform or self.own:
            found |= {"function": function.name, "function_code": function.code}
        return found

    def first(self) -> NDArray[Any]:
        """The first picture that can be read, whose size and type all must have. Raises InputError if none can be."""
        error, refused = "", 0
        one_by_one = ((row, [row]) for row in range(len(self.manifest)))  # it is nearly always the first
        for row, (loaded,) in replace(self, processes=0).stream(one_by_one, None, threads=1, ahead=1):
            if loaded.pixels is not None:
                return np.array(loaded.pixels)  # a dataset's array may be read-only, or a view that runs backwards
            error = error or f"{self.manifest.image[row]}: {loaded.error}"
            refused += str(loaded.error).startswith("StorageError")
            if refused == REFUSED:
                raise InputError(f"the first {REFUSED} images cannot be read; {error}")
        raise InputError(f"none of the {len(self.manifest)} images can be read; the first, {error}")

    def _some(self, rows: int) -> list[int]:
        return list(map(int, np.argsort(mix(self.manifest.key, Salt.LOADER_CHECK), kind="stable")[:rows]))

    def with_value_range(self, threads: int) -> "Loader":
        """With the `limits` of floats, from some rows together: alone, a dark picture would not look dark."""
        one_by_one = ((row, [row]) for row in self._some(SEEN))
        stream = replace(self, processes=0, thumbnail=0).stream(one_by_one, None, threads, SEEN)
        found = [row.pixels for _, (row,) in stream if row.pixels is not None and row.pixels.dtype != np.uint8]
        if not found:
            return self
        values = [decode.select_bands(pixels, self.bands).ravel() for pixels in found]
        return replace(self, limits=decode.value_range(np.concatenate(values)))

    def unsteady(self, threads: int) -> str:
        """Load some rows of a dataset again: a warning if they are not the same each time, else empty.

        Raises InputError if they are the same, but not where several threads load them.
        """
        rows = self._some(STEADY)

        def digests(threads: int) -> list[int | None]:
            here = replace(self, processes=0, thumbnail=0)  # the item is what counts
            one_by_one = ((row, [row]) for row in rows * 2)
            return [loaded.digest for _, (loaded,) in here.stream(one_by_one, None, threads, 2 * len(rows))]

        alone = digests(1)
        another = next((row for row, a, b in zip(rows, alone, alone[len(rows) :], strict=False) if a != b), None)
        if another is not None:
            return (
                f"item {self.manifest.image[another]} is not the same when it is loaded again: a random transform, as "
                "for training? Give the dataset the transform of validation"
            )
        if self.processes or threads == 1:
            return ""
        together = digests(threads)
        if together != alone:
            wrong = next(row for row, a, b in zip(rows * 2, alone, together, strict=True) if a != b)
            raise InputError(
                f"item {self.manifest.image[wrong]} is another one when {threads} threads load the dataset: do they "
                f"share a file or a buffer? Open it in __getitem__, or use --processes {threads}, or --workers 1"
            )
        return ""

    def stream(
        self, chunks: Iterable[tuple[X, Sequence[int]]], like: NDArray[Any] | None, threads: int, ahead: int
    ) -> Generator[tuple[X, list[LoadedImage]], None, None]:
        """`load` on threads, in order, a few rows at a time; each few have a name to find them by.

        With `processes`, as many threads wait for these, and `threads` says nothing.

        A row that takes longer than `timeout` is an error. The few that it is among are tried again one at a time, so
        that neither its neighbours nor the rows of a process that was stopped for a while are lost with it.
        """

        def load(chunk: tuple[X, Sequence[int]]) -> tuple[X, list[LoadedImage]]:
            name, rows = chunk
            return name, self.chunk(rows, like) if pool is None or pool.hung == self.processes else pool.chunk(rows)

        def again(chunk: tuple[X, Sequence[int]]) -> tuple[X, list[LoadedImage]]:
            name, rows = chunk
            if pool is not None:
                pool.hung = min(pool.hung + 1, self.processes)
            late = LoadedImage(None, f"TimeoutError: not read within {self.timeout:g} seconds", self.timeout)
            patience = ItemTimeout[int, LoadedImage](self.timeout, lambda _: late)
            return name, list(ordered_map(lambda row: self.load(row, like), rows, 1, timeout=patience))

        pool = _Processes(self, like) if self.processes else None
        threads = self.processes or threads
        try:
            with decode.silence_pillow():
                yield from ordered_map(load, chunks, threads, ahead, ItemTimeout(self.timeout, again))
        finally:
            if pool is not None:
                pool.end()

    def chunk(self, rows: Sequence[int], like: NDArray[Any] | None) -> list[LoadedImage]:
        """`load` of each of these rows."""
        return [self.load(row, like) for row in rows]

    def load(self, row: int, like: NDArray[Any] | None) -> LoadedImage:
        """Load one image; whatever is wrong with it, and another size or type than that of `like`, is its error."""
        began = time.perf_counter()
        facts: dict[str, Any] = {}
        pixels = error = None
        try:
            pixels = self._pixels(row, facts)
            if like is not None:
                _check(pixels, like)
        except Exception as wrong:  # of an untrusted file, or of the user's own code: there is no closed set
            pixels, error = None, describe_failure(wrong)
        return LoadedImage(pixels, error, time.perf_counter() - began, **facts)

    def _pixels(self, row: int, facts: dict[str, Any]) -> NDArray[Any]:
        """What goes into the batch; whatever is found on the way is put into `facts`, for rows that fail as well."""
        content: decode.Content
        if self.manifest.place is None:
            encoded = sources.read(self.manifest.root, self.manifest.image[row].as_py())
            facts |= {"digest": hash64(encoded), "length": len(encoded)}
            content = shown = decode.decode_image(encoded, self.shape.channels, self.shape.exif)
        else:
            item = self.manifest.dataset.item(int(self.manifest.place[row]))
            content, shown = item.image, item.image if item.preview is None else item.preview
            facts |= {"digest": hash64(np.ascontiguousarray(content).data), "label": item.label}
        facts["properties"] = decode.measure_properties(content)
        if self.thumbnail:
            limits = self.limits if shown is content else None  # the dataset's own preview may be anything
            facts["thumbnail"] = decode.encode_jpeg(decode.make_preview(shown, self.bands, limits), self.thumbnail)
        if self.transform is not None:
            if not isinstance(content, Image.Image):
                raise ValueError("--transform is called with Pillow pictures; the dataset gives arrays or tensors")
            content = datasets.to_content(self.transform.value(decode.convert_mode(content, self.shape.channels)))
        if self.own is not None and (isinstance(content, Image.Image) or content.dtype == np.uint8):
            if not isinstance(content, Image.Image) and content.shape[2] not in (1, 3):
                raise ValueError(f"{self.own.name} takes pictures of 1 or 3 channels, not of {content.shape[2]}")
            content = datasets.to_content(
                self.own.value(decode.convert_mode(decode.make_preview(content), self.shape.channels))
            )
        return decode.to_pixels(content, self.shape)


class _Processes:
    """Processes that load rows, each with a copy of the loader."""

    def __init__(self, loader: Loader, like: NDArray[Any] | None) -> None:
        # Spawned: a fork would copy the locks of threads that it does not have.
        spawn = multiprocessing.get_context("spawn")
        if sys.platform != "win32":  # which has none
            resource_tracker.ensure_running()  # it would open this thread's ears in the middle of `_deaf`
        self._pool = ProcessPoolExecutor(loader.processes, spawn, _begin, (loader, like))
        self.hung = 0
        """Processes that never came back; when it is all of them, threads must do."""

    def chunk(self, rows: Sequence[int]) -> list[LoadedImage]:
        """`Loader.chunk` in one of them. Raises InputError if it died."""
        try:
            with _deaf():  # it starts a process where one is wanting
                loaded = self._pool.submit(_chunk, list(rows))
            return loaded.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a process that loads the dataset could not start or was killed, for want of memory perhaps: fewer "
                "--processes, or --processes 0 for threads; the same command goes on where it stopped"
            ) from error

    def end(self) -> None:
        """End them, also one that hangs."""
        running = list((self._pool._processes or {}).values())  # Python 3.14 has kill_workers for this
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        for process in running:
            process.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started meanwhile hears no Ctrl-C, which would print a traceback from each: it is ended by this
    one.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_HERE: list[tuple[Loader, NDArray[Any] | None]] = []
"""In a process of `_Processes`, what it loads with: there is no other way to give a worker something once."""


def _begin(loader: Loader, like: NDArray[Any] | None) -> None:
    if torch := sys.modules.get("torch"):  # which the dataset imported; one thread, as there are several processes
        torch.set_num_threads(1)
    _HERE.append((loader, like))
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End when the process that started this one has, also if it was killed: this one would wait for rows for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _chunk(rows: list[int]) -> list[LoadedImage]:
    ((loader, like),) = _HERE
    with decode.silence_pillow():
        return loader.chunk(rows, like)


def _check(pixels: NDArray[Any], like: NDArray[Any]) -> None:
    if pixels.dtype != like.dtype:
        raise ValueError(f"image is {pixels.dtype}, the first is {like.dtype}; expected one type")
    if pixels.shape == like.shape:
        return
    (height, width, channels), first = image_size(pixels), image_size(like)
    if (height, width) == first[:2]:
        raise ValueError(f"image has {channels} channels, the first has {first[2]}; expected one number")
    raise ValueError(
        f"picture is {height}×{width} (height×width), the first is {first[0]}×{first[1]}: use --resize HxW, or "
        "--resize N with --crop N"
    )


def image_size(pixels: NDArray[Any]) -> tuple[int, int, int]:
    """Height, width, channels of one picture."""
    shape = pixels.shape if pixels.dtype == np.uint8 else (*pixels.shape[1:], pixels.shape[0])
    return shape[0], shape[1], shape[2]


def open_manifest(
    config: InferConfig, dataset: datasets.DatasetSource | None = None, classes: tuple[str, ...] = ()
) -> sources.Manifest:
    """The manifest of what --data names, or of a dataset. Raises InputError if it cannot be read."""
    options = sources.SourceOptions(
        config.image_column,
        config.label_column,
        config.key_column,
        config.image_root,
        classes if config.classes is None else sources.read_classes(config.classes),
    )
    if dataset is None and user_code.names_an_object(config.data):
        dataset = datasets.open_dataset(config.data)
    found = sources.open_source(config.data, options) if dataset is None else datasets.make_manifest(dataset, options)
    return found.limit(config.limit)


def make_loader(config: InferConfig, manifest: sources.Manifest, recipe: Recipe | None = None) -> Loader:
    """How these rows become what the model takes.

    Args:
        config: its flags come first.
        manifest: the rows.
        recipe: of the model's library.

    Raises InputError if --transform is no function of a file, or for flags that do not go with the recipe.
    """
    preparation = resolve(config, recipe)
    thumbnail = config.thumbnails
    if thumbnail is None:
        thumbnail = 0 if manifest.place is None else THUMBNAIL
    function = None
    if config.transform is not None:
        function = user_code.load_object(
            config.transform, "transform", "FILE.py:FUNCTION, of a Pillow picture, for example my_data.py:prepare"
        )
        if not callable(function.value):
            raise InputError(f"{function.name} is a {type(function.value).__name__}; expected a function of a picture")
    return Loader(
        manifest,
        preparation.shape,
        thumbnail,
        config.timeout,
        function,
        config.preview_bands,
        preparation.mean,
        preparation.std,
        preparation.source,
        preparation.function,
        config.processes,
    )


def describe_failure(error: Exception) -> str:
    """Why an image could not be read: the same words on every machine, without paths or addresses."""
    if isinstance(error, StorageError):
        return f"StorageError: {error.reason}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__}: {os.strerror(error.errno)}"
    if type(error).__name__ == "UnidentifiedImageError":
        return "UnidentifiedImageError: not a picture that Pillow can read"
    return f"{type(error).__name__}: {first_line(error)}"
