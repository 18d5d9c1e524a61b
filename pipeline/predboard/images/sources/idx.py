"""Reads pictures in Yann LeCun's IDX format, as MNIST has them, compressed or not. It knows nothing of class names.

The labels are in the file beside it that has `labels-idx1` in its name in place of `images-idx3`. A ref is FILE#NUMBER.
"""

import gzip

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.manifest import Manifest, SourceOptions, make_manifest
from predboard.images.shared_cache import shared_cache
from predboard.storage.paths import AnyPath

SUFFIXES = ("idx1-ubyte", "idx3-ubyte", "idx1-ubyte.gz", "idx3-ubyte.gz")
SHARDED = False


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one file. Raises InputError if it holds no pictures, or another number than of labels."""
    del options  # nothing in these files has a name
    (file,) = files
    pictures = _read_array(file)
    if pictures.ndim != 3:
        raise InputError(f"{file} holds {pictures.ndim}-dimensional data; expected pictures: name the file …idx3-ubyte")
    label = None
    beside = file.with_name(file.name.replace("images-idx3", "labels-idx1"))
    if beside != file and beside.exists():
        label = _read_array(beside).astype(np.int32)
        if label.shape != (len(pictures),):
            raise InputError(f"{beside.name} has {len(label)} labels for {len(pictures)} pictures in {file.name}")
    return make_manifest(file.parent, [f"{file.name}#{row}" for row in range(len(pictures))], label)


def read(file: AnyPath, member: str) -> bytes:
    """Return one picture as PGM, which Pillow reads. Raises FileNotFoundError if there is no such picture."""
    pictures = _read_array(file)
    if not member.isdecimal() or int(member) >= len(pictures):
        raise FileNotFoundError(2, "No such picture")
    picture = pictures[int(member)]
    return bytes(b"P5 %d %d 255\n" % picture.shape[::-1] + picture.tobytes())


@shared_cache(4)
def _read_array(file: AnyPath) -> NDArray[np.uint8]:
    """Return all of an IDX file: magic 0 0 type dimensions, big-endian sizes, data. Raises OSError if it is damaged."""
    data = file.read_bytes()
    if file.name.lower().endswith(".gz"):
        data = gzip.decompress(data)
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise OSError(f"{file} is not an IDX file of unsigned bytes")
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, offset=4).astype(int)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if values.size != shape.prod():
        raise OSError(f"{file} is cut short: it has {values.size} of {shape.prod()} bytes")
    return values.reshape(shape)
