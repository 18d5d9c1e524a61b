"""Starts Python processes on this machine and exchanges messages with them. It knows nothing of what they work on.

A `PythonProcess` is a fresh interpreter that imports this package and nothing of the caller's, so a script without
`if __name__ == "__main__"` does not run again in it. Messages in both directions are pickled objects on its standard
input and output. It exits when its input ends, so none outlives the process that started it.
"""

import contextlib
import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import IO, Any, Generic, TypeVar, cast

from predboard.garbage import importing
from predboard.parallel.scheduler import Died, Worker
from predboard.streams import protect_streams

T = TypeVar("T")

_EXIT_SECONDS = 10.0
"""Time that a worker gets to exit by itself before it is killed."""

PICKLE_PROTOCOL = 5


def start_python(target: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a Python that calls `serve(target, *arguments)` of this module. Raises OSError if the system starts none.

    Ctrl-C does not reach it: whoever started it closes its input.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    group: dict[str, Any] = (
        {"start_new_session": True} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]  # exists on Windows only
    )
    return subprocess.Popen(  # noqa: S603  our own interpreter and code
        [sys.executable, "-P", "-c", f"from {__name__} import serve; serve(*{(target, *arguments)})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        **group,
    )


class PythonProcess:
    """A process that runs `module:function` of this package, with a channel for messages in both directions.

    The function is called there as `function(receive, send, *arguments)`: `receive()` waits for the next message from
    here, `send(message)` sends one back. Raises OSError if the system starts no process.
    """

    def __init__(self, target: str, *arguments: str) -> None:
        self._process = start_python(target, *arguments)
        self._input = cast("IO[bytes]", self._process.stdin)
        self._output = cast("IO[bytes]", self._process.stdout)

    def send(self, message: Any) -> None:
        """Send one object. Raises OSError if the process has exited."""
        self.send_pickled(pickle.dumps(message, protocol=PICKLE_PROTOCOL))

    def send_pickled(self, message: bytes) -> None:
        """Send an object that is pickled already. Raises OSError if the process has exited."""
        self._input.write(message)
        self._input.flush()

    def receive(self) -> Any:
        """Wait for the next message. Raises EOFError, OSError or UnpicklingError if the process exits before that."""
        return pickle.load(self._output)  # noqa: S301  from a process that we started

    def wait_for_exit(self) -> str:
        """Wait until the process has exited, and return how, for a sentence: `was killed by SIGKILL`."""
        code = self._process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close_input(self) -> None:
        """Ask the process to exit, which it does at once, whatever it is doing."""
        with contextlib.suppress(OSError):
            self._input.close()

    def kill(self) -> None:
        """Kill the process, whatever it is doing."""
        self._process.kill()

    def close(self, seconds: float | None = None) -> None:
        """Close the channel and wait for the exit; after `seconds` the process is killed."""
        self.close_input()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close_output(self) -> None:
        """Close the receiving end. No thread may be in `receive`."""
        self._output.close()


def serve(target: str, *arguments: str) -> None:
    """Run `module:function` in a process that `start_python` started, until its input ends or the function returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed must not get between the messages
    protect_streams()
    with importing(ours=True):
        function = resolve(target)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(message: Any) -> None:
        try:
            output.write(pickle.dumps(message, protocol=PICKLE_PROTOCOL))
            output.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody listens any more; what is left in the buffer is not tried again

    Thread(target=_read_messages, args=[messages], daemon=True).start()
    function(messages.get, send, *arguments)
    sys.stderr.flush()
    os._exit(0)  # without waiting for a thread that reads a hanging file, or the next message


def resolve(target: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _read_messages(messages: "queue.SimpleQueue[Any]") -> None:
    """Queue the messages for this process, and exit when there are no more: the process that sent them is gone."""
    try:
        with os.fdopen(os.dup(0), "rb") as stream:
            while True:
                messages.put(pickle.load(stream))  # noqa: S301  from the process that started this one
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)
    except BaseException:  # a class that cannot be imported here: the main thread would wait for ever
        traceback.print_exc()
        os._exit(1)


# --- workers that ask for tasks ---


WorkerLoop = Callable[[Any, Callable[[], Any], Callable[[], Any], Callable[[Any], object]], None]
"""The function that a worker of a `Scheduler` runs, called as `loop(setup, load_job, receive, send)`.

`setup` is what it was started with, `load_job()` returns the job that all workers share, `receive()` waits for the next
task, and `send(message)` sends one of the messages of `scheduler`.
"""


class ProcessWorkers(Generic[T]):
    """Workers for a `Scheduler`, each a process of this machine. One that died is not replaced."""

    replaces = False

    def __init__(self, loop: WorkerLoop, job: bytes, setups: Sequence[Any], names: Sequence[str]) -> None:
        """Start nothing yet.

        Args:
            loop: a function at the top level of a module of this package.
            job: pickled; the same for all.
            setups: for each worker.
            names: of each, for people: the device it uses.
        """
        self._target = f"{loop.__module__}:{loop.__qualname__}"
        self._job, self._setups, self._names = job, setups, names
        self._messages: queue.SimpleQueue[tuple[Worker[T], object]] = queue.SimpleQueue()
        self._processes: dict[Worker[T], PythonProcess] = {}
        self._listeners: list[Thread] = []

    def start(self, number: int) -> Worker[T]:
        """Start worker `number`, counted from 1."""
        process = PythonProcess(f"{__name__}:run_worker", self._target)

        def send(message: Any) -> None:
            with contextlib.suppress(OSError):  # it died, which its listener reports as well
                process.send(message)

        worker = Worker[T](f"worker {number} ({self._names[number - 1]})", send)
        self._processes[worker] = process
        self._listeners.append(Thread(target=self._listen, args=[worker], name="predboard", daemon=True))
        self._listeners[-1].start()
        send(list(sys.path))
        send(pickle.dumps(self._setups[number - 1]))
        send(self._job)
        return worker

    def _listen(self, worker: Worker[T]) -> None:
        process = self._processes[worker]
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # killed, perhaps in mid-message
            while True:
                self._messages.put((worker, process.receive()))
        process.close_output()
        self._messages.put((worker, Died(process.wait_for_exit())))

    def receive(self) -> tuple[Worker[T], object]:
        """Wait for the next message of any worker."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._messages.get(timeout=1)  # on Windows, nothing interrupts a wait without a timeout

    def end(self, workers: Sequence[Worker[T]]) -> None:
        """Let the workers exit, or kill them, and wait until they are gone."""
        for worker in workers:
            process = self._processes[worker]
            process.close_input()
            if not worker.had_task:  # it may still be importing PyTorch, and has nothing to finish
                process.kill()
        for process in self._processes.values():
            process.close(_EXIT_SECONDS)
        for listener in self._listeners:
            listener.join()


def run_worker(receive: Callable[[], Any], send: Callable[[Any], None], target: str) -> None:
    """Run a `WorkerLoop` in another process, with the imports of the process that started it."""
    sys.path[:] = receive()
    with importing(ours=True):
        loop: WorkerLoop = resolve(target)
    setup = pickle.loads(receive())  # noqa: S301  from the process that started this one
    loop(setup, lambda: pickle.loads(receive()), receive, send)  # noqa: S301  likewise
