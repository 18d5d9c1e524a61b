"""Holds the manifest: the ordered list of the images of a run, with their labels. It knows nothing of pixels or models.

A ref alone is enough to find a picture again, relative to the manifest's root:

    folder/name.jpg              a file; absolute paths, file:// and s3:// URIs as well
    shard-000.tar#key.jpg        a member of an archive, .zip likewise
    train-0.parquet#17           row 17 of the first column of encoded images; `#17:column` of another column
    t10k-images-idx3-ubyte.gz#5  picture 5 of an IDX file

`images.sources` makes manifests of files and folders and reads refs; `images.datasets` makes those of torch datasets.
"""

import functools
import importlib.util
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images.label_lists import LabelOptions
from predboard.images.label_values import check_labels, refuse_from_minus_1
from predboard.predictions.arrow import as_arrow, from_values
from predboard.predictions.digests import digest_list, digest_manifest
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import hash_refs
from predboard.storage.part_plan import plan_parts
from predboard.storage.paths import (
    CREDENTIALS_PATTERN,
    MAX_READ_GB,
    AnyPath,
    check_reachable,
    is_uri,
    join_ref,
    refuse_secrets,
)

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
PLUGINS = {".avif": "pillow_avif", ".heic": "pillow_heif", ".heif": "pillow_heif"}
"""The package that Pillow needs for files of these endings, unless it was built with their decoder."""

_CONTAINER = re.compile(r"(?i)(?:\.zip|\.tar|\.parquet|idx[13]-ubyte(?:\.gz)?)#")
"""The end of a container's name in a ref, and the mark between it and the member."""

_NOT_CANONICAL = re.compile(r"\\|//|(^|[/#])\.\.?(/|$)")
"""Parts of a path that another path to the same file does without."""


def _no_columns() -> pa.Table:
    return pa.table({})


