"""Stage two as a whole: what is rewritten and what is kept, crashes, moved pictures, many steps, memory."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from PIL import Image
from tensorboard.util import tensor_util

from predboard import InputError, VisualizeConfig, panels, visualize
from predboard.drawing import canvas, report_card
from predboard.drawing.report_card import ReportCard
from predboard.drawing.tiles import TileText, draw_tile, fit_picture
from predboard.predictions.digests import MANIFEST_COLUMNS, ManifestDigest
from predboard.predictions.schema import Part, Run
from predboard.storage.parts import PartWriter, read_batches
from predboard.storage.paths import AnyPath
from predboard.storage.runs import list_part_paths, open_run, part_path, preflight_path
from predboard.visualization.log_folder import list_runs
from predboard.visualization.source_images import SourceImages
from predboard.visualization.visualize import VisualizeResult
from tests import toy

MODULE = importlib.import_module("predboard.visualization.visualize")
"""The module; `predboard.visualize` is the function."""


RUN = Run(classes=("cat", "dog", "eel"), model="toy.py:build")
ROWS = 15
FEW = ("glance", "metrics")
"""Panels without photographs, to be quick."""


def write(folder: Path, *steps: int, rows: int = ROWS, run: Run = RUN, **more: Any) -> Path:
    for step in steps or (0,):
        logits, label = toy.table(run, rows, seed=step)
        toy.write_run(folder, logits, label, dataclasses.replace(run, step=step), **more)
    return folder


def write_beside(run: Path, step: int) -> None:
    """One more step of a run."""
    write(run, step, run=dataclasses.replace(RUN, root=open_run(run)[0].run.root))


def draw_logs(predictions: Path, logdir: Path, **more: Any) -> VisualizeResult:
    (written,) = visualize(VisualizeConfig(predictions=(predictions,), logdir=logdir, **more))
    return written


def tree(folder: Path) -> dict[str, bytes]:
    """What is in a folder; the lock aside, which is empty and stays."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"
    }


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*tfevents*"))


