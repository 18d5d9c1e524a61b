"""Combine what is known of saved rows — image paths, labels and class names, wherever they are given — into a manifest.

It knows nothing of the scores but their number.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.config import ImportConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import sources
from predboard.images.columns import find_usual, note_repeated, read_keys, to_storable
from predboard.images.label_values import (
    ParsedLabels,
    RawLabels,
    check_labels,
    describe_strange,
    parse_labels,
    refuse_from_minus_1,
    respell,
)
from predboard.images.manifest import Manifest, SourceOptions, refuse_secret_refs
from predboard.images.unread_labels import NO_COLUMN
from predboard.ingest import columns, multi_label, scores
from predboard.ingest.columns import abbreviate
from predboard.ingest.joined_rows import SHOWN_PAIRS, canonical_texts, file_name, join_rows
from predboard.ingest.saved_scores import SavedScores
from predboard.ingest.single_scores import count_classes
from predboard.near_paths import did_you_mean_path
from predboard.predictions.label_sets import Labels
from predboard.predictions.schema import MULTI_LABEL, ROW_NUMBERS, hash_refs, rename_reserved_columns

_ARCHIVES = (".zip", ".tar")
"""Files that may hold the images, besides a folder."""


@dataclass(frozen=True)
class LabelledManifest:
    """The manifest of saved rows, and where each part of it comes from, in words."""

    manifest: Manifest
    labels: str
    """Source of the labels, for example "'y_true' of a.npz"."""
    images: str
    """Source of the images' paths."""
    keys: str
    """Source of what identifies the images in another run: their paths, a column, or the numbers of the rows."""
    classes: str
    """Source of the order of the classes, for example "the score columns"."""
    assumed: bool
    """Whether the order of the classes is assumed, because the labels are names and the scores have none."""

    @property
    def sentence(self) -> str:
        """Say what was taken from where, on one line."""
        return f"labels: {self.labels}; images: {self.images}; order of the classes: {self.classes}"


@dataclass(frozen=True)
class _Given:
    """Labels, and where they come from in words."""

    values: RawLabels
    source: str
    classes: tuple[str, ...] = ()
    """Class names that came with the labels."""
    column: str = ""
    """Name of the column or array, if the source is a file with several."""
    reading: str = ""
    """Reading of labels that are no plain names."""
    note: str = ""
    """Warning for the user where they could be read in another way."""
    from_minus_1: bool = False
    """Whether they are the whole numbers from −1 on."""

    @property
    def words(self) -> str:
        """Say where the labels come from, and how they were read."""
        words = f"{self.column!r} of {self.source}" if self.column else self.source
        return f"{words}, read as {self.reading}" if self.reading else words


@dataclass(frozen=True)
class _Order:
    """The names of the classes in the order of the scores, and where that order comes from in words."""

    classes: tuple[str, ...]
    source: str
    assumed: bool = False


def label_manifest(
    config: ImportConfig,
    file: Path,
    saved: SavedScores,
    class_names: tuple[str, ...],
    image_list: Manifest | None,
    log: Callable[[str], None],
) -> LabelledManifest:
    """Return the manifest of saved rows, and where it comes from.

    Args:
        config: where paths and labels come from.
        file: the first file of the rows.
        saved: the rows, with the paths and labels that the file itself has.
        class_names: the classes of --classes, or ().
        image_list: the manifest of --images.
        log: takes a warning.

    Raises:
        InputError: if they do not fit the rows or each other.
    """
    own = _own_refs(saved)
    if image_list is not None:
        image_list = _align(image_list, own, file, config, log)
    root, refs = _located(config, file, own, image_list)
    _check_class_names(saved, class_names)
    label: Labels
    if config.task == MULTI_LABEL:
        read = multi_label.read_multi_labels(config, saved, refs, class_names, log)
        label, words, order = read.labels, read.source, _Order(read.classes, read.order)
    else:
        label, given, order = _labels(config, file, saved, image_list, refs, class_names, log)
        words = given.words
    table = saved.columns
    keys = "the images' paths"
    if config.key_column is not None and (image_list is None or config.key_column in table.column_names):
        name = columns.find_column(table.column_names, config.key_column, (), file, "--key-column")
        key, keys = hash_refs(read_keys(saved.written.column(name), f"{name!r} of {file}")), repr(name)
    elif image_list is not None:
        key = image_list.key
    else:
        key = hash_refs(str(row) if ref is None else ref for row, ref in enumerate(refs))
        keys = ROW_NUMBERS if None in refs else keys
    others = [name for name in table.column_names if name not in (saved.label, saved.image)]
    names = zip(rename_reserved_columns(others, config.task), others, strict=True)
    further = {new: to_storable(table.column(name)) for new, name in names}
    if image_list is not None:
        listed = image_list.columns
        names = zip(rename_reserved_columns(listed.column_names, config.task), listed.column_names, strict=True)
        further |= {new: listed.column(name) for new, name in names if new not in further}
    image = pa.array(refs, pa.string())
    refuse_secret_refs(image)
    if repeated := note_repeated(refs, label):
        log(f"warning: {repeated}")
    further_columns = pa.table({name: column.combine_chunks() for name, column in further.items()})
    manifest = Manifest(root, image, label, key, order.classes, further_columns)
    images = f"{saved.image!r} of {file.name}" if saved.image is not None else "none"
    if image_list is not None:
        how = "by order alone" if all(path is None for path in own) else "by name"
        images = f"--images {config.images}, joined {how}"
    return LabelledManifest(manifest, words, images, keys, order.source, order.assumed)


