"""Keeps tags of images in a file of JSON lines beside the logs, which only ever grows. It knows no rows and no HTTP.

A line is one change: `{"time": 1.7e9, "tag": "hard", "on": true, "keys": ["-12", "34"]}`, with the class to relabel to
as `label` where there is one. Keys are texts, because many programs lose digits of such large numbers. Other processes
may append to the same file.
"""

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.storage.mirror import is_mirror

TAGS_FILE = "predboard_tags.jsonl"
"""Name of the file in the log folder."""

RELABEL = "relabel"
"""The tag that may have a class: that which the image should be labelled as."""

MAX_TAG = 64
"""Characters of a tag."""

MAX_UNDO = 100
"""Changes that can be undone."""

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class TagChange:
    """One change: a tag that images got or lost."""

    tag: str
    on: bool
    keys: NDArray[np.int64]  # [images] ascending
    label: str | None = None
    """Class to relabel to; None leaves it as it is, and an empty one is none."""


class Tags:
    """The tags of all images of a log folder."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet; the file need not exist."""
        self.path = path
        self.version = 0
        """Number that changes when the tags do."""
        self._read = 0  # bytes
        self._keys: dict[str, NDArray[np.int64]] = {}
        self._labels: dict[int, str] = {}
        self._undo: list[list[TagChange]] = []
        self._lock = threading.RLock()

    @property
    def read_only(self) -> str:
        """Why tags cannot be written, as a sentence; empty if they can."""
        if is_mirror(self.path.parent):
            return "These logs are in object storage, where tags are read only: copy the log folder here to tag images."
        if not os.access(self.path if self.path.exists() else self.path.parent, os.W_OK):
            return f"{self.path.parent} cannot be written to, so tags are read only."
        return ""

    def refresh(self) -> None:
        """Read what was appended to the file since the last time."""
        with self._lock:
            try:
                size = self.path.stat().st_size
            except OSError:
                size = 0
            if size < self._read:  # another file now
                self._read, self._keys, self._labels = 0, {}, {}
                self.version += 1
            if size == self._read:
                return
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]  # somebody may be writing the last line
            self._read += len(whole)
            for line in whole.splitlines():
                if change := _parse(line):
                    self._apply(change)

    def _apply(self, change: TagChange) -> None:
        before = self._keys.get(change.tag, _NONE)
        self._keys[change.tag] = (np.union1d if change.on else np.setdiff1d)(before, change.keys)
        if change.tag == RELABEL and (change.label is not None or not change.on):
            for key in change.keys.tolist():
                if change.on and change.label:
                    self._labels[key] = change.label
                else:
                    self._labels.pop(key, None)
        self.version += 1

    def counts(self) -> dict[str, int]:
        """Return the number of images of each tag that is in use."""
        self.refresh()
        return {tag: len(keys) for tag, keys in sorted(self._keys.items()) if len(keys)}

    def keys_with(self, tag: str) -> NDArray[np.int64]:
        """Return the images with a tag, or with any if it is empty, as keys in ascending order."""
        self.refresh()
        if tag:
            return self._keys.get(tag, _NONE)
        return np.unique(np.concatenate([_NONE, *self._keys.values()]))

    def of_images(self, keys: NDArray[np.int64]) -> list[list[str]]:
        """Return the tags of each image."""
        self.refresh()
        tags: list[list[str]] = [[] for _ in keys]
        for tag, tagged in sorted(self._keys.items()):
            if len(tagged):
                at = np.minimum(np.searchsorted(tagged, keys), len(tagged) - 1)
                for row in np.flatnonzero(tagged[at] == keys).tolist():
                    tags[row].append(tag)
        return tags

    def label_of(self, key: int) -> str | None:
        """Return the class that an image should be relabelled to, if somebody said so."""
        return self._labels.get(key)

    def change(self, tag: str, on: bool, keys: Sequence[int] | NDArray[np.int64], label: str | None = None) -> int:
        """Give images a tag, or take it from them, and return how many that changed.

        Raises InputError for a tag that cannot be one, or if the file cannot be written.
        """
        check_tag(tag)
        if label is not None and tag != RELABEL:
            raise InputError(f"only the tag {RELABEL} has a class")
        with self._lock:
            self.refresh()
            asked = np.unique(np.asarray(keys, np.int64))
            before = self._keys.get(tag, _NONE)
            tagged = np.isin(asked, before)
            changed = asked if label is not None else asked[~tagged if on else tagged]
            if not len(changed):
                return 0
            change = TagChange(tag, on, changed, label)
            undo = self._inverse(change, before)
            self._append([change])
            self._undo = [*self._undo, undo][-MAX_UNDO:]
            return len(changed)

    def _inverse(self, change: TagChange, before: NDArray[np.int64]) -> list[TagChange]:
        """Return the changes that restore what a change is about to overwrite."""
        if not change.on:
            labelled = [(k, self._labels[k]) for k in change.keys.tolist() if k in self._labels]
            labels = labelled if change.tag == RELABEL else []
            others = change.keys[~np.isin(change.keys, [k for k, _ in labels])]
            again = [TagChange(change.tag, True, np.array([key], np.int64), name) for key, name in labels]
            return again + ([TagChange(change.tag, True, others)] if len(others) else [])
        was = np.isin(change.keys, before)
        undo = [TagChange(change.tag, False, change.keys[~was])] if (~was).any() else []
        if change.label is not None:
            undo += [
                TagChange(change.tag, True, np.array([key], np.int64), self._labels.get(key, ""))
                for key in change.keys[was].tolist()
            ]
        return undo

    def undo(self) -> TagChange | None:
        """Undo the last change that was made here, and return what was done; None if there is none left."""
        with self._lock:
            if not self._undo:
                return None
            changes = self._undo[-1]
            self._append(changes)
            self._undo.pop()
            keys = np.concatenate([_NONE, *(change.keys for change in changes)])
            return TagChange(changes[0].tag, changes[0].on, keys)

    def _append(self, changes: Sequence[TagChange]) -> None:
        lines = b"".join(_format(change) for change in changes)
        try:
            with self.path.open("ab") as file:
                if file.tell() and not _ends_line(self.path):
                    lines = b"\n" + lines  # after the line of somebody who was interrupted
                file.write(lines)
        except OSError as error:
            raise InputError(f"cannot write tags to {self.path}: {error.strerror}") from error
        self.refresh()


def check_tag(tag: str) -> None:
    """Raise InputError if a text cannot be a tag."""
    if not 1 <= len(tag) <= MAX_TAG or not tag.isprintable() or "," in tag or tag.startswith("!") or tag != tag.strip():
        raise InputError(
            f"{tag[:MAX_TAG]!r} cannot be a tag: expected 1 to {MAX_TAG} printable characters without a comma, not "
            "beginning with !"
        )


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _format(change: TagChange) -> bytes:
    line: dict[str, Any] = {"time": round(time.time(), 3), "tag": change.tag, "on": change.on}
    if change.label is not None:
        line["label"] = change.label
    line["keys"] = list(map(str, change.keys.tolist()))
    return json.dumps(line).encode("ascii") + b"\n"


def _parse(line: bytes) -> TagChange | None:
    """Return the change of a line; None for a line that is none, as an interrupted write leaves behind."""
    try:
        record = json.loads(line)
        keys = np.unique(np.array([int(key) for key in record["keys"]], np.int64))
        tag, label = str(record["tag"]), record.get("label")
        check_tag(tag)
        return TagChange(tag, bool(record["on"]), keys, None if label is None else str(label))
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError, InputError):
        return None
