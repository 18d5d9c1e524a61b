"""Reads uncompressed tar files: shards of WebDataset, or class folders as in a zip. It knows nothing of pixels.

In WebDataset, members that share a name up to its first dot are one row: `0001.png` is the image, `0001.cls` the label,
and `0001.json` has further columns. Names may have more dots where that leaves each member in one row. A ref is
FILE#MEMBER.
"""

import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa

from predboard.errors import InputError, UnreadableError, reading
from predboard.images.class_folders import describe_left_out, is_hidden, refuse_splits, sort_into_classes
from predboard.images.columns import list_labelled, to_column
from predboard.images.manifest import Manifest, SourceOptions, canonical_member, image_suffixes, make_manifest
from predboard.images.shared_cache import shared_cache
from predboard.images.text_tables import parse_json
from predboard.images.unread_labels import NO_COLUMN
from predboard.storage.paths import MAX_READ_GB, AnyPath, check_size, is_remote, open_binary

SUFFIXES = (".tar",)
SHARDED = True

_PIECE_BYTES = 2**23
"""Bytes of a request for a file in storage that is read through for its index."""

_MAX_LINKS = 8
"""Links of a member that are followed, one after the other."""

_COLUMN_ENDS = ("cls", "json")
"""Endings of the names of members that hold a row's columns."""


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one or more shards.

    Raises InputError if a file is cut off or has two members of the same name, if it is unclear which members belong
    to a row, or if a `.json` member is not valid JSON.
    """
    refs: list[str] = []
    images: list[str] = []
    rows: list[dict[str, Any]] = []
    others: list[str] = []
    unread: dict[str, None] = {}
    for file in files:
        index = _index(file)
        members = [n for n in (*index.members, *index.unreadable) if not any(map(is_hidden, n.split("/")))]
        used = set()
        for image, by_end in group_rows(members, file.name):
            refs.append(f"{file.name}#{image}")
            images.append(image)
            rows.append(_read_columns(file, by_end, options.label_column, as_text=options.sets is not None))
            used |= {image, *by_end.values()}
            unread |= {end: None for end, name in by_end.items() if name != image and end not in _COLUMN_ENDS}
        others += [name for name in members if name not in used]
        index.texts.clear()
    columns = list(dict.fromkeys(name for row in rows for name in row))  # not every row has all of them
    notes = _note_unread(list(unread))
    if not columns and options.label_column in (None, NO_COLUMN):
        manifest = _list_folders(files, refs, images, others)
        return manifest if manifest.classes else replace(manifest, notes=(*manifest.notes, *notes))
    root = files[0].parent
    table = pa.table({name: to_column([row.get(name) for row in rows]) for name in columns})
    if options.label_column is None and "cls" in columns:
        options = replace(options, label_column="cls")
    manifest = list_labelled(table, files[0], "", refs, root, options)
    notes = notes if manifest.unlabelled == len(manifest) else ()
    return replace(manifest, notes=(*manifest.notes, *notes, *describe_left_out([], others)))


def _list_folders(files: Sequence[AnyPath], refs: list[str], images: list[str], others: list[str]) -> Manifest:
    """Return the manifest of rows that have no columns: folders name their classes, as in a zip."""
    by_class = sort_into_classes(images)
    refuse_splits(by_class, files[0], "unpack it and name one, or pack SPLIT alone")
    start = len(by_class.top) + 1 if by_class.top else 0
    label_of = dict(zip(by_class.names, by_class.label.tolist(), strict=True))
    rows = [(ref, name[start:]) for ref, name in zip(refs, images, strict=True) if name[start:] in label_of]
    label = np.array([label_of[name] for _, name in rows], np.int32)
    notes = describe_left_out(by_class.beside, others)
    refs = [ref for ref, _ in rows]
    return make_manifest(files[0].parent, refs, label, by_class.classes, notes=notes, origin=files[0])


def _note_unread(ends: Sequence[str]) -> tuple[str, ...]:
    """Return a note about members of rows that are not read and could be their labels; none if there are none."""
    shown = ", ".join(f".{end}" for end in ends)
    note = f"the rows have members {shown}, which are not read: --label-column {(*ends, '')[0]} takes them as labels"
    return (note,) if ends else ()


def group_rows(members: Sequence[str], file: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (member that is the image, members by what follows the row's name) for each row, in the members' order.

    >>> [image for image, _ in group_rows(["1.png", "1.seg.png", "1.cls"], "x.tar")]  # an exact suffix wins
    ['1.png']
    >>> [image for image, _ in group_rows(["v1.0.png", "v1.0.cls", "v1.1.png", "v1.1.cls"], "x.tar")]
    ['v1.0.png', 'v1.1.png']

    Raises InputError if a row has several images, or if a label belongs to no image.
    """
    for name, group in _group(members, first_dot=True).items():
        images = [end for end in group if f".{end}".endswith(image_suffixes())]
        exact = [end for end in images if f".{end}" in image_suffixes()]
        if len(exact) > 1:
            raise InputError(
                f"{file} has several images named {name}: {', '.join(group[end] for end in exact[:3])}; expected one "
                "for each row: give them different names"
            )
        if exact:
            yield group[exact[0]], group
        elif len(images) == 1 and any(end in group for end in _COLUMN_ENDS):
            yield group[images[0]], group
        elif images:
            yield from _group_by_last_dot(list(group.values()), file)


