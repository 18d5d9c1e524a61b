"""Runs a command in a process that was forked with everything imported, and kills it at a chosen moment."""

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import predboard.cli.commands
import predboard.comparison.compare
import predboard.composition.combine
import predboard.inference.infer
import predboard.ingest.ingest
import predboard.visualization.visualize  # noqa: F401  all of them are imported before the process forks
from predboard.cli import main

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Events of Python's audit hooks that change files; `open` is one too if it writes."""


def start(arguments: list[str], folder: Path, kill_at: int | None = None) -> BaseProcess:
    """Start a command in a folder; it kills itself before its `kill_at`-th change of a file below the folder.

    Without `kill_at` it writes the number of its changes to `FOLDER.changes` when it ends.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch"])
    process = context.Process(target=_run, args=(arguments, folder, kill_at))
    process.start()
    return process


def _run(arguments: list[str], folder: Path, kill_at: int | None) -> None:
    changes = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in _CHANGES) or not isinstance(details[0], str | os.PathLike):
            return
        if Path(folder, os.fspath(details[0])).is_relative_to(folder):
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(folder)
    with (
        Path(f"{folder}.output").open("a") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        sys.addaudithook(watch)
        code = main.run(arguments)
    if kill_at is None:
        Path(f"{folder}.changes").write_text(str(changes))
    os._exit(code)
