"""Benchmarks judge by numbers that are worked out here by hand, and what they measure on is whole."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import (
    bench,
    bench_combine,
    bench_compare,
    bench_labels,
    bench_tab,
    bench_visualize,
    measuring,
    peer_metrics,
    peers,
)
from benchmarks.measuring import Cost, Report, Target
from predboard.storage.parts import read_batches
from predboard.storage.runs import open_run
from tests import toy

FASTER = Target(at_least=1.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, 1, 4, 2, 3], (1, 5)),  # without the extremes it would be missed in 2 × 6/32
        ([7, 1, 6, 2, 5, 3, 4], (1, 7)),  # 2 × 8/128 = 12.5 %
        ([8, 1, 7, 2, 6, 3, 5, 4], (2, 7)),  # 2 × 9/256 = 7 %
        ([9, 1, 8, 2, 7, 3, 6, 4, 5], (2, 8)),  # 2 × 10/512 = 4 %; the third ones: 2 × 46/512 = 18 %
        (range(1, 14), (4, 10)),  # 2 × 378/8192 = 9.2 %
    ],
)
def test_the_interval_is_that_of_the_order_of_the_values(values: list[float], expected: tuple[int, int]) -> None:
    assert measuring.interval(values) == expected


@pytest.mark.parametrize("n", range(5, 30))
def test_the_interval_covers_the_median_of_a_skewed_distribution(n: int) -> None:
    samples = np.random.default_rng(n).exponential(size=(4000, n))
    covered = [low <= math.log(2) <= high for low, high in map(measuring.interval, samples)]
    assert np.mean(covered) >= measuring.CONFIDENCE - 0.02  # four standard errors of 4,000 draws


def test_four_turns_give_no_interval_and_no_verdict() -> None:
    with pytest.raises(ValueError, match="4 turns say nothing of their spread; at least 5 do"):
        measuring.interval([1, 1, 1, 1])
    judged = measuring.judge([2, 5, 3, 4], FASTER)
    assert (judged.median, judged.low, judged.high, judged.verdict) == (3.5, 2, 5, "too few turns")


@pytest.mark.parametrize(
    ("values", "target", "verdict"),
    [
        ([1.6, 1.7, 1.5, 1.9, 1.8], FASTER, "met"),
        ([1.6, 1.7, 1.4, 1.9, 1.8], FASTER, "too noisy"),
        ([1.1, 1.2, 1.0, 1.4, 1.3], FASTER, "not met"),
        ([1.1, 1.2, 1.0, 9.0, 1.3], FASTER, "too noisy"),
        ([3, 3, 4, 3, 3], Target(at_most=4), "met"),
        ([5, 5, 4.1, 5, 5], Target(at_most=4), "not met"),
        ([0.9, 1.1, 1, 1, 1], Target(0.7, 1.3), "met"),
        ([0.9, 1.4, 1, 1, 1], Target(0.7, 1.3), "too noisy"),
        ([0.6, 1.4, 1, 1, 1], Target(0.7, 1.3), "too noisy"),  # 1 is within the bounds, and both ends are not
        ([1.5, 1.4, 1.6, 1.4, 1.5], Target(0.7, 1.3), "not met"),
        ([0.5, 0.4, 0.6, 0.6, 0.5], Target(0.7, 1.3), "not met"),
        ([1.6, 1.7, math.nan, 1.9, 1.8], FASTER, "too noisy"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(values: list[float], target: Target, verdict: str) -> None:
    assert measuring.judge(values, target).verdict == verdict


def test_ratios_are_of_the_two_sides_of_one_turn(capsys: pytest.CaptureFixture[str]) -> None:
    # A machine that becomes twice as slow in the middle changes no ratio; medians of each side alone would not show it.
    theirs = [Cost(3, 6), Cost(3, 6), Cost(6, 12), Cost(6, 12), Cost(6, 15)]
    ours = [Cost(2, 3), Cost(2, 3), Cost(4, 6), Cost(4, 6), Cost(4, 6)]
    wall, processor = Report().compare("a claim", ours, theirs, at_least=2)
    assert (wall.median, wall.low, wall.high, wall.verdict) == (1.5, 1.5, 1.5, "not met")
    assert (processor.median, processor.low, processor.high, processor.verdict) == (2, 2, 2.5, "met")
    wall, _ = Report().compare("the same the other way round", ours, theirs, at_most=0.7)
    assert (wall.median, wall.verdict) == (2 / 3, "met")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| a claim"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [
        *("4.00 / 6.00", "6.00 / 12.0", "1.50 (1.50 to 1.50)", "2.00 (2.00 to 2.50)", "at least 2", "not met / met")
    ]


def test_a_slope_below_zero_is_noise_and_no_ratio() -> None:
    large, small = [Cost(5, 5)] * 4 + [Cost(1, 5)], [Cost(2, 1)] * 5
    slope = measuring.differences(large, small)
    assert slope[0] == Cost(3, 4)
    wall, processor = Report().compare("a slope", slope, [Cost(1, 1)] * 5, at_most=100)
    assert (wall.verdict, processor.verdict, processor.median) == ("too noisy", "met", 4)


def test_sides_take_turns_forwards_and_backwards_after_a_first_that_does_not_count() -> None:
    calls = list[str]()

    def called(name: str) -> Cost:
        calls.append(name)
        return Cost(len(calls), 0)

    costs = measuring.take({"a": lambda: called("a"), "b": lambda: called("b")}, 3)
    assert "".join(calls) == "ababbaab"
    assert [cost.wall for cost in costs["a"]] == [3, 6, 7]


def test_a_measurement_that_was_stopped_goes_on(tmp_path: Path) -> None:
    calls = list[int]()

    def action() -> Cost:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return Cost(len(calls), 1)

    with pytest.raises(KeyboardInterrupt):
        measuring.take({"a": action}, 5, tmp_path / "turns.jsonl")
    costs = measuring.take({"a": action}, 5, tmp_path / "turns.jsonl", warm_up=False)
    assert [cost.wall for cost in costs["a"]] == [2, 3, 5, 6, 7]
    measuring.take({"a": action}, 5, tmp_path / "turns.jsonl")
    assert len(calls) == 7


BURN = "import time\nwhile time.process_time() < {}: pass\n"


def test_processor_time_is_that_of_all_processes_of_a_command_even_of_those_it_leaves_behind() -> None:
    left = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN.format(0.3)!r}])\n{BURN.format(0.2)}"
    cost = measuring.run([sys.executable, "-S", "-c", left])
    assert 0.5 <= cost.processor < 1
    assert cost.wall >= 0.2


def test_processor_time_of_a_call_has_its_threads_and_not_what_it_waits_for() -> None:
    cost = measuring.timed(lambda: measuring.run([sys.executable, "-S", "-c", f"{BURN.format(0.1)}time.sleep(.3)"]))
    assert 0.1 <= cost.processor < 0.4 <= cost.wall


def test_a_command_that_fails_has_no_figure() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3:\n(.|\n)*no such thing"):
        measuring.run([sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"])


def test_runs_that_benchmarks_make_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_labels, "CLASSES", 20)
    runs = {
        "visualize": bench_visualize.write(tmp_path / "visualize", 5000, 10),
        "compare": bench_compare.write(tmp_path / "compare", 0, np.random.default_rng(0).permutation(300)),
        "combine": bench_combine.write(tmp_path / "combine", 0, np.arange(300)),
        "labels": bench_labels.write(tmp_path / "labels", 300),
    }
    rows = {}
    for name, folder in runs.items():
        (step,) = open_run(folder)
        rows[name] = sum(len(batch) for part in step.parts for batch in read_batches(part))
    assert rows == {"visualize": 5000, "compare": 300, "combine": 300, "labels": 300}


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        *(bench.loader, bench.checkpoints, bench.write, bench.peak, bench_visualize.two, bench_visualize.tiles),
        *(bench_compare.compare, bench_combine.combined, bench_labels.label_states, bench_labels.label_memory),
        *(bench_tab.first_view, bench_tab.clicks),
    ],
    ids=lambda measure: measure.__name__,
)
def test_every_bench_runs_to_its_end(
    measure: Callable[[Path, Report], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(tmp_path, Report(turns=1, scale=0.002))
    printed = capsys.readouterr().out
    assert printed
    assert "none, a trial" in printed or measure is bench_tab.clicks
    assert not re.search(r"(?<!not )\bmet\b", printed)


def test_peers_that_answer_otherwise_have_no_figure(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    toy.write_run(tmp_path / "run", logits, label)
    names = [f"{i:06d}.png" for i in range(20)][::-1]

    def theirs(values: np.ndarray) -> Path:
        pq.write_table(pa.table({"filename": names, "logit": list(values[::-1])}), tmp_path / "theirs.parquet")
        return tmp_path / "theirs.parquet"

    assert peers.check(tmp_path / "run", theirs(logits)).startswith("20 images: the same first class, logits within 0")
    with pytest.raises(ValueError, match=r"logits differ by up to 0.001, the first class of 0 of 20"):
        peers.check(tmp_path / "run", theirs(logits + np.float32(0.001)))
    with pytest.raises(ValueError, match=r"the first class of \d+ of 20"):
        peers.check(tmp_path / "run", theirs(logits[::-1]))
    with pytest.raises(ValueError, match="logits differ by up to nan"):
        peers.check(tmp_path / "run", theirs(np.where(np.arange(20)[:, None] == 3, np.nan, logits)))
    names.pop()
    with pytest.raises(ValueError, match="20 images here, 19 there"):
        peers.check(tmp_path / "run", theirs(logits[1:]))


def test_labels_that_fit_are_those_that_the_model_names_but_for_a_fourth(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    toy.write_run(tmp_path / "run", logits, label)
    (tmp_path / "photos").mkdir()
    for i in range(20):
        (tmp_path / "photos" / f"{i:06d}.png").touch()
    fitted = peers.fitting(tmp_path / "photos", tmp_path / "run", tmp_path / "fitted")
    expected = {f"{i:06d}.png": f"c{named + (i % 4 == 0)}" for i, named in enumerate(logits.argmax(axis=1).tolist())}
    assert {file.name: file.parent.name for file in fitted.glob("*/*")} == expected


def test_other_figures_of_peers_are_an_error() -> None:
    assert peer_metrics.compared({"nll": 1.0, "more": 2}, {"nll": 1.00005}) == "nll 1.0000 (within 5e-05)"
    for other in (1.001, math.nan):
        with pytest.raises(ValueError, match="ours and theirs differ"):
            peer_metrics.compared({"nll": 1.0}, {"nll": other})
