"""Rows of a manifest -> pictures: one folder of every odd file there is, functions of the user's own, same pixels."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from predboard import InferConfig, infer, open_predictions
from predboard.errors import InputError
from predboard.images import loader as loading
from tests import toy

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _frame(out: Path) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out).to_pandas()
    return frame


def _odd_files(folder: Path) -> None:
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    deep = random.integers(0, 2**16, (12, 16), np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph = _encoded(Image.fromarray(random.integers(0, 256, (90, 90, 3), np.uint8)), "JPEG")
    files = {
        "alpha.png": _encoded(colours.convert("RGBA"), "PNG"),
        "animated.gif": _encoded(colours, "GIF", save_all=True, append_images=[colours.rotate(90)]),
        "bomb.png": _encoded(Image.new("1", (30_000, 6_000)), "PNG"),
        "bands.tif": toy.tiff(random.integers(0, 2**16, (12, 16, 13), np.uint16), 1),
        "black and white.bmp": _encoded(colours.convert("1"), "BMP"),
        "cmyk.jpeg": _encoded(colours.convert("CMYK"), "JPEG"),
        "cut.jpg": photograph[: len(photograph) // 2],
        "deep.png": _encoded(Image.fromarray(deep), "PNG"),
        "empty.jpg": b"",
        "floats.tiff": _encoded(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        "grey.jpg": _encoded(colours.convert("L"), "JPEG"),
        "infrared.tif": toy.tiff(random.integers(0, 2**16, (12, 16, 4), np.uint16), 3),
        "palette.png": _encoded(colours.quantize(16), "PNG"),
        "text.png": b"This was a picture once.",
        "turned.jpg": _encoded(colours, "JPEG", exif=turned),
        "UPPER.JPG": _encoded(colours, "JPEG"),
        "žluťoučký 写真.webp": _encoded(colours, "WEBP"),
    }
    folder.mkdir(parents=True)
    for name, encoded in files.items():
        (folder / name).write_bytes(encoded)
    (folder / "link.png").symlink_to("alpha.png")
    (folder / "lost.png").symlink_to("nowhere.png")


def test_every_odd_file_is_a_row_with_logits_or_a_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _odd_files(tmp_path / "data")
    config = InferConfig(str(tmp_path / "data"), toy.model_file(tmp_path), out=tmp_path / "out", resize=(12, 16))
    lines: list[str] = []
    outcome = infer(config, lines.append)
    assert outcome.complete
    frame = _frame(tmp_path / "out").set_index("image")
    failed = frame["error"].dropna().to_dict()
    cut = failed.pop("cut.jpg")
    assert cut.startswith("OSError: image file is truncated")
    assert failed == {
        "bands.tif": "ValueError: Pillow cannot read this TIFF, which has several bands or more than 8 bits: read it "
        "in a dataset of your own, --data FILE.py:DATASET",
        "bomb.png": "DecompressionBombError: Image size (180000000 pixels) exceeds limit of 178956970 pixels, could be "
        "decompression bomb DOS attack.",
        "empty.jpg": "UnidentifiedImageError: not an image that Pillow can read",
        "floats.tiff": "ValueError: images with 32-bit values (mode F) have no agreed range: convert them to 8 or 16 "
        "bit",
        "lost.png": "FileNotFoundError: No such file or directory",
        "text.png": "UnidentifiedImageError: not an image that Pillow can read",
    }
    assert len(frame) == 19
    fine = frame[frame["error"].isna()]
    assert len(fine) == 12
    np.testing.assert_array_equal(np.isfinite(np.stack(fine["logits"].to_list())), True)
    assert set(zip(fine["width"], fine["height"], strict=True)) == {(16, 12)}
    assert frame["digest"]["link.png"] == frame["digest"]["alpha.png"]
    np.testing.assert_array_equal(frame["logits"]["link.png"], frame["logits"]["alpha.png"])
    assert capfd.readouterr().err == ""  # nothing that Pillow says by itself


# --- a function of the user's own ---

_FUNCTIONS = """
import numpy as np
import torch


