"""Computes every difference between two steps with several labels an image. It knows no files and no drawing.

Intervals of what many labels decide leave out groups of images, both steps at once, so that they keep the labels of an
image together; those of a single label are as of a class. What both get right, or both get wrong, cancels out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from predboard.comparison.differences import DEFINITIONS, Comparison
from predboard.comparison.flips import IDENTICAL_METHOD, ClassChange, Difference, Flips, worst_first
from predboard.comparison.paired_intervals import known_ends
from predboard.comparison.paired_labels import ADDED, DROPPED, GAINED, LOST, PairedLabels
from predboard.formatting import plural
from predboard.metrics import registry
from predboard.metrics.counts import Margins
from predboard.metrics.intervals import (
    JACKKNIFE_OF_GROUPS,
    NEWCOMBE,
    WIDENED,
    Floats,
    grouped_half_width,
    grouped_method,
    mcnemar_p,
)
from predboard.metrics.metric_spec import MetricSpec
from predboard.metrics.multi_label.label_counts import EXACT, LabelCountMetrics, LabelMargins
from predboard.metrics.multi_label.label_histograms import LabelHistograms
from predboard.metrics.multi_label.label_metrics import macro_without, mean_loss, micro_without, of_margins
from predboard.metrics.score_histograms import mean_of_defined
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL

_IS = ("are", "is")

Without = Callable[[LabelHistograms, NDArray[np.bool_], str], Floats]

RANKINGS: Mapping[str, tuple[str, str, Without]] = {
    "average_precision_macro": ("average_precision", "average_precision_of_both_kinds", macro_without),
    "average_precision_micro": ("average_precision", "average_precision_micro", micro_without),
    "auroc_macro": ("auroc", "auroc", macro_without),
    "auroc_micro": ("auroc", "auroc_micro", micro_without),
}
"""Metrics that rank the images by the logits of labels: what is computed, of which labels, and without each group."""

_OF_CLASS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class LabelChange:
    """Decisions on one label that were fixed and broken, and its F1."""

    name: str
    images: int
    """Compared images that have the label."""
    lost: int
    gained: int
    dropped: int
    added: int
    f1: Difference
    p: float
    """p-value of McNemar's exact test that fixed and broken decisions are equally likely."""

    @property
    def fixed(self) -> int:
        """Decisions that were wrong and are right."""
        return self.gained + self.dropped

    @property
    def broken(self) -> int:
        """Decisions that were right and are wrong."""
        return self.lost + self.added


