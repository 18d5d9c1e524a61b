"""Files with the predicted class and its confidence alone: what they allow is right, everything else is absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from predboard import (
    CompareConfig,
    InputError,
    VisualizeConfig,
    compare,
    gate,
    open_predictions,
    visualize,
)
from predboard.metrics.registry import absent_without_scores
from tests import toy
from tests.ingest.examples import refused, run, run_logged

TRUE = ["cat", "cat", "cat", "dog", "dog", "owl", "owl", "dog"]
GUESS = ["cat", "cat", "dog", "dog", "dog", "owl", "cat", "dog"]
SURE = [0.90625, 0.625, 0.5, 0.96875, 0.75, 0.625, 0.40625, 0.8125]  # exact in float32
"""By hand: 6 of 8 are right. No two are in one of the 15 bins but .625 twice, which are right both times. So ECE is
(|1 − .90625| + |2 − 1.25| + .5 + (1 − .96875) + .25 + .40625 + (1 − .8125)) / 8 = 2.21875 / 8 = .27734375."""


def table(folder: Path, name: str = "a.csv", **changes: Any) -> Path:
    frame = pd.DataFrame({"path": [f"{i}.png" for i in range(8)], "true": TRUE, "predicted": GUESS, "confidence": SURE})
    frame.assign(**changes).to_csv(folder / name, index=False)
    return folder / name


def imported(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    run(folder, table(folder, **changes), scores="confidence", pictures=False)
    return folder / "out"


def summary(folder: Path, logs: Path) -> dict[str, Any]:
    (written,) = visualize(VisualizeConfig((folder,), logs))
    content: dict[str, Any] = json.loads((written.folder / "summary.json").read_text())
    return content


def test_the_part_has_no_logits_and_no_loss(tmp_path: Path) -> None:
    frame, lines = run_logged(tmp_path, table(tmp_path), scores="confidence", pictures=False)
    assert lines[:2] == [
        "a.csv: 8 rows, 3 classes in predicted, confidence",
        "labels: 'true' of a.csv; images: 'path' of a.csv; order of the classes: the predicted and true classes",
    ]
    opened = open_predictions(tmp_path / "out")
    assert (opened.run.classes, opened.run.scores) == (("cat", "dog", "owl"), "confidence")
    assert "logits" not in frame and frame[["loss", "margin", "entropy"]].isna().all(axis=None)
    assert [opened.run.classes[c] for c in frame["predicted"]] == GUESS
    assert [opened.run.classes[c] for c in frame["label"]] == TRUE
    assert frame["confidence"].tolist() == SURE
    assert "logits" not in pq.read_schema(next((tmp_path / "out").rglob("*.parquet"))).names


def test_metrics_that_need_no_scores_are_right_and_the_others_absent_with_the_reason(tmp_path: Path) -> None:
    content = summary(imported(tmp_path), tmp_path / "logs")
    metrics = {name: metric["value"] for name, metric in content["steps"]["0"].items()}
    assert metrics["accuracy"] == 0.75
    assert metrics["calibration/ece"] == 0.27734375
    assert metrics["calibration/mce"] == 0.5
    # Recall 2/3, 1 and 1/2; by falling confidence the errors are the 7th and the 8th of 8: (1/7 + 2/8) / 8.
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert metrics["aurc"] == pytest.approx((1 / 7 + 2 / 8) / 8)
    absent = absent_without_scores(False)
    assert {"nll", "brier", "auroc_macro", "calibration/temperature", "classes/*/auroc", "slices/*/nll"} <= set(absent)
    assert not set(absent) & set(metrics) and not any(name.endswith(("nll", "auroc")) for name in metrics)
    assert set(content["absent"]) == set(absent)
    assert all("needs the scores of all classes" in reason for reason in content["absent"].values())


def test_slices_have_an_accuracy_and_no_loss(tmp_path: Path) -> None:
    again = pd.concat([pd.read_csv(table(tmp_path))] * 20).assign(path=[f"{i}.png" for i in range(160)])
    again.assign(country=np.where(again["true"] == "dog", "NO", "SE")).to_csv(tmp_path / "a.csv", index=False)
    run(tmp_path, tmp_path / "a.csv", scores="confidence", pictures=False)
    content = summary(tmp_path / "out", tmp_path / "logs")["steps"]["0"]
    assert content["slices/country=NO/accuracy"]["value"] == 1.0
    assert content["slices/country=SE/accuracy"]["value"] == 0.6
    lines = (tmp_path / "logs/out/slices.csv").read_text().splitlines()
    assert [line.split(",")[7] for line in lines] == ["nll", "", ""]


def test_the_published_calibration_error_comes_out(tmp_path: Path) -> None:
    file = toy.SHARED / "cifar10_saved_predictions/nncal_probs_resnet110_c10_logits.csv"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    run(tmp_path, file, scores="confidence")
    metrics = summary(tmp_path / "out", tmp_path / "logs")["steps"]["0"]
    assert round(metrics["calibration/ece"]["value"], 4) == 0.0475
    assert metrics["accuracy"]["value"] == 0.9356
    rows = pd.read_csv(file)
    wrong = (rows["true_label"] != rows["pred_label"])[np.argsort(-rows["confidence"], kind="stable")]
    exact = (np.cumsum(wrong.to_numpy()) / np.arange(1, len(rows) + 1)).mean()
    assert metrics["aurc"]["value"] == pytest.approx(exact, abs=metrics["aurc"]["bound"])


def test_a_rule_on_what_is_absent_is_an_error_and_on_the_rest_a_verdict(tmp_path: Path) -> None:
    folder = imported(tmp_path)
    result = gate(folder, [{"metric": "calibration/ece", "max": 0.28}, {"metric": "aurc", "max": 1}])
    assert result.code == 0
    assert gate(folder, [{"metric": "accuracy", "min": 0.8}]).code == 1
    for metric in ("nll", "calibration/temperature", "classes/*/auroc", "label_issues/suspected"):
        with pytest.raises(InputError, match="is not measurable: only the predicted class"):
            gate(folder, [{"metric": metric, "max": 0.5}])


def test_two_such_runs_are_compared_and_one_with_a_run_that_has_scores(tmp_path: Path) -> None:
    old, new = imported(tmp_path / "old"), imported(tmp_path / "new", predicted=TRUE)
    (tmp_path / "full").mkdir()
    frame = pd.DataFrame(
        np.eye(3)[[["cat", "dog", "owl"].index(c) for c in TRUE]] * 0.7 + 0.1, columns=["cat", "dog", "owl"]
    )
    frame.add_prefix("prob_").assign(path=[f"{i}.png" for i in range(8)], true=TRUE).to_csv(tmp_path / "full/b.csv")
    run(tmp_path / "full", tmp_path / "full/b.csv", scores="probabilities", pictures=False)
    for i, other in enumerate((new, tmp_path / "full/out")):
        result = compare(CompareConfig((old, other), tmp_path / f"logs{i}"))
        assert "nll" not in str(result.summary)
        assert "2 fixed" in result.verdict and "0 broken" in result.verdict


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confidence": 90.5}, r"'confidence' of a\.csv does not hold confidences: 8 of 8 rows .* divide percentages"),
        ({"confidence": -0.5}, r"8 of 8 rows are not from 0 to 1; the first is row 0, with -0\.5"),
        ({"predicted": 10**9, "true": 1}, r"has class 1,000,000,000; expected indices"),
    ],
)
def test_what_are_no_confidences_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    refused(words, tmp_path, table(tmp_path, **changes), scores="confidence")


def test_a_row_without_prediction_or_confidence_has_failed(tmp_path: Path) -> None:
    file = table(tmp_path, predicted=["", *GUESS[1:]], confidence=[*SURE[:7], None])
    frame = run(tmp_path, file, scores="confidence", pictures=False)
    assert frame["error"].notna().tolist() == [True, *[False] * 6, True]
    assert frame["predicted"].isna().tolist() == frame["confidence"].isna().tolist() == frame["error"].notna().tolist()
    (tmp_path / "names.txt").write_text("cat\ndog")
    words = "'predicted' of a.csv has 'owl' in row 5, which is not among the 2 classes"
    refused(words, tmp_path / "x", file, scores="confidence", classes=tmp_path / "names.txt")


def test_columns_that_are_not_found_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("true,first,p\na,a,.9\nb,a,.5\n")
    refused(
        "has true, first, p; which is the confidence: name it with --score-column", tmp_path, file, scores="confidence"
    )
    options = {"scores": "confidence", "score_column": "p"}
    refused("which is the predicted class: name it with --predicted-column", tmp_path, file, **options)
    assert len(run(tmp_path, file, predicted_column="first", **options)) == 2
    refused("--scores confidence", tmp_path / "x", table(tmp_path), scores="probabilities")


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        ("0 1 0", r"\(0, 1 and ant, bee\): write them in one way"),
        ("Ant bee bee", r"\(Ant, bee and ant, bee\): Ant and ant differ in case"),
    ],
)
def test_classes_that_are_written_in_two_ways_are_refused(predicted: str, words: str, tmp_path: Path) -> None:
    rows = "".join(f"{t},{p},.9\n" for t, p in zip(("ant", "bee", "ant"), predicted.split(), strict=True))
    (tmp_path / "a.csv").write_text(f"label,predicted,confidence\n{rows}")
    refused(words, tmp_path, tmp_path / "a.csv", scores="confidence")
    if predicted.startswith("0"):
        (tmp_path / "names.txt").write_text("ant\nbee")
        frame = run(tmp_path, tmp_path / "a.csv", scores="confidence", classes=tmp_path / "names.txt")
        assert frame["predicted"].tolist() == frame["label"].tolist()
