"""What S3 alone can do: faults that last, kills, interrupts, denied access, and how many requests there are."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tensorboard.util import tensor_util

from predboard import InferConfig, InputError, VisualizeConfig, infer, open_predictions
from predboard import visualize as draw_logs
from predboard.evaluation.measure import MeasureSettings
from predboard.images import sources
from predboard.images.manifest import Manifest
from predboard.inference import resume
from predboard.storage import file_systems, mirror, part_plan
from predboard.storage.file_systems import StorageError
from predboard.storage.inspection import inspect
from predboard.storage.parts import open_part, verify_part
from predboard.storage.paths import map_files, publish_file
from predboard.storage.remote import MAX_CONNECTIONS, RemotePath
from predboard.storage.runs import list_part_paths, open_run
from predboard.visualization import visualize as stage_two
from predboard.visualization.log_folder import RECORD_FILE
from tests import toy
from tests.object_storage import Request, Server, a_share_fails, each_fails_once
from tests.storage.conftest import BUCKET, KEY
from tests.visualization.test_tensorboard import Server as TensorBoard
from tests.visualization.test_tensorboard import eventually

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("bucket")]


def put(server: Server, folder: Path, to: str) -> str:
    """A folder with all its files in the bucket. -> its URI."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            key = f"{to}/{file.relative_to(folder).as_posix()}"
            server.client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
    return f"s3://{BUCKET}/{to}"


def uri(key: str) -> RemotePath:
    return RemotePath(f"s3://{BUCKET}/{key}")


def count(asked: list[Request]) -> Counter[str]:
    return Counter("LIST" if request.lists else request.method for request in asked)


# --- stage one ---


