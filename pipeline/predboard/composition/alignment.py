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
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.table import Predictions
from predboard.storage.parts import read_batches
from predboard.storage.runs import Step, read_values


@dataclass(frozen=True)
class Alignment:
    """The rows of several steps as those of one: those of the first in their order, then what only the second has, …"""

    key: NDArray[np.int64]  # [rows]
    label: Labels
    """[rows] of the first step that knows it."""
    places: tuple[NDArray[np.int64], ...]
    """For each step the row here of each of its rows, [rows of the step]."""
    starts: tuple[int, ...]
    """For each step the first row here that no step before it has, and at the end the number of rows."""
    errors: dict[int, str]
    """Why a row has no scores in all steps."""
    labels_taken: tuple[int, ...]
    """For each step how many labels of images that earlier steps have it knows, and these do not."""


@dataclass(frozen=True)
class _Small:
    """What is in memory of the rows of a step."""

    key: NDArray[np.int64]
    label: Labels
    error: dict[int, str]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which rows have a label, [rows]."""
        return self.label.labelled if isinstance(self.label, MultiLabels) else np.asarray(self.label >= 0)


def align(inputs: Sequence[NamedStep], places: Sequence[NDArray[np.int64] | None]) -> Alignment:
    """Find the rows of the same images; of several rows of a key the first goes with the first, and so on.

    Args:
        inputs: the steps, complete, of one task.
        places: for each step the places of its classes among the common ones; None if they are the same.

    Raises InputError for images with different labels, or for keys that are no names of images.
    """
    small = [_read_small(one.step, place) for one, place in zip(inputs, places, strict=True)]
    every = _concat([rows.label for rows in small])
    key, first = small[0].key, len(small[0].key)
    at, starts, taken = [np.arange(first)], [0, first], [0]
    owner = np.where(small[0].labelled, at[0], -1)  # [rows] the place in `every` of its label; -1 without one
    errors = {row: f"{inputs[0].name}: {error}" for row, error in small[0].error.items()}
    have = np.ones(first, np.int64)  # [rows] how many steps have it
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
        key = np.concatenate([key, rows.key[new]])
        owner = np.concatenate([owner, np.full(int(new.sum()), -1)])
        have = np.concatenate([have, np.zeros(int(new.sum()), np.int64)])
        have[place] += 1
        own = first + np.arange(len(rows.key))
        first += len(rows.key)
        both = np.flatnonzero((owner[place] >= 0) & rows.labelled)
        _refuse_other_labels(inputs[:number], one, both[_differ(every[owner[place[both]]], every[own[both]])])
        known = (owner[place] < 0) & rows.labelled
        taken.append(int((known & ~new).sum()))
        owner[place[known]] = own[known]
        for row, error in rows.error.items():
            _add(errors, int(place[row]), f"{one.name}: {error}")
        at.append(place)
        starts.append(len(key))
    if not (have == len(inputs)).any():
        raise InputError(_strangers(inputs))
    for one, rows in zip(inputs, small, strict=True):
        if count_repeated(rows.key) and not isinstance(rows.label, MultiLabels):
            refuse_ambiguous_keys(rows.key, rows.label, one.step)
    return Alignment(key, _with_none(every, owner), tuple(at), tuple(starts), errors, tuple(taken))


def _add(errors: dict[int, str], row: int, reason: str) -> None:
    errors[row] = f"{errors[row]}; {reason}" if row in errors else reason


def _read_small(step: Step, place: NDArray[np.int64] | None) -> _Small:
    keys: list[NDArray[np.int64]] = []
    labels: list[Labels] = []
    errors: dict[int, str] = {}
    for file in step.parts:
        for rows in read_batches(file, ("id", "key", "label", "error")):
            keys.append(rows.key)
            labels.append(_mapped(_labels_of(rows), place))
            error = rows.column("error")
            valid = np.flatnonzero(as_numpy(error.is_valid().cast(pa.uint8())))
            texts = error.take(as_arrow(valid, pa.int64())).to_pylist()
            errors.update(zip(rows.id[valid].tolist(), texts, strict=True))
    return _Small(np.concatenate(keys), _concat(labels), errors)


# --- labels, of either task ---


def _labels_of(rows: Predictions) -> Labels:
    if isinstance(rows, MultiLabelPredictions):
        return MultiLabels(rows.labels, rows.unknown, rows.is_labelled)
    return rows.label


def _mapped(labels: Labels, place: NDArray[np.int64] | None) -> Labels:
    """Return labels as places among the common classes."""
    if place is None:
        return labels
    if isinstance(labels, MultiLabels):
        known, unknown = (LabelSets.from_pairs(s.row, place[s.label], len(s)) for s in (labels.labels, labels.unknown))
        return MultiLabels(known, unknown, labels.labelled)
    return np.where(labels < 0, -1, place[labels])


def _concat(labels: Sequence[Labels]) -> Labels:
    """Return the labels of all rows, those of the first first."""
    sets = [one for one in labels if isinstance(one, MultiLabels)]
    if not sets:
        return np.concatenate([one for one in labels if not isinstance(one, MultiLabels)]).astype(np.int32)
    known, unknown = _concat_sets([one.labels for one in sets]), _concat_sets([one.unknown for one in sets])
    return MultiLabels(known, unknown, np.concatenate([one.labelled for one in sets]))


def _concat_sets(sets: Sequence[LabelSets]) -> LabelSets:
    size = np.concatenate([one.size for one in sets])
    return LabelSets(np.concatenate([[0], np.cumsum(size)]).astype(np.int64), np.concatenate([s.label for s in sets]))


def _differ(one: Labels, other: Labels) -> NDArray[np.bool_]:
    """Return which rows have another label, [rows]; where some labels are unknown in either, only the others count."""
    if isinstance(one, MultiLabels) and isinstance(other, MultiLabels):
        return ~one.labels.minus(other.unknown).equals(other.labels.minus(one.unknown))
    return np.asarray(one != other)


def _with_none(labels: Labels, at: NDArray[np.int64]) -> Labels:
    """Return the labels at some places, none where a place is -1."""
    known = at >= 0
    if not isinstance(labels, MultiLabels):
        return np.where(known, labels[np.where(known, at, 0)], -1).astype(np.int32)
    chosen = labels[np.where(known, at, 0)]
    return MultiLabels(
        chosen.labels.subset(known[chosen.labels.row]), chosen.unknown.subset(known[chosen.unknown.row]), known
    )


def _find(key: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each key, -1 where it is not there."""
    if np.array_equal(key, wanted):
        return np.arange(len(key))
    return KeyIndex(pa.RecordBatch.from_arrays([as_arrow(key, pa.int64())], ["key"])).find(wanted)


def _refuse_other_labels(before: Sequence[NamedStep], one: NamedStep, differ: NDArray[np.int64]) -> None:
    """Raise InputError if rows of a step, `differ`, have other labels than those before it."""
    if not len(differ):
        return
    row = int(differ[0])
    image = read_values(one.step, [row], "image").get(row) or f"row {row:,}"
    raise InputError(
        f"{plural(len(differ), 'image has', 'images have')} another label in {one.name} than in "
        f"{' and '.join(run.name for run in before)}, the first of them {image!r}: there is no knowing which is right; "
        "`predboard take RUN --labels FILE` gives a run others"
    )


def _strangers(inputs: Sequence[NamedStep]) -> str:
    names = " and ".join(one.name for one in inputs)
    examples = [next(iter(read_values(one.step, [0], "image").values()), None) for one in inputs[:2]]
    example = "" if None in examples else f" ({examples[0]!r} is in one, {examples[1]!r} in the other)"
    return (
        f"no image is in all of {names}{example}: rows are joined by key, which is the path below --data, or what "
        "--key-column of `predboard infer` and `import` names"
    )
