"""Compares how well two steps find the positive one of two classes. It knows no files and no drawing.

What follows from the predictions is that of the classes; how the scores rank the images needs histograms of both steps,
in the groups of the jackknife. They are of the compared rows, so that both are of the same images.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from predboard.metrics import score_histograms
from predboard.metrics.intervals import Floats, grouped_jackknife, jackknife
from predboard.metrics.score_histograms import FINE_BINS, Estimate, ScoreHistograms
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import Counted

_SHAPE = (2, 2, JACKKNIFE_GROUPS, 2, FINE_BINS)
"""Old and new, all rows and those of the class, groups, classes, bins."""

Runs = tuple[Run, Run]
"""Of the old step and of the new one."""


def scored_runs(old: Run, new: Run) -> Runs | None:
    """Return the runs if both have the scores of the same two classes in the same order; else None."""
    same = old.classes == new.classes and bool(old.positive_class) and bool(new.positive_class)
    return (old, new) if same and old.has_scores and new.has_scores else None


def columns_of_scores(runs: Runs | None) -> frozenset[str]:
    """Return the columns that `count_scores` reads."""
    return frozenset() if runs is None else score_histograms.COLUMNS


def no_scores() -> Counted:
    """Return the counts of no rows."""
    return Counted.from_values(np.zeros(0, np.int64))


def count_scores(runs: Runs | None, before: Predictions, now: Predictions) -> Counted:
    """Count rows by their scores in both steps: places in an array of `_SHAPE`; none without `runs`.

    Args:
        runs: from `scored_runs`.
        before, now: the same labelled images in both steps, row by row.
    """
    if runs is None or before.group_column != now.group_column:
        return no_scores()
    histograms = [ScoreHistograms.measure(run, rows) for run, rows in zip(runs, (before, now), strict=True)]
    counts = np.stack([[h.every_grouped, h.true_grouped] for h in histograms]).reshape(-1)
    at = np.flatnonzero(counts)
    return Counted(at.astype(np.int64), counts[at].astype(np.int64))


OldNewEnds = tuple[float, float, tuple[float, float] | None]
"""A metric before and now, and the 95 % interval of the difference."""


def rank_differences(scores: Counted, positive: int, group_column: str) -> dict[str, OldNewEnds]:
    """Return AUROC and average precision of both, by their name in the table; none where they are undefined.

    The interval leaves out one group after the other from both steps at once, so that what both rank alike cancels out;
    the bounds of both histograms are added in squares.

    Args:
        scores: from `count_scores`.
        positive: index of the positive class.
        group_column: the column whose values belong together; empty if there is none.
    """
    if not len(scores.count):
        return {}
    counts = np.zeros(math.prod(_SHAPE), np.int64)
    counts[scores.value] = scores.count
    grouped = counts.reshape(_SHAPE)[:, :, :, positive]  # [sides, every and true, groups, bins]
    half_width = grouped_jackknife if group_column else jackknife
    differences: dict[str, OldNewEnds] = {}
    functions: Mapping[str, tuple[Callable[..., Estimate], Callable[..., Estimate]]] = {
        "positive/average_precision": (
            score_histograms.average_precision,
            functools.partial(score_histograms.average_precision, bounded=False),
        ),
        "positive/auroc": (score_histograms.auroc, score_histograms.auroc),
    }
    for name, (bounded, quick) in functions.items():
        old, new = (bounded(side[1].sum(axis=0), side[0].sum(axis=0)) for side in grouped)
        if np.isnan(old.value) or np.isnan(new.value):
            continue

        def change(*of_sides: NDArray[np.int64], metric: Callable[..., Estimate] = quick) -> Floats:
            every_old, true_old, every_new, true_new = of_sides
            return np.asarray(metric(true_new, every_new).value - metric(true_old, every_old).value)

        half = float(half_width(tuple(grouped.reshape(4, *grouped.shape[2:])), change))
        gain = float(new.value - old.value)
        wide = math.hypot(half, float(old.bound), float(new.bound))
        interval = None if math.isnan(wide) else (max(gain - wide, -1.0), min(gain + wide, 1.0))
        differences[name] = float(old.value), float(new.value), interval
    return differences
