"""Runs stage one: open the images and the models, plan what is missing, and run it. It knows nothing of TensorBoard.

`inputs` opens, `make_plan` plans without any I/O, and `dispatch` hands the tasks of the plan to the devices.
"""

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from predboard.config import InferConfig, TaskConfig
from predboard.errors import InputError, reading
from predboard.formatting import plural
from predboard.images import datasets
from predboard.images import loader as loading
from predboard.images.label_lists import LabelOptions
from predboard.images.preprocessing import Recipe
from predboard.inference import resume
from predboard.inference.default_name import default_out
from predboard.inference.relabel import find_relabelled, rewrite_labels
from predboard.models.checkpoints import assign_steps
from predboard.models.factory import open_factory, require_torch
from predboard.predictions.row_count import RowCount
from predboard.predictions.schema import MULTI_LABEL
from predboard.storage import part_plan, timing
from predboard.storage.locks import lock_folder
from predboard.storage.part_plan import PartRange, Share, Task
from predboard.storage.parts import PartFile, part_index, read_batches
from predboard.storage.paths import AnyPath, expand_files, is_inside, map_files, parse_path
from predboard.storage.remote import MAX_CONNECTIONS
from predboard.storage.runs import delete_part, open_step
from predboard.streams import print_warning

if TYPE_CHECKING:
    import torch

    from predboard.inference import dispatch
    from predboard.inference.inputs import Inputs, StepModels
    from predboard.inference.worker import Job


@dataclass(frozen=True)
class InferResult:
    """The result of stage one: the rows written now, and all that is on disk."""

    out: AnyPath
    manifest_rows: int
    steps: dict[int, RowCount]
    """Rows of each step that are on disk when stage one ends."""
    written: int
    """Rows that this call inferred, over all steps."""
    seconds: Mapping[str, float]
    """Seconds of this call: `wall`, and the kinds of `timing` over all devices."""
    threads: int
    """Threads of each device that read and decoded."""
    share: Share
    """The share of the run that this call was to do."""
    rows: int
    """Rows that every step should have in this share."""

    @property
    def bottleneck(self) -> str:
        """One line about where the time went and which flag would help; empty after less than 2 seconds."""
        line = timing.describe_seconds(self.seconds, self.threads)
        return f"{self.written / self.seconds['wall']:,.0f} rows/s: {line}" if line and self.written else ""

    @property
    def complete(self) -> bool:
        """Whether every step has one row for every row of this share of the manifest."""
        return all(c.rows == self.rows for c in self.steps.values())

    @property
    def failed(self) -> int:
        """The largest number of failed rows of any step."""
        return max(c.failed for c in self.steps.values())


@dataclass(frozen=True)
class InMemoryModel:
    """A model of the caller's program, and perhaps a dataset, in place of those that the configuration names."""

    module: "torch.nn.Module"
    name: str
    dataset: datasets.DatasetSource | None
    """None if the configuration names the data."""
    classes: tuple[str, ...] = ()
    code: str = ""
    recipe: Recipe | None = None
    """Always None: no library knows the preprocessing of the caller."""

    def find_random(self, _: "torch.nn.Module", /) -> tuple[str, ...]:
        """Return nothing: the caller knows where the weights come from."""
        return ()

    def build(self, _: Path | None = None, __: Callable[[str], None] | None = None, /) -> "torch.nn.Module":
        """Return the module itself, with its present weights."""
        return self.module


def infer(
    config: InferConfig, log: Callable[[str], None] = print_warning, in_memory: InMemoryModel | None = None
) -> InferResult:
    """Run the model over the images and write one row for every image of every step.

    Parts that exist and are still valid are kept, so a run that was killed continues where it stopped.

    Args:
        config: what to do.
        log: takes a line of progress for the user.
        in_memory: the model, and perhaps the dataset, as objects of the caller's program.

    Raises:
        InputError: for bad input, or if existing parts do not fit; nothing that was written is lost.
    """
    require_torch()
    from predboard.inference import dispatch
    from predboard.inference.inputs import open_inputs, open_models, with_manifest

    with dispatch.open_placement(config, log) as placement:
        out = config.out or default_out(config.data, config.model)
        _refuse_inside(out, config, in_memory)
        files = assign_steps(tuple(expand_files(config.checkpoint)), config.step)
        given = (in_memory.dataset, in_memory.classes) if in_memory else (None, ())
        manifest = loading.open_manifest(config, *given, label_options(config, config.label_column))
        source = in_memory or open_factory(
            config.model,
            config.model_args,
            ema=config.ema,
            trust=config.trust_checkpoint,
            max_read_gb=config.max_read_gb,
            task=config.task,
        )
        inputs = open_inputs(config, manifest, source.recipe, log)
        models = open_models(config, source, files, inputs, placement, log)
        inputs = with_manifest(inputs, models.manifest)

        share = part_plan.WHOLE_RUN if config.part is None else Share(*config.part)
        with lock_folder(out, share=share):
            plan = make_plan(*_survey(config, out, models, share, log), share, models.per_pass)
            if plan.valid:
                valid = f"{plan.valid} of {len(plan.shards) * len(files)} parts in {out} exist and are valid"
                log(f"{valid} (names and labels are compared; images are not read again)")
            job = _make_job(config, out, inputs, models, placement)
            if plan.tasks and config.preflight:
                job = _preflight(job, plan, models, placement, source.recipe, log)
            seconds, written = _run(job, plan, models, placement, log)
            return InferResult(
                out=out,
                manifest_rows=len(models.manifest),
                steps=_count_rows(job, share, plan.shards),
                written=written,
                seconds=seconds,
                threads=job.threads,
                share=share,
                rows=sum(map(len, plan.shards)),
            )


