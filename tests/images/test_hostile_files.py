"""Files that are damaged, endless or larger than memory: an error that names them, and no row lost without a word."""

import gzip
import io
import os
import socket
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from predboard.errors import InputError, UnreadableError
from predboard.images import decode
from predboard.images.manifest import SourceOptions, image_suffixes
from predboard.images.sources import open_source, read
from tests import toy
from tests.images.sources.test_idx import write_idx
from tests.images.sources.test_tar import write_tar

MEMBERS = {f"{name}/{i}.png": f"{name}{i}".encode() * 50 for name in "ab" for i in range(3)}


def _tar(folder: Path) -> tuple[Path, bytes]:
    file = Path(write_tar(folder / "d.tar", MEMBERS))
    return file, file.read_bytes()


def _zip(folder: Path) -> tuple[Path, bytes]:
    with zipfile.ZipFile(folder / "d.zip", "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return folder / "d.zip", (folder / "d.zip").read_bytes()


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        *map(_flip, (3, 110, 130, 150, 1024 + 3, 1024 + 110, 1024 + 130, 1024 + 150, 5 * 1024 + 156)),
        lambda whole: whole[:2048] + bytes(512) + whole[2560:],  # a header that is gone
        lambda whole: whole[: len(MEMBERS) * 1024],  # cut off between members, without the end mark
        lambda whole: whole[: 2 * 1024 + 600],
        lambda whole: whole[: 2 * 1024 + 100],
        lambda whole: whole + whole,
    ],
)
def test_a_damaged_tar_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file, whole = _tar(tmp_path)
    assert len(open_source(str(file))) == 6
    other = tmp_path / "other.tar"
    other.write_bytes(damage(whole))
    with pytest.raises(InputError, match=r"other\.tar"):
        open_source(str(other))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-200] + bytes(100) + whole[-100:],
        lambda whole: whole + whole,  # the first one's members are in no list
        lambda whole: _flip(whole.index(b"PK\1\2"))(whole),
    ],
)
def test_a_damaged_zip_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file, whole = _zip(tmp_path)
    file.write_bytes(damage(whole))
    with pytest.raises(InputError, match=r"d\.zip"):
        open_source(str(file))


def test_a_flipped_bit_in_a_member_of_a_zip_is_the_error_of_its_row(tmp_path: Path) -> None:
    file, whole = _zip(tmp_path)
    file.write_bytes(_flip(60)(whole))
    manifest = open_source(str(file))
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read(manifest.root, "d.zip#a/0.png")
    assert read(manifest.root, "d.zip#a/1.png") == MEMBERS["a/1.png"]


