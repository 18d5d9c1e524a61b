"""The command gate: figures of a run worked out by hand, exit codes, reports, baselines, and real models."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import predboard
from predboard import GateConfig, ImportConfig, InputError, VisualizeConfig, import_predictions, visualize
from predboard.cli import main
from predboard.comparison.class_mapping import ClassMapping
from predboard.comparison.differences import Comparison
from predboard.comparison.flips import IDENTICAL_METHOD
from predboard.comparison.paired_counts import count_pairs
from predboard.gating.evaluate import GateResult, match_names
from predboard.gating.gate import independent_difference, measure_step, metric_directions
from predboard.metrics import registry
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.registry import pattern_of
from predboard.predictions.derive import derive
from predboard.predictions.schema import hash64
from predboard.storage.inspection import inspect
from predboard.storage.parts import read_batches
from predboard.storage.runs import open_run, step_folder
from predboard.summaries import Metric
from predboard.visualization.summary_json import decode_summary
from tests import fake_storage, toy
from tests.fake_storage import copied
from tests.gating.test_reports import well_shaped

CLASSES = ("River/Lake", "a b", "日本")
UNCLEAR = "too little evidence"


@dataclass(frozen=True)
class Row:
    """An image, its class, what was said (None: the model gave no numbers) and how surely, and where it is from."""

    image: str
    label: int | None
    said: int | None
    country: str = "NO"
    p: float = 0.8


def rows() -> list[Row]:
    """30 of 38 right: of the classes 16 of 20, 10 of 10 and 4 of 8; one row failed, one has no label."""
    found = [(0, 0)] * 16 + [(0, 1)] * 4 + [(1, 1)] * 10 + [(2, 2)] * 4 + [(2, 0)] * 4 + [(0, None), (None, 0)]
    return [Row(f"{i:03d}.png", label, said, "NO" if i % 2 else "SE") for i, (label, said) in enumerate(found)]


def write(out: Path, of: Sequence[Row], classes: Sequence[str] = CLASSES, **more: Any) -> Path:
    """A run with these rows, as an import makes it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    file, listed = out.with_suffix(".csv"), out.with_suffix(".txt")
    listed.write_text("\n".join(classes), "utf-8")
    with file.open("w", encoding="utf-8", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["image", "label", "country", *(f"prob_{c}" for c in range(len(classes)))])
        for row in of:
            rest = (1 - row.p) / (len(classes) - 1)
            p = ["" if row.said is None else row.p if c == row.said else rest for c in range(len(classes))]
            table.writerow([row.image, "" if row.label is None else classes[row.label], row.country, *p])
    import_predictions(ImportConfig("probabilities", (file,), out=out, classes=listed, pictures=False, **more))
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that no test may change."""
    return write(tmp_path_factory.mktemp("gate") / "new", rows())


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """`predboard gate` with rules as text, in this process."""

    def call(run: Path, rules: str = "", *arguments: str | Path) -> Said:
        given = list(arguments)
        if rules:
            (tmp_path / "gates.toml").write_text(rules, "utf-8")
            given += ["--rules", tmp_path / "gates.toml"]
        capsys.readouterr()
        code = main.run(["gate", str(run), *map(str, given)])
        found = capsys.readouterr()
        return Said(code, found.out, found.err)

    return call


def rule(metric: str, **keys: Any) -> str:
    return "\n".join(
        [
            "[[rule]]",
            f"metric = {json.dumps(metric, ensure_ascii=False)}",
            *(f"{k} = {json.dumps(v)}" for k, v in keys.items()),
        ]
    )


def findings_of(run: Path, metric: str, **keys: Any) -> dict[str, tuple[str, float | None, int | None]]:
    """Outcome, value and images by name of what a rule found."""
    found = predboard.gate(run, [{"metric": metric, **keys}]).verdicts[-1].findings
    return {f.metric: (f.outcome, f.value, f.rows) for f in found}


def test_every_kind_of_figure_is_there_with_the_images_that_it_rests_on(run: Path) -> None:
    for metric, value, n in (
        ("accuracy", 30 / 38, 38),
        ("balanced_accuracy", (0.8 + 1 + 0.5) / 3, 38),
        ("classes/River/Lake/recall", 0.8, 20),
        ("classes/River/Lake/precision", 16 / 20, 20),
        ("classes/a b/precision", 10 / 14, 14),
        ("classes/日本/f1", 2 * 4 / (8 + 4), 8),
        ("classes/日本/support", 8, None),
        ("images", 40, None),
        ("images/failed", 1, None),
        ("images/unlabelled", 1, None),
        ("images/counted", 38, None),
        ("slices/country=NO/accuracy", 15 / 19, 19),
        ("slices/country=SE/images", 19, None),
        ("label_issues/suspected", 8, None),
        ("calibration/ece", 0.8 - 30 / 38, 38),
    ):
        outcome, found, images = findings_of(run, metric, min=-1)[metric]
        assert (outcome, images) == ("pass", n), metric
        assert found == pytest.approx(value, abs=1e-6), metric


def test_a_limit_above_1_is_refused_only_of_what_never_is(run: Path) -> None:
    figures, better = measure_step(open_run(run)[-1], metric_directions(), 1).metrics, metric_directions()
    shares = {n: f for n, f in figures.items() if better[pattern_of(n)] != "neither"}
    shares = {n: f for n, f in shares.items() if registry.require(n).range[1] <= 1}
    assert len(shares) > 30
    assert all(-1 <= f.value <= 1 for f in shares.values())


def test_figures_are_those_of_summary_json(run: Path, tmp_path: Path) -> None:
    visualize(VisualizeConfig((run,), tmp_path / "logs"))
    summary = decode_summary((tmp_path / "logs" / "new" / "summary.json").read_bytes())
    assert summary is not None
    expected = summary["steps"]["0"]
    found = measure_step(open_run(run)[-1], metric_directions(), 1).metrics
    assert set(found) == set(expected)
    for name, figure in found.items():
        values = [figure.value, *(figure.interval or ())]
        said = [expected[name][key] for key in ("value", "lower", "upper") if key in expected[name]]
        assert values == pytest.approx(said, rel=1e-8), name
        assert figure.rows == expected[name].get("rows"), name


def test_only_what_the_rules_need_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    real = read_batches

    def spy(file: Any, columns: Any = None) -> Any:
        read.update(columns)
        return real(file, columns)

    monkeypatch.setattr("predboard.evaluation.measure.read_batches", spy)
    light = (
        "slices/country=NO/accuracy",
        "accuracy",
        "mcc",
        "nll",
        "images/failed",
        "classes/*/f1",
        "classes/a b/support",
    )
    for metric in light:
        findings_of(run, metric, min=0)
        assert "logits" not in read, metric
    for metric in ("accuracy_top2", "classes/*/auroc", "calibration/ece"):
        read.clear()
        findings_of(run, metric, min=0)
        assert "logits" in read, metric


PASSING = rule("accuracy", min=0.7) + "\n" + rule("images/failed", max=1)
FAILING = rule("classes/日本/recall", min=0.6)
STRADDLING = rule("classes/日本/recall", min=0.6, bound="lower")


@pytest.mark.parametrize(
    ("rules", "code", "last"),
    [
        (PASSING, 0, "the gate passed: 3 rules"),
        (
            f"{PASSING}\n{STRADDLING}\n{FAILING}",
            1,
            "the gate failed: 1 of 5 rules failed, too little evidence for 1",
        ),
        (f"{PASSING}\n{rule('acuracy', min=0.9)}", 2, ""),
        (f"{PASSING}\n{STRADDLING}", 3, "the gate did not pass: too little evidence for 1 of 4 rules"),
    ],
    ids=["pass", "fail", "bad input", "too little evidence"],
)
def test_the_four_exit_codes(
    rules: str, code: int, last: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gates.toml").write_text(rules, "utf-8")
    files = [f"--{kind}={tmp_path / 'reports' / kind}" for kind in ("junit", "json", "markdown")]
    command = ["gate", str(run), "--rules", str(tmp_path / "gates.toml"), *files]
    if code == 3:  # a process ends with what `run` gives
        done = toy.predboard(*command)
        assert done.returncode == code, done.stderr
        stdout, stderr = done.stdout, done.stderr
    else:
        assert main.run(command) == code
        stdout, stderr = capsys.readouterr()
    if code == 2:
        assert stdout == ""
        assert re.fullmatch(r"predboard: .*gates.toml, rule 3 \(acuracy\): no metric .*'accuracy'.*\n", stderr)
        assert not (tmp_path / "reports").exists()
        return
    assert stdout.splitlines()[-1] == last
    assert all(len(line) <= 80 for line in stdout.splitlines())
    root = well_shaped((tmp_path / "reports" / "junit").read_bytes())
    found = json.loads((tmp_path / "reports" / "json").read_text("utf-8"))
    assert found["code"] == code
    assert [case.get("name") for case in root.iter("testcase")] == [verdict["title"] for verdict in found["rules"]]
    assert (tmp_path / "reports" / "markdown").read_text("utf-8").startswith("### ")
    assert len(list((tmp_path / "reports").iterdir())) == 3
    assert f"wrote {tmp_path / 'reports' / 'junit'}" in stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which rules\\? `predboard gate .*new --suggest > gates.toml` writes a first file"),
        (["--rules", "none.toml"], "cannot read none.toml"),
        (["--rules", "none.toml", "--suggest"], "--suggest and --rules exclude each other"),
        (["--suggest", "--step", "7"], "--step is 7, but .*new has 0"),
        (["--suggest", "--baseline-step", "7"], "--baseline-step needs --baseline"),
        (["--suggest", "--map-classes"], "--map-classes needs --baseline"),
        (["--suggest", "--json", "gate.json"], "--suggest and --json exclude each other"),
        (["--suggest", "--workers", "-1"], "--workers is -1"),
        (["--rule", "none.toml"], "--rule"),
    ],
)
def test_flags_that_cannot_be_meant(arguments: list[str], words: str, command: Callable[..., Said], run: Path) -> None:
    said = command(run, "", *arguments)
    assert (said.code, said.out) == (2, "")
    assert re.fullmatch(f"predboard: .*{words}.*\n", said.err), said.err


def test_flags_from_a_file(command: Callable[..., Said], run: Path, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(PASSING)
    keys = {
        "predictions": str(run),
        "rules": str(tmp_path / "gates.toml"),
        "json": str(tmp_path / "gate.json"),
        "step": 0,
    }
    (tmp_path / "flags.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
    assert main.run(["gate", "--config", str(tmp_path / "flags.toml")]) == 0
    assert json.loads((tmp_path / "gate.json").read_text())["code"] == 0
    assert command(run, FAILING, "--config", tmp_path / "flags.toml").code == 1  # a flag counts more


def test_predictions_that_are_not_there(command: Callable[..., Said], run: Path, tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "none", "no folder .*none"), (run.parent, "contains 1 run; name one")):
        said = command(folder, PASSING)
        assert said.code == 2
        assert re.search(words, said.err)
    assert main.run(["gate"]) == 2
    assert main.run(["gate", "--suggest"]) == 2
    said = command(run, rule("accuracy", max_drop=0), "--baseline", tmp_path / "none")
    assert said.code == 2
    said = command(run, rule("accuracy", max_drop=0))
    assert said.code == 2
    assert "rule 'accuracy worse by ≤ 0' has max_drop: name the predictions to compare with, --baseline" in said.err


def test_a_damaged_part_is_bad_input(command: Callable[..., Said], tmp_path: Path) -> None:
    run = write(tmp_path / "run", rows())
    toy.spoil(next(run.glob("*/*.parquet")), "label")
    said = command(run, PASSING, "--json", tmp_path / "gate.json")
    assert (said.code, said.out) == (2, "")
    assert "damaged" in said.err
    assert not (tmp_path / "gate.json").exists()


def test_a_report_that_cannot_be_written_is_bad_input(command: Callable[..., Said], run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = command(run, PASSING, "--junit", tmp_path / "file" / "gate.xml")
    assert said.code == 2
    assert "cannot write to" in said.err


@pytest.mark.skipif(os.name != "posix", reason="no pipes in the file system")
def test_a_report_goes_through_a_pipe_a_link_and_a_descriptor(
    command: Callable[..., Said], run: Path, tmp_path: Path
) -> None:
    pipe, kept = tmp_path / "pipe", tmp_path / "kept.txt"
    os.mkfifo(pipe)
    kept.touch()
    (tmp_path / "link.json").symlink_to("there.json")
    (tmp_path / "there.json").write_text("old")
    reader, behind = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), os.open(kept, os.O_WRONLY)
    os.write(behind, b"before\n")
    (tmp_path / "stdout").symlink_to(f"/dev/fd/{behind}")
    try:
        said = command(
            *(run, PASSING, "--junit", pipe, "--markdown", tmp_path / "stdout", "--json", tmp_path / "link.json")
        )
        assert said.code == 0, said.err
        assert b"<testsuite" in os.read(reader, 2**16)
        os.write(behind, b"after\n")
    finally:
        os.close(reader)
        os.close(behind)
    assert pipe.is_fifo()
    assert (tmp_path / "stdout").is_symlink()
    assert re.fullmatch("before\n#.*\nafter\n", kept.read_text(), re.DOTALL)
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there.json").read_text())["code"] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--json", "{rules}"], "--json .*gates.toml is the file of --rules"),
        (["--junit", "{run}/step=00000000/part-00000.parquet"], "--junit .* is inside the predictions"),
        (["--markdown", "{run}/new.md"], "--markdown .*new.md is inside the predictions"),
        (["--config", "{rules}.c", "--json", "{rules}.c"], "--json is .*gates.toml.c, the file of --config"),
        (["--columns", "{rules}.x", "--json", "{rules}.x"], "--json .*gates.toml.x is the file of --columns"),
        (["--json", "{rules}.x", "--junit", "{rules}.x"], "--json .* is the file of --junit"),
    ],
)
def test_a_report_is_never_written_over_what_is_read(
    flags: list[str], words: str, command: Callable[..., Said], run: Path, tmp_path: Path
) -> None:
    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for top in (run, tmp_path) for file in top.rglob("*") if file.is_file()}

    (tmp_path / "gates.toml").write_text(PASSING, "utf-8")
    (tmp_path / "gates.toml.c").touch()
    before = content()
    said = command(run, PASSING, *(flag.format(rules=tmp_path / "gates.toml", run=run) for flag in flags))
    assert (said.code, said.out, content()) == (2, "", before)
    assert re.fullmatch(f"predboard: {words}.*\n", said.err), said.err


def test_an_incomplete_run_fails_unless_it_is_allowed(command: Callable[..., Said], tmp_path: Path) -> None:
    run = write(tmp_path / "run", rows(), shard_size=16)
    sorted(run.glob("*/*.parquet"))[1].unlink()
    loose = rule("accuracy", min=0)
    said = command(run, loose)
    assert said.code == 1
    assert "FAIL     images/missing = 0" in said.out
    assert "16 of 40 rows are missing, possibly whole classes" in said.out
    said = command(run, loose, "--allow-incomplete")
    assert said.code == 0
    assert "images/missing" not in said.out
    assert "22 of 40 images evaluated, 16 missing, 1 failed, 1 without a label" in said.out


def test_without_labels_there_is_nothing_to_test_and_so_it_fails(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [replace(row, label=None) for row in rows()])
    assert findings_of(run, "accuracy", min=0)["accuracy"][0] == "fail"
    assert findings_of(run, "classes/*/recall", min=0)["classes/*/recall"][0] == "fail"
    assert findings_of(run, "images/failed", max=1)["images/failed"][0] == "pass"


def test_a_class_without_images_fails_and_so_does_a_star_over_it(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [row for row in rows() if row.label != 2])
    assert findings_of(run, "classes/日本/recall", min=0) == {"classes/日本/recall": ("fail", None, None)}
    found = findings_of(run, "classes/*/recall", min=0)
    assert [outcome for outcome, *_ in found.values()] == ["pass", "pass", "fail"]


def test_steps_are_chosen(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for step, label in ((3, 1), (7, 2)):
        made = write(tmp_path / f"s{step}", [replace(row, said=label) for row in rows()], step=(step,))
        step_folder(made, step).rename(step_folder(run, step))
    right = {3: 10 / 39, 7: 8 / 39}
    for wanted, number in ((None, 7), (3, 3), (7, 7)):
        done = predboard.gate(run, [{"metric": "accuracy", "min": 0}], step=wanted)
        assert done.step == number
        assert done.verdicts[-1].findings[0].value == pytest.approx(right[number])
    against = predboard.gate(run, [{"metric": "accuracy", "max_drop": 0.05}], run, baseline_step=3)
    assert (against.step, against.baseline_step, against.outcome) == (7, 3, "fail")
    assert against.verdicts[-1].findings[0].value == pytest.approx(-2 / 39)


# Against a baseline.


def changed(*changes: tuple[int, int]) -> list[Row]:
    """The rows with what is said of some of them changed."""
    found = rows()
    for i, said in changes:
        found[i] = replace(found[i], said=said)
    return found


def test_a_drop_by_hand(run: Path, tmp_path: Path, command: Callable[..., Said]) -> None:
    new = write(tmp_path / "worse", changed((0, 2), (1, 2), (16, 0)))  # two broken, one fixed, all of the first class
    for metric, drop, images in (("accuracy", 1 / 38, 38), ("classes/River/Lake/recall", 1 / 20, 20)):
        for limit, outcome in ((drop - 1e-6, "fail"), (drop, "pass")):
            (finding,) = predboard.gate(new, [{"metric": metric, "max_drop": limit}], run).verdicts[-1].findings
            assert finding.outcome == outcome
            assert finding.value == pytest.approx(-drop)
            assert finding.rows == images
            assert (finding.old, finding.new) == (pytest.approx(finding.new + drop), pytest.approx(finding.old - drop))  # type: ignore[operator]  # both are there
    said = command(new, rule("slices/country=*/accuracy", max_drop=0.0), "--baseline", run)
    assert said.code == 1
    assert "1 of 2 failed" in said.out
    assert "country=NO: fell from 0.7895 to 0.7368, by 0.0526: worse by more than 0" in said.out
    assert "gate: worse, step 0 against new, step 0" in said.out


def test_rules_cross_the_columns_that_they_name(tmp_path: Path) -> None:
    crossed = "slices/country=NO & half=low/accuracy"
    first, second = (
        with_halves(write(tmp_path / name, [replace(row, said=0 if row.image in ids else row.said) for row in rows()]))
        for name, ids in (("old", ()), ("new", ("021.png",)))
    )
    rules = [{"metric": crossed, "min": 0.5}, {"metric": "slices/country=*/accuracy", "min": 0}]
    result = predboard.gate(second, rules)
    inside = [row for i, row in enumerate(rows()) if i % 2 and i < 20]
    (finding,) = result.verdicts[1].findings
    assert finding.value == pytest.approx(sum(row.label == row.said for row in inside) / len(inside))
    assert finding.rows == len(inside)
    assert [f.metric for f in result.verdicts[2].findings] == [f"slices/country={c}/accuracy" for c in ("NO", "SE")]
    every = predboard.gate(second, [{"metric": "slices/half=* & country=*/accuracy", "max_drop": 0.0}], first)
    (verdict,) = every.verdicts[1:]
    assert [f.metric for f in verdict.findings_with("fail")] == ["slices/half=high & country=NO/accuracy"]
    assert len(verdict.findings) == 4
    missing = predboard.gate(second, [{"metric": "slices/country=NO & nothing=1/accuracy", "min": 0}])
    assert missing.outcome == "fail"


def with_halves(run: Path) -> Path:
    """Add a column to a run: `low` for the first 20 rows, `high` for the others."""

    lines = (run.with_suffix(".csv")).read_text("utf-8").splitlines()
    halves = ["half", *("low" if i < 20 else "high" for i in range(len(lines) - 1))]
    table = run.with_suffix(".csv")
    table.write_text("\n".join(f"{line},{half}" for line, half in zip(lines, halves, strict=True)), "utf-8")
    shutil.rmtree(run)
    import_predictions(
        ImportConfig("probabilities", (table,), out=run, classes=run.with_suffix(".txt"), pictures=False)
    )
    return run


ABSENT = ("accuracy_top5", "positive/", "groups/")
"""Beginnings of the names of figures that three classes without groups do not have."""

EVERY = tuple(name for name, better in metric_directions().items() if better != "neither")


@pytest.mark.parametrize("bound", ["point", "lower", "upper"])
def test_against_itself_nothing_is_worse(bound: str, run: Path) -> None:
    every = [{"metric": name, "max_drop": 0, "bound": bound} for name in EVERY if not name.startswith(ABSENT)]
    done = predboard.gate(run, every, run)
    assert done.outcome == "pass"
    values = [f.value for verdict in done.verdicts[1:] for f in verdict.findings]
    assert len(values) > 40
    assert set(values) == {0.0}
    assert done.paired == {
        "compared": 38,
        **dict.fromkeys(("only_old", "only_new", "labels_differ", "pictures_differ"), 0),
        **{"failed_old": 1, "failed_new": 1},
    }


def test_one_image_more_moves_nothing_else(run: Path, tmp_path: Path) -> None:
    more = [*rows()[:7], Row("007a.png", 0, 2), *rows()[7:]]
    new = write(tmp_path / "more", more)
    every = [{"metric": n, "max_drop": 0, "max_unpaired": 0.1} for n in ("accuracy", "f1_macro", "nll", "classes/*/f1")]
    done = predboard.gate(new, every, run)
    assert done.outcome == "pass"
    assert done.paired["only_new"] == 1
    assert {f.value for verdict in done.verdicts[1:] for f in verdict.findings} == {0.0}
    (finding,) = predboard.gate(new, [{"metric": "accuracy", "max_drop": 0}], run).verdicts[-1].findings
    assert finding.outcome == UNCLEAR
    assert "2.6 % of the images have no counterpart in the other run, more than max_unpaired = 0.01" in finding.why


def test_the_same_of_fewer_images_is_no_certain_difference(run: Path, tmp_path: Path) -> None:
    """Figures that are not paired are those of other images then, so they differ, and not without uncertainty."""
    fewer = write(tmp_path / "fewer", rows()[:37])
    every = [{"metric": n, "max_drop": 1, "max_unpaired": 1} for n in ("brier", "auroc_macro", "aurc", "accuracy")]
    found = [v.findings[0] for v in predboard.gate(fewer, every, run).verdicts[1:]]
    for finding in found:
        assert finding.value is not None
        assert finding.interval is not None
        assert finding.interval[0] <= finding.value <= finding.interval[1]
    assert [f.value == 0 for f in found] == [False, False, False, True]
    assert found[-1].interval == (0.0, 0.0)


def test_images_that_are_missing_on_either_side_are_too_little_evidence(run: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few", rows()[:30])
    drop = [{"metric": "accuracy", "max_drop": 0.9}]
    for new, old in ((few, run), (run, few)):
        done = predboard.gate(new, drop, old)
        assert done.code == 3
        assert predboard.gate(new, [{**drop[0], "max_unpaired": 0.3}], old).code == 0
    relabelled = write(
        tmp_path / "relabelled", [replace(row, label=1) if i < 4 else row for i, row in enumerate(rows())]
    )
    done = predboard.gate(relabelled, drop, run)
    assert (done.code, done.paired["labels_differ"]) == (3, 4)
    other = write(tmp_path / "other", [replace(row, image=f"x{row.image}") for row in rows()])
    found = predboard.gate(other, [{**drop[0], "max_unpaired": 1}], run).verdicts[-1].findings[0]
    assert (found.outcome, found.why) == (UNCLEAR, "no image that it could be computed from is in both runs")


def test_a_class_that_the_baseline_lacks_cannot_be_compared(run: Path, tmp_path: Path) -> None:
    more = write(tmp_path / "more", [*rows(), Row("z.png", 3, 3)], (*CLASSES, "sea"))
    drop = [{"metric": "classes/*/recall", "max_drop": 0, "max_unpaired": 0.1}]
    with pytest.raises(
        InputError, match=r"the classes differ: class 3 is none in .*new and 'sea' in .*more .*map_classes="
    ):
        predboard.gate(more, drop, run)
    done = predboard.gate(more, drop, run, map_classes=True)
    found = {f.metric: f.outcome for f in done.verdicts[-1].findings}
    assert found == {**{f"classes/{name}/recall": "pass" for name in CLASSES}, "classes/sea/recall": UNCLEAR}


def test_figures_that_are_not_paired_are_subtracted(run: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "surer", [replace(row, p=0.9) for row in rows()])
    for metric in ("brier", "auroc_macro", "accuracy_top2", "slices/country=NO/nll", "classes/a b/average_precision"):
        here, there = (measure_step(open_run(r)[-1], metric_directions(), 1).metrics[metric] for r in (new, run))
        done = predboard.gate(new, [{"metric": metric, "max_drop": 1, "bound": "lower"}], run)
        (finding,) = done.verdicts[-1].findings
        assert finding.value == here.value - there.value
        assert (finding.old, finding.new) == (there.value, here.value)


def test_the_interval_of_a_difference_that_is_not_paired_by_hand() -> None:
    """Newcombe 1998, table II, case (a) by method 10: 56/70 against 48/80."""
    new, old = (Metric(k / n, wilson_interval(k, n), method="Wilson", rows=n) for k, n in ((56, 70), (48, 80)))
    found = independent_difference(old, new, identical=False)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.rows == 70
    assert independent_difference(old, new, identical=True).interval == (0.0, 0.0)
    assert independent_difference(old, new, identical=True).method == IDENTICAL_METHOD
    assert independent_difference(replace(old, interval=None), new, identical=False).interval is None


def test_quarters_of_a_number_are_those_of_the_run_also_where_the_baseline_lacks_images(tmp_path: Path) -> None:
    height = [replace(row, country=str(100 + i)) for i, row in enumerate(rows())]
    new, old = write(tmp_path / "new", height), write(tmp_path / "old", height[:30])
    rules = [
        {"metric": f"slices/country*/{name}", key: 0, **more}
        for name, key, more in (("images", "min", {}), ("accuracy", "max_drop", {"max_unpaired": 1}))
    ]
    quarters, drops = predboard.gate(new, rules, old).verdicts[1:]
    assert [f.value for f in quarters.findings] == [10, 9, 10, 9]
    found = {f.metric: (f.outcome, f.rows) for f in drops.findings}
    names = [f.metric.replace("/images", "/accuracy") for f in quarters.findings]
    assert found == dict(zip(names, [("pass", n) for n in (10, 9, 10, 1)], strict=True))


def test_a_baseline_that_no_rule_needs_is_said(run: Path, command: Callable[..., Said]) -> None:
    said = command(run, PASSING, "--baseline", run)
    assert said.code == 0
    assert "no rule has max_drop, so the baseline is not used" in said.err
    assert "against" not in said.out


def test_predictions_may_lie_in_storage(run: Path, tmp_path: Path) -> None:
    files = fake_storage.empty()
    here = write(tmp_path / "here", changed((0, 2)))
    there = copied(files, here, "gate/here")
    rules = [{"metric": "accuracy", "min": 0.5, "max_drop": 0.02}, {"metric": "label_issues/suspected", "max": 99}]
    expected = predboard.gate(here, rules, run)
    assert expected.outcome == "fail"
    assert predboard.gate(there, rules, run) == expected
    assert predboard.gate(str(there), rules, copied(files, run, "gate/new")) == expected
    with pytest.raises(InputError, match="fake://gate/none"):
        predboard.gate("fake://gate/none", rules, run)
    files.pipe_file("/gate/rules.toml", b'[[rule]]\nmetric = "accuracy"\nmin = 0.5\nmax_drop = 0.02\n')
    assert main.run(["gate", str(there), "--rules", "fake://gate/rules.toml", "--baseline", str(run)]) == 1
    assert main.run(["gate", str(there), "--rules", "fake://gate/rule.toml"]) == 2


# A first file of rules.


@pytest.mark.parametrize("baseline", [False, True])
def test_the_suggested_rules_pass_on_the_run_they_were_made_from(
    baseline: bool, tmp_path: Path, command: Callable[..., Said]
) -> None:
    many = [replace(row, image=f"{k}/{row.image}") for k in range(8) for row in rows()]
    weak = [replace(row, country="IS", said=0 if row.label else 1) if i % 5 == 0 else row for i, row in enumerate(many)]
    new = write(tmp_path / "new\x7f", weak)
    against = ["--baseline", write(tmp_path / "old", many)] if baseline else []
    said = command(new, "", "--suggest", *against)
    assert said.code == 0
    assert len(said.out.splitlines()) < 50
    found = tomllib.loads(said.out)["rule"]
    metrics = [record["metric"] for record in found]
    assert metrics[:4] == ["accuracy", "f1_macro", "calibration/ece", "classes/*/recall"]
    assert (
        "slices/country=IS/accuracy" not in metrics
    )  # none of it is right: no limit that it passes would say anything
    assert {"metric": "images/failed", "max": 8} in found
    assert [record["metric"] for record in found if "max_drop" in record] == ["accuracy", "classes/*/recall"] * baseline
    again = command(new, said.out, *against)
    assert again.code == 0, again.out
    (finding,) = predboard.gate(new, [{"metric": "accuracy", "min": 0}]).verdicts[-1].findings
    value = finding.value
    assert value is not None and finding.interval is not None
    assert finding.interval[0] - 0.001 < found[0]["min"] <= finding.interval[0]
    tighter = re.sub(r"min = 0\.\d+", f"min = {value + 0.001:.4f}", said.out, count=1)
    assert command(new, tighter, *against).code == 1


def test_a_weak_slice_is_suggested_with_its_name(tmp_path: Path, command: Callable[..., Said]) -> None:
    name = 'a"b\\c\x7f'
    many = [Row(f"{i:04d}", i % 2, i % 2 if i % 10 or i >= 400 else 1 - i % 2, "fine") for i in range(400)]
    many += [Row(f"w{i:04d}", i % 2, i % 2 if i % 3 else 1 - i % 2, name) for i in range(300)]
    said = command(write(tmp_path / "run", many), "", "--suggest")
    metrics = [record["metric"] for record in tomllib.loads(said.out)["rule"]]
    assert f"slices/country={name}/accuracy" in metrics
    assert command(tmp_path / "run", said.out).code == 0


def test_suggested_rules_pass_where_images_are_missing_on_either_side(
    run: Path, tmp_path: Path, command: Callable[..., Said]
) -> None:
    more = write(tmp_path / "more", [*rows(), *(Row(f"x{i}", i % 3, i % 3) for i in range(30))])
    said = command(more, "", "--suggest", "--baseline", run)
    found = tomllib.loads(said.out)["rule"]
    assert [record["max_unpaired"] for record in found if "max_drop" in record] == [0.45, 0.45]  # 30 of 68
    assert command(more, said.out, "--baseline", run).code == 0
    part = write(tmp_path / "part", rows(), shard_size=16)
    sorted(part.glob("*/*.parquet"))[1].unlink()
    said = command(part, "", "--suggest")
    assert said.err == "warning: 16 of 40 rows are missing, so these rules pass only with --allow-incomplete\n"
    assert command(part, said.out, "--allow-incomplete").code == 0
    assert command(part, said.out).code == 1


def test_without_labels_only_counts_are_suggested(tmp_path: Path, command: Callable[..., Said]) -> None:
    run = write(tmp_path / "run", [replace(row, label=None) for row in rows()])
    said = command(run, "", "--suggest")
    assert [record["metric"] for record in tomllib.loads(said.out)["rule"]] == ["images/failed"]
    assert "# No image has both logits and a label" in said.out
    assert command(run, said.out).code == 0


# From Python, and without torch.


def test_from_python(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    report = tmp_path / "gate.json"
    done = predboard.gate(str(run), [{"metric": "accuracy", "min": 0.9}], json=str(report), log=said.append)
    assert isinstance(done, GateResult)
    assert (done.outcome, done.code, done.run) == ("fail", 1, "new")
    assert [finding.metric for verdict in done.verdicts for finding in verdict.findings_with("fail")] == ["accuracy"]
    assert json.loads(report.read_text())["outcome"] == "fail"
    assert said == [f"wrote {report}"]
    (tmp_path / "gates.toml").write_text(rule("accuracy", min=0.9))
    assert predboard.gate(run, tmp_path / "gates.toml") == done
    assert predboard.gate(GateConfig(run, tmp_path / "gates.toml")) == done
    with pytest.raises(InputError, match="gate has no option 'jnit'; did you mean 'junit'"):
        predboard.gate(run, [], jnit="x")
    with pytest.raises(InputError, match="rules has no rule"):
        predboard.gate(run, [])
    with pytest.raises(InputError, match=r"rule 1 .*no key 'mni'"):
        predboard.gate(run, [{"metric": "accuracy", "mni": 1}])


def test_a_gate_needs_no_torch(run: Path, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(PASSING)
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not installed here')")
    code = (
        "import sys; from predboard.cli.main import run\n"
        "assert run(['gate', sys.argv[1], '--rules', sys.argv[2]]) == 0\n"
        "print(sorted({'torch', 'tensorflow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), str(tmp_path / "gates.toml")],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{toy.PYTHONPATH}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# Real models.

EUROSAT = toy.SHARED / "eurosat_rgb"
CIFAR = toy.SHARED / "cifar10_resnet"


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps of a real training, from the logits that its checkpoints gave."""
    if not EUROSAT.is_dir():
        pytest.skip(f"needs the real predictions in {EUROSAT}")
    out = tmp_path_factory.mktemp("eurosat") / "eurosat"
    files = tuple(sorted((EUROSAT / "small_cnn").glob("*_testlogits.npy")))
    images = str(EUROSAT / "splits/test.txt")
    import_predictions(ImportConfig("logits", files, images=images, labels_from_folders=True, pictures=False, out=out))
    return out


