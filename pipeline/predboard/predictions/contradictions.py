"""Finds rows of predictions that contradict themselves. It knows nothing of files.

What predboard wrote has checksums; another program may have written anything.
"""

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.arrow import as_matrix, as_numpy
from predboard.predictions.derive import derive
from predboard.predictions.table import Predictions

_OF_LOGITS = ("predicted", "confidence", "margin", "entropy")
"""Columns that are there exactly where logits are; the loss needs a label too."""

CHECKED_COLUMNS = frozenset({"id", "label", "logits", "error", "loss", *_OF_LOGITS})
"""Columns that all checks together need."""

SAMPLE_ROWS = 32
"""Rows of a batch whose derived columns are computed again: all of them would take as long as reading the logits. A
program that computes them wrong does so in more than one row."""

TOLERANCE = 1e-3
"""Largest accepted difference, absolute or relative, from what follows from the logits: others may use float32."""


def refuse_contradictions(rows: Predictions, classes: int) -> None:
    """Raise ValueError naming the first row that contradicts itself, by the columns that were read.

    `label` and `predicted` are indices of classes. Numbers lie in their ranges, and are there exactly where logits are;
    NaN counts as null. No row has both logits and an error. Logits are finite, and `predicted` is the first of the
    highest. On a sample, the other derived columns are what follows from the logits.
    """
    names = CHECKED_COLUMNS.intersection(rows.batch.schema.names) - {"id", "error", "logits"}
    columns = {name: as_numpy(rows.column(name), -1 if name in ("label", "predicted") else np.nan) for name in names}
    for name in names & {"label", "predicted"}:
        index = columns[name]
        if len(index) and not -1 <= index.min() <= index.max() < classes:
            raise ValueError(f"{name} is {index.min()} to {index.max()}, of {classes} classes")
    highest = {"confidence": 1.0, "margin": 1.0, "entropy": math.log(classes), "loss": float(np.finfo(np.float32).max)}
    for name in names & highest.keys():
        values, limit = columns[name], highest[name] + TOLERANCE
        refuse(rows, name, (values < -TOLERANCE) | (values > limit), f"a number from 0 to {highest[name]:.4g}")
    scored = _scored_rows(rows)
    if scored is None:
        return
    for name in names - {"label"}:
        present = columns[name] >= 0 if name == "predicted" else ~np.isnan(columns[name])
        if not rows.has_scores and name in ("loss", "margin", "entropy"):
            refuse(rows, name, present, "null, because the scores of all classes are not known")
            continue
        expected = scored & (columns["label"] >= 0) if name == "loss" and "label" in names else scored
        wrong = present & ~expected if name == "loss" and "label" not in names else present != expected
        refuse(rows, name, wrong, "a number exactly where there are logits")
    if "logits" in rows.batch.schema.names and scored.any():
        _compare_with_logits(rows, columns, np.flatnonzero(scored))


def _scored_rows(rows: Predictions) -> NDArray[np.bool_] | None:
    """Return which rows have logits, bool [rows]; None if no column that was read says it."""
    names = rows.batch.schema.names
    if "logits" not in names:
        return rows.predicted >= 0 if "predicted" in names else None
    scored = is_valid(rows, "logits")
    if "error" in names:
        refuse(rows, "error", scored & is_valid(rows, "error"), "null where there are logits")
    return scored


def is_valid(rows: Predictions, name: str) -> NDArray[np.bool_]:
    """Return where a column is not null, bool [rows]."""
    return as_numpy(rows.column(name).is_valid().cast(pa.uint8())).astype(bool)


def _compare_with_logits(rows: Predictions, columns: Mapping[str, NDArray[np.generic]], at: NDArray[np.int64]) -> None:
    """Compare the derived columns with the logits; `at` [scored] are the rows that have any."""
    column = rows.column("logits")
    logits = as_matrix(column.drop_null() if column.null_count else column)  # [scored, classes]
    if not (np.isfinite(logits.min()) and np.isfinite(logits.max())):
        bad = ~np.isfinite(logits).all(axis=1)
        raise ValueError(f"logits of row {rows.row_name(int(at[bad][0]))} are not all finite")
    if "predicted" in columns:
        wrong = np.zeros(len(rows), bool)
        wrong[at] = logits.argmax(axis=1) != columns["predicted"][at]
        refuse(rows, "predicted", wrong, "the index of the highest logit")
    if not columns.keys() & {"confidence", "margin", "entropy", "loss"}:
        return
    sample = np.unique(np.linspace(0, len(at) - 1, SAMPLE_ROWS).astype(np.int64))
    label = columns["label"].astype(np.int64)[at[sample]] if "label" in columns else np.full(len(sample), -1)
    for name, values in derive(logits[sample], label).items():
        if name in columns and name != "predicted":
            wrong = np.zeros(len(rows), bool)
            given = columns[name][at[sample]]
            wrong[at[sample]] = ~np.isnan(values) & ~np.isclose(given, values, TOLERANCE, TOLERANCE)
            refuse(rows, name, wrong, "what follows from its logits")


def refuse(rows: Predictions, name: str, wrong: NDArray[np.bool_], expected: str) -> None:
    """Raise ValueError naming the first row where `wrong` [rows] is true, with its value and what was expected."""
    if wrong.any():
        at = int(wrong.argmax())
        number = rows.column(name)[at].as_py()
        value = f"{number:.6g}" if isinstance(number, float) else repr(number)
        raise ValueError(f"{name} of row {rows.row_name(at)} is {value}, expected {expected}")
