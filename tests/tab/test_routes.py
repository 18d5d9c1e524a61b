"""What TensorBoard's routes answer: shapes, refusals, headers, and that no path comes from a request."""

import gzip
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from werkzeug.test import Client, TestResponse

from predboard import ImportConfig, VisualizeConfig, import_predictions, visualize
from predboard.predictions.derived_rows import derive_rows
from predboard.predictions.schema import Run, hash_refs
from predboard.storage.rows import DerivedRowsWriter
from predboard.storage.runs import open_run
from predboard.tab import neighbours
from predboard.tab.loader import PredictionsLoader
from predboard.tab.plugin import PredictionsPlugin
from tests import toy
from tests.tab import logs

POST = {"X-Predboard": "1"}


class Tab:
    """The plugin over a log folder, asked as TensorBoard asks it."""

    def __init__(self, logdir: Path) -> None:
        self.plugin = PredictionsPlugin(SimpleNamespace(logdir=str(logdir)))
        self._apps = self.plugin.get_plugin_apps()

    def get(self, route: str, headers: dict[str, str] | None = None, **query: Any) -> TestResponse:
        app = self._apps["/static/*"] if route.startswith("/static/") else self._apps[route]
        path = f"/prefix/data/plugin/predboard{route}"
        return Client(app).get(path, query_string=query, headers=headers)

    def json(self, route: str, **query: Any) -> Any:
        response = self.get(route, **query)
        assert response.status_code == 200, response.text
        return json.loads(response.data)

    def post(self, route: str, body: Any, headers: dict[str, str] | None = None) -> TestResponse:
        return Client(self._apps[route]).post(route, json=body, headers=POST if headers is None else headers)


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same images, one of others, one damaged, and one whose pictures are there."""
    folder = tmp_path_factory.mktemp("logs")
    logs.write_logs(folder / "net")
    logs.write_logs(folder / "group" / "zip", seed=1, prefix="photos.zip#", steps=(0,))
    logs.write_logs(folder / "other", prefix="other/", steps=(0,))
    (folder / "damaged").mkdir()
    (folder / "damaged" / "rows.parquet").write_bytes(b"PAR1nothing")
    (folder / "net" / "suspects.csv").write_text(
        'row,key,image,label,suspected\n7,0,"a,\nb",cat,"d""og<b>"\n3,0,x,cat,cat\n5,0,x,cat,nobody\n'
    )
    level = {"name": "size", "groups": ["small", "big"], "group_of": [0, 1, 0]}
    broken = ({"group_of": [0, 1]}, {"group_of": [0, 1, 2]}, {"groups": "ab"}, {"name": 3})
    levels = {"levels": [level, *(level | change for change in broken), None]}
    (folder / "net" / "class_groups.json").write_text(json.dumps(levels), "utf-8")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def tab(logdir: Path) -> Tab:
    return Tab(logdir)


def test_the_runs_are_those_of_the_folder(tab: Tab) -> None:
    answer = tab.json("/runs")
    runs = {run["name"]: run for run in answer["runs"]}
    assert {name: run["kind"] for name, run in runs.items()} == {
        "damaged": "broken",
        "group/zip": "run",
        "net": "run",
        "other": "run",
    }
    net = runs["net"]
    assert net["labelled"]
    assert net["states"]["3"] == {"failed": 2, "unlabelled": 9}
    assert (net["steps"], net["classes"]) == ([1, 3], list(logs.NAMES))
    assert net["levels"] == [{"name": "size", "groups": ["small", "big"], "group_of": [0, 1, 0]}]
    kinds = {column["name"]: column["kind"] for column in net["columns"]}
    assert kinds["image"] == "text"
    assert (kinds["site"], kinds["year"], kinds["loss"], kinds["rank"]) == ("category", "number", "number", "number")
    assert next(c for c in net["columns"] if c["name"] == "year")["hi"] == 2003
    assert "rows.parquet" in runs["damaged"]["error"]


def test_counts_of_the_matrix_are_typed_numbers(tab: Tab, logdir: Path) -> None:
    response = tab.get("/confusion", {"Accept-Encoding": "gzip"}, run="net", step=1, true=0, pred=1)
    content = gzip.decompress(response.data) if response.headers.get("Content-Encoding") == "gzip" else response.data
    true, predicted, images = np.frombuffer(content, "<i4").reshape(3, -1)
    data = logs.frame(logdir / "net", 1)
    known = data[(data.label >= 0) & (data.predicted >= 0)]
    expected = known.groupby(["label", "predicted"]).size()
    cells = zip(true.tolist(), predicted.tolist(), strict=True)
    assert dict(zip(cells, images.tolist(), strict=True)) == dict(expected.items())
    changed = tab.get("/confusion", run="net", other="net@1", axes="old")
    assert np.frombuffer(changed.data, "<i4").reshape(3, -1)[2].sum() == 58


def test_rows_are_those_of_pandas_with_keys_as_texts(tab: Tab, logdir: Path) -> None:
    answer = tab.json("/rows", run="net", right=0, sort="loss", desc=1, limit=5, offset=2, columns="image,site,year")
    data = logs.frame(logdir / "net", 3)
    wrong = data[(data.label >= 0) & (data.predicted >= 0) & (data.label != data.predicted)]
    expected = wrong.sort_values("loss", ascending=False, kind="stable").iloc[2:7]
    assert answer["total"] == len(wrong)
    assert [row["id"] for row in answer["rows"]] == expected.index.tolist()
    assert [row["key"] for row in answer["rows"]] == [str(key) for key in expected.key]
    assert [np.float32(row["loss"]) for row in answer["rows"]] == expected.loss.tolist()
    assert [row["more"]["image"] for row in answer["rows"]] == expected.image.tolist()
    failed = tab.json("/rows", run="net", state="failed")["rows"][0]
    assert (failed["pred"], failed["conf"], failed["loss"]) == (-1, None, None)


def test_a_row_has_its_image_at_every_step_and_in_every_run(tab: Tab) -> None:
    row = tab.json("/row", run="net", step=3, id=4, other="net@1")
    assert row["image"] == "Photo 004.png"
    assert len(row["top"]) == 3
    assert {(seen["run"], seen["step"]): seen["joined_by"] for seen in row["seen"]} == {
        ("group/zip", 0): "name of the image",
        ("net", 1): "name of the image",
        ("net", 3): "name of the image",
        ("other", 0): "name of the image",
    }
    assert tab.json("/row", run="net", step=1, key=row["key"])["id"] == 4
    assert tab.get("/row", run="net", key="5").status_code == 404


def test_the_true_class_is_among_the_most_probable_ones_of_an_open_image(tmp_path: Path) -> None:
    run = Run(classes=tuple("abcdefgh"), model="net.py:build")
    logits, label = toy.table(run, 40)
    writer = DerivedRowsWriter(tmp_path / "rows.parquet", {"classes": run.classes})
    writer.write(derive_rows(run, 0, toy.predictions(run, logits, label)))
    writer.close()
    (tmp_path / "net").mkdir()
    (tmp_path / "rows.parquet").rename(tmp_path / "net" / "rows.parquet")
    tab = Tab(tmp_path)
    ranks = (logits > logits[np.arange(40), label][:, None]).sum(axis=1)
    probability = np.exp(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    for row in np.flatnonzero((ranks > 4) | (ranks == 1))[:8]:
        top = tab.json("/row", run="net", id=int(row))["top"]
        assert len(top) == (6 if ranks[row] > 4 else 5)
        assert dict(map(tuple, top))[label[row]] == pytest.approx(probability[row, label[row]], rel=1e-5)
    assert (ranks > 4).any()


def test_suspects_come_with_the_suggested_class(tab: Tab) -> None:
    rows = tab.json("/rows", run="net", suspect=1, sort="suspect")["rows"]
    assert [(row["id"], row.get("suggested")) for row in rows] == [(7, 1), (3, 0), (5, None)]
    assert tab.get("/rows", run="net", step=1, suspect=1).status_code == 400


def test_other_views_of_a_selection(tab: Tab) -> None:
    numbers = tab.json("/hist", run="net", column="loss", bins=4)
    assert sum(sum(numbers[side]) for side in ("right", "wrong", "unlabelled", "rest")) == 60 - 9 - 2
    values = tab.json("/hist", run="net", column="site", **{"s.site": "A"})
    assert values["values"] == ["<i>", "A", "\\", "b|c", None]
    assert sum(values["right"]) > 12  # the column's own filter does not count
    classes = tab.json("/hist", run="net", column="predicted", pred=1)
    assert [sum(n) for n in zip(*classes.values(), strict=True)] == [
        tab.json("/rows", run="net", pred=i)["total"] for i in range(3)
    ]
    assert tab.json("/curve", run="net", right=0)["of"] == tab.json("/rows", run="net", state="labelled")["total"]
    kinds = tab.json("/compare", run="net", other="net@1")
    assert kinds["kinds"]["changed"] + kinds["kinds"]["same"] == 58
    some = tab.json("/compare", run="net", other="net@1", true=1, kind="broken")
    assert some["both"] + some["kinds"]["only"] == tab.json("/rows", run="net", true=1)["total"] < kinds["both"]
    bits = np.unpackbits(np.frombuffer(tab.get("/mask", run="net", true=1).data, np.uint8), bitorder="little")[:60]
    assert bits.sum() == tab.json("/rows", run="net", true=1)["total"]
    codes = np.frombuffer(tab.get("/values", run="net", column="site").data, "<i2")
    assert codes[:5].tolist() == [-1, 1, 3, 2, 0]
    assert sorted(tab.json("/order", run="net")["order"]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("route", "query", "status"),
    [
        ("/rows", {}, 400),
        ("/rows", {"run": "nowhere"}, 404),
        ("/rows", {"run": "../net"}, 404),
        ("/rows", {"run": "/etc"}, 404),
        ("/rows", {"run": "damaged"}, 404),
        ("/rows", {"run": "net", "step": "2"}, 404),
        ("/rows", {"run": "net", "step": "x"}, 400),
        ("/rows", {"run": "net", "limit": "1001"}, 400),
        ("/rows", {"run": "net", "limit": "-1"}, 400),
        ("/rows", {"run": "net", "sort": "../loss"}, 400),
        ("/rows", {"run": "net", "columns": "digest"}, 400),
        ("/rows", {"run": ["net", "other"]}, 400),
        ("/rows", {"run": "net", "other": "nowhere@1"}, 400),
        ("/rows", {"run": "net", "q": "x" * 70_000}, 400),
        ("/row", {"run": "net", "id": "60"}, 404),
        ("/row", {"run": "net", "id": "9" * 30}, 400),
        ("/row", {"run": "net", "key": "0x5"}, 400),
        ("/hist", {"run": "net", "column": "loss", "bins": "0"}, 400),
        ("/hist", {"run": "net", "column": "image"}, 400),
        ("/curve", {"run": "net", "class": "3"}, 400),
        ("/compare", {"run": "net"}, 400),
        ("/points", {"run": "net"}, 404),
        ("/images", {"run": "net", "ids": ",".join("1" * 65)}, 400),
        ("/images", {"run": "net", "ids": "60"}, 400),
        ("/image", {"run": "net", "id": "1", "side": "9999"}, 400),
        ("/neighbours", {"run": "net", "id": "1"}, 400),
        ("/export", {"run": "net", "format": "xlsx"}, 400),
        ("/static/../plugin.py", {}, 404),
        ("/static/%2e%2e/plugin.py", {}, 404),
        ("/static/index.html", {}, 404),
        ("/static//etc/passwd", {}, 404),
    ],
)
def test_what_is_not_understood_or_not_there_is_refused(
    tab: Tab, route: str, query: dict[str, Any], status: int
) -> None:
    response = tab.get(route, **query)
    assert response.status_code == status
    assert isinstance(json.loads(response.data)["error"], str)
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_every_answer_has_its_headers(tab: Tab) -> None:
    for response in (tab.get("/runs"), tab.get("/export", run="net"), tab.post("/undo", {}, {})):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, {"keys": ["1"], "tag": "hard", "on": True}, 403),
        ({"X-Predboard": "1", "Sec-Fetch-Site": "cross-site"}, {"keys": ["1"], "tag": "hard", "on": True}, 403),
        (POST, {"keys": ["1"], "tag": "a,b", "on": True}, 400),
        (POST, {"keys": ["1"], "tag": "!a", "on": True}, 400),
        (POST, {"keys": ["1"], "tag": "a" * 65, "on": True}, 400),
        (POST, {"keys": ["1"], "tag": "a\n", "on": True}, 400),
        (POST, {"keys": [1], "tag": "hard", "on": True}, 400),
        (POST, {"keys": ["1" * 20], "tag": "hard", "on": True}, 400),
        (POST, {"keys": [], "tag": "hard", "on": True}, 400),
        (POST, {"keys": ["1"], "tag": "hard", "on": "yes"}, 400),
        (POST, {"keys": ["1"], "tag": "hard", "on": True, "label": "cat"}, 400),
        (POST, {"query": "run=nowhere", "tag": "hard", "on": True}, 404),
        (POST, ["keys"], 400),
    ],
)
def test_a_change_that_is_not_the_tabs_or_not_whole_is_refused(
    tab: Tab, logdir: Path, headers: dict[str, str], body: Any, status: int
) -> None:
    assert tab.post("/tag", body, headers).status_code == status
    assert not (logdir / "predboard_tags.jsonl").exists()


def test_other_methods_and_other_types_are_refused(tab: Tab) -> None:
    apps = tab.plugin.get_plugin_apps()
    assert Client(apps["/rows"]).post("/rows").status_code == 405
    assert Client(apps["/tag"]).get("/tag").status_code == 405
    form = Client(apps["/tag"]).post("/tag", data={"tag": "hard"}, headers=POST)
    assert form.status_code == 400
    huge = Client(apps["/tag"]).post("/tag", data=b" " * 4_000_001, headers=POST, content_type="application/json")
    assert huge.status_code == 413


def test_tags_go_by_key_over_steps_and_are_taken_back(tmp_path: Path) -> None:
    logs.write_logs(tmp_path / "net")
    tab = Tab(tmp_path)
    rows = tab.json("/rows", run="net", right=0, limit=2)["rows"]
    answer = tab.post("/tag", {"keys": [row["key"] for row in rows], "tag": "hard", "on": True})
    assert json.loads(answer.data) == {"tags": {"hard": 2}, "changed": 2}
    everything = {"query": "run=net&step=1&true=1", "tag": "relabel", "on": True, "label": "cat"}
    changed = json.loads(tab.post("/tag", everything).data)["changed"]
    assert changed == tab.json("/rows", run="net", step=1, true=1)["total"] > 5
    tagged = tab.json("/rows", run="net", step=1, tag="hard")
    assert [row["id"] for row in tagged["rows"]] == [row["id"] for row in rows]
    assert (
        tab.json("/rows", run="net", tag="hard,relabel")["total"] + tab.json("/rows", run="net", tag="!")["total"] == 60
    )
    assert tab.json("/rows", run="net", true=1, limit=1)["rows"][0]["relabel"] == "cat"
    assert json.loads(tab.post("/undo", {}).data)["undone"] == {"tag": "relabel", "on": False, "images": changed}
    assert json.loads(tab.post("/undo", {}).data)["tags"] == {}
    assert json.loads(tab.post("/undo", {}).data)["undone"] is None
    assert tab.json("/rows", run="net", tag="hard")["total"] == 0


def test_tags_are_those_of_the_image_in_an_archive_and_in_its_unpacked_folder(tmp_path: Path) -> None:
    for name, prefix in (("folder", ""), ("zip", "photos.zip#"), ("others", "elsewhere/")):
        folder = logs.write_logs(tmp_path / name, 20, prefix=prefix, steps=(0,))
        table = pq.read_table(folder / "rows.parquet")
        keys = hash_refs(table["image"].to_pylist())
        turned = table.set_column(table.schema.get_field_index("key"), "key", [keys])
        turned = turned.drop_columns(["digest"]) if name == "others" else turned
        pq.write_table(turned.take(np.arange(20)[:: -1 if prefix else 1]), folder / "rows.parquet")
    tab = Tab(tmp_path)
    by_name = {row["image"]: row for row in (tab.json("/row", run="folder", id=i) for i in range(20))}
    chosen = [by_name[f"Photo {i:03d}.png"]["key"] for i in (3, 5)]
    tab.post("/tag", {"keys": chosen, "query": "run=folder", "tag": "relabel", "on": True, "label": "cat"})
    seen = tab.json("/rows", run="zip", tag="relabel", columns="image")
    assert [row["more"]["image"] for row in seen["rows"]] == ["photos.zip#Photo 005.png", "photos.zip#Photo 003.png"]
    assert [(row["tags"], row["relabel"]) for row in seen["rows"]] == [(["relabel"], "cat")] * 2
    assert tab.json("/rows", run="others", tag="relabel")["total"] == 0
    lines = tab.get("/export", run="zip", tag="relabel", format="json").json
    assert lines is not None
    assert [line["relabel_to"] for line in lines] == ["cat", "cat"]
    off = {"keys": [seen["rows"][0]["key"]], "query": "run=zip", "tag": "relabel", "on": False}
    assert json.loads(tab.post("/tag", off).data) == {"tags": {"relabel": 1}, "changed": 1}
    assert [row["id"] for row in tab.json("/rows", run="folder", tag="relabel")["rows"]] == [3]
    assert tab.json("/rows", run="zip", tag="!")["total"] == 19
    tab.post("/undo", {})
    assert tab.json("/rows", run="folder", tag="relabel")["total"] == 2


def test_exports_have_what_is_selected_in_its_order(tab: Tab, logdir: Path) -> None:
    query: dict[str, Any] = {"run": "net", "right": 0, "sort": "loss", "desc": 1}
    ids = [row["id"] for row in tab.json("/rows", **query)["rows"]]
    csv = tab.get("/export", format="csv", **query).text.splitlines()
    assert csv[0].startswith("row,key,image,path,true,predicted,suggested,confidence,loss,margin,entropy,tags")
    assert [int(line.split(",")[0]) for line in csv[1:]] == ids
    table = pq.read_table(io.BytesIO(tab.get("/export", format="parquet", **query).data)).to_pandas()
    data = logs.frame(logdir / "net", 3).loc[ids]
    assert table.loss.tolist() == data.loss.tolist()
    assert table.true.tolist() == [logs.NAMES[i] for i in data.label]
    assert [row["key"] for row in tab.json("/export", format="json", **query)] == [str(key) for key in data.key]
    assert tab.get("/export", format="paths", **query).text.splitlines() == data.image.tolist()
    chosen = tab.get("/export", run="net", ids="5,3", format="paths")
    assert chosen.text.splitlines() == ["Photo 005.png", "Photo 003.png"]
    assert chosen.headers["Content-Disposition"].startswith('attachment; filename="net-step-3.txt"')


def test_a_picture_is_made_by_us_and_a_file_that_is_none_shows_nothing(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("RGB", (300, 200), "red").save(root / "000000.png")
    (root / "000001.png").write_text("secret")
    (root / "000002.png").symlink_to("/etc/passwd")
    run = Run(classes=logs.NAMES, model="net.py:build", root=str(root))
    logits, label = toy.table(run, 4)
    toy.write_run(tmp_path / "predictions", logits, label, run)
    folder = logs.write_logs(tmp_path / "logs" / "net", 4, steps=(0,))
    names = [f"{i:06d}.png" for i in range(4)]
    table = pq.read_table(folder / "rows.parquet")
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", [names]), folder / "rows.parquet")
    record = {"made_from": "", "files": [], "of": ["../../predictions"]}
    (folder / ".predboard.json").write_text(json.dumps(record), "utf-8")
    tab = Tab(tmp_path / "logs")
    version = tab.json("/runs")["runs"][0]["version"]
    response = tab.get("/image", run="net", id=0, side=128, v=version)
    with Image.open(io.BytesIO(response.data)) as picture:
        assert (picture.size, picture.format) == ((128, 85), "JPEG")
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    again = tab.get("/image", {"If-None-Match": response.headers["ETag"]}, run="net", id=0, side=128)
    assert (again.status_code, again.data) == (304, b"")
    assert [tab.get("/image", run="net", id=i).status_code for i in (1, 2, 3)] == [204, 204, 204]
    many = tab.get("/images", run="net", ids="1,0", side=64).data
    lengths = np.frombuffer(many[:8], "<u4").tolist()
    assert (lengths[0], lengths[1]) == (0, len(many) - 8)
    assert tab.json("/row", run="net", id=1)["path"] == str(root / "000001.png")


@pytest.mark.parametrize("held_bytes", [0, 2**28])
def test_neighbours_are_those_of_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_bytes: int) -> None:
    monkeypatch.setattr(neighbours, "HELD_BYTES", held_bytes)
    run = Run(classes=logs.NAMES, model="net.py:build")
    logits, label = toy.table(run, 50)
    toy.write_run(tmp_path / "predictions", logits, label, run, 16, failed=frozenset({4}))
    writer = DerivedRowsWriter(tmp_path / "logs" / "net" / "rows.parquet")
    (tmp_path / "logs" / "net").mkdir(parents=True)
    writer.write(derive_rows(run, 0, toy.predictions(run, logits, label, failed=frozenset({4}))))
    writer.close()
    record = {"made_from": "", "files": [], "of": ["../../predictions"]}
    (tmp_path / "logs" / "net" / ".predboard.json").write_text(json.dumps(record), "utf-8")
    tab = Tab(tmp_path / "logs")
    similarity = cosine_similarity(logits - logits.mean(axis=1, keepdims=True))
    similarity[:, 4] = -2
    np.fill_diagonal(similarity, -2)
    answer = tab.json("/neighbours", run="net", id=20, limit=5)
    assert answer["by"] == "logits"
    assert [row["id"] for row in answer["rows"]] == np.argsort(-similarity[20])[:5].tolist()
    np.testing.assert_allclose([row["similarity"] for row in answer["rows"]], np.sort(-similarity[20])[:5] * -1, 1e-5)
    for side, index in (("of_true", label[20]), ("of_pred", logits[20].argmax())):
        right = np.flatnonzero((label == index) & (logits.argmax(axis=1) == label) & (similarity[20] > -2))
        expected = right[np.argsort(-similarity[20][right])][:6]
        assert [row["id"] for row in answer[side]] == expected.tolist()
    assert tab.get("/neighbours", run="net", id=4).status_code == 400
    (step,) = open_run(tmp_path / "predictions")
    (tmp_path / "logs" / "net" / ".predboard.json").write_text(json.dumps(record | {"shown": {"0": step.digest}}))
    assert Tab(tmp_path / "logs").get("/neighbours", run="net", id=20).status_code == 200
    shutil.rmtree(tmp_path / "predictions")
    toy.write_run(tmp_path / "predictions", logits * np.float32(2), label, run, 16, failed=frozenset({4}))
    answer = Tab(tmp_path / "logs").get("/neighbours", run="net", id=20)
    assert (answer.status_code, "have changed since these logs" in answer.text) == (400, True)


def test_a_run_of_which_only_confidences_are_known_is_shown(tmp_path: Path) -> None:
    (tmp_path / "saved.csv").write_text("image,truth,pred,conf\na.png,cat,cat,.9\nb.png,cat,dog,.6\nc.png,,dog,.7\n")
    config = ImportConfig(
        "confidence",
        (tmp_path / "saved.csv",),
        label_column="truth",
        predicted_column="pred",
        score_column="conf",
        pictures=False,
        out=tmp_path / "net",
    )
    import_predictions(config)
    visualize(VisualizeConfig((tmp_path / "net",), tmp_path / "logs"))
    tab = Tab(tmp_path / "logs")
    run = next(run for run in tab.json("/runs")["runs"] if run["name"] == "net")
    assert not (run["has"]["map"] or run["has"]["neighbours"])
    assert [sentence[:23] for sentence in run["missing"]] == ["There are no thumbnails"]
    (tmp_path / "saved.csv").write_text("image,truth,pred,conf\na.png,cat,cat,.9\nb.png,cat,dog,.7\nc.png,,dog,.7\n")
    import_predictions(replace(config, overwrite=True))
    (now,) = (run for run in Tab(tmp_path / "logs").json("/runs")["runs"] if run["name"] == "net")
    assert now["missing"][0].startswith("The predictions of step 0 have changed since these logs were drawn")
    rows = tab.json("/rows", run="net", right=0, sort="loss", desc=1)
    assert [(row["id"], row["conf"], row["loss"]) for row in rows["rows"]] == [(1, 0.600000024, None)]
    assert sum(tab.json("/hist", run="net", column="loss")["wrong"]) == 0
    assert tab.json("/row", run="net", id=1)["top"] == [[1, 0.600000024]]
    assert tab.get("/neighbours", run="net", id=1).status_code == 400


def test_a_run_that_is_drawn_again_is_read_again(tmp_path: Path) -> None:
    tab = Tab(tmp_path)
    assert not tab.plugin.is_active()
    logs.write_logs(tmp_path / "net", 20)
    assert tab.plugin.is_active()
    version = tab.json("/runs")["runs"][0]["version"]
    logs.write_logs(tmp_path / "net", 30)
    tab.plugin._routes._view.runs._scanned = -10.0  # two seconds later
    run = tab.json("/runs")["runs"][0]
    assert run["version"] != version
    assert tab.json("/rows", run="net")["total"] == 30
    (tmp_path / "net" / ".predboard.json").write_text('{"made_from": "", "files": []}', "utf-8")
    for file in ("rows.parquet", "summary.json"):  # as while visualize replaces them
        (tmp_path / "net" / file).unlink()
    tab.plugin._routes._view.runs._scanned = -10.0
    assert tab.json("/rows", run="net", right=0)["total"] > 0
    (tmp_path / "net" / ".predboard.json").unlink()
    tab.plugin._routes._view.runs._scanned = -10.0
    assert tab.get("/rows", run="net").status_code == 404


def test_the_loader_needs_a_folder_on_this_machine(tmp_path: Path) -> None:
    assert isinstance(PredictionsLoader().load(SimpleNamespace(logdir=str(tmp_path))), PredictionsPlugin)
    assert PredictionsLoader().load(SimpleNamespace(logdir="")) is None
    assert PredictionsLoader().load(SimpleNamespace(logdir="s3://bucket/logs")) is None


def test_loading_the_tab_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    logs.write_logs(tmp_path / "net", 10)
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom predboard.tab.loader import PredictionsLoader\n"
        f"plugin = PredictionsLoader().load(SimpleNamespace(logdir={str(tmp_path)!r}))\n"
        "print(plugin.frontend_metadata().tab_name, bool(plugin.get_plugin_apps()))\n"
        "print([name for name in ('pyarrow', 'pandas', 'PIL', 'torch') if name in sys.modules], plugin.is_active())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Predictions True", "[] True"]
