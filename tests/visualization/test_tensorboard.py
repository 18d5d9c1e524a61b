"""TensorBoard itself, in its default loader and the other one, shows all that was written."""

import contextlib
import dataclasses
import html
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import markdown
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tensorboard.util import tensor_util

from predboard import VisualizeConfig, visualize
from predboard.formatting import escape_markdown
from tests import toy

pytestmark = pytest.mark.slow

T = TypeVar("T")

ROWS = 60
LOADERS: dict[str, list[str]] = {"default": [], "--load_fast=false": ["--load_fast=false"]}


@dataclasses.dataclass(frozen=True)
class Server:
    """A TensorBoard that runs."""

    loader: str
    process: subprocess.Popen[bytes]
    port: int

    def get(self, path: str, **query: Any) -> bytes:
        url = f"http://localhost:{self.port}/data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())

    def json(self, path: str, **query: Any) -> Any:
        return json.loads(self.get(path, **query))


def eventually(ask: Callable[[], T], seconds: float = 20) -> T:
    """The first answer that is neither an error nor empty; the last error if none comes in time."""
    until = time.monotonic() + seconds
    while True:
        try:
            if answer := ask():
                return answer
        except OSError:
            if time.monotonic() > until:
                raise
        assert time.monotonic() < until, "no answer in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The event file of a run of two steps with real pictures."""
    folder = tmp_path_factory.mktemp("tensorboard")
    root = toy.sources(folder / "images", ROWS)
    for step in (2, 10):
        logits, label = toy.table(toy.RUN, ROWS, seed=step)
        label[:3] = -1
        run = dataclasses.replace(toy.RUN, step=step, root=str(root))
        toy.write_run(folder / "predictions" / "toy", logits, label, run, failed=frozenset({7}))
    config = VisualizeConfig(predictions=(folder / "predictions" / "toy",), logdir=folder / "logs")
    (done,) = visualize(config)
    assert done.missing_pictures == 0
    return folder / "logs" / "toy" / done.event_file.name


@pytest.fixture(scope="module")
def servers(written: Path) -> Iterator[dict[str, Server]]:
    """Both at once, to wait only once."""
    started: dict[str, Server] = {}
    try:
        for name, flags in LOADERS.items():
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(written.parent.parent)]
            command += ["--host", "localhost", "--port", str(port), "--samples_per_plugin", "images=1000", *flags]
            log = (written.parent.parent.parent / f"log{len(started)}").open("wb")
            with log:
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                )
            started[name] = Server(name, process, port)
        for server in started.values():
            eventually(lambda: server.json("runs") == ["toy"])  # noqa: B023  called before the next turn
            eventually(lambda: server.json("plugin/text/tags"))  # noqa: B023
        yield started
    finally:
        for server in started.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)  # with the loader, which is a process of its own
            server.process.wait(10)


