"""Predictions made elsewhere -> Parquet, one straight function beside `infer`. Knows no model and no TensorBoard.

Files are read block by block, twice: once to see that the scores are what they are said to be, before anything is
written, and once to write them. Labels, paths and further columns are in memory, scores are not.
"""

import hashlib
import itertools
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import audit, images, loading, models, resume, saved, shards, sources, store, workers
from pipeline.config import ImportConfig
from pipeline.errors import InputError
from pipeline.predictions import COLUMNS, Count, Part, Predictions, Run, keys_of

_NOT_FINITE = "the scores are not finite"
_CHUNK = 8  # pictures that a thread reads before it takes the next task
_NO_PICTURE = loading.Loaded(None, None, 0.0)


@dataclass(frozen=True)
class Adopted:
    """What an import leaves."""

    out: Path
    rows: int
    """Of each step."""
    steps: dict[int, Count]
    """Rows of each step, as they are on disk when the import ends."""
    written: int
    """Rows that this call wrote, over all steps."""
    missing: int
    """Pictures of these that were looked for and could not be read."""

    @property
    def failed(self) -> int:
        """Most failed rows of any step."""
        return max(count.failed for count in self.steps.values())


@dataclass(frozen=True)
class _Step:
    """One step as it was saved, and what is known of its rows."""

    number: int
    files: tuple[Path, ...]
    rows: saved.Saved
    manifest: sources.Manifest
    run: Run


def default_out(files: Sequence[Path]) -> Path:
    """Folder for the predictions of these files: predictions/NAME of the first.

    >>> default_out([Path("saved/net_probs.npy")]).as_posix()
    'predictions/net_probs'
    """
    return Path("predictions") / files[0].stem


def adopt(config: ImportConfig, say: Callable[[str], None] = lambda _: None) -> Adopted:
    """Write the rows of saved predictions as a run, one row for each of theirs, in their order.

    Parts that are there already and still valid are kept, so an import that was killed continues where it stopped.

    Args:
        config: what to do.
        say: takes a line of progress for a person.

    Raises:
        InputError: for bad input, for scores that are not what they are said to be, or if what is there does not fit;
            nothing already written is lost.
    """
    if not config.files:
        raise InputError("which files? For example: predboard import probs.npz --scores probabilities")
    out = config.out or default_out(config.files)
    steps = [_open(config, number, files, say) for number, files in _by_step(config).items()]
    _same_classes(out, steps)
    with store.lock(out):
        todo = {}
        for step in steps:
            plan = shards.plan(step.rows.rows, config.shard_size)
            todo[step.number], changed = resume.to_do(
                out,
                step.run,
                plan,
                step.manifest,
                update=config.update,
                overwrite=config.overwrite,
                say=say,
                called={"weights": "content of the files"},
            )
            for path in changed:
                store.delete_part(path)
            if kept := len(plan) - len(todo[step.number]):
                say(f"{kept} of {len(plan)} parts of step {step.number} in {out} are there already and valid")
        written = missing = 0
        for step in steps:
            if todo[step.number]:
                rows, lost = _write(out, step, todo[step.number], config)
                written, missing = written + rows, missing + lost
        return Adopted(out, steps[0].rows.rows, _counts(out, steps), written, missing)


def _by_step(config: ImportConfig) -> dict[int, tuple[Path, ...]]:
    """Files of each step, ascending: those of one step are one table in the order given."""
    named = [models.named_step(file) for file in config.files]
    if len(config.step) == len(config.files):
        numbers = list(config.step)
    elif config.step:
        numbers = [config.step[0]] * len(named)
    elif None in named and any(number is not None for number in named):
        lacking = config.files[named.index(None)]
        raise InputError(
            f"{lacking.name} has no step in its name and others have: --step N for all files as one table, or one each"
        )
    else:
        numbers = [number or 0 for number in named]
    return {n: tuple(f for f, m in zip(config.files, numbers, strict=True) if m == n) for n in sorted(set(numbers))}


# --- what is known of the rows ---


