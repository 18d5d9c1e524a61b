"""Writes `errors.csv`: every wrong prediction of the last step. It knows no panel but that of label issues."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.csv_lines import TextCodes, format_csv_lines
from predboard.panels import label_issues
from predboard.predictions.arrow import as_numpy
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
    tables = [_wrong_rows(known, first) for batch in rows if len(known := batch.labelled)]
    with file.open("wb") as output:
        output.write(HEADER)
        if not tables:
            return
        table = pa.concat_tables(tables)
        confidence = table.column("confidence").to_numpy()
        order = np.lexsort((table.column("row").to_numpy(), -confidence))
        for start in range(0, len(order), BLOCK_ROWS):
            output.write(_lines(table.take(pa.array(order[start : start + BLOCK_ROWS])), names))


def _wrong_rows(known: DerivedRows, first: label_issues.State | None) -> pa.Table:
    """Return the columns of the file for labelled rows that are predicted wrong; classes are indices, -1 for none."""
    wrong = known.take(~known.right)
    image = wrong.column("image")
    return pa.table(
        {
            "path": image.cast(pa.large_string()),  # of all steps together there may be more than 2 GB
            "true": wrong.label.astype(np.int32),
            "predicted": wrong.predicted.astype(np.int32),
            "confidence": wrong.confidence,
            "loss": wrong.loss,
            "rank": as_numpy(wrong.column("rank").cast(pa.float64()), np.nan).astype(np.float32),  # null without scores
            "suspected": _suspected(wrong, first).astype(np.int32),
            "row": wrong.id,
        }
    )


def _lines(table: pa.Table, names: Sequence[str]) -> bytes:
    """Return the lines of some rows."""
    path = [path or "" for path in table.column("path").to_pylist()]
    column = {name: table.column(name).to_numpy() for name in table.column_names[1:]}
    true, predicted, suspected = (TextCodes(names, column[name]) for name in ("true", "predicted", "suspected"))
    numbers = (column[name] for name in ("confidence", "loss", "rank"))
    return format_csv_lines([path, true, predicted, *numbers, suspected, column["row"]])


def _suspected(rows: DerivedRows, first: label_issues.State | None) -> NDArray[np.int64]:
    """Return the class that the label should perhaps be, [rows]; -1 where it is not suspected."""
    if first is None:
        return np.full(len(rows), -1)
    candidate, _ = label_issues.stands_out(first, rows)
    return np.where(label_issues.is_suspect(rows, candidate), candidate, -1)
