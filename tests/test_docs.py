"""The documentation tells the truth: what it names exists, and what exists is named."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import predboard
from predboard import VisualizeConfig, config, panels, visualize
from predboard.predictions.schema import COLUMNS, MULTI_LABEL_COLUMNS, Part, Run
from predboard.state import merge
from tests import pages, toy

README = (toy.ROOT / "README.md").read_text("utf-8")
PANELS = (toy.ROOT / "docs/panels.md").read_text("utf-8")
FORMAT = (toy.ROOT / "docs/format.md").read_text("utf-8")
COMMANDS = (
    config.InferConfig,
    config.ImportConfig,
    config.VisualizeConfig,
    config.CompareConfig,
    config.BoardConfig,
    config.InspectConfig,
    config.GateConfig,
    config.RowsConfig,
)
CONTRIBUTING = (toy.ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_every_panel_is_in_the_table() -> None:
    named = set(re.findall(r"^\| ([a-z_]+) \|", PANELS, re.MULTILINE)) - {"panel"}
    assert named == set(panels.names())


def test_every_flag_in_the_readme_exists() -> None:
    known = {field.name.replace("_", "-") for one in COMMANDS for field in dataclasses.fields(one)} | {"config", "help"}
    assert set(re.findall(r"--([a-z][a-z-]+)", README)) <= known


def test_the_readme_is_a_page_that_people_read_to_its_end() -> None:
    assert len(README.splitlines()) <= 200


def test_every_column_and_footer_field_is_in_the_format() -> None:
    for name in COLUMNS | MULTI_LABEL_COLUMNS:
        assert f"`{name}`" in FORMAT, name
    for record in (Run, Part):
        for field in dataclasses.fields(record):
            assert f"`{field.name}`" in FORMAT, field.name


def test_every_column_of_the_tables_beside_the_event_file_is_in_the_format(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 300)
    toy.write_run(tmp_path / "run", logits, label)
    chosen = ("classes", "confusion", "label_issues", "slices")
    (written,) = visualize(VisualizeConfig((tmp_path / "run",), tmp_path / "logs", panels=chosen))
    tables = sorted(toy.local(written.folder).glob("*.csv"))
    assert [table.name for table in tables] == ["classes.csv", "errors.csv", "pairs.csv", "slices.csv", "suspects.csv"]
    for table in tables:
        part = FORMAT[FORMAT.index(f"{table.name}`**" if table.name != "pairs.csv" else "leaves: pairs.csv") :]
        for column in table.read_text("utf-8").splitlines()[0].split(","):
            name = column.removesuffix("_lower").removesuffix("_upper")
            assert f"`{name}`" in part[: part.index("\n\n", part.index("|---"))], (table.name, column)


@pytest.mark.parametrize("page", ["README.md", "docs/format.md", "docs/compare.md"])
def test_the_queries_run_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("digits", "resnet20", "resnet32")):
        for step in (3, 5):
            logits, label = toy.table(toy.RUN, 60, seed=seed)
            toy.write_run(Path("predictions", name), logits, label, dataclasses.replace(toy.RUN, step=step))
    logits, known = toy.multi_label_table(toy.MULTI_LABEL_RUN, 60)
    toy.write_run(Path("predictions", "scenes"), logits, known, toy.MULTI_LABEL_RUN)
    if page == "README.md":
        visualize(VisualizeConfig("predictions/digits", panels="mistakes", log_every=60))  # type: ignore[arg-type]
    if page == "docs/compare.md":
        predboard.compare("predictions/resnet20", "predictions/resnet32")
    text = (toy.ROOT / page).read_text("utf-8")
    queries = re.findall(r"```python\n(import [^`]*duckdb[^`]*)```", text)
    assert queries
    for code in queries:
        exec(compile(code, page, "exec"), {})
    assert "duckdb -c" not in text  # the command is another program, which pip does not install


def test_every_relative_link_leads_to_a_file() -> None:
    for page in (toy.ROOT / "README.md", toy.ROOT / "CONTRIBUTING.md", *(toy.ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_every_field_of_a_configuration_has_a_help_text() -> None:
    source = "".join(file.read_text("utf-8") for file in Path(config.__file__).parent.glob("*.py"))
    for one in COMMANDS:
        for field in dataclasses.fields(one):
            assert re.search(rf'^    {field.name}: [^\n]+\n    """', source, re.MULTILINE), field.name


def _panel_of_contributing(folder: Path) -> ModuleType:
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL) if "class Panel" in code]
    file = folder / "uncertainty.py"
    file.write_text(code, "utf-8")
    spec = importlib.util.spec_from_file_location("uncertainty", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["uncertainty"] = module
    spec.loader.exec_module(module)
    return module


def test_the_panel_in_contributing_works(tmp_path: Path) -> None:
    panel = _panel_of_contributing(tmp_path).Panel()
    logits, label = toy.table(toy.RUN, 60)
    rows = toy.predictions(toy.RUN, logits, label, failed=frozenset({7}))
    whole = panel.measure(toy.RUN, rows)
    halves = [
        panel.measure(toy.RUN, toy.predictions(toy.RUN, logits[a:b], label[a:b], a, frozenset({7} if a == 0 else ())))
        for a, b in ((0, 25), (25, 60))
    ]
    assert merge(*halves) == whole == merge(whole, panel.zero(toy.RUN))
    subject = panels.RunInfo("toy", toy.RUN, {0: panels.StepInfo(60, 60)})
    [(step, scalar)] = list(panel.render(subject, {0: whole}))
    assert (step, scalar.tag) == (0, "uncertainty/entropy")
    assert scalar.value == pytest.approx(float(rows.scored.entropy.mean()), abs=1e-6)


def test_generated_pages_are_fresh() -> None:
    for path, text in pages.pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is out of date: make docs"


def test_every_flag_of_the_tabs_page_exists() -> None:
    known = {field.name.replace("_", "-") for one in COMMANDS for field in dataclasses.fields(one)}
    named = set(re.findall(r"--([a-z][a-z-]+)", (toy.ROOT / "docs/tab.md").read_text("utf-8")))
    assert named <= known | {"logdir_spec".partition("_")[0], "bind"}  # two of TensorBoard
