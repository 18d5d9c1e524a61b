"""Commands in messages are as the person who reads them can type them."""

import sys
from pathlib import Path

import pytest

from predboard import invocation
from predboard.cli import main
from predboard.invocation import as_typed, command_line, install_command, with_make_variables
from tests import toy


@pytest.fixture(autouse=True)
def _in_a_folder_with_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    script = tmp_path / ".venv" / "bin" / "predboard"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.mark.parametrize(
    ("called", "python", "path", "shown"),
    [
        (".venv/bin/predboard", "", "", ".venv/bin/predboard"),
        (".venv/bin/predboard", "", ".venv/bin", "predboard"),
        ("/x/predboard/__main__.py", ".venv/bin/python", "", ".venv/bin/python -m predboard"),
        ("train.py", "", "", "predboard"),
        ("/my tools/predboard", "", "", "'/my tools/predboard'"),
    ],
)
def test_a_hint_begins_as_the_command_did(
    called: str, python: str, path: str, shown: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "orig_argv", [python, "-m", "predboard"])
    if path:
        monkeypatch.setenv("PATH", str(tmp_path / path))
    assert command_line("inspect", "my run") == f"{shown} inspect 'my run'"
    assert as_typed("run `predboard infer` first, predboard") == f"run `{shown} infer` first, predboard"


def test_under_make_the_next_command_is_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(invocation.MAKE_VARIABLE, "yes")
    assert command_line("visualize", "predictions/my net") == "make visualize PREDICTIONS='predictions/my net'"
    assert command_line("board", "--logdir", Path("logs")) == "make board"
    assert command_line("board", "--logdir", "other") == "make board LOGDIR=other"
    assert command_line("compare", "a", "b").endswith("predboard compare a b")
    makefile = (toy.ROOT / "Makefile").read_text("utf-8")
    assert f"export {invocation.MAKE_VARIABLE} := yes" in makefile


@pytest.mark.parametrize(
    ("command", "message", "shown"),
    [
        (
            "infer",
            "name another --out, or --overwrite",
            "name another PREDICTIONS=, or --overwrite (flags go into INFER_ARGS='…' of make)",
        ),
        ("infer", "no folder a: see --data", "no folder a: see DATA="),
        ("infer", "--model-args fits no --model", "--model-args fits no MODEL= (flags go into INFER_ARGS='…' of make)"),
        (
            "board",
            "name another --logdir, or `predboard visualize --x`",
            "name another LOGDIR=, or `predboard visualize --x`",
        ),
        ("visualize", "--panels x", "--panels x (flags go into ARGS='…' of make)"),
        ("infer", "no folder 'a--b' (see predboard infer --help)", "no folder 'a--b' (see predboard infer --help)"),
        ("compare", "name another --out", "name another --out"),
    ],
)
def test_under_make_a_message_names_variables_instead_of_flags(
    command: str, message: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_make_variables(message, command) == message
    monkeypatch.setenv(invocation.MAKE_VARIABLE, "yes")
    assert with_make_variables(message, command) == shown


def test_extras_are_installed_as_the_readme_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert install_command(extra="timm") == f".venv/bin/pip install -e '{toy.ROOT}[timm]'"
    monkeypatch.chdir(toy.ROOT)
    monkeypatch.setattr(sys, "executable", str(toy.ROOT / ".venv/bin/python"))
    assert install_command(extra="timm") == ".venv/bin/pip install -e '.[timm]'"
    assert f"`{install_command(extra='timm')}`" in (toy.ROOT / "README.md").read_text("utf-8")
    assert install_command("tensorboard") == ".venv/bin/pip install tensorboard"


@pytest.mark.parametrize("typed", ["predictions/digit", "digits", "predictions/Digits"])
def test_a_run_with_a_mistyped_name_is_named(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    logits, label = toy.table(toy.RUN, 6)
    toy.write_run(Path("predictions/digits"), logits, label, toy.RUN)
    Path("predictions/digest").mkdir()  # is no run
    assert main.run(["inspect", typed]) == 2
    assert "; did you mean predictions/digits?" in capsys.readouterr().err
