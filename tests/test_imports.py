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

import predboard
from tests import toy

FOLDER = Path(predboard.__file__).parent
SOURCES = {
    file.relative_to(FOLDER).with_suffix("").as_posix().replace("/", "."): file.read_text("utf-8")
    for file in sorted(FOLDER.rglob("*.py"))
}
"""Source by module, `panels.glance` for example; a package is `panels.__init__`."""

LAYERS: tuple[set[str], ...] = (
    {"near_paths", "log_names", "garbage"},
    {"errors", "formatting", "invocation", "streams"},
    {"predictions", "parallel"},
    {"storage", "state", "summaries"},
    {"config", "user_code", "csv_lines", "drawing"},
    {"metrics"},
    {"images", "panels"},
    {"models", "evaluation"},
    {"inference", "visualization"},
    {"ingest", "comparison", "tab"},
    {"gating", "composition"},
    {"python_options"},
    {"api"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
"""Folders and top-level modules from the bottom up: each may import itself and the layers below it."""

STAGE_ONE = {"models", "inference", "ingest"}
STAGE_TWO = {"panels", "evaluation", "visualization", "comparison", "gating", "tab", "composition"}
"""The stages meet in what both stand on; neither imports the other."""

NOT_FOR_PANELS = {"config", "images", "parallel", "storage", "user_code"}
"""A panel sees batches and its own state: no disk, no process, no flag."""

DOORS: dict[str, set[str]] = {
    "torch": {
        "api",
        "inference.cpu_passes",
        "inference.dispatch",
        "inference.forward",
        "inference.infer",
        "inference.inputs",
        "inference.preflight",
        "inference.preflight_probe",
        "inference.preflight_report",
        "inference.worker",
        "ingest.array_files",
        "models",
    },
    "safetensors": {"models.checkpoints"},
    "torchvision": {"models.hubs"},
    "timm": {"models.hubs"},
    "transformers": {"models.hubs"},
    "tensorboard": {"cli.board", "visualization.events", "tab.loader", "tab.plugin"},
    "werkzeug": {"tab.plugin"},
    "tensorflow": set(),
    "google_crc32c": {"visualization.events"},
    "ray": {"parallel.ray_cluster"},
    "fsspec": {"storage"},
    "boto3": set(),
    "s3fs": set(),
    "pandas": set(),
    "matplotlib": set(),
}
"""Which folder or module may import these from outside; any module may import the others."""


def unit(module: str) -> str:
    """The folder or top-level module that a module belongs to."""
    return module.partition(".")[0]


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
        if top == "predboard":
            inner = f"{rest}.{name}" if rest and name else rest or name
            if inner in modules or f"{inner}.__init__" in modules:
                found.add(inner)
            else:
                found.add(rest or "__init__")
    return found


def violations(sources: dict[str, str]) -> list[str]:
    """What breaks the rules, in words."""
    floor = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found = []
    for module, source in sources.items():
        own = unit(module)
        if own not in floor:
            found.append(f"{module} is in no layer")
            continue
        for other in sorted(ours(source, set(sources))):
            target = unit(other)
            below = target == own or floor.get(target, len(LAYERS)) < floor[own]
            across = {own, target} & STAGE_ONE and {own, target} & STAGE_TWO
            panel = own == "panels" and (
                target in NOT_FOR_PANELS or (other.startswith("panels.") and not other.startswith("panels.pages"))
            )
            if not below or across or (panel and module != "panels.__init__"):
                found.append(f"{module} imports {other}")
        outside = {name.partition(".")[0] for name, _ in imported(source)}
        found += [
            f"{module} imports {name}" for name in sorted(outside) if not {own, module} & DOORS.get(name, {module})
        ]
    return found


def circle(sources: dict[str, str]) -> set[str]:
    """Modules that import each other in a circle, or that import such modules."""
    names = set(sources)
    left = {
        module: {other if other in names else f"{other}.__init__" for other in ours(source, names)}
        for module, source in sources.items()
        if module not in ("__init__", "__main__")
    }
    while left:
        free = {module for module, needs in left.items() if not needs & set(left)}
        if not free:
            break
        left = {module: needs for module, needs in left.items() if module not in free}
    return set(left)


def test_imports_point_one_way() -> None:
    assert violations(SOURCES) == []


def test_there_is_no_circle_inside_a_folder_either() -> None:
    assert circle(SOURCES) == set()
    assert circle({**SOURCES, "errors": "from predboard import state\n"}) >= {"errors", "state"}


def test_every_layer_is_there() -> None:
    assert set().union(*LAYERS) == {unit(module) for module in SOURCES}
    assert sum(len(layer) for layer in LAYERS) == len(set().union(*LAYERS))


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("storage.runs", "import torch", "storage.runs imports torch"),
        ("drawing.canvas", "import torch.nn as nn", "drawing.canvas imports torch"),
        ("visualization.visualize", "def f():\n    from torch import nn", "visualization.visualize imports torch"),
        (
            "metrics.counts",
            "if True:\n    import importlib\n    importlib.import_module('torch.nn')",
            "metrics.counts imports torch",
        ),
        ("cli.main", "from tensorboard import program", "cli.main imports tensorboard"),
        ("storage.runs", "import google_crc32c", "storage.runs imports google_crc32c"),
        ("models.factory", "from predboard.evaluation import measure", "models.factory imports evaluation.measure"),
        ("storage.runs", "from predboard import infer", "storage.runs imports __init__"),
        ("storage.part_plan", "import predboard.config", "storage.part_plan imports config"),
        ("errors", "from predboard import VisualizeConfig", "errors imports __init__"),
        (
            "visualization.visualize",
            "from predboard.models import factory",
            "visualization.visualize imports models.factory",
        ),
        ("inference.infer", "from predboard.evaluation import measure", "inference.infer imports evaluation.measure"),
        ("panels.glance", "from predboard.panels import metrics", "panels.glance imports panels.metrics"),
        ("panels.glance", "from predboard.panels.metrics import State", "panels.glance imports panels.metrics"),
        (
            "panels.glance",
            "class A:\n    def f(self):\n        from predboard.storage import runs",
            "panels.glance imports storage.runs",
        ),
        ("panels.glance", "from predboard.visualization import events", "panels.glance imports visualization.events"),
        (
            "visualization.events",
            "from predboard.comparison import join",
            "visualization.events imports comparison.join",
        ),
        ("another", "import json", "another is in no layer"),
    ],
)
def test_a_source_that_breaks_the_rules_is_caught(module: str, line: str, expected: str) -> None:
    spoiled = {**SOURCES, module: f"{SOURCES.get(module, '')}\n{line}\n"}
    assert violations(spoiled) == [expected]


