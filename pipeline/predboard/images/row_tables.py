"""Reads tables whose rows name images of a run, as corrected labels and further columns do. It knows no predictions.

Such a file is CSV, TSV, JSON, lines of JSON or Parquet; or what the tab Predictions wrote: its export, or its tags.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from predboard.csv_lines import original_text
from predboard.errors import InputError, reading
from predboard.images.columns import IMAGE_COLUMNS, LABEL_COLUMNS, TRUTH_COLUMNS, find_column, plain_name
from predboard.images.text_tables import open_separated, parse_json, read_json_lines, table_of_records
from predboard.near_paths import did_you_mean_path
from predboard.predictions.arrow import without_views
from predboard.storage.parquet_sizes import decoded_size
from predboard.storage.paths import MAX_READ_GB, AnyPath, arrow_source, check_size, read_bytes

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")

KEY_COLUMNS = ("key", "image_key")
ROW_COLUMNS = ("row", "id")
"""Names of columns with the keys of images, and with the numbers of their rows."""

RELABEL_COLUMN = "relabel_to"
"""Column of the tab's export with the class that somebody chose for an image; empty where nobody did."""

SUSPECTED_COLUMN = "suspected"
"""Column of suspects.csv with the class that the label should perhaps be."""

_RELABEL_TAG = "relabel"


def read_row_table(file: AnyPath, text_column: str | None = None) -> pa.Table:
    """Return all columns of a file; of text files those that name images or labels as text.

    Args:
        file: the table.
        text_column: another column that is read as text.

    Raises InputError if there is no such file, it is of another kind, damaged, or has no rows.
    """
    with reading(file):
        exists, is_folder = file.is_file(), file.is_dir()
    suffix = file.suffix.lower()
    if not exists or suffix not in SUFFIXES:
        what = f"{file} is a folder" if is_folder else f"no file {file}"
        what = f"{file} is of an unknown kind" if exists else what
        near = "" if exists or is_folder else did_you_mean_path(file, Path.is_file, SUFFIXES)
        raise InputError(f"{what}: expected a table that ends in {', '.join(SUFFIXES)}{near}")
    with reading(file):
        table = _read(file, suffix, text_column)
    if {"tag", "on", "keys"} <= set(table.column_names):
        return _replay_tags(table)
    if not len(table):
        raise InputError(f"{file} has no rows; expected one for each image that it names")
    return without_views(table).replace_schema_metadata(None)


def _read(file: AnyPath, suffix: str, text_column: str | None) -> pa.Table:
    if suffix == ".parquet":
        with pq.ParquetFile(arrow_source(file), page_checksum_verification=True) as parquet:
            check_size(decoded_size(file, parquet, parquet.schema_arrow.names, MAX_READ_GB * 1e9), MAX_READ_GB)
            return parquet.read()
    if suffix == ".json":
        return _table_of_json(file, parse_json(read_bytes(file, MAX_READ_GB)))
    if suffix in (".jsonl", ".ndjson"):
        return read_json_lines(file)
    opened = open_separated(file)
    usual = (*IMAGE_COLUMNS, *LABEL_COLUMNS, *TRUTH_COLUMNS, *KEY_COLUMNS, *ROW_COLUMNS, RELABEL_COLUMN)
    plain = {*map(plain_name, usual), SUSPECTED_COLUMN}
    as_text = {name: pa.string() for name in opened.names if plain_name(name) in plain or name == text_column}
    table = opened.read(opened.names, as_text)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type):  # what a spreadsheet would have run as a formula has a mark
            marked = pc.any(pc.starts_with(column, "'")).as_py()
            texts = [text and original_text(text) for text in column.to_pylist()] if marked else None
            table = table if texts is None else table.set_column(table.column_names.index(name), name, [texts])
    return table


def _table_of_json(file: AnyPath, content: Any) -> pa.Table:
    """Return the table of a list of objects, or of an object with a label or an object by image."""
    if isinstance(content, Mapping):
        content = [
            {"image": name, **(value if isinstance(value, Mapping) else {"label": value})}
            for name, value in content.items()
        ]
    if not isinstance(content, list) or not all(isinstance(record, Mapping) for record in content):
        raise InputError(f"{file} is no table: expected a list of objects, or an object with a label for each image")
    return table_of_records(content)


def _replay_tags(table: pa.Table) -> pa.Table:
    """Return key and class of the images that have the tag `relabel` with a class, after all changes of the tags."""
    labels: dict[str, str] = {}
    names = [name for name in ("tag", "on", "keys", "label") if name in table.column_names]
    for change in table.select(names).to_pylist():
        if change["tag"] != _RELABEL_TAG or (change["on"] and change.get("label") is None):
            continue
        for key in change["keys"]:
            if change["on"] and change["label"]:
                labels[key] = change["label"]
            else:
                labels.pop(key, None)
    columns = {"key": list(labels), RELABEL_COLUMN: list(labels.values())}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def find_label_column(table: pa.Table, asked: str | None, file: AnyPath) -> str:
    """Return the column with the new labels.

    Raises InputError if there is none, or if it is not certain which it is.
    """
    flag = "--labels-column"
    if asked is None and {"label", SUSPECTED_COLUMN} <= set(table.column_names):
        raise InputError(
            f"{file} has labels in 'label' and others that are suspected in {SUSPECTED_COLUMN!r}: name the column to "
            f"take, {flag} {SUSPECTED_COLUMN} for example"
        )
    name = find_column(table, asked, (RELABEL_COLUMN, *LABEL_COLUMNS, *TRUTH_COLUMNS), file, flag)
    if name is None:
        listed = ", ".join(table.column_names[:12])
        raise InputError(f"{file} has no column of labels; it has {listed}: name it by {flag}")
    return name
