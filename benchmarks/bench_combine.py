"""Measures the claims about the speed and memory of combining runs; see benchmarks/bench.py, which runs it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import bench_visualize
from benchmarks.measuring import Cost, Report, take, timed
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
    logits = np.random.default_rng(seed).normal(size=(len(order), CLASSES)).astype(np.float32)
    logits[np.arange(len(order)), label] += 4
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


def combined(folder: Path, report: Report) -> None:
    """Three runs of the same images, in one order and in another."""
    order = np.arange(rows := report.size(ROWS))
    runs = [write(folder / f"c{seed}", seed, order) for seed in range(RUNS)]
    mixed = [*runs[:2], write(folder / "mixed", 2, np.random.default_rng(2).permutation(rows))]
    out = folder / "out"

    def anew(action: Callable[[], object]) -> Cost:
        shutil.rmtree(out, ignore_errors=True)
        return timed(action)

    for name, inputs in (("one order", runs), ("shuffled", mixed)):
        config = CombineConfig(tuple(inputs), out)
        actions = {
            "combined": lambda: anew(lambda: combine(config)),  # noqa: B023  at once
            "copied": lambda: anew(lambda: copy(runs[0], out)),
        }
        costs = take(actions, report.turns)
        claim = f"combining {RUNS} × {rows:,} × {CLASSES}, {name}"
        report.compare(f"{claim}, over copying one run", costs["combined"], costs["copied"], at_most=2)
        shutil.rmtree(out, ignore_errors=True)
        took, peak = bench_visualize.watched(["combine", *inputs, "--out", out], out)
        report.figure(f"{claim}, in {took:.0f} s: peak memory", peak / 1e3, "GB", at_most=1.5)


BENCHES = (combined,)
