"""Ray: a cluster -> actors that work as this machine's processes do. Knows Ray, and no stage.

Actors run the code of the process that started them: the package is sent along, everything else it needs (PyTorch for
stage one) must be installed there. Files have the same paths on all machines.
"""

import contextlib
import importlib.util
import itertools
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from predboard.errors import InputError, first_line
from predboard.formatting import plural
from predboard.parallel.scheduler import Died, Worker

X = TypeVar("X")
Y = TypeVar("Y")
S = TypeVar("S")
K = TypeVar("K")

MERGE_WIDTH = 8
"""How many are joined at a time."""

TASK_RETRIES = 2
"""Of what a process died on."""

_MOST_CPUS = 16
"""Of an actor, where nobody says: threads that hold Python's lock now and then gain little from more."""

_MEMORY = 4 * 2**30
"""Bytes of an actor, where there is no machine yet that could have one."""

_ANSWER = 10.0
"""Seconds that a cluster may take to answer."""

_GRACE = 10.0
"""Seconds that killed workers get to be dead."""

_PATIENCE = 20
"""Seconds without a single worker after which a person is told what is waited for."""


def _ray() -> Any:
    """The library, whose types say less than it takes."""
    import ray

    return ray


@dataclass(frozen=True)
class ActorShape:
    """What an actor takes, and how many there are."""

    count: int
    gpus: float
    cpus: float
    memory: int
    """Its share of the smallest machine's, bytes."""

    def __str__(self) -> str:
        of = f"{self.gpus:g} GPU and " if self.gpus else ""
        return f"{plural(self.count, 'actor')} of {of}{plural(int(self.cpus), 'CPU')}"

    @property
    def options(self) -> dict[str, float]:
        """As Ray wants to be told."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or to a Ray that is started for this. A program that has one keeps it.

    Raises InputError if Ray is not installed or the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray needs Ray: pip install 'predboard[ray]'")
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    if (address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise InputError(
            "Ray's client (ray://) is not spoken here: run the command on a machine of the cluster, or by "
            "ray job submit"
        )
    if address and (found := re.fullmatch(r"(\[.+\]|[^:/]+):(\d+)", address)):
        try:  # Ray itself would try for minutes
            socket.create_connection((found[1].strip("[]"), int(found[2])), _ANSWER).close()
        except OSError as error:
            raise InputError(
                f"nobody answers at --ray-address {address} ({first_line(error)}); expected auto, HOST:PORT, or local"
            ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that is started here; nothing is sent anywhere
    terminated = signal.getsignal(signal.SIGTERM)
    package = str(Path(__file__).resolve().parents[1])
    try:
        ray.init(
            address=address,
            runtime_env={"py_modules": [package]},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:  # what its documentation and its code raise
        where = f"--ray-address {address}" if address else "Ray"
        raise InputError(
            f"{where} cannot be reached or started: {first_line(error)}; expected auto, HOST:PORT, or local"
        ) from error
    if threading.current_thread() is threading.main_thread() and terminated is not None:
        signal.signal(signal.SIGTERM, terminated)  # Ray has put its own in its place
    try:
        yield
    finally:
        ray.shutdown()


def actor_shape(actors: int | None, gpus: float | None, cpus: int | None) -> ActorShape:
    """What actors take, from what there is where nobody says. Raises InputError if no machine has that much."""
    nodes = _nodes()
    if gpus is None:
        gpus = 1.0 if any(node["GPU"] for node in nodes) else 0.0
    fit = [node for node in nodes if not gpus or node["GPU"] >= gpus] or nodes
    if cpus is None:  # of the machine that has the fewest
        shares = [node["CPU"] * (gpus / max(node["GPU"], gpus) if gpus else 1) for node in fit if node["CPU"] >= 1]
        cpus = max(1, min(_MOST_CPUS, int(min(shares, default=1))))
    room = [int(min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else math.inf)) for node in nodes]
    if not any(room) and actors is None:
        has = " or ".join(dict.fromkeys(f"{node['CPU']:g} CPU, {node['GPU']:g} GPU" for node in nodes))
        raise InputError(
            f"an actor takes {gpus:g} GPU and {cpus} CPU, and no machine of Ray has that (they have {has}): see "
            "--gpus-per-actor and --cpus-per-actor; where machines come when they are asked for, say --actors"
        )
    memory = [int(node["memory"] / n) for node, n in zip(nodes, room, strict=True) if n]
    return ActorShape(actors or sum(room), gpus, cpus, min(memory, default=_MEMORY))


def _nodes() -> list[dict[str, float]]:
    """CPUs, GPUs and bytes of each machine that is there."""
    ray = _ray()
    return [
        {name: float(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory")}
        for node in ray.nodes()
        if node["Alive"]
    ]


def describe_cluster() -> str:
    """What there is, for a person."""
    nodes = _nodes()
    cpus, gpus = (int(sum(node[name] for node in nodes)) for name in ("CPU", "GPU"))
    return f"{plural(len(nodes), 'machine')}, {plural(cpus, 'CPU')}, {plural(gpus, 'GPU')}"


def call_remote(of: ActorShape, function: Callable[..., Y], *arguments: Any) -> Y:
    """What a function gives where an actor of that shape would be. Raises InputError if it cannot run there."""
    ray = _ray()
    try:
        found: Y = ray.get(ray.remote(**of.options)(_call).remote(function, *arguments))
    except ray.exceptions.RayError as error:
        raise InputError(f"a worker of Ray cannot begin: {_reason(error)}") from error
    return found


def _reason(error: Exception) -> str:
    """The line of a traceback from elsewhere that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if ": " in line and not line.startswith(("File ", "ray::"))]
    return (said or lines or [type(error).__name__])[-1]


