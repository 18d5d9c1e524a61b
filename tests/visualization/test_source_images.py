"""Tiles that other processes draw: the same bytes, and what they did not find is counted here."""

import dataclasses
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard import CompareConfig, VisualizeConfig, compare, visualize
from predboard.evaluation.measure import PRELOAD
from predboard.images import sources
from predboard.parallel.pool import ProcessPool
from predboard.predictions.schema import Run
from predboard.storage.runs import Step, open_run
from predboard.summaries import Scalar, Tiles
from predboard.visualization.source_images import SourceImages
from tests import fake_storage, toy

pytestmark = pytest.mark.slow

ROWS = 30


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
    with Elsewhere(2, PRELOAD) as pool:
        pictures = SourceImages(steps, None, pool)
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(lambda _: pictures.encode(0, gallery(steps)), range(6)))
    assert all(one == expected for one in found)
    assert pictures.missing == here.missing == {"000004.png", "000008.png"}


def test_tiles_are_drawn_on_threads_where_images_are_large_or_another_process_helps(tmp_path: Path) -> None:
    steps = written(tmp_path)
    toy.sources(tmp_path / "images", ROWS)  # small ones in their place
    tiles = gallery(steps)
    nowhere = SourceImages(steps, tmp_path / "nowhere")
    nowhere.encode(0, tiles)
    assert len(nowhere.missing) == len(tiles.rows["id"])
    assert not nowhere.waits(0, tiles)
    small = SourceImages(steps, None)
    small.encode(0, tiles)
    assert not small.waits(0, tiles)
    with Elsewhere(2, PRELOAD) as pool:
        helped = SourceImages(steps, None, pool)
        helped.encode_locally(0, tiles)
        assert not helped.waits(0, tiles)
        helped.encode(0, tiles)  # which starts it
        assert helped.waits(0, tiles)
        assert not helped.waits(0, Scalar("a number", 1.0))
        not_found = SourceImages(steps, tmp_path / "nowhere", pool)
        not_found.encode(0, tiles)
        assert not not_found.waits(0, tiles)
    toy.photographs(tmp_path / "photographs", ["000004.png"])
    (tmp_path / "photographs" / "000004.png").replace(tmp_path / "images" / "000004.png")
    large = SourceImages(steps, None)
    assert not large.waits(0, tiles)
    large.encode(0, tiles)
    assert large.waits(0, tiles)


