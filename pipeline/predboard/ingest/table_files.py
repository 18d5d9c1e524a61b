"""Read files of tables into columns, all at once or some rows at a time. It knows nothing of what they mean.

.parquet, .csv and .tsv are read in pieces; .jsonl and .json whole. A .txt has one value on each line, or an image file
and its label.
"""

import contextlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from predboard.errors import InputError, reading
from predboard.images.columns import holds_images, is_encoded_image
from predboard.images.manifest import image_suffixes
from predboard.images.text_tables import json_column, open_separated, parse_json, read_json_lines, table_of_records
from predboard.ingest.array_files import ARRAY_SUFFIXES
from predboard.ingest.nested_columns import NestedColumn, is_ranked, nest, ranked_names
from predboard.near_paths import did_you_mean_path
from predboard.predictions.arrow import viewed_type, without_views
from predboard.storage.parquet_sizes import columns_size, decoded_size
from predboard.storage.paths import check_size

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")

CLASS_NAME_ARRAYS = ("class_names", "classes", "label_names", "category_names", "categories", "classes_", "names")
"""Names of what holds the name of each class, tried in this order."""

RecordBatches = Generator[pa.RecordBatch, None, None]


def check_kind(file: Path) -> None:
    """Raise InputError if there is no such file, or it is not of a kind that is read here."""
    suffixes = ", ".join((*ARRAY_SUFFIXES, *TABLE_SUFFIXES))
    with reading(file):  # a closed folder, a name that is too long
        exists = file.is_file()
    if not exists:
        near = did_you_mean_path(file, Path.is_file, (*ARRAY_SUFFIXES, *TABLE_SUFFIXES))
        raise InputError(f"no file {file}: expected predictions in one of {suffixes}{near}")
    if file.suffix.lower() in (".gz", ".bz2", ".xz", ".zst"):
        raise InputError(f"{file} is compressed: unpack it first, then give {file.stem}")
    if file.suffix.lower() not in (*ARRAY_SUFFIXES, *TABLE_SUFFIXES):
        raise InputError(f"{file} is of an unknown kind; expected one of {suffixes}")


@dataclass(frozen=True)
class TableFile:
    """A table in a file, to be read column by column."""

    types: Mapping[str, pa.DataType]
    """Types by column, as far as the first rows tell."""
    first: Mapping[str, Any] | None
    """The plain values of the first row, of Parquet the texts; None if there are no rows."""
    read: Callable[[Sequence[str]], pa.Table]
    """Reads whole columns."""
    read_as_written: Callable[[Sequence[str]], pa.Table]
    """Reads whole columns with the cells of a text file as text, so that 00012 stays 00012."""
    batches: Callable[[Sequence[str], pa.DataType | None], RecordBatches]
    """Reads columns some rows at a time, as this type if the file does not say."""
    structs: tuple[str, ...] = ()
    """Columns of structs, whose fields are columns here."""
    ranked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns of lists of label and score, with the columns here that each became."""
    picture_columns: tuple[str, ...] = ()
    """Columns of a Parquet file that may hold encoded images."""
    class_names: tuple[str, ...] = ()
    """Names of the classes that stand beside the columns."""
    is_typed: bool = True
    """Whether the file says what is text; cells like 00012 of a CSV file look like numbers."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.types)

    def may_be_text(self, name: str) -> bool:
        """Return whether a column has text in each row, or numbers that may be text, as 00012 and 1e3 may."""
        type_ = self.types[name]
        return is_text(type_) or (not self.is_typed and (pa.types.is_integer(type_) or pa.types.is_floating(type_)))

    def holds_pictures(self, name: str) -> bool:
        """Return whether a column of a Parquet file has encoded images in each row, rather than their paths."""
        if not is_bytes(self.types[name]) or not self.picture_columns:
            return False
        with contextlib.closing(self.batches([name], None)) as batches:
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            return is_encoded_image(next((value for value in values if value is not None), b""))

    def picture_ref(self, name: str) -> str:
        """Return what follows the row in the ref of an image in this column, empty for the first one of images."""
        column = name if name in self.picture_columns else name.removesuffix(".bytes")
        return "" if column == self.picture_columns[0] else f":{column}"

    def is_printed(self, name: str) -> bool:
        """Return whether a column has lists or arrays that were printed as text."""
        value = (self.first or {}).get(name)
        return isinstance(value, str) and value.lstrip().startswith(("[", "("))


