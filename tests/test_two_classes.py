"""Runs of two classes through the commands: which class is the positive one, and where its figures are."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import predboard
from predboard.cli import main
from predboard.predictions.schema import Run
from predboard.visualization import log_folder
from tests import toy
from tests.metrics.test_two_classes import RUN, imbalanced


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs of the same images, and one of three classes."""
    for seed, name in enumerate(("old", "new")):
        z, label = imbalanced(500)
        z = z + np.random.default_rng(seed).normal(scale=0.3, size=len(z))
        toy.write_run(tmp_path / name, np.stack([np.zeros(len(z)), z], axis=1).astype(np.float32), label, RUN)
    three = Run(("a", "b", "c"), "m")
    toy.write_run(tmp_path / "three", *toy.table(three, 30), three)
    return tmp_path


def summary(folder: Path, **more: Any) -> dict[str, dict[str, float]]:
    predboard.visualize(folder / "new", logdir=folder / "logs", panels=("two_classes", "hparams"), workers=1, **more)
    found = json.loads((folder / "logs" / "new" / "summary.json").read_text())
    assert found["positive"] == more.get("positive", "dog")
    of_step: dict[str, dict[str, float]] = found["steps"]["0"]
    return of_step


def test_visualize_has_the_figures_of_the_class_that_is_named(folder: Path) -> None:
    dog, cat = summary(folder), summary(folder, positive="cat")
    assert dog["positive/recall"] == cat["positive/specificity"]
    assert dog["positive/recall"] != cat["positive/recall"]
    assert dog["positive/auroc"]["value"] == pytest.approx(cat["positive/auroc"]["value"], abs=2e-3)
    recorded = dataclasses.replace(RUN, positive="cat")
    z, label = imbalanced(500)
    toy.write_run(folder / "new", np.stack([np.zeros(len(z)), z], axis=1).astype(np.float32), label, recorded)
    predboard.visualize(folder / "new", logdir=folder / "logs", panels=("two_classes",), workers=1)
    assert json.loads((folder / "logs" / "new" / "summary.json").read_text())["positive"] == "cat"


def test_rules_on_the_positive_class(folder: Path) -> None:
    recall = summary(folder)["positive/recall"]["value"]
    rules = [{"metric": "positive/recall", "min": recall - 0.001}, {"metric": "positive/average_precision", "min": 0.2}]
    assert predboard.gate(folder / "new", rules).outcome == "pass"
    assert predboard.gate(folder / "new", [{"metric": "positive/recall", "min": recall + 0.001}]).outcome == "fail"
    specificity = summary(folder)["positive/specificity"]["value"]
    of_cat = [{"metric": "positive/recall", "min": specificity - 1e-6, "max": specificity + 1e-6}]
    assert predboard.gate(folder / "new", of_cat, positive="cat").outcome == "pass"
    names = ("recall", "specificity", "f1", "auroc", "average_precision")
    drops = [{"metric": f"positive/{name}", "max_drop": 0.3} for name in names]
    assert predboard.gate(folder / "new", drops, baseline=folder / "old").outcome == "pass"
    with pytest.raises(predboard.InputError, match=r"positive/recall is of two classes, and m at step 0 has 3"):
        predboard.gate(folder / "three", rules)


def test_a_first_file_of_rules_has_the_positive_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["gate", str(folder / "new"), "--suggest"]) == 0
    written = capsys.readouterr().out
    assert 'metric = "positive/recall"' in written
    assert 'metric = "positive/precision"' in written
    (folder / "gates.toml").write_text(written)
    assert main.run(["gate", str(folder / "new"), "--rules", str(folder / "gates.toml")]) == 0
    capsys.readouterr()
    assert main.run(["gate", str(folder / "three"), "--suggest"]) == 0
    assert "positive/" not in capsys.readouterr().out


def test_compare_says_which_class_its_figures_are_of(folder: Path) -> None:
    found = {
        positive: predboard.compare(folder / "old", folder / "new", logdir=folder / "logs", positive=positive).summary
        for positive in ("dog", "cat")
    }
    assert [found[name]["positive"] for name in found] == ["dog", "cat"]
    dog, cat = (found[name]["differences"] for name in found)
    assert dog["positive/recall"] == cat["positive/specificity"] == dog["classes/dog/recall"]
    assert {"lower", "upper"} <= set(dog["positive/f1"])


@pytest.mark.parametrize("command", ["visualize", "gate", "compare"])
def test_a_positive_class_that_there_is_not(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--suggest"] if command == "gate" else ["--logdir", str(folder / "logs")]
    runs = [str(folder / "old"), str(folder / "new")][command != "compare" :]
    assert main.run([command, *runs, *more, "--positive", "dogs"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("--positive is 'dogs'; expected cat or dog; did you mean dog?")
    )
    three = [str(folder / "three")] * (2 if command == "compare" else 1)
    assert main.run([command, *three, *more, "--positive", "a"]) == 2
    assert "names one of two classes, but there are 3" in capsys.readouterr().err


def test_the_tables_of_runs_have_columns_of_the_positive_class(folder: Path) -> None:
    panels = ("metrics", "two_classes", "hparams")
    results = predboard.visualize([folder / "old", folder / "new"], logdir=folder / "logs", panels=panels, workers=1)
    page = toy.read_values(next((folder / "logs" / log_folder.LEADERBOARD_RUN).glob("*tfevents*")))
    head = page["report/ranking", 0].tensor.string_val[0].decode().splitlines()[0]
    assert "| precision (positive) | recall (positive) | F1 (positive) | AP (positive) |" in head
    written = results[0].event_file.read_bytes()
    for words in (b"recall (positive)", b"positive/recall"):
        assert words in written
    three = predboard.visualize(folder / "three", logdir=folder / "others", panels=panels, workers=1)[0]
    assert b"(positive)" not in three.event_file.read_bytes()


def test_a_run_with_confidences_alone_has_what_they_allow(folder: Path) -> None:
    z, label = imbalanced(200)
    p = 1 / (1 + np.exp(-z))
    np.savez(folder / "c.npz", predicted=(z > 0).astype(int), confidence=np.maximum(p, 1 - p), label=label)
    (folder / "classes.txt").write_text("cat\ndog\n")
    predboard.import_predictions(
        folder / "c.npz", "confidence", out=folder / "new", overwrite=True, classes=folder / "classes.txt"
    )
    found = summary(folder)
    assert {name for name in found if name.startswith("positive/")} == {
        f"positive/{name}" for name in ("precision", "recall", "specificity", "f1")
    }
    absent = json.loads((folder / "logs" / "new" / "summary.json").read_text())["absent"]
    assert {"positive/auroc", "positive/average_precision"} <= set(absent)
    with pytest.raises(predboard.InputError, match=r"positive/auroc of .* is not measurable"):
        predboard.gate(folder / "new", [{"metric": "positive/auroc", "min": 0.5}])
