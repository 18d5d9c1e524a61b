"""Runs over different images as one: every value stays, rows are numbered anew, and what does not fit is refused."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import predboard
from predboard import InputError
from predboard.cli import main
from predboard.composition.merge import merge
from predboard.config import MergeConfig
from predboard.predictions.schema import hash_refs
from predboard.storage.inspection import inspect
from predboard.storage.runs import open_run, part_path
from tests import fake_storage, toy
from tests.comparison.test_join import names, step
from tests.composition.test_combine import digests


def read(folder: Path) -> pd.DataFrame:
    return pd.DataFrame(predboard.open_predictions(folder).to_pandas())


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """All columns but the numbers of the rows."""
    columns = [name for name in a.columns if name != "id"]
    pd.testing.assert_frame_equal(a[columns].reset_index(drop=True), b[columns].reset_index(drop=True))


def test_two_halves_are_the_whole_to_the_last_bit(tmp_path: Path) -> None:
    country = pa.record_batch({"country": ["NO", "SE"] * 50})
    step(tmp_path / "whole", names(100), further=country, shard_size=30)
    step(tmp_path / "a", names(40), further=country.slice(0, 40), seed=1, shard_size=30)
    step(tmp_path / "b", names(60, 40), further=country.slice(40), seed=2, shard_size=7)
    merge(MergeConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "m"))
    merged = read(tmp_path / "m")
    same(merged, pd.concat([read(tmp_path / "a"), read(tmp_path / "b")]))
    assert merged["id"].tolist() == list(range(100))
    assert merged["image"].tolist() == read(tmp_path / "whole")["image"].tolist()
    assert merged["country"].tolist() == ["NO", "SE"] * 50
    assert inspect(tmp_path / "m").complete
    assert (
        predboard.compare(tmp_path / "whole", tmp_path / "m", logdir=tmp_path / "logs").summary["rows"]["both"] == 100
    )


def test_all_steps_are_merged_and_failed_rows_stay(tmp_path: Path) -> None:
    for number in (1, 2):
        run = dataclasses.replace(toy.RUN, step=number)
        toy.write_run(tmp_path / "a", *toy.table(run, 30, seed=number), run, failed=frozenset({3}))
        step(tmp_path / f"b{number}", names(20), run)
    (tmp_path / "b").mkdir()
    for number in (1, 2):
        (tmp_path / f"b{number}" / f"step={number:08d}").rename(tmp_path / "b" / f"step={number:08d}")
    result = merge(MergeConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "m"))
    assert (result.rows, set(result.steps), result.failed) == (50, {1, 2}, 1)
    merged = read(tmp_path / "m")
    assert merged["error"].notna().tolist() == [i == 3 for i in range(50)]
    step(tmp_path / "c", names(5))
    with pytest.raises(InputError, match=r"a has the steps 1, 2 and c has 0: name one step of each, as .*a@2"):
        merge(MergeConfig((tmp_path / "a", tmp_path / "c"), tmp_path / "n"))


def test_further_columns_are_joined_by_name(tmp_path: Path) -> None:
    step(
        tmp_path / "a", names(2), further=pa.record_batch({"year": pa.array([1, 2], pa.int32()), "land": ["NO", "SE"]})
    )
    step(
        tmp_path / "b",
        names(2, 2),
        further=pa.record_batch({"cloud": [0.5, 1.0], "year": pa.array([3, 4], pa.int64())}),
    )
    merge(MergeConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "m"))
    merged = read(tmp_path / "m")
    assert merged["year"].tolist() == [1, 2, 3, 4]
    assert merged["land"].fillna("").tolist() == ["NO", "SE", "", ""]
    assert merged["cloud"].isna().tolist() == [True, True, False, False]
    assert inspect(tmp_path / "m").complete
    step(tmp_path / "c", names(2, 4), further=pa.record_batch({"year": ["x", "y"]}))
    with pytest.raises(InputError, match="column year is int32 in a and string in c: give it one type"):
        merge(MergeConfig((tmp_path / "a", tmp_path / "c"), tmp_path / "n"))


def test_refs_stay_right_where_the_folders_of_images_differ(tmp_path: Path) -> None:
    for name, start in (("may", 0), ("june", 5)):
        step(tmp_path / name, names(5, start), dataclasses.replace(toy.RUN, root=f"/data/{name}"))
    merge(MergeConfig((tmp_path / "may", tmp_path / "june"), tmp_path / "m"))
    merged = read(tmp_path / "m")
    assert open_run(tmp_path / "m")[0].run.root == "/data"
    assert merged["image"].tolist() == [f"{'may' if i < 5 else 'june'}/{i:05d}.png" for i in range(10)]
    assert merged["key"].tolist() == hash_refs(names(10)).tolist()  # by which other runs know them
    assert inspect(tmp_path / "m").complete

    step(tmp_path / "same", names(5), dataclasses.replace(toy.RUN, root="/data/same"))
    both = tmp_path / "may", tmp_path / "same"
    with pytest.raises(InputError, match=r"^5 images of these runs are in more than one of them.*--rekey"):
        merge(MergeConfig(both, tmp_path / "n"))
    merge(MergeConfig(both, tmp_path / "n", rekey=True))
    again = read(tmp_path / "n")
    assert again["key"].tolist() == hash_refs(again["image"].tolist()).tolist()
    assert again["image"].tolist()[:6] == [*(f"may/{i:05d}.png" for i in range(5)), "same/00000.png"]
    assert inspect(tmp_path / "n").complete


def test_runs_of_several_labels(tmp_path: Path) -> None:
    z, labels = toy.multi_label_table(toy.MULTI_LABEL_RUN, 30)
    toy.write_run(tmp_path / "a", z, labels, toy.MULTI_LABEL_RUN)
    toy.write_run(tmp_path / "b", z, labels, dataclasses.replace(toy.MULTI_LABEL_RUN, root="/b"))
    merge(MergeConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "m", rekey=True))
    merged = read(tmp_path / "m")
    assert [list(row) for row in merged["predicted_labels"][30:]] == [
        list(row) for row in merged["predicted_labels"][:30]
    ]
    assert inspect(tmp_path / "m").complete


def test_the_same_input_gives_the_same_bytes_and_valid_parts_stay(tmp_path: Path) -> None:
    step(tmp_path / "a", names(50), shard_size=20)
    step(tmp_path / "b", names(50, 50), shard_size=20)
    config = MergeConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "m")
    assert merge(config).written == 100
    first = digests(tmp_path / "m")
    assert merge(config).written == 0
    part_path(tmp_path / "m", 0, 2).unlink()
    assert merge(config).written == 20
    assert digests(tmp_path / "m") == first
    with pytest.raises(InputError, match="was made of other rows"):
        merge(MergeConfig((tmp_path / "b", tmp_path / "a"), tmp_path / "m"))
    storage = fake_storage.empty()
    remote = tuple(fake_storage.copied(storage, tmp_path / name, f"runs/{name}") for name in "ab")
    merge(MergeConfig(remote, tmp_path / "r"))
    assert digests(tmp_path / "r") == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, "b was made with another model than a"),
        ({"weights": "123"}, "another weights than a"),
        ({"transform": {"resize": 256}}, "another transform.resize than a"),
        ({"precision": "bf16"}, "another precision than a"),
        ({"classes": tuple("abcdefghij")}, "another classes than a"),
    ],
)
def test_other_models_transforms_and_classes_are_refused_by_name(
    tmp_path: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    step(tmp_path / "a", names(5))
    step(tmp_path / "b", names(5, 5), dataclasses.replace(toy.RUN, **changes))  # type: ignore[arg-type]  # by name
    assert main.run(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_images_that_are_in_two_runs_are_counted_and_refused(tmp_path: Path) -> None:
    step(tmp_path / "a", names(50))
    step(tmp_path / "b", names(50, 43))
    with pytest.raises(
        InputError, match=r"^7 images of these runs are in more than one of them, by their keys: name each"
    ):
        merge(MergeConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "m"))
    assert np.array_equal(sorted(p.name for p in tmp_path.iterdir()), ["a", "b"])


def test_each_step_is_looked_at(tmp_path: Path) -> None:
    def name_from(first: int, i: int) -> str:
        return f"{first + i:05d}.png"

    for number, start, root in ((1, 5, "/data"), (2, 4, "/elsewhere")):
        for name, first in (("a", 0), ("b", start)):
            run = dataclasses.replace(toy.RUN, step=number, root=f"{root}/{name}")
            toy.write_run(tmp_path / name, *toy.table(run, 5), run, name=functools.partial(name_from, first))
    both = tmp_path / "a", tmp_path / "b"
    with pytest.raises(InputError, match=r"^1 image of these runs is in more than one of them"):
        merge(MergeConfig(both, tmp_path / "m"))
    assert not (tmp_path / "m").exists()
    merge(MergeConfig(both, tmp_path / "m", rekey=True))
    assert [one.run.root for one in open_run(tmp_path / "m")] == ["/data", "/elsewhere"]
    for number, start in ((1, 5), (2, 4)):
        images = predboard.open_predictions(tmp_path / "m", step=number).to_pandas()["image"].tolist()
        assert images == [f"a/{name}" for name in names(5)] + [f"b/{name}" for name in names(5, start)]


def test_a_program_merges_folders_or_by_a_configuration(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    step(a, names(40), seed=1)
    step(b, names(20, 40), seed=2)
    lines: list[str] = []
    assert predboard.merge(str(a), b, out=str(tmp_path / "m"), log=lines.append).written == 60
    same(read(tmp_path / "m"), pd.concat([read(a), read(b)]))
    assert predboard.merge([a, b], out=tmp_path / "m").written == 0
    assert predboard.merge(predboard.MergeConfig((a, b), tmp_path / "m"), lines.append).written == 0
    assert lines == [f"1 of 1 parts in {tmp_path / 'm'} are there already and valid"]
    with pytest.raises(InputError, match="merge has no option 'rekeyed'; did you mean 'rekey'"):
        predboard.merge(a, b, out=tmp_path / "n", rekeyed=True)
    with pytest.raises(InputError, match=f"^out= {a} is one of the runs"):
        predboard.merge(a, b, out=a)
