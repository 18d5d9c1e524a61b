"""Decodes images: encoded bytes -> oriented, resized and cropped `uint8 [height, width, channels]`.

It uses Pillow and NumPy only, and knows nothing of torch or of runs.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from predboard.config import Channels, Exif, Interpolation
from predboard.images.manifest import PLUGINS

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}

CROP_ONLY_MIN_PIXELS = 256 * 256
"""Pictures with fewer pixels are always resized whole: that costs little, and interpolating the crop alone would be off
by two levels here and there."""

_PROPERTY_SIDE_PIXELS = 128
"""Pixels of the short side from which brightness and contrast are measured."""

_SENTINEL_2_CHANNELS = (12, 13)
"""Numbers of channels by which images of Sentinel-2 are recognised; bands 4, 3 and 2 are red, green and blue."""

Content = Image.Image | NDArray[Any]
"""A Pillow picture; uint8 [height, width, channels]; or float32 [channels, height, width], ready for a model."""


@dataclass(frozen=True)
class DecodeOptions:
    """Says how encoded bytes become pixels: channels, orientation, resize and crop."""

    resize: int | tuple[int, int] | None = None
    """Pixels of the short side, or (height, width)."""
    crop: int | None = None
    """Pixels a side of the centre crop, after the resize."""
    interpolation: Interpolation = "bilinear"
    channels: Channels = "rgb"
    exif: Exif = "ignore"
    only_crop: bool = False
    """Interpolate only what the crop keeps where a picture of at least `CROP_ONLY_MIN_PIXELS` is reduced, which is much
    less work. In noise, one value in 400 differs by one of 255 levels from the full resize and one in millions by two,
    because Pillow stores the box in single precision and rounds after each of its two passes. For bilinear alone:
    bicubic differs by up to 11."""
    corner: Literal["round", "floor"] = "round"
    """Rounding of the crop's corner: to the nearest pixel as in torchvision, or down as in transformers."""


@dataclass(frozen=True)
class ImageProperties:
    """Holds the properties of a source image, before any resize."""

    width: int
    height: int
    brightness: float | None
    """Mean luma (ITU-R BT.601), 0 to 1; None if the numbers have no agreed range."""
    contrast: float | None
    """Standard deviation of the luma, 0 to 0.5 (RMS contrast, Peli 1990); None likewise."""


@contextlib.contextmanager
def silence_pillow() -> Iterator[None]:
    """Keep Pillow from printing: each row's error says what is wrong with its image.

    Pillow warns of images above its size limit, which it decodes up to twice that size and refuses beyond, and of
    metadata that is cut off, and logs which TIFF files it cannot read. One thread enters this for all, because Python's
    warning filters are global.
    """
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)  # where a program has no handler of its own, Python would print to stderr
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        logger.removeHandler(handler)


def decode_image(
    encoded: bytes, channels: Channels = "rgb", exif: Exif = "ignore", enough: int | None = None
) -> Image.Image:
    """Decode the first frame to RGB or to grey.

    Transparency is dropped, not blended, and 16-bit values keep their high byte, as plain loaders for training do.

    Args:
        encoded: a file's bytes.
        channels: gray for grey, else RGB.
        exif: whether the orientation that the camera noted is applied.
        enough: pixels of the shorter side that are enough; a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size if no
            side gets shorter, which is much faster and as smooth as a reduction.

    Raises OSError, ValueError, SyntaxError or Image.DecompressionBombError if the bytes are not such an image.
    """
    with _open(encoded) as file:
        picture: Image.Image = file
        if enough is not None:
            file.draft("RGB" if channels == "rgb" else "L", (enough, enough))
        picture.load()
        if exif == "apply":
            picture = ImageOps.exif_transpose(picture)
        return convert_mode(picture, channels, file.format)


def _open(encoded: bytes) -> ImageFile:
    """Recognise a picture, with the help of the plugins for HEIC and AVIF where Pillow does not know it by itself."""
    try:
        return Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError:
        if encoded[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise ValueError(
                "Pillow cannot read this TIFF, which has several bands or more than 8 bits: read it in a dataset of "
                "your own, --data FILE.py:DATASET"
            ) from None
        if encoded[4:8] != b"ftyp":
            raise
        package = PLUGINS[".avif" if encoded[8:12] in (b"avif", b"avis") else ".heic"]
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            raise ValueError(f"Pillow cannot read this picture without {name}: pip install {name}") from None
    plugin = importlib.import_module(package)  # pillow_avif registers itself
    if hasattr(plugin, "register_heif_opener"):
        plugin.register_heif_opener()
    return Image.open(io.BytesIO(encoded))


def convert_mode(picture: Image.Image, channels: Channels, format_: str | None = None) -> Image.Image:
    """Convert a picture of any mode to RGB or grey, as `decode_image` does.

    Args:
        picture: of any mode.
        channels: gray for grey, else RGB.
        format_: Pillow's name of the file format; PNG and PPM have 16 bits where the mode says 32.

    Raises ValueError if the picture's values have no known range.
    """
    if "transparency" in picture.info:
        picture = picture.copy()
        del picture.info["transparency"]  # else Pillow warns that it drops it
    if picture.mode.startswith("I;16") or (picture.mode == "I" and format_ in ("PNG", "PPM")):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(
            f"images with 32-bit values (mode {picture.mode}) have no agreed range: convert them to 8 or 16 bit"
        )
    return picture.convert("L" if channels == "gray" else "RGB")


def to_pixels(content: Content, options: DecodeOptions) -> NDArray[Any]:
    """Return the pixels that go into a batch.

    Pillow pictures become RGB, BGR or grey and are resized and cropped, as uint8 arrays are; floats are ready already.

    -> uint8 [height, width, channels], or float32 [channels, height, width].

    Raises ValueError for a resize or crop of an array with other than 1 or 3 channels.
    """
    if isinstance(content, Image.Image):
        mode = "L" if options.channels == "gray" else "RGB"
        picture = content if content.mode == mode else convert_mode(content, options.channels)
        pixels = to_array(resize_and_crop(picture, options))
        return np.ascontiguousarray(pixels[:, :, ::-1]) if options.channels == "bgr" else pixels
    if content.dtype != np.uint8 or (options.resize is None and options.crop is None):
        return content
    if content.shape[2] not in (1, 3):
        raise ValueError(
            f"images with {content.shape[2]} channels can be neither resized nor cropped here: do it in the dataset, "
            "and leave out --resize and --crop"
        )
    return to_array(resize_and_crop(_to_picture(content), options))


def _to_picture(array: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def select_bands(content: NDArray[Any], bands: tuple[int, ...] = ()) -> NDArray[Any]:
    """Return the channels of an array that people see: [height, width, 1 or 3], of its own type.

    Args:
        content: uint8 [height, width, channels] or floats [channels, height, width].
        bands: which channels, from 0, are red, green and blue. The default is the first three, but the fourth, third
            and second of 12 or 13 channels, which are taken for Sentinel-2's.

    Raises ValueError for a band that does not exist.
    """
    whole = content if content.dtype == np.uint8 else np.moveaxis(content, 0, 2)  # [height, width, channels]
    channels = whole.shape[2]
    default = (3, 2, 1) if channels in _SENTINEL_2_CHANNELS else (0, 1, 2) if channels > 2 else (0,)
    chosen = list(bands or default)
    if max(chosen) >= channels:
        raise ValueError(f"there is no band {max(chosen)} in {channels} channels, counted from 0: see --preview-bands")
    return np.ascontiguousarray(whole[:, :, chosen])


def value_range(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return which floats are drawn black and white: the 2nd and 98th percentiles, or the extremes if those agree."""
    finite = np.nan_to_num(values.astype(np.float64))
    low, high = np.percentile(finite, [2, 98])
    if high <= low:
        low, high = finite.min(), max(finite.max(), finite.min() + 1)
    return float(low), float(high)


def make_preview(
    content: Content, bands: tuple[int, ...] = (), limits: tuple[float, float] | None = None
) -> Image.Image:
    """Return an image as people see it: RGB or grey.

    Pillow pictures are shown as they are, arrays by `select_bands`. Floats are stretched, all bands alike, so that
    black and white are their `value_range`.

    Args:
        content: the image.
        bands: which channels are shown.
        limits: a range of several images together; the one used covers it and that of this image.

    Raises ValueError for a band that does not exist, or a picture whose values have no known range.
    """
    if isinstance(content, Image.Image):
        return convert_mode(content, "gray" if content.mode in ("1", "L", "LA") or content.mode[0] == "I" else "rgb")
    bands_ = select_bands(content, bands)
    if bands_.dtype != np.uint8:
        low, high = value_range(bands_)
        if limits is not None:
            low, high = min(low, limits[0]), max(high, limits[1])
        stretched = (np.nan_to_num(bands_.astype(np.float64)) - low) / (high - low)
        bands_ = (np.clip(stretched, 0, 1) * 255).round().astype(np.uint8)
    return _to_picture(bands_)


def measure_properties(content: Content) -> ImageProperties:
    """Measure an image of any form; brightness and contrast only where values have an agreed range."""
    if isinstance(content, Image.Image):
        return picture_properties(make_preview(content))
    if content.dtype != np.uint8:
        return ImageProperties(content.shape[2], content.shape[1], None, None)
    if content.shape[2] not in (1, 3):
        return ImageProperties(content.shape[1], content.shape[0], None, None)
    return picture_properties(_to_picture(content))


def picture_properties(picture: Image.Image) -> ImageProperties:
    """Measure a decoded picture; brightness and contrast from every n-th pixel, n = short side / 128."""
    apart = max(min(picture.size) // _PROPERTY_SIDE_PIXELS, 1)
    sample = picture
    if apart > 1:
        sample = picture.resize((picture.width // apart, picture.height // apart), Image.Resampling.NEAREST)
    counts = np.array((sample if sample.mode == "L" else sample.convert("L")).histogram(), np.float64)  # [256]
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
    return ImageProperties(picture.width, picture.height, mean, variance**0.5)


def size_after_resize(width: int, height: int, options: DecodeOptions) -> tuple[int, int]:
    """Return width and height after the resize and before the crop; the long side is rounded down, as in torchvision.

    >>> size_after_resize(300, 200, DecodeOptions(resize=64, crop=32))
    (96, 64)
    """
    if options.resize is None:
        return width, height
    if isinstance(options.resize, tuple):
        return options.resize[1], options.resize[0]
    if width <= height:
        return options.resize, int(options.resize * height / width)
    return int(options.resize * width / height), options.resize


def resize_and_crop(picture: Image.Image, options: DecodeOptions) -> Image.Image:
    """Resize and crop a picture, rounding sizes and the crop's corner as torchvision does."""
    if options.resize is not None:
        width, height = size_after_resize(*picture.size, options)
        reduced = width < picture.width and picture.width * picture.height >= CROP_ONLY_MIN_PIXELS
        if options.only_crop and reduced and options.crop is not None and options.crop <= min(width, height):
            side, across, down = options.crop, picture.width / width, picture.height / height
            left, top = _corner((width, height), options)
            box = (left * across, top * down, (left + side) * across, (top + side) * down)
            return picture.resize((side, side), _FILTERS[options.interpolation], box=box)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), _FILTERS[options.interpolation])
    if options.crop is not None:
        left, top = _corner(picture.size, options)
        if left < 0 or top < 0:  # a smaller picture is padded with black; an odd pixel goes to the end
            odd = 1 if options.corner == "floor" else 0  # or, as in transformers, to the beginning
            pads = [((max(options.crop - side, 0) + odd) // 2) for side in picture.size]
            padded = Image.new(picture.mode, (max(picture.width, options.crop), max(picture.height, options.crop)))
            padded.paste(picture, (pads[0], pads[1]))
            picture = padded
            left, top = _corner(picture.size, options)
        picture = picture.crop((left, top, left + options.crop, top + options.crop))
    return picture


def _corner(size: tuple[int, int], options: DecodeOptions) -> tuple[int, int]:
    """Return left and top of the crop in a picture of (width, height)."""
    width, height = (side - (options.crop or 0) for side in size)
    if options.corner == "floor":
        return width // 2, height // 2
    return round(width / 2.0), round(height / 2.0)


def to_array(picture: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as uint8 [height, width, 3 or 1]."""
    array: NDArray[Any] = np.array(picture, np.uint8)  # a copy: Pillow lends its buffer read-only
    return array if array.ndim == 3 else array[:, :, None]


def encode_jpeg(picture: Image.Image, longest: int) -> bytes:
    """Return a JPEG file of a picture, reduced so that its longest side is at most `longest` pixels."""
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=90, subsampling=0)
    return encoded.getvalue()
