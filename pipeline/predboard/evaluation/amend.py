"""Attaches corrected labels, further columns and groups to the parts of a run, from the files that the user names.

Rows are found by key, path or a column of their own, and nothing is guessed: a label for an image that the run lacks is
refused. It knows no panel and no drawing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.config import AmendConfig
from predboard.errors import InputError
from predboard.evaluation.applied_thresholds import read_label_thresholds
from predboard.evaluation.new_labels import read_new_labels
from predboard.evaluation.row_names import Match, find_rows
from predboard.formatting import did_you_mean, plural
from predboard.images.columns import to_storable
from predboard.images.label_lists import LabelOptions
from predboard.images.row_tables import RELABEL_COLUMN, read_row_table
from predboard.images.text_tables import UNNAMED
from predboard.metrics.label_effect import LabelEffect, measure_effect
from predboard.predictions.amendments import Amendment, check_group_column, relabel
from predboard.predictions.label_sets import Labels, label_values
from predboard.predictions.sampling import JACKKNIFE_GROUPS
from predboard.predictions.schema import rename_reserved_columns
from predboard.storage.parts import PartFile, read_batches, read_part_schema
from predboard.storage.paths import AnyPath, map_files, open_binary
from predboard.storage.runs import Step, list_manifest_columns

_PIECE_BYTES = 2**22


@dataclass(frozen=True)
class AmendedSteps:
    """Steps whose parts have amendments, and what there is to say of them."""

    steps: tuple[Step, ...]
    effects: dict[int, LabelEffect] = field(default_factory=dict)
    """By step, what the new labels did; empty without new labels."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""
    thresholds: str = ""
    """Origin of the thresholds that labels are predicted at; empty if that is 1/2."""


class Amendments:
    """What the user wants to be changed in the rows of runs."""

    def __init__(self, config: AmendConfig) -> None:
        """Read the files that the flags name. Raises InputError if one cannot be read."""
        self._by, self._group = config.columns_by, getattr(config, "group_column", None) or ""
        self._lacking: NDArray[np.bool_] | None = None
        """[rows of the labels] which of them name an image of none of the runs so far."""
        self._example = ""
        self._labels = self._columns = None
        file = getattr(config, "thresholds", None)
        self._thresholds = None if file is None else read_label_thresholds(file)
        self._options = LabelOptions(config.labels_column, config.labels_separator, none=config.labels_none)
        if config.labels is not None:
            self._labels = read_row_table(config.labels, config.labels_column), config.labels
        if config.columns is not None:
            self._columns = read_row_table(config.columns), config.columns

    @cached_property
    def digest(self) -> list[str]:
        """What changes with the files and flags; empty if nothing is asked for."""
        files = [source[1] for source in (self._labels, self._columns) if source is not None]
        files += [] if self._thresholds is None else [self._thresholds.file]
        named = [*map(str, astuple(self._options)), self._by or "", self._group]
        return [*map(_digest_file, files), *named] if files or self._group else []

    def attach(self, steps: Sequence[Step], one_of_several: bool = False) -> AmendedSteps:
        """Return steps of one run with the amendments of their parts.

        Args:
            steps: of the run.
            one_of_several: whether labels may be of images that another run has: `refuse_unknown` follows the last one.

        Raises InputError for labels of images that the run lacks, labels that are no classes, columns that the run has
        already or that no row of the file belongs to, and a group that is no column.
        """
        if not self.digest:
            return AmendedSteps(tuple(steps))
        amended, effects, notes = [], {}, []
        for step in steps:
            limits = None if self._thresholds is None else self._thresholds.of_run(step.run)
            changes = [Amendment(group=self._group, thresholds=limits) for _ in step.parts]
            if self._columns is not None:
                changes, note = self._with_columns(step, changes, *self._columns)
                notes.append(note)
            if self._group:
                self._check_group(step, changes[0])
                notes.append(self._count_groups(step, changes))
            if self._labels is not None:
                changes, effects[step.step], more = self._with_labels(step, changes, *self._labels, one_of_several)
                notes += more
            parts = zip(step.parts, changes, strict=True)
            amended.append(
                replace(step, parts=tuple(replace(p, amendment=None if c.is_empty else c) for p, c in parts))
            )
        sentence = "" if self._thresholds is None else self._thresholds.sentence(steps[-1].run)
        if sentence:
            notes.append(sentence)
        return AmendedSteps(tuple(amended), effects, tuple(dict.fromkeys(notes)), sentence)

    def refuse_unknown(self) -> None:
        """Raise InputError if there are labels for images that none of several runs has."""
        if self._lacking is not None and (count := int(self._lacking.sum())):
            raise InputError(f"{count:,} of {len(self._lacking):,} rows of {self._example}")

    # --- labels ---

    def _with_labels(
        self, step: Step, changes: Sequence[Amendment], table: pa.Table, file: AnyPath, one_of_several: bool
    ) -> tuple[list[Amendment], LabelEffect, list[str]]:
        table, label, doubts = read_new_labels(table, step.run, self._options, file)
        match = find_rows(step, table, file)
        of_tags = set(table.column_names) == {"key", RELABEL_COLUMN}  # which are of all runs of a folder together
        if not one_of_several:
            self._lacking = None
        notes = [*(f"warning: {doubt}" for doubt in doubts), *self._note_unknown(match, step, file)]
        if not one_of_several and not (of_tags and match.is_known.any()):
            self.refuse_unknown()
        match.refuse_contradictions(list(label_values(label)), f"two labels in {file}")

        def amend(place: int) -> tuple[Amendment, LabelEffect]:
            part, (at, row) = step.parts[place], match.of_part(place)
            return _relabel(part, changes[place], at, label[row], file)

        counted = list(map_files(amend, range(len(step.parts)), step.parts[0].path))
        effect = sum((effect for _, effect in counted[1:]), counted[0][1])
        return [amendment for amendment, _ in counted], effect, notes

    def _note_unknown(self, match: Match, step: Step, file: AnyPath) -> list[str]:
        """Keep in mind which rows name no image of the run and of those before; return a line for the user."""
        self._lacking = ~match.is_known if self._lacking is None else self._lacking & ~match.is_known
        count = int((~match.is_known).sum())
        if not count:
            return []
        lacking = match.describe_lacking(step)
        self._example = f"{file} name no image of {_run_name(step)} by their {match.column}: {lacking}"
        return [f"{file}: {plural(count, 'image')} that {_run_name(step)} does not have left out"]

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
        renamed = rename_reserved_columns(names, step.run.task)
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
        parts += [f"{without:,} {'has' if without == 1 else 'have'} none"] if without else []
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

    def _count_groups(self, step: Step, changes: Sequence[Amendment]) -> str:
        """Say how many groups there are, and how many images stand for themselves."""

        def of_part(place: int) -> tuple[NDArray[np.int64], int]:
            part = replace(step.parts[place], amendment=changes[place])
            keys = [rows.group_key[rows.group_key != rows.key] for rows in read_batches(part, {"key"})]
            values = np.concatenate([np.zeros(0, np.int64), *keys])
            return np.unique(values), part.rows - len(values)

        counted = list(map_files(of_part, range(len(step.parts)), step.parts[0].path))
        groups = len(np.unique(np.concatenate([values for values, _ in counted])))
        alone = sum(rows for _, rows in counted)
        of_each = f", and {plural(alone, 'image')} without a value" if alone else ""
        few = "; with fewer than 20 the intervals are wide" if groups + alone < JACKKNIFE_GROUPS else ""
        return (
            f"intervals leave out images of one {self._group} together: {plural(groups, 'value')} of it{of_each}{few}"
        )


