"""Read files of arrays into arrays by name. It knows nothing of what they mean.

.npy and .npz are read by NumPy, .pt and .pth by torch; nothing in them is run.
"""

import importlib.util
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError, first_line

ARRAY_SUFFIXES = (".npy", ".npz", ".pt", ".pth")

Arrays = dict[str, NDArray[Any]]
"""Arrays by name; the name of a lone array is empty."""


def read_arrays(file: Path) -> Arrays:
    """Return the arrays of a file by name. The array of a .npy file stays on disk until it is read.

    Raises:
        InputError: if the file holds objects that only running code could make.
        OSError, ValueError: if it is not a file of its kind.
    """
    if file.suffix.lower() == ".npy":
        return {"": np.load(file, mmap_mode="r", allow_pickle=False)}
    if file.suffix.lower() != ".npz":
        return _arrays_of(_load_tensors(file))
    arrays = {}
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError as error:
                raise InputError(
                    f"array {name!r} of {file} holds Python objects, which are not read because that could run code: "
                    "save text with np.array(…, dtype=str)"
                ) from error
    return arrays


def _load_tensors(file: Path) -> Any:
    """Return what torch.save wrote: tensors, lists, dictionaries and plain values."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{file} needs PyTorch, which is not installed: pip install 'predboard[infer]', or save it as .npy"
        )
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors alike; each means the same to the user
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"{refused[1]} is not read because that could run code" if refused else first_line(error)
        raise InputError(
            f"{file} holds more than tensors, lists and names: {why.partition('. In PyTorch')[0]}"
        ) from error


def _arrays_of(value: Any) -> Arrays:
    """Return the arrays in a saved value by name, those of a list of batches joined."""
    import torch

    if isinstance(value, torch.Tensor):
        return {"": (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()}
    if isinstance(value, Mapping):
        return _alone(value)
    if not isinstance(value, list | tuple):
        return {}
    if value and all(isinstance(v, str | int | float) for v in value):
        return {"": np.array(value)}
    tensors = [v for v in value if isinstance(v, torch.Tensor)]
    alike = len(tensors) == len(value) > 0 and len({t.shape[1:] for t in tensors}) == 1 and tensors[0].ndim > 0
    nested = bool(value) and all(isinstance(v, Mapping | list | tuple) for v in value)
    if isinstance(value, list) and (alike or nested):  # a tuple holds different things, not batches of one
        batches = [_arrays_of(v) for v in value]
        if all(batch.keys() == batches[0].keys() for batch in batches):
            return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return _alone(dict(enumerate(value)))


def _alone(values: Mapping[Any, Any]) -> Arrays:
    """Return the values that are one array each, by key."""
    return {str(key): array for key, value in values.items() if (array := _arrays_of(value).get("")) is not None}
