"""The forward pass in pieces: the same logits, on a share of the threads, and never where a model would notice."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from predboard.inference import cpu_passes
from predboard.inference.cpu_passes import CpuPasses, Outputs
from predboard.models.network import Network

CPU = torch.device("cpu")
ROWS = 32
PICTURES = np.random.default_rng(0).random((ROWS, 3, 16, 16), np.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four threads, pieces of eight pictures."""
    monkeypatch.setattr(cpu_passes, "_PIECE_BYTES", 8 * PICTURES[0].nbytes)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Watched(nn.Module):
    """A convolution that notes the rows and threads of each call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.calls: list[tuple[int, int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(x), torch.get_num_threads()))
        return self.body(x)  # type: ignore[no-any-return]  # of nn.Sequential


class OfBatch(Watched):
    """Takes off the batch's mean, as normalisation in train mode does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean())


class Drawn(Watched):
    """Draws random numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.rand_like(x))


def _send(module: Watched, batches: int, left: int, decode_seconds: float, device: torch.device = CPU) -> torch.Tensor:
    """Send batches through, and return all logits; afterwards `calls` has those of the last batch."""
    network = Network(module, CPU, "fp32", embeddings=False)
    passes = CpuPasses(device, PICTURES[0], ROWS)

    def run(pictures: NDArray[np.float32]) -> tuple[Outputs, float]:
        return {0: network(torch.from_numpy(pictures))}, 0.25

    logits = []
    for _ in range(batches):
        module.calls.clear()
        outputs, moved = passes.run(run, {0: network}, PICTURES, left, decode_seconds)
        assert moved == 0.25 * len(module.calls) or len(module.calls) > 5  # of the trial only the whole batch counts
        logits.append(outputs[0][0])
    assert torch.get_num_threads() == 4
    return torch.cat(logits)


@pytest.mark.parametrize(
    ("decode_seconds", "threads"),
    [(1e9, 1), (0.0, 4)],
    ids=["decoding is all the work", "decoding costs nothing"],
)
def test_pieces_take_the_share_of_threads_that_keeps_up_with_decoding(decode_seconds: float, threads: int) -> None:
    module = Watched()
    logits = _send(module, 3, 1_000, decode_seconds)
    assert module.calls == [(8, threads)] * 4
    assert torch.equal(logits, _send(Watched(), 3, 0, 0.0))


@pytest.mark.parametrize(
    ("module", "left", "device"),
    [
        (Watched(), 320, CPU),  # too few rows to come for a trial to pay
        (OfBatch(), 1_000, CPU),
        (Drawn(), 1_000, CPU),
        (Watched(), 1_000, torch.device("cuda")),
    ],
    ids=["short", "of the batch", "random", "cuda"],
)
def test_batches_stay_whole_where_pieces_could_differ_or_not_pay(
    module: Watched, left: int, device: torch.device
) -> None:
    torch.manual_seed(1)
    logits = _send(module, 3, left, 1e9, device)
    assert module.calls == [(ROWS, 4)]
    torch.manual_seed(1)
    network = Network(module, CPU, "fp32", embeddings=False)
    plain = torch.cat([network(torch.from_numpy(PICTURES))[0] for _ in range(3)])
    assert torch.equal(logits, plain)  # random numbers too are those of a run without a trial


def test_a_batch_that_is_not_full_goes_through_whole() -> None:
    network = Network(module := Watched(), CPU, "fp32", embeddings=False)
    passes = CpuPasses(CPU, PICTURES[0], ROWS)

    def run(pictures: NDArray[np.float32]) -> tuple[Outputs, float]:
        return {0: network(torch.from_numpy(pictures))}, 0.0

    passes.run(run, {0: network}, PICTURES, 1_000, 1e9)
    module.calls.clear()
    passes.run(run, {0: network}, PICTURES[:31], 1_000, 1e9)
    assert module.calls == [(31, 4)]
