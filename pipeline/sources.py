"""Where images come from: folder -> manifest; ref -> encoded bytes. Knows nothing of models or pixels."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.predictions import keys_of, mix

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of image files, in lower case; upper case is read too."""

LIMIT_SALT = 1
"""So that --limit chooses other rows than anything else that goes by the key."""


def _no_columns() -> pa.Table:
    return pa.table({})


@dataclass(frozen=True)
class Manifest:
    """The ordered list of inputs. Row i of every column is the image of id i."""

    root: str
    """Folder that the refs are relative to."""
    image: pa.StringArray
    """[rows] refs with / between folders."""
    label: NDArray[np.int32]
    """[rows], -1 if unknown."""
    key: NDArray[np.int64]
    """[rows] hash of the ref."""
    classes: tuple[str, ...]
    """Names of the labels; empty if the source has none."""
    columns: pa.Table = field(default_factory=_no_columns)
    """[rows] whatever else the source says of its images."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.image)

    def digest(self, start: int, stop: int) -> str:
        """16 hexadecimal digits that change with any ref, label or column of rows start to stop."""
        hashed = blake2b(digest_size=8)
        refs = self.image.slice(start, stop - start).to_pylist()
        further = (
            self.columns.slice(start, stop - start).to_pylist() if self.columns.num_columns else [None] * len(refs)
        )
        for ref, label, more in zip(refs, self.label[start:stop].tolist(), further, strict=True):
            line = json.dumps([ref, label] if more is None else [ref, label, more], default=str, sort_keys=True)
            hashed.update(line.encode("ascii") + b"\n")
        return hashed.hexdigest()

    def limited(self, rows: int | None) -> "Manifest":
        """At most this many rows, chosen evenly over the data by the hash of their keys, in their order."""
        if rows is None or rows >= len(self):
            return self
        chosen = np.sort(np.argsort(mix(self.key, LIMIT_SALT), kind="stable")[:rows])
        take = pa.array(chosen)
        columns = self.columns.take(take) if self.columns.num_columns else self.columns
        return Manifest(self.root, self.image.take(take), self.label[chosen], self.key[chosen], self.classes, columns)


def open_source(data: str) -> Manifest:
    """Manifest of a folder of images.

    Class folders in plain sorted order, the files of a class sorted by folder and name, as torchvision's ImageFolder
    has them; symlinks are followed; names that start with a dot are left out. A lone top folder that itself holds
    folders is descended. A folder without class folders is a list of images without labels.

    Raises InputError if there is no such folder, or no images in it.
    """
    root = Path(data)
    if not root.exists():
        raise InputError(f"no folder {data}: expected one sub-folder of images for each class")
    if not root.is_dir():
        raise InputError(f"{data} is a file; expected a folder with one sub-folder of images for each class")
    refs: list[str] = []
    labels = []
    try:
        root = root.resolve()
        folders, files = _listed(root)
        while len(folders) == 1 and not files and _listed(root / folders[0])[0]:
            root = root / folders[0]
            folders, files = _listed(root)
        for label, folder in enumerate(folders):
            found = sorted(_images(root / folder, frozenset({root.resolve()})))
            refs += (f"{folder}/{inside}/{name}" if inside else f"{folder}/{name}" for inside, name in found)
            labels += [np.full(len(found), label, np.int32)]
    except OSError as error:
        raise InputError(f"cannot list {error.filename or data}: {error.strerror}") from error
    if not folders:
        refs = files
        labels = [np.full(len(files), -1, np.int32)]
    if not refs:
        raise InputError(f"no images in {data}: looked for {' '.join(EXTENSIONS)} in {max(len(folders), 1)} folders")
    try:
        image = pa.array(refs, pa.string())
    except UnicodeEncodeError as error:
        raise InputError(f"{data} has a file name that is not valid UTF-8 ({error}): rename it") from error
    return Manifest(str(root), image, np.concatenate(labels), keys_of(refs), tuple(folders))


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the sub-folders and of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        seen = [(e.name, _is_folder(e)) for e in entries if not e.name.startswith(".")]
    names = sorted(name for name, is_folder in seen if not is_folder and name.lower().endswith(EXTENSIONS))
    return sorted(name for name, is_folder in seen if is_folder), names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself, or too many one behind the other
        return False


def _images(folder: Path, above: frozenset[Path], inside: str = "") -> Iterator[tuple[str, str]]:
    """(folder inside the class, file name) of every image below a class folder; `above` are the folders it lies in."""
    real = folder.resolve()
    if real in above:  # a symlink to one of them: there would be no end
        return
    folders, files = _listed(folder)
    yield from ((inside, name) for name in files)
    for name in folders:
        yield from _images(folder / name, above | {real}, f"{inside}/{name}" if inside else name)


def read(root: str, ref: str) -> bytes:
    """Encoded bytes of one image. Raises OSError if it cannot be read."""
    path = Path(unquote(ref.removeprefix("file://"))) if ref.startswith("file://") else Path(root) / ref
    return path.read_bytes()
