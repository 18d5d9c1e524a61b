"""States of parts, kept as files beside the logs so that the next time reads only what is new. Knows no drawing.

An entry has the states of some parts together, merged, and their derived rows part by part. It is found by the digests
of its parts and the versions of its panels, and counts only if every byte that is taken from it fits its checksum. It
is data: names of our dataclasses and arrays, and nothing in it is run.

    arrays and rows, compressed | header, JSON, compressed | its length so and when it is decompressed | digest | magic
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from predboard.errors import DamagedError, first_line
from predboard.panels import Panel
from predboard.parallel.threads import ordered_map
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.sampling import rounded_size
from predboard.predictions.schema import digest_records
from predboard.state import merge_all
from predboard.storage.parts import PartFile
from predboard.storage.paths import AnyPath, explain_write_errors, is_remote, map_files, open_binary, open_tail

CACHE_FOLDER = ".predboard-states"
"""In a run's folder of logs: TensorBoard looks for names with `tfevents`."""

DERIVED_ROWS = "rows"
"""Stands for the derived rows among the panels' names; no panel is called so."""

CACHE_MAX_BYTES = 8 * 2**30
"""Bytes of all entries together. What is above is read again."""

SMALL_ENTRY_ROWS = 65_536
"""Rows below which an entry is small: it takes as long to take up as one of twice as many."""

MAX_SMALL_ENTRIES = 4
"""Small entries that a step may have: of more, as of many reruns with a new part each, some are joined."""

_IMPORTS = re.compile(
    r"^[ \t]*from (predboard[\w.]*) import (\(.*?^[ \t]*\)|[^\n]*)|^[ \t]*import (predboard[\w.]*)",
    re.MULTILINE | re.DOTALL,
)
"""From where, names, or a whole module."""

_MAGIC = b"pbstate4"
_END = 16 + 32 + len(_MAGIC)
"""Bytes of an entry after its header."""
_GUESS = 2**16
"""Bytes of the end that are read at once, in which most headers are whole."""
_SUFFIX = ".states"
_CODEC = "lz4"
"""A third larger than zstd makes it, and written and read in a fifth of the time."""


PackedRows = tuple[str, bytes | memoryview, int]
"""A part's key, its derived rows, compressed, and their size before."""


def part_key(part: PartFile) -> str:
    """Of a part as far as its footer tells: what it holds, of which run, and how its rows are sampled."""
    return digest_records(
        {"part": asdict(part.part), "run": part.run.fingerprint, "of": rounded_size(part.manifest_rows)}
    )


def state_versions(panels: Mapping[str, Panel]) -> dict[str, str]:
    """Version of each panel's state, and that of the derived rows.

    It is a digest of the panel's settings, of its module and all that this imports of ours, of what reads the rows, and
    of the libraries that compute.
    """
    program = _Program()
    base = {
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "machine": platform.machine(),
        "code": program.digest("predboard.evaluation.fold"),
    }
    found = {DERIVED_ROWS: digest_records(base)}
    for name, panel in panels.items():
        settings = {f.name: getattr(panel, f.name) for f in dataclasses.fields(cast(Any, panel))}
        plain = {k: sorted(v) if isinstance(v, frozenset) else repr(v) for k, v in settings.items()}
        found[name] = digest_records({**base, "panel": program.digest(type(panel).__module__), "settings": plain})
    return found


