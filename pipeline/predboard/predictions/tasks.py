"""Chooses by the task of a run what its rows are and how they are derived. It knows nothing of files.

Whoever has rows needs no task: both kinds answer the same questions (`scored`, `labelled`, `right`, `loss`, …).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.contradictions import refuse_contradictions
from predboard.predictions.derive import to_logits
from predboard.predictions.derived_rows import DerivedRows, derive_rows, derived_rows_schema
from predboard.predictions.multi_label.contradictions import refuse_multi_label_contradictions
from predboard.predictions.multi_label.derive import to_multi_label_logits
from predboard.predictions.multi_label.derived_rows import (
    MultiLabelDerivedRows,
    derive_multi_label_rows,
    derived_multi_label_schema,
)
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL, Run, part_schema
from predboard.predictions.table import Predictions, TileRows


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task's runs."""

    predictions: type[Predictions]
    """Rows with logits."""
    derived: type[DerivedRows]
    """Rows of `rows.parquet`."""
    derived_schema: Callable[[Run, pa.Schema], pa.Schema]
    """Their columns, from those of a part: (run, schema)."""
    derive: Callable[[Run, int, Predictions], DerivedRows]
    """Computes those from these: (run, step, rows)."""
    refuse_contradictions: Callable[[Predictions, int], None]
    """Raises ValueError for rows that contradict themselves: (rows, classes)."""


_TASKS: Mapping[str, TaskRows] = {
    SINGLE_LABEL: TaskRows(Predictions, DerivedRows, derived_rows_schema, derive_rows, refuse_contradictions),
    MULTI_LABEL: TaskRows(
        MultiLabelPredictions,
        MultiLabelDerivedRows,
        derived_multi_label_schema,
        derive_multi_label_rows,
        refuse_multi_label_contradictions,
    ),
}


def rows_of(run: Run) -> TaskRows:
    """Return what the rows of a run are."""
    return _TASKS[run.task]


def wrap_derived_rows(batch: pa.RecordBatch) -> DerivedRows:
    """Return rows of `rows.parquet` as what they are; those of one label each have a column `label`."""
    return _TASKS[SINGLE_LABEL if "label" in batch.schema.names else MULTI_LABEL].derived(batch)


def no_tile_rows(run: Run) -> TileRows:
    """Return what `tile_rows` returns when no row is chosen."""
    schema = part_schema(run)
    empty = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    return rows_of(run).predictions(empty, has_scores=run.has_scores).tile_rows(np.zeros(0, np.int64))


def to_task_logits(scores: NDArray[np.floating[Any]], kind: str, run: Run) -> tuple[NDArray[np.float32], int]:
    """Convert the scores of a run's model, [rows, outputs], to the column `logits`: see `to_logits`.

    Raises InputError if the scores are not of the kind that they are said to be.
    """
    if run.task == MULTI_LABEL:
        return to_multi_label_logits(scores, kind)
    return to_logits(scores, kind, run.positive_index if run.positive_class else None)