@dataclass(frozen=True)
class Manifest:
    """Lists the images of a run in order. Row i of every column belongs to the image whose id is i."""

    root: str
    """Folder that the refs are relative to."""
    image: pa.StringArray
    """[rows] refs, with / between folders."""
    label: Labels
    """[rows] index into `classes`, -1 where the label is unknown; or sets of such indices."""
    key: NDArray[np.int64]
    """[rows] hash of the ref, or of the value of --key-column."""
    classes: tuple[str, ...]
    """Class names in the order of the labels; empty if the source has none."""
    columns: pa.Table = field(default_factory=_no_columns)
    """[rows] all other columns that the source has, as slices and metadata."""
    dataset: Any = None
    """The `datasets.DatasetSource` whose items the rows are; None where the refs are enough to read the images."""
    dataset_index: NDArray[np.int64] | None = None
    """[rows] index in the dataset; None without one."""
    notes: tuple[str, ...] = ()
    """Notes for the user about the source, a line each: files that are no rows, for example."""
    reading: str = ""
    """Reading of labels that are no plain names, for the user; empty if there is nothing to say."""
    from_minus_1: bool = False
    """Whether the labels are written as the whole numbers from −1 on, and nothing has named the classes yet."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.image)

    @property
    def is_dataset(self) -> bool:
        """Return whether the rows are items of a torch dataset, rather than files that refs name."""
        return self.dataset is not None

    @property
    def is_remote(self) -> bool:
        """Return whether the images are in object storage, judged by the root and the first ref."""
        return is_uri(self.root) or (bool(len(self)) and is_uri(str(self.image[0].as_py())))

    @property
    def origin(self) -> str:
        """Return the name of the dataset, or the root folder, for messages."""
        return self.root if self.dataset is None else str(self.dataset.name)

    @property
    def class_label(self) -> NDArray[np.int32]:
        """[rows] index into `classes`, -1 where the label is unknown. Raises TypeError if rows have several labels."""
        if isinstance(self.label, MultiLabels):
            raise TypeError("the rows have sets of labels, and not one label each")
        return self.label.astype(np.int32, copy=False)

    @property
    def unlabelled(self) -> int:
        """Number of rows without a label. One that is known to have none of several labels is labelled."""
        if isinstance(self.label, MultiLabels):
            return int((~self.label.labelled).sum())
        return int((self.label < 0).sum())

    def digest(self, start: int, stop: int) -> str:
        """Return 16 hexadecimal digits that change with any ref, label or further column of rows start to stop."""
        return digest_manifest(
            self.image.slice(start, stop - start), self.label[start:stop], self.columns.slice(start, stop - start)
        )

    def list_digest(self, shard_size: int) -> str:
        """Return 16 hexadecimal digits of all rows, from the digests of the parts that this size makes of them."""
        return digest_list(self.digest(part.start, part.stop) for part in plan_parts(len(self), shard_size))

    def fit_labels(self, classes: int) -> "Manifest":
        """Return the manifest with labels for so many classes: beyond them, those of a dataset are unknown.

        Raises InputError if there are such labels in a list or folder: they are of other classes, or count from 1; and
        if they count from −1.
        """
        if isinstance(self.label, MultiLabels):
            sets = self.label.labels
            check_labels(sets.label, classes, lambda i: f"{self.image[int(sets.row[i])]} in {self.origin} has")
            dataset = replace(self.dataset, width=classes) if self.is_dataset else None
            return replace(self, label=self.label.settled(classes), dataset=dataset)
        if self.from_minus_1 and not self.classes:
            refuse_from_minus_1(int(self.label.max()) + 1, classes, self.origin)
        if not self.is_dataset:
            check_labels(self.label, classes, lambda row: f"{self.image[row]} in {self.origin} has")
        return replace(self, label=limit_labels(self.label, classes))

    def with_classes(self, classes: tuple[str, ...]) -> "Manifest":
        """Return the manifest with these class names, in this order.

        Labels follow their names into the new order, and become -1 where a name is not among the new ones. Without
        names so far, labels are indices already and stay.
        """
        if classes == self.classes:
            return self
        if not self.classes:
            return replace(self.fit_labels(len(classes)), classes=classes)
        index = {name: i for i, name in enumerate(classes)}
        if isinstance(self.label, MultiLabels):
            return self._with_sets(np.array([index.get(name, -1) for name in self.classes], np.int64), classes)
        new_label = np.array([index.get(name, -1) for name in self.classes] + [-1], np.int32)  # the last one is for -1
        return replace(self, label=new_label[self.label], classes=classes)

    def _with_sets(self, new_label: NDArray[np.int64], classes: tuple[str, ...]) -> "Manifest":
        """Return the manifest with each class of its sets at its new place. Raises InputError if a label has none."""
        label = cast(MultiLabels, self.label)
        moved = []
        for sets in (label.labels, label.unknown):
            place = new_label[sets.label]
            if (lost := place < 0).any():
                name = self.classes[int(sets.label[int(lost.argmax())])]
                raise InputError(f"{self.origin} has labels that are no class ({name!r}): see --classes")
            moved.append(LabelSets.from_pairs(sets.row, place, len(sets)))
        return replace(self, label=MultiLabels(moved[0], moved[1], label.labelled), classes=classes)

    def limit(self, rows: int | None) -> "Manifest":
        """Return at most `rows` rows, chosen evenly over the data by the hash of their keys, in their order."""
        if rows is None or rows >= len(self):
            return self
        chosen = np.sort(np.argsort(mix(self.key, Salt.LIMIT), kind="stable")[:rows])
        return self.take(chosen)

    def take(self, rows: NDArray[np.integer[Any]]) -> "Manifest":
        """Return these rows, in this order."""
        taken = as_arrow(np.asarray(rows), pa.int64())
        return replace(
            self,
            image=self.image.take(taken),
            label=self.label[rows],
            key=self.key[rows],
            columns=self.columns.take(taken) if self.columns.num_columns else self.columns,
            dataset_index=None if self.dataset_index is None else self.dataset_index[rows],
        )


@dataclass(frozen=True)
class SourceOptions:
    """Holds what the user says about a source of images; the fields are flags of `predboard infer`."""

    image_column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    image_root: AnyPath | None = None
    classes: tuple[str, ...] = ()
    """Class names in the order of the model's outputs. Images whose label is not among them are unlabelled."""
    max_read_gb: float = MAX_READ_GB
    """Gigabytes that one piece of the data may take in memory."""
    sets: LabelOptions | None = None
    """How several labels of an image are written; None where each image has one label."""
    labels_matter: bool = True
    """Whether a table without a recognised column of labels is refused if another column could be the labels."""


