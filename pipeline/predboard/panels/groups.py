"""Shows how well groups of classes are told apart (`--groups`). It knows no single image, and no file of groups."""

import csv
import functools
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from predboard.csv_lines import harmless_cell
from predboard.formatting import escape_markdown, markdown_table, percent, plural
from predboard.metrics import group_counts, registry
from predboard.metrics.class_groups import ALL_LEVELS, NO_GROUPS, ClassGroups
from predboard.metrics.group_counts import GroupCounts, LevelEvidence, level_evidence
from predboard.metrics.intervals import wilson_intervals
from predboard.metrics.metric_spec import Direction
from predboard.metrics.values import group_metrics
from predboard.panels import RunInfo
from predboard.panels.pages.confusion import confusion_matrix, most_confused, order_classes
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import File, Metric, Metrics, Picture, Scalar, Summary, Text

BLOCK_GROUPS = 40
"""Groups in a matrix; of more it has those that are confused most, and a row and column for all others."""

TABLE_GROUPS = 100
"""Rows of a table; TensorBoard slows down above 200."""

CURVES = ("accuracy", "accuracy_summed", "errors_inside", "mistake_height")


@dataclass(frozen=True)
class Panel:
    """Pictures, text: groups of classes (--groups FILE): accuracy, confusions, errors inside a group, their height."""

    groups: ClassGroups = NO_GROUPS
    sum_up: bool = True
    """Whether the group of highest summed probability is counted too."""
    columns: frozenset[str] = group_counts.COLUMNS | {"logits"}
    without_scores: bool = True

    @property
    def is_set(self) -> bool:
        """Whether there are groups to draw."""
        return bool(self.groups.levels)

    def zero(self, run: Run) -> GroupCounts:
        """Return the counts of no rows."""
        return GroupCounts.zero(run)

    def measure(self, run: Run, batch: Predictions) -> GroupCounts:
        """Return the counts of these rows alone."""
        return GroupCounts.measure(run, batch, self.groups, self.sum_up)

    def render(self, info: RunInfo, states: Mapping[int, GroupCounts]) -> Iterator[tuple[int, Summary]]:
        """Yield a matrix of each level and curves for each step; of the last one with labels the page and the files."""
        counted = {step: state for step, state in states.items() if state.counts.metrics.counted}
        if not counted or not self.groups.levels:
            return
        of_steps = dict(self.metrics(info, states))
        evidence = {step: level_evidence(state, self.groups) for step, state in counted.items()}
        for step, at_step in evidence.items():
            metrics = of_steps[step].metrics
            for name, metric in metrics.items():
                if name.rpartition("/")[2] in CURVES:
                    yield step, Scalar(name, metric.value, metric.definition)
            for one in at_step:
                scores, level = one.predicted, one.level
                chosen = most_confused(scores, order_classes(scores), BLOCK_GROUPS)
                draw = functools.partial(confusion_matrix, scores, chosen, level.groups)
                described = (
                    f"Groups of level {level.name}. Rows: true group; columns: group of the predicted class. The "
                    "stronger a cell, the larger its share of the true group."
                )
                yield step, Picture(f"groups/{level.name}", draw, described)
        last = max(counted)
        page = _page(self.groups, evidence[last], of_steps[last].metrics)
        yield last, Text("report/groups", page, "Accuracy by group of classes.")
        yield last, File("groups.csv", _csv(last, evidence[last], info.run.classes), "All groups of all levels.")
        yield last, File("class_groups.json", _json(self.groups), "The group of each class at each level.")
        yield from of_steps.items()

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better."""
        return registry.directions("groups")

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Return a panel that reads no logits if none of the wanted metrics needs them."""
        if registry.need_logits(wanted):
            return self
        return replace(self, sum_up=False, columns=group_counts.COLUMNS)

    def metrics(self, info: RunInfo, states: Mapping[int, GroupCounts]) -> Iterator[tuple[int, Metrics]]:  # noqa: ARG002
        """Yield the metrics of each level."""
        for step, state in states.items():
            if state.counts.metrics.counted and self.groups.levels:
                yield step, Metrics("groups", group_metrics(state, self.groups))