def open_image_list(config: ImportConfig, class_names: tuple[str, ...]) -> Manifest | None:
    """Return the manifest of --images, None without. Raises InputError if it cannot be read."""
    if config.images is None:
        return None
    file = Path(config.images)
    if file.suffix.lower() != ".txt":
        root = config.image_root if config.image_root is not None and config.image_root.is_dir() else None
        label_column = NO_COLUMN if config.task == MULTI_LABEL else None  # it has one label in each row
        options = SourceOptions(
            config.image_column, label_column, config.key_column, root, class_names, labels_matter=False
        )
        return sources.open_source(config.images, options)
    table = scores.read_columns(file, config.max_read_gb)
    refs = [str(ref) for ref in canonical_texts(table.column(0).to_pylist())]
    unknown = np.full(len(refs), -1, np.int32)
    root_folder = str(file.resolve().parent)
    listed = Manifest(root_folder, pa.array(refs, pa.string()), unknown, hash_refs(refs), ())
    if table.num_columns == 1 or config.task == MULTI_LABEL:
        return listed
    parsed = parse_labels(table.column("label"), class_names, f"the labels of {file.name}")
    classes = class_names or parsed.names or parsed.distinct_names
    label = parsed.index(classes)
    if classes:
        check_labels(label, len(classes), lambda row: f"row {row} of {file.name} has")
    strange, fits = describe_strange(parsed.values, classes, file.name)
    if not fits:
        raise InputError(f"{strange}: name the classes with --classes")
    return replace(listed, label=label, classes=classes)


# --- paths ---


def _own_refs(saved: SavedScores) -> list[str | None]:
    """Return the path of each image that the file itself has, or None."""
    if saved.image is None:
        return [None] * saved.rows
    return canonical_texts(saved.written.column(saved.image).to_pylist())


def _align(
    image_list: Manifest, own: Sequence[str | None], file: Path, config: ImportConfig, log: Callable[[str], None]
) -> Manifest:
    """Return the images of --images in the order of the rows: joined by name where both have names, else by order.

    Raises InputError if they are not as many, or if names differ.
    """
    listed = [str(ref) for ref in image_list.image.to_pylist()]
    for name_of in (str, file_name) if None not in own else ():
        place = {name_of(ref): i for i, ref in enumerate(listed)}
        rows = np.array([place.get(name_of(str(ref)), -1) for ref in own])
        if len(place) == len(listed) and len(np.unique(rows)) == len(rows) and (rows >= 0).all():
            if (moved := int(np.count_nonzero(rows != np.arange(len(rows))))) or len(rows) != len(listed):
                log(f"rows and --images are joined by name; {plural(moved, 'row')} of {len(rows):,} had another place")
                return image_list.take(rows)
            return image_list
    if len(listed) != len(own):
        raise InputError(
            f"{file.name} has {len(own):,} rows and {config.images} has {len(listed):,} images; expected as many"
        )
    for row, (path, ref) in enumerate(zip(own, listed, strict=True)):
        if path is not None and file_name(path) != file_name(ref):
            raise InputError(
                f"row {row} is {path} in {file.name} but {ref} in --images, and names allow no join: expected the same "
                "images, each once, or the same order"
            )
    if all(path is None for path in own):
        pairs = ", ".join(f"row {row} with {ref}" for row, ref in enumerate(listed[:SHOWN_PAIRS]))
        log(f"warning: {file.name} does not name its images, so that order alone joins them: {pairs}: check these")
    return image_list


