"""Measures predboard beside what people would run instead, on the same files, once the answers are found equal.

    make bench-peers
    make bench-peers ARGS='timm --models resnet18 --keep /tmp/peers'
    make bench-peers ARGS='timm --timm-repository ../pytorch-image-models'

Each side is a program of its own, start-up included, at two numbers of images, so that start and slope are apart. It
knows nothing of what is claimed of predboard alone: see benchmarks/bench.py.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks import peer_metrics
from benchmarks.bench_visualize import environment, predboard
from benchmarks.measuring import Cost, Report, differences, machine, parse_arguments, run, take
from predboard.storage.runs import open_predictions
from tests import toy

MODELS = ("mobilenetv3_small_100", "resnet18")
END_TO_END = {"mobilenetv3_small_100": 1.5, "resnet18": 1.8}
CLASSES = 1000
LONG_RUN = 5000
"""Images of a run of which the preflight is to take a tenth at most."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Setup:
    """What the flags say, and where files are."""

    folder: Path
    report: Report
    models: Sequence[str]
    images: tuple[int, int]
    timm_repository: Path | None

    def turns(self, name: str) -> Path:
        """Where the turns of a measurement are kept: of this code, and of these images."""
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=toy.ROOT, capture_output=True, text=True)
        return self.folder / f"{_slug(' '.join([name, *map(str, self.images), git.stdout.strip()]))}.jsonl"


def _slug(name: str) -> str:
    """A name of a file: timm's loop, resnet18 -> timm-s-loop-resnet18."""
    return re.sub(r"\W+", "-", name)


def photographs(folder: Path, count: int) -> Path:
    """Photographs of about 500 × 375 and 90 kB, in ten folders: crops of the two that come with scikit-learn.

    They have the grain of a sensor, without which a JPEG of a smaller picture is smaller than one of a camera.
    """
    place = folder / f"photographs-{count}"
    if place.exists():
        return place
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random, begun = np.random.default_rng(0), folder / "begun"
    shutil.rmtree(begun, ignore_errors=True)
    for i in range(count):
        picture = pictures[i % 2]
        size = (500, 375) if random.random() < 0.75 else (375, 500)
        scale = random.uniform(0.62, 1) * min(picture.width / size[0], picture.height / size[1])
        width, height = size[0] * scale, size[1] * scale
        x, y = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
        crop = picture.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
        grain = random.normal(scale=random.uniform(3, 10), size=(size[1], size[0], 1))
        pixels = np.clip(np.asarray(crop) + grain, 0, 255).astype(np.uint8)
        (begun / f"c{i % 10}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(begun / f"c{i % 10}" / f"{i:05d}.jpg", quality=int(random.choice([90, 93, 95])))
    return begun.rename(place)


def checkpoint(folder: Path, model: str, photos: Path) -> Path:
    """Random weights whose batch norms have seen the photographs, so that the logits of images differ."""
    file = folder / f"{model}.pt"
    if file.exists():
        return file
    import timm
    import torch

    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=CLASSES)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    batch = torch.stack([transform(Image.open(photo).convert("RGB")) for photo in sorted(photos.glob("*/*.jpg"))[::2]])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what it sees
    with torch.no_grad():
        net.train()(batch)
        features = net.eval()(batch)
        head = net.get_classifier()
        head.weight /= features.std(0).mean()
        head.bias -= net(batch).mean(0)
    torch.save(net.state_dict(), file)
    return file


def infer(data: Path, model: str, weights: Path, out: Path, *flags: str) -> Cost:
    """Stage one as a user gives it, into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    names = weights.with_name("classes.txt")
    names.write_text("".join(f"c{i}\n" for i in range(CLASSES)))
    given: list[str | Path] = ["--data", data, "--model", model, "--checkpoint", weights, "--classes", names]
    return predboard("infer", *given, "--out", out, *flags)


def loop(name: str, data: Path, model: str, weights: Path, out: Path) -> Cost:
    """A program of benchmarks/peer_loops.py."""
    words: list[str | Path] = [sys.executable, "-m", "benchmarks.peer_loops", name, data, model, weights, out]
    return run(words, environment(), toy.ROOT)


def timm_script(script: Path, data: Path, model: str, weights: Path, out: Path) -> Cost:
    """timm's own program, with the flags for what predboard writes, all logits beside full names, and for its speed."""
    given: list[str | Path] = ["--data-dir", data, "--model", model, "--checkpoint", weights, "--device", "cpu"]
    given += ["--channels-last"]
    given += ["--results-format", "parquet", "--results-dir", out.parent, "--results-file", out.name]
    given += ["--topk", "0", "--output-type", "logit", "--fullname", "--no-console-results"]
    return run([sys.executable, script, *given], environment(), toy.ROOT)


