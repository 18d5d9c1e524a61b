"""Workers that are actors of a Ray cluster, for the scheduler. It knows Ray, and nothing of what a task is.

Actors run the code of the process that started them, which `ray_cluster.connected` sends along.
"""

import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from predboard.errors import InputError, first_line
from predboard.parallel.processes import WorkerLoop
from predboard.parallel.ray_cluster import ActorShape, describe_cluster, how_it_died, import_ray
from predboard.parallel.scheduler import Died, Worker

_KILL_SECONDS = 10.0
"""Longest wait for killed workers to be gone."""

_HINT_SECONDS = 20
"""Time without a single worker after which the user is told what is waited for."""


class RayWorkers:
    """Workers for a `Scheduler`, each an actor of the cluster. One that died is replaced."""

    replaces = True

    def __init__(
        self,
        loop: WorkerLoop,
        shape: ActorShape,
        device: str,
        setup: Any,
        job: Any,
        log: Callable[[str], None],
    ) -> None:
        """Put the job into the cluster's memory, and start nothing yet.

        Args:
            loop: what each runs.
            shape: what each takes.
            device: for its name.
            setup: the same for each.
            job: the same for all; each machine gets one copy.
            log: takes a line for the user.

        Raises InputError if the job cannot be copied.
        """
        ray = import_ray()
        self._loop, self._shape, self._device, self._setup, self._log = loop, shape, device, setup, log
        try:
            self._job = [ray.put(job)]  # in a list: its classes can be imported only when `setup` is done
        except Exception as error:  # pickling calls the user's own classes, which may raise anything
            raise InputError(
                f"the model or the dataset cannot be sent to Ray's workers ({type(error).__name__}: "
                f"{first_line(error)}): give both as FILE.py:NAME"
            ) from error
        self._messages: deque[tuple[Worker[Any], object]] = deque()
        self._actors: dict[Worker[Any], Any] = {}
        self._polls: dict[Any, Worker[Any]] = {}
        """The pending call of `_Actor.messages` of each worker."""
        self._local_pids: list[int] = []
        """Process IDs of workers on this machine."""
        self._any_started = False

    def start(self, number: int) -> Worker[Any]:
        """Ask for worker `number`, counted from 1: it starts as soon as there is room for it."""
        ray = import_ray()
        groups = {"orders": 1, "messages": 1}  # calls of one group run one after the other
        kind = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=groups, **self._shape.options)(_Actor)
        actor = kind.remote(self._loop, list(sys.path), str(Path.cwd()))
        send = actor.order.options(concurrency_group="orders").remote
        worker: Worker[Any] = Worker(f"worker {number} ({self._device})", send)
        self._actors[worker] = actor
        worker.send(self._setup)
        worker.send(self._job)
        self._poll(worker)
        return worker

    def _poll(self, worker: Worker[Any]) -> None:
        messages = self._actors[worker].messages.options(concurrency_group="messages")
        self._polls[messages.remote()] = worker

    def receive(self) -> tuple[Worker[Any], object]:
        """Wait for the next message of any worker."""
        ray = import_ray()
        waited = 0
        while not self._messages:
            ready, _ = ray.wait(list(self._polls), num_returns=1, timeout=1)
            if ready and len(self._polls) > 1:
                ready, _ = ray.wait(list(self._polls), num_returns=len(self._polls), timeout=0)
            for poll in ready:
                self._take(self._polls.pop(poll), poll)
            waited += not ready
            if waited == _HINT_SECONDS and not self._any_started:
                self._log(f"no worker has started yet: the Ray cluster has {describe_cluster()}, needed: {self._shape}")
        return self._messages.popleft()

    def _take(self, worker: Worker[Any], poll: Any) -> None:
        ray = import_ray()
        try:
            messages: list[object] = ray.get(poll)
        except ray.exceptions.RayError as error:
            ray.kill(self._actors[worker])  # if it is only unreachable, it ends once it is reachable again
            self._messages.append((worker, Died(how_it_died(error))))
            return
        self._any_started = True
        for message in messages:
            if isinstance(message, _Started):
                worker.name = f"{worker.name[:-1]} on {message.machine}, process {message.pid})"
                if message.machine == socket.gethostname():
                    self._local_pids.append(message.pid)
            else:
                self._messages.append((worker, message))
        self._poll(worker)

    def end(self, workers: Sequence[Worker[Any]]) -> None:
        """Kill the workers, and wait until they are gone: none may write any more."""
        ray = import_ray()
        for worker in workers:
            ray.kill(self._actors[worker])
        deadline = time.monotonic() + _KILL_SECONDS
        if self._polls:
            ray.wait(list(self._polls), num_returns=len(self._polls), timeout=_KILL_SECONDS)
        while any(map(_is_alive, self._local_pids)) and time.monotonic() < deadline:  # Ray calls them dead too early
            time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # which has no signal 0
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class _Started:
    """The first message of an actor."""

    machine: str
    pid: int


class _Actor:
    """One worker on its machine: a thread does the work, and two others take orders and hand over messages."""

    def __init__(self, loop: WorkerLoop, path: Sequence[str], folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        sys.path += [entry for entry in path if entry not in sys.path]
        self._orders: SimpleQueue[Any] = SimpleQueue()
        self._messages: SimpleQueue[object] = SimpleQueue()
        self._messages.put(_Started(socket.gethostname(), os.getpid()))
        threading.Thread(target=self._run, args=[loop], name="predboard", daemon=True).start()

    def _run(self, loop: WorkerLoop) -> None:
        ray = import_ray()
        loop(self._orders.get(), lambda: ray.get(self._orders.get()[0]), self._orders.get, self._messages.put)

    def order(self, message: Any) -> None:
        """Queue a message for the worker."""
        self._orders.put(message)

    def messages(self) -> list[object]:
        """Wait until the worker has said something, and return all of it."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages
