"""Encoded bytes -> `uint8 [height, width, channels]`: decode, orient, resize, crop.

Pillow and NumPy only; knows no torch and no runs.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from predboard.config import Channels, Exif, Interpolation

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


LARGE = 256 * 256
"""Smaller pictures, and those that are enlarged, would be off by two levels here and there, and cost little."""


@dataclass(frozen=True)
class DecodeOptions:
    """What becomes of a picture before it is a number in a batch."""

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    interpolation: Interpolation = "bilinear"
    channels: Channels = "rgb"
    exif: Exif = "ignore"
    only_crop: bool = False
    """Where a picture of at least `LARGE` pixels is reduced, interpolate only what the crop keeps: much less work. Of
    noise, one value in 400 is one level of 255 off the full resize and one in millions two, because Pillow keeps the
    box in single precision and rounds after each of its two passes. For bilinear alone: bicubic is off by up to 11."""
    corner: Literal["round", "floor"] = "round"
    """How the crop's corner is rounded: as torchvision does, or down, as transformers does."""


@dataclass(frozen=True)
class ImageProperties:
    """Of the source picture, before any resize."""

    width: int
    height: int
    brightness: float | None
    """Mean luma (ITU-R BT.601), 0 to 1; None if the numbers have no agreed range."""
    contrast: float | None
    """Standard deviation of the luma, 0 to 0.5 (RMS contrast, Peli 1990); None likewise."""


Content = Image.Image | NDArray[Any]
"""A Pillow picture; uint8 [height, width, channels]; or float32 [channels, height, width], ready for a model."""


@contextlib.contextmanager
def silence_pillow() -> Iterator[None]:
    """Let Pillow say nothing on its own: rows say what is wrong with their pictures.

    It warns of pictures above its limit, which it decodes up to twice that and refuses beyond, and logs which TIFF it
    cannot read. To be entered by one thread for all, because Python keeps its filters of warnings for all together.
    """
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)  # where a program has no handler of its own, Python would print to stderr
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        logger.removeHandler(handler)


