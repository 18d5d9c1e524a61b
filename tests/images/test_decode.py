"""Encoded bytes -> pixels: sizes and crops with torchvision's rounding, the modes of picture files, properties."""

import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from predboard.images import decode
from predboard.images.decode import (
    DecodeOptions,
    decode_image,
    encode_jpeg,
    picture_properties,
    resize_and_crop,
    to_array,
)
from predboard.images.sources import open_source, read
from tests import toy

_SIDES = st.integers(1, 90)


def _encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _random(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(Image.new(mode, (1, 1)).getbands()))
    return Image.frombytes(
        mode, (width, height), np.random.default_rng(seed).integers(0, 256, shape, np.uint8).tobytes()
    )


def _short_side(width: int, height: int, size: int) -> tuple[int, int]:
    """torchvision.transforms.functional._compute_resized_output_size, as its documentation has it."""
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    return (new_short, new_long) if width <= height else (new_long, new_short)


@given(_SIDES, _SIDES, st.integers(1, 60))
def test_the_short_side_is_resized_as_torchvision_does(width: int, height: int, size: int) -> None:
    picture = _random(width, height)
    found = resize_and_crop(picture, DecodeOptions(resize=size))
    assert found.size == _short_side(width, height, size)
    expected = picture if found.size == picture.size else picture.resize(found.size, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((500, 375), (341, 256)), ((375, 500), (256, 341)), ((256, 300), (256, 300)), ((10, 10), (256, 256))],
)
def test_the_long_side_is_cut_off_not_rounded(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_and_crop(Image.new("RGB", size), DecodeOptions(resize=256)).size == expected  # 341.33; 300; 256


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos", Image.Resampling.LANCZOS),
        ("nearest", Image.Resampling.NEAREST),
    ],
)
def test_height_and_width_are_exact_and_in_this_order(name: Any, kernel: Image.Resampling) -> None:
    picture = _random(40, 30)
    found = resize_and_crop(picture, DecodeOptions(resize=(12, 17), interpolation=name))
    assert found.size == (17, 12)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(picture.resize((17, 12), kernel)))


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    picture = _random(17, 12)
    for shape in (
        DecodeOptions(),
        DecodeOptions(resize=(12, 17), interpolation="lanczos"),
        DecodeOptions(resize=12),
        DecodeOptions(crop=None),
    ):
        np.testing.assert_array_equal(np.asarray(resize_and_crop(picture, shape)), np.asarray(picture))


def _centre_crop(array: Any, side: int) -> Any:
    """torchvision.transforms.functional.center_crop on [height, width, channels], as its source has it."""
    height, width = array.shape[:2]
    if side > width or side > height:
        left, top = max(side - width, 0) // 2, max(side - height, 0) // 2
        right, bottom = (max(side - width, 0) + 1) // 2, (max(side - height, 0) + 1) // 2
        array = np.pad(array, ((top, bottom), (left, right), (0, 0)))
        height, width = array.shape[:2]
        if (height, width) == (side, side):
            return array
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    return array[top : top + side, left : left + side]


@settings(max_examples=200)
@given(_SIDES, _SIDES, st.integers(1, 100), st.sampled_from(["RGB", "L"]))
def test_the_centre_is_cropped_and_padded_as_torchvision_does(width: int, height: int, side: int, mode: str) -> None:
    picture = _random(width, height, mode)
    found = to_array(resize_and_crop(picture, DecodeOptions(crop=side)))
    np.testing.assert_array_equal(found, _centre_crop(to_array(picture), side))
    assert found.shape == (side, side, 3 if mode == "RGB" else 1)


_KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.none() | st.integers(1, 300) | st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.none() | st.integers(1, 120),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    st.sampled_from(["RGB", "L"]),
)
def test_pixels_are_those_of_torchvision(size: tuple[int, int], resize: Any, crop: Any, kernel: Any, mode: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="compares with torchvision itself")
    short, long = sorted(size)
    assume(not isinstance(resize, int) or resize * long / short < 4000)
    picture = _random(*size, mode)
    steps = [] if resize is None else [transforms.Resize(resize, transforms.InterpolationMode[kernel.upper()])]
    steps += [] if crop is None else [transforms.CenterCrop(crop)]
    expected = np.asarray(transforms.Compose(steps)(picture))
    found = decode.to_pixels(picture, DecodeOptions(resize, crop, kernel, "rgb" if mode == "RGB" else "gray"))
    np.testing.assert_array_equal(found if mode == "RGB" else found[:, :, 0], expected)


