"""Tells from its bytes whether a picture can be shown to a browser as it is. It decodes nothing, and knows no names."""

import struct
import zlib
from typing import NamedTuple

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"pHYs", b"sRGB"})
_JPEG_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xE0})
"""DHT, DQT, DRI and JFIF's APP0."""

_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive frames (ITU-T T.81, table B.1)."""


class PlainFile(NamedTuple):
    """What the header of a plain JPEG or PNG says."""

    width: int
    height: int
    jpeg_mode: str
    """Pillow's mode of a JPEG, `L` or `RGB`; empty for a PNG."""


def plain_file(content: bytes) -> PlainFile | None:
    """Return the header of a plain JPEG or PNG; None for everything else.

    Plain is a whole file of one picture in grey or RGB with 8 bits or fewer, which has nothing that a browser might
    apply and `decode` would not: no orientation, colour profile, transparency or second frame. Nor has it comments, the
    place where it was taken, or anything before or after the picture.

    >>> plain_file(b"GIF89a") is None
    True
    """
    try:
        if content.startswith(b"\xff\xd8"):
            return _plain_jpeg(content)
        if content.startswith(_PNG_START):
            return _plain_png(content)
    except (struct.error, IndexError):  # it ends within a header
        pass
    return None


def _plain_jpeg(content: bytes) -> PlainFile | None:
    if not content.endswith(b"\xff\xd9"):
        return None
    at, header = 2, None
    while content[at] == 0xFF:
        marker = content[at + 1]
        (length,) = struct.unpack_from(">H", content, at + 2)
        if marker in _JPEG_FRAMES and header is None:
            bits, height, width, components = struct.unpack_from(">BHHB", content, at + 4)
            if bits != 8 or components not in (1, 3):
                return None
            header = PlainFile(width, height, "L" if components == 1 else "RGB")
        elif marker == 0xDA:  # of what follows nothing can be said without decoding it
            return header
        elif marker not in _JPEG_TABLES:
            return None
        at += 2 + length
    return None


def _plain_png(content: bytes) -> PlainFile | None:
    at, kinds = len(_PNG_START), []
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        if kind not in _PNG_CHUNKS or zlib.crc32(content[at + 4 : at + 8 + length]) != checksum:
            return None
        kinds.append(kind)
        at += 12 + length
    width, height, bits, colour = struct.unpack_from(">IIBB", content, 16)
    is_whole = kinds[:1] == [b"IHDR"] and kinds[-1] == b"IEND" and b"IDAT" in kinds
    return PlainFile(width, height, "") if is_whole and bits <= 8 and colour in (0, 2, 3) else None
