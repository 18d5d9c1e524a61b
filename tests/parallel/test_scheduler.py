"""Who gets which task, and what becomes of tasks that workers die on: with workers that are played, in any order."""

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
    """How far a worker is."""

    hand: deque[int] = field(default_factory=deque)
    waits: bool = False
    patient: bool = True
    no_more: bool = False
    """There was nothing to read ahead: it asks again when its hand is empty."""
    over: bool = False


class Host:
    """Workers that die on some tasks, and come to speak in an order drawn by chance."""

    def __init__(self, seed: int, ahead: int, poison: frozenset[int], replaces: bool, stillborn: int = 0) -> None:
        self.replaces = replaces
        self._random, self._ahead, self._poison, self._stillborn = random.Random(seed), ahead, poison, stillborn
        self.played: dict[Worker[int], _Played] = {}
        self.dead: set[Worker[int]] = set()
        self.ended: list[Worker[int]] = []
        self.begun: Counter[int] = Counter()
        self.together: list[tuple[int, ...]] = []
        """What each dead worker had in hand."""

    def start(self, number: int) -> Worker[int]:
        def order(task: int | None) -> None:
            one = self.played[worker]
            assert one.waits, "an order that nobody asked for"
            one.waits = False
            if task is None:
                one.over, one.no_more = one.patient, True
            else:
                one.hand.append(task)
                self.begun[task] += 1

        worker = Worker[int](f"worker {number}", order)
        self.played[worker] = _Played()
        return worker

    def hear(self) -> tuple[Worker[int], object]:
        able = [w for w, one in self.played.items() if w not in self.dead and not one.waits]
        assert able, "everybody waits"
        worker = self._random.choice(able)
        one = self.played[worker]
        if self._stillborn:
            self._stillborn -= 1
            return self._die(worker)
        if one.over:
            self.dead.add(worker)
            return worker, Finished({"forward": 1.0})
        if not one.hand:
            one.waits, one.patient, one.no_more = True, True, False
            return worker, Ready(True)
        if len(one.hand) < self._ahead and not one.no_more:
            one.waits, one.patient = True, False
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
class Told:
    """What the crew says and does."""

    rows: int = 0
    failed: int = 0
    lines: list[str] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)

    def crew(self, host: Host, tasks: Sequence[int]) -> Scheduler[int]:
        def wrote(rows: int, failed: int) -> None:
            self.rows += rows
            self.failed += failed

        def give_up(task: int, why: str) -> tuple[int, int]:
            assert why == f"{MAX_CRASHES} workers died on part {task}, the last died"
            self.given_up.append(task)
            return 10, 10

        return Scheduler(host, tasks, wrote, self.lines.append, str, give_up)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(1, 4),
    st.frozensets(st.integers(0, 29), max_size=3),
)
def test_every_task_is_done_or_given_up_and_nobody_innocent_is(
    seed: int, tasks: int, workers: int, ahead: int, poison: frozenset[int]
) -> None:
    poison &= set(range(tasks))
    host, told = Host(seed, ahead, poison, replaces=True), Told()
    told.crew(host, range(tasks)).run(workers)
    assert sorted(told.given_up) == sorted(poison)
    assert (told.rows, told.failed) == (10 * tasks, tasks + 9 * len(poison))
    assert len(host.together) <= MAX_CRASHES * len(poison)  # at most one death where it is not known which it was
    for task in poison:
        mine = [hand for hand in host.together if task in hand]
        assert len(mine) == MAX_CRASHES == host.begun[task]
        assert mine[1:] == [(task,)] * (MAX_CRASHES - 1)  # alone from then on
    assert len(host.played) <= workers + len(host.together)
    assert set(host.ended) == set(host.played), "somebody lives on"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
