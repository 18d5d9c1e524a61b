"""Where images come from: folder, table, Parquet, tar, zip or IDX -> manifest; ref -> encoded bytes.

Knows nothing of models or pixels. All of it may be in object storage. A ref alone is enough to find a picture again:

    folder/name.jpg              a file, relative to the root; absolute paths, file:// and s3:// as well
    shard-000.tar#key.jpg        a member of an archive; .zip likewise
    train-0.parquet#17           row 17 of the first column of encoded images; `#17:column` of another
    t10k-images-idx3-ubyte.gz#5  picture 5 of an IDX file
"""

import functools
import gzip
import json
import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predboard.errors import InputError, first_line
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import hash_refs, rename_reserved_columns
from predboard.storage.paths import (
    CREDENTIALS_PATTERN,
    AnyPath,
    arrow_source,
    check_reachable,
    is_remote,
    is_uri,
    join_ref,
    open_binary,
    parse_path,
    refuse_secrets,
)
from predboard.storage.remote import RemotePath

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of image files, in lower case; upper case is read too."""

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "target", "category", "cls", "label_name", "class_name", "y")
"""Columns that are taken for the image and the label where none is named, the first that is there."""


def _no_columns() -> pa.Table:
    return pa.table({})


@dataclass(frozen=True)
class Manifest:
    """The ordered list of inputs. Row i of every column is the image of id i."""

    root: str
    """Folder that the refs are relative to."""
    image: pa.StringArray
    """[rows] refs with / between folders."""
    label: NDArray[np.int32]
    """[rows], -1 if unknown."""
    key: NDArray[np.int64]
    """[rows] hash of the ref."""
    classes: tuple[str, ...]
    """Names of the labels; empty if the source has none."""
    columns: pa.Table = field(default_factory=_no_columns)
    """[rows] whatever else the source says of its images."""
    dataset: Any = None
    """A `datasets.Source` that the rows are items of; None if the refs say all."""
    place: NDArray[np.int64] | None = None
    """[rows] index in the dataset."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.image)

    @property
    def far(self) -> bool:
        """Whether the images are in storage, as far as the first one tells."""
        return is_uri(self.root) or (bool(len(self)) and is_uri(str(self.image[0].as_py())))

    @property
    def origin(self) -> str:
        """For messages: the dataset, else the folder."""
        return self.root if self.dataset is None else str(self.dataset.name)

    def digest(self, start: int, stop: int) -> str:
        """16 hexadecimal digits that change with any ref, label or column of rows start to stop."""
        hashed = blake2b(digest_size=8)
        refs = self.image.slice(start, stop - start).to_pylist()
        further = (
            self.columns.slice(start, stop - start).to_pylist() if self.columns.num_columns else [None] * len(refs)
        )
        for ref, label, more in zip(refs, self.label[start:stop].tolist(), further, strict=True):
            line = json.dumps([ref, label] if more is None else [ref, label, more], default=str, sort_keys=True)
            hashed.update(line.encode("ascii") + b"\n")
        return hashed.hexdigest()

    def within(self, classes: int) -> "Manifest":
        """Labels that no output stands for count as unknown."""
        return replace(self, label=_known(self.label, classes))

    def named(self, classes: tuple[str, ...]) -> "Manifest":
        """With these names, in their order: labels are found by their names, or are indices where they had none."""
        if classes == self.classes:
            return self
        place = {name: i for i, name in enumerate(classes)}
        into = np.array([place.get(name, -1) for name in self.classes] + [-1], np.int32)  # the last for -1
        return replace(
            self, label=into[self.label] if self.classes else _known(self.label, len(classes)), classes=classes
        )

    def limit(self, rows: int | None) -> "Manifest":
        """At most this many rows, chosen evenly over the data by the hash of their keys, in their order."""
        if rows is None or rows >= len(self):
            return self
        chosen = np.sort(np.argsort(mix(self.key, Salt.LIMIT), kind="stable")[:rows])
        take = pa.array(chosen)
        return replace(
            self,
            image=self.image.take(take),
            label=self.label[chosen],
            key=self.key[chosen],
            columns=self.columns.take(take) if self.columns.num_columns else self.columns,
            place=None if self.place is None else self.place[chosen],
        )


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read; the fields are the flags of `predboard infer`."""

    image_column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    image_root: AnyPath | None = None
    classes: tuple[str, ...] = ()
    """Names in the order of the model's outputs; what is not among them is no label."""


