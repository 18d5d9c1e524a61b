"""A task is asked for where rows, doors, panels and headlines are chosen, and nowhere else."""

import ast
from collections.abc import Iterator

import pytest

from tests.test_imports import SOURCES, unit

ASKS = {
    "predictions",
    *("config", "images", "models", "ingest", "inference", "composition"),  # the doors: what comes in, and new runs
    "evaluation.new_labels",  # labels that replace saved ones come in too
    *("evaluation.applied_thresholds", "metrics.class_groups"),  # files that are for one task alone
    "panels.__init__",
    "metrics.registry",
    *("storage.runs", "comparison.methods"),  # runs of two tasks are kept apart
    *("gating.gate", "gating.suggest", "visualization.leaderboard", "visualization.summary_json"),  # headlines
    "tab.row_classes",
    *("comparison.paired_labels", "comparison.label_pages"),  # which narrow types that their caller has chosen
}
"""Folders and modules that may compare a task with another, or ask of what kind rows are."""

_NAMES = {"MULTI_LABEL", "SINGLE_LABEL"}
_TEXTS = {"multi-label", "single-label"}
_KINDS = ("MultiLabel", "LabelSets")


def asks(source: str) -> list[int]:
    """The lines on which a source compares tasks, or asks whether rows have several labels."""
    asking = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.expr | ast.stmt) and _asks(node))
    return sorted({node.lineno for node in asking})


def _asks(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(map(_is_task, _operands(node)))
    if isinstance(node, ast.Match):
        return _is_task(node.subject)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
        return any(kind in ast.unparse(node.args[1]) for kind in _KINDS)
    return False


def _operands(node: ast.Compare) -> Iterator[ast.AST]:
    for operand in (node.left, *node.comparators):
        yield from operand.elts if isinstance(operand, ast.Tuple | ast.Set | ast.List) else (operand,)


def _is_task(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "task" or node.attr in _NAMES
    return (isinstance(node, ast.Name) and node.id in _NAMES) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in _TEXTS
    )


def test_a_task_is_asked_for_in_few_places() -> None:
    asked = {name: lines for name, source in SOURCES.items() if (lines := asks(source))}
    assert {name: lines for name, lines in asked.items() if not {name, unit(name)} & ASKS} == {}


def test_no_panel_asks_for_a_task() -> None:
    assert [name for name, source in SOURCES.items() if name.startswith("panels.multi_label.") and asks(source)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if run.task == 'multi-label': pass", True),
        ("x = 1 if config.task != SINGLE_LABEL else 2", True),
        ("if task in (schema.MULTI_LABEL, other): pass", True),
        ("match run.task:\n    case 'multi-label': pass", True),
        ("if isinstance(rows, MultiLabelPredictions): pass", True),
        ("chosen = panels.choose(wanted, run.task)", False),
        ("rows = registry.rows('overall', task=MULTI_LABEL)", False),
        ("if isinstance(rows, Predictions) and task.ids: pass", False),
    ],
)
def test_asking_is_seen(source: str, found: bool) -> None:
    assert bool(asks(source)) == found