def decoded(file: AnyPath, tag: str, step: int = 0) -> list[Any]:
    """The pictures of a tag."""
    value = toy.read_values(file)[tag, step]
    return [
        np.asarray(Image.open(io.BytesIO(sample))) for sample in tensor_util.make_ndarray(value.tensor).tolist()[2:]
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with all its pictures."""
    root = toy.sources(tmp_path / "images", ROWS)
    return write(tmp_path / "predictions" / "run", run=dataclasses.replace(RUN, root=str(root)))


def listed(folder: Path) -> list[str]:
    """Our own list of our files."""
    files: list[str] = json.loads((folder / ".predboard.json").read_text())["files"]
    return files


# What is rewritten and what is kept


def test_one_event_file_of_a_run_and_what_is_listed_is_all_that_is_written(run: Path, tmp_path: Path) -> None:
    written = draw_logs(run, tmp_path / "logs")
    assert written.run == "run"
    assert written.rows == ROWS
    assert written.steps == (0,)
    assert (written.missing_rows, written.missing_pictures, written.unchanged) == (0, 0, False)
    assert [p.name for p in (tmp_path / "logs").iterdir()] == ["run"]
    files = listed(tmp_path / "logs" / "run")
    assert files[0] == written.event_file.name
    assert "rows.parquet" in files
    assert set(tree(tmp_path / "logs" / "run")) == {*files, ".predboard.json"}
    assert written.event_file.name.startswith("events.out.tfevents.1700000060.")  # when inference ended
    assert toy.read_events(written.event_file)[0].wall_time == 1.7e9 + 60


@pytest.mark.parametrize("logdir", ["predictions", "predictions/run", "logs/../predictions"])
def test_logs_are_never_mixed_into_predictions(run: Path, tmp_path: Path, logdir: str) -> None:
    before = tree(run)
    with pytest.raises(InputError, match=r"--logdir .*predictions.* would mix logs into .*: name another folder"):
        draw_logs(run, tmp_path / logdir)
    assert tree(run) == before


def test_a_step_without_rows_is_drawn_as_one(tmp_path: Path) -> None:
    writer = PartWriter(part_path(tmp_path / "run", 0, 0), RUN)
    writer.publish(Part(0, 0, ManifestDigest().hexdigest(), 0, "", started=1.7e9, finished=1.7e9))
    written = draw_logs(tmp_path / "run", tmp_path / "logs")
    assert written.rows == 0
    assert ("report/summary", 0) in toy.read_values(written.event_file)


def test_another_run_of_the_same_name_does_not_take_the_place_of_a_runs_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(tmp_path / "a/net", 0), write(tmp_path / "b/net", 1)
    logs = tmp_path / "logs"
    draw_logs(first, logs, panels=FEW)
    before = tree(logs)
    with pytest.raises(InputError) as refused:
        draw_logs(second, logs, panels=FEW)
    assert str(refused.value) == (
        f"{logs / 'net'} holds the logs of {first}, which these would replace: name another --logdir, rename a folder "
        f"of predictions, or delete {logs / 'net'}"
    )
    assert tree(logs) == before
    monkeypatch.chdir(tmp_path)
    write(first, 1)
    (tmp_path / "link").mkdir()
    (tmp_path / "link/net").symlink_to(first)
    assert draw_logs(Path("a/net"), Path("logs"), panels=FEW).steps == (0, 1)  # the same folder by a relative path,
    write(first, 2)
    assert draw_logs(tmp_path / "link/net", logs, panels=FEW).steps == (0, 1, 2)  # and through a link
    written = draw_logs(second, tmp_path / "others", panels=FEW)
    for name, content in tree(tmp_path / "others").items():
        assert str(tmp_path).encode() not in content, name
    assert not written.unchanged


def test_logs_go_on_where_a_run_was_moved(tmp_path: Path) -> None:
    run, logs = write(tmp_path / "project/predictions/net", 0), tmp_path / "project/logs"
    draw_logs(run, logs, panels=FEW)
    shutil.copytree(tmp_path / "project", tmp_path / "copy")  # with its logs, while the first is there still
    write(tmp_path / "copy/predictions/net", 1)
    said: list[str] = []

    def drawn(run: Path, logs: Path) -> tuple[int, ...]:
        said.clear()
        (written,) = visualize(VisualizeConfig((run,), logs, panels=FEW), said.append)
        return written.steps

    assert drawn(tmp_path / "copy/predictions/net", tmp_path / "copy/logs") == (0, 1)
    assert len(said) == 1  # nothing of another run
    moved = (tmp_path / "project/predictions").rename(tmp_path / "kept") / "net"
    assert draw_logs(moved, logs, panels=FEW).unchanged  # its bytes are the same
    write(moved, 1)
    assert drawn(moved, logs) == (0, 1)
    assert said[1] == f"net: replacing logs of {run}, which is no longer there"
    write(moved, 2)
    assert drawn(moved, logs) == (0, 1, 2)
    assert len(said) == 1


def test_logs_that_do_not_say_whose_they_are_are_drawn_anew(tmp_path: Path) -> None:
    draw_logs(write(tmp_path / "a/net", 0), tmp_path / "logs", panels=FEW)
    record = tmp_path / "logs/net/.predboard.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "of"}))  # as before
    assert draw_logs(write(tmp_path / "b/net", 1), tmp_path / "logs", panels=FEW).steps == (1,)


def test_an_unchanged_run_is_skipped(run: Path, tmp_path: Path) -> None:
    first = draw_logs(run, tmp_path / "logs")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "logs" / "run").iterdir()}
    again = draw_logs(run, tmp_path / "logs")
    assert again.unchanged
    assert again.event_file == first.event_file
    assert (again.rows, again.steps) == (first.rows, first.steps)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "logs" / "run").iterdir()} == before


def test_a_lost_event_file_is_written_again(run: Path, tmp_path: Path) -> None:
    first = draw_logs(run, tmp_path / "logs", panels=FEW)
    content = first.event_file.read_bytes()
    first.event_file.unlink()
    again = draw_logs(run, tmp_path / "logs", panels=FEW)
    assert not again.unchanged
    assert again.event_file.read_bytes() == content


def test_what_the_model_sees_and_what_stage_one_warned_of_are_shown(tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    warnings = ("red is blue: swap them", "and more: act")
    write(run, 3, shard_size=4, warnings=(*warnings, warnings[0]))
    config = VisualizeConfig(predictions=(run,), logdir=tmp_path / "logs", panels=("report",))
    sheet = preflight_path(run, 3, ".png")
    assert sheet.relative_to(run).as_posix() == "_preflight/step=00000003.png"

    def shown() -> dict[tuple[str, int], Any]:
        (written,) = visualize(config, said.append)
        assert not written.unchanged
        return toy.read_values(written.event_file)

    page = shown()["report/summary", 3].tensor.string_val[0].decode()
    assert [line for line in page.split("\n") if "Warning" in line][:2] == [f"- **Warning:** {w}" for w in warnings]
    sheet.parent.mkdir()
    for colour in ("red", "green"):
        Image.new("RGB", (6, 4), colour).save(sheet)
        values = shown()
        assert set(values) == {("report/what_the_model_sees", 3), ("report/summary", 3), ("report/run", 3)}
        (file,) = event_files(tmp_path / "logs" / "run")
        (picture,) = decoded(file, "report/what_the_model_sees", 3)
        assert (picture == np.asarray(Image.new("RGB", (6, 4), colour))).all()
    sheet.write_bytes(sheet.read_bytes()[:40])
    assert set(shown()) == {("report/summary", 3), ("report/run", 3)}
    (line,) = [line for line in said if "left out" in line]
    assert line.startswith(f"warning: {sheet} cannot be read and is left out: ")


@pytest.mark.parametrize("change", ["a step", "rows", "panels", "code"])
def test_a_change_replaces_the_file_under_a_new_name_and_touches_nothing_else(
    change: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "logs" / "run"
    first = draw_logs(run, tmp_path / "logs")
    foreign = {
        "events.out.tfevents.1234567890.host.training": b"another program's",
        "events.out.tfevents.1.0.predboard": b"ends like ours, and is not in our list",
        "notes.txt": b"mine",
    }
    for name, content in foreign.items():
        (folder / name).write_bytes(content)
    (folder / "sub").mkdir()
    more: dict[str, Any] = {}
    if change == "a step":
        write_beside(run, 5)
    elif change == "rows":
        shutil.rmtree(run)
        write(run, rows=ROWS - 1, run=dataclasses.replace(RUN, root=str(tmp_path / "images")))
    elif change == "panels":
        more = {"panels": ("metrics",)}
    else:  # of ours: it may draw otherwise now
        code = tmp_path / "code"
        shutil.copytree(Path(canvas.__file__).parents[1], code, ignore=shutil.ignore_patterns("__pycache__"))
        with (code / "panels" / "report.py").open("a") as file:
            file.write("# a change\n")
        monkeypatch.setattr(
            "predboard.visualization.log_folder.__file__", str(code / "visualization" / "log_folder.py")
        )
    again = draw_logs(run, tmp_path / "logs", **more)
    assert not again.unchanged
    assert (again.event_file.name != first.event_file.name) == (change != "code")  # the same content has the same name
    assert first.event_file.exists() == (change == "code")
    (folder / "sub").rmdir()
    assert {name: content for name, content in tree(folder).items() if name in foreign} == foreign
    ours = {again.event_file.name, "summary.json", ".predboard.json"} | (
        set() if change == "panels" else {"rows.parquet"}
    )
    assert {*ours, *foreign} <= set(tree(folder)) == {*listed(folder), ".predboard.json", *foreign}
    assert draw_logs(run, tmp_path / "logs", **more).unchanged


def test_chosen_panels_replace_all_panels(run: Path, tmp_path: Path) -> None:
    draw_logs(run, tmp_path / "logs")
    written = draw_logs(run, tmp_path / "logs", panels=("metrics", "confusion"))
    groups = {tag.partition("/")[0] for tag, _ in toy.read_values(written.event_file)}
    assert groups == {"metrics", "intervals", "custom_scalars__config__", "confusion"}
    assert event_files(tmp_path / "logs" / "run") == [written.event_file]


def test_only_the_columns_of_the_chosen_panels_are_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    batches = read_batches

    def spy(file: Any, columns: Any = None) -> Iterator[Any]:
        seen.update(columns)
        return batches(file, columns)

    monkeypatch.setattr("predboard.evaluation.measure.read_batches", spy)
    draw_logs(run, tmp_path / "logs", panels=("glance",))
    assert seen == {"label", "predicted", "loss"} | MANIFEST_COLUMNS


def test_two_runs_lie_side_by_side(tmp_path: Path) -> None:
    a, b = write(tmp_path / "p" / "a"), write(tmp_path / "p" / "b", 3)
    both = visualize(VisualizeConfig(predictions=(a, b), logdir=tmp_path / "logs", panels=FEW))
    assert [written.event_file.parent.name for written in both] == ["a", "b"]
    assert list_runs(tmp_path / "logs") == ["b", "a"]  # the newest first
    (alone,) = visualize(VisualizeConfig(predictions=(a,), logdir=tmp_path / "other", panels=FEW))
    assert alone.event_file.read_bytes() == both[0].event_file.read_bytes()


def test_the_same_predictions_give_the_same_bytes_anywhere(run: Path, tmp_path: Path) -> None:
    first = draw_logs(run, tmp_path / "logs", workers=1)
    moved = shutil.move(run, tmp_path / "elsewhere" / "run")
    second = draw_logs(Path(moved), tmp_path / "deep" / "in" / "other", workers=3)
    assert first.event_file.name == second.event_file.name
    assert first.event_file.read_bytes() == second.event_file.read_bytes()


def test_what_a_panel_raises_comes_here_and_leaves_no_events(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Iterator[Any]:
        raise KeyError("a panel")
        yield

    monkeypatch.setattr(type(panels.load("predictions")), "render", broken)
    with pytest.raises(KeyError, match="a panel"):
        draw_logs(run, tmp_path / "logs", panels=("glance", "predictions"), workers=2)
    assert not list((tmp_path / "logs").rglob("events*"))


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "x" / "run"), write(tmp_path / "y" / "run")
    with pytest.raises(InputError, match=r"two folders are named 'run'.*rename one"):
        visualize(VisualizeConfig(predictions=(a, b), logdir=tmp_path / "logs"))
    assert not (tmp_path / "logs").exists()


def test_a_run_is_named_after_its_folder_however_it_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert draw_logs(Path(), tmp_path / "logs", panels=FEW).run == "run"
    assert draw_logs(Path("../run/"), tmp_path / "logs", panels=FEW).unchanged


# Crashes


def test_a_crash_while_drawing_leaves_the_old_logs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_logs(run, tmp_path / "logs", panels=("metrics", "report"))
    before = tree(tmp_path / "logs" / "run")
    write_beside(run, 5)
    report = importlib.import_module("predboard.panels.report").Panel

    def broken(*_: Any) -> Iterator[Any]:
        raise RuntimeError("a defect")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(report, "render", broken)
        with pytest.raises(RuntimeError, match="a defect"):
            draw_logs(run, tmp_path / "logs", panels=("metrics", "report"))
    assert tree(tmp_path / "logs" / "run") == before
    assert not draw_logs(run, tmp_path / "logs", panels=("metrics", "report")).unchanged


POINTS = {
    "before the list is written": ("write_text", 1, 0),
    "before the list takes effect": ("replace", 1, 0),
    "before the old file beside is removed": ("unlink", 1, 0),
    "before the new file has its name": ("replace", 2, 0),
    "before the old file is removed": ("unlink", 2, 1),
    "before a file beside has its name": ("replace", 3, 1),
    "before the last list is written": ("write_text", 2, 1),
    "before the last list takes effect": ("replace", 4, 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_while_publishing_leaves_a_whole_file_and_the_next_run_tidies_up(
    point: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, call, new_there = POINTS[point]
    folder = tmp_path / "logs" / "run"
    old = draw_logs(run, tmp_path / "logs", panels=FEW).event_file
    old_summary = (folder / "summary.json").read_bytes()
    (folder / "foreign.tfevents").write_bytes(b"")
    write_beside(run, 5)
    expected = draw_logs(run, tmp_path / "other", panels=FEW).event_file
    calls = 0
    original = getattr(Path, method)

    def dies(self: Path, *arguments: Any, **more: Any) -> Any:
        nonlocal calls
        if folder in (self.parent, self.parent.parent):  # the new files come from a folder inside
            calls += 1
            if calls == call:
                raise RuntimeError("killed")
        return original(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, dies)
        with pytest.raises(RuntimeError, match="killed"):
            draw_logs(run, tmp_path / "logs", panels=FEW)
    ours = [file for file in event_files(folder) if file.name != "foreign.tfevents"]
    assert (expected.name in {file.name for file in ours}) == bool(new_there)
    assert ours
    for file in ours:
        assert toy.read_events(file)[0].file_version == "brain.Event:2"
        assert file.name in json.loads((folder / ".predboard.json").read_text())["files"]
    if (folder / "summary.json").exists():  # of the state that the event file shows
        summary = (expected.parent / "summary.json").read_bytes() if new_there else old_summary
        assert (folder / "summary.json").read_bytes() == summary
    again = draw_logs(run, tmp_path / "logs", panels=FEW)
    assert not again.unchanged
    assert not old.exists()
    assert set(tree(folder)) == {expected.name, "summary.json", ".predboard.json", "foreign.tfevents"}
    assert again.event_file.read_bytes() == expected.read_bytes()
    assert (folder / "summary.json").read_bytes() == (expected.parent / "summary.json").read_bytes()
    assert draw_logs(run, tmp_path / "logs", panels=FEW).unchanged


def test_what_a_killed_process_left_half_written_is_removed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    died = (
        "import os; from pathlib import Path; from predboard import VisualizeConfig, visualize\n"
        "from predboard.visualization import log_folder as logs\n"
        "logs.LogDraft.publish = lambda *_: os._exit(9)\n"  # as the kernel ends a process: nothing is tidied up
        f"visualize(VisualizeConfig((Path({str(run)!r}),), logdir=Path({str(folder.parent)!r}), panels={FEW}))"
    )
    assert subprocess.run([sys.executable, "-c", died], cwd=toy.ROOT, capture_output=True, check=False).returncode == 9
    assert [p.name for p in folder.glob(".predboard-*.partial/events")] == ["events"]
    written = draw_logs(run, tmp_path / "logs", panels=FEW)
    assert set(tree(folder)) == {written.event_file.name, "summary.json", ".predboard.json"}


def test_two_processes_do_not_write_to_one_folder(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    with (
        filelock.FileLock(folder / ".lock"),
        pytest.raises(InputError, match=r"another process is writing to .*logs/run"),
    ):
        draw_logs(run, tmp_path / "logs", panels=FEW)
    assert not event_files(folder)
    assert not draw_logs(run, tmp_path / "logs", panels=FEW).unchanged


def test_a_list_of_files_that_is_not_ours_deletes_nothing(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    for record in ("", "[]", '{"files": 3}', json.dumps({"made_from": "", "files": ["../../precious.txt"]})):
        (folder / ".predboard.json").write_text(record)
        assert not draw_logs(run, tmp_path / "logs", panels=FEW).unchanged
        assert precious.read_text() == "keep"


@pytest.mark.parametrize("damage", ["cut", "spoilt", "empty", "gone", "edited"])
def test_logs_that_are_not_as_they_were_written_are_drawn_again(run: Path, tmp_path: Path, damage: str) -> None:
    written = toy.local(draw_logs(run, tmp_path / "logs", panels=FEW).event_file)
    good = written.read_bytes()
    summary = written.parent / "summary.json"
    if damage == "cut":
        written.write_bytes(good[:-100])
    elif damage == "spoilt":  # of the same length, as a sector of zeros
        written.write_bytes(good[:200] + bytes(50) + good[250:])
    elif damage == "gone":
        summary.unlink()
    else:
        summary.write_text("{}" if damage == "empty" else summary.read_text().replace("accuracy", "accuracx"))
    again = draw_logs(run, tmp_path / "logs", panels=FEW)
    assert not again.unchanged
    assert again.event_file.read_bytes() == good
    assert b'"accuracy"' in summary.read_bytes()
    assert draw_logs(run, tmp_path / "logs", panels=FEW).unchanged


def test_a_lost_list_of_files_is_made_again_and_no_event_file_counts_twice(run: Path, tmp_path: Path) -> None:
    old = toy.local(draw_logs(run, tmp_path / "logs", panels=FEW).event_file)
    (old.parent / ".predboard.json").write_bytes(b"")  # as a power cut may leave it
    write_beside(run, 5)
    new = toy.local(draw_logs(run, tmp_path / "logs", panels=FEW).event_file)
    assert event_files(new.parent) == [new]


def test_files_of_others_and_predictions_are_never_replaced(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("mine")
    with pytest.raises(InputError, match=r"summary.json was not written by predboard and would be replaced"):
        draw_logs(run, tmp_path / "logs", panels=FEW)
    assert {path.name for path in folder.iterdir()} <= {"summary.json", ".lock"}
    assert (folder / "summary.json").read_text() == "mine"
    other = shutil.copytree(run, tmp_path / "others" / "run")
    before = tree(other)
    with pytest.raises(InputError, match="run holds predictions, and logs would be mixed into them"):
        draw_logs(run, tmp_path / "others", panels=FEW)
    assert tree(other) == before


LINKS = {
    "a folder that the list names a file in": "sub",
    "the list that is being written": ".predboard.json.partial",
    "the list": ".predboard.json",
    "the lock": ".lock",
    "the folder of the cache": ".predboard-states",
    "an unfinished folder": ".predboard-1.partial",
    "a file of ours": "summary.json",
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("hard", [False, True])
def test_nothing_behind_a_link_is_written_or_deleted(run: Path, tmp_path: Path, kind: str, hard: bool) -> None:
    precious = {name: tmp_path / "precious" / name for name in ("precious.txt", "1.partial", "x.states.zip")}
    (tmp_path / "precious").mkdir()
    for file in precious.values():
        file.write_text("keep")
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / ".predboard.json").write_text(
        json.dumps({"made_from": "", "files": ["sub/precious.txt", "summary.json"]})
    )
    place = folder / LINKS[kind]
    place.unlink(missing_ok=True)
    if hard:
        place.hardlink_to(precious["precious.txt"])
    elif "folder" in kind:
        place.symlink_to(tmp_path / "precious")
    else:
        place.symlink_to(precious["precious.txt"])
    with contextlib.suppress(InputError):
        draw_logs(run, tmp_path / "logs", panels=FEW, cache="always")
    assert {file.name: file.read_text() for file in precious.values()} == dict.fromkeys(precious, "keep")


# Bad input


def test_a_damaged_part_is_named_and_the_old_logs_stay(run: Path, tmp_path: Path) -> None:
    draw_logs(run, tmp_path / "logs", panels=FEW)
    before = tree(tmp_path / "logs" / "run")
    write_beside(run, 5)
    (part,) = list_part_paths(run, 5)
    toy.spoil(part, "logits.list.element")
    with pytest.raises(InputError, match=r"step=00000005/part-00000\.parquet is damaged"):
        draw_logs(run, tmp_path / "logs", panels=FEW)
    assert tree(tmp_path / "logs" / "run") == before


def test_the_rows_that_are_missing_are_counted_and_warned_of(tmp_path: Path) -> None:
    run = write(tmp_path / "run", rows=100, shard_size=25)
    part_path(run, 0, 1).unlink()
    written = draw_logs(run, tmp_path / "logs", panels=("report",))
    assert (written.rows, written.missing_rows) == (75, 25)
    page = tensor_util.make_ndarray(toy.read_values(written.event_file)["report/summary", 0].tensor).item().decode()
    assert "- **Warning:** 25 of 100 rows are missing, possibly whole classes: rows are stored in the " in page


def test_no_predictions_named_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which predictions"):
        visualize(VisualizeConfig(logdir=tmp_path))


# Pictures


@pytest.mark.slow
def test_missing_pictures_are_counted_shown_as_such_and_looked_for_again(run: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "images", tmp_path / "moved")
    written = draw_logs(run, tmp_path / "logs")
    shown = {
        int(i)
        for name in ("mistakes", "predictions")
        for states in [panels.load(name).measure(RUN, toy.predictions(RUN, *toy.table(RUN, ROWS)))]
        for gallery in dataclasses.astuple(states)
        if isinstance(gallery, tuple) and isinstance(gallery[-1], dict)
        for i in gallery[-1]["id"]
    }
    assert written.missing_pictures == len(shown)
    (first, *_) = decoded(written.event_file, "examples/random")
    blank = np.asarray(draw_tile(None, TileText(None, [], "", 0)))
    inner = (slice(20, 190), slice(20, 190))
    assert np.array_equal(first[inner], blank[inner])  # "picture not found"
    again = draw_logs(run, tmp_path / "logs")
    assert (again.unchanged, again.missing_pictures) == (
        True,
        written.missing_pictures,
    )  # looked for, and still missing
    found = draw_logs(run, tmp_path / "logs", image_root=tmp_path / "moved")
    assert found.missing_pictures == 0
    assert draw_logs(run, tmp_path / "logs", image_root=tmp_path / "moved").unchanged
    shutil.move(tmp_path / "moved", tmp_path / "images")
    back = draw_logs(run, tmp_path / "logs")
    assert (back.missing_pictures, back.unchanged) == (0, False)
    assert back.event_file.read_bytes() == found.event_file.read_bytes()


def test_a_file_that_is_no_picture_is_a_missing_picture(run: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"no picture")
    assert draw_logs(run, tmp_path / "logs").missing_pictures > 0


def test_an_image_root_that_is_not_there_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*nowhere: --image-root"):
        draw_logs(run, tmp_path / "logs", image_root=tmp_path / "nowhere")


def test_the_tile_of_a_row_shows_its_own_picture(run: Path, tmp_path: Path) -> None:
    written = draw_logs(run, tmp_path / "logs")
    batch = toy.predictions(RUN, *toy.table(RUN, ROWS))
    rows = panels.load("mistakes").measure(RUN, batch).random.rows
    tiles = decoded(written.event_file, "examples/random")
    assert len(tiles) == 12
    for shown, image in zip(tiles, rows["image"], strict=True):
        source = np.asarray(Image.open(tmp_path / "images" / image))
        assert shown.shape == (215, 350, 3)
        enlarged = source.repeat(24, axis=0).repeat(24, axis=1)
        top, left = next(
            (y, x)
            for y in range(30)
            for x in range(30)
            if np.array_equal(shown[y : y + 192 : 24, x : x + 192 : 24], source)
        )
        assert np.array_equal(shown[top : top + 192, left : left + 192], enlarged)


def test_only_a_large_jpeg_is_decoded_smaller_than_it_is(run: Path, tmp_path: Path) -> None:
    random, sides = (
        np.random.default_rng(0),
        {28: 7, 64: 3, 98: 2, 196: 1, 197: 0, 224: 0, 392: 0, 783: 0, 784: 0, 1600: 0},
    )
    step = open_run(run)[0]
    pictures = SourceImages((step,), tmp_path)
    for side, factor in sides.items():
        rough = Image.fromarray(random.integers(0, 256, (side // 7, side // 7, 3), np.uint8))
        rough.resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / f"{side}.jpg", quality=95)
        ((found, exact),) = pictures.fitted(step.step, [side], [f"{side}.jpg"])
        assert found is not None
        shown, whole = np.asarray(found), np.asarray(Image.open(tmp_path / f"{side}.jpg"))
        assert exact == (factor > 0)
        if exact:
            assert np.array_equal(shown, whole.repeat(factor, axis=0).repeat(factor, axis=1))
        else:
            assert shown.shape == (196, 196, 3)
            plain = np.asarray(fit_picture(Image.fromarray(whole))[0])
            assert np.array_equal(shown, plain) == (side < 2 * 392)
            assert np.abs(shown.astype(int) - plain).mean() < 3


def test_thumbnails_are_shown_where_the_sources_are_gone(tmp_path: Path) -> None:
    with_thumbnails = dataclasses.replace(RUN, thumbnails=8, root=str(tmp_path / "gone"))
    run = write(tmp_path / "run", 0, 4, run=with_thumbnails, shard_size=15, group=4)
    written = draw_logs(run, tmp_path / "logs")
    assert written.missing_pictures == 0
    for step in (0, 4):
        for shown in decoded(written.event_file, "examples/random", step):
            assert np.abs(shown[60:150, 60:150].astype(int) - (0, 128, 0)).max() < 8  # the green thumbnail
    assert draw_logs(run, tmp_path / "logs").unchanged


def test_a_picture_is_shown_rather_than_its_thumbnail(tmp_path: Path) -> None:
    root = toy.sources(tmp_path / "images", ROWS)
    run = write(tmp_path / "run", run=dataclasses.replace(RUN, thumbnails=8, root=str(root)))
    plain = write(tmp_path / "plain" / "run", run=dataclasses.replace(RUN, root=str(root)))
    with_, without = (draw_logs(p, tmp_path / f"logs{i}").event_file for i, p in enumerate((run, plain)))
    shown = [{at: v for at, v in toy.read_values(file).items() if at[0] != "report/run"} for file in (with_, without)]
    assert shown[0] == shown[1]  # the page of the run says that there are thumbnails


def test_a_thumbnail_that_cannot_be_read_is_a_damaged_part(tmp_path: Path) -> None:
    run = write(tmp_path / "run", run=dataclasses.replace(RUN, thumbnails=8, root=str(tmp_path / "gone")))
    (part,) = list_part_paths(run, 0)
    toy.spoil(part, "thumbnail")
    with pytest.raises(InputError, match=r"step=00000000/part-00000\.parquet is damaged"):
        draw_logs(run, tmp_path / "logs")
    assert not event_files(tmp_path / "logs" / "run")


def test_steps_with_pictures_in_different_places_each_show_theirs(tmp_path: Path) -> None:
    roots = {step: toy.sources(tmp_path / f"images{step}", ROWS, seed=step) for step in (1, 2)}
    for step, root in roots.items():
        write(tmp_path / "run", step, run=dataclasses.replace(RUN, root=str(root)))
    written = draw_logs(tmp_path / "run", tmp_path / "logs")
    assert written.missing_pictures == 0
    first, second = (decoded(written.event_file, "examples/random", step)[0][20:180, 20:180] for step in (1, 2))
    assert not np.array_equal(first, second)


def test_a_turned_photograph_is_shown_as_the_model_saw_it(tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 200), "red")
    picture.paste("blue", (0, 0, 200, 200))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    root = tmp_path / "images"
    root.mkdir()
    for i in range(4):
        picture.save(root / f"{i:06d}.png", exif=exif)
    shown = {}
    for applied in ("apply", "ignore"):
        run = dataclasses.replace(RUN, root=str(root), transform={"exif": applied})
        written = draw_logs(write(tmp_path / applied, rows=4, run=run), tmp_path / "logs")
        (shown[applied], *_) = decoded(written.event_file, "examples/random")
    centre = (100, 110)  # row and column close to the middle of the picture
    assert shown["apply"][centre[0] - 60, centre[1]].argmax() == 2  # blue above
    assert shown["apply"][centre[0] + 60, centre[1]].argmax() == 0
    assert shown["ignore"][centre[0], centre[1] - 60].argmax() == 2  # blue on the left
    assert shown["ignore"][centre[0], centre[1] + 60].argmax() == 0


# Many steps


@pytest.mark.slow
def test_of_many_steps_ten_have_pictures_and_all_have_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards: list[int] = []
    draw_card = report_card.draw_report_card

    def counted(card: ReportCard) -> Any:
        cards.append(card.step)
        return draw_card(card)

    monkeypatch.setattr("predboard.drawing.report_card.draw_report_card", counted)
    numbers = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]
    written = draw_logs(write(tmp_path / "run", *numbers, rows=40), tmp_path / "logs")
    assert list(written.steps) == numbers
    steps: dict[str, list[int]] = {}
    plugins: dict[str, str] = {}
    for (tag, step), value in toy.read_values(written.event_file).items():
        steps.setdefault(tag, []).append(step)
        plugins.setdefault(tag, value.metadata.plugin_data.plugin_name)
    with_pictures = {step for tag in steps if plugins[tag] == "images" for step in steps[tag]}
    assert len(with_pictures) == 10
    assert {1, 377} <= with_pictures
    assert steps["1_glance/report_card"] == sorted(with_pictures)
    assert sorted(cards) == sorted(with_pictures)  # no card is drawn that is not kept
    for tag in steps:
        if plugins[tag] == "scalars":
            assert steps[tag] == numbers


def test_steps_come_in_order_of_their_numbers_with_their_own_times(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 100, 20, 3)
    written = draw_logs(run, tmp_path / "logs", panels=FEW)
    assert written.steps == (3, 20, 100)
    assert [event.step for event in toy.read_events(written.event_file) if _tag(event) == "metrics/nll"] == [3, 20, 100]


def _tag(event: Any) -> str:
    return str(event.summary.value[0].tag) if event.summary.value else ""


# What it needs


def python(code: str, *arguments: str | Path, path: Path = toy.ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{toy.PYTHONPATH}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_drawing_imports_no_torch_and_works_where_there_is_none(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from predboard.cli.main import run\n"
        "assert run(['visualize', sys.argv[1], '--logdir', sys.argv[2]]) == 0\n"
        "print(sorted({'torch', 'tensorflow', 'matplotlib'} & set(sys.modules)))"
    )
    assert python(code, run, tmp_path / "logs").splitlines()[-1] == "[]"
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "torch.py").write_text("raise ImportError('torch is not installed here')")
    blocked = "import torch"
    with pytest.raises(AssertionError, match="torch is not installed here"):
        python(blocked, path=absent)
    assert python(code, run, tmp_path / "again", path=absent).splitlines()[-1] == "[]"
    ((first,), (second,)) = (event_files(tmp_path / name / "run") for name in ("logs", "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("looks into /proc")
    # Allocators that keep what was freed, for each thread, make the peak differ by a tenth from run to run.
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    code = (  # ru_maxrss will not do: a process inherits its parent's
        "import re, sys; from pathlib import Path; from predboard.cli.main import run\n"
        "assert run(['visualize', sys.argv[1], '--logdir', sys.argv[2], '--workers', '2']) == 0\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    peak = {}
    for rows in (20_000, 200_000):
        logits, label = toy.table(toy.RUN, rows)
        toy.write_run(tmp_path / str(rows), logits, label)
        peak[rows] = int(python(code, tmp_path / str(rows), tmp_path / "logs").splitlines()[-1])
    assert peak[200_000] < 1.1 * peak[20_000], peak


def test_it_can_be_called_from_many_threads(tmp_path: Path) -> None:
    runs = [write(tmp_path / "p" / f"run{i}", i) for i in range(3)]
    alone = [draw_logs(run, tmp_path / "one", panels=("glance",)).event_file.read_bytes() for run in runs]
    found: dict[int, bytes] = {}

    def work(i: int) -> None:
        found[i] = draw_logs(runs[i], tmp_path / "many", panels=("glance",)).event_file.read_bytes()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(3)] == alone


def test_stage_two_does_not_wait_for_pandas(tmp_path: Path) -> None:
    run = write(tmp_path / "mine", failed=frozenset({3}))  # without logits and loss
    code = (
        "import sys; from predboard.cli.main import run\n"
        "assert run(['visualize', sys.argv[1], '--logdir', sys.argv[2]]) == 0\n"
        "print('pandas' in sys.modules)"
    )
    assert python(code, run, tmp_path / "logs").splitlines()[-1] == "False"
