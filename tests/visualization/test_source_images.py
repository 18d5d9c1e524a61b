"""Tiles that other processes draw: the same bytes, and what they did not find is counted here."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard.parallel.pool import ProcessPool
from predboard.predictions.schema import Run
from predboard.storage.runs import Step, open_run
from predboard.summaries import Tiles
from predboard.visualization.source_images import SourceImages
from tests import toy

ROWS = 30
WARM = "predboard.visualization.visualize:preload"


class Elsewhere(ProcessPool):
    """A pool whose other process is there before anybody asks."""

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        self.start(2)
        self._starting[0].join()
        assert self._ready_count
        return super().call(function, item)


class Nobody(ProcessPool):
    """A pool that must not be asked."""

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        raise AssertionError(function, item)


def written(folder: Path, **changes: Any) -> tuple[Step, ...]:
    run: Run = dataclasses.replace(toy.RUN, root=str(toy.sources(folder / "images", ROWS, (300, 200))), **changes)
    logits, label = toy.table(run, ROWS)
    toy.write_run(folder / "run", logits, label, run, shard_size=7)
    return open_run(folder / "run")


def gallery(steps: tuple[Step, ...]) -> Tiles:
    batch = toy.predictions(steps[0].run, *toy.table(steps[0].run, ROWS))
    return Tiles("some", batch.tile_rows(np.arange(0, ROWS, 2)))


def test_another_process_draws_the_same_and_says_what_it_did_not_find(tmp_path: Path) -> None:
    steps = written(tmp_path)
    for gone in (4, 8, 9):  # of which the last is not asked for
        (tmp_path / "images" / f"{gone:06d}.png").unlink()
    here = SourceImages(steps, None)
    expected = here.encode(0, gallery(steps))
    with Elsewhere(2, WARM) as pool:
        pictures = SourceImages(steps, None, pool)
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(lambda _: pictures.encode(0, gallery(steps)), range(6)))
    assert all(one == expected for one in found)
    assert pictures.missing == here.missing == {"000004.png", "000008.png"}


def test_pillow_says_nothing_in_another_process_either(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = written(tmp_path)
    (tmp_path / "images" / "000004.png").write_bytes(toy.tiff(np.zeros((6, 9, 13), np.uint16), 1))
    with Elsewhere(2, WARM) as pool:
        for _ in range(2):  # as of two runs: the second's are sent, and the first's gone
            pictures = SourceImages(steps, None, pool)
            pictures.encode(0, gallery(steps))
            assert pictures.missing == {"000004.png"}
    assert capfd.readouterr().err == ""


def test_what_another_process_meets_is_raised_here(tmp_path: Path) -> None:
    steps = written(tmp_path)
    tiles = gallery(steps)
    broken = dataclasses.replace(tiles, rows={**tiles.rows, "top_class": tiles.rows["top_class"] + 10_000})
    with Elsewhere(2, WARM) as pool, pytest.raises(IndexError):
        SourceImages(steps, None, pool).encode(0, broken)


def test_pictures_in_storage_and_thumbnails_are_drawn_in_this_process(tmp_path: Path) -> None:
    near = written(tmp_path / "near")
    rows = gallery(near).rows
    far = dataclasses.replace(gallery(near), rows={**rows, "image": np.array(["memory://x/a.png"] * len(rows["id"]))})
    pictures = SourceImages(near, None, Nobody(2))
    pictures.encode(0, far)
    assert pictures.missing == {"memory://x/a.png"}
    small = written(tmp_path / "small", thumbnails=8)
    SourceImages(small, None, Nobody(2)).encode(0, gallery(small))
    with pytest.raises(AssertionError):
        SourceImages(near, None, Nobody(2)).encode(0, gallery(near))


def test_a_process_gets_nothing_that_grows_with_the_parts(tmp_path: Path) -> None:
    (sent,) = SourceImages(written(tmp_path), None).__reduce__()[1][0]
    assert sent.parts == ()
