"""Labels, columns and groups from files in object storage, and runs made of runs there: as on this machine."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from predboard import CombineConfig, CompareConfig, GateConfig, InputError, MergeConfig, TakeConfig, VisualizeConfig
from predboard.comparison.compare import compare
from predboard.composition.combine import combine
from predboard.composition.merge import merge
from predboard.composition.take import take
from predboard.gating.gate import gate
from predboard.gating.reports import to_record
from predboard.predictions.schema import Run
from predboard.storage.paths import AnyPath, arrow_source
from predboard.storage.remote import RemotePath
from predboard.storage.runs import list_part_paths
from predboard.visualization.visualize import visualize
from tests import side_files, toy

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("run", [toy.RUN, toy.MULTI_LABEL_RUN], ids=["single-label", "multi-label"])


def copied(folder: Path, to: RemotePath) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            (to / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


def quiet(_: str) -> None:
    """Say nothing."""


def everything(base: AnyPath, files: dict[str, Any], is_multi: bool) -> list[Any]:
    """What each command makes of the files: figures, rows, verdicts, and the parts of runs that are made of runs."""
    options = {**files, **side_files.FLAGS}
    visualize(VisualizeConfig((base / "a",), base / "logs", thumbnails="never", **options), quiet)
    summary = json.loads((base / "logs/a/summary.json").read_bytes())
    rows = pq.read_table(arrow_source(base / "logs/a/rows.parquet")).to_pandas()
    # The origin of the labels is a path, and so the only thing that differs.
    effect = {name: one["replaced"] for name, one in summary["corrected_labels"].items()}
    compared = compare(CompareConfig((base / "a", base / "b"), base / "logs", **options), quiet).summary
    metric = "exact" if is_multi else "groups/level/accuracy"
    rated = gate(GateConfig(base / "a", **options), quiet, [{"metric": metric, "min": 0.01}])
    take(
        TakeConfig(
            base / "a",
            out=base / "few",
            where=("cloud=0..99",),
            **{name: file for name, file in files.items() if name != "groups"},
        ),
        quiet,
    )
    take(TakeConfig(base / "a", out=base / "rest", where=("cloud=100..",), columns=files["columns"]), quiet)
    merge(MergeConfig((base / "few", base / "rest"), out=base / "whole"), quiet)
    combine(CombineConfig((base / "a", base / "b"), base / "mean"), quiet)
    made = [
        [path.read_bytes() for path in list_part_paths(base / name, 0)] for name in ("few", "rest", "whole", "mean")
    ]
    return [summary["steps"], effect, rows, compared["differences"], to_record(rated)["rules"], made]


@BOTH
def test_side_files_and_new_runs_are_the_same_in_storage(tmp_path: Path, remote_folder: RemotePath, run: Run) -> None:
    files = side_files.write(tmp_path, run)
    copied(tmp_path, remote_folder)
    is_multi = run is toy.MULTI_LABEL_RUN
    local = everything(tmp_path, files, is_multi)
    remote = everything(remote_folder, {flag: remote_folder / file.name for flag, file in files.items()}, is_multi)
    for one, other in zip(local, remote, strict=True):
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("flag", ["labels", "columns", "groups"])
def test_a_file_that_is_not_in_storage_is_one_line(tmp_path: Path, remote_folder: RemotePath, flag: str) -> None:
    side_files.write(tmp_path, toy.RUN)
    files: Any = {flag: remote_folder / "gropus.csv"}
    with pytest.raises(InputError, match=r"gropus\.csv") as met:
        visualize(VisualizeConfig((tmp_path / "a",), tmp_path / "logs", **files), quiet)
    assert "\n" not in str(met.value)
