"""Reads a list of images: a CSV, TSV or JSONL file with a row for each. It knows nothing of pixels.

One column has the paths of the images, relative to the list's folder or to --image-root; another may have the labels.
"""

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from predboard.errors import InputError
from predboard.images.columns import list_table
from predboard.images.manifest import Manifest, SourceOptions
from predboard.storage.paths import AnyPath, arrow_source

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SHARDED = False


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one list. Raises InputError if it is not UTF-8 or lacks a column of images."""
    (file,) = files
    return list_table(_read_table(file), file, options)


def _read_table(file: AnyPath) -> pa.Table:
    suffix = file.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return pyarrow.json.read_json(arrow_source(file, whole=True))
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",")
    table = pyarrow.csv.read_csv(arrow_source(file, whole=True), parse_options=parse)
    if binary := next((f.name for f in table.schema if pa.types.is_binary(f.type)), None):
        raise InputError(f"{file} is not UTF-8 in column {binary!r}: save it as UTF-8")
    return table
