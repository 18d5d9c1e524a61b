"""Keeps processes from writing to the same folder at the same time, and removes what killed ones left unfinished.

It knows nothing of what is written. The locks are files that the operating system frees when their process dies. Object
storage has no locks: for a folder there they are in its staging folder, and protect against processes of this machine
only. That suffices to keep the data right, because a part is published whole and depends on its rows and run alone.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from predboard.errors import InputError
from predboard.storage.part_plan import WHOLE_RUN, Share
from predboard.storage.parts import part_index
from predboard.storage.paths import AnyPath, explain_write_errors, staging_dir

_PROBE_SECONDS = 0.3
"""Longest wait for a lock, which another process may hold for a moment to see whether it is free."""


@contextlib.contextmanager
def lock_folder(
    folder: AnyPath,
    flag: str = "--out",
    unfinished: str = "step=*/.part-*.tmp",
    share: Share = WHOLE_RUN,
    wait_seconds: float = _PROBE_SECONDS,
) -> Iterator[None]:
    """Hold the lock of a folder, or of a share of its parts, and remove `unfinished` files at both ends.

    A share K/N runs beside the other shares of the same N, and beside nothing else. A process that is refused changes
    nothing.

    Args:
        folder: what is written to.
        flag: command-line flag that names the folder, for messages.
        unfinished: pattern of the staging files and folders of killed processes.
        share: the parts that are written.
        wait_seconds: how long to wait for another process to finish.

    Raises:
        InputError: if another process writes to the folder or works on the same or an overlapping share.
    """
    staging = staging_dir(folder)
    with contextlib.ExitStack() as locks:
        with explain_write_errors(folder):
            staging.mkdir(parents=True, exist_ok=True)
            try:
                locks.enter_context(_lock(_lock_file(staging, share), wait_seconds))
            except filelock.Timeout:
                raise InputError(_explain_held(folder, share, flag)) from None
        for other in _held_shares(staging, share):
            if other.count != share.count:
                raise InputError(_explain_held(folder, other, flag))
        _remove_unfinished(staging, unfinished, share)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the next process removes the rest
                _remove_unfinished(staging, unfinished, share)


def is_being_written(folder: AnyPath) -> bool:
    """Return whether a process of this machine holds the lock of a folder, or of a share of its parts.

    A lock that this user may not open counts as free: the folder is read, and says the same when its writer is another
    user's.
    """
    staging = staging_dir(folder)
    files = (staging / ".lock", *staging.glob(".share-*.lock"))
    return any(os.access(file, os.W_OK) and _is_held(file) for file in files)


def _lock_file(staging: Path, share: Share) -> Path:
    return staging / (".lock" if share == WHOLE_RUN else f".share-{share.number}-of-{share.count}.lock")


def _lock(file: Path, wait_seconds: float) -> filelock.BaseFileLock:
    """Return the lock of a file. Raises InputError for a file that is no lock: to lock a file is to empty it."""
    if file.is_symlink() or (file.exists() and (not file.is_file() or file.stat().st_size)):
        raise InputError(f"{file} is no lock that predboard made, and would be emptied: move it away")
    return filelock.FileLock(file, timeout=wait_seconds)


def _explain_held(folder: AnyPath, share: Share, flag: str) -> str:
    what = f"writing to {folder}" if share == WHOLE_RUN else f"working on share {share} of {folder}"
    return f"another process is {what}: wait until it finishes, or name another {flag}"


def _held_shares(staging: Path, own: Share) -> list[Share]:
    """Return the shares, or the whole, that other processes hold."""
    names = [path.name for path in sorted(staging.glob(".share-*.lock"))]
    matches = filter(None, (re.fullmatch(r"\.share-(\d+)-of-(\d+)\.lock", name) for name in names))
    shares = [WHOLE_RUN, *(Share(int(match[1]), int(match[2])) for match in matches)]
    return [share for share in shares if share != own and _is_held(_lock_file(staging, share))]


def _is_held(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        with _lock(file, 0):
            return False
    except filelock.Timeout:
        return True


def _remove_unfinished(staging: Path, pattern: str, share: Share) -> None:
    """Remove the staging files of killed processes, which nobody else can be writing while the lock is held."""
    for stale in staging.glob(pattern):
        if stale.parent != staging and stale.parent.is_symlink():
            continue
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        elif share.holds(part_index(stale)):
            stale.unlink(missing_ok=True)
