"""The front end's files: how large they are, what they may not contain, and what node and tsc say of them."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from werkzeug.test import Client

from predboard.tab.plugin import STATIC_FOLDER, STATIC_TYPES, PredictionsPlugin
from tests import toy

FILES = {file.name: file.read_text("utf-8") for file in sorted(STATIC_FOLDER.iterdir()) if file.suffix in STATIC_TYPES}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
TESTS = Path(__file__).parent / "page"

FORBIDDEN = (
    *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment", "DOMParser"),
    *("eval(", "new Function", "new Worker", "setAttribute('on", "javascript:", "http://", "https://", "srcdoc"),
)
"""What would make text into a page or a script, or ask another host."""


def test_all_of_it_is_small_as_a_browser_gets_it(tmp_path: Path) -> None:
    client = Client(PredictionsPlugin(SimpleNamespace(logdir=str(tmp_path))).get_plugin_apps()["/static/*"])
    answers = {name: client.get(f"/static/{name}", headers={"Accept-Encoding": "gzip"}) for name in FILES}
    for name, answer in answers.items():
        served, written = (text.split("\n") for text in (gzip.decompress(answer.data).decode(), FILES[name]))
        lines = [(line.lstrip(), own) for line, own in zip(written, served, strict=True)]
        left_out = [line for line, own in lines if line != own]
        assert all(line == own or own == "" for line, own in lines)
        plain = re.sub(
            r"`#version[^`]*`", "", FILES[name]
        )  # of texts of several lines only shaders need no indentation
        assert all(line.count("`") % 2 == 0 for line in plain.split("\n"))
        assert all(re.match(r"\s*(/\*)?\*", line) for line in left_out)  # comments, whose lines stay empty
        assert not left_out or name.endswith(".js")
    assert sum(len(answer.data) for answer in answers.values()) <= 60_000


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_checked_says_what_it_knows_and_makes_no_page_of_text(name: str) -> None:
    text = SCRIPTS[name]
    first, second, *_ = text.split("\n", 2)
    assert first == "// @ts-check"
    assert second.startswith("/** ")
    assert "nothing of" in text[: text.index("*/")] or "knows neither" in text[: text.index("*/")]
    namespace = "http://www.w3.org/2000/svg"  # a name, which nobody asks for
    assert [word for word in FORBIDDEN if word in text.replace(namespace, "")] == []
    assert len(text.splitlines()) <= 450
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_scripts_import_each_other_and_nothing_else() -> None:
    for name, text in SCRIPTS.items():
        targets = re.findall(r"^(?:import|export)\b[^;]*\bfrom '([^']+)';", text, re.MULTILINE)
        assert [target for target in targets if target.removeprefix("./") not in SCRIPTS] == [], name
        assert all(target.startswith("./") for target in targets), name
        for names, target in re.findall(r"^import \{([^}]*)\} from './([^']+)';", text, re.MULTILINE):
            exported = set(
                re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", SCRIPTS[target], re.MULTILINE)
            )
            assert set(names.replace(",", " ").split()) <= exported, f"{name} of {target}"


def test_the_forbidden_words_are_found_where_they_are() -> None:
    assert [word for word in FORBIDDEN if word in "node.innerHTML = name"] == ["innerHTML"]


def test_the_page_about_the_tab_has_every_key_and_every_part_of_the_address() -> None:
    page = (toy.ROOT / "docs/tab.md").read_text("utf-8")
    documented = set(re.findall(r"`([^`]+)`", page))
    sheet = re.findall(r"^ {4}\['([^']+)',", SCRIPTS["dialogs.js"], re.MULTILINE)
    keys = {key for line in sheet for key in re.split(r" (?:or )?", line.replace("Ctrl A", "Ctrl+A")) if key}
    assert len(keys) > 25
    assert {key.replace("+A", " A") for key in keys} - documented == set()
    lists = re.search(r"const OTHERS = \[(.*?)\];", SCRIPTS["state.js"], re.DOTALL)
    filters = re.search(r"const FILTERS = \[(.*?)\];", SCRIPTS["query.js"], re.DOTALL)
    scores = re.search(r"const SCORES = \[(.*?)\];", SCRIPTS["query.js"], re.DOTALL)
    assert lists and filters and scores
    address = set(re.findall(r"'(\w+)'", lists[1] + filters[1] + scores[1]))
    assert len(address) >= 30
    assert address - documented == set()


def _copied(folder: Path) -> Path:
    """Node takes the files for modules where a package.json says so."""
    shutil.copytree(STATIC_FOLDER, folder / "static")
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    for file in TESTS.glob("*.mjs"):
        shutil.copy(file, folder)
    return folder


def test_the_query_the_signals_and_the_address_do_what_they_should(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    files = sorted(str(file) for file in _copied(tmp_path).glob("*.test.mjs"))
    done = subprocess.run([node, "--test", *files], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert re.search(r"pass [1-9]\d", done.stdout)


def test_the_types_are_right(tmp_path: Path) -> None:
    tsc = shutil.which("tsc") or shutil.which("tsc", path=toy.ROOT / "node_modules/.bin")
    if tsc is None:
        pytest.skip("no TypeScript compiler (tsc) on this machine")
    options = {
        **{"allowJs": True, "checkJs": True, "noEmit": True, "strict": True, "noUnusedLocals": True, "types": []},
        **{"target": "es2022", "module": "esnext", "moduleResolution": "bundler"},
        **{"lib": ["es2022", "dom", "dom.iterable"]},
    }
    config = {"compilerOptions": options, "include": ["static"]}
    (_copied(tmp_path) / "tsconfig.json").write_text(json.dumps(config))
    done = subprocess.run([tsc, "-p", tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
