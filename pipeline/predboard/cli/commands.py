"""Run each command: call its stage, print the result, and return the exit code. It knows nothing of how a stage works.

Each function imports what it needs first, and lets a signal raise an exception only after that.
"""

import importlib.util
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from predboard import config as configs
from predboard.cli.signals import stoppable
from predboard.cli.terminal import log, print_bytes, print_counts, print_document
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.invocation import command_line
from predboard.storage.paths import AnyPath, is_remote

if TYPE_CHECKING:
    from predboard.composition.new_step import CompositionResult
    from predboard.config import (
        BoardConfig,
        CombineConfig,
        CompareConfig,
        GateConfig,
        ImportConfig,
        InferConfig,
        InspectConfig,
        MergeConfig,
        MetricsConfig,
        RowsConfig,
        TakeConfig,
        VisualizeConfig,
    )
    from predboard.predictions.row_count import RowCount
    from predboard.storage.runs import Step
    from predboard.visualization.visualize import VisualizeResult

KEPT = "nothing changed since the last time, kept"

PRESTART_BYTES = 100_000_000
"""Size of the predictions above which a second process is worth its start: one process takes almost a second."""


def _infer(config: "InferConfig") -> int:
    from predboard.inference.infer import infer
    from predboard.parallel.threads import keep_freed_memory, limit_spinning

    keep_freed_memory()
    if importlib.util.find_spec("torch") is not None:  # infer says so if it is missing
        limit_spinning()
        import predboard.inference.dispatch  # noqa: F401  and torch, inside whose import an exception may be swallowed
    with stoppable():
        result = infer(config, log)
        if line := result.bottleneck:
            log(line)
        print_counts(result.steps)
        if not result.complete:
            log(f"predboard: some of the {result.rows:,} rows are still missing: run the same command again")
            return 1
        if result.failed:
            log(
                f"warning: {result.failed:,} of {result.rows:,} images failed; the column `error` has the reasons, "
                f"most often {_most_frequent_error(result.out)}"
            )
            log("once they are fixed, the same command with --retry-errors tries these again and keeps all other rows")
        if result.rows < result.manifest_rows:
            print(
                f"share {result.share} is done: it has {result.rows:,} of {result.manifest_rows:,} rows\n"
                f"next, when all shares are done: {command_line('inspect', result.out)}"
            )
        else:
            print(f"predictions are in {result.out}\nnext: {command_line('visualize', result.out)}")
        return _exit_code(config.strict, result.steps)


def _exit_code(strict: bool, steps: Mapping[int, "RowCount"]) -> int:
    """Return 1 if a step has no prediction at all, or if rows failed and that is not wanted; else 0."""
    failed = max(count.failed for count in steps.values())
    if empty := [str(number) for number, count in steps.items() if count.rows and count.failed == count.rows]:
        log(f"predboard: no image has a prediction in step {', '.join(empty)}")
    return 1 if empty or (strict and failed) else 0


def _most_frequent_error(out: AnyPath) -> str:
    """Return the reason that most rows failed for, with their number."""
    from predboard.storage.parts import read_batches
    from predboard.storage.runs import list_step_numbers, open_step

    errors: Counter[str] = Counter()
    for number in list_step_numbers(out):
        on_disk = open_step(out, number, lambda *_: None)
        for file in on_disk.parts if on_disk else ():
            for batch in read_batches(file, ("error",)):
                errors.update(error for error in batch.column("error").to_pylist() if error is not None)
    error, count = errors.most_common(1)[0]
    return f"{error!r} ({plural(count, 'row')})"


def _import(config: "ImportConfig") -> int:
    from predboard.ingest.ingest import import_predictions

    with stoppable():
        result = import_predictions(config, log)
        print_counts(result.steps)
        if all(count.unlabelled == count.rows for count in result.steps.values()):
            log("no row has a label, so nothing is right or wrong: see --labels, --label-column, --labels-from-folders")
        if result.missing:
            log(
                f"{result.missing:,} of {result.written:,} images were not found or could not be read: --image-root "
                "says where they are, --no-pictures leaves them out"
            )
        print(f"predictions are in {result.out}\nnext: {command_line('visualize', result.out)}")
        return _exit_code(config.strict, result.steps)


