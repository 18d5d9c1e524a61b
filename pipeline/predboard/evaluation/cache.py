"""Keeps the states of parts beside a run's logs, so that the next time only new parts are read. It knows no drawing.

An entry holds the merged states of some parts of one step, and their derived rows. It is found by the keys of its parts
and the versions of its panels. Entries that are damaged or of no use any more are deleted, and their parts measured
again: a cache that is lost costs time and changes nothing that is drawn.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any

from predboard.errors import DamagedError
from predboard.evaluation.cache_entry import PARTIAL_SUFFIX, SUFFIX, CacheEntry, EntryWriter
from predboard.evaluation.state_versions import DERIVED_ROWS
from predboard.parallel.threads import ordered_map
from predboard.predictions.sampling import rounded_size
from predboard.predictions.schema import digest_records
from predboard.state import merge_all
from predboard.storage.parts import PartFile
from predboard.storage.paths import AnyPath, map_files, staging_dir

CACHE_FOLDER = ".predboard-states"
"""Folder of the cache in a run's log folder. TensorBoard looks only for names with `tfevents`."""

CACHE_MAX_BYTES = 8 * 2**30
"""Bytes of all entries of a run together. What does not fit is measured again each time."""

SMALL_ENTRY_ROWS = 16_384
"""Rows below which loading an entry costs more than a twentieth of measuring its parts (20 ms at 1,000 classes)."""

MAX_SMALL_ENTRIES = 8
"""Small entries that a step may have. If there are more, as after many reruns with one new part each, their parts are
measured again and make one entry: a row is measured twice at most before its entry is no longer small."""


def part_key(part: PartFile) -> str:
    """Return the key of a part: a digest of its footer, its run's fingerprint, the size class of the manifest, which
    decides how rows are sampled, and what is changed in its rows as they are read.
    """
    record = {"part": asdict(part.part), "run": part.run.fingerprint, "of": rounded_size(part.manifest_rows)}
    return digest_records(record | ({} if part.amendment is None else {"amendment": part.amendment.digest}))


@dataclass(frozen=True)
class CacheLookup:
    """The cached states of one step, and the parts that must be measured."""

    states: Mapping[str, Any]
    """State of each panel, merged over all parts that need not be measured for it."""
    missing: Mapping[str, frozenset[str]]
    """Panels, and `DERIVED_ROWS`, for which each part must be measured, by part key."""
    rows: Mapping[str, CacheEntry]
    """Entry with the derived rows of each part, by part key."""


