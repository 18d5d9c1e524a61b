"""Measures the claims about the speed and memory of combining runs; see benchmarks/bench.py, which runs it."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import bench_visualize
from predboard.composition.combine import combine
from predboard.config import CombineConfig
from predboard.predictions.schema import Run
from predboard.storage.parts import PartWriter, read_batches, row_group_size
from predboard.storage.runs import open_run, part_path
from tests import toy

ROWS, CLASSES, RUNS = 50_000, 1000, 3


def write(folder: Path, seed: int, order: NDArray[np.int64]) -> Path:
    """A run without source pictures, whose images come in this order."""
    if folder.exists():
        return folder
    run = Run(classes=tuple(f"class{i}" for i in range(CLASSES)), model="bench")
    label = order * 7919 % CLASSES
    logits = np.random.default_rng(seed).normal(size=(ROWS, CLASSES)).astype(np.float32)
    logits[np.arange(ROWS), label] += 4
    names = "{:06d}.png".format
    toy.write_run(folder, logits, label, run, 2**14, row_group_size(CLASSES), name=lambda i: names(order[i]))
    return folder


def copy(folder: Path, out: Path) -> None:
    """Copy the rows of a run: what writing as many rows takes at least."""
    (step,) = open_run(folder)
    for number, file in enumerate(step.parts):
        writer = PartWriter(part_path(out, 0, number), file.run)
        for rows in read_batches(file):
            writer.write(rows)
        writer.publish(file.part)


def combined(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """Three runs of the same images, in one order and in another."""
    order = np.arange(ROWS)
    runs = [write(folder / f"c{seed}", seed, order) for seed in range(RUNS)]
    mixed = [*runs[:2], write(folder / "mixed", 2, np.random.default_rng(2).permutation(ROWS))]
    for name, inputs in (("one order", runs), ("shuffled", mixed)):
        seconds = []
        out = folder / "out"
        for action in (
            lambda: copy(runs[0], out),  # noqa: B023  at once
            lambda: combine(CombineConfig(tuple(inputs), out)),  # noqa: B023  at once
        ):
            shutil.rmtree(out, ignore_errors=True)
            began = time.process_time()  # other programs make it no longer
            action()
            seconds.append(time.process_time() - began)
        line(
            f"combining {RUNS} × {ROWS:,} × {CLASSES}, {name}: rate over copying one run, by processor time",
            seconds[0] / seconds[1],
            "≥ 0.5",
        )
        shutil.rmtree(folder / "out", ignore_errors=True)
        took, peak = bench_visualize.watched(["combine", *map(str, inputs)], folder / "out", "--out")
        line(f"combining {RUNS} × {ROWS:,} × {CLASSES}, {name}, in {took:.0f} s: peak, GB", peak / 1e3, "below 1.5")


BENCHES = (combined,)
