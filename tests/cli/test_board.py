"""TensorBoard is started for a folder of logs, and stopped again."""

import contextlib
import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from predboard.cli import main
from predboard.cli.board import first_tab
from tests import toy
from tests.cli.example import Example, RunCommand, refused
from tests.tab.logs import write_logs


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def test_a_port_that_is_taken_is_one_line(command: RunCommand, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(
            command("board", "--logdir", tmp_path, "--port", port),
            rf"cannot serve on localhost, port {port} \(.*--port",
        )


def test_the_board_opens_on_the_tab_where_there_are_rows_to_show(tmp_path: Path) -> None:
    assert first_tab(tmp_path) == ""
    write_logs(tmp_path / "net", 5)
    installed = any(p.name == "predboard" for p in importlib.metadata.entry_points(group="tensorboard_plugins"))
    assert first_tab(tmp_path) == ("#predboard" if installed else "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_board_opens_tensorboard_which_ends_with_it(number: signal.Signals, example: Example) -> None:
    logs, port = example.folder / "logs", free_port()
    assert main.run(["visualize", str(example.out), "--logdir", str(logs)]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "predboard", "board", "--logdir", str(logs), "--port", str(port)],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=toy.heed_ctrl_c,
        text=True,
    ) as board:
        try:
            assert board.stdout
            assert next(board.stdout) == f"open http://localhost:{port}/{first_tab(logs)}\n"
            with urllib.request.urlopen(f"http://localhost:{port}/data/plugins_listing", timeout=10) as answer:
                assert json.load(answer)["projector"]["enabled"]
            with urllib.request.urlopen(f"http://localhost:{port}/", timeout=10) as page:
                assert re.match(rf"http://localhost:{port}/\?smoothing=0&pinnedCards=.*report_card.*toy", page.url)
            board.send_signal(number)
            assert board.wait(15) == (0 if number == signal.SIGINT else -signal.SIGKILL)
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/", timeout=2)
            for _ in range(200):  # the helper of TensorBoard looks every few seconds whether it is still needed
                if not _is_group_alive(board.pid):
                    break
                time.sleep(0.1)
            else:
                pytest.fail("a process of TensorBoard goes on")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(board.pid, signal.SIGKILL)


def _is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_address_of_another_machine_is_one_line(command: RunCommand, tmp_path: Path) -> None:
    refused(command("board", "--logdir", tmp_path, "--host", "192.0.2.1"), "cannot serve on 192.0.2.1, port 6006")
