"""The command `compare`: what it writes, what it refuses, and when it writes nothing."""

import dataclasses
import importlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pytest

import predboard
from predboard import CompareConfig, ImportConfig, InputError, VisualizeConfig
from predboard.cli import main
from predboard.comparison import changes, join, report
from predboard.comparison.compare import CompareResult, compare
from predboard.ingest.ingest import import_predictions
from predboard.predictions.schema import Run
from predboard.storage.paths import AnyPath
from predboard.visualization import log_folder
from predboard.visualization.visualize import visualize
from tests import toy
from tests.gating.test_gate import rows, with_halves, write

ROWS = 600


def run(folder: Path, seed: int = 0, classes: tuple[str, ...] = toy.RUN.classes, **more: Any) -> Path:
    """A run of one step over the same images as every other; the seed makes another model of it."""
    label = np.random.default_rng(0).integers(0, len(classes), ROWS)
    random = np.random.default_rng(seed)
    logits = random.normal(size=(ROWS, len(classes))).astype(np.float32)
    logits[np.arange(ROWS), label] += random.choice([1.0, 4.0], ROWS).astype(np.float32)
    if "rows" in more:
        rows = more.pop("rows")
        logits, label = logits[rows], label[rows]
    config = dataclasses.replace(toy.RUN, classes=classes, step=more.pop("step", 0), thumbnails=8)
    toy.write_run(folder, logits, more.pop("label", label), config, shard_size=more.pop("shard_size", 250), **more)
    return folder


def compared(*predictions: Path, **options: Any) -> CompareResult:
    return compare(CompareConfig(predictions, predictions[0].parent / "logs", **options))


def contents(folder: AnyPath) -> dict[str, bytes]:
    folder = toy.local(folder)
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def table(done: CompareResult) -> pd.DataFrame:
    return pd.read_parquet(toy.local(done.folder) / changes.CHANGES_FILE)


def test_what_is_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    assert main.run(["compare", str(old), str(new), "--logdir", str(tmp_path / "logs")]) == 0
    said = capsys.readouterr()
    folder = tmp_path / "logs/new vs old"
    files = {p.name for p in folder.iterdir()} - {".lock", log_folder.RECORD_FILE}
    (event_file,) = (f for f in files if "tfevents" in f)
    assert files == {event_file, "compare.json", "changes.parquet", "transitions.csv"}
    found = json.loads((folder / "compare.json").read_text())
    assert said.out.splitlines() == [
        found["verdict"],
        f"new vs old: -> {folder / event_file}",
        f"next: predboard board --logdir {tmp_path / 'logs'}",
    ]
    assert found["verdict"].endswith(f" broken of {ROWS} images.")
    assert (found["old"]["name"], found["new"]["name"]) == ("old", "new")
    assert {"accuracy", "nll", "calibration/ece", "classes/class3/f1"} <= set(found["differences"])
    assert found["definitions"]["classes/*/recall"]["interval"].endswith("(Newcombe 1998, method 10)")
    assert "NaN" not in (folder / "compare.json").read_text()


