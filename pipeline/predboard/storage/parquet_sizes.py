"""Count the memory that columns of a Parquet file take once they are decoded. It knows nothing of what they hold.

The metadata of a file tells the sizes of its pages, but a text in a dictionary may stand for millions of rows, and a
value that repeats takes no space at all.
"""

from collections.abc import Collection, Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from predboard.storage.paths import AnyPath, arrow_source

_AS_LONG_AS_STORED = frozenset({"PLAIN", "RLE", "BIT_PACKED", "DELTA_LENGTH_BYTE_ARRAY"})
"""Encodings that store each text; RLE and BIT_PACKED are those of its levels."""

_VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}


def columns_size(parquet: pq.ParquetFile, names: Collection[str], groups: Iterable[int]) -> int:
    """Return the fewest bytes that columns of row groups take, from the metadata alone."""
    return sum(_least(parquet, group, leaf) for group in groups for leaf in _leaves(parquet, names))


def decoded_size(
    path: AnyPath, parquet: pq.ParquetFile, names: Collection[str], most: float, groups: Iterable[int] | None = None
) -> int:
    """Return the bytes that columns take in memory, or some number above `most` as soon as they take more than that.

    Only texts that may repeat are read for it, and never decoded to more than they are in the file.

    Args:
        path: of the file, which is opened once more only if a bound does not tell.
        parquet: the same file.
        names: of columns; lists and structs are counted with all that is in them.
        most: a number of bytes.
        groups: numbers of row groups, all if None.
    """
    leaves = _leaves(parquet, names)
    chunks = [(g, i) for g in (range(parquet.num_row_groups) if groups is None else groups) for i in leaves]
    repeated = [chunk for chunk in chunks if _may_repeat(parquet, *chunk)]
    size = sum(_least(parquet, *chunk) for chunk in chunks)
    bounds = [_least(parquet, g, i) * parquet.metadata.row_group(g).column(i).num_values for g, i in repeated]
    if size > most or size + sum(bounds) <= most:
        return size
    for group, leaf in repeated:
        size += _measure(path, parquet, group, leaf, most - size)
        if size > most:
            break
    return size


def _leaves(parquet: pq.ParquetFile, names: Collection[str]) -> list[int]:
    """Return the places of what is stored of some columns: each member of a struct is stored by itself."""
    paths = [parquet.schema.column(i).path.split(".") for i in range(len(parquet.schema))]
    return [i for i, path in enumerate(paths) if any(".".join(path[: n + 1]) in names for n in range(len(path)))]


def _least(parquet: pq.ParquetFile, group: int, leaf: int) -> int:
    chunk = parquet.metadata.row_group(group).column(leaf)
    width = _VALUE_BYTES.get(chunk.physical_type, max(1, parquet.schema.column(leaf).length or 0))
    return int(max(chunk.total_uncompressed_size, chunk.num_values * width))


def _may_repeat(parquet: pq.ParquetFile, group: int, leaf: int) -> bool:
    chunk = parquet.metadata.row_group(group).column(leaf)
    return chunk.physical_type == "BYTE_ARRAY" and not _AS_LONG_AS_STORED.issuperset(chunk.encodings)


def _measure(path: AnyPath, parquet: pq.ParquetFile, group: int, leaf: int, most: float) -> int:
    """Return the bytes of the texts of a column in a row group, at least those until they are more than `most`."""
    chunk, name = parquet.metadata.row_group(group).column(leaf), parquet.schema.column(leaf).path
    rows, dictionaries = 2**16, [name]
    if "DELTA_BYTE_ARRAY" in chunk.encodings:  # Arrow reads no dictionary of it; no text is longer than all of them
        rows, dictionaries = max(1, min(rows, int(most) // 4 // chunk.total_uncompressed_size)), []
    size = 0
    with pq.ParquetFile(arrow_source(path), read_dictionary=dictionaries) as file:
        for batch in file.iter_batches(rows, row_groups=[group], columns=[name], use_threads=False):
            size += _text_bytes(batch.column(0))
            if size > most:
                break
    return size


def _text_bytes(column: pa.Array) -> int:
    while not pa.types.is_dictionary(column.type) and column.type.num_fields:
        column = column.field(0) if pa.types.is_struct(column.type) else column.flatten()
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64())
    return pc.sum(lengths.take(column.indices)).as_py() or 0
