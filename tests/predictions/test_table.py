"""The contract: derived columns against hand work and torch, keys, footers, and what a batch of rows gives."""

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from predboard.errors import DamagedError, InputError
from predboard.predictions.derive import MIN_PROBABILITY, derive, to_log_probabilities, to_logits
from predboard.predictions.sampling import mix
from predboard.predictions.schema import (
    COLUMNS,
    Part,
    Run,
    digest_records,
    encode_footer,
    hash64,
    hash_refs,
    part_schema,
    read_footer,
)
from predboard.predictions.table import Predictions, no_tile_rows

from tests import toy

LN = math.log


def test_derived_columns_by_hand() -> None:
    logits = np.array([[0, LN(3)], [LN(6), LN(2)], [0, 0]], np.float32)
    found = derive(logits, np.array([0, 0, -1]))
    np.testing.assert_array_equal(found["predicted"], [1, 0, 0])
    np.testing.assert_allclose(found["confidence"], [0.75, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], [LN(4), -LN(0.75), np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["margin"], [0.5, 0.5, 0.0], rtol=1e-6)
    quarter = 0.25 * LN(4) + 0.75 * LN(4 / 3)
    np.testing.assert_allclose(found["entropy"], [quarter, quarter, LN(2)], rtol=1e-6)
    assert {name: str(values.dtype) for name, values in found.items()} == {
        name: str(COLUMNS[name][0]).replace("float", "float32") for name in found
    }


def test_of_equal_logits_the_lowest_class_is_predicted() -> None:
    found = derive(np.array([[1, 5, 5, 5], [2, 2, 2, 2]], np.float32), np.array([3, 1]))
    assert found["predicted"].tolist() == [1, 0]
    assert found["margin"].tolist() == [0, 0]
    np.testing.assert_allclose(found["confidence"], [1 / (3 + math.exp(-4)), 0.25], rtol=1e-6)


def test_one_class_is_certain() -> None:
    found = derive(np.array([[-7.0], [3.0]], np.float32), np.array([0, -1]))
    assert found["confidence"].tolist() == found["margin"].tolist() == [1, 1]
    assert found["entropy"].tolist() == [0, 0]
    assert found["loss"][0] == 0
    assert np.isnan(found["loss"][1])


def test_log_probabilities_by_hand() -> None:
    found, raised = to_log_probabilities(np.array([[0.25, 0.75, 0.0], [1.0, 1e-60, 1e-39]]))
    least = 126 * LN(2)
    np.testing.assert_allclose(found, [[-LN(4), LN(0.75), -least], [0, -least, -least]], rtol=1e-7)
    assert (str(found.dtype), raised) == ("float32", 3)
    assert np.isnan(to_log_probabilities(np.array([[np.nan, 1]]))[0]).tolist() == [[True, False]]


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(np.float64, (5, 4), elements=st.floats(1e-30, 1)))
def test_softmax_of_log_probabilities_is_the_probabilities(weights: Any) -> None:
    p = weights / weights.sum(axis=1, keepdims=True)
    found, raised = to_log_probabilities(p)
    assert raised == 0
    again = np.exp(found.astype(np.float64))
    np.testing.assert_allclose(again / again.sum(axis=1, keepdims=True), p, rtol=1e-5)


def test_no_rows_derive_to_no_rows() -> None:
    found = derive(np.zeros((0, 5), np.float32), np.zeros(0, np.int64))
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(found, (0,))


def test_confident_rows_keep_their_tiny_losses() -> None:
    logits = np.array([[30, 0], [80, 0], [1e4, -1e4], [1e4, -1e4], [-1e4, -1e4]], np.float32)
    found = derive(logits, np.array([0, 0, 0, 1, 0]))
    np.testing.assert_allclose(found["loss"], [math.exp(-30), math.exp(-80), 0, 2e4, LN(2)], rtol=1e-6)
    np.testing.assert_allclose(found["margin"], [1, 1, 1, 1, 0], rtol=1e-6)
    assert found["entropy"][0] == pytest.approx(31 * math.exp(-30), rel=1e-5)
    assert (found["entropy"] >= 0).all()