def test_the_table_of_changes_is_the_join_that_pandas_makes(tmp_path: Path) -> None:
    old = run(tmp_path / "old", failed=frozenset({5, 6}))
    label = np.random.default_rng(0).integers(0, 10, ROWS)
    label[10:13] = (label[10:13] + 1) % 10
    label[13] = -1
    label[6] = (label[6] + 1) % 10  # failed both times: nothing changed
    new = run(tmp_path / "new", 1, rows=np.arange(ROWS - 7), label=label[: ROWS - 7], failed=frozenset({6, 7}))
    found = table(compared(old, new))
    a, b = (predboard.open_predictions(p).to_pandas() for p in (old, new))
    names = dict(enumerate(toy.RUN.classes))
    both = a.merge(b, on="key", suffixes=("_old", "_new"), how="outer")

    def kind(row: Any) -> str | None:
        if math.isnan(row.id_new) or math.isnan(row.id_old):
            return "only_old" if math.isnan(row.id_new) else "only_new"
        if math.isnan(row.predicted_new) or math.isnan(row.predicted_old):
            twice = math.isnan(row.predicted_new) and math.isnan(row.predicted_old)
            return None if twice else "failed_new" if math.isnan(row.predicted_new) else "failed_old"
        if row.label_old != row.label_new:
            return "labels_differ"
        was, is_ = row.predicted_old == row.label_old, row.predicted_new == row.label_new
        if was != is_:
            return "fixed" if is_ else "broken"
        return "changed_wrong" if row.predicted_old != row.predicted_new else None

    both["kind"] = [kind(row) for row in both.itertuples()]
    expected = both[both.kind.notna()].sort_values(["id_new", "id_old"]).reset_index(drop=True)
    assert found.kind.tolist() == expected.kind.tolist()
    assert found.kind.value_counts().to_dict() == {
        **found.kind.value_counts().to_dict(),
        "only_old": 7,
        "labels_differ": 4,
        "failed_old": 1,
        "failed_new": 1,
    }
    assert {"fixed", "broken", "changed_wrong"} <= set(found.kind)
    assert found.key.tolist() == expected.key.tolist()
    for side in ("old", "new"):
        for column in ("id", "image", "confidence", "loss"):
            left, right = found[f"{column}_{side}"], expected[f"{column}_{side}"]
            assert left.isna().tolist() == right.isna().tolist()
            assert left.dropna().tolist() == right.dropna().tolist(), column
        for column in ("label", "predicted"):
            right = expected[f"{column}_{side}"].map(names)
            assert found[f"{column}_{side}"].dropna().tolist() == right.dropna().tolist(), column
    assert not found.picture_differs.any()


def test_the_table_is_the_same_however_rows_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    written = []
    monkeypatch.setattr(join, "PORTION_ROWS", 200)
    for way in ("side by side", "by key"):
        if way != "side by side":
            monkeypatch.setattr(join, "_alike", lambda *_: None)
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        done = compared(old, new)
        assert not done.unchanged
        written.append(contents(done.folder))
        assert len(table(done)) > 300
    assert written[0] == written[1]
    assert not [p for p in tmp_path.rglob(".predboard-*") if p.is_dir()]


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    first = compared(old, new)
    (toy.local(first.folder) / "mine.txt").write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in first.folder.iterdir()}
    again = compared(old, new)
    assert again.unchanged
    assert dataclasses.replace(again, unchanged=False) == first
    assert {p: p.stat().st_mtime_ns for p in first.folder.iterdir()} == before
    shutil.rmtree(new)
    other = compared(old, run(new, 2))
    assert not other.unchanged
    assert other.event_file != first.event_file
    assert not first.event_file.exists()
    assert (first.folder / "mine.txt").read_text() == "mine"
    (other.folder / "changes.parquet").unlink()
    assert not compared(old, new).unchanged
    assert (other.folder / "changes.parquet").exists()


def test_a_run_against_itself(tmp_path: Path) -> None:
    one = run(tmp_path / "one", failed=frozenset({1}))
    done = compared(one, one)
    assert done.name == "one vs one"
    assert done.verdict == "one and one give exactly the same predictions for 599 images."
    assert all(d["difference"] == d["lower"] == d["upper"] == 0 for d in done.summary["differences"].values())
    assert {n: r["value"] for n, r in done.summary["rates"].items()} == {
        "churn": 0,
        "agreement": 1,
        "negative_flip_rate": 0,
        "positive_flip_rate": 0,
        "mcnemar_p": 1,
    }
    assert len(table(done)) == 0


def test_an_inserted_image_moves_nothing_else(tmp_path: Path) -> None:
    few = np.arange(ROWS - 1)
    old = run(tmp_path / "old", rows=few)
    before = compare(CompareConfig((old, run(tmp_path / "a/new", 1, rows=few)), tmp_path / "logs a"))
    after = compare(CompareConfig((old, run(tmp_path / "b/new", 1)), tmp_path / "logs b"))
    for field in ("differences", "rates", "by_class", "by_slice", "verdict"):
        assert after.summary[field] == before.summary[field], field
    assert after.summary["rows"] == {**before.summary["rows"], "only_new": 1}
    shown = [toy.read_values(toy.local(done.event_file)) for done in (before, after)]
    galleries = [{k: v.tensor.string_val[:] for k, v in of.items() if k[0].startswith(("2_", "ex"))} for of in shown]
    assert len(galleries[0]) > 2
    assert galleries[0] == galleries[1]  # to the last byte
    *same, last = table(after).to_dict("records")
    assert (last["kind"], last["id_new"]) == ("only_new", ROWS - 1)
    assert same == table(before).to_dict("records")


