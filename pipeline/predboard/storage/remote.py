"""Speaks to object storage: `RemotePath` offers the methods of `pathlib.Path` that the pipeline calls.

It knows nothing of the content of files. Callers use `storage.paths`, which offers the same for both kinds of path.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import posixpath
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from predboard.errors import InputError, UnreadableError
from predboard.storage import file_systems
from predboard.storage.file_systems import SHORT_READ_PATTERN, StorageError, explain_error, open_bucket

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs

X = TypeVar("X")

MAX_CONNECTIONS = 16
"""Largest number of concurrent requests where many small objects are read."""


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
    def parse(cls, uri: str) -> RemotePath:
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

    def __truediv__(self, name: str | RemotePath) -> RemotePath:
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
    def parent(self) -> RemotePath:
        """The folder that contains this path; the parent of a bucket is the bucket."""
        above = self._inside.parent.as_posix()
        return self if above == "." else RemotePath(f"{self.uri.partition('://')[0]}://{above}")

    def with_name(self, name: str) -> RemotePath:
        """Return the path of another name in the same folder."""
        return self.parent / name

    def resolve(self) -> RemotePath:
        """Return the path itself, which never depends on a current folder."""
        return self

    # --- what exists ---

    def _info(self) -> fs.FileInfo:
        return self._ask(lambda storage, path: storage.get_file_info(path))

    def exists(self) -> bool:
        """Return whether there is an object of this key, or any inside it."""
        return bool(self._info().type.name != "NotFound")

    def is_file(self) -> bool:
        """Return whether there is an object of this key."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Return whether there is any object inside."""
        return bool(self._info().type.name == "Directory")

    def stat(self) -> FileStat:
        """Return the size and time of the object."""
        if self.listed is not None:
            return self.listed
        info = self._info()
        if info.type.name == "NotFound":
            raise FileNotFoundError(2, "No such object", self.uri)
        return _stat(info)

    def iterdir(self) -> Iterator[RemotePath]:
        """Iterate over the objects and folders directly inside, sorted; the listing is requested page by page."""
        return iter(self._list(recursive=False))

    def walk_files(self) -> list[RemotePath]:
        """Return all objects inside, at any depth, sorted, by one listing."""
        return self._list(recursive=True)

    def _list(self, recursive: bool) -> list[RemotePath]:
        from pyarrow import fs  # only where storage is used: it takes longer than the rest of a command's start

        def entries(storage: fs.FileSystem, path: str) -> list[tuple[str, fs.FileInfo]]:
            infos = storage.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
            start = len(path.strip("/")) + 1  # some file systems add a / before their paths, or after those of folders
            return [(info.path.strip("/")[start:], info) for info in infos]

        return sorted(
            RemotePath(f"{self.uri}/{name}", _stat(info))
            for name, info in self._ask(entries)
            if name and (not recursive or info.is_file)
        )

    def glob(self, pattern: str) -> Iterator[RemotePath]:
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
        """Open the object for Arrow's readers, which read large pieces, with one request for each read."""
        return self._ask(lambda storage, path: storage.open_input_file(path))

    def open_raw(self) -> io.RawIOBase:
        """Open the object for reading at any position, with one request for each read, however short."""
        return _RawFile(self)

    def read_from(self, file: pa.NativeFile, length: int, position: int) -> bytes:
        """Read from an open file of this object."""
        return self._ask(lambda _, __: bytes(file.read_at(length, position)))

    def check_reachable(self) -> None:
        """Raise StorageError if the bucket does not exist or the server does not answer."""
        self._ask(lambda _, __: None)

    def read_buffer(self, check_size: Callable[[int], None] = lambda _: None) -> pa.Buffer:
        """Read the whole object; `check_size` is called with its size before."""

        def read(storage: fs.FileSystem, path: str) -> pa.Buffer:
            with storage.open_input_file(path) as file:
                check_size(file.size())
                return file.read_buffer()

        return self._ask(read)

    def read_tail(self, length: int) -> bytes:
        """Read the last `length` bytes, or all if there are fewer."""

        def read(storage: fs.FileSystem, path: str) -> bytes:
            with storage.open_input_file(path) as file:
                size = file.size()
                return bytes(file.read_at(min(length, size), max(size - length, 0)))

        return self._ask(read)

    def read_bytes(self, check_size: Callable[[int], None] = lambda _: None) -> bytes:
        """Read the whole object; `check_size` is called with its size before."""
        return bytes(self.read_buffer(check_size))

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

        size = memoryview(content).nbytes
        info = self._ask(put)
        if not info.is_file or info.size != size:
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

        def ask(attempt: int = 1) -> X:
            try:
                bucket = open_bucket(scheme, inside.partition("/")[0], tuple(os.environ.items()))
                return question(bucket.file_system(), path)
            except (InputError, UnreadableError, FileNotFoundError):
                raise
            except Exception as error:  # fsspec's file systems raise what their libraries do
                if attempt == file_systems.MAX_ATTEMPTS or not SHORT_READ_PATTERN.search(str(error)):
                    raise explain_error(self, error) from error
            time.sleep(0.025 * 2**attempt)
            return ask(attempt + 1)

        if threading.current_thread() is not threading.main_thread():
            return ask()
        answer: Future[X] = Future()
        threading.Thread(target=_resolve, args=(ask, answer), name="predboard", daemon=True).start()
        while True:
            with contextlib.suppress(TimeoutError):
                return answer.result(timeout=1)  # on Windows nothing interrupts a longer wait


class _RawFile(io.RawIOBase):
    """An object, opened for Python. Arrow's own file does not retry reads of a few bytes (see `SHORT_READ_PATTERN`)."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self._file, self._position = path, path.open_file(), 0
        self._size = path._ask(lambda _, __: int(self._file.size()))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._size - self._position), 0)
        if length:
            buffer[:length] = self._path.read_from(self._file, length, self._position)
        self._position += length
        return length

    def close(self) -> None:
        self._file.close()
        super().close()


def _stat(info: fs.FileInfo) -> FileStat:
    return FileStat(info.size or 0, 0.0 if info.mtime is None else info.mtime.timestamp())


def _resolve(ask: Callable[[], X], answer: Future[X]) -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:  # raised again by `answer.result`
        answer.set_exception(error)
