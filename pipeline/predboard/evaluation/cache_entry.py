"""Reads and writes one file of the state cache: a ZIP archive of states and derived rows. It knows nothing of panels.

    header.json           the parts, the version of each panel, and how each state is built from the arrays
    arrays/12.lz4         one array: its bytes as an LZ4 frame
    rows/<part key>.arrow  the derived rows of one part: an Arrow stream

`unzip -l` lists an entry. ZIP gives every member a CRC-32, and a member counts only if it matches. Entries are data:
reading one creates arrays, JSON values and dataclasses of states, and runs nothing else. There is no pickle in them.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from predboard.errors import DamagedError, first_line
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import digest_records
from predboard.predictions.tasks import wrap_derived_rows
from predboard.storage.paths import AnyPath, explain_write_errors, open_binary, publish_file, staging_dir

SUFFIX = ".states.zip"
PARTIAL_SUFFIX = ".partial"
"""Ends the name of an entry while it is written."""

_HEADER = "header.json"

_CODEC = "lz4"
"""Files are a third larger than with Zstandard, and are read and written in a fifth of the time."""

_READ_BUFFER_BYTES = 2**22
"""Bytes that one request to object storage fetches."""

_MAX_OPEN_ENTRIES = 16
"""Entries that are open at a time, as many as processes write by default."""

_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pa.ArrowException,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that `zipfile`, Arrow and JSON raise for a file with flipped or missing bytes."""


@contextlib.contextmanager
def _explain_damage(path: AnyPath) -> Iterator[None]:
    """Raise DamagedError instead of whatever is raised because a file is damaged or missing."""
    try:
        yield
    except _DAMAGE as error:
        raise DamagedError(f"{path} cannot be read: {first_line(error)}") from error


@contextlib.contextmanager
def _open_archive(path: AnyPath) -> Iterator[zipfile.ZipFile]:
    """Open an entry. Raises DamagedError if it is missing, or if anything that is read from it is damaged."""
    with (
        _explain_damage(path),
        open_binary(path, _READ_BUFFER_BYTES) as file,
        zipfile.ZipFile(file) as archive,
    ):
        yield archive


@dataclass(frozen=True)
class CacheEntry:
    """One file of the cache whose header was read. Its other members are checked when they are read."""

    path: AnyPath
    parts: Mapping[str, int]
    """Number of rows of each part, by the part's key."""
    panels: Mapping[str, tuple[str, int]]
    """For each panel its version and the node of its state."""
    rows_version: str | None
    """Version of the derived rows; None if the entry has none."""
    nodes: Sequence[Any]
    """Instructions for building the states, see `_StateEncoder`."""

    @classmethod
    def read(cls, path: AnyPath) -> "CacheEntry":
        """Read the header of an entry. Raises DamagedError if the file is missing, damaged or something else."""
        with _open_archive(path) as archive:
            return cls(path, **json.loads(archive.read(_HEADER)))

    @property
    def row_count(self) -> int:
        """Rows of all parts together."""
        return sum(self.parts.values())

    def load(self, names: Iterable[str], packages: Collection[str] = (), verify_rows: bool = False) -> dict[str, Any]:
        """Return the merged states of some panels. Objects that the states shared when they were written are shared.

        Args:
            names: of panels in this entry.
            packages: top-level packages, besides predboard, whose dataclasses may be created.
            verify_rows: also check the derived rows of every part.

        Raises:
            DamagedError: if something does not match its checksum, or the file is missing.
        """
        with _open_archive(self.path) as archive:
            if verify_rows:
                for key, count in self.parts.items():
                    if count:
                        archive.read(_rows_member(key))
            decoder = _StateDecoder(archive, self.nodes, {"predboard", *packages})
            return {name: decoder.value(self.panels[name][1]) for name in names}


