"""What `visualize` writes for the tab Predictions: thumbnails and a map, in files that name each image by its key."""

import dataclasses
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from predboard import InputError, VisualizeConfig, visualize
from predboard.predictions.schema import Run
from predboard.storage.parts import read_batches
from predboard.storage.runs import open_run
from predboard.tab.columns import RowsFile
from predboard.tab.log_runs import LogRuns
from predboard.tab.thumbnails import Pictures
from predboard.visualization import image_map
from predboard.visualization.log_folder import read_record
from predboard.visualization.source_images import ReadImage
from predboard.visualization.thumbnails import is_thumbnail
from tests import toy

pytestmark = pytest.mark.slow

ROWS = 40
NAMES = {"thumbnails.arrow", "map.arrow"}


def table_of(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with a failed row, whose pictures are there but for the last."""
    folder = tmp_path_factory.mktemp("run")
    root = folder / "photos"
    root.mkdir()
    random = np.random.default_rng(0)
    for i in range(ROWS - 1):
        size = (40, 30) if i % 2 else (400, 300)
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(root / f"{i:06d}.png")
    run = Run(classes=("a", "b", "c"), model="net.py:build", root=str(root))
    for step in (1, 2):
        logits, label = toy.table(run, ROWS, seed=step)
        toy.write_run(folder / "net", logits, label, dataclasses.replace(run, step=step), 16, failed=frozenset({3}))
    return folder / "net"


def test_both_files_are_written_recorded_and_the_same_again(predictions: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        visualize(VisualizeConfig((predictions,), tmp_path / name))
    one, two = tmp_path / "one" / "net", tmp_path / "two" / "net"
    assert set(read_record(one).files) >= NAMES
    for name in (*NAMES, "rows.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_thumbnail_is_a_small_jpeg_of_the_images_key_or_its_own_small_file(predictions: Path, tmp_path: Path) -> None:
    visualize(VisualizeConfig((predictions,), tmp_path))
    thumbnails = table_of(tmp_path / "net" / "thumbnails.arrow")
    assert thumbnails.schema.metadata == {b"side": b"128", b"step": b"2"}
    rows = pq.read_table(tmp_path / "net" / "rows.parquet", filters=[("step", "=", 2)])
    assert thumbnails["key"].to_pylist() == rows["key"].to_pylist()
    encoded = thumbnails["thumbnail"].to_pylist()
    assert encoded[-1] is None
    sizes = []
    for content in encoded[:2]:
        with Image.open(io.BytesIO(content)) as picture:
            sizes.append((picture.format, picture.size))
    assert sizes == [("JPEG", (128, 96)), ("PNG", (40, 30))]
    assert encoded[1] == (predictions.parent / "photos" / "000001.png").read_bytes()
    (run,) = LogRuns(tmp_path).all().values()
    assert [Pictures().encode(run, run.step(2), row, 128) for row in (0, 1)] == encoded[:2]


def _damaged_png() -> bytes:
    """A PNG whose pixels end halfway, with checksums that are right: a browser shows the half."""
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(encoded, "PNG")
    start, pixels = encoded.getvalue()[:33], encoded.getvalue()[41:-16]  # the header; what the chunk IDAT holds
    half = b"IDAT" + pixels[: len(pixels) // 2]
    data = struct.pack(">I", len(half) - 4) + half + struct.pack(">I", zlib.crc32(half))
    return start + data + encoded.getvalue()[-12:]


def test_an_image_that_cannot_be_decoded_has_no_thumbnail(tmp_path: Path) -> None:
    """Also row 2, which was intact in stage one and is a point of the Projector; row 5 failed there, and is none."""
    logits, label = toy.table(toy.RUN, 8)
    toy.write_run(
        tmp_path / "net", logits, label, dataclasses.replace(toy.RUN, root=str(tmp_path)), failed=frozenset({5})
    )
    for i in range(8):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / f"{i:06d}.png")
    damaged = _damaged_png()
    assert is_thumbnail(ReadImage(damaged, "ignore"))  # were it intact
    for i in (2, 5):
        (tmp_path / f"{i:06d}.png").write_bytes(damaged)
    visualize(VisualizeConfig((tmp_path / "net",), tmp_path / "logs"))
    thumbnails = table_of(tmp_path / "logs" / "net" / "thumbnails.arrow")["thumbnail"].to_pylist()
    assert [i for i, content in enumerate(thumbnails) if content is None] == [2, 5]
    assert thumbnails[4] == (tmp_path / "000004.png").read_bytes()


def test_the_map_is_that_of_scikit_learn(predictions: Path, tmp_path: Path) -> None:
    visualize(VisualizeConfig((predictions,), tmp_path))
    places = table_of(tmp_path / "net" / "map.arrow")
    assert places.schema.metadata == {b"source": b"PCA of the logits at step 2"}
    xy = np.stack([places["x"].to_numpy(), places["y"].to_numpy()], axis=1).astype(float)
    assert (xy[3] == image_map.NO_PLACE).all()
    scored = np.delete(np.arange(ROWS), 3)
    logits = np.concatenate([rows.scored.logits for p in open_run(predictions)[-1].parts for rows in read_batches(p)])
    expected = PCA(2).fit_transform((logits - logits.mean(axis=1, keepdims=True)).astype(float))
    for axis in (0, 1):
        assert abs(np.corrcoef(xy[scored, axis], expected[:, axis])[0, 1]) > 0.999


def test_axes_of_more_dimensions_than_vectors_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    vectors = (random.normal(size=(300, 40)) * np.geomspace(1, 0.05, 40)).astype(np.float32)
    centre, axes = image_map.principal_axes(vectors)
    np.testing.assert_allclose(centre, vectors.mean(axis=0), atol=1e-6)
    expected = PCA(2).fit(vectors.astype(float)).components_.T
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=0)), 1, atol=1e-4)
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()
    one = image_map.principal_axes(np.ones((5, 1), np.float32))[1]
    assert one.shape == (1, 2)
    assert image_map.principal_axes(np.zeros((0, 3), np.float32))[1].shape == (3, 2)


def test_flags_leave_both_out_or_take_columns_of_the_user(predictions: Path, tmp_path: Path) -> None:
    visualize(VisualizeConfig((predictions,), tmp_path / "none", thumbnails="never", map="never"))
    assert not NAMES & {file.name for file in (tmp_path / "none" / "net").iterdir()}
    visualize(VisualizeConfig((predictions,), tmp_path / "own", thumbnails="never", map="brightness,bytes"))
    places = table_of(tmp_path / "own" / "net" / "map.arrow")
    assert places.schema.metadata == {b"source": b"brightness and bytes"}
    assert places["x"].to_pylist()[:3] == [-32000, -22857, -13714]  # of 0/8, 1/8 and 2/8 in 0 to 7/8
    with pytest.raises(InputError, match="--map names 'umap_x', but the images have no such column of numbers"):
        visualize(VisualizeConfig((predictions,), tmp_path / "wrong", map="umap_x,umap_y"))
    with pytest.raises(InputError, match="expected auto, always, never, or the names of two columns"):
        VisualizeConfig((predictions,), map="x")


def test_no_thumbnails_are_looked_for_where_no_image_is(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    toy.write_run(tmp_path / "net", logits, label)
    visualize(VisualizeConfig((tmp_path / "net",), tmp_path / "logs"))
    names = {file.name for file in (tmp_path / "logs" / "net").iterdir()}
    assert names & NAMES == {"map.arrow"}


def test_the_footer_has_class_names_and_the_values_of_texts(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    toy.write_run(tmp_path / "net", logits, label)
    root = tmp_path / "photos"
    root.mkdir()
    visualize(VisualizeConfig((tmp_path / "net",), tmp_path / "logs", image_root=root))
    rows = RowsFile(tmp_path / "logs" / "net" / "rows.parquet")
    assert rows.info == {"classes": list(toy.RUN.classes), "columns": {}}
    (run,) = LogRuns(tmp_path / "logs").all().values()
    assert run.image_root == root
