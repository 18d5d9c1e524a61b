"""Writes `errors.csv`: every wrong prediction of the last step. It knows no panel but that of label issues."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.csv_lines import CsvColumn, TextCodes, format_csv_lines
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
    pieces = [(_texts(some), _numbers(some, first)) for some in wrong]
    del wrong  # with all their other columns
    with file.open("wb") as output:
        output.write(HEADER)
        if not pieces:
            return
        table = pa.concat_tables(texts for texts, _ in pieces).unify_dictionaries()
        columns = [np.concatenate(column) for column in zip(*(numbers for _, numbers in pieces), strict=True)]
        order = np.lexsort((columns[ROW], -columns[CONFIDENCE]))
        for start in range(0, len(order), BLOCK_ROWS):
            chosen = order[start : start + BLOCK_ROWS]
            texts = [_cells(column) for column in table.take(as_arrow(chosen, pa.int64())).combine_chunks().columns]
            *scores, suspected, row = (column[chosen] for column in columns)
            output.write(format_csv_lines([*texts, *scores, TextCodes(names, suspected), row]))


CONFIDENCE, ROW = 0, 4
"""Places in what `_numbers` returns."""


def _texts(rows: DerivedRows) -> pa.Table:
    """Return path, true and predicted classes: names, or lists of names where a row may have several."""
    ending = "name" if "label_name" in rows.batch.schema.names else "names"
    paths = rows.column("image").cast(pa.large_string())  # all of them may be more than 2 GiB
    true, predicted = rows.column(f"label_{ending}"), rows.column(f"predicted_{ending}")
    return pa.table([paths, true, predicted], names=["path", "true", "predicted"])


def _cells(column: pa.ChunkedArray) -> CsvColumn:
    """Return the texts of a column; several of a row are separated by `|`."""
    (texts,) = column.chunks
    if pa.types.is_dictionary(texts.type):
        return TextCodes(texts.dictionary.to_pylist(), as_numpy(texts.indices, -1))
    if pa.types.is_list(texts.type):
        return ["|".join(names or ()) for names in texts.to_pylist()]
    return [text or "" for text in texts.to_pylist()]


def _numbers(wrong: DerivedRows, first: label_issues.State | None) -> tuple[NDArray[Any], ...]:
    """Return the columns after the names, [rows] each; classes are indices, -1 for none."""
    ranked = "rank" in wrong.batch.schema.names  # not where a row has several labels
    return (
        wrong.confidence,
        wrong.loss,
        as_numpy(wrong.column("rank").cast(pa.float32()), np.nan) if ranked else np.full(len(wrong), np.nan),
        _suspected(wrong, first).astype(np.int32),
        wrong.id,
    )


def _suspected(rows: DerivedRows, first: label_issues.State | None) -> NDArray[np.int64]:
    """Return the class that the label should perhaps be, [rows]; -1 where it is not suspected."""
    if first is None:
        return np.full(len(rows), -1)
    candidate, _ = label_issues.stands_out(first, rows)
    return np.where(label_issues.is_suspect(rows, candidate), candidate, -1)
