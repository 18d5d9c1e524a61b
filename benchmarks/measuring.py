"""Measures claims of speed so that noise cannot fool: wall clock and processor time, in turns, with a verdict or none.

It knows nothing of what is measured. The sides of a claim take turns; each turn gives one ratio, and a verdict needs
the whole confidence interval of the median ratio on one side of the target.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

MIN_TURNS = 5
CONFIDENCE = 0.9

Verdict = Literal["met", "not met", "too noisy", "too few turns"]


@dataclass(frozen=True)
class Cost:
    """Seconds that something took: by the clock, and of the processors, user and system, all its processes together."""

    wall: float
    processor: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.processor - other.processor)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.wall + other.wall, self.processor + other.processor)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.wall * times, self.processor * times)

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

    def side(self, value: float) -> int:
        """-1 below the bounds, 0 within them, where everything is without a bound, 1 above them."""
        if self.at_least is not None and value < self.at_least:
            return -1
        return int(self.at_most is not None and value > self.at_most)


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
    """Median and confidence interval of the values of all turns, and what they say of a target.

    Of fewer than five values there is no interval, but the lowest and the highest.
    """

    median: float
    low: float
    high: float
    verdict: Verdict

    def __str__(self) -> str:
        return (
            "none" if math.isnan(self.median) else f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"
        )


def judge(values: Sequence[float], target: Target) -> Judged:
    """*met* or *not met* only where the whole interval lies within the bounds, or on one side of them."""
    if any(map(math.isnan, values)):
        return Judged(math.nan, math.nan, math.nan, "too noisy")
    if len(values) < MIN_TURNS:
        return Judged(statistics.median(values), min(values), max(values), "too few turns")
    low, high = interval(values)
    sides = {target.side(low), target.side(high)}
    verdict: Verdict = "too noisy" if len(sides) > 1 else "met" if 0 in sides else "not met"
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
    """Prints rows of a Markdown table: what both sides took, their ratio, its interval, the target, the verdict.

    With a `scale` below 1 everything is measured on less: a trial whether it runs, in which targets mean nothing.
    """

    def __init__(self, turns: int = MIN_TURNS, scale: float = 1) -> None:
        self.turns, self.scale = turns, scale
        self._begun = False

    def size(self, count: int, at_least: int = 1) -> int:
        """How many of something to measure on where a claim is about so many."""
        return max(min(at_least, count), round(count * self.scale))

    def _judged(self, target: Target, *verdicts: Verdict, unit: str = "") -> tuple[str, str]:
        """The last two cells of a row."""
        if not str(target):
            return "", ""
        return f"{target}{unit}", " / ".join(verdicts) if self.scale == 1 else "none, a trial"

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
        words = self._judged(target, wall.verdict, processor.verdict)
        self._row(claim, _medians(ours), _medians(theirs), str(wall), str(processor), *words)
        return wall, processor

    def ratios(
        self, claim: str, values: Sequence[float], *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Print ratios by the wall clock that something else has made, such as a run over its own forecast."""
        judged = judge(values, target := Target(at_least, at_most))
        self._row(claim, "", "", str(judged), "", *self._judged(target, judged.verdict))

    def seconds(self, claim: str, ours: Sequence[Cost], at_most: float | None = None) -> tuple[Judged, Judged]:
        """Print and return seconds, compared with a number, which depends on the machine, or with none."""
        target = Target(at_most=at_most)
        wall, processor = (judge(seconds, target) for seconds in _columns(ours))
        words = self._judged(target, wall.verdict, processor.verdict, unit=" s")
        self._row(claim, _medians(ours), "", f"{wall} s", f"{processor} s", *words)
        return wall, processor

    def figure(
        self, claim: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Print something that one look measures, such as memory."""
        target = Target(at_least, at_most)
        words = self._judged(target, "not met" if target.side(value) else "met")
        self._row(claim, f"{_short(value)} {unit}", "", "", "", *words)


def parse_arguments(parser: argparse.ArgumentParser, names: Collection[str]) -> argparse.Namespace:
    """Parse the flags of a `Report`, and `names` of what to measure, which are none or some of these."""

    def turns(text: str) -> int:
        if (count := int(text)) < 1:
            raise argparse.ArgumentTypeError(f"{count} turns measure nothing; give at least 1")
        return count

    def scale(text: str) -> float:
        if not 0 < (share := float(text)) <= 1:
            raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
        return share

    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all; {', '.join(names)}")
    parser.add_argument(
        "--turns",
        type=turns,
        default=MIN_TURNS,
        help="of all sides of a claim; by default %(default)s; fewer have no verdict",
    )
    parser.add_argument(
        "--scale", type=scale, default=1, metavar="SHARE", help="of all sizes, for a trial whether it runs: no verdicts"
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(names)}")
    return given


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
