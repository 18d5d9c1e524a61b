"""Offers one interface for files on this machine and in object storage. It knows nothing of their content.

A path on this machine is a `pathlib.Path`, one in storage a `RemotePath` with the same methods; `AnyPath` is either.
Only the folder `storage` tells them apart. What is not a method of both is a function here.

An object appears whole or not at all: files are written in `staging_dir`, a folder on this machine, and then published
by one rename or one write.
"""

import contextlib
import errno
import fnmatch
import glob
import hashlib
import io
import math
import os
import posixpath
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote

from predboard.errors import InputError, UnreadableError, first_line
from predboard.parallel.threads import ordered_map
from predboard.storage.file_systems import StorageError, explain_error, is_storage_error
from predboard.storage.remote import MAX_CONNECTIONS, RemotePath

if TYPE_CHECKING:
    from typing_extensions import TypeIs

X = TypeVar("X")
Y = TypeVar("Y")

AnyPath = Path | RemotePath
P = TypeVar("P", bound=AnyPath)
"""A path of either kind; what is derived from it is of the same kind."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
CREDENTIALS_PATTERN = (
    r"(?i)^[a-z][a-z0-9+.-]+://([^/]*@"
    r"|.*[?&]([a-z_]*key|[a-z_-]*token|sig|x-(amz|goog)-(signature|credential|security-token))=)"
)
"""Matches URIs that contain a password, a key or a signature; Arrow understands the pattern as well."""


MAX_READ_GB = 1.0
"""Gigabytes that one piece of a user's data may take in memory, unless the user allows more."""


# --- names ---


def is_uri(text: str) -> bool:
    """Return whether a text is a URI.

    >>> is_uri("s3://bucket/photos"), is_uri("photos/a.jpg"), is_uri("C:/photos")
    (True, False, False)
    """
    return "://" in text and _URI.match(text) is not None


def is_remote(path: AnyPath) -> "TypeIs[RemotePath]":
    """Return whether a path is in object storage, where every access is a request."""
    return isinstance(path, RemotePath)


def is_path(value: object) -> "TypeIs[str | AnyPath]":
    """Return whether a value is a path or the text of one."""
    return isinstance(value, str | Path | RemotePath)


def parse_path(text: str | AnyPath) -> AnyPath:
    """Return the path of a text or a URI; `file://` becomes a local path.

    Raises InputError for a URI that contains a password or a key.

    >>> parse_path("photos/test/"), parse_path("s3://bucket/photos//test/"), parse_path("file:///tmp/my%20photos")
    (PosixPath('photos/test'), RemotePath(uri='s3://bucket/photos/test'), PosixPath('/tmp/my photos'))
    """
    name = str(text)
    if isinstance(text, Path):
        if os.sep == "/" and (match := re.match(r"([A-Za-z0-9+.-]{2,}):/", name)):
            raise InputError(
                f"{name} is a URI that was turned into a Path, which would name a folder {match[0]!r}: pass it as text"
            )
        return text
    if not is_uri(name):
        return Path(name)
    refuse_secrets(name)
    if name.lower().startswith("file://"):
        return Path(unquote(name[len("file://") :]))
    return RemotePath.parse(name)


def refuse_secrets(uri: str) -> None:
    """Raise InputError for a URI that contains a user, a key or a signature, which the predictions would record."""
    if re.match(CREDENTIALS_PATTERN, uri):
        raise InputError(
            f"a {uri.partition('://')[0]}:// URI contains a user, a key or a signature, which would be saved with the "
            "predictions: name only bucket and key; credentials come from the environment, a profile or a role (see "
            "docs/storage.md)"
        )


def join_ref(root: str, ref: str) -> AnyPath:
    """Return the path of an image ref: URIs and absolute paths as they are, everything else inside the root.

    >>> join_ref("s3://bucket/photos", "cat/1.jpg"), join_ref("photos", "/data/1.jpg")
    (RemotePath(uri='s3://bucket/photos/cat/1.jpg'), PosixPath('/data/1.jpg'))
    """
    if is_uri(ref):
        return parse_path(ref)
    return parse_path(root) / ref if is_uri(root) and not ref.startswith("/") else Path(root, ref)


def is_inside(path: AnyPath, folder: AnyPath) -> bool:
    """Return whether a path is the folder or lies in it."""
    path, folder = path.resolve(), folder.resolve()
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.is_relative_to(folder)
    return f"{path}/".startswith(f"{folder}/")


def is_same(path: AnyPath, other: AnyPath) -> bool:
    """Return whether two paths name the same file or folder; symbolic links are followed."""
    if isinstance(path, Path) and isinstance(other, Path):
        with contextlib.suppress(OSError):  # one of them does not exist
            return path.samefile(other)
    return path.resolve() == other.resolve()


