"""Stage two on a Ray of this machine draws the same logs, whatever dies meanwhile."""

import dataclasses
import importlib.util
import json
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predboard import CombineConfig, InferConfig, VisualizeConfig, infer, open_predictions, visualize
from predboard.composition.combine import combine
from predboard.errors import InputError
from predboard.parallel import ray_cluster
from predboard.predictions.schema import Run
from predboard.storage.runs import part_path
from tests import side_files, toy

pytestmark = pytest.mark.ray
torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")
if importlib.util.find_spec("ray") is None:  # not imported here: every process of the quick tests reads this file
    pytest.skip("pip install 'predboard[ray]'", allow_module_level=True)

EUROSAT = toy.SHARED / "eurosat_rgb"


@pytest.fixture(scope="module", autouse=True)
def _ray_of_this_machine() -> Iterator[None]:
    with toy.small_ray():
        yield


def _frame(out: Path, step: int | None = None) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out, step).to_pandas()
    return frame


def _same(one: Path, other: Path, step: int | None = None) -> None:
    pd.testing.assert_frame_equal(_frame(one, step), _frame(other, step), rtol=1e-5, atol=1e-6)


def _same_logs(predictions: Path, folder: Path, **options: Any) -> list[str]:
    """Draw with both engines. -> what was said."""
    said: list[str] = []
    visualize(VisualizeConfig((predictions,), folder / "logs", **options))
    visualize(VisualizeConfig((predictions,), folder / "logs_ray", engine="ray", **options), said.append)
    here, there = (
        {p.relative_to(logs): p.read_bytes() for p in sorted(logs.rglob("*")) if p.is_file() and p.name[0] != "."}
        for logs in (folder / "logs", folder / "logs_ray")
    )
    assert [p for p in here if p.name.startswith("events.out.tfevents.")]
    assert here.keys() == there.keys()
    assert [p for p in here if here[p] != there[p]] == []
    return said


def test_logs_are_the_same_to_the_last_byte(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 40_000)
    for step in (1, 2):
        run = dataclasses.replace(toy.RUN, step=step)
        toy.write_run(tmp_path / "run", logits * step, label, run, shard_size=1000, failed=frozenset({3, 4000}))
    _same_logs(tmp_path / "run", tmp_path)


@pytest.mark.parametrize("run", [toy.RUN, toy.MULTI_LABEL_RUN], ids=["single-label", "multi-label"])
def test_all_processes_see_the_labels_columns_and_groups_of_a_combined_run(tmp_path: Path, run: Run) -> None:
    files = side_files.write(tmp_path, run)
    combine(CombineConfig((tmp_path / "a", tmp_path / "b"), tmp_path / "run"))
    said = _same_logs(tmp_path / "run", tmp_path, **files, **side_files.FLAGS)
    assert "intervals leave out images of one patient together: 75 values of it" in said
    summary = json.loads((tmp_path / "logs_ray/run/summary.json").read_text())
    (figures,) = summary["steps"].values()
    assert any(name.startswith("slices/cloud 0 to 100/") for name in figures)
    assert ("groups/level/accuracy" in figures) == ("groups" in files)
    assert summary["corrected_labels"]


def test_a_damaged_part_is_one_line_on_a_cluster_too(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 3000)
    toy.write_run(tmp_path / "run", logits, label, shard_size=1000)
    toy.spoil(part_path(tmp_path / "run", 0, 1), "logits.list.element")
    with pytest.raises(
        InputError, match=r"^step=00000000/part-00001\.parquet is damaged \(.*\): re-run the command"
    ) as met:
        visualize(VisualizeConfig((tmp_path / "run",), tmp_path / "logs", engine="ray"))
    assert "\n" not in str(met.value)


class _Sums:
    """Sum numbers by their remainder, and answer their doubles; die at a file that is not there yet, and below 0."""

    def __init__(self) -> None:
        self.sums: dict[int, int] = {}

    def __call__(self, item: tuple[int, str]) -> int:
        number, file = item
        if file:
            try:
                os.close(os.open(file, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.sums[number % 3] = self.sums.get(number % 3, 0) + number
        return 2 * number

    def drain(self) -> dict[int, int]:
        return self.sums


def _add_sums(*sums: dict[int, int]) -> dict[int, int]:
    return {key: sum(one.get(key, 0) for one in sums) for key in sums[0]}


def test_a_fold_survives_a_process_that_dies_and_ends_when_they_keep_dying(tmp_path: Path) -> None:
    sums: dict[int, int] = {}
    items = [(i, str(tmp_path / "killed") if i == 30 else "") for i in range(100)]
    doubles = list(ray_cluster.fold(_Sums(), items, lambda item: item[0] % 3, _add_sums, sums.update))
    assert doubles == [2 * number for number, _ in items]
    assert sums == {k: sum(range(k, 100, 3)) for k in range(3)}
    assert (tmp_path / "killed").exists()
    with pytest.raises(InputError, match=r"^a Ray process that reads predictions .*, 3 times in a row$"):
        list(ray_cluster.fold(_Sums(), [(-1, "")], lambda _: 0, _add_sums, sums.update))


@pytest.mark.skipif(not EUROSAT.is_dir(), reason="needs the EuroSAT images, which are not distributed with this")
def test_five_steps_of_eurosat_equal_those_of_one_process(tmp_path: Path) -> None:
    with zipfile.ZipFile(EUROSAT / "eurosat_rgb_test5400.zip") as archive:
        archive.extractall(tmp_path / "eurosat")
    options: dict[str, Any] = {
        "data": str(tmp_path / "eurosat"),
        "model": f"{EUROSAT / 'small_cnn' / 'model.py'}:build",
        "checkpoint": tuple(sorted((EUROSAT / "small_cnn").glob("*.pt"))),
        "mean": (0.3447358310222626, 0.38033175468444824, 0.40786147117614746),
        "std": (0.2032071053981781, 0.1372191160917282, 0.11565855890512466),
        "shard_size": 512,
        "preflight": 0,
        "workers": 1,
    }
    infer(InferConfig(**options, out=tmp_path / "local"))
    outcome = infer(InferConfig(**options, out=tmp_path / "ray", engine="ray", actors=2, cpus_per_actor=1))
    assert outcome.complete and outcome.steps[12].accuracy == pytest.approx(0.9524, abs=5e-5)
    for step in outcome.steps:
        _same(tmp_path / "ray", tmp_path / "local", step)
    _same_logs(tmp_path / "local", tmp_path)
