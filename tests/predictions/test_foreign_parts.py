"""Multi-label parts that other programs write by docs/format.md, and what other programs read."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard.errors import DamagedError
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.storage.parts import open_part, read_batches, verify_manifest, verify_part
from predboard.storage.runs import open_run
from tests import toy

FORMAT = (toy.ROOT / "docs/format.md").read_text("utf-8")


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """The part that the example of docs/format.md writes."""
    (source,) = re.findall(r"```python\n(import hashlib, json.*?)```", FORMAT, re.DOTALL)
    folder = tmp_path / "scenes" / "step=00000000"
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(source, "docs/format.md", "exec"), {})
    finally:
        os.chdir(before)
    return folder / "part-00000.parquet"


def _check(path: Path) -> MultiLabelPredictions:
    part = open_part(path)
    verify_part(part)
    verify_manifest(part)
    (rows,) = read_batches(part)
    assert isinstance(rows, MultiLabelPredictions)
    assert rows.labels.to_arrow(rows.is_labelled).to_pylist() == [[0, 2], []]
    assert rows.unknown.to_arrow().to_pylist() == [[], [1]]
    assert rows.predicted_labels.to_arrow().to_pylist() == [[0, 2], [1]]
    assert rows.right.tolist() == [True, True]
    return rows


def test_what_plain_pyarrow_writes_by_the_documentation_is_read(part: Path) -> None:
    _check(part)
    (step,) = open_run(part.parents[1])
    assert (step.run.task, step.run.format, step.run.classes) == ("multi-label", 2, ("cloud", "river", "road"))


def _as_pandas(table: pa.Table) -> pa.Table:
    for name in ("labels", "unknown", "predicted_labels"):
        column = pa.Table.from_pandas(table.select([name]).to_pandas(), preserve_index=False)[name]
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _as_large_lists(table: pa.Table) -> pa.Table:
    for name in ("labels", "unknown", "predicted_labels"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].cast(pa.large_list(pa.int64())))
    return table


@pytest.mark.parametrize("convert", [_as_pandas, _as_large_lists])
def test_lists_as_other_writers_declare_them_are_read(part: Path, convert: Callable[[Any], Any]) -> None:
    footer = {k: v for k, v in pq.read_metadata(part).metadata.items() if k.startswith(b"predboard.")}
    pq.write_table(convert(pq.ParquetFile(part).read()).replace_schema_metadata(footer), part)
    _check(part)


def test_a_set_without_any_label_may_have_any_type_of_element(part: Path) -> None:
    footer = {k: v for k, v in pq.read_metadata(part).metadata.items() if k.startswith(b"predboard.")}
    table = pq.ParquetFile(part).read()
    at = table.schema.get_field_index("unknown")
    table = table.set_column(at, "unknown", pa.array([None, None], pa.null()))  # as pandas writes a column of nothing
    pq.write_table(table.replace_schema_metadata(footer), part)
    with pytest.raises(DamagedError, match=r"loss of row 1 is .*, expected what follows"):
        _check(part)


def test_other_programs_read_sets_as_lists(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    logits, known = toy.multi_label_table(toy.MULTI_LABEL_RUN, 200, 5)
    toy.write_run(tmp_path / "run", logits, known, toy.MULTI_LABEL_RUN, shard_size=100)
    true = known.labels.mask(5)
    count = duckdb.sql(
        f"SELECT count(*) FROM read_parquet('{tmp_path}/run/*/*.parquet') WHERE list_contains(labels, 3)"
    ).fetchall()
    assert count == [(true[:, 3].sum(),)]
    each = duckdb.sql(
        f"SELECT label, count(*) FROM (SELECT unnest(labels) AS label FROM '{tmp_path}/run/*/*.parquet') "
        "GROUP BY label ORDER BY label"
    ).fetchall()
    assert [tuple(row) for row in each] == list(enumerate(true.sum(axis=0).tolist()))
    frame = pd.read_parquet(tmp_path / "run")
    assert (
        frame["labels"].map(lambda labels: -1 if labels is None else len(labels)).tolist()
        == np.where(known.labelled, true.sum(axis=1), -1).tolist()
    )
    assert json.dumps(frame["predicted_labels"][0].tolist()) == json.dumps(np.flatnonzero(logits[0] > 0).tolist())
