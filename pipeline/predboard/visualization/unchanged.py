"""Tells from sizes and times of files alone that the logs of a run are as the same command wrote them.

It knows nothing of what the files contain, and imports neither NumPy nor Arrow. Where it cannot tell, the logs may be
current all the same: `visualize` reads footers and digests then.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from predboard.config import VisualizeConfig
from predboard.log_names import LEADERBOARD_RUN, RECORD_FILE, SUMMARY_FILE
from predboard.storage.paths import AnyPath, is_remote
from predboard.visualization.absent_images import AbsentImages, Stamp, are_absent, decode_absent, stamp


class CurrentLogs(NamedTuple):
    """The logs of a run in which nothing has changed."""

    event_file: Path
    missing_pictures: int
    """Source images that were not found, and are not there now."""


def digest_inputs(predictions: AnyPath, config: VisualizeConfig) -> str:
    """Return a digest of all that decides the logs of a run; empty if stamps of files do not tell it.

    That is the configuration, the predictions' files, the package's source files, and the distributions that may add
    panels. Stamps do not tell what is in object storage, on other machines, or read from further files of the user.
    """
    further = (config.labels, config.columns, config.groups, config.thresholds)
    places = (predictions, config.logdir, *([config.image_root] if config.image_root is not None else []))
    if config.engine != "local" or any(map(is_remote, places)) or any(file is not None for file in further):
        return ""
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "workers"}
    settings["predictions"] = None  # the others that are named beside it do not matter
    if config.image_root is not None and not config.image_root.is_dir():
        return ""
    try:
        record = (
            repr(settings),
            [os.path.realpath(str(place)) for place in places],
            sorted(_walk(str(predictions), "")),
            sorted(_walk(str(Path(__file__).parents[1]), ".py")),
            sys.version,
            [sorted(_distributions(place)) for place in sys.path],
        )
    except OSError:  # something is gone, or a folder is a link
        return ""
    return hashlib.blake2b(repr(record).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _walk(folder: str, suffix: str) -> Iterator[tuple[str, Stamp | None]]:
    """Yield the files below a folder with their stamps, without hidden ones, and the folders of steps without a stamp.

    The folder of a step may be empty, and `visualize` says so. Raises OSError for a link to a folder.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.is_symlink():
                    raise OSError(f"{entry.path} is a link to a folder")
                if entry.name.startswith("step="):
                    yield entry.path, None
                yield from _walk(entry.path, suffix)
            elif entry.name.endswith(suffix):
                yield entry.path, stamp(entry.path)


def _distributions(place: str) -> Iterator[tuple[str, int]]:
    """Yield what is installed in an entry of `sys.path`, with the time at which it was."""
    if os.path.isdir(place or "."):  # noqa: PTH112  it may also be a ZIP archive or missing
        with os.scandir(place or ".") as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth")):
                    yield entry.name, entry.stat().st_mtime_ns


def digest_summaries(logdir: AnyPath) -> str:
    """Return a digest of all that decides the leaderboard of a log folder; empty if stamps of files do not tell it."""
    if is_remote(logdir):
        return ""
    names = sorted(_list_runs(str(logdir)))
    record = [
        (name, stamp(logdir / name / file))
        for name in names
        for file in (RECORD_FILE, SUMMARY_FILE)
        if (logdir / name / file).is_file()
    ]
    code = sorted(_walk(str(Path(__file__).parents[1]), ".py"))
    return hashlib.blake2b(repr((names, record, code)).encode(), digest_size=16).hexdigest()


def _list_runs(logdir: str) -> Iterator[str]:
    """Yield the folders of runs and comparisons, without the leaderboard."""
    with os.scandir(logdir) as entries:
        for entry in entries:
            if entry.name != LEADERBOARD_RUN and os.path.isfile(os.path.join(entry.path, RECORD_FILE)):  # noqa: PTH113, PTH118
                yield entry.name


def find_unchanged(config: VisualizeConfig) -> dict[str, CurrentLogs]:
    """Return the logs of each run by its name if nothing has changed since the last command; else nothing."""
    unchanged: dict[str, CurrentLogs] = {}
    try:
        for predictions in config.predictions:
            name, inputs = predictions.resolve().name, digest_inputs(predictions, config)
            current = _read_current(Path(str(config.logdir)) / name, inputs) if inputs else None
            if current is None or name in unchanged:
                return {}
            unchanged[name] = current
        logdir = Path(str(config.logdir))
        ranked = len(list(_list_runs(str(logdir)))) > 1 or (logdir / LEADERBOARD_RUN).is_dir()
        if ranked and _read_current(logdir / LEADERBOARD_RUN, digest_summaries(logdir)) is None:
            return {}
    except OSError:  # stage two says what is wrong with it
        return {}
    return unchanged


def _read_current(folder: Path, inputs: str) -> CurrentLogs | None:
    """Return the logs of a folder if its files are as they were written from these inputs; else None."""
    try:
        record = json.loads((folder / RECORD_FILE).read_bytes())
        seen, files = record["seen"], record["files"]
        stamps = [list(stamp(folder / name)) for name in files]
        if record["made_from"] and seen["inputs"] == inputs and seen["stamps"] == stamps:
            absent = decode_absent(record["absent"], str(folder)) if "absent" in record else AbsentImages()
            if are_absent(absent):
                return CurrentLogs(folder / str(files[0]), int(record.get("missing_pictures", 0)))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):  # no record, or an older one
        return None
    return None
