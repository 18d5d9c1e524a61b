"""Finds the tags of images that other runs know by other names, as those in an archive. It knows no HTTP.

A tag is kept under the key that the image has in the run where it was given, and shown wherever the image is.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from predboard.tab.columns import StepRows
from predboard.tab.pairs import BY_NAME, StepPair
from predboard.tab.tags import Tags


def find_key(step: StepRows, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each key, int64 [keys], -1 where there is none."""
    column = step.numbers("key")
    order = step.sorted_by("key", column)
    ordered = step.derived("sorted key", lambda: column[order])
    at = np.searchsorted(ordered, keys)
    at[at == len(ordered)] = 0
    return np.where(ordered[at] == keys, order[at], -1)


def has_key(step: StepRows, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows have one of some keys, bool [rows].

    Args:
        step: whose rows.
        keys: ascending, each once.
    """
    if not len(keys):
        return np.zeros(step.rows, bool)
    column = step.numbers("key")
    at = np.searchsorted(keys, column)
    at[at == len(keys)] = 0
    return np.asarray(keys[at] == column)


class SharedTags:
    """The tags of the rows of a step, by its own keys and by those of other runs of the same images."""

    def __init__(self, tags: Tags, step: StepRows, pairs: Sequence[StepPair]) -> None:
        """Read nothing yet.

        Args:
            tags: of all images.
            step: whose rows.
            pairs: the step with each other one that knows its images by other keys.
        """
        self._tags, self._step, self._pairs = tags, step, pairs

    def rows_with(self, tag: str) -> NDArray[np.bool_]:
        """Return which rows have a tag, or any if it is empty, bool [rows]."""
        keys = self._tags.keys_with(tag)
        rows = has_key(self._step, keys)
        for pair in self._pairs:
            rows |= (pair.old_row >= 0) & has_key(pair.old, keys)[pair.old_row]
        return rows

    def keys_of(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the keys of some rows in this step, then in each other one, int64 [rows] each; 0 for none."""
        keys = [self._step.numbers("key")[rows]]
        for pair in self._pairs:
            places = pair.old_row[rows]
            keys.append(np.where(places >= 0, pair.old.numbers("key")[places], 0))
        return keys

    def of_rows(self, rows: NDArray[np.int64]) -> tuple[list[list[str]], list[str | None]]:
        """Return the tags of some rows, and the class that each should be relabelled to, if somebody said so."""
        keys = self.keys_of(rows)
        tags = [sorted(set().union(*of_one)) for of_one in zip(*map(self._tags.of_images, keys), strict=True)]
        names = [[self._tags.label_of(int(key)) for key in of_one] for of_one in zip(*keys, strict=True)]
        return tags, [next((name for name in of_one if name), None) for of_one in names]


def pairs_by_other_keys(
    tags: Tags, step: StepRows, others: Iterable[StepRows], join: Callable[[StepRows], StepPair]
) -> list[StepPair]:
    """Return a step with each of others that knows tagged images of it by other keys.

    Steps are only joined if they have tagged images that this one does not know, because joining takes a while.
    """
    tagged = tags.keys_with("")
    if not len(tagged):
        return []
    unknown = tagged[find_key(step, tagged) < 0]
    pairs = [join(other) for other in others if len(unknown) and (find_key(other, unknown) >= 0).any()]
    return [pair for pair in pairs if pair.joined_by not in ("", BY_NAME)]
