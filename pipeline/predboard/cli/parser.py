"""Read a configuration from command-line flags and from `--config FILE.toml`, and write the text of `--help`.

Every flag is a field of a dataclass in `config`: its type says how a value is written, its docstring is the help text.
This module knows nothing of what a command does.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import re
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin

from predboard.config import SideLength
from predboard.errors import InputError, first_line
from predboard.formatting import did_you_mean, either
from predboard.invocation import program
from predboard.near_paths import did_you_mean_path
from predboard.storage.paths import AnyPath, is_same, is_uri, read_small_text

C = TypeVar("C")


@dataclass(frozen=True)
class Syntax:
    """The syntax of the values of one type."""

    metavar: str
    """Stands for the value in help texts; if empty, the last word of the field's name does."""
    expected: str
    """The words that are accepted, for a message."""
    read: Callable[[str], Any]
    """Turns one word into a value; raises ValueError for a word that it does not understand."""
    several: bool = False
    """Whether the flag takes any number of words."""
    repeats: bool = False
    """Whether the flag may be given again to add values; else the last one counts."""
    collect: Callable[[list[Any]], Any] = tuple
    """Makes the field's value of the values of several words."""
    choices: tuple[str, ...] = ()
    """All words that are accepted, if there is a list of them."""


def _members(type_: Any) -> frozenset[Any]:
    """Return the types that a union consists of, without None; of any other type itself.

    >>> sorted(member.__name__ for member in _members(int | str | None))
    ['int', 'str']
    """
    members = get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)
    return frozenset(members) - {types.NoneType}


def _number_or(word: str) -> Callable[[str], int | str]:
    return lambda text: text if text == word else int(text)


def _read_size(text: str) -> int | str | tuple[int, int]:
    if size := re.fullmatch(r"(\d+)[x×](\d+)", text):
        return int(size[1]), int(size[2])
    return _number_or("none")(text)


def _read_share(text: str) -> tuple[int, int]:
    if share := re.fullmatch(r"(\d+)/(\d+)", text):
        return int(share[1]), int(share[2])
    raise ValueError


