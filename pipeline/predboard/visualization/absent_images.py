"""Notes where source images are absent, so that a later command sees whether one has appeared.

It knows nothing of what they show or of what is drawn, and imports neither NumPy nor Arrow.
"""

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

MAX_NAMES = 20_000
"""Images that are noted: to look for them takes a tenth of a second. Where more are absent, none is."""

ANSWER_SECONDS = 20
"""Longest wait for a folder of images, which a network may have to wake up."""

Stamp = tuple[int, int, int, int]
"""Size, time of the last change in nanoseconds, inode and device of a file or folder. One that is written again,
replaced or copied has another one, and so has a folder in which a file has appeared."""


class AbsentPlace(NamedTuple):
    """A folder that is absent, or in which images are."""

    folder: str
    stamp: Stamp | None
    """None if there is no such folder."""
    names: Sequence[str] = ()
    """Files that are not in the folder."""


class AbsentImages(NamedTuple):
    """All places where images are absent."""

    places: Sequence[AbsentPlace] = ()
    asked_from: str = ""
    """The folder in which the command ran, if some of them are relative to it; else empty."""


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """Return the stamp of a file or folder. Raises OSError if there is none."""
    status = os.stat(path)  # noqa: PTH116  a quarter of the time of Path.stat, for hundreds of files
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def note_absent(paths: Iterable[str]) -> AbsentImages | None:
    """Return where files are absent, by their paths on this machine; None if stamps do not tell that.

    They do not tell it of a file that is there, whatever is wrong with it, of a link that leads nowhere, and of more
    than `MAX_NAMES`. Stamps of folders are taken before their files are looked for, so that none appears in between.
    """
    absent = set(paths)
    asked_from = "" if all(map(os.path.isabs, absent)) else os.getcwd()  # noqa: PTH109
    if len(absent) > MAX_NAMES:
        return None
    stamps: dict[str, Stamp | None] = {}
    names: dict[str, list[str]] = {}
    for path in sorted(map(os.path.abspath, absent)):
        folder, name = os.path.split(path)
        while _stamp_of(folder, stamps) is None and _stamp_of(os.path.dirname(folder), stamps) is None:  # noqa: PTH120
            folder = os.path.dirname(folder)  # noqa: PTH120  of a folder that is absent, the one that would be first
        if stamps[folder] is None:
            names[folder] = []
        elif os.path.lexists(path):
            return None
        else:
            names.setdefault(folder, []).append(name)
    return AbsentImages([AbsentPlace(folder, stamps[folder], files) for folder, files in names.items()], asked_from)


def _stamp_of(folder: str, stamps: dict[str, Stamp | None]) -> Stamp | None:
    """Return the stamp of a folder, None without one; each is asked once."""
    if folder not in stamps:
        try:
            stamps[folder] = stamp(folder)
        except (FileNotFoundError, NotADirectoryError):
            stamps[folder] = None
    return stamps[folder]


def are_absent(absent: AbsentImages) -> bool:
    """Return whether nothing has appeared at these places; False if that cannot be told from here.

    That is so in another folder, or if a disk does not answer within `ANSWER_SECONDS`.
    """
    if not absent.places:
        return True
    if absent.asked_from and absent.asked_from != os.getcwd():  # noqa: PTH109
        return False
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(all(map(_is_absent, absent.places))), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answers == [True]


def _is_absent(place: AbsentPlace) -> bool:
    try:
        now = stamp(place.folder)
    except OSError:
        return place.stamp is None
    if place.stamp is None:
        return False
    return now == place.stamp or not any(os.path.lexists(os.path.join(place.folder, name)) for name in place.names)  # noqa: PTH118


def encode_absent(absent: AbsentImages, base: str) -> dict[str, object]:
    """Return places as JSON has them, relative to a folder where both are on one disk."""
    base = os.path.abspath(base)  # noqa: PTH100
    places = [[_relative(place.folder, base), place.stamp, list(place.names)] for place in absent.places]
    return {"places": places, "asked_from": absent.asked_from and _relative(absent.asked_from, base)}


def _relative(folder: str, base: str) -> str:
    try:
        return os.path.relpath(folder, base)
    except ValueError:  # on another drive of Windows
        return folder


def decode_absent(record: Mapping[str, Any], base: str) -> AbsentImages:
    """Return what `encode_absent` encoded. Raises ValueError, TypeError or KeyError for anything else."""
    base = os.path.abspath(base)  # noqa: PTH100
    places = []
    for folder, seen, names in record["places"]:
        before: Stamp | None = None
        if seen is not None:
            size, changed, inode, device = map(int, seen)
            before = size, changed, inode, device
        places.append(AbsentPlace(_absolute(str(folder), base), before, [str(name) for name in names]))
    asked_from = str(record["asked_from"])
    return AbsentImages(places, asked_from and _absolute(asked_from, base))


def _absolute(folder: str, base: str) -> str:
    return os.path.normpath(os.path.join(base, folder))  # noqa: PTH118  links on the way stay what they are
