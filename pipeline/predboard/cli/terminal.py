"""Write to the terminal: progress, counts, and the next command to type. It knows nothing of how a command works."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from predboard.errors import InputError
from predboard.invocation import as_typed
from predboard.streams import lost_output

if TYPE_CHECKING:
    from predboard.predictions.row_count import RowCount


def log(line: str) -> None:
    """Print a line of progress to stderr, at once."""
    print(as_typed(line), file=sys.stderr, flush=True)


def print_document(text: str) -> None:
    """Print what a program will read, as UTF-8. Raises InputError if not all of it could be written."""
    print_bytes(text.encode("utf-8", "backslashreplace"))


def print_bytes(content: bytes) -> None:
    """Print what a program will read, as it is. Raises InputError if not all of it could be written."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.flush()
    if reason := lost_output():
        raise InputError(f"cannot write to standard output: {reason}; what is there is incomplete")


def print_counts(steps: Mapping[int, "RowCount"]) -> None:
    """Print a line for each step: rows that worked and failed, and the share of right ones if there are labels."""
    for step, count in steps.items():
        accuracy = "" if count.accuracy is None else f", {count.right_share} {count.accuracy:.4f}"
        ok = count.rows - count.failed
        print(f"step {step}: {ok:,} ok, {count.failed:,} failed, {count.unlabelled:,} unlabelled{accuracy}")
