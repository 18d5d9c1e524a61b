"""Caches what many threads read from the same file, so that only one of them reads it. It knows nothing of images."""

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Y = TypeVar("Y")


class SharedCache(Generic[Y]):
    """Caches the last results of a function, which no two threads call with the same arguments at a time.

    With `functools.lru_cache` alone, each thread that asks before the first result is there would compute it.
    """

    def __init__(self, function: Callable[..., Y], size: int) -> None:
        """Keep the last `size` results of `function`, whose arguments must be hashable."""
        self._cached = functools.lru_cache(size)(function)
        # Locks are dropped too: one that is dropped while a thread holds it costs one more call at worst.
        self._lock_of = functools.lru_cache(4 * size)(lambda *_: threading.Lock())

    def __call__(self, *args: Hashable) -> Y:
        """Return the function's result for these arguments."""
        with self._lock_of(*args):
            return self._cached(*args)


def shared_cache(size: int) -> Callable[[Callable[..., Y]], SharedCache[Y]]:
    """Decorate a function to keep its last `size` results for all threads.

    >>> @shared_cache(4)
    ... def square(x: int) -> int:
    ...     print("computed")
    ...     return x * x
    >>> square(3), square(3)
    computed
    (9, 9)
    """
    return lambda function: SharedCache(function, size)
