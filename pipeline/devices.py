"""Tasks -> devices: one works here, several each in a process of their own. Knows not what is done with a task.

A worker is told what to do by its standard input and answers by its standard output, both in pickled objects. It is a
fresh Python that imports this module and nothing of the caller's, so that a script without `if __name__ == "__main__"`
does not start again in each of them, and it ends when its input does, so that none outlives its master.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

import torch

from pipeline import models, timing, usercode, workers
from pipeline.errors import InputError
from pipeline.shards import Task
from pipeline.work import Job, Watcher, module_of, work

_GRACE = 10.0
"""Seconds that a worker gets to end."""


def run(
    job: Job,
    devices: Sequence[torch.device],
    modules: Callable[[int], torch.nn.Module],
    tasks: Sequence[Task],
    wrote: Callable[[int], object],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Do the tasks, each on the device that is free first. -> seconds as `timing` has them, of all devices together.

    Args:
        job: what is the same for all.
        devices: one process for each of several.
        modules: gives the model of a step, where one device works here.
        tasks: what to do.
        wrote: hears of rows written.
        say: takes a line for a person. A worker that dies is named; the others do its tasks.

    Raises InputError, and whatever else a worker meets; the other workers are ended then.
    """
    if min(len(devices), len(tasks)) <= 1:
        waiting = iter(tasks)
        here = Watcher(lambda _: next(waiting, None), lambda rows, _: wrote(rows), say)
        return work(job, devices[0], modules, here)
    with _Crew(job, devices[: len(tasks)], tasks, wrote, say) as crew:
        return crew.seconds()


# --- what a worker says ---


@dataclass(frozen=True)
class _Asks:
    patient: bool


@dataclass(frozen=True)
class _Wrote:
    rows: int
    done: Task | None


@dataclass(frozen=True)
class _Says:
    line: str


@dataclass(frozen=True)
class _Ends:
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Fails:
    input: bool
    """Whether it is bad input, else a defect."""
    message: str


@dataclass(frozen=True)
class _Gone:
    """Its output has ended: said of a worker, not by it."""


@dataclass(eq=False)
class _Worker:
    name: str
    process: "subprocess.Popen[bytes]"
    orders: IO[bytes]
    given: list[Task] = field(default_factory=list)
    """Tasks that are not done."""
    worked: bool = False
    """Whether it was ever given one."""
    ended: bool = False
    listener: threading.Thread | None = None

    def order(self, what: Any) -> None:
        with contextlib.suppress(OSError):  # it died: the end of its output says so as well
            pickle.dump(what, self.orders)
            self.orders.flush()


