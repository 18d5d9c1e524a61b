"""What a user gets wrong is one line and exit code 2, whichever command finds it."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from predboard.cli import main
from predboard.predictions import footer
from predboard.predictions.schema import FORMAT_VERSION
from predboard.storage.parts import open_part
from predboard.storage.runs import list_part_paths, part_path
from tests import toy
from tests.cli.example import Example, RunCommand, refused


@pytest.mark.parametrize("name", ["infer", "visualize", "inspect", "board"])
def test_no_such_folder(name: str, command: RunCommand, finished: Example, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    arguments = {
        "infer": finished.flags(data=nowhere),
        "visualize": [str(nowhere)],
        "inspect": [str(nowhere)],
        "board": ["--logdir", str(nowhere)],
    }
    refused(command(name, *arguments[name]), f"no folder {nowhere}")


def test_no_images(command: RunCommand, finished: Example, tmp_path: Path) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").write_text("no picture")
    refused(command("infer", *finished.flags(data=tmp_path / "empty")), f"no images in {tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("infer", r"--data DATA and --model MODEL are missing \(see"),
        ("infer --data x", r"--model MODEL is missing \(see"),
        ("import x", r"--scores logits\|probabilities\|log_probabilities\|confidence is missing \(see"),
        ("import x --scores logit", "--scores is 'logit'; expected .*; did you mean logits?"),
        ("import x --scores logits --compile", "no flag --compile"),
        ("visualize", "which predictions"),
        ("visualize x --workers -1", "--workers is -1"),
        ("visualize x --panels glance,nonsense", "no panel 'nonsense'; choose from: .*confusion, "),
        ("visualize x --image-root nowhere", "no folder nowhere: --image-root"),
        ("board --port 70000", "--port is 70000; expected"),
        ("inspect", "which predictions"),
        ("inspect a b", "unexpected 'b'"),
        ("draw", "no command 'draw'; there are: infer, import, visualize, board, rows, inspect, compare, gate"),
        ("infer --config", "--config needs a value: --config FILE.toml"),
    ],
)
def test_a_command_that_cannot_be_meant(arguments: str, words: str, command: RunCommand) -> None:
    refused(command(*arguments.split()), words)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere.py:build", "no model file nowhere.py; expected FILE.py:FACTORY"),
        ("{file}:other", r"has no 'other'; it has: .*build"),
        ("{file}", "expected FILE.py:FACTORY"),
        ("{broken}:build", "does not import: SyntaxError"),
        ("{failing}:build", "failing.py:build raised ZeroDivisionError: division by zero"),
        ("{failing}:wrong", "returned a int; expected a torch.nn.Module"),
    ],
)
def test_a_model_that_is_not_there(
    model: str, words: str, command: RunCommand, finished: Example, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("def build(:\n")
    (tmp_path / "failing.py").write_text("def build():\n    return 1 / 0\n\n\ndef wrong():\n    return 3\n")
    named = model.format(
        file=finished.model.partition(":")[0], broken=tmp_path / "broken.py", failing=tmp_path / "failing.py"
    )
    refused(command("infer", *finished.flags(model=named, out=tmp_path / "out")), words)


def test_class_folders_that_do_not_fit_the_outputs(command: RunCommand, finished: Example, tmp_path: Path) -> None:
    refused(
        command("infer", *finished.flags(out=tmp_path / "out"), "--model-args", "classes=4"),
        r"\(or --classes\) has 3 classes \(a, b, c\), the model gives 4 outputs",
    )
    assert not list(tmp_path.glob("out/step=*"))


def test_a_checkpoint_of_another_model(command: RunCommand, finished: Example, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(5, 3), "tail": torch.zeros(1)}, tmp_path / "other.pt")
    outcome = command("infer", *finished.flags(out=tmp_path / "out", checkpoint=tmp_path / "other.pt"))
    refused(
        outcome, r"other\.pt belongs to another model: missing head\.bias; unknown tail; different shape: head\.weight"
    )


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02}q\x00."])
def test_a_checkpoint_that_is_none(content: bytes, command: RunCommand, finished: Example, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    refused(command("infer", *finished.flags(out=tmp_path / "out", checkpoint=tmp_path / "bad.pt")), r"bad\.pt")
    refused(
        command("infer", *finished.flags(checkpoint=tmp_path / "gone.pt")),
        r"there is no checkpoint .*gone\.pt: \S+ has bad\.pt$",
    )


def test_another_limit_says_how_many_rows_there_were(command: RunCommand, finished: Example, tmp_path: Path) -> None:
    flags = finished.flags(out=tmp_path / "out")
    assert command("infer", *flags, "--limit", "5")[0] == 0
    refused(command("infer", *flags), r"the data changed \(it had 5 rows, now \d+; see --limit\): 1 of 1 parts")


def test_the_version(command: RunCommand) -> None:
    code, out, _ = command("--version")
    assert (code, out) == (0, ["predboard 0.1.0"])


def test_two_checkpoints_of_one_step(command: RunCommand, finished: Example) -> None:
    refused(command("infer", *finished.flags(), "--checkpoint", "a/step3.pt", "b/step3.pt"), "both step 3.*--step")


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--mean", "0.5"], r"transform\.mean"),
        (["--resize", "4x4"], r"transform\.resize"),
        (["--model-args", "classes=3"], r"model_args\.classes"),
        (["--precision", "bf16"], "precision"),
        (["--shard-size", "5"], "shard_size"),
    ],
)
def test_another_model_or_transform_in_a_step_that_is_there(
    flags: list[str], field: str, command: RunCommand, finished: Example
) -> None:
    before = {part: part.read_bytes() for part in list_part_paths(finished.out, 0)}
    outcome = command("infer", *finished.flags(), *flags)
    refused(outcome, f"step 0 was made with another {field} .*--overwrite")
    assert {part: part.read_bytes() for part in list_part_paths(finished.out, 0)} == before


def test_other_weights_in_a_step_that_is_there(command: RunCommand, finished: Example, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(3, 3), "head.bias": torch.zeros(3)}, tmp_path / "step0.pt")
    refused(command("infer", *finished.flags(checkpoint=tmp_path / "step0.pt")), "made with another weights")


@pytest.mark.parametrize("name", ["visualize", "inspect"])
def test_a_folder_that_holds_no_predictions(name: str, command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    refused(command(name, tmp_path / "notes"), f"{tmp_path / 'notes'} contains no predictions")
    (tmp_path / "runs" / "net" / "step=00000001").mkdir(parents=True)
    (tmp_path / "runs" / "net" / "step=00000001" / "part-00000.parquet").touch()
    refused(command(name, tmp_path / "runs"), f"contains 1 run; name one, for example {tmp_path / 'runs' / 'net'}")
    file = tmp_path / "file.parquet"
    file.write_bytes(b"")
    refused(command(name, file), f"{file} is a file: expected a folder")


@pytest.mark.parametrize("name", ["visualize", "inspect", "infer"])
def test_predictions_of_a_newer_format(
    name: str, command: RunCommand, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = FORMAT_VERSION + 1
    with monkeypatch.context() as patch:
        patch.setattr(footer, "FORMAT_VERSION", newer)
        logits, label = toy.table(toy.RUN, 5)
        toy.write_run(example.out, logits, label, dataclasses.replace(toy.RUN, format=newer))
    arguments = example.flags() if name == "infer" else [example.out]
    refused(command(name, *arguments), f"part-00000.parquet has format {newer}.*upgrade predboard")


def test_a_damaged_part_is_named_and_remade(command: RunCommand, example: Example) -> None:
    (part,) = list_part_paths(example.out, 0)
    good = open_part(part).part.content_digest
    part.write_bytes(part.read_bytes()[:-100])
    logs = example.folder / "logs"
    refused(
        command("visualize", example.out, "--logdir", logs),
        r"step=00000000/part-00000\.parquet is damaged .*re-run the command that wrote it",
    )
    assert not list(logs.rglob("*tfevents*"))
    code, _, err = command("infer", *example.flags())
    assert code == 0
    (line,) = (line for line in err if "part-00000.parquet is damaged" in line)
    assert line.endswith("; making it again")
    assert "re-run" not in line
    assert open_part(part).part.content_digest == good
    assert command("visualize", example.out, "--logdir", logs)[0] == 0


def test_an_output_that_cannot_be_written(command: RunCommand, example: Example) -> None:
    file = example.folder / "file"
    file.write_text("in the way")
    refused(command("infer", *example.flags(out=file / "out")), f"cannot write to {file}")
    refused(command("infer", *example.flags(out=file)), f"{file}")
    refused(command("visualize", example.out, "--logdir", file), f"cannot write to {file}")
    refused(command("visualize", example.out, "--logdir", file / "logs"), f"cannot write to {file}")
    assert file.read_text() == "in the way"


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    command: RunCommand, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("predboard.visualization.events.EventWriter.write", full)
    refused(
        command("visualize", example.out, "--logdir", example.folder / "logs"), "cannot write.*No space left on device"
    )
    assert not list((example.folder / "logs").rglob("*tfevents*"))
    assert not list((example.folder / "logs").rglob("*.partial"))


def test_a_message_with_a_line_break_is_one_line(command: RunCommand, tmp_path: Path) -> None:
    code, _, err = command("visualize", tmp_path / "two\nlines")
    assert code == 2
    assert len(err) == 1


def test_in_a_process_of_its_own_there_is_no_traceback(tmp_path: Path) -> None:
    done = toy.predboard("visualize", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == f"predboard: no folder {tmp_path / 'nowhere'}: expected a folder of predictions that "
        f"`{sys.executable} -m predboard infer` wrote\n"
    )


def test_a_part_that_leads_nowhere_is_one_line(command: RunCommand, example: Example) -> None:
    link = part_path(example.out, 0, 9)
    link.symlink_to(example.folder / "gone.parquet")
    for more in ((), ("--workers", 1)):
        refused(command("visualize", example.out, "--logdir", example.folder / "logs", *more), "part-00009.parquet")


def test_a_defect_of_ours_is_not_taken_for_bad_input(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("predboard.visualization.events.EventWriter.write", defect)
    with pytest.raises(ZeroDivisionError):
        main.run(["visualize", str(example.out), "--logdir", str(example.folder / "logs")])


def test_without_a_command_the_commands_are_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "predboard"], capture_output=True, text=True, cwd=toy.ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("infer", "visualize", "board", "inspect"):
        assert re.search(rf"^  predboard {name} +\w", done.stdout, re.MULTILINE)
    headings = re.findall(r"^(\S.*):$", done.stdout, re.MULTILINE)
    assert headings == ["Make predictions", "Look at them", "Judge them", "Make runs of saved runs"]


def test_reading_from_a_pipe_that_closes_early_is_no_error(finished: Example) -> None:
    shell = f"{sys.executable} -m predboard inspect {finished.out} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{", "")
    assert done.returncode == 0


def test_a_line_about_an_endless_value_leaves_its_middle_out(command: RunCommand) -> None:
    _, _, (line,) = command("infer", "--limit", "x" * 70_000)
    assert len(line) < 1_100 and line.startswith("predboard: --limit is 'xxx") and line.endswith("--help)")