class _Program:
    """Our own source files, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, list[str]] | None] = {}

    def digest(self, module: str) -> str:
        """Of a module and all modules of the package that it imports, directly or not."""
        found: dict[str, str] = {}
        wanted = [module]
        while wanted:
            name = wanted.pop()
            if name not in self._known:
                self._known[name] = self._read(name)
            known = self._known[name]
            if known is not None and name not in found:
                found[name], more = known
                wanted += more
        return digest_records(found)

    def _read(self, module: str) -> tuple[str, list[str]] | None:
        """Digest of a source and what it imports from the package, names that are no modules among it; None if there is
        no module of that name.
        """
        path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not module.startswith("predboard.") or not file.is_file():
            return None
        source = file.read_bytes()
        imports: list[str] = []
        for from_, names, whole in _IMPORTS.findall(source.decode()):  # a tenth of the time of parsing it
            imports += [whole or from_, *(f"{from_}.{name}" for name in re.findall(r"\w+", names))]
        return hashlib.blake2b(source, digest_size=8).hexdigest(), imports


@dataclass(frozen=True)
class CacheEntry:
    """One file whose header was read and fits its digest. What is in it is checked when it is taken."""

    place: AnyPath
    parts: Mapping[str, int]
    """Rows of each part, by its key."""
    panels: Mapping[str, tuple[str, int]]
    """Version and node of each panel's state."""
    rows: Mapping[str, int]
    """Blob of each part's derived rows, if it has them."""
    rows_version: str
    nodes: list[Any]
    blobs: list[tuple[int, int, int, int]]
    """Where each begins, its length in the file and when it is decompressed, and its CRC-32 as it is in the file."""

    @property
    def count(self) -> int:
        """Rows of all parts."""
        return sum(self.parts.values())

    @property
    def _state_blobs(self) -> int:
        """How many blobs are of states: those of rows come after them."""
        return min(self.rows.values(), default=len(self.blobs))

    def has_only(self, names: frozenset[str]) -> bool:
        """Whether it has nothing but these panels, and derived rows if `DERIVED_ROWS` is among them."""
        return self.panels.keys() == names - {DERIVED_ROWS} and bool(self.rows) == (DERIVED_ROWS in names)

    def names(self, versions: Mapping[str, str]) -> frozenset[str]:
        """Of the panels, and `DERIVED_ROWS`, that are of these versions."""
        found = {name for name, (version, _) in self.panels.items() if version == versions.get(name)}
        return frozenset(
            found | ({DERIVED_ROWS} if self.rows and self.rows_version == versions[DERIVED_ROWS] else set())
        )

    def states(self, names: Iterable[str]) -> dict[str, Any]:
        """States of some panels; what they share is shared.

        Raises DamagedError if a state does not fit its checksum, or the file is gone.
        """
        blobs = self.blobs[: self._state_blobs]
        content = self._read(blobs)
        made: dict[int, Any] = {}

        def blob(index: int) -> pa.Buffer:
            at, length, size, _ = blobs[index]
            return pa.decompress(content[at : at + length], size, _CODEC)

        def value(index: int) -> Any:
            if index not in made:
                made[index] = _value(self.nodes[index], value, blob)
            return made[index]

        return {name: value(self.panels[name][1]) for name in names}

    def compressed_rows(self, part: str) -> tuple[memoryview, int]:
        """The derived rows of a part as they are in the file, and their size when they are decompressed.

        Raises DamagedError if they do not fit their checksum, or the file is gone.
        """
        blob = self.blobs[self.rows[part]]
        return self._read([blob]), blob[2]

    def rows_of(self, part: str) -> list[DerivedRows]:
        """The derived rows of a part. Raises DamagedError as `packed_rows`."""
        with pa.ipc.open_stream(pa.decompress(*self.compressed_rows(part), _CODEC)) as stream:
            return [DerivedRows(batch) for batch in stream]

    def verify_rows(self) -> None:
        """Raise DamagedError if the derived rows are damaged, or the file is gone."""
        self._read(self.blobs[self._state_blobs :])

    def _read(self, blobs: Sequence[tuple[int, int, int, int]]) -> memoryview:
        """Neighbouring blobs, which fit their checksums."""
        begin = blobs[0][0] if blobs else 0
        with self._opened() as file:
            file.seek(begin)
            content = memoryview(file.read(sum(length for _, length, _, _ in blobs)))
        for at, length, _, crc in blobs:
            if zlib.crc32(content[at - begin : at - begin + length]) != crc:
                raise DamagedError(f"{self.place} is damaged")
        return content

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with open_binary(self.place) as file:
                yield file
        except OSError as error:
            raise DamagedError(f"{self.place} cannot be read: {first_line(error)}") from error


def _value(node: Any, value: Callable[[int], Any], blob: Callable[[int], pa.Buffer]) -> Any:
    """What a node says, of `_Content`."""
    kind, *what = node
    if kind == "array":
        index, dtype, shape = what
        return np.frombuffer(blob(index), np.dtype(dtype)).reshape(shape)
    if kind == "texts":
        index, shape = what
        texts = np.empty(shape, object)
        texts.reshape(-1)[:] = json.loads(blob(index).to_pybytes())
        return texts
    if kind == "scalar":
        dtype, content = what
        return np.frombuffer(bytes.fromhex(content), np.dtype(dtype))[0]
    if kind == "state":
        module, name, fields = what
        class_ = getattr(importlib.import_module(module), name, None) if module.startswith("predboard.") else None
        if not (isinstance(class_, type) and dataclasses.is_dataclass(class_)):
            raise DamagedError(f"{module}.{name} is no state")
        return class_(**{field: value(index) for field, index in fields.items()})
    if kind == "named":
        return {key: value(index) for key, index in what[0].items()}
    return what[0]


