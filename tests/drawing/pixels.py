"""What tests of pictures share: colours, names of every kind, and where a colour is."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Okabe and Ito's blue and vermillion, which everyone can tell apart.
BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)
GREY = (110, 110, 110)

Pixels = NDArray[np.uint8]

NAMES = {
    "short": "cat",
    "long": "a very long name of a class " * 8,
    "one long word": "W" * 300,
    "Chinese": "非常に長いクラスの名前" * 10,
    "Arabic": "اسم طويل جدا " * 20,
    "Thai": "ชื่อที่ยาวมาก" * 20,
    "emoji": "🐈" * 80,
    "Zalgo": "c\u0301\u0302\u0303\u0304" * 60,
    "lines": "a\nb\tc\r\nd" * 40,
    "empty": "",
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 200, (height, width, 3), dtype=np.uint8))


def where(pixels: Pixels, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((pixels == colour).all(axis=2))


def near(pixels: Pixels, colour: tuple[int, int, int], within: int = 60) -> NDArray[np.bool_]:
    return np.asarray((np.abs(pixels.astype(int) - colour) < within).all(axis=2))


def longest_run(mask: NDArray[np.bool_]) -> int:
    """The longest row of True in [rows, columns]."""
    best = 0
    for row in mask:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        best = max(best, *(edges[1::2] - edges[::2]).tolist(), 0)
    return best
