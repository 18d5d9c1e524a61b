"""Reads a query from the parameters of a request, those of the tab's address. It knows no rows and no HTTP."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from predboard.errors import InputError
from predboard.tab.pairs import KINDS, MOVES

STATES = ("failed", "unlabelled", "labelled")
"""Failed rows have no prediction; unlabelled ones have one, but no label; labelled ones have both."""

OWN_NUMBERS = ("confidence", "loss", "margin", "entropy")
"""Columns whose ranges have a parameter of their own name; those of others are `n.COLUMN`."""

MAX_VALUES_ASKED = 10_000
"""Classes, or values of a column, that one parameter may name."""

MAX_TEXT = 500
"""Characters of the text that is looked for."""

MAX_CORNERS = 500
"""Corners of a lasso."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


@dataclass(frozen=True)
class Range:
    """The numbers of a column from `low` to `high`, both included; None is no limit."""

    column: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Values:
    """Some values of a column; None is no value."""

    column: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Query:
    """Which rows of a step are meant: those for which everything that is set is true."""

    true: tuple[int, ...] = ()
    """True classes; -1 is none."""
    predicted: tuple[int, ...] = ()
    """Predicted classes; -1 is none."""
    missed: tuple[int, ...] = ()
    """True classes that were not predicted; -1 is none, where rows have several labels each."""
    wrongly_predicted: tuple[int, ...] = ()
    """Predicted classes that are not true, likewise."""
    right: bool | None = None
    state: str = ""
    """One of `STATES`."""
    ranges: tuple[Range, ...] = ()
    values: tuple[Values, ...] = ()
    text: str = ""
    """Part of the image's name, in upper or lower case."""
    tags: tuple[str, ...] = ()
    """Any of these; the empty one stands for no tag at all."""
    suspect: bool = False
    other: tuple[str, int] | None = None
    """Run and step with which rows are compared."""
    kind: str = ""
    """One of `pairs.KINDS`; needs `other`."""
    was: tuple[int, ...] = ()
    """Classes that `other` predicted; needs `other`."""
    lost: tuple[int, ...] = ()
    gained: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    """Labels about which the decision changed in one of the ways of `pairs.MOVES`; these need `other`."""
    lasso: tuple[tuple[float, float], ...] = ()
    """Corners of a polygon on the map."""

    def without(self, *fields: str) -> "Query":
        """Return the query without what some fields ask for; a column's name stands for its range."""
        empty = Query()
        cleared = {name: getattr(empty, name) for name in fields if name in Query.__dataclass_fields__}
        ranges = tuple(span for span in self.ranges if span.column not in fields)
        return replace(self, ranges=ranges, **cleared)

    def without_values(self, column: str) -> "Query":
        """Return the query without the values of one column that it asks for."""
        return replace(self, values=tuple(wanted for wanted in self.values if wanted.column != column))


def read_query(parameters: Mapping[str, Sequence[str]]) -> Query:
    """Return the query of the parameters of a request; those that belong to no query are left alone.

    Raises InputError for a value that is not understood.

    >>> query = read_query({"true": ["3"], "right": ["0"], "confidence": [".9.."]})
    >>> query.true, query.right, query.ranges
    ((3,), False, (Range(column='confidence', low=0.9, high=None),))
    """
    own = {"true", "pred", "missed", "wrongly_predicted", *OWN_NUMBERS}
    own |= {"right", "state", "q", "tag", "suspect", "other", "kind", "was", *MOVES, "lasso"}
    for name in own & parameters.keys():
        if len(parameters[name]) > 1:
            raise InputError(f"{name} is given {len(parameters[name])} times: expected once")
    given = {name: parameters[name][0] for name in own & parameters.keys() if parameters[name][0]}
    ranges = [_read_range(name, given[name]) for name in OWN_NUMBERS if name in given]
    values = []
    for name, texts in parameters.items():
        if name.startswith("n."):
            ranges += [_read_range(name[2:], text) for text in texts if text]
        elif name.startswith("s."):
            values += [Values(name[2:], split_values(text)) for text in texts]
    other = _read_other(given["other"]) if "other" in given else None
    if other is None and (pointless := [name for name in ("kind", "was", *MOVES) if name in given]):
        raise InputError(f"{pointless[0]} needs other=RUN@STEP, the step to compare with")
    return Query(
        true=_read_classes("true", given),
        predicted=_read_classes("pred", given),
        missed=_read_classes("missed", given),
        wrongly_predicted=_read_classes("wrongly_predicted", given),
        right={None: None, "0": False, "1": True}[_one_of("right", given, ("0", "1"))],
        state=_one_of("state", given, STATES) or "",
        ranges=tuple(ranges),
        values=tuple(values),
        text=_read_text(given.get("q", "")),
        tags=tuple("" if tag == "!" else tag for tag in given["tag"].split(",")) if "tag" in given else (),
        suspect=_one_of("suspect", given, ("1",)) == "1",
        other=other,
        kind=_one_of("kind", given, KINDS) or "",
        was=_read_classes("was", given),
        **{name: _read_classes(name, given) for name in MOVES},
        lasso=_read_lasso(given["lasso"]) if "lasso" in given else (),
    )


