"""Checkpoint file -> named tensors, and these into a module; no code is executed. Knows not where modules come from.

torch is imported when a file is read, so that everything else works where it is not installed.
"""

import argparse
import importlib.util
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from predboard import user_code
from predboard.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

_NESTED = ("state_dict", "model_state_dict", "model")
_EMA = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
_COUNTERS = ("n_averaged", "initted", "step", "steps")
"""Of wrappers that average weights; no layer has such a name."""


def read(
    file: Path,
    *,
    ema: bool = False,
    trust: bool = False,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> "dict[str, torch.Tensor]":
    """The tensors of a checkpoint, by name.

    Weights nested under state_dict, model_state_dict or model are found; with `ema` those under state_dict_ema,
    ema_state_dict, model_ema, ema_model or ema, and of torch's AveragedModel, which holds no others.

    Args:
        file: .safetensors, or anything that torch.save wrote; or a folder of transformers with one of these.
        ema: take the exponential moving average of the weights.
        trust: unpickle whatever it holds, which runs its code; whole modules are then understood too.
        folder: where unpickling finds the user's own Python files, besides the current folder.
        say: takes a line for a person.

    Raises InputError if the file is missing, or is no such checkpoint.
    """
    import torch

    if file.is_dir():  # as transformers saves one
        found_in = [file / name for name in _IN_FOLDERS if (file / name).is_file()]
        if not found_in:
            raise InputError(f"{file} is a folder without {' or '.join(_IN_FOLDERS)}: name a file in it")
        file = found_in[0]
    if not file.is_file():
        beside = sorted(p.name for p in file.parent.glob(f"*{file.suffix}") if p.is_file()) if file.suffix else []
        there = (
            f"{file.parent} has {', '.join(beside[:3])}{', …' * (len(beside) > 3)}" if beside else "see --checkpoint"
        )
        raise InputError(f"no checkpoint {file}: {there}")
    loaded = _safetensors(file) if file.suffix == ".safetensors" else _unpickled(file, trust, folder or file.parent)
    found: Any = loaded.state_dict() if isinstance(loaded, torch.nn.Module) else loaded
    if not isinstance(found, Mapping):
        raise InputError(f"{file} holds a {type(loaded).__name__}; expected a state dict")
    averaged = _averaged(found)
    if ema and averaged is None:
        raise InputError(
            f"{file} holds no moving average of weights; it has: {_some(list(map(str, found)))}; --ema expects one of "
            f"{', '.join(_EMA)}, or torch's AveragedModel"
        )
    if averaged is not None and not ema and averaged is not found:
        say(f"{file.name} also holds a moving average of the weights, which is not used: --ema takes it")
    found = averaged if ema else found
    while isinstance(found, Mapping) and not _is_weights(found):
        inner = next((w for w in map(_weights, map(found.get, _NESTED)) if w is not None), None)
        if inner is None:
            raise InputError(
                f"{file} holds no weights; it has: {_some(list(map(str, found)))}; expected one of {', '.join(_NESTED)}"
            )
        found = inner
    return {str(name): tensor for name, tensor in found.items()}


def read_module(file: Path, trust: bool, error: Exception) -> "torch.nn.Module":
    """A module that was pickled whole, from a file that is no program for the reason given.

    Raises InputError if it holds something else, or is not to be trusted.
    """
    import torch

    found = _unpickled(file, trust, file.parent)
    if isinstance(found, torch.nn.Module):
        return found
    if isinstance(found, Mapping):
        raise InputError(
            f"{file} holds weights, not a program: name it as --checkpoint, and as --model what they are for, "
            "FILE.py:FACTORY for example"
        )
    raise InputError(f"{file} holds a {type(found).__name__}; expected a program: {first_line(error)}")


def _safetensors(file: Path) -> "dict[str, torch.Tensor]":
    if importlib.util.find_spec("safetensors") is None:
        raise InputError(f"{file} needs safetensors, which is not installed: pip install 'predboard[safetensors]'")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{file} cannot be loaded as weights: {type(error).__name__}: {first_line(error)}") from error


def _unpickled(file: Path, trust: bool, folder: Path) -> Any:
    import torch

    try:
        if trust:
            with user_code.import_path(Path.cwd()), user_code.import_path(folder):
                return torch.load(file, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a pickle that torch did not write; what is wrong is said
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors alike; each means the same to the user
        if "TorchScript archive" in str(error):
            raise InputError(f"{file} is a TorchScript program, not a checkpoint: name it as --model") from error
        why = f"{type(error).__name__}: {first_line(error)}"
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = (
                f"it holds more than weights ({refused[1]}), and unpickling that may run code: --trust-checkpoint does "
                "it, if you know where the file comes from"
            )
        elif why.startswith("UnpicklingError: Weights only"):
            why = "UnpicklingError: it is not what torch.save writes"
        raise InputError(f"{file} cannot be loaded as weights: {why}") from error


def _harmless() -> list[Any]:
    """What checkpoints hold besides tensors, and whose unpickling does nothing but keep it: flags, numbers, paths."""
    core = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    arrays = [core.scalar, core._reconstruct, np.ndarray, np.dtype]
    named = [(part, f"numpy.{way}.multiarray.{part.__name__}") for part in arrays[:2] for way in ("core", "_core")]
    numbers = [type(np.dtype(code)) for code in "?bhilqBHILQefdFDSU"]
    paths = [(getattr(pathlib, name), f"pathlib.{name}") for name in ("Path", "PosixPath", "WindowsPath")]
    return [argparse.Namespace, set, *arrays[2:], *named, *numbers, *paths]


def _weights(value: Any) -> Mapping[Any, Any] | None:
    """A mapping, or that of a module, in which there may be weights."""
    import torch

    value = value.state_dict() if isinstance(value, torch.nn.Module) else value
    return value if isinstance(value, Mapping) else None


def _averaged(found: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """The moving average of weights in a checkpoint, wherever it is nested; itself if it is torch's AveragedModel."""
    if "n_averaged" in found and _is_weights(found):
        return found
    for name in _EMA:
        if inner := _weights(found.get(name)):
            return inner
        inside = {str(k).removeprefix(f"{name}."): v for k, v in found.items() if str(k).startswith(f"{name}.")}
        if inside:
            return inside
    for name in _NESTED:
        if (inner := _weights(found.get(name))) and (deeper := _averaged(inner)):
            return deeper
    return None


def _is_weights(mapping: Mapping[Any, Any]) -> bool:
    import torch

    return bool(mapping) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in mapping.items())


def match_names(weights: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, Any]") -> "dict[str, torch.Tensor]":
    """The weights under the names that a module wants, as far as that goes.

    Names that all begin with module., _orig_mod., model. or net. lose that, and counters of wrappers are dropped.
    """
    found = {k: v for k, v in weights.items() if k in wanted or k not in _COUNTERS}
    while not set(found) <= set(wanted):
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in found)), None)
        if prefix is None:
            break
        found = {k.removeprefix(prefix): v for k, v in found.items()}
    return found


