"""Saved scores: every kind of file gives the same rows, the right columns are chosen, and misfits are one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard import open_predictions
from predboard.predictions.schema import hash64, hash_refs
from tests import toy
from tests.ingest.examples import (
    KINDS,
    NAMES,
    ROWS,
    frame_of,
    logits_of,
    make,
    refused,
    run,
    run_logged,
    save_npz,
    save_timm,
    softmax,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    logits, label, image = make()
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    name, save, has_country = KINDS[kind]
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
    assert ("country" in frame) == has_country
    if has_country:
        assert frame["country"].tolist() == ["NO", "SE"] * 20


@pytest.mark.parametrize(
    ("order", "dtype"), [("C", "f4"), ("F", "f4"), ("C", "f2"), ("C", "f8"), ("C", "i2"), ("C", ">f4")]
)
def test_a_lone_array_with_labels_in_another_file(order: Any, dtype: str, tmp_path: Path) -> None:
    logits, label, _ = make()
    logits = (logits * 50).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(logits, order=order))
    np.save(tmp_path / "y.npy", label)
    frame = run(tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.npy")
    np.testing.assert_array_equal(logits_of(frame), logits)
    assert frame["label"].tolist() == label.tolist()
    assert frame["image"].isna().all()
    assert frame["key"].tolist() == [hash64(str(row).encode()) for row in range(ROWS)]
    assert open_predictions(tmp_path / "out").run.classes == ("0", "1", "2")


def test_parquet_with_scores_and_images_inside(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = make(12)
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


# --- which array or column holds what ---


def test_names_of_arrays_and_columns(tmp_path: Path) -> None:
    logits, label, image = make()
    np.savez(tmp_path / "a.npz", z=logits, other=logits * 2, t=label, who=np.array(image), key=np.arange(ROWS) + 7)
    refused("a.npz has z, other, t, who, key; which are the scores", tmp_path, tmp_path / "a.npz")
    refused("a.npz has no 'zz'; it has z, other", tmp_path, tmp_path / "a.npz", score_column="zz")
    asked = {"score_column": "z", "label_column": "t", "image_column": "who", "key_column": "key"}
    frame = run(tmp_path, tmp_path / "a.npz", **asked)
    np.testing.assert_array_equal(logits_of(frame), logits)
    assert (frame["label"].tolist(), frame["image"].tolist()) == (label.tolist(), image)
    assert frame["key"].tolist() == hash_refs(str(7 + i) for i in range(ROWS)).tolist()
    assert frame["manifest_key"].tolist() == list(range(7, 7 + ROWS))


def test_of_logits_and_probabilities_the_requested_kind_is_read(tmp_path: Path) -> None:
    logits, label, _ = make()
    np.savez(tmp_path / "a.npz", probs=softmax(logits), logits=logits, label=label, preds=logits.argmax(1))
    np.testing.assert_array_equal(logits_of(run(tmp_path / "1", tmp_path / "a.npz")), logits)
    frame = run(tmp_path / "2", tmp_path / "a.npz", scores="probabilities")
    np.testing.assert_allclose(np.exp(logits_of(frame)), softmax(logits), rtol=1e-5)


@pytest.mark.parametrize("asked", [None, "p_*", "p_dog,p_owl,p_cat", "names"])
def test_columns_named_after_classes(asked: str | None, tmp_path: Path) -> None:
    logits, label, image = make()
    columns = ["dog", "owl", "cat"]
    before = {"p_*": "p_", "p_dog,p_owl,p_cat": "p_", "names": ""}.get(str(asked), "logit_")
    frame = pd.DataFrame(logits[:, [1, 2, 0]], columns=[before + c for c in columns])
    frame["file"], frame["label"], frame["p"] = image, [NAMES[c] for c in label], 0.5
    frame.to_csv(tmp_path / "a.csv", index=False)
    if asked == "p_dog,p_owl,p_cat":
        words = r"none of the labels \(cat, dog, owl\) .* is among the classes \(p_dog, p_owl, p_cat\)"
        refused(words, tmp_path, tmp_path / "a.csv", score_column=asked)
        run(tmp_path, tmp_path / "a.csv", score_column=asked, label_column="none")
        assert open_predictions(tmp_path / "out").run.classes == ("p_dog", "p_owl", "p_cat")
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
    logits, label, image = make()
    frame = frame_of(logits, label, image, "list")
    frame["width"], frame["cloud"], frame["tags"] = 5, np.linspace(0, 1, ROWS), [["a"]] * ROWS
    frame.to_parquet(tmp_path / "a.parquet")
    found = run(tmp_path, tmp_path / "a.parquet")
    assert found["manifest_width"].tolist() == [5] * ROWS
    assert found["cloud"].tolist() == frame["cloud"].tolist()
    assert found["width"].isna().all() and "tags" not in found


# --- timm's inference.py ---


@pytest.mark.parametrize("kind", ["csv", "json", "json-split", "json-record", "parquet"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("topk", [0, 3])
def test_all_scores_of_timm_are_read(kind: str, apart: bool, topk: int, tmp_path: Path) -> None:
    file = save_timm(tmp_path, kind, topk, topk > 0, topk > 0, apart)
    logits, label, image = make()
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
def test_the_highest_scores_of_timm_alone_are_refused(
    kind: str, topk: int, index: bool, labels: bool, apart: bool, words: str, tmp_path: Path
) -> None:
    refused(words, tmp_path, save_timm(tmp_path, kind, topk, index, labels, apart), scores="probabilities")


def test_short_names_of_timm_take_their_folders_from_the_images(tmp_path: Path) -> None:
    _, label, image = make()
    file = save_timm(tmp_path, "csv", 0, False, False, False, full=False)
    (tmp_path / "list.txt").write_text("\n".join(image))
    frame = run(tmp_path, file, scores="probabilities", images=str(tmp_path / "list.txt"), labels_from_folders=True)
    assert (frame["image"].tolist(), frame["label"].tolist()) == (image, label.tolist())
    (tmp_path / "list.txt").write_text("\n".join(reversed(image)))  # joined by name
    options = {"scores": "probabilities", "images": str(tmp_path / "list.txt"), "labels_from_folders": True}
    frame, lines = run_logged(tmp_path / "other", file, **options)
    assert (frame["image"].tolist(), frame["label"].tolist()) == (image, label.tolist())
    assert "rows and --images are joined by name; 40 rows of 40 had another place" in lines
    (tmp_path / "list.txt").write_text("\n".join([*image[:-1], "owl/000.png"]))
    words = r"row 39 is 039\.png in t\.csv but owl/000\.png in --images, and names allow no join"
    refused(words, tmp_path / "none", file, **options)


# --- files that are refused ---


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"logits": (40, 3), "labels": (39,)},
            r"has 40 rows of scores, but 'labels' has shape 39; expected one value per",
        ),
        ({"logits": (40, 3), "labels": (40, 3)}, r"'labels' has shape 40×3"),
        (
            {"logits": (40,)},
            r"holds only one number per row, in 'logits'.*of two classes that of the positive one is enough",
        ),
        ({"logits": (40, 3, 2)}, r"of shape 40×3×2"),
        ({"logits": (0, 3)}, r"holds no rows"),
    ],
)
def test_arrays_of_the_wrong_shape_are_refused(arrays: dict[str, tuple[int, ...]], words: str, tmp_path: Path) -> None:
    made: dict[str, Any] = {name: np.zeros(shape) for name, shape in arrays.items()}
    np.savez(tmp_path / "a.npz", **made)
    refused(words, tmp_path, tmp_path / "a.npz")


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
def test_a_broken_file_is_one_line(name: str, content: bytes, words: str, tmp_path: Path) -> None:
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


def test_without_torch_only_pt_files_are_refused(tmp_path: Path) -> None:
    logits, label, image = make()
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
    way = rf"\S*pip install -e '{re.escape(str(toy.ROOT))}\[infer\]'"
    assert re.search(
        rf"^predboard: a\.pt needs PyTorch, which is not installed: {way}, or save it as \.npy$",
        done.stderr,
        re.MULTILINE,
    )
