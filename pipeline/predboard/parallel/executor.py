"""Chooses where work runs, on processes of this machine or on a Ray cluster, behind one interface. It knows neither the
work nor the stage that it belongs to.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

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
    """The arguments that workers are started with, which ask for tasks themselves."""

    loop: WorkerLoop
    job: Any
    """The same for all workers."""
    setups: Sequence[Any]
    """For each worker what it needs before it can load the job."""
    devices: Sequence[str]
    """The device of each worker, for people."""
    shape: ray_cluster.ActorShape | None = None
    """Resources of each worker on a cluster."""


class Executor:
    """Runs work on processes of this machine; a subclass runs it elsewhere."""

    sees_local_files = True
    """Whether all processes see the files of this machine."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool
        self.max_processes = pool.max_processes
        """The processes of this machine that it may use, including this one."""

    def batch_rows(self, _rows: int, preferred: int, _least: int, _most: int) -> int:
        """Return how many of `rows` a process should get at a time: `preferred`, unless the work must be spread."""
        return preferred

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        processes: int,
        collect: Callable[[Any], object],
        _key: Callable[[X], Any],
        _merge: Callable[..., Any],
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
        return self._pool.fold(function, items, processes, collect)

    def broadcast(self, function: Callable[[], object]) -> None:
        """Call a function in this process and in each one of this machine that has nothing else to do."""
        self._pool.broadcast(function)

    def workers(self, spec: WorkerSpec, _log: Callable[[str], None]) -> WorkerHost[Any]:
        """Return a host of workers for a `Scheduler`, one for each device. Raises InputError if the job cannot be sent.

        `log` takes a line for the user.
        """
        try:
            job = pickle.dumps(spec.job)
        except Exception as error:  # pickling calls the user's own classes, which may raise anything
            raise InputError(
                f"the model or the dataset cannot be sent to the process of each device ({type(error).__name__}: "
                f"{error}): give both as FILE.py:NAME, or use one device"
            ) from error
        return ProcessWorkers(spec.loop, job, spec.setups, spec.devices)


class RayExecutor(Executor):
    """Runs work on the Ray cluster that this process is connected to."""

    sees_local_files = False

    def batch_rows(self, rows: int, _preferred: int, least: int, most: int) -> int:
        """Return so few rows that every CPU gets several batches, within the bounds."""
        return min(max(rows // (_BATCHES_PER_CPU * ray_cluster.cpu_count()), least), most)

    def fold(
        self,
        function: Accumulator[X, Y],
        items: Iterable[X],
        _processes: int,
        collect: Callable[[Any], object],
        key: Callable[[X], Any],
        merge: Callable[..., Any],
    ) -> Iterator[Y]:
        """Fold as `Executor.fold` does: results of one key are merged on the cluster before they are collected."""
        return ray_cluster.fold(function, items, key, merge, collect)

    def workers(self, spec: WorkerSpec, log: Callable[[str], None]) -> WorkerHost[Any]:
        """Return a host of actors. Raises InputError if the job cannot be sent."""
        if spec.shape is None:
            raise ValueError("workers on Ray need WorkerSpec.shape")
        return RayWorkers(spec.loop, spec.shape, spec.devices[0], spec.setups[0], spec.job, log)


@contextlib.contextmanager
def open_executor(engine: Literal["local", "ray"], address: str | None, pool: ProcessPool) -> Iterator[Executor]:
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
        yield Executor(pool)
