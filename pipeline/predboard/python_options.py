"""Check the options of the functions of `api`, and put messages of the command line into Python's words.

It knows nothing of what the functions do.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from predboard import config as configurations
from predboard.errors import InputError
from predboard.formatting import nearest_names
from predboard.streams import print_warning

R = TypeVar("R")

ARGUMENTS = {
    configurations.InferConfig: {
        *("data", "model", "model_args", "checkpoint", "ema", "trust_checkpoint", "step", "out", "classes", "device"),
        *("overwrite", "engine", "ray_address", "actors", "gpus_per_actor", "cpus_per_actor"),
    },
    configurations.ImportConfig: {"files", "scores", "out"},
    configurations.VisualizeConfig: {"predictions", "logdir", "list"},
    configurations.CompareConfig: {"predictions"},
    configurations.CombineConfig: {"predictions"},
    configurations.MergeConfig: {"predictions"},
    configurations.TakeConfig: {"predictions"},
    configurations.GateConfig: {"predictions", "rules", "baseline", "suggest"},
}
"""Fields of each configuration that are no options here: an argument, or the object itself, stands for them."""


def call_with_folders(
    command: Callable[..., R], config: type[Any], folders: tuple[Any, ...], named: Mapping[str, Any]
) -> R:
    """Call a command with a configuration as it is, or with one that is made of folders and options."""
    if folders and isinstance(folders[0], config):
        return command(*folders, **named)
    options = {"log": print_warning, **named}
    log = options.pop("log")
    with python_names():
        check_options(command.__name__, config, options)
        predictions = folders if len(folders) != 1 else folders[0]  # one folder, or a list of them
        return command(config(predictions=predictions, **options), log)


def check_options(function: str, config: type, options: Collection[str]) -> None:
    """Raise InputError for an option that is no field of a configuration."""
    known = {field.name for field in dataclasses.fields(config)} - ARGUMENTS[config]
    if unknown := sorted(set(options) - known):
        taken = {"logdir", "out", "scores"} & ARGUMENTS[config]  # named here as well
        meant = [] if unknown[0] in ARGUMENTS[config] else nearest_names(unknown[0], known | taken, 1, 0.7)
        hint = f"did you mean {meant[0]!r}?" if meant else f"expected one of {', '.join(sorted(known))}"
        raise InputError(f"{function} has no option {unknown[0]!r}; {hint}")


@contextlib.contextmanager
def python_names() -> Iterator[None]:
    """Make messages say `batch_size=` and `overwrite=True` where the command line says --batch-size and --overwrite."""
    switches = {field.name for config in ARGUMENTS for field in dataclasses.fields(config) if field.type is bool}

    def argument(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return f"{name}=True" if name in switches else f"{name}="

    try:
        yield
    except InputError as error:
        parts = str(error).split("`")  # every other one is a command, which stays as it is
        parts[::2] = [re.sub(r"--([a-z][a-z-]*[a-z])", argument, part) for part in parts[::2]]
        raise type(error)("`".join(parts)) from error
