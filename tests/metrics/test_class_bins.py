"""Counts of the bins of many classes, against `np.histogramdd`."""

import numpy as np
import pytest
from numpy.typing import NDArray

from predboard.metrics.class_bins import count_bins, count_into, empty_bins

GROUPS, FINE = 20, 256


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize(
    ("rows", "classes", "bins", "coarse"),
    [(0, 3, 256, 8), (40, 3, 256, 256), (2100, 6, 64, 16), (2100, 201, 32, 8), (300, 1001, 32, 8)],
)
def test_every_bin_of_every_class_is_counted_as_one_by_one(
    rows: int, classes: int, bins: int, coarse: int, folds: int
) -> None:
    """Both ways of counting, also of a number of classes that is no multiple of four."""
    random = np.random.default_rng(0)
    at = empty_bins(rows, classes)
    at[:, :classes] = np.minimum(random.geometric(1 / 30, (rows, classes)), FINE - 1)
    at[rows // 2 :, :classes] = 7  # all in one bin
    group = random.integers(0, GROUPS, rows)
    every, any_class = np.full((folds, classes, bins), 9, np.int64), np.full((2, FINE), 9, np.int64)
    grouped = np.full((GROUPS, classes, coarse), 9, np.int32)
    count_bins(at, group, every, grouped, any_class)
    each = np.stack(np.broadcast_arrays(group[:, None], np.arange(classes), at[:, :classes]), axis=-1).reshape(-1, 3)
    of_group, of_class, bin_ = each.T

    def expected(columns: list[NDArray[np.int64]], sizes: tuple[int, ...]) -> NDArray[np.float64]:
        return np.histogramdd(columns, bins=sizes, range=[(0, n) for n in sizes])[0]

    fold, short = of_group % folds, bin_ // (FINE // bins)
    assert (every == expected([fold, of_class, short], (folds, classes, bins))).all()
    assert (grouped == expected([of_group, of_class, bin_ // (FINE // coarse)], (GROUPS, classes, coarse))).all()
    assert (any_class == expected([of_group % 2, bin_], (2, FINE))).all()


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_counting_adds_to_what_is_there(kind: type[np.signedinteger]) -> None:
    index, table = np.random.default_rng(0).integers(0, 50, (3, 100)), np.arange(50, dtype=kind).reshape(5, 10)
    count_into(table, index)
    assert table.reshape(-1).tolist() == [i + index.reshape(-1).tolist().count(i) for i in range(50)]
