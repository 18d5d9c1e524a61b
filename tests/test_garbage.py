"""Imports are spared the search for garbage, and a caller's garbage is found as before."""

import subprocess
import sys

from tests import toy

_SCRIPT = """
import gc
from predboard.garbage import importing

def cycle():
    mine = []
    mine.append(mine)
    return id(mine)

with importing():
    assert not gc.isenabled()
    cycle()
assert gc.isenabled() and gc.get_freeze_count() == 0
assert gc.collect() >= 1  # a caller's cycle, although it came to be inside
with importing(ours=True):
    with importing():
        pass
    assert not gc.isenabled()
    cycle()
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > 1000 and gc.collect() == 0
with importing():
    modules = [{i: [i]} for i in range(10_000)]
assert gc.get_freeze_count() > frozen + 10_000  # of a process that is ours
gc.disable()
with importing():
    pass
assert not gc.isenabled()
"""


def test_imports_are_spared_and_a_callers_garbage_is_found() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=toy.ROOT / "pipeline", capture_output=True, timeout=20)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_a_command_ends_without_a_search_for_garbage() -> None:
    script = (
        "import atexit, gc, sys\nfrom predboard.__main__ import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\nsys.argv[1:] = ['--help']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=toy.ROOT / "pipeline", capture_output=True, timeout=20)
    assert done.stdout.decode().splitlines()[-1] == "True"
