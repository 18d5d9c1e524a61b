"""Writes selected rows as CSV, JSON, Parquet or a list of paths. It knows neither how they were selected nor HTTP."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.csv_lines import TextCodes, format_csv_lines
from predboard.predictions.arrow import as_arrow
from predboard.tab.answers import View, full_path
from predboard.tab.columns import StepRows
from predboard.tab.log_runs import LogRun
from predboard.tab.row_classes import Names

FORMATS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "paths": "text/plain; charset=utf-8",
}
"""Formats, with their media types."""

TAG_SEPARATOR = ";"
"""Between the tags, or the labels, of an image in a CSV file; the other formats have lists."""


def export_rows(view: View, run: LogRun, step: StepRows, rows: NDArray[np.int64], format_: str) -> bytes:
    """Return rows in one of `FORMATS`, in the order given.

    Each has the row of the data, key, image, path, names of the true and the predicted class, the class that label
    checks suggest, confidence, loss, margin, entropy, tags, and the class to relabel to. Where rows have several, true
    and predicted are lists, and so are the labels that were missed and wrongly predicted.
    """
    refs = step.few("image", rows)
    paths = [full_path(run, step, ref) or "" for ref in refs]
    if format_ == "paths":
        return "".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape")
    keys = step.numbers("key")[rows]
    tags, labels = view.shared_tags(run, step).of_rows(rows)
    relabel = [label or "" for label in labels]
    suspected = np.full(step.rows, -1, np.int32)
    if suspects := run.suspects(step):
        suspected[suspects.rows] = suspects.classes
    classes = step.file.classes
    names = {role: step.classes.names(role, rows) for role in step.classes.exported}
    scores = {name: step.numbers(name)[rows] for name in ("confidence", "loss", "margin", "entropy")}
    ids = step.numbers("id")[rows].astype(np.int64)
    if format_ == "csv":
        columns = ["row", "key", "image", "path", *names, "suggested", *scores, "tags", "relabel_to"]
        lines = format_csv_lines(
            [
                *(ids, keys, [ref or "" for ref in refs], paths),
                *([_joined(value) for value in values] for values in names.values()),
                TextCodes(classes, suspected[rows]),
                *scores.values(),
                *([TAG_SEPARATOR.join(words) for words in tags], relabel),
            ],
            digits=9,
        )
        return (",".join(columns) + "\n").encode() + lines
    table = pa.table(
        {
            "row": as_arrow(ids, pa.int64()),
            "key": as_arrow(keys, pa.int64()),
            "image": _texts(refs),
            "path": _texts(paths),
            **{name: _texts(values) for name, values in names.items()},
            "suggested": _texts([classes[code] if code >= 0 else None for code in suspected[rows].tolist()]),
            **{name: as_arrow(values, pa.float32(), ~np.isnan(values)) for name, values in scores.items()},
            "tags": pa.array(tags, pa.list_(pa.string())),
            "relabel_to": _texts([label or None for label in relabel]),
        }
    )
    if format_ == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())
    records = table.to_pylist()
    for record in records:
        record["key"] = str(record["key"])  # JavaScript would lose digits
    return json.dumps(records, indent=1).encode("ascii") + b"\n"


def _texts(values: Names) -> pa.Array:
    """Return texts, or lists of them, as Arrow has them; bytes of a name that are no text become question marks."""
    if any(isinstance(value, list) for value in values):
        return pa.array([value and list(map(_plain, value)) for value in values], pa.list_(pa.string()))
    return pa.array([value and _plain(str(value)) for value in values], pa.string())


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _joined(value: str | list[str] | None) -> str:
    return TAG_SEPARATOR.join(value) if isinstance(value, list) else value or ""