def _located(
    config: ImportConfig, file: Path, own: Sequence[str | None], image_list: Manifest | None
) -> tuple[str, list[str | None]]:
    """Return the root, and the path of each image below it or None."""
    root, refs = str(file.resolve().parent), list(own)
    if image_list is not None:
        root, refs = image_list.root, image_list.image.to_pylist()
    if config.image_root is None:
        return root, refs
    if config.image_root.is_dir():
        return str(config.image_root.resolve()), refs
    if config.image_root.suffix.lower() not in _ARCHIVES or not config.image_root.is_file():
        raise InputError(
            f"--image-root {config.image_root} does not exist: expected the folder, .zip or .tar with the images"
            f"{did_you_mean_path(config.image_root, suffixes=_ARCHIVES)}"
        )
    archive = config.image_root.resolve()
    return str(archive.parent), [ref and f"{archive.name}#{ref}" for ref in refs]


# --- labels ---


def _labels(
    config: ImportConfig,
    file: Path,
    saved: SavedScores,
    image_list: Manifest | None,
    refs: Sequence[str | None],
    class_names: tuple[str, ...],
    log: Callable[[str], None],
) -> tuple[NDArray[np.int32], _Given, _Order]:
    """Return [rows] labels, -1 if unknown, where they come from, and the order of the classes."""
    known = class_names or saved.names
    if image_list is not None and len(image_list.classes) == saved.classes and (saved.is_numbered or not known):
        known = class_names or image_list.classes
    given = _given_labels(config, file, saved, image_list, refs, known, log)
    if saved.is_single:
        named = known or given.classes or (() if image_list is None else image_list.classes)
        saved = replace(saved, classes=count_classes(saved, named, given.values, file))
    order = _class_order(config, saved, image_list, given, class_names)
    classes = order.classes
    values, respelled = respell(given.values, classes)
    given = replace(given, values=values)
    for note in filter(None, (given.note, respelled)):
        log(f"warning: {note}")
    _check_labels(given, saved.classes, classes)
    strange, fits = describe_strange(given.values, classes, given.words)
    if not fits:
        raise InputError(f"{strange}: name the classes with --classes, or another column with --label-column")
    if strange:
        log(f"warning: {strange}")
    label = _indices(given.values, classes)
    if image_list is not None:
        listed = _indices(_named_labels(image_list), classes)
        if differ := int(np.count_nonzero((label >= 0) & (listed >= 0) & (label != listed))):
            verb = "differs" if differ == 1 else "differ"
            log(
                f"warning: {plural(differ, 'label')} in {given.source} {verb} from those of --images: are the rows in "
                "the same order?"
            )
    return label, given, order


def _check_class_names(saved: SavedScores, class_names: tuple[str, ...]) -> None:
    """Raise InputError if --classes has other names than the scores."""
    if class_names and not saved.is_numbered and saved.names and set(class_names) != set(saved.names):
        raise InputError(
            f"--classes names {abbreviate(class_names)} but the columns are {abbreviate(saved.names)}; expected the "
            "same names"
        )


def _class_order(
    config: ImportConfig,
    saved: SavedScores,
    image_list: Manifest | None,
    given: _Given,
    class_names: tuple[str, ...],
) -> _Order:
    """Return the names of the classes from the first place that has them, alphabetical order of the labels last."""
    names = tuple(sorted({value for value in given.values if isinstance(value, str)}))
    if class_names:
        return _Order(class_names, f"--classes {config.classes}")
    if saved.names_from:
        return _Order(saved.names, saved.names_from)
    if saved.names and not saved.is_numbered:
        return _Order(saved.names, "the score columns" if len(saved.used) > 1 else "the class names in the file")
    if image_list is not None and len(image_list.classes) == saved.classes:
        return _Order(image_list.classes, f"--images {config.images}")
    if saved.names and set(names) <= set(saved.names):
        return _Order(saved.names, "the numbers of the score columns")
    if given.classes:
        return _Order(given.classes, given.source)
    if names and config.labels_from_folders:
        return _Order(names, "the folders' names in alphabetical order, as torchvision and timm have them")
    if names:
        return _Order(names, "the labels' names in alphabetical order", assumed=True)
    return _Order(tuple(map(str, range(saved.classes))), "the order of the scores, numbered from 0")


