"""Finds the source images of rows and draws them as tiles with text. It knows no panels and no event files."""

import contextlib
import functools
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from PIL import Image

from predboard.config import Exif
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.tiles import (
    MIN_SOURCE_SIDE_PX,
    SHEET_PICTURE_PX,
    draw_contact_sheet,
    draw_sprite,
    fit_picture,
)
from predboard.formatting import either, plural, shared_start
from predboard.images import decode, sources
from predboard.images.manifest import split_ref
from predboard.images.plain_files import PlainFile, plain_file
from predboard.images.shared_cache import read_storage_anew
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import ItemTimeout, ordered_map
from predboard.predictions.tile_labels import name_labels
from predboard.storage.paths import AnyPath, is_inside, is_uri, parse_path
from predboard.storage.remote import MAX_CONNECTIONS
from predboard.storage.runs import Step, read_values
from predboard.storage.source_folders import SourceFolder
from predboard.summaries import EncodedImages, Projector, Summary, Tiles
from predboard.visualization import events
from predboard.visualization.absent_images import ANSWER_SECONDS, AbsentImages, note_absent
from predboard.visualization.row_tiles import draw_row

FITTED_CACHE_IMAGES = 512
"""Fitted images in memory, at most 115 kB each, because the same image is in many galleries and steps."""

SPRITE_SIDE_PIXELS = 4544
"""Side of the sprite with all images of the Projector, in pixels: 71 images of 64, so that 5,000 small ones keep their
own pixels. Browsers take up to 8,192."""

TASK_IMAGES = 32
"""Images of the Projector, and thumbnails, that a thread takes at a time: to pass one on costs as much as to find that
it is missing."""

PAGE_COLUMNS = 13
"""Images side by side on a page of 64: the page then has the shape of a card, in which its images are largest."""

SHEET_QUALITY = 80
"""JPEG quality of a page of images, which takes a quarter less than that of a tile."""

SMALL_BYTES, SMALL_PIXELS = 8192, 128
"""Bytes, or pixels of the longer side, up to which an image is opened by the thread that draws: reading and decoding
take a tenth of a millisecond, and to pass Python's lock to another thread and back takes as long. A JPEG of so many
pixels is always decoded whole."""

SLOW_READ_SECONDS, RECENT_READS = 0.001, 16
"""If half of the last reads took longer, as from a file system on a network, threads read side by side."""


Y = TypeVar("Y")


class ImageObserver(Protocol):
    """Takes images while they are open; called by many threads at once."""

    def enough(self, image: "ReadImage") -> int:
        """Return how many pixels of the shorter side it needs of an image."""
        ...

    def take(self, step: int, row: int, image: "ReadImage", pixels: Image.Image) -> None:
        """Take the image of a row, as it was read and decoded; it changes neither."""
        ...

    def fail(self, step: int, row: int) -> None:
        """Hear that the image of a row cannot be read."""
        ...


@dataclass
class ReadImage:
    """An image that was read and not decoded."""

    content: bytes
    exif: Exif

    @functools.cached_property
    def plain(self) -> PlainFile | None:
        """Its header, if it is a plain JPEG or PNG."""
        return plain_file(self.content)

    @property
    def is_small(self) -> bool:
        """Whether it takes no time to speak of to decode it."""
        return len(self.content) <= SMALL_BYTES or (self.plain is not None and max(self.plain[:2]) <= SMALL_PIXELS)

    def decode(self, enough: int | None = None) -> Image.Image:
        """Decode it to RGB, at least `enough` pixels large. Raises what `decode.decode_image` does."""
        plain = self.plain
        if plain and plain.jpeg_mode and max(plain[:2]) <= SMALL_PIXELS:
            # Pillow's own reading of the header takes as long as decoding so small an image.
            with contextlib.suppress(ValueError):  # it is damaged: what can be shown of it is found below
                pixels = Image.frombytes(plain.jpeg_mode, plain[:2], self.content, "jpeg", plain.jpeg_mode, "")
                return pixels if pixels.mode == "RGB" else pixels.convert("RGB")
        return decode.decode_image(self.content, exif=self.exif, enough=enough)


