"""Lists as text files: a path on each line, and maybe a label after it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from predboard.errors import InputError
from predboard.images.manifest import SourceOptions
from predboard.images.sources import open_source
from tests import toy


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    for name, encoded in pictures.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded)
    (folder / "val.txt").write_text("".join(f"{name} {'abc'.index(name[0])}\n" for name in pictures))
    return folder / "val.txt"


def test_paths_may_have_spaces_and_labels_may_be_names_or_missing(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a b/1.PNG sea lake\n\n./2.jpg\tforest\n3.png.jpg,forest\n", "utf-8-sig")
    found = open_source(str(tmp_path / "l.txt"))
    assert found.image.to_pylist() == ["a b/1.PNG", "2.jpg", "3.png.jpg"]
    assert (found.classes, toy.class_labels(found)) == (("forest", "sea lake"), [1, 0, 0])
    (tmp_path / "l.txt").write_text("1.png\n2.png\n")
    assert toy.class_labels(open_source(str(tmp_path / "l.txt"))) == [-1, -1]
    (tmp_path / "l.txt").write_text("1.png 1\n2.png 0\n")
    found = open_source(str(tmp_path / "l.txt"), SourceOptions(classes=("x", "y")))
    assert (found.classes, toy.class_labels(found)) == (("x", "y"), [1, 0])


def test_a_line_without_an_image_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("1.png 1\nreadme\n")
    with pytest.raises(InputError, match=r"l\.txt has 'readme' in line 2; expected the path of an image"):
        open_source(str(tmp_path / "l.txt"))