def open_table(file: Path, max_read_gb: float) -> TableFile:
    """Open the table in a file. Raises InputError, now or when it is read, for whatever its parser raises.

    It is refused as well if it is JSON or plain text, which are read as a whole, and larger than `max_read_gb`.
    """
    suffix = file.suffix.lower()
    with reading(file):
        if suffix not in (".parquet", ".csv", ".tsv"):
            check_size(file.stat().st_size, max_read_gb)
        if suffix == ".parquet":
            table = _open_parquet(file, max_read_gb)
        elif suffix in (".csv", ".tsv"):
            table = _open_csv(file, max_read_gb)
        elif suffix in (".jsonl", ".ndjson"):
            table = _in_memory(read_json_lines(file))
        else:
            table = _in_memory(_read_text(file)) if suffix == ".txt" else _read_json(file)

    def guarded(read: Callable[[Sequence[str]], pa.Table]) -> Callable[[Sequence[str]], pa.Table]:
        def read_columns(names: Sequence[str]) -> pa.Table:
            with reading(file):
                return _take_apart(without_views(read(_stored(names, nested))), names, nested)

        return read_columns

    def batches(names: Sequence[str], type_: pa.DataType | None) -> RecordBatches:
        with contextlib.closing(table.batches(_stored(names, nested), type_)) as rows:
            while True:
                with reading(file):
                    batch = next(rows, None)
                if batch is None:
                    return
                yield from _take_apart(without_views(pa.Table.from_batches([batch])), names, nested).to_batches()

    nested: dict[str, NestedColumn] = {}
    for name, type_ in table.types.items():
        sample = None
        if is_ranked(type_) and table.first is not None:
            with reading(file), contextlib.closing(table.batches([name], None)) as rows:
                sample = pa.Table.from_batches([next(rows)]).column(0)
        if column := nest(name, type_, sample):
            nested |= dict.fromkeys(column.fields, column)
    taken_apart = {column.name: column.fields for column in nested.values()}
    types = {n: t for name, type_ in table.types.items() for n, t in taken_apart.get(name, {name: type_}).items()}
    if len(types) < sum(len(taken_apart.get(name, (name,))) for name in table.types):
        raise InputError(f"{file} has two columns of one name among {', '.join(types)}: rename one")
    return replace(
        table,
        types=types,
        read=guarded(table.read),
        read_as_written=guarded(table.read_as_written),
        batches=batches,
        structs=tuple(taken_apart),
        ranked={column.name: tuple(column.fields) for column in nested.values() if column.ranked},
    )


def _stored(names: Sequence[str], nested: Mapping[str, NestedColumn]) -> list[str]:
    """Return the columns of a file that some names are parts of."""
    return list(dict.fromkeys(nested[name].name if name in nested else name for name in names))


def _take_apart(table: pa.Table, names: Sequence[str], nested: Mapping[str, NestedColumn]) -> pa.Table:
    """Return the columns of these names from those of a file."""
    if not any(name in nested for name in names):
        return table
    parts: dict[str, pa.ChunkedArray] = {}
    for column in dict.fromkeys(nested[name] for name in names if name in nested):
        parts |= column.take_apart(table.column(column.name), [name for name in names if nested.get(name) == column])
    return without_views(pa.table({name: parts[name] if name in parts else table.column(name) for name in names}))


def _in_memory(table: pa.Table) -> TableFile:
    def batches(names: Sequence[str], _: pa.DataType | None) -> RecordBatches:
        yield from table.select(list(names)).combine_chunks().to_batches(2**14)

    def read(names: Sequence[str]) -> pa.Table:
        return table.select(list(names))

    first = next(iter(table.slice(0, 1).to_pylist()), None)
    return TableFile(_types(table.schema), first, read, read, batches)


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    if len(set(schema.names)) < len(schema.names):
        raise InputError(f"two columns have one name among {', '.join(schema.names[:12])}: rename one")
    types = {f.name: f.type.storage_type if isinstance(f.type, pa.ExtensionType) else f.type for f in schema}
    return {name: viewed_type(type_) for name, type_ in types.items()}


