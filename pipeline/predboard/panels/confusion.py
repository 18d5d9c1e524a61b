"""Shows which classes are confused with which, and on which images. It knows no probability but the prediction's."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.drawing import palette
from predboard.drawing.card_matrix import CARD_CLASSES
from predboard.errors import InputError
from predboard.formatting import did_you_mean, escape_markdown, markdown_table, percent, plural, unique_names
from predboard.metrics.counts import CountMetrics, Counts, CountsPanel
from predboard.metrics.intervals import wilson_intervals
from predboard.panels import RunInfo, TwoPass
from predboard.panels.pages.confusion import (
    EVERY,
    TABLE_PAIRS,
    asked_pairs,
    confusion_matrix,
    confusion_overview,
    format_lift,
    most_confused,
    order_classes,
    reverse_counts,
    strongest_share,
)
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import Run
from predboard.predictions.tasks import no_tile_rows
from predboard.state import Lowest
from predboard.summaries import File, Picture, Summary, Text, Tiles

OVERVIEW = (
    f"Rows: true class; columns: predicted class; {palette.RIGHT_WORD} is right, {palette.WRONG_WORD} is wrong. "
    "Classes that are often confused "
    "are neighbours, the worst first. The framed groups have the most errors inside; beside each stand its most "
    "frequent confusion, its errors, and how many more classes it has."
)

MATRIX = "Rows: true class; columns: predicted class. The stronger a cell, the larger its share of the true class."

_EXPECTED = "expected true>predicted (in quotes, because a shell takes > for itself)"

RESERVED_NAMES = ("0_matrix", "0_overview", "1_matrix_large", "pairs")
"""Names that no gallery may have. A leading number puts a tag on TensorBoard's first page, before 120 tiles."""


@dataclass(frozen=True)
class PairImages:
    """A few rows of each of the most frequent confusions."""

    by_pair: Lowest  # by true * classes + predicted


