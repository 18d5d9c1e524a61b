"""Holds a column of texts in memory, compressed by blocks of rows. It knows nothing of files and of what texts mean."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from predboard.predictions.arrow import as_arrow

BLOCK_ROWS = 2048
"""Rows that are compressed together: some rows here and there take 50 µs each, and all a quarter of what they are."""

THREADS = 2
"""Threads on which blocks are made and looked through."""


class Texts:
    """A column of texts, [rows]. Names of 1,000,000 images take 12 MB, where Arrow's array has 44."""

    def __init__(self, pieces: Iterable[Callable[[], pa.ChunkedArray]]) -> None:
        """Compress the pieces of a column.

        Args:
            pieces: read the rows of each, strings, on any thread.
        """
        with ThreadPoolExecutor(THREADS) as threads:
            self._pieces = list(threads.map(lambda read: _compress(read()), pieces))
        self._ends = np.cumsum([rows for _, rows in self._pieces], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(buffer.size for buffer, _ in self._pieces)

    def blocks(self) -> Iterator[pa.Array]:
        """Yield the texts of one block after the other."""
        for buffer, rows in self._pieces:
            yield from _take(buffer, np.arange(rows)).chunks

    def where(
        self, mask: NDArray[np.bool_] | None, test: Callable[[pa.ChunkedArray], NDArray[np.bool_]]
    ) -> NDArray[np.bool_]:
        """Return which rows of a mask, or of all if it is None, pass a test of their texts, bool [rows].

        Args:
            mask: the rows, bool [rows].
            test: returns which of some texts pass, bool [texts]; it is called on several threads.
        """
        hits = np.zeros(len(self), bool)

        def look(piece: tuple[pa.Buffer, int], end: int) -> None:
            buffer, rows = piece
            at = np.arange(rows) if mask is None else np.flatnonzero(mask[end - rows : end])
            if len(at):
                hits[end - rows + at] = test(_take(buffer, at))

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(look, self._pieces, self._ends.tolist()))
        return hits

    def take(self, rows: NDArray[np.integer[Any]]) -> list[str | None]:
        """Return the texts of some rows, None for null."""
        texts: list[str | None] = [None] * len(rows)
        order = np.argsort(rows, kind="stable")
        places = np.split(order, np.searchsorted(rows[order], self._ends[:-1]))
        for (buffer, size), end, at in zip(self._pieces, self._ends.tolist(), places, strict=True):
            if len(at):
                taken = _take(buffer, rows[at] - (end - size)).to_pylist()
                for place, text in zip(at.tolist(), taken, strict=True):
                    texts[place] = text
        return texts


def _take(buffer: pa.Buffer, rows: NDArray[np.integer[Any]]) -> pa.ChunkedArray:
    """Return the texts of some rows of a piece, which ascend."""
    file = pa.ipc.open_file(buffer)
    ends = np.searchsorted(rows, np.arange(file.num_record_batches + 1) * BLOCK_ROWS)
    taken = []
    for i in np.flatnonzero(np.diff(ends)).tolist():
        texts = file.get_batch(i).column(0)
        within = rows[ends[i] : ends[i + 1]] - i * BLOCK_ROWS
        everything = len(within) == len(texts) and np.array_equal(within, np.arange(len(texts)))
        taken.append(texts if everything else texts.take(as_arrow(within, pa.int64())))
    return pa.chunked_array(taken, pa.string())


def _compress(texts: pa.ChunkedArray) -> tuple[pa.Buffer, int]:
    """Return texts as an Arrow file of compressed blocks, and how many they are."""
    table = pa.table({"text": texts.combine_chunks()})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=options) as file:
        file.write_table(table, max_chunksize=BLOCK_ROWS)
    return sink.getvalue(), len(table)
