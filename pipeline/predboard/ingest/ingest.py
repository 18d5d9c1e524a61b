"""Turn predictions that another program saved into Parquet, as `infer` does with a model's.

It knows no model and no TensorBoard. Files are read block by block, twice: once to check, before anything is written,
that the scores are what they are said to be, and once to write them. Labels, paths and further columns are in memory,
scores are not.
"""

import hashlib
import itertools
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from predboard.config import ImportConfig, ImportedKind
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import loader
from predboard.images.class_names import read_classes
from predboard.images.manifest import Manifest
from predboard.inference import resume
from predboard.inference.diagnostics import Diagnosis
from predboard.inference.part_builder import PartBuilder, PartSpec
from predboard.ingest import label_set_checks, labels, multi_label, row_checks, scores, single_scores, validation
from predboard.ingest.columns import ColumnRequest, abbreviate
from predboard.ingest.label_set_checks import LabelScoreCheck
from predboard.ingest.saved_scores import SavedScores
from predboard.ingest.validation import ScoreArray, ScoreCheck
from predboard.models.checkpoints import parse_step
from predboard.parallel.threads import worker_count
from predboard.predictions.label_sets import MultiLabels
from predboard.predictions.row_count import RowCount
from predboard.predictions.schema import PROBABILITIES_AS, SINGLE_LABEL, Run
from predboard.storage import part_plan
from predboard.storage.locks import lock_folder
from predboard.storage.parts import ROW_GROUP_MAX_ROWS, read_batches, row_group_size
from predboard.storage.paths import AnyPath, expand_files
from predboard.storage.remote import MAX_CONNECTIONS
from predboard.storage.runs import delete_part, list_step_numbers, open_step
from predboard.streams import print_warning

_NOT_FINITE = "the scores are not finite"
_CHUNK_PICTURES = 8
"""Pictures that a thread reads before it takes the next task."""
_NO_PICTURE = loader.LoadedImage()


@dataclass(frozen=True)
class ImportResult:
    """The files and counts that an import leaves on disk."""

    out: AnyPath
    rows: int
    """Rows of each step."""
    steps: dict[int, RowCount]
    """Counts of each step, as they are on disk when the import ends."""
    written: int
    """Rows that this call wrote, over all steps."""
    missing: int
    """Pictures of these rows that were looked for and could not be read."""

    @property
    def failed(self) -> int:
        """Failed rows of the step that has most of them."""
        return max(count.failed for count in self.steps.values())


@dataclass(frozen=True)
class _Step:
    """One step as it was saved, and what its rows are."""

    files: tuple[Path, ...]
    kind: ImportedKind
    saved: SavedScores
    labelled: labels.LabelledManifest
    run: Run
    warnings: tuple[str, ...]
    """For the record."""

    @property
    def manifest(self) -> Manifest:
        """The rows."""
        return self.labelled.manifest

    @cached_property
    def list_digest(self) -> str:
        """Digest of all rows of the manifest."""
        return self.manifest.list_digest(self.run.shard_size)

    @property
    def number(self) -> int:
        return self.run.step

    def spec(self, out: AnyPath, part_range: part_plan.PartRange) -> PartSpec:
        """Return what a part is made from. Its scores arrive as stored logits."""
        provenance = {
            "checkpoint": " ".join(file.name for file in self.files[:3]),
            "list_digest": self.list_digest,
            "imported": self.kind,
            "columns": list(self.saved.used[:3]),
            "labels": self.labelled.labels,
            "images": self.labelled.images,
            "class_order": self.labelled.classes,
            "keys": self.labelled.keys,
            "python": platform.python_version(),
            **({"warnings": list(self.warnings)} if self.warnings else {}),
        }
        stored: ImportedKind = "confidence" if self.kind == "confidence" else "logits"
        return PartSpec(out, self.run, part_range, self.manifest, stored, provenance)


def default_out(files: Sequence[Path]) -> Path:
    """Return the folder for the predictions of these files: predictions/NAME of the first.

    >>> default_out([Path("saved/net_probs.npy")]).as_posix()
    'predictions/net_probs'
    """
    return Path("predictions") / files[0].stem


