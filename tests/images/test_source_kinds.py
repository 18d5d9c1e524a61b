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
from predboard.storage.runs import open_predictions
from tests import toy
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
