"""A run killed by SIGKILL and started again has the same rows as one that was never killed.

The killed runs are processes of their own, forked from one that has imported PyTorch already.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from predboard import InferConfig, infer, open_predictions
from predboard.images.manifest import Manifest
from predboard.inference import resume
from predboard.predictions.schema import Part, Run
from predboard.storage import part_plan
from predboard.storage.parts import PartFile, open_part, part_index, verify_part
from predboard.storage.runs import part_path
from tests import toy

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")
if not hasattr(os, "fork"):
    pytest.skip("killed runs are forked processes", allow_module_level=True)

_NET = """
import os
import signal
import torch

class Net(torch.nn.Module):
    \"\"\"Kills its process at the forward pass that the environment names.\"\"\"

    seen = 0

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, x):
        Net.seen += 1
        if Net.seen == int(os.environ.get("KILL_AT_FORWARD", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.head(x.mean((2, 3)))
"""

# Reads {"config": …, "kill": [where, count]} from each line, runs `infer` in a child that is killed there, and answers
# with the child's signal (0 if it came to its end) and the seconds it took.
_FORKS = """
import json, os, signal, sys, time
from pathlib import Path
import pandas
import torch
from predboard import InferConfig, infer
from predboard.inference import forward
from predboard.inference import preflight
from predboard.storage.parts import PartWriter
from predboard.inference import worker as work  # before the fork, not in each child anew


def killed_at(count, function, before):
    seen = 0

    def counted(*args, **kwargs):
        nonlocal seen
        seen += 1
        if before and seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if not before and seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return counted


def child(config, where, count):
    os.environ["KILL_AT_FORWARD"] = str(count if where == "forward" else 0)
    if where == "before rename":
        Path.replace = killed_at(count, Path.replace, True)
    elif where == "after rename":
        Path.replace = killed_at(count, Path.replace, False)
    elif where == "before sync":
        os.fsync = killed_at(count, os.fsync, True)
    elif where == "row group":
        PartWriter.write = killed_at(count, PartWriter.write, False)
    elif where == "delete":
        Path.unlink = killed_at(count, Path.unlink, False)
    infer(config)


for line in sys.stdin:
    order = json.loads(line)
    where, count = order["kill"]
    plain = order["config"]
    plain["out"] = Path(plain["out"])
    plain["checkpoint"] = tuple(map(Path, plain["checkpoint"]))
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            child(InferConfig(**plain), where, count)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
    if where == "after seconds":
        time.sleep(count)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    took = time.monotonic() - began
    answer = [os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), took]
    print(json.dumps(answer), flush=True)
"""


class Forks:
    """Runs of `infer` in processes that are killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORKS],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, options: dict[str, Any], where: str, count: float) -> tuple[int, float]:
        """-> signal that ended it (0 if it came to its end), seconds it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"config": options, "kill": [where, count]}, default=str) + "\n")
        self._process.stdin.flush()
        ended, took = json.loads(self._process.stdout.readline())
        return ended, took

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


ROWS, STEPS, SHARD = 45, (1, 2), 8


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run with two steps of six parts, in batches of three; one picture is broken."""
    folder = tmp_path_factory.mktemp("toy")
    data = toy.pictures(folder / "data", each=ROWS // 3)
    (data / "b" / "007.png").write_bytes(b"broken")
    (folder / "net.py").write_text(_NET)
    files = []
    for step in STEPS:
        torch.manual_seed(step)
        files.append(folder / f"toy_epoch{step}.pt")
        torch.save({"head.weight": torch.randn(3, 3), "head.bias": torch.randn(3)}, files[-1])
    return {
        "data": str(data),
        "model": f"{folder / 'net.py'}:Net",
        "checkpoint": files,
        "batch_size": 3,
        "shard_size": SHARD,
        "out": folder / "never killed",
        "preflight": 0,  # whose passes would have to be counted too
    }


def _table(out: Path) -> pd.DataFrame:
    opened = [open_predictions(out, step) for step in STEPS]
    table: pd.DataFrame = pd.concat([o.to_pandas().sort_values("id") for o in opened], keys=STEPS)
    return table


@pytest.fixture(scope="module")
def expected(options: dict[str, Any]) -> pd.DataFrame:
    outcome = infer(_config(options))
    assert (outcome.complete, outcome.failed) == (True, 1)
    return _table(options["out"])


def _config(options: dict[str, Any]) -> InferConfig:
    return InferConfig(**{**options, "checkpoint": tuple(options["checkpoint"])})


def _parts(out: Path) -> dict[Path, tuple[int, int]]:
    """Published parts, each of them whole: time and rows."""
    found = {}
    for path in out.glob("step=*/*.parquet"):
        file = open_part(path)
        verify_part(file)
        found[path] = (path.stat().st_mtime_ns, file.rows)
    return found


def _assert_goes_on(options: dict[str, Any], expected: pd.DataFrame) -> None:
    """Start the run again, in this process: it keeps what was published and ends with the same table."""
    out = options["out"]
    before = _parts(out)
    outcome = infer(_config(options))
    assert outcome.complete
    assert outcome.written == len(STEPS) * ROWS - sum(rows for _, rows in before.values())
    assert before.items() <= _parts(out).items()
    assert sorted(p.name for p in out.rglob(".*") if p.name != ".lock") == []
    found = _table(out)
    assert found["id"].tolist() == [*range(ROWS)] * len(STEPS)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
# Each step has 17 batches in 6 parts; each model is tried by one forward pass before.
@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("forward", 1),
        ("forward", 3),
        ("forward", 10),
        ("forward", 11),
        ("forward", 26),
        ("forward", 36),
        ("before rename", 1),
        ("after rename", 1),
        ("before rename", 2),
        ("after rename", 5),
        ("before rename", 12),
        ("after rename", 12),
        ("before sync", 1),
        ("before sync", 2),
        ("before sync", 15),
        ("row group", 1),
        ("row group", 8),
    ],
)
def test_a_run_killed_at_a_given_point_can_be_resumed(
    forks: Forks, options: dict[str, Any], expected: pd.DataFrame, tmp_path: Path, where: str, count: int
) -> None:
    options = {**options, "out": tmp_path / "out"}
    assert forks.run(options, where, count)[0] == signal.SIGKILL
    if where.endswith("rename"):
        assert len(_parts(options["out"])) == count - (where == "before rename")
    _assert_goes_on(options, expected)


