"""Sends batches through models on a CPU in pieces, on no more threads than decoding leaves. It knows no rows or files.

Both are done only where a first batch shows that the logits are the same to the last bit.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from predboard.models.network import Network

_PIECE_BYTES = 10 * 2**20
"""Bytes of a piece's floats, 17 pictures of 224 × 224: what a network makes of more does not stay in the cache."""

_BATCHES_TO_COME = 10
"""Full batches of a part that must be left for a trial, which costs little more than one."""

Outputs = dict[int, tuple[torch.Tensor, torch.Tensor | None]]
"""Logits [rows, classes] and embeddings [rows, dimensions] of each step."""


def count_pieces(like: NDArray[Any], rows: int) -> int:
    """Return in how many pieces a CPU is best sent so many pictures, each like this one."""
    return max(1, min(-(-rows * like.size * 4 // _PIECE_BYTES), rows))


class CpuPasses:
    """Decides in how many pieces, and on how many of PyTorch's threads, full batches go through the models of a run.

    Threads that decode share the processors with those of the forward pass, which wait for each other after every
    layer: one that is held up holds up all, and they burn their time waiting. So the forward pass gets its share of the
    processors, and with one thread it waits for nobody. Batches that are not full go through whole, on all threads.
    """

    def __init__(self, device: torch.device, like: NDArray[Any], batch_size: int) -> None:
        """Decide nothing yet.

        Args:
            device: where the models run; on others than a CPU all batches go through whole.
            like: a picture.
            batch_size: rows of a full batch.
        """
        self._batch_size = batch_size
        pieces = count_pieces(like, batch_size)
        self._cuts = np.linspace(0, batch_size, pieces + 1).round().astype(int).tolist()
        self._all_threads = torch.get_num_threads()
        self._possible = device.type == "cpu" and (len(self._cuts) > 2 or self._all_threads > 1)
        self._threads: int | None = None
        """Threads of a pass through pieces; None while batches go through whole."""

    def run(
        self,
        run: Callable[[NDArray[Any]], tuple[Outputs, float]],
        networks: Mapping[int, Network],
        pictures: NDArray[Any],
        rows_left: int,
        decode_seconds: float,
    ) -> tuple[Outputs, float]:
        """Return the outputs of a batch, and the seconds that copying it to the device took.

        Args:
            run: does it for some pictures.
            networks: the models; those that take batches of a single size get whole batches.
            pictures: [rows, …].
            rows_left: rows of the part from this batch on.
            decode_seconds: processor time that decoding a picture of this batch took.
        """
        if not self._possible or len(pictures) != self._batch_size:
            return run(pictures)
        if self._threads is not None:
            return self._run_pieces(run, pictures, self._threads)
        whole = run(pictures)
        if rows_left > _BATCHES_TO_COME * self._batch_size:
            self._threads = self._try_pieces(run, networks, pictures, whole[0], decode_seconds)
            self._possible = self._threads is not None
        return whole

    def _try_pieces(
        self,
        run: Callable[[NDArray[Any]], tuple[Outputs, float]],
        networks: Mapping[int, Network],
        pictures: NDArray[Any],
        whole: Outputs,
        decode_seconds: float,
    ) -> int | None:
        """Return on how many threads to run pieces; None if their logits are not those of the whole batch."""
        if not all(network.takes_any_size for network in networks.values()):
            return None
        with torch.random.fork_rng(devices=[]):  # of models that draw random numbers, later batches get the same ones
            threads = self._share(run, pictures, decode_seconds)
            if threads == self._all_threads and len(self._cuts) == 2:
                return None
            pieces, _ = self._run_pieces(run, pictures, threads)
        return threads if _same_bits(whole, pieces) else None

    def _share(
        self, run: Callable[[NDArray[Any]], tuple[Outputs, float]], pictures: NDArray[Any], decode_seconds: float
    ) -> int:
        """Return how many of the threads the forward pass needs to keep up with decoding on all others."""
        piece = pictures[: self._cuts[1]]
        with torch_threads(1):
            run(piece)  # kernels are compiled for its size
            began = time.thread_time()
            run(piece)
            seconds = (time.thread_time() - began) / len(piece)
        return share_threads(self._all_threads, seconds, decode_seconds)

    def _run_pieces(
        self, run: Callable[[NDArray[Any]], tuple[Outputs, float]], pictures: NDArray[Any], threads: int
    ) -> tuple[Outputs, float]:
        with torch_threads(threads):
            pieces = [run(pictures[a:b]) for a, b in zip(self._cuts[:-1], self._cuts[1:], strict=True)]
        return join_outputs([outputs for outputs, _ in pieces]), sum(moved for _, moved in pieces)


def share_threads(threads: int, forward_seconds: float, decode_seconds: float) -> int:
    """Return how many of these threads the forward pass gets, by the processor time of a picture for each of both."""
    share = threads * forward_seconds / max(forward_seconds + decode_seconds, 1e-9)
    return max(1, min(int(share + 0.7), threads))  # a little more than one thread's work stays on one


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have PyTorch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def join_outputs(pieces: list[Outputs]) -> Outputs:
    """Return the outputs of the pieces of a batch as those of the whole batch."""
    if len(pieces) == 1:
        return pieces[0]
    joined: Outputs = {}
    for step in pieces[0]:
        embeddings = [e for piece in pieces if (e := piece[step][1]) is not None]
        joined[step] = torch.cat([piece[step][0] for piece in pieces]), torch.cat(embeddings) if embeddings else None
    return joined


def _same_bits(one: Outputs, other: Outputs) -> bool:
    def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
        if a is None or b is None:
            return a is b
        return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())

    return all(same(a, b) for step in one for a, b in zip(one[step], other[step], strict=True))
