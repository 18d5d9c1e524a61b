"""Runs: listing, opening, gaps, and what is refused."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import open_predictions
from predboard.errors import DamagedError, InputError
from predboard.predictions.footer import encode_footer, read_footer
from predboard.predictions.schema import COLUMNS
from predboard.storage.inspection import inspect
from predboard.storage.locks import lock_folder
from predboard.storage.parts import read_batches
from predboard.storage.runs import (
    delete_part,
    delete_step,
    list_part_paths,
    list_step_numbers,
    open_step,
    part_path,
    preflight_path,
    read_values,
    step_folder,
)
from tests import toy
from tests.storage.small_runs import RUN, write_small_run


def _table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:  # pq.read_table would make a column of the step
        return file.read()


def _damage(path: Path, column: int) -> None:
    """Flip a bit in the first page of a column, which its header and the footer know nothing of."""
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(column)
    raw = bytearray(path.read_bytes())
    raw[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(raw)


def _as_read(frame: pd.DataFrame) -> list[list[Any]]:
    """Rows as plain values in the order of ids, so that no program's types matter."""
    frame = frame.sort_values("id")
    cells = []
    for row in frame.itertuples(index=False):
        plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in row]
        cells.append([None if v is None or (not isinstance(v, list) and pd.isna(v)) else v for v in plain])
    return cells


def test_pandas_and_duckdb_open_the_folder_as_it_is(tmp_path: Path) -> None:
    names = list(COLUMNS)[:-2]
    one = write_small_run(tmp_path, 50, shard_size=20)
    two = write_small_run(tmp_path, 50, dataclasses.replace(RUN, step=12), shard_size=20)
    with lock_folder(tmp_path):  # which leaves a file behind that is no part
        pass
    preflight_path(tmp_path, 12, ".png").parent.mkdir()
    preflight_path(tmp_path, 12, ".png").write_bytes(b"a picture")
    assert len(list(tmp_path.glob("*/*.parquet"))) == 6

    by_pandas = pd.read_parquet(tmp_path)
    assert sorted(by_pandas["step"].astype(int).unique()) == [0, 12]
    pattern = f"{tmp_path}/**/*.parquet"
    by_duckdb = duckdb.connect().execute(f"select * from read_parquet('{pattern}', hive_partitioning = true)").df()
    for step, expected in ((0, one), (12, two)):
        for found in (by_pandas, by_duckdb):
            here = found[found["step"].astype(int) == step]
            assert _as_read(here[names]) == _as_read(expected[names])
    accuracy = (
        duckdb.connect()
        .execute(
            f"select avg((predicted = label)::int) from read_parquet('{pattern}', hive_partitioning = true) "
            "where step = 12"
        )
        .fetchone()
    )
    assert accuracy == (
        pytest.approx((two["predicted"] == two["label"])[two["label"].notna() & two["error"].isna()].mean()),
    )


def test_rows_are_of_the_manifest_that_any_part_of_the_step_knows(tmp_path: Path) -> None:
    logits, label = toy.table(RUN, 40)
    toy.write_run(tmp_path, logits, label, RUN, shard_size=10)  # of 40
    before = part_path(tmp_path, 0, 0)
    table = _table(before)
    run, part = read_footer(table.schema.metadata, "")
    shorter = encode_footer(run, dataclasses.replace(part, manifest_rows=10))
    pq.write_table(table.replace_schema_metadata(shorter), before)  # made before the manifest grew
    step = open_step(tmp_path, 0)
    assert step is not None
    assert [file.part.manifest_rows for file in step.parts] == [10, 40, 40, 40]
    assert {rows.manifest_rows for file in step.parts for rows in read_batches(file)} == {40}
    assert step.manifest_rows == 40


def test_missing_parts_are_gaps(tmp_path: Path) -> None:
    write_small_run(tmp_path, 50, shard_size=10)
    assert open_predictions(tmp_path).step.missing == ()
    for index in (0, 2, 3):
        part_path(tmp_path, 0, index).unlink()
    step = open_predictions(tmp_path).step
    assert step.missing == ((0, 10), (20, 40))
    assert (step.rows, step.manifest_rows) == (20, 50)
    part_path(tmp_path, 0, 4).unlink()
    assert open_predictions(tmp_path).step.missing == ((0, 10), (20, 50))
    found = inspect(tmp_path)
    assert not found.complete
    assert "step 0 lacks rows 20 to 49" in found.lines()


