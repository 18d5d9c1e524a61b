"""Folders of images -> manifest, against the documented algorithm of torchvision's ImageFolder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predboard.errors import InputError
from predboard.images import sources
from predboard.images.manifest import Manifest, image_suffixes
from predboard.images.sources import open_source
from predboard.predictions.schema import hash64
from tests import toy


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    for name, encoded in pictures.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded)
    return folder


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return folder


def _image_folder(root: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """What torchvision's `find_classes` and `make_dataset` say, with our extensions and without hidden names."""
    classes = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    samples = []
    for name in classes:
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            inside = os.path.relpath(folder, root)
            if any(part.startswith(".") for part in Path(inside).parts):
                continue
            samples += [
                (f"{inside}/{file}", classes.index(name))
                for file in sorted(files)
                if not file.startswith(".") and file.lower().endswith(image_suffixes())
            ]
    return classes, samples


def _samples(manifest: Manifest) -> list[tuple[str, int]]:
    return list(zip(manifest.image.to_pylist(), toy.class_labels(manifest), strict=True))


_NAMES = st.sampled_from(["a", "B", "b", "a-b", "a b", "a.b", "10", "9", "ä", "日本", ".hidden", "x.png", "!"])
_ENDS = st.sampled_from([".png", ".PNG", ".JpEg", ".txt", "", ".tif.bak", ".webp", ".gif"])
_PATHS = st.builds(
    lambda folders, name, end: "/".join([*(f + "_" for f in folders), name + end]),
    st.lists(_NAMES, min_size=1, max_size=3),
    _NAMES,
    _ENDS,
)


@settings(max_examples=60)
@given(st.lists(_PATHS, min_size=1, max_size=12))
def test_order_and_labels_are_those_of_an_image_folder(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str]
) -> None:
    root = _files(tmp_path_factory.mktemp("data"), "0/0.png", "zz/1.jpg", *paths)
    classes, samples = _image_folder(root)
    found = open_source(str(root))
    assert found.classes == tuple(classes)
    assert _samples(found) == samples
    assert found.key.tolist() == [hash64(ref.encode()) for ref, _ in samples]
    assert Path(found.root) == root.resolve()
    assert len(found) == len(samples)
    assert [sources.read(found.root, ref) for ref, _ in samples] == [ref.encode() for ref, _ in samples]


def test_order_by_hand(tmp_path: Path) -> None:
    _files(
        tmp_path, "b/z.png", "b/a.png", "a/10.png", "a/9.png", "a/x/1.JPG", "a/x-1/2.jpeg", "a/x/y/3.bmp", "B/q.tiff"
    )
    found = open_source(str(tmp_path))
    assert found.classes == ("B", "a", "b")
    assert _samples(found) == [
        ("B/q.tiff", 0),
        ("a/10.png", 1),
        ("a/9.png", 1),
        ("a/x/1.JPG", 1),
        ("a/x-1/2.jpeg", 1),
        ("a/x/y/3.bmp", 1),
        ("b/a.png", 2),
        ("b/z.png", 2),
    ]


def test_an_empty_class_folder_keeps_its_index(tmp_path: Path) -> None:
    _files(tmp_path, "a/1.png", "c/1.png", "b/readme.txt")
    found = open_source(str(tmp_path))
    assert found.classes == ("a", "b", "c")
    assert toy.class_labels(found) == [0, 2]
    assert np.asarray(found.label).dtype == np.int32


def test_a_flat_folder_is_a_list_without_labels(tmp_path: Path) -> None:
    found = open_source(str(_files(tmp_path, "10.png", "9.PNG", ".x.png", "note.txt", ".git/1.png")))
    assert _samples(found) == [("10.png", -1), ("9.PNG", -1)]
    assert found.classes == ()


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    found = open_source(str(_files(tmp_path, "top.png", "a/1.png", "b/2.png", "b/3.heic", "c/LICENSE", "c/4.HEIC")))
    assert _samples(found) == [("a/1.png", 0), ("b/2.png", 1)]
    assert found.notes == (
        "1 image beside the class folders is left out, top.png: move it into a class folder",
        "3 files are not read as images: 2 .heic (pip install pillow-heif to read them), 1 without a suffix",
    )


def test_a_lone_top_folder_is_descended(tmp_path: Path) -> None:
    _files(tmp_path, "archive/test/cat/1.png", "archive/test/dog/2.png", "archive/test/readme.md", ".DS_Store")
    found = open_source(str(tmp_path))
    assert found.classes == ("cat", "dog")
    assert _samples(found) == [("cat/1.png", 0), ("dog/2.png", 1)]
    assert Path(found.root) == (tmp_path / "archive" / "test").resolve()


def test_a_lone_class_folder_is_a_class(tmp_path: Path) -> None:
    found = open_source(str(_files(tmp_path, "cat/1.png", "cat/2.png")))
    assert (found.classes, toy.class_labels(found)) == (("cat",), [0, 0])


