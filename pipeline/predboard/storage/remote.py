"""Speaks to object storage: `RemotePath` offers the methods of `pathlib.Path` that the pipeline calls.

It knows nothing of the content of files. Callers use `storage.paths`, which offers the same for both kinds of path.

pyarrow.fs speaks to S3 and GCS, and through it fsspec to every other kind of storage: another backend is another case
in `_connect`. Credentials come from the environment, from the configuration of the storage's own tools or from the
machine's role, never from a URI.
"""

import contextlib
import datetime
import fnmatch
import functools
import os
import posixpath
import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import fs

from predboard.errors import InputError, first_line

X = TypeVar("X")

MAX_CONNECTIONS = 16
"""Largest number of concurrent requests where many small objects are read."""

MAX_ATTEMPTS = 9
"""Largest number of attempts at a request that is throttled or broken off; the waits between them add up to 13 s."""

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 20.0
"""How long a connection may take to open, and stay silent, before the request is retried."""

UNREACHABLE_SECONDS = 20.0
"""How long a bucket that could not be reached counts as unreachable without another attempt."""


class StorageError(InputError, OSError):
    """Storage that cannot be reached, or that refuses a request. The objects themselves are not damaged."""

    @property
    def reason(self) -> str:
        """The message without the path, the same for every object."""
        return str(self).partition(": ")[2].partition(" (")[0] or str(self)


class FileStat(NamedTuple):
    """The fields of `Path.stat` that object storage knows."""

    st_size: int
    """Bytes."""
    st_mtime: float
    """Seconds since 1970."""

    @property
    def st_mtime_ns(self) -> int:
        """Nanoseconds since 1970."""
        return int(self.st_mtime * 1e9)


