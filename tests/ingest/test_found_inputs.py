"""Inputs that people have: what is taken for labels, images and the order of the classes, and that it is said."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from predboard import open_predictions
from predboard.predictions.schema import hash_refs
from tests import toy
from tests.ingest.examples import make, refused, run, run_logged, save_torch, softmax, tensors

FOUND = toy.SHARED / "found"


@pytest.mark.parametrize(
    ("file", "accuracy", "words"),
    [
        ("03_import_labels_unfound/trainer_predict.npz", 29 / 30, "labels: 'label_ids' of trainer_predict.npz"),
        ("03_import_labels_unfound/all_labels.npz", 29 / 30, "labels: 'all_labels' of all_labels.npz"),
        ("03_import_labels_unfound/keras_onehot.npz", 29 / 30, "labels: 'y_true' of keras_onehot.npz"),
        ("04_json/default_orient.json", 0.875, "images: 'image' of default_orient.json"),
        ("02_import_numeric/sklearn.csv", 0.925, "order of the classes: the numbers of the score columns"),
        ("17_parquet/view.parquet", 0.8, "warning: the scores do not name their classes, which are taken in alph"),
        ("22_two_label_columns/label_is_predicted.csv", 1.0, "as if it were the prediction; the truth may be 'target'"),
        ("27_categorical_paths/old.parquet", 47 / 60, "images: 'path' of old.parquet"),
    ],
)
def test_files_that_people_have_are_read_right(file: str, accuracy: float, words: str, tmp_path: Path) -> None:
    if not FOUND.is_dir():
        pytest.skip(f"needs the files in {FOUND}")
    scores = "logits" if "trainer" in file else "probabilities"
    frame, lines = run_logged(tmp_path, FOUND / file, scores=scores, pictures=False)
    assert (frame["label"] == frame["predicted"]).mean() == pytest.approx(accuracy)
    assert any(words in line for line in lines), lines


def test_names_that_alphabetical_order_does_not_fit_are_refused_with_the_order_that_fits(tmp_path: Path) -> None:
    if not FOUND.is_dir():
        pytest.skip(f"needs the files in {FOUND}")
    order = "No_DR, Mild, Moderate, Severe, Proliferate_DR"
    file = FOUND / "20_name_order/retina.csv"
    refused(rf"do not fit alphabetical order \(Mild, .*\); they fit {order}: ", tmp_path, file, scores="probabilities")
    (tmp_path / "names.txt").write_text(order.replace(", ", "\n"))
    frame = run(tmp_path, file, scores="probabilities", classes=tmp_path / "names.txt")
    assert (frame["label"] == frame["predicted"]).mean() == pytest.approx(0.95)


def test_lists_of_label_and_score_and_records_without_some_keys_are_read(tmp_path: Path) -> None:
    ranked = {"v/cat/0.png": [("cat", 0.7), ("bee", 0.3)], "v/bee/1.png": [("bee", 0.9), ("cat", 0.1)]}
    named = {ref: [{"label": name, "score": p} for name, p in scores] for ref, scores in ranked.items()}
    (tmp_path / "a.json").write_text(json.dumps(named))
    frame = run(tmp_path, tmp_path / "a.json", scores="probabilities", labels_from_folders=True, pictures=False)
    assert open_predictions(tmp_path / "out").run.classes == ("cat", "bee")
    assert frame["label"].tolist() == frame["predicted"].tolist() == [0, 1]
    named["v/bee/1.png"].pop()
    (tmp_path / "a.json").write_text(json.dumps(named))
    refused("does not list every class for every image", tmp_path / "x", tmp_path / "a.json", scores="probabilities")
    records = [{"probs": [0.2, 0.8]}, {"probs": [0.6, 0.4], "label": 0}]
    (tmp_path / "b.json").write_text(json.dumps(records))
    frame = run(tmp_path / "b", tmp_path / "b.json", scores="probabilities")
    assert frame["label"].fillna(-1).tolist() == [-1, 0]


@pytest.mark.parametrize("kind", ["npz", "pt"])
def test_arrays_without_names_are_scores_and_labels(kind: str, tmp_path: Path) -> None:
    logits, label, _ = make()
    file = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(file, logits, label)
    else:
        save_torch(file, tuple(tensors(logits, label)))
    frame, lines = run_logged(tmp_path, file)
    assert frame["label"].tolist() == label.tolist()
    assert any(
        line.startswith(f"labels: '{'arr_1' if kind == 'npz' else '1'}' of a.{kind}, read as indices from 0;")
        for line in lines
    )


# --- numbered columns ---


@pytest.mark.parametrize("columns", [(1, 2, 5), (5, 1, 2), (2, 3, 4), (0, 1, 2)])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbered_columns_keep_their_numbers_in_any_order(columns: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    logits, label, _ = make(200)
    numbers = sorted(columns)
    frame = pd.DataFrame({f"prob_{n}": softmax(logits)[:, numbers.index(n)] for n in columns})
    frame["y_true"] = [numbers[c] for c in label]
    file = tmp_path / f"a.{kind}"
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    found = run(tmp_path, file, scores="probabilities")
    assert open_predictions(tmp_path / "out").run.classes == tuple(map(str, numbers))
    assert found["label"].tolist() == label.tolist()
    assert found["predicted"].tolist() == logits.argmax(axis=1).tolist()


def test_numbered_columns_take_the_names_of_classes_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    logits, label, _ = make(200)
    frame = pd.DataFrame({f"prob_{n}": softmax(logits)[:, i] for i, n in enumerate((1, 2, 3))})
    frame["label"] = [("owl", "cat", "dog")[c] for c in label]
    frame.iloc[:, [2, 0, 1, 3]].to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "names.txt").write_text("owl\ncat\ndog")
    found = run(tmp_path, tmp_path / "a.csv", scores="probabilities", classes=tmp_path / "names.txt")
    assert open_predictions(tmp_path / "out").run.classes == ("owl", "cat", "dog")
    assert found["label"].tolist() == label.tolist()


# --- text stays text ---


def test_images_labels_and_keys_of_a_csv_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "path,id,label,p_007,p_1e3\n00000,0010,007,.9,.1\n00001,1e3,1e3,.2,.8\n",
    )
    options: dict[str, Any] = {"scores": "probabilities", "score_column": "p_*", "key_column": "id"}
    frame = run(tmp_path, tmp_path / "a.csv", **options)
    assert frame["image"].tolist() == ["00000", "00001"]
    assert frame["label"].tolist() == [0, 1]
    assert open_predictions(tmp_path / "out").run.classes == ("007", "1e3")
    assert frame["key"].tolist() == hash_refs(["0010", "1e3"]).tolist()


# --- what is said ---


def test_what_was_taken_is_logged_and_recorded(tmp_path: Path) -> None:
    logits, label, image = make(200)
    np.savez(tmp_path / "a.npz", probs=softmax(logits), y_true=label, files=image, class_names=["ant", "bee", "cow"])
    _, lines = run_logged(tmp_path, tmp_path / "a.npz", scores="probabilities", pictures=False)
    taken = "labels: 'y_true' of a.npz, read as indices from 0; images: 'files' of a.npz; order of the classes: the "
    assert f"{taken}class names in the file" in lines
    opened = open_predictions(tmp_path / "out")
    assert opened.run.classes == ("ant", "bee", "cow")
    provenance = opened.step.parts[0].part.provenance
    assert provenance["labels"] == "'y_true' of a.npz, read as indices from 0"
    assert provenance["images"] == "'files' of a.npz"
    assert provenance["class_order"] == "the class names in the file"
    assert "warnings" not in provenance


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, y: (z, (y + 1) % 3), "with the class names in another order|with labels (less|plus) one"),
        (lambda z, y: (z[::-1], y), "always predicting the most frequent class gives"),
        (lambda z, y: (softmax(z), y), "the outputs are probabilities, not logits"),
        (lambda z, y: (1 / (1 + np.exp(-z)), y), "as after a sigmoid for several labels per image"),
        (lambda z, y: (z, z.argmax(1).astype(y.dtype)), "is the class with the highest score in every row"),
    ],
)
def test_the_checks_of_the_preflight_that_need_no_model_are_made(change: Any, words: str, tmp_path: Path) -> None:
    logits, label, _ = make(400)
    logits[np.arange(400), label] += 2
    z, y = change(logits, label)
    np.savez(tmp_path / "a.npz", logits=z, label=y)
    _, lines = run_logged(tmp_path, tmp_path / "a.npz")
    assert any(line.startswith("warning: ") and re.search(words, line) for line in lines), lines


def test_two_columns_that_could_be_the_truth_are_both_named(tmp_path: Path) -> None:
    logits, label, _ = make(100)
    np.savez(tmp_path / "a.npz", logits=logits, label=label, target=label)
    words = "warning: labels are taken from 'label', but 'target' could be the truth as well: see --label-column"
    assert words in run_logged(tmp_path, tmp_path / "a.npz")[1]
    assert words not in run_logged(tmp_path / "2", tmp_path / "a.npz", label_column="label")[1]


def test_names_and_scores_without_names_are_refused_where_the_rows_prove_no_order(tmp_path: Path) -> None:
    logits, label, _ = make(100)
    names = np.array(["c", "a", "b"])[label]
    np.savez(tmp_path / "a.npz", logits=np.zeros_like(logits) + np.arange(3), label=names)
    refused(r"the rows do not fit alphabetical order \(a, b, c\): name the classes", tmp_path, tmp_path / "a.npz")


@pytest.mark.parametrize("names", [("label", "score"), ("class", "prob"), ("name", "Confidence")])
@pytest.mark.parametrize("column", ["predictions", "value", ""])
def test_lists_of_a_name_and_a_number_are_scores_in_any_order(
    names: tuple[str, str], column: str, tmp_path: Path
) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 20)
    lists = [[dict(zip(names, pair, strict=True)) for pair in zip("abcd", row, strict=True)] for row in p.tolist()]
    for items in lists[1::2]:
        items.reverse()
    records = [{"label": "abcd"[row.argmax()], column: items} for row, items in zip(p, lists, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps(records if column else lists))
    frame = run(tmp_path, tmp_path / "a.json", scores="probabilities", pictures=False)
    assert open_predictions(tmp_path / "out").run.classes == tuple("abcd")
    np.testing.assert_allclose(softmax(np.stack(frame["logits"].to_list())), p, atol=1e-6)
    assert not column or frame["label"].tolist() == frame["predicted"].tolist()


def test_arrays_with_axes_of_one_are_matrices_and_what_follows_an_array_is_refused(tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 20)
    np.savez(tmp_path / "a.npz", probs=p[:, :, None, None], labels=p.argmax(1))
    frame = run(tmp_path, tmp_path / "a.npz", scores="probabilities", pictures=False)
    assert frame["label"].tolist() == frame["predicted"].tolist()
    np.save(tmp_path / "probs.npy", p)
    content = (tmp_path / "probs.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as members:
        members.writestr("probs.npy", content + content)  # as two calls of np.save leave it
    (tmp_path / "b").mkdir()
    message = rf"array 'probs' of .*b.npz has {len(content)} bytes after its array"
    refused(message, tmp_path / "b", tmp_path / "b.npz", scores="probabilities")


@pytest.mark.parametrize(
    ("names", "pattern"), [("p{}", r"'p\*'"), ("score[{}]", r"'score\[\*\]'"), ("x{}y", r"'x\*y'")]
)
def test_columns_with_numbers_are_named_as_the_pattern_to_type(names: str, pattern: str, tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    frame = pd.DataFrame(p, columns=[names.format(i) for i in range(3)]).assign(label=p.argmax(1), width=3.5)
    frame.to_csv(tmp_path / "a.csv", index=False)
    refused(
        rf"which are the scores\? Name them with --score-column {pattern}$",
        tmp_path,
        tmp_path / "a.csv",
        scores="probabilities",
    )
    typed = names.format("*")
    read = run(tmp_path, tmp_path / "a.csv", scores="probabilities", score_column=typed, pictures=False)
    assert read["label"].tolist() == read["predicted"].tolist()
