"""What Python programs call, with objects or configurations: `infer`, `visualize`, `compare`, `gate`.

Knows not how they work.

A training loop lends its model for a moment and gets it back as it was.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from predboard.comparison.compare import CompareResult
from predboard.comparison.compare import compare as _compare
from predboard.config import CompareConfig, GateConfig, InferConfig, VisualizeConfig
from predboard.errors import InputError
from predboard.gating.evaluate import GateResult
from predboard.gating.gate import gate as _gate
from predboard.images import datasets
from predboard.inference.infer import InferResult, InMemoryModel
from predboard.inference.infer import infer as _infer
from predboard.storage.paths import AnyPath, is_path, parse_path
from predboard.storage.runs import list_step_numbers
from predboard.visualization.visualize import VisualizeResult
from predboard.visualization.visualize import visualize as _visualize

if TYPE_CHECKING:
    import torch

_NOT_HERE = frozenset(
    [
        "data",
        "model",
        "model_args",
        "checkpoint",
        "ema",
        "trust_checkpoint",
        "step",
        "out",
        "classes",
        "device",
        "overwrite",
        "engine",
        "ray_address",
        "actors",
        "gpus_per_actor",
        "cpus_per_actor",
    ]
)
"""Fields of a configuration that an argument or the object itself stands for."""


@overload
def infer(config: InferConfig, say: Callable[[str], None] = ..., /) -> InferResult: ...


@overload
def infer(
    model: "torch.nn.Module",
    data: "torch.utils.data.Dataset[Any] | datasets.MapStyle | str | AnyPath",
    out: str | AnyPath,
    *,
    step: int = 0,
    classes: Sequence[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = ...,
    **options: Any,
) -> InferResult: ...


def infer(model: Any, *arguments: Any, **named: Any) -> InferResult:
    """Run a model over images and write one row for every image to Parquet.

    Either with a configuration, which is what the command line does:

        infer(InferConfig(data="photos/test", model="net.py:build"), say)

    or with objects, from a training loop for example:

        infer(model, dataset, "predictions/mine", step=epoch)

    The model runs where it is. Afterwards its modes, device, memory format, `requires_grad`, gradients and hooks are as
    before. The digest of its weights is of that moment, so that each epoch is a step of one run.

    Args:
        model: a torch.nn.Module, of DistributedDataParallel the module inside is taken; or an InferConfig.
        data: a map-style dataset (docs/data.md), or what `--data` takes.
        out: folder to write the predictions to.
        step: training step, epoch, date.
        classes: names in the order of the outputs; by default the dataset's `classes`.
        overwrite: replace this step if it is there, made with other weights or not.
        say: takes a line of progress for a person.
        options: any other field of InferConfig, `batch_size` for example; `preflight` is 0 by default where the folder
            has a step already.

    Raises:
        InputError: for bad input, or if what is there does not fit; nothing already written is lost.
    """
    if isinstance(model, InferConfig):
        return _infer(model, *arguments, **named)
    with _python_names():
        return _infer_objects(model, *arguments, **named)


def _infer_objects(
    model: "torch.nn.Module",
    data: Any,
    out: str | AnyPath,
    *,
    step: int = 0,
    classes: Sequence[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> InferResult:
    known = {field.name for field in dataclasses.fields(InferConfig)} - _NOT_HERE
    if unknown := sorted(set(options) - known):
        raise InputError(f"infer has no option {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    import torch

    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or an InferConfig alone")
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module  # whose own forward would wait for the other processes
    source = None
    if not is_path(data):
        source = datasets.DatasetSource(datasets.check_map_style(data, type(data).__name__), type(data).__name__)
    if list_step_numbers(parse_path(out)):
        options.setdefault("preflight", 0)  # it was said of the first epoch
    name = type(model).__name__
    config = InferConfig(
        data=source.name if source else str(data),
        model=name,
        out=parse_path(out),
        step=(step,),
        overwrite=overwrite,
        device=str(next((t.device for t in [*model.parameters(), *model.buffers()]), "cpu")),
        **options,
    )
    with lent_model(model):
        return _infer(config, say, InMemoryModel(model, name, source, tuple(classes)))


@contextlib.contextmanager
def lent_model(module: "torch.nn.Module") -> Iterator[None]:
    """Give a module back as it was: modes, hooks, and the very tensors, however it was moved or laid out meanwhile."""
    parts = list(module.modules())
    modes = [part.training for part in parts]
    hooks = [(list(part._forward_pre_hooks), list(part._forward_hooks)) for part in parts]
    buffers = [dict(part._buffers) for part in parts]
    data = [(t, t.data) for p in module.parameters() for t in (p, p.grad) if t is not None]
    try:
        yield
    finally:
        for part, mode, (before, after), tensors in zip(parts, modes, hooks, buffers, strict=True):
            part.training = mode
            for found, kept in ((part._forward_pre_hooks, before), (part._forward_hooks, after)):
                for hook in [hook for hook in found if hook not in kept]:
                    del found[hook]
            part._buffers.update(tensors)
        for tensor, before_it in data:
            tensor.data = before_it


@overload
def visualize(config: VisualizeConfig, say: Callable[[str], None] = ..., /) -> tuple[VisualizeResult, ...]: ...


@overload
def visualize(
    predictions: str | AnyPath | Sequence[str | AnyPath],
    logdir: str | AnyPath = "logs",
    *,
    say: Callable[[str], None] = ...,
    **options: Any,
) -> tuple[VisualizeResult, ...]: ...


def visualize(predictions: Any, *arguments: Any, **named: Any) -> tuple[VisualizeResult, ...]:
    """Write the TensorBoard logs of one or more runs, without the model.

    Either with a configuration, `visualize(VisualizeConfig(...), say)`, or `visualize("predictions/mine", "logs")`.

    Args:
        predictions: a folder that `infer` wrote, or several; or a VisualizeConfig.
        logdir: folder for TensorBoard.
        say: takes a line of progress for a person.
        options: any other field of VisualizeConfig, `panels=("glance",)` for example.

    Raises:
        InputError: for bad input; the logs that are there stay as they are.
    """
    if isinstance(predictions, VisualizeConfig):
        return _visualize(predictions, *arguments, **named)
    with _python_names():
        return _visualize_folders(predictions, *arguments, **named)


def _visualize_folders(
    predictions: Any, logdir: str | AnyPath = "logs", *, say: Callable[[str], None] = lambda _: None, **options: Any
) -> tuple[VisualizeResult, ...]:
    known = {field.name for field in dataclasses.fields(VisualizeConfig)} - {"predictions", "logdir", "list"}
    if unknown := sorted(set(options) - known):
        raise InputError(f"visualize has no option {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    folders = [predictions] if is_path(predictions) else list(predictions)
    return _visualize(VisualizeConfig(tuple(map(parse_path, folders)), parse_path(logdir), **options), say)


@overload
def compare(config: CompareConfig, say: Callable[[str], None] = ..., /) -> CompareResult: ...


@overload
def compare(
    *predictions: str | AnyPath, logdir: str | AnyPath = "logs", say: Callable[[str], None] = ..., **options: Any
) -> CompareResult: ...


def compare(*predictions: Any, **named: Any) -> CompareResult:
    """Compare two runs image by image, without the models.

    Either with a configuration, `compare(CompareConfig(...), say)`, or `compare("predictions/old", "predictions/new")`.

    Args:
        predictions: folders that `infer` wrote, the old one first; one alone for its steps; or a CompareConfig.
        logdir: folder for TensorBoard.
        say: takes a line of progress for a person.
        options: any other field of CompareConfig, `step_old=3` for example.

    Raises:
        InputError: for bad input; what was written before stays as it is.
    """
    if predictions and isinstance(predictions[0], CompareConfig):
        return _compare(*predictions, **named)
    with _python_names():
        return _compare_folders(*predictions, **named)


def _compare_folders(
    *predictions: str | AnyPath,
    logdir: str | AnyPath = "logs",
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> CompareResult:
    known = {field.name for field in dataclasses.fields(CompareConfig)} - {"predictions", "logdir"}
    if unknown := sorted(set(options) - known):
        raise InputError(f"compare has no option {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    return _compare(CompareConfig(tuple(map(parse_path, predictions)), parse_path(logdir), **options), say)


@overload
def gate(config: GateConfig, say: Callable[[str], None] = ..., /) -> GateResult: ...


@overload
def gate(
    predictions: str | AnyPath,
    rules: str | Path | Sequence[Mapping[str, Any]],
    baseline: str | AnyPath | None = None,
    *,
    say: Callable[[str], None] = ...,
    **options: Any,
) -> GateResult: ...


def gate(predictions: Any, *arguments: Any, **named: Any) -> GateResult:
    """Test predictions against rules, without the model and without drawing anything.

    Either with a configuration, `gate(GateConfig(...), say)`, or with the rules at hand:

        gate("predictions/new", [{"metric": "accuracy", "min": 0.94, "bound": "lower"}]).outcome

    Args:
        predictions: a folder that `infer` wrote; or a GateConfig.
        rules: a TOML file, or a mapping for each rule with the same keys (docs/gates.md).
        baseline: a folder to compare with, for rules with `max_drop`.
        say: takes a line of progress for a person.
        options: any other field of GateConfig, `step=3` or `junit=Path("gate.xml")` for example.

    Returns:
        the verdicts: `outcome` is "pass", "fail" or "too little evidence", `code` what the command would exit with,
        `verdicts` has each rule with its findings.

    Raises:
        InputError: for bad input, such as a rule that is not understood.
    """
    if isinstance(predictions, GateConfig):
        return _gate(predictions, *arguments, **named)
    with _python_names():
        return _gate_folder(predictions, *arguments, **named)


def _gate_folder(
    predictions: str | AnyPath,
    rules: str | Path | Sequence[Mapping[str, Any]],
    baseline: str | AnyPath | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> GateResult:
    known = {field.name for field in dataclasses.fields(GateConfig)} - {"predictions", "rules", "baseline", "suggest"}
    if unknown := sorted(set(options) - known):
        raise InputError(f"gate has no option {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    options |= {name: Path(options[name]) for name in ("junit", "json", "markdown") if options.get(name) is not None}
    file = Path(rules) if isinstance(rules, str | os.PathLike) else None
    base = None if baseline is None else parse_path(baseline)
    return _gate(GateConfig(parse_path(predictions), file, base, **options), say, None if file else list(rules))  # type: ignore[arg-type]  # no path, so mappings


@contextlib.contextmanager
def _python_names() -> Iterator[None]:
    """Messages that say `batch_size=` and `overwrite=True` where the command line says --batch-size and --overwrite."""
    every = (InferConfig, VisualizeConfig, CompareConfig, GateConfig)
    flags = {f.name for one in every for f in dataclasses.fields(one) if f.type is bool}

    def argument(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return f"{name}=True" if name in flags else f"{name}="

    try:
        yield
    except InputError as error:
        parts = str(error).split("`")  # every other one is a command, which stays as it is
        parts[::2] = [re.sub(r"--([a-z][a-z-]*[a-z])", argument, part) for part in parts[::2]]
        said = "`".join(parts)
        raise type(error)(said) from error
