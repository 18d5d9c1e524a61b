"""Finds the images that changed between two steps: a table of all, and a few examples. It knows no metric."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.comparison import join
from predboard.comparison.join import JoinedRows, concat_batches, widen_texts
from predboard.predictions.arrow import as_numpy
from predboard.predictions.table import Predictions, TileRows
from predboard.state import Lowest

CHANGES_FILE = "changes.parquet"

CHANGE_KINDS = (
    "same",
    "broken",
    "fixed",
    "changed_wrong",
    "changed_unlabelled",
    "labels_differ",
    "failed_new",
    "failed_old",
    "only_old",
    "only_new",
)
"""Kinds of change of a row; the first is no change. `labels_differ` takes precedence over all but failures."""

BOTH_WRONG = len(CHANGE_KINDS)
"""An additional kind for the gallery of unchanged mistakes: the same wrong class both times."""

COLUMNS = frozenset({"id", "key", "image", "label", "predicted", "confidence", "loss", "digest"})
"""Columns that are read from both steps."""


def classify_changes(rows: JoinedRows) -> NDArray[np.int64]:
    """Return the place in `CHANGE_KINDS` of each row that both steps have, [rows]."""
    old, new = rows.old, rows.new
    kinds = np.zeros(len(new), np.int64)
    changed = old.predicted != new.predicted
    was, is_ = old.right, new.right
    labelled = new.label >= 0
    for kind, where in (
        ("changed_unlabelled", ~labelled & changed),
        ("changed_wrong", labelled & ~was & ~is_ & changed),
        ("fixed", labelled & ~was & is_),
        ("broken", labelled & was & ~is_),
        ("labels_differ", old.label != new.label),
        ("failed_old", (old.predicted < 0) & (new.predicted >= 0)),
        ("failed_new", (old.predicted >= 0) & (new.predicted < 0)),
    ):
        kinds[where] = CHANGE_KINDS.index(kind)
    kinds[(old.predicted < 0) & (new.predicted < 0)] = 0
    return kinds


def changes_schema() -> pa.Schema:
    """Return the schema of the table of changes."""
    both = {"id": pa.int64(), "image": pa.string(), "label": pa.string(), "predicted": pa.string()}
    both |= {"confidence": pa.float32(), "loss": pa.float32()}
    columns = [(f"{name}_{side}", kind) for name, kind in both.items() for side in ("old", "new")]
    return pa.schema([("kind", pa.string()), ("key", pa.int64()), *columns, ("picture_differs", pa.bool_())])


_PLACE = "place"
"""Column that orders the table: the id in the new step; rows that only the old one has come last."""


class ChangesTable:
    """The table of changes, in the order of the new step's rows whatever the order in which they come."""

    def __init__(self, names: tuple[str, ...], new_rows: int) -> None:
        """Start a table without rows.

        Args:
            names: of the classes of both steps.
            new_rows: rows of the new step's manifest.
        """
        self._names = pa.array([*names, None], pa.string())
        self._new_rows = new_rows
        self._schema = self.schema().append(pa.field(_PLACE, pa.int64()))
        self._batches: list[pa.RecordBatch] = []
        self.count = 0

    def schema(self) -> pa.Schema:
        """Return the schema of the table."""
        return changes_schema()

    def classify(self, rows: JoinedRows) -> NDArray[np.int64]:
        """Return the place in `CHANGE_KINDS` of each row that both steps have, [rows]."""
        return classify_changes(rows)

    def named(self, rows: Predictions, name: str) -> pa.Array:
        """Return the names of the classes in a column of rows, `label` or `predicted`."""
        return self._names.take(pa.array(getattr(rows, name) % len(self._names)))

    def moved(self, old: Predictions, new: Predictions) -> dict[str, pa.Array]:  # noqa: ARG002  of one label nothing
        """Return further columns of rows that both steps have; they are null in others."""
        return {}

    def add(self, rows: JoinedRows) -> None:
        """Add the rows that changed."""
        kind = self.classify(rows)
        changed = kind > 0
        if changed.any():
            self._add(kind[changed], rows.old.take(changed), rows.new.take(changed))
        self._add(np.full(len(rows.only_old), CHANGE_KINDS.index("only_old")), rows.only_old, None)
        self._add(np.full(len(rows.only_new), CHANGE_KINDS.index("only_new")), None, rows.only_new)

    def _add(self, kind: NDArray[np.int64], old: Predictions | None, new: Predictions | None) -> None:
        if not len(kind):
            return
        self.count += len(kind)
        sides = {"old": old, "new": new}
        known = [side for side in (new, old) if side is not None]
        columns: dict[str, pa.Array] = {
            "kind": pa.array(CHANGE_KINDS, pa.string()).take(pa.array(kind)),
            "key": known[0].column("key"),
            _PLACE: pa.array(self._new_rows + known[0].id if new is None else known[0].id),
        }
        differs = np.zeros(len(kind), bool)
        if old is not None and new is not None:
            columns |= self.moved(old, new)
            differs = old.has_digest & new.has_digest & (old.digest != new.digest)
        columns["picture_differs"] = pa.array(differs.tolist(), pa.bool_())
        for side, rows in sides.items():
            for name in ("id", "image", "label", "predicted", "confidence", "loss"):
                field = self._schema.field(f"{name}_{side}")
                if rows is None:
                    columns[field.name] = pa.nulls(len(kind), field.type)
                elif name in ("label", "predicted"):
                    columns[field.name] = self.named(rows, name)
                else:
                    column = rows.column(name)
                    if pa.types.is_dictionary(column.type):
                        column = column.dictionary.take(column.indices)
                    columns[field.name] = column.cast(field.type)
        arrays = [columns[f.name] if f.name in columns else pa.nulls(len(kind), f.type) for f in self._schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._batches.append(widen_texts(batch))

    def write(self, path: Path) -> None:
        """Write the table."""
        schema = self.schema()
        few = [f.name for f in schema if f.name == "kind" or f.name.startswith(("label", "predicted"))]
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=few, write_page_checksum=True) as writer:
            for batch in self._ordered():
                writer.write_batch(batch)

    def _ordered(self) -> Iterator[pa.RecordBatch]:
        if not self._batches:
            return
        batches, self._batches = self._batches, []
        rows = concat_batches(batches, batches[0].schema)
        batches.clear()  # so that the rows are in memory once
        order = np.argsort(as_numpy(rows.column(_PLACE)), kind="stable")
        for start in range(0, len(order), join.PORTION_ROWS):
            portion = rows.take(pa.array(order[start : start + join.PORTION_ROWS]))
            yield portion.select(self.schema().names).cast(self.schema())


