"""A small run of three classes on disk, and what must be read from it."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from predboard.predictions.schema import Run
from tests import toy

RUN = dataclasses.replace(toy.RUN, classes=("a", "b", "c"))


def write_small_run(folder: Path, rows: int = 50, run: Run = RUN, **options: Any) -> pd.DataFrame:
    """Write a run, and return what must be read from it."""
    logits, label = toy.table(run, rows)
    label[::7] = -1
    toy.write_run(folder, logits, label, run, failed=frozenset({3, 11}), **options)
    frame: pd.DataFrame = toy.predictions(run, logits, label, failed=frozenset({3, 11})).batch.to_pandas()
    return frame
