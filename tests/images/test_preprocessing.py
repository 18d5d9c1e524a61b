"""What flags and a library's recipe come to, and class names in the order of a model's outputs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from predboard.cli import main
from predboard.config import InferConfig
from predboard.errors import InputError
from predboard.images import decode
from predboard.images.class_names import match_class_names
from predboard.images.decode import DecodeOptions
from predboard.images.manifest import Manifest
from predboard.images.preprocessing import Recipe, resolve
from predboard.invocation import install_command
from predboard.user_code import UserObject
from tests import toy

RECIPE = Recipe("a library", 256, 224, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "floor", classes=("a", "b", "c"))
OWN = Recipe("a library", function=UserObject(np.asarray, "a library", "code", Path()))


def _config(**options: Any) -> InferConfig:
    return InferConfig(data="data", model="net.py:build", **options)


def test_without_a_library_pictures_stay_as_they_are() -> None:
    found = resolve(_config(), None)
    assert (found.decoding, found.mean, found.std, found.source, found.function) == (
        DecodeOptions(),
        (0.0,),
        (1.0,),
        "flags",
        None,
    )
    found = resolve(_config(resize=9, crop="none", std=(0.5,), channels="gray", exif="apply"), None)
    assert found.decoding == DecodeOptions(9, None, "bilinear", "gray", "apply")
    assert (found.mean, found.std) == ((0.0,), (0.5,))


def test_a_library_says_what_no_flag_does() -> None:
    found = resolve(_config(), RECIPE)
    assert found.decoding == DecodeOptions(256, 224, "bicubic", corner="floor")
    assert (found.mean, found.std, found.source) == (RECIPE.mean, RECIPE.std, "a library")
    found = resolve(_config(interpolation="bilinear", mean=(0.0,)), RECIPE)
    assert found.decoding == DecodeOptions(256, 224, "bilinear", only_crop=True, corner="floor")
    assert (found.mean, found.std) == ((0.0,), RECIPE.std)
    assert found.source == "a library and --interpolation, --mean"
    assert resolve(_config(interpolation="bilinear", exact_resize=True), RECIPE).decoding.only_crop is False
    found = resolve(_config(resize="none", crop="none"), RECIPE)
    assert found.decoding == DecodeOptions(None, None, "bicubic", corner="floor")
    assert resolve(_config(resize=(300, 224)), RECIPE).decoding.resize == (300, 224)
    assert resolve(_config(crop=256), RECIPE).decoding.crop == 256


@pytest.mark.parametrize("options", [{"transform": "f.py:f"}, {"transform": "f.py:f", "std": (0.5,)}])
def test_the_users_own_function_takes_the_place_of_the_librarys(options: dict[str, Any]) -> None:
    for recipe in (RECIPE, OWN):
        found = resolve(_config(**options), recipe)
        assert (found.decoding, found.function, found.source) == (DecodeOptions(), None, "flags")
        assert found.std == options.get("std", (1.0,))


def test_a_librarys_own_function_goes_with_no_flag() -> None:
    found = resolve(_config(exif="apply"), OWN)
    assert (found.function, found.decoding, found.mean, found.std) == (
        OWN.function,
        DecodeOptions(exif="apply"),
        (0.0,),
        (1.0,),
    )
    with pytest.raises(InputError, match=r"--crop, --mean cannot be combined with a library, .*give all of --resize, "):
        resolve(_config(crop=3, mean=(0.5,)), OWN)
    found = resolve(_config(resize=9, crop=8, interpolation="nearest", mean=(0.5,), std=(0.5,)), OWN)
    assert (found.function, found.decoding, found.source) == (None, DecodeOptions(9, 8, "nearest"), "flags")


@pytest.mark.parametrize("options", [{"resize": 64}, {"resize": (300, 223)}, {"crop": 257}])
def test_a_flag_that_would_pad_what_a_library_asks_for_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"would pad images with black, and one of the two comes from a library"):
        resolve(_config(**options), RECIPE)
    assert resolve(_config(resize=64, crop=80), None).decoding.crop == 80  # asked for, without a library


# --- the crop's corner ---


@pytest.mark.parametrize("side", range(1, 12))
def test_the_corner_of_a_crop_is_floored_where_a_library_does(side: int) -> None:
    column = np.arange(1, side + 1, dtype=np.uint8)
    picture = Image.fromarray(np.repeat(column[None], 4, 0))  # [4, side]
    found = decode.to_array(decode.resize_and_crop(picture, DecodeOptions(None, 4, channels="gray", corner="floor")))[
        0, :, 0
    ]
    before = -((side - 4) // 2)  # black pixels before the picture, or less than 0
    expected = [column[i - before] if 0 <= i - before < side else 0 for i in range(4)]
    assert found.tolist() == expected


# --- class names ---


def _manifest(classes: tuple[str, ...], label: list[int]) -> Manifest:
    return Manifest(
        root="root",
        image=pa.array([f"{i}.png" for i in range(len(label))]),
        label=np.array(label, np.int32),
        key=np.arange(len(label)),
        classes=classes,
    )


NAMES = dataclasses.replace(RECIPE, classes=("Annual crop", "forest", "sea-lake"), aliases=("n3", "n1", "n2"))


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        ((), [0, 2, -1], [0, 2, -1]),  # indices of outputs
        (("Annual crop", "forest", "sea-lake"), [0, 1, 2, -1], [0, 1, 2, -1]),
        (("AnnualCrop", "forest"), [0, 1], None),
        (("SEA LAKE", "annual_crop", "Forest"), [0, 1, 2, -1], [2, 0, 1, -1]),
        (("forest", "sea_lake"), [0, 1, 0], [1, 2, 1]),  # some of them
        (("n1", "n3"), [0, 1, 1], [1, 0, 0]),
    ],
)
def test_names_of_the_data_are_found_among_the_models(
    classes: tuple[str, ...], label: list[int], expected: list[int] | None
) -> None:
    found, said = match_class_names(_manifest(classes, label), NAMES, 3)
    if expected is None:
        assert (found.classes, said) == (classes, "")
        return
    assert found.classes == NAMES.classes
    assert toy.class_labels(found) == expected
    assert said == "class names from a library"


def test_other_names_stay_and_that_is_said() -> None:
    found, said = match_class_names(_manifest(("x", "y", "z"), [0, 1, 2]), NAMES, 3)
    assert (found.classes, toy.class_labels(found)) == (("x", "y", "z"), [0, 1, 2])
    assert said == (
        "class names are the data's, in their order; a library has others: Annual crop, forest, sea-lake, …"
    )
    for recipe, outputs in ((None, 3), (NAMES, 4), (Recipe("silent"), 3)):
        manifest = _manifest(("x", "y", "z"), [0, 1, 2])
        assert match_class_names(manifest, recipe, outputs) == (manifest, "")


def test_items_of_a_dataset_say_their_own_index_so_that_no_name_moves_one() -> None:
    manifest = dataclasses.replace(
        _manifest(("forest", "Annual crop", "sea-lake"), [0, 1, 2]), dataset=object(), dataset_index=np.arange(3)
    )
    found, said = match_class_names(manifest, NAMES, 3)
    assert found.classes == manifest.classes
    assert said == "warning: the dataset has its classes in another order than a library"
    same = dataclasses.replace(manifest, classes=("annual_crop", "forest", "Sea Lake"))
    assert match_class_names(same, NAMES, 3)[0].classes == NAMES.classes


# --- libraries that are not there ---


@pytest.mark.parametrize(
    ("model", "package", "extra"),
    [
        ("torchvision:resnet18", "torchvision", "torchvision"),
        ("timm:resnet18", "timm", "timm"),
        ("hf:google/vit", "transformers", "hf"),
    ],
)
def test_a_library_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, model: str, package: str, extra: str
) -> None:
    from predboard.models.hubs import open_hub_model

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError) as raised:
        open_hub_model(model, {})
    assert str(raised.value) == f"{model} needs {package}, which is not installed: {install_command(extra=extra)}"


def test_the_preprocessing_is_said_and_in_the_footer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="stage one runs PyTorch models")
    toy.pictures(tmp_path / "data", each=1, size=(9, 12))
    command = ["infer", "--data", str(tmp_path / "data"), "--model", toy.model_file(tmp_path)]
    flags = ["--out", str(tmp_path / "out"), "--resize", "10", "--crop", "8", "--mean", ".5", "--std", ".25,.5,1"]
    assert main.run(command + flags) == 0
    said = capsys.readouterr().err.splitlines()
    assert "preprocessing: resize 10 bilinear, crop 8, mean 0.5, std 0.25 0.5 1, from flags" in said
