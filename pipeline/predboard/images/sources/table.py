"""Reads a list of images: a CSV, TSV or JSONL file with a row for each. It knows nothing of pixels.

One column has the paths of the images, relative to the list's folder or to --image-root; another may have the labels.
Columns of images, labels and keys of a CSV file are read as text, so that 007 stays 007.
"""

import pyarrow as pa

from predboard.images.columns import IMAGE_COLUMNS, LABEL_COLUMNS, TRUTH_COLUMNS, find_usual, list_table, plain_name
from predboard.images.manifest import Manifest, SourceOptions
from predboard.images.text_tables import open_separated, read_json_lines
from predboard.storage.paths import AnyPath, check_size, is_remote

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SHARDED = False


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one list. Raises InputError if it is not UTF-8 or lacks a column of images."""
    (file,) = files
    if not is_remote(file):
        check_size(file.stat().st_size, options.max_read_gb)
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        return list_table(read_json_lines(file), file, options)
    opened = open_separated(file, options.max_read_gb)
    asked = {options.image_column, options.label_column, options.key_column}
    usual = set(map(plain_name, (*IMAGE_COLUMNS, *LABEL_COLUMNS)))
    if options.label_column is None:
        asked.add(find_usual(opened.names, (*LABEL_COLUMNS, *TRUTH_COLUMNS)))
    text = {name: pa.string() for name in opened.names if name in asked or plain_name(name) in usual}
    return list_table(opened.read(opened.names, text), file, options)
