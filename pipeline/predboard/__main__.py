"""The command `predboard`, whose end by a signal is one line from the first moment on. Knows not what commands there
are.
"""

import atexit
import os
import signal

_HOW = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def main() -> None:
    """Entry point: `predboard`, and `python -m predboard`.

    Before a command begins, while modules are imported, and after it there is nothing to tidy up, so the process ends
    at once: an exception would go through modules that are half there, some of which print or swallow it.
    """
    for number in _HOW:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background
            signal.signal(number, _end)
    atexit.register(_over)  # the first, which is called last
    from predboard.cli.main import main as command

    command()


def _end(number: int, _: object) -> None:
    os.write(2, f"predboard: {_HOW[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _over() -> None:
    """All is said and written. Python takes its own modules apart and calls no handler: a signal would kill it."""
    for number in _HOW:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