def make_manifest(
    root: AnyPath,
    refs: Sequence[str] | pa.Array,
    label: Labels | None = None,
    classes: tuple[str, ...] = (),
    columns: pa.Table | None = None,
    key: Iterable[str] | None = None,
    notes: tuple[str, ...] = (),
    origin: object = None,
) -> Manifest:
    """Return the manifest of these refs, after the checks that every source needs.

    Args:
        root: the folder that the refs are relative to.
        refs: [rows], with / between folders.
        label: [rows] index into `classes`, -1 where unknown; by default all are. Or sets of such indices.
        classes: names of the classes.
        columns: [rows] further columns.
        key: [rows] texts that identify the images; by default the refs.
        notes: lines for the user.
        origin: what was listed, for messages; by default the root.

    Raises InputError if there are no refs, if a name is not valid UTF-8, or if a URI has a secret in it; StorageError
    if the storage of the first ref cannot be reached.
    """
    origin = origin or root
    if not len(refs):
        what = "".join(f" ({note})" for note in notes)
        raise InputError(f"no images in {origin}{what}: expected files that end in {' '.join(image_suffixes())}")
    try:
        image = from_values(refs, pa.string()) if isinstance(refs, list) else pa.array(refs, pa.string())
        from_values(classes, pa.string())  # names of folders without images as well
    except UnicodeEncodeError as error:
        name = str(error.object).encode(errors="surrogateescape")
        raise InputError(f"{origin} has a name that is not valid UTF-8, {str(name)[2:-1]}: rename it") from error
    refuse_secret_refs(image)
    check_reachable(join_ref(str(root), str(image[0].as_py())))  # otherwise every single image would be tried
    keys = hash_refs(image.to_pylist() if key is None else key)
    if label is None:
        label = np.full(len(image), -1, np.int32)
    return Manifest(str(root), image, label, keys, classes, _no_columns() if columns is None else columns, notes=notes)


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Return the endings of the names of image files, in lower case; upper case is read too."""
    from PIL import features

    def can_read(end: str, package: str) -> bool:
        name = end.removeprefix(".")  # only these are asked for: Pillow's check of tkinter imports it
        return (name in features.modules and features.check(name)) or importlib.util.find_spec(package) is not None

    more = (end for end, package in PLUGINS.items() if can_read(end, package))
    return (*_SUFFIXES, *more)


def split_ref(ref: str) -> tuple[str, str]:
    """Return container and member of a ref; an empty container if it is a file.

    >>> split_ref("s/x.zip#a#1/b.zip#2.png"), split_ref("a#1/b.png")
    (('s/x.zip', 'a#1/b.zip#2.png'), ('', 'a#1/b.png'))
    """
    if "#" not in ref or (match := _CONTAINER.search(ref)) is None:
        return "", ref
    return ref[: match.end() - 1], ref[match.end() :]


def canonical_member(name: str) -> str:
    r"""Return the one name for a member of an archive, with / between folders and nothing superfluous.

    >>> [canonical_member(name) for name in ("./a//1.png", "//a\\1.png", "../a/1.png")]
    ['a/1.png', 'a/1.png', 'a/1.png']
    """
    return re.sub(r"^(\.\./)+", "", posixpath.normpath(name.replace("\\", "/").lstrip("/")))


def canonical_ref(ref: str) -> str:
    r"""Return the one ref for a path that a user may write in several ways; URIs are left as they are.

    >>> [canonical_ref(ref) for ref in ("./a//x.png", "a\\x.png", "x.zip#./a/x.png", "s3://b/a/x.png")]
    ['a/x.png', 'a/x.png', 'x.zip#a/x.png', 's3://b/a/x.png']
    """
    if is_uri(ref) or not _NOT_CANONICAL.search(ref):
        return ref
    container, member = split_ref(ref.replace("\\", "/"))
    if not container:
        return posixpath.normpath(member)
    return f"{posixpath.normpath(container)}#{canonical_member(member) if member else ''}"


def canonical_refs(refs: pa.ChunkedArray) -> list[str]:
    """Return `canonical_ref` of each; when all are canonical already, a twentieth of the time."""
    if not pc.any(pc.match_substring_regex(refs, _NOT_CANONICAL.pattern)).as_py():
        return list(refs.to_pylist())
    return [canonical_ref(ref) for ref in refs.to_pylist()]


def limit_labels(label: NDArray[Any], classes: int) -> NDArray[np.int32]:
    """Return labels [rows] as int32, with -1 for those outside 0 to `classes` - 1."""
    return np.where((label >= 0) & (label < classes), label, -1).astype(np.int32)


def refuse_secret_refs(refs: pa.StringArray) -> None:
    """Raise InputError if any ref is a URI with a password, a key or a signature in it."""
    secret = refs.filter(pc.match_substring_regex(refs, CREDENTIALS_PATTERN))
    if len(secret):
        refuse_secrets(secret[0].as_py())