def infer_command(model: str, data: str, out: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    flags = [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return toy.predboard("infer", "--data", data, "--model", model, "--out", out, "--shard-size", "5", *flags)


def test_several_devices_put_their_parts_themselves(server: Server, tmp_path: Path) -> None:
    photos, model = toy.pictures(tmp_path / "photos", 3, 8), toy.model_file(tmp_path)
    data = put(server, photos, "photos")
    assert infer_command(model, str(photos), tmp_path / "run").returncode == 0
    with server.watched(each_fails_once):
        done = infer_command(model, data, str(uri("run")), device="cpu,cpu")
    assert done.returncode == 0, done.stderr
    assert open_predictions(uri("run")).to_pandas().equals(open_predictions(tmp_path / "run").to_pandas())


def test_no_key_or_secret_is_written_anywhere(server: Server, tmp_path: Path) -> None:
    data = put(server, toy.pictures(tmp_path / "photos", 3, 3), "photos")
    done = infer_command(toy.model_file(tmp_path), data, str(uri("run")))
    drawn = toy.predboard("visualize", uri("run"), "--logdir", uri("logs"))
    for said in (done, drawn):
        assert said.returncode == 0, said.stderr
        assert KEY not in said.stdout + said.stderr
    for key in server.keys(BUCKET):
        assert KEY.encode() not in server.content(BUCKET, key), key


def test_a_killed_run_goes_on_and_leaves_only_whole_parts(server: Server, tmp_path: Path) -> None:
    data, model = put(server, toy.pictures(tmp_path / "photos", 4, 10), "photos"), toy.model_file(tmp_path, 4)
    assert infer_command(model, data, str(uri("expected"))).returncode == 0
    command = ["infer", "--data", data, "--model", model, "--out", str(uri("run")), "--shard-size", "5"]
    environ = {**os.environ, "PYTHONPATH": toy.PYTHONPATH}
    put_parts: list[str] = []
    with (
        server.watched(),
        subprocess.Popen(
            [sys.executable, "-m", "predboard", *command],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run,
    ):

        def kill(request: Request) -> None:
            if request.method == "PUT" and "/run/step=" in request.path:
                put_parts.append(request.path)
                if len(put_parts) == 3:
                    run.kill()

        server.heard = kill
        assert run.wait(60) == -signal.SIGKILL
    before = server.keys(BUCKET, "run/step=00000000/")
    assert 3 <= len(before) < 8
    for path in list_part_paths(uri("run"), 0):
        verify_part(open_part(path))
    done = toy.predboard(*command)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 8 parts in {uri('run')} exist and are valid" in done.stderr
    after = server.keys(BUCKET, "run/step=00000000/")
    assert before.items() <= after.items()
    assert open_predictions(uri("run")).to_pandas().equals(open_predictions(uri("expected")).to_pandas())
    assert not list((tmp_path / "tmp").rglob("*.tmp"))  # nor what the killed one left on this machine


def test_an_object_whose_writer_is_killed_is_not_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(25_000_000))
    code = (
        "import pathlib, sys; from predboard.storage.paths import parse_path, publish_file; "
        f"publish_file(pathlib.Path({str(tmp_path / 'large')!r}), parse_path({str(uri('large'))!r}))"
    )
    environ = {**os.environ, "PYTHONPATH": toy.PYTHONPATH}
    with server.watched(), subprocess.Popen([sys.executable, "-c", code], env=environ) as writer:

        def kill(request: Request) -> None:
            if request.method == "PUT" and "partNumber" in request.query:
                writer.kill()

        server.heard = kill
        assert writer.wait(60) == -signal.SIGKILL
    assert server.keys(BUCKET) == {}
    assert (tmp_path / "large").exists()
    publish_file(tmp_path / "large", uri("large"))
    assert set(server.keys(BUCKET)) == {"large"}
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_answer_that_breaks_off_is_asked_for_again(size: int, server: Server) -> None:
    uri("x").write_bytes(b"x" * size)
    with server.watched(lambda request, attempt: "cut" if request.method == "GET" and attempt < 3 else None) as asked:
        assert uri("x").read_bytes() == b"x" * size
        assert uri("x").read_tail(5) == b"x" * 5
    assert count(asked)["GET"] > 2


def test_a_listing_of_more_than_a_thousand_is_taken_page_by_page(server: Server) -> None:
    for i in range(1200):
        server.client.put_object(Bucket=BUCKET, Key=f"many/{'ab'[i % 2]}/{i:05d}.png", Body=b"x")
    with server.watched(each_fails_once) as asked:
        found = sources.open_source(str(uri("many")))
    assert found.image.to_pylist() == [f"{'ab'[i % 2]}/{i:05d}.png" for c in (0, 1) for i in range(c, 1200, 2)]
    assert np.bincount(found.class_label).tolist() == [600, 600]
    assert len({request for request in asked if request.lists and "continuation" in request.query}) == 1


def test_images_are_read_side_by_side(server: Server, tmp_path: Path) -> None:
    data = put(server, toy.pictures(tmp_path / "photos", 3, 20), "photos")
    config = InferConfig(data, toy.model_file(tmp_path), out=tmp_path / "run", preflight=0)
    with server.watched(lambda request, _: 0.1 if request.path.endswith(".png") else None) as asked:
        done = infer(config)
    assert done.failed == 0
    assert 4 < server.most <= MAX_CONNECTIONS
    assert count([request for request in asked if request.path.endswith(".png")])["GET"] == 61  # and the first, to try


def test_throttling_becomes_no_error_row(server: Server, tmp_path: Path) -> None:
    data = put(server, toy.pictures(tmp_path / "photos", 3, 100), "photos")
    config = InferConfig(data, toy.model_file(tmp_path), out=uri("run"), workers=16, preflight=0, shard_size=100)
    with server.watched(a_share_fails(0.25)) as asked:
        done = infer(config)
    assert sum(a_share_fails(0.25)(request, 1) is not None for request in set(asked)) > 100
    assert done.failed == 0
    assert done.complete


def test_what_stays_broken_is_an_error_row_and_mended_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "MAX_ATTEMPTS", 2)
    data, model = put(server, toy.pictures(tmp_path / "photos", 3, 5), "photos"), toy.model_file(tmp_path)
    config = InferConfig(data, model, out=uri("run"), preflight=0)
    with server.watched(lambda request, _: "503" if request.path.endswith("/b/003.png") else None):
        assert infer(config).failed == 1
    frame = open_predictions(uri("run")).to_pandas()
    (row,) = np.flatnonzero(frame["error"].notna())
    assert frame["image"][row] == "b/003.png"
    assert frame["error"][row] == "StorageError: it stays throttled or unavailable"
    assert infer(dataclasses.replace(config, retry_errors=True)).failed == 0
    again = open_predictions(uri("run")).to_pandas()
    pd.testing.assert_frame_equal(again.drop(index=row), frame.drop(index=row), check_dtype=False)
    assert again["error"].isna().all()


def test_an_image_that_hangs_in_storage_keeps_nobody_from_ending(server: Server, tmp_path: Path) -> None:
    data = put(server, toy.pictures(tmp_path / "photos", 3, 4), "photos")
    with server.watched(lambda request, _: 600.0 if request.path.endswith("b/001.png") else None):
        done = infer_command(toy.model_file(tmp_path), data, tmp_path / "run", timeout=2, preflight=0)
    assert done.returncode == 0
    assert "11 ok, 1 failed" in done.stdout
    errors = open_predictions(tmp_path / "run").to_pandas()["error"].dropna()
    assert errors.to_list() == ["TimeoutError: not read within 2 seconds"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_waits_for_storage_can_be_interrupted(sent: int, code: int, server: Server) -> None:
    asked = threading.Event()

    def hang(request: Request, _: int) -> float | None:
        if f"/{BUCKET}/" not in f"{request.path}/":
            return None
        asked.set()
        return 600.0

    with (
        server.watched(hang),
        subprocess.Popen(
            [sys.executable, "-m", "predboard", "inspect", str(uri("predictions"))],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
            stderr=subprocess.PIPE,
            preexec_fn=toy.heed_ctrl_c,
            text=True,
        ) as command,
    ):
        assert asked.wait(60)
        time.sleep(0.2)
        command.send_signal(sent)
        assert command.wait(60) == code
        assert command.stderr is not None
        assert "Traceback" not in command.stderr.read()


# --- stage two ---


@pytest.fixture
def predictions(server: Server, tmp_path: Path) -> RemotePath:
    """Of 120 rows in four parts and two steps, with their source pictures in the bucket."""
    root = put(server, toy.sources(tmp_path / "images", 120), "images")
    for step in (1, 2):
        run = dataclasses.replace(toy.RUN, step=step, root=root)
        toy.write_run(tmp_path / "predictions/run", *toy.table(run, 120, seed=step), run, shard_size=30)
    put(server, tmp_path / "predictions/run", "predictions/run")
    return uri("predictions/run")


def test_processes_read_parts_themselves(server: Server, predictions: RemotePath, tmp_path: Path) -> None:
    (alone,) = draw_logs(predictions, tmp_path / "alone", panels=("metrics", "confusion"))
    config = VisualizeConfig((predictions,), tmp_path / "together", panels=("metrics", "confusion"), workers=2)
    with server.watched(each_fails_once):
        (together,) = stage_two.visualize(config, settings=MeasureSettings(parallel_min_logits=0))
    assert together.event_file.read_bytes() == alone.event_file.read_bytes()


def test_whatever_fails_while_logs_are_replaced_a_whole_event_file_is_there(
    server: Server, predictions: RemotePath
) -> None:
    (first,) = draw_logs(predictions, uri("logs"), panels=("metrics", "classes"))
    (second,) = draw_logs(predictions, uri("other"), panels=("metrics", "confusion"))
    whole = {f.event_file.name: f.event_file.read_bytes() for f in (first, second)}
    refused = 0
    for allowed in range(30):
        done = 0

        def plan(request: Request, _: int, allowed: int = allowed) -> str | None:
            nonlocal done
            if request.method in ("PUT", "POST", "DELETE"):
                done += 1
                return "403" if done > allowed else None
            return None

        with server.watched(plan):
            try:
                draw_logs(predictions, uri("logs"), panels=("metrics", "confusion"))
            except InputError as error:
                refused += 1
                assert "access is denied" in str(error)
                assert len(str(error).splitlines()) == 1
        record = json.loads(server.content(BUCKET, f"logs/run/{RECORD_FILE}"))
        there = server.keys(BUCKET, "logs/run/")
        events = [name for name in there if "tfevents" in name]
        assert events
        for name in events:
            assert name in record["files"]
            assert server.content(BUCKET, f"logs/run/{name}") == whole[name]
        if done <= allowed:
            break
    assert refused > 5
    assert [name for name in there if "tfevents" in name] == [second.event_file.name]
    assert {name for name in there if name and not name.endswith("/")} == {*record["files"], RECORD_FILE}


def test_network_that_breaks_off_is_not_taken_for_damage(
    server: Server, predictions: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "MAX_ATTEMPTS", 2)
    before = server.keys(BUCKET, "predictions/run/")

    def plan(request: Request, _: int) -> str | None:
        return "cut" if request.method == "GET" and "part-00002" in request.path else None

    for command in (lambda: inspect(predictions), lambda: draw_logs(predictions, tmp_path / "logs")):
        with server.watched(plan), pytest.raises(StorageError, match="cannot be reached") as refused:
            command()
        assert len(str(refused.value).splitlines()) == 1
    assert server.keys(BUCKET, "predictions/run/") == before


def test_pictures_are_read_side_by_side_and_not_too_many_at_once(server: Server, predictions: RemotePath) -> None:
    with server.watched(lambda request, _: 0.1 if request.path.startswith(f"/{BUCKET}/images/") else None) as asked:
        (drawn,) = draw_logs(predictions, uri("logs"), panels=("mistakes", "embeddings"))
    assert drawn.missing_pictures == 0
    assert sum(request.path.startswith(f"/{BUCKET}/images/") for request in asked) > 150
    assert 6 < server.most <= MAX_CONNECTIONS


@pytest.mark.parametrize("command", ["visualize", "inspect", "resume"])
def test_parts_are_asked_for_side_by_side(command: str, server: Server, tmp_path: Path) -> None:
    toy.write_run(tmp_path / "run", *toy.table(toy.RUN, 960), shard_size=40)
    there = RemotePath(put(server, tmp_path / "run", "run"))
    with server.watched(lambda request, _: 0.1 if "/step=" in request.path else None) as asked:
        if command == "visualize":
            draw_logs(there, tmp_path / "logs", panels=("metrics",))
        elif command == "inspect":
            assert inspect(there).complete
        else:
            plan = part_plan.plan_parts(960, 40)
            manifest = Manifest("", pa.array(["x"] * 960), np.zeros(960, np.int32), np.zeros(960, np.int64), ())
            todo, changed = resume.find_missing(
                there, open_run(there)[0].run, plan, manifest, update=True, overwrite=False, log=print
            )
            assert (len(todo), len(changed)) == (24, 24)  # of another list, and looked at all the same
    assert sum("/step=" in request.path for request in asked) > 70
    assert 3 < server.most <= MAX_CONNECTIONS


def test_few_requests_for_a_part(server: Server, predictions: RemotePath) -> None:
    parts = 8
    with server.watched() as asked:
        draw_logs(predictions, uri("logs"), panels=("metrics",))
    of_parts = count([request for request in asked if "/step=" in request.path])
    assert of_parts["HEAD"] <= 2 * parts + 4
    assert of_parts["GET"] <= 4 * parts
    with server.watched() as asked:
        inspect(predictions)
    assert count([request for request in asked if "/step=" in request.path])["GET"] <= 6 * parts


# --- TensorBoard ---


@contextlib.contextmanager
def started(said: Path, *command: str) -> Iterator[TensorBoard]:
    """A TensorBoard that this command starts."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with (
        said.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield TensorBoard("by URI", process, port)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def shown(board: TensorBoard, run: str, written: RemotePath) -> None:
    """Wait until it shows all pictures, and compare one of them and the scalars with what was written."""
    values = toy.read_values(written)
    pictures = {tag for (tag, _), value in values.items() if value.metadata.plugin_data.plugin_name == "images"}
    eventually(lambda: set(board.json("plugin/images/tags").get(run, ())) >= pictures, 90)
    points = board.json("plugin/scalars/scalars", run=run, tag="metrics/accuracy")
    assert {step: value for _, step, value in points} == {
        step: pytest.approx(float(tensor_util.make_ndarray(values["metrics/accuracy", step].tensor))) for step in (1, 2)
    }
    (first, *_) = board.json("plugin/images/images", run=run, tag="1_glance/report_card", sample=0)
    query = dict(urllib.parse.parse_qsl(first["query"]))
    picture = tensor_util.make_ndarray(values["1_glance/report_card", first["step"]].tensor).tolist()[2]
    assert board.get("plugin/images/individualImage", **query) == picture


def test_tensorboard_alone_reads_event_files_from_where_they_are(predictions: RemotePath, tmp_path: Path) -> None:
    (written,) = draw_logs(predictions, uri("logs"))
    flags = ["--logdir", str(uri("logs")), "--samples_per_plugin", "images=1000"]
    with started(tmp_path / "said", "tensorboard.main", *flags) as board:
        shown(board, "run", cast(RemotePath, written.event_file))


def test_board_shows_all_of_the_logs_and_what_becomes_of_them(
    server: Server, predictions: RemotePath, tmp_path: Path
) -> None:
    (written,) = draw_logs(predictions, uri("logs"))
    with (
        server.watched(each_fails_once),
        started(tmp_path / "said", "predboard", "board", "--logdir", str(uri("logs"))) as board,
    ):
        shown(board, "run", cast(RemotePath, written.event_file))
        eventually(lambda: board.json("plugin/projector/runs") == ["run"], 30)
        (info,) = board.json("plugin/projector/info", run="run")["embeddings"]
        sides = {"tensor": "vectors.bytes", "metadata": "metadata.tsv", "sprite_image": "sprite.jpg"}
        for path, file in sides.items():
            sent = board.get(f"plugin/projector/{path}", run="run", name=info["tensorName"])
            assert sent == (written.folder / "projector" / file).read_bytes(), file
        opened = eventually(
            lambda: [line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("open ")]
        )
        with urllib.request.urlopen(opened[0].removeprefix("open "), timeout=10) as page:
            assert "report_card" in page.url
    assert not list((tmp_path / "tmp").glob("predboard-board-*"))


def test_a_copy_of_the_logs_outlasts_a_failure(server: Server, predictions: RemotePath) -> None:
    draw_logs(predictions, uri("logs"), panels=("metrics",))
    said: list[str] = []
    with mirror.mirror_log_folder(uri("logs"), said.append, every=0.2) as copy:
        with server.watched(lambda *_: "403"):
            eventually(lambda: bool(said), 20)
        assert "access is denied" in said[0]
        (written,) = draw_logs(predictions, uri("logs"), panels=("embeddings",))
        eventually(lambda: (copy / "run" / written.event_file.name).exists(), 20)
    assert not copy.exists()


# --- what is wrong ---

COMMANDS: dict[str, Callable[[str, Path], list[str]]] = {
    "data": lambda bucket, tmp: ["infer", "--data", f"s3://{bucket}/photos", "--model", toy.model_file(tmp)],
    "out": lambda bucket, tmp: [
        *("infer", "--data", str(toy.pictures(tmp / "photos"))),
        *("--model", toy.model_file(tmp), "--out", f"s3://{bucket}/run"),
    ],
    "list": lambda bucket, tmp: ["infer", "--data", _list(bucket, tmp), "--model", toy.model_file(tmp)],
    "visualize": lambda bucket, _: ["visualize", f"s3://{bucket}/predictions/run"],
    "inspect": lambda bucket, _: ["inspect", f"s3://{bucket}/predictions/run"],
    "board": lambda bucket, _: ["board", "--logdir", f"s3://{bucket}/logs"],
}


def _list(bucket: str, tmp: Path) -> str:
    (tmp / "list.csv").write_text(f"image,label\ns3://{bucket}/a.png,a\n")
    return str(tmp / "list.csv")


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("predboard: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bucket_that_is_not_there_is_one_line(command: str, tmp_path: Path) -> None:
    words = COMMANDS[command]("no-such-bucket", tmp_path)
    refused(toy.predboard(*words, cwd=tmp_path), "there is no bucket 'no-such-bucket'")


@pytest.mark.parametrize("command", COMMANDS)
def test_access_that_is_denied_is_one_line(command: str, server: Server, tmp_path: Path) -> None:
    with server.watched(lambda *_: "403"):
        refused(toy.predboard(*COMMANDS[command](BUCKET, tmp_path), cwd=tmp_path), "access is denied")


def test_images_that_nobody_may_read_are_not_all_tried(server: Server, tmp_path: Path) -> None:
    data = put(server, toy.pictures(tmp_path / "photos", 3, 20), "photos")
    with server.watched(lambda request, _: "403" if request.path.endswith(".png") else None) as asked:
        refused(infer_command(toy.model_file(tmp_path), data, tmp_path / "run"), "StorageError: access is denied")
    assert sum(request.path.endswith(".png") for request in asked) == 20


def test_no_credentials_is_one_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with server.watched(lambda request, _: None if request.signed else "403"):
        refused(toy.predboard("inspect", uri("predictions/run")), "are there credentials")


def test_a_bucket_is_looked_up_once_for_all_threads(server: Server) -> None:
    with server.watched(lambda *_: 0.05) as asked:
        found = list(map_files(lambda i: uri(f"none{i}").exists(), range(40), uri("")))
    assert found == [False] * 40
    assert sum(request.path == f"/{BUCKET}" and request.method == "HEAD" for request in asked) == 1


def test_nobody_waits_for_a_server_that_did_not_answer_a_moment_ago(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(file_systems, "MAX_ATTEMPTS", 3)
    with pytest.raises(StorageError, match="cannot be reached"):
        uri("a").exists()
    connect, attempts = file_systems._connect, []

    def counted(scheme: str, bucket: str) -> Any:
        attempts.append(bucket)
        return connect(scheme, bucket)

    with monkeypatch.context() as patch:
        patch.setattr(file_systems, "_connect", counted)
        for _ in range(20):
            with pytest.raises(StorageError, match="cannot be reached"):
                uri("b").exists()
    assert attempts == []
    monkeypatch.setattr(file_systems, "UNREACHABLE_SECONDS", 0.0)
    file_systems.open_bucket.cache_clear()
    with pytest.raises(StorageError, match="cannot be reached"):
        uri("a").exists()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    assert not uri("a").exists()  # now that it is there


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    refused(toy.predboard("inspect", uri("predictions/run")), "cannot be reached")


@pytest.mark.parametrize("flag", ["", "--logdir"])
def test_no_folder_there_is_one_line(flag: str) -> None:
    done = toy.predboard("board", flag, uri("logs")) if flag else toy.predboard("visualize", uri("predictions/none"))
    refused(done, f"no folder {uri('logs' if flag else 'predictions/none')}")