class _Content:
    """An entry while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._nodes: list[Any] = []
        self._index: list[tuple[int, int, int, int]] = []
        self._at = 0
        self._made: dict[int, tuple[int, Any]] = {}  # by identity, with the value, so that no other gets its place

    def blob(self, content: bytes | pa.Buffer) -> int:
        """The place of some bytes."""
        return self.packed(*_packed(content))

    def packed(self, compressed: bytes | memoryview, size: int) -> int:
        """The place of some bytes that are compressed already, from this size."""
        self._index.append((self._at, len(compressed), size, zlib.crc32(compressed)))
        self._file.write(compressed)
        self._at += len(compressed)
        return len(self._index) - 1

    def node(self, value: Any) -> int:
        """The place of a value, and of all that is in it. Raises TypeError for what no state may hold."""
        if id(value) not in self._made:
            self._nodes.append(self._node(value))
            self._made[id(value)] = len(self._nodes) - 1, value
        return self._made[id(value)][0]

    def _node(self, value: Any) -> list[Any]:
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                return ["texts", self.blob(json.dumps(value.reshape(-1).tolist()).encode()), value.shape]
            return ["array", self.blob(pa.py_buffer(np.ascontiguousarray(value))), value.dtype.str, value.shape]
        if isinstance(value, np.generic):
            return ["scalar", value.dtype.str, value.tobytes().hex()]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self.node(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return ["state", type(value).__module__, type(value).__qualname__, fields]
        if isinstance(value, Mapping):
            return ["named", {key: self.node(inner) for key, inner in value.items()}]
        if value is None or isinstance(value, str | int | float):
            return ["plain", value]
        raise TypeError(f"a state holds {type(value).__name__}, which cannot be kept: see pipeline/kept.py")

    def end(self, header: Mapping[str, Any]) -> None:
        """Write what is in it, so that it is an entry."""
        record = json.dumps({**header, "nodes": self._nodes, "blobs": self._index}).encode()
        packed, size = _packed(record)
        head = packed + len(packed).to_bytes(8, "little") + size.to_bytes(8, "little")
        self._file.write(head + _digest(head).encode() + _MAGIC)


def _packed(content: bytes | pa.Buffer) -> tuple[bytes, int]:
    """Some bytes compressed, and their size before."""
    return pa.compress(content, _CODEC, asbytes=True), len(content)


def _digest(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _end(place: AnyPath, length: int) -> bytes:
    """The last bytes of a file, all where there are fewer."""
    with open_tail(place, length) as file:
        file.seek(-min(length, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read()


def _entry(place: AnyPath) -> CacheEntry | None:
    """None if it is damaged, or none of ours."""
    try:
        end = _end(place, _GUESS)
        length, size = (int.from_bytes(end[-_END:][at : at + 8], "little") for at in (0, 8))
        if not end.endswith(_MAGIC) or length > CACHE_MAX_BYTES:
            return None
        if len(end) < length + _END:
            end = _end(place, length + _END)
        head, digest = end[-length - _END : -_END + 16], end[-_END + 16 : -len(_MAGIC)]
        if _digest(head).encode() != digest:
            return None
        record = json.loads(pa.decompress(head[:-16], size, _CODEC).to_pybytes())
        return CacheEntry(place, **record)
    except (OSError, pa.ArrowException, ValueError, TypeError):  # whatever was done to it, it is made again
        return None


class RowSpool:
    """Derived rows of some parts, compressed, in a file without a name: those of a hundred thousand have 10 MB.

    What will be in storage waits in memory, where the whole entry is put together.
    """

    def __init__(self, folder: AnyPath, file: IO[bytes]) -> None:
        """`folder` is where they will be kept."""
        self._folder = folder
        self._file = file
        self._has: list[tuple[str, int, int]] = []

    def __del__(self) -> None:
        with contextlib.suppress(OSError):  # where there was no room, which was said, there is none for the rest
            self._file.close()

    def add(self, part: str, rows: list[DerivedRows]) -> None:
        """Those of one part. Raises InputError where there is no room."""
        if rows:
            packed, size = _packed(_stream(rows))
            with explain_write_errors(self._folder):
                self._file.write(packed)
            self._has.append((part, len(packed), size))

    def __iter__(self) -> Iterator[PackedRows]:
        self._file.seek(0)
        for part, length, size in self._has:
            yield part, self._file.read(length), size


@dataclass(frozen=True)
class CacheLookup:
    """What is kept of the parts of a step."""

    states: dict[str, Any]
    """Of panels, merged over all parts for which they need not be read."""
    missing: Mapping[str, frozenset[str]]
    """By a part's key: the panels, and `DERIVED_ROWS`, for which it must be read."""
    rows: Mapping[str, CacheEntry]
    """By a part's key: what has its derived rows."""


