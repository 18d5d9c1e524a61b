"""Writes the reference of all metrics, for the terminal and as docs/metrics.md. It knows no value of any."""

import textwrap
from collections.abc import Iterator
from math import inf

from predboard.formatting import plural
from predboard.metrics import registry
from predboard.metrics.metric_spec import Group, MetricSpec
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL

WIDTH_COLUMNS = 100
"""Width of the list in the terminal."""

TITLES: dict[Group, str] = {
    "images": "Counts of images",
    "overall": "All classes together",
    "positive": "The positive one of two classes",
    "nothing": "Predicting nothing",
    "calibration": "Calibration",
    "thresholds": "Thresholds",
    "classes": "Each class",
    "slices": "Each slice",
    "groups": "Each level of groups of classes (`--groups`)",
    "label_issues": "Label issues",
}

INTRODUCTION = """\
# Metrics

Every number in `summary.json`, under its name. `predboard metrics` prints the list, `predboard gate` tests them,
`predboard compare` compares two runs by those with a paired interval.

This page is written by `predboard metrics --markdown > docs/metrics.md` from the tables in
`pipeline/predboard/metrics/registry.py` and `multi_label/label_registry.py` beside it. To add a metric, add a row there
and a function (see CONTRIBUTING.md).

First come the metrics of images of one class each; then those of images with several labels (`--task multi-label`), of
which some have the same names.

Symbols: *n* images with logits and a label; *c* a class; *b* a bin; hits_c images of class *c* that are predicted as
it, support_c images of it, predictions_c images predicted as it; *p* softmax probabilities; [ ] is 1 if true, else 0.
A class is *present* if it has images or predictions. All intervals are 95 % intervals.
"""


SEVERAL_LABELS = """\
# Several labels of an image

A *decision* is one label *c* of one image: the model predicts it where its logit is above 0, so its probability *p*
(the sigmoid of the logit) above 1/2. Labels of which it is not known whether they apply are in no decision and no
metric. Where images are averaged, 0 / 0 is 1: of an image without labels of which none is predicted everything is
right. Where labels are averaged, 0 / 0 is 0, and a label is *present* if an image has it or is predicted to have it.

Symbols: hits_c images with *c* that are predicted to have it, support_c images with it, predictions_c images predicted
to have it; *true*, *predicted* the sets of an image's labels, |…| the size of a set. Intervals over groups of images
leave out an image with all of its labels at a time.
"""


def reference_lines() -> Iterator[str]:
    """Yield the list of metrics, name and definition, for the terminal."""
    yield from _lines(SINGLE_LABEL, "")
    yield from _lines(MULTI_LABEL, "Several labels of an image: ")
    metrics = sum(len(registry.metrics_of(task)) for task in (SINGLE_LABEL, MULTI_LABEL))
    yield f"{plural(metrics, 'metric')}; docs/metrics.md has their formulas and sources."


def _lines(task: str, heading: str) -> Iterator[str]:
    for group, title in TITLES.items():
        specs = registry.rows(group, task=task)
        if not specs:
            continue
        yield f"{heading}{title}"
        width = max(len(spec.name) for spec in specs)
        for spec in specs:
            first = f"  {spec.name:<{width}}  "
            indent = " " * len(first)
            yield from textwrap.wrap(
                first + spec.definition, WIDTH_COLUMNS, subsequent_indent=indent, break_on_hyphens=False
            )
        yield ""


def reference_page() -> str:
    """Return docs/metrics.md."""
    return "\n".join([INTRODUCTION, *_parts(SINGLE_LABEL), SEVERAL_LABELS, *_parts(MULTI_LABEL)])


def _parts(task: str) -> Iterator[str]:
    for group, title in TITLES.items():
        if specs := registry.rows(group, task=task):
            yield f"## {title}\n"
            yield from (_entry(spec) for spec in specs)


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
