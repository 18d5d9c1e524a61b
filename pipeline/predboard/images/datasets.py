"""A map-style torch dataset -> manifest; one of its items -> picture, label, preview. Knows no model and no runs.

An item is an image; or (image, label), of which any further members are ignored; or a mapping with an image and, if it
has them, a label and a preview. An image is a Pillow picture, uint8, or floats that are ready for the model.
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
from predboard.images import sources
from predboard.images.decode import Content
from predboard.predictions.schema import hash_refs

FORM = "FILE.py:DATASET, a torch Dataset or a function that returns one, for example my_data.py:val_dataset"
IMAGE_KEYS = ("image", "img", "images", "pixel_values", "input", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "cls", "y")
"""Keys of a mapping that are taken for the image and the label where none is named, the first that is there."""
PREVIEW_KEY = "preview"


class MapStyle(Protocol):
    """What is needed of a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class DatasetItem:
    """What a dataset gives for one index."""

    image: Content
    label: int | None
    """Index into the manifest's classes, -1 if unknown to them; None where the item says nothing."""
    preview: Content | None


@dataclass(frozen=True)
class DatasetSource:
    """A dataset, and how to find it again in another process."""

    data: Any
    name: str
    """FILE.py:DATASET without the folder, or the type of an object."""
    code: str = ""
    """Digest of the file."""
    spec: str = ""
    """FILE.py:DATASET as it was given; empty for an object."""
    image_key: str | None = None
    label_key: str | None = None
    own: tuple[str, ...] = ()
    """Class names that the dataset's own labels count through."""
    classes: tuple[str, ...] = ()
    """Those that the manifest's labels do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A file's dataset is made again from its file, whose module another process could not import by name."""
        rest = (self.image_key, self.label_key, self.own, self.classes)
        if self.spec:
            return _again, (self.spec, *rest)
        return DatasetSource, (self.data, self.name, self.code, self.spec, *rest)

    def item(self, index: int) -> DatasetItem:
        """Load one item. Raises whatever the dataset raises, and ValueError for an item that is none of the forms."""
        found = self.data[index]
        label: Any = None
        preview = None
        if isinstance(found, Mapping):
            image = found[_key(found, self.image_key, IMAGE_KEYS, "image")]
            name = _key(found, self.label_key, LABEL_KEYS, "")
            label = found[name] if name else None
            preview = found.get(PREVIEW_KEY)
        elif isinstance(found, tuple | list):
            if not found:
                raise ValueError("the dataset gave an empty item; expected (image, label)")
            image, label = found[0], found[1] if len(found) > 1 else None
        else:
            image = found
        return DatasetItem(to_content(image), self._label(label), None if preview is None else to_content(preview))

    def _label(self, value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, str):
            if not self.classes:
                raise ValueError(f"label is the name {value!r}, but the dataset has no classes: see --classes")
            return self.classes.index(value) if value in self.classes else -1
        index = _index(value)
        if self.own == self.classes or not self.own:
            return index
        name = self.own[index] if 0 <= index < len(self.own) else None
        return self.classes.index(name) if name in self.classes else -1


def _again(spec: str, *rest: Any) -> DatasetSource:
    return replace(open_dataset(spec), **dict(zip(("image_key", "label_key", "own", "classes"), rest, strict=True)))


def _key(item: Mapping[Any, Any], asked: str | None, usual: Sequence[str], needed: str) -> str:
    """Key of a mapping: the one that was asked for, else the first usual one, else ''. Raises ValueError if needed."""
    found = next((name for name in ((asked,) if asked else usual) if name in item), "")
    if not found and (needed or asked):
        raise ValueError(
            f"the dataset's item has no {asked or needed!r}; it has {', '.join(map(str, item))}: name the key of the "
            "image by --image-column, that of the label by --label-column"
        )
    return found


def _index(value: Any) -> int:
    """A label as a number, -1 if it cannot be one: from an int of Python, NumPy or torch, or a float that is whole."""
    one = value
    if hasattr(value, "item") and int(np.prod(tuple(value.shape))) == 1:
        one = value.item()
    if isinstance(one, float) and one.is_integer():
        one = int(one)
    try:
        index = operator.index(one)
    except TypeError:
        shape = f" of shape {list(value.shape)}" if hasattr(value, "shape") else f" ({value!r})"
        raise ValueError(
            f"label is a {type(value).__name__}{shape}; expected the index of a class, or its name"
        ) from None
    return index if 0 <= index < 2**31 else -1


