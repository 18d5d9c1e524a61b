"""Lists of images: CSV, TSV, JSONL and Parquet without images in it."""

import csv
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images.manifest import SourceOptions
from predboard.images.sources import open_source
from predboard.inference.infer import infer
from predboard.predictions.schema import hash_refs
from tests import toy
from tests.images.sources.pictures import files, same_bytes


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    for name, encoded in pictures.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded)
    return write_list(folder / "list.csv", [{"path": name, "label": name[0]} for name in pictures])


def write_list(file: Path, rows: list[dict[str, object]]) -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_list_is_a_manifest_with_all_its_columns(folder: Path, kind: str) -> None:
    rows = [
        {"path": ref, "label": name, "country": "NO", "cloud": i / 10} for i, (ref, name, _) in enumerate(files(folder))
    ]
    manifest = open_source(str(write_list(folder / f"list.{kind}", rows)))
    assert manifest.image.to_pylist() == [row["path"] for row in rows]
    assert manifest.classes == ("a", "b", "c") and toy.class_labels(manifest) == [0] * 4 + [1] * 4 + [2] * 4
    assert manifest.columns.to_pylist() == [{"country": row["country"], "cloud": row["cloud"]} for row in rows]
    assert manifest.key.tolist() == hash_refs(row["path"] for row in rows).tolist()  # type: ignore[misc]  # all are text
    same_bytes(manifest, [encoded for *_, encoded in files(folder)])


def test_labels_are_names_or_indices_and_what_is_unknown_is_none(folder: Path, tmp_path: Path) -> None:
    refs = [ref for ref, *_ in files(folder)][:5]
    named = write_list(
        tmp_path / "n.csv", [{"image": r, "class": c} for r, c in zip(refs, ["b", "a", "", "x", "b"], strict=True)]
    )
    assert open_source(str(named), SourceOptions(image_root=folder)).classes == ("a", "b", "x")
    asked = open_source(str(named), SourceOptions(image_root=folder, classes=("b", "a")))
    assert asked.classes == ("b", "a") and toy.class_labels(asked) == [0, 1, -1, -1, 0]
    assert asked.root == str(folder.resolve())
    numbered = write_list(
        tmp_path / "i.csv", [{"image": r, "y": i} for r, i in zip(refs, [2, 0, -1, 7, 1], strict=True)]
    )
    found = open_source(str(numbered), SourceOptions(image_root=folder))
    assert found.classes == () and toy.class_labels(found) == [2, 0, -1, 7, 1]
    with pytest.raises(
        InputError, match=r"a/003\.png in .* has label 7, but there are 3 classes, 0 to 2: do the labels c"
    ):
        found.fit_labels(3)
    with pytest.raises(InputError, match=r"row 3 of i\.csv has label 7, but there are 2 classes"):
        open_source(str(numbered), SourceOptions(image_root=folder, classes=("b", "a")))
    from_minus_1 = write_list(
        tmp_path / "m.csv", [{"image": r, "y": i} for r, i in zip(refs, [-1, 0, 1, 1, 0], strict=True)]
    )
    listed = open_source(str(from_minus_1), SourceOptions(image_root=folder))
    assert toy.class_labels(listed.fit_labels(4)) == toy.class_labels(listed.fit_labels(2)) == [-1, 0, 1, 1, 0]
    for name_outputs in (partial(listed.fit_labels, 3), partial(listed.with_classes, ("a", "b", "c"))):
        with pytest.raises(InputError, match="are −1 to 1, of 3 classes: do they count from −1"):
            name_outputs()
    spelled = open_source(str(named), SourceOptions(image_root=folder, classes=("A", "B")))
    assert spelled.classes == ("A", "B") and spelled.class_label.tolist() == [1, 0, -1, -1, 1]
    assert any("labels are read as the class that is spelled alike: a as A, b as B" in note for note in spelled.notes)
    assert "1 label in column 'class' of n.csv is not among the classes (x); it counts as unknown" in asked.notes


