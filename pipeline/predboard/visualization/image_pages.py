"""Every N-th image as pages of tiles, as a loop over the data would log them. Knows no panels and no event files."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

from predboard.parallel import pool
from predboard.predictions.table import Predictions, Rows
from predboard.summaries import Encoded, Text, Tiles
from predboard.visualization.source_images import Pictures

LIMIT = 100 * 2**20
"""Bytes of an event file, which it may be filled to: TensorBoard holds all pictures in memory."""

PAGE = 64
"""Images of a tag: TensorBoard makes a card of each."""


def logged(
    rows: Callable[[], Iterable[tuple[int, Predictions]]],
    every: int,
    steps: Collection[int],
    pictures: Pictures,
    threads: int,
    used: int,
) -> Iterator[tuple[int, Encoded | Text]]:
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
            room = (LIMIT - used) // len(steps)
            for page in _drawn(pages((batch for _, batch in batches), every), step, pictures, threads):
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
                f"{group(every)}/left_out",
                f"{asked - shown:,} of {asked:,} pictures are left out, the last ones of each step, because an event "
                f"file above {LIMIT // 2**20} MiB makes TensorBoard slow; with --log-every {enough} all have room",
            ),
        )


def _drawn(tiles: Iterator[Tiles], step: int, pictures: Pictures, threads: int) -> Iterator[Encoded]:
    def expected() -> Iterator[Tiles]:
        for page in tiles:
            pictures.expect([(step, page)])
            yield page

    yield from pool.in_order(functools.partial(pictures.encode, step), expected(), threads)


def group(every: int) -> str:
    """Under which name TensorBoard shows every N-th image.

    >>> group(1), group(10)
    ('predictions_all', 'predictions_every_10')
    """
    return "predictions_all" if every == 1 else f"predictions_every_{every}"


def _wanted(rows: Predictions, every: int) -> Predictions:
    """The rows that have logits and whose place in the manifest is a multiple of `every`."""
    return rows.take((rows.predicted >= 0) & (rows.id % every == 0))


def pages(batches: Iterable[Predictions], every: int) -> Iterator[Tiles]:
    """Pages of every N-th image, one page in memory at a time.

    A page has the images of one range of the manifest, so that it has the same ones at every step.

    Args:
        batches: rows of one step, ids ascending.
        every: N, at least 1.
    """
    span = PAGE * every
    kept: list[Rows] = []
    page = 0
    for batch in batches:
        rows = _wanted(batch, every)
        for here in np.unique(rows.id // span).tolist():
            if here != page and kept:
                yield _tiles(kept, page, every)
                kept = []
            page = here
            kept.append(rows.rows(np.flatnonzero(rows.id // span == page)))
    if kept:
        yield _tiles(kept, page, every)


def _tiles(kept: list[Rows], page: int, every: int) -> Tiles:
    rows = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    which = "All images" if every == 1 else f"Images 0, {every:,}, {2 * every:,}, …"
    return Tiles(f"{group(every)}/from_{page * PAGE * every:06d}", rows, f"{which} in the order of the data.")
