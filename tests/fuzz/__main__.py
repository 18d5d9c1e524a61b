"""Runs fuzzed commands from one seed to another: `python -m tests.fuzz FIRST LAST [DOOR]`, a line of JSON for each."""

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.fuzz import label_sets, outputs, pictures, tables, tensors
from tests.fuzz.harness import MEGABYTES, Case, describe, judge, peak, reset_peak, run, snapshot, words_of

DOORS = {**tables.DOORS, **pictures.DOORS, **tensors.DOORS, **outputs.DOORS, **label_sets.DOORS}


def make(seed: int, folder: Path, door: str | None = None) -> Case:
    """Return the case of a seed, in a new folder."""
    name = door or list(DOORS)[seed % len(DOORS)]
    case = DOORS[name](Random(seed), folder)
    case.door = name
    return case


def usual_words(door: str, place: Path, known: dict[str, set[str]]) -> set[str]:
    """Return the words of the commands of a door on input that nothing was done to, of several seeds together."""
    if door not in known:
        known[door] = set()
        for seed in range(40):
            folder = place / f"usual-{seed}"
            case = DOORS[door](Random(seed), folder)
            if case.promise == "same" and len(known[door]) < 30:
                known[door] |= words_of(case, run(case.command))
            shutil.rmtree(folder.parent / folder.name, ignore_errors=True)
    return known[door]


def attempt(seed: int, place: Path, known: dict[str, set[str]], door: str | None = None) -> tuple[Case, str | None]:
    """Run the case of a seed and judge it."""
    case = make(seed, place / f"case-{seed}", door)
    before, memory = snapshot(case.folder, without=case.out), peak()
    outcome = run(case.command)
    more = peak() - memory
    if os.environ.get("SHOW"):
        sys.stderr.write(f"{case.command}\n{outcome}\n")
    fault = judge(case, outcome, lambda: usual_words(case.door, place, known))
    if more > MEGABYTES:
        fault = fault or f"took {more} MB"
        reset_peak()
    after = snapshot(case.folder, without=case.out)
    lost = [name for name, held in before.items() if after.get(name) != held]
    return case, fault or (f"changed {lost[:3]}" if lost else None)


def _write(line: object) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def main(first: int, last: int, door: str | None = None) -> None:
    """Print the outcome of each seed; before it the seed, in case that the interpreter dies."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    known: dict[str, set[str]] = {}
    run(DOORS["infer .pt"](Random(1), place / "warm").command)  # imports what takes seconds
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2**31,) * 2)  # the machine is spared what no case should take
    for seed in range(first, last):
        _write(seed)
        began = time.monotonic()
        case, fault = attempt(seed, place, known, door)
        _write(describe(case, seed, fault, time.monotonic() - began))
        if not os.environ.get("SHOW"):
            shutil.rmtree(place / f"case-{seed}", ignore_errors=True)
    if not os.environ.get("SHOW"):
        shutil.rmtree(place, ignore_errors=True)
    os._exit(0)  # threads may still wait for files that hang


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])
