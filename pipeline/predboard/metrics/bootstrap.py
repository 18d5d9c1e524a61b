"""The Poisson bootstrap of counts. It knows nothing of what the counts mean.

A cell of n rows becomes Poisson(n), which is what drawing each row Poisson(1) times does to it, in time that does not
depend on the number of rows.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.counts import CountMetrics, MarginMetric, Margins
from predboard.metrics.intervals import Z95
from predboard.predictions.schema import hash64

MAX_POISSON_NUMBERS = 8_000_000
"""Poisson numbers drawn for the intervals of a step: 250 to 1,000 for each cell."""

BOOTSTRAP_BLOCK_BYTES = 2**25
"""Bytes of them held at a time."""

SMALL_COUNT = 8
"""A smaller count n is drawn as the sum of n draws of Poisson(1)."""

_CACHED_NUMBERS = 2**17
"""Numbers that are worked on at a time, so that they stay in a processor core's cache."""

_SUM_TYPES = ((np.uint8, 100), (np.uint16, 50_000), (np.uint32, 4_000_000_000))
"""Types, and the expected sum below which each holds what is drawn: an overflow has a probability below 1e-30."""

_ONE = (24109, 48219, 60273, 64292, 65296, 65497, 65531, 65535)
"""From which of the numbers below 2**16 on Poisson(1) is at least 1, 2, …: equal shares of its distribution."""


def poisson_resamples(
    count: NDArray[np.int64], seed: bytes, width: int, most: int
) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield bootstrap draws of cell counts, block by block: each count n is replaced by Poisson(n).

    The random seed is the hash of `seed` and of the counts, so the same counts give the same draws.

    Args:
        count: [cells] above 0.
        seed: bytes that tell these counts from others with the same numbers.
        width: how many numbers the caller computes from each draw.
        most: the largest sum of counts that the caller computes.

    Yields:
        [cells, draws] of a type that holds such sums.
    """
    random = np.random.default_rng(hash64(seed + count.tobytes()) % 2**64)
    draws = min(max(MAX_POISSON_NUMBERS // len(count), 250), 1000)
    kind = np.dtype(next((dtype for dtype, limit in _SUM_TYPES if most < limit), np.uint64))
    size = min(BOOTSTRAP_BLOCK_BYTES // (len(count) * kind.itemsize), BOOTSTRAP_BLOCK_BYTES // (32 * width))
    blocks = -(-draws // max(size, 1))
    many, cached = np.flatnonzero(count >= SMALL_COUNT), max(_CACHED_NUMBERS * blocks // draws, 1)
    for drawn in np.diff(np.linspace(0, draws, blocks + 1).astype(int)).tolist():
        n = np.empty((len(count), drawn), kind)
        for start in range(0, len(n), cached):  # with many classes most cells hold one row
            block = n[start : start + cached]
            block[:] = _poisson_one(_uniform(random, block.shape))
        for times in range(2, SMALL_COUNT):  # Poisson(n) is a sum of n times Poisson(1)
            again = np.flatnonzero((count >= times) & (count < SMALL_COUNT))
            for start in range(0, len(again), cached):
                at = again[start : start + cached]
                n[at] += _poisson_one(_uniform(random, (len(at), drawn)))
        n[many] = random.poisson(count[many, None], (len(many), drawn))
        yield n


def _uniform(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Draw numbers below 2**16, four from each 64-bit draw: twice as fast as one by one."""
    count = math.prod(shape)
    drawn = random.integers(0, 2**64, -(-count // 4), np.uint64)
    return drawn.astype("<u8", copy=False).view("<u2")[:count].reshape(shape)


def _poisson_one(uniform: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Turn uniform numbers below 2**16 into Poisson(1), ten times as fast as NumPy does. -> the same shape."""
    n = np.zeros(uniform.shape, np.uint8)
    for least in _ONE:
        n += uniform >= least
    return n


class ClassSums:
    """Sums of [cells, draws] over the cells of each class."""

    def __init__(self, class_of: NDArray[np.int64], classes: int) -> None:
        """Prepare the sums.

        Args:
            class_of: [cells] the class of each cell, -1 for none.
            classes: how many there are.
        """
        self._classes = classes
        # Two bytes sort faster than eight.
        self._order = np.argsort(class_of.astype(np.min_scalar_type(-classes)), kind="stable")
        starts = np.searchsorted(class_of, np.arange(classes + 1), sorter=self._order)
        cells = np.diff(starts)
        self._one, self._more = np.flatnonzero(cells == 1), np.flatnonzero(cells > 1)
        self._starts = starts

    def __call__(self, n: NDArray[np.unsignedinteger | np.floating]) -> NDArray[np.float64]:
        """Return the sums, [classes, draws]. Each must fit into the type of `n`."""
        sums = np.zeros((self._classes, n.shape[1]))
        sums[self._one] = n[self._order[self._starts[self._one]]]
        for c in self._more.tolist():  # whole rows are added, many draws at once
            cells = self._order[self._starts[c] : self._starts[c + 1]]
            sums[c] = np.add.reduce(n.take(cells, axis=0), axis=0, dtype=n.dtype)
        return sums


def bootstrap_margins(m: CountMetrics, metrics: Mapping[str, MarginMetric]) -> dict[str, NDArray[np.float64]]:
    """Return bootstrap draws of metrics that follow from the margins of the confusion matrix.

    Each cell of n rows is replaced by Poisson(n), again and again; all metrics see the same draws.

    Returns:
        [draws] for each metric, nan where it is undefined.
    """
    true, predicted, count = m.cells
    present = m.support + m.predictions > 0
    place, classes = np.cumsum(present) - 1, int(present.sum())
    sums = [
        ClassSums(class_of, classes)
        for class_of in (np.where(true == predicted, place[true], -1), place[true], place[predicted])
    ]
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    most = int(max(m.support.max(), m.predictions.max()))
    for n in poisson_resamples(count, true.tobytes() + predicted.tobytes(), classes, most):
        margins = Margins(*(by_class(n).T for by_class in sums))  # [draws, classes] each
        for name, metric in metrics.items():
            draws[name].append(metric(margins))
    return {name: np.concatenate(values) for name, values in draws.items()}


def bias_corrected_interval(value: float, draws: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % interval from bootstrap draws, corrected for their bias (Efron 1981: BC percentile).

    Resampling loses rare classes, so macro F1 of the draws lies below the value: plain percentiles held the true value
    78 times out of 100 where these did 92 times (100 classes of 20 images).

    Args:
        value: of the data themselves.
        draws: [draws], nan where the metric is undefined; None is returned if all are.
    """
    draws = np.sort(draws[~np.isnan(draws)])
    if not len(draws):
        return None
    normal = NormalDist()
    below = ((draws < value).sum() + (draws == value).sum() / 2) / len(draws)
    bias = normal.inv_cdf(min(max(float(below), 0.5 / len(draws)), 1 - 0.5 / len(draws)))
    lower, upper = np.quantile(draws, [normal.cdf(2 * bias - Z95), normal.cdf(2 * bias + Z95)])
    return min(float(lower), value), max(float(upper), value)
