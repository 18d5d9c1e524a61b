"""The report's pages: how good the model is, what to look at next, how it was run, how to read TensorBoard's tabs.

It knows no single image, only the numbers that the report has measured.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import isnan
from typing import Any

import numpy as np

from predboard.drawing import palette
from predboard.formatting import escape_markdown, markdown_table, percent, plural, unique_names
from predboard.metrics import registry, two_classes
from predboard.metrics.classification import balanced_accuracy, f1_macro
from predboard.metrics.counts import CountMetrics
from predboard.metrics.data_warnings import data_warnings, is_near_chance
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.score_histograms import FINE_BINS, bin_edges
from predboard.metrics.values import overall_metrics, positive_metrics
from predboard.panels import RunInfo, WrittenTag, describe_transform
from predboard.panels.pages.corrected_labels import corrected_labels
from predboard.predictions.schema import Run
from predboard.predictions.table import TileRows
from predboard.summaries import Picture, Summary, Tab, Text

LISTED_CLASSES = 20
"""Names of classes on the page of the run."""

LISTED_TAGS = 6
"""A group with more tags than this is described by its first."""

MISTAKES_TAG = "2_mistakes/confident"
LABEL_ERRORS_TAG = "examples/suspected_label_errors"

TAB_HELP: Mapping[Tab, str] = {
    Tab.SCALARS: "Curves over the steps. Set *Smoothing* to 0, or short curves are bent. If a curve is cut off, switch "
    "off *Ignore outliers in chart scaling*.",
    Tab.CUSTOM_SCALARS: "Several curves in one chart, and curves with the band of their 95 % interval.",
    Tab.IMAGES: f"A {palette.RIGHT_WORD} frame means right, a {palette.WRONG_WORD} one wrong. "
    "The slider chooses the step, the last one at first.",
    Tab.HISTOGRAMS: "How values are distributed over all images. Each layer is a step.",
    Tab.PR_CURVES: "Precision over recall. TensorBoard does not know our thresholds; `report/calibration` lists them.",
    Tab.HPARAMS: "One row for each run: sort by a metric, or select a range on an axis of the parallel coordinates.",
    Tab.PROJECTOR: "Images as points. Points are close together where the model sees the images as similar.",
    Tab.TEXT: "Pages such as this one.",
}
"""Help for reading each tab."""

TABS_WITHOUT_TAGS = {Tab.HPARAMS, Tab.PROJECTOR}


def report_pages(
    info: RunInfo, last: int, summary: str, thresholds: str = "report/calibration"
) -> Iterator[tuple[int, Summary]]:
    """Yield the model's inputs, at the steps for which stage one drew them, and the pages, at the last step.

    Args:
        info: the run.
        last: its last step.
        summary: the page to start with.
        thresholds: tag of the page that lists thresholds.
    """
    own = [*_own_pages(info, last, summary)]
    yield from own
    if info.written:
        written = (*info.written, *{s.tag: WrittenTag(s.tag, type(s), s.description) for _, s in own}.values())
        yield last, Text("report/tabs", tabs_page(written, thresholds), "How to read the tabs, and what is in them.")


def _own_pages(info: RunInfo, last: int, summary: str) -> Iterator[tuple[int, Summary]]:
    sheets = {step: known.sheet for step, known in info.steps.items() if known.sheet is not None}
    for step in sheets:
        draw = functools.partial(sheets.__getitem__, step)
        description = "Some images as the model received them, before the long run."
        yield step, Picture("report/what_the_model_sees", draw, description)
    yield from corrected_labels(info)
    yield last, Text("report/summary", summary, "Start here.")
    yield last, Text("report/run", run_page(info, last), "How the run was made, for whoever must repeat it.")


def summary_page(info: RunInfo, states: Mapping[int, MetricState], mistakes: TileRows) -> str:
    """Write the page to start with.

    Args:
        info: the run.
        states: by step, ascending; the page is about the last one.
        mistakes: `label` and `predicted`, [mistakes], of the most confident mistakes at the last step.
    """
    last = max(states)
    state = states[last]
    parts = [
        f"# {escape_markdown(info.name)}",
        _warnings(info, last, state),
        _accuracy(info, last, state),
        _positive(info, state),
        _new_labels(info, last),
        _groups(state.metrics),
        _next_steps(info, states, mistakes),
        _metrics(state),
        "" if info.run.has_scores else _absent(info),
        _steps(states),
        _worst(info.run.classes, state.metrics),
    ]
    return "\n\n".join(part for part in parts if part)


def _warnings(info: RunInfo, step: int, state: MetricState) -> str:
    known, names = info.steps[step], info.run.classes
    ranks_well = bool(info.run.positive_class) and two_classes.ranks_well(state, info.run.positive_index)
    warnings = data_warnings(state.metrics, names, known.rows, known.manifest_rows, known.warnings, ranks_well)
    return "\n".join(f"- **Warning:** {escape_markdown(warning)}" for warning in warnings)


def _accuracy(info: RunInfo, step: int, state: MetricState) -> str:
    images = plural(int(state.counts.rows), "image")
    run = f"{_code(info.run.model)} at step {step} on {images} in {plural(len(info.run.classes), 'class', 'classes')}"
    accuracy = overall_metrics(state).get("accuracy")
    if accuracy is None or accuracy.interval is None:
        return f"{run}. No image has both scores and a label, so there are no metrics."
    errors = state.metrics.counted - int(state.metrics.hits.sum())
    return (
        f"{run}: **accuracy {percent(accuracy.value)}** (95 % interval {_range(accuracy.interval)}), "
        f"{plural(errors, 'error')} in {plural(state.metrics.counted, 'counted image')}."
    )


def _positive(info: RunInfo, state: MetricState) -> str:
    """Say how well the positive one of two classes is found."""
    if not info.run.positive_class or not state.metrics.counted:
        return ""
    metrics = positive_metrics(state, info.run.positive_index)
    named = (f"{registry.require(name).label.split(' (')[0]} {metric.value:.3f}" for name, metric in metrics.items())
    return (
        f"Of **{escape_markdown(info.run.positive_class)}**, the positive class: {', '.join(named)}. See "
        "`report/two_classes`; macro figures below are means over both classes."
    )


def _groups(scores: CountMetrics) -> str:
    if not scores.group_column:
        return ""
    return (
        f"Images of one **{escape_markdown(scores.group_column)}** belong together: the intervals of metrics leave out "
        "whole groups of them. Those of curves and the lists on this page take images as independent; "
        "`summary.json` says so of each."
    )


def _new_labels(info: RunInfo, step: int) -> str:
    effect = info.steps[step].new_labels
    return "" if effect is None else f"{escape_markdown(effect.sentence())}. See `report/labels`."


def _next_steps(info: RunInfo, states: Mapping[int, MetricState], mistakes: TileRows) -> str:
    state = states[max(states)]
    lines = [*_confusions(info, state.metrics, mistakes), *_classes(info, state.metrics), *_confidence(info, state)]
    return next_steps(info, max(states), [*lines, *_earlier_steps(states)], not is_near_chance(state.metrics))


def next_steps(info: RunInfo, step: int, lines: Sequence[str], suspect_labels: bool = True) -> str:
    """Write the numbered list of what to look at next; empty if there is nothing.

    Args:
        info: the run.
        step: that the page is about; the warnings of stage one about it come first.
        lines: what the metrics suggest.
        suspect_labels: whether the model is good enough to suspect labels.
    """
    lines = [*lines]
    if known := info.steps[step].warnings:
        problems = escape_markdown("; ".join(warning.partition(": ")[0] for warning in known))  # the rest stands above
        lines.insert(0, f"Start with the warnings of stage one, which may explain the rest: {problems}.")
    elif suspect_labels and info.has(LABEL_ERRORS_TAG):
        lines.append(f"Some labels may be wrong: open `{LABEL_ERRORS_TAG}`.")
    numbered = [f"{i}. {line}" for i, line in enumerate(lines, 1)]
    return "\n".join(["### What to look at next", "", *numbered]) if lines else ""


def _confusions(info: RunInfo, scores: CountMetrics, mistakes: TileRows) -> Iterator[str]:
    """Say what the most confident mistakes have in common, and which confusion is the most frequent."""
    names = info.run.classes
    pairs = Counter(zip(mistakes["label"].tolist(), mistakes["predicted"].tolist(), strict=True))
    count = len(mistakes["label"])
    common = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]), default=None)
    if common is not None and pairs[common] >= max(3, count / 5):
        mistaken = f"{pairs[common]} of the {count} most confident mistakes are {_pair(names, *common)}"
        yield f"{mistaken}: {_open_gallery(info, *common)}."
    elif count >= 3:
        yield f"No single confusion dominates the {count} most confident mistakes: open `{MISTAKES_TAG}`."
    elif count:
        yield f"There {'is' if count == 1 else 'are'} only {plural(count, 'mistake')}: open `{MISTAKES_TAG}`."
    errors = scores.counted - int(scores.hits.sum())
    for true, predicted, n in scores.pairs(1):
        if n >= max(3, errors / 20) and (true, predicted) != common:
            yield (
                f"{percent(n / errors)} of all errors are {_pair(names, true, predicted)} ({n:,} of {errors:,}): "
                f"{_open_gallery(info, true, predicted)}."
            )


def _pair(names: tuple[str, ...], true: int, predicted: int) -> str:
    return f"**{escape_markdown(names[true])} → {escape_markdown(names[predicted])}**"


def _open_gallery(info: RunInfo, true: int, predicted: int) -> str:
    (name,) = unique_names([f"{info.run.classes[true]} as {info.run.classes[predicted]}"])
    tag = f"confusion/{name}"
    return f"open `{tag if info.has(tag) else MISTAKES_TAG}`"


def _classes(info: RunInfo, scores: CountMetrics) -> Iterator[str]:
    """Name the worst class if its recall is certainly below the accuracy, and a class that is predicted too often."""
    names = info.run.classes
    for c in scores.worst(1).tolist():
        ends = wilson_interval(int(scores.hits[c]), int(scores.support[c]))
        if ends[1] < scores.accuracy:
            recall = float(scores.recall[c])
            # The worst class is the one whose interval ends lowest; one with few images may have a lower recall.
            rank = "the lowest" if recall <= scores.recall[scores.support > 0].min() else "a low"
            tag = f"predictions/{names[c]}"
            gallery = f": open `{tag}`" if info.has(tag) else ""
            yield (
                f"**{escape_markdown(names[c])}** has {rank} recall: {percent(recall)} ({_range(ends)}), against "
                f"{percent(scores.accuracy)} accuracy overall{gallery}."
            )
    if scores.counted and len(names) > 1:
        surplus = scores.predictions - scores.support
        c = int(surplus.argmax())
        if surplus[c] > 3 * np.sqrt(scores.support[c] + 1) and surplus[c] > 0.2 * scores.support[c]:
            belong = plural(int(scores.support[c]), "image belongs", "images belong")
            times = f"{scores.predictions[c]:,} times"
            yield f"**{escape_markdown(names[c])}** is predicted too often: {times}, but only {belong} to it."


def _confidence(info: RunInfo, state: MetricState) -> Iterator[str]:
    """Say whether the mean confidence is far from the accuracy: by more than 2 points and 3 standard errors."""
    n = state.metrics.counted
    if not n:
        return
    edges = bin_edges(FINE_BINS)
    counts = state.histograms.confidence.sum(axis=0)
    mean = float(counts @ (edges[:-1] + edges[1:]) / 2 / n)
    gap = mean - state.metrics.accuracy
    if abs(gap) > 0.02 and gap**2 * n > 9 * mean * (1 - mean):
        tag = next((s.tag for s in info.written if s.tag.startswith("calibration/") and s.kind is Picture), None)
        kind, only = ("over-confident", "only ") if gap > 0 else ("under-confident", "")
        yield (
            f"The model is {kind}: its mean confidence is {percent(mean)}, but {only}{percent(state.metrics.accuracy)} "
            f"of its predictions are right{f': open `{tag}`' if tag else ''}."
        )


def _earlier_steps(states: Mapping[int, MetricState]) -> Iterator[str]:
    """Say whether an earlier step was better."""
    counted = {step: state.metrics for step, state in states.items() if state.metrics.counted}
    last = max(states)
    if len(counted) < 2 or last not in counted:
        return
    best = max(counted, key=lambda step: (counted[step].accuracy, -step))
    if counted[best].accuracy > counted[last].accuracy:
        yield (
            f"Step {best} was the most accurate: {percent(counted[best].accuracy)}, against "
            f"{percent(counted[last].accuracy)} at the last step."
        )
    lowest = min(counted, key=lambda step: (counted[step].nll, step))
    if counted[lowest].nll < 0.98 * counted[last].nll:
        yield (
            f"NLL was lowest at step {lowest} ({counted[lowest].nll:.4f}) and has risen to {counted[last].nll:.4f}: "
            "the model may be overfitting."
        )


def _metrics(state: MetricState) -> str:
    """List all metrics of the last step."""
    metrics = overall_metrics(state)
    if not metrics:
        return ""
    rows = []
    for name, metric in metrics.items():
        interval = "–" if metric.interval is None else f"{metric.interval[0]:.4f} to {metric.interval[1]:.4f}"
        bound = "" if metric.bound is None else f" From a histogram: off by at most {metric.bound:.1g}."
        if metric.bound is not None and metric.bound > 0.01:
            bound += " So many scores are equal or nearly so that more cannot be said."
        rows.append((name, f"{metric.value:.4f}", interval, f"{metric.definition}{bound}"))
    table = markdown_table(("metric", "value", "95 % interval", "definition"), "lrll", rows)
    return f"### Metrics\n\n{table}\n\n`summary.json` beside the event file says how each interval was computed."


def _absent(info: RunInfo) -> str:
    """Say which metrics and pictures a run without scores does not have, and why."""
    names = ", ".join(f"`{name}`" for name in registry.absent_without_scores(bool(info.run.positive_class)))
    return (
        f"**Not measurable here:** {names}, precision–recall and ROC curves, the highest loss, the least certain "
        f"images and points in the projector: {registry.NO_SCORES}."
    )


def _steps(states: Mapping[int, MetricState]) -> str:
    """List the most important numbers of all steps."""
    titles = "step", "images", "failed", "unlabelled", "accuracy", "95 % interval", "balanced", "macro F1", "NLL, nats"
    rows = []
    for step, state in states.items():
        scores, counts = state.metrics, state.counts
        row = [str(step), f"{counts.rows:,}", f"{counts.failed:,}", f"{counts.unlabelled:,}"]
        if scores.counted:
            lower, upper = scores.accuracy_interval
            row += [f"{scores.accuracy:.4f}", f"{lower:.4f} to {upper:.4f}", f"{balanced_accuracy(scores.margins):.4f}"]
            row += [f"{f1_macro(scores.margins):.4f}", "–" if isnan(scores.nll) else f"{scores.nll:.4f}"]
        else:
            row += ["–"] * 5
        rows.append(row)
    return f"### Over the steps\n\n{markdown_table(titles, 'rrrrrlrrr', rows)}"


def _worst(names: tuple[str, ...], scores: CountMetrics) -> str:
    """List the worst classes and the most frequent confusions."""
    classes = []
    for i, c in enumerate(scores.worst(5).tolist(), 1):
        ends = wilson_interval(int(scores.hits[c]), int(scores.support[c]))
        classes.append(
            f"{i}. {escape_markdown(names[c])}: recall {percent(float(scores.recall[c]))} ({_range(ends)}; "
            f"{scores.hits[c]:,} of {scores.support[c]:,}), precision {percent(float(scores.precision[c]))}"
        )
    pairs = [
        f"{i}. {escape_markdown(names[t])} → {escape_markdown(names[p])}: {plural(n, 'image')}, "
        f"{percent(n / scores.support[t])} of {escape_markdown(names[t])}"
        for i, (t, p, n) in enumerate(scores.pairs(5), 1)
    ]
    blocks = [("### Worst classes", classes), ("### Most frequent confusions, true → predicted", pairs)]
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in blocks if lines)


def run_page(info: RunInfo, step: int) -> str:
    """Write the page that says how a run was made, for whoever must repeat it."""
    run, known = info.run, info.steps[step]
    arguments = ", ".join(f"{k}={v}" for k, v in run.model_args.items())
    classes = ", ".join(run.classes[:LISTED_CLASSES]) + (", …" if len(run.classes) > LISTED_CLASSES else "")
    missing = known.manifest_rows - known.rows
    rows = [
        ("model", _code(run.model) + (f" with {arguments}" if arguments else "")),
        ("checkpoint", _code(known.checkpoint) if known.checkpoint else "none"),
        ("weights", f"{_code(run.weights)} (digest)" if run.weights else ""),
        ("model's source", f"{_code(run.code)} (digest)" if run.code else ""),
        ("data", _code(run.origin) if run.origin else ""),
        ("rows", f"{known.rows:,} of {known.manifest_rows:,}"),
        ("missing rows", f"{missing:,}" if missing else ""),
        ("classes", f"{len(run.classes):,}: {classes}"),
        ("positive class", run.positive_class),
        ("labels", "" if known.new_labels is None else f"of {known.new_labels.file}, else of the predictions"),
        ("transform", describe_transform(run) or "none"),
        ("scores", run.scores),
        ("precision, device", f"{run.precision}, {known.device or 'unknown'}"),
        ("embeddings", f"{run.embedding:,} numbers" if run.embedding else ""),
        ("thumbnails", f"{run.thumbnails} pixels" if run.thumbnails else ""),
        ("inference", _time_range(known.started, known.finished)),
        *((f"time: {name}", f"{seconds:,.1f} s") for name, seconds in sorted(known.seconds.items())),
        *((name.replace("_", " "), _fact(value, run)) for name, value in sorted(known.provenance.items())),
        ("steps", ", ".join(map(str, info.steps))),
        ("format", str(run.format)),
    ]
    table = markdown_table(("", ""), "ll", [(escape_markdown(k), escape_markdown(v)) for k, v in rows if v])
    note = (
        f"All of it is about step {step}. Times: *decode* is the sum over all threads; *wait* is how long the model "
        "waited for images."
    )
    return f"# {escape_markdown(info.name)}: how it was run\n\n{table}\n\n{note}"


def _fact(value: Any, run: Run) -> str:
    """Return what stage one recorded, as text; of a run that this one is made of, only what differs from this one."""
    if not isinstance(value, Mapping):
        return str(value)
    facts = [f"{name} {fact}" for name, fact in value.items() if not isinstance(fact, Mapping) and fact != ""]
    transform = value.get("transform")
    if isinstance(transform, Mapping):
        facts += [f"{name} {fact}" for name, fact in transform.items() if run.transform.get(name) != fact]
    return ", ".join(facts)


def _time_range(started: float, finished: float) -> str:
    if not 0 < started <= finished:
        return ""
    begin, end = (datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") for t in (started, finished))
    return f"{begin} to {end}"


def tabs_page(written: Iterable[WrittenTag], thresholds: str) -> str:
    """Write the page that explains TensorBoard's tabs and lists what was written into each.

    Args:
        written: all tags.
        thresholds: page that lists the thresholds of precision–recall curves.
    """
    lines = [
        "### How to read the tabs",
        "",
        f"{palette.RIGHT_WORD.capitalize()} means right and {palette.WRONG_WORD} means wrong, everywhere.",
        "",
        "**Time Series.** All scalars, images and histograms on one page. You can filter by tag and pin cards.",
        "",
    ]
    for tab in Tab:
        inside = [tag for tag in written if tag.kind.tab is tab]
        if inside:
            lines += ["", f"**{tab.value}.** {TAB_HELP[tab].replace('report/calibration', thresholds)}", ""]
            if tab not in TABS_WITHOUT_TAGS:
                lines += _tags(inside)
    return "\n".join(lines)


def _tags(written: list[WrittenTag]) -> Iterator[str]:
    """Describe tags, of a large group only the first."""
    groups: dict[str, list[WrittenTag]] = {}
    for tag in written:
        groups.setdefault(tag.tag.partition("/")[0], []).append(tag)
    for group, members in groups.items():
        large = len(members) > LISTED_TAGS
        for tag in members[:1] if large else members:
            text = f"{_code(tag.tag)}: {escape_markdown(tag.description)}"
            yield f"- `{group}/…`, {len(members)} tags, such as {text}" if large else f"- {text}"


def _code(text: str) -> str:
    """Write a text as code, which ends at the first backtick."""
    return "`" + text.replace("`", "'") + "`"


def _range(ends: tuple[float, float]) -> str:
    """Write an interval of shares in percent, without the sign."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
