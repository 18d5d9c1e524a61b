"""Mergeable counts of the rows of two steps with several labels an image, side by side. It knows no metric, no files.

Rows count if both steps have them, with logits and the same labels, unknown ones included; unknown labels are no
decisions. Counts are kept by the 20 groups of images, so that intervals keep the labels of an image together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.comparison.class_mapping import ClassMapping
from predboard.comparison.join import REQUIRED_COLUMNS, JoinedRows, join_rows, lie_side_by_side
from predboard.metrics import slices
from predboard.metrics.grouped import no_groups
from predboard.metrics.multi_label import label_histograms
from predboard.metrics.multi_label.label_counts import LabelCounts
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.metrics.slice_crosses import Crosses
from predboard.metrics.slices import SliceSums, empty_slices, measure_slices
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import GROUP_PREFIX, MULTI_LABEL, Run
from predboard.predictions.table import Predictions
from predboard.state import StatesByName, merge, summed
from predboard.storage.runs import Step

OLD_COLUMNS = REQUIRED_COLUMNS | {"confidence", "loss", "digest"}
NEW_COLUMNS = OLD_COLUMNS | slices.COLUMNS
"""Columns that `PairedLabels.measure` reads from the two steps; slices are those of the new one."""

MAX_HELD_SCORES = 2**28
"""Scores of the old step that may be held in memory, 1 GB: with more, how labels rank images is not compared."""

LOST, GAINED, DROPPED, ADDED = range(4)
"""Places in `PairedLabels.moved`."""


@dataclass(frozen=True)
class MovedSets:
    """Decisions of some rows that both steps have and that changed between right and wrong, as sets of labels."""

    lost: LabelSets
    """True labels that were predicted and are missed now."""
    gained: LabelSets
    """True labels that were missed and are predicted now."""
    dropped: LabelSets
    """Labels that were wrongly predicted and are not any more."""
    added: LabelSets
    """Labels that are wrongly predicted now and were not."""

    @classmethod
    def between(cls, old: MultiLabelPredictions, new: MultiLabelPredictions) -> "MovedSets":
        """Return what changed between two steps' predictions of the same rows with the same labels."""
        missed, wrong = (old.missed, new.missed), (old.wrongly_predicted, new.wrongly_predicted)
        return cls(missed[1].minus(missed[0]), missed[0].minus(missed[1]), wrong[0].minus(wrong[1]),
                   wrong[1].minus(wrong[0]))  # fmt: skip


@dataclass(frozen=True)
class PairedLabels:
    """Mergeable counts of rows of two steps."""

    before: LabelCounts
    now: LabelCounts
    """Counts of each step over the compared rows."""
    kinds: SliceSums  # of the compared rows: sums of 1, right now, right before, right both times
    moved: NDArray[np.int64] = summed()  # [groups, 4, classes] LOST, …, ADDED decisions of the compared rows
    sets: NDArray[np.int64] = summed()  # [2] compared rows whose set was fixed and broken
    both: np.int64 = summed()  # images that both steps have
    only_old: np.int64 = summed()  # rows whose image the new step lacks
    only_new: np.int64 = summed()
    repeated_old: np.int64 = summed()  # rows whose key another row of the step has
    repeated_new: np.int64 = summed()
    failed_old: np.int64 = summed()  # of both: rows without logits before
    failed_new: np.int64 = summed()
    unlabelled: np.int64 = summed()  # of both: without labels in either
    labels_differ: np.int64 = summed()  # of both
    pictures_differ: np.int64 = summed()  # of both: the digests differ
    scored: np.int64 = summed()  # of both: with logits in both
    agreed: np.int64 = summed()  # of scored: the same labels predicted
    same: np.int64 = summed()  # of scored: labels, confidence and loss are the same to the last bit
    scores: StatesByName = field(default_factory=no_groups)  # `LabelHistograms` of the compared rows, "old" and "new"

    @classmethod
    def zero(cls, classes: int) -> "PairedLabels":
        """Return the counts of no rows."""
        none = LabelCounts.zero(_run(classes))
        moved = np.zeros((JACKKNIFE_GROUPS, 4, classes), np.int64)
        return cls(none, none, empty_slices(), moved, np.zeros(2, np.int64), *[np.int64(0)] * 13)  # type: ignore[arg-type]  # the other has a default

    @classmethod
    def measure(cls, classes: int, rows: JoinedRows, crosses: Crosses = (), scored_too: bool = False) -> "PairedLabels":
        """Return the counts of these rows alone.

        Args:
            classes: how many labels there are.
            rows: of both steps.
            crosses: columns whose values are crossed.
            scored_too: whether how labels rank the images is compared, which needs logits.
        """
        old, new = as_sets(rows.old), as_sets(rows.new)
        run, at = _run(classes), is_comparable(old, new)
        scored = old.is_scored & new.is_scored
        agreed = scored & old.predicted_labels.equals(new.predicted_labels)
        losses = (old.loss == new.loss) | (np.isnan(old.loss) & np.isnan(new.loss))
        now = new.take(at)
        before = _grouped_as(old.take(at), now)
        changes, group = MovedSets.between(before, now), now.jackknife_group
        was, is_ = before.right, now.right
        summands = np.stack([np.ones(len(now), np.int64), is_, was, was & is_], axis=1).astype(np.int64)
        wanted = slices.COLUMNS & set(now.batch.schema.names)
        moved = np.zeros((JACKKNIFE_GROUPS, 4, classes), np.int64)
        for place, sets in enumerate((changes.lost, changes.gained, changes.dropped, changes.added)):
            code = group[sets.row] * classes + sets.label
            moved[:, place] = np.bincount(code, minlength=JACKKNIFE_GROUPS * classes).reshape(-1, classes)
        return cls(
            before=LabelCounts.measure(run, before),
            now=LabelCounts.measure(run, now),
            kinds=measure_slices(now, summands, crosses) if wanted else empty_slices(),
            moved=moved,
            sets=np.array([(is_ & ~was).sum(), (was & ~is_).sum()], np.int64),
            both=np.int64(len(new)),
            only_old=np.int64(len(rows.only_old)),
            only_new=np.int64(len(rows.only_new)),
            repeated_old=np.int64(rows.repeated[0]),
            repeated_new=np.int64(rows.repeated[1]),
            failed_old=np.int64((~old.is_scored).sum()),
            failed_new=np.int64((~new.is_scored).sum()),
            unlabelled=np.int64((~old.is_labelled & ~new.is_labelled).sum()),
            labels_differ=np.int64((~have_same_labels(old, new)).sum()),
            pictures_differ=np.int64((old.has_digest & new.has_digest & (old.digest != new.digest)).sum()),
            scored=np.int64(scored.sum()),
            agreed=np.int64(agreed.sum()),
            same=np.int64((agreed & (old.confidence == new.confidence) & losses).sum()),
            scores=StatesByName(
                {"new": LabelHistograms.measure(run, now), "old": LabelHistograms.measure(run, before)}
                if scored_too
                else {}
            ),
        )

    @property
    def identical(self) -> bool:
        """Whether both steps have the same predictions for every image, to the last bit."""
        return bool(self.same == self.scored and self.failed_old == self.failed_new)


