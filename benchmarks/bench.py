"""Measures what is claimed of speed: each figure is a ratio against something run beside it on the same cores.

    make bench
    make bench ARGS='slope loader --turns 9'

Machines are noisy, so the two sides take turns, and there is a verdict only where noise cannot have made it: see
benchmarks/measuring.py. Nothing here is a test, and it knows nothing of what others' programs take: see
benchmarks/peers.py.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import bench_combine, bench_compare, bench_labels, bench_memory, bench_ray, bench_tab, bench_visualize
from benchmarks.measuring import Cost, Report, differences, machine, parse_arguments, take, timed
from predboard.config import InferConfig
from predboard.images import decode as images
from predboard.images import sources
from predboard.images.loader import Loader
from predboard.images.preprocessing import Preprocessing
from predboard.inference.infer import infer
from predboard.inference.preflight_report import read_report
from predboard.parallel.threads import ordered_map, worker_count
from predboard.predictions.schema import Run
from predboard.storage.runs import open_run, preflight_path
from tests import toy

PHOTOGRAPHS = 600
BATCH = 25


def photographs(folder: Path, report: Report) -> list[str]:
    """Photographs in the folder `photos`; returns their refs."""
    return toy.photographs(folder / "photos", [f"{i:04d}.jpg" for i in range(report.size(PHOTOGRAPHS, 8))])


class Usual(torch.utils.data.Dataset[torch.Tensor]):
    """What everybody writes: decode, full resize, crop, floats, normalise."""

    def __init__(self, root: Path, refs: list[str], kernel: Image.Resampling) -> None:
        self.root, self.refs, self.kernel = root, refs, kernel

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, i: int) -> torch.Tensor:
        picture = Image.open(self.root / self.refs[i]).convert("RGB").resize((341, 256), self.kernel)
        x = torch.from_numpy(np.array(picture.crop((58, 16, 282, 240)))).permute(2, 0, 1).float().div(255)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean[:, None, None]) / std[:, None, None]


def loader(folder: Path, report: Report) -> None:
    """Reading and decoding alone, against the usual loader with two workers."""
    refs = photographs(folder, report)
    manifest = sources.open_source(str(folder / "photos"))
    chunks = [refs[i : i + 8] for i in range(0, len(refs), 8)]

    def ours(shape: images.DecodeOptions) -> None:
        loader = Loader(manifest, Preprocessing(shape))

        def load(rows: list[int]) -> int:
            return sum(row.pixels is not None for row in loader.load_rows(rows, None))

        rows = [list(range(i, min(i + 8, len(refs)))) for i in range(0, len(refs), 8)]
        assert sum(ordered_map(load, rows, worker_count(0))) == len(refs)

    def usual(kernel: Image.Resampling) -> None:
        data = Usual(folder / "photos", refs, kernel)
        assert sum(map(len, torch.utils.data.DataLoader(data, batch_size=64, num_workers=2))) == len(refs)

    def decode() -> None:
        def load(chunk: list[str]) -> int:
            return sum(Image.open(folder / "photos" / ref).load() is not None for ref in chunk)

        assert sum(ordered_map(load, chunks, worker_count(0))) == len(refs)

    bilinear = images.DecodeOptions(256, 224, "bilinear", only_crop=True)
    bicubic = images.DecodeOptions(256, 224, "bicubic")
    costs = take(
        {
            "decode": lambda: timed(decode),
            "bilinear": lambda: timed(lambda: ours(bilinear)),
            "usual bilinear": lambda: timed(lambda: usual(Image.Resampling.BILINEAR)),
            "bicubic": lambda: timed(lambda: ours(bicubic)),
            "usual bicubic": lambda: timed(lambda: usual(Image.Resampling.BICUBIC)),
        },
        report.turns,
    )
    for name, at_least in (("bilinear", 1.8), ("bicubic", 1.4)):
        claim = f"loader, {name}, faster than DataLoader with two workers"
        report.compare(claim, costs[name], costs[f"usual {name}"], at_least=at_least)
    report.compare("decoding alone, over DataLoader, bilinear: the limit", costs["decode"], costs["usual bilinear"])


MODELS = """\
import torch
from torch import nn


def heavy():
    convolutions = [layer for i in range(6) for layer in (nn.Conv2d(192 if i else 3, 192, 3, 1, 1), nn.ReLU())]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))


def small(classes=1000):
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


