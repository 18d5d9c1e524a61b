"""Reads the columns of a table of images: refs, labels, keys and others -> manifest. It knows nothing of files."""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.formatting import did_you_mean
from predboard.images.label_lists import LabelOptions, read_label_sets
from predboard.images.label_masks import choose_label_columns
from predboard.images.label_values import ParsedLabels, check_labels, describe_strange, parse_labels, respell
from predboard.images.manifest import (
    Manifest,
    SourceOptions,
    canonical_refs,
    image_suffixes,
    make_manifest,
)
from predboard.images.text_tables import UNNAMED
from predboard.images.unread_labels import NO_COLUMN, refuse_unread_list, refuse_unread_sets
from predboard.predictions.arrow import without_views
from predboard.predictions.label_sets import Labels, MultiLabels
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL, rename_reserved_columns
from predboard.storage.paths import AnyPath, join_ref

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "target", "category", "cls", "label_name", "class_name", "y")
"""Names by which the columns of images and labels are recognised if the user names none; the first one counts."""

TRUTH_COLUMNS = (
    *("true_label", "true_class", "true", "truth", "y_true"),
    *("ground_truth", "gt_label", "gt", "labels", "targets"),
    *("label_ids", "label_id", "class_id", "class_ids", "y_test", "y_val", "y_valid", "gold", "gold_label", "actual"),
    *("true_labels", "true_classes", "target_label", "label_idx", "label_index", "class_idx", "class_index"),
)
"""Further names of columns of labels, which say that they are the truth or an index."""

_PLAIN_PNM = re.compile(rb"P[123]\s")
"""Beginning of pictures that are text."""

_FEW_CLASSES = 4
"""Classes that a note lists."""
_FEW_COLUMNS = 12
"""Columns that an error message lists."""


def list_table(table: pa.Table, file: AnyPath, options: SourceOptions) -> Manifest:
    """Return the manifest of a table with a column of refs.

    Raises InputError if a column is missing or ambiguous, or a row has no image.
    """
    name = find_column(table, options.image_column, IMAGE_COLUMNS, file, "--image-column")
    if name is None:
        raise InputError(f"{file} has no column of images; it has {_list_columns(table)}: name it by --image-column")
    image = table.column(name)
    if image.null_count:
        row = pc.index(image.is_null(), True).as_py()
        raise InputError(f"{file} has no image in row {row} of column {name!r}: fill it, or leave the row out")
    root: AnyPath = file.parent if options.image_root is None else options.image_root.resolve()
    refs = canonical_refs(image.cast(pa.string()))
    if suffix := _find_suffix(root, refs):
        refs = [ref + suffix for ref in refs]
    manifest = list_labelled(table, file, name, refs, root, options)
    note = f"{file.name}: the paths have no suffix, and files that end in {suffix} are read"
    return replace(manifest, notes=(*manifest.notes, note)) if suffix else manifest


def _find_suffix(root: AnyPath, refs: Sequence[str]) -> str:
    """Return the suffix that all refs lack, as IDs of images do, if the first one is a file with it; else ""."""
    if not refs or any("#" in ref or ref.lower().endswith(image_suffixes()) for ref in refs):
        return ""
    first = str(refs[0])
    if join_ref(str(root), first).is_file():
        return ""
    suffixes = (spelled for suffix in image_suffixes() for spelled in (suffix, suffix.upper()))
    return next((suffix for suffix in suffixes if join_ref(str(root), first + suffix).is_file()), "")


def list_labelled(
    table: pa.Table, file: AnyPath, image: str, refs: list[str], root: AnyPath, options: SourceOptions
) -> Manifest:
    """Return the manifest of a table whose refs are known, with its labels, keys and further columns.

    Args:
        table: [rows] all columns, but for those with encoded images.
        file: the file that the table is from, for messages.
        image: name of the column of images, which is no further column.
        refs: [rows].
        root: the folder that the refs are relative to.
        options: what the user said.

    Raises InputError if there are no rows, or a column that the user named is missing.
    """
    if not refs:
        raise InputError(f"{file} has no rows; expected one for each image")
    if options.sets is not None:
        return _list_sets(table, file, image, refs, root, options, options.sets)
    is_none = options.label_column == NO_COLUMN and NO_COLUMN not in table.column_names
    usual = () if is_none else (*LABEL_COLUMNS, *TRUTH_COLUMNS)
    name = find_column(table, None if is_none else options.label_column, usual, file, "--label-column")
    labels, classes = (ParsedLabels([]), ()) if name is None else _read_labels(table, name, file, options.classes)
    label = None if name is None else labels.index(classes)
    key_column = find_column(table, options.key_column, (), file, "--key-column")
    key = None if key_column is None else read_keys(table.column(key_column), f"{key_column!r} of {file}")
    further = _further_columns(table, (image, name))
    unsure = not (is_none or options.label_column)
    if unsure and name is None and options.labels_matter:
        others = [other for other in further if other != key_column]
        refuse_unread_list(table, others, options.classes, file)
    doubt = _doubt_label(table, image, name) if unsure and name is not None else ""
    notes = tuple(filter(None, (labels.note, doubt, note_repeated(refs, label))))
    manifest = make_manifest(
        root, refs, label, classes, _storable(table.select(further), SINGLE_LABEL), key, notes=notes
    )
    reading = f"labels: {name!r} of {file.name}, read as {labels.reading}" if labels.reading else ""
    return replace(manifest, reading=reading, from_minus_1=labels.from_minus_1)


