"""Holds rows of predictions as columns: the base `PredictionRows`, and `Predictions`, which have logits.

`derived_rows` holds the rows without logits. This module knows nothing of files: `storage.parts` reads and writes them.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.arrow import as_arrow, as_booleans, as_matrix, as_numpy, as_texts, from_values, scatter
from predboard.predictions.derive import derive, derive_from_confidence, softmax
from predboard.predictions.label_sets import Labels, MultiLabels
from predboard.predictions.sampling import Salt, jackknife_group, mix, rounded_size
from predboard.predictions.schema import GROUP_PREFIX, SINGLE_LABEL, reserved_columns

T = TypeVar("T")

TileRows = dict[str, NDArray[Any]]
"""A few rows as columns of equal length: what `tile_rows` returns and image tiles show."""

TILE_CLASSES = 3
"""Number of highest classes that a tile shows."""

TOP_CLASSES = 5
"""Number of highest classes of each row that derived rows keep."""

_BLOCK_NUMBERS = 2**18  # logits that are worked on at a time

TILE_COLUMNS = frozenset({"id", "key", "image", "label", "predicted", "confidence", "loss", "logits"})
"""Columns that `tile_rows` needs of `Predictions`."""


@dataclass(frozen=True)
class PredictionRows(abc.ABC):
    """Rows of predictions as columns, of either kind: a wrapper around an Arrow record batch.

    The batch may hold any selection of the columns; reading one that is absent raises KeyError. NumPy views are made on
    first use and kept.
    """

    batch: pa.RecordBatch
    manifest_rows: int = 0
    """Rows of the whole manifest, which samples of bounded size are drawn from; 0 if unknown."""
    has_scores: bool = True
    """Whether the scores of all classes are known, and not only the predicted class and its confidence."""

    task: ClassVar[str] = SINGLE_LABEL
    """Task of the runs whose rows these are."""
    right_share: ClassVar[str] = "accuracy"  # name of the share of right rows

    @property
    @abc.abstractmethod
    def top(self) -> NDArray[np.int64]:
        """Classes by falling logit, the lowest of equal ones first, int64 [rows, min(TOP_CLASSES, classes)]."""

    @property
    @abc.abstractmethod
    def top_probability(self) -> NDArray[np.float32]:
        """Probabilities of `top`, float32 [rows, min(TOP_CLASSES, classes)]."""

    @property
    @abc.abstractmethod
    def rank(self) -> NDArray[np.int64]:
        """Number of classes with a higher logit than the true one, int64 [rows]; only for labelled rows."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.batch.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as an Arrow stream: Arrow's own pickles lose the names and nulls of list elements."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batch.schema) as stream:
            stream.write_batch(self.batch)
        return _unpickle, (type(self), sink.getvalue().to_pybytes(), self.manifest_rows, self.has_scores)

    def column(self, name: str) -> pa.Array:
        """Return a column as it was read. Raises KeyError if it was not."""
        if name not in self.batch.schema.names:
            raise KeyError(f"column {name!r} was not read; the panel must name it in `columns`")
        return self.batch.column(name)

    def take(self, keep: NDArray[np.bool_]) -> Self:
        """Return the rows where `keep` [rows] is true."""
        # A new object even if all are kept: rows cached inside themselves would wait for the garbage collector.
        batch = self.batch if keep.all() else self.batch.filter(as_booleans(keep))
        return type(self)(batch, self.manifest_rows, self.has_scores)

    def row_name(self, at: int) -> int:
        """Return what messages call a row: its id, or its place where ids were not read."""
        return int(self.id[at]) if "id" in self.batch.schema.names else at

    @cached_property
    def _memo(self) -> dict[Any, Any]:
        return {}

    def memoize(self, key: Any, make: Callable[[], T]) -> T:
        """Return `make()`, which is called once for each key: panels that share a state measure it together.

        The value must not refer to these rows, or they would wait for the garbage collector.
        """
        if key not in self._memo:
            self._memo[key] = make()
        return cast(T, self._memo[key])

    def sample_mask(self, limit: int, salt: Salt) -> NDArray[np.bool_]:
        """Return which rows belong to a sample of about `limit` rows of the whole manifest, bool [rows].

        A row belongs to it or not by its key alone, so that the sample does not depend on how the rows are split. Its
        size is binomially distributed, and up to a fifth larger because of `rounded_size`. All rows are chosen if the
        manifest has no more than `limit` rows, or if its length is unknown.
        """
        size = rounded_size(self.manifest_rows)
        if size <= limit:
            return np.ones(len(self), bool)
        return np.asarray(mix(self.key, salt).view(np.uint64) < np.uint64(2**64 * limit // size))

    def _floats(self, name: str) -> NDArray[np.float32]:
        return as_numpy(self.column(name), np.nan).astype(np.float32, copy=False)

    @property
    def manifest_columns(self) -> list[str]:
        """Names of the further columns that the manifest supplied."""
        reserved = reserved_columns(self.task)
        return [n for n in self.batch.schema.names if n not in reserved and not n.startswith(GROUP_PREFIX)]

    @cached_property
    def group_column(self) -> str:
        """Name of the column whose equal values make rows belong together; empty if each image stands for itself."""
        return next((n for n in self.batch.schema.names if n.startswith(GROUP_PREFIX)), "").removeprefix(GROUP_PREFIX)

    @property
    def group_key(self) -> NDArray[np.int64]:
        """Hash that is equal in rows that belong together, int64 [rows]: the key, where each stands for itself."""
        return as_numpy(self.column(GROUP_PREFIX + self.group_column)) if self.group_column else self.key

    @cached_property
    def jackknife_group(self) -> NDArray[np.int64]:
        """Group of each row for the jackknife, int64 [rows], 0 to 19; rows that belong together are in one."""
        return jackknife_group(self.group_key)

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Return a numeric column as float64 [rows], NaN where it is null; None if the column is not numeric.

        Integers beyond 2**53 and decimals are rounded.
        """
        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return None
        return as_numpy(column.cast(pa.float64(), safe=False), np.nan)

    def texts(self, name: str) -> tuple[list[str], NDArray[np.int64]] | None:
        """Return the distinct texts of a column, and the index of each row's text, int64 [rows], -1 where it is null.

        Booleans and dates count as texts. None if the column holds anything else.
        """
        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not (texts or pa.types.is_boolean(kind) or pa.types.is_temporal(kind)):
            return None
        encoded = as_texts(column).dictionary_encode()
        return encoded.dictionary.to_pylist(), as_numpy(encoded.indices, -1).astype(np.int64)

    @cached_property
    def id(self) -> NDArray[np.int64]:
        """Row of the manifest, int64 [rows]."""
        return as_numpy(self.column("id")).astype(np.int64, copy=False)

    @cached_property
    def key(self) -> NDArray[np.int64]:
        """Hash of the image ref, int64 [rows]."""
        return as_numpy(self.column("key")).astype(np.int64, copy=False)

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """True class, int64 [rows], -1 if unknown."""
        return as_numpy(self.column("label"), -1).astype(np.int64)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted class, int64 [rows], -1 for a failed row."""
        return as_numpy(self.column("predicted"), -1).astype(np.int64)

    @cached_property
    def digest(self) -> NDArray[np.int64]:
        """Hash of the source image's bytes, int64 [rows], 0 if there is none (see `has_digest`)."""
        return as_numpy(self.column("digest"), 0).astype(np.int64)

    @cached_property
    def has_digest(self) -> NDArray[np.bool_]:
        """Whether the source image's bytes were hashed, bool [rows]."""
        return as_numpy(self.column("digest").is_valid().cast(pa.uint8())).astype(bool)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of the predicted class, float32 [rows], 0 to 1, NaN for a failed row."""
        return self._floats("confidence")

    @cached_property
    def loss(self) -> NDArray[np.float32]:
        """Negative log-likelihood of the label, float32 [rows], nats, NaN for a failed row or an unknown label."""
        return self._floats("loss")

    @cached_property
    def margin(self) -> NDArray[np.float32]:
        """Probability of the predicted class minus that of the next, float32 [rows], 0 to 1, NaN for a failed row."""
        return self._floats("margin")

    @cached_property
    def entropy(self) -> NDArray[np.float32]:
        """Entropy of the probabilities, float32 [rows], nats, NaN for a failed row."""
        return self._floats("entropy")

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """Whether each row has logits, bool [rows]; only rows that have failed have none."""
        return self.predicted >= 0

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether each row has a label, bool [rows]."""
        return self.label >= 0

    @property
    def known_labels(self) -> Labels:
        """The labels of all rows, as they were given to `Predictions.build`."""
        return self.label

    @property
    def lead_label(self) -> NDArray[np.int64]:
        """The class by which rows are put in order, int64 [rows]: the true one, -1 if it is unknown."""
        return self.label

    label_code = lead_label  # equal for equal labels

    @cached_property
    def scored(self) -> Self:
        """The rows that have logits."""
        return self.take(self.is_scored)

    @cached_property
    def labelled(self) -> Self:
        """The rows that have logits and a label, which are those that every metric counts."""
        known = self.scored.is_labelled
        return self.scored if known.all() else self.scored.take(known)  # the same object, which computes columns once

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the true one, bool [rows]."""
        return np.equal(self.predicted, self.label)

    def tile_rows(self, chosen: NDArray[np.integer[Any]]) -> TileRows:
        """Return what tiles show of the chosen scored rows, by their indices.

        Returns:
            id, key, image (object), label, predicted, confidence and loss: [chosen]; right int8 [chosen], 1 or 0, -1
            without label; top_class int64 and top_probability float32, highest first: [chosen, min(TILE_CLASSES,
            classes)]. Where rows have sets of labels, what their type says instead of label and predicted.
        """
        images = self.column("image").take(as_arrow(chosen, pa.int64()))
        return {
            "id": self.id[chosen],
            "key": self.key[chosen],
            "image": np.array(images.to_pylist(), object),
            **self._tile_labels(chosen),
            "confidence": self.confidence[chosen],
            "loss": self.loss[chosen],
            "right": np.where(self.is_labelled, self.right, -1).astype(np.int8)[chosen],
            "top_class": self.top[chosen, :TILE_CLASSES],
            "top_probability": self.top_probability[chosen, :TILE_CLASSES],
        }

    def _tile_labels(self, chosen: NDArray[np.integer[Any]]) -> TileRows:
        """Return what tiles show of the labels and the predictions of the chosen scored rows."""
        return {"label": self.label[chosen], "predicted": self.predicted[chosen]}


def _unpickle(kind: type[PredictionRows], stream: bytes, manifest_rows: int, has_scores: bool) -> PredictionRows:
    with pa.ipc.open_stream(stream) as batches:
        return kind(batches.read_next_batch(), manifest_rows, has_scores)


@dataclass(frozen=True)
class Predictions(PredictionRows):
    """Rows of predictions with their logits, by the columns of `COLUMNS`: what stage one writes and stage two reads."""

    @classmethod
    def build(
        cls,
        schema: pa.Schema,
        *,
        id: NDArray[np.int64],  # noqa: A002  the column's name
        key: NDArray[np.int64],
        image: pa.Array,
        label: Labels,
        logits: NDArray[np.float32],
        error: Sequence[str | None],
        more: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build rows from arrays and compute the derived columns.

        Args:
            schema: from `part_schema`.
            id, key: [rows].
            image: [rows] strings.
            label: [rows], -1 if unknown; or what is known of several labels a row.
            logits: [rows, classes]; or where the schema has no logits the predicted class and its confidence,
                [rows, 2]. Rows with an error are ignored.
            error: [rows], None where the row is fine. A row whose logits are not finite gets an error here.
            more: every other column of `schema` that is not derived, as arrays of [rows]; of `embedding`, the values in
                rows with an error are ignored.
        """
        finite: list[bool] = np.asarray(np.isfinite(logits).all(axis=1)).tolist()
        errors = [
            e or (None if f else "the model gave logits that are not finite")
            for e, f in zip(error, finite, strict=True)
        ]
        ok = np.array([e is None for e in errors], bool)
        whole = slice(None) if ok.all() else ok  # to take all rows by a mask would copy them
        columns: dict[str, pa.Array] = {
            "id": as_arrow(id, pa.int64()),
            "key": as_arrow(key, pa.int64()),
            "image": image,
            "error": from_values(errors, pa.string()),
        }
        has_scores = "logits" in schema.names
        if has_scores:
            columns["logits"] = scatter(logits[whole], ok, schema.field("logits").type)
        known, derived = cls._label_columns(schema, label, logits[whole], ok)
        columns |= known
        for name, values in derived.items():
            valid = ok.copy()
            valid[ok] = ~np.isnan(values)
            columns[name] = scatter(values[valid[ok]], valid, schema.field(name).type)
        for name, values in (more or {}).items():
            type_ = schema.field(name).type
            if name == "embedding":
                values = scatter(np.asarray(values)[ok], ok, type_)
            columns[name] = values if isinstance(values, pa.Array) else from_values(values, type_)
        batch = pa.RecordBatch.from_arrays([columns[f.name] for f in schema], schema=schema)
        return cls(batch, has_scores=has_scores)

    @classmethod
    def _label_columns(
        cls, schema: pa.Schema, label: Labels, logits: NDArray[np.float32], ok: NDArray[np.bool_]
    ) -> tuple[dict[str, pa.Array], dict[str, NDArray[Any]]]:
        """Return the columns of labels [rows], and derived numbers of the rows where `ok` [rows] is true.

        `logits` [ok rows, classes] and the derived numbers [ok rows], NaN where they are not known, are of these alone.
        """
        if isinstance(label, MultiLabels):
            raise TypeError("rows of one label each cannot be built from sets of labels")
        known = {"label": as_arrow(label, pa.int32(), label >= 0)}
        return known, derive(logits, label[ok]) if "logits" in schema.names else derive_from_confidence(logits)

    def compute_losses(self) -> NDArray[np.float32]:
        """Compute the losses anew from logits and labels, float32 [rows], NaN where a label is unknown."""
        return np.asarray(derive(self.logits, self.label)["loss"])

    def replace_rows(self, fresh: "Predictions") -> Self:
        """Return these rows with those of `fresh` in place of the rows with the same id.

        Both are sorted by id; the result has the columns of `fresh`.
        """
        shared = fresh.id[np.isin(fresh.id, self.id)]
        order = np.arange(len(self))
        order[np.searchsorted(self.id, shared)] = len(self) + np.searchsorted(fresh.id, shared)
        schema = fresh.batch.schema
        columns = [(self.column(f.name), f.type) for f in schema]
        mine = [column if column.type == type_ else column.cast(type_) for column, type_ in columns]
        tables = pa.Table.from_arrays(mine, schema=schema), pa.Table.from_batches([fresh.batch])
        both = pa.concat_tables(tables).take(pa.array(order))
        return type(self)(both.combine_chunks().to_batches()[0], has_scores=fresh.has_scores)

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Scores before softmax, float32 [rows, classes]. Raises ValueError for failed rows: take `scored` first."""
        column = self.column("logits")
        if column.null_count:
            raise ValueError(f"{column.null_count} failed rows have no logits; take `scored` first")
        return as_matrix(column).astype(np.float32, copy=False)

    @cached_property
    def embedding(self) -> NDArray[np.float32]:
        """Embeddings, float32 [rows, dimensions]. Raises ValueError for failed rows: take `scored` first."""
        column = self.column("embedding")
        if column.null_count:
            raise ValueError(f"{column.null_count} failed rows have no embedding; take `scored` first")
        return as_matrix(column).astype(np.float32)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, float32 [rows, classes], each with a relative error of about 1e-6, tiny ones too."""
        return softmax(self.logits)

    @cached_property
    def top(self) -> NDArray[np.int64]:
        """Classes by falling logit, the lowest of equal ones first, int64 [rows, min(TOP_CLASSES, classes)]."""
        return self._highest[0] if self.has_scores else self.predicted[:, None]

    @cached_property
    def _highest(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes by falling logit as `top`, and their logits: [rows, min(TOP_CLASSES, classes)] each."""
        count, size = min(TOP_CLASSES, self.logits.shape[1]), max(_BLOCK_NUMBERS // self.logits.shape[1], 1)
        top, logits = np.empty((len(self), count), np.int64), np.empty((len(self), count), np.float32)
        for start in range(0, len(self), size):  # blocks that stay in the processor's cache
            left = self.logits[start : start + size].copy()  # [rows, classes]
            rows = np.arange(len(left))
            for i in range(count):  # taking the maximum five times is three times as fast as a partial sort
                highest = top[start : start + size, i] = left.argmax(axis=1)
                logits[start : start + size, i] = left[rows, highest]
                left[rows, highest] = -np.inf
        return top, logits

    @cached_property
    def top_probability(self) -> NDArray[np.float32]:
        """Probabilities of `top`, float32 [rows, min(TOP_CLASSES, classes)]."""
        if not self.has_scores:
            return self.confidence[:, None]
        return np.take_along_axis(self.probabilities, self.top, axis=1)

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Number of classes with a higher logit than the true one, int64 [rows]; only for labelled rows."""
        true = self.logits[np.arange(len(self)), self.label][:, None]
        rank: NDArray[np.int64] = np.asarray(np.count_nonzero(self._highest[1] > true, axis=1))
        deep = np.flatnonzero(rank == self.top.shape[1])  # only these rows require all classes
        rank[deep] = np.count_nonzero(self.logits[deep] > true[deep], axis=1)
        return rank

    @cached_property
    def ties(self) -> NDArray[np.int64]:
        """Number of other classes with the logit of the true one, int64 [rows]; 0 where that is not among `top`."""
        true = self.logits[np.arange(len(self)), self.label][:, None]
        ties: NDArray[np.int64] = np.maximum(np.count_nonzero(self._highest[1] == true, axis=1) - 1, 0)
        more = np.flatnonzero(self._highest[1][:, -1] == true[:, 0])  # only these rows require all classes
        ties[more] = np.count_nonzero(self.logits[more] == true[more], axis=1) - 1
        return ties
