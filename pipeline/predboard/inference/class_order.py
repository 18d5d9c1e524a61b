"""Find out from predictions and labels whether the classes are in another order than the model's outputs.

It knows no model, no files and no pictures: index arrays and class names are all it takes.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predboard.inference.diagnostics import MIN_LABELLED, Diagnosis
from predboard.inference.preprocessing_trials import Trial, best_trial, compare_merits
from predboard.metrics.intervals import wilson_interval

MIN_ERRORS_EXPLAINED_BY_FITTED_ORDER = 0.25
"""Share of the errors that a fitted order must remove: in a broken model some class is often mostly another."""

OFF_BY_ONE = {
    "labels less one": (-1, "they may count from 1, where the model's outputs count from 0"),
    "labels plus one": (1, "the model's first output may stand for no class"),
}
"""Number of places that the classes are shifted by, and a likely reason, by name."""

_REMEDY = "; --classes FILE names the outputs in their order"


def assign(gain: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the column of each row, each column once, with the largest sum of gains: [n, n] -> [n].

    Shortest augmenting paths with potentials (Kuhn 1955; Jonker and Volgenant 1987; Crouse 2016): O(n³), exact on whole
    numbers.

    >>> assign(np.array([[3, 2, 0], [3, 0, 0], [0, 0, 1]])).tolist()
    [1, 0, 2]
    """
    n = len(gain)
    cost = (gain.max(initial=0) - gain).astype(np.int64)
    u, v = np.zeros(n, np.int64), np.zeros(n, np.int64)
    column, row_of = np.full(n, -1), np.full(n, -1)
    infinity = np.iinfo(np.int64).max
    for start in range(n):
        shortest, through = np.full(n, infinity), np.full(n, -1)
        is_open = np.ones(n, bool)  # columns to which no shortest path is known yet
        rows, row, length = [start], start, 0
        while True:
            path = length + cost[row] - u[row] - v
            nearer = is_open & (path < shortest)
            shortest[nearer], through[nearer] = path[nearer], row
            length = int(shortest[is_open].min())
            nearest = np.flatnonzero(is_open & (shortest == length))
            free = nearest[row_of[nearest] < 0]
            at = int(free[0] if len(free) else nearest[0])
            is_open[at] = False
            if len(free):
                break
            row = int(row_of[at])
            rows.append(row)
        u[start] += length
        on_path = np.array(rows[1:], int)
        u[on_path] += length - shortest[column[on_path]]
        v[~is_open] -= length - shortest[~is_open]
        while True:
            row = int(through[at])
            row_of[at], at, column[row] = row, int(column[row]), at
            if row == start:
                break
    return column


def fit_order(predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return the class that each output would stand for, each class once, if most rows were to be right: [classes].

    Of equally good orders it is the one that moves the fewest classes. `predicted` and `label` are [rows].

    >>> fit_order(np.array([0, 0, 1, 2]), np.array([1, 1, 0, 2]), 4).tolist()
    [1, 0, 2, 3]
    """
    seen = np.union1d(predicted, label)  # the others stay where they are
    counts = np.zeros((len(seen), len(seen)), np.int64)  # [output, class]
    np.add.at(counts, (np.searchsorted(seen, predicted), np.searchsorted(seen, label)), 1)
    order = np.arange(classes)
    order[seen] = seen[assign(counts * (len(seen) + 1) + np.eye(len(seen), dtype=np.int64))]
    return order


def candidate_orders(names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the orders that other programs would give these names: description -> class of each output, [classes].

    An order that changes nothing is left out.

    >>> {words: order.tolist() for words, order in candidate_orders(["c10", "c2"]).items()}
    {'the class names in numerical order': [1, 0]}
    """
    place = {name: i for i, name in enumerate(names)}
    if len(place) < len(names):
        return {}
    sorted_names = {
        "the class names in plain alphabetical order": sorted(names),
        "the class names in numerical order": sorted(names, key=_natural),
        "the class names in case-insensitive order": sorted(names, key=lambda name: (name.casefold(), name)),
    }
    orders: dict[str, NDArray[np.int64]] = {}
    for words, ordered in sorted_names.items():
        order = np.array([place[name] for name in ordered])
        if ordered != list(names) and not any(np.array_equal(order, other) for other in orders.values()):
            orders[words] = order
    return orders


def diagnose_order(
    predicted: NDArray[np.int64], label: NDArray[np.int64], names: Sequence[str], explained: float = 0.0
) -> tuple[Diagnosis, NDArray[np.int64]] | None:
    """Return a diagnosis and the order that fits, class of each output [classes]; None if the given order stands.

    The usual other orders are tried as they are, and one of them is taken unless a free order is significantly better.
    A free order is fitted on each half of the rows and counted on the other half, so that many classes and few rows do
    not make one up. It must also beat always predicting the most frequent class, because an order that only moves a
    dominant class there explains nothing.

    Args:
        predicted, label: [rows], every row labelled, in an order that is unrelated to them.
        names: the classes.
        explained: accuracy that another explanation would reach; an order must reach more.
    """
    n, classes = len(label), len(names)
    if n < MIN_LABELLED:
        return None
    given = predicted == label
    orders = candidate_orders(names)
    if classes > 2:
        orders |= {words: np.roll(np.arange(classes), turn) for words, (turn, _) in OFF_BY_ONE.items()}
    baseline = max(float(np.bincount(label, minlength=classes).max() / n), explained)
    tried = [compare_merits(words, given, order[predicted] == label) for words, order in orders.items()]
    usual = best_trial(tried)
    if usual is not None and wilson_interval(usual.right, n)[0] <= baseline:
        usual = None

    half = np.arange(n) % 2 == 0
    crossed = np.empty(n, np.int64)
    for one in (half, ~half):
        crossed[~one] = fit_order(predicted[one], label[one], classes)[predicted[~one]]
    fitted = compare_merits("the class names in another order", given, crossed == label)
    is_found = best_trial([fitted], MIN_ERRORS_EXPLAINED_BY_FITTED_ORDER) is not None
    if usual is not None:
        order = orders[usual.name]
        further = compare_merits("", order[predicted] == label, crossed == label)
        if not is_found or best_trial([further], MIN_ERRORS_EXPLAINED_BY_FITTED_ORDER) is None:
            names_in_order = f"{', '.join(names[c] for c in order[:3].tolist())}, …{_REMEDY}"
            why = OFF_BY_ONE[usual.name][1] if usual.name in OFF_BY_ONE else names_in_order
            return _diagnosis(usual, why), order
    if not is_found or wilson_interval(fitted.right, n)[0] <= baseline:
        return None
    order = fit_order(predicted, label, classes)
    return _diagnosis(fitted, _moved(order, predicted[order[predicted] == label], names) + _REMEDY), order


def _moved(order: NDArray[np.int64], supporting: NDArray[np.int64], names: Sequence[str]) -> str:
    """Describe the outputs that stand for another class, those with most `supporting` rows first."""
    support = np.bincount(supporting, minlength=len(order))
    moved = [int(j) for j in np.argsort(-support, kind="stable") if order[j] != j and support[j]]
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return ", ".join(f"{names[j]} is {names[order[j]]}" for j in moved[:4]) + more


def _diagnosis(trial: Trial, remedy: str) -> Diagnosis:
    return Diagnosis("order", f"{trial.sentence} with {trial.name}: {remedy}")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that orders the numbers in names by value: c2 before c10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", name) if part]
