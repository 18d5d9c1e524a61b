"""The pool of processes."""

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from predboard import InputError
from predboard.parallel import processes
from predboard.parallel.pool import ProcessPool
from tests import toy

pytestmark = pytest.mark.slow

X = TypeVar("X")
Y = TypeVar("Y")


def folded(
    function: Callable[[X], Y],
    items: Iterable[X],
    count: int,
    collect: Callable[[Any], object] = lambda _: None,
    warm_up: str = "",
) -> list[Y]:
    """Fold on a pool of its own."""
    with ProcessPool(count, warm_up) as pool:
        return list(pool.fold(toy.Folded(function), items, count, collect))


@pytest.mark.slow
def test_processes_give_results_in_the_order_of_the_items() -> None:
    items = [(i, 0.05) for i in range(80)]
    collected: list[list[tuple[int, float]]] = []
    pids = folded(toy.slow_square, items, 3, collected.append, warm_up="tests.toy:takes_a_second")
    assert [square for square, _ in pids] == [i * i for i in range(80)]
    assert pids[0][1] == os.getpid()  # at once, while the others start
    assert 1 < len({pid for _, pid in pids}) <= 3
    assert len(collected) == len({pid for _, pid in pids})  # of each process that did something
    assert sorted(item for of_process in collected for item in of_process) == items


def test_a_function_that_is_used_again_starts_with_nothing_collected() -> None:
    collected: list[list[tuple[int, float]]] = []
    function = toy.Folded(toy.slow_square)
    with ProcessPool(2) as pool:
        pool.start(2)
        pool._starting[0].join()
        for _ in range(2):
            assert [square for square, _ in pool.fold(function, [(2, 0.05)] * 6, 2, collected.append)] == [4] * 6
    of_others = [items for items in collected if items is not function.given]
    assert len(of_others) == 2
    assert sum(map(len, of_others)) + len(function.given) == 12


def test_one_process_alone_hands_over_what_it_collected() -> None:
    collected: list[list[int]] = []
    assert folded(toy.refuses_three, [1, 2], 1, collected.append) == [1, 2]
    assert collected == [[1, 2]]


def test_an_exception_in_a_process_is_raised_here_and_no_process_is_left() -> None:
    with pytest.raises(InputError, match="no good: 3"):
        folded(toy.refuses_three, range(6), 2)
    assert not children()


def test_a_killed_process_is_an_input_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"was killed by SIGKILL, perhaps for lack of memory: --workers 1 needs less"):
        folded(toy.kills_another_process, [os.getpid()] * 400, 2)
    assert not children()


def test_processes_end_when_nobody_wants_more() -> None:
    with ProcessPool(2) as pool:
        results = pool.fold(toy.Folded(toy.slow_square), ((i, 0.01) for i in range(1000)), 2)
        assert next(results)[0] == 0
        results.close()
    assert not children()


def children() -> list[str]:
    """Processes that this one started and that still run."""
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    found = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += (thread / "children").read_text().split()
    running = []
    for pid in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a process, likewise
            running += [pid] if b"answer_calls" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return running


