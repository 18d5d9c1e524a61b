"""Several devices give the rows of one. Processes on the CPU stand for devices."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predboard import infer, open_predictions
from predboard.cli import main
from predboard.errors import InputError
from predboard.inference import resume
from predboard.storage.inspection import inspect
from predboard.storage.runs import part_path
from tests import toy
from tests.inference.nets import read_frame
from tests.inference.worker_runs import ROWS, SHARD, WORKER_NET, hidden_files, worker_config, worker_flags

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


@pytest.mark.slow
def test_two_processes_work_at_once_and_give_the_rows_of_one(place: Path) -> None:
    (place / "meet").mkdir()
    options: dict[str, Any] = {"model_args": {"meet": str(place / "meet")}, "preflight": 0}
    said: list[str] = []
    outcome = infer(worker_config(place, device="cpu,cpu", **options), said.append)  # each waits for the other
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 1, ROWS)
    assert outcome.seconds["decode"] > 0 and outcome.seconds["wall"] > 0
    assert any(line.endswith("cpu, cpu; fp32") for line in said)
    spans = sorted((p.part.started, p.part.finished) for p in open_predictions(place / "out").step.parts)
    assert any(b[0] < a[1] for a, b in itertools.pairwise(spans)), "no two parts at the same time"
    assert len(spans) == -(-ROWS // SHARD)
    assert hidden_files(place / "out") == []
    assert infer(worker_config(place, **options)).written == 0
    infer(worker_config(place, out=place / "alone", **options))
    pd.testing.assert_frame_equal(read_frame(place / "out"), read_frame(place / "alone"), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_a_killed_worker_is_named_and_the_others_take_over_its_parts(place: Path) -> None:
    infer(worker_config(place, preflight=0, out=place / "alone", model_args={"kill": ""}))
    said: list[str] = []
    outcome = infer(
        worker_config(place, device="cpu,cpu", preflight=0, model_args={"kill": str(place / "killed")}), said.append
    )
    (line,) = [line for line in said if "was killed" in line]
    assert line.startswith("worker ") and " (cpu) was killed by SIGKILL; unfinished parts: " in line
    assert line.endswith("; the other workers take over")
    assert (outcome.complete, outcome.written >= ROWS) == (True, True)
    pd.testing.assert_frame_equal(read_frame(place / "out"), read_frame(place / "alone"), rtol=1e-5, atol=1e-6)
    assert hidden_files(place / "out") == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_the_command_says_that_all_workers_died_and_the_next_run_completes(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = WORKER_NET.replace("os.O_CREAT | os.O_EXCL", "os.O_CREAT").replace("and self.seen:", "and self.seen > 8:")
    (place / "net.py").write_text(code.replace("if self.kill and", "if os.path.exists(self.kill) and"))
    (place / "killing").touch()
    flags = ["infer", *worker_flags(place), "--batch-size", "3", "--device", "cpu,cpu", "--preflight", "0"]
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


@pytest.mark.slow
def test_the_exception_of_a_worker_is_raised_and_no_worker_is_left(place: Path) -> None:
    with pytest.raises(RuntimeError, match=r"worker [12] \(cpu\): Traceback[\s\S]*MemoryError: enough"):
        infer(worker_config(place, device="cpu,cpu", preflight=0, model_args={"raises": "enough"}))
    assert hidden_files(place / "out") == []
    assert subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "run_worker"], check=False).returncode == 1


@pytest.mark.slow
def test_bad_input_found_by_a_worker_is_one_line(place: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), place / "toy_epoch1.pt")
    state = {f"head.{name}": value for name, value in torch.nn.Linear(3, 3).state_dict().items()}
    torch.save(state, place / "toy_epoch1.pt")

    def say(line: str) -> None:
        if line.startswith("model "):
            torch.save({name: value + 1 for name, value in state.items()}, place / "toy_epoch1.pt")

    with pytest.raises(InputError, match=r"toy_epoch1\.pt changed while it was in use: run the same command again"):
        infer(worker_config(place, device="cpu,cpu", checkpoint=(place / "toy_epoch1.pt",)), say)


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_have_the_checkpoints_datasets_and_transforms_of_the_user(place: Path) -> None:
    files, options = toy.code_of_the_user(place, steps=3)
    infer(worker_config(place, out=place / "alone", checkpoint=tuple(files), **options))
    infer(worker_config(place, checkpoint=tuple(files[:1]), **options))
    outcome = infer(worker_config(place, checkpoint=tuple(files), device="cpu,cpu", **options))
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 1, 2 * ROWS)
    for step in (1, 2, 3):
        pd.testing.assert_frame_equal(
            read_frame(place / "out", step), read_frame(place / "alone", step), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("device", ["cpu,", "cpu,cuda:7", "cpu,nothing"])
def test_devices_that_are_not_there_are_one_line(place: Path, device: str) -> None:
    with pytest.raises(InputError, match="--device is "):
        infer(worker_config(place, device=device))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.slow)])
def test_max_failures_stops_and_what_was_published_stays(place: Path, device: str) -> None:
    for name in ("b/008", "c/003", "c/010"):  # besides b/007: rows 22, 23 of part 2, 33 of part 4, 40 of part 5
        (place / "data" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^\d rows failed, more than --max-failures 1: .* and --retry-errors retries"):
        infer(worker_config(place, device=device, preflight=0, max_failures=1))
    there = {index for index in range(6) if part_path(place / "out", 0, index).exists()}
    assert there >= {2} or (there >= {4, 5} and device == "cpu,cpu")  # whichever of the two was faster
    assert hidden_files(place / "out") == []
    outcome = infer(
        worker_config(place, device=device, preflight=0, max_failures=2)
    )  # two of the four are there already
    assert (outcome.complete, outcome.failed) == (True, 4)


def test_an_existing_part_is_not_overwritten(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infer(worker_config(place, preflight=0))
    before = {p: p.read_bytes() for p in (place / "out").glob("*/*.parquet")}
    part_path(place / "out", 0, 1).write_bytes(b"damaged")
    everything = resume.find_missing

    def nothing_is_valid(out: Path, run: Any, plan: Any, *arguments: Any, **named: Any) -> Any:
        everything(out, run, plan, *arguments, **named)
        return list(plan), []

    monkeypatch.setattr(resume, "find_missing", nothing_is_valid)  # as where a worker was taken for dead, and published
    assert infer(worker_config(place, preflight=0, batch_size=5)).written == ROWS
    after = {p: p.read_bytes() for p in (place / "out").glob("*/*.parquet")}
    assert {p.name for p in after if after[p] != before[p]} == {"part-00001.parquet"}
    assert inspect(place / "out").complete
    assert hidden_files(place / "out") == []
