"""What TensorBoard shows of a comparison: which rows, which words, which numbers."""

import importlib
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import predboard
from predboard import CompareConfig, VisualizeConfig
from predboard.cli import main
from predboard.cli.board import landing_page
from predboard.comparison import changes, render
from predboard.comparison.changes import Examples, choose_examples, empty_examples
from predboard.comparison.compare import CompareResult, compare
from predboard.comparison.differences import Comparison
from predboard.comparison.join import JoinedRows
from predboard.comparison.paired_counts import PairedCounts
from predboard.comparison.report import Side
from predboard.config import BoardConfig
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.drawing.comparison import PairTileText, SidePrediction
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.storage.parts import read_batches
from predboard.storage.runs import Step, open_run
from predboard.summaries import Picture, Scalar, Text, Tiles
from tests import toy
from tests.comparison.test_compare import run
from tests.test_laws import same

RUN = Run(("cat", "dog", "eel"), "m", thumbnails=8)

CARDS = ["1_glance/report_card"]
GALLERIES = ["2_mistakes/broken", "examples/fixed", "examples/changed_wrong", "examples/both_wrong_same"]
PICTURES = ["changes/0_overview", "changes/matrix", "classes/difference", "slices/difference"]
PAGES = ["report/0_verdict", "report/by_class", "report/by_slice", "report/transitions"]


def side(predicted: list[int], confidence: list[float], label: list[int]) -> Predictions:
    """Rows that say so with about that confidence."""
    logits = np.zeros((len(label), 3), np.float32)
    p = np.array(confidence)
    logits[np.arange(len(label)), predicted] = np.log(2 * p / (1 - p))
    return toy.predictions(RUN, logits, np.array(label))


def both(old: Predictions, new: Predictions) -> JoinedRows:
    none = np.zeros(len(old), bool)
    return JoinedRows(old, new, old.take(none), new.take(none))


LABEL = [0, 0, 1, 1, 2, 2, 0, -1]
OLD = side([0, 0, 2, 1, 0, 1, 1, 0], [0.9, 0.6, 0.7, 0.8, 0.5, 0.9, 0.6, 0.9], LABEL)
NEW = side([1, 2, 1, 1, 1, 1, 1, 1], [0.7, 0.95, 0.8, 0.9, 0.6, 0.7, 0.8, 0.9], LABEL)
"""Rows 0 and 1 are broken, 2 is fixed, 4 is wrong in another way, 5 and 6 in the same, 7 has no label."""


def test_galleries_have_the_rows_that_they_say_the_surest_first() -> None:
    rows = choose_examples(both(OLD, NEW)).of_kind
    kinds = {name: changes.CHANGE_KINDS.index(name) for name in ("broken", "fixed", "changed_wrong")}
    kinds["both_wrong_same"] = changes.BOTH_WRONG
    assert {name: rows.rows_of_group(kind)["id"].tolist() for name, kind in kinds.items()} == {
        "broken": [1, 0],
        "fixed": [2],
        "changed_wrong": [4],
        "both_wrong_same": [6, 5],
    }
    broken = rows.rows_of_group(kinds["broken"])
    assert (broken["old"].tolist(), broken["new"].tolist(), broken["label"].tolist()) == ([0, 0], [2, 1], [0, 0])
    assert broken["confidence_old"] == pytest.approx([0.6, 0.9])
    assert broken["confidence_new"] == pytest.approx([0.95, 0.7])
    assert set(changes.CHANGE_KINDS) >= set(render.GALLERIES) - {"both_wrong_same"}
    assert [render.gallery_kind(tag) for tag, _ in render.GALLERIES.values()] == list(render.GALLERIES)


