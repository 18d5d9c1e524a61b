"""Lists, Parquet, archives and IDX files: the same manifest and the same bytes as the files themselves."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images import decode, sources
from predboard.images.sources import SourceOptions, open_source, read
from predboard.inference.infer import infer
from predboard.predictions.schema import hash_refs
from predboard.storage.runs import open_predictions

from tests import toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy.pictures(tmp_path / "data", classes=3, each=4)


def files(folder: Path) -> list[tuple[str, str, bytes]]:
    """(ref, class, bytes) of every picture, in order."""
    paths = sorted(folder.glob("*/*.png"))
    return [(p.relative_to(folder).as_posix(), p.parent.name, p.read_bytes()) for p in paths]


def same_bytes(manifest: sources.Manifest, expected: list[bytes]) -> None:
    assert [read(manifest.root, ref) for ref in manifest.image.to_pylist()] == expected


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
    assert manifest.classes == ("a", "b", "c") and manifest.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
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
    assert asked.classes == ("b", "a") and asked.label.tolist() == [0, 1, -1, -1, 0]
    assert asked.root == str(folder.resolve())
    numbered = write_list(
        tmp_path / "i.csv", [{"image": r, "y": i} for r, i in zip(refs, [2, 0, -1, 7, 1], strict=True)]
    )
    found = open_source(str(numbered), SourceOptions(image_root=folder))
    assert found.classes == () and found.label.tolist() == [2, 0, -1, 7, 1]
    assert found.within(3).label.tolist() == [2, 0, -1, -1, 1]


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
    assert manifest.classes == ("a", "b", "c") and manifest.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert manifest.columns.column_names == ["split"]
    same_bytes(manifest, [encoded for *_, encoded in pictures])
    raw = pa.table({"preview": [b"x"] * 12, "jpg": [encoded for *_, encoded in pictures]})
    pq.write_table(raw, tmp_path / "raw.parquet")
    other = open_source(str(tmp_path / "raw.parquet"), SourceOptions(image_column="jpg"))
    assert other.image.to_pylist()[0] == "raw.parquet#0:jpg" and set(other.label.tolist()) == {-1}
    same_bytes(other, [encoded for *_, encoded in pictures])


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
    assert manifest.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and manifest.classes == ()
    assert manifest.columns.to_pylist() == [{"site": f"s{i}"} for i in range(12)]
    same_bytes(manifest, [encoded for *_, encoded in pictures])
    with pytest.raises(InputError, match=r"no folder .*s-002\.tar"):
        open_source(str(tmp_path / "s-{000..002}.tar"))


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
    assert manifest.classes == ("a", "b", "c") and manifest.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    same_bytes(manifest, [encoded for *_, encoded in pictures])


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
    end = ".gz" if packed else ""
    for name, magic, data in (("images-idx3", 3, pixels), ("labels-idx1", 1, np.array([1, 0, 2, 1, 0], np.uint8))):
        encoded = bytes([0, 0, 8, magic]) + np.array(data.shape, ">u4").tobytes() + data.tobytes()
        (tmp_path / f"t-{name}-ubyte{end}").write_bytes(gzip.compress(encoded) if packed else encoded)
    manifest = open_source(str(tmp_path / f"t-images-idx3-ubyte{end}"))
    assert manifest.label.tolist() == [1, 0, 2, 1, 0]
    for ref, expected in zip(manifest.image.to_pylist(), pixels, strict=True):
        picture = decode.decode_image(read(manifest.root, ref), "gray")
        np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize(
    "whole", [b"\0\0\x08\x03\0\0", gzip.compress(bytes(99), mtime=0)[:-9], b"\x1f\x8b\x08" + b"\xff" * 40]
)
def test_a_cut_or_damaged_idx_file_is_one_line(tmp_path: Path, whole: bytes) -> None:
    name = "x-images-idx3-ubyte" + ".gz" * whole.startswith(b"\x1f\x8b")
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(InputError, match=f"cannot read .*{name}"):
        open_source(str(tmp_path / name))


def tar(file: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(file)


def test_members_of_a_tar_that_lack_or_precede_others_keep_their_labels(tmp_path: Path) -> None:
    lacking = {"0.png": b"", "1.png": b"", "1.cls": b"1", "2.png": b"", "2.cls": b"0"}
    assert open_source(tar(tmp_path / "a.tar", lacking)).label.tolist() == [-1, 1, 0]
    later = {"0.png": b"", "0.json": b'{"a": 1}', "1.png": b"", "1.json": b'{"a": 2, "label": 3}'}
    assert open_source(tar(tmp_path / "b.tar", later)).label.tolist() == [-1, 3]
    unsorted = {"0.png": b"", "1.png": b"", "._0.png": b"of macOS", "1.cls": b"0", "0.cls": b"1"}
    found = open_source(tar(tmp_path / "c.tar", unsorted))
    assert (found.image.to_pylist(), found.label.tolist()) == (["c.tar#0.png", "c.tar#1.png"], [1, 0])
    with pytest.raises(InputError, match=r"d\.tar#0\.json is no JSON"):
        open_source(tar(tmp_path / "d.tar", {"0.png": b"", "0.json": b'{"a":'}))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,label,label\n0.png,a,b\n", "two columns of the name 'label'"),
        ("path,label,x,x\n0.png,a,1,2\n", "two columns of the name 'x'"),
        ("path,label\n", "has no rows"),
        ("path,label\n0.png,1.5\n", r"has label 1\.5 in 'label'"),
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
        pa.array([1, 2**32 + 1, 0], pa.int64()),  # as int32 that would be 1
        pa.array([1.0, float("nan"), 0.0]),  # of pandas, where one is missing
    ],
)
def test_indices_of_any_type_are_labels(tmp_path: Path, label: pa.Array) -> None:
    pq.write_table(pa.table({"path": ["0.png", "1.png", "2.png"], "label": label}), tmp_path / "list.parquet")
    assert open_source(str(tmp_path / "list.parquet")).label.tolist() == [1, -1, 0]


def test_columns_with_names_of_ours_get_others(folder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": ref, "label": name, "width": 1, "manifest_width": "a", "step": "b"} for ref, name, _ in files(folder)
    ]
    model = toy.model_file(tmp_path, classes=3)
    infer(InferConfig(str(write_list(folder / "list.csv", rows)), str(model), out=tmp_path / "out"))
    found = pq.read_table(tmp_path / "out").to_pylist()[0]  # with the folders' names as a column `step`
    assert (found["width"], found["manifest_manifest_width"], found["manifest_width"]) == (8, 1, "a")
    assert (found["step"], found["manifest_step"]) == (0, "b")


@pytest.mark.parametrize("name", ["list.csv", "x.zip", "x.tar", "x.parquet", "x-images-idx3-ubyte.gz", "x.pdf"])
def test_a_file_that_is_not_what_its_name_says_is_one_line(tmp_path: Path, name: str) -> None:
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
    assert sources.read_classes(tmp_path / "c.txt") == ("ålesund", "bergen")
    assert sources.read_classes(tmp_path / "c.json") == ("x", "y")
    (tmp_path / "bom.txt").write_text("a\nb\n", "utf-8-sig")
    assert sources.read_classes(tmp_path / "bom.txt") == ("a", "b")
    for name, content in (("map.json", '{"b": 1, "a": 0}'), ("one.json", "5"), ("deep.json", '[["n1", "cat"]]')):
        (tmp_path / name).write_text(content)
    wrong = {"map.json": "no list of names", "one.json": "no list of names", "deep.json": "no list of names"}
    for name, message in {**wrong, "twice.txt": "names a class twice: a", "none.txt": "cannot read"}.items():
        with pytest.raises(InputError, match=message):
            sources.read_classes(tmp_path / name)


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


def test_mnist_from_its_idx_files(tmp_path: Path) -> None:
    if not toy.SHARED.exists():
        pytest.skip(f"no {toy.SHARED}: real models and images are not part of the repository")
    folder = toy.SHARED / "mnist_t10k"
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        sizes = (1, 32, 64, 128)\n"
        "        layers = []\n"
        "        for i, o in zip(sizes, sizes[1:]):\n"
        "            layers += [nn.Conv2d(i, o, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]\n"
        "        self.conv_layers = nn.Sequential(*layers)\n"
        "        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))\n\n"
        "    def forward(self, x):\n"
        "        return self.fc_layers(self.conv_layers(x).flatten(1))\n"
    )
    config = InferConfig(
        data=str(folder / "t10k-images-idx3-ubyte.gz"),
        model=f"{tmp_path / 'net.py'}:Net",
        checkpoint=(folder / "digit_recognizer_py_0.1.0.pth",),
        channels="gray",
        mean=(0.1307,),
        std=(0.3081,),
        out=tmp_path / "mnist",
    )
    assert infer(config).steps[0].accuracy == 0.9906
    logits = np.stack(open_predictions(tmp_path / "mnist").to_pandas()["logits"])
    assert np.abs(logits - np.load(folder / "digit_recognizer_t10k_logits.npy")).max() < 1e-4


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