def test_steps_of_one_run_and_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one"
    for step in (1, 2, 5):
        run(one, step, step=step)
    done = compared(one)
    assert done.name == "one step 5 vs 1, 2"
    found = done.summary
    assert [(p["old"], p["new"]) for p in found["pairs"]] == [
        ("one step 1", "one step 2"),
        ("one step 1", "one step 5"),
        ("one step 2", "one step 5"),
    ]
    best = max(found["ranking"], key=lambda r: r["accuracy"])
    assert found["ranking"][0] == best == {"name": best["name"], "accuracy": best["accuracy"]}
    for ranked in found["ranking"][1:]:
        assert ranked["difference"] <= 0
        assert ranked["difference"] == pytest.approx(ranked["accuracy"] - best["accuracy"])
        assert ranked["lower"] <= ranked["difference"] <= ranked["upper"]
    two = compared(one, step_old=2, step_new=5)
    assert two.name == "one step 5 vs 2"
    assert two.summary["differences"]["accuracy"] == found["pairs"][2]["differences"]["accuracy"]
    first_to_last = compared(one, step_new=5)
    assert first_to_last.name == "one step 5 vs 1"
    runs = [run(tmp_path / name, seed) for seed, name in enumerate("abc")]
    capsys.readouterr()
    assert main.run(["compare", *map(str, runs), "--logdir", str(tmp_path / "logs")]) == 0
    assert (tmp_path / "logs/c vs a, b").is_dir()
    lines = capsys.readouterr().out.splitlines()
    ranked = [line for line in lines if line.endswith(" from the best")]
    assert len(ranked) == 2
    assert all(
        re.fullmatch(r"0\.\d{4} [abc], −\d+\.\d points \(−\d+\.\d to [−+]?\d+\.\d\) from the best", r) for r in ranked
    )
    assert not found["notes"]  # all have the same images
    few = run(tmp_path / "few", 3, rows=slice(ROWS // 2))
    (said,) = [note for note in compared(few, *runs).summary["notes"] if "the pairs share" in note]
    assert said.startswith(f"the pairs share between {ROWS // 2:,} and {ROWS:,} images: ")
    old_step = compare(CompareConfig((one, runs[0]), tmp_path / "logs", step_old=2))
    assert old_step.name == "a vs one step 2"
    assert compare(CompareConfig((one, one), tmp_path / "logs", step_old=2)).name == "one step 5 vs 2"


def test_many_steps_are_thinned_and_long_names_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("predboard.comparison.compare"), "MAX_STEPS", 3)
    one = tmp_path / "one"
    for step in range(5):
        run(one, step, step=step)
    said: list[str] = []
    done = compare(CompareConfig((one,), tmp_path / "logs"), said.append)
    assert done.name == "one step 4 vs 0, 2"
    assert said[0] == "3 of the 5 steps are compared; --step-old and --step-new name two"
    runs = [run(tmp_path / (name * 70), seed) for seed, name in enumerate("abc")]
    long = [compared(runs[0], runs[2]).name, compared(runs[1], runs[2]).name, compared(*runs).name]
    for name, others in zip(long, ("1 other", "1 other", "2 others"), strict=True):
        assert name.startswith(f"{'c' * 70} vs {others} ")
    assert len(set(long)) == 3  # or one would lie in the other's place
    assert compared(runs[0], runs[2]).name == long[0]


@pytest.mark.slow
def test_many_runs_are_compared_with_the_first_and_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(tmp_path / name, seed) for seed, name in zip((1, 2, 0, 3, 4), "abcde", strict=True)]
    every = compared(*runs).summary
    best = "abcde".index(every["ranking"][0]["name"])
    assert best not in (0, 4)
    assert len(every["pairs"]) == 10
    monkeypatch.setattr(importlib.import_module("predboard.comparison.compare"), "MAX_SIDES_ALL_PAIRS", 4)
    said: list[str] = []
    done = compare(CompareConfig(tuple(runs), tmp_path / "fewer"), said.append)
    assert said == ["e vs a, b, c, d: 3,000 rows in 5 steps, each with the first and with the most accurate"]
    found = done.summary
    wanted = {("a", other) for other in "bcde"} | {tuple(sorted(("abcde"[best], other))) for other in "bcde"}
    assert {(p["old"], p["new"]) for p in found["pairs"]} == {(a, b) for a, b in wanted if a != b}
    assert len(found["pairs"]) == 7
    assert all(p in every["pairs"] for p in found["pairs"])
    assert found["ranking"] == every["ranking"]
    assert found["notes"] == [
        "each of the 5 sides is compared only with the first and with the most accurate one, in 7 pairs; name fewer to "
        "compare all pairs"
    ]
    shown = {tag for tag, _ in toy.read_values(done.event_file)}
    assert "1_glance/ranking" in shown and "1_glance/all_pairs" not in shown
    few = [run(tmp_path / f"few{i}", 7 + i, rows=slice(100 * i, 100 * i + 150)) for i in range(3)]
    uneven = compare(CompareConfig((*runs, *few), tmp_path / "uneven"))  # whose best may change with each pair
    assert len(uneven.summary["ranking"]) == 8
    assert [r for r in uneven.summary["ranking"] if "difference" not in r] == uneven.summary["ranking"][:1]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    old, new = run(tmp_path / "monday/net"), run(tmp_path / "tuesday/net", 1)
    assert compare(CompareConfig((old, new), tmp_path / "logs")).name == "tuesday net vs monday net"


