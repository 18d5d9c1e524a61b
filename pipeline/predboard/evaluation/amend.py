"""Attaches corrected labels, further columns and groups to the parts of a run, from the files that the user names.

Rows are found by key, path or a column of their own, and nothing is guessed: a label for an image that the run lacks is
refused. It knows no panel and no drawing.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.config import AmendConfig
from predboard.errors import InputError
from predboard.evaluation.row_names import Match, find_rows
from predboard.formatting import did_you_mean, plural
from predboard.images.columns import to_storable
from predboard.images.label_values import parse_labels
from predboard.images.row_tables import RELABEL_COLUMN, find_label_column, read_row_table
from predboard.images.text_tables import UNNAMED
from predboard.metrics.label_effect import LabelEffect, measure_effect
from predboard.predictions.amendments import Amendment, check_group_column
from predboard.predictions.arrow import as_arrow
from predboard.predictions.schema import rename_reserved_columns
from predboard.storage.parts import PartFile, read_batches, read_part_schema
from predboard.storage.paths import AnyPath, map_files, open_binary
from predboard.storage.runs import Step, list_manifest_columns

_SHOWN = 3
"""Names that a message lists."""

_PIECE_BYTES = 2**22


@dataclass(frozen=True)
class AmendedSteps:
    """Steps whose parts have amendments, and what there is to say of them."""

    steps: tuple[Step, ...]
    effects: dict[int, LabelEffect] = field(default_factory=dict)
    """By step, what the new labels did; empty without new labels."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


class Amendments:
    """What the user wants to be changed in the rows of runs."""

    def __init__(self, config: AmendConfig) -> None:
        """Read the files that the flags name. Raises InputError if one cannot be read."""
        self._by, self._group = config.columns_by, getattr(config, "group_column", None) or ""
        self._labels = self._columns = None
        self._label_column = ""
        if config.labels is not None:
            table = read_row_table(config.labels, config.labels_column)
            self._labels = table, config.labels
            self._label_column = find_label_column(table, config.labels_column, config.labels)
        if config.columns is not None:
            self._columns = read_row_table(config.columns, config.columns_by), config.columns

    @cached_property
    def digest(self) -> list[str]:
        """What changes with the files and flags; empty if nothing is asked for."""
        files = [source[1] for source in (self._labels, self._columns) if source is not None]
        named = [self._label_column, self._by or "", self._group]
        return [*map(_digest_file, files), *named] if files or self._group else []

    def attach(self, steps: Sequence[Step]) -> AmendedSteps:
        """Return steps of one run with the amendments of their parts.

        Raises InputError for labels of images that the run lacks, labels that are no classes, columns that the run has
        already or that no row of the file belongs to, and a group that is no column.
        """
        if not self.digest:
            return AmendedSteps(tuple(steps))
        amended, effects, notes = [], {}, []
        for step in steps:
            changes = [Amendment(group=self._group) for _ in step.parts]
            if self._columns is not None:
                changes, note = self._with_columns(step, changes, *self._columns)
                notes.append(note)
            if self._group:
                self._check_group(step, changes[0])
            if self._labels is not None:
                changes, effects[step.step], more = self._with_labels(step, changes, *self._labels)
                notes += more
            parts = zip(step.parts, changes, strict=True)
            amended.append(
                replace(step, parts=tuple(replace(p, amendment=None if c.is_empty else c) for p, c in parts))
            )
        return AmendedSteps(tuple(amended), effects, tuple(dict.fromkeys(notes)))

    # --- labels ---

    def _with_labels(
        self, step: Step, changes: Sequence[Amendment], table: pa.Table, file: AnyPath
    ) -> tuple[list[Amendment], LabelEffect, list[str]]:
        table = table.filter(_given(table.column(self._label_column)))
        label = self._read_labels(table, step, file)
        match = find_rows(step, table, file)
        notes = self._check_found(match, step, file)
        match.refuse_contradictions(label.tolist(), f"two labels in {file}")

        def amend(place: int) -> tuple[Amendment, LabelEffect]:
            part, (at, row) = step.parts[place], match.of_part(place)
            return _relabel(part, changes[place], at, label[row], file)

        counted = list(map_files(amend, range(len(step.parts)), step.parts[0].path))
        effect = sum((effect for _, effect in counted[1:]), counted[0][1])
        return [amendment for amendment, _ in counted], effect, notes

    def _read_labels(self, table: pa.Table, step: Step, file: AnyPath) -> NDArray[np.int32]:
        """Return the index of each label among the classes, -1 for one that is said to be unknown."""
        classes, column = step.run.classes, table.column(self._label_column)
        parsed = parse_labels(column, classes, f"{self._label_column!r} of {file}")
        index = parsed.index(classes)
        strange = Counter(
            str(value)
            for value, i in zip(parsed.values, index.tolist(), strict=True)
            if (isinstance(value, str) and i < 0) or i >= len(classes)
        )
        if strange:
            shown = ", ".join(f"{name!r} ({count:,})" for name, count in strange.most_common(_SHOWN))
            more = f" and {len(strange) - _SHOWN:,} more" if len(strange) > _SHOWN else ""
            near = did_you_mean(next(iter(strange)), classes)
            raise InputError(
                f"{strange.total():,} of {len(index):,} labels in {file} are none of the "
                f"{plural(len(classes), 'class', 'classes')}: {shown}{more}{near}"
            )
        return index

    def _check_found(self, match: Match, step: Step, file: AnyPath) -> list[str]:
        """Raise InputError if rows name images that the run lacks, but for tags, which are of all runs together."""
        lacking = int((~match.is_known).sum())
        if not lacking:
            return []
        of_tags = self._label_column == RELABEL_COLUMN and match.column == "key" and bool(match.is_known.any())
        if of_tags:
            return [f"{file}: {plural(lacking, 'image')} of other runs left out"]
        raise InputError(
            f"{lacking:,} of {len(match.is_known):,} rows of {file} name no image of "
            f"{_run_name(step)} by their {match.column}: {match.describe_lacking(step)}"
        )

    # --- columns ---

    def _with_columns(
        self, step: Step, changes: Sequence[Amendment], table: pa.Table, file: AnyPath
    ) -> tuple[list[Amendment], str]:
        match = find_rows(step, table, file, self._by)
        if not match.is_known.any():
            raise InputError(
                f"no row of {file} names an image of {_run_name(step)} by its {match.column}: "
                f"{match.describe_lacking(step)}"
            )
        further = (name for name in table.column_names if name not in match.name_columns)
        names = [name for name in further if not name.startswith(UNNAMED)]
        if not names:
            raise InputError(f"{file} has no column besides {', '.join(sorted(match.name_columns))}")
        renamed = rename_reserved_columns(names)
        if taken := [name for name in renamed if name in list_manifest_columns(step)]:
            raise InputError(
                f"{_run_name(step)} has a column {taken[0]!r} of its own: rename the one in {file}, or leave it out"
            )
        columns = pa.table([to_storable(table.column(name)) for name in names], names=renamed).combine_chunks()
        match.refuse_contradictions(columns.to_pylist() if match.repeated else [], f"two rows in {file} that differ")
        amended, joined = [], 0
        for place, change in enumerate(changes):
            at, row = match.of_part(place)
            index = np.full(step.parts[place].rows, -1, np.int64)
            index[at] = row
            taken_rows = columns.take(pa.array(index, mask=index < 0))
            (batch,) = taken_rows.combine_chunks().to_batches() or [_no_rows(columns.schema)]
            amended.append(replace(change, columns=batch))
            joined += len(at)
        without, unused = step.rows - joined, int((~match.is_known).sum())
        parts = [f"{file}: {joined:,} of {plural(step.rows, 'row')} have a row in it, found by {match.column}"]
        parts += [f"{without:,} have none"] if without else []
        parts += [f"{plural(unused, 'row')} of it {'names' if unused == 1 else 'name'} no image"] if unused else []
        return amended, "; ".join(parts)

    def _check_group(self, step: Step, change: Amendment) -> None:
        """Raise InputError if the group is no column, or one by which rows cannot be grouped."""
        schema = read_part_schema(replace(step.parts[0], amendment=replace(change, group="")))
        names = list_manifest_columns(replace(step, parts=(replace(step.parts[0], amendment=change),)))
        if self._group not in names:
            listed = ", ".join(names) or "none"
            raise InputError(
                f"--group-column: {_run_name(step)} has no column {self._group!r}{did_you_mean(self._group, names)}; "
                f"there are {listed}; --columns FILE adds more"
            )
        check_group_column(schema.field(self._group))


