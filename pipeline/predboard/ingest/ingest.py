"""Predictions made elsewhere -> Parquet, one straight function beside `infer`. Knows no model and no TensorBoard.

Files are read block by block, twice: once to see that the scores are what they are said to be, before anything is
written, and once to write them. Labels, paths and further columns are in memory, scores are not.
"""

import hashlib
import itertools
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from predboard.config import ImportConfig, ScoreKind
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import decode, sources
from predboard.images import loader as loading
from predboard.inference import resume
from predboard.ingest import labels, validation
from predboard.ingest import scores as saved
from predboard.models.checkpoints import parse_step
from predboard.parallel import pool
from predboard.predictions.table import Part, Predictions, RowCount, Run
from predboard.storage import paths, runs, shards
from predboard.storage.paths import AnyPath

_NOT_FINITE = "the scores are not finite"
_CHUNK = 8  # pictures that a thread reads before it takes the next task
_NO_PICTURE = loading.LoadedImage(None, None, 0.0)


@dataclass(frozen=True)
class ImportResult:
    """What an import leaves."""

    out: AnyPath
    rows: int
    """Of each step."""
    steps: dict[int, RowCount]
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
    kind: ScoreKind
    rows: saved.SavedScores
    manifest: sources.Manifest
    run: Run


def default_out(files: Sequence[Path]) -> Path:
    """Folder for the predictions of these files: predictions/NAME of the first.

    >>> default_out([Path("saved/net_probs.npy")]).as_posix()
    'predictions/net_probs'
    """
    return Path("predictions") / files[0].stem


def import_predictions(config: ImportConfig, say: Callable[[str], None] = lambda _: None) -> ImportResult:
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
    named = () if config.classes is None else sources.read_classes(config.classes)
    listed = labels.open_image_list(config, named)
    steps = [_open(config, number, files, named, listed, say) for number, files in _by_step(config).items()]
    _same_classes(out, steps)
    plans = {step.number: shards.plan_shards(step.rows.rows, config.shard_size) for step in steps}
    with runs.lock_folder(out):
        checked = {
            step.number: resume.find_missing(
                out,
                step.run,
                plans[step.number],
                step.manifest,
                update=config.update,
                overwrite=config.overwrite,
                say=say,
                called={"weights": "content of the files"},
            )
            for step in steps
        }
        for path in itertools.chain.from_iterable(invalid for _, invalid in checked.values()):
            runs.delete_part(path)  # only now that no step is refused
        todo = {number: of_step for number, (of_step, _) in checked.items()}
        total = sum(map(len, plans.values()))
        if valid := total - sum(map(len, todo.values())):
            say(f"{valid} of {total} parts in {out} are there already and valid")
        written = sum(len(shard) for of_step in todo.values() for shard in of_step)
        with tqdm(total=written, unit=" rows", desc="import", disable=None, file=sys.stderr) as bar:
            missing = _write(out, steps, todo, config, bar.update)
        return ImportResult(out, steps[0].rows.rows, _counts(out, steps), written, missing)


def _by_step(config: ImportConfig) -> dict[int, tuple[Path, ...]]:
    """Files of each step, ascending: those of one step are one table in the order given."""
    named = [parse_step(file) for file in config.files]
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


def _open(
    config: ImportConfig,
    number: int,
    files: tuple[Path, ...],
    named: tuple[str, ...],
    listed: sources.Manifest | None,
    say: Callable[[str], None],
) -> _Step:
    """What is known of one step. Raises InputError if its scores are not what they are said to be."""
    elsewhere = config.labels is not None or config.labels_from_folders
    asked = saved.ColumnRequest(
        config.scores,
        config.score_column,
        None if elsewhere else config.label_column,
        None if config.images is not None else config.image_column,
        named,
    )
    rows = saved.open_saved(files, asked)
    where = files[0].name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    counted = f"{plural(rows.rows, 'row')}, {plural(rows.classes, 'class', 'classes')}"
    say(f"{where}: {counted} in {saved.abbreviate(rows.used)}")
    if not rows.rows:
        raise InputError(f"{where} holds no rows")
    manifest = labels.build_manifest(config, files[0], rows, named, listed, say)
    rows = rows.ordered(manifest.classes)
    looked = validation.ScoreCheck(config.scores, rows.classes)
    for block in rows.blocks():
        looked.add(block)
    if looked.rows != rows.rows:
        raise InputError(f"{where} has {looked.rows:,} rows of scores and {rows.rows:,} of labels; expected as many")
    for line in looked.finish(where):
        say(line)
    run = Run(
        classes=manifest.classes,
        model=config.model or config.files[0].stem,
        step=number,
        weights=_digest(files, rows.used),
        precision=looked.precision,
        root=manifest.root,
        shard_size=config.shard_size,
        thumbnails=config.thumbnails,
        scores="logits" if config.scores == "logits" else "log_probabilities",
    )
    return _Step(number, files, config.scores, rows, manifest, run)


def _digest(files: Sequence[Path], used: Sequence[str]) -> str:
    """16 hexadecimal digits that change with any byte of the files and with what is read of them."""
    hashed = hashlib.blake2b("\0".join(used).encode(), digest_size=8)
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(2**20):
                hashed.update(piece)
    return hashed.hexdigest()


def _same_classes(out: AnyPath, steps: Sequence[_Step]) -> None:
    """Raise InputError if a step has other classes than another, here or in the folder."""
    classes = {step.number: step.run.classes for step in steps}
    for number in runs.list_step_numbers(out):
        if number not in classes and (there := runs.open_step(out, number, lambda *_: None)) is not None:
            classes[number] = there.run.classes
    first = steps[0]
    for number, names in classes.items():
        if names != first.run.classes:
            raise InputError(
                f"step {number} has other classes ({saved.abbreviate(names)}) than step {first.number} "
                f"({saved.abbreviate(first.run.classes)}): name another --out, or see --classes"
            )


