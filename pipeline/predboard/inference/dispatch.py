"""Tasks -> devices: one works here, several in processes of their own or on Ray. Knows not what is done with a task.

A worker is told what to do by its standard input and answers by its standard output, both in pickled objects. It is a
fresh Python that imports this module and nothing of the caller's, so that a script without `if __name__ == "__main__"`
does not start again in each of them, and it ends when its input does, so that none outlives its master. On Ray the same
orders and answers go through an actor.
"""

import contextlib
import functools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from predboard import user_code
from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.inference.worker import Job, TaskChannel, build_module, run_tasks, write_failed_task
from predboard.models.devices import available_memory, parse_device, parse_devices
from predboard.models.factory import open_factory
from predboard.parallel import pool, ray_cluster
from predboard.parallel.scheduler import Died, Failed, Finished, LogLine, Progress, Ready, Scheduler, Worker, WorkerHost
from predboard.storage.shards import Task

_GRACE = 10.0
"""Seconds that a worker gets to end."""


@dataclass(frozen=True)
class Placement:
    """Where the work is done."""

    here: torch.device
    """Of this process, where models are tried out."""
    device: torch.device
    """Of a worker; where there are several, the first one's."""
    count: int
    memory: int
    """Of a worker's device, bytes; its share where several are on one."""
    threads: int
    """That read and decode, for each worker."""
    words: str
    """Where it is, for a person."""
    host: Callable[[Job], WorkerHost[Task]] | None = None
    """Starts workers; None: the work is done in this process."""
    elsewhere: bool = False
    """Whether that is on other machines, perhaps."""


