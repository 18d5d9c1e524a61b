"""Finds the images that --data names: one module here is one kind of source. It knows nothing of pixels or models.

A module here is found by listing the folder. It offers what `Source` asks for, and `read` too if its files hold images
inside them (`Container`). To add a kind of source, add a module here, a `tests/images/sources/test_NAME.py` with an
`write_example`, and a line in docs/data.md; tests/images/test_source_laws.py then holds it to the rules.
"""

import contextlib
import functools
import importlib
import itertools
import pkgutil
import re
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

from predboard.errors import InputError, reading
from predboard.images.label_values import RawLabels, describe_strange, respell
from predboard.images.manifest import Manifest, SourceOptions, split_ref
from predboard.images.shared_cache import read_storage_anew, version_of
from predboard.images.sources import folder
from predboard.near_paths import did_you_mean_path
from predboard.predictions.label_sets import MultiLabels
from predboard.storage.paths import (
    MAX_READ_GB,
    AnyPath,
    check_regular,
    expand_glob,
    is_remote,
    join_ref,
    open_binary,
    parse_path,
    read_bytes,
)


class Source(Protocol):
    """Each module in this folder defines these names."""

    SUFFIXES: tuple[str, ...]
    """Endings of the names of its files, in lower case; none for a folder."""
    SHARDED: bool
    """Whether several files may be given together, and a folder of such files is one source."""

    def list_images(self, files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
        """Return the manifest of these files. Raises InputError, or whatever a parser raises for a damaged file."""
        ...


@runtime_checkable
class Container(Source, Protocol):
    """A module whose files hold the images inside them also reads single ones; refs are FILE#MEMBER."""

    def read(self, file: AnyPath, member: str, max_read_gb: float) -> bytes:
        """Return the encoded bytes of one image; called by many threads at once.

        Raises FileNotFoundError if there is no such member, UnreadableError if it takes more memory than that, and
        whatever a parser raises if the file is damaged.
        """
        ...


def names() -> tuple[str, ...]:
    """Return the names of all kinds of sources, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf", "7-Zip"),
    (b"Rar!", "RAR"),
)
"""First bytes of compressed files, with the name of the program."""

_TAR_AT, _TAR_MAGIC = 257, b"ustar"
"""Place and bytes by which a tar file is known (POSIX.1-1988)."""


def load(name: str) -> Source:
    """Return the module of that name."""
    return cast(Source, importlib.import_module(f"{__name__}.{name}"))


def open_source(data: str, options: SourceOptions | None = None) -> Manifest:
    """Return the manifest of the folder or file that --data names, recognised by its name.

    A folder of Parquet or tar files without any images is read as those files. `{000..012}` and `{a,b}` in a name
    stand for several, unless there is a file or folder of that very name.

    Raises InputError if there is no such folder or file, no image in it, or a column that the user named is missing.
    """
    options = options or SourceOptions()
    read_storage_anew()
    with reading(data):
        files = expand_pattern(data)
        if absent := next((file for file in files if not file.exists()), None):
            raise InputError(
                f"no folder {absent}, and no such file: expected a folder with a sub-folder of images per class, or a "
                f"list{did_you_mean_path(absent, suffixes=_all_suffixes())}"
            )
        manifest = _open(files, options)
    if options.sets is not None and not isinstance(manifest.label, MultiLabels):
        manifest = _without_labels(manifest, data)
    if not options.classes:
        return manifest
    if isinstance(manifest.label, MultiLabels):
        return manifest.with_classes(options.classes)
    spelled, respelled = respell(list(manifest.classes), options.classes)
    manifest = replace(manifest, classes=tuple(map(str, spelled)))
    names: RawLabels = [manifest.classes[i] if i >= 0 else -1 for i in manifest.class_label] if manifest.classes else []
    strange, _ = describe_strange(names, options.classes, manifest.origin)
    manifest = replace(manifest, notes=(*manifest.notes, *filter(None, (respelled, strange))))
    return manifest.with_classes(options.classes)


def _without_labels(manifest: Manifest, data: str) -> Manifest:
    """Return the manifest of a source that cannot say several labels of an image. Raises InputError if it says one."""
    if manifest.classes or manifest.unlabelled < len(manifest):
        raise InputError(
            f"{data} says one class for each image, by its folders or a file of numbers; with --task multi-label "
            "expected a list of the images with their labels (CSV, JSON lines, Parquet), or a dataset"
        )
    return replace(manifest, label=MultiLabels.none(len(manifest)))


def _open(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    if len(files) == 1 and files[0].is_dir():
        tree = folder.list_tree(files[0])
        files = () if tree.images else _shards_in(tree)
        if not files:
            return folder.from_tree(tree)
    source = source_of(files[0].name)
    if source is None and files[0].suffix.lower() in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        raise InputError(f"{files[0]} is compressed: unpack it first, and give the folder or the .tar")
    if source is None:
        ends = ", ".join(_all_suffixes())
        raise InputError(f"{files[0]} is not a source of images: expected a folder, or a file that ends in {ends}")
    if len(files) > 1 and not source.SHARDED:
        raise InputError(f"--data names {len(files)} files like {files[0].name}: expected one file of this kind")
    for file in files:
        check_regular(file)
        _refuse_disguised(file)
    return source.list_images(tuple(file.resolve() for file in files), options)


def _refuse_disguised(file: AnyPath) -> None:
    """Raise InputError for a local file that is compressed or another archive, whatever its name says."""
    if is_remote(file) or not file.is_file():
        return
    with reading(file), open_binary(file) as stream:
        head = stream.read(_TAR_AT + len(_TAR_MAGIC))
    ends = file.name.lower()
    if packed := next((name for magic, name in _COMPRESSED if head.startswith(magic)), ""):
        if not ends.endswith(".gz"):
            raise InputError(f"{file} is compressed by {packed}, whatever its name says: unpack it first")
    elif head.startswith(b"PK\3\4") and not ends.endswith(".zip"):
        raise InputError(f"{file} is a zip file: name it so that it ends in .zip")
    elif head[_TAR_AT:].startswith(_TAR_MAGIC) and not ends.endswith(".tar"):
        raise InputError(f"{file} is a tar file: name it so that it ends in .tar")


def _shards_in(tree: folder.Tree) -> tuple[AnyPath, ...]:
    """Return the shards right in a folder, sorted by name. Raises InputError if they are of several kinds."""
    names = sorted(name for name in tree.others if "/" not in name)
    kinds = {kind.SUFFIXES[0]: kind.SUFFIXES for kind in load_all() if kind.SHARDED}
    shards = {first: [n for n in names if n.lower().endswith(suffixes)] for first, suffixes in kinds.items()}
    shards = {first: files for first, files in shards.items() if files}
    if len(shards) > 1:
        kinds_of_files = " and ".join(f"{len(files):,} {first}" for first, files in shards.items())
        raise InputError(
            f"{tree.root} holds {kinds_of_files} files: name those of one kind, for example --data "
            "FOLDER/NAME-{000..012}.tar"
        )
    return tuple(tree.root / name for files in shards.values() for name in files)


def expand_pattern(data: str) -> tuple[AnyPath, ...]:
    """Return the files that --data names: the one of that very name, else those that `{000..012}` or `*` stands for."""
    literal = "{" in data and parse_path(data).exists()
    return tuple(map(parse_path, [data] if literal else itertools.chain(*map(expand_glob, expand_braces(data)))))


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with `{000..012}` or `{a,b}` stands for.

    >>> expand_braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, listed = match.groups()
    if listed is not None:
        middle = listed.split(",")
    else:
        middle = [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    return [name for m in middle for name in expand_braces(pattern[: match.start()] + m + pattern[match.end() :])]


@functools.cache
def load_all() -> tuple[Source, ...]:
    """Return all modules in this folder, in the order of their names."""
    return tuple(map(load, names()))


def _all_suffixes() -> tuple[str, ...]:
    return tuple(suffix for kind in load_all() for suffix in kind.SUFFIXES)


def source_of(name: str) -> Source | None:
    """Return the module that reads files of this name; None if no module does."""
    lower = name.lower()
    return next((source for source in load_all() if lower.endswith(source.SUFFIXES)), None)


@functools.lru_cache(1024)  # to ask a protocol and make a path takes as long as decoding a small image
def _container_of(root: str, name: str) -> tuple[Container | None, AnyPath]:
    """Return who reads a container, None for a file that is none, and its path."""
    source = source_of(name)
    return source if isinstance(source, Container) else None, join_ref(root, name)


def read(root: str, ref: str, max_read_gb: float = MAX_READ_GB) -> bytes:
    """Return the encoded bytes of one image.

    Args:
        root: root of the manifest.
        ref: a file, or FILE#MEMBER of a container.
        max_read_gb: gigabytes that the image, or what has to be read with it, may take in memory.

    Raises OSError, UnreadableError, or whatever a parser raises if the image cannot be read.
    """
    container, member = split_ref(ref)
    if container:
        source, file = _container_of(root, container)
        if source is not None and (is_remote(file) or file.is_file()):
            return source.read(file, member, max_read_gb)
    return read_bytes(join_ref(root, ref), max_read_gb)


def stamp_of(root: str, ref: str) -> tuple[int, ...]:
    """Return numbers that change when the file of an image is written again; () if it is in storage or has none.

    What is wrong with an image is said when it is read.
    """
    container, _ = split_ref(ref)
    for name in filter(None, (ref, container)):
        with contextlib.suppress(OSError, ValueError):  # also of a ref with a null byte, or a URI with a secret
            return () if is_remote(file := join_ref(root, name)) else version_of(file)
    return ()
