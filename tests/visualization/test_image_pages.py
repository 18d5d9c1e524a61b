"""`--log-every`: which images are shown, on which page, and how many where there is not room for all."""

import dataclasses
import re
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
from predboard.predictions.sampling import Salt, mix
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
def test_pages_go_by_true_class_however_the_rows_come(size: int) -> None:
    of = rows(300)
    pages = image_pages.split_pages(dealt(of, size), of.id, 1, RUN.classes)
    assert [len(page.rows["id"]) for page in pages] == [64, 64, 64, 64, 44]
    ids = np.concatenate([page.rows["id"] for page in pages])
    assert ids.tolist() == sorted(range(300), key=lambda i: (of.label[i], i))
    assert [page.tag for page in pages[:2]] == ["predictions_all/page_0001", "predictions_all/page_0002"]
    assert pages[0].sheet == "page 1: no label to cat"  # a fifth has none


def test_of_a_sorted_list_as_many_of_each_class_are_chosen_by_the_hash_of_their_keys() -> None:
    label = np.repeat([0, 1, 2, 3], [1000, 500, 10, 300])
    key = np.random.default_rng(0).integers(-(2**62), 2**62, len(label))
    some = {"id": np.arange(len(label)), "key": key, "label": label}
    chosen = image_pages.choose_evenly(some, 190)
    assert np.bincount(label[chosen]).tolist() == [60, 60, 10, 60]
    hashed = mix(key, Salt.LOGGED)
    for of_class in (0, 1, 3):
        members = np.flatnonzero(label == of_class)
        assert set(members[np.argsort(hashed[members])[:60]]) == set(chosen[label[chosen] == of_class])
    assert sum(np.bincount(label[image_pages.choose_evenly(some, 3)], minlength=4) == 1) == 3
    assert image_pages.choose_evenly(some, 5000).tolist() == list(range(len(label)))
    assert image_pages.choose_evenly(some, 0).tolist() == []


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


def sizes(written: VisualizeResult) -> dict[tuple[str, int], tuple[int, int]]:
    """Width and height of each page, by tag and step; there is one picture of each."""
    values = toy.read_values(written.event_file)
    pictures = {at: v for at, v in values.items() if v.metadata.plugin_data.plugin_name == "images"}
    parts = {at: tensor_util.make_ndarray(v.tensor) for at, v in pictures.items() if at[0].startswith("predictions_")}
    assert all(len(part) == 3 for part in parts.values())
    return {at: (int(part[0]), int(part[1])) for at, part in parts.items()}


@pytest.mark.slow
def test_the_event_file_has_the_pages_of_every_step(tmp_path: Path) -> None:
    run = write(tmp_path, 1, 5)
    lines: list[str] = []
    written = draw(run, tmp_path / "logs", 2, lines)
    # 78 pixels of title, and 112 for each row of thirteen: 64 and 36 of the 100 images.
    expected = {"predictions_every_2/page_0001": (1137, 638), "predictions_every_2/page_0002": (1137, 414)}
    assert sizes(written) == {(tag, step): size for step in (1, 5) for tag, size in expected.items()}
    assert not any("left out" in line for line in lines)
    assert draw(run, tmp_path / "logs", 2).unchanged
    again = draw(run, tmp_path / "logs", 1, workers=1)
    assert not again.unchanged
    assert [tag for tag, step in sizes(again) if step == 5] == [f"predictions_all/page_000{i}" for i in (1, 2, 3, 4)]
    other = draw(run, tmp_path / "other", 1, workers=3)
    assert other.event_file.read_bytes() == again.event_file.read_bytes()


@pytest.mark.slow
def test_where_there_is_not_room_for_all_each_step_gets_its_share_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, 1, 5)
    bare = visualize(VisualizeConfig((run,), tmp_path / "bare", panels=("glance",)))[0].event_file.stat().st_size
    whole = draw(run, tmp_path / "whole", 1).event_file.stat().st_size
    monkeypatch.setattr(image_pages, "EVENT_FILE_MAX_BYTES", limit := bare + (whole - bare) // 2)
    lines: list[str] = []
    written = draw(run, tmp_path / "logs", 1, lines)
    assert sizes(written).keys() == {(f"predictions_all/page_000{i}", step) for i in (1, 2) for step in (1, 5)}
    assert written.event_file.stat().st_size < limit * 1.1
    told = toy.read_values(written.event_file)["predictions_all/left_out", 5].tensor.string_val[0].decode()
    (line,) = [line for line in lines if "left out" in line]
    assert line == f"warning: run: {told.splitlines()[0]}"
    left, fits, by_class = re.match(  # type: ignore[union-attr]  # it has these words
        r"([\d,]+) of 400 images are left out, .*--log-every (\d) has room for all\. Left out at step 5: (.*)$",
        told.splitlines()[0],
    ).groups()
    counts = {name: int(count) for name, count in (part.split() for part in by_class.split(", "))}
    assert sum(counts.values()) == int(left) // 2
    label = toy.table(RUN, 200, seed=5)[1]
    shown = [int((label == i).sum()) - counts[name] for i, name in enumerate(RUN.classes)]
    assert max(shown) - min(shown) <= 1
    assert fits == "3"
    assert "| dog |" in told


def test_without_any_room_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pages, "EVENT_FILE_MAX_BYTES", 0)
    written = draw(write(tmp_path, 1, count=70), tmp_path / "logs", 1)
    assert sizes(written) == {}
    assert ("predictions_all/left_out", 1) in toy.read_values(written.event_file)


def test_nothing_is_logged_of_a_run_whose_rows_all_failed(tmp_path: Path) -> None:
    toy.write_run(
        tmp_path / "run", np.zeros((9, 3), np.float32), np.zeros(9, np.int64), failed=frozenset(range(9)), run=RUN
    )
    assert sizes(draw(tmp_path / "run", tmp_path / "logs", 1)) == {}


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
