"""Stage one a second time: what is kept, and what is made again."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from predboard import infer, open_predictions
from predboard.errors import InputError
from predboard.storage.runs import part_path
from tests import toy
from tests.inference.nets import (
    count_reads,
    make_config,
    modification_times,
    read_frame,
    save_checkpoints,
)

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_a_second_run_does_nothing(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data")
    config = make_config(tmp_path, net, checkpoint=save_checkpoints(tmp_path, net), shard_size=5)
    first = infer(config)
    before = modification_times(tmp_path / "out")
    reads = count_reads(monkeypatch)
    said: list[str] = []
    second = infer(config, said.append)
    assert modification_times(tmp_path / "out") == before
    assert reads == ["a/000.png"]
    assert (second.written, second.steps, second.complete) == (0, first.steps, True)
    kept = f"9 of 9 parts in {tmp_path / 'out'} exist and are valid"
    assert f"{kept} (names and labels are compared; images are not read again)" in said


def test_another_checkpoint_joins_the_run(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    files = save_checkpoints(tmp_path, net)
    infer(make_config(tmp_path, net, checkpoint=files[:1]))
    before = modification_times(tmp_path / "out")
    outcome = infer(make_config(tmp_path, net, checkpoint=files))
    assert outcome.written == 24
    assert before.items() <= modification_times(tmp_path / "out").items()
    infer(make_config(tmp_path, net, out=tmp_path / "at once", checkpoint=files))
    for step in (1, 2, 10):
        pd.testing.assert_frame_equal(read_frame(tmp_path / "out", step), read_frame(tmp_path / "at once", step))


def test_only_what_is_missing_is_made(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", each=6)
    config = make_config(tmp_path, net, checkpoint=save_checkpoints(tmp_path, net, (1, 2)), shard_size=4, preflight=0)
    infer(config)
    expected = [read_frame(tmp_path / "out", step) for step in (1, 2)]
    for step, index in ((1, 0), (1, 3), (2, 3), (2, 4)):
        part_path(tmp_path / "out", step, index).unlink()
    before = modification_times(tmp_path / "out")
    reads = count_reads(monkeypatch)
    outcome = infer(config)
    assert outcome.written == 4 + 4 + 4 + 2
    refs = expected[0]["image"].tolist()
    assert sorted(reads) == sorted([refs[0], *refs[0:4], *refs[12:18]])  # parts 0, 3 and 4, each picture once
    assert before.items() <= modification_times(tmp_path / "out").items()
    for step, frame in zip((1, 2), expected, strict=True):
        pd.testing.assert_frame_equal(read_frame(tmp_path / "out", step), frame, rtol=1e-5, atol=1e-6)


def test_data_that_grew_at_its_end_continues(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    config = make_config(tmp_path, net, shard_size=5)
    infer(config)
    before = modification_times(tmp_path / "out")
    for i in range(4, 9):
        (data / "c" / f"{i:03d}.png").write_bytes((data / "a" / "001.png").read_bytes())
    outcome = infer(config)
    after = modification_times(tmp_path / "out")
    assert outcome.written == 7
    assert sorted(name for name in after if before.get(name) == after[name]) == sorted(before)[:2]
    infer(make_config(tmp_path, net, out=tmp_path / "fresh", shard_size=5))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "fresh"), rtol=1e-5, atol=1e-6)


def test_data_that_changed_needs_update_which_redoes_only_what_changed(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    config = make_config(tmp_path, net, shard_size=3)
    infer(config)
    before = modification_times(tmp_path / "out")
    (data / "b" / "001.png").rename(data / "b" / "001b.png")  # row 5, the last of part 1
    changed = r"1 of 4 parts of .* step 0 are no longer valid, the first part-00001\.parquet: --update"
    with pytest.raises(InputError, match=changed):
        infer(config)
    assert modification_times(tmp_path / "out") == before
    outcome = infer(dataclasses.replace(config, update=True))
    assert outcome.written == 3
    kept = {name for name, at in modification_times(tmp_path / "out").items() if before[name] == at}
    assert kept == set(before) - {"step=00000000/part-00001.parquet"}
    assert "b/001b.png" in read_frame(tmp_path / "out")["image"].tolist()

    (data / "a" / "000a.png").write_bytes((data / "a" / "000.png").read_bytes())  # which moves every row behind it
    with pytest.raises(InputError, match=r"4 of 4 parts"):
        infer(config)
    infer(dataclasses.replace(config, update=True))
    for name in ("000a", "001", "002", "003"):
        (data / "a" / f"{name}.png").unlink()
    (data / "b" / "000.png").unlink()
    with pytest.raises(InputError, match=r"5 of 5 parts"):
        infer(config)
    outcome = infer(dataclasses.replace(config, update=True))
    assert outcome.complete
    infer(make_config(tmp_path, net, out=tmp_path / "fresh", shard_size=3))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "fresh"), rtol=1e-5, atol=1e-6)
    assert len(modification_times(tmp_path / "out")) == 3


def test_data_that_lost_its_end_needs_update(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    config = make_config(tmp_path, net, shard_size=5)
    infer(config)
    for name in ("001", "002", "003"):
        (data / "c" / f"{name}.png").unlink()
    part_path(tmp_path / "out", 0, 2).write_bytes(b"damaged too")
    with pytest.raises(InputError, match=r"2 of 3 parts of .*part-00001\.parquet: --update"):
        infer(config)
    outcome = infer(dataclasses.replace(config, update=True))
    assert (outcome.complete, outcome.written) == (True, 4)
    assert len(read_frame(tmp_path / "out")) == 9


def test_update_deletes_nothing_when_another_step_is_refused(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    files = save_checkpoints(tmp_path, net, (1, 2))
    infer(make_config(tmp_path, net, checkpoint=files))
    before = modification_times(tmp_path / "out")
    (data / "b" / "001.png").rename(data / "b" / "009.png")
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(InputError, match="step 2 was made with another weights"):
        infer(make_config(tmp_path, net, checkpoint=files, update=True))
    assert modification_times(tmp_path / "out") == before


def test_overwrite_starts_these_steps_again_and_leaves_the_others(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    files = save_checkpoints(tmp_path, net, (1, 2))
    infer(make_config(tmp_path, net, checkpoint=files, shard_size=5))
    before = modification_times(tmp_path / "out")
    infer(make_config(tmp_path, net, checkpoint=files[1:], overwrite=True, mean=(0.5,)))
    after = modification_times(tmp_path / "out")
    assert [name for name in after if name in before and after[name] == before[name]] == [
        name for name in before if name.startswith("step=00000001/")
    ]
    assert len(after) == 3 + 1
    assert open_predictions(tmp_path / "out", 2).run.transform["mean"] == [0.5]
