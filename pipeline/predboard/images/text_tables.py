"""Reads tables in text files: separated values, however a program wrote them, and lines of JSON. It knows no images.

CSV may be separated by commas, semicolons, tabs or |, in UTF-8 or UTF-16, with spaces around cells, with single or
double quotes, with a decimal comma where no comma separates, and with blank rows and separators at the ends of lines.
"""

import contextlib
import csv
import json
import os
import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from predboard.errors import InputError, first_line, reading
from predboard.formatting import plural
from predboard.storage.paths import MAX_READ_GB, AnyPath, arrow_source, check_size, open_binary

_HEAD_BYTES = 2**16
"""Bytes from which separator, encoding and column names are taken."""

_BLOCK_BYTES = 2**24
"""Bytes of text that are parsed at a time; the types of columns are those of the first block."""

_SHOWN_LINES = 16
"""Lines from the names on by which the columns are recognised."""

_SEPARATORS = ",;\t|"
_BLANK = " ,;\t|\"'"
"""Characters of a row that has nothing in its cells."""

UNNAMED = "Unnamed: "
"""Beginning of the names of columns without one, as pandas calls them; the place follows."""

_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
"""Encoding by the mark that a file begins with."""
_NO_TEXT = {
    b"PK\x03\x04": "a ZIP file, as Excel's are: save the table as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "a file of Excel: save the table as CSV",
    b"\x1f\x8b": "compressed by gzip: gunzip it",
    b"\xff\xfe\0\0": "UTF-32: save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32: save it as UTF-8",
}
"""Beginnings of files that are no table in text, and what to do."""
_HALF = 32
"""Half of the bytes that show whether a file without a mark is UTF-16."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_NO_OBJECT = re.compile(rb"^[ \t\r]*[^ \t\r\n{]", re.MULTILINE)
_WRONG_TYPE = re.compile(r"In CSV column #(\d+): CSV conversion error to (\w+)")
_WRONG_WIDTH = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): ?(.*)")
_DEEP = re.compile(rb'(?:[\[{](?:\s*"[^"]*"\s*:)?\s*){65}')
_FLOAT_DIGITS = 17
"""Digits of a float64, as which whole numbers beyond int64 would be read."""
_NO_UTF8 = "is not UTF-8: save it as UTF-8"


@dataclass(frozen=True)
class SeparatedValues:
    """Says how a file of separated values is written, and reads it."""

    file: AnyPath
    separator: str
    quote: str
    decimal: str
    columns: tuple[str, ...]
    """Names of all columns in order; empty where a separator ends the lines."""
    skip_rows: int
    """Lines up to and with the one with the names."""
    content: bytes | None = None
    """The rows as Arrow can read them, where they are written in another way."""

    @property
    def names(self) -> list[str]:
        """Names of the columns, but for those that have neither name nor content."""
        return [name for name in self.columns if name]

    def read(self, wanted: Sequence[str], types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
        """Return whole columns. One whose later rows do not have the type of the first ones is read as text.

        So is one of whole numbers that a number would not give back, such as 007: these are names.
        """
        types = dict(types or {})
        while True:
            try:
                table = self._parse(wanted, types)
                if names := self._names_in_digits({f.name: f.type for f in table.schema if f.name not in types}):
                    table = self._parse(wanted, types | dict.fromkeys(names, pa.string()))
                return self._trim(table)
            except pa.ArrowInvalid as error:
                match = _WRONG_TYPE.match(str(error))
                name = None if match is None else self.columns[int(match[1])]
                if match is None or name is None or types.get(name) == pa.string() or name not in wanted:
                    raise self._error(error) from error
                types[name] = pa.float64() if match[2].startswith("int") else pa.string()

    def batches(
        self, wanted: Sequence[str], types: Mapping[str, pa.DataType] | None = None
    ) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows of some columns, some at a time. Without names all of them, those of the first block typed."""
        try:
            with pyarrow.csv.open_csv(self._source(), *self._options(wanted, types or {})) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise self._error(error) from error

    def _names_in_digits(self, types: Mapping[str, pa.DataType]) -> list[str]:
        """Return which columns of numbers have a cell of digits that a number would not give back, such as 007."""
        names = [name for name, type_ in types.items() if pa.types.is_integer(type_) or pa.types.is_floating(type_)]
        textual: set[str] = set()
        if names:
            with contextlib.closing(self.batches(names, dict.fromkeys(names, pa.string()))) as batches:
                for batch in batches:
                    left = (name for name in names if name not in textual)
                    textual |= {name for name in left if _has_names_in_digits(batch.column(name), types[name])}
        return sorted(textual)

    def _trim(self, table: pa.Table) -> pa.Table:
        """Return the table without white space around its texts. Raises InputError if a text is not UTF-8."""
        for i, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
            if pa.types.is_binary(column.type):
                raise _no_text(self.file, name)
            if pa.types.is_string(column.type):
                table = table.set_column(i, name, pc.utf8_trim_whitespace(column))
        return table

    def _parse(self, wanted: Sequence[str], types: Mapping[str, pa.DataType], threads: bool = True) -> pa.Table:
        return pyarrow.csv.read_csv(self._source(), *self._options(wanted, types, threads))

    def _source(self) -> Any:
        return arrow_source(self.file, whole=True) if self.content is None else pa.BufferReader(self.content)

    def _options(
        self, wanted: Sequence[str], types: Mapping[str, pa.DataType], threads: bool = True
    ) -> tuple[Any, ...]:
        names = [name or f" {i}" for i, name in enumerate(self.columns)]  # which must differ
        return (
            pyarrow.csv.ReadOptions(
                use_threads=threads, block_size=_BLOCK_BYTES, column_names=names, skip_rows=self.skip_rows
            ),
            # Arrays that were printed into a cell have line breaks in them.
            pyarrow.csv.ParseOptions(delimiter=self.separator, quote_char=self.quote, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                include_columns=list(wanted) or self.names, column_types=dict(types), decimal_point=self.decimal
            ),
        )

    def _error(self, error: pa.ArrowInvalid) -> InputError:
        """Return the error of a file that cannot be parsed, with the line if Arrow can tell it."""
        if "UTF8" in str(error):
            return _no_text(self.file)
        try:
            self._parse((), {}, threads=False)  # several threads do not say in which row an error is
        except pa.ArrowInvalid as again:
            error = again
        if match := _WRONG_WIDTH.search(str(error)):
            at = "line" if self.content is None else "row"
            return InputError(
                f"{self.file} has {plural(int(match[3]), 'cell')} in {at} {match[1]}, and {match[2]} in others: "
                f"{match[4].strip()[:60]}"
            )
        return InputError(f"cannot read {self.file}: {first_line(error)}")