def _page(groups: ClassGroups, evidence: list[LevelEvidence], metrics: Mapping[str, Metric]) -> str:
    rows = []
    for one in evidence:
        name = one.level.name
        row = [escape_markdown(name), f"{len(one.level.groups):,}"]
        row += [_number(metrics.get(f"groups/{name}/{short}")) for short in _COLUMNS]
        rows.append(row)
    titles = ("level", "groups", *(registry.require(f"groups/*/{short}").label for short in _COLUMNS))
    blocks = [markdown_table(titles, "lr" + "r" * len(_COLUMNS), rows)]
    blocks.append(
        "*Summed*: of the group whose classes have the highest summed probability; the other columns are of the group "
        "of the predicted class. *Errors inside*: share of the images with a wrong class whose predicted class is in "
        "the true group. Intervals are of 95 %."
    )
    height = metrics.get(f"groups/{ALL_LEVELS}/mistake_height")
    if height is not None:
        blocks.append(
            f"**Mean height of mistakes: {_number(height)}** of {len(groups.levels) + 1}: levels up to the lowest "
            "group that joins the true and the predicted class, over the wrong predictions (Bertinetto et al. 2020)."
        )
    elif not groups.nested:
        blocks.append("The levels do not refine each other, so that mistakes have no height.")
    if groups.alone:
        blocks.append(
            f"{plural(groups.alone, 'class has no group and counts', 'classes have no group and count')} as "
            f"{'its' if groups.alone == 1 else 'their'} own."
        )
    blocks += [_table(one) for one in evidence]
    return "\n\n".join(blocks)


_COLUMNS = ("accuracy", "accuracy_summed", "balanced_accuracy", "f1_macro", "errors_inside")


def _number(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    if metric.interval is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.4f} ({metric.interval[0]:.4f} to {metric.interval[1]:.4f})"


def _table(evidence: LevelEvidence) -> str:
    """Return the groups of a level, the worst first."""
    s, level = evidence.predicted, evidence.level
    shown = s.worst_first[(s.support + s.predictions > 0)[s.worst_first]]
    lower, upper = wilson_intervals(s.hits, s.support)
    other, times = s.mistaken_for
    classes = np.bincount(level.place, minlength=len(level.groups))
    rows = [
        [
            escape_markdown(level.groups[g]),
            f"{classes[g]:,}",
            f"{s.support[g]:,}",
            percent(float(s.recall[g])) if s.support[g] else "–",
            f"{100 * lower[g]:.1f} to {100 * upper[g]:.1f}" if s.support[g] else "–",
            percent(float(s.precision[g])) if s.predictions[g] else "–",
            f"{escape_markdown(level.groups[other[g]])} ({times[g]:,})" if times[g] else "–",
        ]
        for g in shown[:TABLE_GROUPS].tolist()
    ]
    titles = ("group", "classes", "images", "recall", "95 %", "precision", "most often mistaken for")
    rest = (
        f"\n\nThe table has the worst {TABLE_GROUPS} of {len(shown):,}; `groups.csv` has all."
        if len(shown) > TABLE_GROUPS
        else ""
    )
    return f"### {escape_markdown(level.name)}\n\n{markdown_table(titles, 'lrrrlrl', rows)}{rest}"


def _csv(step: int, evidence: list[LevelEvidence], classes: tuple[str, ...]) -> bytes:
    """Write `groups.csv`: a line for each group of each level, and the classes in it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["step", "level", "group", "classes", "support", "predicted", "hits", "predicted_summed", "hits_summed"]
    )
    for one in evidence:
        s, summed = one.predicted, one.summed
        for g, group in enumerate(one.level.groups):
            members = "|".join(classes[c] for c in np.flatnonzero(one.level.place == g).tolist())
            of_sum = ["", ""] if summed is None else [summed.predictions[g], summed.hits[g]]
            names = [harmless_cell(text) for text in (one.level.name, group, members)]
            table.writerow([step, *names, s.support[g], s.predictions[g], s.hits[g], *of_sum])
    return text.getvalue().encode()


def _json(groups: ClassGroups) -> bytes:
    """Write `class_groups.json`, by which the tab Predictions groups its matrix."""
    levels = [{"name": one.name, "groups": one.groups, "group_of": one.group_of} for one in groups.levels]
    return f"{json.dumps({'levels': levels}, ensure_ascii=False)}\n".encode()
