"""Stage one on real files: its rows against a plain PyTorch loop, resuming, refusals, damage, memory."""

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from predboard import InferConfig, infer, open_predictions
from predboard.errors import InputError
from predboard.images import decode, sources
from predboard.inference.infer import InferResult
from predboard.predictions.schema import digest_records, encode_footer, hash64
from predboard.storage import shards
from predboard.storage.inspection import inspect
from predboard.storage.locks import lock_folder
from predboard.storage.parts import open_part
from predboard.storage.runs import list_part_paths, part_path, read_values

from tests import toy

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

_NET = """
import torch

class Net(torch.nn.Module):
    \"\"\"Sensitive to the place and the channel of every pixel.\"\"\"

    def __init__(self, channels=3, classes=3, side=8):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(6 * side * side, classes)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x).relu()).flatten(1)))


class Uneven(torch.nn.Module):
    \"\"\"Not a number for dark pictures.\"\"\"

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, (mean - 0.5).sqrt(), -mean], 1)


class Narrow(Net):
    \"\"\"Has memory for so many pictures at a time.\"\"\"

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"tried to allocate for {len(x)}")
        return super().forward(x)


class Loud(torch.nn.Module):
    \"\"\"Features that float16 cannot hold.\"\"\"

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)
        torch.nn.init.constant_(self.head.weight, 1e-6)

    def forward(self, x):
        return self.head((x.mean((2, 3)) - 0.5) * 1e6)


class Fails(torch.nn.Module):
    \"\"\"Raises at the given forward pass; the first one tries the model.\"\"\"

    def __init__(self, at, classes=3):
        super().__init__()
        self.at, self.classes, self.seen = at, classes, 0

    def forward(self, x):
        self.seen += 1
        if self.seen == self.at:
            raise MemoryError("enough")
        return x.mean((2, 3))[:, : self.classes]
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(_NET)
    return f"{tmp_path / 'net.py'}:Net"


def _build(net: str, **options: Any) -> "torch.nn.Module":
    """The model as a plain script would make it."""
    scope: dict[str, Any] = {}
    exec(Path(net.rpartition(":")[0]).read_text(), scope)
    torch.manual_seed(0)
    module: torch.nn.Module = scope["Net"](**options)
    return module


def _config(tmp_path: Path, net: str, **options: Any) -> InferConfig:
    return InferConfig(**{"data": str(tmp_path / "data"), "model": net, "out": tmp_path / "out", **options})


def _frame(out: Path, step: int | None = None) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out, step).to_pandas()
    return frame


def _logits(frame: pd.DataFrame) -> Any:
    return np.stack(frame["logits"].to_list())


def _checkpoints(folder: Path, net: str, epochs: tuple[int, ...] = (1, 2, 10)) -> tuple[Path, ...]:
    files = []
    for epoch in epochs:
        module = _build(net)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + epoch / 10)
        files.append(folder / f"toy_epoch{epoch:02d}.pt")
        torch.save({"state_dict": module.state_dict()}, files[-1])
    return tuple(files)


def _mtimes(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}


# --- what is computed ---


@pytest.fixture(params=[1, 2])
def torch_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 8)),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, (8, 8)),
        ({"mean": (0.5,), "std": (0.25,), "channels": "gray"}, (8, 8)),
        ({"resize": 9, "crop": 8, "mean": (0.1, 0.2, 0.3), "exact_resize": True}, (17, 12)),
        ({"resize": (8, 8), "interpolation": "bicubic"}, (11, 30)),
        ({"crop": 8}, (20, 5)),
    ],
)
@pytest.mark.usefixtures("torch_threads")
def test_logits_are_those_of_a_plain_loop(
    tmp_path: Path, net: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    toy.pictures(tmp_path / "data", each=5, size=size)
    channels = 1 if options.get("channels") == "gray" else 3
    infer(_config(tmp_path, net, model_args={"channels": channels}, batch_size=4, shard_size=7, **options))
    frame = _frame(tmp_path / "out")

    module = _build(net, channels=channels).eval()
    files = sorted((tmp_path / "data").glob("*/*.png"))
    assert frame["image"].tolist() == [f.relative_to(tmp_path / "data").as_posix() for f in files]
    assert frame["id"].tolist() == list(range(15))
    assert frame["label"].tolist() == [i // 5 for i in range(15)]
    for row, file in zip(frame.itertuples(), files, strict=True):
        picture: Image.Image = Image.open(file).convert("L" if channels == 1 else "RGB")
        if options.get("resize") == 9:
            picture = picture.resize((12, 9), Image.Resampling.BILINEAR)  # 17 × 12: 12.75 is cut off
        elif options.get("resize"):
            picture = picture.resize((8, 8), Image.Resampling.BICUBIC)
        array = np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels) / 255
        if options.get("crop") and options.get("resize"):
            array = array[0:8, 2:10]  # round(0.5) is 0
        elif options.get("crop"):
            array = np.pad(array[:, 6:14], ((1, 2), (0, 0), (0, 0)))
        array = (array - np.float32(options.get("mean", (0,)))) / np.float32(options.get("std", (1,)))
        with torch.no_grad():
            expected = module(torch.from_numpy(array.transpose(2, 0, 1)[None].copy()))[0].numpy()
        np.testing.assert_allclose(np.asarray(row.logits), expected, atol=1e-6, rtol=1e-5)
        assert row.predicted == expected.argmax()


def test_every_row_says_what_its_source_picture_is(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", size=(13, 9))
    outcome = infer(_config(tmp_path, net, resize=(8, 8)))
    frame = _frame(tmp_path / "out")
    assert frame["error"].isna().all()
    for row in frame.itertuples():
        encoded = (tmp_path / "data" / str(row.image)).read_bytes()
        luma = np.asarray(Image.open(tmp_path / "data" / str(row.image)).convert("L"), np.float64) / 255
        assert (row.key, row.digest, row.bytes) == (hash64(str(row.image).encode()), hash64(encoded), len(encoded))
        assert (row.width, row.height) == (13, 9)
        assert row.brightness == pytest.approx(luma.mean(), rel=1e-6)
        assert row.contrast == pytest.approx(luma.std(), rel=1e-6)
    assert outcome.complete
    assert (outcome.failed, outcome.written, outcome.manifest_rows) == (0, 12, 12)
    assert outcome.steps[0].accuracy == pytest.approx((frame["predicted"] == frame["label"]).mean())


def test_the_footer_says_how_the_numbers_came_about(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=4)
    (checkpoint,) = _checkpoints(tmp_path, net, (7,))
    infer(_config(tmp_path, net, checkpoint=(checkpoint,), mean=(0.5,), shard_size=5, model_args={"side": 8}))
    step = open_predictions(tmp_path / "out").step
    run = step.run
    assert run.classes == ("a", "b", "c")
    assert (run.model, run.step, run.shard_size, dict(run.model_args)) == ("net.py:Net", 7, 5, {"side": 8})
    assert run.transform["mean"] == [0.5]
    assert run.transform["size"] == [8, 8, 3]
    assert Path(run.root) == (tmp_path / "data").resolve()
    parts = [file.part for file in step.parts]
    assert [(p.start, p.stop, p.manifest_rows) for p in parts] == [(0, 5, 12), (5, 10, 12), (10, 12, 12)]
    assert all(p.provenance["checkpoint"] == "toy_epoch07.pt" for p in parts)
    assert all(1.6e9 < p.started <= p.finished for p in parts)
    assert sum(sum(p.seconds.values()) for p in parts) > 0
    assert all(set(p.seconds) == {"decode", "wait", "transfer", "forward", "write"} for p in parts)
    assert len({p.content_digest for p in parts}) == 3
    (facts,) = inspect(tmp_path / "out").facts["steps"]
    assert (facts["rows"], facts["missing_rows"], facts["checkpoint"]) == (12, 0, "toy_epoch07.pt")


def test_exif_orientation_is_applied_where_that_is_asked_for(tmp_path: Path, net: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "abc":
        (tmp_path / "data" / name).mkdir(parents=True)
        lying = Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (6, 10, 3), np.uint8))
        lying.save(tmp_path / "data" / name / "1.png", exif=exif)
        (tmp_path / "turned" / name).mkdir(parents=True)
        lying.rotate(-90, expand=True).save(tmp_path / "turned" / name / "1.png")
    infer(_config(tmp_path, net, resize=(8, 8), exif="apply"))
    infer(_config(tmp_path, net, resize=(8, 8), data=str(tmp_path / "turned"), out=tmp_path / "expected"))
    found, expected = _frame(tmp_path / "out"), _frame(tmp_path / "expected")
    assert set(found["width"]) == {6}
    of_the_file = ["digest", "bytes"]
    pd.testing.assert_frame_equal(found.drop(columns=of_the_file), expected.drop(columns=of_the_file))


@pytest.mark.parametrize(("batch_size", "workers", "shard_size"), [(1, 1, 4096), (5, 3, 4), (64, 0, 11), (3, 2, 1)])
def test_batches_threads_and_parts_do_not_change_rows(
    tmp_path: Path, net: str, batch_size: int, workers: int, shard_size: int
) -> None:
    toy.pictures(tmp_path / "data", each=7)
    infer(_config(tmp_path, net, out=tmp_path / "plain"))
    infer(_config(tmp_path, net, batch_size=batch_size, workers=workers, shard_size=shard_size))
    expected, found = _frame(tmp_path / "plain"), _frame(tmp_path / "out")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)
    assert len(_mtimes(tmp_path / "out")) == -(-21 // shard_size)


def test_a_part_of_several_row_groups(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", each=7)
    options: dict[str, Any] = {"embeddings": True, "thumbnails": 8, "shard_size": 13}
    infer(_config(tmp_path, net, out=tmp_path / "plain", **options))
    monkeypatch.setattr("predboard.storage.parts.ROW_GROUP_MAX_ROWS", 5)
    infer(_config(tmp_path, net, batch_size=4, **options))
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "plain"), rtol=1e-3, atol=1e-3)
    groups = []
    for path in list_part_paths(tmp_path / "out", 0):
        with pq.ParquetFile(path) as file:
            groups.append([file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)])
    assert groups == [[5, 5, 3], [5, 3]]


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    read = sources.read

    def counted(root: str, ref: str) -> bytes:
        reads.append(ref)
        return read(root, ref)

    monkeypatch.setattr(sources, "read", counted)
    return reads


def test_several_checkpoints_are_several_steps_and_each_picture_is_read_once(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data", each=6)
    files = _checkpoints(tmp_path, net)
    reads = _count_reads(monkeypatch)
    outcome = infer(_config(tmp_path, net, checkpoint=files[::-1], shard_size=7, batch_size=4, preflight=0))
    first = "a/000.png"
    assert sorted(reads) == sorted(
        [first, *_frame(tmp_path / "out")["image"]]
    )  # the first is also looked at for its size
    assert list(outcome.steps) == [1, 2, 10]
    assert outcome.written == 3 * 18
    assert open_predictions(tmp_path / "out").steps == (1, 2, 10)
    for number, file in zip((1, 2, 10), files, strict=True):
        alone = tmp_path / f"alone{number}"
        infer(_config(tmp_path, net, out=alone, checkpoint=(file,), step=(5,)))
        pd.testing.assert_frame_equal(_frame(tmp_path / "out", number), _frame(alone), rtol=1e-5, atol=1e-6)
        module = _build(net).eval()
        module.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
        pixels = np.stack(
            [np.asarray(Image.open(f), np.float32) / 255 for f in sorted((tmp_path / "data").glob("*/*"))]
        )
        with torch.no_grad():
            expected = module(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
        np.testing.assert_allclose(_logits(_frame(tmp_path / "out", number)), expected, atol=1e-6, rtol=1e-5)


def test_one_module_object_can_carry_several_checkpoints(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    files = _checkpoints(tmp_path, net)
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n\nmade = Net()\n")
    infer(_config(tmp_path, net, out=tmp_path / "expected", checkpoint=files))
    infer(_config(tmp_path, f"{tmp_path / 'net.py'}:made", checkpoint=files))
    for step in (1, 2, 10):
        found, expected = _frame(tmp_path / "out", step), _frame(tmp_path / "expected", step)
        pd.testing.assert_frame_equal(found, expected)


def test_checkpoints_that_do_not_fit_together_go_one_after_the_other(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    files = _checkpoints(tmp_path, net)
    infer(_config(tmp_path, net, out=tmp_path / "together", checkpoint=files, batch_size=64))
    monkeypatch.setattr("os.sysconf", lambda _: 1)  # a machine with one byte of memory
    reads = _count_reads(monkeypatch)
    infer(_config(tmp_path, net, checkpoint=files, batch_size=64, preflight=0))
    assert len(reads) == 1 + 3 * 12
    for step in (1, 2, 10):
        pd.testing.assert_frame_equal(_frame(tmp_path / "out", step), _frame(tmp_path / "together", step))


def test_a_checkpoint_that_changes_meanwhile_is_refused(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    files = _checkpoints(tmp_path, net, (1, 2))
    monkeypatch.setattr("os.sysconf", lambda _: 1)

    def say(line: str) -> None:
        if line.startswith("model "):
            files[1].write_bytes(files[0].read_bytes())

    with pytest.raises(InputError, match=r"toy_epoch02\.pt changed while it was in use: run the same command again"):
        infer(_config(tmp_path, net, checkpoint=files, preflight=0), say)
    assert open_predictions(tmp_path / "out").steps == (1,)


def test_half_precision_is_recorded_and_close(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    infer(_config(tmp_path, net, out=tmp_path / "full"))
    infer(_config(tmp_path, net, precision="bf16"))
    assert open_predictions(tmp_path / "out").run.precision == "bf16"
    difference = np.abs(_logits(_frame(tmp_path / "out")) - _logits(_frame(tmp_path / "full")))
    assert 0 < difference.max() < 0.03


# --- what else can be stored ---


def test_a_flat_folder_has_no_labels_and_numbered_classes(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "made", classes=1)
    (tmp_path / "made" / "a").rename(tmp_path / "data")
    outcome = infer(_config(tmp_path, net))
    frame = _frame(tmp_path / "out")
    assert open_predictions(tmp_path / "out").run.classes == ("0", "1", "2")
    assert frame["label"].isna().all()
    assert frame["loss"].isna().all()
    assert frame["logits"].notna().all()
    count = outcome.steps[0]
    assert (count.rows, count.failed, count.unlabelled, count.accuracy) == (4, 0, 4, None)


def test_a_limit_keeps_the_rows_of_the_full_run(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=20)
    infer(_config(tmp_path, net, out=tmp_path / "full"))
    outcome = infer(_config(tmp_path, net, limit=17))
    assert outcome.manifest_rows == 17
    full = _frame(tmp_path / "full").set_index("image")
    kept = _frame(tmp_path / "out").set_index("image")
    assert kept["id"].tolist() == list(range(17))
    assert kept.index.tolist() == [ref for ref in full.index if ref in set(kept.index)]
    assert kept["label"].nunique() == 3
    pd.testing.assert_frame_equal(
        kept.drop(columns="id"), full.loc[kept.index].drop(columns="id"), rtol=1e-5, atol=1e-6
    )


def test_thumbnails_are_small_pictures_of_the_source(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", size=(40, 20))
    infer(_config(tmp_path, net, resize=(8, 8), thumbnails=16))
    opened = open_predictions(tmp_path / "out")
    frame = opened.to_pandas()
    for row in frame.itertuples():
        with Image.open(tmp_path / "data" / str(row.image)) as picture:
            assert row.thumbnail == decode.encode_jpeg(picture.convert("RGB"), 16)
    assert read_values(opened.step, [3], "thumbnail") == {3: frame["thumbnail"][3]}


def test_embeddings_are_the_input_of_the_last_linear_layer(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "data" / "b" / "001.png").write_bytes(b"broken")
    infer(_config(tmp_path, net, embeddings=True, batch_size=5, shard_size=7))
    frame = _frame(tmp_path / "out")
    assert open_predictions(tmp_path / "out").run.embedding == 6 * 8 * 8
    assert frame["embedding"].isna().tolist() == frame["error"].notna().tolist() == [i == 5 for i in range(12)]
    head: Any = _build(net).head
    for row in frame.dropna(subset="embedding").itertuples():
        vector = torch.from_numpy(np.asarray(row.embedding, np.float32))
        with torch.no_grad():
            np.testing.assert_allclose(head(vector).numpy(), np.asarray(row.logits), atol=3e-3)


def test_embeddings_beyond_float16_are_its_largest_numbers_not_infinity(tmp_path: Path, net: str) -> None:
    for name, level in (("a", 0), ("b", 128), ("c", 255)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "data" / name / "1.png")
    infer(_config(tmp_path, net.replace(":Net", ":Loud"), embeddings=True))
    frame = _frame(tmp_path / "out")
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
def test_where_memory_is_not_enough_the_batch_is_halved_and_said_once(
    tmp_path: Path, net: str, most: int, rows: int
) -> None:
    toy.pictures(tmp_path / "data", each=7)
    infer(_config(tmp_path, net, out=tmp_path / "plain", embeddings=True))
    said: list[str] = []
    narrow = _config(
        tmp_path, net.replace(":Net", ":Narrow"), model_args={"most": most}, batch_size=16, embeddings=True
    )
    assert infer(narrow, said.append).complete
    assert [line for line in said if "not enough memory" in line] == [
        f"cpu has not enough memory for 16 pictures at a time: continuing with {rows} "
        f"(--batch-size {rows} starts with so many)"
    ]
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "plain"), rtol=1e-3, atol=1e-5)


def test_where_memory_is_enough_for_none_it_is_one_line(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    narrow = _config(tmp_path, net.replace(":Net", ":Narrow"), model_args={"most": 0})
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
    infer(_config(tmp_path, net, out=tmp_path / "plain", embeddings=True))
    monkeypatch.setattr(torch, "compile", compiled)
    infer(_config(tmp_path, net, compile=True, batch_size=8, shard_size=13, embeddings=True))
    assert set(shapes) == {(8, 3, 8, 8)} and len(shapes) == 3  # 8 and 5 rows, 8 rows
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "plain"), rtol=1e-3, atol=1e-4)
    assert open_predictions(tmp_path / "out").step.parts[0].part.provenance["compile"] is True


# --- pictures that cannot be read ---


def test_embeddings_of_a_layer_are_the_mean_of_its_output_over_space(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=2)
    config = _config(tmp_path, net, embedding_layer="conv", batch_size=4)
    infer(config)
    frame = _frame(tmp_path / "out")
    x = np.stack([np.asarray(Image.open(tmp_path / "data" / ref), np.float32) / 255 for ref in frame["image"]])
    module = _build(net).eval()
    with torch.no_grad():
        expected = module.conv(torch.from_numpy(x).permute(0, 3, 1, 2)).mean((2, 3))  # type: ignore[operator]  # a layer
    np.testing.assert_allclose(np.stack(frame["embedding"].to_list()), expected, atol=1e-3)  # float16
    assert open_predictions(tmp_path / "out").run.embedding_layer == "conv"
    with pytest.raises(InputError, match=r"another embedding_layer \(conv, now norm\)"):
        infer(dataclasses.replace(config, embedding_layer="norm"))


def test_each_unreadable_picture_is_one_row_and_all_others_are_right(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=10)
    infer(_config(tmp_path, net, out=tmp_path / "whole"))
    photograph = tmp_path / "photograph.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(photograph)
    (data / "a" / "001.png").write_bytes(b"this is no picture")
    (data / "a" / "002.png").write_bytes((data / "a" / "003.png").read_bytes()[:-60])
    (data / "a" / "004.png").write_bytes(b"")
    (data / "b" / "000.png").unlink()
    (data / "b" / "000.png").symlink_to("gone.png")
    Image.new("RGB", (9, 8)).save(data / "b" / "009.png")
    (data / "c" / "005.png").write_bytes(photograph.read_bytes()[: photograph.stat().st_size // 2])
    Image.new("F", (8, 8)).save(data / "c" / "007.png", "TIFF")
    expected = {
        "a/001.png": "UnidentifiedImageError: not an image that Pillow can read",
        "a/002.png": "OSError: ",
        "a/004.png": "UnidentifiedImageError: not an image that Pillow can read",
        "b/000.png": "FileNotFoundError: No such file or directory",
        "b/009.png": "ValueError: image is 8×9 (height×width), the first is 8×8: use --resize HxW",
        "c/005.png": "OSError: image file is truncated",
        "c/007.png": "ValueError: images with 32-bit values (mode F)",
    }

    outcome = infer(_config(tmp_path, net, batch_size=4, shard_size=8))
    found, whole = _frame(tmp_path / "out").set_index("image"), _frame(tmp_path / "whole").set_index("image")
    assert found.index.tolist() == whole.index.tolist()
    failed = found[found["error"].notna()]
    assert list(failed.index) == list(expected)
    for ref, reason in expected.items():
        assert failed["error"][ref].startswith(reason)
        assert str(tmp_path) not in failed["error"][ref]
    assert failed[["logits", "predicted", "confidence", "loss", "margin", "entropy"]].isna().all().all()
    assert failed["label"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert failed["bytes"].isna().tolist() == [ref == "b/000.png" for ref in expected]
    assert failed["width"].dropna().to_dict() == {"b/009.png": 9}
    good = found[found["error"].isna()]
    pd.testing.assert_frame_equal(good, whole.loc[good.index], rtol=1e-5, atol=1e-6, check_dtype=False)
    count = outcome.steps[0]
    assert (outcome.complete, outcome.failed) == (True, 7)
    assert (count.rows, count.failed, count.unlabelled) == (30, 7, 0)
    assert count.accuracy == pytest.approx((good["predicted"] == good["label"]).mean())


def test_the_first_readable_picture_gives_the_size(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data")
    (data / "a" / "000.png").write_bytes(b"")
    infer(_config(tmp_path, net))
    assert _frame(tmp_path / "out")["error"].notna().tolist() == [i == 0 for i in range(12)]


def test_without_any_readable_picture_the_first_reason_is_named(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=1)
    for file in data.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"none of the 3 images can be read; the first error is a/000\.png: UnidentifiedImage"
    ):
        infer(_config(tmp_path, net))
    assert not (tmp_path / "out").exists()


def test_logits_that_are_not_finite_are_errors(tmp_path: Path, net: str) -> None:
    for name, level in (("a", 200), ("b", 10), ("c", 255)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "data" / name / "1.png")
    infer(_config(tmp_path, net.replace(":Net", ":Uneven"), batch_size=2))
    frame = _frame(tmp_path / "out")
    assert frame["error"].isna().tolist() == [True, False, True]
    assert frame["error"][1] == "the model gave logits that are not finite"
    assert frame["brightness"][1] == pytest.approx(10 / 255)


@pytest.mark.parametrize("scores", ["probabilities", "log_probabilities"])
def test_a_model_that_ends_in_a_softmax_gives_the_same_columns(tmp_path: Path, net: str, scores: str) -> None:
    toy.pictures(tmp_path / "data", each=4)
    (tmp_path / "data" / "a" / "000.png").write_bytes(b"no picture")  # failed rows count as nothing
    file = Path(net.rpartition(":")[0])
    file.write_text(
        file.read_text() + "\n\ndef ended(kind):\n    end = torch.nn.Softmax(1) if kind == 'probabilities' else "
        "torch.nn.LogSoftmax(1)\n    return torch.nn.Sequential(Net(), end)\n"
    )
    infer(_config(tmp_path, net))
    model = net.replace(":Net", ":ended")
    ended = _config(tmp_path, model, out=tmp_path / "ended", scores=scores, model_args={"kind": scores})
    infer(ended)
    plain, frame = _frame(tmp_path / "out"), _frame(tmp_path / "ended")
    assert frame["error"].notna().tolist() == [True] + [False] * 11
    assert (frame["predicted"][1:] == plain["predicted"][1:]).all()
    for name in ("confidence", "loss", "margin", "entropy"):
        np.testing.assert_allclose(frame[name], plain[name], rtol=1e-4, atol=1e-6)
    step = open_predictions(tmp_path / "ended").step
    assert step.run.scores == "log_probabilities"
    assert [file.part.clipped for file in step.parts] == [0]
    with pytest.raises(InputError, match=r"another scores \(log_probabilities, now logits\)"):
        infer(dataclasses.replace(ended, scores="logits"))


def test_probabilities_of_zero_are_raised_and_counted(tmp_path: Path, net: str) -> None:
    for name, level in (("a", 255), ("b", 0), ("c", 128)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "data" / name / "1.png")
    file = Path(net.rpartition(":")[0])
    file.write_text(
        file.read_text() + "\n\nclass Certain(torch.nn.Module):\n    def forward(self, x):\n"
        "        p = x.mean((1, 2, 3)).round()\n        return torch.stack([p, 1 - p, 0 * p], 1)\n"
    )
    infer(_config(tmp_path, net.replace(":Net", ":Certain"), scores="probabilities", shard_size=2))
    frame = _frame(tmp_path / "out")
    assert frame["predicted"].tolist() == [0, 1, 0]
    np.testing.assert_allclose(frame["loss"], [0, 0, -np.log(2.0**-126)], rtol=1e-6, atol=1e-6)
    found = inspect(tmp_path / "out")
    assert [step["clipped"] for step in found.facts["steps"]] == [6]
    assert "step 0: 6 probabilities below 1.2e-38 were raised to it" in found.lines()


def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=4)
    with pytest.raises(InputError, match=r"a row of probabilities sums to .* are the scores logits"):
        infer(_config(tmp_path, net, scores="probabilities"))
    assert not list(tmp_path.rglob("*.parquet"))


# --- a second time ---


def test_a_second_run_does_nothing(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data")
    config = _config(tmp_path, net, checkpoint=_checkpoints(tmp_path, net), shard_size=5)
    first = infer(config)
    before = _mtimes(tmp_path / "out")
    reads = _count_reads(monkeypatch)
    said: list[str] = []
    second = infer(config, said.append)
    assert _mtimes(tmp_path / "out") == before
    assert reads == ["a/000.png"]
    assert (second.written, second.steps, second.complete) == (0, first.steps, True)
    assert f"9 of 9 parts in {tmp_path / 'out'} exist and are valid" in said


def test_another_checkpoint_joins_the_run(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    files = _checkpoints(tmp_path, net)
    infer(_config(tmp_path, net, checkpoint=files[:1]))
    before = _mtimes(tmp_path / "out")
    outcome = infer(_config(tmp_path, net, checkpoint=files))
    assert outcome.written == 24
    assert before.items() <= _mtimes(tmp_path / "out").items()
    infer(_config(tmp_path, net, out=tmp_path / "at once", checkpoint=files))
    for step in (1, 2, 10):
        pd.testing.assert_frame_equal(_frame(tmp_path / "out", step), _frame(tmp_path / "at once", step))


def test_only_what_is_missing_is_made(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", each=6)
    config = _config(tmp_path, net, checkpoint=_checkpoints(tmp_path, net, (1, 2)), shard_size=4, preflight=0)
    infer(config)
    expected = [_frame(tmp_path / "out", step) for step in (1, 2)]
    for step, index in ((1, 0), (1, 3), (2, 3), (2, 4)):
        part_path(tmp_path / "out", step, index).unlink()
    before = _mtimes(tmp_path / "out")
    reads = _count_reads(monkeypatch)
    outcome = infer(config)
    assert outcome.written == 4 + 4 + 4 + 2
    refs = expected[0]["image"].tolist()
    assert sorted(reads) == sorted([refs[0], *refs[0:4], *refs[12:18]])  # parts 0, 3 and 4, each picture once
    assert before.items() <= _mtimes(tmp_path / "out").items()
    for step, frame in zip((1, 2), expected, strict=True):
        pd.testing.assert_frame_equal(_frame(tmp_path / "out", step), frame, rtol=1e-5, atol=1e-6)


def test_data_that_grew_at_its_end_continues(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    config = _config(tmp_path, net, shard_size=5)
    infer(config)
    before = _mtimes(tmp_path / "out")
    for i in range(4, 9):
        (data / "c" / f"{i:03d}.png").write_bytes((data / "a" / "001.png").read_bytes())
    outcome = infer(config)
    after = _mtimes(tmp_path / "out")
    assert outcome.written == 7
    assert sorted(name for name in after if before.get(name) == after[name]) == sorted(before)[:2]
    infer(_config(tmp_path, net, out=tmp_path / "fresh", shard_size=5))
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "fresh"), rtol=1e-5, atol=1e-6)


def test_data_that_changed_needs_update_which_redoes_only_what_changed(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    config = _config(tmp_path, net, shard_size=3)
    infer(config)
    before = _mtimes(tmp_path / "out")
    (data / "b" / "001.png").rename(data / "b" / "001b.png")  # row 5, the last of part 1
    changed = r"1 of 4 parts of .* step 0 are no longer valid, the first part-00001\.parquet: --update"
    with pytest.raises(InputError, match=changed):
        infer(config)
    assert _mtimes(tmp_path / "out") == before
    outcome = infer(dataclasses.replace(config, update=True))
    assert outcome.written == 3
    kept = {name for name, at in _mtimes(tmp_path / "out").items() if before[name] == at}
    assert kept == set(before) - {"step=00000000/part-00001.parquet"}
    assert "b/001b.png" in _frame(tmp_path / "out")["image"].tolist()

    (data / "a" / "000a.png").write_bytes((data / "a" / "000.png").read_bytes())  # which moves every row behind it
    with pytest.raises(InputError, match=r"4 of 4 parts"):
        infer(config)
    infer(dataclasses.replace(config, update=True))
    for name in ("000a", "001", "002", "003"):
        (data / "a" / f"{name}.png").unlink()
    (data / "b" / "000.png").unlink()
    with pytest.raises(InputError, match=r"5 of 5 parts"):
        infer(config)
    outcome = infer(dataclasses.replace(config, update=True))
    assert outcome.complete
    infer(_config(tmp_path, net, out=tmp_path / "fresh", shard_size=3))
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "fresh"), rtol=1e-5, atol=1e-6)
    assert len(_mtimes(tmp_path / "out")) == 3


def test_data_that_lost_its_end_needs_update(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    config = _config(tmp_path, net, shard_size=5)
    infer(config)
    for name in ("001", "002", "003"):
        (data / "c" / f"{name}.png").unlink()
    part_path(tmp_path / "out", 0, 2).write_bytes(b"damaged too")
    with pytest.raises(InputError, match=r"2 of 3 parts of .*part-00001\.parquet: --update"):
        infer(config)
    outcome = infer(dataclasses.replace(config, update=True))
    assert (outcome.complete, outcome.written) == (True, 4)
    assert len(_frame(tmp_path / "out")) == 9


def test_update_deletes_nothing_when_another_step_is_refused(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=4)
    files = _checkpoints(tmp_path, net, (1, 2))
    infer(_config(tmp_path, net, checkpoint=files))
    before = _mtimes(tmp_path / "out")
    (data / "b" / "001.png").rename(data / "b" / "009.png")
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(InputError, match="step 2 was made with another weights"):
        infer(_config(tmp_path, net, checkpoint=files, update=True))
    assert _mtimes(tmp_path / "out") == before


def test_overwrite_starts_these_steps_again_and_leaves_the_others(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    files = _checkpoints(tmp_path, net, (1, 2))
    infer(_config(tmp_path, net, checkpoint=files, shard_size=5))
    before = _mtimes(tmp_path / "out")
    infer(_config(tmp_path, net, checkpoint=files[1:], overwrite=True, mean=(0.5,)))
    after = _mtimes(tmp_path / "out")
    assert [name for name in after if name in before and after[name] == before[name]] == [
        name for name in before if name.startswith("step=00000001/")
    ]
    assert len(after) == 3 + 1
    assert open_predictions(tmp_path / "out", 2).run.transform["mean"] == [0.5]


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"checkpoint": "other"}, r"another weights \([0-9a-f]{16}, now [0-9a-f]{16}\)"),
        ({"mean": (0.5,)}, r"another transform\.mean \(\[0\.0\], now \[0\.5\]\)"),
        ({"std": (2.0, 2.0, 1.0)}, r"another transform\.std \(\[1\.0\], now \[2\.0, 2\.0, 1\.0\]\)"),
        ({"resize": 8}, r"another transform\.resize \(None, now 8\)"),
        ({"crop": 8}, r"another transform\.crop \(None, now 8\)"),
        ({"interpolation": "nearest"}, r"another transform\.interpolation \(bilinear, now nearest\)"),
        ({"exif": "apply"}, r"another transform\.exif \(ignore, now apply\)"),
        ({"precision": "bf16"}, r"another precision \(fp32, now bf16\)"),
        ({"shard_size": 7}, r"another shard_size \(5, now 7\)"),
        ({"thumbnails": 4}, r"another thumbnails \(0, now 4\)"),
        ({"embeddings": True}, r"another embedding \(0, now 384\)"),
        ({"model_args": {"side": 8}}, r"another model_args\.side \(not given, now 8\)"),
    ],
)
def test_what_differs_from_an_existing_step_is_named(
    tmp_path: Path, net: str, change: dict[str, Any], named: str
) -> None:
    toy.pictures(tmp_path / "data")
    files = _checkpoints(tmp_path, net, (1, 2))
    infer(_config(tmp_path, net, checkpoint=files[:1], step=(5,), shard_size=5))
    before = _mtimes(tmp_path / "out")
    if "checkpoint" in change:
        change = {"checkpoint": files[1:]}
    options = {"checkpoint": files[:1], "step": (5,), "shard_size": 5, **change}
    with pytest.raises(
        InputError, match=rf"step 5 was made with {named}: name another --out, or .* --overwrite"
    ) as raised:
        infer(_config(tmp_path, net, **options))
    assert "\n" not in str(raised.value)
    assert _mtimes(tmp_path / "out") == before
    assert infer(_config(tmp_path, net, **options, overwrite=True)).complete


def test_other_class_names_and_other_code_are_named(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data")
    infer(_config(tmp_path, net))
    (data / "c").rename(data / "d")
    with pytest.raises(InputError, match=r"another classes \(c, now d\)"):
        infer(_config(tmp_path, net))
    (data / "d").rename(data / "c")
    (tmp_path / "net.py").write_text(_NET.replace("0.5)", "0.25)"))
    with pytest.raises(InputError, match=r"another code \([0-9a-f]{16}, now [0-9a-f]{16}\)"):
        infer(_config(tmp_path, net))


@pytest.mark.parametrize("classes", [2, 4])
def test_class_folders_that_do_not_fit_the_outputs_are_named(tmp_path: Path, net: str, classes: int) -> None:
    toy.pictures(tmp_path / "data", classes=classes)
    with pytest.raises(InputError, match=rf"has {classes} classes \(a, b.*\), the model gives 3 outputs"):
        infer(_config(tmp_path, net))
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_made_again(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=6)
    config = _config(tmp_path, net, shard_size=4)
    infer(config)
    expected = _frame(tmp_path / "out")
    whole = {i: part_path(tmp_path / "out", 0, i) for i in range(5)}
    raw = bytearray(whole[1].read_bytes())
    raw[-9] ^= 1  # the end of the footer
    whole[1].write_bytes(raw)
    with pq.ParquetFile(whole[3]) as file:
        chunk = file.metadata.row_group(0).column(4)
    raw = bytearray(whole[3].read_bytes())
    raw[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1  # the logits
    whole[3].write_bytes(raw)
    whole[4].write_bytes(b"")
    before = _mtimes(tmp_path / "out")
    said: list[str] = []
    outcome = infer(config, said.append)
    assert outcome.written == 4 + 4 + 2
    assert sum(line.endswith("making it again") for line in said) == 3
    assert all(any(f"part-0000{i}.parquet is damaged" in line for line in said) for i in (1, 3, 4))
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), expected, rtol=1e-5, atol=1e-6)
    after = _mtimes(tmp_path / "out")
    assert [name for name in sorted(after) if after[name] == before[name]] == [sorted(after)[0], sorted(after)[2]]


def test_parts_of_a_newer_format_and_of_other_programs_are_refused_and_kept(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    infer(_config(tmp_path, net))
    path = part_path(tmp_path / "out", 0, 0)
    with pq.ParquetFile(path) as file:
        table = file.read()
    opened = open_part(path)
    run, part = {**dataclasses.asdict(opened.run), "format": 2, "new": [1]}, dataclasses.asdict(opened.part)
    records = {**encode_footer(opened.run, opened.part), "predboard.digest": digest_records(run, part)}
    records["predboard.run"] = records["predboard.run"].replace('"format":1', '"format":2,"new":[1]')
    pq.write_table(table.replace_schema_metadata(records), path)
    newer = path.read_bytes()
    for read in (lambda: infer(_config(tmp_path, net)), lambda: open_predictions(tmp_path / "out")):
        with pytest.raises(
            InputError, match=r"part-00000\.parquet has format 2, but this predboard reads formats up to 1: upgrade"
        ):
            read()
    assert path.read_bytes() == newer
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(InputError, match=r"part-00000\.parquet contains no predictions"):
        infer(_config(tmp_path, net))
    assert infer(_config(tmp_path, net, overwrite=True)).complete


def test_a_run_that_another_process_writes_is_refused(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    with lock_folder(tmp_path / "out"), pytest.raises(InputError, match="another process is writing to"):
        infer(_config(tmp_path, net))
    assert infer(_config(tmp_path, net)).complete


def test_an_unwritable_output_is_one_line(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "file").write_text("in the way")
    before = set(threading.enumerate())
    with pytest.raises(InputError, match=r"cannot write to .*file/out: Not a directory"):
        infer(_config(tmp_path, net, out=tmp_path / "file" / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "step=00000000").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write to .*step=00000000: File exists"):
        infer(_config(tmp_path, net))
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "predboard"]


def test_an_interrupted_pass_leaves_whole_parts_and_can_go_on(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=20)
    fails = net.replace(":Net", ":Fails")
    with pytest.raises(MemoryError, match="enough"):
        infer(_config(tmp_path, fails, out=tmp_path / "one part", model_args={"at": 18}, batch_size=3, preflight=0))
    assert [p.name for p in (tmp_path / "one part").rglob("*") if p.is_file() and p.name != ".lock"] == []
    options: dict[str, Any] = {"batch_size": 3, "shard_size": 6, "preflight": 0}
    infer(_config(tmp_path, fails, out=tmp_path / "whole", model_args={"at": -1}, **options))
    with pytest.raises(MemoryError, match="enough"):
        infer(_config(tmp_path, fails, model_args={"at": 18}, **options))  # at rows 48 to 50, after the trial
    parts = _mtimes(tmp_path / "out")
    assert 5 <= len(parts) <= 8  # of 10; writing may be four batches behind
    assert list((tmp_path / "out").rglob("*.tmp")) == []
    assert open_predictions(tmp_path / "out").step.missing == ((6 * len(parts), 60),)
    with pytest.raises(InputError, match=r"another model_args\.at \(18, now -1\)"):
        infer(_config(tmp_path, fails, model_args={"at": -1}, **options))
    outcome = infer(_config(tmp_path, fails, model_args={"at": 1000}, overwrite=True, **options))
    assert outcome.complete
    pd.testing.assert_frame_equal(_frame(tmp_path / "out"), _frame(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0; expected a whole number of at least 1"),
        ({"workers": -1}, "--workers is -1"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"thumbnails": -1}, "--thumbnails is -1"),
        ({"resize": 0}, "--resize is 0"),
        ({"resize": (8, 0)}, "--resize is 0"),
        ({"crop": 0}, "--crop is 0"),
        ({"mean": (0.1, 0.2)}, "--mean has 2 numbers; expected 1 or 3 for rgb"),
        ({"mean": ()}, "--mean has 0 numbers"),
        ({"std": (1.0, 1.0, 1.0), "channels": "gray"}, "--std has 3 numbers; expected 1 or 1 for gray"),
        ({"std": (0.0,)}, "--std is 0.0; expected numbers above 0"),
        ({"std": (1.0, -1.0, 1.0)}, "--std is 1.0,-1.0,1.0; expected numbers above 0"),
        ({"mean": (float("nan"),)}, "--mean is nan; expected finite numbers"),
        ({"std": (float("inf"),)}, "--std is inf; expected finite numbers"),
        ({"step": (1, 2)}, "--step has 2 numbers for 0 checkpoints"),
        ({"step": (1,), "checkpoint": (Path("a"), Path("b"))}, "--step has 1 numbers for 2 checkpoints"),
        ({"step": (-1,)}, "--step is -1"),
        ({"update": True, "overwrite": True}, "--update and --overwrite exclude each other"),
        ({"model_args": {"a": {1, 2}}}, "--model-args a is {1, 2}; expected text, a number"),
        ({"model_args": {"a": [b"x"]}}, "--model-args a is"),
        ({"model_args": {"a": {"b": {1: 2}}}}, "--model-args a is"),
    ],
)
def test_impossible_values_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        InferConfig(**{"data": "d", "model": "m.py:f", **options})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_arguments_of_any_plain_kind_are_recorded(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n\ndef build(**options):\n    return Net()\n")
    arguments = {"a": (1, 2), "b": {"c": None, "d": [True, 1.5]}, "e": "text", "f": {}}
    config = _config(tmp_path, net.replace(":Net", ":build"), model_args=arguments)
    infer(config)
    recorded = dict(open_predictions(tmp_path / "out").run.model_args)
    assert recorded == {**arguments, "a": [1, 2]}
    assert infer(config).written == 0


# --- memory ---

_MEASURED = """
import resource, sys
from pathlib import Path
from predboard import InferConfig, infer
outcome = infer(InferConfig(data=sys.argv[1], model=sys.argv[2], out=Path(sys.argv[3]), shard_size=1000, batch_size=32))
assert outcome.complete and not outcome.failed
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(outcome.written, peak / 1024 if sys.platform == "darwin" else peak)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(pixels).save(
        picture
    )  # 27 kB, encoded or not: 4,000 of them are a third of what Python and torch take
    model = toy.model_file(tmp_path / "model")
    processes = []
    for rows in (400, 4000):
        data = tmp_path / f"data{rows}"
        for i in range(rows):
            link = data / "abc"[i % 3] / f"{i:05d}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(picture, link)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", _MEASURED, str(data), model, str(tmp_path / f"out{rows}")],
                env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    found = [process.communicate(timeout=120) for process in processes]
    (few_rows, few), (many_rows, many) = (map(int, out.split()) for out, _ in found)
    assert (few_rows, many_rows) == (400, 4000), found
    assert many < 1.1 * few


