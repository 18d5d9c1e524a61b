"""Shows on which kinds of images the model is worse, by manifest columns and image properties. It knows no image.

A slice is the rows with one value of a column, or a quarter of the rows by a number.
"""

import csv
import functools
import io
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from predboard.csv_lines import harmless_cell
from predboard.drawing import plots
from predboard.drawing.plots import IntervalLine
from predboard.formatting import escape_markdown, markdown_table, plural, unique_names
from predboard.metrics import registry
from predboard.metrics import slices as slicing
from predboard.metrics.grouped import group_column, no_groups, sum_by_group
from predboard.metrics.intervals import benjamini_hochberg, grouped_p, welch_p
from predboard.metrics.metric_spec import Direction
from predboard.metrics.slice_crosses import CROSS, Crosses
from predboard.metrics.slices import (
    MAX_LOSS,
    Slice,
    SliceSums,
    empty_slices,
    list_slices,
    loss_variance,
    mean_loss,
    mean_of,
    measure_slices,
    skipped_columns,
    slice_names,
)
from predboard.metrics.values import slice_metrics
from predboard.panels import EVERY_TASK, RunInfo
from predboard.predictions.schema import IMAGE_PROPERTIES, SINGLE_LABEL, Run
from predboard.predictions.table import Predictions
from predboard.state import FIXED_UNIT, StatesByName, summed
from predboard.summaries import File, Metric, Metrics, Picture, Scalar, Summary, Text

MIN_ROWS = 20
"""A slice is compared with the other rows if both have at least this many."""

FALSE_DISCOVERIES = 0.05

ALL_STEPS_MAX_SLICES = 100
"""With more slices, `summary.json` has their metrics at the last step only."""


@dataclass(frozen=True)
class State(SliceSums):
    """Sums of 1, right, loss and loss² over the labelled rows of each column and value; of several labels of an image
    their Jaccard index and its square too.
    """

    whole: NDArray[np.int64] = summed()  # [2] 1 and right of all labelled rows
    by_group: StatesByName = field(default_factory=no_groups)  # [GROUPS, 1] rows, where rows belong together


@dataclass(frozen=True)
class SliceComparison:
    """A slice compared with all other rows."""

    slice: Slice
    effect: float
    """Difference of the mean losses divided by the root of the mean variance (Chung et al. 2019, Slice Finder)."""
    p: float
    """p-value of Welch's one-sided test that the slice is no worse, by the normal distribution; where rows belong
    together, of a t test whose standard error is that of leaving out groups of them."""
    worse: bool
    """Whether the slice is worse, at a false discovery rate of 5 % over all slices (Benjamini & Hochberg 1995)."""


