"""Reads groups of classes from a table: the classes of one land cover, one genus, one kind of vehicle.

It knows nothing of predictions. A table has a column of class names, and one for each level of groups; its header names
the levels:

    class,genus,family
    tabby cat,Felis,Felidae
    lion,Panthera,Felidae
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError, first_line
from predboard.formatting import did_you_mean, plural
from predboard.near_paths import did_you_mean_path
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.storage.file_systems import StorageError
from predboard.storage.paths import AnyPath, read_small_text

ALL_LEVELS = "all"
"""Stands for all levels together in the name of a metric; no level has this name."""

_SHOWN = 12
"""Classes that a message lists."""


@dataclass(frozen=True)
class GroupLevel:
    """One division of all classes into groups."""

    name: str
    groups: tuple[str, ...]
    """Names, in the order of the table; a class without a group is one of its own, behind them."""
    group_of: tuple[int, ...]
    """For each class the index of its group."""

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """[classes] `group_of` as an array."""
        return np.array(self.group_of, np.int64)

    def refines(self, other: "GroupLevel") -> bool:
        """Return whether all classes of a group are in one group of another level."""
        pairs = set(zip(self.group_of, other.group_of, strict=True))
        return len(pairs) == len(self.groups)


@dataclass(frozen=True)
class ClassGroups:
    """All levels of groups, those with the most groups first."""

    levels: tuple[GroupLevel, ...]
    alone: int = 0
    """Classes that the table does not name, or leaves without any group."""

    @cached_property
    def nested(self) -> bool:
        """Whether each level refines the next one, so that classes and levels are a tree."""
        return all(a.refines(b) for a, b in zip(self.levels, self.levels[1:], strict=False))

    def heights(self, true: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many levels up two classes meet, [...]: 0 for one class, `levels + 1` where no group has both.

        Args:
            true: [...] classes.
            predicted: [...] classes.
        """
        height: NDArray[np.int64] = np.asarray(true != predicted).astype(np.int64)
        for level in self.levels:
            height = height + (level.place[true] != level.place[predicted])
        return height


NO_GROUPS = ClassGroups(())
"""No level at all."""


def groups_of(path: AnyPath | None, run: Run, classes: Sequence[str] = ()) -> ClassGroups:
    """Return the groups of a run's classes, or of `classes`, from the file that the user names; none without a file.

    Raises InputError as `read_class_groups` does, and for a run of several labels, which has no confusions of classes.
    """
    if path is None:
        return NO_GROUPS
    if run.task == MULTI_LABEL:
        raise InputError(
            "--groups is for one label per image: with several, mistakes are not pairs of classes; leave it out"
        )
    return read_class_groups(path, classes or run.classes)


def read_class_groups(path: AnyPath, classes: Sequence[str]) -> ClassGroups:
    """Read the groups of a run's classes from a table of text, separated by commas, semicolons or tabs.

    Args:
        path: of the table.
        classes: names of the run's classes.

    Raises:
        InputError: if the file cannot be read, has no levels, or names a class twice or one that the run does not have.
    """
    try:
        text = read_small_text(path)
    except StorageError:
        raise
    except OSError as error:
        near = did_you_mean_path(path, Path.is_file) if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"cannot read {path}: {error.strerror or first_line(error)}{near}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    table = [[" ".join(cell.split()) for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    rows = [row for row in table if any(row)]
    levels = rows[0][1:] if rows else []
    _check_levels(path, levels)
    named: dict[str, list[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(levels) + 1:
            raise InputError(f"row {number} of {path} has {len(row)} cells; expected at most {len(levels) + 1}")
        if row[0] in named:
            raise InputError(f"{path} names the class {row[0]!r} twice: leave one out")
        named[row[0]] = row[1:] + [""] * (len(levels) + 1 - len(row))
    if unknown := [name for name in named if name not in set(classes)]:
        more = f" and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
        raise InputError(
            f"{path} names {plural(len(unknown), 'class', 'classes')} that the run does not have, the first of them "
            f"{unknown[0]!r}{did_you_mean(unknown[0], classes)}; there are {', '.join(classes[:_SHOWN])}{more}"
        )
    if rows[0][0] in set(classes) - named.keys():
        raise InputError(f"{path} begins with the class {rows[0][0]!r}; expected a header such as class,group above it")
    by_level = [
        _level(path, name, {c: cells[i] for c, cells in named.items()}, classes) for i, name in enumerate(levels)
    ]
    by_level.sort(key=lambda level: -len(level.groups))
    return ClassGroups(tuple(by_level), sum(not any(named.get(name, ())) for name in classes))


def _check_levels(path: AnyPath, levels: Sequence[str]) -> None:
    if not levels:
        raise InputError(f"{path} has no level: expected a header such as class,group and a row for each class")
    for name in levels:
        if not name or name == ALL_LEVELS or levels.count(name) > 1:
            known = {"": "a level without a name", ALL_LEVELS: f"a level {name!r}, which stands for all levels"}
            problem = known.get(name, f"two levels {name!r}")
            raise InputError(f"{path} has {problem}: give each level a name of its own in the header")


def _level(path: AnyPath, name: str, group: Mapping[str, str], classes: Sequence[str]) -> GroupLevel:
    names = list(dict.fromkeys(group[c] for c in group if group[c]))
    if not names:
        raise InputError(f"level {name!r} of {path} puts no class into a group: leave it out")
    own = [c for c in classes if not group.get(c)]
    if clash := next((c for c in own if c in set(names)), None):
        raise InputError(
            f"level {name!r} of {path} has a group {clash!r}, and the class {clash!r} without a group: give it one, or "
            "call the group another name"
        )
    place = {text: i for i, text in enumerate([*names, *own])}
    if len(place) != len(names) + len(own):
        raise InputError(f"two classes without a group have one name at level {name!r} of {path}: give them groups")
    return GroupLevel(name, tuple(place), tuple(place[group.get(c) or c] for c in classes))
