"""The panel of single classes."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest
from sklearn import metrics

from predboard.metrics import registry
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.predictions.schema import Run
from predboard.summaries import File, LineChart, Metrics, Scalar, Summary
from tests import toy
from tests.panels.test_panels import drawn, mixed, named, scalar, text

Found = dict[tuple[str, int], Summary]

CURVES = [spec.short for spec in registry.rows("classes") if spec.curve]
MEASURED = [spec.short for spec in registry.rows("classes") if spec.compute is not None]


def table(found: Found, step: int = 0) -> list[list[str]]:
    """Cells of the table's rows."""
    lines = [line for line in text(found["report/classes", step]).split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def rows(found: Found) -> list[dict[str, str]]:
    (file,) = (s for s in found.values() if isinstance(s, File))
    assert file.tag == "classes.csv"
    return list(csv.DictReader(io.StringIO(file.content.decode(), newline="")))


def test_the_curves_and_the_file_are_what_scikit_learn_says() -> None:
    run = named(10)
    logits, label = toy.table(run, 400)
    found = drawn("classes", run, step3=toy.predictions(run, logits, label))
    predicted = logits.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(label, predicted)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    ap = [metrics.average_precision_score(label == c, p[:, c]) for c in range(10)]
    auroc = [metrics.roc_auc_score(label == c, p[:, c]) for c in range(10)]
    matrix = metrics.confusion_matrix(label, predicted)
    off = matrix - np.diag(np.diag(matrix))
    for c, row in enumerate(rows(found)):
        assert (row["step"], row["class"], row["name"]) == ("3", str(c), run.classes[c])
        assert int(row["support"]) == support[c]
        assert int(row["predicted"]) == matrix[:, c].sum()
        assert int(row["hits"]) == matrix[c, c]
        assert (row["taken_for"], int(row["taken_for_images"])) == (run.classes[off[c].argmax()], off[c].max())
        for name, values, bound in (
            ("precision", precision, 1e-8),
            ("recall", recall, 1e-8),
            ("f1", f1, 1e-8),
            ("average_precision", ap, 1e-3),
            ("auroc", auroc, 1e-3),
        ):
            assert float(row[name]) == pytest.approx(values[c], abs=bound)
            assert float(row[f"{name}_lower"]) < float(row[name]) < float(row[f"{name}_upper"])
            if name in CURVES:
                assert scalar(found[f"classes/{name}/{run.classes[c]}", 3]) == pytest.approx(float(row[name]), abs=1e-8)
        ends = (float(row["recall_lower"]), float(row["recall_upper"]))
        assert ends == pytest.approx(wilson_interval(int(row["hits"]), int(row["support"])), abs=1e-8)


def test_of_many_classes_the_twenty_with_most_errors_have_curves_and_all_are_in_the_file() -> None:
    run = named(1000)
    label = np.repeat(np.arange(1000), 2)
    said = label.copy()
    bad = list(range(3, 943, 47))
    for c in bad:
        said[label == c] = c + 1  # which by that has as many errors
    found = drawn("classes", run, step0=toy.predictions(run, np.eye(1000, dtype=np.float32)[said] * 9, label))
    shown = {tag for (tag, _), s in found.items() if isinstance(s, Scalar) and tag.startswith("classes/recall/")}
    assert shown == {f"classes/recall/{run.classes[c]}" for b in bad[:10] for c in (b, b + 1)}
    assert len(rows(found)) == 1000
    lines = table(found)
    assert len(lines) == 200
    assert [line[0] for line in lines[:20]] == [run.classes[c] for c in bad]
    assert "The table has the worst 200 of 1,000 classes; `classes.csv`" in text(found["report/classes", 0])
    (numbers,) = (s for s in found.values() if isinstance(s, Metrics))
    assert len({name.split("/")[1] for name in numbers.metrics}) == 1000


def test_summary_json_has_many_classes_at_the_last_step_alone() -> None:
    for classes, steps in ((100, [1, 2]), (101, [2])):
        run = named(classes)
        found = drawn("classes", run, step1=mixed(run, 300, 1), step2=mixed(run, 300, 2))
        assert [step for (_, step), s in found.items() if isinstance(s, Metrics)] == steps


def test_the_table_by_hand() -> None:
    run = Run(classes=("cat|s", "dog", "eel", "fox", "gnu"), model="toy.py:build")
    label = np.array([0, 0, 0, 1, 1, 2])
    said = np.array([1, 1, 0, 1, 1, 3])
    found = drawn("classes", run, step0=toy.predictions(run, np.eye(5, dtype=np.float32)[said], label))
    assert [[*cells[:7], cells[8]] for cells in table(found)] == [
        ["cat\\|s", "3", "33.3 %", "6.1 to 79.2", "100 %", "20.7 to 100.0", "0.500", "dog (2)"],
        ["eel", "1", "0 %", "0.0 to 79.3", "–", "–", "0.000", "fox (1)"],
        ["dog", "2", "100 %", "34.2 to 100.0", "50.0 %", "15.0 to 85.0", "0.667", "–"],
        ["fox", "0", "–", "–", "0 %", "0.0 to 79.3", "0.000", "–"],
    ]
    assert "1 of 5 classes occurs in no image and no prediction." in text(found["report/classes", 0])


AWKWARD = ("a/b", "a|b", "a.*[b", "line\nbreak", " padded ", "line break", "Ab", "aB", "", "日本", "confidence", "a/b ")


def test_every_name_has_its_own_tag_that_its_chart_finds() -> None:
    run = Run(classes=AWKWARD, model="toy.py:build")
    found = drawn("classes", run, step0=mixed(run, 600))
    for figure in CURVES:
        tags = [tag for (tag, _), s in found.items() if isinstance(s, Scalar) and tag.startswith(f"classes/{figure}/")]
        assert len(set(tags)) == len(tags) == len(AWKWARD)
        assert all(tag == tag.strip() and "\n" not in tag for tag in tags)
        chart = found[f"classes/{figure}", 0]
        assert isinstance(chart, LineChart)
        scalars = [tag for (tag, _), s in found.items() if isinstance(s, Scalar)]
        assert [tag for tag in scalars if any(re.match(p, tag) for p in chart.patterns)] == tags
    assert [row["name"] for row in rows(found)] == list(AWKWARD)
    assert len(table(found)) == len(AWKWARD)
    assert all(len(cells) == 9 for cells in table(found))
    (numbers,) = (s for s in found.values() if isinstance(s, Metrics))
    assert len({name.rpartition("/")[0] for name in numbers.metrics}) == len(AWKWARD)


def test_a_step_without_labels_is_passed_over() -> None:
    run = named(4)
    logits, label = toy.table(run, 40)
    none = toy.predictions(run, logits, np.full(40, -1))
    assert drawn("classes", run, step1=none) == {}
    found = drawn("classes", run, step1=toy.predictions(run, logits, label), step2=none)
    assert {step for _, step in found} == {1}
    assert {tag for tag, _ in found} >= {"report/classes", "classes.csv"}


def test_what_is_not_defined_is_left_out_and_empty() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b", "c", "d"))
    found = drawn(
        "classes", run, step0=toy.predictions(run, np.eye(4, dtype=np.float32)[[0, 0, 2]], np.array([0, 1, 0]))
    )
    assert "classes/recall/c" not in {tag for tag, _ in found}
    assert ("classes/precision/b", 0) not in found
    by_name = {row["name"]: row for row in rows(found)}
    assert {name for name in MEASURED if by_name["d"][name]} == set()
    assert {name for name in MEASURED if by_name["c"][name]} == {"precision", "f1"}
    ends = [f"{name}_{end}" for name in MEASURED for end in ("lower", "upper")]
    assert [end for end in ends if by_name["d"][end]] == []
    assert [end for end in ends if by_name["c"][end]] == ["precision_lower", "precision_upper", "f1_lower", "f1_upper"]
    state = MetricState.measure(run, toy.predictions(run, np.eye(4, dtype=np.float32)[[0, 0, 2]], np.array([0, 1, 0])))
    assert state.metrics.worst_first.tolist() == [1, 0, 2, 3]