def test_columns_are_named_and_a_wrong_name_is_one_line(folder: Path, tmp_path: Path) -> None:
    rows = [{"where": ref, "what": name, "serial": f"n{i}", "id": i} for i, (ref, name, _) in enumerate(files(folder))]
    file = str(write_list(folder / "list.csv", rows))
    options = SourceOptions("where", "what", "serial")
    manifest = open_source(file, options)
    assert manifest.key.tolist() == hash_refs(f"n{i}" for i in range(12)).tolist()
    assert manifest.columns.column_names == ["serial", "manifest_id"]  # id is a column of the format
    with pytest.raises(
        InputError, match=r"list\.csv has no column of images; it has where, what, serial, id: .*--image-column"
    ):
        open_source(file)
    for wrong in (SourceOptions("nope"), SourceOptions("where", "nope"), SourceOptions("where", "what", "nope")):
        with pytest.raises(InputError, match=r"has no column 'nope'; it has where, what"):
            open_source(file, wrong)
    empty = write_list(tmp_path / "gap.jsonl", [{"path": "1.png"}, {"path": None}])
    with pytest.raises(InputError, match="no image in row 1"):
        open_source(str(empty))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,label,label\n0.png,a,b\n", "two columns named 'label'"),
        ("path,label,x,x\n0.png,a,1,2\n", "two columns named 'x'"),
        ("path,label\n", "has no rows"),
        ("path,label\n0.png,1.5\n", r"column 'label' of list.csv has label 1\.5; expected names"),
        ("path,label,city\n0.png,1,Malmö\n", "is not UTF-8 in column 'city'"),
    ],
)
def test_a_list_that_is_unclear_is_one_line(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(table, "latin-1")
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "list.csv"))


@pytest.mark.parametrize(
    "label",
    [
        pa.array([1, None, 0], pa.uint8()),
        pa.array([1, None, 0], pa.uint64()),
        pa.array([1.0, float("nan"), 0.0]),  # of pandas, where one is missing
        pa.array([1, None, 0], pa.decimal128(3, 1)),
        pa.array([True, None, False]),
        pa.array([b"1", None, b"0"]),
        pa.array(["yes", None, "no"], pa.string_view()),
        pa.array(["1", None, "0"], pa.dictionary(pa.int8(), pa.large_string())),
        pa.array([[0, 1], None, [1, 0]]),
    ],
)
def test_indices_and_truth_values_of_any_type_are_labels(tmp_path: Path, label: pa.Array) -> None:
    for type_ in (pa.string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        path = pa.array(["0.png", "1.png", "2.png"]).cast(type_)
        pq.write_table(pa.table({"path": path, "label": label, "more": path}), tmp_path / "list.parquet")
        manifest = open_source(str(tmp_path / "list.parquet"))
        assert toy.class_labels(manifest) == [1, -1, 0]
        assert manifest.image.to_pylist() == ["0.png", "1.png", "2.png"]
        assert len(manifest.limit(2)) == 2


def test_several_names_for_an_image_of_a_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('image,label\n0.png,"cat,dog"\n1.png,cat\n')
    with pytest.raises(InputError, match=r"column 'label' of list\.csv has several labels for an image \('cat,dog'"):
        open_source(str(tmp_path / "list.csv"), SourceOptions(classes=("cat", "dog")))


def test_columns_with_names_of_ours_get_others(folder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": ref, "label": name, "width": 1, "manifest_width": "a", "step": "b"} for ref, name, _ in files(folder)
    ]
    model = toy.model_file(tmp_path, classes=3)
    infer(InferConfig(str(write_list(folder / "list.csv", rows)), str(model), out=tmp_path / "out"))
    found = pq.read_table(tmp_path / "out").to_pylist()[0]  # with the folders' names as a column `step`
    assert (found["width"], found["manifest_manifest_width"], found["manifest_width"]) == (8, 1, "a")
    assert (found["step"], found["manifest_step"]) == (0, "b")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image,label\na/1.png,x\nb/2.png,y\n", "utf-8"),
        ("image;label\na/1.png;x\nb/2.png;y\n", "utf-8-sig"),
        ("sep=;\nimage;label\na/1.png;x\nb/2.png;y\n", "utf-8"),
        ("image\tlabel\r\na/1.png\tx\r\nb/2.png\ty\r\n", "utf-16"),
        ("image|label\na/1.png|x\nb/2.png|y\n", "utf-8"),
        ("\n\nimage, label\n./a//1.png, x\n\nb/2.png , y \n", "utf-8"),
        ("image,label\na\\1.png,x\nb\\2.png,y\n", "utf-8"),
        (",image,label,\n0,a/1.png,x,\n1,b/2.png,y,\n", "utf-8"),
        ("image,label\na/1.png,x,\nb/2.png,y,\n", "utf-8"),
        ("'image','label'\n'a/1.png','x'\n'b/2.png','y'\n", "utf-8"),
        ('"image";"label"\n"a/1.png";"x"\n"b/2.png";"y"\n', "utf-8"),
    ],
)
def test_separators_encodings_and_spaces_of_a_list(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode(encoding))
    found = open_source(str(tmp_path / "list.csv"))
    assert found.image.to_pylist() == ["a/1.png", "b/2.png"]
    assert (found.classes, toy.class_labels(found)) == (("x", "y"), [0, 1])