@pytest.mark.parametrize("ties", [False, True])
def test_the_laws_hold_for_examples(ties: bool) -> None:
    logits, label = toy.table(toy.RUN, 400, ties=ties)
    other = toy.table(toy.RUN, 400, 1, ties)[0]
    rows = both(toy.predictions(toy.RUN, logits, label), toy.predictions(toy.RUN, other, label, failed=frozenset({3})))
    whole = choose_examples(rows)
    dealt = np.random.default_rng(0).integers(0, 5, 400)
    parts: list[Examples] = [
        choose_examples(JoinedRows(rows.old.take(dealt == i), rows.new.take(dealt == i), rows.only_old, rows.only_new))
        for i in range(5)
    ]
    merged = empty_examples()
    for part in parts[::-1]:
        merged = merge(part, merged)
    assert same(merged, whole)
    shown = [len(whole.of_kind.rows_of_group(group)["id"]) for group in changes.GALLERY_KINDS]
    assert shown[:3] == [12, 12, 12]
    assert shown[3] > 5


def of(old: Predictions, new: Predictions) -> Comparison:
    return Comparison(PairedCounts.measure(3, both(old, new)), RUN.classes)


def written(done: CompareResult) -> dict[str, Any]:
    """The values by tag, which all have one step."""
    return {tag: value for (tag, _), value in toy.read_values(toy.local(done.event_file)).items()}


def number(value: Any) -> float:
    return float(np.frombuffer(value.tensor.tensor_content, np.float32)[0])


def markdown(value: Any) -> str:
    return str(value.tensor.string_val[0].decode())


