"""Sizes and times of files tell that logs are current, or nothing is concluded from them."""

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from predboard import VisualizeConfig, visualize
from predboard.predictions.schema import Run
from predboard.storage.runs import part_path, preflight_path
from predboard.visualization import absent_images, log_folder
from predboard.visualization.unchanged import find_unchanged
from tests import toy

RUN = Run(classes=("cat", "dog", "eel"), model="toy.py:build")


def write(folder: Path) -> Path:
    logits, label = toy.table(RUN, 15)
    toy.write_run(folder, logits, label, RUN)
    return folder


def configured(folder: Path, *names: str, **more: Any) -> VisualizeConfig:
    predictions = tuple(folder / name for name in names)
    return VisualizeConfig(predictions=predictions, logdir=folder / "logs", panels=("glance", "metrics"), **more)


def rewrite(file: Path) -> None:
    """The same content, written again."""
    content, before = file.read_bytes(), file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(before, before + 1))


def replace_in_its_time(file: Path) -> None:
    """Another file of the same size and time."""
    status, content = file.stat(), file.read_bytes()
    file.with_name("new").write_bytes(content[:-1] + b"?")
    file.with_name("new").replace(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def add_preflight(folder: Path) -> None:
    """The images of a preflight, where there were none."""
    file = preflight_path(folder / "net", 0, ".png")
    file.parent.mkdir()
    file.write_bytes(b"?")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a part is written again": lambda folder: rewrite(part_path(folder / "net", 0, 0)),
    "a part is replaced": lambda folder: replace_in_its_time(part_path(folder / "net", 0, 0)),
    "a part is gone": lambda folder: part_path(folder / "net", 0, 0).unlink(),
    "a preflight is new": add_preflight,
    "a log file is written again": lambda folder: rewrite(folder / "logs" / "net" / "summary.json"),
    "a log file is replaced": lambda folder: replace_in_its_time(folder / "logs" / "net" / "summary.json"),
    "the event file is gone": lambda folder: next((folder / "logs" / "net").glob("*tfevents*")).unlink(),
    "the record is cut": lambda folder: (folder / "logs" / "net" / log_folder.RECORD_FILE).write_text('{"made_from": '),
    "the record is none": lambda folder: (folder / "logs" / "net" / log_folder.RECORD_FILE).write_text("[]"),
    "there is another run": lambda folder: (
        visualize(configured(folder.parent / "x", "two"))
        and (folder.parent / "x" / "logs" / "two").rename(folder / "logs" / "two")
    ),
}


def test_nothing_has_changed(tmp_path: Path) -> None:
    write(tmp_path / "net")
    (drawn,) = visualize(configured(tmp_path, "net"))
    assert find_unchanged(configured(tmp_path, "net")) == {"net": (drawn.event_file, 0)}
    assert find_unchanged(configured(tmp_path, "net", workers=1)) == {"net": (drawn.event_file, 0)}
    assert not find_unchanged(configured(tmp_path, "net", per_gallery=3))
    assert not find_unchanged(dataclasses.replace(configured(tmp_path, "net"), logdir=tmp_path / "other"))
    assert not find_unchanged(configured(tmp_path, "net", image_root=tmp_path / "nowhere"))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_something_has_changed(change: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "a" / "net")
    write(tmp_path / "x" / "two")
    visualize(configured(tmp_path / "a", "net"))
    assert find_unchanged(configured(tmp_path / "a", "net"))
    change(tmp_path / "a")
    assert not find_unchanged(configured(tmp_path / "a", "net"))


def test_a_new_distribution_may_add_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "net")
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    visualize(configured(tmp_path, "net"))
    assert find_unchanged(configured(tmp_path, "net"))
    (tmp_path / "site" / "other-1.0.dist-info").mkdir()
    assert not find_unchanged(configured(tmp_path, "net"))


def test_the_leaderboard_is_current_as_well(tmp_path: Path) -> None:
    config = configured(tmp_path, *(write(tmp_path / name).name for name in ("one", "two")))
    drawn = visualize(config)
    assert find_unchanged(config) == {run.run: (run.event_file, 0) for run in drawn}
    rewrite(tmp_path / "logs" / log_folder.LEADERBOARD_RUN / Path(_only_event_file(tmp_path)).name)
    assert not find_unchanged(config)


def _only_event_file(folder: Path) -> str:
    (file,) = (folder / "logs" / log_folder.LEADERBOARD_RUN).glob("*tfevents*")
    return str(file)


def test_what_stamps_do_not_tell_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "net")
    (tmp_path / "labels.csv").write_text("id,label\n0,cat\n")
    config = configured(tmp_path, "net", labels=tmp_path / "labels.csv")
    visualize(config)
    assert not find_unchanged(config)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "step=00000000").symlink_to(tmp_path / "net" / "step=00000000")
    config = configured(tmp_path, "linked")
    visualize(config)
    assert not find_unchanged(config)