def _relabel(
    part: PartFile, change: Amendment, at: NDArray[np.int64], label: Labels, file: AnyPath
) -> tuple[Amendment, LabelEffect]:
    """Return the amendment of a part with new labels, and what they do.

    Args:
        part: as it is in the file.
        change: what else changes.
        at: [named] places in the part, ascending.
        label: [named] new labels.
        file: where they come from.
    """
    none = np.zeros(0, bool)
    counted, right = ([none], [none]), ([none], [none])  # before and after
    replaced: list[Amendment] = []
    moves: list[tuple[int, int]] = []
    start = 0
    decided = replace(part, amendment=Amendment(thresholds=change.thresholds))  # as everywhere else
    for before in read_batches(decided, {"label", "predicted"}):
        low, high = np.searchsorted(at, (start, start + len(before))).tolist()
        after = before
        if low < high:
            named, new = at[low:high] - start, label[low:high]
            old = before.known_labels[named]
            changed = relabel(old, new)
            if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
                moves += zip(old[changed.rows].tolist(), new[changed.rows].tolist(), strict=True)
            changed = replace(changed, rows=named[changed.rows])
            after = changed.apply(before, 0, None)
            if len(changed.rows):
                replaced.append(replace(changed, rows=changed.rows + start))
        for i, side in enumerate((before, after)):
            known = side.is_scored & side.is_labelled
            counted[i].append(known)
            right[i].append(known & side.right)
        start += len(before)
    bits = [[np.concatenate(side) for side in pair] for pair in (counted, right)]
    count = sum(len(amendment.rows) for amendment in replaced)
    figure = "accuracy" if isinstance(label, np.ndarray) else "exact"
    effect = measure_effect(str(file), len(at), count, bits[0], bits[1], moves, figure)
    if not replaced:
        return change, effect
    columns = {name: pa.concat_arrays([a.labels[name] for a in replaced]) for name in replaced[0].labels}
    return replace(change, rows=np.concatenate([a.rows for a in replaced]), labels=columns), effect


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