class SourceImages:
    """Opens the source images of a run's rows, or else the thumbnails that are stored with the predictions."""

    def __init__(
        self,
        steps: tuple[Step, ...],
        image_root: AnyPath | None,
        pool: ProcessPool | None = None,
        anywhere: bool = False,
    ) -> None:
        """Prepare to open images; none is opened yet.

        Args:
            steps: of one run.
            image_root: where the source images are now, if they were moved after inference.
            pool: processes that help to draw.
            anywhere: open images wherever their refs lead, and not only below the root of the run and `image_root`.
                Refs of predictions that others made may lead to any file of this machine.
        """
        read_storage_anew()
        self._steps = {step.step: step for step in steps}
        self._root, self._anywhere = image_root, anywhere
        # If all steps use the same images, they are cached under the first step.
        same = len({(s.run.root, s.run.transform.get("exif"), s.run.thumbnails) for s in steps}) == 1
        self._shared_step = steps[0].step if same and not steps[0].run.thumbnails else None
        self.missing: set[str] = set()  # references of images that were not found
        self.outside: set[str] = set()  # references of images that were not opened, because of where they lead
        self._any_opened, self._any_large = False, False
        self._read_seconds, self._read_count = [0.0] * RECENT_READS, itertools.count()
        self._answering: dict[str, bool] = {}
        self._absent_roots: set[str] = set()  # nothing is looked for below them
        self._asking = threading.Lock()
        self._fitted = functools.lru_cache(FITTED_CACHE_IMAGES)(self._fit)
        self._folders = functools.cache(SourceFolder)  # following links takes as long as decoding an image
        self._expected: dict[int, set[int]] = {number: set() for number in self._steps}
        self._thumbnails: dict[int, dict[int, bytes | None]] = {number: {} for number in self._steps}
        self.observer: ImageObserver | None = None
        """Gets the images of the Projector, which are those that most others would open again."""
        self._lock = threading.Lock()
        self._pool, self._drawing = pool, _Drawing(self)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)  # of all threads together

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[Step, ...], AnyPath | None, None, bool]]:
        """Pickle for another process, without the parts: they may be many, and only thumbnails are read from them."""
        steps = tuple(replace(step, parts=()) for step in self._steps.values())
        return type(self), (steps, self._root, None, self._anywhere)

    def encode(self, step: int, tiles: Tiles) -> EncodedImages:
        """Draw tiles, on this process or another of the pool.

        Tiles are PNG where the image was enlarged or is missing, and JPEG where it was reduced. This process alone
        draws images from object storage, because it limits the connections, and thumbnails, which are read together.
        """
        if (
            self._pool is None
            or not self._answers(self._root_of(step))
            or self._steps[step].run.thumbnails
            or self._any_remote(step, map(str, tiles.rows["image"]))
        ):
            return self.encode_locally(step, tiles)
        encoded, missing, outside = self._pool.call(self._drawing, (step, tiles))
        self.missing.update(missing)
        self.outside.update(outside)
        return encoded

    def waits(self, step: int, summary: Summary) -> bool:
        """Return whether a summary is drawn sooner on a thread of its own, as far as the images before tell.

        That is so if it waits for images that are large or slow to read, or if another process can draw it. All else
        waits for nothing but Python's lock, and is best drawn by the thread that has it.
        """
        rows = summary.source_rows
        if rows is None:
            return False
        remote = self._any_remote(step, map(str, rows["image"]))
        helped = self._any_opened and self._pool is not None and self._pool.has_others
        return self._takes_long() or helped or remote or bool(self._steps[step].run.thumbnails)

    def encode_locally(self, step: int, tiles: Tiles) -> EncodedImages:
        """Draw tiles on this process; see `encode`."""
        if tiles.sheet:
            return self._encode_sheet(step, tiles)
        run, rows, samples = self._steps[step].run, tiles.rows, []
        ids, refs = rows["id"].tolist(), [str(ref or "") for ref in rows["image"]]
        shared = shared_start(refs)
        for i, (image, is_exact) in enumerate(self.fitted(step, ids, refs)):
            drawn = draw_row(image, rows, i, run.classes, refs[i], shared)
            samples.append(events.encode_png(drawn) if is_exact else events.encode_jpeg(drawn))
        return EncodedImages(tiles.tag, WIDTH_PX, HEIGHT_PX, tuple(samples), tiles.description)

    def _encode_sheet(self, step: int, tiles: Tiles) -> EncodedImages:
        """Draw all images as one contact sheet."""
        rows, names = tiles.rows, self._steps[step].run.classes
        remote = self._any_remote(step, map(str, rows["image"]))
        of_rows = zip(rows["id"].tolist(), (str(ref or "") for ref in rows["image"]), strict=True)
        at = self._cache_step(step)
        opened = ordered_map(
            lambda row: self.open_image(at, *row, enough=2 * SHEET_PICTURE_PX),
            of_rows,
            MAX_CONNECTIONS if remote else 1,
        )
        pictures = list(zip(opened, *name_labels(rows, names), rows["right"].tolist(), strict=True))
        sheet = Image.fromarray(draw_contact_sheet(pictures, tiles.sheet, (), PAGE_COLUMNS))
        return EncodedImages(
            tiles.tag, sheet.width, sheet.height, (events.encode_jpeg(sheet, SHEET_QUALITY),), tiles.description
        )

    def fitted(self, step: int, ids: Sequence[int], refs: Sequence[str]) -> Iterator[tuple[Image.Image | None, bool]]:
        """Yield the images of some rows as tiles show them, and whether each has its own pixels and was not reduced.

        Args:
            step: of the rows.
            ids: of the rows.
            refs: references of their images.

        An image that is not found is None.
        """
        images = [(self._cache_step(step), row, ref) for row, ref in zip(ids, refs, strict=True)]
        if self._any_remote(step, refs):  # each costs a round trip, so they are opened in parallel
            yield from ordered_map(lambda image: self._fitted(*image), images, MAX_CONNECTIONS)
        else:
            yield from (self._fitted(*image) for image in images)

    def expect(self, summaries: Iterable[tuple[int, Summary]]) -> None:
        """Note the rows that will be drawn, so that their thumbnails are read together."""
        with self._lock:
            for step, summary in summaries:
                if summary.source_rows is not None:
                    self._expected[self._cache_step(step)].update(summary.source_rows["id"].tolist())

    def sprite(
        self, step: int, summary: Projector, threads: int, is_abandoned: Callable[[], bool] = lambda: False
    ) -> tuple[bytes, int]:
        """Draw the images of all points in a square grid for the Projector.

        Args:
            step: of the points.
            summary: the points.
            threads: how many open images.
            is_abandoned: returns whether the sprite is not wanted any more; no more images are opened then.

        Returns:
            The grid as JPEG, empty if no image was found, and the side of one image in pixels.
        """
        points = list(zip(summary.rows["id"].tolist(), summary.rows["image"].tolist(), strict=True))
        side = min(64, SPRITE_SIDE_PIXELS // math.ceil(math.sqrt(len(points))))

        def open_small(point: tuple[int, str | None]) -> Image.Image | None:
            if is_abandoned():
                return None

            def shrink(image: ReadImage) -> Image.Image:
                pixels = image.decode(max(side, self.observer.enough(image) if self.observer else 0))
                if self.observer:
                    self.observer.take(step, point[0], image, pixels)
                return fit_picture(pixels, side)[0]

            picture = self.use_image(self._cache_step(step), point[0], str(point[1] or ""), shrink)
            if picture is None and self.observer:
                self.observer.fail(step, point[0])
            return picture

        is_remote = self._any_remote(step, (str(ref or "") for _, ref in points))
        threads, size = (MAX_CONNECTIONS, 1) if is_remote else (threads, TASK_IMAGES)
        groups = (points[start : start + size] for start in range(0, len(points), size))

        def open_group(group: list[tuple[int, str | None]]) -> list[Image.Image | None]:
            return [open_small(point) for point in group]

        waits = is_remote or bool(self._steps[step].run.thumbnails)
        opened = ordered_map(
            open_group,
            groups,
            threads,
            at_once=lambda group: None if waits or self._takes_long() else open_group(group),
        )
        sprite = draw_sprite(itertools.chain.from_iterable(opened), len(points), side)
        return (b"" if sprite is None else events.encode_jpeg(sprite)), side

    def _root_of(self, step: int) -> str:
        return self._steps[step].run.root if self._root is None else str(self._root)

    def _any_remote(self, step: int, refs: Iterable[str]) -> bool:
        """Return whether any of the images is in object storage."""
        return is_uri(self._root_of(step)) or any(map(is_uri, refs))

    def _cache_step(self, step: int) -> int:
        """Return the step under which the images of a step are cached."""
        return step if self._shared_step is None else self._shared_step

    def _fit(self, step: int, row: int, ref: str) -> tuple[Image.Image | None, bool]:
        """Return an image as a tile shows it, None if it is missing, and whether it has its own pixels."""
        image = self.open_image(step, row, ref, enough=MIN_SOURCE_SIDE_PX)
        return (None, True) if image is None else fit_picture(image)

    def open_image(self, step: int, row: int, ref: str, enough: int | None = None) -> Image.Image | None:
        """Open an image in RGB, at least `enough` pixels large. Returns None if it is not found; see `use_image`."""
        return self.use_image(step, row, ref, lambda image: image.decode(enough))

    def use_image(self, step: int, row: int, ref: str, use: Callable[[ReadImage], Y]) -> Y | None:
        """Return what `use` makes of an image.

        Returns None, and notes it in `missing`, if it is not found or cannot be decoded, or in `outside` if its ref
        leads elsewhere.
        """
        run = self._steps[step].run
        exif: Exif = "apply" if run.transform.get("exif") == "apply" else "ignore"
        origins = ["source", "thumbnail"] if run.thumbnails else ["source"]
        if "dataset" in run.transform:  # the image may be only a part of its file
            origins.reverse()
        answers = self._answers(self._root_of(step))
        is_allowed = self._anywhere or not answers or self._is_inside(step, ref)
        is_there = self._anywhere or self._root_of(step) not in self._absent_roots
        if not (answers and is_allowed and is_there):
            origins.remove("source")
        for origin in origins:
            stored = self._thumbnail(step, row) if origin == "thumbnail" else None
            with contextlib.suppress(Exception):  # as in stage one: an image file may fail in any way
                if origin == "source":
                    content = self._read(step, ref)
                    image = ReadImage(content, exif)
                    self._any_opened = True
                    self._any_large = self._any_large or not image.is_small
                    return use(image)
                if stored is not None:
                    return use(ReadImage(stored, "ignore"))
        if ref:
            (self.missing if is_allowed else self.outside).add(ref)  # the tile shows it, and the command the number
        return None

    def _read(self, step: int, ref: str) -> bytes:
        """Read an image, and note how long that took. Raises what `sources.read` does."""
        with self._connections:
            began = time.perf_counter()
            try:
                return sources.read(self._root_of(step), ref)
            finally:
                self._read_seconds[next(self._read_count) % RECENT_READS] = time.perf_counter() - began

    def _takes_long(self) -> bool:
        """Return whether reading or decoding takes so long that threads should do it side by side."""
        return self._any_large or sorted(self._read_seconds)[RECENT_READS // 2] > SLOW_READ_SECONDS

    def notes(self) -> list[str]:
        """Return a line for each folder of images far from here that the predictions name, and not the user."""
        if self._root is not None:
            return []
        parents = (part.path.parent.parent.parent for step in self._steps.values() for part in step.parts[:1])
        near = [folder.resolve() for folder in (Path.cwd(), *parents)]
        roots = {step.run.root for step in self._steps.values()} - {""}
        return [
            f"pictures: from {root}, as the predictions say"
            for root in sorted(roots)
            if not any(is_inside(parse_path(root), folder) for folder in near if folder != folder.parent)
            and (is_uri(root) or (self._answers(root) and Path(root).exists()))
        ]

    def warnings(self) -> list[str]:
        """Return warnings for a person: of folders that do not answer, and how many images are outside."""
        lines = [
            f"warning: {root} did not answer within {ANSWER_SECONDS} seconds: its images count as not found"
            for root, answers in self._answering.items()
            if not answers
        ]
        if not self.outside:
            return lines
        roots = either(sorted({self._root_of(step) for step in self._steps} - {""}))
        return [
            *lines,
            f"warning: {plural(len(self.outside), 'source image')} not opened, because their paths lead outside "
            f"{roots or 'this folder'}, such as {min(self.outside)}: --image-root FOLDER opens what is below FOLDER, "
            "and --images-anywhere everything; use it only for predictions that you trust",
        ]

    def note_absent(self) -> AbsentImages | None:
        """Return where the missing images would have to appear; None if that cannot be told by looking there."""
        roots = {self._root_of(step) for step in self._steps} if self.missing else set()
        if any(map(is_uri, (*roots, *self.missing))) or not all(map(self._answers, roots)):
            return None
        files = {split_ref(ref)[0] or ref for ref in self.missing}
        return note_absent(os.path.join(root, file) for root in roots for file in files)  # noqa: PTH118

    def _answers(self, root: str) -> bool:
        """Return whether the file system of a folder answers; it is asked once. A dead mount lets every call hang."""
        with self._asking:
            if root not in self._answering:
                limit = ItemTimeout[str, bool](ANSWER_SECONDS, lambda _: False)
                asked = ordered_map(self._find_root, [] if is_uri(root) else [root], 1, 1, limit)
                self._answering[root] = next(asked, True)
            return self._answering[root]

    def _find_root(self, root: str) -> bool:
        """Return True as soon as the file system answers, and note whether the folder is absent."""
        if not Path(root).exists():
            self._absent_roots.add(root)
        return True

    def _is_inside(self, step: int, ref: str) -> bool:
        """Return whether a ref leads to below the folder that the user named, or else the root of the run."""
        return self._folders(self._root_of(step)).contains(ref)

    def _thumbnail(self, step: int, row: int) -> bytes | None:
        """Return the stored thumbnail of a row. Those of all expected rows are read together, which costs no more."""
        with self._lock:
            thumbnails = self._thumbnails[step]
            if row not in thumbnails:
                rows = (self._expected[step] | {row}) - thumbnails.keys()
                thumbnails.update(dict.fromkeys(rows) | read_values(self._steps[step], rows, "thumbnail"))
            return thumbnails[row]


class _Drawing:
    """Draws tiles on any process, and returns the references of their missing images, and of those outside, as well."""

    def __init__(self, images: SourceImages) -> None:
        self._images = images

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        _silence_pillow()

    def __call__(self, item: tuple[int, Tiles]) -> tuple[EncodedImages, set[str], set[str]]:
        encoded, refs = self._images.encode_locally(*item), item[1].rows["image"]
        return encoded, self._images.missing.intersection(refs), self._images.outside.intersection(refs)


@functools.cache
def _silence_pillow() -> contextlib.ExitStack:
    """Keep Pillow from printing as long as this process lives: the stack stays in the cache and is never left."""
    stack = contextlib.ExitStack()
    stack.enter_context(decode.silence_pillow())
    return stack
