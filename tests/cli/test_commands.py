"""What the commands print, and their exit codes."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from predboard import panels
from predboard.cli import commands
from predboard.parallel.pool import ProcessPool
from predboard.storage.locks import lock_folder
from predboard.storage.part_plan import Share
from predboard.storage.runs import list_part_paths, part_path, step_folder
from tests import toy
from tests.cli.example import Example, RunCommand


def test_another_process_starts_before_the_imports_where_there_is_much_to_do(
    command: RunCommand, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    start = ProcessPool.start

    def seen(pool: ProcessPool, count: int) -> None:
        begun.append(count)
        start(pool, count)

    monkeypatch.setattr(ProcessPool, "start", seen)
    flags = ["visualize", example.out, "--panels", "glance", "--workers", 2, "--logdir"]
    assert command(*flags, example.folder / "one")[0] == 0
    assert 2 not in begun
    monkeypatch.setattr(
        commands, "PRESTART_BYTES", sum(part.stat().st_size for part in list_part_paths(example.out, 0))
    )
    assert command(*flags, example.folder / "two")[0] == 0
    assert begun.count(2) == 1
    files = [next((example.folder / logs).rglob("*tfevents*")) for logs in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = ["metrics" if word == "glance" else word for word in flags]
    assert command(*again, example.folder / "two")[0] == 0  # there are logs: much of it may be known
    assert begun.count(2) == 1
    monkeypatch.setattr(commands, "PRESTART_BYTES", commands.PRESTART_BYTES + 1)
    assert command(*flags, example.folder / "three")[0] == 0
    assert begun.count(2) == 1


def test_each_command_ends_by_printing_the_next(command: RunCommand, finished: Example, tmp_path: Path) -> None:
    out = tmp_path / "predictions" / "toy"
    code, printed, err = command("infer", *finished.flags(out=out))
    assert code == 0
    assert re.fullmatch(r"step 0: 12 ok, 0 failed, 0 unlabelled, accuracy [01]\.\d{4}", printed[0])
    assert printed[1:] == [f"predictions are in {out}", f"next: predboard visualize {out}"]
    assert err[0] == f"12 images, 3 classes, in {finished.data}"
    code, printed, _ = command("visualize", out, "--logdir", tmp_path / "logs")
    assert code == 0
    assert re.fullmatch(rf"toy: 12 rows, 1 step -> {tmp_path}/logs/toy/events\.out\.\S+ \(\d\.\d MB\)", printed[0])
    assert printed[1:] == [f"next: predboard board --logdir {tmp_path / 'logs'}"]
    _, printed, _ = command("visualize", out, "--logdir", tmp_path / "logs")
    assert printed[0].startswith("toy: nothing changed since the last time, kept ")
    assert printed[-1].startswith("next: predboard board")
    assert command("inspect", out)[1][-1] == f"next: predboard visualize {out}"
    odd = tmp_path / "predictions" / "run #1 (old)"
    shutil.copytree(out, odd)
    assert command("inspect", odd)[1][-1] == f"next: predboard visualize '{odd}'"  # as a shell takes it


def test_the_panels_are_listed_with_a_line_each(command: RunCommand) -> None:
    code, out, err = command("visualize", "--list")
    assert (code, err) == (0, [])
    between = out.index("")
    assert [line.split()[0] for line in out[:between]] == list(panels.names())
    assert "several labels" in out[between + 1]
    assert [line.split()[0] for line in out[between + 2 :]] == list(panels.names("multi-label"))
    assert all(len(line.split()) > 3 for line in (*out[:between], *out[between + 2 :]))


def test_missing_rows_and_pictures_are_warned_of(command: RunCommand, tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "run", logits, label, shard_size=10)
    part_path(tmp_path / "run", 0, 2).unlink()
    code, _, err = command("visualize", tmp_path / "run", "--logdir", tmp_path / "logs", "--panels", "mistakes")
    assert code == 0
    assert (
        "warning: run is missing 10 rows, possibly whole classes, because rows are stored in the order of the data: "
        "run the command that wrote it again"
    ) in err
    assert re.search(r"warning: \d+ source images of run were not found: --image-root", "\n".join(err))


def test_a_step_without_a_part_is_warned_of_unless_a_process_is_making_it(command: RunCommand, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        logits, label = toy.table(toy.RUN, 30, seed=step)
        toy.write_run(run, logits, label, dataclasses.replace(toy.RUN, step=step), shard_size=30)
    rules = tmp_path / "rules.toml"
    rules.write_text("[[rule]]\nmetric = 'accuracy'\nmin = 0\n")
    visualized = ("visualize", run, "--logdir", tmp_path / "logs", "--panels", "mistakes")
    gated = ("gate", run, "--rules", rules)
    compared = ("compare", run, "--logdir", tmp_path / "logs", "--step-old", "1")
    assert command(*visualized)[0] == 0
    step_folder(run, 12).mkdir()
    warning = (
        f"warning: {run}: step=00000012 holds no part, so this step is left out: run the command that wrote it again, "
        "or delete the folder"
    )

    for _ in range(2):  # also where the logs are up to date
        code, _, err = command(*visualized)
        assert (code, err.count(warning)) == (0, 1)
    code, _, err = command(*compared)
    assert (code, err.count(warning)) == (0, 1)
    code, out, err = command(*gated)
    assert (code, err.count(warning)) == (1, 1)
    assert "step 12 is the last and holds no part" in "\n".join(out)
    assert command(*gated, "--allow-incomplete")[0] == command(*gated, "--step", "2")[0] == 0
    code, out, _ = command("inspect", run)
    assert code == 1
    assert any(line.startswith("run: step=00000012 holds no part") for line in out)
    assert json.loads("\n".join(command("inspect", run, "--json")[1]))["empty_steps"] == [12]

    unfinished = step_folder(run, 12) / ".part-00000.parquet.0123abcd.tmp"
    unfinished.touch()
    assert (command("inspect", run)[0], command(*gated)[0]) == (0, 0)
    unfinished.unlink()
    with lock_folder(run, share=Share(1, 2)):
        assert command("inspect", run)[0] == 0
    assert command("inspect", run)[0] == 1


def test_images_that_fail_are_a_warning_and_with_strict_an_exit_code(
    command: RunCommand, finished: Example, tmp_path: Path
) -> None:
    data = toy.pictures(tmp_path / "data")
    (data / "b" / "001.png").write_bytes(b"no picture")
    flags = finished.flags(data=data, out=tmp_path / "out")
    for strict, expected in ((["--strict"], 1), ([], 0), (["--strict"], 1)):
        code, out, err = command("infer", *flags, *strict)
        assert code == expected
        assert out[0].startswith("step 0: 11 ok, 1 failed")
        assert out[-1].startswith("next: predboard visualize")
        words = (
            "warning: 1 of 12 images failed; the column `error` has the reasons, most often 'UnidentifiedImageError: "
        )
        assert any(line.startswith(words) and line.endswith("(1 row)") for line in err)
        assert any("--retry-errors tries these again" in line for line in err)


def test_a_step_without_any_prediction_is_no_success(command: RunCommand, tmp_path: Path) -> None:
    """As of a model whose training diverged: every image has its row, and none of them a prediction."""
    (tmp_path / "net.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.mean((2, 3)) * float('nan')\n"
    )
    data, out = toy.pictures(tmp_path / "data"), tmp_path / "out"
    for more in (["--preflight", "0"], []):
        code, printed, err = command(
            "infer", "--data", data, "--model", f"{tmp_path / 'net.py'}:Net", "--out", out, "--device", "cpu", *more
        )
        assert code == 1
        assert err[-1] == "predboard: no image has a prediction in step 0"
        assert printed[0].startswith("step 0: 0 ok, 12 failed")


def test_an_import_without_labels_says_how_to_give_them(command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("prob_a,prob_b,label\n0.2,0.8,b\n")
    (tmp_path / "bare.csv").write_text("prob_a,prob_b\n0.2,0.8\n")
    for name, hints in (("scores", 0), ("bare", 1)):
        code, _, err = command(
            "import", tmp_path / f"{name}.csv", "--scores", "probabilities", "--out", tmp_path / name
        )
        assert code == 0
        assert sum("no row has a label" in line and "--labels" in line for line in err) == hints


def test_the_whole_way_by_configuration_files(
    command: RunCommand, finished: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("infer.toml").write_text(
        f"data = {str(finished.data)!r}\nmodel = {finished.model!r}\nmodel_args = {{classes = 3}}\n"
    )
    code, out, _ = command("infer", "--config", "infer.toml")
    assert code == 0
    assert out[-1] == "next: predboard visualize predictions/data-toy_model-build"
    code, out, _ = command(*out[-1].removeprefix("next: predboard ").split())
    assert code == 0
    assert out[-1] == "next: predboard board --logdir logs"
    assert len(list(Path("logs/data-toy_model-build").glob("events*"))) == 1