def _visualize(config: "VisualizeConfig") -> int:
    if config.list:
        from predboard import panels
        from predboard.predictions.schema import MULTI_LABEL

        for name, panel in panels.choose(()).items():
            print(f"{name:<14} {panels.title(panel)}")
        print("\nof runs with several labels per image (--task multi-label of infer and import):")
        for name, panel in panels.choose((), MULTI_LABEL).items():
            print(f"{name:<14} {panels.title(panel)}")
        return 0
    from predboard.visualization.unchanged import find_unchanged

    if unchanged := find_unchanged(config):
        for name, current in unchanged.items():
            _warn_of_missing_pictures(name, current.missing_pictures)
            print(f"{name}: {KEPT} {current.event_file}")
        print(f"next: {command_line('board', '--logdir', config.logdir)}")
        return 0
    from predboard.parallel.pool import ProcessPool
    from predboard.parallel.threads import limit_blas_threads, worker_count

    limit_blas_threads()
    with ProcessPool(worker_count(config.workers), "predboard.evaluation.measure:preload") as pool:
        if config.engine == "local" and _is_large(config):
            pool.start(2)  # another process imports what it needs while this one does
        from predboard.visualization.visualize import visualize

        with stoppable():
            for written in visualize(config, log, pool):
                _print_written(written)
            print(f"next: {command_line('board', '--logdir', config.logdir)}")
    return 0


def _is_large(config: "VisualizeConfig") -> bool:
    """Return whether there is work for a second process, as far as file sizes show.

    A run that has logs does not count: most of it may be known already.
    """
    logs = config.logdir
    local = [run for run in config.predictions if not is_remote(run)]
    try:
        new = [run for run in local if is_remote(logs) or not (logs / run.resolve().name).is_dir()]
        sizes = (part.stat().st_size for run in new for part in run.glob("step=*/part-*.parquet"))
        return any(total >= PRESTART_BYTES for total in itertools.accumulate(sizes))
    except OSError:  # stage two says what is wrong with it
        return False


def _print_written(written: "VisualizeResult") -> None:
    if written.missing_rows:
        log(
            f"warning: {written.run} is missing {plural(written.missing_rows, 'row')}, possibly whole classes, because "
            "rows are stored in the order of the data: run the command that wrote it again"
        )
    _warn_of_missing_pictures(written.run, written.missing_pictures)
    if written.unchanged:
        print(f"{written.run}: {KEPT} {written.event_file}")
    else:
        what = f"{plural(written.rows, 'row')}, {plural(len(written.steps), 'step')}"
        size = written.event_file.stat().st_size / 1e6
        print(f"{written.run}: {what} -> {written.event_file} ({size:.1f} MB)")


def _warn_of_missing_pictures(run: str, count: int) -> None:
    if count:
        log(f"warning: {count:,} source images of {run} were not found: --image-root says where they are now")


def _compare(config: "CompareConfig") -> int:
    from predboard.parallel.threads import limit_blas_threads

    limit_blas_threads()
    from predboard.comparison.compare import compare

    with stoppable():
        result = compare(config, log)
        for note in result.summary["notes"]:
            log(f"note: {note}")
        headline = result.summary.get("headline", "accuracy")
        for ranked in result.summary.get("ranking", ()):
            gap = f", {_format_gap(ranked)} from the best" if "lower" in ranked else ""
            print(f"{ranked[headline]:.4f} {ranked['name']}{gap}")
        if result.missing_pictures:
            missing = plural(result.missing_pictures, "source image")
            log(f"warning: {missing} not found: --image-root says where they are now")
        print(result.verdict)
        action = KEPT if result.unchanged else "->"
        print(f"{result.name}: {action} {result.event_file}")
        print(f"next: {command_line('board', '--logdir', config.logdir)}")
        return 0 if result.summary["rates"] else 1  # no image has logits in both


def _format_gap(ranked: Mapping[str, float]) -> str:
    """Return a difference of shares with its interval."""
    from predboard.comparison.report import format_points

    gain, lower, upper = (format_points(ranked[name]) for name in ("difference", "lower", "upper"))
    return f"{gain} points ({lower} to {upper})"


def _combine(config: "CombineConfig") -> int:
    from predboard.composition.combine import combine
    from predboard.composition.inputs import split_step

    with stoppable():
        result = combine(config, log)
        print_counts(result.steps)
        folder, step = split_step(config.predictions[0])
        side = [] if step is None else ["--step-old", str(step)]
        print(f"predictions are in {result.out}\nnext: {command_line('compare', folder, result.out, *side)}")
        return 0


