"""Caches what many threads read from the same file, so that only one of them reads it. It knows nothing of images."""

import functools
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from predboard.storage.paths import AnyPath, is_remote

Y = TypeVar("Y")


class SharedCache(Generic[Y]):
    """Caches the last results of a function of a file, which no two threads call with the same arguments at a time.

    A file that is written again is read again. With `functools.lru_cache` alone, each thread that asks before the first
    result is there would compute it.
    """

    def __init__(self, function: Callable[..., Y], size: int) -> None:
        """Keep the last `size` results of `function`, whose arguments, the file first, must be hashable."""
        self._cached = functools.lru_cache(size)(lambda _, *args: function(*args))
        # Locks are dropped too: one that is dropped while a thread holds it costs one more call at worst.
        self._lock_of = functools.lru_cache(4 * size)(lambda *_: threading.Lock())

    def __call__(self, file: AnyPath, *args: Hashable) -> Y:
        """Return the function's result for these arguments. Raises OSError if there is no such file."""
        with self._lock_of(file, *args):
            return self._cached(version_of(file), file, *args)


def version_of(file: AnyPath) -> tuple[int, ...]:
    """Return numbers that change when a file is written again; of one in storage, with each `read_storage_anew`."""
    if is_remote(file):
        return (_reading_since(),)
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_storage_anew() -> None:
    """Let nothing that was read from object storage be used again, because to ask what has changed takes long.

    Each command begins with it: one process may run several.
    """
    _reading_since.cache_clear()


@functools.lru_cache(1)
def _reading_since() -> int:
    return time.monotonic_ns()


def shared_cache(size: int) -> Callable[[Callable[..., Y]], SharedCache[Y]]:
    """Decorate a function to keep its last `size` results for all threads.

    >>> from pathlib import Path
    >>> @shared_cache(4)
    ... def count_parts(folder: AnyPath) -> int:
    ...     print("read")
    ...     return len(folder.parts)
    >>> count_parts(Path("/")), count_parts(Path("/"))
    read
    (1, 1)
    """
    return lambda function: SharedCache(function, size)
