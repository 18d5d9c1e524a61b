"""Tells whether refs of images lead into a folder of source images. It reads no image, and knows no predictions."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from predboard.errors import InputError
from predboard.storage.paths import join_ref, parse_path


def names_of_folder(folder: str) -> tuple[str, ...]:
    """Return the absolute paths or the URI of a folder, for `leads_inside`: as it is named, and behind links."""
    try:
        place = parse_path(folder)
    except InputError:  # a URI with a secret in it
        return ()
    return tuple({str(place.absolute()), str(place.resolve())}) if isinstance(place, Path) else (str(place),)


def leads_inside(ref: str, root: str, folder: Sequence[str]) -> bool:
    """Return whether an image ref names something below a folder; a link that lies there may lead anywhere.

    Nothing counts as below the root of a file system.

    Args:
        ref: of an image.
        root: that the ref is relative to.
        folder: its names, from `names_of_folder`.

    >>> [leads_inside(ref, "/data", ["/data"]) for ref in ("a/1.png", "/data/1.png", "../1.png", "/1.png", "s3://b/1.png")]
    [True, True, False, False, False]
    """
    head, slash, name = ref.rpartition("/")
    if name not in ("", ".", "..") and ".." not in head and not set("\\:") & set(name):
        ref = f"{head}{slash}image"  # of all images of a folder the answer is the same
    return _leads_inside(ref, root, tuple(folder))


@functools.lru_cache(1024)  # asking takes a fifth of what decoding a small image does
def _leads_inside(ref: str, root: str, folder: tuple[str, ...]) -> bool:
    try:
        path = join_ref(root, ref)
    except InputError:  # a URI with a secret in it
        return False
    if isinstance(path, Path):
        # Behind a link, x/.. is elsewhere; other links are the user's own, as in a folder of links to a data set.
        path = path.resolve() if ".." in path.parts else path.absolute()
    text, separator = str(path), os.sep if isinstance(path, Path) else "/"
    # The root of a file system ends in the separator: nothing begins with it and another one.
    return any(text.startswith(f"{name}{separator}") for name in folder)
