"""Defines the table of predictions that connects the two stages: columns, units, footer and version.

It uses Arrow's types and does no I/O; it knows nothing of part files (`storage.parts`), models or TensorBoard.
`docs/format.md` describes the same contract in enough detail for other programs to write it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FORMAT_VERSION = 2
"""Newest format that is read."""

SINGLE_LABEL, MULTI_LABEL = "single-label", "multi-label"

FORMATS = {SINGLE_LABEL: 1, MULTI_LABEL: 2}
"""Values of `Run.task`, each with the format of its parts."""

SCORES = {SINGLE_LABEL: ("logits", "log_probabilities", "confidence"), MULTI_LABEL: ("logits", "log_odds")}
"""Values of `Run.scores`, by task."""

PROBABILITIES_AS = {SINGLE_LABEL: "log_probabilities", MULTI_LABEL: "log_odds"}
"""What probabilities are stored as, by task: a value of `Run.scores`."""

LABEL_LIST = pa.list_(pa.field("element", pa.int32(), nullable=False))
"""Arrow type of a column of sets of labels."""

# name: (type, nullable, meaning). Readers may rely on every column except the two that are marked optional.
COLUMNS: dict[str, tuple[pa.DataType, bool, str]] = {
    "id": (pa.int64(), False, "row of the manifest, from 0; ascending and without gaps inside a part"),
    "key": (pa.int64(), False, "hash of the image ref; joins runs, breaks ties, samples and folds"),
    "image": (pa.string(), True, "ref of the source image, relative to the footer's root"),
    "label": (pa.int32(), True, "index of the true class; null if unknown"),
    "logits": (
        pa.list_(pa.float32()),
        True,
        "[classes] scores before softmax, elements not null; null for a failed row; absent if `scores` is `confidence`",
    ),
    "error": (pa.string(), True, "why this row has no logits; null if it has"),
    "predicted": (pa.int32(), True, "index of the highest logit; of equal logits, the lowest index"),
    "confidence": (pa.float32(), True, "softmax probability of `predicted`"),
    "loss": (pa.float32(), True, "negative log-likelihood of `label`, nats"),
    "margin": (pa.float32(), True, "probability of `predicted` minus that of the runner-up"),
    "entropy": (pa.float32(), True, "entropy of the softmax probabilities, nats"),
    "digest": (pa.int64(), True, "hash of the encoded bytes of the source image"),
    "width": (pa.int32(), True, "width of the source image, pixels"),
    "height": (pa.int32(), True, "height of the source image, pixels"),
    "bytes": (pa.int64(), True, "length of the encoded source image"),
    "brightness": (pa.float32(), True, "mean luma of the source image, 0 to 1"),
    "contrast": (pa.float32(), True, "standard deviation of the luma of the source image, 0 to 0.5"),
    "embedding": (pa.list_(pa.float16()), True, "optional: input of the last linear layer, or output of another"),
    "thumbnail": (pa.binary(), True, "optional: JPEG of the source image"),
}

_MULTI_LABEL: dict[str, tuple[pa.DataType, bool, str]] = {
    "labels": (LABEL_LIST, True, "indices of the true labels, ascending; empty if none applies; null if unlabelled"),
    "unknown": (LABEL_LIST, True, "labels of which it is not known whether they apply; null for none"),
    "logits": (pa.list_(pa.float32()), True, "[classes] scores before the sigmoid, elements not null"),
    "predicted_labels": (LABEL_LIST, True, "labels whose logit is above 0, ascending; null for a failed row"),
    "confidence": (pa.float32(), True, "probability of just this set: product of max(p, 1 - p) over the labels"),
    "loss": (pa.float32(), True, "binary cross-entropy, mean over the labels that are not unknown, nats"),
    "margin": (pa.float32(), True, "least of |2 p - 1| over the labels"),
    "entropy": (pa.float32(), True, "binary entropy, mean over the labels, nats"),
}

STORED_AS = {"label": ("labels", "unknown"), "predicted": ("predicted_labels",)}
"""Columns of multi-label predictions that hold what these hold of one label: who asks for the one gets the other."""

MULTI_LABEL_COLUMNS: dict[str, tuple[pa.DataType, bool, str]] = {
    stored: _MULTI_LABEL.get(stored, description)
    for name, description in COLUMNS.items()
    for stored in STORED_AS.get(name, (name,))
}
"""`COLUMNS` of multi-label predictions."""

ALL_MANIFEST_COLUMNS = "*"
"""In a panel's `columns`, stands for every further column that the manifest supplied."""

