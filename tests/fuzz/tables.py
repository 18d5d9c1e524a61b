"""Fuzzed tables: lists of pictures for `infer`, and predictions for `import`. It judges nothing."""

import csv
import functools
import io
import json
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import inputs, mutate
from tests.fuzz.harness import Case
from tests.fuzz.inputs import BY_PLACE, LABELS, LOGITS, PATHS, ROWS
from tests.fuzz.mutate import HOSTILE, HOSTILE_PATHS, short

NOTHING: tuple[Any, ...] = (None, "", {}, [], "nan")


def table_of(random: Random, case: Case, scores: bool) -> dict[str, list[Any]]:
    """Return the columns of a list of pictures, or of predictions, changed by meaning."""
    named = random.random() < 0.5
    label: list[Any] = ["abc"[i] for i in LABELS] if named else list(LABELS)
    values: Any
    columns: dict[str, list[Any]] = {"image": list(PATHS), "label": label, "country": ["NO", "SE"] * 6}
    score_names = [f"logit_{'abc'[c] if named else c}" for c in range(3)]
    if scores and (named or random.random() < 0.6):
        columns |= {name: LOGITS[:, c].tolist() for c, name in enumerate(score_names)}
    elif scores:
        score_names = ["logits"]
        columns["logits"] = LOGITS.tolist()
    image, mutation = "image", random.randrange(12)
    i = random.randrange(ROWS)
    if mutation == 0:
        name = random.choice(("label", "image", *(score_names * scores)))
        columns[name][i] = hostile = random.choice(HOSTILE_PATHS if name == "image" else HOSTILE)
        case.mutation, case.promise, case.changed = f"{name} {i} = {short(hostile)}", "told", {PATHS[i][:3], str(i)}
    elif mutation == 1:
        values = random.choice(([2**64 - 1] * 12, [0.5, None] * 6, ["é"] * 12, [True] * 12, list(range(12)), [""] * 12))
        columns["more"] = values
        case.mutation = f"a further column of {short(values[0])}"
    elif mutation == 2:
        columns["country"][i] = hostile = random.choice(HOSTILE)
        case.mutation, case.promise = f"country {i} = {short(hostile)}", "told"
    elif mutation == 3:
        new = random.choice(("Label", "LABEL", "class", "target", "label"))
        columns = {new if name == "label" else name: values for name, values in columns.items()}
        case.mutation = f"label is {new}"
    elif mutation == 4:
        image = random.choice(("path", "file_name", "Image", "filepath"))
        columns = {image if name == "image" else name: values for name, values in columns.items()}
        case.mutation = f"image is {image}"
    elif mutation == 5:
        lost = random.choice(list(columns))
        del columns[lost]
        case.mutation, case.promise = f"without {lost}", "same" if lost == "country" else "told"
        if lost == "image":
            case.truth = BY_PLACE
    elif mutation == 6:
        lost, value = random.choice(list(columns)), random.choice(NOTHING)
        columns[lost] = [value] * ROWS
        case.mutation, case.promise = f"nothing but {value!r} in {lost}", "same" if lost == "country" else "told"
    elif mutation == 7:
        order = random.sample(range(ROWS), ROWS)
        columns = {name: [values[k] for k in order] for name, values in columns.items()}
        case.mutation = "rows in another order"
    elif mutation == 8:
        columns = dict(random.sample(list(columns.items()), len(columns)))
        case.mutation = "columns in another order"
    elif mutation == 9 and not named:
        how = random.choice((float, str, Decimal, lambda v: f"{v}.0", lambda v: f" {v}"))
        columns["label"] = [how(v) for v in LABELS]
        case.mutation = f"labels like {columns['label'][5]!r}"
    elif mutation == 10:
        columns["label"] = [columns["label"][k] if k != i else None for k in range(ROWS)]
        case.mutation, case.promise = f"no label in row {i}", "told"
    elif mutation == 11:
        columns[random.choice(("", "x" * 70_000, "\0", "logit_9", "é\u202e", "a.b", "image ", "step", "id"))] = [
            "v"
        ] * ROWS
        case.mutation, case.promise = "a column of a strange name", "told"
    return columns


