"""Finds the rows of the same images in two steps, and how their predictions changed. It knows no filter and no file.

Images are the same if their keys are, as in `predboard compare`; of several rows of one key the first goes with the
first, the second with the second. Where no key is in both steps, because one was inferred from an archive and the other
from its unpacked folder, the names inside the archive are compared, then the digests of the files, and at last folder
and file name, if no image of either step shares them with another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from predboard.config.rows import ChangeKind
from predboard.errors import InputError
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.schema import hash_refs
from predboard.tab.columns import StepRows
from predboard.tab.row_classes import FAILED, NO_CODE, RIGHT, WRONG, place_of_names

BY_NAME = "name of the image"
"""What images are recognised by where their keys agree."""

KINDS = get_args(ChangeKind)
"""How a row differs from that of the same image in another step."""

MOVES = ("lost", "gained", "dropped", "added")
"""How the decision about one of several labels changed: a true label is missed now, or was; a wrong one was predicted,
or is now."""


@dataclass(frozen=True)
class StepPair:
    """The rows of a step, each with the row of the same image in an older one."""

    new: StepRows
    old: StepRows
    old_row: NDArray[np.int32]  # [rows of `new`] place in `old`, -1 if the image is not in it
    joined_by: str
    """What the images were recognised by."""

    @cached_property
    def both(self) -> int:
        """Number of rows whose image is in both."""
        return int((self.old_row >= 0).sum())

    @cached_property
    def other_pictures(self) -> int:
        """Number of rows whose image is in both, but with another digest of its file."""
        if not (self.new.has("digest") and self.old.has("digest")):
            return 0
        new, old = self.new.numbers("digest"), self.old.numbers("digest")[self.old_row]
        return int(((self.old_row >= 0) & (new != 0) & (old != 0) & (new != old)).sum())

    @cached_property
    def true(self) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
        """Codes of the true classes in `old` and in `new`, each [rows]; NO_CODE for none."""
        return self._codes("true")

    @cached_property
    def predicted(self) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
        """Codes of the predicted classes in `old` and in `new`, each [rows]; NO_CODE for none."""
        return self._codes("predicted")

    def _codes(self, role: str) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
        old, new = (step.classes.codes(role, self.new.file.classes) for step in (self.old, self.new))
        return np.where(self.old_row >= 0, old[self.old_row], old.dtype.type(NO_CODE)), new

    def old_has(self, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Return for which rows `old` predicted one of some classes of `new`, bool [rows]; -1 is none."""
        place = place_of_names(self.new.file.classes, self.old.file.classes).tolist()
        known = [place[index] if index >= 0 else -1 for index in wanted if index < 0 or place[index] >= 0]
        if not known:
            return np.zeros(self.new.rows, bool)
        return np.asarray((self.old_row >= 0) & self.old.classes.has("predicted", known)[self.old_row])

    def describe_old(self, rows: NDArray[np.integer[Any]]) -> list[dict[str, Any] | None]:
        """Return the classes and the confidence that some rows had in `old`; None for those that are not in it."""
        places = self.old_row[rows]
        known = places[places >= 0]
        name = [*place_of_names(self.old.file.classes, self.new.file.classes).tolist(), -1]
        described = iter(self.old.classes.describe(known))
        confidence = iter(self.old.numbers("confidence")[known].tolist())
        return [self._describe_old(next(described), name, next(confidence)) if at >= 0 else None for at in places]

    @staticmethod
    def _describe_old(described: dict[str, Any], name: Sequence[int], confidence: float) -> dict[str, Any]:
        """Return a description whose classes are those of `new`."""
        for role, value in described.items():
            if isinstance(value, list):
                described[role] = sorted(name[index] for index in value)
            elif isinstance(value, int):
                described[role] = name[value]
        return {**described, "conf": confidence}

    @cached_property
    def moved(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Row and label, each int64 [decisions], of those that changed in each of the ways of `MOVES`.

        As in `predboard compare`, of images that both steps predicted and know the same of.
        """
        if not (self.new.classes.is_multi_label and self.old.classes.is_multi_label):
            raise InputError(f"{', '.join(MOVES)} ask for labels, and these images have one class each: filter by kind")
        place = self.old_row
        judged = (place >= 0) & (self.new.verdict <= WRONG) & (self.old.verdict[place] <= WRONG)
        at = np.flatnonzero(judged & np.equal(*self.true))
        changed = {}
        for role, (now, before) in {"missed": ("lost", "gained"), "wrongly_predicted": ("added", "dropped")}.items():
            new, old = _sets(self.new, role)[at], _sets(self.old, role, self.new.file.classes)[place[at]]
            for name, sets in ((now, new.minus(old)), (before, old.minus(new))):
                changed[name] = at[sets.row], sets.label
        return changed

    def has_moved(self, move: str, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Return for which rows the decision about one of some labels changed in a way, bool [rows]."""
        rows, labels = self.moved[move]
        chosen = np.zeros(self.new.rows, bool)
        chosen[rows[np.isin(labels, wanted)]] = True
        return chosen

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the arrays, when all are there."""
        return 6 * self.old_row.nbytes

    def mask(self, kind: str) -> NDArray[np.bool_]:
        """Return which rows changed in one of the ways of `KINDS`, bool [rows], as `predboard compare` counts them.

        `changed` are all whose prediction is another, `changed_wrong` those wrong both times, `both_wrong` those with
        the same wrong prediction; a row whose label differs is in `labels_differ` and none of the others.
        """
        paired = self.old_row >= 0
        if kind == "only":
            return ~paired
        old_predicted, predicted = self.predicted
        paired &= (self.new.verdict != FAILED) & (old_predicted != NO_CODE)
        alike = np.equal(*self.true)
        if kind == "labels_differ":
            return np.asarray(paired & ~alike)
        was = self.old.verdict[self.old_row] == RIGHT
        changed = old_predicted != predicted
        right, wrong = self.new.verdict == RIGHT, self.new.verdict == WRONG
        chosen = {
            "fixed": lambda: right & ~was,
            "broken": lambda: wrong & was,
            "changed": lambda: changed,
            "changed_wrong": lambda: wrong & ~was & changed,
            "both_wrong": lambda: wrong & ~changed,
            "same": lambda: ~changed,
        }[kind]()
        return np.asarray(paired & alike & chosen)


def _sets(step: StepRows, role: str, names: Sequence[str] | None = None) -> LabelSets:
    """Return the labels that the rows have in a role, as numbers among `names`, without others."""
    rows, labels = step.classes.entries(role)
    if names is not None and names != step.file.classes:
        labels = place_of_names(step.file.classes, names)[labels]
        rows, labels = rows[labels >= 0], labels[labels >= 0]
    return LabelSets.from_pairs(rows, labels, step.rows)


def pair_steps(new: StepRows, old: StepRows) -> StepPair:
    """Find the rows of the same images in two steps."""
    ways: tuple[tuple[str, str, Callable[[StepRows], NDArray[np.int64] | None]], ...] = (
        (BY_NAME, "key", lambda step: step.numbers("key")),
        ("name inside the archive", "member", lambda step: _hash_names(step, "member", _member)),
        ("digest of the image's file", "digest", lambda step: step.numbers("digest") if step.has("digest") else None),
        ("folder and file name", "tail", lambda step: _unique(_hash_names(step, "tail", _tail))),
    )
    for joined_by, name, keys in ways:
        a, b = keys(new), keys(old)
        if a is None or b is None:
            continue
        old_row = match_keys(a, b, partial(new.sorted_by, name, a), partial(old.sorted_by, name, b))
        old_row[a == 0] = -1  # no digest
        if (old_row >= 0).any():
            return StepPair(new, old, old_row, joined_by)
    return StepPair(new, old, np.full(new.rows, -1, np.int32), "")


def _hash_names(step: StepRows, what: str, part: Callable[[str], str]) -> NDArray[np.int64]:
    """Return a hash of a part of each image's ref, int64 [rows]."""

    def make() -> NDArray[np.int64]:
        blocks = step.texts("image").blocks()
        return hash_refs(part(ref or "") for block in blocks for ref in block.to_pylist())

    return step.derived(f"hash of {what}", make)


def _member(ref: str) -> str:
    """Return the part of a ref that is inside an archive, or all of it."""
    return ref.rpartition("#")[2].removeprefix("./")


def _tail(ref: str) -> str:
    """Return the folder and the file name of a ref."""
    return "/".join(_member(ref).split("/")[-2:])


def _unique(keys: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return keys if none occurs twice, else None."""
    return keys if len(np.unique(keys)) == len(keys) else None


def match_keys(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    order_a: Callable[[], NDArray[np.integer]] | None = None,
    order_b: Callable[[], NDArray[np.integer]] | None = None,
) -> NDArray[np.int32]:
    """Return the place in `b` of each key of `a`, int32 [len(a)], -1 if it is not there.

    Of equal keys the first goes with the first, the second with the second.

    Args:
        a, b: keys.
        order_a, order_b: return the places of the keys in ascending order, equal ones in their order, where these may
            be in memory already.

    >>> match_keys(np.array([7, 5, 7, 9]), np.array([5, 7, 8])).tolist()
    [1, 0, -1, -1]
    """
    if len(a) == len(b) and np.array_equal(a, b):
        return np.arange(len(a), dtype=np.int32)
    rows = np.full(len(a), -1, np.int32)
    if not len(b):
        return rows
    at_a = order_a() if order_a else np.argsort(a, kind="stable")
    at_b = order_b() if order_b else np.argsort(b, kind="stable")
    sorted_a, sorted_b = a[at_a], b[at_b]
    at = np.searchsorted(sorted_b, sorted_a) + _occurrence(sorted_a)
    at[at >= len(b)] = len(b) - 1
    same = sorted_b[at] == sorted_a
    # Beyond the last of its equals a key would meet the same one again, were it at the end.
    same &= _occurrence(sorted_b)[at] == _occurrence(sorted_a)
    rows[at_a[same]] = at_b[at[same]]
    return rows


def _occurrence(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many equal keys stand before each, int64 [keys]; the keys ascend."""
    place = np.arange(len(ordered))
    starts = np.ones(len(ordered), bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(place - np.maximum.accumulate(np.where(starts, place, 0)))
