"""Tar shards as WebDataset writes them."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from predboard.errors import InputError
from predboard.images.manifest import SourceOptions
from predboard.images.sources import open_source
from tests import toy
from tests.images.sources.pictures import files, same_bytes


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> str:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for name, encoded in list(pictures.items())[shard * 6 : shard * 6 + 6]:
            members |= {name: encoded, name.replace(".png", ".cls"): str("abc".index(name[0])).encode()}
        write_tar(folder / f"s-{shard}.tar", members)
    return str(folder / "s-{0..1}.tar")


def write_tar(file: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(file)


def test_tar_shards(folder: Path, tmp_path: Path) -> None:
    pictures = files(folder)
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard:03d}.tar", "w") as archive:
            for i, (_, name, encoded) in list(enumerate(pictures))[shard * 6 : shard * 6 + 6]:
                for end, data in (
                    ("cls", str("abc".index(name)).encode()),
                    ("json", json.dumps({"site": f"s{i}"}).encode()),
                    ("png", encoded),
                ):
                    member = tarfile.TarInfo(f"{i:04d}.{end}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    manifest = open_source(str(tmp_path / "s-{000..001}.tar"))
    assert manifest.image.to_pylist()[:2] == ["s-000.tar#0000.png", "s-000.tar#0001.png"]
    assert toy.class_labels(manifest) == [0] * 4 + [1] * 4 + [2] * 4 and manifest.classes == ()
    assert manifest.columns.to_pylist() == [{"site": f"s{i}"} for i in range(12)]
    same_bytes(manifest, [encoded for *_, encoded in pictures])
    with pytest.raises(InputError, match=r"no folder .*s-002\.tar"):
        open_source(str(tmp_path / "s-{000..002}.tar"))


def test_members_of_a_tar_that_lack_or_precede_others_keep_their_labels(tmp_path: Path) -> None:
    lacking = {"0.png": b"", "1.png": b"", "1.cls": b"1", "2.png": b"", "2.cls": b"0"}
    assert toy.class_labels(open_source(write_tar(tmp_path / "a.tar", lacking))) == [-1, 1, 0]
    later = {"0.png": b"", "0.json": b'{"a": 1}', "1.png": b"", "1.json": b'{"a": 2, "label": 3}'}
    assert toy.class_labels(open_source(write_tar(tmp_path / "b.tar", later))) == [-1, 3]
    unsorted = {"0.png": b"", "1.png": b"", "._0.png": b"of macOS", "1.cls": b"0", "0.cls": b"1"}
    found = open_source(write_tar(tmp_path / "c.tar", unsorted))
    assert (found.image.to_pylist(), toy.class_labels(found)) == (["c.tar#0.png", "c.tar#1.png"], [1, 0])
    with pytest.raises(InputError, match=r"cannot read d\.tar#0\.json as JSON"):
        open_source(write_tar(tmp_path / "d.tar", {"0.png": b"", "0.json": b'{"a":'}))
    with pytest.raises(InputError, match=r"cannot read e\.tar#0\.json as JSON: an object has the key 'label' twice"):
        open_source(write_tar(tmp_path / "e.tar", {"0.png": b"", "0.json": b'{"label": 1, "label": 2}'}))


def test_names_with_dots_are_rows_of_their_own(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for i in range(3):
        members |= {f"v/2024.01.{i}.png": b"p%d" % i, f"v/2024.01.{i}.cls": str(2 - i).encode()}
    found = open_source(write_tar(tmp_path / "a.tar", members))
    assert found.image.to_pylist() == [f"a.tar#v/2024.01.{i}.png" for i in range(3)]
    assert toy.class_labels(found) == [2, 1, 0]
    same_bytes(found, [b"p0", b"p1", b"p2"])


def test_an_exact_suffix_wins_and_what_is_ambiguous_is_one_line(tmp_path: Path) -> None:
    exact = {"1.seg.png": b"s", "1.png": b"p", "1.cls": b"1", "2.rgb.png": b"q", "2.cls": b"0"}
    found = open_source(write_tar(tmp_path / "a.tar", exact))
    assert found.image.to_pylist() == ["a.tar#1.png", "a.tar#2.rgb.png"]
    assert toy.class_labels(found) == [1, 0]
    wrong = {
        "several images named 1: 1.png, 1.jpg": {"1.png": b"", "1.jpg": b"", "1.cls": b"0"},
        "has 1.cls without an image, and several images": {"1.rgb.png": b"", "1.seg.png": b"", "1.cls": b"0"},
    }
    for i, (message, members) in enumerate(wrong.items()):
        with pytest.raises(InputError, match=message):
            open_source(write_tar(tmp_path / f"wrong{i}.tar", members))


def test_class_folders_in_a_tar_are_classes(tmp_path: Path) -> None:
    members = {"./set/b/1.png": b"b1", "./set/a/2.png": b"a2", "./set/a/__MACOSX/3.png": b"", "./set/a/notes.heic": b""}
    found = open_source(write_tar(tmp_path / "a.tar", members))
    assert found.image.to_pylist() == ["a.tar#set/b/1.png", "a.tar#set/a/2.png"]
    assert (found.classes, toy.class_labels(found)) == (("a", "b"), [1, 0])
    assert found.notes == ("1 file is not read as an image: 1 .heic (pip install pillow-heif to read them)",)
    same_bytes(found, [b"b1", b"a2"])


def test_a_tar_that_is_cut_off_or_damaged_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = Path(write_tar(tmp_path / "whole.tar", {f"{i}.png": bytes([i + 1]) * 700 for i in range(4)})).read_bytes()
    member = 512 + 1024  # header and content
    damaged = {
        "between members": whole[: 2 * member],
        "in a header": whole[: 2 * member + 100],
        "in a content": whole[: 2 * member + 600],
        "a bit of a header": whole[: member + 3] + bytes([whole[member + 3] ^ 1]) + whole[member + 4 :],
        "a zeroed header": whole[:member] + bytes(512) + whole[member + 512 :],
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.tar") as raised:
            open_source(str(tmp_path / f"{name}.tar"))
        assert "\n" not in str(raised.value)


def test_two_members_of_one_name_are_one_line(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a/1.png", "./a//1.png"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    with pytest.raises(InputError, match=r"a\.tar has two members named a/1\.png"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(("end", "column"), [("txt", "txt"), ("cls.txt", "cls.txt"), ("json", "json")])
def test_a_member_that_could_be_the_label_is_named_and_taken_where_asked(tmp_path: Path, end: str, column: str) -> None:
    text = b"%d" if end == "json" else b"class %d"
    members = {name: text % i for i in range(3) for name in (f"{i}.png", f"{i}.{end}")} | {
        "3.png": b"",
        f"3.{end}": text % 0,
    }
    file = write_tar(tmp_path / "a.tar", members)
    if end == "json":
        with pytest.raises(InputError, match="json could be: name it with --label-column"):
            open_source(file)
    else:
        found = open_source(file)
        assert set(toy.class_labels(found)) == {-1} and f"--label-column {column} takes" in found.notes[0]
    assert toy.class_labels(open_source(file, SourceOptions(label_column=column))) == [0, 1, 2, 0]
    with pytest.raises(InputError, match=r"has no column 'truth'"):
        open_source(file, SourceOptions(label_column="truth"))
