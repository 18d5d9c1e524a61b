"""What is claimed of stage two's speed and memory; see benchmarks/bench.py, which runs it."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset
from PIL import Image

from benchmarks.measuring import Cost, Report, differences, run, take, timed
from predboard import panels
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.evaluation.cache import StateCache
from predboard.evaluation.measure import measure_run, measure_steps
from predboard.evaluation.state_versions import state_versions
from predboard.parallel.executor import Executor
from predboard.parallel.pool import ProcessPool
from predboard.predictions.schema import Part, Run
from predboard.predictions.table import Predictions
from predboard.storage import part_plan
from predboard.storage.parts import PartWriter
from predboard.storage.runs import Step, open_run, part_path, step_folder
from predboard.summaries import EncodedImages
from predboard.visualization import events
from tests import toy


def write(folder: Path, rows: int, classes: int) -> Path:
    """A run without source pictures, as a real model might give it: three of four right, few of the classes likely."""
    if folder.exists():
        return folder
    run = Run(classes=tuple(f"class{i:04d}" for i in range(classes)), model="bench")
    random = np.random.default_rng(0)
    for part_range in part_plan.plan_parts(rows, run.shard_size):
        n = len(part_range)
        logits = random.normal(scale=2, size=(n, classes)).astype(np.float32)
        label = random.integers(0, classes, n)
        logits[np.arange(n), label] += random.normal(7, 4, n).astype(np.float32)
        batch = toy.predictions(run, logits, label, part_range.start).batch
        at = batch.schema.get_field_index("digest")
        digests = pyarrow.array(np.arange(part_range.start, part_range.stop), pyarrow.int64())
        writer = PartWriter(part_path(folder, 0, part_range.index), run)
        rows_of_part = Predictions(batch.set_column(at, batch.schema.field(at), digests))
        writer.write(rows_of_part)
        manifest_digest = toy.manifest_digest(rows_of_part)
        writer.publish(
            Part(part_range.start, part_range.stop, manifest_digest, rows, "", started=1.7e9, finished=1.7e9)
        )
    return folder


def read_logits(folder: Path) -> None:
    """What any reader must do at least: the column of logits, with Arrow's own threads."""
    for batch in pyarrow.dataset.dataset(folder, format="parquet").to_batches(columns=["logits"]):
        batch.num_rows  # noqa: B018  read, and let go


def environment() -> dict[str, str]:
    """For a command of a user: its modules compiled, as an installed package has them, wherever this runs."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**own, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "predboard-bench-bytecode")}


def predboard(*words: str | Path) -> Cost:
    """The whole command as a user gives it, the start of Python and its imports included."""
    return run([sys.executable, "-m", "predboard", *words], environment(), toy.ROOT)


def run_of(folder: Path, rows: int) -> Path:
    """A run of 1,000 classes, which several benches measure on."""
    return write(folder / f"run{rows}", rows, 1000)


def command(folder: Path, again: bool = False) -> Cost:
    """Drawing; `again`, with logs there."""
    logs = folder.with_name(f"{folder.name}-logs")
    if not again:
        shutil.rmtree(logs, ignore_errors=True)
    return predboard("visualize", folder, "--logdir", logs)


def resident(folder: Path) -> tuple[float, float]:
    """Seconds and peak memory of drawing; see `watched`."""
    logs = folder.with_name(f"{folder.name}-logs")
    return watched(["visualize", folder, "--logdir", logs], logs)


def watched(
    arguments: Sequence[str | Path], out: Path, meanwhile: Callable[[], object] | None = None
) -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of a whole command, all its processes together, looked up in /proc.

    What the system counts by itself (ru_maxrss) begins with the memory of whoever starts a process. `out` is removed
    before. A server, which does not end by itself, is ended after `meanwhile`.
    """
    shutil.rmtree(out, ignore_errors=True)
    began, peak = time.perf_counter(), 0.0
    words, none = [sys.executable, "-m", "predboard", *map(str, arguments)], subprocess.DEVNULL
    with (
        subprocess.Popen(words, cwd=toy.ROOT, env=environment(), stdout=none, stderr=none) as process,
        ThreadPoolExecutor(1) as thread,
    ):
        done = thread.submit(meanwhile) if meanwhile else None
        while process.poll() is None:
            peak = max(peak, sum(map(_resident, _descendants(process.pid))))
            time.sleep(0.01)
            if done and done.done():
                process.terminate()
                process.wait()
                done.result()
        if process.returncode and not done:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - began, peak


