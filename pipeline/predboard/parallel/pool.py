"""A pool of Python processes that answers calls and folds items, for work that holds Python's lock. It knows nothing of
what they work on.
"""

import contextlib
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from threading import Condition, RLock, Thread
from typing import Any, Protocol, Self, TypeVar, cast

from predboard.errors import InputError
from predboard.garbage import importing
from predboard.parallel.processes import PICKLE_PROTOCOL, PythonProcess, resolve
from predboard.parallel.threads import ordered_map

X = TypeVar("X")
Y = TypeVar("Y")
X_in = TypeVar("X_in", contravariant=True)
Y_out = TypeVar("Y_out", covariant=True)


class Accumulator(Protocol[X_in, Y_out]):
    """A function of items that also collects a result over all items it was given, such as a merged state.

    Each process of a pool has its own copy.
    """

    def __call__(self, item: X_in, /) -> Y_out:
        """Return the answer to one item."""
        ...

    def drain(self) -> Any:
        """Return what was collected. Called once, after the last item."""
        ...


class ProcessPool:
    """Lets other processes work beside this one, for work that holds Python's lock.

    Another process takes a third of a second to start: it is started before it is needed, and used once it is ready.
    All of them end with the `with` block.
    """

    def __init__(self, max_processes: int, warm_up: str = "") -> None:
        """Start nothing yet.

        Args:
            max_processes: at most so many processes, including this one.
            warm_up: a `module:function` that each other process calls first, to import what it will need.
        """
        self.max_processes = max_processes
        self._warm_up = warm_up
        self._started: list[_PoolProcess] = []
        self._starting: list[Thread] = []
        self._lock = RLock()  # also taken by the main thread, which a signal may interrupt: `Condition` is Python code
        self._changed = Condition(self._lock)
        self._closed = False
        self._idle: list[_PoolProcess] = []
        self._ready_count = 0
        self._items_in_this_process = 0
        self._last_encoded: tuple[object, bytes] = None, b""

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
        """Begin to start processes until there are `count`, as far as `max_processes` and the system allow."""
        with self._lock:  # so that callers on several threads do not start too many together
            while len(self._starting) < min(count, self.max_processes) - 1:
                thread = Thread(target=self._start_one, daemon=True)
                thread.start()  # on a thread, so that no signal comes between starting a process and recording it
                self._starting.append(thread)

    def _start_one(self) -> None:
        """Start a process, and add it to the idle ones once it is ready."""
        try:
            process = _PoolProcess(self._warm_up)
        except OSError:  # the system allows no more: the existing processes do the work
            return
        with self._changed:
            closed = self._closed
            if not closed:
                self._started.append(process)
        if closed:
            process.kill()
            process.close()
            return
        process.wait_until_ready()
        with self._changed:
            self._idle.append(process)
            self._ready_count += 1
            self._changed.notify_all()

    @property
    def has_others(self) -> bool:
        """Whether another process is ready to work."""
        return self._ready_count > 0

    def call(self, function: Callable[[X], Y], item: X) -> Y:
        """Return `function(item)`, computed by an idle process or by this one. Safe to call from several threads.

        Function, item and answer are pickled if another process does it; a process is sent the same function once. An
        exception of the function is raised here. Raises InputError if a process dies.
        """
        with self._acquire(None) as process:
            return function(item) if process is None else cast(Y, process.ask(self._encode(function), "call", item))

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        count: int,
        collect: Callable[[Any], object] = lambda _: None,
    ) -> Generator[Y, None, None]:
        """Yield the answers of `function` in the order of the items, computed by `count` processes.

        After the last item, `collect` gets what the copy of each process has accumulated: that is sent once, not with
        each answer. Errors are those of `call`.
        """
        self.start(count)
        ahead = 4 * count  # a process that is slow at first must not hold up the others
        if count == 1:
            yield from ordered_map(function, items, count, ahead)
            collect(function.drain())
            return
        used: set[_PoolProcess | None] = set()
        stopped: list[bool] = []

        def stop() -> None:
            """Wake all that wait for a process, so that nothing is started that nobody wants."""
            with self._lock:
                stopped.append(True)
                self._changed.notify_all()

        def answer(item: X) -> Y:
            with self._acquire(1, stopped) as process:
                used.add(process)
                return function(item) if process is None else cast(Y, process.ask(encoded, "call", item))

        encoded = self._encode(function)  # before it has accumulated anything
        yield from ordered_map(answer, items, count, ahead, on_exit=stop)
        for process in used:
            collect(function.drain() if process is None else process.ask(encoded, "drain"))

    def broadcast(self, function: Callable[[], object]) -> None:
        """Call a function once in this process and in each idle one.

        A process that has died is skipped; the next call that needs it raises.
        """
        function()
        with self._lock:
            others, self._idle = self._idle, []
        try:
            for process in others:
                with contextlib.suppress(InputError):
                    process.ask(self._encode(function), "call")
        finally:
            with self._changed:
                self._idle += others
                self._changed.notify_all()

    def _encode(self, function: object) -> bytes:
        """Return the message that gives a process a copy of the function: the same bytes for the same function."""
        with self._lock:
            if self._last_encoded[0] is not function:
                self._last_encoded = function, pickle.dumps(("use", function), protocol=PICKLE_PROTOCOL)
            return self._last_encoded[1]

    @contextlib.contextmanager
    def _acquire(self, own_items: int | None, stopped: Sequence[bool] = ()) -> Iterator["_PoolProcess | None"]:
        """Wait for a process to work with; None stands for this one.

        This process takes `own_items` items at a time, by default as many as there are processes that are not ready,
        and at least one. Raises CancelledError once `stopped` has an element.
        """

        def available() -> bool:
            limit = max(self.max_processes - self._ready_count, 1) if own_items is None else own_items
            return bool(self._idle) or self._items_in_this_process < limit or bool(stopped)

        with self._changed:
            self._changed.wait_for(available)
            if stopped:
                raise CancelledError
            process = self._idle.pop() if self._idle else None
            self._items_in_this_process += process is None
        try:
            yield process
        finally:
            with self._changed:
                if process is None:
                    self._items_in_this_process -= 1
                else:
                    self._idle.append(process)
                self._changed.notify_all()


