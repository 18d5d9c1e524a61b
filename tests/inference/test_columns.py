"""What stage one stores beside logits, and batches that do not fit into memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from predboard import infer, open_predictions
from predboard.errors import InputError
from predboard.images import decode
from predboard.storage.runs import read_values
from tests import toy
from tests.inference.nets import build_module, make_config, read_frame

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_a_flat_folder_has_no_labels_and_numbered_classes(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "made", classes=1)
    (tmp_path / "made" / "a").rename(tmp_path / "data")
    outcome = infer(make_config(tmp_path, net))
    frame = read_frame(tmp_path / "out")
    assert open_predictions(tmp_path / "out").run.classes == ("0", "1", "2")
    assert frame["label"].isna().all()
    assert frame["loss"].isna().all()
    assert frame["logits"].notna().all()
    count = outcome.steps[0]
    assert (count.rows, count.failed, count.unlabelled, count.accuracy) == (4, 0, 4, None)


def test_a_limit_keeps_the_rows_of_the_full_run(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=20)
    infer(make_config(tmp_path, net, out=tmp_path / "full"))
    outcome = infer(make_config(tmp_path, net, limit=17))
    assert outcome.manifest_rows == 17
    full = read_frame(tmp_path / "full").set_index("image")
    kept = read_frame(tmp_path / "out").set_index("image")
    assert kept["id"].tolist() == list(range(17))
    assert kept.index.tolist() == [ref for ref in full.index if ref in set(kept.index)]
    assert kept["label"].nunique() == 3
    pd.testing.assert_frame_equal(
        kept.drop(columns="id"), full.loc[kept.index].drop(columns="id"), rtol=1e-5, atol=1e-6
    )


def test_thumbnails_are_small_pictures_of_the_source(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", size=(40, 20))
    infer(make_config(tmp_path, net, resize=(8, 8), thumbnails=16))
    opened = open_predictions(tmp_path / "out")
    frame = opened.to_pandas()
    for row in frame.itertuples():
        with Image.open(tmp_path / "data" / str(row.image)) as picture:
            assert row.thumbnail == decode.encode_jpeg(picture.convert("RGB"), 16)
    assert read_values(opened.step, [3], "thumbnail") == {3: frame["thumbnail"][3]}


def test_embeddings_are_the_input_of_the_last_linear_layer(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "data" / "b" / "001.png").write_bytes(b"broken")
    infer(make_config(tmp_path, net, embeddings=True, batch_size=5, shard_size=7))
    frame = read_frame(tmp_path / "out")
    assert open_predictions(tmp_path / "out").run.embedding == 6 * 8 * 8
    assert frame["embedding"].isna().tolist() == frame["error"].notna().tolist() == [i == 5 for i in range(12)]
    head: Any = build_module(net).head
    for row in frame.dropna(subset="embedding").itertuples():
        vector = torch.from_numpy(np.asarray(row.embedding, np.float32))
        with torch.no_grad():
            np.testing.assert_allclose(head(vector).numpy(), np.asarray(row.logits), atol=3e-3)


def test_embeddings_beyond_float16_are_its_largest_numbers_not_infinity(tmp_path: Path, net: str) -> None:
    for name, level in (("a", 0), ("b", 128), ("c", 255)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "data" / name / "1.png")
    infer(make_config(tmp_path, net.replace(":Net", ":Loud"), embeddings=True))
    frame = read_frame(tmp_path / "out")
    assert frame["error"].isna().all()
    found = np.stack(frame["embedding"].to_list()).astype(np.float64)
    assert found[0].tolist() == [-65504.0] * 3 and found[2].tolist() == [65504.0] * 3
    assert found[1] == pytest.approx((128 / 255 - 0.5) * 1e6, rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "std", "channels"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3),
        ((0.0,), (1.0,), 3),
        ((0.5,), (0.25,), 1),
        ((0.5,), (0.3,), 13),
    ],
)
def test_pictures_are_normalised_as_torchvision_does_to_the_last_bit(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> None:
    from predboard.inference.forward import Normalizer

    pictures = np.random.default_rng(0).integers(0, 256, (5, 7, 11, channels), np.uint8)
    found = Normalizer(torch.device("cpu"), mean, std)(pictures)
    plain = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    expected = (plain - torch.tensor(mean).reshape(1, -1, 1, 1)) / torch.tensor(std).reshape(1, -1, 1, 1)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


# --- memory that is not enough, and batches ---


@pytest.mark.parametrize(("most", "rows"), [(1, 1), (3, 2), (5, 4), (7, 4), (8, 8)])
def test_a_batch_that_does_not_fit_into_memory_is_halved_and_reported_once(
    tmp_path: Path, net: str, most: int, rows: int
) -> None:
    toy.pictures(tmp_path / "data", each=7)
    infer(make_config(tmp_path, net, out=tmp_path / "plain", embeddings=True))
    said: list[str] = []
    narrow = make_config(
        tmp_path, net.replace(":Net", ":Narrow"), model_args={"most": most}, batch_size=16, embeddings=True
    )
    assert infer(narrow, said.append).complete
    assert [line for line in said if "not enough memory" in line] == [
        f"cpu has not enough memory for 16 pictures at a time: continuing with {rows} "
        f"(--batch-size {rows} starts with so many)"
    ]
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "plain"), rtol=1e-3, atol=1e-5)


def test_memory_too_small_for_one_picture_is_one_line(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    narrow = make_config(tmp_path, net.replace(":Net", ":Narrow"), model_args={"most": 0})
    with pytest.raises(InputError, match="cpu has not enough memory for one picture: use another --device, smaller"):
        infer(narrow)


@pytest.mark.parametrize(
    ("kind", "memory", "side", "rows"),
    [
        ("cuda", 80 * 2**30, 224, 256),  # 154 MB of 320
        ("cuda", 8 * 2**30, 224, 32),  # 19 MB of 32
        ("cpu", 24 * 2**30, 224, 64),
        ("cpu", 24 * 2**30, 2048, 2),  # 50 MB each of 101
        ("cpu", 1, 8, 1),
    ],
)
def test_batches_are_as_large_as_the_machine_allows(kind: str, memory: int, side: int, rows: int) -> None:
    from predboard.inference.forward import default_batch_size

    assert default_batch_size(torch.device(kind), np.zeros((side, side, 3), np.uint8), memory) == rows


def test_a_compiled_model_sees_batches_of_one_size_and_gives_the_same(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def compiled(module: "torch.nn.Module", dynamic: bool) -> Any:
        assert dynamic is False

        def call(x: "torch.Tensor") -> Any:
            shapes.append(tuple(x.shape))
            return module(x)

        return call

    toy.pictures(tmp_path / "data", each=7)
    infer(make_config(tmp_path, net, out=tmp_path / "plain", embeddings=True))
    monkeypatch.setattr(torch, "compile", compiled)
    infer(make_config(tmp_path, net, compile=True, batch_size=8, shard_size=13, embeddings=True))
    assert set(shapes) == {(8, 3, 8, 8)} and len(shapes) == 3  # 8 and 5 rows, 8 rows
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "plain"), rtol=1e-3, atol=1e-4)
    assert open_predictions(tmp_path / "out").step.parts[0].part.provenance["compile"] is True
