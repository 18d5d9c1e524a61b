"""A log folder in storage -> a copy on this machine that follows it, for TensorBoard. Knows not what is in a file.

TensorBoard can read event files from storage, but not what its Projector shows, and without its fast loader.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from predboard.parallel import pool
from predboard.storage import paths
from predboard.storage.paths import FileStat, RemotePath, StorageError

POLL_SECONDS = 30.0
"""Seconds from one look at the folder to the next."""

_LEAVE = 5.0
"""Seconds that a look may still take at the end."""


@contextlib.contextmanager
def mirror_log_folder(logdir: RemotePath, say: Callable[[str], None], every: float = POLL_SECONDS) -> Iterator[Path]:
    """A folder with what TensorBoard reads of a log folder, kept as the log folder is until the end, then removed.

    Args:
        logdir: the log folder.
        say: takes a line where the folder cannot be reached for a while.
        every: seconds between two looks.

    Raises StorageError if the folder cannot be reached at the beginning.
    """
    over = threading.Event()
    with tempfile.TemporaryDirectory(prefix="predboard-board-", ignore_cleanup_errors=True) as name:
        copy = Path(name)
        have = _follow(logdir, copy, {})

        def follow() -> None:
            nonlocal have
            while not over.wait(every):
                try:
                    have = _follow(logdir, copy, have)
                except StorageError as error:  # the next look will do
                    say(f"not looked at again: {error}")

        thread = threading.Thread(target=follow, name="predboard", daemon=True)
        thread.start()
        try:
            yield copy
        finally:
            over.set()
            thread.join(_LEAVE)


def _shown(name: PurePosixPath) -> bool:
    """Whether TensorBoard looks into a file."""
    return "tfevents" in name.name or "projector" in name.parts or name.name == "projector_config.pbtxt"


def _follow(logdir: RemotePath, copy: Path, have: dict[str, FileStat]) -> dict[str, FileStat]:
    """Fetch what is new, event files last, and remove what is gone. -> what is there now."""
    start = len(logdir.uri) + 1
    found = {place.uri[start:]: place for place in logdir.walk() if _shown(PurePosixPath(place.uri[start:]))}
    now = {name: place.stat() for name, place in found.items()}
    fresh = [name for name, stat in now.items() if have.get(name) != stat]

    def fetch(name: str) -> None:
        file = copy / name
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.partial".replace("tfevents", ""))  # or TensorBoard would open it
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: the next look finds the new one
            aside.write_bytes(found[name].read_buffer())
            aside.replace(file)

    for events in (False, True):
        for _ in pool.ordered_map(fetch, [n for n in fresh if ("tfevents" in n) == events], paths.MAX_CONNECTIONS):
            pass
    for name in have.keys() - now.keys():
        (copy / name).unlink(missing_ok=True)
    return now