def test_two_runs_are_one_run_of_tensorboard(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    done = compare(CompareConfig((old, new), tmp_path / "logs"))
    found = written(done)
    curves = {tag for tag in found if tag.startswith(("old/", "new/", "difference/", "flips/"))}
    assert [tag for tag in found if tag not in curves] == [*CARDS, *GALLERIES, *PICTURES, *PAGES]
    differences = done.summary["differences"]
    for name in ("accuracy", "f1_macro", "nll", "calibration/ece"):
        short = name.rpartition("/")[2]
        for kind in ("old", "new", "difference"):
            assert number(found[f"{kind}/{short}"]) == pytest.approx(differences[name][kind], rel=1e-6)
    assert number(found["flips/churn"]) == pytest.approx(done.summary["rates"]["churn"]["value"], rel=1e-6)
    page = markdown(found["report/0_verdict"])
    assert page.startswith(f"# {done.verdict}")
    line = next(line for line in page.split("\n") if line.startswith("| accuracy |"))
    accuracy = differences["accuracy"]
    assert f"{accuracy['old']:.4f} | {accuracy['new']:.4f}" in line
    worst = markdown(found["report/by_class"]).split("\n")[2].split(" | ")
    first = done.summary["by_class"][0]
    assert worst[:4] == [f"| {first['name']}", f"{first['rows']}", f"{first['fixed']}", f"{first['broken']}"]
    for tag in (*CARDS, "changes/0_overview", "classes/difference", "slices/difference", *GALLERIES):
        assert [int(size) for size in found[tag].tensor.string_val[:2]] == [WIDTH_PX, HEIGHT_PX], tag
    assert len(found["2_mistakes/broken"].tensor.string_val) == 2 + 12
    lines = (toy.local(done.folder) / "transitions.csv").read_text().splitlines()
    assert lines[0] == "label_name,old_name,new_name,images,kind"
    counts = [int(line.split(",")[3]) for line in lines[1:]]
    assert sum(counts) == done.summary["rows"]["changed"]
    assert counts == sorted(counts, reverse=True)
    kinds = {k: sum(int(x.split(",")[3]) for x in lines[1:] if x.endswith(k)) for k in (",fixed", ",broken")}
    assert kinds == {",fixed": done.summary["rows"]["fixed"], ",broken": done.summary["rows"]["broken"]}
    words = {"fixed": "fixed", "broken": "broken", "changed_wrong": "changed, still wrong"}
    table = markdown(found["report/transitions"]).split("\n")
    for told, line in zip(table[2:], lines[1:101], strict=False):
        *names, count, kind = line.split(",")
        assert told == f"| {' | '.join(names)} | {int(count):,} | {words[kind]} |"
    assert len(table) >= 2 + len(lines[1:101])


def test_steps_of_a_run_have_curves_against_the_first_and_pictures_of_all_pairs(tmp_path: Path) -> None:
    for step in (1, 2, 5):
        run(tmp_path / "one", step, step=step)
    done = compare(CompareConfig((tmp_path / "one",), tmp_path / "logs"))
    values = toy.read_values(toy.local(done.event_file))
    assert [step for tag, step in values if tag == "difference/accuracy"] == [2, 5]
    first = done.summary["pairs"][0]["differences"]["accuracy"]
    assert number(values["difference/accuracy", 2]) == pytest.approx(first["difference"], abs=1e-7)
    assert number(values["old/accuracy", 2]) == number(values["old/accuracy", 5])
    assert {("1_glance/all_pairs", 5), ("1_glance/ranking", 5), ("report/all_pairs", 5)} <= set(values)
    table = markdown(values["report/all_pairs", 5])
    assert len([line for line in table.split("\n") if line.startswith("| one step")]) == 3 + 3
    assert table.count("**best**") == 1


def test_a_tile_says_what_both_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PairTileText] = []

    def tile(picture: Any, words: PairTileText) -> Any:
        assert picture is not None
        seen.append(words)
        return Image.new("RGB", (WIDTH_PX, HEIGHT_PX))

    monkeypatch.setattr(importlib.import_module("predboard.comparison.methods"), "draw_pair_tile", tile)
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    done = compare(CompareConfig((old, new), tmp_path / "logs", workers=1))
    frame = predboard.open_predictions(old).to_pandas().set_index("image")
    now = predboard.open_predictions(new).to_pandas().set_index("image")
    assert 3 * 12 < len(seen) <= 4 * 12
    for words in seen:
        for said, rows, who in ((words.old, frame, "old"), (words.new, now, "new")):
            row = rows.loc[words.name]
            assert said == SidePrediction(who, toy.RUN.classes[int(row.predicted)], float(row.confidence))
            assert words.true == toy.RUN.classes[int(row.label)]
        right = words.old.predicted == words.true, words.new.predicted == words.true
        changed = words.old.predicted != words.new.predicted
        assert (
            words.verdict
            == {
                (True, False, True): "broken",
                (False, True, True): "fixed",
                (False, False, True): "still wrong",
                (False, False, False): "wrong twice",
            }[(*right, changed)]
        )
    assert done.missing_pictures == 0