class CachedRows:
    """Reads the derived rows of parts from their entries.

    Entries stay open between calls. The processes that wrote them took turns, so that neighbouring parts are in as many
    entries as there were processes.
    """

    def __init__(self, entries: Mapping[str, CacheEntry]) -> None:
        """Read from these entries, given by the keys of their parts."""
        self._entries = entries
        self._open: dict[AnyPath, tuple[contextlib.ExitStack, zipfile.ZipFile]] = {}  # the last used comes last

    def read(self, key: str) -> list[DerivedRows] | None:
        """Return the derived rows of one part; None if no entry has them, or they are damaged or gone by now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not entry.parts[key]:
            return []
        try:
            archive = self._archive(entry.path)
            with _explain_damage(entry.path), pa.ipc.open_stream(archive.read(_rows_member(key))) as stream:
                return [wrap_derived_rows(batch) for batch in stream]
        except DamagedError:
            return None

    def _archive(self, path: AnyPath) -> zipfile.ZipFile:
        """Return an open entry. Raises DamagedError if it is missing or damaged."""
        if path in self._open:
            stack, archive = self._open.pop(path)
        else:
            while len(self._open) >= _MAX_OPEN_ENTRIES:
                oldest, _ = self._open.pop(next(iter(self._open)))
                oldest.close()
            stack = contextlib.ExitStack()
            archive = stack.enter_context(_open_archive(path))
        self._open[path] = stack, archive
        return archive

    def close(self) -> None:
        """Close all entries."""
        while self._open:
            self._open.popitem()[1][0].close()


class EntryWriter:
    """Writes one entry: the derived rows of each part as they are measured, then the merged states.

    Everything goes into a `.partial` file; `finish` renames it, so that a reader sees the whole entry or none. The same
    content gives the same bytes and the same name.
    """

    def __init__(self, folder: AnyPath, versions: Mapping[str, str], rows_version: str | None) -> None:
        """Begin an entry in `folder`, which is created.

        Args:
            folder: of the cache.
            versions: of the panels, by name.
            rows_version: of the derived rows; None if none will be added.
        """
        self._folder = folder
        self._versions = versions
        self._rows_version = rows_version
        self._parts: dict[str, int] = {}
        self._partial = staging_dir(folder) / f"{os.getpid()}{PARTIAL_SUFFIX}"
        with self._discarding():
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._archive = zipfile.ZipFile(self._partial, "w")

    def add_part(self, key: str, row_count: int, rows: Sequence[DerivedRows]) -> None:
        """Add a part, with its derived rows if the entry has them. Raises InputError if they cannot be written."""
        self._parts[key] = row_count
        if rows:
            sink = pa.BufferOutputStream()
            options = pa.ipc.IpcWriteOptions(compression=_CODEC)
            with pa.ipc.new_stream(sink, rows[0].batch.schema, options=options) as stream:
                for batch in rows:
                    stream.write_batch(batch.batch)
            with self._discarding():
                _add_member(self._archive, _rows_member(key), sink.getvalue())

    def finish(self, states: Mapping[str, Any], max_bytes: int) -> CacheEntry | None:
        """Write the states, merged over all parts, and put the entry in its place.

        Returns None, and leaves nothing, if the entry has more than `max_bytes`. Raises TypeError for a state that
        holds what cannot be cached, and InputError if it cannot be written.
        """
        with self._discarding():
            encoder = _StateEncoder(self._archive)
            panels = {name: (self._versions[name], encoder.node(state)) for name, state in states.items()}
            header = {
                "parts": self._parts,
                "panels": panels,
                "rows_version": self._rows_version,
                "nodes": encoder.nodes,
            }
            content = json.dumps(header).encode()
            _add_member(self._archive, _HEADER, content, zipfile.ZIP_DEFLATED)
            self._archive.close()
            if self._partial.stat().st_size > max_bytes:
                self.discard()
                return None
            path = self._folder / f"{digest_records(header)}{SUFFIX}"
            publish_file(self._partial, path)
            return CacheEntry(path, **json.loads(content))

    def discard(self) -> None:
        """Give the entry up."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._archive.close()
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        """Give the entry up if anything is raised; raise InputError where the folder cannot be written to."""
        try:
            with explain_write_errors(self._folder):
                yield
        except BaseException:
            self.discard()
            raise