def test_a_line_of_a_list_that_is_too_long_is_one_line_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,label\na.png,x\nb.png,y,z\n")
    with pytest.raises(InputError, match=r"list\.csv has 3 cells in line 3, and 2 in others"):
        open_source(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("label", ["label", "true_label", "class_id"])
def test_text_of_a_list_stays_text(label: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"image,{label},id\n00000,007,01\n1e3,010,02\n")
    found = open_source(str(tmp_path / "list.csv"), SourceOptions(key_column="id"))
    assert found.image.to_pylist() == ["00000", "1e3"]
    assert (found.classes, toy.class_labels(found)) == (("007", "010"), [0, 1])
    assert found.key.tolist() == hash_refs(["01", "02"]).tolist()


@pytest.mark.parametrize(
    ("labels", "classes", "expected", "names"),
    [
        (["2", "0", ""], (), [2, 0, -1], ()),
        (["2.0", "0.0", "NaN"], (), [2, 0, -1], ()),
        (["2", "0", ""], ("a", "b", "c"), [2, 0, -1], ("a", "b", "c")),
        (["10", "1", "2"], ("1", "10", "2"), [1, 0, 2], ("1", "10", "2")),
        (["True", "False", "True"], (), [1, 0, 1], ("False", "True")),
        (["1", "x", "1"], (), [0, 1, 0], ("1", "x")),
    ],
)
def test_numbers_are_indices_unless_they_name_classes(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...], expected: list[int], names: tuple[str, ...]
) -> None:
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    (tmp_path / "list.csv").write_text(f"image,label\n{rows}")
    found = open_source(str(tmp_path / "list.csv"), SourceOptions(classes=classes))
    assert (toy.class_labels(found), found.classes) == (expected, names)
    readings = {"2": "indices from 0", "2.0": "indices from 0", "10": "class names, not indices", "True": "1 for True"}
    reading = readings.get(labels[0], "")
    assert found.reading.startswith(f"labels: 'label' of list.csv, read as {reading}") if reading else not found.reading


