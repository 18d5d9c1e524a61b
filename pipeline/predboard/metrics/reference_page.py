"""Writes the reference of all metrics, for the terminal and as docs/metrics.md. It knows no value of any."""

import textwrap
from collections.abc import Iterator
from math import inf

from predboard.formatting import plural
from predboard.metrics import registry
from predboard.metrics.metric_spec import Group, MetricSpec

WIDTH_COLUMNS = 100
"""Width of the list in the terminal."""

TITLES: dict[Group, str] = {
    "images": "Counts of images",
    "overall": "All classes together",
    "positive": "The positive one of two classes",
    "calibration": "Calibration",
    "classes": "Each class",
    "slices": "Each slice",
    "label_issues": "Label issues",
}

INTRODUCTION = """\
# Metrics

Every number in `summary.json`, under its name. `predboard metrics` prints the list, `predboard gate` tests them,
`predboard compare` compares two runs by those with a paired interval.

This page is written by `predboard metrics --markdown > docs/metrics.md` from the table in
`pipeline/predboard/metrics/registry.py`. To add a metric, add a row there and a function (see CONTRIBUTING.md).

Symbols: *n* images with logits and a label; *c* a class; *b* a bin; hits_c images of class *c* that are predicted as
it, support_c images of it, predictions_c images predicted as it; *p* softmax probabilities; [ ] is 1 if true, else 0.
A class is *present* if it has images or predictions. All intervals are 95 % intervals.
"""


def reference_lines() -> Iterator[str]:
    """Yield the list of metrics, name and definition, for the terminal."""
    for group, title in TITLES.items():
        specs = registry.rows(group)
        if not specs:
            continue
        yield title
        width = max(len(spec.name) for spec in specs)
        for spec in specs:
            first = f"  {spec.name:<{width}}  "
            yield from textwrap.wrap(first + spec.definition, WIDTH_COLUMNS, subsequent_indent=" " * len(first))
        yield ""
    yield f"{plural(len(registry.METRICS), 'metric')}; docs/metrics.md has their formulas and sources."


def reference_page() -> str:
    """Return docs/metrics.md."""
    parts = [INTRODUCTION]
    for group, title in TITLES.items():
        if specs := registry.rows(group):
            parts.append(f"## {title}\n")
            parts += [_entry(spec) for spec in specs]
    return "\n".join(parts)


def _entry(spec: MetricSpec) -> str:
    facts = [f"Range: {_range(spec)}; {_direction(spec)}."]
    if spec.formula:
        facts.append(f"Formula: `{spec.formula}`.")
    if spec.interval:
        facts.append(f"Interval: {spec.interval.replace('{:,} draws', '250 to 1,000 draws')}.")
    if spec.paired:
        paired = spec.paired.replace("{:,} draws", "250 to 1,000 draws")
        facts.append(f"Difference over the same images: {paired}.")
    if spec.source:
        facts.append(f"Source: {spec.source}.")
    name = f"`{spec.name}`" if spec.label == spec.name else f"{spec.label}: `{spec.name}`"
    return f"### {name}\n\n{spec.definition}\n\n" + "\n".join(f"- {fact}" for fact in facts) + "\n"


def _range(spec: MetricSpec) -> str:
    low, high = spec.range
    ends = f"{low:g} and above" if high == inf else f"{low:g} to {high:g}"
    return f"{ends} {spec.unit}".strip()


def _direction(spec: MetricSpec) -> str:
    return {"more": "more is better", "less": "less is better", "neither": "neither is better"}[spec.better]
