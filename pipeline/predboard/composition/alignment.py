"""Finds the rows of several steps that are of the same image, by their keys, and the label of each image.

It reads no logits and knows nothing of what is made of the rows. In memory are some 40 bytes for each row of each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.comparison.join import KeyIndex, count_repeated, refuse_ambiguous_keys
from predboard.composition.inputs import NamedStep
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.predictions.arrow import as_arrow, as_numpy
from predboard.storage.parts import read_batches
from predboard.storage.runs import Step, read_values


@dataclass(frozen=True)
class Alignment:
    """The rows of several steps as those of one: those of the first in their order, then what only the second has, …"""

    key: NDArray[np.int64]  # [rows]
    label: NDArray[np.int32]  # [rows] -1 where no step knows it
    places: tuple[NDArray[np.int64], ...]
    """For each step the row here of each of its rows, [rows of the step]."""
    starts: tuple[int, ...]
    """For each step the first row here that no step before it has, and at the end the number of rows."""
    errors: dict[int, str]
    """Why a row has no scores in all steps."""
    labels_taken: tuple[int, ...]
    """For each step how many labels it knows that the steps before it do not."""


@dataclass(frozen=True)
class _Small:
    """What is in memory of the rows of a step."""

    key: NDArray[np.int64]
    label: NDArray[np.int32]
    error: dict[int, str]


def align(inputs: Sequence[NamedStep], places: Sequence[NDArray[np.int64] | None]) -> Alignment:
    """Find the rows of the same images; of several rows of a key the first goes with the first, and so on.

    Args:
        inputs: the steps, complete.
        places: for each step the places of its classes among the common ones; None if they are the same.

    Raises InputError for images with different labels, or for keys that are no names of images.
    """
    small = [_read_small(one.step, place) for one, place in zip(inputs, places, strict=True)]
    key, label = small[0].key, small[0].label.copy()
    at = [np.arange(len(key))]
    starts, taken = [0, len(key)], [0]
    errors = {row: f"{inputs[0].name}: {error}" for row, error in small[0].error.items()}
    have = np.ones(len(key), np.int64)  # [rows] how many steps have it
    for number, (one, rows) in enumerate(zip(inputs[1:], small[1:], strict=True), 1):
        place = _find(key, rows.key)
        new = place < 0
        place[new] = np.arange(len(key), len(key) + int(new.sum()))
        lacking = np.ones(len(key), bool)
        lacking[place[~new]] = False
        for row in np.flatnonzero(lacking).tolist():
            _add(errors, row, f"not in {one.name}")
        without = ", ".join(before.name for before in inputs[:number])
        for row in place[new].tolist():
            errors[row] = f"not in {without}"
        key, label = (
            np.concatenate([key, rows.key[new]]),
            np.concatenate([label, np.full(int(new.sum()), -1, np.int32)]),
        )
        have = np.concatenate([have, np.zeros(int(new.sum()), np.int64)])
        have[place] += 1
        _refuse_other_labels(inputs[:number], one, label[place], rows)
        known = (label[place] < 0) & (rows.label >= 0)
        taken.append(int((known & ~new).sum()))
        label[place[known]] = rows.label[known]
        for row, error in rows.error.items():
            _add(errors, int(place[row]), f"{one.name}: {error}")
        at.append(place)
        starts.append(len(key))
    if len(inputs) > 1 and not (have == len(inputs)).any():
        raise InputError(_strangers(inputs))
    for one, rows in zip(inputs, small, strict=True):
        if count_repeated(rows.key):
            refuse_ambiguous_keys(rows.key, rows.label, one.step)
    return Alignment(key, label, tuple(at), tuple(starts), errors, tuple(taken))


def _add(errors: dict[int, str], row: int, reason: str) -> None:
    errors[row] = f"{errors[row]}; {reason}" if row in errors else reason


def _read_small(step: Step, place: NDArray[np.int64] | None) -> _Small:
    keys, labels, errors = [], [], {}
    for file in step.parts:
        for rows in read_batches(file, ("id", "key", "label", "error")):
            label = rows.label
            keys.append(rows.key)
            labels.append(label if place is None else np.where(label < 0, -1, place[label]))
            error = rows.column("error")
            valid = np.flatnonzero(as_numpy(error.is_valid().cast(pa.uint8())))
            texts = error.take(as_arrow(valid, pa.int64())).to_pylist()
            errors.update(zip(rows.id[valid].tolist(), texts, strict=True))
    return _Small(np.concatenate(keys), np.concatenate(labels).astype(np.int32), errors)


def _find(key: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each key, -1 where it is not there."""
    if np.array_equal(key, wanted):
        return np.arange(len(key))
    return KeyIndex(pa.RecordBatch.from_arrays([as_arrow(key, pa.int64())], ["key"])).find(wanted)


def _refuse_other_labels(before: Sequence[NamedStep], one: NamedStep, label: NDArray[np.int32], rows: _Small) -> None:
    """Raise InputError if a step has other labels than those before it."""
    differ = np.flatnonzero((label >= 0) & (rows.label >= 0) & (label != rows.label))
    if not len(differ):
        return
    row = int(differ[0])
    image = read_values(one.step, [row], "image").get(row) or f"row {row:,}"
    raise InputError(
        f"{plural(len(differ), 'image has', 'images have')} another label in {one.name} than in "
        f"{' and '.join(run.name for run in before)}, the first of them {image!r} (class {rows.label[row]} and class "
        f"{label[row]}): there is no knowing which is right; give all runs the same labels first"
    )


def _strangers(inputs: Sequence[NamedStep]) -> str:
    names = " and ".join(one.name for one in inputs)
    examples = [next(iter(read_values(one.step, [0], "image").values()), None) for one in inputs[:2]]
    example = "" if None in examples else f" ({examples[0]!r} is in one, {examples[1]!r} in the other)"
    return (
        f"no image is in all of {names}{example}: rows are joined by key, which is the path below --data, or what "
        "--key-column of `predboard infer` and `import` names"
    )
