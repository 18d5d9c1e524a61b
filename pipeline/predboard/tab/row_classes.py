"""Says which classes the rows of a step have: one each, or sets of labels. It knows no query and no file.

Whoever needs true or predicted classes asks here by their role, so that nothing else in the tab depends on the task.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.label_sets import LabelSets, product
from predboard.predictions.schema import hash_refs

T = TypeVar("T")

RIGHT, WRONG, UNLABELLED, FAILED = range(4)
"""Verdicts of a row: its prediction is its label or is not, it has a prediction and no label, or no prediction."""

VERDICTS = ("right", "wrong", "unlabelled", "failed")

ROLES = ("true", "predicted", "missed", "wrongly_predicted")
"""What a class may be of a row. With one class each, a wrong row misses its true class and wrongly has the other."""

NO_CODE = -1

Names = Sequence[str | list[str] | None]
"""Name of the class of each row, or names of its classes; None where there is none, or nothing is known."""

Cells = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Rows in the order of the cells of the matrix, int32 [rows, one for each cell it is in]; where each cell begins among
them, int64 [cells]; the cells that have rows, row of the matrix * `axis` + column, int64 [cells]."""


class StepColumns(Protocol):
    """The columns of a step, as `columns.StepRows` has them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by index."""

    def has(self, name: str) -> bool:
        """Return whether there is a column of that name."""

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of numbers, [rows]; -1 for null in `label` and `predicted`."""

    def sets(self, name: str) -> tuple[LabelSets, NDArray[np.bool_]]:
        """Return a column of lists of classes, [rows], and which rows are not null, bool [rows]."""

    def numbers_of_sets(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a number for each label of a column of lists of classes, and which rows have these, bool [rows]."""

    def derived(self, name: object, make: Callable[[], T]) -> T:
        """Return what is made of columns, and held as they are."""


