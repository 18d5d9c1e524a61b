"""What is claimed of speed, measured: each figure is a ratio against something run beside it on the same cores.

    make bench

Machines are noisy: the two sides take turns and the ratio of their medians counts. Nothing here is a test; the targets
are printed beside the figures.
"""

import itertools
import json
import os
import statistics
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

from benchmarks import bench_combine, bench_compare, bench_labels, bench_ray, bench_tab, bench_visualize
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

TURNS = 3


def ratio(one: Callable[[], Any], other: Callable[[], Any]) -> float:
    """Median seconds of `other` over those of `one`: how many times faster `one` is."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(TURNS):
        for i, side in enumerate((one, other)):
            began = time.perf_counter()
            side()
            seconds[i].append(time.perf_counter() - began)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


def line(name: str, found: float, target: str) -> None:
    print(f"{name:<66} {found:6.2f} ×   {target}", flush=True)


PHOTOGRAPHS = [f"{i:04d}.jpg" for i in range(600)]


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


def loader(folder: Path) -> None:
    """Reading and decoding alone, against the usual loader with two workers."""
    refs = toy.photographs(folder / "photos", PHOTOGRAPHS)
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
    found = ratio(lambda: ours(bilinear), lambda: usual(Image.Resampling.BILINEAR))
    line("loader, bilinear, against DataLoader with two workers", found, "at least 1.8")
    found = ratio(lambda: ours(bicubic), lambda: usual(Image.Resampling.BICUBIC))
    line("loader, bicubic, against DataLoader with two workers", found, "at least 1.4")
    found = ratio(decode, lambda: usual(Image.Resampling.BILINEAR))
    line("decoding alone, against the same: the limit", found, "")


MODELS = """\
import torch
from torch import nn


def heavy():
    convolutions = [layer for i in range(6) for layer in (nn.Conv2d(192 if i else 3, 192, 3, 1, 1), nn.ReLU())]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))


def small(classes=1000):
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""


def compute(folder: Path) -> None:
    """The whole of stage one where the model is all that counts, against its bare loop over a tensor in memory."""
    (folder / "net.py").write_text(MODELS)
    toy.pictures(folder / "tiny", classes=10, each=20, size=(64, 64))
    out = _outs(folder)
    net = _factory("heavy")().eval().to(memory_format=torch.channels_last)
    batch = torch.rand(50, 3, 64, 64).to(memory_format=torch.channels_last)

    seconds: dict[str, list[float]] = {"bare": [], "loop": [], "start": []}

    def bare() -> None:
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(4):
                net(batch)
        seconds["bare"].append(time.perf_counter() - began)

    def whole() -> None:
        began = time.perf_counter()
        done = infer(
            InferConfig(str(folder / "tiny"), f"{folder / 'net.py'}:heavy", out=next(out), batch_size=50, preflight=0)
        )
        seconds["loop"].append(done.seconds["wall"])
        seconds["start"].append(time.perf_counter() - began - done.seconds["wall"])

    whole()
    for values in seconds.values():
        values.clear()
    line("stage one, bound by the model, against the bare loop, with its start", ratio(whole, bare), "")
    of = {name: statistics.median(values) for name, values in seconds.items()}
    line("the same from its first batch on, as in a long run", of["bare"] / of["loop"], "at least 0.95")
    pictures = of["start"] / of["bare"] * 200
    print(f"its start, which does not grow with the images, takes as long as {pictures:.1f} pictures in the bare loop")


