"""Read what other programs saved: scores in blocks, and every other column that has one value in each row.

It knows no run and no pictures, and not what a score means. Which column holds what is decided in `columns`.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard.errors import InputError, first_line
from predboard.images.text_tables import UNNAMED
from predboard.ingest import array_files, columns, confidences, label_set_columns, table_files
from predboard.ingest.columns import (
    ColumnRequest,
    ColumnTypes,
    ScoreColumns,
    abbreviate,
    is_image_name,
    match_columns,
    only_highest,
)
from predboard.ingest.saved_scores import SavedScores, fitting_columns, flat_array, flat_columns
from predboard.ingest.table_files import TableFile
from predboard.ingest.validation import ScoreArray
from predboard.predictions.arrow import as_numpy

_BLOCK_SCORES = 2**20
"""Scores in one block: 4 MB of float32."""

_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)

_DOUBLES = pa.list_(pa.float64())


def open_saved(files: Sequence[Path], request: ColumnRequest) -> SavedScores:
    """Return the rows of these files, one after the other, as if they were one file.

    Raises:
        InputError: if a file is missing, of an unknown kind or cannot be read; if it is not clear which of its arrays
            or columns hold the scores; or if the files or their arrays do not fit each other.
    """
    opened = [_open(file, request) for file in files]
    first = opened[0]
    for file, other in zip(files, opened, strict=True):
        for what, theirs, ours in (
            ("classes", other.classes, first.classes),
            ("class names", other.names, first.names),
            ("columns", other.columns.column_names, first.columns.column_names),
            ("label columns", _label_columns(other), _label_columns(first)),
        ):
            if theirs != ours:
                raise InputError(
                    f"{file.name} and {files[0].name} have different {what}: {abbreviate(theirs)} and "
                    f"{abbreviate(ours)}; expected the same, or a --step for each file"
                )
    if len(opened) == 1:
        return first
    try:
        tables = [
            pa.concat_tables(tables, promote_options="permissive").combine_chunks()
            for tables in ([saved.columns for saved in opened], [saved.written for saved in opened])
        ]
    except pa.ArrowException as error:
        raise InputError(f"the columns of {files[0].name} and the others differ: {first_line(error)}") from error

    def blocks() -> Iterator[ScoreArray]:
        for saved in opened:
            yield from saved.blocks()

    rows = sum(saved.rows for saved in opened)
    sets = first.label_sets
    if sets is not None:
        sets = sets.extended([saved.label_sets for saved in opened[1:] if saved.label_sets is not None])
    return replace(first, rows=rows, blocks=blocks, columns=tables[0], written=tables[1], label_sets=sets)


def _label_columns(saved: SavedScores) -> tuple[str, ...]:
    return () if saved.label_sets is None else saved.label_sets.columns.columns


def read_columns(file: Path, max_read_gb: float) -> pa.Table:
    """Read all columns of a file, or all flat arrays: labels or names in a file of their own."""
    table_files.check_kind(file)
    if file.suffix.lower() in array_files.ARRAY_SUFFIXES:
        return flat_columns(array_files.read_arrays(file, max_read_gb))
    table = table_files.open_table(file, max_read_gb)
    return table.read_as_written(table.names)


def _open(file: Path, request: ColumnRequest) -> SavedScores:
    table_files.check_kind(file)
    if request.kind == "confidence":
        return confidences.open_confidences(file, request)
    if file.suffix.lower() in array_files.ARRAY_SUFFIXES:
        return _from_arrays(file, array_files.read_arrays(file, request.max_read_gb), request)
    return _from_table(file, table_files.open_table(file, request.max_read_gb), request)


# --- arrays ---


def _from_arrays(file: Path, arrays: dict[str, NDArray[Any]], request: ColumnRequest) -> SavedScores:
    name = columns.choose_score_array(arrays, request, file)
    scores = arrays[name]
    is_flat = scores.ndim == 1 and scores.dtype.kind == "f" and request.label_sets is None
    if not is_flat and (scores.ndim != 2 or scores.dtype.kind not in "fiu" or not scores.shape[1]):
        raise InputError(
            f"{name or 'the array'} of {file} is {scores.dtype} of shape {_shape(scores)}; expected numbers of shape "
            "[rows, classes], or [rows] of one of two classes"
        )
    rows, width = (*scores.shape, 1)[:2]
    is_single = width == 1 and request.label_sets is None
    classes = 2 if is_single else width
    others = {other: flat_array(array) for other, array in arrays.items() if other != name}
    one_hot = {
        other: index for other, array in others.items() if (index := _one_hot(array, (rows, classes))) is not None
    }
    in_rows = {other: array for other, array in others.items() if array.shape == (rows,)}
    texts = [other for other, array in others.items() if array.ndim == 1 and array.dtype.kind in "US"]
    names = _class_names(others, classes)
    sets = label = None
    if request.label_sets is not None:
        known, needed = request.classes or names, request.needs_label
        sets = label_set_columns.find_in_arrays(file, others, rows, request.label_sets, known, needed)
        in_rows = {
            other: array for other, array in in_rows.items() if sets is None or other not in sets.columns.columns
        }
    else:
        discrete = [other for other, array in in_rows.items() if array.dtype.kind in "iubUS"] + list(one_hot)
        label = columns.choose_label(list(others), discrete, request, file)
    kinds = {other: f"{array.dtype} in each row" for other, array in in_rows.items() if other not in (*texts, label)}
    image = columns.choose_image(list(others), texts, kinds, request, file)
    for chosen in (label, image):
        if chosen is not None and others[chosen].shape != (rows,) and chosen not in one_hot:
            raise InputError(
                f"{file} has {rows:,} rows of scores, but {chosen!r} has shape {_shape(others[chosen])}; expected one "
                "value per row"
            )

    def blocks() -> Iterator[ScoreArray]:
        step = max(1, _BLOCK_SCORES // width)
        for start in range(0, rows, step):
            # Mapped anew each time, so that pages that were read do not stay in memory.
            array = array_files.read_arrays(file)[""] if isinstance(scores, np.memmap) else scores
            block = np.array(array[start : start + step]).reshape(-1, width)
            yield block if block.dtype.kind == "f" else block.astype(np.float64)

    table = flat_columns(in_rows, rows)
    if label is None and request.label_sets is None:
        fitting = fitting_columns(table, names, classes, image)
        columns.refuse_unread_labels(list(in_rows), fitting, request, file)
    of_rows = dict(zip(table.column_names, table.columns, strict=True)) | one_hot  # lists: a place is no name
    for chosen in (label, image):
        if chosen is not None and chosen not in of_rows:
            raise InputError(
                f"{chosen!r} of {file} is {others[chosen].dtype}; expected class names, indices or paths of images"
            )
    written = pa.table({n: of_rows[n] for n in dict.fromkeys((label, image, request.key)) if n in of_rows})
    return SavedScores(
        rows, classes, names, (name,), blocks, table, label, image, written,
        label_sets=sets, is_single=is_single, is_flat=is_flat,
    )  # fmt: skip


def _class_names(arrays: Mapping[str, NDArray[Any]], classes: int) -> tuple[str, ...]:
    """Return the names of the classes where an array of text has one for each; () if none has."""
    for name in table_files.CLASS_NAME_ARRAYS:
        if name in arrays and arrays[name].shape == (classes,) and arrays[name].dtype.kind in "US":
            names = tuple(str(value) for value in flat_columns({name: arrays[name]}).column(name).to_pylist())
            return names if len(set(names)) == classes else ()
    return ()


def _one_hot(array: NDArray[Any], shape: tuple[int, ...]) -> pa.Array | None:
    """Return one-hot labels as lists, [rows]; None if they are not one-hot."""
    if array.shape != shape or array.dtype.kind not in "iubf":
        return None
    ones = array == 1
    if not ((ones | (array == 0)).all() and (ones.sum(axis=1) == 1).all()):
        return None
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(ones).astype(np.int8)), shape[1])


def _shape(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape)) or "a single value"


# --- tables ---


def _from_table(file: Path, table: TableFile, request: ColumnRequest) -> SavedScores:
    if table.first is None:
        raise InputError(f"{file} holds no rows")
    _refuse_text(file, table, request)
    score_columns = columns.choose_score_columns(_types(table), request, file)
    index_columns = _index_columns(file, table, score_columns)
    read = {*score_columns.columns, *score_columns.left_out, *(index_columns.columns if index_columns else ())}
    if index_columns and _names_of_ranked(table):
        read.add("label")
    free = [name for name in table.names if name not in read and not name.startswith(UNNAMED)]
    rest = [name for name in free if table_files.is_plain(table.types[name]) and not table.is_printed(name)]
    image = _choose_image(file, table, free, request)
    not_image = [name for name in free if name != image]
    names = score_columns.names or table.class_names
    sets = label = None
    if request.label_sets is not None:
        known, needed = request.classes or names, request.needs_label
        sets = label_set_columns.find_in_table(file, table, not_image, request.label_sets, known, needed)
        rest = [name for name in rest if sets is None or name not in sets.columns.columns]
    else:
        discrete = [name for name in not_image if table_files.is_discrete(table.types[name])]
        label = columns.choose_label(not_image, discrete, request, file)
    others = table.read(rest) if rest else pa.table({})
    type_ = pa.string() if table.is_printed(score_columns.columns[0]) else pa.float64()
    with contextlib.closing(table.batches(score_columns.columns[:1], type_)) as batches:
        start = next(batch for batch in batches if len(batch))
        single = len(score_columns.columns) == 1
        width = _matrix(score_columns, start, None, 0, file).shape[1] if single else len(score_columns.columns)
        is_single = width == 1 and request.label_sets is None
        classes = 2 if is_single else width
        if names and not len(set(names)) == len(names) == classes:
            raise InputError(f"{file} names {abbreviate(names)} as its classes; expected {classes} names, each once")
        rows = len(others) if rest else len(start) + sum(map(len, batches))

    def blocks() -> Iterator[ScoreArray]:
        at = 0
        indices = _index_batches(table, index_columns)
        for batch in table.batches(score_columns.columns, type_):
            scores = _matrix(score_columns, batch, width, at, file)
            if index_columns is not None:
                scores = _in_class_order(scores, _matrix(index_columns, next(indices), width, at, file), at, file)
            at += len(batch)
            yield scores

    if label is None and request.label_sets is None:
        fitting = fitting_columns(others, names, classes, image)
        columns.refuse_unread_labels(not_image, fitting, request, file)
    chosen = [name for name in dict.fromkeys((label, image, request.key)) if name in free]
    written = table.read_as_written(chosen) if chosen else pa.table({})
    if image is not None and table.holds_pictures(image):
        refs = pa.array(f"{file.name}#{row}{table.picture_ref(image)}" for row in range(rows))
        written = written.set_column(chosen.index(image), image, refs)
    return SavedScores(
        rows,
        classes,
        names,
        score_columns.columns,
        blocks,
        others,
        label,
        image,
        written,
        left_out=score_columns.left_out,
        label_sets=sets,
        is_single=is_single,
        is_flat=score_columns.is_flat,
    )


def _refuse_text(file: Path, table: TableFile, request: ColumnRequest) -> None:
    """Raise InputError if a column that is named like scores has text, where it has numbers too or no other has any."""
    named = [name for name in table.names if columns.is_score_name(name, request) and not table.is_printed(name)]
    texts = [name for name in named if table_files.is_text(table.types[name])]
    for name in texts:
        cells = [str(cell or "") for cell in table.read_as_written([name]).column(0).to_pylist()]
        is_text = [bool(cell) and not _NUMBER.fullmatch(cell.strip()) for cell in cells]
        if len(texts) == len(named) or not all(is_text):
            row = is_text.index(True) if True in is_text else 0
            raise InputError(f"column {name!r} of {file} has {cells[row][:40]!r} in row {row}; expected numbers")


def _choose_image(file: Path, table: TableFile, free: Sequence[str], request: ColumnRequest) -> str | None:
    """Return the column of the image's path, or of the encoded image; None if there is none."""
    in_bytes = [name for name in free if table_files.is_bytes(table.types[name])]
    for struct in table.structs:
        pictures = f"{struct}.bytes"
        if request.image is None and request.needs_image and pictures in in_bytes and is_image_name(struct):
            return pictures
    usable = [name for name in free if table.may_be_text(name) and not table.is_printed(name)]
    usable += in_bytes if request.needs_image else []
    kinds = {name: str(table.types[name]) for name in free if name not in usable}
    kinds |= {name: "a struct" for name in table.structs if not any(n.startswith(f"{name}.") for n in usable)}
    kinds = {name: kind for name, kind in kinds.items() if kind != "null"}
    return columns.choose_image(free, usable, kinds, request, file)


