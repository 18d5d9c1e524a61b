"""Intervals that leave out rows that belong together, against plain loops, and against rows that are independent."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import f1_score, matthews_corrcoef, recall_score

import predboard
from predboard import CompareConfig, GateConfig, ImportConfig, VisualizeConfig, compare
from predboard.comparison.class_mapping import match_classes
from predboard.comparison.differences import Comparison
from predboard.comparison.paired_counts import count_pairs
from predboard.evaluation.amend import Amendments
from predboard.evaluation.measure import measure_part
from predboard.gating.gate import gate
from predboard.metrics.calibration import Calibration, CalibrationEvidence
from predboard.metrics.class_groups import ClassGroups, read_class_groups
from predboard.metrics.group_counts import GroupCounts
from predboard.metrics.intervals import grouped_half_width, grouped_method, wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.multi_label.label_state import LabelCountState
from predboard.metrics.multi_label.label_values import all_label_metrics
from predboard.metrics.values import calibration_metrics, class_columns, group_metrics, overall_metrics
from predboard.panels import load
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import JACKKNIFE_GROUPS, jackknife_group
from predboard.predictions.schema import Run, hash_refs
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.storage.parts import read_batches
from predboard.storage.runs import Step, open_run
from predboard.summaries import Metric
from predboard.visualization.visualize import visualize
from tests import toy

RUN = Run(classes=("cat", "dog", "eel"), model="toy.py:build")


def test_the_jackknife_of_few_groups_is_that_of_the_textbook() -> None:
    """Variance (G - 1) / G · sum of squares, Student's t of G - 1 degrees of freedom as SciPy has it."""
    for groups in range(2, JACKKNIFE_GROUPS + 1):
        values = np.random.default_rng(groups).normal(size=(groups, 3))
        spread = (groups - 1) / groups * ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        expected = stats.t.ppf(0.975, groups - 1) * np.sqrt(spread)
        np.testing.assert_allclose(grouped_half_width(values), expected, rtol=1e-6)
    assert np.isnan(grouped_half_width(np.zeros((1, 3)))).all()


def grouped(rows: Predictions, group: Sequence[str | None]) -> Predictions:
    """The rows with the hidden column by which they belong together."""
    hashes = [key if text is None else hash_refs([text])[0] for text, key in zip(group, rows.key, strict=True)]
    return Predictions(
        rows.batch.append_column("group:patient", pa.array(hashes, pa.int64())), has_scores=rows.has_scores
    )


def test_every_interval_leaves_out_whole_groups() -> None:
    rows = 400
    logits, label = toy.table(RUN, rows, seed=3)
    label[::9] = -1
    patient = [f"{i // 8}" for i in range(rows)]
    batch = grouped(toy.predictions(RUN, logits, label, failed=frozenset({5})), patient)
    halves = [batch.take(np.arange(rows) % 2 == side) for side in (0, 1)]
    state = merge(*(MetricState.measure(RUN, half) for half in halves))
    metrics = overall_metrics(state)
    ok = (label >= 0) & (np.arange(rows) != 5)
    group = jackknife_group(hash_refs(patient))
    y, p = label[ok], logits[ok].argmax(axis=1)
    e = np.exp(logits[ok].astype(np.float64))
    e /= e.sum(axis=1, keepdims=True)
    loss, brier = -np.log(e[np.arange(len(y)), y]), ((e - np.eye(3)[y]) ** 2).sum(axis=1)
    top2 = (np.argsort(-e, axis=1)[:, :2] == y[:, None]).any(axis=1)
    per_row: dict[str, Callable[[Any], float]] = {
        "accuracy": lambda at: float((y[at] == p[at]).mean()),
        "accuracy_top2": lambda at: float(top2[at].mean()),
        "nll": lambda at: float(loss[at].mean()),
        "brier": lambda at: float(brier[at].mean()),
        "balanced_accuracy": lambda at: float(recall_score(y[at], p[at], average="macro")),
        "f1_macro": lambda at: float(f1_score(y[at], p[at], average="macro")),
        "mcc": lambda at: float(matthews_corrcoef(y[at], p[at])),
    }
    present = sorted(set(group[ok].tolist()))
    assert len(present) < len(set(patient))
    for name, function in per_row.items():
        metric = metrics[name]
        without = np.array([function(group[ok] != g) for g in present])
        half = float(grouped_half_width(without))
        assert metric.value == pytest.approx(function(slice(None)), rel=1e-6)
        assert metric.interval == pytest.approx((metric.value - half, metric.value + half), abs=2e-6)
        assert metric.method == grouped_method("patient")
    evidence = CalibrationEvidence(merge(*(Calibration.measure(RUN, half) for half in halves)), state.histograms)
    confidence = e.max(axis=1)
    bins = np.minimum((confidence * 15).astype(int), 14)

    def ece(at: Any) -> float:
        gap = np.bincount(bins[at], ((y == p) - confidence)[at], 15)
        return float(np.abs(gap).sum() / len(bins[at]))

    metric = calibration_metrics(evidence)["calibration/ece"]
    half = float(grouped_half_width(np.array([ece(group[ok] != g) for g in present])))
    assert metric.interval == pytest.approx((max(metric.value - half, 0), metric.value + half), abs=2e-6)
    assert metric.method == grouped_method("patient")
    recalls = class_columns(state)["recall"]
    of_cats = np.array([(p == 0)[(y == 0) & (group[ok] != g)].mean() for g in present])
    assert recalls.upper[0] - recalls.value[0] == pytest.approx(float(grouped_half_width(of_cats)))
    assert recalls.method == grouped_method("patient")


