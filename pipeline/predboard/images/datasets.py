"""Reads map-style torch datasets: dataset -> manifest; one of its items -> image, label, preview. It knows no models.

An item is an image; or (image, label), whose further members are ignored; or a mapping with an image and, if it has
them, a label and a preview. An image is a Pillow picture, uint8, or floats that are ready for the model.
"""

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from predboard import user_code
from predboard.errors import InputError, first_line
from predboard.images.decode import Content
from predboard.images.label_items import ItemLabels, read_item
from predboard.images.label_lists import LabelOptions
from predboard.images.label_masks import refuse_signed
from predboard.images.manifest import Manifest, SourceOptions
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels
from predboard.predictions.schema import hash_refs

DATASET_FORM = "FILE.py:DATASET, a torch Dataset or a function that returns one, for example my_data.py:val_dataset"
IMAGE_KEYS = ("image", "img", "images", "pixel_values", "input", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "cls", "y")
"""Keys of a mapping that hold the image and the label if the user names none; the first one that exists counts."""
PREVIEW_KEY = "preview"


class MapStyle(Protocol):
    """A dataset has a length, and items by their index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class DatasetItem:
    """Holds what a dataset returns for one index."""

    image: Content
    label: int | ItemLabels | None
    """Index into the manifest's classes, -1 if it is none of them, or several; None if the item has no label."""
    preview: Content | None
    """An image for people to look at, in place of the model's."""


@dataclass(frozen=True)
class DatasetSource:
    """Names a dataset, and says how another process gets it."""

    data: Any
    name: str
    """FILE.py:DATASET without the folder, or the type of an object."""
    code: str = ""
    """Digest of the file."""
    spec: str = ""
    """FILE.py:DATASET as the user gave it; empty for an object."""
    image_key: str | None = None
    label_key: str | None = None
    own_classes: tuple[str, ...] = ()
    """Class names in the order of the dataset's own labels."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the manifest's labels."""
    sets: LabelOptions | None = None
    """How several labels of an item are read; None where each has one label."""
    width: int = 0
    """Number of the model's outputs; 0 while it is not known."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a file's dataset by the file, because another process could not import the file's module by name."""
        rest = (self.image_key, self.label_key, self.own_classes, self.classes, self.sets, self.width)
        if self.spec:
            return _reopen, (self.spec, *rest)
        return DatasetSource, (self.data, self.name, self.code, self.spec, *rest)

    def load_item(self, index: int) -> DatasetItem:
        """Load one item. Raises whatever the dataset raises, and ValueError for an item of none of the known forms."""
        item = self.data[index]
        label: Any = None
        preview = None
        if isinstance(item, Mapping):
            image = item[_find_key(item, self.image_key, IMAGE_KEYS, "image")]
            name = _find_key(item, self.label_key, LABEL_KEYS, "")
            label = item[name] if name else None
            preview = item.get(PREVIEW_KEY)
        elif isinstance(item, tuple | list):
            if not item:
                raise ValueError("the dataset returned an empty item; expected (image, label)")
            image, label = item[0], item[1] if len(item) > 1 else None
        else:
            image = item
        return DatasetItem(to_content(image), self.read_label(label), None if preview is None else to_content(preview))

    def read_label(self, value: Any) -> int | ItemLabels | None:
        """Return the manifest's label for a dataset's, or its labels. Raises ValueError for what is none."""
        if self.sets is None:
            return self.label_index(value)
        item = read_item(value, self.own_classes or self.classes, self.width, self.sets.empty)
        if item is None or not self.own_classes or self.own_classes == self.classes:
            return item
        place = {name: i for i, name in enumerate(self.classes)}
        names = [[self.own_classes[label] for label in labels] for labels in item]
        if lost := [name for of_kind in names for name in of_kind if name not in place]:
            raise ValueError(f"label {lost[0]!r} is none of the {len(place)} classes: see --classes")
        labels, unknown = (sorted(place[name] for name in of_kind) for of_kind in names)
        return labels, unknown

    def label_index(self, value: Any) -> int | None:
        """Return the manifest's label for a dataset's: an index, or a name. Raises ValueError if it is neither."""
        if value is None:
            return None
        if isinstance(value, str):
            if not self.classes:
                raise ValueError(f"label is the name {value!r}, but the dataset has no classes: see --classes")
            return self.classes.index(value) if value in self.classes else -1
        index = _to_index(value)
        if self.own_classes == self.classes or not self.own_classes:
            return index
        name = self.own_classes[index] if 0 <= index < len(self.own_classes) else None
        return self.classes.index(name) if name in self.classes else -1


