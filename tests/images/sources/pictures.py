"""Three classes of four pictures, that the tests of this folder write as every kind of source."""

from pathlib import Path

from predboard.images.manifest import Manifest
from predboard.images.sources import read


def files(folder: Path) -> list[tuple[str, str, bytes]]:
    """(ref, class, bytes) of every picture, in order."""
    paths = sorted(folder.glob("*/*.png"))
    return [(p.relative_to(folder).as_posix(), p.parent.name, p.read_bytes()) for p in paths]


def same_bytes(manifest: Manifest, expected: list[bytes]) -> None:
    assert [read(manifest.root, ref) for ref in manifest.image.to_pylist()] == expected
