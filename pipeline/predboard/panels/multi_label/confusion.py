"""Shows which labels are missed while which others are wrongly predicted, and on which images. It knows no probability
but that of wrong decisions.

No label stands for another: a pair counts the images in which the one is missed and the other wrongly predicted.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.drawing import palette
from predboard.drawing.card_matrix import CARD_CLASSES
from predboard.formatting import escape_markdown, markdown_table, percent, plural, unique_names
from predboard.metrics.intervals import wilson_intervals
from predboard.metrics.multi_label import label_counts
from predboard.metrics.multi_label.label_confusions import NOTHING, LabelConfusions
from predboard.metrics.multi_label.label_counts import LabelCounts
from predboard.metrics.multi_label.label_pairs import LabelPairs, PairCounts
from predboard.metrics.seriation import Seriation
from predboard.panels import RunInfo, TwoPass
from predboard.panels.pages.confusion import (
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
from predboard.panels.pages.label_pairs import draw_together, together_page
from predboard.predictions.label_sets import product
from predboard.predictions.multi_label.derived_rows import MultiLabelDerivedRows
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run
from predboard.predictions.tasks import no_tile_rows
from predboard.state import Lowest
from predboard.summaries import File, Picture, Summary, Text, Tiles

AXES = ("missed", "wrongly predicted")

READING = (
    f"Rows: labels that the images have; columns: labels wrongly predicted for images in which the row's label is "
    f"missed. {palette.RIGHT_WORD.capitalize()}, on the diagonal: images in which the label is predicted."
)

RESERVED_NAMES = ("0_matrix", "0_overview", "1_matrix_large", "2_together", "2_predicted_together", "pairs", "together")
"""Names that no gallery may have. A leading number puts a tag on TensorBoard's first page."""


@dataclass(frozen=True)
class State:
    """Counts of decisions and of pairs of labels."""

    counts: LabelCounts
    pairs: LabelPairs

    @functools.cached_property
    def confusions(self) -> LabelConfusions:
        """The pairs of missed and wrongly predicted labels, and those of one label and nothing."""
        return LabelConfusions(self.pairs, self.counts.metrics)

    @functools.cached_property
    def between_labels(self) -> LabelConfusions:
        """The pairs of missed and wrongly predicted labels alone."""
        return LabelConfusions(self.pairs, self.counts.metrics, with_nothing=False)


@dataclass(frozen=True)
class LabelPairImages:
    """A few rows of each of the most frequent pairs."""

    by_pair: Lowest  # by missed * (labels + 1) + wrongly predicted


