"""No input is a traceback, hangs, takes all memory, changes what was there, or gives a false figure without a word."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.fuzz import inputs, label_sets
from tests.fuzz.harness import Case, Outcome, judge, run, words_of

SEEDS = 1_000
SHARES = 2
"""Tests that share the seeds, so that each processor has one."""

MORE = int(os.environ.get("FUZZ_SEEDS", SEEDS))
"""Seeds to try; ten times as many find what a thousand do not."""

pytest.importorskip("torch", reason="stage one runs PyTorch models")


def outcomes(first: int, last: int) -> list[dict[str, Any]]:
    """Run seeds in a process of their own, and in another where one ends the interpreter."""
    found: list[dict[str, Any]] = []
    while first < last:
        words = [sys.executable, "-m", "tests.fuzz", str(first), str(last)]
        done = subprocess.run(words, cwd=toy.ROOT, capture_output=True, text=True, check=False, timeout=900)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found += [line for line in lines if isinstance(line, dict)]
        if done.returncode == 0:
            break
        seed = next((line for line in reversed(lines) if isinstance(line, int)), first)
        why = done.stderr.strip().splitlines()[-1:]
        found.append({"seed": seed, "fault": f"the interpreter ended with {done.returncode}: {why}"})
        first = seed + 1
    return found


def imported(folder: Path, **changes: Any) -> tuple[Case, Outcome]:
    """Import predictions to which nothing was done. -> the case, with these changes, and what came of it."""
    case = inputs.import_(inputs.base(folder), "p.npz")
    np.savez(case.folder / "p.npz", logits=inputs.LOGITS, labels=inputs.LABELS)
    return dataclasses.replace(case, **{"truth": inputs.BY_PLACE, **changes}), run(case.command)


def test_the_oracle_knows_right_from_false(tmp_path: Path) -> None:
    case, outcome = imported(tmp_path / "a")
    assert judge(case, outcome, set) is None
    false = dataclasses.replace(case, truth={**case.truth, "3": (1, 1)})
    assert "3 is (0, 0), not (1, 1)" in str(judge(false, outcome, set))
    usual = words_of(case, outcome)
    less = {name: row for name, row in case.truth.items() if name != "3"}
    lost = dataclasses.replace(case, truth={**case.truth, "12": (0, 0)}, promise="told")
    assert "without a word 12 rows of 13" in str(judge(lost, outcome, lambda: usual))
    assert "3 is no row" in str(judge(dataclasses.replace(lost, truth=less), outcome, lambda: usual))
    told = dataclasses.replace(outcome, err=[*outcome.err, "warning: one row is left out"])
    assert judge(lost, told, lambda: usual) is None


def test_the_oracle_knows_right_sets_from_false(tmp_path: Path) -> None:
    case = label_sets.label_table(Random(6), tmp_path / "a", "npz")
    outcome = run(case.command)
    assert (case.promise, judge(case, outcome, set)) == ("same", None)
    true, predicted = case.truth["b/3"]
    assert true == frozenset()
    false = dataclasses.replace(case, truth={**case.truth, "b/3": (frozenset({1}), predicted)})
    assert "b/3 is (frozenset(), " in str(judge(false, outcome, set))


def test_the_oracle_knows_a_refusal_from_a_fault(tmp_path: Path) -> None:
    case, _ = imported(tmp_path / "a", names={"p.npz"}, promise="told")
    refused = Outcome(2, [], ["predboard: cannot read a/p.npz: it is cut off"])
    assert judge(case, refused, set) is None
    assert "refused what means the same" in str(judge(dataclasses.replace(case, promise="same"), refused, set))
    assert "does not name" in str(judge(case, Outcome(2, [], ["predboard: cannot read it"]), set))
    assert "no line" in str(judge(case, Outcome(2, [], []), set))
    assert "exit code 143" in str(judge(case, Outcome(143), set))
    assert run(["gate", str(case.folder), "--rules"]).fault is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predboard.cli.main.parse", lambda *_: 1 / 0)
        assert "ZeroDivisionError: division by zero" in str(run(["gate"]).fault)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory and time are limited as Linux does it")
@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_is_done_to_an_input_it_is_right_or_refused(share: int) -> None:
    size = -(-MORE // SHARES)
    found = outcomes(share * size, (share + 1) * size)
    assert len({line["seed"] for line in found}) == size
    assert [line for line in found if line["fault"]] == []
