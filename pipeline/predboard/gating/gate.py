"""Saved predictions and rules -> verdicts: the command `gate`. Knows no drawing, no event file and no folder of logs.

The figures are those of `summary.json`, computed anew from the predictions by the panels that the rules name, so that
they can never be older than the predictions.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from predboard import panels
from predboard.comparison import join
from predboard.comparison.differences import IDENTICAL_METHOD, Comparison, Difference, count_pairs
from predboard.config import GateConfig
from predboard.errors import InputError
from predboard.evaluation.fold import States, measure_run
from predboard.formatting import plural
from predboard.gating import reports, rules
from predboard.gating.evaluate import BaselineChange, GateResult, check_complete, evaluate_rule, match_names
from predboard.gating.rules import Rule, pattern_of
from predboard.gating.suggest import SUGGESTED_METRICS, suggest_rules
from predboard.metrics.counts import CountMetrics, Counts
from predboard.metrics.intervals import INDEPENDENT, independent_interval
from predboard.panels import Direction, HasMetrics, Panel
from predboard.parallel.executor import LocalExecutor
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import worker_count
from predboard.storage.paths import AnyPath, write_file
from predboard.storage.runs import Step, list_step_numbers, open_run, open_step
from predboard.summaries import Metric

COUNTS = "glance"
"""The panel whose state is a tally, which is cheap."""

PAIRED = frozenset(
    [
        *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_weighted", "mcc", "nll"),
        *("calibration/ece", "classes/*/precision", "classes/*/recall", "classes/*/f1", "slices/*/accuracy"),
    ]
)
"""Figures whose difference is of the same images, with an interval that knows so. Of the others it is that of the two
runs' own figures, with an interval as if their images were different ones, which is wider.
"""


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """What some panels say of a step."""

    step: Step
    images: Mapping[str, int]
    """As in `judge.Gated`."""
    states: States
    metrics: Mapping[str, Metric]


def gate(
    config: GateConfig, say: Callable[[str], None] = lambda _: None, records: Iterable[Mapping[str, Any]] | None = None
) -> GateResult:
    """Test one step of a run against rules, and write the reports that are asked for, whatever the verdict.

    Args:
        config: what to test.
        say: takes a line of progress for a person.
        records: the rules as tables, instead of `config.rules`.

    Raises:
        InputError: for bad input, such as a rule that is not understood; nothing is written then.
    """
    if config.predictions is None:
        raise InputError("which predictions? For example: predboard gate predictions/digits --rules gates.toml")
    if config.rules is None and records is None:
        raise InputError(
            f"which rules? `predboard gate {config.predictions} --suggest > gates.toml` writes a first file for --rules"
        )
    figured = metric_directions()
    tested = (
        rules.parse_rules(records, figured)
        if records is not None
        else rules.read_rules(cast(Path, config.rules), figured)
    )
    comparing = [rule for rule in tested if rule.max_drop is not None]
    if comparing and config.baseline is None:
        raise InputError(f"rule {comparing[0].title!r} has max_drop: name the predictions to compare with, --baseline")
    step = open_one_step(config.predictions, config.step, "--step")
    old = (
        open_one_step(config.baseline, config.baseline_step, "--baseline-step")
        if comparing and config.baseline
        else None
    )
    if config.baseline is not None and not comparing:
        say("no rule has max_drop, so the baseline is not looked at")
    now = measure_step(step, {pattern_of(rule.metric) for rule in tested}, config.workers)
    incomplete = [] if config.allow_incomplete else [check_complete(now.images["rows"], now.images["manifest_rows"])]
    change, paired = (None, {}) if old is None else baseline_change(old, now, comparing, figured, config)
    done = GateResult(
        config.predictions.resolve().name,
        step.step,
        now.images,
        (*incomplete, *(evaluate_rule(rule, now.metrics, change) for rule in tested)),
        config.baseline.resolve().name if config.baseline and old else "",
        old.step if old else None,
        paired,
    )
    for path, content in (
        (config.junit, reports.to_junit(done)),
        (config.markdown, reports.to_markdown(done).encode()),
        (config.json, reports.to_json(done).encode()),
    ):
        if path is not None:
            write_file(path, content)
            say(f"wrote {path}")
    return done


def suggest(config: GateConfig, say: Callable[[str], None] = lambda _: None) -> str:
    """A first file of rules that one step of a run passes, as TOML. Raises InputError for bad input."""
    if config.predictions is None:
        raise InputError("which predictions? For example: predboard gate predictions/digits --suggest > gates.toml")
    now = measure_step(open_one_step(config.predictions, config.step, "--step"), SUGGESTED_METRICS, config.workers)
    if missing := now.images["missing"]:
        of = plural(now.images["manifest_rows"], "row")
        say(f"warning: {missing:,} of {of} are missing, so these rules pass only with --allow-incomplete")
    differences: Mapping[str, Difference] = {}
    lone = 0.0
    if config.baseline is not None:
        old = open_one_step(config.baseline, config.baseline_step, "--baseline-step")
        comparison = compare_steps(old, now, config, kinds=False)
        differences, lone = (
            comparison.differences,
            unpaired_share(comparison.rows, measure_step(old, (), config.workers), now),
        )
    return suggest_rules(config.predictions.resolve().name, now.step.step, now.metrics, differences, lone)


def metric_directions() -> dict[str, Direction]:
    """Every name that a figure may have, `*` for a class or a slice, and which of two values is better."""
    return {
        name: better
        for panel in panels.choose(()).values()
        if isinstance(panel, HasMetrics)
        for name, better in panel.metric_directions.items()
    }


def open_one_step(folder: AnyPath, wanted: int | None, flag: str) -> Step:
    """One step of a run, the last if none is wanted. Raises InputError if there is none."""
    numbers = list_step_numbers(folder)
    if wanted is not None and numbers and wanted not in numbers:
        raise InputError(f"{flag} is {wanted}, but {folder} has {', '.join(map(str, numbers))}")
    found = open_step(folder, numbers[-1] if wanted is None else wanted) if numbers else None
    return found or open_run(folder)[-1]  # which says what is wrong with the folder


def measure_step(step: Step, wanted: Collection[str], count: int) -> StepMetrics:
    """The figures of a step, without drawing anything; more than are wanted where they come with them.

    Args:
        step: of a run.
        wanted: names of figures, `*` for a class or a slice.
        count: processes to use where there is enough to do; 0 for one a processor.
    """
    giving: dict[str, HasMetrics] = {}
    for name, panel in panels.choose(()).items():
        if isinstance(panel, HasMetrics) and (asked := set(wanted) & set(panel.metric_directions)):
            giving[name] = panel.restricted_to(asked)
    chosen: dict[str, Panel] = {COUNTS: panels.load(COUNTS), **giving}
    with (
        ProcessPool(worker_count(count)) as pool,
        tempfile.TemporaryDirectory(prefix="predboard-") as aside,
        tqdm(total=step.rows, unit=" rows", desc="read", disable=None, file=sys.stderr) as bar,
    ):
        rows = Path(aside) / "rows.parquet"
        states = measure_run([step], chosen, LocalExecutor(pool), rows, progress=bar.update)[step.step]
    subject = panels.RunInfo("", step.run, {step.step: panels.StepInfo(step.rows, step.manifest_rows)})
    found: dict[str, Metric] = {}
    for name, panel in giving.items():
        for _, given in panel.metrics(subject, {step.step: states[name]}):
            found |= given.metrics
    return StepMetrics(step, _images(step, states[COUNTS]), states, found)


def _images(step: Step, tally: Counts) -> dict[str, int]:
    return {
        "rows": step.rows,
        "manifest_rows": step.manifest_rows,
        "missing": step.manifest_rows - step.rows,
        "failed": int(tally.failed),
        "unlabelled": int(tally.unlabelled),
        "counted": CountMetrics(tally, len(step.run.classes)).counted,
    }


def compare_steps(old: Step, now: StepMetrics, config: GateConfig, kinds: bool) -> Comparison:
    """Both steps, image by image. Slices are cut as they are in the figures of the new one."""
    called = str(config.baseline), str(config.predictions)
    classes = join.match_classes(old.run, now.step.run, called, config.map_classes)
    return Comparison(count_pairs(old, now.step, classes, kinds), classes.names, now.states.get("slices"))


def baseline_change(
    old: Step, now: StepMetrics, comparing: Collection[Rule], figured: Mapping[str, Direction], config: GateConfig
) -> tuple[BaselineChange, dict[str, int]]:
    """What `max_drop` is tested on, and how many images could be compared, and why the others could not.

    Args:
        old: step of the baseline.
        now: the figures of the run.
        comparing: rules with `max_drop`.
        figured: from `metric_directions`.
        config: how to take the classes.
    """
    comparison = compare_steps(old, now, config, any(rule.metric.startswith("slices/") for rule in comparing))
    state = comparison.state
    own = {rule.metric for rule in comparing if pattern_of(rule.metric) not in PAIRED}
    before = measure_step(old, {pattern_of(metric) for metric in own}, config.workers)
    lone = unpaired_share(comparison.rows, before, now)
    alike = state.identical and not lone  # of the same images, so that all figures are the same
    differences = {n: d for n, d in comparison.differences.items() if pattern_of(n) in PAIRED}
    for metric in own:
        for name in match_names(metric, now.metrics):
            if name in now.metrics and name in before.metrics:
                differences[name] = apart(before.metrics[name], now.metrics[name], alike)
    less = frozenset(name for name, better in figured.items() if better == "less")
    counts = ("only_old", "only_new", "failed_old", "failed_new", "labels_differ", "pictures_differ")
    return (
        BaselineChange(differences, less, lone),
        {"compared": comparison.rows, **{name: int(getattr(state, name)) for name in counts}},
    )


def unpaired_share(rows: int, old: StepMetrics, new: StepMetrics) -> float:
    """Share of the images that count in either run which are not among the `rows` that are compared."""
    return max((1 - rows / seen.images["counted"] for seen in (old, new) if seen.images["counted"]), default=1.0)


def apart(old: Metric, new: Metric, identical: bool) -> Difference:
    """The difference of two figures that are not compared image by image.

    The interval is Newcombe's for independent figures: wider than it need be, because the images are mostly the same.
    """
    rows, gain = min(old.rows or 0, new.rows or 0), new.value - old.value
    if identical:
        return Difference(old.value, new.value, gain, (0.0, 0.0), rows, new.definition, IDENTICAL_METHOD)
    if old.interval is None or new.interval is None:
        return Difference(old.value, new.value, gain, None, rows, new.definition)
    ends = independent_interval(new.value, old.value, new.interval, old.interval)
    return Difference(old.value, new.value, gain, ends, rows, new.definition, INDEPENDENT)
