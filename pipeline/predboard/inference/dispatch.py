"""Hands tasks to devices: one works in this process, several in processes of their own or on a Ray cluster. It knows
nothing of what is done with a task.
"""

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from predboard import user_code
from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.inference.worker import Job, TaskChannel, build_module, run_tasks, write_failed_task
from predboard.models.devices import available_memory, parse_device, parse_devices
from predboard.models.factory import open_factory
from predboard.parallel import ray_cluster
from predboard.parallel.executor import Executor, WorkerSpec, open_executor
from predboard.parallel.pool import ProcessPool
from predboard.parallel.scheduler import Failed, Finished, LogLine, Progress, Ready, Scheduler
from predboard.parallel.threads import keep_freed_memory, worker_count
from predboard.storage.part_plan import Task


@dataclass(frozen=True)
class Placement:
    """The devices and machines that stage one runs on."""

    executor: Executor
    trial_device: torch.device
    """The device of this process, on which models are tried out."""
    devices: tuple[torch.device, ...]
    """The device of each worker."""
    memory: int
    """Bytes of a worker's device; its share where several workers are on one."""
    threads: int
    """Threads of each worker that read and decode."""
    torch_threads: int
    """Threads of PyTorch in each worker process."""
    description: str
    """For people: `cuda:0, cuda:1`."""
    shape: ray_cluster.ActorShape | None = None
    """Resources of an actor; None without Ray."""

    @property
    def in_this_process(self) -> bool:
        """Whether the only device is that of this process."""
        return self.shape is None and len(self.devices) == 1


@contextlib.contextmanager
def open_placement(config: InferConfig, log: Callable[[str], None]) -> Iterator[Placement]:
    """Find the devices that the flags ask for. Raises InputError if they do not exist."""
    with open_executor(config.engine, config.ray_address, ProcessPool(1)) as executor:
        yield _ray_placement(config, executor, log) if config.engine == "ray" else _local_placement(config, executor)


def _local_placement(config: InferConfig, executor: Executor) -> Placement:
    devices = parse_devices(config.device)
    return Placement(
        executor,
        trial_device=devices[0],
        devices=devices,
        memory=available_memory(devices[0]) // devices.count(devices[0]),
        threads=config.workers or max(1, worker_count(0) // len(devices)),
        torch_threads=max(1, torch.get_num_threads() // len(devices)),
        description=", ".join(map(str, devices)),
    )


def _ray_placement(config: InferConfig, executor: Executor, log: Callable[[str], None]) -> Placement:
    """Use actors: as many as the cluster has room for, unless a flag says so."""
    gpus = 0.0 if config.device == "cpu" and config.gpus_per_actor is None else config.gpus_per_actor
    shape = ray_cluster.actor_shape(config.actors, gpus, config.cpus_per_actor)
    log(f"Ray cluster: {ray_cluster.describe_cluster()}; using {shape}")
    device = torch.device("cuda" if shape.gpus and config.device == "auto" else config.device.replace("auto", "cpu"))
    # A remote GPU is asked for its memory, which also shows whether PyTorch sees it.
    memory = shape.memory if device.type == "cpu" else ray_cluster.call_remote(shape, available_memory, device)
    cpus = max(1, int(shape.cpus))
    return Placement(
        executor,
        trial_device=parse_device("auto" if config.device == "auto" else "cpu"),
        devices=(device,) * shape.count,
        memory=memory,
        threads=config.workers or cpus,
        torch_threads=cpus,
        description=str(shape),
        shape=shape,
    )


def dispatch(
    job: Job,
    placement: Placement,
    modules: Callable[[int], torch.nn.Module],
    tasks: Sequence[Task],
    progress: Callable[[int, int], object],
    log: Callable[[str], None],
) -> dict[str, float]:
    """Do the tasks, each on the device that is free first.

    Args:
        job: the same for all tasks.
        placement: the devices.
        modules: returns the model of a step, where this process does the work.
        tasks: in the order in which they are handed out.
        progress: called with the number of rows written, and how many of them failed.
        log: takes a line for the user, for example that a worker died and others do its tasks.

    Returns seconds as `timing` names them, of all devices together. Raises InputError, and RuntimeError for a defect
    that a worker met; the other workers are ended then.
    """
    remote = placement.shape is not None
    if placement.in_this_process or (len(tasks) <= 1 and not remote):
        waiting = iter(tasks)
        channel = TaskChannel(lambda _: next(waiting, None), lambda rows, failed, _: progress(rows, failed), log)
        return run_tasks(job, placement.devices[0], modules, channel)

    files = tuple(user_code.imported_files())
    spec = WorkerSpec(
        worker_loop,
        job,
        [_Setup(files, str(device), placement.torch_threads) for device in placement.devices],
        [device.type if remote else str(device) for device in placement.devices],
        placement.shape,
    )
    give_up = functools.partial(write_failed_task, job, placement.devices[0])
    scheduler = Scheduler(
        placement.executor.workers(spec, log), tasks, progress, log, lambda task: str(task.part_range.index), give_up
    )
    return scheduler.run(min(len(placement.devices), len(tasks)))


@dataclass(frozen=True)
class _Setup:
    """The settings that a worker needs before it can load the job."""

    files: tuple[tuple[Path, str], ...]
    """The user's files whose classes the job may hold, and what they are for."""
    device: str
    torch_threads: int


def worker_loop(
    setup: _Setup, load_job: Callable[[], Job], receive: Callable[[], Task | None], send: Callable[[object], object]
) -> None:
    """Do the tasks that the scheduler hands out, in another process: a `parallel.processes.WorkerLoop`."""

    def next_task(waits: bool) -> Task | None:
        send(Ready(waits))
        return receive()

    channel = TaskChannel(
        next_task,
        lambda rows, failed, finished: send(Progress(rows, failed, finished)),
        lambda text: send(LogLine(text)),
    )
    try:
        for file, kind in setup.files:
            user_code.import_again(file, kind)
        torch.set_num_threads(setup.torch_threads)
        keep_freed_memory()
        job = load_job()
        config = job.config
        factory = open_factory(
            config.model,
            config.model_args,
            ema=config.ema,
            trust=config.trust_checkpoint,
            max_read_gb=config.max_read_gb,
        )

        def module(step: int) -> torch.nn.Module:
            return build_module(factory.build, job.steps[step], job.runs[step])

        send(Finished(run_tasks(job, torch.device(setup.device), module, channel)))
    except InputError as error:
        send(Failed(True, str(error)))
    except Exception:  # it is raised again by the scheduler
        send(Failed(False, traceback.format_exc()))