def open_source(data: str, options: SourceOptions | None = None) -> Manifest:
    """Manifest of a source of images, told by what is there.

    A folder: class folders in plain sorted order, the files of a class sorted by folder and name, as torchvision's
    ImageFolder has them; symlinks are followed; names that start with a dot are left out. A lone top folder that itself
    holds folders is descended. A folder without class folders is a list of images without labels; one of Parquet or
    tar files is read as those files. A file: .csv, .tsv, .jsonl, .parquet, .tar, .zip, or IDX. `{000..012}` in a name
    stands for several.

    Raises InputError if there is no such thing, no images in it, or a column that is named is not there.
    """
    options = options or SourceOptions()
    files = [parse_path(name) for name in _braces(data)]
    if absent := next((f for f in files if not f.exists()), None):
        raise InputError(f"no folder {absent}, nor a file: expected one sub-folder of images for each class, or a list")
    if len(files) == 1 and files[0].is_dir():
        folder = files[0].resolve()
        if is_remote(folder):
            inside = _inside(folder)  # all of it by one listing
            right_in = [name for name in inside if len(name.parts) == 1 and name.suffix in (".parquet", ".tar")]
            files = [folder / str(name) for name in sorted(right_in, key=lambda name: (name.suffix, str(name)))]
            if not files or any(name.name.lower().endswith(IMAGE_SUFFIXES) for name in inside):
                return _asked(_remote_folder(folder, inside), options)
        else:
            files = [p for end in ("*.parquet", "*.tar") for p in sorted(folder.glob(end))]
            if not files or _has_pictures(folder):
                return _asked(_folder(data, folder), options)
    try:
        return _reader(files[0])(tuple(f.resolve() for f in files), options)
    except InputError:
        raise
    except (
        pa.ArrowException,
        zipfile.BadZipFile,
        tarfile.TarError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ) as error:
        raise InputError(f"cannot read {data}: {first_line(error)}") from error