@pytest.mark.parametrize("times", [4, 16])
def test_repeated_rows_of_one_group_widen_the_interval_by_the_root_of_their_number(times: int) -> None:
    """Each row is there several times under one patient: as much is known as from one of each."""
    rows = 2_000
    logits, label = toy.table(RUN, rows)
    once = toy.predictions(RUN, logits, label)
    patient = [f"{i}" for i in range(rows)]
    again = np.repeat(np.arange(rows), times)
    many = toy.predictions(RUN, logits[again], label[again])
    apart = overall_metrics(MetricState.measure(RUN, many))
    together = overall_metrics(MetricState.measure(RUN, grouped(many, [patient[i] for i in again])))
    single = overall_metrics(MetricState.measure(RUN, grouped(once, patient)))

    def width(metric: Metric) -> float:
        assert metric.interval is not None
        return metric.interval[1] - metric.interval[0]

    for name in ("accuracy", "f1_macro", "nll", "auroc_macro", "average_precision_macro"):
        assert width(together[name]) == pytest.approx(width(single[name]), rel=1e-3), name
        assert 0.6 * math.sqrt(times) < width(together[name]) / width(apart[name]) < 1.6 * math.sqrt(times), name


def test_without_two_groups_there_is_no_interval() -> None:
    logits, label = toy.table(RUN, 50)
    state = MetricState.measure(RUN, grouped(toy.predictions(RUN, logits, label), ["one"] * 50))
    assert {name: m.interval for name, m in overall_metrics(state).items() if "independent" not in m.method} == {
        name: None for name, m in overall_metrics(state).items() if "independent" not in m.method
    }
    assert state.metrics.accuracy_interval == (0.0, 1.0)


def test_where_all_rows_are_right_or_none_is_the_jackknife_tells_nothing() -> None:
    """Every group gives the same value, so that the interval would be that value alone: 0 of 25 is not surely 0."""
    label = np.arange(150) % 3
    label[label == 2] = 1
    logits = np.eye(3, dtype=np.float32)[np.where(label == 0, 0, 2)] * 9  # of dogs none is found
    rows = toy.predictions(RUN, logits, label)
    state = MetricState.measure(RUN, grouped(rows, [f"{i // 3}" for i in range(150)]))
    recall = class_columns(state)["recall"]
    assert recall.value[:2].tolist() == [1.0, 0.0]
    assert np.isnan([recall.lower, recall.upper]).all()
    right = toy.predictions(RUN, np.eye(3, dtype=np.float32)[label] * 9, label)
    patient = [f"{i // 3}" for i in range(150)]
    groups = len(np.unique(jackknife_group(hash_refs(patient))))
    state = MetricState.measure(RUN, grouped(right, patient))
    assert overall_metrics(state)["accuracy"].interval is None
    assert state.metrics.accuracy_interval == pytest.approx(wilson_interval(groups, groups))


