"""What was run on what, how good it is, what to look at next, how to read the other tabs. Knows no single picture.

Three pages of text: `report/summary` for everyone, `report/run` for who must repeat it, `report/tabs` for who is new to
TensorBoard. The last is made from what the other panels wrote.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from predboard.formatting import escape_markdown, percent, unique_names
from predboard.metrics import classification, score_histograms
from predboard.metrics import counts as tally
from predboard.metrics.classification import MetricState
from predboard.metrics.counts import CountMetrics
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.values import overall_metrics
from predboard.panels import RunInfo, WrittenTag, describe_transform
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import Lowest
from predboard.summaries import Picture, Summary, Tab, Text

SHEET = "report/what_the_model_sees"

CLASSES = 20
"""Names of classes on the page of the run."""

SURE = 30
"""Most confident mistakes among which a common cause is looked for."""

GROUP_TAGS_MAX = 6
"""A group with more tags than this is described by its first."""


@dataclass(frozen=True)
class State:
    """What all figures follow from, and the classes of the most confident mistakes."""

    evidence: MetricState
    sure: Lowest


@dataclass(frozen=True)
class Panel:
    """Text: how good with intervals, what to look at next; provenance; how to read the tabs. Picture: model inputs."""

    columns: frozenset[str] = classification.COLUMNS | {"id", "confidence"}
    renders_last: bool = True

    def zero(self, run: Run) -> State:
        """No rows."""
        none = np.zeros(0, np.int64)
        rows = dict.fromkeys(("id", "key", "label", "predicted"), none)
        return State(MetricState.zero(run), Lowest(SURE, none, np.zeros(0), rows))

    def measure(self, run: Run, batch: Predictions) -> State:
        """These rows alone."""
        rows = batch.labelled
        wrong = np.flatnonzero(~rows.right)
        score, group = -rows.confidence[wrong].astype(np.float64), np.zeros(len(wrong), np.int64)
        stay = Lowest.choose(SURE, group, score, rows.key[wrong], rows.id[wrong])
        kept = {name: getattr(rows, name)[wrong[stay]] for name in ("id", "key", "label", "predicted")}
        return State(MetricState.measure(run, batch), Lowest(SURE, group[stay], score[stay], kept))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """What the model saw, at the steps that stage one drew it for; the pages, at the last step."""
        own = [*self._own(info, states)]
        yield from own
        if info.written:
            written = (*info.written, *{s.tag: WrittenTag(s.tag, type(s), s.description) for _, s in own}.values())
            yield max(states), Text("report/tabs", _tabs(written), "How to read the tabs, and what is in them.")

    def _own(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        sheets = {step: facts.sheet for step, facts in info.steps.items() if facts.sheet is not None}
        for step in sheets:
            sheet = functools.partial(sheets.__getitem__, step)
            yield step, Picture(SHEET, sheet, "Some pictures as the model got them, before the long run.")
        last = max(states)
        evidence = states[last].evidence
        parts = [
            f"# {info.name}",
            _warnings(info, last, evidence.metrics),
            _what(info, last, evidence),
            _next(info, states),
            _figures(evidence),
            _steps(states),
            _details(info, evidence.metrics),
        ]
        yield last, Text("report/summary", "\n\n".join(part for part in parts if part), "Start here.")
        yield last, Text("report/run", _run(info, last), "What was run on what, for who must repeat it.")


def _warnings(info: RunInfo, step: int, scores: CountMetrics) -> str:
    facts = info.steps[step]
    found = tally.data_warnings(scores, info.run.classes, facts.rows, facts.manifest_rows, facts.warnings)
    return "\n".join(f"- **Warning:** {escape_markdown(w)}" for w in found)


def _what(info: RunInfo, step: int, evidence: MetricState) -> str:
    run, state = info.run, evidence.counts
    images = f"{state.rows:,} images of {len(run.classes):,} class{'es' * (len(run.classes) != 1)}"
    said = f"`{run.model}` at step {step} on {images}"
    accuracy = overall_metrics(evidence).get("accuracy")
    if accuracy is None or accuracy.interval is None:
        return f"{said}; none has both scores and a label, so there is no figure."
    lower, upper = accuracy.interval
    wrong = evidence.metrics.counted - int(evidence.metrics.hits.sum())
    return (
        f"{said}: **{percent(accuracy.value)} right** (95 % interval {100 * lower:.1f} to {100 * upper:.1f}), "
        f"{wrong:,} wrong of {evidence.metrics.counted:,} that count."
    )


def _next(info: RunInfo, states: Mapping[int, State]) -> str:
    last = max(states)
    doubts = [warning.partition(": ")[0] for warning in info.steps[last].warnings]  # what to do is said above
    found = [
        f"First what stage one warned of, which may explain the rest: {escape_markdown('; '.join(doubts))}."
    ] * bool(doubts)
    found += [*_confusions(info, states[last]), *_classes(info, states[last].evidence.metrics)]
    found += [*_certainty(info, states[last].evidence), *_over_steps(states)]
    if info.has("examples/suspected_label_errors") and not doubts:
        found.append("Labels themselves may be wrong: open `examples/suspected_label_errors`.")
    return "\n".join(["### What to look at next", "", *(f"{i}. {line}" for i, line in enumerate(found, 1))]) * bool(
        found
    )


def _confusions(info: RunInfo, state: State) -> Iterator[str]:
    """What the most confident mistakes have in common, and the most frequent confusion."""
    names, rows, scores = info.run.classes, state.sure.rows, state.evidence.metrics
    sure = Counter(zip(rows["label"].tolist(), rows["predicted"].tolist(), strict=True))
    count = len(rows["id"])
    common = max(sure.items(), key=lambda item: (item[1], -item[0][0], -item[0][1]), default=None)
    if common is not None and common[1] >= max(3, count / 5):
        (true, predicted), n = common
        where = _gallery(info, true, predicted)
        yield f"{n} of the {count} most confident mistakes are {_pair(names, true, predicted)}: {where}."
    elif count:
        yield f"The {count} most confident mistakes have no confusion in common: open `2_mistakes/confident`."
    wrong = scores.counted - int(scores.hits.sum())
    for true, predicted, n in scores.pairs(1):
        if n >= max(3, wrong / 20) and (common is None or (true, predicted) != common[0]):
            yield (
                f"{percent(n / wrong)} of all errors are {_pair(names, true, predicted)} "
                f"({n:,} of {wrong:,}): {_gallery(info, true, predicted)}."
            )


def _pair(names: tuple[str, ...], true: int, predicted: int) -> str:
    return f"**{escape_markdown(names[true])} → {escape_markdown(names[predicted])}**"


def _gallery(info: RunInfo, true: int, predicted: int) -> str:
    names = info.run.classes
    (tag,) = unique_names([f"{names[true]} as {names[predicted]}"])
    tag = f"confusion/{tag}"
    return f"open `{tag if info.has(tag) else '2_mistakes/confident'}`"


def _classes(info: RunInfo, scores: CountMetrics) -> Iterator[str]:
    """The worst class, if it is surely worse than all images together; classes that are said far too often."""
    names = info.run.classes
    for c in scores.worst(1).tolist():
        lower, upper = wilson_interval(int(scores.hits[c]), int(scores.support[c]))
        if upper < scores.accuracy:
            tag = f"predictions/{names[c]}"
            where = f": open `{tag}`" if info.has(tag) else ""
            yield (
                f"**{escape_markdown(names[c])}** is found least: recall {percent(float(scores.recall[c]))} "
                f"({100 * lower:.1f} to {100 * upper:.1f}), "
                f"all images together {percent(scores.accuracy)}{where}."
            )
    if scores.counted and len(names) > 1:
        surplus = scores.predictions - scores.support
        c = int(surplus.argmax())
        if surplus[c] > 3 * np.sqrt(scores.support[c] + 1) and surplus[c] > 0.2 * scores.support[c]:
            yield (
                f"**{escape_markdown(names[c])}** is predicted too often: {scores.predictions[c]:,} times, "
                f"where {scores.support[c]:,} images are of it."
            )


def _certainty(info: RunInfo, evidence: MetricState) -> Iterator[str]:
    """Whether the model is surer than it is right."""
    n = evidence.metrics.counted
    if not n:
        return
    edges = score_histograms.bin_edges(score_histograms.FINE_BINS)
    counts = evidence.histograms.confidence.sum(axis=(0, 1))
    mean = float(counts @ (edges[:-1] + edges[1:]) / 2 / n)
    gap = mean - evidence.metrics.accuracy
    if abs(gap) > 0.02 and gap**2 * n > 9 * mean * (1 - mean):
        where = next((s.tag for s in info.written if s.tag.startswith("calibration/") and s.kind is Picture), None)
        kind = "too sure of itself" if gap > 0 else "less sure than it could be"
        yield (
            f"The model is {kind}: its probabilities promise {percent(mean)} right, "
            f"{percent(evidence.metrics.accuracy)} are{f': open `{where}`' if where else ''}."
        )


def _over_steps(states: Mapping[int, State]) -> Iterator[str]:
    """Whether an earlier step was better."""
    counted = {step: s.evidence for step, s in states.items() if s.evidence.metrics.counted}
    last = max(states)
    if len(counted) < 2 or last not in counted:
        return
    best = max(counted, key=lambda step: (counted[step].metrics.accuracy, -step))
    if counted[best].metrics.accuracy > counted[last].metrics.accuracy:
        yield (
            f"Step {best} was the most accurate: {percent(counted[best].metrics.accuracy)}, "
            f"the last step {percent(counted[last].metrics.accuracy)}."
        )
    least = min(counted, key=lambda step: (counted[step].metrics.nll, step))
    if counted[least].metrics.nll < 0.98 * counted[last].metrics.nll:
        yield (
            f"NLL was lowest at step {least} ({counted[least].metrics.nll:.4f}) and has risen to "
            f"{counted[last].metrics.nll:.4f}: the model may be overfitting."
        )


def _figures(evidence: MetricState) -> str:
    """All figures of the last step."""
    if not overall_metrics(evidence):
        return ""
    lines = ["### How good it is", "", "| figure | value | 95 % interval | what it is |", "|---|---:|---|---|"]
    for name, figure in overall_metrics(evidence).items():
        interval = "–" if figure.interval is None else f"{figure.interval[0]:.4f} to {figure.interval[1]:.4f}"
        bound = "" if figure.bound is None else f" From a histogram: at most {figure.bound:.1g} off."
        lines.append(f"| {name} | {figure.value:.4f} | {interval} | {figure.definition}{bound} |")
    return "\n".join([*lines, "", "How each interval is made is in `summary.json` beside the event file."])


def _steps(states: Mapping[int, State]) -> str:
    lines = [
        "### Over the steps",
        "",
        "| step | images | failed | unlabelled | accuracy | 95 % interval | balanced | macro F1 | NLL, nats |",
        "|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for step, state in states.items():
        evidence = state.evidence
        s, t = evidence.metrics, evidence.counts
        counts = f"| {step} | {t.rows:,} | {t.failed:,} | {t.unlabelled:,} |"
        if s.counted:
            lower, upper = wilson_interval(int(s.hits.sum()), s.counted)
            lines.append(
                f"{counts} {s.accuracy:.4f} | {lower:.4f} to {upper:.4f} "
                f"| {s.balanced_accuracy:.4f} | {s.f1_macro:.4f} | {s.nll:.4f} |"
            )
        else:
            lines.append(f"{counts} – | – | – | – | – |")
    return "\n".join(lines)


def _details(info: RunInfo, scores: CountMetrics) -> str:
    names = info.run.classes
    worst = []
    for i, c in enumerate(scores.worst(5).tolist(), 1):
        lower, upper = wilson_interval(int(scores.hits[c]), int(scores.support[c]))
        worst.append(
            f"{i}. {escape_markdown(names[c])}: recall {percent(float(scores.recall[c]))} ({100 * lower:.1f} to "
            f"{100 * upper:.1f}; {scores.hits[c]:,} of {scores.support[c]:,}), "
            f"precision {percent(float(scores.precision[c]))}"
        )
    pairs = [
        f"{i}. {escape_markdown(names[t])} → {escape_markdown(names[p])}: {n:,} images, "
        f"{percent(n / scores.support[t])} of {escape_markdown(names[t])}"
        for i, (t, p, n) in enumerate(scores.pairs(5), 1)
    ]
    blocks = [("### Worst classes", worst), ("### Most frequent confusions, true → predicted", pairs)]
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in blocks if lines)


def _run(info: RunInfo, step: int) -> str:
    run, facts = info.run, info.steps[step]
    arguments = ", ".join(f"{k}={v}" for k, v in run.model_args.items())
    shown = ", ".join(run.classes[:CLASSES])
    missing = facts.manifest_rows - facts.rows
    rows = [
        ("model", f"`{run.model}`" + (f" with {arguments}" if arguments else "")),
        ("checkpoint", f"`{facts.checkpoint}`" if facts.checkpoint else "none"),
        ("weights", f"`{run.weights}` (digest)" if run.weights else ""),
        ("model's source", f"`{run.code}` (digest)" if run.code else ""),
        ("data", f"`{run.origin}`" if run.origin else ""),
        ("rows", f"{facts.rows:,} of {facts.manifest_rows:,}"),
        ("missing rows", f"{missing:,}" if missing else ""),
        ("classes", f"{len(run.classes):,}: {shown}{', …' if len(run.classes) > CLASSES else ''}"),
        ("transform", describe_transform(run) or "none"),
        ("scores", run.scores),
        ("precision, device", f"{run.precision}, {facts.device or 'unknown'}"),
        ("embeddings", f"{run.embedding:,} numbers" if run.embedding else ""),
        ("thumbnails", f"{run.thumbnails} pixels" if run.thumbnails else ""),
        ("inference", _when(facts.started, facts.finished)),
        *((f"time: {name}", f"{seconds:,.1f} s") for name, seconds in sorted(facts.seconds.items())),
        *((name.replace("_", " "), str(value)) for name, value in sorted(facts.provenance.items())),
        ("steps", ", ".join(map(str, info.steps))),
        ("format", str(run.format)),
    ]
    lines = [f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in rows if value]
    note = f"Times: decode, of all threads together; wait, of the model for pictures; forward; write. Step {step}."
    return "\n".join([f"# {info.name}: what was run on what", "", "| | |", "|---|---|", *lines, "", note])


def _when(started: float, finished: float) -> str:
    if not 0 < started <= finished:
        return ""
    begin, end = (datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") for t in (started, finished))
    return f"{begin} to {end}"


TAB_HELP: Mapping[Tab, str] = {
    Tab.SCALARS: "Curves over the steps. Set *Smoothing* to 0, or short curves are bent. If a curve is cut off, switch "
    "off *Ignore outliers in chart scaling*.",
    Tab.CUSTOM_SCALARS: "Several curves in one chart, and curves with the band of their 95 % interval.",
    Tab.IMAGES: "A blue frame means right, a vermillion one wrong. The slider chooses the step, the last one at first.",
    Tab.HISTOGRAMS: "How values are distributed over all images. Each layer is a step.",
    Tab.PR_CURVES: "Precision over recall. TensorBoard does not know our thresholds; `report/calibration` lists them.",
    Tab.HPARAMS: "One row for each run: sort by a metric, or select a range on an axis of the parallel coordinates.",
    Tab.PROJECTOR: "Images as points. Points are close together where the model sees the images as similar.",
    Tab.TEXT: "Pages such as this one.",
}
"""How to read each tab."""

TABS_WITHOUT_TAGS = {Tab.HPARAMS, Tab.PROJECTOR}


def _tabs(written: tuple[WrittenTag, ...]) -> str:
    """Describe each tab and what is in it, from what was written."""
    lines = [
        "### How to read the tabs",
        "",
        "Blue means right and vermillion means wrong, everywhere.",
        "",
        "**Time Series.** All scalars, images and histograms on one page. You can filter by tag and pin cards.",
        "",
    ]
    for tab in Tab:
        inside = [tag for tag in written if tag.kind.tab is tab]
        if inside:
            lines += ["", f"**{tab.value}.** {TAB_HELP[tab]}", ""]
            if tab not in TABS_WITHOUT_TAGS:
                lines += _tags(inside)
    return "\n".join(lines)


def _tags(written: list[WrittenTag]) -> Iterator[str]:
    """Describe tags, of a large group only the first."""
    groups: dict[str, list[WrittenTag]] = {}
    for tag in written:
        groups.setdefault(tag.tag.partition("/")[0], []).append(tag)
    for group, members in groups.items():
        large = len(members) > GROUP_TAGS_MAX
        for tag in members[:1] if large else members:
            text = f"{_code(tag.tag)}: {escape_markdown(tag.description)}"
            yield f"- `{group}/…`, {len(members)} of them, such as {text}" if large else f"- {text}"


def _code(tag: str) -> str:
    """Write a tag as code, which ends at the first backtick."""
    return "`" + tag.replace("`", "'") + "`"
