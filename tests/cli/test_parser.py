"""Flags and configuration files become configurations, and `--help` explains them."""

import dataclasses
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

from predboard import config
from predboard.cli import main
from predboard.cli.commands import COMMANDS
from predboard.cli.parser import flags_of, parse, print_help
from predboard.config import BoardConfig, CompareConfig, InferConfig, InspectConfig, VisualizeConfig
from predboard.errors import InputError
from predboard.gating.rules import read_rules
from predboard.images.class_names import read_classes
from tests.cli.example import Example, RunCommand, refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch-size 0", "--batch-size is 0; expected a whole number of at least 1"),
        ("--batch-size many", "--batch-size is 'many'; expected a whole number"),
        ("--workers -1", "--workers is -1"),
        ("--shard-size 0", "--shard-size is 0"),
        ("--limit 0", "--limit is 0"),
        ("--limit few", "--limit is 'few'; expected a whole number"),
        ("--crop abc", "--crop is 'abc'; expected N or none"),
        ("--crop 0", "--crop is 0"),
        ("--resize 0", "--resize is 0"),
        ("--resize 3x0", "--resize is 0"),
        ("--resize 3x", "--resize is '3x'; expected N, HxW or none"),
        ("--mean 0,0", "--mean has 2 numbers; expected 1 or 3 for rgb"),
        ("--mean a,0.5", "--mean is 'a,0.5'; expected numbers joined by commas"),
        ("--mean .3 .4 .5", r"unexpected '\.4', '\.5'; .*joined by commas without spaces: --mean 0\.485,"),
        ("--mean nan", "--mean is nan"),
        ("--std 0", "--std is 0.0; expected numbers above 0"),
        ("--std 1,-1,1", r"--std is 1\.0,-1\.0,1\.0; expected"),
        ("--std 1,1,1 --channels gray", "--std has 3 numbers; expected 1 or 1 for gray"),
        ("--precision fp8", "--precision is 'fp8'; expected fp32, bf16 or fp16"),
        ("--interpolation bicubik", "--interpolation is 'bicubik'; expected .*; did you mean bicubic?"),
        ("--step 1 2", "--step has 2 numbers for 0 checkpoints"),
        ("--step -1", "--step is -1"),
        ("--model-args depth", "--model-args is 'depth'; expected KEY=VALUE"),
        ("--model-args a={1,2}", "--model-args a is "),
        ("--update --overwrite", "--update and --overwrite exclude each other"),
        ("--thumbnails -1", "--thumbnails is -1"),
        ("--xyzzy", r"no flag --xyzzy \(see"),
        ("--reszie 64", r"no flag --reszie; did you mean --resize\? \(see"),
        ("--out", "--out needs a value: --out PATH"),
        ("--out --strict", "--out needs a value: --out PATH"),
        ("--embeddings=true", "--embeddings is a switch and takes no value"),
        ("stray", "unexpected 'stray'"),
        ("--device abacus", "--device is 'abacus'; expected auto, cpu"),
        ("--device cuda:99", "--device is cuda:99, which this machine does not have"),
    ],
)
def test_an_impossible_flag_value(flags: str, words: str, command: RunCommand, finished: Example) -> None:
    refused(command("infer", *finished.flags(), *flags.split()), words)


def test_a_config_check_is_said_in_its_own_words_however_narrow_the_terminal(
    command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    numbers = ",".join(["0.25"] * 40)
    _, _, err = command("infer", "--data", "x", "--model", "y", "--std", f"1.5,{numbers[:99]}")
    assert err == ["predboard: --std has 21 numbers; expected 1 or 3 for rgb (see predboard infer --help)"]


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("gate", "run", "--report", "s3://bucket/a//report.txt"), "--report is s3://bucket/a/report.txt"),
        (("gate", "run", "--rules", "gates.toml", "--junit", "gs://b/gate.xml"), "--junit is gs://b/gate.xml"),
        (("infer", "--data", "d", "--model", "m.py:f", "--checkpoint", "s3://b/1.pt"), "--checkpoint is s3://b/1.pt"),
        (("import", "a.npz", "s3://b/c.npz", "--scores", "logits"), "a file is s3://b/c.npz"),
        (("import", "a.npz", "--scores", "logits", "--labels", "s3://b/y.npy"), "--labels is s3://b/y.npy"),
    ],
)
def test_a_uri_where_only_files_can_be_is_said_as_it_was_written(
    arguments: tuple[str, ...],
    flag: str,
    command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command(*arguments), f"{flag}; expected a path on this machine: only images, predictions and logs may be")
    assert not list(tmp_path.iterdir())


