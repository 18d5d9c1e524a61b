"""Saved predictions of several labels an image, as other programs write them: the same rows come out of each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import ImportConfig, InputError, import_predictions, open_predictions
from predboard.cli import main
from tests import toy
from tests.ingest.examples import logits_of, refused, run, run_logged

CLASSES = ("cat", "dog", "owl", "bee")
ROWS = 60
CHEXNET = toy.SHARED / "chexnet" / "chexnet.npz"


def make(rows: int = ROWS, seed: int = 0) -> tuple[Any, Any, list[str]]:
    """Logits float32 [rows, 4], the true labels bool [rows, 4] and image paths; some rows have no label."""
    random = np.random.default_rng(seed)
    mask = random.random((rows, 4)) < (0.5, 0.3, 0.2, 0.1)
    logits = random.normal(size=(rows, 4)).astype(np.float32) + mask - 0.5
    return logits, mask, [f"pics/{i:03}.png" for i in range(rows)]


LOGITS, MASK, IMAGES = make()
NAMES = [[CLASSES[i] for i in np.flatnonzero(row)] for row in MASK]
PROBABILITIES = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
ORDER = [2, 0, 3, 1]
"""Of the label columns, which is another than that of the scores."""


def multi(folder: Path, *files: Path, **options: Any) -> pd.DataFrame:
    return run(folder, *files, task="multi-label", pictures=False, **options)


def logged(folder: Path, *files: Path, **options: Any) -> tuple[pd.DataFrame, str]:
    frame, lines = run_logged(folder, *files, task="multi-label", pictures=False, **options)
    return frame, "\n".join(lines)


def columns() -> dict[str, Any]:
    scores = {f"logit_{name}": LOGITS[:, i] for i, name in enumerate(CLASSES)}
    labels = {f"label_{CLASSES[i]}": MASK[:, i].astype(int) for i in ORDER}
    return {"image": IMAGES, **labels, **scores}


def lists() -> list[dict[str, Any]]:
    return [
        {"image": image, "labels": names, "logits": row.tolist()}
        for image, names, row in zip(IMAGES, NAMES, LOGITS, strict=True)
    ]


def write_npz(file: Path) -> dict[str, Any]:
    np.savez(file, logits=LOGITS, labels=MASK, class_names=np.array(CLASSES), image=np.array(IMAGES))
    return {}


def write_npz_of_texts(file: Path) -> dict[str, Any]:
    texts = np.array(["|".join(names) or "nothing" for names in NAMES])
    np.savez(file, logits=LOGITS, y_true=texts, class_names=np.array(CLASSES), image=np.array(IMAGES))
    return {"label_separator": "|", "none": "nothing"}


def write_pt(file: Path) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    tensors = {"logits": torch.from_numpy(LOGITS), "targets": torch.from_numpy(MASK.astype(np.float32))}
    torch.save({**tensors, "class_names": list(CLASSES), "image": IMAGES}, file)
    return {}


def write_wide_csv(file: Path) -> dict[str, Any]:
    pd.DataFrame(columns()).to_csv(file, index=False)
    return {}


def write_wide_csv_of_plain_names(file: Path) -> dict[str, Any]:
    frame = pd.DataFrame(columns()).rename(columns=lambda name: name.removeprefix("label_"))
    frame.replace({0: np.nan}).assign(nothing=(~MASK.any(1)).astype(float)).to_csv(file, index=False)
    return {"empty": "absent", "none": "nothing"}


def write_separated_csv(file: Path) -> dict[str, Any]:
    frame = pd.DataFrame({name: values for name, values in columns().items() if not name.startswith("label_")})
    frame.assign(Labels=[" ; ".join(names) for names in NAMES]).to_csv(file, index=False)
    return {"label_separator": ";", "empty": "absent"}


def write_printed_lists(file: Path) -> dict[str, Any]:
    frame = pd.DataFrame({name: values for name, values in columns().items() if not name.startswith("label_")})
    frame.assign(labels=pd.Series(NAMES)).to_csv(file, index=False)  # pandas writes "['cat', 'dog']"
    return {}


def write_jsonl(file: Path) -> dict[str, Any]:
    file.write_text("\n".join(map(json.dumps, lists())), encoding="utf-8")
    return {}


def write_json(file: Path) -> dict[str, Any]:
    file.write_text(json.dumps({"class_names": CLASSES, "rows": lists()}), encoding="utf-8")
    return {}


def write_parquet(file: Path) -> dict[str, Any]:
    indices = [np.flatnonzero(row).tolist() for row in MASK]
    table = pa.table({"image": IMAGES, "labels": indices, "logits": LOGITS.tolist()})
    pq.write_table(table, file)
    return {}


WRITERS: list[tuple[str, Callable[[Path], dict[str, Any]], bool]] = [
    ("p.npz", write_npz, True),
    ("p.npz", write_npz_of_texts, True),
    ("p.pt", write_pt, True),
    ("p.csv", write_wide_csv, True),
    ("p.csv", write_wide_csv_of_plain_names, True),
    ("p.csv", write_separated_csv, True),
    ("p.csv", write_printed_lists, True),
    ("p.jsonl", write_jsonl, False),
    ("p.json", write_json, True),
    ("p.parquet", write_parquet, False),
]
"""Name of the file, what writes it and returns the flags it needs, and whether it names the classes."""


@pytest.mark.parametrize(("name", "write", "is_named"), WRITERS, ids=lambda value: getattr(value, "__name__", None))
def test_every_kind_of_file_gives_the_same_rows(
    name: str, write: Callable[[Path], dict[str, Any]], is_named: bool, tmp_path: Path
) -> None:
    options = write(tmp_path / name)
    if not is_named:
        (tmp_path / "names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
        options["classes"] = tmp_path / "names.txt"
    frame = multi(tmp_path, tmp_path / name, **options)
    opened = open_predictions(tmp_path / "out").run
    assert (opened.classes, opened.task, opened.scores, opened.format) == (CLASSES, "multi-label", "logits", 2)
    assert [row.tolist() for row in frame["labels"]] == [np.flatnonzero(row).tolist() for row in MASK]
    assert [row.tolist() for row in frame["predicted_labels"]] == [np.flatnonzero(row > 0).tolist() for row in LOGITS]
    assert np.allclose(logits_of(frame), LOGITS, atol=1e-6)
    assert frame["image"].tolist() == IMAGES
    assert frame["unknown"].isna().all()


def test_what_was_taken_is_said_and_recorded(tmp_path: Path) -> None:
    write_wide_csv(tmp_path / "p.csv")
    _, said_lines = logged(tmp_path, tmp_path / "p.csv")
    empty = int((~MASK.any(1)).sum())
    words = (
        "p.csv, read as 4 columns of 0 and 1 (label_cat, label_dog, label_owl, label_bee), "
        f"{MASK.sum()} labels in {ROWS} images, {empty} of them with none"
    )
    assert f"labels: {words}; images: 'image' of p.csv; order of the classes: the score columns" in said_lines
    assert "warning" not in said_lines
    part = next((tmp_path / "out").rglob("part-*.parquet"))
    footer = json.loads(pq.read_metadata(part).metadata[b"predboard.part"])
    assert footer["provenance"]["labels"] == words


def test_probabilities_need_no_sum_and_become_log_odds(tmp_path: Path) -> None:
    p = PROBABILITIES.copy()
    p[0] = 0, 1, 0.25, 0.5
    np.savez(tmp_path / "p.npz", probs=p, labels=MASK)
    frame, lines = logged(tmp_path, tmp_path / "p.npz", scores="probabilities")
    logits = logits_of(frame)
    assert np.allclose(logits[1:], LOGITS[1:], atol=1e-5)
    assert np.allclose(logits[0], [-87.336545, 16.635532, np.log(1 / 3), 0], atol=1e-6)
    assert frame["predicted_labels"][0].tolist() == [1]  # a probability of 1/2 is not above it
    assert "2 probabilities of 0 or 1 in p.npz became 1.2e-38 or 0.99999994" in lines
    assert open_predictions(tmp_path / "out").run.scores == "log_odds"


def test_log_probabilities_become_the_log_odds_that_follow_from_them(tmp_path: Path) -> None:
    """ln p − ln(1 − p), with 1 − p as log1p(−exp(ln p)) gives it."""
    logarithms = -np.logaddexp(0, -LOGITS.astype(np.float64))
    logarithms[0] = -np.inf, 0, -60, np.log(0.5)
    np.savez(tmp_path / "p.npz", log_probs=logarithms, labels=MASK)
    frame, lines = logged(tmp_path, tmp_path / "p.npz", scores="log_probabilities")
    logits = logits_of(frame)
    assert np.allclose(logits[1:], logarithms[1:] - np.log1p(-np.exp(logarithms[1:])), rtol=1e-6, atol=1e-6)
    assert np.allclose(logits[1:], LOGITS[1:], atol=1e-5)
    assert np.allclose(logits[0], [-87.336545, 16.635532, -60, 0], atol=1e-6)
    assert "2 probabilities of 0 or 1 in p.npz became 1.2e-38 or 0.99999994" in lines
    assert open_predictions(tmp_path / "out").run.scores == "log_odds"
    np.savez(tmp_path / "q.npz", log_probs=-logarithms[1:], labels=MASK[1:])
    with pytest.raises(InputError, match=r"are the scores logits\? then --scores logits"):
        multi(tmp_path / "q", tmp_path / "q.npz", scores="log_probabilities")


def test_float32_probabilities_near_1_keep_their_order(tmp_path: Path) -> None:
    p = np.array([[1 - 2.0**-24, 1 - 2.0**-23, 1 - 2.0**-22, 0.5]] * 2, np.float32)
    np.savez(tmp_path / "p.npz", probs=p, labels=np.eye(4, dtype=bool)[:2])
    logits = logits_of(multi(tmp_path, tmp_path / "p.npz", scores="probabilities"))
    assert np.allclose(logits[0], [24 * np.log(2), 23 * np.log(2), 22 * np.log(2), 0], atol=1e-5)


def test_labels_of_another_file_are_joined_by_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=LOGITS, class_names=np.array(CLASSES), image=np.array(IMAGES))
    order = np.random.default_rng(1).permutation(ROWS)[1:]
    lost = int(np.setdiff1d(np.arange(ROWS), order)[0])
    frame = pd.DataFrame({"file": [IMAGES[i] for i in order], "tags": ["|".join(NAMES[i]) for i in order]})
    frame.to_csv(tmp_path / "y.csv", index=False)
    options = {"labels": tmp_path / "y.csv", "label_column": "tags", "label_separator": "|", "empty": "absent"}
    rows, lines = logged(tmp_path, tmp_path / "p.npz", **options)
    assert "warning: 1 row has no label in y.csv" in lines
    expected = [None if i == lost else np.flatnonzero(row).tolist() for i, row in enumerate(MASK)]
    assert [None if row is None else row.tolist() for row in rows["labels"]] == expected


def test_labels_of_another_array_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", LOGITS)
    np.save(tmp_path / "y.npy", np.where(MASK, 1.0, np.where(LOGITS < -2, -1.0, 0.0)))
    rows, lines = logged(tmp_path, tmp_path / "p.npy", labels=tmp_path / "y.npy")
    assert "order of the classes: the order of the scores, numbered from 0" in lines
    unknown = [np.flatnonzero(row).tolist() for row in (LOGITS < -2) & ~MASK]
    assert [[] if row is None else row.tolist() for row in rows["unknown"]] == unknown


def test_scores_without_names_take_the_order_of_label_columns_with_a_word_and_never_of_sorted_labels(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "p.npy", LOGITS)
    frame = pd.DataFrame({name: MASK[:, i].astype(int) for i, name in enumerate(CLASSES)})
    frame.to_csv(tmp_path / "wide.csv", index=False)
    options = {"labels": tmp_path / "wide.csv", "label_column": ",".join(CLASSES)}
    _, lines = logged(tmp_path, tmp_path / "p.npy", **options)
    assert "warning: the scores do not name their classes, which are taken in the order of the label columns" in lines
    assert open_predictions(tmp_path / "out").run.classes == CLASSES
    pd.DataFrame({"labels": ["|".join(names) or "-" for names in NAMES]}).to_csv(tmp_path / "y.csv", index=False)
    refused(
        "the scores do not say which is whose: name the classes in the order of the scores with --classes FILE",
        tmp_path / "second",
        tmp_path / "p.npy",
        **{"task": "multi-label", "labels": tmp_path / "y.csv", "label_separator": "|", "none": "-"},
    )


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ({"labels": MASK.T}, {}, "60 rows of scores, but 'labels' has shape 4×60; expected as many rows of labels"),
        ({"labels": MASK[1:]}, {}, "60 rows of scores, but 'labels' has shape 59×4"),
        ({"labels": MASK, "label_id": MASK.argmax(1)}, {"label_column": "label*"}, "'labels' has all labels by itself"),
    ],
)  # fmt: skip
def test_arrays_of_labels_that_do_not_fit_the_rows_are_refused(
    labels: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "p.npz", logits=LOGITS, **labels)
    refused(words, tmp_path, tmp_path / "p.npz", task="multi-label", **options)


def test_one_label_alone_is_there_or_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=LOGITS[:, :1], labels=MASK[:, :1].astype(int))
    frame = multi(tmp_path, tmp_path / "p.npz")
    assert [len(labels) for labels in frame["labels"]] == MASK[:, 0].tolist()
    pd.DataFrame({"logit": LOGITS[:, 0], "label": MASK[:, 0]}).to_csv(tmp_path / "p.csv", index=False)
    words = "--task multi-label expects one for each label: leave the flag out for a label by itself"
    refused(words, tmp_path / "x", tmp_path / "p.csv", task="multi-label")


def test_further_columns_named_like_those_of_the_format_get_another_name(tmp_path: Path) -> None:
    frame = pd.DataFrame(columns()).assign(unknown="u")
    frame.to_csv(tmp_path / "p.csv", index=False)
    pd.DataFrame({"image": IMAGES, "labels": "cat|dog"}).to_csv(tmp_path / "list.csv", index=False)
    rows = multi(tmp_path, tmp_path / "p.csv", images=str(tmp_path / "list.csv"), label_column="label_*")
    assert [list(labels) for labels in rows["labels"]] == [np.flatnonzero(row).tolist() for row in MASK]
    assert rows["unknown"].isna().all()
    assert set(rows["manifest_unknown"]) == {"u"} and set(rows["manifest_labels"]) == {"cat|dog"}


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for name, rows in (("a.npz", slice(0, 20)), ("b.npz", slice(20, ROWS))):
        np.savez(tmp_path / name, logits=LOGITS[rows], labels=MASK[rows], class_names=np.array(CLASSES))
    frame = multi(tmp_path, tmp_path / "a.npz", tmp_path / "b.npz", step=(0,))
    assert [row.tolist() for row in frame["labels"]] == [np.flatnonzero(row).tolist() for row in MASK]


def test_rows_without_labels_are_unlabelled(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=LOGITS, other=np.arange(ROWS))
    frame, lines = logged(tmp_path, tmp_path / "p.npz", label_column="none")
    assert "labels: none; " in lines
    assert frame["labels"].isna().all()


def test_rows_that_are_not_finite_fail_and_infinities_are_not_probabilities(tmp_path: Path) -> None:
    logits = LOGITS.copy()
    logits[3, 1], logits[5, 0] = np.nan, np.inf
    np.savez(tmp_path / "p.npz", logits=logits, labels=MASK)
    frame, lines = logged(tmp_path, tmp_path / "p.npz")
    assert np.flatnonzero(frame["error"].notna()).tolist() == [3, 5]
    assert "2 rows in p.npz have scores that are not finite" in lines


# --- what looks like a mistake ---


@pytest.mark.parametrize(
    ("scores", "kind", "words"),
    [
        (PROBABILITIES, "logits", "as after a sigmoid, which would be applied twice"),
        (PROBABILITIES / PROBABILITIES.sum(1, keepdims=True), "logits", "as after a softmax for one label of many"),
        (np.log(PROBABILITIES / PROBABILITIES.sum(1, keepdims=True)), "logits", "as after a log-softmax"),
        (PROBABILITIES / PROBABILITIES.sum(1, keepdims=True), "probabilities", "are these single-label"),
        (LOGITS - 20, "logits", "no label is predicted for any of 60 images"),
        (LOGITS + 20, "logits", "100 % of all labels of 60 images are predicted"),
        (np.where(MASK, 0.1, -0.1), "logits", "the labels are those with a probability above 1/2 in every row"),
    ],
)
def test_scores_of_another_kind_are_noticed(scores: Any, kind: str, words: str, tmp_path: Path) -> None:
    labels = np.where((np.arange(ROWS) < 3)[:, None] & MASK, -1, MASK)  # a few rows with unknown ones change nothing
    np.savez(tmp_path / "p.npz", scores=scores, labels=labels)
    _, lines = logged(tmp_path, tmp_path / "p.npz", scores=kind)
    assert [words in line for line in lines.splitlines() if line.startswith("warning: ")] == [True]


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_sigmoids_taken_for_one_label_name_the_flag(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", scores=PROBABILITIES, labels=np.arange(ROWS) % 4)
    if kind == "logits":
        assert "add --task multi-label" in "\n".join(run_logged(tmp_path, tmp_path / "p.npz", scores=kind)[1])
    else:
        refused("or add --task multi-label if each class has a sigmoid", tmp_path, tmp_path / "p.npz", scores=kind)


def test_classes_in_another_order_are_noticed_by_what_the_scores_rank(tmp_path: Path) -> None:
    logits, mask, _ = make(400)
    scores, names = logits + 2 * mask, np.array(CLASSES)
    np.savez(tmp_path / "p.npz", scores=scores, labels=mask, class_names=names)
    assert "warning" not in logged(tmp_path / "right", tmp_path / "p.npz")[1]
    np.savez(tmp_path / "p.npz", scores=scores, labels=mask[:, [3, 0, 1, 2]], class_names=names)
    _, lines = logged(tmp_path / "wrong", tmp_path / "p.npz")
    (line,) = [line for line in lines.splitlines() if line.startswith("warning: ")]
    assert "with the class names in another order: cat is dog, dog is owl, owl is bee, bee is cat; --classes" in line


def test_right_scores_give_no_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", scores=PROBABILITIES, labels=MASK)
    assert "warning" not in logged(tmp_path, tmp_path / "p.npz", scores="probabilities")[1]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"scores": LOGITS}, {"scores": "probabilities"}, r"does not hold probabilities: .* numbers outside 0 to 1"),
        ({"scores": np.where(MASK, 1.05, 0.1)}, {"scores": "probabilities"}, "numbers outside 0 to 1"),
        ({"labels": MASK[:, :3]}, {}, "has 3 values in each row and there are 4 classes"),
        ({"labels": MASK[:50]}, {"label_column": "labels"}, "60 rows of scores, but 'labels' has shape 50×4"),
        ({"labels": MASK * 0.5}, {}, r"column 0, has '0\.[05]'"),
        ({"labels": np.where(MASK, 1, np.nan)}, {}, "give --empty absent or --empty unknown"),
        ({"labels": np.array(["cat|dgo"] * ROWS)}, {"label_separator": "|"}, r"'dgo' \(60\).*did you mean dog\?"),
        ({"labels": np.array(["cat|dog"] * ROWS)}, {}, "--label-separator '|' splits them"),
        ({"labels": MASK}, {"label_separator": "|"}, "--label-separator does not apply to"),
        ({"labels": MASK}, {"none": "nothing"}, "--none does not apply to"),
        ({"labels": MASK}, {"label_column": "lables"}, "no column 'lables'.*did you mean labels"),
        ({"labels": None, "a": MASK, "b": MASK}, {}, "has no column that is surely the labels, but a, b could be"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    change: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    arrays = {"scores": LOGITS, "labels": MASK, "class_names": np.array(CLASSES), **change}
    np.savez(tmp_path / "p.npz", **{name: array for name, array in arrays.items() if array is not None})
    refused(words, tmp_path, tmp_path / "p.npz", **{"task": "multi-label", **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scores": "confidence"}, "with --task multi-label expected logits, probabilities or log_probabilities"),
        ({"labels_from_folders": True}, "gives an image one label"),
        ({"task": "single-label", "none": "x"}, "--none is for several labels of an image: add --task multi-label"),
        ({"task": "single-label", "empty": "absent"}, "--empty is for several labels"),
        ({"task": "single-label", "label_separator": ","}, "--label-separator is for several labels"),
        ({"label_separator": ""}, "--label-separator is empty"),
        ({"empty": "absnt"}, "did you mean absent"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        ImportConfig(**{"scores": "logits", "files": (tmp_path / "p.npz",), "task": "multi-label", **options})


def test_a_bad_label_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "p.npz", logits=LOGITS, labels=np.where(MASK, 2, 0))
    flags = ("--scores", "logits", "--task", "multi-label", "--out", str(tmp_path / "out"))
    assert main.run(["import", str(tmp_path / "p.npz"), *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "expected 1, 0, −1 for an unknown label, or nothing" in last
    assert not list(tmp_path.rglob("*.parquet"))


# --- real predictions ---


def test_chexnet_comes_out_as_numpy_counts_it(tmp_path: Path) -> None:
    if not CHEXNET.exists():
        pytest.skip(f"needs the real predictions in {CHEXNET}")
    saved = np.load(CHEXNET)
    result = import_predictions(
        ImportConfig("probabilities", (CHEXNET,), task="multi-label", out=tmp_path / "out", pictures=False),
        lambda _: None,
    )
    assert result.rows == 22_433
    frame = open_predictions(tmp_path / "out").to_pandas()
    assert open_predictions(tmp_path / "out").run.classes == tuple(saved["names"])
    mask = np.zeros((22_433, 14), bool)
    for row, labels in enumerate(frame["labels"]):
        mask[row, labels] = True
    assert np.array_equal(mask, saved["label"])
    sizes = frame["labels"].map(len)
    assert (sizes == 0).sum() == (~saved["label"].any(1)).sum() == 11_923  # No Finding: empty sets, none lost
    assert sizes.sum() == saved["label"].sum()
    p = saved["prob"].astype(np.float64)
    assert np.allclose(1 / (1 + np.exp(-logits_of(frame).astype(np.float64))), p, atol=1e-7)
    right = [np.array_equal(a, np.flatnonzero(b)) for a, b in zip(frame["predicted_labels"], p > 0.5, strict=True)]
    assert all(right)


def test_nih_csv_of_chexnet_gives_the_same_sets(tmp_path: Path) -> None:
    if not CHEXNET.exists():
        pytest.skip(f"needs the real predictions in {CHEXNET}")
    saved = np.load(CHEXNET)
    names = saved["names"]
    texts = ["|".join(names[np.flatnonzero(row)]) or "No Finding" for row in saved["label"][:2_000]]
    pd.DataFrame({"Image Index": saved["image"][:2_000], "Finding Labels": texts}).to_csv(
        tmp_path / "Data_Entry.csv", index=False
    )
    np.savez(tmp_path / "p.npz", prob=saved["prob"][:2_000], names=names, image=saved["image"][:2_000])
    options = {"labels": tmp_path / "Data_Entry.csv", "label_column": "Finding Labels", "label_separator": "|"}
    frame = multi(tmp_path, tmp_path / "p.npz", scores="probabilities", none="No Finding", **options)
    expected = [np.flatnonzero(row).tolist() for row in saved["label"][:2_000]]
    assert [row.tolist() for row in frame["labels"]] == expected
    count = texts.count("No Finding")
    refused(
        rf"'No Finding' \({count:,}\).*--none 'No Finding' says that it means no label",
        tmp_path / "second",
        tmp_path / "p.npz",
        **{"task": "multi-label", "scores": "probabilities", **options},
    )


def test_an_image_twice_is_noted_with_how_many_other_labels_it_has(tmp_path: Path) -> None:
    mask = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    images = np.array(["a.png", "a.png", "b.png", "b.png"])
    scores = np.array([[1.0, -2], [-1, 2], [3, -4], [-2, 1]])
    np.savez(tmp_path / "p.npz", logits=scores, labels=np.where(np.arange(4)[:, None] == 3, ~mask, mask), image=images)
    _, lines = logged(tmp_path, tmp_path / "p.npz")
    assert "2 rows have an image that a row before has (the first is a.png), 1 with another label: each row" in lines
