"""Logits of rows as they come -> part files, each published whole. Knows no model and no device."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.forward import Batch
from pipeline.loading import Loaded
from pipeline.predictions import Part, Predictions, Run, to_logits
from pipeline.shards import Shard
from pipeline.sources import Manifest


class NewPart:
    """One part of one step while its rows arrive: buffers a row group, writes it, publishes at the end."""

    def __init__(
        self, out: Path, run: Run, scores: str, shard: Shard, manifest: Manifest, provenance: dict[str, Any]
    ) -> None:
        self._run, self._shard, self._manifest, self._provenance = run, shard, manifest, provenance
        further = manifest.columns.schema if manifest.columns.num_columns else None
        self._writer = store.PartWriter(store.part_path(out, run.step, shard.index), run, further)
        # One place for a row group's arrays: small ones that outlive their batch would keep the allocator from giving
        # the batches' large ones back (65 MB for 1,000 pictures of 96×96).
        group = min(store.group_rows(len(run.classes)), len(shard))
        self._logits = np.empty((group, len(run.classes)), np.float32)
        self._embeddings = np.empty((group, run.embedding), np.float16)
        self._rows: list[Loaded] = []
        self._start = shard.start
        self._scores, self._clipped = scores, 0
        self._began = time.time()
        self._seconds = {"decode": 0.0, "wait": 0.0, "forward": 0.0, "write": 0.0}

    def add(self, batch: Batch) -> None:
        """Take the next rows; with the last of them the part is published."""
        self._seconds["decode"] += sum(row.seconds for row in batch.rows)
        for name, value in batch.seconds.items():
            self._seconds[name] += value / len(batch.outputs)
        logits, embeddings = batch.outputs[self._run.step]
        taken = 0
        while taken < len(batch.rows):
            filled = len(self._rows)
            take = min(len(batch.rows) - taken, len(self._logits) - filled)
            self._logits[filled : filled + take] = logits[taken : taken + take]
            if embeddings is not None:
                self._embeddings[filled : filled + take] = embeddings[taken : taken + take]
            self._rows += batch.rows[taken : taken + take]
            taken += take
            if len(self._rows) == len(self._logits) or (batch.last and taken == len(batch.rows)):
                began = time.perf_counter()
                self._flush()
                self._seconds["write"] += time.perf_counter() - began
        if batch.last:
            self._writer.publish(
                Part(
                    start=self._shard.start,
                    stop=self._shard.stop,
                    manifest_digest=self._manifest.digest(self._shard.start, self._shard.stop),
                    manifest_rows=len(self._manifest),
                    content_digest="",
                    started=self._began,
                    finished=time.time(),
                    seconds={name: round(value, 3) for name, value in self._seconds.items()},
                    provenance=self._provenance,
                    clipped=self._clipped,
                )
            )

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._writer.abandon()

    def _flush(self) -> None:
        rows = self._rows
        start, stop = self._start, self._start + len(rows)
        self._rows, self._start = [], stop
        m, schema = self._manifest, self._writer.schema
        found = [row.properties for row in rows]
        further: dict[str, Any] = {
            "digest": [row.digest for row in rows],
            "bytes": [row.length for row in rows],
            **{
                n: [None if p is None else getattr(p, n) for p in found]
                for n in ("width", "height", "brightness", "contrast")
            },
            **{n: m.columns.column(n).slice(start, len(rows)).combine_chunks() for n in m.columns.column_names},
        }
        if self._run.embedding:
            further["embedding"] = self._embeddings[: len(rows)]
        if self._run.thumbnails:
            further["thumbnail"] = [row.thumbnail for row in rows]
        self._logits[: len(rows)][[row.error is not None for row in rows]] = np.nan  # so that no failed row counts
        logits, clipped = to_logits(self._logits[: len(rows)], self._scores)
        self._clipped += clipped
        self._writer.write(
            Predictions.build(
                schema,
                id=np.arange(start, stop, dtype=np.int64),
                key=m.key[start:stop],
                image=m.image.slice(start, len(rows)),
                label=self._labels(m.label[start:stop], rows),
                logits=logits,
                error=[row.error for row in rows],
                further=further,
            )
        )

    def _labels(self, label: NDArray[np.int32], rows: list[Loaded]) -> NDArray[np.int32]:
        """[rows] labels of the manifest, or what a dataset's item said of itself; -1 for what no output stands for."""
        said = np.array([known if row.label is None else row.label for known, row in zip(label, rows, strict=True)])
        return np.where(said < len(self._run.classes), said, -1).astype(np.int32)
