"""The report's first page where images have several labels: how good the model is, and what to look at next.

It knows no single image, only the numbers that the report has measured.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from predboard.formatting import escape_markdown, markdown_table, percent, plural, unique_names
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.multi_label.label_confusions import LabelConfusions
from predboard.metrics.multi_label.label_counts import EMPTY
from predboard.metrics.multi_label.label_pairs import LabelPairs
from predboard.metrics.multi_label.label_state import LabelState
from predboard.metrics.multi_label.label_thresholds import EACH, HALF, find_thresholds
from predboard.metrics.multi_label.label_values import all_label_metrics
from predboard.metrics.multi_label.label_warnings import label_warnings
from predboard.panels import RunInfo
from predboard.panels.pages.report import next_steps

STEP_METRICS = ("average_precision_macro", "f1_macro", "f1_micro", "exact", "bce")
"""Metrics in the table of all steps."""

WORST_LABELS = 5

MIN_GAIN = 0.02
"""Gain in macro F1 by thresholds of their own from which the page mentions them."""


def label_summary_page(info: RunInfo, states: Mapping[int, LabelState], pairs: LabelPairs) -> str:
    """Write the page to start with.

    Args:
        info: the run.
        states: by step, ascending; the page is about the last one.
        pairs: of missed and wrongly predicted labels at the last step.
    """
    last = max(states)
    state, effect = states[last], info.steps[last].new_labels
    known = info.steps[last]
    warnings = label_warnings(state, info.run.classes, known.rows, known.manifest_rows, known.warnings)
    parts = [
        f"# {escape_markdown(info.name)}",
        "\n".join(f"- **Warning:** {escape_markdown(warning)}" for warning in warnings),
        _headline(info, last, state),
        "" if effect is None else f"{escape_markdown(effect.sentence())}.",
        f"**Not at 1/2:** {escape_markdown(info.thresholds)}." if info.thresholds else "",
        _next_steps(info, states, pairs),
        _metrics(state),
        _steps(states),
        _worst(info.run.classes, state, pairs),
    ]
    return "\n\n".join(part for part in parts if part)


def _headline(info: RunInfo, step: int, state: LabelState) -> str:
    images = plural(int(state.counts.rows), "image")
    model = info.run.model.replace("`", "'")
    run = f"`{model}` at step {step} on {images} and {plural(len(info.run.classes), 'label')}"
    metrics = all_label_metrics(state)
    if not metrics:
        return f"{run}. No image has both logits and labels, so there are no metrics."
    m, n = state.metrics, state.metrics.counted
    wrong = int((m.support + m.predictions - 2 * m.hits).sum())
    ranked = ""
    if mean := metrics.get("average_precision_macro"):
        ends = f" (95 % interval {mean.interval[0]:.3f} to {mean.interval[1]:.3f})" if mean.interval else ""
        ranked = f"**mAP {mean.value:.3f}**{ends}, "
    return (
        f"{run}: {ranked}micro F1 {metrics['f1_micro'].value:.3f}, {percent(metrics['exact'].value)} of sets exactly "
        f"right; {wrong:,} wrong decisions in {plural(n, 'counted image')}, of {int(m.known.sum()):,}. An image has "
        f"{metrics['labels_per_image'].value:.2f} labels on average, {metrics['predicted_per_image'].value:.2f} are "
        f"predicted, and {percent(float(state.counts.sums[:, EMPTY].sum() / n))} have none."
    )


def _next_steps(info: RunInfo, states: Mapping[int, LabelState], pairs: LabelPairs) -> str:
    last = max(states)
    lines = [] if info.thresholds else [*_thresholds(info, states[last])]
    lines += [*_mistakes(info), *_pairs(info, states[last], pairs)]
    return next_steps(info, last, [*lines, *_labels(info, states[last]), *_earlier_steps(states)])


def _thresholds(info: RunInfo, state: LabelState) -> Iterator[str]:
    """Say what thresholds of the labels' own would gain, on images on which they were not found."""
    thresholds = find_thresholds(state.counts, state.histograms)
    if thresholds is not None:
        half, each = (thresholds.tested[way].averages["f1_macro"] for way in (HALF, EACH))
        if each > half + MIN_GAIN:
            page = ": open `report/thresholds`" if info.has("report/thresholds") else ""
            yield f"A threshold for each label would raise macro F1 from {half:.3f} to {each:.3f}{page}."


def _mistakes(info: RunInfo) -> Iterator[str]:
    tags = [tag for tag in ("2_mistakes/wrongly_predicted", "2_mistakes/missed") if info.has(tag)]
    if tags:
        yield f"The surest wrong decisions: open {' and '.join(f'`{tag}`' for tag in tags)}."


