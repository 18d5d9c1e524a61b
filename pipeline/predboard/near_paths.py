"""Find the path that a person may have meant by one that does not exist. It knows nothing of what files hold."""

import difflib
import itertools
import os
from collections.abc import Callable, Collection
from pathlib import Path

LIKENESS = 0.6
"""Smallest ratio, as in `difflib`, of a name that counts as near: `abd` for `abc`, and `log` for `logs`."""

_MAX_NEAR = 20
"""Near names of which the first of the right kind is named."""

_MAX_NAMES = 10_000
"""Names of a folder that are compared, which takes some 50 ms."""


def did_you_mean_path(
    path: object, accepts: Callable[[Path], bool] = Path.exists, suffixes: Collection[str] = ()
) -> str:
    """Return the end of a message that names the path a person may have meant; nothing if none is near, or for a URI.

    Args:
        path: what was typed. Each of its folders, and its own name, may be mistyped.
        accepts: whether a path is of the kind that is needed.
        suffixes: of which a file must have one, in lower case; without any, a suffix like the one that was typed.
    """
    text = str(path)
    if "://" in text:
        return ""

    def fits(other: Path) -> bool:
        is_kind = other.name.lower().endswith(tuple(suffixes)) if suffixes else _are_suffixes_alike(Path(text), other)
        return accepts(other) and (is_kind or other.is_dir())

    meant = _nearest(Path(text), fits)
    return f"; did you mean {meant}?" if meant is not None else ""


def _are_suffixes_alike(path: Path, other: Path) -> bool:
    """Return whether two files may be of one kind: `.csv` may be mistyped for `.tsv` or `.cvs`, and not for `.pt`.

    What has no suffix, or a number as in `net-1.5`, may be of any kind.
    """
    one, two = (p.suffix[1:].lower() for p in (path, other))
    if not one or not two or one.isdigit() or two.isdigit():
        return True
    return difflib.SequenceMatcher(None, one, two).ratio() >= LIKENESS


def _nearest(path: Path, accepts: Callable[[Path], bool]) -> Path | None:
    at = Path(path.anchor)
    for i, name in enumerate(parts := path.parts[1:] if path.anchor else path.parts):
        try:
            if (at / name).exists():
                near = [name]
            else:
                names = [entry.name for entry in itertools.islice(os.scandir(at), _MAX_NAMES)]
                near = _near_names(name, names)
            is_last = i == len(parts) - 1
            fits = (at / other for other in near if (accepts(at / other) if is_last else (at / other).is_dir()))
            nearest = next(fits, None)
        except (OSError, ValueError):  # a folder that may not be listed, a name that is too long, a zero in it
            return None
        if nearest is None:
            return None
        at = nearest
    return at if path.name else None


def _near_names(name: str, names: list[str]) -> list[str]:
    """Return the names most like another, whatever their case; hidden ones only for a hidden one."""
    lower = {known.lower(): known for known in names if known.startswith(".") <= name.startswith(".")}
    return [lower[near] for near in difflib.get_close_matches(name.lower(), lower, _MAX_NEAR, LIKENESS)]
