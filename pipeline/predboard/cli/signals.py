"""End a command by an exception when Ctrl-C or SIGTERM arrives. It knows nothing of the commands."""

import contextlib
import gc
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal arrived; its number is the first argument."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` for Ctrl-C and for SIGTERM, which clusters and containers send before they kill.

    Each command enters it after its imports: until then `__main__` ends the process at once, because there is nothing
    to tidy up and an exception would go through modules that are half imported. Where `__main__` has stopped the
    collection of garbage, it begins again, and never looks at what has been imported.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    stopped: Stopped | None = None

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopped
        stopped = Stopped(number)
        raise stopped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as in a shell's background
                signal.signal(number, stop)
        yield
    except Exception:
        if stopped is not None:  # the signal led to it: a part left half written cannot be closed, for example
            raise stopped from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