def label_options(config: TaskConfig, column: str | None) -> LabelOptions | None:
    """Return how several labels of an image are written; None where each image has one label."""
    if config.task != MULTI_LABEL:
        return None
    return LabelOptions(column, config.label_separator, config.empty, config.none)


def _refuse_inside(out: AnyPath, config: InferConfig, in_memory: InMemoryModel | None) -> None:
    """Raise InputError if predictions would be written among the class folders of the data, and become classes."""
    if in_memory is not None and in_memory.dataset is not None:
        return
    with reading(config.data):
        data = parse_path(config.data)
        inside = data.is_dir() and is_inside(out, data)
    if inside:
        raise InputError(
            f"predictions in {out} would be inside {data}, and become a class of its images: name another --out"
        )


# --- plan ---


@dataclass(frozen=True)
class Plan:
    """The work that stage one has to do."""

    shards: tuple[PartRange, ...]
    """The parts of this share of the run."""
    tasks: tuple[Task, ...]
    """Missing parts, in the order in which they are made."""
    valid: int
    """Parts that are valid already, over all steps."""


def make_plan(
    all_shards: Sequence[PartRange],
    missing: Mapping[int, Sequence[PartRange]],
    failed_rows: Mapping[int, Mapping[PartRange, tuple[int, ...]]],
    share: Share,
    per_pass: int,
) -> Plan:
    """Plan the work of one run, without any I/O.

    Args:
        all_shards: those of the whole run.
        missing: for each step the parts without a valid part.
        failed_rows: for each step the rows that are retried, by their part.
        share: what this call is to do.
        per_pass: steps that are inferred together, so that each picture is decoded once for them.

    >>> first, second = part_plan.plan_parts(4, 2)
    >>> plan = make_plan([first, second], {1: [second]}, {1: {first: (0,)}}, part_plan.WHOLE_RUN, 1)
    >>> [(task.part_range.index, task.ids) for task in plan.tasks], plan.valid
    ([(0, (0,)), (1, range(2, 4))], 1)
    """
    mine = tuple(part_range for part_range in all_shards if share.holds(part_range.index))
    work: dict[int, dict[PartRange, range | tuple[int, ...]]] = {
        step: {**{part_range: part_range.ids for part_range in of_step}, **failed_rows.get(step, {})}
        for step, of_step in missing.items()
    }
    valid = sum(len(mine) - len(of_step) for of_step in missing.values())
    return Plan(mine, part_plan.plan_tasks(work, per_pass), valid)


def _survey(
    config: InferConfig, out: AnyPath, models: "StepModels", share: Share, log: Callable[[str], None]
) -> tuple[Sequence[PartRange], dict[int, list[PartRange]], dict[int, dict[PartRange, tuple[int, ...]]]]:
    """Find out what is missing: all parts, those without a valid part by step, and rows to retry by step and part.

    Parts of data that has changed are deleted. Raises InputError if a step is refused, and deletes nothing then.
    """
    all_shards = part_plan.plan_parts(len(models.manifest), config.shard_size)
    checked = {
        step: resume.find_missing(
            out,
            run,
            all_shards,
            models.manifest,
            update=config.update,
            overwrite=config.overwrite,
            log=log,
            share=share,
        )
        for step, run in models.runs.items()
    }
    others = list(itertools.chain.from_iterable(changed for _, changed in checked.values()))
    relabelled = find_relabelled(others, models.manifest, all_shards)
    stay = {file.path for file in relabelled}
    for path in others:
        if path not in stay:
            delete_part(path)  # only now that no step is refused
    rewrite_labels(relabelled, models.manifest, log)
    ranges = {(file.run.step, file.part.start) for file in relabelled}
    missing = {
        step: [part_range for part_range in of_step if (step, part_range.start) not in ranges]
        for step, (of_step, _) in checked.items()
    }
    failed_rows: dict[int, dict[PartRange, tuple[int, ...]]] = {}
    if config.retry_errors:
        for step, of_step in missing.items():
            valid = [
                part_range for part_range in all_shards if share.holds(part_range.index) and part_range not in of_step
            ]
            failed_rows[step] = resume.failed_rows(out, step, valid)
        rows = sum(len(ids) for of_step in failed_rows.values() for ids in of_step.values())
        log(f"retrying {plural(rows, 'row')} with an error")
    return all_shards, missing, failed_rows