def test_a_source_that_keeps_them_is_not() -> None:
    for module, line in (
        ("inference.infer", "def f():\n    import torch.nn"),
        ("panels.glance", "from predboard.panels import RunInfo\nfrom predboard.metrics import counts\nimport numpy"),
        ("visualization.events", "from tensorboard.compat.proto import event_pb2"),
        ("storage.runs", "import pyarrow.dataset"),
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


FORBIDDEN_NAMES = {"found", "said", "told", "here", "there", "of", "aside", "kept", "say"}
"""Words that name nothing: a variable, parameter, field or function has the name of the thing."""

NAMES_OF_ANY_PANEL = {"Panel", "State"}
"""Each panel's module has its own class of these names."""


def forbidden_names(sources: dict[str, str]) -> list[str]:
    """Return the variables, parameters, fields and functions with a forbidden name, as `module: name`."""
    names = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = node.id if isinstance(node, ast.Name) else node.attr
            elif isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = node.name
            else:
                continue
            if name in FORBIDDEN_NAMES:
                names.append(f"{module}: {name}")
    return names


def types_of_one_name(sources: dict[str, str]) -> dict[str, list[str]]:
    """Return the modules that define a public class or type alias of one name, where these are several."""
    modules: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            names = []
            if isinstance(node, ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:  # types are CamelCase, constants are not
                if name[0].isupper() and not name.isupper():
                    modules.setdefault(name, []).append(module)
    return {name: where for name, where in modules.items() if len(where) > 1 and name not in NAMES_OF_ANY_PANEL}


def test_names_are_those_of_things() -> None:
    assert forbidden_names(SOURCES) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("found = 1", "found"),
        ("(said := 1)", "said"),
        ("for of in (): pass", "of"),
        ("class A:\n    kept: int = 1", "kept"),
        ("class A:\n    def f(self):\n        self.told = 1", "told"),
        ("def f(*, say): pass", "say"),
        ("lambda there: 1", "there"),
        ("def aside(): pass", "aside"),
        ("with f() as here: pass", "here"),
    ],
)
def test_a_name_that_names_nothing_is_caught(line: str, name: str) -> None:
    assert forbidden_names({"errors": f"{SOURCES['errors']}\n{line}\n"}) == [f"errors: {name}"]


def test_no_two_public_types_have_one_name() -> None:
    assert types_of_one_name(SOURCES) == {}


@pytest.mark.parametrize("line", ["class Side: ...", "Side = int | None", "Side: object = int"])
def test_a_second_type_of_one_name_is_caught(line: str) -> None:
    spoiled = {"comparison.report": SOURCES["comparison.report"], "errors": f"{SOURCES['errors']}\n{line}\n"}
    assert types_of_one_name(spoiled) == {"Side": ["comparison.report", "errors"]}


def test_every_panel_says_what_it_shows_in_its_class() -> None:
    for module, source in SOURCES.items():
        if module.startswith("panels.") and module.count(".") == 1 and module != "panels.__init__":
            classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Panel"]
            assert len(classes) == 1, f"{module} has no class Panel"
            assert ast.get_docstring(classes[0])


@pytest.mark.parametrize("module", [m for m, source in SOURCES.items() if ">>>" in source])
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    loaded = importlib.import_module(f"predboard.{module.removesuffix('.__init__')}")
    tried = doctest.testmod(loaded)
    assert tried.attempted > 0
    assert tried.failed == 0


def test_the_public_names_are_functions_and_classes_not_modules() -> None:
    functions = {name for name in predboard.__all__ if name.islower()}
    makers = {"infer", "import_predictions", "combine", "merge", "take"}
    assert functions == makers | {"compare", "gate", "open_predictions", "visualize"}
    for name in predboard.__all__:
        assert callable(getattr(predboard, name))
        assert name in dir(predboard)


def test_the_package_imports_a_public_name_when_it_is_used() -> None:
    code = (
        "import sys, predboard\n"
        "print([name for name in sys.modules if name.startswith('predboard.')])\n"
        "import predboard.visualization.visualize\n"
        "from predboard import visualize\n"
        "print(callable(visualize), predboard.visualize is visualize)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True True"]


def test_the_command_line_is_read_without_numpy_arrow_and_the_flags_of_other_commands() -> None:
    code = (
        "import sys, predboard.cli.main\n"
        "print([name for name in ('numpy', 'pyarrow', 'PIL', 'http.client', 'torch') if name in sys.modules])\n"
        "print([name for name in sys.modules if name in ('predboard.config.infer', 'predboard.config.rows')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