class _StateEncoder:
    """Turns states into nodes, which are JSON values, and writes their arrays into an archive.

    A node names what to build and the numbers of the nodes it is built from. Each object gets one node, so that states
    that share an object share it again when they are read.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.nodes: list[Any] = []
        self._archive = archive
        self._numbers: dict[int, tuple[int, Any]] = {}  # by id(); holds the object, so that its id stays its own

    def node(self, value: Any) -> int:
        """Return the number of a value's node. Raises TypeError for types that no state may hold."""
        if id(value) not in self._numbers:
            node = self._encode(value)  # before the number is known, because it adds nodes
            self._numbers[id(value)] = len(self.nodes), value
            self.nodes.append(node)
        return self._numbers[id(value)][0]

    def _encode(self, value: Any) -> list[Any]:
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                return ["texts", value.shape, value.reshape(-1).tolist()]
            member = f"arrays/{len(self.nodes)}.lz4"
            content = pa.compress(pa.py_buffer(np.ascontiguousarray(value)), _CODEC, asbytes=True)
            _add_member(self._archive, member, content)
            return ["array", value.shape, value.dtype.str, member]
        if isinstance(value, np.generic):
            return ["scalar", value.dtype.str, value.tobytes().hex()]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self.node(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return ["state", type(value).__module__, type(value).__qualname__, fields]
        if isinstance(value, Mapping):
            return ["mapping", {key: self.node(inner) for key, inner in value.items()}]
        if value is None or isinstance(value, str | int | float):
            return ["plain", value]
        raise TypeError(
            f"a state holds {type(value).__name__}, which cannot be cached; it may hold arrays, NumPy scalars, "
            "dataclasses, mappings and plain values"
        )


class _StateDecoder:
    """Builds states from the nodes of `_StateEncoder`."""

    def __init__(self, archive: zipfile.ZipFile, nodes: Sequence[Any], packages: Collection[str]) -> None:
        self._archive = archive
        self._nodes = nodes
        self._packages = packages
        self._values: dict[int, Any] = {}

    def value(self, number: int) -> Any:
        """Return the value of a node. Raises DamagedError for a class that is no dataclass of the packages."""
        if number not in self._values:
            self._values[number] = self._decode(*self._nodes[number])
        return self._values[number]

    def _decode(self, kind: str, *details: Any) -> Any:
        if kind == "array":
            shape, dtype, member = details
            size = math.prod(shape) * np.dtype(dtype).itemsize
            content = pa.decompress(self._archive.read(member), size, _CODEC)
            return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
        if kind == "texts":
            shape, texts = details
            array = np.empty(shape, object)
            array.reshape(-1)[:] = texts
            return array
        if kind == "scalar":
            dtype, content = details
            return np.frombuffer(bytes.fromhex(content), np.dtype(dtype))[0]
        if kind == "state":
            module, name, fields = details
            state_type = getattr(importlib.import_module(module), name, None) if self._is_known(module) else None
            if not (isinstance(state_type, type) and dataclasses.is_dataclass(state_type)):
                raise DamagedError(f"{module}.{name} is not the dataclass of a state")
            return state_type(**{field: self.value(node) for field, node in fields.items()})
        if kind == "mapping":
            return {key: self.value(node) for key, node in details[0].items()}
        return details[0]

    def _is_known(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages


def _rows_member(key: str) -> str:
    return f"rows/{key}.arrow"


def _add_member(
    archive: zipfile.ZipFile, name: str, content: bytes | pa.Buffer, compression: int = zipfile.ZIP_STORED
) -> None:
    """Write one member, with the time that `ZipInfo` gives to all, so that bytes depend on the content alone."""
    archive.writestr(zipfile.ZipInfo(name), content, compression)
