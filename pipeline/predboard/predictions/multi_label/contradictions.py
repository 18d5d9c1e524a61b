"""Finds rows of multi-label predictions that contradict themselves, as its namesake does for one label a row.

It knows nothing of files.
"""

import math

import numpy as np
from numpy.typing import NDArray

from predboard.predictions.arrow import as_matrix, as_numpy
from predboard.predictions.contradictions import SAMPLE_ROWS, TOLERANCE, is_valid, refuse
from predboard.predictions.label_sets import LabelSets, MultiLabels
from predboard.predictions.multi_label.derive import derive_label_sets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.table import Predictions

_SETS = ("labels", "unknown", "predicted_labels")

_HIGHEST = {"confidence": 1.0, "margin": 1.0, "entropy": math.log(2), "loss": float(np.finfo(np.float32).max)}
"""Columns of numbers from 0, with the highest that can be."""


def refuse_multi_label_contradictions(rows: Predictions, classes: int) -> None:
    """Raise ValueError naming the first row that contradicts itself, by the columns that were read.

    Labels are indices of classes, ascending; none is unknown as well; and at least one of a labelled row is known.
    Numbers lie in their ranges, and are there exactly where logits are; NaN counts as null. No row has both logits and
    an error. Logits are finite, and the predicted labels are those with a logit above 0. On a sample, the other derived
    columns are what follows from the logits.
    """
    names = rows.batch.schema.names
    if not isinstance(rows, MultiLabelPredictions):
        raise TypeError(f"{type(rows).__name__} are no rows of a multi-label run")
    for name in _SETS:
        if name in names:
            _refuse_odd_sets(rows, name, getattr(rows, name), classes)
    if {"labels", "unknown"} <= set(names):
        _refuse_odd_unknown(rows, classes)
    values = {name: as_numpy(rows.column(name), np.nan) for name in _HIGHEST if name in names}
    for name, numbers in values.items():
        limit = _HIGHEST[name]
        refuse(rows, name, (numbers < -TOLERANCE) | (numbers > limit + TOLERANCE), f"a number from 0 to {limit:.4g}")
    by = next((name for name in ("logits", "predicted_labels") if name in names), None)
    if by is None:
        return
    scored = is_valid(rows, by)
    if "error" in names:
        refuse(rows, "error", scored & is_valid(rows, "error"), "null where there are logits")
    if "predicted_labels" in names:
        refuse(
            rows, "predicted_labels", is_valid(rows, "predicted_labels") != scored, "a list exactly where logits are"
        )
    for name, numbers in values.items():
        expected = scored & rows.is_labelled if name == "loss" and "labels" in names else scored
        present = ~np.isnan(numbers)
        wrong = present & ~expected if name == "loss" and "labels" not in names else present != expected
        refuse(rows, name, wrong, "a number exactly where there are logits")
    if "logits" in names and scored.any():
        _compare_with_logits(rows, values, np.flatnonzero(scored))


def _refuse_odd_sets(rows: Predictions, name: str, sets: LabelSets, classes: int) -> None:
    """Raise ValueError for a label that is no class, and for one that does not come after the one before it."""
    outside = (sets.label < 0) | (sets.label >= classes)
    refuse(rows, name, _in_row(sets, outside), f"indices of {classes} classes")
    falls = np.zeros(len(sets.label), bool)
    falls[1:] = (sets.row[1:] == sets.row[:-1]) & (sets.label[1:] <= sets.label[:-1])
    refuse(rows, name, _in_row(sets, falls), "ascending indices, each once")


def _refuse_odd_unknown(rows: MultiLabelPredictions, classes: int) -> None:
    """Raise ValueError for a label that is true and unknown, and for rows that are labelled with unknown ones only."""
    both = rows.labels.contains(rows.unknown)
    refuse(rows, "unknown", _in_row(rows.unknown, both), "no label that labels has too")
    refuse(rows, "unknown", ~rows.is_labelled & (rows.unknown.size > 0), "null where labels is null")
    refuse(rows, "labels", rows.is_labelled & (rows.unknown.size == classes), "null where all labels are unknown")


def _in_row(sets: LabelSets, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return in which rows any label is wrong, bool [rows]."""
    return np.bincount(sets.row[wrong], minlength=len(sets)) > 0


def _compare_with_logits(
    rows: MultiLabelPredictions, values: dict[str, NDArray[np.generic]], at: NDArray[np.int64]
) -> None:
    """Compare the derived columns with the logits; `at` [scored] are the rows that have any."""
    column = rows.column("logits")
    logits = as_matrix(column.drop_null() if column.null_count else column)  # [scored, classes]
    if not (np.isfinite(logits.min()) and np.isfinite(logits.max())):
        bad = ~np.isfinite(logits).all(axis=1)
        raise ValueError(f"logits of row {rows.row_name(int(at[bad][0]))} are not all finite")
    if "predicted_labels" in rows.batch.schema.names:
        predicted = rows.predicted_labels[at]
        number = (logits > 0).sum(axis=1, dtype=np.int32)
        below = _in_row(predicted, logits[predicted.row, predicted.label] <= 0)
        wrong = np.zeros(len(rows), bool)
        wrong[at] = below | (predicted.size != number)
        refuse(rows, "predicted_labels", wrong, "the labels with a logit above 0")
    sample = np.unique(np.linspace(0, len(at) - 1, SAMPLE_ROWS).astype(np.int64))
    names = rows.batch.schema.names
    known = MultiLabels.none(len(rows)) if {"labels", "unknown"} - set(names) else rows.known_labels
    _, derived = derive_label_sets(logits[sample], known[at[sample]])
    for name, expected in derived.items():
        if name in values:
            wrong = np.zeros(len(rows), bool)
            given = values[name][at[sample]]
            wrong[at[sample]] = ~np.isnan(expected) & ~np.isclose(given, expected, TOLERANCE, TOLERANCE)
            refuse(rows, name, wrong, "what follows from its logits")