def test_calls_go_to_an_idle_process_and_otherwise_stay_here() -> None:
    with ProcessPool(2) as pool:
        assert pool.call(toy.slow_square, (3, 0)) == (9, os.getpid())  # nobody else was started
        pool.start(2)
        deadline = time.monotonic() + 20
        while (found := pool.call(toy.slow_square, (3, 0))) == (9, os.getpid()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert found[0] == 9
        assert pool.call(toy.slow_square, (4, 0)) == (16, found[1])
        with pytest.raises(InputError, match="no good: 3"):
            pool.call(toy.refuses_three, 3)
        assert pool.call(toy.refuses_three, 4) == 4
        with ThreadPoolExecutor(4) as threads:  # more at once than there are processes
            together = list(threads.map(lambda i: pool.call(toy.slow_square, (i, 0.02)), range(20)))
        assert [square for square, _ in together] == [i * i for i in range(20)]
        assert {pid for _, pid in together} == {os.getpid(), found[1]}
    assert not children()


def test_a_broadcast_calls_once_in_this_process_and_each_idle_one(tmp_path: Path) -> None:
    sign = functools.partial(toy.sign, tmp_path)
    with ProcessPool(3) as pool:
        pool.broadcast(sign)
        assert signed(tmp_path) == {os.getpid(): 1}
        pool.start(3)
        for thread in pool._starting:
            thread.join()
        pool.broadcast(sign)
        found = signed(tmp_path)
        assert found.pop(os.getpid()) == 2
        assert sorted(found.values()) == [1, 1]
        together = list(pool.fold(toy.Folded(toy.slow_square), [(1, 0.05)] * 9, 3))
        assert {pid for _, pid in together} == {os.getpid(), *found}  # all have been given back


def test_a_broadcast_skips_a_dead_process_and_the_next_call_raises(tmp_path: Path) -> None:
    with ProcessPool(2) as pool:
        pool.start(2)
        pool._starting[0].join()
        pool._idle[0].kill()
        pool.broadcast(functools.partial(toy.sign, tmp_path))
        assert signed(tmp_path) == {os.getpid(): 1}
        with pytest.raises(InputError, match="was killed by SIGKILL"):
            pool.call(toy.slow_square, (3, 0))


def signed(folder: Path) -> dict[int, int]:
    return {int(file.name): len(file.read_bytes()) for file in folder.iterdir()}


def test_several_threads_together_start_no_more_processes_than_asked_for() -> None:
    with ProcessPool(3) as pool:
        together = threading.Barrier(6)

        def start(_: int) -> None:
            together.wait()
            pool.start(3)
            for thread in pool._starting:
                thread.join()  # which were all started

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(start, range(6)))
        assert len(pool._started) == 2
    assert not children()


def test_while_processes_start_this_one_takes_as_many_items_as_there_will_be_processes() -> None:
    with ProcessPool(3) as pool, ThreadPoolExecutor(3) as threads:
        together = threading.Barrier(3, timeout=10)
        assert len(list(threads.map(lambda _: pool.call(lambda _: together.wait(), 0), range(3)))) == 3


def test_a_process_that_dies_while_starting_is_one_line_for_the_next_call() -> None:
    with ProcessPool(2, "predboard.no_such_module:warm") as pool:
        pool.start(2)
        pool._starting[0].join()
        with pytest.raises(InputError, match="a process that reads predictions ended with exit code 1"):
            pool.call(toy.slow_square, (3, 0))


def test_an_exception_that_cannot_be_pickled_is_raised_as_text() -> None:
    with ProcessPool(2) as pool:
        pool.start(2)
        pool._starting[0].join()
        with pytest.raises(RuntimeError, match=r"^OddError: 3 in toy \(TypeError when it was sent\)$"):
            pool.call(toy.raises_odd, 3)


def test_this_process_does_the_work_if_the_system_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "start_python", refused)
    assert [pid for _, pid in folded(toy.slow_square, [(i, 0.0) for i in range(9)], 3)] == [os.getpid()] * 9


def test_an_interrupt_while_a_process_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ProcessPool(2) as pool:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        pool.start(2)
    deadline = time.monotonic() + 10
    while children():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_items_that_wait_for_this_process_are_not_started_once_nobody_wants_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ProcessPool, "_start_one", lambda _: None)  # no other process ever comes
    slow = toy.Folded(toy.slow_square)
    with ProcessPool(8) as pool:
        results = pool.fold(slow, [(i, 0.1) for i in range(100)], 8)
        assert next(results)[0] == 0
        results.close()
    assert len(slow.given) <= 3


@pytest.mark.slow
def test_processes_end_without_a_word_when_the_one_that_started_them_is_killed() -> None:
    script = (
        "import os, threading\nfrom predboard.parallel.pool import ProcessPool\nfrom tests import toy\n"
        "pool = ProcessPool(2)\npool.start(2)\n"
        "{}pool._starting[0].join()\n"
        "threading.Thread(target=pool.call, args=(toy.slow_square, (3, 0.3)), daemon=True).start()\n"
        "{}import time; time.sleep(0.15)\nos._exit(9)\n"
    )
    for skip in (("", ""), ("os._exit(9)\n", ""), ("", "os._exit(9)\n")):  # at work, while it starts, as it is asked
        words = [sys.executable, "-c", script.format(*skip)]
        done = subprocess.run(words, cwd=toy.ROOT, capture_output=True, text=True, timeout=30, check=False)
        said = done.stderr.replace("this must not get between the answers\n", "")
        assert (said, done.returncode) == ("", 9)
