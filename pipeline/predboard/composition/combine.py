"""Combines steps into a new run: the average of what several models say of each image.

It knows no model, no metric and no TensorBoard. Rows are joined by key; scores stream through, see `scores`.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from predboard.comparison.class_mapping import match_classes
from predboard.comparison.join import refuse_row_numbers
from predboard.composition.alignment import Alignment, align
from predboard.composition.inputs import NamedStep, open_runs
from predboard.composition.new_step import CompositionResult, NewStep, RowGroup, check_out, count_rows, source_facts
from predboard.composition.row_cursor import RowCursor, concat_rows, plain_fields
from predboard.composition.scores import Average, ScoreReader, open_scores, rows_at_a_time
from predboard.config import CombineConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.parallel.threads import ordered_map, worker_count
from predboard.predictions.schema import (
    IMAGE_PROPERTIES,
    MULTI_LABEL,
    SINGLE_LABEL,
    Run,
    columns_of,
    digest_records,
    part_schema,
)
from predboard.predictions.tasks import rows_of
from predboard.storage.locks import lock_folder
from predboard.storage.part_plan import PartRange
from predboard.storage.parts import read_part_schema, row_group_size
from predboard.storage.paths import join_ref, staging_dir
from predboard.storage.runs import step_folder
from predboard.streams import print_warning

_SCORES = {SINGLE_LABEL: "log_probabilities", MULTI_LABEL: "log_odds"}


def combine(config: CombineConfig, log: Callable[[str], None] = print_warning) -> CompositionResult:
    """Write a run whose scores are the weighted mean of those of several steps, joined by key.

    Args:
        config: what to combine.
        log: takes a line of progress for a person.

    Raises:
        InputError: for bad input, or rows that do not fit; nothing already written is lost.
    """
    if len(config.predictions) < 2:
        raise InputError(
            "combine needs two steps or more, as FOLDER or FOLDER@STEP; for example: predboard combine "
            "predictions/a predictions/b --out predictions/both"
        )
    runs = open_runs(config.predictions)
    inputs = [run.last for run in runs]
    average = _average(inputs, config)
    run = _run(inputs, average, config)
    out = check_out(config.out, [run.folder for run in runs], {run.step: run})
    alignment = align(inputs, average.places)
    columns = plain_fields(read_part_schema(inputs[0].step.parts[0]))
    new = NewStep(
        out,
        run,
        len(alignment.key),
        tuple(one.step for one in inputs),
        {"made_by": "combine", "shares": [round(share, 6) for share in average.weights], **source_facts(inputs)},
        pa.schema([field for field in columns if field.name not in columns_of(run)]),
    )
    for line in _notes(inputs, alignment, new.columns):
        log(line)
    with lock_folder(out):
        todo = new.missing(config.overwrite, log)
        if valid := len(new.plan) - len(todo):
            log(f"{valid} of {len(new.plan)} parts in {out} are there already and valid")
        written = sum(map(len, todo))
        with tqdm(total=written, unit=" rows", desc="combine", disable=None, file=sys.stderr) as bar:
            _write(new, todo, inputs, alignment, average, bar.update)
        return CompositionResult(out, new.rows, {run.step: count_rows(out, run.step)}, written)


def _average(inputs: Sequence[NamedStep], config: CombineConfig) -> Average:
    """Return how the scores are averaged. Raises InputError for steps that cannot be."""
    first = inputs[0]
    if config.weights and len(config.weights) != len(inputs):
        raise InputError(f"--weights has {len(config.weights)} numbers for {len(inputs)} steps; expected one for each")
    for a, b in itertools.combinations(inputs, 2):
        if a.step.parts[0].path == b.step.parts[0].path:
            raise InputError(f"{a.name} is named twice: --weights counts it more than once, such as --weights 2,1")
    for one in inputs:
        if not one.step.run.has_scores:
            raise InputError(
                f"{one.name} has only the predicted classes and their confidence: import the scores of all classes"
            )
        refuse_row_numbers(first.step, one.step, (first.name, one.name))
    if other := next((one for one in inputs if one.step.run.task != first.step.run.task), None):
        raise InputError(
            f"{other.name} is a {other.step.run.task} run and {first.name} a {first.step.run.task} one: only runs of "
            "one task can be combined"
        )
    together, places = first.step.run, list[NDArray[np.int64] | None]([None])
    for one in inputs[1:]:
        mapping = match_classes(one.step.run, together, (one.name, first.name), config.map_classes)
        together = replace(together, classes=mapping.names)
        places.append(mapping.old)
    classes = len(together.classes)
    for one in inputs:
        if len(one.step.run.classes) != classes and (config.by == "logits" or first.step.run.task == MULTI_LABEL):
            lacking = next(name for name in together.classes if name not in one.step.run.classes)
            hint = ": leave out --by logits; its probability is 0" if config.by == "logits" else ""
            raise InputError(f"{one.name} has no class {lacking!r}, and so no score for it{hint}")
    if len(first.step.run.classes) != classes:
        places[0] = np.arange(len(first.step.run.classes))
    weights = np.array(config.weights or [1.0] * len(inputs), np.float64)
    return Average(tuple((weights / weights.sum()).tolist()), config.by, first.step.run.task, classes, tuple(places))


def _run(inputs: Sequence[NamedStep], average: Average, config: CombineConfig) -> Run:
    """Return the record of the new run."""
    runs = [one.step.run for one in inputs]
    first = runs[0]
    classes = tuple(dict.fromkeys(itertools.chain.from_iterable(run.classes for run in runs)))
    same = {
        name: value
        for name, value in first.transform.items()
        if all(name in run.transform and run.transform[name] == value for run in runs)
    }
    weights = config.weights or (1.0,) * len(inputs)
    return Run(
        classes=classes,
        model=" + ".join(one.name for one in inputs),
        step=max(run.step for run in runs) if config.step is None else config.step,
        model_args={"by": config.by, "weights": ",".join(f"{weight:g}" for weight in weights)},
        weights=digest_records({"runs": [run.fingerprint for run in runs], "weights": list(average.weights)}),
        transform=same,
        precision=" + ".join(dict.fromkeys(run.precision for run in runs)),
        root=first.root,
        shard_size=first.shard_size,
        thumbnails=first.thumbnails,
        scores="logits" if config.by == "logits" else _SCORES[first.task],
        task=first.task,
        positive=first.positive,
    )


def _notes(inputs: Sequence[NamedStep], alignment: Alignment, columns: pa.Schema) -> Iterator[str]:
    """Yield lines for the person about rows, labels and columns that differ."""
    names = " and ".join(one.name for one in inputs)
    if lacking := sum("not in " in error for error in alignment.errors.values()):
        yield f"{plural(lacking, 'image is', 'images are')} not in all of {names}, and failed rows here"
    for one, taken in zip(inputs, alignment.labels_taken, strict=True):
        if taken:
            yield f"{plural(taken, 'label')} that {inputs[0].name} lacks {'is' if taken == 1 else 'are'} of {one.name}"
    for one in inputs[1:]:
        more = [
            name
            for name in read_part_schema(one.step.parts[0]).names
            if name not in columns_of(one.step.run) and name not in columns.names
        ]
        if more:
            yield f"left out: {', '.join(more)} of {one.name}; further columns are those of {inputs[0].name}"


@dataclass(frozen=True)
class _Portion:
    """Some rows of a row group before their scores are averaged."""

    rows: range
    base: pa.RecordBatch
    scores: list[NDArray[np.float32]]


def _write(
    new: NewStep,
    todo: Sequence[PartRange],
    inputs: Sequence[NamedStep],
    alignment: Alignment,
    average: Average,
    progress: Callable[[int], object],
) -> None:
    """Write parts: this thread reads and writes, others compute."""
    if not todo:
        return
    folder = step_folder(staging_dir(new.out), new.run.step)
    size = rows_at_a_time(len(new.run.classes))
    groups = [_ranges(part_range.ids, row_group_size(len(new.run.classes))) for part_range in todo]
    blocks = [block for of_part in groups for group in of_part for block in _ranges(group, size)]
    schema = part_schema(new.run, new.columns)
    with contextlib.ExitStack() as stack:
        readers = []
        for one, place in zip(inputs, alignment.places, strict=True):
            readers.append(open_scores(one.step, place, new.rows, folder))
            stack.callback(readers[-1].close)
        base = stack.enter_context(contextlib.closing(_BaseRows(new, inputs, alignment)))
        portions = (_read(rows, base, readers) for rows in blocks)
        built = ordered_map(
            lambda portion: _build(new.run, schema, portion, alignment, average), portions, worker_count(0), ahead=4
        )
        with contextlib.closing(built):
            for part_range, of_part in zip(todo, groups, strict=True):
                row_groups = (_join(itertools.islice(built, len(_ranges(group, size)))) for group in of_part)
                new.write(part_range, row_groups, progress)


def _read(rows: range, base: "_BaseRows", readers: Sequence[ScoreReader]) -> _Portion:
    a, b = rows.start, rows.stop
    return _Portion(rows, base.read(a, b), [reader.read(a, b) for reader in readers])


def _ranges(whole: range, size: int) -> list[range]:
    """Return the rows of a range in pieces of `size`, the last of what is left."""
    return [range(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]


def _join(blocks: Iterable[RowGroup]) -> RowGroup:
    """Return the rows of a row group in one batch."""
    every = list(blocks)
    rows, batch = every[0][0], concat_rows([rows.batch for rows, _ in every])
    return replace(rows, batch=batch), sum(raised for _, raised in every)


def _build(run: Run, schema: pa.Schema, portion: _Portion, alignment: Alignment, average: Average) -> RowGroup:
    """Average the scores of some rows, and return them with all columns."""
    ids = np.arange(portion.rows.start, portion.rows.stop)
    errors = [alignment.errors.get(row) for row in ids.tolist()]
    ok = np.array([error is None for error in errors], bool)
    logits, raised = average(portion.scores if ok.all() else [scores[ok] for scores in portion.scores])
    if not ok.all():
        whole = np.full((len(ids), average.classes), np.nan, np.float32)
        whole[ok] = logits
        logits = whole
    base = portion.base
    rows = rows_of(run).predictions.build(
        schema,
        id=ids,
        key=alignment.key[portion.rows.start : portion.rows.stop],
        image=base.column("image"),
        label=alignment.label[portion.rows.start : portion.rows.stop],
        logits=logits,
        error=errors,
        more={name: base.column(name) for name in base.schema.names if name not in ("id", "image")},
    )
    return rows, raised


class _BaseRows:
    """Everything of the new rows but their scores, from the first step that has them."""

    def __init__(self, new: NewStep, inputs: Sequence[NamedStep], alignment: Alignment) -> None:
        own = {"id", "image", "digest", *IMAGE_PROPERTIES, *(("thumbnail",) if new.run.thumbnails else ())}
        fields = [f for f in part_schema(new.run, new.columns) if f.name in own or f.name not in columns_of(new.run)]
        schema = pa.schema(fields)
        self._starts = alignment.starts
        self._cursors = [RowCursor(one.step, schema.names, schema) for one in inputs]
        self._ids = [
            np.flatnonzero(place >= start) for place, start in zip(alignment.places, self._starts, strict=False)
        ]
        self._roots = [None if one.step.run.root == new.run.root else one.step.run.root for one in inputs]

    def close(self) -> None:
        """Close the parts that are being read."""
        for cursor in self._cursors:
            cursor.close()

    def read(self, start: int, stop: int) -> pa.RecordBatch:
        """Return the columns of rows start to stop, behind those of the last call."""
        pieces = []
        for number, (first, last) in enumerate(itertools.pairwise(self._starts)):
            a, b = max(start, first), min(stop, last)
            if a < b:
                batch = self._cursors[number].take(self._ids[number][a - first : b - first])
                pieces.append(_rerooted(batch, self._roots[number]))
        rows = concat_rows(pieces)
        assert rows is not None  # noqa: S101  a row group has rows
        return rows


def _rerooted(batch: pa.RecordBatch | None, root: str | None) -> Any:
    """Return rows whose refs do not depend on another root."""
    if batch is None or root is None:
        return batch
    refs = [ref if ref is None else str(join_ref(root, ref)) for ref in batch.column("image").to_pylist()]
    at = batch.schema.get_field_index("image")
    return batch.set_column(at, batch.schema.field(at), pa.array(refs, pa.string()))
