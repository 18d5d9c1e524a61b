"""Measures the peak memory of each command at three numbers of rows; see benchmarks/bench.py, which runs it.

It is that of all processes of a command together. It knows nothing of time.
"""

import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from benchmarks import bench_compare, bench_visualize
from benchmarks.measuring import Report
from tests import toy

ROWS = (10_000, 100_000, 1_000_000)
CLASSES = 100
FEW_CLASSES = 10
"""Of what comes from images or text: with more, a million rows take an hour to write."""


def listed(folder: Path, rows: int) -> Path:
    """A list of so many images, which are a hundred pictures of 8 × 8 again and again."""
    toy.pictures(folder / "pictures", classes=FEW_CLASSES, each=10, size=(8, 8))
    refs = [file.relative_to(folder).as_posix() for file in sorted((folder / "pictures").glob("*/*.png"))]
    place = folder / f"{rows}.csv"
    place.write_text("path\n" + "".join(f"{refs[i % len(refs)]}\n" for i in range(rows)))
    return place


def text(folder: Path, rows: int) -> Path:
    """A CSV file of probabilities, as people save them."""
    place = folder / f"scores{rows}.csv"
    if not place.exists():
        random = np.random.default_rng(0)
        scores = random.dirichlet(np.full(FEW_CLASSES, 0.3), rows).astype(np.float32)
        scores /= scores.sum(1, keepdims=True)
        columns = {f"prob_{k}": scores[:, k] for k in range(FEW_CLASSES)}
        label = random.integers(0, FEW_CLASSES, rows)
        names = [f"val/{i:08d}.jpg" for i in range(rows)]
        pyarrow.csv.write_csv(pa.table({"path": names, "label": label, **columns}), place)
    return place


class Inputs:
    """Runs and logs of so many rows, made when they are asked for."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows
        folder.mkdir(exist_ok=True)

    def run(self, seed: int, first: int = 0) -> Path:
        """Another seed is another model, another `first` are other images."""
        order = np.arange(first, first + self.rows)
        return bench_compare.write(self.folder / f"run{seed}-{first}", seed, order, CLASSES)

    def logs(self) -> Path:
        logs = self.folder / "logs"
        if not logs.exists():
            bench_visualize.predboard("visualize", self.run(0), "--logdir", logs)
        return logs

    def rules(self) -> Path:
        place = self.folder / "rules.toml"
        place.write_text('[[rule]]\nmetric = "accuracy"\nmin = 0\n[[rule]]\nmetric = "auroc_macro"\nmin = 0\n')
        return place


def first_view(port: int) -> None:
    """What the tab asks for when it is opened, after the server has come up."""
    place = f"http://localhost:{port}/data/plugin/predboard"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{place}/runs", timeout=60).read()
            break
        except OSError:
            time.sleep(0.1)
    run = "run0-0"
    asked = [f"rows?run={run}&sort=loss&desc=1", f"confusion?run={run}", f"order?run={run}"]
    asked += [f"hist?run={run}&column={name}&bins=50" for name in ("confidence", "loss", "margin", "entropy")]

    def get(query: str) -> None:
        with urllib.request.urlopen(f"{place}/{query}", timeout=120) as response:
            response.read()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(get, asked))
    time.sleep(1)  # what it does in the background belongs to it


def words(name: str, inputs: Inputs) -> list[str | Path]:
    """The command, as a user gives it."""
    out = inputs.folder / "out"
    match name:
        case "infer":
            model = toy.model_file(inputs.folder / "model", classes=FEW_CLASSES)
            return [name, "--data", listed(inputs.folder, inputs.rows), "--model", model, "--out", out]
        case "import":
            return [name, text(inputs.folder, inputs.rows), "--scores", "probabilities", "--out", out]
        case "visualize":
            return [name, inputs.run(0), "--logdir", out]
        case "compare":
            return [name, inputs.run(0), inputs.run(1), "--logdir", out]
        case "gate":
            return [name, inputs.run(0), "--rules", inputs.rules()]
        case "combine":
            return [name, inputs.run(0), inputs.run(1), "--out", out]
        case "merge":
            return [name, inputs.run(0), inputs.run(0, inputs.rows), "--out", out]
        case "take":
            return [name, inputs.run(0), "--confidence", "0.5..", "--out", out]
        case "inspect":
            return [name, inputs.run(0)]
        case "rows":
            return [name, inputs.logs() / "run0-0"]
    raise ValueError(name)


COMMANDS = ("infer", "import", "visualize", "compare", "gate", "combine", "merge", "take", "inspect", "rows", "board")


def peak(name: str, inputs: Inputs) -> float:
    """MB of one command."""
    if name != "board":
        return bench_visualize.watched(words(name, inputs), inputs.folder / "out")[1]
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    board: list[str | Path] = ["board", "--logdir", inputs.logs(), "--port", str(port)]
    return bench_visualize.watched(board, inputs.folder / "out", lambda: first_view(port))[1]


def memory_table(folder: Path, report: Report) -> None:
    """Each command at each number of rows."""
    sizes = [report.size(rows) for rows in ROWS]
    print(f"| peak memory, MB | {' | '.join(f'{rows:,} rows' for rows in sizes)} |")
    print("|---|" + "---:|" * len(sizes))
    for name in COMMANDS:
        classes = FEW_CLASSES if name in ("infer", "import") else CLASSES
        peaks = [peak(name, Inputs(folder / f"memory{rows}", rows)) for rows in sizes]
        print(f"| {name}, {classes} classes | {' | '.join(f'{mb:,.0f}' for mb in peaks)} |", flush=True)