def import_predictions(config: ImportConfig, log: Callable[[str], None] = print_warning) -> ImportResult:
    """Write saved predictions as a run: one row for each of theirs, in their order.

    Parts that are there already and still valid are kept, so an import that was killed continues where it stopped.

    Args:
        config: what to do.
        log: takes a line of progress for a person.

    Raises:
        InputError: for bad input, for scores that are not what they are said to be, or if what is there does not fit;
            nothing already written is lost.
    """
    if not isinstance(config, ImportConfig):
        raise InputError(f"config is a {type(config).__name__}; expected an ImportConfig(scores=..., files=...)")
    if not config.files:
        raise InputError("no files given; for example: predboard import probs.npz --scores probabilities")
    config = replace(config, files=tuple(expand_files(config.files)))
    out = config.out or default_out(config.files)
    class_names = () if config.classes is None else read_classes(config.classes)
    image_list = labels.open_image_list(config, class_names)
    steps = [
        _open_step(config, number, files, class_names, image_list, log)
        for number, files in _files_by_step(config).items()
    ]
    _check_same_classes(out, steps)
    plans = {step.number: part_plan.plan_parts(step.saved.rows, config.shard_size) for step in steps}
    with lock_folder(out):
        todo = _missing_shards(out, steps, plans, config, log)
        total = sum(map(len, plans.values()))
        if valid := total - sum(map(len, todo.values())):
            log(f"{valid} of {total} parts in {out} are there already and valid")
        written = sum(len(part_range) for shards_ in todo.values() for part_range in shards_)
        with tqdm(total=written, unit=" rows", desc="import", disable=None, file=sys.stderr) as bar:
            missing = _write(out, steps, todo, config, bar.update)
        return ImportResult(out, steps[0].saved.rows, _count_rows(out, steps), written, missing)


def _files_by_step(config: ImportConfig) -> dict[int, tuple[Path, ...]]:
    """Return the files of each step, ascending; those of one step are one table, in the order given."""
    in_names = [parse_step(file) for file in config.files]
    if len(config.step) == len(config.files):
        numbers = list(config.step)
    elif config.step:
        numbers = [config.step[0]] * len(in_names)
    elif None in in_names and any(number is not None for number in in_names):
        without = config.files[in_names.index(None)]
        raise InputError(
            f"{without.name} has no step in its name, but other files have: give --step N for all files as one table, "
            "or one --step per file"
        )
    else:
        numbers = [number or 0 for number in in_names]
    pairs = list(zip(config.files, numbers, strict=True))
    return {step: tuple(file for file, number in pairs if number == step) for step in sorted(set(numbers))}


def _open_step(
    config: ImportConfig,
    number: int,
    files: tuple[Path, ...],
    class_names: tuple[str, ...],
    image_list: Manifest | None,
    log: Callable[[str], None],
) -> _Step:
    """Open the files of one step. Raises InputError if its scores are not what they are said to be."""
    has_labels = config.labels is None and not config.labels_from_folders
    images_are_labelled = image_list is not None and image_list.unlabelled < len(image_list)
    request = ColumnRequest(
        config.scores,
        config.score_column,
        config.label_column if has_labels and config.task == SINGLE_LABEL else None,
        config.image_column if config.images is None else None,
        config.key_column,
        class_names,
        config.predicted_column,
        needs_label=has_labels and not images_are_labelled,
        needs_image=config.images is None,
        max_read_gb=config.max_read_gb,
        label_sets=None if config.task == SINGLE_LABEL else multi_label.label_options(config),
    )
    saved = scores.open_saved(files, request)
    source = files[0].name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    each = "one score each" if saved.is_single else plural(saved.classes, "class", "classes")
    size = f"{plural(saved.rows, 'row')}, {each}"
    log(f"{source}: {size} in {abbreviate(saved.used)}")
    if saved.left_out:
        log(
            f"warning: {abbreviate(saved.left_out)} of {files[0].name} {'is' if len(saved.left_out) == 1 else 'are'} "
            "taken for no class by the name: --classes or --score-column A,B,C names the classes"
        )
    if not saved.rows:
        raise InputError(f"{source} holds no rows")
    labelled = labels.label_manifest(config, files[0], saved, class_names, image_list, log)
    log(labelled.sentence)
    saved, positive = single_scores.with_both(saved, config.scores, config.positive, labelled.manifest.classes)
    single = None
    if saved.is_single:
        log(positive.sentence)
        labelled = replace(labelled, assumed=labelled.assumed and positive.assumed)
        single = labelled.manifest.classes.index(positive.name)
    if config.task == SINGLE_LABEL:
        check = ScoreCheck(config.scores, saved.classes, single)
    else:
        check = LabelScoreCheck(config.scores, saved.classes)
    for block in saved.blocks():
        check.add(block)
    if check.rows != saved.rows:
        raise InputError(f"{source} has {check.rows:,} rows of scores and {saved.rows:,} of labels; expected as many")
    for line in check.finish(source):
        log(line)
    diagnoses = [*_diagnose(saved, labelled, check, request.label if has_labels else None, own=has_labels)]
    for diagnosis in diagnoses:
        log(f"warning: {diagnosis.text}")
    manifest = labelled.manifest
    run = Run(
        classes=manifest.classes,
        model=config.model or config.files[0].stem,
        step=number,
        weights=_digest(files, saved.used),
        precision=check.precision,
        root=manifest.root,
        shard_size=config.shard_size,
        thumbnails=config.thumbnails,
        scores=config.scores if config.scores in ("logits", "confidence") else PROBABILITIES_AS[config.task],
        task=config.task,
        positive=positive.recorded,
    )
    warnings = tuple(d.text for d in diagnoses if not d.again)
    return _Step(files, config.scores, saved, labelled, run, warnings)


