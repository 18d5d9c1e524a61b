"""What a folder of predictions holds, and whether it is whole: counts, sizes, timings, damage. Knows no drawing."""

from dataclasses import dataclass
from typing import Any

from predboard.errors import DamagedError, InputError
from predboard.formatting import plural
from predboard.predictions.schema import Part
from predboard.predictions.table import Predictions, RowCount
from predboard.storage import timing
from predboard.storage.parts import PartFile, read_batches, verify_part
from predboard.storage.paths import AnyPath, map_files
from predboard.storage.runs import Step, list_part_paths, missing_ranges, open_run


@dataclass(frozen=True)
class Inspection:
    """What was found; `facts` is made of JSON's types."""

    facts: dict[str, Any]

    @property
    def whole(self) -> bool:
        """No part is damaged and no row is missing."""
        return not self.facts["damaged"] and not any(step["missing_rows"] for step in self.facts["steps"])

    def lines(self) -> list[str]:
        """For a person."""
        f = self.facts
        names = ", ".join(f["classes"][:8]) + ("…" if len(f["classes"]) > 8 else "")
        found = [
            f"{f['run']}: {f['model']}, {plural(len(f['classes']), 'class', 'classes')} ({names})",
            f"data {f['data']}",
            f"{plural(f['files'], 'part')}, {f['bytes'] / 1e6:,.1f} MB",
            "",
            "    step         rows    missing   failed   no label  accuracy   rows/s  checkpoint",
        ]
        for s in f["steps"]:
            accuracy = "–" if s["accuracy"] is None else f"{s['accuracy']:.4f}"
            rate = "–" if not s["rows_per_second"] else f"{s['rows_per_second']:,.0f}"
            found.append(
                f"{s['step']:>8}  {s['rows']:>11,}  {s['missing_rows']:>9,}  {s['failed']:>7,}  {s['unlabelled']:>9,}  "
                f"{accuracy:>8}  {rate:>7}  {s['checkpoint']}"
            )
        busy: dict[str, float] = {}
        for s in f["steps"]:
            busy = timing.add_seconds(busy, s["seconds"])
        if any(busy.values()):
            kinds = [name for name in (*timing.BUSY_KINDS, *timing.WAITING_KINDS) if name in busy]
            found.append("seconds: " + ", ".join(f"{name} {busy[name]:,.1f}" for name in kinds))
        if told := timing.describe_seconds(busy, f["steps"][-1]["threads"]):
            rate = f"{f['rows_per_second']:,.0f} rows/s, all steps together: " if f["rows_per_second"] else ""
            found.append(f"{rate}{told}")
        for s in f["steps"]:
            found += [f"step {s['step']} lacks rows {a:,} to {b - 1:,}" for a, b in s["missing"]]
            if s["clipped"]:
                found.append(f"step {s['step']}: {s['clipped']:,} probabilities below 1.2e-38 were raised to it")
        found += [f"damaged: {message}" for message in f["damaged"].values()]
        return found


def inspect(run: AnyPath) -> Inspection:
    """Read all of a run and count. Raises InputError if the folder holds no predictions; damage is a finding."""
    damaged: dict[str, str] = {}

    def note(path: AnyPath, error: DamagedError) -> None:
        damaged[f"{path.parent.name}/{path.name}"] = str(error)

    try:
        steps = open_run(run, note)
    except InputError:
        if not damaged:
            raise
        raise InputError(f"{run} holds only damaged parts: {next(iter(damaged.values()))}") from None
    found = [_step(step, note) for step in steps]
    last = steps[-1].run
    paths = [path for step in steps for path in list_part_paths(run, step.step)]
    return Inspection(
        {
            "run": run.resolve().name,
            "format": last.format,
            "model": last.model,
            "model_args": dict(last.model_args),
            "classes": list(last.classes),
            "root": last.root,
            "data": last.origin,
            "transform": dict(last.transform),
            "precision": last.precision,
            "scores": last.scores,
            "files": len(paths),
            "bytes": sum(path.stat().st_size for path in paths),
            "rows_per_second": _rate([file.part for step in steps for file in step.parts]),
            "steps": found,
            "damaged": damaged,
        }
    )


def _rate(parts: list[Part]) -> float | None:
    """Rows of all steps a second, of the time in which any part was being made: several may be at once."""
    took = until = 0.0
    for part in sorted(parts, key=lambda part: part.started):
        took += max(part.finished - max(part.started, until), 0.0)
        until = max(until, part.finished)
    return round(sum(part.stop - part.start for part in parts) / took, 1) if took > 0 else None


def _looked_at(file: PartFile) -> list[Predictions] | DamagedError:
    """Labels and predictions of a part, all of which is verified; or what is wrong with it."""
    try:
        verify_part(file)
    except DamagedError as error:
        return error
    return list(read_batches(file, ("label", "predicted")))


def _step(step: Step, note: Any) -> dict[str, Any]:
    count = RowCount()
    seconds: dict[str, float] = {}
    took = 0.0
    good = []
    for file, batches in zip(step.parts, map_files(_looked_at, step.parts, step.parts[0].path), strict=True):
        if isinstance(batches, DamagedError):
            note(file.path, batches)
            continue
        good.append(file)
        for batch in batches:
            count = count.add_batch(batch)
        took += file.part.finished - file.part.started
        seconds = {name: round(value, 3) for name, value in timing.add_seconds(seconds, file.part.seconds).items()}
    part = step.parts[0].part
    return {
        "step": step.step,
        "rows": count.rows,
        "manifest_rows": step.manifest_rows,
        "missing_rows": step.manifest_rows - count.rows,
        "missing": [list(gap) for gap in missing_ranges(good, step.manifest_rows)],
        "failed": count.failed,
        "unlabelled": count.unlabelled,
        "accuracy": count.accuracy,
        "clipped": sum(file.part.clipped for file in good),
        "parts": len(step.parts),
        "weights": step.run.weights,
        "checkpoint": part.provenance.get("checkpoint", ""),
        "device": part.provenance.get("device", ""),
        "threads": part.provenance.get("threads", 0),
        "seconds": seconds,
        "rows_per_second": round(count.rows / took, 1) if took > 0 else None,
    }