def relative_name(path: AnyPath, folder: AnyPath) -> str:
    """Return a name of a path that stays valid when it is moved together with a folder: relative to it if possible.

    `resolve_name` returns the path again.

    >>> relative_name(Path("/data/predictions/net"), Path("/data/logs/net"))
    '../../predictions/net'
    >>> relative_name(parse_path("s3://a/net"), parse_path("s3://b/logs/net"))
    's3://a/net'
    """
    path, folder = path.resolve(), folder.resolve()
    if isinstance(path, Path) and isinstance(folder, Path):
        with contextlib.suppress(ValueError):  # on another drive of Windows
            return Path(os.path.relpath(path, folder)).as_posix()
    if str(path).split("/")[:3] == str(folder).split("/")[:3]:  # in the same bucket
        return posixpath.relpath(str(path), str(folder))
    return str(path)


def resolve_name(name: str, folder: AnyPath) -> AnyPath:
    """Return the path that `relative_name` made a name of."""
    path = parse_path(name)
    if isinstance(path, Path) and not path.is_absolute():
        return (folder.resolve() / name).resolve()
    return path


def expand_glob(name: str) -> list[str]:
    """Return the files on this machine that a pattern with *, ? or [] stands for, sorted; an existing name itself."""
    if is_uri(name) or not re.search(r"[*?[]", name) or Path(name).exists():
        return [name]
    return sorted(glob.glob(name)) or [name]  # noqa: PTH207  Path's takes no absolute pattern


def expand_files(files: Sequence[Path]) -> list[Path]:
    """Return files, and those that patterns among them stand for, which a shell did not expand because of quotes."""
    return [Path(name) for file in files for name in expand_glob(str(file))]


# --- reading ---


_SMALL_BYTES = 2**24
_NO_FILE = "it is a folder, a pipe or a device, and no file"


def _open_regular(name: str, flags: int) -> int:
    try:
        descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise UnreadableError(_NO_FILE) from error
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise UnreadableError(_NO_FILE)


def open_binary(path: AnyPath, piece_bytes: int = 0) -> Any:
    """Open a file for reading at any position; in storage each read, or each piece, is a request.

    Raises UnreadableError for a pipe or a device, which might never end.
    """
    if isinstance(path, Path):
        return open(path, "rb", opener=_open_regular)
    return io.BufferedReader(path.open_raw(), piece_bytes) if piece_bytes else path.open_raw()


def check_size(size: int, most_gb: float) -> None:
    """Raise UnreadableError for more bytes than may be taken into memory at once."""
    if size > most_gb * 1e9:
        raise UnreadableError(f"it takes {size / 1e9:,.1f} GB of memory, more than --max-read-gb {most_gb:g} allows")


def check_regular(path: AnyPath) -> None:
    """Raise UnreadableError for a pipe or a device, which might never end, and OSError if there is no such file."""
    if isinstance(path, Path) and not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise UnreadableError(_NO_FILE)


def read_bytes(path: AnyPath, most_gb: float = math.inf) -> bytes:
    """Return the content of a file. Raises OSError as `open_binary` does, and UnreadableError if it is too large."""
    if is_remote(path):
        return path.read_bytes(lambda size: check_size(size, most_gb))
    with open_binary(path) as file:
        check_size(os.fstat(file.fileno()).st_size, most_gb)
        return bytes(file.read())


def read_small_text(path: AnyPath) -> str:
    """Return the text of a file that a person writes. A pipe may be one, as a shell makes of <(COMMAND).

    Raises OSError, UnicodeDecodeError, and UnreadableError for more than 16 MB, as a device without an end has.
    """
    with io.BufferedReader(path.open_raw()) if isinstance(path, RemotePath) else path.open("rb") as file:
        content = file.read(_SMALL_BYTES + 1)
    if len(content) > _SMALL_BYTES:
        raise UnreadableError(errno.EFBIG, f"it has more than {_SMALL_BYTES:,} bytes")
    return content.decode("utf-8-sig")


def open_tail(path: AnyPath, length: int) -> BinaryIO:
    """Open a file whose end is that of the given file: all of it, or in storage its last `length` bytes."""
    return io.BytesIO(path.read_tail(length)) if is_remote(path) else cast(BinaryIO, open_binary(path))


