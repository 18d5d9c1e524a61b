"""Mergeable counts of the rows of two steps, side by side. It knows no metric, no files and no drawing.

Rows count if both steps have them, with logits and the same label: a difference between two sets of images would say
nothing about the models.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from predboard.comparison.class_mapping import ClassMapping
from predboard.comparison.join import REQUIRED_COLUMNS, JoinedRows, join_rows
from predboard.comparison.two_class_scores import Runs, columns_of_scores, count_scores, no_scores, scored_runs
from predboard.metrics import slices
from predboard.metrics.counts import CountMetrics, Margins
from predboard.metrics.grouped import GroupedCells, cells_by_group, no_groups, sum_by_group
from predboard.metrics.reliability import BINS, PROBABILITY_UNIT, equal_width_bin
from predboard.metrics.slice_crosses import Crosses
from predboard.metrics.slices import SliceSums, empty_slices, measure_slices
from predboard.predictions.table import Predictions
from predboard.state import FIXED_LIMIT, Counted, StatesByName, fixed_each, fixed_squares, merge, summed
from predboard.storage.runs import Step

OLD_COLUMNS = REQUIRED_COLUMNS | {"confidence", "loss", "digest"}
NEW_COLUMNS = OLD_COLUMNS | slices.COLUMNS
"""Columns that `PairedCounts.measure` reads from the two steps; slices are those of the new one."""

CALIBRATION_BINS = BINS


@dataclass(frozen=True)
class PairedCounts:
    """Mergeable counts of rows of two steps."""

    cells: Counted  # of (label * classes + old) * classes + new, over the compared rows
    kinds: SliceSums  # of the compared rows: sums of 1, right now, right before, right both times
    calibration: NDArray[np.int64] = summed()
    """[rows and confidence before and confidence now, bin before × bin now × right before × right now]."""
    both: np.int64 = summed()  # images that both steps have
    only_old: np.int64 = summed()  # rows whose image the new step lacks
    only_new: np.int64 = summed()
    repeated_old: np.int64 = summed()  # rows whose key another row of the step has
    repeated_new: np.int64 = summed()
    failed_old: np.int64 = summed()  # of both: rows without logits before
    failed_new: np.int64 = summed()
    unlabelled: np.int64 = summed()  # of both: without a label in either
    labels_differ: np.int64 = summed()  # of both
    pictures_differ: np.int64 = summed()  # of both: the digests differ
    scored: np.int64 = summed()  # of both: with logits in both
    agreed: np.int64 = summed()  # of scored: the same class predicted
    same: np.int64 = summed()  # of scored: class, confidence and loss are the same to the last bit
    loss_old: np.int64 = summed()  # of the compared rows, fixed point
    loss_new: np.int64 = summed()
    loss_squares: np.int64 = summed()  # of the difference, nats², those up to 256 nats, fixed point
    large_loss_squares: np.int64 = summed()  # nats², of the others
    losses: np.int64 = summed()  # of the compared rows: those with a loss in both, which are all or none
    cut_losses: np.int64 = summed()  # of these: above FIXED_LIMIT in one of them
    cells_by_group: StatesByName = field(default_factory=no_groups)  # as `cells`, where rows belong together
    losses_by_group: StatesByName = field(default_factory=no_groups)  # [GROUPS, 2] loss before and now
    gaps_by_group: StatesByName = field(default_factory=no_groups)  # [GROUPS, 2, BINS] right - confidence, likewise
    scores: Counted = field(default_factory=no_scores)  # of the compared rows of two classes, by their scores

    @classmethod
    def zero(cls) -> "PairedCounts":
        """Return the counts of no rows."""
        none = np.int64(0)
        of_bins = np.zeros((3, 4 * CALIBRATION_BINS * CALIBRATION_BINS), np.int64)
        counts = Counted.from_values(np.zeros(0, np.int64))
        return cls(counts, empty_slices(), of_bins, *[none] * 19)  # type: ignore[arg-type]  # the others have defaults

    @classmethod
    def measure(cls, classes: int, rows: JoinedRows, crosses: Crosses = (), runs: Runs | None = None) -> "PairedCounts":
        """Return the counts of these rows alone.

        Args:
            classes: how many classes the two steps have together.
            rows: of both steps.
            crosses: columns whose values are crossed.
            runs: of two classes whose scores are compared, from `scored_runs`.
        """
        old, new = rows.old, rows.new
        scored = (old.predicted >= 0) & (new.predicted >= 0)
        differ = old.label != new.label
        agreed = scored & (old.predicted == new.predicted)
        losses = (old.loss == new.loss) | (np.isnan(old.loss) & np.isnan(new.loss))
        at = is_comparable(rows)
        before, now = old.take(at), new.take(at)
        has_loss = not np.isnan(before.loss).any() and not np.isnan(now.loss).any()
        difference = now.loss.astype(np.float64) - before.loss if has_loss else np.zeros(1)
        small, large = fixed_squares(difference)
        cut = (np.maximum(before.loss, now.loss) > FIXED_LIMIT).sum() if has_loss else 0
        was, is_ = before.right, now.right
        summands = np.stack([np.ones(len(now), np.int64), is_, was, was & is_], axis=1).astype(np.int64)
        wanted = slices.COLUMNS & set(now.batch.schema.names)
        cell = (now.label * classes + before.predicted) * classes + now.predicted
        lost = [fixed_each(rows.loss) if has_loss else np.zeros(len(now), np.int64) for rows in (before, now)]
        return cls(
            cells=Counted.from_values(cell),
            kinds=measure_slices(now, summands, crosses) if wanted else empty_slices(),
            calibration=_of_bins(before.confidence, now.confidence, was, is_),
            both=np.int64(len(new)),
            only_old=np.int64(len(rows.only_old)),
            only_new=np.int64(len(rows.only_new)),
            repeated_old=np.int64(rows.repeated[0]),
            repeated_new=np.int64(rows.repeated[1]),
            failed_old=np.int64((old.predicted < 0).sum()),
            failed_new=np.int64((new.predicted < 0).sum()),
            unlabelled=np.int64(((old.label < 0) & (new.label < 0)).sum()),
            labels_differ=np.int64(differ.sum()),
            pictures_differ=np.int64((old.has_digest & new.has_digest & (old.digest != new.digest)).sum()),
            scored=np.int64(scored.sum()),
            agreed=np.int64(agreed.sum()),
            same=np.int64((agreed & (old.confidence == new.confidence) & losses).sum()),
            loss_old=lost[0].sum(),
            loss_new=lost[1].sum(),
            loss_squares=small,
            large_loss_squares=large,
            losses=np.int64(len(now) if has_loss else 0),
            cut_losses=np.int64(cut),
            cells_by_group=cells_by_group(now, cell, classes**3),
            losses_by_group=sum_by_group(now, lambda: np.stack(lost, axis=1)),
            gaps_by_group=sum_by_group(now, lambda: np.stack([_gaps(before), _gaps(now)], axis=1)),
            scores=count_scores(runs, before, now),
        )

    @property
    def identical(self) -> bool:
        """Whether both steps have the same predictions for every image, to the last bit."""
        return bool(self.same == self.scored and self.failed_old == self.failed_new)


def is_comparable(rows: JoinedRows) -> NDArray[np.bool_]:
    """Return which rows are compared, [rows]: those with logits and the same label in both steps."""
    old, new = rows.old, rows.new
    return np.asarray((old.predicted >= 0) & (new.predicted >= 0) & (new.label >= 0) & (old.label == new.label))


def _gaps(rows: Predictions) -> NDArray[np.int64]:
    """Return right - confidence of each row in its bin, [rows, BINS] `PROBABILITY_UNIT`s."""
    confidence = rows.confidence.astype(np.float64)
    gap = np.rint(rows.right / PROBABILITY_UNIT) - np.rint(confidence / PROBABILITY_UNIT)
    bins = np.arange(CALIBRATION_BINS)
    return np.asarray(gap.astype(np.int64)[:, None] * (equal_width_bin(confidence)[:, None] == bins))


def _of_bins(
    before: NDArray[np.float32], now: NDArray[np.float32], was: NDArray[np.bool_], is_: NDArray[np.bool_]
) -> NDArray[np.int64]:
    c = before.astype(np.float64), now.astype(np.float64)
    at = ((equal_width_bin(c[0]) * CALIBRATION_BINS + equal_width_bin(c[1])) * 2 + was) * 2 + is_
    sums = [
        np.bincount(at, np.rint(values / PROBABILITY_UNIT), 4 * CALIBRATION_BINS * CALIBRATION_BINS) for values in c
    ]
    return np.stack([np.bincount(at, minlength=4 * CALIBRATION_BINS * CALIBRATION_BINS), *sums]).astype(np.int64)


def margins_without_groups(grouped: GroupedCells, old: CountMetrics, new: CountMetrics) -> tuple[Margins, Margins]:
    """Return [groups, classes] margins of both steps without each group of rows that belong together.

    Args:
        grouped: counts of (label * classes + old) * classes + new by group.
        old, new: of all compared rows.
    """
    columns = []
    for cell, count in grouped.present:
        rest, now = np.divmod(cell, new.classes)
        label, before = np.divmod(rest, new.classes)
        for predicted in (before, now):
            pairs = ((label, count * (predicted == label)), (label, count), (predicted, count))
            columns += [np.bincount(at, n, new.classes).astype(np.int64) for at, n in pairs]
    of_groups = np.array(columns, np.int64).reshape(-1, 2, 3, new.classes)
    whole = np.array([[m.hits, m.support, m.predictions] for m in (old, new)])
    without = (whole - of_groups).astype(np.float64)
    return Margins(*np.moveaxis(without[:, 0], 1, 0)), Margins(*np.moveaxis(without[:, 1], 1, 0))


def count_pairs(old: Step, new: Step, classes: ClassMapping, kinds: bool = True, crosses: Crosses = ()) -> PairedCounts:
    """Count the rows of two steps, reading them once.

    Args:
        old, new: the steps.
        classes: from `match_classes`.
        kinds: whether slices are wanted.
        crosses: columns whose values are crossed.

    Raises InputError if a part is damaged.
    """
    runs = scored_runs(old.run, new.run)
    scored = columns_of_scores(runs)
    columns = OLD_COLUMNS | scored, (NEW_COLUMNS if kinds else OLD_COLUMNS) | scored
    return merge_counts(
        PairedCounts.measure(len(classes.names), rows, crosses, runs) for rows in join_rows(old, new, classes, columns)
    )


def merge_counts(states: Iterable[PairedCounts]) -> PairedCounts:
    """Merge counts."""
    counts = PairedCounts.zero()
    for state in states:
        counts = merge(counts, state)
    return counts
