"""Whose rows were saved: paths, labels and classes, from wherever they are said -> manifest. Knows no score."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.config import ImportConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import sources
from predboard.ingest import scores
from predboard.predictions.table import hash_refs, rename_reserved_columns

RawLabels = list[int | str]
"""Labels as they are said: index, -1 if unknown, or name."""


def build_manifest(
    config: ImportConfig,
    file: Path,
    rows: scores.SavedScores,
    named: tuple[str, ...],
    listed: sources.Manifest | None,
    say: Callable[[str], None],
) -> sources.Manifest:
    """Manifest of saved rows.

    Args:
        config: where paths and labels come from.
        file: the first that the rows are in.
        rows: what it says itself.
        named: the classes of --classes.
        listed: the manifest of --images.
        say: takes a warning.

    Raises:
        InputError: if they do not fit the rows or each other.
    """
    if listed is not None and len(listed) != rows.rows:
        raise InputError(
            f"{file.name} has {rows.rows:,} rows and {config.images} {len(listed):,} images; expected as many"
        )
    root, refs = _refs(config, file, rows, listed)
    label, classes = _labels(config, file, rows, listed, refs, named, say)
    columns = rows.columns
    if config.key_column is not None and (listed is None or config.key_column in columns.column_names):
        name = scores.find_column(columns.column_names, config.key_column, (), file, "--key-column")
        key = hash_refs(map(str, columns.column(name).to_pylist()))
    elif listed is not None:
        key = listed.key
    else:
        key = hash_refs(str(row) if ref is None else ref for row, ref in enumerate(refs))
    kept = [name for name in columns.column_names if name not in (rows.label, rows.image)]
    further = {new: columns.column(name) for new, name in zip(rename_reserved_columns(kept), kept, strict=True)}
    if listed is not None:
        further |= {name: listed.columns.column(name) for name in listed.columns.column_names if name not in further}
    table = pa.table({name: column.combine_chunks() for name, column in further.items()})
    image = pa.array(refs, pa.string())
    sources.refuse_secrets(image)
    return sources.Manifest(root, image, label, key, classes, table)


def open_image_list(config: ImportConfig, named: tuple[str, ...]) -> sources.Manifest | None:
    """The manifest of --images, None without. Raises InputError if it cannot be read."""
    if config.images is None:
        return None
    file = Path(config.images)
    if file.suffix.lower() != ".txt":
        root = config.image_root if config.image_root is not None and config.image_root.is_dir() else None
        return sources.open_source(
            config.images, sources.SourceOptions(config.image_column, None, config.key_column, root, named)
        )
    table = scores.read_columns(file)
    refs = [str(ref) for ref in _posix(table.column(0).to_pylist())]
    label = np.full(len(refs), -1, np.int32)
    found = sources.Manifest(str(file.resolve().parent), pa.array(refs, pa.string()), label, hash_refs(refs), ())
    if table.num_columns == 1:
        return found
    values = table.column("label").to_pylist()
    classes = named or tuple(sorted(set(values)))
    place = {name: i for i, name in enumerate(classes)}
    return replace(found, label=np.array([place.get(value, -1) for value in values], np.int32), classes=classes)


def _posix(refs: Sequence[str | None]) -> list[str | None]:
    """Paths with / between folders, where a program on Windows wrote them with backslashes."""
    if any("/" in ref for ref in refs if ref):
        return list(refs)
    return [ref and ref.replace("\\", "/") for ref in refs]


def _refs(
    config: ImportConfig, file: Path, rows: scores.SavedScores, listed: sources.Manifest | None
) -> tuple[str, list[str | None]]:
    """Root and path of each image; None where it has none."""
    own: list[str | None] = [None] * rows.rows
    if rows.image is not None:
        own = _posix([None if ref is None else str(ref) for ref in rows.columns.column(rows.image).to_pylist()])
    root, refs = str(file.resolve().parent), own
    if listed is not None:
        root, refs = listed.root, listed.image.to_pylist()
        for row, (here, there) in enumerate(zip(own, refs, strict=True)):
            if here is not None and _name(here) != _name(str(there)):
                raise InputError(f"row {row} is {here} in {file.name} and {there} in --images: expected the same order")
    if config.image_root is None:
        return root, refs
    if config.image_root.is_dir():
        return str(config.image_root.resolve()), refs
    if config.image_root.suffix.lower() not in (".zip", ".tar") or not config.image_root.is_file():
        raise InputError(f"no folder {config.image_root}: --image-root is the folder, .zip or .tar that has the images")
    archive = config.image_root.resolve()
    return str(archive.parent), [ref and f"{archive.name}#{ref}" for ref in refs]


def _name(ref: str) -> str:
    return re.split(r"[/#]", ref)[-1]


def _labels(
    config: ImportConfig,
    file: Path,
    rows: scores.SavedScores,
    listed: sources.Manifest | None,
    refs: Sequence[str | None],
    named: tuple[str, ...],
    say: Callable[[str], None],
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """[rows] labels, -1 if unknown, and the names of the classes."""
    if named and rows.names and set(named) != set(rows.names):
        raise InputError(
            f"--classes names {scores.abbreviate(named)} and the columns {scores.abbreviate(rows.names)}; expected "
            f"the same names"
        )
    known, where = named or rows.names, file.name
    if not known and listed is not None and len(listed.classes) == rows.classes:
        known = listed.classes
    values: RawLabels = [-1] * rows.rows
    if config.labels is not None:
        values, where = _from_file(config, config.labels, refs, known), config.labels.name
        if lacking := values.count(-1):
            say(f"warning: {plural(lacking, 'row has', 'rows have')} no label in {where}")
    elif config.labels_from_folders:
        values, where = _folders(refs, known, where), "the folders"
    elif rows.label is not None:
        values = _plain(rows.columns.column(rows.label), known, f"{rows.label!r} of {where}")
    elif listed is not None:
        values = _names(listed)
        known, where = known or listed.classes, str(config.images)
    texts = {value for value in values if isinstance(value, str)}
    classes = known or tuple(sorted(texts)) or tuple(map(str, range(rows.classes)))
    if len(classes) != rows.classes:
        raise InputError(
            f"there are {rows.classes:,} scores in each row and {len(classes):,} classes "
            f"({scores.abbreviate(classes)}); "
            "expected as many: --classes FILE names them in the order of the scores"
        )
    high = max((value for value in values if not isinstance(value, str)), default=-1)
    if high >= rows.classes:
        raise InputError(
            f"{where} has label {high} in row {values.index(high)}, and the scores are of {rows.classes:,} classes, 0 "
            f"to {rows.classes - 1}: are the labels counted from 1, or of other classes?"
        )
    if strange := texts - set(classes):
        count = sum(value in strange for value in values)
        shown = scores.abbreviate(sorted(strange))
        are, as_ = ("is", "counts") if count == 1 else ("are", "count")
        say(f"warning: {plural(count, 'label')} in {where} {are} of no class ({shown}) and {as_} as unknown")
    label = _indices(values, classes)
    if listed is not None:
        theirs = _indices(_names(listed), classes)
        if differ := np.count_nonzero((label >= 0) & (theirs >= 0) & (label != theirs)):
            are = "is not that" if differ == 1 else "are not those"
            of = plural(int(differ), "label")
            say(f"warning: {of} in {where} {are} of --images: are the rows in the same order?")
    return label, classes


def _names(listed: sources.Manifest) -> RawLabels:
    """Labels of a manifest, as names if it has them."""
    return [int(i) if i < 0 or not listed.classes else listed.classes[i] for i in listed.label]


def _indices(values: RawLabels, classes: Sequence[str]) -> NDArray[np.int32]:
    place = {name: i for i, name in enumerate(classes)}
    label = [place.get(value, -1) if isinstance(value, str) else max(value, -1) for value in values]
    return np.array(label, np.int32)


def _plain(column: pa.ChunkedArray, classes: Collection[str], what: str) -> RawLabels:
    """Labels of a column. Digits in text are indices, unless they are names of classes.

    Raises InputError if they are neither names nor whole numbers.
    """
    values = column.to_pylist()
    empty = (None, "")
    if all(value in empty or isinstance(value, str) for value in values):
        texts = {value for value in values if value not in empty}
        digits = all(re.fullmatch(r"-?\d+", text) for text in texts) and not texts <= set(classes)
        return [-1 if value in empty else int(value) if digits else value for value in values]
    for row, value in enumerate(values):
        number = value is None or isinstance(value, bool | int | float)
        if not number or (value is not None and value == value and value % 1 != 0):
            raise InputError(f"label {what} is {value!r} in row {row}; expected names or whole numbers")
    return [-1 if value is None or value != value else int(value) for value in values]


def _from_file(config: ImportConfig, file: Path, refs: Sequence[str | None], classes: Collection[str]) -> RawLabels:
    """Labels of another file, by the images' paths where both have them, else in the order of the rows."""
    table = scores.read_columns(file)
    names = table.column_names
    if len(names) == 1:
        (label,) = names
    elif (
        found := scores.find_column(names, config.label_column, scores.LABEL_COLUMN_NAMES, file, "--label-column")
    ) is None:
        raise InputError(f"{file} has {scores.abbreviate(names)}; which are the labels? Name them by --label-column")
    else:
        label = found
    values = _plain(table.column(label), classes, f"{label or 'there'} of {file.name}")
    image = scores.find_column([name for name in names if name != label], None, scores.IMAGE_COLUMN_NAMES, file, "")
    if image is not None and None not in refs:
        theirs = [str(ref) for ref in _posix(table.column(image).to_pylist())]
        if theirs == refs:
            return values
        for key in (str, _name):
            of = {key(ref): value for ref, value in zip(theirs, values, strict=True)}
            wanted = [key(str(ref)) for ref in refs]
            if len(of) == len(theirs) and any(ref in of for ref in wanted):
                return [of.get(ref, -1) for ref in wanted]
        raise InputError(
            f"{file} has no labels of these images, or several for one: {refs[0]} here, {theirs[0]} in its first row"
        )
    if len(values) != len(refs):
        raise InputError(f"{file} has {len(values):,} labels for {len(refs):,} rows of scores; expected one for each")
    return values


def _folders(refs: Sequence[str | None], classes: Collection[str], where: str) -> RawLabels:
    """Name of the folder each image lies in; of the last one that is a class, if the classes are known."""
    found: RawLabels = []
    names = set(classes)
    for row, ref in enumerate(refs):
        folders = re.split(r"[/#]", ref or "")[:-1]
        name = next((folder for folder in reversed(folders) if folder in names), folders[-1] if folders else "")
        if not name:
            raise InputError(
                f"--labels-from-folders needs a folder in the path of each image; row {row} of {where} has "
                f"{ref or 'no path'}: see --images and --image-column"
            )
        found.append(name)
    return found
