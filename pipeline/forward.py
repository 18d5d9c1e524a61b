"""Decoded rows -> logits, a batch at a time, on one device. Knows no manifest and no files."""

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

from pipeline.loading import Loaded
from pipeline.models import Network
from pipeline.shards import Task


@dataclass(frozen=True)
class Batch:
    """Rows of one part that went through the models together."""

    task: Task
    start: int
    """Place of the first row in the task's `ids`."""
    rows: Sequence[Loaded]  # without pixels
    outputs: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float16] | None]]  # step: logits, embeddings
    seconds: Mapping[str, float]
    """Of the calling thread: `wait` for pictures, `forward`."""

    @property
    def last(self) -> bool:
        """Whether the task is done with these rows."""
        return self.start + len(self.rows) == len(self.task.ids)


class Prepare:
    """Batches of pictures -> normalised floats on the device; floats are taken as they are."""

    def __init__(self, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> None:
        self.device = device
        self._mean = torch.tensor(mean, device=device).reshape(1, -1, 1, 1)
        self._std = torch.tensor(std, device=device).reshape(1, -1, 1, 1)

    def __call__(self, pictures: NDArray[Any]) -> torch.Tensor:
        """Batch -> [rows, channels, height, width] float32 on the device, channels_last in memory.

        The batch is uint8 [rows, height, width, channels] or float32 [rows, channels, height, width].
        """
        batch = torch.from_numpy(pictures)
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # else the copy waits for the one before
        moved = batch.to(self.device, non_blocking=True)
        if moved.is_floating_point():
            return moved.contiguous(memory_format=torch.channels_last)
        moved = moved.permute(0, 3, 1, 2)
        return (moved.float() / 255 - self._mean) / self._std


def forward(
    loaded: Iterator[tuple[Task, Loaded]],
    networks: Mapping[int, Network],
    prepare: Prepare,
    like: NDArray[Any],
    batch_size: int,
) -> Iterator[Batch]:
    """Logits of the rows, in their order, for each step that lacks them; no batch holds rows of two parts."""
    begun: deque[Callable[[], Batch]] = deque()
    for task, of_task in itertools.groupby(loaded, key=operator.itemgetter(0)):
        here = {step: networks[step] for step in task.steps}
        for start in range(0, len(task.ids), batch_size):
            began = time.perf_counter()
            rows = [row for _, row in itertools.islice(of_task, min(batch_size, len(task.ids) - start))]
            waited = time.perf_counter() - began
            begun.append(_begin(task, start, rows, waited, here, prepare, like))
            if len(begun) > 1:  # one batch behind, so that a GPU has the next before it is asked for this
                yield begun.popleft()()
    while begun:
        yield begun.popleft()()


def _begin(
    task: Task,
    start: int,
    rows: list[Loaded],
    waited: float,
    networks: Mapping[int, Network],
    prepare: Prepare,
    like: NDArray[Any],
) -> Callable[[], Batch]:
    """Start the forward passes of one batch; calling the result waits for them and copies the logits back."""
    began = time.perf_counter()
    pictures = np.zeros((len(rows), *like.shape), like.dtype)  # a failed row stays 0, and its logits are thrown away
    for picture, row in zip(pictures, rows, strict=True):
        if row.pixels is not None:
            picture[:] = row.pixels
    x = prepare(pictures)
    outputs = {step: network(x) for step, network in networks.items()}
    light = [replace(row, pixels=None) for row in rows]
    seconds = time.perf_counter() - began

    def finish() -> Batch:
        again = time.perf_counter()
        arrays = {
            step: (logits.cpu().numpy(), None if embedding is None else embedding.half().cpu().numpy())
            for step, (logits, embedding) in outputs.items()
        }
        took = {"wait": waited, "forward": seconds + time.perf_counter() - again}
        return Batch(task, start, light, arrays, took)

    return finish
