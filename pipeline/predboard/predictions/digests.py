"""Computes the digests in the footer of a part from its rows. It knows nothing of files."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from predboard.predictions.arrow import as_numpy
from predboard.predictions.label_sets import Labels, label_values
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, hash_refs
from predboard.predictions.table import Predictions

MANIFEST_COLUMNS = frozenset({"id", "key", "image", "label", ALL_MANIFEST_COLUMNS})
"""Columns that `ManifestDigest.add` and `refuse_foreign_keys` need."""


class ContentDigest:
    """Digest of the ids, errors and logits of rows that are added in order; it does not depend on the batches.

    Where there are no logits, the predicted classes and their confidence take their place.
    """

    def __init__(self) -> None:
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in range(3)]  # one a column, independent of batch edges

    @staticmethod
    def columns(has_scores: bool) -> frozenset[str]:
        """Return the columns that `add` needs."""
        return frozenset({"id", "error", *(("logits",) if has_scores else ("predicted", "confidence"))})

    def add(self, rows: Predictions) -> None:
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
        lines: Iterable[list[Any]]
        lines = ([ref, *values] for ref, values in zip(image.to_pylist(), label_values(label), strict=True))
        if further.num_columns:
            lines = ([*line, more] for line, more in zip(lines, further.to_pylist(), strict=True))
        self._hashed.update("".join(f"{self._encode(line)}\n" for line in lines).encode("ascii"))

    def add_rows(self, rows: Predictions) -> None:
        """Add the next rows, of a part."""
        self.add(rows.column("image"), rows.known_labels, rows.batch.select(rows.manifest_columns))

    def hexdigest(self) -> str:
        """Return 16 hexadecimal digits."""
        return self._hashed.hexdigest()


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
