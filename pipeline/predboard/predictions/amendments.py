"""Changes rows of predictions as they are read: other labels, further columns, which rows belong together.

What follows from a label is computed again. It knows nothing of files: where the changes come from is not its business.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.predictions.arrow import as_arrow, as_numpy, scatter
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels, label_values
from predboard.predictions.multi_label.derive import derive_at_thresholds
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, GROUP_PREFIX, hash_refs
from predboard.predictions.table import Predictions

_NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Amendment:
    """Changes to the rows of one part. The part itself stays as it is."""

    rows: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    """[replaced] places in the part of the rows with another label, ascending."""
    labels: Mapping[str, pa.Array] = field(default_factory=dict)
    """[replaced] their new values in the columns that hold labels."""
    columns: pa.RecordBatch | None = None
    """[rows of the part] further columns."""
    thresholds: NDArray[np.float64] | None = None
    """[classes] logit from which each label is predicted; None leaves the predicted sets as they are, from 0."""
    group: str = ""
    """Column whose equal values make rows belong together; a row without a value stands for itself."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not len(self.rows) and self.columns is None and self.thresholds is None and not self.group

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any of the changes."""
        hashed = hashlib.blake2b(self.group.encode(), digest_size=8)
        hashed.update(self.rows.tobytes())
        if self.thresholds is not None:
            hashed.update(self.thresholds.tobytes())
        further = [] if self.columns is None else [self.columns]
        for batch in [pa.RecordBatch.from_pydict(dict(self.labels)), *further]:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            hashed.update(sink.getvalue())
        return hashed.hexdigest()

    def extend_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema of the rows after the changes."""
        for added in [] if self.columns is None else self.columns.schema:
            schema = schema.append(added)
        return schema.append(pa.field(GROUP_PREFIX + self.group, pa.int64())) if self.group else schema

    def columns_to_read(self, wanted: Collection[str]) -> set[str]:
        """Return the columns of the part that must be read for some columns of the amended rows."""
        names = set(wanted)
        if "loss" in names and len(self.rows):
            names |= {"logits", "predicted", *self.labels}
        if self.thresholds is not None and names & _DECIDED:
            names |= {"logits", "predicted"}
        return names | ({self.group, "key"} if self.group else set())

    def apply(self, rows: Predictions, start: int, wanted: Collection[str] | None) -> Predictions:
        """Return rows with the changes, and of their columns those that are wanted.

        Args:
            rows: with the columns of `columns_to_read`.
            start: place in the part of the first of them.
            wanted: names of columns; all if None.
        """
        if self.thresholds is not None and isinstance(rows, MultiLabelPredictions):
            rows = _decided(rows, self.thresholds)
        batch = rows.batch
        low, high = np.searchsorted(self.rows, (start, start + len(rows))).tolist()
        if low < high:
            at = self.rows[low:high] - start
            for name, values in self.labels.items():
                if name in batch.schema.names:
                    batch = _replaced(batch, name, at, values.slice(low, high - low))
            if "loss" in batch.schema.names and rows.has_scores:
                changed = type(rows)(batch.take(pa.array(at)))
                batch = _replaced(batch, "loss", at, _losses(changed))
        further = pa.record_batch([], names=[]) if self.columns is None else self.columns
        for added, column in zip(further.schema, further.columns, strict=True):
            if wanted is None or {added.name, ALL_MANIFEST_COLUMNS} & set(wanted) or added.name == self.group:
                batch = batch.append_column(added, column.slice(start, len(rows)))
        if self.group:
            keyed = type(rows)(batch)
            group = as_arrow(hash_values(keyed, self.group, keyed.key), pa.int64())
            batch = batch.append_column(GROUP_PREFIX + self.group, group)
        if wanted is not None:
            batch = batch.select([name for name in batch.schema.names if self._is_wanted(name, wanted, rows)])
        return type(rows)(batch, rows.manifest_rows, rows.has_scores)

    def _is_wanted(self, name: str, wanted: Collection[str], rows: Predictions) -> bool:
        further = name in rows.manifest_columns or (self.columns is not None and name in self.columns.schema.names)
        return name in wanted or name.startswith(GROUP_PREFIX) or (ALL_MANIFEST_COLUMNS in wanted and further)


_DECIDED = {"predicted_labels", "confidence"}
"""Columns that follow from the thresholds of labels."""


