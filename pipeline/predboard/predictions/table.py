"""The contract between the two stages: columns, units, footer and version of a table of predictions.

Knows Arrow's types, and nothing of files (`store`), of models (`models`) or of TensorBoard (`events`).
`docs/format.md` says the same in prose, enough for another program to write it.
"""

import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Self, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.errors import DamagedError, InputError

T = TypeVar("T")

FORMAT_VERSION = 1

TileRows = dict[str, NDArray[Any]]
"""A handful of rows as columns of equal length; what `Predictions.rows` gives and a tile shows."""

TILE_CLASSES = 3
"""How many of the highest classes a tile shows."""

TOP_CLASSES = 5
"""How many of the highest classes of a row are kept beside it, in `rows.parquet`."""

# name: (type, may be null, meaning). A reader may rely on every one but the two that are marked optional.
COLUMNS: dict[str, tuple[pa.DataType, bool, str]] = {
    "id": (pa.int64(), False, "row of the manifest, from 0; ascending and without gaps inside a part"),
    "key": (pa.int64(), False, "hash of the image ref; joins runs, breaks ties, samples and folds"),
    "image": (pa.string(), True, "ref of the source image, relative to the footer's root"),
    "label": (pa.int32(), True, "index of the true class; null if unknown"),
    "logits": (
        pa.list_(pa.float32()),
        True,
        "[classes] scores before softmax, elements not null; null for a failed row",
    ),
    "error": (pa.string(), True, "why this row has no logits; null if it has"),
    "predicted": (pa.int32(), True, "index of the highest logit, the lowest index of several"),
    "confidence": (pa.float32(), True, "softmax probability of `predicted`"),
    "loss": (pa.float32(), True, "negative log-likelihood of `label`, nats"),
    "margin": (pa.float32(), True, "probability of `predicted` less that of the runner-up"),
    "entropy": (pa.float32(), True, "of the softmax probabilities, nats"),
    "digest": (pa.int64(), True, "hash of the encoded bytes of the source image"),
    "width": (pa.int32(), True, "of the source picture, pixels"),
    "height": (pa.int32(), True, "of the source picture, pixels"),
    "bytes": (pa.int64(), True, "length of the encoded source image"),
    "brightness": (pa.float32(), True, "mean luma of the source picture, 0 to 1"),
    "contrast": (pa.float32(), True, "standard deviation of the luma of the source picture, 0 to 0.5"),
    "embedding": (pa.list_(pa.float16()), True, "optional: input of the last linear layer, or output of another"),
    "thumbnail": (pa.binary(), True, "optional: JPEG of the source picture"),
}


MIN_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Smallest normal float32, 1.2e-38: no stored probability is less, so that its logarithm (-87.3) is finite."""

_OFF = 0.02
"""How far from 1 the probabilities of a row may add up to: half precision has three digits."""


def hash64(data: bytes | memoryview) -> int:
    """Signed 64-bit hash: the first 8 bytes of BLAKE2b with digest size 8, little-endian (RFC 7693)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def hash_refs(refs: Iterable[str]) -> NDArray[np.int64]:
    """`key` of each ref: `hash64` of its UTF-8 bytes. -> [rows] int64."""
    return np.fromiter((hash64(ref.encode("utf-8", "surrogateescape")) for ref in refs), np.int64)