def test_the_widest_logits_give_finite_columns() -> None:
    most = np.finfo(np.float32).max
    found = derive(np.array([[most, -most], [-most, most]], np.float32), np.array([1, 1]))
    assert found["loss"].tolist() == [most, 0]
    assert all(np.isfinite(values).all() for values in found.values())


@settings(deadline=None)  # the first example imports torch
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(2, 12)),
        elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 1.0, 1e4]),
    ),
    st.randoms(use_true_random=False),
)
def test_derived_columns_are_those_of_torch_in_double_precision(logits: Any, random: Any) -> None:
    torch = pytest.importorskip("torch", reason="the reference is torch.log_softmax")
    label = np.array([random.randrange(logits.shape[1]) for _ in logits])
    found = derive(logits, label)
    log_p = torch.log_softmax(torch.from_numpy(logits).double(), 1)
    p = log_p.exp()
    top = p.sort(descending=True).values
    np.testing.assert_array_equal(found["predicted"], logits.argmax(1))
    np.testing.assert_allclose(found["confidence"], top[:, 0], rtol=1e-6)
    np.testing.assert_allclose(
        found["loss"], -log_p[torch.arange(len(p)), torch.from_numpy(label)], rtol=2e-6, atol=2e-12
    )
    np.testing.assert_allclose(found["margin"], top[:, 0] - top[:, 1], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found["entropy"], -(p * log_p).sum(1), rtol=1e-6, atol=1e-12)


def test_probabilities_become_logarithms_by_hand() -> None:
    p = np.array([[0.25, 0.75, 0], [1e-45, 1, 0], [0.5, 0.25, 0.25]], np.float32)
    ln_least = LN(2.0**-126)
    expected = [[LN(0.25), LN(0.75), ln_least], [ln_least, 0, ln_least], [LN(0.5), LN(0.25), LN(0.25)]]
    for kind, scores in (("probabilities", p), ("log_probabilities", np.log(p, where=p > 0, out=p * 0 - np.inf))):
        logits, raised = to_logits(scores, kind)
        np.testing.assert_allclose(logits, expected, rtol=1e-6)
        assert raised == 3
        assert logits.dtype == np.float32
    assert MIN_PROBABILITY == 2.0**-126 == np.finfo(np.float32).tiny
    logits = np.array([[5.0, -300.0]], np.float32)
    assert to_logits(logits, "logits")[0] is logits
    assert to_logits(logits, "logits")[1] == 0
    assert to_logits(np.zeros((0, 3)), "probabilities")[0].shape == (0, 3)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (
            [2.0, -1.0],
            "probabilities",
            r"a row of probabilities sums to 1, with values from -1 to 2; expected values from 0 to 1",
        ),
        ([0.9, 0.8], "probabilities", r"sums to 1\.7, with values from 0\.8 to 0\.9; .*is the model multi-label"),
        ([0.4, 0.5], "probabilities", r"sums to 0\.9, "),
        ([0.0, -0.1], "log_probabilities", r"a row of log probabilities sums to 1\.905, .* after exp; expected"),
        ([900.0, -900.0], "log_probabilities", r"a row of log probabilities sums to "),
    ],
)
def test_what_is_no_probabilities_is_one_line(row: list[float], kind: str, message: str) -> None:
    good = [0.5, 0.5] if kind == "probabilities" else [LN(0.5)] * 2
    with pytest.raises(InputError, match=message) as raised:
        to_logits(np.array([good, [np.nan, 3], row], np.float32), kind)
    assert "\n" not in str(raised.value)


def test_rows_that_are_not_numbers_stay_so_and_half_precision_is_close_enough() -> None:
    halves = np.array([[0.3335, 0.3333, 0.3335], [np.nan, 0, 1]], np.float16)
    logits, raised = to_logits(halves, "probabilities")
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1, 0])
    assert raised == 1