def test_the_command_says_so_without_numpy(tmp_path: Path) -> None:
    write(tmp_path / "net")
    code = (
        "import sys; from predboard.cli.main import run; words = sys.argv[1:]; codes = [run(words)]\n"
        "print(codes, 'numpy' in sys.modules)"
    )
    line = [
        sys.executable,
        "-c",
        code,
        "visualize",
        str(tmp_path / "net"),
        "--logdir",
        str(tmp_path / "logs"),
        "--panels",
        "glance",
    ]
    first, again = (
        subprocess.run(line, cwd=toy.ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        for _ in range(2)
    )
    event_file = next((tmp_path / "logs" / "net").glob("*tfevents*"))
    assert again[0] == f"net: nothing changed since the last time, kept {event_file}"
    assert (first[-1], again[-1]) == ("[0] True", "[0] False")
    assert again[1] == first[1]


def appear(image: Path) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(image)


APPEARANCES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "nothing": (lambda _: None, True),
    "something else": (lambda images: appear(images / "other.png"), True),
    "something beside": (lambda images: appear(images.parent / "other.png"), True),
    "an image": (lambda images: appear(images / "000003.png"), False),
    "a link that leads nowhere": (lambda images: (images / "000003.png").symlink_to("nowhere"), False),
}


@pytest.mark.parametrize(("change", "unchanged"), APPEARANCES.values(), ids=APPEARANCES)
def test_an_image_that_appears_is_drawn(change: Callable[[Path], object], unchanged: bool, tmp_path: Path) -> None:
    images = toy.sources(tmp_path / "data" / "photos", 3)
    logits, label = toy.table(RUN, 15)
    toy.write_run(tmp_path / "net", logits, label, dataclasses.replace(RUN, root=str(images)))
    config = VisualizeConfig((tmp_path / "net",), tmp_path / "logs", panels=("predictions",))
    (drawn,) = visualize(config)
    change(images)
    assert find_unchanged(config) == ({"net": (drawn.event_file, 12)} if unchanged else {})
    (again,) = visualize(config)
    assert again.unchanged == unchanged
    assert (drawn.missing_pictures, again.missing_pictures) == (
        12,
        11 if images / "000003.png" in _files(images) else 12,
    )


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.exists()]


def test_the_folder_of_the_images_appears_with_an_image(tmp_path: Path) -> None:
    images = tmp_path / "data" / "photos"
    logits, label = toy.table(RUN, 15)
    toy.write_run(tmp_path / "net", logits, label, dataclasses.replace(RUN, root=str(images)))
    config = VisualizeConfig((tmp_path / "net",), tmp_path / "logs", panels=("predictions",))
    (drawn,) = visualize(config)
    appear(tmp_path / "other" / "000003.png")
    assert find_unchanged(config) == {"net": (drawn.event_file, 15)}
    assert visualize(config)[0].unchanged
    (tmp_path / "other").rename(tmp_path / "data")
    assert not find_unchanged(config)
    assert [visualize(config)[0].unchanged for _ in range(2)] == [False, True]
    appear(images / "000003.png")
    assert visualize(config)[0].missing_pictures == 14


def test_what_is_wrong_with_a_file_that_is_there_is_asked_each_time(tmp_path: Path) -> None:
    images = toy.sources(tmp_path / "images", 15)
    (images / "000003.png").write_bytes(b"no image")
    logits, label = toy.table(RUN, 15)
    toy.write_run(tmp_path / "net", logits, label, dataclasses.replace(RUN, root=str(images)))
    config = VisualizeConfig((tmp_path / "net",), tmp_path / "logs", panels=("predictions",))
    assert [visualize(config)[0].unchanged for _ in range(2)] == [False, False]
    assert not find_unchanged(config)


def test_images_of_no_folder_are_absent_from_the_current_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "net")
    config = VisualizeConfig((tmp_path / "net",), tmp_path / "logs", panels=("predictions",))
    monkeypatch.chdir(tmp_path)
    (drawn,) = visualize(config)
    assert find_unchanged(config) == {"net": (drawn.event_file, 15)}
    toy.sources(tmp_path / "elsewhere", 15)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not find_unchanged(config)
    assert visualize(config)[0].missing_pictures == 0


def test_a_disk_that_does_not_answer_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent_images, "ANSWER_SECONDS", 0.05)
    absent = absent_images.note_absent([str(tmp_path / "1.png")])
    assert absent is not None
    assert absent_images.are_absent(absent)
    released = threading.Event()
    monkeypatch.setattr(absent_images, "stamp", lambda _: released.wait(10))
    assert not absent_images.are_absent(absent)
    released.set()
    assert absent_images.note_absent(map(str, range(absent_images.MAX_NAMES + 1))) is None