def to_content(image: Any) -> Content:
    """An image in one of the forms of `Content`.

    Of uint8, tensors are [channels, height, width], as torchvision makes them, and NumPy arrays are [height, width,
    channels], as Pillow does; either may be [height, width]. Floats are [channels, height, width].

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
        known: NDArray[Any] = array
        if known.dtype == np.uint8:
            return known
        if np.issubdtype(known.dtype, np.floating):
            return known.astype(np.float32, copy=False)
    raise ValueError(
        f"image is {array.dtype} of shape {list(array.shape)}; expected a Pillow picture, uint8, or floats of "
        "[channels, height, width] that are ready for the model"
    )


def open_dataset(spec: str) -> DatasetSource:
    """The dataset named FILE.py:DATASET. Raises InputError if it is not there or is no map-style dataset."""
    found = user_code.load_object(spec, "data", FORM)
    data = found.value
    if isinstance(data, type) or (callable(data) and not hasattr(data, "__getitem__")):
        try:
            with user_code.import_path(found.folder):
                data = data()
        except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is shown, in one line
            raise InputError(f"{found.name} raised {type(error).__name__}: {first_line(error)}") from error
    return DatasetSource(check_map_style(data, found.name), found.name, found.code, spec)


def check_map_style(data: Any, name: str) -> Any:
    """The dataset, if it is one. Raises InputError if it is not map-style, or empty."""
    iterable = any(kind.__name__ == "IterableDataset" for kind in type(data).__mro__)
    if iterable or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise InputError(
            f"{name} is a {type(data).__name__}; expected a map-style torch.utils.data.Dataset: a length, and items by "
            "their index"
        )
    if not len(data):
        raise InputError(f"{name} is empty; expected a dataset with items")
    return data


def make_manifest(source: DatasetSource, options: sources.SourceOptions) -> sources.Manifest:
    """Manifest of a dataset: refs and labels as far as it tells them without loading anything.

    Refs are the paths of `samples` or `imgs`, relative to `root` if they lie below it, if no two rows share one; else
    NAME#index, where NAME is the name in the file, or the type of the dataset. Class names are its `classes`, or those
    in Hugging Face's `features`. Labels are those of `samples`, `imgs`, `targets` or `labels`; without them all are
    unknown until an item says its own. A `Subset` has the refs and labels that its rows have in the whole.

    Raises InputError for options that a dataset cannot have.
    """
    for flag, given in (("--key-column", options.key_column), ("--image-root", options.image_root)):
        if given is not None:
            raise InputError(f"{flag} is for lists of images; {source.name} is a dataset: leave it out")
    data, index = _whole(source.data)
    label, paths = _told(data)
    own = _class_names(data, options.label_column)
    source = replace(
        source,
        image_key=options.image_column,
        label_key=options.label_column,
        own=own,
        classes=options.classes or own,
    )
    name = source.name.rpartition(":")[2] if source.spec else type(data).__name__
    root, refs = _refs(data, paths, index, name)
    # As the items' own labels will be read, so that a row means the same before and after it is loaded.
    known = {value: source._label(value) for value in set(label)}
    return sources.Manifest(
        root,
        pa.array(refs, pa.string()),
        np.array([known[label[i]] for i in index] if label else np.full(len(index), -1), np.int32),
        hash_refs(refs),
        source.classes,
        dataset=source,
        place=np.arange(len(index), dtype=np.int64),
    )


def _whole(data: Any) -> tuple[Any, list[int]]:
    """The dataset that a `Subset` of a `Subset` … is of, and the index in it of each row."""
    index = list(range(len(data)))
    while hasattr(data, "dataset") and hasattr(data, "indices"):
        index = [int(data.indices[i]) for i in index]
        data = data.dataset
    return data, index


def _class_names(data: Any, label_key: str | None) -> tuple[str, ...]:
    """Names that the dataset's own labels count through; empty if it tells none."""
    names = getattr(data, "classes", None)
    features = getattr(data, "features", None)
    if names is None and isinstance(features, Mapping):
        key = next((k for k in ((label_key,) if label_key else LABEL_KEYS) if k in features), None)
        names = getattr(features.get(key), "names", None)
    return tuple(map(str, names or ()))


def _told(data: Any) -> tuple[list[int], list[str]]:
    """Label and path of each row as far as the dataset tells them; empty lists where it does not."""
    rows = len(data)
    for name in ("samples", "imgs"):
        pairs = getattr(data, name, None)
        if isinstance(pairs, Sequence) and len(pairs) == rows and all(map(_is_sample, pairs)):
            return [_index(label) for _, label in pairs], [Path(path).as_posix() for path, _ in pairs]
    for name in ("targets", "labels"):
        values = getattr(data, name, None)
        if values is not None and hasattr(values, "__len__") and len(values) == rows:
            array = np.asarray(values)
            if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
                return np.maximum(array, -1).tolist(), []
    return [], []


def _is_sample(pair: Any) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and isinstance(pair[0], str | os.PathLike)
        and isinstance(pair[1], int | np.integer)
    )


def _refs(data: Any, paths: list[str], index: list[int], name: str) -> tuple[str, list[str]]:
    """(root, ref of each row)."""
    if not paths or len(set(paths)) != len(paths):
        return "", [f"{name}#{i}" for i in index]
    root = getattr(data, "root", None)
    if isinstance(root, str | os.PathLike):
        absolute = [Path.cwd() / path for path in paths]  # resolved they would be the targets of symlinks
        if all(path.is_relative_to(Path.cwd() / root) for path in absolute):
            inside = [path.relative_to(Path.cwd() / root).as_posix() for path in absolute]
            return str(Path(root).resolve()), [inside[i] for i in index]
    return str(Path.cwd()), [paths[i] for i in index]
