"""Lists which labels are missed while which others are wrongly predicted, from counts of pairs. It knows no image.

The number of labels stands for "nothing": nothing wrongly predicted in the pairs of a missed label, nothing missed in
those of a wrongly predicted one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.confusions import Confusions
from predboard.metrics.multi_label.label_counts import LabelCountMetrics
from predboard.metrics.multi_label.label_pairs import LabelPairs

NOTHING = "(nothing)"
"""Name of what stands for no label."""


@dataclass(frozen=True)
class LabelConfusions(Confusions):
    """Pairs of a missed and a wrongly predicted label, with the hits of each label on the diagonal."""

    pairs_of_labels: LabelPairs
    metrics: LabelCountMetrics
    with_nothing: bool = True
    """Whether there are the pairs of one label and nothing."""

    @property
    def classes(self) -> int:
        """Number of labels, and one more for "nothing"."""
        return self.metrics.classes + self.with_nothing

    @property
    def nothing(self) -> int:
        """What stands for no label."""
        return self.metrics.classes

    @cached_property
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Missed and wrongly predicted label and count of each pair, and the hits of each label, ascending."""
        missed, wrong, count = self.pairs_of_labels.errors.cells
        inside = (missed < self.classes) & (wrong < self.classes)
        hit = np.flatnonzero(self.metrics.hits)
        missed, wrong = np.append(missed[inside], hit), np.append(wrong[inside], hit)
        order = np.lexsort((wrong, missed))
        return missed[order], wrong[order], np.append(count[inside], self.metrics.hits[hit])[order]

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """[classes] images that have each label; of "nothing" all images."""
        return self._with_all(self.metrics.support)

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """[classes] images predicted to have each label; of "nothing" all images."""
        return self._with_all(self.metrics.predictions)

    @cached_property
    def hits(self) -> NDArray[np.int64]:
        """[classes] images that have each label and are predicted to; none of "nothing"."""
        return np.append(self.metrics.hits, np.zeros(int(self.with_nothing), np.int64))

    def _with_all(self, of_labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.append(of_labels, [self.metrics.counted]) if self.with_nothing else of_labels

    def most_errors(self, limit: int) -> NDArray[np.int64]:
        """Return the labels with most errors of those with images, ascending; never "nothing"."""
        return self.metrics.most_errors(limit)
