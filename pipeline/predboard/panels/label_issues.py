"""Labels that are more likely wrong than the model: confident learning, and equal images with different labels.

It knows no image, only what the model predicts for it, and no totals of classes beyond those it needs. Its words are in
`pages.label_issues`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from predboard.log_names import SUSPECTS_FILE
from predboard.metrics import counts, registry
from predboard.metrics.counts import Counts
from predboard.metrics.data_warnings import is_near_chance
from predboard.metrics.metric_spec import Direction
from predboard.panels import RunInfo, TwoPass
from predboard.panels.pages.label_issues import LabelIssues, label_issues_page, suspects_csv
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import TOP_CLASSES, Predictions, TileRows
from predboard.predictions.tasks import no_tile_rows
from predboard.state import FIXED_UNIT, Counted, Lowest, summed
from predboard.summaries import File, Metric, Metrics, Scalar, Summary, Text, Tiles

FILTER_SLOTS = 2**23
"""Slots of each of the two hash tables that tell which images may occur twice."""

DUPLICATE_ROWS_MAX = 20_000
"""Images that are examined for duplicates; of more, a random sample."""


@dataclass(frozen=True)
class DuplicateFilter:
    """A Bloom filter that tells which hashes may have occurred twice: one that hit no slot twice occurred once.

    >>> a = DuplicateFilter.measure(np.array([1, 2]))
    >>> a.merge(DuplicateFilter.measure(np.array([2, 3]))).maybe_twice(np.array([1, 2, 3]))
    array([False,  True, False])
    """

    once: NDArray[np.uint8]  # [2, FILTER_SLOTS / 8] a bit for each slot that was hit
    twice: NDArray[np.uint8]  # [2, FILTER_SLOTS / 8] a bit for each slot that was hit twice

    @classmethod
    def measure(cls, digest: NDArray[np.int64]) -> "DuplicateFilter":
        """Return the filter of some hashes of images, int64 [rows]."""
        once, twice = (np.zeros((2, FILTER_SLOTS // 8), np.uint8) for _ in range(2))
        for i, slots in enumerate(_slots(digest)):
            slot, count = np.unique(slots, return_counts=True)
            for table, hit in ((once[i], slot), (twice[i], slot[count > 1])):
                np.bitwise_or.at(table, hit >> 3, (1 << (hit & 7)).astype(np.uint8))
        return cls(once, twice)

    def merge(self, other: "DuplicateFilter") -> "DuplicateFilter":
        """Return the filter of both; neither argument changes."""
        twice = self.once & other.once  # new memory once: to get it takes longer than to fill it
        twice |= self.twice
        twice |= other.twice
        return DuplicateFilter(self.once | other.once, twice)

    def maybe_twice(self, digest: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which hashes may have occurred more than once, bool [rows]."""
        hit = [table[slot >> 3] >> (slot & 7) & 1 for table, slot in zip(self.twice, _slots(digest), strict=True)]
        return np.asarray((hit[0] & hit[1]).astype(bool))


@dataclass(frozen=True)
class State:
    """The sum of each class's probability over the rows with that label; which images may occur twice."""

    seen: DuplicateFilter
    tally: Counts
    given: NDArray[np.int64] = summed()  # [classes] in units of 2**-20

    @property
    def rows(self) -> NDArray[np.int64]:
        """[classes] labelled rows of each class."""
        return self.tally.metrics.support


@dataclass(frozen=True)
class SecondState:
    """Label and suspected class of the rows on which a class stands out; the suspects; possible duplicates."""

    joint: Counted  # of label * classes + suspected class
    suspects: Lowest
    alike: Lowest  # by a hash of the image, which is in `rows` as `digest`
    suspected: np.int64 = summed()
    undecided: NDArray[np.int64] = summed()
    """[classes] rows by label on which a class beyond the stored ones may decide."""
    overlooked: np.int64 = summed()
    """Rows among them that are no suspects, but may be."""
    possible: np.int64 = summed()
    """Images that may occur twice; `alike` has a sample if there are too many."""


