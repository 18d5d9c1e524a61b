"""Counts what a run contains and finds what is damaged or missing. It knows nothing of TensorBoard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predboard.errors import DamagedError, InputError
from predboard.formatting import plural
from predboard.predictions.row_count import RowCount
from predboard.predictions.schema import Part
from predboard.predictions.table import Predictions
from predboard.predictions.tasks import rows_of
from predboard.storage import timing
from predboard.storage.parts import PartFile, read_batches, verify_manifest, verify_part
from predboard.storage.paths import AnyPath, map_files
from predboard.storage.runs import (
    Step,
    explain_empty_steps,
    list_empty_steps,
    list_part_paths,
    missing_ranges,
    open_run,
)

OnDamage = Callable[[AnyPath, DamagedError], None]


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`. Its `facts` have the types of JSON; `docs/format.md` describes them."""

    facts: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether no part is damaged, no row is missing, and no step is without a part."""
        missing = any(step["missing_rows"] for step in self.facts["steps"])
        return not self.facts["damaged"] and not missing and "empty_steps" not in self.facts

    def lines(self) -> list[str]:
        """Return the facts as lines of text."""
        f = self.facts
        share = next(name for name in ("accuracy", "exact") if name in f["steps"][0])
        names = ", ".join(f["classes"][:8]) + ("…" if len(f["classes"]) > 8 else "")
        lines = [
            f"{f['run']}: {f['model']}, {plural(len(f['classes']), 'class', 'classes')} ({names})",
            f"data {f['data']}",
            f"{plural(f['files'], 'part')}, {f['bytes'] / 1e6:,.1f} MB",
            "",
            f"    step         rows    missing   failed   no label  {share:<8}   rows/s  checkpoint",
        ]
        for s in f["steps"]:
            right = "–" if s[share] is None else f"{s[share]:.4f}"
            rate = "–" if not s["rows_per_second"] else f"{s['rows_per_second']:,.0f}"
            lines.append(
                f"{s['step']:>8}  {s['rows']:>11,}  {s['missing_rows']:>9,}  {s['failed']:>7,}  {s['unlabelled']:>9,}  "
                f"{right:>8}  {rate:>7}  {s['checkpoint']}"
            )
        lines += self._timing_lines()
        for s in f["steps"]:
            lines += [f"step {s['step']} lacks rows {a:,} to {b - 1:,}" for a, b in s["missing"]]
            if s["clipped"]:
                lines.append(f"step {s['step']}: {s['clipped']:,} probabilities below 1.2e-38 were raised to it")
        if empty := explain_empty_steps(Path(f["run"]), f.get("empty_steps", [])):
            lines.append(empty)
        lines += f.get("amended", [])
        return lines + [f"damaged: {message}" for message in f["damaged"].values()]

    def _timing_lines(self) -> list[str]:
        steps = self.facts["steps"]
        total: dict[str, float] = {}
        for s in steps:
            total = timing.add_seconds(total, s["seconds"])
        lines = []
        if any(total.values()):
            kinds = [name for name in (*timing.BUSY_KINDS, *timing.WAITING_KINDS) if name in total]
            lines.append("seconds: " + ", ".join(f"{name} {total[name]:,.1f}" for name in kinds))
        if description := timing.describe_seconds(total, steps[-1]["threads"]):
            rate = self.facts["rows_per_second"]
            lines.append((f"{rate:,.0f} rows/s, all steps together: " if rate else "") + description)
        return lines


def inspect(
    run: AnyPath, amend: Callable[[Sequence[Step]], tuple[Sequence[Step], Sequence[str]]] | None = None
) -> Inspection:
    """Read and verify a whole run.

    Args:
        run: folder of the predictions.
        amend: returns the steps with corrected labels or further columns, and what there is to say of them.

    Raises InputError if the folder contains no predictions, or only damaged ones; other damage is part of the result.
    """
    damaged: dict[str, str] = {}

    def note(path: AnyPath, error: DamagedError) -> None:
        damaged[f"{path.parent.name}/{path.name}"] = str(error)

    try:
        steps: Sequence[Step] = open_run(run, note)
    except InputError:
        if not damaged:
            raise
        raise InputError(f"{run} contains only damaged parts: {next(iter(damaged.values()))}") from None
    notes: Sequence[str] = ()
    if amend is not None:
        steps, notes = amend(steps)
    step_facts = [_inspect_step(step, note) for step in steps]
    last = steps[-1].run
    empty = list_empty_steps(run)
    part_paths = [path for step in steps for path in list_part_paths(run, step.step)]
    return Inspection(
        {
            "run": run.resolve().name,
            "format": last.format,
            "task": last.task,
            "model": last.model,
            "model_args": dict(last.model_args),
            "classes": list(last.classes),
            "root": last.root,
            "data": last.origin,
            "transform": dict(last.transform),
            "precision": last.precision,
            "scores": last.scores,
            "files": len(part_paths),
            "bytes": sum(path.stat().st_size for path in part_paths),
            "rows_per_second": _rows_per_second([file.part for step in steps for file in step.parts]),
            "steps": step_facts,
            "damaged": damaged,
            **({"empty_steps": empty} if empty else {}),
            **({"amended": list(notes)} if notes else {}),
        }
    )


def _rows_per_second(parts: list[Part]) -> float | None:
    """Return rows of all steps per second of the time in which any part was being made; several may be at once."""
    busy = until = 0.0
    for part in sorted(parts, key=lambda part: part.started):
        busy += max(part.finished - max(part.started, until), 0.0)
        until = max(until, part.finished)
    return round(sum(part.stop - part.start for part in parts) / busy, 1) if busy > 0 else None


def _read_verified(file: PartFile) -> list[Predictions] | DamagedError:
    """Verify a whole part and return its labels and predictions, or the error if it is damaged."""
    try:
        verify_part(file)
        verify_manifest(file)
    except DamagedError as error:
        return error
    return list(read_batches(file, ("label", "predicted")))


def _inspect_step(step: Step, on_damage: OnDamage) -> dict[str, Any]:
    count = RowCount(right_share=rows_of(step.run).predictions.right_share)
    seconds: dict[str, float] = {}
    duration = 0.0
    intact = []
    for file, batches in zip(step.parts, map_files(_read_verified, step.parts, step.parts[0].path), strict=True):
        if isinstance(batches, DamagedError):
            on_damage(file.path, batches)
            continue
        intact.append(file)
        for batch in batches:
            count = count.add_batch(batch)
        duration += file.part.finished - file.part.started
        seconds = {name: round(value, 3) for name, value in timing.add_seconds(seconds, file.part.seconds).items()}
    part = step.parts[0].part
    return {
        "step": step.step,
        "rows": count.rows,
        "manifest_rows": step.manifest_rows,
        "missing_rows": step.manifest_rows - count.rows,
        "missing": [list(range_) for range_ in missing_ranges(intact, step.manifest_rows)],
        "failed": count.failed,
        "unlabelled": count.unlabelled,
        count.right_share: count.accuracy,
        "clipped": sum(file.part.clipped for file in intact),
        "parts": len(step.parts),
        "weights": step.run.weights,
        "checkpoint": part.provenance.get("checkpoint", ""),
        "device": part.provenance.get("device", ""),
        "threads": part.provenance.get("threads", 0),
        "seconds": seconds,
        "rows_per_second": round(count.rows / duration, 1) if duration > 0 else None,
    }
