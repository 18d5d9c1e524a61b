"""Loads rows in processes of this machine, for user code that holds Python's lock. It knows nothing of what is loaded.

These are spawned by `concurrent.futures` and not by `parallel.processes`, because a dataset's class may be defined in
the caller's own script: `spawn` makes that importable, as users know it from torch's DataLoader.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar

from predboard.errors import InputError
from predboard.images.decode import silence_pillow

Y = TypeVar("Y")


class LoadingProcesses(Generic[Y]):
    """Processes that load rows, each with a copy of the function that does it."""

    def __init__(self, load_rows: Callable[[Sequence[int]], list[Y]], count: int) -> None:
        """Prepare `count` processes; each one starts when it is first needed, and gets the pickled function once."""
        # Not forked: a fork would copy the locks of threads that it does not have.
        spawn = multiprocessing.get_context("spawn")
        if sys.platform != "win32":  # which has none
            resource_tracker.ensure_running()  # its start would unblock SIGINT while `_sigint_blocked` needs it blocked
        self._pool = ProcessPoolExecutor(count, spawn, _begin, (load_rows,))
        self.hung = 0
        """Processes that did not answer in time; when all are hung, threads load instead."""

    def load_rows(self, rows: Sequence[int]) -> list[Y]:
        """Load rows in one of the processes. Raises InputError if the process died."""
        try:
            with _sigint_blocked():  # it may start a process
                loaded: Future[list[Y]] = self._pool.submit(_load_rows, list(rows))
            return loaded.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a process that loads the dataset could not start or was killed, possibly for lack of memory: use "
                "fewer --processes, or --processes 0 for threads; the same command resumes where it stopped"
            ) from error

    def end(self) -> None:
        """End all processes, hung ones too."""
        running = list((self._pool._processes or {}).values())  # Python 3.14 has kill_workers for this
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        for process in running:
            process.join()


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block Ctrl-C in this thread; a process that starts meanwhile inherits that, and prints no traceback of its own.

    Such a process is ended by this one.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_functions: list[Callable[[Sequence[int]], list[Any]]] = []
"""In a loading process, the function that loads. An executor has no other way to give a process something once."""


def _begin(load_rows: Callable[[Sequence[int]], list[Any]]) -> None:
    if torch := sys.modules.get("torch"):  # imported by the dataset; one thread, because there are several processes
        torch.set_num_threads(1)
    _functions.append(load_rows)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process when its parent has ended, even if that was killed; else it would wait for rows for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _load_rows(rows: list[int]) -> list[Any]:
    (load_rows,) = _functions
    with silence_pillow():
        return load_rows(rows)
