"""Turn what Python programs pass into the types of a configuration's fields. It knows no field by name.

A training script has a `str` where the field is a path, a list or a single value where it is a tuple, an array of NumPy
where it is numbers, and None where it means the default. What cannot be meant is one line.
"""

import dataclasses
import operator
import re
import reprlib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from predboard.errors import InputError
from predboard.formatting import did_you_mean, either
from predboard.storage.paths import is_path, parse_path
from predboard.storage.remote import RemotePath

_WORDS: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    RemotePath: "a URI",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The base of all configurations: when one is built, its fields get their types."""

    def __post_init__(self) -> None:
        """Raise InputError for a value that no value of its field's type stands for."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, read_field(field, getattr(self, field.name)))


def flag_name(name: str) -> str:
    """Return how the command line writes the name of a field, without the dashes in front."""
    return name.replace("_", "-")


def members_of(type_: Any) -> tuple[Any, ...]:
    """Return the types that a union consists of; of any other type itself.

    >>> [member.__name__ for member in members_of(int | str | None)]
    ['int', 'str', 'NoneType']
    """
    return get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)


def read_field(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return the value of a field that a program means by `value`. Raises InputError if that is none."""
    members = members_of(field.type)
    if value is None and types.NoneType not in members:
        if field.default is not dataclasses.MISSING:
            return field.default
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    if "RemotePath" not in str(field.type) and "Path" in str(field.type):
        _refuse_uris(field.name, value)
    try:
        return _read(members, value)
    except InputError:
        raise
    except (TypeError, ValueError):
        shown = " ".join(reprlib.repr(value).split())
        expected = either(list(dict.fromkeys(words for member in members if (words := _describe(member)))))
        near = did_you_mean(value, [word for member in members for word in get_args(member) if isinstance(word, str)])
        raise InputError(f"--{flag_name(field.name)} is {shown}; expected {expected}{near}") from None


def _read(members: tuple[Any, ...], value: Any) -> Any:
    """Return a value as one of several types. Raises TypeError or ValueError if it cannot be one."""
    error: Exception = TypeError()
    for member in members:
        try:
            return _read_one(member, value)
        except InputError:
            raise
        except (TypeError, ValueError) as no:
            error = no
    raise error


def _read_one(type_: Any, value: Any) -> Any:
    kind, inner = get_origin(type_), get_args(type_)
    if kind is tuple:
        return _read_tuple(inner, value)
    if kind is Literal:
        return inner[inner.index(value)]
    if type_ in (Path, RemotePath) and is_path(value):
        return parse_path(value)
    if type_ is str and is_path(value):
        return str(value)
    if type_ is int and not isinstance(value, bool):
        return operator.index(value)
    if type_ is float and not isinstance(value, bool | str | bytes):
        return float(value)
    if type_ is bool and type(value).__name__ in ("bool", "bool_"):  # as NumPy's is named
        return bool(value)
    if isinstance(kind or type_, type) and type_ not in _WORDS and isinstance(value, kind or type_):
        return value
    raise TypeError


def _read_tuple(inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Return a tuple of one or of several values; text for a tuple of texts is names joined by commas."""
    if isinstance(value, str) and inner[0] is str:
        value = [name for part in value.split(",") if (name := part.strip())]
    several = isinstance(value, Iterable) and not isinstance(value, Mapping | bytes) and not is_path(value)
    values = list(value) if several and getattr(value, "ndim", 1) != 0 else [value]
    if inner[-1] is not Ellipsis and len(values) != len(inner):
        raise ValueError
    return tuple(_read(members_of(inner[0]), one) for one in values)


def _describe(type_: Any) -> str:
    inner = get_args(type_)
    if get_origin(type_) is tuple:
        one = _describe(members_of(inner[0])[-1]).removeprefix("a ")
        return f"a list of {one}s" if inner[-1] is Ellipsis else f"{len(inner)} {one}s"
    if get_origin(type_) is Literal:
        return either([str(word) for word in inner])
    return _WORDS.get(type_, "a mapping" if inner else "")


def _refuse_uris(name: str, value: Any) -> None:
    """Raise InputError for a URI where only files on this machine work."""
    for file in value if isinstance(value, list | tuple) else (value,):
        if is_path(file) and (uri := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(file))):
            flag = "a file" if name == "files" else f"--{flag_name(name)}"
            raise InputError(
                f"{flag} is {uri[1]}://{uri[2]}; expected a path on this machine: only images, predictions and "
                "logs may be in object storage (docs/storage.md)"
            )
