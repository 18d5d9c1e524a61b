"""A hundred kills over all commands that write, each at a random moment: nothing is lost, and the next run completes.

Half of them come before a change of a file, so that each place between two renames has its turn, and half at any time.
"""

import dataclasses
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from predboard import open_predictions
from predboard.storage.parts import open_part, verify_part
from predboard.storage.paths import write_file
from tests import killed, toy

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="forks")]
pytest.importorskip("torch", reason="stage one runs PyTorch models")

KILLS = 20
"""For each of the commands."""

ROWS = 24
_NET = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return 9 * x.mean((2, 3))
"""

INFER = ["infer", "--data", "data", "--model", "net.py:Net", "--out", "out/net", "--shard-size", "5", "--device", "cpu"]
PANELS = "glance,metrics,report,classes,confusion,slices,predictions"
COMMANDS = {
    "infer": INFER,
    "import": ["import", "scores.csv", "--scores", "logits", "--out", "out/saved", "--shard-size", "5"],
    "combine": ["combine", "old", "new", "--out", "out/both"],
    "visualize": ["visualize", "new", "--logdir", "logs", "--panels", PANELS, "--cache", "always", "--log-every", "3"],
    "compare": ["compare", "old", "new", "--logdir", "logs"],
    "gate": ["gate", "new", "--rules", "gates.toml", "--junit", "g.xml", "--markdown", "g.md", "--json", "g.json"],
}


def _base(folder: Path) -> None:
    """Everything that the commands read, and logs and reports of other predictions, which they replace."""
    toy.pictures(folder / "data", each=ROWS // 3)
    (folder / "net.py").write_text(_NET)
    (folder / "gates.toml").write_text('[[rule]]\nmetric = "accuracy"\nmin = 0.1\n')
    run = dataclasses.replace(toy.RUN, classes=("a", "b", "c"), root=str(toy.sources(folder / "pictures", ROWS)))
    for name, seed in (("old", 0), ("new", 1)):
        logits, label = toy.table(run, ROWS, seed=seed)
        toy.write_run(folder / name, logits, toy.table(run, ROWS)[1], run, shard_size=5)
    frame = pd.DataFrame(logits, columns=["logit_a", "logit_b", "logit_c"])
    frame.assign(label=np.array(["a", "b", "c"])[label], path=[f"{i}.png" for i in range(ROWS)]).to_csv(
        folder / "scores.csv", index=False
    )


def _finish(arguments: list[str], folder: Path) -> None:
    process = killed.start(arguments, folder)
    process.join(60)
    assert process.exitcode == 0, Path(f"{folder}.output").read_text()


def _files(folder: Path) -> dict[str, bytes]:
    """All files but locks, parts, which hold when and how fast they were made, and what is removed after a minute.

    Records of logs come without the stamps of files, which copies do not share.
    """

    def content(path: Path) -> bytes:
        if path.match("out/*/*/*.parquet"):
            return b""
        if path.name == ".predboard.json":
            record = json.loads(path.read_bytes())
            return json.dumps({key: value for key, value in record.items() if key != "seen"}).encode()
        return path.read_bytes()

    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in paths
        if not path.name.endswith(".lock") and "_preflight" not in path.parts and not path.match(".g.*.tmp")
    }


def _whole_parts(folder: Path, _: dict[str, bytes], __: dict[str, bytes]) -> None:
    for path in folder.glob("out/*/*/part-*.parquet"):
        verify_part(open_part(path))


def _one_state(folder: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """One whole event file is there, and everything beside it is of its state or absent."""
    for logs in (path for path in (folder / "logs").iterdir() if path.is_dir()):
        there = {name: content for name, content in _files(folder).items() if name.startswith(f"logs/{logs.name}/")}
        shown = [name for name in there if "tfevents" in name]
        newest = after if any(name in after and name not in before for name in shown) else before
        assert shown
        for name, content in there.items():
            if not Path(name).name.startswith(".") and "/." not in name:
                assert content in (newest.get(name), (before | after).get(name) if "tfevents" in name else None), name


def _whole_reports(folder: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    for name in ("g.xml", "g.md", "g.json"):
        assert (folder / name).read_bytes() in (before[name], after[name])
        for left in folder.glob(f".{name}.*.tmp"):
            os.utime(left, (0, 0))
    write_file(folder / "g.json", (folder / "g.json").read_bytes())
    assert not list(folder.glob(".g.json.*.tmp"))


CHECKS: dict[str, Callable[[Path, dict[str, bytes], dict[str, bytes]], None]] = {
    "infer": _whole_parts,
    "import": _whole_parts,
    "combine": _whole_parts,
    "visualize": _one_state,
    "compare": _one_state,
    "gate": _whole_reports,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_loses_nothing_and_the_next_run_completes(command: str, tmp_path: Path) -> None:
    chosen, arguments = random.Random(command), COMMANDS[command]
    base, undisturbed = tmp_path / "base", tmp_path / "undisturbed"
    base.mkdir()
    _base(base)
    if command not in ("infer", "import", "combine"):  # of the old predictions under the name of the new ones
        with_old = tmp_path / "place"
        shutil.copytree(base, with_old)
        shutil.rmtree(with_old / "new")
        shutil.copytree(with_old / "old", with_old / "new")
        if command == "compare":
            shutil.rmtree(with_old / "old")
            shutil.copytree(base / "new", with_old / "old")
        _finish(arguments, with_old)
        for name in ("old", "new"):
            shutil.rmtree(with_old / name)
            shutil.copytree(base / name, with_old / name)
        shutil.rmtree(base)
        with_old.rename(base)
    place = tmp_path / "place"
    shutil.copytree(base, place)
    began = time.monotonic()
    _finish(arguments, place)
    seconds = time.monotonic() - began
    changes = int(Path(f"{place}.changes").read_text())
    before, after = _files(base), _files(place)
    place.rename(undisturbed)
    moments = [*range(1, changes + 1)] * (KILLS // changes + 1)
    for kill in range(KILLS):
        shutil.copytree(base, place)
        if kill % 2:
            process = killed.start(arguments, place, kill_at=chosen.choice(moments))
        else:
            process = killed.start(arguments, place)
            process.join(chosen.uniform(0, seconds))
            process.kill()
        process.join(60)
        CHECKS[command](place, before, after)
        _finish(arguments, place)
        assert _files(place) == after, kill
        for made in place.glob("out/*"):
            frames = [open_predictions(folder).to_pandas() for folder in (made, undisturbed / "out" / made.name)]
            pd.testing.assert_frame_equal(*frames)
        shutil.rmtree(place)
