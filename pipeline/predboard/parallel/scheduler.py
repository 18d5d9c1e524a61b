"""Workers and what they are given: who gets which task, who died of it, when it is given up. Knows not what a task is
or how a worker is reached.

A worker asks for a task when it gets there, so a slow one holds up nobody, and what it has in hand is bounded by what
it reads ahead. It is the same for processes of this machine and for actors of a cluster; a `WorkerHost` is the
difference.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from predboard.errors import InputError

MAX_CRASHES = 3
"""Workers that may die on one task before it is given up, or one after the other before any asks for a task."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ready:
    """It wants a task; a patient one waits for what another may give back."""

    patient: bool


@dataclass(frozen=True)
class Progress(Generic[T]):
    """Rows are on disk, so many of them failed; the task that is done with them, if it is."""

    rows: int
    failed: int
    done: T | None


@dataclass(frozen=True)
class LogLine:
    """A line for a person."""

    line: str


@dataclass(frozen=True)
class Finished:
    """It was told that there is no more. Seconds by what they went into."""

    seconds: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """It met an exception."""

    input: bool
    """Whether it is bad input, else a defect."""
    message: str


@dataclass(frozen=True)
class Died:
    """It died or came to its end: said of a worker, not by it."""

    how: str
    """For a sentence: `was killed by SIGKILL`."""


@dataclass(eq=False)
class Worker(Generic[T]):
    """One of the crew."""

    name: str
    order: Callable[[T | None], object]
    """Gives it a task, or None: there is none."""
    given: list[T] = field(default_factory=list)
    """Tasks that are not done."""
    asked: bool = False
    worked: bool = False
    """Whether it was ever given a task."""
    ended: bool = False


class WorkerHost(Protocol[T]):
    """Where workers are."""

    replaces: bool
    """Whether another is started for one that died."""

    def start(self, number: int) -> Worker[T]:
        """A new worker, which begins by itself."""

    def hear(self) -> tuple[Worker[T], object]:
        """Wait for what the next worker says."""

    def end(self, workers: Sequence[Worker[T]]) -> None:
        """Let none of them live."""


class Scheduler(Generic[T]):
    """Hands out tasks until all are done or nobody is left to do them."""

    def __init__(
        self,
        host: WorkerHost[T],
        tasks: Sequence[T],
        wrote: Callable[[int, int], object],
        say: Callable[[str], object],
        name: Callable[[T], str],
        give_up: Callable[[T, str], tuple[int, int]],
    ) -> None:
        """Start nobody yet.

        Args:
            host: where workers are.
            tasks: what to do, in this order as far as possible.
            wrote: hears of rows written, and how many of them failed.
            say: takes a line for a person.
            name: of a task, for a person.
            give_up: does without a worker what workers die on, told why. -> rows written, and how many of them failed
        """
        self._host, self._wrote, self._say, self._name, self._give_up = host, wrote, say, name, give_up
        self._todo = deque(tasks)
        self._suspects: deque[T] = deque()
        """Tasks that a worker had in hand when it died. Each is tried alone, so that it is known which it was."""
        self._deaths: Counter[T] = Counter()
        self._stillborn = 0
        """Workers that died, one after the other, before they asked for a task."""
        self._workers: list[Worker[T]] = []
        self._waiting: list[Worker[T]] = []

    def run(self, count: int) -> dict[str, float]:
        """Let `count` workers do the tasks. -> seconds of all of them. Raises InputError and whatever a worker met."""
        total: Counter[str] = Counter()
        everyone: list[Worker[T]] = []

        def start() -> None:
            worker = self._host.start(len(everyone) + 1)
            everyone.append(worker)
            self._workers.append(worker)

        try:
            for _ in range(count):
                start()
            while (self._left and self._workers) or any(w.worked and not w.ended for w in self._workers):
                worker, said = self._host.hear()
                if isinstance(said, Ready):
                    worker.asked, self._stillborn = True, 0
                    self._asked(worker, said.patient)
                elif isinstance(said, Progress):
                    self._wrote(said.rows, said.failed)
                    if said.done is not None:
                        worker.given.remove(said.done)
                elif isinstance(said, LogLine):
                    self._say(said.line)
                elif isinstance(said, Finished):
                    worker.ended = True
                    total.update(said.seconds)
                elif isinstance(said, Failed):
                    raise InputError(said.message) if said.input else RuntimeError(f"{worker.name}: {said.message}")
                elif isinstance(said, Died):
                    self._workers.remove(worker)
                    if not worker.ended:
                        self._mourn(worker, said.how)
                        if self._host.replaces and self._left:
                            start()
                while self._waiting and (self._left or not any(w.given for w in self._workers)):
                    self._give(self._waiting.pop(0))
        finally:
            self._host.end(everyone)
        return dict(total)

    @property
    def _left(self) -> bool:
        """Whether there is a task that no worker has."""
        return bool(self._todo or self._suspects)

    def _asked(self, worker: Worker[T], patient: bool) -> None:
        if self._left or not patient:
            self._give(worker)
        else:
            self._waiting.append(worker)

    def _give(self, worker: Worker[T]) -> None:
        """The next task. One that a worker may have died on is given alone."""
        task = None
        if not worker.given and self._suspects:
            task = self._suspects.popleft()
        elif self._todo and not any(self._deaths[task] for task in worker.given):
            task = self._todo.popleft()
        if task is not None:
            worker.given.append(task)
            worker.worked = True
        worker.order(task)

    def _mourn(self, worker: Worker[T], how: str) -> None:
        """Say that a worker died, and take back its tasks."""
        self._waiting = [other for other in self._waiting if other is not worker]
        if not worker.asked:
            self._stillborn += 1
            if self._host.replaces and self._stillborn == MAX_CRASHES:
                raise InputError(f"no worker of {MAX_CRASHES} began to work, the last {how}; nothing is lost")
        begun, lost = ", ".join(map(self._name, worker.given)) or "none", []
        for task in worker.given:
            self._deaths[task] += 1
            if self._deaths[task] >= MAX_CRASHES and len(worker.given) == 1:
                lost.append(task)
            else:
                self._suspects.append(task)
        worker.given.clear()
        if self._host.replaces:
            then = "another takes its place" if self._left else "nothing else is left to do"
        else:
            then = "the others do them" if self._workers else "nobody is left to do them"
        self._say(f"{worker.name} {how}; parts it had begun: {begun}; {then}")
        for task in lost:
            why = f"{self._deaths[task]} workers died on part {self._name(task)}, the last {how}"
            self._say(f"{why}: it is given up, and its rows are rows with an error")
            self._wrote(*self._give_up(task, why))
