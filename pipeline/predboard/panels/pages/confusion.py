"""Draws which classes are confused with which, whatever the counts of pairs stand for. It knows no image and no label.

Classes that are often confused are neighbours, so that groups of them are seen at any number of classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.drawing import confusion
from predboard.drawing.confusion import AXES, MAX_GROUPS, ConfusionGroup, ConfusionOverview
from predboard.metrics.confusions import Confusions
from predboard.metrics.intervals import wilson_intervals
from predboard.metrics.seriation import Seriation, seriate
from predboard.summaries import Pixels

TABLE_PAIRS = 100
"""Rows of a table of pairs; TensorBoard slows down above 200."""

EVERY = -1
"""Stands for every class in a pair that was asked for."""

MAX_GALLERIES = 200
"""Pairs whose images are shown at most."""

NAMED_CLASSES = 16
"""Up to this many classes the overview has their names; with more, it describes groups of them."""


def order_classes(scores: Confusions) -> Seriation:
    """Order the classes that occur or were predicted, so that those that are often confused are neighbours."""
    present = np.flatnonzero(scores.support + scores.predictions)
    place = np.zeros(scores.classes, np.int64)
    place[present] = np.arange(len(present))
    true, predicted, count = scores.confusions
    # Similarity is the lower end of the share's interval, so that one image of two makes no two classes similar.
    seriation = seriate(len(present), place[true], place[predicted], wilson_intervals(count, scores.support[true])[0])
    return Seriation(present[seriation.items], seriation.groups)


def most_confused(scores: Confusions, order: Seriation, limit: int) -> NDArray[np.int64]:
    """Choose the classes of the matrix, in order: all that occur or were predicted, or the most confused ones."""
    if len(order.items) <= limit:
        return np.sort(order.items)
    chosen: dict[int, None] = {}
    for true, predicted, _ in scores.pairs(limit * limit):
        new = {true, predicted} - set(chosen)
        if len(chosen) + len(new) <= limit:
            chosen |= dict.fromkeys(new)
    for other in scores.most_errors(limit).tolist():  # where there are few confusions
        if len(chosen) < limit:
            chosen[other] = None
    return order.items[np.isin(order.items, list(chosen))]


def asked_pairs(scores: Confusions, asked: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return (true, predicted, images) of the pairs that were asked for, in which `EVERY` stands for each class."""
    every = {(true, predicted): count for true, predicted, count in scores.pairs(len(scores.confusions[0]))}
    chosen: dict[tuple[int, int], int] = {}
    for true, predicted in asked:
        matching = [at for at in every if true in (at[0], EVERY) and predicted in (at[1], EVERY)]
        wanted = [(true, predicted)] if EVERY not in (true, predicted) else matching
        chosen |= {at: every.get(at, 0) for at in wanted}
    return [(*pair, count) for pair, count in list(chosen.items())[:MAX_GALLERIES]]


def reverse_counts(scores: Confusions, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each of some confusions is seen the other way round; `at` and the result [pairs]."""
    true, predicted, count = scores.confusions
    code = true * scores.classes + predicted  # ascending
    back = predicted[at] * scores.classes + true[at]
    where = np.minimum(np.searchsorted(code, back), len(code) - 1)
    return np.where(code[where] == back, count[where], 0)


def format_lift(lift: float) -> str:
    """Write how many times as frequent a pair is as it would be by chance, with two digits.

    >>> format_lift(0.5), format_lift(1234.5)
    ('0.50', '1,234')
    """
    return f"{lift:#.2g}" if lift < 9.95 else f"{lift:,.0f}"


def strongest_share(scores: Confusions) -> float:
    """Return the largest share of a class that is certainly mistaken for another, by the lower end of its interval.

    It is at least a tenth, so that few errors look few.
    """
    true, _, count = scores.confusions
    return max(0.1, float(wilson_intervals(count, scores.support[true])[0].max(initial=0)))


def confusion_matrix(
    scores: Confusions, chosen: NDArray[np.int64], names: tuple[str, ...], axes: tuple[str, str] = AXES
) -> Pixels:
    """Draw the matrix of the chosen classes with numbers, and a row and column for all others if these have any.

    Args:
        scores: counts of pairs.
        chosen: classes, [chosen], in order.
        names: of all classes.
        axes: what rows and columns stand for.
    """
    others = scores.classes - len(chosen)
    counts = scores.matrix(chosen)
    if others and not counts[-1].any() and not counts[:, -1].any():
        counts, others = counts[:-1, :-1], 0
    shown, total = [names[c] for c in chosen], scores.support[chosen].tolist()
    if others:
        shown, total = [*shown, f"{others:,} others"], [*total, int(scores.support.sum()) - sum(total)]
    return confusion.draw_confusion_matrix(counts, shown, total, others > 0, axes)


def confusion_overview(
    scores: Confusions,
    order: Seriation,
    strongest: float,
    names: tuple[str, ...],
    **words: Any,
) -> Pixels:
    """Draw the overview of all classes in an order, with the names of a few or a description of groups of many.

    Args:
        scores: counts of pairs.
        order: from `order_classes`.
        strongest: share of a class at which a wrong cell reaches its full colour.
        names: of all classes.
        words: further fields of `ConfusionOverview`.
    """
    place = np.full(scores.classes, -1)
    place[order.items] = np.arange(len(order.items))
    true, predicted = (place[classes] for classes in scores.cells[:2])
    inside = (true >= 0) & (predicted >= 0)  # an earlier step may have predicted more classes
    cells = true[inside], predicted[inside], scores.cells[2][inside]
    few = [names[c] for c in order.items] if len(order.items) <= NAMED_CLASSES else []
    named = [
        ConfusionGroup(start, stop, names[order.items[a]], names[order.items[b]], errors)
        for start, stop, a, b, errors in _groups(order, *cells)
    ]
    total = scores.support[order.items]
    return confusion.draw_confusion_overview(ConfusionOverview(*cells, total, strongest, few, named, **words))


def _groups(
    order: Seriation, true: NDArray[np.int64], predicted: NDArray[np.int64], count: NDArray[np.int64]
) -> list[tuple[int, int, int, int, int]]:
    """Choose the groups with the most errors inside, in their order.

    Args:
        order: the classes.
        true: position of the true class in the order, [cells].
        predicted: position of the predicted class, [cells].
        count: images, [cells].

    Returns:
        (start, stop, true and predicted class of the most frequent confusion, errors inside), all by positions.
    """
    group = np.full(len(order.items), -1)
    for number, (start, stop) in enumerate(order.groups):
        group[start:stop] = number
    inside = (true != predicted) & (group[true] >= 0) & (group[true] == group[predicted])
    errors = np.bincount(group[true[inside]], count[inside], len(order.groups)).astype(np.int64)
    chosen = []
    for number in sorted(np.argsort(-errors, kind="stable")[:MAX_GROUPS].tolist()):
        members = np.flatnonzero(inside & (group[true] == number))
        if len(members):
            most = members[np.argmax(count[members])]
            chosen.append((*order.groups[number], int(true[most]), int(predicted[most]), int(errors[number])))
    return chosen
