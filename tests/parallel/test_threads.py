"""The ordered map on threads."""

import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predboard.parallel.threads import (
    ItemTimeout,
    _Backlog,
    limit_blas_threads,
    limit_spinning,
    ordered_map,
    worker_count,
)
from tests import toy

pytestmark = pytest.mark.slow


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5), st.integers(1, 8))
def test_results_come_in_the_order_of_the_items(delays: list[int], threads: int, ahead: int) -> None:
    def slow(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 4000)
        return item[0] * item[0]

    items = list(enumerate(delays))
    assert list(ordered_map(slow, items, threads, ahead)) == [i * i for i, _ in items]


def test_items_that_are_computed_at_once_keep_their_place_and_need_no_thread() -> None:
    def doubled(item: int) -> tuple[int, int]:
        return 2 * item, threading.get_ident()

    here = threading.get_ident()
    some = ordered_map(doubled, range(20), 2, 6, at_once=lambda item: doubled(item) if item % 3 else None)
    results = list(some)
    assert [value for value, _ in results] == [2 * item for item in range(20)]
    assert [place == here for _, place in results] == [item % 3 > 0 for item in range(20)]
    before, most = threading.active_count(), 0
    for _ in ordered_map(doubled, range(20), 2, 6, at_once=doubled):
        most = max(most, threading.active_count())
    assert most == before


