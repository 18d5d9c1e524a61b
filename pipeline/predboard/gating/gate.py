"""Test saved predictions against rules: the command `gate`. It knows no drawing, no event file and no log folder.

The metrics are those of `summary.json`, computed from the predictions by the panels that the rules name, so they can
never be older than the predictions.
"""

import dataclasses
import math
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from predboard import panels
from predboard.comparison import join
from predboard.comparison.class_mapping import match_classes
from predboard.comparison.differences import Comparison
from predboard.comparison.flips import IDENTICAL_METHOD, Difference
from predboard.config import GateConfig
from predboard.errors import InputError
from predboard.evaluation.amend import Amendments
from predboard.evaluation.measure import States, measure_run
from predboard.evaluation.sliced_columns import check_sliced_columns
from predboard.formatting import plural
from predboard.gating.evaluate import BaselineChange, GateResult, RuleResult, check_complete, evaluate_rule, match_names
from predboard.gating.printed_report import PrintedReport, read_report
from predboard.gating.report_check import check_report, judgement
from predboard.gating.reports import to_json, to_junit, to_markdown
from predboard.gating.rules import Rule, parse_rules, read_rules
from predboard.gating.suggest import suggest_rules, suggested_metrics
from predboard.log_names import ROWS_FILE
from predboard.metrics import registry
from predboard.metrics.class_groups import NO_GROUPS, ClassGroups, groups_of
from predboard.metrics.counts import Counts, CountsPanel
from predboard.metrics.intervals import INDEPENDENT, independent_interval
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label.label_counts import LabelCounts, LabelCountsPanel
from predboard.metrics.registry import pattern_of
from predboard.metrics.slice_crosses import Crosses, crosses_in
from predboard.panels import HasMetrics, Panel
from predboard.parallel.executor import Executor
from predboard.parallel.pool import ProcessPool
from predboard.parallel.threads import worker_count
from predboard.predictions.contradictions import CHECKED_COLUMNS
from predboard.predictions.positive_class import with_positive
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL
from predboard.storage.parts import read_batches, verify_manifest
from predboard.storage.paths import AnyPath, is_inside, is_same, is_stream, write_output
from predboard.storage.runs import (
    Step,
    explain_empty_steps,
    list_empty_steps,
    list_step_numbers,
    open_run,
    open_step,
    refuse_mixed_lists,
)
from predboard.streams import print_warning
from predboard.summaries import Metric

COUNTS_PANEL = "counts"
"""Name under which the counts of rows are measured, which is cheap.

They are measured from every column by which a row can contradict itself, besides the logits: no rule passes on such
rows."""

COUNTING: Mapping[str, type[CountsPanel] | type[LabelCountsPanel]] = {
    SINGLE_LABEL: CountsPanel,
    MULTI_LABEL: LabelCountsPanel,
}
"""What counts the rows of each task."""

CHECKED_LOGITS = 40_000_000
"""Logits with which the derived columns of a step, and with them their digest, are compared where no rule needs logits,
about a second's work. A larger step has a sample of its parts compared."""

CHECKED_REFS = 100_000
"""Rows of a step whose refs, labels and further columns are compared with their digest, likewise."""


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """The metrics that some panels compute for a step."""

    step: Step
    images: Mapping[str, int]
    """Numbers of images as in `GateResult.images`, and of those that are `missing`."""
    states: States
    metrics: Mapping[str, Metric]


