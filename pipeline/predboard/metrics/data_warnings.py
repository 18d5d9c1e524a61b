"""Says in words what is wrong with the data behind the metrics: rows missing, classes never predicted, a lazy model.

It knows no drawing and no files.
"""

from collections.abc import Sequence

import numpy as np

from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.multi_label.label_counts import LabelCountMetrics, LabelCounts
from predboard.state import FIXED_LIMIT


def is_near_chance(scores: CountMetrics) -> bool:
    """Return whether accuracy is not clearly better than always predicting the most frequent of several classes."""
    n = scores.counted
    if not n or np.count_nonzero(scores.support) < 2:
        return False
    return wilson_interval(int(scores.hits.sum()), n)[0] <= float(scores.support.max() / n)


def data_warnings(
    scores: CountMetrics,
    names: tuple[str, ...],
    rows: int,
    manifest_rows: int,
    before: Sequence[str] = (),
    ranks_well: bool = False,
) -> list[str]:
    """Return what a reader should know before trusting the numbers, the most serious first.

    Args:
        scores: metrics of the step.
        names: of the classes.
        rows: of the predictions.
        manifest_rows: rows that there should be.
        before: warnings of stage one.
        ranks_well: whether two classes are told apart for certain, whatever the accuracy is: that of a rare class at
            one half may be no better than never predicting it.
    """
    warnings = [*missing_rows(rows, manifest_rows, "classes"), *before]
    warnings += uncounted_rows(scores.counts, "no label", "NLL")
    n = scores.counted
    if n and scores.classes > 1:
        common = int(scores.support.argmax())
        always = float(scores.support[common] / n)
        if is_near_chance(scores) and not ranks_well:
            baseline = f"always predicting {names[common]} ({100 * always:.0f} %)"
            warnings.append(f"accuracy is not clearly better than {baseline}")
        dominant = int(scores.predictions.argmax())
        share, expected = float(scores.predictions[dominant] / n), float(scores.support[dominant] / n)
        if share > 0.5 and share > 2 * expected:
            only = f"but only {100 * expected:.0f} % of images are"
            warnings.append(f"{100 * share:.0f} % of predictions are {names[dominant]}, {only}")
        warnings += never_predicted(scores, names, "classes")
    return warnings


def never_predicted(scores: CountMetrics | LabelCountMetrics, names: Sequence[str], things: str) -> list[str]:
    """Return a warning if some classes or labels have images and are never predicted; `things` says which they are."""
    never = np.flatnonzero((scores.predictions == 0) & (scores.support > 0))
    if not len(never):
        return []
    are = "is" if len(never) == 1 else "are"
    return [f"{len(never)} of {len(names)} {things} {are} never predicted: {', '.join(names[c] for c in never[:3])}"]


def missing_rows(rows: int, manifest_rows: int, things: str) -> list[str]:
    """Return a warning if rows are missing; `things` are what may be missing as a whole with them."""
    if rows >= manifest_rows:
        return []
    return [
        f"{manifest_rows - rows:,} of {manifest_rows:,} rows are missing, possibly whole {things}: rows are stored in "
        "the manifest's order; re-run the command that wrote the others"
    ]


def uncounted_rows(counts: Counts | LabelCounts, lacking: str, loss: str) -> list[str]:
    """Return a warning for each kind of rows that are not in the metrics, or not in the mean loss.

    Args:
        counts: of the step.
        lacking: what unlabelled images have: "no label".
        loss: name of the loss.
    """
    warnings = []
    if counts.failed:
        are = "is" if counts.failed == 1 else "are"
        warnings.append(f"{counts.failed:,} of {counts.rows:,} images failed and {are} in no metric")
    if counts.unlabelled:
        have = "has" if counts.unlabelled == 1 else "have"
        warnings.append(f"{counts.unlabelled:,} of {counts.rows:,} images {have} {lacking}")
    if counts.cut_losses:
        warnings.append(f"{counts.cut_losses:,} images have a loss above {FIXED_LIMIT:,.0f} nats: there is no {loss}")
    return warnings
