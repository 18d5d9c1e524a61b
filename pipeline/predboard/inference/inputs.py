"""Opens what stage one works on: the images with their preprocessing, and the model of every step. It writes nothing,
and knows nothing of parts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from predboard.config import InferConfig, PreprocessingConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import loader as loading
from predboard.images.class_names import match_class_names
from predboard.images.loader import Loader
from predboard.images.loader_checks import check_repeatable, load_first, with_value_range
from predboard.images.manifest import Manifest
from predboard.images.preprocessing import Recipe
from predboard.inference.dispatch import Placement
from predboard.inference.forward import Normalizer, out_of_memory_error
from predboard.inference.worker import build_module
from predboard.models.devices import is_out_of_memory, module_bytes
from predboard.models.network import Network
from predboard.models.weights import digest_weights, list_some
from predboard.parallel.threads import worker_count
from predboard.predictions.derive import to_logits
from predboard.predictions.multi_label.derive import to_multi_label_logits
from predboard.predictions.positive_class import choose_positive
from predboard.predictions.schema import MULTI_LABEL, PROBABILITIES_AS, SINGLE_LABEL, Run


class ModelSource(Protocol):
    """Builds the module of each step: a `models.factory.ModelFactory`, or a module of the caller's program."""

    @property
    def name(self) -> str:
        """Name of the model in the record."""
        ...

    @property
    def code(self) -> str:
        """Digest of the model's code; empty if unknown."""
        ...

    @property
    def recipe(self) -> Recipe | None:
        """The preprocessing that comes with the model, if any."""
        ...

    def find_random(self, built: torch.nn.Module, /) -> tuple[str, ...]:
        """Return the names of the weights that are random in a module that was built without a checkpoint."""
        ...

    def build(self, file: Path | None = ..., log: Callable[[str], None] = ..., /) -> torch.nn.Module:
        """Return the module with the weights of a checkpoint. Raises InputError if these do not fit."""
        ...


# --- images ---


@dataclass(frozen=True)
class Inputs:
    """The images of a run, and how they become what the model takes."""

    loader: Loader
    sample: NDArray[Any]
    """The first picture that can be read, prepared; all others must have its shape and type."""
    transform: Mapping[str, Any]
    """The preprocessing, as the predictions record it."""
    warnings: tuple[str, ...]
    """Warnings about the dataset, for the record."""


def open_inputs(config: InferConfig, manifest: Manifest, recipe: Recipe | None, log: Callable[[str], None]) -> Inputs:
    """Decide how the images of a manifest are prepared, and load the first one.

    Args:
        config: its flags take precedence over the recipe.
        manifest: the images.
        recipe: the preprocessing that comes with the model, if any.
        log: takes a line for the user.

    Raises InputError if no image can be read, or for flags that do not fit the images.
    """
    classes = plural(len(manifest.classes), "class", "classes") if manifest.classes else "unnamed classes"
    log(f"{plural(len(manifest), 'image')}, {classes}, in {manifest.origin}")
    if manifest.reading:
        log(manifest.reading)
    for note in manifest.notes:
        log(f"warning: {note}")
    loader = loading.make_loader(config, manifest, recipe)
    sample = load_first(loader)
    threads = worker_count(config.workers)
    warnings: tuple[str, ...] = ()
    if manifest.is_dataset:
        if warning := check_repeatable(loader, threads):
            log(f"warning: {warning}")
            warnings = (warning,)
        if loader.thumbnails.longest and sample.dtype != np.uint8:
            loader = with_value_range(loader, threads)
    channels = loading.image_size(sample)[2]
    if config.preview_bands and max(config.preview_bands) >= channels:
        raise InputError(
            f"--preview-bands names band {max(config.preview_bands)}, but the images have {channels} channels "
            f"(0 to {channels - 1})"
        )
    transform = _transform_record(config, loader, sample)
    log(f"preprocessing: {describe_transform(config, transform)}")
    return Inputs(loader, sample, transform, warnings)


