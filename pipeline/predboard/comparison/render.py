"""Draws a comparison for TensorBoard: report card, galleries, plots, pages and curves. It knows no files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from predboard.comparison import changes, pages, report
from predboard.comparison.changes import Examples
from predboard.comparison.differences import Comparison
from predboard.comparison.flips import ClassChange, Difference, Flips
from predboard.comparison.report import Side
from predboard.drawing import palette
from predboard.drawing.card_matrix import CARD_CLASSES
from predboard.drawing.comparison import (
    ComparisonCard,
    DifferenceLine,
    draw_all_pairs,
    draw_comparison_card,
    draw_differences,
)
from predboard.drawing.confusion_change import NAMED_CLASSES_MAX, MatrixChange, draw_change_matrix, draw_change_overview
from predboard.formatting import percent
from predboard.metrics.intervals import wilson_intervals
from predboard.metrics.seriation import seriate
from predboard.summaries import Picture, Pixels, Scalar, Summary, Text, Tiles

MAX_INTERVAL_LINES = 10
"""Classes or slices in a plot."""

BEST_LINES = 3
"""Most improved classes or slices in a plot, if there are more than `MAX_INTERVAL_LINES`."""

MAX_RANKED_SIDES = 12
"""Sides in the plot of the ranking."""

MAX_MATRIX_CLASSES = 40
"""Classes in the large matrix; of more, those that changed most. It is legible at its actual size alone."""

GALLERIES = {
    "broken": ("2_mistakes/broken", "Right before, wrong now; the most confident first."),
    "fixed": ("examples/fixed", "Wrong before, right now; the most confident first."),
    "changed_wrong": (
        "examples/changed_wrong",
        "Wrong before, and now wrong in another way; the most confident first.",
    ),
    "both_wrong_same": ("examples/both_wrong_same", "Wrong in the same way both times; the most confident first."),
}
"""Tag and description of the gallery of each kind of change."""

TILE_LABELS = {
    "broken": "broken",
    "fixed": "fixed",
    "changed_wrong": "still wrong",
    "both_wrong_same": "wrong twice",
}
"""Label on a tile, by the kind of change."""

ComparisonPairs = Mapping[tuple[int, int], Comparison]
"""Comparisons by the places of their two sides, the older first."""


def gallery_kind(tag: str) -> str:
    """Return the kind of change that a tag shows."""
    return next(kind for kind, (gallery, _) in GALLERIES.items() if gallery == tag)


@dataclass(frozen=True)
class Views:
    """What the drawing of a comparison shows of its task."""

    card: Callable[[Comparison], Mapping[str, Any]]
    """Fields of the report card besides those of all tasks."""
    pictures: Callable[[Comparison], Iterator[Picture]]
    """Pictures of what changed into what."""
    page: tuple[str, Callable[[Comparison, Side, Side], str]]
    """Tag and text of the page of what changed into what."""


def summaries(
    sides: Sequence[Side], pairs: ComparisonPairs, examples: Examples, views: Views
) -> Iterator[tuple[int, Summary]]:
    """Yield (step, summary) for the first side against the last, and for all sides together.

    Args:
        sides: at least two, the oldest first.
        pairs: of the sides; all, or each with the first and with the most accurate.
        examples: of the first against the last.
        views: what is shown of the task.
    """
    first, last = sides[0], sides[-1]
    comparison, step = pairs[0, len(sides) - 1], sides[-1].step.step
    yield step, Picture("1_glance/report_card", partial(comparison_card, comparison, first, last, views), "Start here.")
    if len(sides) > 2 and (ranked := report.rank_sides(pairs)):
        if not report.missing_pair_notes(pairs, len(sides)):
            what = _capital(comparison.headline_words)
            caption = f"{what} of the row minus that of the column, over shared images. Grey: the interval includes 0."
            yield step, Picture("1_glance/all_pairs", partial(_all_pairs, sides, pairs, ranked), caption)
        caption = "Difference to the most accurate side, over shared images, with 95 % intervals."
        yield step, Picture("1_glance/ranking", partial(_ranking, sides, ranked, comparison.headline_words), caption)
    for tiles in _galleries(examples):
        yield step, tiles
    if comparison.rows:
        yield from ((step, picture) for picture in (*views.pictures(comparison), *_differences(comparison)))
    yield from _curves(sides, pairs)
    for tag, markdown in _pages(sides, pairs, comparison, views).items():
        yield step, Text(tag, markdown)


def _pages(sides: Sequence[Side], pairs: ComparisonPairs, comparison: Comparison, views: Views) -> dict[str, str]:
    first, last = sides[0], sides[-1]
    texts = {"report/0_verdict": pages.verdict_page(comparison, first, last)}
    if len(sides) > 2:
        texts["report/all_pairs"] = pages.pairs_table(sides, pairs)
    return texts | {
        "report/by_class": pages.flips_table(comparison.by_class, "class", comparison.right_words["class"]),
        "report/by_slice": pages.flips_table(comparison.by_slice, "slice", comparison.right_words["slice"]),
        views.page[0]: views.page[1](comparison, first, last),
    }


def _change(name: str, d: Difference | Flips, note: str = "") -> DifferenceLine:
    value = d.share if isinstance(d, Flips) else d.difference
    low, high = d.interval or (value, value)
    return DifferenceLine(name, value, low, high, note)


def class_card(comparison: Comparison) -> Mapping[str, Any]:
    """Return what the card of classes shows: the most frequent new confusions."""
    label, before, now, images = pages.list_transitions(comparison)
    broken = np.flatnonzero(before == label)[:4].tolist()
    names = comparison.names
    return {"moves": [(names[label[i]], names[now[i]], f"{images[i]:,}") for i in broken]}


def comparison_card(comparison: Comparison, old: Side, new: Side, views: Views) -> Pixels:
    """Draw the report card of a comparison."""
    accuracy = comparison.overall.get(comparison.headline)
    gained, lost = comparison.fixed_broken
    churn = comparison.rates.get("churn")
    facts = [("images", f"{comparison.rows:,}")]
    if churn is not None:
        facts.insert(0, ("changed", percent(churn.value)))
    return draw_comparison_card(
        ComparisonCard(
            sentence=report.verdict_sentence(comparison, old.name, new.name),
            accuracy=None if accuracy is None else _change("accuracy", accuracy),
            sides=None if accuracy is None else ((old.name, accuracy.old), (new.name, accuracy.new)),
            facts=facts,
            worst=[(c.name, _flips(c), _change(c.name, c.change)) for c in comparison.class_changes[:4]],
            headline=comparison.headline_words,
            **{"fixed": gained, "broken": lost, **views.card(comparison)},
            notes=report.notes(comparison, old, new),
        )
    )


def _flips(f: Flips | ClassChange) -> str:
    """Format the counts of fixed and broken images compactly."""
    return f"+{f.fixed:,} −{f.broken:,}"


def _galleries(examples: Examples) -> Iterator[Tiles]:
    for kind, (tag, description) in GALLERIES.items():
        place = changes.BOTH_WRONG if kind == "both_wrong_same" else changes.CHANGE_KINDS.index(kind)
        rows = examples.of_kind.rows_of_group(place)
        if len(rows["id"]):
            yield Tiles(tag, rows, description)


def class_pictures(comparison: Comparison) -> Iterator[Picture]:
    """Yield pictures of how the confusion matrix changed."""
    moved = _moves(comparison)
    if len(moved.change):
        caption = (
            f"Rows: true class; columns: predicted class. {palette.RIGHT_WORD.capitalize()}: better (more right, fewer "
            f"wrong); {palette.WRONG_WORD}: worse."
        )
        yield Picture("changes/0_overview", partial(draw_change_overview, moved), caption)
        for tag, limit in (("matrix", CARD_CLASSES), ("matrix_large", MAX_MATRIX_CLASSES)):
            if tag == "matrix" or len(moved.total) > CARD_CLASSES:
                most = _most_moved(moved, limit)
                which = f"The {limit} classes that changed most. " if len(moved.total) > limit else ""
                about = f"{which}How many images more or fewer than before. {caption}"
                yield Picture(f"changes/{tag}", partial(draw_change_matrix, most), about)


CLASS_VIEWS = Views(class_card, class_pictures, ("report/transitions", pages.transitions_table))


def _differences(comparison: Comparison) -> Iterator[Picture]:
    slices = [ClassChange(f.name, f.fixed, f.broken, f) for f in comparison.by_slice]
    for tag, changed, what in (
        ("classes", comparison.class_changes, comparison.class_words),
        ("slices", slices, "slice"),
    ):
        if changed:
            words = comparison.right_words[what]
            is_independent = isinstance(changed[0].change, Flips) and not comparison.group_column
            method = " (Newcombe)" if is_independent else ""
            caption = f"{_capital(words)} of each {what}, now minus before, in points, with 95 % intervals{method}."
            yield Picture(f"{tag}/difference", partial(_worst, changed, what, words), caption)


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _worst(changed: Sequence[ClassChange], what: str, words: str) -> Pixels:
    """Plot the worst ones, and a few of the best if there are many."""
    shown, cut = list(changed), 0
    title = f"{words} by {what}, now minus before"
    if len(changed) > MAX_INTERVAL_LINES:
        cut = MAX_INTERVAL_LINES - BEST_LINES
        best = sorted(changed, key=lambda c: (-c.ends[0], c.broken - c.fixed))[:BEST_LINES]
        shown = [*[c for c in changed if c not in best][:cut], *best[::-1]]
        title += f": {cut} worst and {BEST_LINES} best of {len(changed):,}"
    return draw_differences(title, [_change(c.name, c.change, _flips(c)) for c in shown], "images", cut)


def _moves(comparison: Comparison) -> MatrixChange:
    """Return how the confusion matrix changed, with classes that are confused with each other placed side by side."""
    old, new = comparison.old, comparison.new
    present = np.flatnonzero(old.support + old.predictions + new.predictions)
    place = np.zeros(comparison.classes, np.int64)
    place[present] = np.arange(len(present))
    both = [np.concatenate(columns) for columns in zip(old.confusions, new.confusions, strict=True)]
    order = seriate(len(present), place[both[0]], place[both[1]], wilson_intervals(both[2], old.support[both[0]])[0])
    items = present if len(present) <= NAMED_CLASSES_MAX else present[order.items]
    place[items] = np.arange(len(items))
    cells = [np.concatenate(columns) for columns in zip(old.cells, new.cells, strict=True)]
    count = np.concatenate([-old.cells[2], new.cells[2]])
    code, where = np.unique(cells[0] * comparison.classes + cells[1], return_inverse=True)
    change = np.zeros(len(code), np.int64)
    np.add.at(change, where, count)
    code, change = code[change != 0], change[change != 0]
    true, predicted = np.divmod(code, comparison.classes)
    return MatrixChange(
        place[true], place[predicted], change, old.support[items], [comparison.names[i] for i in items.tolist()]
    )


def _most_moved(moved: MatrixChange, limit: int) -> MatrixChange:
    """Return the classes whose rows and columns changed most, in their order."""
    n = len(moved.total)
    weight = np.bincount(moved.true, np.abs(moved.change), n) + np.bincount(moved.predicted, np.abs(moved.change), n)
    chosen = np.sort(np.argsort(-weight, kind="stable")[:limit])
    place = np.full(n, -1)
    place[chosen] = np.arange(len(chosen))
    inside = (place[moved.true] >= 0) & (place[moved.predicted] >= 0)
    return MatrixChange(
        place[moved.true[inside]],
        place[moved.predicted[inside]],
        moved.change[inside],
        moved.total[chosen],
        [moved.names[i] for i in chosen.tolist()],
    )


def _all_pairs(sides: Sequence[Side], pairs: ComparisonPairs, ranked: Sequence[report.RankedSide]) -> Pixels:
    order = [r.place for r in ranked[:MAX_RANKED_SIDES]]
    more = f"the best {len(order)} of {len(ranked):,}: " if len(order) < len(ranked) else ""
    cells = [[_of_pair(pairs, column, row) for column in order] for row in order]
    words = next(iter(pairs.values())).headline_words
    return draw_all_pairs([sides[place].name for place in order], cells, more, words)


def _of_pair(pairs: ComparisonPairs, old: int, new: int) -> DifferenceLine | None:
    accuracy = None if old == new else report.accuracy_difference(pairs, old, new)
    return None if accuracy is None else _change("", accuracy)


def _ranking(sides: Sequence[Side], ranked: Sequence[report.RankedSide], words: str) -> Pixels:
    best = sides[ranked[0].place].name
    lines = [
        DifferenceLine(sides[r.place].name, 0.0, 0.0, 0.0, percent(r.accuracy))
        if r.difference_to_best is None
        else _change(sides[r.place].name, r.difference_to_best, percent(r.accuracy))
        for r in ranked[:MAX_RANKED_SIDES]
    ]
    more = f"the best {MAX_RANKED_SIDES} of {len(ranked):,}: " if len(ranked) > MAX_RANKED_SIDES else ""
    return draw_differences(f"{more}{words} minus that of {best}", lines, words)


def _curves(sides: Sequence[Side], pairs: ComparisonPairs) -> Iterator[tuple[int, Scalar]]:
    """Yield curves of both sides and their difference; for steps of one run, each step against the first."""
    last = len(sides) - 1
    steps = {side.run for side in sides} == {sides[0].run} and len({side.step.step for side in sides}) == len(sides)
    for place in range(1, last + 1) if steps else (last,):
        comparison, step = pairs[0, place], sides[place].step.step
        old, new = sides[0].name, sides[place].name if not steps else "the step"
        for name, d in comparison.overall.items():
            spec = comparison.spec(name)
            short, label = spec.short, spec.label_with_unit
            yield step, Scalar(f"difference/{short}", d.difference, f"{label}: {new} minus {old}.")
            yield step, Scalar(f"old/{short}", d.old, f"{label} of {old}, over the images they share.")
            yield step, Scalar(f"new/{short}", d.new, f"{label} of {new}, over the images they share.")
        for name, rate in comparison.rates.items():
            yield step, Scalar(f"flips/{name}", rate.value, rate.definition)
