"""Columns of every type and name: what could be meant is taken, or refused with the list of it, never left out."""

import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import open_predictions
from predboard.predictions.schema import hash64
from tests import toy
from tests.ingest.examples import NAMES, ROWS, logits_of, make, refused, run, run_logged, save_torch, softmax, tensors

LOGITS, LABEL, IMAGE = make()
P = softmax(LOGITS)


def names_file(folder: Path) -> Path:
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder / "names.txt"


@pytest.mark.parametrize(
    "scores",
    [
        pa.array(LOGITS.tolist(), pa.list_(pa.float32())),
        pa.array(LOGITS.tolist(), pa.large_list(pa.float32())),
        pa.array(LOGITS.tolist(), pa.list_(pa.float32(), 3)),
        pa.array(LOGITS.tolist(), pa.list_view(pa.float32())),
        pa.array(LOGITS.tolist(), pa.large_list_view(pa.float32())),
        pa.array([dict(zip(NAMES, row, strict=True)) for row in LOGITS.tolist()]),
        pa.array([[{"label": n, "score": z} for n, z in zip(NAMES, row, strict=True)] for row in LOGITS.tolist()]),
    ],
    ids=lambda array: str(array.type)[:20],
)
@pytest.mark.parametrize(
    "label",
    [
        pa.array([NAMES[c] for c in LABEL], pa.string_view()),
        pa.array([NAMES[c].encode() for c in LABEL], pa.binary()),
        pa.array([NAMES[c] for c in LABEL]).dictionary_encode(),
        pa.array([Decimal(int(c)) for c in LABEL]),
        pa.array(np.eye(3, dtype=int)[LABEL].tolist()),
        pa.array([[NAMES[c]] for c in LABEL]),
    ],
    ids=lambda array: str(array.type)[:20],
)
def test_types_of_scores_and_labels(scores: pa.Array, label: pa.Array, tmp_path: Path) -> None:
    image = pa.array([ref.encode() for ref in IMAGE], pa.binary())
    pq.write_table(pa.table({"Image Path": image, "True-Label": label, "logits": scores}), tmp_path / "a.parquet")
    frame = run(tmp_path, tmp_path / "a.parquet", classes=names_file(tmp_path), pictures=False)
    np.testing.assert_array_equal(logits_of(frame), LOGITS)
    assert frame["label"].tolist() == LABEL.tolist()
    assert frame["image"].tolist() == IMAGE


@pytest.mark.parametrize("end", ["json", "jsonl"])
def test_scores_by_class_in_records_of_json(end: str, tmp_path: Path) -> None:
    ranked = [
        sorted(({"label": n, "score": p} for n, p in zip(NAMES, row, strict=True)), key=lambda r: -r["score"])
        for row in P.tolist()
    ]
    records = [{"image": i, "label": NAMES[c], "scores": r} for i, c, r in zip(IMAGE, LABEL, ranked, strict=True)]
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / f"a.{end}").write_text(json.dumps(records) if end == "json" else lines)
    frame = run(tmp_path, tmp_path / f"a.{end}", scores="probabilities", pictures=False)
    classes = open_predictions(tmp_path / "out").run.classes
    assert sorted(classes) == sorted(NAMES)
    assert [classes[c] for c in frame["label"]] == [NAMES[c] for c in LABEL]
    assert [classes[c] for c in frame["predicted"]] == [NAMES[c] for c in P.argmax(axis=1)]
    ranked[7].pop()
    (tmp_path / f"a.{end}").write_text(json.dumps(records) if end == "json" else "\n".join(map(json.dumps, records)))
    refused("does not list every class once in each row", tmp_path / "x", tmp_path / f"a.{end}", scores="probabilities")


