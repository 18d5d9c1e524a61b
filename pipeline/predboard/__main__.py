"""Run the command `predboard`, which a signal ends with one line from the first moment. It knows no commands."""

import gc
import os
import signal

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def main() -> None:
    """Run the command line: the entry point of `predboard` and of `python -m predboard`.

    While modules are imported there is nothing to tidy up, so a signal ends the process at once: an exception would
    pass through modules that are half imported, some of which print or swallow it.
    """
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background
            signal.signal(number, _end)
    gc.disable()  # until `stoppable`: modules are no garbage, and looking for some takes a tenth of the start
    from predboard.streams import protect_streams

    protect_streams()
    from predboard.cli.main import main as run

    run()


def _end(number: int, _: object) -> None:
    try:
        os.write(2, f"predboard: {_WORDS[signal.Signals(number)]}\n".encode())
    finally:  # also if nobody reads it
        os._exit(128 + number)


if __name__ == "__main__":
    main()
