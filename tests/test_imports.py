"""Imports point one way, each wall has one door, and every module says what it knows."""

import ast
import doctest
import functools
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from tests import toy

FOLDER = Path(pipeline.__file__).parent
SOURCES = {
    file.relative_to(FOLDER).with_suffix("").as_posix().replace("/", "."): file.read_text("utf-8")
    for file in sorted(FOLDER.rglob("*.py"))
}
"""Source by module, `panels.glance` for example; a package is `panels.__init__`."""

# Who may import whom. A module that is not here must be added, with thought.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"adopt", "config", "errors", "live", "store"},
    "__main__": {"cli"},
    "adopt": {
        "audit",
        "config",
        "errors",
        "images",
        "labels",
        "loading",
        "models",
        "places",
        "predictions",
        "resume",
        "saved",
        "shards",
        "sources",
        "store",
        "workers",
    },
    "arrays": {"errors"},
    "audit": {"config", "errors", "predictions"},
    "calibration": {"predictions", "ranking", "state"},
    "cli": {
        "adopt",
        "compare",
        "config",
        "contrast",
        "errors",
        "gate",
        "infer",
        "inspection",
        "logs",
        "mirror",
        "models",
        "panels",
        "places",
        "predictions",
        "verdicts",
        "visualize",
        "workers",
    },
    "changes": {"pairing", "predictions", "state"},
    "commas": {"predictions"},
    "compare": {
        "changes",
        "config",
        "contrast",
        "diagrams",
        "draw",
        "errors",
        "events",
        "exhibits",
        "images",
        "logs",
        "outcome",
        "paired",
        "pairing",
        "pictures",
        "places",
        "predictions",
        "state",
        "store",
        "summaries",
        "workers",
    },
    "cluster": {"crew", "errors"},
    "config": {"errors", "places"},
    "contrast": {"commas", "draw", "errors", "logs", "paired", "store", "summaries"},
    "crew": {"errors"},
    "datasets": {"errors", "images", "predictions", "sources", "usercode"},
    "devices": {"cluster", "config", "crew", "errors", "models", "shards", "usercode", "work", "workers"},
    "diagrams": {"draw", "summaries"},
    "doubts": {"tally"},
    "draw": {"summaries"},
    "errors": set(),
    "events": {"summaries"},
    "exhibits": {"changes", "contrast", "diagrams", "draw", "paired", "seriation", "summaries", "tally"},
    "figures": {"predictions", "ranking", "state", "summaries", "tally"},
    "forward": {"errors", "loading", "models", "shards"},
    "gate": {
        "config",
        "errors",
        "judge",
        "paired",
        "pairing",
        "panels",
        "places",
        "rules",
        "store",
        "suggest",
        "summaries",
        "summarize",
        "tally",
        "verdicts",
        "workers",
    },
    "images": {"config"},
    "infer": {
        "config",
        "datasets",
        "devices",
        "errors",
        "forward",
        "loading",
        "models",
        "places",
        "predictions",
        "preflight",
        "recipes",
        "resume",
        "shards",
        "sources",
        "store",
        "timing",
        "usercode",
        "work",
        "workers",
    },
    "judge": {"errors", "paired", "rules", "summaries"},
    "kept": {"errors", "panels", "places", "predictions", "state", "store", "workers"},
    "labels": {"config", "errors", "predictions", "saved", "sources"},
    "logs": {"errors", "places", "summaries"},
    "inspection": {"errors", "places", "predictions", "store", "timing"},
    "live": {"compare", "config", "datasets", "errors", "gate", "infer", "judge", "places", "store", "visualize"},
    "loading": {
        "config",
        "datasets",
        "errors",
        "images",
        "places",
        "predictions",
        "recipes",
        "sources",
        "usercode",
        "workers",
    },
    "libraries": {"errors", "images", "predictions", "recipes", "usercode"},
    "mirror": {"places", "workers"},
    "models": {"errors", "libraries", "recipes", "usercode", "weights"},
    "outcome": {"predictions", "summaries"},
    "pages": {"pictures", "predictions", "summaries", "workers"},
    "paired": {
        "calibration",
        "figures",
        "pairing",
        "slicing",
        "state",
        "store",
        "summaries",
        "tally",
    },
    "pairing": {"errors", "predictions", "store"},
    "panels.__init__": {"errors", "predictions", "summaries"},
    "parts": {"forward", "loading", "places", "predictions", "shards", "sources", "store", "timing"},
    "pictures": {"config", "draw", "events", "images", "places", "sources", "store", "summaries", "workers"},
    "places": {"errors"},
    "predictions": {"errors"},
    "preflight": {
        "doubts",
        "draw",
        "errors",
        "forward",
        "images",
        "loading",
        "models",
        "predictions",
        "recipes",
        "shards",
        "store",
        "tally",
        "work",
    },
    "ranking": {"predictions", "state"},
    "resume": {"errors", "places", "predictions", "shards", "sources", "store"},
    "recipes": {"config", "errors", "images", "sources", "usercode"},
    "saved": {"arrays", "config", "errors", "predictions", "sources", "tables"},
    "rules": {"errors"},
    "runs": {"draw", "errors", "events", "logs", "outcome", "places", "predictions", "store", "summaries"},
    "seriation": set(),
    "shards": set(),
    "slicing": {"predictions", "state", "summaries"},
    "sources": {"errors", "places", "predictions"},
    "state": {"predictions"},
    "store": {"errors", "places", "predictions", "shards", "workers"},
    "suggest": {"errors", "judge", "paired", "rules", "summaries"},
    "summaries": {"predictions"},
    "summarize": {"cluster", "errors", "kept", "panels", "places", "predictions", "state", "store", "workers"},
    "tables": {"arrays", "errors", "sources"},
    "tally": {"predictions", "state"},
    "timing": set(),
    "thresholds": {"draw", "ranking", "summaries", "tally"},
    "usercode": {"errors"},
    "verdicts": {"errors", "judge", "summaries"},
    "visualize": {
        "cluster",
        "config",
        "errors",
        "events",
        "images",
        "kept",
        "logs",
        "outcome",
        "pages",
        "panels",
        "pictures",
        "places",
        "predictions",
        "runs",
        "store",
        "summaries",
        "summarize",
        "workers",
    },
    "work": {
        "config",
        "errors",
        "forward",
        "libraries",
        "loading",
        "models",
        "parts",
        "places",
        "predictions",
        "shards",
        "timing",
        "workers",
    },
    "weights": {"errors", "usercode"},
    "workers": {"errors"},
}
OF_A_PANEL = {
    "calibration",
    "commas",
    "draw",
    "figures",
    "panels",
    "predictions",
    "ranking",
    "seriation",
    "slicing",
    "state",
    "summaries",
    "tally",
    "thresholds",
}
"""`panels` is where the protocol is; the other panels are not in it."""

