"""Whatever is asked for, the answer is one: never an error of ours, and never anything but what the logs hold."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tab import logs
from tests.tab.test_routes import Tab

ROUTES = (
    *("/runs", "/confusion", "/order", "/rows", "/row", "/hist", "/curve", "/compare", "/points", "/mask", "/values"),
    *("/images", "/image", "/neighbours", "/export"),
)
NAMES = (
    *("step", "true", "pred", "right", "state", "confidence", "loss", "n.year", "n.site", "s.site", "s.year", "q"),
    *(
        "tag",
        "suspect",
        "other",
        "kind",
        "was",
        "lost",
        "added",
        "lasso",
        "id",
        "key",
        "ids",
        "side",
        "column",
        "columns",
        "bins",
    ),
    *("sort", "desc", "offset", "limit", "class", "axes", "format", "v"),
)
LIKELY = (
    *("", "0", "1", "2", "3", "-1", "1,2", "0..1", "..", ".5..", "1..0", "-1e39..1e39", "failed", "net@1", "other@0"),
    *("gone@1", "@1", "fixed", "only", "!", "hard", "old", "loss", "image", "site", "label", "year", "suspect"),
    *(
        "old_confidence",
        "64",
        "csv",
        "json",
        "parquet",
        "paths",
        "0,0,9,0,9,9",
        "1e300,0,9,0,9,9",
        "A",
        r"\N",
        "\\",
        "|",
    ),
    *("9" * 19, "\x00", "\ud800", "<script>", "../../etc/passwd", "٣", "\u202e", "%s", "nan..nan"),
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Tab:
    folder = tmp_path_factory.mktemp("logs")
    logs.write_logs(folder / "net", 30)
    logs.write_logs(folder / "other", 20, prefix="other/", steps=(0,))
    return Tab(folder)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    run=st.sampled_from(["net", "net", "net", "other", "gone", ""]),
    query=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(LIKELY) | st.text(max_size=6), max_size=5),
)
def test_every_request_has_an_answer(tab: Tab, route: str, run: str, query: dict[str, str]) -> None:
    plain: dict[str, Any] = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    response = tab.get(route, run=run, **plain)
    assert response.status_code in (200, 204, 400, 404)
    if response.status_code >= 400:
        error = json.loads(response.data)["error"]
        assert error
        assert "\n" not in error
        assert len(error) < 400
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@settings(max_examples=40)
@given(
    body=st.dictionaries(
        st.sampled_from(["keys", "tag", "on", "label", "query"]),
        st.none() | st.booleans() | st.sampled_from(["hard", "run=net", "", "relabel"]) | st.lists(st.text(max_size=3)),
    )
)
def test_every_change_has_an_answer(tmp_path_factory: pytest.TempPathFactory, body: dict[str, object]) -> None:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "net").mkdir()
    response = Tab(folder).post("/tag", body)
    assert response.status_code in (200, 400, 404)


def test_many_ask_at_once(tmp_path: Path) -> None:
    logs.write_logs(tmp_path / "net", 200)
    fresh = Tab(tmp_path)

    def ask(number: int) -> tuple[int, bytes]:
        route = ("/rows", "/confusion", "/hist", "/curve", "/mask", "/row")[number % 6]
        response = fresh.get(route, run="net", step=1, other="net@3", true=1, column="loss", id=5)
        return number % 6, response.data

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(96)))
    assert all(len({content for kind, content in answers if kind == one}) == 1 for one in range(6))


def test_reading_ahead_leaves_it_to_the_page_to_say_what_is_damaged(tmp_path: Path) -> None:
    folder = logs.write_logs(tmp_path / "net", 3000, steps=(0,))
    content = bytearray((folder / "rows.parquet").read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    (folder / "rows.parquet").write_bytes(content)
    tab = Tab(tmp_path)
    tab.plugin.warm()
    assert json.loads(tab.get("/rows", run="net", sort="loss").data)["error"]


def test_damaged_files_are_refused_and_no_figure_comes_of_them(tmp_path: Path) -> None:
    folder = logs.write_logs(tmp_path / "net", 3000, steps=(0,))
    content = (folder / "rows.parquet").read_bytes()
    right = {route: Tab(tmp_path).get(route, run="net", true=1).data for route in ("/confusion", "/rows", "/curve")}
    answers = 0
    for at in range(100, len(content), len(content) // 25):
        (folder / "rows.parquet").write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        tab = Tab(tmp_path)
        for route, expected in right.items():
            response = tab.get(route, run="net", true=1)
            assert response.status_code in (200, 400, 404)
            if response.status_code == 200:
                answers += 1
                assert response.data == expected
    assert answers


@pytest.mark.parametrize("file", ["thumbnails.arrow", "map.arrow"])
def test_damaged_pictures_and_maps_are_none(file: str, tmp_path: Path) -> None:
    folder = logs.write_logs(tmp_path / "net", 10, steps=(0,))
    columns = {"key": logs.frame(folder, 0).key.to_numpy()}
    if file == "map.arrow":
        columns |= {"x": np.arange(10, dtype=np.int16), "y": np.arange(10, dtype=np.int16)}
        table = pa.table(columns).replace_schema_metadata({"source": "PCA"})
    else:
        table = pa.table({**columns, "thumbnail": [b"\xff\xd8\xffjpeg"] * 9 + [b"<html>"]})
        table = table.replace_schema_metadata({"side": "128", "step": "0"})
    with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    good = Tab(tmp_path)
    if file == "thumbnails.arrow":
        assert good.get("/image", run="net", id=0).data == b"\xff\xd8\xffjpeg"
        assert good.get("/image", run="net", id=9).status_code == 204
    else:
        assert np.frombuffer(good.get("/points", run="net").data, "<i2")[:10].tolist() == list(range(10))
    content = (folder / file).read_bytes()
    for at in range(8, len(content), 40):
        (folder / file).write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
        for route in ("/image", "/points", "/runs"):
            assert Tab(tmp_path).get(route, run="net", id=0).status_code in (200, 204, 400, 404)
