"""What goes wrong from outside while stage one runs: nothing that was published is lost, and the next run completes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predboard import InferConfig, VisualizeConfig, infer, open_predictions, visualize
from predboard.errors import InputError
from predboard.storage.inspection import inspect
from predboard.storage.parts import open_part, verify_part
from predboard.storage.runs import part_path
from tests import toy

pytest.importorskip("torch", reason="stage one runs PyTorch models")


def _list(folder: Path, rows: int = 12) -> tuple[Path, list[Path]]:
    """A list of pictures without labels. -> the list, the pictures."""
    data = toy.sources(folder / "pictures", rows)
    files = sorted(data.iterdir())
    (folder / "list.csv").write_text("path\n" + "".join(f"pictures/{file.name}\n" for file in files))
    return folder / "list.csv", files


def _config(folder: Path, data: Path, **options: Any) -> InferConfig:
    return InferConfig(**{"data": str(data), "model": toy.model_file(folder), "out": folder / "out", **options})


def _frame(out: Path) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out).to_pandas()
    return frame


_NET = """
import os
import time
import torch

class Net(torch.nn.Module):
    \"\"\"Says where it is, and takes its time.\"\"\"

    def __init__(self, moves="", at=0):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)
        torch.nn.init.eye_(self.head.weight)
        self.seconds, self.pids = float(os.environ.get("SECONDS", 0)), os.environ.get("PIDS")
        self.moves, self.at, self.seen = moves, at, 0

    def forward(self, x):
        self.seen += len(x) > 1  # one picture alone is the trial before
        if self.pids and self.seen:
            open(os.path.join(self.pids, str(os.getpid())), "w").close()
        if self.moves and self.seen == self.at and not os.path.exists(self.moves + ".moved"):
            os.rename(self.moves, self.moves + ".moved")
        time.sleep(self.seconds * (len(x) > 1))
        return self.head(x.mean((2, 3)))
"""
ROWS, SHARD = 45, 8


@pytest.fixture
def place(tmp_path: Path) -> Path:
    toy.pictures(tmp_path / "data", each=ROWS // 3)
    (tmp_path / "net.py").write_text(_NET)
    return tmp_path


def _run(place: Path, **options: Any) -> InferConfig:
    model = f"{place / 'net.py'}:Net"
    plain: dict[str, Any] = {"data": str(place / "data"), "model": model, "out": place / "out", "preflight": 0}
    return InferConfig(**{**plain, "shard_size": SHARD, "batch_size": 4, **options})


def _parts(out: Path) -> dict[Path, int]:
    """Published parts, each of them whole, by their time."""
    found = {}
    for path in out.glob("step=*/*.parquet"):
        verify_part(open_part(path))
        found[path] = path.stat().st_mtime_ns
    return found


def _left(out: Path) -> list[str]:
    return sorted(p.name for p in out.rglob(".*") if p.name != ".lock")


# --- a command that is stopped ---


def _begun(place: Path, flags: list[str], there: Callable[[], bool], **environment: str) -> "subprocess.Popen[str]":
    """A run in a session of its own, as a terminal starts it, from when something is there."""
    (place / "pids").mkdir()
    command = [sys.executable, "-m", "predboard", "infer", "--preflight", "0", *flags]
    process = subprocess.Popen(
        [*command, "--model", f"{place / 'net.py'}:Net", "--out", str(place / "out")],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH, "PIDS": str(place / "pids"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=toy.heed_ctrl_c,
        text=True,
    )
    until = time.monotonic() + 60
    while not there():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    return process


def _started(place: Path, device: str, data: str = "data") -> "subprocess.Popen[str]":
    """A slow run in a process of its own, that has published a part."""
    flags = ["--data", str(place / data), "--device", device, "--shard-size", str(SHARD), "--batch-size", "2"]
    flags += ["--timeout", "1000", "--workers", "1"]
    return _begun(place, flags, lambda: any((place / "out").glob("step=*/part-*.parquet")), SECONDS="0.1")


_SLOW_TO_BEGIN = """
import os
import time

open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w").close()
time.sleep(1 if len(os.listdir(os.environ["PIDS"])) > 1 else 0)

class Rows:
    def __len__(self):
        return 20

    def __getitem__(self, i):
        import torch

        return torch.zeros(3, 8, 8), 0
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_processes_of_a_dataset_begin_is_one_line(place: Path) -> None:
    (place / "rows.py").write_text(_SLOW_TO_BEGIN)
    flags = ["--data", f"{place / 'rows.py'}:Rows", "--processes", "2", "--device", "cpu"]
    process = _begun(place, flags, lambda: len(list((place / "pids").iterdir())) >= 2)  # itself, and one that loads
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("predboard: interrupted")
    assert "Traceback" not in said
    assert not any(_alive(pid.name) for pid in (place / "pids").iterdir())