def open_separated(file: AnyPath, max_read_gb: float = MAX_READ_GB) -> SeparatedValues:
    """Recognize how a file is written from its first lines: most often its separator is in the names' line.

    Raises InputError if it has two columns of one name, or is in UTF-16 and damaged; UnreadableError if it takes more
    memory than `max_read_gb`, where it is written so that it has to be read as a whole.
    """
    lines, encoding = _first_lines(file)
    at = next((i for i, line in enumerate(lines) if line.strip(_BLANK)), len(lines))
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    if at < len(lines) and (match := re.fullmatch(r"[\"']?sep=(.)[\"']?\s*", lines[at])):  # as Excel writes it
        separator, at = match[1], at + 1
    elif at < len(lines):
        separator = max(separator + _SEPARATORS, key=lines[at].count)
    if (
        at < len(lines)
        and lines[at].startswith("#")
        and any(
            not line.startswith("#") and line.count(separator) > lines[at].count(separator)
            for line in lines[at : at + _SHOWN_LINES]
        )
    ):
        raise InputError(
            f"{file} begins with a comment, in line {at + 1} (#): remove the lines before those of the table"
        )
    shown = [line for line in lines[at : at + _SHOWN_LINES] if line.strip(_BLANK)]
    single = any(re.match(rf"\s*'[^']*'\s*({re.escape(separator)}|$)", line) for line in shown[:2])
    quote = "'" if single else '"'
    read = csv.reader(shown, delimiter=separator, quotechar=quote, skipinitialspace=True)
    names, *rows = [[cell.strip() for cell in row] for row in read] or [[]]
    if any("\ufffd" in name for name in names):
        raise _no_text(file)
    if twice := next((name for name, count in Counter(names).items() if name and count > 1), None):
        raise InputError(f"{file} has two columns named {twice!r}: rename one")
    cells = [cell for row in rows for cell in row] if separator != "," else []
    decimal = "," if any(map(_DECIMAL_COMMA.fullmatch, cells)) else "."
    skip = at + 1 - sum(bool(line.strip()) and not line.strip(_BLANK) for line in lines[:at])
    opened = SeparatedValues(file, separator, quote, decimal, _columns(names, rows), skip if names else 0)
    return replace(opened, content=_rewritten(opened, encoding, max_read_gb))


def _first_lines(file: AnyPath) -> tuple[list[str], str]:
    """Return the first lines of a file, and its encoding."""
    head = b""
    with open_binary(file) as stream:
        while len(head) < _BLOCK_BYTES and head.count(b"\n") <= _SHOWN_LINES and (piece := stream.read(_HEAD_BYTES)):
            head += piece
        is_cut = bool(stream.read(1))
    encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and head[: 2 * _HALF].count(0) > _HALF // 2:  # every second byte of most text
        encoding = "utf-16-be" if head.startswith(b"\0") else "utf-16-le"
    for mark, what in _NO_TEXT.items():
        if head.startswith(mark):
            raise InputError(f"{file} is {what}")
    if encoding.startswith("utf-8") and b"\0" in head:
        raise _no_text(file)
    lines = re.split(r"\r\n|\r|\n", head.decode(encoding, "replace"))
    return lines[:-1] if is_cut and len(lines) > 1 else lines, encoding


