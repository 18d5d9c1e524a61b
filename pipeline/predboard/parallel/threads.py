"""Maps a function over items on threads, in order. It knows nothing of what the function does.

Threads are enough where the work releases Python's lock, as Pillow's decoding and NumPy's and Arrow's loops do.
"""

import contextlib
import ctypes
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Condition, RLock, Thread, get_native_id
from typing import Generic, TypeVar

X = TypeVar("X")
Y = TypeVar("Y")

_SHUTDOWN_SECONDS = 1.0
"""Longest wait for unfinished items when the caller stops early, after Ctrl-C for example, or an item took too long: it
may wait for a file system that is gone. The threads do not keep the process from exiting."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of these parameters in glibc's malloc.h."""

_LARGEST_KEPT_BLOCK_BYTES = 32 * 2**20
"""The most that glibc allows, on 64-bit machines."""

_KEPT_BYTES = 256 * 2**20
"""The free memory at the end of the heap that is not returned to the system."""

_SPINS = "1000"
"""GNU OpenMP's own value where it has more threads than processors; it does not know of those that decode."""


def worker_count(requested: int) -> int:
    """Return `requested`, or if that is 0 the number of processors this process may use, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return requested or min(available, 16)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next allocation, up to `_KEPT_BYTES`, where that is the C library.

    By default it returns large blocks to the system at once. Threads that make and drop arrays of some megabytes all
    the time then spend a fifth of their processor time in the kernel, which clears each page anew. This holds for the
    whole process until it ends, so it is for a process of our own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def limit_spinning() -> None:
    """Have threads of GNU OpenMP, which PyTorch's are, sleep soon where they wait for each other.

    By default they spin for some milliseconds, and hold up the thread that they wait for where others decode beside
    them. This changes the environment, so it is for a process of our own, before torch is imported; it leaves alone
    what the user's environment says of waiting.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def limit_blas_threads() -> None:
    """Have OpenBLAS, which NumPy's wheels carry, start no threads: they take half of the time of `import numpy`.

    A product of matrices also has the same last bits then, whatever the number of processors. This changes the
    environment, so it is for a process of our own, before NumPy is imported; it leaves alone what the user's
    environment says of threads.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@dataclass(frozen=True)
class ItemTimeout(Generic[X, Y]):
    """Limits how long one item may take, and says what to use in place of its result."""

    seconds: float
    """Counted from when a thread starts the item, not from when it is queued."""
    fallback: Callable[[X], Y]
    """Called in the caller's thread for an item that took too long."""


@dataclass(eq=False)
class _Pending(Generic[X, Y]):
    item: X
    result: "Future[Y]" = field(default_factory=Future)
    started: float | None = None
    """`time.monotonic()` when a thread took the item; None while it is queued."""
    abandoned: bool = False


class _Backlog:
    """Counts the items that threads have begun and the caller has not had yet, and lets a thread wait while many are.

    All but the first `ahead` / 2 are begun by fewer threads the more there are, in the end by one: as many results then
    come as the caller takes, and its own thread has a processor for itself.
    """

    def __init__(self, workers: int, ahead: int, gives_way: bool) -> None:
        self._lock = RLock()  # also taken by the main thread, which a signal may interrupt: `Condition` is Python code
        self._changed, self._begun, self._ended = Condition(self._lock), 0, False
        step = ahead / 2 / max(workers - 1, 1)
        self._limits = [max(ahead - i * step, 2 * workers) if i and gives_way else math.inf for i in range(workers)]

    def wait(self, worker: int) -> None:
        """Wait until this one of the threads, counted from 0, is wanted; the first one always is."""
        if self._limits[worker] < math.inf:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._begun < self._limits[worker])

    def begin(self) -> None:
        """Count an item that a thread begins."""
        with self._lock:
            self._begun += 1

    def take(self) -> None:
        """Count an item that the caller takes, or waits for."""
        with self._lock:
            self._begun -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._lock:
            self._ended = True
            self._changed.notify_all()


