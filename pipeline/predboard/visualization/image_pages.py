"""Draws every N-th image of a run, in pages of tiles (`--log-every`). It knows no panels and no event files."""

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
"""Bytes of an event file up to which images are added: TensorBoard holds all of them in memory."""

PAGE_IMAGES = 64
"""Images of a page, which is one tag."""


def render_pages(
    rows: Callable[[], Iterable[tuple[int, DerivedRows]]],
    every: int,
    steps: Collection[int],
    images: SourceImages,
    threads: int,
    used_bytes: int,
) -> Iterator[tuple[int, EncodedImages | Text]]:
    """Yield every N-th image of some steps, in pages, and a text about the images that did not fit, if any.

    Args:
        rows: returns step and derived rows of all steps, step by step, ids ascending; called twice.
        every: N, at least 1.
        steps: to show; each may use an equal share of the free bytes.
        images: draws the tiles.
        threads: pages that are drawn at once; a few more are in memory.
        used_bytes: size of the event file so far.
    """
    shown = 0
    for step, batches in itertools.groupby(rows(), operator.itemgetter(0)):
        if step in steps:
            free_bytes = (EVENT_FILE_MAX_BYTES - used_bytes) // len(steps)
            for page in _draw_pages(split_pages((batch for _, batch in batches), every), step, images, threads):
                size = sum(map(len, page.samples))
                if size > free_bytes:
                    break
                free_bytes, shown = free_bytes - size, shown + len(page.samples)
                yield step, page
    wanted = sum(len(_select(batch, every)) for step, batch in rows() if step in steps)
    if shown < wanted:
        fitting = math.ceil(1.05 * every * wanted / max(shown, 1))
        yield (
            max(steps),
            Text(
                f"{page_group(every)}/left_out",
                f"{wanted - shown:,} of {wanted:,} images are left out, the last ones of each step, because "
                f"TensorBoard is slow with event files above {EVENT_FILE_MAX_BYTES // 2**20} MiB; "
                f"--log-every {fitting} has room for all",
            ),
        )


def _draw_pages(pages: Iterator[Tiles], step: int, images: SourceImages, threads: int) -> Iterator[EncodedImages]:
    def announce() -> Iterator[Tiles]:
        for page in pages:
            images.expect([(step, page)])
            yield page

    yield from ordered_map(functools.partial(images.encode, step), announce(), threads)


def page_group(every: int) -> str:
    """Return the name of the group in which TensorBoard shows every N-th image.

    >>> page_group(1), page_group(10)
    ('predictions_all', 'predictions_every_10')
    """
    return "predictions_all" if every == 1 else f"predictions_every_{every}"


def _select(rows: DerivedRows, every: int) -> DerivedRows:
    """Return the rows that have predictions and whose number in the manifest is a multiple of `every`."""
    return rows.take((rows.predicted >= 0) & (rows.id % every == 0))


def split_pages(batches: Iterable[DerivedRows], every: int) -> Iterator[Tiles]:
    """Yield every N-th image in pages, one page in memory at a time.

    A page covers a range of the manifest, so that it shows the same images at every step.

    Args:
        batches: rows of one step, ids ascending.
        every: N, at least 1.
    """
    span = PAGE_IMAGES * every
    pieces: list[TileRows] = []  # of the current page
    page = 0
    for batch in batches:
        rows = _select(batch, every)
        for number in np.unique(rows.id // span).tolist():
            if number != page and pieces:
                yield _tiles(pieces, page, every)
                pieces = []
            page = number
            pieces.append(rows.tile_rows(np.flatnonzero(rows.id // span == page)))
    if pieces:
        yield _tiles(pieces, page, every)


def _tiles(pieces: list[TileRows], page: int, every: int) -> Tiles:
    rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    which = "All images" if every == 1 else f"Images 0, {every:,}, {2 * every:,}, …"
    return Tiles(
        f"{page_group(every)}/from_{page * PAGE_IMAGES * every:06d}", rows, f"{which} in the order of the data."
    )