def test_a_configuration_is_on_this_machine(command: RunCommand) -> None:
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
def test_memory_is_no_place_for_a_command(arguments: tuple[str, ...], command: RunCommand) -> None:
    refused(command(*arguments), "(?i)memory://place would end with this process: name a folder or a bucket")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_each_text_in_one_piece(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    with pytest.raises(SystemExit) as stop:
        main.run([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    source = "".join(map(inspect.getsource, reversed(COMMANDS[name].config.__mro__[:-1])))
    for field in dataclasses.fields(COMMANDS[name].config):
        text = re.search(rf'^    {field.name}: .*?\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
        assert text is not None
        assert " ".join(text[1].split()) in printed, field.name
    assert "default: None" not in printed
    assert "default: )" not in printed
    assert "SUPPRESS" not in printed


def test_the_flags_of_infer_are_under_headings_and_each_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_help("infer", InferConfig)
    printed = capsys.readouterr().out
    headings = ["Data", "Task", "Model", "Preprocessing", "Output", "Speed", "Devices and cluster", "Failures", "More"]
    assert re.findall(r"^([A-Z][\w ]+):$", printed, re.MULTILINE) == headings
    listed = re.findall(r"^  (--[\w-]+)", printed, re.MULTILINE)
    assert sorted(listed) == sorted([*(flag.name for flag in flags_of(InferConfig).values()), "--config", "--help"])
    assert printed.index("--data") < printed.index("--image-root") < printed.index("--checkpoint")


@pytest.mark.parametrize("name", ["infer", "visualize", "board", "inspect"])
def test_help_explains_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.run([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    config = {"infer": InferConfig, "visualize": VisualizeConfig, "board": BoardConfig, "inspect": InspectConfig}[name]
    for field in dataclasses.fields(config):
        assert (
            field.name.upper() in printed.upper()
            if field.name == "predictions"
            else f"--{field.name.replace('_', '-')}" in printed
        )


def parsed(config: type[Any], *arguments: str, command: str = "infer") -> Any:
    return parse(command, config, arguments)


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
        ("batch-sise = 7", "has 'batch-sise', which is not a flag of `predboard infer`; did you mean batch_size?"),
        ("[infer]\ndata = 'x'", "has 'infer', which is not a flag"),
        ("data = ", "is not valid TOML: "),
        ("\xff", "is not valid TOML: "),
        ("limit = " + "9" * 5_000, "is not valid TOML: "),
        ("limit = " + "[" * 9_000, "is not valid TOML: "),
        ("batch_size = 0", "--batch-size is 0"),
        ("batch_size = 'many'", "--batch-size.*'many'"),
        ("mean = []", "--mean"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(content: str, words: str, command: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content.encode("latin-1"))
    refused(command("infer", *BASE, "--config", file), words)


def test_a_file_may_be_a_pipe_and_is_not_endless(command: RunCommand, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"batch_size = 0")
    os.close(writing)
    refused(command("infer", *BASE, "--config", f"/dev/fd/{reading}"), "--batch-size is 0")
    os.close(reading)
    for name in ("config.toml", "classes.txt"):
        (tmp_path / name).symlink_to("/dev/zero")
    refused(
        command("infer", *BASE, "--config", tmp_path / "config.toml"), "config.toml: it has more than 16,777,216 bytes"
    )
    with pytest.raises(InputError, match=r"cannot read .*classes\.txt: it has more than"):
        read_classes(tmp_path / "classes.txt")
    with pytest.raises(InputError, match=r"cannot read .*classes\.txt: it has more than"):
        read_rules(tmp_path / "classes.txt", {})


def test_a_file_that_is_not_there_is_one_line(command: RunCommand, tmp_path: Path) -> None:
    refused(command("visualize", "--config", tmp_path / "gone.toml"), "cannot read .*gone.toml: No such file")
    refused(command("visualize", "--config", tmp_path), "cannot read")


def test_arguments_of_a_model_are_literals_where_they_can_be() -> None:
    texts = {
        "a": ("20", 20),
        "b": ("small", "small"),
        "c": ("[1, 2.5]", [1, 2.5]),
        "d": ("None", None),
        "e": ("'20'", "20"),
        "f": ("", ""),
        "g": ("{[1]: 2}", "{[1]: 2}"),
        "h": ("__import__('os')", "__import__('os')"),
        "i": ("-1e-3", -0.001),
        "j": ("(1, 'x')", (1, "x")),
        "k": ("0x10", 16),
        "l": ("007", "007"),
    }
    words = [f"{key}={text}" for key, (text, _) in texts.items()]
    expected = {key: value for key, (_, value) in texts.items()}
    assert parsed(InferConfig, *BASE, "--model-args", *words).model_args == expected


def test_columns_to_cross_may_be_given_again() -> None:
    expected = (("country", "season"), ("a", "b", "c"), ("d", "e"))
    for words in ("--slice country,season --slice a,b,c d,e", "--slice country,season a,b,c --slice=d,e"):
        for made, command in ((VisualizeConfig, "visualize"), (CompareConfig, "compare")):
            assert parsed(made, "run", *words.split(), command=command).slice == expected
    words = "--pairs a>b,c>d --pairs=e>f --panels x"
    several = parsed(VisualizeConfig, "run", *words.split(), command="visualize")
    assert (several.pairs, several.panels) == (("a>b", "c>d", "e>f"), ("x",))
    assert VisualizeConfig(slice="country,season").slice == (("country", "season"),)  # type: ignore[arg-type]
    assert VisualizeConfig(slice=[["a", "b"]]).slice == (("a", "b"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "field", "expected"),
    [
        ("--batch_size 8", "batch_size", 8),
        ("--batch-size=8", "batch_size", 8),
        ("--batch-size 8 --batch-size 9", "batch_size", 9),  # the last one counts
        ("--checkpoint a --checkpoint b", "checkpoint", (Path("b"),)),
        ("--checkpoint", "checkpoint", ()),
        ("--embeddings --no_embeddings", "embeddings", False),
        ("--limit 5 --limit None", "limit", None),
        ("--mean -1", "mean", (-1.0,)),
        ("--mean=-1,2,3", "mean", (-1.0, 2.0, 3.0)),
        ("--preview-bands 3 2 1", "preview_bands", (3, 2, 1)),
        ("--part 1/8", "part", (1, 8)),
        ("--data=x=y", "data", "x=y"),
    ],
)
def test_how_a_flag_may_be_written(words: str, field: str, expected: object) -> None:
    assert getattr(parsed(InferConfig, *BASE, *words.split()), field) == expected


def test_words_after_two_dashes_are_no_flags() -> None:
    found = parsed(VisualizeConfig, "--list", "--", "a", "-b", command="visualize")
    assert found.predictions == (Path("a"), Path("-b"))


def test_a_file_may_hold_any_kind_of_value(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('preview-bands = [3, 2, 1]\nlimit = "None"\ntimeout = 60\npart = "1/8"\ncrop = "none"\n')
    found = parsed(InferConfig, *BASE, "--config", str(file))
    assert (found.preview_bands, found.limit, found.timeout) == ((3, 2, 1), None, 60.0)
    assert (found.part, found.crop) == ((1, 8), "none")


def test_every_group_of_infer_can_be_built_alone_and_checks_its_own_fields() -> None:
    assert InferConfig("photos", "net.py:build", crop=224, batch_size=8) == InferConfig(
        data="photos", model="net.py:build", crop=224, batch_size=8
    )
    with pytest.raises(InputError, match="--crop is 0"):
        config.PreprocessingConfig(crop=0)
    assert isinstance(InferConfig("photos", "net.py:build"), config.PreprocessingConfig)