def _reopen(spec: str, *rest: Any) -> DatasetSource:
    fields = ("image_key", "label_key", "own_classes", "classes", "sets", "width")
    return replace(open_dataset(spec), **dict(zip(fields, rest, strict=True)))


def _find_key(item: Mapping[Any, Any], asked: str | None, usual: Sequence[str], needed: str) -> str:
    """Return the key that the user named, else the first usual one, else "". Raises ValueError if it is needed."""
    key = next((name for name in ((asked,) if asked else usual) if name in item), "")
    if not key and (needed or asked):
        raise ValueError(
            f"the dataset's item has no {asked or needed!r}; it has {', '.join(map(str, item))}: name the key of the "
            "image by --image-column, and that of the label by --label-column"
        )
    return key


def _to_index(value: Any) -> int:
    """Return a label as a number, -1 if it is negative or huge.

    It may be an int of Python, NumPy or torch, or a whole float. Raises ValueError for anything else.
    """
    number = value
    if hasattr(value, "item") and int(np.prod(tuple(value.shape))) == 1:
        number = value.item()
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    try:
        index = operator.index(number)
    except TypeError:
        shape = f" of shape {list(value.shape)}" if hasattr(value, "shape") else f" ({value!r})"
        raise ValueError(
            f"label is a {type(value).__name__}{shape}; expected the index of a class, or its name; several labels of "
            "an image are for --task multi-label"
        ) from None
    return index if 0 <= index < 2**31 else -1


def to_content(image: Any) -> Content:
    """Return an image in one of the forms of `Content`.

    Tensors of uint8 are [channels, height, width], as torchvision makes them, and NumPy arrays of uint8 are [height,
    width, channels], as Pillow does; either may be [height, width]. Floats are [channels, height, width].

    Raises ValueError for anything else.
    """
    if isinstance(image, Image.Image):
        return image
    array: Any = image
    if hasattr(image, "detach"):
        tensor: Any = image.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
        elif tensor.ndim == 3:
            tensor = tensor.permute(1, 2, 0)
        array = tensor.numpy()
    if not isinstance(array, np.ndarray):
        raise ValueError(f"image is a {type(image).__name__}; expected a Pillow picture, an array or a tensor")
    if array.dtype == np.uint8 and array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and array.size:
        typed: NDArray[Any] = array
        if typed.dtype == np.uint8:
            return typed
        if np.issubdtype(typed.dtype, np.floating):
            return typed.astype(np.float32, copy=False)
    raise ValueError(
        f"image is {array.dtype} of shape {list(array.shape)}; expected a Pillow picture, uint8, or floats of "
        "[channels, height, width] that are ready for the model"
    )


def open_dataset(spec: str) -> DatasetSource:
    """Return the dataset named FILE.py:DATASET. Raises InputError if it does not exist or is not map-style."""
    named = user_code.load_object(spec, "data", DATASET_FORM)
    data = named.value
    if isinstance(data, type) or (callable(data) and not hasattr(data, "__getitem__")):
        try:
            with user_code.import_path(named.folder):
                data = data()
        except (Exception, SystemExit) as error:  # the user's own code may raise anything; it becomes one line
            raise InputError(f"{named.name} raised {type(error).__name__}: {first_line(error)}") from error
    return DatasetSource(check_map_style(data, named.name), named.name, named.code, spec)


def check_map_style(data: Any, name: str) -> Any:
    """Return the dataset. Raises InputError if it is not map-style, or empty."""
    iterable = any(kind.__name__ == "IterableDataset" for kind in type(data).__mro__)
    if iterable or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise InputError(
            f"{name} is a {type(data).__name__}; expected a map-style torch.utils.data.Dataset, with a length and with "
            "items by index"
        )
    if not len(data):
        raise InputError(f"{name} is empty; expected a dataset with items")
    return data


def make_manifest(source: DatasetSource, options: SourceOptions) -> Manifest:
    """Return the manifest of a dataset, without loading any item.

    Refs are the paths in `samples` or `imgs`, relative to `root` if they lie below it and no two rows share one; else
    NAME#index, where NAME is the name in the file, or the type of the dataset. Class names are those of `classes`, or
    of Hugging Face's `features`. Labels are those of `samples`, `imgs`, `targets` or `labels`; without them all are
    unknown until an item gives its own. Rows of a `Subset` have the refs and labels that they have in the whole.

    Raises InputError for options that a dataset cannot have.
    """
    for flag, given in (("--key-column", options.key_column), ("--image-root", options.image_root)):
        if given is not None:
            raise InputError(f"{flag} is for lists of images, but {source.name} is a dataset: leave it out")
    data, index = _unwrap_subsets(source.data)
    own_classes = _class_names(data, options.label_column)
    source = replace(
        source,
        image_key=options.image_column,
        label_key=options.label_column,
        own_classes=own_classes,
        classes=options.classes or own_classes,
        sets=options.sets,
    )
    paths, known = _read_samples(data, source)
    name = source.name.rpartition(":")[2] if source.spec else type(data).__name__
    root, refs = _make_refs(data, paths, index, name)
    return Manifest(
        root,
        pa.array(refs, pa.string()),
        known[np.array(index, np.int64)],
        hash_refs(refs),
        source.classes,
        dataset=source,
        dataset_index=np.arange(len(index), dtype=np.int64),
    )


