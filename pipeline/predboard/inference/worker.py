"""Runs stage one on one device: tasks, pictures, logits, parts. It knows nothing of other devices or of what is left to
do.

Threads read and decode ahead; the forward pass runs in the caller's thread; one more thread derives columns, compresses
and publishes. Memory is bounded by the row group, not by the data.
"""

import itertools
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images.loader import LoadedImage, Loader
from predboard.inference.forward import Batch, BatchLimit, Normalizer, forward
from predboard.inference.part_builder import PartBuilder, PartRepair, PartSpec
from predboard.models import hubs
from predboard.models.network import Network
from predboard.models.weights import digest_weights
from predboard.parallel.threads import ordered_map
from predboard.predictions.schema import Run
from predboard.storage import timing
from predboard.storage.part_plan import Task
from predboard.storage.paths import AnyPath

_CHUNK_PICTURES = 8
"""Pictures that a thread decodes before it takes the next item: an item costs as much as decoding a 28×28 PNG."""

_NO_INFERENCE = dict.fromkeys(("decode", "wait", "transfer", "forward"), 0.0)
"""Seconds in the footer of a part whose rows were never inferred."""


@dataclass(frozen=True)
class Job:
    """The part of the work's description that is the same on every device."""

    config: InferConfig
    loader: Loader
    like: NDArray[Any]
    """The first picture; all others must have its shape and type."""
    steps: Mapping[int, Path | None]
    """The checkpoint of each step; None if the model has weights of its own."""
    runs: Mapping[int, Run]
    """Identity of the predictions of each step."""
    out: AnyPath
    threads: int
    """Threads of each device that read and decode."""
    batch_size: int
    list_digest: str
    """Digest of the whole manifest, for the record."""
    warnings: tuple[str, ...] = ()
    """Warnings about dataset and weights and of the preflight, for the record."""
    random_weights: bool = False
    """Whether the model is untrained, so that wrong predictions say nothing about its inputs."""
    single_output: bool = False
    """Whether the model has one output, for the positive one of two classes."""


@dataclass(frozen=True)
class TaskChannel:
    """Connects a device with whoever hands out its tasks."""

    next: Callable[[bool], Task | None]
    """Return the next task, or None; True waits for one that another device may give back."""
    progress: Callable[[int, int, Task | None], object]
    """Called with the rows that went through, the failed rows that were written, and the task that is finished."""
    log: Callable[[str], object]
    """Takes a line for the user."""


def run_tasks(
    job: Job, device: torch.device, modules: Callable[[int], torch.nn.Module], channel: TaskChannel
) -> dict[str, float]:
    """Do tasks on one device until there are none, and return the seconds as `timing` names them.

    `modules` returns the model of a step. Raises InputError if the device's memory is too small for one picture.
    """
    total = timing.NO_SECONDS
    limit = BatchLimit(job.batch_size, device, channel.log)
    networks: dict[int, Network] = {}
    while (task := channel.next(True)) is not None:
        tasks = itertools.chain([task], iter(lambda: channel.next(False), None))
        for steps, group in itertools.groupby(tasks, key=lambda task: task.loaded_steps):
            if tuple(networks) != steps:
                networks.clear()  # before the next ones need the memory
                for step in steps:
                    networks[step] = Network(
                        modules(step), device, job.config.precision, job.config.embedding_layer or job.config.embeddings
                    )
                    if job.config.compile:
                        networks[step].compile()
            total = timing.add_seconds(total, _run_group(job, device, networks, group, channel, limit))
    return total


def build_module(build: Callable[[Path | None], torch.nn.Module], file: Path | None, run: Run) -> torch.nn.Module:
    """Build the model with the weights of a file. Raises InputError if these are no longer the weights of the run."""
    module = build(file)
    if digest_weights(module) != run.weights:
        raise InputError(f"{file or run.model} changed while it was in use: run the same command again")
    return module