@dataclass(frozen=True, order=True, slots=True)
class RemotePath:
    """An object in storage, or a prefix of keys, which acts as a folder.

    Methods raise FileNotFoundError if there is no such object, and StorageError for every other problem.
    """

    uri: str
    """scheme://bucket/key, without a trailing /."""
    listed: FileStat | None = field(default=None, compare=False, repr=False)
    """Size and time, if the path comes from a listing."""

    @classmethod
    def parse(cls, uri: str) -> "RemotePath":
        """Normalise a URI. Raises InputError if it names no bucket, or fsspec's memory."""
        scheme, _, rest = uri.partition("://")
        if scheme.lower() == "memory":
            raise InputError(f"{uri} would end with this process: name a folder or a bucket")
        inside = posixpath.normpath(rest.strip("/"))
        if inside.split("/")[0] in ("..", "."):
            raise InputError(f"{uri} names no bucket; expected a URI such as s3://bucket/folder")
        return cls(f"{scheme.lower()}://{inside}")

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: "str | RemotePath") -> "RemotePath":
        """Return the path of a name inside this folder; a complete path is returned as it is."""
        return name if isinstance(name, RemotePath) else self.parse(f"{self.uri}/{name}")

    @property
    def _inside(self) -> PurePosixPath:
        return PurePosixPath(self.uri.partition("://")[2])

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self._inside.name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self._inside.stem

    @property
    def suffix(self) -> str:
        """The last suffix, with its dot."""
        return self._inside.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket and the parts of the key."""
        return self._inside.parts

    @property
    def parent(self) -> "RemotePath":
        """The folder that contains this path; the parent of a bucket is the bucket."""
        above = self._inside.parent.as_posix()
        return self if above == "." else RemotePath(f"{self.uri.partition('://')[0]}://{above}")

    def with_name(self, name: str) -> "RemotePath":
        """Return the path of another name in the same folder."""
        return self.parent / name

    def resolve(self) -> "RemotePath":
        """Return the path itself, which never depends on a current folder."""
        return self

    # --- what exists ---

    def _info(self) -> fs.FileInfo:
        return self._ask(lambda storage, path: storage.get_file_info(path))

    def exists(self) -> bool:
        """Return whether there is an object of this key, or any inside it."""
        return bool(self._info().type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Return whether there is an object of this key."""
        return bool(self._info().type == fs.FileType.File)

    def is_dir(self) -> bool:
        """Return whether there is any object inside."""
        return bool(self._info().type == fs.FileType.Directory)

    def stat(self) -> FileStat:
        """Return the size and time of the object."""
        if self.listed is not None:
            return self.listed
        info = self._info()
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(2, "No such object", self.uri)
        return _stat(info)

    def iterdir(self) -> Iterator["RemotePath"]:
        """Iterate over the objects and folders directly inside, sorted; the listing is requested page by page."""
        return iter(self._list(recursive=False))

    def walk_files(self) -> list["RemotePath"]:
        """Return all objects inside, at any depth, sorted, by one listing."""
        return self._list(recursive=True)

    def _list(self, recursive: bool) -> list["RemotePath"]:
        def entries(storage: fs.FileSystem, path: str) -> list[tuple[str, fs.FileInfo]]:
            infos = storage.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
            start = len(path.strip("/")) + 1  # some file systems add a / before their paths, or after those of folders
            return [(info.path.strip("/")[start:], info) for info in infos]

        return sorted(
            RemotePath(f"{self.uri}/{name}", _stat(info))
            for name, info in self._ask(entries)
            if name and (not recursive or info.type == fs.FileType.File)
        )

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Iterate over the paths inside that match a pattern, level by level; * and ? work as in a shell."""
        first, _, rest = pattern.partition("/")
        if re.search(r"[*?\[]", first):
            matches = [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first)]
        else:
            matches = [path] if (path := self / first).exists() else []
        for path in matches:
            yield from path.glob(rest) if rest else (path,)

    # --- content ---

    def open_file(self) -> pa.NativeFile:
        """Open the object for reading at any position, with one request for each read."""
        return self._ask(lambda storage, path: storage.open_input_file(path))

    def check_reachable(self) -> None:
        """Raise StorageError if the bucket does not exist or the server does not answer."""
        self._ask(lambda _, __: None)

    def read_buffer(self) -> pa.Buffer:
        """Read the whole object."""

        def read(storage: fs.FileSystem, path: str) -> pa.Buffer:
            with storage.open_input_file(path) as file:
                return file.read_buffer()

        return self._ask(read)

    def read_tail(self, length: int) -> bytes:
        """Read the last `length` bytes, or all if there are fewer."""

        def read(storage: fs.FileSystem, path: str) -> bytes:
            with storage.open_input_file(path) as file:
                size = file.size()
                return bytes(file.read_at(min(length, size), max(size - length, 0)))

        return self._ask(read)

    def read_bytes(self) -> bytes:
        """Read the whole object."""
        return bytes(self.read_buffer())

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read and decode the whole object."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | pa.Buffer) -> None:
        """Write the object whole, replacing any object of this key."""

        def put(storage: fs.FileSystem, path: str) -> fs.FileInfo:
            stream = storage.open_output_stream(path)
            stream.write(content)  # in one call: a stream that is abandoned between two is published as far as it is
            stream.close()
            return storage.get_file_info(path)

        size = content.size if isinstance(content, pa.Buffer) else len(content)
        info = self._ask(put)
        if info.type != fs.FileType.File or info.size != size:
            raise StorageError(f"{self} has {info.size} bytes after {size} were written: run the same command again")

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        try:
            self._ask(lambda storage, path: storage.delete_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Delete all objects inside."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda storage, path: storage.delete_dir(path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder exists as long as there is an object in it."""

    def rmdir(self) -> None:
        """Delete the marker of an empty folder, where the storage has one."""
        self.remove_tree()

    def _ask(self, question: Callable[[fs.FileSystem, str], X]) -> X:
        """Call `question` with the file system and the path in it, and turn problems into StorageError.

        On the main thread the request runs in a helper thread, so that Ctrl-C interrupts the wait at once and never the
        request.
        """
        scheme, _, inside = self.uri.partition("://")
        path = self.uri if scheme in ("http", "https") else inside

        def ask() -> X:
            try:
                return question(_bucket(scheme, inside.partition("/")[0]).file_system(), path)
            except (InputError, FileNotFoundError):
                raise
            except Exception as error:  # fsspec's file systems raise what their libraries do
                raise explain_error(self, error) from error

        if threading.current_thread() is not threading.main_thread():
            return ask()
        answer: Future[X] = Future()
        threading.Thread(target=_resolve, args=(ask, answer), name="predboard", daemon=True).start()
        while True:
            with contextlib.suppress(TimeoutError):
                return answer.result(timeout=1)  # on Windows nothing interrupts a longer wait


def _stat(info: fs.FileInfo) -> FileStat:
    return FileStat(info.size or 0, 0.0 if info.mtime is None else info.mtime.timestamp())


def _resolve(ask: Callable[[], X], answer: "Future[X]") -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:  # raised again by `answer.result`
        answer.set_exception(error)


# --- file systems ---


