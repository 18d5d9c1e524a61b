"""Measures claims of speed so that noise cannot fool: wall clock and processor time, in turns, with a verdict or none.

It knows nothing of what is measured. The sides of a claim take turns; each turn gives one ratio, and a verdict needs
the whole confidence interval of the median ratio on one side of the target.
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

MIN_TURNS = 5
CONFIDENCE = 0.9

Verdict = Literal["met", "not met", "too noisy"]


@dataclass(frozen=True)
class Cost:
    """Seconds that something took: by the clock, and of the processors, user and system, all its processes together."""

    wall: float
    processor: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.processor - other.processor)

    def __truediv__(self, count: float) -> "Cost":
        return Cost(self.wall / count, self.processor / count)

    @classmethod
    def total(cls, costs: Sequence["Cost"]) -> Self:
        return cls(sum(cost.wall for cost in costs), sum(cost.processor for cost in costs))


def processor_seconds() -> float:
    """Of this process and of those of its children that have ended and were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(action: Callable[[], Any]) -> Cost:
    """Of a call in this process, which waits for the processes that it starts."""
    wall, processor = time.perf_counter(), processor_seconds()
    action()
    return Cost(time.perf_counter() - wall, processor_seconds() - processor)


def run(words: Sequence[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Cost:
    """Of a command and of all processes that it leads to, also those that it does not wait for.

    Raises RuntimeError with its output if it fails.
    """
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")), *map(str, words)]
    done = subprocess.run(launcher, env=environment, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    wall, processor = done.stdout.splitlines()[-1].split()
    return Cost(float(wall), float(processor))


def take(
    actions: Mapping[str, Callable[[], Cost]], turns: int = MIN_TURNS, kept: Path | None = None, warm_up: bool = True
) -> dict[str, list[Cost]]:
    """The costs of each action in each turn, after one call of each that does not count: files cached, code compiled.

    Every second turn goes backwards, so that a machine that slows down does not favour a side. In the file `kept` each
    whole turn is a line: a measurement that was stopped goes on there.
    """
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    if warm_up and len(lines) < turns:
        for action in actions.values():
            action()
    for turn in range(len(lines), turns):
        costs = {name: actions[name]() for name in list(actions)[:: -1 if turn % 2 else 1]}
        lines.append({name: (cost.wall, cost.processor) for name, cost in costs.items()})
        if kept:
            with kept.open("a") as file:
                file.write(f"{json.dumps(lines[-1])}\n")
    return {name: [Cost(*line[name]) for line in lines[:turns]] for name in actions}


def differences(large: Sequence[Cost], small: Sequence[Cost]) -> list[Cost]:
    """What more work costs in each turn, the start of both sizes apart."""
    return [more - less for more, less in zip(large, small, strict=True)]


@dataclass(frozen=True)
class Target:
    """A bound: `at_least` so many times faster, or `at_most` so many times as much, or both for a ratio near 1."""

    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return ", ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)

    def reached(self, value: float) -> bool:
        """Whether a value lies on the right side; without a bound every one does."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def ratio(ours: float, theirs: float, target: Target) -> float:
    """Ours over theirs, or, with a target of how many times faster, theirs over ours; NaN unless both are above 0.

    A difference of two sizes is not above 0 where noise is larger than the work.
    """
    if ours <= 0 or theirs <= 0:
        return math.nan
    return ours / theirs if target.at_least is None else theirs / ours


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Confidence interval of the median, of at least 90 %, from the order of the values, whatever their distribution.

    The k-th smallest and the k-th largest of n values miss the median with probability 2 P(Binomial(n, ½) < k): of five
    to seven values these are the extremes, of eight to ten the second ones. (Conover, Practical Nonparametric
    Statistics, 3rd ed., section 3.2.) Raises ValueError for fewer than five values.
    """
    n = len(values)
    if n < MIN_TURNS:
        raise ValueError(f"{n} turns say nothing of their spread; at least {MIN_TURNS} do")
    k, missed = 1, 2 / 2**n
    while missed + 2 * math.comb(n, k) / 2**n <= 1 - CONFIDENCE:
        missed += 2 * math.comb(n, k) / 2**n
        k += 1
    ordered = sorted(values)
    return ordered[k - 1], ordered[-k]


@dataclass(frozen=True)
class Judged:
    """Median and confidence interval of the values of all turns, and what they say of a target."""

    median: float
    low: float
    high: float
    verdict: Verdict

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def judge(values: Sequence[float], target: Target) -> Judged:
    """Raises ValueError for fewer than five values."""
    if any(map(math.isnan, values)):
        return Judged(math.nan, math.nan, math.nan, "too noisy")
    low, high = interval(values)
    reached = {target.reached(low), target.reached(high)}
    verdict: Verdict = "too noisy" if len(reached) > 1 else "met" if True in reached else "not met"
    return Judged(statistics.median(values), low, high, verdict)


def _short(value: float) -> str:
    """Three digits: 0.19, 2.31, 45.2, 312, 8.2e-05."""
    return f"{value:.{min(2, 2 - math.floor(math.log10(value)))}f}" if 0.1 <= value < 995 else f"{value:,.3g}"


HEADER = (
    "claim",
    "ours, s wall / processor",
    "beside it, s wall / processor",
    "× wall",
    "× processor",
    "target",
    "verdict wall / processor",
)
WIDTHS = (76, 24, 29, 20, 20, 13, 24)


class Report:
    """Prints rows of a Markdown table: what both sides took, their ratio, its interval, the target, the verdict."""

    def __init__(self, turns: int = MIN_TURNS) -> None:
        self.turns = turns
        self._begun = False

    def _row(self, *cells: str) -> None:
        if not self._begun:
            self._begun = True
            self._row(*HEADER)
            print("|" + "|".join("-" * (width + 2) for width in WIDTHS) + "|")
        cells += ("",) * (len(WIDTHS) - len(cells))
        print(
            "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)) + " |", flush=True
        )

    def compare(
        self,
        claim: str,
        ours: Sequence[Cost],
        theirs: Sequence[Cost],
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> tuple[Judged, Judged]:
        """Print and return the ratio by the wall clock and by processor time, turn by turn.

        `at_most`, or no target: ours over theirs. `at_least`: theirs over ours, how many times faster ours is.
        """
        target = Target(at_least, at_most)
        wall = judge([ratio(a.wall, b.wall, target) for a, b in zip(ours, theirs, strict=True)], target)
        processor = judge([ratio(a.processor, b.processor, target) for a, b in zip(ours, theirs, strict=True)], target)
        verdict = f"{wall.verdict} / {processor.verdict}" if str(target) else ""
        self._row(claim, _medians(ours), _medians(theirs), str(wall), str(processor), str(target), verdict)
        return wall, processor

    def ratios(self, claim: str, values: Sequence[float], target: Target) -> None:
        """Print ratios by the wall clock that something else has made, such as a run over its own forecast."""
        judged = judge(values, target)
        self._row(claim, "", "", str(judged), "", str(target), judged.verdict)

    def seconds(self, claim: str, ours: Sequence[Cost], at_most: float | None = None) -> tuple[Judged, Judged]:
        """Print and return seconds, compared with a number, which depends on the machine, or with none."""
        target = Target(at_most=at_most)
        wall, processor = (judge(seconds, target) for seconds in _columns(ours))
        words = (f"{target} s", f"{wall.verdict} / {processor.verdict}") if str(target) else ()
        self._row(claim, _medians(ours), "", f"{wall} s", f"{processor} s", *words)
        return wall, processor

    def figure(
        self, claim: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Print something that one look measures, such as memory."""
        target = Target(at_least, at_most)
        verdict = ("met" if target.reached(value) else "not met") if str(target) else ""
        self._row(claim, f"{_short(value)} {unit}", "", "", "", str(target), verdict)


def _columns(costs: Sequence[Cost]) -> tuple[list[float], list[float]]:
    return [cost.wall for cost in costs], [cost.processor for cost in costs]


def _medians(costs: Sequence[Cost]) -> str:
    wall, processor = map(statistics.median, _columns(costs))
    return f"{_short(wall)} / {_short(processor)}"


def machine() -> str:
    """The processors, memory, system, Python, and the load of others, in one line."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "processor"
    )
    memory = next((int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    cores, system = os.cpu_count(), os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{time.strftime('%Y-%m-%d')}: {model}, {cores} cores, {memory:.0f} GiB, {system.sysname} {system.release}, "
        f"Python {python}; load of others {os.getloadavg()[0]:.1f}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
