"""Tells whether refs of images lead into a folder of source images. It reads no image, and knows no predictions."""

import functools
import os
from pathlib import Path

from predboard.errors import InputError
from predboard.storage.paths import join_ref, parse_path

_REMEMBERED = 1024
"""Answers that a folder remembers: asking takes a fifth of what decoding a small image does."""


class SourceFolder:
    """The root of source images. It remembers its answers, so it must not outlive the command that asks.

    >>> data = SourceFolder("/data")
    >>> [data.contains(ref) for ref in ("a/1.png", "/data/1.png", "../1.png", "/1.png", "s3://b/1.png")]
    [True, True, False, False, False]
    """

    def __init__(self, root: str) -> None:
        """Find the absolute paths or the URI of the folder: as it is named, and behind links."""
        self._root, self._names = root, _names_of(root)
        self._contains = functools.lru_cache(_REMEMBERED)(self._find)

    def contains(self, ref: str) -> bool:
        """Return whether the ref of an image names something below the folder.

        A link that lies there may lead anywhere. Nothing counts as below the root of a file system.
        """
        head, slash, name = ref.rpartition("/")
        if name not in ("", ".", "..") and ".." not in head and not set("\\:") & set(name):
            ref = f"{head}{slash}image"  # of all images of a folder the answer is the same
        return self._contains(ref)

    def _find(self, ref: str) -> bool:
        try:
            path = join_ref(self._root, ref)
        except InputError:  # a URI with a secret in it
            return False
        if isinstance(path, Path):
            # Behind a link, x/.. is elsewhere; other links are the user's own, as in a folder of links to a data set.
            path = path.resolve() if ".." in path.parts else path.absolute()
        text, separator = str(path), os.sep if isinstance(path, Path) else "/"
        # The root of a file system ends in the separator: nothing begins with it and another one.
        return any(text.startswith(f"{name}{separator}") for name in self._names)


def _names_of(folder: str) -> tuple[str, ...]:
    try:
        place = parse_path(folder)
    except InputError:  # a URI with a secret in it
        return ()
    return tuple({str(place.absolute()), str(place.resolve())}) if isinstance(place, Path) else (str(place),)
