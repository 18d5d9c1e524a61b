"""Lists, opens and reads runs, which are folders of steps, which are folders of parts. It knows no metrics.

    predictions/<run>/step=00000012/part-00000.parquet

The names of all other files and folders start with `.` or `_`, so that pandas, DuckDB, Polars and Spark can open the
run folder as it is.
"""

import ctypes
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from predboard.errors import DamagedError, InputError, reading
from predboard.formatting import did_you_mean, plural
from predboard.near_paths import did_you_mean_path
from predboard.predictions.arrow import as_arrow
from predboard.predictions.digests import digest_list
from predboard.predictions.schema import (
    ALL_MANIFEST_COLUMNS,
    GROUP_PREFIX,
    IMAGE_PROPERTIES,
    Run,
    digest_records,
    reserved_columns,
)
from predboard.storage import paths
from predboard.storage.locks import is_being_written
from predboard.storage.parts import (
    PartFile,
    explain_read_error,
    open_parquet,
    open_part,
    read_batches,
    read_part_schema,
)
from predboard.storage.paths import AnyPath, P, explain_write_errors, is_remote, map_files


@dataclass(frozen=True)
class Step:
    """All parts of one step, sorted by their rows."""

    step: int
    run: Run
    parts: tuple[PartFile, ...]

    @property
    def rows(self) -> int:
        """Number of rows in all parts."""
        return sum(p.rows for p in self.parts)

    @property
    def manifest_rows(self) -> int:
        """Number of rows that a complete step has, as far as any part knows."""
        return max(p.manifest_rows for p in self.parts)

    @property
    def digest(self) -> str:
        """Digest of what the parts hold: equal for the same images, labels and predictions in the same parts."""
        names = ("start", "stop", "manifest_digest", "content_digest")
        return digest_records(*({name: getattr(p.part, name) for name in names} for p in self.parts))

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """Ranges of manifest rows that no part holds."""
        return missing_ranges(self.parts, self.manifest_rows)

    @property
    def finished(self) -> float:
        """End of inference of the newest part, seconds since 1970."""
        return max(p.part.finished for p in self.parts)


