"""Finds the images whose set of labels changed between two steps: a table of all, and a few examples.

It is to several labels an image what `changes` is to one, and knows no metric.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.comparison import changes
from predboard.comparison.changes import BOTH_WRONG, CHANGE_KINDS, GALLERY_SIZE, ChangesTable, Examples
from predboard.comparison.join import JoinedRows
from predboard.comparison.paired_labels import MovedSets, as_sets, have_same_labels, is_comparable
from predboard.predictions.arrow import as_arrow, as_booleans
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.table import TILE_CLASSES, Predictions, TileRows
from predboard.state import Lowest

COLUMNS = changes.COLUMNS
"""Columns that are read from both steps; those of one label stand for those of sets."""

MOVED = ("lost", "gained", "dropped", "added")
STILL = ("still_missed", "still_wrong")
"""Sets of labels of an example: what changed, and what is wrong in both steps."""

_NAME_LIST = pa.list_(pa.string())


def classify_label_changes(rows: JoinedRows) -> NDArray[np.int64]:
    """Return the place in `CHANGE_KINDS` of each row that both steps have, [rows], as `classify_changes` does."""
    old, new = as_sets(rows.old), as_sets(rows.new)
    kinds = np.zeros(len(new), np.int64)
    changed = ~old.predicted_labels.equals(new.predicted_labels)
    was, is_, labelled = old.right, new.right, new.is_labelled
    for kind, where in (
        ("changed_unlabelled", ~labelled & changed),
        ("changed_wrong", labelled & ~was & ~is_ & changed),
        ("fixed", labelled & ~was & is_),
        ("broken", labelled & was & ~is_),
        ("labels_differ", ~have_same_labels(old, new)),
        ("failed_old", ~old.is_scored & new.is_scored),
        ("failed_new", old.is_scored & ~new.is_scored),
    ):
        kinds[where] = CHANGE_KINDS.index(kind)
    kinds[~old.is_scored & ~new.is_scored] = 0
    return kinds


class LabelChangesTable(ChangesTable):
    """The table of changes of sets: labels and predictions are lists of names."""

    def schema(self) -> pa.Schema:
        """Return the schema of the table."""
        lists = ("label", "predicted")
        fields = [pa.field(f.name, _NAME_LIST) if f.name.startswith(lists) else f for f in changes.changes_schema()]
        return pa.schema([*fields[:-1], *(pa.field(name, _NAME_LIST) for name in MOVED), fields[-1]])

    def classify(self, rows: JoinedRows) -> NDArray[np.int64]:
        """Return the place in `CHANGE_KINDS` of each row that both steps have, [rows]."""
        return classify_label_changes(rows)

    def named(self, rows: Predictions, name: str) -> pa.Array:
        """Return the names of the labels of each row, `label` or `predicted`; null where there are none to know."""
        sets = as_sets(rows)
        if name == "label":
            return self._lists(sets.labels, sets.is_labelled)
        return self._lists(sets.predicted_labels, sets.is_scored)

    def moved(self, old: Predictions, new: Predictions) -> dict[str, pa.Array]:
        """Return the labels whose decisions were fixed and broken, null where the labels differ or a step failed."""
        before, now = as_sets(old), as_sets(new)
        sets = MovedSets.between(before, now)
        known = is_comparable(before, now)
        return {name: self._lists(getattr(sets, name), known) for name in MOVED}

    def _lists(self, sets: LabelSets, valid: NDArray[np.bool_]) -> pa.ListArray:
        names = self._names.take(as_arrow(sets.label, pa.int64()))
        mask = None if valid.all() else as_booleans(~valid)
        return pa.ListArray.from_arrays(as_arrow(sets.start, pa.int32()), names, type=_NAME_LIST, mask=mask)


def empty_label_examples() -> Examples:
    """Return no examples."""
    none = np.zeros(0, np.int64)
    rows: TileRows = dict.fromkeys(("key", "id", "id_old"), none)
    rows |= {"image": np.zeros(0, object)}
    rows |= {f"confidence_{side}": np.zeros(0, np.float32) for side in ("old", "new")}
    rows |= {f"{name}_count": none for name in (*MOVED, *STILL)}
    rows |= {name: np.zeros((0, TILE_CLASSES), np.int64) for name in (*MOVED, *STILL)}
    return Examples(Lowest(GALLERY_SIZE, none, np.zeros(0), rows))


def choose_label_examples(rows: JoinedRows) -> Examples:
    """Choose the rows of each kind of which the new step is most confident."""
    old, new = as_sets(rows.old), as_sets(rows.new)
    kind = classify_label_changes(rows)
    kind[(kind == 0) & new.is_scored & new.is_labelled & ~new.right] = BOTH_WRONG
    return changes.choose_of_kinds(rows, kind, lambda at: _sets_of(old, new, at))


def _sets_of(old: MultiLabelPredictions, new: MultiLabelPredictions, at: NDArray[np.int64]) -> TileRows:
    """Return the first labels and the number of labels of each set of some rows."""
    moved = MovedSets.between(old, new)
    sets = {name: getattr(moved, name)[at] for name in MOVED}
    sets["still_missed"] = new.missed.subset(old.missed.contains(new.missed))[at]
    sets["still_wrong"] = new.wrongly_predicted.subset(old.wrongly_predicted.contains(new.wrongly_predicted))[at]
    columns: TileRows = {}
    for name, of_rows in sets.items():
        first = np.full((len(at), TILE_CLASSES), -1, np.int64)
        place = np.arange(len(of_rows.label)) - of_rows.start[of_rows.row]
        few = place < TILE_CLASSES
        first[of_rows.row[few], place[few]] = of_rows.label[few]
        columns[name], columns[f"{name}_count"] = first, of_rows.size
    return columns


def named_sets(rows: TileRows, i: int, names: Sequence[str]) -> dict[str, tuple[list[str], int]]:
    """Return the names of the first labels of each set of an example, and how many labels it has."""
    return {
        name: ([names[label] for label in rows[name][i].tolist() if label >= 0], int(rows[f"{name}_count"][i]))
        for name in (*MOVED, *STILL)
    }
