"""Assigns tasks to workers, reassigns the tasks of workers that crash, and gives a task up after three crashes. It
knows nothing of what a task is or how a worker is reached.

A worker asks for a task when it is ready for one, so a slow worker holds up nobody, and what it holds is bounded by
what it reads ahead. `WorkerHost` hides whether workers are processes of this machine or actors of a Ray cluster.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from predboard.errors import InputError

MAX_CRASHES = 3
"""Workers that may crash on one task before it is given up, or one after the other before any has asked for a task."""

T = TypeVar("T")


# --- what a worker says ---


@dataclass(frozen=True)
class Ready:
    """The worker wants a task."""

    waits: bool
    """Whether it waits if there is none now, because another worker may still give one back."""


@dataclass(frozen=True)
class Progress(Generic[T]):
    """The worker wrote rows."""

    rows: int
    failed: int
    """Rows with an error, among these or written before."""
    finished: T | None
    """The task that is finished with these rows, if one is."""


@dataclass(frozen=True)
class LogLine:
    """The worker has a line for the user."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The worker was told that there are no more tasks, and has finished its own."""

    seconds: dict[str, float]
    """Time by what it was spent on."""


@dataclass(frozen=True)
class Failed:
    """The worker met an exception, which ends the run."""

    is_input_error: bool
    """Whether the input is bad; otherwise it is a defect."""
    message: str


@dataclass(frozen=True)
class Died:
    """The worker's process has exited. Its host reports this, not the worker."""

    how: str
    """For a sentence: `was killed by SIGKILL`."""


# --- the side that hands out tasks ---


@dataclass(eq=False)
class Worker(Generic[T]):
    """The scheduler's record of one worker."""

    name: str
    send: Callable[[Any], object]
    """Sends it a task, or None if there is none."""
    tasks: list[T] = field(default_factory=list)
    """Tasks it has been given and not finished."""
    was_ready: bool = False
    """Whether it has ever asked for a task."""
    had_task: bool = False
    finished: bool = False


class WorkerHost(Protocol[T]):
    """Starts workers, delivers their messages and ends them."""

    replaces: bool
    """Whether a worker that died is replaced by another."""

    def start(self, number: int) -> Worker[T]:
        """Start worker `number`, counted from 1."""

    def receive(self) -> tuple[Worker[T], object]:
        """Wait for the next message of any worker."""

    def end(self, workers: Sequence[Worker[T]]) -> None:
        """End the workers, and wait until they are gone."""


class Scheduler(Generic[T]):
    """Hands out tasks until all are finished or no worker is left."""

    def __init__(
        self,
        host: WorkerHost[T],
        tasks: Sequence[T],
        progress: Callable[[int, int], object],
        log: Callable[[str], object],
        name: Callable[[T], str],
        give_up: Callable[[T, str], tuple[int, int]],
    ) -> None:
        """Start no worker yet.

        Args:
            host: starts the workers.
            tasks: handed out in this order as far as possible.
            progress: called with the number of rows written, and how many rows failed.
            log: takes a line for the user.
            name: returns a task's name, for people.
            give_up: handles a task on which workers keep crashing, given the reason, and returns what `progress` takes.
        """
        self._host, self._progress, self._log, self._name, self._give_up = host, progress, log, name, give_up
        self._queue = deque(tasks)
        self._suspects: deque[T] = deque()
        """Tasks that a worker held when it crashed. Each is retried alone, which shows the one that was to blame."""
        self._crashes: Counter[T] = Counter()
        self._failed_starts = 0
        """Workers that died, one after the other, before they asked for a task."""
        self._workers: list[Worker[T]] = []
        self._waiting: list[Worker[T]] = []

    def run(self, count: int) -> dict[str, float]:
        """Let `count` workers do the tasks, and return the seconds of all of them.

        Raises InputError for bad input that a worker met, or if none of them starts; RuntimeError for a defect.
        """
        total: Counter[str] = Counter()
        started: list[Worker[T]] = []

        def start() -> None:
            worker = self._host.start(len(started) + 1)
            started.append(worker)
            self._workers.append(worker)

        try:
            for _ in range(count):
                start()
            while (self._unassigned and self._workers) or any(w.had_task and not w.finished for w in self._workers):
                worker, message = self._host.receive()
                match message:
                    case Ready(waits):
                        worker.was_ready, self._failed_starts = True, 0
                        if waits and not self._unassigned:
                            self._waiting.append(worker)
                        else:
                            self._assign(worker)
                    case Progress(rows, failed, finished):
                        self._progress(rows, failed)
                        if finished is not None:
                            worker.tasks.remove(finished)
                    case LogLine(text):
                        self._log(text)
                    case Finished(seconds):
                        worker.finished = True
                        total.update(seconds)
                    case Failed(is_input_error, text):
                        raise InputError(text) if is_input_error else RuntimeError(f"{worker.name}: {text}")
                    case Died(how):
                        self._workers.remove(worker)
                        if not worker.finished:
                            self._on_death(worker, how)
                            if self._host.replaces and self._unassigned:
                                start()
                while self._waiting and (self._unassigned or not any(w.tasks for w in self._workers)):
                    self._assign(self._waiting.pop(0))
        finally:
            self._host.end(started)
        return dict(total)

    @property
    def _unassigned(self) -> bool:
        """Whether there is a task that no worker has."""
        return bool(self._queue or self._suspects)

    def _assign(self, worker: Worker[T]) -> None:
        """Send the next task, or None. A task that may have crashed a worker is given to one that has no other."""
        task = None
        if not worker.tasks and self._suspects:
            task = self._suspects.popleft()
        elif self._queue and not any(self._crashes[task] for task in worker.tasks):
            task = self._queue.popleft()
        if task is not None:
            worker.tasks.append(task)
            worker.had_task = True
        worker.send(task)

    def _on_death(self, worker: Worker[T], how: str) -> None:
        """Log that a worker died, and take back its tasks or give them up."""
        self._waiting = [other for other in self._waiting if other is not worker]
        if not worker.was_ready:
            self._failed_starts += 1
            if self._host.replaces and self._failed_starts == MAX_CRASHES:
                raise InputError(
                    f"{MAX_CRASHES} workers in a row died before their first part, the last {how}; nothing that was "
                    "written is lost"
                )
        unfinished, hopeless = ", ".join(map(self._name, worker.tasks)) or "none", []
        for task in worker.tasks:
            self._crashes[task] += 1
            if self._crashes[task] >= MAX_CRASHES and len(worker.tasks) == 1:
                hopeless.append(task)
            else:
                self._suspects.append(task)
        worker.tasks.clear()
        if self._host.replaces:
            then = "starting another worker" if self._unassigned else "no other part is left to do"
        else:
            then = "the other workers take over" if self._workers else "no worker is left"
        self._log(f"{worker.name} {how}; unfinished parts: {unfinished}; {then}")
        for task in hopeless:
            why = f"{self._crashes[task]} workers died on part {self._name(task)}, the last {how}"
            self._log(f"{why}: giving it up; its rows are written with an error")
            self._progress(*self._give_up(task, why))