class _PoolProcess:
    """A process of a pool. Raises OSError if the system starts none."""

    def __init__(self, warm_up: str) -> None:
        self._process = PythonProcess(f"{__name__}:answer_calls", warm_up)
        self._loaded = b""
        """The message by which it has its function."""

    def wait_until_ready(self) -> None:
        """Wait until it has started, or has exited: the next `ask` raises then."""
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            self._process.receive()

    def ask(self, function: bytes, *request: Any) -> Any:
        """Send it a request about its copy of a function, and return the answer. Raises InputError if it has died."""
        try:
            if self._loaded is not function:
                self._process.send_pickled(function)
                self._loaded = function
            self._process.send(request)
            result, error = self._process.receive()
        except (EOFError, OSError, pickle.UnpicklingError) as broken:
            raise InputError(
                f"a process that reads predictions {self._process.wait_for_exit()}, perhaps for lack of memory: "
                "--workers 1 needs less"
            ) from broken
        if request == ("drain",):
            self._loaded = b""
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """Kill it, whether it waits for an item or works on one that nobody wants any more."""
        self._process.kill()

    def close(self) -> None:
        """Release it once it has exited."""
        self._process.close()
        self._process.close_output()


def answer_calls(receive: Callable[[], Any], send: Callable[[Any], None], warm_up: str) -> None:
    """Answer the requests of a `ProcessPool`, in another process."""
    if warm_up:
        with importing(ours=True):
            resolve(warm_up)()
    send("ready")
    work: Any = None
    while True:
        kind, *item = receive()
        if kind == "use":
            (work,) = item
            continue
        answer: tuple[Any, Exception | None] | None
        try:
            answer = work.drain() if kind == "drain" else work(*item), None
        except Exception as error:  # of any kind: it is raised again by the caller
            answer = None, _picklable(error)
        send(answer)
        if kind == "drain":
            work = answer = None  # states of 20 MB and more, before the next function comes


def _picklable(error: Exception) -> Exception:
    """Return the exception, or its text in a RuntimeError if it cannot be made again from its pickle."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    except Exception as reason:  # whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error} ({type(reason).__name__} when it was sent)")
    return error