def fitting(photos: Path, predictions: Path, folder: Path) -> Path:
    """The same photographs in folders of the classes that the model names, but of every fourth the next class.

    So random weights are right as often as a usual model on ImageNet, and the preflight finds nothing to doubt.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for batch in open_predictions(predictions, columns=["image", "predicted"]):
        for i, (image, label) in enumerate(zip(*(column.to_pylist() for column in batch.columns), strict=True)):
            place = folder / f"c{(label + (i % 4 == 0)) % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            os.link(photos / image, place / Path(image).name)
    return folder


def check(ours: Path, theirs: Path, tolerance: float = TOLERANCE) -> str:
    """Raise ValueError unless both sides say the same of every image; return how near they are."""
    rows = list(open_predictions(ours, columns=["image", "logits"]))
    names = [name for batch in rows for name in batch.column("image").to_pylist()]
    mine = np.concatenate([_matrix(batch.column("logits")) for batch in rows])
    table = pq.read_table(theirs)
    place = {name: i for i, name in enumerate(table["filename"].to_pylist())}
    if set(place) != set(names) or len(place) != len(names):
        raise ValueError(f"{len(names)} images here, {len(place)} there, or under other names")
    other = np.stack(table["logit"].to_numpy())[[place[name] for name in names]]
    off = float(np.abs(mine - other).max())
    same = int((mine.argmax(1) == other.argmax(1)).sum())
    if not off <= tolerance or same < len(names):
        raise ValueError(f"logits differ by up to {off:.2g}, the first class of {len(names) - same} of {len(names)}")
    return f"{len(names):,} images: the same first class, logits within {off:.1g}; {len(set(mine.argmax(1)))} classes"


def _matrix(lists: object) -> NDArray[np.float32]:
    return np.asarray(lists.flatten()).reshape(len(lists), -1)  # type: ignore[attr-defined,arg-type]  # of pyarrow


def beside(
    setup: Setup,
    name: str,
    model: str,
    spec: str,
    theirs: Callable[..., Cost],
    at_least: float = 1,
    exact: Sequence[str] = (),
) -> None:
    """Both sides at both sizes, end to end, with the preflight and without, and the slope.

    The weights are random, which is the worst case of the preflight; the usual one has labels that fit.

    `exact` are flags for the same pixels as theirs, with which the answers are compared, where ours are not by default.
    """
    few, many = (photographs(setup.folder, count) for count in setup.images)
    weights = checkpoint(setup.folder, model, few)
    place = setup.folder / _slug(name)
    place.mkdir(exist_ok=True)
    infer(few, spec, weights, place / "checked", *exact)
    theirs(few, model, weights, place / "theirs.parquet")
    print(f"{name}: {check(place / 'checked', place / 'theirs.parquet')}", flush=True)
    infer(many, spec, weights, place / "bare-many", "--preflight", "0")
    fitted = fitting(many, place / "bare-many", place / "fitted")
    actions = {
        "ours few": lambda: infer(few, spec, weights, place / "ours"),
        "bare few": lambda: infer(few, spec, weights, place / "bare", "--preflight", "0"),
        "theirs few": lambda: theirs(few, model, weights, place / "theirs.parquet"),
        "ours many": lambda: infer(many, spec, weights, place / "ours-many"),
        "bare many": lambda: infer(many, spec, weights, place / "bare-many", "--preflight", "0"),
        "fitted many": lambda: infer(fitted, spec, weights, place / "fitted-many"),
        "theirs many": lambda: theirs(many, model, weights, place / "theirs-many.parquet"),
    }
    costs = take(actions, setup.report.turns, setup.turns(name), warm_up=False)
    if not exact:
        print(f"{name}: {check(place / 'ours-many', place / 'theirs-many.parquet')}", flush=True)
    report, (less, more) = setup.report, setup.images
    for size, images, target in (("many", more, at_least), ("few", less, 1)):
        for side, words in (("ours", "with the preflight"), ("bare", "without it")):
            claim = f"{name}: {images:,} images, {words}"
            report.compare(claim, costs[f"{side} {size}"], costs[f"theirs {size}"], at_least=target)
    claim = f"{name}: {more:,} images, with the preflight, labels that fit"
    report.compare(claim, costs["fitted many"], costs["theirs many"], at_least=at_least)
    ours, other = (differences(costs[f"{side} many"], costs[f"{side} few"]) for side in ("bare", "theirs"))
    report.compare(f"{name}: {less:,} to {more:,} images, without preflight", ours, other, at_least=1)
    long_run = [
        few + slope / ((more - less) / (LONG_RUN - less)) for few, slope in zip(costs["bare few"], ours, strict=True)
    ]
    for side, words in (("ours", ""), ("fitted", ", labels that fit")):
        claim = f"{spec}: the preflight of {more:,} images{words}, over {LONG_RUN:,} of them without it"
        report.compare(claim, differences(costs[f"{side} many"], costs["bare many"]), long_run, at_most=0.1)


def timm(setup: Setup) -> None:
    """timm's inference.py: its own file where a checkout is named, else a loop of its parts."""
    script = setup.timm_repository and partial(timm_script, setup.timm_repository / "inference.py")
    for model in setup.models:
        name = f"faster than timm's {'inference.py' if script else 'loop'}, {model}"
        beside(setup, name, model, f"timm:{model}", script or partial(loop, "timm"), END_TO_END.get(model, 1))


