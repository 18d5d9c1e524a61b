"""Files beside two runs over the same images, as a user has them: new labels, further columns, groups of classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predboard.predictions.schema import MULTI_LABEL, Run
from tests import toy

ROWS = 300
FLAGS: Mapping[str, Any] = {"group_column": "patient", "slice": (("cloud=0", "100", "200"),)}
"""Options that use the further columns."""


def write(folder: Path, run: Run) -> dict[str, Path]:
    """Write the runs `a` and `b` of the same labels, in parts of 40 rows, and the files.

    -> the files by the flag that takes them; without `groups` where images have several labels
    """
    is_multi = run.task == MULTI_LABEL
    label = (toy.multi_label_table if is_multi else toy.table)(run, ROWS)[1]
    for seed, name in enumerate("ab"):
        logits = (toy.multi_label_table if is_multi else toy.table)(run, ROWS, seed)[0]
        toy.write_run(folder / name, logits, label, run, shard_size=40)
    names = [f"{i:06d}.png" for i in range(ROWS)]
    new = [[run.classes[0]] if is_multi else run.classes[0]] * 50
    files = {"labels": folder / "labels.json", "columns": folder / "columns.csv", "groups": folder / "groups.csv"}
    pd.DataFrame({"image": names[:50], "label": new}).to_json(files["labels"], orient="records")
    further = {"image": names, "patient": [f"P{i // 4}" for i in range(ROWS)], "cloud": range(ROWS)}
    pd.DataFrame(further).to_csv(files["columns"], index=False)
    files["groups"].write_text(f"class,level\n{run.classes[0]},one\n{run.classes[1]},one\n")
    return {flag: file for flag, file in files.items() if not (is_multi and flag == "groups")}