def _types(table: TableFile) -> ColumnTypes:
    lists = [name for name in table.names if table_files.is_list(table.types[name])]
    return ColumnTypes(
        all=tuple(table.names),
        vectors=tuple(name for name in table.names if name in lists or table.is_printed(name)),
        float_lists=tuple(name for name in lists if pa.types.is_floating(table.types[name].value_type)),
        numbers=tuple(name for name in table.names if table_files.is_number(table.types[name])),
        floats=tuple(name for name in table.names if pa.types.is_floating(table.types[name])),
        ranked=table.ranked,
    )


def _matrix(vector: ScoreColumns, batch: pa.RecordBatch, width: int | None, at: int, file: Path) -> ScoreArray:
    """Return the numbers of a batch, [rows, width]. Its first row is row `at` of the file; None takes any width."""
    if len(vector.columns) > 1:
        return np.stack([_numbers(batch.column(name)) for name in vector.columns], axis=1)
    (name,) = vector.columns
    lists = batch.column(name)
    if vector.is_flat:
        return _numbers(lists)[:, None]
    if isinstance(lists, pa.ExtensionArray):
        lists = lists.storage
    if not table_files.is_list(lists.type):
        lists = pa.array([_parse_printed(text, at + i, file) for i, text in enumerate(lists.to_pylist())], _DOUBLES)
    lengths = as_numpy(pc.list_value_length(lists), -1)
    wanted = width if width is not None else int(lengths.max(initial=0))
    if (wrong := (lengths >= 0) & (lengths != wanted)).any():
        row = int(wrong.argmax())
        raise InputError(
            f"{name!r} of {file} has {lengths[row]} numbers in row {at + row} and {wanted} in others; expected one per "
            "class"
        )
    if not wanted and (lengths == 0).any():
        raise InputError(f"{name!r} of {file} has empty lists; expected one number per class")
    flat = _numbers(lists.flatten())
    full = np.full((len(lists), wanted), np.nan, flat.dtype)
    full[lengths >= 0] = flat.reshape(int((lengths >= 0).sum()), wanted)
    return full


