"""Files of arrays -> arrays by key. Knows not what they mean.

.npy and .npz are NumPy's, .pt and .pth are torch's; nothing in them is run.
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


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Arrays by key; a lone one has no name. One in a .npy file stays on disk until it is read.

    Raises InputError if the file holds objects that only running code could make, OSError or ValueError if it is none.
    """
    if file.suffix.lower() == ".npy":
        return {"": np.load(file, mmap_mode="r", allow_pickle=False)}
    if file.suffix.lower() != ".npz":
        return _tensors(file)
    found = {}
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                found[name] = archive[name]
            except ValueError as error:
                raise InputError(
                    f"{file} holds Python objects in {name!r}, which are not read because that could run code: "
                    "save text by np.array(…, dtype=str)"
                ) from error
    return found


def _tensors(file: Path) -> dict[str, NDArray[Any]]:
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{file} needs PyTorch, which is not installed: pip install 'predboard[infer]', or save it as .npy"
        )
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors alike; each means the same to the user
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"{refused[1]} is not read because that could run code" if refused else first_line(error)
        raise InputError(
            f"{file} holds more than tensors, lists and names: {why.partition('. In PyTorch')[0]}"
        ) from error

    def named(value: Any) -> dict[str, NDArray[Any]]:
        """Arrays by key; those of a list of batches joined."""
        if isinstance(value, list | tuple) and value and all(isinstance(v, str | int | float) for v in value):
            return {"": np.array(value)}
        if isinstance(value, torch.Tensor):
            return {"": (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()}
        if isinstance(value, Mapping):
            return {str(key): array for key, inner in value.items() if (array := named(inner).get("")) is not None}
        batches = list(value) if isinstance(value, list | tuple) else []
        tensors = [b for b in batches if isinstance(b, torch.Tensor)]
        alike = len(tensors) == len(batches) and len({b.shape[1:] for b in tensors}) == 1 and batches[0].ndim > 0
        nested = bool(batches) and all(isinstance(b, Mapping | list | tuple) for b in batches)
        if isinstance(value, list) and (alike or nested):  # a tuple is different things, not batches of one
            parts = [named(b) for b in batches]
            if all(part.keys() == parts[0].keys() for part in parts):
                return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return {str(i): array for i, inner in enumerate(batches) if (array := named(inner).get("")) is not None}

    return named(loaded)
