"""Limits and digests of manifests."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from predboard.images.manifest import Manifest
from predboard.predictions.schema import hash64
from tests import toy


def _manifest(refs: list[str]) -> Manifest:
    label = np.array([len(ref) % 3 for ref in refs], np.int32)
    key = np.array([hash64(ref.encode()) for ref in refs], np.int64)
    return Manifest("/data", pa.array(refs, pa.string()), label, key, ("a", "b", "c"))


_REFS = st.lists(st.text("abcü/0", min_size=1, max_size=6), unique=True, min_size=1, max_size=30)


@given(_REFS, st.integers(1, 30))
def test_a_limit_keeps_order_and_is_the_same_in_any_order(refs: list[str], rows: int) -> None:
    kept = _manifest(refs).limit(rows)
    assert len(kept) == min(rows, len(refs))
    assert kept.image.to_pylist() == [ref for ref in refs if ref in set(kept.image.to_pylist())]
    backwards = _manifest(refs[::-1]).limit(rows)
    assert set(backwards.image.to_pylist()) == set(kept.image.to_pylist())
    assert toy.class_labels(kept) == toy.class_labels(_manifest(kept.image.to_pylist()))
    assert kept.key.tolist() == _manifest(kept.image.to_pylist()).key.tolist()


@given(_REFS, st.integers(1, 30), st.text("xyz", min_size=1, max_size=4))
def test_one_more_image_displaces_at_most_one_other(refs: list[str], rows: int, more: str) -> None:
    before = set(_manifest(refs).limit(rows).image.to_pylist())
    after = set(_manifest([*refs, more]).limit(rows).image.to_pylist())
    assert len(before - after) <= 1
    assert after - before <= {more}


def test_a_limit_is_spread_over_the_data() -> None:
    refs = [f"{c}/{i:05d}.png" for c in "abcd" for i in range(2500)]
    kept = _manifest(refs).limit(1000).image.to_pylist()
    counts = [sum(ref.startswith(c) for ref in kept) for c in "abcd"]
    assert sum(counts) == 1000
    assert max(abs(n - 250) for n in counts) < 50  # 3.6 standard deviations
    whole = _manifest(refs)
    assert whole.limit(None) is whole
    assert whole.limit(10_000) is whole


def test_further_columns_are_limited_with_their_rows() -> None:
    refs = [f"{i}.png" for i in range(20)]
    whole = _manifest(refs)
    whole = Manifest(whole.root, whole.image, whole.label, whole.key, whole.classes, pa.table({"n": list(range(20))}))
    kept = whole.limit(7)
    assert [f"{n}.png" for n in kept.columns["n"].to_pylist()] == kept.image.to_pylist()


@given(_REFS, st.data())
def test_the_digest_of_rows_changes_with_any_of_them_and_with_nothing_else(refs: list[str], data: Any) -> None:
    whole = _manifest(refs)
    start = data.draw(st.integers(0, len(refs) - 1))
    stop = data.draw(st.integers(start + 1, len(refs)))
    digest = whole.digest(start, stop)
    assert _manifest(refs[start:stop]).digest(0, stop - start) == digest
    at = data.draw(st.integers(0, len(refs) - 1))
    other_ref = _manifest([*refs[:at], refs[at] + "x", *refs[at + 1 :]])
    label = np.array(whole.label)
    label[at] += 1
    other_label = Manifest(whole.root, whole.image, label, whole.key, whole.classes)
    same_labels = Manifest(whole.root, other_ref.image, whole.label, whole.key, whole.classes)
    for other in (same_labels, other_label):
        assert (other.digest(start, stop) != digest) == (start <= at < stop)


def test_the_digest_does_not_drift_and_counts_further_columns() -> None:
    whole = Manifest("/d", pa.array(["a/ü.png", "b/2.png"]), np.array([0, -1], np.int32), np.zeros(2, np.int64), ("a",))
    lines = b'["a/\\u00fc.png", 0]\n["b/2.png", -1]\n'
    assert whole.digest(0, 2) == hashlib.blake2b(lines, digest_size=8).hexdigest()
    further = [
        Manifest(whole.root, whole.image, whole.label, whole.key, whole.classes, pa.table({"site": ["n", s]}))
        for s in "ns"
    ]
    assert len({m.digest(0, 2) for m in [whole, *further]}) == 3
    assert further[0].digest(0, 1) == further[1].digest(0, 1)