def test_eurosat(eurosat: Path, command: Callable[..., Said]) -> None:
    published = {
        1: (0.6663, 0.9387),
        3: (0.8041, 0.5602),
        6: (0.8698, 0.3778),
        9: (0.9237, 0.2194),
        12: (0.9524, 0.1409),
    }
    for step, (accuracy, nll) in published.items():
        rules = [{"metric": "accuracy", "min": accuracy - 5e-5, "max": accuracy + 5e-5}]
        rules += [{"metric": "nll", "min": nll - 5e-5, "max": nll + 5e-5}, {"metric": "images/counted", "min": 5400}]
        assert predboard.gate(eurosat, rules, step=step).outcome == "pass"
    # The last is surely better than the one before, and the other way round clearly worse.
    drop = [
        {"metric": "accuracy", "max_drop": 0.02, "bound": "lower"},
        {"metric": "nll", "max_drop": 0.02, "bound": "upper"},
    ]
    assert predboard.gate(eurosat, drop, eurosat, step=12, baseline_step=9).outcome == "pass"
    back = predboard.gate(eurosat, drop, eurosat, step=9, baseline_step=12)
    assert [verdict.outcome for verdict in back.verdicts] == ["pass", "fail", "fail"]
    said = command(eurosat, "", "--suggest", "--baseline", eurosat, "--baseline-step", "9")
    assert command(eurosat, said.out, "--baseline", eurosat, "--baseline-step", "9").code == 0
    assert command(eurosat, said.out, "--baseline", eurosat, "--step", "9").code == 1


