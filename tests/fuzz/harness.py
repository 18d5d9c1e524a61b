"""Runs one fuzzed command in this process, with limits, and judges what came of it. It knows no formats."""

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import stat
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

SECONDS, WAITING_SECONDS, MEGABYTES = 5.0, 20.0, 400
"""The most that a command on a few small files may compute, and take in all, and that memory may grow meanwhile."""

Promise = Literal["same", "told", "any"]
"""What a mutation leaves of the meaning.

same: all of it, so the figures must be the known ones.
told: not all, or it is unclear; then figures other than the known ones need a refusal, or a word that they lack.
any: a value has become another that is as good, which nobody can see.
"""

Truth = Mapping[str, tuple[Any, Any]]
"""Class of the label and predicted class by what names a row: its picture, or its place where it has none.

Where an image may have several labels, they are sets.
"""


@dataclass
class Case:
    """One command on input of which something was changed."""

    folder: Path
    door: str
    command: list[str]
    mutation: str = "none"
    promise: Promise = "same"
    truth: Truth = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    """Rows whose label or scores were changed."""
    out: Path | None = None
    """The only folder that may change."""
    names: set[str] = field(default_factory=set)
    """A refusal names one of these."""
    check: Callable[["Outcome"], str | None] = lambda _: None
    """Says what else is wrong with an outcome."""


@dataclass
class Outcome:
    """What a command did."""

    code: int | None = None
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    fault: str | None = None


class _TooLong(BaseException):
    """The time is up; no code that is tested catches it."""


def run(words: list[str]) -> Outcome:
    """Run a command in this process."""
    from predboard.cli.main import run

    out, err, outcome = io.StringIO(), io.StringIO(), Outcome()
    with _limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                outcome.code = run(words)
            shown = [c for c in caught if not issubclass(c.category, ResourceWarning | DeprecationWarning)]
            if shown:
                place = f"{Path(shown[0].filename).name}:{shown[0].lineno}"
                outcome.fault = f"a warning of Python: {str(shown[0].message)[:100]} at {place}"
        except _TooLong as error:
            outcome.fault = f"takes too long, in {_place(error)}"
        except BaseException as error:  # SystemExit, and panics of libraries, are faults too
            outcome.fault = f"{type(error).__name__}: {str(error)[:150]} in {_place(error)}"
    outcome.out, outcome.err = out.getvalue().splitlines(), err.getvalue().splitlines()
    if outcome.fault is None and "Traceback (most recent" in err.getvalue():
        outcome.fault = f"a traceback of a thread: {outcome.err[-1][:150]}"
    return outcome


def _place(error: BaseException) -> str:
    """Return the last lines of the package on the way to an exception."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "predboard" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[:-4:-1])


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS, 1.0)  # again and again: the first may end in a destructor
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def reset_peak() -> None:
    """Begin to measure the peak of memory anew, which costs a tenth of a second."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most MB that this process has held since `reset_peak`."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) // 1024


def snapshot(folder: Path, without: Path | None = None) -> dict[str, str]:
    """Return what a folder holds, by path: digests of files, targets of links, kinds of others."""
    held = {}
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in folders + files):
            if without is not None and path.is_relative_to(without):
                continue
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                held[str(path)] = hashlib.blake2b(path.read_bytes() if status.st_size < 2**22 else b"").hexdigest()
            else:
                held[str(path)] = str(path.readlink() if path.is_symlink() else stat.S_IFMT(status.st_mode))
    return held


_COUNTS = re.compile(r"step (\d+): ([\d,]+) ok, ([\d,]+) failed, ([\d,]+) unlabelled(?:, accuracy ([\d.]+))?")


def judge(case: Case, outcome: Outcome, usual: Callable[[], set[str]]) -> str | None:
    """Return what is wrong with an outcome, None if nothing is.

    Args:
        case: with what it promises.
        outcome: of its command.
        usual: returns the words of the same command on input that means the same, by `words_of`.
    """
    if outcome.fault is not None:
        return outcome.fault
    if outcome.code not in (0, 1, 2, 3):
        return f"exit code {outcome.code}"
    if outcome.code == 2:
        return _judge_refusal(case, outcome)
    if fault := case.check(outcome):
        return fault
    if case.out is None or case.promise == "any":
        return None
    return _judge_rows(case, outcome, usual)