def _run(classes: int) -> Run:
    return Run(tuple(map(str, range(classes))), "", task=MULTI_LABEL)


def as_sets(rows: Predictions) -> MultiLabelPredictions:
    """Return rows of a multi-label run as what they are. Raises TypeError for others."""
    if not isinstance(rows, MultiLabelPredictions):
        raise TypeError(f"{type(rows).__name__} are no rows of a multi-label run")
    return rows


def have_same_labels(old: MultiLabelPredictions, new: MultiLabelPredictions) -> NDArray[np.bool_]:
    """Return which rows have the same true and unknown labels, or none, in both steps, [rows]."""
    same = old.labels.equals(new.labels) & old.unknown.equals(new.unknown)
    return np.asarray(same & (old.is_labelled == new.is_labelled))


def is_comparable(old: MultiLabelPredictions, new: MultiLabelPredictions) -> NDArray[np.bool_]:
    """Return which rows are compared, [rows]: those with logits and the same labels in both steps."""
    return np.asarray(old.is_scored & new.is_scored & new.is_labelled & have_same_labels(old, new))


def _grouped_as(rows: MultiLabelPredictions, others: MultiLabelPredictions) -> MultiLabelPredictions:
    """Return rows that belong together as others of the same images do."""
    if not others.group_column:
        return rows
    names = [name for name in rows.batch.schema.names if not name.startswith(GROUP_PREFIX)]
    group = GROUP_PREFIX + others.group_column
    batch = rows.batch.select(names).append_column(pa.field(group, pa.int64()), others.column(group))
    return replace(rows, batch=batch)


def count_label_pairs(
    old: Step, new: Step, classes: ClassMapping, kinds: bool = True, crosses: Crosses = ()
) -> PairedLabels:
    """Count the rows of two steps, reading them once; see `paired_counts.count_pairs`."""
    scored = columns_of_ranks(old, new)
    columns = OLD_COLUMNS | scored, (NEW_COLUMNS if kinds else OLD_COLUMNS) | scored
    size = len(classes.names)
    joined = join_rows(old, new, classes, columns)
    return merge_labels(size, (PairedLabels.measure(size, rows, crosses, bool(scored)) for rows in joined))


def columns_of_ranks(old: Step, new: Step) -> frozenset[str]:
    """Return what is read of both steps to compare how labels rank the images; nothing if that would not fit."""
    if not (old.run.has_scores and new.run.has_scores):
        return frozenset()
    fits = lie_side_by_side(old, new) or old.rows * len(old.run.classes) <= MAX_HELD_SCORES
    return label_histograms.COLUMNS if fits else frozenset()


def merge_labels(classes: int, states: Iterable[PairedLabels]) -> PairedLabels:
    """Merge counts of so many classes."""
    counts = PairedLabels.zero(classes)
    for state in states:
        counts = merge(counts, state)
    return counts
