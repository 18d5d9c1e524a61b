"""Whether probabilities are what they say, and what a temperature would mend. Knows no image.

The figures are those of `predboard.metrics.calibration`; here they get their words.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from predboard.drawing import plots
from predboard.drawing.plots import ReliabilityBin
from predboard.formatting import percent
from predboard.metrics import calibration, classification, registry, threshold_tables
from predboard.metrics.calibration import Calibration, CalibrationEvidence, ConformalSets, TemperatureFit
from predboard.metrics.classification import MetricState
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.registry import Direction
from predboard.metrics.values import calibration_metrics
from predboard.panels import RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import FIXED_UNIT
from predboard.summaries import Metric, Metrics, Picture, Pixels, Scalar, Summary, Text


@dataclass(frozen=True)
class State:
    """What is counted here, and what other panels count as well."""

    evidence: MetricState
    calibration: Calibration

    @cached_property
    def joint(self) -> CalibrationEvidence:
        """What all calibration metrics follow from."""
        return CalibrationEvidence(self.calibration, self.evidence.histograms)


@dataclass(frozen=True)
class Panel:
    """Scalars: calibration errors. Picture: reliability. Text: temperature, sets, thresholds, Brier split, in words."""

    classes: int = 20
    """Classes that have a threshold."""
    columns: frozenset[str] = classification.COLUMNS | calibration.COLUMNS

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(MetricState.zero(run), Calibration.zero(run))

    def measure(self, run: Run, batch: Predictions) -> State:
        """Return the state of these rows alone."""
        return State(MetricState.measure(run, batch), Calibration.measure(run, batch))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Figures and the diagram at each step that has labelled rows; one page, at the last of them."""
        states = {step: state for step, state in states.items() if state.calibration.rows}
        if not states:
            return
        last = max(states)
        if len(info.run.classes) == 1:
            yield last, Text("report/calibration", "There is one class, which always has the probability 1.")
            return
        for step, found in self.metrics(info, states):
            for spec in registry.rows("calibration"):
                if spec.curve and spec.name in found.metrics:
                    metric = found.metrics[spec.name]
                    yield step, Scalar(spec.tag, metric.value, metric.definition)
            yield step, found
            drawn = functools.partial(_reliability, states[step].calibration)
            yield step, Picture("calibration/reliability", drawn, "Accuracy of images of equal confidence.")
        page = _page(states[last], info.run.classes, self.classes)
        yield last, Text("report/calibration", page, "How far to trust a probability, and which to accept.")

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Which of two values is better; a temperature only describes."""
        return registry.directions("calibration")

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all of them come of one state
        """The same: fewer figures need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Metrics]]:
        """All of them where images are labelled; none of a single class."""
        for step, state in states.items():
            if state.calibration.rows and len(info.run.classes) > 1:
                yield step, Metrics("calibration", calibration_metrics(state.joint))


def _bins(c: Calibration) -> list[ReliabilityBin]:
    """Those that have images."""
    found = []
    for i, (rows, right, confidence) in enumerate(zip(*(n.tolist() for n in c.bins), strict=True)):
        if rows:
            left, end = i / calibration.BINS, (i + 1) / calibration.BINS
            found.append(
                ReliabilityBin(left, end, confidence / rows, right / rows, *wilson_interval(right, rows), rows)
            )
    return found


def _levels(c: Calibration) -> tuple[float, float, tuple[float, float]]:
    """Mean confidence, accuracy and its interval."""
    rows, right, confidence = (n.sum() for n in c.bins)
    return float(confidence / rows), float(right / rows), wilson_interval(int(right), int(rows))


def _verdict(c: Calibration) -> str:
    mean, _, (lower, upper) = _levels(c)
    if mean > upper:
        return "over-confident"
    return "under-confident" if mean < lower else "neither over- nor under-confident"


def _reliability(c: Calibration) -> Pixels:
    mean, accuracy, _ = _levels(c)
    verdict = _verdict(c)
    facts = [
        ("confidence", percent(mean)),
        ("accuracy", percent(accuracy)),
        ("ECE", percent(c.ece)),
        ("ECE by chance", f"~ {percent(c.by_chance)}"),
        ("largest (MCE)", percent(c.mce)),
    ]
    if c.tempered is not None:
        facts.append(("temperature", f"{c.tempered.temperature:.2f}"))
        facts.append(("ECE with it", percent(c.tempered.ece[1])))
    return plots.draw_reliability(_bins(c), facts, "fits on average" if verdict.startswith("neither") else verdict)


