"""Reads a list of images: a CSV, TSV or JSONL file with a row for each. It knows nothing of pixels.

One column has the paths of the images, relative to the list's folder or to --image-root; another may have the labels.
CSV may be separated by commas, semicolons, tabs or |, in UTF-8 or UTF-16. Its columns of images, labels and keys are
read as text, so that 007 stays 007; labels that are numbers are indices, unless --classes has them as names.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from predboard.errors import InputError
from predboard.images.columns import IMAGE_COLUMNS, LABEL_COLUMNS, list_table
from predboard.images.manifest import Manifest, SourceOptions
from predboard.storage.paths import AnyPath, arrow_source, open_binary

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SHARDED = False

_HEAD_BYTES = 2**16
"""Bytes from which separator, encoding and column names are taken."""

_NULL_LINE = re.compile(rb"^[ \t]*(null)[ \t\r]*$", re.MULTILINE)
_SEPARATORS = ",;\t|"
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
"""Encoding by the mark that a file begins with."""


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one list. Raises InputError if it is not UTF-8 or lacks a column of images."""
    (file,) = files
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        return list_table(_read_json_lines(file), file, options)
    return list_table(_read_csv(file, options), file, options)


def _read_json_lines(file: AnyPath) -> pa.Table:
    content = file.read_bytes()
    if match := _NULL_LINE.search(content):  # Arrow does not survive one at the beginning of what it reads
        line = content.count(b"\n", 0, match.start(1)) + 1
        raise InputError(f"{file} has null in line {line}; expected an object with the columns of an image")
    return pyarrow.json.read_json(pa.BufferReader(content))


def _read_csv(file: AnyPath, options: SourceOptions) -> pa.Table:
    """Read a file of separated values; its columns of images, labels and keys are text."""
    dialect = _recognize(file)
    named = {options.image_column, options.label_column, options.key_column, *IMAGE_COLUMNS, *LABEL_COLUMNS}
    as_text = [name for name in dialect.names if name in named or name.lower() in named]
    try:
        table = _parse(file, dialect, as_text)
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise InputError(f"{file} is not UTF-8: save it as UTF-8") from error
        # A separator may end each line but the first one. If not, one thread says in which line the error is.
        more = replace(dialect, names=[*dialect.names, ""])
        table = _parse(file, more, as_text) if _fits(file, more) else _parse(file, dialect, as_text, threads=False)
    if binary := next((f.name for f in table.schema if pa.types.is_binary(f.type)), None):
        raise InputError(f"{file} is not UTF-8 in column {binary!r}: save it as UTF-8")
    return _tidy(table)


def _fits(file: AnyPath, dialect: "_Dialect") -> bool:
    """Return whether each line has as many cells as there are names, the last of them empty."""
    try:
        table = _parse(file, dialect, [])
    except pa.ArrowInvalid:
        return False
    return bool(table.column(len(dialect.names) - 1).null_count == len(table))


def _parse(file: AnyPath, dialect: "_Dialect", as_text: Sequence[str], threads: bool = True) -> pa.Table:
    if dialect.encoding == "utf-16":  # which Arrow does not read
        source: Any = pa.BufferReader(file.read_bytes().decode(dialect.encoding).encode())
    else:
        source = arrow_source(file, whole=True)
    return pyarrow.csv.read_csv(
        source,
        pyarrow.csv.ReadOptions(use_threads=threads, column_names=dialect.names or None, skip_rows=dialect.skip_rows),
        pyarrow.csv.ParseOptions(delimiter=dialect.separator, quote_char=dialect.quote),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(as_text, pa.string())),
    )


@dataclass(frozen=True)
class _Dialect:
    """Says how a file of separated values is written."""

    encoding: str
    separator: str
    quote: str
    names: list[str]
    """Names of the columns."""
    skip_rows: int
    """Lines up to the one with the names."""


def _recognize(file: AnyPath) -> _Dialect:
    """Recognize how a file is written from its first lines: most often its separator is in the names' line."""
    with open_binary(file) as stream:
        head = bytes(stream.read(_HEAD_BYTES))
    encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")
    lines = head.decode(encoding, "replace").splitlines()
    at = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    if at < len(lines) and (match := re.fullmatch(r"sep=(.)\s*", lines[at])):  # as Excel writes it
        separator, at = match[1], at + 1
    elif at < len(lines):
        separator = max(separator + _SEPARATORS, key=lines[at].count)
    line = lines[at] if at < len(lines) else ""
    quote = "'" if line.lstrip().startswith("'") else '"'
    cells = next(csv.reader([line], delimiter=separator, quotechar=quote, skipinitialspace=True), [])
    return _Dialect(encoding, separator, quote, [cell.strip() for cell in cells], at + 1 if cells else 0)


def _tidy(table: pa.Table) -> pa.Table:
    """Trim texts, and drop columns without name and content, which a separator at the end of each line makes."""
    columns, names = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not name and column.null_count == len(column):
            continue
        names.append(name)
        columns.append(pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column)
    return pa.table(columns, names=names)
