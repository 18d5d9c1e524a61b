"""What is claimed of the tab Predictions: the server's part of a click, memory, and TensorBoard's start."""

import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from werkzeug.test import Client

from benchmarks.measuring import Cost, Report, take
from predboard.predictions.arrow import as_arrow
from predboard.predictions.derived_rows import DerivedRows, derived_rows_schema
from predboard.predictions.schema import Run
from predboard.storage.rows import DerivedRowsWriter
from predboard.tab.plugin import PredictionsPlugin
from tests import toy

ROWS, CLASSES = 1_000_000, 1000
REPEATS = 30


def write_rows(folder: Path, rows: int = ROWS, classes: int = CLASSES, seed: int = 0, steps: int = 1) -> Path:
    """Logs of a run with a column of five countries: three of four right. Images and labels are those of every seed."""
    if (folder / "rows.parquet").exists():
        return folder
    folder.mkdir(parents=True)
    run = Run(classes=tuple(f"class{i:04d}" for i in range(classes)), model="bench")
    country = pa.field("country", pa.dictionary(pa.int32(), pa.string()))
    schema = derived_rows_schema(run, pa.schema([country]))
    random, names = np.random.default_rng(seed), pa.array(run.classes)
    keys = np.random.default_rng(1).permutation(np.arange(rows, dtype=np.int64) * 2**40)
    labels = np.random.default_rng(2).integers(0, classes, rows)
    writer = DerivedRowsWriter(folder / "rows.parquet", {"classes": run.classes})
    for step, start in itertools.product(range(steps), range(0, rows, 2**14)):
        n = min(2**14, rows - start)
        label = labels[start : start + n]
        predicted = np.where(random.random(n) < 0.75, label, (label + random.geometric(0.1, n)) % classes)
        confidence = random.beta(5, 1, n).astype(np.float32)
        top = (predicted[:, None] + np.arange(5)) % classes
        numbers: dict[str, Any] = {
            "step": np.full(n, step),
            "id": np.arange(start, start + n),
            "key": keys[start : start + n],
            "label": label,
            "predicted": predicted,
            "confidence": confidence,
            "loss": -np.log(np.where(label == predicted, confidence, (1 - confidence) / 2)),
            "margin": confidence / 2,
            "entropy": 1 - confidence,
            "digest": keys[start : start + n] + 1,
            "rank": 1 + (label != predicted),
            **dict.fromkeys(("width", "height", "bytes"), np.full(n, 500)),
            **dict.fromkeys(("brightness", "contrast"), random.random(n)),
        }
        columns = []
        for field in schema:
            if field.name in numbers:
                columns.append(as_arrow(numbers[field.name], field.type))
            elif field.name in ("label_name", "predicted_name"):
                index = as_arrow(label if field.name == "label_name" else predicted, pa.int32())
                columns.append(pa.DictionaryArray.from_arrays(index, names))
            elif field.name == "country":
                index = as_arrow(random.integers(0, 5, n), pa.int32())
                columns.append(pa.DictionaryArray.from_arrays(index, pa.array(["NO", "SE", "FI", "DK", "IS"])))
            elif field.name == "image":
                refs = [f"val/n{label[i]:08d}/ILSVRC2012_val_{start + i:08d}.JPEG" for i in range(n)]
                columns.append(pa.array(refs, pa.string()))
            elif field.name.startswith("top_"):
                flat = top if field.name == "top_class" else np.full((n, 5), 0.2)
                values = as_arrow(flat.reshape(-1), field.type.value_type)
                columns.append(pa.FixedSizeListArray.from_arrays(values, type=field.type))
            else:
                columns.append(pa.nulls(n, field.type))
        writer.write(DerivedRows(pa.RecordBatch.from_arrays(columns, schema=schema)))
    writer.close()
    return folder


class Requests:
    """The routes of the tab, asked without a socket."""

    def __init__(self, logdir: Path) -> None:
        self.plugin = PredictionsPlugin(SimpleNamespace(logdir=str(logdir)))
        self._apps = self.plugin.get_plugin_apps()

    def get(self, route: str, **query: object) -> bytes:
        response = Client(self._apps[route]).get(route, query_string=query, headers={"Accept-Encoding": "gzip"})
        assert response.status_code == 200, response.text
        return bytes(response.data)


def milliseconds(action: Callable[[int], Any]) -> tuple[float, float, float]:
    """Median and 95th percentile of `REPEATS` calls, each with another number, and the median of processor time."""
    taken, worked = [], []
    for number in range(REPEATS):
        began, before = time.perf_counter(), time.process_time()
        action(number)
        taken.append((time.perf_counter() - began) * 1e3)
        worked.append((time.process_time() - before) * 1e3)
    return float(np.median(taken)), float(np.quantile(taken, 0.95)), float(np.median(worked))


