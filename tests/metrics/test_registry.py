"""The table of metrics: its rows are whole, a new row reaches every reader, and its page is fresh."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score
from tensorboard.util.tensor_util import make_ndarray

import predboard
from predboard.cli import main
from predboard.metrics import registry
from predboard.metrics.counts import Margins
from predboard.metrics.metric_spec import Group, MetricSpec
from predboard.metrics.reference_page import reference_page
from predboard.metrics.registry import margin_metric
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL
from predboard.visualization import log_folder
from tests import toy

DOCS = Path(__file__).parents[2] / "docs"


def kappa(m: Margins) -> NDArray[np.float64]:
    """Cohen's kappa."""
    expected = (m.support * m.predictions).sum(axis=-1) / m.rows**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((m.hits.sum(axis=-1) / m.rows - expected) / (1 - expected))


KAPPA = margin_metric(
    "cohen_kappa", "Cohen's kappa", "Agreement with the labels beyond chance (Cohen).", kappa,
    range=(-1.0, 1.0), column="kappa", band=True, source="Cohen 1960", suggested=True,
)  # fmt: skip


@pytest.fixture
def with_kappa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, KAPPA))


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path, dict[str, float]]:
    """Two models of the same images, and scikit-learn's kappa of each."""
    logits, label = toy.table(toy.RUN, 200)
    random = np.random.default_rng(1)
    expected = {}
    for name, noise in (("old", 3.0), ("new", 0.5)):
        noisy = (logits + random.normal(scale=noise, size=logits.shape)).astype(np.float32)
        toy.write_run(tmp_path / name, noisy, label, dataclasses.replace(toy.RUN, step=7))
        known = label >= 0
        expected[name] = float(cohen_kappa_score(label[known], noisy[known].argmax(axis=1)))
    return tmp_path / "old", tmp_path / "new", expected


TABLES = [(task, spec) for task in (SINGLE_LABEL, MULTI_LABEL) for spec in registry.metrics_of(task)]


@pytest.mark.parametrize(("task", "spec"), TABLES, ids=[f"{task}-{spec.name}" for task, spec in TABLES])
def test_every_row_is_whole(task: str, spec: MetricSpec) -> None:
    assert spec.definition.endswith(".")
    assert spec.label
    assert spec.range[0] < spec.range[1]
    assert spec.group in get_args(Group)
    of_a_panel = spec.group == "label_issues" or spec.name == "classes/*/support"
    assert (spec.compute is not None) + (spec.margins is not None) == (0 if of_a_panel else 1)
    assert not spec.paired or spec.interval
    assert not spec.column or spec.better != "neither"
    assert registry.find(spec.name, task) is spec


@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL])
def test_no_two_rows_share_a_name_and_no_two_columns_a_heading(task: str) -> None:
    table = registry.metrics_of(task)
    for texts in ([spec.name for spec in table], [s.column for s in table if s.column]):
        assert len(set(texts)) == len(texts)


@pytest.mark.usefixtures("with_kappa")
def test_one_row_and_one_function_make_a_metric_everywhere(
    two_runs: tuple[Path, Path, dict[str, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, expected = two_runs
    logs = tmp_path / "logs"

    # drawn, with its interval, and written to summary.json
    results = predboard.visualize([old, new], logdir=logs, workers=1)
    values = toy.read_values(results[1].event_file)
    assert float(make_ndarray(values["metrics/cohen_kappa", 7].tensor)) == pytest.approx(expected["new"], abs=1e-6)
    assert {("intervals/cohen_kappa/lower", 7), ("intervals/cohen_kappa/upper", 7)} <= set(values)
    summary = json.loads((logs / "new" / "summary.json").read_text())
    written = summary["steps"]["7"]["cohen_kappa"]
    assert written["value"] == pytest.approx(expected["new"], abs=1e-8)
    assert written["lower"] < written["value"] < written["upper"]
    assert summary["definitions"]["cohen_kappa"]["definition"] == KAPPA.definition
    assert "bootstrap of the confusion cells" in summary["definitions"]["cohen_kappa"]["interval"]

    # ranked
    page = toy.read_values(next((logs / log_folder.LEADERBOARD_RUN).glob("*tfevents*")))[
        "report/ranking", 0
    ].tensor.string_val[0]
    head, _, first = page.decode().splitlines()[:3]
    assert head.endswith("| kappa |")
    assert f"**{expected['new']:.4f}**" in first

    # compared, with a paired interval
    report = predboard.compare(old, new, logdir=logs).summary
    d = report["differences"]["cohen_kappa"]
    assert d["difference"] == pytest.approx(expected["new"] - expected["old"], abs=1e-8)
    assert d["lower"] < d["difference"] < d["upper"]
    assert "(label, old, new)" in report["definitions"]["cohen_kappa"]["interval"]

    # gated, by its value, its interval and its loss
    limits: list[dict[str, Any]] = [{"metric": "cohen_kappa", "min": 0.0, "max_drop": 0.0, "bound": "lower"}]
    assert predboard.gate(new, limits, baseline=old).outcome == "pass"
    assert predboard.gate(old, limits, baseline=new).outcome == "fail"
    with pytest.raises(predboard.InputError, match="at most 1"):
        predboard.gate(new, [{"metric": "cohen_kappa", "min": 40}])
    capsys.readouterr()
    assert main.run(["gate", str(new), "--suggest"]) == 0
    assert 'metric = "cohen_kappa"' in capsys.readouterr().out

    # listed
    assert main.run(["metrics"]) == 0
    assert KAPPA.definition in capsys.readouterr().out


def test_every_metric_that_is_paired_is_compared(two_runs: tuple[Path, Path, dict[str, float]], tmp_path: Path) -> None:
    old, new, _ = two_runs
    report = predboard.compare(old, new, logdir=tmp_path / "logs").summary
    compared = {registry.pattern_of(name) for name in report["differences"]}
    paired = {spec.name for spec in registry.METRICS if spec.paired and spec.group != "positive"}  # of two classes
    without = {name for name in paired if name.startswith(("slices/", "groups/"))}  # no column, and no file of groups
    assert paired - without <= compared <= paired


def test_the_page_of_metrics_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "metrics.md").read_text("utf-8")
    assert page == reference_page(), "run: predboard metrics --markdown > docs/metrics.md"
    capsys.readouterr()
    assert main.run(["metrics", "--markdown"]) == 0
    assert capsys.readouterr().out == page
    for _, spec in TABLES:
        assert f"`{spec.name}`\n\n{spec.definition}" in page


def test_metrics_list_names_and_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["metrics"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    for _, spec in TABLES:
        assert f"{spec.name} {spec.definition}" in listed