def ordered_map(
    function: Callable[[X], Y],
    items: Iterable[X],
    workers: int,
    ahead: int | None = None,
    timeout: ItemTimeout[X, Y] | None = None,
    on_exit: Callable[[], object] = lambda: None,
    nice: int = 0,
    at_once: Callable[[X], Y | None] = lambda _: None,
) -> Generator[Y, None, None]:
    """Yield `function(item)` for each item, in the order of the items, computed on threads.

    Items are drawn in the caller's thread. An exception of the function is raised where its result would have been.
    Threads are started with the first item that is for one.

    Args:
        function: called on the threads.
        items: may be infinite; drawn only as far as `ahead` requires.
        workers: number of threads.
        ahead: how many items may be started and not yet yielded; by default twice the number of threads.
        timeout: limits each item. A thread cannot be stopped: one that exceeds the limit is abandoned and replaced,
            and does not keep the process from exiting.
        on_exit: called once no more results are wanted, before the threads are joined.
        nice: if not 0, the threads give way to the caller's: fewer of them work the more results wait for it, and where
            the system is Linux they are nicer by so much. With 2 each has two thirds of the weight of the caller's
            where there are more threads than processors.
        at_once: called in the caller's thread for each item as it is drawn: its result, or None if a thread should
            compute it. Work that holds Python's lock takes longer on a thread beside other such work than after it.

    >>> list(ordered_map(lambda x: x * x, range(5), workers=2))
    [0, 1, 4, 9, 16]
    """
    queue: SimpleQueue[_Pending[X, Y] | None] = SimpleQueue()
    ahead = ahead or 2 * workers
    backlog = _Backlog(workers, ahead, gives_way=nice > 0)
    threads: list[Thread] = []
    pending: deque[_Pending[X, Y]] = deque()

    def oldest_result() -> Y:
        oldest = pending[0]
        backlog.take()
        if timeout is not None and not _finishes_in_time(oldest, timeout.seconds):
            oldest.abandoned = True
            threads.append(_start_thread(function, queue, nice, backlog, 0))
            pending.popleft()
            return timeout.fallback(oldest.item)
        return pending.popleft().result.result()

    bounded = True
    try:
        for item in items:
            known = at_once(item)
            pending.append(_Pending(item))
            if known is not None:
                backlog.begin()
                pending[-1].result.set_result(known)
            else:
                threads = threads or [_start_thread(function, queue, nice, backlog, i) for i in range(workers)]
                queue.put(pending[-1])
            if len(pending) >= ahead:
                yield oldest_result()
        while pending:
            yield oldest_result()
        bounded = timeout is not None
    finally:
        on_exit()
        backlog.end()
        for unfinished in pending:
            unfinished.result.cancel()
        for _ in threads:
            queue.put(None)
        deadline = time.monotonic() + _SHUTDOWN_SECONDS if bounded else None
        for thread in threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))


def _start_thread(
    function: Callable[[X], Y], queue: "SimpleQueue[_Pending[X, Y] | None]", nice: int, backlog: _Backlog, worker: int
) -> Thread:
    def process_queue() -> None:
        if nice and sys.platform == "linux":  # where each thread has its own priority
            with contextlib.suppress(PermissionError):  # a sandbox may forbid it, and it is no more than a courtesy
                thread_id = get_native_id()
                os.setpriority(os.PRIO_PROCESS, thread_id, os.getpriority(os.PRIO_PROCESS, thread_id) + nice)
        while True:
            backlog.wait(worker)
            if (pending := queue.get()) is None:
                return
            backlog.begin()
            if not pending.result.set_running_or_notify_cancel():
                continue
            pending.started = time.monotonic()
            try:
                pending.result.set_result(function(pending.item))
            except BaseException as error:  # of any kind: it is raised where the result is asked for
                pending.result.set_exception(error)
            if pending.abandoned:  # another thread has taken this one's place
                return

    thread = Thread(target=process_queue, name="predboard", daemon=True)
    thread.start()
    return thread


def _finishes_in_time(pending: _Pending[X, Y], seconds: float) -> bool:
    """Wait for a result until `seconds` after a thread took the item, and return whether it is done."""
    while not pending.result.done():
        left = seconds if pending.started is None else pending.started + seconds - time.monotonic()
        if left <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            pending.result.exception(left)
    return True
