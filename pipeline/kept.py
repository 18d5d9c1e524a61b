"""States of parts, kept as files beside the logs so that the next time reads only what is new. Knows no drawing.

An entry has the states of some parts together, merged, and their derived rows part by part. It is found by the digests
of its parts and the versions of its panels, and counts only if every byte that is taken from it fits its checksum. It
is data: names of our dataclasses and arrays, and nothing in it is run.

    magic | length of the header | digest of the header | header, JSON, compressed | arrays and rows, compressed
"""

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from pipeline.errors import DamagedError
from pipeline.panels import Panel
from pipeline.places import Place
from pipeline.predictions import Predictions, about, digest_of
from pipeline.state import merge_all
from pipeline.store import PartFile, unwritable

FOLDER = ".predboard-states"
"""In a run's folder of logs: TensorBoard looks for names with `tfevents`."""

ROWS = "rows"
"""Stands for the derived rows among the panels' names; no panel is called so."""

LIMIT = 8 * 2**30
"""Bytes of all entries together. What is above is read again."""

_IMPORTS = re.compile(
    r"^[ \t]*from (pipeline[\w.]*) import (\(.*?^[ \t]*\)|[^\n]*)|^[ \t]*import (pipeline[\w.]*)",
    re.MULTILINE | re.DOTALL,
)
"""From where, names, or a whole module."""

_MAGIC = b"pbstate1"
_SUFFIX = ".states"
_CODEC = "lz4"
"""A third larger than zstd makes it, and written and read in a fifth of the time."""


def key_of(part: PartFile) -> str:
    """Of a part as far as its footer tells: what it holds, of which run, and how its rows are sampled."""
    return digest_of({"part": asdict(part.part), "run": part.run.fingerprint, "of": about(part.of)})