def _published() -> Iterator[bytes]:
    """Every 41st of the published images, in their own encoding."""
    zips = ("cifar10_resnet/cifar10_test1000_png.zip", "eurosat_rgb/eurosat_rgb_test5400.zip")
    for name in zips:
        with zipfile.ZipFile(toy.SHARED / name) as archive:
            for member in [n for n in archive.namelist() if n.endswith((".png", ".jpg"))][::41]:
                yield archive.read(member)
    manifest = open_source(str(toy.SHARED / "mnist_t10k/t10k-images-idx3-ubyte.gz"))
    for ref in manifest.image.to_pylist()[::41]:
        yield read(manifest.root, ref)


@pytest.mark.skipif(not toy.SHARED.is_dir(), reason="needs the published images, which are not distributed with this")
@pytest.mark.parametrize(
    ("resize", "crop", "kernel"),
    [
        (256, 224, "bilinear"),
        (40, 32, "bicubic"),
        (20, 16, "bilinear"),
        ((37, 51), None, "lanczos"),
        (None, 48, "nearest"),
    ],
)
def test_published_images_are_as_the_plain_way_has_them(resize: Any, crop: int | None, kernel: Any) -> None:
    seen = 0
    for encoded in _published():
        with Image.open(io.BytesIO(encoded)) as file:
            plain = file.convert("RGB")
        size = plain.size if resize is None else resize[::-1] if crop is None else _short_side(*plain.size, resize)
        expected = np.asarray(plain.resize(size, _KERNELS[kernel]))
        expected = expected if crop is None else _centre_crop(expected, crop)
        found = decode.to_pixels(
            decode_image(encoded), DecodeOptions(resize, crop, kernel, only_crop=kernel == "bilinear")
        )
        np.testing.assert_array_equal(found, expected)
        seen += 1
    assert seen == 25 + 132 + 244


