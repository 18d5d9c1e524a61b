"""The executor of this machine: a fold over its processes, and workers that take tasks. Ray's is in test_ray.py."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from predboard import InputError
from predboard.parallel.executor import Executor, WorkerSpec, open_executor
from predboard.parallel.pool import ProcessPool
from predboard.parallel.scheduler import Failed, Finished, LogLine, Progress, Ready, Scheduler
from tests import toy


def doubles(setup: str, load_job: Callable[[], Any], receive: Callable[[], Any], send: Callable[[Any], object]) -> None:
    """A worker that reports each task as finished, dies at the file that is not there yet, and fails at -1."""
    folder: Path = load_job()
    while True:
        send(Ready(True))
        task = receive()
        if task is None:
            send(Finished({setup: 1.0}))
            return
        if task == -1:
            send(Failed(True, "no task"))
            return
        if task == 3 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        send(LogLine(f"{2 * task}"))
        send(Progress(2 * task, 0, task))


def scheduled(folder: Path, tasks: list[int]) -> tuple[dict[str, float], int, list[str]]:
    """Let two workers do tasks. -> seconds, the sum of the rows they reported, and what they logged."""
    rows = 0
    lines: list[str] = []

    def progress(more: int, _: int) -> None:
        nonlocal rows
        rows += more

    spec = WorkerSpec(doubles, folder, ["a", "b"], ["first", "second"])
    with open_executor("local", None, ProcessPool(1)) as executor:
        host = executor.workers(spec, lines.append)
        seconds = Scheduler[int](host, tasks, progress, lines.append, str, lambda *_: (0, 0)).run(2)
    return seconds, rows, lines


def test_workers_do_the_tasks_of_one_that_is_killed(tmp_path: Path) -> None:
    seconds, rows, lines = scheduled(tmp_path, list(range(10)))
    assert rows == 2 * sum(range(10))
    (died,) = [line for line in lines if "died" in line or "killed" in line]
    assert "was killed by SIGKILL; unfinished parts: 3; the other workers take over" in died
    assert list(seconds) in (["a"], ["b"])  # of the one that is left
    assert sorted(int(line) for line in lines if line.isdigit()) == [2 * task for task in range(10)]


def test_bad_input_that_a_worker_meets_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no task$"):
        scheduled(tmp_path, [1, -1])


def test_a_job_that_cannot_be_pickled_is_one_line() -> None:
    spec = WorkerSpec(doubles, lambda: None, ["a"], ["cpu"])
    with pytest.raises(InputError, match=r"^the model or the dataset cannot be sent to the process of each device"):
        Executor(ProcessPool(1)).workers(spec, print)


def test_a_fold_uses_the_processes_of_the_pool_and_collects_from_each() -> None:
    collected: list[list[int]] = []
    with ProcessPool(2) as pool:
        executor = Executor(pool)
        squares = list(
            executor.fold(toy.Folded(abs), [-1, -2, -3], 2, collected.append, lambda item: item, lambda *all_: all_)
        )
    assert squares == [1, 2, 3]
    assert sorted(item for items in collected for item in items) == [-3, -2, -1]
    assert executor.batch_rows(10, 3, 1, 2) == 3  # there is nothing to spread