def _transform_record(config: PreprocessingConfig, loader: Loader, sample: NDArray[Any]) -> dict[str, Any]:
    """Return the preprocessing for the record. Raises InputError for flags that would have no effect."""
    size, preprocessing = loading.image_size(sample), loader.preprocessing
    if sample.dtype != np.uint8:  # ready for the model
        flags = [f"--{n}" for n in ("resize", "crop", "mean", "std") if getattr(config, n) not in (None, "none")]
        if flags:
            raise InputError(
                f"{', '.join(flags)}: the dataset gives floats, which go to the model as they are; leave the flag out, "
                "or give pictures or uint8 arrays"
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


def describe_transform(config: PreprocessingConfig, transform: Mapping[str, Any]) -> str:
    """Return one line about what is done to a picture before the model gets it, and where that comes from."""
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


# --- models ---


class ModuleCache:
    """Keeps the modules of the first few steps in memory, and builds any other on demand."""

    def __init__(self, source: ModelSource, files: Mapping[int, Path | None], runs: Mapping[int, Run]) -> None:
        """Keep nothing yet. Raises InputError when a module is built whose weights are not those of its run."""
        self._source, self._files, self._runs = source, files, runs
        self._modules: dict[int, torch.nn.Module] = {}

    def add(self, step: int, module: torch.nn.Module, capacity: int) -> None:
        """Keep a module, unless there are `capacity` of them already."""
        if len(self._modules) < capacity:
            self._modules[step] = module

    def clear(self) -> None:
        """Let go of all modules."""
        self._modules.clear()

    def get(self, step: int) -> torch.nn.Module:
        """Return the module of a step."""
        return self._modules[step] if step in self._modules else self._build(step)

    def take(self, step: int) -> torch.nn.Module:
        """Return the module of a step, and let go of it."""
        return self._modules.pop(step) if step in self._modules else self._build(step)

    def _build(self, step: int) -> torch.nn.Module:
        return build_module(self._source.build, self._files[step], self._runs[step])


@dataclass(frozen=True)
class StepModels:
    """The model of every step, each tried on one picture."""

    files: Mapping[int, Path | None]
    """The checkpoint of each step; None if the model has weights of its own."""
    runs: Mapping[int, Run]
    """Identity of the predictions of each step."""
    manifest: Manifest
    """The manifest with the names of the classes, and labels that the model has outputs for."""
    modules: ModuleCache
    per_pass: int
    """Models that fit into half of a device's memory: each picture is decoded once for so many steps."""
    random: str = ""
    """A warning that the weights are random; empty if they are not."""
    single_output: bool = False
    """Whether the model has one output, for the positive one of two classes."""


def open_models(
    config: InferConfig,
    source: ModelSource,
    files: Mapping[int, Path | None],
    inputs: Inputs,
    placement: Placement,
    log: Callable[[str], None],
) -> StepModels:
    """Build the model of every step, and send one picture through each.

    Args:
        config: says what is recorded of the run.
        source: builds the modules.
        files: the checkpoint of each step.
        inputs: has the picture.
        placement: has the device on which it is tried.
        log: takes a line for the user.

    Raises InputError if a checkpoint does not fit the model, or if the outputs fit neither the classes, nor --scores,
    nor those of the other steps.
    """
    manifest = inputs.loader.manifest
    runs: dict[int, Run] = {}
    modules = ModuleCache(source, files, runs)
    given = outputs = per_pass = 0
    random, one_of_two = "", False
    for step, file in files.items():
        module = source.build(file, log)
        random = random or ("" if file else _describe_random(source, module))
        per_pass = per_pass or max(1, placement.memory // 2 // max(module_bytes(module), 1))
        if not placement.in_this_process:
            modules.clear()  # each worker builds its own; the last one is for the preflight
        modules.add(step, module, per_pass)
        logits, embedding = _try_out(config, module, inputs, placement.trial_device)
        if runs and logits.shape[1] != given:
            raise InputError(f"{file} has {logits.shape[1]} outputs, the steps before it {given}; expected as many")
        given = logits.shape[1]
        one_of_two = given == 1 and config.task == SINGLE_LABEL
        if config.task == MULTI_LABEL:  # either raises if they are not what --scores says
            to_multi_label_logits(logits, config.scores)
        else:
            to_logits(logits, config.scores, 1 if one_of_two else None)
        outputs = 2 if one_of_two else given
        if config.classes is None and not runs:
            manifest, line = match_class_names(manifest, source.recipe, outputs)
            if line:
                log(line)
        classes = _two_class_names(manifest) if one_of_two else _class_names(manifest, outputs)
        positive = choose_positive(classes, config.positive) if config.task == SINGLE_LABEL else ""
        runs[step] = Run(
            classes=classes,
            positive=positive,
            model=source.name,
            step=step,
            model_args=dict(config.model_args),
            code=source.code,
            weights=digest_weights(module),
            transform=inputs.transform,
            precision=config.precision,
            root=manifest.root,
            shard_size=config.shard_size,
            embedding=embedding,
            embedding_layer=config.embedding_layer or "",
            thumbnails=inputs.loader.thumbnails.longest,
            scores="logits" if config.scores == "logits" else PROBABILITIES_AS[config.task],
            task=config.task,
        )
    steps = ", ".join(map(str, files))
    log(f"model {source.name}, {outputs} classes, steps {steps}; {placement.description}; {config.precision}")
    run = runs[next(iter(runs))]
    if one_of_two:
        other = run.classes[1 - run.positive_index]
        log(f"one output, which speaks for {run.positive_class}; if it speaks for {other}: --positive {quote(other)}")
    manifest = manifest.fit_labels(outputs)
    _log_unlabelled(manifest, run.classes, log)
    if random:
        log(f"warning: {random}")
    return StepModels(files, runs, manifest, modules, per_pass, random, one_of_two)


def _describe_random(source: ModelSource, built: torch.nn.Module) -> str:
    """Return a warning for weights that no training has made; empty if there are none."""
    names = source.find_random(built)
    if not names:
        return ""
    return f"random weights: there is no --checkpoint, and {source.name} makes {list_some(list(names))} at random"


def _try_out(
    config: InferConfig, module: torch.nn.Module, inputs: Inputs, device: torch.device
) -> tuple[NDArray[np.float32], int]:
    """Send the sample through a model; return its outputs [1, classes or 1] and the width of its embeddings."""
    embeddings = config.embedding_layer or config.embeddings
    network = Network(module, device, config.precision, embeddings, advice=_advice(inputs.transform))
    normalizer = Normalizer(device, inputs.loader.preprocessing.mean, inputs.loader.preprocessing.std)
    try:
        logits, embedding = network.probe(normalizer(inputs.sample[None]), config.scores, config.task)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory_error(device) from error
        raise
    return logits.cpu().numpy(), embedding


def _advice(transform: Mapping[str, Any]) -> str:
    """Return what to change if the model cannot take the pictures."""
    if transform.get("floats") or transform["size"][2] not in (1, 3):  # flags change neither floats nor many channels
        source = transform.get("function") or transform.get("dataset") or "the dataset"
        return f"{source} makes them so: change it there"
    return "see --resize, --crop and --channels"


def _class_names(manifest: Manifest, outputs: int) -> tuple[str, ...]:
    """Return a name for each output. Raises InputError if the manifest has another number of classes."""
    if manifest.classes and len(manifest.classes) != outputs:
        names = ", ".join((*manifest.classes[:3], *["…"] * (len(manifest.classes) > 3)))
        has, gives = plural(len(manifest.classes), "class", "classes"), plural(outputs, "output")
        raise InputError(
            f"{manifest.origin} (or --classes) has {has} ({names}), the model gives {gives}; expected one class for "
            "each output, in their order: name them with --classes FILE"
        )
    return manifest.classes or tuple(map(str, range(outputs)))


def _two_class_names(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the two classes of a model with one output.

    Raises InputError if the manifest names other than two, and its labels are not the numbers 0 and 1.
    """
    label = manifest.class_label[manifest.class_label >= 0]
    if not manifest.classes and set(np.unique(label).tolist()) == {0, 1}:
        return "0", "1"
    if len(manifest.classes) != 2:
        names = plural(len(manifest.classes), "class", "classes") if manifest.classes else "no classes by name"
        raise InputError(
            f"the model has a single output, which speaks for one of two classes, and {manifest.origin} has {names}; "
            "expected two: name them with --classes FILE, the one that the output speaks for last (or --positive NAME)"
        )
    return manifest.classes


def _log_unlabelled(manifest: Manifest, classes: tuple[str, ...], log: Callable[[str], None]) -> None:
    """Tell the user how many images have no label, unless they are items of a dataset, which may have their own."""
    unlabelled = manifest.unlabelled
    if unlabelled and not manifest.is_dataset:
        names = ", ".join((*classes[:3], *["…"] * (len(classes) > 3)))
        log(
            f"{unlabelled:,} of {len(manifest):,} images have no label among the classes ({names}): see --label-column "
            "and --classes"
        )


def with_manifest(inputs: Inputs, manifest: Manifest) -> Inputs:
    """Return the inputs with the manifest that `open_models` completed."""
    return replace(inputs, loader=replace(inputs.loader, manifest=manifest))
