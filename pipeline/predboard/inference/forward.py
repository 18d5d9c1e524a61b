"""Turns decoded pictures into logits, a batch at a time, on one device. It knows no manifest and no files."""

import itertools
import operator
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.loader import LoadedImage
from predboard.inference.cpu_passes import CpuPasses, Outputs, join_outputs
from predboard.models.devices import is_out_of_memory
from predboard.models.network import Network
from predboard.storage.part_plan import Task


@dataclass(frozen=True)
class Batch:
    """Rows of one part that went through the models together."""

    task: Task
    start: int
    """Index of the first row in the task's `ids`."""
    rows: Sequence[LoadedImage]  # without pixels
    outputs: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float16] | None]]  # step: logits, embeddings
    seconds: Mapping[str, float]
    """Seconds of the calling thread: `wait` for pictures, `transfer` to the device, `forward`."""

    @property
    def last(self) -> bool:
        """Whether these are the last rows of the task."""
        return self.start + len(self.rows) == len(self.task.ids)


class Normalizer:
    """Copies batches of pictures to the device and normalises them there; floats are taken as they are."""

    def __init__(self, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> None:
        self.device = device
        self._mean = torch.tensor(mean, device=device)
        self._std = torch.tensor(std, device=device)

    def __call__(self, pictures: NDArray[Any]) -> torch.Tensor:
        """Return a batch as float32 [rows, channels, height, width] on the device, channels_last in memory.

        The batch is uint8 [rows, height, width, channels] or float32 [rows, channels, height, width].
        """
        batch = torch.from_numpy(pictures)
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # otherwise the copy waits for the one before
        moved = batch.to(self.device, non_blocking=True)
        if moved.is_floating_point():
            return moved.contiguous(memory_format=torch.channels_last)
        rows, height, width, channels = moved.shape
        x = moved.float().reshape(rows, height, width * channels)  # one copy, and long rows: four times as fast
        x /= 255
        x -= self._mean.expand(channels).repeat(width)
        x /= self._std.expand(channels).repeat(width)
        return x.reshape(rows, height, width, channels).permute(0, 3, 1, 2)


class BatchLimit:
    """Limits the rows that go through a model at a time; halved for good whenever the device runs out of memory."""

    def __init__(self, rows: int, device: torch.device, log: Callable[[str], object]) -> None:
        self.rows = rows
        self._device, self._log = device, log
        self._too_many = 0
        """Rows that were too many, if the user has not been told yet."""

    def halve(self) -> None:
        """Try fewer rows from now on. Raises InputError if even one row was too many."""
        if self.rows == 1:
            raise out_of_memory_error(self._device)
        self._too_many = self._too_many or self.rows
        self.rows = -(-self.rows // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def report_success(self) -> None:
        """Tell the user about a smaller limit, now that rows went through."""
        if self._too_many:
            self._log(
                f"{self._device} has not enough memory for {self._too_many} pictures at a time: continuing with "
                f"{self.rows} (--batch-size {self.rows} starts with so many)"
            )
            self._too_many = 0


def out_of_memory_error(device: torch.device) -> InputError:
    """Return the error for a device whose memory is too small for one picture."""
    return InputError(
        f"{device} has not enough memory for one picture: use another --device, smaller pictures, --precision bf16, or "
        "fewer --checkpoint at a time"
    )


def default_batch_size(device: torch.device, like: NDArray[Any], memory: int) -> int:
    """Return the default batch size: 256 on a GPU, otherwise 64, halved until its floats fit 1/256 of the memory.

    The intermediate results of a network take ten to a hundred times the memory of its input.

    Args:
        device: where the model runs.
        like: a picture.
        memory: of the device, in bytes.
    """
    rows = 256 if device.type == "cuda" else 64
    while rows > 1 and rows * like.size * 4 > memory // 256:
        rows //= 2
    return rows


def forward(
    loaded: Iterator[tuple[Task, LoadedImage]],
    networks: Mapping[int, Network],
    prepare: Normalizer,
    like: NDArray[Any],
    batch_size: int,
    limit: BatchLimit,
) -> Iterator[Batch]:
    """Yield batches with the logits of all steps of their task, in the order of the rows; none holds rows of two parts.

    Args:
        loaded: tasks and their pictures, row by row.
        networks: the model of each step.
        prepare: copies a batch to the device.
        like: a picture, for shape and type.
        batch_size: rows of a batch, except for the last of a part.
        limit: rows that go through a model at a time.
    """
    begun: deque[Callable[[], Batch]] = deque()
    passes = CpuPasses(prepare.device, like, batch_size)
    for task, of_task in itertools.groupby(loaded, key=operator.itemgetter(0)):
        needed = {step: networks[step] for step in task.steps}
        for start in range(0, len(task.ids), batch_size):
            began = time.perf_counter()
            rows = [row for _, row in itertools.islice(of_task, min(batch_size, len(task.ids) - start))]
            waited = time.perf_counter() - began
            begun.append(_begin(task, start, rows, waited, needed, prepare, like, limit, passes))
            if len(begun) > 1:  # one batch behind, so that a GPU has the next one before this one is waited for
                yield begun.popleft()()
    while begun:
        yield begun.popleft()()


def _begin(
    task: Task,
    start: int,
    rows: list[LoadedImage],
    waited: float,
    networks: Mapping[int, Network],
    prepare: Normalizer,
    like: NDArray[Any],
    limit: BatchLimit,
    passes: CpuPasses,
) -> Callable[[], Batch]:
    """Start the forward passes of one batch; the returned function waits for them and copies the logits back."""
    began = time.perf_counter()
    pictures = np.zeros((len(rows), *like.shape), like.dtype)  # a failed row stays 0; its logits are thrown away
    for picture, row in zip(pictures, rows, strict=True):
        if row.pixels is not None:
            picture[:] = row.pixels
    transfer = time.perf_counter() - began
    outputs, moved = passes.run(
        lambda some: compute_outputs(networks, prepare, some, limit),
        networks,
        pictures,
        rows_left=len(task.ids) - start,
        decode_seconds=sum(row.processor_seconds for row in rows) / len(rows),
    )
    light = [replace(row, pixels=None) for row in rows]
    seconds = time.perf_counter() - began

    def finish() -> Batch:
        again = time.perf_counter()
        arrays = {
            step: (
                logits.cpu().numpy(),
                # Beyond the largest float16 there is only infinity, which no distance can be computed with.
                None if embedding is None else embedding.clamp(-_LARGEST, _LARGEST).half().cpu().numpy(),
            )
            for step, (logits, embedding) in outputs.items()
        }
        took = seconds + time.perf_counter() - again
        copied = transfer + moved
        return Batch(task, start, light, arrays, {"wait": waited, "transfer": copied, "forward": took - copied})

    return finish


_LARGEST = float(np.finfo(np.float16).max)


def compute_outputs(
    networks: Mapping[int, Network],
    prepare: Callable[[NDArray[Any]], torch.Tensor],
    pictures: NDArray[Any],
    limit: BatchLimit,
) -> tuple[Outputs, float]:
    """Return the logits and embeddings of a batch, and the seconds that copying it to the device took.

    Raises InputError if the device's memory is too small for one picture.
    """
    while True:
        try:
            outputs = _run_pieces(networks, prepare, pictures, limit.rows)
            limit.report_success()
            return outputs
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        limit.halve()  # only here, where the exception no longer holds what is in memory


def _run_pieces(
    networks: Mapping[int, Network],
    prepare: Callable[[NDArray[Any]], torch.Tensor],
    pictures: NDArray[Any],
    rows: int,
) -> tuple[Outputs, float]:
    moved = 0.0
    pieces: list[Outputs] = []
    for at in range(0, len(pictures), rows):
        began = time.perf_counter()
        x = prepare(pictures[at : at + rows])
        moved += time.perf_counter() - began
        pieces.append({step: network(x, rows) for step, network in networks.items()})
    return join_outputs(pieces), moved
