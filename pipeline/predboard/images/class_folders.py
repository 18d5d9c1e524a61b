"""Sorts file names into classes by their folders, as torchvision's ImageFolder does. It knows nothing of pixels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images.manifest import PLUGINS

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})
"""Names that folders of splits have, in lower case."""

_NOTED_SUFFIXES = 4
"""Kinds of files that a note names."""

_SYSTEM_FOLDERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
"""Files and folders that systems put beside pictures, in lower case; others begin with a dot."""


@dataclass(frozen=True)
class ClassFolders:
    """Holds images sorted into the folders that name their classes."""

    top: str
    """The folder that holds the class folders, relative to the folder that the names were given for; often empty."""
    names: list[str]
    """[rows] names of the images, relative to `top`."""
    label: NDArray[np.int32]
    """[rows] index into `classes`; -1 everywhere if there are no class folders."""
    classes: tuple[str, ...]
    """Names of the class folders, sorted."""
    beside: list[str]
    """Names of images that lie beside the class folders instead of in one; they are not among `names`."""


def sort_into_classes(images: Sequence[str], folders: Iterable[str] = ()) -> ClassFolders:
    """Sort images into classes: the top folders of their names.

    Classes are in plain sorted order, and the images of a class are sorted by folder, then by name, as torchvision's
    ImageFolder has them. While the only thing at the top is one folder, and that holds folders, it is descended.
    Without class folders the images are a sorted list without labels.

    Args:
        images: names of the images, with / between folders.
        folders: names of folders that count as classes even where they hold no image.

    >>> by_class = sort_into_classes(["set/b/1.png", "set/a/x/2.png", "set/a/3.png"])
    >>> by_class.top, by_class.names, by_class.label.tolist(), by_class.classes
    ('set', ['a/3.png', 'a/x/2.png', 'b/1.png'], [0, 0, 1], ('a', 'b'))
    """
    holders = {name.rpartition("/")[0] for name in images}  # folders that hold images themselves
    children: dict[str, set[str]] = {}
    for folder in holders.union(folders):
        while folder:
            parent, _, name = folder.rpartition("/")
            children.setdefault(parent, set()).add(name)
            folder = parent
    top = ""
    while top not in holders and len(children.get(top, ())) == 1:
        inner = f"{top}/{next(iter(children[top]))}".removeprefix("/")
        if inner not in children:
            break
        top = inner
    names = [name[len(top) + 1 :] for name in images] if top else list(images)
    classes = tuple(sorted(children.get(top, ())))
    if not classes:
        return ClassFolders(top, sorted(names), np.full(len(names), -1, np.int32), (), [])
    index = {name: i for i, name in enumerate(classes)}
    inside = sorted((name for name in names if "/" in name), key=_order)
    label = np.array([index[name.partition("/")[0]] for name in inside], np.int32)
    return ClassFolders(top, inside, label, classes, sorted(name for name in names if "/" not in name))


def _order(name: str) -> tuple[str, str, str]:
    """Sort key: class folder, folders inside it, file name."""
    folder, _, file = name.rpartition("/")
    top, _, inside = folder.partition("/")
    return top, inside, file


def refuse_splits(by_class: ClassFolders, origin: object, advice: str) -> None:
    """Raise InputError if what looks like classes are train, val and the like, with folders in each of them.

    Args:
        by_class: the sorted images.
        origin: where they are, for the message.
        advice: what to do instead; SPLIT in it is the folder of a split.
    """
    splits = len(by_class.classes) > 1 and {name.lower() for name in by_class.classes} <= _SPLITS
    if splits and all(name.count("/") > 1 for name in by_class.names):
        names = ", ".join(by_class.classes)
        inside = f"{by_class.top}/{by_class.classes[-1]}".removeprefix("/")
        what = advice.replace("SPLIT", inside)
        raise InputError(f"{origin} holds {names}, which look like splits and not like classes: {what}")


def describe_left_out(beside: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return what the user should know about files that are no rows, a line for each of the two kinds.

    Args:
        beside: images that lie beside the class folders.
        others: files that are no images by their names.

    >>> describe_left_out([], ["a/1.psd", "a/2.psd", "b/LICENSE"])
    ('3 files are not read as images: 2 .psd, 1 without a suffix',)
    """
    notes = []
    if beside:
        one = len(beside) == 1
        notes.append(
            f"{plural(len(beside), 'image')} beside the class folders {'is' if one else 'are'} left out, "
            f"{'' if one else 'for example '}{beside[0]}: move {'it' if one else 'them'} into a class folder"
        )
    if others:
        suffixes = Counter(PurePosixPath(name).suffix.lower() or "without a suffix" for name in others)
        known = {end: f" (pip install {package.replace('_', '-')} to read them)" for end, package in PLUGINS.items()}
        first = sorted(suffixes.items(), key=lambda item: (item[0] not in known, -item[1]))[:_NOTED_SUFFIXES]
        kinds = ", ".join(f"{count:,} {suffix}{known.get(suffix, '')}" for suffix, count in first)
        more = ", …" if len(suffixes) > _NOTED_SUFFIXES else ""
        verb = "file is not read as an image" if len(others) == 1 else "files are not read as images"
        notes.append(f"{len(others):,} {verb}: {kinds}{more}")
    return tuple(notes)


def is_hidden(name: str) -> bool:
    """Return whether files and folders of this name are left out: systems and tools put them beside pictures.

    >>> is_hidden("._0001.png"), is_hidden("__MACOSX"), is_hidden("@eaDir"), is_hidden("0001.png")
    (True, True, True, False)
    """
    return name.startswith(".") or name.lower() in (*_SYSTEM_FOLDERS, *_SYSTEM_FILES)