class RowClasses(Protocol):
    """The classes of the rows of a step, by role; -1 stands for none."""

    matrix: tuple[str, str]
    """Roles of the rows and of the columns of the matrix."""
    is_multi_label: bool
    hidden: frozenset[str]
    """Columns that have a place of their own in the tab."""
    seen: tuple[str, ...]
    """Columns that `describe_values` needs."""
    exported: tuple[str, ...]
    """Roles that a list of rows has."""
    probabilities: tuple[tuple[str, str], ...]
    """Columns of lists of classes, each with the column of their probabilities."""

    @property
    def axis(self) -> int:
        """Classes along a side of the matrix."""

    @property
    def verdict(self) -> NDArray[np.uint8]:
        """RIGHT, WRONG, UNLABELLED or FAILED, uint8 [rows]."""

    @property
    def cells(self) -> Cells:
        """The rows of each cell of the matrix, so that those of a mask are counted by one sweep."""

    def has(self, role: str, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Return which rows have one of some classes in a role, bool [rows]."""

    def entries(self, role: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and class of each class that a row has in a role, int64 [entries]."""

    def first(self, role: str) -> NDArray[np.integer[Any]]:
        """Return the first class of each row in a role, [rows]; -1 for none."""

    def codes(self, role: str, names: Sequence[str]) -> NDArray[np.integer[Any]]:
        """Return numbers that are equal where the classes are, also in other runs, [rows]; NO_CODE for none.

        Args:
            role: `true` or `predicted`.
            names: classes of the run whose codes they are compared with.
        """

    def names(self, role: str, rows: NDArray[np.integer[Any]]) -> Names:
        """Return the names of the classes of some rows in a role."""

    def describe(self, rows: NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
        """Return the classes of some rows as the page has them."""

    def describe_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same of one row, from its values in the columns of `seen`."""


def classes_of_rows(step: StepColumns) -> RowClasses:
    """Return the classes of a step's rows."""
    return OneClass(step) if step.has("label") else ClassSets(step)


def place_of_names(names: Sequence[str], among: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each name among others, the first of equal ones, int64 [names]; -1 if it is not there."""
    place = {name: at for at, name in reversed(list(enumerate(among)))}
    return np.array([place.get(name, -1) for name in names], np.int64)


class OneClass:
    """Rows that have one true class and one predicted."""

    matrix = ("true", "predicted")
    is_multi_label = False
    hidden = frozenset({"label", "predicted", "label_name", "predicted_name"})
    seen: tuple[str, ...] = ("label", "predicted")
    exported: tuple[str, ...] = matrix
    probabilities: tuple[tuple[str, str], ...] = ()

    def __init__(self, step: StepColumns) -> None:
        """Read nothing yet."""
        self._step = step

    @property
    def axis(self) -> int:
        """Classes along a side of the matrix."""
        return len(self._step.class_names)

    @property
    def _columns(self) -> dict[str, NDArray[np.int32]]:
        """True and predicted class of each row, int32 [rows]."""
        return {"true": self._step.numbers("label"), "predicted": self._step.numbers("predicted")}

    @property
    def verdict(self) -> NDArray[np.uint8]:
        """RIGHT, WRONG, UNLABELLED or FAILED, uint8 [rows]."""

        def make() -> NDArray[np.uint8]:
            true, predicted = self._columns.values()
            verdict = np.where(true == predicted, np.uint8(RIGHT), np.uint8(WRONG))
            verdict[true < 0] = UNLABELLED
            verdict[predicted < 0] = FAILED
            return verdict

        return self._step.derived("verdict", make)

    @property
    def cells(self) -> Cells:
        """The rows of each cell of the confusion matrix."""

        def make() -> Cells:
            order = np.flatnonzero(self.verdict < UNLABELLED).astype(np.int32)
            true, predicted = self._columns.values()
            for column in (predicted, true):
                classes = column[order]
                # Numbers of 16 bits are sorted by their digits, in two fifths of the time.
                digits = classes.astype(np.uint16) if self.axis <= 2**16 else classes
                order = order[np.argsort(digits, kind="stable")]
            cell = true[order] * np.int64(self.axis) + predicted[order]
            starts = np.flatnonzero(np.diff(cell, prepend=-1))
            return order, starts, cell[starts]

        return self._step.derived("cells", make)

    def _column(self, role: str) -> NDArray[np.int32]:
        if role in ("true", "predicted"):
            return self._columns[role]
        column = self._columns["true" if role == "missed" else "predicted"]
        return np.where(self.verdict == WRONG, column, np.int32(-1))

    def has(self, role: str, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Return which rows have one of some classes in a role, bool [rows]."""
        column = self._column(role)
        if len(wanted) == 1:
            return np.asarray(column == wanted[0])
        chosen = np.zeros(self.axis + 1, bool)
        chosen[list(wanted)] = True  # the last one is that of -1
        return np.asarray(chosen[column])

    def entries(self, role: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and class of each class that a row has in a role, int64 [entries]."""
        column = self._column(role)
        rows = np.flatnonzero(column >= 0)
        return rows, column[rows].astype(np.int64)

    def first(self, role: str) -> NDArray[np.integer[Any]]:
        """Return the class of each row in a role, int32 [rows]; -1 for none."""
        return self._column(role)

    def codes(self, role: str, names: Sequence[str]) -> NDArray[np.integer[Any]]:
        """Return the class of each row as a number among `names`, int32 [rows]; NO_CODE for none."""
        column, own = self._columns[role], self._step.class_names
        if own == names:
            return column
        return np.append(place_of_names(own, names), NO_CODE).astype(np.int32)[column]

    def names(self, role: str, rows: NDArray[np.integer[Any]]) -> Names:
        """Return the name of the class of some rows in a role."""
        names: tuple[str | None, ...] = (*self._step.class_names, None)  # the last one is that of -1
        return [names[index] for index in self._column(role)[rows].tolist()]

    def describe(self, rows: NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
        """Return the classes of some rows as the page has them."""
        arrays: tuple[NDArray[Any], ...] = (*self._columns.values(), self.verdict)
        columns = (array[rows].tolist() for array in arrays)
        return [
            {"true": true, "pred": predicted, "verdict": VERDICTS[verdict]}
            for true, predicted, verdict in zip(*columns, strict=True)
        ]

    def describe_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same of one row, from its values."""
        true, predicted = (-1 if values[name] is None else values[name] for name in self.seen)
        verdict = FAILED if predicted < 0 else UNLABELLED if true < 0 else RIGHT if true == predicted else WRONG
        return {"true": true, "pred": predicted, "verdict": VERDICTS[verdict]}


_COLUMNS = dict(zip(ROLES, ("labels", "predicted_labels", "missed", "wrongly_predicted"), strict=True))
"""Column of each role, of rows with sets of labels."""

_PROBABILITIES = {"true": "label_probability", "predicted": "predicted_probability"}
"""Column of the probabilities of the labels of a role."""


class ClassSets:
    """Rows that have several labels each, or none."""

    matrix = ("missed", "wrongly_predicted")
    is_multi_label = True
    hidden: frozenset[str] = frozenset()
    seen: tuple[str, ...] = tuple(_COLUMNS.values())
    exported: tuple[str, ...] = ROLES
    probabilities: tuple[tuple[str, str], ...] = (
        ("labels", _PROBABILITIES["true"]),
        ("predicted_labels", _PROBABILITIES["predicted"]),
    )

    def __init__(self, step: StepColumns) -> None:
        """Read nothing yet."""
        self._step = step

    @property
    def axis(self) -> int:
        """Classes along a side of the matrix; the last one is that of rows that miss nothing, or say nothing wrong."""
        return len(self._step.class_names) + 1

    def _sets(self, role: str) -> LabelSets:
        """Return the labels of a role, [rows]; empty for rows without."""
        return self._step.sets(_COLUMNS[role])[0]

    def _is_known(self, role: str) -> NDArray[np.bool_]:
        """Return which rows have a set in a role, which may be empty, bool [rows]."""
        return self._step.sets(_COLUMNS[role])[1]

    @property
    def verdict(self) -> NDArray[np.uint8]:
        """RIGHT (nothing is missed or wrongly predicted), WRONG, UNLABELLED or FAILED, uint8 [rows]."""

        def make() -> NDArray[np.uint8]:
            wrong = (self._sets("missed").size > 0) | (self._sets("wrongly_predicted").size > 0)
            verdict = np.where(wrong, np.uint8(WRONG), np.uint8(RIGHT))
            verdict[~self._is_known("true")] = UNLABELLED
            verdict[~self._is_known("predicted")] = FAILED
            return verdict

        return self._step.derived("verdict", make)

    @property
    def cells(self) -> Cells:
        """The rows that miss one label and wrongly have another, for each two; or only the one or the other."""

        def make() -> Cells:
            missed, wrongly = self._sets("missed"), self._sets("wrongly_predicted")
            cell = product(missed, wrongly, self.axis - 1)
            width = np.where(self.verdict == WRONG, np.maximum(missed.size, 1) * np.maximum(wrongly.size, 1), 0)
            order = np.argsort(cell, kind="stable")
            rows = np.repeat(np.arange(len(width), dtype=np.int32), width)[order]
            starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
            return rows, starts, cell[order][starts]

        return self._step.derived("cells", make)

    def has(self, role: str, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Return which rows have one of some classes in a role, bool [rows]; -1 is that of an empty set."""
        sets = self._sets(role)
        chosen = np.zeros(self.axis, bool)
        chosen[list(wanted)] = True  # the last one is that of -1
        has = np.zeros(len(sets), bool)
        has[sets.row[chosen[sets.label]]] = True
        return has | ((sets.size == 0) & self._is_known(role)) if -1 in wanted else has

    def entries(self, role: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and class of each class that a row has in a role, int64 [entries]."""
        sets = self._sets(role)
        return sets.row, sets.label

    def first(self, role: str) -> NDArray[np.integer[Any]]:
        """Return the first class of each row in a role, int64 [rows]; -1 for none."""
        sets = self._sets(role)
        return np.where(sets.size > 0, np.append(sets.label, -1)[sets.start[:-1]], -1)

    def codes(self, role: str, names: Sequence[str]) -> NDArray[np.integer[Any]]:  # noqa: ARG002  as rows of one class do
        """Return the sums of the hashes of the names, which do not depend on their order, int64 [rows].

        Of the true ones, where labels are not the same if others are unknown, also those of the unknown ones.
        """
        codes = self._hashes(self._sets(role))
        if role == "true" and self._step.has("unknown"):
            codes = codes + 3 * self._hashes(self._step.sets("unknown")[0])
        return np.where(self._is_known(role), codes, NO_CODE)

    def _hashes(self, sets: LabelSets) -> NDArray[np.int64]:
        """Return the sum of the hashes of the names of each set, int64 [rows]."""
        hashes = hash_refs(self._step.class_names)[sets.label]
        ends = np.concatenate([[0], np.cumsum(hashes)])  # sums wrap around, and so do their differences
        return np.diff(ends[sets.start])

    def probability_of(self, role: str, label: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows that have a label in a role, and its probability there, each [rows that do]."""
        probability, known = self._step.numbers_of_sets(_PROBABILITIES[role])
        sets = self._sets(role)
        sets = sets.subset(known[sets.row])
        at = np.flatnonzero(sets.label == label)
        return sets.row[at], probability[at]

    def names(self, role: str, rows: NDArray[np.integer[Any]]) -> Names:
        """Return the names of the labels of some rows in a role."""
        names, known, sets = self._step.class_names, self._is_known(role), self._sets(role)
        return [[names[i] for i in self._labels(sets, at)] if known[at] else None for at in rows.tolist()]

    @staticmethod
    def _labels(sets: LabelSets, row: int) -> list[int]:
        labels: list[int] = sets.label[sets.start[row] : sets.start[row + 1]].tolist()
        return labels

    @cached_property
    def _names(self) -> tuple[tuple[str, str], ...]:
        """What each role is called on the page, and its column."""
        return tuple(zip(("true", "pred", "missed", "wrongly_predicted"), self.seen, strict=True))

    def describe(self, rows: NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
        """Return the classes of some rows as the page has them: lists, None where nothing is known."""
        described: list[dict[str, Any]] = [{} for _ in rows]
        for name, column in self._names:
            sets, known = self._step.sets(column)
            for row, at in zip(described, rows.tolist(), strict=True):
                row[name] = self._labels(sets, at) if known[at] else None
        for row, verdict in zip(described, self.verdict[rows].tolist(), strict=True):
            row["verdict"] = VERDICTS[verdict]
        return described

    def describe_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same of one row, from its values."""
        described = {name: values[column] for name, column in self._names}
        wrong = WRONG if described["missed"] or described["wrongly_predicted"] else RIGHT
        verdict = FAILED if described["pred"] is None else UNLABELLED if described["true"] is None else wrong
        return {**described, "verdict": VERDICTS[verdict]}
