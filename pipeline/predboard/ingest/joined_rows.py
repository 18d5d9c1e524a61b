"""Join the rows of a file of labels to the rows of scores, by the paths of their images. It knows no labels.

Rows are joined by whole paths, else by file names, in any order; in their order where no file names its images.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.manifest import canonical_ref

SHOWN_PAIRS = 3
"""Rows and images that a warning names."""


def canonical_texts(refs: Sequence[str | bytes | None]) -> list[str | None]:
    """Return the one way to write each path, as the lists of `infer` have it."""
    texts = (ref.decode("utf-8", "replace") if isinstance(ref, bytes) else ref for ref in refs)
    return [None if text is None else canonical_ref(str(text)) for text in texts]


def file_name(ref: str) -> str:
    """Return the last part of a path, or of a member of an archive."""
    return re.split(r"[/#]", ref)[-1]


def join_rows(
    file: Path,
    listed: Sequence[str | bytes | None] | None,
    count: int,
    refs: Sequence[str | None],
    log: Callable[[str], None],
) -> NDArray[np.int64]:
    """Return the row of a file for each row here, -1 where it has none, int64 [rows].

    Args:
        file: for messages.
        listed: paths of the images of the file's rows; None if it names none.
        count: number of the file's rows.
        refs: [rows] paths of the images here, None where a row has none.
        log: takes a warning.

    Raises InputError if no image is in both, if a name stands for several images, or, without names, for other rows
    than here.
    """
    if listed is not None and None not in refs:
        theirs = [str(ref) for ref in canonical_texts(listed)]
        if theirs == list(refs):
            return np.arange(len(refs))
        for name_of in (str, file_name):
            by_name = {name_of(ref): row for row, ref in enumerate(theirs)}
            wanted = [name_of(str(ref)) for ref in refs]
            if len(by_name) == len(theirs) and any(name in by_name for name in wanted):
                _refuse_ambiguous(file, dict(zip(refs, wanted, strict=True)))
                return np.array([by_name.get(name, -1) for name in wanted], np.int64)
        twice = next((ref for ref, count in Counter(theirs).items() if count > 1), None)
        why = (
            f"{twice} is in several of its rows" if twice else f"the first row is {refs[0]} here and {theirs[0]} there"
        )
        raise InputError(f"{file} has no labels for these images, or several for one: {why}")
    if count != len(refs):
        raise InputError(f"{file} has {count:,} labels for {len(refs):,} rows of scores; expected one per row")
    if listed is not None:
        first = ", ".join(f"row {row} with {ref}" for row, ref in enumerate(canonical_texts(listed[:SHOWN_PAIRS])))
        log(
            f"warning: the scores do not name their images as {file.name} does, so that order alone joins them: "
            f"{first}: check these"
        )
    return np.arange(len(refs))


def _refuse_ambiguous(file: Path, name_of: Mapping[str | None, str]) -> None:
    """Raise InputError if two images have one name, by which rows are joined."""
    twice = next((name for name, count in Counter(name_of.values()).items() if count > 1), None)
    if twice is not None:
        images = [str(ref) for ref, name in name_of.items() if name == twice]
        raise InputError(
            f"{file} has file names without these folders, and {twice} is the name of several images ({images[0]}, "
            f"{images[1]}): expected the path of each image as the scores have it"
        )
