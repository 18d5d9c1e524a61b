"""An order-keeping map on threads. Knows nothing of what is mapped."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

X = TypeVar("X")
Y = TypeVar("Y")


def count(wanted: int) -> int:
    """Threads to use: `wanted`, or if that is 0 one for each processor this process may use, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or min(available, 16)


def in_order(function: Callable[[X], Y], items: Iterable[X], workers: int, ahead: int | None = None) -> Iterator[Y]:
    """`map` on threads: results in the order of the items, at most `ahead` of them begun and not yet taken.

    Threads, because Pillow's decoding and NumPy's and Arrow's loops release Python's lock. The items are
    drawn in the caller's thread. An exception of the function is raised where its result would have been.
    """
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[Y]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) >= (ahead or 2 * workers):
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