class Net(torch.nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.head = torch.nn.Linear(channels * 64, 3)

    def forward(self, x):
        return self.head(x.flatten(1))


def turned(picture):
    assert picture.mode == "RGB"
    return picture.rotate(180)


def turned_array(picture):
    return np.asarray(picture)[::-1, ::-1]


def turned_floats(picture):
    return torch.from_numpy(np.asarray(picture)[::-1, ::-1].copy()).permute(2, 0, 1).float() / 255


class Turned:
    def __call__(self, picture):
        return picture.rotate(180)


turned_object = Turned()


def three_of_four(picture):
    if np.asarray(picture)[0, 0, 0] > 64:
        return picture
    raise ArithmeticError("too dark")


def nothing(picture):
    return None


def two_bands(picture):
    return np.asarray(picture)[:, :, :2]


number = 3
"""


def _own(tmp_path: Path, name: str, **options: Any) -> InferConfig:
    (tmp_path / "own.py").write_text(_FUNCTIONS)
    out = options.pop("out", tmp_path / "out")
    transform = f"{tmp_path / 'own.py'}:{name}" if name else None
    return InferConfig(str(tmp_path / "data"), f"{tmp_path / 'own.py'}:Net", out=out, transform=transform, **options)


@pytest.mark.parametrize("name", ["turned", "turned_array", "turned_object", "turned_floats"])
def test_a_function_of_ones_own_sees_each_picture(tmp_path: Path, name: str) -> None:
    toy.pictures(tmp_path / "data")
    toy.pictures(tmp_path / "turned")
    for file in (tmp_path / "turned").glob("*/*.png"):
        with Image.open(file) as picture:
            picture.rotate(180).save(file)
    flags: dict[str, Any] = {} if name == "turned_floats" else {"mean": (0.5,), "std": (0.25,)}
    infer(_own(tmp_path, name, thumbnails=8, **flags))
    plain = InferConfig(
        **{**_own(tmp_path, "", out=tmp_path / "plain", **flags).__dict__, "data": str(tmp_path / "turned")}
    )
    infer(plain)
    found, expected = _frame(tmp_path / "out"), _frame(tmp_path / "plain")
    np.testing.assert_allclose(np.stack(found["logits"].to_list()), np.stack(expected["logits"].to_list()), atol=1e-5)
    transform = open_predictions(tmp_path / "out").run.transform
    assert transform["function"] == f"own.py:{name}"
    assert len(transform["function_code"]) == 16
    assert "function" not in open_predictions(tmp_path / "plain").run.transform
    with Image.open(io.BytesIO(found["thumbnail"][0])) as shown, Image.open(tmp_path / "data/a/000.png") as source:
        assert np.corrcoef(np.asarray(shown).ravel(), np.asarray(source).ravel())[0, 1] > 0.8  # the file's own picture


def test_resize_and_crop_come_after_the_function(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", size=(20, 30))
    config = _own(tmp_path, "turned", resize=10, crop=8)
    loader = loading.make_loader(config, loading.open_manifest(config))
    with Image.open(tmp_path / "data/b/001.png") as picture:
        small = picture.rotate(180).resize((10, 15), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(loader.load(5, None).pixels, np.asarray(small)[4:12, 1:9])  # round(3.5) is 4


def test_a_function_that_raises_makes_error_rows(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", each=10)
    outcome = infer(_own(tmp_path, "three_of_four"))
    errors = _frame(tmp_path / "out")["error"].dropna()
    assert 0 < len(errors) == outcome.failed < 30
    assert set(errors) == {"ArithmeticError: too dark"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "none of the 12 images .* image is a NoneType; expected a Pillow picture"),
        ("two_bands", r"the model cannot take images of 2×8×8 .*; \S*own\.py:two_bands makes them so: change it"),
        ("number", r"own\.py:number is a int; expected a function of a picture"),
        ("absent", r"own\.py has no 'absent'; it has: Net, turned"),
        ("not a name", r"--transform is .*; expected FILE\.py:FUNCTION, a function of a Pillow picture"),
    ],
)
def test_what_is_no_function_of_a_picture_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    toy.pictures(tmp_path / "data")
    with pytest.raises(InputError, match=message) as raised:
        infer(_own(tmp_path, name))
    assert "\n" not in str(raised.value)


def test_another_function_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    config = _own(tmp_path, "turned")
    (tmp_path / "net.py").write_text(_FUNCTIONS)
    config = InferConfig(**{**config.__dict__, "model": f"{tmp_path / 'net.py'}:Net"})
    infer(config)
    assert infer(config).written == 0
    (tmp_path / "own.py").write_text(_FUNCTIONS.replace("180", "90"))
    with pytest.raises(InputError, match=r"made with another transform\.function_code"):
        infer(config)


def test_a_dataset_of_pictures_takes_a_function_too_and_one_of_arrays_does_not(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    config = _own(tmp_path, "turned")
    (tmp_path / "list.py").write_text(
        "from PIL import Image\nimport numpy as np\n"
        f"files = sorted(__import__('pathlib').Path({str(tmp_path / 'data')!r}).glob('*/*.png'))\n"
        "pictures = [(Image.open(f).convert('RGB'), 0) for f in files]\n"
        "arrays = [(np.asarray(p), 0) for p, _ in pictures]\n"
    )
    infer(config)
    infer(InferConfig(**{**config.__dict__, "data": f"{tmp_path / 'list.py'}:pictures", "out": tmp_path / "listed"}))
    expected, found = (np.stack(_frame(tmp_path / name)["logits"].to_list()) for name in ("out", "listed"))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="--transform takes Pillow pictures, but the dataset gives arrays"):
        infer(InferConfig(**{**config.__dict__, "data": f"{tmp_path / 'list.py'}:arrays", "out": tmp_path / "no"}))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_bands_that_the_model_cannot_take_are_not_a_matter_of_flags(tmp_path: Path, dtype: str) -> None:
    shape = (13, 8, 8) if dtype == "float32" else (8, 8, 13)
    (tmp_path / "bands.py").write_text(
        f"import numpy as np\n\ndata = [(np.full({shape}, i, np.{dtype}), i % 3) for i in range(6)]\n"
    )
    data, model = f"{tmp_path / 'bands.py'}:data", toy.model_file(tmp_path)
    with pytest.raises(InputError, match=r"cannot take images of 13×8×8 .*; \S*bands\.py:data makes them so") as raised:
        infer(InferConfig(data, model, out=tmp_path / "out"))
    assert "--resize" not in str(raised.value)