def _one_of(name: str, given: Mapping[str, str], options: Sequence[str]) -> str | None:
    value = given.get(name)
    if value is not None and value not in options:
        raise InputError(f"{name} is {_short(value)}; expected {' or '.join(options)}")
    return value


def _read_classes(name: str, given: Mapping[str, str]) -> tuple[int, ...]:
    texts = given[name].split(",") if name in given else []
    if len(texts) > MAX_VALUES_ASKED or not all(re.fullmatch(r"-1|\d{1,9}", text, re.ASCII) for text in texts):
        raise InputError(f"{name} is {_short(given[name])}; expected numbers of classes, such as 3 or 3,5, or -1")
    return tuple(map(int, texts))


def _read_range(column: str, text: str) -> Range:
    low, dots, high = text.partition("..")
    if dots and all(end == "" or _NUMBER.fullmatch(end) for end in (low, high)):
        return Range(column, float(low) if low else None, float(high) if high else None)
    raise InputError(f"the range of {column} is {_short(text)}; expected LOW..HIGH, such as .9.. or ..2 or 1..2")


def _read_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise InputError(f"the text to look for has {len(text):,} characters; expected at most {MAX_TEXT}")
    return text


def _read_other(text: str) -> tuple[str, int]:
    run, at, step = text.rpartition("@")
    if not at or not run or not re.fullmatch(r"\d{1,18}", step, re.ASCII):
        raise InputError(f"other is {_short(text)}; expected RUN@STEP")
    return run, int(step)


def _read_lasso(text: str) -> tuple[tuple[float, float], ...]:
    numbers = text.split(",")
    corners = len(numbers) // 2
    if len(numbers) % 2 or not 3 <= corners <= MAX_CORNERS or not all(map(_NUMBER.fullmatch, numbers)):
        raise InputError(f"lasso is {_short(text)}; expected x,y,x,y,… of 3 to {MAX_CORNERS} corners")
    return tuple(zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True))


def split_values(text: str) -> tuple[str | None, ...]:
    r"""Return the values of a column that a parameter names, as `join_values` writes them.

    >>> split_values(r"NO|a\|b|\\|\N")
    ('NO', 'a|b', '\\', None)
    """
    pieces = re.findall(r"(?:^|\|)((?:\\.|[^|\\])*)", text, re.DOTALL)
    if len(pieces) > MAX_VALUES_ASKED:
        raise InputError(f"{len(pieces):,} values of a column; expected at most {MAX_VALUES_ASKED:,}")
    return tuple(None if piece == r"\N" else re.sub(r"\\(.)", r"\1", piece, flags=re.DOTALL) for piece in pieces)


def join_values(values: Sequence[str | None]) -> str:
    r"""Return values of a column as one parameter.

    >>> join_values(["NO", "a|b", "\\", None])
    'NO|a\\|b|\\\\|\\N'
    """
    return "|".join(r"\N" if value is None else re.sub(r"([|\\])", r"\\\1", value) for value in values)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