DOORS: dict[str, set[str]] = {
    "torch": {"arrays", "devices", "forward", "infer", "libraries", "live", "models", "preflight", "weights", "work"},
    "safetensors": {"weights"},
    "torchvision": {"libraries"},
    "timm": {"libraries"},
    "transformers": {"libraries"},
    "tensorboard": {"events"},
    "tensorflow": set(),
    "google_crc32c": {"events"},
    "ray": {"cluster"},
    "tyro": {"cli", "config"},
    "pyarrow": {
        "adopt",
        "changes",
        "commas",
        "datasets",
        "kept",
        "labels",
        "pairing",
        "places",
        "predictions",
        "saved",
        "sources",
        "store",
        "tables",
    },
    "fsspec": {"places"},
    "boto3": set(),
    "s3fs": set(),
    "pandas": set(),
    "matplotlib": set(),
}
"""Who may import these from outside; any module may import the others."""


@functools.cache
def imported(source: str) -> tuple[tuple[str, str], ...]:
    """Module and name of each import, wherever it stands; the name is empty for `import module`."""
    return tuple(_imported(source))


def _imported(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            (name, *_) = node.args
            if isinstance(name, ast.Constant):
                yield str(name.value), ""


def ours(source: str, modules: set[str]) -> set[str]:
    """Modules of ours that a source imports."""
    found = set()
    for module, name in imported(source):
        top, _, rest = module.partition(".")
        if top == "pipeline":
            inner = f"{rest}.{name}" if rest and name else rest or name
            if inner in modules or f"{inner}.__init__" in modules:
                found.add(inner)
            else:
                found.add(rest or "__init__")
    return found


def violations(sources: dict[str, str]) -> list[str]:
    """What breaks the rules, in words."""
    found = []
    for module, source in sources.items():
        panel = module.startswith("panels.") and module != "panels.__init__"
        allowed = OF_A_PANEL if panel else ALLOWED.get(module)
        if allowed is None:
            found.append(f"{module} is not in the table")
            continue
        found += [f"{module} imports {other}" for other in sorted(ours(source, set(sources)) - allowed)]
        outside = {name.partition(".")[0] for name, _ in imported(source)}
        found += [f"{module} imports {name}" for name in sorted(outside) if module not in DOORS.get(name, {module})]
    return found


def test_imports_point_one_way() -> None:
    assert violations(SOURCES) == []


def test_the_table_has_no_circle_and_no_module_that_is_gone() -> None:
    assert set(ALLOWED) == {m for m in SOURCES if not m.startswith("panels.") or m == "panels.__init__"}
    left = {module: {m if m in ALLOWED else f"{m}.__init__" for m in of} for module, of in ALLOWED.items()}
    while left:
        free = {module for module, of in left.items() if not of & set(left)}
        assert free, f"a circle among {sorted(left)}"
        left = {module: of for module, of in left.items() if module not in free}


def test_nothing_is_allowed_that_nobody_needs() -> None:
    modules = set(SOURCES)
    unused = {m: of - ours(SOURCES[m], modules) for m, of in ALLOWED.items()}
    assert {m: of for m, of in unused.items() if of} == {}
    panels = set().union(*(ours(source, modules) for m, source in SOURCES.items() if m.startswith("panels.")))
    assert panels - {"errors"} == OF_A_PANEL


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("store", "import torch", "store imports torch"),
        ("draw", "import torch.nn as nn", "draw imports torch"),
        ("visualize", "def f():\n    from torch import nn", "visualize imports torch"),
        ("tally", "if True:\n    import importlib\n    importlib.import_module('torch.nn')", "tally imports torch"),
        ("cli", "from tensorboard import program", "cli imports tensorboard"),
        ("store", "import google_crc32c", "store imports google_crc32c"),
        ("models", "from pipeline.store import open_run", "models imports store"),
        ("store", "from pipeline import infer", "store imports infer"),
        ("shards", "import pipeline.config", "shards imports config"),
        ("errors", "from pipeline import VisualizeConfig", "errors imports __init__"),
        ("panels.glance", "from pipeline.panels import metrics", "panels.glance imports panels.metrics"),
        ("panels.glance", "from pipeline.panels.metrics import State", "panels.glance imports panels.metrics"),
        (
            "panels.glance",
            "class A:\n    def f(self):\n        from pipeline import store",
            "panels.glance imports store",
        ),
        ("panels.glance", "from pipeline import events", "panels.glance imports events"),
        ("events", "from pipeline.panels import mistakes", "events imports panels.mistakes"),
        ("another", "import json", "another is not in the table"),
    ],
)
def test_a_source_that_breaks_the_rules_is_caught(module: str, line: str, expected: str) -> None:
    spoiled = {**SOURCES, module: f"{SOURCES.get(module, '')}\n{line}\n"}
    assert violations(spoiled) == [expected]


