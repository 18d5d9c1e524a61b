"""An object storage in this process, for tests: fsspec's file system of memory, registered as `fake://`."""

import io
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from predboard.storage.remote import RemotePath


class FakeStorage(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Memory that each reader reads from a position of its own; fsspec's gives all readers the same one."""

    protocol = "fake"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(str(path).removeprefix("fake://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        return super()._open(path, mode, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the content, without an open file in between."""
        try:
            return bytes(self.store[self._strip_protocol(path)].getvalue()[start:end])
        except KeyError as error:
            raise FileNotFoundError(path) from error


fsspec.register_implementation("fake", FakeStorage, clobber=True)


def empty() -> FakeStorage:
    """Return the storage with nothing in it."""
    storage: FakeStorage = fsspec.filesystem("fake")
    storage.store.clear()
    storage.pseudo_dirs[:] = [""]
    return storage


def copied(storage: FakeStorage, folder: Path, to: str) -> RemotePath:
    """Copy a folder with all its files into the storage."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            storage.pipe_file(f"/{to}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return RemotePath(f"fake://{to}")