def _open(config: ImportConfig, number: int, files: tuple[Path, ...], say: Callable[[str], None]) -> _Step:
    """Everything of one step but the scores, and whether those are what they are said to be."""
    named = () if config.classes is None else sources.read_classes(config.classes)
    elsewhere = config.labels is not None or config.labels_from_folders
    asked = saved.Asked(
        config.scores,
        config.score_column,
        None if elsewhere else config.label_column,
        None if config.images is not None else config.image_column,
        named,
    )
    rows = saved.open_saved(files, asked)
    where = files[0].name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    say(f"{where}: {rows.rows:,} rows, {rows.classes:,} classes in {saved.short(rows.used)}")
    if not rows.rows:
        raise InputError(f"{where} holds no rows")
    listed = _listed(config, named, where, rows.rows)
    root, refs = _refs(config, files[0], rows, listed)
    label, classes = _labels(config, rows, listed, refs, named, where, say)
    rows = rows.ordered(classes)
    manifest = _manifest(config, where, root, refs, label, classes, rows, listed)
    looked = audit.Audit(config.scores, rows.classes)
    for block in rows.blocks():
        looked.add(block)
    if looked.rows != rows.rows:
        raise InputError(f"{where} has {looked.rows:,} rows of scores and {rows.rows:,} of labels; expected as many")
    for line in looked.finish(where):
        say(line)
    run = Run(
        classes=classes,
        model=config.model or config.files[0].stem,
        step=number,
        weights=_digest(files, rows.used),
        precision=looked.precision,
        root=root,
        shard_size=config.shard_size,
        thumbnails=config.thumbnails,
        scores="logits" if config.scores == "logits" else "log_probabilities",
    )
    return _Step(number, files, rows, manifest, run)


def _digest(files: Sequence[Path], used: Sequence[str]) -> str:
    """16 hexadecimal digits that change with any byte of the files and with what is read of them."""
    hashed = hashlib.blake2b("\0".join(used).encode(), digest_size=8)
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(2**20):
                hashed.update(piece)
    return hashed.hexdigest()


def _listed(config: ImportConfig, named: tuple[str, ...], where: str, rows: int) -> sources.Manifest | None:
    """The manifest of --images."""
    if config.images is None:
        return None
    if config.images.lower().endswith(".txt"):
        file = Path(config.images)
        table = saved.read_columns(file)
        refs = _posix([str(ref) for ref in table.column(0).to_pylist()])
        label = np.full(len(refs), -1, np.int32)
        found = sources.Manifest(
            str(file.resolve().parent), pa.array(refs, pa.string()), label, keys_of(map(str, refs)), ()
        )
        if table.num_columns > 1:
            values = table.column("label").to_pylist()
            classes = named or tuple(sorted(set(values)))
            place = {name: i for i, name in enumerate(classes)}
            found = replace(found, label=np.array([place.get(v, -1) for v in values], np.int32), classes=classes)
    else:
        root = config.image_root if config.image_root is not None and config.image_root.is_dir() else None
        options = sources.Options(config.image_column, None, config.key_column, root, named)
        found = sources.open_source(config.images, options)
    if len(found) != rows:
        raise InputError(f"{where} has {rows:,} rows and {config.images} {len(found):,} images; expected as many")
    return found


def _posix(refs: Sequence[str | None]) -> list[str | None]:
    """Paths with / between folders, where a program on Windows wrote them with backslashes."""
    if any("/" in ref for ref in refs if ref):
        return list(refs)
    return [ref and ref.replace("\\", "/") for ref in refs]


def _refs(
    config: ImportConfig, file: Path, rows: saved.Saved, listed: sources.Manifest | None
) -> tuple[str, list[str | None]]:
    """Root and path of each image; None where it has none."""
    own: list[str | None] = [None] * rows.rows
    if rows.image is not None:
        own = _posix([None if ref is None else str(ref) for ref in rows.columns.column(rows.image).to_pylist()])
    root, refs = str(file.resolve().parent), own
    if listed is not None:
        root, refs = listed.root, listed.image.to_pylist()
        for row, (here, there) in enumerate(zip(own, refs, strict=True)):
            if here is not None and _name(here) != _name(str(there)):
                raise InputError(f"row {row} is {here} in {file.name} and {there} in --images: expected the same order")
    if config.image_root is None:
        return root, refs
    if config.image_root.is_dir():
        return str(config.image_root.resolve()), refs
    if config.image_root.suffix.lower() not in (".zip", ".tar") or not config.image_root.is_file():
        raise InputError(f"no folder {config.image_root}: --image-root is the folder, .zip or .tar that has the images")
    archive = config.image_root.resolve()
    return str(archive.parent), [ref and f"{archive.name}#{ref}" for ref in refs]


