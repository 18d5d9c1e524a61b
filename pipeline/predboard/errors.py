"""Define the exceptions for bad input. They know nothing of where the input came from.

Everything a user can get wrong is raised as `InputError`, with one line that says what was found, what was expected and
what to do next. The command line prints that line and exits with 2; any other exception is a bug.
"""

import contextlib
from collections.abc import Iterator

from predboard.near_paths import did_you_mean_path

MESSAGE_LENGTH = 300
"""Characters of a parser's message that are passed on: some quote the whole file."""

LINE_LENGTH = 1_000
"""Characters of a line for the user; of a longer one the middle is left out."""


class InputError(ValueError):
    """Input that cannot be used; the message is one line for the user."""


class DamagedError(InputError):
    """A file that predboard wrote and that is no longer intact. Stage one writes it again."""


class UnreadableError(OSError):
    """A file that is not even tried: it may never end, or takes too much memory. The message does not name it."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MESSAGE_LENGTH]


def one_line(message: str) -> str:
    r"""Return a message as one line that a person can read: names and values in it may have line breaks, or be endless.

    >>> one_line("no file a\nb"), len(one_line("x" * 70_000))
    ('no file a b', 1003)
    """
    line = " ".join(message.splitlines())
    return line if len(line) <= LINE_LENGTH else f"{line[: LINE_LENGTH // 2]} … {line[-LINE_LENGTH // 2 :]}"


@contextlib.contextmanager
def reading(file: object, error_type: type[InputError] = InputError) -> Iterator[None]:
    """Raise whatever a parser raises for a user's file as one line that names the file.

    It belongs around calls of a parser (Arrow, json, tomllib, NumPy, torch, tarfile, zipfile) and of what converts the
    values that a file holds, and around nothing else: an exception of our own code is a bug, and must show itself.
    Parsers raise whatever they happen to meet, so that no list of types would be complete: RecursionError of deep JSON,
    OverflowError of a date, AttributeError of a member that is no array.

    Args:
        file: its path, or words for a place in it, as in `labels.jsonl, line 3`.
        error_type: of the exception that is raised; an InputError of any type passes through.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        plain = isinstance(error, ValueError | OSError) and str(error)  # others say little without their names
        why = first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}"
        near = did_you_mean_path(error.filename) if isinstance(error, FileNotFoundError) and error.filename else ""
        raise error_type(f"cannot read {file}: {why}{near}") from error
