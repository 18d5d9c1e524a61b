"""Mirrors a log folder from object storage on this machine for TensorBoard, and follows its changes.

It knows nothing of the content of the files. TensorBoard can read event files from storage by itself, but not the files
of its Projector, and without its fast loader; the tab Predictions reads files of this machine alone.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from predboard.parallel.threads import ordered_map
from predboard.storage.file_systems import StorageError
from predboard.storage.paths import AnyPath
from predboard.storage.remote import MAX_CONNECTIONS, FileStat, RemotePath

POLL_SECONDS = 30.0
"""Time between two listings of the folder."""

MIRROR_FILE = ".predboard-mirror"
"""A file in a copy, which is removed in the end: what is written beside the logs would be lost."""

Convert = Callable[[bytes, RemotePath], bytes]
"""Returns the content of a file for its copy, from its content and its folder."""

_FINISH_SECONDS = 5.0
"""Longest wait at the end for a listing that has begun."""


@contextlib.contextmanager
def mirror_log_folder(
    logdir: AnyPath,
    log: Callable[[str], None],
    every: float = POLL_SECONDS,
    more: Mapping[str, Convert | None] | None = None,
) -> Iterator[Path]:
    """Yield a local folder with the files of a log folder that TensorBoard reads, kept up to date until the end.

    A log folder on this machine is its own mirror. A copy of one in storage is removed at the end.

    Args:
        logdir: the log folder.
        log: called with one line when the folder cannot be reached for a while.
        every: seconds between two listings.
        more: names of further files that are copied, the last ones of each listing after the others; what has a
            function is converted by it.

    Raises:
        StorageError: if the folder cannot be reached at the beginning.
    """
    if isinstance(logdir, Path):
        yield logdir
        return
    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="predboard-board-", ignore_cleanup_errors=True) as name:
        copy = Path(name)
        more = more or {}
        mirrored = _update(logdir, copy, {}, more)
        (copy / MIRROR_FILE).touch()

        def follow() -> None:
            nonlocal mirrored
            while not stopped.wait(every):
                try:
                    mirrored = _update(logdir, copy, mirrored, more)
                except StorageError as error:  # the next listing will do
                    log(f"cannot update the copy of the logs for now: {error}")

        thread = threading.Thread(target=follow, name="predboard", daemon=True)
        thread.start()
        try:
            yield copy
        finally:
            stopped.set()
            thread.join(_FINISH_SECONDS)


def is_mirror(folder: Path) -> bool:
    """Return whether a folder is the copy of a log folder in storage, which is removed in the end."""
    return (folder / MIRROR_FILE).exists()


def _is_read_by_tensorboard(name: PurePosixPath) -> bool:
    return "tfevents" in name.name or "projector" in name.parts or name.name == "projector_config.pbtxt"


def _update(
    logdir: RemotePath, copy: Path, mirrored: dict[str, FileStat], more: Mapping[str, Convert | None]
) -> dict[str, FileStat]:
    """Fetch new files, event files last, and remove deleted ones; return what the folder holds now."""
    order = list(more)

    def rank(name: str) -> int:
        base = PurePosixPath(name).name
        return len(order) if "tfevents" in base else order.index(base) if base in more else -1

    start = len(logdir.uri) + 1
    files = {path.uri[start:]: path for path in logdir.walk_files()}
    files = {
        name: path
        for name, path in files.items()
        if _is_read_by_tensorboard(PurePosixPath(name)) or PurePosixPath(name).name in more
    }
    stats = {name: path.stat() for name, path in files.items()}
    changed = [name for name, stat in stats.items() if mirrored.get(name) != stat]

    def fetch(name: str) -> None:
        file = copy / name
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial".replace("tfevents", ""))  # or TensorBoard would open it
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: the next listing has the new one
            convert = more.get(file.name)
            content = files[name].read_buffer()
            partial.write_bytes(content if convert is None else convert(content.to_pybytes(), files[name].parent))
            partial.replace(file)

    for current in sorted(set(map(rank, changed))):
        for _ in ordered_map(fetch, [name for name in changed if rank(name) == current], MAX_CONNECTIONS):
            pass
    for name in mirrored.keys() - stats.keys():
        (copy / name).unlink(missing_ok=True)
    return stats