class _Crew:
    """Workers in processes of their own. Hands out tasks until all are done or nobody is left to do them."""

    def __init__(
        self,
        job: Job,
        devices: Sequence[torch.device],
        tasks: Sequence[Task],
        wrote: Callable[[int], object],
        say: Callable[[str], None],
    ) -> None:
        self._todo, self._wrote, self._say = deque(tasks), wrote, say
        self._heard: queue.SimpleQueue[tuple[_Worker, object]] = queue.SimpleQueue()
        try:
            packed = pickle.dumps(job)
        except Exception as error:  # pickling calls the user's own classes, which may raise anything
            raise InputError(
                f"several devices work in processes of their own, where {type(error).__name__}: {error}: name model "
                "and data as FILE.py:NAME, or use one device"
            ) from error
        self._workers: list[_Worker] = []
        try:
            for number, device in enumerate(devices, 1):
                worker = _started(f"worker {number} ({device})")
                self._workers.append(worker)
                worker.listener = threading.Thread(target=self._listen, args=[worker], name="predboard", daemon=True)
                worker.listener.start()
            for worker, device in zip(
                self._workers, devices, strict=True
            ):  # now that all are importing PyTorch at once
                worker.order((list(sys.path), usercode.imported()))
                worker.order((packed, str(device), max(1, torch.get_num_threads() // len(devices))))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.orders.close()
            if not worker.worked:  # it may still be importing PyTorch, and has nothing to bring to an end
                worker.process.kill()
        for worker in self._workers:
            try:
                worker.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            if worker.listener is not None:
                worker.listener.join()

    def _listen(self, worker: _Worker) -> None:
        answers = cast("IO[bytes]", worker.process.stdout)
        with answers, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # killed, maybe in mid-word
            while True:
                self._heard.put((worker, pickle.load(answers)))  # noqa: S301  from a process that we started
        self._heard.put((worker, _Gone()))

    def seconds(self) -> dict[str, float]:
        """Hand out the tasks and wait for their end. -> seconds of all workers."""
        total = timing.NO_SECONDS
        waiting: list[_Worker] = []
        left = set(self._workers)
        while (self._todo and left) or any(w.worked and not w.ended for w in left):
            worker, said = self._next()
            if isinstance(said, _Asks):
                if self._todo or not said.patient:
                    self._give(worker)
                else:
                    waiting.append(worker)
            elif isinstance(said, _Wrote):
                self._wrote(said.rows)
                if said.done is not None:
                    worker.given.remove(said.done)
            elif isinstance(said, _Says):
                self._say(said.line)
            elif isinstance(said, _Ends):
                worker.ended = True
                total = timing.plus(total, said.seconds)
            elif isinstance(said, _Fails):
                raise InputError(said.message) if said.input else RuntimeError(f"{worker.name}: {said.message}")
            elif isinstance(said, _Gone):
                left.discard(worker)
                if not worker.ended:
                    self._mourn(worker, left)
                    waiting = [w for w in waiting if w is not worker]
            while waiting and (self._todo or not any(w.given for w in left)):
                self._give(waiting.pop(0))
        return total

    def _next(self) -> tuple[_Worker, object]:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._heard.get(timeout=1)  # on Windows nothing interrupts a longer wait

    def _give(self, worker: _Worker) -> None:
        task = self._todo.popleft() if self._todo else None
        if task is not None:
            worker.given.append(task)
            worker.worked = True
        worker.order(task)

    def _mourn(self, worker: _Worker, left: set[_Worker]) -> None:
        """Say that a worker died, and give its tasks to the others."""
        code = worker.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        parts = ", ".join(str(task.shard.index) for task in worker.given) or "none"
        then = "the others do them" if left else "nobody is left to do them"
        self._say(f"{worker.name} {how}; parts it had begun: {parts}; {then}")
        self._todo.extendleft(reversed(worker.given))
        worker.given.clear()


def _started(name: str) -> _Worker:
    process = workers.fresh_python("devices")
    return _Worker(name, process, cast("IO[bytes]", process.stdin))


# --- the worker's side ---


def serve() -> None:
    """Work for the process that started this one."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's model prints must not get between the answers
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=[orders], daemon=True).start()

    def tell(what: object) -> None:
        pickle.dump(what, answers)
        answers.flush()

    def ask(patient: bool) -> Task | None:
        tell(_Asks(patient))
        task: Task | None = orders.get()
        return task

    master = Watcher(ask, lambda rows, done: tell(_Wrote(rows, done)), lambda line: tell(_Says(line)))
    try:
        sys.path[:], files = orders.get()
        for file, kind in files:
            usercode.again(file, kind)  # what is pickled may be of a class in it
        packed, device, threads = orders.get()
        torch.set_num_threads(threads)
        job: Job = pickle.loads(packed)  # noqa: S301  from the process that started this one
        config = job.config
        factory = models.open_factory(config.model, config.model_args, ema=config.ema, trust=config.trust_checkpoint)

        def module(step: int) -> torch.nn.Module:
            return module_of(factory.build, job.steps[step], job.runs[step])

        tell(_Ends(work(job, torch.device(device), module, master)))
    except InputError as error:
        tell(_Fails(True, str(error)))
    except Exception:  # it is raised again by the master
        tell(_Fails(False, traceback.format_exc()))
    sys.stderr.flush()
    os._exit(0)  # a thread that waits for a hanging file, or for orders, does not matter any more


def _receive(orders: "queue.SimpleQueue[Any]") -> None:
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError), os.fdopen(os.dup(0), "rb") as lines:
        while True:
            orders.put(pickle.load(lines))  # noqa: S301  from the process that started this one
    os._exit(1)  # the master is gone, or wants no more: what was published is whole
