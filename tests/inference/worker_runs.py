"""A run of 45 pictures whose model can meet another process, kill itself or raise."""

from pathlib import Path
from typing import Any

from predboard import InferConfig

WORKER_NET = """
import os
import signal
import sys
import time
import torch

class Net(torch.nn.Module):
    def __init__(self, meet="", kill="", raises=""):
        super().__init__()
        print("a model may print")
        torch.manual_seed(3)
        self.head = torch.nn.Linear(3, 3)
        self.meet, self.kill, self.raises, self.seen = meet, kill, raises, 0

    def forward(self, x):
        self.seen += len(x) > 1  # one picture alone is the trial before
        if self.meet and self.seen == 3:  # the last batch of a part, whose first one waits to be written
            open(os.path.join(self.meet, str(os.getpid())), "w").close()
            while len(os.listdir(self.meet)) < 2:
                time.sleep(0.01)
            time.sleep(0.5)  # until both have opened their parts, and neither has ended its own
        if self.kill and self.seen:
            try:  # the first that comes here dies, and nobody after it
                os.close(os.open(self.kill, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if self.raises and self.seen > 2:
            raise MemoryError(self.raises)
        return self.head(x.mean((2, 3)))
"""
ROWS, SHARD = 45, 8


def worker_config(place: Path, **options: Any) -> InferConfig:
    model = f"{place / 'net.py'}:Net"
    return InferConfig(
        **{
            "data": str(place / "data"),
            "model": model,
            "out": place / "out",
            "shard_size": SHARD,
            "batch_size": 3,
            **options,
        }
    )


def worker_flags(place: Path) -> list[str]:
    model = f"{place / 'net.py'}:Net"
    return ["--data", str(place / "data"), "--model", model, "--out", str(place / "out"), "--shard-size", str(SHARD)]


def hidden_files(out: Path) -> list[str]:
    """Hidden files besides the locks."""
    return sorted(p.name for p in out.rglob(".*") if not p.name.endswith(".lock"))
