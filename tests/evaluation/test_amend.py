"""Corrected labels and further columns from files, against runs that were written with them, and by hand."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from predboard import CompareConfig, GateConfig, InputError, VisualizeConfig, compare
from predboard.cli import main
from predboard.config import AmendConfig
from predboard.evaluation.amend import Amendments
from predboard.evaluation.measure import MeasureSettings
from predboard.gating.gate import gate, suggest
from predboard.gating.reports import to_record
from predboard.parallel.pool import ProcessPool
from predboard.predictions.digests import ManifestDigest
from predboard.predictions.label_sets import LabelSets, MultiLabels, label_values
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, Part, Run, hash_refs
from predboard.storage.parts import PartWriter, read_batches
from predboard.storage.remote import RemotePath
from predboard.storage.runs import Step, open_run, part_path
from predboard.tab.tags import RELABEL, Tags
from predboard.visualization.visualize import visualize
from tests import fake_storage, toy

pytestmark = pytest.mark.slow

RUN = Run(classes=("cat", "dog", "eel"), model="toy.py:build", root="/photos")
ROWS = 50
NEW = {3: "dog", 4: "cat", 17: "eel", 18: "eel", 49: "cat"}
"""New labels by row, some of them what they were."""

CIFAR = toy.SHARED / "cifar10_saved_predictions"


def ref(row: int) -> str:
    return f"{row:06d}.png"


def write(folder: Path, step: int = 0, new: dict[int, str] | None = None, **more: Any) -> Path:
    """A run in parts of 16 rows; row 18 has failed, row 4 has no label."""
    logits, label = toy.table(RUN, ROWS, seed=step)[0], toy.table(RUN, ROWS)[1]
    label[4] = -1
    for row, name in (new or {}).items():
        label[row] = RUN.classes.index(name)
    run = dataclasses.replace(RUN, step=step, **more)
    toy.write_run(folder, logits, label, run, shard_size=16, failed=frozenset({18}))
    return folder


def labels_of(steps: tuple[Step, ...] | list[Step]) -> list[int]:
    """The labels that are read, of the last step."""
    return [int(i) for part in steps[-1].parts for rows in read_batches(part, {"label"}) for i in rows.label]


def attached(run: Path, **files: Any) -> tuple[Step, ...]:
    return Amendments(AmendConfig(**files)).attach(open_run(run)).steps


def as_csv(file: Path) -> Path:
    lines = [f"{ref(row)},{label}" for row, label in NEW.items()]
    file = file.with_suffix(".csv")
    file.write_text("\n".join(["image,label", *lines, ""]))
    return file


def as_paths(file: Path) -> Path:
    file = file.with_suffix(".tsv")
    lines = [f"/photos/./{ref(row)}\t{label}" for row, label in NEW.items()]
    file.write_text("\n".join(["Path\tTrue Label", *lines, f"{ref(5)}\t", ""]))  # an empty cell leaves the label
    return file


def as_object(file: Path) -> Path:
    file = file.with_suffix(".json")
    file.write_text(json.dumps({ref(row): label for row, label in NEW.items()}))
    return file


def as_records(file: Path) -> Path:
    file = file.with_suffix(".json")
    keys = hash_refs(map(ref, NEW)).tolist()
    file.write_text(json.dumps([{"key": str(k), "label": label} for k, label in zip(keys, NEW.values(), strict=True)]))
    return file


def as_lines(file: Path) -> Path:
    file = file.with_suffix(".jsonl")
    lines = [{"row": row, "label": RUN.classes.index(label)} for row, label in NEW.items()]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def as_parquet(file: Path) -> Path:
    file = file.with_suffix(".parquet")
    keys = pa.array(hash_refs(map(ref, NEW)))
    pq.write_table(pa.table({"key": keys, "label": pa.array(NEW.values()).dictionary_encode()}), file)
    return file


def as_export(file: Path) -> Path:
    """What the tab exports: a row for each selected image, and a class for those that somebody relabelled."""
    file = file.with_suffix(".csv")
    rows = [(hash_refs([ref(i)])[0], ref(i), "cat", NEW.get(i, "")) for i in range(ROWS)]
    file.write_text("key,image,true,relabel_to\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    return file


def as_tags(file: Path) -> Path:
    """The tags of a folder of logs, with changes that were taken back and images of other runs."""
    file = file.parent / "predboard_tags.jsonl"
    tags = Tags(file)
    key = {row: int(hash_refs([ref(row)])[0]) for row in range(ROWS)}
    tags.change("hard", True, [key[9]])
    tags.change(RELABEL, True, [key[3], key[9]], "cat")
    for row, label in NEW.items():
        tags.change(RELABEL, True, [key[row]], label)
    tags.change(RELABEL, True, [12345], "dog")
    tags.change(RELABEL, False, [key[9]])
    return file


@pytest.mark.parametrize(
    "form",
    [as_csv, as_paths, as_object, as_records, as_lines, as_parquet, as_export, as_tags],
    ids=lambda f: f.__name__,
)
def test_labels_may_come_in_any_of_these_forms(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    run, written = write(tmp_path / "run"), write(tmp_path / "written", new=NEW)
    assert labels_of(open_run(run)) != labels_of(open_run(written))
    assert labels_of(attached(run, labels=form(tmp_path / "new"))) == labels_of(open_run(written))


def test_logs_are_those_of_a_run_that_was_written_with_the_new_labels(tmp_path: Path) -> None:
    write(tmp_path / "as_it_was/run", 1)
    write(tmp_path / "corrected/run", 1, NEW)
    for name, labels in (("as_it_was", as_csv(tmp_path / "new")), ("corrected", None)):
        folder = tmp_path / name
        panels = ("glance", "metrics", "classes", "confusion", "calibration", "label_issues", "slices", "report")
        config = VisualizeConfig((folder / "run",), folder / "logs", panels=panels, log_every=50, labels=labels)
        visualize(config, lambda _: None)
    a, b = (tmp_path / f"{name}/logs/run" for name in ("as_it_was", "corrected"))
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    effect = summaries[0].pop("corrected_labels")
    assert summaries[0] == summaries[1]
    assert pq.read_table(a / "rows.parquet").equals(pq.read_table(b / "rows.parquet"))
    for file in ("errors.csv", "classes.csv", "pairs.csv", "slices.csv", "suspects.csv"):
        assert (a / file).read_bytes() == (b / file).read_bytes()
    before = pd.read_parquet(tmp_path / "as_it_was/run/step=00000001").query("label.notna() and predicted.notna()")
    assert effect["1"]["before"] == pytest.approx((before.label == before.predicted).mean())
    assert effect["1"]["after"] == pytest.approx(summaries[1]["steps"]["1"]["accuracy"]["value"])
    pages = [toy.read_values(next(folder.glob("events*"))) for folder in (a, b)]
    new = {tag for tag, _ in pages[0]} - {tag for tag, _ in pages[1]}
    assert new == {"report/labels", "report/corrected_labels"}


def test_what_new_labels_do_is_counted_by_hand(tmp_path: Path) -> None:
    """Twelve images, all predicted as cat: six of the eight cats become dogs, one of the four dogs a cat."""
    label = np.array([0] * 8 + [1] * 4)
    toy.write_run(tmp_path / "run", np.tile(np.array([[2.0, 1, 0]], np.float32), (12, 1)), label, RUN, shard_size=5)
    file = tmp_path / "new.json"
    file.write_text(json.dumps({**{ref(row): "dog" for row in range(6)}, ref(8): "cat", ref(9): "dog"}))
    effect = Amendments(AmendConfig(labels=file)).attach(open_run(tmp_path / "run")).effects[0]
    assert (effect.named, effect.replaced, effect.gained, effect.lost) == (8, 7, 1, 6)
    assert (effect.before, effect.after) == (8 / 12, 3 / 12)
    assert dict(effect.moves) == {(0, 1): 6, (1, 0): 1}
    assert effect.p == pytest.approx(mcnemar([[2, 6], [1, 3]], exact=True).pvalue)
    # Newcombe's method 10: Wilson's intervals .3906 to .8619 and .0889 to .5323, phi = (2·3 − 6·1) / √(8·4·3·9) = 0.
    gap = 3 / 12 - 8 / 12
    lower, upper = gap - np.hypot(0.25 - 0.0889, 0.8619 - 8 / 12), gap + np.hypot(0.5323 - 0.25, 8 / 12 - 0.3906)
    assert effect.interval == pytest.approx((lower, upper), abs=1e-4)
    assert "7 labels replaced, of 8 images that" in effect.sentence()


@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs published predictions, which are not distributed with this")
def test_checked_label_errors_of_cifar_10(tmp_path: Path) -> None:
    """The labels on which most of five people agreed with the guess, against NumPy."""
    from predboard import ImportConfig, import_predictions

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    (tmp_path / "classes.txt").write_text("\n".join(names))
    scores, labels = CIFAR / "labelerrors_pyx_float64.npy", CIFAR / "labels_test10000_official_order.npy"
    classes = tmp_path / "classes.txt"
    config = ImportConfig("probabilities", (scores,), tmp_path / "run", labels=labels, classes=classes)
    import_predictions(config, lambda _: None)
    found = json.loads((CIFAR / "labelerrors_mturk.json").read_text())
    agreed = [row for row in found if row["mturk"]["guessed"] > max(row["mturk"]["given"], row["mturk"]["neither"])]
    file = tmp_path / "checked.csv"
    lines = [f"{row['id']},{row['our_guessed_label_name']}" for row in agreed]
    file.write_text("\n".join(["row,label", *lines, ""]))

    p, old = np.load(scores), np.load(labels)
    new = old.copy()
    new[[row["id"] for row in agreed]] = [row["our_guessed_label"] for row in agreed]
    predicted, accuracy = p.argmax(axis=1), (p.argmax(axis=1) == new).mean()
    rules = [
        {"metric": "accuracy", "min": 0.9},
        {"metric": "nll", "max": 9.0},
        {"metric": "classes/cat/recall", "min": 0},
    ]
    result = gate(GateConfig(tmp_path / "run", labels=file), lambda _: None, rules)
    values = {finding.metric: finding.value for verdict in result.verdicts for finding in verdict.findings}
    assert values["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert values["nll"] == pytest.approx(-np.log(p[np.arange(10_000), new]).mean(), abs=1e-5)
    assert values["classes/cat/recall"] == pytest.approx((predicted[new == 3] == 3).mean(), abs=1e-12)
    effect = Amendments(AmendConfig(labels=file)).attach(open_run(tmp_path / "run")).effects[0]
    assert effect.replaced == len(agreed) > 20
    assert effect.before == pytest.approx(0.9294)
    assert effect.after == pytest.approx(accuracy)
    was, is_ = predicted == old, predicted == new
    table = [[(was & is_).sum(), (was & ~is_).sum()], [(~was & is_).sum(), (~was & ~is_).sum()]]
    assert effect.p == pytest.approx(mcnemar(table, exact=True).pvalue)


def refused(folder: Path, content: str, said: str, **more: Any) -> None:
    file = folder / "given.csv"
    file.write_text(content)
    with pytest.raises(InputError, match=said):
        attached(write(folder / "run"), **{"labels": file, **more})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "image,label\n000001.png,cat\n00001.png,cat\n",
            "1 of 2 rows of .* name no image .*'00001.png'; did you mean 0",
        ),
        (
            "image,label\n000001.png,catt\n000002.png,catt\n",
            r"2 of 2 labels .* 3 classes: 'catt' \(2\); did you mean cat",
        ),
        ("image,label\n000001.png,3\n", r"1 of 1 labels .* none of the 3 classes: '3' \(1\)"),
        ("image,label\n000001.png,cat\n000001.png,dog\n", "'000001.png' has two labels in .*: leave one in"),
        ("image,label,suspected\n000001.png,cat,dog\n", "name the column to take, --labels-column suspected"),
        ("image,country\n000001.png,NO\n", "no column of labels; it has image, country"),
        ("country,label\nNO,cat\n", "no column of images or keys; it has country, label"),
        ("image,label\n", "has no rows"),
        ("image,label\n000001.png,-7\n", r"1 of 1 labels .* none of the 3 classes: '-7' \(1\)"),
        # where images have names, numbers of another column are no rows
        ("id,image,label\n0,000009.png,cat\n1,typo.png,cat\n", "1 of 2 rows of .* by their image: 'typo.png'"),
        (
            "image,label\n000001.png,NA\n000002.png,nan\n",
            "gives no image a label: 'label' is empty in all of its 2 rows",
        ),
        ("image,label\n000001.png,\n", "gives no image a label: 'label' is empty in all of its 1 row"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    refused(tmp_path, content, said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR", "cannot read .*a.parquet: "),
        ("a.csv", b"\xff\xfe\xff", "cannot read .*a.csv|is not UTF-8|cannot"),
        ("a.json", b'{"a": [', "cannot read .*a.json: Expecting value"),
        ("a.json", b"[1, 2]", "is no table: expected a list of objects"),
        ("a.xlsx", b"PK", "is of an unknown kind: expected a table that ends in .csv"),
        ("predboard_tags.jsonl", b'{"tag": "hard", "on": true, "keys": ["1"]}\n', "gives no image a label"),
    ],
)
def test_files_that_are_no_tables_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        attached(write(tmp_path / "run"), labels=tmp_path / name)
    with pytest.raises(InputError, match="run is a folder: expected a table"):
        attached(tmp_path / "run", labels=tmp_path / "run")


@pytest.mark.parametrize("more", [{"labels_separator": "|"}, {"labels_none": "none"}])
def test_flags_of_several_labels_are_refused_for_one_label(tmp_path: Path, more: dict[str, str]) -> None:
    with pytest.raises(InputError, match="is for several labels of an image, but the run has one: leave it out"):
        attached(write(tmp_path / "run"), labels=as_csv(tmp_path / "new"), **more)


def test_a_label_may_be_taken_away(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("image,label\n000001.png,-1\n000002.png,1\n")
    labels = labels_of(attached(write(tmp_path / "run"), labels=tmp_path / "new.csv"))
    assert labels[1:3] == [-1, 1]


def test_logs_change_with_the_file_and_not_without(tmp_path: Path) -> None:
    run, file = write(tmp_path / "run"), as_csv(tmp_path / "new")
    config = VisualizeConfig((run,), tmp_path / "logs", panels=("glance",), cache="always", labels=file)
    assert [visualize(config, lambda _: None)[0].unchanged for _ in range(2)] == [False, True]
    entries = {path.name for path in (tmp_path / "logs/run/.predboard-states").iterdir()}
    file.write_text("image,label\n000003.png,eel\n000040.png,eel\n")
    assert not visualize(config, lambda _: None)[0].unchanged
    assert entries != {path.name for path in (tmp_path / "logs/run/.predboard-states").iterdir()}
    fresh = dataclasses.replace(config, logdir=tmp_path / "fresh", cache="never")
    visualize(fresh, lambda _: None)
    a, b = ((tmp_path / logs / "run/summary.json").read_text() for logs in ("logs", "fresh"))
    assert a == b
    shutil.rmtree(tmp_path / "logs")
    assert not visualize(dataclasses.replace(config, labels=None), lambda _: None)[0].unchanged


def test_labels_may_be_of_images_of_either_run_of_a_comparison(tmp_path: Path) -> None:
    """The new run lacks the last images; a label of one of them is left out there, one of none of them refused."""
    logits, label = toy.table(RUN, ROWS)
    toy.write_run(tmp_path / "old", logits, label, RUN)
    toy.write_run(tmp_path / "new", logits[:20], label[:20], RUN)
    file = tmp_path / "new.csv"
    file.write_text("image,label\n000003.png,eel\n000030.png,eel\n")
    config = CompareConfig((tmp_path / "old", tmp_path / "new"), tmp_path / "logs", labels=file)
    notes = compare(config, lambda _: None).summary["notes"]
    assert f"{file}: 1 image that {tmp_path / 'new'} does not have left out" in notes
    runs = tmp_path / "old", tmp_path / "new"
    with pytest.raises(InputError, match=r"1 of 2 rows of .* name no image of .*new by their image: '000030.png'"):
        visualize(VisualizeConfig(runs, tmp_path / "logs", panels=("glance",), labels=file), lambda _: None)
    file.write_text("image,label\n000003.png,eel\n000077.png,eel\n")
    for action in (
        lambda: compare(config, lambda _: None),
        lambda: gate(GateConfig(runs[1], labels=file), lambda _: None, [{"metric": "accuracy", "min": 0}]),
        lambda: suggest(GateConfig(runs[1], suggest=True, labels=file), lambda _: None),
    ):
        with pytest.raises(InputError, match=r"1 of 2 rows of .* name no image of .*'000077.png'"):
            action()


# --- several labels for an image ---


def several(folder: Path) -> tuple[Path, Path]:
    """A run of images with several labels each, and one that was written with other labels in rows 3, 5 and 40."""
    run = toy.MULTI_LABEL_RUN
    logits, labels = toy.multi_label_table(run, ROWS)
    sets: list[Any] = [list(known) if known is not None else None for known, _ in label_values(labels)]
    for row, names in SETS.items():
        sets[row] = [run.classes.index(name) for name in names]
    new = MultiLabels(
        LabelSets.from_lists([known or [] for known in sets]),
        LabelSets.from_lists(
            [[] if row in SETS else list(unknown or []) for row, (_, unknown) in enumerate(label_values(labels))]
        ),
        np.array([known is not None for known in sets]),
    )
    for name, of_run in (("run", labels), ("written", new)):
        toy.write_run(folder / name, logits, of_run, run, shard_size=16)
    return folder / "run", folder / "written"


SETS = {3: (toy.MULTI_LABEL_RUN.classes[1], toy.MULTI_LABEL_RUN.classes[2]), 5: (), 40: toy.MULTI_LABEL_RUN.classes[:1]}


@pytest.mark.parametrize("form", ["lists", "cells", "columns"])
def test_sets_of_labels_are_corrected_as_well(tmp_path: Path, form: str) -> None:
    run, written = several(tmp_path)
    more: dict[str, Any] = {}
    file = tmp_path / "new.csv"
    if form == "lists":
        file = tmp_path / "new.jsonl"
        file.write_text("".join(f"{json.dumps({'image': ref(i), 'labels': s})}\n" for i, s in SETS.items()))
    elif form == "cells":
        more = {"labels_separator": "|", "labels_none": "none"}
        file.write_text("image,labels\n" + "".join(f"{ref(i)},{'|'.join(s) or 'none'}\n" for i, s in SETS.items()))
    else:
        classes = toy.MULTI_LABEL_RUN.classes
        lines = [",".join([ref(i), *(str(int(name in s)) for name in classes)]) for i, s in SETS.items()]
        file.write_text("\n".join([",".join(["image", *classes]), *lines, ""]))
    amended = Amendments(AmendConfig(labels=file, **more)).attach(open_run(run))
    for a, b in zip(amended.steps[0].parts, open_run(written)[0].parts, strict=True):
        assert [rows.batch for rows in read_batches(a)] == [rows.batch for rows in read_batches(b)]
    effect = amended.effects[0]
    stored = [pd.read_parquet(folder, columns=["labels", "unknown"]).map(str) for folder in (run, written)]
    assert (effect.named, effect.replaced) == (3, int((stored[0] != stored[1]).any(axis=1).sum()))
    for step, share in ((open_run(run)[0], effect.before), (open_run(written)[0], effect.after)):
        rows = [rows.labelled for part in step.parts for rows in read_batches(part)]
        assert share == pytest.approx(np.concatenate([of_part.right for of_part in rows]).mean())
    if form == "cells":  # in the words of this command
        with pytest.raises(InputError, match=r"--labels-separator is not given: --labels-separator '\|' splits them$"):
            Amendments(AmendConfig(labels=file)).attach(open_run(run))
    file.write_text(file.read_text().replace(toy.MULTI_LABEL_RUN.classes[1], "unheard"))
    with pytest.raises(InputError, match="unheard" if form != "columns" else "but none of"):
        Amendments(AmendConfig(labels=file, **more)).attach(open_run(run))


def test_labels_that_could_be_meant_otherwise_are_named(tmp_path: Path) -> None:
    run, _ = several(tmp_path)
    first, second = toy.MULTI_LABEL_RUN.classes[:2]
    file = tmp_path / "new.csv"
    file.write_text(f"image,labels\n{ref(0)},{first}|{first}\n{ref(1)},{second}|none\n")
    config = AmendConfig(labels=file, labels_separator="|", labels_none="none")
    notes = Amendments(config).attach(open_run(run)).notes
    assert [note.partition(" of x")[0].split(" has ")[1] for note in notes if note.startswith("warning: ")] == [
        "'none' beside other labels, which are kept",
        "1 label twice in a row; each counts once",
    ]
    digits = write(tmp_path / "digits", classes=("1", "2", "5"))
    for labels, words in (
        ("12", "would also fit as indices 0 to 2"),
        ("01", "read as indices from 0, because not all"),
    ):
        file.write_text("image,label\n" + "".join(f"{ref(i)},{label}\n" for i, label in enumerate(labels)))
        (note,) = Amendments(AmendConfig(labels=file)).attach(open_run(digits)).notes
        assert note.startswith("warning: ") and words in note


# --- further columns ---


def test_columns_named_like_those_of_several_labels_get_another_name(tmp_path: Path) -> None:
    run, _ = several(tmp_path)
    file = columns_file(tmp_path, f"image,labels,unknown\n{ref(0)},a,b\n{ref(1)},c,d\n")
    (step,) = attached(run, columns=file)
    rows = next(read_batches(step.parts[0]))
    assert rows.column("manifest_labels").to_pylist()[:3] == ["a", "c", None]
    assert rows.column("manifest_unknown").to_pylist()[:3] == ["b", "d", None]
    before = next(read_batches(open_run(run)[0].parts[0]))
    assert rows.batch.column("labels") == before.batch.column("labels")


def columns_file(folder: Path, content: str) -> Path:
    file = folder / "columns.csv"
    file.write_text(content)
    return file


def test_columns_are_joined_and_rows_without_a_match_are_counted(tmp_path: Path) -> None:
    lines = [f"{ref(row)},{'NO' if row % 2 else 'SE'},{row / 4}" for row in range(10, 60)]
    file = columns_file(tmp_path, "\n".join(["image,country,width", *lines, ""]))
    run = write(tmp_path / "run")
    notes: list[str] = []
    visualize(VisualizeConfig((run,), tmp_path / "logs", columns=file, thumbnails="never"), notes.append)
    rows = pd.read_parquet(tmp_path / "logs/run/rows.parquet")
    assert rows.country.isna().sum() == 10
    assert rows.manifest_width[20] == 5.0
    assert rows.width[20] == 8
    assert f"{file}: 40 of 50 rows have a row in it, found by image; 10 have none; 10 rows of it name no image" in notes
    counted = rows.query("country == 'NO' and label.notna() and predicted.notna()")
    steps = json.loads((tmp_path / "logs/run/summary.json").read_text())["steps"]["0"]
    expected = (counted.label == counted.predicted).mean()
    assert steps["slices/country=NO/accuracy"]["value"] == pytest.approx(expected)
    assert steps["slices/country=NO/images"]["value"] == len(counted)


def with_patients(folder: Path, values: list[Any] | None = None) -> Path:
    """A run whose manifest has a column of patients, the first of ten images, the others of five."""
    logits, label = toy.table(RUN, ROWS)
    rows = toy.predictions(RUN, logits, label)
    patient = pa.array([f"{0 if i < 10 else i // 5:03d}" for i in range(ROWS)] if values is None else values)
    rows = dataclasses.replace(rows, batch=rows.batch.append_column("patient", patient))
    writer = PartWriter(part_path(folder, 0, 0), RUN, pa.schema([("patient", patient.type)]))
    writer.write(rows)
    digest = ManifestDigest()
    digest.add_rows(rows)
    writer.publish(Part(0, ROWS, digest.hexdigest(), ROWS, ""))
    return folder


def test_hours_of_two_digits_are_texts_but_where_they_are_cut_at_edges(tmp_path: Path) -> None:
    lines = [f"{ref(row)},{f'{row % 24:02}' if row % 7 else ''},{row % 2}x" for row in range(50)]
    file, run = columns_file(tmp_path, "\n".join(["image,hour,kind", *lines, ""])), write(tmp_path / "run")
    options: dict[str, Any] = {"columns": file, "slice": (("hour=0", "6", "12", "23"), ("kind", "hour"))}
    visualize(VisualizeConfig((run,), tmp_path / "logs", thumbnails="never", **options), lambda _: None)
    rows = pd.read_parquet(tmp_path / "logs/run/rows.parquet")
    rows = rows[rows.hour.fillna("") != ""]
    assert set(rows.hour) == {f"{row % 24:02}" for row in range(50) if row % 7}
    counted = rows.dropna(subset=["label", "predicted"])
    steps = json.loads((tmp_path / "logs/run/summary.json").read_text())["steps"]["0"]
    right = counted.label == counted.predicted
    cut = pd.cut(counted.hour.astype(int), [0, 6, 12, 23], right=False, labels=["0 to 6", "6 to 12", "12 to 23"])
    cut[counted.hour == "23"] = "12 to 23"
    for name, expected in right.groupby(cut, observed=True).mean().items():
        assert steps[f"slices/hour {name}/accuracy"]["value"] == pytest.approx(expected)
    assert any(name.startswith("slices/kind=0x & hour 6 to 12/") for name in steps)
    assert not any(name.startswith("slices/hour=") for name in steps)
    rules = [{"metric": "slices/hour 0 to 6/accuracy", "min": 0.0}]
    assert gate(GateConfig(run, **options), lambda _: None, rules).outcome == "pass"
    with pytest.raises(InputError, match="column 'kind' holds texts, such as '0x'; edges cut numbers and digits"):
        gate(GateConfig(run, columns=file, slice=(("kind=0", "1"),)), lambda _: None, rules)
    visualize(VisualizeConfig((run,), tmp_path / "uncut", thumbnails="never", columns=file), lambda _: None)
    steps = json.loads((tmp_path / "uncut/run/summary.json").read_text())["steps"]["0"]
    assert "slices/hour=06/accuracy" in steps


def test_columns_may_be_joined_by_one_that_the_run_has(tmp_path: Path) -> None:
    run = with_patients(tmp_path / "run")
    file = columns_file(tmp_path, "patient,age\n000,50\n003,64\n777,1\n")
    amended = Amendments(AmendConfig(columns=file, columns_by="patient")).attach(open_run(run))
    assert amended.notes == (
        f"{file}: 15 of 50 rows have a row in it, found by patient; 35 have none; 1 row of it names no image",
    )
    (rows,) = read_batches(amended.steps[0].parts[0], {ALL_MANIFEST_COLUMNS})
    assert rows.batch.schema.names == ["patient", "age"]
    assert rows.column("age").to_pylist() == [50] * 10 + [None] * 5 + [64] * 5 + [None] * 30
    with pytest.raises(InputError, match=r"no column 'patien' in .*columns.csv; did you mean patient"):
        attached(run, columns=file, columns_by="patien")
    with pytest.raises(InputError, match="--columns-by needs --columns FILE"):
        AmendConfig(columns_by="patient")
    with pytest.raises(InputError, match="has a column 'patient' of its own: rename the one in"):
        attached(run, columns=columns_file(tmp_path, "image,patient\n000001.png,7\n"))
    with pytest.raises(InputError, match=r"has no column 'patiens'; did you mean patient\?; there are patient;"):
        Amendments(VisualizeConfig((run,), group_column="patiens")).attach(open_run(run))


def test_numbers_of_a_column_are_compared_as_numbers_and_exactly(tmp_path: Path) -> None:
    numbers = [7, 8, 2**60, 2**60 + 1] + [5] * (ROWS - 4)
    with_patients(tmp_path / "run", numbers)
    file = columns_file(tmp_path, f"patient,age\n007,50\n8.0,51\n{2**60},52\n")
    (rows,) = read_batches(attached(tmp_path / "run", columns=file, columns_by="patient")[0].parts[0])
    assert rows.column("age").to_pylist()[:4] == [50, 51, 52, None]
    with pytest.raises(InputError, match=r"by its patient: '9'; the first of the run is '7'"):
        attached(tmp_path / "run", columns=columns_file(tmp_path, "patient,age\n9,50\n"), columns_by="patient")


@pytest.mark.parametrize("values", ["text", "numbers"])
@pytest.mark.parametrize("file", ["text.csv", "numbers.csv", "text.parquet", "numbers.parquet"])
def test_ids_of_digits_are_found_whatever_holds_them(tmp_path: Path, values: str, file: str) -> None:
    """Of eight digits, as patients have them: text in CSV and Parquet, or numbers in either."""
    ids: list[Any] = [f"{i // 5 + 8:08d}" for i in range(ROWS)]
    run = with_patients(tmp_path / "run", ids if values == "text" else list(map(int, ids)))
    patients = [f"{i:08d}" if file.startswith("text") else i for i in (9, 11, 99)]
    table = pd.DataFrame({"patient": patients, "age": [50, 60, 70]})
    table.to_csv(tmp_path / file, index=False) if file.endswith("csv") else table.to_parquet(tmp_path / file)
    (step,) = attached(run, columns=tmp_path / file, columns_by="patient")
    (rows,) = read_batches(step.parts[0], {ALL_MANIFEST_COLUMNS})
    assert rows.column("age").to_pylist() == [None] * 5 + [50] * 5 + [None] * 5 + [60] * 5 + [None] * 30


def test_two_ids_that_are_one_number_are_refused_where_the_table_has_numbers(tmp_path: Path) -> None:
    run = with_patients(tmp_path / "run", ["007", "7", "08", "8"] + ["9"] * (ROWS - 4))
    file = columns_file(tmp_path, "patient,age\n7,50\n")
    with pytest.raises(InputError, match=r"the predictions have '007' and '7', and the numbers in .* do not tell"):
        attached(run, columns=file, columns_by="patient")
    (step,) = attached(run, columns=columns_file(tmp_path, "patient,age\n007,50\n8,51\n"), columns_by="patient")
    (rows,) = read_batches(step.parts[0], {ALL_MANIFEST_COLUMNS})
    assert rows.column("age").to_pylist()[:4] == [50, None, None, 51]


def test_groups_by_a_column_of_digits_are_those_of_text(tmp_path: Path) -> None:
    run, ids = write(tmp_path / "run"), [f"{i // 5:08d}" for i in range(ROWS)]
    table = pd.DataFrame({"image": list(map(ref, range(ROWS))), "patient": ids})
    table.to_csv(tmp_path / "p.csv", index=False)
    table.to_parquet(tmp_path / "p.parquet")
    groups = []
    for name in ("p.csv", "p.parquet"):
        steps = Amendments(VisualizeConfig((run,), columns=tmp_path / name, group_column="patient")).attach(
            open_run(run)
        )
        groups.append(
            [k for part in steps.steps[0].parts for rows in read_batches(part, {"key"}) for k in rows.group_key]
        )
    assert groups[0] == groups[1]
    assert groups[0] == hash_refs(ids).tolist()


def test_images_with_an_empty_cell_stand_for_themselves(tmp_path: Path) -> None:
    run = with_patients(tmp_path / "run", ["a", "", "a", " ", None, ""] + ["b"] * (ROWS - 6))
    amended = Amendments(VisualizeConfig((run,), group_column="patient")).attach(open_run(run))
    assert "2 values of it, and 4 images without a value" in amended.notes[0]
    (rows,) = read_batches(amended.steps[0].parts[0], {"key"})
    assert (rows.group_key == rows.key).tolist()[:6] == [False, True, False, True, True, True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,country\nfoo.png,NO\n", "no row of .* names an image of .* by its image: 'foo.png'"),
        ("image\n000001.png\n", "has no column besides image"),
        ("image,country\n000001.png,NO\n000001.png,SE\n", "'000001.png' has two rows in .* that differ"),
        ("site,country\na,NO\n", "no column of images or keys"),
    ],
)
def test_columns_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    refused(tmp_path, content, said, labels=None, columns=columns_file(tmp_path, content))


def test_gate_compare_and_inspect_take_the_same_labels(tmp_path: Path) -> None:
    for step in (0, 1):
        write(tmp_path / "run", step)
    file = as_csv(tmp_path / "new")
    labels = np.array(labels_of(attached(tmp_path / "run", labels=file)))
    steps = [pd.read_parquet(tmp_path / f"run/step=0000000{step}").predicted.fillna(-1) for step in (0, 1)]
    known = (labels >= 0) & (steps[1] >= 0)
    expected = [float((predicted == labels)[known].mean()) for predicted in steps]
    rules = [{"metric": "accuracy", "min": 0.0}, {"metric": "accuracy", "max_drop": 0.9}]
    config = GateConfig(tmp_path / "run", baseline=tmp_path / "run", baseline_step=0, labels=file)
    result = gate(config, lambda _: None, rules)
    assert result.verdicts[1].findings[0].value == pytest.approx(expected[1])
    assert "new.csv names" in result.notes[0]
    assert result.notes[1].startswith("baseline: ")
    assert all(note in to_record(result)["notes"] for note in result.notes)
    compared = compare(CompareConfig((tmp_path / "run",), tmp_path / "logs", labels=file), lambda _: None)
    accuracy = compared.summary["differences"]["accuracy"]
    assert [accuracy["old"], accuracy["new"]] == pytest.approx(expected)
    assert sum("new.csv names" in note for note in compared.summary["notes"]) == 2
    assert main.run(["inspect", str(tmp_path / "run"), "--labels", str(file), "--json"]) == 0
    with pytest.raises(InputError, match="--report and --labels exclude each other"):
        GateConfig(tmp_path / "run", report=tmp_path / "report.txt", labels=file)


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_other_processes_and_storage_see_the_same_labels_and_columns(tmp_path: Path, task: str) -> None:
    if task == "single-label":
        run, file = write(tmp_path / "run"), as_csv(tmp_path / "new")
        panels: tuple[str, ...] = ("glance", "metrics", "slices")
    else:
        run, file, panels = several(tmp_path)[0], tmp_path / "new.jsonl", ("slices", "hparams")
        file.write_text("".join(f"{json.dumps({'image': ref(i), 'labels': s})}\n" for i, s in SETS.items()))
    columns = columns_file(tmp_path, "image,patient\n" + "".join(f"{ref(i)},P{i // 5}\n" for i in range(ROWS)))
    storage = fake_storage.empty()
    remote = fake_storage.copied(storage, run, "predictions/run")
    storage.pipe_file("/files/columns.csv", columns.read_bytes())
    stored = RemotePath("fake://files/columns.csv")
    written = []
    for name, folder, further in (("local", run, columns), ("pool", run, columns), ("remote", remote, stored)):
        more: dict[str, Any] = {"panels": panels, "log_every": 100, "thumbnails": "never", "group_column": "patient"}
        config = VisualizeConfig((folder,), tmp_path / name, labels=file, columns=further, **more)
        settings = MeasureSettings(task_min_rows=1, parallel_min_logits=0 if name == "pool" else 10**9)
        with ProcessPool(2) as pool:
            if name == "pool":
                pool.start(2)
            visualize(config, lambda _: None, pool, settings)
        summary = (tmp_path / name / "run/summary.json").read_text()
        written.append((summary, pq.read_table(tmp_path / name / "run/rows.parquet")))
    assert written[0][0] == written[1][0] == written[2][0]
    assert written[0][1].equals(written[1][1])
    assert written[0][1].equals(written[2][1])
