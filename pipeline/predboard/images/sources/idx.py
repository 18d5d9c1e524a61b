"""Reads pictures in Yann LeCun's IDX format, as MNIST has them, compressed or not. It knows nothing of class names.

The labels are in the file beside it that has `labels-idx1` in its name in place of `images-idx3`. A ref is FILE#NUMBER.
"""

import gzip
import io
import math
import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.manifest import Manifest, SourceOptions, make_manifest
from predboard.images.shared_cache import shared_cache
from predboard.storage.paths import AnyPath, check_size, read_bytes

SUFFIXES = ("idx1-ubyte", "idx3-ubyte", "idx1-ubyte.gz", "idx3-ubyte.gz")
SHARDED = False

_ROW_BYTES = 200
"""Memory that the name of a row takes."""


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one file. Raises InputError if it holds no pictures, or another number than of labels."""
    (file,) = files
    pictures = _read_array(file, options.max_read_gb)
    if pictures.ndim != 3:
        raise InputError(f"{file} holds {pictures.ndim}-dimensional data; expected pictures: name the file …idx3-ubyte")
    if not pictures.size:
        sides = "×".join(map(str, pictures.shape))
        raise InputError(f"{file} holds {sides} pixels (pictures×height×width); expected at least one")
    label = None
    beside = file.with_name(file.name.replace("images-idx3", "labels-idx1"))
    if beside != file and beside.exists():
        label = _read_array(beside, options.max_read_gb).astype(np.int32)
        if label.shape != (len(pictures),):
            raise InputError(f"{beside.name} has {len(label)} labels for {len(pictures)} pictures in {file.name}")
    return make_manifest(file.parent, [f"{file.name}#{row}" for row in range(len(pictures))], label)


def read(file: AnyPath, member: str, max_read_gb: float) -> bytes:
    """Return one picture as PGM, which Pillow reads. Raises FileNotFoundError if there is no such picture."""
    pictures = _read_array(file, max_read_gb)
    if not member.isdecimal() or int(member) >= len(pictures):
        raise FileNotFoundError(2, "No such picture")
    picture = pictures[int(member)]
    return bytes(b"P5 %d %d 255\n" % picture.shape[::-1] + picture.tobytes())


@shared_cache(4)
def _read_array(file: AnyPath, max_read_gb: float) -> NDArray[np.uint8]:
    """Return all of an IDX file: magic 0 0 type dimensions, big-endian sizes, data. Raises OSError if it is damaged."""
    stream: BinaryIO = io.BytesIO(read_bytes(file, max_read_gb))
    if file.name.lower().endswith(".gz"):
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]  # it has all methods of one
    head = stream.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08":
        raise OSError("it is not an IDX file of unsigned bytes")
    sides = stream.read(4 * head[3])
    if len(sides) < 4 * head[3]:
        raise OSError("it is cut short in its header")
    shape = struct.unpack(f">{head[3]}I", sides)
    size = math.prod(shape)  # not NumPy's, which would wrap around
    check_size(size + _ROW_BYTES * (shape[0] if shape else 0), max_read_gb)
    values = np.frombuffer(stream.read(size + 1), np.uint8)
    if values.size != size:
        raise OSError(f"it is cut short or too long: its header says {size:,} bytes, it has {_count(values, size)}")
    return values.reshape(shape)


def _count(values: NDArray[np.uint8], size: int) -> str:
    return "more" if values.size > size else f"{values.size:,}"