def test_pictures_inside_the_parquet_file_are_those_of_its_rows(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    content = [file.read_bytes() for file in sorted((tmp_path / "data").glob("*/*.png"))]
    as_text = [b"P3\n1 1\n255\n%d 2 3\n" % i for i in range(12)]
    structs = [{"bytes": c, "path": "x.png"} for c in content]
    for name, image, stored in (("a", content, content), ("b", structs, content), ("c", as_text, as_text)):
        pq.write_table(pa.table({"image": image, "logits": LOGITS[:12].tolist()}), tmp_path / f"{name}.parquet")
        frame = run(tmp_path / name, tmp_path / f"{name}.parquet")
        assert frame["image"].tolist() == [f"{name}.parquet#{i}" for i in range(12)]
        assert frame["digest"].tolist() == [hash64(c) for c in stored]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ([{"height": 3}] * ROWS, "a struct"),
        ([0.5] * ROWS, "double"),
        ([["a.png"]] * ROWS, "list<"),
        (list(range(ROWS)), "int64"),
    ],
)
def test_a_column_named_like_images_that_cannot_be_used_is_an_error(image: Any, kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": image, "label": LABEL, "logits": LOGITS.tolist()}), tmp_path / "a.parquet")
    refused(f"'image' of .* is named like a column of images, but has {kind}.*none", tmp_path, tmp_path / "a.parquet")
    assert run(tmp_path, tmp_path / "a.parquet", image_column="none")["image"].isna().all()


def test_an_array_named_like_labels_that_holds_dates_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", logits=LOGITS, labels=np.zeros(ROWS, "datetime64[D]"))
    refused(r"'labels' of .*a\.npz is datetime64\[D\]; expected class names", tmp_path, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("species", [NAMES[c] for c in LABEL]),
        ("answer", LABEL),
        ("answer", LABEL.astype(float)),
        ("my_label", LABEL / 2 + 0.25),
    ],
)
@pytest.mark.parametrize("end", ["csv", "npz"])
def test_columns_that_could_be_labels_are_listed(name: str, values: Any, end: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{end}"
    if end == "npz":
        np.savez(file, logits=LOGITS, patient=np.arange(ROWS), **{name: values})
    else:
        frame = pd.DataFrame(LOGITS, columns=[f"logit_{c}" for c in NAMES])
        frame.assign(patient=range(ROWS), **{name: values}).to_csv(file, index=False)
    if name == "my_label":
        refused(r"'my_label' has label \d|'my_label' of .* has label|my_label could be: name it", tmp_path, file)
    else:
        refused(rf"is surely the labels, but {name} could be: name it with --label-column", tmp_path, file)
    assert run(tmp_path, file, label_column="none")["label"].isna().all()


def test_statistics_beside_the_scores_are_no_classes(tmp_path: Path) -> None:
    frame = pd.DataFrame(LOGITS, columns=[f"logit_{c}" for c in NAMES]).assign(logit_max=9.0, label=LABEL)
    frame.to_csv(tmp_path / "a.csv", index=False)
    _, lines = run_logged(tmp_path, tmp_path / "a.csv")
    assert open_predictions(tmp_path / "out").run.classes == NAMES
    assert any(line.startswith("warning: logit_max of a.csv is taken for no class") for line in lines)
    frame = pd.DataFrame(P, columns=["score_0", "score_1", "score_2"]).assign(score_threshold=0.5, label=LABEL)
    frame.to_csv(tmp_path / "b.csv", index=False)
    assert len(logits_of(run(tmp_path / "b", tmp_path / "b.csv", scores="probabilities"))[0]) == 3
    (tmp_path / "max.txt").write_text("max\nmin")
    frame = pd.DataFrame({"logit_max": [1.0, 2.0], "logit_min": [2.0, 1.0], "logit_std": 5.0, "label": ["max", "min"]})
    frame.to_csv(tmp_path / "c.csv", index=False)
    run(tmp_path / "c", tmp_path / "c.csv", classes=tmp_path / "max.txt")
    assert open_predictions(tmp_path / "c/out").run.classes == ("max", "min")


def test_one_hot_labels_are_places_also_where_classes_are_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", probs=P, y_true=np.eye(3)[LABEL], class_names=["1", "2", "5"])
    assert run(tmp_path, tmp_path / "a.npz", scores="probabilities")["label"].tolist() == LABEL.tolist()


def test_tensors_of_every_kind_and_lists_of_rows(tmp_path: Path) -> None:
    z, y = tensors(LOGITS, LABEL)
    nested = {"val": {"logits": z, "label": y}}
    complex_ = z + 0j
    cases = {
        "nested": nested,
        "rows": {"logits": list(z), "label": y},
        "pair": [z, y],
        "bf16": {"logits": z.bfloat16()},
    }
    for name, value in cases.items():
        frame = run(tmp_path / name, save_torch(tmp_path / "a.pt", value))
        expected = LOGITS if name != "bf16" else z.bfloat16().float().numpy()
        np.testing.assert_array_equal(logits_of(frame), expected)
        assert name == "bf16" or frame["label"].tolist() == LABEL.tolist()
    refused("complex64", tmp_path / "c", save_torch(tmp_path / "a.pt", complex_.conj()))


def test_what_is_no_array_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {"logits": LOGITS, "label": LABEL}, allow_pickle=True)  # type: ignore[arg-type]
    refused(r"a\.npy holds Python objects, as np\.save of a dict does.*np\.savez", tmp_path, tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(r"b\.npz holds no arrays", tmp_path, tmp_path / "b.npz")


def test_labels_of_which_none_is_a_class_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", logits=LOGITS, label=["x", "y"] * (ROWS // 2))
    refused(
        r"none of the labels \(x, y\) .* is among the classes \(cat, ",
        tmp_path,
        tmp_path / "a.npz",
        classes=names_file(tmp_path),
    )


def test_records_and_other_byte_orders_are_read(tmp_path: Path) -> None:
    fields = [("label", ">i4"), *((f"logit_{n}", ">f8") for n in NAMES)]
    np.save(tmp_path / "a.npy", np.array([(c, *z) for c, z in zip(LABEL.tolist(), LOGITS, strict=True)], fields))
    refused("has label, logit_cat, .*; which are the scores", tmp_path, tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", logits=LOGITS.astype(">f4"), label=LABEL.astype(">i8"), x=LABEL.astype(np.longdouble))
    assert run(tmp_path / "b", tmp_path / "b.npz")["label"].tolist() == LABEL.tolist()


def test_what_unpacks_to_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", logits=np.zeros((250, 1000), np.float32))
    limit = {"max_read_gb": 0.0005}
    words = r"cannot read .*a\.{}: it takes 0\.0 GB of memory, more than --max-read-gb 0\.0005 allows"
    refused(words.format("npz"), tmp_path, tmp_path / "a.npz", **limit)
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    torch.save({"logits": torch.zeros(1, 1000).expand(250, 1000)}, tmp_path / "a.pt")
    refused(words.format("pt"), tmp_path, tmp_path / "a.pt", **limit)
    (tmp_path / "a.json").write_text(" " * 600_000)
    refused(words.format("json"), tmp_path, tmp_path / "a.json", **limit)
    (tmp_path / "a.csv").write_text("label,logit_0,logit_1\n" + "0,2.5,1.5\n" * 30_000, "utf-16")
    refused(words.format("csv"), tmp_path, tmp_path / "a.csv", **limit)


def test_integers_and_decimals_of_any_size_are_scores(tmp_path: Path) -> None:
    table = {"logit_cat": [2**60, 1], "logit_dog": [Decimal("1.5"), Decimal("2.5")], "logit_owl": [0.5, 0.25]}
    pq.write_table(pa.table({**table, "label": ["cat", "dog"]}), tmp_path / "a.parquet")
    assert logits_of(run(tmp_path, tmp_path / "a.parquet")).tolist() == [[2.0**60, 1.5, 0.5], [1, 2.5, 0.25]]


def test_lists_by_image_are_scores_or_several_labels(tmp_path: Path) -> None:
    by_image = dict(zip(IMAGE, P.tolist(), strict=True))
    (tmp_path / "a.json").write_text(json.dumps(by_image))
    frame = run(tmp_path, tmp_path / "a.json", scores="probabilities", pictures=False)
    assert frame["image"].tolist() == IMAGE and frame["predicted"].tolist() == P.argmax(axis=1).tolist()
    (tmp_path / "y.json").write_text(json.dumps({ref: ["cat", "dog"] for ref in IMAGE}))
    words = "column 'label' of y.json has several labels for an image"
    refused(words, tmp_path / "x", tmp_path / "a.json", scores="probabilities", labels=tmp_path / "y.json")


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    refused("cannot read .*File name too long", tmp_path, tmp_path / f"{'x' * 5000}.csv")


def test_one_hot_columns_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prob_0,prob_1,label_0,label_1\n.9,.1,1,0\n.2,.8,0,1\n.7,.3,1,0\n")
    refused("label_0, label_1 could be: name it", tmp_path, tmp_path / "a.csv", scores="probabilities")


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_columns_of_0_and_1_that_are_named_like_classes_are_no_scores(task: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "a.csv").write_text("cat,dog,out_cat,out_dog\n1,0,.9,.1\n0,1,.2,.8\n1,0,.7,.3\n")
    options: dict[str, Any] = {"scores": "probabilities", "classes": tmp_path / "names.txt", "task": task}
    refused("which are the scores.*--score-column 'out_", tmp_path, tmp_path / "a.csv", **options)
    if task == "multi-label":
        frame = run(tmp_path, tmp_path / "a.csv", score_column="out_*", **options)
        assert [list(labels) for labels in frame["labels"]] == [[0], [1], [0]]


def test_empty_lists_are_no_scores(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"label": 0, "logits": []}, {"label": 1, "logits": []}]))
    refused("'logits' of .*a.json has empty lists", tmp_path, tmp_path / "a.json")


