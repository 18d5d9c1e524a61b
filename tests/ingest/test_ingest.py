"""Predictions made elsewhere: every kind of file gives the same run, misfits are one line, real figures come out."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from predboard import open_predictions
from predboard.cli import main
from predboard.config import ImportConfig
from predboard.errors import InputError
from predboard.images import sources
from predboard.ingest.ingest import import_predictions
from predboard.metrics.counts import CountMetrics, Counts
from predboard.predictions.schema import hash64, hash_refs
from predboard.state import merge
from predboard.storage.parts import PartWriter, read_batches
from predboard.storage.runs import list_step_numbers, open_run

from tests import toy

NAMES = ("cat", "dog", "owl")
ROWS = 40


def made(rows: int = ROWS, classes: int = 3, seed: int = 0) -> tuple[Any, Any, list[str]]:
    """Logits float32 [rows, classes], labels [rows] and image paths."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), label] += 1
    return logits, label, [f"{NAMES[c % 3]}/{i:03d}.png" for i, c in enumerate(label)]


def softmax(logits: Any) -> Any:
    p = np.exp(logits.astype(np.float64))
    return p / p.sum(axis=1, keepdims=True)


def run(folder: Path, *files: Path, **options: Any) -> pd.DataFrame:
    """Import and read back."""
    out = folder / "out"
    import_predictions(ImportConfig(**{"files": files, "scores": "logits", "out": out, **options}))
    frame: pd.DataFrame = open_predictions(out).to_pandas()
    return frame


def logits_of(frame: pd.DataFrame) -> Any:
    return np.stack(frame["logits"].to_list())


def refused(words: str, folder: Path, *files: Path, **options: Any) -> None:
    with pytest.raises(InputError, match=words) as raised:
        run(folder, *files, **options)
    assert "\n" not in str(raised.value)
    assert not list((folder / "out").rglob("*.parquet"))


# --- every kind of file gives the same run ---


def _pt(file: Path, value: Any) -> Path:
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    torch.save(value, file)
    return file


def _tensors(logits: Any, label: Any) -> tuple[Any, Any]:
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    return torch.from_numpy(logits), torch.from_numpy(label)