def _factory(name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(MODELS, namespace)
    return namespace[name]


def _outs(folder: Path) -> Iterator[Path]:
    """A new folder of predictions each time."""
    return (folder / f"out{time.monotonic_ns()}" for _ in itertools.count())


def _small(folder: Path, checkpoints: int, out: Iterator[Path]) -> Callable[[], None]:
    """Stage one on the photographs with small models of 1,000 classes: bound by decoding."""
    toy.photographs(folder / "photos", PHOTOGRAPHS)
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


def checkpoints(folder: Path) -> None:
    """Five checkpoints in one pass, against one."""
    out = _outs(folder)
    five, one = _small(folder, 5, out), _small(folder, 1, out)
    line("five checkpoints, against one: seconds", 1 / ratio(five, one), "at most 1.5")


class _Nothing:
    """In place of a part that is written."""

    def __init__(self, _: Any) -> None:
        pass

    def add(self, batch: Any) -> None:
        pass

    def abandon(self) -> None:
        pass


def write(folder: Path) -> None:
    """The whole of stage one with 1,000 classes, with the writer and without; and the writer alone."""
    run = _small(folder, 1, _outs(folder))

    def without() -> None:
        with unittest.mock.patch("predboard.inference.worker.NewPart", _Nothing):
            run()

    line("stage one with its writer, against without, 1,000 classes", ratio(run, without), "at least 0.95")
    described = Run(tuple(f"c{i}" for i in range(1000)), "bench")
    logits, label = toy.table(described, 8192)
    began = time.perf_counter()
    toy.write_run(folder / "run", logits, label, described)
    rate = len(label) / (time.perf_counter() - began)
    assert open_run(folder / "run")[0].rows == len(label)
    print(f"rows written and read back, 1,000 classes: {rate:,.0f} a second")


def forecast(folder: Path) -> None:
    """The seconds that stage one took, against those that its preflight forecast."""
    toy.photographs(folder / "photos", PHOTOGRAPHS)
    toy.pictures(folder / "digits", classes=10, each=100, size=(28, 28))
    toy.pictures(folder / "tiny", classes=10, each=20, size=(64, 64))
    (folder / "net.py").write_text(MODELS)
    for name, rows, model, crop in (
        ("photos", 1_500, "small", 224),  # bound by decoding
        ("digits", 20_000, "small", None),  # by what surrounds both
        ("tiny", 800, "heavy", None),  # by the model
    ):
        files = [file.relative_to(folder).as_posix() for file in sorted((folder / name).rglob("*.[jp][pn]g"))]
        listed, found = folder / f"{name}.csv", []
        listed.write_text("path\n" + "".join(f"{files[i % len(files)]}\n" for i in range(rows)))
        for _, out in zip(range(TURNS), _outs(folder), strict=False):
            done = infer(InferConfig(str(listed), f"{folder / 'net.py'}:{model}", crop=crop, out=out, device="cpu"))
            key = json.loads(preflight_path(out, 0, ".json").read_text("utf-8"))["key"]
            report = read_report(out, 0, key)
            assert report is not None
            found.append(done.seconds["wall"] / report.forecast(rows, rows, [torch.device("cpu")]))
        text = f"{min(found):.2f} to {max(found):.2f}, expected 0.8 to 1.25"
        line(f"{rows:,} images of {name} through {model}, against the forecast", statistics.median(found), text)


_PEAK = """
import resource, sys
from pathlib import Path
from predboard import InferConfig, infer
assert infer(InferConfig(sys.argv[1], sys.argv[2], out=Path(sys.argv[3]), preflight=0)).complete
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path) -> None:
    """Peak of 100,000 rows against that of 10,000, each in a process of its own."""
    toy.pictures(folder / "few", classes=10, each=10, size=(28, 28))
    model = toy.model_file(folder / "model", classes=10)
    refs = [p.relative_to(folder).as_posix() for p in sorted((folder / "few").glob("*/*.png"))]
    peaks = []
    for rows in (10_000, 100_000):
        listed = folder / f"{rows}.csv"
        listed.write_text("path\n" + "".join(f"{refs[i % len(refs)]}\n" for i in range(rows)))
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, listed, model, folder / f"out{rows}"],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
            stdout=subprocess.PIPE,
            check=True,
        )
        peaks.append(int(done.stdout))
    line("peak memory of 100,000 rows, against 10,000", peaks[1] / peaks[0], "at most 1.10")


def main() -> None:
    """All of them, or those that are named."""
    named = sys.argv[1:]
    print(f"{worker_count(0)} processors, load {os.getloadavg()[0]:.1f}: the figures are worth little above 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for bench in (loader, compute, checkpoints, write, forecast, peak):
            if not named or bench.__name__ in named:
                bench(folder)
        for on_ray in bench_ray.BENCHES if named else ():  # they take minutes
            if on_ray.__name__ in named or "ray" in named:
                on_ray(folder, line)
        usual = (
            *bench_visualize.BENCHES,
            *bench_compare.BENCHES,
            *bench_combine.BENCHES,
            *bench_labels.BENCHES,
            *bench_tab.BENCHES,
        )
        for of_stage_two in (*usual, bench_visualize.huge):
            if of_stage_two.__name__ in named or (not named and of_stage_two in usual):
                of_stage_two(folder, line)


if __name__ == "__main__":
    main()
