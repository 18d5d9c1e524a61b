"""Orders items so that similar ones stand together, and finds groups of them. It does not know what the items are.

Average-linkage clustering of a sparse graph by chains of nearest neighbours (Murtagh 1983); the leaves of the tree are
then turned so that similar ends meet. Whole numbers and fixed rules for ties give the same order on every machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_GROUP_CONTRAST = 3
"""Two items of a group are on average at least this many times as similar as any two items."""

_SIMILARITY_UNIT = 2**40
"""Similarities are whole numbers of 1 / this."""

_END_ITEMS = 3
"""At most this many items at an end of a branch decide which way round it is joined."""


@dataclass(frozen=True)
class Seriation:
    """All items in an order."""

    items: NDArray[np.int64]  # [n]
    groups: tuple[tuple[int, int], ...]
    """(start, stop) of each group of at least two in `items`, in their order."""


def seriate(n: int, a: NDArray[np.int64], b: NDArray[np.int64], similarity: NDArray[np.float64]) -> Seriation:
    """Order `n` items: similar ones together, those most similar to others first.

    Args:
        n: how many items there are; they are numbered from 0.
        a, b: [pairs] two different items; a pair may come several times and in both directions.
        similarity: [pairs] at least 0; repeated pairs add up.

    >>> seriate(5, np.array([0, 1, 3]), np.array([4, 3, 0]), np.array([0.5, 0.9, 0.1])).items.tolist()
    [1, 3, 0, 4, 2]
    """
    whole = np.rint(similarity * _SIMILARITY_UNIT).astype(np.int64)
    links = _Links(n, a, b, whole)
    weight = links.weights()
    least = MIN_GROUP_CONTRAST * sum(weight) / max(n * (n - 1), 1)  # sum(weight) has every pair twice
    branches = _Branches(n, links, least)
    by_weight = sorted(range(n), key=lambda i: (-weight[i], i))
    for i in by_weight:
        branches.join_all(i)
    roots = [i for i in by_weight if branches.members[i] and weight[i]]
    roots.sort(key=lambda i: -sum(weight[m] for m in branches.members[i]))
    items: list[int] = []
    for root in roots:
        members = branches.members[root]
        half = len(members) // 2
        turned = sum(weight[m] for m in members[:half]) < sum(weight[m] for m in members[-half:])
        items += members[::-1] if turned else members
    items += [i for i in range(n) if not weight[i]]
    place = {item: at for at, item in enumerate(items)}
    spans = [sorted(place[m] for m in group) for group in branches.groups()]
    return Seriation(np.array(items, np.int64), tuple(sorted((s[0], s[-1] + 1) for s in spans)))


class _Links:
    """Sums of similarities between branches, in whole units. A branch goes by the number of one of its items."""

    def __init__(self, n: int, a: NDArray[np.int64], b: NDArray[np.int64], similarity: NDArray[np.int64]) -> None:
        near: list[dict[int, int]] = [{} for _ in range(n)]
        for i, j, s in zip(a.tolist(), b.tolist(), similarity.tolist(), strict=True):
            if s > 0:
                near[i][j] = near[i].get(j, 0) + s
                near[j][i] = near[j].get(i, 0) + s
        self._near = near
        self._links = [dict(links) for links in near]
        self._size = [1] * n

    def weights(self) -> list[int]:
        """Return the similarity of each item to all others, before anything is joined."""
        return [sum(links.values()) for links in self._near]

    def nearest(self, branch: int, before: int) -> int:
        """Return the branch of highest mean similarity (of equals `before`, then the lowest); -1 if none is linked."""
        links, size = self._links[branch], self._size
        best, value = before, links[before] / size[before] if before >= 0 else 0.0
        for other, link in links.items():
            mean = link / size[other]
            if mean > value or (mean == value and best != before and other < best):
                best, value = other, mean
        return best

    def join(self, a: int, b: int) -> tuple[int, int, float]:
        """Join two branches; return the number that both go by now, the one that is gone, and their mean similarity."""
        links, size = self._links, self._size
        keep, gone = (a, b) if (len(links[a]), -a) > (len(links[b]), -b) else (b, a)
        mean = links[keep].pop(gone) / (size[keep] * size[gone])
        del links[gone][keep]
        for other, link in links[gone].items():
            links[keep][other] = links[other][keep] = links[keep].get(other, 0) + link
            del links[other][gone]
        links[gone] = {}
        size[keep] += size[gone]
        return keep, gone, mean

    def between(self, a: list[int], b: list[int]) -> int:
        """Return the summed similarity of some items to others."""
        return sum(self._near[i].get(j, 0) for i in a for j in b)


class _Branches:
    """A forest of items that grows together."""

    def __init__(self, n: int, links: _Links, least: float) -> None:
        self._links = links
        self._least = least
        self.members = [[i] for i in range(n)]  # of each branch, in order; empty when it has been joined
        self._solid: list[list[int] | None] = [[i] for i in range(n)]  # its members while it is one group
        self._groups: list[list[int]] = []

    def groups(self) -> list[list[int]]:
        """Return the members of all groups of at least two."""
        return [group for group in [*self._groups, *self._solid] if group and len(group) > 1]

    def join_all(self, start: int) -> None:
        """Join the branches that are linked with one, until it has no links."""
        chain = [start] if self.members[start] else []
        while chain:
            tip = chain[-1]
            before = chain[-2] if len(chain) > 1 else -1
            nearest = self._links.nearest(tip, before)
            if nearest < 0:
                chain.pop()
            elif nearest == before:
                del chain[-2:]
                joined = self._join(tip, nearest)
                if not chain:
                    chain.append(joined)
            else:
                chain.append(nearest)

    def _join(self, a: int, b: int) -> int:
        keep, gone, mean = self._links.join(a, b)
        self._join_groups(keep, gone, mean)
        self.members[keep] = self._joined(self.members[keep], self.members[gone])
        self.members[gone] = []
        return keep

    def _join_groups(self, keep: int, gone: int, mean: float) -> None:
        first, second = self._solid[keep], self._solid[gone]
        self._solid[gone] = None
        if first is not None and second is not None and mean >= self._least:
            first.extend(second)
            return
        self._groups += [group for group in (first, second) if group is not None]
        self._solid[keep] = None

    def _joined(self, a: list[int], b: list[int]) -> list[int]:
        """Return both in a row, turned so that the most similar ends meet."""
        meeting = self._links.between
        m, n = (max(min(len(branch) // 2, _END_ITEMS), 1) for branch in (a, b))
        ways = (
            (meeting(a[-m:], b[:n]), False, False),
            (meeting(a[-m:], b[-n:]), False, True),
            (meeting(a[:m], b[:n]), True, False),
            (meeting(a[:m], b[-n:]), True, True),
        )
        _, turn_a, turn_b = max(ways, key=lambda way: way[0])  # the first of equal ones
        return (a[::-1] if turn_a else a) + (b[::-1] if turn_b else b)