def _diagnose(
    saved: SavedScores, labelled: labels.LabelledManifest, check: ScoreCheck, asked: str | None, own: bool
) -> Iterator[Diagnosis]:
    """Compare labels and predictions of all rows."""
    label = labelled.manifest.label
    if isinstance(check, LabelScoreCheck) and isinstance(label, MultiLabels):
        yield from label_set_checks.diagnose_label_sets(label, check, labelled.manifest.classes)
    else:
        yield from row_checks.check_label_column(saved, labelled.manifest, check.predicted, asked, own)
        yield from row_checks.diagnose_rows(labelled, check)


def _digest(files: Sequence[Path], used: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that change with any byte of the files and with the columns read from them."""
    hashed = hashlib.blake2b("\0".join(used).encode(), digest_size=8)
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(2**20):
                hashed.update(piece)
    return hashed.hexdigest()


def _check_same_classes(out: AnyPath, steps: Sequence[_Step]) -> None:
    """Raise InputError if a step has other classes than another, of these or on disk."""
    classes = {step.number: step.run.classes for step in steps}
    for number in list_step_numbers(out):
        if number not in classes and (on_disk := open_step(out, number, lambda *_: None)) is not None:
            classes[number] = on_disk.run.classes
    first = steps[0]
    for number, names in classes.items():
        if names != first.run.classes:
            raise InputError(
                f"steps {number} and {first.number} have different classes ({abbreviate(names)} and "
                f"{abbreviate(first.run.classes)}): name another --out, or the classes with --classes"
            )


def _missing_shards(
    out: AnyPath,
    steps: Sequence[_Step],
    plans: Mapping[int, Sequence[part_plan.PartRange]],
    config: ImportConfig,
    log: Callable[[str], None],
) -> dict[int, list[part_plan.PartRange]]:
    """Return the parts of each step that have no valid part, and delete parts that are no longer valid.

    Raises InputError, with nothing deleted, if a part does not fit and no flag allows to make it again.
    """
    checked = {
        step.number: resume.find_missing(
            out,
            step.run,
            plans[step.number],
            step.manifest,
            update=config.update,
            overwrite=config.overwrite,
            log=log,
            field_names={"weights": "content of the files"},
        )
        for step in steps
    }
    for path in itertools.chain.from_iterable(invalid for _, invalid in checked.values()):
        delete_part(path)  # only now that no step is refused
    return {number: missing for number, (missing, _) in checked.items()}


# --- writing ---


class _ScoreStream:
    """Gives blocks of scores in portions of any number of rows."""

    def __init__(self, blocks: Iterator[ScoreArray]) -> None:
        self._blocks, self._at = blocks, 0
        self._rest: ScoreArray | None = None

    def skip_to(self, row: int) -> None:
        """Leave out the rows before this one."""
        while self._at < row:
            self.take(min(ROW_GROUP_MAX_ROWS, row - self._at))

    def take(self, rows: int) -> ScoreArray:
        """Return the next rows, [rows, classes]. Raises InputError if there are not so many."""
        pieces: list[ScoreArray] = []
        self._at += rows
        while rows:
            block = self._rest if self._rest is not None and len(self._rest) else next(self._blocks, None)
            if block is None:
                raise InputError("a file became shorter while it was read: run the same command again")
            pieces.append(block[:rows])
            self._rest = block[rows:]
            rows -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _write(
    out: AnyPath,
    steps: Sequence[_Step],
    todo: Mapping[int, Sequence[part_plan.PartRange]],
    config: ImportConfig,
    progress: Callable[[int], object],
) -> int:
    """Write the missing parts, those of all steps together. -> pictures that could not be read."""
    streams = {step.number: _ScoreStream(step.saved.blocks()) for step in steps}
    pictures = _Pictures(config)
    unreadable = 0
    for part_range in sorted(
        set(itertools.chain.from_iterable(todo.values())), key=lambda part_range: part_range.start
    ):
        for step in steps:
            if part_range in todo[step.number]:
                streams[step.number].skip_to(part_range.start)
                unreadable += _write_part(
                    step.spec(out, part_range), step.kind, streams[step.number], pictures, progress
                )
    return unreadable


def _write_part(
    spec: PartSpec, kind: ImportedKind, stream: _ScoreStream, pictures: "_Pictures", progress: Callable[[int], object]
) -> int:
    """Write and publish one part. -> pictures that could not be read."""
    unreadable = 0
    part_range, group = spec.part_range, row_group_size(len(spec.run.classes))
    with PartBuilder(spec) as builder:
        for start in range(part_range.start, part_range.stop, group):
            stop = min(start + group, part_range.stop)
            with builder.timed("read"):
                block = stream.take(stop - start)
            with builder.timed("pictures"):
                looked = pictures.look(spec.manifest, start, stop)
            usable = validation.usable_rows(kind, block)
            scores_ = np.where(usable[:, None], block, np.nan)
            logits, raised = validation.to_stored_logits(kind, scores_, exclusive=spec.run.task == SINGLE_LABEL)
            # A picture that cannot be read is no error of the row: its scores are there.
            errors = [None if ok else _NOT_FINITE for ok in usable.tolist()]
            rows = [replace(row, error=error) for row, error in zip(looked, errors, strict=True)]
            builder.add(rows, logits, clipped=raised)
            unreadable += sum(row.error is not None for row in looked)
            progress(stop - start)
        builder.publish()
    return unreadable


class _Pictures:
    """Reads size, brightness, digest and thumbnail of the pictures that are present."""

    def __init__(self, config: ImportConfig) -> None:
        self._config = config
        self._last: tuple[str, list[str | None], list[loader.LoadedImage]] = ("", [], [])

    def look(self, manifest: Manifest, start: int, stop: int) -> list[loader.LoadedImage]:
        """Return rows start to stop, without pixels; those of the last call if another step has the same pictures."""
        if not self._config.pictures:
            return [_NO_PICTURE] * (stop - start)
        refs = manifest.image.slice(start, stop - start).to_pylist()
        if self._last[:2] != (manifest.root, refs):
            self._last = manifest.root, refs, self._read(manifest, start, refs)
        return self._last[2]

    def _read(self, manifest: Manifest, start: int, refs: Sequence[str | None]) -> list[loader.LoadedImage]:
        pictures = [_NO_PICTURE] * len(refs)
        with_ref = [start + i for i, ref in enumerate(refs) if ref is not None]
        chunks = ((i, with_ref[i : i + _CHUNK_PICTURES]) for i in range(0, len(with_ref), _CHUNK_PICTURES))
        workers = self._config.workers
        threads = MAX_CONNECTIONS if manifest.is_remote and not workers else worker_count(workers)
        reader = loader.Loader(manifest, thumbnails=loader.Thumbnails(self._config.thumbnails))
        for i, loaded in reader.stream(chunks, None, threads, 2 * threads):
            for row, picture in zip(with_ref[i : i + _CHUNK_PICTURES], loaded, strict=True):
                pictures[row - start] = replace(picture, pixels=None, label=None)
        return pictures


def _count_rows(out: AnyPath, steps: Sequence[_Step]) -> dict[int, RowCount]:
    """Count what is on disk now, by step."""
    counts = {}
    for step in steps:
        on_disk = open_step(out, step.number)
        counts[step.number] = RowCount()
        for file in on_disk.parts if on_disk else ():
            for batch in read_batches(file, ("label", "predicted")):
                counts[step.number] = counts[step.number].add_batch(batch)
    return counts