def _read_numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _read_pair(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is a Python literal becomes one, any other stays text."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ValueError
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key, value


_NUMBERS = "numbers joined by commas without spaces, such as 0.485,0.456,0.406"
_SYNTAX: dict[frozenset[Any], Syntax] = {
    _members(type_): syntax
    for type_, syntax in (
        (str, Syntax("", "text", str)),
        (int, Syntax("N", "a whole number", int)),
        (float, Syntax("X", "a number", float)),
        (Path, Syntax("FILE", "a path", Path)),
        (AnyPath, Syntax("PATH", "a path or a URI", str)),  # the configuration makes it a path
        (SideLength, Syntax("N|none", "N or none", _number_or("none"))),
        (SideLength | tuple[int, int], Syntax("N|HxW|none", "N, HxW or none", _read_size)),
        (int | Literal["all"], Syntax("N|all", "N or all", _number_or("all"))),
        (tuple[int, int], Syntax("K/N", "K/N, such as 1/8", _read_share)),
        (tuple[float, ...], Syntax("A,B,C", _NUMBERS, _read_numbers)),
        (tuple[str, ...], Syntax("A,B,…", "names joined by commas", _read_names, repeats=True)),
        (tuple[int, ...], Syntax("N", "whole numbers separated by spaces", int, several=True)),
        (tuple[Path, ...], Syntax("FILE", "paths", Path, several=True)),
        (tuple[AnyPath, ...], Syntax("PATH", "paths or URIs", str, several=True)),
        (tuple[tuple[str, ...], ...], Syntax("A,B", "names joined by commas", _read_names, several=True, repeats=True)),
        (Mapping[str, Any], Syntax("KEY=VALUE", "KEY=VALUE", _read_pair, several=True, collect=dict)),
    )
}


def _read_choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError
    return text


def _syntax_of(type_: Any) -> Syntax:
    members = _members(type_)
    choices = next((get_args(member) for member in members if get_origin(member) is Literal), ())
    if len(members) == 1 and choices:
        return Syntax("|".join(choices), either(choices), lambda text: _read_choice(text, choices), choices=choices)
    return _SYNTAX[members]  # a type that is not in it is a mistake of ours


@dataclass(frozen=True)
class Flag:
    """One field of a configuration, as the command line and TOML files write it."""

    field: "dataclasses.Field[Any]"
    syntax: Syntax | None
    """None for a switch, which is on or off."""

    @property
    def name(self) -> str:
        """The flag as a person types it, such as --batch-size."""
        return f"--{self.field.name.replace('_', '-')}"

    @property
    def usage(self) -> str:
        """The flag with what follows it, such as --batch-size N."""
        return f"{self.name} {self.metavar}".strip()

    @property
    def metavar(self) -> str:
        """The word that stands for the value, empty for a switch."""
        if self.syntax is None:
            return ""
        return self.syntax.metavar or self.field.name.rpartition("_")[2].upper()

    @property
    def positional(self) -> bool:
        """Whether its values are given without the flag."""
        return bool(self.field.metadata.get("positional"))

    @property
    def required(self) -> bool:
        """Whether the configuration has no default for it."""
        return self.field.default is self.field.default_factory is dataclasses.MISSING

    def read(self, words: Sequence[str]) -> Any:
        """Turn words of a command line into the field's value. Raises InputError for one that is not understood."""
        if self.syntax is None:
            raise InputError(f"{self.name} is {words[0]!r}; expected true or false")
        values = [self._read_word(self.syntax, word) for word in words]
        if self.syntax.several:
            return self.syntax.collect(values)
        if self.syntax.repeats and None not in values:
            return tuple(itertools.chain.from_iterable(values))
        return values[-1]

    def _read_word(self, syntax: Syntax, word: str) -> Any:
        if word == "None" and types.NoneType in get_args(self.field.type) and not self.positional:
            return None  # takes back what a configuration file says
        try:
            return syntax.read(word)
        except ValueError:
            near = did_you_mean(word, syntax.choices)
            raise InputError(f"{self.name} is {word!r}; expected {syntax.expected}{near}") from None

    def read_toml(self, value: Any) -> Any:
        """Turn the value of a TOML file into the field's value. Raises InputError for one that does not fit."""
        if self.syntax is None or isinstance(value, bool):
            return value if isinstance(value, bool) and self.syntax is None else self.read([str(value)])
        if isinstance(value, dict) and self.syntax.collect is dict:
            return value
        if isinstance(value, list):
            texts = list(map(str, value))
            return self.read(texts if self.syntax.several else [",".join(texts)])
        return self.read([str(value)])


def flags_of(config: type) -> dict[str, Flag]:
    """Return the flags of a configuration by the names of its fields."""
    fields = dataclasses.fields(config)
    return {field.name: Flag(field, None if field.type is bool else _syntax_of(field.type)) for field in fields}


def parse(command: str, config: type[C], arguments: Sequence[str]) -> C:
    """Build a configuration from flags and, for fields that no flag sets, from `--config FILE.toml`.

    Raises InputError with one line for a flag, key or value that is not understood, and SystemExit after printing the
    help text that `--help` asks for.
    """
    flags = flags_of(config)
    if {"-h", "--help"} & set(arguments):
        print_help(command, config)
        raise SystemExit(0)
    try:
        return config(**_values(command, flags, arguments))
    except InputError as error:
        raise InputError(f"{error} (see {program()} {command} --help)") from None


def _values(command: str, flags: Mapping[str, Flag], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the value of each field that the command line or its configuration file sets."""
    given, rest = _split(command, flags, arguments)
    file = given.pop("config", None)
    values = {} if file is None else _read_file(file[0], command, flags)
    values |= {name: words if flags[name].syntax is None else flags[name].read(words) for name, words in given.items()}
    for name, flag in flags.items():
        if flag.positional and rest:
            several = flag.syntax is not None and flag.syntax.several
            taken, rest = (rest, []) if several else (rest[:1], rest[1:])
            values[name] = flag.read(taken)
    if rest:
        _refuse_words(rest)
    if file is not None:
        for name, value in values.items():
            if flags[name].metavar in ("FILE", "PATH") and value and is_same(Path(file[0]), Path(str(value))):
                raise InputError(f"{flags[name].name} is {value}, the file of --config: name another one")
    if missing := [flag.usage for name, flag in flags.items() if flag.required and name not in values]:
        raise InputError(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    return values


def _split(command: str, flags: Mapping[str, Flag], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the words (for a switch, the value) of each flag by its field, and the words that belong to no flag."""
    usage = {flag.name: flag.usage for flag in flags.values()} | {"--config": "--config FILE.toml"}
    takes_one = {flag.name for flag in flags.values() if flag.syntax and not flag.syntax.several} | {"--config"}
    words: list[str] = []
    for argument in arguments:
        if words and words[-1] in takes_one and re.match(r"[^-]|-[\d.]|$", argument):
            words[-1] += f"={argument}"  # argparse takes a value such as -1,0 for a flag
        else:
            words.append(re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), argument))
    try:
        given, rest = _parser(command, flags).parse_known_args(words)
    except argparse.ArgumentError as error:
        name = str(error.argument_name)
        needs = f"needs a value: {usage[name]}" if " " in usage.get(name, "") else "is a switch and takes no value"
        raise InputError(f"{name} {needs}") from None
    end = rest.index("--") if "--" in rest else len(rest)
    if unknown := next((word.partition("=")[0] for word in rest[:end] if word.startswith("-")), None):
        names = [name for name, flag in zip(usage, flags.values(), strict=False) if not flag.positional]
        raise InputError(f"no flag {unknown}{did_you_mean(unknown, names)}")
    return vars(given), rest[:end] + rest[end + 1 :]


