"""Computes everything that follows from the logits of each row, and holds it without them: the rows of `rows.parquet`.

It knows nothing of files: `storage.rows` reads and writes them.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.arrow import arrow_bytes, as_arrow, as_matrix, as_numpy, scatter
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, COLUMNS, GROUP_PREFIX, IMAGE_PROPERTIES, Run
from predboard.predictions.table import TOP_CLASSES, PredictionRows, Predictions


@dataclass(frozen=True)
class DerivedRows(PredictionRows):
    """Rows of `rows.parquet`: everything that is derived from the logits, without the logits, about 100 bytes a row.

    Panels that look at the rows a second time get these.
    """

    @cached_property
    def top(self) -> NDArray[np.int64]:
        """Classes by falling logit, the lowest of equal ones first, int64 [rows, min(TOP_CLASSES, classes)]."""
        return as_matrix(self.column("top_class")).astype(np.int64)

    @cached_property
    def top_probability(self) -> NDArray[np.float32]:
        """Probabilities of `top`, float32 [rows, min(TOP_CLASSES, classes)]."""
        return as_matrix(self.column("top_probability")).astype(np.float32, copy=False)

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Number of classes with a higher logit than the true one, int64 [rows]; only for labelled rows."""
        return np.asarray(as_numpy(self.column("rank")).astype(np.int64) - 1)


COPIED_COLUMNS = (
    *("id", "key", "image", "label", "predicted", "confidence", "loss", "margin", "entropy", "digest"),
    *IMAGE_PROPERTIES,
    "error",
)
"""Columns of predictions that `rows.parquet` has as they are."""

DERIVE_ROWS_COLUMNS = frozenset({*COPIED_COLUMNS, "logits", ALL_MANIFEST_COLUMNS})
"""Columns that `derive_rows` needs of `Predictions`."""


def derived_rows_schema(run: Run, part: pa.Schema | None = None) -> pa.Schema:
    """Return the Arrow schema of `rows.parquet`, with the manifest's further columns from the schema of a `part`.

    A further column that has a reserved name becomes `manifest_<name>`. All columns are nullable, because parts of
    another step may lack them.
    """
    top = min(TOP_CLASSES, len(run.classes)) if run.has_scores else 1
    names = pa.dictionary(pa.int32(), pa.string())
    reserved = [
        pa.field("step", pa.int64()),
        *(pa.field(name, COLUMNS[name][0]) for name in COPIED_COLUMNS),
        pa.field("label_name", names),
        pa.field("predicted_name", names),
        pa.field("rank", pa.int32()),
        pa.field("top_class", pa.list_(pa.field("element", pa.int32(), nullable=False), top)),
        pa.field("top_probability", pa.list_(pa.field("element", pa.float32(), nullable=False), top)),
    ]
    return add_manifest_columns(reserved, part, COLUMNS)


def add_manifest_columns(reserved: Sequence[pa.Field], part: pa.Schema | None, of_parts: Container[str]) -> pa.Schema:
    """Return the schema of these fields and the manifest's further columns, those of `part` not among `of_parts`."""
    fields = {field.name: field for field in reserved}
    for field in part or ():
        name = field.name
        while name in fields:
            name = f"manifest_{name}"
        if field.name not in of_parts and not field.name.startswith(GROUP_PREFIX):
            fields[name] = pa.field(name, field.type)
    return pa.schema(fields.values())


def derive_rows(run: Run, step: int, rows: Predictions) -> DerivedRows:
    """Compute everything that is derived from the logits of some rows: the content of `rows.parquet`.

    `label_name` and `predicted_name` are class names (`true` would be an SQL keyword); `rank` is 1 plus the number of
    classes with a higher logit than the true one; `top_class` and `top_probability` are the five highest classes, null
    for a failed row.
    """
    schema = derived_rows_schema(run, rows.batch.schema)
    scored = rows.scored
    ok = rows.is_scored
    labelled = ok & rows.is_labelled
    names = arrow_bytes([name.encode() for name in run.classes]).cast(pa.string())
    computed = {
        "step": as_arrow(np.full(len(rows), step), pa.int64()),
        "label_name": _class_names(rows.column("label"), names, len(run.classes)),
        "predicted_name": _class_names(rows.column("predicted"), names, len(run.classes)),
        "rank": scatter((rows.labelled.rank + 1).astype(np.int32), labelled, pa.int32())
        if run.has_scores
        else pa.nulls(len(rows), pa.int32()),
        "top_class": scatter(scored.top.astype(np.int32), ok, schema.field("top_class").type),
        "top_probability": scatter(scored.top_probability, ok, schema.field("top_probability").type),
    }
    reserved = [computed[name] if name in computed else rows.column(name) for name in derived_rows_schema(run).names]
    manifest = [rows.column(name) for name in rows.manifest_columns]
    return DerivedRows(
        pa.RecordBatch.from_arrays([*reserved, *manifest], schema=schema), rows.manifest_rows, run.has_scores
    )


def _class_names(index: pa.Array, names: pa.Array, classes: int) -> pa.DictionaryArray:
    at = as_numpy(index, -1)
    known = (at >= 0) & (at < classes)
    return pa.DictionaryArray.from_arrays(as_arrow(np.where(known, at, 0), pa.int32(), known), names)
