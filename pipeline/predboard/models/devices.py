"""Names of devices -> torch devices, and the memory that they and a module have. It knows nothing of predictions.

torch is imported when it is needed, so that everything else works where it is not installed.
"""

import os
from typing import TYPE_CHECKING

from predboard.errors import InputError

if TYPE_CHECKING:
    import torch

_ASSUMED_MEMORY_BYTES = 4 * 2**30
"""Memory of a machine that does not tell how much it has."""


def parse_device(name: str) -> "torch.device":
    """Return the device of that name; `auto` is cuda, else mps, else cpu. Raises InputError if it is not available."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:1 or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise InputError(f"--device is {name}, which this machine does not have: use --device auto or cpu")
    return device


def parse_devices(names: str) -> tuple["torch.device", ...]:
    """Return the devices of names separated by commas; `auto` means all of cuda where there are several.

    Raises InputError if one of them is not available.
    """
    import torch

    if names == "auto" and torch.cuda.is_available() and torch.cuda.device_count() > 1:
        return tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    return tuple(parse_device(name.strip()) for name in names.split(","))


def available_memory(device: "torch.device") -> int:
    """Return bytes of memory: those that are free on a GPU, or all that the machine has."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # SC_AVPHYS_PAGES leaves out the file cache,
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # which the system would give back
    return _ASSUMED_MEMORY_BYTES


def module_bytes(module: "torch.nn.Module") -> int:
    """Return bytes of memory that a module's parameters and buffers take."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that a device has too little memory; not all have a class for it."""
    import torch

    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # of MPS, of a CPU, of cuDNN and cuBLAS
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
