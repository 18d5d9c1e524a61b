"""Lists a folder of images, on this machine or in object storage. It knows nothing of pixels.

Symlinks are followed, and names that start with a dot are left out.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images.class_folders import describe_left_out, is_hidden, refuse_splits, sort_into_classes
from predboard.images.manifest import Manifest, SourceOptions, image_suffixes, make_manifest, split_ref
from predboard.storage.paths import AnyPath, is_remote

SUFFIXES: tuple[str, ...] = ()
SHARDED = False

_MAX_WAYS = 50
"""Paths to one folder over two links or more: among n folders that link to each other there are over n factorial."""


@dataclass(frozen=True)
class Tree:
    """Lists all visible files and folders below a folder, by their names relative to it, with / between folders."""

    root: AnyPath
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Files that are no images by their names."""
    folders: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    """Folders that are listed under another name as well, because of a link."""

    def add(self, name: str) -> None:
        """Add a file of this name."""
        (self.images if name.lower().endswith(image_suffixes()) else self.others).append(name)


def list_images(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Return the manifest of one folder."""
    del options  # its names say everything
    return from_tree(list_tree(files[0]))


def list_tree(root: AnyPath) -> Tree:
    """List a folder with all that is below it. Raises InputError if it cannot be listed."""
    tree = Tree(root)
    if is_remote(root):
        start = len(root.uri) + 1
        for path in root.walk_files():  # a single listing, page by page
            name = path.uri[start:]
            if not any(map(is_hidden, name.split("/"))):
                tree.add(name)
        tree.folders.extend({name.rpartition("/")[0] for name in [*tree.images, *tree.others]} - {""})
        return tree
    try:
        _walk(tree, root, "", frozenset(), Counter())
    except OSError as error:
        raise InputError(f"cannot list {error.filename or root}: {error.strerror}") from error
    return tree


def _walk(tree: Tree, folder: Path, inside: str, above: frozenset[Path], ways: Counter[Path], links: int = 0) -> None:
    """Add what is below `folder`, whose name in the tree is `inside`, with so many links; it lies in `above`."""
    real = folder.resolve()
    if real in above:  # a symlink to one of them would never end
        return
    ways[real] += 1
    if ways[real] > 1:
        tree.repeated.append(inside)
    if ways[real] > _MAX_WAYS and links > 1:
        raise InputError(f"{folder} can be reached by more than {_MAX_WAYS} ways: remove links between folders")
    with os.scandir(folder) as entries:
        seen = [(e.name, _is_folder(e), e.is_symlink()) for e in entries if not is_hidden(e.name)]
    for name, is_folder, is_link in sorted(seen):
        whole = f"{inside}/{name}" if inside else name
        if is_folder:
            tree.folders.append(whole)
            _walk(tree, folder / name, whole, above | {real}, ways, links + is_link)
        else:
            tree.add(whole)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself
        return False


def from_tree(tree: Tree) -> Manifest:
    """Return the manifest of a folder that was listed. Raises InputError if there are no images in it."""
    sorted_ = sort_into_classes(tree.images, tree.folders)
    refuse_splits(sorted_, tree.root, f"name one, for example --data {tree.root}/SPLIT")
    notes = describe_left_out(sorted_.beside, tree.others)
    if tree.repeated:
        count, first = plural(len(tree.repeated), "folder"), ", ".join(tree.repeated[:3])
        notes += (f"links list {count} once more, so that its images count again: {first}",)
    for name in tree.images:
        if (container := split_ref(name)[0]) and (tree.root / container).is_file():
            raise InputError(f"{tree.root / name} is named like a member of {container} beside it: rename it")
    if not sorted_.names:
        where = f" in its {plural(len(sorted_.classes), 'folder')}" if sorted_.classes else ""
        also = f" ({notes[-1]})" if tree.others else ""
        raise InputError(
            f"no images in {tree.root}{also}: expected files{where} that end in {' '.join(image_suffixes())}"
        )
    root = tree.root / sorted_.top if sorted_.top else tree.root
    return make_manifest(root.resolve(), sorted_.names, sorted_.label, sorted_.classes, notes=notes)