def test_all_differences_that_are_called_paired_are(eurosat: Path) -> None:
    first, *_, last = open_run(eurosat)
    found = Comparison(count_pairs(first, last, ClassMapping(last.run.classes)), last.run.classes).differences
    paired = {spec.name for spec in registry.METRICS if spec.paired and spec.group != "positive"}  # of two classes
    assert {pattern_of(name) for name in found} <= paired
    missing = paired - {pattern_of(name) for name in found}
    assert all(name.startswith(("slices/", "groups/")) for name in missing)  # it has no columns, and no file of groups
    assert set(metric_directions()) >= paired


def test_the_resnets_of_cifar_cannot_be_told_apart(tmp_path: Path) -> None:
    if not CIFAR.is_dir():
        pytest.skip(f"needs the real predictions in {CIFAR}")
    with zipfile.ZipFile(CIFAR / "cifar10_test1000_png.zip") as archive:
        (tmp_path / "list.csv").write_bytes(archive.read("labels.csv"))
    for depth in (20, 32):
        file = CIFAR / f"reference/resnet{depth}_png1000_logits.npy"
        config = ImportConfig(
            "logits", (file,), images=str(tmp_path / "list.csv"), pictures=False, out=tmp_path / str(depth)
        )
        import_predictions(config)
    for new, old, bound, expected in (  # 92.8 % and 91.5 % of 1,000
        (32, 20, "point", "pass"),
        (20, 32, "point", "fail"),
        (20, 32, "lower", UNCLEAR),
        (20, 32, "upper", "pass"),
    ):
        rules = [{"metric": "accuracy", "max_drop": 0.012, "bound": bound}]
        assert predboard.gate(tmp_path / str(new), rules, tmp_path / str(old)).outcome == expected


