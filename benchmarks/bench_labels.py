"""Measures the claims about runs of many labels an image; see benchmarks/bench.py, which runs it."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import bench_visualize
from predboard import panels
from predboard.evaluation.measure import measure_part
from predboard.metrics.multi_label import label_calibration
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.metrics.multi_label.label_pairs import LabelPairs
from predboard.metrics.multi_label.label_state import COLUMNS as LABEL_STATE_COLUMNS
from predboard.metrics.multi_label.label_state import LabelState
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.storage.parts import read_batches
from predboard.storage.runs import open_run
from tests import label_sets, toy

CLASSES, LABELS, SHARD = 1000, 3.5, 8192
ROWS = (49_152, 98_304)


def write(folder: Path, rows: int) -> Path:
    """A run of rows that have some labels each, of very different frequency."""
    if not folder.exists():
        run = Run(tuple(f"label{i}" for i in range(CLASSES)), "bench", task=MULTI_LABEL)
        logits, labels = label_sets.table(rows, CLASSES, 0, LABELS)
        toy.write_run(folder, logits, toy.multi_labels(labels), run, shard_size=SHARD)
    return folder


def states(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """The states of all metrics, and all that is measured, against reading the logits; by processor time."""
    (step,) = open_run(write(folder / "labels", ROWS[0]))
    chosen = panels.choose((), MULTI_LABEL)
    columns = LABEL_STATE_COLUMNS | label_calibration.COLUMNS
    seconds: dict[str, list[float]] = {"read": [], "states": [], "all": []}

    def timed(name: str, action: Callable[[], object]) -> None:
        began = time.process_time()  # other programs make it no longer
        action()
        seconds[name].append(time.process_time() - began)

    for part in step.parts:
        timed("read", lambda: [rows.logits.sum() for rows in read_batches(part, ("logits",))])  # noqa: B023  at once
        for rows in read_batches(part, columns):
            assert isinstance(rows, MultiLabelPredictions)
            _ = rows.labelled.logits, rows.labelled.labels
            kinds = (LabelState, LabelPairs, LabelCalibration)
            timed("states", lambda: [kind.measure(part.run, rows) for kind in kinds])  # noqa: B023  at once
        timed("all", lambda: measure_part(part, chosen))  # noqa: B023  at once
    read, of_states, everything = (float(np.median(times)) for times in seconds.values())
    words = f"of {CLASSES:,} labels: times reading their logits, by processor time"
    line(f"states of all metrics {words}", of_states / read, "≤ 3")
    line(f"all panels, with reading and checks, {words}", everything / read, "≤ 6")


def memory(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """Memory of visualize, of a run and of one twice as long: it grows with the labels and not with the rows."""
    for rows in ROWS:
        run = write(folder / ("labels" if rows == ROWS[0] else "labels2"), rows)
        took, peak = bench_visualize.watched(["visualize", str(run)], folder / "logs", "--logdir")
        line(f"visualize of {rows:,} × {CLASSES:,} labels, in {took:.0f} s: peak, GB", peak / 1e3, "below 1.5")


BENCHES = (states, memory)