# --- run ---


def _make_job(
    config: InferConfig,
    out: AnyPath,
    inputs: "Inputs",
    models: "StepModels",
    placement: "dispatch.Placement",
) -> "Job":
    from predboard.inference.forward import default_batch_size
    from predboard.inference.worker import Job

    threads = placement.threads
    if models.manifest.is_remote and not config.workers:  # threads that wait for storage most of the time
        threads = max(threads, MAX_CONNECTIONS)
    batch_size = config.batch_size or default_batch_size(placement.devices[0], inputs.sample, placement.memory)
    return Job(
        config,
        inputs.loader,
        inputs.sample,
        models.files,
        models.runs,
        out,
        threads,
        batch_size,
        models.manifest.list_digest(config.shard_size),
        warnings=(*inputs.warnings, *filter(None, [models.random])),
        random_weights=bool(models.random),
        single_output=models.single_output,
    )


def _preflight(
    job: "Job",
    plan: Plan,
    models: "StepModels",
    placement: "dispatch.Placement",
    recipe: Recipe | None,
    log: Callable[[str], None],
) -> "Job":
    from predboard.inference.preflight import preflight

    devices = [placement.trial_device] * len(placement.devices)
    hands_on = placement.in_this_process and not job.config.processes
    return preflight(job, devices, models.modules.get, plan.tasks, recipe, log, hands_on)


def _run(
    job: "Job",
    plan: Plan,
    models: "StepModels",
    placement: "dispatch.Placement",
    log: Callable[[str], None],
) -> tuple[dict[str, float], int]:
    """Do the tasks of a plan; return where the time went, and the rows written.

    Raises InputError if more rows fail than --max-failures allows.
    """
    from predboard.inference import dispatch

    if not placement.in_this_process:
        models.modules.clear()  # each worker builds its own
    began = time.perf_counter()
    total = sum(task.rows for task in plan.tasks)
    with tqdm(total=total, unit=" rows", desc="infer", disable=None, file=sys.stderr) as bar:
        count = _Progress(job, bar.update)
        seconds = dispatch.dispatch(job, placement, models.modules.take, plan.tasks, count.add, log)
    return {**seconds, "wall": time.perf_counter() - began}, count.rows


class _Progress:
    """Counts rows, and stops the run when too many of them fail."""

    def __init__(self, job: "Job", show: Callable[[int], object]) -> None:
        self._limit, self._out, self._show = job.config.max_failures, job.out, show
        self.rows = self.failed = 0

    def add(self, rows: int, failed: int) -> None:
        """Count rows that were inferred, and failed rows that were written."""
        self.rows += rows
        self.failed += failed
        self._show(rows)
        if self._limit is not None and self.failed > self._limit:
            raise InputError(
                f"{plural(self.failed, 'row')} failed, more than --max-failures {self._limit}: the error column of "
                f"{self._out} says why; published parts are safe, and --retry-errors retries these rows"
            )


def _count_rows(job: "Job", share: Share, mine: Sequence[PartRange]) -> dict[int, RowCount]:
    """Count the rows of each step that are on disk now, of these shards."""
    indices = {part_range.index for part_range in mine}
    counts = {}
    for number in job.steps:
        step = open_step(job.out, number, None if share == part_plan.WHOLE_RUN else lambda _, __: None)
        files = [file for file in step.parts if part_index(file.path) in indices] if step else []
        counts[number] = RowCount()
        for of_file in map_files(_count_part, files, job.out):
            counts[number] = counts[number] + of_file
    return counts


def _count_part(file: PartFile) -> RowCount:
    counted = RowCount()
    for batch in read_batches(file, ("label", "predicted")):
        counted = counted.add_batch(batch)
    return counted
