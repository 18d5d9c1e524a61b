"""Files on this machine and in storage by the same names; runs, logs and images in storage are those on disk."""

import dataclasses
import os
import pickle
import re
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from predboard import (
    ImportConfig,
    InferConfig,
    InputError,
    VisualizeConfig,
    compare,
    gate,
    import_predictions,
    infer,
    open_predictions,
)
from predboard import visualize as draw_logs
from predboard.cli import main
from predboard.images import loader, sources
from predboard.storage import mirror, remote
from predboard.storage.inspection import inspect
from predboard.storage.parts import PartFile, read_batches
from predboard.storage.paths import AnyPath, is_inside, map_files, parse_path, publish_file, staging_dir, storage_fault
from predboard.storage.remote import RemotePath, StorageError
from predboard.storage.runs import list_part_paths
from predboard.visualization.log_folder import read_record

from tests import fake_storage, toy
from tests.fake_storage import copied


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_storage.FakeStorage]:
    """Object storage in this process, empty, with staging folders of this test alone."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield fake_storage.empty()
    fake_storage.empty()


def keys(files: Any, folder: str) -> set[str]:
    return {key.removeprefix(f"/{folder}/") for key in files.find(f"/{folder}")}


# --- names ---


def test_a_remote_place_has_the_names_that_a_path_would_have() -> None:
    place, path = RemotePath("s3://bucket/a b/c.tar.gz"), Path("bucket/a b/c.tar.gz")
    assert (place.name, place.stem, place.suffix) == (path.name, path.stem, path.suffix)
    assert place.parent == RemotePath("s3://bucket/a b")
    assert place.parent.parent.parent == RemotePath("s3://bucket")
    assert place.with_name("d.zip") == RemotePath("s3://bucket/a b/d.zip")
    assert str(place.parent / "../x/./y") == "s3://bucket/x/y"
    assert place.resolve() is place
    assert pickle.loads(pickle.dumps(place)) == place


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photos/test", Path("photos/test")),
        ("S3://bucket/Photos/", RemotePath("s3://bucket/Photos")),
        ("gs://bucket", RemotePath("gs://bucket")),
        ("s3://bucket/50%20.jpg", RemotePath("s3://bucket/50%20.jpg")),
        ("s3://bucket/a@2x.png", RemotePath("s3://bucket/a@2x.png")),
        ("file:///tmp/a%20b", Path("/tmp/a b")),
    ],
)
def test_a_uri_is_a_place_in_storage_and_a_file_uri_a_path(text: str, expected: AnyPath) -> None:
    assert parse_path(text) == expected
    assert parse_path(expected) == expected


@pytest.mark.parametrize("text", ["s3://", "s3:///", "fake://../x"])
def test_a_uri_without_a_bucket_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no bucket"):
        parse_path(text)


def test_a_uri_that_was_made_a_path_is_refused_before_it_becomes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a URI that was turned into a Path"):
        VisualizeConfig(predictions=(tmp_path,), logdir=Path("s3://bucket/logs"))


def test_a_program_may_give_a_uri_as_text() -> None:
    config = VisualizeConfig(predictions=("s3://b/run", "run"), logdir="s3://b/logs")  # type: ignore[arg-type]
    assert config.predictions == (RemotePath("s3://b/run"), Path("run"))
    assert config.logdir == RemotePath("s3://b/logs")
    assert InferConfig("photos", "m.py:f", out="fake://out/run").out == RemotePath("fake://out/run")  # type: ignore[arg-type]


def test_what_is_inside_what() -> None:
    assert is_inside(RemotePath("s3://b/run/logs"), RemotePath("s3://b/run"))
    assert is_inside(RemotePath("s3://b/run"), RemotePath("s3://b/run"))
    assert not is_inside(RemotePath("s3://b/run2"), RemotePath("s3://b/run"))
    assert not is_inside(Path("s3:/b/run"), RemotePath("s3://b/run"))
    assert is_inside(Path("a/b"), Path("a"))


# --- credentials ---

SECRETS = [
    "s3://AKIAUSER:hunter2@bucket/photos",
    "s3://hunter2@bucket/photos",
    "s3://bucket/photos?access_key=x&secret_key=hunter2",
    "https://bucket.example/a.jpg?X-Amz-Signature=hunter2",
    "https://account.example/a.jpg?sv=1&sig=hunter2",
]


@pytest.mark.parametrize("uri", SECRETS)
@pytest.mark.parametrize(
    "command",
    ["visualize URI", "visualize predictions --logdir URI", "inspect URI", "infer --data URI --model m.py:f --out x"],
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(
    uri: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [uri if word == "URI" else word for word in command.split()]
    assert main.run(words) == 2
    said = capsys.readouterr()
    assert "contains a user, a key or a signature" in said.err
    assert "hunter2" not in said.err + said.out
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("uri", SECRETS)
def test_a_password_in_a_list_is_refused_and_not_repeated(uri: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"image,label\na.jpg,x\n{uri},y\n")
    with pytest.raises(InputError, match="contains a user, a key or a signature") as refused:
        sources.open_source(str(tmp_path / "list.csv"))
    assert "hunter2" not in str(refused.value)


# --- storage ---


def test_a_remote_place_answers_as_a_path_does(memory: Any, tmp_path: Path) -> None:
    for name in ("run/step=1/part-0.parquet", "run/step=1/part-1.parquet", "run/step=2/x.txt", "run/.hidden", "run2/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    there = copied(memory, tmp_path, "base")
    for place in ("run", "run/step=1", "run/step=1/part-0.parquet", "run/none", "ru"):
        here, far = tmp_path / place, there / place
        assert (here.exists(), here.is_dir(), here.is_file()) == (far.exists(), far.is_dir(), far.is_file()), place
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert [p.name for p in (there / "run").iterdir()] == names
    for pattern in ("step=*", "step=*/part-*.parquet", "*/x.txt", "step=1/*", "none/*", "*.txt", "step=?/part-[0]*"):
        found = sorted(p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").glob(pattern))
        assert sorted(p.uri.removeprefix("fake://base/run/") for p in (there / "run").glob(pattern)) == found, pattern
    part = there / "run/step=1/part-0.parquet"
    assert part.read_bytes() == b"run/step=1/part-0.parquet"
    assert part.read_text() == "run/step=1/part-0.parquet"
    assert part.read_tail(7) == b"parquet"
    assert part.read_tail(1000) == part.read_bytes()
    assert part.stat().st_size == 25
    assert next(iter((there / "run/step=1").iterdir())).stat().st_size == 25  # as the listing says
    assert [p.uri for p in (there / "run/step=1").walk_files()] == [
        f"fake://base/run/step=1/part-{i}.parquet" for i in (0, 1)
    ]
    assert (there / "none").walk_files() == []
    for missing in (there / "none").read_bytes, (there / "none").stat, (there / "none").unlink:
        with pytest.raises(FileNotFoundError):
            missing()
    (there / "none").unlink(missing_ok=True)
    part.unlink()
    assert not part.exists()
    (there / "run").remove_tree()
    (there / "run").remove_tree()
    assert keys(memory, "base") == {"run2/y"}


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
def test_a_file_is_published_by_one_write(content: bytes, memory: Any, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.write_bytes(content)
    publish_file(aside, RemotePath("fake://base/x"))
    assert memory.cat_file("/base/x") == content
    assert not aside.exists()


def test_a_workshop_that_another_user_could_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place, owner = RemotePath("fake://out/run"), os.getuid()
    mine = staging_dir(place).parent
    assert mine.stat().st_mode & 0o777 == 0o700
    assert staging_dir(place) != staging_dir(RemotePath("fake://out/run2"))
    mine.rename(tmp_path / f"predboard-{owner + 1}")
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        staging_dir(place)


def test_what_was_not_written_whole_is_said(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = type(memory)._open

    def short(self: Any, path: str, mode: str = "rb", **more: Any) -> Any:
        file = opened(self, path, mode, **more)
        if mode == "wb":
            write = file.write
            file.write = lambda data: write(bytes(data)[:-1]) + 1
        return file

    monkeypatch.setattr(type(memory), "_open", short)
    with pytest.raises(StorageError, match="has 6 bytes after 7 were written"):
        RemotePath("fake://base/x").write_bytes(b"content")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "access is denied"),
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: it does not exist", "no such bucket"),
        ("AWS Error EXPIRED_TOKEN during GetObject operation", "credentials are wrong or have expired"),
        ("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate.", "throttled"),
        ("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 6, Could not resolve hostname", "reached"),
        ("google::cloud::Status(PERMISSION_DENIED: nope)", "access is denied"),
        (
            "When reading information for key 'status 403/Forbidden.png' in bucket 'SlowDown': AWS Error "
            "NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server",
            "reached",
        ),
        ("When reading key 'x' in bucket 'b': AWS Error UNKNOWN (HTTP status 503) during HeadObject", "throttled"),
    ],
)
def test_trouble_with_storage_is_no_damage(said: str, expected: str) -> None:
    place = RemotePath("s3://bucket/key")
    fault = storage_fault(place, OSError(said))
    assert fault is not None
    assert re.search(expected, str(fault))
    assert len(str(fault).splitlines()) == 1
    assert storage_fault(place, fault) is fault
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)
    assert "bucket/key" not in loader.describe_failure(fault)
    assert re.search(expected, loader.describe_failure(fault))
    assert storage_fault(place, OSError("CRC checksum verification failed")) is None
    assert storage_fault(Path("bucket/key"), OSError(said)) is None


@pytest.mark.parametrize(
    ("uri", "expected"), [("nonsense://b/x", "unknown kind of storage nonsense://"), ("s3://B_/x", "B_")]
)
def test_storage_that_is_not_there_is_one_line(uri: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote, "MAX_ATTEMPTS", 1)
    with pytest.raises(InputError, match=expected) as refused:
        open_predictions(uri)
    assert len(str(refused.value).splitlines()) == 1


# --- runs and logs ---


def _infer(tmp_path: Path, data: str, out: AnyPath, **more: Any) -> Any:
    config = InferConfig(data=data, model=toy.model_file(tmp_path), out=out, shard_size=5, step=(3,), **more)
    return infer(config, lambda _: None)


def test_a_run_in_storage_is_the_run_on_disk(memory: Any, tmp_path: Path) -> None:
    photos = toy.pictures(tmp_path / "photos", 3, 4)
    (photos / "b" / "001.png").write_bytes(b"no picture")
    there = copied(memory, photos, "data/photos")
    _infer(tmp_path, str(photos), tmp_path / "run")
    done = _infer(tmp_path, str(there), RemotePath("fake://out/run"))
    assert done.complete
    assert done.out == RemotePath("fake://out/run")
    assert done.steps[3].failed == 1
    here, far = open_predictions(tmp_path / "run"), open_predictions("fake://out/run")
    assert far.to_pandas().equals(here.to_pandas())
    assert far.run.root == "fake://data/photos"
    assert keys(memory, "out/run") == {
        *(f"step=00000003/part-0000{i}.parquet" for i in range(3)),
        *(f"_preflight/step=00000003{suffix}" for suffix in (".json", ".png")),
    }
    facts = inspect(RemotePath("fake://out/run")).facts
    assert facts["run"] == "run"
    assert facts["bytes"] == sum(memory.size(key) for key in memory.find("/out/run/step=00000003"))
    assert inspect(RemotePath("fake://out/run")).complete
    assert not list(staging_dir(RemotePath("fake://out/run")).rglob("*.tmp"))


def test_a_run_in_storage_goes_on_where_it_stopped(memory: Any, tmp_path: Path) -> None:
    there = copied(memory, toy.pictures(tmp_path / "photos", 3, 4), "data/photos")
    out = RemotePath("fake://out/run")
    _infer(tmp_path, str(there), out)
    expected = open_predictions(out).to_pandas()
    first, second, third = list_part_paths(out, 3)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-30] + b"x" + second.read_bytes()[-29:])  # in its footer
    kept = third.read_bytes()
    done = _infer(tmp_path, str(there), out)
    assert done.written == 10
    assert third.read_bytes() == kept
    assert open_predictions(out).to_pandas().equals(expected)
    assert _infer(tmp_path, str(there), out).written == 0
    assert _infer(tmp_path, str(there), out, overwrite=True).written == 12


def test_a_part_that_cannot_be_put_leaves_nothing(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = toy.pictures(tmp_path / "photos", 3, 4)
    out = RemotePath("fake://out/run")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "no")

    monkeypatch.setattr(type(memory), "_open", refuse)
    with pytest.raises(InputError, match=r"cannot write to fake://out/run.*published so far is safe"):
        _infer(tmp_path, str(photos), out)
    monkeypatch.undo()
    assert keys(memory, "out/run") == set()
    assert not list(staging_dir(out).rglob("*.tmp"))


@pytest.mark.usefixtures("memory")
def test_many_threads_read_one_object() -> None:
    content = bytes(range(256)) * 4096
    RemotePath("fake://data/a").write_bytes(content)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: RemotePath("fake://data/a").read_bytes(), range(400)))
    assert all(one == content for one in found)


@pytest.mark.usefixtures("memory")
def test_logs_know_of_which_run_in_storage_they_are(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    for folder, shift in (("a", 0), ("b", 1)):
        toy.write_run(RemotePath(f"fake://{folder}/net"), logits + np.float32(shift), label)
    for logdir in (tmp_path / "logs", RemotePath("fake://logs")):
        draw_logs("fake://a/net", logdir, panels=("glance",))
        with pytest.raises(InputError, match="holds the logs of fake://a/net, which these would replace"):
            draw_logs("fake://b/net", logdir, panels=("glance",))
    RemotePath("fake://a").remove_tree()
    for logdir, named in (
        (tmp_path / "logs", "fake://b/net"),
        (RemotePath("fake://logs"), "fake://b/net"),
        (RemotePath("fake://b/x/logs"), "../../../net"),  # in one bucket
    ):
        draw_logs("fake://b/net", logdir, panels=("glance",))
        assert read_record(logdir / "net").predictions == (named,)
    toy.write_run(RemotePath("fake://b/other/net"), logits + np.float32(2), label)
    with pytest.raises(InputError, match="holds the logs of fake://b/net, which these would replace"):
        draw_logs("fake://b/other/net", "fake://b/x/logs", panels=("glance",))
    toy.write_run(RemotePath("fake://b/net"), logits + np.float32(3), label)
    assert not draw_logs("fake://b/net", "fake://b/x/logs", panels=("glance",))[0].unchanged


def test_logs_in_storage_are_the_logs_on_disk(memory: Any, tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 60)
    toy.write_run(tmp_path / "run", logits, label, shard_size=25)
    copied(memory, tmp_path / "run", "out/run")
    toy.sources(tmp_path / "images", 60)
    images = copied(memory, tmp_path / "images", "data/images")
    draw_logs(tmp_path / "run", tmp_path / "logs", image_root=tmp_path / "images")
    (far,) = draw_logs("fake://out/run", "fake://logs", image_root=images)
    assert far.missing_pictures == 0
    folder = tmp_path / "logs" / "run"
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {".lock"}
    assert keys(memory, "logs/run") == files
    assert ".predboard.json" in files
    for name in files - {".predboard.json"}:  # which knows where the images are
        assert memory.cat_file(f"/logs/run/{name}") == (folder / name).read_bytes(), name

    before = dict(memory.store)
    (again,) = draw_logs("fake://out/run", "fake://logs", image_root=images)
    assert again.unchanged
    assert again.event_file == far.event_file
    assert dict(memory.store) == before
    (few,) = draw_logs("fake://out/run", "fake://logs", panels=("metrics",))
    assert not few.unchanged
    assert keys(memory, "logs/run") == {few.event_file.name, "summary.json", ".predboard.json"}


def test_states_are_kept_in_storage_too(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write_run(RemotePath("fake://out/run"), *toy.table(toy.RUN, 60), shard_size=20)
    draw_logs("fake://out/run", "fake://logs", panels=("metrics",), cache="always")
    kept = [key for key in keys(memory, "logs/run") if key.startswith(".predboard-states/")]
    assert kept
    (expected,) = draw_logs("fake://out/run", "fake://fresh", panels=("metrics",), cache="never", log_every=30)
    asked: list[int] = []
    batches = read_batches

    def counted(file: PartFile, columns: Any = None) -> Any:
        asked.append(file.part.start)
        return batches(file, columns)

    monkeypatch.setattr("predboard.evaluation.fold.read_batches", counted)
    (again,) = draw_logs("fake://out/run", "fake://logs", panels=("metrics",), cache="always")
    assert again.unchanged
    (more,) = draw_logs("fake://out/run", "fake://logs", panels=("metrics",), cache="always", log_every=30)
    assert more.event_file.read_bytes() == expected.event_file.read_bytes()
    rows = list(asked)
    asked.clear()
    (third,) = draw_logs("fake://out/run", "fake://logs", panels=("metrics",), cache="always", log_every=20)
    assert not third.unchanged
    assert (len(set(rows)), asked) == (3, [])  # for the rows once, and for nothing then
    for key in keys(memory, "logs/run"):
        if key.startswith(".predboard-states/"):
            memory.pipe_file(f"/logs/run/{key}", memory.cat_file(f"/logs/run/{key}")[:-9] + b"123456789")
    (back,) = draw_logs("fake://out/run", "fake://logs", panels=("metrics",), cache="always", log_every=30)
    assert back.event_file.read_bytes() == expected.event_file.read_bytes()


def test_a_copy_for_tensorboard_has_what_it_shows_and_follows(memory: Any) -> None:
    toy.write_run(RemotePath("fake://out/run"), *toy.table(toy.RUN, 40))
    draw_logs("fake://out/run", "fake://logs", panels=("metrics", "embeddings"))
    memory.pipe_file("/logs/other/events.out.tfevents.foreign", b"of another program")

    def shown() -> dict[str, bytes]:
        names = [n for n in keys(memory, "logs") if "tfevents" in n or "projector" in n]
        return {name: memory.cat_file(f"/logs/{name}") for name in names}

    def copied_now() -> dict[str, bytes]:
        return {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*") if p.is_file()}

    said: list[str] = []
    with mirror.mirror_log_folder(RemotePath("fake://logs"), said.append, every=0.01) as copy:
        assert copied_now() == shown()
        assert len(copied_now()) == 5
        draw_logs("fake://out/run", "fake://logs", panels=("metrics",))
        until = time.monotonic() + 20
        while copied_now() != shown() and time.monotonic() < until:
            time.sleep(0.01)
        assert copied_now() == shown()
        assert len(copied_now()) == 2
    assert not copy.exists()
    assert said == []


def test_runs_in_storage_are_ranked(memory: Any) -> None:
    for i, name in enumerate(("one", "two")):
        toy.write_run(RemotePath(f"fake://out/{name}"), *toy.table(toy.RUN, 40, seed=i))
    written = draw_logs(["fake://out/one", "fake://out/two"], "fake://logs", panels=("metrics",))
    assert [w.folder for w in written] == [RemotePath("fake://logs/one"), RemotePath("fake://logs/two")]
    assert any("tfevents" in key for key in keys(memory, "logs/_all_runs"))
    memory.rm("/logs/one", recursive=True)
    draw_logs("fake://out/two", "fake://logs", panels=("metrics",))
    assert keys(memory, "logs/_all_runs") == set()


@pytest.mark.usefixtures("memory")
def test_runs_in_storage_are_compared_and_gated_as_on_disk(tmp_path: Path) -> None:
    for folder in (tmp_path, RemotePath("fake://out")):
        for i, name in enumerate(("old", "new")):
            toy.write_run(folder / name, *toy.table(toy.RUN, 60, seed=i), dataclasses.replace(toy.RUN, thumbnails=8))
    here = compare(tmp_path / "old", tmp_path / "new", logdir=tmp_path / "logs")
    far = compare("fake://out/old", "fake://out/new", logdir="fake://logs")
    assert far.folder == RemotePath("fake://logs/new vs old")
    assert far.found == here.found
    assert far.event_file.read_bytes() == here.event_file.read_bytes()
    assert compare("fake://out/old", "fake://out/new", logdir="fake://logs").unchanged
    rules = [{"metric": "accuracy", "min": 0.9}, {"metric": "accuracy", "max_drop": 0.0}]
    for run, base in (("new", "old"), ("old", "old")):
        mine = gate(tmp_path / run, rules, tmp_path / base)
        theirs = gate(f"fake://out/{run}", rules, f"fake://out/{base}")
        assert (theirs.outcome, theirs.verdicts) == (mine.outcome, mine.verdicts)


def test_saved_predictions_are_imported_into_storage(memory: Any, tmp_path: Path) -> None:
    images = copied(memory, toy.sources(tmp_path / "images", 20), "data/images")
    logits, label = toy.table(toy.RUN, 20)
    refs = [f"{i:06d}.png" for i in range(20)]
    np.savez(tmp_path / "saved.npz", logits=logits, labels=label, filenames=np.array(refs))
    for out, root in ((tmp_path / "run", tmp_path / "images"), (RemotePath("fake://out/run"), images)):
        config = ImportConfig("logits", (tmp_path / "saved.npz",), out=out, image_root=root, thumbnails=8)
        assert import_predictions(config).missing == 0
    here, far = open_predictions(tmp_path / "run"), open_predictions("fake://out/run")
    assert far.to_pandas().equals(here.to_pandas())
    assert far.to_pandas()["width"].notna().all()
    assert far.run.root == str(images)


@pytest.mark.usefixtures("memory")
def test_logs_and_predictions_may_not_be_mixed() -> None:
    toy.write_run(RemotePath("fake://out/run"), *toy.table(toy.RUN, 40))
    with pytest.raises(InputError, match="mix logs into the predictions fake://out/run"):
        draw_logs("fake://out/run", "fake://out")


@pytest.mark.parametrize("uri", ["fake://out/none", "fake://out"])
@pytest.mark.usefixtures("memory")
def test_no_predictions_in_storage_is_one_line(uri: str) -> None:
    toy.write_run(RemotePath("fake://out/run"), *toy.table(toy.RUN, 40))
    with pytest.raises(InputError, match=r"no folder fake://out/none|for example fake://out/run"):
        open_predictions(uri)


# --- images ---

TREES = {
    "classes": ["a/1.png", "a/2.jpg", "b/1.png", "b/x.txt", "b/deeper/z.png", "b/deeper/a.png"],
    "hidden": ["a/1.png", "a/.2.png", ".cache/3.png", "b/4.png"],
    "lone top": ["top/a/1.png", "top/b/2.png", "top/b/c/3.png"],
    "two lone tops": ["one/two/a/1.png", "one/two/b/2.png"],
    "lone class": ["a/1.png", "a/2.png"],
    "flat": ["1.png", "10.PNG", "2.png", "x.txt"],
    "flat beside classes": ["1.png", "a/2.png", "b/3.png"],
    "a class without images": ["a/1.png", "b/x.txt"],
}


@pytest.mark.parametrize("tree", TREES)
def test_a_folder_in_storage_is_the_folder_on_disk(tree: str, memory: Any, tmp_path: Path) -> None:
    for name in TREES[tree]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    there = copied(memory, tmp_path / "photos", "data/photos")
    here, far = sources.open_source(str(tmp_path / "photos")), sources.open_source(str(there))
    assert far.image.equals(here.image)
    assert far.classes == here.classes
    np.testing.assert_array_equal(far.label, here.label)
    np.testing.assert_array_equal(far.key, here.key)
    for ref in far.image.to_pylist():
        assert sources.read(far.root, ref) == sources.read(here.root, ref)


@pytest.mark.parametrize("kind", ["list.csv", "list.jsonl", "list.parquet", "images.parquet", "shard.tar", "all.zip"])
def test_lists_and_archives_in_storage_are_those_on_disk(kind: str, memory: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    photos = toy.pictures(folder / "photos", 2, 3)
    files = sorted(photos.rglob("*.png"))
    refs, labels = [file.relative_to(folder).as_posix() for file in files], [file.parent.name for file in files]
    table = pa.table({"image": refs, "label": labels, "place": ["north"] * len(refs)})
    if kind == "list.csv":
        table.to_pandas().to_csv(folder / kind, index=False)
    elif kind == "list.jsonl":
        table.to_pandas().to_json(folder / kind, orient="records", lines=True)
    elif kind == "list.parquet":
        pq.write_table(table, folder / kind)
    elif kind == "images.parquet":
        inside = table.set_column(0, "image", pa.array([file.read_bytes() for file in files]))
        pq.write_table(inside, folder / kind, row_group_size=2)
    elif kind == "shard.tar":
        with tarfile.open(folder / kind, "w") as archive:
            for i, file in enumerate(files):
                (tmp_path / "x.json").write_text(f'{{"cls": "{file.parent.name}", "place": "n{i}"}}')
                archive.add(file, f"{i:03d}.png")
                archive.add(tmp_path / "x.json", f"{i:03d}.json")
    else:
        with zipfile.ZipFile(folder / kind, "w") as archive:
            for file, ref in zip(files, refs, strict=True):
                archive.write(file, ref)
    there = copied(memory, folder, "data")
    here, far = sources.open_source(str(folder / kind)), sources.open_source(str(there / kind))
    assert len(far) == 6
    assert far.root == "fake://data"
    assert far.image.equals(here.image)
    assert far.classes == here.classes
    assert far.columns.equals(here.columns)
    np.testing.assert_array_equal(far.label, here.label)
    for ref, file in zip(far.image.to_pylist(), files, strict=True):
        assert sources.read(far.root, ref) == file.read_bytes()


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_folder_of_shards_in_storage_is_read_as_these(kind: str, memory: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    photos = sorted(toy.pictures(tmp_path / "photos", 2, 2).rglob("*.png"))
    folder.mkdir()
    for i, file in enumerate(photos):
        shard = folder / f"shard-{i}.{kind}"
        if kind == "tar":
            with tarfile.open(shard, "w") as archive:
                archive.add(file, f"{i}.png")
        else:
            pq.write_table(pa.table({"image": [file.read_bytes()]}), shard)
    (folder / "README.md").write_text("not an image")
    there = copied(memory, folder, "data")
    here, far = sources.open_source(str(folder)), sources.open_source(str(there))
    assert far.image.equals(here.image)
    assert [sources.read(far.root, ref) for ref in far.image.to_pylist()] == [file.read_bytes() for file in photos]


def test_refs_may_lead_anywhere(memory: Any, tmp_path: Path) -> None:
    memory.pipe_file("/far/x.png", b"far")
    memory.pipe_file("/data/in/y.png", b"inside")
    (tmp_path / "z.png").write_bytes(b"here")
    assert sources.read(str(tmp_path), "fake://far/x.png") == b"far"
    assert sources.read("fake://data", "in/y.png") == b"inside"
    assert sources.read("fake://data/in", "../in/./y.png") == b"inside"
    assert sources.read("fake://data", str(tmp_path / "z.png")) == b"here"
    assert sources.read("fake://data", f"file://{tmp_path}/z.png") == b"here"
    with pytest.raises(FileNotFoundError):
        sources.read("fake://data", "none.png")


def test_the_bytes_of_a_row_group_are_read_once_for_all_threads(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"image": [bytes([i]) * 1000 for i in range(64)]})
    pq.write_table(table, tmp_path / "i.parquet", row_group_size=32)
    there = copied(memory, tmp_path, "groups")
    read: list[int] = []
    inside = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, *more: Any, **options: Any) -> Any:
        read.append(group)
        return inside(self, group, *more, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    refs = [f"i.parquet#{i}" for i in range(64)]
    found = list(map_files(lambda ref: sources.read(str(there), ref), refs, there))
    assert found == [bytes([i]) * 1000 for i in range(64)]
    assert sorted(read) == [0, 1]