def _decided(rows: MultiLabelPredictions, thresholds: NDArray[np.float64]) -> MultiLabelPredictions:
    """Return rows with the sets that are predicted at some thresholds, and the probability of just these sets."""
    batch = rows.batch
    if not _DECIDED & set(batch.schema.names):
        return rows
    ok = np.flatnonzero(rows.is_scored)
    predicted, confidence = derive_at_thresholds(rows.scored.logits, thresholds)
    sets = LabelSets.from_pairs(ok[predicted.row], predicted.label, len(rows))
    columns = {
        "predicted_labels": sets.to_arrow(rows.is_scored),
        "confidence": scatter(confidence, rows.is_scored, pa.float32()),
    }
    for name in sorted(_DECIDED & set(batch.schema.names)):
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, batch.schema.field(name), columns[name])
    return type(rows)(batch, rows.manifest_rows, rows.has_scores)


def _replaced(batch: pa.RecordBatch, name: str, at: NDArray[np.int64], values: pa.Array) -> pa.RecordBatch:
    """Return the batch with other values of one column in the rows `at`."""
    place = batch.schema.get_field_index(name)
    column = batch.column(place)
    order = np.arange(len(column))
    order[at] = len(column) + np.arange(len(values))
    both = pa.concat_arrays([column, values.cast(column.type)])
    return batch.set_column(place, batch.schema.field(place), both.take(as_arrow(order, pa.int64())))


def _losses(rows: Predictions) -> pa.Array:
    """Return the losses that follow from logits and labels, null where one of the two is missing."""
    scored, ok = rows.scored, rows.is_scored.copy()
    losses = scored.compute_losses() if len(scored) else np.zeros(0, np.float32)
    known = ~np.isnan(losses)
    ok[np.flatnonzero(ok)[~known]] = False
    return scatter(losses[known], ok, pa.float32())


def relabel(before: Labels, after: Labels) -> Amendment:
    """Return the amendment that turns the labels of some rows, [rows], into others."""
    if isinstance(before, MultiLabels) or isinstance(after, MultiLabels):
        pairs = zip(label_values(before), label_values(after), strict=True)
        at = np.flatnonzero([a != b for a, b in pairs]).astype(np.int64)
        columns = () if isinstance(after, np.ndarray) else after[at].to_arrow()
        return Amendment(at, dict(zip(("labels", "unknown"), columns, strict=True)))
    at = np.flatnonzero(before != after)
    new = after[at]
    return Amendment(at, {"label": as_arrow(new, pa.int32(), new >= 0)})


def hash_values(
    rows: Predictions, name: str, without: NDArray[np.int64], rewrite: Callable[[str], str] | None = None
) -> NDArray[np.int64]:
    """Return a hash of each row's value of a column, int64 [rows]; where it has none, what `without` [rows] says.

    A cell without a character but spaces, as CSV has where nothing is known, is no value. `rewrite` changes texts.
    """
    column = rows.column(name)
    if pa.types.is_integer(column.type):  # exact, also beyond 2**53
        encoded = column.dictionary_encode()
        texts, index = list(map(str, encoded.dictionary.to_pylist())), as_numpy(encoded.indices, -1).astype(np.int64)
    elif (numbers := rows.numbers(name)) is not None:
        distinct, inverse = np.unique(numbers, return_inverse=True)
        texts, index = list(map(number_text, distinct.tolist())), np.where(np.isnan(numbers), -1, inverse)
    else:
        texts, index = rows.texts(name) or ([], np.full(len(rows), -1))
        texts = texts if rewrite is None else list(map(rewrite, texts))
    has_value = np.array([*map(str.strip, texts), ""]) != ""
    return np.where(has_value[index], np.append(hash_refs(texts), 0)[index], without)


def number_text(value: float) -> str:
    """Return the text by which a number is compared with other names: 7 for 7.0."""
    return f"{value:.17g}"


def number_of_text(text: str) -> str:
    """Return a text as `number_text` or `str` of a whole number writes its number; as it is if it is none.

    >>> number_of_text("007"), number_of_text("8.0"), number_of_text("1_0")
    ('7', '8', '1_0')
    """
    if "_" in text:  # which Python takes for a separator of thousands
        return text
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        return number_text(float(text))
    except ValueError:
        return text


def check_group_column(column: pa.Field) -> None:
    """Raise InputError for a column by whose values rows cannot be told apart, as of lists."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InputError(
            f"column {column.name!r} has {kind}, by which rows cannot be told apart: name one of texts or numbers"
        )
