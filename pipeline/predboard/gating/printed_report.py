"""Read scikit-learn's classification_report as an author saved it: text, dictionary, JSON or CSV -> rows of numbers.

It knows no predictions.
"""

import ast
import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from predboard.errors import InputError, reading
from predboard.near_paths import did_you_mean_path

SCORES = ("precision", "recall", "f1-score")
COLUMNS = (*SCORES, "support")
AVERAGES = ("micro avg", "macro avg", "weighted avg")

MAX_BYTES = 2**24
"""A report of 100,000 classes has half as many."""

_ALIASES = {"f1": "f1-score", "f1_score": "f1-score", "f-score": "f1-score"}
_NUMBER = r"(nan|[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_HEADER = re.compile(r"^\s*precision\s+recall\s+f1-score\s+support\s*$")
_ROW = re.compile(rf"^\s*(\S.*?)\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$", re.IGNORECASE)
_ACCURACY = re.compile(rf"^\s*accuracy\s+{_NUMBER}\s+{_NUMBER}\s*$", re.IGNORECASE)
_LIKE_ROW = re.compile(rf"^\s*\S.*?(?:\s+{_NUMBER}){{3}}\s*$", re.IGNORECASE)
_RULE = re.compile(r"[\s|+*_=-]*")
"""A line that only parts others; it may be blank."""

_NUMPY_SCALAR = re.compile(r"\b(?:np|numpy)\.\w+\(([^()]*)\)")
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

Rows = dict[str, dict[str, Decimal]]
"""Numbers by row and column; accuracy has them all in `f1-score`."""


@dataclass(frozen=True)
class PrintedReport:
    """The numbers of a report as they are printed."""

    file: Path
    rows: Mapping[str, Mapping[str, float]]
    """Numbers by row and column, `accuracy` and the averages included; nan where a division by zero was printed so."""
    digits: int
    """Digits after the point of its scores: those of the number that has most."""
    rounded: bool
    """Whether the scores were rounded to these digits, and not printed as they were."""

    @property
    def tolerance(self) -> float:
        """Farthest that a number may be from a score that it was printed from."""
        return (0.5 * 10.0**-self.digits if self.rounded else 0.0) + 1e-9


def read_report(file: Path) -> PrintedReport:
    """Read a report.

    Raises:
        InputError: if the file cannot be read, or is no report, or holds several.
    """
    if not file.is_file():
        near = did_you_mean_path(file, Path.is_file)
        raise InputError(f"there is no file {file}; expected a classification_report{near}")
    with reading(file):
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} has more than {MAX_BYTES:,} bytes; expected a classification_report")
        content = file.read_bytes()
        text = content.decode(_MARKS.get(content[:2], "utf-8-sig")).strip("\r\n")
        is_text = any(map(_HEADER.match, text.splitlines()))
        if text.lstrip().startswith(("{", "[")):
            rows = _from_object(_parse(text), file)
        elif is_text:
            rows = _from_text(text, file)
        else:
            rows = _from_cells(_split(text))
    rows = {name: columns for name, columns in rows.items() if columns}
    if not any(score in columns for columns in rows.values() for score in SCORES) or not rows.keys() - {"accuracy"}:
        raise InputError(
            f"{file} is no classification_report: expected its text, or output_dict=True as JSON or as pandas' CSV"
        )
    if "samples avg" in rows:
        raise InputError(f"{file} is the report of a multi-label classifier; expected one label for each image")
    scores = [number for columns in rows.values() for name, number in columns.items() if name in SCORES]
    digits = max((-int(s.as_tuple().exponent) for s in scores if s.is_finite()), default=0)
    plain = {name: {c: float(number) for c, number in columns.items()} for name, columns in rows.items()}
    if endless := next((name for name, columns in plain.items() if any(map(math.isinf, columns.values()))), None):
        raise InputError(f"{file} has a number in row {endless!r} that is infinite; expected scores and counts")
    rounded = digits < 10 and (is_text or digits > 1)  # Python prints 1.0 where nothing is rounded
    return PrintedReport(file, plain, max(digits, 0), rounded)


def _from_text(text: str, file: Path) -> Rows:
    """Read the lines below the heading, up to the first that is none of the report's.

    Raises InputError if there are lines like rows elsewhere: something else came between them.
    """
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _HEADER.match(line)]
    if len(starts) > 1:
        raise InputError(f"{file} holds {len(starts)} reports; expected one: keep that of these predictions")
    rows: Rows = {}
    inside = False
    for number, line in enumerate(lines, 1):
        accuracy, row = _ACCURACY.match(line), _ROW.match(line)
        if number == starts[0] + 1:
            inside = True
        elif inside and accuracy:
            _add(rows, "accuracy", {"f1-score": Decimal(accuracy[1]), "support": Decimal(accuracy[2])}, file)
        elif inside and row:
            _add(rows, row[1], dict(zip(COLUMNS, map(Decimal, row.groups()[1:]), strict=True)), file)
        elif accuracy or ("." in line and _LIKE_ROW.match(line)):
            what = "is no row of a report" if inside else "is like a row of the report, but not below its other rows"
            raise InputError(
                f"{file}, line {number} {what}: {line.strip()[:60]!r}; expected the report as it was printed"
            )
        elif not _RULE.fullmatch(line):
            inside = False
    return rows


