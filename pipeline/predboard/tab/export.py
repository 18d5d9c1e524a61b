"""Writes selected rows as CSV, JSON, Parquet or a list of paths. It knows neither how they were selected nor HTTP."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.csv_lines import CsvColumn, TextCodes, format_csv_lines
from predboard.predictions.arrow import as_arrow
from predboard.tab.answers import View, full_path
from predboard.tab.columns import StepRows
from predboard.tab.log_runs import LogRun
from predboard.tab.row_classes import Names
from predboard.tab.shared_tags import SharedTags

FORMATS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "paths": "text/plain; charset=utf-8",
}
"""Formats, with their media types."""

BLOCK_ROWS = 2**16
"""Rows that are written at a time, of some kB each while they are Python's. Each time, all texts are unpacked."""

TAG_SEPARATOR = ";"
"""Between the tags, or the labels, of an image in a CSV file; the other formats have lists."""


def export_rows(view: View, run: LogRun, step: StepRows, rows: NDArray[np.int64], format_: str) -> bytes:
    """Return rows in one of `FORMATS`; see `export_blocks`."""
    return b"".join(export_blocks(view, run, step, rows, format_))


def export_blocks(view: View, run: LogRun, step: StepRows, rows: NDArray[np.int64], format_: str) -> Iterator[bytes]:
    """Yield rows in one of `FORMATS`, in the order given, a bounded number at a time but for Parquet.

    Each has the row of the data, key, image, path, names of the true and the predicted class, the class that label
    checks suggest, confidence, loss, margin, entropy, tags, and the class to relabel to. Where rows have several, true
    and predicted are lists, and so are the labels that were missed and wrongly predicted.
    """
    if format_ == "paths":
        for some in _blocks(rows):
            paths = (full_path(run, step, ref) or "" for ref in step.few("image", some))
            yield "".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape")
        return
    suspected = np.full(step.rows, -1, np.int32)
    if suspects := run.suspects(step):
        suspected[suspects.rows] = suspects.classes
    read = functools.partial(_read, run, step, view.shared_tags(run, step), suspected)
    if format_ == "csv":
        for number, some in enumerate(_blocks(rows)):
            columns = read(some)
            header = (",".join(columns) + "\n").encode() if number == 0 else b""
            yield header + format_csv_lines([_cells(column) for column in columns.values()], digits=9)
    elif format_ == "parquet":
        table = pa.concat_tables(_table(read(some)) for some in _blocks(rows)).combine_chunks()
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        yield bytes(sink.getvalue())
    else:
        for number, some in enumerate(_blocks(rows)):
            records = _table(read(some)).to_pylist()
            for record in records:
                record["key"] = str(record["key"])  # JavaScript would lose digits
            text = json.dumps(records, indent=1).removeprefix("[").removesuffix("]").removesuffix("\n")
            yield f"{',' if number else '['}{text}".encode("ascii")
        yield b"\n]\n" if len(rows) else b"]\n"


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows some at a time, and once none if there are none."""
    for start in range(0, max(len(rows), 1), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]


Column = NDArray[Any] | TextCodes | Names | list[list[str]]
"""[rows] numbers, names of classes, texts, or lists of them."""


def _read(
    run: LogRun, step: StepRows, shared: SharedTags, suspected: NDArray[np.int32], rows: NDArray[np.int64]
) -> dict[str, Column]:
    """Return the columns of some rows."""
    refs = step.few("image", rows)
    tags, labels = shared.of_rows(rows)
    return {
        "row": step.numbers("id")[rows].astype(np.int64),
        "key": step.numbers("key")[rows],
        "image": refs,
        "path": [full_path(run, step, ref) or "" for ref in refs],
        **{role: step.classes.names(role, rows) for role in step.classes.exported},
        "suggested": TextCodes(step.file.classes, suspected[rows]),
        **{name: step.numbers(name)[rows] for name in ("confidence", "loss", "margin", "entropy")},
        "tags": tags,
        "relabel_to": labels,
    }


def _cells(column: Column) -> CsvColumn:
    if isinstance(column, TextCodes | np.ndarray):
        return column
    return [TAG_SEPARATOR.join(value) if isinstance(value, list) else value or "" for value in column]


def _table(columns: Mapping[str, Column]) -> pa.Table:
    return pa.table({name: _array(name, column) for name, column in columns.items()})


def _array(name: str, column: Column) -> pa.Array:
    """Return a column as Arrow has it."""
    if isinstance(column, TextCodes):
        return _texts([column.texts[code] if code >= 0 else None for code in column.codes.tolist()])
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "f":
            return as_arrow(column, pa.float32(), ~np.isnan(column))
        return as_arrow(column, pa.int64())
    if name == "tags":
        return pa.array(column, pa.list_(pa.string()))
    return _texts([value or None for value in column] if name == "relabel_to" else column)


def _texts(values: Names) -> pa.Array:
    """Return texts, or lists of them, as Arrow has them; bytes of a name that are no text become question marks."""
    if any(isinstance(value, list) for value in values):
        return pa.array([value and list(map(_plain, value)) for value in values], pa.list_(pa.string()))
    return pa.array([value and _plain(str(value)) for value in values], pa.string())


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
