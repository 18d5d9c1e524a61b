"""Keeps Python's search for garbage away from modules, which are none. It knows nothing of what is imported."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing(ours: bool = False) -> Iterator[None]:
    """Look for no garbage while modules are imported: that takes a tenth of the imports, of some libraries a third.

    In a process of our own it never looks among them later either; elsewhere there may be garbage of the caller's.

    Args:
        ours: whether the process is known to be ours; one that has called this so, or `gc.freeze`, is.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ours or gc.get_freeze_count():
            gc.freeze()
        if enabled:
            gc.enable()