def gate(
    config: GateConfig, log: Callable[[str], None] = print_warning, records: Iterable[Mapping[str, Any]] | None = None
) -> GateResult:
    """Test one step of a run against rules, and write the reports that are asked for, whatever the result.

    Args:
        config: what to test.
        log: takes one line of progress at a time.
        records: the rules as tables, instead of `config.rules`.

    Raises:
        InputError: for bad input, such as a rule that is not understood; nothing is written then.
    """
    if config.predictions is None:
        raise InputError("which predictions? For example: predboard gate predictions/digits --rules gates.toml")
    directions = {**metric_directions(MULTI_LABEL), **metric_directions()}  # the rules are read before the run
    if records is not None:
        rules = parse_rules(records, directions)
    elif config.rules is not None:
        rules = read_rules(config.rules, directions)
    elif config.report is not None:
        rules = ()
    else:
        raise InputError(
            f"which rules? `predboard gate {config.predictions} --suggest > gates.toml` writes a first file for --rules"
        )
    drops = [rule for rule in rules if rule.max_drop is not None]
    if drops and config.baseline is None:
        raise InputError(f"rule {drops[0].title!r} has max_drop: name the predictions to compare with, --baseline")
    if config.baseline is not None and not drops:
        log("no rule has max_drop, so the baseline is not used")
    _refuse_outputs(config)
    report = None if config.report is None else read_report(config.report)
    amendments = Amendments(config)
    step, notes = _amended(open_one_step(config.predictions, config.step, "--step", log), amendments)
    old = None
    if drops and config.baseline:
        old, more = _amended(open_one_step(config.baseline, config.baseline_step, "--baseline-step", log), amendments)
        notes += [f"baseline: {note}" for note in more]
    amendments.refuse_unknown()
    if report is not None and step.run.task != SINGLE_LABEL:
        raise InputError(f"--report {config.report} is of one class for each image, and these are {step.run.task}")
    groups = groups_of(config.groups, step.run)
    for rule in rules:
        _refuse_absent(step, rule.metric)
        if config.thresholds is not None and pattern_of(rule.metric) not in _at_any_thresholds(step):
            raise InputError(f"rule {rule.title!r} is on labels predicted at 1/2: leave out --thresholds")
        if rule.metric.startswith("groups/") and config.groups is None:
            raise InputError(f"rule {rule.title!r} is on groups of classes: name their file, --groups")
        if old is not None and rule.max_drop is not None:
            _refuse_absent(old, rule.metric)
    if config.slice:
        check_sliced_columns(config.slice, step)
    crosses = (*config.slice, *crosses_in(rule.metric for rule in rules))
    positive = with_positive(step.run, config.positive).positive_class
    new = measure_step(step, {pattern_of(rule.metric) for rule in rules}, config.workers, crosses, positive, groups)
    change, paired = (None, {}) if old is None else baseline_change(old, new, drops, directions, config)
    complete = [] if config.allow_incomplete else [_check_complete(config.predictions, config.step, new)]
    printed = [] if report is None else _check_report(report, new, config, log)
    result = GateResult(
        config.predictions.resolve().name,
        step.step,
        new.images,
        (*complete, *(evaluate_rule(rule, new.metrics, change) for rule in rules), *printed),
        config.baseline.resolve().name if config.baseline and old else "",
        old.step if old else None,
        paired,
        tuple(notes),
    )
    for path, content in (
        (config.junit, to_junit(result)),
        (config.markdown, to_markdown(result).encode()),
        (config.json, to_json(result).encode()),
    ):
        if path is not None:
            write_output(path, content)
            log(f"wrote {path}")
    return result


def _check_complete(run: AnyPath, asked: int | None, new: StepMetrics) -> RuleResult:
    """Return whether no row of a step is missing; nor, where the last one was asked for, is a later step as a whole."""
    later = [number for number in list_empty_steps(run) if asked is None and number > new.step.step]
    return check_complete(new.images["rows"], new.images["manifest_rows"], later)


def _amended(step: Step, amendments: Amendments) -> tuple[Step, list[str]]:
    """Return a step with corrected labels and further columns, and what there is to say of them."""
    attached = amendments.attach([step], one_of_several=True)
    return attached.steps[0], [*attached.notes, *(effect.sentence() for effect in attached.effects.values())]


