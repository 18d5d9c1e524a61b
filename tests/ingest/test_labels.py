"""Labels and images: from every place that has them, joined to the right rows, or refused in one line."""

import json
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
from predboard.predictions.schema import hash64
from tests import toy
from tests.ingest.examples import NAMES, ROWS, make, refused, run, run_logged, save_npz, save_torch


def _by_image(rows: pd.DataFrame) -> dict[str, str]:
    """Names by file name, in another order than the rows."""
    return {ref.rpartition("/")[2]: name for ref, name in zip(rows["file"][::-1], rows["name"][::-1], strict=True)}


LABEL_FILES: dict[str, Callable[[Path, pd.DataFrame], object]] = {
    "y.txt": lambda file, rows: file.write_text("".join(f"{c}\n" for c in rows["true_label"])),
    "names.txt": lambda file, rows: file.write_text("\n".join(rows["name"])),
    "y.csv": lambda file, rows: rows[["file", "true_label"]][::-1].to_csv(file, index=False),  # joined by path
    "y.json": lambda file, rows: file.write_text(json.dumps(rows["true_label"].tolist())),
    "by_image.json": lambda file, rows: file.write_text(json.dumps(_by_image(rows))),
    "y.pt": lambda file, rows: save_torch(file, rows["true_label"].tolist()),
    "y.npz": lambda file, rows: np.savez(file, other=rows["true_label"], gt=rows["true_label"].astype(float)),
    "y.parquet": lambda file, rows: pq.write_table(pa.table({"class": pa.array(rows["name"])}), file),
}


@pytest.mark.parametrize("file", LABEL_FILES)
def test_labels_of_every_kind_of_file(file: str, tmp_path: Path) -> None:
    logits, label, image = make()
    save_npz(tmp_path / "a.npz", logits, label * 0, image)
    rows = pd.DataFrame({"file": image, "true_label": label, "name": [NAMES[c] for c in label]})
    LABEL_FILES[file](tmp_path / file, rows)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    frame = run(tmp_path, tmp_path / "a.npz", labels=tmp_path / file, classes=tmp_path / "classes.txt")
    assert frame["label"].tolist() == label.tolist()


@pytest.mark.parametrize("windows", [False, True])
def test_labels_from_folders(windows: bool, tmp_path: Path) -> None:
    logits, label, image = make()
    refs = ["cat/" + ref.replace("/", "/more/") for ref in image]  # the last folder that is a class counts
    np.savez(tmp_path / "a.npz", logits=logits, path=[r.replace("/", "\\") if windows else r for r in refs])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    refused("1 classes .more.", tmp_path, tmp_path / "a.npz", labels_from_folders=True)
    frame = run(tmp_path, tmp_path / "a.npz", labels_from_folders=True, classes=tmp_path / "names.txt")
    assert frame["label"].tolist() == label.tolist()
    assert frame["image"].tolist() == refs


