"""Where files are, on this machine or in object storage, by the same names. Knows nothing of what is in them.

A place on this machine is a `pathlib.Path`; one in storage is a `RemotePath`, which has those methods of a path that
the
pipeline calls. pyarrow.fs speaks to S3 and GCS, and through it fsspec to all other storage.

An object appears whole or not at all: it is made in the `staging_dir`, a folder on this machine, and then put under its
final key by one write. Credentials come from the environment, from the files of the storage's own tools or from the
machine's role, never from a URI.
"""

import contextlib
import datetime
import fnmatch
import functools
import hashlib
import io
import os
import posixpath
import re
import shutil
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from predboard.errors import InputError, first_line

X = TypeVar("X")

MAX_CONNECTIONS = 16
"""Requests at a time, at most, where many small things are asked for."""

MAX_ATTEMPTS = 9
"""Of a request that is throttled or broken off; the waits between them double and are 13 seconds together."""

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 20.0
"""Seconds that a connection may take, and that it may say nothing, before the request is tried again."""

UNREACHABLE_SECONDS = 20.0
"""Seconds for which a bucket counts as out of reach after it was."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
CREDENTIAL_KEYS = (
    r"(?i)^[a-z][a-z0-9+.-]+://([^/]*@"
    r"|.*[?&]([a-z_]*key|[a-z_-]*token|sig|x-(amz|goog)-(signature|credential|security-token))=)"
)
"""What a URI with a password, a key or a signature in it matches, also as Arrow reads it."""


class StorageError(InputError, OSError):
    """Storage that cannot be reached or refuses: one line for the user. Nothing is wrong with what is in it."""

    @property
    def reason(self) -> str:
        """The same words wherever it is."""
        return str(self).partition(": ")[2].partition(" (")[0] or str(self)


class FileStat(NamedTuple):
    """What `Path.stat` says, as far as storage knows it."""

    st_size: int
    st_mtime: float

    @property
    def st_mtime_ns(self) -> int:
        """The time in nanoseconds."""
        return int(self.st_mtime * 1e9)


@dataclass(frozen=True, order=True, slots=True)
class RemotePath:
    """An object in storage, or what its key begins with, as a folder. What does not exist is a FileNotFoundError, and
    all other trouble a StorageError.
    """

    uri: str
    """scheme://bucket/key, without a / at its end."""
    known: FileStat | None = field(default=None, compare=False, repr=False)
    """From the listing that it was found by."""

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: "str | RemotePath") -> "RemotePath":
        """The place inside; of one that is complete, that one."""
        return name if isinstance(name, RemotePath) else _remote(f"{self.uri}/{name}")

    @property
    def _inside(self) -> PurePosixPath:
        return PurePosixPath(self.uri.partition("://")[2])

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self._inside.name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self._inside.stem

    @property
    def suffix(self) -> str:
        """Last suffix, with its dot."""
        return self._inside.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket, and the parts of the key."""
        return self._inside.parts

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in; the bucket is its own."""
        above = self._inside.parent.as_posix()
        return self if above == "." else RemotePath(f"{self.uri.partition('://')[0]}://{above}")

    def with_name(self, name: str) -> "RemotePath":
        """Beside it."""
        return self.parent / name

    def as_posix(self) -> str:
        """The URI."""
        return self.uri

    def resolve(self) -> "RemotePath":
        """Itself: it depends on no current folder."""
        return self

    # --- what is there ---

    def _info(self) -> fs.FileInfo:
        return self._ask(lambda storage, path: storage.get_file_info(path))

    def exists(self) -> bool:
        """Whether there is an object of this key, or any inside."""
        return bool(self._info().type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        return bool(self._info().type == fs.FileType.File)

    def is_dir(self) -> bool:
        """Whether there is any object inside."""
        return bool(self._info().type == fs.FileType.Directory)

    def stat(self) -> FileStat:
        """Size and time of the object."""
        if self.known is not None:
            return self.known
        info = self._info()
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(2, "No such object", self.uri)
        return _stat(info)

    def iterdir(self) -> Iterator["RemotePath"]:
        """Objects and folders right inside, sorted; the listing is taken page by page."""
        return iter(self._listed(recursive=False))

    def walk(self) -> list["RemotePath"]:
        """All objects inside, at any depth, sorted; one listing, page by page."""
        return self._listed(recursive=True)

    def _listed(self, recursive: bool) -> list["RemotePath"]:
        def inside(storage: fs.FileSystem, path: str) -> list[tuple[str, fs.FileInfo]]:
            found = storage.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
            start = len(path.strip("/")) + 1  # some begin their paths with a /, and end those of folders so
            return [(info.path.strip("/")[start:], info) for info in found]

        return sorted(
            RemotePath(f"{self.uri}/{name}", _stat(info))
            for name, info in self._ask(inside)
            if name and (not recursive or info.type == fs.FileType.File)
        )

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Places inside whose names match, level by level; * and ? as in a shell."""
        first, _, rest = pattern.partition("/")
        if re.search(r"[*?\[]", first):
            found = [place for place in self.iterdir() if fnmatch.fnmatchcase(place.name, first)]
        else:
            found = [place] if (place := self / first).exists() else []
        for place in found:
            yield from place.glob(rest) if rest else (place,)

    # --- content ---

    def open_file(self) -> pa.NativeFile:
        """The object for reading anywhere in it, one request for each read."""
        return self._ask(lambda storage, path: storage.open_input_file(path))

    def open_pieces(self, size: int) -> io.BufferedReader:
        """The object for reading anywhere in it, so many bytes by a request."""
        return io.BufferedReader(self.open_file(), size)

    def reach(self) -> None:
        """Raise StorageError if its bucket is not there or nobody answers."""
        self._ask(lambda _, __: None)

    def read_buffer(self) -> pa.Buffer:
        """All of the object."""

        def read(storage: fs.FileSystem, path: str) -> pa.Buffer:
            with storage.open_input_file(path) as file:
                return file.read_buffer()

        return self._ask(read)

    def read_end(self, length: int) -> bytes:
        """The last bytes, all where there are fewer."""

        def read(storage: fs.FileSystem, path: str) -> bytes:
            with storage.open_input_file(path) as file:
                size = file.size()
                return bytes(file.read_at(min(length, size), max(size - length, 0)))

        return self._ask(read)

    def read_bytes(self) -> bytes:
        """All of the object."""
        return bytes(self.read_buffer())

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of the object, decoded."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | pa.Buffer) -> None:
        """Put an object, whole, in place of what has this key."""

        def put(storage: fs.FileSystem, path: str) -> fs.FileInfo:
            stream = storage.open_output_stream(path)
            stream.write(content)  # all at once: a stream that is given up in between is published as far as it is
            stream.close()
            return storage.get_file_info(path)

        size = content.size if isinstance(content, pa.Buffer) else len(content)
        found = self._ask(put)
        if found.type != fs.FileType.File or found.size != size:
            raise StorageError(f"{self} was written with {size} bytes and has {found.size}: run the same command again")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._ask(lambda storage, path: storage.delete_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Remove all objects inside."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda storage, path: storage.delete_dir(path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as long as something is in it."""

    def rmdir(self) -> None:
        """Remove what marks an empty folder, where there is such a mark."""
        self.rmtree()

    def _ask(self, question: Callable[[fs.FileSystem, str], X]) -> X:
        """What storage says to a question of a file system and the path in it. Trouble becomes one line.

        The main thread lets another ask, and waits: Ctrl-C ends the waiting at once, and never comes in between.
        """
        scheme, _, inside = self.uri.partition("://")
        path = self.uri if scheme in ("http", "https") else inside

        def ask() -> X:
            try:
                return question(_storage(scheme, inside.partition("/")[0]).file_system(), path)
            except (InputError, FileNotFoundError):
                raise
            except Exception as error:  # fsspec's file systems raise what their libraries do
                raise _explained(self, error) from error

        if threading.current_thread() is not threading.main_thread():
            return ask()
        answer: Future[X] = Future()
        threading.Thread(target=_answered, args=(ask, answer), name="predboard", daemon=True).start()
        while True:
            with contextlib.suppress(TimeoutError):
                return answer.result(timeout=1)  # on Windows nothing interrupts a longer wait


AnyPath = Path | RemotePath
P = TypeVar("P", bound=AnyPath)
"""A place of either kind, and what is made of it is of the same."""


def is_in_memory(place: AnyPath | str) -> bool:
    """Whether what is there is in the memory of this process, which no other one sees and which ends with it.

    >>> is_in_memory("memory://runs/net"), is_in_memory("s3://runs/net"), is_in_memory("memory")
    (True, False, False)
    """
    return str(place).startswith("memory://")


def is_uri(text: str) -> bool:
    """Whether this names its storage.

    >>> is_uri("s3://bucket/photos"), is_uri("photos/a.jpg"), is_uri("C:/photos")
    (True, False, False)
    """
    return "://" in text and _URI.match(text) is not None


def parse_path(text: "str | Path | RemotePath") -> AnyPath:
    """The place of a path or a URI; `file://` is a path. Raises InputError for a URI with a password or a key in it.

    >>> parse_path("photos/test/"), parse_path("s3://bucket/photos//test/"), parse_path("file:///tmp/my%20photos")
    (PosixPath('photos/test'), RemotePath(uri='s3://bucket/photos/test'), PosixPath('/tmp/my photos'))
    """
    name = str(text)
    if isinstance(text, RemotePath):
        refuse_secrets(name)
        return _remote(name)
    if isinstance(text, Path):
        if os.sep == "/" and (found := re.match(r"([A-Za-z0-9+.-]{2,}):/", name)):
            raise InputError(f"{name} was a URI and is a Path now, which names a folder {found[0]!r}: give it as text")
        return text
    if not is_uri(name):
        return Path(name)
    refuse_secrets(name)
    return Path(unquote(name[len("file://") :])) if name.lower().startswith("file://") else _remote(name)


def refuse_secrets(uri: str) -> None:
    """Raise InputError for a URI with a user, a key or a signature in it: it would be in the predictions."""
    if re.match(CREDENTIAL_KEYS, uri):
        raise InputError(
            f"a URI of {uri.partition('://')[0]}:// holds a user, a key or a signature, which the predictions would "
            "keep: name bucket and key alone; credentials come from the environment, a profile or a role (see "
            "docs/storage.md)"
        )


def _remote(uri: str) -> RemotePath:
    scheme, _, rest = uri.partition("://")
    inside = posixpath.normpath(rest.strip("/"))
    if inside.split("/")[0] in ("..", "."):
        raise InputError(f"{uri} names no bucket; expected a URI such as s3://bucket/folder")
    return RemotePath(f"{scheme.lower()}://{inside}")


def is_inside(place: AnyPath, folder: AnyPath) -> bool:
    """Whether a place is this folder or lies in it."""
    here, there = place.resolve(), folder.resolve()
    if isinstance(here, Path) and isinstance(there, Path):
        return here.is_relative_to(there)
    return f"{here}/".startswith(f"{there}/")


def staging_dir(place: AnyPath) -> Path:
    """Where the files of a folder are made and its locks are: the folder itself, or for storage one on this machine."""
    if isinstance(place, Path):
        return place
    user = os.getuid() if hasattr(os, "getuid") else 0
    mine = Path(tempfile.gettempdir()) / f"predboard-{user}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.lstat().st_uid != user:
        raise InputError(f"{mine}, where files for {place} are made, belongs to another user: set TMPDIR")
    return mine / hashlib.blake2b(place.uri.encode(), digest_size=8).hexdigest()


def publish_file(aside: Path, place: AnyPath) -> None:
    """Put a finished file in its place, by one rename or one write; it is not `aside` any more."""
    if isinstance(place, Path):
        aside.replace(place)
        return
    if aside.stat().st_size:
        with pa.memory_map(str(aside)) as file:
            place.write_bytes(file.read_buffer())
    else:
        place.write_bytes(b"")
    aside.unlink()


def arrow_source(place: AnyPath, whole: bool = False) -> Any:
    """What Arrow's readers read from; of an object that is read `whole`, its content by one request."""
    if isinstance(place, Path):
        return place
    return pa.BufferReader(place.read_buffer()) if whole else place.open_file()


def remove_tree(place: AnyPath) -> None:
    """Remove a folder with all that is in it."""
    if isinstance(place, RemotePath):
        place.rmtree()
    else:
        shutil.rmtree(place)


# --- who speaks to storage ---


def _answered(ask: Callable[[], X], answer: "Future[X]") -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:  # it is raised where the answer is waited for
        answer.set_exception(error)


class _Storage:
    """A bucket: its file system is made once for all threads. Where that is impossible, nobody tries again for a while,
    so that the many who ask need not all wait.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        self._of = scheme, bucket
        self._lock = threading.Lock()
        self._found: fs.FileSystem | Exception = RuntimeError("not looked for")
        self._again = 0.0
        """When to look again, as `time.monotonic` has it."""

    def file_system(self) -> fs.FileSystem:
        """What speaks to it. Raises whatever Arrow or fsspec raise, and StorageError if there is no such bucket."""
        with self._lock:
            if isinstance(self._found, Exception) and time.monotonic() >= self._again:
                try:
                    self._found = _file_system(*self._of)
                except Exception as error:  # fsspec's file systems raise what their libraries do
                    self._found, self._again = error, time.monotonic() + UNREACHABLE_SECONDS
            if isinstance(self._found, Exception):
                raise self._found
            return self._found


@functools.lru_cache(maxsize=64)
def _storage(scheme: str, bucket: str) -> _Storage:
    return _Storage(scheme, bucket)


def _file_system(scheme: str, bucket: str) -> fs.FileSystem:
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
            # Of the other strategy, "standard", all threads share a stock of retries, which throttling empties.
            retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
            allow_delayed_open=True,  # one request for a small object, not three
        )
    elif scheme in ("gs", "gcs"):
        storage = fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=30))
    else:
        kind = _Memory if scheme == "memory" else fs.FSSpecHandler
        return fs.PyFileSystem(kind(_by_fsspec(scheme)))
    with contextlib.suppress(PermissionError):
        try:
            found = storage.get_file_info(bucket)
        except OSError as error:
            if "ACCESS_DENIED" not in str(error):  # who may only read some keys may not ask for the bucket
                raise
        else:
            if found.type == fs.FileType.NotFound:
                raise StorageError(f"there is no bucket {bucket!r} in {scheme}://: make it, or check its name")
    return storage


class _Memory(fs.FSSpecHandler):  # type: ignore[misc]  # Arrow has no types
    """fsspec's memory, which gives all readers of a file one and the same place in it; here each has its own."""

    def open_input_file(self, path: str) -> pa.NativeFile:
        """The file as it is now."""
        return pa.BufferReader(self.fs.cat_file(path))


def _by_fsspec(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"{scheme}:// needs fsspec: pip install fsspec") from error
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=False)
    except ImportError as error:
        raise InputError(f"{scheme}:// needs another package ({first_line(error)})") from error
    except ValueError as error:
        raise InputError(f"{scheme}:// is not known: {first_line(error)}") from error


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
        "access is denied: are there credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, a role, …), and may they do this?",
    ),
    (r"SLOW_DOWN|SlowDown|THROTTL|SERVICE_UNAVAILABLE|status (503|429)", "it is throttled or unavailable, for long"),
    (r"PERMANENT_REDIRECT|PermanentRedirect|status 301", "the bucket is in another region: set AWS_REGION to that one"),
    (r"curlCode|NETWORK_CONNECTION|[Cc]onnect|resolve host|UNAVAILABLE|timed? ?out", "it cannot be reached"),
)
_OF_STORAGE = re.compile("AWS Error|google::cloud|curlCode|HTTP status")


def storage_fault(place: AnyPath, error: Exception) -> StorageError | None:
    """What to say where the storage is to blame, and not what is in the file; None otherwise."""
    if isinstance(error, StorageError):
        return error
    if isinstance(place, RemotePath) and _OF_STORAGE.search(str(error)):
        return _explained(place, error)
    return None


def _explained(place: RemotePath, error: Exception) -> StorageError:
    said = textwrap.shorten(first_line(error), 300, placeholder=" …")
    about = re.sub(r"(key|bucket) '[^']*'", "", said)  # whose names may be any words
    reason = next((words for pattern, words in _REASONS if re.search(pattern, about)), "")
    return StorageError(f"{place}: {reason} ({said})" if reason else f"{place}: {said}")


def _stat(info: fs.FileInfo) -> FileStat:
    return FileStat(info.size or 0, 0.0 if info.mtime is None else info.mtime.timestamp())
