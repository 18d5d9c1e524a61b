"""Files on this machine and in storage by the same names; runs, logs and images in storage are those on disk."""

import ast
import os
import pickle
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import predboard
from predboard import (
    InferConfig,
    InputError,
    VisualizeConfig,
    infer,
    open_predictions,
)
from predboard.cli import main
from predboard.gating.rules import read_rules
from predboard.images import loader, sources
from predboard.images.class_names import read_classes
from predboard.metrics.class_groups import read_class_groups
from predboard.storage import file_systems, paths
from predboard.storage.file_systems import StorageError
from predboard.storage.paths import AnyPath, is_inside, parse_path, staging_dir, storage_fault
from predboard.storage.remote import RemotePath
from tests import fake_storage, toy


@pytest.fixture
def memory() -> Iterator[fake_storage.FakeStorage]:
    """Object storage in this process, empty."""
    yield fake_storage.empty()
    fake_storage.empty()


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
    monkeypatch.setattr(file_systems, "MAX_ATTEMPTS", 1)
    with pytest.raises(InputError, match=expected) as refused:
        open_predictions(uri)
    assert len(str(refused.value).splitlines()) == 1
    file = parse_path(f"{uri}/file")
    for read in (read_classes, partial(read_rules, directions={}), partial(read_class_groups, classes=("a", "b"))):
        with pytest.raises(InputError, match=expected) as refused:
            read(file)
        assert str(refused.value).count(uri) <= 1
        assert "--suggest >" not in str(refused.value)


def test_a_program_that_sets_credentials_connects_with_them(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/base/x", b"content")
    allowed = file_systems._connect

    def connect(scheme: str, bucket: str) -> Any:
        if "FAKE_KEY" not in os.environ:
            raise PermissionError("ACCESS_DENIED")
        return allowed(scheme, bucket)

    monkeypatch.setattr(file_systems, "_connect", connect)
    with pytest.raises(StorageError, match="access is denied"):
        RemotePath("fake://base/x").read_bytes()
    monkeypatch.setenv("FAKE_KEY", "mine")
    assert RemotePath("fake://base/x").read_bytes() == b"content"


def test_a_part_that_cannot_be_put_leaves_nothing(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = toy.pictures(tmp_path / "photos", 3, 4), RemotePath("fake://out/run")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "no")

    monkeypatch.setattr(type(memory), "_open", refuse)
    with pytest.raises(InputError, match=r"cannot write to fake://out/run.*published so far is safe"):
        infer(InferConfig(str(photos), toy.model_file(tmp_path), out=out))
    monkeypatch.undo()
    assert memory.find("/out/run") == []
    assert not list(staging_dir(out).rglob("*.tmp"))


def test_writers_of_one_small_file_do_not_stumble_over_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares of one run write the report of the same preflight: one lists the other's file before it is published."""
    place, other, old = (tmp_path / name for name in ("a.json", ".a.json.01234567.tmp", ".a.json.89abcdef.tmp"))
    old.touch()
    os.utime(old, (1, 1))
    real = paths.list_folder

    def published_meanwhile(folder: Path, pattern: str) -> list[Path]:
        other.touch()
        listed = real(folder, pattern)
        other.rename(place)
        return listed

    monkeypatch.setattr(paths, "list_folder", published_meanwhile)
    paths.write_file(place, b"{}")
    assert place.read_bytes() == b"{}"
    assert list(tmp_path.glob("*.json*")) + list(tmp_path.glob(".a*")) == [place]


def test_only_the_folder_storage_tells_the_kinds_of_path_apart() -> None:
    package = Path(predboard.__file__).parent
    for file in package.rglob("*.py"):
        if file.parent.name == "storage":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                names = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                assert not names & {"Path", "RemotePath"}, f"{file}:{node.lineno}"
