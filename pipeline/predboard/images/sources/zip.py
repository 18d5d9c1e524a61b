"""Reads a zip file of class folders in place, by the same rules as a folder. It knows nothing of pixels."""

import functools
import threading
import zipfile
from collections.abc import Iterable

from predboard.errors import InputError
from predboard.images.class_folders import describe_left_out, is_hidden, refuse_splits, sort_into_classes
from predboard.images.manifest import Manifest, SourceOptions, canonical_member, image_suffixes, make_manifest
from predboard.images.shared_cache import shared_cache, version_of
from predboard.storage.paths import AnyPath, check_size, is_remote, open_binary

SUFFIXES = (".zip",)
SHARDED = False

_PIECE_BYTES = 2**17
"""Bytes of a request for a file in storage."""


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one archive.

    Raises InputError if two members have the same name.
    """
    del options  # its names say everything
    (file,) = files
    with _open(file) as archive:
        names = [canonical_member(name) for name in archive.namelist() if not name.endswith(("/", "\\"))]
        _check_beginning(archive, file)
    names = [name for name in names if not any(map(is_hidden, name.split("/")))]
    refuse_duplicates(names, file)
    images = [name for name in names if name.lower().endswith(image_suffixes())]
    by_class = sort_into_classes(images)
    others = [name for name in names if not name.lower().endswith(image_suffixes())]
    notes = describe_left_out(by_class.beside, others)
    refuse_splits(by_class, file, "unpack it and name one, or pack SPLIT alone")
    top = f"{by_class.top}/" if by_class.top else ""
    refs = [f"{file.name}#{top}{name}" for name in by_class.names]
    return make_manifest(file.parent, refs, by_class.label, by_class.classes, notes=notes, origin=file)


def _check_beginning(archive: zipfile.ZipFile, file: AnyPath) -> None:
    """Raise InputError if members come before the first one of the list at the end, as after `cat a.zip b.zip`."""
    first = min((member.header_offset for member in archive.infolist()), default=0)
    with open_binary(file) as stream:
        if first and stream.read(4) == b"PK\3\4":
            raise InputError(f"{file} has members that its list does not name: pack or copy it again")


def refuse_duplicates(names: Iterable[str], file: AnyPath) -> None:
    """Raise InputError if a name occurs twice: a reader finds only one of the two."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{file} has two members named {name}: pack it again, with each name once")
        seen.add(name)


def read(file: AnyPath, member: str, max_read_gb: float) -> bytes:
    """Return the bytes of a member. Raises FileNotFoundError if there is no such member."""
    names = _stored_names(file)
    stored_name = names.get(member) or names.get(canonical_member(member))
    if stored_name is None:
        raise FileNotFoundError(2, "No such member")
    archive = _opened(file, version_of(file), _reader(file))
    check_size(archive.getinfo(stored_name).file_size, max_read_gb)
    return archive.read(stored_name)


def _reader(file: AnyPath) -> int:
    """Return which threads share an open file: all on this machine; in storage none, or each would wait for others."""
    return threading.get_ident() if is_remote(file) else 0


@shared_cache(64)
def _stored_names(file: AnyPath) -> dict[str, str]:
    """Return canonical name -> name in the archive."""
    return {canonical_member(name): name for name in _opened(file, version_of(file), _reader(file)).namelist()}


@functools.lru_cache(maxsize=64)
def _opened(file: AnyPath, version: tuple[int, ...], reader: int) -> zipfile.ZipFile:
    del version, reader  # each has its own
    return _open(file)


def _open(file: AnyPath) -> zipfile.ZipFile:
    return zipfile.ZipFile(open_binary(file, _PIECE_BYTES) if is_remote(file) else file)