@dataclass(frozen=True)
class StateCache:
    """The cached states of one run."""

    folder: AnyPath
    versions: Mapping[str, str]
    """Versions of the panels that are drawn now, and of `DERIVED_ROWS`, from `state_versions`."""
    packages: frozenset[str] = frozenset()
    """Top-level packages of panels that other distributions bring; their dataclasses may be read back."""
    max_bytes: int = CACHE_MAX_BYTES

    def find(
        self, parts: Mapping[int, Mapping[str, int]], names: Mapping[int, frozenset[str]]
    ) -> dict[int, CacheLookup]:
        """Look up what is cached of each step. Deletes entries that are damaged, unfinished or of no use any more.

        Args:
            parts: by step, the row count of each of its parts by key.
            names: by step, the wanted panels, and `DERIVED_ROWS` if the derived rows are wanted.
        """
        self.remove_unfinished()
        entries = self._read_entries()
        used: set[AnyPath] = set()
        lookups = {step: self._find_step(parts[step], names[step], entries, used) for step in parts}
        all_parts = {key for keys in parts.values() for key in keys}
        wanted = frozenset().union(*names.values())
        for entry in entries:
            if entry.path not in used and self._is_useless(entry, all_parts, wanted):
                entry.path.unlink(missing_ok=True)
        return lookups

    def _is_useless(self, entry: CacheEntry, parts: Set[str], wanted: frozenset[str]) -> bool:
        """Return whether an entry that is not used now will not be used later.

        One of its parts is gone, or it has only states of wanted panels, which have them from elsewhere. An entry with
        other panels may be used when they are drawn again.
        """
        not_drawn = entry.panels.keys() - self.versions.keys()
        return not entry.parts.keys() <= parts or (not not_drawn and self._current_names(entry) <= wanted)

    def _read_entries(self) -> list[CacheEntry]:
        """Read the headers of all entries, those of most parts first."""
        paths = self._paths()
        entries = []
        for path, entry in zip(paths, map_files(_read_entry, paths, self.folder), strict=True):
            if entry is None:
                path.unlink(missing_ok=True)
            else:
                entries.append(entry)
        return sorted(entries, key=lambda entry: (-len(entry.parts), entry.path.name))

    def _current_names(self, entry: CacheEntry) -> frozenset[str]:
        """Return the panels, and `DERIVED_ROWS`, of which an entry has the present version."""
        names = {name for name, (version, _) in entry.panels.items() if version == self.versions.get(name)}
        return frozenset(names | ({DERIVED_ROWS} if entry.rows_version == self.versions[DERIVED_ROWS] else set()))

    def _find_step(
        self, parts: Mapping[str, int], names: frozenset[str], entries: Iterable[CacheEntry], used: set[AnyPath]
    ) -> CacheLookup:
        """Look up one step, and add the entries that serve it to `used`. No part counts twice for a panel."""
        candidates = [
            (entry, usable)
            for entry in entries
            if entry.parts.keys() <= parts.keys() and (usable := names & self._current_names(entry))
        ]
        if sum(entry.row_count < SMALL_ENTRY_ROWS for entry, _ in candidates) > MAX_SMALL_ENTRIES:
            candidates = [(entry, usable) for entry, usable in candidates if entry.row_count >= SMALL_ENTRY_ROWS]
        states: dict[str, Any] = {}
        rows: dict[str, CacheEntry] = {}
        covered: dict[str, set[str]] = {name: set() for name in names}
        for (entry, usable), loaded in zip(candidates, ordered_map(self._load, candidates, 2, 3), strict=True):
            if loaded is None:
                entry.path.unlink(missing_ok=True)
                continue
            fresh = sorted(name for name in loaded if covered[name].isdisjoint(entry.parts))
            fresh_rows = entry.parts.keys() - rows.keys() if DERIVED_ROWS in usable else set[str]()
            if fresh or fresh_rows:
                used.add(entry.path)
                rows |= dict.fromkeys(fresh_rows, entry)
                states = merge_all(states, {name: loaded[name] for name in fresh})
                for name in fresh:
                    covered[name] |= entry.parts.keys()
        covered[DERIVED_ROWS] = set(rows)
        missing = {key: frozenset(name for name in names if key not in covered[name]) for key in parts}
        return CacheLookup(states, missing, rows)

    def _load(self, candidate: tuple[CacheEntry, frozenset[str]]) -> dict[str, Any] | None:
        """Load the states of some panels, and check the derived rows if they are asked for; None if it is damaged."""
        entry, names = candidate
        try:
            return entry.load(sorted(names - {DERIVED_ROWS}), self.packages, verify_rows=DERIVED_ROWS in names)
        except DamagedError:
            return None

    def begin_entry(self, rows: bool) -> EntryWriter | None:
        """Begin an entry, with derived rows or without; None if the cache is full."""
        if self.free_bytes() <= 0:
            return None
        return EntryWriter(self.folder, self.versions, self.versions[DERIVED_ROWS] if rows else None)

    def free_bytes(self) -> int:
        """Return how many bytes an entry may have so that all together have at most `max_bytes`."""
        return self.max_bytes - sum(path.stat().st_size for path in self._paths())

    def remove_unfinished(self) -> None:
        """Delete what processes left that were killed while they wrote an entry."""
        for partial in staging_dir(self.folder).glob(f"*{PARTIAL_SUFFIX}"):
            partial.unlink(missing_ok=True)

    def _paths(self) -> list[AnyPath]:
        return sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []


def _read_entry(path: AnyPath) -> CacheEntry | None:
    try:
        return CacheEntry.read(path)
    except DamagedError:
        return None
