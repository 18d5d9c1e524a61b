"""Small networks, and what the tests of stage one do with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from predboard import InferConfig, open_predictions
from predboard.images import sources

if TYPE_CHECKING:  # conftest.py is read where there is no torch as well
    import torch

NETS = """
import torch

class Net(torch.nn.Module):
    \"\"\"Sensitive to the place and the channel of every pixel.\"\"\"

    def __init__(self, channels=3, classes=3, side=8):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(6 * side * side, classes)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x).relu()).flatten(1)))


class Uneven(torch.nn.Module):
    \"\"\"Not a number for dark pictures.\"\"\"

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, (mean - 0.5).sqrt(), -mean], 1)


class Narrow(Net):
    \"\"\"Has memory for so many pictures at a time.\"\"\"

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"tried to allocate for {len(x)}")
        return super().forward(x)


class Loud(torch.nn.Module):
    \"\"\"Features that float16 cannot hold.\"\"\"

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)
        torch.nn.init.constant_(self.head.weight, 1e-6)

    def forward(self, x):
        return self.head((x.mean((2, 3)) - 0.5) * 1e6)


class Fails(torch.nn.Module):
    \"\"\"Raises at the given forward pass; the first one tries the model.\"\"\"

    def __init__(self, at, classes=3):
        super().__init__()
        self.at, self.classes, self.seen = at, classes, 0

    def forward(self, x):
        self.seen += 1
        if self.seen == self.at:
            raise MemoryError("enough")
        return x.mean((2, 3))[:, : self.classes]
"""
"""A model file with all of them."""


def build_module(net: str, **options: Any) -> "torch.nn.Module":
    """The model as a plain script would make it."""
    import torch

    scope: dict[str, Any] = {}
    exec(Path(net.rpartition(":")[0]).read_text(), scope)
    torch.manual_seed(0)
    module: torch.nn.Module = scope["Net"](**options)
    return module


def make_config(tmp_path: Path, net: str, **options: Any) -> InferConfig:
    return InferConfig(**{"data": str(tmp_path / "data"), "model": net, "out": tmp_path / "out", **options})


def read_frame(out: Path, step: int | None = None) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out, step).to_pandas()
    return frame


def stack_logits(frame: pd.DataFrame) -> Any:
    return np.stack(frame["logits"].to_list())


def save_checkpoints(folder: Path, net: str, epochs: tuple[int, ...] = (1, 2, 10)) -> tuple[Path, ...]:
    import torch

    files = []
    for epoch in epochs:
        module = build_module(net)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + epoch / 10)
        files.append(folder / f"toy_epoch{epoch:02d}.pt")
        torch.save({"state_dict": module.state_dict()}, files[-1])
    return tuple(files)


def modification_times(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    read = sources.read

    def counted(root: str, ref: str, *limit: float) -> bytes:
        reads.append(ref)
        return read(root, ref, *limit)

    monkeypatch.setattr(sources, "read", counted)
    return reads