def test_hashes_are_the_published_ones() -> None:
    # BLAKE2b with a digest of 8 bytes of the empty text; and SplitMix64 from seed 0.
    assert hash64(b"") == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "little", signed=True)
    splitmix = np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F], np.uint64).view(np.int64)
    assert [int(mix(np.zeros(1, np.int64), salt)[0]) for salt in (1, 2, 3)] == splitmix.tolist()


def test_keys_do_not_drift() -> None:
    assert hash_refs(["a/0.png", "ü/0.png"]).tolist() == [3230863055585924566, -2208312144883619445]
    assert hash_refs(["ü"]).tolist() == [hash64("ü".encode())]
    assert hash_refs([]).shape == (0,)
    assert Run(classes=("a", "b"), model="m.py:f").fingerprint == "6d16e43226f1e055"


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


def test_failed_rows_have_no_logits_and_no_derived_values() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b"))
    logits = np.array([[0, LN(3)], [9, 9], [np.nan, 0], [0, np.inf]], np.float32)
    rows = toy.predictions(run, logits, np.array([0, 1, 1, -1]), failed=frozenset({1}))
    frame = rows.batch.to_pandas()
    derived = ["logits", "predicted", "confidence", "loss", "margin", "entropy"]
    assert frame[derived].notna().to_numpy().tolist() == [[True] * 6, *[[False] * 6] * 3]
    not_finite = "the model gave logits that are not finite"
    assert rows.column("error").to_pylist() == [None, "broken", not_finite, not_finite]
    assert rows.column("label").to_pylist() == [0, 1, 1, None]
    assert rows.predicted.tolist() == [1, -1, -1, -1]
    assert np.isnan(rows.loss).tolist() == [False, True, True, True]


def test_a_row_without_label_has_logits_and_no_loss() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b"))
    rows = toy.predictions(run, np.array([[0, LN(3)], [1, 0]], np.float32), np.array([-1, 0]))
    assert rows.column("label").to_pylist() == [None, 0]
    assert rows.column("loss").to_pylist()[0] is None
    assert rows.column("confidence").to_pylist()[0] == pytest.approx(0.75)
    assert len(rows.scored) == 2
    assert rows.labelled.id.tolist() == [1]
    assert rows.label.tolist() == [-1, 0]


def test_scored_and_labelled_leave_out_what_cannot_be_counted() -> None:
    run = dataclasses.replace(toy.RUN, classes=("a", "b"))
    logits = np.array([[2, 1], [1, 2], [1, 2], [2, 1]], np.float32)
    rows = toy.predictions(run, logits, np.array([0, 0, -1, 1]), start=10, failed=frozenset({3}))
    assert rows.scored.id.tolist() == [10, 11, 12]
    assert rows.labelled.id.tolist() == [10, 11]
    assert rows.labelled.right.tolist() == [True, False]
    np.testing.assert_array_equal(rows.scored.logits, logits[:3])
    with pytest.raises(ValueError, match="1 failed rows have no logits"):
        _ = rows.logits
    with pytest.raises(KeyError, match="'embedding' was not read"):
        rows.column("embedding")


def test_rank_and_ties_count_higher_and_equal_logits() -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple("abcd"))
    logits = np.array([[3, 1, 2, 0], [1, 1, 1, 1], [5, 2, 5, 2], [0, 0, 7, 0]], np.float32)
    rows = toy.predictions(run, logits, np.array([2, 3, 1, 2]))
    assert rows.rank.tolist() == [1, 0, 2, 0]
    assert rows.ties.tolist() == [0, 3, 1, 0]