def test_inspection_counts_and_names_what_is_damaged(tmp_path: Path) -> None:
    frame = write_small_run(tmp_path, 50, shard_size=10)
    facts = inspect(tmp_path).facts
    (step,) = facts["steps"]
    counted = frame[frame["error"].isna() & frame["label"].notna()]
    assert step["accuracy"] == pytest.approx((counted["predicted"] == counted["label"]).mean())
    assert (step["rows"], step["failed"], step["unlabelled"], step["parts"]) == (
        50,
        2,
        int(frame["label"].isna().sum()),
        5,
    )
    assert facts["bytes"] == sum(p.stat().st_size for p in tmp_path.rglob("*.parquet"))
    assert json.loads(json.dumps(facts)) == facts

    path = part_path(tmp_path, 0, 1)
    _damage(path, column=0)  # the footer is whole
    part_path(tmp_path, 0, 4).write_bytes(b"PAR1")
    found = inspect(tmp_path)
    assert not found.complete
    assert list(found.facts["damaged"]) == ["step=00000000/part-00004.parquet", "step=00000000/part-00001.parquet"]
    assert found.facts["steps"][0]["missing_rows"] == 20
    assert found.facts["steps"][0]["missing"] == [[10, 20], [40, 50]]
    assert sum(line.startswith("damaged: step=00000000/part-0000") for line in found.lines()) == 2
    for p in list_part_paths(tmp_path, 0):
        p.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="contains only damaged parts: step=00000000/part-0000"):
        inspect(tmp_path)


def test_rows_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    write_small_run(tmp_path, 30, shard_size=10)
    path = part_path(tmp_path, 0, 1)
    path.with_name("part-00009.parquet").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"contains rows twice: .*part-00001.* and .*part-00009.* both have row 10"):
        open_predictions(tmp_path)


def test_parts_of_two_runs_are_refused_by_the_field_that_differs(tmp_path: Path) -> None:
    write_small_run(tmp_path / "one", 30, shard_size=10)
    write_small_run(tmp_path / "two", 30, dataclasses.replace(RUN, weights="other"), shard_size=10)
    part_path(tmp_path / "two", 0, 1).replace(part_path(tmp_path / "one", 0, 1))
    with pytest.raises(InputError, match=r"mixes two runs: weights is  in .*part-00000.* and other in .*part-00001"):
        open_predictions(tmp_path / "one")


