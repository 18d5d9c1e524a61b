"""Writes `errors.csv`: every wrong prediction of the last step. It knows no panel but that of label issues."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.csv_lines import TextCodes, format_csv_lines
from predboard.panels import label_issues
from predboard.predictions.arrow import as_arrow, as_numpy
from predboard.predictions.derived_rows import DerivedRows

ERRORS_FILE = "errors.csv"
BLOCK_ROWS = 2**13
"""Lines that are formatted at a time."""

HEADER = b"path,true,predicted,confidence,loss,rank,suspected,row\n"


def write_errors(
    file: Path, rows: Iterable[DerivedRows], names: Sequence[str], first: label_issues.State | None
) -> None:
    """Write a line for each labelled row whose prediction is wrong, the most confident first.

    Some 40 bytes of each are in memory, and its path.

    Args:
        file: to write.
        rows: of one step.
        names: of the classes.
        first: sums of the label_issues panel, which say for which rows another label is likelier than theirs; None if
            they were not measured, and then `suspected` is empty.
    """
    wrong = [known.take(~known.right) for batch in rows if len(known := batch.labelled)]
    pieces = [(some.column("image").cast(pa.large_string()), _numbers(some, first)) for some in wrong]
    del wrong  # with all their other columns
    with file.open("wb") as output:
        output.write(HEADER)
        if not pieces:
            return
        paths = pa.chunked_array([path for path, _ in pieces])
        columns = [np.concatenate(column) for column in zip(*(numbers for _, numbers in pieces), strict=True)]
        order = np.lexsort((columns[ROW], -columns[CONFIDENCE]))
        for start in range(0, len(order), BLOCK_ROWS):
            chosen = order[start : start + BLOCK_ROWS]
            texts = [path or "" for path in paths.take(as_arrow(chosen, pa.int64())).to_pylist()]
            true, predicted, *scores, suspected, row = (column[chosen] for column in columns)
            classes = [TextCodes(names, codes) for codes in (true, predicted, suspected)]
            output.write(format_csv_lines([texts, *classes[:2], *scores, classes[2], row]))


CONFIDENCE, ROW = 2, 6
"""Places in what `_numbers` returns."""


def _numbers(wrong: DerivedRows, first: label_issues.State | None) -> tuple[NDArray[Any], ...]:
    """Return the columns after the path, [rows] each; classes are indices, -1 for none."""
    return (
        wrong.label.astype(np.int32),
        wrong.predicted.astype(np.int32),
        wrong.confidence,
        wrong.loss,
        as_numpy(wrong.column("rank").cast(pa.float32()), np.nan),  # null without scores
        _suspected(wrong, first).astype(np.int32),
        wrong.id,
    )


def _suspected(rows: DerivedRows, first: label_issues.State | None) -> NDArray[np.int64]:
    """Return the class that the label should perhaps be, [rows]; -1 where it is not suspected."""
    if first is None:
        return np.full(len(rows), -1)
    candidate, _ = label_issues.stands_out(first, rows)
    return np.where(label_issues.is_suspect(rows, candidate), candidate, -1)
