"""Computes how far confidence is from accuracy in 15 equal-width bins. It knows no classes and no drawing."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import mean_interval

BINS = 15
"""Equal-width bins [i/15, (i + 1)/15); the last includes 1."""

PROBABILITY_UNIT = 2.0**-30
"""Unit of sums of probabilities: those of 8 billion rows fit into an int64."""


class Reliability:
    """What follows from counts of rows by their confidence."""

    top: NDArray[np.int64]
    """[rows and right and confidence and squared gap, BINS] by confidence; the sums in `PROBABILITY_UNIT`s."""

    @cached_property
    def rows(self) -> int:
        """Rows with logits and a label."""
        return int(self.top[0].sum())

    @cached_property
    def bins(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """[BINS] rows, right ones, and sum of their confidence."""
        rows, right, confidence, _ = self.top
        return rows, right, confidence * PROBABILITY_UNIT

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini 2015): |accuracy - confidence| of a bin, mean over the rows."""
        _, right, confidence = self.bins
        return float(np.abs(right - confidence).sum() / self.rows) if self.rows else math.nan

    @cached_property
    def independent_ece_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval by the delete-one jackknife; None for fewer than two rows.

        Without a row the sum of the bins' |right - confidence| is smaller by the row's own right - confidence, if that
        has the sign of its bin. So the interval is that of a mean: of the rows' gaps with the signs of their bins.
        """
        _, right, confidence = self.bins
        squares = float(self.top[3][right != confidence].sum() * PROBABILITY_UNIT / max(self.rows, 1))
        ends = mean_interval(self.ece, max(squares - self.ece**2, 0.0), self.rows)
        return ends and (max(ends[0], 0.0), min(ends[1], 1.0))

    @property
    def by_chance(self) -> float:
        """The calibration error to expect of this many rows if every confidence were right.

        Each bin's accuracy is then off by a normal deviation of variance c (1 - c) / n; its mean absolute value counts.
        """
        rows, _, confidence = self.bins
        mean = confidence / np.maximum(rows, 1)
        return float(np.sqrt(2 / np.pi * rows * mean * (1 - mean)).sum() / self.rows)

    @property
    def mce(self) -> float:
        """Maximum calibration error: largest |accuracy - confidence| of a bin that has rows."""
        rows, right, confidence = self.bins
        return float((np.abs(right - confidence)[rows > 0] / rows[rows > 0]).max())


@dataclass(frozen=True)
class ReliabilityCounts(Reliability):
    """Counts of rows by their confidence alone."""

    top: NDArray[np.int64]  # [rows and right and confidence and squared gap, BINS]


def equal_width_bin(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the equal-width bin of each probability."""
    return np.minimum((p * BINS).astype(np.int64), BINS - 1)
