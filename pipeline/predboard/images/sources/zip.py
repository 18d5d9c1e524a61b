"""Reads a zip file of class folders in place, by the same rules as a folder. It knows nothing of pixels."""

import functools
import os
import threading
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, NamedTuple, cast

from predboard.errors import InputError
from predboard.images.class_folders import describe_left_out, is_hidden, refuse_splits, sort_into_classes
from predboard.images.manifest import Manifest, SourceOptions, canonical_member, image_suffixes, make_manifest
from predboard.images.shared_cache import shared_cache, version_of
from predboard.storage.paths import AnyPath, check_size, is_remote, open_binary

SUFFIXES = (".zip",)
SHARDED = False

_PIECE_BYTES = 2**17
"""Bytes of a request for a file in storage."""

_UNUSUAL_FLAGS, _UTF_8_FLAG = 0x61, 0x800
"""Flags of a member (APPNOTE.TXT, 4.4.4): encrypted, patched, strongly encrypted; and how its name is written."""

_HEADER_MARK, _HEADER_BYTES = b"PK\3\4", 30
"""Beginning and length of the header before each member, up to its name (APPNOTE.TXT, 4.3.7)."""

_EXTRA_BYTES = 64
"""Bytes of a member's header behind its name that are read with it: Info-ZIP writes 28, for its times and owner."""


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
        if first and stream.read(4) == _HEADER_MARK:
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
    listed = _listed(file)
    info = listed.members.get(member) or listed.members.get(canonical_member(member))
    if info is None:
        raise FileNotFoundError(2, "No such member")
    check_size(max(info.file_size, info.compress_size), max_read_gb)
    if is_remote(file):
        return _opened_for_thread(file).read(info)
    content = read_at_once(listed.archive, info)
    return listed.archive.read(info) if content is None else content


def read_at_once(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | None:
    """Return the bytes of a member of a local file by one call of the system, where `zipfile` makes several.

    Returns None for everything unusual or damaged: `zipfile` then reads it, or says what is wrong with it.
    """
    is_usual = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and info.file_size
    if not is_usual or info.flag_bits & _UNUSUAL_FLAGS or not hasattr(os, "pread"):
        return None
    name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8_FLAG else "cp437")
    length = _HEADER_BYTES + len(name) + _EXTRA_BYTES + info.compress_size
    record = os.pread(cast(IO[bytes], archive.fp).fileno(), length, info.header_offset)
    flags, name_length, extra_length = (int.from_bytes(record[at : at + 2], "little") for at in (6, 26, 28))
    start = _HEADER_BYTES + name_length + extra_length
    packed = record[start : start + info.compress_size]
    same = record[_HEADER_BYTES : _HEADER_BYTES + name_length] == name and not (flags ^ info.flag_bits) & _UTF_8_FLAG
    if not (same and record.startswith(_HEADER_MARK)):
        return None
    content = packed
    if info.compress_type == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, info.file_size)
        except zlib.error:
            return None
    return content if len(content) == info.file_size and zlib.crc32(content) == info.CRC else None


class _Listed(NamedTuple):
    archive: zipfile.ZipFile
    """Open; all threads share it where the file is on this machine."""
    members: dict[str, zipfile.ZipInfo]
    """By canonical name."""


@shared_cache(64)
def _listed(file: AnyPath) -> _Listed:
    archive = _opened_for_thread(file) if is_remote(file) else _open(file)
    return _Listed(archive, {canonical_member(info.filename): info for info in archive.infolist()})


def _opened_for_thread(file: AnyPath) -> zipfile.ZipFile:
    """Return a file in storage, opened for this thread alone: else each would wait for others."""
    return _opened_by((threading.get_ident(), *version_of(file)), file)


@functools.lru_cache(maxsize=64)
def _opened_by(thread_and_version: tuple[int, ...], file: AnyPath) -> zipfile.ZipFile:
    del thread_and_version
    return _open(file)


def _open(file: AnyPath) -> zipfile.ZipFile:
    return zipfile.ZipFile(open_binary(file, _PIECE_BYTES) if is_remote(file) else file)
