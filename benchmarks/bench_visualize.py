"""What is claimed of stage two's speed and memory; see tests/bench.py, which runs it."""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import torch
from PIL import Image

from predboard import VisualizeConfig, panels, visualize
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
from predboard.storage.runs import Step, open_predictions, open_run, part_path, step_folder
from predboard.summaries import EncodedImages
from predboard.visualization import events
from tests import toy

TURNS = 3


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


def seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def medians(*actions: Callable[[], Any]) -> list[float]:
    """Median seconds of each; they take turns, so that a busy moment of the machine meets all of them."""
    taken = [[seconds(action) for action in actions] for _ in range(TURNS)]
    return np.median(taken, axis=0).tolist()  # type: ignore[no-any-return]  # a list of floats


def read_logits(folder: Path) -> None:
    """What any reader must do at least: the column of logits, with Arrow's own threads."""
    for batch in pyarrow.dataset.dataset(folder, format="parquet").to_batches(columns=["logits"]):
        batch.num_rows  # noqa: B018  read, and let go


def begun(*words: str | Path) -> "subprocess.Popen[bytes]":
    """A command of a user: with its modules compiled, as an installed package has them, wherever this runs."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "predboard-bench-bytecode")
    line = [sys.executable, "-m", "predboard", *map(str, words)]
    return subprocess.Popen(line, cwd=toy.ROOT, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def command(folder: Path, again: bool = False) -> None:
    """The whole command as a user gives it, the start of Python and its imports included; `again`, with logs there."""
    logs = folder.with_name(f"{folder.name}-logs")
    if not again:
        shutil.rmtree(logs, ignore_errors=True)
    with begun("visualize", folder, "--logdir", logs) as process:
        assert process.wait() == 0


def resident(folder: Path) -> tuple[float, float]:
    """Seconds and peak memory of drawing; see `watched`."""
    return watched(["visualize", str(folder)], folder.with_name(f"{folder.name}-logs"))


def watched(arguments: list[str], logs: Path, flag: str = "--logdir") -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of a whole command, all its processes together, looked up in /proc.

    What the system counts by itself (ru_maxrss) begins with the memory of whoever starts a process.
    """
    shutil.rmtree(logs, ignore_errors=True)
    began, peak = time.perf_counter(), 0.0
    with begun(*arguments, flag, logs) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_resident, [process.pid, *_children(process.pid)])))
            time.sleep(0.01)
        assert process.returncode == 0
    return time.perf_counter() - began, peak


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):  # it has just ended
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return []


def _resident(pid: int) -> float:
    with contextlib.suppress(OSError):  # it has just ended
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1e3 if found else 0.0
    return 0.0


