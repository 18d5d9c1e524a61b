"""What was written, as numbers: `summary.json`, for scripts and gates. Knows no panel and no drawing."""

import json
from collections.abc import Iterable
from typing import Any

from predboard.metrics import registry
from predboard.predictions.schema import Run
from predboard.summaries import Metric, Metrics, Scalar, Summary

SUMMARY_FORMAT = 1

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

SIGNIFICANT_DIGITS = 9
"""Significant digits that are written: more than any figure has, and floats stay short."""

REDUNDANT_PREFIXES = ("intervals/", "classes/", "slices/")
"""Scalars that `Metrics` say better: as ends of an interval, or for all classes and slices."""


def encode_summary(name: str, run: Run, finished: float, written: Iterable[tuple[int, Summary]]) -> bytes:
    """Every figure of every step by its name, and once what the names mean. JSON without NaN, a figure a line.

    A scalar's name is its tag, without `metrics/` or `1_glance/`; where there are `Metrics` of that name they count.

    Args:
        name: of the run.
        run: of its last step.
        finished: when inference of it ended, seconds since 1970.
        written: (step, summary) as the panels gave them.
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
    for step, figures in steps.items():
        steps[step] = dict(
            sorted(figures.items(), key=lambda item: [item[0].startswith(kind) for kind in registry.PREFIXES])
        )
    defined = {registry.pattern_of(name): figure for figures in steps.values() for name, figure in figures.items()}
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
    lines = [f" {_dump(key)}: {_dump(value)}," for key, value in about.items()]
    meanings = [_dump(_meaning(figure)) for figure in defined.values()]
    lines += [' "definitions": {', *_members(2, defined, meanings), " },", ' "steps": {']
    for step in sorted(steps):
        lines += [f'  "{step}": {{', *_members(3, steps[step], map(_numbers, steps[step].values())), "  },"]
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join(["{", *lines, " }", "}", ""]).encode()


def decode_summary(content: bytes) -> dict[str, Any] | None:
    """What `encode_summary` wrote, with steps as they are in JSON; None if it is not that, or of a newer format."""
    try:
        found = json.loads(content)
        known = isinstance(found, dict) and 1 <= int(found["predboard_summary"]) <= SUMMARY_FORMAT
        return found if known and isinstance(found["steps"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def _meaning(figure: Metric) -> dict[str, str]:
    return {"definition": figure.definition, **({"interval": figure.method} if figure.method else {})}


def _numbers(figure: Metric) -> str:
    found = f'{{"value": {_short(figure.value)}'
    if figure.interval is not None:
        found += f', "lower": {_short(figure.interval[0])}, "upper": {_short(figure.interval[1])}'
    if figure.bound is not None:
        found += f', "bound": {_short(figure.bound)}'
    return f"{found}}}" if figure.rows is None else f'{found}, "rows": {figure.rows}}}'


def _short(value: float) -> str:
    """As JSON has it. There are tens of thousands, and most need no second look at how a float is written."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.{SIGNIFICANT_DIGITS}g}"
    return text if "." in text and "e" not in text else _dump(float(text))


def _members(indent: int, names: Iterable[str], values: Iterable[str]) -> list[str]:
    lines = [f"{' ' * indent}{_dump(name)}: {value}," for name, value in zip(names, values, strict=True)]
    return [*lines[:-1], *(line.removesuffix(",") for line in lines[-1:])]


def _dump(value: Any) -> str:
    return _JSON.encode(value)