def test_items_run_side_by_side() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks, and so raises, unless three wait at once
    assert len(list(ordered_map(lambda _: together.wait(), range(3), workers=3))) == 3


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_at_most_ahead_items_are_started_and_not_yielded(ahead: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for i in range(20):
            drawn += 1
            yield i

    most = 0
    for taken, _ in enumerate(ordered_map(lambda x: x, items(), workers=2, ahead=ahead)):
        most = max(most, drawn - taken)
    assert most == ahead
    assert drawn == 20


def test_an_exception_is_raised_where_the_result_would_have_been() -> None:
    def fails_at_three(x: int) -> int:
        if x == 3:
            raise KeyError("three")
        return x

    results = ordered_map(fails_at_three, range(100), workers=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert list(results) == []


def test_an_exception_of_the_items_is_raised_after_the_threads_have_ended() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(ordered_map(lambda x: x, items(), workers=2))


def test_closing_early_starts_nothing_more_and_leaves_no_thread() -> None:
    before = threading.active_count()
    begun: list[int] = []

    def slow(item: int) -> None:
        begun.append(item)
        time.sleep(0.05 if item else 0)

    results = ordered_map(slow, range(1000), workers=1, ahead=8)
    next(results)
    results.close()
    assert len(begun) <= 3  # of 8 that were waiting
    assert threading.active_count() == before


def test_a_caller_that_stops_does_not_wait_for_an_item_that_hangs() -> None:
    """As after Ctrl-C, while a thread waits for a file system that is gone."""
    hangs, began = threading.Event(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for item in ordered_map(lambda item: item and hangs.wait(60), [0, 1], 2, 1):
            assert not item
            raise KeyboardInterrupt
    results = ordered_map(lambda item: item and hangs.wait(60), [0, 1], 2)
    assert next(results) == 0
    results.close()
    hangs.set()
    assert time.monotonic() - began < 10


def test_worker_count_is_the_request_or_one_for_each_processor() -> None:
    assert worker_count(3) == 3
    assert worker_count(40) == 40
    assert 1 <= worker_count(0) <= min(os.cpu_count() or 1, 16)


def test_an_item_that_takes_too_long_is_replaced_and_the_others_are_not_affected() -> None:
    stuck = threading.Event()
    abandoned: list[int] = []

    def hangs_at_some(item: int) -> int:
        if item in (2, 3, 9):
            stuck.wait()
        return item

    def fallback(item: int) -> int:
        abandoned.append(item)
        return -item

    try:
        timeout = ItemTimeout(0.1, fallback)
        found = list(ordered_map(hangs_at_some, range(12), workers=2, ahead=4, timeout=timeout))
        assert found == [0, 1, -2, -3, 4, 5, 6, 7, 8, -9, 10, 11]
        assert abandoned == [2, 3, 9]
    finally:
        stuck.set()


def test_a_timeout_counts_from_when_an_item_is_started_not_from_when_it_is_queued() -> None:
    def slow(item: int) -> int:
        time.sleep(0.05)
        return item

    timeout = ItemTimeout[int, int](0.5, lambda _: -1)
    assert list(ordered_map(slow, range(20), workers=1, ahead=20, timeout=timeout)) == list(range(20))


def test_a_timeout_error_of_the_function_itself_is_raised() -> None:
    def fails(_: int) -> int:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        list(ordered_map(fails, range(3), workers=1, timeout=ItemTimeout(5, lambda _: 0)))


def test_a_thread_that_hangs_does_not_keep_the_process_from_exiting() -> None:
    script = (
        "import threading\nfrom predboard.parallel.threads import ItemTimeout, ordered_map\n"
        "timeout = ItemTimeout(0.1, lambda item: 'late')\n"
        "print(list(ordered_map(lambda _: threading.Event().wait(), [1], 1, timeout=timeout)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=toy.ROOT, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr, done.returncode) == ("['late']\n", "", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_can_be_nicer_than_the_callers() -> None:
    def priority(_: object = None) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    for nice in (0, 2):
        assert list(ordered_map(priority, range(3), 2, nice=nice)) == [before + nice] * 3
    assert priority() == before


@pytest.mark.parametrize(("nice", "at_once"), [(0, 2), (1, 1)])
def test_the_more_results_wait_for_the_caller_the_fewer_threads_that_give_way_work(nice: int, at_once: int) -> None:
    lock, at_work, most = threading.Lock(), set[int](), list[int]()

    def slow(item: int) -> int:
        with lock:
            at_work.add(item)
            most.append(len(at_work))
        time.sleep(0.005)
        with lock:
            at_work.remove(item)
        return item

    results = ordered_map(slow, range(40), workers=2, ahead=20, nice=nice)
    first = next(results)
    deadline = time.monotonic() + 10
    while len(most) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert max(most[:8]) == 2
    assert max(most[14:20]) == at_once
    assert [first, *results] == list(range(40))


def test_a_signal_leaves_no_thread_waiting() -> None:
    """It comes when a function that is written in Python returns to the backlog, which may hold its lock by then."""

    def signal(frame: types.FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_back is not None and frame.f_back.f_code is _Backlog.take.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    results = ordered_map(abs, range(100), workers=2, ahead=8, nice=1)
    try:
        with pytest.raises(KeyboardInterrupt):
            sys.setprofile(signal)
            list(results)
    finally:
        sys.setprofile(None)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("limit", "names", "environment", "expected"),
    [
        (limit_spinning, ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"), {}, "1000"),
        (limit_spinning, ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"), {"OMP_WAIT_POLICY": "active"}, None),
        (limit_spinning, ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"), {"GOMP_SPINCOUNT": "7"}, "7"),
        (limit_blas_threads, ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), {}, "1"),
        (limit_blas_threads, ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), {"OMP_NUM_THREADS": "3"}, None),
        (limit_blas_threads, ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), {"OPENBLAS_NUM_THREADS": "2"}, "2"),
    ],
    ids=["spins unset", "wait policy", "spin count", "threads unset", "openmp", "openblas"],
)
def test_spinning_and_threads_are_limited_unless_the_environment_says_otherwise(
    limit: Callable[[], None],
    names: tuple[str, str],
    environment: dict[str, str],
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is undone
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    limit()
    assert os.environ.get(names[0]) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="there is no glibc")
def test_freed_memory_is_kept_for_the_next_allocation() -> None:
    code = """
import resource, sys, numpy as np
from predboard.parallel.threads import keep_freed_memory
if len(sys.argv) > 1:
    keep_freed_memory()
def fill():
    pictures = [np.ones(20_000_000, np.uint8) for _ in range(4)]; del pictures
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill(); before = fill(); print(fill() - before)
"""
    faults = [
        int(
            subprocess.check_output(
                [sys.executable, "-c", code, *a],
                env={**os.environ, "PYTHONPATH": toy.PYTHONPATH, "NUMPY_MADVISE_HUGEPAGE": "0"},  # pages of 4 kB
                timeout=60,
            )
        )
        for a in ([], ["keep"])
    ]
    assert faults[0] > 4_000 and faults[1] < 100
