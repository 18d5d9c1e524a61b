"""Read files of arrays into arrays by name. It knows nothing of what they mean.

.npy and .npz are read by NumPy, .pt and .pth by torch; nothing in them is run.
"""

import importlib.util
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError, first_line, reading
from predboard.invocation import install_command
from predboard.storage.paths import MAX_READ_GB, check_size

ARRAY_SUFFIXES = (".npy", ".npz", ".pt", ".pth")

Arrays = dict[str, NDArray[Any]]
"""Arrays by name; the name of a lone array is empty."""


def read_arrays(file: Path, max_read_gb: float = MAX_READ_GB) -> Arrays:
    """Return the arrays of a file by name. The array of a .npy file stays on disk until it is read.

    Args:
        file: .npy, .npz, .pt or .pth.
        max_read_gb: gigabytes that the arrays of a .npz file, or a tensor beyond what is stored of it, may take.

    Raises InputError if the file is damaged or too large, or holds no arrays, or objects that only code could make.
    """
    with reading(file):
        if file.suffix.lower() == ".npy":
            arrays: Arrays = {"": _open_npy(file)}
        elif file.suffix.lower() == ".npz":
            arrays = _read_npz(file, max_read_gb)
        else:
            arrays = _arrays_of(_load_tensors(file), max_read_gb)
    if not arrays:
        raise InputError(f"{file} holds no arrays; expected scores of shape [rows, classes]")
    fields = {n: array for n, array in arrays.items() if array.dtype.names}  # records, as of np.genfromtxt
    plain = {name: _without_single_axes(array) for name, array in arrays.items() if name not in fields}
    return plain | {name: np.array(array[name]) for array in fields.values() for name in array.dtype.names or ()}


def _without_single_axes(array: NDArray[Any]) -> NDArray[Any]:
    """Return [rows, classes, 1, 1], as a convolution leaves it, as [rows, classes]."""
    return array.reshape(array.shape[:2]) if array.ndim > 2 and set(array.shape[2:]) == {1} else array


def _open_npy(file: Path) -> NDArray[Any]:
    try:
        with np.errstate(over="ignore"):  # of the size that a header may promise
            array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise _explained(error, str(file)) from error
    if isinstance(array, np.memmap):
        _refuse_rest(str(file), file.stat().st_size - array.offset - array.nbytes)
    return array


def _refuse_rest(what: str, rest: int) -> None:
    """Raise InputError if bytes follow an array: they are rows that nothing reads."""
    if rest:
        raise InputError(
            f"{what} has {rest:,} bytes after its array, as np.save leaves that is called several times with one open "
            "file: save all batches at once, with np.concatenate"
        )


def _read_npz(file: Path, max_read_gb: float) -> Arrays:
    arrays = {}
    with zipfile.ZipFile(file) as members:
        check_size(sum(member.file_size for member in members.infolist()), max_read_gb)
        names = members.namelist()
        sizes = {member.filename: member.file_size - _header_bytes(members, member) for member in members.infolist()}
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{file} has two members named {twice!r}: save it anew, each array once")
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                value = archive[name]
            except ValueError as error:
                raise _explained(error, f"array {name!r} of {file}") from error
            if isinstance(value, np.ndarray):  # else the bytes of a member that is no array
                arrays[name] = value
                size = sizes.get(f"{name}.npy", sizes.get(name, value.nbytes))
                _refuse_rest(f"array {name!r} of {file}", size - value.nbytes)
    return arrays


def _header_bytes(members: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the length of the header of a .npy member: eight bytes, the rest's length in two or four, and the rest."""
    with members.open(member) as file:
        magic = file.read(8)
        width = 2 if magic[6:7] == b"\1" else 4
        return 8 + width + int.from_bytes(file.read(width), "little")


def _explained(error: ValueError, what: str) -> ValueError:
    """Return the error of an array of Python objects in our words, another as it is."""
    if "Object arrays" not in str(error) and "Python objects" not in str(error):
        return error
    return InputError(
        f"{what} holds Python objects, as np.save of a dict does, which are not read because that could run code: save "
        "the arrays by name, with np.savez(file, **arrays), and text with np.array(…, dtype=str)"
    )


def _load_tensors(file: Path) -> Any:
    """Return what torch.save wrote: tensors, lists, dictionaries and plain values."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{file} needs PyTorch, which is not installed: {install_command(extra='infer')}, or save it as .npy"
        )
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about kinds of tensors that torch will not save any more
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors alike; each means the same to the user
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused and refused[1].startswith("numpy"):
            raise InputError(
                f"{file} holds NumPy arrays, which torch.save keeps as code: save tensors (torch.from_numpy), or the "
                "arrays with np.savez"
            ) from error
        why = f"{refused[1]} is not read because that could run code" if refused else first_line(error)
        raise InputError(
            f"{file} holds more than tensors, lists and names: {why.partition('. In PyTorch')[0]}"
        ) from error


def _arrays_of(value: Any, max_read_gb: float) -> Arrays:
    """Return the arrays in a saved value by name, those of a list of batches joined."""
    import torch

    if isinstance(value, torch.Tensor):
        if (size := value.numel() * value.element_size()) > value.untyped_storage().nbytes():  # it repeats
            check_size(size, max_read_gb)
        value = value.detach().resolve_conj().resolve_neg()
        if value.is_floating_point() and value.dtype not in (torch.float16, torch.float32, torch.float64):
            value = value.float()  # NumPy has no bfloat16 or float8
        return {"": value.numpy()}
    if isinstance(value, Mapping):
        only = next(iter(value.values())) if len(value) == 1 else None
        return _arrays_of(only, max_read_gb) if isinstance(only, Mapping) else _alone(value, max_read_gb)
    if not isinstance(value, list | tuple):
        return {}
    if value and all(isinstance(v, str | int | float) for v in value):
        return {"": np.array(value)}
    tensors = [v for v in value if isinstance(v, torch.Tensor)]
    alike = len(tensors) == len(value) > 0 and len({t.shape[1:] for t in tensors}) == 1 and tensors[0].ndim > 0
    if alike and tensors[0].ndim == 1 and tensors[0].is_floating_point() and len({len(t) for t in tensors}) == 1:
        return _arrays_of(torch.stack(tensors), max_read_gb)  # the scores of one image each
    nested = bool(value) and all(isinstance(v, Mapping | list | tuple) for v in value)
    if isinstance(value, list) and (alike or nested):  # a tuple holds different things, not batches of one
        batches = [_arrays_of(v, max_read_gb) for v in value]
        if all(batch.keys() == batches[0].keys() for batch in batches):
            return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return _alone(dict(enumerate(value)), max_read_gb)


def _alone(values: Mapping[Any, Any], max_read_gb: float) -> Arrays:
    """Return the values that are one array each, by key."""
    arrays = {str(key): _arrays_of(value, max_read_gb).get("") for key, value in values.items()}
    return {key: array for key, array in arrays.items() if array is not None}
