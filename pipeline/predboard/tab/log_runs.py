"""Finds the runs of a log folder and opens what `visualize` wrote for each. It knows no query and no HTTP.

A run is only ever named by what the folder holds: no path is made of a name that somebody asks for.
"""

import functools
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
from numpy.typing import NDArray

from predboard.csv_lines import original_text
from predboard.errors import InputError, first_line, reading
from predboard.formatting import did_you_mean
from predboard.log_names import ROWS_FILE, SUSPECTS_FILE
from predboard.predictions.arrow import as_numpy
from predboard.storage.paths import AnyPath, resolve_name
from predboard.storage.runs import Step, open_run
from predboard.tab.columns import ColumnCache, RowsFile, StepRows
from predboard.tab.pairs import StepPair, match_keys, pair_steps
from predboard.tab.scan import run_folders
from predboard.visualization.image_map import MAP_FILE, NO_PLACE
from predboard.visualization.log_folder import COMPARE_FILE, RECORD_FILE, SUMMARY_FILE, read_record

GROUPS_FILE = "class_groups.json"
"""Groups of the classes, if `visualize` was told of some."""

SCAN_SECONDS = 2.0
"""Time for which the list of runs is taken as it is."""


@dataclass(frozen=True)
class Suspects:
    """Rows of a step whose labels are suspected, each once, the likeliest first."""

    rows: NDArray[np.int64]
    classes: NDArray[np.int32]
    """The class that stands out in each: the one suggested, or one of its labels; -1 for the name of no class."""
    given: NDArray[np.bool_]
    """Whether that is among the labels of the row, so that it may be too much."""


class LogRun:
    """The logs of one run: its rows, and what else is in its folder."""

    def __init__(self, name: str, folder: AnyPath, cache: ColumnCache, version: str = "") -> None:
        """Open the rows. Raises InputError if they cannot be read."""
        self.name, self.folder, self.version = name, folder, version
        self.record = read_record(folder)
        self.rows = RowsFile(folder / ROWS_FILE, version, cache)

    def step(self, number: int | None) -> StepRows:
        """Return a step, the last one if there is no number. Raises InputError if there is no such step."""
        if number is None:
            return self.rows.last
        if number not in self.rows.steps:
            raise InputError(f"{self.name} has no step {number}: expected {', '.join(map(str, self.rows.steps))}")
        return self.rows.steps[number]

    @functools.cached_property
    def predictions(self) -> Mapping[int, Step]:
        """The steps of the predictions that the logs show; empty if these are not in their place any more."""
        for name in self.record.predictions[:1]:
            try:
                return {step.step: step for step in open_run(resolve_name(name, self.folder))}
            except (InputError, OSError):
                return {}
        return {}

    @functools.cached_property
    def changed(self) -> frozenset[int]:
        """The steps whose predictions are others now than those that the logs show."""
        shown = {step: self.record.shown.get(str(step)) for step in self.predictions}
        return frozenset(step for step, digest in shown.items() if digest not in (None, self.predictions[step].digest))

    @functools.cached_property
    def levels(self) -> list[dict[str, Any]]:
        """Levels of groups of classes: `name`, `groups`, and in `group_of` the index of the group of each class."""
        levels = _read_json(self.folder / GROUPS_FILE).get("levels", [])
        return [level for level in levels if self._is_level(level)]

    def _is_level(self, level: Any) -> bool:
        """Return whether something is a level of the run's classes; a file that others wrote may hold anything."""
        if not isinstance(level, dict) or not isinstance(level.get("name"), str):
            return False
        groups, group_of = level.get("groups"), level.get("group_of")
        if not (isinstance(groups, list) and isinstance(group_of, list) and len(group_of) == len(self.rows.classes)):
            return False
        names, places = all(isinstance(name, str) for name in groups), set(range(len(groups)))
        return names and all(isinstance(index, int) for index in group_of) and set(group_of) == places

    @functools.cached_property
    def _suspects(self) -> tuple[NDArray[np.int64], tuple[str, ...], tuple[bool, ...]] | None:
        """Rows whose labels are suspected, the class that stands out in each, and whether that is the label given.

        It is where rows have several labels, one of which may be too much; a row is then listed for each such label.
        """
        path = self.folder / SUSPECTS_FILE
        if not path.is_file():
            return None
        types = {"row": pa.int64(), "suspected": pa.string(), "given": pa.int64()}
        with reading(path):
            table = pyarrow.csv.read_csv(
                path,
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=list(types),
                    include_missing_columns=True,  # there is no `given` where rows have one label
                    column_types=types,
                    strings_can_be_null=False,
                ),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            ).combine_chunks()
            rows = as_numpy(table["row"].chunk(0)) if len(table) else np.zeros(0, np.int64)
            names = tuple(map(original_text, table["suspected"].to_pylist()))
            return rows, names, tuple(given == 1 for given in table["given"].to_pylist())

    @functools.cached_property
    def image_root(self) -> AnyPath | None:
        """Where the source images were when the logs were drawn, if `visualize` was told."""
        return resolve_name(self.record.image_root, self.folder) if self.record.image_root else None

    @functools.cached_property
    def _map(self) -> tuple[NDArray[np.int64], NDArray[np.int16], str] | None:
        """Keys [rows] and places [2, rows] of the map, and what it shows."""
        path = self.folder / MAP_FILE
        if not path.is_file():
            return None
        with reading(path), pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all().combine_chunks()
            table.validate(full=True)
            key, x, y = (as_numpy(table[name].chunk(0)).copy() for name in ("key", "x", "y"))
            return key, np.stack([x, y]), table.schema.metadata[b"source"].decode()

    @property
    def map_source(self) -> str | None:
        """Words for what the map shows; None if there is none."""
        return self._map[2] if self._map else None

    def points(self, step: StepRows) -> NDArray[np.int16] | None:
        """Return the places of a step's rows on the map, int16 [2, rows], `NO_PLACE` for those without; or None."""
        if self._map is None:
            return None
        keys, points, _ = self._map

        def make() -> NDArray[np.int16]:
            at = match_keys(step.numbers("key"), keys)
            return np.where(at >= 0, points[:, at], np.int16(NO_PLACE))

        return step.derived("points", make)

    def suspects(self, step: StepRows) -> Suspects | None:
        """Return the rows of a step whose labels are suspected, the likeliest first.

        None if there is no list of them for the step: `visualize` writes that of the last one.
        """
        if step is not self.rows.last or self._suspects is None:
            return None
        ids, names, given = self._suspects
        place = {name: i for i, name in reversed(list(enumerate(self.rows.classes)))}
        classes = np.array([place.get(name, -1) for name in names], np.int32)
        rows = match_keys(ids, step.numbers("id")).astype(np.int64)
        known = rows >= 0
        return Suspects(rows[known], classes[known], np.array(given, bool)[known])