def test_links_in_a_tar_are_the_pictures_that_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for name, content in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, type_, target in (
            ("b/hard.png", tarfile.LNKTYPE, "a/0.png"),
            ("b/soft.png", tarfile.SYMTYPE, "../b/hard.png"),
            ("b/out.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("b/pipe.png", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, target
            archive.addfile(member)
    manifest = open_source(str(tmp_path / "d.tar"))
    assert toy.class_labels(manifest) == [
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
    ]  # GNU tar makes links of files that share data
    assert {read(manifest.root, f"d.tar#b/{name}.png") for name in ("hard", "soft")} == {MEMBERS["a/0.png"]}
    for name in ("out", "pipe"):
        with pytest.raises(UnreadableError):
            read(manifest.root, f"d.tar#b/{name}.png")


def test_pipes_sockets_and_devices_are_errors_of_their_rows_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as connection:
        here = os.open(folder, os.O_RDONLY)
        connection.bind(f"/proc/self/fd/{here}/socket.png")  # the name of a socket may not be longer than 108 bytes
        os.close(here)
    manifest = open_source(str(tmp_path))
    assert manifest.image.to_pylist() == ["a/0.png", "a/pipe.png", "a/socket.png", "a/zero.png"]
    for ref in manifest.image.to_pylist()[1:]:
        with pytest.raises(UnreadableError, match="it is a folder, a pipe or a device"):
            read(manifest.root, ref)
    (tmp_path / "l.csv").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "l.txt")
    for name in ("l.csv", "l.txt"):
        with pytest.raises(InputError, match=f"cannot read .*{name}: it is a folder, a pipe or a device"):
            open_source(str(tmp_path / name))


def _sparse(file: Path) -> str:
    with file.open("wb") as stream:
        stream.write(b"II*\0")
        stream.truncate(9 * 10**9)
    return str(file)


def _zip_bomb(file: Path) -> str:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/0.png", b"x" * 100)
    # The list at the end says 4 GB.
    whole = file.read_bytes()
    at = whole.index(b"PK\1\2") + 24
    file.write_bytes(whole[:at] + (4 * 10**9).to_bytes(4, "little") + whole[at + 4 :])
    return str(file)


def _idx_bomb(file: Path) -> str:
    file.write_bytes(gzip.compress(b"\0\0\x08\x03" + np.array([10**6, 100, 100], ">u4").tobytes()))
    return str(file)


def _idx_without_height(file: Path) -> str:
    return str(write_idx(file, np.zeros((1000, 0, 28), np.uint8)))


def _idx_of_too_many(file: Path) -> str:
    file.write_bytes(b"\0\0\x08\x03" + np.array([2**32 - 1, 0, 28], ">u4").tobytes())
    return str(file)


def _idx_that_wraps(file: Path) -> str:
    file.write_bytes(b"\0\0\x08\x03" + np.array([2**31, 2**31, 4], ">u4").tobytes())
    return str(file)


def _parquet_bomb(file: Path) -> str:
    pq.write_table(pa.table({"image": [b"\x89" * 10**4] * 300}), file, use_dictionary=False)
    return str(file)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("l.csv", _sparse, "9.0 GB"),
        ("l.txt", _sparse, "9.0 GB"),
        ("l.jsonl", _sparse, "9.0 GB"),
        ("t-images-idx3-ubyte", _sparse, "9.0 GB"),
        ("t-images-idx3-ubyte.gz", _idx_bomb, "10.2 GB"),
        ("t-images-idx3-ubyte", _idx_without_height, "1000×0×28"),
        ("t-images-idx3-ubyte", _idx_of_too_many, "859.0 GB"),
        ("t-images-idx3-ubyte", _idx_that_wraps, "GB"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(
    tmp_path: Path, name: str, write: Callable[[Path], str], message: str
) -> None:
    data = write(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        open_source(data)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_sizes_of_single_pictures_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _sparse(tmp_path / "a" / "0.tif")
    _zip_bomb(tmp_path / "z.zip")
    _parquet_bomb(tmp_path / "p.parquet")
    tracemalloc.start()
    for ref, gigabytes in (("a/0.tif", 1.0), ("z.zip#a/0.png", 1.0), ("p.parquet#3", 0.002)):
        with pytest.raises(UnreadableError, match=r"GB of memory, more than --max-read-gb [\d.]+ allows"):
            read(str(tmp_path), ref, gigabytes)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert len(read(str(tmp_path), "p.parquet#3", 0.1)) == 10**4
    assert len(open_source(str(tmp_path / "p.parquet"), SourceOptions(max_read_gb=0.1))) == 300


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"x")
    (tmp_path / "a" / "to b").symlink_to("../b")
    assert open_source(str(tmp_path)).notes == ("links list 1 folder once more, so that its images count again: b",)
    for i in range(60):
        (tmp_path / f"farm {i}").symlink_to("h")
    assert len(open_source(str(tmp_path))) == 8 + 1 + 60  # a class of its own for each link, as torchvision has it
    for name in "abcdefgh":
        for other in "abcdefgh":
            (tmp_path / name / other).symlink_to(f"../{other}")
    with pytest.raises(InputError, match="can be reached by more than 50 ways"):
        open_source(str(tmp_path))


def test_a_hash_in_a_name_is_no_member(tmp_path: Path) -> None:
    names = ("a/#.png", "a/x#1/y.png", "b#/x.zip#y.png", "b#/1.png")
    for name in names:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(name.encode())
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    write_tar(tmp_path / "d.tar", {name: name.encode() for name in names})
    for kind, start in (("d", ""), ("d.zip", "d.zip#"), ("d.tar", "d.tar#")):
        manifest = open_source(str(tmp_path / kind))
        assert (manifest.classes, sorted(toy.class_labels(manifest))) == (("a", "b#"), [0, 0, 1, 1])
        assert {ref: read(manifest.root, ref) for ref in manifest.image.to_pylist()} == {
            f"{start}{name}": name.encode() for name in names
        }
    (tmp_path / "d" / "b#" / "x.zip").write_bytes((tmp_path / "d.zip").read_bytes())
    with pytest.raises(InputError, match=r"x\.zip#y\.png is named like a member of b#/x\.zip beside it: rename it"):
        open_source(str(tmp_path / "d"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_of_members_lead_nowhere_else(tmp_path: Path, kind: str) -> None:
    members = {"/a/1.png": b"1", "../b/2.png": b"2", "//a//3.png": b"3", "b/Thumbs.db": b"", "$RECYCLE.BIN/4.png": b"4"}
    if kind == "tar":
        write_tar(tmp_path / "d.tar", members)
    else:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    manifest = open_source(str(tmp_path / f"d.{kind}"))
    assert dict(zip(manifest.image.to_pylist(), toy.class_labels(manifest), strict=True)) == {
        f"d.{kind}#a/1.png": 0, f"d.{kind}#a/3.png": 0, f"d.{kind}#b/2.png": 1
    }  # fmt: skip
    assert (manifest.classes, manifest.notes) == (("a", "b"), ())


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_images_beside_the_class_folders_are_left_out_alike(tmp_path: Path, kind: str) -> None:
    members = {"a/1.png": b"1", "b/2.png": b"2", "cover.png": b"3"}
    if kind == "tar":
        write_tar(tmp_path / "d.tar", members)
    for name, content in members.items():
        with zipfile.ZipFile(tmp_path / "d.zip", "a") as archive:
            archive.writestr(name, content)
        (tmp_path / "d.folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d.folder" / name).write_bytes(content)
    manifest = open_source(str(tmp_path / f"d.{kind}"))
    assert [ref.rpartition("#")[2] for ref in manifest.image.to_pylist()] == ["a/1.png", "b/2.png"]
    assert toy.class_labels(manifest) == [0, 1]
    assert manifest.notes[0].startswith("1 image beside the class folders is left out, cover.png")


def test_a_quoted_pattern_stands_for_files(tmp_path: Path) -> None:
    for i in range(12):
        write_tar(tmp_path / f"s[1]-{i:02d}.tar", {f"{i}.png": b"x", f"{i}.cls": b"%d" % (i % 2)})
    assert toy.class_labels(open_source(str(tmp_path / "s*-*.tar"))) == [0, 1] * 6
    assert len(open_source(str(tmp_path / "s[1]-03.tar"))) == 1  # a file of that very name comes first
    with pytest.raises(InputError, match=r"no folder .*t\*\.tar"):
        open_source(str(tmp_path / "t*.tar"))


def test_columns_that_cannot_be_stored_as_they_are_become_text(tmp_path: Path) -> None:
    rows = ['{"meta": {}, "hash": 18446744073709551615, "mixed": 1}', '{"meta": {}, "hash": 1, "mixed": {"x": 2}}']
    write_tar(tmp_path / "d.tar", {f"{i}.{end}": row.encode() for i, row in enumerate(rows) for end in ("png", "json")})
    columns = open_source(str(tmp_path / "d.tar")).columns
    pq.write_table(columns, tmp_path / "p.parquet")
    assert columns.to_pydict() == {
        "meta": ["{}", "{}"],
        "hash": ["18446744073709551615", "1"],
        "mixed": ["1", '{"x": 2}'],
    }
    late = pa.array([10**15, 0], pa.timestamp("ms"))  # the year 33658
    pq.write_table(pa.table({"image": ["1.png", "2.png"], "when": late}), tmp_path / "l.parquet")
    assert open_source(str(tmp_path / "l.parquet")).columns.column("when")[1].as_py().startswith("1970-01-01")


def test_a_text_list_may_lack_suffixes_and_be_utf_16(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "v.txt").write_text("1 5\n2 7\n")
    manifest = open_source(str(tmp_path / "v.txt"))
    assert (manifest.image.to_pylist(), toy.class_labels(manifest)) == (["1.png", "2.png"], [5, 7])
    (tmp_path / "v.txt").write_text("1.png 5\n2.png 7\n", "utf-16")
    assert toy.class_labels(open_source(str(tmp_path / "v.txt"))) == [5, 7]
    (tmp_path / "v.txt").write_text("1.png 0 1\n2.png 1 0\n")
    with pytest.raises(InputError, match=r"v\.txt has several labels in line 1: '0 1'; expected one"):
        open_source(str(tmp_path / "v.txt"))


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_pictures_that_need_a_plugin_are_read_or_name_it(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "a" / f"1{suffix}"
    file.parent.mkdir()
    if suffix in image_suffixes():
        if suffix == ".heic":
            pytest.importorskip("pillow_heif").from_pillow(Image.new("RGB", (64, 64), (200, 10, 10))).save(file)
        else:
            Image.new("RGB", (64, 64), (200, 10, 10)).save(file)
        manifest = open_source(str(tmp_path))
        pixels = np.asarray(decode.decode_image(read(manifest.root, f"a/1{suffix}")), int)
        assert np.abs(pixels - [200, 10, 10]).max() <= 3
        return
    package = f"pillow-{suffix[1:].replace('heic', 'heif')}"
    file.write_bytes(b"\0\0\0\x18ftyp" + suffix[1:].encode() + bytes(40))
    with pytest.raises(InputError, match=rf"1 \{suffix} \(pip install {package} to read them\)"):
        open_source(str(tmp_path))
    with pytest.raises(ValueError, match=f"without {package}: pip install {package}"):
        decode.decode_image(file.read_bytes())
