"""Encodes the metrics of a run as `summary.json`, for scripts, gates and the leaderboard. It knows no panels."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from predboard.metrics import registry
from predboard.metrics.label_effect import LabelEffect
from predboard.predictions.schema import Run
from predboard.summaries import Metric, Metrics, Scalar, Summary

SUMMARY_FORMAT = 1

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

SIGNIFICANT_DIGITS = 9
"""Digits of each number: more than any metric is known to, and the file stays small."""

REDUNDANT_PREFIXES = ("intervals/", "classes/", "slices/", "groups/")
"""Tags of scalars that `Metrics` cover: ends of intervals, and the few classes and slices that are plotted."""


def encode_summary(
    name: str,
    run: Run,
    finished: float,
    written: Iterable[tuple[int, Summary]],
    labels: Mapping[int, LabelEffect] | None = None,
    thresholds: str = "",
) -> bytes:
    """Return the content of `summary.json`: every metric of every step, one a line, and each definition once.

    A scalar is named by its tag, without `metrics/` or `1_glance/`; `Metrics` of the same name take precedence.

    Args:
        name: of the run.
        run: of its last step.
        finished: when inference of that step ended, seconds since 1970.
        written: step and summary, as the panels yielded them.
        labels: what corrected labels did, by step; nothing without any.
        thresholds: origin of those that labels are predicted at; empty if that is probability 1/2.

    Raises:
        TypeError: for a kind of summary that has no numbers.
        ValueError: for NaN and infinity.
    """
    steps: dict[int, dict[str, Metric]] = {}
    for step, summary in written:
        of_step = steps.setdefault(step, {})
        if isinstance(summary, Metrics):
            of_step.update(summary.metrics)
        elif not isinstance(summary, Scalar):
            raise TypeError(f"{type(summary).__name__} has no numbers for {name}'s summary.json: see summaries.py")
        elif not summary.tag.startswith(REDUNDANT_PREFIXES):
            short = summary.tag.removeprefix("metrics/").removeprefix("1_glance/")
            of_step.setdefault(short, Metric(summary.value, definition=summary.description))
    for step, metrics in steps.items():
        steps[step] = dict(
            sorted(metrics.items(), key=lambda item: [item[0].startswith(kind) for kind in registry.PREFIXES])
        )
    defined = {registry.pattern_of(name): metric for metrics in steps.values() for name, metric in metrics.items()}
    about = {
        "predboard_summary": SUMMARY_FORMAT,
        "run": name,
        "model": run.model,
        "model_args": run.model_args,
        "code": run.code,
        "weights": run.weights,
        "transform": run.transform,
        "precision": run.precision,
        "classes": len(run.classes),
        "finished": finished,
    }
    if thresholds:
        about["thresholds"] = thresholds
    if labels:
        about["corrected_labels"] = {str(step): effect.record() for step, effect in labels.items()}
    if task := run.record().get("task"):
        about["task"] = task
    if run.positive_class:
        about["positive"] = run.positive_class
    if not run.has_scores:
        about["absent"] = dict.fromkeys(registry.absent_without_scores(bool(run.positive_class)), registry.NO_SCORES)
    lines = [f" {_dump(key)}: {_dump(value)}," for key, value in about.items()]
    meanings = [_dump(_describe(metric)) for metric in defined.values()]
    lines += [' "definitions": {', *_members(2, defined, meanings), " },", ' "steps": {']
    for step in sorted(steps):
        lines += [f'  "{step}": {{', *_members(3, steps[step], map(_encode_numbers, steps[step].values())), "  },"]
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join(["{", *lines, " }", "}", ""]).encode()


def decode_summary(content: bytes) -> dict[str, Any] | None:
    """Parse a `summary.json`, with steps as text keys; None if it is something else or of a newer format."""
    try:
        summary = json.loads(content)
        is_known = isinstance(summary, dict) and 1 <= int(summary["predboard_summary"]) <= SUMMARY_FORMAT
        return summary if is_known and isinstance(summary["steps"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def _describe(metric: Metric) -> dict[str, str]:
    return {"definition": metric.definition, **({"interval": metric.method} if metric.method else {})}


def _encode_numbers(metric: Metric) -> str:
    text = f'{{"value": {_encode_float(metric.value)}'
    if metric.interval is not None:
        text += f', "lower": {_encode_float(metric.interval[0])}, "upper": {_encode_float(metric.interval[1])}'
    if metric.bound is not None:
        text += f', "bound": {_encode_float(metric.bound)}'
    return f"{text}}}" if metric.rows is None else f'{text}, "rows": {metric.rows}}}'


def _encode_float(value: float) -> str:
    """Return a number as JSON, rounded. Most of the tens of thousands need no encoder, which takes longer."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.{SIGNIFICANT_DIGITS}g}"
    return text if "." in text and "e" not in text else _dump(float(text))


def _members(indent: int, names: Iterable[str], values: Iterable[str]) -> list[str]:
    lines = [f"{' ' * indent}{_dump(name)}: {value}," for name, value in zip(names, values, strict=True)]
    return [*lines[:-1], *(line.removesuffix(",") for line in lines[-1:])]


def _dump(value: Any) -> str:
    return _JSON.encode(value)