def plain(setup: Setup) -> None:
    """A DataLoader of two workers and a model, as everybody writes it."""
    for model in setup.models:
        beside(setup, f"faster than a plain DataLoader, {model}", model, f"timm:{model}", partial(loop, "plain"))


def torchvision(setup: Setup) -> None:
    """torchvision's own evaluation, of the model that both libraries have."""
    theirs, model = partial(loop, "torchvision"), "resnet18"
    beside(
        setup,
        f"faster than torchvision's evaluation, {model}",
        model,
        f"torchvision:{model}",
        theirs,
        exact=["--exact-resize"],
    )


def parts(setup: Setup) -> None:
    """More images without a preflight, against decode, resize and the bare model."""
    few, many = (photographs(setup.folder, count) for count in setup.images)
    out, (less, more) = setup.folder / "parts-ours", setup.images
    for model in setup.models:
        weights, spec = checkpoint(setup.folder, model, few), f"timm:{model}"
        actions = {
            "ours few": lambda: infer(few, spec, weights, out, "--preflight", "0"),  # noqa: B023  at once
            "parts few": lambda: loop("parts", few, model, weights, out),  # noqa: B023  at once
            "ours many": lambda: infer(many, spec, weights, out, "--preflight", "0"),  # noqa: B023  at once
            "parts many": lambda: loop("parts", many, model, weights, out),  # noqa: B023  at once
        }
        costs = take(actions, setup.report.turns, setup.turns(f"parts {model}"))
        ours, bare = (differences(costs[f"{side} many"], costs[f"{side} few"]) for side in ("ours", "parts"))
        claim = f"infer, {model}, {less:,} to {more:,} images, over decode, resize and the bare model"
        setup.report.compare(claim, ours, bare, at_most=1.15)


def start(setup: Setup) -> None:
    """The start, which is that of one image without its preflight, against the imports that it needs."""
    few = photographs(setup.folder, setup.images[0])
    weights, out = checkpoint(setup.folder, MODELS[0], few), setup.folder / "start-ours"
    actions = {
        "ours": lambda: infer(few, f"timm:{MODELS[0]}", weights, out, "--limit", "1", "--preflight", "0"),
        "import": lambda: run([sys.executable, "-c", "import torch, timm"], environment()),
    }
    costs = take(actions, setup.report.turns, setup.turns("start"))
    claim = "infer of one image, no preflight, over import torch, timm"
    setup.report.compare(claim, costs["ours"], costs["import"], at_most=1.3)


def torchmetrics(setup: Setup) -> None:
    """torchmetrics and SummaryWriter, against visualize."""
    peer_metrics.torchmetrics(setup.folder, setup.report)


def scikit_learn(setup: Setup) -> None:
    """scikit-learn's report, against gate."""
    peer_metrics.scikit_learn(setup.folder, setup.report)


PEERS: dict[str, tuple[Callable[[Setup], None], tuple[str, ...]]] = {
    "timm": (timm, ("timm", "sklearn")),
    "torchvision": (torchvision, ("timm", "torchvision", "sklearn")),
    "plain": (plain, ("timm", "sklearn")),
    "parts": (parts, ("timm", "sklearn")),
    "start": (start, ("timm", "sklearn")),
    "torchmetrics": (torchmetrics, ("torch", "torchmetrics")),
    "scikit_learn": (scikit_learn, ("sklearn",)),
}
"""Each with the modules that it needs; photographs come with scikit-learn."""


def main() -> None:
    """All that is installed, or what is named."""
    parser = argparse.ArgumentParser("make bench-peers", description="Measure predboard beside what else people run.")
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm's names; by default %(default)s")
    parser.add_argument("--images", nargs=2, type=int, default=(64, 2000), metavar=("FEW", "MANY"))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep files and turns there, to go on later")
    parser.add_argument("--timm-repository", type=Path, metavar="FOLDER", help="run inference.py of this checkout")
    given = parse_arguments(parser, PEERS)
    print(f"{machine()}\n{versions()}\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = Report(given.turns, given.scale)
        few, many = (report.size(count, 16) for count in given.images)
        setup = Setup(folder, report, given.models, (few, many), given.timm_repository)
        for name in given.names or PEERS:
            bench, needed = PEERS[name]
            if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
                print(f"{name}: left out, {' and '.join(missing)} not installed here; `make bench-peers` installs them")
            else:
                began = time.monotonic()
                bench(setup)
                print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def versions() -> str:
    found = list[str]()
    libraries = ("torch", "torchvision", "timm", "torchmetrics", "scikit-learn")
    for name in (*libraries, "pillow", "numpy", "pyarrow", "tensorboard"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


if __name__ == "__main__":
    main()
