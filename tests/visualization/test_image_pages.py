"""`--log-every`: which images are shown, on which page, and how many where there is not room for all."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.util import tensor_util

from predboard import InputError, VisualizeConfig, visualize
from predboard.cli import main
from predboard.parallel.pool import ProcessPool
from predboard.predictions.derived_rows import DerivedRows, derive_rows
from predboard.predictions.schema import Run
from predboard.visualization import image_pages
from predboard.visualization.visualize import VisualizeResult
from tests import toy

RUN = Run(classes=("cat", "dog", "eel"), model="toy.py:build")


def rows(count: int, failed: frozenset[int] = frozenset()) -> DerivedRows:
    logits, label = toy.table(RUN, count)
    label[::5] = -1
    return derive_rows(RUN, 0, toy.predictions(RUN, logits, label, failed=failed))


def dealt(of: DerivedRows, size: int) -> Iterator[DerivedRows]:
    return (of.take((of.id >= at) & (of.id < at + size)) for at in range(0, len(of), size))


@pytest.mark.parametrize("size", [1, 50, 64, 1000])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_every_nth_row_is_on_the_page_of_its_place_however_the_rows_come(every: int, size: int) -> None:
    found = list(image_pages.split_pages(dealt(rows(1000), size), every))
    assert [tile.rows["id"].tolist() for tile in found] == [
        list(range(first, min(first + 64 * every, 1000), every)) for first in range(0, 1000, 64 * every)
    ]


def test_pages_are_named_by_where_they_begin_and_failed_rows_leave_the_others_where_they_are() -> None:
    found = list(image_pages.split_pages([rows(300, failed=frozenset({0, *range(128, 192)}))], 2))
    assert [(tile.tag, tile.rows["id"][0], len(tile.rows["id"])) for tile in found] == [
        ("predictions_every_2/from_000000", 2, 63),
        ("predictions_every_2/from_000128", 192, 32),
        ("predictions_every_2/from_000256", 256, 22),
    ]
    assert found[1].rows["label"].min() == -1  # those without a label are shown as well


def test_a_page_is_made_as_soon_as_its_rows_are_there() -> None:
    taken: list[int] = []

    def batches() -> Iterator[DerivedRows]:
        for i, batch in enumerate(dealt(rows(1000), 100)):
            taken.append(i)
            yield batch

    next(image_pages.split_pages(batches(), 1))
    assert taken == [0]


def write(folder: Path, *steps: int, count: int = 200) -> Path:
    root = toy.sources(folder / "images", count)
    for step in steps:
        logits, label = toy.table(RUN, count, seed=step)
        run = dataclasses.replace(RUN, root=str(root), step=step)
        toy.write_run(folder / "run", logits, label, run, shard_size=70)
    return folder / "run"


def draw(run: Path, logdir: Path, every: int, lines: list[str] | None = None, workers: int = 2) -> VisualizeResult:
    say = (lines if lines is not None else []).append
    config = VisualizeConfig((run,), logdir, panels=("glance",), log_every=every, workers=workers)
    return visualize(config, say)[0]


@pytest.mark.slow
def test_other_processes_draw_where_there_are_many_pictures_and_they_draw_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(ProcessPool, "start", lambda _, count: started.append(count))
    run = write(tmp_path, 1, 5)
    draw(run, tmp_path / "few", 2)
    assert started == [1, 1]  # nobody else: for the pictures, and for the pass
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[VisualizeResult.__module__], "POOL_MIN_PICTURES", 50)
    begun: list[int] = []
    start = ProcessPool.start

    def seen(pool: ProcessPool, count: int) -> None:
        begun.append(count)
        start(pool, count)
        for thread in pool._starting:
            thread.join()

    monkeypatch.setattr(ProcessPool, "start", seen)
    many = draw(run, tmp_path / "many", 2)
    assert begun[0] == 1 + 2 * 200 // (2 * 50)
    one = draw(run, tmp_path / "one", 2, workers=1)
    assert many.event_file.read_bytes() == one.event_file.read_bytes()


def samples(written: VisualizeResult) -> dict[tuple[str, int], int]:
    """Number of pictures by tag and step."""
    values = toy.read_values(written.event_file)
    pictures = {at: v for at, v in values.items() if v.metadata.plugin_data.plugin_name == "images"}
    counts = {at: len(tensor_util.make_ndarray(v.tensor)) - 2 for at, v in pictures.items()}
    return {at: n for at, n in counts.items() if at[0].startswith("predictions_")}


@pytest.mark.slow
def test_the_event_file_has_the_pages_of_every_step(tmp_path: Path) -> None:
    run = write(tmp_path, 1, 5)
    lines: list[str] = []
    written = draw(run, tmp_path / "logs", 2, lines)
    expected = {"predictions_every_2/from_000000": 64, "predictions_every_2/from_000128": 36}
    assert samples(written) == {(tag, step): n for step in (1, 5) for tag, n in expected.items()}
    assert not any("left out" in line for line in lines)
    assert draw(run, tmp_path / "logs", 2).unchanged
    again = draw(run, tmp_path / "logs", 1, workers=1)
    assert not again.unchanged
    assert {tag.partition("/")[0] for tag, _ in samples(again)} == {"predictions_all"}
    assert sum(samples(again).values()) == 2 * 200
    other = draw(run, tmp_path / "other", 1, workers=3)
    assert other.event_file.read_bytes() == again.event_file.read_bytes()


@pytest.mark.slow
def test_where_there_is_not_room_for_all_each_step_gets_its_share_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, 1, 5)
    whole = draw(run, tmp_path / "whole", 1)
    limit = whole.event_file.stat().st_size * 7 // 10
    monkeypatch.setattr(image_pages, "EVENT_FILE_MAX_BYTES", limit)
    lines: list[str] = []
    written = draw(run, tmp_path / "logs", 1, lines)
    found = samples(written)
    assert found == {(f"predictions_all/from_{a:06d}", step): 64 for a in (0, 64) for step in (1, 5)}
    assert written.event_file.stat().st_size < limit * 1.02
    told = toy.read_values(written.event_file)["predictions_all/left_out", 5].tensor.string_val[0].decode()
    assert told.startswith("144 of 400 images are left out, the last ones of each step")
    assert told.endswith("--log-every 2 has room for all")
    assert f"warning: run: {told}" in lines
    assert sum(samples(draw(run, tmp_path / "fewer", 2)).values()) == 200


def test_without_any_room_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pages, "EVENT_FILE_MAX_BYTES", 0)
    written = draw(write(tmp_path, 1, count=70), tmp_path / "logs", 1)
    assert samples(written) == {}
    assert ("predictions_all/left_out", 1) in toy.read_values(written.event_file)


def test_nothing_is_logged_of_a_run_whose_rows_all_failed(tmp_path: Path) -> None:
    toy.write_run(
        tmp_path / "run", np.zeros((9, 3), np.float32), np.zeros(9, np.int64), failed=frozenset(range(9)), run=RUN
    )
    assert samples(draw(tmp_path / "run", tmp_path / "logs", 1)) == {}


@pytest.mark.parametrize("value", ["0", "-3", "none"])
def test_a_number_that_cannot_work_is_one_line(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["visualize", str(tmp_path), "--log-every", value]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "log-every" in said


def test_the_command_takes_a_number_and_all(tmp_path: Path) -> None:
    run = write(tmp_path, 1, count=66)
    for value, group in (("33", "predictions_every_33"), ("all", "predictions_all")):
        command = ["visualize", str(run), "--logdir", str(tmp_path / value), "--panels", "glance"]
        assert main.run([*command, "--log-every", value]) == 0
        (file,) = (tmp_path / value / "run").glob("*tfevents*")
        assert group in {tag.partition("/")[0] for tag, _ in toy.read_values(file)}
    with pytest.raises(InputError, match="--log-every is 0"):
        VisualizeConfig(log_every=0)