def clicks(folder: Path, report: Report) -> None:
    """The server's part of what a user does, at a million rows and a thousand classes."""
    rows = report.size(ROWS)
    write_rows(folder / "logs" / "net", rows)
    write_rows(folder / "logs" / "old", rows, seed=3)
    tab = Requests(folder / "logs")
    started = time.perf_counter()
    tab.get("/runs")
    tab.get("/confusion", run="net")
    tab.get("/rows", run="net", right=0, sort="loss", desc=1)
    print(f"first view, cold: {time.perf_counter() - started:.2f} s")
    first: dict[str, Callable[[int], Any]] = {
        "is_active": lambda _: tab.plugin.is_active(),
        "click on a cell: its rows, by loss": lambda i: tab.get(
            "/rows", run="net", true=i, pred=(i + 1) % CLASSES, sort="loss", desc=1
        ),
        "click on a row: its rows, by loss": lambda i: tab.get("/rows", run="net", true=i, sort="loss", desc=1),
        "all mistakes by loss": lambda i: tab.get("/rows", run="net", right=0, sort="loss", desc=1, offset=i),
        "matrix of a class filter": lambda i: tab.get("/confusion", run="net", true=i),
        "matrix of a range": lambda i: tab.get("/confusion", run="net", confidence=f"{0.5 + i / 100}.."),
        "rows of a range": lambda i: tab.get("/rows", run="net", confidence=f"{0.5 + i / 100}..", sort="loss", desc=1),
        "histogram of a range": lambda i: tab.get("/hist", run="net", column="loss", confidence=f"{0.5 + i / 100}.."),
        "curve of a class": lambda i: tab.get("/curve", run="net", **{"class": i}),
        "slice": lambda i: tab.get("/rows", run="net", **{"s.country": "NO", "true": i}),
        "text in a million names": lambda i: tab.get("/rows", run="net", q=f"val_{i:05d}1"),
        "text in the rows of a class": lambda i: tab.get("/rows", run="net", true=i, q="val_0000"),
        "fixed, after the first join": lambda i: tab.get("/rows", run="net", other="old@0", kind="fixed", offset=i),
        "broken of a class": lambda i: tab.get("/rows", run="net", other="old@0", kind="broken", true=i),
        "one image": lambda i: tab.get("/row", run="net", id=i * rows // 1000),
    }
    for name, action in first.items():
        began = time.perf_counter()
        action(REPEATS + 1)
        cold = (time.perf_counter() - began) * 1e3
        median, worst, worked = milliseconds(action)
        figures = f"{median:7.1f} ms, 95 % {worst:7.1f}, processor {worked:7.1f}, first {cold:7.1f}"
        print(f"tab, {rows:,} × {CLASSES}: {name:<36} {figures}", flush=True)


FIRST_VIEW = """
import sys, threading
from pathlib import Path
from benchmarks.bench_tab import Requests, resident
from benchmarks.measuring import timed
import predboard.tab.routes
before = resident()
def view():
    global tab
    tab = Requests(Path(sys.argv[1]))
    tab.get("/runs")
    first = [("/rows", dict(sort="loss", desc=1)), ("/confusion", {}), ("/order", {})]
    first += [("/hist", dict(column=column, bins=50)) for column in ("confidence", "loss", "margin", "entropy")]
    threads = [threading.Thread(target=tab.get, args=(route,), kwargs=dict(run="net", **more)) for route, more in first]
    for thread in threads:
        thread.start()
    tab.plugin.warm()
    for thread in threads:
        thread.join()
cost = timed(view)
print(cost.wall, cost.processor, resident() - before)
"""

PLAIN_READ = """
import sys
import numpy as np
import pyarrow.parquet as pq
from benchmarks.measuring import timed
names = ["key", "label", "predicted", "confidence", "loss", "margin", "entropy"]
def read():
    rows = pq.read_table(sys.argv[1] + "/net/rows.parquet", columns=names)
    np.argsort(-rows["loss"].to_numpy(), kind="stable")
cost = timed(read)
print(cost.wall, cost.processor)
"""


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def first_view(folder: Path, report: Report) -> None:
    """Processor time of the server's part of the first view, against reading its columns and sorting one of them."""
    write_rows(folder / "logs" / "net", rows := report.size(ROWS))
    megabytes = list[float]()

    def printed(script: str) -> Cost:
        command = [sys.executable, "-c", script, str(folder / "logs")]
        done = subprocess.run(command, cwd=toy.ROOT, capture_output=True, text=True, check=True)
        wall, processor, *memory = map(float, done.stdout.split())
        megabytes.extend(memory)
        return Cost(wall, processor)

    costs = take({"view": lambda: printed(FIRST_VIEW), "read": lambda: printed(PLAIN_READ)}, report.turns)
    claim = f"tab, {rows:,} × {CLASSES}: the server's part of the first view"
    report.compare(f"{claim}, over a plain read of its columns and a sort", costs["view"], costs["read"], at_most=1.5)
    report.figure(f"{claim}: memory beside the server's", float(np.median(megabytes)), "MB", at_most=180)


BENCHES = (first_view, clicks)
