"""Several devices, and several jobs beside each other, give the rows of one. Processes on the CPU stand for devices."""

import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predboard import InferConfig, infer, open_predictions
from predboard.cli import main
from predboard.cli.flags import parse
from predboard.errors import InputError
from predboard.inference import resume
from predboard.storage.inspection import inspect
from predboard.storage.runs import open_step, part_path
from predboard.storage.shards import Share, Task, plan_shards, plan_tasks

from tests import toy

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

_NET = """
import os
import signal
import sys
import time
import torch

class Net(torch.nn.Module):
    def __init__(self, meet="", kill="", raises=""):
        super().__init__()
        print("a model may print")
        torch.manual_seed(3)
        self.head = torch.nn.Linear(3, 3)
        self.meet, self.kill, self.raises, self.seen = meet, kill, raises, 0

    def forward(self, x):
        self.seen += len(x) > 1  # one picture alone is the trial before
        if self.meet and self.seen == 1:
            open(os.path.join(self.meet, str(os.getpid())), "w").close()
            while len(os.listdir(self.meet)) < 2:
                time.sleep(0.01)
        if self.kill and self.seen:
            try:  # the first that comes here dies, and nobody after it
                os.close(os.open(self.kill, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if self.raises and self.seen > 2:
            raise MemoryError(self.raises)
        return self.head(x.mean((2, 3)))
"""
ROWS, SHARD = 45, 8


@pytest.fixture
def place(tmp_path: Path) -> Path:
    data = toy.pictures(tmp_path / "data", each=ROWS // 3)
    (data / "b" / "007.png").write_bytes(b"broken")
    (tmp_path / "net.py").write_text(_NET)
    return tmp_path


def _config(place: Path, **options: Any) -> InferConfig:
    model = f"{place / 'net.py'}:Net"
    return InferConfig(
        **{
            "data": str(place / "data"),
            "model": model,
            "out": place / "out",
            "shard_size": SHARD,
            "batch_size": 3,
            **options,
        }
    )


def _frame(out: Path, step: int | None = None) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out, step).to_pandas()
    return frame


def _flags(place: Path) -> list[str]:
    model = f"{place / 'net.py'}:Net"
    return ["--data", str(place / "data"), "--model", model, "--out", str(place / "out"), "--shard-size", str(SHARD)]


def _left(out: Path) -> list[str]:
    """Hidden files besides the locks."""
    return sorted(p.name for p in out.rglob(".*") if not p.name.endswith(".lock"))


# --- the plan ---


@given(st.integers(1, 40), st.integers(1, 9))
def test_shares_hold_each_part_once(parts: int, of: int) -> None:
    for index in range(parts):
        assert sum(Share(k, of).holds(index) for k in range(1, of + 1)) == 1


def test_tasks_have_each_row_of_each_step_once() -> None:
    shards = plan_shards(20, 6)
    lacking: dict[int, dict[Any, Any]] = {
        1: {s: s.ids for s in shards},
        2: {shards[1]: shards[1].ids, shards[3]: (18,)},
        5: {shards[3]: (18,)},
        9: {},
    }
    for together in (1, 2, 3):
        found = plan_tasks(lacking, together)
        rows = sorted((step, row) for task in found for step in task.steps for row in task.ids)
        assert rows == sorted((step, row) for step, of in lacking.items() for ids in of.values() for row in ids)
        assert sum(task.rows for task in found) == len(rows)
        assert all(set(task.steps) <= set(task.loaded_steps) and len(task.loaded_steps) <= together for task in found)
    assert Task(shards[3], (2, 5), (1, 2, 5), (18,)) in plan_tasks(lacking, 3)


# --- several devices ---


