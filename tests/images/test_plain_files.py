"""Which files may reach a browser as they are: Pillow writes them, and says what they are."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from predboard.images import decode
from predboard.images.plain_files import PlainFile, plain_file
from predboard.visualization.source_images import ReadImage
from predboard.visualization.thumbnails import is_thumbnail


def encoded(format_: str, mode: str = "RGB", size: tuple[int, int] = (20, 15), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(file, format_, **options)
    return file.getvalue()


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """Insert a chunk after the header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize(
    ("content", "jpeg_mode"),
    [
        (encoded("JPEG"), "RGB"),
        (encoded("JPEG", progressive=True, subsampling=2), "RGB"),
        (encoded("JPEG", "L"), "L"),
        (encoded("PNG"), ""),
        (encoded("PNG", "L"), ""),
        (encoded("PNG", "P"), ""),
        (encoded("PNG", "1"), ""),
    ],
)
def test_plain_files_are_decoded_to_the_same_pixels(content: bytes, jpeg_mode: str) -> None:
    assert plain_file(content) == PlainFile(20, 15, jpeg_mode)
    expected = decode.decode_image(content)
    pixels = ReadImage(content, "apply").decode(8)
    assert (pixels.mode, pixels.size, pixels.tobytes()) == ("RGB", (20, 15), expected.tobytes())
    assert is_thumbnail(ReadImage(content, "apply"))


def exif() -> Image.Exif:
    turned = Image.Exif()
    turned[0x0112] = 6
    return turned


JPEG, PNG = encoded("JPEG"), encoded("PNG")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        JPEG[:2],
        JPEG[:30],
        JPEG[:-1],
        JPEG + b"more",
        JPEG[:2] + JPEG[-2:],
        encoded("JPEG", "CMYK"),
        encoded("JPEG", exif=exif()),
        encoded("JPEG", icc_profile=b"profile"),
        encoded("JPEG", comment=b"taken at home"),
        PNG[:-1],
        PNG[:-12],
        PNG + b"more",
        PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:],
        encoded("PNG", "RGBA"),
        encoded("PNG", "LA"),
        encoded("PNG", "I;16"),
        encoded("PNG", "P", transparency=0),
        with_chunk(PNG, b"gAMA", struct.pack(">I", 100_000)),
        with_chunk(PNG, b"acTL", struct.pack(">II", 2, 0)),
        with_chunk(PNG, b"tEXt", b"Comment\0<script>"),
        encoded("GIF", "P"),
        encoded("WEBP"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_whatever_has_more_or_less_than_a_picture_is_not_plain(content: bytes) -> None:
    assert plain_file(content) is None


def test_a_large_file_is_no_thumbnail() -> None:
    for content, small in ((encoded("PNG", size=(50, 50)), True), (encoded("PNG", size=(120, 120)), False)):
        assert is_thumbnail(ReadImage(content, "ignore")) == small
    assert not is_thumbnail(ReadImage(encoded("PNG", "1", (129, 4)), "ignore"))


def test_a_damaged_jpeg_is_decoded_as_far_as_pillow_does() -> None:
    damaged = JPEG[:-30] + JPEG[-2:]
    assert ReadImage(damaged, "ignore").decode().tobytes() == decode.decode_image(damaged).tobytes()
    with pytest.raises(OSError, match="truncated"):
        ReadImage(JPEG[:-40], "ignore").decode()