def test_a_source_that_keeps_them_is_not() -> None:
    for module, line in (
        ("infer", "def f():\n    import torch.nn"),
        ("panels.glance", "from pipeline.panels import Facts, Subject\nfrom pipeline import tally\nimport numpy"),
        ("events", "from tensorboard.compat.proto import event_pb2"),
        ("store", "import pyarrow.dataset"),
    ):
        assert violations({**SOURCES, module: f"{SOURCES[module]}\n{line}\n"}) == []


def test_every_module_says_what_it_is_and_what_it_does_not_know() -> None:
    for module, source in SOURCES.items():
        said = ast.get_docstring(ast.parse(source))
        assert said, f"{module} has no docstring"
        if not module.endswith("__"):
            said = " ".join(said.lower().split())
            knows = any(words in said for words in ("know", "never sees"))
            assert knows, f"{module} does not say what it knows or does not know"


def test_every_panel_says_what_it_shows_in_its_class() -> None:
    for module, source in SOURCES.items():
        if module.startswith("panels.") and module != "panels.__init__":
            classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Panel"]
            assert len(classes) == 1, f"{module} has no class Panel"
            assert ast.get_docstring(classes[0])


@pytest.mark.parametrize("module", [m for m, source in SOURCES.items() if ">>>" in source])
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    loaded = importlib.import_module(f"pipeline.{module.removesuffix('.__init__')}")
    tried = doctest.testmod(loaded)
    assert tried.attempted > 0
    assert tried.failed == 0


def test_the_public_names_are_functions_and_classes_not_modules() -> None:
    assert sorted(pipeline.__all__) == sorted(
        [
            "CompareConfig",
            "GateConfig",
            "ImportConfig",
            "InferConfig",
            "InputError",
            "VisualizeConfig",
            "adopt",
            "compare",
            "gate",
            "infer",
            "open_predictions",
            "visualize",
        ]
    )
    for name in pipeline.__all__:
        assert callable(getattr(pipeline, name))
        assert name in dir(pipeline)


def test_the_package_imports_a_public_name_when_it_is_used_and_never_gives_the_module_of_that_name() -> None:
    code = (
        "import sys, pipeline\n"
        "print([name for name in sys.modules if name.startswith('pipeline.')])\n"
        "import pipeline.visualize\n"
        "from pipeline import visualize\n"
        "print(callable(visualize), pipeline.visualize is visualize)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True True"]