@dataclass(frozen=True)
class Panel:
    """Pictures: labels missed against labels wrongly predicted; labels that occur together. Text: pairs. Galleries."""

    block: int = 40
    """Labels in the large matrix. Of more, both have those with most errors, and a row and column for all others."""
    galleries: int = 6
    """Pairs whose images are shown, the most frequent ones."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Pairs (missed, wrongly predicted) to show instead; `EVERY` stands for each label."""
    per_gallery: int = 12
    """Images of each pair."""
    columns: frozenset[str] = label_counts.COLUMNS

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(LabelCounts.zero(run), LabelPairs.zero(run))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        return State(LabelCounts.measure(run, batch), LabelPairs.measure(run, batch))

    def zero_second(self, run: Run, first: State) -> LabelPairImages:  # noqa: ARG002  nothing depends on it
        """Return the second state of no rows."""
        return LabelPairImages(Lowest(self.per_gallery, np.zeros(0, np.int64), np.zeros(0), no_tile_rows(run)))

    def measure_second(self, run: Run, first: State, rows: MultiLabelDerivedRows) -> LabelPairImages:
        """Choose the images of each of the most frequent pairs whose wrong label is the surest."""
        labelled, size = rows.labelled, len(run.classes) + 1
        pairs = self._choose(first)
        chosen = [missed * size + wrong for missed, wrong, _ in pairs]
        missed, wrong = labelled.missed, labelled.wrongly_predicted
        if all(size - 1 not in pair[:2] for pair in pairs):  # a model that predicts half of all labels has many pairs
            missed = missed.subset(np.isin(missed.label, [pair[0] for pair in pairs]))
            wrong = wrong.subset(np.isin(wrong.label, [pair[1] for pair in pairs]))
            both = (missed.size > 0) & (wrong.size > 0)
            missed, wrong = missed.subset(both[missed.row]), wrong.subset(both[wrong.row])
        code = product(missed, wrong, size - 1)
        width = np.maximum(missed.size, 1) * np.maximum(wrong.size, 1)
        row = np.repeat(np.arange(len(labelled)), np.where((missed.size > 0) | (wrong.size > 0), width, 0))
        asked = np.isin(code, chosen)
        code, row = code[asked], row[asked]
        score = -_surest(labelled, row, *np.divmod(code, size))
        return LabelPairImages(Lowest.of_tiles(self.per_gallery, labelled, row, score, code))

    def render(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Summary]]:
        """Yield pictures and tables for each step, and galleries for the last.

        The last step decides which labels are drawn at all steps, and in which order.
        """
        names = (*info.run.classes, NOTHING)
        counted = {step: state.first for step, state in states.items() if state.first.counts.metrics.counted}
        if not counted:
            return
        last = max(counted)
        inner = counted[last].between_labels
        order = order_classes(inner)
        matrices = {"0_matrix": most_confused(inner, order, CARD_CLASSES - 1)}
        if len(order.items) > CARD_CLASSES - 1:
            matrices["1_matrix_large"] = most_confused(inner, order, self.block)
        strongest, nothing = strongest_share(inner), np.array([inner.nothing])
        for step, state in counted.items():
            every = state.confusions
            whole = Seriation(np.append(order.items, nothing), order.groups)
            words = {
                "title": f"{plural(inner.classes, 'label')}, missed ↓ wrong →",
                "noun": "label",
                "without_recall": NOTHING,
            }
            overview = functools.partial(confusion_overview, every, whole, strongest, names, **words)
            yield step, Picture("confusion/0_overview", overview, f"{READING} The framed groups have the most errors.")
            for tag, labels in matrices.items():
                shown = np.append(labels, nothing)
                matrix = functools.partial(confusion_matrix, every, shown, names, AXES)
                yield step, Picture(f"confusion/{tag}", matrix, READING)
            yield step, Text("confusion/pairs", _table(every, names), "Which labels are missed for which others.")
            yield from ((step, summary) for summary in _together(state, info.run.classes))
        yield last, File("pairs.csv", _csv(counted, names), "All pairs of wrong decisions of all steps.")
        yield from ((last, tiles) for tiles in self._galleries(counted[last], states[last].second.by_pair, names))

    def notes(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[str]:
        """Yield which of the pairs that were asked for have no image at the last step."""
        last, names = max(states), (*info.run.classes, NOTHING)
        for missed, wrong, count in self._choose(states[last].first) if self.pairs else ():
            if not count:
                yield f"no image at step {last} misses {names[missed]} and is wrongly predicted to have {names[wrong]}"

    def _choose(self, state: State) -> list[tuple[int, int, int]]:
        """Return (missed, wrongly predicted, images) of the pairs to show."""
        if self.pairs:
            return asked_pairs(state.between_labels, self.pairs)
        return state.between_labels.pairs(self.galleries) or state.confusions.pairs(self.galleries)

    def _galleries(self, state: State, images: Lowest, names: tuple[str, ...]) -> Iterator[Tiles]:
        pairs = [pair for pair in self._choose(state) if pair[2]]
        texts = [f"{names[missed]} missed, {names[wrong]} wrongly predicted" for missed, wrong, _ in pairs]
        for tag, text, (missed, wrong, count) in zip(unique_names(texts, RESERVED_NAMES), texts, pairs, strict=True):
            rows = images.rows_of_group(missed * len(names) + wrong)
            shown = f"{len(rows['id'])} of {plural(count, 'image')}"
            yield Tiles(f"confusion/{tag}", rows, f"{shown} with {escape_markdown(text)}, the surest first.")


def _surest(
    rows: MultiLabelDerivedRows, row: NDArray[np.int64], missed: NDArray[np.int64], wrong: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how sure the model is of both wrong decisions of each pair, [pairs]: the sum of their probabilities."""
    size = max(int(missed.max(initial=0)), int(wrong.max(initial=0)), int(rows.labels.label.max(initial=0))) + 1
    size = max(size, int(rows.predicted_labels.label.max(initial=0)) + 1)
    sure = np.zeros(len(row))
    for label, sets, p in (
        (missed, rows.labels, 1 - rows.label_probability.astype(np.float64)),
        (wrong, rows.predicted_labels, rows.predicted_probability.astype(np.float64)),
    ):
        codes, code = sets.codes(size), row * size + label
        at = np.minimum(np.searchsorted(codes, code), max(len(codes) - 1, 0))
        if len(codes):
            sure += np.where(codes[at] == code, p[at], 0.0)
    return sure


def _together(state: State, names: tuple[str, ...]) -> Iterator[Summary]:
    """Yield how often labels occur together, in the images and in the predictions."""
    m = state.counts.metrics
    kinds: tuple[tuple[str, str, PairCounts, NDArray[np.int64]], ...] = (
        ("2_together", "Images that have both labels.", state.pairs.together, m.support),
        ("2_predicted_together", "Images predicted to have both.", state.pairs.predicted_together, m.predictions),
    )
    for tag, what, counts, of_label in kinds:
        if of_label.any():
            draw = functools.partial(draw_together, counts.cells, of_label, names)
            yield Picture(f"confusion/{tag}", draw, f"{what} The stronger a cell, the larger its share of the row.")
    page = together_page(state.pairs.together.cells, state.pairs.predicted_together.cells, m, names)
    yield Text("confusion/together", page, "Labels that occur together, and how often the predictions have both.")


def _columns(scores: LabelConfusions, at: NDArray[np.int64]) -> dict[str, NDArray[np.integer | np.floating]]:
    """Compute the columns of `pairs.csv` for some pairs, each [pairs]; nan where one side is "nothing"."""
    missed, wrong, count = scores.confusions
    images, support, predicted = count[at], scores.support[missed[at]], scores.predictions[wrong[at]]
    misses, wrongs = scores.support - scores.hits, scores.predictions - scores.hits
    real = (missed[at] != scores.nothing) & (wrong[at] != scores.nothing)
    expected = misses[missed[at]] * wrongs[wrong[at]] / max(scores.metrics.counted, 1)
    return {
        "missed_label": missed[at],
        "wrong_label": wrong[at],
        "images": images,
        "support": support,
        "predictions": predicted,
        "share": np.where(missed[at] != scores.nothing, images / np.maximum(support, 1), np.nan),
        "share_lower": np.where(
            missed[at] != scores.nothing, wilson_intervals(images, np.maximum(support, images))[0], np.nan
        ),
        "lift": np.where(real, images / np.maximum(expected, 1e-9), np.nan),
        "reverse": reverse_counts(scores, at),
    }


def _table(scores: LabelConfusions, names: tuple[str, ...]) -> str:
    missed, wrong, count = scores.confusions
    if not len(count):
        return f"No decision is wrong: the sets of all {scores.metrics.counted:,} images are right."
    every = scores.frequent(len(count))
    real = (missed[every] != scores.nothing) & (wrong[every] != scores.nothing)
    pairs, alone = every[real][:TABLE_PAIRS], every[~real][:TABLE_PAIRS]
    rest = len(count) - len(pairs) - len(alone)
    more = f" `pairs.csv` beside the event file has {rest:,} more." if rest else ""
    parts = []
    if len(pairs):
        parts += [_rows(scores, pairs, names), _READING]
    if len(alone):
        parts += [
            "### Errors with none of the other kind",
            _rows(scores, alone, names),
            f"{NOTHING} stands for no error of that kind: nothing wrongly predicted beside the missed label, or "
            f"nothing missed beside the wrongly predicted one.{more}",
        ]
    return "\n\n".join(parts)


_READING = (
    "Each row counts the images in which the first label is missed and the second wrongly predicted. An image with two "
    "missed labels is in two rows. `predboard visualize` with `--pairs 'missed>wrongly predicted'` shows images of any "
    "pair.\n\n*Share*: of the images that have the missed label. *At least*: lower end of the share's 95 % interval "
    "(Wilson). *Lift*: the count divided by what it would be if missing the one had nothing to do with wrongly "
    "predicting the other. *Reverse*: images with the two exchanged. If it is about as large as the count, the model "
    "cannot tell the two apart; if it is small, it prefers the one."
)


def _rows(scores: LabelConfusions, at: NDArray[np.int64], names: tuple[str, ...]) -> str:
    """Write the table of some pairs; columns that say nothing of a label alone are left out where all are."""
    missed, wrong, count = scores.confusions
    columns = _columns(scores, at)
    paired = not np.isnan(columns["lift"]).all()
    rows = []
    for i, place in enumerate(at.tolist()):
        share, least, lift = (float(columns[name][i]) for name in ("share", "share_lower", "lift"))
        row = [escape_markdown(names[missed[place]]), escape_markdown(names[wrong[place]]), f"{count[place]:,}"]
        row += ["–" if np.isnan(value) else percent(value) for value in (share, least)]
        if paired:
            row += [format_lift(lift), f"{columns['reverse'][i]:,}"]
        rows.append(row)
    titles = ("missed", "wrongly predicted", "images", "share", "at least", *(("lift", "reverse") if paired else ()))
    return markdown_table(titles, "llrrrrr"[: len(titles)], rows)


def _csv(counted: Mapping[int, State], names: tuple[str, ...]) -> bytes:
    """Write `pairs.csv`: all pairs of all steps, the most frequent first; the number of labels stands for nothing."""
    written: list[bytes] = []
    for step, state in counted.items():
        scores = state.confusions
        every = scores.frequent(len(scores.confusions[0]))
        columns = _columns(scores, every) if len(every) else {}
        if not written:
            keys = columns or _HEADINGS
            written.append(f"{','.join(['step', 'missed_name', 'wrong_name', *keys])}\n".encode())
        if columns:
            label_names = [TextCodes(names, codes[every]) for codes in scores.confusions[:2]]
            written.append(csv_lines.format_csv_lines([np.full(len(every), step), *label_names, *columns.values()]))
    return b"".join(written)


_HEADINGS = (
    *("missed_label", "wrong_label", "images", "support", "predictions"),
    *("share", "share_lower", "lift", "reverse"),
)
