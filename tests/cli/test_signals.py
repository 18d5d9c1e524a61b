"""Ctrl-C and SIGTERM end a command with one line, whatever it is doing."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from predboard.cli.signals import stoppable
from predboard.errors import InputError
from predboard.storage.inspection import inspect
from tests import toy
from tests.cli.example import Example, RunCommand


@pytest.mark.slow
def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "model.py").write_text("raise KeyboardInterrupt\n")
    done = toy.predboard("infer", "--data", "data", "--model", "model.py:build", cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].startswith("predboard: interrupted; what was written is safe")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("end", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
@pytest.mark.parametrize("module", ["typing", "argparse", "tqdm"])  # imported before the command, and by it
def test_a_signal_while_modules_are_imported_is_one_line(
    module: str, end: tuple[signal.Signals, int, str], example: Example, tmp_path: Path
) -> None:
    number, code, how = end
    (tmp_path / f"{module}.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n")
    done = _started_by_a_terminal(tmp_path, "visualize", example.out)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(
        rf"predboard: {how}(; what was written is safe: run the same command to continue)?\n", done.stderr
    )


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_error_that_a_signal_leads_to_does_not_hide_it(command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    def left_in_the_middle(_: object, *__: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise InputError("cannot write: columns differ in length")

    monkeypatch.setattr("predboard.storage.inspection.inspect", left_in_the_middle)
    code, _, err = command("inspect", "run")
    assert (code, len(err)) == (143, 1)
    assert err[0].startswith("predboard: terminated; what was written is safe")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_handlers_are_as_before_when_a_command_ends() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal did not come at once")
    assert stop.value.args == (signal.SIGTERM,)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_python_ends_is_one_line(example: Example, tmp_path: Path) -> None:
    late = "import atexit, os, time\natexit.register(time.sleep, 60)\natexit.register(os.kill, os.getpid(), 2)\n"
    (tmp_path / "tomllib.py").write_text(late)
    done = _started_by_a_terminal(tmp_path, "inspect", example.out, "--json")
    assert (done.returncode, done.stderr) == (130, "predboard: interrupted\n")
    assert json.loads(done.stdout)


def _started_by_a_terminal(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder whose modules take the place of others."""
    return subprocess.run(
        [sys.executable, "-m", "predboard", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        preexec_fn=toy.heed_ctrl_c,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_shell_ignores_stays_ignored(
    number: signal.Signals, command: RunCommand, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(folder: Path, *more: Any) -> Any:
        os.kill(os.getpid(), number)
        return inspect(folder, *more)

    monkeypatch.setattr("predboard.storage.inspection.inspect", signalled)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert command("inspect", example.out)[0] == 0
    finally:
        signal.signal(number, before)


def test_ctrl_c_while_drawing(command: RunCommand, example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("predboard.visualization.events.EventWriter.write", interrupted)
    code, out, err = command("visualize", example.out, "--logdir", example.folder / "logs")
    assert (code, out) == (130, [])
    assert err[-1].startswith("predboard: interrupted")
    assert not list((example.folder / "logs").rglob("*.partial"))


def test_garbage_is_collected_again_once_a_command_has_imported_what_it_needs() -> None:
    gc.disable()
    try:
        with stoppable():
            assert gc.isenabled()
            assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
