"""Which classes are taken for which, and the images in question. Knows no probability but the prediction's."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.drawing import confusion
from predboard.drawing.confusion import ConfusionGroup, ConfusionOverview
from predboard.formatting import escape_markdown, percent, unique_names
from predboard.metrics.counts import CountMetrics, Counts, CountsPanel
from predboard.metrics.intervals import wilson_intervals
from predboard.metrics.seriation import Seriation, seriate
from predboard.panels import RunInfo, TwoPass
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import Run
from predboard.predictions.table import no_tile_rows
from predboard.state import Lowest
from predboard.summaries import File, Picture, Pixels, Summary, Text, Tiles

PAIRS = 100
"""Rows of the table: TensorBoard slows down above 200."""

GROUPS = 7
"""Groups that are named beside the overview: as many as there is room for."""

NAMES = 16
"""With no more classes than that, the overview has their names instead."""

OVERVIEW = (
    "Rows: true class; columns: predicted class; blue is right, vermillion wrong. Classes that are confused stand "
    "together, the worst first. Framed: the groups with most errors inside; beside them their most frequent confusion, "
    "their errors, and how many classes there are besides."
)

MATRIX = "Rows: true class; columns: predicted class; strength: share."

TAGS = ("0_matrix", "0_overview", "pairs")
"""That no gallery may be called. What begins with a number is on TensorBoard's first page, before 120 tiles."""


@dataclass(frozen=True)
class PairImages:
    """A few rows for each of the most frequent pairs."""

    of_pair: Lowest  # by true * classes + predicted


@dataclass(frozen=True)
class Panel(CountsPanel):
    """The confusion matrix with numbers, as an overview of any number of classes, and as a table; the images of it."""

    block: int = 40
    """Classes in the matrix; with more, those that are confused most, and one row and column for all others."""
    galleries: int = 6
    """Pairs of which images are shown."""
    count: int = 12
    """Images of each."""

    def zero_second(self, run: Run, first: Counts) -> PairImages:  # noqa: ARG002  nothing depends on it
        """No images."""
        return PairImages(Lowest(self.count, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(len(run.classes))))

    def measure_second(self, run: Run, first: Counts, rows: DerivedRows) -> PairImages:
        """Of each of the most frequent pairs the images that are wrong with the most confidence."""
        labelled, classes = rows.labelled, len(run.classes)
        chosen = [true * classes + predicted for true, predicted, _ in first.metrics.pairs(self.galleries)]
        pair = labelled.label * classes + labelled.predicted
        among = np.flatnonzero(np.isin(pair, chosen))
        group, score = pair[among], -labelled.confidence[among].astype(np.float64)
        stay = Lowest.choose(self.count, group, score, labelled.key[among], labelled.id[among])
        return PairImages(Lowest(self.count, group[stay], score[stay], labelled.tile_rows(among[stay])))

    def render(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Summary]]:
        """Two pictures and a table for each step; galleries at the last. Which classes and in which order, the last
        step decides.
        """
        names = info.run.classes
        counted = {step: state.first.metrics for step, state in states.items()}
        counted = {step: scores for step, scores in counted.items() if scores.counted}
        if not counted:
            return
        last = max(counted)
        order = _order(counted[last])
        chosen = _most_confused(counted[last], order, self.block)
        strongest = _strongest(counted[last])
        for step, scores in counted.items():
            overview = functools.partial(_overview, scores, order, strongest, names)
            yield step, Picture("confusion/0_overview", overview, OVERVIEW)
            matrix = functools.partial(_matrix, scores, chosen, names)
            yield step, Picture("confusion/0_matrix", matrix, MATRIX)
            yield step, Text("confusion/pairs", _table(scores, names), "Which classes are taken for which.")
        yield last, File("pairs.csv", _csv(counted, names), "All confusions, for other tools.")
        yield from ((last, tiles) for tiles in self._galleries(counted[last], states[last].second.of_pair, names))

    def _galleries(self, scores: CountMetrics, images: Lowest, names: tuple[str, ...]) -> Iterator[Tiles]:
        pairs = scores.pairs(self.galleries)
        tags = unique_names([f"{names[true]} as {names[predicted]}" for true, predicted, _ in pairs], TAGS)
        for tag, (true, predicted, count) in zip(tags, pairs, strict=True):
            rows = images.of_group(true * len(names) + predicted)
            yield Tiles(
                f"confusion/{tag}",
                rows,
                f"{len(rows['id'])} of {count:,} images of {escape_markdown(names[true])} that were predicted as "
                f"{escape_markdown(names[predicted])}, the most confident first.",
            )


def _order(scores: CountMetrics) -> Seriation:
    """The classes that were seen or predicted, confused ones together; places are places in them."""
    present = np.flatnonzero(scores.support + scores.predictions)
    place = np.zeros(scores.classes, np.int64)
    place[present] = np.arange(len(present))
    true, predicted, count = scores.confusions
    # By the lower end of the share, so that one image of two makes no two classes alike.
    found = seriate(len(present), place[true], place[predicted], wilson_intervals(count, scores.support[true])[0])
    return Seriation(present[found.items], found.groups)


def _most_confused(scores: CountMetrics, order: Seriation, limit: int) -> NDArray[np.int64]:
    """All classes that were seen or predicted, or of more than `limit` those of the most frequent pairs, in order."""
    if len(order.items) <= limit:
        return np.sort(order.items)
    chosen: dict[int, None] = {}
    for true, predicted, _ in scores.pairs(limit * limit):
        new = {true, predicted} - set(chosen)
        if len(chosen) + len(new) <= limit:
            chosen |= dict.fromkeys(new)
    for other in scores.most_errors(limit).tolist():  # where there are few confusions
        if len(chosen) < limit:
            chosen[other] = None
    return order.items[np.isin(order.items, list(chosen))]