def test_other_classes_are_refused_or_mapped(tmp_path: Path) -> None:
    old = run(tmp_path / "old")
    names = (*toy.RUN.classes[1:], toy.RUN.classes[0])
    label = np.random.default_rng(0).integers(0, 10, ROWS)
    new = run(tmp_path / "new", 1, names, label=(label - 1) % 10)
    with pytest.raises(InputError, match=r"class 0 is 'class0' in old and 'class1' in new .*--map-classes"):
        compared(old, new)
    assert not (tmp_path / "logs").exists()
    done = compared(old, new, map_classes=True)
    assert done.summary["mapped"]
    assert done.summary["rows"]["labels_differ"] == 0
    assert done.summary["rows"]["compared"] == ROWS
    a, b = (predboard.open_predictions(p).to_pandas() for p in (old, new))
    right = [
        (x.label.map(dict(enumerate(n))) == x.predicted.map(dict(enumerate(n)))).mean()
        for x, n in ((a, toy.RUN.classes), (b, names))
    ]
    accuracy = done.summary["differences"]["accuracy"]
    assert (accuracy["old"], accuracy["new"]) == pytest.approx(right)


def test_what_is_out_of_the_figures_is_said(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 10, ROWS)
    label[:2] = (label[:2] + 1) % 10
    label[2] = -1
    old = run(tmp_path / "old", failed=frozenset({50}), manifest_rows=ROWS + 5)
    new = run(tmp_path / "new", 1, rows=np.arange(ROWS - 1), label=label[:-1])
    assert compared(old, new).summary["notes"] == [
        "5 rows of old are missing: re-run the command that wrote it",
        "3 images have a different label in the two, or none in one, and are not compared",
        "1 image failed in old and is not compared",
        "1 image is only in old",
    ]


def test_runs_without_labels_still_have_their_churn(tmp_path: Path) -> None:
    none = np.full(ROWS, -1)
    done = compared(run(tmp_path / "old", label=none), run(tmp_path / "new", 1, label=none))
    assert done.verdict.startswith("new and old cannot be compared: none of the 600 images they share has")
    assert set(done.summary["rates"]) == {"churn", "agreement"}
    assert done.summary["differences"] == {}
    assert set(table(done).kind) == {"changed_unlabelled"}
    assert len(table(done)) == done.summary["rows"]["changed"]


