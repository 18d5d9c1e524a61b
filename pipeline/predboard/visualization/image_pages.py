"""Draws every N-th image of a run, in contact sheets (`--log-every`). It knows no panels and no event files."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import escape_markdown, markdown_table
from predboard.parallel.threads import ordered_map
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.table import TileRows
from predboard.summaries import EncodedImages, Text, Tiles
from predboard.visualization.source_images import SourceImages

EVENT_FILE_MAX_BYTES = 100 * 2**20
"""Bytes of an event file up to which images are added: TensorBoard holds all of them in memory."""

PAGE_IMAGES = 64
"""Images of a page, which is one picture."""

SAMPLED_PAGES = 4
"""Pages that are drawn first, to learn how many bytes an image takes."""

NAMED_CLASSES = 8
"""Classes that the message about images that are left out names."""

Candidates = Mapping[str, NDArray[np.int64]]
"""`id`, `key` and `label` of the rows that could be shown, [rows] each."""

DerivedSteps = Callable[[], Iterable[tuple[int, DerivedRows]]]
"""Returns step and derived rows of all steps, step by step, ids ascending, as often as it is called."""


def render_pages(
    rows: DerivedSteps,
    every: int,
    steps: Collection[int],
    names: Sequence[str],
    images: SourceImages,
    threads: int,
    used_bytes: int,
) -> Iterator[tuple[int, EncodedImages | Text]]:
    """Yield every N-th image of some steps, in pages, and a text about the images that did not fit, if any.

    If not all fit, the same number of each class is shown, chosen by the hash of the key and so the same at each step.

    Args:
        rows: of all steps.
        every: N, at least 1.
        steps: to show; each may use an equal share of the free bytes.
        names: of the classes.
        images: draws the pages.
        threads: pages that are drawn at once; a few more are in memory.
        used_bytes: size of the event file so far.
    """
    candidates = _find_candidates(rows, every, steps)
    if not candidates:
        return
    draw = functools.partial(_draw_pages, rows, every, names, images, threads)
    first = min(candidates)
    sample = choose_evenly(candidates[first], PAGE_IMAGES * SAMPLED_PAGES)
    size = sum(len(page.samples[0]) for _, page in draw({first: sample}))
    free_bytes = max(EVENT_FILE_MAX_BYTES - used_bytes, 0) // len(steps)
    room = free_bytes * len(sample) // size
    chosen = {step: choose_evenly(candidates[step], room) for step in candidates}
    yield from draw(chosen)
    if any(len(chosen[step]) < len(of_step["id"]) for step, of_step in candidates.items()):
        last = max(candidates)
        yield last, Text(f"{page_group(every)}/left_out", _explain(candidates, chosen, every, names, room))


def _find_candidates(rows: DerivedSteps, every: int, steps: Collection[int]) -> dict[int, Candidates]:
    """Return the rows of each step that have predictions and whose number in the manifest is a multiple of `every`."""
    pieces: dict[int, list[Candidates]] = {}
    for step, batch in rows():
        if step in steps:
            some = batch.take(batch.is_scored & (batch.id % every == 0))
            pieces.setdefault(step, []).append({"id": some.id, "key": some.key, "label": some.lead_label})
    whole = {
        step: {name: np.concatenate([piece[name] for piece in of_step]) for name in ("id", "key", "label")}
        for step, of_step in pieces.items()
    }
    return {step: columns for step, columns in whole.items() if len(columns["id"])}


def choose_evenly(candidates: Candidates, count: int) -> NDArray[np.int64]:
    """Return the ids of at most `count` rows, as many of each class as possible, by the hash of their keys.

    Rows without a label count as a class.

    >>> rows = {"id": np.arange(7), "key": np.arange(7), "label": np.array([0, 0, 0, 0, 0, 1, 2])}
    >>> chosen = choose_evenly(rows, 4)
    >>> rows["label"][chosen].tolist()
    [0, 0, 1, 2]
    """
    label, order = candidates["label"], mix(candidates["key"], Salt.LOGGED)
    by_class = np.lexsort((candidates["id"], order, label))
    first = np.r_[True, label[by_class][1:] != label[by_class][:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(label)), 0))
    place = np.empty(len(label), np.int64)
    place[by_class] = np.arange(len(label)) - start  # of each row among those of its class
    chosen = np.lexsort((candidates["id"], order, place))[:count]
    return np.sort(candidates["id"][chosen])


def _draw_pages(
    rows: DerivedSteps,
    every: int,
    names: Sequence[str],
    images: SourceImages,
    threads: int,
    chosen: Mapping[int, NDArray[np.int64]],
) -> Iterator[tuple[int, EncodedImages]]:
    """Draw the chosen rows of each step."""
    for step, batches in itertools.groupby(rows(), operator.itemgetter(0)):
        if step in chosen:
            pages = split_pages((batch for _, batch in batches), chosen[step], every, names)
            images.expect((step, page) for page in pages)
            for drawn in ordered_map(functools.partial(images.encode, step), pages, threads):
                yield step, drawn


def page_group(every: int) -> str:
    """Return the name of the group in which TensorBoard shows every N-th image.

    >>> page_group(1), page_group(10)
    ('predictions_all', 'predictions_every_10')
    """
    return "predictions_all" if every == 1 else f"predictions_every_{every}"


def split_pages(
    batches: Iterable[DerivedRows], chosen: NDArray[np.int64], every: int, names: Sequence[str]
) -> list[Tiles]:
    """Return the chosen rows of one step in pages, by true class and then in the order of the data."""
    pieces: list[TileRows] = []
    for batch in batches:
        some = batch.take(np.isin(batch.id, chosen))
        pieces.append({**some.tile_rows(np.arange(len(some))), "lead_label": some.lead_label})
    rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    order = np.lexsort((rows["id"], rows["lead_label"]))
    return [
        _page({name: column[order[start : start + PAGE_IMAGES]] for name, column in rows.items()}, at, every, names)
        for at, start in enumerate(range(0, len(order), PAGE_IMAGES), 1)
    ]


def _page(rows: TileRows, number: int, every: int, names: Sequence[str]) -> Tiles:
    first, last = (_class_name(int(rows["lead_label"][i]), names) for i in (0, -1))
    classes = first if first == last else f"{first} to {last}"
    which = "All images" if every == 1 else f"Images 0, {every:,}, {2 * every:,}, …"
    return Tiles(
        f"{page_group(every)}/page_{number:04d}",
        rows,
        f"{which}, by true class and then in the order of the data; here {escape_markdown(classes)}. "
        "The button `Toggle actual size` shows the captions.",
        sheet=f"page {number:,}: {classes}",
    )


def _class_name(label: int, names: Sequence[str]) -> str:
    return names[label] if label >= 0 else "no label"


def _explain(
    candidates: Mapping[int, Candidates],
    chosen: Mapping[int, NDArray[np.int64]],
    every: int,
    names: Sequence[str],
    room: int,
) -> str:
    """Say what is left out, of each class."""
    shown = sum(map(len, chosen.values()))
    wanted = sum(len(of_step["id"]) for of_step in candidates.values())
    last = max(candidates)
    left = candidates[last]["label"][~np.isin(candidates[last]["id"], chosen[last])]
    labels, counts = np.unique(left, return_counts=True)
    order = np.lexsort((labels, -counts))
    by_class = [(_class_name(int(labels[i]), names), int(counts[i])) for i in order]
    named = ", ".join(f"{escape_markdown(name)} {count:,}" for name, count in by_class[:NAMED_CLASSES])
    more = f" and {len(by_class) - NAMED_CLASSES:,} more classes" if len(by_class) > NAMED_CLASSES else ""
    most = max(len(of_step["id"]) for of_step in candidates.values())
    advice = f"; --log-every {math.ceil(1.05 * every * most / room)} has room for all" if room else ""
    sentence = (
        f"{wanted - shown:,} of {wanted:,} images are left out, because TensorBoard is slow with event files above "
        f"{EVENT_FILE_MAX_BYTES // 2**20} MiB; as many of each class are shown as there is room for, chosen by the "
        f"hash of their names{advice}. Left out at step {last}: {named}{more}"
    )
    table = [(escape_markdown(name), f"{count:,}") for name, count in by_class[:200]]
    return f"{sentence}\n\n{markdown_table(('true class', 'left out'), 'lr', table)}"
