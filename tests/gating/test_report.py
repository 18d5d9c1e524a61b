"""An author's report against predictions: scikit-learn writes it in every shape, and ours says whether it belongs."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import classification_report

import predboard
from predboard import InputError
from predboard.cli import main
from predboard.gating.printed_report import read_report
from predboard.gating.report_check import check_report
from predboard.metrics.counts import Counts
from predboard.predictions.schema import Run
from tests import toy

NAMES = ("Sea or lake", "Forest 2", "Highway", "never seen")
Labels = NDArray[np.int64]


def labels(seed: int = 0, rows: int = 200) -> tuple[Labels, Labels]:
    """True and predicted classes; no image is of the last class, and none is predicted as it."""
    random = np.random.default_rng(seed)
    true = random.integers(0, 3, rows)
    return true, np.where(random.random(rows) < 0.8, true, random.integers(0, 3, rows))


def report(true: Labels, predicted: Labels, **options: Any) -> Any:
    """What scikit-learn writes, with the names of the classes that occur."""
    given = {"target_names": NAMES[:3], "zero_division": 0.0} | options
    return classification_report(true, predicted, **given)


def counts(true: Labels, predicted: Labels) -> Any:
    run = Run(classes=NAMES, model="toy.py:build")
    logits = np.zeros((len(true), 4), np.float32)
    logits[np.arange(len(true)), predicted] = 1
    return Counts.measure(run, toy.predictions(run, logits, true)).metrics


def agrees(folder: Path, text: str, true: Labels, predicted: Labels) -> bool:
    file = folder / "report"
    file.write_text(text, "utf-8")
    results = check_report(read_report(file), counts(true, predicted), NAMES)
    assert sum(len(result.findings) for result in results) >= 9
    return all(result.outcome == "pass" for result in results)


def frame(true: Labels, predicted: Labels, **options: Any) -> pd.DataFrame:
    return pd.DataFrame(report(true, predicted, output_dict=True, **options))


SHAPES: dict[str, Callable[[Labels, Labels], str]] = {
    "text": lambda t, p: report(t, p),
    "text, four digits": lambda t, p: report(t, p, digits=4),
    "text, one digit": lambda t, p: report(t, p, digits=1),
    "text in a log": lambda t, p: f"epoch 3\n loss 0.2\n{report(t, p)}\nsaved to model.pt\n",
    "numbers for names": lambda t, p: report(t, p, target_names=None),
    "all classes": lambda t, p: report(t, p, labels=range(4), target_names=NAMES),
    "some classes": lambda t, p: report(t, p, labels=[0, 2], target_names=[NAMES[0], NAMES[2]]),
    "other letters": lambda t, p: report(t, p, target_names=[n.upper() for n in NAMES[:3]]),
    "zeros divide to 1": lambda t, p: report(t, p, labels=range(4), target_names=NAMES, zero_division=1.0),
    "zeros divide to nan": lambda t, p: report(t, p, labels=range(4), target_names=NAMES, zero_division=np.nan),
    "JSON": lambda t, p: json.dumps(report(t, p, output_dict=True)),
    "JSON, nan": lambda t, p: json.dumps(
        report(t, p, labels=range(4), target_names=NAMES, zero_division=np.nan, output_dict=True)
    ),
    "JSON inside": lambda t, p: json.dumps({"epoch": 3, "test": {"report": report(t, p, output_dict=True)}}),
    "Python's dictionary": lambda t, p: str(report(t, p, output_dict=True)),
    "NumPy's scalars": lambda t, p: re.sub(r"(\d+\.\d+)", r"np.float64(\1)", str(report(t, p, output_dict=True))),
    "CSV": lambda t, p: frame(t, p).transpose().to_csv(),
    "CSV, turned": lambda t, p: frame(t, p).to_csv(),
    "CSV, rounded": lambda t, p: frame(t, p).transpose().round(3).to_csv(),
    "CSV, German": lambda t, p: frame(t, p).transpose().to_csv(sep=";", decimal=","),
    "TSV with an index": lambda t, p: frame(t, p).transpose().reset_index().to_csv(sep="\t"),
    "pandas' JSON": lambda t, p: frame(t, p).to_json(),
    "pandas' JSON, turned": lambda t, p: frame(t, p).transpose().to_json(),
    "pandas' JSON, split": lambda t, p: frame(t, p).transpose().to_json(orient="split"),
    "pandas' JSON, records": lambda t, p: frame(t, p).transpose().reset_index().to_json(orient="records"),
    "pandas' text": lambda t, p: frame(t, p).transpose().to_string(),
    "Markdown": lambda t, p: re.sub(r"(?m)^(.*)$", r"| \1 |", frame(t, p).transpose().to_csv(sep="|").strip()),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_report_belongs_to_its_predictions_in_every_shape_and_to_no_others(shape: str, tmp_path: Path) -> None:
    true, predicted = labels()
    text = SHAPES[shape](true, predicted)
    assert agrees(tmp_path, text, true, predicted)
    other = predicted.copy()
    other[:8] = (other[:8] + 1) % 3  # a stale report: the same images, another epoch
    assert not agrees(tmp_path, text, true, other)
    assert not agrees(tmp_path, text, true[:-1], predicted[:-1])


def test_lines_that_only_part_others_are_passed_over(tmp_path: Path) -> None:
    true, predicted = labels()
    ruled = report(true, predicted).replace("     Highway", "------\n\n     Highway")
    assert agrees(tmp_path, f"epoch 3, loss 0.5\n{ruled}\n[[60  5]\n [ 7 50]]\n", true, predicted)
    assert not agrees(tmp_path, re.sub(r"(Highway\s+)\S+", r"\1 0.99", ruled), true, predicted)


def test_a_perfect_report_says_nothing_of_a_model_that_is_almost_perfect(tmp_path: Path) -> None:
    true, _ = labels()
    almost = true.copy()
    almost[0] = (almost[0] + 1) % 3
    for text in (json.dumps(report(true, true, output_dict=True)), frame(true, true).transpose().to_csv()):
        assert agrees(tmp_path, text, true, true)
        assert not agrees(tmp_path, text, true, almost)


def test_the_text_of_powershell_is_read(tmp_path: Path) -> None:
    true, predicted = labels()
    (tmp_path / "report.txt").write_text(report(true, predicted), "utf-16")
    assert read_report(tmp_path / "report.txt").digits == 2


def test_a_class_that_is_not_there_or_left_out_is_named(tmp_path: Path) -> None:
    true, predicted = labels()
    (tmp_path / "r.txt").write_text(report(true, predicted, target_names=["Sea or lake", "Forest 3", "Highway"]))
    results = check_report(read_report(tmp_path / "r.txt"), counts(true, predicted), NAMES)
    why = {f.metric: f.why for result in results for f in result.findings_with("fail")}
    assert why["report/Forest 3/support"] == "no class has this name; similar: Forest 2"
    assert why["report/Forest 2/support"].endswith("; not in the report")


INTERRUPTED = report(*labels()).replace("     Highway", "epoch 3 saved\n     Highway")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing of the kind", "is no classification_report: expected its text, or output_dict=True as JSON"),
        ("", "is no classification_report"),
        ('{"loss": 0.2}', "is no classification_report"),
        ('{"loss": ', "cannot read"),
        ('{"a": {"precision": 1, "recall": 1, "f1-score": 1e999, "support": 1}}', "in row 'a' that is infinite"),
        ("[" * 100_000, "cannot read"),
        ("precision recall f1-score support\n", "is no classification_report"),
        ("a,precision,recall\nx,1,1\nx,1,1\n", "has 'x' twice"),
        ('{"a": {"precision": 1, "recall": 1}, "a": {"precision": 0, "recall": 0}}', "has 'a' twice"),
        ("{'a': {'precision': 1.0, 'recall': 1.0}, 'a': {'precision': 0.0, 'recall': 0.0}}", "has 'a' twice"),
        ("a,precision,recall,recall\nx,1,1,0\n", "has 'recall' twice"),
        (INTERRUPTED, r"line 6 is like a row of the report, but not below its other rows: 'Highway"),
        ("accuracy 0.99 200\n" + report(*labels()), "line 1 is like a row of the report"),
        (re.sub(r"(Highway.*) \d+", r"\1", report(*labels())), "line 5 is no row of a report: 'Highway"),
        ("x,precision\n" + "y" * 2**24, "has more than"),
        (report(*labels()) * 2, "holds 2 reports; expected one"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text(text, "utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_report(tmp_path / "report.txt")
    assert "\n" not in str(error.value)


def test_the_command_says_to_which_step_a_stale_report_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(classes=NAMES, model="toy.py:build")
    folder, by_step = tmp_path / "predictions", {}
    for step in (1, 2):
        logits, true = toy.table(run, 60, seed=step)
        toy.write_run(folder, logits, true, dataclasses.replace(run, step=step))
        by_step[step] = true, logits.argmax(axis=1)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report(*by_step[1], labels=range(4), target_names=NAMES, output_dict=True)))
    arguments = ["gate", str(folder), "--report", str(file)]
    assert main.run([*arguments, "--step", "1"]) == 0
    out = capsys.readouterr()
    assert f"{file} belongs to these predictions: 25 figures agree to all digits" in out.err + out.out
    assert main.run([*arguments, "--json", str(tmp_path / "gate.json")]) == 1
    out = capsys.readouterr()
    assert f"{file} does not belong to these predictions" in out.err
    assert f"{file} belongs to step 1: --step 1" in out.err
    record = json.loads((tmp_path / "gate.json").read_text("utf-8"))
    assert record["outcome"] == "fail"
    assert {"report/*/precision", "report/accuracy"} <= {rule["metric"] for rule in record["rules"]}
    assert predboard.gate(folder, report=file, step=1).outcome == "pass"
    rules = [{"metric": "accuracy", "min": 1.0}]
    assert predboard.gate(folder, rules, report=file, step=1).outcome == "fail"