def run_of(folder: Path, seed: int, rows: int = 300) -> Path:
    logits, label = toy.table(RUN, rows, seed)[0], toy.table(RUN, rows)[1]
    toy.write_run(folder, logits, label, RUN, shard_size=128)
    return folder


def columns(folder: Path, rows: int = 300) -> Path:
    file = folder / "columns.csv"
    file.write_text("image,patient\n" + "".join(f"{i:06d}.png,P{i // 5}\n" for i in range(rows)))
    return file


def test_differences_leave_out_whole_groups_too(tmp_path: Path) -> None:
    old, new = run_of(tmp_path / "old", 1), run_of(tmp_path / "new", 2)
    amendments = Amendments(VisualizeConfig((old,), columns=columns(tmp_path), group_column="patient"))
    steps = [amendments.attach(open_run(folder)).steps[0] for folder in (old, new)]
    differences = Comparison(
        count_pairs(steps[0], steps[1], match_classes(RUN, RUN, ("old", "new"))), RUN.classes
    ).differences
    label = toy.table(RUN, 300)[1]
    said = [toy.table(RUN, 300, seed)[0].argmax(axis=1) for seed in (1, 2)]
    group = jackknife_group(hash_refs(f"P{i // 5}" for i in range(300)))
    present = sorted(set(group.tolist()))
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "accuracy": lambda at, s: (s[at] == label[at]).mean(),
        "f1_macro": lambda at, s: f1_score(label[at], s[at], average="macro"),
        "classes/dog/recall": lambda at, s: (s[at] == 1)[label[at] == 1].mean(),
        "classes/dog/precision": lambda at, s: (label[at] == 1)[s[at] == 1].mean(),
    }
    for name, function in functions.items():
        gains = np.array([function(group != g, said[1]) - function(group != g, said[0]) for g in present])
        rests_on = {"classes/dog/recall": label == 1, "classes/dog/precision": (said[0] == 1) | (said[1] == 1)}
        k = len(set(group[rests_on.get(name, label >= 0)].tolist()))  # groups that have such images
        half = stats.t.ppf(0.975, k - 1) * np.sqrt((k - 1) / k * ((gains - gains.mean()) ** 2).sum())
        d = differences[name]
        assert d.interval == pytest.approx((d.difference - half, d.difference + half), abs=1e-7), name
        assert d.method == grouped_method("patient")
    e = [softmax(toy.table(RUN, 300, seed)[0].astype(np.float64), axis=1) for seed in (1, 2)]

    def ece(at: Any, p: Any) -> float:
        confidence = p[at].max(axis=1)
        gap = (p[at].argmax(axis=1) == label[at]) - confidence
        return float(np.abs(np.bincount((confidence * 15).astype(int), gap, 16)).sum() / len(gap))

    def nll(at: Any, p: Any) -> float:
        return float(-np.log(p[at][np.arange(int(at.sum())), label[at]]).mean())

    for name, of_rows in (("nll", nll), ("calibration/ece", ece)):
        gains = np.array([of_rows(group != g, e[1]) - of_rows(group != g, e[0]) for g in present])
        half, d = float(grouped_half_width(gains)), differences[name]
        assert d.interval == pytest.approx((d.difference - half, d.difference + half), abs=5e-6), name
        assert d.method == grouped_method("patient")
    assert differences["slices/patient=P1/accuracy"].interval is None  # all of one group
    slices = {name: d for name, d in differences.items() if name.startswith("slices/brightness") and d.interval}
    assert slices
    assert {d.method for d in slices.values()} == {grouped_method("patient")}


