"""Merges runs over different images into one. It knows no model, no metric and no TensorBoard."""

import functools
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from predboard.comparison.join import count_repeated, has_row_numbers
from predboard.composition.copied_rows import SourceRows, unify_columns, write_copies
from predboard.composition.inputs import NamedRun, NamedStep, have_same_images, open_runs, read_keys
from predboard.composition.new_step import CompositionResult, NewStep, check_out, source_facts
from predboard.config import MergeConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.predictions.schema import Run, hash_refs
from predboard.storage.parts import read_batches
from predboard.storage.paths import is_uri, join_ref
from predboard.streams import print_warning


def merge(config: MergeConfig, log: Callable[[str], None] = print_warning) -> CompositionResult:
    """Write a run with the rows of several, in the order in which they are named.

    Args:
        config: what to merge.
        log: takes a line of progress for a person.

    Raises:
        InputError: for runs of different models, or rows of one image; nothing already written is lost.
    """
    if len(config.predictions) < 2:
        raise InputError(
            "merge needs two runs or more; for example: predboard merge predictions/may predictions/june --out "
            "predictions/all"
        )
    runs = open_runs(config.predictions)
    steps = [
        [NamedStep(run.name, next(s for s in run.steps if s.step == number)) for run in runs]
        for number in _common_steps(runs)
    ]
    records, sources = [], []
    for inputs in steps:
        root, renames = _common_root([one.step.run.root for one in inputs])
        records.append(replace(_common_run(inputs), root=root))
        sources.append(
            [
                SourceRows(one, np.arange(one.step.rows), rename, config.rekey and rename is not None)
                for one, rename in zip(inputs, renames, strict=True)
            ]
        )
    out = check_out(config.out, [run.folder for run in runs], {run.step: run for run in records})
    for of_step in sources:
        known = (have_same_images(a.source.step, b.source.step) for a, b in zip(of_step, sources[0], strict=True))
        if of_step is sources[0] or config.rekey or not all(known):
            _refuse_same_images(of_step, log)
    made = []
    for inputs, run, of_step in zip(steps, records, sources, strict=True):
        rows = sum(one.step.rows for one in inputs)
        new = NewStep(
            out,
            run,
            rows,
            tuple(one.step for one in inputs),
            {"made_by": "merge", "rekeyed": config.rekey, **source_facts(inputs)},
            unify_columns(inputs),
        )
        made.append((new, of_step))
    return write_copies(made, config.overwrite, "merge", log)


def _common_steps(runs: Sequence[NamedRun]) -> list[int]:
    """Return the steps that all runs have. Raises InputError if they have different ones."""
    first = [step.step for step in runs[0].steps]
    for run in runs[1:]:
        numbers = [step.step for step in run.steps]
        if numbers != first:
            raise InputError(
                f"{runs[0].name} has the steps {', '.join(map(str, first))} and {run.name} has "
                f"{', '.join(map(str, numbers))}: name one step of each, as {runs[0].folder}@{first[-1]}"
            )
    return first


def _common_run(inputs: Sequence[NamedStep]) -> Run:
    """Return the record of what is merged. Raises InputError, naming the field, if the runs are of different models."""
    first = inputs[0].step.run
    for one in inputs[1:]:
        run = one.step.run
        comparable = replace(run, root=first.root, shard_size=first.shard_size, thumbnails=first.thumbnails)
        if difference := first.difference(comparable):
            name, mine, theirs = difference
            raise InputError(
                f"{one.name} was made with another {name} than {inputs[0].name} ({theirs}, and {mine}): only runs of "
                "the same model, transform and classes can be merged"
            )
    return replace(first, thumbnails=max(one.step.run.thumbnails for one in inputs))


def _common_root(roots: Sequence[str]) -> tuple[str, list[Callable[[str], str] | None]]:
    """Return the folder that refs of all runs can be relative to, and what makes the new ref of each run's refs.

    That is the nearest common folder; where there is none, refs are absolute.
    """
    if len(set(roots)) == 1:
        return roots[0], [None] * len(roots)
    root = ""
    if all(map(is_uri, roots)):
        places = [uri.partition("://") for uri in roots]
        if len({(scheme, rest.split("/")[0]) for scheme, _, rest in places}) == 1:
            root = f"{places[0][0]}://{posixpath.commonpath([rest for *_, rest in places])}"
    elif all(map(os.path.isabs, roots)):
        root = os.path.commonpath(roots)
    return root, [functools.partial(_move_ref, own, root) for own in roots]


def _move_ref(own: str, root: str, ref: str) -> str:
    """Return a ref that is relative to another root.

    >>> _move_ref("/data/may", "/data", "cat/1.png"), _move_ref("s3://b/may", "", "1.png")
    ('may/cat/1.png', 's3://b/may/1.png')
    """
    path = str(join_ref(own, ref)) if own else ref
    prefix = f"{root.rstrip('/')}/"
    return path[len(prefix) :] if root and path.startswith(prefix) else path


def _refuse_same_images(sources: Sequence[SourceRows], log: Callable[[str], None]) -> None:
    """Raise InputError if an image is in two runs, by its key."""
    for rows in sources:
        if has_row_numbers(rows.source.step):
            raise InputError(
                f"the images of {rows.source.name} have no names, only the numbers of its rows: import it again with "
                "--images LIST or --key-column COLUMN"
            )
    keys = [_keys(rows) for rows in sources]
    repeated = count_repeated(np.concatenate(keys))
    within = sum(map(count_repeated, keys))
    if within:
        log(f"{within:,} rows share their key with another of the same run, and stay")
    if repeated == within:
        return
    shared = _shared(keys)
    hint = ": name each image once"
    if any(rows.rename is not None for rows in sources) and not any(rows.new_keys for rows in sources):
        hint = (
            ", though their folders differ: if these are different images, --rekey names them by their paths from "
            "the folder that all have in common"
        )
    which = plural(shared, "image of these runs is", "images of these runs are")
    raise InputError(f"{which} in more than one of them, by their keys{hint}")


def _shared(keys: Sequence[NDArray[np.int64]]) -> int:
    """Return how many distinct keys are in more than one run."""
    every = np.sort(np.concatenate([np.unique(key) for key in keys]))
    return len(np.unique(every[1:][every[1:] == every[:-1]]))


def _keys(rows: SourceRows) -> NDArray[np.int64]:
    if rows.rename is None or not rows.new_keys:
        return read_keys(rows.source.step)
    batches = (batch for file in rows.source.step.parts for batch in read_batches(file, {"id", "image"}))
    return np.concatenate([hash_refs(map(rows.rename, batch.column("image").to_pylist())) for batch in batches])