def decode_image(
    encoded: bytes, channels: Channels = "rgb", exif: Exif = "ignore", enough: int | None = None
) -> Image.Image:
    """Decode the first frame to RGB or to grey.

    If `enough` pixels a side will do, a JPEG comes at 1/2, 1/4 or 1/8 of its size where no side gets shorter than that:
    much faster, and as smooth as if it were reduced.

    Transparency is dropped, not blended; 16 bits keep their high byte; both as a plain loader for training does or
    should. Raises OSError, ValueError, SyntaxError or Image.DecompressionBombError if the bytes are no such picture.
    """
    try:
        file = Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError:
        if encoded[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise ValueError(
                "a TIFF that Pillow cannot read, of several bands or of more than 8 bits: read it in a dataset of your "
                "own, --data FILE.py:DATASET"
            ) from None
        raise
    with file:
        picture: Image.Image = file
        if enough is not None:
            file.draft("RGB" if channels == "rgb" else "L", (enough, enough))
        picture.load()
        if exif == "apply":
            picture = ImageOps.exif_transpose(picture)
        return convert_mode(picture, channels, file.format)


def convert_mode(picture: Image.Image, channels: Channels, format_: str | None = None) -> Image.Image:
    """A picture of any mode as RGB or grey, by the rules of `open_image`. Raises ValueError if its range is unknown."""
    if "transparency" in picture.info:
        picture = picture.copy()
        del picture.info["transparency"]  # else Pillow warns that it drops it
    if picture.mode.startswith("I;16") or (picture.mode == "I" and format_ in ("PNG", "PPM")):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(
            f"pictures of 32-bit numbers (mode {picture.mode}) have no agreed range: convert them to 8 or 16 bit"
        )
    return picture.convert("L" if channels == "gray" else "RGB")


def to_pixels(content: Content, shape: DecodeOptions) -> NDArray[Any]:
    """What a model's batch is made of: uint8 [height, width, channels] of a picture; ready floats as they are.

    A Pillow picture becomes RGB or grey; both kinds of pictures are resized and cropped. Raises ValueError for a resize
    or crop of other than 1 or 3 channels.
    """
    if isinstance(content, Image.Image):
        wanted = "L" if shape.channels == "gray" else "RGB"
        found = to_array(
            resize_and_crop(content if content.mode == wanted else convert_mode(content, shape.channels), shape)
        )
        return np.ascontiguousarray(found[:, :, ::-1]) if shape.channels == "bgr" else found
    if content.dtype != np.uint8 or (shape.resize is None and shape.crop is None):
        return content
    if content.shape[2] not in (1, 3):
        raise ValueError(
            f"pictures of {content.shape[2]} channels can be neither resized nor cropped here: do it in the dataset, "
            "and leave out --resize and --crop"
        )
    return to_array(resize_and_crop(_picture(content), shape))


def _picture(array: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def select_bands(content: NDArray[Any], bands: tuple[int, ...] = ()) -> NDArray[Any]:
    """The numbers of an array that a person is shown: [height, width, 1 or 3], of its own type.

    Of more than three channels these are `bands`, from 0, for red, green and blue. By default they are the first three,
    and of 12 or 13 channels, which are taken for those of Sentinel-2, the fourth, third and second. Raises ValueError
    for a band that is not there.
    """
    whole = content if content.dtype == np.uint8 else np.moveaxis(content, 0, 2)  # [height, width, channels]
    channels = whole.shape[2]
    chosen = list(bands or ((3, 2, 1) if channels in (12, 13) else (0, 1, 2) if channels > 2 else (0,)))
    if max(chosen) >= channels:
        raise ValueError(f"there is no band {max(chosen)} in {channels} channels, counted from 0: see --preview-bands")
    return np.ascontiguousarray(whole[:, :, chosen])


def value_range(shown: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """What is black and what is white in floats: their 2nd and their 98th percentile, or all if these are one."""
    finite = np.nan_to_num(shown.astype(np.float64))
    low, high = np.percentile(finite, [2, 98])
    if high <= low:
        low, high = finite.min(), max(finite.max(), finite.min() + 1)
    return float(low), float(high)


def make_preview(
    content: Content, bands: tuple[int, ...] = (), limits: tuple[float, float] | None = None
) -> Image.Image:
    """What a person is shown of it: RGB or grey.

    Pictures are shown as they are, other arrays by `select_bands`. Floats are stretched, all bands alike, so that
    `limits`, widened to the `value_range` this one, fill what can be seen. Raises ValueError for a band that is not
    there,
    and of a picture whose range is unknown.
    """
    if isinstance(content, Image.Image):
        return convert_mode(content, "gray" if content.mode in ("1", "L", "LA") or content.mode[0] == "I" else "rgb")
    shown = select_bands(content, bands)
    if shown.dtype != np.uint8:
        low, high = value_range(shown)
        if limits is not None:
            low, high = min(low, limits[0]), max(high, limits[1])
        shown = np.nan_to_num(shown.astype(np.float64))
        shown = (np.clip((shown - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    return _picture(shown)


def measure_properties(content: Content) -> ImageProperties:
    """Size, and of pictures of one or three channels brightness and contrast: other numbers have no agreed range."""
    if isinstance(content, Image.Image):
        return picture_properties(make_preview(content))
    if content.dtype != np.uint8:
        return ImageProperties(content.shape[2], content.shape[1], None, None)
    if content.shape[2] not in (1, 3):
        return ImageProperties(content.shape[1], content.shape[0], None, None)
    return picture_properties(_picture(content))


def picture_properties(picture: Image.Image) -> ImageProperties:
    """Size, brightness and contrast of a decoded picture, the latter from every n-th pixel, n = short side / 128."""
    apart = max(min(picture.size) // 128, 1)
    sample = picture
    if apart > 1:
        sample = picture.resize((picture.width // apart, picture.height // apart), Image.Resampling.NEAREST)
    counts = np.array((sample if sample.mode == "L" else sample.convert("L")).histogram(), np.float64)  # [256]
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
    return ImageProperties(picture.width, picture.height, mean, variance**0.5)


def size_after_resize(width: int, height: int, shape: DecodeOptions) -> tuple[int, int]:
    """Width and height of a picture before the crop, with torchvision's rounding: the long side is cut off.

    >>> size_after_resize(300, 200, DecodeOptions(resize=64, crop=32))
    (96, 64)
    """
    if shape.resize is None:
        return width, height
    if isinstance(shape.resize, tuple):
        return shape.resize[1], shape.resize[0]
    if width <= height:
        return shape.resize, int(shape.resize * height / width)
    return int(shape.resize * width / height), shape.resize


def resize_and_crop(picture: Image.Image, shape: DecodeOptions) -> Image.Image:
    """Resize and crop, with torchvision's rounding, also of the crop's corner."""
    if shape.resize is not None:
        width, height = size_after_resize(*picture.size, shape)
        reduced = width < picture.width and picture.width * picture.height >= LARGE
        if shape.only_crop and reduced and shape.crop is not None and shape.crop <= min(width, height):
            side, across, down = shape.crop, picture.width / width, picture.height / height
            left, top = _corner((width, height), shape)
            box = (left * across, top * down, (left + side) * across, (top + side) * down)
            return picture.resize((side, side), _FILTERS[shape.interpolation], box=box)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), _FILTERS[shape.interpolation])
    if shape.crop is not None:
        left, top = _corner(picture.size, shape)
        if left < 0 or top < 0:  # what is smaller than the crop is padded with black, the odd pixel at the end
            odd = 1 if shape.corner == "floor" else 0  # or at the beginning
            pads = [((max(shape.crop - side, 0) + odd) // 2) for side in picture.size]
            padded = Image.new(picture.mode, (max(picture.width, shape.crop), max(picture.height, shape.crop)))
            padded.paste(picture, (pads[0], pads[1]))
            picture = padded
            left, top = _corner(picture.size, shape)
        picture = picture.crop((left, top, left + shape.crop, top + shape.crop))
    return picture


def _corner(size: tuple[int, int], shape: DecodeOptions) -> tuple[int, int]:
    """Left and top of the crop in a picture of (width, height)."""
    width, height = (side - (shape.crop or 0) for side in size)
    return (width // 2, height // 2) if shape.corner == "floor" else (round(width / 2.0), round(height / 2.0))


def to_array(picture: Image.Image) -> NDArray[np.uint8]:
    """[height, width, 3 or 1] uint8."""
    array: NDArray[Any] = np.array(picture, np.uint8)  # a copy: Pillow lends its buffer read-only
    return array if array.ndim == 3 else array[:, :, None]


def encode_jpeg(picture: Image.Image, longest: int) -> bytes:
    """JPEG of a picture whose longest side is at most `longest` pixels."""
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=90, subsampling=0)
    return encoded.getvalue()
