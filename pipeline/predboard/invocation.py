"""Write commands as the person who started this process can type them. It knows no command of ours by name.

`predboard` is on the path in one house, `.venv/bin/predboard`, `python -m predboard` or `make` in the next.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

MAKE_VARIABLE = "PREDBOARD_MAKE"
"""Set by the Makefile, whose users go on with make."""

_MAKE: Mapping[str, str] = {"visualize": "PREDICTIONS", "inspect": "PREDICTIONS", "board": "LOGDIR"}
"""Targets of the Makefile with the variable that stands for a command's one argument."""

_MAKE_FLAGS: Mapping[str, str] = {
    "--data": "DATA=",
    "--model": "MODEL=",
    "--checkpoint": "CHECKPOINT=",
    "--out": "PREDICTIONS=",
    "--logdir": "LOGDIR=",
}
"""Flags that are variables of the Makefile."""


def command_line(*words: object) -> str:
    """Return a command of ours as a shell takes it.

    >>> command_line("inspect", "my run").replace(program(), "predboard")
    "predboard inspect 'my run'"
    """
    texts = list(map(str, words))
    if os.environ.get(MAKE_VARIABLE) and texts[0] in _MAKE:
        variable = f"{_MAKE[texts[0]]}={shlex.quote(texts[-1])}"
        return f"make {texts[0]}" if variable == "LOGDIR=logs" else f"make {texts[0]} {variable}"
    return f"{program()} {shlex.join(texts)}"


def program() -> str:
    """Return how this program was called: `predboard` if the shell finds that, else its path or Python's."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "predboard":
        return f"{shlex.quote(sys.orig_argv[0])} -m predboard"
    if called.name != "predboard":  # a program that uses the package
        return "predboard"
    on_path = shutil.which("predboard")
    if on_path is not None and Path(on_path).resolve() == called.resolve():
        return "predboard"
    return shlex.quote(str(called))


def as_typed(message: str) -> str:
    """Return a message whose commands between backticks are as a person can type them."""
    return re.sub(r"`predboard (?=\w)", lambda _: f"`{program()} ", message)


def with_make_variables(message: str, command: str) -> str:
    """Return a message of a command that make runs with make's variables in place of flags; other messages as they are.

    Flags that are no variables are left, and the end says which variable takes them.
    """
    if not os.environ.get(MAKE_VARIABLE) or command not in ("infer", *_MAKE):
        return message
    pieces = re.split("(`[^`]*`)", message)  # every second one is a command
    for flag, variable in _MAKE_FLAGS.items():
        pieces[::2] = [re.sub(rf"(?<![\w-]){flag}(?![\w-])", variable, piece) for piece in pieces[::2]]
    if any(re.search(r"(?<![\w-])--[a-z]", re.sub(r"\(see .*\)", "", piece)) for piece in pieces[::2]):
        pieces.append(f" (flags go into {'INFER_ARGS' if command == 'infer' else 'ARGS'}='…' of make)")
    return "".join(pieces)


def install_command(package: str = "", extra: str = "") -> str:
    """Return the command that installs a package, or an extra of ours, for the Python that runs this."""
    pip = Path(sys.executable).with_name("pip")
    if pip.is_relative_to(Path.cwd()):
        pip = pip.relative_to(Path.cwd())
    elif shutil.which("pip") == str(pip):
        pip = Path("pip")
    source = Path(__file__).parents[2]
    if extra:
        place: str | Path = "." if source == Path.cwd() else source
        editable = (source / "pyproject.toml").is_file()
        package = f"-e {shlex.quote(f'{place}[{extra}]')}" if editable else shlex.quote(f"predboard[{extra}]")
    return f"{pip} install {package}"