def _judge_refusal(case: Case, outcome: Outcome) -> str | None:
    if case.promise == "same":
        return f"refused what means the same: {outcome.err[-1:]}"
    line = outcome.err[-1] if outcome.err else ""
    if not line.startswith("predboard: "):
        return f"exit code 2, and no line that says why: {line!r}"
    if any(word in line for word in ("Error(", "<class", "object at 0x")):
        return f"a line for programmers: {line[:200]}"
    if len(line) > 1_100:
        return f"a line of {len(line)} characters: {line[:100]}"
    if case.names and not any(name in line for name in case.names):
        return f"a refusal that does not name the file: {line[:250]}"
    return None


def _judge_rows(case: Case, outcome: Outcome, usual: Callable[[], set[str]]) -> str | None:
    """Compare the rows that were written with what is known of them."""
    assert case.out is not None
    counts = next((match for line in outcome.out if (match := _COUNTS.match(line))), None)
    if counts is None:
        return f"exit code {outcome.code} without a line of counts"
    ok, failed, unlabelled = (int(counts[n].replace(",", "")) for n in (2, 3, 4))
    rows, false = _read(case)
    if rows != ok + failed:
        return f"{ok} ok and {failed} failed are printed, {rows} rows are written"
    whole = not false and rows == len(case.truth) and not failed and not unlabelled
    if case.promise == "same" and not whole:
        return f"{outcome.out[0]!r} where {len(case.truth)} rows are right{false}"
    if not false and rows == len(case.truth):
        return None
    if failed or unlabelled or words_of(case, outcome) - usual():
        return None
    return f"without a word {rows} rows of {len(case.truth)}; {false}; {outcome.out[0]!r}"


def _read(case: Case) -> tuple[int, str]:
    """Return the rows that a command wrote, and which of them are false."""
    rows, false = 0, []
    for file in sorted(case.out.glob("step=*/*.parquet")) if case.out else []:
        with pq.ParquetFile(file) as parquet:
            several = "labels" in parquet.schema_arrow.names
            columns = ["labels", "predicted_labels"] if several else ["label", "predicted"]
            table = parquet.read(["id", "image", *columns])
            classes = json.loads(parquet.metadata.metadata[b"predboard.run"])["classes"]
        number = {i: "abc".find(name) if name in ("a", "b", "c") else _number(name) for i, name in enumerate(classes)}
        for row in table.to_pylist():
            rows += 1
            name = str(row["id"]) if row["image"] is None else _short(row["image"])
            if name in case.changed or str(row["id"]) in case.changed:
                continue
            known = case.truth.get(name)
            here = tuple(
                frozenset(map(number.get, value)) if isinstance(value, list) else number.get(value)
                for value in map(row.get, columns)
            )
            if known is None:
                false.append(f"{name[:60]} is no row")
            elif any(value is not None and value != right for value, right in zip(here, known, strict=True)):
                false.append(f"{name[:60]} is {here}, not {known}")
    return rows, "; ".join(false[:3])


def _number(name: str) -> int:
    return int(name) if name.isdecimal() and len(name) < 4 else -9


def _short(ref: str) -> str:
    """Return the class folder and the name of a picture, however it is reached."""
    return "/".join(re.split(r"[/#\\]", ref)[-2:]).removesuffix(".png")


def words_of(case: Case, outcome: Outcome) -> set[str]:
    """Return what was printed, without what differs from run to run."""
    lines = (line.replace(str(case.folder), "") for line in [*outcome.err, *outcome.out])
    return {re.sub(r"[\d.,:/]+", "0", line) for line in lines if not _COUNTS.match(line)}


def describe(case: Case, seed: int, fault: str | None, seconds: float) -> dict[str, Any]:
    """Return a line of the report."""
    return {"seed": seed, "door": case.door, "mutation": case.mutation, "fault": fault, "seconds": round(seconds, 3)}
