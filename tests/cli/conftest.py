"""Fixtures for the tests of the command line."""

import dataclasses
from pathlib import Path

import pytest

from predboard.cli import main
from predboard.storage.runs import list_part_paths, part_path
from tests import toy
from tests.cli.example import CommandResult, Example, RunCommand


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run a command in this process."""

    def call(*arguments: str | Path) -> CommandResult:
        capsys.readouterr()
        code = main.run(list(map(str, arguments)))
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Return an example that no test may change."""
    folder = tmp_path_factory.mktemp("example")
    example = Example(folder, toy.pictures(folder / "data"), toy.model_file(folder), folder / "predictions" / "toy")
    assert main.run(["infer", *example.flags()]) == 0
    return example


@pytest.fixture
def example(finished: Example, tmp_path: Path) -> Example:
    """Return an example whose predictions a test may change."""
    out = tmp_path / "predictions" / "toy"
    for part in list_part_paths(finished.out, 0):
        copy = part_path(out, 0, 0).with_name(part.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(part.read_bytes())
    return dataclasses.replace(finished, folder=tmp_path, out=out)