def test_ids_without_a_suffix_get_that_of_the_first_ones_file(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("00a1", "00a2"):
        (tmp_path / "train" / f"{name}.JPG").write_bytes(name.encode())
    (tmp_path / "list.csv").write_text("id,label\n00a1,x\n00a2,y\n")
    found = open_source(str(tmp_path / "list.csv"), SourceOptions("id", image_root=tmp_path / "train"))
    assert found.image.to_pylist() == ["00a1.JPG", "00a2.JPG"]
    assert found.notes == ("list.csv: the paths have no suffix, and files that end in .JPG are read",)
    same_bytes(found, [b"00a1", b"00a2"])
    elsewhere = open_source(str(tmp_path / "list.csv"), SourceOptions("id"))  # then each row says that it is missing
    assert elsewhere.image.to_pylist() == ["00a1", "00a2"]


def test_a_null_in_json_lines_is_one_line_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('\n{"image": "a.png", "label": "null"}\n null \n')
    with pytest.raises(InputError, match=r"l\.jsonl has null in line 3; expected an object"):
        open_source(str(tmp_path / "l.jsonl"))


@pytest.mark.parametrize(
    ("head", "rows", "note"),
    [
        ("species", "cat dog owl", ""),  # as many values as rows: names of images, perhaps
        ("label,target", "0,1 1,2 0,0", "labels are taken from 'label', but 'target' could be the truth as well"),
        ("label,target", "0,1 1,0 0,1", "labels are taken from 'label', but 'target' could be the truth as well"),
        ("label,class_id", "cat,3 dog,4 cat,3", ""),
        ("label,target", "0,0 1,1 0,0", ""),
    ],
)
def test_columns_that_could_be_the_labels_are_named(tmp_path: Path, head: str, rows: str, note: str) -> None:
    lines = "".join(f"{i}.png,{row}\n" for i, row in enumerate(rows.split()))
    (tmp_path / "list.csv").write_text(f"image,{head}\n{lines}")
    notes = open_source(str(tmp_path / "list.csv")).notes
    assert notes[0].startswith(note) if note else not notes
    for column in ("none", head.partition(",")[0]):
        assert not open_source(str(tmp_path / "list.csv"), SourceOptions(label_column=column)).notes
    none = open_source(str(tmp_path / "list.csv"), SourceOptions(label_column="none"))
    assert toy.class_labels(none) == [-1] * 3


def test_rows_that_repeat_an_image_are_counted(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,label\n1.png,0\n./1.png,1\n2.png,0\n2.png,0\n")
    assert open_source(str(tmp_path / "list.csv")).notes == (
        "2 rows have an image that a row before has (the first is 1.png), 1 with another label: each row is counted",
    )


LABELS = ["ant", "bee", "cat"] * 2


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"species": LABELS}, "species could be"),
        ({"diagnosis": [0, 1, 2] * 2, "age": [30, 41, 30, 9, 55, 60]}, "diagnosis could be"),
        ({"fine_label": [10, 20, 30] * 2}, "fine_label could be"),
        ({"ant": [1, 0, 0] * 2, "bee": [0, 1, 0] * 2, "cat": [0, 0, 1] * 2}, r"ant, bee, cat could be \(one-hot"),
        ({"MEL": [1.0, 0.0] * 3, "NV": [0.0, 1.0] * 3}, r"MEL, NV could be \(one-hot"),
    ],
)
def test_columns_that_could_be_the_labels_are_named_before_they_are_taken_for_none(
    columns: dict[str, list[object]], named: str, tmp_path: Path
) -> None:
    rows = [{"image": f"{i}.png"} | {name: values[i] for name, values in columns.items()} for i in range(6)]
    listed = str(write_list(tmp_path / "list.csv", rows))
    with pytest.raises(InputError, match=rf"no column that is surely the labels, but {named}.*--label-column none if"):
        open_source(listed)
    unlabelled = open_source(listed, SourceOptions(label_column="none"))
    assert toy.class_labels(unlabelled) == [-1] * 6 and unlabelled.columns.column_names == list(columns)


def test_columns_that_describe_an_image_are_no_labels(tmp_path: Path) -> None:
    row = {"width": 32, "height": 24, "split": "val", "patient_id": "P1", "date": "2024-01-02", "mean": 0.5, "fold": 0}
    other = {**row, "split": "test", "fold": 1, "patient_id": "P2"}
    rows = [{"image": f"{i}.png", **(row if i % 2 else other)} for i in range(4)]
    assert toy.class_labels(open_source(str(write_list(tmp_path / "list.csv", rows)))) == [-1] * 4
    split = write_list(tmp_path / "l.csv", rows)
    with pytest.raises(InputError, match="split could be"):
        open_source(str(split), SourceOptions(classes=("val", "test")))


def test_rows_without_a_key_are_refused(folder: Path, tmp_path: Path) -> None:
    """All of them would have one key, as if they were one image."""
    refs = [ref for ref, *_ in files(folder)][:4]
    listed = write_list(
        tmp_path / "k.csv", [{"image": r, "id": k} for r, k in zip(refs, ["a1", "", "a3", ""], strict=True)]
    )
    with pytest.raises(InputError, match=r"there is no key in row 1 of 'id' of .*k.csv: fill it, or name another"):
        open_source(str(listed), SourceOptions(image_root=folder, key_column="id"))
