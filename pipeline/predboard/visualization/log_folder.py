"""Keeps the log folder of one run: records which files there are ours, and replaces them safely by new ones.

It knows nothing of what the files contain. Whoever writes logs does it in one way:

    with replace_logs(folder, "run", predictions, log) as draft:
        ...  # write the event file to draft.events_path, and others by draft.add_file
        draft.publish(time, made_from)
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from predboard.errors import InputError
from predboard.log_names import LEADERBOARD_RUN as LEADERBOARD_RUN
from predboard.log_names import RECORD_FILE as RECORD_FILE
from predboard.log_names import SUMMARY_FILE as SUMMARY_FILE
from predboard.storage.file_systems import StorageError
from predboard.storage.locks import lock_folder
from predboard.storage.paths import (
    AnyPath,
    explain_write_errors,
    is_remote,
    is_same,
    list_folder,
    publish_file,
    read_bytes,
    refuse_link,
    relative_name,
    resolve_name,
    staging_dir,
)
from predboard.summaries import File
from predboard.visualization.absent_images import AbsentImages, are_absent, decode_absent, encode_absent, stamp

COMPARE_FILE = "compare.json"
"""A file that only the logs of a comparison have."""

LogKind = Literal["run", "comparison", "leaderboard"]

_OTHER_KIND = {"run": (COMPARE_FILE, "comparison"), "comparison": (SUMMARY_FILE, "run")}
"""For each kind the kind of logs that it must not replace, and how to tell that it is there."""


@dataclass(frozen=True)
class LogRecord:
    """The content of `RECORD_FILE`."""

    made_from: str | None = None
    """Digest of all that decides the files; None if there is no record, empty while they are being replaced."""
    files: tuple[str, ...] = ()
    """Paths relative to the log folder, the event file first."""
    predictions: tuple[str, ...] = ()
    """The predictions that the logs show, relative to the log folder where both are on one disk or in one bucket, so
    that they may be moved or copied together; empty if that is not known."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Length and digest of each file as it was written, by its path; empty while they are being replaced."""
    image_root: str = ""
    """Where the source images were, named as the predictions are; empty if the predictions know it."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """Digest of each step that the logs of a run show, by its number; empty if that is not known."""
    missing_pictures: int = 0
    """Source images that were not found."""
    absent: AbsentImages = field(default_factory=AbsentImages)
    """Where they were looked for."""


class LogDraft:
    """The next files of a log folder, in a folder of their own until `publish` puts them into their places."""

    def __init__(self, folder: AnyPath, record: LogRecord, predictions: Sequence[AnyPath]) -> None:
        """Draft files for `folder`, which has those of `record` now; they will show these predictions."""
        self._lost_record = False
        if not record.files:  # it is lost if there are event files of ours
            places: Iterable[AnyPath] = list_folder(folder, "events.out.tfevents.*.predboard")
            record = replace(record, files=tuple(path.name for path in places))
            self._lost_record = bool(record.files)
        self.record = record
        self.staging = staging_dir(folder) / f".predboard-{os.getpid()}.partial"
        self.events_path = self.staging / "events"  # without `tfevents`, so that TensorBoard does not open it
        self.image_root: AnyPath | None = None
        """Where the source images are, if not where the predictions say."""
        self.shown: Mapping[str, str] = {}
        """Digest of each step that the logs show, by its number."""
        self.inputs = ""
        """Digest of the inputs by their stamps, as it was before they were read; empty if stamps do not tell them."""
        self.missing_pictures = 0
        """Source images that were not found."""
        self.absent = AbsentImages()
        """Where they were looked for."""
        self._folder = folder
        self._predictions = predictions

    def add_file(self, file: File) -> None:
        """Add a file for other tools."""
        path = self.staging / file.tag
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)

    def publish(self, time: float, made_from: str) -> AnyPath:
        """Put the drafted files into their places, remove the old ones, and return the event file.

        The event file has a new name whenever its content changes, so that an open TensorBoard notices. Other old files
        are removed before it is put in place, and other new ones come after it, so that a process that is killed in
        between leaves no file beside it that shows another state. The old event file is removed after the new one is
        there: at every moment one whole event file is there and recorded. The record is completed last, so that a run
        which was interrupted before is drawn again.

        Args:
            time: of the event file's first record, seconds since 1970.
            made_from: digest of all that decides the files; empty if they should be drawn again the next time.

        Raises:
            InputError: if one of the files would replace a file that is not ours, or lie behind a link.
        """
        drafted = [path for path in self.staging.rglob("*") if path.is_file() and path != self.events_path]
        others = {path.relative_to(self.staging).as_posix(): _digest(path) for path in sorted(drafted)}
        digest = _digest(self.events_path, sync=True)
        event_file = f"events.out.tfevents.{int(time):010d}.{digest.partition('-')[2]}.predboard"
        old = [name for name in self.record.files if name not in (event_file, *others)]
        self._refuse_foreign(others, (*others, *old))
        predictions = tuple(relative_name(place, self._folder) for place in self._predictions)
        self._write_record(LogRecord("", (event_file, *others, *old), predictions))
        for name in self.record.files:
            if "tfevents" not in name:
                self._remove(name)
        publish_file(self.events_path, self._folder / event_file)
        for name in old:
            self._remove(name)
        for name in others:
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            publish_file(self.staging / name, self._folder / name)
        digests = {event_file: digest, **others}
        self._write_record(LogRecord(made_from, tuple(digests), predictions, digests))
        return self._folder / event_file

    def _refuse_foreign(self, new: Iterable[str], touched: Iterable[str]) -> None:
        for name in touched:
            for parent in PurePosixPath(name).parents[:-1]:
                refuse_link(self._folder / parent.as_posix())
        foreign = [name for name in new if name not in self.record.files and (self._folder / name).exists()]
        if foreign and not self._lost_record:
            raise InputError(
                f"{self._folder / foreign[0]} was not written by predboard and would be replaced: name another "
                "--logdir, or move it away"
            )

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        if (parent := (self._folder / name).parent) != self._folder:
            _remove_if_empty(parent)

    def _write_record(self, record: LogRecord) -> None:
        content: dict[str, object] = {
            "made_from": record.made_from,
            "files": record.files,
            "of": record.predictions,
        }
        if self.image_root is not None:
            content["image_root"] = relative_name(self.image_root, self._folder)
        if self.shown:
            content["shown"] = self.shown
        if self.missing_pictures and record.made_from:
            content["missing_pictures"] = self.missing_pictures
            content["absent"] = encode_absent(self.absent, str(self._folder))
        if self.inputs and record.made_from and not is_remote(self._folder):
            stamps = [stamp(self._folder / name) for name in record.files]
            content["seen"] = {"inputs": self.inputs, "stamps": stamps}
        staged = self.staging / RECORD_FILE  # inside our own new folder: in the log folder a link may have its name
        staged.write_text(json.dumps({**content, "digests": record.digests}, indent=1) + "\n", "utf-8")
        publish_file(staged, self._folder / RECORD_FILE)

    def withdraw(self) -> None:
        """Remove all our files from the folder and put none in their places."""
        self._refuse_foreign((), self.record.files)
        for name in (*reversed(self.record.files), RECORD_FILE):  # the event file is the last that TensorBoard sees
            (self._folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def replace_logs(
    folder: AnyPath,
    kind: LogKind,
    predictions: Sequence[AnyPath] = (),
    log: Callable[[str], None] = lambda _: None,
    wait_seconds: float = 0,
) -> Iterator[LogDraft]:
    """Lock a log folder while its files are replaced, and yield the draft of the new ones.

    If the block raises, or does not publish the draft, the present files stay as they are.

    Args:
        folder: of the logs, created if it is missing.
        kind: of the logs.
        predictions: that the new logs show.
        log: takes a line of progress for a person.
        wait_seconds: how long to wait for another process that has the folder.

    Raises:
        InputError: if another process has the folder, it holds predictions, logs of other predictions or of another
            kind, or it cannot be written to.
    """
    if list_folder(folder, "step=*"):
        raise InputError(f"{folder} holds predictions, and logs would be mixed into them: name another --logdir")
    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_write_errors(folder))
        stack.enter_context(lock_folder(folder, "--logdir", ".predboard-*.partial", wait_seconds=wait_seconds))
        stack.callback(_remove_unused, folder)
        record = read_record(folder)
        other_file, other_kind = _OTHER_KIND.get(kind, ("", ""))
        if other_file in record.files:
            raise InputError(
                f"{folder} holds the logs of a {other_kind}, and those of a {kind} would replace them: "
                "name another --logdir"
            )
        for gone in moved_predictions(folder, record, predictions):
            log(f"{folder.name}: replacing logs of {gone}, which is no longer there")
        draft = LogDraft(folder, record, predictions)
        try:
            draft.staging.mkdir()
            yield draft
        finally:
            shutil.rmtree(draft.staging, ignore_errors=True)


def _remove_unused(folder: AnyPath) -> None:
    """Remove our lock, which this process holds, from a folder without logs; and the folder if that was all."""
    if read_record(folder).made_from is None:
        (staging_dir(folder) / ".lock").unlink(missing_ok=True)
        _remove_if_empty(staging_dir(folder))


def find_current(folder: AnyPath, made_from: str) -> AnyPath | None:
    """Return the event file if all files of a log folder are as they were written, from exactly this; else None.

    Source images that were not found must still be absent.
    """
    record = read_record(folder)
    if not record.files or record.made_from != made_from:
        return None
    is_intact = all(_is_intact(folder / name, record.digests.get(name, "")) for name in record.files)
    if is_intact and are_absent(record.absent):
        return folder / record.files[0]
    return None


def _is_intact(file: AnyPath, digest: str) -> bool:
    """Return whether a file is there as it was written; in object storage only its length is compared."""
    if not file.is_file():
        return False
    if is_remote(file):
        return str(file.stat().st_size) == digest.partition("-")[0]
    return _digest(file) == digest


def list_runs(logdir: AnyPath) -> list[str]:
    """Return the names of the runs in a log folder, the newest first, without comparisons and the leaderboard."""
    return [name for name in _list_ours(logdir) if COMPARE_FILE not in read_record(logdir / name).files]


def list_comparisons(logdir: AnyPath) -> list[str]:
    """Return the names of the comparisons in a log folder, the newest first."""
    return [name for name in _list_ours(logdir) if COMPARE_FILE in read_record(logdir / name).files]


def _list_ours(logdir: AnyPath) -> list[str]:
    places: Iterable[AnyPath] = logdir.glob(f"*/{RECORD_FILE}")
    records = sorted(places, key=lambda record: (-record.stat().st_mtime, str(record)))
    return [record.parent.name for record in records if record.parent.name != LEADERBOARD_RUN]


def has_leaderboard(logdir: AnyPath) -> bool:
    """Return whether a log folder has the run that ranks all others."""
    return (logdir / LEADERBOARD_RUN / RECORD_FILE).is_file()


def code_digest() -> str:
    """Return a digest of the package's source files, because another version may draw the same data differently."""
    return _digest_sources(Path(__file__).parents[1])


