"""Rules that every kind of source keeps. Kinds are found by listing their folder; each one brings its own example."""

import importlib
import io
import posixpath
import random
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from predboard.errors import InputError
from predboard.images import sources
from predboard.images.decode import decode_image
from predboard.images.manifest import SourceOptions
from predboard.images.sources import Container, open_source
from tests import fake_storage, toy

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 7), dtype=np.uint8)
"""[rows, height, width] of the pictures that each example stores: four of each of the classes a, b and c, in order."""


@pytest.fixture(params=sources.names())
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(kind: str, tmp_path: Path) -> str:
    """An example of the kind, which `write_example(folder, pictures)` in the kind's own test file writes."""
    return write_example(kind, tmp_path / "data", range(12))


def write_example(kind: str, folder: Path, rows: Sequence[int]) -> str:
    """Write the pictures of these rows. -> what --data names."""
    tests = importlib.import_module(f"tests.images.sources.test_{kind}")
    folder.mkdir()
    pictures = {f"{'abc'[i // 4]}/{i:03d}.png": png(row) for i, row in enumerate(rows)}
    return str(tests.write_example(folder, pictures))


def png(row: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(file, "PNG")
    return file.getvalue()


def test_each_row_is_its_picture_with_its_label(data: str) -> None:
    manifest = open_source(data)
    assert toy.class_labels(manifest) == [0] * 4 + [1] * 4 + [2] * 4
    assert manifest.classes in ((), ("a", "b", "c"))
    assert len(set(manifest.key.tolist())) == 12
    for ref, expected in zip(manifest.image.to_pylist(), PIXELS, strict=True):
        np.testing.assert_array_equal(np.asarray(decode_image(sources.read(manifest.root, ref), "gray")), expected)


def test_pictures_that_are_written_again_are_read_again(data: str, kind: str, tmp_path: Path) -> None:
    manifest = open_source(data)
    before = [sources.read(manifest.root, ref) for ref in manifest.image.to_pylist()]
    stamps = [sources.stamp_of(manifest.root, ref) for ref in manifest.image.to_pylist()]
    shutil.rmtree(tmp_path / "data")
    manifest = open_source(write_example(kind, tmp_path / "data", range(12)[::-1]))
    assert [sources.read(manifest.root, ref) for ref in manifest.image.to_pylist()] == before[::-1]
    again = [sources.stamp_of(manifest.root, ref) for ref in manifest.image.to_pylist()]
    assert all(old and new and old != new for old, new in zip(stamps, again, strict=True))


def test_a_program_reads_again_what_was_replaced_in_storage(kind: str, tmp_path: Path) -> None:
    contents = []
    for rows in (range(12), range(12)[::-1]):
        local = write_example(kind, tmp_path / f"{rows[0]}", rows)
        place = fake_storage.copied(fake_storage.empty(), tmp_path / f"{rows[0]}", "data")
        manifest = open_source(local.replace(str(tmp_path / f"{rows[0]}"), str(place)))
        contents.append([sources.read(manifest.root, ref) for ref in manifest.image.to_pylist()])
    assert contents[0] == contents[1][::-1]


def test_class_names_of_the_user_name_the_labels(data: str) -> None:
    manifest = open_source(data, SourceOptions(classes=("a", "b", "c", "d")))
    assert manifest.classes == ("a", "b", "c", "d")
    assert toy.class_labels(manifest) == [0] * 4 + [1] * 4 + [2] * 4


def test_refs_are_canonical(data: str) -> None:
    for ref in open_source(data).image.to_pylist():
        file, _, member = ref.rpartition("#")
        for name in filter(None, (file, member)):
            assert name == posixpath.normpath(name.replace("\\", "/"))
            assert not name.startswith(("/", ".."))


def test_threads_read_the_same_bytes_as_one_thread(data: str) -> None:
    manifest = open_source(data)
    refs = manifest.image.to_pylist() * 10
    random.Random(0).shuffle(refs)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda ref: sources.read(manifest.root, ref), refs))
    assert together == [sources.read(manifest.root, ref) for ref in refs]


def test_an_image_that_is_missing_is_a_file_not_found(kind: str, data: str) -> None:
    manifest = open_source(data)
    file = str(manifest.image[0].as_py()).rpartition("#")[0]
    missing = [f"{file}#none.png", f"{file}#12", f"{file}#-1", f"{file}#"] if file else ["a/none.png", "none/000.png"]
    assert bool(file) <= isinstance(sources.load(kind), Container)
    for ref in missing:
        with pytest.raises(FileNotFoundError):
            sources.read(manifest.root, ref)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00nothing of the kind", b"\x1f\x8b\x08" + b"\xff" * 40, b"\0\0\x08", b"null\n"]
)
def test_a_file_that_is_not_what_its_name_says_is_one_line(kind: str, content: bytes, tmp_path: Path) -> None:
    for suffix in sources.load(kind).SUFFIXES:
        file = tmp_path / f"images-{suffix.lstrip('.')}" if "ubyte" in suffix else tmp_path / f"x{suffix}"
        file.write_bytes(content)
        with pytest.raises(InputError, match=file.name.replace(".", r"\.")) as raised:
            open_source(str(file))
        assert "\n" not in str(raised.value)


def test_no_two_kinds_read_files_of_the_same_name() -> None:
    suffixes = [suffix for kind in sources.load_all() for suffix in kind.SUFFIXES]
    assert len(set(suffixes)) == len(suffixes)
    assert not [(a, b) for a in suffixes for b in suffixes if a != b and a.endswith(b)]


def test_each_kind_has_its_line_in_the_docs(kind: str) -> None:
    docs = (toy.ROOT / "docs/data.md").read_text("utf-8")
    for suffix in sources.load(kind).SUFFIXES or ("a folder",):
        assert re.search(rf"\| .*{re.escape(suffix.removesuffix('.gz'))}", docs), suffix