@dataclass(frozen=True)
class Panel:
    """Text, picture: accuracy and loss by manifest column and by size, brightness and contrast of the images."""

    curves: int = 2
    """Slices with curves; TensorBoard copes with some 150 tags of all panels together."""
    shown: int = 10
    """Slices in the picture."""
    listed: int = 100
    """Rows of the table on the page."""
    summarised: int = 1000
    """Slices in `summary.json`: those with the most images."""
    crosses: Crosses = ()
    """Columns whose values are crossed, each time two or more."""
    columns: frozenset[str] = slicing.COLUMNS | {"label", "predicted", "loss"}
    without_scores: bool = True
    tasks: frozenset[str] = EVERY_TASK
    task: str = SINGLE_LABEL
    """The task of the runs, whose slices have other figures."""

    def zero(self, run: Run) -> State:  # noqa: ARG002  the rows say which columns there are
        """Return the state of no rows."""
        none = empty_slices()
        return State(**vars(none), whole=np.zeros(2, np.int64))

    def measure(self, run: Run, batch: Predictions) -> State:  # noqa: ARG002  as above
        """Return the state of these rows alone."""
        rows = batch.labelled
        loss = np.minimum(rows.loss.astype(np.float64), MAX_LOSS) if rows.has_scores else 1.0 - rows.right
        summands = [np.ones(len(rows)), rows.right, loss / FIXED_UNIT, loss**2 / FIXED_UNIT]
        if (jaccard := getattr(rows, "jaccard", None)) is not None:  # which rows of several labels have
            summands += [jaccard / FIXED_UNIT, jaccard**2 / FIXED_UNIT]
        each = np.rint(np.stack(summands, axis=1)).astype(np.int64)  # [rows, sums]
        kinds = measure_slices(rows, each, self.crosses)
        return State(**vars(kinds), whole=each[:, :2].sum(axis=0), by_group=sum_by_group(rows, lambda: each[:, :1]))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield the page and picture of the last step, and curves of its worst slices."""
        yield from self.metrics(info, states)
        last = max(states)
        slices = list_slices(states[last])
        compared = compare(slices)
        worse = [c for c in compared if c.worse]
        tags = _tags([c.slice for c in worse[: self.curves]])
        right = registry.require("slices/*/accuracy", info.run.task).label
        for step, state in states.items():
            at_step = {(s.column, s.value): s for s in list_slices(state, like=states[last])}
            for tag, s in tags.items():
                if (s.column, s.value) in at_step:
                    description = (
                        f"{right.capitalize()} where {s.name}, a slice that was worse than the rest at the last step."
                    )
                    yield step, Scalar(tag, at_step[s.column, s.value].accuracy, description)
        if not slices:
            return
        if compared:
            lines = [_line(c.slice) for c in worth_showing(compared, self.shown)]
            title = "no slice is certainly worse"
            if worse:
                title = f"{len(worse)} of {plural(len(compared), 'slice')} worse than the rest, your columns first"
            overall = float(states[last].whole[1] / states[last].whole[0])
            worst = functools.partial(plots.draw_intervals, title, lines, overall)
            description = (
                "Columns of the manifest first, then by how much greater the loss is than elsewhere. Lines: 95 % "
                f"intervals of the {right} ({'leaving out groups' if states[last].by_group.states else 'Wilson'})."
            )
            yield last, Picture("slices/worst", worst, description)
        page = self._page(states[last], compared, worse, info.run)
        yield last, Text("report/slices", page, f"{right.capitalize()} by kind of image.")
        yield last, File("slices.csv", _table(compared, info.run))

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Say which of two values is better, as for all images together."""
        return registry.directions("slices", task=self.task)

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all of them come of one state
        """Return a panel with the metrics of all slices, not only of the largest."""
        return replace(self, summarised=sys.maxsize)

    def metrics(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Metrics]]:
        """Yield images, accuracy and loss of each slice; of many slices at the last step only."""
        last = states[max(states)]
        names = slice_names(list_slices(last, alone=True))
        names = {key: names[key] for key in list(names)[: self.summarised]}
        for step, state in states.items():
            if names and (state is last or len(names) <= ALL_STEPS_MAX_SLICES):
                metrics: dict[str, Metric] = {}
                for s in list_slices(state, like=last, alone=True):
                    if (s.column, s.value) in names:
                        metrics |= {
                            f"{names[s.column, s.value]}/{n}": figure
                            for n, figure in slice_metrics(s, group_column(state.by_group), info.run.task).items()
                            if n != "nll" or info.run.has_scores
                        }
                yield step, Metrics("slices", metrics)

    def _page(self, state: State, compared: list[SliceComparison], worse: list[SliceComparison], run: Run) -> str:
        has_loss = run.has_scores
        loss, losses = ("loss", "losses") if has_loss else ("error rate", "error rates")
        several = registry.find("slices/*/jaccard", run.task) is not None
        column = escape_markdown(group_column(state.by_group))
        test = f"t test that leaves out groups of whole {column}s" if column else "Welch's test"
        parts = [
            f"{len(worse)} of {plural(len(compared), 'slice')} with at least {MIN_ROWS} labelled images inside and "
            f"outside {'is' if len(worse) == 1 else 'are'} worse than the rest ({test} on the {loss}, false "
            f"discovery rate 5 %). The effect is the difference of the mean {losses} divided by their standard "
            "deviation: 0.2 is small, 0.5 medium and 0.8 large."
        ]
        if compared:
            rows = []
            for c in compared[: self.listed]:
                s = c.slice
                ends = slicing.slice_accuracy(s).interval
                interval = "–" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
                row = [escape_markdown(s.name), f"{s.rows:,}", f"{s.accuracy:.4f}", interval]
                row += [f"{slicing.slice_jaccard(s).value:.4f}"] if several else []
                row += [f"{mean_loss(s):.4f}" if has_loss else "–", f"{c.effect:+.2f}", "**yes**" if c.worse else ""]
                rows.append(row)
            right, nats = (registry.require(f"slices/*/{name}", run.task) for name in ("accuracy", "nll"))
            titles = ["slice", "images", right.label, "95 % interval", *["Jaccard index"] * several]
            titles += [nats.label_with_unit, "effect", "worse"]
            parts.append(markdown_table(titles, "lrrl" + "r" * several + "rrl", rows))
            if len(compared) > self.listed:
                parts.append(f"`slices.csv` has {len(compared) - self.listed:,} more.")
        if many := skipped_columns(state):
            parts.append(
                f"Not shown, because there are too many different values: {', '.join(map(escape_markdown, many))}."
            )
        return "\n\n".join(parts)