@dataclass
class _Join:
    """Small entries that become one."""

    entries: list[CacheEntry] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    """Merged over them."""


def _groups(entries: Iterable[CacheEntry]) -> list[list[CacheEntry]]:
    """What to join so that no more than `MAX_SMALL_ENTRIES` small ones are left: the smallest, up to about "
    "`SMALL_ENTRY_ROWS` rows together.
    """
    small = sorted(
        (entry for entry in entries if entry.count < SMALL_ENTRY_ROWS),
        key=lambda entry: (entry.count, entry.place.name),
    )
    groups: list[list[CacheEntry]] = []
    while len(small) > MAX_SMALL_ENTRIES:
        groups.append([])
        while small and sum(entry.count for entry in groups[-1]) < SMALL_ENTRY_ROWS:
            groups[-1].append(small.pop(0))
    return groups


def _loaded(asked: tuple[CacheEntry, frozenset[str]]) -> dict[str, Any] | None:
    """States of an entry; None if they are damaged, or its derived rows, if these are among what it is asked for."""
    entry, names = asked
    try:
        if DERIVED_ROWS in names:
            entry.verify_rows()
        return entry.states(sorted(names - {DERIVED_ROWS}))
    except (DamagedError, pa.ArrowException):
        return None


@dataclass(frozen=True)
class StateCache:
    """The entries of a run; none without a folder."""

    folder: AnyPath | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """From `state_versions`, of the panels that are drawn now."""

    def find(
        self, parts: Mapping[int, Mapping[str, int]], names: Mapping[int, frozenset[str]]
    ) -> dict[int, CacheLookup]:
        """What is kept, and what must be read.

        Entries that are damaged, or of no use any more, are removed.

        Args:
            parts: for each step the rows of its parts, by their keys.
            names: for each step the panels that are wanted, and `DERIVED_ROWS`.
        """
        for unfinished in () if self.folder is None else self.folder.glob("*.partial"):
            unfinished.unlink(missing_ok=True)
        entries = []
        places = self._places()
        for place, entry in zip(places, map_files(_entry, places, self.folder or Path()), strict=True):
            if entry is None:
                place.unlink(missing_ok=True)
            else:
                entries.append(entry)
        entries.sort(key=lambda entry: (-len(entry.parts), entry.place.name))
        used: set[AnyPath] = set()
        found = {step: self._of_step(parts[step], names[step], entries, used) for step in parts}
        every = {key for of_step in parts.values() for key in of_step}
        wanted = frozenset().union(*names.values())
        for entry in entries:
            here = entry.names(self.versions)
            unchosen = entry.panels.keys() - self.versions.keys()  # of panels that are not drawn now
            if entry.place not in used and (not entry.parts.keys() <= every or (here <= wanted and not unchosen)):
                entry.place.unlink(missing_ok=True)
        return found

    def _of_step(
        self, parts: Mapping[str, int], names: frozenset[str], entries: Iterable[CacheEntry], used: set[AnyPath]
    ) -> CacheLookup:
        asked = [
            (entry, here)
            for entry in entries
            if entry.parts.keys() <= parts.keys() and (here := names & entry.names(self.versions))
        ]
        states: dict[str, Any] = {}
        rows: dict[str, CacheEntry] = {}
        covered: dict[str, set[str]] = {name: set() for name in names}
        groups = _groups(entry for entry, here in asked if here == names and entry.has_only(names))
        joins = [_Join() for _ in groups]
        join_of = {entry.place: join for group, join in zip(groups, joins, strict=True) for entry in group}
        for (entry, here), loaded in zip(asked, ordered_map(_loaded, asked, 2, 3), strict=True):
            fresh = {name for name in here - {DERIVED_ROWS} if covered[name].isdisjoint(entry.parts)}
            more = entry.rows.keys() - rows.keys() if DERIVED_ROWS in here else set[str]()
            if loaded is None or not (fresh or more):
                continue  # it is not used, and so removed
            used.add(entry.place)
            rows |= dict.fromkeys(more, entry)
            for name in fresh:
                covered[name] |= entry.parts.keys()
            taken = {name: loaded[name] for name in sorted(fresh)}
            join = join_of.get(entry.place)
            if join and fresh == entry.panels.keys() and more == entry.rows.keys():
                join.entries.append(entry)
                join.states = merge_all(join.states, taken)
            else:
                states = merge_all(states, taken)
        for join in joins:
            states = merge_all(states, join.states)
            if (one := self._join(join)) is not None:
                used -= {entry.place for entry in join.entries}
                rows |= dict.fromkeys(one.rows, one)
        covered[DERIVED_ROWS] = set(rows)
        missing = {key: frozenset(name for name in names if key not in covered[name]) for key in parts}
        return CacheLookup(states, missing, rows)

    def aside(self) -> RowSpool:
        """Where derived rows wait until they are written with the states of their parts."""
        if self.folder is None or is_remote(self.folder):
            return RowSpool(self.folder or Path(), io.BytesIO())
        with explain_write_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            return RowSpool(self.folder, tempfile.TemporaryFile(dir=self.folder))

    def write(
        self, parts: Mapping[str, int], states: Mapping[str, Any], rows: Iterable[PackedRows] = ()
    ) -> CacheEntry | None:
        """Keep what was measured of some parts, unless all entries together would have more than `CACHE_MAX_BYTES`
        bytes.

        Args:
            parts: rows of each, by their keys.
            states: of panels, merged over the parts.
            rows: of the parts, from an `RowSpool`, if they were made.

        Returns:
            The entry, if it was written and is on this machine.
        """
        place = self._put(parts, states, rows)
        return None if place is None or is_remote(place) else _entry(place)

    def _join(self, join: _Join) -> CacheEntry | None:
        """One entry for several; None where there are no two, or no room, or one was damaged or removed meanwhile."""
        if len(join.entries) < 2:
            return None
        parts = {key: count for entry in join.entries for key, count in entry.parts.items()}
        rows = ((key, *entry.compressed_rows(key)) for entry in join.entries for key in entry.rows)
        try:
            place = self._put(parts, join.states, rows, join.entries)
        except (OSError, DamagedError):
            return None
        return None if place is None else _entry(place)

    def _put(
        self,
        parts: Mapping[str, int],
        states: Mapping[str, Any],
        rows: Iterable[PackedRows],
        instead: Iterable[CacheEntry] = (),
    ) -> AnyPath | None:
        """Write an entry, `instead` of some that are removed after it: where it is, or None if there is no room.

        Args:
            parts, states, rows: as for `write`.
            instead: entries whose room counts as free.
        """
        if self.folder is None:
            return None
        free = {entry.place for entry in instead}
        room = CACHE_MAX_BYTES - sum(place.stat().st_size for place in self._places() if place not in free)
        if room <= 0:
            return None
        with explain_write_errors(self.folder):
            if is_remote(self.folder):
                whole = io.BytesIO()
                name = self._written(whole, parts, states, rows)
                if whole.tell() > room:
                    return None
                (self.folder / name).write_bytes(whole.getvalue())
                return self.folder / name
            self.folder.mkdir(exist_ok=True)
            aside = self.folder / f"{digest_records(dict(parts))}.{os.getpid()}.partial"
            try:
                with aside.open("wb") as file:
                    name = self._written(file, parts, states, rows)
                if aside.stat().st_size > room:
                    return None
                return aside.replace(self.folder / name)
            finally:
                aside.unlink(missing_ok=True)

    def _written(
        self, file: IO[bytes], parts: Mapping[str, int], states: Mapping[str, Any], rows: Iterable[PackedRows]
    ) -> str:
        """Write an entry, an array at a time: all of them are 20 MB and more. -> what it is called."""
        content, at = _Content(file), {}
        panels = {name: (self.versions[name], content.node(state)) for name, state in states.items()}
        for key, packed, size in rows:
            at[key] = content.packed(packed, size)
        header = {"parts": dict(parts), "panels": panels, "rows": at, "rows_version": self.versions[DERIVED_ROWS]}
        content.end(header)
        return f"{digest_records(header)}{_SUFFIX}"

    def _places(self) -> list[AnyPath]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(self.folder.glob(f"*{_SUFFIX}"))


def _stream(batches: list[DerivedRows]) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].batch.schema) as stream:
        for rows in batches:
            stream.write_batch(rows.batch)
    return sink.getvalue()
