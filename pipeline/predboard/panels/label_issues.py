"""Images whose label is more likely wrong than the model: confident learning, and equal pictures with other labels.

Knows no picture, only what the model says of it; and no classes' totals beyond those it needs.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, percent
from predboard.metrics import registry
from predboard.metrics.registry import Direction
from predboard.panels import RunInfo, TwoPass
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TOP_CLASSES, Predictions, TileRows, no_tile_rows
from predboard.state import FIXED_UNIT, Counted, Lowest, summed
from predboard.summaries import File, Metric, Metrics, Scalar, Summary, Text, Tiles

SLOTS = 2**23
"""Of each of two hash tables that say which pictures may be there twice."""

ALIKE = 20_000
"""Rows that are looked at for equal pictures."""


@dataclass(frozen=True)
class DuplicateFilter:
    """Which slots of two hash tables were hit, and which of them twice: what hits no slot twice is there once."""

    once: NDArray[np.uint8]  # [2, SLOTS / 8] a bit for each slot
    twice: NDArray[np.uint8]  # [2, SLOTS / 8]

    @classmethod
    def of(cls, digest: NDArray[np.int64]) -> "DuplicateFilter":
        """Of [rows] hashes of pictures."""
        once, twice = (np.zeros((2, SLOTS // 8), np.uint8) for _ in range(2))
        for i, slots in enumerate(_slots(digest)):
            slot, count = np.unique(slots, return_counts=True)
            for table, hit in ((once[i], slot), (twice[i], slot[count > 1])):
                np.bitwise_or.at(table, hit >> 3, (1 << (hit & 7)).astype(np.uint8))
        return cls(once, twice)

    def merge(self, other: "DuplicateFilter") -> "DuplicateFilter":
        """A new value; neither argument changes."""
        return DuplicateFilter(self.once | other.once, self.twice | other.twice | (self.once & other.once))

    def maybe_twice(self, digest: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether pictures may be there more than once. -> [rows]."""
        hit = [table[slot >> 3] >> (slot & 7) & 1 for table, slot in zip(self.twice, _slots(digest), strict=True)]
        return np.asarray((hit[0] & hit[1]).astype(bool))


@dataclass(frozen=True)
class State:
    """For each class the sum of the probability given to it on its own rows; which pictures may be there twice."""

    seen: DuplicateFilter
    given: NDArray[np.int64] = summed()  # [classes] in units of 2**-20
    rows: NDArray[np.int64] = summed()  # [classes]


@dataclass(frozen=True)
class SecondState:
    """Given and suspected label of the rows where a class stands out; the suspects; rows whose picture may be twice."""

    joint: Counted  # of given * classes + suspected
    suspects: Lowest
    alike: Lowest  # by the hash of the picture, which is in `rows` as `digest`
    suspected: np.int64 = summed()
    possible: np.int64 = summed()
    """Rows whose picture may be there twice; more than are in `alike` if there are too many."""


