"""The ranking of the runs of a log folder."""

import dataclasses
import json
import os
import re
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from predboard import InputError, VisualizeConfig, visualize
from predboard.cli.board import landing_page
from predboard.config import BoardConfig
from predboard.drawing.canvas import HEIGHT_PX, WIDTH_PX
from predboard.metrics.label_effect import LabelEffect
from predboard.predictions.schema import Run
from predboard.summaries import Metric, Metrics
from predboard.visualization import leaderboard, log_folder
from predboard.visualization.leaderboard import write_leaderboard
from predboard.visualization.summary_json import encode_summary
from tests import toy

RUN = Run(classes=("cat", "dog"), model="toy.py:build")


def log(logdir: Path, name: str, accuracy: float | None = 0.5, step: int = 3, **more: Any) -> Path:
    """A run's log folder as stage two leaves it, as far as the ranking reads it."""
    folder = logdir / name
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"images/counted": Metric(100, definition="n"), **more.pop("figures", {})}
    if accuracy is not None:
        figures["accuracy"] = Metric(accuracy, (accuracy - 0.1, accuracy + 0.1), "share", "Wilson")
    finished = more.pop("finished", 1.7e9)
    labels = {step: LabelEffect("new.csv", replaced=corrected)} if (corrected := more.pop("corrected", 0)) else {}
    written = [(step, Metrics("m", figures)), (step - 1, Metrics("m", {"accuracy": Metric(0.01)}))]
    (folder / "summary.json").write_bytes(
        encode_summary(name, dataclasses.replace(RUN, **more), finished, written, labels)
    )
    (folder / log_folder.RECORD_FILE).write_text(json.dumps({"made_from": "x", "files": ["events.x", "summary.json"]}))
    return folder


def shown(logdir: Path) -> dict[str, Any]:
    """The values of the ranking's event file by tag; empty if there is none."""
    files = (
        sorted((logdir / log_folder.LEADERBOARD_RUN).glob("*tfevents*"))
        if (logdir / log_folder.LEADERBOARD_RUN).is_dir()
        else []
    )
    assert len(files) <= 1
    return {tag: value for (tag, _), value in toy.read_values(files[0]).items()} if files else {}


def table(logdir: Path) -> list[list[str]]:
    page = shown(logdir)["report/ranking"].tensor.string_val[0].decode().replace("\xa0", " ")
    lines = [line for line in page.split("\n") if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]