def _run_group(
    job: Job,
    device: torch.device,
    networks: Mapping[int, Network],
    tasks: Iterator[Task],
    channel: TaskChannel,
    limit: BatchLimit,
) -> dict[str, float]:
    """Do tasks of the same models, decoding each picture once for all of them, and return the seconds."""
    began = time.perf_counter()
    chunks = (
        (task, task.ids[at : at + _CHUNK_PICTURES])
        for task in tasks  # drawn as decoding gets to them
        for at in range(0, len(task.ids), _CHUNK_PICTURES)
    )
    ahead = 2 * job.threads + -(-2 * job.batch_size // _CHUNK_PICTURES)  # two batches, and something for every thread
    stream = job.loader.stream(chunks, job.like, job.threads, ahead)
    pictures = ((task, picture) for task, chunk in stream for picture in chunk)
    normalizer = Normalizer(device, job.loader.preprocessing.mean, job.loader.preprocessing.std)
    batches = forward(pictures, networks, normalizer, job.like, job.batch_size, limit)
    writer = _BatchWriter(job, device)
    writing = ordered_map(writer.write, batches, workers=1, ahead=4)
    try:
        for rows, failed, finished in writing:
            channel.progress(rows, failed, finished)
    finally:
        writing.close()  # whatever stopped it, no thread is left that writes a part or reads a picture
        stream.close()
        writer.abandon()
    seconds = writer.seconds
    known = seconds["wait"] + seconds["transfer"] + seconds["forward"]
    return {**seconds, "behind": max(time.perf_counter() - began - known, 0.0)}


class _BatchWriter:
    """Writes batches into the open part of each step; the parts of a step come one after the other."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self._job, self._device = job, device
        self._parts: dict[int, PartBuilder | PartRepair] = {}
        self.seconds = dict(timing.NO_SECONDS)

    def write(self, batch: Batch) -> tuple[int, int, Task | None]:
        """Write a batch; return rows written, failed rows among what reached the parts, and the task it finishes."""
        began = time.perf_counter()
        task, failed = batch.task, 0
        decode = sum(picture.seconds for picture in batch.rows)
        per_step = {"decode": decode, **{name: value / len(batch.outputs) for name, value in batch.seconds.items()}}
        for step, (logits, embeddings) in batch.outputs.items():
            if step not in self._parts:
                spec = part_spec(self._job, self._device, task, step)
                self._parts[step] = PartBuilder(spec) if isinstance(task.ids, range) else PartRepair(spec, task.ids)
            part = self._parts[step]
            before = part.failed
            part.add(batch.rows, logits, embeddings, seconds=per_step)
            if batch.last:
                part.publish()
                del self._parts[step]
            failed += part.failed - before
        self.seconds = timing.add_seconds(self.seconds, batch.seconds)
        self.seconds["decode"] += decode
        self.seconds["write"] += time.perf_counter() - began
        return len(batch.rows) * len(batch.outputs), failed, task if batch.last else None

    def abandon(self) -> None:
        """Leave nothing behind of parts that are not finished."""
        for part in self._parts.values():
            part.abandon()


def write_failed_task(job: Job, device: torch.device, task: Task, why: str) -> tuple[int, int]:
    """Write rows with an error for a task on which workers keep dying; return rows written and failed rows."""
    if isinstance(task.ids, range):  # otherwise the rows have an error already
        picture = LoadedImage(error=f"WorkerDied: {why}")
        for step in task.steps:
            run = job.runs[step]
            with PartBuilder(part_spec(job, device, task, step)) as part:
                for start in range(0, len(task.ids), job.batch_size):
                    rows = min(job.batch_size, len(task.ids) - start)
                    logits = np.zeros((rows, len(run.classes)), np.float32)
                    embeddings = np.zeros((rows, run.embedding), np.float16) if run.embedding else None
                    part.add([picture] * rows, logits, embeddings, seconds=_NO_INFERENCE)
                part.publish()
    return task.rows, task.rows


def part_spec(job: Job, device: torch.device, task: Task, step: int) -> PartSpec:
    """Return what the part of a step is made from, besides its rows."""
    file = job.steps[step]
    provenance = {
        "checkpoint": "" if file is None else file.name,
        "list_digest": job.list_digest,
        "device": str(device),
        "batch_size": job.batch_size,
        "compile": job.config.compile,
        "threads": job.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **hubs.package_versions(job.config.model),
        **({"warnings": list(job.warnings)} if job.warnings else {}),
    }
    return PartSpec(job.out, job.runs[step], task.part_range, job.loader.manifest, job.config.scores, provenance)
