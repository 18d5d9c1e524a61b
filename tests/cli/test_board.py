"""TensorBoard is started for a folder of logs, and stopped again."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from predboard.cli import main
from tests import toy
from tests.cli.example import Example, RunCommand, refused


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def test_a_port_that_is_taken_is_one_line(command: RunCommand, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(command("board", "--logdir", tmp_path, "--port", port), f"port {port} is not free")


@pytest.mark.slow
def test_board_opens_tensorboard_and_ctrl_c_ends_both(example: Example) -> None:
    logs, port = example.folder / "logs", free_port()
    assert main.run(["visualize", str(example.out), "--logdir", str(logs), "--panels", "glance"]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "predboard", "board", "--logdir", str(logs), "--port", str(port)],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
        text=True,
    ) as board:
        try:
            assert board.stdout
            line = next(line for line in board.stdout if line.startswith("open "))
            url = line.split()[1]
            assert re.match(rf"http://localhost:{port}/\?smoothing=0.*report_card.*toy.*#timeseries$", url)
            with urllib.request.urlopen(f"http://localhost:{port}/data/logdir", timeout=10) as answer:
                assert json.load(answer)["logdir"] == str(logs)
            os.killpg(board.pid, signal.SIGINT)  # as a terminal does
            assert board.wait(15) == 0
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/", timeout=2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(board.pid, signal.SIGKILL)