def test_every_command_says_by_which_column_rows_belong_together(tmp_path: Path) -> None:
    old, new = run_of(tmp_path / "old", 1), run_of(tmp_path / "new", 2)
    more: dict[str, Any] = {"columns": columns(tmp_path), "group_column": "patient"}
    compared = compare(CompareConfig((old, new), tmp_path / "logs", **more), lambda _: None)
    assert "intervals leave out images of one patient together: 60 values of it" in compared.summary["notes"]
    assert compared.summary["definitions"]["accuracy"]["interval"] == grouped_method("patient")
    assert "independent" in compared.summary["definitions"]["churn"]["interval"]
    captions = {tag: v.metadata.summary_description for (tag, _), v in toy.read_values(compared.event_file).items()}
    assert "Newcombe" not in captions["classes/difference"]
    assert "Newcombe" not in captions["slices/difference"]
    rules = [{"metric": "accuracy", "min": 0.0}, {"metric": "accuracy", "max_drop": 1.0}]
    found = [v.findings[0] for v in gate(GateConfig(new, baseline=old, **more), lambda _: None, rules).verdicts[1:]]
    plain = [v.findings[0] for v in gate(GateConfig(new, baseline=old), lambda _: None, rules).verdicts[1:]]
    assert [a.value for a in found] == [b.value for b in plain]
    assert all(a.interval != b.interval for a, b in zip(found, plain, strict=True))


def test_rows_that_belong_together_need_not_be_in_every_part(tmp_path: Path) -> None:
    old, new = run_of(tmp_path / "old", 1), run_of(tmp_path / "new", 2, 100)
    more: dict[str, Any] = {"columns": columns(tmp_path), "group_column": "patient"}
    compared = compare(CompareConfig((old, new), tmp_path / "logs", **more), lambda _: None)
    right = (toy.table(RUN, 300, 1)[0].argmax(axis=1) == toy.table(RUN, 300)[1])[:100]
    assert "200 images are only in old" in compared.summary["notes"]
    gain = np.mean(toy.table(RUN, 100, 2)[0].argmax(axis=1) == toy.table(RUN, 100)[1]) - right.mean()
    assert compared.summary["differences"]["accuracy"]["difference"] == pytest.approx(gain)


def test_files_of_thresholds_say_what_divides_the_images(tmp_path: Path) -> None:
    files = {"thresholds": "thresholds.json", "two_classes": "operating_points.json"}
    for panel, run in (("thresholds", toy.MULTI_LABEL_RUN), ("two_classes", Run(("rest", "eight"), "toy"))):
        logits, label = toy.multi_label_table(run, 300) if panel == "thresholds" else toy.table(run, 300)
        toy.write_run(tmp_path / panel, logits, label, run)
        config = VisualizeConfig((tmp_path / panel,), tmp_path / "logs", panels=(panel,), columns=columns(tmp_path))
        for column, words in ((None, "a hash of their keys,"), ("patient", "a hash of patient,")):
            visualize(dataclasses.replace(config, group_column=column), lambda _: None)
            assert words in (tmp_path / "logs" / panel / files[panel]).read_text()


def test_states_of_groups_do_not_depend_on_how_rows_are_divided(tmp_path: Path) -> None:
    amendments = Amendments(VisualizeConfig(columns=columns(tmp_path), group_column="patient"))
    (step,) = amendments.attach(open_run(run_of(tmp_path / "run", 1))).steps
    chosen = {name: load(name) for name in ("metrics", "calibration", "slices", "glance")}
    parts = [measure_part(part, chosen)[0] for part in step.parts]
    for name in chosen:
        one, two, three = (states[name] for states in parts)
        left, right = merge(merge(one, two), three), merge(three, merge(two, one))
        assert repr(left) == repr(right)
    assert grouped_half_width(np.zeros((3, 2))).tolist() == [0, 0]
    assert dataclasses.is_dataclass(parts[0]["metrics"])
    assert wilson_interval(1, 2)[0] < 0.5


