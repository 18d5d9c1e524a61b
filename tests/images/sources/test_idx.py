"""IDX files, as MNIST has them."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images import decode
from predboard.images.sources import open_source, read
from predboard.inference.infer import infer
from predboard.storage.runs import open_predictions
from tests import toy


def write_example(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    arrays = [np.asarray(decode.decode_image(encoded, "gray")) for encoded in pictures.values()]
    write_idx(folder / "t-labels-idx1-ubyte.gz", np.array(["abc".index(name[0]) for name in pictures], np.uint8))
    return write_idx(folder / "t-images-idx3-ubyte.gz", np.stack(arrays))


def write_idx(file: Path, array: NDArray[np.uint8]) -> Path:
    encoded = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    file.write_bytes(gzip.compress(encoded) if file.suffix == ".gz" else encoded)
    return file


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
    end = ".gz" if packed else ""
    write_idx(tmp_path / f"t-labels-idx1-ubyte{end}", np.array([1, 0, 2, 1, 0], np.uint8))
    write_idx(tmp_path / f"t-images-idx3-ubyte{end}", pixels)
    manifest = open_source(str(tmp_path / f"t-images-idx3-ubyte{end}"))
    assert toy.class_labels(manifest) == [1, 0, 2, 1, 0]
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


@pytest.mark.slow
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
