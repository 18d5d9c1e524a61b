"""Folders of each kind of storage: on this machine, a fake one in this process, and a server that speaks S3.

The server refuses every request the first time, so that what holds on disk holds over a bad network as well.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from predboard.storage import file_systems
from predboard.storage.paths import AnyPath
from predboard.storage.remote import RemotePath
from tests import fake_storage

KEY = "AKIATESTKEYOFNOBODY"
BUCKET = "predboard-tests"

S3 = pytest.param("s3", marks=pytest.mark.s3)


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test alone, in which files for storage are written."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A server that speaks S3 and fails on demand."""
    from tests.object_storage import Server  # which imports moto

    server = Server()
    yield server
    server.close()


@pytest.fixture
def bucket(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemotePath]:
    """An empty bucket, and the environment that leads to it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": f"secret of {KEY}",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    server.client.create_bucket(Bucket=BUCKET)
    file_systems.open_bucket.cache_clear()
    yield RemotePath(f"s3://{BUCKET}")
    file_systems.open_bucket.cache_clear()
    keys = list(server.keys(BUCKET))
    for at in range(0, len(keys), 1000):
        server.client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys[at : at + 1000]]})


def _empty_folder(kind: str, request: pytest.FixtureRequest) -> AnyPath:
    if kind == "s3":
        from tests.object_storage import each_is_refused_once

        root: RemotePath = request.getfixturevalue("bucket")
        faults = request.getfixturevalue("server").watched(each_is_refused_once)
        faults.__enter__()
        request.addfinalizer(lambda: faults.__exit__(None, None, None))
        return root / "folder"
    if kind == "fake":
        fake_storage.empty()
        return RemotePath("fake://folder")
    path: Path = request.getfixturevalue("tmp_path")
    return path / "folder"


@pytest.fixture(params=["local", "fake", S3])
def anywhere(request: pytest.FixtureRequest) -> AnyPath:
    """An empty folder in each kind of storage."""
    return _empty_folder(request.param, request)


@pytest.fixture(params=["fake", S3])
def remote_folder(request: pytest.FixtureRequest) -> RemotePath:
    """An empty folder in each kind of object storage."""
    folder = _empty_folder(request.param, request)
    assert isinstance(folder, RemotePath)
    return folder
