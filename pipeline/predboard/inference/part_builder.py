"""Builds part files from rows as they arrive, and publishes each part whole. It knows no model, no device and no torch.

`infer` and `import` write their parts through it.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.config import ImportedKind
from predboard.errors import InputError
from predboard.images.label_items import with_item_labels
from predboard.images.loader import LoadedImage
from predboard.images.manifest import Manifest
from predboard.predictions.arrow import as_arrow
from predboard.predictions.schema import Part, Run
from predboard.predictions.table import Predictions
from predboard.predictions.tasks import rows_of, to_task_logits
from predboard.storage import timing
from predboard.storage.part_plan import PartRange
from predboard.storage.parts import PartWriter, holds_part, open_part, read_batches, row_group_size
from predboard.storage.paths import AnyPath
from predboard.storage.runs import part_path

_NO_SECONDS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class PartSpec:
    """Everything that a part is made from, besides its rows."""

    out: AnyPath
    run: Run
    part_range: PartRange
    """The rows of the manifest that it holds."""
    manifest: Manifest
    scores: ImportedKind
    """Kind of the scores of its rows, as `--scores` names it."""
    provenance: Mapping[str, Any]

    @property
    def path(self) -> AnyPath:
        """The part file."""
        return part_path(self.out, self.run.step, self.part_range.index)

    def writer(self) -> PartWriter:
        """Open the new file. Raises InputError if that is impossible."""
        columns = self.manifest.columns
        return PartWriter(self.path, self.run, columns.schema if columns.num_columns else None)

    def footer(self, started: float, seconds: Mapping[str, float], clipped: int) -> Part:
        """Return the record for the footer, once all rows are written. `started` is in seconds since 1970."""
        return Part(
            start=self.part_range.start,
            stop=self.part_range.stop,
            manifest_digest=self.manifest.digest(self.part_range.start, self.part_range.stop),
            manifest_rows=len(self.manifest),
            content_digest="",
            started=started,
            finished=time.time(),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            provenance=self.provenance,
            clipped=clipped,
        )

    @property
    def width(self) -> int:
        """Number of scores of a row: one for each class, or the predicted class and its confidence."""
        return len(self.run.classes) if self.run.has_scores else 2

    def refuse_other_width(self, scores: NDArray[np.float32], before: int) -> None:
        """Raise InputError for another number of scores than `before`, or 0 for the first rows, or than there can be.

        NumPy would repeat a single score for every class.
        """
        single = self.run.has_scores and bool(self.run.positive_class)
        if scores.shape[1] not in ((before,) if before else (self.width, 1) if single else (self.width,)):
            raise InputError(
                f"the model returned {scores.shape[1]} scores for an image; expected {before or self.width} as "
                f"{'before' if before else 'there are classes'}: does its output depend on the batch, or has a "
                "checkpoint another number of classes?"
            )

    def rows(
        self,
        schema: pa.Schema,
        ids: NDArray[np.int64],
        images: Sequence[LoadedImage],
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16] | None,
    ) -> tuple[Predictions, int]:
        """Return rows with all columns, and how many of their probabilities were clipped.

        Args:
            schema: of the part file.
            ids: rows of the manifest, [rows].
            images: what was read of each row; an error makes it a failed row.
            scores: [rows, classes], or [rows, 1] of the positive class; those of failed rows are overwritten.
            embeddings: [rows, dimensions], if the run has them.
        """
        manifest = self.manifest
        taken = as_arrow(ids, pa.int64())
        properties = [image.properties for image in images]
        more: dict[str, Any] = {
            "digest": [image.digest for image in images],
            "bytes": [image.length for image in images],
            **{
                name: [None if p is None else getattr(p, name) for p in properties]
                for name in ("width", "height", "brightness", "contrast")
            },
            **{
                name: manifest.columns.column(name).take(taken).combine_chunks()
                for name in manifest.columns.column_names
            },
        }
        if self.run.embedding:
            more["embedding"] = embeddings
        if self.run.thumbnails:
            more["thumbnail"] = [image.thumbnail for image in images]
        scores[[image.error is not None for image in images]] = np.nan  # so that no failed row counts as clipped
        logits, clipped = scores, 0
        if self.scores != "confidence":
            logits, clipped = to_task_logits(scores, self.scores, self.run)
        rows = rows_of(self.run).predictions.build(
            schema,
            id=ids,
            key=manifest.key[ids],
            image=manifest.image.take(taken),
            label=with_item_labels(manifest.label[ids], [image.label for image in images], len(self.run.classes)),
            logits=logits,
            error=[image.error for image in images],
            more=more,
        )
        return rows, clipped


class PartBuilder:
    """Builds one part of one step: gathers rows into row groups, writes these, and publishes the whole at the end.

    Use it in a `with` block, at whose end a part that was not published is abandoned and leaves nothing behind:

        with PartBuilder(spec) as part:
            for images, scores in batches:
                part.add(images, scores)
            part.publish()
    """

    def __init__(self, spec: PartSpec) -> None:
        """Open the new file. Raises InputError if that is impossible."""
        self._spec, self._writer = spec, spec.writer()
        self._group_rows = min(row_group_size(len(spec.run.classes)), len(spec.part_range))
        # One place for a row group's arrays: small ones that outlive their batch would keep the allocator from giving
        # the batches' large ones back (65 MB for 1,000 pictures of 96×96).
        self._scores = np.empty((self._group_rows, spec.width), np.float32)
        self._width = 0
        """Scores of a row; 0 before the first one."""
        self._embeddings = np.empty((self._group_rows, spec.run.embedding), np.float16)
        self._images: list[LoadedImage] = []
        self._next_row = spec.part_range.start
        self._clipped = 0
        self._started = time.time()
        self._seconds: dict[str, float] = {}
        self.failed = 0
        """Rows with an error that were written so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()  # which does nothing to a part that is published

    def add(
        self,
        images: Sequence[LoadedImage],
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16] | None = None,
        clipped: int = 0,
        seconds: Mapping[str, float] = _NO_SECONDS,
    ) -> None:
        """Take in the next rows, and write every row group that is full.

        Args:
            images: of each row its error, its label if it has its own, and what is known of its picture.
            scores: [rows, classes], of the kind that the spec names, or [rows, 1] of the positive one of two classes;
                of `confidence` the predicted class and its confidence, [rows, 2].
            embeddings: [rows, dimensions], if the run has them.
            clipped: probabilities that the caller clipped, counted with those that are clipped here.
            seconds: what these rows took, for the footer. Writing is added under `write`.
        """
        self._seconds = timing.add_seconds(self._seconds, seconds)
        self._clipped += clipped
        taken = 0
        self._spec.refuse_other_width(scores, self._width)
        self._width = scores.shape[1]
        if self._width != self._scores.shape[1]:
            self._scores = np.empty((self._group_rows, scores.shape[1]), np.float32)
        while taken < len(images):
            filled = len(self._images)
            count = min(len(images) - taken, self._group_rows - filled)
            self._scores[filled : filled + count] = scores[taken : taken + count]
            if embeddings is not None:
                self._embeddings[filled : filled + count] = embeddings[taken : taken + count]
            self._images += images[taken : taken + count]
            taken += count
            if len(self._images) == self._group_rows:
                self._write_group()

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a `with` block to those of the footer, under a name."""
        began = time.perf_counter()
        yield
        self._seconds = timing.add_seconds(self._seconds, {name: time.perf_counter() - began})

    def publish(self) -> None:
        """Write what is left, and put the part in its place, unless a whole one of the same rows is there by now."""
        self._write_group()
        footer = self._spec.footer(self._started, self._seconds, self._clipped)
        if holds_part(self._spec.path, self._spec.run, footer):  # made by a worker that was taken for dead
            self.abandon()
        else:
            self._writer.publish(footer)

    def abandon(self) -> None:
        """Leave nothing behind of a part that is not published."""
        self._writer.abandon()

    def _write_group(self) -> None:
        images, count = self._images, len(self._images)
        if not count:
            return
        with self.timed("write"):
            ids = np.arange(self._next_row, self._next_row + count)
            self._images, self._next_row = [], self._next_row + count
            rows, clipped = self._spec.rows(
                self._writer.schema, ids, images, self._scores[:count], self._embeddings[:count]
            )
            self._clipped += clipped
            self.failed += int((~rows.is_scored).sum())
            self._writer.write(rows)


class PartRepair:
    """Retries the failed rows of a part: all other rows stay what they are, to the last bit."""

    def __init__(self, spec: PartSpec, ids: Sequence[int]) -> None:
        """Open the part and its replacement. `ids` are the rows of the manifest that are retried."""
        self._spec, self._ids = spec, np.array(ids, np.int64)
        self._old = open_part(spec.path)
        self._writer = spec.writer()
        self._images: list[LoadedImage] = []
        self._scores: list[NDArray[np.float32]] = []
        self._embeddings: list[NDArray[np.float16]] = []
        self._started = time.time()
        self._seconds: dict[str, float] = {}
        self.failed = 0
        """Retried rows that failed again, once the part is published."""

    def add(
        self,
        images: Sequence[LoadedImage],
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16] | None = None,
        seconds: Mapping[str, float] = _NO_SECONDS,
    ) -> None:
        """Take in the next retried rows: see `PartBuilder.add`."""
        self._spec.refuse_other_width(scores, self._scores[0].shape[1] if self._scores else 0)
        self._images += images
        self._scores.append(scores)
        self._embeddings += [] if embeddings is None else [embeddings]
        self._seconds = timing.add_seconds(self._seconds, seconds)

    def publish(self) -> None:
        """Put the part with the new rows in the place of the old one, unless every row failed as before."""
        began = time.perf_counter()
        fresh, clipped = self._spec.rows(
            self._writer.schema,
            self._ids,
            self._images,
            np.concatenate(self._scores),
            np.concatenate(self._embeddings) if self._embeddings else None,
        )
        self.failed = int((~fresh.is_scored).sum())
        for rows in read_batches(self._old):
            self._writer.write(rows.replace_rows(fresh))
        old = self._old.part
        if self._writer.content_digest == old.content_digest:
            self.abandon()
            return
        seconds = timing.add_seconds(
            timing.add_seconds(old.seconds, {"write": time.perf_counter() - began}), self._seconds
        )
        started = self._started - (old.finished - old.started)  # so that the time it took is that of both
        self._writer.publish(self._spec.footer(started, seconds, old.clipped + clipped))

    def abandon(self) -> None:
        """Leave nothing behind but the part as it was."""
        self._writer.abandon()
