"""Logits of rows as they come -> part files, each published whole. Knows no model and no device."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from predboard.images.loader import LoadedImage
from predboard.images.manifest import Manifest
from predboard.predictions.derive import to_logits
from predboard.predictions.schema import Part, Run
from predboard.predictions.table import Predictions
from predboard.storage import timing
from predboard.storage.parts import PartWriter, holds_part, open_part, read_batches, row_group_size
from predboard.storage.paths import AnyPath
from predboard.storage.runs import part_path
from predboard.storage.shards import Task

if TYPE_CHECKING:  # an import writes parts too, and needs no torch
    from predboard.inference.forward import Batch


@dataclass(frozen=True)
class PartSpec:
    """What a part is made from, besides its rows."""

    out: AnyPath
    run: Run
    task: Task
    manifest: Manifest
    scores: str
    """What the model gives, as `--scores` says it."""
    provenance: Mapping[str, Any]

    @property
    def path(self) -> AnyPath:
        """Of the part."""
        return part_path(self.out, self.run.step, self.task.shard.index)

    def writer(self) -> PartWriter:
        """Of the new file."""
        further = self.manifest.columns.schema if self.manifest.columns.num_columns else None
        return PartWriter(self.path, self.run, further)

    def record(self, began: float, seconds: Mapping[str, float], clipped: int) -> Part:
        """For the footer, when all rows are written. `began`: seconds since 1970."""
        shard = self.task.shard
        return Part(
            start=shard.start,
            stop=shard.stop,
            manifest_digest=self.manifest.digest(shard.start, shard.stop),
            manifest_rows=len(self.manifest),
            content_digest="",
            started=began,
            finished=time.time(),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            provenance=self.provenance,
            clipped=clipped,
        )

    def predictions(
        self,
        writer: PartWriter,
        ids: NDArray[np.int64],
        rows: Sequence[LoadedImage],
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16] | None,
    ) -> tuple[Predictions, int]:
        """These rows with all columns, and how many probabilities were clipped. `scores`: [rows, classes], changed."""
        m, schema = self.manifest, writer.schema
        found = [row.properties for row in rows]
        more: dict[str, Any] = {
            "digest": [row.digest for row in rows],
            "bytes": [row.length for row in rows],
            **{
                n: [None if p is None else getattr(p, n) for p in found]
                for n in ("width", "height", "brightness", "contrast")
            },
            **{n: m.columns.column(n).take(ids).combine_chunks() for n in m.columns.column_names},
        }
        if self.run.embedding:
            more["embedding"] = embeddings
        if self.run.thumbnails:
            more["thumbnail"] = [row.thumbnail for row in rows]
        scores[[row.error is not None for row in rows]] = np.nan  # so that no failed row counts
        logits, clipped = to_logits(scores, self.scores)
        said = [k if row.label is None else row.label for k, row in zip(m.label[ids].tolist(), rows, strict=True)]
        label = np.array(said, np.int64)  # of the manifest, or what a dataset's item said of itself
        built = Predictions.build(
            schema,
            id=ids,
            key=m.key[ids],
            image=m.image.take(ids),
            label=np.where(label < len(self.run.classes), label, -1).astype(np.int32),
            logits=logits,
            error=[row.error for row in rows],
            more=more,
        )
        return built, clipped


class PartBuilder:
    """Builds one part of one step while its rows arrive: buffers a row group, writes it, and publishes the part."""

    def __init__(self, making: PartSpec, clocks: Sequence[str] = ("decode", "wait", "transfer", "forward")) -> None:
        """Open the new file. `clocks` are what its record says the seconds of, besides `write`."""
        self._making, self._writer = making, making.writer()
        run, shard = making.run, making.task.shard
        # One place for a row group's arrays: small ones that outlive their batch would keep the allocator from giving
        # the batches' large ones back (65 MB for 1,000 pictures of 96×96).
        group = min(row_group_size(len(run.classes)), len(shard))
        self._logits = np.empty((group, len(run.classes)), np.float32)
        self._embeddings = np.empty((group, run.embedding), np.float16)
        self._rows: list[LoadedImage] = []
        self._start = shard.start
        self._clipped = 0
        self._failed = 0
        self._began = time.time()
        self._seconds = dict.fromkeys((*clocks, "write"), 0.0)

    def add(self, batch: "Batch") -> int:
        """Take the rows of a batch; with the last of them the part is published. -> failed rows written meanwhile."""
        failed = self._failed
        self._seconds = timing.add_seconds(self._seconds, _spent(batch))
        self.add_rows(batch.rows, *batch.outputs[self._making.run.step])
        if batch.last:
            self.publish()
        return self._failed - failed

    def add_rows(
        self,
        rows: Sequence[LoadedImage],
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16] | None = None,
        clipped: int = 0,
    ) -> None:
        """Take the next rows, without their pixels, and write every row group that is full.

        Args:
            rows: of each row its error, its label if it says one, and what is known of its picture.
            scores: [rows, classes].
            embeddings: [rows, width].
            clipped: probabilities that were raised before, to be counted with those that are raised here.
        """
        self._clipped += clipped
        taken = 0
        while taken < len(rows):
            filled = len(self._rows)
            take = min(len(rows) - taken, len(self._logits) - filled)
            self._logits[filled : filled + take] = scores[taken : taken + take]
            if embeddings is not None:
                self._embeddings[filled : filled + take] = embeddings[taken : taken + take]
            self._rows += rows[taken : taken + take]
            taken += take
            if len(self._rows) == len(self._logits):
                self._flush()

    @contextlib.contextmanager
    def timed(self, clock: str) -> Iterator[None]:
        """Add the seconds that the block takes to a clock."""
        began = time.perf_counter()
        yield
        self._seconds[clock] += time.perf_counter() - began

    def publish(self) -> None:
        """Write what is left and publish the part, unless a worker that was taken for dead has done so."""
        if self._rows:
            self._flush()
        record = self._making.record(self._began, self._seconds, self._clipped)
        if holds_part(self._making.path, self._making.run, record):
            self.abandon()
        else:
            self._writer.publish(record)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._writer.abandon()

    def _flush(self) -> None:
        with self.timed("write"):
            rows, count = self._rows, len(self._rows)
            ids = np.arange(self._start, self._start + count)
            self._rows, self._start = [], self._start + count
            built, clipped = self._making.predictions(
                self._writer, ids, rows, self._logits[:count], self._embeddings[:count]
            )
            self._clipped += clipped
            self._failed += int((built.predicted < 0).sum())
            self._writer.write(built)


class PartRepair:
    """A part whose failed rows were tried again: all others stay what they are, to the last bit."""

    def __init__(self, making: PartSpec) -> None:
        self._making, self._old = making, open_part(making.path)
        self._writer = making.writer()
        self._batches: list[Batch] = []
        self._began = time.time()

    def add(self, batch: "Batch") -> int:
        """Take the next rows; with the last of them the part is published, unless every row failed as before.

        -> failed rows among them.
        """
        self._batches.append(batch)
        if not batch.last:
            return 0
        began = time.perf_counter()
        step = self._making.run.step
        rows = [row for b in self._batches for row in b.rows]
        logits = np.concatenate([b.outputs[step][0] for b in self._batches])
        embeddings = [e for b in self._batches if (e := b.outputs[step][1]) is not None]
        fresh, clipped = self._making.predictions(
            self._writer,
            np.array(self._making.task.ids),
            rows,
            logits,
            np.concatenate(embeddings) if embeddings else None,
        )
        failed = int((fresh.predicted < 0).sum())
        for kept in read_batches(self._old):
            self._writer.write(kept.replace_rows(fresh))
        old = self._old.part
        if self._writer.content_digest == old.content_digest:
            self.abandon()
            return failed
        seconds = timing.add_seconds(old.seconds, {"write": time.perf_counter() - began})
        for b in self._batches:
            seconds = timing.add_seconds(seconds, _spent(b))
        started = self._began - (old.finished - old.started)  # so that the time it took is that of both
        self._writer.publish(self._making.record(started, seconds, old.clipped + clipped))
        return failed

    def abandon(self) -> None:
        """Leave nothing behind but what was there before."""
        self._writer.abandon()


def _spent(batch: "Batch") -> dict[str, float]:
    """Seconds of one step's share of a batch."""
    mine = {name: value / len(batch.outputs) for name, value in batch.seconds.items()}
    return {"decode": sum(row.seconds for row in batch.rows), **mine}
