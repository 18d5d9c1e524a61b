"""Logs as `visualize` writes them, as far as the tab reads them, in milliseconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from predboard.predictions.derived_rows import derive_rows
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.storage.rows import DerivedRowsWriter
from predboard.tab.columns import RowsFile
from tests import toy

STEPS = (1, 3)
NAMES = ("cat", 'd"og<b>', "\u202eevil")
"""Class names that a page must show as they are."""


def write_logs(folder: Path, rows: int = 60, seed: int = 0, prefix: str = "", steps: tuple[int, ...] = STEPS) -> Path:
    """The rows of a run of three classes at two steps, some unlabelled and some failed. -> the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(classes=NAMES, model="net.py:build")
    writer = DerivedRowsWriter(folder / "rows.parquet")
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, rows)
    label[::7] = -1
    site = pa.array([[None, "A", "b|c", "\\", "<i>"][i % 5] for i in range(rows)], pa.string())
    year = pa.array([None if i % 11 == 0 else 2000 + i % 4 for i in range(rows)], pa.int32())
    for step in steps:
        logits = random.normal(size=(rows, 3)).astype(np.float32)
        logits[np.arange(rows), label] += 1 + step / 3
        batch = toy.predictions(run, logits, label, failed=frozenset({2, rows - 1})).batch
        names = [f"{prefix}Photo {i:03d}.png" for i in range(rows)]
        batch = batch.set_column(batch.schema.get_field_index("image"), "image", pa.array(names, pa.string()))
        batch = batch.append_column("site", site).append_column("year", year)
        writer.write(derive_rows(run, step, Predictions(batch)))
    writer.close()
    (folder / "summary.json").write_text(json.dumps({"model": run.model}), "utf-8")
    return folder


def frame(folder: Path, step: int) -> pd.DataFrame:
    """The same rows as pandas reads them; a row's index is its place."""
    everything: pd.DataFrame = pq.read_table(folder / "rows.parquet").to_pandas()
    rows: pd.DataFrame = everything[everything.step == step].reset_index(drop=True)
    for column in ("label", "predicted"):
        rows[column] = rows[column].fillna(-1).astype(int)
    return rows


def opened(folder: Path) -> RowsFile:
    return RowsFile(folder / "rows.parquet")


def parameters(**given: Any) -> dict[str, list[str]]:
    return {name: [str(value)] for name, value in given.items()}