def test_dates_that_python_does_not_have_are_kept_as_text(tmp_path: Path) -> None:
    day = pa.array([3_000_000] * ROWS, pa.int32()).cast(pa.date32())
    time = pa.array([320_000_000_000_000_000] * ROWS).cast(pa.timestamp("us"))
    table = pa.table({"label": LABEL, "logits": LOGITS.tolist(), "day": day, "time": time})
    pq.write_table(table, tmp_path / "a.parquet")
    found = run(tmp_path, tmp_path / "a.parquet")
    assert found["label"].tolist() == LABEL.tolist()
    assert found["day"][0] == str(np.datetime64(3_000_000, "D"))
    assert found["time"][0].replace(" ", "T") == str(np.datetime64(320_000_000_000_000_000, "us"))


@pytest.mark.parametrize("form", ["prob_class_{}", "prob_[{}]", "prob_{:02}", "prob_v2.{}.p"])
def test_columns_that_differ_in_one_number_are_in_its_order(form: str, tmp_path: Path) -> None:
    logits, label, _ = make(classes=12)
    p = pd.DataFrame(softmax(logits), columns=[form.format(i + 1) for i in range(12)])
    p[sorted(p.columns)].assign(label=label + 1).to_csv(tmp_path / "a.csv", index=False)
    frame = run(tmp_path, tmp_path / "a.csv", scores="probabilities", score_column="prob_*")
    assert frame["label"].tolist() == label.tolist()
    assert frame["predicted"].tolist() == logits.argmax(axis=1).tolist()
    (tmp_path / "names.txt").write_text("\n".join("abcdefghijkl"))
    p.to_csv(tmp_path / "b.csv", index=False)
    named = {"classes": tmp_path / "names.txt", "labels": tmp_path / "y.txt"}
    (tmp_path / "y.txt").write_text("\n".join("abcdefghijkl"[c] for c in label))
    assert run(tmp_path / "b", tmp_path / "b.csv", scores="probabilities", **named)["label"].tolist() == label.tolist()


