"""Offer the commands to Python programs as functions, with objects or with configurations.

A training loop lends its model for a moment and gets it back unchanged. This module knows nothing of how the functions
work.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from predboard.comparison.compare import CompareResult
from predboard.comparison.compare import compare as _compare
from predboard.composition.combine import combine as _combine
from predboard.composition.merge import merge as _merge
from predboard.composition.new_step import CompositionResult
from predboard.composition.take import take as _take
from predboard.config import (
    CombineConfig,
    CompareConfig,
    GateConfig,
    ImportConfig,
    ImportedKind,
    InferConfig,
    MergeConfig,
    TakeConfig,
    VisualizeConfig,
)
from predboard.errors import InputError
from predboard.gating.evaluate import GateResult
from predboard.gating.gate import gate as _gate
from predboard.images import datasets
from predboard.inference.infer import InferResult, InMemoryModel
from predboard.inference.infer import infer as _infer
from predboard.ingest.ingest import ImportResult
from predboard.ingest.ingest import import_predictions as _import
from predboard.python_options import call_with_folders, check_options, python_names
from predboard.storage.paths import AnyPath, is_path, parse_path
from predboard.storage.runs import list_step_numbers
from predboard.streams import print_warning
from predboard.visualization.visualize import VisualizeResult
from predboard.visualization.visualize import visualize as _visualize

if TYPE_CHECKING:
    import torch

Log = Callable[[str], None]
"""Takes one line of progress for a person."""


@overload
def infer(config: InferConfig, log: Log = ..., /) -> InferResult: ...


@overload
def infer(
    model: "torch.nn.Module",
    data: "torch.utils.data.Dataset[Any] | datasets.MapStyle | str | AnyPath",
    out: str | AnyPath,
    *,
    step: int = 0,
    classes: Sequence[str] = (),
    overwrite: bool = False,
    log: Log = ...,
    **options: Any,
) -> InferResult: ...


def infer(model: Any, *arguments: Any, **named: Any) -> InferResult:
    """Run a model over images and write one row per image to Parquet.

    Call it either with a configuration, as the command line does:

        infer(InferConfig(data="photos/test", model="net.py:build"), log)

    or with objects, from a training loop for example:

        infer(model, dataset, "predictions/mine", step=epoch)

    The model runs where it is. Afterwards its modes, device, memory format, `requires_grad`, gradients and hooks are as
    before. The digest of its weights is taken at the time of the call, so each epoch is one step of one run.

    Args:
        model: a torch.nn.Module (of a DistributedDataParallel, the module inside is used), or an InferConfig.
        data: a map-style dataset (docs/data.md), or anything `--data` takes.
        out: folder for the predictions.
        step: training step, epoch or date.
        classes: class names in the order of the outputs; by default the dataset's `classes`.
        overwrite: replace this step if it exists, whichever weights it was made with.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of InferConfig, such as `batch_size`. `preflight` is 0 by default if the folder already
            has a step.

    Raises:
        InputError: for bad input, or if the step on disk does not fit; nothing already written is lost.
    """
    if isinstance(model, InferConfig):
        return _infer(model, *arguments, **named)
    with python_names():
        return _infer_objects(model, *arguments, **named)


def _infer_objects(
    model: "torch.nn.Module",
    data: Any,
    out: str | AnyPath,
    *,
    step: int = 0,
    classes: Sequence[str] = (),
    overwrite: bool = False,
    log: Log = print_warning,
    **options: Any,
) -> InferResult:
    check_options("infer", InferConfig, options)
    import torch

    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or an InferConfig alone")
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module  # its own forward would wait for the other processes
    source = None
    if not is_path(data):
        source = datasets.DatasetSource(datasets.check_map_style(data, type(data).__name__), type(data).__name__)
    if not is_path(out):
        raise InputError(f"out is {out!r}; expected a folder for the predictions")
    folder = parse_path(out)
    if list_step_numbers(folder):
        options.setdefault("preflight", 0)  # the first epoch had one
    name = type(model).__name__
    config = InferConfig(
        data=source.name if source else str(data),
        model=name,
        out=folder,
        step=step,  # type: ignore[arg-type]  # one number is a tuple of one
        overwrite=overwrite,
        device=str(next((t.device for t in [*model.parameters(), *model.buffers()]), "cpu")),
        **options,
    )
    with lent_model(model):
        return _infer(config, log, InMemoryModel(model, name, source, tuple(classes)))


@contextlib.contextmanager
def lent_model(module: "torch.nn.Module") -> Iterator[None]:
    """Restore a module at the end: its modes, its hooks and the very same tensors, however they were moved."""
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
            for now, old in ((part._forward_pre_hooks, before), (part._forward_hooks, after)):
                for hook in [hook for hook in now if hook not in old]:
                    del now[hook]
            part._buffers.update(tensors)
        for tensor, values in data:
            tensor.data = values


@overload
def import_predictions(config: ImportConfig, log: Log = ..., /) -> ImportResult: ...


@overload
def import_predictions(
    files: str | Path | Sequence[str | Path],
    scores: ImportedKind,
    out: str | AnyPath | None = None,
    *,
    log: Log = ...,
    **options: Any,
) -> ImportResult: ...


def import_predictions(files: Any, *arguments: Any, **named: Any) -> ImportResult:
    """Import the predictions of another program: one row for each of theirs, in their order.

    Call it either with a configuration, `import_predictions(ImportConfig(...), log)`, or with files,
    `import_predictions("probs.npz", "probabilities")`.

    Args:
        files: one or several files with scores, or an ImportConfig.
        scores: kind of the scores: logits, probabilities, log_probabilities or confidence.
        out: folder for the predictions. Default: predictions/NAME of the first file.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of ImportConfig, such as `classes="names.txt"`.

    Raises:
        InputError: for bad input, or scores that are not what they are said to be; nothing already written is lost.
    """
    if isinstance(files, ImportConfig):
        return _import(files, *arguments, **named)
    with python_names():
        return _import_files(files, *arguments, **named)


def _import_files(
    files: Any, scores: Any = None, out: Any = None, *, log: Log = print_warning, **options: Any
) -> ImportResult:
    check_options("import_predictions", ImportConfig, options)
    return _import(ImportConfig(scores, files, out, **options), log)


@overload
def visualize(config: VisualizeConfig, log: Log = ..., /) -> tuple[VisualizeResult, ...]: ...


@overload
def visualize(
    predictions: str | AnyPath | Sequence[str | AnyPath],
    logdir: str | AnyPath = "logs",
    *,
    log: Log = ...,
    **options: Any,
) -> tuple[VisualizeResult, ...]: ...


def visualize(predictions: Any, *arguments: Any, **named: Any) -> tuple[VisualizeResult, ...]:
    """Write the TensorBoard logs of one or more runs, without the model.

    Call it either with a configuration, `visualize(VisualizeConfig(...), log)`, or with a folder,
    `visualize("predictions/mine", "logs")`.

    Args:
        predictions: a folder that `infer` wrote, or several; or a VisualizeConfig.
        logdir: folder for TensorBoard.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of VisualizeConfig, such as `panels=("glance",)`.

    Raises:
        InputError: for bad input; existing logs stay as they are.
    """
    if isinstance(predictions, VisualizeConfig):
        return _visualize(predictions, *arguments, **named)
    with python_names():
        return _visualize_folders(predictions, *arguments, **named)


def _visualize_folders(
    predictions: Any, logdir: Any = None, *, log: Log = print_warning, **options: Any
) -> tuple[VisualizeResult, ...]:
    check_options("visualize", VisualizeConfig, options)
    return _visualize(VisualizeConfig(predictions, logdir, **options), log)


@overload
def compare(config: CompareConfig, log: Log = ..., /) -> CompareResult: ...


@overload
def compare(
    *predictions: str | AnyPath | Sequence[str | AnyPath],
    logdir: str | AnyPath | None = None,
    log: Log = ...,
    **options: Any,
) -> CompareResult: ...


def compare(*predictions: Any, **named: Any) -> CompareResult:
    """Compare two runs image by image, without the models.

    Call it either with a configuration, `compare(CompareConfig(...), log)`, or with folders,
    `compare("predictions/old", "predictions/new")`.

    Args:
        predictions: folders that `infer` wrote, the old one first; one alone for its steps; or a CompareConfig.
        logdir: folder for TensorBoard.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of CompareConfig, such as `step_old=3`.

    Raises:
        InputError: for bad input; what was written before stays as it is.
    """
    return call_with_folders(_compare, CompareConfig, predictions, named)


@overload
def combine(config: CombineConfig, log: Log = ..., /) -> CompositionResult: ...


@overload
def combine(
    *predictions: str | AnyPath | Sequence[str | AnyPath],
    out: str | AnyPath | None = None,
    log: Log = ...,
    **options: Any,
) -> CompositionResult: ...


def combine(*predictions: Any, **named: Any) -> CompositionResult:
    """Average the scores of several runs, or of several steps, into a new run.

    Call it either with a configuration, `combine(CombineConfig(...), log)`, or with folders,
    `combine("predictions/a", "predictions/b@12", out="predictions/both")`.

    Args:
        predictions: folders that `infer` wrote, for their last steps, or FOLDER@STEP; or a CombineConfig.
        out: folder for the new predictions.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of CombineConfig, such as `weights=(1, 2)`.

    Raises:
        InputError: for bad input, or runs that do not fit together; nothing already written is lost.
    """
    return call_with_folders(_combine, CombineConfig, predictions, named)


@overload
def merge(config: MergeConfig, log: Log = ..., /) -> CompositionResult: ...


@overload
def merge(
    *predictions: str | AnyPath | Sequence[str | AnyPath],
    out: str | AnyPath | None = None,
    log: Log = ...,
    **options: Any,
) -> CompositionResult: ...


def merge(*predictions: Any, **named: Any) -> CompositionResult:
    """Put runs of one model over different images together in a new run.

    Call it either with a configuration, `merge(MergeConfig(...), log)`, or with folders,
    `merge("predictions/may", "predictions/june", out="predictions/summer")`.

    Args:
        predictions: folders that `infer` wrote, for all of their steps, or FOLDER@STEP; or a MergeConfig.
        out: folder for the new predictions.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of MergeConfig, such as `rekey=True`.

    Raises:
        InputError: for bad input, or runs that do not fit together; nothing already written is lost.
    """
    return call_with_folders(_merge, MergeConfig, predictions, named)


@overload
def take(config: TakeConfig, log: Log = ..., /) -> CompositionResult: ...


@overload
def take(
    predictions: str | AnyPath, *, out: str | AnyPath | None = None, log: Log = ..., **options: Any
) -> CompositionResult: ...


def take(predictions: Any, *arguments: Any, **named: Any) -> CompositionResult:
    """Make a smaller run of the images of a run that a query asks for.

    Call it either with a configuration, `take(TakeConfig(...), log)`, or with a folder,
    `take("predictions/all", out="predictions/norway", where="country=NO")`.

    Args:
        predictions: a folder that `infer` wrote, for all of its steps, or FOLDER@STEP; or a TakeConfig.
        out: folder for the new predictions.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of TakeConfig, such as `wrong=True` or `limit=1000`.

    Raises:
        InputError: for bad input, or a query that no image answers; nothing already written is lost.
    """
    return call_with_folders(_take, TakeConfig, (predictions, *arguments), named)


@overload
def gate(config: GateConfig, log: Log = ..., /) -> GateResult: ...


@overload
def gate(
    predictions: str | AnyPath,
    rules: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    baseline: str | AnyPath | None = None,
    *,
    log: Log = ...,
    **options: Any,
) -> GateResult: ...


def gate(predictions: Any, *arguments: Any, **named: Any) -> GateResult:
    """Test predictions against rules, without the model and without drawing anything.

    Call it either with a configuration, `gate(GateConfig(...), log)`, or with the rules themselves:

        gate("predictions/new", [{"metric": "accuracy", "min": 0.94, "bound": "lower"}]).outcome

    Args:
        predictions: a folder that `infer` wrote, or a GateConfig.
        rules: a TOML file, or a mapping for each rule with the same keys (docs/gates.md); none with `report`.
        baseline: a folder to compare with, for rules with `max_drop`.
        log: takes one line of progress at a time. Default: warnings are printed to standard error.
        options: any other field of GateConfig, such as `step=3` or `junit="gate.xml"`.

    Returns:
        the result: `outcome` is "pass", "fail" or "too little evidence", `code` the exit code of the command, and
        `verdicts` has each rule with its findings.

    Raises:
        InputError: for bad input, such as a rule that is not understood.
    """
    if isinstance(predictions, GateConfig):
        return _gate(predictions, *arguments, **named)
    with python_names():
        return _gate_folder(predictions, *arguments, **named)


def _gate_folder(
    predictions: Any,
    rules: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    baseline: Any = None,
    *,
    log: Log = print_warning,
    **options: Any,
) -> GateResult:
    check_options("gate", GateConfig, options)
    if isinstance(rules, str | os.PathLike):
        return _gate(GateConfig(predictions, Path(rules), baseline, **options), log)
    if rules is None:
        return _gate(GateConfig(predictions, None, baseline, **options), log)
    if rules is not None and not isinstance(rules, Mapping | Sequence):
        raise InputError(f"rules are {rules!r}; expected a TOML file, or a mapping for each rule")
    records: Any = [rules] if isinstance(rules, Mapping) else rules
    return _gate(GateConfig(predictions, None, baseline, **options), log, records)