# --- writing ---


class _Stream:
    """Blocks of scores, taken by any number of rows."""

    def __init__(self, blocks: Iterator[saved.ScoreArray]) -> None:
        self._blocks, self._at = blocks, 0
        self._left: saved.ScoreArray | None = None

    def skip(self, row: int) -> None:
        """Go on at this row."""
        while self._at < row:
            self.take(min(runs.ROW_GROUP_MAX_ROWS, row - self._at))

    def take(self, rows: int) -> saved.ScoreArray:
        """The next rows. Raises InputError if there are not so many."""
        taken: list[saved.ScoreArray] = []
        self._at += rows
        while rows:
            block = self._left if self._left is not None and len(self._left) else next(self._blocks, None)
            if block is None:
                raise InputError("a file became shorter while it was read: run the same command again")
            taken.append(block[:rows])
            self._left = block[rows:]
            rows -= len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


def _write(
    out: AnyPath,
    steps: Sequence[_Step],
    todo: Mapping[int, Sequence[shards.Shard]],
    config: ImportConfig,
    progress: Callable[[int], object],
) -> int:
    """Write the parts that are to do, those of all steps together. -> pictures that could not be read."""
    streams = {step.number: _Stream(step.rows.blocks()) for step in steps}
    pictures = _Pictures(config)
    missing = 0
    for shard in sorted({shard for of_step in todo.values() for shard in of_step}, key=lambda shard: shard.start):
        for step in steps:
            if shard in todo[step.number]:
                streams[step.number].skip(shard.start)
                missing += _write_part(out, step, shard, streams[step.number], pictures, progress)
    return missing


def _write_part(
    out: AnyPath,
    step: _Step,
    shard: shards.Shard,
    stream: _Stream,
    pictures: "_Pictures",
    progress: Callable[[int], object],
) -> int:
    """Write and publish one part. -> pictures that could not be read."""
    missing = clipped = 0
    began, seconds = time.time(), {"read": 0.0, "pictures": 0.0, "write": 0.0}
    further = step.manifest.columns.schema if step.manifest.columns.num_columns else None
    writer = runs.PartWriter(runs.part_path(out, step.number, shard.index), step.run, further)
    try:
        group = runs.row_group_size(len(step.run.classes))
        for start in range(shard.start, shard.stop, group):
            stop = min(start + group, shard.stop)
            clock = [time.perf_counter()]
            scores = stream.take(stop - start)
            clock.append(time.perf_counter())
            looked = pictures.look(step.manifest, start, stop)
            clock.append(time.perf_counter())
            rows, raised = _rows(step, writer.schema, start, scores, looked)
            writer.write(rows)
            clock.append(time.perf_counter())
            for name, (a, b) in zip(seconds, itertools.pairwise(clock), strict=True):
                seconds[name] += b - a
            clipped += raised
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
                    "imported": step.kind,
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


class _Pictures:
    """Size, brightness, digest and thumbnail of the pictures, as far as they are found."""

    def __init__(self, config: ImportConfig) -> None:
        self._config = config
        self._last: tuple[str, list[str | None], list[loading.LoadedImage]] = ("", [], [])

    def look(self, manifest: sources.Manifest, start: int, stop: int) -> list[loading.LoadedImage]:
        """Of rows start to stop; those of the last call, if they are the same pictures of another step."""
        if not self._config.pictures:
            return [_NO_PICTURE] * (stop - start)
        refs = manifest.image.slice(start, stop - start).to_pylist()
        if self._last[:2] != (manifest.root, refs):
            self._last = manifest.root, refs, self._read(manifest, start, refs)
        return self._last[2]

    def _read(self, manifest: sources.Manifest, start: int, refs: Sequence[str | None]) -> list[loading.LoadedImage]:
        found = [_NO_PICTURE] * len(refs)
        loader = loading.Loader(manifest, decode.DecodeOptions(), self._config.thumbnails)
        rows = [start + i for i, ref in enumerate(refs) if ref is not None]
        chunks = ((i, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK))
        threads = (
            paths.MAX_CONNECTIONS
            if manifest.far and not self._config.workers
            else pool.worker_count(self._config.workers)
        )
        for i, loaded in loader.stream(chunks, None, threads, 2 * threads):
            for row, one in zip(rows[i : i + _CHUNK], loaded, strict=True):
                found[row - start] = replace(one, pixels=None)
        return found


def _rows(
    step: _Step,
    schema: pa.Schema,
    start: int,
    scores: saved.ScoreArray,
    looked: Sequence[loading.LoadedImage],
) -> tuple[Predictions, int]:
    """Rows from `start`, and how many of their probabilities were raised to the least that is stored."""
    m, count = step.manifest, len(scores)
    found = [row.properties for row in looked]
    usable = validation.usable_rows(step.kind, scores)
    logits, raised = validation.to_stored_logits(step.kind, np.where(usable[:, None], scores, np.nan))
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


def _counts(out: AnyPath, steps: Sequence[_Step]) -> dict[int, RowCount]:
    """Count what is on disk now."""
    counts = {}
    for step in steps:
        there = runs.open_step(out, step.number)
        counts[step.number] = RowCount()
        for file in there.parts if there else ():
            for batch in runs.read_batches(file, ("label", "predicted")):
                counts[step.number] = counts[step.number].plus(batch)
    return counts
