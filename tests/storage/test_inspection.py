"""What `inspect` finds in a folder of predictions: counts, gaps, damage."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from predboard.cli import main
from predboard.errors import InputError
from predboard.predictions.schema import Part, Run
from predboard.storage.inspection import Inspection, _rows_per_second, inspect
from predboard.storage.runs import list_part_paths, part_path
from tests import toy

RUN = Run(
    classes=("cat", "dog", "eel"),
    model="net.py:build",
    model_args={"depth": 20},
    transform={"resize": 32},
    root="photos",
    precision="bf16",
)
LABEL = np.array([0, 1, 2, 0, -1, 1, 2, 0, 1, -1])
SAID = np.array([0, 1, 0, 0, 1, 1, 2, 1, 1, 2])
FAILED = frozenset({6, 9})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two steps of ten rows in parts of four; in the second all are taken for cats."""
    folder = tmp_path / "predictions" / "toy"
    for step, said in ((3, SAID), (12, SAID * 0)):
        logits = np.eye(3, dtype=np.float32)[said]
        toy.write_run(folder, logits, LABEL, dataclasses.replace(RUN, step=step), shard_size=4, failed=FAILED)
    return folder


def spoil(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-50])


def test_a_whole_run_is_counted(run: Path) -> None:
    found = inspect(run)
    assert found.complete
    facts = found.facts
    assert facts["run"] == "toy"
    assert facts["format"] == 1
    assert (facts["model"], facts["model_args"], facts["root"]) == ("net.py:build", {"depth": 20}, "photos")
    assert facts["classes"] == ["cat", "dog", "eel"]
    assert (facts["transform"], facts["precision"]) == ({"resize": 32}, "bf16")
    assert facts["files"] == 6
    assert facts["bytes"] == sum(p.stat().st_size for p in run.rglob("*.parquet"))
    assert facts["damaged"] == {}
    assert facts["rows_per_second"] == round(20 / 60, 1)  # all parts were made in the same minute
    first, second = facts["steps"]
    assert (first["step"], second["step"]) == (3, 12)
    for step in (first, second):
        assert (step["rows"], step["manifest_rows"], step["missing_rows"], step["missing"]) == (10, 10, 0, [])
        assert (step["failed"], step["unlabelled"], step["parts"]) == (2, 2, 3)
        assert step["rows_per_second"] == round(10 / 180, 1)  # three parts of a minute
    # Labelled and not failed: rows 0 to 3, 5, 7, 8; of these 2 and 7 are wrong, and 0, 3 and 7 are cats.
    assert first["accuracy"] == pytest.approx(5 / 7)
    assert second["accuracy"] == pytest.approx(3 / 7)


def test_rows_that_are_missing_are_named(run: Path) -> None:
    part_path(run, 3, 1).unlink()
    part_path(run, 12, 2).unlink()
    found = inspect(run)
    assert not found.complete
    assert [(step["rows"], step["missing"]) for step in found.facts["steps"]] == [(6, [[4, 8]]), (8, [[8, 10]])]
    assert "step 3 lacks rows 4 to 7" in found.lines()
    assert "step 12 lacks rows 8 to 9" in found.lines()


def test_a_damaged_part_is_a_finding_and_not_counted(run: Path) -> None:
    spoil(part_path(run, 3, 0))
    found = inspect(run)
    assert not found.complete
    assert list(found.facts["damaged"]) == ["step=00000003/part-00000.parquet"]
    first, second = found.facts["steps"]
    assert (first["rows"], first["missing_rows"], first["missing"]) == (6, 4, [[0, 4]])
    assert second["missing_rows"] == 0
    assert any(line.startswith("damaged: step=00000003/part-00000.parquet is damaged") for line in found.lines())


@pytest.mark.parametrize("column", ["logits.list.element", "label", "entropy", "digest"])
def test_a_turned_bit_in_any_column_is_found(column: str, run: Path) -> None:
    toy.spoil(part_path(run, 12, 1), column)
    found = inspect(run)
    assert list(found.facts["damaged"]) == ["step=00000012/part-00001.parquet"]
    assert found.facts["steps"][1]["missing"] == [[4, 8]]


def test_a_step_of_damaged_parts_alone_is_not_whole(run: Path) -> None:
    for part in list_part_paths(run, 12):
        spoil(part)
    found = inspect(run)
    assert [step["step"] for step in found.facts["steps"]] == [3]
    assert len(found.facts["damaged"]) == 3
    assert not found.complete


def test_a_run_of_damaged_parts_alone_is_one_line(run: Path) -> None:
    for step in (3, 12):
        for part in list_part_paths(run, step):
            spoil(part)
    with pytest.raises(InputError, match=r"contains only damaged parts: step=00000003/part-00000\.parquet is damaged"):
        inspect(run)


def test_without_labels_there_is_no_accuracy(tmp_path: Path) -> None:
    toy.write_run(tmp_path / "run", np.zeros((5, 3), np.float32), np.full(5, -1), RUN)
    found = inspect(tmp_path / "run")
    (step,) = found.facts["steps"]
    assert step["accuracy"] is None
    assert step["unlabelled"] == 5
    assert found.complete


def test_a_person_reads_a_line_for_each_step(run: Path) -> None:
    lines = inspect(run).lines()
    assert lines[0] == "toy: net.py:build, 3 classes (cat, dog, eel)"
    assert lines[1] == "data photos"
    assert lines[2].startswith("6 parts, 0.")
    rows = [line.split() for line in lines[5:7]]
    assert [row[:6] for row in rows] == [["3", "10", "0", "2", "2", "0.7143"], ["12", "10", "0", "2", "2", "0.4286"]]
    heads = lines[4].split()
    assert heads[:4] == ["step", "rows", "missing", "failed"]


def test_json_is_what_a_program_reads(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["inspect", str(run), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == inspect(run).facts
    assert said.err == ""


def test_the_exit_code_says_whether_it_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["inspect", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: predboard visualize {run}"
    part_path(run, 3, 1).unlink()
    assert main.run(["inspect", str(run)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("incomplete: run the command that wrote it again")
    assert main.run(["inspect", str(run), "--json"]) == 1


def test_inspecting_changes_nothing(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    inspect(run)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_what_is_one_is_not_said_in_the_plural(tmp_path: Path) -> None:
    one = dataclasses.replace(RUN, classes=("cat",))
    toy.write_run(tmp_path / "one", np.zeros((1, 1), np.float32), LABEL[:1] * 0, one)
    lines = inspect(tmp_path / "one").lines()
    assert lines[0].endswith(": net.py:build, 1 class (cat)")
    assert lines[2].startswith("1 part, ")


def test_rows_a_second_are_of_the_time_in_which_any_part_was_being_made(run: Path) -> None:
    def part(rows: int, started: float, finished: float) -> Part:
        return Part(0, rows, "", rows, "", started=started, finished=finished)

    # 0 to 10 twice, 8 to 14, then nothing until 100 to 106: 20 seconds.
    parts = [part(100, 100, 106), part(100, 0, 10), part(100, 8, 14), part(100, 0, 10), part(100, 2, 3)]
    assert _rows_per_second(parts) == 25
    assert _rows_per_second([part(5, 0, 0)]) is None
    facts = inspect(run).facts
    facts["steps"][0]["seconds"] = {"wait": 9.0, "transfer": 0.0, "forward": 1.0, "write": 0.0}
    assert any(line.startswith("0 rows/s, all steps together: waiting") for line in Inspection(facts).lines())