GROUP_PREFIX = "group:"
"""Begins the name of a column that only says which rows belong together, as those of one patient do: int64, a hash of
their value in the column that the rest of the name names."""

IMAGE_PROPERTIES = ("width", "height", "bytes", "brightness", "contrast")
"""Columns that describe the source image."""


ROW_NUMBERS = "row numbers"
"""Value of `keys` in the provenance of a part whose keys are hashes of nothing but the numbers of its rows."""


MADE_BY = "made_by"
"""In the provenance of a part that is made of other predictions, the command. Its keys are those of its sources: they
need not be hashes of its refs, nor of a column."""


def hash64(data: bytes | memoryview) -> int:
    """Return a signed 64-bit hash: the first 8 bytes of BLAKE2b with digest size 8, little-endian (RFC 7693)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def hash_refs(refs: Iterable[str]) -> NDArray[np.int64]:
    """Return the `key` of each ref, int64 [rows]: `hash64` of its UTF-8 bytes."""
    return np.fromiter((hash64(ref.encode("utf-8", "surrogateescape")) for ref in refs), np.int64)


def canonical_json(record: Mapping[str, Any]) -> str:
    """Return the one JSON text of a record: keys sorted, no spaces, ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_records(*records: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any value in the records."""
    return digest_texts(map(canonical_json, records))


def digest_texts(texts: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that change with any of the texts."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Run:
    """Everything that determines the numbers of one step, and is therefore equal in all its parts.

    It is stored as JSON in the footer of each part.
    """

    classes: tuple[str, ...]
    model: str
    step: int = 0
    model_args: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    """Digest of the model's source file; empty if there is none."""
    weights: str = ""
    """Digest of the weights."""
    transform: Mapping[str, Any] = field(default_factory=dict)
    """Preprocessing of the images; the fields are those of `predboard infer`."""
    precision: str = "fp32"
    root: str = ""
    """Folder that the image refs are relative to."""
    shard_size: int = 4096
    embedding: int = 0
    """Length of an embedding; 0 if there are none."""
    embedding_layer: str = ""
    """Layer whose output is the embedding; empty if it is the input of the last linear layer."""
    thumbnails: int = 0
    """Longest side of a thumbnail, pixels; 0 if there are none."""
    scores: str = "logits"
    """Content of the column `logits`: `logits`, or `log_probabilities` if the model ends in a softmax and `log_odds` if
    it ends in a sigmoid for each label; `confidence` if there is no such column, because only the predicted class and
    its confidence are known."""
    format: int = FORMATS[SINGLE_LABEL]
    task: str = SINGLE_LABEL
    """`single-label` if an image is of one class, `multi-label` if any number of them apply, each by itself."""
    positive: str = ""
    """Name of the positive one of two classes; empty for the second one, and where there are not two."""

    def __post_init__(self) -> None:
        """Raise the format to the first that has the task."""
        object.__setattr__(self, "format", max(self.format, FORMATS.get(self.task, 0)))

    def record(self) -> dict[str, Any]:
        """Return all fields as plain values: what the footer holds and digests are of.

        Single-label runs have no `task` in it, as they had none before there were others, nor an empty `positive`.
        """
        record = asdict(self)
        for name, usual in (("task", SINGLE_LABEL), ("positive", "")):
            if record[name] == usual:
                del record[name]
        return record

    @property
    def has_scores(self) -> bool:
        """Whether the scores of all classes are known, and not only the predicted class and its confidence."""
        return self.scores != "confidence"

    @property
    def positive_class(self) -> str:
        """Name of the positive one of two classes; empty where there are not two, or an image may have both."""
        is_binary = len(self.classes) == 2 and self.task == SINGLE_LABEL
        return (self.positive or self.classes[1]) if is_binary else ""

    @property
    def positive_index(self) -> int:
        """Index of the positive one of two classes. Raises ValueError with any other number of classes."""
        return self.classes.index(self.positive_class)

    @property
    def origin(self) -> str:
        """Source of the images, for messages: the dataset, else the folder; empty if neither is known."""
        return str(self.transform.get("dataset") or self.root)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal in all parts of one step."""
        return digest_records(self.record())

    def difference(self, other: Self) -> tuple[str, str, str] | None:
        """Return the first field in which two runs differ, with its value in this and the other; None if equal.

        >>> Run(("cat", "dog"), "net.py:build").difference(Run(("cat", "dog"), "net.py:build", precision="bf16"))
        ('precision', 'fp32', 'bf16')
        """

        def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
            values: dict[str, Any] = {}
            for name, value in record.items():
                # An empty argument such as block={} is still a value.
                nested = isinstance(value, Mapping) and (value or not prefix)
                values.update(flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value})
            return values

        if self.fingerprint == other.fingerprint:
            return None
        if self.task != other.task:
            return "task", self.task, other.task
        if self.classes != other.classes:
            if len(self.classes) != len(other.classes):
                return "classes", f"{len(self.classes)} names", f"{len(other.classes)} names"
            return ("classes", *next((a, b) for a, b in zip(self.classes, other.classes, strict=True) if a != b))
        # The second class is the positive one where the record does not say so.
        mine, theirs = (
            flatten({**json.loads(canonical_json(run.record())), "positive": run.positive_class})
            for run in (self, other)
        )
        for name in {**mine, **theirs}:
            value, other_value = mine.get(name, "not given"), theirs.get(name, "not given")
            if value != other_value:
                return name, str(value), str(other_value)
        return None


@dataclass(frozen=True)
class Part:
    """The facts about one part file alone. They are stored as JSON in its footer."""

    start: int
    stop: int
    """Rows of the manifest: start <= id < stop."""
    manifest_digest: str
    """Digest of the refs, labels and further columns of these rows of the manifest."""
    manifest_rows: int
    """Length of the whole manifest when the part was written."""
    content_digest: str
    """Digest of ids, logits and errors: equal in two parts with the same predictions."""
    started: float = 0.0
    finished: float = 0.0
    """Seconds since 1970."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time spent, by the names in `storage.timing`."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Checkpoint file, device, batch size and software versions: informative, without effect on validity."""
    clipped: int = 0
    """Number of probabilities below `MIN_PROBABILITY` that were raised to it."""


def part_schema(run: Run, manifest_columns: pa.Schema | None = None) -> pa.Schema:
    """Return the Arrow schema of a part: the fixed columns, then the manifest's further columns."""
    fields = []
    for name, (type_, nullable, _) in columns_of(run).items():
        present = {"embedding": run.embedding, "thumbnail": run.thumbnails, "logits": run.has_scores}
        if not present.get(name, True):
            continue
        sizes = {"logits": len(run.classes), "embedding": run.embedding}
        if name in sizes:  # elements that cannot be null are read 1.5 times as fast
            type_ = pa.list_(pa.field("element", type_.value_type, nullable=False), sizes[name])
        fields.append(pa.field(name, type_, nullable))
    return pa.schema(fields + list(manifest_columns or ()))


def columns_of(run: Run) -> dict[str, tuple[pa.DataType, bool, str]]:
    """Return the table of columns of a run's task."""
    return {SINGLE_LABEL: COLUMNS, MULTI_LABEL: MULTI_LABEL_COLUMNS}[run.task]


def reserved_columns(task: str) -> frozenset[str]:
    """Return the names that no column of the manifest has in predictions of a task.

    Those of one label are reserved in multi-label predictions too, because they are asked for by these names.
    """
    return frozenset({**COLUMNS, **MULTI_LABEL_COLUMNS} if task == MULTI_LABEL else COLUMNS)


def stored_columns(run: Run, names: Iterable[str]) -> frozenset[str]:
    """Return the names under which predictions of a run hold columns of these names, see `STORED_AS`."""
    if run.task == SINGLE_LABEL:
        return frozenset(names)
    return frozenset(stored for name in names for stored in STORED_AS.get(name, (name,)))


def rename_reserved_columns(names: Sequence[str], task: str) -> list[str]:
    """Prefix `manifest_` to the names of manifest columns that the format uses itself.

    `step` is reserved as well: pandas and Arrow read the names of the step folders as a column of this name.

    >>> rename_reserved_columns(["width", "country", "manifest_width", "step"], SINGLE_LABEL)
    ['manifest_manifest_width', 'country', 'manifest_width', 'manifest_step']
    """
    reserved = reserved_columns(task) | {"step"}
    taken = {*reserved, *names}
    renamed = []
    for name in names:
        if name in reserved:
            while name in taken:
                name = f"manifest_{name}"
            taken.add(name)
        renamed.append(name)
    return renamed