def test_images_come_from_a_list_or_any_source_of_infer(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    logits, *_ = make(12)
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


@pytest.mark.parametrize("classes", ["", "abcdefghijkl"])
@pytest.mark.parametrize("end", ["txt", "csv"])
def test_indices_in_a_list_of_images_are_indices(end: str, classes: str, tmp_path: Path) -> None:
    logits, label, _ = make(classes=12)
    np.save(tmp_path / "a.npy", logits)
    rows = "".join(f"{i}.png{',' if end == 'csv' else ' '}{c}\n" for i, c in enumerate(label))
    (tmp_path / f"list.{end}").write_text(("image,label\n" if end == "csv" else "") + rows)
    (tmp_path / "names").write_text("\n".join(classes))
    named: dict[str, Any] = {"images": str(tmp_path / f"list.{end}"), "pictures": False}
    named |= {"classes": tmp_path / "names"} if classes else {}
    frame = run(tmp_path, tmp_path / "a.npy", **named)
    assert frame["label"].tolist() == label.tolist()
    assert frame["predicted"].tolist() == logits.argmax(axis=1).tolist()


def test_images_that_order_alone_joins_are_named(tmp_path: Path) -> None:
    logits, label, image = make()
    np.savez(tmp_path / "a.npz", logits=logits, label=label)
    (tmp_path / "list.txt").write_text("\n".join(image))
    _, lines = run_logged(tmp_path, tmp_path / "a.npz", images=str(tmp_path / "list.txt"))
    pairs = ", ".join(f"row {i} with {image[i]}" for i in range(3))
    words = f"warning: a.npz does not name its images, so that order alone joins them: {pairs}: check these"
    assert words in lines
    provenance = open_predictions(tmp_path / "out").step.parts[0].part.provenance
    assert provenance["images"] == f"--images {tmp_path / 'list.txt'}, joined by order alone"
    np.savez(tmp_path / "a.npz", logits=logits, label=label, path=[f"./{ref}" for ref in image])
    shuffled = [*image[::2], "dog/more.png", *image[1::2]]  # by the paths as they are written canonically
    (tmp_path / "list.txt").write_text("\n".join(shuffled))
    frame, lines = run_logged(tmp_path / "2", tmp_path / "a.npz", images=str(tmp_path / "list.txt"))
    assert (frame["image"].tolist(), frame["label"].tolist()) == (image, label.tolist())
    assert not any(line.startswith("warning: ") for line in lines)


def test_labels_unlike_those_of_the_images_give_a_warning(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", classes=3, each=4)
    np.savez(tmp_path / "a.npz", logits=make(12)[0], label=[1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    _, lines = run_logged(tmp_path, tmp_path / "a.npz", images=str(tmp_path / "data"))
    assert "warning: 2 labels in a.npz differ from those of --images: are the rows in the same order?" in lines
    assert open_predictions(tmp_path / "out").run.classes == ("a", "b", "c")


def test_digits_that_are_class_names_are_not_indices(tmp_path: Path) -> None:
    logits, label, _ = make()
    np.save(tmp_path / "a.npy", logits)
    (tmp_path / "names.txt").write_text("5\n6\n7")
    (tmp_path / "y.txt").write_text("\n".join(str(5 + c) for c in label))
    frame = run(tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.txt", classes=tmp_path / "names.txt")
    assert frame["label"].tolist() == label.tolist()


def test_labels_of_some_images_only(tmp_path: Path) -> None:
    logits, label, image = make()
    np.savez(tmp_path / "a.npz", logits=logits, files=image)
    pd.DataFrame({"path": image[::-2], "label": label[::-2]}).to_csv(tmp_path / "y.csv", index=False)
    _, lines = run_logged(tmp_path, tmp_path / "a.npz", labels=tmp_path / "y.csv")
    assert "warning: 20 rows have no label in y.csv" in lines
    frame = open_predictions(tmp_path / "out").to_pandas()
    assert frame["label"].fillna(-1).tolist() == [c if i % 2 else -1 for i, c in enumerate(label)]
    pd.DataFrame({"path": image[:2] * 20, "label": label}).to_csv(tmp_path / "y.csv", index=False)
    refused(
        f"or several for one: {image[0]} is in several of its rows",
        tmp_path / "x",
        tmp_path / "a.npz",
        labels=tmp_path / "y.csv",
    )


@pytest.mark.parametrize("options", [{}, {"task": "multi-label"}])
def test_one_file_name_of_two_images_joins_no_label(options: dict[str, Any], tmp_path: Path) -> None:
    logits, label, _ = make()
    images = [f"{folder}/{i:03}.png" for i in range(ROWS // 2) for folder in ("left", "right")]
    np.savez(tmp_path / "a.npz", logits=logits, files=images)
    half = {"path": [f"{i:03}.png" for i in range(ROWS // 2)], "label": label[: ROWS // 2]}
    pd.DataFrame(half).to_csv(tmp_path / "y.csv", index=False)
    words = "000.png is the name of several images .left/000.png, right/000.png.: expected the path"
    refused(words, tmp_path, tmp_path / "a.npz", labels=tmp_path / "y.csv", **options)


@pytest.mark.parametrize("options", [{}, {"task": "multi-label"}])
def test_labels_whose_images_the_scores_do_not_name_are_joined_with_a_warning(
    options: dict[str, Any], tmp_path: Path
) -> None:
    logits, label, image = make()
    np.savez(tmp_path / "a.npz", logits=logits)
    pd.DataFrame({"path": image, "label": label}).to_csv(tmp_path / "y.csv", index=False)
    _, lines = run_logged(tmp_path, tmp_path / "a.npz", labels=tmp_path / "y.csv", **options)
    words = f"as y.csv does, so that order alone joins them: row 0 with {image[0]}, row 1"
    assert len([line for line in lines if words in line]) == 1


def test_labels_that_disagree(tmp_path: Path) -> None:
    logits, label, image = make()
    np.save(tmp_path / "a.npy", logits)
    cases: list[tuple[Sequence[object], str]] = [
        (label[:-1].tolist(), r"y\.json has 39 labels for 40 rows of scores"),
        ([*label[:-1].tolist(), 3], r"row 39 of y\.json has label 3, but there are 3 classes, 0 to 2: do"),
        ([0.5] * 40, r"column 'value' of y\.json has label 0\.5; expected names of classes or whole numbers"),
        ([*[-1, 0, 1, 0] * 10], r"labels of y\.json.* are −1 to 1, of 3 classes: do they count from −1"),
        (["a", "b"] * 20, r"each row has 3 scores, but there are 2 classes \(a, b\).*--classes FILE"),
    ]
    for values, words in cases:
        (tmp_path / "y.json").write_text(json.dumps(values))
        refused(words, tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.json")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    (tmp_path / "y.json").write_text(json.dumps(["cat"] * 37 + ["cow", None, "cow"]))
    frame, lines = run_logged(tmp_path, tmp_path / "a.npy", labels=tmp_path / "y.json", classes=tmp_path / "names.txt")
    assert "warning: 2 labels in y.json are not among the classes (cow); they count as unknown" in lines
    assert frame["label"].isna().sum() == 3
    (tmp_path / "list.txt").write_text("\n".join(image[:-1]))
    refused(
        "40 rows and .*list.txt has 39 images", tmp_path / "1", tmp_path / "a.npy", images=str(tmp_path / "list.txt")
    )
    refused("no path", tmp_path / "1", tmp_path / "a.npy", labels_from_folders=True)


def test_rows_without_a_key_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prob_a,prob_b,label,id\n0.2,0.8,b,x1\n0.9,0.1,a,\n")
    refused(r"there is no key in row 1 of 'id'", tmp_path, tmp_path / "a.csv", scores="probabilities", key_column="id")