@dataclass(frozen=True)
class Panel:
    """Suspected label errors (confident learning): how many and which; equal pictures with different labels."""

    gallery: int = 24
    """Suspects with pictures."""
    kept: int = 10_000
    """Suspects in `suspects.csv`."""
    listed: int = 100
    """Rows of a table."""
    columns: frozenset[str] = frozenset({"label", "predicted", "loss", "digest"})

    def zero(self, run: Run) -> State:
        """No rows."""
        none = np.zeros(len(run.classes), np.int64)
        return State(DuplicateFilter.of(none[:0]), none, none)

    def measure(self, run: Run, batch: Predictions) -> State:
        """These rows alone."""
        rows = batch.labelled
        given, counts = (np.zeros(len(run.classes), np.int64) for _ in range(2))
        np.add.at(given, rows.label, np.rint(np.exp(-rows.loss.astype(np.float64)) / FIXED_UNIT).astype(np.int64))
        np.add.at(counts, rows.label, 1)
        return State(DuplicateFilter.of(rows.digest[rows.has_digest]), given, counts)

    def zero_second(self, run: Run, first: State) -> SecondState:  # noqa: ARG002  no rows in any case
        """No rows."""
        nothing, none = no_tile_rows(len(run.classes)), np.zeros(0, np.int64)
        suspects = Lowest(self.kept, none, np.zeros(0), {**nothing, "suspected": none})
        alike = Lowest(ALIKE, none, np.zeros(0), {**nothing, "digest": none})
        return SecondState(Counted.of(none), suspects, alike, np.int64(0), np.int64(0))

    def measure_second(self, run: Run, first: State, rows: DerivedRows) -> SecondState:
        """These rows alone."""
        known = rows.labelled
        candidate = stands_out(first, known)  # [rows]
        found = candidate >= 0
        joint = Counted.of(known.label[found] * len(run.classes) + candidate[found])
        # As cleanlab does: a row whose label is the prediction is no suspect, whatever stands out.
        wrong = np.flatnonzero(found & (candidate != known.label) & ~known.right)
        score = margin(known)[wrong]
        stay = Lowest.choose(self.kept, np.zeros(len(wrong), np.int64), score, known.key[wrong], known.id[wrong])
        chosen = wrong[stay]
        suspects = {**known.tile_rows(chosen), "suspected": candidate[chosen]}

        possible = np.flatnonzero(known.has_digest & first.seen.maybe_twice(known.digest))
        hashed = mix(known.digest[possible], Salt.DUPLICATES).astype(np.float64)
        group = np.zeros(len(possible), np.int64)
        same = Lowest.choose(ALIKE, group, hashed, known.key[possible], known.id[possible])
        alike = {**known.tile_rows(possible[same]), "digest": known.digest[possible[same]]}
        return SecondState(
            joint,
            Lowest(self.kept, np.zeros(len(stay), np.int64), score[stay], suspects),
            Lowest(ALIKE, group[same], hashed[same], alike),
            np.int64(len(wrong)),
            np.int64(len(possible)),
        )

    def render(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Summary]]:
        """Numbers over the steps, a gallery and a page at each; files of the last step."""
        names = info.run.classes
        for step, state in states.items():
            first, again = state.first, state.second
            labelled = int(first.rows.sum())
            if not labelled:
                continue
            found = _figures(state)
            for name, figure in found.items():
                yield step, Scalar(name, float(figure.value), figure.definition)
            yield step, Metrics("label_issues", found)
            rows = {name: column[: self.gallery] for name, column in again.suspects.rows.items()}
            if len(rows["id"]):
                description = "Labels that are most likely wrong (confident learning), the most likely first."
                yield step, Tiles("examples/suspected_label_errors", rows, description)
            clash = clashes(again.alike.rows)
            if len(clash):
                rows = {name: column[clash[: self.gallery]] for name, column in again.alike.rows.items()}
                yield (
                    step,
                    Tiles("label_issues/same_picture", rows, "Equal pictures with different labels, side by side."),
                )
            if step == max(states):
                yield (
                    step,
                    Text("report/label_issues", self._page(names, first, again, clash), "Wrong labels."),
                )
                yield step, File("suspects.csv", _table(again.suspects.rows, names))

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Doubts about labels: the model is no better for fewer of them."""
        return registry.directions("label_issues")

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all of them come of one state
        """The same: fewer figures need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Metrics]]:  # noqa: ARG002
        """How many labels may be wrong, where there are any."""
        for step, state in states.items():
            if state.first.rows.any():
                yield step, Metrics("label_issues", _figures(state))

    def _page(self, names: tuple[str, ...], first: State, again: SecondState, clash: NDArray[np.int64]) -> str:
        labelled, share = int(first.rows.sum()), estimated_share(first.rows, again.joint, len(names))
        low = thresholds(first)
        exact = bool(np.nanmin(low) > 1 / (TOP_CLASSES + 1)) or len(names) <= TOP_CLASSES
        parts = [
            f"**{int(again.suspected):,} of {labelled:,} labels are suspected**; confident learning (Northcutt et al. "
            f"2021) estimates that {percent(share)} are wrong. The images must not have been trained on: "
            "a model that has seen a wrong label agrees with it.",
            "A class stands out on an image if it gets at least the probability that it gets on its own images on "
            "average. A label is suspected where another class stands out more and the model predicts another class. "
            + (
                "That is exact here."
                if exact
                else f"Only the {TOP_CLASSES} highest classes of an image are looked at, so a class that stands out "
                f"with less "
                "than a sixth may be missed here."
            ),
        ]
        true, other = np.divmod(again.joint.value, len(names))
        off = true != other
        order = np.lexsort((other[off], true[off], -again.joint.count[off]))[: self.listed // 4]
        if len(order):
            parts.append("### Labels that may be wrong, by class\n\n| label | suspected | images |\n|---|---|---:|")
            for t, o, n in zip(true[off][order], other[off][order], again.joint.count[off][order], strict=True):
                parts[-1] += f"\n| {escape_markdown(names[t])} | {escape_markdown(names[o])} | {n:,} |"
        rows = again.suspects.rows
        if len(rows["id"]):
            parts.append(
                "### Most suspected images\n\n| row | image | label | suspected | p(label) | p(suspected) |\n"
                "|---:|---|---|---|---:|---:|"
            )
            for i in range(min(len(rows["id"]), self.listed)):
                p = percent(float(np.exp(-rows["loss"][i])))
                q = percent(_probability(rows, i))
                label, suspected = names[rows["label"][i]], names[rows["suspected"][i]]
                image = escape_markdown(str(rows["image"][i] or ""))
                parts[-1] += (
                    f"\n| {rows['id'][i]} | {image} | {escape_markdown(label)} | {escape_markdown(suspected)} | {p} "
                    f"| {q} |"
                )
            more = int(again.suspected) - min(len(rows["id"]), self.listed)
            if more:
                parts.append(f"{more:,} more; the first {self.kept:,} of all are in `suspects.csv`.")
        parts.append(self._alike(again, names, clash))
        return "\n\n".join(part for part in parts if part)

    def _alike(self, again: SecondState, names: tuple[str, ...], clash: NDArray[np.int64]) -> str:
        rows = again.alike.rows
        digest, count = np.unique(rows["digest"], return_counts=True)
        twice = int((count > 1).sum())
        if not twice:
            return "No picture is there twice." if len(digest) or not again.possible else ""
        page = (
            f"### Equal pictures\n\n{twice:,} pictures are there more than once, byte by byte, in "
            f"{int(count[count > 1].sum()):,} rows"
        )
        if int(again.possible) > len(rows["id"]):
            page += f" (of {len(rows['id']):,} rows looked at, a fair sample of {int(again.possible):,} that may be)"
        if not len(clash):
            return page + "; none of them has two labels."
        page += f"; {len(np.unique(rows['digest'][clash])):,} of them have different labels:\n\n| row | image | label |"
        page += "\n|---:|---|---|"
        for i in clash[: self.listed].tolist():
            page += (
                f"\n| {rows['id'][i]} | {escape_markdown(str(rows['image'][i] or ''))} | "
                f"{escape_markdown(names[rows['label'][i]])} |"
            )
        return page


def _figures(state: TwoPass) -> dict[str, Metric]:
    """Of at least one labelled row."""
    labelled: NDArray[np.int64] = state.first.rows
    values = int(state.second.suspected), estimated_share(labelled, state.second.joint, len(labelled))
    return {
        spec.name: Metric(value, definition=spec.definition, rows=rows)
        for spec, value, rows in zip(registry.rows("label_issues"), values, (None, int(labelled.sum())), strict=True)
    }


def thresholds(first: State) -> NDArray[np.float64]:
    """[classes] mean probability of a class on its own rows; nan for a class without rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(first.given * FIXED_UNIT / first.rows)


def stands_out(first: State, rows: DerivedRows) -> NDArray[np.int64]:
    """The class of highest probability among those at or above their threshold, of labelled rows; -1 if there is none.

    -> [rows] int64.
    """
    low = thresholds(first)[rows.top]  # [rows, KEPT], nan for a class without rows, which is above no threshold
    above = rows.top_probability.astype(np.float64) + FIXED_UNIT >= low  # thresholds are rounded to UNIT
    place = above.argmax(axis=1)
    return np.where(above.any(axis=1), rows.top[np.arange(len(rows)), place], -1)


def margin(rows: DerivedRows) -> NDArray[np.float64]:
    """Normalised margin: probability of the label less the highest of the others, of labelled rows. -> [rows]."""
    given = np.exp(-rows.loss.astype(np.float64))
    top = rows.top_probability.astype(np.float64)
    if top.shape[1] == 1:
        return given
    return given - np.where(rows.right, top[:, 1], top[:, 0])


def estimated_share(rows: NDArray[np.int64], joint: Counted, classes: int) -> float:
    """Share of wrong labels: the joint's rows are scaled to the classes' numbers of labels, then all is scaled to 1.

    A class on which nothing stands out counts as right (Northcutt et al. 2021, equation 3).
    """
    true, other = np.divmod(joint.value, classes)
    of_class, right = np.zeros(classes), np.zeros(classes)
    np.add.at(of_class, true, joint.count)
    np.add.at(right, true[true == other], joint.count[true == other])
    wrong = np.where(of_class > 0, 1 - right / np.maximum(of_class, 1), 0.0)
    return float((wrong * rows).sum() / rows.sum())


def clashes(rows: TileRows) -> NDArray[np.int64]:
    """Places of the rows whose picture is also there with another label, equal pictures together."""
    order = np.lexsort((rows["id"], rows["label"], rows["digest"]))
    digest, label = rows["digest"][order], rows["label"][order]
    _, group = np.unique(digest, return_inverse=True)
    if not len(group):
        return order
    least, most = (np.full(group.max() + 1, fill) for fill in (np.iinfo(np.int64).max, -1))
    np.minimum.at(least, group, label)
    np.maximum.at(most, group, label)
    return np.asarray(order[(least < most)[group]])


def _slots(digest: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    salts = Salt.DUPLICATE_FILTER_A, Salt.DUPLICATE_FILTER_B
    return [(mix(digest, salt).view(np.uint64) % np.uint64(SLOTS)).astype(np.int64) for salt in salts]


def _probability(rows: TileRows, i: int) -> float:
    """Of the suspected class of one suspect, which is among the highest."""
    return float(rows["top_probability"][i][rows["top_class"][i] == rows["suspected"][i]].sum())


def _table(rows: TileRows, names: tuple[str, ...]) -> bytes:
    header = "row,key,image,label,suspected,predicted,confidence,probability_of_label\n"
    images = [image or "" for image in rows["image"].tolist()]
    classes = [TextCodes(names, rows[column]) for column in ("label", "suspected", "predicted")]
    given = np.exp(-rows["loss"])
    return header.encode() + csv_lines.format_csv_lines(
        [rows["id"], rows["key"], images, *classes, rows["confidence"], given]
    )
