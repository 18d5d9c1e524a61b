"""How every process of the tests runs."""

import os

# Tests run on every processor at once, and their networks are so small that PyTorch's threads only wait for each
# other: with one in each process the suite takes a sixth less of processor time. It is read when PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
