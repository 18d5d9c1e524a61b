"""Texts that are held compressed are those that were read, in pieces and blocks of any size."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from predboard.tab.texts import BLOCK_ROWS, Texts

SIZES = (3 * BLOCK_ROWS + 5, 1, 0, BLOCK_ROWS)
WORDS = [None if i % 97 == 0 else f"folder {i % 7}/Größe \u202e{i:06d}.png" for i in range(sum(SIZES))]


@pytest.fixture(scope="module")
def texts() -> Texts:
    ends = np.cumsum(SIZES).tolist()
    pieces = [WORDS[end - size : end] for end, size in zip(ends, SIZES, strict=True)]

    def read(piece: list[str | None]) -> pa.ChunkedArray:
        half = len(piece) // 2
        return pa.chunked_array([piece[:half], piece[half:]], pa.string())

    return Texts(partial(read, piece) for piece in pieces)


def test_some_and_all_are_as_they_were_read(texts: Texts) -> None:
    assert len(texts) == len(WORDS)
    assert [text for block in texts.blocks() for text in block.to_pylist()] == WORDS
    rows = np.random.default_rng(0).integers(0, len(WORDS), 500)  # some twice, in no order
    assert texts.take(rows) == [WORDS[row] for row in rows]
    assert texts.take(rows[:0]) == []
    plain = pa.array(WORDS, pa.string())
    assert 0 < texts.nbytes < plain.nbytes / 2


def test_each_block_is_looked_at_once(texts: Texts) -> None:
    seen: dict[int, list[str | None]] = {}

    def look(first: int, end: int, read: Callable[[], pa.Array]) -> None:
        seen[first] = read().to_pylist()
        assert len(seen[first]) == end - first

    texts.look_through(look)
    assert [text for first in sorted(seen) for text in seen[first]] == WORDS


def test_what_a_thread_meets_is_raised(texts: Texts) -> None:
    def look(first: int, end: int, _: object) -> None:
        raise LookupError(f"{first} to {end}")

    with pytest.raises(LookupError, match=f"0 to {BLOCK_ROWS}"):
        texts.look_through(look)