def _page(state: State, names: tuple[str, ...], classes: int) -> str:
    c, ranking, scores = state.calibration, state.evidence.histograms, state.evidence.metrics
    blocks = [
        "# How far to trust a probability",
        _in_words(c),
        _temperature(c, c.tempered),
        _sets(state.joint.sets),
        _table(c),
        threshold_tables.confidence_table(ranking.confidence.sum(axis=0)),
        threshold_tables.micro_table(ranking),
        threshold_tables.class_threshold_table(ranking, scores, names, scores.most_errors(classes)),
        _split(state),
        _how(calibration_metrics(state.joint)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _in_words(c: Calibration) -> str:
    mean, accuracy, (lower, upper) = _levels(c)
    ends = c.ece_interval
    interval = "" if ends is None else f", 95 % interval {percent(ends[0])} to {percent(ends[1])}"
    worst = max(_bins(c), key=lambda b: abs(b.accuracy - b.confidence) * b.rows)
    return "\n".join(
        [
            f"**The model is {_verdict(c)}**: it is {percent(mean)} sure on average and right for {percent(accuracy)} "
            f"of {c.rows:,} images ({percent(lower)} to {percent(upper)}).",
            "",
            f"- A confidence is off by {percent(c.ece)} on average (ECE{interval}). Of so many images chance alone "
            f"would make about {percent(c.by_chance)} if every confidence were right.",
            f"- Most of it comes from the {worst.rows:,} images of confidence {worst.left:.2f} to {worst.right:.2f}: "
            f"{percent(worst.confidence)} sure, {percent(worst.accuracy)} right.",
        ]
    )


def _temperature(c: Calibration, tempered: TemperatureFit | None) -> str:
    if tempered is None:
        return (
            "No temperature from 1/16 to 16 fits best: there are too few images, all of them are right, or logits say "
            "nothing about them."
        )
    (nll, nll_after), (ece, ece_after) = tempered.nll, tempered.ece
    gain = nll - nll_after
    what = (
        "would make matters worse"
        if gain < 0
        else "would change next to nothing"
        if gain < 0.01 * nll
        else f"would take {percent(gain / nll)} off the loss"
    )
    share = f"{tempered.fitted + tempered.tried:,} of {c.rows:,} images"
    return (
        f"**Dividing all logits by {tempered.temperature:.3f} {what}**, and changes no prediction: NLL {nll:.4f} → "
        f"{nll_after:.4f} nats, ECE {percent(ece)} → {percent(ece_after)}. A temperature above 1 makes a model less "
        f"sure. It was fitted on {tempered.fitted:,} images and tried on {tempered.tried:,} others; {share} were drawn "
        "by the hash of their keys."
    )


def _sets(sets: ConformalSets | None) -> str:
    if sets is None:
        return "Conformal sets need nine labelled images in one half and some in the other."
    lower, upper = wilson_interval(sets.coverage * sets.tried, sets.tried)
    few = " Below 1 because some images get no class at all." if sets.size < 1 else ""
    return (
        f"**All classes of a probability of {sets.threshold:.4g} or more** hold the true one for "
        f"{percent(sets.coverage)} of {sets.tried:,} images ({percent(lower)} to {percent(upper)}); 90 % was the aim, "
        f"on {sets.fitted:,} other images. Such a set has {sets.size:.2f} classes on average.{few}"
    )


def _table(c: Calibration) -> str:
    lines = [
        f"| {b.left:.2f} to {b.right:.2f} | {b.rows:,} | {percent(b.confidence)} | {percent(b.accuracy)} "
        f"| {percent(b.lower)} to {percent(b.upper)} | {100 * (b.confidence - b.accuracy):+.1f} |"
        for b in _bins(c)
    ]
    return "\n".join(
        [
            "| confidence | images | mean confidence | accuracy | 95 % interval | too sure by, points |",
            "|---|---:|---:|---:|---|---:|",
            *lines,
        ]
    )


def _split(state: State) -> str:
    reliability, resolution, uncertainty = state.calibration.brier_decomposition
    brier = float(state.evidence.brier * FIXED_UNIT / state.calibration.rows)
    rest = brier - (reliability - resolution + uncertainty)
    return (
        f"**Brier score {brier:.4f}** = {uncertainty:.4f} of always giving the shares of the classes, less "
        f"{resolution:.4f} by telling images apart, plus {reliability:.4f} that calibration would take away, plus "
        f"{rest:.4f} from the spread inside the bins. They are 15 equal-width bins of each class's probability; all is "
        "summed over classes."
    )


def _how(found: Mapping[str, Metric]) -> str:
    lines = [
        f"| `{name}` | {figure.value:.6g} | {_exactness(name, figure)} | {figure.definition} |"
        for name, figure in found.items()
    ]
    return "\n".join(
        ["### All figures", "", "| figure | value | exact to | what it is |", "|---|---:|---|---|", *lines]
    )


def _exactness(name: str, metric: Metric) -> str:
    spec = registry.find(name)
    if metric.bound is not None or spec is None:
        return f"{metric.bound:.1g}, proved"
    return spec.precision