def _unwrap_subsets(data: Any) -> tuple[Any, list[int]]:
    """Return the dataset inside a `Subset` of a `Subset` …, and the index in it of each row."""
    index = list(range(len(data)))
    while hasattr(data, "dataset") and hasattr(data, "indices"):
        index = [int(data.indices[i]) for i in index]
        data = data.dataset
    return data, index


def _class_names(data: Any, label_key: str | None) -> tuple[str, ...]:
    """Return the class names in the order of the dataset's own labels; empty if it has none."""
    names = getattr(data, "classes", None)
    features = getattr(data, "features", None)
    if names is None and isinstance(features, Mapping):
        key = next((k for k in ((label_key,) if label_key else LABEL_KEYS) if k in features), None)
        feature = features.get(key)
        feature = getattr(feature, "feature", feature)  # of a list of labels, what each of them is
        names = getattr(feature, "names", None)
    return tuple(map(str, names or ()))


def _read_samples(data: Any, source: DatasetSource) -> tuple[list[str], Labels]:
    """Return path and label of each row of a dataset, where it has an attribute for them.

    Labels are read just as the items' own will be, so that a row means the same before and after it is loaded.
    """
    rows = len(data)
    paths: list[str] = []
    values: Any = None
    for name in ("samples", "imgs"):
        pairs = getattr(data, name, None)
        is_sample = _is_sample if source.sets is None else _is_path_and_more
        if isinstance(pairs, Sequence) and len(pairs) == rows and all(map(is_sample, pairs)):
            paths, values = [Path(path).as_posix() for path, _ in pairs], [label for _, label in pairs]
            break
    else:
        for name in ("targets", "labels"):
            listed = getattr(data, name, None)
            if listed is None or not hasattr(listed, "__len__") or len(listed) != rows:
                continue
            if source.sets is not None:
                values = listed.to_numpy() if hasattr(listed, "to_numpy") else listed  # a table of pandas
                break
            array = np.asarray(listed)
            if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
                values = array.tolist()
                break
    if source.sets is not None:
        return paths, _sets(values, rows, source)
    label_of = {value: source.label_index(value) for value in set(values or ())}
    return paths, np.array([label_of[value] for value in values or ()] or np.full(rows, -1), np.int32)


def _sets(values: Any, rows: int, source: DatasetSource) -> MultiLabels:
    """Return several labels for each row. Raises InputError for values that are none."""
    if values is None:
        return MultiLabels.none(rows)
    items = []
    for row, value in enumerate(values):
        try:
            items.append(source.read_label(value))
        except ValueError as error:
            raise InputError(f"{source.name}, row {row}: {error}") from error
    known = [item if isinstance(item, tuple) else ([], []) for item in items]
    labels, unknown = (LabelSets.from_lists(item[i] for item in known) for i in (0, 1))
    pairs = zip(items, values, strict=True)
    has_0 = any(isinstance(item, tuple) and sum(map(len, item)) < len(value) for item, value in pairs)
    is_said = source.sets is not None and source.sets.empty == "unknown"
    if len(labels.label) and len(unknown.label) and not has_0 and not is_said:
        refuse_signed(rows, source.name)
    return MultiLabels(labels, unknown, np.array([item is not None for item in items], bool))


def _is_sample(pair: Any) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and isinstance(pair[0], str | os.PathLike)
        and isinstance(pair[1], int | np.integer)
    )


def _is_path_and_more(pair: Any) -> bool:
    return isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str | os.PathLike)


def _make_refs(data: Any, paths: list[str], index: list[int], name: str) -> tuple[str, list[str]]:
    """Return the root, and the ref of each row."""
    if not paths or len(set(paths)) != len(paths):
        return "", [f"{name}#{i}" for i in index]
    root = getattr(data, "root", None)
    if isinstance(root, str | os.PathLike):
        absolute = [Path.cwd() / path for path in paths]  # not resolved: that would follow symlinks
        if all(path.is_relative_to(Path.cwd() / root) for path in absolute):
            inside = [path.relative_to(Path.cwd() / root).as_posix() for path in absolute]
            return str(Path(root).resolve()), [inside[i] for i in index]
    return str(Path.cwd()), [paths[i] for i in index]
