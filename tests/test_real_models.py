"""Published models on published images through the command line: accuracies and logits as others have them."""

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from predboard import open_predictions
from tests import toy

CIFAR, EUROSAT = toy.SHARED / "cifar10_resnet", toy.SHARED / "eurosat_rgb"

pytestmark = pytest.mark.slow

pytest.importorskip("torch", reason="stage one runs PyTorch models")
needs_cifar = pytest.mark.skipif(
    not CIFAR.is_dir(), reason="needs the published ResNets, which are not distributed with this"
)
needs_eurosat = pytest.mark.skipif(
    not EUROSAT.is_dir(), reason="needs the EuroSAT images, which are not distributed with this"
)


@pytest.fixture(scope="module")
def cifar_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of the 1,000 images, which come as one folder of NNNNN_class.png."""
    folder = tmp_path_factory.mktemp("cifar10")
    with zipfile.ZipFile(CIFAR / "cifar10_test1000_png.zip") as archive:
        for name in archive.namelist():
            if found := re.fullmatch(r"png/(\d+)_(\w+)\.png", name):
                target = folder / found[2] / f"{found[1]}.png"
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.read(name))
    return folder


def _accuracy(frame: pd.DataFrame) -> float:
    return float((frame["predicted"] == frame["label"]).mean())


def _likelihood(logits: np.ndarray, label: np.ndarray) -> float:
    z = logits.astype(np.float64)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), label]).mean())


@needs_cifar
@pytest.mark.parametrize(
    ("depth", "weights", "right", "loss"),
    [(20, "resnet20-12fca82f.th", 915, 0.38420), (32, "resnet32-d509ac18.th", 928, 0.31464)],
)
def test_resnets_on_cifar_10(
    cifar_images: Path, tmp_path: Path, depth: int, weights: str, right: int, loss: float
) -> None:
    done = toy.predboard(
        *("infer", "--data", cifar_images),
        *("--model", f"{CIFAR / 'resnet_cifar.py'}:CifarResNet", "--model-args", f"depth={depth}"),
        *("--checkpoint", CIFAR / "weights" / weights, "--out", tmp_path / "out"),
        *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"step 0: 1,000 ok, 0 failed, 0 unlabelled, accuracy {right / 1000:.4f}" in done.stdout
    opened = open_predictions(tmp_path / "out")
    assert opened.run.classes == (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    frame = opened.to_pandas()
    assert (frame["predicted"] == frame["label"]).sum() == right
    assert frame["loss"].mean() == pytest.approx(loss, abs=1e-5)
    frame = frame.sort_values("image", key=lambda image: image.str.extract(r"(\d+)")[0])
    reference = np.load(CIFAR / "reference" / f"resnet{depth}_png1000_logits.npy")
    logits = np.stack(frame["logits"].to_list())
    assert np.abs(logits - reference).max() < 1e-4
    assert frame["loss"].mean() == pytest.approx(_likelihood(reference, frame["label"].to_numpy()), abs=1e-5)


@needs_eurosat
def test_five_checkpoints_on_eurosat_are_five_steps(tmp_path: Path) -> None:
    with zipfile.ZipFile(EUROSAT / "eurosat_rgb_test5400.zip") as archive:
        archive.extractall(tmp_path / "eurosat")
    shutil.copy(EUROSAT / "small_cnn" / "model.py", tmp_path)
    checkpoints = sorted((EUROSAT / "small_cnn").glob("*.pt"))
    assert len(checkpoints) == 5
    done = toy.predboard(
        *("infer", "--data", "eurosat", "--model", "model.py:build", "--batch-size", "256"),
        *("--checkpoint", *map(str, checkpoints)),
        *("--mean", "0.3447358310222626,0.38033175468444824,0.40786147117614746"),
        *("--std", "0.2032071053981781,0.1372191160917282,0.11565855890512466"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    order = [line.split()[0] for line in (EUROSAT / "splits" / "test.txt").read_text().splitlines()]
    expected = {1: 0.6663, 3: 0.8041, 6: 0.8698, 9: 0.9237, 12: 0.9524}
    losses = {1: 0.9387, 3: 0.5602, 6: 0.3778, 9: 0.2194, 12: 0.1409}
    out = tmp_path / "predictions" / "eurosat-model-build"
    assert open_predictions(out).steps == tuple(expected)
    for step, accuracy in expected.items():
        assert f"step {step}: 5,400 ok, 0 failed, 0 unlabelled, accuracy {accuracy}" in done.stdout
        frame = open_predictions(out, step).to_pandas().set_index("image")
        assert round(_accuracy(frame), 4) == accuracy
        assert frame["loss"].mean() == pytest.approx(losses[step], abs=1e-4)
        reference = np.load(EUROSAT / "small_cnn" / f"eurosat_cnn_epoch{step:02d}_testlogits.npy")
        logits = np.stack(frame["logits"].loc[order].to_list())
        assert np.abs(logits - reference).max() < 1e-4


@needs_eurosat
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "with the images' own mean and std: --mean 0.3"),
        (
            ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
            "with the images' own mean and std: --mean 0.3",
        ),
        (
            ("--mean", "0.3447,0.3803,0.4079", "--std", "0.2032,0.1372,0.1157", "--resize", "128"),
            "with pictures at their own size, 64×64: --resize none --crop none",
        ),
    ],
)
def test_the_preflight_names_what_eurosats_network_was_not_trained_with(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    with zipfile.ZipFile(EUROSAT / "eurosat_rgb_test5400.zip") as archive:
        archive.extractall(tmp_path / "eurosat")
    shutil.copy(EUROSAT / "small_cnn" / "model.py", tmp_path)
    done = toy.predboard(
        *("infer", "--data", "eurosat", "--model", "model.py:build", "--strict", "--preflight", "200", *flags),
        *("--checkpoint", EUROSAT / "small_cnn" / "eurosat_cnn_epoch12.pt", "--out", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "--strict stops before the long run: accuracy on 200 images would be 9" in done.stderr
    assert words in done.stderr
