"""Reads the labels of one item of a dataset, where an image may have several. It knows no tables and no files.

An item has an array or tensor with 1, 0 or −1 for each class, or a list of indices or names, as its author's training
code does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from predboard.config import EmptyCell
from predboard.formatting import did_you_mean
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels, label_values

ItemLabels = tuple[list[int], list[int]]
"""Labels that apply, and labels of which that is not known, each ascending."""


def read_item(value: Any, classes: Sequence[str], width: int = 0, empty: EmptyCell | None = None) -> ItemLabels | None:
    """Return the labels of an item; None if it has none, which is no label at all rather than an empty set.

    Args:
        value: an array or tensor of 1, 0, −1 or NaN for each class; a list of indices or of names; a name; or None.
        classes: names of the dataset's own classes; empty if it has none.
        width: number of the classes where they have no names; 0 if that is not known.
        empty: what NaN means.

    Raises ValueError for anything else, and for what could be read in two ways.

    >>> read_item(np.array([0, 1, -1]), ("a", "b", "c")), read_item(["c", "a"], ("a", "b", "c")), read_item([], ("a",))
    (([1], [2]), ([0, 2], []), ([], []))
    """
    if value is None:
        return None
    is_array = hasattr(value, "shape")
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping) or not (is_array or isinstance(value, list | tuple | set | frozenset)):
        raise ValueError(
            f"label is a {type(value).__name__} ({value!r}); expected a list of labels, or 0 and 1 for each"
        )
    values = value if is_array else list(value)
    if not is_array and all(isinstance(name, str) for name in values):
        return sorted({_index(name, classes) for name in values}), []
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"label is {array.dtype} of shape {list(array.shape)}; expected 1, 0 or −1 for each class")
    known = len(classes) or width
    blank = np.isnan(array) if array.dtype.kind == "f" else np.zeros(len(array), bool)
    repeats = len(np.unique(array)) < len(array)  # as indices do not
    certain = array.dtype.kind == "b" or is_array or repeats or bool((blank | (array < 0)).any())
    if len(array) and (blank | (array == 0) | (array == 1) | (array == -1)).all():
        if known in (0, len(array)) and (certain or len(array) == 1 == known):
            return _of_marks(array, blank, empty)
        if (known == len(array) or (is_array and known)) and len(array) > 1:
            raise ValueError(
                f"label {values} could be indices, or 0 and 1 for each of {known} classes; expected an array of "
                f"{known} for 0 and 1, and a list for indices"
            )
    if array.dtype.kind == "b" or repeats or blank.any() or (array < 0).any() or (array != np.floor(array)).any():
        count = f"{known} classes" if known else "the classes"
        raise ValueError(f"label is {str(values)[:80]}; expected 1, 0 or −1 for each of {count}, or a list of indices")
    if known and len(array) and array.max() >= known:
        raise ValueError(f"label {int(array.max())} is none of the {known} classes, 0 to {known - 1}")
    return sorted(array.astype(int).tolist()), []


def _of_marks(array: Any, blank: Any, empty: EmptyCell | None) -> ItemLabels | None:
    if blank.any() and empty is None and not blank.all():
        raise ValueError("label has NaN, which can mean absent or unknown: give --empty absent or --empty unknown")
    unknown = (array == -1) | (blank & (empty != "absent"))
    if unknown.all():
        return None
    return np.flatnonzero(array == 1).tolist(), np.flatnonzero(unknown).tolist()


def _index(name: str, classes: Sequence[str]) -> int:
    if not classes:
        raise ValueError(f"label is the name {name!r}, but the dataset has no classes: see --classes")
    if name not in classes:
        raise ValueError(f"label {name!r} is none of the {len(classes)} classes{did_you_mean(name, classes)}")
    return classes.index(name)


def with_item_labels(listed: Labels, items: Sequence[int | ItemLabels | None], classes: int) -> Labels:
    """Return the labels of rows, [rows]: those that their items have, else those that are listed.

    Args:
        listed: [rows].
        items: [rows] label of each item, None where it has none.
        classes: number of the classes; a label of a single-label item beyond them is unknown.
    """
    if not isinstance(listed, MultiLabels):
        label = np.array([known if item is None else item for known, item in zip(listed.tolist(), items, strict=True)])
        return np.where(label < classes, label, -1).astype(np.int32)
    if all(item is None for item in items):
        return listed
    pairs: Iterable[tuple[Any, ...]] = label_values(listed)
    rows: list[Any] = [pair if item is None else item for pair, item in zip(pairs, items, strict=True)]
    labels, unknown = (LabelSets.from_lists(row[i] or () for row in rows) for i in (0, 1))
    return MultiLabels(labels, unknown, np.array([row[0] is not None for row in rows], bool)).settled(classes)
