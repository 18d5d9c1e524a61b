"""Stage one, one straight function: images -> model -> Parquet. Knows nothing of TensorBoard or of what is drawn later.

What there is to do is settled here; `work` does it.
"""

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from predboard import user_code
from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import datasets
from predboard.images import loader as loading
from predboard.images.class_names import match_class_names
from predboard.images.loader_checks import check_repeatable, load_first, with_value_range
from predboard.images.manifest import Manifest
from predboard.images.preprocessing import Recipe
from predboard.inference import resume
from predboard.models.checkpoints import assign_steps, digest_weights
from predboard.models.devices import is_out_of_memory, module_bytes
from predboard.models.factory import open_factory, require_torch
from predboard.models.network import Network
from predboard.parallel.threads import worker_count
from predboard.predictions.derive import to_logits
from predboard.predictions.schema import Run
from predboard.predictions.table import RowCount
from predboard.storage import shards, timing
from predboard.storage.locks import lock_folder
from predboard.storage.parts import PartFile, part_index, read_batches
from predboard.storage.paths import AnyPath, map_files
from predboard.storage.remote import MAX_CONNECTIONS
from predboard.storage.runs import delete_part, open_step

if TYPE_CHECKING:
    import torch

    from predboard.inference import dispatch
    from predboard.inference.worker import Job


@dataclass(frozen=True)
class InferResult:
    """What stage one leaves."""

    out: AnyPath
    manifest_rows: int
    steps: dict[int, RowCount]
    """Rows of each step, as they are on disk when stage one ends."""
    written: int
    """Rows that this call inferred, over all steps."""
    seconds: Mapping[str, float]
    """Where this call's time went: `wall`, and of all devices together those of `timing`."""
    threads: int
    """That read and decoded, for each device."""
    share: shards.Share
    """Of the parts, that this call was to make."""
    rows: int
    """That every step should have in this share."""

    @property
    def bottleneck(self) -> str:
        """One line on where the time went, and which flag would help; empty if there was too little of it to tell."""
        told = timing.describe_seconds(self.seconds, self.threads)
        return f"{self.written / self.seconds['wall']:,.0f} rows/s: {told}" if told and self.written else ""

    @property
    def complete(self) -> bool:
        """Whether every step has one row for every row of the manifest, or of this share of it."""
        return all(c.rows == self.rows for c in self.steps.values())

    @property
    def failed(self) -> int:
        """Most failed rows of any step."""
        return max(c.failed for c in self.steps.values())


@dataclass(frozen=True)
class InMemoryModel:
    """Objects of the caller's program, in place of what the configuration names."""

    module: "torch.nn.Module"
    name: str
    dataset: datasets.DatasetSource | None
    """None if the configuration names the data."""
    classes: tuple[str, ...] = ()
    code: str = ""
    recipe: Recipe | None = None
    """No library says what the caller does to pictures."""

    def build(self, _: Path | None = None, __: Callable[[str], None] | None = None) -> "torch.nn.Module":
        """The module itself, with the weights of this moment."""
        return self.module


def default_out(data: str, model: str) -> Path:
    """Folder for the predictions of a model on data: predictions/DATA-FILE-FACTORY.

    >>> default_out("photos/test/", "nets/small.py:build").as_posix()
    'predictions/test-small-build'
    >>> [default_out("tiles.py:val", m).name for m in ("timm:resnet18.a1_in1k", "hf:out/vit", "out/net.pt2")]
    ['val-timm-resnet18.a1_in1k', 'val-hf-vit', 'val-net']
    """
    images = data.rpartition(":")[2] if user_code.names_an_object(data) else Path(data).name
    file, colon, factory = model.rpartition(":")
    name = f"{Path(file).stem.replace(':', '-')}-{Path(factory).name}" if colon else Path(model).stem
    return Path("predictions") / f"{images or 'data'}-{name}"


def infer(
    config: InferConfig, say: Callable[[str], None] = lambda _: None, live: InMemoryModel | None = None
) -> InferResult:
    """Run the model over the images and write one row for every image of every step.

    Parts that are there already and still valid are kept, so a run that was killed continues where it stopped.

    Args:
        config: what to do.
        say: takes a line of progress for a person.
        live: the model, and the dataset if it is one, as objects.

    Raises:
        InputError: for bad input, or if what is there does not fit; nothing already written is lost.
    """
    require_torch()
    from predboard.inference import dispatch

    with dispatch.open_placement(config, say) as site:
        return _infer(config, say, live, site)