def test_rows_that_only_their_numbers_identify_are_not_compared(tmp_path: Path) -> None:
    rows = {"id": [f"n{i}" for i in range(8)], "label": ["a", "b"] * 4, "prob_a": [0.75] * 8, "prob_b": [0.25] * 8}
    for name in ("old", "new"):
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    imports = {
        name: ImportConfig("probabilities", (tmp_path / f"{name}.csv",), tmp_path / name) for name in ("old", "new")
    }
    for config in imports.values():
        import_predictions(config)
    with pytest.raises(InputError, match=r"the images of old have no names.*--images LIST or --key-column"):
        compare(CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs"))
    for config in imports.values():
        import_predictions(dataclasses.replace(config, key_column="id", overwrite=True))
    assert "the same" in compare(CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs")).verdict


def test_runs_without_a_common_image_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, folder in (("old", "val"), ("new", "test"), ("more", "val")):
        (tmp_path / f"{name}.csv").write_text(f"path,prob_a,prob_b,label\n{folder}/1.jpg,1,0,a\n{folder}/2.jpg,0,1,a\n")
        file, out = tmp_path / f"{name}.csv", tmp_path / name
        import_predictions(ImportConfig("probabilities", (file,), out, pictures=False))
    old, new, more = (str(tmp_path / name) for name in ("old", "new", "more"))
    flags = ["--logdir", str(tmp_path / "logs")]
    assert main.run(["compare", old, new, *flags]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "predboard: new and old have no image in common ('test/1.jpg' is in one, 'val/1.jpg' in the other): rows are "
        "joined by key, which is the path below --data, or what --key-column of `predboard infer` and `import` names"
    ]
    assert not any((tmp_path / "logs").iterdir())
    assert main.run(["compare", old, more, new, *flags]) == 1  # two of the three have some
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "0.5000 old",
        "0.5000 more, 0.0 points (0.0 to 0.0) from the best",
        "new and old cannot be compared: they have no image in common.",
    ]


def test_runs_that_failed_on_each_others_images_give_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = ROWS // 2
    old = run(tmp_path / "old", failed=frozenset(range(half)))
    new = run(tmp_path / "new", 1, failed=frozenset(range(half, ROWS)))
    for _ in range(2):  # the second time nothing is written
        assert main.run(["compare", str(old), str(new), "--logdir", str(tmp_path / "logs")]) == 1
        assert "cannot be compared: none of the 600 images they share has logits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which predictions? For example: predboard compare predictions/old predictions/new"),
        (["one"], "one has one step: name another run to compare it with"),
        (["nowhere", "one"], "no folder nowhere: expected a folder of predictions"),
        (["one", "two", "--step-new", "7"], "two has no step 7; there are 0"),
        (["one", "--step-old", "3"], "one has no step 3; there are 0"),
        (["one", "two", "one", "--step-old", "0"], "--step-old and --step-new are for one or two runs; there are 3"),
        (["one", "two", "--image-root", "away"], "no folder away: --image-root is where the source images are now"),
        (["one", "two", "--logdir", "two"], "--logdir two would mix logs into the predictions two"),
        (["one", "two", "--workers", "-1"], "--workers is -1; expected a whole number of at least 0"),
        (["one", "two", "--step-odd", "1"], "did you mean --step-old"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(tmp_path / "one"), run(tmp_path / "two", 1)
    monkeypatch.chdir(tmp_path)
    assert main.run(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_damage_leaves_what_was_there(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    done = compared(old, new)
    before = contents(done.folder)
    toy.spoil(new / "step=00000000/part-00001.parquet", "confidence")
    assert compared(old, new).unchanged  # footers are as they were; rows are read only to be drawn anew
    (done.folder / log_folder.RECORD_FILE).unlink()
    with pytest.raises(InputError, match=r"part-00001\.parquet is damaged"):
        compared(old, new)
    del before[log_folder.RECORD_FILE]
    assert contents(done.folder) == before


def test_a_folder_that_another_process_writes_to_is_left_alone(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    folder = tmp_path / "logs/new vs old"
    folder.mkdir(parents=True)
    with filelock.FileLock(folder / ".lock"), pytest.raises(InputError, match="another process is writing to"):
        compared(old, new)
    assert contents(folder) == {}


def test_the_logs_of_a_run_are_not_replaced(tmp_path: Path) -> None:
    strange = run(tmp_path / "b vs a")
    predboard.visualize(VisualizeConfig((strange,), tmp_path / "logs", panels=("glance",)))
    with pytest.raises(InputError, match="holds the logs of a run, and those of a comparison would replace them"):
        compared(run(tmp_path / "a"), run(tmp_path / "b", 1))


def test_the_files_of_a_comparison_are_not_replaced(tmp_path: Path) -> None:
    done = compared(run(tmp_path / "a"), run(tmp_path / "b", 1))
    before = contents(done.folder)
    with pytest.raises(
        InputError,
        match="b vs a holds the logs of a comparison, and those of a run would replace",
    ):
        predboard.visualize(VisualizeConfig((run(tmp_path / "b vs a"),), tmp_path / "logs", panels=("glance",)))
    assert contents(done.folder) == before


def test_a_comparison_of_other_runs_of_the_same_names_is_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "a/old"), run(tmp_path / "a/new", 1)
    second = run(tmp_path / "b/old", 2), run(tmp_path / "b/new", 3)
    config = CompareConfig(first, tmp_path / "logs")
    before = contents(compare(config).folder)
    with pytest.raises(InputError, match=r"logs/new vs old holds the logs of .*a/old, which these would replace: "):
        compare(dataclasses.replace(config, predictions=second))
    assert contents(tmp_path / "logs/new vs old") == before
    (tmp_path / "a").rename(tmp_path / "c")
    said: list[str] = []
    assert not compare(dataclasses.replace(config, predictions=second), said.append).unchanged
    assert said[1:] == [f"new vs old: replacing logs of {one}, which is no longer there" for one in first]


def test_comparisons_are_no_runs_to_rank(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    compared(old, new)
    assert log_folder.list_runs(tmp_path / "logs") == []
    assert log_folder.list_comparisons(tmp_path / "logs") == ["new vs old"]
    predboard.visualize(VisualizeConfig((old,), tmp_path / "logs", panels=("glance",)))
    assert not log_folder.has_leaderboard(tmp_path / "logs")
    predboard.visualize(VisualizeConfig((new,), tmp_path / "logs", panels=("glance",)))
    assert log_folder.has_leaderboard(tmp_path / "logs")
    assert sorted(log_folder.list_runs(tmp_path / "logs")) == ["new", "old"]


def test_from_python(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", 1)
    done = predboard.compare(old, str(new), logdir=tmp_path / "logs")
    assert predboard.compare(CompareConfig((old, new), tmp_path / "logs")).unchanged
    assert done.summary == json.loads((done.folder / "compare.json").read_text())
    assert report.read_compare(b'{"predboard_compare": 2}') is None
    with pytest.raises(InputError, match="compare has no option 'steps_old'"):
        predboard.compare(old, new, steps_old=3)
    with pytest.raises(InputError, match="step_old= and step_new= are for one or two runs"):
        predboard.compare(old, new, old, step_old=1)


def test_the_verdict_claims_no_more_than_its_interval(tmp_path: Path) -> None:
    label = np.zeros(200, np.int64)

    def model(name: str, right: int) -> Path:
        logits = np.zeros((200, 2), np.float32)
        logits[:, 1] = 1
        logits[:right, 0] = 2 + len(name) / 10
        toy.write_run(tmp_path / name, logits, label, Run(("a", "b"), "m"))
        return tmp_path / name

    low, middle, high = model("low", 150), model("middle", 152), model("high", 190)
    assert compared(low, high).verdict == (
        "high is better than low by 20.0 points of accuracy (14.6 to 26.0): 40 fixed, 0 broken of 200 images."
    )
    assert compared(high, low).verdict == (
        "low is worse than high by 20.0 points of accuracy (14.6 to 26.0): 0 fixed, 40 broken of 200 images."
    )
    assert compared(low, middle).verdict == (
        "middle and low cannot be told apart: +1.0 points of accuracy (−0.9 to +3.0), 2 fixed, 0 broken of 200 images."
    )


def test_crossed_columns_are_slices_of_a_comparison(tmp_path: Path) -> None:
    images = [[dataclasses.replace(row, p=p) for row in rows()] for p in (0.8, 0.7)]
    runs = [with_halves(write(tmp_path / name, of)) for name, of in zip("ab", images, strict=True)]
    logs, cross = tmp_path / "logs", (("country", "half"),)
    crossed = CompareConfig(tuple(runs), logdir=logs, slice=cross)
    by_slice = {flips["name"]: flips for flips in compare(crossed).summary["by_slice"]}
    assert by_slice["country=NO & half=low"]["rows"] == 10
    assert "country=NO" in by_slice
    with pytest.raises(InputError, match="--slice country,haf: no column 'haf'"):
        compare(CompareConfig(tuple(runs), logdir=logs, slice=(("country", "haf"),)))
    (done,) = visualize(VisualizeConfig((runs[0],), logs, panels=("slices",), slice=cross))
    assert "slices/country=NO & half=low/accuracy" in (done.folder / "summary.json").read_text("utf-8")
    assert not visualize(VisualizeConfig((runs[0],), logs, panels=("slices",)))[0].unchanged
