"""How every process of the tests runs."""

import contextlib
import multiprocessing
import os
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from predboard.invocation import MAKE_VARIABLE

# Tests run on every processor at once, and their networks are so small that PyTorch's threads only wait for each
# other: with one in each process the suite takes a sixth less of processor time. It is read when PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
settings.register_profile("predboard", deadline=None)
settings.load_profile("predboard")

# Processes that the package starts unpickle functions of the tests.
_ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(_ROOT / "pipeline"), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)


_started: "weakref.WeakSet[subprocess.Popen[Any]]" = weakref.WeakSet()
_popen_init = subprocess.Popen.__init__


def _recorded_init(process: "subprocess.Popen[Any]", *arguments: Any, **options: Any) -> None:
    _started.add(process)
    _popen_init(process, *arguments, **options)


subprocess.Popen.__init__ = _recorded_init  # type: ignore[method-assign,assignment]  # there is no hook for new processes


def pytest_configure() -> None:
    """Print commands as outside of make: `make test` sets this variable as all targets do."""
    os.environ.pop(MAKE_VARIABLE, None)


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    """End what a test started and left, as one that fails does: the next test would trip over it."""
    before = set(_started)
    yield
    forgotten = list(subprocess._active)  # type: ignore[attr-defined]  # those that nothing refers to any more
    for process in [*(set(_started) - before), *forgotten]:
        started = getattr(process, "pid", None) is not None  # one may be about to start, on another thread
        if started and process.poll() is None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