def test_without_replacement_the_others_do_what_the_dead_had(seed: int, workers: int, ahead: int) -> None:
    host, told = Host(seed, ahead, frozenset({3}), replaces=False), Told()
    told.crew(host, range(8)).run(workers)
    if workers > MAX_CRASHES:
        assert (told.given_up, told.rows) == ([3], 80)
    elif workers < MAX_CRASHES:
        assert told.given_up == []
        assert told.lines[-1].endswith("nobody is left to do them")
        assert told.rows < 80
    assert not any("another takes its place" in line for line in told.lines)


def test_tasks_are_given_in_their_order_and_only_as_far_as_workers_read_ahead() -> None:
    host, told = Host(1, 3, frozenset(), replaces=True), Told()
    most = 0
    order: list[int] = []
    start = host.start

    def watched(number: int) -> Worker[int]:
        worker = start(number)
        give = worker.order

        def order_(task: int | None) -> None:
            nonlocal most
            give(task)
            most = max(most, sum(len(one.hand) for one in host.played.values()))
            order.extend([] if task is None else [task])

        worker.order = order_
        return worker

    host.start = watched  # type: ignore[method-assign]  # to look on
    assert told.crew(host, range(1000)).run(2) == {"forward": 2.0}
    assert order == list(range(1000))
    assert most <= 2 * 3


def test_workers_that_die_before_they_begin_end_the_run_in_one_line() -> None:
    host, told = Host(0, 1, frozenset(), replaces=True, stillborn=MAX_CRASHES), Told()
    with pytest.raises(InputError, match=r"^no worker of 3 began to work, the last died; nothing is lost$"):
        told.crew(host, range(4)).run(2)
    assert set(host.ended) == set(host.played)
    told = Told()
    told.crew(Host(0, 1, frozenset(), replaces=True, stillborn=MAX_CRASHES - 1), range(4)).run(2)
    assert told.rows == 40


@pytest.mark.parametrize(("input_", "kind"), [(True, InputError), (False, RuntimeError)])
def test_what_a_worker_meets_is_raised_and_nobody_lives_on(input_: bool, kind: type[Exception]) -> None:
    host, told = Host(0, 1, frozenset(), replaces=True), Told()
    said = iter([LogLine("hello"), Failed(input_, "no good")])
    host.hear = lambda: (next(iter(host.played)), next(said))  # type: ignore[method-assign]  # speaks by the script
    with pytest.raises(kind, match=r"no good$"):
        told.crew(host, range(4)).run(2)
    assert told.lines == ["hello"]
    assert len(host.ended) == 2


def test_no_tasks_need_no_worker() -> None:
    host = Host(0, 1, frozenset(), replaces=True)
    assert Told().crew(host, ()).run(0) == {}


def test_who_dies_waiting_is_given_nothing_and_replaced_only_where_something_is_left() -> None:
    host, told = Host(0, 1, frozenset(), replaces=True), Told()
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

    def hear() -> tuple[Worker[int], object]:
        number, said = next(speaks)
        return started[number], said

    host.start, host.hear = start, hear  # type: ignore[method-assign]  # by the script
    told.crew(host, [0]).run(2)
    assert ordered == [("worker 1", 0), ("worker 3", 0), ("worker 3", None)]
    assert len(started) == 3
    assert told.lines == [
        "worker 2 died; parts it had begun: none; nothing else is left to do",
        "worker 1 died; parts it had begun: 0; another takes its place",
    ]


def test_only_workers_that_die_at_birth_one_after_the_other_end_the_run() -> None:
    class Unlucky(Host):
        def hear(self) -> tuple[Worker[int], object]:
            self._stillborn = 0
            for worker in self.played:
                if worker not in self.dead and worker.name in ("worker 1", "worker 2", "worker 4", "worker 5"):
                    return self._die(worker)
            return super().hear()

    told = Told()
    told.crew(Unlucky(0, 1, frozenset({0}), replaces=True), range(3)).run(1)  # worker 3 asks, and dies on its task
    assert (told.given_up, told.rows) == ([0], 30)
