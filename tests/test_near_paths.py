"""The path that was meant by one that does not exist is found, whatever folder of it was mistyped."""

from pathlib import Path

import pytest

from predboard.cli import main
from predboard.near_paths import did_you_mean_path
from tests import toy


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("logs", "data/test", "data/train", "predictions/abc", ".git"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("net.py", "Classes.txt", "data/list.csv"):
        (tmp_path / file).write_text("x")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("log", "logs"),
        ("./log", "logs"),
        ("dta/tets", "data/test"),
        ("data/Train", "data/train"),
        ("predictions/abd", "predictions/abc"),
        ("classes.text", "Classes.txt"),
        ("data/../log", "data/../logs"),
        ("git", None),
        (".gti", ".git"),
        ("nothing/like/this", None),
        ("logs/run", None),
        ("net.py/a", None),
        ("s3://bucket/log", None),
        ("a\0b", None),
        ("x" * 300, None),
        ("", None),
    ],
)
def test_the_nearest_path_is_named(typed: str, meant: str | None) -> None:
    assert did_you_mean_path(typed) == ("" if meant is None else f"; did you mean {meant}?")
    if meant:
        absolute = Path.cwd() / typed
        assert did_you_mean_path(absolute) == f"; did you mean {Path.cwd() / meant}?"


def test_a_path_of_another_kind_is_not_named() -> None:
    assert did_you_mean_path("data/lists.csv", Path.is_file) == "; did you mean data/list.csv?"
    assert did_you_mean_path("data/lists.csv", Path.is_dir) == ""
    Path("logs2").touch()
    assert did_you_mean_path("logs_", Path.is_file) == "; did you mean logs2?"


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("board --logdir log", "logs"),
        ("infer --data data/tets --model net.py:build", "data/test"),
        ("infer --data data/test --model nett.py:build", "net.py"),
        ("infer --data data/test --model net.py:build --config clases.txt", "Classes.txt"),
        ("visualize abc", "predictions/abc"),
        ("visualize prediction/abc", "predictions/abc"),
        ("visualize predictions/abc --panels glnce", "glance"),
        ("visualize predictions/abc --image-root data/tets", "data/test"),
        ("compare predictions/abc predictions/ab", "predictions/abc"),
        ("gate predictions/abc --rules clases.txt", "Classes.txt"),
        ("gate predictions/abc --report clases.txt", "Classes.txt"),
        ("import data/lst.csv --scores logits", "data/list.csv"),
        ("import data/list.csv --scores logits --classes clases.txt", "Classes.txt"),
    ],
)
def test_every_command_names_what_may_have_been_meant(
    command: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logits, label = toy.table(toy.RUN, 20)
    toy.write_run(Path("predictions/abc"), logits, label)
    toy.pictures(Path("data/test"), each=1)
    assert main.run(command.split()) == 2
    assert f"; did you mean {meant}?" in capsys.readouterr().err