def _alive(pid: str) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _goes_on(place: Path, data: str = "data") -> None:
    """The next run keeps what is there and has the same rows as one that was never stopped."""
    before = _parts(place / "out")
    assert 0 < len(before) < -(-ROWS // SHARD)
    assert infer(_run(place, data=str(place / data))).complete
    assert before.items() <= _parts(place / "out").items()
    infer(_run(place, data=str(place / data), out=place / "fresh"))
    pd.testing.assert_frame_equal(_frame(place / "out"), _frame(place / "fresh"), rtol=1e-5, atol=1e-6)
    assert _left(place / "out") == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_command_and_its_workers_and_the_next_run_goes_on(place: Path) -> None:
    process = _started(place, "cpu,cpu")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "predboard: interrupted; what was written is safe: run the same command to continue"
    assert "Traceback" not in said
    assert _left(place / "out") == []
    for pid in (place / "pids").iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.name), 0)
    _goes_on(place)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_ends_the_command_though_a_read_hangs_and_the_next_run_goes_on(place: Path) -> None:
    files = sorted((place / "data").glob("*/*.png"))
    (place / "list.csv").write_text("path\n" + "".join(f"{file.relative_to(place).as_posix()}\n" for file in files))
    kept = files[20].read_bytes()
    files[20].unlink()
    os.mkfifo(files[20])
    process = _started(place, "cpu", "list.csv")
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1] == "predboard: terminated; what was written is safe: run the same command to continue"
    assert "Traceback" not in said
    assert _left(place / "out") == []
    files[20].unlink()
    files[20].write_bytes(kept)
    _goes_on(place, "list.csv")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_end_with_a_master_that_is_killed(place: Path) -> None:
    process = _started(place, "cpu,cpu")
    process.kill()
    process.communicate()
    until = time.monotonic() + 30
    for pid in (place / "pids").iterdir():
        while _alive(pid.name):
            assert time.monotonic() < until
            time.sleep(0.01)
    _goes_on(place)


