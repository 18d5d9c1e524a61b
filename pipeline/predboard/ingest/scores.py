"""What other programs saved: arrays and tables -> scores in blocks, and what else they say of each row.

Finds out which array or column holds what. Knows no run, no picture and not what a score means.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard import config
from predboard.errors import InputError, first_line
from predboard.images.sources import IMAGE_COLUMNS, LABEL_COLUMNS
from predboard.ingest import array_files, table_files
from predboard.predictions.table import as_numpy

ScoreArray = NDArray[np.floating[Any]]

_OF_KIND: dict[config.ScoreKind, tuple[str, ...]] = {
    "logits": ("logits", "logit"),
    "probabilities": ("probabilities", "probability", "probs", "prob", "proba", "pred_probs", "softmax", "confidences"),
    "log_probabilities": ("log_probabilities", "log_probs", "log_prob", "logprobs", "log_softmax"),
}
_SCORES = ("scores", "score", "predictions", "preds", "pred", "outputs", "output", "y_score", "y_prob", "y_pred")
_TRUE = ("true_label", "true_class", "true", "truth", "y_true", "ground_truth", "gt_label", "gt", "labels", "targets")
LABEL_COLUMN_NAMES = (*_TRUE, *LABEL_COLUMNS)
IMAGE_COLUMN_NAMES = (
    *IMAGE_COLUMNS,
    "images",
    "paths",
    "files",
    "filenames",
    "file_names",
    "image_paths",
    "img_path",
    "names",
)
"""Names that are taken for scores, label and image where none is named, the first that is there and fits."""

_BLOCK = 2**20
"""Scores in one block: 4 MB of float32."""


@dataclass(frozen=True)
class ColumnRequest:
    """Which arrays or columns hold what; None for the usual names."""

    kind: config.ScoreKind
    score: str | None = None
    label: str | None = None
    image: str | None = None
    classes: tuple[str, ...] = ()
    """Names of the classes, which may be names of columns."""


@dataclass(frozen=True)
class SavedScores:
    """Rows that another program saved, in their order."""

    rows: int
    classes: int
    names: tuple[str, ...]
    """Of the classes, where the columns have them; else empty."""
    used: tuple[str, ...]
    """Arrays or columns that the scores come from."""
    blocks: Callable[[], Iterator[ScoreArray]]
    """The scores from the start, [some rows, classes] at a time, nan where there is none."""
    columns: pa.Table
    """[rows] everything else that has one plain value for each row."""
    label: str | None
    image: str | None
    """Of these columns."""

    def ordered(self, classes: tuple[str, ...]) -> "SavedScores":
        """The same rows with their scores in the order of these classes, where the columns have their names."""
        if not self.names or self.names == classes:
            return self
        order = np.array([self.names.index(name) for name in classes], np.intp)

        def blocks() -> Iterator[ScoreArray]:
            for block in self.blocks():
                yield block[:, order]

        used = tuple(self.used[i] for i in order)
        return replace(self, names=classes, used=used, blocks=blocks)


def open_saved(files: Sequence[Path], asked: ColumnRequest) -> SavedScores:
    """The rows of these files, one after the other, as if they were one.

    Raises InputError if a file is missing, is of an unknown kind or cannot be read, if it is not clear which of its
    arrays or columns hold the scores, or if the files or their arrays do not fit each other.
    """
    parts = [_open(file, asked) for file in files]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        for what, here, there in (
            ("classes", part.classes, first.classes),
            ("names of classes", part.names, first.names),
            ("columns", part.columns.column_names, first.columns.column_names),
        ):
            if here != there:
                raise InputError(
                    f"{file.name} has other {what} than {files[0].name}: {abbreviate(here)}, {abbreviate(there)}"
                )
    if len(parts) == 1:
        return first
    try:
        columns = pa.concat_tables([part.columns for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"the columns of {files[0].name} and the others differ: {first_line(error)}") from error

    def blocks() -> Iterator[ScoreArray]:
        for part in parts:
            yield from part.blocks()

    return replace(first, rows=sum(part.rows for part in parts), blocks=blocks, columns=columns.combine_chunks())


def read_columns(file: Path) -> pa.Table:
    """All columns of a file that have one plain value for each row: labels or names that are kept apart."""
    with table_files.one_line_errors(file):
        if file.suffix.lower() in array_files.ARRAY_SUFFIXES:
            return _columns(array_files.read_arrays(file))
        table = table_files.open_table(file)
        return table.read([name for name in table.names if table_files.is_plain(table.types[name])])


def find_column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], file: Path | str, flag: str
) -> str | None:
    """The name that was asked for, or the first usual one that is there. Raises InputError if it is not there."""
    if asked is not None and asked not in names:
        raise InputError(f"{file} has no {asked!r}; it has {abbreviate(names)}: see {flag}")
    lower = {name.lower(): name for name in reversed(names)}
    return asked if asked is not None else next((lower[name] for name in usual if name in lower), None)


def abbreviate(what: Any) -> str:
    """Names, or a number, for a message."""
    if isinstance(what, int):
        return f"{what:,}"
    shown = ", ".join(name or "one array" for name in what[:12])
    return shown + ("…" if len(what) > 12 else "") if shown else "none"


def _open(file: Path, asked: ColumnRequest) -> SavedScores:
    with table_files.one_line_errors(file):
        if file.suffix.lower() in array_files.ARRAY_SUFFIXES:
            return _from_arrays(file, array_files.read_arrays(file), asked)
        return _from_table(file, table_files.open_table(file), asked)


def _usual(asked: ColumnRequest) -> tuple[str, ...]:
    others = (name for kind, names in _OF_KIND.items() if kind != asked.kind for name in names)
    return (*_OF_KIND[asked.kind], *_SCORES, *others)


# --- arrays ---


def _from_arrays(file: Path, found: dict[str, NDArray[Any]], asked: ColumnRequest) -> SavedScores:
    wide = [name for name, array in found.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    name = find_column(list(found), asked.score, (), file, "--score-column")
    if name is None:
        name = find_column(wide, None, _usual(asked), file, "")
    if name is None and len(found) == 1:
        (name,) = found
    floats = [n for n in wide if found[n].dtype.kind == "f" and found[n].shape[1] > 1]
    if name is None and len(floats) == 1:
        (name,) = floats
    if name is None:
        raise InputError(f"{file} has {abbreviate(list(found))}; which are the scores? Name them by --score-column")
    scores = found[name]
    if scores.ndim != 2 or scores.dtype.kind not in "fiu" or not scores.shape[1]:
        shape = "×".join(map(str, scores.shape))
        raise InputError(
            f"{file} has {scores.dtype} of shape {shape or 'one value'} in {name or 'its array'}; expected numbers of "
            "[rows, classes], for two classes as well"
        )
    rows, classes = scores.shape
    others = {k: a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for k, a in found.items() if k != name}
    label = find_column(list(others), asked.label, LABEL_COLUMN_NAMES, file, "--label-column")
    text = [k for k, array in others.items() if array.ndim == 1 and array.dtype.kind in "US"]
    image = find_column(list(others) if asked.image else text, asked.image, IMAGE_COLUMN_NAMES, file, "--image-column")
    for k in (label, image):
        if k is not None and others[k].shape != (rows,):
            shape = "×".join(map(str, others[k].shape))
            raise InputError(
                f"{file} has {rows:,} rows of scores and {k!r} of shape {shape}; expected one for each row"
            )
    columns = _columns({k: a for k, a in others.items() if a.shape == (rows,)}, rows)

    def blocks() -> Iterator[ScoreArray]:
        step = max(1, _BLOCK // classes)
        for start in range(0, rows, step):
            # Mapped anew each time, so that pages that were read are not kept.
            array = array_files.read_arrays(file)[""] if isinstance(scores, np.memmap) else scores
            block = np.array(array[start : start + step])
            yield block if block.dtype.kind == "f" else block.astype(np.float64)

    return SavedScores(rows, classes, (), (name,), blocks, columns, label, image)


def _columns(given: Mapping[str, NDArray[Any]], rows: int | None = None) -> pa.Table:
    """The one-dimensional arrays as a table."""
    found = {}
    for name, array in given.items():
        flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        if flat.ndim == 1 and flat.dtype.kind == "S":
            found[name] = pa.array([value.decode("utf-8", "replace") for value in flat.tolist()], pa.string())
        elif flat.ndim == 1 and flat.dtype.kind in "Ubiuf":
            found[name] = pa.array(flat.tolist() if flat.dtype.kind == "U" else np.ascontiguousarray(flat))
    if rows is None and len({len(column) for column in found.values()}) > 1:
        raise InputError(f"{abbreviate(list(found))} are of different lengths; expected one value for each row")
    return pa.table(found)


# --- tables ---


@dataclass(frozen=True)
class _Layout:
    """Columns of a vector: one of lists, or one for each place of it."""

    columns: tuple[str, ...]
    names: tuple[str, ...] = ()

    def matrix(self, batch: pa.RecordBatch, width: int | None, at: int, file: Path) -> ScoreArray:
        """[rows, width] numbers of a batch that starts at row `at`."""
        if len(self.columns) > 1:
            columns = [_numbers(batch.column(name)) for name in self.columns]
            return np.stack(columns, axis=1)
        found = batch.column(self.columns[0])
        if isinstance(found, pa.ExtensionArray):
            found = found.storage
        if not table_files.is_list(found.type):
            found = pa.array([_parsed(text, at + i, file) for i, text in enumerate(found.to_pylist())], _DOUBLES)
        lengths = as_numpy(pc.list_value_length(found), -1)
        wanted = width if width is not None else int(lengths.max(initial=0))
        if (wrong := (lengths >= 0) & (lengths != wanted)).any():
            row = int(wrong.argmax())
            raise InputError(
                f"{file} has {lengths[row]} numbers in {self.columns[0]!r} of row {at + row}, and {wanted} in others; "
                "expected one for each class"
            )
        flat = _numbers(found.flatten())
        full = np.full((len(found), wanted), np.nan, flat.dtype)
        full[lengths >= 0] = flat.reshape(-1, wanted)
        return full


_DOUBLES = pa.list_(pa.float64())


def _numbers(found: pa.Array) -> ScoreArray:
    if not pa.types.is_floating(found.type):
        found = found.cast(pa.float64())
    return as_numpy(found, np.nan)


def _parsed(text: str | None, row: int, file: Path) -> list[float] | None:
    """Numbers of a printed list or array."""
    if text is None:
        return None
    try:
        return [float(word) for word in re.sub(r"[][(),]", " ", text).split()]
    except ValueError as error:
        raise InputError(f"{file} has no list of numbers in row {row}: {first_line(error)}") from error


def _from_table(file: Path, table: table_files.TableFile, asked: ColumnRequest) -> SavedScores:
    if table.first is None:
        raise InputError(f"{file} holds no rows")
    layout = _score_columns(file, table, asked)
    places = _places(file, table, layout)
    text = pa.string() if table.printed(layout.columns[0]) else pa.float64()
    index_text = pa.string() if places and table.printed(places.columns[0]) else pa.int64()
    rest = [
        name
        for name in table.names
        if table_files.is_plain(table.types[name])
        and name not in (*layout.columns, *(places.columns if places else ()))
        and name
        and not table.printed(name)
    ]
    columns = table.read(rest) if rest else pa.table({})
    label = find_column(rest, asked.label, LABEL_COLUMN_NAMES, file, "--label-column")
    strings = [name for name in rest if pa.types.is_string(table.types[name]) or table.types[name] == pa.large_string()]
    image = find_column(rest if asked.image else strings, asked.image, IMAGE_COLUMN_NAMES, file, "--image-column")
    with contextlib.closing(table.batches(layout.columns[:1], text)) as batches:
        start = next(batch for batch in batches if len(batch))
        width = len(layout.columns) if len(layout.columns) > 1 else layout.matrix(start, None, 0, file).shape[1]
        rows = len(columns) if rest else len(start) + sum(map(len, batches))

    def blocks() -> Iterator[ScoreArray]:
        at = 0
        paired = table.batches(places.columns, index_text) if places else None
        for batch in table.batches(layout.columns, text):
            scores = layout.matrix(batch, width, at, file)
            if places is not None and paired is not None:
                index = places.matrix(next(paired), width, at, file)
                scores = _put_back(scores, index, at, file)
            at += len(batch)
            yield scores

    return SavedScores(rows, width, layout.names, layout.columns, blocks, columns, label, image)


def _score_columns(file: Path, table: table_files.TableFile, asked: ColumnRequest) -> _Layout:
    vectors = [name for name in table.names if table_files.is_list(table.types[name]) or table.printed(name)]
    numbers = [name for name in table.names if table_files.is_number(table.types[name])]
    if asked.score is not None and asked.score not in table.names and re.search(r"[*,]", asked.score):
        return _named_columns(file, table, asked.score, numbers)
    if asked.score is not None:
        name = find_column(table.names, asked.score, (), file, "--score-column")
        if name not in vectors:
            raise InputError(
                f"{file} has one {table.types[str(name)]} in each row of {name!r}; expected a list of numbers, or a "
                f"pattern such as {name}_* for one column of each class"
            )
        return _Layout((str(name),))
    if name := find_column(vectors, None, _usual(asked), file, ""):
        return _Layout((name,))
    for usual in _usual(asked):
        named = usual in (*_OF_KIND[asked.kind], "score", "scores")  # pred_label and pred_score are no two classes
        end = r"[_.\- ](.+)|(\d+)" if named else r"[_.\- ]?(\d+)()"
        if found := _with_ends(numbers, re.compile(f"{usual}(?:{end})", re.IGNORECASE)):
            return found
    if len(asked.classes) > 1 and all(name in numbers for name in asked.classes):
        return _Layout(asked.classes, asked.classes)
    if found := _with_ends([n for n in numbers if n.isdigit()], re.compile(r"(\d+)()")):
        return found
    lists = [name for name in vectors if pa.types.is_floating(getattr(table.types[name], "value_type", pa.null()))]
    if len(lists) == 1:
        return _Layout((lists[0],))
    if name := find_column(numbers, None, (*_OF_KIND[asked.kind], "prob", "logit", "confidence"), file, ""):
        raise _only_highest(file, f"one number of each row in {name!r}")
    raise InputError(f"{file} has {abbreviate(table.names)}; which are the scores? Name them by --score-column")


def _named_columns(file: Path, table: table_files.TableFile, asked: str, numbers: Sequence[str]) -> _Layout:
    """`prob_*`, or the columns themselves with commas between them."""
    if "*" not in asked:
        names = tuple(name.strip() for name in asked.split(","))
        for name in names:
            find_column(numbers, name, (), file, "--score-column")
        return _Layout(names, names)
    before, _, after = asked.partition("*")
    found = _with_ends(numbers, re.compile(f"{re.escape(before)}(.+){re.escape(after)}()"))
    if found is None:
        raise InputError(
            f"{file} has no two columns of numbers like {asked!r}; it has {abbreviate(table.names)}: see --score-column"
        )
    return found


def _with_ends(names: Sequence[str], pattern: re.Pattern[str]) -> _Layout | None:
    """The columns that fit, by their number if they are numbered from 0 or 1, and the rest of their names."""
    ends = {name: m[1] or m[2] for name in names if (m := pattern.fullmatch(name))}
    if len(ends) < 2:
        return None
    if all(end.isdigit() for end in ends.values()):
        ordered = sorted(ends, key=lambda name: int(ends[name]))
        first = int(ends[ordered[0]])
        if first <= 1 and [int(ends[name]) for name in ordered] == list(range(first, first + len(ordered))):
            return _Layout(tuple(ordered))
    return _Layout(tuple(ends), tuple(ends.values()))


# --- lists of the highest scores, as timm's inference.py writes them ---


def _only_highest(file: Path, what: str) -> InputError:
    return InputError(
        f"{file} holds only {what}; loss, calibration and curves need the scores of all classes: save all of them "
        "(timm: --topk 0)"
    )


def _places(file: Path, table: table_files.TableFile, layout: _Layout) -> _Layout | None:
    """Columns that say which class each score of a row belongs to; None if they are in the order of the classes."""
    for name in ("index", "indices"):
        listed = table_files.is_list(table.types.get(name, pa.null())) or table.printed(name)
        places = _Layout((name,)) if listed else _with_ends(table.names, re.compile(rf"{name}_(\d+)()"))
        if places is not None and len(places.columns) == len(layout.columns):
            return places
    words = [name for name in table.names if re.fullmatch(r"label(_[01])?", name)]
    first = table.types.get("label", pa.null())
    if len(words) > 1 or (words == ["label"] and (pa.types.is_nested(first) or table.printed("label"))):
        raise InputError(
            f"{file} lists the highest scores of each row by names of classes; expected all scores in the order of the "
            "classes, or their indices as well (timm: --topk 0, or --include-index)"
        )
    return None


def _put_back(scores: ScoreArray, index: ScoreArray, at: int, file: Path) -> ScoreArray:
    """Scores in the order of the classes. Raises InputError if a row does not hold each class once."""
    width = scores.shape[1]
    if (wrong := (np.sort(index, axis=1) != np.arange(width)).any(axis=1)).any():
        raise _only_highest(file, f"the {width} highest scores of row {at + int(wrong.argmax())}")
    ordered = np.empty_like(scores)
    np.put_along_axis(ordered, index.astype(np.int64), scores, axis=1)
    return ordered