def _numbers(array: pa.Array) -> ScoreArray:
    if not pa.types.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)  # integers above 2**53 are rounded
    return as_numpy(array, np.nan)


def _parse_printed(text: str | None, row: int, file: Path) -> list[float] | None:
    """Return the numbers of a list or array that was printed as text, as CSV files of NumPy arrays have them."""
    if text is None:
        return None
    try:
        return [float(word) for word in re.sub(r"[][(),]", " ", text).split()]
    except ValueError as error:
        raise InputError(f"row {row} of {file} has no list of numbers: {first_line(error)}") from error


# --- lists of the highest scores, as timm's inference.py writes them ---


def _index_columns(file: Path, table: TableFile, score_columns: ScoreColumns) -> ScoreColumns | None:
    """Return the columns that give the class of each score, None if the scores are in the order of the classes.

    Raises InputError if the classes are given by name.
    """
    for name in ("index", "indices"):
        is_vector = table_files.is_list(table.types.get(name, pa.null())) or table.is_printed(name)
        index_columns = (
            ScoreColumns((name,)) if is_vector else match_columns(table.names, re.compile(rf"{name}_(\d+)()"))
        )
        if index_columns is not None and len(index_columns.columns) == len(score_columns.columns):
            return index_columns
    names = [
        name
        for name in table.names
        if re.fullmatch(r"label(_[01])?", name) and (name == "label" or table_files.is_text(table.types[name]))
    ]
    if len(names) > 1 or (names == ["label"] and _names_of_ranked(table)):
        raise InputError(
            f"{file} lists the highest scores of each row by class name; expected all scores in the order of the "
            "classes, or their indices as well (timm: --topk 0, or --include-index)"
        )
    return None


def _names_of_ranked(table: TableFile) -> bool:
    """Return whether the column `label` lists the names of the classes with the highest scores."""
    printed = str((table.first or {}).get("label")).lstrip()
    is_text = table_files.is_list_of_text(table.types.get("label", pa.null()))
    return is_text or bool(re.match(r"[\[(]\s*['\"]", printed))


def _index_batches(table: TableFile, index_columns: ScoreColumns | None) -> Iterator[pa.RecordBatch]:
    """Return the batches of the index columns, which are as long as those of the scores."""
    if index_columns is None:
        return iter(())
    printed = table.is_printed(index_columns.columns[0])
    return table.batches(index_columns.columns, pa.string() if printed else pa.int64())


def _in_class_order(scores: ScoreArray, index: ScoreArray, at: int, file: Path) -> ScoreArray:
    """Return the scores in the order of the classes. Raises InputError if a row does not hold each class once."""
    width = scores.shape[1]
    if (wrong := (np.sort(index, axis=1) != np.arange(width)).any(axis=1)).any():
        raise only_highest(file, f"the {width} highest scores of row {at + int(wrong.argmax())}")
    ordered = np.empty_like(scores)
    np.put_along_axis(ordered, index.astype(np.int64), scores, axis=1)
    return ordered
