"""Writes a step that is made of saved ones, part by part, and keeps the parts that are there already.

It knows nothing of how the rows are made. Times in the footers are those of what the step is made of, so that the same
input gives the same bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from predboard.comparison.join import has_row_numbers
from predboard.composition.inputs import NamedStep
from predboard.errors import DamagedError, InputError, first_line
from predboard.predictions.digests import ManifestDigest
from predboard.predictions.row_count import RowCount
from predboard.predictions.schema import ROW_NUMBERS, Part, Run, digest_records
from predboard.predictions.table import Predictions
from predboard.storage.part_plan import PartRange, plan_parts
from predboard.storage.parts import PartWriter, open_part, read_batches, verify_part
from predboard.storage.paths import AnyPath, is_same
from predboard.storage.runs import Step, delete_step, list_part_paths, list_step_numbers, open_step, part_path

RowGroup = tuple[Predictions, int]
"""Rows of one row group, and how many of their probabilities were clipped."""


@dataclass(frozen=True)
class CompositionResult:
    """The files and counts that a run made of others has on disk."""

    out: AnyPath
    rows: int
    """Rows of each step."""
    steps: Mapping[int, RowCount]
    """Counts of each step."""
    written: int
    """Rows that this call wrote, over all steps."""

    @property
    def failed(self) -> int:
        """Failed rows of the step that has most of them."""
        return max(count.failed for count in self.steps.values())


@dataclass(frozen=True)
class NewStep:
    """Everything that a new step is, besides its rows."""

    out: AnyPath
    run: Run
    rows: int
    made_from: tuple[Step, ...]
    provenance: Mapping[str, Any]
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Further columns of the manifest."""

    @property
    def plan(self) -> tuple[PartRange, ...]:
        """All parts."""
        return plan_parts(self.rows, self.run.shard_size)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Everything that decides the rows, for the parts' provenance."""
        parts = [[asdict(file.part), file.run.fingerprint] for step in self.made_from for file in step.parts]
        return {
            **self.provenance,
            **({"keys": ROW_NUMBERS} if any(map(has_row_numbers, self.made_from)) else {}),
            "digest": digest_records({"parts": parts, "rows": self.rows, "made": dict(self.provenance)}),
        }

    def missing(self, overwrite: bool, log: Callable[[str], None]) -> list[PartRange]:
        """Return the parts that are not there yet, or damaged.

        Raises InputError for parts of another run, or made of other predictions, unless they may be deleted.
        """
        run, number = self.run, self.run.step
        if overwrite and list_part_paths(self.out, number):
            delete_step(self.out, number)
        plan = {part_path(self.out, number, part_range.index): part_range for part_range in self.plan}
        for path in list_part_paths(self.out, number):
            try:
                file = open_part(path)
                if difference := run.difference(file.run):
                    name, now, then = difference
                    raise InputError(
                        f"{self.out} step {number} was made with another {name} ({then}, now {now}): name another "
                        "--out, or replace this step with --overwrite"
                    )
                if path not in plan or file.part.provenance.get("digest") != self.record["digest"]:
                    raise InputError(
                        f"{self.out} step {number} was made of other rows, or these have changed since: replace it "
                        "with --overwrite, or name another --out"
                    )
                verify_part(file)
                del plan[path]
            except DamagedError as error:
                log(f"{first_line(error).split(': re-run')[0]}; making it again")
        return list(plan.values())

    def write(self, part_range: PartRange, groups: Iterable[RowGroup], progress: Callable[[int], object]) -> None:
        """Write and publish one part, of whose rows each group is a row group."""
        writer = PartWriter(part_path(self.out, self.run.step, part_range.index), self.run, self.columns)
        try:
            digest, clipped = ManifestDigest(), 0
            for rows, raised in groups:
                writer.write(rows)
                digest.add_rows(rows)
                clipped += raised
                progress(len(rows))
            files = [file.part for step in self.made_from for file in step.parts]
            writer.publish(
                Part(
                    part_range.start,
                    part_range.stop,
                    digest.hexdigest(),
                    self.rows,
                    "",
                    started=max(part.finished for part in files),
                    finished=max(part.finished for part in files),
                    provenance=self.record,
                    clipped=clipped,
                )
            )
        finally:
            writer.abandon()


def source_facts(inputs: Sequence[NamedStep]) -> dict[str, Any]:
    """Return what the provenance of a part says of the steps it is made of, and the warnings of these."""
    facts: dict[str, Any] = {
        f"source_{number}": {
            "run": one.name,
            "step": one.step.step,
            "rows": one.step.rows,
            "model": one.step.run.model,
            "weights": one.step.run.weights,
            "transform": dict(one.step.run.transform),
        }
        for number, one in enumerate(inputs, 1)
    }
    warnings = [
        f"{one.name}: {warning}" for one in inputs for warning in one.step.parts[0].part.provenance.get("warnings", ())
    ]
    return facts | ({"warnings": warnings} if warnings else {})


def check_out(out: AnyPath | None, folders: Sequence[AnyPath], steps: Mapping[int, Run]) -> AnyPath:
    """Return where a new run goes.

    Raises InputError if that is not given, is one of the runs it is made of, or has steps with other classes.
    """
    if out is None:
        raise InputError("where to? For example: --out predictions/new")
    for folder in folders:
        if is_same(out, folder):
            raise InputError(f"--out {out} is one of the runs: name another folder")
    classes = next(iter(steps.values())).classes
    for number in list_step_numbers(out):
        on_disk = None if number in steps else open_step(out, number, lambda *_: None)
        if on_disk is not None and on_disk.run.classes != classes:
            raise InputError(f"{out} has step {number} with other classes: name another --out")
    return out


def count_rows(out: AnyPath, number: int) -> RowCount:
    """Count what is on disk of a step."""
    count = RowCount()
    step = open_step(out, number)
    for file in step.parts if step else ():
        for batch in read_batches(file, ("label", "predicted")):
            count = count.add_batch(batch)
    return count
