"""Define the exceptions for bad input. They know nothing of where the input came from.

Everything a user can get wrong is raised as `InputError`, with one line that says what was found, what was expected and
what to do next. The command line prints that line and exits with 2; any other exception is a bug.
"""


class InputError(ValueError):
    """Input that cannot be used; the message is one line for the user."""


class DamagedError(InputError):
    """A file that predboard wrote and that is no longer intact. Stage one writes it again."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