def versions(panels: Mapping[str, Panel]) -> dict[str, str]:
    """Version of each panel's state, and that of the derived rows.

    It is a digest of the panel's settings, of its module and all that this imports of ours, of what reads the rows, and
    of the libraries that compute.
    """
    program = _Program()
    base = {
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "machine": platform.machine(),
        "code": program.digest("pipeline.summarize"),
    }
    found = {ROWS: digest_of(base)}
    for name, panel in panels.items():
        settings = {f.name: getattr(panel, f.name) for f in dataclasses.fields(cast(Any, panel))}
        plain = {k: sorted(v) if isinstance(v, frozenset) else repr(v) for k, v in settings.items()}
        found[name] = digest_of({**base, "panel": program.digest(type(panel).__module__), "settings": plain})
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
        return digest_of(found)

    def _read(self, module: str) -> tuple[str, list[str]] | None:
        """Digest of a source and what it imports from the package, names that are no modules among it; None if there is
        no module of that name.
        """
        path = Path(__file__).parent.joinpath(*module.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not module.startswith("pipeline.") or not file.is_file():
            return None
        source = file.read_bytes()
        imports: list[str] = []
        for from_, names, whole in _IMPORTS.findall(source.decode()):  # a tenth of the time of parsing it
            imports += [whole or from_, *(f"{from_}.{name}" for name in re.findall(r"\w+", names))]
        return hashlib.blake2b(source, digest_size=8).hexdigest(), imports


@dataclass(frozen=True)
class Entry:
    """One file whose header was read and fits its digest. What is in it is checked when it is taken."""

    place: Place
    start: int
    """Where the first blob begins."""
    parts: Mapping[str, int]
    """Rows of each part, by its key."""
    panels: Mapping[str, tuple[str, int]]
    """Version and node of each panel's state."""
    rows: Mapping[str, int]
    """Blob of each part's derived rows, if it has them."""
    rows_version: str
    nodes: list[Any]
    blobs: list[tuple[int, int, int, str]]
    """Where each begins, its length in the file and when it is decompressed, and its digest."""

    @property
    def count(self) -> int:
        """Rows of all parts."""
        return sum(self.parts.values())

    def names(self, versions: Mapping[str, str]) -> frozenset[str]:
        """Of the panels, and `ROWS`, that are of these versions."""
        found = {name for name, (version, _) in self.panels.items() if version == versions.get(name)}
        return frozenset(found | ({ROWS} if self.rows and self.rows_version == versions[ROWS] else set()))

    def read(self) -> memoryview:
        """All blobs. Raises DamagedError if one does not fit its digest."""
        content = memoryview(self.place.read_bytes())[self.start :]
        for at, length, _, digest in self.blobs:
            self._check(content[at : at + length], digest)
        return content

    def rows_of(self, part: str) -> list[Predictions]:
        """The derived rows of a part. Raises DamagedError if they do not fit their digest."""
        at, length, size, digest = self.blobs[self.rows[part]]
        with _opened(self.place) as file:
            file.seek(self.start + at)
            content = file.read(length)
        self._check(content, digest)
        with pa.ipc.open_stream(pa.decompress(content, size, _CODEC)) as stream:
            return [Predictions(batch, derived=True) for batch in stream]

    def states(self, names: Iterable[str], content: memoryview) -> dict[str, Any]:
        """States of some panels; what they share is shared."""
        made: dict[int, Any] = {}

        def blob(index: int) -> pa.Buffer:
            at, length, size, _ = self.blobs[index]
            return pa.decompress(content[at : at + length], size, _CODEC)

        def value(index: int) -> Any:
            if index not in made:
                made[index] = _value(self.nodes[index], value, blob)
            return made[index]

        return {name: value(self.panels[name][1]) for name in names}

    def _check(self, content: bytes | memoryview, digest: str) -> None:
        if _digest(content) != digest:
            raise DamagedError(f"{self.place} is damaged")


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
        class_ = getattr(importlib.import_module(module), name, None) if module.startswith("pipeline.") else None
        if not (isinstance(class_, type) and dataclasses.is_dataclass(class_)):
            raise DamagedError(f"{module}.{name} is no state")
        return class_(**{field: value(index) for field, index in fields.items()})
    if kind == "named":
        return {key: value(index) for key, index in what[0].items()}
    return what[0]


class _Content:
    """An entry while it is made."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._blobs: list[bytes] = []
        self._index: list[tuple[int, int, int, str]] = []
        self._at = 0
        self._made: dict[int, tuple[int, Any]] = {}  # by identity, with the value, so that no other gets its place

    def blob(self, content: bytes | pa.Buffer) -> int:
        """The place of some bytes."""
        compressed = pa.compress(content, _CODEC, asbytes=True)
        self._index.append((self._at, len(compressed), len(content), _digest(compressed)))
        self._blobs.append(compressed)
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

    def whole(self, header: Mapping[str, Any]) -> bytes:
        """The file."""
        record = json.dumps({**header, "nodes": self._nodes, "blobs": self._index}).encode()
        packed = pa.compress(record, _CODEC, asbytes=True)
        head = len(packed).to_bytes(8, "little") + len(record).to_bytes(8, "little")
        return b"".join([_MAGIC, head, _digest(head + packed).encode(), packed, *self._blobs])


def _digest(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _opened(place: Place) -> Any:
    return place.open("rb") if isinstance(place, Path) else place.open_file()


def _entry(place: Place) -> Entry | None:
    """None if it is damaged, or none of ours."""
    try:
        with _opened(place) as file:
            magic, head, digest = file.read(len(_MAGIC)), file.read(16), file.read(32)
            length, size = (int.from_bytes(head[at : at + 8], "little") for at in (0, 8))
            packed = file.read(length) if magic == _MAGIC and length < LIMIT else b""
        if magic != _MAGIC or _digest(head + packed).encode() != digest:
            return None
        record = json.loads(pa.decompress(packed, size, _CODEC).to_pybytes())
        return Entry(place, len(_MAGIC) + 48 + length, **record)
    except (OSError, pa.ArrowException, ValueError, TypeError):  # whatever was done to it, it is made again
        return None


@dataclass(frozen=True)
class Found:
    """What is kept of the parts of a step."""

    states: dict[str, Any]
    """Of panels, merged over all parts for which they need not be read."""
    missing: Mapping[str, frozenset[str]]
    """By a part's key: the panels, and `ROWS`, for which it must be read."""
    rows: Mapping[str, Entry]
    """By a part's key: what has its derived rows."""


@dataclass(frozen=True)
class Kept:
    """The entries of a run; none without a folder."""

    folder: Place | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """From `versions`, of the panels that are drawn now."""

    def find(self, parts: Mapping[int, Mapping[str, int]], names: Mapping[int, frozenset[str]]) -> dict[int, Found]:
        """What is kept, and what must be read.

        Entries that are damaged, or of no use any more, are removed.

        Args:
            parts: for each step the rows of its parts, by their keys.
            names: for each step the panels that are wanted, and `ROWS`.
        """
        for unfinished in () if self.folder is None else self.folder.glob("*.partial"):
            unfinished.unlink(missing_ok=True)
        entries = []
        for place in self._places():
            entry = _entry(place)
            if entry is None:
                place.unlink(missing_ok=True)
            else:
                entries.append(entry)
        entries.sort(key=lambda entry: (-len(entry.parts), entry.place.name))
        used: set[Place] = set()
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
        self, parts: Mapping[str, int], names: frozenset[str], entries: Iterable[Entry], used: set[Place]
    ) -> Found:
        states: dict[str, Any] = {}
        rows: dict[str, Entry] = {}
        covered: dict[str, set[str]] = {name: set() for name in names}
        for entry in entries:
            here = names & entry.names(self.versions) if entry.parts.keys() <= parts.keys() else frozenset[str]()
            fresh = {name for name in here - {ROWS} if covered[name].isdisjoint(entry.parts)}
            more = entry.rows.keys() - rows.keys() if ROWS in here else set[str]()
            if not fresh and not more:
                continue
            try:
                states = merge_all(states, entry.states(sorted(fresh), entry.read()))
            except (OSError, DamagedError, pa.ArrowException):
                continue  # it is not used, and so removed
            used.add(entry.place)
            rows |= dict.fromkeys(more, entry)
            for name in fresh:
                covered[name] |= entry.parts.keys()
        covered[ROWS] = set(rows)
        missing = {key: frozenset(name for name in names if key not in covered[name]) for key in parts}
        return Found(states, missing, rows)

    def write(self, parts: Mapping[str, int], states: Mapping[str, Any], rows: Mapping[str, list[Predictions]]) -> None:
        """Keep what was measured of some parts, unless all entries together would have more than `LIMIT` bytes.

        Args:
            parts: rows of each, by their keys.
            states: of panels, merged over the parts.
            rows: derived rows by the parts' keys; empty if they were not made.
        """
        if self.folder is None:
            return
        content = _Content()
        panels = {name: (self.versions[name], content.node(state)) for name, state in states.items()}
        header = {
            "parts": dict(parts),
            "panels": panels,
            "rows": {key: content.blob(_stream(batches)) for key, batches in rows.items() if batches},
            "rows_version": self.versions[ROWS],
        }
        whole = content.whole(header)
        if sum(place.stat().st_size for place in self._places()) + len(whole) > LIMIT:
            return
        place = self.folder / f"{digest_of(header)}{_SUFFIX}"
        with unwritable(self.folder):
            if not isinstance(place, Path):
                place.write_bytes(whole)
                return
            self.folder.mkdir(exist_ok=True)
            aside = place.with_name(f"{place.name}.{os.getpid()}.partial")
            aside.write_bytes(whole)
            aside.replace(place)

    def _places(self) -> list[Place]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(self.folder.glob(f"*{_SUFFIX}"))


def _stream(batches: list[Predictions]) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].batch.schema) as stream:
        for rows in batches:
            stream.write_batch(rows.batch)
    return sink.getvalue()
