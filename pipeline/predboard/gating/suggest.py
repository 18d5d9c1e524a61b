"""Suggest a first file of rules that a run passes, to be edited. It knows no files and no predictions."""

import json
import math
from collections.abc import Iterator, Mapping

from predboard.comparison.flips import Difference
from predboard.formatting import plural
from predboard.gating.evaluate import format_change, format_number, group_name
from predboard.gating.rules import Rule
from predboard.metrics import registry
from predboard.metrics.metric_spec import Group
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL
from predboard.summaries import Metric

_GROUPS: tuple[Group, ...] = ("overall", "positive", "calibration")
"""Groups of metrics that have rules where the table marks them."""

COUNTED_METRICS = ("images/failed", "images/counted", "classes/*/support", "classes/*/recall", "slices/*/accuracy")
"""Metrics that `suggest_rules` reads besides those that the table of metrics marks as suggested."""

MAX_SLICES = 2
"""Number of slices that get a rule: those clearly worse than all images together, the worst first."""

MIN_SLICE_IMAGES = 50
"""Images that such a slice must have."""

ACCURACY_DROP = 0.005
"""Loss of accuracy that is allowed, unless the run has lost more already."""

CLASS_RECALL_DROP = 0.02
"""Loss of a class's recall that is allowed, unless a class has clearly lost more already."""


HEADLINES = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "exact"}
"""Share of right images of each task, which slices are compared with."""


def suggested_metrics(task: str = SINGLE_LABEL) -> tuple[str, ...]:
    """Return the names of the metrics that `suggest_rules` reads, with `*` for a class or slice."""
    return (*(spec.name for spec in registry.rows(*_GROUPS, task=task) if spec.suggested), *COUNTED_METRICS)


def suggest_rules(
    run: str,
    step: int,
    metrics: Mapping[str, Metric],
    differences: Mapping[str, Difference],
    unpaired: float = 0.0,
    task: str = SINGLE_LABEL,
) -> str:
    """Return rules as TOML with comments. Every limit is rounded to the side on which the run passes.

    Args:
        run: name of the run that the rules are made from.
        step: its step.
        metrics: its metrics by name.
        differences: differences from the baseline by name; empty without a baseline.
        unpaired: share of the images of either run that the differences leave out.
        task: of the run.
    """
    parts = [
        f"# Rules for `predboard gate`, made from {_comment(run)}, step {step}.\n"
        "# Each limit is an end of the 95 % interval of this run's own metric, so the run passes. Edit as needed.\n"
        "# docs/gates.md explains all keys."
    ]
    for record, remark in (*_limits(metrics, task), *_drops(differences, unpaired)):
        keys = [f"{key} = {_toml(value)}" for key, value in record.items()]
        parts.append("\n".join(["[[rule]]", *keys[:-1], f"{keys[-1]}{f'  # {_comment(remark)}' if remark else ''}"]))
    if HEADLINES[task] not in metrics:
        parts.append("# No image has both logits and a label, so there is nothing else to test.")
    return "\n\n".join(parts) + "\n"


def _limits(metrics: Mapping[str, Metric], task: str) -> Iterator[tuple[dict[str, str | float], str]]:
    """Yield the keys and values of each rule with `min` or `max`, and a remark on the last of them."""
    for spec in registry.rows(*_GROUPS, task=task):
        if spec.suggested and spec.name in metrics:
            metric = metrics[spec.name]
            hint = '; add bound = "lower" to require evidence' if spec.name == HEADLINES[task] else ""
            if spec.group == "positive" and not _round_down(metric):
                continue  # no threshold of one half finds any: a rule that nothing can fail
            limit = ("max", _round_up(metric)) if spec.better == "less" else ("min", _round_down(metric))
            yield {"metric": spec.name, limit[0]: limit[1]}, f"{_describe(metric)}{hint}"
    classes = [
        name.removesuffix("/support") for name in metrics if name.startswith("classes/") and name.endswith("/support")
    ]
    recalls = {name: metrics[f"{name}/recall"] for name in classes if f"{name}/recall" in metrics}
    if recalls and len(recalls) == len(classes) > 1:
        name, lowest = min(recalls.items(), key=lambda item: _round_down(item[1]))
        if _round_down(lowest) > 0:
            remark = f"every class; the lowest is {group_name(name + '/recall')}, {_describe(lowest)}"
            yield {"metric": "classes/*/recall", "min": _round_down(lowest)}, remark
    for name, metric in _weak_slices(metrics, HEADLINES[task]):
        yield {"metric": name, "min": _round_down(metric)}, f"{_describe(metric)}, {plural(metric.rows or 0, 'image')}"
    if "images/failed" in metrics:
        yield {"metric": "images/failed", "max": metrics["images/failed"].value}, ""
        if metrics["images/counted"].value:
            yield {"metric": "images/counted", "min": metrics["images/counted"].value}, "no fewer than now"


