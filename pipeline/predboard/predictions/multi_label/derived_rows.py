"""Computes everything that follows from the logits of multi-label rows, and holds it without them: `rows.parquet`.

It is to `table` here what `derived_rows` in the folder above is to `table` there, and knows nothing of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.arrow import arrow_bytes, as_arrow, as_numpy, scatter
from predboard.predictions.derived_rows import COPIED_COLUMNS, DerivedRows, add_manifest_columns
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions, MultiLabelRows
from predboard.predictions.schema import LABEL_LIST, MULTI_LABEL_COLUMNS, Run, reserved_columns, stored_columns
from predboard.predictions.table import TOP_CLASSES, Predictions

_PROBABILITY_LIST = pa.list_(pa.field("element", pa.float32(), nullable=False))
_NAME_LIST = pa.list_(pa.field("element", pa.string(), nullable=False))


@dataclass(frozen=True)
class MultiLabelDerivedRows(MultiLabelRows, DerivedRows):
    """Rows of `rows.parquet` of a multi-label run: everything that is derived from the logits, without the logits."""

    @cached_property
    def label_probability(self) -> NDArray[np.float32]:
        """Probability of each true label, float32 [labels], beside `labels.label`; NaN of a failed row."""
        probability = np.full(len(self.labels.label), np.nan, np.float32)
        probability[self.is_scored[self.labels.row]] = as_numpy(self.column("label_probability").flatten())
        return probability

    @cached_property
    def predicted_probability(self) -> NDArray[np.float32]:
        """Probability of each predicted label, float32 [labels], beside `predicted_labels.label`."""
        return as_numpy(self.column("predicted_probability").flatten()).astype(np.float32, copy=False)


def derived_multi_label_schema(run: Run, part: pa.Schema | None = None) -> pa.Schema:
    """Return the Arrow schema of `rows.parquet` of a multi-label run, see `derived_rows.derived_rows_schema`."""
    top = min(TOP_CLASSES, len(run.classes))
    reserved = [
        pa.field("step", pa.int64()),
        *(pa.field(name, MULTI_LABEL_COLUMNS[name][0]) for name in _copied_columns(run)),
        *(pa.field(name, LABEL_LIST) for name in ("missed", "wrongly_predicted")),
        *(pa.field(name, _PROBABILITY_LIST) for name in ("label_probability", "predicted_probability")),
        *(pa.field(name, _NAME_LIST) for name in ("label_names", "predicted_names")),
        pa.field("top_class", pa.list_(pa.field("element", pa.int32(), nullable=False), top)),
        pa.field("top_probability", pa.list_(pa.field("element", pa.float32(), nullable=False), top)),
    ]
    return add_manifest_columns(reserved, part, reserved_columns(run.task))


def _copied_columns(run: Run) -> list[str]:
    return [
        stored for name in COPIED_COLUMNS for stored in MULTI_LABEL_COLUMNS if stored in stored_columns(run, [name])
    ]


def derive_multi_label_rows(run: Run, step: int, rows: Predictions) -> MultiLabelDerivedRows:
    """Compute everything that is derived from the logits of some multi-label rows: the content of `rows.parquet`.

    `missed` and `wrongly_predicted` are null without labels or logits; the two probabilities stand beside the labels of
    `labels` and `predicted_labels`; `top_class` and `top_probability` are the five highest labels, null for a failed
    row.
    """
    if not isinstance(rows, MultiLabelPredictions):
        raise TypeError(f"{type(rows).__name__} are no rows of a multi-label run")
    schema = derived_multi_label_schema(run, rows.batch.schema)
    ok, compared = rows.is_scored, rows.is_scored & rows.is_labelled
    known = np.isfinite(rows.label_probability)
    computed = {
        "step": as_arrow(np.full(len(rows), step), pa.int64()),
        "missed": rows.missed.to_arrow(compared),
        "wrongly_predicted": rows.wrongly_predicted.to_arrow(compared),
        "label_probability": _beside(rows.labels.subset(known), rows.label_probability[known], compared),
        "predicted_probability": _beside(rows.predicted_labels, rows.predicted_probability, ok),
        "label_names": _names(rows.labels, run.classes, rows.is_labelled),
        "predicted_names": _names(rows.predicted_labels, run.classes, ok),
        "top_class": scatter(rows.scored.top.astype(np.int32), ok, schema.field("top_class").type),
        "top_probability": scatter(rows.scored.top_probability, ok, schema.field("top_probability").type),
    }
    names = derived_multi_label_schema(run).names
    reserved = [computed[name] if name in computed else rows.column(name) for name in names]
    manifest = [rows.column(name) for name in rows.manifest_columns]
    return MultiLabelDerivedRows(pa.RecordBatch.from_arrays([*reserved, *manifest], schema=schema), rows.manifest_rows)


def _beside(sets: LabelSets, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> pa.ListArray:
    """Return lists of one number for each label [labels], null where `valid` [rows] is false."""
    lists = sets.to_arrow(valid)
    return _with_values(lists, as_arrow(values, pa.float32()), _PROBABILITY_LIST)


def _names(sets: LabelSets, classes: Sequence[str], valid: NDArray[np.bool_]) -> pa.ListArray:
    """Return lists of the names of labels, null where `valid` [rows] is false."""
    names = arrow_bytes([name.encode() for name in classes]).cast(pa.string())
    return _with_values(sets.to_arrow(valid), names.take(as_arrow(sets.label, pa.int64())), _NAME_LIST)


def _with_values(lists: pa.ListArray, values: pa.Array, type_: pa.DataType) -> pa.ListArray:
    """Return lists of the same lengths and nulls with other values."""
    mask = lists.is_null() if lists.null_count else None
    return pa.ListArray.from_arrays(lists.offsets, values, type=type_, mask=mask)
