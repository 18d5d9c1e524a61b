"""Measures the claims about runs of many labels an image; see benchmarks/bench.py, which runs it."""

from pathlib import Path

from benchmarks import bench_visualize
from benchmarks.measuring import Cost, Report, take, timed
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


def label_states(folder: Path, report: Report) -> None:
    """The states of all metrics, and all that is measured, against reading the logits."""
    rows = report.size(ROWS[0])
    (step,) = open_run(write(folder / f"labels{rows}", rows))
    chosen = panels.choose((), MULTI_LABEL)
    columns = LABEL_STATE_COLUMNS | label_calibration.COLUMNS
    kinds = (LabelState, LabelPairs, LabelCalibration)

    def read() -> None:
        for part in step.parts:
            for batch in read_batches(part, ("logits",)):
                batch.logits.sum()

    def states() -> Cost:
        costs = []
        for part in step.parts:
            for batch in read_batches(part, columns):
                assert isinstance(batch, MultiLabelPredictions)
                _ = batch.labelled.logits, batch.labelled.labels
                costs.append(timed(lambda: [kind.measure(part.run, batch) for kind in kinds]))  # noqa: B023  at once
        return Cost.total(costs)

    def everything() -> None:
        for part in step.parts:
            measure_part(part, chosen)

    costs = take({"states": states, "read": lambda: timed(read), "all": lambda: timed(everything)}, report.turns)
    words = f"{rows:,} rows of {CLASSES:,} labels, over reading their logits"
    report.compare(f"states of all metrics, {words}", costs["states"], costs["read"], at_most=3)
    report.compare(f"all panels, with reading and checks, {words}", costs["all"], costs["read"], at_most=6)


def label_memory(folder: Path, report: Report) -> None:
    """Memory of visualize, of a run and of one twice as long: it grows with the labels and not with the rows."""
    for rows in map(report.size, ROWS):
        run = write(folder / f"labels{rows}", rows)
        took, peak = bench_visualize.watched(["visualize", run, "--logdir", folder / "logs"], folder / "logs")
        claim = f"visualize of {rows:,} × {CLASSES:,} labels, in {took:.0f} s: peak memory"
        report.figure(claim, peak / 1e3, "GB", at_most=1.5)


BENCHES = (label_states, label_memory)