def _group_by_last_dot(members: Sequence[str], file: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows among members whose names have dots: up to the last one a name is that of its row."""
    for name, group in _group(members, first_dot=False).items():
        images = [end for end in group if f".{end}" in image_suffixes()]
        if len(images) > 1 or (not images and any(end in group for end in _COLUMN_ENDS)):
            what = f"several images named {name}" if images else f"{next(iter(group.values()))} without an image"
            raise InputError(
                f"{file} has {what}, and several images whose names begin alike: use no dots in names but the one "
                "before the suffix"
            )
        if images:
            yield group[images[0]], group


def _group(members: Sequence[str], first_dot: bool) -> dict[str, dict[str, str]]:
    """Return row name -> what follows it, in lower case -> member."""
    groups: dict[str, dict[str, str]] = {}
    for member in members:
        folder, slash, file = member.rpartition("/")
        stem, _, end = file.partition(".") if first_dot else file.rpartition(".")
        groups.setdefault(f"{folder}{slash}{stem}", {})[end.lower()] = member
    return groups


def _is_column(name: str) -> bool:
    return name.lower().endswith(tuple(f".{end}" for end in _COLUMN_ENDS))


def _read_columns(file: AnyPath, by_end: Mapping[str, str], label: str | None, as_text: bool) -> dict[str, Any]:
    """Return the columns of a row: those in its `.json` member, `cls`, and the member that --label-column names.

    A member that is a number becomes one, unless all shall stay text because others may be several labels.
    """
    columns: dict[str, Any] = {}
    if "json" in by_end:
        with reading(f"{file.name}#{by_end['json']} as JSON"):
            content = parse_json(read(file, by_end["json"]))
        columns |= content if isinstance(content, dict) else {"json": content}
    for end in {"cls", label or "cls"} & by_end.keys() - columns.keys():
        with reading(f"{file.name}#{by_end[end]}"):
            text = read(file, by_end[end]).decode().strip()
            columns[end] = int(text) if re.fullmatch(r"-?\d+", text) and not as_text else text
    return columns


def read(file: AnyPath, member: str, max_read_gb: float = MAX_READ_GB) -> bytes:
    """Return the bytes of a member. Raises FileNotFoundError if there is no such member."""
    index = _index(file)
    member = canonical_member(member)
    if member in index.texts:
        return index.texts[member]
    if member in index.unreadable:
        raise UnreadableError(index.unreadable[member])
    if member not in index.members:
        raise FileNotFoundError(2, "No such member")
    offset, length = index.members[member]
    check_size(length, max_read_gb)
    with open_binary(file) as stream:
        stream.seek(offset)
        return bytes(stream.read(length))


@dataclass(frozen=True)
class _Index:
    members: dict[str, tuple[int, int]]
    """Canonical name -> (offset, length), so that each member is a single read."""
    texts: dict[str, bytes]
    """Content of `.json` and `.cls` members of a file in storage, which is read through for its index anyway."""
    unreadable: dict[str, str]
    """Members that are named like images and whose bytes are not there: why."""


@shared_cache(64)
def _index(file: AnyPath) -> _Index:
    """Read the headers of all members. Raises InputError if the file is damaged or has two members of one name."""
    with open_binary(file, _PIECE_BYTES) as stream:
        return _read_index(stream, "r|" if is_remote(file) else "r:", file)


def _read_index(stream: BinaryIO, mode: Literal["r:", "r|"], file: AnyPath) -> _Index:
    index, links = _Index({}, {}, {}), dict[str, str]()
    with reading(file), tarfile.open(fileobj=stream, mode=mode) as archive:
        name = ""
        for member in archive:
            if member.isdir():
                continue
            name = canonical_member(member.name)
            if name in index.members or name in index.unreadable or name in links:
                raise InputError(f"{file} has two members named {name}: pack it again, with each name once")
            if member.islnk():
                links[name] = canonical_member(member.linkname)
            elif member.issym():
                links[name] = canonical_member(posixpath.join(posixpath.dirname(name), member.linkname))
            elif not member.isreg() or member.issparse():
                index.unreadable[name] = "it is no ordinary member of the archive: pack it again"
            else:
                index.members[name] = (member.offset_data, member.size)
                if mode == "r|" and _is_column(name) and (text := archive.extractfile(member)):
                    index.texts[name] = text.read()
        _check_end(stream, archive.offset, file, name)
    for name, target in links.items():
        for _ in range(_MAX_LINKS):
            target = links.get(target, target)
        if target in index.members:
            index.members[name] = index.members[target]
        else:
            index.unreadable[name] = f"it is a link to {target}, which is not in the archive"
    return index


def _check_end(stream: BinaryIO, offset: int, file: AnyPath, last: str) -> None:
    """Raise InputError unless the archive has its end mark at this offset, and nothing behind it.

    tarfile takes a damaged header for the end, and a file that is cut off between two members for whole.
    """
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
        pieces = iter(lambda: stream.read(_PIECE_BYTES), b"")
        if not any(piece.strip(b"\0") for piece in pieces):
            return
    after = f"after {last}" if last else "at its beginning"
    raise InputError(f"{file} is cut off or damaged {after}: copy or pack it again")
