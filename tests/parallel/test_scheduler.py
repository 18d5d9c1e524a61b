"""The scheduler with simulated workers: who gets which task, and what becomes of tasks on which workers die."""

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predboard.errors import InputError
from predboard.parallel.scheduler import (
    MAX_CRASHES,
    Died,
    Failed,
    Finished,
    LogLine,
    Progress,
    Ready,
    Scheduler,
    Worker,
)


@dataclass
class _Played:
    """How far a simulated worker is."""

    hand: deque[int] = field(default_factory=deque)
    asking: bool = False
    waits: bool = True
    no_more: bool = False
    """There was nothing to read ahead: it asks again when its hand is empty."""
    over: bool = False


class SimulatedHost:
    """Simulates workers that die on some tasks, and whose messages come in a random order."""

    def __init__(self, seed: int, ahead: int, poison: frozenset[int], replaces: bool, failed_starts: int = 0) -> None:
        self.replaces = replaces
        self._random, self._ahead, self._poison, self._failed_starts = random.Random(seed), ahead, poison, failed_starts
        self.played: dict[Worker[int], _Played] = {}
        self.dead: set[Worker[int]] = set()
        self.ended: list[Worker[int]] = []
        self.begun: Counter[int] = Counter()
        self.together: list[tuple[int, ...]] = []
        """The tasks that each dead worker had."""

    def start(self, number: int) -> Worker[int]:
        def send(task: int | None) -> None:
            one = self.played[worker]
            assert one.asking, "a task that nobody asked for"
            one.asking = False
            if task is None:
                one.over, one.no_more = one.waits, True
            else:
                one.hand.append(task)
                self.begun[task] += 1

        worker = Worker[int](f"worker {number}", send)
        self.played[worker] = _Played()
        return worker

    def receive(self) -> tuple[Worker[int], object]:
        able = [w for w, one in self.played.items() if w not in self.dead and not one.asking]
        assert able, "everybody waits"
        worker = self._random.choice(able)
        one = self.played[worker]
        if self._failed_starts:
            self._failed_starts -= 1
            return self._die(worker)
        if one.over:
            self.dead.add(worker)
            return worker, Finished({"forward": 1.0})
        if not one.hand:
            one.asking, one.waits, one.no_more = True, True, False
            return worker, Ready(True)
        if len(one.hand) < self._ahead and not one.no_more:
            one.asking, one.waits = True, False
            return worker, Ready(False)
        if self._poison & set(one.hand):  # whichever of them it reads
            return self._die(worker)
        return worker, Progress(10, 1, one.hand.popleft())

    def _die(self, worker: Worker[int]) -> tuple[Worker[int], object]:
        self.dead.add(worker)
        self.together.append(tuple(self.played[worker].hand))
        return worker, Died("died")

    def end(self, workers: Sequence[Worker[int]]) -> None:
        self.ended += workers


@dataclass
class Records:
    """Records what a scheduler reports and does."""

    rows: int = 0
    failed: int = 0
    lines: list[str] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)

    def scheduler(self, host: SimulatedHost, tasks: Sequence[int]) -> Scheduler[int]:
        def progress(rows: int, failed: int) -> None:
            self.rows += rows
            self.failed += failed

        def give_up(task: int, why: str) -> tuple[int, int]:
            assert why == f"{MAX_CRASHES} workers died on part {task}, the last died"
            self.given_up.append(task)
            return 10, 10

        return Scheduler(host, tasks, progress, self.lines.append, str, give_up)


@settings(max_examples=300)
@given(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(1, 4),
    st.frozensets(st.integers(0, 29), max_size=3),
)
def test_every_task_is_finished_or_given_up_and_only_poisonous_ones_are_given_up(
    seed: int, tasks: int, workers: int, ahead: int, poison: frozenset[int]
) -> None:
    poison &= set(range(tasks))
    host, records = SimulatedHost(seed, ahead, poison, replaces=True), Records()
    records.scheduler(host, range(tasks)).run(workers)
    assert sorted(records.given_up) == sorted(poison)
    assert (records.rows, records.failed) == (10 * tasks, tasks + 9 * len(poison))
    assert len(host.together) <= MAX_CRASHES * len(poison)  # at most one death where it is not known which it was
    for task in poison:
        mine = [hand for hand in host.together if task in hand]
        assert len(mine) == MAX_CRASHES == host.begun[task]
        assert mine[1:] == [(task,)] * (MAX_CRASHES - 1)  # alone from then on
    assert len(host.played) <= workers + len(host.together)
    assert set(host.ended) == set(host.played), "somebody lives on"


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
def test_without_replacement_the_other_workers_do_the_tasks_of_the_dead(seed: int, workers: int, ahead: int) -> None:
    host, records = SimulatedHost(seed, ahead, frozenset({3}), replaces=False), Records()
    records.scheduler(host, range(8)).run(workers)
    if workers > MAX_CRASHES:
        assert (records.given_up, records.rows) == ([3], 80)
    elif workers < MAX_CRASHES:
        assert records.given_up == []
        assert records.lines[-1].endswith("no worker is left")
        assert records.rows < 80
    assert not any("starting another worker" in line for line in records.lines)


