"""An order-keeping map on threads, and a pool of processes. Knows nothing of what they work on."""

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Condition, RLock, Thread
from typing import IO, Any, Generic, Protocol, Self, TypeVar, cast

from predboard.errors import InputError

X = TypeVar("X")
Y = TypeVar("Y")
X_in = TypeVar("X_in", contravariant=True)
Y_out = TypeVar("Y_out", covariant=True)

_THERE = b"there"
"""What a process says when it has started."""

_LEAVE = 1.0
"""Seconds that unfinished items get when the caller wants no more and has little patience."""


def worker_count(wanted: int) -> int:
    """Threads to use: `wanted`, or if that is 0 one for each processor this process may use, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or min(available, 16)


@dataclass(frozen=True)
class ItemTimeout(Generic[X, Y]):
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


def ordered_map(
    function: Callable[[X], Y],
    items: Iterable[X],
    workers: int,
    ahead: int | None = None,
    patience: ItemTimeout[X, Y] | None = None,
    leaving: Callable[[], object] = lambda: None,
) -> Generator[Y, None, None]:
    """`map` on threads: results in the order of the items, at most `ahead` of them begun and not yet taken.

    Threads, because Pillow's decoding and NumPy's and Arrow's loops release Python's lock. The items are
    drawn in the caller's thread. An exception of the function is raised where its result would have been.

    `leaving` is called when no more is wanted, before the threads are waited for.

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
        leaving()
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