_BATCH_BYTES = 2**27


def _open_parquet(file: Path, max_read_gb: float) -> TableFile:
    schema = pq.read_schema(file)

    def batches(names: Sequence[str], _: pa.DataType | None) -> RecordBatches:
        with pq.ParquetFile(file) as parquet:
            row_bytes = columns_size(parquet, names, range(parquet.num_row_groups)) // max(1, parquet.metadata.num_rows)
            rows = max(1, min(2**12, _BATCH_BYTES // max(1, row_bytes)))
            yield from parquet.iter_batches(rows, columns=list(names), use_threads=False)

    def read(names: Sequence[str]) -> pa.Table:
        with pq.ParquetFile(file) as parquet:
            check_size(decoded_size(file, parquet, names, max_read_gb * 1e9), max_read_gb)
        return pq.read_table(file, columns=list(names)).replace_schema_metadata(None)

    texts = [f.name for f in schema if is_text(f.type)]  # of other types Python may have no value: a date after 9999
    with pq.ParquetFile(file) as parquet:
        start = next(parquet.iter_batches(1, columns=texts), None) if parquet.metadata.num_rows else None
    first: dict[str, Any] | None = None if start is None else next(iter(start.to_pylist()), {})
    pictures = tuple(f.name for f in schema if holds_images(f.type))
    return TableFile(_types(schema), first, read, read, batches, picture_columns=pictures)


def _open_csv(file: Path, max_read_gb: float) -> TableFile:
    opened = open_separated(file, max_read_gb)

    def batches(names: Sequence[str], type_: pa.DataType | None) -> RecordBatches:
        yield from opened.batches(names, None if type_ is None else dict.fromkeys(names, type_))

    def read_as_written(names: Sequence[str]) -> pa.Table:
        return opened.read(names, dict.fromkeys(names, pa.string()))

    with contextlib.closing(opened.batches(())) as start:
        head = next(start, None)
    if head is None:
        raise InputError(f"{file} holds no rows")
    first = next(iter(head.slice(0, 1).to_pylist()), None)
    return TableFile(_types(head.schema), first, opened.read, read_as_written, batches, is_typed=False)


def _read_json(file: Path) -> TableFile:
    """Read JSON in one of the shapes that pandas, timm and transformers write, or in one that people write by hand.

    A list of records, lines of records, columns as lists or by row number (pandas' default), pandas' `split`, records
    by image, labels by image, lists of label and score by image, or a list of labels.
    """
    text = file.read_text("utf-8-sig")
    try:
        value = parse_json(text)
    except json.JSONDecodeError:
        value = [parse_json(line) for line in text.splitlines() if line.strip()]
    if not isinstance(value, dict | list):
        raise InputError(f"{file} holds {value!r}; expected a list of records, or columns by name")
    class_names: tuple[str, ...] = ()
    if isinstance(value, dict):
        value, class_names = _without_single_values(value)
    if isinstance(value, dict):
        value = _by_column(value, file) or _by_image(value, file)
    if isinstance(value, dict):
        table = pa.table({name: json_column(values) for name, values in value.items()})
        return replace(_in_memory(table), class_names=class_names)
    if any(not isinstance(record, dict) for record in value):
        value = [{"value": item} for item in value]
    return replace(_in_memory(table_of_records(value)), class_names=class_names)


def _without_single_values(value: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the columns or records of a JSON object that says more, as the epoch, and the class names."""
    lists = {name: values for name, values in value.items() if isinstance(values, list)}
    if any(isinstance(v, dict) for v in value.values()) or any(n.lower().endswith(image_suffixes()) for n in value):
        return value, ()
    if "data" in value:  # the form of pandas that is called split
        return value, ()
    rows = max(map(len, lists.values()), default=0)
    named = [name for name in CLASS_NAME_ARRAYS if name in lists and len(lists[name]) < rows]
    names = lists.pop(named[0]) if named else []
    records = [values for values in lists.values() if values and all(isinstance(item, dict) for item in values)]
    if len(lists) == len(records) == 1 and len(value) > 1 and not _is_label_and_scores(records[0]):
        return records[0], tuple(map(str, names))
    return lists or value, tuple(map(str, names))


def _by_column(value: dict[str, Any], file: Path) -> dict[str, list[Any]] | None:
    """Return the values of each column of a JSON object that has columns, None if it has images."""
    if {"columns", "data"} <= set(value):
        rows = value["data"]
        if any(len(row) != len(value["columns"]) for row in rows):
            raise InputError(f"{file} has rows of other lengths than its columns")
        return {name: [row[i] for row in rows] for i, name in enumerate(value["columns"])}
    numbered = all(isinstance(column, dict) and all(map(str.isdigit, column)) for column in value.values())
    if value and numbered and not any(name.lower().endswith(image_suffixes()) for name in value):
        rows = dict.fromkeys(row for column in value.values() for row in column)
        return {name: [column.get(row) for row in rows] for name, column in value.items()}
    lists = all(isinstance(values, list) for values in value.values())
    of_images = any(name.lower().endswith(image_suffixes()) for name in value)
    return value if lists and not of_images and not any(map(_is_label_and_scores, value.values())) else None


def _by_image(value: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON object whose keys are images."""
    if all(isinstance(record, dict) for record in value.values()):
        return [{"image": image, **record} for image, record in value.items()]
    if all(isinstance(label, str | int | None) for label in value.values()):
        return [{"image": image, "label": label} for image, label in value.items()]
    if all(isinstance(values, list) and not _is_label_and_scores(values) for values in value.values()):
        is_score = all(isinstance(v, int | float) for values in value.values() for v in values)
        return [{"image": image, "scores" if is_score else "label": values} for image, values in value.items()]
    if not all(map(_is_label_and_scores, value.values())):
        raise InputError(f"{file} holds neither columns nor images; expected a list of records, or columns by name")
    pairs = [(ranked, cast(tuple[str, str], ranked_names(ranked[0]))) for ranked in value.values()]
    records = [{f"score_{item[label]}": item[score] for item in ranked} for ranked, (label, score) in pairs]
    if any(record.keys() != records[0].keys() for record in records):
        raise InputError(
            f"{file} does not list every class for every image; expected the scores of all classes "
            "(transformers: top_k=None)"
        )
    return [{"image": image, **record} for image, record in zip(value, records, strict=True)]


def _is_label_and_scores(value: Any) -> bool:
    """Return whether this is what a pipeline of transformers gives: [{"label": "cat", "score": 0.9}, …]."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return False
    return ranked_names(value[0]) is not None and all(item.keys() == value[0].keys() for item in value)


def _read_text(file: Path) -> pa.Table:
    """Read lines; as image and label where every line is an image file, white space and one more word."""
    lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    pairs = [line.rsplit(None, 1) for line in lines]
    if pairs and all(len(pair) == 2 and pair[0].lower().endswith(image_suffixes()) for pair in pairs):
        return pa.table({"image": [pair[0] for pair in pairs], "label": [pair[1] for pair in pairs]})
    return pa.table({"value": pa.array([line.strip() for line in lines], pa.string())})


# --- types ---


def is_number(type_: pa.DataType) -> bool:
    """Return whether a column has one number in each row, or nothing at all."""
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def is_text(type_: pa.DataType) -> bool:
    """Return whether a column has text in each row, dictionary-encoded or not."""
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


def is_discrete(type_: pa.DataType) -> bool:
    """Return whether a column has text or whole numbers, as labels are."""
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    kinds = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal, is_bytes)
    return is_text(value) or any(is_kind(value) for is_kind in kinds)


def is_bytes(type_: pa.DataType) -> bool:
    """Return whether a column has bytes in each row: text as some programs write it, or files."""
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_))


def is_list(type_: pa.DataType) -> bool:
    """Return whether a column has a list of numbers in each row."""
    lists = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(lists and is_number(type_.value_type))


def is_list_of_text(type_: pa.DataType) -> bool:
    """Return whether a column has a list of texts in each row."""
    lists = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(lists and is_text(type_.value_type))


def is_plain(type_: pa.DataType) -> bool:
    """Return whether a column has one value in each row, and no bytes."""
    return not (pa.types.is_nested(type_) or is_bytes(type_))
