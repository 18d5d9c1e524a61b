"""The exceptions for bad input; they know nothing of where the input came from.

Everything a user can get wrong is raised as `InputError`, with one line that says what was found, what was expected and
what to do next. The command line prints that line and exits with 2; every other exception is a defect of ours.
"""


class InputError(ValueError):
    """Bad input: the message is one line for the user."""


class DamagedError(InputError):
    """A file that was ours and whole once, and is not any more. Stage one makes it again."""


def first_line(error: BaseException) -> str:
    """First line of an exception's message, or its type's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
