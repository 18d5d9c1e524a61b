"""Reads Parquet with encoded images in it, as Hugging Face's `datasets` writes it, or Parquet that is a list of images.

It does not know what the images are of. A ref is FILE#ROW, or FILE#ROW:COLUMN for another than the first column of
images. Without any such column the file is a list, as a CSV file is.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.columns import (
    LABEL_COLUMNS,
    TRUTH_COLUMNS,
    holds_images,
    is_encoded_image,
    list_labelled,
    list_table,
    plain_name,
)
from predboard.images.manifest import Manifest, SourceOptions, make_manifest
from predboard.images.shared_cache import shared_cache
from predboard.storage.parquet_sizes import columns_size, decoded_size
from predboard.storage.paths import AnyPath, arrow_source, check_size, is_remote, join_ref, read_bytes

SUFFIXES = (".parquet",)
SHARDED = True


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one or more files that hold images, or of one that is a list.

    Raises InputError if a column that the user named is missing, or several files are lists.
    """
    schema = pq.read_schema(arrow_source(files[0]))
    of_labels = {plain_name(name) for name in (options.label_column, *LABEL_COLUMNS, *TRUTH_COLUMNS) if name}
    in_bytes = [field.name for field in schema if holds_images(field.type)]
    image_columns = [n for n in in_bytes if plain_name(n) not in of_labels and not _holds_text(files[0], n)]
    if not image_columns or options.image_column in set(schema.names) - set(image_columns):
        if len(files) > 1:
            raise InputError(f"{files[0].name} is a list of images, one of {len(files)} files: expected one list")
        with pq.ParquetFile(arrow_source(files[0], whole=True)) as parquet:
            size = decoded_size(files[0], parquet, schema.names, options.max_read_gb * 1e9)
            check_size(size, options.max_read_gb)
            return list_table(parquet.read(), files[0], options)
    image = options.image_column or image_columns[0]
    if image not in image_columns:
        raise InputError(f"{files[0]} has no column {image!r} of images; it has {', '.join(image_columns)}")
    tables, refs = [], []
    for file in files:
        with pq.ParquetFile(arrow_source(file)) as parquet:
            names = [name for name in parquet.schema_arrow.names if name not in image_columns]
            check_size(decoded_size(file, parquet, names, options.max_read_gb * 1e9), options.max_read_gb)
            tables.append(parquet.read(names))
            end = "" if image == in_bytes[0] else f":{image}"
            refs += [f"{file.name}#{row}{end}" for row in range(parquet.metadata.num_rows)]
    table = pa.concat_tables(tables, promote_options="default")
    if not table.num_columns:  # nothing but images
        return make_manifest(files[0].parent, refs)
    return list_labelled(table, files[0], image, refs, files[0].parent, options)


def _holds_text(file: AnyPath, name: str) -> bool:
    """Return whether a column of bytes has text, judged by the first row that has any."""
    with pq.ParquetFile(arrow_source(file)) as parquet:
        batches = parquet.iter_batches(64, columns=[name]) if parquet.metadata.num_rows else iter(())
        values = (value for batch in batches for value in batch.column(0).to_pylist())
        first = next((value for value in values if value is not None), None)
    return isinstance(first, bytes) and not is_encoded_image(first)


def read(file: AnyPath, member: str, max_read_gb: float) -> bytes:
    """Return the encoded image of a row. Raises FileNotFoundError if there is no such row, or no image in it."""
    number, _, column = member.partition(":")
    starts, first_column = _index(file)
    if not number.isdecimal() or int(number) >= starts[-1]:
        raise FileNotFoundError(2, "No such row")
    group = int(np.searchsorted(starts, int(number), side="right")) - 1
    value = _read_group(file, group, column or first_column, max_read_gb)[int(number) - int(starts[group])].as_py()
    encoded: Any = value.get("bytes") if isinstance(value, dict) else value
    if encoded is None and isinstance(value, dict) and value.get("path"):
        return read_bytes(join_ref(str(file.parent), str(value["path"])), max_read_gb)
    if encoded is None:
        raise FileNotFoundError(2, "No image in this row")
    return bytes(encoded)


@shared_cache(64)
def _index(file: AnyPath) -> tuple[NDArray[np.int64], str]:
    """Return the first row of each row group and the number of rows at the end; and the first column of images."""
    with pq.ParquetFile(arrow_source(file)) as parquet:
        rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first = next((field.name for field in parquet.schema_arrow if holds_images(field.type)), "")
    return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64), first


@shared_cache(4)
def _read_group(file: AnyPath, group: int, column: str, max_read_gb: float) -> pa.ChunkedArray:
    with pq.ParquetFile(arrow_source(file)) as parquet:
        size = columns_size(parquet, [column], [group])
        if not is_remote(file):  # which would be another request
            size = decoded_size(file, parquet, [column], max_read_gb * 1e9, [group])
        check_size(size, max_read_gb)
        return parquet.read_row_group(group, [column]).column(0)