def _merge(config: "MergeConfig") -> int:
    from predboard.composition.merge import merge

    with stoppable():
        return _print_composition(merge(config, log))


def _take(config: "TakeConfig") -> int:
    from predboard.composition.take import take

    with stoppable():
        return _print_composition(take(config, log))


def _print_composition(result: "CompositionResult") -> int:
    print_counts(result.steps)
    print(f"predictions are in {result.out}\nnext: {command_line('visualize', result.out)}")
    return 0


def _inspect(config: "InspectConfig") -> int:
    from predboard.storage.inspection import inspect

    def amend(steps: "Sequence[Step]") -> "tuple[Sequence[Step], Sequence[str]]":
        from predboard.evaluation.amend import Amendments

        attached = Amendments(config).attach(steps)
        effects = (f"step {step}: {effect.sentence()}" for step, effect in attached.effects.items())
        return attached.steps, [*attached.notes, *effects]

    if config.predictions is None:
        raise InputError("which predictions? For example: predboard inspect predictions/digits")
    with stoppable():
        report = inspect(config.predictions, amend if config.labels or config.columns else None)
        if config.json:
            print_document(json.dumps(report.facts, indent=1, ensure_ascii=False) + "\n")
        else:
            print("\n".join(report.lines()))
            print(
                f"next: {command_line('visualize', config.predictions)}"
                if report.complete
                else "incomplete: run the command that wrote it again; it adds what is missing or damaged"
            )
        return 0 if report.complete else 1


def _rows(config: "RowsConfig") -> int:
    from predboard.tab.rows_command import list_rows

    with stoppable():
        result = list_rows(config, log)
        if config.copy_to is None:
            for block in result.blocks():
                print_bytes(block)
        else:
            print(f"{plural(result.copied, 'image')} of {result.total:,} -> {config.copy_to}")
        return 0 if config.copy_to is None or result.copied else 1


def _metrics(config: "MetricsConfig") -> int:
    from predboard.metrics.reference_page import reference_lines, reference_page

    print_document(reference_page() if config.markdown else "\n".join([*reference_lines(), ""]))
    return 0


def _gate(config: "GateConfig") -> int:
    from predboard.parallel.threads import limit_blas_threads

    limit_blas_threads()
    from predboard.gating.gate import gate, suggest
    from predboard.gating.reports import to_terminal

    with stoppable():
        if config.suggest:
            print_document(suggest(config, log))
            return 0
        result = gate(config, log)
        print("\n".join(to_terminal(result)))
        return result.code


def _board(config: "BoardConfig") -> int:
    from predboard.cli.board import board

    with stoppable():
        return board(config)


@dataclass(frozen=True)
class Command:
    """A command: what it is for, its flags, and the function that runs it and returns the exit code."""

    purpose: str
    config_name: str
    run: Callable[[Any], int]

    @property
    def config(self) -> type[Any]:
        """Its configuration, which is imported only for the command that is run."""
        return cast(type[Any], getattr(configs, self.config_name))


PREDICT, LOOK, JUDGE, REMAKE = "Make predictions", "Look at them", "Judge them", "Make runs of saved runs"

COMMANDS: Mapping[str, Command] = {
    "infer": Command(PREDICT, "InferConfig", _infer),
    "import": Command(PREDICT, "ImportConfig", _import),
    "visualize": Command(LOOK, "VisualizeConfig", _visualize),
    "board": Command(LOOK, "BoardConfig", _board),
    "rows": Command(LOOK, "RowsConfig", _rows),
    "inspect": Command(LOOK, "InspectConfig", _inspect),
    "compare": Command(JUDGE, "CompareConfig", _compare),
    "gate": Command(JUDGE, "GateConfig", _gate),
    "metrics": Command(JUDGE, "MetricsConfig", _metrics),
    "combine": Command(REMAKE, "CombineConfig", _combine),
    "merge": Command(REMAKE, "MergeConfig", _merge),
    "take": Command(REMAKE, "TakeConfig", _take),
}
"""Commands in the order in which `predboard --help` lists them, together by purpose."""


def summary_line(thing: object) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().partition("\n")[0]
