"""Writes `errors.csv`: every wrong prediction of the last step. It knows no panel but that of label issues."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.csv_lines import TextCodes, format_csv_lines
from predboard.panels import label_issues
from predboard.predictions.arrow import as_numpy
from predboard.predictions.derived_rows import DerivedRows
from predboard.summaries import File

ERRORS_FILE = "errors.csv"
DESCRIPTION = "Every wrong prediction of the last step, the most confident first."

HEADER = b"path,true,predicted,confidence,loss,rank,suspected,row\n"


def errors_csv(rows: Iterable[DerivedRows], names: Sequence[str], first: label_issues.State | None) -> File:
    """Return a line for each labelled row whose prediction is wrong, the most confident first.

    Args:
        rows: of one step.
        names: of the classes.
        first: sums of the label_issues panel, which say for which rows another label is likelier than theirs; None if
            they were not measured, and then `suspected` is empty.
    """
    wrong = [known.take(~known.right) for batch in rows if len(known := batch.labelled)]
    wrong = [some for some in wrong if len(some)]
    if not wrong:
        return File(ERRORS_FILE, HEADER, DESCRIPTION)
    columns = [
        np.concatenate(column)
        for column in zip(
            *(
                (
                    np.array([path or "" for path in some.column("image").to_pylist()], object),
                    some.label,
                    some.predicted,
                    some.confidence,
                    some.loss,
                    as_numpy(some.column("rank").cast(pa.float64()), np.nan),  # null without scores
                    _suspected(some, first),
                    some.id,
                )
                for some in wrong
            ),
            strict=True,
        )
    ]
    order = np.lexsort((columns[-1], -columns[3]))
    path, true, predicted, confidence, loss, rank, suspected, row = (column[order] for column in columns)
    classes = [TextCodes(names, codes) for codes in (true, predicted, suspected)]
    lines = format_csv_lines([path.tolist(), *classes[:2], confidence, loss, rank, classes[2], row])
    return File(ERRORS_FILE, HEADER + lines, DESCRIPTION)


def _suspected(rows: DerivedRows, first: label_issues.State | None) -> NDArray[np.int64]:
    """Return the class that the label should perhaps be, [rows]; -1 where it is not suspected."""
    if first is None:
        return np.full(len(rows), -1)
    candidate, _ = label_issues.stands_out(first, rows)
    return np.where(label_issues.is_suspect(rows, candidate), candidate, -1)