def _strongest(scores: CountMetrics) -> float:
    """The largest share of a class that is surely taken for another; at least a tenth: few errors look few."""
    true, _, count = scores.confusions
    return max(0.1, float(wilson_intervals(count, scores.support[true])[0].max(initial=0)))


def _matrix(scores: CountMetrics, chosen: NDArray[np.int64], names: tuple[str, ...]) -> Pixels:
    others = scores.classes - len(chosen)
    counts = scores.matrix(chosen)
    if others and not counts[-1].any() and not counts[:, -1].any():
        counts, others = counts[:-1, :-1], 0
    shown = [names[c] for c in chosen] + [f"{others:,} others"] * (others > 0)
    return confusion.draw_confusion_matrix(counts, shown, counts.sum(axis=1).tolist(), others > 0)


def _overview(scores: CountMetrics, order: Seriation, strongest: float, names: tuple[str, ...]) -> Pixels:
    place = np.full(scores.classes, -1)
    place[order.items] = np.arange(len(order.items))
    true, predicted = (place[of] for of in scores.cells[:2])
    inside = (true >= 0) & (predicted >= 0)  # an earlier step may have predicted more classes
    cells = true[inside], predicted[inside], scores.cells[2][inside]
    few = [names[c] for c in order.items] if len(order.items) <= NAMES else []
    named = [
        ConfusionGroup(start, stop, names[order.items[a]], names[order.items[b]], errors)
        for start, stop, a, b, errors in _groups(order, *cells)
    ]
    seen = ConfusionOverview(*cells, scores.support[order.items], strongest, few, named)
    return confusion.draw_confusion_overview(seen)


def _groups(
    order: Seriation, true: NDArray[np.int64], predicted: NDArray[np.int64], count: NDArray[np.int64]
) -> list[tuple[int, int, int, int, int]]:
    """Start, stop, the most frequent confusion (true, predicted) and all errors inside of the groups that have most, in
    their order; all by places in the order.
    """
    group = np.full(len(order.items), -1)
    for number, (start, stop) in enumerate(order.groups):
        group[start:stop] = number
    inside = (true != predicted) & (group[true] >= 0) & (group[true] == group[predicted])
    errors = np.bincount(group[true[inside]], count[inside], len(order.groups)).astype(np.int64)
    found = []
    for number in sorted(np.argsort(-errors, kind="stable")[:GROUPS].tolist()):
        here = np.flatnonzero(inside & (group[true] == number))
        if len(here):
            most = here[np.argmax(count[here])]
            found.append((*order.groups[number], int(true[most]), int(predicted[most]), int(errors[number])))
    return found


def _table(scores: CountMetrics, names: tuple[str, ...]) -> str:
    true, predicted, count = scores.confusions
    if not len(count):
        return f"No confusions: all {scores.counted:,} labelled images are right."
    frequent = scores.frequent(PAIRS)
    lines = [
        "| true | predicted | count | share | at least | of predicted | lift | reverse |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    columns = _columns(scores, frequent)
    for i, at in enumerate(frequent):
        shares = (columns[name][i] for name in ("share", "share_lower", "share_of_predicted"))
        cells = [
            escape_markdown(names[true[at]]),
            escape_markdown(names[predicted[at]]),
            f"{count[at]:,}",
            *(percent(float(share)) for share in shares),
            f"{columns['lift'][i]:#.2g}" if columns["lift"][i] < 9.95 else f"{columns['lift'][i]:,.0f}",
            f"{columns['reverse'][i]:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shown, errors = int(count[frequent].sum()), int(count.sum())
    rest = "" if shown == errors else "; `pairs.csv` beside the event file has all"
    return "\n".join(
        [
            *lines,
            "",
            f"{shown:,} of {errors:,} errors are in this table{rest}.",
            "",
            "*Share* of the images of the true class; *at least*: lower end of its 95 % interval (Wilson). "
            "*Of predicted*: share of the images predicted so. *Lift*: count, compared with what there would be if "
            "predictions had nothing to do with the true class. *Reverse*: images of the predicted class that were "
            "taken for the true one; where it is as large, the classes overlap; where it is small, one swallows the "
            "other.",
        ]
    )


def _columns(scores: CountMetrics, at: NDArray[np.int64]) -> dict[str, NDArray[np.integer | np.floating]]:
    """What there is to know of some confusions, each [pairs]."""
    true, predicted, count = scores.confusions
    code = true * scores.classes + predicted  # ascending
    back = predicted[at] * scores.classes + true[at]
    where = np.minimum(np.searchsorted(code, back), len(code) - 1)
    images, of, predictions = count[at], scores.support[true[at]], scores.predictions[predicted[at]]
    return {
        "true_class": true[at],
        "predicted_class": predicted[at],
        "images": images,
        "support": of,
        "predictions": predictions,
        "share": images / of,
        "share_lower": wilson_intervals(images, of)[0],
        "share_of_predicted": images / predictions,
        "lift": images * scores.counted / (of * predictions),
        "reverse": np.where(code[where] == back, count[where], 0),
    }


def _csv(counted: Mapping[int, CountMetrics], names: tuple[str, ...]) -> bytes:
    """All confusions of all steps, the most frequent first."""
    written: list[bytes] = []
    for step, scores in counted.items():
        every = scores.frequent(len(scores.confusions[0]))
        columns = _columns(scores, every)
        if not written:
            written.append(f"{','.join(['step', 'label_name', 'predicted_name', *columns])}\n".encode())
        of_names = [TextCodes(names, of[every]) for of in scores.confusions[:2]]
        written.append(csv_lines.format_csv_lines([np.full(len(every), step), *of_names, *columns.values()]))
    return b"".join(written)