def _descendants(pid: int) -> list[int]:
    """A process and all that it has led to."""
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has just ended
        for thread in list(Path(f"/proc/{pid}/task").iterdir()):
            children += map(int, (thread / "children").read_text().split())
    return [pid, *(process for child in children for process in _descendants(child))]


def _resident(pid: int) -> float:
    with contextlib.suppress(OSError):  # it has just ended
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1e3 if found else 0.0
    return 0.0


def slope(folder: Path, report: Report) -> None:
    """More rows, and the whole command: against merely reading the logits."""
    few, many = run_of(folder, few_rows := report.size(50_000)), run_of(folder, many_rows := report.size(200_000))
    costs = take(
        {
            "read few": lambda: timed(lambda: read_logits(few)),
            "few": lambda: command(few),
            "read many": lambda: timed(lambda: read_logits(many)),
            "many": lambda: command(many),
        },
        report.turns,
    )
    more, read = (differences(costs[f"{side}many"], costs[f"{side}few"]) for side in ("", "read "))
    claim = f"visualize, {few_rows:,} to {many_rows:,} rows × 1,000, over reading"
    report.compare(claim, more, read, at_most=4)
    claim = f"visualize, the whole command, {few_rows:,} × 1,000, over reading"
    report.compare(claim, costs["few"], costs["read few"], at_most=10)


def steps(folder: Path, report: Report) -> None:
    """Five steps of a small run, as after a training, with small pictures as EuroSAT has them and without any; and the
    same commands again, with nothing new.
    """
    rows = report.size(5400)
    classes, name = tuple(f"class{k}" for k in range(10)), "{:06d}.jpg".format
    pictures = folder / "small-pictures"
    toy.photographs(pictures, [name(i) for i in range(rows)], (64, 64))
    runs = {"with pictures": folder / "steps-pictures", "whose pictures are missing": folder / "steps"}
    sides: dict[str, Callable[[], Cost]] = {}
    for (what, place), root in zip(runs.items(), (pictures, folder / "no-pictures"), strict=True):
        run = Run(classes, "bench", root=str(root))
        for step in range(5):
            logits, label = toy.table(run, rows)
            logits[np.arange(len(label)), label] += step / 2
            toy.write_run(place, logits, label, replace(run, step=step), name=name)
        logs = folder / f"{place.name}-again"
        predboard("visualize", place, "--logdir", logs)
        sides[what] = functools.partial(command, place)
        sides[f"{what} again"] = functools.partial(predboard, "visualize", place, "--logdir", logs)
    costs = take(sides, report.turns)
    for what in runs:
        report.seconds(f"visualize, five steps of {rows:,} × 10 {what}", costs[what], at_most=2.5)
        report.seconds("the same again, with nothing new", costs[f"{what} again"], at_most=0.3)


def memory(folder: Path, report: Report) -> None:
    """Ten times the rows: peak memory. Fewer rows are read without processes, which need half of it."""
    few, many = report.size(50_000), report.size(500_000)
    (_, small), (_, large) = resident(run_of(folder, few)), resident(run_of(folder, many))
    claim = f"visualize, {many:,} over {few:,} rows × 1,000: peak memory ({large:.0f} and {small:.0f} MB)"
    report.figure(claim, large / small, "×", at_most=1.1)


