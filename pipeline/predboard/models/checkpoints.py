"""Reads weights from a checkpoint and loads them into a module. It knows nothing of how modules are made.

No code of the checkpoint is executed, unless the user says that it may be trusted. torch is imported when a file is
read, so that everything else works where it is not installed.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from predboard import user_code
from predboard.errors import InputError, first_line
from predboard.formatting import plural
from predboard.invocation import install_command

if TYPE_CHECKING:
    import torch

_NESTED_KEYS = ("state_dict", "model_state_dict", "model")
_EMA_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that wrappers put before the names of all weights."""
_FILES_IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files that transformers saves weights in; an index names several that hold a part each."""
_INDEX_SUFFIX = ".index.json"
_COUNTERS = ("n_averaged", "initted", "step", "steps")
"""Counters of wrappers that average weights; no layer has such a name."""
_NOT_OF_THE_MODEL = re.compile(
    r"(^|\.)(total_ops|total_params)$|^(model\.|module\.)?(criterion|criteria|loss|loss_\w+|\w+_loss|\w*metrics?)\."
)
"""Names of tensors that training leaves in a checkpoint: counts of thop, weights of losses, states of metrics."""


def read(
    file: Path,
    *,
    ema: bool = False,
    trust: bool = False,
    folder: Path | None = None,
    main: ModuleType | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> "dict[str, torch.Tensor]":
    """Return the tensors of a checkpoint, by name.

    The weights may be nested under state_dict, model_state_dict or model, or be the only state dict in the checkpoint,
    whatever its name. With `ema` those under state_dict_ema, ema_state_dict, model_ema, ema_model or ema are taken, or
    those of torch's AveragedModel.

    Args:
        file: .safetensors, or anything that torch.save wrote; an index of several such files; or a folder of
            transformers with one of these.
        ema: take the exponential moving average of the weights.
        trust: unpickle whatever the file holds, which runs its code; pickled modules are then understood too.
        folder: where unpickling finds the user's own Python files, besides the current folder.
        main: the module where unpickling finds classes of `__main__`, as a training script pickles them.
        log: takes a line for the user.

    Raises InputError if the file is missing or holds no weights.
    """
    import torch

    if file.is_dir():  # as transformers saves a model
        inside = [file / name for name in _FILES_IN_FOLDER if (file / name).is_file()]
        if not inside:
            raise InputError(f"{file} is a folder without {' or '.join(_FILES_IN_FOLDER[::2])}: name a file in it")
        file = inside[0]
    if not file.is_file():
        raise InputError(f"there is no checkpoint {file}: {_list_beside(file)}")
    loaded = _load(file, trust, folder or file.parent, main)
    weights: Any = loaded.state_dict() if isinstance(loaded, torch.nn.Module) else loaded
    if not isinstance(weights, Mapping):
        raise InputError(f"{file} holds a {type(loaded).__name__}; expected a state dict")
    averaged = _find_average(weights)
    if ema and averaged is None:
        raise InputError(
            f"{file} holds no moving average of the weights; it has: {_list_some(list(map(str, weights)))}; --ema "
            f"expects one of {', '.join(_EMA_KEYS)}, or torch's AveragedModel"
        )
    if averaged is not None and not ema and averaged is not weights:
        log(f"{file.name} also holds a moving average of the weights, which is not used: --ema takes it")
    weights = averaged if ema else weights
    while isinstance(weights, Mapping) and not _is_state_dict(weights):
        inner = next((w for w in map(_to_mapping, map(weights.get, _NESTED_KEYS)) if w is not None), None)
        weights = _only_state_dict(weights, file) if inner is None else inner
    return {str(name): tensor for name, tensor in weights.items()}


def _only_state_dict(checkpoint: Mapping[Any, Any], file: Path) -> Mapping[Any, Any]:
    """Return the only state dict among the values of a checkpoint. Raises InputError if there are none or several."""
    inner = {str(key): weights for key, value in checkpoint.items() if (weights := _to_mapping(value)) is not None}
    state_dicts = {key: weights for key, weights in inner.items() if _is_state_dict(weights) and key not in _EMA_KEYS}
    if len(state_dicts) == 1:
        return next(iter(state_dicts.values()))
    if state_dicts:
        raise InputError(
            f"{file} holds several models: {_list_some(list(state_dicts))}; save the one to use under state_dict"
        )
    raise InputError(
        f"{file} holds no weights; it has: {_list_some(list(map(str, checkpoint)))}; expected one of "
        f"{', '.join(_NESTED_KEYS)}"
    )


def _load(file: Path, trust: bool, folder: Path, main: ModuleType | None) -> Any:
    """Return what a file holds; of an index, the tensors of all files that it names."""
    if not file.name.endswith(_INDEX_SUFFIX):
        return _load_safetensors(file) if file.suffix == ".safetensors" else _unpickle(file, trust, folder, main)
    try:
        names = sorted(set(json.loads(file.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no index of weights: {type(error).__name__}: {first_line(error)}") from error
    weights: dict[Any, Any] = {}
    for name in names:
        part = file.with_name(Path(str(name)).name)
        if not part.is_file():
            raise InputError(f"{file.name} names {part.name}, which is not in {file.parent}: copy all its files there")
        weights.update(_load(part, trust, folder, main))
    return weights


def _list_beside(file: Path) -> str:
    """Return what to try instead of a missing file: others of its kind in its folder."""
    beside = sorted(p.name for p in file.parent.glob(f"*{file.suffix}") if p.is_file()) if file.suffix else []
    if not beside:
        return "see --checkpoint"
    return f"{file.parent} has {', '.join(beside[:3])}{', …' * (len(beside) > 3)}"


def read_module(file: Path, trust: bool, error: Exception) -> "torch.nn.Module":
    """Return a module that was pickled whole.

    Args:
        file: no program, as loading it as one has shown.
        trust: whether its code may run.
        error: what loading it as a program raised.

    Raises InputError if it holds something else, or may not be trusted.
    """
    import torch

    loaded = _unpickle(file, trust, file.parent)
    if isinstance(loaded, torch.nn.Module):
        return loaded
    if isinstance(loaded, Mapping):
        raise InputError(
            f"{file} holds weights, not a program: name it by --checkpoint, and by --model what the weights are for, "
            "for example FILE.py:FACTORY"
        )
    raise InputError(f"{file} holds a {type(loaded).__name__}; expected a program: {first_line(error)}")


def _load_safetensors(file: Path) -> "dict[str, torch.Tensor]":
    if importlib.util.find_spec("safetensors") is None:
        raise InputError(f"{file} needs safetensors, which is not installed: {install_command(extra='safetensors')}")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{file} cannot be read as weights: {type(error).__name__}: {first_line(error)}") from error


def _unpickle(file: Path, trust: bool, folder: Path, main: ModuleType | None = None) -> Any:
    import torch

    try:
        if trust:
            with user_code.import_path(Path.cwd()), user_code.import_path(folder), _names_in_main(main):
                return torch.load(file, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(_harmless_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickles that torch did not write; the error says it
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors alike; all mean the same to the user
        if "TorchScript archive" in str(error):
            raise InputError(f"{file} is a TorchScript program, not a checkpoint: name it by --model") from error
        why = f"{type(error).__name__}: {first_line(error)}"
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = (
                f"it holds more than weights ({refused[1]}), and unpickling that may run code: if you trust where the "
                "file comes from, add --trust-checkpoint"
            )
        elif why.startswith("UnpicklingError: Weights only"):
            why = "UnpicklingError: torch.save did not write it"
        raise InputError(f"{file} cannot be read as weights: {why}") from error


@contextlib.contextmanager
def _names_in_main(module: ModuleType | None) -> Iterator[None]:
    """Expose a module's names in `__main__` for a while, because a script pickles its own classes there."""
    main = sys.modules["__main__"]
    added = [name for name in vars(module or main) if not hasattr(main, name)]
    for name in added:
        setattr(main, name, getattr(module, name))
    try:
        yield
    finally:
        for name in added:
            delattr(main, name)