@pytest.mark.parametrize(
    ("slowest", "advice", "percent"),
    [
        ("wait", "decoding on 2 threads", "80%"),
        ("transfer", "copying to the device", "73%"),
        ("forward", "the model", "80%"),
        ("behind", "writing", "80%"),
    ],
)
def test_the_bottleneck_is_named_with_the_flag_that_helps(
    tmp_path: Path, slowest: str, advice: str, percent: str
) -> None:
    seconds = {"wall": 10.0, "wait": 1.0, "forward": 1.0, "behind": 1.0, "decode": 5.0, "write": 5.0, slowest: 8.0}
    line = InferResult(tmp_path, 100, {}, 500, seconds, 2, shards.WHOLE_RUN, 100).bottleneck
    assert line.startswith("50 rows/s: waiting for images ") and f"limited by {advice}" in line and percent in line
    assert InferResult(tmp_path, 100, {}, 0, seconds, 2, shards.WHOLE_RUN, 100).bottleneck == ""


def test_the_time_of_a_run_adds_up(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=20)
    outcome = infer(_config(tmp_path, net, batch_size=1))
    seconds = outcome.seconds
    spent = sum(seconds[name] for name in ("wait", "transfer", "forward", "behind"))
    assert 0.9 * seconds["wall"] <= spent <= seconds["wall"]
    assert min(seconds.values()) >= 0 and seconds["decode"] > 0 and seconds["write"] > 0


def test_a_band_that_is_not_there_is_one_line(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    with pytest.raises(InputError, match=r"--preview-bands names band 3, but the images have 3 channels \(0 to 2\)"):
        infer(_config(tmp_path, net, preview_bands=(3, 1, 0)))


def test_images_without_a_label_of_the_classes_are_said_before_the_run(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "names.txt").write_text("a\nx\ny\n")
    said: list[str] = []
    config = _config(tmp_path, net, classes=tmp_path / "names.txt")
    infer(config, said.append)
    rows = _frame(tmp_path / "out")
    unknown = int(rows.label.isna().sum())
    assert unknown == (~rows.image.str.startswith("a/")).sum() > 0
    line = (
        f"{unknown} of {len(rows)} images have no label among the classes (a, x, y): see --label-column and --classes"
    )
    assert line in said
