"""Counts rows of predictions by kind: failed, without a label, right. It knows nothing of classes."""

import operator
from dataclasses import astuple, dataclass, field, replace

from predboard.predictions.table import PredictionRows


@dataclass(frozen=True)
class RowCount:
    """Numbers of rows by kind. Two counts add up.

    >>> RowCount(rows=5, counted=4, right=3) + RowCount(rows=5, counted=4, right=1)
    RowCount(rows=10, failed=0, unlabelled=0, counted=8, right=4)
    >>> _.accuracy
    0.5
    """

    rows: int = 0
    failed: int = 0
    unlabelled: int = 0
    counted: int = 0
    """Rows with logits and a label."""
    right: int = 0
    right_share: str = field(default="accuracy", repr=False)
    """Name of the share of right rows, by what being right means."""

    def add_batch(self, batch: PredictionRows) -> "RowCount":
        """Add the rows of a batch, which needs the columns label and predicted."""
        labelled = batch.labelled
        return self + RowCount(
            len(batch),
            int((~batch.is_scored).sum()),
            int((~batch.is_labelled).sum()),
            len(labelled),
            int(labelled.right.sum()),
            batch.right_share,
        )

    def __add__(self, other: "RowCount") -> "RowCount":
        """Add two counts."""
        share = self.right_share if self.rows else other.right_share
        counts = RowCount(*map(operator.add, astuple(self)[:-1], astuple(other)[:-1]))
        return replace(counts, right_share=share)

    @property
    def accuracy(self) -> float | None:
        """Share of correct rows among those with logits and a label; None if there are none."""
        return self.right / self.counted if self.counted else None
