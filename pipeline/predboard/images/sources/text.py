"""Reads a list of images as a text file: a path on each line, and maybe a label after it. It knows nothing of pixels.

Paths are relative to the file's folder or to --image-root, as `val.txt` of ImageNet and of Caffe has them.
"""

import re

import pyarrow as pa

from predboard.errors import InputError
from predboard.images.columns import list_table
from predboard.images.manifest import IMAGE_SUFFIXES, Manifest, SourceOptions
from predboard.storage.paths import AnyPath

SUFFIXES = (".txt",)
SHARDED = False

_LINE = re.compile(rf"(\S.*?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))(?:[\s,;]+(\S.*?))?\s*", re.IGNORECASE)


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one list. Raises InputError for a line that does not begin with the path of an image."""
    (file,) = files
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: save it as UTF-8") from error
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(f"{file} has {line[:60]!r} in line {number}; expected the path of an image, and its label")
        paths.append(match[1])
        labels.append(match[2])
    columns = {"image": pa.chunked_array([pa.array(paths, pa.string())])}
    if any(labels):
        columns["label"] = pa.chunked_array([pa.array(labels, pa.string())])
    return list_table(pa.table(columns), file, SourceOptions(None, None, None, options.image_root, options.classes))