@pytest.fixture(params=LOADERS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


def expected(written: Path, plugin: str) -> dict[str, dict[int, Any]]:
    """What was written: arrays by tag and step."""
    found: dict[str, dict[int, Any]] = {}
    for (tag, step), value in toy.read_values(written).items():
        found.setdefault(tag, {})[step] = value
    # The plugin's name is in the first value of a tag, which is what TensorBoard too looks at.
    mine = {t: v for t, v in found.items() if next(iter(v.values())).metadata.plugin_data.plugin_name == plugin}
    return {tag: {step: tensor_util.make_ndarray(v.tensor) for step, v in of.items()} for tag, of in mine.items()}


def test_the_fast_loader_runs_where_it_is_the_default(servers: dict[str, Server]) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    for server in servers.values():
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
        assert any(b"tensorboard_data_server" in command for command in commands) == (server.loader == "default")


def test_every_scalar_is_there_at_every_step(server: Server, written: Path) -> None:
    scalars = expected(written, "scalars")
    assert len(scalars) >= 3 + 15 + 12
    assert set(server.json("plugin/scalars/tags")["toy"]) == set(scalars)
    for tag, of_step in scalars.items():
        points = server.json("plugin/scalars/scalars", run="toy", tag=tag)
        assert {step: value for _, step, value in points} == {s: pytest.approx(float(v)) for s, v in of_step.items()}
        assert sorted(of_step) == [2, 10]


def test_every_picture_is_there_with_all_its_samples_byte_by_byte(server: Server, written: Path) -> None:
    pictures = expected(written, "images")
    assert len(pictures) >= 2 + 1 + 4 + 10
    tags = server.json("plugin/images/tags")["toy"]
    assert set(tags) == set(pictures)
    samples = {tag: max(map(len, of_step.values())) - 2 for tag, of_step in pictures.items()}
    assert {tag: tags[tag]["samples"] for tag in tags} == samples

    def check(at: tuple[str, int]) -> None:
        tag, sample = at
        shown = server.json("plugin/images/images", run="toy", tag=tag, sample=sample)
        there = {step: array.tolist()[sample + 2] for step, array in pictures[tag].items() if len(array) > sample + 2}
        assert {picture["step"] for picture in shown} == set(there)
        for picture in shown:
            query = dict(urllib.parse.parse_qsl(picture["query"]))
            assert server.get("plugin/images/individualImage", **query) == there[picture["step"]]

    with ThreadPoolExecutor(16) as pool:  # the default loader takes 40 ms for any answer
        checked = list(pool.map(check, [(tag, sample) for tag in samples for sample in range(samples[tag])]))
    assert len(checked) > 60


def test_every_histogram_is_there_at_every_step(server: Server, written: Path) -> None:
    histograms = expected(written, "histograms")
    assert len(histograms) >= 10 + 3
    assert set(server.json("plugin/histograms/tags")["toy"]) == set(histograms)
    for tag, of_step in histograms.items():
        points = server.json("plugin/histograms/histograms", run="toy", tag=tag)
        assert {step for _, step, _ in points} == set(of_step)
        for _, step, buckets in points:
            assert np.asarray(buckets) == pytest.approx(of_step[step])


def test_every_text_is_there_as_html_with_its_tables(server: Server, written: Path) -> None:
    texts = expected(written, "text")
    assert {"report/summary", "confusion/pairs"} <= set(texts)
    assert set(server.json("plugin/text/tags")["toy"]) == set(texts)
    for tag, of_step in texts.items():
        shown = server.json("plugin/text/text", run="toy", tag=tag)
        assert {text["step"] for text in shown} == set(of_step)
        for text in shown:
            markdown = of_step[text["step"]].item().decode()
            rows = sum(line.startswith("|") and "---" not in line for line in markdown.split("\n"))
            assert text["text"].count("<tr>") == rows
            assert "|" not in re.sub(r"<[^>]+>", "", text["text"])  # no table is left as it was typed


def test_time_series_has_all_of_it(server: Server, written: Path) -> None:
    seen = server.json("plugin/timeseries/tags")
    assert set(seen["scalars"]["runTagInfo"]["toy"]) == set(expected(written, "scalars"))
    assert set(seen["histograms"]["runTagInfo"]["toy"]) == set(expected(written, "histograms"))
    sampled = {tag: info["toy"] for tag, info in seen["images"]["tagRunSampledInfo"].items()}
    assert {tag: info["maxSamplesPerStep"] for tag, info in sampled.items()} == {
        tag: max(len(array) for array in of_step.values()) - 2 for tag, of_step in expected(written, "images").items()
    }


def test_the_projector_gets_every_point_with_its_words_and_its_picture(server: Server, written: Path) -> None:
    (step, *_) = sorted(eventually(lambda: server.json("plugin/projector/runs")))
    assert step == "toy"
    (info,) = server.json("plugin/projector/info", run="toy")["embeddings"]
    rows = pq.read_table(written.parent / "rows.parquet").to_pandas()
    last = rows[(rows.step == 10) & rows.predicted.notna()].set_index("id")
    assert info["tensorShape"] == [len(last), 10]
    lines = server.get("plugin/projector/metadata", run="toy", name=info["tensorName"]).decode().splitlines()
    words = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    assert sorted(int(word["row"]) for word in words) == sorted(last.index)
    sent = server.get("plugin/projector/tensor", run="toy", name=info["tensorName"])
    vectors = np.frombuffer(sent, "<f4").reshape(info["tensorShape"])
    logits, _ = toy.table(toy.RUN, ROWS, seed=10)
    sprite = Image.open(io.BytesIO(server.get("plugin/projector/sprite_image", run="toy", name=info["tensorName"])))
    (side, _), grid = info["sprite"]["singleImageDim"], int(np.ceil(len(last) ** 0.5))
    assert sprite.size == (side * grid, side * grid)
    for i, (word, vector) in enumerate(zip(words, vectors, strict=True)):
        row = last.loc[int(word["row"])]
        np.testing.assert_array_equal(vector, logits[row.name])
        right = "no label" if pd.isna(row.label) else "right" if row.label == row.predicted else "wrong"
        assert (word["predicted"], word["verdict"]) == (row.predicted_name, right)
        assert word["true"] == ("unknown" if pd.isna(row.label) else row.label_name)
        assert float(word["confidence"]) == pytest.approx(row.confidence, abs=1e-4)
        left, top = i % grid * side, i // grid * side
        shown = sprite.crop((left, top, left + side, top + side)).convert("RGB").resize((8, 8), Image.Resampling.BOX)
        source = np.asarray(Image.open(written.parents[2] / "images" / row.image).convert("RGB"), float)
        assert np.abs(np.asarray(shown, float) - source).mean() < 12  # JPEG of noise in blocks of 8


@pytest.mark.parametrize(
    "name",
    [
        "a|b",
        "a\\|b",
        "C:\\x\\",
        "*",
        "*.png*",
        "_x_",
        "__init__",
        "a_b_c",
        "![i](http://x/y.png)",
        "[l](x)",
        "`",
    ],
)
def test_names_in_tables_are_shown_as_they_are(name: str) -> None:
    table = f"| h | i |\n|---|---|\n| {escape_markdown(name)} | {escape_markdown('*')} |"
    table = markdown.markdown(table, extensions=["markdown.extensions.tables"])  # what TensorBoard calls
    first, second = re.findall(r"<td[^>]*>(.*?)</td>", table, re.DOTALL)
    assert (html.unescape(first), second) == (name, "*")