def _add(rows: Rows, name: str, numbers: dict[str, Decimal], file: object) -> None:
    if name in rows:
        raise InputError(f"{file} has two rows {name!r}; expected a different name for each class")
    rows[name] = _accuracy(numbers) if name == "accuracy" else numbers


def _accuracy(numbers: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return the row of accuracy, which pandas fills with one number, the support included."""
    some = {c: n for c, n in numbers.items() if not n.is_nan()}
    same = len(set(some.values())) == 1
    return {c: n for c, n in some.items() if c == "f1-score" or (c == "support" and not same)}


def _parse(text: str) -> Any:
    """Parse JSON, or a dictionary as Python prints it, with NumPy's scalars."""
    try:
        return json.loads(
            text, parse_float=Decimal, parse_int=Decimal, parse_constant=Decimal, object_pairs_hook=_as_dict
        )
    except json.JSONDecodeError:
        plain = re.sub(r"(?<=[:\s])nan(?=[,}\s])", "'nan'", _NUMPY_SCALAR.sub(r"\1", text)).strip()
        for node in ast.walk(ast.parse(plain, mode="eval")):
            if isinstance(node, ast.Dict):
                _as_dict((key.value, None) for key in node.keys if isinstance(key, ast.Constant))
        return ast.literal_eval(plain)


def _as_dict(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return a dictionary. Raises InputError if it has a key twice, of which only the last would count."""
    result: dict[Any, Any] = {}
    for name, value in pairs:
        if name in result:
            raise InputError(f"the report has {str(name)[:60]!r} twice; expected a different name for each class")
        result[name] = value
    return result


def _from_object(content: Any, file: Path) -> Rows:
    """Find the one report in what a JSON file holds."""
    tables = list(_tables(content, 0))
    if len(tables) > 1:
        raise InputError(f"{file} holds {len(tables)} reports; expected one: keep that of these predictions")
    return tables[0] if tables else {}


def _tables(content: Any, depth: int) -> Iterator[Rows]:
    """Yield whatever has rows with precision and recall, at any depth, however pandas turned it."""
    if depth > 8:
        return
    if isinstance(content, Sequence) and not isinstance(content, str):
        if content and all(isinstance(row, Mapping) and "precision" in row for row in content):
            names = [next((str(v) for k, v in row.items() if k not in COLUMNS), "") for row in content]
            yield _numbers(_as_dict(zip(names, content, strict=True)))
        else:
            for item in content:
                yield from _tables(item, depth + 1)
        return
    if not isinstance(content, Mapping):
        return
    if {"columns", "index", "data"} <= content.keys():
        cells = [
            ["", *content["columns"]],
            *([n, *row] for n, row in zip(content["index"], content["data"], strict=True)),
        ]
        yield _from_cells([[str(cell) for cell in row] for row in cells])
    elif {"precision", "recall"} <= content.keys() and isinstance(content["precision"], Mapping):
        columns = {c: v for c, v in content.items() if isinstance(v, Mapping)}
        rows = dict.fromkeys(row for column in columns.values() for row in column)
        yield _numbers({row: {c: v.get(row) for c, v in columns.items()} for row in rows})
    elif any(isinstance(row, Mapping) and {"precision", "recall"} <= row.keys() for row in content.values()):
        yield _numbers(content)
    else:
        for item in content.values():
            yield from _tables(item, depth + 1)


def _numbers(records: Mapping[Any, Any]) -> Rows:
    """Take the numbers of a dictionary of rows; `accuracy` may be a number alone."""
    rows: Rows = {}
    for name, record in records.items():
        columns = record if isinstance(record, Mapping) else {"f1-score": record}
        if isinstance(record, Mapping) or name == "accuracy":
            named = {_ALIASES.get(str(c), str(c)): _decimal(v) for c, v in columns.items()}
            _add(rows, str(name), {c: v for c, v in named.items() if c in COLUMNS and v is not None}, "the report")
    return rows


def _decimal(value: Any) -> Decimal | None:
    """Return a number with the digits it was printed with; None for anything else."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(_NUMBER, text, re.IGNORECASE):
        return None
    return Decimal(text)


def _split(text: str) -> list[list[str]]:
    """Split CSV, TSV or a table in Markdown into cells."""
    lines = [line for line in text.splitlines() if line.strip(" ,;\t|")]
    first = lines[0] if lines else ""
    separator = max("|;\t,", key=first.count)
    if separator == "|":
        cells = [line.strip().strip("|").split("|") for line in lines if not re.fullmatch(r"[\s|:-]+", line)]
    else:
        cells = list(csv.reader(lines, delimiter=separator))
    decimal = re.compile(r"[+-]?\d+,\d+") if separator != "," else None
    clean = [[cell.strip() for cell in row] for row in cells]
    return [[c.replace(",", ".") if decimal and decimal.fullmatch(c) else c for c in row] for row in clean]


def _from_cells(cells: Sequence[Sequence[str]]) -> Rows:
    """Take the rows of a table whose first row or first column names the scores."""
    if not cells:
        return {}
    header = [_ALIASES.get(cell, cell) for cell in cells[0]]
    if "precision" not in header:
        turned = list(zip(*cells, strict=False))
        header = [_ALIASES.get(cell, cell) for cell in turned[0]] if turned else []
        cells = turned
    if "precision" not in header:
        return {}
    at = max(header.index("precision") - 1, 0)
    _as_dict((name, None) for name in header if name in COLUMNS)
    return _numbers(_as_dict((row[at], dict(zip(header, row, strict=False))) for row in cells[1:] if len(row) > at))
