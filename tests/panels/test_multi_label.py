"""What the panels of images with several labels show: values worked out by hand, in plain loops, or by cleanlab."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, jaccard_score

import predboard
from predboard import panels
from predboard.cli import main
from predboard.metrics.intervals import grouped_half_width
from predboard.metrics.multi_label.label_state import LabelState
from predboard.metrics.multi_label.label_temperature import fit_label_temperature
from predboard.metrics.multi_label.label_thresholds import COMMON, EACH, HALF, MIN_IMAGES
from predboard.metrics.multi_label.label_values import all_label_metrics
from predboard.metrics.slices import list_slices, slice_jaccard
from predboard.panels import RunInfo, StepInfo
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import MULTI_LABEL, Run, hash_refs
from predboard.state import merge
from predboard.summaries import File, Histogram, Metrics, Picture, PrCurve, Summary, Text, Tiles
from tests import label_sets, toy

Mask = NDArray[np.bool_]


def drawn(name: str, run: Run, **steps: MultiLabelPredictions) -> dict[tuple[str, int], Summary]:
    panel = panels.load(name, MULTI_LABEL)
    states = {int(step.removeprefix("step")): toy.state_of(panel, run, rows) for step, rows in steps.items()}
    info = RunInfo(
        "toy", run, {step: StepInfo(len(steps[f"step{step}"]), len(steps[f"step{step}"])) for step in states}
    )
    return {(s.tag, step): s for step, s in panel.render(info, states)}


def markdown(summary: Summary) -> str:
    assert isinstance(summary, Text)
    return summary.markdown


def content(summary: Summary) -> bytes:
    assert isinstance(summary, File)
    return summary.content


def suspects(logits: NDArray[np.float32], labels: Mask) -> set[tuple[int, int]]:
    """Rows and labels that cleanlab suspects."""
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    given = [np.flatnonzero(row).tolist() for row in labels]
    issues = find_multilabel_issues_per_class(
        labels=given, pred_probs=p, filter_by="confident_learning", n_jobs=1, return_indices_ranked_by=None
    )
    return {(row, c) for row, c in np.argwhere(issues).tolist()}  # of [rows, labels]


def test_suspected_labels_are_those_of_cleanlab() -> None:
    logits, labels = label_sets.table(600, 6, 3, 2.5)
    labels ^= np.random.default_rng(3).random(labels.shape) < 0.05  # wrong labels
    run = label_sets.run_of(6)
    found = drawn("label_issues", run, step0=label_sets.rows(run, logits, labels))
    rows = list(csv.DictReader(io.StringIO(content(found["suspects.csv", 0]).decode())))
    ours = {(int(row["row"]), run.classes.index(row["suspected"])) for row in rows}
    assert len(ours) > 40
    assert ours == suspects(logits, labels)
    assert all(
        (row["given"] == "1") == bool(labels[int(row["row"]), run.classes.index(row["suspected"])]) for row in rows
    )
    scores = [float(row["probability"]) if row["given"] == "1" else 1 - float(row["probability"]) for row in rows]
    assert scores == pytest.approx(sorted(scores), abs=1e-5)
    metrics = next(s for s in found.values() if isinstance(s, Metrics)).metrics
    assert metrics["label_issues/suspected"].value == len(ours)
    assert metrics["label_issues/suspected_images"].value == len({row for row, _ in ours})


@pytest.mark.skipif(not label_sets.CHEXNET.is_file(), reason="needs the real predictions of CheXNet")
def test_suspected_labels_of_chexnet_are_as_many_as_cleanlab_says() -> None:
    run, logits, labels, images = label_sets.chexnet()
    found = drawn("label_issues", run, step0=label_sets.rows(run, logits, labels, image=images))
    metrics = next(s for s in found.values() if isinstance(s, Metrics)).metrics
    values = {name.partition("/")[2]: metric.value for name, metric in metrics.items()}
    assert (values["suspected"], values["lacking"], values["too_many"]) == (6516, 2509, 4007)


def test_thresholds_are_found_on_one_half_and_told_on_the_other() -> None:
    """Every threshold is an edge of a bin, so its figures are exactly those of scikit-learn."""
    logits, labels = label_sets.table(1500, 8, 5, 1.5)
    labels[:, 7] = False
    labels[: MIN_IMAGES - 2, 7] = True  # too few for a threshold of its own
    run = label_sets.run_of(8)
    found = drawn("thresholds", run, step0=label_sets.rows(run, logits, labels))
    record = json.loads(content(found["thresholds.json", 0]))
    fold = jackknife_group(hash_refs([f"{i:06d}.png" for i in range(1500)])) % 2
    known = record["labels"]
    assert [known[name]["own"] for name in run.classes] == [True] * 7 + [False]
    assert known["label7"]["log_odds"] == record["common"]["log_odds"]
    limits = np.array([known[name]["log_odds"] for name in run.classes])
    for half, name in ((0, "fitted"), (1, "tested")):
        inside = fold == half
        each = f1_score(labels[inside], logits[inside] >= limits, average=None, zero_division=0)
        assert [known[c][name]["f1"] for c in run.classes] == pytest.approx(each.tolist())
        at_half = f1_score(labels[inside], logits[inside] > 0, average="macro", zero_division=0)
        assert record["averages"][HALF][name]["f1_macro"] == pytest.approx(at_half)
        common = logits[inside] >= record["common"]["log_odds"]
        micro = f1_score(labels[inside], common, average="micro")
        assert record["averages"][COMMON][name]["f1_micro"] == pytest.approx(micro)
    # no other logit would have been better on the half where it was chosen
    inside = fold == 0
    for c in range(7):
        best = max(f1_score(labels[inside, c], logits[inside, c] >= z) for z in np.unique(logits[inside, c])[::40])
        assert known[run.classes[c]]["fitted"]["f1"] >= best - 0.01
    page = markdown(found["report/thresholds", 0])
    assert "*common*" in page
    assert f"{record['averages'][EACH]['tested']['f1_macro']:.3f}" in page
    assert isinstance(found["thresholds/f1", 0], Picture)
    curve = drawn("curves", run, step0=label_sets.rows(run, logits, labels))["curves/pr/micro", 0]
    assert isinstance(curve, PrCurve)
    assert curve.description.endswith("see the page report/thresholds.")


def test_intervals_at_thresholds_end_at_one() -> None:
    labels = np.random.default_rng(0).random((80, 3)) < 0.4
    logits = np.where(labels ^ (np.arange(80) % 40 == 0)[:, None], 3.0, -3.0).astype(np.float32)  # two wrong rows
    run = label_sets.run_of(3)
    page = markdown(drawn("thresholds", run, step0=label_sets.rows(run, logits, labels))["report/thresholds", 0])
    ends = [float(end) for end in re.findall(r" to (\d\.\d{3})", page.partition("### Each label")[0])]
    assert ends and max(ends) == 1


def confused() -> tuple[Run, MultiLabelPredictions, Mask, Mask]:
    """Rows in which label0 is often missed and label1 wrongly predicted, of four labels."""
    random = np.random.default_rng(0)
    labels = random.random((200, 4)) < 0.3
    predicted = labels.copy()
    predicted[:40, 0], predicted[:40, 1] = False, True
    labels[:40, 0], labels[:40, 1] = True, False
    run = label_sets.run_of(4)
    sure = np.linspace(1, 5, 200)[:, None]
    return run, label_sets.rows(run, np.where(predicted, sure, -sure), labels), labels, predicted


def test_confusion_pairs_a_missed_label_with_a_wrongly_predicted_one() -> None:
    run, rows, labels, predicted = confused()
    found = drawn("confusion", run, step0=rows)
    pairs = list(csv.DictReader(io.StringIO(content(found["pairs.csv", 0]).decode())))
    missed, wrong = labels & ~predicted, predicted & ~labels
    first = pairs[0]
    assert (first["missed_name"], first["wrong_name"]) == ("label0", "label1")
    assert int(first["images"]) == (missed[:, 0] & wrong[:, 1]).sum() == 40
    assert float(first["share"]) == pytest.approx(40 / labels[:, 0].sum(), abs=1e-5)
    tiles = found["confusion/label0 missed, label1 wrongly predicted", 0]
    assert isinstance(tiles, Tiles)
    assert tiles.rows["id"].tolist() == list(range(39, 27, -1))  # the surest first
    page = markdown(found["confusion/together", 0])
    both = int((labels[:, 2] & labels[:, 3]).sum())
    assert f"| label2 | label3 | {both} |" in page


def test_pairs_that_are_asked_for_are_shown_and_missing_ones_are_said() -> None:
    run, rows, _, _ = confused()
    panel: Any = panels.configure({"confusion": panels.load("confusion", MULTI_LABEL)}, pairs=((0, 1), (2, 3)))[
        "confusion"
    ]
    states = {0: toy.state_of(panel, run, rows)}
    info = RunInfo("toy", run, {0: StepInfo(200, 200)})
    tags = [s.tag for _, s in panel.render(info, states) if isinstance(s, Tiles)]
    assert tags == ["confusion/label0 missed, label1 wrongly predicted"]
    (note,) = panel.notes(info, states)
    assert note == "no image at step 0 misses label2 and is wrongly predicted to have label3"


def test_mistakes_are_the_surest_single_decisions() -> None:
    logits, labels = label_sets.table(300, 5, 7)
    run = label_sets.run_of(5)
    found = drawn("mistakes", run, step0=label_sets.rows(run, logits, labels))
    predicted = logits > 0
    surest = np.where(predicted & ~labels, logits, -np.inf).max(axis=1)
    lowest = np.where(labels & ~predicted, logits, np.inf).min(axis=1)
    for tag, order in (("wrongly_predicted", -surest), ("missed", lowest)):
        tiles = found[f"2_mistakes/{tag}", 0]
        assert isinstance(tiles, Tiles)
        assert tiles.rows["id"].tolist() == np.argsort(order)[:12].tolist()
    right = found["examples/confident_right", 0]
    assert isinstance(right, Tiles)
    assert (labels[right.rows["id"]] == predicted[right.rows["id"]]).all()
    assert labels[right.rows["id"]].any(axis=1).all()


def test_histograms_count_decisions_and_labels() -> None:
    logits, labels = label_sets.table(300, 5, 8)
    run = label_sets.run_of(5)
    found = drawn("probabilities", run, step0=label_sets.rows(run, logits, labels))

    def counts(name: str) -> list[int]:
        summary = found[f"probabilities/{name}", 0]
        assert isinstance(summary, Histogram)
        return list(map(int, summary.counts))

    p = 1 / (1 + np.exp(-logits))
    assert counts("true_labels") == np.histogram(p[labels], 15, (0, 1))[0].tolist()
    assert counts("other_labels") == np.histogram(p[~labels], 15, (0, 1))[0].tolist()
    assert counts("labels_per_image") == np.bincount(labels.sum(axis=1), minlength=6).tolist()
    assert counts("predicted_per_image") == np.bincount((logits > 0).sum(axis=1), minlength=6).tolist()


def test_the_temperature_of_logits_that_were_multiplied_is_the_factor() -> None:
    random = np.random.default_rng(0)
    z = random.normal(scale=1.5, size=200_000)
    y = random.random(200_000) < 1 / (1 + np.exp(-z))
    bins = np.clip(((z * 2 + 16) * 128).astype(int), 0, 4095)
    every = np.stack([np.bincount(bins[i::2], minlength=4096) for i in (0, 1)])
    true = np.stack([np.bincount(bins[i::2][y[i::2]], minlength=4096) for i in (0, 1)])
    fit = fit_label_temperature(true, every)
    assert fit is not None
    assert fit.temperature == pytest.approx(2, rel=0.03)
    for at, t in ((0, 1.0), (1, fit.temperature)):
        tested = z[1::2] * 2 / t
        expected = np.logaddexp(0, np.where(y[1::2], -tested, tested)).mean()
        assert fit.bce[at] == pytest.approx(expected, abs=1e-5)
    assert fit.helps


def test_the_card_warns_where_predicting_nothing_is_more_often_right(monkeypatch: pytest.MonkeyPatch) -> None:
    cards: list[Any] = []

    def note(card: Any) -> NDArray[np.uint8]:
        cards.append(card)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("predboard.drawing.report_card.draw_report_card", note)
    run = label_sets.run_of(3)
    random = np.random.default_rng(0)
    labels = random.random((100, 3)) < 0.1

    def warnings(logits: NDArray[np.floating], run: Run = run, labels: Mask = labels) -> str:
        picture = drawn("glance", run, step0=label_sets.rows(run, logits, labels))["1_glance/report_card", 0]
        assert isinstance(picture, Picture)
        assert picture.pixels.size
        return " | ".join(cards[-1].warnings)

    noise = random.normal(size=(100, 3)) - 1
    assert "predicting no label at all is more often exactly right" in warnings(noise)
    assert cards[-1].headline == "mAP"
    assert "never predicted" in warnings(np.where([True, True, False], noise, -9))
    assert warnings(np.full((100, 3), -5.0)).startswith("no label is predicted for any image")
    assert warnings(np.full((100, 3), 5.0)).startswith("every label is predicted for every image")
    softmax = np.exp(noise) / np.exp(noise).sum(axis=1, keepdims=True)
    assert "sum to 1" in warnings(np.log(softmax / (1 - softmax)))
    assert warnings(np.where(labels, 4.0, -4.0)) == ""


def test_a_run_is_gated_ranked_and_summarised_by_its_own_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, logs = toy.MULTI_LABEL_RUN, tmp_path / "logs"
    for seed, name in enumerate(("a", "b")):
        toy.write_run(tmp_path / name, *toy.multi_label_table(run, 300, seed), run)
    toy.write_run(tmp_path / "one", *toy.table(toy.RUN, 60))
    results = predboard.visualize([tmp_path / "a", tmp_path / "b", tmp_path / "one"], logdir=logs, workers=1)
    summary = json.loads((logs / "a" / "summary.json").read_text())
    assert summary["task"] == "multi-label"
    assert "task" not in json.loads((logs / "one" / "summary.json").read_text())
    values = toy.read_values(results[0].event_file)
    assert ("_hparams_/experiment", 0) in values
    ranking = toy.read_values(next((logs / "_all_runs").glob("*tfevents*")))
    pages = {tag: v.tensor.string_val[0].decode() for (tag, _), v in ranking.items() if tag.startswith("report/")}
    assert set(pages) == {"report/ranking", "report/ranking_multi-label"}
    assert "| mAP | 95 % interval |" in pages["report/ranking_multi-label"]
    assert "| b |" in pages["report/ranking_multi-label"] and "| one |" not in pages["report/ranking_multi-label"]

    def outcome(**rule: Any) -> str:
        return predboard.gate(tmp_path / "a", [rule], workers=1).outcome

    mean = summary["steps"]["0"]["average_precision_macro"]["value"]
    assert outcome(metric="average_precision_macro", min=round(mean - 0.01, 3)) == "pass"
    assert outcome(metric="average_precision_macro", min=round(mean - 0.01, 3), bound="lower") != "pass"
    assert outcome(metric="classes/b/recall", min=0.99) == "fail"
    assert outcome(metric="hamming", max=0.9) == "pass"
    with pytest.raises(predboard.InputError, match="accuracy is no metric of multi-label predictions"):
        outcome(metric="accuracy", min=0.5)
    with pytest.raises(predboard.InputError, match="hamming is no metric of single-label predictions"):
        predboard.gate(tmp_path / "one", [{"metric": "hamming", "max": 1}])
    capsys.readouterr()
    assert main.run(["gate", str(tmp_path / "a"), "--suggest"]) == 0
    suggested = tmp_path / "gates.toml"
    suggested.write_text(capsys.readouterr().out)
    assert 'metric = "f1_micro"' in suggested.read_text()
    assert main.run(["gate", str(tmp_path / "a"), "--rules", str(suggested)]) == 0


def test_lowest_of_decisions_keeps_several_of_one_image() -> None:
    """Suspected decisions are rows of `Lowest`, of which two may be of one image."""
    run = label_sets.run_of(2)
    logits, labels = np.array([[5.0, 5.0]] * 3 + [[-5.0, -5.0]] * 3), np.zeros((6, 2), bool)
    labels[:2] = True
    found = drawn("label_issues", run, step0=label_sets.rows(run, logits, labels))
    rows = list(csv.DictReader(io.StringIO(content(found["suspects.csv", 0]).decode())))
    assert [(row["row"], row["suspected"]) for row in rows] == [("2", "label0"), ("2", "label1")]


def test_thresholds_of_one_run_are_applied_to_another(tmp_path: Path) -> None:
    run, logs = toy.MULTI_LABEL_RUN, tmp_path / "logs"
    tables = {name: toy.multi_label_table(run, 400, seed) for seed, name in enumerate(("old", "new"))}
    for name, (logits, known) in tables.items():
        toy.write_run(tmp_path / name, logits, known, dataclasses.replace(run, weights=name))
    predboard.visualize([tmp_path / "old"], logdir=logs, workers=1)
    file = logs / "old" / "thresholds.json"
    limits = np.array([of["log_odds"] for of in json.loads(file.read_text())["labels"].values()])
    lines: list[str] = []
    predboard.visualize([tmp_path / "new"], logdir=logs, workers=1, thresholds=file, log=lines.append)
    assert any(line.endswith("thresholds.json, found on old at step 0") for line in lines)
    assert any("label_issues, thresholds left out" in line for line in lines)
    summary = json.loads((logs / "new" / "summary.json").read_text())
    logits, known = tables["new"]
    decided = known.labelled[:, None] & ~known.unknown.mask(5)
    true, predicted = known.labels.mask(5), logits >= limits
    micro = f1_score(true[decided], predicted[decided])
    assert summary["steps"]["0"]["f1_micro"]["value"] == pytest.approx(micro)
    assert "thresholds.json" in summary["thresholds"]
    rows = pq.read_table(logs / "new" / "rows.parquet").to_pylist()
    assert [row["predicted_labels"] for row in rows] == [np.flatnonzero(row).tolist() for row in predicted]
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.where(predicted, p, 1 - p).prod(axis=1)
    assert [row["confidence"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)
    values = toy.read_values(next((logs / "new").glob("*tfevents*")))
    assert not any(tag.startswith(("thresholds/", "label_issues/")) for tag, _ in values)
    # the figure that a gate tests is the same
    rule = [{"metric": "f1_micro", "min": round(float(micro) - 0.001, 4), "max": round(float(micro) + 0.001, 4)}]
    assert predboard.gate(tmp_path / "new", rule, thresholds=file, workers=1).outcome == "pass"
    assert predboard.gate(tmp_path / "new", rule, workers=1).outcome != "pass"
    with pytest.raises(predboard.InputError, match="is on labels predicted at 1/2: leave out"):
        predboard.gate(tmp_path / "new", [{"metric": "thresholds/f1_macro_half", "min": 0.1}], thresholds=file)
    # on its own images it says that half of them chose the thresholds
    predboard.visualize([tmp_path / "old"], logdir=tmp_path / "again", thresholds=file, workers=1, log=lines.append)
    assert any("on half of these same images" in line for line in lines)


_LABEL = b'"%c": {"log_odds": 0}'
_REST = b'"predboard_thresholds": 1, "run": "r", "step": 0}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"[]", "has no labels: expected the thresholds.json"),
        (b'{"labels": {}, "predboard_thresholds": 9}', "has format 9"),
        (b'{"labels": {"a": {}}, "predboard_thresholds": 1}', "is incomplete"),
        (b'{"labels": {"a": {"log_odds": true}}, "predboard_thresholds": 1}', "the threshold of a is not a number"),
        (b'{"labels": {%s}, ' % (_LABEL % b"a") + _REST, "has no threshold of the label 'b'"),
        (b'{"labels": {%s}, ' % b", ".join(_LABEL % c for c in b"abcdef") + _REST, "'f', which is no label"),
    ],
)
def test_a_file_that_holds_no_thresholds_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    toy.write_run(tmp_path / "run", *toy.multi_label_table(toy.MULTI_LABEL_RUN, 20), toy.MULTI_LABEL_RUN)
    file = tmp_path / "t.json"
    file.write_bytes(content)
    with pytest.raises(predboard.InputError, match=message):
        predboard.gate(tmp_path / "run", [{"metric": "exact", "min": 0}], thresholds=file)


def test_thresholds_are_refused_for_images_of_one_class(tmp_path: Path) -> None:
    toy.write_run(tmp_path / "one", *toy.table(toy.RUN, 20))
    file = tmp_path / "t.json"
    file.write_bytes(b'{"labels": {"a": {"log_odds": 0}}, ' + _REST)
    with pytest.raises(predboard.InputError, match="is of images with several labels"):
        predboard.gate(tmp_path / "one", [{"metric": "accuracy", "min": 0}], thresholds=file)


@pytest.mark.parametrize("patients", [0, 120])
def test_slices_have_the_mean_jaccard_index_of_scikit_learn(patients: int) -> None:
    """Images without any label, and unknown labels, count as in the figure of the whole."""
    run = label_sets.run_of(4)
    logits, labels = label_sets.table(600, 4, 5, mean=0.9)
    unknown = np.random.default_rng(5).random(labels.shape) < 0.1
    unknown[:9] = True
    batch = label_sets.rows(run, logits, labels, unknown, failed=frozenset({20})).batch
    site = np.array(["A", "B", "C"])[np.random.default_rng(6).integers(0, 3, 600)]
    batch = batch.append_column("site", pa.array(site.tolist()))
    group = jackknife_group(hash_refs([f"{i % 120}" for i in range(600)]))
    if patients:
        batch = batch.append_column(
            "group:patient", pa.array(hash_refs([f"{i % 120}" for i in range(600)]), pa.int64())
        )
    rows, panel = MultiLabelPredictions(batch), panels.load("slices")
    state = merge(panel.measure(run, rows.take(group % 2 == 0)), panel.measure(run, rows.take(group % 2 == 1)))
    summaries = [s for _, s in panel.render(RunInfo("toy", run, {0: StepInfo(600, 600)}), {0: state})]
    metrics = next(s for s in summaries if isinstance(s, Metrics)).metrics
    counted = ~unknown.all(axis=1) & (np.arange(600) != 20)
    y, p = labels & ~unknown, (logits > 0) & ~unknown
    assert (~y.any(axis=1) & ~p.any(axis=1) & counted).any()
    table = pd.read_csv(io.BytesIO(next(s.content for s in summaries if isinstance(s, File)))).set_index("value")
    for value in "ABC":
        at = counted & (site == value)
        each = np.array([jaccard_score(y[i], p[i], zero_division=1) for i in np.flatnonzero(at)])
        metric = metrics[f"slices/site={value}/jaccard"]
        assert metric.value == pytest.approx(jaccard_score(y[at], p[at], average="samples", zero_division=1), abs=1e-6)
        assert (metric.rows, table.jaccard[value]) == (at.sum(), pytest.approx(metric.value, abs=1e-5))
        half = 1.959964 * each.std(ddof=1) / np.sqrt(len(each))
        if patients:
            without = [each[group[at] != g].mean() for g in sorted(set(group[at].tolist()))]
            half = float(grouped_half_width(np.array(without)))
        assert metric.interval == pytest.approx((metric.value - half, metric.value + half), abs=1e-5)
    whole = all_label_metrics(LabelState.measure(run, rows))["jaccard"]
    rows_of = {value: metrics[f"slices/site={value}/jaccard"] for value in "ABC"}
    mean = sum(m.value * (m.rows or 0) for m in rows_of.values()) / sum(m.rows or 0 for m in rows_of.values())
    assert mean == pytest.approx(whole.value, abs=1e-6)


def test_a_gate_takes_the_jaccard_index_of_slices_where_there_is_one(tmp_path: Path) -> None:
    rule = [{"metric": "slices/*/jaccard", "min": 0.1}]
    toy.write_run(tmp_path / "several", *toy.multi_label_table(toy.MULTI_LABEL_RUN, 200), toy.MULTI_LABEL_RUN)
    slices = predboard.gate(tmp_path / "several", rule).verdicts[-1]
    assert slices.metric == "slices/*/jaccard"
    assert len(slices.findings) > 3
    toy.write_run(tmp_path / "one", *toy.table(toy.RUN, 20))
    with pytest.raises(predboard.InputError, match="is no metric of single-label predictions"):
        predboard.gate(tmp_path / "one", rule)


def test_a_slice_whose_sets_are_all_right_has_no_interval_of_no_width() -> None:
    run = label_sets.run_of(2)
    labels = np.arange(60).reshape(30, 2) % 3 == 0
    state = panels.load("slices").measure(run, label_sets.rows(run, np.where(labels, 5.0, -5.0), labels))
    metric = slice_jaccard(list_slices(state, alone=True)[0])
    assert (metric.value, metric.interval) == (1.0, None)