def rerun(folder: Path, report: Report) -> None:
    """A hundred parts, and then one more: what is kept of the hundred is not read again."""
    parts = report.size(100, 2)
    (whole,) = open_run(run_of(folder, (parts + 1) * 4096))
    few, chosen = replace(whole, parts=whole.parts[:parts]), panels.choose(())
    states, kept = folder / "states", folder / "kept"

    def passed(step: Step) -> None:
        with ProcessPool(2) as pool:
            measure_run(
                (step,),
                chosen,
                Executor(pool),
                folder / "rows",
                keep_rows=True,
                cache=StateCache(states, state_versions(chosen)),
            )

    def first() -> Cost:
        shutil.rmtree(states, ignore_errors=True)
        cost = timed(lambda: passed(few))
        replaced(states, kept)
        return cost

    def again() -> Cost:
        replaced(kept, states)
        return timed(lambda: passed(whole))

    costs = take({"first": first, "again": again}, report.turns)
    claim = f"{parts + 1} parts of which {parts} are kept, over these: states, derived rows, second look"
    report.compare(claim, costs["again"], costs["first"], at_most=0.1)

    many, one = (folder / name for name in ("of-hundred", "of-one"))
    logs = folder / "of-hundred-logs"
    shutil.rmtree(many, ignore_errors=True)
    link(whole, many, range(parts))
    link(whole, one, range(1))

    def hundred() -> Cost:
        part_path(many, 0, parts).unlink(missing_ok=True)
        cost = command(many)
        replaced(logs, kept)
        return cost

    def one_more() -> Cost:
        replaced(kept, logs)
        link(whole, many, range(parts, parts + 1))
        return command(many, again=True)

    costs = take({"one": lambda: command(one), "hundred": hundred, "one more": one_more}, report.turns)
    rest = differences(costs["one more"], costs["one"])
    claim = f"visualize, {parts + 1} parts of which {parts} are kept, less the command of one part, over {parts} parts"
    report.compare(claim, rest, costs["hundred"], at_most=0.1)


def replaced(source: Path, place: Path) -> None:
    """What the last run left, as it was before the next one."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)


def link(step: Step, run: Path, parts: range) -> None:
    """Some parts of a step as another run's."""
    step_folder(run, 0).mkdir(parents=True, exist_ok=True)
    for index in parts:
        place = part_path(run, 0, index)
        place.unlink(missing_ok=True)
        place.hardlink_to(toy.local(step.parts[index].path))


def huge(folder: Path, report: Report) -> None:
    """A million rows of a thousand classes, 4 GB of logits. Only when it is named: it takes minutes."""
    took, peak = resident(run_of(folder, rows := report.size(1_000_000)))
    report.figure(f"visualize, {rows:,} rows × 1,000, in {took:.0f} s: peak memory", peak / 1e3, "GB", at_most=1.5)


def two(folder: Path, report: Report) -> None:
    """The pass over the rows alone, by one process and by two, their start included."""
    (step,) = open_run(run_of(folder, rows := report.size(200_000)))
    chosen = panels.choose(())

    def passed(processes: int) -> None:
        with ProcessPool(processes) as pool:
            measure_steps((step,), chosen, Executor(pool))

    costs = take({"two": lambda: timed(lambda: passed(2)), "one": lambda: timed(lambda: passed(1))}, report.turns)
    claim = f"the pass over {rows:,} rows × 1,000 by two processes, faster than by one"
    faster = [one.wall / two.wall for one, two in zip(costs["one"], costs["two"], strict=True)]
    report.ratios(claim, faster, at_least=1.4)  # by the clock alone: two processes do no less work


def tiles(folder: Path, report: Report) -> None:
    """Pictures into an event file, encoded as JPEG before, against SummaryWriter.add_image."""
    from torch.utils.tensorboard import SummaryWriter

    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((WIDTH_PX // 8, HEIGHT_PX // 8)).resize((350, 215))
    smooth, encoded = np.asarray(picture), events.encode_jpeg(picture)

    def ours() -> None:
        with events.EventWriter(folder / "ours", 1.7e9) as writer:
            for i in range(100):
                writer.write(0, 1.7e9, EncodedImages(f"tiles/{i}", WIDTH_PX, HEIGHT_PX, (encoded,) * 50))

    def theirs() -> None:
        with SummaryWriter(str(folder / "theirs")) as writer:
            for i in range(50):
                writer.add_image(f"tile/{i}", smooth, dataformats="HWC")

    costs = take({"ours": lambda: timed(ours), "theirs": lambda: timed(theirs)}, report.turns)
    ours_each, theirs_each = ([cost / n for cost in costs[side]] for side, n in (("ours", 5000), ("theirs", 50)))
    report.compare("a JPEG tile into an event file, faster than add_image", ours_each, theirs_each, at_least=100)


BENCHES = (slope, steps, memory, two, tiles)
NAMED = (rerun, huge)
"""These take minutes."""
