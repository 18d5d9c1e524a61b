"""Stage one, one straight function: images -> model -> Parquet. Knows nothing of TensorBoard or of what is drawn later.

Reading and decoding run ahead on threads; the forward pass runs in the caller's thread; deriving columns, compressing
and publishing run behind on one more thread. What is in memory at once is bounded by the row group, not by the data.
"""

import itertools
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import images, loading, models, resume, shards, sources, store, workers
from pipeline.config import InferConfig
from pipeline.errors import InputError
from pipeline.loading import Loaded
from pipeline.predictions import Count, Part, Predictions, Run, to_logits

if TYPE_CHECKING:
    import torch

_CHUNK = 8
"""Pictures a thread decodes before it takes the next task: a task costs about as much as a 28×28 PNG."""


@dataclass(frozen=True)
class Outcome:
    """What stage one leaves."""

    out: Path
    manifest_rows: int
    steps: dict[int, Count]
    """Rows of each step, as they are on disk when stage one ends."""
    written: int
    """Rows that this call inferred, over all steps."""
    seconds: Mapping[str, float]
    """Where this call's time went: `wall`; the calling thread's `wait` for pictures, `forward` and `behind` (waiting
    for the writer); busy seconds of the `decode` threads together and of the `write` thread."""
    threads: int
    """That read and decoded."""

    @property
    def bottleneck(self) -> str:
        """One line on where the time went, and which flag would help; empty if there was too little of it to tell."""
        s = self.seconds
        wall = s["wall"]
        if not self.written or wall < 2:
            return ""
        shares = {name: s[name] / wall for name in ("wait", "forward", "behind")}
        parts = (
            f"{self.written / wall:,.0f} rows/s: model {shares['forward']:.0%} of the time, waiting for pictures "
            f"{shares['wait']:.0%}, for the writer {shares['behind']:.0%}"
        )
        advice = {
            "wait": f"bound by decoding on {self.threads} threads: more processors, or smaller pictures",
            "forward": "bound by the model: a GPU, --precision bf16, or a larger --batch-size",
            "behind": "bound by writing: a faster disk, or fewer columns (--thumbnails 0, no --embeddings)",
        }
        return f"{parts}; {advice[max(shares, key=shares.__getitem__)]}"

    @property
    def complete(self) -> bool:
        """Whether every step has one row for every row of the manifest."""
        return all(c.rows == self.manifest_rows for c in self.steps.values())

    @property
    def failed(self) -> int:
        """Most failed rows of any step."""
        return max(c.failed for c in self.steps.values())


@dataclass(frozen=True)
class _Batch:
    """Rows of one part that went through the model together."""

    shard: shards.Shard
    start: int
    rows: Sequence[Loaded]  # without pixels
    outputs: dict[int, tuple[NDArray[np.float32], NDArray[np.float16] | None]]  # step: logits, embeddings
    wait_seconds: float
    """That the calling thread waited for the pictures."""
    forward_seconds: float


def default_out(data: str, model: str) -> Path:
    """Folder for the predictions of a model on data: predictions/DATA-FILE-FACTORY.

    >>> default_out("photos/test/", "nets/small.py:build").as_posix()
    'predictions/test-small-build'
    """
    file, _, factory = model.rpartition(":")
    return Path("predictions") / f"{Path(data).name or 'data'}-{Path(file).stem}-{factory}"


