"""The command line: one line and 2 for whatever a user gets wrong, configuration files, and what is printed."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from predboard import config, panels
from predboard.cli import main
from predboard.config import BoardConfig, InferConfig, InspectConfig, VisualizeConfig
from predboard.errors import InputError
from predboard.parallel.pool import ProcessPool
from predboard.predictions import schema
from predboard.predictions.schema import FORMAT_VERSION
from predboard.storage.parts import open_part
from predboard.storage.runs import list_part_paths, part_path

from tests import toy

Outcome = tuple[int, list[str], list[str]]
"""Exit code, lines of stdout, lines of stderr."""

PROGRESS = re.compile(r"[\d,]+ images, |preprocessing: |model toy_model|\S+: [\d,]+ rows in |\d+ of \d+ parts in ")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process."""

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = main.run(list(map(str, arguments)))
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return call


def refused(outcome: Outcome, words: str) -> None:
    """Exit code 2 and one line with these words, after progress at most."""
    code, out, err = outcome
    assert code == 2, (out, err)
    assert out == []
    *progress, line = err
    assert line.startswith("predboard: ")
    assert re.search(words, line), line
    assert all(PROGRESS.match(said) for said in progress), progress


@dataclasses.dataclass(frozen=True)
class Place:
    """Pictures of three classes, a model for them, and predictions that were made with it."""

    folder: Path
    data: Path
    model: str
    out: Path

    def flags(self, **more: Any) -> list[str]:
        """Of `infer`."""
        given: dict[str, Any] = {"data": self.data, "model": self.model, "out": self.out, **more}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One that no test may change."""
    folder = tmp_path_factory.mktemp("place")
    place = Place(folder, toy.pictures(folder / "data"), toy.model_file(folder), folder / "predictions" / "toy")
    assert main.run(["infer", *place.flags()]) == 0
    return place


@pytest.fixture
def place(kept: Place, tmp_path: Path) -> Place:
    """One whose predictions a test may change."""
    out = tmp_path / "predictions" / "toy"
    for part in list_part_paths(kept.out, 0):
        copy = part_path(out, 0, 0).with_name(part.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(part.read_bytes())
    return dataclasses.replace(kept, folder=tmp_path, out=out)


# What a user gets wrong


@pytest.mark.parametrize("name", ["infer", "visualize", "inspect", "board"])
def test_no_such_folder(name: str, command: Callable[..., Outcome], kept: Place, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    arguments = {
        "infer": kept.flags(data=nowhere),
        "visualize": [str(nowhere)],
        "inspect": [str(nowhere)],
        "board": ["--logdir", str(nowhere)],
    }
    refused(command(name, *arguments[name]), f"no folder {nowhere}")


def test_no_images(command: Callable[..., Outcome], kept: Place, tmp_path: Path) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").write_text("no picture")
    refused(command("infer", *kept.flags(data=tmp_path / "empty")), f"no images in {tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch-size 0", "--batch-size is 0; expected a whole number of at least 1"),
        ("--batch-size many", "--batch-size is 'many'; expected INT"),
        ("--workers -1", "--workers is -1"),
        ("--shard-size 0", "--shard-size is 0"),
        ("--limit 0", "--limit is 0"),
        ("--limit few", "--limit is 'few'; expected INT"),
        ("--crop abc", r"--crop is 'abc'; expected N\|none"),
        ("--crop 0", "--crop is 0"),
        ("--resize 0", "--resize is 0"),
        ("--resize 3x0", "--resize is 0"),
        ("--resize 3x", "--resize.*'3x' is neither N nor HxW"),
        ("--mean 0,0", "--mean has 2 numbers; expected 1 or 3 for rgb"),
        ("--mean a,0.5", "--mean: 'a,0.5' is not numbers joined by commas"),
        (
            "--mean .3 .4 .5",
            r"Unrecognized options: \.4, \.5; .*joined by commas without spaces, such as --mean 0\.485,",
        ),
        ("--mean nan", "--mean is nan"),
        ("--std 0", "--std is 0.0; expected numbers above 0"),
        ("--std 1,-1,1", r"--std is 1\.0,-1\.0,1\.0; expected"),
        ("--std 1,1,1 --channels gray", "--std has 3 numbers; expected 1 or 1 for gray"),
        ("--precision fp8", r"fp8.*--precision.*'fp32', 'bf16', 'fp16'"),
        ("--interpolation best", "best.*--interpolation"),
        ("--step 1 2", "--step has 2 numbers for 0 checkpoints"),
        ("--step -1", "--step is -1"),
        ("--model-args depth", "--model-args.*'depth' is not KEY=VALUE"),
        ("--model-args a={1,2}", "--model-args a is "),
        ("--update --overwrite", "--update and --overwrite exclude each other"),
        ("--thumbnails -1", "--thumbnails is -1"),
        ("--nonsense", r"Unrecognized options: --nonsense \(see"),
        ("--reszie 64", r"Unrecognized options: --reszie, 64; perhaps --resize\? \(see"),
        ("stray", "Unrecognized.*stray"),
        ("--device abacus", "--device is 'abacus'; expected auto, cpu"),
        ("--device cuda:99", "--device is cuda:99, which this machine does not have"),
    ],
)
def test_an_impossible_flag_value(flags: str, words: str, command: Callable[..., Outcome], kept: Place) -> None:
    refused(command("infer", *kept.flags(), *flags.split()), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("infer", r"--data and --model are missing \(see"),
        ("infer --data x", r"--model is missing \(see"),
        ("import x", r"--scores \{logits,probabilities,log_probabilities\} is missing \(see"),
        ("import x --scores logit", "invalid choice 'logit' for argument '--scores'. Expected one of"),
        ("import x --scores logits --compile", "Unrecognized options: --compile"),
        ("visualize", "which predictions"),
        ("visualize x --workers -1", "--workers is -1"),
        ("visualize x --panels glance,nonsense", "no panel 'nonsense'; there are: .*confusion, "),
        ("visualize x --image-root nowhere", "no folder nowhere: --image-root"),
        ("board --port 70000", "--port is 70000; expected"),
        ("inspect", "which predictions"),
        ("inspect a b", "Unrecognized.*b"),
        ("draw", "no command 'draw'; there are: infer, import, visualize, compare, board, inspect"),
        ("infer --config", "--config names no file"),
    ],
)
def test_a_command_that_cannot_be_meant(arguments: str, words: str, command: Callable[..., Outcome]) -> None:
    refused(command(*arguments.split()), words)


def test_a_config_check_is_said_in_its_own_words_however_narrow_the_terminal(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    numbers = ",".join(["0.25"] * 40)
    _, _, err = command("infer", "--data", "x", "--model", "y", "--std", f"-1,{numbers[:99]}")
    assert err == ["predboard: --std has 21 numbers; expected 1 or 3 for rgb (see predboard infer --help)"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere.py:build", "no model file nowhere.py; expected FILE.py:FACTORY"),
        ("{file}:other", r"has no 'other'; it has: .*build"),
        ("{file}", "expected FILE.py:FACTORY"),
        ("{broken}:build", "does not import: SyntaxError"),
        ("{failing}:build", "failing.py:build raised ZeroDivisionError: division by zero"),
        ("{failing}:wrong", "gave a int; expected a torch.nn.Module"),
    ],
)
def test_a_model_that_is_not_there(
    model: str, words: str, command: Callable[..., Outcome], kept: Place, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("def build(:\n")
    (tmp_path / "failing.py").write_text("def build():\n    return 1 / 0\n\n\ndef wrong():\n    return 3\n")
    named = model.format(
        file=kept.model.partition(":")[0], broken=tmp_path / "broken.py", failing=tmp_path / "failing.py"
    )
    refused(command("infer", *kept.flags(model=named, out=tmp_path / "out")), words)


def test_class_folders_that_do_not_fit_the_outputs(
    command: Callable[..., Outcome], kept: Place, tmp_path: Path
) -> None:
    refused(
        command("infer", *kept.flags(out=tmp_path / "out"), "--model-args", "classes=4"),
        r"\(or --classes\) has 3 classes \(a, b, c\), the model gives 4 outputs",
    )
    assert not list(tmp_path.glob("out/step=*"))


def test_a_checkpoint_of_another_model(command: Callable[..., Outcome], kept: Place, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(5, 3), "tail": torch.zeros(1)}, tmp_path / "other.pt")
    outcome = command("infer", *kept.flags(out=tmp_path / "out", checkpoint=tmp_path / "other.pt"))
    refused(
        outcome, r"other\.pt belongs to another model: missing head\.bias; unknown tail; different shape: head\.weight"
    )


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02}q\x00."])
def test_a_checkpoint_that_is_none(
    content: bytes, command: Callable[..., Outcome], kept: Place, tmp_path: Path
) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    refused(command("infer", *kept.flags(out=tmp_path / "out", checkpoint=tmp_path / "bad.pt")), r"bad\.pt")
    refused(
        command("infer", *kept.flags(checkpoint=tmp_path / "gone.pt")),
        r"there is no checkpoint .*gone\.pt: \S+ has bad\.pt$",
    )


def test_another_limit_says_how_many_rows_there_were(
    command: Callable[..., Outcome], kept: Place, tmp_path: Path
) -> None:
    flags = kept.flags(out=tmp_path / "out")
    assert command("infer", *flags, "--limit", "5")[0] == 0
    refused(command("infer", *flags), r"the data changed \(it had 5 rows, now \d+; see --limit\): 1 of 1 parts")


def test_an_import_without_labels_says_how_to_give_them(command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("prob_a,prob_b,label\n0.2,0.8,b\n")
    (tmp_path / "bare.csv").write_text("prob_a,prob_b\n0.2,0.8\n")
    for name, hints in (("scores", 0), ("bare", 1)):
        code, _, err = command(
            "import", tmp_path / f"{name}.csv", "--scores", "probabilities", "--out", tmp_path / name
        )
        assert code == 0
        assert sum("no row has a label" in line and "--labels" in line for line in err) == hints


def test_the_version(command: Callable[..., Outcome]) -> None:
    code, out, _ = command("--version")
    assert (code, out) == (0, ["predboard 0.1.0"])


def test_two_checkpoints_of_one_step(command: Callable[..., Outcome], kept: Place) -> None:
    refused(command("infer", *kept.flags(), "--checkpoint", "a/step3.pt", "b/step3.pt"), "both of step 3.*--step")


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
    flags: list[str], field: str, command: Callable[..., Outcome], kept: Place
) -> None:
    before = {part: part.read_bytes() for part in list_part_paths(kept.out, 0)}
    outcome = command("infer", *kept.flags(), *flags)
    refused(outcome, f"step 0 was made with another {field} .*--overwrite")
    assert {part: part.read_bytes() for part in list_part_paths(kept.out, 0)} == before


def test_other_weights_in_a_step_that_is_there(command: Callable[..., Outcome], kept: Place, tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(3, 3), "head.bias": torch.zeros(3)}, tmp_path / "step0.pt")
    refused(command("infer", *kept.flags(checkpoint=tmp_path / "step0.pt")), "made with another weights")


@pytest.mark.parametrize("name", ["visualize", "inspect"])
def test_a_folder_that_holds_no_predictions(name: str, command: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    refused(command(name, tmp_path / "notes"), f"{tmp_path / 'notes'} contains no predictions")
    (tmp_path / "runs" / "net" / "step=00000001").mkdir(parents=True)
    (tmp_path / "runs" / "net" / "step=00000001" / "part-00000.parquet").touch()
    refused(
        command(name, tmp_path / "runs"), f"no predictions but 1 run: name one of them, {tmp_path / 'runs' / 'net'} "
    )
    file = tmp_path / "file.parquet"
    file.write_bytes(b"")
    refused(command(name, file), f"{file} is a file: expected a folder")


@pytest.mark.parametrize("name", ["visualize", "inspect", "infer"])
def test_predictions_of_a_newer_format(
    name: str, command: Callable[..., Outcome], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = FORMAT_VERSION + 1
    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", newer)
        logits, label = toy.table(toy.RUN, 5)
        toy.write_run(place.out, logits, label, dataclasses.replace(toy.RUN, format=newer))
    arguments = place.flags() if name == "infer" else [place.out]
    refused(command(name, *arguments), f"part-00000.parquet has format {newer}.*upgrade predboard")


def test_a_damaged_part_is_named_and_remade(command: Callable[..., Outcome], place: Place) -> None:
    (part,) = list_part_paths(place.out, 0)
    good = open_part(part).part.content_digest
    part.write_bytes(part.read_bytes()[:-100])
    logs = place.folder / "logs"
    refused(
        command("visualize", place.out, "--logdir", logs),
        r"step=00000000/part-00000\.parquet is damaged .*re-run the command that wrote it",
    )
    assert not list(logs.rglob("*tfevents*"))
    code, _, err = command("infer", *place.flags())
    assert code == 0
    assert any("part-00000.parquet is damaged" in line and "made again" in line for line in err)
    assert open_part(part).part.content_digest == good
    assert command("visualize", place.out, "--logdir", logs)[0] == 0


def test_an_output_that_cannot_be_written(command: Callable[..., Outcome], place: Place) -> None:
    file = place.folder / "file"
    file.write_text("in the way")
    refused(command("infer", *place.flags(out=file / "out")), f"cannot write to {file}")
    refused(command("infer", *place.flags(out=file)), f"{file}")
    refused(command("visualize", place.out, "--logdir", file), f"cannot write to {file}")
    refused(command("visualize", place.out, "--logdir", file / "logs"), f"cannot write to {file}")
    assert file.read_text() == "in the way"


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    command: Callable[..., Outcome], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("predboard.visualization.events.EventWriter.write", full)
    refused(command("visualize", place.out, "--logdir", place.folder / "logs"), "cannot write.*No space left on device")
    assert not list((place.folder / "logs").rglob("*tfevents*"))
    assert not list((place.folder / "logs").rglob("*.partial"))


def test_a_message_with_a_line_break_is_one_line(command: Callable[..., Outcome], tmp_path: Path) -> None:
    code, _, err = command("visualize", tmp_path / "two\nlines")
    assert code == 2
    assert len(err) == 1


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("gate", "run", "--rules", "s3://bucket/a//gates.toml"), "--rules is s3://bucket/a/gates.toml"),
        (("gate", "run", "--rules", "gates.toml", "--junit", "gs://b/gate.xml"), "--junit is gs://b/gate.xml"),
        (("infer", "--data", "d", "--model", "m.py:f", "--checkpoint", "s3://b/1.pt"), "--checkpoint is s3://b/1.pt"),
        (
            ("infer", "--data", "d", "--model", "m.py:f", "--classes", "s3://b/names.txt"),
            "--classes is s3://b/names.txt",
        ),
        (("import", "a.npz", "s3://b/c.npz", "--scores", "logits"), "a file is s3://b/c.npz"),
        (("import", "a.npz", "--scores", "logits", "--labels", "s3://b/y.npy"), "--labels is s3://b/y.npy"),
    ],
)
def test_a_uri_where_only_files_can_be_is_said_as_it_was_written(
    arguments: tuple[str, ...],
    flag: str,
    command: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command(*arguments), f"{flag}; expected a path on this machine: only images, predictions and logs may be")
    assert not list(tmp_path.iterdir())


def test_a_configuration_is_on_this_machine(command: Callable[..., Outcome]) -> None:
    refused(command("infer", "--config", "s3://b/c.toml"), "--config is s3://b/c.toml; expected a file on this machine")


@pytest.mark.parametrize(
    "arguments",
    [
        ("infer", "--data", "photos", "--model", "m.py:f", "--out", "memory://place"),
        ("infer", "--data", "memory://place", "--model", "m.py:f"),
        ("visualize", "predictions/run", "--logdir", "Memory://place"),
        ("compare", "old", "new", "--logdir", "memory://place"),
        ("board", "--logdir", "memory://place"),
    ],
)
def test_memory_is_no_place_for_a_command(arguments: tuple[str, ...], command: Callable[..., Outcome]) -> None:
    refused(command(*arguments), "(?i)memory://place would end with this process: name a folder or a bucket")


@pytest.mark.parametrize(
    ("name", "of"),
    [
        *(("infer", config.InferConfig), ("import", config.ImportConfig), ("visualize", config.VisualizeConfig)),
        *(("compare", config.CompareConfig), ("gate", config.GateConfig), ("board", config.BoardConfig)),
        ("inspect", config.InspectConfig),
    ],
)
def test_help_has_each_text_in_one_piece(
    name: str, of: type[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    with pytest.raises(SystemExit) as stop:
        main.run([name, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    source = Path(config.__file__).read_text("utf-8")
    body = source[source.index(f"class {of.__name__}") :]
    for field in dataclasses.fields(of):
        text = re.search(rf'^    {field.name}: .*?\n    """(.*?)"""', body, re.MULTILINE | re.DOTALL)
        assert text is not None
        assert " ".join(text[1].split()) in said, field.name
    assert "default: None" not in said
    assert "default: )" not in said


def test_in_a_process_of_its_own_there_is_no_traceback(tmp_path: Path) -> None:
    done = toy.predboard("visualize", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == f"predboard: no folder {tmp_path / 'nowhere'}: expected a folder of predictions that `predboard infer` "
        "wrote\n"
    )


def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "model.py").write_text("raise KeyboardInterrupt\n")
    done = toy.predboard("infer", "--data", "data", "--model", "model.py:build", cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].startswith("predboard: interrupted; what was published is safe")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("end", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
@pytest.mark.parametrize("module", ["typing", "tyro", "tqdm"])  # imported before there is a command, and by one
def test_a_signal_while_modules_are_imported_is_one_line(
    module: str, end: tuple[signal.Signals, int, str], place: Place, tmp_path: Path
) -> None:
    number, code, how = end
    (tmp_path / f"{module}.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n")
    done = _started_by_a_terminal(tmp_path, "visualize", place.out)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(
        rf"predboard: {how}(; what was published is safe, run the same command to go on)?\n", done.stderr
    )


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_a_signal_leads_to_does_not_hide_it(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_in_the_middle(_: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise InputError("cannot write: columns differ in length")

    monkeypatch.setattr(main, "_inspect", left_in_the_middle)
    code, _, err = command("inspect", "run")
    assert (code, len(err)) == (143, 1)
    assert err[0].startswith("predboard: terminated; what was published is safe")


_WRAPPED = """
class Own:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), number)  # Python 3.11 makes a RuntimeError of any exception here

