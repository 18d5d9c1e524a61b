"""Reads a list of images as a text file: a path on each line, and maybe a label after it. It knows nothing of pixels.

Paths are relative to the file's folder or to --image-root, as `val.txt` of ImageNet and of Caffe has them.
"""

import codecs
import re
from dataclasses import replace

import pyarrow as pa

from predboard.errors import InputError
from predboard.images.columns import list_table
from predboard.images.manifest import Manifest, SourceOptions, image_suffixes
from predboard.storage.paths import AnyPath, read_bytes

SUFFIXES = (".txt",)
SHARDED = False

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ID_AND_LABEL = re.compile(r"([^\s,;#'\"][^\s,;]*)[\s,;]+(\S+)")
_SEVERAL = re.compile(r"\d+([\s,;]+\d+)+")
"""Labels of several classes."""


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one list. Raises InputError for a line that does not begin with the path of an image."""
    (file,) = files
    content = read_bytes(file, options.max_read_gb)
    try:
        lines = content.decode("utf-16" if content[:2] in _UTF_16 else "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: save it as UTF-8") from error
    suffixes = "|".join(map(re.escape, image_suffixes()))
    line_form = re.compile(rf"(\S.*?(?:{suffixes}))(?:[\s,;]+(\S.*?))?\s*", re.IGNORECASE)
    first = next(filter(str.strip, lines), "").strip()
    form = line_form if line_form.fullmatch(first) else _ID_AND_LABEL
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = form.fullmatch(line.strip())
        if match is None:
            raise InputError(f"{file} has {line[:60]!r} in line {number}; expected the path of an image, and its label")
        if options.sets is None and _SEVERAL.fullmatch(match[2] or ""):
            raise InputError(
                f"{file} has several labels in line {number}: {match[2][:60]!r}; expected one, or --task multi-label"
            )
        paths.append(match[1])
        labels.append(match[2])
    columns = {"image": pa.chunked_array([pa.array(paths, pa.string())])}
    if any(labels):
        columns["label"] = pa.chunked_array([pa.array(labels, pa.string())])
    sets = None if options.sets is None else replace(options.sets, column=None)
    fixed = SourceOptions(image_root=options.image_root, classes=options.classes, sets=sets)
    return list_table(pa.table(columns), file, fixed)
