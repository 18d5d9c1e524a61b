"""Runs the command that follows its name, and prints its seconds and the processor time of all its processes.

It adopts what the command leaves behind, such as the workers of a server of processes, and waits for it, since the
system counts a process only once somebody has waited for it. It knows nothing of the command, and imports little.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode
    wall = time.perf_counter() - began
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{wall} {used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime}")
    sys.exit(code if code >= 0 else 128 - code)