@pytest.mark.slow
def test_a_run_killed_at_a_random_time_can_be_resumed(
    forks: Forks, options: dict[str, Any], expected: pd.DataFrame, tmp_path: Path
) -> None:
    whole = {**options, "out": tmp_path / "whole"}
    ended, took = forks.run(whole, "nowhere", 0)
    assert ended == 0
    pd.testing.assert_frame_equal(_table(whole["out"]), expected, rtol=1e-6, atol=1e-7)
    moments = random.Random(time.time_ns())
    for i in range(6):
        options = {**options, "out": tmp_path / f"out{i}"}
        forks.run(options, "after seconds", took * moments.uniform(0.2, 1))
        _assert_goes_on(options, expected)


@pytest.mark.slow
def test_a_run_killed_again_and_again_completes(
    forks: Forks, options: dict[str, Any], expected: pd.DataFrame, tmp_path: Path
) -> None:
    options = {**options, "out": tmp_path / "out"}
    published = [0]
    while True:
        ended, _ = forks.run(options, "after rename", 3)
        published.append(len(_parts(options["out"])))
        if ended == 0:
            break
        assert ended == signal.SIGKILL
    assert published == [0, 3, 6, 9, 12, 12]
    pd.testing.assert_frame_equal(_table(options["out"]), expected, rtol=1e-6, atol=1e-7)
    assert list(options["out"].rglob(".*.tmp")) == []


@pytest.mark.slow
def test_leftovers_of_a_killed_run_are_removed_by_the_next(
    forks: Forks, options: dict[str, Any], expected: pd.DataFrame, tmp_path: Path
) -> None:
    options = {**options, "out": tmp_path / "out"}
    forks.run(options, "before rename", 4)
    assert list(options["out"].rglob(".part-*.tmp"))  # so the test would notice if it stayed
    assert len(_parts(options["out"])) == 3
    _assert_goes_on(options, expected)


@pytest.mark.slow
def test_a_killed_update_can_be_resumed(
    forks: Forks, options: dict[str, Any], expected: pd.DataFrame, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(options["data"], data)
    options = {**options, "data": str(data), "out": tmp_path / "out"}
    infer(_config(options))
    for name in ("a/003", "c/002"):  # other names at the same place in the order, in the parts of rows 0 and 32
        (data / f"{name}.png").rename(data / f"{name}b.png")
    fresh = {**options, "out": tmp_path / "fresh"}
    infer(_config(fresh))
    changed = {**options, "update": True}
    assert forks.run(changed, "delete", 3)[0] == signal.SIGKILL
    assert len(_parts(options["out"])) == 12 - 3
    assert forks.run(changed, "forward", 7)[0] == signal.SIGKILL
    assert infer(_config(changed)).complete
    found = _table(options["out"])
    pd.testing.assert_frame_equal(found, _table(fresh["out"]), rtol=1e-6, atol=1e-7)
    assert (found["image"] != expected["image"]).sum() == 2 * len(STEPS)


def test_the_work_to_resume_is_linear_in_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(("a", "b"), "m", shard_size=1)

    def calls(rows: int) -> int:
        plan = part_plan.plan_parts(rows, 1)
        image = pa.array(list(map(str, range(rows))))
        label = np.zeros(rows, np.int32)
        manifest = Manifest("", image, label, np.arange(rows), run.classes)
        monkeypatch.setattr(resume, "list_part_paths", lambda out, step: [part_path(out, step, i) for i in range(rows)])

        def opened(path: Path) -> PartFile:
            i = part_index(path)
            return PartFile(path, run, Part(i, i + 1, manifest.digest(i, i + 1), rows, ""), 1, rows)

        monkeypatch.setattr(resume, "open_part", opened)
        monkeypatch.setattr(resume, "verify_part", lambda _: None)
        with toy.CountCalls() as counted:
            todo = resume.find_missing(tmp_path, run, plan, manifest, update=False, overwrite=False, log=print)
        assert todo == ([], [])
        return counted.calls

    assert calls(4_000) < 10 * calls(500)  # 8 if linear, 64 if quadratic