def _given_labels(
    config: ImportConfig,
    file: Path,
    saved: SavedScores,
    image_list: Manifest | None,
    refs: Sequence[str | None],
    classes: Sequence[str],
    log: Callable[[str], None],
) -> _Given:
    """Return the labels from the first place that has them: --labels, the folders, the file itself, --images."""
    if config.labels is not None:
        given = _labels_from_file(config, config.labels, refs, classes, log)
        if unknown := given.values.count(-1):
            log(f"warning: {plural(unknown, 'row has', 'rows have')} no label in {config.labels.name}")
        return given
    if config.labels_from_folders:
        return _Given(_labels_from_folders(refs, classes, file.name), "the folders")
    if saved.label is not None:
        parsed = parse_labels(saved.written.column(saved.label), classes, f"column {saved.label!r} of {file.name}")
        return _given(parsed, file.name, saved.label)
    if image_list is not None:
        return _Given(_named_labels(image_list), str(config.images), image_list.classes)
    return _Given([-1] * saved.rows, "none")


def _given(parsed: ParsedLabels, source: str, column: str) -> _Given:
    """Return labels that were read from a column of a file."""
    return _Given(
        parsed.values, source, parsed.names, column, parsed.reading, parsed.note, from_minus_1=parsed.from_minus_1
    )


def _check_labels(given: _Given, scores_per_row: int, classes: tuple[str, ...]) -> None:
    """Raise InputError if the classes are not as many as the scores, or an index is beyond them."""
    if len(classes) != scores_per_row:
        raise InputError(
            f"each row has {scores_per_row:,} scores, but there are {len(classes):,} classes ({abbreviate(classes)}): "
            "name the classes in the order of the scores with --classes FILE"
        )
    indices = [-1 if isinstance(value, str) else value for value in given.values]
    if given.from_minus_1:
        refuse_from_minus_1(max(indices) + 1, scores_per_row, given.words)
    check_labels(indices, scores_per_row, lambda row: f"row {row} of {given.source} has")


def _named_labels(image_list: Manifest) -> RawLabels:
    """Return the labels of a manifest, as names if it has them."""
    return [int(i) if i < 0 or not image_list.classes else image_list.classes[i] for i in image_list.class_label]


def _indices(values: RawLabels, classes: Sequence[str]) -> NDArray[np.int32]:
    place = {name: i for i, name in enumerate(classes)}
    label = [place.get(value, -1) if isinstance(value, str) else max(value, -1) for value in values]
    return np.array(label, np.int32)


def _labels_from_file(
    config: ImportConfig,
    file: Path,
    refs: Sequence[str | None],
    classes: Sequence[str],
    log: Callable[[str], None],
) -> _Given:
    """Return the labels of another file, joined by image path where both have one, else in the order of the rows."""
    table = scores.read_columns(file, config.max_read_gb)
    names = table.column_names
    if len(names) == 1:
        (label,) = names
    else:
        chosen = columns.find_column(names, config.label_column, columns.LABEL_COLUMN_NAMES, file, "--label-column")
        if chosen is None:
            raise InputError(f"{file} has {abbreviate(names)}; which are the labels? Name them with --label-column")
        label = chosen
    what = f"column {label!r} of {file.name}" if label else file.name
    parsed = parse_labels(table.column(label), classes, what)
    column = label if len(names) > 1 else ""
    given = _given(parsed, file.name, column)
    image = find_usual([name for name in names if name != label], columns.IMAGE_COLUMN_NAMES)
    listed = None if image is None else table.column(image).to_pylist()
    rows = join_rows(file, listed, len(given.values), refs, log)
    return replace(given, values=[given.values[row] if row >= 0 else -1 for row in rows.tolist()])


def _labels_from_folders(refs: Sequence[str | None], classes: Collection[str], source: str) -> RawLabels:
    """Return the name of each image's folder: the last one that is a class, if the classes are known."""
    labels: RawLabels = []
    known = set(classes)
    for row, ref in enumerate(refs):
        folders = re.split(r"[/#]", ref or "")[:-1]
        name = next((folder for folder in reversed(folders) if folder in known), folders[-1] if folders else "")
        if not name:
            raise InputError(
                f"--labels-from-folders needs a folder in the path of each image; row {row} of {source} has "
                f"{ref or 'no path'}: see --images and --image-column"
            )
        labels.append(name)
    return labels
