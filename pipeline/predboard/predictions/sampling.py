"""Chooses rows at random but reproducibly, by hashing their keys. It knows nothing of the rows themselves."""

import enum
import math

import numpy as np
from numpy.typing import NDArray


@enum.unique
class Salt(enum.IntEnum):
    """Names every random choice of the package. Each has its own salt, so that no two choose the same rows."""

    LIMIT = 1
    """Images that `--limit` keeps."""
    RANDOM_EXAMPLES = 2
    """Random examples of the mistakes panel."""
    CLASS_SAMPLES = 3
    """Examples of each class in the predictions panel."""
    JACKKNIFE = 5
    """Groups of rows that the jackknife leaves out."""
    CALIBRATION = 6
    """Rows that temperature and conformal sets are fitted on."""
    EMBEDDINGS = 7
    """Rows whose embeddings are shown."""
    DUPLICATES = 8
    """Order of images that occur more than once."""
    FOLLOWED_EXAMPLES = 9
    """Images that are followed over the steps."""
    PREFLIGHT = 12
    """Images that are inferred before the long run."""
    LOADER_CHECK = 13
    """Images that are loaded twice to test a dataset."""
    DUPLICATE_FILTER_A = 14
    DUPLICATE_FILTER_B = 15
    """The two hashes of the Bloom filter for duplicates."""
    LOGGED = 16
    """Images that `--log-every` shows where there is not room for all."""


def mix(key: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Return another hash of each key, int64 [rows], which does not depend on the order of the rows.

    The function is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
    2014), a bijection for each salt.
    """
    x = key.view(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


JACKKNIFE_GROUPS = 20
"""Groups of rows of which the jackknife leaves out one after the other."""


def jackknife_group(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group of each key, 0 to 19. Even ones are fold 0, where things are fitted. -> [rows] int64."""
    return (mix(key, Salt.JACKKNIFE).view(np.uint64) % np.uint64(JACKKNIFE_GROUPS)).astype(np.int64)


def rounded_size(rows: int) -> int:
    """Round a number of manifest rows down to one of four sizes per doubling, as sampling uses it.

    Samples, and with them cached states, then stay the same while the manifest grows by less than a fifth.

    >>> rounded_size(100_000), rounded_size(110_000), rounded_size(8192), rounded_size(0)
    (92681, 92681, 8192, 0)
    """
    return int(2 ** (math.floor(4 * math.log2(rows)) / 4)) if rows else 0
