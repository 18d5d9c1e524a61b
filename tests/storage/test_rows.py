"""`rows.parquet`: everything that follows from the logits of each row, for DuckDB and pandas."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from predboard import VisualizeConfig, visualize
from predboard.predictions.derived_rows import derive_rows
from predboard.predictions.schema import Part, Run
from predboard.predictions.table import TOP_CLASSES, Predictions
from predboard.storage.parts import PartWriter
from predboard.storage.rows import DerivedRowsWriter, read_derived_rows
from predboard.storage.runs import part_path
from tests import toy

pytestmark = pytest.mark.slow


def write(
    folder: Path,
    run: Run,
    further: dict[str, Any] | None = None,
    seed: int = 0,
    ties: bool = False,
    nullable: bool = True,
) -> Predictions:
    """100 rows in parts of 30, with columns that the manifest brought along."""
    logits, label = toy.table(run, 100, seed, ties)
    label[::9] = -1
    plain = toy.predictions(run, logits, label, failed=frozenset({3, 40, 99}))
    batch = plain.batch
    for name, values in (further or {}).items():
        column = pa.array(values)
        batch = batch.append_column(pa.field(name, column.type, nullable), column)
    columns = pa.schema([batch.schema.field(name) for name in further or {}])
    for index, start in enumerate(range(0, 100, 30)):
        stop = min(start + 30, 100)
        writer = PartWriter(part_path(folder, run.step, index), run, columns)
        rows = Predictions(batch.slice(start, stop - start))
        writer.write(rows)
        writer.publish(Part(start, stop, toy.manifest_digest(rows), 100, "", started=1.7e9, finished=1.7e9))
    return Predictions(batch)


def rows_of(predictions: Path, logs: Path) -> Path:
    (written,) = visualize(VisualizeConfig(predictions=(predictions,), logdir=logs))
    return logs / written.run / "rows.parquet"


@pytest.mark.parametrize("classes", [2, 10, 40])
@pytest.mark.parametrize("ties", [False, True])
def test_every_row_is_there_with_what_follows_from_its_logits(classes: int, ties: bool, tmp_path: Path) -> None:
    run = dataclasses.replace(toy.RUN, classes=tuple(f"class{i}" for i in range(classes)))
    batch = write(tmp_path / "run", run, ties=ties)
    found = pd.read_parquet(rows_of(tmp_path / "run", tmp_path / "logs"))
    logits, _ = toy.table(run, 100, 0, ties)
    p = softmax(logits.astype(np.float64), axis=1)
    assert found.id.tolist() == list(range(100))
    assert found.step.unique().tolist() == [0]
    for name in (
        "key",
        "image",
        "label",
        "predicted",
        "confidence",
        "loss",
        "margin",
        "entropy",
        "width",
        "brightness",
    ):
        pd.testing.assert_series_equal(found[name], batch.batch.to_pandas()[name], check_dtype=False)
    rows: list[dict[str, Any]] = pa.Table.from_pandas(found).to_pylist()
    for i, row in enumerate(rows):
        if i in (3, 40, 99):
            assert {row[name] for name in ("top_class", "top_probability", "rank", "predicted_name")} == {None}
            continue
        order = np.argsort(-logits[i], kind="stable")
        assert row["top_class"] == order[:TOP_CLASSES].tolist()
        np.testing.assert_allclose(row["top_probability"], p[i, order[:TOP_CLASSES]], rtol=2e-6)
        assert row["predicted_name"] == run.classes[order[0]]
        if i % 9 == 0:
            assert (row["label_name"], row["rank"]) == (None, None)
        else:
            assert row["label_name"] == run.classes[int(row["label"])]
            assert row["rank"] == 1 + (logits[i] > logits[i, int(row["label"])]).sum()


def test_no_column_is_a_word_of_sql(tmp_path: Path) -> None:
    write(tmp_path / "run", toy.RUN)
    file = rows_of(tmp_path / "run", tmp_path / "logs")
    names = pq.read_schema(file).names
    with duckdb.connect() as connection:
        all_of_them = connection.execute(f"DESCRIBE SELECT * FROM '{file}'").fetchall()
        assert connection.execute(f"DESCRIBE SELECT {', '.join(names)} FROM '{file}'").fetchall() == all_of_them


def test_columns_of_the_manifest_come_along_and_give_way_to_ours(tmp_path: Path) -> None:
    country = [f"c{i % 3}" for i in range(100)]
    further = {"country": country, "rank": list(range(100)), "cloud": [i / 100 for i in range(100)]}
    write(tmp_path / "run", toy.RUN, further)
    file = rows_of(tmp_path / "run", tmp_path / "logs")
    query = duckdb.sql(f"SELECT country, manifest_rank, cloud, id, rank FROM '{file}' ORDER BY id")
    assert query is not None
    found = query.df()
    assert found.country.tolist() == country
    assert found.manifest_rank.tolist() == list(range(100))
    assert found.cloud.tolist() == further["cloud"]
    assert found["rank"].max() <= 10


def test_columns_that_differ_between_steps_keep_their_values(tmp_path: Path) -> None:
    # A list that is inferred from text has whole numbers in one month and fractions in the next, or gains a column.
    run, count = toy.RUN, np.arange(100)
    write(tmp_path / "net", dataclasses.replace(run, step=1), {"age": count, "code": count, "gone": ["x"] * 100})
    write(tmp_path / "net", dataclasses.replace(run, step=2), {"age": count + 0.5, "code": ["c7"] * 100, "new": count})
    rows = pd.read_parquet(rows_of(tmp_path / "net", tmp_path / "logs"))
    first, second = rows[rows.step == 1], rows[rows.step == 2]
    assert first.age.tolist() == count.tolist()
    assert second.age.tolist() == (count + 0.5).tolist()
    assert first.code.tolist() == [str(i) for i in range(100)]
    assert set(second.code) == {"c7"}
    assert set(first.gone) == {"x"}
    assert second.gone.isna().all()
    assert first.new.isna().all()
    assert second.new.tolist() == count.tolist()


def test_a_column_that_must_not_be_null_may_be_missing_at_another_step(tmp_path: Path) -> None:
    """As PyArrow and DuckDB write columns of Parquet lists that were declared so."""
    first, second = (dataclasses.replace(toy.RUN, step=step) for step in (1, 2))
    write(tmp_path / "run", first, {"country": ["a"] * 100, "hour": [1] * 100}, nullable=False)
    write(tmp_path / "run", second, {"hour": [2] * 100}, seed=1)
    found = pd.read_parquet(rows_of(tmp_path / "run", tmp_path / "logs"))
    assert found.groupby("step").country.count().to_dict() == {1: 100, 2: 0}
    assert found.hour.tolist() == [1] * 100 + [2] * 100


def test_a_column_called_as_another_is_renamed_to_keeps_a_name_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "run", toy.RUN, {"rank": ["r"] * 100, "manifest_rank": ["m"] * 100})
    found = pd.read_parquet(rows_of(tmp_path / "run", tmp_path / "logs"))
    assert found.columns.is_unique
    assert set(found.manifest_rank) == {"r"}
    assert set(found.manifest_manifest_rank) == {"m"}


def test_rows_that_were_derived_derive_the_same(tmp_path: Path) -> None:
    batch = write(tmp_path / "run", toy.RUN)
    again = derive_rows(toy.RUN, 0, batch)
    for name in ("id", "label", "predicted", "confidence", "loss"):
        np.testing.assert_array_equal(getattr(again, name), getattr(batch, name))
    for name in ("top", "top_probability"):
        np.testing.assert_array_equal(getattr(again.scored, name), getattr(batch.scored, name))
    np.testing.assert_array_equal(again.labelled.rank, batch.labelled.rank)
    chosen = np.array([5, 2])
    for name, column in batch.scored.tile_rows(chosen).items():
        np.testing.assert_array_equal(again.scored.tile_rows(chosen)[name], column)


def test_a_damaged_file_of_rows_is_not_read_as_whole(tmp_path: Path) -> None:
    write(tmp_path / "run", toy.RUN)
    file = rows_of(tmp_path / "run", tmp_path / "logs")
    assert sum(len(rows) for _, rows in read_derived_rows(file)) == 100
    toy.spoil(file, "confidence")
    with pytest.raises(OSError, match=r"CRC|page"):
        list(read_derived_rows(file))


@pytest.mark.parametrize("rows", [0, 1, 20])
def test_rows_come_out_of_another_process_as_they_went_in(rows: int) -> None:
    logits, label = toy.table(toy.RUN, 20)
    batch = toy.predictions(toy.RUN, logits, label, failed=frozenset({2}))
    for sent in (batch, derive_rows(toy.RUN, 3, batch)):
        sent = type(sent)(sent.batch.slice(0, rows), manifest_rows=20)
        come = pickle.loads(pickle.dumps(sent))
        assert come.batch.schema == sent.batch.schema
        assert come.batch.equals(sent.batch)
        assert (type(come), come.manifest_rows) == (type(sent), 20)


@pytest.mark.parametrize("group", [1, 2])
def test_what_goes_wrong_while_a_group_is_written_is_raised(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, label = toy.table(toy.RUN, 40)
    batch = derive_rows(toy.RUN, 0, toy.predictions(toy.RUN, logits, label))
    monkeypatch.setattr("predboard.storage.rows.DERIVED_GROUP_ROWS", 40)
    write_table, written = pq.ParquetWriter.write_table, []

    def full(*arguments: Any, **more: Any) -> None:
        written.append(1)
        if len(written) == group:
            raise OSError(28, "No space left on device")
        write_table(*arguments, **more)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    for turns in (group, 5):  # by the end, or by the next group
        written.clear()
        writer = DerivedRowsWriter(tmp_path / f"{turns}.parquet")
        with pytest.raises(OSError, match="No space left"):
            try:
                for _ in range(turns):
                    writer.write(batch)
            finally:
                writer.close()
        assert len(written) == group
