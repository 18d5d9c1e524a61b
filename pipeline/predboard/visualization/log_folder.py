"""A run's folder of logs: which files in it are ours, and how new ones take their places. Knows not what is in them."""

import contextlib
import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from predboard.errors import InputError
from predboard.storage import paths
from predboard.storage.paths import AnyPath
from predboard.summaries import File

EVENTS_NAME = "events"
"""Name of the event file while it is written: TensorBoard opens whatever has `tfevents` in its name."""

RECORD_FILE = ".predboard.json"
"""Our own list of the files we wrote into a run's log folder, and what they were made from."""

LEADERBOARD_RUN = "_all_runs"
"""The run that compares all others of a log folder. No other may be called so."""


COMPARE_FILE = "compare.json"
"""A file that only comparisons of runs have."""


@dataclass(frozen=True)
class LogRecord:
    """What our own list says."""

    made_from: str | None = None
    """Digest of all that decides the files; None if there is no list, empty while they are being replaced."""
    files: tuple[str, ...] = ()
    """Relative to the run's folder, the event file first."""
    of: tuple[str, ...] = ()
    """The predictions they are of, relative to the run's folder where both are on one disk or in one bucket, so that
    they may be moved or copied together; empty if that is not known."""


def write_staged_file(aside: Path, file: File) -> None:
    """Write a file for other tools where `publish` will find it."""
    path = aside / file.tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)


def list_runs(logdir: AnyPath) -> list[str]:
    """Names of the runs that we wrote into a log folder, the newest first; what compares them is none of them."""
    return [name for name in _ours(logdir) if COMPARE_FILE not in read_record(logdir / name).files]


def list_comparisons(logdir: AnyPath) -> list[str]:
    """Names of the comparisons that we wrote into a log folder, the newest first."""
    return [name for name in _ours(logdir) if COMPARE_FILE in read_record(logdir / name).files]


def _ours(logdir: AnyPath) -> list[str]:
    found: Iterable[AnyPath] = logdir.glob(f"*/{RECORD_FILE}")
    records = sorted(found, key=lambda record: (-record.stat().st_mtime, str(record)))
    return [record.parent.name for record in records if record.parent.name != LEADERBOARD_RUN]


def has_leaderboard(logdir: AnyPath) -> bool:
    """Whether a log folder has the run that compares all others."""
    return (logdir / LEADERBOARD_RUN / RECORD_FILE).is_file()


def code_digest() -> str:
    """Digest of our own source files: another program draws anew."""
    code = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(file.read_bytes())
    return code.hexdigest()


def read_record(folder: AnyPath) -> LogRecord:
    """Our own list of our files in a run's log folder; an empty one if there is none."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text("utf-8"))
        files = [str(name) for name in record["files"]]
        # Never a file beyond our folder, whatever somebody wrote into the record.
        inside = [f for f in files if not Path(f).is_absolute() and ".." not in Path(f).parts]
        return LogRecord(str(record["made_from"]), tuple(inside), tuple(map(str, record.get("of", ()))))
    except paths.StorageError:  # it may well be there
        raise
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours: then we own no file there
        return LogRecord()


def _write_record(folder: AnyPath, record: LogRecord) -> None:
    aside = paths.staging_dir(folder) / f"{RECORD_FILE}.partial"
    aside.write_text(json.dumps(asdict(record), indent=1) + "\n", "utf-8")
    paths.publish_file(aside, folder / RECORD_FILE)


def moved_predictions(folder: AnyPath, record: LogRecord, predictions: Sequence[AnyPath]) -> list[AnyPath]:
    """Predictions that the logs in a folder are of, other ones than these, and that are gone: the run was moved.

    Args:
        folder: of the run's logs.
        record: what its list says.
        predictions: those that its next logs are of.

    Raises InputError if they are there still: then another run, or another comparison, has this name.
    """
    others = []
    for text in record.of:
        place = paths.parse_path(text)
        if isinstance(place, Path) and not place.is_absolute():
            place = (folder.resolve() / text).resolve()
        if not any(_same(place, one) for one in predictions):
            others.append(place)
    if there := next(filter(_is_there, others), None):
        raise InputError(
            f"{folder} has the logs of {there}, which these would replace: name another --logdir, rename a folder of "
            f"predictions, or delete {folder}"
        )
    return others


def _same(one: AnyPath, other: AnyPath) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        with contextlib.suppress(OSError):  # one of them is not there
            return one.samefile(other)
    return one.resolve() == other.resolve()


def _is_there(predictions: AnyPath) -> bool:
    try:
        return predictions.is_dir() and any(True for _ in predictions.glob("step=*"))
    except (PermissionError, paths.StorageError):  # of somebody else
        return True


def _named(folder: AnyPath, predictions: AnyPath) -> str:
    """Of predictions, for the record."""
    there, here = predictions.resolve(), folder.resolve()
    if isinstance(there, Path) and isinstance(here, Path):
        with contextlib.suppress(ValueError):  # on another drive of Windows
            return Path(os.path.relpath(there, here)).as_posix()
    if str(there).split("/")[:3] == str(here).split("/")[:3]:  # one bucket
        return posixpath.relpath(str(there), str(here))
    return str(there)


def publish(
    folder: AnyPath, aside: Path, time: float, record: LogRecord, made_from: str, predictions: Sequence[AnyPath] = ()
) -> AnyPath:
    """Put the files from `aside` into their places, and remove our old ones.

    The event file's name changes with its content, so that an open TensorBoard notices. It comes last: whatever happens
    in between, at least one whole event file of ours is there and listed, and no other file is touched.
    """
    content = hashlib.blake2b(digest_size=8)
    with (aside / EVENTS_NAME).open("rb") as file:
        while piece := file.read(2**20):
            content.update(piece)
        os.fsync(file.fileno())
    event_file = f"events.out.tfevents.{int(time):010d}.{content.hexdigest()}.predboard"
    beside = sorted(
        p.relative_to(aside).as_posix() for p in aside.rglob("*") if p.is_file() and p != aside / EVENTS_NAME
    )
    old = [name for name in record.files if name not in (event_file, *beside)]
    of = tuple(_named(folder, one) for one in predictions)
    _write_record(folder, LogRecord("", (event_file, *beside, *old), of))
    for name in beside:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        paths.publish_file(aside / name, folder / name)
    paths.publish_file(aside / EVENTS_NAME, folder / event_file)
    for name in old:
        (folder / name).unlink(missing_ok=True)
        if (parent := (folder / name).parent) != folder and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
    _write_record(folder, LogRecord(made_from, (event_file, *beside), of))
    return folder / event_file


def remove_logs(folder: AnyPath) -> None:
    """Remove all files that we wrote into a run's log folder, and the folder if nothing else is in it."""
    for name in (*reversed(read_record(folder).files), RECORD_FILE):  # the event file last of what TensorBoard shows
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
