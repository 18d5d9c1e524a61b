"""Zip files of class folders."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images.sources import open_source, read
from predboard.images.sources.zip import read_at_once
from predboard.inference.infer import infer
from tests import toy
from tests.images.sources.pictures import files, same_bytes


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for name, encoded in pictures.items():
            archive.writestr(name, encoded)
    return folder / "data.zip"


@pytest.mark.parametrize("top", ["", "set/", "one/two/"])
def test_a_zip_of_class_folders_is_read_in_place(folder: Path, tmp_path: Path, top: str) -> None:
    pictures = files(folder)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for ref, _, encoded in reversed(pictures):
            archive.writestr(top + ref, encoded)
        archive.writestr(f"__MACOSX/{top}a/._000.png", b"")
        archive.writestr(f"{top}a/readme.txt", "no picture")
    manifest = open_source(str(tmp_path / "data.zip"))
    assert manifest.image.to_pylist() == [f"data.zip#{top}{ref}" for ref, *_ in pictures]
    assert manifest.classes == ("a", "b", "c") and toy.class_labels(manifest) == [0] * 4 + [1] * 4 + [2] * 4
    same_bytes(manifest, [encoded for *_, encoded in pictures])


def test_stage_two_finds_pictures_in_archives(folder: Path, tmp_path: Path) -> None:
    from predboard import VisualizeConfig, visualize

    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for ref, _, encoded in files(folder):
            archive.writestr(ref, encoded)
    done = infer(
        InferConfig(data=str(tmp_path / "data.zip"), model=toy.model_file(tmp_path), out=tmp_path / "p" / "zip")
    )
    (written,) = visualize(VisualizeConfig((done.out,), logdir=tmp_path / "logs", panels=("mistakes",)))
    assert written.missing_pictures == 0
    assert Image.open(io.BytesIO(read(str(tmp_path), "data.zip#a/000.png"))).size == (8, 8)


def test_backslashes_and_superfluous_parts_of_names_make_no_other_refs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("set\\a\\1.png", "./set/b//2.png", "set/@eaDir/3.png", "set/b/notes.txt"):
            archive.writestr(name, name)
    manifest = open_source(str(tmp_path / "w.zip"))
    assert manifest.image.to_pylist() == ["w.zip#set/a/1.png", "w.zip#set/b/2.png"]
    assert (manifest.classes, toy.class_labels(manifest)) == (("a", "b"), [0, 1])
    assert manifest.notes == ("1 file is not read as an image: 1 .txt",)
    same_bytes(manifest, [b"set\\a\\1.png", b"./set/b//2.png"])
    assert read(str(tmp_path), "w.zip#set\\a\\1.png") == b"set\\a\\1.png"  # as earlier versions wrote the ref


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_is_read_at_once_as_zipfile_reads_it_and_otherwise_left_to_zipfile(
    tmp_path: Path, packing: int
) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w", packing) as archive:
        for name, packed, extra in (
            ("a/ä.png", bytes(range(60)) * 2, b""),
            ("a/empty.png", b"", b""),
            ("a/last.png", b"x" * 60, b"\xfe\xca\x60\0" + bytes(96)),
        ):
            info = zipfile.ZipInfo(name)
            info.extra = extra
            archive.writestr(info, packed, packing)
    whole, known = (tmp_path / "d.zip").read_bytes(), 0
    for at in range(whole.index(b"PK\1\2")):
        (tmp_path / "damaged.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with zipfile.ZipFile(tmp_path / "damaged.zip") as archive:
            for info in archive.infolist():
                content = read_at_once(archive, info)
                known += content is not None
                try:
                    expected = archive.read(info)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError):
                    assert content is None
                else:
                    assert content in (None, expected)
    # The first member, where it is not damaged: the last one's header is longer than what is read with it.
    assert (known > 200) == (packing != zipfile.ZIP_BZIP2)
    assert read(str(tmp_path), "d.zip#a/ä.png") == bytes(range(60)) * 2


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a/1.png", b"x")
        archive.writestr("a/1.png", b"y")
    with pytest.raises(InputError, match=r"d\.zip has two members named a/1\.png"):
        open_source(str(tmp_path / "d.zip"))
