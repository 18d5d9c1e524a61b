"""Fuzzed tables of predictions with several labels an image, in every form that `import` takes. It judges nothing."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz import inputs, tables
from tests.fuzz.harness import Case
from tests.fuzz.inputs import PATHS, ROWS
from tests.fuzz.mutate import HOSTILE, short

SETS = [[i for i in range(3) if row >> i & 1] for row in (1, 2, 4, 3, 5, 6, 7, 0, 1, 3, 2, 0)]
"""True labels of each row: none, one, two or all three."""
LOGITS = np.where(np.arange(3 * ROWS).reshape(ROWS, 3) % 5 < 2, 2.0, -2.0) + np.arange(ROWS)[:, None] / 64
PREDICTED = [np.flatnonzero(row > 0).tolist() for row in LOGITS]
TRUTH = {path[:3]: (frozenset(SETS[i]), frozenset(PREDICTED[i])) for i, path in enumerate(PATHS)}
NAMES = [["abc"[i] for i in labels] for labels in SETS]
BY_COLOUR = {path[:3]: (frozenset(SETS[i]), frozenset([inputs.PREDICTED[i]])) for i, path in enumerate(PATHS)}
"""What the model of `infer` predicts: the channel that is not black."""
FLAGS = ("--task", "multi-label")

Columns = dict[str, list[Any]]
Form = Callable[[Random], tuple[Columns, list[str]]]
"""Returns the columns of labels, and the flags that they need."""


def separated(random: Random) -> tuple[Columns, list[str]]:
    """Names or indices in one column, with what stands between them."""
    mark = random.choice(("|", ";", ",", "/", " ", " | ", "; "))
    shuffled = [random.sample(names, len(names)) for names in NAMES]
    if random.random() < 0.3:
        shuffled = [names + names[:1] for names in shuffled]
    if random.random() < 0.3:
        shuffled = [[str("abc".index(name)) for name in names] for names in shuffled]
    cells, flags = [mark.join(names) for names in shuffled], ["--label-separator", mark]
    if random.random() < 0.5:
        return {"labels": [cell or "nothing" for cell in cells]}, [*flags, "--none", "nothing"]
    return {"labels": cells}, [*flags, "--empty", "absent"]


def lists(random: Random) -> tuple[Columns, list[str]]:
    """Lists of names or of indices, or of truth values for each class."""
    values: tuple[Any, ...] = (NAMES, SETS, [[i in labels for i in range(3)] for labels in SETS])
    values += ([[int(i in labels) for i in range(3)] for labels in SETS],)
    return {random.choice(("labels", "targets", "y_true")): [list(row) for row in random.choice(values)]}, []


def wide(random: Random) -> tuple[Columns, list[str]]:
    """One column for each class, in any order and with any words for yes and no."""
    yes, no = random.choice(((1, 0), (1.0, 0.0), (True, False), ("1", "0"), ("yes", "no"), ("True", "False")))
    prefix = random.choice(("", "label_", "y_", "truth."))
    of_class = {f"{prefix}{'abc'[i]}": [yes if i in labels else no for labels in SETS] for i in range(3)}
    columns = dict(random.sample(list(of_class.items()), 3))
    if random.random() < 0.3:
        columns[f"{prefix}nothing"] = [no if labels else yes for labels in SETS]
        return columns, ["--none", "nothing", *(["--label-column", f"{prefix}*"] if prefix else [])]
    return columns, ["--label-column", f"{prefix}*"] if prefix not in ("", "label_") else []


def mutate_labels(random: Random, case: Case, columns: Columns, flags: list[str]) -> list[str]:
    """Change the labels by meaning. -> the flags."""
    i, name = random.randrange(ROWS), random.choice(list(columns))
    row, mutation = {PATHS[i][:3], str(i)}, random.randrange(8)
    if mutation == 0:
        columns[name][i] = hostile = random.choice(HOSTILE)
        case.mutation, case.promise, case.changed = f"{name} {i} = {short(hostile)}", "told", row
    elif mutation == 1 and isinstance(columns[name][i], str | list):
        text = isinstance(columns[name][i], str)
        columns[name][i] = random.choice(("b a", "aa", "A", "a,,b", "d", "a|d", "5", "-1")) if text else ["a", "d"]
        case.mutation, case.promise, case.changed = f"{name} {i} = {columns[name][i]!r}", "told", row
    elif mutation == 2:
        columns[name][i] = None
        case.mutation, case.promise, case.changed = f"no {name} in row {i}", "told", row
    elif mutation == 3 and len(columns) > 1:
        columns[name][i] = random.choice((-1, "-1", 2, 0.5, "", "u"))
        case.mutation, case.promise, case.changed = f"{name} {i} = {columns[name][i]!r}", "told", row
    elif mutation == 4:
        del columns[name]
        case.mutation, case.promise = f"without {name}", "told"
    elif mutation == 5 and "--label-separator" in flags:
        flags = [*FLAGS, *(["--none", "nothing"] if "--none" in flags else ["--empty", "absent"])]
        case.mutation, case.promise = "without a separator", "told"
    elif mutation == 6 and flags:
        lost = random.randrange(len(flags) // 2) * 2
        case.mutation, case.promise = f"without {flags[lost]}", "told"
        flags = flags[:lost] + flags[lost + 2 :]
    return flags


def label_table(random: Random, folder: Path, kind: str, command: str = "import") -> Case:
    """A list of pictures, or predictions, with several labels an image as a table in a file."""
    case = inputs.base(folder)
    case.truth = TRUTH if command == "import" else BY_COLOUR
    form = random.choice((separated, wide) if kind == "csv" else (separated, lists, wide))
    labels, flags = form(random)
    spoil = random.random() < 0.15
    if random.random() < 0.6 and not spoil:
        flags = mutate_labels(random, case, labels, flags)
    table: Columns = {"image": list(PATHS), **labels}
    if command == "import":
        table |= {f"logit_{name}": LOGITS[:, c].tolist() for c, name in enumerate("abc")}
    if form is wide and random.random() < 0.5:  # indices are places among the score columns
        table = dict(random.sample(list(table.items()), len(table)))
    if case.mutation == "none" and random.random() < 0.3:
        order = random.sample(range(ROWS), ROWS)
        table = {name: [values[k] for k in order] for name, values in table.items()}
        case.mutation = "rows in another order"
    spoil = spoil and case.mutation == "none"
    case.mutation = "x" if case.mutation == "none" else case.mutation  # how the file is written stays plain
    content = {
        "csv": lambda: tables.csv_of(random, case, table, tabs=False),
        "json": lambda: tables.json_of(random, case, table, lines=False),
        "jsonl": lambda: tables.json_of(random, case, table, lines=True),
        "parquet": lambda: tables.parquet_of(random, case, table),
        "npz": lambda: _npz(table),
    }[kind]()
    case.mutation = f"{form.__name__}: {'none' if case.mutation == 'x' else case.mutation}"
    inputs.write(case, random, f"list.{kind}", content, spoil)
    if command == "import":
        return inputs.import_(case, f"list.{kind}", *FLAGS, "--no-pictures", *flags)
    (case.folder / "names.txt").write_text("a\nb\nc")
    return inputs.infer(case, f"list.{kind}", *FLAGS, "--classes", str(case.folder / "names.txt"), *flags)


def _npz(table: Columns) -> bytes:
    """Write arrays: scores [rows, classes] and the columns of labels that NumPy can hold."""
    buffer = io.BytesIO()
    logits = np.array([table[f"logit_{name}"] for name in "abc"]).T
    arrays: dict[str, Any] = {"logits": logits, "class_names": np.array(list("abc"))}
    for name, values in table.items():
        if not name.startswith("logit_"):
            text = any(isinstance(value, str | list | dict | None) for value in values)
            same = len({len(value) if isinstance(value, list) else -1 for value in values}) == 1
            plain = not text or (same and isinstance(values[0], list) and not isinstance(values[0][0], str))
            arrays[name] = np.array(values) if plain else np.array([_text(value) for value in values])
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, list) else str(value)
    return text.encode("utf-8", "replace").decode()


DOORS: dict[str, inputs.Door] = {
    f"{command} label sets {kind}": functools.partial(label_table, kind=kind, command=command)
    for command, kinds in (
        ("import", ("csv", "json", "jsonl", "parquet", "npz")),
        ("infer", ("csv", "jsonl", "parquet")),
    )
    for kind in kinds
}
