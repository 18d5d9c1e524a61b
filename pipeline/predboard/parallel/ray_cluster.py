"""Connects to a Ray cluster, says what an actor gets there, and folds many items over its processes. It knows Ray, and
neither stage.

Remote processes run the code of the process that started them: this package is sent along, and everything else it needs
(PyTorch for stage one) must be installed there. Files must have the same paths on all machines.
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
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from predboard.errors import InputError, first_line
from predboard.formatting import plural
from predboard.invocation import install_command
from predboard.parallel.pool import Accumulator

X = TypeVar("X")
Y = TypeVar("Y")
S = TypeVar("S")
K = TypeVar("K")

MERGE_WIDTH = 8
"""Number of states that are merged at a time."""

TASK_RETRIES = 2
"""Number of retries of a task whose process died."""

_MAX_CPUS_PER_ACTOR = 16
"""Used unless --cpus-per-actor is given: more threads gain little, because they hold Python's lock now and then."""

_DEFAULT_MEMORY_BYTES = 4 * 2**30
"""Assumed for an actor while no machine is up that could run one."""

_CONNECT_SECONDS = 10.0
"""Longest wait for a cluster's answer."""


def import_ray() -> Any:
    """Import Ray, whose type hints are narrower than what it takes."""
    import ray

    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start a Ray of this machine for the `with` block. An existing connection is kept.

    Raises InputError if Ray is not installed or the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"--engine ray needs Ray: {install_command(extra='ray')}")
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    if (address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise InputError(
            "the Ray client (ray://) is not supported: run the command on a machine of the cluster, or with ray job "
            "submit"
        )
    if address and (host_and_port := re.fullmatch(r"(\[.+\]|[^:/]+):(\d+)", address)):
        host, port = host_and_port[1].strip("[]"), int(host_and_port[2])
        try:  # Ray itself would try for minutes
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(
                f"no Ray cluster answers at --ray-address {address} ({first_line(error)}); expected auto, HOST:PORT, "
                "or local"
            ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for a Ray that is started below: it sends nothing anywhere
    terminate_handler = signal.getsignal(signal.SIGTERM)
    package = str(Path(__file__).resolve().parent.parent)
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
    if threading.current_thread() is threading.main_thread() and terminate_handler is not None:
        signal.signal(signal.SIGTERM, terminate_handler)  # Ray replaces it
    try:
        yield
    finally:
        ray.shutdown()


# --- resources ---


@dataclass(frozen=True)
class ActorShape:
    """The number of actors, and the resources of each."""

    count: int
    gpus: float
    cpus: float
    memory: int
    """Bytes: an actor's share of the smallest machine that can run one."""

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU and " if self.gpus else ""
        return f"{plural(self.count, 'actor')} of {gpus}{plural(int(self.cpus), 'CPU')}"

    @property
    def options(self) -> dict[str, float]:
        """The resources as `ray.remote` takes them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def actor_shape(actors: int | None, gpus: float | None, cpus: int | None) -> ActorShape:
    """Return what actors take; what is None is derived from the machines of the cluster.

    Raises InputError if no machine has that much.
    """
    nodes = _nodes()
    if gpus is None:
        gpus = 1.0 if any(node["GPU"] for node in nodes) else 0.0
    usable = [node for node in nodes if not gpus or node["GPU"] >= gpus] or nodes
    if cpus is None:  # what the machine with the fewest CPUs can give to each
        shares = [node["CPU"] * (gpus / max(node["GPU"], gpus) if gpus else 1) for node in usable if node["CPU"] >= 1]
        cpus = max(1, min(_MAX_CPUS_PER_ACTOR, int(min(shares, default=1))))
    actors_per_node = [int(min(node["CPU"] // cpus, node["GPU"] // gpus if gpus else math.inf)) for node in nodes]
    if not any(actors_per_node) and actors is None:
        available = " or ".join(dict.fromkeys(f"{node['CPU']:g} CPU, {node['GPU']:g} GPU" for node in nodes))
        raise InputError(
            f"an actor needs {gpus:g} GPU and {cpus} CPU, and no machine of the Ray cluster has that (they have "
            f"{available}): see --gpus-per-actor and --cpus-per-actor, or give --actors if the cluster starts machines "
            "on demand"
        )
    memory = [int(node["memory"] / count) for node, count in zip(nodes, actors_per_node, strict=True) if count]
    return ActorShape(actors or sum(actors_per_node), gpus, cpus, min(memory, default=_DEFAULT_MEMORY_BYTES))


def _nodes() -> list[dict[str, float]]:
    """Return the CPUs, GPUs and bytes of memory of each machine that is up."""
    ray = import_ray()
    return [
        {name: float(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory")}
        for node in ray.nodes()
        if node["Alive"]
    ]


def describe_cluster() -> str:
    """Return the size of the cluster for people: `2 machines, 16 CPUs, 1 GPU`."""
    nodes = _nodes()
    cpus, gpus = (int(sum(node[name] for node in nodes)) for name in ("CPU", "GPU"))
    return f"{plural(len(nodes), 'machine')}, {plural(cpus, 'CPU')}, {plural(gpus, 'GPU')}"


def cpu_count() -> int:
    """Return the CPUs of all machines that are up, at least 1."""
    return max(1, int(sum(node["CPU"] for node in _nodes())))


def call_remote(shape: ActorShape, function: Callable[..., Y], *arguments: Any) -> Y:
    """Call a function where an actor of that shape would run. Raises InputError if it cannot run there."""
    ray = import_ray()
    try:
        result: Y = ray.get(ray.remote(**shape.options)(_call).remote(function, *arguments))
    except ray.exceptions.RayError as error:
        raise InputError(f"a worker cannot start on the Ray cluster: {short_reason(error)}") from error
    return result


def _call(function: Callable[..., Y], *arguments: Any) -> Y:
    """Call any callable: Ray itself takes only functions made by `def`."""
    return function(*arguments)


# --- a fold ---


class MergeTree(Generic[S]):
    """Merges states in their order, MERGE_WIDTH neighbours at a time, while they arrive.

    At most MERGE_WIDTH states wait at each height of the tree.
    """

    def __init__(self, merge: Callable[..., S]) -> None:
        """`merge` takes up to MERGE_WIDTH neighbours."""
        self._merge = merge
        self._heights: list[list[S]] = []

    def add(self, state: S) -> None:
        """Take in the next state."""
        for height in itertools.count():
            if height == len(self._heights):
                self._heights.append([])
            self._heights[height].append(state)
            if len(self._heights[height]) < MERGE_WIDTH:
                return
            state, self._heights[height] = self._merge(*self._heights[height]), []

    def root(self) -> S:
        """Return all states merged. There must have been at least one."""
        rest: list[S] = []
        for states in self._heights:
            waiting = [*states, *rest]  # those of greater height came first
            rest = [self._merge(*waiting)] if len(waiting) > 1 else waiting
        return rest[0]


def fold(
    function: Accumulator[X, Y],
    items: Iterable[X],
    key: Callable[[X], K],
    merge: Callable[..., Any],
    collect: Callable[[Any], object],
) -> Iterator[Y]:
    """Yield the answers of `function` in the order of the items, computed anywhere on the cluster.

    Each item gets a fresh copy of the function; what it accumulates stays on the cluster and is merged there. At most
    two items for each CPU are started and not yet yielded. A task whose process dies is retried.

    Args:
        function: gives the answers and accumulates.
        items: drawn as far as they are started.
        key: of an item: what is accumulated for items of the same key is merged.
        merge: merges up to MERGE_WIDTH accumulated results; a function that can be pickled by its name.
        collect: gets the merged result of each key, after the last answer.

    Raises InputError that a process met, or if processes keep dying.
    """
    ray = import_ray()
    call = ray.remote(num_cpus=1, num_returns=2, max_retries=TASK_RETRIES)(_accumulate)
    remote_merge = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(merge).remote
    ahead = 2 * cpu_count()
    trees: dict[K, MergeTree[Any]] = {}
    answers: deque[Any] = deque()
    for item in items:
        state, answer = call.remote(function, item)
        trees.setdefault(key(item), MergeTree(remote_merge)).add(state)
        answers.append(answer)
        del state, answer  # the last references to them
        if len(answers) >= ahead:
            yield _result(answers.popleft())
    while answers:
        yield _result(answers.popleft())
    for tree in trees.values():
        collect(_result(tree.root()))


def _accumulate(function: Accumulator[X, Y], item: X) -> tuple[Any, Y]:
    """Return what an accumulator, a copy that Ray made for this call, collects of one item, and its answer."""
    answer = function(item)
    return function.drain(), answer


def _result(reference: Any) -> Any:
    """Wait for a result. Raises InputError as it was raised on the cluster, or if no process lived to give it."""
    ray = import_ray()
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"a Ray process that reads predictions {how_it_died(error)}, {TASK_RETRIES + 1} times in a row"
        ) from error


# --- errors ---


def how_it_died(error: Exception) -> str:
    """Return how a process ended, for a sentence."""
    ray = import_ray()
    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in text:
        return "was killed by Ray for lack of memory"
    if "node has died" in text or "node was" in text:
        return "was lost with its machine"
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "was out of reach"
    if isinstance(error, ray.exceptions.RayActorError) and not getattr(error, "actor_init_failed", False):
        return "died"
    return f"could not start ({short_reason(error)})"


def short_reason(error: Exception) -> str:
    """Return the line of a remote traceback that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    messages = [line for line in lines if ": " in line and not line.startswith(("File ", "ray::"))]
    return (messages or lines or [type(error).__name__])[-1]
