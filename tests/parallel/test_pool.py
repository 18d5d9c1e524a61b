"""The order-keeping map."""

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predboard import InputError
from predboard.parallel import pool as workers

from tests import toy

X = TypeVar("X")
Y = TypeVar("Y")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5), st.integers(1, 8))
def test_results_come_in_the_order_of_the_items(delays: list[int], threads: int, ahead: int) -> None:
    def slow(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 4000)
        return item[0] * item[0]

    items = list(enumerate(delays))
    assert list(workers.ordered_map(slow, items, threads, ahead)) == [i * i for i, _ in items]


def test_items_run_side_by_side() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks, and so raises, unless three wait at once
    assert len(list(workers.ordered_map(lambda _: together.wait(), range(3), workers=3))) == 3


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_at_most_ahead_items_are_begun_and_not_taken(ahead: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for i in range(20):
            drawn += 1
            yield i

    most = 0
    for taken, _ in enumerate(workers.ordered_map(lambda x: x, items(), workers=2, ahead=ahead)):
        most = max(most, drawn - taken)
    assert most == ahead
    assert drawn == 20


def test_an_exception_comes_where_the_result_would_have_been() -> None:
    def fails_at_three(x: int) -> int:
        if x == 3:
            raise KeyError("three")
        return x

    results = workers.ordered_map(fails_at_three, range(100), workers=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert list(results) == []


def test_an_exception_of_the_items_is_raised_after_the_pool_has_ended() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(workers.ordered_map(lambda x: x, items(), workers=2))


def test_leaving_early_begins_nothing_more_and_leaves_no_thread() -> None:
    before = threading.active_count()
    begun: list[int] = []

    def slow(item: int) -> None:
        begun.append(item)
        time.sleep(0.05 if item else 0)

    results = workers.ordered_map(slow, range(1000), workers=1, ahead=8)
    next(results)
    results.close()
    assert len(begun) <= 3  # of 8 that were waiting
    assert threading.active_count() == before


def test_count_is_what_was_wanted_or_one_for_each_processor() -> None:
    assert workers.worker_count(3) == 3
    assert workers.worker_count(40) == 40
    assert 1 <= workers.worker_count(0) <= min(os.cpu_count() or 1, 16)


def test_what_takes_too_long_is_replaced_and_the_others_come_as_usual() -> None:
    stuck = threading.Event()
    given_up: list[int] = []

    def hangs_at_some(item: int) -> int:
        if item in (2, 3, 9):
            stuck.wait()
        return item

    def instead(item: int) -> int:
        given_up.append(item)
        return -item

    began = time.monotonic()
    try:
        patience = workers.ItemTimeout(0.1, instead)
        found = list(workers.ordered_map(hangs_at_some, range(12), workers=2, ahead=4, patience=patience))
        assert found == [0, 1, -2, -3, 4, 5, 6, 7, 8, -9, 10, 11]
        assert given_up == [2, 3, 9]
        assert 0.2 < time.monotonic() - began < 5
    finally:
        stuck.set()


def test_patience_is_counted_from_when_an_item_is_begun_not_from_when_it_waits() -> None:
    def slow(item: int) -> int:
        time.sleep(0.05)
        return item

    patience = workers.ItemTimeout[int, int](0.5, lambda _: -1)
    assert list(workers.ordered_map(slow, range(20), workers=1, ahead=20, patience=patience)) == list(range(20))


def test_a_timeout_of_the_function_itself_is_its_exception() -> None:
    def fails(_: int) -> int:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        list(workers.ordered_map(fails, range(3), workers=1, patience=workers.ItemTimeout(5, lambda _: 0)))


def test_a_thread_that_never_comes_back_does_not_keep_a_process_from_ending() -> None:
    script = (
        "import threading\nfrom predboard.parallel import pool as workers\n"
        "patience = workers.ItemTimeout(0.1, lambda item: 'late')\n"
        "print(list(workers.ordered_map(lambda _: threading.Event().wait(), [1], 1, patience=patience)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=toy.ROOT, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr, done.returncode) == ("['late']\n", "", 0)


# processes


def folded(
    function: Callable[[X], Y],
    items: Iterable[X],
    count: int,
    rest: Callable[[Any], object] = lambda _: None,
    warm: str = "",
) -> list[Y]:
    """What a pool of its own gives."""
    with workers.ProcessPool(count, warm) as pool:
        return list(pool.fold(toy.Folded(function), items, count, rest))


def test_processes_give_results_in_the_order_of_the_items() -> None:
    items = [(i, 0.05) for i in range(80)]
    kept: list[list[tuple[int, float]]] = []
    pids = folded(toy.slow_square, items, 3, kept.append, warm="tests.toy:takes_a_second")
    assert [square for square, _ in pids] == [i * i for i in range(80)]
    assert pids[0][1] == os.getpid()  # at once, while the others start
    assert 1 < len({pid for _, pid in pids}) <= 3
    assert len(kept) == len({pid for _, pid in pids})  # of each process that did something
    assert sorted(item for of_process in kept for item in of_process) == items


def test_a_function_that_is_used_again_begins_anew() -> None:
    kept: list[list[tuple[int, float]]] = []
    function = toy.Folded(toy.slow_square)
    with workers.ProcessPool(2) as pool:
        pool.start(2)
        pool._starting[0].join()
        for _ in range(2):
            assert [square for square, _ in pool.fold(function, [(2, 0.05)] * 6, 2, kept.append)] == [4] * 6
    of_others = [items for items in kept if items is not function.given]
    assert len(of_others) == 2
    assert sum(map(len, of_others)) + len(function.given) == 12


def test_what_one_process_alone_keeps_is_given_as_well() -> None:
    kept: list[list[int]] = []
    assert folded(toy.refuses_three, [1, 2], 1, kept.append) == [1, 2]
    assert kept == [[1, 2]]


def test_what_a_process_raises_is_raised_here_and_none_is_left() -> None:
    with pytest.raises(InputError, match="no good: 3"):
        folded(toy.refuses_three, range(6), 2)
    assert not children()


def test_a_process_that_is_killed_is_named_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"was killed by SIGKILL, maybe for want of memory: --workers 1 needs less"):
        folded(toy.kills_another_process, [os.getpid()] * 400, 2)
    assert not children()


def test_processes_end_when_nobody_wants_more() -> None:
    with workers.ProcessPool(2) as pool:
        results = pool.fold(toy.Folded(toy.slow_square), ((i, 0.01) for i in range(1000)), 2)
        assert next(results)[0] == 0
        results.close()
    assert not children()


def children() -> list[str]:
    """Processes that this one started and that still run."""
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    threads = Path("/proc/self/task").iterdir()
    listed = [(thread / "children").read_text().split() for thread in threads]
    found = [pid for pids in listed for pid in pids]
    return [pid for pid in found if b"predboard.parallel.pool" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_calls_go_to_a_process_that_is_there_and_else_stay_here() -> None:
    with workers.ProcessPool(2) as pool:
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


def test_what_is_called_everywhere_is_called_once_in_each_process_that_is_there(tmp_path: Path) -> None:
    sign = functools.partial(toy.sign, tmp_path)
    with workers.ProcessPool(3) as pool:
        pool.everywhere(sign)
        assert signed(tmp_path) == {os.getpid(): 1}
        pool.start(3)
        for thread in pool._starting:
            thread.join()
        pool.everywhere(sign)
        found = signed(tmp_path)
        assert found.pop(os.getpid()) == 2
        assert sorted(found.values()) == [1, 1]
        together = list(pool.fold(toy.Folded(toy.slow_square), [(1, 0.05)] * 9, 3))
        assert {pid for _, pid in together} == {os.getpid(), *found}  # all have been given back


def test_of_a_process_that_has_died_hears_who_needs_it_and_not_who_calls_everywhere(tmp_path: Path) -> None:
    with workers.ProcessPool(2) as pool:
        pool.start(2)
        pool._starting[0].join()
        pool._free[0].kill()
        pool.everywhere(functools.partial(toy.sign, tmp_path))
        assert signed(tmp_path) == {os.getpid(): 1}
        with pytest.raises(InputError, match="was killed by SIGKILL"):
            pool.call(toy.slow_square, (3, 0))


def signed(folder: Path) -> dict[int, int]:
    return {int(file.name): len(file.read_bytes()) for file in folder.iterdir()}


def test_threads_that_start_processes_at_once_start_no_more_than_were_wanted() -> None:
    with workers.ProcessPool(3) as pool:
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


def test_while_others_start_this_process_takes_as_many_items_as_there_will_be_processes() -> None:
    with workers.ProcessPool(3) as pool, ThreadPoolExecutor(3) as threads:
        together = threading.Barrier(3, timeout=10)
        assert len(list(threads.map(lambda _: pool.call(lambda _: together.wait(), 0), range(3)))) == 3


def test_a_process_that_dies_while_it_starts_is_one_line_for_who_asks_it() -> None:
    with workers.ProcessPool(2, "predboard.no_such_module:warm") as pool:
        pool.start(2)
        pool._starting[0].join()
        with pytest.raises(InputError, match="a process that works on predictions ended with exit code 1"):
            pool.call(toy.slow_square, (3, 0))


def test_an_exception_that_cannot_be_sent_comes_in_words() -> None:
    with workers.ProcessPool(2) as pool:
        pool.start(2)
        pool._starting[0].join()
        with pytest.raises(RuntimeError, match=r"^OddError: 3 in toy \(TypeError when it was sent\)$"):
            pool.call(toy.raises_odd, 3)


def test_where_the_system_starts_no_process_this_one_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(workers, "start_python", refused)
    assert [pid for _, pid in folded(toy.slow_square, [(i, 0.0) for i in range(9)], 3)] == [os.getpid()] * 9


def test_whoever_is_interrupted_while_a_process_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers.ProcessPool(2) as pool:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        pool.start(2)
    deadline = time.monotonic() + 10
    while children():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_when_nobody_wants_more_what_waits_for_this_process_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.ProcessPool, "_begin", lambda _: None)  # others never come
    slow = toy.Folded(toy.slow_square)
    with workers.ProcessPool(8) as pool:
        results = pool.fold(slow, [(i, 0.1) for i in range(100)], 8)
        assert next(results)[0] == 0
        results.close()
    assert len(slow.given) <= 3


def test_processes_end_without_a_word_when_the_first_is_killed() -> None:
    script = (
        "import os, threading\nfrom predboard.parallel import pool as workers\nfrom tests import toy\n"
        "pool = workers.ProcessPool(2)\npool.start(2)\n"
        "{}pool._starting[0].join()\n"
        "threading.Thread(target=pool.call, args=(toy.slow_square, (3, 0.3)), daemon=True).start()\n"
        "{}import time; time.sleep(0.15)\nos._exit(9)\n"
    )
    for skip in (("", ""), ("os._exit(9)\n", ""), ("", "os._exit(9)\n")):  # at work, while it starts, as it is asked
        words = [sys.executable, "-c", script.format(*skip)]
        done = subprocess.run(words, cwd=toy.ROOT, capture_output=True, text=True, timeout=30, check=False)
        said = done.stderr.replace("this must not get between the answers\n", "")
        assert (said, done.returncode) == ("", 9)