@dataclass(frozen=True)
class Panel(CountsPanel):
    """Pictures: confusion matrix with numbers, overview of any number of classes. Text: pairs. Galleries of pairs."""

    block: int = 40
    """Classes in the large matrix. Of more, both have those that are confused most, and a row and column for all
    others."""
    galleries: int = 6
    """Pairs whose images are shown, the most frequent ones."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Pairs (true, predicted) to show instead; `EVERY` stands for each class that is confused."""
    per_gallery: int = 12
    """Images of each pair."""

    def zero_second(self, run: Run, first: Counts) -> PairImages:  # noqa: ARG002  nothing depends on it
        """Return the second state of no rows."""
        return PairImages(Lowest(self.per_gallery, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(run)))

    def measure_second(self, run: Run, first: Counts, rows: DerivedRows) -> PairImages:
        """Choose the images of each of the most frequent pairs that are wrong with the most confidence."""
        labelled, classes = rows.labelled, len(run.classes)
        chosen = [true * classes + predicted for true, predicted, _ in self._choose(first.metrics)]
        pair = labelled.label * classes + labelled.predicted
        among = np.flatnonzero(np.isin(pair, chosen))
        score = -labelled.confidence[among]
        return PairImages(Lowest.of_tiles(self.per_gallery, labelled, among, score, pair[among]))

    def render(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Summary]]:
        """Yield two pictures and a table for each step, and galleries for the last.

        The last step decides which classes are drawn at all steps, and in which order.
        """
        names = info.run.classes
        counted = {step: state.first.metrics for step, state in states.items()}
        counted = {step: scores for step, scores in counted.items() if scores.counted}
        if not counted:
            return
        last = max(counted)
        order = order_classes(counted[last])
        matrices = {"0_matrix": most_confused(counted[last], order, CARD_CLASSES)}
        if len(order.items) > CARD_CLASSES:
            matrices["1_matrix_large"] = most_confused(counted[last], order, self.block)
        strongest = strongest_share(counted[last])
        for step, scores in counted.items():
            overview = functools.partial(confusion_overview, scores, order, strongest, names)
            yield step, Picture("confusion/0_overview", overview, OVERVIEW)
            for tag, classes in matrices.items():
                matrix = functools.partial(confusion_matrix, scores, classes, names)
                yield step, Picture(f"confusion/{tag}", matrix, MATRIX)
            yield step, Text("confusion/pairs", _table(scores, names), "Which classes are confused with which.")
        yield last, File("pairs.csv", _csv(counted, names), "All confusions of all steps, for other tools.")
        yield from ((last, tiles) for tiles in self._galleries(counted[last], states[last].second.by_pair, names))

    def notes(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[str]:
        """Yield which of the pairs that were asked for have no image at the last step."""
        last, names = max(states), info.run.classes
        for true, predicted, count in self._choose(states[last].first.metrics) if self.pairs else ():
            if not count:
                yield f"no image of {names[true]} was predicted as {names[predicted]} at step {last}"

    def _choose(self, scores: CountMetrics) -> list[tuple[int, int, int]]:
        """Return (true, predicted, images) of the pairs to show."""
        return asked_pairs(scores, self.pairs) if self.pairs else scores.pairs(self.galleries)

    def _galleries(self, scores: CountMetrics, images: Lowest, names: tuple[str, ...]) -> Iterator[Tiles]:
        pairs = [pair for pair in self._choose(scores) if pair[2]]
        tags = unique_names([f"{names[true]} as {names[predicted]}" for true, predicted, _ in pairs], RESERVED_NAMES)
        for tag, (true, predicted, count) in zip(tags, pairs, strict=True):
            rows = images.rows_of_group(true * len(names) + predicted)
            yield Tiles(
                f"confusion/{tag}",
                rows,
                f"{len(rows['id'])} of {plural(count, 'image')} of {escape_markdown(names[true])} predicted as "
                f"{escape_markdown(names[predicted])}, the most confident first.",
            )


def parse_pairs(texts: Sequence[str], names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the classes of pairs that are written "true>predicted", with `*` for every class.

    Raises InputError for a class that there is not.

    >>> parse_pairs(["cat>dog", "*>a>b"], ["cat", "dog", "a>b"])
    ((0, 1), (-1, 2))
    """
    place = {"*": EVERY} | {name: i for i, name in enumerate(names)}
    pairs = []
    for text in texts:
        cuts = [(text[: at.start()].strip(), text[at.end() :].strip()) for at in re.finditer(">", text)]
        fitting = [cut for cut in cuts if cut[0] in place and cut[1] in place]
        if not fitting:
            unknown = next((name for name in cuts[0] if name not in place), "") if cuts else ""
            reason = f"{unknown!r} is no class{did_you_mean(unknown, names)}" if cuts else _EXPECTED
            raise InputError(f"--pairs has {text!r}: {reason}")
        pairs.append((place[fitting[0][0]], place[fitting[0][1]]))
    return tuple(pairs)


def _table(scores: CountMetrics, names: tuple[str, ...]) -> str:
    true, predicted, count = scores.confusions
    if not len(count):
        return f"There are no confusions: all {scores.counted:,} labelled images are right."
    frequent = scores.frequent(TABLE_PAIRS)
    columns = _columns(scores, frequent)
    rows = [
        [
            escape_markdown(names[true[at]]),
            escape_markdown(names[predicted[at]]),
            f"{count[at]:,}",
            *(percent(float(columns[name][i])) for name in ("share", "share_lower", "share_of_predicted")),
            format_lift(float(columns["lift"][i])),
            f"{columns['reverse'][i]:,}",
        ]
        for i, at in enumerate(frequent)
    ]
    titles = ("true", "predicted", "count", "share", "at least", "of predicted", "lift", "reverse")
    shown, errors = int(count[frequent].sum()), int(count.sum())
    rest = "" if shown == errors else "; `pairs.csv` beside the event file has all of them"
    return "\n\n".join(
        [
            markdown_table(titles, "llrrrrrr", rows),
            f"The table has {shown:,} of {errors:,} errors{rest}.",
            "`predboard visualize` with `--pairs 'true>predicted'` shows images of any pair; `errors.csv` lists all.",
            "*Share*: of the images of the true class. *At least*: lower end of the share's 95 % interval (Wilson). "
            "*Of predicted*: share of the images with this prediction. *Lift*: the count divided by what it would be "
            "if predictions were independent of the true class. *Reverse*: images of the predicted class that were "
            "predicted as the true one. If it is about as large as the count, the two classes overlap; if it is "
            "small, one class absorbs the other.",
        ]
    )


def _columns(scores: CountMetrics, at: NDArray[np.int64]) -> dict[str, NDArray[np.integer | np.floating]]:
    """Compute the columns of `pairs.csv` for some confusions, each [pairs]."""
    true, predicted, count = scores.confusions
    images, support, predictions = count[at], scores.support[true[at]], scores.predictions[predicted[at]]
    return {
        "true_class": true[at],
        "predicted_class": predicted[at],
        "images": images,
        "support": support,
        "predictions": predictions,
        "share": images / support,
        "share_lower": wilson_intervals(images, support)[0],
        "share_of_predicted": images / predictions,
        "lift": images * scores.counted / (support * predictions),
        "reverse": reverse_counts(scores, at),
    }


def _csv(counted: Mapping[int, CountMetrics], names: tuple[str, ...]) -> bytes:
    """Write `pairs.csv`: all confusions of all steps, the most frequent first."""
    written: list[bytes] = []
    for step, scores in counted.items():
        every = scores.frequent(len(scores.confusions[0]))
        columns = _columns(scores, every)
        if not written:
            written.append(f"{','.join(['step', 'label_name', 'predicted_name', *columns])}\n".encode())
        class_names = [TextCodes(names, codes[every]) for codes in scores.confusions[:2]]
        written.append(csv_lines.format_csv_lines([np.full(len(every), step), *class_names, *columns.values()]))
    return b"".join(written)
