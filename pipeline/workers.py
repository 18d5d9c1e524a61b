"""An order-keeping map on threads. Knows nothing of what is mapped."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

X = TypeVar("X")
Y = TypeVar("Y")

_LEAVE = 1.0
"""Seconds that unfinished items get when the caller wants no more and has little patience."""


def count(wanted: int) -> int:
    """Threads to use: `wanted`, or if that is 0 one for each processor this process may use, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or min(available, 16)


@dataclass(frozen=True)
class Patience(Generic[X, Y]):
    """How long to wait for one item, once it is begun, and what to do instead."""

    seconds: float
    instead: Callable[[X], Y]
    """Runs in the caller's thread."""


@dataclass(eq=False)
class _Begun(Generic[X, Y]):
    item: X
    result: "Future[Y]" = field(default_factory=Future)
    since: float | None = None
    """When a thread took it."""
    given_up: bool = False


def in_order(
    function: Callable[[X], Y],
    items: Iterable[X],
    workers: int,
    ahead: int | None = None,
    patience: Patience[X, Y] | None = None,
) -> Generator[Y, None, None]:
    """`map` on threads: results in the order of the items, at most `ahead` of them begun and not yet taken.

    Threads, because Pillow's decoding and NumPy's and Arrow's loops release Python's lock. The items are
    drawn in the caller's thread. An exception of the function is raised where its result would have been.

    A thread cannot be stopped. One that is out of `patience` is left alone and another takes its place; it does not
    keep the process from ending.
    """
    queue: SimpleQueue[_Begun[X, Y] | None] = SimpleQueue()
    threads = [_thread(function, queue) for _ in range(workers)]
    begun: deque[_Begun[X, Y]] = deque()

    def oldest() -> Y:
        one = begun[0]
        if patience is not None and not _in_time(one, patience.seconds):
            one.given_up = True
            threads.append(_thread(function, queue))
            begun.popleft()
            return patience.instead(one.item)
        return begun.popleft().result.result()

    try:
        for item in items:
            begun.append(_Begun(item))
            queue.put(begun[-1])
            if len(begun) >= (ahead or 2 * workers):
                yield oldest()
        while begun:
            yield oldest()
    finally:
        for one in begun:
            one.result.cancel()
        for _ in threads:
            queue.put(None)
        until = None if patience is None else time.monotonic() + min(patience.seconds, _LEAVE)
        for thread in threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0))


def _thread(function: Callable[[X], Y], queue: "SimpleQueue[_Begun[X, Y] | None]") -> Thread:
    def serve() -> None:
        while (one := queue.get()) is not None:
            if not one.result.set_running_or_notify_cancel():
                continue
            one.since = time.monotonic()
            try:
                one.result.set_result(function(one.item))
            except BaseException as error:  # whatever it is, it is raised where the result is asked for
                one.result.set_exception(error)
            if one.given_up:  # another thread has taken this one's place
                return

    thread = Thread(target=serve, name="predboard", daemon=True)
    thread.start()
    return thread


def _in_time(one: _Begun[X, Y], seconds: float) -> bool:
    """Wait for a result, at most so long after a thread took the item. -> whether it is there."""
    while not one.result.done():
        left = seconds if one.since is None else one.since + seconds - time.monotonic()
        if left <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            one.result.exception(left)
    return True
