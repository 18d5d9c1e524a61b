"""Rows of two steps are joined by their keys, whatever their order, their number and where they are sorted."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from predboard import InputError
from predboard.comparison import join
from predboard.comparison.class_mapping import ClassMapping, match_classes
from predboard.comparison.join import JoinedRows, KeyIndex, join_rows
from predboard.comparison.paired_counts import NEW_COLUMNS, OLD_COLUMNS
from predboard.predictions.schema import Part, Run, hash_refs, part_schema
from predboard.predictions.table import Predictions
from predboard.storage.parts import PartWriter, read_batches
from predboard.storage.runs import RunReader, Step, open_run, part_path
from tests import toy

COLUMNS = OLD_COLUMNS | {"image"}, NEW_COLUMNS | {"image"}


def step(
    folder: Path,
    names: Sequence[str],
    run: Run = toy.RUN,
    seed: int = 0,
    shard_size: int = 4096,
    keys: Sequence[str] = (),
    further: pa.RecordBatch | None = None,
    label: NDArray[np.int64] | None = None,
) -> Step:
    """A run on disk whose images are called so; the labels go by the names, the rest by the seed."""
    run = dataclasses.replace(run, shard_size=shard_size)
    key = hash_refs(names)
    label = (key.view(np.uint64) % len(run.classes)).astype(np.int64) if label is None else label
    logits = np.random.default_rng(seed).normal(size=(len(names), len(run.classes))).astype(np.float32)
    more = None if further is None else further.schema
    columns = {} if further is None else {f.name: further.column(f.name) for f in further.schema}
    for number, start in enumerate(range(0, max(len(names), 1), shard_size)):
        here = slice(start, start + shard_size)
        n = len(names[here])
        rows = Predictions.build(
            part_schema(run, more),
            id=np.arange(start, start + n),
            key=(hash_refs(keys) if keys else key)[here],
            image=pa.array(names[here], pa.string()),
            label=label[here],
            logits=logits[here],
            error=[None] * n,
            more={
                **{name: [start] * n for name in ("digest", "bytes", "width", "height")},
                **{name: [0.25] * n for name in ("brightness", "contrast")},
                **{name: column.slice(start, n) for name, column in columns.items()},
            },
        )
        writer = PartWriter(part_path(folder, run.step, number), run, more)
        writer.write(rows)
        digest = toy.manifest_digest(rows)
        writer.publish(Part(start, start + n, digest, len(names), "", started=1.7e9, finished=1.7e9))
    (found,) = open_run(folder)
    return found


def all_of(old: Step, new: Step, zipped: bool = True) -> list[JoinedRows]:
    return list(join_rows(old, new, ClassMapping(new.run.classes), COLUMNS, zipped))


def pairs(found: list[JoinedRows]) -> list[tuple[int, int]]:
    return [pair for j in found for pair in zip(j.old.id.tolist(), j.new.id.tolist(), strict=True)]


def alone(found: list[JoinedRows]) -> tuple[list[int], list[int]]:
    return (
        sorted(i for j in found for i in j.only_old.id.tolist()),
        sorted(i for j in found for i in j.only_new.id.tolist()),
    )


def names(count: int, start: int = 0) -> list[str]:
    return [f"{i:05d}.png" for i in range(start, start + count)]


@pytest.fixture
def never_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Iterator[JoinedRows]:
        raise AssertionError("rows that lie side by side were sorted")

    monkeypatch.setattr(join, "_sorted", refuse)


@pytest.mark.usefixtures("never_sorted")
def test_rows_of_one_manifest_lie_side_by_side(tmp_path: Path) -> None:
    old = step(tmp_path / "a", names(1000), seed=1, shard_size=300)
    new = step(tmp_path / "b", names(1000), seed=2, shard_size=300)
    found = all_of(old, new)
    assert pairs(found) == [(i, i) for i in range(1000)]
    assert alone(found) == ([], [])
    assert sum(j.repeated[0] for j in found) == 0


def test_portions_are_of_one_size_however_rows_lie_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "PORTION_ROWS", 170)
    old, new = (step(tmp_path / n, names(1000), seed=s, shard_size=300) for s, n in enumerate("ab"))
    found = all_of(old, new)
    assert [len(j.new) for j in found] == [170] * 5 + [150]
    assert pairs(found) == [(i, i) for i in range(1000)]
    assert pairs(all_of(old, new, zipped=False)) == pairs(found)


def test_an_inserted_image_and_another_order_move_nothing_else(tmp_path: Path) -> None:
    mine = names(500)
    other = [*mine[:200], "new.png", *mine[200:]]
    shuffled = [other[i] for i in np.random.default_rng(0).permutation(len(other))]
    old = step(tmp_path / "a", mine, shard_size=100)
    for theirs in (other, shuffled):
        new = step(tmp_path / f"b{theirs is other}", theirs, shard_size=70)
        found = all_of(old, new)
        assert sorted(pairs(found)) == [(i, theirs.index(name)) for i, name in enumerate(mine)]
        assert alone(found) == ([], [theirs.index("new.png")])
        for j in found:
            assert j.old.column("image").cast(pa.string()).equals(j.new.column("image"))


def test_it_is_the_join_that_pandas_makes(tmp_path: Path) -> None:
    old, new = step(tmp_path / "a", names(400)), step(tmp_path / "b", names(400, 150)[::-1], seed=3)
    a, b = (pd.concat([r.to_pandas() for r in RunReader([s], None, ["id", "key"])]) for s in (old, new))
    merged = a.merge(b, on="key")
    found = all_of(old, new)
    assert sorted(pairs(found)) == sorted(zip(merged.id_x, merged.id_y, strict=True))
    assert alone(found) == (list(range(150)), list(range(150)))


def test_the_first_of_a_key_goes_with_the_first_and_what_is_left_is_alone(tmp_path: Path) -> None:
    old = step(tmp_path / "a", ["x", "y", "x", "z", "x"])
    new = step(tmp_path / "b", ["y", "x", "x", "w"])
    found = all_of(old, new)
    assert pairs(found) == [(1, 0), (0, 1), (2, 2)]
    assert alone(found) == ([3, 4], [3])
    assert [j.repeated for j in found][-1] == (3, 2)
    same = step(tmp_path / "c", ["x", "y", "x", "z", "x"], seed=5)
    for zipped in (True, False):
        found = all_of(old, same, zipped=zipped)
        assert pairs(found) == [(i, i) for i in range(5)]
        assert sum(sum(j.repeated) for j in found) == 3 + 3


@pytest.mark.parametrize("whose", ["old", "new"])
def test_names_that_rows_of_different_labels_share_join_nothing(tmp_path: Path, whose: str) -> None:
    label = np.arange(200) % 3
    shared, own = ["a.png"] * 4 + names(200)[4:], names(200)
    old = step(tmp_path / "old", shared if whose == "old" else own, label=label)
    new = step(tmp_path / "new", (shared if whose == "new" else own)[::-1], label=label[::-1])
    with pytest.raises(InputError, match=f"4 of 200 rows of .*{whose} share their name with a row of another label"):
        all_of(old, new)
    few = step(tmp_path / "few", ["a.png"] * 2 + names(200)[2:], label=label)  # 1 %
    assert len(pairs(all_of(few, step(tmp_path / "b", own[::-1], label=label[::-1])))) == 198


def test_keys_that_are_there_twice_are_counted(tmp_path: Path) -> None:
    many = [*names(400), *names(30), *names(10)]
    old, new = step(tmp_path / "a", many, shard_size=64), step(tmp_path / "b", many, seed=1, shard_size=64)
    found = all_of(old, new)
    assert sum(j.repeated[0] for j in found) == 30 + 30 + 10
    assert pairs(found) == [(i, i) for i in range(len(many))]


def test_equal_digests_with_other_keys_are_not_trusted(tmp_path: Path) -> None:
    mine = names(300)
    old = step(tmp_path / "a", mine)
    new = step(tmp_path / "b", mine, keys=[mine[1], mine[0], *mine[2:]])
    assert sorted(pairs(all_of(old, new)))[:3] == [(0, 1), (1, 0), (2, 2)]


def test_columns_of_the_manifest_come_along_but_for_lists(tmp_path: Path) -> None:
    more = {"country": pa.array(["NO", "SE"] * 10).dictionary_encode(), "list": pa.array([[1]] * 20)}
    more["blob"] = pa.array([b"x"] * 20)
    further = pa.RecordBatch.from_arrays(list(more.values()), names=list(more))
    new = step(tmp_path / "b", names(20), further=further)
    for zipped in (True, False):
        found, *_ = all_of(step(tmp_path / f"a{zipped}", names(20)), new, zipped=zipped)
        assert found.new.manifest_columns == ["country"]
        assert found.old.manifest_columns == []
        assert found.new.column("country").to_pylist() == ["NO", "SE"] * 10


def test_damage_is_one_line(tmp_path: Path) -> None:
    old, new = step(tmp_path / "a", names(50)), step(tmp_path / "b", names(50), seed=1)
    toy.spoil(new.parts[0].path, "confidence")
    for zipped in (True, False):
        with pytest.raises(InputError, match=r"step=00000000/part-00000\.parquet is damaged"):
            all_of(old, new, zipped=zipped)


def test_other_classes_are_refused_by_the_first_difference() -> None:
    a, b = Run(("cat", "dog", "eel"), "m"), Run(("cat", "fox"), "m")
    with pytest.raises(InputError) as error:
        match_classes(a, b, ("OLD", "NEW"))
    assert str(error.value) == (
        "the classes differ: class 1 is 'dog' in OLD and 'fox' in NEW (3 and 2 classes); --map-classes matches them "
        "by name"
    )
    with pytest.raises(InputError, match="class 1 is 'dog' in OLD and none in NEW"):
        match_classes(a, Run(("cat",), "m"), ("OLD", "NEW"))
    with pytest.raises(InputError, match="two classes of NEW are called 'crane'"):
        match_classes(a, Run(("crane", "crane"), "m"), ("OLD", "NEW"), by_name=True)


def test_classes_are_mapped_by_their_names(tmp_path: Path) -> None:
    a, b = Run(("cat", "dog", "eel"), "m"), Run(("eel", "cat", "fox"), "m")
    both = match_classes(a, b, ("a", "b"), by_name=True)
    assert both.names == ("eel", "cat", "fox", "dog")
    assert both.mapped
    assert not match_classes(a, a, ("a", "b"), by_name=True).mapped
    old, new = step(tmp_path / "a", names(90), a), step(tmp_path / "b", names(90), b, seed=1)
    (found,) = join_rows(old, new, both, COLUMNS)
    for mapped, run, rows in ((found.old, a, old), (found.new, b, new)):
        (raw,) = read_batches(rows.parts[0], ["label", "predicted"])
        assert [both.names[i] for i in mapped.label] == [run.classes[i] for i in raw.label]
        assert [both.names[i] for i in mapped.predicted] == [run.classes[i] for i in raw.predicted]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=5))
def test_the_ith_of_a_key_is_matched_with_the_ith(old: list[int], new: list[list[int]]) -> None:
    index = KeyIndex(pa.RecordBatch.from_pydict({"key": pa.array(old, pa.int64())}))
    waiting = {key: [i for i, k in enumerate(old) if k == key] for key in set(old)}
    for some in new:
        expected = [waiting[k].pop(0) if waiting.get(k) else -1 for k in some]
        assert index.find(np.array(some, np.int64)).tolist() == expected
    assert index.left().tolist() == sorted(i for left in waiting.values() for i in left)
    assert index.repeated == sum(old.count(k) for k in set(old) if old.count(k) > 1)
