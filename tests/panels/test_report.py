"""The report's pages: how good the model is, what to look at next, how it was run, how to read the tabs."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from predboard import panels
from predboard.metrics import registry
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import overall_metrics
from predboard.panels import RunInfo, StepInfo, WrittenTag
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import HParams, LineChart, Picture, Projector, Scalar, Text, Tiles
from tests import toy
from tests.panels.test_panels import drawn, frame, mixed, named, text

SIGHTS = Run(classes=("River", "Highway", "Forest", "Sea"), model="net.py:build")


def page(run: Run, states: Mapping[int, Predictions], tag: str = "report/summary", **more: Any) -> str:
    """A page of the report on batches by step; `written` and `facts` are those of the subject."""
    panel = panels.load("report")
    facts = {step: StepInfo(len(batch), len(batch)) for step, batch in states.items()}
    subject = RunInfo("toy", run, **{"steps": facts, **more})
    found = panel.render(subject, {step: panel.measure(run, batch) for step, batch in states.items()})
    return text({s.tag: s for _, s in found}[tag])


def said(label: list[int], predicted: list[int], run: Run = SIGHTS, sure: float = 5.0) -> Predictions:
    logits = np.eye(len(run.classes), dtype=np.float32)[predicted] * np.float32(sure)
    return toy.predictions(run, logits, np.array(label))


def next_steps(page: str) -> list[str]:
    found = re.search(r"### What to look at next\n\n((?:\d+\. .*\n?)+)", page)
    return [] if found is None else re.findall(r"^\d+\. (.*)$", found[1], re.MULTILINE)


def test_what_the_model_sees_is_shown_at_the_steps_that_have_it() -> None:
    run, panel = named(10), panels.load("report")
    states = {step: panel.measure(run, mixed(run, 20)) for step in (1, 2, 5)}
    sheets = {step: np.full((4, 5, 3), step, np.uint8) for step in (1, 5)}
    facts = {step: StepInfo(20, 20, sheet=sheets.get(step)) for step in states}
    found = list(panel.render(RunInfo("toy", run, facts), states))
    assert [(step, s.tag) for step, s in found] == [
        *((1, "report/what_the_model_sees"), (5, "report/what_the_model_sees")),
        *((5, "report/summary"), (5, "report/run")),
    ]
    assert isinstance(found[1][1], Picture)
    assert found[1][1].pixels is sheets[5]


def test_the_summary_has_a_line_for_each_step_and_every_figure_of_the_last() -> None:
    run = named(10)
    batches = {"step1": mixed(run, 80, 1), "step5": mixed(run, 80, 2)}
    found = drawn("report", run, **batches)
    summary = text(found["report/summary", 5])
    assert summary.startswith("# toy\n\n")
    rows = re.findall(r"^\| (\d+) \| 80 \|.*\| (0\.\d{4}) \| (0\.\d{4}) to (0\.\d{4}) \|", summary, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "5"]
    for (_, accuracy, lower, upper), batch in zip(rows, batches.values(), strict=True):
        known = frame(batch).dropna(subset=["label"])
        assert float(accuracy) == pytest.approx((known.label == known.predicted).mean(), abs=5e-5)
        assert float(lower) < float(accuracy) < float(upper)
    overall = overall_metrics(MetricState.measure(run, batches["step5"]))
    for name, figure in overall.items():
        assert figure.interval is not None
        lower, upper = (f"{end:.4f}" for end in figure.interval)
        assert f"| {name} | {figure.value:.4f} | {lower} to {upper} | {figure.definition}" in summary
    assert list(overall) == [spec.name for spec in registry.rows("overall")]


def test_the_first_sentence_by_hand() -> None:
    summary = page(SIGHTS, {3: said([0, 0, 1, 2, -1], [0, 1, 1, 2, 2])})
    assert (
        "`net.py:build` at step 3 on 5 images in 4 classes: **accuracy 75.0 %** (95 % interval 30.1 to 95.4), "
        "1 error in 4 counted images."
    ) in summary
    assert "so there are no metrics" in page(SIGHTS, {3: said([-1], [0])})


def test_a_confusion_that_the_sure_mistakes_share_is_named_with_its_gallery() -> None:
    label = [0] * 12 + [1] * 10 + [2] * 30 + [3] * 30
    predicted = [1] * 9 + [2, 3, 0] + [1] * 10 + [2] * 28 + [3, 0] + [3] * 30
    batch = said(label, predicted)
    written = (WrittenTag("confusion/River as Highway", Tiles, ""),)
    first, *others = next_steps(page(SIGHTS, {0: batch}, written=written))
    assert first == ("9 of the 13 most confident mistakes are **River → Highway**: open `confusion/River as Highway`.")
    assert not any("of all errors" in line for line in others)  # it would be the same confusion
    assert next_steps(page(SIGHTS, {0: batch}))[0].endswith("open `2_mistakes/confident`.")


def test_the_most_frequent_confusion_is_named_where_the_sure_mistakes_have_another() -> None:
    sure, unsure = said([0] * 30, [1] * 30, sure=9), said([2] * 60 + [3] * 60, [3] * 60 + [3] * 60, sure=2)
    logits = np.concatenate([sure.logits, unsure.logits])
    batch = toy.predictions(SIGHTS, logits, np.concatenate([sure.label, unsure.label]))
    lines = next_steps(page(SIGHTS, {0: batch}))
    assert lines[0].startswith("30 of the 30 most confident mistakes are **River → Highway**")
    assert lines[1].startswith("66.7 % of all errors are **Forest → Sea** (60 of 90)")


def test_mistakes_without_a_common_confusion_are_said_to_have_none() -> None:
    run = named(40)
    label = list(range(40))
    none = "No single confusion dominates the 30 most confident mistakes: open `2_mistakes/confident`."
    assert next_steps(page(run, {0: said(label, [*range(1, 40), 0], run)}))[0] == none
    four = said([*range(26), *[30] * 4], [*range(1, 27), *[31] * 4], run)  # fewer than a fifth share one
    assert next_steps(page(run, {0: four}))[0] == none


def test_a_class_that_is_certainly_worse_and_one_that_is_predicted_too_often_are_named() -> None:
    label = [0] * 100 + [1] * 100 + [2] * 100
    predicted = [0] * 50 + [1] * 50 + [1] * 100 + [2] * 100
    written = (WrittenTag("predictions/River", Tiles, ""),)
    lines = next_steps(page(SIGHTS, {0: said(label, predicted)}, written=written))
    assert lines[1] == (
        "**River** has the lowest recall: 50.0 % (40.4 to 59.6), against 83.3 % accuracy overall: open "
        "`predictions/River`."
    )
    assert lines[2] == "**Highway** is predicted too often: 150 times, but only 100 images belong to it."
    even = next_steps(page(SIGHTS, {0: said([0, 1, 2, 3] * 9, [0, 1, 2, 3] * 8 + [1, 2, 3, 0])}))
    assert not any("recall" in line or "too often" in line for line in even)


@pytest.mark.parametrize(("sure", "kind"), [(9.0, "over-confident"), (1.5, "under-confident"), (2.8, None)])
def test_whether_the_model_is_as_sure_as_it_is_right(sure: float, kind: str | None) -> None:
    # Of four classes exp(s) / (exp(s) + 3): 99.96 %, 59.9 % and 84.6 %; right are 85 %.
    label = [0, 1, 2, 3] * 100
    predicted = [c if i % 20 < 17 else (c + 1) % 4 for i, c in enumerate(label)]
    written = (WrittenTag("calibration/ece", Scalar, ""), WrittenTag("calibration/reliability", Picture, ""))
    lines = next_steps(page(SIGHTS, {0: said(label, predicted, sure=sure)}, written=written))
    found = [line for line in lines if "The model is" in line]
    assert len(found) == (kind is not None)
    if kind is not None:
        assert kind in found[0]
        assert found[0].endswith("85.0 % of its predictions are right: open `calibration/reliability`.")
        promised = float(re.findall(r"confidence is >?([\d.]+) %", found[0])[0])
        assert promised == pytest.approx(100 * np.exp(sure) / (np.exp(sure) + 3), abs=0.11)


def test_a_small_gap_is_not_named_however_sure_it_is() -> None:
    label = [0, 1, 2, 3] * 1000
    predicted = [(c + 1) % 4 if i % 100 < 3 else c for i, c in enumerate(label)]  # 97 % right, 98.5 % promised
    lines = next_steps(page(SIGHTS, {0: said(label, predicted, sure=float(np.log(3 * 0.985 / 0.015)))}))
    assert lines
    assert not any("The model is" in line for line in lines)


def test_an_earlier_step_that_was_better_is_named() -> None:
    label = [0, 1, 2, 3] * 10

    def step(wrong: int, sure: float) -> Predictions:
        return said(label, [(c + 1) % 4 if i < wrong else c for i, c in enumerate(label)], sure=sure)

    lines = next_steps(page(SIGHTS, {1: step(9, 3), 2: step(4, 3), 5: step(6, 9)}))
    assert "Step 2 was the most accurate: 90.0 %, against 85.0 % at the last step." in lines
    assert any(line.startswith("NLL was lowest at step 2 (") and "overfitting" in line for line in lines)
    better = next_steps(page(SIGHTS, {1: step(9, 3), 5: step(2, 3)}))
    assert not any("most accurate" in line or "NLL" in line for line in better)


def test_the_worst_class_has_the_lowest_recall_only_where_no_class_of_few_images_has_less() -> None:
    label = [0] * 100 + [1] * 2 + [2] * 300
    predicted = [0] * 50 + [2] * 50 + [2] * 2 + [2] * 300  # Highway: 0 of 2, which may be chance
    lines = next_steps(page(SIGHTS, {0: said(label, predicted)}))
    assert any(line.startswith("**River** has a low recall: 50.0 % (") for line in lines)


def test_a_few_mistakes_are_counted() -> None:
    lines = next_steps(page(SIGHTS, {0: said([0, 1, 2, 3] * 9, [0, 1, 2, 3] * 8 + [0, 1, 2, 0])}))
    assert lines[0] == "There is only 1 mistake: open `2_mistakes/confident`."


def test_where_all_is_right_there_is_nothing_to_look_at() -> None:
    assert next_steps(page(SIGHTS, {0: said([0, 1, 2, 3], [0, 1, 2, 3], sure=30)})) == []


def test_while_a_warning_of_stage_one_stands_it_comes_first_and_labels_are_not_doubted() -> None:
    batch = said([0] * 12 + [1] * 12, [1] * 6 + [0] * 6 + [1] * 12)
    written = (WrittenTag("examples/suspected_label_errors", Tiles, ""),)
    sound = next_steps(page(SIGHTS, {0: batch}, written=written))
    assert sound[-1] == "Some labels may be wrong: open `examples/suspected_label_errors`."
    warned = ("accuracy would be 99 %, not 75 %: --channels bgr", "logits are not finite: see the range")
    doubted = next_steps(page(SIGHTS, {0: batch}, written=written, steps={0: StepInfo(24, 24, warnings=warned)}))
    assert doubted == [
        "Start with the warnings of stage one, which may explain the rest: accuracy would be 99 %, not 75 %; logits "
        "are not finite.",
        *sound[:-1],
    ]


def test_a_model_at_chance_does_not_doubt_labels() -> None:
    batch = said([0] * 12 + [1] * 12, [1, 0] * 12)
    written = (WrittenTag("examples/suspected_label_errors", Tiles, ""),)
    assert not any("labels" in line for line in next_steps(page(SIGHTS, {0: batch}, written=written)))


def test_the_page_of_the_run_has_all_that_is_known() -> None:
    run = dataclasses.replace(
        named(25),
        model="net.py:build",
        model_args={"depth": 20, "kind": "a|b"},
        transform={"resize": 32, "crop": None, "mean": [0.5], "std": [1.0]},
        root="photos|of cats",
        weights="0123456789abcdef",
        scores="log_probabilities",
    )
    facts = StepInfo(
        *(80, 100, "epoch7.pt", "cuda:0"),
        seconds={"decode": 12.34, "forward": 1234.5},
        provenance={"torch": "2.9.1", "batch_size": 64},
        started=1.7e9,
        finished=1.7e9 + 60,
    )
    lines = page(run, {5: mixed(run, 80)}, "report/run", steps={5: facts}).split("\n")
    assert lines[0] == "# toy: how it was run"
    for line in (
        "| model | `net.py:build` with depth=20, kind=a\\|b |",
        "| checkpoint | `epoch7.pt` |",
        "| data | `photos\\|of cats` |",
        "| transform | resize 32, mean [0.5], std [1.0] |",
        "| weights | `0123456789abcdef` (digest) |",
        "| scores | log_probabilities |",
        "| precision, device | fp32, cuda:0 |",
        "| rows | 80 of 100 |",
        "| missing rows | 20 |",
        "| inference | 2023-11-14 22:13:20 UTC to 2023-11-14 22:14:20 UTC |",
        "| time: forward | 1,234.5 s |",
        "| batch size | 64 |",
        "| torch | 2.9.1 |",
    ):
        assert line in lines
    (classes,) = (line for line in lines if line.startswith("| classes |"))
    assert classes.startswith("| classes | 25: class0000, ")
    assert classes.endswith("class0019, … |")
    assert not any("none" in line or "unknown" in line for line in lines)


def test_every_tag_that_is_written_is_in_the_page_on_the_tabs_in_its_tab() -> None:
    written = (
        *(WrittenTag(f"classes/recall/c{i}", Scalar, f"Recall of c{i}.") for i in range(7)),
        *(WrittenTag(f"metrics/{i}", Scalar, f"Figure {i}.") for i in range(6)),
        WrittenTag("classes/recall", LineChart, "All recalls."),
        WrittenTag("confusion/a | b", Tiles, "Pictures|of it."),
        WrittenTag("report/classes", Text, "A table."),
        WrittenTag("hparams", HParams, ""),
        WrittenTag("projector", Projector, ""),
    )
    found = page(SIGHTS, {0: said([0], [0])}, "report/tabs", written=written)
    tabs = dict(re.findall(r"^\*\*(.*?)\.\*\* (.*?)(?=^\*\*|\Z)", found, re.MULTILINE | re.DOTALL))
    assert list(tabs) == ["Time Series", "Scalars", "Custom Scalars", "Images", "HParams", "Projector", "Text"]
    assert "- `classes/…`, 7 tags, such as `classes/recall/c0`: Recall of c0." in tabs["Scalars"]
    assert all(f"- `metrics/{i}`: Figure {i}." in tabs["Scalars"] for i in range(6))
    assert "- `classes/recall`: All recalls." in tabs["Custom Scalars"]
    assert "- `confusion/a | b`: Pictures\\|of it." in tabs["Images"]
    assert "- `report/classes`: A table." in tabs["Text"]
    assert "- `report/summary`: Start here." in tabs["Text"]  # its own pages too


def test_without_what_was_written_there_is_no_page_on_the_tabs() -> None:
    assert {tag for tag, _ in drawn("report", SIGHTS, step0=said([0], [0]))} == {"report/summary", "report/run"}


def test_the_sure_mistakes_are_those_of_highest_confidence() -> None:
    run = named(5)
    batch = mixed(run, 400)
    state = panels.load("report").measure(run, batch)
    known = frame(batch).dropna(subset=["label"])
    wrong = known[known.predicted != known.label].sort_values(["confidence", "key"], ascending=[False, True])
    ids: NDArray[np.int64] = state.mistakes.rows["id"]
    assert ids.tolist() == wrong.id[:30].tolist()
    assert state.mistakes.rows["predicted"].tolist() == wrong.predicted[:30].tolist()
