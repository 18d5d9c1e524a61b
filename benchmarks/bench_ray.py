"""What is claimed of Ray, measured on a Ray of this machine with two processors.

make bench ARGS='ray many_parts'
"""

import itertools
import os
import time
import unittest.mock
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import Report
from predboard import infer, open_predictions
from predboard.config import InferConfig
from predboard.inference import dispatch
from predboard.parallel import ray_cluster
from predboard.parallel.ray_workers import RayWorkers
from predboard.parallel.scheduler import Finished, Progress, Ready, Scheduler
from predboard.storage import part_plan
from predboard.storage.part_plan import Task
from tests import toy


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def throughput(folder: Path, report: Report) -> None:
    """Two actors of one thread against two processes of one thread, on the same parts; their start does not count."""
    toy.pictures(folder / "mid", classes=10, each=report.size(400, 20), size=(300, 200))
    model = toy.model_file(folder / "model", classes=10)
    base: dict[str, Any] = {"workers": 1, "shard_size": 100, "preflight": 0}
    on_ray: dict[str, Any] = {"engine": "ray", "actors": 2, "cpus_per_actor": 1}

    def rate(**options: Any) -> float:
        out = folder / f"out{time.monotonic_ns()}"
        infer(InferConfig(str(folder / "mid"), model, out=out, **base, **options))
        parts = [file.part for file in open_predictions(out).step.parts]
        return sum(p.stop - p.start for p in parts) / (max(p.finished for p in parts) - min(p.started for p in parts))

    rates: dict[str, list[float]] = {"local": [], "ray": []}
    with toy.small_ray():
        for _ in range(report.turns):
            rates["local"].append(rate(device="cpu,cpu"))
            rates["ray"].append(rate(**on_ray))
    ratios = [on / local for on, local in zip(rates["ray"], rates["local"], strict=True)]
    report.ratios("two actors on Ray, their rate over that of two processes", ratios, at_least=0.9)


def many_parts(folder: Path, report: Report) -> None:
    """Parts of ten rows: time and driver's memory of the last tenth against the first, and going on with all there."""
    parts = report.size(10_000, 100)
    toy.pictures(folder / "few", classes=10, each=10, size=(8, 8))
    refs = [p.relative_to(folder).as_posix() for p in sorted((folder / "few").glob("*/*.png"))]
    (folder / "many.csv").write_text("path\n" + "".join(f"{refs[i % len(refs)]}\n" for i in range(parts * 10)))
    marks: list[tuple[float, float]] = []
    run = dispatch.dispatch

    def watched(job: Any, there: Any, modules: Any, tasks: Any, wrote: Any, say: Any) -> Any:
        rows = 0

        def heard(more: int, failed: int) -> None:
            nonlocal rows
            tenths, rows = rows // parts, rows + more
            if not marks or rows // parts != tenths:
                marks.append((time.perf_counter(), resident()))
            wrote(more, failed)

        return run(job, there, modules, tasks, heard, say)

    config = InferConfig(
        str(folder / "many.csv"),
        toy.model_file(folder / "model", classes=10),
        out=folder / "many",
        shard_size=10,
        preflight=0,
        engine="ray",
        actors=2,
        cpus_per_actor=1,
    )
    with toy.small_ray():
        with unittest.mock.patch("predboard.inference.dispatch.dispatch", watched):
            infer(config)
        began = time.perf_counter()
        assert infer(config).written == 0
        resumed = time.perf_counter() - began
    seconds = [b[0] - a[0] for a, b in itertools.pairwise(marks)]
    claim = f"{parts:,} parts of 10 rows, the last tenth over the first"
    report.figure(f"{claim}: seconds", seconds[-1] / seconds[0], "×")
    report.figure(f"{claim}: memory of the driver", marks[-1][1] / marks[1][1], "×", at_most=1.05)
    print(
        f"a part {1e3 * sum(seconds) / parts:.1f} ms, driver {marks[-1][1]:.0f} MB; all there already: {resumed:.0f} s"
    )


def nothing(_: Any, load_job: Callable[[], Any], receive: Callable[[], Any], send: Callable[[object], object]) -> None:
    """A worker that reads ahead two tasks and says of each that it is done."""
    load_job()
    hand: list[Task] = []
    more = True
    while more or hand:
        if more and len(hand) < 2:
            send(Ready(not hand))
            task = receive()
            more = task is not None or bool(hand)
            hand += [] if task is None else [task]
            if task is not None:
                continue
        if hand:
            send(Progress(1000, 0, hand.pop(0)))
    send(Finished({}))


def hundred_thousand(_: Path, report: Report) -> None:
    """The driver's memory over 100,000 parts that actors say to have written, without a row on disk."""
    parts = report.size(100_000, 1000)
    at: list[float] = []
    rows = 0

    def wrote(more: int, failed: int) -> None:
        nonlocal rows
        rows += more + failed
        if rows % (parts * 100) == 0:  # each tenth
            at.append(resident())

    tasks = part_plan.plan_tasks(
        {0: {part_range: part_range.ids for part_range in part_plan.plan_parts(parts * 1000, 1000)}}, 1
    )
    with toy.small_ray():
        host = RayWorkers(nothing, ray_cluster.ActorShape(2, 0, 1, 0), "cpu", None, None, print)
        crew: Scheduler[Task] = Scheduler(host, tasks, wrote, print, str, lambda task, _: (task.rows, task.rows))
        began = time.perf_counter()
        crew.run(2)
        seconds = time.perf_counter() - began
    assert rows == parts * 1000
    report.figure(f"driver's memory at {parts:,} parts, over a tenth of them", at[-1] / at[0], "×", at_most=1.05)
    refs = pa.array([f"region{i % 97:03d}/tile_{i:09d}.tif" for i in range(1_000_000)])
    print(
        f"driver {at[-1]:.0f} MB, {1e3 * seconds / parts:.2f} ms of it for each part; the list of images besides: "
        f"{refs.nbytes / len(refs) + 8 + 4:.0f} bytes for each image of {len(refs[0].as_py())} letters"
    )


BENCHES: Sequence[Callable[..., None]] = (throughput, many_parts, hundred_thousand)
