"""How every process of the tests runs."""

import os
from pathlib import Path

# Tests run on every processor at once, and their networks are so small that PyTorch's threads only wait for each
# other: with one in each process the suite takes a sixth less of processor time. It is read when PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that the package starts unpickle functions of the tests.
_ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(_ROOT / "pipeline"), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
