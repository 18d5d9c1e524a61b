"""An order-keeping map, on threads or on processes. Knows nothing of what is mapped."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, Generic, Protocol, TypeVar, cast

from pipeline.errors import InputError

X = TypeVar("X")
Y = TypeVar("Y")
X_in = TypeVar("X_in", contravariant=True)
Y_out = TypeVar("Y_out", covariant=True)

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


def fresh_python(module: str) -> "subprocess.Popen[bytes]":
    """A Python that imports `module` of this package and calls its `serve()`, and nothing of the caller's: a script
    without `if __name__ == "__main__"` does not start again in it.

    It is told what to do by its standard input and answers by its standard output. Ctrl-C does not reach it: the caller
    closes its input.
    """
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    group: dict[str, Any] = (
        {"start_new_session": True} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]  # Windows alone has it
    )
    return subprocess.Popen(  # noqa: S603  our own interpreter and code
        [sys.executable, "-P", "-c", f"from pipeline.{module} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        **group,
    )


class Folding(Protocol[X_in, Y_out]):
    """What processes may run, each with a copy of its own: it answers each item, and may keep something of them."""

    def __call__(self, item: X_in, /) -> Y_out:
        """The answer to one item."""
        ...

    def rest(self) -> Any:
        """What it kept of the items it was given, after the last of them."""
        ...


def in_processes(
    function: Folding[X, Y], items: Iterable[X], workers: int, rest: Callable[[Any], object] = lambda _: None
) -> Generator[Y, None, None]:
    """`in_order` on this process and `workers - 1` others, for what does not release Python's lock.

    After the last item `rest` takes what the function of each process kept, which is sent once, not with each answer.

    Function, items and results are pickled. An exception of the function is raised here. Raises InputError if a process
    dies.
    """
    idle: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
    idle.put(None)  # this one, which need not start first
    processes: list[subprocess.Popen[bytes]] = []
    used: set[subprocess.Popen[bytes] | None] = set()

    def ask(process: "subprocess.Popen[bytes] | None", item: "tuple[X] | None") -> Any:
        """Of an item, or for the rest."""
        if process is None:
            return function.rest() if item is None else function(*item)
        try:
            orders, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
            pickle.dump(item, orders, protocol=5)
            orders.flush()
            result, error = pickle.load(answers)  # noqa: S301  from a process that we started
        except (EOFError, OSError, pickle.UnpicklingError) as broken:
            code = process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise InputError(
                f"a process that reads predictions {how}, maybe for want of memory: --workers 1 needs less"
            ) from broken
        if error is not None:
            raise error
        return result

    def answer(item: X) -> Y:
        process = idle.get()
        used.add(process)
        try:
            return cast(Y, ask(process, (item,)))
        finally:
            idle.put(process)

    try:
        for _ in range(workers - 1):
            process = fresh_python("workers")
            processes.append(process)
            pickle.dump(function, cast("IO[bytes]", process.stdin))
            idle.put(process)
        yield from in_order(answer, items, workers)
        for one in used:
            rest(ask(one, None))
    finally:
        for process in processes:
            process.kill()  # it waits for an item, or works on one that nobody wants any more
            with contextlib.suppress(OSError):
                cast("IO[bytes]", process.stdin).close()
            cast("IO[bytes]", process.stdout).close()
            process.wait()


def serve() -> None:
    """Work for the process that started this one, until its orders end."""
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not get between the answers
    with contextlib.suppress(EOFError):
        function = pickle.load(orders)  # noqa: S301  from the process that started this one
        while True:
            item = pickle.load(orders)  # noqa: S301  likewise
            answer: tuple[Any, Exception | None]
            try:
                answer = function.rest() if item is None else function(*item), None
            except Exception as error:  # it is raised again by the one who asked
                answer = None, error
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
