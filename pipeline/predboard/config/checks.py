"""Define the types of flags, and check the values that commands have in common. It knows nothing of the commands."""

from collections.abc import Mapping
from typing import Any, Literal

from predboard.config.fields import flag_name
from predboard.errors import InputError

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Channels = Literal["rgb", "bgr", "gray"]
Precision = Literal["fp32", "bf16", "fp16"]
Exif = Literal["ignore", "apply"]
ScoreKind = Literal["logits", "probabilities", "log_probabilities"]
ImportedKind = Literal["logits", "probabilities", "log_probabilities", "confidence"]
LabelTask = Literal["single-label", "multi-label"]
EmptyCell = Literal["absent", "unknown"]
Engine = Literal["local", "ray"]
SideLength = int | Literal["none"]

MAX_STEP = 2**63 - 1
"""Steps are integers of 64 bits in event files and in Parquet."""

POSITIONAL: Mapping[str, Any] = {"positional": True}
"""Metadata of a field that the command line takes without a flag."""


def check_minimum(flag: str, value: int | None, minimum: int) -> None:
    """Raise InputError for a number below the smallest that works."""
    if value is not None and value < minimum:
        raise InputError(f"--{flag} is {value}; expected a whole number of at least {minimum}")


MAX_WORKERS = 1_024
"""Threads or processes of one machine: more only cost memory, and a system gives none at all beyond its limit."""


def check_workers(flag: str, value: int | None, minimum: int = 0) -> None:
    """Raise InputError for a number of threads or processes that no machine runs."""
    check_minimum(flag, value, minimum)
    if value is not None and value > MAX_WORKERS:
        raise InputError(f"--{flag} is {value:,}; expected at most {MAX_WORKERS:,}")


def check_read_gb(value: float) -> None:
    """Raise InputError for a limit of memory that is no size."""
    if not value > 0:
        raise InputError(f"--max-read-gb is {value:g}; expected a number above 0")


def check_steps(steps: tuple[int, ...]) -> None:
    """Raise InputError for a step that is negative, or too large for TensorBoard."""
    if not all(0 <= step <= MAX_STEP for step in steps):
        raise InputError(f"--step is {' '.join(map(str, steps))}; expected numbers from 0 to 2**63 - 1")


def check_step_for_each(steps: tuple[int, ...], checkpoints: int) -> None:
    """Raise InputError if steps are given, but not one for each checkpoint."""
    if steps and len(steps) != max(checkpoints, 1):
        raise InputError(f"--step has {len(steps)} numbers for {checkpoints} checkpoints; expected one for each")


def check_ray_only(config: Any, *names: str) -> None:
    """Raise InputError for a flag that only Ray uses, given without it."""
    for name in names:
        if config.engine != "ray" and getattr(config, name) is not None:
            raise InputError(f"--{flag_name(name)} only works with --engine ray: add that flag or leave this one out")


def is_plain(value: Any) -> bool:
    """Return whether JSON gives the value back unchanged, tuples as lists."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def check_update(update: bool, overwrite: bool) -> None:
    """Raise InputError for two flags that contradict each other."""
    if update and overwrite:
        raise InputError("--update and --overwrite exclude each other: one keeps what is valid, the other nothing")