def _read_json(path: AnyPath) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class LogRuns:
    """All runs of a log folder, looked at again at most every `SCAN_SECONDS`."""

    def __init__(self, logdir: Path) -> None:
        """Look at nothing yet."""
        self.logdir = logdir
        self.cache = ColumnCache()
        self._lock = threading.Lock()
        self._runs: dict[str, LogRun] = {}
        self._broken: dict[str, tuple[str, str]] = {}
        """For each run that cannot be shown its version and why."""
        self._comparisons: dict[str, dict[str, str]] = {}
        self._scanned = -SCAN_SECONDS

    def all(self) -> Mapping[str, LogRun]:
        """Return the runs by name."""
        self._scan()
        return self._runs

    def broken(self) -> Mapping[str, str]:
        """Return the runs that cannot be shown, and why."""
        self._scan()
        return {name: why for name, (_, why) in self._broken.items()}

    def comparisons(self) -> Mapping[str, Mapping[str, str]]:
        """Return the comparisons by name: `old` and `new`, each RUN@STEP."""
        self._scan()
        return self._comparisons

    def get(self, name: str) -> LogRun:
        """Return a run. Raises InputError if there is none of that name."""
        run = self.all().get(name)
        if run is None:
            raise InputError(f"there is no run {name[:80]!r} in the log folder{did_you_mean(name, self.all())}")
        return run

    def _scan(self) -> None:
        with self._lock:
            if time.monotonic() - self._scanned < SCAN_SECONDS:
                return
            runs: dict[str, LogRun] = {}
            broken: dict[str, tuple[str, str]] = {}
            comparisons = {}
            for folder in run_folders(self.logdir, (ROWS_FILE, COMPARE_FILE, SUMMARY_FILE)):
                name = folder.relative_to(self.logdir).as_posix()
                if (folder / COMPARE_FILE).is_file():
                    comparisons[name] = _compared(folder)
                    continue
                if not (folder / ROWS_FILE).is_file():
                    broken[name] = "", "its rows are not in the logs: run predboard visualize without --panels"
                    continue
                version = _version(folder)
                if name in self._runs and self._runs[name].version == version:
                    runs[name] = self._runs[name]
                elif self._broken.get(name, ("", ""))[0] == version:
                    broken[name] = self._broken[name]
                else:
                    try:
                        runs[name] = LogRun(name, folder, self.cache, version)
                    except (InputError, OSError) as error:
                        broken[name] = version, first_line(error)
            for name, run in self._runs.items():  # its files are being replaced, and the open ones still say what was
                if name not in runs and name not in broken and read_record(run.folder).made_from == "":
                    runs[name] = run
            self._runs, self._broken, self._comparisons = runs, broken, comparisons
            self._scanned = time.monotonic()

    def pair(self, new: StepRows, other: tuple[str, int]) -> StepPair:
        """Return the rows of a step with those of the same images in another."""
        run = self.get(other[0])
        old = run.step(other[1])
        return new.derived(("pair", other, run.version), lambda: pair_steps(new, old))


def _version(folder: Path) -> str:
    """Return a text that changes whenever a run is drawn again."""
    stats = [(folder / file).stat() for file in (ROWS_FILE, RECORD_FILE) if (folder / file).is_file()]
    return "-".join(f"{stat.st_mtime_ns:x}.{stat.st_size:x}" for stat in stats)


def _compared(folder: Path) -> dict[str, str]:
    content = _read_json(folder / COMPARE_FILE)
    sides = {side: content.get(side) for side in ("old", "new")}
    return {side: f"{s['run']}@{s['step']}" for side, s in sides.items() if isinstance(s, dict) and "run" in s}
