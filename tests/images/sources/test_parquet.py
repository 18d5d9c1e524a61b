"""Parquet with encoded images in it, as Hugging Face writes it and without its metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from predboard.images.manifest import SourceOptions
from predboard.images.sources import open_source
from tests import toy
from tests.images.sources.pictures import files, same_bytes


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    return hugging_face(folder / "shards", [(name, name[0], encoded) for name, encoded in pictures.items()])


def hugging_face(folder: Path, pictures: list[tuple[str, str, bytes]], parts: int = 2) -> Path:
    """Parquet files as the library `datasets` writes them: a struct of bytes and path, class names in the metadata."""
    folder.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    size = len(pictures) // parts
    for part in range(parts):
        here = pictures[part * size : (part + 1) * size]
        column = pa.array([{"bytes": b, "path": Path(ref).name} for ref, _, b in here])
        label = pa.array(["abc".index(name) for _, name, _ in here], pa.int64())
        table = pa.table({"image": column, "label": label, "split": ["test"] * len(here)}).replace_schema_metadata(
            metadata
        )
        pq.write_table(table, folder / f"test-{part:05d}.parquet", row_group_size=4)
    return folder


def test_parquet_with_the_images_inside(folder: Path, tmp_path: Path) -> None:
    pictures = files(folder)
    manifest = open_source(str(hugging_face(tmp_path / "hf", pictures)))
    assert manifest.image.to_pylist()[5:7] == ["test-00000.parquet#5", "test-00001.parquet#0"]
    assert manifest.classes == ("a", "b", "c") and toy.class_labels(manifest) == [0] * 4 + [1] * 4 + [2] * 4
    assert manifest.columns.column_names == ["split"]
    same_bytes(manifest, [encoded for *_, encoded in pictures])
    raw = pa.table({"preview": [b"x"] * 12, "jpg": [encoded for *_, encoded in pictures]})
    pq.write_table(raw, tmp_path / "raw.parquet")
    other = open_source(str(tmp_path / "raw.parquet"), SourceOptions(image_column="jpg"))
    assert other.image.to_pylist()[0] == "raw.parquet#0:jpg" and set(toy.class_labels(other)) == {-1}
    same_bytes(other, [encoded for *_, encoded in pictures])


def test_bytes_that_are_text_are_no_pictures(folder: Path, tmp_path: Path) -> None:
    content = [file.read_bytes() for file in sorted(folder.rglob("*.png"))[:3]]
    for type_ in (pa.binary(), pa.large_binary(), pa.binary_view()):
        note = pa.array([b"one", b"two", None], pa.large_binary())
        label = pa.array([b"a", b"b", b"a"])
        table = {"note": note, "label": label, "picture": pa.array(content, type_)}
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        manifest = open_source(str(tmp_path / "a.parquet"))
        assert manifest.image.to_pylist() == [f"a.parquet#{i}:picture" for i in range(3)]
        assert (manifest.classes, toy.class_labels(manifest)) == (("a", "b"), [0, 1, 0])
        same_bytes(manifest, content)


def test_text_in_bytes_is_no_picture_where_the_first_rows_lack_it(tmp_path: Path) -> None:
    note = pa.array([None, None, b"blurred"], pa.binary())
    table = {"image": ["a.png", "b.png", "c.png"], "note": note, "label": ["a", "b", "a"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert open_source(str(tmp_path / "a.parquet")).image.to_pylist() == ["a.png", "b.png", "c.png"]