@dataclass(frozen=True)
class Panel:
    """Label errors: how many labels are suspected and which (confident learning); duplicates with different labels."""

    per_gallery: int = 24
    """Images in a gallery."""
    csv_rows: int = 10_000
    """Suspects in `suspects.csv`."""
    listed: int = 100
    """Rows of a table on the page."""
    columns: frozenset[str] = counts.COLUMNS | {"digest"}

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        none = np.zeros(len(run.classes), np.int64)
        return State(DuplicateFilter.measure(none[:0]), Counts.zero(run), none)

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        rows = batch.labelled
        given = np.zeros(len(run.classes), np.int64)
        np.add.at(given, rows.label, np.rint(np.exp(-rows.loss.astype(np.float64)) / FIXED_UNIT).astype(np.int64))
        return State(DuplicateFilter.measure(rows.digest[rows.has_digest]), Counts.measure(run, batch), given)

    def zero_second(self, run: Run, first: State) -> SecondState:  # noqa: ARG002  no rows in any case
        """Return the second state of no rows."""
        nothing, none = no_tile_rows(run), np.zeros(0, np.int64)
        suspects = Lowest(self.csv_rows, none, np.zeros(0), {**nothing, "suspected": none})
        alike = Lowest(DUPLICATE_ROWS_MAX, none, np.zeros(0), {**nothing, "digest": none})
        zero = np.int64(0)
        return SecondState(
            Counted.from_values(none), suspects, alike, zero, np.zeros(len(run.classes), np.int64), zero, zero
        )

    def measure_second(self, run: Run, first: State, rows: DerivedRows) -> SecondState:
        """Return the second state of these rows alone."""
        known = rows.labelled
        candidate, above = stands_out(first, known)  # [rows] each
        has_one = above > 0
        joint = Counted.from_values(known.label[has_one] * len(run.classes) + candidate[has_one])
        suspect = is_suspect(known, candidate)
        wrong = np.flatnonzero(suspect)
        unsure = (above < 2) & may_stand_out_beyond(first, known)
        undecided = np.zeros(len(run.classes), np.int64)
        np.add.at(undecided, known.label[unsure], 1)
        score = margin(known)[wrong]
        group = np.zeros(len(wrong), np.int64)
        likeliest = Lowest.choose(self.csv_rows, group, score, known.key[wrong], known.id[wrong])
        chosen = wrong[likeliest]
        suspects = {**known.tile_rows(chosen), "suspected": candidate[chosen]}

        possible = np.flatnonzero(known.has_digest & first.seen.maybe_twice(known.digest))
        hashed = mix(known.digest[possible], Salt.DUPLICATES).astype(np.float64)
        group = np.zeros(len(possible), np.int64)
        same = Lowest.choose(DUPLICATE_ROWS_MAX, group, hashed, known.key[possible], known.id[possible])
        alike = {**known.tile_rows(possible[same]), "digest": known.digest[possible[same]]}
        return SecondState(
            joint,
            Lowest(self.csv_rows, np.zeros(len(chosen), np.int64), score[likeliest], suspects),
            Lowest(DUPLICATE_ROWS_MAX, group[same], hashed[same], alike),
            np.int64(len(wrong)),
            undecided,
            np.int64((unsure & ~known.right & ~suspect).sum()),
            np.int64(len(possible)),
        )

    def render(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Summary]]:
        """Yield numbers and galleries for each step, and the page and the file of the last step."""
        for step, state in states.items():
            second: SecondState = state.second
            if not state.first.rows.any():
                continue
            metrics = _metrics(state)
            for name, metric in metrics.items():
                yield step, Scalar(name, float(metric.value), metric.definition)
            yield step, Metrics("label_issues", metrics)
            rows = {name: column[: self.per_gallery] for name, column in second.suspects.rows.items()}
            if len(rows["id"]) and not is_near_chance(state.first.tally.metrics):
                description = "Labels that are most likely wrong (confident learning), the most likely first."
                yield step, Tiles("examples/suspected_label_errors", rows, description)
            clashing = clashes(second.alike.rows)
            if len(clashing):
                rows = {name: column[clashing[: self.per_gallery]] for name, column in second.alike.rows.items()}
                description = "Duplicate images with different labels, side by side."
                yield step, Tiles("label_issues/same_picture", rows, description)
            if step == max(states):
                issues = _issues(info.run.classes, state, metrics, clashing)
                page = label_issues_page(issues, self.listed, self.csv_rows)
                yield step, Text("report/label_issues", page, "Labels that may be wrong, and duplicate images.")
                yield step, File(SUSPECTS_FILE, suspects_csv(second.suspects.rows, info.run.classes))

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Give no direction: a model is no better because fewer labels are suspected."""
        return registry.directions("label_issues")

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all come from one state
        """Return the same panel: fewer metrics need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Metrics]]:  # noqa: ARG002
        """Yield how many labels may be wrong, for each step that has labels."""
        for step, state in states.items():
            if state.first.rows.any():
                yield step, Metrics("label_issues", _metrics(state))


def _metrics(state: TwoPass) -> dict[str, Metric]:
    """Compute the metrics of a step with at least one label."""
    labelled: NDArray[np.int64] = state.first.rows
    second: SecondState = state.second
    share, off = estimated_share(labelled, second.joint, len(labelled), second.undecided)
    suspected, estimated = registry.rows("label_issues")
    return {
        suspected.name: Metric(int(second.suspected), definition=suspected.definition, bound=float(second.overlooked)),
        estimated.name: Metric(share, definition=estimated.definition, bound=off, rows=int(labelled.sum())),
    }


