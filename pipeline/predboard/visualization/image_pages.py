"""Every N-th image as pages of tiles, as a loop over the data would log them. Knows no panels and no event files."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

from predboard.parallel.threads import ordered_map
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.table import TileRows
from predboard.summaries import EncodedImages, Text, Tiles
from predboard.visualization.source_images import SourceImages

EVENT_FILE_MAX_BYTES = 100 * 2**20
"""Bytes of an event file, which it may be filled to: TensorBoard holds all pictures in memory."""

PAGE_IMAGES = 64
"""Images of a tag: TensorBoard makes a card of each."""


def render_pages(
    rows: Callable[[], Iterable[tuple[int, DerivedRows]]],
    every: int,
    steps: Collection[int],
    pictures: SourceImages,
    threads: int,
    used: int,
) -> Iterator[tuple[int, EncodedImages | Text]]:
    """Every N-th image, in pages; at the last step a text that says how many there was no room for, if any.

    Args:
        rows: gives the derived rows of all steps, step by step, ids ascending.
        every: N, at least 1.
        steps: those to show; each may fill an equal part of the room.
        pictures: draws the tiles.
        threads: how many pages are drawn at once; a few more are in memory.
        used: bytes of the event file that are used already.
    """
    shown = 0
    for step, batches in itertools.groupby(rows(), operator.itemgetter(0)):
        if step in steps:
            room = (EVENT_FILE_MAX_BYTES - used) // len(steps)
            for page in _drawn(split_pages((batch for _, batch in batches), every), step, pictures, threads):
                size = sum(map(len, page.samples))
                if size > room:
                    break
                room, shown = room - size, shown + len(page.samples)
                yield step, page
    asked = sum(len(_wanted(batch, every)) for step, batch in rows() if step in steps)
    if shown < asked:
        enough = math.ceil(1.05 * every * asked / max(shown, 1))
        yield (
            max(steps),
            Text(
                f"{page_group(every)}/left_out",
                f"{asked - shown:,} of {asked:,} pictures are left out, the last ones of each step, because an event "
                f"file above {EVENT_FILE_MAX_BYTES // 2**20} MiB makes TensorBoard slow; with --log-every {enough} "
                f"all have room",
            ),
        )


def _drawn(tiles: Iterator[Tiles], step: int, pictures: SourceImages, threads: int) -> Iterator[EncodedImages]:
    def expected() -> Iterator[Tiles]:
        for page in tiles:
            pictures.expect([(step, page)])
            yield page

    yield from ordered_map(functools.partial(pictures.encode, step), expected(), threads)


def page_group(every: int) -> str:
    """Under which name TensorBoard shows every N-th image.

    >>> page_group(1), page_group(10)
    ('predictions_all', 'predictions_every_10')
    """
    return "predictions_all" if every == 1 else f"predictions_every_{every}"


def _wanted(rows: DerivedRows, every: int) -> DerivedRows:
    """The rows that have logits and whose place in the manifest is a multiple of `every`."""
    return rows.take((rows.predicted >= 0) & (rows.id % every == 0))


def split_pages(batches: Iterable[DerivedRows], every: int) -> Iterator[Tiles]:
    """Pages of every N-th image, one page in memory at a time.

    A page has the images of one range of the manifest, so that it has the same ones at every step.

    Args:
        batches: rows of one step, ids ascending.
        every: N, at least 1.
    """
    span = PAGE_IMAGES * every
    kept: list[TileRows] = []
    page = 0
    for batch in batches:
        rows = _wanted(batch, every)
        for here in np.unique(rows.id // span).tolist():
            if here != page and kept:
                yield _tiles(kept, page, every)
                kept = []
            page = here
            kept.append(rows.tile_rows(np.flatnonzero(rows.id // span == page)))
    if kept:
        yield _tiles(kept, page, every)


def _tiles(kept: list[TileRows], page: int, every: int) -> Tiles:
    rows = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    which = "All images" if every == 1 else f"Images 0, {every:,}, {2 * every:,}, …"
    return Tiles(
        f"{page_group(every)}/from_{page * PAGE_IMAGES * every:06d}", rows, f"{which} in the order of the data."
    )
