"""Holds what fuzzed inputs have in common: pictures, a model, and the commands. It judges nothing."""

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.fuzz import mutate
from tests.fuzz.harness import Case, Truth

NET = """
import torch


class Colour(torch.nn.Module):
    \"\"\"The class is the brightest channel.\"\"\"

    def forward(self, x):
        return x.mean((2, 3)) * 10


class Grey(torch.nn.Module):
    \"\"\"The class is the brightness, in thirds.\"\"\"

    def forward(self, x):
        return -((x.mean((1, 2, 3))[:, None] - torch.tensor([0.2, 0.5, 0.8])) ** 2) * 100


class Weighted(torch.nn.Module):
    \"\"\"The same as `Colour` with the weights of the tests.\"\"\"

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""
ROWS = 12
LABELS = [i // 4 for i in range(ROWS)]
PREDICTED = [(i // 4 + 1) % 3 if i % 4 == 0 else i // 4 for i in range(ROWS)]  # 9 of 12 are right
PATHS = ["abc"[i // 4] + f"/{i % 4}.png" for i in range(ROWS)]
BY_PATH: Truth = {path[:3]: (LABELS[i], PREDICTED[i]) for i, path in enumerate(PATHS)}
BY_PLACE: Truth = {str(i): (LABELS[i], PREDICTED[i]) for i in range(ROWS)}
LOGITS = np.eye(3)[PREDICTED] * 4 - np.arange(ROWS)[:, None] / 64  # exact in float16


def png(colour: int, mode: str = "RGB") -> bytes:
    """Return a picture whose brightest channel, or brightness, is the class."""
    buffer = io.BytesIO()
    fill = tuple(200 * (c == colour) for c in range(3)) if mode == "RGB" else (51, 128, 204)[colour]
    Image.new(mode, (8, 8), fill).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [png(colour) for colour in range(3)]
MEMBERS = {path: PICTURES[PREDICTED[i]] for i, path in enumerate(PATHS)}


def base(folder: Path) -> Case:
    """Write what every input needs: the pictures and a model."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    for path, content in MEMBERS.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    return Case(folder, "", [], truth=BY_PATH, out=folder / "out")


def infer(case: Case, file: str, *flags: str, net: str = "Colour") -> Case:
    """Run infer on a file."""
    case.command = ["infer", "--data", str(case.folder / file), "--model", f"{case.folder / 'net.py'}:{net}"]
    case.command += ["--out", str(case.out), "--device", "cpu", "--preflight", "0", "--timeout", "2", "--workers", "2"]
    case.command += flags
    case.names |= {file, case.folder.name, "images can be read"}
    return case


def import_(case: Case, file: str, *flags: str) -> Case:
    """Run import on a file."""
    case.command = ["import", str(case.folder / file), "--scores", "logits", "--out", str(case.out), "--workers", "1"]
    case.command += flags
    case.names |= {file, "--classes"}
    return case


def write(case: Case, random: Random, file: str, content: bytes, spoil: bool) -> None:
    """Write a file, damaged if asked and if nothing else was done to it."""
    if spoil:
        content, case.mutation = mutate.spoil_bytes(random, content)
        case.promise = "any"
    (case.folder / file).write_bytes(content)


def pictures_beside(folder: Path, door: str) -> Case:
    """Write the pictures into a folder of their own."""
    case = base(folder / "data")
    case.folder, case.out, case.door = folder, folder / "out", door
    (folder / "data" / "net.py").rename(folder / "net.py")
    return case


Door = Callable[[Random, Path], Case]
"""Makes a case of one kind of input from random numbers, in a new folder."""