def _name(ref: str) -> str:
    return re.split(r"[/#]", ref)[-1]


def _manifest(
    config: ImportConfig,
    where: str,
    root: str,
    refs: list[str | None],
    label: NDArray[np.int32],
    classes: tuple[str, ...],
    rows: saved.Saved,
    listed: sources.Manifest | None,
) -> sources.Manifest:
    columns = rows.columns
    own_key = config.key_column is not None and (listed is None or config.key_column in columns.column_names)
    if own_key:
        name = saved.column(columns.column_names, config.key_column, (), where, "--key-column")
        key = keys_of(map(str, columns.column(name).to_pylist()))
    elif listed is not None:
        key = listed.key
    else:
        key = keys_of(str(row) if ref is None else ref for row, ref in enumerate(refs))
    kept = [name for name in columns.column_names if name not in (rows.label, rows.image)]
    further = {f"manifest_{name}" if name in COLUMNS else name: columns.column(name) for name in kept}
    if listed is not None:
        further |= {name: listed.columns.column(name) for name in listed.columns.column_names if name not in further}
    table = pa.table({name: column.combine_chunks() for name, column in further.items()})
    return sources.Manifest(root, pa.array(refs, pa.string()), label, key, classes, table)


# --- labels and classes ---


def _labels(
    config: ImportConfig,
    rows: saved.Saved,
    listed: sources.Manifest | None,
    refs: Sequence[str | None],
    named: tuple[str, ...],
    where: str,
    say: Callable[[str], None],
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """[rows] labels, -1 if unknown, and the names of the classes."""
    values: Sequence[Any] | None = None
    known = named or rows.names
    if config.labels is not None:
        values, where = _from_file(config, config.labels, refs, rows.rows), config.labels.name
    elif config.labels_from_folders:
        values, where = _folders(refs, frozenset(known), where), "the folders"
    elif rows.label is not None:
        values = _plain(rows.columns.column(rows.label), f"{rows.label!r} of {where}")
    elif listed is not None:
        names = listed.classes
        values = [int(i) if i < 0 or not names else names[i] for i in listed.label]
        known, where = known or names, str(config.images)
    if named and rows.names and set(named) != set(rows.names):
        raise InputError(
            f"--classes names {saved.short(named)} and the columns {saved.short(rows.names)}; expected the same names"
        )
    values = values if values is not None else [-1] * rows.rows
    texts = {value for value in values if isinstance(value, str)}
    if texts and not known:
        known = tuple(sorted(texts))
    classes = known or tuple(map(str, range(rows.classes)))
    if len(classes) != rows.classes:
        raise InputError(
            f"there are {rows.classes:,} scores in each row and {len(classes):,} classes ({saved.short(classes)}); "
            "expected as many: --classes FILE names them in the order of the scores"
        )
    place: dict[Any, int] = {name: i for i, name in enumerate(classes)}
    high = max((value for value in values if not isinstance(value, str)), default=-1)
    if high >= rows.classes:
        raise InputError(
            f"{where} has label {high} in row {values.index(high)}, and the scores are of {rows.classes:,} classes, 0 "
            f"to {rows.classes - 1}: are the labels counted from 1, or of other classes?"
        )
    if strange := sorted(texts - set(classes)):
        count = sum(value in strange for value in values)
        say(f"warning: {count:,} labels in {where} are of no class ({saved.short(strange)}) and count as unknown")
    label = [place.get(value, -1) if isinstance(value, str) else max(value, -1) for value in values]
    return np.array(label, np.int32), classes


def _plain(column: pa.ChunkedArray, what: str) -> list[int | str]:
    """Labels as indices, -1 if unknown, or as names. Raises InputError if they are neither."""
    values = column.to_pylist()
    empty = (None, "")
    if all(value in empty or isinstance(value, str) for value in values):
        texts = [value for value in values if value not in empty]
        if texts and all(re.fullmatch(r"-?\d+", text) for text in texts):
            return [-1 if value in empty else int(value) for value in values]
        return [-1 if value in empty else value for value in values]
    for row, value in enumerate(values):
        numeric = value is None or isinstance(value, bool | int | float)
        if not numeric or (isinstance(value, float) and value == value and value != int(value)):
            raise InputError(f"label {what} is {value!r} in row {row}; expected names or whole numbers")
    return [-1 if value is None or value != value else int(value) for value in values]


def _from_file(config: ImportConfig, file: Path, refs: Sequence[str | None], rows: int) -> list[int | str]:
    """Labels of another file, by the images' paths where both have them, else in the order of the rows."""
    table = saved.read_columns(file)
    names = table.column_names
    asked = config.label_column if config.label_column in names or len(names) != 1 else names[0]
    label = saved.column(names, asked, (*saved.LABELS, *names[: len(names) == 1]), file, "--label-column")
    if label is None:
        raise InputError(f"{file} has {saved.short(names)}; which are the labels? Name them by --label-column")
    values = _plain(table.column(label), f"{label or 'there'} of {file.name}")
    image = saved.column([n for n in names if n != label], None, saved.IMAGES, file, "")
    if image is not None and None not in refs:
        theirs = _posix([str(ref) for ref in table.column(image).to_pylist()])
        for key in (str, _name):
            of = {key(str(ref)): value for ref, value in zip(theirs, values, strict=True)}
            wanted = [key(str(ref)) for ref in refs]
            if len(of) == len(theirs) and any(ref in of for ref in wanted):
                return [of.get(ref, -1) for ref in wanted]
        raise InputError(f"{file} has no label of {refs[0]} or any other row; its first is {theirs[0]}")
    if len(values) != rows:
        raise InputError(f"{file} has {len(values):,} labels for {rows:,} rows of scores; expected one for each")
    return values


def _folders(refs: Sequence[str | None], classes: frozenset[str], where: str) -> list[str]:
    """Name of the folder each image lies in; of the last one that is a class, if the classes are known."""
    found = []
    for row, ref in enumerate(refs):
        folders = re.split(r"[/#]", ref or "")[:-1]
        name = next((folder for folder in reversed(folders) if folder in classes), folders[-1] if folders else "")
        if not name:
            raise InputError(
                f"--labels-from-folders needs a folder in the path of each image; row {row} of {where} has "
                f"{ref or 'no path'}: see --images and --image-column"
            )
        found.append(name)
    return found


def _same_classes(out: Path, steps: Sequence[_Step]) -> None:
    """Raise InputError if a step has other classes than another, here or in the folder."""
    classes = {step.number: step.run.classes for step in steps}
    for number in store.step_numbers(out):
        if number not in classes and (there := store.open_step(out, number, lambda *_: None)) is not None:
            classes[number] = there.run.classes
    first = steps[0]
    for number, names in classes.items():
        if names != first.run.classes:
            raise InputError(
                f"step {number} has other classes ({saved.short(names)}) than step {first.number} "
                f"({saved.short(first.run.classes)}): name another --out, or see --classes"
            )


# --- writing ---


class _Stream:
    """Blocks of scores, taken by any number of rows."""

    def __init__(self, blocks: Iterator[saved.Scores]) -> None:
        self._blocks = blocks
        self._left: saved.Scores | None = None

    def take(self, rows: int) -> saved.Scores:
        """The next rows. Raises InputError if there are not so many."""
        taken: list[saved.Scores] = []
        while rows:
            block = self._left if self._left is not None and len(self._left) else next(self._blocks, None)
            if block is None:
                raise InputError("a file became shorter while it was read: run the same command again")
            taken.append(block[:rows])
            self._left = block[rows:]
            rows -= len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


def _write(out: Path, step: _Step, todo: Sequence[shards.Shard], config: ImportConfig) -> tuple[int, int]:
    """Write the parts that are to do. -> rows written, pictures that could not be read."""
    stream = _Stream(step.rows.blocks())
    threads = workers.count(config.workers)
    look = config.pictures and step.manifest.image.null_count < len(step.manifest)
    loader = loading.Loader(step.manifest, images.Shape(), config.thumbnails) if look else None
    at = written = missing = 0
    with tqdm(total=sum(map(len, todo)), unit=" rows", desc="import", disable=None, file=sys.stderr) as bar:
        for shard in todo:
            for start in range(at, shard.start, store.GROUP_ROWS):  # rows of parts that are there
                stream.take(min(store.GROUP_ROWS, shard.start - start))
            missing += _write_part(out, step, shard, stream, loader, threads, config, bar.update)
            at = shard.stop
            written += len(shard)
    return written, missing


def _write_part(
    out: Path,
    step: _Step,
    shard: shards.Shard,
    stream: _Stream,
    loader: loading.Loader | None,
    threads: int,
    config: ImportConfig,
    progress: Callable[[int], object],
) -> int:
    """Write and publish one part. -> pictures that could not be read."""
    missing = clipped = 0
    began, seconds = time.time(), {"read": 0.0, "pictures": 0.0, "write": 0.0}
    further = step.manifest.columns.schema if step.manifest.columns.num_columns else None
    writer = store.PartWriter(store.part_path(out, step.number, shard.index), step.run, further)
    try:
        group = store.group_rows(len(step.run.classes))
        for start in range(shard.start, shard.stop, group):
            stop = min(start + group, shard.stop)
            clock = [time.perf_counter()]
            scores = stream.take(stop - start)
            clock.append(time.perf_counter())
            looked = _look(loader, start, stop, threads)
            clock.append(time.perf_counter())
            rows, raised = _rows(step, writer.schema, start, scores, looked, config)
            writer.write(rows)
            clipped += raised
            clock.append(time.perf_counter())
            for name, (a, b) in zip(seconds, itertools.pairwise(clock), strict=True):
                seconds[name] += b - a
            missing += sum(row.error is not None for row in looked)
            progress(stop - start)
        writer.publish(
            Part(
                start=shard.start,
                stop=shard.stop,
                manifest_digest=step.manifest.digest(shard.start, shard.stop),
                manifest_rows=len(step.manifest),
                content_digest="",
                started=began,
                finished=time.time(),
                seconds={name: round(value, 3) for name, value in seconds.items()},
                provenance={
                    "checkpoint": " ".join(file.name for file in step.files[:3]),
                    "imported": config.scores,
                    "columns": list(step.rows.used[:3]),
                    "python": platform.python_version(),
                },
                clipped=clipped,
            )
        )
    except BaseException:
        writer.abandon()
        raise
    return missing


def _look(loader: loading.Loader | None, start: int, stop: int, threads: int) -> list[loading.Loaded]:
    """Size, brightness, digest and thumbnail of the pictures of rows start to stop, as far as they are found."""
    found = [_NO_PICTURE] * (stop - start)
    if loader is not None:
        named = loader.manifest.image.slice(start, stop - start).is_valid().to_pylist()
        rows = [start + i for i, there in enumerate(named) if there]
        chunks = ((i, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK))
        for i, loaded in loader.stream(chunks, None, threads, 2 * threads):
            for row, one in zip(rows[i : i + _CHUNK], loaded, strict=True):
                found[row - start] = replace(one, pixels=None)
    return found


def _rows(
    step: _Step,
    schema: pa.Schema,
    start: int,
    scores: saved.Scores,
    looked: Sequence[loading.Loaded],
    config: ImportConfig,
) -> tuple[Predictions, int]:
    """Rows from `start`, and how many of their probabilities were raised to the least that is stored."""
    m, count = step.manifest, len(scores)
    found = [row.properties for row in looked]
    usable = audit.usable(config.scores, scores)
    logits, raised = audit.converted(config.scores, np.where(usable[:, None], scores, np.nan))
    usable &= np.isfinite(logits).all(axis=1)
    rows = Predictions.build(
        schema,
        id=np.arange(start, start + count, dtype=np.int64),
        key=m.key[start : start + count],
        image=m.image.slice(start, count),
        label=m.label[start : start + count],
        logits=logits,
        error=[None if ok else _NOT_FINITE for ok in usable.tolist()],
        further={
            "digest": [row.digest for row in looked],
            "bytes": [row.length for row in looked],
            **{
                name: [None if p is None else getattr(p, name) for p in found]
                for name in ("width", "height", "brightness", "contrast")
            },
            **({"thumbnail": [row.thumbnail for row in looked]} if step.run.thumbnails else {}),
            **{n: m.columns.column(n).slice(start, count).combine_chunks() for n in m.columns.column_names},
        },
    )
    return rows, raised


def _counts(out: Path, steps: Sequence[_Step]) -> dict[int, Count]:
    """Count what is on disk now."""
    counts = {}
    for step in steps:
        there = store.open_step(out, step.number)
        counts[step.number] = Count()
        for file in there.parts if there else ():
            for batch in store.batches(file, ("label", "predicted")):
                counts[step.number] = counts[step.number].plus(batch)
    return counts