def _pairs(info: RunInfo, state: LabelState, pairs: LabelPairs) -> Iterator[str]:
    """Name the most frequent pair of a missed and a wrongly predicted label."""
    names = info.run.classes
    for missed, wrong, count in LabelConfusions(pairs, state.metrics, with_nothing=False).pairs(1):
        (tag,) = unique_names([f"{names[missed]} missed, {names[wrong]} wrongly predicted"])
        gallery = f": open `confusion/{tag}`" if info.has(f"confusion/{tag}") else ""
        if count >= 3:
            yield (
                f"In {plural(count, 'image')} **{escape_markdown(names[missed])}** is missed and "
                f"**{escape_markdown(names[wrong])}** wrongly predicted, more than of any other pair{gallery}."
            )


def _labels(info: RunInfo, state: LabelState) -> Iterator[str]:
    """Name the worst label, and one that is predicted far too often or too rarely."""
    names, m = info.run.classes, state.metrics
    for c in m.worst(1).tolist():
        yield (
            f"**{escape_markdown(names[c])}** has a low F1: {m.f1[c]:.3f}, with {m.hits[c]:,} of "
            f"{plural(int(m.support[c]), 'image')} found and {m.predictions[c]:,} predicted: see `report/classes`."
        )
    difference = m.predictions - m.support
    c = int(np.abs(difference).argmax())
    if m.counted and abs(difference[c]) > 0.2 * m.support[c] and abs(difference[c]) > 3 * np.sqrt(m.support[c] + 1):
        often = "too often" if difference[c] > 0 else "too rarely"
        have = "has it" if m.support[c] == 1 else "have it"
        yield (
            f"**{escape_markdown(names[c])}** is predicted {often}: for {plural(int(m.predictions[c]), 'image')}, "
            f"while {m.support[c]:,} {have}."
        )


def _earlier_steps(states: Mapping[int, LabelState]) -> Iterator[str]:
    """Say whether an earlier step was better."""
    name = "average_precision_macro"
    values = {step: all_label_metrics(state) for step, state in states.items()}
    known = {step: metrics[name].value for step, metrics in values.items() if name in metrics}
    last = max(states)
    if len(known) > 1 and last in known:
        best = max(known, key=lambda step: (known[step], -step))
        if known[best] > known[last]:
            yield f"Step {best} had the highest mAP: {known[best]:.3f}, against {known[last]:.3f} at the last step."


def _metrics(state: LabelState) -> str:
    """List all metrics of the last step."""
    rows = []
    for name, metric in all_label_metrics(state).items():
        interval = "–" if metric.interval is None else f"{metric.interval[0]:.4f} to {metric.interval[1]:.4f}"
        bound = "" if metric.bound is None else f" From a histogram: off by at most {metric.bound:.1g}."
        rows.append((f"`{name}`", f"{metric.value:.4f}", interval, f"{metric.definition}{bound}"))
    if not rows:
        return ""
    table = markdown_table(("metric", "value", "95 % interval", "definition"), "lrll", rows)
    return f"### Metrics\n\n{table}\n\n`summary.json` beside the event file says how each interval was computed."


def _steps(states: Mapping[int, LabelState]) -> str:
    """List the most important numbers of all steps."""
    rows = []
    for step, state in states.items():
        metrics = all_label_metrics(state)
        values = [f"{metrics[name].value:.4f}" if name in metrics else "–" for name in STEP_METRICS]
        counts = state.counts
        rows.append([str(step), f"{counts.rows:,}", f"{counts.failed:,}", f"{counts.unlabelled:,}", *values])
    titles = ("step", "images", "failed", "unlabelled", "mAP", "macro F1", "micro F1", "exact", "BCE, nats")
    return f"### Over the steps\n\n{markdown_table(titles, 'rrrrrrrrr', rows)}"


def _worst(names: tuple[str, ...], state: LabelState, pairs: LabelPairs) -> str:
    """List the worst labels and the most frequent pairs."""
    m = state.metrics
    labels = []
    for i, c in enumerate(m.worst(WORST_LABELS).tolist(), 1):
        lower, upper = wilson_interval(int(m.hits[c]), int(m.support[c]))
        labels.append(
            f"{i}. {escape_markdown(names[c])}: F1 {m.f1[c]:.3f}, recall {percent(float(m.recall[c]))} "
            f"({100 * lower:.1f} to {100 * upper:.1f}; {m.hits[c]:,} of {m.support[c]:,}), precision "
            f"{percent(float(m.precision[c])) if m.predictions[c] else '–'}"
        )
    frequent = [
        f"{i}. {escape_markdown(names[a])} missed, {escape_markdown(names[b])} wrongly predicted: {plural(n, 'image')}"
        for i, (a, b, n) in enumerate(LabelConfusions(pairs, m, with_nothing=False).pairs(5), 1)
    ]
    blocks = [("### Worst labels", labels), ("### Most frequent pairs of errors", frequent)]
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in blocks if lines)
