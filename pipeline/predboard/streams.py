"""Keep standard output and standard error from ending the work. It knows nothing of what is written to them.

The reader of a pipe may leave (`| head -1`), a disk may be full, a shell may close a stream (`>&-`), and an encoding
may lack a character: none of that may lose rows or change the exit code of a gate.
"""

import codecs
import errno
import io
import os
import re
import select
import sys
from typing import Any, cast

_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}

_ASCII = {"−": "-", "–": "-", "→": "->", "…": "...", "≥": ">=", "≤": "<=", "×": "x", "·": "-"}
"""Replacements for the signs of our messages where an encoding lacks them: a minus must not vanish."""


class _Stream(io.FileIO):
    """A standard stream that drops what it cannot write, and remembers why."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            while (count := super().write(data)) is None:  # a pipe that does not block, as some build servers pass
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
        return cast(int, count)


class _Text(io.TextIOWrapper):
    """A standard stream on which names of files and classes cannot act as commands of the terminal."""

    def write(self, text: str) -> int:
        start = text.startswith("\r")  # a progress bar's, which is drawn over itself
        super().write("\r" * start + _CONTROL.sub(_escape, text[start:]))
        return len(text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and line end, and those that turn the direction of writing."""


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def protect_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` streams to which writing never fails, and that escape control characters.

    A stream that is closed is opened on nothing first: the next file would take its number, and whatever a library
    prints would get into that file.
    """
    codecs.register_error("predboard", _replace)
    for name, number in _NUMBERS.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if name != "stdin":
            before = getattr(sys, name)
            if before is not None:
                before.flush()
            setattr(sys, name, _open(number, before, errors="predboard" if number == 1 else "backslashreplace"))


def _open(number: int, before: Any, errors: str) -> io.TextIOWrapper:
    """Return a stream on a file descriptor, with the encoding and the buffering of the one before."""
    return _Text(
        io.BufferedWriter(_Stream(number, "w", closefd=False)),
        getattr(before, "encoding", "utf-8"),
        errors,
        line_buffering=getattr(before, "line_buffering", False) or getattr(before, "write_through", False),
    )


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError) or error.object[error.start] not in _ASCII:
        return codecs.backslashreplace_errors(error)
    return _ASCII[error.object[error.start]], error.start + 1


def lost_output() -> str:
    """Return why standard output is incomplete; nothing if it is whole, or if its reader wanted no more."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Stream) else None
    return "" if failure is None or failure.errno == errno.EPIPE else failure.strerror or str(failure)


def print_warning(line: str) -> None:
    """Print a line of progress to standard error if it is a warning: the `log` of a program that passes none."""
    if line.lstrip().startswith("warning"):
        sys.stderr.write(f"predboard: {line.lstrip()}\n")
