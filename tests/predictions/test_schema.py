"""The contract: footers, schema, keys, and how two runs differ."""

import dataclasses
import datetime
import hashlib
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from predboard.errors import DamagedError, InputError
from predboard.predictions.digests import digest_manifest
from predboard.predictions.footer import encode_footer, read_footer
from predboard.predictions.positive_class import with_positive
from predboard.predictions.schema import COLUMNS, Part, Run, digest_records, hash64, hash_refs, part_schema


def test_keys_do_not_drift() -> None:
    assert hash_refs(["a/0.png", "ü/0.png"]).tolist() == [3230863055585924566, -2208312144883619445]
    assert hash_refs(["ü"]).tolist() == [hash64("ü".encode())]
    assert hash_refs([]).shape == (0,)
    assert Run(classes=("a", "b"), model="m.py:f").fingerprint == "6d16e43226f1e055"


def test_the_positive_class_is_recorded_where_it_is_not_the_second() -> None:
    plain = Run(classes=("cat", "dog"), model="m.py:f")
    assert "positive" not in plain.record()
    assert (plain.positive_class, plain.positive_index) == ("dog", 1)
    other = with_positive(plain, "cat")
    assert other.record()["positive"] == "cat"
    assert (other.positive_class, other.positive_index) == ("cat", 0)
    assert read_footer(_footer(other, PART), "here")[0] == other
    assert plain.difference(other) == ("positive", "dog", "cat")
    assert with_positive(other, "dog") == plain
    assert with_positive(other, None) is other
    assert Run(classes=("a", "b", "c"), model="m.py:f").positive_class == ""
    for run, name, words in (
        (plain, "Dog", "--positive is 'Dog'; expected cat or dog; did you mean dog"),
        (Run(classes=("a", "b", "c"), model="m.py:f"), "a", "there are 3"),
    ):
        with pytest.raises(InputError, match=words):
            with_positive(run, name)
    with pytest.raises(InputError, match="positive is 'cow', expected one of two classes"):
        encode_footer(dataclasses.replace(plain, positive="cow"), PART)


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
    unusual = {"task", "positive"}  # left out as they usually are, so that older records stay as they are
    assert set(records[0]) == {f.name for f in dataclasses.fields(Run)} - unusual
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
    newer = {**dataclasses.asdict(RUN), "format": 3, "further": 1}
    with pytest.raises(
        InputError, match=r"here has format 3, but this predboard reads formats up to 2: upgrade"
    ) as raised:
        read_footer(_signed(newer, {"start": 0}), "here")
    assert not isinstance(raised.value, DamagedError)


@pytest.mark.parametrize("run", [{"format": 1, "model": "m"}, {"format": 1, "classes": ["a"], "model": "m", "hm": 1}])
def test_a_footer_of_other_fields_is_no_damage(run: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="does not have the fields of format 1") as raised:
        read_footer(_signed(run, dataclasses.asdict(PART)), "here")
    assert not isinstance(raised.value, DamagedError)


NO_CLASSES: list[Any] = [[0, 1, 2], "cat", {"cat": 0}, [], None, ["\ud800"], [["cat"]]]
NO_STEPS: list[Any] = [10**30, -1, 1.5, "12", True, None]
NO_TIMES: list[Any] = [401_797_756_800.0, math.nan, math.inf, -1, "now", 10**400]


@pytest.mark.parametrize(
    ("record", "change"),
    [
        *(("run", {"classes": value}) for value in NO_CLASSES),
        *(("run", {"step": value}) for value in NO_STEPS),
        *(("run", {name: "x"}) for name in ("transform", "model_args", "shard_size", "embedding", "scores")),
        *(("run", {name: 7}) for name in ("model", "root", "precision", "weights")),
        *(("part", {"finished": value}) for value in NO_TIMES),
        *(("part", {name: 2**64}) for name in ("start", "stop", "manifest_rows", "clipped")),
        ("part", {"start": 9, "stop": 4}),
        ("part", {"seconds": {"decode": "1"}}),
        ("part", {"provenance": []}),
    ],
)
def test_a_footer_of_other_types_is_one_line_that_names_the_field(record: str, change: dict[str, Any]) -> None:
    records = {"run": dataclasses.asdict(RUN), "part": dataclasses.asdict(PART)}
    records[record] |= change
    name = next(iter(change))
    with pytest.raises(InputError, match=f"the footer of here does not have the fields of format 1: .*{name}"):
        read_footer(_signed(**records), "here")
    kind = dataclasses.replace(RUN, **change) if record == "run" else RUN
    part = dataclasses.replace(PART, **change) if record == "part" else PART
    with pytest.raises(InputError, match="a part cannot be written: "):
        encode_footer(kind, part)


@pytest.mark.parametrize("text", [b"null", b"[]", b"3", b"[" * 10**5, b'{"format": 1e999}'])
def test_a_footer_that_is_no_object_is_damaged(text: bytes) -> None:
    for key in (b"predboard.run", b"predboard.part"):
        with pytest.raises(InputError, match="here"):
            read_footer({**_footer(), key: text}, "here")


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


def test_the_digest_of_a_manifest_is_of_lines_of_json_as_the_format_says() -> None:
    """Written by Python's encoder here, a row at a time; whole numbers and plain text are written by Arrow in ours."""
    image = pa.array(["a.png", None, 'q"\\', "日本\n", "", "\x7f", "x y~"])
    label = np.array([0, -1, 2, 3, 4, 5, 6])
    further = pa.table(
        {
            "z": pa.array([1, None, -(2**63), 2**63 - 1, 0, 5, 6]),
            "a": ["plain", None, "é", '"', "", "NaN", "null"],
            "f": [0.1, math.nan, math.inf, -0.0, None, 1e300, 1.0],
            "b": [True, None, False, True, True, True, True],
            "d": pa.array([datetime.date(2020, 1, 1), None] * 3 + [None]),
            "l": [[1, 2], None, [], [3], [4], [5], [6]],
            "c": pa.array(["x", "y"] * 3 + [None]).dictionary_encode(),
        }
    )

    def expected(rows: slice, more: bool) -> str:
        records = zip(image.to_pylist(), label.tolist(), further.to_pylist(), strict=True)
        lines = [json.dumps(list(r) if more else r[:2], sort_keys=True, default=str) + "\n" for r in [*records][rows]]
        return hashlib.blake2b("".join(lines).encode(), digest_size=8).hexdigest()

    for rows in (slice(0, 7), slice(0, 1), slice(3, 6), slice(0, 0)):
        start, length = rows.start, rows.stop - rows.start
        some = image.slice(start, length), label[rows], further.slice(start, length)
        assert digest_manifest(*some) == expected(rows, True)
        assert digest_manifest(*some[:2]) == expected(rows, False)
        assert digest_manifest(image.slice(0, 1), label[:1]) == expected(slice(0, 1), False)