def _refuse_outputs(config: GateConfig) -> None:
    """Raise InputError for a file to write that is one to read, is inside a run, or is named for another format too."""
    outputs = ("junit", "markdown", "json")
    inputs = (field.name for field in dataclasses.fields(config) if field.name not in outputs)
    given = {name: getattr(config, name) for name in inputs}
    taken: dict[str, AnyPath] = {name: value for name, value in given.items() if isinstance(value, AnyPath)}
    for name in outputs:
        path: Path | None = getattr(config, name)
        if path is None or is_stream(path):
            continue
        for other, file in taken.items():
            if is_same(path, file):
                raise InputError(f"--{name} {path} is the file of --{other}: name another one to write")
        for folder in (config.predictions, config.baseline):
            if folder is not None and is_inside(path, folder):
                raise InputError(f"--{name} {path} is inside the predictions {folder}: name a file elsewhere")
        taken[name] = path


def _check_report(
    report: PrintedReport, new: StepMetrics, config: GateConfig, log: Callable[[str], None]
) -> Sequence[RuleResult]:
    """Compare an author's report with the step, and say which other step it fits if it does not fit this one."""
    names = new.step.run.classes
    results = check_report(report, new.states[COUNTS_PANEL].metrics, names)
    log(judgement(report, results))
    if any(result.outcome != "pass" for result in results) and config.predictions is not None:
        for number in reversed(list_step_numbers(config.predictions)):
            other = None if number == new.step.step else open_step(config.predictions, number)
            if other is not None:
                counts = measure_step(other, (), config.workers).states[COUNTS_PANEL].metrics
                if all(r.outcome == "pass" for r in check_report(report, counts, other.run.classes)):
                    log(f"{report.file} belongs to step {number}: --step {number}")
                    break
    return results


def suggest(config: GateConfig, log: Callable[[str], None] = print_warning) -> str:
    """Return a first file of rules that one step of a run passes, as TOML. Raises InputError for bad input."""
    if config.predictions is None:
        raise InputError("which predictions? For example: predboard gate predictions/digits --suggest > gates.toml")
    amendments = Amendments(config)
    step, notes = _amended(open_one_step(config.predictions, config.step, "--step", log), amendments)
    if config.baseline is None:
        amendments.refuse_unknown()
    for note in notes:
        log(note)
    positive = with_positive(step.run, config.positive).positive_class
    new = measure_step(step, suggested_metrics(step.run.task), config.workers, positive=positive)
    if missing := new.images["missing"]:
        rows = plural(new.images["manifest_rows"], "row")
        log(f"warning: {missing:,} of {rows} are missing, so these rules pass only with --allow-incomplete")
    differences: Mapping[str, Difference] = {}
    unpaired = 0.0
    if config.baseline is not None:
        old, _ = _amended(open_one_step(config.baseline, config.baseline_step, "--baseline-step", log), amendments)
        amendments.refuse_unknown()
        comparison = compare_steps(old, new, config, slices=False)
        differences = comparison.differences
        unpaired = unpaired_share(comparison.rows, measure_step(old, (), config.workers), new)
    name, task = config.predictions.resolve().name, step.run.task
    return suggest_rules(name, new.step.step, new.metrics, differences, unpaired, task)


def _refuse_absent(step: Step, metric: str) -> None:
    """Raise InputError if a step can have no such metric: a rule on it would neither pass nor fail."""
    if metric.startswith("positive/") and len(step.run.classes) != 2:
        raise InputError(
            f"{metric} is of two classes, and {step.run.model} at step {step.step} has {len(step.run.classes):,}: "
            f"expected classes/NAME/{metric.rpartition('/')[2]} or another metric"
        )
    if pattern_of(metric) not in metric_directions(step.run.task):
        raise InputError(
            f"{metric} is no metric of {step.run.task} predictions, as those of {step.run.model} at step {step.step} "
            "are; predboard metrics lists those of each task"
        )
    if not step.run.has_scores and pattern_of(metric) in registry.absent_without_scores(True):
        raise InputError(f"{metric} of {step.run.model} at step {step.step} is not measurable: {registry.NO_SCORES}")


def _at_any_thresholds(step: Step) -> set[str]:
    """Return the names of the metrics that a step has at other thresholds than 1/2."""
    chosen = panels.without_half(panels.choose((), step.run.task)).values()
    return {name for panel in chosen if isinstance(panel, HasMetrics) for name in panel.metric_directions}