def missing_ranges(parts: Iterable[PartFile], rows: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of rows 0 to `rows` that no part holds; the parts must be sorted by their rows."""
    missing, at = [], 0
    for p in parts:
        if p.part.start > at:
            missing.append((at, p.part.start))
        at = max(at, p.part.stop)
    return (*missing, (at, rows)) if at < rows else tuple(missing)


def step_folder(run: P, step: int) -> P:
    """Return the folder of one step."""
    return cast(P, run / f"step={step:08d}")


def part_path(run: P, step: int, index: int) -> P:
    """Return the file of one part."""
    return cast(P, step_folder(run, step) / f"part-{index:05d}.parquet")


def preflight_path(run: P, step: int, suffix: str) -> P:
    """Return the file with the results of a step's preflight, `.json`, or with the images it used, `.png`."""
    return cast(P, run / "_preflight" / f"{step_folder(run, step).name}{suffix}")


def list_step_numbers(run: AnyPath) -> list[int]:
    """Return the steps that have a folder with at least one part, ascending.

    Raises InputError for a folder with parts whose name is not that of a step: it would be left out, or be another of
    the same step.
    """
    numbers = []
    for folder in paths.list_folder(run, "step=*"):
        if not paths.list_folder(folder, "part-*.parquet"):
            continue
        text = folder.name.removeprefix("step=")
        if not re.fullmatch("[0-9]{1,19}", text) or step_folder(run, int(text)).name != folder.name:
            raise InputError(
                f"{folder} is not named as a step: expected its number in eight digits, as in step=00000012; rename "
                "it, or move it away"
            )
        numbers.append(int(text))
    return sorted(numbers)


def list_empty_steps(run: AnyPath) -> list[int]:
    """Return the steps whose folder holds no part and that no process is making, ascending.

    Object storage has no empty folders. A step that is being made has unfinished parts, or its run is locked.
    """
    if is_remote(run):
        return []
    names = [
        folder.name
        for folder in paths.list_folder(run, "step=*")
        if folder.is_dir() and not any(paths.list_folder(folder, f"{hidden}part-*") for hidden in ("", "."))
    ]
    texts = [name.removeprefix("step=") for name in names if re.fullmatch("step=[0-9]{1,19}", name)]
    numbers = sorted(int(text) for text in texts if step_folder(run, int(text)).name == f"step={text}")
    return numbers if numbers and not is_being_written(run) else []


def explain_empty_steps(run: AnyPath, steps: Sequence[int]) -> str:
    """Return what is wrong with steps without a part, and what to do; nothing if there are none."""
    if not steps:
        return ""
    names = ", ".join(step_folder(run, step).name for step in steps[:3]) + ("…" if len(steps) > 3 else "")
    one = len(steps) == 1
    return (
        f"{run}: {names} {'holds' if one else 'hold'} no part, so {'this step is' if one else 'these steps are'} left "
        f"out: run the command that wrote {'it' if one else 'them'} again, or delete the folder{'' if one else 's'}"
    )


def list_part_paths(run: P, step: int) -> list[P]:
    """Return the part files of one step, sorted by number."""
    return sorted(paths.list_folder(step_folder(run, step), "part-*.parquet"), key=lambda p: (len(p.name), p.name))


def open_step(run: AnyPath, step: int, on_damage: Callable[[AnyPath, DamagedError], None] | None = None) -> Step | None:
    """Open all parts of one step; None if there are none.

    A damaged part raises DamagedError, or is passed to `on_damage` and left out. Parts of another step, of different
    runs, or with rows in common, always raise InputError.
    """

    def open_or_error(path: AnyPath) -> PartFile | DamagedError:
        try:
            return open_part(path)
        except DamagedError as error:
            return error

    files = []
    part_paths = list_part_paths(run, step)
    for path, file in zip(part_paths, map_files(open_or_error, part_paths, run), strict=True):
        if isinstance(file, PartFile):
            files.append(file)
        elif on_damage is None:
            raise file
        else:
            on_damage(path, file)
    files.sort(key=lambda f: f.part.start)
    if misplaced := next((f for f in files if f.run.step != step), None):
        raise InputError(
            f"{misplaced.path} is of step {misplaced.run.step}, as its footer says: move its folder, which is named as "
            f"that of step {step}, to {step_folder(run, misplaced.run.step).name}"
        )
    for a, b in itertools.pairwise(files):
        if difference := a.run.difference(b.run):
            name, one, other = difference
            raise InputError(f"{run} mixes two runs: {name} is {one} in {a.name} and {other} in {b.name}")
        if b.part.start < a.part.stop:
            raise InputError(f"{run} contains rows twice: {a.name} and {b.name} both have row {b.part.start}")
    manifest_rows = max((f.manifest_rows for f in files), default=0)
    parts = tuple(replace(f, manifest_rows=manifest_rows) for f in files)
    return Step(step, files[0].run, parts) if files else None


def refuse_mixed_lists(step: Step) -> None:
    """Raise InputError if the parts of a step are of different lists of images, or of one in different orders.

    Each part records the digest of the whole list when it was made. A list that grew or was updated is that of the
    newest parts, so one of the records must be the digest of all parts. Nothing is compared where rows are missing, or
    where a part has no record, as of earlier versions and other programs.
    """
    records = [file.part.provenance.get("list_digest") for file in step.parts]
    if step.missing or None in records:
        return
    if digest_list(file.part.manifest_digest for file in step.parts) in records:
        return
    usual = Counter(map(str, records)).most_common(1)[0][0]
    others = [file.name for file, record in zip(step.parts, records, strict=True) if record != usual]
    which = f"; {others[0]} is not of the list of most others" if others else ""
    raise InputError(
        f"{step.parts[0].path.parent} holds parts of different lists of images, or of one list in different orders, so "
        f"that images are missing or counted twice{which}: delete parts that do not belong there, and re-run the "
        "command that wrote the others"
    )


def open_run(run: AnyPath, on_damage: Callable[[AnyPath, DamagedError], None] | None = None) -> tuple[Step, ...]:
    """Open all steps of a run, ascending.

    Raises InputError if the folder does not exist, contains no predictions, or mixes runs.
    """
    with reading(run):
        is_folder = run.is_dir()
    if not is_folder:
        what = f"{run} is a file" if run.is_file() else f"no folder {run}"
        places = run, run.parent / "predictions" / run.name
        near = next(filter(None, (did_you_mean_path(place, _holds_run) for place in places)), "")
        raise InputError(f"{what}: expected a folder of predictions that `predboard infer` wrote{near}")
    steps = [s for number in list_step_numbers(run) if (s := open_step(run, number, on_damage)) is not None]
    if not steps:
        raise InputError(_explain_no_predictions(run))
    for step in steps:
        refuse_mixed_lists(step)
    for step in steps[1:]:
        if step.run.task != steps[0].run.task:
            raise InputError(
                f"{run} mixes tasks: step {step.step} is {step.run.task}, step {steps[0].step} {steps[0].run.task}; "
                "keep each in a run of its own"
            )
        if step.run.classes != steps[0].run.classes:
            raise InputError(
                f"{run} mixes class lists: step {step.step} and step {steps[0].step} have different classes"
            )
    return tuple(steps)


def distinct_names(folders: Sequence[AnyPath]) -> list[str]:
    """Return names of the runs: those of their folders, with the folders above where two have the same name."""
    resolved = [folder.resolve() for folder in folders]
    names = [folder.name for folder in resolved]
    for depth in range(2, 1 + max(len(folder.parts) for folder in resolved)):
        twice = {
            n for i, n in enumerate(names) if any(n == m and resolved[i] != resolved[j] for j, m in enumerate(names))
        }
        if not twice:
            break
        names = [
            " ".join(f.parts[-depth:]).strip("/ ") if n in twice else n for n, f in zip(names, resolved, strict=True)
        ]
    return names


def _holds_run(path: Path) -> bool:
    return path.is_dir() and bool(list_step_numbers(path))


def _explain_no_predictions(folder: AnyPath) -> str:
    children: Iterable[AnyPath] = folder.iterdir()
    if runs := sorted((path for path in children if path.is_dir() and list_step_numbers(path)), key=str):
        return f"{folder} contains {plural(len(runs), 'run')}; name one, for example {runs[0]}"
    if folder.name.startswith("step="):
        return f"{folder} is one step of a run; name the run, {folder.parent}"
    near = did_you_mean_path(folder.parent / "predictions" / folder.name, _holds_run)
    return f"{folder} contains no predictions (no step=*/part-*.parquet): run `predboard infer` first{near}"


def list_manifest_columns(step: Step) -> list[str]:
    """Return the names of the columns that the manifest of a step adds to the contract's."""
    names, reserved = read_part_schema(step.parts[0]).names, reserved_columns(step.run.task)
    return [name for name in names if name not in reserved and not name.startswith(GROUP_PREFIX)]


def list_numeric_columns(step: Step) -> list[str]:
    """Return the names of the columns of numbers that the manifest of a step adds, and of those of its images."""
    schema, further = read_part_schema(step.parts[0]), list_manifest_columns(step)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return [name for name in (*further, *IMAGE_PROPERTIES) if any(kind(schema.field(name).type) for kind in kinds)]


def read_values(step: Step, ids: Iterable[int], column: str) -> dict[int, Any]:
    """Read one column of a few rows by id, from only those row groups that contain them."""
    wanted = np.unique(np.fromiter(ids, np.int64))
    values: dict[int, Any] = {}
    for file in step.parts:
        inside = wanted[(wanted >= file.part.start) & (wanted < file.part.stop)] - file.part.start
        if not len(inside):
            continue
        try:
            with open_parquet(file.path, whole=False) as parquet:
                if column not in parquet.schema_arrow.names:
                    continue
                first = 0
                for group in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(group).num_rows
                    chosen = inside[(inside >= first) & (inside < first + rows)]
                    if len(chosen):
                        chunk = parquet.read_row_group(group, [column]).column(0)
                        taken = chunk.take(as_arrow(chosen - first, pa.int64())).to_pylist()
                        values.update(zip((chosen + file.part.start).tolist(), taken, strict=True))
                    first += rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise explain_read_error(file.path, file.name, error) from error
    return values


def delete_part(path: AnyPath) -> None:
    """Delete a part file."""
    paths.refuse_link(path.parent)
    with explain_write_errors(path.parent):
        path.unlink()


_OUR_FILES = re.compile(r"part-\d+\.parquet|\.part-\d+\.parquet\..*\.tmp")


def delete_step(run: AnyPath, step: int) -> None:
    """Delete all parts of a step, unfinished ones included, and the results of its preflight; files of others stay."""
    for folder in (step_folder(run, step), preflight_path(run, step, "").parent):
        paths.refuse_link(folder)
    with explain_write_errors(run):
        inside = paths.list_folder(step_folder(run, step), "*")
        ours = [path for path in inside if _OUR_FILES.fullmatch(path.name)]
        if len(ours) == len(inside):
            paths.remove_tree(step_folder(run, step))
        else:
            for path in ours:
                path.unlink(missing_ok=True)
        for suffix in (".json", ".png"):
            preflight_path(run, step, suffix).unlink(missing_ok=True)


class RunReader:
    """One step of a run, opened for reading: iterate over it for record batches, or convert it to a pandas frame."""

    def __init__(self, steps: Sequence[Step], step: int | None, columns: str | Sequence[str] | None) -> None:
        """Choose one of the steps, the last one if `step` is None."""
        by_number = {s.step: s for s in steps}
        number = steps[-1].step if step is None else step
        if number not in list(by_number):  # a list has no hash
            raise InputError(f"no step {number}; expected one of {', '.join(map(str, by_number))}")
        self.step, self.steps = by_number[number], tuple(by_number)
        self._columns = (columns,) if isinstance(columns, str) else columns
        if self._columns is not None:
            with open_parquet(self.step.parts[0].path, whole=False) as parquet:
                names = parquet.schema_arrow.names
            if unknown := sorted(set(self._columns) - {*names, ALL_MANIFEST_COLUMNS}):
                near = did_you_mean(unknown[0], names) or f"; there are {', '.join(names)}"
                raise InputError(f"no column {unknown[0]!r}{near}")

    @property
    def run(self) -> Run:
        """The run's record: classes, model, transform and everything else that determines its numbers."""
        return self.step.run

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Iterate over record batches in the order of the manifest, a bounded number of rows at a time."""
        for file in self.step.parts:
            for rows in read_batches(file, self._columns):
                yield rows.batch

    def to_pandas(self) -> Any:
        """Return all rows as a pandas frame."""
        return pa.Table.from_batches(list(self)).to_pandas()


def open_predictions(
    path: str | AnyPath, step: int | None = None, columns: str | Sequence[str] | None = None
) -> RunReader:
    """Open a run for reading.

    Args:
        path: folder that `predboard infer` wrote, or its URI.
        step: number of the step; the last one if None.
        columns: names of the columns to read; all if None.

    Raises:
        InputError: if there are no predictions, or a part is damaged.
    """
    return RunReader(open_run(paths.parse_path(path)), step, columns)


def release_memory() -> None:
    """Return unused memory to the system: after a long pass Arrow holds 100 MB of it, and glibc 70 MB."""
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