def _relabel(
    part: PartFile, change: Amendment, at: NDArray[np.int64], label: NDArray[np.int32], file: AnyPath
) -> tuple[Amendment, LabelEffect]:
    """Return the amendment of a part with new labels, and what they do.

    Args:
        part: as it is in the file.
        change: what else changes.
        at: [named] places in the part, ascending.
        label: [named] new label of each, -1 for none.
        file: where they come from.
    """
    rows = [(rows.label, rows.predicted) for rows in read_batches(part, {"label", "predicted"})]
    before, predicted = (np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*rows, strict=True))
    after = before.copy()
    after[at] = label
    changed = np.flatnonzero(after != before)
    counted = [(predicted >= 0) & (labels >= 0) for labels in (before, after)]
    right = [ok & (labels == predicted) for ok, labels in zip(counted, (before, after), strict=True)]
    moves = zip(before[changed].tolist(), after[changed].tolist(), strict=True)
    effect = measure_effect(str(file), len(at), len(changed), counted, right, moves)
    if not len(changed):
        return change, effect
    new = after[changed].astype(np.int32)
    return replace(change, rows=changed, labels={"label": as_arrow(new, pa.int32(), new >= 0)}), effect


def _given(column: pa.ChunkedArray) -> NDArray[np.bool_] | pa.Array:
    """Return which cells say something: an empty one leaves the label as it is."""
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pa.array([value is not None and not (texts and not value.strip()) for value in column.to_pylist()])


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def _run_name(step: Step) -> str:
    return str(step.parts[0].path.parent.parent)


def _digest_file(file: AnyPath) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    with open_binary(file, _PIECE_BYTES) as stream:
        while piece := stream.read(_PIECE_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()
