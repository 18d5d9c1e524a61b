"""Encoded bytes -> `uint8 [height, width, channels]`: decode, orient, resize, crop.

Pillow and NumPy only; knows no torch and no runs.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.config import Channels, Exif, Interpolation

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


LARGE = 256 * 256
"""Smaller pictures, and those that are enlarged, would be off by two levels here and there, and cost little."""


@dataclass(frozen=True)
class Shape:
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


@dataclass(frozen=True)
class Properties:
    """Of the source picture, before any resize."""

    width: int
    height: int
    brightness: float
    """Mean luma (ITU-R BT.601), 0 to 1."""
    contrast: float
    """Standard deviation of the luma, 0 to 0.5 (RMS contrast, Peli 1990)."""


def open_image(encoded: bytes, channels: Channels = "rgb", exif: Exif = "ignore") -> Image.Image:
    """Decode the first frame to RGB or to grey.

    Transparency is dropped, not blended; 16-bit grey keeps its high byte; both as a plain loader for training does or
    should. Raises OSError, ValueError, SyntaxError or Image.DecompressionBombError if the bytes are no such picture.
    """
    with Image.open(io.BytesIO(encoded)) as file:
        picture: Image.Image = file
        picture.load()
        if exif == "apply":
            picture = ImageOps.exif_transpose(picture)
        picture.info.pop("transparency", None)  # else Pillow warns that it drops it
        if picture.mode.startswith("I;16") or (picture.mode == "I" and file.format in ("PNG", "PPM")):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        elif picture.mode in ("I", "F"):
            raise ValueError(
                f"pictures of 32-bit numbers (mode {picture.mode}) have no agreed range: convert them to 8 or 16 bit"
            )
        return picture.convert("RGB" if channels == "rgb" else "L")


def properties(picture: Image.Image) -> Properties:
    """Size, brightness and contrast of a decoded picture, the latter from every n-th pixel, n = short side / 128."""
    apart = max(min(picture.size) // 128, 1)
    sample = picture
    if apart > 1:
        sample = picture.resize((picture.width // apart, picture.height // apart), Image.Resampling.NEAREST)
    counts = np.array((sample if sample.mode == "L" else sample.convert("L")).histogram(), np.float64)  # [256]
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
    return Properties(picture.width, picture.height, mean, variance**0.5)


def resized(picture: Image.Image, shape: Shape) -> Image.Image:
    """Resize and crop, with torchvision's rounding: the long side is cut off, the crop's corner is rounded."""
    if shape.resize is not None:
        if isinstance(shape.resize, tuple):
            height, width = shape.resize
        elif picture.width <= picture.height:
            width, height = shape.resize, int(shape.resize * picture.height / picture.width)
        else:
            width, height = int(shape.resize * picture.width / picture.height), shape.resize
        reduced = width < picture.width and picture.width * picture.height >= LARGE
        if shape.only_crop and reduced and shape.crop is not None and shape.crop <= min(width, height):
            side, across, down = shape.crop, picture.width / width, picture.height / height
            left, top = round((width - side) / 2.0), round((height - side) / 2.0)
            box = (left * across, top * down, (left + side) * across, (top + side) * down)
            return picture.resize((side, side), _FILTERS[shape.interpolation], box=box)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), _FILTERS[shape.interpolation])
    if shape.crop is not None:
        left, top = round((picture.width - shape.crop) / 2.0), round((picture.height - shape.crop) / 2.0)
        if left < 0 or top < 0:  # torchvision pads what is smaller than the crop with black, the odd pixel at the end
            pads = [(max(shape.crop - side, 0) // 2) for side in picture.size]
            padded = Image.new(picture.mode, (max(picture.width, shape.crop), max(picture.height, shape.crop)))
            padded.paste(picture, (pads[0], pads[1]))
            picture = padded
            left, top = round((picture.width - shape.crop) / 2.0), round((picture.height - shape.crop) / 2.0)
        picture = picture.crop((left, top, left + shape.crop, top + shape.crop))
    return picture


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """[height, width, 3 or 1] uint8."""
    array: NDArray[Any] = np.array(picture, np.uint8)  # a copy: Pillow lends its buffer read-only
    return array if array.ndim == 3 else array[:, :, None]


def jpeg(picture: Image.Image, longest: int) -> bytes:
    """JPEG of a picture whose longest side is at most `longest` pixels."""
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=90, subsampling=0)
    return encoded.getvalue()