def _harmless_types() -> list[Any]:
    """Return what checkpoints hold besides tensors and whose unpickling only stores it: flags, numbers, paths."""
    core = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    arrays = [core.scalar, core._reconstruct, np.ndarray, np.dtype]
    named = [(part, f"numpy.{way}.multiarray.{part.__name__}") for part in arrays[:2] for way in ("core", "_core")]
    numbers = [type(np.dtype(code)) for code in "?bhilqBHILQefdFDSU"]
    paths = [(getattr(pathlib, name), f"pathlib.{name}") for name in ("Path", "PosixPath", "WindowsPath")]
    return [argparse.Namespace, set, *arrays[2:], *named, *numbers, *paths]


def _to_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return a mapping, or a module's state dict, that may hold weights; None for anything else."""
    import torch

    value = value.state_dict() if isinstance(value, torch.nn.Module) else value
    return value if isinstance(value, Mapping) else None


def _find_average(checkpoint: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """Return the moving average of the weights, at any depth; of torch's AveragedModel that is the whole mapping."""
    if "n_averaged" in checkpoint and _is_state_dict(checkpoint):
        return checkpoint
    for name in _EMA_KEYS:
        if inner := _to_mapping(checkpoint.get(name)):
            return inner
        inside = {str(k).removeprefix(f"{name}."): v for k, v in checkpoint.items() if str(k).startswith(f"{name}.")}
        if inside:
            return inside
    for name in _NESTED_KEYS:
        if (inner := _to_mapping(checkpoint.get(name))) and (deeper := _find_average(inner)):
            return deeper
    return None


def _is_state_dict(mapping: Mapping[Any, Any]) -> bool:
    import torch

    return bool(mapping) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in mapping.items())


