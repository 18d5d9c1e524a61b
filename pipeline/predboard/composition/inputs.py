"""Opens the runs that another run is made of. It knows nothing of what is made of them.

A run is named by its folder, or as `FOLDER@STEP`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.formatting import plural
from predboard.storage.parts import read_batches
from predboard.storage.paths import AnyPath
from predboard.storage.runs import Step, distinct_names, list_empty_steps, open_run, step_folder


@dataclass(frozen=True)
class NamedStep:
    """A step of a run, and what to call it."""

    name: str
    """Name of the run's folder, with `@STEP` where the step was named."""
    step: Step


@dataclass(frozen=True)
class NamedRun:
    """Some or all steps of a run, and what to call it."""

    name: str
    folder: AnyPath
    steps: tuple[Step, ...]
    """All steps, ascending; only one if it was named."""
    one: bool
    """Whether the step was named."""

    @property
    def last(self) -> NamedStep:
        """The last step, or the one that was named."""
        return NamedStep(self.name, self.steps[-1])


def split_step(path: AnyPath) -> tuple[AnyPath, int | None]:
    """Return the folder of a run and the step that its name asks for; None if it asks for none.

    A folder whose own name ends in @ and a number is a run.
    """
    name, _, number = path.name.rpartition("@")
    if not (name and number.isdecimal()) or path.exists():
        return path, None
    return path.parent / name, int(number)


def open_runs(paths: Sequence[AnyPath]) -> tuple[NamedRun, ...]:
    """Open the runs that a command names.

    Raises InputError for what `open_run` refuses, for a step that is not there, for rows that are missing, and, where
    no step was named, for one without a part.
    """
    named = [split_step(path) for path in paths]
    names = distinct_names([folder for folder, _ in named])
    return tuple(_open(name, *run) for name, run in zip(names, named, strict=True))


def _open(name: str, folder: AnyPath, number: int | None) -> NamedRun:
    steps = open_run(folder)
    if number is not None:
        numbers = ", ".join(str(step.step) for step in steps)
        steps = tuple(step for step in steps if step.step == number)
        if not steps:
            raise InputError(f"{folder} has no step {number}; there are {numbers}")
        name = f"{name}@{number}"
    elif empty := list_empty_steps(folder):  # the last step may be one of them
        raise InputError(
            f"{step_folder(folder, empty[-1])} holds no part: run the command that wrote it again, delete this folder, "
            f"or name a step, as in {folder}@{steps[-1].step}"
        )
    for step in steps:
        _refuse_incomplete(folder, step)
    return NamedRun(name, folder, steps, number is not None)


def _refuse_incomplete(folder: AnyPath, step: Step) -> None:
    if lacking := step.manifest_rows - step.rows:
        raise InputError(
            f"{folder} step {step.step} is missing {plural(lacking, 'row')} of {step.manifest_rows:,}: run the command "
            "that wrote it again, which adds them"
        )


def read_keys(step: Step) -> NDArray[np.int64]:
    """Return the keys of all rows of a step, [rows]."""
    return np.concatenate([rows.key for part in step.parts for rows in read_batches(part, {"id", "key"})])


def have_same_images(one: Step, other: Step) -> bool:
    """Return whether two steps are of the same images in the same order, as far as their keys tell."""
    lists = [[(file.part.start, file.part.manifest_digest) for file in step.parts] for step in (one, other)]
    return lists[0] == lists[1] or np.array_equal(read_keys(one), read_keys(other))
