"""Matches the classes of two steps by their names, and moves what a step says of its classes to the shared places.

It knows no files, and not what is compared.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.predictions.arrow import as_matrix, scatter
from predboard.predictions.label_sets import LabelSets, MultiLabels
from predboard.predictions.schema import Run


@dataclass(frozen=True)
class ClassMapping:
    """The shared class names of two steps, and the place of each step's classes among them."""

    names: tuple[str, ...]
    old: NDArray[np.int64] | None = None  # [classes of the old step] places in `names`, -1 of none; None: as they are
    new: NDArray[np.int64] | None = None
    left_out: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Names that only the old and only the new step has and that are not compared."""

    @property
    def mapped(self) -> bool:
        """Whether the two lists of classes differ."""
        return self.old is not None


def match_classes(
    old: Run, new: Run, called: tuple[str, str], by_name: bool = False, shared: bool = False
) -> ClassMapping:
    """Match the classes of two steps.

    Args:
        old, new: what the footers say.
        called: what to call the two in a message.
        by_name: map different lists by their names: those of the new step, then what only the old one has.
        shared: take the names that both have alone.

    Raises InputError if the lists differ and are not to be mapped, or cannot be because a name is there twice.
    """
    if old.classes == new.classes:
        return ClassMapping(new.classes)
    if not by_name:
        both = enumerate(itertools.zip_longest(old.classes, new.classes))
        at, (a, b) = next((i, pair) for i, pair in both if pair[0] != pair[1])
        descriptions = [
            f"{'none' if name is None else repr(name)} in {side}" for name, side in ((a, called[0]), (b, called[1]))
        ]
        raise InputError(
            f"the classes differ: class {at} is {descriptions[0]} and {descriptions[1]} ({len(old.classes):,} and "
            f"{len(new.classes):,} classes); --map-classes matches them by name"
        )
    for run, side in ((old, called[0]), (new, called[1])):
        if twice := next((name for name in run.classes if run.classes.count(name) > 1), None):
            raise InputError(f"two classes of {side} are called {twice!r}, so --map-classes cannot tell them apart")
    common = set(old.classes) & set(new.classes)
    names = tuple(name for name in dict.fromkeys([*new.classes, *old.classes]) if not shared or name in common)
    if not names:
        raise InputError(
            f"{called[0]} and {called[1]} have no label in common, such as {old.classes[0]!r} and {new.classes[0]!r}"
        )
    place = {name: i for i, name in enumerate(names)}
    old_at, new_at = (np.array([place.get(name, -1) for name in run.classes], np.int64) for run in (old, new))
    left_out = [tuple(name for name in run.classes if name not in place) for run in (old, new)]
    return ClassMapping(names, old_at, new_at, (left_out[0], left_out[1]))


def moved_sets(lists: pa.Array, place: NDArray[np.int64]) -> pa.Array:
    """Return sets of labels with each label at its place in another list of classes."""
    sets = LabelSets.from_arrow(lists)
    label = place[sets.label]
    known = label >= 0
    moved = LabelSets.from_pairs(sets.row[known], label[known], len(sets))
    return moved.to_arrow(np.asarray(lists.is_valid()))


def moved_scores(lists: pa.Array, order: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """Return scores of classes in another order, and maybe of fewer; `kind` is the type of the new lists."""
    return scatter(as_matrix(lists.drop_null())[:, order], np.asarray(lists.is_valid()), kind)


def settled_rows(batch: pa.RecordBatch, classes: int) -> pa.RecordBatch:
    """Return rows of which no label that is left is known as rows without labels."""
    names = batch.schema.names
    valid = np.asarray(batch.column("labels").is_valid())
    labels, unknown = (LabelSets.from_arrow(batch.column(name)) for name in ("labels", "unknown"))
    settled = MultiLabels(labels, unknown, valid).settled(classes).to_arrow()
    for name, column in zip(("labels", "unknown"), settled, strict=True):
        batch = batch.set_column(names.index(name), batch.schema.field(name), column)
    return batch