def test_several_arrays_in_one_file_and_names_given_twice_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        np.save(stream, LOGITS)
        np.save(stream, LOGITS)
    refused("a.npy has .* bytes after its array, as np.save leaves", tmp_path, tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", logits=LOGITS, label=LABEL)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("logits.npy", archive.read("logits.npy"))
    refused("a.npz has two members named 'logits.npy'", tmp_path, tmp_path / "a.npz")
    twice = '{"logits": [1, 2], "label": 0, "logits": [2, 1]}\n'
    for file, content in (("a.json", f"[\n{twice}]"), ("b.json", twice * 2), ("a.jsonl", twice * 2)):
        (tmp_path / file).write_text(content)
        refused(f"cannot read .*{file}.*: an object has the key 'logits' twice", tmp_path, tmp_path / file)


def test_rows_of_one_image_are_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", logits=LOGITS[:3], label=[0, 1, 0], path=["a.png", "./a.png", "b.png"])
    lines = run_logged(tmp_path, tmp_path / "a.npz", pictures=False)[1]
    words = "warning: 1 row has an image that a row before has (the first is a.png), 1 with another label: each row is"
    assert any(line.startswith(words) for line in lines), lines


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (("90%", ".1"), r"column 'prob_0' of .*a\.csv has '90%' in row 0; expected numbers"),
        ((".9", "prob_1"), r"column 'prob_1' of .*a\.csv has 'prob_1' in row 2; expected numbers"),
    ],
)
def test_text_among_scores_is_named_with_its_row(cells: tuple[str, str], words: str, tmp_path: Path) -> None:
    rows = "0,.5,.5,.5\n1,.9,.1,.5\n"
    (tmp_path / "a.csv").write_text(f"label,prob_0,prob_1,prob_2\n{rows}1,{','.join(cells)},.5\n")
    if cells[0] == "90%":
        (tmp_path / "a.csv").write_text("label,prob_0,prob_1\n1,90%,10%\n0,1%,99%\n")
    refused(words, tmp_path, tmp_path / "a.csv", scores="probabilities")