@contextlib.contextmanager
def open_placement(config: InferConfig, say: Callable[[str], None]) -> Iterator[Placement]:
    """Where a configuration wants the work done. Raises InputError if that is not there."""
    if config.engine == "ray":
        with ray_cluster.connected(config.ray_address):
            yield _on_ray(config, say)
        return
    on = parse_devices(config.device)
    threads = config.workers or max(1, pool.worker_count(0) // len(on))
    memory = available_memory(on[0]) // on.count(on[0])
    host = (lambda job: _Processes(job, on)) if len(on) > 1 else None
    yield Placement(on[0], on[0], len(on), memory, threads, ", ".join(map(str, on)), host)


def _on_ray(config: InferConfig, say: Callable[[str], None]) -> Placement:
    """Actors, as many as there is room for where nobody says."""
    gpus = 0.0 if config.device == "cpu" and config.gpus_per_actor is None else config.gpus_per_actor
    shape = ray_cluster.actor_shape(config.actors, gpus, config.cpus_per_actor)
    say(f"Ray has {ray_cluster.describe_cluster()}: {shape}")
    device = torch.device("cuda" if shape.gpus and config.device == "auto" else config.device.replace("auto", "cpu"))
    # Of a GPU over there it is asked, which also tells whether PyTorch sees it.
    memory = shape.memory if device.type == "cpu" else ray_cluster.call_remote(shape, available_memory, device)
    threads = config.workers or max(1, int(shape.cpus))

    def host(job: Job) -> WorkerHost[Task]:
        return ray_cluster.RayActors(
            worker_loop, shape, device.type, _orders(device, max(1, int(shape.cpus))), job, say
        )

    return Placement(
        parse_device("auto" if config.device == "auto" else "cpu"),
        device,
        shape.count,
        memory,
        threads,
        str(shape),
        host,
        elsewhere=True,
    )


def dispatch(
    job: Job,
    there: Placement,
    modules: Callable[[int], torch.nn.Module],
    tasks: Sequence[Task],
    wrote: Callable[[int, int], object],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Do the tasks, each on the device that is free first. -> seconds as `timing` has them, of all devices together.

    Args:
        job: what is the same for all.
        there: where.
        modules: gives the model of a step, where one device works here.
        tasks: what to do.
        wrote: hears of rows written, and how many of them failed.
        say: takes a line for a person. A worker that dies is named; others do its tasks.

    Raises InputError, and whatever else a worker meets; the other workers are ended then.
    """
    if there.host is None or (len(tasks) <= 1 and not there.elsewhere):
        waiting = iter(tasks)
        here = TaskChannel(lambda _: next(waiting, None), lambda rows, failed, _: wrote(rows, failed), say)
        return run_tasks(job, there.device, modules, here)

    without = functools.partial(write_failed_task, job, there.device)
    crew = Scheduler(there.host(job), tasks, wrote, say, lambda task: str(task.shard.index), without)
    return crew.run(min(there.count, len(tasks)))


def _orders(device: torch.device, threads: int) -> "_Begin":
    return _Begin(tuple(user_code.imported_files()), str(device), threads)


@dataclass(frozen=True)
class _Begin:
    """The first order of a worker; the second is the job, packed."""

    files: tuple[tuple[Path, str], ...]
    """Of the user, that what is packed may need."""
    device: str
    threads: int
    """Of PyTorch."""


class _Processes:
    """Workers in processes of this machine, one for each device."""

    replaces = False

    def __init__(self, job: Job, devices: Sequence[torch.device]) -> None:
        """Start nobody yet. Raises InputError for a job that no other process could have."""
        self._devices = devices
        self._heard: queue.SimpleQueue[tuple[Worker[Task], object]] = queue.SimpleQueue()
        self._processes: dict[Worker[Task], subprocess.Popen[bytes]] = {}
        self._listeners: list[threading.Thread] = []
        try:
            self._packed = pickle.dumps(job)
        except Exception as error:  # pickling calls the user's own classes, which may raise anything
            raise InputError(
                f"several devices work in processes of their own, where {type(error).__name__}: {error}: name model "
                "and data as FILE.py:NAME, or use one device"
            ) from error

    def start(self, number: int) -> Worker[Task]:
        """A new process, which imports PyTorch while others do."""
        device = self._devices[number - 1]
        process = pool.start_python("inference.dispatch")
        orders = cast("IO[bytes]", process.stdin)

        def order(what: Any) -> None:
            with contextlib.suppress(OSError):  # it died: the end of its output says so as well
                pickle.dump(what, orders)
                orders.flush()

        worker = Worker[Task](f"worker {number} ({device})", order)
        self._processes[worker] = process
        self._listeners.append(threading.Thread(target=self._listen, args=[worker], name="predboard", daemon=True))
        self._listeners[-1].start()
        order(list(sys.path))
        order(_orders(device, max(1, torch.get_num_threads() // len(self._devices))))
        order(self._packed)
        return worker

    def _listen(self, worker: Worker[Task]) -> None:
        process = self._processes[worker]
        answers = cast("IO[bytes]", process.stdout)
        with answers, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # killed, maybe in mid-word
            while True:
                self._heard.put((worker, pickle.load(answers)))  # noqa: S301  from a process that we started
        code = process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._heard.put((worker, Died(how)))

    def hear(self) -> tuple[Worker[Task], object]:
        """Wait for the next answer."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._heard.get(timeout=1)  # on Windows nothing interrupts a longer wait

    def end(self, crew: Sequence[Worker[Task]]) -> None:
        """Let them come to an end, or kill them."""
        for worker in crew:
            process = self._processes[worker]
            with contextlib.suppress(OSError):
                cast("IO[bytes]", process.stdin).close()
            if not worker.worked:  # it may still be importing PyTorch, and has nothing to bring to an end
                process.kill()
        for process in self._processes.values():
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for listener in self._listeners:
            listener.join()


# --- the worker's side ---


def worker_loop(orders: Callable[[], Any], tell: Callable[[object], object], unpacked: Callable[[Any], Job]) -> None:
    """Do what the master says.

    Args:
        orders: waits for the next: how to begin, the job packed, and then tasks, None where there is none.
        tell: takes an answer.
        unpacked: of the job.
    """

    def ask(patient: bool) -> Task | None:
        tell(Ready(patient))
        task: Task | None = orders()
        return task

    master = TaskChannel(
        ask, lambda rows, failed, done: tell(Progress(rows, failed, done)), lambda line: tell(LogLine(line))
    )
    try:
        begin: _Begin = orders()
        for file, kind in begin.files:
            user_code.import_again(file, kind)  # what is packed may be of a class in it
        torch.set_num_threads(begin.threads)
        job = unpacked(orders())
        config = job.config
        factory = open_factory(config.model, config.model_args, ema=config.ema, trust=config.trust_checkpoint)

        def module(step: int) -> torch.nn.Module:
            return build_module(factory.build, job.steps[step], job.runs[step])

        tell(Finished(run_tasks(job, torch.device(begin.device), module, master)))
    except InputError as error:
        tell(Failed(True, str(error)))
    except Exception:  # it is raised again by the master
        tell(Failed(False, traceback.format_exc()))


def serve() -> None:
    """Work for the process that started this one."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's model prints must not get between the answers
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=[orders], daemon=True).start()

    def tell(what: object) -> None:
        pickle.dump(what, answers)
        answers.flush()

    sys.path[:] = orders.get()
    worker_loop(orders.get, tell, pickle.loads)
    sys.stderr.flush()
    os._exit(0)  # a thread that waits for a hanging file, or for orders, does not matter any more


def _receive(orders: "queue.SimpleQueue[Any]") -> None:
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError), os.fdopen(os.dup(0), "rb") as lines:
        while True:
            orders.put(pickle.load(lines))  # noqa: S301  from the process that started this one
    os._exit(1)  # the master is gone, or wants no more: what was published is whole
