"""What is claimed of the speed and memory of comparisons; see benchmarks/bench.py, which runs it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

import predboard
from benchmarks import bench_visualize
from benchmarks.measuring import Cost, Report, take, timed
from predboard.comparison.changes import COLUMNS
from predboard.comparison.paired_counts import NEW_COLUMNS, OLD_COLUMNS
from predboard.predictions.schema import Part, Run, hash_refs
from predboard.predictions.table import Predictions
from predboard.storage import part_plan
from predboard.storage.parts import PartWriter, read_batches
from predboard.storage.runs import open_run, part_path
from tests import toy

ROWS, CLASSES = 1_000_000, 10


def write(
    folder: Path,
    seed: int,
    order: np.ndarray[Any, Any],
    classes: int = CLASSES,
) -> Path:
    """A run without source pictures. Another seed is another model of the same images, which changes one prediction in
    six, as ResNet-56 does those of ResNet-20; `order` is that of the images.
    """
    if folder.exists():
        return folder
    run = Run(classes=tuple(f"class{i}" for i in range(classes)), model="bench", shard_size=2**16)
    random = np.random.default_rng(seed)
    for part_range in part_plan.plan_parts(len(order), run.shard_size):
        n = len(part_range)
        at = order[part_range.start : part_range.stop]
        label = at * 7919 % classes
        logits = (at[:, None] * np.arange(101, 101 + classes) % 997 / 997 * 8).astype(np.float32)
        logits[np.arange(n), label] += 5
        logits += random.normal(scale=0.5, size=(n, classes)).astype(np.float32)
        batch = toy.predictions(run, logits, label, part_range.start).batch
        names = [f"{i:06d}.png" for i in at.tolist()]
        bright = (at * 31 % 9973 / 9973).astype(np.float32)
        for name, values in (
            ("image", pyarrow.array(names)),
            ("key", pyarrow.array(hash_refs(names))),
            ("digest", pyarrow.array(at)),
            ("bytes", pyarrow.array(2000 + at * 17 % 3001)),
            ("brightness", pyarrow.array(bright)),
            ("contrast", pyarrow.array(bright / 2)),
        ):
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, batch.schema.field(place), values)
        writer = PartWriter(part_path(folder, 0, part_range.index), run)
        rows = Predictions(batch)
        writer.write(rows)
        manifest = toy.manifest_digest(rows)
        writer.publish(Part(part_range.start, part_range.stop, manifest, len(order), "", started=1.7e9, finished=1.7e9))
    return folder


def read(*folders: Path) -> None:
    """What a comparison must read at least: its columns of both runs."""
    for folder, columns in zip(folders, (OLD_COLUMNS, NEW_COLUMNS), strict=True):
        (step,) = open_run(folder)
        for part in step.parts:
            for batch in read_batches(part, columns | COLUMNS):
                len(batch)


def compare(folder: Path, report: Report) -> None:
    """Two runs of the same images, in one order and in two."""
    order = np.arange(rows := report.size(ROWS))
    old, new = write(folder / "old", 0, order), write(folder / "new", 1, order)
    shuffled = write(folder / "shuffled", 1, np.random.default_rng(2).permutation(order))
    logs = folder / "logs"

    def compared(other: Path) -> Cost:
        shutil.rmtree(logs, ignore_errors=True)
        return timed(lambda: predboard.compare(old, other, logdir=logs))

    for name, other in (("one order", new), ("shuffled", shuffled)):
        actions = {
            "compared": lambda: compared(other),  # noqa: B023  at once
            "read": lambda: timed(lambda: read(old, other)),  # noqa: B023  at once
        }
        costs = take(actions, report.turns)
        claim = f"comparing 2 × {rows:,} × {CLASSES}, {name}"
        report.compare(f"{claim}, over reading", costs["compared"], costs["read"], at_most=4)
        took, peak = bench_visualize.watched(["compare", old, other, "--logdir", logs], logs)
        report.figure(f"{claim}, in {took:.0f} s: peak memory", peak / 1e3, "GB", at_most=1)


BENCHES = (compare,)