class _Bucket:
    """A bucket, whose file system is made once for all threads.

    Where that fails, the error is raised for a while without another attempt, so that many callers do not each wait.
    """

    def __init__(self, scheme: str, name: str) -> None:
        self._scheme, self._name = scheme, name
        self._lock = threading.Lock()
        self._connection: fs.FileSystem | Exception = RuntimeError("not connected yet")
        self._retry_at = 0.0
        """`time.monotonic` of the next attempt."""

    def file_system(self) -> fs.FileSystem:
        """Return the file system. Raises StorageError if there is no such bucket, or any error of Arrow and fsspec."""
        with self._lock:
            if isinstance(self._connection, Exception) and time.monotonic() >= self._retry_at:
                try:
                    self._connection = _connect(self._scheme, self._name)
                except Exception as error:  # fsspec's file systems raise what their libraries do
                    self._connection, self._retry_at = error, time.monotonic() + UNREACHABLE_SECONDS
            if isinstance(self._connection, Exception):
                raise self._connection
            return self._connection


@functools.lru_cache(maxsize=64)
def _bucket(scheme: str, name: str) -> _Bucket:
    return _Bucket(scheme, name)


def _connect(scheme: str, bucket: str) -> fs.FileSystem:
    """Make the file system of a scheme: the place to add a storage backend that fsspec does not cover."""
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not endpoint and not region:
            region = fs.resolve_s3_region(bucket)
        storage: fs.FileSystem = fs.S3FileSystem(
            region=region,
            endpoint_override=endpoint,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=SILENCE_SECONDS,
            # With the other strategy, "standard", all threads share one stock of retries, which throttling empties.
            retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            allow_delayed_open=True,  # one request for a small object instead of three
        )
    elif scheme in ("gs", "gcs"):
        storage = fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=30))
    else:
        return fs.PyFileSystem(fs.FSSpecHandler(_fsspec_file_system(scheme)))
    with contextlib.suppress(PermissionError):
        try:
            info = storage.get_file_info(bucket)
        except OSError as error:
            if "ACCESS_DENIED" not in str(error):  # credentials for some keys only may not ask for the bucket
                raise
        else:
            if info.type == fs.FileType.NotFound:
                raise StorageError(f"there is no bucket {bucket!r} in {scheme}://: create it, or check its name")
    return storage


def _fsspec_file_system(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"{scheme}:// needs fsspec: pip install fsspec") from error
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=False)
    except ImportError as error:
        raise InputError(f"{scheme}:// needs another package ({first_line(error)})") from error
    except ValueError as error:
        raise InputError(f"unknown kind of storage {scheme}://: {first_line(error)}") from error


# --- errors ---

_REASONS = (
    (r"NO_SUCH_BUCKET|NoSuchBucket|[Bb]ucket .*not (exist|found)", "there is no such bucket"),
    (
        r"EXPIRED_TOKEN|ExpiredToken|INVALID_ACCESS_KEY|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|"
        r"UNRECOGNIZED_CLIENT|UNAUTHENTICATED|status 401",
        "the credentials are wrong or have expired",
    ),
    (r"OAuth2 access token", "there are no credentials: see GOOGLE_APPLICATION_CREDENTIALS and gcloud auth"),
    (
        r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|Forbidden|status 403",
        "access is denied: are there credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, a role, …), and do they allow this?",
    ),
    (r"SLOW_DOWN|SlowDown|THROTTL|SERVICE_UNAVAILABLE|status (503|429)", "it stays throttled or unavailable"),
    (r"PERMANENT_REDIRECT|PermanentRedirect|status 301", "the bucket is in another region: set AWS_REGION to it"),
    (r"curlCode|NETWORK_CONNECTION|[Cc]onnect|resolve host|UNAVAILABLE|timed? ?out", "it cannot be reached"),
)
_STORAGE_ERROR = re.compile("AWS Error|google::cloud|curlCode|HTTP status")


def is_storage_error(error: Exception) -> bool:
    """Return whether an error of Arrow comes from the storage and not from the content of a file."""
    return _STORAGE_ERROR.search(str(error)) is not None


def explain_error(path: RemotePath, error: Exception) -> StorageError:
    """Return the error as one line that names the path and the most likely reason."""
    message = textwrap.shorten(first_line(error), 300, placeholder=" …")
    searched = re.sub(r"(key|bucket) '[^']*'", "", message)  # without names, which may contain any of the words
    reason = next((words for pattern, words in _REASONS if re.search(pattern, searched)), "")
    return StorageError(f"{path}: {reason} ({message})" if reason else f"{path}: {message}")
