"""What goes wrong from outside while stage one runs: nothing that was published is lost, and the next run completes."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import InferConfig, infer, open_predictions
from pipeline.errors import InputError
from tests import toy

pytest.importorskip("torch", reason="stage one runs PyTorch models")


def _list(folder: Path, rows: int = 12) -> tuple[Path, list[Path]]:
    """A list of pictures without labels. -> the list, the pictures."""
    data = toy.sources(folder / "pictures", rows)
    files = sorted(data.iterdir())
    (folder / "list.csv").write_text("path\n" + "".join(f"pictures/{file.name}\n" for file in files))
    return folder / "list.csv", files


def _config(folder: Path, data: Path, **options: Any) -> InferConfig:
    return InferConfig(**{"data": str(data), "model": toy.model_file(folder), "out": folder / "out", **options})


def _frame(out: Path) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out).to_pandas()
    return frame


# --- data that hangs or vanishes ---


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that hangs is a FIFO")
@pytest.mark.parametrize("hanging", [(0,), (5, 6), (3, 11)])
def test_a_file_that_hangs_is_a_row_with_an_error_and_its_neighbours_are_right(
    tmp_path: Path, hanging: tuple[int, ...]
) -> None:
    listed, files = _list(tmp_path)
    infer(_config(tmp_path, listed, out=tmp_path / "whole"))
    for i in hanging:
        files[i].unlink()
        os.mkfifo(files[i])
    outcome = infer(_config(tmp_path, listed, timeout=0.2, workers=2, batch_size=4))
    for i in hanging:
        os.close(os.open(files[i], os.O_WRONLY))  # lets the threads go that wait for a writer
    assert (outcome.complete, outcome.failed) == (True, len(hanging))
    found, whole = _frame(tmp_path / "out"), _frame(tmp_path / "whole")
    assert found.index[found["error"].notna()].tolist() == list(hanging)
    assert set(found["error"].dropna()) == {"TimeoutError: not read within 0.2 seconds"}
    good = found[found["error"].isna()]
    pd.testing.assert_frame_equal(good, whole.loc[good.index], rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that hangs is a FIFO")
def test_a_thread_that_hangs_does_not_keep_the_command_from_ending(tmp_path: Path) -> None:
    listed, files = _list(tmp_path)
    files[4].unlink()
    os.mkfifo(files[4])
    flags: list[str | Path] = ["--data", listed, "--model", toy.model_file(tmp_path), "--out", tmp_path / "out"]
    done = toy.predboard("infer", *flags, "--timeout", "0.2", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "11 ok, 1 failed" in done.stdout


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_timeout_that_cannot_be_is_one_line(timeout: float) -> None:
    with pytest.raises(InputError, match=r"--timeout is .*; expected seconds, more than 0 and at most 1,000,000"):
        InferConfig("d", "m.py:f", timeout=timeout)


def test_a_file_that_vanishes_half_way_is_a_row_with_an_error(tmp_path: Path) -> None:
    listed, files = _list(tmp_path)

    def say(line: str) -> None:
        if line.startswith("model "):  # the list is read, the pictures are not
            files[7].unlink()

    outcome = infer(_config(tmp_path, listed), say)
    assert (outcome.complete, outcome.failed) == (True, 1)
    assert _frame(tmp_path / "out")["error"][7] == "FileNotFoundError: No such file or directory"