def compute(folder: Path, report: Report) -> None:
    """The whole of stage one where the model is all that counts, against its bare loop over a tensor in memory."""
    (folder / "net.py").write_text(MODELS)
    toy.pictures(folder / "tiny", classes=10, each=20, size=(40, 40))
    refs = [p.relative_to(folder / "tiny").as_posix() for p in sorted((folder / "tiny").rglob("*.png"))]
    out, few, many = _outs(folder), report.size(1), report.size(5, 2)
    net = _factory("heavy")().eval().to(memory_format=torch.channels_last)
    batch = torch.rand(BATCH, 3, 40, 40).to(memory_format=torch.channels_last)

    def bare(batches: int) -> None:
        with torch.inference_mode():
            for _ in range(batches):
                net(batch)

    def whole(rows: int) -> None:
        listed = folder / f"tiny{rows}.csv"
        listed.write_text("path\n" + "".join(f"tiny/{refs[i % len(refs)]}\n" for i in range(rows)))
        model = f"{folder / 'net.py'}:heavy"
        assert infer(InferConfig(str(listed), model, out=next(out), batch_size=BATCH, preflight=0)).complete

    costs = take(
        {
            "few": lambda: timed(lambda: whole(BATCH * few)),
            "bare few": lambda: timed(lambda: bare(few)),
            "many": lambda: timed(lambda: whole(BATCH * many)),
            "bare many": lambda: timed(lambda: bare(many)),
        },
        report.turns,
    )
    slope = differences(costs["many"], costs["few"])
    bare_slope = differences(costs["bare many"], costs["bare few"])
    claim = f"stage one, bound by the model, {BATCH * few} to {BATCH * many} images, over the bare loop"
    report.compare(claim, slope, bare_slope, at_most=1.05)
    start = [less - more * (few / (many - few)) for less, more in zip(costs["few"], slope, strict=True)]
    a_picture = [more / (BATCH * (many - few)) for more in bare_slope]
    report.compare("its start, in pictures of the bare loop", start, a_picture)


