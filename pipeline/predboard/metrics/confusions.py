"""Lists which classes are confused with which, from counts of pairs. It knows no image, no drawing and no metric."""

import abc
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class Confusions(abc.ABC):
    """Pairs of a true and a predicted class with their counts, and what follows from them."""

    @property
    @abc.abstractmethod
    def classes(self) -> int:
        """Number of classes."""

    @property
    @abc.abstractmethod
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """True class, predicted class and count of each pair that was seen, ascending: [cells] each."""

    @property
    @abc.abstractmethod
    def support(self) -> NDArray[np.int64]:
        """[classes] rows of each true class."""

    @property
    @abc.abstractmethod
    def predictions(self) -> NDArray[np.int64]:
        """[classes] rows predicted as each class."""

    @property
    @abc.abstractmethod
    def hits(self) -> NDArray[np.int64]:
        """[classes] rows of each class that were predicted as it."""

    @cached_property
    def confusions(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """True class, predicted class and count of all confusions that were seen, ascending: [confusions] each."""
        true, predicted, count = self.cells
        wrong = true != predicted
        return true[wrong], predicted[wrong], count[wrong]

    def frequent(self, limit: int) -> NDArray[np.int64]:
        """Return the places in `confusions` of the most frequent ones.

        Of equal ones those of the class with fewer images come first, of which they are a larger share; then by class.
        """
        known = self._frequent  # held, because panels on threads may make it at the same time
        if limit not in known:
            true, _, count = self.confusions
            least = np.partition(count, -limit)[-limit] if len(count) > limit else 0
            among = np.flatnonzero(count >= least)  # only what can be among them is sorted
            order = np.lexsort((self.support[true[among]], -count[among]))  # stable, and they ascend by class
            known[limit] = among[order[:limit]]
        return known[limit]

    @cached_property
    def _frequent(self) -> dict[int, NDArray[np.int64]]:
        return {}

    def pairs(self, limit: int) -> list[tuple[int, int, int]]:
        """Return (true, predicted, count) of the most frequent confusions, as `frequent` orders them."""
        at = self.frequent(limit)
        true, predicted, count = (column[at].tolist() for column in self.confusions)
        return list(zip(true, predicted, count, strict=True))

    @cached_property
    def mistaken_for(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[classes] the class for which each true class is most often mistaken (-1 for none), and how often."""
        true, predicted, count = self.confusions
        other, times = np.full(self.classes, -1), np.zeros(self.classes, np.int64)
        np.maximum.at(times, true, count)
        most = np.flatnonzero(count == times[true])[::-1]  # of equal ones the first, which is written last
        other[true[most]] = predicted[most]
        return other, times

    def most_errors(self, limit: int) -> NDArray[np.int64]:
        """Return the classes with most errors (missed or wrongly predicted) of those with images, ascending."""
        return most_errors(self.support, self.predictions, self.hits, limit)

    def matrix(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the confusion matrix of some classes, [chosen, chosen]: true classes in rows, predicted in columns.

        If some class is not chosen, a last row and column have all others.
        """
        other = len(chosen)
        place = np.full(self.classes, other, np.int64)
        place[chosen] = np.arange(len(chosen))
        size = other + (other < self.classes)
        counts = np.zeros((size, size), np.int64)
        true, predicted, count = self.cells
        np.add.at(counts, (place[true], place[predicted]), count)
        return counts


def most_errors(
    support: NDArray[np.int64], predictions: NDArray[np.int64], hits: NDArray[np.int64], limit: int
) -> NDArray[np.int64]:
    """Return what `Confusions.most_errors` does, from its counts: [classes] each."""
    errors = support + predictions - 2 * hits
    order = np.lexsort((np.arange(len(support)), -support, -errors))
    return np.sort(order[(support > 0)[order]][:limit]).astype(np.int64)
