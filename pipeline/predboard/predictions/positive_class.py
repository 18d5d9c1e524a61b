"""Choose which of two classes is the positive one. It knows nothing of files or of how the name was given."""

from collections.abc import Sequence
from dataclasses import replace

from predboard.errors import InputError
from predboard.formatting import did_you_mean
from predboard.predictions.schema import Run


def choose_positive(classes: Sequence[str], name: str | None) -> str:
    """Return `Run.positive` for the class that --positive names: empty for the second of two, and for None.

    Raises InputError if there are not two classes, or none has this name.

    >>> choose_positive(("cat", "dog"), "cat"), choose_positive(("cat", "dog"), "dog")
    ('cat', '')
    """
    if name is None:
        return ""
    if len(classes) != 2:
        raise InputError(f"--positive {name} names one of two classes, but there are {len(classes):,}: leave it out")
    if name not in classes:
        near = did_you_mean(name, classes)
        raise InputError(f"--positive is {name!r}; expected {classes[0]} or {classes[1]}{near}")
    return "" if name == classes[1] else name


def with_positive(run: Run, name: str | None) -> Run:
    """Return the run with another positive class; None changes nothing. Raises InputError as `choose_positive` does."""
    return run if name is None else replace(run, positive=choose_positive(run.classes, name))