@functools.cache  # each run and the leaderboard ask for it, and what runs is what was there first
def _digest_sources(package: Path) -> str:
    code = hashlib.blake2b(digest_size=8)
    for file in sorted(package.rglob("*.py")):
        code.update(file.read_bytes())
    return code.hexdigest()


def read_record(folder: AnyPath) -> LogRecord:
    """Return the record of a log folder; an empty one if there is none, or a file of that name that is not ours.

    Raises StorageError if the storage cannot be reached.
    """
    try:
        record = json.loads(read_bytes(folder / RECORD_FILE))
        files = [str(name) for name in record["files"]]
        # Whatever somebody wrote into the record, we delete nothing outside the folder.
        inside = [name for name in files if not Path(name).is_absolute() and ".." not in Path(name).parts]
        digests = {name: str(digest) for name, digest in dict(record.get("digests", {})).items() if name in inside}
        predictions, root = tuple(map(str, record.get("of", ()))), str(record.get("image_root", ""))
        shown = {str(step): str(digest) for step, digest in dict(record.get("shown", {})).items()}
        absent = decode_absent(record["absent"], str(folder)) if "absent" in record else AbsentImages()
        missing = int(record.get("missing_pictures", 0))
        return LogRecord(str(record["made_from"]), tuple(inside), predictions, digests, root, shown, missing, absent)
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return LogRecord()


