"""Small models, and files of them, that the tests of this folder share."""

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4, bias=True):
        super().__init__()
        self.fc = torch.nn.Linear(3, width, bias)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))

def number():
    return 7

def broken(**options):
    raise KeyError("no such option")

def leaves():
    raise SystemExit("usage: net.py")

instance = Net()
constant = 3
_shared = Net()

def shared():
    return _shared
"""


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        OrderedDict(conv=torch.nn.Conv2d(3, 4, 3), norm=torch.nn.BatchNorm2d(4), fc=torch.nn.Linear(4, 2))
    )


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(12, 5)
        self.dropout = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.dropout(self.first(x.flatten(1)).relu()))


class Pooled(torch.nn.Module):
    def __init__(self, classes: int = 3, rows: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.drop = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(4, classes)
        self.rows = rows

    def forward(self, x: Any) -> Any:
        pooled = self.drop(self.conv(x).relu().mean((2, 3)))
        return self.fc(pooled if self.rows is None else pooled.reshape(self.rows, 4))


def model_file(folder: Path, text: str, name: str = "net.py") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def traced(module: torch.nn.Module, rows: int, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        traced = torch.jit.trace(module.eval(), torch.rand(rows, 3, 8, 8))  # type: ignore[no-untyped-call]  # torch's own lack
        torch.jit.save(traced, file)
    return file


def program(file: Path, kind: str) -> Path:
    if kind.startswith("script"):
        return traced(Pooled(rows=4) if kind.endswith("of 4") else Pooled(), 4, file)
    dynamic = None if kind.endswith("of 4") else ({0: torch.export.Dim("rows", min=1, max=None)},)
    module = Pooled().eval()
    torch.export.save(torch.export.export(module, (torch.rand(4, 3, 8, 8),), dynamic_shapes=dynamic), file)
    return file