def test_rows_for_tiles_by_hand() -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple("abcd"))
    logits = np.log(np.array([[1, 2, 4, 1], [1, 1, 1, 1], [5, 1, 1, 3]], np.float32))
    rows = toy.predictions(run, logits, np.array([2, -1, 3]), start=7).tile_rows(np.array([2, 0, 1]))
    assert rows["id"].tolist() == [9, 7, 8]
    assert rows["image"].tolist() == ["000009.png", "000007.png", "000008.png"]
    assert rows["key"].tolist() == hash_refs(["000009.png", "000007.png", "000008.png"]).tolist()
    assert rows["label"].tolist() == [3, 2, -1]
    assert rows["predicted"].tolist() == [0, 2, 0]
    assert rows["top_class"].tolist() == [[0, 3, 1], [2, 1, 0], [0, 1, 2]]
    np.testing.assert_allclose(
        rows["top_probability"], [[0.5, 0.3, 0.1], [0.5, 0.25, 0.125], [0.25, 0.25, 0.25]], rtol=1e-6
    )
    np.testing.assert_allclose(rows["confidence"], [0.5, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(rows["loss"], [LN(10 / 3), LN(2), np.nan], rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_nothing_chosen_looks_like_no_rows(classes: int) -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple(map(str, range(classes))))
    rows = toy.predictions(run, *toy.table(run, 3)).tile_rows(np.zeros(0, np.int64))
    empty = no_tile_rows(classes)
    assert {n: (v.shape, v.dtype) for n, v in rows.items()} == {n: (v.shape, v.dtype) for n, v in empty.items()}


RUN = Run(
    classes=("cat", "dög"),
    model="nets.py:build",
    step=12,
    model_args={"depth": 20, "widths": (1, 2), "block": {"kind": "a"}},
    code="c0de",
    weights="0123456789abcdef",
    transform={"resize": (256, 224), "crop": None, "mean": [0.5, 0.25, 0.1], "std": [1.0]},
    root="/data/ünï",
)
PART = Part(4, 9, "d1", 9, "c1", 1.5, 2.5, {"decode": 0.25}, {"torch": "2"})


def _footer(run: Run = RUN, part: Part = PART) -> dict[bytes, bytes]:
    return {key.encode(): value.encode() for key, value in encode_footer(run, part).items()}


def test_a_footer_reads_back_as_it_was() -> None:
    run, part = read_footer(_footer(), "here")
    assert part == PART
    assert run.difference(RUN) is None
    assert RUN.difference(run) is None
    assert run.fingerprint == RUN.fingerprint
    assert run.classes == ("cat", "dög")
    assert read_footer(_footer(run, part), "here") == (run, part)


def test_the_footers_digest_is_of_its_two_records_as_compact_sorted_json() -> None:
    found = _footer()
    records = [json.loads(found[b"predboard.run"]), json.loads(found[b"predboard.part"])]
    text = "\n".join(json.dumps(r, sort_keys=True, separators=(",", ":")) for r in records)
    assert found[b"predboard.digest"].decode() == hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    assert set(records[0]) == {f.name for f in dataclasses.fields(Run)}
    assert set(records[1]) == {f.name for f in dataclasses.fields(Part)}


def test_every_damaged_byte_of_a_footer_is_noticed() -> None:
    good = _footer()
    for key, value in good.items():
        for at in range(len(value)):
            damaged = value[:at] + bytes([value[at] ^ 4]) + value[at + 1 :]
            with pytest.raises(DamagedError, match="here is damaged"):
                read_footer({**good, key: damaged}, "here")
    for key in good:
        with pytest.raises(DamagedError, match="here is damaged"):
            read_footer({k: v for k, v in good.items() if k != key}, "here")


def _signed(run: dict[str, Any], part: dict[str, Any]) -> dict[bytes, bytes]:
    return {
        b"predboard.run": json.dumps(run).encode(),
        b"predboard.part": json.dumps(part).encode(),
        b"predboard.digest": digest_records(run, part).encode(),
    }


def test_a_newer_format_is_named_and_is_no_damage() -> None:
    newer = {**dataclasses.asdict(RUN), "format": 2, "further": 1}
    with pytest.raises(
        InputError, match=r"here has format 2, but this predboard reads formats up to 1: upgrade"
    ) as raised:
        read_footer(_signed(newer, {"start": 0}), "here")
    assert not isinstance(raised.value, DamagedError)


@pytest.mark.parametrize("run", [{"format": 1, "model": "m"}, {"format": 1, "classes": ["a"], "model": "m", "hm": 1}])
def test_a_footer_of_other_fields_is_no_damage(run: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="does not have the fields of format 1") as raised:
        read_footer(_signed(run, dataclasses.asdict(PART)), "here")
    assert not isinstance(raised.value, DamagedError)


@pytest.mark.parametrize("metadata", [None, {}, {b"pandas": b"{}", b"ARROW:schema": b"xyz"}])
def test_a_file_of_another_program_holds_no_predictions(metadata: dict[bytes, bytes] | None) -> None:
    with pytest.raises(InputError, match="here contains no predictions") as raised:
        read_footer(metadata, "here")
    assert not isinstance(raised.value, DamagedError)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weights": "ffff"}, ("weights", "0123456789abcdef", "ffff")),
        ({"shard_size": 7}, ("shard_size", "4096", "7")),
        ({"classes": ("cat", "dog")}, ("classes", "dög", "dog")),
        ({"classes": ("cat",)}, ("classes", "2 names", "1 names")),
        ({"transform": {**RUN.transform, "mean": [0.5]}}, ("transform.mean", "[0.5, 0.25, 0.1]", "[0.5]")),
        ({"transform": {**RUN.transform, "crop": 224}}, ("transform.crop", "None", "224")),
        ({"model_args": {**RUN.model_args, "depth": 32}}, ("model_args.depth", "20", "32")),
        ({"model_args": {**RUN.model_args, "block": {"kind": "b"}}}, ("model_args.block.kind", "a", "b")),
        ({"model_args": {**RUN.model_args, "old": None}}, ("model_args.old", "not given", "None")),
        ({"model_args": {**RUN.model_args, "more": {}}}, ("model_args.more", "not given", "{}")),
        ({"model_args": {}}, ("model_args.block.kind", "a", "not given")),
        ({"precision": "bf16"}, ("precision", "fp32", "bf16")),
        ({"step": 13}, ("step", "12", "13")),
        ({"root": "/elsewhere"}, ("root", "/data/ünï", "/elsewhere")),
    ],
)
def test_a_difference_names_the_field(change: dict[str, Any], expected: tuple[str, str, str]) -> None:
    other = dataclasses.replace(RUN, **change)
    assert RUN.difference(other) == expected
    assert other.difference(RUN) == (expected[0], expected[2], expected[1])
    assert RUN.fingerprint != other.fingerprint