def _has_names_in_digits(texts: pa.StringArray, read_as: pa.DataType) -> bool:
    """Return whether a text is of digits that begin with 0, or of more than a float has, if it is read as one."""
    texts = pc.ascii_trim_whitespace(texts)
    may, pattern = pc.starts_with(texts, "0"), r"^0\d+$"
    if pa.types.is_floating(read_as):
        may = pc.or_(may, pc.greater(pc.binary_length(texts), _FLOAT_DIGITS))
        pattern = rf"^(0\d+|\d{{{_FLOAT_DIGITS + 1},}})$"
    return bool(pc.any(pc.match_substring_regex(texts.filter(may), pattern)).as_py())


def _no_text(file: AnyPath, column: str = "") -> InputError:
    """Return the error of a file that is no text, with the first line that shows it."""
    with open_binary(file) as stream:
        for number, line in enumerate(iter(stream.readline, b""), 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                where = f" in column {column!r}" if column else ""
                return InputError(f"{file} is not UTF-8{where} in line {number}: save it as UTF-8")
            if b"\0" in line:
                return InputError(f"{file} has a NUL byte in line {number}: it is damaged, or no table in text")
    return InputError(f"{file} {_NO_UTF8}")


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the names of as many columns as the rows have: a separator may end the lines, or all but that of names."""
    width = max(map(len, rows), default=len(names))
    has_content = [any(len(row) > i and row[i] for row in rows) for i in range(width)]
    if width == len(names) + 1 and not has_content[-1]:
        names = [*names, ""]
    elif width == len(names) - 1 and not names[-1]:
        names = names[:-1]
    unnamed = [f"{UNNAMED}{i}" if content else "" for i, content in enumerate([*has_content, *[False] * len(names)])]
    return tuple(name or (unnamed[i] if unnamed[i] not in names else "") for i, name in enumerate(names))


def _rewritten(opened: SeparatedValues, encoding: str, max_read_gb: float) -> bytes | None:
    """Return the content in UTF-8 without rows of separators alone; None if it is so already."""
    row = rb"[ \t%s]*[%s][ \t%s]*\r?(?:\n|\Z)" % ((re.escape(opened.separator.encode()),) * 3)
    at_start, below = re.compile(row), re.compile(rb"\n" + row)  # a 30th of the time of one search for ^
    with open_binary(opened.file) as stream:
        if encoding in ("utf-8", "utf-8-sig"):
            pieces = iter(lambda: stream.read(_BLOCK_BYTES), b"")
            if not any(at_start.match(piece) or below.search(piece) for piece in map(bytes, pieces)):
                return None
        check_size(stream.seek(0, os.SEEK_END), max_read_gb)
        stream.seek(0)
        content = bytes(stream.read())
    if encoding not in ("utf-8", "utf-8-sig"):
        with reading(opened.file):
            content = content.decode(encoding).encode()
    return re.sub(rb"^" + row, b"", content, flags=re.MULTILINE)


# --- lines of JSON ---


def read_json_lines(file: AnyPath) -> pa.Table:
    """Read lines of JSON objects, with the union of their keys as columns.

    Raises InputError for a line that is no object, for nesting beyond 64 levels, and for text that is not UTF-8.
    """
    content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if _DEEP.search(content):
        raise InputError(f"cannot read {file}: it has values inside each other, more than 64 levels deep")
    if _NO_OBJECT.search(content):  # Arrow does not survive null at the beginning
        return _parse_json_lines(content, file)
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(content), pyarrow.json.ReadOptions(block_size=max(len(content), 1))
        )
        table.validate(full=True)
    except pa.ArrowInvalid:  # Python says in which line, and mixes types
        return _parse_json_lines(content, file)
    # Arrow makes floats of integers beyond 64 bits with a sign, such as hashes.
    floats = [column for column in table.columns if pa.types.is_float64(column.type)]
    is_rounded = any((pc.max(pc.abs(column)).as_py() or 0) >= 2**53 for column in floats)
    return _parse_json_lines(content, file) if is_rounded else table


def _parse_json_lines(content: bytes, file: AnyPath) -> pa.Table:
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file} {_NO_UTF8} (line {number})") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        with reading(f"{file}, line {number}"):
            record = parse_json(line)
        if not isinstance(record, dict):
            raise InputError(
                f"{file} has {line.strip()[:60]} in line {number}; expected an object with the columns of a row"
            )
        records.append(record)
    return table_of_records(records)


def parse_json(text: str | bytes) -> Any:
    """Return a value of JSON. Raises JSONDecodeError if it is none, ValueError if an object has a key twice."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {twice!r} twice, of which JSON keeps only one: rename one")
    return unique


def table_of_records(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the table of records, with the union of their keys as columns and null where a record lacks one."""
    names = dict.fromkeys(name for record in records for name in record)
    return pa.table({name: json_column([record.get(name) for record in records]) for name in names})


def json_column(values: Sequence[Any]) -> pa.Array:
    """Return the values of a JSON column; as text where they are of several kinds or too large for a number.

    >>> json_column([1, "cat", None]).to_pylist()
    ['1', 'cat', None]
    """
    with contextlib.suppress(pa.ArrowException, OverflowError):
        return pa.array(values)
    with contextlib.suppress(pa.ArrowException, OverflowError, TypeError):
        return pa.array(values, pa.uint64())
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())
