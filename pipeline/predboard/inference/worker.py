"""One device at work: tasks -> pictures -> logits -> parts. Knows nothing of other devices or of what is left to do.

Reading and decoding run ahead on threads; the forward pass runs in the caller's thread; deriving columns, compressing
and publishing run behind on one more thread. What is in memory at once is bounded by the row group, not by the data.
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
from predboard.models.checkpoints import digest_weights
from predboard.models.network import Network
from predboard.parallel.threads import ordered_map
from predboard.predictions.schema import Run
from predboard.storage import timing
from predboard.storage.paths import AnyPath
from predboard.storage.shards import Task

_CHUNK = 8
"""Pictures a thread decodes before it takes the next task: a task costs about as much as a 28×28 PNG."""


@dataclass(frozen=True)
class Job:
    """What is the same on every device."""

    config: InferConfig
    loader: Loader
    like: NDArray[Any]
    """The first picture, whose shape and type all have."""
    steps: Mapping[int, Path | None]
    """Checkpoint of each step."""
    runs: Mapping[int, Run]
    out: AnyPath
    threads: int
    """That read and decode, for each device."""
    batch_size: int
    warnings: tuple[str, ...] = ()
    """Of the dataset and the preflight, for the record."""


@dataclass(frozen=True)
class TaskChannel:
    """Who gives a device its tasks, and hears from it."""

    next: Callable[[bool], Task | None]
    """Return the next task, or None; True waits for one that another device may give back."""
    progress: Callable[[int, int, Task | None], object]
    """Called with the rows that went through, the failed rows that were written, and the task that is finished."""
    log: Callable[[str], object]
    """Takes a line for the user."""


def run_tasks(
    job: Job, device: torch.device, modules: Callable[[int], torch.nn.Module], channel: TaskChannel
) -> dict[str, float]:
    """Do tasks until there are none. `modules` gives the model of a step. -> seconds as `timing` has them."""
    total = timing.NO_SECONDS
    limit = BatchLimit(job.batch_size, device, channel.log)
    networks: dict[int, Network] = {}
    while (task := channel.next(True)) is not None:
        more = itertools.chain([task], iter(lambda: channel.next(False), None))
        for together, of_group in itertools.groupby(more, key=lambda task: task.loaded_steps):
            if tuple(networks) != together:
                networks.clear()  # before the next ones need the memory
                for step in together:
                    networks[step] = Network(
                        modules(step), device, job.config.precision, job.config.embedding_layer or job.config.embeddings
                    )
                    if job.config.compile:
                        networks[step].compile()
            total = timing.add_seconds(total, _pass(job, device, networks, of_group, channel, limit))
    return total


def build_module(build: Callable[[Path | None], torch.nn.Module], file: Path | None, run: Run) -> torch.nn.Module:
    """The model with the weights of a file. Raises InputError if they do not fit, or are not those of the run."""
    module = build(file)
    if digest_weights(module) != run.weights:
        raise InputError(f"{file or run.model} changed while it was in use: run the same command again")
    return module


def _pass(
    job: Job,
    device: torch.device,
    networks: Mapping[int, Network],
    tasks: Iterator[Task],
    channel: TaskChannel,
    limit: BatchLimit,
) -> dict[str, float]:
    """Do tasks with these models, decoding each image once. -> seconds as `timing` has them."""
    began = time.perf_counter()
    seconds = dict(timing.NO_SECONDS)
    chunks = (
        (task, task.ids[at : at + _CHUNK])
        for task in tasks  # drawn as decoding gets there
        for at in range(0, len(task.ids), _CHUNK)
    )

    ahead = 2 * job.threads + -(-2 * job.batch_size // _CHUNK)  # two batches, and something for every thread
    stream = job.loader.stream(chunks, job.like, job.threads, ahead)
    loaded = ((task, row) for task, rows in stream for row in rows)
    open_parts: dict[int, PartBuilder | PartRepair] = {}  # by step; a step's parts come one after the other

    def write(batch: Batch) -> tuple[int, int, Task | None]:
        started = time.perf_counter()
        failed = 0
        for step in batch.outputs:
            if step not in open_parts:
                making = _making(job, device, batch.task, step)
                open_parts[step] = PartBuilder(making) if isinstance(batch.task.ids, range) else PartRepair(making)
            failed += open_parts[step].add(batch)
            if batch.last:
                del open_parts[step]
        seconds["write"] += time.perf_counter() - started
        seconds["decode"] += sum(row.seconds for row in batch.rows)
        for name, value in batch.seconds.items():
            seconds[name] += value
        return len(batch.rows) * len(batch.outputs), failed, batch.task if batch.last else None

    prepare = Normalizer(device, job.loader.preprocessing.mean, job.loader.preprocessing.std)
    inferred = forward(loaded, networks, prepare, job.like, job.batch_size, limit)
    writing = ordered_map(write, inferred, workers=1, ahead=4)
    try:
        for rows, failed, done in writing:
            channel.progress(rows, failed, done)
    finally:
        writing.close()  # whatever stopped it, no thread is left that still writes a part or reads a picture
        stream.close()
        for part in open_parts.values():
            part.abandon()
    known = seconds["wait"] + seconds["transfer"] + seconds["forward"]
    seconds["behind"] = max(time.perf_counter() - began - known, 0.0)
    return seconds


def write_failed_task(job: Job, device: torch.device, task: Task, why: str) -> tuple[int, int]:
    """Write rows with an error for a task that nobody survives. -> rows written, and how many of them failed."""
    if isinstance(task.ids, range):  # else they have an error already
        row = LoadedImage(error=f"WorkerDied: {why}")
        for step in task.steps:
            run, part = job.runs[step], PartBuilder(_making(job, device, task, step))
            for start in range(0, len(task.ids), job.batch_size):
                rows = [row] * min(job.batch_size, len(task.ids) - start)
                logits = np.zeros((len(rows), len(run.classes)), np.float32)
                embeddings = np.zeros((len(rows), run.embedding), np.float16) if run.embedding else None
                part.add(Batch(task, start, rows, {step: (logits, embeddings)}, {}))
    return task.rows, task.rows


def _making(job: Job, device: torch.device, task: Task, step: int) -> PartSpec:
    manifest, scores = job.loader.manifest, job.config.scores
    return PartSpec(job.out, job.runs[step], task, manifest, scores, _provenance(job, device, step))


def _provenance(job: Job, device: torch.device, step: int) -> dict[str, object]:
    file = job.steps[step]
    return {
        "checkpoint": "" if file is None else file.name,
        "device": str(device),
        "batch_size": job.batch_size,
        "compile": job.config.compile,
        "threads": job.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **hubs.package_versions(job.config.model),
        **({"warnings": list(job.warnings)} if job.warnings else {}),
    }
