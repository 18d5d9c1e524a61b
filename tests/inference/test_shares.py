"""Several jobs beside each other make one run, each its share."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predboard import InferConfig, infer
from predboard.cli import main
from predboard.cli.parser import parse
from predboard.errors import InputError
from predboard.gating.gate import open_one_step
from predboard.storage.inspection import inspect
from predboard.storage.part_plan import Share, Task, plan_parts, plan_tasks
from predboard.storage.runs import open_run, open_step, part_path
from tests.inference.nets import read_frame
from tests.inference.worker_runs import hidden_files, worker_config, worker_flags

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


@given(st.integers(1, 40), st.integers(1, 9))
def test_shares_hold_each_part_once(parts: int, of: int) -> None:
    for index in range(parts):
        assert sum(Share(k, of).holds(index) for k in range(1, of + 1)) == 1


def test_tasks_have_each_row_of_each_step_once() -> None:
    shards = plan_parts(20, 6)
    lacking: dict[int, dict[Any, Any]] = {
        1: {s: s.ids for s in shards},
        2: {shards[1]: shards[1].ids, shards[3]: (18,)},
        5: {shards[3]: (18,)},
        9: {},
    }
    for together in (1, 2, 3):
        found = plan_tasks(lacking, together)
        rows = sorted((step, row) for task in found for step in task.steps for row in task.ids)
        assert rows == sorted((step, row) for step, of in lacking.items() for ids in of.values() for row in ids)
        assert sum(task.rows for task in found) == len(rows)
        assert all(set(task.steps) <= set(task.loaded_steps) and len(task.loaded_steps) <= together for task in found)
    assert Task(shards[3], (2, 5), (1, 2, 5), (18,)) in plan_tasks(lacking, 3)


# --- several jobs ---


def test_shares_that_run_side_by_side_make_the_whole_run(place: Path) -> None:
    state = {"head.weight": torch.eye(3), "head.bias": torch.zeros(3)}  # torch's random numbers are not a thread's own
    torch.save(state, place / "net.pt")
    options: dict[str, Any] = {"checkpoint": (place / "net.pt",)}
    infer(worker_config(place, out=place / "alone", **options))
    outcomes: dict[int, Any] = {}

    def job(k: int) -> None:
        outcomes[k] = infer(worker_config(place, part=(k, 3), **options))

    jobs = [threading.Thread(target=job, args=[k]) for k in (1, 2, 3)]
    with torch.backends.cudnn.flags():  # no thread has its own: who ends last would leave those of another
        for thread in jobs:
            thread.start()
        for thread in jobs:
            thread.join()
    assert [outcomes[k].rows for k in (1, 2, 3)] == [16, 16, 13]  # parts 0 and 3, 1 and 4, 2 and 5
    assert all(outcome.complete and outcome.written == outcome.rows for outcome in outcomes.values())
    assert inspect(place / "out").complete
    pd.testing.assert_frame_equal(read_frame(place / "out"), read_frame(place / "alone"), rtol=1e-5, atol=1e-6)
    assert hidden_files(place / "out") == []
    assert infer(worker_config(place, **options)).written == 0


def test_one_share_ends_with_exit_code_0_and_inspect_reports_the_whole(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["infer", *worker_flags(place), "--part", "2/3"]) == 0
    assert "share 2/3 is done: it has 16 of 45 rows" in capsys.readouterr().out
    assert main.run(["inspect", str(place / "out")]) == 1
    whole = capsys.readouterr().out
    assert "step 0 lacks rows 0 to 7" in whole and "step 0 lacks rows 40 to 44" in whole
    step = open_step(place / "out", 0)
    assert step is not None and step.missing == ((0, 8), (16, 32), (40, 45))
    assert main.run(["infer", *worker_flags(place)]) == 0
    assert "2 of 6 parts" in capsys.readouterr().err


def test_a_damaged_part_of_another_share_is_left_alone(place: Path) -> None:
    infer(worker_config(place))
    for index in (0, 1):
        part_path(place / "out", 0, index).write_bytes(b"damaged")
    outcome = infer(worker_config(place, part=(1, 2)))
    assert (outcome.complete, outcome.written) == (True, 8)
    assert not inspect(place / "out").complete
    assert infer(worker_config(place)).written == 8


def test_a_share_of_no_parts_is_done_at_once(place: Path) -> None:
    outcome = infer(worker_config(place, part=(8, 8)))
    assert (outcome.complete, outcome.rows, outcome.written, outcome.failed) == (True, 0, 0, 0)


def test_update_of_a_share_redoes_its_own_parts_alone(place: Path) -> None:
    infer(worker_config(place))
    for name in ("a/003", "a/010"):  # in parts 0 and 1
        (place / "data" / f"{name}.png").rename(place / "data" / f"{name}b.png")
    with pytest.raises(InputError, match=r"1 of 6 parts .*part-00000\.parquet: --update"):
        infer(worker_config(place, part=(1, 2)))
    assert infer(worker_config(place, part=(1, 2), update=True)).written == 8
    assert infer(worker_config(place, part=(2, 2), update=True)).written == 8
    assert infer(worker_config(place)).written == 0


def test_a_share_of_the_same_pictures_in_another_order_is_refused(place: Path) -> None:
    """Its parts would have some pictures twice and lack others."""
    files = sorted(file.relative_to(place).as_posix() for file in (place / "data").rglob("*.png"))
    for name, order in (("one", files), ("two", files[::-1])):
        (place / f"{name}.csv").write_text("image\n" + "".join(f"{file}\n" for file in order))
    infer(worker_config(place, data=str(place / "one.csv"), part=(1, 2)))
    with pytest.raises(InputError, match=r"part-00000.parquet, of another share, is of other data or of another order"):
        infer(worker_config(place, data=str(place / "two.csv"), part=(2, 2)))
    assert not list(place.rglob("part-00001.parquet"))


def test_a_copied_part_of_the_list_in_another_order_is_refused_by_stage_two(place: Path) -> None:
    """Without the digest of the whole list, six of the pictures would count twice and others not at all."""
    files = sorted(file.relative_to(place).as_posix() for file in (place / "data").rglob("*.png"))
    for name, order in (("one", files), ("two", files[::-1])):
        (place / f"{name}.csv").write_text("image\n" + "".join(f"{file}\n" for file in order))
        infer(worker_config(place, data=str(place / f"{name}.csv"), out=place / name))
    foreign = part_path(place / "two", 0, 1).read_bytes()
    part_path(place / "one", 0, 1).write_bytes(foreign)
    message = r"step=00000000/part-00001.parquet is not of the list of most others: delete parts that do not belong"
    with pytest.raises(InputError, match=message):
        open_run(place / "one")
    with pytest.raises(InputError, match=message):  # which opens this step alone
        open_one_step(place / "one", 0, "--step", print)
    part_path(place / "one", 0, 1).unlink()
    infer(worker_config(place, data=str(place / "one.csv"), out=place / "one"))
    assert len(open_run(place / "one")[0].parts) == 6


def test_lists_that_grow_or_are_updated_are_read_whatever_their_parts_record(place: Path) -> None:
    lines = ["image", *sorted(file.relative_to(place).as_posix() for file in (place / "data").rglob("*.png"))]
    listed = place / "list.csv"
    config = worker_config(place, data=str(listed))

    def records() -> list[str]:
        return [file.part.provenance["list_digest"] for file in open_run(place / "out")[0].parts]

    listed.write_text("\n".join(lines[:20]))  # 19 rows: parts of 8, 8 and 3
    infer(config)
    assert len(set(records())) == 1
    listed.write_text("\n".join(lines[:31]))
    infer(config)
    first, second, *rest = records()
    assert first == second
    assert rest == [rest[0]] * 2
    assert first != rest[0]
    listed.write_text("\n".join([lines[0], *lines[40:42], *lines[3:31]]))  # in part 0 alone
    infer(dataclasses.replace(config, update=True))
    assert len(set(records())) == 3
    listed.write_text("\n".join([lines[0], *lines[42:44], *lines[3:9], *lines[40:42], *lines[11:31]]))  # parts 0 and 1
    infer(dataclasses.replace(config, update=True, part=(1, 2)))
    with pytest.raises(InputError, match="parts of different lists"):
        open_run(place / "out")  # share 2 has the old list still
    infer(dataclasses.replace(config, update=True, part=(2, 2)))
    assert len(records()) == 4


def test_a_share_of_another_model_is_refused_even_if_it_has_no_parts_yet(place: Path) -> None:
    infer(worker_config(place, part=(1, 2)))
    with pytest.raises(InputError, match=r"step 0 was made with another transform\.mean \(\[0\.0\], now \[0\.5\]\)"):
        infer(worker_config(place, part=(2, 2), mean=(0.5,)))


@pytest.mark.parametrize(("written", "found"), [("3/8", (3, 8)), ("1/1", (1, 1))])
def test_a_share_is_written_as_a_fraction(written: str, found: tuple[int, int]) -> None:
    flags = ["--data", "d", "--model", "m.py:f", "--part", written]
    assert parse("infer", InferConfig, flags).part == found
    assert parse("infer", InferConfig, flags[:-2]).part is None


@pytest.mark.parametrize("written", ["3", "3/", "a/b", "3-8", "3/8/2"])
def test_a_share_that_is_no_fraction_is_one_line(written: str) -> None:
    with pytest.raises(InputError, match=f"--part is '{written}'; expected K/N, such as 1/8") as raised:
        parse("infer", InferConfig, ["--data", "d", "--model", "m.py:f", "--part", written])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("part", "words"), [((0, 8), "0/8"), ((9, 8), "9/8"), ((1, 0), "1/0")])
def test_impossible_shares_are_one_line(part: tuple[int, int], words: str) -> None:
    with pytest.raises(InputError, match=f"--part is {words}; expected K/N with K from 1 to N"):
        InferConfig("d", "m.py:f", part=part)


def test_overwriting_a_share_is_refused() -> None:
    with pytest.raises(InputError, match="--overwrite with --part would delete what the other jobs wrote"):
        InferConfig("d", "m.py:f", part=(1, 2), overwrite=True)