def test_the_jobs_in_the_documentation_are_yaml_with_flags_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    page = (toy.ROOT / "docs/gates.md").read_text("utf-8")
    jobs = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(jobs) == 3
    assert all("predboard gate " in json.dumps(job, default=str) for job in jobs)
    known = {name.replace("_", "-") for name in GateConfig.__dataclass_fields__}
    for command in re.findall(r"predboard gate ((?:[^\n\\]|\\\n|\n +--)*)", page):
        assert set(re.findall(r"--([a-z-]+)", command)) <= known


def test_the_figures_that_a_star_means_are_found_among_a_thousand_classes() -> None:
    every = [f"classes/c{i:03d}/{n}" for i in range(1000) for n in ("support", "recall", "precision")]
    assert len(match_names("classes/*/recall", every)) == 1000
    assert match_names("classes/c00*/precision", every) == [f"classes/c00{i}/precision" for i in range(10)]


@pytest.mark.parametrize(("column", "value"), [("loss", None), ("loss", -math.inf), ("predicted", 1), ("logits", None)])
def test_no_gate_passes_on_rows_that_contradict_themselves(
    tmp_path: Path, command: Callable[..., Said], column: str, value: Any
) -> None:
    run = write(tmp_path / "new", rows())
    (part,) = run.rglob("*.parquet")
    with pq.ParquetFile(part) as file:
        table = file.read()
    values = table[column].to_pylist()
    values[0] = value
    field = table.schema.field(column)
    table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(table, part)
    for metric in ("accuracy", "images/failed", "calibration/ece"):
        answer = command(run, f"[[rule]]\nmetric = {metric!r}\nmax = 1")
        assert answer.code == 2, answer
        assert re.search(r"part-00000.parquet is damaged \(\w+ of row 0 is ", answer.err)


