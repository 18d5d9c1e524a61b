"""Read predicted classes and their confidence, where the scores of the other classes were not saved.

It knows no run and no pictures. The classes are those of --classes, else those that are predicted or true.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from predboard.errors import InputError
from predboard.images.label_values import RawLabels, describe_alike, parse_labels
from predboard.ingest import array_files, columns, table_files
from predboard.ingest.columns import ColumnRequest
from predboard.ingest.saved_scores import SavedScores, fitting_columns, flat_columns
from predboard.ingest.validation import ScoreArray
from predboard.predictions.arrow import as_numpy

_PREDICTED_NAMES = (
    *("pred_label", "predicted_label", "predicted_class", "pred_class", "predicted", "prediction", "predictions"),
    *("pred", "preds", "y_pred", "y_hat", "label_pred", "class_pred", "argmax", "output"),
)
_CONFIDENCE_NAMES = (
    *("confidence", "conf", "max_prob", "max_probability", "pred_prob", "pred_score", "predicted_probability"),
    *("probability", "prob", "score", "scores", "confidences", "msp", "max_softmax"),
)
"""Names tried in this order where no flag names the column."""

_ROUNDING = 1e-5
"""The most that rounding may lift a softmax above 1."""

_MAX_CLASSES = 100_000
"""A class from this number on is an identifier rather than an index."""

_BLOCK_ROWS = 2**16


def open_confidences(file: Path, request: ColumnRequest) -> SavedScores:
    """Return rows of which only the predicted class and its confidence are known: blocks of [rows, 2]."""
    if file.suffix.lower() in array_files.ARRAY_SUFFIXES:
        written = table = flat_columns(array_files.read_arrays(file, request.max_read_gb))
    else:
        opened = table_files.open_table(file, request.max_read_gb)
        names = [name for name in opened.names if table_files.is_plain(opened.types[name])]
        table, written = opened.read(names), opened.read_as_written(names)
    predicted, confidence = _find_columns(table.column_names, request, file)
    free = [name for name in table.column_names if name not in (predicted, confidence)]
    texts = [name for name in free if table_files.is_text(written.schema.field(name).type)]
    kinds = {name: str(table.schema.field(name).type) for name in free if name not in texts}
    image = columns.choose_image(free, texts, kinds, request, file)
    discrete = [name for name in free if table_files.is_discrete(table.schema.field(name).type)]
    label = columns.choose_label([name for name in free if name != image], discrete, request, file)
    rows, classes = _read(table, written, predicted, confidence, label, request, file)
    others = table.select(free)
    if label is None:
        columns.refuse_unread_labels(free, fitting_columns(others, classes, len(classes), image), request, file)
    chosen = [name for name in dict.fromkeys((label, image, request.key)) if name in table.column_names]
    return SavedScores(
        rows=len(table),
        classes=len(classes),
        names=classes,
        used=(predicted, confidence),
        blocks=lambda: _in_blocks(rows),
        columns=others,
        label=label,
        image=image,
        written=written.select(chosen),
        names_from="--classes" if request.classes else "the predicted and true classes",
    )


def _find_columns(names: list[str], request: ColumnRequest, file: Path) -> tuple[str, str]:
    """Return the columns of the predicted class and of its confidence. Raises InputError if one is not found."""
    confidence = columns.find_column(names, request.score, _CONFIDENCE_NAMES, file, "--score-column")
    rest = [name for name in names if name not in (confidence, request.label)]
    predicted = columns.find_column(rest, request.predicted, _PREDICTED_NAMES, file, "--predicted-column")
    if confidence is None or predicted is None:
        what = "the confidence: name it with --score-column" if confidence is None else "the predicted class"
        flag = "" if confidence is None else ": name it with --predicted-column"
        raise InputError(f"{file} has {columns.abbreviate(names)}; which is {what}{flag}")
    return predicted, confidence


def _read(
    table: pa.Table,
    written: pa.Table,
    predicted: str,
    confidence: str,
    label: str | None,
    request: ColumnRequest,
    file: Path,
) -> tuple[ScoreArray, tuple[str, ...]]:
    """Return the predicted class and its confidence, float64 [rows, 2] with NaN for none, and the class names.

    Args:
        table: the columns of the file.
        written: predicted classes and labels as they are written.
        predicted, confidence, label: names of columns.
        request: what the flags say.
        file: for messages.

    Raises InputError if a predicted class is not among the classes, or a confidence is not from 0 to 1.
    """
    named = None if request.classes else label  # without classes, they are those of both columns
    both = [written.column(name) for name in (predicted, named) if name is not None]
    if len({column.type for column in both}) > 1:
        both = [column.cast(pa.string()) for column in both]
    column = pa.chunked_array([chunk for column in both for chunk in column.chunks], both[0].type)
    parsed = parse_labels(column, request.classes, f"column {predicted!r} of {file.name}")
    highest = max((value for value in parsed.values if not isinstance(value, str)), default=-1)
    if highest >= _MAX_CLASSES:
        raise InputError(f"{file.name} has class {highest:,}; expected indices from 0, or names of classes")
    numbered = tuple(map(str, range(highest + 1)))
    classes = request.classes or parsed.names or parsed.distinct_names or numbered
    own = parsed.values[: len(table)]
    if named is not None:
        _check_same_names(own, parsed.values[len(table) :], f"{predicted!r} and {named!r} of {file.name}")
    index = replace(parsed, values=own).index(classes)
    missing = np.array([value == -1 for value in own], bool)
    if (unknown := ~missing & ((index < 0) | (index >= len(classes)))).any():
        row = int(unknown.argmax())
        raise InputError(
            f"{predicted!r} of {file.name} has {written.column(predicted)[row].as_py()!r} in row {row}, which is not "
            f"among the {len(classes):,} classes ({columns.abbreviate(classes)}): see --classes"
        )
    values = as_numpy(table.column(confidence).cast(pa.float64()).combine_chunks(), np.nan)
    outside = (values < 0) | (values > 1 + _ROUNDING)
    if outside.any():
        row = int(outside.argmax())
        raise InputError(
            f"{confidence!r} of {file.name} does not hold confidences: {outside.sum():,} of {len(values):,} rows are "
            f"not from 0 to 1; the first is row {row}, with {values[row]:.6g}: see --score-column, or "
            "divide percentages by 100"
        )
    return np.stack([np.where(missing, np.nan, index), np.minimum(values, 1)], axis=1), classes


def _check_same_names(predicted: RawLabels, true: RawLabels, what: str) -> None:
    """Raise InputError if predicted and true classes are written differently: none is both, or two are alike."""
    of_predicted, of_true = ({str(value) for value in values if value != -1} for values in (predicted, true))
    alike = describe_alike(of_predicted - of_true, of_true - of_predicted)
    if alike or (of_predicted and of_true and not of_predicted & of_true):
        raise InputError(
            f"{what} do not write classes alike ({columns.abbreviate(sorted(of_predicted))} and "
            f"{columns.abbreviate(sorted(of_true))}){': ' if alike else ''}{alike}: write them in one way, or name all "
            "classes with --classes"
        )


def _in_blocks(scores: ScoreArray) -> Iterator[ScoreArray]:
    """Yield the rows, some at a time."""
    for start in range(0, len(scores), _BLOCK_ROWS):
        yield scores[start : start + _BLOCK_ROWS]
