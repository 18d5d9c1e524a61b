"""Locks of folders and of shares: who is refused, and what is left of a killed process."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from predboard.errors import InputError
from predboard.storage.locks import lock_folder
from predboard.storage.part_plan import WHOLE_RUN, Share
from tests import toy
from tests.storage.small_runs import write_small_run

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def _holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a run and is in the middle of writing a part."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from predboard.storage.locks import lock_folder\n"
        "from predboard.storage.parts import PartWriter\n"
        "from predboard.storage.runs import part_path\n"
        "from tests import toy\n"
        "folder = Path(sys.argv[1])\n"
        "with lock_folder(folder):\n"
        "    writer = PartWriter(part_path(folder, 0, 0), toy.RUN)\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": toy.PYTHONPATH}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_the_lock_of_a_killed_one_is_free(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        with pytest.raises(
            InputError, match=r"another process is writing to .*: wait until it finishes, or name another --out"
        ):
            lock_folder(tmp_path).__enter__()
        assert len(list(tmp_path.rglob(".part-*.tmp"))) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(tmp_path.rglob(".part-*.tmp"))) == 1
        with lock_folder(tmp_path):
            assert list(tmp_path.rglob(".part-*.tmp")) == []
    with lock_folder(tmp_path):
        pass


def test_a_lock_does_not_touch_files_of_others(tmp_path: Path) -> None:
    write_small_run(tmp_path)
    mine = tmp_path / "step=00000000" / "notes.tmp"
    mine.write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    with lock_folder(tmp_path):
        pass
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"} == before


# --- shares ---


def _left(out: Path) -> list[str]:
    """Hidden files besides the locks."""
    return sorted(p.name for p in out.rglob(".*") if not p.name.endswith(".lock"))


_HOLDS = """
import sys
from pathlib import Path
from predboard.storage.locks import lock_folder
from predboard.storage.part_plan import Share
share = Share(*map(int, sys.argv[2].split("/")))
with lock_folder(Path(sys.argv[1]), share=share):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that has a share."""

    def __init__(self, folder: Path, share: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLDS, str(folder), share],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self, kill: bool = False) -> None:
        """Let it go on, or kill it."""
        if kill:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    holder = Holder(tmp_path, "3/8")
    yield holder
    holder.end(kill=True)


@pytest.mark.parametrize("share", [Share(3, 8), Share(1, 2), Share(3, 4), WHOLE_RUN])
def test_a_share_that_another_process_has_is_refused(tmp_path: Path, holder: Holder, share: Share) -> None:
    line = rf"another process is working on share 3/8 of {tmp_path}: wait until it finishes, or name another --out"
    with pytest.raises(InputError, match=line):
        lock_folder(tmp_path, share=share).__enter__()
    holder.end()
    with lock_folder(tmp_path, share=share):
        pass
    assert _left(tmp_path) == []


@pytest.mark.parametrize("share", [Share(4, 8), Share(2, 8), Share(1, 8)])
def test_other_shares_of_the_same_number_go_side_by_side(tmp_path: Path, holder: Holder, share: Share) -> None:
    for index in (1, 2, 3):
        (tmp_path / "step=00000000").mkdir(exist_ok=True)
        (tmp_path / "step=00000000" / f".part-{index:05d}.parquet.0a.tmp").touch()
    with lock_folder(tmp_path, share=share):
        left = {int(name.split("-")[1][:5]) for name in _left(tmp_path) if name.endswith(".tmp")}
        assert left == {i for i in (1, 2, 3) if not share.holds(i)}  # the others may still be written
    assert holder.process.poll() is None


def test_a_share_waits_for_nobody_who_has_the_whole(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(InputError, match="another process is writing to"):
        lock_folder(tmp_path, share=Share(1, 2)).__enter__()


@pytest.mark.parametrize("share", [Share(3, 8), Share(1, 2), WHOLE_RUN])
def test_what_is_refused_leaves_the_files_of_the_other_process_alone(
    tmp_path: Path, holder: Holder, share: Share
) -> None:
    unfinished = tmp_path / "step=00000000" / ".part-00002.parquet.0a.tmp"
    unfinished.parent.mkdir()
    unfinished.touch()
    with pytest.raises(InputError, match="another process is working on share 3/8"):
        lock_folder(tmp_path, share=share).__enter__()
    assert unfinished.exists()
    holder.end(kill=True)
    with lock_folder(tmp_path, share=Share(3, 8)):
        assert not unfinished.exists()