def infer(config: InferConfig, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Run the model over the images and write one row for every image of every step.

    Parts that are there already and still valid are kept, so a run that was killed continues where it stopped.

    Args:
        config: what to do.
        say: takes a line of progress for a person.

    Raises:
        InputError: for bad input, or if what is there does not fit; nothing already written is lost.
    """
    models.require_torch()
    import torch

    manifest = sources.open_source(config.data, _options(config)).limited(config.limit)
    steps = models.steps_of(config.checkpoint, config.step)
    factory = models.open_factory(config.model, config.model_args)
    out = config.out or default_out(config.data, config.model)
    only_crop = (
        config.interpolation == "bilinear" and None not in (config.resize, config.crop) and not config.exact_resize
    )
    shape = images.Shape(config.resize, config.crop, config.interpolation, config.channels, config.exif, only_crop)
    device = models.device_of(config.device)
    say(f"{len(manifest):,} images, {len(manifest.classes) or 'unnamed'} classes, in {manifest.root}")

    loader = loading.Loader(manifest, shape, config.thumbnails)
    sample = loader.first()
    size = sample.shape
    transform = {**asdict(shape), "mean": list(config.mean), "std": list(config.std), "size": list(size)}
    prepare = _Prepare(device, config.mean, config.std)
    kept: dict[int, torch.nn.Module] = {}
    runs: dict[int, Run] = {}
    together = 0
    for step, file in steps.items():
        module = _module(factory, file)
        together = together or _together(models.bytes_of(module), device)
        if len(kept) < together:
            kept[step] = module
        outputs, dims = _outputs(models.Network(module, device, config.precision, config.embeddings), prepare, sample)
        runs[step] = Run(
            classes=_classes(manifest, outputs),
            model=factory.name,
            step=step,
            model_args=dict(config.model_args),
            code=factory.code,
            weights=models.weights_digest(module),
            transform=transform,
            precision=config.precision,
            root=manifest.root,
            shard_size=config.shard_size,
            embedding=dims,
            thumbnails=config.thumbnails,
            scores="logits" if config.scores == "logits" else "log_probabilities",
        )
    say(f"model {factory.name}, {outputs} classes, steps {', '.join(map(str, steps))}; {device}, {config.precision}")

    manifest = manifest.within(outputs)
    plan = shards.plan(len(manifest), config.shard_size)

    def writer(step: int, shard: shards.Shard) -> _PartInProgress:
        file = steps[step]
        provenance = {
            "checkpoint": "" if file is None else file.name,
            "device": str(device),
            "batch_size": config.batch_size,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        return _PartInProgress(out, runs[step], config.scores, shard, manifest, provenance)

    with store.lock(out):
        checked = {
            step: resume.to_do(out, run, plan, manifest, update=config.update, overwrite=config.overwrite, say=say)
            for step, run in runs.items()
        }
        for path in itertools.chain.from_iterable(invalid for _, invalid in checked.values()):
            store.delete_part(path)  # only now that no step is refused
        todo = {step: of_step for step, (of_step, _) in checked.items()}
        if valid := sum(len(plan) - len(t) for t in todo.values()):
            say(f"{valid} of {len(plan) * len(steps)} parts in {out} are there already and valid")
        written = 0
        seconds = dict.fromkeys(("wall", "wait", "forward", "behind", "decode", "write"), 0.0)
        lacking = iter([step for step in todo if todo[step]])
        while group := list(itertools.islice(lacking, together)):
            modules = {s: kept.pop(s) if s in kept else _module(factory, steps[s], runs[s].weights) for s in group}
            rows, took = _pass({s: todo[s] for s in group}, modules, loader, prepare, size, config, writer)
            written += rows
            seconds = {name: value + took[name] for name, value in seconds.items()}
        return _outcome(out, manifest, tuple(steps), written, seconds, workers.count(config.workers))


def _options(config: InferConfig) -> sources.Options:
    return sources.Options(
        config.image_column,
        config.label_column,
        config.key_column,
        config.image_root,
        () if config.classes is None else sources.read_classes(config.classes),
    )


def _module(factory: models.Factory, file: Path | None, digest: str | None = None) -> "torch.nn.Module":
    """The model with the weights of a file. Raises InputError if they do not fit, or not the digest from before."""
    module = factory.build()
    if file is not None:
        models.load_weights(module, file)
    if digest is not None and models.weights_digest(module) != digest:
        raise InputError(f"{file or factory.name} changed while it was in use: run the same command again")
    return module


class _Prepare:
    """Batches of uint8 pictures -> normalised floats on the device."""

    def __init__(self, device: "torch.device", mean: Sequence[float], std: Sequence[float]) -> None:
        import torch

        self.device = device
        self._mean = torch.tensor(mean, device=device).reshape(1, -1, 1, 1)
        self._std = torch.tensor(std, device=device).reshape(1, -1, 1, 1)

    def __call__(self, pictures: NDArray[np.uint8]) -> "torch.Tensor":
        """[rows, height, width, channels] uint8 -> [rows, channels, height, width] float32, channels_last in memory."""
        import torch

        batch = torch.from_numpy(pictures)
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # else the copy waits for the one before
        moved = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return (moved.float() / 255 - self._mean) / self._std


def _outputs(network: models.Network, prepare: _Prepare, sample: NDArray[np.uint8]) -> tuple[int, int]:
    """Classes and embedding length that the model gives, tried on one picture."""
    logits, embedding = network(prepare(sample[None]))
    return logits.shape[1], 0 if embedding is None else embedding.shape[1]


def _classes(manifest: sources.Manifest, outputs: int) -> tuple[str, ...]:
    if manifest.classes and len(manifest.classes) != outputs:
        raise InputError(
            f"{manifest.root} has {len(manifest.classes)} classes ({', '.join(manifest.classes[:3])}…), the model "
            f"gives {outputs} outputs: expected as many, in the order of the outputs; --classes FILE names them"
        )
    return manifest.classes or tuple(map(str, range(outputs)))


def _together(each: int, device: "torch.device") -> int:
    """How many models of `each` bytes fit into half of the device's memory; each image is decoded once for these."""
    import torch

    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[0]
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # SC_AVPHYS_PAGES leaves out what the system
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # would give back from its cache of files
    else:
        there = 4 * 2**30
    return max(1, there // 2 // max(each, 1))


def _pass(
    todo: dict[int, list[shards.Shard]],
    modules: dict[int, "torch.nn.Module"],
    loader: loading.Loader,
    prepare: "_Prepare",
    size: tuple[int, int, int],
    config: InferConfig,
    writer: Callable[[int, shards.Shard], "_PartInProgress"],
) -> tuple[int, dict[str, float]]:
    """Infer the shards of these steps, decoding each image once. -> rows written, seconds as `Outcome` has them."""
    began = time.perf_counter()
    seconds = dict.fromkeys(("wall", "wait", "forward", "behind", "decode", "write"), 0.0)
    wanted = sorted({shard for of_step in todo.values() for shard in of_step}, key=lambda shard: shard.start)
    networks = {
        s: models.Network(modules[s], prepare.device, config.precision, config.embeddings) for s in todo if todo[s]
    }
    rows_wanted = itertools.chain.from_iterable(range(shard.start, shard.stop) for shard in wanted)
    chunks = iter(lambda: list(itertools.islice(rows_wanted, _CHUNK)), [])
    threads = workers.count(config.workers)

    def load(chunk: list[int]) -> list[Loaded]:
        return loader.chunk(chunk, size)

    ahead = 2 * threads + -(-2 * config.batch_size // _CHUNK)  # two batches, and something for every thread
    loaded = itertools.chain.from_iterable(workers.in_order(load, chunks, threads, ahead))
    open_parts: dict[int, _PartInProgress] = {}  # by step; a step's parts come one after the other

    def write(batch: _Batch) -> int:
        started = time.perf_counter()
        for step in batch.outputs:
            if step not in open_parts:
                open_parts[step] = writer(step, batch.shard)
            if open_parts[step].add(batch):
                del open_parts[step]
        seconds["write"] += time.perf_counter() - started
        seconds["decode"] += sum(row.seconds for row in batch.rows)
        seconds["wait"] += batch.wait_seconds
        seconds["forward"] += batch.forward_seconds
        return len(batch.rows) * len(batch.outputs)

    written = 0
    total = sum(len(shard) for of_step in todo.values() for shard in of_step)
    try:
        with tqdm(total=total, unit=" rows", desc="infer", disable=None, file=sys.stderr) as bar:
            inferred = _forward(todo, wanted, loaded, networks, prepare, size, config.batch_size)
            for rows in workers.in_order(write, inferred, workers=1, ahead=4):
                written += rows
                bar.update(rows)
    finally:
        for part in open_parts.values():
            part.writer.abandon()
    seconds["wall"] = time.perf_counter() - began
    seconds["behind"] = max(seconds["wall"] - seconds["wait"] - seconds["forward"], 0.0)
    return written, seconds


def _forward(
    todo: dict[int, list[shards.Shard]],
    wanted: Sequence[shards.Shard],
    loaded: Iterator[Loaded],
    networks: dict[int, models.Network],
    prepare: "_Prepare",
    size: tuple[int, int, int],
    batch_size: int,
) -> Iterator[_Batch]:
    """Decoded rows -> logits, a batch at a time, in the order of the rows, for each step that lacks them."""
    missing = {step: set(of_step) for step, of_step in todo.items()}
    begun: deque[Callable[[], _Batch]] = deque()
    for shard in wanted:
        here = {step: network for step, network in networks.items() if shard in missing[step]}
        for start in range(shard.start, shard.stop, batch_size):
            began = time.perf_counter()
            rows = list(itertools.islice(loaded, min(batch_size, shard.stop - start)))
            waited = time.perf_counter() - began
            begun.append(_begin(shard, start, rows, waited, here, prepare, size))
            if len(begun) > 1:  # one batch behind, so that a GPU has the next before it is asked for this
                yield begun.popleft()()
    while begun:
        yield begun.popleft()()


def _begin(
    shard: shards.Shard,
    start: int,
    rows: list[Loaded],
    waited: float,
    networks: dict[int, models.Network],
    prepare: "_Prepare",
    size: tuple[int, int, int],
) -> Callable[[], _Batch]:
    """Start the forward passes of one batch; calling the result waits for them and copies the logits back."""
    began = time.perf_counter()
    pictures = np.zeros((len(rows), *size), np.uint8)  # a failed row stays black, and its logits are thrown away
    for picture, row in zip(pictures, rows, strict=True):
        if row.pixels is not None:
            picture[:] = row.pixels
    x = prepare(pictures)
    outputs = {step: network(x) for step, network in networks.items()}
    light = [replace(row, pixels=None) for row in rows]
    seconds = time.perf_counter() - began

    def finish() -> _Batch:
        again = time.perf_counter()
        arrays = {
            step: (logits.cpu().numpy(), None if embedding is None else embedding.half().cpu().numpy())
            for step, (logits, embedding) in outputs.items()
        }
        return _Batch(shard, start, light, arrays, waited, seconds + time.perf_counter() - again)

    return finish


class _PartInProgress:
    """One part of one step while its rows arrive: buffers a row group, writes it, publishes at the end."""

    def __init__(
        self,
        out: Path,
        run: Run,
        scores: str,
        shard: shards.Shard,
        manifest: sources.Manifest,
        provenance: dict[str, Any],
    ) -> None:
        self._run, self._shard, self._manifest, self._provenance = run, shard, manifest, provenance
        further = manifest.columns.schema if manifest.columns.num_columns else None
        self.writer = store.PartWriter(store.part_path(out, run.step, shard.index), run, further)
        # One place for a row group's arrays: small ones that outlive their batch would keep the allocator from giving
        # the batches' large ones back (65 MB for 1,000 pictures of 96×96).
        group = min(store.group_rows(len(run.classes)), len(shard))
        self._logits = np.empty((group, len(run.classes)), np.float32)
        self._embeddings = np.empty((group, run.embedding), np.float16)
        self._rows: list[Loaded] = []
        self._start = shard.start
        self._scores, self._clipped = scores, 0
        self._began = time.time()
        self._seconds = {"decode": 0.0, "wait": 0.0, "forward": 0.0, "write": 0.0}

    def add(self, batch: _Batch) -> bool:
        """Take the next rows. -> whether they were the last and the part is published."""
        self._seconds["decode"] += sum(row.seconds for row in batch.rows)
        self._seconds["wait"] += batch.wait_seconds / len(batch.outputs)
        self._seconds["forward"] += batch.forward_seconds / len(batch.outputs)
        logits, embeddings = batch.outputs[self._run.step]
        done = batch.start + len(batch.rows) == self._shard.stop
        taken = 0
        while taken < len(batch.rows):
            filled = len(self._rows)
            take = min(len(batch.rows) - taken, len(self._logits) - filled)
            self._logits[filled : filled + take] = logits[taken : taken + take]
            if embeddings is not None:
                self._embeddings[filled : filled + take] = embeddings[taken : taken + take]
            self._rows += batch.rows[taken : taken + take]
            taken += take
            if len(self._rows) == len(self._logits) or (done and taken == len(batch.rows)):
                began = time.perf_counter()
                self._flush()
                self._seconds["write"] += time.perf_counter() - began
        if done:
            self.writer.publish(
                Part(
                    start=self._shard.start,
                    stop=self._shard.stop,
                    manifest_digest=self._manifest.digest(self._shard.start, self._shard.stop),
                    manifest_rows=len(self._manifest),
                    content_digest="",
                    started=self._began,
                    finished=time.time(),
                    seconds={name: round(value, 3) for name, value in self._seconds.items()},
                    provenance=self._provenance,
                    clipped=self._clipped,
                )
            )
        return done

    def _flush(self) -> None:
        rows = self._rows
        start, stop = self._start, self._start + len(rows)
        self._rows, self._start = [], stop
        m, schema = self._manifest, self.writer.schema
        found = [row.properties for row in rows]
        further: dict[str, Any] = {
            "digest": [row.digest for row in rows],
            "bytes": [row.length for row in rows],
            **{
                n: [None if p is None else getattr(p, n) for p in found]
                for n in ("width", "height", "brightness", "contrast")
            },
            **{n: m.columns.column(n).slice(start, len(rows)).combine_chunks() for n in m.columns.column_names},
        }
        if self._run.embedding:
            further["embedding"] = self._embeddings[: len(rows)]
        if self._run.thumbnails:
            further["thumbnail"] = [row.thumbnail for row in rows]
        self._logits[: len(rows)][[row.error is not None for row in rows]] = np.nan  # so that no failed row counts
        logits, clipped = to_logits(self._logits[: len(rows)], self._scores)
        self._clipped += clipped
        self.writer.write(
            Predictions.build(
                schema,
                id=np.arange(start, stop, dtype=np.int64),
                key=m.key[start:stop],
                image=m.image.slice(start, len(rows)),
                label=m.label[start:stop],
                logits=logits,
                error=[row.error for row in rows],
                further=further,
            )
        )


def _outcome(
    out: Path,
    manifest: sources.Manifest,
    steps: Sequence[int],
    written: int,
    seconds: Mapping[str, float],
    threads: int,
) -> Outcome:
    """Count what is on disk now."""
    counts = {}
    for number in steps:
        step = store.open_step(out, number)
        counts[number] = Count()
        for file in step.parts if step else ():
            for batch in store.batches(file, ("label", "predicted")):
                counts[number] = counts[number].plus(batch)
    return Outcome(out, len(manifest), counts, written, seconds, threads)