@pytest.mark.parametrize(("seconds", "waits"), [(0.0, False), (0.003, True)])
def test_tiles_are_drawn_on_threads_where_images_are_slow_to_read(
    seconds: float, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = written(tmp_path)
    toy.sources(tmp_path / "images", ROWS)
    tiles, read = gallery(steps), sources.read

    def read_slowly(root: str, ref: str) -> bytes:
        time.sleep(seconds)
        return read(root, ref)

    monkeypatch.setattr(sources, "read", read_slowly)
    images = SourceImages(steps, None)
    images.open_image(0, 1, "000001.png")  # a first read alone may take long, to open an archive
    assert not images.waits(0, tiles)
    for row in range(ROWS):
        images.open_image(0, row, f"{row:06d}.png")
    assert images.waits(0, tiles) == waits


def test_pillow_says_nothing_in_another_process_either(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = written(tmp_path)
    (tmp_path / "images" / "000004.png").write_bytes(toy.tiff(np.zeros((6, 9, 13), np.uint16), 1))
    with Elsewhere(2, PRELOAD) as pool:
        for _ in range(2):  # as of two runs: the second's are sent, and the first's gone
            pictures = SourceImages(steps, None, pool)
            pictures.encode(0, gallery(steps))
            assert pictures.missing == {"000004.png"}
    assert capfd.readouterr().err == ""


def test_what_another_process_meets_is_raised_here(tmp_path: Path) -> None:
    steps = written(tmp_path)
    tiles = gallery(steps)
    broken = dataclasses.replace(tiles, rows={**tiles.rows, "top_class": tiles.rows["top_class"] + 10_000})
    with Elsewhere(2, PRELOAD) as pool, pytest.raises(IndexError):
        SourceImages(steps, None, pool).encode(0, broken)


def test_pictures_in_storage_and_thumbnails_are_drawn_in_this_process(tmp_path: Path) -> None:
    near = written(tmp_path / "near")
    rows = gallery(near).rows
    far = dataclasses.replace(gallery(near), rows={**rows, "image": np.array(["memory://x/a.png"] * len(rows["id"]))})
    pictures = SourceImages(near, None, Nobody(2))
    pictures.encode(0, far)
    assert pictures.outside == {"memory://x/a.png"}
    small = written(tmp_path / "small", thumbnails=8)
    SourceImages(small, None, Nobody(2)).encode(0, gallery(small))
    with pytest.raises(AssertionError):
        SourceImages(near, None, Nobody(2)).encode(0, gallery(near))


OUTSIDE = {
    "above": "../secret.png",
    "absolute": "{folder}/secret.png",
    "uri of a file": "file://{folder}/secret.png",
    "through a folder": "sub/../../secret.png",
    "behind a link and back": "link/../secret.png",
    "in an archive": "../secret.zip#a.png",
    "in storage": "fake://secrets/a.png",
    "with a password": "s3://me:word@bucket/a.png",
}


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_pictures_outside_the_folder_are_opened_only_where_the_user_says_so(
    tmp_path: Path, kind: str, elsewhere: bool
) -> None:
    steps = written(tmp_path)
    root = tmp_path / "images"
    secret = (root / "000000.png").rename(tmp_path / "secret.png")
    with zipfile.ZipFile(tmp_path / "secret.zip", "w") as archive:
        archive.write(secret, "a.png")
    (root / "sub").mkdir()
    (tmp_path / "beside").mkdir()
    (root / "link").symlink_to(tmp_path / "beside", target_is_directory=True)
    ref = OUTSIDE[kind].format(folder=tmp_path)
    fake_storage.empty().pipe_file("/secrets/a.png", secret.read_bytes())
    strict = SourceImages(steps, root if elsewhere else None)
    assert strict.open_image(0, 0, ref) is None
    assert (strict.outside, strict.missing) == ({ref}, set())
    warning = f"1 source image not opened, because their paths lead outside {root}, such as {ref}: --image-root"
    assert warning in strict.warnings()[0]
    free = SourceImages(steps, None, anywhere=True)
    assert (free.open_image(0, 0, ref) is None) == (kind == "with a password")
    assert free.warnings() == []
    wider = SourceImages(steps, tmp_path)
    assert (wider.open_image(0, 0, ref) is not None) == (kind in ("absolute", "uri of a file"))


@pytest.mark.parametrize("ref", ["000001.png", "sub/../000001.png", "./000001.png", "{root}/000001.png", "link.png"])
def test_pictures_below_the_folder_are_opened_links_of_the_user_included(tmp_path: Path, ref: str) -> None:
    steps = written(tmp_path)
    root = tmp_path / "images"
    (root / "sub").mkdir()
    (tmp_path / "store.png").write_bytes((root / "000002.png").read_bytes())
    (root / "link.png").symlink_to(tmp_path / "store.png")
    assert SourceImages(steps, None).open_image(0, 1, ref.format(root=root)) is not None
    moved = root.rename(tmp_path / "moved")
    assert SourceImages(steps, moved).open_image(0, 1, ref.format(root=moved)) is not None


def test_where_a_link_leads_is_asked_by_each_command(tmp_path: Path) -> None:
    steps = written(tmp_path)
    root = tmp_path / "images"
    for folder in (root / "sub", tmp_path / "beside"):
        folder.mkdir()
    (tmp_path / "000001.png").write_bytes((root / "000001.png").read_bytes())
    for target, is_inside in ((root / "sub", True), (tmp_path / "beside", False)):
        (root / "link").unlink(missing_ok=True)
        (root / "link").symlink_to(target, target_is_directory=True)
        assert (SourceImages(steps, None).open_image(0, 1, "link/../000001.png") is not None) == is_inside


def test_visualize_and_compare_say_what_they_did_not_open_and_which_flag_does(tmp_path: Path) -> None:
    toy.sources(tmp_path / "elsewhere", ROWS)
    run = dataclasses.replace(toy.RUN, root=str(toy.sources(tmp_path / "images", ROWS)))
    for folder, seed in (("run", 0), ("other", 1)):
        rows = toy.table(run, ROWS, seed)
        toy.write_run(tmp_path / folder, *rows, run, name=lambda i: f"{'' if i == 1 else '../elsewhere/'}{i:06d}.png")
    runs, lines = (tmp_path / "run", tmp_path / "other"), list[str]()
    for anywhere in (False, True):
        chosen: dict[str, Any] = {"logdir": tmp_path / "logs", "images_anywhere": anywhere}
        (drawn,) = visualize(VisualizeConfig(runs[:1], panels=("predictions",), **chosen), lines.append)
        done = compare(CompareConfig(runs, **chosen), lines.append)
        assert not drawn.unchanged
        assert not done.unchanged
        assert drawn.missing_pictures == done.missing_pictures == 0
        warnings = [line for line in lines if "not opened" in line]
        assert len(warnings) == 2  # none with the flag
        assert all(f"paths lead outside {tmp_path / 'images'}, such as ../elsewhere/0000" in line for line in warnings)
        assert all("--image-root FOLDER" in line and "--images-anywhere" in line for line in warnings)
    assert f"{ROWS - 1} source images not opened" in warnings[0]


def test_where_pictures_come_from_is_said_if_only_the_predictions_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    (tmp_path / "mine").mkdir()
    moved = (tmp_path / "run").rename(tmp_path / "mine" / "run")
    runs = moved, Path(shutil.copytree(moved, tmp_path / "mine" / "other"))
    line, lines = f"pictures: from {tmp_path / 'images'}, as the predictions say", list[str]()
    for folder, root, times in ((tmp_path / "mine", None, 1), (tmp_path, None, 0), (tmp_path / "mine", tmp_path, 0)):
        monkeypatch.chdir(folder)
        lines.clear()
        chosen: dict[str, Any] = {"logdir": tmp_path / f"logs{times}", "image_root": root}
        visualize(VisualizeConfig(runs[:1], panels=("predictions",), **chosen), lines.append)
        assert lines.count(line) == times
        lines.clear()
        compare(CompareConfig(runs, **chosen), lines.append)
        assert lines.count(line) == times
    monkeypatch.chdir("/")  # everything is below it, which says nothing
    steps = open_run(runs[0])
    assert SourceImages(steps, None).notes() == [line]
    far = dataclasses.replace(steps[0], run=dataclasses.replace(steps[0].run, root="s3://secrets/x"))
    assert SourceImages((far,), None).notes() == ["pictures: from s3://secrets/x, as the predictions say"]


def test_a_folder_of_images_that_the_user_names_is_the_only_one(tmp_path: Path) -> None:
    steps, ref = written(tmp_path), str(tmp_path / "images" / "000001.png")
    assert SourceImages(steps, None).open_image(0, 1, ref) is not None
    (tmp_path / "empty").mkdir()
    pictures = SourceImages(steps, tmp_path / "empty")
    assert pictures.open_image(0, 1, ref) is None
    assert pictures.outside == {ref}
    assert f"lead outside {tmp_path / 'empty'}, such as" in pictures.warnings()[0]


def test_nothing_is_below_the_root_of_a_file_system(tmp_path: Path) -> None:
    (step,) = written(tmp_path)
    everything = dataclasses.replace(step, run=dataclasses.replace(step.run, root="/"))
    pictures = SourceImages((everything,), None)
    assert pictures.open_image(0, 0, str(tmp_path / "images" / "000000.png")[1:]) is None
    assert len(pictures.outside) == 1


_DEAD_MOUNT = """
import ctypes, os, struct, sys, time
file = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={file},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None).mount(b"dead", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(3)
(number,) = struct.unpack_from("<8xQ", os.read(file, 65536))  # FUSE_INIT, and no other request is ever answered
os.write(file, struct.pack("<IiQ6I", 80, 0, number, 7, 31, 65536, 0, 0, 4096).ljust(80, b"\\0"))
print("mounted", flush=True)
time.sleep(1000)
"""


def test_a_mount_that_does_not_answer_ends_neither_the_command_nor_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = written(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    command = [sys.executable, "-c", _DEAD_MOUNT, str(tmp_path / "images")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as mount:
        try:
            assert mount.stdout is not None
            if mount.stdout.readline() != "mounted\n":
                pytest.skip("a file system can be mounted by root alone, where there is FUSE")
            monkeypatch.setattr("predboard.visualization.source_images.ANSWER_SECONDS", 0.2)
            pictures = SourceImages(steps, None, Nobody(2))
            pictures.encode(0, gallery(steps))
            assert len(pictures.missing) == ROWS // 2
            assert "images did not answer within 0.2 seconds: its images count as not found" in pictures.warnings()[0]
        finally:
            mount.kill()  # which answers all requests by an error
            subprocess.run(["umount", "-l", str(tmp_path / "images")], check=False, capture_output=True)


def test_a_process_gets_nothing_that_grows_with_the_parts(tmp_path: Path) -> None:
    (sent,) = SourceImages(written(tmp_path), None).__reduce__()[1][0]
    assert sent.parts == ()