def list_folder(folder: P, pattern: str) -> list[P]:
    """Return what is in a folder, by a pattern for the names, sorted; nothing if there is no such folder.

    Raises InputError for a folder that may not be listed, which `glob` would take for an empty one.
    """
    try:
        return sorted(cast(P, path) for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot list {folder}: {error.strerror or first_line(error)}") from error


def arrow_source(path: AnyPath, whole: bool = False) -> Any:
    """Return what Arrow's readers accept as a source; `whole` reads an object in storage by one request."""
    if isinstance(path, Path):
        return path.absolute()  # a relative one such as `run:1/step=00000000` would be taken for a URI
    import pyarrow as pa  # only where storage is used: it takes longer than the rest of a command's start

    return pa.BufferReader(path.read_buffer()) if whole else path.open_file()


def open_source(path: AnyPath) -> Any:
    """Open a file for several of Arrow's readers: it stays the same when another file takes its place."""
    import pyarrow as pa

    return pa.OSFile(str(path)) if isinstance(path, Path) else path.open_file()


def check_reachable(path: AnyPath) -> None:
    """Raise StorageError if a path is in a bucket that does not exist or cannot be reached."""
    if isinstance(path, RemotePath):
        path.check_reachable()


def map_files(
    function: Callable[[X], Y], items: Sequence[X], where: AnyPath, threads: int = MAX_CONNECTIONS
) -> Iterator[Y]:
    """Call a function for each item and iterate over the results in order; on several threads if files are remote."""
    if isinstance(where, RemotePath):
        return ordered_map(function, items, min(threads, len(items)))
    return map(function, items)


# --- writing ---


def refuse_link(folder: AnyPath) -> None:
    """Raise InputError if a folder of ours is a symbolic link: whoever made it chose what we would write and delete."""
    if isinstance(folder, Path) and folder.is_symlink():
        raise InputError(
            f"{folder} is a link, and predboard writes and deletes nothing behind one inside its folders: remove it, "
            "or move the folder it leads to here"
        )


def staging_dir(folder: AnyPath) -> Path:
    """Return the folder on this machine where files for `folder` are written and its locks are.

    That is `folder` itself, or for object storage one in the temporary directory.
    """
    if isinstance(folder, Path):
        return folder
    user = os.getuid() if hasattr(os, "getuid") else 0
    mine = Path(tempfile.gettempdir()) / f"predboard-{user}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.lstat().st_uid != user:
        raise InputError(f"{mine}, where files for {folder} are written, belongs to another user: set TMPDIR")
    return mine / hashlib.blake2b(folder.uri.encode(), digest_size=8).hexdigest()


def publish_file(staged: Path, path: AnyPath) -> None:
    """Move a finished file to its final path, by one rename or one write."""
    if isinstance(path, Path):
        staged.replace(path)
        return
    if staged.stat().st_size:
        import pyarrow as pa

        with pa.memory_map(str(staged)) as file:
            path.write_bytes(file.read_buffer())
    else:
        path.write_bytes(b"")
    staged.unlink()


def sync_folder(folder: AnyPath) -> None:
    """Make the renames in a local folder durable; storage needs no such call."""
    if isinstance(folder, Path) and os.name == "posix":  # Windows cannot open folders, and its renames are durable
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_STALE_SECONDS = 60
"""Age from which the staging file of a small file belongs to a process that was killed."""


def write_file(path: AnyPath, content: bytes) -> None:
    """Write a small file whole or not at all. Raises InputError if that is impossible."""
    with explain_write_errors(path.parent):
        if isinstance(path, RemotePath):
            path.write_bytes(content)
            return
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in list_folder(path.parent, f".{glob.escape(path.name)}.????????.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another process has published its own meanwhile
                if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                    stale.unlink()
        try:
            staged.write_bytes(content)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)


def _descriptor(path: Path) -> int | None:
    """Return the open descriptor of this process that a path such as /dev/stdout leads to, if any."""
    for _ in range(40):  # as many links as the kernel follows
        if str(path.parent.resolve()) in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def is_stream(path: Path) -> bool:
    """Return whether a path that a user names is no file to be replaced: a device, a pipe or an open descriptor."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file())


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user names, as `write_file` does: behind a link, and into a stream such as /dev/stdout.

    Only a regular file can be written whole or not at all. Raises InputError if nothing can be written.
    """
    if not is_stream(path):
        write_file(path.resolve(), content)
        return
    with explain_write_errors(path), contextlib.suppress(BrokenPipeError), _open_stream(path) as stream:
        stream.write(content)  # a pipe may be closed by a reader that has read enough


def _open_stream(path: Path) -> BinaryIO:
    descriptor = _descriptor(path)  # opened by its name, a file behind it would be written from its beginning
    return path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb")


def remove_tree(folder: AnyPath) -> None:
    """Delete a folder and everything in it."""
    if isinstance(folder, RemotePath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder)


# --- errors ---


@contextlib.contextmanager
def explain_write_errors(folder: AnyPath) -> Iterator[None]:
    """Turn the operating system's refusal to write into an InputError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error).removeprefix(f"{folder}: ")
        raise InputError(
            f"cannot write to {folder}: {reason}; everything published so far is safe: fix this and run the same "
            "command again"
        ) from error


def storage_fault(path: AnyPath, error: Exception) -> InputError | None:
    """Return the error of the storage, or of the disk, if it is to blame for a failed read; None if the file itself is.

    Arrow raises OSError without a number for a damaged file.
    """
    if isinstance(error, StorageError):
        return error
    if isinstance(error, UnreadableError):
        return InputError(f"cannot read {path}: {error}")
    if isinstance(error, OSError) and error.errno and not is_remote(path):
        return InputError(f"cannot read {path}: {error.strerror}")
    if isinstance(path, RemotePath) and is_storage_error(error):
        return explain_error(path, error)
    return None