def test_groups_of_classes_leave_out_groups_of_images_too(tmp_path: Path) -> None:
    """Cats and dogs are one group: what is confused inside it is right."""
    old, new = run_of(tmp_path / "old", 1), run_of(tmp_path / "new", 2)
    (tmp_path / "groups.csv").write_text("class,kind\ncat,pet\ndog,pet\neel,fish\n")
    groups = read_class_groups(tmp_path / "groups.csv", RUN.classes)
    amendments = Amendments(VisualizeConfig((old,), columns=columns(tmp_path), group_column="patient"))
    steps = [amendments.attach(open_run(folder)).steps[0] for folder in (old, new)]
    pairs = count_pairs(steps[0], steps[1], match_classes(RUN, RUN, ("old", "new")))
    difference = Comparison(pairs, RUN.classes, groups=groups).differences["groups/kind/accuracy"]
    kind = np.array([0, 0, 1])
    label = kind[toy.table(RUN, 300)[1]]
    right = [kind[toy.table(RUN, 300, seed)[0].argmax(axis=1)] == label for seed in (1, 2)]
    group = jackknife_group(hash_refs(f"P{i // 5}" for i in range(300)))
    without = [np.array([side[group != g].mean() for g in sorted(set(group.tolist()))]) for side in right]
    half = float(grouped_half_width(without[1] - without[0]))
    gain = right[1].mean() - right[0].mean()
    assert difference.interval == pytest.approx((gain - half, gain + half), abs=1e-9)
    rows = merge_all_parts(steps[1], groups)
    metric = group_metrics(rows, groups)["groups/kind/accuracy"]
    half = float(grouped_half_width(without[1]))
    assert metric.interval == pytest.approx((right[1].mean() - half, right[1].mean() + half), abs=1e-9)
    assert metric.method == difference.method == grouped_method("patient")
    assert group_metrics(rows, groups)["groups/kind/errors_inside"].method.endswith("also those of one patient")


def merge_all_parts(step: Step, groups: ClassGroups) -> GroupCounts:
    states = [
        GroupCounts.measure(step.run, rows, groups, sum_up=True)
        for part in step.parts
        for rows in read_batches(part, {"label", "predicted", "loss", "logits"})
    ]
    return functools.reduce(merge, states)


CHEXNET = toy.SHARED / "chexnet/chexnet.npz"


@pytest.mark.skipif(not CHEXNET.is_file(), reason="needs published predictions, which are not distributed with this")
def test_chest_x_rays_of_one_patient_belong_together(tmp_path: Path) -> None:
    """22,433 images of 6,187 patients: micro F1's interval is 1.6 to 2 times as wide as by image."""
    saved = np.load(CHEXNET)
    config = ImportConfig("probabilities", (CHEXNET,), tmp_path / "run", task="multi-label", pictures=False)
    predboard.import_predictions(config, lambda _: None)
    file = tmp_path / "patients.csv"
    refs = [str(name) for name in saved["image"]]
    patient = [name.split("/")[-1].split("_")[0] for name in refs]
    assert len(set(patient)) == 6187
    # As numbers: 00000010 would stay text, and give other groups of the jackknife.
    lines = [f"{name},{int(text)}" for name, text in zip(refs, patient, strict=True)]
    file.write_text("\n".join(["image,patient", *lines, ""]))
    run = open_run(tmp_path / "run")
    steps = {
        column: Amendments(VisualizeConfig(columns=file, group_column=column)).attach(run).steps[0]
        for column in (None, "patient")
    }
    metrics: dict[str | None, dict[str, Metric]] = {}
    for column, step in steps.items():
        batches = (rows for part in step.parts for rows in read_batches(part))
        known = (rows for rows in batches if isinstance(rows, MultiLabelPredictions))
        state = functools.reduce(merge, (LabelCountState.measure(step.run, rows) for rows in known))
        metrics[column] = all_label_metrics(state)
    ends = [of_column["f1_micro"].interval or (0.0, 0.0) for of_column in metrics.values()]
    widths = [upper - lower for lower, upper in ends]
    assert 1.6 <= widths[1] / widths[0] <= 2.0
    assert metrics[None]["f1_micro"].value == metrics["patient"]["f1_micro"].value == pytest.approx(0.251743, abs=1e-6)
    assert metrics["patient"]["f1_micro"].method.startswith(grouped_method("patient"))
    assert metrics["patient"]["exact"].method == grouped_method("patient")
    said, true = saved["prob"] > 0.5, saved["label"]
    group = jackknife_group(hash_refs(str(int(text)) for text in patient))
    without = [
        f1_score(true[group != g], said[group != g], average="micro", zero_division=0) for g in range(JACKKNIFE_GROUPS)
    ]
    assert widths[1] / 2 == pytest.approx(float(grouped_half_width(np.array(without))), rel=1e-6)