def _drops(differences: Mapping[str, Difference], unpaired: float) -> Iterator[tuple[dict[str, str | float], str]]:
    """Yield rules against the baseline: how much accuracy may be lost, and that no class clearly loses more."""
    more: dict[str, str | float] = {}
    if unpaired > Rule.max_unpaired:
        more["max_unpaired"] = math.ceil(unpaired * 100) / 100
    if "accuracy" in differences:
        change = differences["accuracy"]
        remark = f"now {format_change(change.difference)} over {plural(change.rows, 'image')}"
        remark += f" ({_ends(change)})" if change.interval else ""
        yield {"metric": "accuracy", **more, "max_drop": max(ACCURACY_DROP, _ceil(-change.difference))}, remark
    recalls = {
        n: d for n, d in differences.items() if n.startswith("classes/") and n.endswith("/recall") and d.interval
    }
    if recalls:
        name, change = min(recalls.items(), key=lambda item: (item[1].interval or (0, 0))[1])
        limit = max(CLASS_RECALL_DROP, _ceil(-(change.interval or (0, 0))[1]))
        record = {"metric": "classes/*/recall", **more, "bound": "upper", "max_drop": limit}
        remark = "no class clearly loses more; the closest is"
        yield record, f"{remark} {group_name(name)}, {format_change(change.difference)} ({_ends(change)})"


def _ends(change: Difference) -> str:
    return " to ".join(map(format_change, change.interval or ()))


def _weak_slices(metrics: Mapping[str, Metric], headline: str) -> list[tuple[str, Metric]]:
    """Return the accuracies of slices that are clearly below that of all images, the lowest first.

    Only values of a column are considered: where the ranges of a number are cut depends on the images.
    """
    weak = [
        (name, metric)
        for name, metric in metrics.items()
        if name.startswith("slices/") and name.endswith("/accuracy") and "=" in name
        if (metric.rows or 0) >= MIN_SLICE_IMAGES and metric.interval is not None
        if metric.interval[1] < metrics[headline].value and _round_down(metric) > 0
    ]
    return sorted(weak, key=lambda item: (item[1].value, item[0]))[:MAX_SLICES]


def _round_down(metric: Metric) -> float:
    """Return the lower end of the interval, or the value without one, rounded down to three decimals, at least 0."""
    end = metric.value if metric.interval is None else metric.interval[0]
    return max(math.floor(end * 1000) / 1000, 0.0)


def _round_up(metric: Metric) -> float:
    return _ceil(metric.value if metric.interval is None else metric.interval[1])


def _ceil(value: float) -> float:
    return math.ceil(value * 1000) / 1000


def _describe(metric: Metric) -> str:
    ends = "" if metric.interval is None else f" ({' to '.join(map(format_number, metric.interval))})"
    return f"{format_number(metric.value)}{ends}"


def _toml(value: str | float) -> str:
    """Write a value as TOML, whose strings are JSON's but for one control character."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _comment(text: str) -> str:
    """Put text on one line without control characters, which a TOML comment may not contain."""
    return "".join(c if c.isprintable() else " " for c in text)