# --- an output that cannot be written ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 44 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or _mount("-t", "tmpfs", "-o", "size=44k", "tmpfs", folder):
        pytest.skip("mounting a small file system needs the right to do so")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _mount(*arguments: str | Path) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(place: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    with pytest.raises(InputError) as raised:
        infer(_run(place, out=out))
    assert str(raised.value) == (
        f"cannot write to {out / 'step=00000000'}: No space left on device; everything published so far is safe: fix "
        "this and run the same command again"
    )
    before = _parts(out)
    assert 0 < len(before) < -(-ROWS // SHARD)
    assert _left(out) == []
    with pytest.raises(InputError, match="No space left on device"):
        infer(_run(place, out=out))
    assert before.items() <= _parts(out).items()
    assert _mount("-o", "remount,size=4m", small_disk) == 0
    assert infer(_run(place, out=out)).complete
    assert before.items() <= _parts(out).items()
    infer(_run(place))
    pd.testing.assert_frame_equal(_frame(out), _frame(place / "out"), rtol=1e-5, atol=1e-6)


def test_a_read_only_output_is_one_line_and_can_be_read(place: Path, small_disk: Path) -> None:
    assert _mount("-o", "remount,size=4m", small_disk) == 0
    out = small_disk / "out"
    infer(_run(place, out=out))
    assert _mount("-o", "remount,ro", small_disk) == 0
    with pytest.raises(InputError, match=rf"cannot write to {out}: Read-only file system; everything published"):
        infer(_run(place, out=out, overwrite=True))
    with pytest.raises(InputError, match=r"cannot write to .*/new: Read-only file system"):
        infer(_run(place, out=small_disk / "new"))
    assert len(_frame(out)) == ROWS
    assert inspect(out).complete


# --- data that hangs or vanishes ---


_READS_BY_ITSELF = """
import io, pathlib, PIL.Image

class Pictures:
    files = sorted((pathlib.Path(__file__).parent / "pictures").iterdir())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        return PIL.Image.open(io.BytesIO(self.files[row].read_bytes()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that hangs is a FIFO")
@pytest.mark.parametrize("hanging", [(0,), (5, 6), (3, 11)])
def test_an_image_that_hangs_is_a_row_with_an_error_and_its_neighbours_are_right(
    tmp_path: Path, hanging: tuple[int, ...]
) -> None:
    _, files = _list(tmp_path)
    (tmp_path / "mine.py").write_text(_READS_BY_ITSELF)  # pipes in a folder are refused without waiting
    data: Any = f"{tmp_path / 'mine.py'}:Pictures"
    infer(_config(tmp_path, data, out=tmp_path / "whole"))
    for i in hanging:
        files[i].unlink()
        os.mkfifo(files[i])
    outcome = infer(_config(tmp_path, data, timeout=0.2, workers=2, batch_size=4))
    for i in hanging:
        os.close(os.open(files[i], os.O_WRONLY | os.O_NONBLOCK))  # lets the threads go that wait for a writer
    assert (outcome.complete, outcome.failed) == (True, len(hanging))
    found, whole = _frame(tmp_path / "out"), _frame(tmp_path / "whole")
    assert found.index[found["error"].notna()].tolist() == list(hanging)
    assert set(found["error"].dropna()) == {"TimeoutError: not read within 0.2 seconds"}
    good = found[found["error"].isna()]
    pd.testing.assert_frame_equal(good, whole.loc[good.index], rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_timeout_that_cannot_be_is_one_line(timeout: float) -> None:
    with pytest.raises(InputError, match=r"--timeout is .*; expected seconds, more than 0 and at most 1,000,000"):
        InferConfig("d", "m.py:f", timeout=timeout)


def test_a_file_that_vanishes_half_way_is_a_row_with_an_error(tmp_path: Path) -> None:
    listed, files = _list(tmp_path)

    def say(line: str) -> None:
        if line.startswith("model "):  # the list is read, the pictures are not
            files[7].unlink()

    outcome = infer(_config(tmp_path, listed), say)
    assert (outcome.complete, outcome.failed) == (True, 1)
    assert _frame(tmp_path / "out")["error"][7] == "FileNotFoundError: No such file or directory"


def test_data_that_vanishes_half_way_and_comes_back_is_tried_again(place: Path) -> None:
    arguments = {"moves": str(place / "data"), "at": 6}
    outcome = infer(_run(place, model_args=arguments, workers=1, batch_size=2))
    assert outcome.complete and 0 < outcome.failed < ROWS
    found = _frame(place / "out")
    assert set(found["error"].dropna()) == {"FileNotFoundError: No such file or directory"}
    (place / "data.moved").rename(place / "data")
    (place / "data.moved").touch()  # so that it stays
    outcome = infer(_run(place, model_args=arguments, retry_errors=True))
    assert (outcome.complete, outcome.failed) == (True, 0)
    infer(_run(place, out=place / "fresh", model_args=arguments))
    pd.testing.assert_frame_equal(_frame(place / "out"), _frame(place / "fresh"), rtol=1e-5, atol=1e-6)
    good = found[found["error"].isna()]
    again = _frame(place / "out").loc[good.index]
    pd.testing.assert_frame_equal(again, good, check_exact=True, check_dtype=False)


# --- bits that flip ---


@pytest.mark.parametrize("where", ["page", "column", "statistics", "cut"])
def test_damage_is_named_by_inspect_and_stage_two_and_remade_by_the_next_run(tmp_path: Path, where: str) -> None:
    listed, files = _list(tmp_path)
    listed.write_text("path,sensor\n" + "".join(f"pictures/{file.name},s{i % 3}\n" for i, file in enumerate(files)))
    infer(_config(tmp_path, listed, shard_size=5))
    whole = _frame(tmp_path / "out")
    path = part_path(tmp_path / "out", 0, 1)
    raw = bytearray(path.read_bytes())
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    if where == "page":
        toy.spoil(path, "logits.list.element")
    elif where == "cut":
        path.write_bytes(raw[:-100])
    else:
        raw[raw.index(b"sensor" if where == "column" else b"s2", footer)] ^= 1
        path.write_bytes(raw)
    found = inspect(tmp_path / "out")
    assert list(found.facts["damaged"]) == ["step=00000000/part-00001.parquet"] and not found.complete
    with pytest.raises(InputError, match=r"step=00000000/part-00001\.parquet is damaged"):
        visualize(VisualizeConfig((tmp_path / "out",), tmp_path / "logs"))
    before = {p.name: p.stat().st_mtime_ns for p in path.parent.glob("*.parquet")}
    said: list[str] = []
    assert infer(_config(tmp_path, listed, shard_size=5), said.append).written == 5
    assert any("part-00001.parquet is damaged" in line and line.endswith("making it again") for line in said)
    after = {p.name: p.stat().st_mtime_ns for p in path.parent.glob("*.parquet")}
    assert [name for name in before if before[name] != after[name]] == ["part-00001.parquet"]
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), whole, rtol=1e-5, atol=1e-6)