class Body:
    field = Own()
"""
_SWALLOWED = """
for _ in range(3):
    try:
        os.kill(os.getpid(), number)
        done = True
    except BaseException:
        pass
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("end", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
@pytest.mark.parametrize("body", [_WRAPPED, _SWALLOWED])
def test_a_signal_waits_for_the_end_of_an_import(
    body: str, end: tuple[signal.Signals, int, str], place: Place, tmp_path: Path
) -> None:
    number, code, how = end
    head, own = f"import os, sys\nnumber = {int(number)}\n", "sys.path.remove(os.path.dirname(__file__))"
    (tmp_path / "tqdm.py").write_text(f"{head}{body}\n{own}\ndel sys.modules['tqdm']\nimport tqdm\n")  # the real one
    done = _started_by_a_terminal(tmp_path, "visualize", place.out)
    assert (done.returncode, done.stdout) == (code, "")
    *before, last = done.stderr.splitlines()
    assert last == f"predboard: {how}; what was published is safe, run the same command to go on"
    assert all(line.startswith("toy: ") for line in before)  # it may have begun


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_command_that_a_module_runs_when_it_is_imported_is_no_import(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return pytest.fail("the signal did not come at once")

    monkeypatch.setattr(main, "_inspect", interrupted)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs_a_command.py").write_text(
        'from predboard.cli import main as cli\ncode = cli.run(["inspect", "run"])\n'
    )
    assert importlib.import_module("runs_a_command").code == 143
    assert capsys.readouterr().err.startswith("predboard: terminated; what was published is safe")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_python_ends_is_one_line(place: Place, tmp_path: Path) -> None:
    late = "import atexit, os, time\natexit.register(time.sleep, 60)\natexit.register(os.kill, os.getpid(), 2)\n"
    (tmp_path / "tomllib.py").write_text(late)
    done = _started_by_a_terminal(tmp_path, "inspect", place.out, "--json")
    assert (done.returncode, done.stderr) == (130, "predboard: interrupted\n")
    assert json.loads(done.stdout)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_when_all_is_done_changes_nothing(number: signal.Signals, place: Place, tmp_path: Path) -> None:
    last = f"""
import os
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), write=os.write):
        write(2, b"now")
        kill(pid, {int(number)})
last = Last()
"""
    (tmp_path / "tomllib.py").write_text(last)
    done = _started_by_a_terminal(tmp_path, "inspect", place.out, "--json")
    assert (done.returncode, done.stderr) == (0, "now")
    assert json.loads(done.stdout)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_is_no_exception_inside_pythons_import_machinery() -> None:
    done: dict[str, Any] = {"os": os, "number": signal.SIGTERM}
    code = "os.kill(os.getpid(), number); released = True"
    with pytest.raises(KeyboardInterrupt) as stop, main._signals():
        exec(compile(code, "<frozen importlib._bootstrap>", "exec"), done)  # as if it held the lock of imports
        time.sleep(20)
    assert done["released"]
    assert stop.value.args == (signal.SIGTERM,)
    with pytest.raises(KeyboardInterrupt), main._signals():
        exec(compile(code, "any.py", "exec"), done | {"released": False})
        pytest.fail("the signal did not come at once")


def _started_by_a_terminal(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """With modules of a folder in the place of others."""
    return subprocess.run(
        [sys.executable, "-m", "predboard", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_ctrl_c_while_drawing(command: Callable[..., Outcome], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("predboard.visualization.events.EventWriter.write", interrupted)
    code, out, err = command("visualize", place.out, "--logdir", place.folder / "logs")
    assert (code, out) == (130, [])
    assert err[-1].startswith("predboard: interrupted")
    assert not list((place.folder / "logs").rglob("*.partial"))


def test_another_process_starts_before_the_imports_where_there_is_much_to_do(
    command: Callable[..., Outcome], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    start = ProcessPool.start

    def seen(pool: ProcessPool, count: int) -> None:
        begun.append(count)
        start(pool, count)

    monkeypatch.setattr(ProcessPool, "start", seen)
    flags = ["visualize", place.out, "--panels", "glance", "--workers", 2, "--logdir"]
    assert command(*flags, place.folder / "one")[0] == 0
    assert 2 not in begun
    monkeypatch.setattr(main, "PRESTART_BYTES", sum(part.stat().st_size for part in list_part_paths(place.out, 0)))
    assert command(*flags, place.folder / "two")[0] == 0
    assert begun.count(2) == 1
    files = [next((place.folder / logs).rglob("*tfevents*")) for logs in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    (place.out / "step=00000000").rename(place.out / "step=00000001")
    assert command(*flags, place.folder / "two")[0] == 0  # there are logs: much of it may be known
    assert begun.count(2) == 1
    monkeypatch.setattr(main, "PRESTART_BYTES", main.PRESTART_BYTES + 1)
    assert command(*flags, place.folder / "three")[0] == 0
    assert begun.count(2) == 1


def test_a_part_that_leads_nowhere_is_one_line(command: Callable[..., Outcome], place: Place) -> None:
    link = part_path(place.out, 0, 9)
    link.symlink_to(place.folder / "gone.parquet")
    for more in ((), ("--workers", 1)):
        refused(command("visualize", place.out, "--logdir", place.folder / "logs", *more), "part-00009.parquet")


def test_a_defect_of_ours_is_not_taken_for_bad_input(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("predboard.visualization.events.EventWriter.write", defect)
    with pytest.raises(ZeroDivisionError):
        main.run(["visualize", str(place.out), "--logdir", str(place.folder / "logs")])


# What is printed


def test_without_a_command_the_commands_are_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "predboard"], capture_output=True, text=True, cwd=toy.ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("infer", "visualize", "board", "inspect"):
        assert re.search(rf"^  predboard {name} +\w", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["infer", "visualize", "board", "inspect"])
def test_help_explains_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.run([name, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    config = {"infer": InferConfig, "visualize": VisualizeConfig, "board": BoardConfig, "inspect": InspectConfig}[name]
    for field in dataclasses.fields(config):
        assert (
            field.name.upper() in said.upper()
            if field.name == "predictions"
            else f"--{field.name.replace('_', '-')}" in said
        )


def test_each_command_ends_by_printing_the_next(command: Callable[..., Outcome], kept: Place, tmp_path: Path) -> None:
    out = tmp_path / "predictions" / "toy"
    code, said, err = command("infer", *kept.flags(out=out))
    assert code == 0
    assert re.fullmatch(r"step 0: 12 ok, 0 failed, 0 unlabelled, accuracy [01]\.\d{4}", said[0])
    assert said[1:] == [f"predictions are in {out}", f"next: predboard visualize {out}"]
    assert err[0] == f"12 images, 3 classes, in {kept.data}"
    code, said, _ = command("visualize", out, "--logdir", tmp_path / "logs")
    assert code == 0
    assert re.fullmatch(rf"toy: 12 rows, 1 step -> {tmp_path}/logs/toy/events\.out\.\S+ \(\d\.\d MB\)", said[0])
    assert said[1:] == [f"next: predboard board --logdir {tmp_path / 'logs'}"]
    _, said, _ = command("visualize", out, "--logdir", tmp_path / "logs")
    assert said[0].startswith("toy: nothing changed since the last time, kept ")
    assert said[-1].startswith("next: predboard board")
    assert command("inspect", out)[1][-1] == f"next: predboard visualize {out}"
    odd = tmp_path / "predictions" / "run #1 (old)"
    shutil.copytree(out, odd)
    assert command("inspect", odd)[1][-1] == f"next: predboard visualize '{odd}'"  # as a shell takes it


def test_the_panels_are_listed_with_a_line_each(command: Callable[..., Outcome]) -> None:
    code, out, err = command("visualize", "--list")
    assert (code, err) == (0, [])
    assert [line.split()[0] for line in out] == list(panels.names())
    assert all(len(line.split()) > 3 for line in out)


def test_missing_rows_and_pictures_are_warned_of(command: Callable[..., Outcome], tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 30)
    toy.write_run(tmp_path / "run", logits, label, shard_size=10)
    part_path(tmp_path / "run", 0, 2).unlink()
    code, _, err = command("visualize", tmp_path / "run", "--logdir", tmp_path / "logs", "--panels", "mistakes")
    assert code == 0
    assert (
        "warning: run lacks 10 rows, perhaps whole classes: rows come in the manifest's order; run the command that "
        "made it again"
    ) in err
    assert re.search(r"warning: \d+ source pictures of run were not found: --image-root", "\n".join(err))


def test_images_that_fail_are_a_warning_and_with_strict_an_exit_code(
    command: Callable[..., Outcome], kept: Place, tmp_path: Path
) -> None:
    data = toy.pictures(tmp_path / "data")
    (data / "b" / "001.png").write_bytes(b"no picture")
    flags = kept.flags(data=data, out=tmp_path / "out")
    for strict, expected in ((["--strict"], 1), ([], 0), (["--strict"], 1)):
        code, out, err = command("infer", *flags, *strict)
        assert code == expected
        assert out[0].startswith("step 0: 11 ok, 1 failed")
        assert out[-1].startswith("next: predboard visualize")
        assert "warning: 1 of 12 images failed; column `error` says why" in err
        assert any("--retry-errors tries these again" in line for line in err)


# Configuration


def parsed(config: type[Any], *arguments: str, command: str = "infer") -> Any:
    return main.parse(command, config, arguments)


BASE = ["--data", "photos", "--model", "net.py:build"]


def test_flags_are_fields_of_the_configuration() -> None:
    found = parsed(
        InferConfig,
        *BASE,
        *[
            "--checkpoint",
            "a.pt",
            "b.pt",
            "--step",
            "1",
            "2",
            "--out",
            "there",
            "--resize",
            "256",
            "--crop",
            "224",
            "--mean",
            "0.5,0.25,0.125",
        ],
        *[
            "--std",
            "1,2,3",
            "--interpolation",
            "bicubic",
            "--batch-size",
            "7",
            "--embeddings",
            "--thumbnails",
            "64",
            "--limit",
            "9",
        ],
    )
    assert found == InferConfig(
        data="photos",
        model="net.py:build",
        checkpoint=(Path("a.pt"), Path("b.pt")),
        step=(1, 2),
        out=Path("there"),
        resize=256,
        crop=224,
        mean=(0.5, 0.25, 0.125),
        std=(1, 2, 3),
        interpolation="bicubic",
        batch_size=7,
        embeddings=True,
        thumbnails=64,
        limit=9,
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("256", 256), ("32x48", (32, 48)), ("32×48", (32, 48)), ("1x1", (1, 1))]
)
def test_a_size_is_the_short_side_or_height_by_width(text: str, expected: int | tuple[int, int]) -> None:
    assert parsed(InferConfig, *BASE, "--resize", text).resize == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("0.5", (0.5,)), ("0.5,.25,1e-1", (0.5, 0.25, 0.1)), ("-0.5,0,1", (-0.5, 0, 1))]
)
def test_a_list_of_numbers_is_written_with_commas(text: str, expected: tuple[float, ...]) -> None:
    assert parsed(InferConfig, *BASE, "--mean", text).mean == expected


def test_model_arguments_are_read_as_literals() -> None:
    pairs = ["depth=20", "wide=True", "name=small", "size=(3, 4)", "rate=1e-3", "none=None", "quoted='7'", "eq=a=b"]
    assert parsed(InferConfig, *BASE, "--model-args", *pairs).model_args == {
        "depth": 20,
        "wide": True,
        "name": "small",
        "size": (3, 4),
        "rate": 0.001,
        "none": None,
        "quoted": "7",
        "eq": "a=b",
    }


def test_predictions_are_named_before_or_after_flags() -> None:
    expected = VisualizeConfig(predictions=(Path("a"), Path("b")), panels=("glance", "metrics"))
    for words in ("a b --panels glance,metrics", "--panels glance,metrics a b"):
        assert parsed(VisualizeConfig, *words.split(), command="visualize") == expected


TOML = """
data = "photos"
model = "net.py:build"
model-args = {depth = 20, name = "small", wide = true, rate = 0.5, sizes = [1, 2], quoted = "7"}
checkpoint = ["a.pt", "b.pt"]
step = [1, 2]
resize = "32x48"
mean = [0.5, 0.25, -0.125]
std = 2
batch_size = 7
embeddings = true
strict = false
channels = "rgb"
"""


def test_a_file_gives_what_the_flags_would(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TOML)
    expected = InferConfig(
        data="photos",
        model="net.py:build",
        model_args={"depth": 20, "name": "small", "wide": True, "rate": 0.5, "sizes": [1, 2], "quoted": "7"},
        checkpoint=(Path("a.pt"), Path("b.pt")),
        step=(1, 2),
        resize=(32, 48),
        mean=(0.5, 0.25, -0.125),
        std=(2,),
        batch_size=7,
        embeddings=True,
    )
    for words in (["--config", str(tmp_path / "config.toml")], [f"--config={tmp_path / 'config.toml'}"]):
        assert parsed(InferConfig, *words) == expected


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TOML)
    found = parsed(
        InferConfig,
        *["--batch-size", "8", "--config"],
        str(tmp_path / "config.toml"),
        *[
            "--no-embeddings",
            "--strict",
            "--checkpoint",
            "c.pt",
            "--step",
            "9",
            "--model-args",
            "depth=3",
            "--mean",
            "0",
            "--resize",
            "5",
        ],
    )
    assert (found.batch_size, found.embeddings, found.strict) == (8, False, True)
    assert (found.checkpoint, found.step) == ((Path("c.pt"),), (9,))
    assert found.model_args == {"depth": 3}
    assert (found.mean, found.resize) == ((0,), 5)
    assert found.std == (2,)  # and what no flag names is the file's


@pytest.mark.parametrize(("written", "expected"), [('"a"', ["a"]), ('["a", "b"]', ["a", "b"])])
def test_a_file_may_name_the_predictions(written: str, expected: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'predictions = {written}\npanels = ["glance", "metrics"]\nlogdir = "there"\n')
    found = parsed(VisualizeConfig, "--config", str(file), command="visualize")
    assert found.predictions == tuple(map(Path, expected))
    assert (found.panels, found.logdir) == (("glance", "metrics"), Path("there"))
    assert parsed(VisualizeConfig, "c", "--config", str(file), command="visualize").predictions == (Path("c"),)


def test_a_file_works_with_every_command(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('logdir = "there"\nport = 7000\n')
    assert parsed(BoardConfig, "--config", str(file), command="board") == BoardConfig(Path("there"), 7000)
    file.write_text('predictions = "here"\njson = true\n')
    assert parsed(InspectConfig, "--config", str(file), command="inspect") == InspectConfig(Path("here"), True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batch-sise = 7", "has 'batch-sise', which is no flag of `predboard infer`"),
        ("[infer]\ndata = 'x'", "has 'infer', which is no flag"),
        ("data = ", "is no TOML: "),
        ("\xff", "is no TOML: "),
        ("batch_size = 0", "--batch-size is 0"),
        ("batch_size = 'many'", "--batch-size.*'many'"),
        ("mean = []", "--mean"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(
    content: str, words: str, command: Callable[..., Outcome], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content.encode("latin-1"))
    refused(command("infer", *BASE, "--config", file), words)


def test_a_file_that_is_not_there_is_one_line(command: Callable[..., Outcome], tmp_path: Path) -> None:
    refused(command("visualize", "--config", tmp_path / "gone.toml"), "cannot read .*gone.toml: No such file")
    refused(command("visualize", "--config", tmp_path), "cannot read")


def test_the_whole_way_by_configuration_files(
    command: Callable[..., Outcome], kept: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("infer.toml").write_text(f"data = {str(kept.data)!r}\nmodel = {kept.model!r}\nmodel_args = {{classes = 3}}\n")
    code, out, _ = command("infer", "--config", "infer.toml")
    assert code == 0
    assert out[-1] == "next: predboard visualize predictions/data-toy_model-build"
    code, out, _ = command(*out[-1].removeprefix("next: predboard ").split())
    assert code == 0
    assert out[-1] == "next: predboard board --logdir logs"
    assert len(list(Path("logs/data-toy_model-build").glob("events*"))) == 1


# board


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def test_a_port_that_is_taken_is_one_line(command: Callable[..., Outcome], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(command("board", "--logdir", tmp_path, "--port", port), f"port {port} is not free")


def test_board_opens_tensorboard_and_ctrl_c_ends_both(place: Place) -> None:
    logs, port = place.folder / "logs", free_port()
    assert main.run(["visualize", str(place.out), "--logdir", str(logs), "--panels", "glance"]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "predboard", "board", "--logdir", str(logs), "--port", str(port)],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
        text=True,
    ) as board:
        try:
            assert board.stdout
            line = next(line for line in board.stdout if line.startswith("open "))
            url = line.split()[1]
            assert re.match(rf"http://localhost:{port}/\?smoothing=0.*report_card.*toy.*#timeseries$", url)
            with urllib.request.urlopen(f"http://localhost:{port}/data/logdir", timeout=10) as answer:
                assert json.load(answer)["logdir"] == str(logs)
            os.killpg(board.pid, signal.SIGINT)  # as a terminal does
            assert board.wait(15) == 0
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/", timeout=2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(board.pid, signal.SIGKILL)


def test_reading_from_a_pipe_that_closes_early_is_no_error(kept: Place) -> None:
    shell = f"{sys.executable} -m predboard inspect {kept.out} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{", "")
    assert done.returncode == 0