def test_one_run_has_no_ranking_and_two_have(tmp_path: Path) -> None:
    log(tmp_path, "a")
    assert write_leaderboard(tmp_path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    log(tmp_path, "b")
    file = write_leaderboard(tmp_path)
    assert file is not None
    assert set(shown(tmp_path)) == {"1_glance/ranking", "report/ranking"}
    assert log_folder.has_leaderboard(tmp_path)
    assert sorted(log_folder.list_runs(tmp_path)) == ["a", "b"]


def test_the_table_by_hand(tmp_path: Path) -> None:
    log(tmp_path, "worse|run", 0.7, figures={"nll": Metric(0.2, definition="d")})
    log(tmp_path, "better", 0.9, 12, figures={"nll": Metric(0.3, definition="d"), "f1_macro": Metric(0.85)})
    log(tmp_path, "unlabelled", None)
    write_leaderboard(tmp_path)
    assert table(tmp_path) == [
        ["run", "step", "images", "accuracy", "95 % interval", "macro F1", "NLL"],
        ["better", "12", "100", "**0.9000**", "0.8000 to 1.0000", "**0.8500**", "0.3000"],
        ["worse\\|run", "3", "100", "0.7000", "0.6000 to 0.8000", "–", "**0.2000**"],
        ["unlabelled", "3", "100", "–", "–", "–", "–"],
    ]


def test_the_picture_shows_the_best_twelve_against_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def intervals(*arguments: Any) -> Any:
        seen.append(arguments)
        return np.zeros((1, 1, 3), np.uint8)

    for i in range(15):
        log(tmp_path, f"run{i:02d}", 0.5 + i / 50)
    monkeypatch.setattr("predboard.drawing.plots.draw_intervals", intervals)
    write_leaderboard(tmp_path)
    [(title, lines, reference, called)] = seen
    assert title == "accuracy of the best 12 of 15 runs, with 95 % intervals"
    assert [line.name for line in lines] == [f"run{i:02d}" for i in range(14, 2, -1)]
    assert (reference, called) == (pytest.approx(0.78), "best")
    assert (lines[0].lower, lines[0].point, lines[0].upper) == pytest.approx((0.68, 0.78, 0.88))
    assert len(table(tmp_path)) == 16


def test_its_bytes_depend_on_the_summaries_alone(tmp_path: Path) -> None:
    for logdir, order in ((tmp_path / "one", "abc"), (tmp_path / "two", "cba")):
        for name in order:
            log(logdir, name, 0.5 + ord(name) / 1000, finished=1.7e9 + ord(name))
    one, two = write_leaderboard(tmp_path / "one"), write_leaderboard(tmp_path / "two")
    assert one is not None
    assert two is not None
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()
    assert toy.read_events(one)[0].wall_time == 1.7e9 + ord("c") + 1  # after all others, whose colours stay


def test_it_is_kept_while_nothing_changes_and_replaced_when_something_does(tmp_path: Path) -> None:
    log(tmp_path, "a"), log(tmp_path, "b")
    first = write_leaderboard(tmp_path)
    assert first is not None
    before = first.stat().st_mtime_ns
    assert write_leaderboard(tmp_path) == first
    assert first.stat().st_mtime_ns == before
    log(tmp_path, "b", 0.7)
    second = write_leaderboard(tmp_path)
    assert second is not None
    assert not first.exists()
    assert second.is_file()
    assert table(tmp_path)[1][0] == "b"
    (tmp_path / log_folder.LEADERBOARD_RUN / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "b")
    log(tmp_path, "c", 0.6)
    write_leaderboard(tmp_path)
    assert [row[0] for row in table(tmp_path)[1:]] == ["c", "a"]


def test_it_goes_when_only_one_run_is_left_and_leaves_what_is_not_ours(tmp_path: Path) -> None:
    log(tmp_path, "a"), log(tmp_path, "b")
    write_leaderboard(tmp_path)
    shutil.rmtree(tmp_path / "b")
    assert write_leaderboard(tmp_path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    log(tmp_path, "b")
    write_leaderboard(tmp_path)
    (tmp_path / log_folder.LEADERBOARD_RUN / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "b")
    assert write_leaderboard(tmp_path) is None
    assert [p.name for p in (tmp_path / log_folder.LEADERBOARD_RUN).iterdir()] == ["notes.txt"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path: Path) -> None:
    log(tmp_path, "a")
    log(tmp_path, "b")
    left = (
        tmp_path / log_folder.LEADERBOARD_RUN / f".predboard-{os.getpid()}.partial"
    )  # in a container numbers come again
    left.mkdir(parents=True)
    (left / "events").write_bytes(b"half")
    assert write_leaderboard(tmp_path) is not None
    assert not left.exists()


def test_folders_of_others_and_broken_summaries_are_passed_over(tmp_path: Path) -> None:
    log(tmp_path, "a"), log(tmp_path, "b")
    (log(tmp_path, "broken") / "summary.json").write_text("{")
    for name, at, value in (
        ("no-time", "finished", None),
        ("odd-step", "steps", {"x": {}}),
        ("list", "steps", {"1": []}),
    ):
        file = log(tmp_path, name) / "summary.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), at: value}))
    (log(tmp_path, "foreign") / log_folder.RECORD_FILE).unlink()
    (log(tmp_path, "unlisted") / log_folder.RECORD_FILE).write_text(
        json.dumps({"made_from": "x", "files": ["events.x"]})
    )
    (log(tmp_path, "gone") / "summary.json").unlink()
    write_leaderboard(tmp_path)
    assert [row[0] for row in table(tmp_path)[1:]] == ["a", "b"]


def test_runs_of_different_data_are_said_not_to_compare(tmp_path: Path) -> None:
    log(tmp_path, "a"), log(tmp_path, "b")
    write_leaderboard(tmp_path)
    page = "The runs have different images or classes"
    assert page not in shown(tmp_path)["report/ranking"].tensor.string_val[0].decode()
    log(tmp_path, "c", classes=("cat", "dog", "eel"))
    write_leaderboard(tmp_path)
    assert page in shown(tmp_path)["report/ranking"].tensor.string_val[0].decode()


def test_runs_of_which_labels_were_corrected_are_named(tmp_path: Path) -> None:
    for name, corrected in (("a", 7), ("b", 7)):
        log(tmp_path, name, corrected=corrected)
    write_leaderboard(tmp_path)
    assert b"corrected" not in shown(tmp_path)["report/ranking"].tensor.string_val[0]
    log(tmp_path, "c")
    write_leaderboard(tmp_path)
    page = shown(tmp_path)["report/ranking"].tensor.string_val[0].decode().replace("\xa0", " ")
    assert "Labels were corrected for a (7), b (7) and not alike for the others" in page


def test_runs_without_labels_have_a_table_and_no_picture(tmp_path: Path) -> None:
    log(tmp_path, "a", None), log(tmp_path, "b", None)
    write_leaderboard(tmp_path)
    assert set(shown(tmp_path)) == {"report/ranking"}


def test_stage_two_ranks_what_it_wrote_and_a_run_may_not_have_the_rankings_name(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        toy.write_run(tmp_path / name, *toy.table(toy.RUN, 40, seed))
    config = VisualizeConfig((tmp_path / "a",), logdir=tmp_path / "logs", panels=("glance",))
    visualize(config)
    assert not (tmp_path / "logs" / log_folder.LEADERBOARD_RUN).exists()
    visualize(dataclasses.replace(config, predictions=(tmp_path / "b",)))
    assert {row[0] for row in table(tmp_path / "logs")[1:]} == {"a", "b"}
    shutil.rmtree(tmp_path / "logs" / "a")
    visualize(dataclasses.replace(config, predictions=(tmp_path / "b",)))  # unchanged, and the ranking still follows
    assert not (tmp_path / "logs" / log_folder.LEADERBOARD_RUN).exists()
    with pytest.raises(InputError, match="'_all_runs', like the leaderboard of all runs: rename it"):
        visualize(VisualizeConfig((tmp_path / "_all_runs",), logdir=tmp_path / "logs"))


def test_the_landing_page_begins_with_the_ranking_where_there_is_one(tmp_path: Path) -> None:
    log(tmp_path, "a")
    assert "_all_runs" not in landing_page(BoardConfig(logdir=tmp_path))
    log(tmp_path, "b")
    write_leaderboard(tmp_path)
    url = urllib.parse.unquote(landing_page(BoardConfig(logdir=tmp_path)))
    pins = [(pin["runId"], pin["tag"]) for pin in json.loads(re.findall(r"pinnedCards=(.*)", url)[0])]
    assert pins[0] == ("defaultExperimentId/_all_runs", "1_glance/ranking")
    assert sorted(pins[1:]) == [(f"defaultExperimentId/{run}", "1_glance/report_card") for run in "ab"]


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    log(tmp_path, "a"), log(tmp_path, "b")
    (tmp_path / log_folder.LEADERBOARD_RUN).write_text("a file is in the way")
    with pytest.raises(InputError, match="cannot write to"):
        write_leaderboard(tmp_path)


def test_another_process_that_ranks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path, "a"), log(tmp_path, "b")
    write_leaderboard(tmp_path)
    monkeypatch.setattr(leaderboard, "LOCK_TIMEOUT_SECONDS", 0.1)
    with (
        filelock.FileLock(tmp_path / log_folder.LEADERBOARD_RUN / ".lock"),
        pytest.raises(InputError, match=r"another process is writing to .*_all_runs"),
    ):
        write_leaderboard(tmp_path)
    assert os.path.lexists(tmp_path / log_folder.LEADERBOARD_RUN)


@pytest.mark.parametrize("count", [2, 12])
def test_the_picture_has_the_size_of_a_card(count: int, tmp_path: Path) -> None:
    for i in range(count):
        log(tmp_path, f"run {i} {'of a long name ' * 4} 日本", 0.3 + i / 20)
    write_leaderboard(tmp_path)
    width, height, *_ = shown(tmp_path)["1_glance/ranking"].tensor.string_val
    assert (int(width), int(height)) == (WIDTH_PX, HEIGHT_PX)
