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


def plural(number: int, one: str, many: str = "") -> str:
    """A number and what it counts, for a message.

    >>> plural(1, "part"), plural(1200, "part"), plural(0, "class", "classes")
    ('1 part', '1,200 parts', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