def _refuse_words(words: Sequence[str]) -> NoReturn:
    """Raise InputError for words that belong to no flag, such as the numbers of a list that was typed with spaces."""
    hint = ""
    if all(re.fullmatch(r"-?[\d.]+,?", word) for word in words):
        hint = "; the numbers of one flag are joined by commas without spaces: --mean 0.485,0.456,0.406"
    raise InputError(f"unexpected {', '.join(map(repr, words))}{hint}")


def _read_file(file: str, command: str, flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Return the values of the fields that a TOML file sets."""
    if is_uri(file):
        raise InputError(f"--config is {file}; expected a file on this machine")
    try:
        table = tomllib.loads(read_small_text(Path(file)))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}{did_you_mean_path(file, Path.is_file)}") from error
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits, and of deep lists
        raise InputError(f"{file} is not valid TOML: {first_line(error)}") from error
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in flags:
            raise InputError(
                f"{file} has {key!r}, which is not a flag of `predboard {command}`{did_you_mean(name, flags)}"
            )
        values[name] = flags[name].read_toml(value)
    return values


def _parser(command: str, flags: Mapping[str, Flag]) -> argparse.ArgumentParser:
    """Return a parser that only takes a command line apart: words stay text, and a flag not given has no value."""
    parser = argparse.ArgumentParser(
        prog=f"predboard {command}",
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", nargs=1)
    for flag in flags.values():
        if not flag.positional:
            _add_flag(parser, flag)
    return parser


def _add_flag(group: Any, flag: Flag, text: str = "") -> None:
    """Add a flag to a parser or to one of its groups."""
    name = flag.field.name
    if flag.syntax is None:
        off = f"--no-{flag.name[2:]}"
        both = flag.field.default is True  # then it is the other form that people type
        group.add_argument(flag.name, dest=name, action="store_const", const=True, help=text)
        group.add_argument(off, dest=name, action="store_const", const=False, help="" if both else argparse.SUPPRESS)
    else:
        nargs, action = "*" if flag.syntax.several else 1, "extend" if flag.syntax.repeats else "store"
        group.add_argument(flag.name, dest=name, nargs=nargs, action=action, metavar=flag.metavar, help=text)


def print_help(command: str, config: type) -> None:
    """Print the flags of a command under their headings, with their help texts and defaults."""
    flags = flags_of(config)
    parser = argparse.ArgumentParser(
        usage=f"predboard {command} {' '.join(_usage(flags))}",
        add_help=False,
        description=(inspect.getdoc(config) or "").partition("\n\n")[0],
        epilog="Every switch also has the form --no-NAME, which takes back what a file says.",
    )
    groups: dict[str, Any] = {}
    for name, (heading, text) in _help_texts(config).items():
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        if flags[name].positional:
            groups[heading].add_argument(name, metavar=name.upper(), help=text)
        else:
            _add_flag(groups[heading], flags[name], text)
    more = parser.add_argument_group("More")
    more.add_argument("--config", metavar="FILE.toml", help="Read flags from a file: their names are its keys.")
    more.add_argument("--help", action="store_true", help="Print this text.")
    parser.print_help()


def _usage(flags: Mapping[str, Flag]) -> Iterator[str]:
    for name, flag in flags.items():
        if flag.positional:
            several = flag.syntax is not None and flag.syntax.several
            yield f"[{name.upper()}{' ...' * several}]"
        elif flag.required:
            yield flag.usage
    yield "[flags]"


def _help_texts(config: type) -> dict[str, tuple[str, str]]:
    """Return the heading and the help text of each field: the docstrings in the source, one line each."""
    texts = {}
    for group in (config, *reversed(config.__mro__[1:-1])):
        heading = (inspect.getdoc(group) or "").partition(":")[0] if group is not config else "Flags"
        (definition,) = ast.parse(inspect.getsource(group)).body
        for field, text in itertools.pairwise(cast(ast.ClassDef, definition).body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    texts[name] = heading, f"{' '.join(doc.split())}{_default(config, name)}".replace("%", "%%")
    return texts


def _default(config: type, name: str) -> str:
    """Return what the help text says of a default, unless the default is none, off or explained in the text."""
    default = getattr(config, name, None)
    if default is None or default is False or default in ((), ""):
        return ""
    return f" (default: {'on' if default is True else default})"