def compare(parts: list[Slice]) -> list[SliceComparison]:
    """Compare each slice that has enough rows with the other rows of its column; the largest effect comes first."""
    whole: dict[tuple[str, bool], NDArray[np.int64]] = {}
    for s in parts:
        of_column = s.column, s.crossed
        whole[of_column] = whole[of_column] + s.every if of_column in whole else s.every
    compared = []
    for s in parts:
        rest = replace(s, every=whole[s.column, s.crossed] - s.every)
        if min(s.rows, rest.rows) < MIN_ROWS:
            continue
        spread = math.sqrt((loss_variance(s) + loss_variance(rest)) / 2)
        difference = mean_loss(s) - mean_loss(rest)
        effect = difference / spread if spread else 0.0
        compared.append(SliceComparison(s, effect, _p(s, rest, difference), worse=False))
    worse = benjamini_hochberg([c.p for c in compared], FALSE_DISCOVERIES)
    marked = [replace(c, worse=i in worse) for i, c in enumerate(compared)]
    return sorted(marked, key=lambda c: (-c.effect, c.slice.name))


def _p(s: Slice, rest: Slice, difference: float) -> float:
    """Return the one-sided p-value that the mean loss of a slice is no greater than that of the rest."""
    if s.is_grouped:  # each group leaves both, as it may have rows in both
        present = s.present | rest.present
        loss, others = (mean_of(side.every[0] - side.every[1:][present], 2, FIXED_UNIT) for side in (s, rest))
        return grouped_p(difference, loss - others)
    return welch_p(difference, math.sqrt(loss_variance(s) / s.rows + loss_variance(rest) / rest.rows))


def worth_showing(compared: Sequence[SliceComparison], room: int) -> list[SliceComparison]:
    """Return at most `room` slices: of the user's own columns, those that are worse first, then others that are worse.

    Half of the room is kept for others that are worse, where the user's own that are not would fill it. Where none is
    worse at all, the others are those with the largest effect.
    """
    flagged = any(c.worse for c in compared)
    own = sorted((c for c in compared if c.slice.column not in IMAGE_PROPERTIES), key=lambda c: not c.worse)
    others = [c for c in compared if c.slice.column in IMAGE_PROPERTIES and (c.worse or not flagged)]
    reserved = min(len(others), room // 2, max(room - sum(c.worse for c in own), 0)) if flagged else 0
    first = own[: room - reserved]
    return first + others[: room - len(first)]


def _line(s: Slice) -> IntervalLine:
    low, high = slicing.slice_accuracy(s).interval or (s.accuracy, s.accuracy)
    parts = [part.partition("=")[2] for part in s.value.split(CROSS)] if s.crossed else []
    name = CROSS.join(parts) if all(parts) and parts else s.name  # of a crossed slice the values alone have room
    return IntervalLine(name, s.accuracy, low, high, f"{s.rows:,}")


def _tags(slices: list[Slice]) -> dict[str, Slice]:
    """Return slices by their tags, which are all different."""
    return dict(zip(unique_names([f"slices/{s.name}" for s in slices]), slices, strict=True))


def _table(compared: list[SliceComparison], run: Run) -> bytes:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    several = registry.find("slices/*/jaccard", run.task) is not None
    shares = ["accuracy", "lower", "upper", *["jaccard"] * several]
    table.writerow(["column", "value", "rows", "right", *shares, "nll", "effect", "p", "worse"])
    for c in compared:
        s = c.slice
        low, high = slicing.slice_accuracy(s).interval or (math.nan, math.nan)
        nll = mean_loss(s) if run.has_scores else math.nan
        jaccard = [slicing.slice_jaccard(s).value] if several else []
        numbers = (s.accuracy, low, high, *jaccard, nll, c.effect, c.p)
        table.writerow(
            [
                *map(harmless_cell, (s.column, s.value.removeprefix("="))),
                s.rows,
                int(s.sums[1]),
                *("" if math.isnan(x) else f"{x:.6g}" for x in numbers),
                int(c.worse),
            ]
        )
    return written.getvalue().encode()