def metric_directions(task: str = SINGLE_LABEL) -> dict[str, Direction]:
    """Return every name that a metric may have, with `*` for a class or slice, and which of two values is better.

    Names and directions are those of the panels that draw runs of a task.
    """
    return {
        name: better
        for panel in panels.choose((), task).values()
        if isinstance(panel, HasMetrics)
        for name, better in panel.metric_directions.items()
    }


def open_one_step(folder: AnyPath, number: int | None, flag: str, log: Callable[[str], None]) -> Step:
    """Open one step of a run, by default the last. Raises InputError if it does not exist."""
    if empty := explain_empty_steps(folder, list_empty_steps(folder)):
        log(f"warning: {empty}")
    numbers = list_step_numbers(folder)
    if number is not None and numbers and number not in numbers:
        raise InputError(f"{flag} is {number}, but {folder} has {', '.join(map(str, numbers))}")
    step = open_step(folder, numbers[-1] if number is None else number) if numbers else None
    if step is None:
        return open_run(folder)[-1]  # which says what is wrong with the folder
    refuse_mixed_lists(step)
    return step


def measure_step(
    step: Step,
    names: Collection[str],
    workers: int,
    crosses: Crosses = (),
    positive: str = "",
    groups: ClassGroups = NO_GROUPS,
) -> StepMetrics:
    """Compute metrics of a step without drawing anything, and others that come with them.

    Args:
        step: a step of a run.
        names: names of metrics, with `*` for a class or slice.
        workers: processes to use where there is enough to do; 0 for one per processor.
        crosses: columns whose values are crossed in slices.
        positive: the positive one of two classes; empty for the one that the step records.
        groups: of the step's classes.
    """
    chosen: dict[str, HasMetrics] = {}
    is_binary = bool(step.run.positive_class) or None
    every = panels.configure(panels.choose((), step.run.task), crosses=crosses, groups=groups, two_classes=is_binary)
    for name, panel in (every if step.run.has_scores else panels.without_scores(every)).items():
        if isinstance(panel, HasMetrics) and (wanted := set(names) & set(panel.metric_directions)):
            chosen[name] = panel.restricted_to(wanted)
    counting = COUNTING[step.run.task](columns=CHECKED_COLUMNS - {"logits"})
    _refuse_contradictions(step, any("logits" in panel.columns for panel in chosen.values()))
    measured: dict[str, Panel] = {COUNTS_PANEL: cast(Panel, counting), **chosen}
    with (
        ProcessPool(worker_count(workers)) as pool,
        tempfile.TemporaryDirectory(prefix="predboard-") as folder,
        tqdm(total=step.rows, unit=" rows", desc="read", disable=None, file=sys.stderr) as bar,
    ):
        rows = Path(folder) / ROWS_FILE
        states = measure_run([step], measured, Executor(pool), rows, progress=bar.update)[step.step]
    info = panels.RunInfo(
        "", with_positive(step.run, positive or None), {step.step: panels.StepInfo(step.rows, step.manifest_rows)}
    )
    metrics: dict[str, Metric] = {}
    for name, panel in chosen.items():
        for _, some in panel.metrics(info, {step.step: states[name]}):
            metrics |= some.metrics
    return StepMetrics(step, _count_images(step, states[COUNTS_PANEL]), states, metrics)


def _refuse_contradictions(step: Step, reads_logits: bool) -> None:
    """Compare parts, all or evenly chosen ones, with their digests, and with their logits unless these are read anyway.

    Raises DamagedError for one that contradicts itself.
    """
    if not reads_logits:
        share = step.rows * len(step.run.classes) / CHECKED_LOGITS
        for part in step.parts[:: max(1, math.ceil(share))]:
            for _ in read_batches(part, CHECKED_COLUMNS):  # which checks each batch
                pass
    for part in step.parts[:: max(1, math.ceil(step.rows / CHECKED_REFS))]:
        verify_manifest(part)


