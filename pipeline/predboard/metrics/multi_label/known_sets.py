"""Compares the true and the predicted labels of each row, where both are known. It knows no metric and no state.

A decision is one label of one image. A label of which it is not known whether it applies is no decision, and a row of
which no label is known counts nowhere.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import Floats
from predboard.predictions.label_sets import LabelSets
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import Run

COLUMNS = frozenset({"key", "label", "predicted"})
"""Columns that `KnownSets.measure` reads; of several labels they stand for those of the sets."""


@dataclass(frozen=True)
class KnownSets:
    """The sets of some labelled rows, without the labels that are unknown."""

    classes: int
    group: NDArray[np.int64]
    """[rows] group that intervals leave out together; even ones are fold 0."""
    true: LabelSets
    predicted: LabelSets
    unknown: LabelSets

    @classmethod
    def measure(cls, run: Run, batch: MultiLabelPredictions) -> Self:
        """Return the sets of the labelled rows of a batch, made once for all states that need them."""
        return batch.memoize(KnownSets, lambda: cls._measured(run, batch.labelled))

    @classmethod
    def _measured(cls, run: Run, rows: MultiLabelPredictions) -> Self:
        classes, unknown = len(run.classes), rows.unknown
        return cls(classes, rows.jackknife_group, rows.labels, rows.predicted_labels.minus(unknown), unknown)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.group)

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """Number of decisions of each row, [rows]."""
        return self.classes - self.unknown.size

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Whether any label of the row is known, [rows]."""
        return self.known > 0

    @cached_property
    def is_hit(self) -> NDArray[np.bool_]:
        """Whether each predicted label is true, [predicted labels]."""
        return self.true.contains(self.predicted)

    @cached_property
    def hits(self) -> NDArray[np.int64]:
        """Number of predicted labels that are true, [rows]."""
        return np.bincount(self.predicted.row[self.is_hit], minlength=len(self))

    @cached_property
    def missed(self) -> LabelSets:
        """The true labels that are not predicted."""
        return self.true.minus(self.predicted)

    @cached_property
    def wrong(self) -> LabelSets:
        """The predicted labels that are not true."""
        return self.predicted.subset(~self.is_hit)

    @cached_property
    def jaccard(self) -> Floats:
        """Size of the intersection over that of the union, [rows]; 1 where both sets are empty."""
        union = self.true.size + self.predicted.size - self.hits
        return np.where(union > 0, self.hits / np.maximum(union, 1), 1.0)

    @cached_property
    def f1(self) -> Floats:
        """F1 of the two sets, [rows]; 1 where both are empty."""
        both = self.true.size + self.predicted.size
        return np.where(both > 0, 2 * self.hits / np.maximum(both, 1), 1.0)
