"""Rows of the same images in two steps, by name, by the name inside an archive, or by the file's digest."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from predboard.tab.pairs import match_keys, pair_steps
from tests.tab import logs


@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6)))
def test_equal_keys_are_matched_in_turn(a: list[int], b: list[int]) -> None:
    left, right = (
        pd.DataFrame({"key": keys, "turn": pd.Series(keys, dtype=int).groupby(keys).cumcount()}) for keys in (a, b)
    )
    right["place"] = np.arange(len(b))
    expected = left.merge(right, "left", ["key", "turn"]).place.fillna(-1).astype(int)
    assert match_keys(np.array(a, np.int64), np.array(b, np.int64)).tolist() == expected.tolist()


def change(folder: Path, **columns: pa.Array) -> None:
    table = pq.read_table(folder / "rows.parquet")
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, folder / "rows.parquet")


def test_images_are_recognised_by_what_they_have_in_common(tmp_path: Path) -> None:
    new = logs.write_logs(tmp_path / "new", 20, prefix="data/cat/", steps=(0,))
    same = logs.write_logs(tmp_path / "same", 12, seed=1, prefix="data/cat/", steps=(0,))
    archive = logs.write_logs(tmp_path / "archive", 12, seed=1, prefix="./x.zip#data/cat/", steps=(0,))
    copied = logs.write_logs(tmp_path / "copied", 12, seed=1, prefix="copy/", steps=(0,))
    moved = logs.write_logs(tmp_path / "moved", 12, seed=1, prefix="y.tar#photos/cat/", steps=(0,))
    twice = logs.write_logs(tmp_path / "twice", 12, seed=1, prefix="photos/cat/", steps=(0,))
    for number, folder in enumerate((archive, copied, moved, twice), 1):
        change(folder, key=pa.array(np.arange(12) + 100 * number))
    change(new, digest=pa.array([*range(1, 20), None], pa.int64()))
    change(same, digest=pa.array([1, 2, *range(50, 59), None], pa.int64()))
    change(copied, digest=pa.array([*range(12, 1, -1), None], pa.int64()))
    for folder in (moved, twice):
        change(folder, digest=pa.array([None] * 12, pa.int64()))
    change(twice, image=pa.array(["a/cat/Photo 001.png", "b/cat/Photo 001.png", *["x"] * 10]))
    step = logs.opened(new).last
    pairs = [pair_steps(step, logs.opened(folder).last) for folder in (same, archive, copied, moved, twice)]
    assert [pair.joined_by for pair in pairs] == [
        "name of the image",
        "name inside the archive",
        "digest of the image's file",
        "folder and file name",
        "",
    ]
    for pair in (pairs[0], pairs[1], pairs[3]):
        assert pair.old_row.tolist() == [*range(12), *[-1] * 8]
    assert pairs[2].old_row.tolist() == [-1, *range(10, -1, -1), *[-1] * 8]
    assert pairs[0].other_pictures == 9
    assert pairs[4].both == 0
    assert pairs[4].mask("only").all()
    assert not pairs[4].mask("fixed").any()
