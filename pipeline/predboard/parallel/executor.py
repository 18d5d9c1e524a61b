"""Chooses where work runs, on processes of this machine or on a Ray cluster, behind one protocol. It knows neither what
the work is nor which stage it belongs to.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from predboard.errors import InputError
from predboard.parallel import ray_cluster
from predboard.parallel.pool import Accumulator, ProcessPool
from predboard.parallel.processes import ProcessWorkers, WorkerLoop
from predboard.parallel.ray_workers import RayWorkers
from predboard.parallel.scheduler import WorkerHost

X = TypeVar("X")
Y = TypeVar("Y")

_BATCHES_PER_CPU = 8
"""Batches that each CPU of a cluster should get, so that all are busy until the end."""


@dataclass(frozen=True)
class WorkerSpec:
    """What workers that ask for tasks are started with."""

    loop: WorkerLoop
    job: Any
    """The same for all workers."""
    setups: Sequence[Any]
    """For each worker what it needs before it can load the job."""
    devices: Sequence[str]
    """The device of each worker, for people."""
    shape: ray_cluster.ActorShape | None = None
    """What each takes on a cluster."""


class Executor(Protocol):
    """A place where work runs in parallel."""

    @property
    def sees_local_files(self) -> bool:
        """Whether all its processes see the files of this machine."""
        ...

    @property
    def max_processes(self) -> int:
        """The processes of this machine that it may use, including this one."""
        ...

    def batch_rows(self, rows: int, preferred: int, least: int, most: int) -> int:
        """Return how many of `rows` a process should get at a time: `preferred`, unless `rows` must be spread."""
        ...

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        processes: int,
        collect: Callable[[Any], object],
        key: Callable[[X], Any],
        merge: Callable[..., Any],
    ) -> Iterator[Y]:
        """Yield the answers of `function` in the order of the items; `collect` gets what its copies accumulated.

        Args:
            function: copied to each process.
            items: of any number.
            processes: how many of this machine to use.
            collect: called after the last answer, any number of times.
            key: of an item: what is accumulated for items of one key may be merged before it is collected.
            merge: merges accumulated results; a function at the top level of a module.

        Raises InputError if a process dies.
        """
        ...

    def broadcast(self, function: Callable[[], object]) -> None:
        """Call a function in each process of this machine that has nothing else to do."""
        ...

    def workers(self, spec: WorkerSpec, log: Callable[[str], None]) -> WorkerHost[Any]:
        """Return a host of workers for a `Scheduler`. Raises InputError if the job cannot be pickled."""
        ...


class LocalExecutor:
    """Runs work on processes of this machine."""

    sees_local_files = True

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool
        self.max_processes = pool.max_processes

    def batch_rows(self, rows: int, preferred: int, least: int, most: int) -> int:  # noqa: ARG002  part of the protocol
        """Return `preferred`."""
        return preferred

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        processes: int,
        collect: Callable[[Any], object],
        key: Callable[[X], Any],  # noqa: ARG002  part of the protocol
        merge: Callable[..., Any],  # noqa: ARG002  part of the protocol
    ) -> Iterator[Y]:
        """See `Executor.fold`: each process accumulates over all items it gets, so nothing needs merging."""
        return self._pool.fold(function, items, processes, collect)

    def broadcast(self, function: Callable[[], object]) -> None:
        """Call a function in this process and in each idle one of the pool."""
        self._pool.broadcast(function)

    def workers(self, spec: WorkerSpec, log: Callable[[str], None]) -> WorkerHost[Any]:  # noqa: ARG002  part of the protocol
        """Return a host of one process for each device."""
        try:
            job = pickle.dumps(spec.job)
        except Exception as error:  # pickling calls the user's own classes, which may raise anything
            raise InputError(
                f"the model or the dataset cannot be sent to the process of each device ({type(error).__name__}: "
                f"{error}): give both as FILE.py:NAME, or use one device"
            ) from error
        return ProcessWorkers(spec.loop, job, spec.setups, spec.devices)


class RayExecutor:
    """Runs work on the Ray cluster that this process is connected to."""

    sees_local_files = False

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool
        self.max_processes = pool.max_processes

    def batch_rows(self, rows: int, preferred: int, least: int, most: int) -> int:  # noqa: ARG002  part of the protocol
        """Return so few rows that every CPU gets several batches, within the bounds."""
        return min(max(rows // (_BATCHES_PER_CPU * ray_cluster.cpu_count()), least), most)

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        processes: int,  # noqa: ARG002  part of the protocol
        collect: Callable[[Any], object],
        key: Callable[[X], Any],
        merge: Callable[..., Any],
    ) -> Iterator[Y]:
        """See `Executor.fold`: results are merged on the cluster, and only those of each key come here."""
        return ray_cluster.fold(function, items, key, merge, collect)

    def broadcast(self, function: Callable[[], object]) -> None:
        """Call a function in this process and in each idle one of its pool, and nowhere else on the cluster."""
        self._pool.broadcast(function)

    def workers(self, spec: WorkerSpec, log: Callable[[str], None]) -> WorkerHost[Any]:
        """Return a host of actors."""
        if spec.shape is None:
            raise ValueError("workers on Ray need WorkerSpec.shape")
        return RayWorkers(spec.loop, spec.shape, spec.devices[0], spec.setups[0], spec.job, log)


@contextlib.contextmanager
def open_executor(
    engine: Literal["local", "ray"], address: str | None, pool: ProcessPool
) -> Iterator[LocalExecutor | RayExecutor]:
    """Open the executor that `--engine` names.

    Args:
        engine: `local` or `ray`.
        address: of a Ray cluster.
        pool: the processes of this machine.

    Raises InputError if Ray is not installed or the cluster does not answer.
    """
    if engine == "ray":
        with ray_cluster.connected(address):
            yield RayExecutor(pool)
    else:
        yield LocalExecutor(pool)