def start_python(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """A Python that imports `module` of this package and calls its `serve`, and nothing of the caller's: a script
    without `if __name__ == "__main__"` does not start again in it.

    It is told what to do by its standard input and answers by its standard output. Ctrl-C does not reach it: the caller
    closes its input.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    group: dict[str, Any] = (
        {"start_new_session": True} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]  # Windows alone has it
    )
    return subprocess.Popen(  # noqa: S603  our own interpreter and code
        [sys.executable, "-P", "-c", f"from predboard.{module} import serve; serve(*{arguments})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        **group,
    )


class Accumulator(Protocol[X_in, Y_out]):
    """What processes may run, each with a copy of its own: it answers each item, and may keep something of them."""

    def __call__(self, item: X_in, /) -> Y_out:
        """The answer to one item."""
        ...

    def rest(self) -> Any:
        """What it kept of the items it was given, after the last of them."""
        ...


class ProcessPool:
    """A process and others that work for it, where Python's lock would make threads wait for each other.

    Another process needs a third of a second to start: it is asked for before it is needed, and works from when it is
    there. All end with the `with` block.
    """

    def __init__(self, most: int, warm: str = "") -> None:
        """Of at most so many processes, this one among them. The others call `warm`, a `module:function`, at once."""
        self.most = most
        self._warm = warm
        self._started: list[_Process] = []
        self._starting: list[Thread] = []
        self._lock = RLock()  # taken by the main thread, where a signal must not come between: `Condition` is Python
        self._changed = Condition(self._lock)
        self._closed = False
        self._free: list[_Process] = []  # those that are there and have nothing to do
        self._there = 0
        self._here = 0  # items that this process works on
        self._told: tuple[object, bytes] = None, b""  # the newest function, and how it is sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            started = list(self._started)
        for process in started:
            process.kill()
        for thread in self._starting:
            thread.join()
        for process in started:
            process.close()

    def start(self, count: int) -> None:
        """Begin to start others, so that there are `worker_count` processes, as far as `most` and the system allow."""
        with self._lock:  # whoever else wants some does not start too many
            while len(self._starting) < min(count, self.most) - 1:
                thread = Thread(target=self._begin, daemon=True)
                thread.start()  # a thread, because no signal comes between its process and the list of all
                self._starting.append(thread)

    def _begin(self) -> None:
        """Start a process, and wait until it is there."""
        try:
            process = _Process(self._warm)
        except OSError:  # the system allows no more: those that there are do the work
            return
        with self._changed:
            closed = self._closed
            if not closed:
                self._started.append(process)
        if closed:
            process.kill()
            process.close()
            return
        process.wait()
        with self._changed:
            self._free.append(process)
            self._there += 1
            self._changed.notify_all()

    def call(self, function: Callable[[X], Y], item: X) -> Y:
        """The function's answer from whichever process is free, this one too, and by several threads at once.

        Function, item and answer are pickled if it is another; a process is sent a function once. An exception of the
        function is raised here. Raises InputError if a process dies.
        """
        with self._taken(None) as process:
            return function(item) if process is None else cast(Y, process.ask(self._use(function), "do", item))

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        count: int,
        rest: Callable[[Any], object] = lambda _: None,
    ) -> Generator[Y, None, None]:
        """`ordered_map` on `worker_count` processes, each with a copy of the function that gets one item at a time.

        After the last item `rest` takes what the function of each process kept, which is sent once, not with each
        answer. Else as `call`.
        """
        self.start(count)
        ahead = 4 * count  # one that is slow at first must not hold up the others
        if count == 1:
            yield from ordered_map(function, items, count, ahead)
            rest(function.rest())
            return
        used: set[_Process | None] = set()
        left: list[bool] = []

        def leave() -> None:
            """Let nobody wait any more, to begin what nobody wants."""
            with self._lock:
                left.append(True)
                self._changed.notify_all()

        def answer(item: X) -> Y:
            with self._taken(1, left) as process:
                used.add(process)
                return function(item) if process is None else cast(Y, process.ask(use, "do", item))

        use = self._use(function)  # before it keeps anything
        yield from ordered_map(answer, items, count, ahead, leaving=leave)
        for process in used:
            rest(function.rest() if process is None else process.ask(use, "rest"))

    def everywhere(self, function: Callable[[], object]) -> None:
        """Call a function in this process and in each other one that is there and has nothing to do.

        Of one that has died hears who needs it.
        """
        function()
        with self._lock:
            others, self._free = self._free, []
        try:
            for process in others:
                with contextlib.suppress(InputError):
                    process.ask(self._use(function), "do")
        finally:
            with self._changed:
                self._free += others
                self._changed.notify_all()

    def _use(self, function: object) -> bytes:
        """The order to work with a copy of the function: the same object for the same function."""
        with self._lock:
            if self._told[0] is not function:
                self._told = function, pickle.dumps(("use", function), protocol=5)
            return self._told[1]

    @contextlib.contextmanager
    def _taken(self, here: int | None, left: Sequence[bool] = ()) -> Iterator["_Process | None"]:
        """A process to work with, None for this one.

        This one takes `here` items at a time, by default as many as there are processes that are not there yet, and at
        least one. Raises CancelledError where one is still waited for when there is something in `left`.
        """

        def free() -> bool:
            most = max(self.most - self._there, 1) if here is None else here
            return bool(self._free) or self._here < most or bool(left)

        with self._changed:
            self._changed.wait_for(free)
            if left:
                raise CancelledError
            process = self._free.pop() if self._free else None
            self._here += process is None
        try:
            yield process
        finally:
            with self._changed:
                if process is None:
                    self._here -= 1
                else:
                    self._free.append(process)
                self._changed.notify_all()


class _Process:
    """Another Python that does as it is told. Raises OSError if the system starts none."""

    def __init__(self, warm: str) -> None:
        self._process = start_python("parallel.pool", warm)
        self._orders = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        self._has = b""  # the order by which it has its function

    def wait(self) -> None:
        """Until it is there, or has ended, which whoever asks it next will hear."""
        self._answers.read(len(_THERE))

    def ask(self, use: bytes, *order: Any) -> Any:
        """To work on an item with its copy of a function, or for what that kept."""
        try:
            if self._has is not use:
                self._orders.write(use)
                self._has = use
            self._orders.write(pickle.dumps(order, protocol=5))
            self._orders.flush()
            result, error = pickle.load(self._answers)  # noqa: S301  from a process that we started
        except (EOFError, OSError, pickle.UnpicklingError) as broken:
            code = self._process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise InputError(
                f"a process that works on predictions {how}, maybe for want of memory: --workers 1 needs less"
            ) from broken
        if order == ("rest",):
            self._has = b""
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """Whatever it does: it waits for an item, or works on one that nobody wants any more."""
        self._process.kill()

    def close(self) -> None:
        """When nobody listens to it any more."""
        with contextlib.suppress(OSError):
            self._orders.close()
        self._answers.close()
        self._process.wait()


def serve(warm: str) -> None:
    """Work for the process that started this one, until its orders end or nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this one ends it
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not get between the answers
    if warm:
        module, _, function = warm.partition(":")
        getattr(importlib.import_module(module), function)()
    work: Any = None
    try:
        answers.write(_THERE)
        answers.flush()
        while True:
            what, *item = pickle.load(orders)  # noqa: S301  from the process that started this one
            if what == "use":
                (work,) = item
                continue
            answer: tuple[Any, Exception | None] | None
            try:
                answer = work.rest() if what == "rest" else work(*item), None
            except Exception as error:  # it is raised again by the one who asked
                answer = None, _sendable(error)
            answers.write(pickle.dumps(answer, protocol=5))
            answers.flush()
            if what == "rest":
                work = answer = None  # states of 20 MB and more; what comes next is something else
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # nobody is there any more, maybe since half an order
        os._exit(0)  # what is left to write is not tried again


def _sendable(error: Exception) -> Exception:
    """An exception as it is, or in words where its class cannot be made again from what is sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    except Exception as reason:  # whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error} ({type(reason).__name__} when it was sent)")
    return error