def test_resize_comes_before_crop() -> None:
    picture = _random(50, 40)
    found = resize_and_crop(picture, DecodeOptions(resize=20, crop=16, interpolation="bicubic"))
    small = np.asarray(picture.resize((25, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(found), small[2:18, 4:20])  # round(4.5) is 4


def test_exif_orientation_is_ignored_or_applied() -> None:
    picture = _random(6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    encoded = _encoded(picture, "PNG", exif=exif)
    np.testing.assert_array_equal(to_array(decode_image(encoded)), np.asarray(picture))
    turned = to_array(decode_image(encoded, exif="apply"))
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(picture), -1))
    plain = _encoded(picture)
    np.testing.assert_array_equal(to_array(decode_image(plain, exif="apply")), np.asarray(picture))


def _smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return _random(9, 7, mode).resize((width, height), Image.Resampling.BICUBIC)


@settings(max_examples=40)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 99), st.sampled_from(["RGB", "L"]))
@example(392, 392, 196, "RGB")
@example(391, 800, 196, "L")
def test_a_jpeg_comes_smaller_if_it_is_large_enough(width: int, height: int, enough: int, mode: str) -> None:
    picture = _smooth(width, height, mode)
    encoded = _encoded(picture, "JPEG", quality=95, subsampling=0)
    found, whole = decode_image(encoded, enough=enough), decode_image(encoded)
    by = max((n for n in (1, 2, 4, 8) if n * enough <= min(width, height)), default=1)
    assert found.size == (-(-width // by), -(-height // by))
    if by == 1:
        np.testing.assert_array_equal(to_array(found), to_array(whole))
    elif min(width, height) >= 64:  # else its colours change too much from pixel to pixel
        reduced = np.asarray(whole.reduce(by), np.float64)
        assert np.abs(reduced - np.asarray(found, np.float64)).mean() < 2


def test_only_a_jpeg_comes_smaller_and_it_is_turned_like_the_whole() -> None:
    picture = _smooth(400, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    png, turned = _encoded(picture), _encoded(picture, "JPEG", exif=exif)
    np.testing.assert_array_equal(to_array(decode_image(png, enough=10)), np.asarray(picture))
    assert decode_image(turned, enough=150).size == (200, 150)
    assert decode_image(turned, exif="apply", enough=150).size == (150, 200)
    small, whole = (decode_image(turned, exif="apply", enough=enough) for enough in (150, None))
    assert np.abs(to_array(small).astype(float) - to_array(whole.reduce(2))).mean() < 2
    cmyk = _encoded(picture.convert("CMYK"), "JPEG", quality=95)
    found = decode_image(cmyk, enough=150)
    assert (found.mode, found.size) == ("RGB", (200, 150))


_GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def _both(encoded: bytes) -> tuple[Any, Any]:
    """As RGB and as grey, with no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return to_array(decode_image(encoded)), to_array(decode_image(encoded, "gray"))


def _assert_grey(encoded: bytes, expected: Any) -> None:
    rgb, grey = _both(encoded)
    assert (rgb.dtype, grey.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(grey, expected[:, :, None])
    np.testing.assert_array_equal(rgb, np.repeat(expected[:, :, None], 3, 2))


def test_grey_pictures_become_rgb_or_stay() -> None:
    picture = Image.fromarray(_GREY)
    _assert_grey(_encoded(picture), _GREY)
    with_alpha = Image.merge("LA", [picture, Image.new("L", picture.size, 7)])
    _assert_grey(_encoded(with_alpha), _GREY)
    black_and_white = Image.fromarray((_GREY > 100).astype(np.uint8) * 255)
    _assert_grey(_encoded(black_and_white.convert("1")), np.where(_GREY > 100, 255, 0))


def test_sixteen_bits_keep_their_high_byte() -> None:
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
    high = (deep // 256).astype(np.uint8)
    assert high.max() > 200
    _assert_grey(_encoded(Image.fromarray(deep)), high)
    _assert_grey(_encoded(Image.fromarray(deep), "TIFF"), high)
    big_endian = Image.frombytes("I;16B", (8, 6), deep.astype(">u2").tobytes())
    _assert_grey(_encoded(big_endian, "TIFF"), high)
    _assert_grey(b"P5 8 6 65535\n" + deep.astype(">u2").tobytes(), high)


def test_colour_becomes_grey_by_bt_601() -> None:
    picture = _random(9, 7)
    rgb, grey = _both(_encoded(picture))
    np.testing.assert_array_equal(rgb, np.asarray(picture))
    luma = np.asarray(picture, np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(grey[:, :, 0] - luma).max() <= 0.51


def test_palettes_become_their_colours() -> None:
    picture = _random(8, 8).quantize(16)
    expected = np.array(picture.getpalette("RGB")).reshape(-1, 3)[np.asarray(picture)]
    for options in ({}, {"transparency": 3}, {"transparency": bytes(range(16))}):
        rgb, _ = _both(_encoded(picture, "PNG", **options))
        np.testing.assert_array_equal(rgb, expected)


def test_transparency_is_dropped_not_blended() -> None:
    picture = _random(8, 8, "RGBA")
    rgb, _ = _both(_encoded(picture))
    np.testing.assert_array_equal(rgb, np.asarray(picture)[:, :, :3])
    opaque = picture.convert("RGB")
    rgb, _ = _both(_encoded(opaque, "PNG", transparency=(1, 2, 3)))
    np.testing.assert_array_equal(rgb, np.asarray(opaque))


def test_cmyk_becomes_rgb() -> None:
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[:, :4] = (255, 0, 0, 0)
    inks[:, 4:] = (0, 0, 0, 255)
    rgb, _ = _both(_encoded(Image.frombytes("CMYK", (8, 8), inks.tobytes()), "TIFF"))
    np.testing.assert_array_equal(rgb[0, [0, 7]], [[0, 255, 255], [0, 0, 0]])
    rgb, _ = _both(_encoded(Image.frombytes("CMYK", (8, 8), inks.tobytes()), "JPEG", quality=95))
    assert np.abs(rgb[0, [0, 7]].astype(int) - [[0, 255, 255], [0, 0, 0]]).max() < 12


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        encoded = _encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        rgb, _ = _both(encoded)
        np.testing.assert_array_equal(rgb, np.asarray(frames[0]))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode}.*convert them to 8 or 16 bit"):
        decode_image(_encoded(Image.new(mode, (4, 4)), "TIFF"))


def test_what_is_no_whole_picture_is_refused() -> None:
    photograph = _encoded(_random(64, 64), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        decode_image(photograph[: len(photograph) // 2])
    for encoded in (b"", b"no picture", photograph[:1]):
        with pytest.raises(UnidentifiedImageError):
            decode_image(encoded)
    with pytest.raises((OSError, SyntaxError)):
        decode_image(_encoded(_random(64, 64))[:-200])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("bands", "colours", "extra"), [(3, 3, True), (4, 3, True), (4, 3, False)])
def test_of_a_tiff_marked_rgb_the_colours_are_taken(dtype: Any, bands: int, colours: int, extra: bool) -> None:
    numbers = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 9, bands)).astype(dtype)
    rgb, _ = _both(toy.tiff(numbers, colours, extra))
    np.testing.assert_array_equal(rgb, numbers[:, :, :3] >> (8 * (dtype == np.uint16)))


@pytest.mark.parametrize(
    ("bands", "colours", "dtype"), [(4, 1, np.uint16), (13, 1, np.uint16), (13, 3, np.uint8), (2, 1, np.uint16)]
)
def test_a_tiff_of_other_bands_says_what_to_do(
    bands: int, colours: int, dtype: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("PIL"), "propagate", False)  # pytest listens, most programs do not
    numbers = np.zeros((6, 9, bands), dtype)
    with (
        decode.silence_pillow(),
        pytest.raises(ValueError, match=r"Pillow cannot read this TIFF.* --data FILE\.py:DATASET"),
    ):
        decode_image(toy.tiff(numbers, colours))
    assert capfd.readouterr().err == ""


def test_a_tiff_whose_metadata_is_cut_off_is_an_error_and_no_warning() -> None:
    with decode.silence_pillow(), pytest.raises(ValueError, match="Pillow cannot read this TIFF"):
        decode_image(b"II*\0" + (8).to_bytes(4, "little") + b"\xff\xff" + bytes(30))


def test_pictures_above_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = _random(40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with decode.silence_pillow():  # up to twice the limit, without a warning, which would be an error here
        np.testing.assert_array_equal(to_array(decode_image(_encoded(picture))), np.asarray(picture))
        with pytest.raises(Image.DecompressionBombError, match="2025 pixels"):
            decode_image(_encoded(_random(45, 45)))
    with pytest.warns(Image.DecompressionBombWarning):
        decode_image(_encoded(picture))


def test_thirty_thousand_by_six_thousand_pixels_are_refused_undecoded() -> None:
    bomb = _encoded(Image.new("1", (30_000, 6_000)))
    assert len(bomb) < 100_000
    with pytest.raises(Image.DecompressionBombError, match="180000000 pixels"):
        decode_image(bomb)


def test_pixels_are_a_writable_copy() -> None:
    picture = _random(3, 2)
    array = to_array(picture)
    array[:] = 0
    assert np.asarray(picture).any()


def test_properties_by_hand() -> None:
    black_and_white = Image.fromarray(np.array([[0, 255], [0, 255], [0, 255]], np.uint8))
    assert picture_properties(black_and_white) == decode.ImageProperties(2, 3, 0.5, 0.5)
    white = picture_properties(Image.new("RGB", (5, 4), "white"))
    assert (white.width, white.height, white.brightness, white.contrast) == (5, 4, 1.0, 0.0)
    red = picture_properties(Image.new("RGB", (1, 1), (255, 0, 0)))
    assert red.brightness == pytest.approx(0.299, abs=0.002)


@given(_SIDES, _SIDES, st.integers(0, 5))
def test_properties_are_mean_and_deviation_of_the_luma(width: int, height: int, seed: int) -> None:
    picture = _random(width, height, "L", seed)
    found = picture_properties(picture)
    levels = np.asarray(picture, np.float64) / 255
    assert found.brightness == pytest.approx(levels.mean(), rel=1e-12)
    assert found.contrast == pytest.approx(levels.std(), rel=1e-9, abs=1e-12)
    assert (found.width, found.height) == (width, height)


def test_a_preview_of_floats_is_stretched_over_its_three_bands_together() -> None:
    floats = np.linspace(-3, 5, 3 * 10 * 11, dtype=np.float32).reshape(3, 10, 11)
    low, high = np.percentile(floats, [2, 98])
    expected = np.clip((np.moveaxis(floats.astype(float), 0, 2) - low) / (high - low), 0, 1) * 255
    shown = decode.make_preview(floats)
    assert (shown.mode, shown.size) == ("RGB", (11, 10))
    np.testing.assert_array_equal(np.asarray(shown), expected.round())


@pytest.mark.parametrize(
    ("channels", "asked", "bands"),
    [
        (3, (), (0, 1, 2)),
        (4, (), (0, 1, 2)),
        (10, (), (0, 1, 2)),
        (12, (), (3, 2, 1)),
        (13, (), (3, 2, 1)),
        (13, (7, 0, 12), (7, 0, 12)),
        (1, (), (0,)),
        (2, (), (0,)),
        (5, (4,), (4,)),
    ],
)
def test_a_preview_shows_the_chosen_bands(channels: int, asked: tuple[int, ...], bands: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (6, 9, channels), np.uint8)
    expected = numbers[:, :, bands] if len(bands) == 3 else numbers[:, :, bands[0]]
    np.testing.assert_array_equal(np.asarray(decode.make_preview(numbers, asked)), expected)


def test_previews_of_flat_and_broken_numbers_can_be_drawn() -> None:
    assert set(np.asarray(decode.make_preview(np.full((3, 4, 4), 7, np.float32))).ravel()) == {0}
    broken = np.array([[[np.nan, np.inf], [0, 1]]], np.float32)
    assert np.asarray(decode.make_preview(broken)).shape == (2, 2)
    half = np.zeros((1, 10, 10), np.float32)
    half[0, 0, 0] = 1  # percentiles alone would see nothing
    assert np.asarray(decode.make_preview(half))[0, 0] == 255
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16"):
        assert decode.make_preview(Image.new(mode, (3, 2))).mode in ("L", "RGB")


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((100, 40), 50, (50, 20)), ((40, 100), 50, (20, 50)), ((30, 20), 50, (30, 20)), ((300, 1), 30, (30, 1))],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_thumbnail_has_this_longest_side_and_is_never_enlarged(
    size: tuple[int, int], longest: int, expected: tuple[int, int], mode: str
) -> None:
    picture = Image.new("L", size, 120).convert(mode)
    with Image.open(io.BytesIO(encode_jpeg(picture, longest))) as found:
        assert (found.format, found.size, found.mode) == ("JPEG", expected, mode)
        assert np.abs(np.asarray(found).astype(int) - 120).max() <= 2
    assert picture.size == size


def _levels_off(width: int, height: int, short: int, side: int, mode: str, seed: int) -> np.ndarray[Any, Any]:
    """How many values are 0, 1, 2, … levels off when only the crop of some noise, the hardest there is, is resized."""
    picture = _random(width, height, mode, seed)
    full = to_array(resize_and_crop(picture, DecodeOptions(resize=short, crop=side)))
    fast = to_array(resize_and_crop(picture, DecodeOptions(resize=short, crop=side, only_crop=True)))
    assert full.shape == fast.shape
    return np.bincount(np.abs(full.astype(int) - fast.astype(int)).ravel(), minlength=4)


@settings(max_examples=60)
@given(
    st.integers(256, 420),
    st.integers(256, 420),
    st.integers(64, 255),
    st.integers(16, 64),
    st.sampled_from(["RGB", "L"]),
    st.integers(0, 2**16),
)
def test_resizing_only_the_crop_is_never_off_by_more_than_two_levels(
    width: int, height: int, short: int, side: int, mode: str, seed: int
) -> None:
    assert _levels_off(width, height, short, side, mode, seed)[3:].sum() == 0


def test_resizing_only_the_crop_is_hardly_ever_off_by_two_levels() -> None:
    assert _levels_off(256, 256, 207, 16, "RGB", 24620)[2] > 0  # it does happen: the documentation says so
    random = np.random.default_rng(0)
    off = np.zeros(4, np.int64)
    for seed in range(200):
        width, height = random.integers(256, 421, 2).tolist()
        off += _levels_off(width, height, int(random.integers(64, 256)), 64, "RGB", seed)
    assert off[1] < 0.01 * off.sum() and off[2] < 1e-5 * off.sum() and off[3] == 0


def test_a_crop_larger_than_the_resized_picture_is_padded_all_the_same() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    full = to_array(resize_and_crop(picture, DecodeOptions(resize=8, crop=16)))
    np.testing.assert_array_equal(
        to_array(resize_and_crop(picture, DecodeOptions(resize=8, crop=16, only_crop=True))), full
    )


def test_small_pictures_are_always_resized_whole() -> None:
    for size in ((255, 256), (32, 32)):
        picture = _random(*size)
        full = to_array(resize_and_crop(picture, DecodeOptions(resize=28, crop=24)))
        np.testing.assert_array_equal(
            to_array(resize_and_crop(picture, DecodeOptions(resize=28, crop=24, only_crop=True))), full
        )


def test_properties_of_a_large_picture_come_from_a_sample_that_is_close() -> None:
    ramp = np.linspace(0, 255, 600).astype(np.uint8)
    picture = Image.fromarray(np.tile(ramp, (500, 1)))
    found = picture_properties(picture)
    assert (found.width, found.height) == (600, 500)
    assert found.brightness == pytest.approx(np.asarray(picture).mean() / 255, abs=0.005)
    assert found.contrast == pytest.approx(np.asarray(picture).std() / 255, abs=0.005)
