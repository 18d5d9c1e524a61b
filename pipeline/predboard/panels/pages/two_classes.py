"""The page on the positive class of two, and its thresholds for other programs. It knows no states of rows."""

import json
import math
from collections.abc import Mapping
from typing import Any

from predboard import csv_lines
from predboard.formatting import escape_markdown, markdown_table, percent, plural
from predboard.metrics import registry
from predboard.metrics.grouped import hash_of
from predboard.metrics.metric_state import AnyState, MetricState
from predboard.metrics.threshold_tables import format_threshold
from predboard.metrics.two_classes import Criterion, OperatingPoint, Outcome, highest_precision
from predboard.summaries import Metric

FORMAT = 1
"""Format of `operating_points.json`."""

DIGITS = 9
"""Significant digits of figures; thresholds have all of theirs."""

FIGURES = ("precision", "recall", "fpr", "f1")


def two_classes_page(
    names: tuple[str, ...],
    positive: int,
    metrics: Mapping[str, Metric],
    state: AnyState,
    points: Mapping[Criterion, OperatingPoint | None],
) -> str:
    """Write the page in Markdown.

    Args:
        names: of the two classes.
        positive: index of the positive one.
        metrics: by their names.
        state: which they come from.
        points: from `operating_points`.
    """
    name, other = escape_markdown(names[positive]), escape_markdown(names[1 - positive])
    support = state.metrics.support
    counts = f"{plural(int(support[positive]), 'image')} of it and {support[1 - positive]:,} of {other}"
    rows = []
    for spec in registry.rows("positive"):
        if metric := metrics.get(spec.name):
            ends = "–" if metric.interval is None else f"{metric.interval[0]:.4f} to {metric.interval[1]:.4f}"
            rows.append(
                [
                    spec.label.removesuffix(" (positive)"),
                    f"{metric.value:.4f}",
                    ends,
                    f"{metric.rows or 0:,}",
                    spec.definition,
                ]
            )
    parts = [
        f"### The positive class is {name}",
        f"{counts}; `--positive` names the other one. Precision, recall, specificity and F1 are those of the "
        "predictions as they are, which take the likelier class.",
        markdown_table(("metric", "value", "95 % interval", "images", "definition"), "lrlrl", rows),
        "Macro F1, macro average precision and other macro figures are means over *both* classes: where the positive "
        "one is rare they are far higher than these.",
    ]
    return "\n\n".join([*parts, *_thresholds(name, state, positive, points)])


def _thresholds(
    name: str, state: AnyState, positive: int, points: Mapping[Criterion, OperatingPoint | None]
) -> list[str]:
    if not isinstance(state, MetricState) or not state.has_scores:
        return ["The scores of both classes are not known, so there are no thresholds to choose."]
    if not points:
        return ["Thresholds are chosen on half of the images and tested on the other half: each needs both classes."]
    rows = []
    for criterion, point in points.items():
        if point is None:
            best = highest_precision(state.histograms, positive)
            reason = f"not reached (highest: {best:.4f})" if criterion.figure == "precision" else "not reached"
            rows.append([criterion.name, "–", reason, *["–"] * 6])
            continue
        tested = point.tested
        cells = [_with_interval(tested, figure) for figure in FIGURES]
        chosen = getattr(point.fitted, criterion.figure)
        rows.append(
            [criterion.name, format_threshold(point.threshold), f"{chosen:.4f}", *cells,
             f"{tested.hits + tested.false_alarms:,}", point.verdict(criterion) or "–"]
        )  # fmt: skip
    fitted, tested = (next(getattr(point, half) for point in points.values() if point) for half in ("fitted", "tested"))
    titles = ("criterion", "probability at least", "where chosen", "precision", "recall", "FPR", "F1", "taken", "holds")
    halves = "by a hash of the images' keys"
    if column := state.metrics.group_column:
        halves = f"by a hash of {escape_markdown(column)}; the intervals take images as independent"
    return [
        f"### At which probability to accept {name}",
        markdown_table(titles, "lrrllllrl", rows),
        f"Each threshold was chosen on one half of the images ({_size(fitted)}), where it gives what stands under "
        f"*where chosen*. Everything to its right is what it does on the other half ({_size(tested)}), with 95 % "
        f"intervals (Wilson). The halves are {halves}. *Holds*: whether the other half meets the "
        "target; unsure where the interval contains the target. `operating_points.json` and `operating_points.csv` "
        "beside the event file have the thresholds with all digits, also as the log-odds that a single output gives.",
    ]


def _size(outcome: Outcome) -> str:
    positives = outcome.hits + outcome.misses
    return f"{positives:,} of {positives + outcome.false_alarms + outcome.rejections:,} positive"


def _with_interval(outcome: Outcome, figure: str) -> str:
    value = getattr(outcome, figure)
    if math.isnan(value):
        return "–"
    low, high = outcome.intervals[figure]
    return f"{percent(value)} ({100 * low:.1f}–{100 * high:.1f})"


def points_json(
    run: str, step: int, positive: str, points: Mapping[Criterion, OperatingPoint | None], column: str = ""
) -> bytes:
    """Return `operating_points.json`: each criterion with its threshold, and its figures on both halves.

    JSON without NaN or Infinity; thresholds have all their digits.
    """
    record = {
        "predboard_operating_points": FORMAT,
        "run": run,
        "step": step,
        "positive": positive,
        "rule": f"an image is {positive} if its probability is at least `threshold` (its log-odds, `logit`)",
        "fitted": f"the half of the images, by {hash_of(column)}, on which the thresholds were chosen",
        "tested": "the other half",
        "points": [
            {
                "criterion": criterion.name,
                "figure": criterion.figure,
                "target": criterion.target,
                "threshold": point and point.threshold,
                "logit": point and point.logit,
                "holds": point and (point.verdict(criterion) or None),
                "fitted": point and _figures(point.fitted),
                "tested": point and _figures(point.tested),
            }
            for criterion, point in points.items()
        ],
    }
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _figures(outcome: Outcome) -> dict[str, Any]:
    counts = {name: getattr(outcome, name) for name in ("hits", "false_alarms", "misses", "rejections")}
    figures: dict[str, Any] = dict(counts)
    for name in FIGURES:
        value = getattr(outcome, name)
        if not math.isnan(value):
            low, high = outcome.intervals[name]
            ends = {name: value, f"{name}_lower": low, f"{name}_upper": high}
            figures |= {key: float(f"{number:.{DIGITS}g}") for key, number in ends.items()}
    return figures


def points_csv(points: Mapping[Criterion, OperatingPoint | None]) -> bytes:
    """Return `operating_points.csv`: a line for each criterion; cells of one that is not reached are empty."""
    lines = []
    for criterion, point in points.items():
        line: dict[str, Any] = {"criterion": criterion.name, "threshold": None, "logit": None, "holds": None}
        if point is not None:
            line |= {"threshold": point.threshold, "logit": point.logit, "holds": point.verdict(criterion)}
            for half in ("fitted", "tested"):
                line |= {f"{half}_{name}": value for name, value in _figures(getattr(point, half)).items()}
        lines.append(line)
    titles = list(dict.fromkeys(title for line in lines for title in line))
    cells = [[_cell(line.get(title)) for line in lines] for title in titles]
    return f"{','.join(titles)}\n".encode() + csv_lines.format_csv_lines(cells)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
