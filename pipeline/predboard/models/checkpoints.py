"""Reads weights from a checkpoint. It knows nothing of the module that they are for.

No code of the checkpoint is executed, unless the user says that it may be trusted. torch is imported when a file is
read, so that everything else works where it is not installed.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from predboard import user_code
from predboard.config.checks import MAX_STEP, check_step_for_each
from predboard.errors import InputError, first_line, reading
from predboard.invocation import install_command
from predboard.models.weights import EMA_KEYS, list_some
from predboard.near_paths import did_you_mean_path
from predboard.storage.paths import MAX_READ_GB, check_size

if TYPE_CHECKING:
    import torch

_NESTED_KEYS = ("state_dict", "model_state_dict", "model")
_MAX_NESTED = 8
"""Mappings inside each other; one may hold itself."""
_FILES_IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files that transformers saves weights in; an index names several that hold a part each."""
_INDEX_SUFFIX = ".index.json"


def read(
    file: Path,
    *,
    ema: bool = False,
    trust: bool = False,
    folder: Path | None = None,
    main: ModuleType | None = None,
    log: Callable[[str], None] = lambda _: None,
    max_read_gb: float = MAX_READ_GB,
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
        max_read_gb: gigabytes of memory that the tensors may take beyond the size of the file.

    Raises InputError if the file is missing or holds no weights.
    """
    import torch

    with reading(file):
        if file.is_dir():  # as transformers saves a model
            inside = [file / name for name in _FILES_IN_FOLDER if (file / name).is_file()]
            if not inside:
                raise InputError(f"{file} is a folder without {' or '.join(_FILES_IN_FOLDER[::2])}: name a file in it")
            file = inside[0]
        if not file.is_file():
            raise InputError(f"there is no checkpoint {file}: {_list_beside(file)}")
        _check_archive(file, max_read_gb, log)
    loaded = _load(file, trust, folder or file.parent, main)
    weights: Any = loaded.state_dict() if isinstance(loaded, torch.nn.Module) else loaded
    if isinstance(weights, list | tuple):
        weights = dict(enumerate(weights))
    if not isinstance(weights, Mapping):
        raise InputError(f"{file} holds a {type(loaded).__name__}; expected a state dict")
    averaged = _find_average(weights)
    if ema and averaged is None:
        raise InputError(
            f"{file} holds no moving average of the weights; it has: {list_some(list(map(str, weights)))}; --ema "
            f"expects one of {', '.join(EMA_KEYS)}, or torch's AveragedModel"
        )
    if averaged is not None and not ema and averaged is not weights:
        log(f"{file.name} also holds a moving average of the weights, which is not used: --ema takes it")
    weights = averaged if ema else weights
    for _ in range(_MAX_NESTED):
        if _is_state_dict(weights):
            break
        inner = next((w for w in map(_to_mapping, map(weights.get, _NESTED_KEYS)) if w is not None), None)
        weights = _only_state_dict(weights, file) if inner is None else inner
    else:
        raise InputError(f"{file} holds mappings inside each other, but no weights {_MAX_NESTED} levels down")
    tensors = {name: tensor for name, value in weights.items() if (tensor := _to_tensor(value)) is not None}
    with reading(file):
        check_size(sum(map(_bytes_beyond_storage, tensors.values())), max_read_gb)
    return tensors


def _only_state_dict(checkpoint: Mapping[Any, Any], file: Path) -> Mapping[Any, Any]:
    """Return the only state dict among the values of a checkpoint. Raises InputError if there are none or several."""
    inner = {str(key): weights for key, value in checkpoint.items() if (weights := _to_mapping(value)) is not None}
    state_dicts = {key: weights for key, weights in inner.items() if _is_state_dict(weights) and key not in EMA_KEYS}
    if len(state_dicts) == 1:
        return next(iter(state_dicts.values()))
    tensors = {name: _to_tensor(value) for name, value in checkpoint.items() if isinstance(name, str)}
    if not state_dicts and any(tensor is not None and tensor.ndim for tensor in tensors.values()):
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if state_dicts:
        raise InputError(
            f"{file} holds several models: {list_some(list(state_dicts))}; save the one to use under state_dict"
        )
    raise InputError(
        f"{file} holds no weights; it has: {list_some(list(map(str, checkpoint)))}; expected one of "
        f"{', '.join(_NESTED_KEYS)}"
    )


def _load(file: Path, trust: bool, folder: Path, main: ModuleType | None) -> Any:
    """Return what a file holds; of an index, the tensors of all files that it names."""
    if not file.name.endswith(_INDEX_SUFFIX):
        return _load_safetensors(file) if file.suffix == ".safetensors" else _unpickle(file, trust, folder, main)
    with reading(f"{file} as an index of weights"):
        names = sorted(set(json.loads(file.read_text("utf-8"))["weight_map"].values()))
        parts = [file.with_name(Path(name).name) for name in names]
    weights: dict[Any, Any] = {}
    for part in parts:
        if not part.is_file() or part.name.endswith(_INDEX_SUFFIX):
            raise InputError(f"{file.name} names {part.name}, which is not in {file.parent}: copy all its files there")
        if (held := _to_mapping(loaded := _load(part, trust, folder, main))) is None:
            raise InputError(f"{part} holds a {type(loaded).__name__}; expected a state dict, as {file.name} names it")
        weights.update(held)
    return weights


def _list_beside(file: Path) -> str:
    """Return what to try instead of a missing file: others of its kind in its folder."""
    beside = sorted(p.name for p in file.parent.glob(f"*{file.suffix}") if p.is_file()) if file.suffix else []
    others = f"{file.parent} has {', '.join(beside[:3])}{', …' * (len(beside) > 3)}" if beside else "see --checkpoint"
    return others + did_you_mean_path(file, Path.is_file)


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


def _check_archive(file: Path, max_read_gb: float, log: Callable[[str], None]) -> None:
    """Check what torch does not, in a zip as torch.save writes it.

    Raises UnreadableError if it would unpack to too much; torch.save compresses nothing. A member that does not match
    its checksum is one line for `log`, because torch can be told to write none.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_size(sum(member.file_size for member in archive.infolist()) - file.stat().st_size, max_read_gb)
            if (bad := archive.testzip()) is not None:
                log(f"warning: {file.name} is damaged, or was written without checksums: {bad} does not match its own")


def _bytes_beyond_storage(tensor: "torch.Tensor") -> int:
    """Return the memory that a copy of a tensor takes beyond what is stored of it: much if a value is expanded."""
    import torch

    size = tensor.numel() * tensor.element_size()
    return max(size - tensor.untyped_storage().nbytes(), 0) if tensor.layout == torch.strided else size


def _to_tensor(value: Any) -> "torch.Tensor | None":
    """Return a tensor, or an array as one; None for anything else."""
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value))
    return value if isinstance(value, torch.Tensor) else None