def test_pictures_that_are_nowhere_are_counted_and_looked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits, label = toy.table(toy.RUN, 100)
    for name, sign in (("old", 1), ("new", -1)):
        toy.write_run(tmp_path / name, sign * logits, label)
    arguments = ["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--logdir", str(tmp_path / "logs")]
    assert main.run(arguments) == 0
    assert "source images not found: --image-root says where they are now" in capsys.readouterr().err
    assert not compare(CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs")).unchanged
    root = toy.sources(tmp_path / "photos", 100)
    found = [compare(CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs", image_root=root))] * 2
    assert [done.missing_pictures for done in found] == [0, 0]
    assert main.run([*arguments, "--image-root", str(root)]) == 0
    said = capsys.readouterr()
    assert "nothing changed since the last time" in said.out
    assert said.err == ""


def test_pictures_that_only_the_old_run_has_are_taken_from_there(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 100)
    toy.write_run(tmp_path / "old", logits, label, Run(toy.RUN.classes, "m", thumbnails=8))
    toy.write_run(tmp_path / "new", -logits, label)
    assert compare(CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs")).missing_pictures == 0


def test_the_confusion_that_moved_is_the_difference_of_the_matrices() -> None:
    found = of(OLD, NEW)
    moved = render._moves(found)
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (moved.true, moved.predicted), moved.change)
    expected = np.zeros((3, 3), int)
    for label, old, new in zip(LABEL, OLD.predicted.tolist(), NEW.predicted.tolist(), strict=True):
        if label >= 0:
            expected[label, old] -= 1
            expected[label, new] += 1
    assert moved.names == ["cat", "dog", "eel"]
    assert matrix.tolist() == expected.tolist()
    assert moved.total.tolist() == [3, 2, 2]
    assert (moved.better > 0).tolist() == [
        (c > 0) == (t == p) for t, p, c in zip(moved.true, moved.predicted, moved.change, strict=True)
    ]


def test_of_many_classes_the_matrix_has_those_that_changed_most() -> None:
    names = tuple(f"c{i:02d}" for i in range(60))
    label = np.repeat(np.arange(60), 5)
    before, now = label.copy(), label.copy()
    before[::5] = (label[::5] + 1) % 60
    now[::5] = (label[::5] + 1) % 60
    now[:50] = 59  # ten classes change in all of their images
    wide = Run(names, "m")
    old, new = (toy.predictions(wide, np.eye(60, dtype=np.float32)[p] * 5, label) for p in (before, now))
    found = Comparison(PairedCounts.measure(60, both(old, new)), names)
    moved = render._most_moved(render._moves(found), 40)
    assert len(moved.names) == 40
    assert {f"c{i:02d}" for i in range(10)} | {"c59"} <= set(moved.names)
    assert moved.true.max() < 40


def test_nothing_that_moved_is_no_picture_and_nothing_to_compare_is_said(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    found = written(compare(CompareConfig((one, one), tmp_path / "logs")))
    assert "changes/0_overview" not in found
    assert "2_mistakes/broken" not in found
    assert markdown(found["report/transitions"]) == "No prediction changed."
    none = np.full(600, -1)
    a, b = run(tmp_path / "a", label=none), run(tmp_path / "b", 1, label=none)
    found = written(compare(CompareConfig((a, b), tmp_path / "logs")))
    assert set(found) == {*CARDS, *PAGES, "flips/churn", "flips/agreement"}


def step_of(folder: Path) -> Step:
    (found,) = open_run(folder)
    return found


def test_every_summary_is_of_a_step_and_no_number_is_missing(tmp_path: Path) -> None:
    sides = [Side(n, n, step_of(run(tmp_path / n, s))) for s, n in enumerate("ab")]
    found = Comparison(PairedCounts.measure(10, both(*(_rows(s.step) for s in sides))), toy.RUN.classes)
    for step, summary in render.summaries(sides, {(0, 1): found}, empty_examples(), render.CLASS_VIEWS):
        assert step == 0
        assert isinstance(summary, Picture | Scalar | Text | Tiles)
        if isinstance(summary, Scalar):
            assert np.isfinite(summary.value)
            assert summary.description


def _rows(step: Step) -> Predictions:
    batches = [rows.batch for part in step.parts for rows in read_batches(part)]
    return Predictions(pa.Table.from_batches(batches).combine_chunks().to_batches()[0])


def test_the_landing_page_begins_with_the_newest_comparison(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    predboard.visualize(VisualizeConfig((old, new), tmp_path / "logs", panels=("glance",)))
    compare(CompareConfig((old, new), tmp_path / "logs"))
    url = urllib.parse.unquote_plus(landing_page(BoardConfig(logdir=tmp_path / "logs")))
    pins = [(pin["runId"], pin["tag"]) for pin in json.loads(re.findall(r"pinnedCards=(.*)", url)[0])]
    mine = "defaultExperimentId/new vs old"
    assert pins[:3] == [(mine, "1_glance/report_card"), *[(mine, "2_mistakes/broken")] * 2]
    assert pins[3] == ("defaultExperimentId/_all_runs", "1_glance/ranking")
    assert len(pins) == 6
