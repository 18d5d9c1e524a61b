"""Pictures that cannot be read and scores that are no scores."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from predboard import infer, open_predictions
from predboard.errors import InputError
from predboard.storage.inspection import inspect
from tests import toy
from tests.inference.nets import (
    build_module,
    make_config,
    read_frame,
)

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_embeddings_of_a_layer_are_the_mean_of_its_output_over_space(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=2)
    config = make_config(tmp_path, net, embedding_layer="conv", batch_size=4)
    infer(config)
    frame = read_frame(tmp_path / "out")
    x = np.stack([np.asarray(Image.open(tmp_path / "data" / ref), np.float32) / 255 for ref in frame["image"]])
    module = build_module(net).eval()
    with torch.no_grad():
        expected = module.conv(torch.from_numpy(x).permute(0, 3, 1, 2)).mean((2, 3))  # type: ignore[operator]  # a layer
    np.testing.assert_allclose(np.stack(frame["embedding"].to_list()), expected, atol=1e-3)  # float16
    assert open_predictions(tmp_path / "out").run.embedding_layer == "conv"
    with pytest.raises(InputError, match=r"another embedding_layer \(conv, now norm\)"):
        infer(dataclasses.replace(config, embedding_layer="norm"))


def test_each_unreadable_picture_is_one_row_and_all_others_are_right(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=10)
    infer(make_config(tmp_path, net, out=tmp_path / "whole"))
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

    outcome = infer(make_config(tmp_path, net, batch_size=4, shard_size=8))
    found, whole = read_frame(tmp_path / "out").set_index("image"), read_frame(tmp_path / "whole").set_index("image")
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
    infer(make_config(tmp_path, net))
    assert read_frame(tmp_path / "out")["error"].notna().tolist() == [i == 0 for i in range(12)]


def test_without_any_readable_picture_the_first_reason_is_named(tmp_path: Path, net: str) -> None:
    data = toy.pictures(tmp_path / "data", each=1)
    for file in data.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"none of the 3 images can be read; the first error is a/000\.png: UnidentifiedImage"
    ):
        infer(make_config(tmp_path, net))
    assert not (tmp_path / "out").exists()


def test_a_list_of_images_elsewhere_names_the_folder_and_the_flag(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data")
    (tmp_path / "list.csv").write_text("image,label\na/000.png,a\na/001.png,a\n")
    with pytest.raises(InputError) as refused:
        infer(make_config(tmp_path, net, data=str(tmp_path / "list.csv")))
    assert str(refused.value).endswith(f"they are looked for in {tmp_path}: --image-root names another folder")


def test_logits_that_are_not_finite_are_errors(tmp_path: Path, net: str) -> None:
    for name, level in (("a", 200), ("b", 10), ("c", 255)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "data" / name / "1.png")
    infer(make_config(tmp_path, net.replace(":Net", ":Uneven"), batch_size=2))
    frame = read_frame(tmp_path / "out")
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
    infer(make_config(tmp_path, net))
    model = net.replace(":Net", ":ended")
    ended = make_config(tmp_path, model, out=tmp_path / "ended", scores=scores, model_args={"kind": scores})
    infer(ended)
    plain, frame = read_frame(tmp_path / "out"), read_frame(tmp_path / "ended")
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
    infer(make_config(tmp_path, net.replace(":Net", ":Certain"), scores="probabilities", shard_size=2))
    frame = read_frame(tmp_path / "out")
    assert frame["predicted"].tolist() == [0, 1, 0]
    np.testing.assert_allclose(frame["loss"], [0, 0, -np.log(2.0**-126)], rtol=1e-6, atol=1e-6)
    found = inspect(tmp_path / "out")
    assert [step["clipped"] for step in found.facts["steps"]] == [6]
    assert "step 0: 6 probabilities below 1.2e-38 were raised to it" in found.lines()


def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, net: str) -> None:
    toy.pictures(tmp_path / "data", each=4)
    with pytest.raises(InputError, match=r"a row of probabilities sums to .* are the scores logits"):
        infer(make_config(tmp_path, net, scores="probabilities"))
    assert not list(tmp_path.rglob("*.parquet"))
