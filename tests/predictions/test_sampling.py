"""Hashes that choose rows."""

import re
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import predboard
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import (
    hash64,
)

PACKAGE = Path(predboard.__file__).parent


def test_hashes_are_the_published_ones() -> None:
    # BLAKE2b with a digest of 8 bytes of the empty text; and SplitMix64 from seed 0.
    assert hash64(b"") == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "little", signed=True)
    splitmix = np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F], np.uint64).view(np.int64)
    assert [int(mix(np.zeros(1, np.int64), salt)[0]) for salt in (1, 2, 3)] == splitmix.tolist()


def test_mixing_loses_no_key_and_spreads_them() -> None:
    keys = np.concatenate([np.arange(-50_000, 50_000), np.arange(1 << 40, (1 << 40) + 50_000)])
    for salt in (1, 7):
        mixed = mix(keys, salt)
        assert len(np.unique(mixed)) == len(keys)
        buckets = np.bincount((mixed.view(np.uint64) >> np.uint64(60)).astype(int), minlength=16)
        expected = len(keys) / 16
        assert ((buckets - expected) ** 2 / expected).sum() < 40  # chi-squared, 15 degrees: 40 has p = 0.0005
    assert (mix(keys, 1) != mix(keys, 2)).all()


def _unmixed(mixed: int, salt: int) -> int:
    """The inverse of `mix`, by modular arithmetic on whole numbers."""
    x = mixed % 2**64
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9)):
        x = _unshifted(x, shift) * pow(factor, -1, 2**64) % 2**64
    x = (_unshifted(x, 30) - salt * 0x9E3779B97F4A7C15) % 2**64
    return x - 2**64 if x >= 2**63 else x


def _unshifted(x: int, shift: int) -> int:
    known = x
    for _ in range(64 // shift + 1):
        known = x ^ (known >> shift)
    return known


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32))
def test_mixing_is_a_bijection(key: int, salt: int) -> None:
    assert _unmixed(int(mix(np.array([key], np.int64), salt)[0]), salt) == key


def test_no_two_random_choices_have_the_same_salt() -> None:
    salts = list(Salt.__members__.values())  # aliases included
    assert len({int(salt) for salt in salts}) == len(salts)
    used = {
        name for file in PACKAGE.rglob("*.py") for name in re.findall(r"\bSalt\.([A-Z_]+)", file.read_text("utf-8"))
    }
    assert used == set(Salt.__members__)
    numbers = [
        line for file in PACKAGE.rglob("*.py") for line in re.findall(r"\bmix\([^()]*, \d+\)", file.read_text("utf-8"))
    ]
    assert numbers == []