def save_npz(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    np.savez(file, logits=logits, labels=label, files=np.array(image), embeddings=np.zeros((len(label), 7)))
    return file


def save_pt(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    z, y = _tensors(logits, label)
    return _pt(file, {"logits": z, "targets": y, "paths": image, "epoch": 3})


def save_pt_batches(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    z, y = _tensors(logits, label)
    cuts = [(a, min(a + 16, len(image))) for a in range(0, len(image), 16)]
    return _pt(file, [{"logits": z[a:b], "label": y[a:b], "path": image[a:b]} for a, b in cuts])


def frame_of(logits: Any, label: Any, image: list[str], kind: str) -> pd.DataFrame:
    frame = pd.DataFrame({"path": image, "label": label, "country": ["NO", "SE"] * (len(image) // 2)})
    if kind == "wide":
        for c in reversed(range(logits.shape[1])):  # numbered columns are sorted by number
            frame[f"logit_{c}"] = logits[:, c]
    else:
        frame["logits"] = [row.tolist() for row in logits] if kind == "list" else list(logits)
    return frame


def save_csv(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "wide").to_csv(file, index=False)
    return file


def save_printed(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    with np.printoptions(threshold=sys.maxsize, linewidth=20, floatmode="unique"):
        frame_of(logits, label, image, "printed").to_csv(file, index=False)
    assert len(file.read_text().splitlines()) > 2 * len(image)  # lines break inside the cells
    return file


def save_tsv(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "list").to_csv(file, index=False, sep="\t")
    return file


def save_jsonl(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "list").to_json(file, orient="records", lines=True, double_precision=15)
    return file


def save_json(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "wide").to_json(file, orient="records", double_precision=15)
    return file


def save_parquet(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "list").to_parquet(file)
    return file


def save_parquet_wide(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    frame_of(logits, label, image, "wide").to_parquet(file, row_group_size=7)
    return file


def save_parquet_fixed(file: Path, logits: Any, label: Any, image: list[str]) -> Path:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1])
    names = pa.array([NAMES[c] for c in label]).dictionary_encode()
    pq.write_table(pa.table({"scores": lists, "label": names, "image": image}), file, row_group_size=9)
    return file


KINDS: dict[str, tuple[str, Callable[[Path, Any, Any, list[str]], Path]]] = {
    "npz": ("a.npz", save_npz),
    "pt": ("a.pt", save_pt),
    "pt batches": ("a.pt", save_pt_batches),
    "csv": ("a.csv", save_csv),
    "csv of printed arrays": ("a.csv", save_printed),
    "tsv of lists": ("a.tsv", save_tsv),
    "jsonl": ("a.jsonl", save_jsonl),
    "json": ("a.json", save_json),
    "parquet": ("a.parquet", save_parquet),
    "parquet wide": ("a.parquet", save_parquet_wide),
    "parquet fixed": ("a.parquet", save_parquet_fixed),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    logits, label, image = made()
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    name, save = KINDS[kind]
    frame = run(tmp_path, save(tmp_path / name, logits, label, image), classes=tmp_path / "names.txt", shard_size=16)
    np.testing.assert_array_equal(logits_of(frame), logits)
    assert frame["label"].tolist() == label.tolist()
    assert frame["image"].tolist() == image
    assert frame["key"].tolist() == hash_refs(image).tolist()
    assert frame["id"].tolist() == list(range(ROWS))
    assert frame["predicted"].tolist() == logits.argmax(axis=1).tolist()
    assert frame["error"].isna().all() and frame["digest"].isna().all()
    opened = open_predictions(tmp_path / "out")
    assert (opened.run.classes, opened.run.scores, opened.run.model) == (NAMES, "logits", "a")
    assert opened.run.root == str(tmp_path.resolve())
    if "country" in frame:
        assert frame["country"].tolist() == ["NO", "SE"] * 20
    assert ("country" in frame) == (
        save in (save_csv, save_printed, save_tsv, save_jsonl, save_json) or "wide" in kind or kind == "parquet"
    )


@pytest.mark.parametrize(
    ("order", "dtype"), [("C", "f4"), ("F", "f4"), ("C", "f2"), ("C", "f8"), ("C", "i2"), ("C", ">f4")]
)
def test_a_lone_array_with_labels_in_another_file(order: Any, dtype: str, tmp_path: Path) -> None:
    logits, label, _ = made()
    logits = (logits * 50).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(logits, order=order))
    np.save(tmp_path / "y.npy", label)
    frame = run(tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.npy")
    np.testing.assert_array_equal(logits_of(frame), logits)
    assert frame["label"].tolist() == label.tolist()
    assert frame["image"].isna().all()
    assert frame["key"].tolist() == [hash64(str(row).encode()) for row in range(ROWS)]
    assert open_predictions(tmp_path / "out").run.classes == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["txt", "names.txt", "csv", "json", "dict.json", "pt", "npz", "parquet"])
def test_labels_of_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    logits, label, image = made()
    names = [NAMES[c] for c in label]
    save_npz(tmp_path / "a.npz", logits, label * 0, image)
    file = tmp_path / f"y.{kind}"
    if kind == "txt":
        file.write_text("".join(f"{c}\n" for c in label))
    elif kind == "names.txt":
        file.write_text("\n".join(names))
    elif kind == "csv":  # in another order: the paths say which is whose
        pd.DataFrame({"file": image, "true_label": names}).iloc[::-1].to_csv(file, index=False)
    elif kind == "json":
        file.write_text(json.dumps(label.tolist()))
    elif kind == "dict.json":
        file.write_text(
            json.dumps({i.rpartition("/")[2]: n for i, n in reversed(list(zip(image, names, strict=True)))})
        )
    elif kind == "pt":
        _pt(file, label.tolist())
    elif kind == "npz":
        np.savez(file, other=label, gt=label.astype(float))
    else:
        pq.write_table(pa.table({"class": pa.array(names)}), file)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    frame = run(tmp_path, tmp_path / "a.npz", labels=file, classes=tmp_path / "names.txt")
    assert frame["label"].tolist() == label.tolist()


@pytest.mark.parametrize("windows", [False, True])
def test_labels_from_folders(windows: bool, tmp_path: Path) -> None:
    logits, label, image = made()
    refs = ["cat/" + ref.replace("/", "/more/") for ref in image]  # the last folder that is a class counts
    np.savez(tmp_path / "a.npz", logits=logits, path=[r.replace("/", "\\") if windows else r for r in refs])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    refused("1 classes .more.", tmp_path, tmp_path / "a.npz", labels_from_folders=True)
    frame = run(tmp_path, tmp_path / "a.npz", labels_from_folders=True, classes=tmp_path / "names.txt")
    assert frame["label"].tolist() == label.tolist()
    assert frame["image"].tolist() == refs


def test_images_are_listed_in_a_file_or_in_whatever_infer_takes(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = made(12)
    np.save(tmp_path / "a.npy", logits)
    refs = [f"{c}/{i:03d}.png" for c in "abc" for i in range(4)]
    (tmp_path / "list.txt").write_text("".join(f"{ref}\n" for ref in refs))
    (tmp_path / "pairs.txt").write_text("".join(f"{ref} {ref[0]}\n" for ref in refs))
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for ref in refs:
            archive.write(tmp_path / "data" / ref, ref)
    frames = {
        "folder": run(tmp_path / "1", tmp_path / "a.npy", images=str(tmp_path / "data")),
        "list": run(
            tmp_path / "2",
            tmp_path / "a.npy",
            images=str(tmp_path / "list.txt"),
            image_root=tmp_path / "data",
            labels_from_folders=True,
        ),
        "pairs": run(
            tmp_path / "3", tmp_path / "a.npy", images=str(tmp_path / "pairs.txt"), image_root=tmp_path / "data.zip"
        ),
        "zip": run(tmp_path / "4", tmp_path / "a.npy", images=str(tmp_path / "data.zip"), thumbnails=4),
    }
    for name, frame in frames.items():
        assert frame["image"].tolist() == [f"data.zip#{r}" if name in ("pairs", "zip") else r for r in refs]
        assert frame["label"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert frame["digest"].tolist() == [hash64((tmp_path / "data" / ref).read_bytes()) for ref in refs]
        assert frame["width"].tolist() == [8] * 12 and frame["brightness"].between(0, 1).all()
        assert ("thumbnail" in frame) == (name == "zip")
    frame = run(tmp_path / "5", tmp_path / "a.npy", images=str(tmp_path / "data"), pictures=False)
    assert frame["digest"].isna().all() and frame["width"].isna().all()


def test_parquet_with_scores_and_images_inside(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = made(12)
    content = [file.read_bytes() for file in sorted((tmp_path / "data").glob("*/*.png"))]
    names = {"info": {"features": {"label": {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [{"bytes": c, "path": None} for c in content],
            "label": [0] * 4 + [1] * 4 + [2] * 4,
            "logits": logits.tolist(),
        }
    ).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, tmp_path / "a.parquet")
    frame = run(tmp_path, tmp_path / "a.parquet", images=str(tmp_path / "a.parquet"))
    assert frame["image"].tolist() == [f"a.parquet#{i}" for i in range(12)]
    assert frame["digest"].tolist() == [hash64(c) for c in content]
    assert frame["label"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert open_predictions(tmp_path / "out").run.classes == ("ant", "bee", "cow")


def test_labels_that_are_not_those_of_the_images_are_warned_of(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    np.savez(tmp_path / "a.npz", logits=made(12)[0], label=[1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    said: list[str] = []
    import_predictions(
        ImportConfig("logits", (tmp_path / "a.npz",), tmp_path / "out", images=str(tmp_path / "data")), said.append
    )
    assert "warning: 2 labels in a.npz differ from those of --images: are the rows in the same order?" in said
    assert open_predictions(tmp_path / "out").run.classes == ("a", "b", "c")


def test_pictures_that_are_not_found_are_counted(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = made(12)
    np.save(tmp_path / "a.npy", logits)
    (tmp_path / "data/b/001.png").unlink()
    refs = [f"{c}/{i:03d}.png" for c in "abc" for i in range(4)]
    (tmp_path / "list.txt").write_text("\n".join(refs))
    config = ImportConfig("logits", (tmp_path / "a.npy",), tmp_path / "out", images=str(tmp_path / "list.txt"))
    assert import_predictions(config).missing == 12
    root = ImportConfig(
        "logits",
        (tmp_path / "a.npy",),
        tmp_path / "out2",
        images=str(tmp_path / "list.txt"),
        image_root=tmp_path / "data",
    )
    assert import_predictions(root).missing == 1
    frame = open_predictions(tmp_path / "out2").to_pandas()
    assert frame["digest"].isna().tolist() == [ref == "b/001.png" for ref in refs]
    assert frame["error"].isna().all()


def test_digits_that_are_names_of_classes_are_no_indices(tmp_path: Path) -> None:
    logits, label, _ = made()
    np.save(tmp_path / "a.npy", logits)
    (tmp_path / "names.txt").write_text("5\n6\n7")
    (tmp_path / "y.txt").write_text("\n".join(str(5 + c) for c in label))
    frame = run(tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.txt", classes=tmp_path / "names.txt")
    assert frame["label"].tolist() == label.tolist()


def test_labels_of_some_images_only(tmp_path: Path) -> None:
    logits, label, image = made()
    np.savez(tmp_path / "a.npz", logits=logits, files=image)
    said: list[str] = []
    pd.DataFrame({"path": image[::-2], "label": label[::-2]}).to_csv(tmp_path / "y.csv", index=False)
    import_predictions(
        ImportConfig("logits", (tmp_path / "a.npz",), tmp_path / "out", labels=tmp_path / "y.csv"), said.append
    )
    assert "warning: 20 rows have no label in y.csv" in said
    frame = open_predictions(tmp_path / "out").to_pandas()
    assert frame["label"].fillna(-1).tolist() == [c if i % 2 else -1 for i, c in enumerate(label)]
    pd.DataFrame({"path": image[:2] * 20, "label": label}).to_csv(tmp_path / "y.csv", index=False)
    refused("no labels for these images, or several", tmp_path / "x", tmp_path / "a.npz", labels=tmp_path / "y.csv")


# --- what the scores are ---


def test_probabilities_and_their_logarithms_give_the_same_derived_columns_as_logits(tmp_path: Path) -> None:
    logits, label, image = made()
    p = softmax(logits)
    frames = {}
    for kind, scores in (("logits", logits), ("probabilities", p), ("log_probabilities", np.log(p))):
        np.savez(tmp_path / f"{kind}.npz", scores=scores, labels=label, files=image)
        frames[kind] = run(tmp_path / kind, tmp_path / f"{kind}.npz", scores=kind)
        assert open_predictions(tmp_path / kind / "out").run.scores == (
            kind if kind == "logits" else "log_probabilities"
        )
        for name in ("confidence", "loss", "margin", "entropy"):
            np.testing.assert_allclose(frames[kind][name], frames["logits"][name], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(softmax(logits_of(frames["probabilities"])), p, rtol=1e-5)


def test_one_is_not_said_as_many(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "one.csv").write_text("path,prob_a,prob_b,label\nx.jpg,.5,.5,cow\n")
    import_predictions(ImportConfig("probabilities", (tmp_path / "one.csv",), tmp_path / "one"), said.append)
    assert said[0] == "one.csv: 1 row, 2 classes in prob_a, prob_b"
    (tmp_path / "two.csv").write_text("prob_a,prob_b\n1,0\n.5,nan\n")
    (tmp_path / "labels.txt").write_text("cow\na\n")
    (tmp_path / "names.txt").write_text("a\nb\n")
    said.clear()
    config = ImportConfig("probabilities", (tmp_path / "two.csv",), tmp_path / "two", labels=tmp_path / "labels.txt")
    import_predictions(dataclasses.replace(config, classes=tmp_path / "names.txt"), said.append)
    assert said == [
        "two.csv: 2 rows, 2 classes in prob_a, prob_b",
        "warning: 1 label in labels.txt is not among the classes (cow); it counts as unknown",
        "warning: 1 row in two.csv has scores that are not finite; it becomes a failed row",
        "1 probability below 1.2e-38 in two.csv was raised to that, a loss of 87.3 nats",
    ]


def test_a_probability_of_zero_and_a_row_that_is_not_finite(tmp_path: Path) -> None:
    p = np.array([[1, 0, 0], [0.5, 0.25, 0.25], [np.nan] * 3, [0.2, np.nan, 0.8]])
    saved = pd.DataFrame(p, columns=["prob_a", "prob_b", "prob_c"])
    saved["label"] = pd.Series(["b", "a", "a", None])
    saved.to_csv(tmp_path / "a.csv", index=False)
    said: list[str] = []
    out = tmp_path / "out"
    adopted = import_predictions(ImportConfig("probabilities", (tmp_path / "a.csv",), out), said.append)
    assert said == [
        "a.csv: 4 rows, 3 classes in prob_a, prob_b, prob_c",
        "warning: 2 rows in a.csv have scores that are not finite; they become failed rows",
        "2 probabilities below 1.2e-38 in a.csv were raised to that, a loss of 87.3 nats",
    ]
    frame = open_predictions(out).to_pandas()
    assert frame["error"].fillna("").tolist() == ["", "", "the scores are not finite", "the scores are not finite"]
    assert frame["loss"].tolist()[0] == pytest.approx(126 * np.log(2))
    assert frame["label"].tolist()[:3] == [1, 0, 0] and frame["label"].isna().tolist() == [False] * 3 + [True]
    assert (adopted.failed, adopted.steps[0].accuracy) == (2, 0.5)
    assert open_predictions(out).run.classes == ("a", "b", "c")
    assert [part.part.clipped for part in open_predictions(out).step.parts] == [2]


def test_what_has_no_scores_or_too_large_ones_is_a_failed_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"logits": [[1.0, 2.0], None, [3.0, None], [1e300, 0.0]]}), tmp_path / "a.parquet")
    frame = run(tmp_path, tmp_path / "a.parquet")
    assert frame["error"].fillna("").tolist() == ["", *["the scores are not finite"] * 3]
    assert frame["predicted"].fillna(-1).tolist() == [1, -1, -1, -1]


def test_other_scores_of_the_same_file_are_another_content(tmp_path: Path) -> None:
    logits, *_ = made()
    np.savez(tmp_path / "a.npz", first=logits, second=-logits)
    run(tmp_path, tmp_path / "a.npz", score_column="first")
    with pytest.raises(InputError, match="made with another content of the files"):
        run(tmp_path, tmp_path / "a.npz", score_column="second")


# --- which array or column is what ---


def test_names_of_arrays_and_columns(tmp_path: Path) -> None:
    logits, label, image = made()
    np.savez(tmp_path / "a.npz", z=logits, other=logits * 2, t=label, who=np.array(image), key=np.arange(ROWS) + 7)
    refused("a.npz has z, other, t, who, key; which are the scores", tmp_path, tmp_path / "a.npz")
    refused("a.npz has no 'zz'; it has z, other", tmp_path, tmp_path / "a.npz", score_column="zz")
    asked = {"score_column": "z", "label_column": "t", "image_column": "who", "key_column": "key"}
    frame = run(tmp_path, tmp_path / "a.npz", **asked)
    np.testing.assert_array_equal(logits_of(frame), logits)
    assert (frame["label"].tolist(), frame["image"].tolist()) == (label.tolist(), image)
    assert frame["key"].tolist() == hash_refs(str(7 + i) for i in range(ROWS)).tolist()
    assert frame["manifest_key"].tolist() == list(range(7, 7 + ROWS))


def test_logits_beside_probabilities_go_by_what_was_asked(tmp_path: Path) -> None:
    logits, label, _ = made()
    np.savez(tmp_path / "a.npz", probs=softmax(logits), logits=logits, label=label, preds=logits.argmax(1))
    np.testing.assert_array_equal(logits_of(run(tmp_path / "1", tmp_path / "a.npz")), logits)
    frame = run(tmp_path / "2", tmp_path / "a.npz", scores="probabilities")
    np.testing.assert_allclose(np.exp(logits_of(frame)), softmax(logits), rtol=1e-5)


@pytest.mark.parametrize("asked", [None, "p_*", "p_dog,p_owl,p_cat", "names"])
def test_columns_with_the_names_of_classes(asked: str | None, tmp_path: Path) -> None:
    logits, label, image = made()
    columns = ["dog", "owl", "cat"]
    before = {"p_*": "p_", "p_dog,p_owl,p_cat": "p_", "names": ""}.get(str(asked), "logit_")
    frame = pd.DataFrame(logits[:, [1, 2, 0]], columns=[before + c for c in columns])
    frame["file"], frame["label"], frame["p"] = image, [NAMES[c] for c in label], 0.5
    frame.to_csv(tmp_path / "a.csv", index=False)
    if asked == "p_dog,p_owl,p_cat":
        found = run(tmp_path, tmp_path / "a.csv", score_column=asked)
        assert open_predictions(tmp_path / "out").run.classes == ("p_dog", "p_owl", "p_cat")
        assert found["label"].isna().all()  # `dog` is not `p_dog`
        return
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    options = {"score_column": asked} if asked == "p_*" else {}
    if asked != "names":
        found = run(tmp_path / "unnamed", tmp_path / "a.csv", **options)
        assert open_predictions(tmp_path / "unnamed/out").run.classes == ("dog", "owl", "cat")
        np.testing.assert_array_equal(logits_of(found), logits[:, [1, 2, 0]])
    found = run(tmp_path, tmp_path / "a.csv", classes=tmp_path / "names.txt", **options)
    np.testing.assert_array_equal(logits_of(found), logits)  # in the order of --classes
    assert found["label"].tolist() == label.tolist()


def test_the_further_columns_are_carried_through(tmp_path: Path) -> None:
    logits, label, image = made()
    frame = frame_of(logits, label, image, "list")
    frame["width"], frame["cloud"], frame["tags"] = 5, np.linspace(0, 1, ROWS), [["a"]] * ROWS
    frame.to_parquet(tmp_path / "a.parquet")
    found = run(tmp_path, tmp_path / "a.parquet")
    assert found["manifest_width"].tolist() == [5] * ROWS
    assert found["cloud"].tolist() == frame["cloud"].tolist()
    assert found["width"].isna().all() and "tags" not in found


# --- timm's inference.py ---


def timm(folder: Path, kind: str, topk: int, index: bool, labels: bool, apart: bool, full: bool = True) -> Path:
    """What its save_results writes, read from its source."""
    logits, _, image = made()
    p = softmax(logits).astype(np.float32)
    order = np.argsort(-p, axis=1)[:, :topk] if topk else None
    shown = p if order is None else np.take_along_axis(p, order, axis=1)
    named = {
        "index": order if index else None,
        "label": np.array(NAMES, object)[order] if labels else None,
        "prob": shown,
    }
    data: dict[str, Any] = {"filename": image if full else [i.rpartition("/")[2] for i in image]}
    for name, values in named.items():
        if values is None:
            continue
        if apart and values.shape[1] > 1:
            data |= {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}
        else:
            data[name] = list(values[:, 0] if values.shape[1] == 1 else values)
    frame = pd.DataFrame(data)
    if kind == "parquet":
        frame.set_index("filename").to_parquet(folder / "t.parquet")
        return folder / "t.parquet"
    if kind == "csv":
        with np.printoptions(threshold=sys.maxsize):
            frame.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    file = folder / "t.json"
    if kind == "json":
        frame.set_index("filename").to_json(file, indent=4, orient="index")
    elif kind == "json-split":
        frame.to_json(file, indent=4, orient="split", index=False)
    else:
        frame.to_json(file, lines=True, orient="records")
    return file


@pytest.mark.parametrize("kind", ["csv", "json", "json-split", "json-record", "parquet"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("topk", [0, 3])
def test_timms_inference_with_all_scores(kind: str, apart: bool, topk: int, tmp_path: Path) -> None:
    file = timm(tmp_path, kind, topk, topk > 0, topk > 0, apart)
    logits, label, image = made()
    frame = run(tmp_path, file, scores="probabilities", labels_from_folders=True)
    np.testing.assert_allclose(np.exp(logits_of(frame)), softmax(logits), rtol=2e-6)
    assert frame["image"].tolist() == image
    assert frame["label"].tolist() == label.tolist()
    assert open_predictions(tmp_path / "out").run.classes == NAMES


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
@pytest.mark.parametrize(
    ("topk", "index", "labels", "apart", "words"),
    [
        (1, True, True, False, r"holds only one number per row, in 'prob'.*timm: --topk 0"),
        (1, False, False, False, r"holds only one number per row, in 'prob'"),
        (2, True, True, False, r"holds only the 2 highest scores of row \d+.*timm: --topk 0"),
        (2, True, False, True, r"holds only the 2 highest scores of row \d+"),
        (3, False, True, False, r"highest scores of each row by class name.*--include-index"),
        (3, False, True, True, r"highest scores of each row by class name"),
        (3, False, False, False, r"fall from first to last"),
        (3, False, False, True, r"fall from first to last"),
    ],
)
def test_timms_lists_of_the_highest_scores_are_refused(
    kind: str, topk: int, index: bool, labels: bool, apart: bool, words: str, tmp_path: Path
) -> None:
    refused(words, tmp_path, timm(tmp_path, kind, topk, index, labels, apart), scores="probabilities")


def test_timms_short_names_take_their_folders_from_the_images(tmp_path: Path) -> None:
    _, label, image = made()
    file = timm(tmp_path, "csv", 0, False, False, False, full=False)
    (tmp_path / "list.txt").write_text("\n".join(image))
    frame = run(tmp_path, file, scores="probabilities", images=str(tmp_path / "list.txt"), labels_from_folders=True)
    assert (frame["image"].tolist(), frame["label"].tolist()) == (image, label.tolist())
    (tmp_path / "list.txt").write_text("\n".join(reversed(image)))
    refused(
        r"row 0 is 000\.png in t\.csv but .*/039\.png in --images: expected the same order",
        tmp_path / "other",
        file,
        scores="probabilities",
        images=str(tmp_path / "list.txt"),
    )


# --- what does not fit ---


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"logits": (40, 3), "labels": (39,)},
            r"has 40 rows of scores, but 'labels' has shape 39; expected one value per",
        ),
        ({"logits": (40, 3), "labels": (40, 3)}, r"'labels' has shape 40×3"),
        ({"logits": (40,)}, r"logits of .*a\.npz is float64 of shape 40; expected numbers of shape \[rows, classes\]"),
        ({"logits": (40, 3, 2)}, r"of shape 40×3×2"),
        ({"logits": (0, 3)}, r"holds no rows"),
    ],
)
def test_arrays_that_disagree(arrays: dict[str, tuple[int, ...]], words: str, tmp_path: Path) -> None:
    made: dict[str, Any] = {name: np.zeros(shape) for name, shape in arrays.items()}
    np.savez(tmp_path / "a.npz", **made)
    refused(words, tmp_path, tmp_path / "a.npz")


def test_labels_that_disagree(tmp_path: Path) -> None:
    logits, label, image = made()
    np.save(tmp_path / "a.npy", logits)
    cases: list[tuple[Sequence[object], str]] = [
        (label[:-1].tolist(), r"y\.json has 39 labels for 40 rows of scores"),
        ([*label[:-1].tolist(), 3], r"y\.json has label 3 in row 39, but the scores are of 3 classes, 0 to 2: do"),
        ([0.5] * 40, r"the label in row 0 of column 'value' of y\.json is 0\.5; expected names or whole numbers"),
        (["a", "b"] * 20, r"each row has 3 scores, but there are 2 classes \(a, b\).*--classes FILE"),
    ]
    for values, words in cases:
        (tmp_path / "y.json").write_text(json.dumps(values))
        refused(words, tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.json")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    said: list[str] = []
    (tmp_path / "y.json").write_text(json.dumps(["cat"] * 37 + ["cow", None, "cow"]))
    import_predictions(
        ImportConfig(
            "logits",
            (tmp_path / "a.npy",),
            tmp_path / "out",
            labels=tmp_path / "y.json",
            classes=tmp_path / "names.txt",
        ),
        said.append,
    )
    assert "warning: 2 labels in y.json are not among the classes (cow); they count as unknown" in said
    assert open_predictions(tmp_path / "out").to_pandas()["label"].isna().sum() == 3
    (tmp_path / "list.txt").write_text("\n".join(image[:-1]))
    refused(
        "40 rows and .*list.txt has 39 images", tmp_path / "1", tmp_path / "a.npy", images=str(tmp_path / "list.txt")
    )
    refused("no path", tmp_path / "1", tmp_path / "a.npy", labels_from_folders=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"nothing", r"cannot read .*a\.npy"),
        ("a.npz", b"nothing", r"cannot read .*a\.npz"),
        ("a.pt", b"nothing", r"a\.pt holds more than tensors"),
        ("a.csv", b"", r"cannot read .*a\.csv"),
        ("a.csv", b"path,logits\n", r"a\.csv holds no rows"),
        ("a.csv", b'path,logits\na,"[1, x]"\n', r"row 0 of .*a\.csv has no list of numbers: .*'x'"),
        (
            "a.csv",
            b'path,logits\na,"[1, 2]"\nb,"[1, 2, 3]"\n',
            r"'logits' of .*a.csv has 2 numbers in row 0 and 3 in others",
        ),
        ("a.csv", b"path,x\na,b\n", r"has path, x; which are the scores\? Name them with --score-column"),
        ("a.json", b"{", r"cannot read .*a\.json"),
        ("a.json", b"5", r"a\.json holds 5; expected a list of records"),
        ("a.json", b'{"columns": 1, "data": [2]}', r"cannot read .*a\.json"),
        ("a.parquet", b"PAR1", r"cannot read .*a\.parquet"),
        ("a.pkl", b"", r"is of an unknown kind; expected one of \.npy, \.npz"),
    ],
)
def test_a_file_that_is_none(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    if name.endswith(".pt"):
        pytest.importorskip("torch", reason=".pt files are read by torch")
    (tmp_path / name).write_bytes(content)
    refused(words, tmp_path, tmp_path / name)


def test_python_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", logits=np.zeros((2, 3)), files=np.array(["a", "b"], object))
    refused(r"array 'files' of .*a\.npz holds Python objects.*dtype=str", tmp_path, tmp_path / "a.npz")
    torch = pytest.importorskip("torch", reason=".pt files are read by torch")
    torch.save({"logits": torch.zeros(2, 3), "where": Path("x")}, tmp_path / "a.pt")
    refused(
        r"a\.pt holds more than tensors, lists and names: [\w.]+ is not read because that could run code$",
        tmp_path,
        tmp_path / "a.pt",
    )


def test_without_torch_pt_files_are_one_line_and_the_others_are_read(tmp_path: Path) -> None:
    logits, label, image = made()
    save_npz(tmp_path / "a.npz", logits, label, image)
    (tmp_path / "a.pt").write_bytes(b"")
    code = (
        "import sys, importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a)\n"
        "from predboard.cli import main as cli\n"
        "codes = [cli.run(['import', f, '--scores', 'logits', '--out', 'out']) for f in ('a.npz', 'a.pt')]\n"
        "assert 'torch' not in sys.modules; print(codes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["[0, 2]"], done.stderr
    assert "predboard: a.pt needs PyTorch, which is not installed: pip install 'predboard[infer]'" in done.stderr


# --- steps and shards ---


def test_files_with_steps_in_their_names_are_steps_and_others_are_one_table(tmp_path: Path) -> None:
    logits, label, image = made()
    for epoch in (2, 10):
        save_npz(tmp_path / f"net_epoch{epoch:02d}.npz", logits * epoch, label, image)
    for half, rows in (("a", slice(0, 25)), ("b", slice(25, 40))):
        save_npz(tmp_path / f"{half}.npz", logits[rows], label[rows], image[rows])
        save_npz(tmp_path / f"step7_{half}.npz", logits[rows] * 7, label[rows], image[rows])
    epochs = [tmp_path / "net_epoch10.npz", tmp_path / "net_epoch02.npz"]
    run(tmp_path, *epochs)
    for epoch in (2, 10):
        np.testing.assert_array_equal(
            logits_of(open_predictions(tmp_path / "out", step=epoch).to_pandas()), logits * epoch
        )
    halves = [tmp_path / "a.npz", tmp_path / "b.npz"]
    run(tmp_path, *halves, step=(3,), shard_size=16)
    run(tmp_path, tmp_path / "step7_a.npz", tmp_path / "step7_b.npz")
    run(tmp_path, tmp_path / "a.npz", tmp_path / "a.npz", step=(20, 21))
    assert list_step_numbers(tmp_path / "out") == [2, 3, 7, 10, 20, 21]
    for step in (3, 7):
        frame = open_predictions(tmp_path / "out", step=step).to_pandas()
        np.testing.assert_array_equal(logits_of(frame), logits * (7 if step == 7 else 1))
        assert frame["image"].tolist() == image
    with pytest.raises(InputError, match=r"a\.npz has no step in its name, but other files have: give --step"):
        run(tmp_path, tmp_path / "a.npz", tmp_path / "net_epoch02.npz")
    with pytest.raises(InputError, match="--step has 3 numbers for 2 files"):
        run(tmp_path, *halves, step=(1, 2, 3))


def test_steps_of_other_classes_do_not_mix(tmp_path: Path) -> None:
    for classes in (3, 4):
        logits, *_ = made(classes=classes)
        np.save(tmp_path / f"step{classes}.npy", logits)
    run(tmp_path, tmp_path / "step3.npy")
    with pytest.raises(InputError, match=r"steps 3 and 4 have different classes \(0, 1, 2 and 0, 1, 2, 3\)"):
        run(tmp_path, tmp_path / "step4.npy")
    refused("steps 4 and 3 have different classes", tmp_path / "x", tmp_path / "step3.npy", tmp_path / "step4.npy")
    refused(
        "step4.npy and step3.npy have different classes: 4 and 3",
        tmp_path / "x",
        tmp_path / "step3.npy",
        tmp_path / "step4.npy",
        step=(1,),
    )


# --- on disk ---


def _parts(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(out.rglob("*.parquet"))}


def test_an_import_that_was_killed_goes_on_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, label, image = made(100)
    file = save_csv(tmp_path / "a.csv", logits, label, image)
    whole = run(tmp_path / "whole", file, shard_size=16)
    publish, calls = PartWriter.publish, 0

    def killed(self: PartWriter, part: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        publish(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, file, shard_size=16)
    before = _parts(tmp_path / "out")
    assert len(before) == 3 and not list((tmp_path / "out").rglob(".part-*"))
    (tmp_path / "out/step=00000000/part-00001.parquet").unlink()
    again = run(tmp_path, file, shard_size=16)
    pd.testing.assert_frame_equal(again, whole)
    after = _parts(tmp_path / "out")
    assert len(after) == 7 and after["part-00000.parquet"] == before["part-00000.parquet"]
    assert [p.part.content_digest for p in open_run(tmp_path / "out")[0].parts] == [
        p.part.content_digest for p in open_run(tmp_path / "whole/out")[0].parts
    ]
    run(tmp_path, file, shard_size=16)
    assert _parts(tmp_path / "out") == after  # nothing to do


def test_changed_files_are_refused_and_changed_labels_updated(tmp_path: Path) -> None:
    logits, label, _ = made(100)
    np.save(tmp_path / "a.npy", logits)
    (tmp_path / "y.txt").write_text("\n".join(map(str, label)))
    options: dict[str, Any] = {"labels": tmp_path / "y.txt", "shard_size": 50}
    run(tmp_path, tmp_path / "a.npy", **options)
    before = _parts(tmp_path / "out")
    other = [*label[:99].tolist(), (label[99] + 1) % 3]
    (tmp_path / "y.txt").write_text("\n".join(map(str, other)))
    with pytest.raises(InputError, match=r"the data changed: 1 of 2 parts .*--update"):
        run(tmp_path, tmp_path / "a.npy", **options)
    frame = run(tmp_path, tmp_path / "a.npy", update=True, **options)
    assert frame["label"].tolist() == other
    assert _parts(tmp_path / "out")["part-00000.parquet"] == before["part-00000.parquet"]
    np.save(tmp_path / "a.npy", logits + 1)
    with pytest.raises(InputError, match=r"was made with another content of the files \(.*--overwrite"):
        run(tmp_path, tmp_path / "a.npy", **options)
    frame = run(tmp_path, tmp_path / "a.npy", overwrite=True, **options)
    np.testing.assert_array_equal(logits_of(frame), logits + 1)


def test_pictures_are_read_once_for_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = made(12)
    files = [tmp_path / f"epoch{i}.npy" for i in (1, 2, 3)]
    for file in files:
        np.save(file, logits)
    reads: list[str] = []
    read = sources.read

    def counted(root: str, ref: str) -> bytes:
        reads.append(ref)
        return read(root, ref)

    monkeypatch.setattr(sources, "read", counted)
    run(tmp_path, *files, images=str(tmp_path / "data"), shard_size=5)
    assert len(reads) == len(set(reads)) == 12
    for step in (1, 2, 3):
        assert open_predictions(tmp_path / "out", step=step).to_pandas()["digest"].notna().all()


def test_nothing_is_deleted_where_one_step_is_refused(tmp_path: Path) -> None:
    logits, label, _ = made()
    (tmp_path / "y.txt").write_text("\n".join(map(str, label)))
    files = [tmp_path / f"epoch{i}.npy" for i in (1, 2)]
    for file in files:
        np.save(file, logits)
    run(tmp_path, *files, labels=tmp_path / "y.txt")
    before = sorted((tmp_path / "out").rglob("*.parquet"))
    (tmp_path / "y.txt").write_text("\n".join(map(str, (label + 1) % 3)))
    np.save(files[1], logits + 1)
    with pytest.raises(InputError, match="step 2 was made with another content of the files"):
        run(tmp_path, *files, labels=tmp_path / "y.txt", update=True)
    assert sorted((tmp_path / "out").rglob("*.parquet")) == before


_PEAK = """
import re, sys
from pathlib import Path
from predboard.ingest.ingest import import_predictions
from predboard.config import ImportConfig
import_predictions(ImportConfig("logits", (Path(sys.argv[1]),), Path(sys.argv[2])))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""  # not ru_maxrss: a process inherits its parent's


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_memory_does_not_grow_with_the_scores(kind: str, tmp_path: Path) -> None:
    block = np.random.default_rng(0).integers(0, 4, (20_000, 200)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), 200)
    processes = []
    for blocks in (1, 4):
        file = tmp_path / f"{blocks}.{kind}"
        if kind == "npy":
            np.save(file, np.tile(block, (blocks, 1)))
        else:
            pq.write_table(pa.table({"logits": pa.chunked_array([lists] * blocks)}), file, row_group_size=5_000)
        command = [sys.executable, "-c", _PEAK, str(file), str(tmp_path / f"out{blocks}")]
        processes.append(subprocess.Popen(command, cwd=toy.ROOT, stdout=subprocess.PIPE, text=True))
    few, many = (int(process.communicate(timeout=120)[0]) / 1024 for process in processes)
    assert many - few < 24, (few, many)  # MB, of 48 MB more scores


# --- the command, and what comes after it ---


def test_the_command_and_what_comes_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=10, size=(12, 8))
    logits, label, _ = made(30)
    np.savez(tmp_path / "net_epoch1.npz", probs=softmax(logits), labels=label)
    np.savez(tmp_path / "net_epoch2.npz", probs=softmax(logits * 2), labels=label)
    files = [str(tmp_path / f"net_epoch{i}.npz") for i in (1, 2)]
    out, bare = tmp_path / "run", tmp_path / "bare"
    (tmp_path / "flags.toml").write_text(f"files = {files!r}\nscores = 'probabilities'\nout = {str(bare)!r}\n")
    assert (
        main.run(["import", *files, "--scores", "probabilities", "--images", str(tmp_path / "data"), "--out", str(out)])
        == 0
    )
    said = capsys.readouterr()
    right = int((logits.argmax(1) == label).sum())
    assert [line.split(",")[0] for line in said.out.splitlines()[:2]] == ["step 1: 30 ok", "step 2: 30 ok"]
    assert f"accuracy {right / 30:.4f}" in said.out and f"next: predboard visualize {out}" in said.out
    assert main.run(["import", "--config", str(tmp_path / "flags.toml")]) == 0
    for folder in (out, bare):
        capsys.readouterr()
        assert main.run(["inspect", str(folder)]) == 0
        assert "net_epoch1.npz" in capsys.readouterr().out
        for unchanged in (False, True):
            assert main.run(["visualize", str(folder), "--logdir", str(tmp_path / "logs")]) == 0
            said = capsys.readouterr()
            assert ("nothing changed" in said.out) == unchanged
            assert "not found" not in said.err


def test_what_the_command_cannot_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", made()[0])
    a = str(tmp_path / "a.npy")
    for arguments, words in (
        ([], "--scores"),
        (["--scores", "logits"], "no files given; for example"),
        ([a], "--scores"),
        ([a, "--scores", "guess"], "'logits', 'probabilities', 'log_probabilities'"),
        (
            [a, "--scores", "probabilities", "--out", str(tmp_path / "o")],
            "a.npy does not hold probabilities: of 40 rows",
        ),
        ([str(tmp_path / "b.npy"), "--scores", "logits"], "no file .*b.npy"),
        ([a, "--scores", "logits", "--labels", a, "--labels-from-folders"], "exclude each other: a row has one label"),
        ([a, "--scores", "logits", "--image-root", str(tmp_path / "x")], "--image-root .*x does not exist"),
        ([a, "--scores", "logits", "--thumbnails", "8", "--no-pictures"], "--thumbnails needs the pictures"),
        ([a, "--scores", "logits", "--classes", a], "contains no class names|cannot read"),
    ):
        assert main.run(["import", *arguments]) == 2
        said = capsys.readouterr()
        *_, line = said.err.splitlines()
        assert line.startswith("predboard: ")
        assert re.search(words, line), line
    assert not list(tmp_path.rglob("*.parquet"))


# --- real predictions, made by other people's code ---

CIFAR = toy.SHARED / "cifar10_saved_predictions"
EUROSAT = toy.SHARED / "eurosat_rgb"


def real(folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip(f"needs the real predictions in {folder}")


def imported(tmp_path: Path, *arguments: str | Path) -> CountMetrics:
    """The scores of a run that the command imported."""
    assert main.run(["import", *map(str, arguments), "--out", str(tmp_path / "out")]) == 0
    [step] = open_run(tmp_path / "out")
    tallies = [Counts.measure(step.run, batch) for part in step.parts for batch in read_batches(part)]
    whole = tallies[0]
    for tally in tallies[1:]:
        whole = merge(whole, tally)
    return CountMetrics(whole, len(step.run.classes))


@pytest.mark.parametrize(
    ("name", "labels", "accuracy", "nll"),
    [
        ("netcal_wideresnet-16-4-cifar-10.npz", "", 0.9109, None),
        ("netcal_lenet-5-cifar-10.npz", "", 0.5308, None),
        ("verified_calibration_vgg16_probs.npz", "", 0.9359, 0.2571),
        ("labelerrors_pyx_float64.npy", "labels_test10000_official_order.npy", 0.9294, None),
    ],
)
def test_saved_softmax_outputs_of_cifar(
    name: str, labels: str, accuracy: float, nll: float | None, tmp_path: Path
) -> None:
    real(CIFAR)
    flags = ("--labels", CIFAR / labels) if labels else ()
    scores = imported(tmp_path, CIFAR / name, "--scores", "probabilities", *flags)
    assert scores.accuracy == accuracy
    loaded = np.load(CIFAR / name)
    p, y = (loaded, np.load(CIFAR / labels)) if labels else (loaded["predictions"], loaded["ground_truth"])
    p = np.maximum(p.astype(np.float64), np.finfo(np.float32).tiny)
    expected = -np.log(p[np.arange(len(y)), y] / p.sum(axis=1)).mean()
    assert scores.nll == pytest.approx(expected, abs=2e-6)
    if nll is not None:
        assert round(scores.nll, 4) == nll


def test_a_published_classification_report_comes_out_to_the_last_digit(tmp_path: Path) -> None:
    real(EUROSAT)
    saved = EUROSAT / "saved_outputs"
    scores = imported(
        tmp_path,
        saved / "B_36c5744_test_logits.pt",
        *("--scores", "logits", "--images", saved / "B_36c5744_test.txt", "--labels-from-folders", "--no-pictures"),
    )
    report = json.loads((saved / "B_36c5744_report.json").read_text())
    assert scores.accuracy == report["accuracy"] == 0.9246277506917907
    classes = open_predictions(tmp_path / "out").run.classes
    assert len(classes) == 10
    for i, name in enumerate(classes):
        found = (scores.precision[i], scores.recall[i], scores.f1[i], scores.support[i])
        assert found == tuple(report[name][k] for k in ("precision", "recall", "f1-score", "support")), name
    macro = report["macro avg"]
    assert (scores.precision_macro, scores.recall_macro, scores.f1_macro) == pytest.approx(
        (macro["precision"], macro["recall"], macro["f1-score"]), abs=1e-15
    )


def test_logits_of_eurosat_find_their_pictures_in_a_zip(tmp_path: Path) -> None:
    real(EUROSAT)
    scores = imported(
        tmp_path,
        EUROSAT / "saved_outputs/A_rgb_test_logits.pt",
        *("--scores", "logits", "--images", EUROSAT / "splits/test.txt"),
        *("--image-root", EUROSAT / "eurosat_rgb_test5400.zip"),
    )
    assert (round(scores.accuracy, 5), round(scores.nll, 4)) == (0.98167, 0.0628)
    frame = open_predictions(tmp_path / "out").to_pandas()
    assert frame["width"].eq(64).all() and frame["digest"].notna().all()
    with zipfile.ZipFile(EUROSAT / "eurosat_rgb_test5400.zip") as archive:
        member = frame["image"][17].partition("#")[2]
        assert frame["digest"][17] == hash64(archive.read(member))
    names = (EUROSAT / "saved_outputs/A_rgb_test_filenames.txt").read_text().split()
    assert [ref.rpartition("/")[2] for ref in frame["image"]] == names


def test_confidences_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real(CIFAR)
    file = CIFAR / "nncal_probs_resnet110_c10_logits.csv"
    assert main.run(["import", str(file), "--scores", "probabilities", "--out", str(tmp_path / "out")]) == 2
    assert "holds only one number per row, in 'confidence'" in capsys.readouterr().err
