"""Texts that are held compressed are those that were read, in pieces and blocks of any size."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

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


@pytest.mark.parametrize("share", [None, 0.5, 0.01])
def test_a_test_sees_the_texts_of_a_mask(texts: Texts, share: float | None) -> None:
    def is_seven(names: pa.ChunkedArray) -> NDArray[np.bool_]:
        return np.array([name is not None and "7.png" in name for name in names.to_pylist()], bool)

    mask = None if share is None else np.random.default_rng(1).random(len(WORDS)) < share
    expected = [bool(word and "7.png" in word and (mask is None or mask[i])) for i, word in enumerate(WORDS)]
    assert texts.where(mask, is_seven).tolist() == expected
    assert any(expected)


def test_what_a_thread_meets_is_raised(texts: Texts) -> None:
    def fail(names: pa.ChunkedArray) -> NDArray[np.bool_]:
        raise LookupError(f"{len(names)} texts")

    with pytest.raises(LookupError, match=f"{SIZES[0]} texts"):
        texts.where(None, fail)
