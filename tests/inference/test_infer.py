"""Stage one on real files: its rows against a plain PyTorch loop, its time and its memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from predboard import infer, open_predictions
from predboard.errors import InputError
from predboard.inference.infer import InferResult
from predboard.predictions.schema import hash64
from predboard.storage import part_plan
from predboard.storage.inspection import inspect
from predboard.storage.runs import list_part_paths
from tests import toy
from tests.inference.nets import (
    build_module,
    count_reads,
    make_config,
    modification_times,
    read_frame,
    save_checkpoints,
    stack_logits,
)

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


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
    infer(make_config(tmp_path, net, model_args={"channels": channels}, batch_size=4, shard_size=7, **options))
    frame = read_frame(tmp_path / "out")

    module = build_module(net, channels=channels).eval()
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
    outcome = infer(make_config(tmp_path, net, resize=(8, 8)))
    frame = read_frame(tmp_path / "out")
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
    (checkpoint,) = save_checkpoints(tmp_path, net, (7,))
    infer(make_config(tmp_path, net, checkpoint=(checkpoint,), mean=(0.5,), shard_size=5, model_args={"side": 8}))
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


def test_exif_orientation_is_applied_on_request(tmp_path: Path, net: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "abc":
        (tmp_path / "data" / name).mkdir(parents=True)
        lying = Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (6, 10, 3), np.uint8))
        lying.save(tmp_path / "data" / name / "1.png", exif=exif)
        (tmp_path / "turned" / name).mkdir(parents=True)
        lying.rotate(-90, expand=True).save(tmp_path / "turned" / name / "1.png")
    infer(make_config(tmp_path, net, resize=(8, 8), exif="apply"))
    infer(make_config(tmp_path, net, resize=(8, 8), data=str(tmp_path / "turned"), out=tmp_path / "expected"))
    found, expected = read_frame(tmp_path / "out"), read_frame(tmp_path / "expected")
    assert set(found["width"]) == {6}
    of_the_file = ["digest", "bytes"]
    pd.testing.assert_frame_equal(found.drop(columns=of_the_file), expected.drop(columns=of_the_file))


@pytest.mark.parametrize(("batch_size", "workers", "shard_size"), [(1, 1, 4096), (5, 3, 4), (64, 0, 11), (3, 2, 1)])
def test_batches_threads_and_parts_do_not_change_rows(
    tmp_path: Path, net: str, batch_size: int, workers: int, shard_size: int
) -> None:
    toy.pictures(tmp_path / "data", each=7)
    infer(make_config(tmp_path, net, out=tmp_path / "plain"))
    infer(make_config(tmp_path, net, batch_size=batch_size, workers=workers, shard_size=shard_size))
    expected, found = read_frame(tmp_path / "plain"), read_frame(tmp_path / "out")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)
    assert len(modification_times(tmp_path / "out")) == -(-21 // shard_size)


def test_a_part_of_several_row_groups(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pictures(tmp_path / "data", each=7)
    options: dict[str, Any] = {"embeddings": True, "thumbnails": 8, "shard_size": 13}
    infer(make_config(tmp_path, net, out=tmp_path / "plain", **options))
    monkeypatch.setattr("predboard.storage.parts.ROW_GROUP_MAX_ROWS", 5)
    infer(make_config(tmp_path, net, batch_size=4, **options))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "out"), read_frame(tmp_path / "plain"), rtol=1e-3, atol=1e-3)
    groups = []
    for path in list_part_paths(tmp_path / "out", 0):
        with pq.ParquetFile(path) as file:
            groups.append([file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)])
    assert groups == [[5, 5, 3], [5, 3]]


def test_several_checkpoints_are_several_steps_and_each_picture_is_read_once(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data", each=6)
    files = save_checkpoints(tmp_path, net)
    reads = count_reads(monkeypatch)
    outcome = infer(make_config(tmp_path, net, checkpoint=files[::-1], shard_size=7, batch_size=4, preflight=0))
    first = "a/000.png"
    assert sorted(reads) == sorted(
        [first, *read_frame(tmp_path / "out")["image"]]
    )  # the first is also looked at for its size
    assert list(outcome.steps) == [1, 2, 10]
    assert outcome.written == 3 * 18
    assert open_predictions(tmp_path / "out").steps == (1, 2, 10)
    for number, file in zip((1, 2, 10), files, strict=True):
        alone = tmp_path / f"alone{number}"
        infer(make_config(tmp_path, net, out=alone, checkpoint=(file,), step=(5,)))
        pd.testing.assert_frame_equal(read_frame(tmp_path / "out", number), read_frame(alone), rtol=1e-5, atol=1e-6)
        module = build_module(net).eval()
        module.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
        pixels = np.stack(
            [np.asarray(Image.open(f), np.float32) / 255 for f in sorted((tmp_path / "data").glob("*/*"))]
        )
        with torch.no_grad():
            expected = module(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
        np.testing.assert_allclose(stack_logits(read_frame(tmp_path / "out", number)), expected, atol=1e-6, rtol=1e-5)


def test_one_module_object_can_carry_several_checkpoints(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    files = save_checkpoints(tmp_path, net)
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n\nmade = Net()\n")
    infer(make_config(tmp_path, net, out=tmp_path / "expected", checkpoint=files))
    infer(make_config(tmp_path, f"{tmp_path / 'net.py'}:made", checkpoint=files))
    for step in (1, 2, 10):
        found, expected = read_frame(tmp_path / "out", step), read_frame(tmp_path / "expected", step)
        pd.testing.assert_frame_equal(found, expected)


def test_checkpoints_that_do_not_fit_together_go_one_after_the_other(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    files = save_checkpoints(tmp_path, net)
    infer(make_config(tmp_path, net, out=tmp_path / "together", checkpoint=files, batch_size=64))
    monkeypatch.setattr("os.sysconf", lambda _: 1)  # a machine with one byte of memory
    reads = count_reads(monkeypatch)
    infer(make_config(tmp_path, net, checkpoint=files, batch_size=64, preflight=0))
    assert len(reads) == 1 + 3 * 12
    for step in (1, 2, 10):
        pd.testing.assert_frame_equal(read_frame(tmp_path / "out", step), read_frame(tmp_path / "together", step))


def test_a_checkpoint_that_changes_during_the_run_is_refused(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.pictures(tmp_path / "data")
    files = save_checkpoints(tmp_path, net, (1, 2))
    monkeypatch.setattr("os.sysconf", lambda _: 1)

    def say(line: str) -> None:
        if line.startswith("model "):
            files[1].write_bytes(files[0].read_bytes())

    with pytest.raises(InputError, match=r"toy_epoch02\.pt changed while it was in use: run the same command again"):
        infer(make_config(tmp_path, net, checkpoint=files, preflight=0), say)
    assert open_predictions(tmp_path / "out").steps == (1,)


def test_half_precision_is_recorded_and_close(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    infer(make_config(tmp_path, net, out=tmp_path / "full"))
    infer(make_config(tmp_path, net, precision="bf16"))
    assert open_predictions(tmp_path / "out").run.precision == "bf16"
    difference = np.abs(stack_logits(read_frame(tmp_path / "out")) - stack_logits(read_frame(tmp_path / "full")))
    assert 0 < difference.max() < 0.03


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


@pytest.mark.slow
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
    line = InferResult(tmp_path, 100, {}, 500, seconds, 2, part_plan.WHOLE_RUN, 100).bottleneck
    assert line.startswith("50 rows/s: waiting for images ") and f"limited by {advice}" in line and percent in line
    assert InferResult(tmp_path, 100, {}, 0, seconds, 2, part_plan.WHOLE_RUN, 100).bottleneck == ""


def test_the_time_of_a_run_adds_up(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=20)
    outcome = infer(make_config(tmp_path, net, batch_size=1))
    seconds = outcome.seconds
    spent = sum(seconds[name] for name in ("wait", "transfer", "forward", "behind"))
    assert 0.9 * seconds["wall"] <= spent <= seconds["wall"]
    assert min(seconds.values()) >= 0 and seconds["decode"] > 0 and seconds["write"] > 0


def test_a_preview_band_that_does_not_exist_is_one_line(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    with pytest.raises(InputError, match=r"--preview-bands names band 3, but the images have 3 channels \(0 to 2\)"):
        infer(make_config(tmp_path, net, preview_bands=(3, 1, 0)))


def test_images_without_a_label_among_the_classes_are_reported_before_the_run(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "names.txt").write_text("a\nx\ny\n")
    said: list[str] = []
    config = make_config(tmp_path, net, classes=tmp_path / "names.txt")
    infer(config, said.append)
    rows = read_frame(tmp_path / "out")
    unknown = int(rows.label.isna().sum())
    assert unknown == (~rows.image.str.startswith("a/")).sum() > 0
    line = (
        f"{unknown} of {len(rows)} images have no label among the classes (a, x, y): see --label-column and --classes"
    )
    assert line in said


_STARTED = """
import sys
from predboard.cli.main import run
assert run(["infer", "--data", sys.argv[1], "--model", sys.argv[2], "--out", sys.argv[3], "--device", "cpu"]) == 0
print(*sorted(name for name in sys.argv[4:] if name in sys.modules))
"""


def test_it_imports_no_library_that_it_can_do_without(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    heavy = ("pandas", "tkinter", "matplotlib", "scipy", "sklearn", "tensorboard", "torchvision", "timm", "ray")
    arguments = [str(tmp_path / "data"), toy.model_file(tmp_path / "model"), str(tmp_path / "out"), *heavy]
    done = subprocess.run(
        [sys.executable, "-c", _STARTED, *arguments],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


_MEMORY = """
import resource, sys
from predboard.__main__ import main
def fill():
    pictures = [bytearray(b"x") * 20_000_000 for _ in range(4)]
    del pictures
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def measure():
    fill()
    before = fill()
    return fill() - before
data, model, out, *command = sys.argv[1:]
if command:
    sys.argv[1:] = ["infer", "--data", data, "--model", model, "--out", out]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
else:
    import predboard
    predboard.infer(predboard.InferConfig(data, model, out=out))
print(measure())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there is no glibc")
def test_the_command_keeps_freed_memory_and_the_function_leaves_the_callers_process_as_it_is(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", each=2)
    model, faults = toy.model_file(tmp_path), list[int]()
    for name in ("function", "command"):
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, tmp_path / "data", model, tmp_path / name, *[name][name == "function" :]],
            env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        faults.append(int(done.stdout.split()[-1]))
    assert faults[0] > 4_000 and faults[1] < 100
