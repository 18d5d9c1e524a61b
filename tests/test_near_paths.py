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


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("infer --data chosen.csv --model net.py:build", {"csv", "txt", "zip", "folder"}),
        ("infer --data chosen --model net.py:build", {"csv", "txt", "zip", "folder"}),
        ("infer --data data/test --model chosen.py:build", {"py"}),
        ("infer --data data/test --model net.py:build --transform chosen.py:f", {"py"}),
        ("infer --data data/test --model net.py:build --checkpoint chosen.pt", {"pt"}),
        ("infer --data data/test --model net.py:build --classes chosen.txt", {"txt"}),
        ("infer --data data/test --model net.py:build --config chosen.toml", {"toml"}),
        ("visualize predictions/abc --labels chosen.csv", {"csv", "json"}),
        ("visualize predictions/abc --columns chosen", {"csv", "json"}),
        ("visualize predictions/abc --groups chosen.csv", {"csv"}),
        ("visualize predictions/abc --thresholds chosen.json", {"json"}),
        ("visualize predictions/abc --image-root choosn", {"folder"}),
        ("compare predictions/abc predictions/abc --image-root chosen", {"folder"}),
        ("gate predictions/abc --rules chosen.toml", {"toml"}),
        ("gate predictions/abc --report chosen.txt", {"txt"}),
        ("import chosen.csv --scores logits", {"csv", "json", "txt", "pt"}),
        ("import data/list.csv --scores logits --image-root chosen.zip", {"zip", "folder"}),
        ("board --logdir chosen", {"folder"}),
    ],
)
def test_only_what_the_flag_takes_is_named(command: str, kinds: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    logits, label = toy.table(toy.RUN, 20)
    toy.write_run(Path("predictions/abc"), logits, label)
    toy.pictures(Path("data/test"), each=1)
    Path("net.py").write_text("import torch\n\ndef build():\n    return torch.nn.Flatten()\n")
    Path("data/list.csv").write_text("image,label,score_a,score_b\n1.png,a,0.5,0.5\n")
    Path("Classes.txt").unlink()  # which is near as well
    for kind in {"csv", "txt", "zip", "py", "pt", "json", "toml", "folder"} - kinds:
        Path(f"choosen.{kind}").touch() if kind != "folder" else Path("choosen").mkdir()
    assert main.run(command.split()) == 2
    assert "did you mean" not in capsys.readouterr().err
    for kind in kinds:
        Path(f"choosen.{kind}").touch() if kind != "folder" else Path("choosen").mkdir()
    assert main.run(command.split()) == 2
    named = capsys.readouterr().err.rpartition("; did you mean ")[2].partition("?")[0]
    assert named in {"choosen" if kind == "folder" else f"choosen.{kind}" for kind in kinds}