def place_independent_record(content: bytes, folder: AnyPath) -> bytes:
    """Return the content of a record for a copy in another place: what it names relative to its folder, in full."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # what is no record stays what it is
        record = json.loads(content)
        record["of"] = [str(resolve_name(str(name), folder)) for name in record["of"]]
        if "image_root" in record:
            record["image_root"] = str(resolve_name(str(record["image_root"]), folder))
        return json.dumps(record).encode("ascii")
    return content


def moved_predictions(folder: AnyPath, record: LogRecord, predictions: Sequence[AnyPath]) -> list[AnyPath]:
    """Return the predictions that the present logs show, if they are others than the new ones and no longer there.

    That happens when predictions are moved, and then their logs may be replaced.

    Args:
        folder: of the logs.
        record: its record.
        predictions: that the new logs show.

    Raises:
        InputError: if the other predictions are still there, so that two runs or comparisons have the same name.
    """
    others = []
    for text in record.predictions:
        place = resolve_name(text, folder)
        if not any(is_same(place, one) for one in predictions):
            others.append(place)
    if existing := next(filter(_has_steps, others), None):
        raise InputError(
            f"{folder} holds the logs of {existing}, which these would replace: name another --logdir, rename a "
            f"folder of predictions, or delete {folder}"
        )
    return others


def _has_steps(predictions: AnyPath) -> bool:
    """Return whether predictions are there, also if we may not look."""
    try:
        return predictions.is_dir() and any(True for _ in predictions.glob("step=*"))
    except (PermissionError, StorageError):
        return True


def _digest(path: Path, sync: bool = False) -> str:
    """Return a file's length and a digest of its content in 16 hexadecimal digits, joined by `-`.

    `sync` makes sure that it is on the disk.
    """
    content = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            content.update(piece)
        if sync:
            os.fsync(file.fileno())
        return f"{file.tell()}-{content.hexdigest()}"


def _remove_if_empty(folder: AnyPath) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