def test_a_lone_folder_beside_images_is_a_class(tmp_path: Path) -> None:
    found = open_source(str(_files(tmp_path, "1.png", "a/b/2.png")))
    assert (found.classes, _samples(found)) == (("a",), [("a/b/2.png", 0)])


def test_symlinks_are_followed(tmp_path: Path) -> None:
    _files(tmp_path / "elsewhere", "cats/1.png", "cats/more/2.png", "3.png")
    root = _files(tmp_path / "data", "b/0.png")
    (root / "a").symlink_to(tmp_path / "elsewhere" / "cats")
    (root / "b" / "3.png").symlink_to(tmp_path / "elsewhere" / "3.png")
    (root / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")  # it is listed, and cannot be read later
    found = open_source(str(root))
    assert _samples(found) == [("a/1.png", 0), ("a/more/2.png", 0), ("b/0.png", 1), ("b/3.png", 1), ("b/gone.png", 1)]
    assert (found.classes, _samples(found)) == _as_tuple(_image_folder(root))
    with pytest.raises(FileNotFoundError):
        sources.read(found.root, "b/gone.png")


def _as_tuple(expected: tuple[list[str], Any]) -> tuple[tuple[str, ...], Any]:
    return tuple(expected[0]), expected[1]


def test_one_folder_linked_twice_is_two_classes(tmp_path: Path) -> None:
    root = _files(tmp_path, "a/1.png", "a/in/2.png")
    (root / "b").symlink_to("a")
    assert _samples(open_source(str(root))) == [("a/1.png", 0), ("a/in/2.png", 0), ("b/1.png", 1), ("b/in/2.png", 1)]


@pytest.mark.parametrize("target", [".", "..", "../..", "loop.png", "../b/back"])
def test_a_loop_of_symlinks_ends(tmp_path: Path, target: str) -> None:
    root = _files(tmp_path / "data", "a/1.png", "b/2.png")
    (root / "a" / "loop.png").symlink_to(target)
    (root / "b" / "back").symlink_to("../a")
    refs = open_source(str(root)).image.to_pylist()
    assert {"a/1.png", "b/2.png", "b/back/1.png"} <= set(refs)
    assert len(refs) < 10


def test_a_class_folder_that_links_to_the_top_is_empty(tmp_path: Path) -> None:
    root = _files(tmp_path, "a/1.png", "c/2.png")
    (root / "b").symlink_to(".")
    found = open_source(str(root))
    assert (found.classes, _samples(found)) == (("a", "b", "c"), [("a/1.png", 0), ("c/2.png", 2)])


def test_lone_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "again").symlink_to(".")
    with pytest.raises(InputError, match="no images in"):
        open_source(str(tmp_path / "data"))


def test_no_images_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", _files(tmp_path / "texts", "a/1.txt", "b/2.txt")):
        with pytest.raises(InputError, match=r"no images in .*: expected files .*that end in \.bmp \.gif ") as raised:
            open_source(str(folder))
        assert "\n" not in str(raised.value)


def test_a_missing_folder_and_a_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*missing, and no such file: expected a folder with a sub-folder"):
        open_source(str(tmp_path / "missing"))
    _files(tmp_path, "1.png")
    with pytest.raises(InputError, match=r"1\.png is not a source of images: expected a folder"):
        open_source(str(tmp_path / "1.png"))


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _files(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refused(path: Path) -> Any:  # what a folder without permission does to anyone but root
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match=r"cannot list .*b: Permission denied"):
        open_source(str(root))


@pytest.mark.parametrize("name", [b"/a/\xff.png", b"/\xff/"])  # a class folder without images too
def test_a_name_that_is_not_utf_8_is_one_line(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").touch()
    path = Path(os.fsdecode(os.fsencode(tmp_path) + name))
    try:
        path.mkdir() if name.endswith(b"/") else path.touch()
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(InputError, match=r"has a name that is not valid UTF-8, .*\\xff"):
        open_source(str(tmp_path))


def test_file_uris_are_read(tmp_path: Path) -> None:
    path = _files(tmp_path, "a b/ü.png") / "a b" / "ü.png"
    assert sources.read("/nowhere", path.as_uri()) == path.read_bytes()
    assert sources.read("/nowhere", str(path)) == path.read_bytes()


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    _files(tmp_path / "photos", "train/a/1.png", "train/b/2.png", "val/a/3.png")
    with pytest.raises(
        InputError,
        match=r"photos holds train, val, which .*: name one, for example --data .*photos/val$",
    ):
        open_source(str(tmp_path / "photos"))
    _files(tmp_path / "vehicles", "train/1.png", "test/2.png")
    assert open_source(str(tmp_path / "vehicles")).classes == ("test", "train")


def test_a_folder_whose_name_has_braces_is_that_folder(tmp_path: Path) -> None:
    _files(tmp_path / "x{1,2}", "a/1.png")
    assert len(open_source(str(tmp_path / "x{1,2}"))) == 1