def _to_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return a mapping, or a module's state dict, that may hold weights; None for anything else."""
    import torch

    value = value.state_dict() if isinstance(value, torch.nn.Module) else value
    return value if isinstance(value, Mapping) else None


def _find_average(checkpoint: Mapping[Any, Any], depth: int = 0) -> Mapping[Any, Any] | None:
    """Return the moving average of the weights, at any depth; of torch's AveragedModel that is the whole mapping."""
    if "n_averaged" in checkpoint and _is_state_dict(checkpoint):
        return checkpoint
    for name in EMA_KEYS:
        if inner := _to_mapping(checkpoint.get(name)):
            return inner
        inside = {str(k).removeprefix(f"{name}."): v for k, v in checkpoint.items() if str(k).startswith(f"{name}.")}
        if inside:
            return inside
    for name in _NESTED_KEYS:
        inner = _to_mapping(checkpoint.get(name)) if depth < _MAX_NESTED else None
        if inner and (deeper := _find_average(inner, depth + 1)):
            return deeper
    return None


def _is_state_dict(mapping: Mapping[Any, Any]) -> bool:
    import torch

    return bool(mapping) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor | np.ndarray) for k, v in mapping.items()
    )


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

    Raises InputError if two files share a step, there is not one for each, or one is beyond 2**63 - 1.
    """
    check_step_for_each(given, len(files))
    if not files:
        return {given[0] if given else 0: None}
    steps: dict[int, Path | None] = {}
    for file, step in zip(files, given or tuple(map(step_or_zero, files)), strict=True):
        if step in steps:
            raise InputError(f"{steps[step]} and {file} are both step {step}: name their steps by --step")
        if step > MAX_STEP:
            raise InputError(f"{file} is step {step}, which is too large for TensorBoard: name its step by --step")
        steps[step] = file
    return dict(sorted(steps.items()))
