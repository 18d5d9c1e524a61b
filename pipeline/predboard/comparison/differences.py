"""Computes every difference between two steps, with a paired interval. It knows no files and no drawing.

All metrics are of the images that both steps have, with logits and the same label. Intervals are paired too: what both
get right, or both get wrong, cancels out.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from predboard.comparison.flips import IDENTICAL_METHOD, ClassChange, Difference, Flips, worst_first
from predboard.comparison.paired_counts import PairedCounts, margins_without_groups
from predboard.comparison.paired_intervals import f1_ends, known_ends, precision_ends
from predboard.comparison.resampling import bootstrap_differences, calibration_draws, grouped_ece, recode_cells
from predboard.comparison.two_class_scores import rank_differences
from predboard.formatting import plural, unique_names
from predboard.metrics import registry
from predboard.metrics.bootstrap import bias_corrected_interval
from predboard.metrics.class_groups import NO_GROUPS, ClassGroups
from predboard.metrics.counts import CountMetrics, Counts, Margins
from predboard.metrics.grouped import group_column, grouped_interval, recount
from predboard.metrics.intervals import (
    WILSON,
    grouped_half_width,
    grouped_method,
    independent_method,
    mcnemar_p,
    mean_interval,
    newcombe_interval,
    wilson_interval,
)
from predboard.metrics.metric_spec import MetricSpec
from predboard.metrics.slices import Slice, SliceSums, list_slices, mean_of, slice_names
from predboard.predictions.schema import SINGLE_LABEL
from predboard.state import FIXED_UNIT, Counted
from predboard.summaries import Metric

DEFINITIONS = {
    "churn": "Share of images whose predicted class changed.",
    "agreement": "Share of images of which both predict the same class.",
    "negative_flip_rate": "Share of images that were right before and are wrong now (Yan 2021).",
    "positive_flip_rate": "Share of images that were wrong before and are right now.",
    "mcnemar_p": "Chance of so uneven a split of fixed and broken if neither were likelier (exact McNemar, two-sided).",
}


@dataclass(frozen=True)
class Comparison:
    """Everything that follows from the counts of two steps."""

    state: PairedCounts
    names: tuple[str, ...]
    """Names of the classes of both steps."""
    like: SliceSums | None = None
    """Slices of numbers are cut where those of this state are, which is that of the new step's own metrics."""
    positive: str = ""
    """Name of the positive one of two classes; empty if there is none."""
    groups: ClassGroups = NO_GROUPS
    """Groups of the classes of both steps."""

    left_out: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Names of classes that only the old and only the new step has and that are not compared."""

    task: ClassVar[str] = SINGLE_LABEL
    headline: ClassVar[str] = "accuracy"
    """Metric of the verdict."""
    headline_words: ClassVar[str] = "accuracy"
    class_words: ClassVar[str] = "class"
    right_words: ClassVar[dict[str, str]] = {"class": "accuracy", "slice": "accuracy"}
    """What the share of right ones is called by class and by slice."""
    moves_file: ClassVar[str] = "transitions.csv"
    """File beside the event file that has what changed into what."""
    definitions: ClassVar[dict[str, str]] = DEFINITIONS
    """Definitions of the rates."""

    def spec(self, name: str) -> MetricSpec:
        """Return the row of a metric of the task."""
        return registry.require(name, self.task)

    def is_paired(self, name: str) -> bool:
        """Return whether two runs are compared by a metric over the same images, with a paired interval.

        By the others they are compared as if they had different images, with a wider interval.
        """
        spec = registry.find(name, self.task)
        return spec is not None and bool(spec.paired)

    @property
    def shares(self) -> tuple[float, float]:
        """The headline metric before and now."""
        return self.old.accuracy, self.new.accuracy

    @property
    def notes(self) -> list[str]:
        """What is not compared, a sentence each."""
        return []

    @property
    def moved_words(self) -> str:
        """How many images were fixed and broken, for a sentence."""
        gained, lost = self.fixed_broken
        return f"{gained:,} fixed, {lost:,} broken of {plural(self.rows, 'image')}"

    @property
    def classes(self) -> int:
        """Number of classes of both steps together."""
        return len(self.names)

    @cached_property
    def joint(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Label, old prediction, new prediction and count of each combination seen, ascending: [cells] each."""
        rest, new = np.divmod(self.state.cells.value, self.classes)
        label, old = np.divmod(rest, self.classes)
        return label, old, new, self.state.cells.count

    @property
    def rows(self) -> int:
        """Number of images that are compared."""
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
        pairs = Counted.from_values(np.zeros(0, np.int64))
        if len(count):
            value, where = np.unique(label * self.classes + predicted, return_inverse=True)
            counts = np.zeros(len(value), np.int64)
            np.add.at(counts, where, count)
            pairs = Counted(value, counts)
        return Counts(
            pairs,
            np.int64(self.classes),
            np.int64(self.rows),
            np.int64(0),
            np.int64(0),
            loss,
            self.state.losses,
            self.state.cut_losses,
        ).metrics

    @cached_property
    def fixed_broken(self) -> tuple[int, int]:
        """Numbers of images that were fixed (wrong before, right now) and broken (right before, wrong now)."""
        label, old, new, count = self.joint
        was, is_ = old == label, new == label
        return int(count[is_ & ~was].sum()), int(count[was & ~is_].sum())

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test that fixed and broken are equally likely."""
        return mcnemar_p(*self.fixed_broken)

    @cached_property
    def rates(self) -> dict[str, Metric]:
        """Churn, agreement, flip rates and the p-value, by name; those that rest on no image are left out."""
        state, rates = self.state, {}
        gained, lost = self.fixed_broken
        for name, hits, rows in (
            ("churn", int(state.scored - state.agreed), int(state.scored)),
            ("agreement", int(state.agreed), int(state.scored)),
            ("negative_flip_rate", lost, self.rows),
            ("positive_flip_rate", gained, self.rows),
        ):
            if rows:
                ends = (hits / rows, hits / rows) if state.identical else wilson_interval(hits, rows)
                method = IDENTICAL_METHOD if state.identical else independent_method(WILSON, self.group_column)
                rates[name] = Metric(hits / rows, ends, self.definitions[name], method)
        if self.rows:
            rates["mcnemar_p"] = Metric(self.p, definition=self.definitions["mcnemar_p"])
        return rates

    @cached_property
    def by_class(self) -> list[Flips]:
        """Fixed and broken images of each class that has images, the worst first."""
        support, hits = self.old.support, (self.new.hits, self.old.hits)
        clustered = self.group_column and not self.state.identical
        interval = self._grouped_ends("recall") if clustered else self._newcombe(self._both, *hits, support)
        return worst_first(
            Flips(name, int(support[c]), int(hits[0][c] - both), int(hits[1][c] - both), known_ends(lower, upper))
            for c, (name, both, lower, upper) in enumerate(
                zip(self.names, self._both.tolist(), *(end.tolist() for end in interval), strict=True)
            )
            if support[c]
        )

    @property
    def class_changes(self) -> list[ClassChange]:
        """The change of the accuracy of each class that has images, the worst first."""
        return [ClassChange(f.name, f.fixed, f.broken, f) for f in self.by_class]

    @cached_property
    def by_slice(self) -> list[Flips]:
        """Fixed and broken images of each slice, the worst first."""
        flips = []
        for s in list_slices(self.state.kinds, self.like):
            rows, now, was, both = s.sums.tolist()
            flips.append(Flips(s.name, rows, now - both, was - both, self._slice_ends(s)))
        return worst_first(flips)

    def _slice_ends(self, s: Slice) -> tuple[float, float] | None:
        """Return the interval of the difference of the shares of right rows of a slice: sums as in `kinds`."""
        rows, now, was, both = s.sums.tolist()
        if s.is_grouped and not self.state.identical:
            half = float(grouped_half_width(mean_of(s.without, 1) - mean_of(s.without, 2)))
            gain = (now - was) / rows
            return (max(gain - half, -1.0), min(gain + half, 1.0)) if half > 0 else None  # nan is not above 0
        lower, upper = (float(end) for end in self._newcombe(*map(np.array, (both, now, was, rows))))
        return lower, upper

    @property
    def group_column(self) -> str:
        """Name of the column whose equal values make rows belong together; empty if each image stands for itself."""
        return group_column(self.state.cells_by_group)

    @cached_property
    def margins_without(self) -> tuple[Margins, Margins]:
        """[groups, classes] margins before and now without each group of rows that belong together."""
        return margins_without_groups(self.state.cells_by_group.states[self.group_column], self.old, self.new)

    def _grouped(self, gain: float, of_margins: Callable[[Margins], NDArray[np.float64]]) -> tuple[float, float] | None:
        """Return the interval of a difference that leaves out groups of rows that belong together."""
        before, now = self.margins_without
        return grouped_interval(gain, of_margins(now) - of_margins(before), -math.inf, math.inf)

    @cached_property
    def _both(self) -> NDArray[np.int64]:
        """[classes] images of each class that were right both times."""
        label, old, new, _ = self.joint
        return self._by(label, (old == label) & (new == label))

    @property
    def _both_wrongly(self) -> NDArray[np.int64]:
        """[classes] images that both predict as the class and that are not of it."""
        label, old, new, _ = self.joint
        return self._by(new, (old == new) & (label != new))

    def _by(self, classes: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.int64]:
        totals = np.zeros(self.classes, np.int64)
        np.add.at(totals, classes[where], self.joint[3][where])
        return totals

    def _newcombe(
        self, both: NDArray[Any], new: NDArray[Any], old: NDArray[Any], rows: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.state.identical:
            return np.zeros(np.shape(rows)), np.zeros(np.shape(rows))
        return newcombe_interval(both, new, old, rows)

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Every metric that both steps have, by its name in `summary.json`."""
        differences = {**self.overall}
        for name, of_class in zip(unique_names(self.names), self._of_classes, strict=True):
            differences |= {f"classes/{name}/{figure}": difference for figure, difference in of_class.items()}
        return differences | self._of_slices | self.of_groups

    @cached_property
    def of_groups(self) -> dict[str, Difference]:
        """Differences of the metrics of each level of groups, by name: of the group of the predicted class."""
        differences = {}
        for level in self.groups.levels if self.rows else ():
            size = len(level.groups)
            label, old, new = (level.place[classes] for classes in self.joint[:3])
            cell, where = np.unique((label * size + old) * size + new, return_inverse=True)
            count = np.zeros(len(cell), np.int64)
            np.add.at(count, where, self.joint[3])
            together = recount(
                self.state.cells_by_group, functools.partial(recode_cells, level.place, size, self.classes), size**3
            )
            state = replace(self.state, cells=Counted(cell.astype(np.int64), count), cells_by_group=together)
            by_group = Comparison(state, level.groups)
            specs = [spec for spec in registry.rows("groups") if spec.paired]
            for name, difference in by_group._differences_of(specs, {specs[0].name: by_group._accuracy}).items():
                differences[name.replace("*", level.name)] = difference
        return differences

    @cached_property
    def overall(self) -> dict[str, Difference]:
        """Differences of the metrics of all classes together, by name; undefined ones are left out."""
        if not self.rows:
            return {}
        specs = [spec for spec in registry.rows("overall", "calibration") if spec.paired]
        return self._differences_of(specs, {"accuracy": self._accuracy, "nll": self._nll, "calibration/ece": self._ece})

    def _differences_of(
        self, specs: Sequence[MetricSpec], by_name: Mapping[str, Callable[[MetricSpec], Difference | None]]
    ) -> dict[str, Difference]:
        """Return the differences of metrics by name: of margins by bootstrap, of the others as `by_name` says."""
        functions = {spec.name: spec.margins for spec in specs if spec.margins is not None}
        certain = self.state.identical or bool(self.group_column)
        draws = (
            {}
            if certain or not functions
            else bootstrap_differences(self.joint, self.old, self.new, self.state.cells.value.tobytes(), functions)
        )
        differences: dict[str, Difference] = {}
        for spec in specs:
            if spec.needs_scores and not self.state.losses:
                continue
            if spec.margins is None:
                if difference := by_name[spec.name](spec):
                    differences[spec.name] = difference
                continue
            old, new = float(spec.margins(self.old.margins)), float(spec.margins(self.new.margins))
            if not math.isnan(old) and not math.isnan(new):
                drawn = draws.get(spec.name)
                ends = None if drawn is None else bias_corrected_interval(new - old, drawn)
                if self.group_column:
                    ends = self._grouped(new - old, spec.margins)
                differences[spec.name] = self._difference(
                    spec, old, new, ends, draws=0 if drawn is None else len(drawn)
                )
        return self._of_positive | differences

    @cached_property
    def _of_positive(self) -> dict[str, Difference]:
        """Differences of the metrics of the positive class of two, where both steps have them."""
        if self.positive not in self.names or len(self.names) != 2:  # of two lists of classes, together
            return {}
        c = self.names.index(self.positive)
        differences: dict[str, Difference] = {}
        for spec in registry.rows("positive"):
            of_class, figure = (1 - c, "recall") if spec.short == "specificity" else (c, spec.short)
            if difference := self._of_classes[of_class].get(figure):
                differences[spec.name] = replace(difference, definition=spec.definition)
        ranked = rank_differences(self.state.scores, c, self.group_column)
        return differences | {name: self._difference(registry.require(name), *ends) for name, ends in ranked.items()}

    def _accuracy(self, spec: MetricSpec) -> Difference:
        gained, lost = self.fixed_broken
        new, old, n = int(self.new.hits.sum()), int(self.old.hits.sum()), self.rows
        if self.group_column:
            ends = self._grouped((gained - lost) / n, lambda m: m.hits.sum(axis=-1) / np.maximum(m.rows, 1))
        else:
            lower, upper = self._newcombe(*map(np.array, (old - lost, new, old, n)))
            ends = float(lower), float(upper)
        return self._difference(spec, old / n, new / n, ends, (gained - lost) / n)

    def _nll(self, spec: MetricSpec) -> Difference | None:
        state, n = self.state, self.rows
        if state.cut_losses:  # the sums are those of smaller losses
            return None
        mean = float((state.loss_new - state.loss_old) * FIXED_UNIT / n)
        squares = float(state.loss_squares * FIXED_UNIT + state.large_loss_squares)
        ends = mean_interval(mean, max(squares / n - mean**2, 0.0), n)
        if self.group_column:
            grouped = state.losses_by_group.states[self.group_column]
            each = np.diff(grouped.without)[:, 0] * FIXED_UNIT / np.maximum(grouped.rows_without, 1)
            ends = grouped_interval(mean, each, -math.inf, math.inf)
        return self._difference(spec, self.old.nll, self.new.nll, ends, mean)

    def _ece(self, spec: MetricSpec) -> Difference:
        (old, new), drawn = calibration_draws(self.state.calibration, self.rows)
        if self.group_column:
            each = np.diff(grouped_ece(self.state.gaps_by_group.states[self.group_column]))[:, 0]
            return self._difference(spec, old, new, grouped_interval(new - old, each, -1.0, 1.0))
        return self._difference(spec, old, new, bias_corrected_interval(new - old, drawn), draws=len(drawn))

    def _difference(
        self,
        spec: MetricSpec,
        old: float,
        new: float,
        ends: tuple[float, float] | None,
        gain: float | None = None,
        rows: int | None = None,
        draws: int = 0,
    ) -> Difference:
        """Return a difference; where both steps predict the same for every image it is certain."""
        gain = new - old if gain is None else gain
        method = spec.paired.format(draws) if ends else ""
        if ends and self.group_column:
            method = grouped_method(self.group_column)
        difference = Difference(old, new, gain, ends, self.rows if rows is None else rows, spec.definition, method)
        if self.state.identical:
            return replace(difference, interval=(0.0, 0.0), method=IDENTICAL_METHOD)
        return difference

    @cached_property
    def _of_classes(self) -> list[dict[str, Difference]]:
        """Differences of precision, recall and F1 of each class, where both steps have them."""
        old, new = self.old, self.new
        support, both, wrongly = old.support, self._both, self._both_wrongly
        union = [support + s.predictions - s.hits for s in (old, new)]
        recall = self._newcombe(both, new.hits, old.hits, support)
        precision = precision_ends(old, new, both, wrongly)
        f1 = f1_ends(old, new, both, wrongly)
        if self.group_column and not self.state.identical:
            recall, precision, f1 = map(self._grouped_ends, ("recall", "precision", "f1"))
        by_class: list[dict[str, Difference]] = []
        columns = (
            ("precision", (old.precision, new.precision), precision, np.minimum(old.predictions, new.predictions)),
            ("recall", (old.recall, new.recall), recall, support),
            ("f1", (old.f1, new.f1), f1, np.minimum(*union)),
        )
        specs = [self.spec(f"classes/*/{name}") for name, *_ in columns]
        for c in range(self.classes):
            of_class = {}
            for (name, values, ends, rows), spec in zip(columns, specs, strict=True):
                if rows[c]:
                    gain = float((new.hits[c] - old.hits[c]) / support[c]) if name == "recall" else None
                    a, b = (float(v[c]) for v in values)
                    interval = known_ends(float(ends[0][c]), float(ends[1][c]))
                    of_class[name] = self._difference(spec, a, b, interval, gain, int(rows[c]))
            by_class.append(of_class)
        return by_class

    def _grouped_ends(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return intervals of the differences of all classes that leave out groups of rows that belong together."""
        before, now = self.margins_without
        gain = getattr(self.new.margins, name) - getattr(self.old.margins, name)
        pairs = ((self.old.margins, before), (self.new.margins, now))
        present = np.any([without.rows_of(name) < whole.rows_of(name) for whole, without in pairs], axis=0)
        half = grouped_half_width(getattr(now, name) - getattr(before, name), present)
        half = np.where(half > 0, half, np.nan)  # where all groups are alike, nothing is known
        return np.maximum(gain - half, -1), np.minimum(gain + half, 1)

    @cached_property
    def _of_slices(self) -> dict[str, Difference]:
        """Differences of the accuracy of each slice."""
        every, differences = list_slices(self.state.kinds, self.like, alone=True), {}
        names, spec = slice_names(every), self.spec("slices/*/accuracy")
        for s in every:
            rows, now, was, _ = s.sums.tolist()
            differences[f"{names[s.column, s.value]}/accuracy"] = self._difference(
                spec, was / rows, now / rows, self._slice_ends(s), (now - was) / rows, rows
            )
        return differences