def test_tuples_and_lists_are_the_same_run() -> None:
    other = dataclasses.replace(RUN, transform={**RUN.transform, "resize": [256, 224]})
    assert RUN.difference(other) is None
    assert RUN.fingerprint == other.fingerprint


def test_the_schema_is_the_documented_one() -> None:
    found = part_schema(
        dataclasses.replace(RUN, embedding=5, thumbnails=32), pa.schema([pa.field("site", pa.string())])
    )
    assert found.names == [*COLUMNS, "site"]
    assert found.field("logits").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 2)
    assert found.field("embedding").type == pa.list_(pa.field("element", pa.float16(), nullable=False), 5)
    assert [f.name for f in found if not f.nullable] == ["id", "key"]
    assert set(COLUMNS) - set(part_schema(RUN).names) == {"embedding", "thumbnail"}


def test_embeddings_and_further_columns_are_built_with_nulls_in_failed_rows() -> None:
    run = dataclasses.replace(RUN, embedding=2)
    found = Predictions.build(
        part_schema(run, pa.schema([pa.field("site", pa.string())])),
        id=np.arange(2),
        key=np.arange(2),
        image=pa.array(["a", None], pa.string()),
        label=np.array([0, 1]),
        logits=np.array([[1, 0], [0, 1]], np.float32),
        error=[None, "no"],
        more={
            "embedding": np.array([[1, 2], [3, 4]], np.float16),
            "site": ["north", "south"],
            **{n: [None, None] for n in ("digest", "width", "height", "bytes", "brightness", "contrast")},
        },
    )
    assert found.column("embedding").to_pylist() == [[1, 2], None]
    assert found.column("site").to_pylist() == ["north", "south"]
    assert found.column("image").to_pylist() == ["a", None]
