"""Holds a column of texts in memory, compressed by blocks of rows. It knows nothing of files and of what texts mean."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
        self._ends = np.cumsum([rows for _, rows in self._pieces])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(buffer.size for buffer, _ in self._pieces)

    def blocks(self) -> Iterator[pa.Array]:
        """Yield the texts of one block after the other."""
        for buffer, _ in self._pieces:
            file = pa.ipc.open_file(buffer)
            yield from (file.get_batch(i).column(0) for i in range(file.num_record_batches))

    def look_through(self, look: Callable[[int, int, Callable[[], pa.Array]], None]) -> None:
        """Call a function for each block, on some threads: with its first row, that after its last, and its texts.

        Args:
            look: the texts are returned by what it gets, which decompresses them.
        """

        def look_at(piece: tuple[pa.Buffer, int], end: int) -> None:
            buffer, rows = piece
            file = pa.ipc.open_file(buffer)
            for i in range(file.num_record_batches):
                first = end - rows + i * BLOCK_ROWS
                look(first, min(first + BLOCK_ROWS, end), partial(_block, file, i))

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(look_at, self._pieces, self._ends.tolist()))

    def take(self, rows: NDArray[np.integer[Any]]) -> list[str | None]:
        """Return the texts of some rows, None for null."""
        texts: list[str | None] = [None] * len(rows)
        piece = np.searchsorted(self._ends, rows, side="right")
        within = rows - np.concatenate([[0], self._ends])[piece]
        block, within = np.divmod(within, BLOCK_ROWS)
        order = np.lexsort([block, piece])
        changes = (np.diff(piece[order]) != 0) | (np.diff(block[order]) != 0)
        for at in np.split(order, np.flatnonzero(changes) + 1) if len(rows) else ():
            file = pa.ipc.open_file(self._pieces[piece[at[0]]][0])
            taken = _block(file, int(block[at[0]])).take(as_arrow(within[at], pa.int64())).to_pylist()
            for place, text in zip(at.tolist(), taken, strict=True):
                texts[place] = text
        return texts


def _block(file: pa.ipc.RecordBatchFileReader, number: int) -> pa.Array:
    return file.get_batch(number).column(0)


def _compress(texts: pa.ChunkedArray) -> tuple[pa.Buffer, int]:
    """Return texts as an Arrow file of compressed blocks, and how many they are."""
    table = pa.table({"text": texts.combine_chunks()})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=options) as file:
        file.write_table(table, max_chunksize=BLOCK_ROWS)
    return sink.getvalue(), len(table)
