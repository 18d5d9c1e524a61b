"""No file and no function of the package is longer than a reader can hold."""

import ast

import pytest

from tests.test_imports import SOURCES

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80

EXCEPTIONS: dict[str, str] = {}
"""Module, or module:function, and why it may be longer."""


def too_long(sources: dict[str, str]) -> dict[str, int]:
    """Modules and functions above their limit, with their lines."""
    found = {}
    for module, source in sources.items():
        lines = len(source.splitlines())
        if lines > MAX_FILE_LINES:
            found[module] = lines
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    found[f"{module}:{node.name}"] = length
    return found


def test_no_file_and_no_function_is_too_long() -> None:
    assert set(too_long(SOURCES)) == set(EXCEPTIONS)


@pytest.mark.parametrize("long", ["def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES, "x = 1\n" * (MAX_FILE_LINES + 1)])
def test_what_is_too_long_is_found(long: str) -> None:
    assert set(too_long({"a": long})) & {"a", "a:f"}
    assert too_long({"a": "def f():\n    pass\n"}) == {}
