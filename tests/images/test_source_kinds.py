"""What holds across kinds of sources: the same logits, class names from a file, files that are no source."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images.class_names import read_classes
from predboard.images.sources import open_source, read
from predboard.inference.infer import infer
from predboard.storage.remote import RemotePath
from predboard.storage.runs import open_predictions
from tests import fake_storage, toy
from tests.images.sources.pictures import files
from tests.images.sources.test_parquet import hugging_face
from tests.images.sources.test_table import write_list


def test_a_file_of_no_known_kind_is_one_line(tmp_path: Path) -> None:
    name = "x.pdf"
    (tmp_path / name).write_bytes(b"\xff\x00nothing of the kind")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        open_source(str(tmp_path / name))


def test_a_member_that_is_gone_is_an_error_of_its_row(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a/1.png", b"x")
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path), "d.zip#a/2.png")
    (folder / "a" / "odd#1.png").write_bytes((folder / "a" / "000.png").read_bytes())
    assert read(str(folder), "a/odd#1.png") == (folder / "a" / "000.png").read_bytes()


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("ålesund\nbergen\n\n", "utf-8")
    (tmp_path / "c.json").write_text('["x", "y"]')
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    assert read_classes(tmp_path / "c.txt") == ("ålesund", "bergen")
    assert read_classes(tmp_path / "c.json") == ("x", "y")
    (tmp_path / "bom.txt").write_text("a\nb\n", "utf-8-sig")
    assert read_classes(tmp_path / "bom.txt") == ("a", "b")
    fake_storage.empty().pipe_file("/names/c.json", b'["x", "y"]')
    assert read_classes(RemotePath("fake://names/c.json")) == ("x", "y")
    with pytest.raises(InputError, match=r"cannot read fake://names/d\.json"):
        read_classes(RemotePath("fake://names/d.json"))
    (tmp_path / "nested.json").write_text("[" * 9_000)
    for name, content in (("map.json", '{"b": 1, "a": 0}'), ("one.json", "5"), ("deep.json", '[["n1", "cat"]]')):
        (tmp_path / name).write_text(content)
    wrong = {"map.json": "not a list of names", "one.json": "not a list of names", "deep.json": "not a list of names"}
    for name, message in {
        **wrong,
        "twice.txt": "names the class 'a' twice",
        "none.txt": "cannot read",
        "nested.json": "no class names",
    }.items():
        with pytest.raises(InputError, match=message):
            read_classes(tmp_path / name)


def test_every_source_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    pictures = files(folder)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for ref, _, encoded in pictures:
            archive.writestr(ref, encoded)
    listed = write_list(folder / "list.csv", [{"path": ref, "label": name, "site": "x"} for ref, name, _ in pictures])
    model = toy.model_file(tmp_path)
    found = []
    for i, data in enumerate((folder, tmp_path / "data.zip", listed, hugging_face(tmp_path / "hf", pictures))):
        out = infer(InferConfig(data=str(data), model=model, out=tmp_path / f"run{i}")).out
        found.append(open_predictions(out).to_pandas())
    for other in found[1:]:
        np.testing.assert_array_equal(np.stack(other["logits"]), np.stack(found[0]["logits"]))
        assert other["label"].tolist() == found[0]["label"].tolist()
    assert found[2]["site"].tolist() == ["x"] * 12 and found[3]["split"].tolist() == ["test"] * 12


def test_a_folder_of_shards_of_two_kinds_is_one_line(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.tar", "c.tar"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"holds 1 \.parquet and 2 \.tar files: name those of one kind"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["ant\nbee\n", '"ant"\n"bee"\n', '["ant", "bee"]'],
)
def test_class_names_are_lines_or_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(text)
    assert read_classes(tmp_path / "c.txt") == ("ant", "bee")


def test_class_names_in_another_encoding_and_compressed_data_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("ant\n", "utf-16")
    with pytest.raises(InputError, match=r"c\.txt, which is not UTF-8: save the names as UTF-8"):
        read_classes(tmp_path / "c.txt")
    (tmp_path / "s.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"s\.tar\.gz is compressed: unpack it first"):
        open_source(str(tmp_path / "s.tar.gz"))


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("a.csv", "class\nant\nbee\n", ("ant", "bee")),
        ("a.csv", "ant\nbee\n", ("ant", "bee")),
        ("a.csv", "id,name\n1,bee\n0,ant\n", ("ant", "bee")),
        ("a.csv", "ant;0\nbee;1\n", ("ant", "bee")),
        ("a.tsv", "label\tindex\nant\t0\nbee\t1\n", ("ant", "bee")),
        ("a.csv", "tench, Tinca tinca\nbee\n", ("tench, Tinca tinca", "bee")),
        ("a.txt", "class\nant, x\n", ("class", "ant, x")),
    ],
)
def test_a_table_of_class_names_is_read_by_its_column(
    name: str, text: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == classes


@pytest.mark.parametrize("text", ["a,b\nant,x\nbee,y\n", "id,name\n1,ant\n2,bee\n", "id,name\n0,ant, x\n1,bee\n"])
def test_a_table_whose_names_or_order_are_not_clear_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(
        InputError, match=r"a.csv has 2 columns \(.*\); expected one class name on each line, or numbers"
    ):
        read_classes(tmp_path / "a.csv")


def test_names_in_place_of_a_file_of_names_are_one_line() -> None:
    with pytest.raises(InputError, match="no file ant,bee: expected a file with one class name on each line"):
        read_classes(Path("ant,bee"))


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("a.tar", b"\x1f\x8b\x08", "a.tar is compressed by gzip, whatever its name says: unpack it first"),
        ("a.csv", b"BZh9", "compressed by bzip2"),
        ("a.zip", b"\xfd7zXZ\0", "compressed by xz"),
        ("a.parquet", b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        ("a.tar", b"PK\3\4", r"a.tar is a zip file: name it so that it ends in .zip"),
        ("a.zip", bytes(257) + b"ustar", r"a.zip is a tar file: name it so that it ends in .tar"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(name: str, head: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(head + bytes(600))
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / name))