def test_paths_that_look_like_numbers_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label,prob_0,prob_1\n0e3,0,.9,.1\n1e3,1,.2,.8\n")
    frame = run(tmp_path, tmp_path / "a.csv", scores="probabilities", pictures=False)
    assert frame["image"].tolist() == ["0e3", "1e3"]


def test_numbers_that_fit_far_better_as_indices_are_named(tmp_path: Path) -> None:
    label = np.arange(40) % 2 + 1  # of 0 to 2
    p = pd.DataFrame(np.eye(3)[label] * 0.7 + 0.1, columns=["prob_1", "prob_2", "prob_3"])
    for name, shift, warned in (("a.csv", 0, True), ("b.csv", 1, False)):
        p.assign(label=label + shift).to_csv(tmp_path / name, index=False)
        lines = run_logged(tmp_path / name[0], tmp_path / name, scores="probabilities")[1]
        assert any("give an accuracy of 0 %, and as indices from 0 100 %" in line for line in lines) == warned, lines


def test_json_may_name_its_classes_and_say_more(tmp_path: Path) -> None:
    scores = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]
    columns: dict[str, Any] = {
        "probs": scores,
        "label": ["owl", "dog", "cat", "dog"],
        "class_names": ["owl", "cat", "dog"],
        "epoch": 5,
    }
    records = [{"probs": p, "label": y} for p, y in zip(scores, columns["label"], strict=True)]
    wrapped = {"model": "r50", "results": records, "class_names": ["owl", "cat", "dog"]}
    for i, content in enumerate((columns, wrapped)):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}/a.json").write_text(json.dumps(content))
        frame = run(tmp_path / f"{i}", tmp_path / f"{i}/a.json", scores="probabilities")
        assert frame["label"].tolist() == frame["predicted"].tolist() == [0, 2, 1, 2]
    (tmp_path / "b.json").write_text(json.dumps({**columns, "class_names": ["owl", "cat"]}))
    refused("names owl, cat as its classes; expected 3", tmp_path, tmp_path / "b.json", scores="probabilities")
    (tmp_path / "a.csv.gz").write_bytes(b"")
    refused(r"a.csv.gz is compressed: unpack it first, then give a.csv", tmp_path, tmp_path / "a.csv.gz")
