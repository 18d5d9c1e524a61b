"""Computes the digests in the footer of a part from its rows. It knows nothing of files."""

import hashlib
import json
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from predboard.predictions.arrow import arrow_bytes, as_arrow, as_numpy
from predboard.predictions.label_sets import Labels, label_values
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, Part, Run, hash_refs, stored_columns
from predboard.predictions.table import Predictions

MANIFEST_COLUMNS = frozenset({"id", "key", "image", "label", ALL_MANIFEST_COLUMNS})
"""Columns that `ManifestDigest.add_rows` and `refuse_foreign_keys` need."""


_ESCAPED = r"[^ !#-\[\]-~]"
"""A character that JSON in ASCII writes as an escape."""


class ContentDigest:
    """Digest of the ids, errors and logits of rows that are added in order; it does not depend on the batches.

    Where there are no logits, the predicted classes and their confidence take their place.
    """

    def __init__(self) -> None:
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in range(3)]  # one a column, independent of batch edges

    @staticmethod
    def columns(has_scores: bool) -> frozenset[str]:
        """Return the columns that `add_rows` needs."""
        return frozenset({"id", "error", *(("logits",) if has_scores else ("predicted", "confidence"))})

    def add_rows(self, rows: Predictions) -> None:
        """Add the next rows."""
        ids, errors, logits = self._hashes
        ids.update(rows.id.tobytes())
        error = rows.column("error")
        texts = b"\0" * len(rows) if error.null_count == len(rows) else _ended_by_zeros(error.to_pylist())
        errors.update(texts)
        if rows.has_scores:
            logits.update(as_numpy(rows.column("logits").flatten()).astype(np.float32, copy=False).data)
        else:
            logits.update(np.column_stack([rows.predicted, rows.confidence.astype(np.float64)]).tobytes())

    def hexdigest(self) -> str:
        """Return 32 hexadecimal digits."""
        return hashlib.blake2b(b"".join(h.digest() for h in self._hashes), digest_size=16).hexdigest()


def _ended_by_zeros(texts: Iterable[str | None]) -> bytes:
    return "".join(f"{text or ''}\0" for text in texts).encode()


class ManifestDigest:
    """Digest of the refs, labels and further columns of rows of a manifest that are added in order."""

    def __init__(self) -> None:
        self._hashed = hashlib.blake2b(digest_size=8)
        self._encode = json.JSONEncoder(default=str, sort_keys=True).encode

    def add(self, image: pa.Array, label: Labels, further: pa.Table | pa.RecordBatch) -> None:
        """Add the next rows.

        Args:
            image: [rows] refs.
            label: [rows] indices of classes, -1 where unknown; or what is known of several labels a row.
            further: [rows] the further columns, which may be none.
        """
        if isinstance(label, np.ndarray):
            labels = self._json_texts(as_arrow(label, pa.int64()))
        else:
            labels = pa.array((self._encode(values)[1:-1] for values in label_values(label)), pa.large_string())
        pieces: list[str | pa.Array] = ["[", self._json_texts(image), ", ", labels]
        opening = ", {"
        for name in sorted(set(further.column_names)):
            pieces += [f"{opening}{self._encode(name)}: ", self._json_texts(further.column(name))]
            opening = ", "
        pieces.append("}]\n" if further.num_columns else "]\n")
        _, ends, content = (lines := _join(*pieces)).buffers()
        self._hashed.update(content[: int(np.frombuffer(ends, np.int64)[len(lines)])] if len(lines) else b"")

    def add_rows(self, rows: Predictions) -> None:
        """Add the next rows, of a part."""
        self.add(rows.column("image"), rows.known_labels, rows.batch.select(rows.manifest_columns))

    def hexdigest(self) -> str:
        """Return 16 hexadecimal digits."""
        return self._hashed.hexdigest()

    def _json_texts(self, values: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
        """Return each value as JSON; whole numbers and plain text in a fortieth of the encoder's time."""
        if pa.types.is_integer(values.type):
            texts = values.cast(pa.large_string())
        elif pa.types.is_string(values.type) and not pc.any(pc.match_substring_regex(values, _ESCAPED)).as_py():
            texts = _join('"', values.cast(pa.large_string()), '"')
        else:
            texts = pa.array(map(self._encode, values.to_pylist()), pa.large_string())
        texts = texts.fill_null(_scalar("null"))
        return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _join(*pieces: str | pa.Array) -> pa.LargeStringArray:
    """Return [rows] texts, each of the pieces one after another."""
    texts = [_scalar(piece) if isinstance(piece, str) else piece for piece in pieces]
    return pc.binary_join_element_wise(*texts, _scalar(""))


def _scalar(text: str) -> pa.LargeStringScalar:
    """Return a scalar of Arrow, as `pyarrow.scalar` does, which imports pandas."""
    return arrow_bytes([text.encode()]).cast(pa.large_string())[0]


class RowsDigest(NamedTuple):
    """A digest of the rows of a part, and the one that its footer has."""

    digest: ContentDigest | ManifestDigest
    expected: str
    fault: str
    """What is wrong where the two differ."""


def digests_of(run: Run, part: Part, columns: Collection[str] | None) -> list[RowsDigest]:
    """Return the digests that can be computed from these columns of a part, all of them if None.

    The labels of a dataset are not compared: its items may give their own, and the digest is of what is known before.
    """
    digests = []
    read = None if columns is None else set(columns)
    if read is None or stored_columns(run, ContentDigest.columns(run.has_scores)) <= read:
        digests.append(RowsDigest(ContentDigest(), part.content_digest, "its rows do not match its digest"))
    if "dataset" not in run.transform and (read is None or stored_columns(run, MANIFEST_COLUMNS) <= read):
        fault = "its images, labels or further columns do not match its manifest_digest"
        digests.append(RowsDigest(ManifestDigest(), part.manifest_digest, fault))
    return digests


def refuse_foreign_keys(rows: Predictions) -> None:
    """Raise ValueError naming the first row whose key is of another ref.

    A key is the hash of the ref, or of the row number where there is none. If that of no row is, or if those of the
    other rows are hashes of a further column, they are of --key-column.
    """
    refs = rows.column("image").to_pylist()
    own = hash_refs(str(row) if ref is None else ref for ref, row in zip(refs, rows.id.tolist(), strict=True))
    wrong = np.flatnonzero(own != rows.key)
    if not len(wrong) or len(wrong) == len(rows):
        return
    for name in rows.manifest_columns:
        values = rows.column(name).take(pa.array(wrong)).to_pylist()
        if np.array_equal(hash_refs(map(str, values)), rows.key[wrong]):
            return
    raise ValueError(f"key of row {rows.id[wrong[0]]} is {rows.key[wrong[0]]}, expected the hash of its image")


def digest_manifest(image: pa.Array, label: Labels, further: pa.Table | None = None) -> str:
    """Return the digest of some rows of a manifest, 16 hexadecimal digits."""
    digest = ManifestDigest()
    digest.add(image, label, pa.table({}) if further is None else further)
    return digest.hexdigest()


def digest_list(parts: Iterable[str]) -> str:
    """Return the digest of a whole manifest, 16 hexadecimal digits, from the digests of its parts in their order."""
    return hashlib.blake2b("".join(f"{digest}\n" for digest in parts).encode("ascii"), digest_size=8).hexdigest()
