"""Names the folder of predictions after data and model. It knows nothing of either but its name.

The Makefile runs this file by itself, before there is anything to import, so it needs nothing but Python.
"""

import re
import sys
from pathlib import Path

DATA_SUFFIXES = re.compile(
    r"\.(csv|tsv|jsonl|ndjson|txt|parquet|tar|zip)$|[-.]?(images[-.])?idx[13]-ubyte(\.gz)?$", re.IGNORECASE
)
"""Endings of files of images, which the name of a run does without."""

_PATTERN = re.compile(r"[-_.]*(\{[^{}]*\}|[*?]|\[[^\[\]]*\])")
"""Patterns that stand for several files in a name, with the characters that join them to the rest."""


def default_out(data: str, model: str) -> Path:
    """Return the folder for the predictions of a model on data: predictions/DATA-FILE-FACTORY.

    >>> default_out("photos/test.zip", "nets/small.py:build").as_posix()
    'predictions/test-small-build'
    >>> [default_out("tiles.py:val", m).name for m in ("timm:resnet18.a1_in1k", "hf:out/vit", "out/net.pt2")]
    ['val-timm-resnet18.a1_in1k', 'val-hf-vit', 'val-net']
    >>> [default_out(d, "n.pt2").name for d in ("s/shard-{000..012}.tar", "v1.0/", "t10k-images-idx3-ubyte.gz", ".")]
    ['shard-n', 'v1.0-n', 't10k-n', 'data-n']
    """
    file, colon, name = data.rpartition(":")
    images = name if file.endswith(".py") and name.isidentifier() else Path(data).name
    images = _PATTERN.sub("", DATA_SUFFIXES.sub("", images))
    file, colon, factory = model.rpartition(":")
    name = f"{Path(file).stem.replace(':', '-')}-{Path(factory).name}" if colon else Path(model).stem
    return Path("predictions") / f"{images or 'data'}-{name}"


if __name__ == "__main__":
    sys.stdout.write(f"{default_out(*sys.argv[1:]).as_posix()}\n")