def _list_sets(
    table: pa.Table,
    file: AnyPath,
    image: str,
    refs: list[str],
    root: AnyPath,
    options: SourceOptions,
    sets: LabelOptions,
) -> Manifest:
    """Return the manifest of a table with several labels of each image; see `list_labelled`."""
    key_column = find_column(table, options.key_column, (), file, "--key-column")
    key = None if key_column is None else read_keys(table.column(key_column), f"{key_column!r} of {file}")
    names = _further_columns(table, (image, key_column))
    chosen = None
    if not (sets.column == NO_COLUMN and NO_COLUMN not in names):
        usual = (*LABEL_COLUMNS, *TRUTH_COLUMNS)
        chosen = choose_label_columns(names, sets.column, sets.none, options.classes, usual, file)
        if chosen is None and options.labels_matter:
            refuse_unread_sets(table.select(names), options.classes, file)
    used = () if chosen is None else chosen.columns
    columns = _storable(table.select(_further_columns(table, (image, *used))), MULTI_LABEL)
    if chosen is None:
        return make_manifest(
            root, refs, MultiLabels.none(len(refs)), (), columns, key, notes=_given(note_repeated(refs))
        )
    classes = options.classes or (_hugging_face_names(table.schema, used[0]) if not chosen.names else ())
    read = read_label_sets(table.select(used), chosen, sets, classes, file.name)
    notes = (*read.notes, *_given(note_repeated(refs, read.labels)))
    if read.is_sorted:
        in_order = ", ".join(read.classes[:_FEW_CLASSES]) + (" …" if len(read.classes) > _FEW_CLASSES else "")
        notes += (
            f"the labels alone name the classes, which are taken in sorted order ({in_order}): if the model's outputs "
            "are in another, --classes FILE names them",
        )
    manifest = make_manifest(root, refs, read.labels, read.classes, columns, key, notes=notes)
    where = f"{used[0]!r} of {file.name}" if len(used) == 1 else file.name
    return replace(manifest, reading=f"labels: {where}, read as {read.words}")


def read_keys(column: pa.ChunkedArray, what: str) -> list[str]:
    """Return the keys of rows as texts. Raises InputError if a row has none: all such rows would be one image."""
    keys = column.to_pylist()
    if column.null_count or "" in keys:
        row = next(i for i, key in enumerate(keys) if key is None or key == "")
        raise InputError(f"there is no key in row {row} of {what}: fill it, or name another column with --key-column")
    return list(map(str, keys))


def _given(note: str) -> tuple[str, ...]:
    return (note,) if note else ()


def _further_columns(table: pa.Table, used: Collection[str | None]) -> list[str]:
    """Return the columns that are not used, but for encoded images and columns without a name."""
    return [
        name
        for name in table.column_names
        if name not in used and not holds_images(table.schema.field(name).type) and not name.startswith(UNNAMED)
    ]


def _storable(table: pa.Table, task: str) -> pa.Table | None:
    """Return further columns as a part of a task's run has them; None if there are none."""
    if not table.num_columns:
        return None
    columns = without_views(table.replace_schema_metadata(None))
    columns = columns.rename_columns(rename_reserved_columns(table.column_names, task)).combine_chunks()
    return pa.table({name: to_storable(columns.column(name)) for name in columns.column_names})


def _doubt_label(table: pa.Table, image: str, name: str) -> str:
    """Return a note if other columns are named like labels as well, and differ; else ""."""
    columns = {n: c for n, c in zip(table.column_names, table.columns, strict=True) if n != image}
    usual = set(map(plain_name, (*LABEL_COLUMNS, *TRUTH_COLUMNS)))
    taken = list(map(str, columns[name].to_pylist()))
    differing = []
    for other in (n for n in columns if n != name and plain_name(n) in usual):
        values = list(map(str, columns[other].to_pylist()))
        pairs = len(set(zip(taken, values, strict=True)))
        name_and_index = all(map(str.isdigit, taken)) != all(map(str.isdigit, values))
        if taken != values and not (name_and_index and pairs == len(set(taken)) == len(set(values))):
            differing.append(repr(other))
    if not differing:
        return ""
    others = " and ".join(differing)
    return f"labels are taken from {name!r}, but {others} could be the truth as well: see --label-column"


def note_repeated(refs: Sequence[str | None], label: Labels | None = None) -> str:
    """Return a note if several rows have one image, with how many of them contradict the first one's label; else ""."""
    first: dict[str, int] = {}
    repeated = [(first[ref], row) for row, ref in enumerate(refs) if ref and first.setdefault(ref, row) != row]
    if not repeated:
        return ""
    other = 0 if label is None else _count_differing(label, np.array(repeated))
    rows = "1 row has an image" if len(repeated) == 1 else f"{len(repeated):,} rows have an image"
    label_differs = f", {other:,} with another label" if other else ""
    return f"{rows} that a row before has (the first is {refs[repeated[0][1]]}){label_differs}: each row is counted"


