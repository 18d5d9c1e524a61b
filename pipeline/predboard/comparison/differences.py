"""Rows of two steps side by side -> every difference with its interval. Knows no files and no drawing.

All figures are of the rows that both steps have, with logits and the same label: a difference between two sets of
images would say nothing of the models. Intervals are paired, too: what both get right or wrong alike cancels out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.comparison.join import REQUIRED_COLUMNS, ClassMapping, JoinedRows, join_rows
from predboard.formatting import unique_names
from predboard.metrics import calibration, classification
from predboard.metrics import counts as tally
from predboard.metrics import slices as slicing
from predboard.metrics.bootstrap import ClassSums, bias_corrected_interval, poisson_resamples
from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.intervals import (
    Z95,
    jaccard_to_f1,
    mcnemar_p,
    newcombe_interval,
    overlap_correlation,
    square_and_add,
    wilson_interval,
    wilson_intervals,
)
from predboard.metrics.slices import SliceSums, empty_slices, list_slices, measure_slices, slice_names
from predboard.state import FIXED_UNIT, Counted, fixed, merge, summed
from predboard.storage.runs import Step
from predboard.summaries import Metric

OLD_COLUMNS = REQUIRED_COLUMNS | {"confidence", "loss", "digest"}
NEW_COLUMNS = OLD_COLUMNS | slicing.COLUMNS
"""Columns that `Paired.measure` reads of the two steps: kinds of images are those of the new one."""

CALIBRATION_BINS = calibration.BINS

NEWCOMBE_METHOD = "square-and-add of Wilson's intervals, with the correlation of the two (Newcombe 1998, method 10)"
ZOU_METHOD = "square-and-add of Wilson's intervals, with the correlation of the two (Zou & Donner 2008)"
CELL_BOOTSTRAP_METHOD = "bias-corrected bootstrap of the cells (label, old, new), {:,} draws"
BIN_BOOTSTRAP_METHOD = "bias-corrected bootstrap of the joint calibration bins, {:,} draws"
PAIRED_MEAN_METHOD = "mean of the rows' differences ± 1.96 standard errors"
IDENTICAL_METHOD = "both say the same of every image, so there is no difference to be uncertain of"

DEFINITIONS = {
    "churn": "Share of images whose predicted class changed.",
    "agreement": "Share of images of which both predict the same class.",
    "negative_flip_rate": "Share of images that were right before and are wrong now (Yan 2021).",
    "positive_flip_rate": "Share of images that were wrong before and are right now.",
    "mcnemar_p": "Chance of so uneven a split of fixed and broken if neither were likelier (exact McNemar, two-sided).",
}


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
    loss_squares: np.int64 = summed()  # of the difference, nats², each cut at figures.SQUARE

    @classmethod
    def zero(cls) -> "PairedCounts":
        """No rows."""
        none = np.int64(0)
        of_bins = np.zeros((3, 4 * CALIBRATION_BINS * CALIBRATION_BINS), np.int64)
        return cls(Counted.of(np.zeros(0, np.int64)), empty_slices(), of_bins, *[none] * 16)

    @classmethod
    def measure(cls, classes: int, rows: JoinedRows) -> "PairedCounts":
        """These rows alone. `classes` is how many the two steps have together."""
        old, new = rows.old, rows.new
        scored = (old.predicted >= 0) & (new.predicted >= 0)
        differ = old.label != new.label
        agreed = scored & (old.predicted == new.predicted)
        losses = (old.loss == new.loss) | (np.isnan(old.loss) & np.isnan(new.loss))
        at = is_comparable(rows)
        before, now = old.take(at), new.take(at)
        difference = now.loss.astype(np.float64) - before.loss
        squares = np.minimum(np.square(difference), classification.MAX_SQUARE)
        was, is_ = before.right, now.right
        summands = np.stack([np.ones(len(now), np.int64), is_, was, was & is_], axis=1).astype(np.int64)
        return cls(
            cells=Counted.of((now.label * classes + before.predicted) * classes + now.predicted),
            kinds=measure_slices(now, summands) if slicing.COLUMNS & set(now.batch.schema.names) else empty_slices(),
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
            loss_old=fixed(before.loss),
            loss_new=fixed(now.loss),
            loss_squares=fixed(squares),
        )

    @property
    def identical(self) -> bool:
        """Whether both steps say the same of every image, to the last bit."""
        return bool(self.same == self.scored and self.failed_old == self.failed_new)


def is_comparable(rows: JoinedRows) -> NDArray[np.bool_]:
    """Which rows are in the figures: with logits in both steps, and of the same known label. -> [rows]."""
    old, new = rows.old, rows.new
    return np.asarray((old.predicted >= 0) & (new.predicted >= 0) & (new.label >= 0) & (old.label == new.label))


def _of_bins(
    before: NDArray[np.float32], now: NDArray[np.float32], was: NDArray[np.bool_], is_: NDArray[np.bool_]
) -> NDArray[np.int64]:
    c = before.astype(np.float64), now.astype(np.float64)
    at = (
        (calibration.equal_width_bin(c[0]) * CALIBRATION_BINS + calibration.equal_width_bin(c[1])) * 2 + was
    ) * 2 + is_
    sums = [
        np.bincount(at, np.rint(of / calibration.PROBABILITY_UNIT), 4 * CALIBRATION_BINS * CALIBRATION_BINS) for of in c
    ]
    return np.stack([np.bincount(at, minlength=4 * CALIBRATION_BINS * CALIBRATION_BINS), *sums]).astype(np.int64)


def count_pairs(old: Step, new: Step, classes: ClassMapping, kinds: bool = True) -> PairedCounts:
    """What two steps have in common and where they differ, read once and in bounded memory.

    Args:
        old, new: the steps.
        classes: from `pairing.classes_of`.
        kinds: whether slices are wanted.

    Raises InputError if a part is damaged.
    """
    columns = OLD_COLUMNS, NEW_COLUMNS if kinds else OLD_COLUMNS
    return merge_counts(
        PairedCounts.measure(len(classes.names), rows) for rows in join_rows(old, new, classes, columns)
    )


def merge_counts(states: Iterable[PairedCounts]) -> PairedCounts:
    """All of them merged."""
    found = PairedCounts.zero()
    for state in states:
        found = merge(found, state)
    return found


@dataclass(frozen=True)
class Difference:
    """A figure of two steps over the same images."""

    old: float
    new: float
    difference: float
    """New less old."""
    interval: tuple[float, float] | None
    """Ends of the 95 % interval of the difference."""
    rows: int
    """Images that it rests on: of a class those of it, and for its precision those predicted as it by the step that
    did so less often."""
    definition: str = ""
    method: str = ""
    """How the interval was made."""


@dataclass(frozen=True)
class Flips:
    """What became of the images of one class or slice."""

    name: str
    rows: int
    fixed: int
    broken: int
    interval: tuple[float, float]
    """95 % interval of (fixed - broken) / rows (Newcombe's); rows times it is that of the net."""

    @property
    def net(self) -> int:
        """Images that are right now and were not, less those that were and are not."""
        return self.fixed - self.broken

    @property
    def share(self) -> float:
        """Difference of the accuracies."""
        return self.net / self.rows


@dataclass(frozen=True)
class Comparison:
    """What follows from the counts."""

    state: PairedCounts
    names: tuple[str, ...]
    """Of the classes of both steps."""
    like: SliceSums | None = None
    """Kinds of images whose quarters are cut where these are: of the new step, if they are those of its own figures."""

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.names)

    @cached_property
    def joint(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Label, old prediction, new prediction and count of all that were seen, ascending: [cells] each."""
        rest, new = np.divmod(self.state.cells.value, self.classes)
        label, old = np.divmod(rest, self.classes)
        return label, old, new, self.state.cells.count

    @property
    def rows(self) -> int:
        """Images that are compared."""
        return int(self.state.cells.count.sum())

    @cached_property
    def old(self) -> CountMetrics:
        """Counts of the old step over the compared images."""
        return self._scores(self.joint[1], self.state.loss_old)

    @cached_property
    def new(self) -> CountMetrics:
        """Counts of the new step over the compared images."""
        return self._scores(self.joint[2], self.state.loss_new)

    def _scores(self, predicted: NDArray[np.int64], loss: np.int64) -> CountMetrics:
        label, _, _, count = self.joint
        pairs = Counted.of(np.zeros(0, np.int64))
        if len(count):
            value, where = np.unique(label * self.classes + predicted, return_inverse=True)
            counts = np.zeros(len(value), np.int64)
            np.add.at(counts, where, count)
            pairs = Counted(value, counts)
        return CountMetrics(Counts(pairs, np.int64(self.rows), np.int64(0), np.int64(0), loss), self.classes)

    @cached_property
    def fixed_broken(self) -> tuple[int, int]:
        """Images that are right now and were not, and those that were right and are not."""
        label, old, new, count = self.joint
        was, is_ = old == label, new == label
        return int(count[is_ & ~was].sum()), int(count[was & ~is_].sum())

    @property
    def p(self) -> float:
        """Of McNemar's exact test that fixed and broken are equally likely."""
        return mcnemar_p(*self.fixed_broken)

    @cached_property
    def rates(self) -> dict[str, Metric]:
        """Churn, agreement and flips by name, and the p-value; what rests on no image is left out."""
        state, found = self.state, {}
        gained, lost = self.fixed_broken
        for name, hits, rows in (
            ("churn", int(state.scored - state.agreed), int(state.scored)),
            ("agreement", int(state.agreed), int(state.scored)),
            ("negative_flip_rate", lost, self.rows),
            ("positive_flip_rate", gained, self.rows),
        ):
            if rows:
                ends = (hits / rows, hits / rows) if state.identical else wilson_interval(hits, rows)
                found[name] = Metric(
                    hits / rows, ends, DEFINITIONS[name], IDENTICAL_METHOD if state.identical else "Wilson score"
                )
        if self.rows:
            found["mcnemar_p"] = Metric(self.p, definition=DEFINITIONS["mcnemar_p"])
        return found

    @cached_property
    def by_class(self) -> list[Flips]:
        """What became of the images of each class that has some, the worst first."""
        support, hits = self.old.support, (self.new.hits, self.old.hits)
        interval = self._newcombe(self._both, *hits, support)
        return _worst_first(
            Flips(name, int(support[c]), int(hits[0][c] - both), int(hits[1][c] - both), (lower, upper))
            for c, (name, both, lower, upper) in enumerate(
                zip(self.names, self._both.tolist(), *(end.tolist() for end in interval), strict=True)
            )
            if support[c]
        )

    @cached_property
    def by_slice(self) -> list[Flips]:
        """What became of each kind of images, the worst first."""
        found = []
        for s in list_slices(self.state.kinds, self.like):
            rows, now, was, both = s.sums.tolist()
            lower, upper = (float(end) for end in self._newcombe(*map(np.array, (both, now, was, rows))))
            found.append(Flips(s.name, rows, now - both, was - both, (lower, upper)))
        return _worst_first(found)

    @cached_property
    def _both(self) -> NDArray[np.int64]:
        """[classes] images of each class that were right both times."""
        label, old, new, _ = self.joint
        return self._by(label, (old == label) & (new == label))

    def _by(self, of: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.int64]:
        totals = np.zeros(self.classes, np.int64)
        np.add.at(totals, of[where], self.joint[3][where])
        return totals

    def _newcombe(
        self, both: NDArray[Any], new: NDArray[Any], old: NDArray[Any], rows: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.state.identical:
            return np.zeros(np.shape(rows)), np.zeros(np.shape(rows))
        return newcombe_interval(both, new, old, rows)

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Every figure that both steps have, by its name in `summary.json`."""
        found = {**self.overall}
        for name, of_class in zip(unique_names(self.names), self._of_classes, strict=True):
            found |= {f"classes/{name}/{figure}": difference for figure, difference in of_class.items()}
        return found | self._of_slices

    @cached_property
    def overall(self) -> dict[str, Difference]:
        """Those of all classes together; what is not defined is left out."""
        n = self.rows
        if not n:
            return {}
        gained, lost = self.fixed_broken
        hits = int(self.new.hits.sum()), int(self.old.hits.sum())
        ends = self._newcombe(*map(np.array, (hits[1] - lost, *hits, n)))
        found = {
            "accuracy": self._difference(
                "accuracy",
                hits[1] / n,
                hits[0] / n,
                (float(ends[0]), float(ends[1])),
                NEWCOMBE_METHOD,
                (gained - lost) / n,
            )
        }
        before, now = self.old.means, self.new.means
        draws = self._redrawn() if not self.state.identical else {}
        for name in before:
            if name in now:
                gain = now[name] - before[name]
                ends_ = bias_corrected_interval(gain, draws[name]) if name in draws else None
                how = CELL_BOOTSTRAP_METHOD.format(len(draws[name])) if name in draws else ""
                found[name] = self._difference(name, before[name], now[name], ends_, how)
        state = self.state
        mean = float((state.loss_new - state.loss_old) * FIXED_UNIT / n)
        spread = (
            math.sqrt(max(float(state.loss_squares * FIXED_UNIT / n) - mean**2, 0.0) / (n - 1)) if n > 1 else math.nan
        )
        half = None if math.isnan(spread) else (mean - Z95 * spread, mean + Z95 * spread)
        found["nll"] = self._difference("nll", self.old.nll, self.new.nll, half, PAIRED_MEAN_METHOD, mean)
        ece, of_bins = self._calibration()
        ends_ = bias_corrected_interval(ece[1] - ece[0], of_bins)
        found["calibration/ece"] = self._difference(
            "calibration/ece", *ece, ends_, BIN_BOOTSTRAP_METHOD.format(len(of_bins))
        )
        return found

    def _difference(
        self,
        name: str,
        old: float,
        new: float,
        ends: tuple[float, float] | None,
        method: str,
        gain: float | None = None,
        rows: int | None = None,
    ) -> Difference:
        """Of the same on every image it is none, without uncertainty."""
        gain = new - old if gain is None else gain
        of = classification.DEFINITIONS | {"calibration/ece": calibration.ECE} | classification.OF_A_CLASS
        found = Difference(old, new, gain, ends, self.rows if rows is None else rows, of[name], method if ends else "")
        return replace(found, interval=(0.0, 0.0), method=IDENTICAL_METHOD) if self.state.identical else found

    def _redrawn(self) -> dict[str, NDArray[np.float64]]:
        """Differences of the figures of `tally.means` with the count n of each cell replaced by Poisson(n), again and
        again. -> [draws] each, nan where not defined.
        """
        *joint, count = self.joint
        there = self.old.support + self.old.predictions + self.new.predictions > 0
        place, classes = np.cumsum(there) - 1, int(there.sum())
        label, old, new = (place[of] for of in joint)
        by_label = ClassSums(label, classes)
        sides = [(ClassSums(np.where(p == label, label, -1), classes), ClassSums(p, classes)) for p in (old, new)]
        found: dict[str, list[NDArray[np.float64]]] = {}
        most = int(max(of.max() for of in (self.old.support, self.old.predictions, self.new.predictions)))
        for n in poisson_resamples(count, self.state.cells.value.tobytes(), classes, most):
            support = by_label(n).T
            before, now = (tally.confusion_metrics(hits(n).T, support, predictions(n).T) for hits, predictions in sides)
            for name, values in now.items():
                found.setdefault(name, []).append(values - before[name])
        return {name: np.concatenate(values) for name, values in found.items()}

    def _calibration(self) -> tuple[tuple[float, float], NDArray[np.float64]]:
        """Calibration errors before and now, and their difference with the rows of each joint bin drawn anew."""
        rows, *confidence = self.state.calibration.astype(np.float64)
        here = np.flatnonzero(rows)
        bins = here // 4 // CALIBRATION_BINS, here // 4 % CALIBRATION_BINS
        right = here // 2 % 2, here % 2
        gaps = [r * rows[here] - c[here] * calibration.PROBABILITY_UNIT for r, c in zip(right, confidence, strict=True)]
        whole = [np.bincount(b, gap, CALIBRATION_BINS) for b, gap in zip(bins, gaps, strict=True)]
        ece = [float(np.abs(gap).sum() / rows.sum()) for gap in whole]
        weighed = [
            (ClassSums(b, CALIBRATION_BINS), (gap / rows[here])[:, None]) for b, gap in zip(bins, gaps, strict=True)
        ]
        draws = []
        for n in poisson_resamples(
            self.state.calibration[0, here], self.state.calibration[1:].tobytes(), CALIBRATION_BINS, self.rows
        ):
            drawn = [np.abs(of_bins(n * weight)).sum(axis=0) for of_bins, weight in weighed]
            draws.append((drawn[1] - drawn[0]) / np.maximum(n.sum(axis=0), 1))
        return (ece[0], ece[1]), np.concatenate(draws)

    @cached_property
    def _of_classes(self) -> list[dict[str, Difference]]:
        """Precision, recall and F1 of each class, where both steps have them."""
        old, new = self.old, self.new
        label, before, now, _ = self.joint
        support, both = old.support, self._both
        wrongly = self._by(now, (before == now) & (label != now))  # predicted so by both, and not of the class
        neither = support - old.hits - new.hits + both
        union = [support + s.predictions - s.hits for s in (old, new)]
        jaccard = [s.hits / np.maximum(u, 1) for s, u in zip((old, new), union, strict=True)]
        recall = self._newcombe(both, new.hits, old.hits, support)
        p = old.precision, new.precision
        of_precision = both * (1 - p[0]) * (1 - p[1]) + wrongly * p[0] * p[1]
        precision = square_and_add(
            p[1], p[0],
            wilson_intervals(new.hits, new.predictions), wilson_intervals(old.hits, old.predictions),
            overlap_correlation(of_precision, p[1], p[0], new.predictions, old.predictions),
        )  # fmt: skip  # by pairs
        j = jaccard
        of_f1 = (
            both * (1 - j[0]) * (1 - j[1])
            - (new.hits - both) * j[0] * (1 - j[1])
            - (old.hits - both) * (1 - j[0]) * j[1]
            + (neither + wrongly) * j[0] * j[1]
        )
        f1 = square_and_add(
            new.f1, old.f1,
            jaccard_to_f1(wilson_intervals(new.hits, union[1])), jaccard_to_f1(wilson_intervals(old.hits, union[0])),
            overlap_correlation(of_f1, j[1], j[0], union[1], union[0]),
        )  # fmt: skip
        found: list[dict[str, Difference]] = []
        columns = (
            ("precision", p, precision, np.minimum(old.predictions, new.predictions), ZOU_METHOD),
            ("recall", (old.recall, new.recall), recall, support, NEWCOMBE_METHOD),
            ("f1", (old.f1, new.f1), f1, np.minimum(*union), ZOU_METHOD),
        )
        for c in range(self.classes):
            of_class = {}
            for name, values, ends, rows, how in columns:
                if rows[c]:
                    gain = float((new.hits[c] - old.hits[c]) / support[c]) if name == "recall" else None
                    a, b = (float(v[c]) for v in values)
                    interval = float(ends[0][c]), float(ends[1][c])
                    of_class[name] = self._difference(name, a, b, interval, how, gain, int(rows[c]))
            found.append(of_class)
        return found

    @cached_property
    def _of_slices(self) -> dict[str, Difference]:
        """Accuracy of each kind of images."""
        every, found = list_slices(self.state.kinds, self.like, alone=True), {}
        names = slice_names(every)
        for s in every:
            rows, now, was, both = s.sums.tolist()
            lower, upper = (float(end) for end in self._newcombe(*map(np.array, (both, now, was, rows))))
            found[f"{names[s.column, s.value]}/accuracy"] = self._difference(
                "accuracy", was / rows, now / rows, (lower, upper), NEWCOMBE_METHOD, (now - was) / rows, rows
            )
        return found


def _worst_first(found: Iterable[Flips]) -> list[Flips]:
    """By the upper end of the interval, so that one image of one does not come before ten of a hundred."""
    return sorted(found, key=lambda f: (f.interval[1], f.net))