def _infer(
    config: InferConfig, say: Callable[[str], None], live: InMemoryModel | None, site: "dispatch.Placement"
) -> InferResult:
    import torch

    from predboard.inference import dispatch
    from predboard.inference.forward import Normalizer, default_batch_size, out_of_memory_error
    from predboard.inference.preflight import preflight
    from predboard.inference.worker import Job, build_module

    manifest = loading.open_manifest(config, *((live.dataset, live.classes) if live else ()))
    steps = assign_steps(config.checkpoint, config.step)
    factory = live or open_factory(config.model, config.model_args, ema=config.ema, trust=config.trust_checkpoint)
    out = config.out or default_out(config.data, config.model)
    device = site.trial_device
    share = shards.WHOLE_RUN if config.part is None else shards.Share(*config.part)
    classes = plural(len(manifest.classes), "class", "classes") if manifest.classes else "unnamed classes"
    say(f"{plural(len(manifest), 'image')}, {classes}, in {manifest.origin}")
    for note in manifest.notes:
        say(f"warning: {note}")

    loader = loading.make_loader(config, manifest, factory.recipe)
    sample = load_first(loader)
    warnings = []
    if manifest.is_dataset:
        if warning := check_repeatable(loader, worker_count(config.workers)):
            say(f"warning: {warning}")
            warnings.append(warning)
        if loader.thumbnails.longest and sample.dtype != np.uint8:
            loader = with_value_range(loader, worker_count(config.workers))
    if config.preview_bands and max(config.preview_bands) >= (channels := loading.image_size(sample)[2]):
        wrong = max(config.preview_bands)
        raise InputError(f"there is no band {wrong} in {channels} channels, counted from 0: see --preview-bands")
    transform = _transform(config, loader, sample)
    say(f"preprocessing: {_described(config, transform)}")
    prepare = Normalizer(device, loader.preprocessing.mean, loader.preprocessing.std)
    memory = site.memory
    batch_size = config.batch_size or default_batch_size(site.devices[0], sample, memory)
    kept: dict[int, torch.nn.Module] = {}
    runs: dict[int, Run] = {}
    outputs = 0
    together = 0  # how many models are in memory at a time, in half of it: each image is decoded once for these
    for step, file in steps.items():
        module = factory.build(file, say)
        together = together or max(1, memory // 2 // max(module_bytes(module), 1))
        if not site.in_this_process:
            kept.clear()  # the last one is enough for the preflight: each worker has its own
        if len(kept) < together:
            kept[step] = module
        wanted = config.embedding_layer or config.embeddings
        network = Network(module, device, config.precision, wanted, advice=_advice(transform))
        try:
            logits, dims = network.probe(prepare(sample[None]))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise out_of_memory_error(device) from error
            raise
        to_logits(logits.cpu().numpy(), config.scores)
        if runs and logits.shape[1] != outputs:
            raise InputError(f"{file} gives {logits.shape[1]} outputs, the steps before {outputs}; expected one number")
        outputs = logits.shape[1]
        if config.classes is None and not runs:
            manifest, line = match_class_names(manifest, factory.recipe, outputs)
            if line:
                say(line)
        runs[step] = Run(
            classes=_classes(manifest, outputs),
            model=factory.name,
            step=step,
            model_args=dict(config.model_args),
            code=factory.code,
            weights=digest_weights(module),
            transform=transform,
            precision=config.precision,
            root=manifest.root,
            shard_size=config.shard_size,
            embedding=dims,
            embedding_layer=config.embedding_layer or "",
            thumbnails=loader.thumbnails.longest,
            scores="logits" if config.scores == "logits" else "log_probabilities",
        )
    numbers = ", ".join(map(str, steps))
    say(f"model {factory.name}, {outputs} classes, steps {numbers}; {site.description}; {config.precision}")

    manifest = manifest.drop_labels_above(outputs)
    if not manifest.is_dataset and (unknown := int((manifest.label < 0).sum())):
        said = f"{unknown:,} of {len(manifest):,} images have no label among the classes"
        names = runs[next(iter(runs))].classes
        say(f"{said} ({', '.join(names[:3])}{'…' * (len(names) > 3)}): see --label-column and --classes")
    loader = replace(loader, manifest=manifest)
    plan = shards.plan_shards(len(manifest), config.shard_size)

    with lock_folder(out, share=share):
        checked = {
            step: resume.find_missing(
                out, run, plan, manifest, update=config.update, overwrite=config.overwrite, say=say, share=share
            )
            for step, run in runs.items()
        }
        for path in itertools.chain.from_iterable(invalid for _, invalid in checked.values()):
            delete_part(path)  # only now that no step is refused
        lacking: dict[int, dict[shards.Shard, range | tuple[int, ...]]] = {
            step: {shard: shard.ids for shard in of_step} for step, (of_step, _) in checked.items()
        }
        mine = [shard for shard in plan if share.holds(shard.index)]
        if valid := sum(len(mine) - len(of_step) for of_step in lacking.values()):
            say(f"{valid} of {len(mine) * len(steps)} parts in {out} are there already and valid")
        if config.retry_errors:
            again = {s: resume.failed_rows(out, s, [p for p in mine if p not in lacking[s]]) for s in steps}
            rows = sum(len(ids) for of_step in again.values() for ids in of_step.values())
            say(f"{plural(rows, 'row that has an error is', 'rows that have an error are')} tried again")
            lacking = {step: {**of_step, **again[step]} for step, of_step in lacking.items()}
        threads = site.threads
        if manifest.is_remote and not config.workers:  # which wait for what they asked for, most of the time
            threads = max(threads, MAX_CONNECTIONS)
        job = Job(config, loader, sample, steps, runs, out, threads, batch_size, tuple(warnings))
        given = shards.plan_tasks(lacking, together)

        def built(number: int) -> torch.nn.Module:
            return build_module(factory.build, steps[number], runs[number])

        if given and config.preflight:
            on = [device] * len(site.devices)
            job = preflight(job, on, lambda s: kept[s] if s in kept else built(s), given, factory.recipe, say)
        if not site.in_this_process:
            kept.clear()

        def modules(number: int) -> torch.nn.Module:
            return kept.pop(number) if number in kept else built(number)

        began = time.perf_counter()
        total, written, failed = sum(task.rows for task in given), 0, 0
        with tqdm(total=total, unit=" rows", desc="infer", disable=None, file=sys.stderr) as bar:

            def wrote(rows: int, of_them_failed: int) -> None:
                nonlocal written, failed
                written += rows
                failed += of_them_failed
                bar.update(rows)
                if config.max_failures is not None and failed > config.max_failures:
                    raise InputError(
                        f"{plural(failed, 'row')} failed, more than --max-failures {config.max_failures}: the column "
                        f"error of {out} says why; what was published is safe, and --retry-errors tries those again"
                    )

            seconds = dispatch.dispatch(job, site, modules, given, wrote, say)
        seconds["wall"] = time.perf_counter() - began
        return _outcome(job, share, mine, written, seconds)


def _advice(transform: Mapping[str, Any]) -> str:
    """What to do where the model cannot take the pictures: flags change neither floats nor many channels."""
    if transform.get("floats") or transform["size"][2] not in (1, 3):
        return (
            f"{transform.get('function') or transform.get('dataset') or 'the dataset'} gives them so: change it there"
        )
    return "see --resize, --crop and --channels"


def _transform(config: InferConfig, loader: loading.Loader, sample: NDArray[Any]) -> dict[str, Any]:
    """What becomes of a picture, for the record. Raises InputError for flags that would not be obeyed."""
    size, preprocessing = loading.image_size(sample), loader.preprocessing
    if sample.dtype != np.uint8:  # ready for the model
        if given := [f"--{n}" for n in ("resize", "crop", "mean", "std") if getattr(config, n) not in (None, "none")]:
            raise InputError(
                f"{', '.join(given)} cannot change floats, which are taken as ready for the model: leave it out, or "
                "give pictures or uint8"
            )
        source = {} if preprocessing.function_of_library else {"source": config.transform or "the dataset"}
        unused = {"resize": None, "crop": None, "only_crop": False}  # what a library may say of pictures
        return {**loader.record(), **unused, "size": list(size), "floats": True, **source}
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (1, size[2]):
            raise InputError(
                f"--{name} has {len(values)} numbers (from {preprocessing.source}); expected 1 or {size[2]}, one for "
                "each channel"
            )
    return {**loader.record(), "mean": list(preprocessing.mean), "std": list(preprocessing.std), "size": list(size)}


def _described(config: InferConfig, transform: Mapping[str, Any]) -> str:
    """Say in one line what is done to a picture before the model gets it, and where that comes from."""
    if transform.get("floats"):
        return f"by {transform['source']}"
    steps = []
    if (resize := transform["resize"]) is not None:
        exact = "×".join(map(str, resize)) if isinstance(resize, tuple) else resize
        steps.append(f"resize {exact} {transform['interpolation']}")
    if transform["crop"] is not None:
        steps.append(f"crop {transform['crop']}")
    if transform["source"] == "flags" and config.mean is config.std is None:
        return f"{', '.join(steps) or 'none'} (no --mean/--std given); the model gets x/255"
    steps += [f"{name} {' '.join(f'{value:.4g}' for value in transform[name])}" for name in ("mean", "std")]
    return f"{', '.join(steps)}, from {transform['source']}"


def _classes(manifest: Manifest, outputs: int) -> tuple[str, ...]:
    if manifest.classes and len(manifest.classes) != outputs:
        names = ", ".join((*manifest.classes[:3], *["…"] * (len(manifest.classes) > 3)))
        raise InputError(
            f"{manifest.origin} (or --classes) has {len(manifest.classes)} classes ({names}), the model gives "
            f"{outputs} outputs: expected as many, in the order of the outputs; --classes FILE names them"
        )
    return manifest.classes or tuple(map(str, range(outputs)))


def _outcome(
    job: "Job", share: shards.Share, mine: Sequence[shards.Shard], written: int, seconds: Mapping[str, float]
) -> InferResult:
    """Count what is on disk now."""
    indices = {shard.index for shard in mine}
    counts = {}
    for number in job.steps:
        step = open_step(job.out, number, None if share == shards.WHOLE_RUN else lambda _, __: None)
        files = [file for file in step.parts if part_index(file.path) in indices] if step else []
        counts[number] = RowCount()
        for of_file in map_files(_count, files, job.out):
            counts[number] = counts[number] + of_file
    rows = sum(map(len, mine))
    return InferResult(job.out, len(job.loader.manifest), counts, written, seconds, job.threads, share, rows)


def _count(file: PartFile) -> RowCount:
    counted = RowCount()
    for batch in read_batches(file, ("label", "predicted")):
        counted = counted.add_batch(batch)
    return counted