def _count_images(step: Step, counts: Counts | LabelCounts) -> dict[str, int]:
    return {
        "rows": step.rows,
        "manifest_rows": step.manifest_rows,
        "missing": step.manifest_rows - step.rows,
        "failed": int(counts.failed),
        "unlabelled": int(counts.unlabelled),
        "counted": counts.metrics.counted,
    }


def compare_steps(old: Step, new: StepMetrics, config: GateConfig, slices: bool, crosses: Crosses = ()) -> Comparison:
    """Compare two steps image by image, with slices cut as in the metrics of the new one."""
    from predboard.comparison.methods import Settings, choose_method  # and what draws, where there is a baseline

    names = str(config.baseline), str(config.predictions)
    join.refuse_row_numbers(old, new.step, names)
    method = choose_method([(names[0], old.run), (names[1], new.step.run)])
    classes = match_classes(old.run, new.step.run, names, config.map_classes, method.shared)
    positive = with_positive(new.step.run, config.positive).positive_class
    groups = groups_of(config.groups, new.step.run, classes.names)
    comparison = method.compare_pair(old, new.step, classes, Settings(crosses, positive, groups), slices)
    return dataclasses.replace(comparison, like=new.states.get("slices"))


def baseline_change(
    old: Step, new: StepMetrics, drops: Collection[Rule], directions: Mapping[str, Direction], config: GateConfig
) -> tuple[BaselineChange, dict[str, int]]:
    """Return what `max_drop` is tested on, and how many images were compared or left out, by reason.

    Args:
        old: step of the baseline.
        new: metrics of the run.
        drops: the rules with `max_drop`.
        directions: from `metric_directions`.
        config: how to match the classes.
    """
    crosses = (*config.slice, *crosses_in(rule.metric for rule in drops))
    comparison = compare_steps(old, new, config, any(rule.metric.startswith("slices/") for rule in drops), crosses)
    state = comparison.state
    apart = {rule.metric for rule in drops if not comparison.is_paired(rule.metric)}
    apart |= {rule.metric for rule in drops if rule.metric.startswith("positive/")} - comparison.differences.keys()
    groups = groups_of(config.groups, old.run)
    patterns = {pattern_of(metric) for metric in apart}
    before = measure_step(old, patterns, config.workers, crosses, comparison.positive, groups)
    unpaired = unpaired_share(comparison.rows, before, new)
    identical = state.identical and not unpaired  # the same predictions of the same images: all metrics are the same
    differences = {n: d for n, d in comparison.differences.items() if comparison.is_paired(n)}
    for metric in apart:
        for name in match_names(metric, new.metrics):
            if name in new.metrics and name in before.metrics:
                differences[name] = independent_difference(before.metrics[name], new.metrics[name], identical)
    less = frozenset(name for name, better in directions.items() if better == "less")
    counts = ("only_old", "only_new", "failed_old", "failed_new", "labels_differ", "pictures_differ")
    return (
        BaselineChange(differences, less, unpaired),
        {"compared": comparison.rows, **{name: int(getattr(state, name)) for name in counts}},
    )


def unpaired_share(rows: int, old: StepMetrics, new: StepMetrics) -> float:
    """Return the share of the evaluated images of either run that are not among the `rows` that were compared."""
    return max((1 - rows / step.images["counted"] for step in (old, new) if step.images["counted"]), default=1.0)


def independent_difference(old: Metric, new: Metric, identical: bool) -> Difference:
    """Return the difference of two metrics that are not compared image by image.

    Its interval is the one for independent samples: wider than necessary, because the images are mostly the same.
    """
    rows, gain = min(old.rows or 0, new.rows or 0), new.value - old.value
    if identical:
        return Difference(old.value, new.value, gain, (0.0, 0.0), rows, new.definition, IDENTICAL_METHOD)
    if old.interval is None or new.interval is None:
        return Difference(old.value, new.value, gain, None, rows, new.definition)
    ends = independent_interval(new.value, old.value, new.interval, old.interval)
    return Difference(old.value, new.value, gain, ends, rows, new.definition, INDEPENDENT)