def test_two_processes_work_at_once_and_give_the_rows_of_one(place: Path) -> None:
    (place / "meet").mkdir()
    options: dict[str, Any] = {"model_args": {"meet": str(place / "meet")}, "preflight": 0}
    said: list[str] = []
    outcome = infer(_config(place, device="cpu,cpu", **options), said.append)  # each waits for the other
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 1, ROWS)
    assert outcome.seconds["decode"] > 0 and outcome.seconds["wall"] > 0
    assert any(line.endswith("cpu, cpu; fp32") for line in said)
    spans = sorted((p.part.started, p.part.finished) for p in open_predictions(place / "out").step.parts)
    assert any(b[0] < a[1] for a, b in itertools.pairwise(spans)), "no two parts at the same time"
    assert len(spans) == -(-ROWS // SHARD)
    assert _left(place / "out") == []
    assert infer(_config(place, **options)).written == 0
    infer(_config(place, out=place / "alone", **options))
    pd.testing.assert_frame_equal(_frame(place / "out"), _frame(place / "alone"), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_a_worker_that_is_killed_is_named_and_the_others_do_its_parts(place: Path) -> None:
    infer(_config(place, preflight=0, out=place / "alone", model_args={"kill": ""}))
    said: list[str] = []
    outcome = infer(
        _config(place, device="cpu,cpu", preflight=0, model_args={"kill": str(place / "killed")}), said.append
    )
    (line,) = [line for line in said if "was killed" in line]
    assert line.startswith("worker ") and " (cpu) was killed by SIGKILL; unfinished parts: " in line
    assert line.endswith("; the other workers take over")
    assert (outcome.complete, outcome.written >= ROWS) == (True, True)
    pd.testing.assert_frame_equal(_frame(place / "out"), _frame(place / "alone"), rtol=1e-5, atol=1e-6)
    assert _left(place / "out") == []


@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_where_all_workers_die_the_command_says_so_and_the_next_run_completes(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = _NET.replace("os.O_CREAT | os.O_EXCL", "os.O_CREAT").replace("and self.seen:", "and self.seen > 8:")
    (place / "net.py").write_text(code.replace("if self.kill and", "if os.path.exists(self.kill) and"))
    (place / "killing").touch()
    flags = ["infer", *_flags(place), "--batch-size", "3", "--device", "cpu,cpu", "--preflight", "0"]
    flags += ["--model-args", f"kill={place / 'killing'}"]
    assert main.run(flags) == 1
    said = capfd.readouterr().err
    assert "no worker is left" in said
    assert "some of the 45 rows are still missing: run the same command again" in said
    before = {p: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")}
    assert 0 < len(before) < -(-ROWS // SHARD)
    (place / "killing").unlink()
    assert main.run([*flags, "--device", "cpu"]) == 0
    assert "44 ok, 1 failed" in capfd.readouterr().out
    assert before.items() <= {p: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")}.items()


def test_what_a_worker_meets_is_raised_here_and_no_worker_is_left(place: Path) -> None:
    with pytest.raises(RuntimeError, match=r"worker [12] \(cpu\): Traceback[\s\S]*MemoryError: enough"):
        infer(_config(place, device="cpu,cpu", preflight=0, model_args={"raises": "enough"}))
    assert _left(place / "out") == []
    assert subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "run_worker"], check=False).returncode == 1


def test_bad_input_that_a_worker_meets_is_one_line(place: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), place / "toy_epoch1.pt")
    state = {f"head.{name}": value for name, value in torch.nn.Linear(3, 3).state_dict().items()}
    torch.save(state, place / "toy_epoch1.pt")

    def say(line: str) -> None:
        if line.startswith("model "):
            torch.save({name: value + 1 for name, value in state.items()}, place / "toy_epoch1.pt")

    with pytest.raises(InputError, match=r"toy_epoch1\.pt changed while it was in use: run the same command again"):
        infer(_config(place, device="cpu,cpu", checkpoint=(place / "toy_epoch1.pt",)), say)


def test_a_script_without_a_main_guard_works_and_a_file_called_predboard_is_not_in_the_way(place: Path) -> None:
    (place / "predboard.py").write_text("raise RuntimeError('the wrong one')\n")
    (place / "script.py").write_text(
        "print('once')\n"
        "import sys; sys.path.pop(0)\n"  # the folder of the script
        "from pathlib import Path\n"
        "import predboard\n"
        "config = predboard.InferConfig('data', 'net.py:Net', out=Path('out'), device='cpu,cpu', shard_size=8)\n"
        "print(predboard.infer(config).written)\n"
    )
    done = subprocess.run(
        [sys.executable, place / "script.py"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == (f"once\na model may print\n{ROWS}\n", 0), done.stderr
    # Of the workers it is on stderr, where nothing reads answers; one may be done before the other has started.
    assert 1 <= done.stderr.count("a model may print") <= 2


def test_workers_have_the_checkpoints_datasets_and_transforms_of_the_user(place: Path) -> None:
    files, options = toy.code_of_the_user(place, steps=3)
    infer(_config(place, out=place / "alone", checkpoint=tuple(files), **options))
    infer(_config(place, checkpoint=tuple(files[:1]), **options))
    outcome = infer(_config(place, checkpoint=tuple(files), device="cpu,cpu", **options))
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 1, 2 * ROWS)
    for step in (1, 2, 3):
        pd.testing.assert_frame_equal(_frame(place / "out", step), _frame(place / "alone", step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu,", "cpu,cuda:7", "cpu,nothing"])
def test_devices_that_are_not_there_are_one_line(place: Path, device: str) -> None:
    with pytest.raises(InputError, match="--device is "):
        infer(_config(place, device=device))


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_max_failures_stops_and_what_was_published_stays(place: Path, device: str) -> None:
    for name in ("b/008", "c/003", "c/010"):  # besides b/007: rows 22, 23 of part 2, 33 of part 4, 40 of part 5
        (place / "data" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^\d rows failed, more than --max-failures 1: .* and --retry-errors retries"):
        infer(_config(place, device=device, preflight=0, max_failures=1))
    there = {index for index in range(6) if part_path(place / "out", 0, index).exists()}
    assert there >= {2} or (there >= {4, 5} and device == "cpu,cpu")  # whichever of the two was faster
    assert _left(place / "out") == []
    outcome = infer(_config(place, device=device, preflight=0, max_failures=2))  # two of the four are there already
    assert (outcome.complete, outcome.failed) == (True, 4)


def test_a_part_that_is_there_already_is_not_written_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infer(_config(place, preflight=0))
    before = {p: p.read_bytes() for p in (place / "out").glob("*/*.parquet")}
    part_path(place / "out", 0, 1).write_bytes(b"damaged")
    everything = resume.find_missing

    def nothing_is_valid(out: Path, run: Any, plan: Any, *arguments: Any, **named: Any) -> Any:
        everything(out, run, plan, *arguments, **named)
        return list(plan), []

    monkeypatch.setattr(resume, "find_missing", nothing_is_valid)  # as where a worker was taken for dead, and published
    assert infer(_config(place, preflight=0, batch_size=5)).written == ROWS
    after = {p: p.read_bytes() for p in (place / "out").glob("*/*.parquet")}
    assert {p.name for p in after if after[p] != before[p]} == {"part-00001.parquet"}
    assert inspect(place / "out").complete
    assert _left(place / "out") == []


# --- several jobs ---


def test_shares_beside_each_other_make_the_whole(place: Path) -> None:
    state = {"head.weight": torch.eye(3), "head.bias": torch.zeros(3)}  # torch's random numbers are not a thread's own
    torch.save(state, place / "net.pt")
    options: dict[str, Any] = {"checkpoint": (place / "net.pt",)}
    infer(_config(place, out=place / "alone", **options))
    outcomes: dict[int, Any] = {}

    def job(k: int) -> None:
        outcomes[k] = infer(_config(place, part=(k, 3), **options))

    jobs = [threading.Thread(target=job, args=[k]) for k in (1, 2, 3)]
    with torch.backends.cudnn.flags():  # no thread has its own: who ends last would leave those of another
        for thread in jobs:
            thread.start()
        for thread in jobs:
            thread.join()
    assert [outcomes[k].rows for k in (1, 2, 3)] == [16, 16, 13]  # parts 0 and 3, 1 and 4, 2 and 5
    assert all(outcome.complete and outcome.written == outcome.rows for outcome in outcomes.values())
    assert inspect(place / "out").complete
    pd.testing.assert_frame_equal(_frame(place / "out"), _frame(place / "alone"), rtol=1e-5, atol=1e-6)
    assert _left(place / "out") == []
    assert infer(_config(place, **options)).written == 0


def test_one_share_is_done_with_exit_code_0_and_inspect_tells_of_the_whole(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["infer", *_flags(place), "--part", "2/3"]) == 0
    assert "share 2/3 is done: it has 16 of 45 rows" in capsys.readouterr().out
    assert main.run(["inspect", str(place / "out")]) == 1
    whole = capsys.readouterr().out
    assert "step 0 lacks rows 0 to 7" in whole and "step 0 lacks rows 40 to 44" in whole
    step = open_step(place / "out", 0)
    assert step is not None and step.missing == ((0, 8), (16, 32), (40, 45))
    assert main.run(["infer", *_flags(place)]) == 0
    assert "2 of 6 parts" in capsys.readouterr().err


def test_a_damaged_part_of_another_share_is_its_own_affair(place: Path) -> None:
    infer(_config(place))
    for index in (0, 1):
        part_path(place / "out", 0, index).write_bytes(b"damaged")
    outcome = infer(_config(place, part=(1, 2)))
    assert (outcome.complete, outcome.written) == (True, 8)
    assert not inspect(place / "out").complete
    assert infer(_config(place)).written == 8


def test_a_share_of_no_parts_is_done_at_once(place: Path) -> None:
    outcome = infer(_config(place, part=(8, 8)))
    assert (outcome.complete, outcome.rows, outcome.written, outcome.failed) == (True, 0, 0, 0)


def test_update_of_a_share_redoes_its_own_parts_alone(place: Path) -> None:
    infer(_config(place))
    for name in ("a/003", "a/010"):  # in parts 0 and 1
        (place / "data" / f"{name}.png").rename(place / "data" / f"{name}b.png")
    with pytest.raises(InputError, match=r"1 of 6 parts .*part-00000\.parquet: --update"):
        infer(_config(place, part=(1, 2)))
    assert infer(_config(place, part=(1, 2), update=True)).written == 8
    assert infer(_config(place, part=(2, 2), update=True)).written == 8
    assert infer(_config(place)).written == 0


def test_a_share_of_another_model_is_refused_though_none_of_its_own_parts_is_there(place: Path) -> None:
    infer(_config(place, part=(1, 2)))
    with pytest.raises(InputError, match=r"step 0 was made with another transform\.mean \(\[0\.0\], now \[0\.5\]\)"):
        infer(_config(place, part=(2, 2), mean=(0.5,)))


@pytest.mark.parametrize(("written", "found"), [("3/8", (3, 8)), ("1/1", (1, 1))])
def test_a_share_is_written_as_a_fraction(written: str, found: tuple[int, int]) -> None:
    flags = ["--data", "d", "--model", "m.py:f", "--part", written]
    assert parse("infer", InferConfig, flags).part == found
    assert parse("infer", InferConfig, flags[:-2]).part is None


@pytest.mark.parametrize("written", ["3", "3/", "a/b", "3-8", "3/8/2"])
def test_a_share_that_is_no_fraction_is_one_line(written: str) -> None:
    with pytest.raises(InputError, match=f"--part is '{written}'; expected K/N, such as 1/8") as raised:
        parse("infer", InferConfig, ["--data", "d", "--model", "m.py:f", "--part", written])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("part", "words"), [((0, 8), "0/8"), ((9, 8), "9/8"), ((1, 0), "1/0")])
def test_shares_that_cannot_be_are_one_line(part: tuple[int, int], words: str) -> None:
    with pytest.raises(InputError, match=f"--part is {words}; expected K/N with K from 1 to N"):
        InferConfig("d", "m.py:f", part=part)


def test_overwriting_a_share_is_refused() -> None:
    with pytest.raises(InputError, match="--overwrite with --part would delete what the other jobs wrote"):
        InferConfig("d", "m.py:f", part=(1, 2), overwrite=True)


# --- rows that failed, again ---


def test_retry_errors_tries_failed_rows_alone_and_keeps_the_others_to_the_last_bit(place: Path) -> None:
    extra = ["a/002", "a/003", "b/000", "c/014"]  # in parts 0, 1, 5; b/007 (row 22) is broken in part 2
    good = {name: (place / "data" / f"{name}.png").read_bytes() for name in extra}
    for name in extra:
        (place / "data" / f"{name}.png").write_bytes(b"broken")
    options: dict[str, Any] = {"embeddings": True, "thumbnails": 8}
    infer(_config(place, **options))
    before = _frame(place / "out")
    times = {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")}
    assert before.index[before["error"].notna()].tolist() == [2, 3, 15, 22, 44]
    assert infer(_config(place, **options)).written == 0
    for name in ("a/003", "b/000", "c/014"):
        (place / "data" / f"{name}.png").write_bytes(good[name])

    said: list[str] = []
    outcome = infer(_config(place, batch_size=2, retry_errors=True, **options), said.append)
    assert (outcome.complete, outcome.written, outcome.failed) == (True, 5, 2)
    assert "retrying 5 rows with an error" in said
    after = _frame(place / "out")
    assert after.index[after["error"].notna()].tolist() == [2, 22]
    same = [i for i in range(ROWS) if i not in (3, 15, 44)]
    pd.testing.assert_frame_equal(after.loc[same], before.loc[same], check_exact=True, check_dtype=False)
    infer(_config(place, out=place / "fresh", **options))
    pd.testing.assert_frame_equal(after, _frame(place / "fresh"), rtol=1e-3, atol=1e-3)
    now = {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")}
    assert [i for i in range(6) if now[f"part-0000{i}.parquet"] != times[f"part-0000{i}.parquet"]] == [0, 1, 5]
    assert inspect(place / "out").complete

    assert infer(_config(place, retry_errors=True, **options)).written == 2  # nothing new
    assert {p.name: p.stat().st_mtime_ns for p in (place / "out").glob("*/*.parquet")} == now


def test_retry_errors_with_several_steps_and_row_groups(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for step in (1, 2):
        torch.manual_seed(step)
        files.append(place / f"toy_epoch{step}.pt")
        torch.save({"head.weight": torch.randn(3, 3), "head.bias": torch.randn(3)}, files[-1])
    monkeypatch.setattr("predboard.storage.parts.ROW_GROUP_MAX_ROWS", 3)
    options: dict[str, Any] = {"checkpoint": tuple(files)}
    infer(_config(place, checkpoint=tuple(files[:1])))
    (place / "data" / "b" / "008.png").write_bytes(b"broken")
    infer(_config(place, **options))
    toy.pictures(place / "other", each=ROWS // 3)
    for name in ("007", "008"):
        (place / "data" / "b" / f"{name}.png").write_bytes((place / "other" / "b" / f"{name}.png").read_bytes())
    kept = _frame(place / "out", 1)
    outcome = infer(_config(place, retry_errors=True, **options))
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 0, 1 + 2)
    infer(_config(place, out=place / "fresh", **options))
    for step in (1, 2):
        pd.testing.assert_frame_equal(_frame(place / "out", step), _frame(place / "fresh", step), rtol=1e-5, atol=1e-6)
    others = [i for i in range(ROWS) if i != 22]
    pd.testing.assert_frame_equal(
        _frame(place / "out", 1).loc[others], kept.loc[others], check_exact=True, check_dtype=False
    )


def test_retry_errors_makes_missing_parts_as_well(place: Path) -> None:
    infer(_config(place))
    part_path(place / "out", 0, 4).unlink()
    outcome = infer(_config(place, retry_errors=True))
    assert (outcome.complete, outcome.written) == (True, 8 + 1)


def test_a_manifests_own_columns_stay_when_rows_are_tried_again(tmp_path: Path) -> None:
    data = toy.sources(tmp_path / "pictures", 6)
    lines = [json.dumps({"path": f"pictures/{i:06d}.png", "sensor": f"s{i}", "cloud": i / 8}) for i in range(6)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    picture = (data / "000002.png").read_bytes()
    (data / "000002.png").unlink()
    options: dict[str, Any] = {"data": str(tmp_path / "list.jsonl"), "model": toy.model_file(tmp_path)}
    assert infer(InferConfig(**options, out=tmp_path / "out")).failed == 1
    (data / "000002.png").write_bytes(picture)
    assert infer(InferConfig(**options, out=tmp_path / "out", retry_errors=True)).failed == 0
    infer(InferConfig(**options, out=tmp_path / "fresh"))
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "fresh"), rtol=1e-5, atol=1e-6)
