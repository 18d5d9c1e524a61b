"""Versions of states: they change with the code and the settings that decide a state, and with nothing else."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

from predboard import panels
from predboard.evaluation.state_versions import DERIVED_ROWS, SOURCES, _Modules, state_versions
from tests.test_imports import SOURCES as TEXTS
from tests.test_imports import ours


def test_a_version_follows_settings_and_the_code_that_is_imported(tmp_path: Path) -> None:
    chosen = panels.choose(("confusion", "mistakes"))
    before = state_versions(chosen)
    assert state_versions(chosen) == before
    other = {**chosen, "confusion": dataclasses.replace(chosen["confusion"], per_gallery=3)}  # type: ignore[type-var]
    assert {name for name, version in state_versions(other).items() if version != before[name]} == {"confusion"}
    code = tmp_path / "code"
    shutil.copytree(SOURCES, code, ignore=shutil.ignore_patterns("__pycache__"))
    assert state_versions(chosen, code) == before
    changed = {}
    for file in ("metrics/seriation", "visualization/events", "state", "panels/mistakes"):
        path = code / f"{file}.py"
        source = path.read_text()
        path.write_text(source + "# a change\n")
        changed[file] = {name for name, version in state_versions(chosen, code).items() if version != before[name]}
        path.write_text(source)
    assert changed == {
        "metrics/seriation": {"confusion"},
        "visualization/events": set(),
        "state": {"confusion", "mistakes", DERIVED_ROWS},
        "panels/mistakes": {"mistakes"},
    }


def test_a_panel_of_another_package_has_the_version_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("")
    (package / "panel.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Panel:\n    count: int = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import elsewhere.panel  # type: ignore[import-not-found]

    chosen = {"other": elsewhere.panel.Panel()}
    before = state_versions(chosen)
    assert state_versions(chosen) == before
    (package / "helper.py").write_text("# a change\n")
    after = state_versions(chosen)
    assert after["other"] != before["other"]
    assert after[DERIVED_ROWS] == before[DERIVED_ROWS]
    for name in ("elsewhere", "elsewhere.panel"):
        del sys.modules[name]


def test_all_imports_of_ours_are_seen() -> None:
    modules = _Modules(SOURCES)
    for module, text in TEXTS.items():
        source = modules.read(f"predboard.{module.removesuffix('.__init__')}")
        if source is not None:
            wanted = {f"predboard.{other.removesuffix('.__init__')}" for other in ours(text, set(TEXTS))}
            assert wanted - {"predboard.__init__"} <= {name for name in source[1] if modules.read(name)}, module