def _count_differing(label: Labels, pairs: NDArray[np.int64]) -> int:
    """Return how many pairs of rows, [pairs, 2], have different labels."""
    first, second = label[pairs[:, 0]], label[pairs[:, 1]]
    if isinstance(first, MultiLabels) and isinstance(second, MultiLabels):
        same = first.labels.equals(second.labels) & first.unknown.equals(second.unknown)
        return int((~same | (first.labelled != second.labelled)).sum())
    return int(np.count_nonzero(first != second))


def to_column(values: Sequence[Any]) -> pa.Array:
    """Return values of Python as a column; as JSON where Arrow has no common type for them."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def to_storable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as it is, or as text where Parquet cannot store it or Python not represent it."""
    if not (pa.types.is_nested(column.type) or pa.types.is_temporal(column.type)):
        return column
    try:
        pq.write_table(pa.table({"column": column.slice(0, 1)}), pa.BufferOutputStream())
        column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        if not pa.types.is_nested(column.type):
            return column.cast(pa.string())
        return pa.chunked_array([pa.array(map(_as_text, column), pa.string())])
    return column


def _as_text(value: pa.Scalar) -> str:
    try:
        return json.dumps(value.as_py(), default=str)
    except (ValueError, OverflowError):  # a date that Python does not have, inside
        return str(value)


def find_column(table: pa.Table, asked: str | None, usual: Sequence[str], file: AnyPath, flag: str) -> str | None:
    """Return the column that the user asked for, else the first usual one, without regard to case; else None.

    Raises InputError if the column that was asked for is missing, or if two columns share a name.
    """
    names = table.column_names
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise InputError(f"{file} has two columns named {twice!r}: rename one")
    if asked is not None:
        if asked not in names:
            near = did_you_mean(asked, names)
            raise InputError(f"{file} has no column {asked!r}; it has {_list_columns(table)}: see {flag}{near}")
        return asked
    return find_usual(names, usual)


def find_usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the first usual name that is present, in any case and punctuation; None if none is.

    >>> find_usual(["score", "True Label", "label"], ("true_label", "label"))
    'True Label'
    """
    by_plain = {plain_name(name): name for name in reversed(names)}
    return next((by_plain[plain] for plain in map(plain_name, usual) if plain in by_plain), None)


def plain_name(name: str) -> str:
    """Return the name of a column without case and punctuation: `True Label` and `true_label` are one.

    >>> plain_name("True Label") == plain_name("true_label") == plain_name("trueLabel")
    True
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def holds_images(type_: pa.DataType) -> bool:
    """Return whether a column of this type holds encoded images: bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(type_):
        return bool(type_.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_))


def is_encoded_image(value: bytes) -> bool:
    r"""Return whether bytes are an encoded image, rather than text such as a path, which some programs write as bytes.

    >>> is_encoded_image(b"a/1.png"), is_encoded_image(b"P3\n1 1\n255\n1 2 3\n"), is_encoded_image(b"\xff\xd8")
    (False, True, True)
    """
    try:
        return "\0" in value.decode() or _PLAIN_PNM.match(value) is not None
    except UnicodeDecodeError:
        return True


def _list_columns(table: pa.Table) -> str:
    names = table.column_names
    return ", ".join(names[:_FEW_COLUMNS]) + ("…" if len(names) > _FEW_COLUMNS else "")


def _read_labels(
    table: pa.Table, name: str, file: AnyPath, wanted: tuple[str, ...]
) -> tuple[ParsedLabels, tuple[str, ...]]:
    """Return the labels and the class names: those of --classes, else Hugging Face's, else sorted from the labels.

    Raises InputError for labels that are neither names nor indices, and for several in one row.
    """
    classes = wanted or _hugging_face_names(table.schema, name)
    what = f"column {name!r} of {file.name}"
    parsed = parse_labels(table.column(name), classes, what)
    if not classes:
        return parsed, parsed.names or parsed.distinct_names
    check_labels(parsed.index(classes), len(classes), lambda row: f"row {row} of {file.name} has")
    values, respelled = respell(parsed.values, classes)
    parsed = replace(parsed, values=values)
    strange, fits = describe_strange(values, classes, what)
    if not fits:
        raise InputError(f"{strange}: name the classes with --classes, or another column with --label-column")
    return replace(parsed, note="; ".join(filter(None, (parsed.note, respelled, strange)))), classes


def _hugging_face_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the class names that the library `datasets` writes into a Parquet file's metadata; empty without them."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        if isinstance(feature, list):  # how `datasets` writes a list of labels: [{…}] or {"feature": {…}}
            (feature,) = feature
        return tuple(map(str, feature.get("feature", feature)["names"]))
    except (KeyError, TypeError, ValueError):
        return ()