def csv_of(random: Random, case: Case, columns: dict[str, list[Any]], tabs: bool) -> bytes:
    """Write CSV in one of the ways in which programs write it."""
    same = case.mutation == "none"
    sep = "\t" if tabs else random.choice(",;\t|") if same else ","
    buffer = io.StringIO(newline="")
    quoting: Any = (
        random.choice((csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)) if same and random.random() < 0.3 else csv.QUOTE_MINIMAL
    )
    writer = csv.writer(buffer, delimiter=sep, quoting=quoting, lineterminator=random.choice(("\n", "\r\n")))
    writer.writerow(columns)
    writer.writerows(zip(*([_cell(v) for v in values] for values in columns.values()), strict=True))
    text, how = buffer.getvalue(), "plain"
    lines = text.splitlines()
    if same:
        how = random.choice(("plain", "blank rows", "trailing", "spaces", "sep=", "short", "long", "twice"))
        if how == "blank rows":
            text = "\n" + text + "\n\n"
        elif how == "trailing":
            text = "".join(f"{line}{sep}\n" for line in lines)
        elif how == "spaces":
            text = text.replace(sep, f"{sep} ") if quoting == csv.QUOTE_MINIMAL else text
        elif how == "sep=":
            text = f"sep={sep}\n{text}"
        elif how in ("short", "long"):  # one row has fewer cells, or more
            lines[5] = lines[5].rpartition(sep)[0] if how == "short" else lines[5] + sep + "x"
            text, case.promise, case.changed = "\n".join(lines), "told", {PATHS[4][:3], "4"}
        elif how == "twice":
            text = text.replace("country", "label", 1)
            case.promise = "told"
    encoding = (
        random.choice(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "utf-32", "cp037"))
        if same
        else "utf-8"
    )
    if encoding not in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        case.promise = "told"
    if same:
        case.mutation = f"{encoding}, {sep!r}, {how}"
    return text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return mutate.dumps(value)
    if isinstance(value, int) and abs(value) > 10**300:
        return "1" + "0" * 400
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def json_of(random: Random, case: Case, columns: dict[str, list[Any]], lines: bool) -> bytes:
    """Write JSON or JSON lines in one of the ways in which programs write it."""
    columns = {name: [float(v) if isinstance(v, Decimal) else v for v in values] for name, values in columns.items()}
    records: Any = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    same = case.mutation == "none"
    hostile = random.choice(HOSTILE)
    way = random.randrange(8) if same else 0
    if way == 1 and records:
        i = random.randrange(len(records))
        records[i], what = mutate.tree(random, records[i])
        case.mutation, case.promise, case.changed = f"record {i}: {what}", "told", {PATHS[i][:3], str(i)}
    elif way == 2:
        records.insert(random.choice((0, 5, 12)), hostile)
        case.mutation, case.promise = f"a record {short(hostile)}", "told"
    if lines:
        ends = random.choice(("\n", "\r\n", "\n\n")) if same else "\n"
        if same and way > 2:
            case.mutation = f"lines end with {ends!r}"
        return ends.join(mutate.dumps(record) for record in records).encode("utf-8", "surrogatepass")
    if way == 3:
        records = columns
    elif way == 4:
        records = {name: dict(zip(map(str, range(ROWS)), values, strict=True)) for name, values in columns.items()}
    elif way == 5:
        records = {"columns": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
    elif way == 6:
        shape = random.choice(
            ((lambda r: {"data": r}), (lambda r: [r]), (lambda _: hostile), (lambda r: {"columns": r, "data": r}))
        )
        records, case.mutation, case.promise = shape(records), "another shape", "told"
    if way in (3, 4, 5):
        case.mutation = ("", "", "", "columns", "columns by row", "split")[way]
        if random.random() < 0.3:
            records, what = mutate.tree(random, json.loads(json.dumps(records)))
            case.mutation, case.promise = f"{case.mutation}: {what}", "any"
    return mutate.dumps(records, ensure_ascii=random.random() < 0.5, indent=random.choice((None, 2))).encode(
        random.choice(("utf-8", "utf-8-sig")) if same else "utf-8", "surrogatepass"
    )


TYPES: dict[type, tuple[pa.DataType, ...]] = {
    str: (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.binary(), pa.large_binary()),
    int: (
        *(pa.int8(), pa.uint8(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(9, 2), pa.string()),
        pa.dictionary(pa.int32(), pa.int64()),
    ),
    float: (pa.float16(), pa.float32(), pa.decimal128(20, 6), pa.string()),
    list: (pa.large_list(pa.float32()), pa.list_(pa.float16()), pa.list_(pa.float64(), 3)),
}
"""Types in which the values of a column may be stored as well."""


def parquet_of(random: Random, case: Case, columns: dict[str, list[Any]]) -> bytes:
    """Write Parquet, with columns of other types of the same meaning."""
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        clean = [None if isinstance(v, mutate.Raw) or (isinstance(v, int) and abs(v) > 2**64) else v for v in values]
        try:
            arrays[name] = pa.array(
                [v or None for v in clean] if {} in clean else clean
            )  # Parquet has no empty objects
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            arrays[name] = pa.array([str(v).encode("utf-8", "replace").decode() for v in clean])
    if case.mutation == "none":
        name = random.choice(list(columns))
        kind = type(columns[name][0])
        type_ = random.choice(TYPES[kind])
        try:
            arrays[name] = arrays[name].cast(type_)
        except (pa.ArrowException, ValueError):
            arrays[name] = pa.array(columns[name], type_)
        case.mutation = f"{name} is {type_}"
        if type_ == pa.string() and kind is float:
            case.promise = "told"
    sink = pa.BufferOutputStream()
    table = pa.table(arrays)
    pq.write_table(
        table, sink, row_group_size=random.choice((1, 5, 100)), compression=random.choice(("snappy", "zstd", "none"))
    )
    return bytes(sink.getvalue())


def any_table(random: Random, folder: Path, kind: str, command: str) -> Case:
    """A list of pictures, or predictions, as a table in a file."""
    case = inputs.base(folder)
    case.door = f"{command} .{kind}"
    spoil = random.random() < 0.2
    table = table_of(random if not spoil else Random(0), case, scores=command == "import")
    if spoil:
        case.mutation = "x"
    content = {
        "csv": lambda: csv_of(random, case, table, tabs=False),
        "tsv": lambda: csv_of(random, case, table, tabs=True),
        "json": lambda: json_of(random, case, table, lines=False),
        "jsonl": lambda: json_of(random, case, table, lines=True),
        "parquet": lambda: parquet_of(random, case, table),
    }[kind]()
    inputs.write(case, random, f"list.{kind}", content, spoil)
    return inputs.infer(case, f"list.{kind}") if command == "infer" else inputs.import_(case, f"list.{kind}")


def text_list(random: Random, folder: Path) -> Case:
    """A list of pictures as text: a path and a label on each line."""
    case = inputs.base(folder)
    case.door = "infer .txt"
    lines = [f"{path} {label}" for path, label in zip(PATHS, LABELS, strict=True)]
    i, way = random.randrange(ROWS), random.randrange(4)
    if way == 0:
        hostile = str(random.choice(HOSTILE_PATHS)).encode("utf-8", "replace").decode()
        lines[i], case.mutation, case.promise = f"{hostile} {LABELS[i]}", f"path {short(hostile)}", "told"
        case.changed = {PATHS[i][:3], str(i)}
    elif way == 1:
        hostile = str(random.choice(HOSTILE)).encode("utf-8", "replace").decode()
        lines[i], case.mutation, case.promise = f"{PATHS[i]} {hostile}", f"label {short(hostile)}", "told"
        case.changed = {PATHS[i][:3], str(i)}
    ends = random.choice(("\n", "\r\n", "\n\n"))
    encoding = random.choice(("utf-8", "utf-8-sig")) if way == 2 else "utf-8"
    inputs.write(case, random, "list.txt", ends.join(lines).encode(encoding), way == 3)
    return inputs.infer(case, "list.txt")


DOORS: dict[str, inputs.Door] = {
    **{
        f"infer {kind}": functools.partial(any_table, kind=kind, command="infer")
        for kind in ("csv", "tsv", "jsonl", "parquet")
    },
    **{
        f"import {kind}": functools.partial(any_table, kind=kind, command="import")
        for kind in ("csv", "json", "jsonl", "parquet")
    },
    "infer txt": text_list,
}