def test_tasks_are_handed_out_in_order_and_only_as_far_as_workers_read_ahead() -> None:
    host, records = SimulatedHost(1, 3, frozenset(), replaces=True), Records()
    most = 0
    order: list[int] = []
    start = host.start

    def watched_start(number: int) -> Worker[int]:
        worker = start(number)
        send = worker.send

        def watched_send(task: int | None) -> None:
            nonlocal most
            send(task)
            most = max(most, sum(len(one.hand) for one in host.played.values()))
            order.extend([] if task is None else [task])

        worker.send = watched_send
        return worker

    host.start = watched_start  # type: ignore[method-assign]  # to look on
    assert records.scheduler(host, range(1000)).run(2) == {"forward": 2.0}
    assert order == list(range(1000))
    assert most <= 2 * 3


def test_workers_that_die_before_their_first_task_end_the_run_with_one_line() -> None:
    host, records = SimulatedHost(0, 1, frozenset(), replaces=True, failed_starts=MAX_CRASHES), Records()
    with pytest.raises(
        InputError,
        match=r"^3 workers in a row died before their first part, the last died; nothing that was written is lost$",
    ):
        records.scheduler(host, range(4)).run(2)
    assert set(host.ended) == set(host.played)
    records = Records()
    records.scheduler(SimulatedHost(0, 1, frozenset(), replaces=True, failed_starts=MAX_CRASHES - 1), range(4)).run(2)
    assert records.rows == 40


@pytest.mark.parametrize(("input_", "kind"), [(True, InputError), (False, RuntimeError)])
def test_the_exception_of_a_worker_is_raised_and_all_workers_are_ended(input_: bool, kind: type[Exception]) -> None:
    host, records = SimulatedHost(0, 1, frozenset(), replaces=True), Records()
    said = iter([LogLine("hello"), Failed(input_, "no good")])
    host.receive = lambda: (next(iter(host.played)), next(said))  # type: ignore[method-assign]  # speaks by the script
    with pytest.raises(kind, match=r"no good$"):
        records.scheduler(host, range(4)).run(2)
    assert records.lines == ["hello"]
    assert len(host.ended) == 2


def test_no_tasks_need_no_worker() -> None:
    host = SimulatedHost(0, 1, frozenset(), replaces=True)
    assert Records().scheduler(host, ()).run(0) == {}


def test_a_worker_that_dies_waiting_gets_nothing_and_is_replaced_only_if_tasks_are_left() -> None:
    host, records = SimulatedHost(0, 1, frozenset(), replaces=True), Records()
    started: list[Worker[int]] = []
    ordered: list[tuple[str, int | None]] = []

    def start(number: int) -> Worker[int]:
        name = f"worker {number}"
        started.append(Worker[int](name, lambda task: ordered.append((name, task))))
        return started[-1]

    script: list[tuple[int, object]] = [
        (0, Ready(True)),
        (1, Ready(True)),  # waits
        (1, Died("died")),
        (0, Died("died")),
        (2, Ready(True)),
        (2, Progress(10, 0, 0)),
        (2, Ready(True)),
        (2, Finished({})),
    ]
    speaks = iter(script)

    def receive() -> tuple[Worker[int], object]:
        number, said = next(speaks)
        return started[number], said

    host.start, host.receive = start, receive  # type: ignore[method-assign]  # by the script
    records.scheduler(host, [0]).run(2)
    assert ordered == [("worker 1", 0), ("worker 3", 0), ("worker 3", None)]
    assert len(started) == 3
    assert records.lines == [
        "worker 2 died; unfinished parts: none; no other part is left to do",
        "worker 1 died; unfinished parts: 0; starting another worker",
    ]


def test_only_workers_that_fail_to_start_in_a_row_end_the_run() -> None:
    class Unlucky(SimulatedHost):
        def receive(self) -> tuple[Worker[int], object]:
            self._failed_starts = 0
            for worker in self.played:
                if worker not in self.dead and worker.name in ("worker 1", "worker 2", "worker 4", "worker 5"):
                    return self._die(worker)
            return super().receive()

    records = Records()
    records.scheduler(Unlucky(0, 1, frozenset({0}), replaces=True), range(3)).run(
        1
    )  # worker 3 asks, and dies on its task
    assert (records.given_up, records.rows) == ([0], 30)
