"""Files of tables -> columns, all at once or some rows at a time. Knows not what they mean.

.parquet, .csv and .tsv are read in pieces; .jsonl and .json whole. A .txt has a value on each line, or an image file
and its label.
"""

import contextlib
import json
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from predboard.errors import InputError, first_line
from predboard.images.sources import IMAGE_SUFFIXES
from predboard.ingest import array_files

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")

RecordBatches = Generator[pa.RecordBatch, None, None]


@contextlib.contextmanager
def one_line_errors(file: Path) -> Iterator[None]:
    """Turn whatever a reader says of a bad file into one line."""
    if not file.is_file():
        raise InputError(
            f"no file {file}: expected predictions in one of "
            f"{', '.join((*array_files.ARRAY_SUFFIXES, *TABLE_SUFFIXES))}"
        )
    if file.suffix.lower() not in (*array_files.ARRAY_SUFFIXES, *TABLE_SUFFIXES):
        raise InputError(
            f"{file} is of an unknown kind; expected one of {', '.join((*array_files.ARRAY_SUFFIXES, *TABLE_SUFFIXES))}"
        )
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error


@dataclass(frozen=True)
class TableFile:
    """A table that is read column by column."""

    types: Mapping[str, pa.DataType]
    """As far as the first rows tell."""
    first: Mapping[str, Any] | None
    """The first row, as far as it has plain values; None if there are no rows."""
    read: Callable[[Sequence[str]], pa.Table]
    batches: Callable[[Sequence[str], pa.DataType | None], RecordBatches]
    """Some rows at a time, of this type if the file does not say."""

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self.types)

    def printed(self, name: str) -> bool:
        """Whether a column has lists or arrays that were printed as text."""
        value = (self.first or {}).get(name)
        return isinstance(value, str) and value.lstrip().startswith(("[", "("))


def open_table(file: Path) -> TableFile:
    """The table in a file. Raises what its reader raises: see `one_line_errors`."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        return _parquet(file)
    if kind in (".csv", ".tsv"):
        return _csv(file)
    if kind in (".jsonl", ".ndjson"):
        return _in_memory(pyarrow.json.read_json(file, pyarrow.json.ReadOptions(block_size=2**24)))
    return _in_memory(_text(file) if kind == ".txt" else _json(file))


def _in_memory(table: pa.Table) -> TableFile:
    def batches(names: Sequence[str], _: pa.DataType | None) -> RecordBatches:
        yield from table.select(list(names)).combine_chunks().to_batches(2**14)

    first = next(iter(table.slice(0, 1).to_pylist()), None)
    return TableFile(_types(table.schema), first, lambda names: table.select(list(names)), batches)


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {f.name: f.type.storage_type if isinstance(f.type, pa.ExtensionType) else f.type for f in schema}


def _parquet(file: Path) -> TableFile:
    schema = pq.read_schema(file)

    def batches(names: Sequence[str], _: pa.DataType | None) -> RecordBatches:
        with one_line_errors(file), pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(2**12, columns=list(names), use_threads=False)

    plain = [f.name for f in schema if is_plain(f.type)]
    with pq.ParquetFile(file) as parquet:
        start = next(parquet.iter_batches(1, columns=plain), None) if parquet.metadata.num_rows else None
    first: dict[str, Any] | None = None if start is None else next(iter(start.to_pylist()), {})

    def read(names: Sequence[str]) -> pa.Table:
        return pq.read_table(file, columns=list(names)).replace_schema_metadata(None)

    return TableFile(_types(schema), first, read, batches)


def _csv(file: Path) -> TableFile:
    # Arrays that were printed into a cell have line breaks in them.
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",", newlines_in_values=True)
    block = pyarrow.csv.ReadOptions(block_size=2**24)

    def batches(names: Sequence[str], type_: pa.DataType | None) -> RecordBatches:
        types = None if type_ is None else dict.fromkeys(names, type_)
        convert = pyarrow.csv.ConvertOptions(include_columns=list(names), column_types=types)
        with one_line_errors(file), pyarrow.csv.open_csv(file, block, parse, convert) as reader:
            yield from reader

    with pyarrow.csv.open_csv(file, block, parse) as reader:
        start = next(iter(reader), None)
        schema = reader.schema
    if len(set(schema.names)) < len(schema):
        raise InputError(f"{file} has two columns of one name; it has {', '.join(schema.names[:12])}")
    first = next(iter(start.slice(0, 1).to_pylist()), None) if start is not None else None

    def read(names: Sequence[str]) -> pa.Table:
        return pyarrow.csv.read_csv(file, block, parse, pyarrow.csv.ConvertOptions(include_columns=list(names)))

    return TableFile(_types(schema), first, read, batches)


def _json(file: Path) -> pa.Table:
    """A list of records, lines of records, columns, pandas' `split`, records by image, or labels by image."""
    text = file.read_text("utf-8")
    try:
        found = json.loads(text)
    except ValueError:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not isinstance(found, dict | list):
        raise InputError(f"{file} holds {found!r}; expected a list of records, or columns by their names")
    if isinstance(found, dict) and {"columns", "data"} <= set(found):
        found = [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
    elif isinstance(found, dict) and found and all(isinstance(v, dict) for v in found.values()):
        found = [{"image": image, **record} for image, record in found.items()]
    elif isinstance(found, dict) and found and all(isinstance(v, str | int | None) for v in found.values()):
        found = [{"image": image, "label": label} for image, label in found.items()]
    if isinstance(found, dict):
        return pa.table({name: pa.array(values) for name, values in found.items()})
    if found and not isinstance(found[0], dict):
        found = [{"value": value} for value in found]
    return pa.Table.from_pylist(found)


def _text(file: Path) -> pa.Table:
    """Lines; where each is an image file, white space and one word more, those are image and label."""
    lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    pairs = [line.rsplit(None, 1) for line in lines]
    if pairs and all(len(pair) == 2 and pair[0].lower().endswith(IMAGE_SUFFIXES) for pair in pairs):
        return pa.table({"image": [pair[0] for pair in pairs], "label": [pair[1] for pair in pairs]})
    return pa.table({"value": pa.array([line.strip() for line in lines], pa.string())})


def is_number(type_: pa.DataType) -> bool:
    """Whether a column has one number in each row, or nothing at all."""
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_null(type_))


def is_list(type_: pa.DataType) -> bool:
    """Whether a column has numbers in each row."""
    lists = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(lists and is_number(type_.value_type))


def is_plain(type_: pa.DataType) -> bool:
    """Whether a column has one value in each row, and no bytes."""
    return not (pa.types.is_nested(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_))