def test_steps_of_different_classes_are_refused(tmp_path: Path) -> None:
    write_small_run(tmp_path)
    write_small_run(tmp_path, run=dataclasses.replace(RUN, step=2, classes=("a", "b", "d")))
    with pytest.raises(InputError, match="step 2 and step 0 have different classes"):
        open_predictions(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("step=5", "step=5 is not named as a step: expected its number in eight digits"),
        ("step=last", "step=last is not named as a step"),
        ("step=00000006", "part-00000.parquet is of step 5, as its footer says: move its folder, .* to step=00000005"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_folder_that_is_not_named_as_its_step_is_refused(
    tmp_path: Path, name: str, message: str, beside: bool
) -> None:
    write_small_run(tmp_path, run=dataclasses.replace(RUN, step=5))
    shutil.copytree(tmp_path / "step=00000005", tmp_path / name)
    if not beside:
        shutil.rmtree(tmp_path / "step=00000005")
    for opened in (open_predictions, inspect):
        with pytest.raises(InputError, match=message):
            opened(tmp_path)


def test_a_pipe_among_the_parts_ends_the_command_at_once(tmp_path: Path) -> None:
    write_small_run(tmp_path, 30, shard_size=10)
    part_path(tmp_path, 0, 1).unlink()
    os.mkfifo(part_path(tmp_path, 0, 1))
    with pytest.raises(
        InputError, match=r"cannot read .*part-00001.parquet: it is a folder, a pipe or a device"
    ) as raised:
        open_predictions(tmp_path)
    assert not isinstance(raised.value, DamagedError)  # which stage one would make again


def test_a_folder_that_cannot_be_looked_at_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: .*File name too long"):
        open_predictions(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match=r"cannot list .*: File name too long"):
        list_step_numbers(tmp_path / ("x" * 300))


def test_steps_are_ascending_and_the_last_is_the_default(tmp_path: Path) -> None:
    for number in (12, 3, 100_000_000_000):
        write_small_run(tmp_path, 10 + number % 7, dataclasses.replace(RUN, step=number))
    opened = open_predictions(tmp_path)
    assert opened.steps == (3, 12, 100_000_000_000)
    assert opened.run.step == 100_000_000_000
    assert len(open_predictions(tmp_path, step=3, columns=["id"]).to_pandas()) == 13
    assert open_predictions(tmp_path, columns=["label", "id"]).to_pandas().columns.tolist() == ["id", "label"]
    with pytest.raises(InputError, match="no step 4; expected one of 3, 12, 100000000000"):
        open_predictions(tmp_path, step=4)


@pytest.mark.parametrize("name", ["missing", "empty", "file", "empty/step=00000001"])
def test_a_folder_without_predictions_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty" / "step=00000001").mkdir(parents=True)
    (tmp_path / "file").touch()
    words = {
        "missing": "no folder .*missing: expected",
        "empty": "contains no predictions",
        "file": "file is a file: expected",
        "empty/step=00000001": r"step=00000001 is one step of a run; name the run, .*empty$",
    }
    with pytest.raises(InputError, match=words[name]) as raised:
        open_predictions(tmp_path / name)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=words[name]):
        inspect(tmp_path / name)


def test_picking_reads_values_by_id(tmp_path: Path) -> None:
    expected = write_small_run(tmp_path, 100, shard_size=40, group=15).set_index("id")
    step = open_predictions(tmp_path).step
    ids = [99, 0, 39, 40, 41, 14, 15, 3, 0, 1000, -1]
    for column in ("key", "image", "error", "loss"):
        found = read_values(step, ids, column)
        assert sorted(found) == [0, 3, 14, 15, 39, 40, 41, 99]
        for at, value in found.items():
            assert value == expected[column][at] or (value is None and pd.isna(expected[column][at]))
    assert read_values(step, [7], "logits") == {7: expected["logits"][7].tolist()}
    assert read_values(step, ids, "thumbnail") == {}
    assert read_values(step, [], "key") == {}


def test_deleting_takes_what_belongs_and_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    write_small_run(tmp_path, 20, shard_size=10)
    delete_part(part_path(tmp_path, 0, 1))
    assert [p.name for p in list_part_paths(tmp_path, 0)] == ["part-00000.parquet"]
    with pytest.raises(InputError, match="cannot write to"):
        delete_part(part_path(tmp_path, 0, 1))
    sheets = [preflight_path(tmp_path, step, ".png") for step in (0, 1)]
    sheets[0].parent.mkdir()
    for sheet in sheets:
        sheet.write_bytes(b"a picture")
    delete_step(tmp_path, 0)
    assert list_step_numbers(tmp_path) == []
    assert [sheet.exists() for sheet in sheets] == [False, True]


def test_deleting_a_step_leaves_what_others_put_there(tmp_path: Path) -> None:
    write_small_run(tmp_path, 20, shard_size=10)
    folder = step_folder(tmp_path, 0)
    (folder / ".part-00002.parquet.5e0a.tmp").write_bytes(b"unfinished")
    (folder / "mine").mkdir()
    for name in ("notes.txt", "mine/x", "part-notes.parquet"):
        (folder / name).write_text("of someone")
    delete_step(tmp_path, 0)
    assert sorted(path.name for path in folder.rglob("*")) == ["mine", "notes.txt", "part-notes.parquet", "x"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_what_is_released_goes_back_to_the_system() -> None:
    """In a process of its own: what others left between would decide how much it is."""
    script = (
        "import re, numpy as np\n"
        "from pathlib import Path\n"
        "from predboard.storage.runs import release_memory\n"
        "resident = lambda: int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1000\n"
        "arrays = [np.ones(10_000) for _ in range(1000)]\n"  # 80 MB, each below what glibc takes from the system alone
        "last, full = arrays.pop(), resident()\n"
        "del arrays\n"
        "before = resident()\n"
        "release_memory()\n"
        "print(full - before, full - resident())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=toy.ROOT, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    before, after = map(int, done.stdout.split())
    assert before < 20 < 60 < after