def _issues(
    names: tuple[str, ...], state: TwoPass, metrics: Mapping[str, Metric], clashing: NDArray[np.int64]
) -> LabelIssues:
    second: SecondState = state.second
    return LabelIssues(
        names=names,
        labelled=int(state.first.rows.sum()),
        suspected=int(second.suspected),
        estimated_share=metrics["label_issues/estimated_share"].value,
        overlooked=int(second.overlooked),
        is_near_chance=is_near_chance(state.first.tally.metrics),
        joint=second.joint,
        suspects=second.suspects.rows,
        duplicates=second.alike.rows,
        clashing=clashing,
        possible_duplicates=int(second.possible),
    )


def thresholds(first: State) -> NDArray[np.float64]:
    """Return each class's mean probability over the rows with that label, [classes]; nan for a class without rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(first.given * FIXED_UNIT / first.rows)


def stands_out(first: State, rows: DerivedRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the class that stands out, int64 [labelled rows], -1 for none, and how many stored classes do.

    A class stands out if it is at or above its threshold. Of several the predicted class counts, as in cleanlab.
    """
    low = thresholds(first)[rows.top]  # [rows, TOP_CLASSES]; nan for a class without rows, which nothing is above
    above = rows.top_probability.astype(np.float64) + FIXED_UNIT >= low  # thresholds are rounded to it
    count = above.sum(axis=1)
    place = np.where(count > 1, 0, above.argmax(axis=1))
    return np.where(count > 0, rows.top[np.arange(len(rows)), place], -1), count


def is_suspect(rows: DerivedRows, candidate: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the class that stands out makes the label suspect, bool [labelled rows].

    As in cleanlab, a row whose label is the prediction is not suspected, whatever stands out.
    """
    return np.asarray((candidate >= 0) & (candidate != rows.label) & ~rows.right)


def may_stand_out_beyond(first: State, rows: DerivedRows) -> NDArray[np.bool_]:
    """Return on which rows a class beyond the stored ones may be at or above its threshold, bool [labelled rows].

    Such a class has at most the probability of the last stored one, and at most what all stored ones lack to 1.
    """
    low = thresholds(first)
    top = rows.top_probability.astype(np.float64)
    most = np.minimum(top[:, -1], 1 - top.sum(axis=1) + FIXED_UNIT) + FIXED_UNIT
    beyond = np.full(len(most), np.inf)  # the lowest threshold of a class that is not stored
    for c in np.argsort(low)[TOP_CLASSES::-1].tolist():  # one of the lowest TOP_CLASSES + 1; nan comes last
        beyond = np.where((rows.top == c).any(axis=1) | np.isnan(low[c]), beyond, low[c])
    return np.asarray(most >= beyond)


def margin(rows: DerivedRows) -> NDArray[np.float64]:
    """Return the probability of the label minus the highest of the others, [rows] labelled rows."""
    given = np.exp(-rows.loss.astype(np.float64))
    top = rows.top_probability.astype(np.float64)
    if top.shape[1] == 1:
        return given
    return given - np.where(rows.right, top[:, 1], top[:, 0])


def estimated_share(
    rows: NDArray[np.int64], joint: Counted, classes: int, undecided: NDArray[np.int64]
) -> tuple[float, float]:
    """Estimate the share of wrong labels, and how far it may be off because of undecided rows.

    Each row of the joint is scaled to the number of labels of its class, and the whole to 1 (Northcutt et al. 2021,
    equation 3). A class on whose images no class stands out counts as right.

    Args:
        rows: labelled rows of each class, [classes].
        joint: of label * classes + the class that stands out.
        classes: how many there are.
        undecided: rows of each class that may belong to the joint, [classes].
    """
    true, other = np.divmod(joint.value, classes)
    of_class, right = np.zeros(classes), np.zeros(classes)
    np.add.at(of_class, true, joint.count)
    np.add.at(right, true[true == other], joint.count[true == other])
    off = of_class - right

    def share(wrong: NDArray[np.float64], all_: NDArray[np.float64]) -> float:
        return float((np.where(all_ > 0, wrong / np.maximum(all_, 1), 0.0) * rows).sum() / rows.sum())

    value, every = share(off, of_class), of_class + undecided
    return value, max(share(off + undecided, every) - value, value - share(off, every))


def clashes(rows: TileRows) -> NDArray[np.int64]:
    """Return the places of the rows whose image also occurs with another label, equal images together."""
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
    return [(mix(digest, salt).view(np.uint64) % np.uint64(FILTER_SLOTS)).astype(np.int64) for salt in salts]