def _hit_all(table: pa.Table) -> pa.Table:
    """As someone might forge it: the highest logit of each row moved to the label, and what follows from the logits."""
    logits, label = table["logits"].to_pylist(), table["label"].to_pylist()
    columns = {name: table[name].to_pylist() for name in ("predicted", "confidence", "loss", "margin", "entropy")}
    for i, c in enumerate(label):
        if c is not None and logits[i] is not None:
            logits[i] = np.roll(np.sort(logits[i])[::-1], c).astype(np.float32)
            for name, value in derive(logits[i][None], np.array([c])).items():
                columns[name][i] = value[0]
    return _with(table, logits=logits, **columns)


def _with(table: pa.Table, **columns: Any) -> pa.Table:
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (_hit_all, "its rows do not match its digest"),
        (lambda t: _with(t, label=t["predicted"], loss=-np.log(t["confidence"].to_numpy())), "manifest_digest"),
        (lambda t: _with(t, image=["a.png"] * len(t), key=[hash64(b"a.png")] * len(t)), "manifest_digest"),
        (lambda t: _with(t, key=[1, *t["key"].to_pylist()[1:]]), "key of row 0 is 1, expected the hash of its image"),
    ],
)
def test_no_gate_passes_on_rows_that_are_not_those_that_were_written(
    tmp_path: Path, command: Callable[..., Said], forge: Callable[[pa.Table], pa.Table], message: str
) -> None:
    run = write(tmp_path / "new", rows())
    (part,) = run.rglob("*.parquet")
    with pq.ParquetFile(part) as file:
        table = file.read()
    pq.write_table(forge(table), part)
    for metric in ("accuracy", "calibration/ece"):  # which reads no logits, and which does
        answer = command(run, f"[[rule]]\nmetric = {metric!r}\nmax = 1")
        assert answer.code == 2, answer
        assert re.search(f"part-00000.parquet is damaged .*{message}", answer.err)
    if "digest" in message:
        with pytest.raises(InputError, match=message):
            visualize(VisualizeConfig((run,), logdir=tmp_path / "logs"))
    if message == "manifest_digest":
        with pytest.raises(InputError, match=message):
            predboard.compare(write(tmp_path / "old", rows()), run, logdir=tmp_path / "logs")
    (damage,) = inspect(run).facts["damaged"].values()
    assert message in damage
