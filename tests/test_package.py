"""The package as other programs get it: its public names, an installed wheel, an editable install, its types."""

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import predboard
from tests import toy


def run(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program of its own, without the sources of this checkout on its path; return what it printed."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "MYPY_CACHE_DIR": str(cwd / "mypy_cache")}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def sources(folder: Path) -> Path:
    """Copy what a distribution is built from."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(toy.ROOT / name, folder / name)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(toy.ROOT / "pipeline", folder / "pipeline", ignore=left_out)
    return folder


def fresh_python(folder: Path) -> Path:
    """Make an environment with the libraries of this one, but without predboard."""
    venv.create(folder, symlinks=True)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (inside / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # .pth files in there are not read
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs pip and setuptools")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--no-build-isolation", *what, cwd=cwd)


PROGRAM = """
import pathlib, sys, predboard
print(pathlib.Path(predboard.__file__).parent)
for name in predboard.__all__:
    getattr(predboard, name)
from predboard import panels
panels.choose(())
"""


def test_every_public_name_is_there_and_in_the_documentation() -> None:
    page = (toy.ROOT / "docs/python.md").read_text("utf-8")
    for name in predboard.__all__:
        assert getattr(predboard, name).__name__ == name
        assert inspect.getdoc(getattr(predboard, name))
        assert f"`{name}`" in page, name
    assert set(predboard.__all__) <= set(dir(predboard))
    assert not [name for name in re.findall(r"predboard\.(\w+)\(", page) if name not in predboard.__all__]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'predboard' has no attribute 'nonsense'"):
        predboard.nonsense  # noqa: B018


@pytest.mark.slow
def test_a_wheel_has_every_module_and_data_file_and_works_where_it_is_installed(tmp_path: Path) -> None:
    python, tree = fresh_python(tmp_path / "venv"), sources(tmp_path / "tree")
    install(python, tree, cwd=tmp_path)
    inside = Path(run(python, "-c", PROGRAM, cwd=tmp_path).strip())
    assert inside.is_relative_to(tmp_path / "venv")
    package = tree / "pipeline" / "predboard"
    expected = {file.relative_to(package) for file in package.rglob("*") if file.is_file()}
    installed = {file.relative_to(inside) for file in inside.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    assert installed == expected
    for command in ([python, "-m", "predboard"], [python.with_name("predboard")]):
        assert "predboard visualize" in run(*command, cwd=tmp_path)
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "run", logits, label)
    run(python.with_name("predboard"), "visualize", tmp_path / "run", cwd=tmp_path)
    assert list((tmp_path / "logs" / "run").glob("*tfevents*"))


@pytest.mark.slow
def test_an_editable_install_uses_the_sources(tmp_path: Path) -> None:
    python, tree = fresh_python(tmp_path / "venv"), sources(tmp_path / "tree")
    install(python, "--editable", tree, cwd=tmp_path)
    assert run(python, "-c", PROGRAM, cwd=tmp_path).strip() == str(tree / "pipeline" / "predboard")
    assert "predboard visualize" in run(python.with_name("predboard"), cwd=tmp_path)


@pytest.mark.slow
def test_type_checkers_find_the_types_from_outside(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy")
    python, tree = fresh_python(tmp_path / "venv"), sources(tmp_path / "tree")
    install(python, tree, cwd=tmp_path)
    (tmp_path / "good.py").write_text(
        "import predboard\n"
        'reveal_type(predboard.gate("run", []))\n'
        'reveal_type(predboard.InferConfig("d", "m", crop=3))\n'
        'reveal_type(predboard.open_predictions("run"))\n'
    )
    checker: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    printed = run(*checker, "good.py", cwd=tmp_path)
    for name in ("gating.evaluate.GateResult", "config.infer.InferConfig", "storage.runs.RunReader"):
        assert f'"predboard.{name}"' in printed
    (tmp_path / "bad.py").write_text('import predboard\npredboard.InferConfig("d", "m", crop="large")\n')
    assert 'Argument "crop" to "InferConfig" has incompatible type' in run(*checker, "bad.py", cwd=tmp_path, code=1)