@dataclass(frozen=True)
class Examples:
    """Mergeable examples of each kind of change."""

    of_kind: Lowest  # by place in CHANGE_KINDS


GALLERY_KINDS = (
    CHANGE_KINDS.index("broken"),
    CHANGE_KINDS.index("fixed"),
    CHANGE_KINDS.index("changed_wrong"),
    BOTH_WRONG,
)
"""Kinds of change that have a gallery."""

GALLERY_SIZE = 12
"""Images in a gallery: one page of TensorBoard."""

_OF_ROWS: Mapping[str, type] = {
    "key": np.int64,
    "id": np.int64,
    "id_old": np.int64,
    "image": object,
    "label": np.int64,
    "old": np.int64,
    "new": np.int64,
    "confidence_old": np.float32,
    "confidence_new": np.float32,
}


def empty_examples() -> Examples:
    """Return no examples."""
    none: TileRows = {name: np.zeros(0, kind) for name, kind in _OF_ROWS.items()}
    return Examples(Lowest(GALLERY_SIZE, np.zeros(0, np.int64), np.zeros(0), none))


def choose_examples(rows: JoinedRows) -> Examples:
    """Choose the rows of each kind of which the new step is most confident."""
    old, new = rows.old, rows.new
    kind = classify_changes(rows)
    kind[(kind == 0) & (new.predicted >= 0) & (new.label >= 0) & ~new.right] = BOTH_WRONG
    return choose_of_kinds(
        rows, kind, lambda at: {"label": new.label[at], "old": old.predicted[at], "new": new.predicted[at]}
    )


def choose_of_kinds(
    rows: JoinedRows, kind: NDArray[np.int64], shown: Callable[[NDArray[np.int64]], TileRows]
) -> Examples:
    """Choose the rows of each kind of which the new step is most confident.

    Args:
        rows: of both steps.
        kind: [rows] places in `CHANGE_KINDS`, or BOTH_WRONG.
        shown: returns what a tile says of the rows at some places.
    """
    old, new = rows.old, rows.new
    among = np.concatenate([surest(np.flatnonzero(kind == gallery), new.confidence) for gallery in GALLERY_KINDS])
    score = -new.confidence[among].astype(np.float64)
    stay = Lowest.choose(GALLERY_SIZE, kind[among], score, new.key[among], new.id[among])
    at = among[stay]
    images = new.column("image")
    columns: TileRows = {
        "key": new.key[at],
        "id": new.id[at],
        "id_old": old.id[at],
        "image": np.array([images[i].as_py() for i in at.tolist()], object),
        **shown(at),
        "confidence_old": old.confidence[at],
        "confidence_new": new.confidence[at],
    }
    return Examples(Lowest(GALLERY_SIZE, kind[among][stay], score[stay], columns))


def surest(rows: NDArray[np.int64], confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the `GALLERY_SIZE` rows of highest confidence, a few more if some are equal."""
    if len(rows) <= GALLERY_SIZE:
        return rows
    confidences, place = confidence[rows], len(rows) - GALLERY_SIZE
    return np.asarray(rows[confidences >= np.partition(confidences, place)[place]])