def _braces(pattern: str) -> list[str]:
    """Names that a pattern with `{000..012}` or `{a,b}` stands for.

    >>> _braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    if not (found := re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)):
        return [pattern]
    first, last, listed = found.groups()
    if listed is not None:
        middle = listed.split(",")
    else:
        middle = [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    return [name for m in middle for name in _braces(pattern[: found.start()] + m + pattern[found.end() :])]


def _reader(file: AnyPath) -> Callable[[tuple[AnyPath, ...], SourceOptions], Manifest]:
    name = file.name.lower()
    if re.search(r"idx[13]-ubyte(\.gz)?$", name):
        return _idx
    readers: dict[str, Callable[[tuple[AnyPath, ...], SourceOptions], Manifest]]
    readers = {".csv": _table, ".tsv": _table, ".jsonl": _table, ".ndjson": _table, ".parquet": _parquet}
    readers |= {".tar": _tar, ".zip": _zip}
    if file.suffix.lower() not in readers:
        raise InputError(f"{file} is no source of images: expected a folder, {', '.join(readers)}, or an IDX file")
    return readers[file.suffix.lower()]


def _has_pictures(folder: Path) -> bool:
    folders, files = _listed(folder)
    return bool(files) or any(_listed(folder / name) != ([], []) for name in folders)


def _manifest(
    root: AnyPath,
    refs: Sequence[str] | pa.Array,
    label: NDArray[np.int32],
    classes: tuple[str, ...],
    columns: pa.Table | None = None,
    key: Iterable[str] | None = None,
) -> Manifest:
    if not len(refs):
        raise InputError(f"no images in {root}: looked for {' '.join(IMAGE_SUFFIXES)}")
    try:
        image = pa.array(refs, pa.string())
        pa.array(classes, pa.string())  # of a folder without images as well
    except UnicodeEncodeError as error:
        raise InputError(f"{root} has a file name that is not valid UTF-8 ({error}): rename it") from error
    refuse_secret_refs(image)
    check_reachable(join_ref(str(root), str(image[0].as_py())))  # or every single image would be tried
    keys = hash_refs(image.to_pylist() if key is None else key)
    return Manifest(str(root), image, label, keys, classes, _no_columns() if columns is None else columns)


def refuse_secret_refs(refs: pa.StringArray) -> None:
    """Raise InputError if any ref is a URI with a password, a key or a signature in it."""
    secret = pc.index(pc.match_substring_regex(refs, CREDENTIALS_PATTERN), True).as_py()
    if secret >= 0:
        refuse_secrets(refs[secret].as_py())


def _asked(manifest: Manifest, options: SourceOptions) -> Manifest:
    """The manifest with the classes that were asked for, if any were."""
    return manifest.named(options.classes) if options.classes else manifest


def _known(label: NDArray[Any], classes: int) -> NDArray[np.int32]:
    return np.where((label >= 0) & (label < classes), label, -1).astype(np.int32)


def _folder(data: str, root: Path) -> Manifest:
    refs: list[str] = []
    labels = []
    try:
        folders, files = _listed(root)
        above = {root}
        while len(folders) == 1 and not files and _listed(root / folders[0])[0]:
            if (inner := (root / folders[0]).resolve()) in above:
                break  # a symlink to where it lies
            root = inner
            above.add(root)
            folders, files = _listed(root)
        for label, folder in enumerate(folders):
            found = sorted(_images(root / folder, frozenset({root})))
            refs += (f"{folder}/{inside}/{name}" if inside else f"{folder}/{name}" for inside, name in found)
            labels += [np.full(len(found), label, np.int32)]
    except OSError as error:
        raise InputError(f"cannot list {error.filename or data}: {error.strerror}") from error
    if not folders:
        refs = files
        labels = [np.full(len(files), -1, np.int32)]
    if not refs:
        raise InputError(
            f"no images in {data}: looked for {' '.join(IMAGE_SUFFIXES)} in {max(len(folders), 1)} folders"
        )
    return _manifest(root, refs, np.concatenate(labels), tuple(folders))


def _inside(folder: RemotePath) -> list[PurePosixPath]:
    """All objects in a folder but hidden ones, relative to it."""
    start = len(folder.uri) + 1
    names = [PurePosixPath(place.uri[start:]) for place in folder.walk_files()]
    return [name for name in names if not any(part.startswith(".") for part in name.parts)]


def _remote_folder(root: RemotePath, inside: list[PurePosixPath]) -> Manifest:
    """`_folder` of object storage, where there are folders only as far as there is something in them."""
    data = root
    while True:
        folders = sorted({name.parts[0] for name in inside if len(name.parts) > 1})
        files = sorted(str(n) for n in inside if len(n.parts) == 1 and n.name.lower().endswith(IMAGE_SUFFIXES))
        if len(folders) != 1 or files or all(len(name.parts) < 3 for name in inside):
            break
        root /= folders[0]
        inside = [PurePosixPath(*name.parts[1:]) for name in inside if len(name.parts) > 1]
    if folders:
        images = [name for name in inside if len(name.parts) > 1 and name.name.lower().endswith(IMAGE_SUFFIXES)]
        images.sort(key=lambda n: (n.parts[0], "/".join(n.parts[1:-1]), n.name))
        place = {folder: label for label, folder in enumerate(folders)}
        files, label = list(map(str, images)), np.array([place[n.parts[0]] for n in images], np.int32)
    else:
        label = np.full(len(files), -1, np.int32)
    if not files:
        raise InputError(
            f"no images in {data}: looked for {' '.join(IMAGE_SUFFIXES)} in {max(len(folders), 1)} folders"
        )
    return _manifest(root, files, label, tuple(folders))


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the sub-folders and of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        seen = [(e.name, _is_folder(e)) for e in entries if not e.name.startswith(".")]
    names = sorted(name for name, is_folder in seen if not is_folder and name.lower().endswith(IMAGE_SUFFIXES))
    return sorted(name for name, is_folder in seen if is_folder), names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself
        return False


def _images(folder: Path, above: frozenset[Path], inside: str = "") -> Iterator[tuple[str, str]]:
    """(folder inside the class, file name) of every image below a class folder; `above` are the folders it lies in."""
    real = folder.resolve()
    if real in above:  # a symlink to one of them: there would be no end
        return
    folders, files = _listed(folder)
    yield from ((inside, name) for name in files)
    for name in folders:
        yield from _images(folder / name, above | {real}, f"{inside}/{name}" if inside else name)


def _zip(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Class folders inside an archive, read in place, by the same rules as a folder."""
    (file,) = _alone(files)
    with _zip_opened(file) as archive:
        names = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
    names = [n for n in names if not any(part.startswith((".", "__MACOSX")) for part in n.parts)]
    names = [n for n in names if n.name.lower().endswith(IMAGE_SUFFIXES)]
    skip = 0
    while names and len({n.parts[skip] for n in names}) == 1 and all(len(n.parts) > skip + 2 for n in names):
        skip += 1
    names.sort(key=lambda n: (n.parts[skip], "/".join(n.parts[skip + 1 : -1]), n.name))
    foldered = all(len(n.parts) > skip + 1 for n in names)
    classes = tuple(sorted({n.parts[skip] for n in names})) if foldered else ()
    place = {name: i for i, name in enumerate(classes)}
    label = np.array([place.get(n.parts[skip], -1) for n in names], np.int32)
    return _asked(_manifest(file.parent, [f"{file.name}#{n}" for n in names], label, classes), options)