def count_outputs(weights: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, Any]") -> int | None:
    """How many outputs weights are for, where that is another number than the module's.

    Args:
        weights: of a checkpoint.
        wanted: the module's state dict; its last weight that fits but for its first dimension is the head.

    -> None if every weight fits so far.
    """
    found = match_names(weights, wanted)
    for name in reversed(list(wanted)):
        there, here = getattr(found.get(name), "shape", None), getattr(wanted[name], "shape", None)
        if there and here and name.endswith(".weight") and there[1:] == here[1:] != () and there[0] != here[0]:
            return int(there[0])
    return None


def load(module: "torch.nn.Module", weights: "Mapping[str, torch.Tensor]", file: Path) -> None:
    """Put the weights of a file into a module. Raises InputError if they are of another model; it is unchanged then."""
    wanted = module.state_dict()
    found = match_names(weights, wanted)
    extra = [k for k in found if k not in wanted]
    # Checkpoints older than torch 0.4.1 lack these counters, which have no effect in eval mode.
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} is {list(found[k].shape)}, the model has {list(wanted[k].shape)}"
        for k in wanted
        if k in found and hasattr(wanted[k], "shape") and found[k].shape != wanted[k].shape
    ]
    if missing or extra or shapes:
        wrong = [f"missing {_some(missing)}"] * bool(missing) + [f"unknown {_some(extra)}"] * bool(extra)
        wrong += [f"of another shape: {_some(shapes)}"] * bool(shapes)
        raise InputError(f"{file} is of another model: {'; '.join(wrong)}")
    module.load_state_dict(found, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
