"""Rows with several labels are selected, counted, compared and exported as pandas and sets do."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import precision_score, recall_score

from predboard.config import RowsConfig
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.predictions.tasks import rows_of
from predboard.storage.rows import DerivedRowsWriter
from predboard.tab.pairs import MOVES
from predboard.tab.rows_command import list_rows
from tests import toy
from tests.tab.test_routes import Tab

CLASSES = ("cloud", "water", "road", "field")


def write_logs(folder: Path, steps: tuple[int, ...] = (1, 3), classes: tuple[str, ...] = CLASSES) -> None:
    """Logs of 80 images of which some are unlabelled, some failed, and some labels unknown."""
    folder.mkdir(parents=True)
    run = Run(classes=classes, model="net.py:build", task=MULTI_LABEL)
    writer = DerivedRowsWriter(folder / "rows.parquet", {"classes": classes})
    order = [CLASSES.index(name) for name in classes]
    logits, labels = toy.multi_label_table(run, 80, unlabelled=0.1)
    true, unknown = labels.labels.mask(4)[:, order], labels.unknown.mask(4)[:, order]
    labels = toy.multi_labels(true, unknown, labels.labelled)
    for step in steps:
        rows = toy.predictions(run, (logits + noise(step))[:, order], labels, failed=frozenset({2, 79}))
        writer.write(rows_of(run).derive(run, step, rows))
    writer.close()


def noise(step: int) -> NDArray[np.float32]:
    """[rows, classes] what tells the logits of a step from those of others."""
    return np.random.default_rng(step).normal(size=(80, 4)).astype(np.float32)


def frame(folder: Path, step: int) -> pd.DataFrame:
    data: pd.DataFrame = pq.read_table(folder / "rows.parquet").to_pandas()
    return data[data.step == step].reset_index(drop=True)


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_logs(folder / "net")
    write_logs(folder / "turned", (0,), CLASSES[::-1])
    lines = ("image,row,suspected,given,probability", "a,5,road,1,.01", "a,5,water,0,.9", "b,3,cloud,0,.8")
    (folder / "net" / "suspects.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def tab(logdir: Path) -> Tab:
    return Tab(logdir)


@pytest.fixture(scope="module")
def data(logdir: Path) -> pd.DataFrame:
    return frame(logdir / "net", 3)


COLUMNS = {"true": "labels", "pred": "predicted_labels", "missed": "missed", "wrongly_predicted": "wrongly_predicted"}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("wanted", [(1,), (0, 3), (-1,), (-1, 2)])
def test_a_filter_selects_the_images_whose_sets_have_one_of_the_labels(
    tab: Tab, data: pd.DataFrame, name: str, wanted: tuple[int, ...]
) -> None:
    def is_wanted(labels: Any) -> bool:
        return labels is not None and bool(set(labels) & set(wanted) or (not len(labels) and -1 in wanted))

    expected = data.index[data[COLUMNS[name]].map(is_wanted)].tolist()
    answer = tab.json("/rows", run="net", limit=1000, **{name: ",".join(map(str, wanted))})
    assert [row["id"] for row in answer["rows"]] == expected
    assert 0 < len(expected) < len(data)


def test_the_verdict_is_wrong_where_anything_is_missed_or_wrongly_predicted(tab: Tab, data: pd.DataFrame) -> None:
    judged = data[data.missed.notna()]
    wrong = judged.index[judged.missed.map(len) + judged.wrongly_predicted.map(len) > 0]
    assert [row["id"] for row in tab.json("/rows", run="net", right=0, limit=1000)["rows"]] == wrong.tolist()
    assert tab.json("/rows", run="net", right=1)["total"] == len(judged) - len(wrong)
    run = tab.json("/runs")["runs"][0]
    states = {"failed": data.predicted_labels.isna().sum(), "unlabelled": (data.labels.isna()).sum()}
    assert (run["multi_label"], run["labelled"], run["states"]["3"]) == (True, True, states)
    row = tab.json("/row", run="net", id=int(wrong[0]), other="net@1")
    assert row["verdict"] == "wrong"
    assert {name: row[name] for name in COLUMNS} == {
        name: data[column][wrong[0]].tolist() for name, column in COLUMNS.items()
    }
    old = frame(Path(tab.plugin._logdir) / "net", 1)
    assert row["old"]["pred"] == old.predicted_labels[wrong[0]].tolist()
    assert [seen["pred"] for seen in row["seen"] if seen["run"] == "net"] == [row["old"]["pred"], row["pred"]]
    assert tab.json("/rows", run="net", state="failed")["rows"][0]["pred"] is None


def test_the_matrix_counts_what_is_missed_against_what_is_wrongly_predicted(tab: Tab, data: pd.DataFrame) -> None:
    expected: Counter[tuple[int, int]] = Counter()
    for missed, wrongly in zip(data.missed, data.wrongly_predicted, strict=True):
        if missed is not None and len(missed) + len(wrongly):
            expected.update((int(i), int(j)) for i in (*missed,) or (4,) for j in (*wrongly,) or (4,))
    cells = np.frombuffer(tab.get("/confusion", run="net").data, "<i4").reshape(3, -1)
    assert {(i, j): n for i, j, n in cells.T.tolist()} == expected
    for (i, j), images in expected.items():
        one: dict[str, Any] = {"missed": i if i < 4 else -1, "wrongly_predicted": j if j < 4 else -1}
        assert tab.json("/rows", run="net", **one, right=0)["total"] == images
    assert sorted(tab.json("/order", run="net")["order"]) == [0, 1, 2, 3]
    assert tab.get("/confusion", run="net", other="net@1", axes="old").status_code == 400
    spread = tab.json("/hist", run="net", column="predicted")
    judged = [sum(n) for n in zip(spread["right"], spread["wrong"], spread["unlabelled"], strict=True)]
    assert judged == [int(data.predicted_labels.dropna().map(lambda labels, i=i: i in labels).sum()) for i in range(4)]


@pytest.mark.parametrize("other", ["net@1", "turned@0"])
def test_two_steps_are_compared_by_their_sets_whatever_the_order_of_classes(
    tab: Tab, logdir: Path, data: pd.DataFrame, other: str
) -> None:
    name, step = other.split("@")
    old = frame(logdir / name, int(step))
    errors = [rows.missed.map(len, "ignore") + rows.wrongly_predicted.map(len, "ignore") for rows in (data, old)]
    right, was = (number == 0 for number in errors)
    judged = data.missed.notna() & old.missed.notna()
    both = data.predicted_names.notna() & old.predicted_names.notna()
    sets = [rows.predicted_names.map(frozenset, "ignore") for rows in (data, old)]
    kinds = tab.json("/compare", run="net", other=other)["kinds"]
    assert kinds["fixed"] == (judged & right & ~was).sum()
    assert kinds["broken"] == (judged & ~right & was).sum()
    assert kinds["changed"] == (both & (sets[0] != sets[1])).sum()
    assert kinds["both_wrong"] == (judged & ~right & ~was & (sets[0] == sets[1])).sum()
    assert (kinds["labels_differ"], kinds["only"]) == (0, 0)
    was_road = both & sets[1].map(lambda names: names is not np.nan and "road" in names, "ignore").eq(True)
    assert tab.json("/rows", run="net", other=other, was=2, state="")["total"] == was_road.sum()


@pytest.mark.parametrize("other", ["net@1", "turned@0"])
def test_decisions_about_a_label_are_counted_and_selected_by_how_they_changed(
    tab: Tab, logdir: Path, data: pd.DataFrame, other: str
) -> None:
    name, step = other.split("@")
    place = [CLASSES.index(label) for label in (CLASSES[::-1] if name == "turned" else CLASSES)]
    old = frame(logdir / name, int(step))
    expected: dict[str, list[set[int]]] = {move: [set() for _ in CLASSES] for move in MOVES}
    for role, (come, gone) in {"missed": ("lost", "gained"), "wrongly_predicted": ("added", "dropped")}.items():
        for row, (one, other_one) in enumerate(zip(data[role].tolist(), old[role].tolist(), strict=True)):
            if one is not None and other_one is not None:
                labels, were = set(one), {place[i] for i in other_one}
                for label in labels - were:
                    expected[come][label].add(row)
                for label in were - labels:
                    expected[gone][label].add(row)
    counts = tab.json("/compare", run="net", other=other)["labels"]
    assert counts == {move: list(map(len, rows)) for move, rows in expected.items()}
    assert sum(map(sum, counts.values())) > 20
    narrow = tab.json("/compare", run="net", other=other, true=1, gained=2)["labels"]  # what is counted filters nothing
    of_water = {row for row, labels in data.labels.items() if labels is not None and 1 in labels}
    assert narrow == {move: [len(rows & of_water) for rows in of_one] for move, of_one in expected.items()}
    for move in MOVES:
        rows = tab.json("/rows", run="net", other=other, limit=1000, **{move: "0,2"})["rows"]
        assert {row["id"] for row in rows} == expected[move][0] | expected[move][2]
    flags: dict[str, Any] = {"lost": ("road",), "other": other}
    records = json.loads(list_rows(RowsConfig(logdir / "net", format="json", **flags)).content)
    assert {record["row"] for record in records} == expected["lost"][2]
    refused = tab.get("/rows", run="net", gained=1)
    assert (refused.status_code, refused.json) == (
        400,
        {"error": "gained needs other=RUN@STEP, the step to compare with"},
    )


@pytest.mark.parametrize("label", range(4))
def test_the_curve_of_a_label_has_its_precision_and_recall(tab: Tab, data: pd.DataFrame, label: int) -> None:
    run = Run(classes=CLASSES, model="net.py:build", task=MULTI_LABEL)
    logits, labels = toy.multi_label_table(run, 80, unlabelled=0.1)
    probability = 1 / (1 + np.exp(-(logits + noise(3))[:, label].astype(np.float64)))
    judged = data.missed.notna().to_numpy() & ~labels.unknown.mask(4)[:, label]
    true = labels.labels.mask(4)[judged, label]
    answer = tab.json("/curve", run="net", **{"class": label})
    assert answer["of"] == true.sum() > 5
    assert 500 <= answer["known_from"] < 600
    for at in (0.6, 0.75, 0.9):
        every, right = (sum(answer[name][round(at * 1000) :]) for name in ("all", "right"))
        assert right / every == pytest.approx(precision_score(true, probability[judged] >= at))
        assert right / answer["of"] == pytest.approx(recall_score(true, probability[judged] >= at))
    low = sum(answer["right"][200:]) / answer["of"]  # of a true label the probability is stored below the threshold too
    assert low == pytest.approx(recall_score(true, probability[judged] >= 0.2))
    assert tab.json("/curve", run="net", right=1, missed=0, confidence=".9..", **{"class": label}) == answer


def test_an_open_image_has_the_probability_of_every_label_that_it_has(tmp_path: Path) -> None:
    run = Run(classes=tuple("abcdefgh"), model="net.py:build", task=MULTI_LABEL)
    true = np.zeros((3, 8), bool)
    true[0, [0, 7]] = true[1, 2] = True
    logits = np.tile(np.arange(8, dtype=np.float32) - 6, (3, 1))  # [rows, classes]
    labels = toy.multi_labels(true, np.zeros_like(true), np.ones(3, bool))
    (tmp_path / "net").mkdir()
    writer = DerivedRowsWriter(tmp_path / "net" / "rows.parquet", {"classes": run.classes})
    writer.write(rows_of(run).derive(run, 0, toy.predictions(run, logits, labels, failed=frozenset({2}))))
    writer.close()
    tops = [Tab(tmp_path).json("/row", run="net", id=row)["top"] for row in range(3)]
    assert [[index for index, _ in top] for top in tops] == [[7, 6, 5, 4, 3, 0], [7, 6, 5, 4, 3, 2], []]
    assert tops[0][-1][1] == pytest.approx(1 / (1 + np.exp(6)), rel=1e-5)
    assert tops[1][-1][1] == pytest.approx(1 / (1 + np.exp(4)), rel=1e-5)


def test_suspects_say_which_label_is_too_much_or_missing(tab: Tab) -> None:
    rows = tab.json("/rows", run="net", suspect=1, sort="suspect")["rows"]
    assert [(row["id"], row["suggested"], row["given"]) for row in rows] == [(5, 2, True), (3, 0, False)]


def test_exports_and_the_command_have_lists_of_names(tab: Tab, logdir: Path, data: pd.DataFrame) -> None:
    table = pq.read_table(io.BytesIO(tab.get("/export", run="net", format="parquet").data)).to_pandas()
    for name, column in (("true", "label_names"), ("predicted", "predicted_names")):
        for ours, expected in zip(table[name], data[column], strict=True):
            assert (ours is None) == (expected is None)
            assert ours is None or list(ours) == list(expected)
    lines = tab.get("/export", run="net", missed=1, format="csv").text.splitlines()
    assert lines[0].startswith("row,key,image,path,true,predicted,missed,wrongly_predicted,suggested,confidence")
    records = json.loads(list_rows(RowsConfig(logdir / "net", missed=("water",), format="json")).content)
    assert len(records) == len(lines) - 1 == data.missed.dropna().map(lambda labels: 1 in labels).sum()
    assert all("water" in record["missed"] for record in records)