def _alone(files: tuple[AnyPath, ...]) -> tuple[AnyPath, ...]:
    if len(files) != 1:
        raise InputError(f"{len(files)} files of the kind of {files[0].name}; expected one")
    return files


def _table(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """A list of images: a row for each, with columns for path and label."""
    (file,) = _alone(files)
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        table = pyarrow.json.read_json(arrow_source(file, whole=True))
    else:
        separator = "\t" if file.suffix.lower() == ".tsv" else ","
        options_ = pyarrow.csv.ParseOptions(delimiter=separator)
        table = pyarrow.csv.read_csv(arrow_source(file, whole=True), parse_options=options_)
        if binary := next((f.name for f in table.schema if pa.types.is_binary(f.type)), None):
            raise InputError(f"{file} is not UTF-8 in column {binary!r}: save it as UTF-8")
    return _from_table(table, file, options)


def _from_table(table: pa.Table, file: AnyPath, options: SourceOptions) -> Manifest:
    image = _column(table, options.image_column, IMAGE_COLUMNS, file, "--image-column")
    if image is None:
        raise InputError(f"{file} has no column of images; it has {_some(table)}: name it by --image-column")
    if table.column(image).null_count:
        row = pc.index(table.column(image).is_null(), True).as_py()
        raise InputError(f"{file} has no image in row {row} of column {image!r}: fill it or leave the row out")
    root: AnyPath = file.parent if options.image_root is None else options.image_root.resolve()
    return _labelled(table, file, image, table.column(image).cast(pa.string()).to_pylist(), root, options)


def _labelled(
    table: pa.Table, file: AnyPath, image: str, refs: list[str], root: AnyPath, options: SourceOptions
) -> Manifest:
    """Manifest of a table whose refs are known: labels, key and further columns."""
    if not refs:
        raise InputError(f"{file} has no rows; expected one for each image")
    name = _column(table, options.label_column, LABEL_COLUMNS, file, "--label-column")
    label, classes = _labels(table, name, file, options)
    if options.key_column is not None and options.key_column not in table.column_names:
        raise InputError(f"{file} has no column {options.key_column!r}; it has {_some(table)}: see --key-column")
    key = None if options.key_column is None else map(str, table.column(options.key_column).to_pylist())
    kept = [n for n in table.column_names if n not in (image, name) and not _is_bytes(table.schema.field(n).type)]
    further = table.select(kept).replace_schema_metadata(None)
    further = further.rename_columns(rename_reserved_columns(kept)) if kept else None
    return _manifest(root, refs, label, classes, None if further is None else further.combine_chunks(), key)


def _column(table: pa.Table, asked: str | None, usual: Sequence[str], file: AnyPath, flag: str) -> str | None:
    if twice := next((n for n in table.column_names if table.column_names.count(n) > 1), None):
        raise InputError(f"{file} has two columns of the name {twice!r}: rename one")
    if asked is not None and asked not in table.column_names:
        raise InputError(f"{file} has no column {asked!r}; it has {_some(table)}: see {flag}")
    if asked is not None:
        return asked
    lower = {name.lower(): name for name in reversed(table.column_names)}
    return next((lower[name] for name in usual if name in lower), None)


def _some(table: pa.Table) -> str:
    return ", ".join(table.column_names[:12]) + ("…" if len(table.column_names) > 12 else "")


def _labels(
    table: pa.Table, name: str | None, file: AnyPath, options: SourceOptions
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """(labels, class names): names from --classes, else Hugging Face's metadata, else sorted from the labels."""
    if name is None:
        return np.full(len(table), -1, np.int32), options.classes
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        index = np.asarray(column.cast(pa.float64()).fill_null(-1))  # pandas makes floats of indices if one is missing
        index = np.where(np.isnan(index), -1, index)
        if len(odd := index[index % 1 != 0]):
            raise InputError(f"{file} has label {odd[0]:g} in {name!r}; expected class names or indices")
        classes = options.classes or _hugging_face_names(table.schema, name)
        return _known(index, len(classes) or 2**31), classes
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(kind(column.type) for kind in texts):
        raise InputError(f"{file} has labels of type {column.type} in {name!r}; expected class names or indices")
    names = column.to_pylist()
    classes = options.classes or tuple(sorted({n for n in names if n not in (None, "")}))
    place = {n: i for i, n in enumerate(classes)}
    return np.array([place.get(n, -1) for n in names], np.int32), classes


def _hugging_face_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Class names that `datasets` writes into a Parquet file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _is_bytes(type_: pa.DataType) -> bool:
    """Whether a column holds encoded images: bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(type_):
        return bool(type_.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _parquet(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """Parquet with the encoded images inside, one file or many; without any, a list of images."""
    schema = pq.read_schema(arrow_source(files[0]))
    inside = [f.name for f in schema if _is_bytes(f.type)]
    if not inside or options.image_column in set(schema.names) - set(inside):
        (file,) = _alone(files)
        return _from_table(pq.read_table(arrow_source(file, whole=True)), file, options)
    if options.image_column is not None and options.image_column not in inside:
        raise InputError(f"{files[0]} has no column {options.image_column!r}: see --image-column")
    image = options.image_column or inside[0]
    tables, refs = [], []
    for file in files:
        names = [f.name for f in pq.read_schema(arrow_source(file)) if not _is_bytes(f.type)]
        table = pq.read_table(arrow_source(file), columns=names)
        tables.append(table)
        end = "" if image == inside[0] else f":{image}"
        refs += [f"{file.name}#{row}{end}" for row in range(pq.read_metadata(arrow_source(file)).num_rows)]
    table = pa.concat_tables(tables, promote_options="default")
    if not table.num_columns:  # nothing but images
        return _manifest(files[0].parent, refs, np.full(len(refs), -1, np.int32), options.classes)
    return _labelled(table, files[0], image, refs, files[0].parent, options)


def _tar(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """WebDataset: members that share a name up to its first dot are one row: the image, `.cls`, `.json`."""
    refs: list[str] = []
    rows: list[dict[str, Any]] = []
    for file in files:
        by_stem: dict[str, list[str]] = {}
        for member in _tar_archive(str(file)).members:
            if not member.rpartition("/")[2].startswith("."):  # as macOS leaves them beside
                by_stem.setdefault(_stem(member), []).append(member)
        for stem, members in by_stem.items():
            of_row = {name[len(stem) + 1 :].lower(): name for name in members}
            image = next((name for end, name in of_row.items() if f".{end}".endswith(IMAGE_SUFFIXES)), None)
            if image is None:
                continue
            row: dict[str, Any] = {}
            if "json" in of_row:
                try:
                    found = json.loads(_tar_read(str(file), of_row["json"]))
                except ValueError as error:
                    raise InputError(f"{file.name}#{of_row['json']} is no JSON: {first_line(error)}") from error
                row |= found if isinstance(found, dict) else {}
            if "cls" in of_row:
                text = _tar_read(str(file), of_row["cls"]).decode().strip()
                row["cls"] = int(text) if re.fullmatch(r"-?\d+", text) else text
            refs.append(f"{file.name}#{image}")
            rows.append(row)
        _tar_archive(str(file)).texts.clear()
    named = options if options.label_column or not any("cls" in r for r in rows) else _with_cls(options)
    names = list(dict.fromkeys(name for row in rows for name in row))  # not every row has all of them
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    if not names:
        return _manifest(files[0].parent, refs, np.full(len(refs), -1, np.int32), options.classes)
    return _labelled(table, files[0], "", refs, files[0].parent, named)


def _with_cls(options: SourceOptions) -> SourceOptions:
    return SourceOptions(options.image_column, "cls", options.key_column, options.image_root, options.classes)


def _stem(member: str) -> str:
    folder, _, name = member.rpartition("/")
    stem = name.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _idx(files: tuple[AnyPath, ...], options: SourceOptions) -> Manifest:
    """IDX pictures, gz or not, with the labels in the file beside that has `labels-idx1` in its name."""
    (file,) = _alone(files)
    pictures = _idx_array(str(file))
    if pictures.ndim != 3:
        raise InputError(
            f"{file} holds {pictures.ndim}-dimensional data; expected pictures: the file with idx3 in its name"
        )
    beside = file.with_name(file.name.replace("images-idx3", "labels-idx1"))
    label = np.full(len(pictures), -1, np.int32)
    if beside != file and beside.exists():
        label = _idx_array(str(beside)).astype(np.int32)
        if label.shape != (len(pictures),):
            raise InputError(f"{beside.name} has {len(label)} labels for {len(pictures)} pictures in {file.name}")
    classes = options.classes
    refs = [f"{file.name}#{row}" for row in range(len(pictures))]
    return _manifest(file.parent, refs, _known(label, len(classes)) if classes else label, classes)


@functools.lru_cache(maxsize=4)
def _idx_array(file: str) -> NDArray[np.uint8]:
    """All of an IDX file (Yann LeCun's format: magic 0 0 type dimensions, big-endian sizes, data)."""
    data = parse_path(file).read_bytes()
    if file.endswith(".gz"):
        data = gzip.decompress(data)
    if data[:3] != b"\0\0\x08":
        raise OSError(f"{file} is no IDX file of unsigned bytes")
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, offset=4).astype(int)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if values.size != shape.prod():
        raise OSError(f"{file} is cut short: {values.size} of {shape.prod()} bytes")
    return values.reshape(shape)


@dataclass(frozen=True)
class _Tar:
    members: dict[str, tuple[int, int]]
    """Name -> (offset, length), so that any of them is one read."""
    texts: dict[str, bytes]
    """Of an object, what `.json` and `.cls` members hold: it is read through for the index, in large pieces."""


@functools.lru_cache(maxsize=64)
def _tar_archive(file: str) -> _Tar:
    """Of an uncompressed tar."""
    place = parse_path(file)
    if not is_remote(place):
        with tarfile.open(file, "r:") as archive:
            return _Tar({m.name: (m.offset_data, m.size) for m in archive if m.isfile()}, {})
    found = _Tar({}, {})
    with open_binary(place, 2**23) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for m in archive:
            if m.isfile():
                found.members[m.name] = (m.offset_data, m.size)
                if m.name.lower().endswith((".json", ".cls")) and (text := archive.extractfile(m)):
                    found.texts[m.name] = text.read()
    return found


def _tar_read(file: str, member: str) -> bytes:
    with _turn(file):
        archive = _tar_archive(file)
    if member in archive.texts:
        return archive.texts[member]
    try:
        offset, length = archive.members[member]
    except KeyError as error:
        raise FileNotFoundError(2, "No such member") from error
    place = parse_path(file)
    with open_binary(place) as stream:
        stream.seek(offset)
        return bytes(stream.read(length))


def _zip_opened(place: AnyPath) -> zipfile.ZipFile:
    return zipfile.ZipFile(open_binary(place, 2**17) if is_remote(place) else place)


@functools.lru_cache(maxsize=64)
def _zip_archive(file: str, _: int) -> zipfile.ZipFile:
    return _zip_opened(parse_path(file))


@functools.lru_cache(maxsize=64)
def _turn(_: str) -> threading.Lock:
    """For what is read once for many threads, so that only the first of them reads it."""
    return threading.Lock()


@functools.lru_cache(maxsize=4)
def _row_group(file: str, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(arrow_source(parse_path(file))) as parquet:
        return parquet.read_row_group(group, [column]).column(0)


@functools.lru_cache(maxsize=64)
def _parquet_rows(file: str) -> tuple[NDArray[np.int64], str]:
    """First row of each row group and the end, and the first column of encoded images."""
    with pq.ParquetFile(arrow_source(parse_path(file))) as parquet:
        rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first = next((f.name for f in parquet.schema_arrow if _is_bytes(f.type)), "")
    return np.concatenate([[0], np.cumsum(rows)]), first


def _parquet_read(file: str, member: str) -> bytes:
    number, _, column = member.partition(":")
    row = int(number)
    with _turn(file):
        starts, first = _parquet_rows(file)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        values = _row_group(file, group, column or first)
    value = values[row - int(starts[group])].as_py()
    encoded: Any = value.get("bytes") if isinstance(value, dict) else value
    if encoded is None and isinstance(value, dict) and value.get("path"):
        return join_ref(str(parse_path(file).parent), str(value["path"])).read_bytes()
    if encoded is None:
        raise FileNotFoundError(2, "No image in this row")
    return bytes(encoded)


def _idx_read(file: str, member: str) -> bytes:
    picture = _idx_array(file)[int(member)]
    return bytes(b"P5 %d %d 255\n" % picture.shape[::-1] + picture.tobytes())  # PGM, which Pillow reads


def read(root: str, ref: str) -> bytes:
    """Encoded bytes of one image. Raises OSError, or another exception of a damaged container, if it cannot be read."""
    container, mark, member = ref.rpartition("#")
    if mark and (end := re.search(r"\.(tar|zip|parquet)$|-ubyte(\.gz)?$", container.lower())):
        place = join_ref(root, container)
        file = str(place)
        if end[1] == "zip":
            # On this machine threads can share one; from storage each would wait for what another reads.
            reader = threading.get_ident() if is_remote(place) else 0
            try:
                return _zip_archive(file, reader).read(member)
            except KeyError as error:
                raise FileNotFoundError(2, "No such member") from error
        if end[1] == "tar":
            return _tar_read(file, member)
        return _parquet_read(file, member) if end[1] == "parquet" else _idx_read(file, member)
    return join_ref(root, ref).read_bytes()


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line, or a JSON list. Raises InputError if it cannot be read."""
    try:
        text = file.read_text("utf-8-sig")
        names = json.loads(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file} holds no class names: {first_line(error)}") from error
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise InputError(f"{file} is no list of names; expected a JSON list, in the order of the model's outputs")
    found = tuple(str(name) for name in names if str(name))
    if len(set(found)) != len(found):
        raise InputError(f"{file} names a class twice: {next(n for n in found if found.count(n) > 1)}")
    if not found:
        raise InputError(f"{file} is empty; expected one class name on each line")
    return found