@dataclass(frozen=True)
class LabelComparison(Comparison):
    """Everything that follows from the counts of two steps with several labels an image."""

    state: PairedLabels  # type: ignore[assignment]  # the counts of sets, in place of those of classes

    task: ClassVar[str] = MULTI_LABEL
    headline: ClassVar[str] = "f1_micro"
    headline_words: ClassVar[str] = "micro F1"
    moves_file: ClassVar[str] = "labels.csv"
    class_words: ClassVar[str] = "label"
    right_words: ClassVar[dict[str, str]] = {"class": "right decisions", "label": "F1", "slice": "exact match"}
    definitions: ClassVar[dict[str, str]] = DEFINITIONS | {
        "churn": "Share of images whose set of predicted labels changed.",
        "agreement": "Share of images for which both predict the same set of labels.",
        "negative_flip_rate": "Share of images whose set was right before and is wrong now (Yan 2021).",
        "positive_flip_rate": "Share of images whose set was wrong before and is right now.",
        "mcnemar_p": "Chance of so uneven a split of fixed and broken sets if neither were likelier (exact McNemar, "
        "two-sided).",
    }

    def is_paired(self, name: str) -> bool:
        """Return whether a metric follows from the decisions, or ranks images by the logits of labels."""
        spec = registry.find(name, MULTI_LABEL)
        if spec is None:
            return False
        if spec.name in RANKINGS:
            return bool(self.state.scores.states)
        paired = {"exact", "slices/*/accuracy", *(f"classes/*/{of_class}" for of_class in _OF_CLASS)}
        return spec.name in paired or self._function(spec) is not None

    @property
    def notes(self) -> list[str]:
        """What is not compared, a sentence each."""
        notes = []
        if any(self.left_out):
            sides = " and ".join(
                f"{plural(len(names), 'label')} of the {side} run alone ({_first(names)})"
                for names, side in zip(self.left_out, ("old", "new"), strict=True)
                if names
            )
            notes.append(
                f"only the {plural(len(self.names), 'label')} that both runs have {_IS[len(self.names) == 1]} "
                f"compared; left out: {sides}, and cross-entropy, which is of all labels of a run"
            )
        if not self.state.scores.states and self.rows:
            notes.append("mAP and AUROC are not compared: a run has no scores, or too many to sort by image in memory")
        return notes

    @property
    def rows(self) -> int:
        """Number of images that are compared."""
        return self.new.counted

    @property
    def old(self) -> LabelCountMetrics:  # type: ignore[override]  # which has the same figures by class
        """Counts of the old step over the compared images."""
        return self.state.before.metrics

    @property
    def new(self) -> LabelCountMetrics:  # type: ignore[override]  # as above
        """Counts of the new step over the compared images."""
        return self.state.now.metrics

    @property
    def margins_without(self) -> tuple[Margins, Margins]:
        """Margins before and now without each group of images."""
        return self.old.margins_without, self.new.margins_without

    @property
    def _both(self) -> NDArray[np.int64]:
        """[classes] images with the label that both predict to have it."""
        return np.asarray(self.old.hits - self.moved[LOST])

    @property
    def _both_wrongly(self) -> NDArray[np.int64]:
        """[classes] images without the label that both predict to have it."""
        return np.asarray(self.old.predictions - self.old.hits - self.moved[DROPPED])

    @cached_property
    def fixed_broken(self) -> tuple[int, int]:
        """Numbers of images whose set was fixed and broken."""
        fixed, broken = self.state.sets.tolist()
        return fixed, broken

    @cached_property
    def moved(self) -> NDArray[np.int64]:
        """[4, classes] decisions of each label that were lost, gained, dropped and added."""
        return np.asarray(self.state.moved.sum(axis=0))

    @cached_property
    def decisions(self) -> tuple[int, int]:
        """Numbers of decisions that were fixed and broken."""
        return int(self.moved[[GAINED, DROPPED]].sum()), int(self.moved[[LOST, ADDED]].sum())

    @property
    def moved_words(self) -> str:
        """How many decisions and sets were fixed and broken, for a sentence."""
        (fixed, broken), (sets_fixed, sets_broken) = self.decisions, self.fixed_broken
        return (
            f"{fixed:,} decisions fixed, {broken:,} broken; of {plural(self.rows, 'image')} {sets_fixed:,} exactly "
            f"right now, {sets_broken:,} no longer"
        )

    @property
    def shares(self) -> tuple[float, float]:
        """The headline metric before and now."""
        d = self.overall[self.headline]
        return d.old, d.new

    @property
    def group_column(self) -> str:
        """Name of the column whose equal values make images belong together; empty if each stands for itself."""
        return self.new.group_column

    @cached_property
    def by_label(self) -> list[LabelChange]:
        """Fixed and broken decisions of each label that is true or predicted somewhere, the worst F1 change first."""
        changes = []
        for c, name in enumerate(self.names):
            f1 = self._of_classes[c].get("f1")
            if f1 is not None:
                lost, gained, dropped, added = self.moved[:, c].tolist()
                p = mcnemar_p(gained + dropped, lost + added)
                changes.append(LabelChange(name, int(self.new.support[c]), lost, gained, dropped, added, f1, p))
        return sorted(
            changes, key=lambda c: (c.f1.interval[1] if c.f1.interval else c.f1.difference, c.fixed - c.broken)
        )

    @property
    def class_changes(self) -> list[ClassChange]:
        """The change of F1 of each label some of whose decisions changed, the worst first."""
        return [ClassChange(c.name, c.fixed, c.broken, c.f1) for c in self.by_label if c.fixed or c.broken]

    @cached_property
    def by_class(self) -> list[Flips]:
        """Fixed and broken decisions of each label that is true or predicted somewhere, the worst first."""
        known = self.new.known
        wrong = [m.support + m.predictions - 2 * m.hits for m in (self.old, self.new)]
        right = [known - of_side for of_side in wrong]
        broken = self.moved[[LOST, ADDED]].sum(axis=0)
        fixed = self.moved[[GAINED, DROPPED]].sum(axis=0)
        lower, upper = self._newcombe(right[0] - broken, right[1], right[0], np.maximum(known, 1))
        if self.group_column and not self.state.identical:
            half = grouped_half_width(_right_share(self.new.margins_without) - _right_share(self.old.margins_without))
            gain = (fixed - broken) / np.maximum(known, 1)
            half = np.where(half > 0, half, np.nan)
            lower, upper = np.maximum(gain - half, -1), np.minimum(gain + half, 1)
        present = (known > 0) & (self.new.support + self.new.predictions + self.old.predictions > 0)
        return worst_first(
            Flips(
                self.names[c],
                int(known[c]),
                int(fixed[c]),
                int(broken[c]),
                known_ends(float(lower[c]), float(upper[c])),
            )
            for c in np.flatnonzero(present).tolist()
        )

    @cached_property
    def overall(self) -> dict[str, Difference]:
        """Differences of the metrics of decisions and sets, by name; undefined ones are left out."""
        if not self.rows:
            return {}
        differences: dict[str, Difference] = {}
        for spec in registry.rows("overall", task=MULTI_LABEL):
            if spec.name == "exact":
                differences["exact"] = self._exact(spec)
            elif spec.name in RANKINGS and self.state.scores.states:
                if difference := self._ranking(spec):
                    differences[spec.name] = difference
            elif (function := self._function(spec)) is not None:
                old, new = float(function(self.old.margins)), float(function(self.new.margins))
                if not np.isnan(old) and not np.isnan(new):
                    half = float(self._half_width(function))
                    ends = (new - old - half, new - old + half) if half > 0 else None  # nan is not above 0
                    differences[spec.name] = self._difference(spec, old, new, ends)
        return differences

    def _function(self, spec: MetricSpec) -> Callable[[LabelMargins], Floats] | None:
        """Return how a metric follows from margins; None if it does not, or if a loss is beyond what is summed."""
        if spec.name == "bce":  # the losses are of all labels of a run
            cut = self.state.before.cut_losses or self.state.now.cut_losses
            return None if cut or any(self.left_out) else mean_loss
        compute: Any = spec.compute
        is_of_margins = isinstance(compute, partial) and compute.func is of_margins and spec.better != "neither"
        return compute.keywords["function"] if is_of_margins else None

    def _half_width(self, function: Callable[[LabelMargins], Floats]) -> Floats:
        """Return half widths of the difference of what follows from margins."""
        return grouped_half_width(function(self.new.margins_without) - function(self.old.margins_without))

    def _ranking(self, spec: MetricSpec) -> Difference | None:
        """Return the difference of AUROC or average precision; None where it is undefined.

        The interval leaves out one group after the other from both steps at once; the bounds of both are added in
        squares.
        """
        name, of_labels, without = RANKINGS[spec.name]
        sides = [self.state.scores.states[side] for side in ("old", "new")]
        values, bounds = (
            [mean_of_defined(np.atleast_1d(getattr(getattr(side, of_labels), figure))) for side in sides]
            for figure in ("value", "bound")
        )
        if np.isnan(values).any():
            return None
        old, new = (without(side, self.new.present, name) for side in sides)
        wide, gain = math.hypot(float(grouped_half_width(new - old)), *bounds), values[1] - values[0]
        ends = (max(gain - wide, -1.0), min(gain + wide, 1.0)) if wide > 0 else None  # nan is not above 0
        return self._difference(spec, values[0], values[1], ends)

    def _exact(self, spec: MetricSpec) -> Difference:
        fixed, broken = self.fixed_broken
        old, new = (int(s.sums[:, EXACT].sum()) for s in (self.state.before, self.state.now))
        gain, n = (fixed - broken) / self.rows, self.rows
        if self.group_column:
            half = float(self._half_width(lambda m: m.sums[..., EXACT] / np.maximum(m.images, 1)))
            ends = (gain - half, gain + half) if half > 0 else None
            return self._difference(spec, old / n, new / n, ends, gain)
        lower, upper = self._newcombe(*map(np.array, (old - broken, new, old, n)))
        return self._difference(spec, old / n, new / n, (float(lower), float(upper)), gain)

    def _difference(
        self,
        spec: MetricSpec,
        old: float,
        new: float,
        ends: tuple[float, float] | None,
        gain: float | None = None,
        rows: int | None = None,
        draws: int = 0,  # noqa: ARG002  nothing is drawn
    ) -> Difference:
        """Return a difference; where both steps predict the same for every image it is certain."""
        method = ""
        if ends:
            widened = WIDENED if spec.name in RANKINGS else ""
            method = JACKKNIFE_OF_GROUPS + widened
            if spec.group == "classes":
                method = registry.require(spec.name, SINGLE_LABEL).paired
            elif spec.group == "slices" or spec.name == "exact":
                method = NEWCOMBE
            if self.group_column:
                method = grouped_method(self.group_column, widened)
        gain = new - old if gain is None else gain
        difference = Difference(old, new, gain, ends, self.rows if rows is None else rows, spec.definition, method)
        if self.state.identical:
            return replace(difference, interval=(0.0, 0.0), method=IDENTICAL_METHOD)
        return difference


def _right_share(m: LabelMargins) -> Floats:
    """Return the share of right decisions on each label, [..., classes]."""
    return np.asarray(1 - (m.support + m.predictions - 2 * m.hits) / np.maximum(m.known, 1))


def _first(names: Sequence[str]) -> str:
    """Return a few of the names for a message."""
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)
