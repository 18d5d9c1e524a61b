"""Reads a zip file of class folders in place, by the same rules as a folder. It knows nothing of pixels."""

import functools
import posixpath
import threading
import zipfile
from collections.abc import Iterable

from predboard.errors import InputError
from predboard.images.class_folders import describe_left_out, is_hidden, refuse_splits, sort_into_classes
from predboard.images.manifest import IMAGE_SUFFIXES, Manifest, SourceOptions, make_manifest
from predboard.images.shared_cache import shared_cache
from predboard.storage.paths import AnyPath, is_remote, open_binary

SUFFIXES = (".zip",)
SHARDED = False

_PIECE_BYTES = 2**17
"""Bytes of a request for a file in storage."""


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one archive; its images have no labels if one of them lies beside the class folders.

    Raises InputError if two members have the same name.
    """
    del options  # its names say everything
    (file,) = files
    with _open(file) as archive:
        names = [canonical_name(name) for name in archive.namelist() if not name.endswith(("/", "\\"))]
    names = [name for name in names if not any(map(is_hidden, name.split("/")))]
    refuse_duplicates(names, file)
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    notes = describe_left_out([], [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)])
    by_class = sort_into_classes(images)
    refuse_splits(by_class, file, "unpack it and name one, or pack SPLIT alone")
    if by_class.beside:
        return make_manifest(file.parent, [f"{file.name}#{name}" for name in sorted(images)], notes=notes)
    top = f"{by_class.top}/" if by_class.top else ""
    refs = [f"{file.name}#{top}{name}" for name in by_class.names]
    return make_manifest(file.parent, refs, by_class.label, by_class.classes, notes=notes)


def canonical_name(name: str) -> str:
    r"""Return a member's name with / between folders and nothing superfluous.

    >>> canonical_name("./a//1.png"), canonical_name("a\\1.png")
    ('a/1.png', 'a/1.png')
    """
    return posixpath.normpath(name.replace("\\", "/"))


def refuse_duplicates(names: Iterable[str], file: AnyPath) -> None:
    """Raise InputError if a name occurs twice: a reader finds only one of the two."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{file} has two members named {name}: pack it again, with each name once")
        seen.add(name)


def read(file: AnyPath, member: str) -> bytes:
    """Return the bytes of a member. Raises FileNotFoundError if there is no such member."""
    stored_name = _stored_names(file).get(canonical_name(member))
    if stored_name is None:
        raise FileNotFoundError(2, "No such member")
    return _opened(file, _reader(file)).read(stored_name)


def _reader(file: AnyPath) -> int:
    """Return which threads share an open file: all on this machine; in storage none, or each would wait for others."""
    return threading.get_ident() if is_remote(file) else 0


@shared_cache(64)
def _stored_names(file: AnyPath) -> dict[str, str]:
    """Return canonical name -> name in the archive."""
    return {canonical_name(name): name for name in _opened(file, _reader(file)).namelist()}


@functools.lru_cache(maxsize=64)
def _opened(file: AnyPath, reader: int) -> zipfile.ZipFile:
    del reader  # each has its own
    return _open(file)


def _open(file: AnyPath) -> zipfile.ZipFile:
    return zipfile.ZipFile(open_binary(file, _PIECE_BYTES) if is_remote(file) else file)