def _factory(name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(MODELS, namespace)
    return namespace[name]


def _outs(folder: Path) -> Iterator[Path]:
    """A new folder of predictions each time."""
    return (folder / f"out{time.monotonic_ns()}" for _ in itertools.count())


def _small(folder: Path, report: Report, checkpoints: int, out: Iterator[Path]) -> Callable[[], None]:
    """Stage one on the photographs with small models of 1,000 classes: bound by decoding."""
    photographs(folder, report)
    (folder / "net.py").write_text(MODELS)
    (folder / "names.txt").write_text("".join(f"c{i}\n" for i in range(1000)))
    files = tuple(folder / f"step{i}.pt" for i in range(checkpoints))
    for i, file in enumerate(files):
        torch.manual_seed(i)
        torch.save(_factory("small")().state_dict(), file)

    def run() -> None:
        data, names, model = str(folder / "photos"), folder / "names.txt", f"{folder / 'net.py'}:small"
        infer(
            InferConfig(data, model, classes=names, checkpoint=files, out=next(out), resize=256, crop=224, preflight=0)
        )

    return run


def checkpoints(folder: Path, report: Report) -> None:
    """Five checkpoints in one pass, against one."""
    out = _outs(folder)
    five, one = _small(folder, report, 5, out), _small(folder, report, 1, out)
    costs = take({"five": lambda: timed(five), "one": lambda: timed(one)}, report.turns)
    report.compare("five checkpoints, over one", costs["five"], costs["one"], at_most=1.5)


class _Nothing:
    """In place of a part that is built."""

    failed = 0

    def __init__(self, _: Any) -> None:
        pass

    def add(self, *_: Any, **__: Any) -> None:
        pass

    def publish(self) -> None:
        pass


def write(folder: Path, report: Report) -> None:
    """The whole of stage one with 1,000 classes, with the writer and without; and the writer alone."""
    run = _small(folder, report, 1, _outs(folder))

    def without() -> Cost:
        with unittest.mock.patch("predboard.inference.worker.PartBuilder", _Nothing):
            return timed(run)

    costs = take({"with": lambda: timed(run), "without": without}, report.turns)
    claim = "stage one with its writer, over without, 1,000 classes"
    report.compare(claim, costs["with"], costs["without"], at_most=1.05)
    described = Run(tuple(f"c{i}" for i in range(1000)), "bench")
    logits, label = toy.table(described, report.size(8192))
    runs = _outs(folder)

    def rows() -> None:
        toy.write_run(written := next(runs), logits, label, described)
        assert open_run(written)[0].rows == len(label)

    costs = take({"rows": lambda: timed(rows)}, report.turns)
    report.seconds(f"{len(label):,} rows written and opened, 1,000 classes", costs["rows"])


def forecast(folder: Path, report: Report) -> None:
    """The seconds that stage one took, against those that its preflight forecast, and those of the preflight itself."""
    photographs(folder, report)
    toy.pictures(folder / "digits", classes=10, each=100, size=(28, 28))
    toy.pictures(folder / "tiny", classes=10, each=20, size=(40, 40))
    (folder / "net.py").write_text(MODELS)
    for name, rows, model, crop in (
        ("photos", report.size(5_000, 300), "small", 224),  # bound by decoding
        ("digits", report.size(10_000, 300), "small", None),  # by what surrounds both
        ("tiny", report.size(400, 50), "heavy", None),  # by the model
    ):
        files = [file.relative_to(folder).as_posix() for file in sorted((folder / name).rglob("*.[jp][pn]g"))]
        listed = folder / f"{name}.csv"
        ratios, shares = list[float](), list[float]()
        listed.write_text("path\n" + "".join(f"{files[i % len(files)]}\n" for i in range(rows)))
        for _, out in zip(range(report.turns), _outs(folder), strict=False):
            done = infer(InferConfig(str(listed), f"{folder / 'net.py'}:{model}", crop=crop, out=out, device="cpu"))
            key = json.loads(preflight_path(out, 0, ".json").read_text("utf-8"))["key"]
            preflight = read_report(out, 0, key)
            assert preflight is not None
            ratios.append(done.seconds["wall"] / preflight.forecast(rows, rows, [torch.device("cpu")]))
            shares.append(preflight.seconds / done.seconds["wall"])
        report.ratios(
            f"{rows:,} images of {name} through {model}, over its forecast", ratios, at_least=0.7, at_most=1.3
        )
        report.ratios("its preflight, over it", shares, at_most=0.1 if name == "photos" else None)


_PEAK = """
import resource, sys
from pathlib import Path
from predboard import InferConfig, infer
assert infer(InferConfig(sys.argv[1], sys.argv[2], out=Path(sys.argv[3]), preflight=0)).complete
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, report: Report) -> None:
    """Peak of 100,000 rows against that of 10,000, each in a process of its own."""
    toy.pictures(folder / "few", classes=10, each=10, size=(28, 28))
    model = toy.model_file(folder / "model", classes=10)
    refs = [p.relative_to(folder).as_posix() for p in sorted((folder / "few").glob("*/*.png"))]
    peaks, sizes = [], (report.size(10_000), report.size(100_000))
    for rows in sizes:
        listed = folder / f"{rows}.csv"
        listed.write_text("path\n" + "".join(f"{refs[i % len(refs)]}\n" for i in range(rows)))
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, listed, model, folder / f"out{rows}"],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
            stdout=subprocess.PIPE,
            check=True,
        )
        peaks.append(int(done.stdout))
    report.figure(f"infer of {sizes[1]:,} rows, over {sizes[0]:,}: peak memory", peaks[1] / peaks[0], "×", at_most=1.1)


USUAL = (
    *(loader, compute, checkpoints, write, forecast, peak),
    *bench_visualize.BENCHES,
    *bench_compare.BENCHES,
    *bench_combine.BENCHES,
    *bench_labels.BENCHES,
    *bench_tab.BENCHES,
)
NAMED = (*bench_visualize.NAMED, bench_memory.memory_table, *bench_ray.BENCHES)
"""These take minutes, and run only when they are named."""


def main() -> None:
    """All of them, or those that are named."""
    benches = {bench.__name__: (bench,) for bench in (*USUAL, *NAMED)} | {"ray": bench_ray.BENCHES}
    parser = argparse.ArgumentParser("make bench", description="Measure what is claimed of speed.")
    given = parse_arguments(parser, benches)
    print(f"{machine()}\n", flush=True)
    report = Report(given.turns, given.scale)
    with tempfile.TemporaryDirectory() as folder:
        for bench in [bench for name in given.names for bench in benches[name]] or USUAL:
            began = time.monotonic()
            bench(Path(folder), report)
            print(f"{bench.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
