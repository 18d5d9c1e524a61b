"""Rows -> their source pictures, as tiles with words. Knows no panels and no event files."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from PIL import Image

from predboard.config import Exif
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.tiles import MIN_SOURCE_SIDE_PX, TileText, draw_sprite, draw_tile, fit_picture
from predboard.images import decode, sources
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import ordered_map
from predboard.storage.paths import AnyPath, is_uri
from predboard.storage.remote import MAX_CONNECTIONS
from predboard.storage.runs import Step, read_values
from predboard.summaries import EncodedImages, Projector, Summary, Tiles
from predboard.visualization import events

FITTED_CACHE_IMAGES = 512
"""Fitted source pictures in memory, at most 115 kB each: the same image is in many galleries and steps."""

SPRITE_SIDE_PIXELS = 4096
"""Side of all pictures of the Projector together, pixels; the browser takes 8,192."""

SPRITE_TASK_IMAGES = 32
"""Pictures of the Projector that a thread takes at a time: handing over a missing one costs as much as missing it."""

NEAREST = Image.Resampling.NEAREST


class SourceImages:
    """Source pictures by row: from the source, else from the thumbnail that the predictions hold."""

    def __init__(self, steps: tuple[Step, ...], image_root: AnyPath | None, pool: ProcessPool | None = None) -> None:
        """Of these steps. `image_root` is where the source pictures are now, if they were moved; processes of the pool
        draw, too.
        """
        self._steps = {step.step: step for step in steps}
        self._root = image_root
        # Where all steps find the same pictures, one step stands for all.
        same = len({(s.run.root, s.run.transform.get("exif"), s.run.thumbnails) for s in steps}) == 1
        self._shared = steps[0].step if same and not steps[0].run.thumbnails else None
        self.missing: set[str] = set()
        self._fitted = functools.lru_cache(FITTED_CACHE_IMAGES)(self._fit)
        self._expected: dict[int, set[int]] = {number: set() for number in self._steps}
        self._thumbnails: dict[int, dict[int, bytes | None]] = {number: {} for number in self._steps}
        self._lock = threading.Lock()
        self._pool, self._drawing = pool, _Drawing(self)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)  # of all tiles that are drawn at once

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[Step, ...], AnyPath | None]]:
        """For another process: without what is known of parts, which may be many and hold nothing but thumbnails."""
        return type(self), (tuple(replace(step, parts=()) for step in self._steps.values()), self._root)

    def encode(self, step: int, tiles: Tiles) -> EncodedImages:
        """The tiles with their words: PNG where a picture was enlarged or is missing, JPEG where it was reduced.

        Drawn in this process or another. Not in another if pictures are in storage, because this one bounds the
        connections and holds what a script told it of the place, or if thumbnails are, which are read together.
        """
        if self._pool is None or self._steps[step].run.thumbnails or self._far(step, map(str, tiles.rows["image"])):
            return self.encode_locally(step, tiles)
        encoded, missing = self._pool.call(self._drawing, (step, tiles))
        self.missing.update(missing)
        return encoded

    def encode_locally(self, step: int, tiles: Tiles) -> EncodedImages:
        """As `encode`, in this process."""
        run, rows, samples = self._steps[step].run, tiles.rows, []
        ids, refs = rows["id"].tolist(), [str(ref or "") for ref in rows["image"]]
        for i, (picture, exact) in enumerate(self.fitted(step, ids, refs)):
            label, loss = int(rows["label"][i]), float(rows["loss"][i])
            words = TileText(
                true=run.classes[label] if label >= 0 else None,
                top=[
                    (run.classes[c], float(p))
                    for c, p in zip(rows["top_class"][i], rows["top_probability"][i], strict=True)
                ],
                name=refs[i],
                id=ids[i],
                loss=loss if label >= 0 else None,
            )
            drawn = draw_tile(picture, words)
            samples.append(events.encode_png(drawn) if exact else events.encode_jpeg(drawn))
        return EncodedImages(tiles.tag, WIDTH_PX, HEIGHT_PX, tuple(samples), tiles.description)

    def fitted(self, step: int, ids: Sequence[int], refs: Sequence[str]) -> Iterator[tuple[Image.Image | None, bool]]:
        """Pictures as tiles show them, None for one that is nowhere, and whether each has its own pixels."""
        of = [(self._of(step), row, ref) for row, ref in zip(ids, refs, strict=True)]
        if self._far(step, refs):  # each costs a round trip, so they are opened side by side
            yield from ordered_map(lambda picture: self._fitted(*picture), of, MAX_CONNECTIONS)
        else:
            yield from (self._fitted(*picture) for picture in of)

    def expect(self, summaries: Iterable[tuple[int, Summary]]) -> None:
        """Tell which rows will be drawn, so that their thumbnails are read together."""
        with self._lock:
            for step, summary in summaries:
                if summary.source_rows is not None:
                    self._expected[self._of(step)].update(summary.source_rows["id"].tolist())

    def sprite(
        self, step: int, summary: Projector, threads: int, unwanted: Callable[[], bool] = lambda: False
    ) -> tuple[bytes, int]:
        """JPEG of all pictures of the points in a square grid, and the side of one, pixels; empty if none is there.

        No more of them are opened when it is `unwanted`.
        """
        points = list(zip(summary.rows["id"].tolist(), summary.rows["image"].tolist(), strict=True))
        side = min(64, SPRITE_SIDE_PIXELS // math.ceil(math.sqrt(len(points))))

        def small(point: tuple[int, str | None]) -> Image.Image | None:
            if unwanted():
                return None
            picture = self._open(self._of(step), point[0], str(point[1] or ""), enough=side)
            if picture is not None:
                picture.thumbnail((side, side), Image.Resampling.LANCZOS)
                if max(picture.size) < side // 2:
                    picture = picture.resize([s * (side // max(picture.size)) for s in picture.size], NEAREST)
            return picture

        far = self._far(step, (str(ref or "") for _, ref in points))
        threads, few = (MAX_CONNECTIONS, 1) if far else (threads, SPRITE_TASK_IMAGES)
        some = (points[at : at + few] for at in range(0, len(points), few))
        drawn = [one for ones in ordered_map(lambda them: [*map(small, them)], some, threads) for one in ones]
        return (events.encode_jpeg(draw_sprite(drawn, side)) if any(drawn) else b""), side

    def _root_of(self, step: int) -> str:
        return self._steps[step].run.root if self._root is None else str(self._root)

    def _far(self, step: int, refs: Iterable[str]) -> bool:
        """Whether any of the pictures is in storage."""
        return is_uri(self._root_of(step)) or any(map(is_uri, refs))

    def _of(self, step: int) -> int:
        return step if self._shared is None else self._shared

    def _fit(self, step: int, row: int, ref: str) -> tuple[Image.Image | None, bool]:
        """A fitted picture, and whether it is shown with its own pixels."""
        picture = self._open(step, row, ref, enough=MIN_SOURCE_SIDE_PX)
        return (None, True) if picture is None else fit_picture(picture)

    def _open(self, step: int, row: int, ref: str, enough: int | None = None) -> Image.Image | None:
        """A source picture in RGB; None, and counted, if it is nowhere."""
        run = self._steps[step].run
        exif: Exif = "apply" if run.transform.get("exif") == "apply" else "ignore"
        ways = ["source", "thumbnail"] if run.thumbnails else ["source"]
        if "dataset" in run.transform:  # its item may be a part of its file
            ways.reverse()
        for way in ways:
            stored = self._thumbnail(step, row) if way == "thumbnail" else None
            with contextlib.suppress(Exception):  # as in stage one, a picture file may fail in any way
                if way == "source":
                    with self._connections:
                        content = sources.read(self._root_of(step), ref)
                    return decode.decode_image(content, exif=exif, enough=enough)
                if stored is not None:
                    return decode.decode_image(stored)
        if ref:
            self.missing.add(ref)  # the tile and the count say so
        return None

    def _thumbnail(self, step: int, row: int) -> bytes | None:
        """Of one row. A file must be read to find one, so those of all expected rows are read together."""
        with self._lock:
            kept = self._thumbnails[step]
            if row not in kept:
                wanted = (self._expected[step] | {row}) - kept.keys()
                kept.update(dict.fromkeys(wanted) | read_values(self._steps[step], wanted, "thumbnail"))
            return kept[row]


class _Drawing:
    """Draws tiles, in this process or another, and says which of their pictures are nowhere."""

    def __init__(self, pictures: SourceImages) -> None:
        self._pictures = pictures

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        _quiet()

    def __call__(self, item: tuple[int, Tiles]) -> tuple[EncodedImages, set[str]]:
        encoded = self._pictures.encode_locally(*item)
        return encoded, self._pictures.missing.intersection(item[1].rows["image"])


@functools.cache
def _quiet() -> contextlib.ExitStack:
    """Let Pillow say nothing, for good: another process does nothing else. Kept, because what nobody holds is left."""
    entered = contextlib.ExitStack()
    entered.enter_context(decode.silence_pillow())
    return entered