def match_names(weights: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, Any]") -> "dict[str, torch.Tensor]":
    """Return the weights under the names that a module wants, as far as that is possible.

    A prefix module., _orig_mod., model. or net. that all names share is removed. Left out are counters of wrappers, and
    what training leaves behind that no model has: counts of operations, weights of losses, states of metrics.
    """
    matched = {k: v for k, v in weights.items() if k in wanted or not (k in _COUNTERS or _NOT_OF_THE_MODEL.search(k))}
    while not set(matched) <= set(wanted):
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in matched)), None)
        if prefix is None:
            break
        matched = {k.removeprefix(prefix): v for k, v in matched.items()}
    return matched


def count_outputs(weights: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, Any]") -> int | None:
    """Return the number of outputs that weights have, if it differs from the module's.

    Args:
        weights: the checkpoint's.
        wanted: the module's state dict. The last weight that matches in all but its first dimension is the head.

    -> None if every weight matches as it is.
    """
    matched = match_names(weights, wanted)
    for name in reversed(list(wanted)):
        theirs, ours = getattr(matched.get(name), "shape", None), getattr(wanted[name], "shape", None)
        if theirs and ours and name.endswith(".weight") and theirs[1:] == ours[1:] != () and theirs[0] != ours[0]:
            return int(theirs[0])
    return None


def load(
    module: "torch.nn.Module",
    weights: "Mapping[str, torch.Tensor]",
    file: Path,
    log: Callable[[str], None] = lambda _: None,
) -> None:
    """Load the weights of a file into a module; `log` gets a line if tensors of the file are left out.

    Raises InputError if they belong to another model; the module is unchanged then.
    """
    wanted = module.state_dict()
    matched = match_names(weights, wanted)
    extra = [k for k in matched if k not in wanted]
    # Checkpoints older than torch 0.4.1 lack these counters, which have no effect in eval mode.
    missing = [k for k in wanted if k not in matched and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} is {list(matched[k].shape)}, the model has {list(wanted[k].shape)}"
        for k in wanted
        if k in matched and hasattr(wanted[k], "shape") and matched[k].shape != wanted[k].shape
    ]
    if missing or extra or shapes:
        wrong = [f"missing {_list_some(missing)}"] * bool(missing) + [f"unknown {_list_some(extra)}"] * bool(extra)
        wrong += [f"different shape: {_list_some(shapes)}"] * bool(shapes)
        raise InputError(f"{file} belongs to another model: {'; '.join(wrong)}")
    if left_out := [k for k in weights if k not in wanted and k not in _COUNTERS and _NOT_OF_THE_MODEL.search(k)]:
        log(f"{file.name} also holds {plural(len(left_out), 'tensor')} that no model has: {_list_some(left_out)}")
    module.load_state_dict(matched, strict=False)


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def digest_weights(module: "torch.nn.Module") -> str:
    """Return 16 hexadecimal digits that change with any parameter or buffer, whatever file they came from."""
    import torch

    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            hashed.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return hashed.hexdigest()


def parse_step(file: Path) -> int | None:
    """Return the step in a checkpoint's name: the number after step, else iter, else epoch; None if there is none."""
    for word in ("step", "iter", "epoch"):
        if match := re.search(rf"{word}(?:ation)?[-_=. ]*(\d+)", file.stem, re.IGNORECASE):
            return int(match[1])
    match = re.fullmatch(r"checkpoint-(\d+)", file.name)  # a folder, as transformers' Trainer names it
    return int(match[1]) if match else None


def step_or_zero(file: Path) -> int:
    """Return the step in a checkpoint's name, 0 if there is none.

    >>> [step_or_zero(Path(name)) for name in ("run2_epoch=7-step=1200.ckpt", "net_epoch03.pt", "resnet20-12fca82f.th")]
    [1200, 3, 0]
    """
    return parse_step(file) or 0


def assign_steps(files: tuple[Path, ...], given: tuple[int, ...]) -> dict[int, Path | None]:
    """Return step -> checkpoint, ascending; without files a single step of None.

    Args:
        files: the checkpoints.
        given: their steps; if empty they are read from the names.

    Raises InputError if two files share a step, or one is beyond 2**63 - 1.
    """
    if not files:
        return {given[0] if given else 0: None}
    steps: dict[int, Path | None] = {}
    for file, step in zip(files, given or tuple(map(step_or_zero, files)), strict=True):
        if step in steps:
            raise InputError(f"{steps[step]} and {file} are both step {step}: name their steps by --step")
        if step >= 2**63:
            raise InputError(f"{file} is step {step}, which is too large for TensorBoard: name its step by --step")
        steps[step] = file
    return dict(sorted(steps.items()))