def slope(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """More rows: against merely reading the logits."""
    few, many = write(folder / "few", 50_000, 1000), write(folder / "many", 200_000, 1000)
    read_few, read_many, whole_few, whole_many = medians(
        lambda: read_logits(few), lambda: read_logits(many), lambda: command(few), lambda: command(many)
    )
    ratio = (whole_many - whole_few) / (read_many - read_few)
    line("the command, 50,000 to 200,000 rows × 1,000, over reading: seconds", ratio, "at most 8, aim 5")
    line("the command, 50,000 rows × 1,000, over reading: seconds", whole_few / read_few, "at most 20")


def memory(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """Ten times the rows: time and peak memory. Fewer rows are read without processes, which need half of it."""
    few, many = write(folder / "few", 50_000, 1000), write(folder / "ten", 500_000, 1000)
    (short, small), (long, large) = resident(few), resident(many)
    line("50,000 to 500,000 rows × 1,000: seconds", long / short, "at most 11.5")
    line(f"50,000 to 500,000 rows × 1,000: peak memory ({small:.0f} and {large:.0f} MB)", large / small, "at most 1.1")


def rerun(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """A hundred parts, and then one more: what is kept of the hundred is not read again."""
    (whole,) = open_run(write(folder / "hundred", 101 * 4096, 1000))
    few, chosen, states = replace(whole, parts=whole.parts[:100]), panels.choose(()), folder / "states"

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

    ratios = []
    for _ in range(TURNS):
        shutil.rmtree(states, ignore_errors=True)
        first, again = seconds(lambda: passed(few)), seconds(lambda: passed(whole))
        ratios.append(again / first)
    said = "101 parts of which 100 are kept, against reading these: states, derived rows, second look"
    line(said, float(np.median(ratios)), "at most 0.1")

    many, one = (folder / name for name in ("of-hundred", "of-one"))
    shutil.rmtree(many, ignore_errors=True)
    link(whole, many, range(100))
    link(whole, one, range(1))
    times = []
    for _ in range(TURNS):
        part_path(many, 0, 100).unlink(missing_ok=True)
        start, all_of_it = seconds(lambda: command(one)), seconds(lambda: command(many))
        link(whole, many, range(100, 101))
        times.append((start, all_of_it, seconds(lambda: command(many, again=True))))
    start, all_of_it, rest = np.median(times, axis=0).tolist()
    said = (
        f"the command, 101 parts of which 100 are kept ({rest:.1f} s), less that of one ({start:.1f} s), over 100 parts"
    )
    line(f"{said} ({all_of_it:.1f} s)", (rest - start) / all_of_it, "at most 0.1")


def link(step: Step, run: Path, parts: range) -> None:
    """Some parts of a step as another run's."""
    step_folder(run, 0).mkdir(parents=True, exist_ok=True)
    for index in parts:
        place = part_path(run, 0, index)
        place.unlink(missing_ok=True)
        place.hardlink_to(toy.local(step.parts[index].path))


def huge(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """A million rows of a thousand classes, 4 GB of logits. Only when it is named: it takes minutes."""
    took, peak = resident(write(folder / "huge", 1_000_000, 1000))
    line(f"1,000,000 rows × 1,000 in {took:.0f} s: peak memory, GB", peak / 1e3, "at most 1.5")


def two(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """The pass over the rows alone, by one process and by two, their start included."""
    (step,) = open_run(write(folder / "many", 200_000, 1000))
    chosen = panels.choose(())

    def passed(processes: int) -> None:
        with ProcessPool(processes) as pool:
            measure_steps((step,), chosen, Executor(pool))

    one, both = medians(lambda: passed(1), lambda: passed(2))
    line("the pass over 200,000 rows × 1,000 by two processes, over one", one / both, "at least 1.4")


SAME = ("metrics", "curves", "confusion", "calibration", "probabilities")
"""Panels that hold what `usual` writes, and more."""


def as_rows(lists: pyarrow.FixedSizeListArray) -> np.ndarray:
    """[rows, classes] of a column."""
    return np.asarray(lists.flatten()).reshape(len(lists), -1)


def usual(logs: Path, run: Path, photos: list[Path]) -> None:
    """What people write: torchmetrics and SummaryWriter, over the same predictions and pictures on disk."""
    from torch.utils.tensorboard import SummaryWriter
    from torchmetrics import MetricCollection
    from torchmetrics import classification as c

    batches = list(open_predictions(run, columns=["logits", "label"]))
    logits = torch.from_numpy(np.concatenate([as_rows(batch.column("logits")) for batch in batches]))
    label = torch.from_numpy(np.concatenate([np.asarray(batch.column("label")) for batch in batches])).long()
    rows, classes = logits.shape
    metrics = MetricCollection(
        {
            "accuracy": c.MulticlassAccuracy(classes, average="micro"),
            "top5": c.MulticlassAccuracy(classes, top_k=5, average="micro"),
            "precision": c.MulticlassPrecision(classes),
            "recall": c.MulticlassRecall(classes),
            "f1": c.MulticlassF1Score(classes),
            "confusion": c.MulticlassConfusionMatrix(classes),
            "ece": c.MulticlassCalibrationError(classes, 15),
            "auroc": c.MulticlassAUROC(classes),
        }
    )
    p = logits.softmax(1)
    for start in range(0, rows, 512):
        metrics.update(p[start : start + 512], label[start : start + 512])
    found = metrics.compute()
    with SummaryWriter(str(logs)) as writer:
        for name, value in found.items():
            if value.ndim == 0:
                writer.add_scalar(name, value)
        writer.add_image("confusion", found["confusion"][None] / found["confusion"].max())
        for k in range(classes):
            writer.add_pr_curve(f"pr/{k}", label == k, p[:, k])
            writer.add_histogram(f"probability/{k}", p[label == k, k])
        for i, photo in enumerate(photos):
            writer.add_image(f"picture/{i}", np.asarray(Image.open(photo).convert("RGB")), dataformats="HWC")


def noise(folder: Path, names: list[str]) -> None:
    """JPEG pictures of 224×224, as large as what many models take, and as hard to pack as any."""
    if not folder.exists():
        folder.mkdir()
        random = np.random.default_rng(0)
        for name in names:
            Image.fromarray(random.integers(0, 256, (224, 224, 3), np.uint8)).save(folder / name, "JPEG")


def torchmetrics(folder: Path, line: Callable[[str, float, str], None]) -> None:
    """The same work as people do it, with 500 pictures, which ours fits and writes words beside."""
    for (rows, classes), photos in itertools.product([(10_000, 100), (50_000, 1000)], [toy.photographs, noise]):
        every = rows // 500
        root = folder / f"{photos.__name__}-{classes}"
        photos(root, [f"{i:06d}.png" for i in range(0, rows, every)])
        run = write(folder / f"usual-{classes}", rows, classes)
        logs = folder / f"usual-{classes}-logs"

        def ours(run: Path = run, logs: Path = logs, root: Path = root, every: int = every) -> None:
            shutil.rmtree(logs, ignore_errors=True)
            visualize(VisualizeConfig(predictions=(run,), logdir=logs, panels=SAME, log_every=every, image_root=root))

        def theirs(run: Path = run, logs: Path = logs, root: Path = root) -> None:
            usual(logs, run, sorted(root.iterdir()))

        ours()  # imports, and what is kept of words
        mine, other = medians(ours, theirs)
        with Image.open(next(root.iterdir())) as photo:
            size = "×".join(map(str, photo.size))
        said = f"torchmetrics and SummaryWriter, {rows:,} × {classes:,}, 500 {photos.__name__} of {size}, over ours"
        line(said, other / mine, "at least 20, aim 50")


def tiles(folder: Path, line: Callable[[str, float, str], None]) -> None:
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

    mine, usual = medians(ours, theirs)
    line("5,000 JPEG tiles into an event file, over add_image: rate", (5000 / mine) / (50 / usual), "at least 100")


BENCHES = (slope, memory, two, rerun, torchmetrics, tiles)
"""Those that run when none is named; `huge` runs when it is."""