def mix(key: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Another hash of each key, for choosing rows without regard to their order. -> [rows] int64.

    The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    x = key.view(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


def rounded_size(rows: int) -> int:
    """Rows of a manifest as samples know them: rounded down to one of four numbers in each doubling.

    So what is measured of a part stays the same while the manifest grows by less than a fifth.

    >>> rounded_size(100_000), rounded_size(110_000), rounded_size(8192), rounded_size(0)
    (92681, 92681, 8192, 0)
    """
    return int(2 ** (math.floor(4 * math.log2(rows)) / 4)) if rows else 0


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_records(*records: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that change with any value in the records."""
    return _hashed(map(_canonical, records))


def _hashed(texts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Run:
    """What is equal in all parts of one step: everything that decides the numbers in it. JSON in the footer."""

    classes: tuple[str, ...]
    model: str
    step: int = 0
    model_args: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    """Digest of the model's source file, empty if there is none."""
    weights: str = ""
    """Digest of the weights."""
    transform: Mapping[str, Any] = field(default_factory=dict)
    """What was done to a picture before the model saw it; the fields are those of `predboard infer`."""
    precision: str = "fp32"
    root: str = ""
    """Folder that the image refs are relative to."""
    shard_size: int = 4096
    embedding: int = 0
    """Length of an embedding; 0 if there are none."""
    embedding_layer: str = ""
    """Whose output the embedding is; empty: it is the input of the last linear layer."""
    thumbnails: int = 0
    """Longest side of a thumbnail, pixels; 0 if there are none."""
    scores: str = "logits"
    """What the column `logits` holds: `logits`, or `to_log_probabilities`, which are logits whose softmax was known."""
    format: int = FORMAT_VERSION

    @property
    def origin(self) -> str:
        """Where the images came from, for a person: the dataset, else the folder; empty if neither is known."""
        return str(self.transform.get("dataset") or self.root)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; parts of one step agree in it."""
        return digest_records(asdict(self))

    def difference(self, other: Self) -> tuple[str, str, str] | None:
        """First field in which two runs differ, its value here and there; None if they are equal."""

        def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, value in record.items():
                nested = isinstance(value, Mapping) and (value or not prefix)  # an argument of {} is still one
                found.update(flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
            return found

        if self.fingerprint == other.fingerprint:
            return None
        if self.classes != other.classes:
            if len(self.classes) != len(other.classes):
                return "classes", f"{len(self.classes)} names", f"{len(other.classes)} names"
            return ("classes", *next((a, b) for a, b in zip(self.classes, other.classes, strict=True) if a != b))
        here, there = flat(json.loads(_canonical(asdict(self)))), flat(json.loads(_canonical(asdict(other))))
        for name in {**here, **there}:
            now, then = here.get(name, "not given"), there.get(name, "not given")
            if now != then:
                return name, str(now), str(then)
        return None


@dataclass(frozen=True)
class Part:
    """What is true of one part file alone. JSON in the footer."""

    start: int
    stop: int
    """Rows of the manifest: start <= id < stop."""
    manifest_digest: str
    """Of the manifest's rows start to stop: refs, labels and further columns."""
    manifest_rows: int
    """Length of the whole manifest when the part was written."""
    content_digest: str
    """Of ids, logits and errors: equal in two parts that hold the same predictions."""
    started: float = 0.0
    finished: float = 0.0
    """Seconds since 1970."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where the time went."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Checkpoint file, device, batch size, versions of the software: good to know, without effect on validity."""
    clipped: int = 0
    """Probabilities below `MIN_PROBABILITY` that were raised to it."""


def encode_footer(run: Run, part: Part) -> dict[str, str]:
    """Key-value metadata of a part file."""
    records = asdict(run), asdict(part)
    return {
        "predboard.run": _canonical(records[0]),
        "predboard.part": _canonical(records[1]),
        "predboard.digest": digest_records(*records),
    }


def read_footer(metadata: Mapping[bytes, bytes] | None, where: str) -> tuple[Run, Part]:
    """`Run` and `Part` of a file's key-value metadata.

    Raises InputError if there are none, if they come from a newer format, or if they were damaged. The rule of the
    digest is the same in every format, so that damage is never taken for one.
    """
    found = metadata or {}
    if not any(key.startswith(b"predboard.") for key in found):
        raise InputError(
            f"{where} holds no predictions (its footer has no predboard record): run `predboard infer` first"
        )
    try:
        run, canonical = _run_record(found[b"predboard.run"])
        part = json.loads(found[b"predboard.part"])
        version = int(run["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{where} is damaged (its footer cannot be read: {error}): run the command that made it again"
        ) from error
    if _hashed((canonical, _canonical(part))) != found.get(b"predboard.digest", b"").decode("ascii", "replace"):
        raise DamagedError(
            f"{where} is damaged (its footer does not fit its digest): run the command that made it again"
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{where} has format {version}, this predboard reads up to {FORMAT_VERSION}: upgrade predboard to read it"
        )
    try:
        return _run_of(found[b"predboard.run"]), Part(**part)
    except (TypeError, KeyError) as error:
        raise InputError(f"{where} has a footer with other fields than format {FORMAT_VERSION}: {error}") from error


@lru_cache(8)
def _run_record(text: bytes) -> tuple[dict[str, Any], str]:
    """What all parts of a step say in the same words is read once, and its canonical form."""
    record: dict[str, Any] = json.loads(text)
    return record, _canonical(record)


@lru_cache(8)
def _run_of(text: bytes) -> Run:
    record, _ = _run_record(text)
    return Run(**{**record, "classes": tuple(record["classes"])})


def part_schema(run: Run, columns: pa.Schema | None = None) -> pa.Schema:
    """Arrow schema of a part: the fixed columns, then the manifest's further `columns`."""
    fields = []
    for name, (type_, nullable, _) in COLUMNS.items():
        if (name == "embedding" and not run.embedding) or (name == "thumbnail" and not run.thumbnails):
            continue
        sizes = {"logits": len(run.classes), "embedding": run.embedding}
        if name in sizes:  # elements not null: reads 1.5 times faster
            type_ = pa.list_(pa.field("element", type_.value_type, nullable=False), sizes[name])
        fields.append(pa.field(name, type_, nullable))
    return pa.schema(fields + list(columns or ()))


def rename_reserved_columns(names: Sequence[str]) -> list[str]:
    """What the manifest's further columns are called: one that has a name of ours gets `manifest_` before it.

    `step` is ours too: it is the name of the folders, which pandas and Arrow read as a column.

    >>> rename_reserved_columns(["width", "country", "manifest_width", "step"])
    ['manifest_manifest_width', 'country', 'manifest_width', 'manifest_step']
    """
    taken = {*COLUMNS, "step", *names}
    found = []
    for name in names:
        if name in COLUMNS or name == "step":
            while name in taken:
                name = f"manifest_{name}"
            taken.add(name)
        found.append(name)
    return found


def derive(logits: NDArray[np.float32], label: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
    """The derived columns of rows that have logits.

    Args:
        logits: [rows, classes], finite.
        label: [rows], -1 if unknown.

    Returns:
        predicted int32, confidence, loss (nan where the label is unknown), margin, entropy float32, each [rows].
        Computed in float64 from the logits as they are stored.

    Example: for logits (0, ln 3) and label 0, probabilities are (1/4, 3/4): predicted 1, confidence .75, loss ln 4,
    margin .5.
    """
    rows = np.arange(len(logits))
    predicted = logits.argmax(axis=1)
    shifted = logits.astype(np.float64)  # [rows, classes]
    shifted -= shifted[rows, predicted][:, None]
    exp = np.exp(shifted)
    rest = exp.copy()
    rest[rows, predicted] = 0
    log_sum = np.log1p(rest.sum(axis=1))  # log1p keeps the losses of confident rows, which 1 + x would round away
    confidence = np.exp(-log_sum)
    known = label >= 0
    loss = np.where(known, log_sum - shifted[rows, np.where(known, label, 0)], np.nan)
    loss = np.minimum(loss, np.finfo(np.float32).max)  # twice the largest float32 apart is still no infinite loss
    margin = (1 - rest.max(axis=1)) * confidence if logits.shape[1] > 1 else confidence
    entropy = log_sum - (exp * shifted).sum(axis=1) * confidence  # H = logsumexp(z) - sum p z
    return {
        "predicted": predicted.astype(np.int32),
        "confidence": confidence.astype(np.float32),
        "loss": loss.astype(np.float32),
        "margin": margin.astype(np.float32),
        "entropy": np.maximum(entropy, 0).astype(np.float32),
    }


def to_log_probabilities(probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], int]:
    """What the column `logits` holds of a model that ends in a softmax: softmax of it gives the probabilities back.

    Args:
        probabilities: [rows, classes], at least 0, each row of sum 1 as near as its precision allows.

    Returns:
        natural logarithms, float32 [rows, classes], and how many probabilities were raised to float32's smallest normal
        number (1.2e-38, of logarithm -87.3) because they were below it. A NaN stays one.

    Example: (1/4, 3/4, 0) becomes (-1.386, -0.288, -87.3), and 1.
    """
    p = probabilities.astype(np.float64)
    return np.log(np.maximum(p, MIN_PROBABILITY)).astype(np.float32), int((p < MIN_PROBABILITY).sum())


def to_logits(scores: NDArray[np.floating[Any]], kind: str) -> tuple[NDArray[np.float32], int]:
    """What the column `logits` holds of what a model gave.

    Args:
        scores: [rows, classes].
        kind: `logits` are kept as they are; of `probabilities` and `to_log_probabilities` the column holds logarithms.

    Returns:
        float32 [rows, classes], and how many probabilities below `MIN_PROBABILITY` were raised to it. A NaN stays one.

    Raises InputError if they are no probabilities: outside 0 to 1, or a row that does not add up to 1 within 0.02.
    """
    if kind == "logits":
        return scores.astype(np.float32, copy=False), 0
    wide = scores.astype(np.float64)
    p = wide if kind == "probabilities" else np.exp(np.minimum(wide, 1.0))  # above ln 1 is refused, not infinite
    whole = p[~np.isnan(p).any(axis=1)]
    wrong = ((whole < 0) | (whole > 1 + _OFF)).any(axis=1) | (np.abs(whole.sum(axis=1) - 1) > _OFF)
    if wrong.any():
        row = whole[wrong.argmax()]
        raise InputError(
            f"a row of {kind.replace('_', ' ')} adds up to {row.sum():.4g}, from {row.min():.4g} to {row.max():.4g}"
            f"{' after exp' * (kind == 'log_probabilities')}; expected numbers from 0 to 1 that add up to 1: are the "
            "scores logits, or of several labels for one image?"
        )
    if kind == "probabilities":
        return to_log_probabilities(scores)
    return np.maximum(wide, np.log(MIN_PROBABILITY)).astype(np.float32), int((p < MIN_PROBABILITY).sum())


def as_numpy(array: pa.Array, null: float | None = None) -> NDArray[Any]:
    """[rows] numbers of an Arrow array, nulls replaced, without a copy where that is possible.

    NumPy's own conversion would make Arrow import pandas, which takes half a second.
    """
    if array.null_count:
        array = array.fill_null(as_arrow(np.array([null]), array.type)[0])
    dtype = np.dtype(array.type.to_pandas_dtype())
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _lists(array: pa.Array) -> NDArray[Any]:
    """[rows, n] of an Arrow array of lists of one length, none of them null."""
    return as_numpy(array.flatten()).reshape(len(array), array.type.list_size)


def _arrow_bools(values: NDArray[np.bool_]) -> pa.BooleanArray:
    bits = pa.py_buffer(np.packbits(values, bitorder="little").tobytes())
    return pa.BooleanArray.from_buffers(pa.bool_(), len(values), [None, bits])


def as_arrow(values: NDArray[Any], type_: pa.DataType, ok: NDArray[np.bool_] | None = None) -> pa.Array:
    """Arrow array of [rows] numbers, null where they are not ok. `pyarrow.array` would import pandas, as above."""
    numbers = np.ascontiguousarray(values, type_.to_pandas_dtype())
    valid = None if ok is None or ok.all() else _arrow_bools(ok).buffers()[1]
    return pa.Array.from_buffers(type_, len(numbers), [valid, pa.py_buffer(numbers)])


def arrow_bytes(texts: Sequence[bytes]) -> pa.LargeBinaryArray:
    """Arrow array of encoded texts, likewise."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.large_binary(), len(texts), buffers)


def scatter(values: NDArray[Any], ok: NDArray[np.bool_], type_: pa.DataType) -> pa.Array:
    """Array of len(ok) rows with `values` in the rows that are ok and null in the others."""
    if isinstance(type_, pa.FixedSizeListType):
        full = np.zeros((len(ok), type_.list_size), type_.value_type.to_pandas_dtype())
        full[ok] = values
        flat = as_arrow(full.reshape(-1), type_.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=type_, mask=_arrow_bools(~ok))
    full = np.zeros(len(ok), values.dtype)
    full[ok] = values
    return as_arrow(full, type_, ok)


@dataclass(frozen=True)
class Predictions:
    """Rows of predictions as columns: the one type that crosses the disk.

    It wraps an Arrow record batch that holds some of `COLUMNS`; an attribute of a column that was not read raises
    KeyError. NumPy views are made on first use and kept.
    """

    batch: pa.RecordBatch
    of: int = 0
    """Rows of the whole manifest, 0 if not known: what a sample of bounded size is drawn from."""
    derived: bool = False
    """Whether these are rows of `rows.parquet`: `top`, its probabilities and `rank` are columns, and logits are not."""

    @classmethod
    def build(
        cls,
        schema: pa.Schema,
        *,
        id: NDArray[np.int64],  # noqa: A002  the column's name
        key: NDArray[np.int64],
        image: pa.Array,
        label: NDArray[np.integer[Any]],
        logits: NDArray[np.float32],
        error: Sequence[str | None],
        further: Mapping[str, Any] | None = None,
    ) -> Self:
        """Rows from arrays, with the derived columns.

        Args:
            schema: from `part_schema`.
            id, key: [rows].
            image: [rows] strings.
            label: [rows], -1 if unknown.
            logits: [rows, classes]; rows with an error are ignored.
            error: [rows], None where the row is fine. A row whose logits are not finite becomes an error.
            further: every other column of `part_schema` but the derived ones; arrays of [rows], or of the ok rows'
                values
                for `embedding`.
        """
        finite: list[bool] = np.asarray(np.isfinite(logits).all(axis=1)).tolist()
        errors = [
            e or (None if f else "the model gave logits that are not finite")
            for e, f in zip(error, finite, strict=True)
        ]
        ok = np.array([e is None for e in errors], bool)
        derived = derive(logits[ok], label[ok])
        columns: dict[str, pa.Array] = {
            "id": pa.array(id, pa.int64()),
            "key": pa.array(key, pa.int64()),
            "image": image,
            "label": pa.array(label, pa.int32(), mask=label < 0),
            "logits": scatter(logits[ok], ok, schema.field("logits").type),
            "error": pa.array(errors, pa.string()),
        }
        for name, values in derived.items():
            good = ok.copy()
            good[ok] = ~np.isnan(values)
            columns[name] = scatter(values[good[ok]], good, schema.field(name).type)
        for name, values in (further or {}).items():
            type_ = schema.field(name).type
            if name == "embedding":
                values = scatter(np.asarray(values)[ok], ok, type_)
            columns[name] = values if isinstance(values, pa.Array) else pa.array(values, type_)
        return cls(pa.RecordBatch.from_arrays([columns[f.name] for f in schema], schema=schema))

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.batch.num_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """By Arrow's own stream: pickled as it is, a list would lose the name and the nulls of its elements."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batch.schema) as stream:
            stream.write_batch(self.batch)
        return _received, (sink.getvalue().to_pybytes(), self.of, self.derived)

    def column(self, name: str) -> pa.Array:
        """The column as it was read."""
        if name not in self.batch.schema.names:
            raise KeyError(f"column {name!r} was not read; the panel must name it in `columns`")
        return self.batch.column(name)

    def take(self, keep: NDArray[np.bool_]) -> Self:
        """The rows where `keep` is true."""
        # Never `self`: what keeps its own `scored` would wait for the garbage collector.
        return type(self)(self.batch if keep.all() else self.batch.filter(_arrow_bools(keep)), self.of, self.derived)

    @cached_property
    def _made(self) -> dict[Any, Any]:
        return {}

    def once(self, what: Any, make: Callable[[], T]) -> T:
        """`make()`, called for the first of the panels that want it; the others get the same value.

        The value must not hold these rows, or they would wait for the garbage collector.
        """
        if what not in self._made:
            self._made[what] = make()
        return cast(T, self._made[what])

    def sampled(self, limit: int, salt: int) -> NDArray[np.bool_]:
        """Which rows belong to a sample of `limit` rows of the whole manifest, or up to a fifth more (see
        `rounded_size`), by
        the hash of the key.

        Each row is in it or not by its key alone, so the sample is the same however the rows are split; its size varies
        as a binomial does. All rows if the manifest has no more than `limit`, or its length is not known. -> [rows].
        """
        of = rounded_size(self.of)
        if of <= limit:
            return np.ones(len(self), bool)
        return np.asarray(mix(self.key, salt).view(np.uint64) < np.uint64(2**64 * limit // of))

    def replaced(self, fresh: "Predictions") -> Self:
        """With the rows of `fresh` in place of those of the same id; both ascend. The columns are those of `fresh`."""
        here = fresh.id[np.isin(fresh.id, self.id)]
        order = np.arange(len(self))
        order[np.searchsorted(self.id, here)] = len(self) + np.searchsorted(fresh.id, here)
        schema = fresh.batch.schema
        columns = [(self.column(f.name), f.type) for f in schema]
        mine = [column if column.type == type_ else column.cast(type_) for column, type_ in columns]
        tables = pa.Table.from_arrays(mine, schema=schema), pa.Table.from_batches([fresh.batch])
        both = pa.concat_tables(tables).take(pa.array(order))
        return type(self)(both.combine_chunks().to_batches()[0])

    def _floats(self, name: str) -> NDArray[np.float32]:
        return as_numpy(self.column(name), np.nan).astype(np.float32, copy=False)

    @property
    def further(self) -> list[str]:
        """Names of the columns that the manifest brought along."""
        return [name for name in self.batch.schema.names if name not in COLUMNS]

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """[rows] float64 of a column of numbers, nan where there is none; None if it holds something else.

        Whole numbers beyond 2**53 and decimals are rounded.
        """
        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return None
        return as_numpy(column.cast(pa.float64(), safe=False), np.nan)

    def texts(self, name: str) -> tuple[list[str], NDArray[np.int64]] | None:
        """Distinct texts of a column and the place of each row's among them, -1 for none: [rows] int64.

        Truth values and dates are taken as texts, times of a zone as those of UTC: not every machine knows all zones.
        None if the column holds something else.
        """
        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not (texts or pa.types.is_boolean(kind) or pa.types.is_temporal(kind)):
            return None
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC"))
        encoded = column.cast(pa.string()).dictionary_encode()
        return encoded.dictionary.to_pylist(), as_numpy(encoded.indices, -1).astype(np.int64)

    @cached_property
    def id(self) -> NDArray[np.int64]:
        """[rows] int64."""
        return as_numpy(self.column("id")).astype(np.int64, copy=False)

    @cached_property
    def key(self) -> NDArray[np.int64]:
        """[rows] int64."""
        return as_numpy(self.column("key")).astype(np.int64, copy=False)

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """[rows] int64, -1 if unknown."""
        return as_numpy(self.column("label"), -1).astype(np.int64)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """[rows] int64, -1 for a failed row."""
        return as_numpy(self.column("predicted"), -1).astype(np.int64)

    @cached_property
    def digest(self) -> NDArray[np.int64]:
        """[rows] int64 hash of the source picture's bytes, 0 if there is none (see `has_digest`)."""
        return as_numpy(self.column("digest"), 0).astype(np.int64)

    @cached_property
    def has_digest(self) -> NDArray[np.bool_]:
        """[rows] whether the source picture's bytes were hashed."""
        return as_numpy(self.column("digest").is_valid().cast(pa.uint8())).astype(bool)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """[rows] float32, 0 to 1, nan for a failed row."""
        return self._floats("confidence")

    @cached_property
    def loss(self) -> NDArray[np.float32]:
        """[rows] float32, nats, nan for a failed row or an unknown label."""
        return self._floats("loss")

    @cached_property
    def margin(self) -> NDArray[np.float32]:
        """[rows] float32, 0 to 1, nan for a failed row."""
        return self._floats("margin")

    @cached_property
    def entropy(self) -> NDArray[np.float32]:
        """[rows] float32, nats, nan for a failed row."""
        return self._floats("entropy")

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """[rows, classes] float32. Raises ValueError if there are failed rows: take `scored` first."""
        column = self.column("logits")
        if column.null_count:
            raise ValueError(f"{column.null_count} failed rows have no logits; take `scored` first")
        return as_numpy(column.flatten()).astype(np.float32, copy=False).reshape(len(self), column.type.list_size)

    @cached_property
    def embedding(self) -> NDArray[np.float32]:
        """[rows, dims] float32. Raises ValueError if there are failed rows: take `scored` first."""
        column = self.column("embedding")
        if column.null_count:
            raise ValueError(f"{column.null_count} failed rows have no embedding; take `scored` first")
        return _lists(column).astype(np.float32)

    @cached_property
    def scored(self) -> "Predictions":
        """The rows that have logits."""
        return self.take(self.predicted >= 0)

    @cached_property
    def labelled(self) -> "Predictions":
        """The rows that have logits and a label: the ones that every metric counts."""
        known = self.scored.label >= 0
        return self.scored if known.all() else self.scored.take(known)  # the same object, so that it derives all once

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """[rows] whether the predicted class is the true one."""
        return np.equal(self.predicted, self.label)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """[rows, classes] float32 softmax of the logits; each relatively exact to some 1e-6, tiny ones too."""
        logits = self.logits
        with np.errstate(over="ignore"):  # logits that are further apart than the largest float: probability 0
            p = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float32)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        return np.asarray(p)

    @cached_property
    def top(self) -> NDArray[np.int64]:
        """[rows, min(KEPT, classes)] int64 classes by falling logit, the lowest class first of equal ones."""
        if self.derived:
            return _lists(self.column("top_class")).astype(np.int64)
        left = self.logits.copy()  # [rows, classes]
        rows = np.arange(len(left))
        top = np.empty((len(left), min(TOP_CLASSES, left.shape[1])), np.int64)
        for i in range(top.shape[1]):  # five times the highest: three times as fast as a partial sort
            top[:, i] = left.argmax(axis=1)
            left[rows, top[:, i]] = -np.inf
        return top

    @cached_property
    def top_probability(self) -> NDArray[np.float32]:
        """[rows, min(KEPT, classes)] float32 probabilities of `top`."""
        if self.derived:
            return _lists(self.column("top_probability")).astype(np.float32, copy=False)
        return np.take_along_axis(self.probabilities, self.top, axis=1)

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """For labelled rows: how many other classes have a higher logit than the true one. -> [rows] int64."""
        if self.derived:
            return np.asarray(as_numpy(self.column("rank")).astype(np.int64) - 1)
        true = self.logits[np.arange(len(self)), self.label][:, None]
        rank: NDArray[np.int64]
        rank = np.asarray(np.count_nonzero(np.take_along_axis(self.logits, self.top, axis=1) > true, axis=1))
        deep = np.flatnonzero(rank == self.top.shape[1])  # only these need a look at all classes
        rank[deep] = np.count_nonzero(self.logits[deep] > true[deep], axis=1)
        return rank

    @cached_property
    def ties(self) -> NDArray[np.int64]:
        """For labelled rows: how many other classes have the same logit as the true one. -> [rows] int64."""
        equal = self.logits == self.logits[np.arange(len(self)), self.label][:, None]
        if np.count_nonzero(equal) == len(self):  # each true class itself
            return np.zeros(len(self), np.int64)
        return np.asarray(np.count_nonzero(equal, axis=1) - 1)

    def rows(self, chosen: NDArray[np.integer[Any]]) -> TileRows:
        """What a tile shows of the chosen scored rows, highest class first.

        -> id, key, image (object), label, predicted, confidence, loss: [chosen];
        top_class int64 and top_probability float32: [chosen, min(TOP, classes)].
        """
        images = self.column("image").take(as_arrow(chosen, pa.int64()))
        return {
            "id": self.id[chosen],
            "key": self.key[chosen],
            "image": np.array(images.to_pylist(), object),
            "label": self.label[chosen],
            "predicted": self.predicted[chosen],
            "confidence": self.confidence[chosen],
            "loss": self.loss[chosen],
            "top_class": self.top[chosen, :TILE_CLASSES],
            "top_probability": self.top_probability[chosen, :TILE_CLASSES],
        }


ALL_MANIFEST_COLUMNS = "*"
"""Stands for all columns that the manifest brought along, in a panel's `columns`."""

IMAGE_PROPERTIES = ("width", "height", "bytes", "brightness", "contrast")
"""Columns that say something of the source picture."""

_KEPT = (
    "id",
    "key",
    "image",
    "label",
    "predicted",
    "confidence",
    "loss",
    "margin",
    "entropy",
    "digest",
    *IMAGE_PROPERTIES,
)

DERIVE_ROWS_COLUMNS = frozenset({*_KEPT, "logits", ALL_MANIFEST_COLUMNS})
"""Columns that `derive_rows` reads."""


def derived_rows_schema(run: Run, columns: pa.Schema | None = None) -> pa.Schema:
    """Arrow schema of `rows.parquet`; `columns` are those of a part, of which it takes what the manifest brought along.

    One of these that has a name of ours becomes `manifest_<name>`. All may be null: another step may not have them.
    """
    top = min(TOP_CLASSES, len(run.classes))
    names = pa.dictionary(pa.int32(), pa.string())
    ours = [
        pa.field("step", pa.int64()),
        *(pa.field(name, COLUMNS[name][0]) for name in _KEPT),
        pa.field("label_name", names),
        pa.field("predicted_name", names),
        pa.field("rank", pa.int32()),
        pa.field("top_class", pa.list_(pa.field("element", pa.int32(), nullable=False), top)),
        pa.field("top_probability", pa.list_(pa.field("element", pa.float32(), nullable=False), top)),
    ]
    taken = {field.name: field for field in ours}
    for further in columns or ():
        name = further.name
        while name in taken:
            name = f"manifest_{name}"
        if further.name not in COLUMNS:
            taken[name] = pa.field(name, further.type)
    return pa.schema(taken.values())


def derive_rows(run: Run, step: int, rows: Predictions) -> Predictions:
    """All that is derived from the logits of some rows, without the logits: what `rows.parquet` holds.

    `label_name` and `predicted_name` are names of classes (`true` is a word of SQL); `rank` is 1 plus the number of
    classes with a higher logit than the true one; `top_class` and `top_probability` are the highest five, null for a
    failed row.
    """
    wanted = derived_rows_schema(run, rows.batch.schema)
    scored = rows.scored
    ok = rows.predicted >= 0
    labelled = ok & (rows.label >= 0)
    names = arrow_bytes([name.encode() for name in run.classes]).cast(pa.string())
    made = {
        "step": as_arrow(np.full(len(rows), step), pa.int64()),
        "label_name": _named(rows.column("label"), names, len(run.classes)),
        "predicted_name": _named(rows.column("predicted"), names, len(run.classes)),
        "rank": scatter((rows.labelled.rank + 1).astype(np.int32), labelled, pa.int32()),
        "top_class": scatter(scored.top.astype(np.int32), ok, wanted.field("top_class").type),
        "top_probability": scatter(scored.top_probability, ok, wanted.field("top_probability").type),
    }
    ours = [made[name] if name in made else rows.column(name) for name in derived_rows_schema(run).names]
    further = [rows.column(name) for name in rows.batch.schema.names if name not in COLUMNS]
    return Predictions(pa.RecordBatch.from_arrays([*ours, *further], schema=wanted), rows.of, derived=True)


def _named(index: pa.Array, names: pa.Array, classes: int) -> pa.DictionaryArray:
    at = as_numpy(index, -1)
    known = (at >= 0) & (at < classes)
    return pa.DictionaryArray.from_arrays(as_arrow(np.where(known, at, 0), pa.int32(), known), names)


def _received(stream: bytes, of: int, derived: bool) -> Predictions:
    """What `Predictions.__reduce__` sent."""
    with pa.ipc.open_stream(stream) as batches:
        return Predictions(batches.read_next_batch(), of, derived)


@dataclass(frozen=True)
class RowCount:
    """How many rows there are of each kind."""

    rows: int = 0
    failed: int = 0
    unlabelled: int = 0
    counted: int = 0
    """Rows with logits and a label."""
    right: int = 0

    def plus(self, batch: Predictions) -> "RowCount":
        """With the rows of a batch that has the columns label and predicted."""
        labelled = batch.labelled
        return RowCount(
            self.rows + len(batch),
            self.failed + int((batch.predicted < 0).sum()),
            self.unlabelled + int((batch.label < 0).sum()),
            self.counted + len(labelled),
            self.right + int(labelled.right.sum()),
        )

    def __add__(self, other: Self) -> "RowCount":
        """Of both together."""
        return RowCount(*map(operator.add, astuple(self), astuple(other)))

    @property
    def accuracy(self) -> float | None:
        """Over the rows with logits and a label; None if there are none."""
        return self.right / self.counted if self.counted else None


def no_tile_rows(classes: int) -> TileRows:
    """What `Predictions.rows` gives when nothing is chosen."""
    top = (0, min(TILE_CLASSES, classes))
    return {
        "id": np.zeros(0, np.int64),
        "key": np.zeros(0, np.int64),
        "image": np.zeros(0, object),
        "label": np.zeros(0, np.int64),
        "predicted": np.zeros(0, np.int64),
        "confidence": np.zeros(0, np.float32),
        "loss": np.zeros(0, np.float32),
        "top_class": np.zeros(top, np.int64),
        "top_probability": np.zeros(top, np.float32),
    }


TILE_COLUMNS = frozenset({"id", "key", "image", "label", "predicted", "confidence", "loss", "logits"})
"""Columns that `Predictions.rows` reads."""