# --- a fold ---


class MergeTree(Generic[S]):
    """Joins what comes one after the other, WIDTH at a time: some of it waits, never more than WIDTH at each height."""

    def __init__(self, join: Callable[..., S]) -> None:
        """`join` takes up to WIDTH neighbours."""
        self._join = join
        self._heights: list[list[S]] = []

    def add(self, one: S) -> None:
        """The next."""
        for height in itertools.count():
            if height == len(self._heights):
                self._heights.append([])
            self._heights[height].append(one)
            if len(self._heights[height]) < MERGE_WIDTH:
                return
            one, self._heights[height] = self._join(*self._heights[height]), []

    def root(self) -> S:
        """All of it; there must have been something."""
        rest: list[S] = []
        for ones in self._heights:
            waiting = [*ones, *rest]  # what is higher came first
            rest = [self._join(*waiting)] if len(waiting) > 1 else waiting
        return rest[0]


def portion_rows(rows: int, least: int, most: int) -> int:
    """Rows that a process should get at a time: so few that each has several turns, within these bounds."""
    return min(max(rows // (8 * _processors()), least), most)


def _processors() -> int:
    return max(1, int(sum(node["CPU"] for node in _nodes())))


def fold(
    function: Callable[[X], tuple[S, Y]],
    items: Sequence[X],
    key: Callable[[X], K],
    join: Callable[..., S],
    take: Callable[[K, S], object],
) -> Iterator[tuple[X, Y]]:
    """Each item is measured somewhere on the cluster; what is small of it comes back, and the rest is joined there.

    At most two items for each processor are begun and not yet taken. A process that dies is made up for some times.

    Args:
        function: gives what is to be joined, and what comes back. It is sent by its name, as `join` is.
        items: in their order.
        key: what is joined together.
        join: takes up to WIDTH of them.
        take: hears of a key and all that was joined of it, at the end.

    Yields the items in their order, with what came back. Raises InputError that a process met, or if they keep dying.
    """
    ray = _ray()
    measured = ray.remote(num_cpus=1, num_returns=2, max_retries=TASK_RETRIES)(_call)
    joined = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(join)
    ahead = 2 * _processors()
    trees: dict[K, MergeTree[Any]] = {}
    begun: deque[tuple[X, Any]] = deque()
    for item in items:
        state, apart = measured.remote(function, item)
        trees.setdefault(key(item), MergeTree(joined.remote)).add(state)
        begun.append((item, apart))
        del state, apart  # the last to hold on to them
        if len(begun) >= ahead:
            first, back = begun.popleft()
            yield first, _found(back)
    while begun:
        first, back = begun.popleft()
        yield first, _found(back)
    for name, tree in trees.items():
        take(name, _found(tree.root()))


def _call(function: Callable[..., Y], *arguments: Any) -> Y:
    """Any function, where Ray takes only those that `def` made."""
    return function(*arguments)


def _found(promised: Any) -> Any:
    """What was promised. Raises InputError as it was raised elsewhere, or if nobody lived to give it."""
    ray = _ray()
    try:
        return ray.get(promised)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(f"processes on Ray that read predictions {_how(error)}, {TASK_RETRIES + 1} times") from error


# --- workers ---


class RayActors:
    """Workers that are actors, as a `crew.Host`. One that died is replaced."""

    replaces = True

    def __init__(
        self,
        function: Callable[..., None],
        of: ActorShape,
        device: str,
        begin: Any,
        job: Any,
        say: Callable[[str], None],
    ) -> None:
        """Start nobody yet.

        Args:
            function: what each does, with `orders`, `tell` and `unpacked`.
            of: what each takes.
            device: for its name.
            begin: the first order.
            job: the second one, in the cluster's memory once for each machine. Raises InputError if it has no copy.
            say: takes a line for a person.
        """
        ray = _ray()
        self._function, self._of, self._device, self._begin, self._say = function, of, device, begin, say
        try:
            self._job = [ray.put(job)]  # in a list: what it is made of can be loaded only when `begin` is done
        except Exception as error:  # pickling calls the user's own classes, which may raise anything
            raise InputError(
                f"Ray's workers are processes of their own, where {type(error).__name__}: {first_line(error)}: name "
                "model and data as FILE.py:NAME"
            ) from error
        self._heard: deque[tuple[Worker[Any], object]] = deque()
        self._actors: dict[Worker[Any], Any] = {}
        self._answers: dict[Any, Worker[Any]] = {}
        """Of each worker the answers that it is going to give."""
        self._processes: list[int] = []
        """Of this machine."""
        self._anybody = False

    def start(self, number: int) -> Worker[Any]:
        """A new actor, as soon as there is room for it."""
        ray = _ray()
        groups = {"orders": 1, "answers": 1}  # each keeps its order
        kind = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups=groups, **self._of.options)(_Actor)
        actor = kind.remote(self._function, list(sys.path), str(Path.cwd()))
        order = actor.order.options(concurrency_group="orders").remote
        worker: Worker[Any] = Worker(f"worker {number} ({self._device})", order)
        self._actors[worker] = actor
        worker.order(self._begin)
        worker.order(self._job)
        self._listen(worker)
        return worker

    def _listen(self, worker: Worker[Any]) -> None:
        answers = self._actors[worker].answers.options(concurrency_group="answers")
        self._answers[answers.remote()] = worker

    def hear(self) -> tuple[Worker[Any], object]:
        """Wait for the next answer of any."""
        ray = _ray()
        waited = 0
        while not self._heard:
            ready, _ = ray.wait(list(self._answers), num_returns=1, timeout=1)
            if ready and len(self._answers) > 1:
                ready, _ = ray.wait(list(self._answers), num_returns=len(self._answers), timeout=0)
            for answers in ready:
                self._take(self._answers.pop(answers), answers)
            waited += not ready
            if waited == _PATIENCE and not self._anybody:
                self._say(f"no worker has begun so far: Ray has {describe_cluster()}, asked for is {self._of}")
        return self._heard.popleft()

    def _take(self, worker: Worker[Any], answers: Any) -> None:
        ray = _ray()
        try:
            said: list[object] = ray.get(answers)
        except ray.exceptions.RayError as error:
            ray.kill(self._actors[worker])  # if it is only out of reach, it ends when it is back
            self._heard.append((worker, Died(_how(error))))
            return
        self._anybody = True
        for one in said:
            if isinstance(one, _Begins):
                worker.name = f"{worker.name[:-1]} on {one.machine}, process {one.process})"
                if one.machine == socket.gethostname():
                    self._processes.append(one.process)
            else:
                self._heard.append((worker, one))
        self._listen(worker)

    def end(self, crew: Sequence[Worker[Any]]) -> None:
        """Kill them, and wait until they are dead: none may write any more."""
        ray = _ray()
        for worker in crew:
            ray.kill(self._actors[worker])
        until = time.monotonic() + _GRACE
        if self._answers:
            ray.wait(list(self._answers), num_returns=len(self._answers), timeout=_GRACE)
        while any(map(_lives, self._processes)) and time.monotonic() < until:  # Ray takes them for dead before they are
            time.sleep(0.01)


def _lives(process: int) -> bool:
    if os.name != "posix":  # where there is no such question
        return False
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _how(error: Exception) -> str:
    ray = _ray()
    said = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in said:
        return "was killed by Ray for want of memory"
    if "node has died" in said or "node was" in said:
        return "was lost with its machine"
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "was out of reach"
    if isinstance(error, ray.exceptions.RayActorError) and not getattr(error, "actor_init_failed", False):
        return "died"
    return f"could not begin ({_reason(error)})"


@dataclass(frozen=True)
class _Begins:
    machine: str
    process: int


class _Actor:
    """One worker, on its machine: a thread does the work, two others take orders and give answers."""

    def __init__(self, function: Callable[..., None], path: Sequence[str], folder: str) -> None:
        ray = _ray()
        if Path(folder).is_dir():
            os.chdir(folder)
        sys.path += [entry for entry in path if entry not in sys.path]
        self._orders: SimpleQueue[Any] = SimpleQueue()
        self._answers: SimpleQueue[object] = SimpleQueue()
        self._answers.put(_Begins(socket.gethostname(), os.getpid()))
        arguments = (self._orders.get, self._answers.put, lambda job: ray.get(job[0]))
        threading.Thread(target=function, args=arguments, name="predboard", daemon=True).start()

    def order(self, what: Any) -> None:
        """The next order."""
        self._orders.put(what)

    def answers(self) -> list[object]:
        """What it has to say; waits until that is something."""
        said = [self._answers.get()]
        while not self._answers.empty():
            said.append(self._answers.get())
        return said
